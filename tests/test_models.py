"""Parity of the model families with torch_brain: golden arrays, and fresh models where installed.

Tolerances are those of tests/fixtures/README.md. The golden arrays of a padded batch cover the
padded queries too; the engine does not return those, so they are reached through the layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import CalciumBatch, Capture, Engine, SpikeBatch, executors, models
from attendrite.batches import NO_TASK
from attendrite.bundle import Bundle, Manifest
from attendrite.kernels.attention import _problem
from attendrite.kernels.attention._problem import Problem
from attendrite.kernels.tokenize_poyo import Tokens
from attendrite.models import _perceiver
from attendrite.models._perceiver_layers import Perceiver
from attendrite.models._site import Keys, Queries
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
OUTPUT, OUTPUT_F64, ATTENTION = 5e-6, 1e-11, 2e-6
# Those that can be held to float64; the others have tests of their own.
EXECUTORS = [
    name
    for name, reason in executors.refusals(family="poyo", device="cpu", dtype="float64").items()
    if reason is None
]
SINGLE = [*EXECUTORS, "native"]  # those of float32
Golden = Mapping[str, NDArray[Any]]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def golden() -> Golden:
    with np.load(FIXTURES / "poyo_tiny" / "poyo_tiny_golden.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def golden_plus() -> Golden:
    with np.load(FIXTURES / "poyo_plus_tiny" / "poyo_plus_tiny_golden.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    sources = {
        "poyo": "poyo_tiny/poyo_tiny_lightning.ckpt",
        "poyo_plus": "poyo_plus_tiny/plus_tiny_lightning.ckpt",
        "calcium_poyo_plus": "poyo_plus_tiny/calcium_tiny_lightning.ckpt",
    }
    return {
        name: attendrite.export(FIXTURES / source, folder / name)
        for name, source in sources.items()
    }


def spike_batch(g: Golden, prefix: str, ids: list[str], **queries: Any) -> SpikeBatch:
    """The user's form of a golden batch: spikes, units present, queries."""
    real, kind = g[f"{prefix}input_mask"], g[f"{prefix}input_token_type"]
    unit = g[f"{prefix}input_unit_index"] - 1  # rows follow the units here, row 0 is padding
    spikes = real & (kind == 0)
    present = np.zeros((len(real), len(ids)), dtype=bool)
    for b in range(len(real)):
        present[b, unit[b, real[b] & (kind[b] == 1)]] = True
    window, token = np.nonzero(spikes)
    return SpikeBatch(
        times=g[f"{prefix}input_timestamps"][window, token],
        units=unit[window, token],
        window=window,
        unit_ids=np.array(ids),
        window_units=present,
        **queries,
    )


def poyo_batch(g: Golden, prefix: str = "in.", windows: int = 3) -> SpikeBatch:
    ids = [f"sess_a/unit_{i:04d}" for i in range(24)]
    queries = g["in.output_timestamps"][:windows]
    return spike_batch(g, prefix, ids, session=np.full(windows, "sess_a"), query_times=queries)


class TestPoyo:
    @pytest.mark.parametrize("executor", SINGLE)
    def test_output(self, golden: Golden, bundles: dict[str, Path], executor: str) -> None:
        for dtype, key, tolerance in (
            ("float32", "output", OUTPUT),
            ("float64", "output_f64", OUTPUT_F64),
        )[: 2 if executor in EXECUTORS else 1]:
            engine = Engine(bundles["poyo"], executor=executor, dtype=dtype)
            found = engine.run(poyo_batch(golden)).prediction
            assert found.dtype == dtype
            assert np.abs(found - golden[key]).max() < tolerance

    @pytest.mark.parametrize(
        ("executor", "dtype"),
        [*((name, "float64") for name in EXECUTORS), *((name, "float32") for name in SINGLE)],
    )
    def test_attention(
        self, golden: Golden, bundles: dict[str, Path], executor: str, dtype: str
    ) -> None:
        engine = Engine(bundles["poyo"], executor=executor, dtype=dtype)
        capture = Capture({"*": ["weights", "per_key", "entropy", "lse"], "encoder": "per_unit"})
        record = engine.run(poyo_batch(golden), capture).attention
        assert record is not None
        names = {
            "encoder": "enc_atn",
            **{f"processor.{i}": f"proc_layers.{i}.0" for i in range(3)},
            "decoder": "dec_atn",
        }
        for site, name in names.items():
            exact = golden[f"attn.{name}"]
            assert np.abs(self.cut(record[site, "weights"], exact)).max() < ATTENTION
            per_key = exact.astype(np.float64).sum(2)
            n_queries = exact.shape[2]
            assert np.abs(self.cut(record[site, "per_key"], per_key)).max() < n_queries * ATTENTION
            wide = exact.astype(np.float64)
            entropy = -np.where(wide > 0, wide * np.log(np.where(wide > 0, wide, 1)), 0).sum(-1)
            assert np.abs(record[site, "entropy"] - entropy).max() < 1e-5
            # lse from the layer's own scores is checked in TestLayers.test_lse
        if dtype == "float64":
            for site, name in (("encoder", "enc_atn"), ("decoder", "dec_atn")):
                exact = golden[f"attn64.{name}"]
                assert np.abs(self.cut(record[site, "weights"], exact)).max() < 1e-10

    @staticmethod
    def cut(found: NDArray[Any], exact: NDArray[Any]) -> NDArray[Any]:
        """Difference where keys are; beyond the longest window the golden arrays must be 0."""
        n = found.shape[-1]
        assert (exact[..., n:] == 0).all()
        difference: NDArray[Any] = found - exact[..., :n]
        return difference

    @pytest.mark.parametrize("executor", SINGLE)
    def test_attention_per_unit(
        self, golden: Golden, bundles: dict[str, Path], executor: str
    ) -> None:
        unit, kind = golden["in.input_unit_index"] - 1, golden["in.input_token_type"]
        engine = Engine(bundles["poyo"], executor=executor)
        for tokens in ("all", "spikes"):
            counts = golden["in.input_mask"] & ((kind == 0) | (tokens == "all"))
            member = (unit[..., None] == np.arange(24)) & counts[..., None]  # [B, K, U]
            exact = np.einsum("bhqk,bku->bhqu", golden["attn64.enc_atn"], member.astype(float))
            capture = Capture({"encoder": [f"per_query_unit:{tokens}", f"per_unit:{tokens}"]})
            record = engine.run(poyo_batch(golden), capture).attention
            assert record is not None
            found = record["encoder", "per_query_unit"]
            assert np.abs(found - exact).max() < 20 * ATTENTION
            sums = record["encoder", "per_unit"]
            assert np.abs(sums - exact.sum(2)).max() < 64 * 20 * ATTENTION
        assert record.unit_ids[3] == "sess_a/unit_0003"

    @pytest.mark.parametrize("executor", SINGLE)
    def test_tokens_are_those_of_torch_brain_in_its_order(
        self, golden: Golden, bundles: dict[str, Path], executor: str
    ) -> None:
        engine = Engine(bundles["poyo"], executor=executor)
        record = engine.run(poyo_batch(golden), Capture({"encoder": "lse"})).attention
        assert record is not None
        tokens = record.tokens["encoder"]
        np.testing.assert_array_equal(tokens.lengths, golden["in.input_mask"].sum(1))
        n = tokens.unit.shape[1]
        real = golden["in.input_mask"][:, :n]
        np.testing.assert_array_equal(
            tokens.unit, np.where(real, golden["in.input_unit_index"][:, :n] - 1, 0)
        )
        np.testing.assert_array_equal(tokens.type, golden["in.input_token_type"][:, :n])
        np.testing.assert_array_equal(tokens.time, golden["in.input_timestamps"][:, :n])

    @pytest.mark.parametrize("executor", SINGLE)
    def test_removing_units(self, golden: Golden, bundles: dict[str, Path], executor: str) -> None:
        """``remove``: through ``window_units``, and as the golden tokens have it."""
        engine = Engine(bundles["poyo"], executor=executor)
        one = poyo_batch(golden).part(0, 1)
        present = np.ones((1, 24), dtype=bool)
        present[0, golden["ablate_unit_rows"]] = False
        for batch in (
            replace(one, window_units=present),
            poyo_batch(golden, "in_ablate.", 1),
        ):
            found = engine.run(batch).prediction
            assert np.abs(found - golden["ablate_units_output"]).max() < OUTPUT

    @pytest.mark.parametrize("executor", SINGLE)
    def test_silencing_units(self, golden: Golden, bundles: dict[str, Path], executor: str) -> None:
        """``silence``: the spikes vanish, START and END stay; another result than removing."""
        one = poyo_batch(golden).part(0, 1)
        kept = ~np.isin(one.units, golden["ablate_unit_rows"])
        batch = replace(one, times=one.times[kept], units=one.units[kept], window=one.window[kept])
        found = Engine(bundles["poyo"], executor=executor).run(batch).prediction
        assert np.abs(found - golden["ablate_spikes_only_output"]).max() < OUTPUT
        assert np.abs(found - golden["ablate_units_output"]).max() > 1e-3

    def test_float32_times_would_fail(self, golden: Golden, bundles: dict[str, Path]) -> None:
        """The error that float64 times avoid is seen, and is that of the golden array."""
        batch = poyo_batch(golden)
        engine = Engine(bundles["poyo"], executor="torch")
        model = engine.model
        model.layers = Float32Times(model.layers.config, model.layers.weights, model.layers.omega)
        rounded = engine.run(batch).prediction
        assert np.abs(rounded - golden["output"]).max() > 100 * OUTPUT
        assert np.abs(rounded - golden["output_f32_timestamps"]).max() < 20 * OUTPUT

    def test_omega_comes_from_the_file(self, golden: Golden, bundles: dict[str, Path]) -> None:
        """Recomputed with the formula of the other version, parity is lost."""
        bundle = Bundle.load(bundles["poyo"])
        omega = bundle.weights["rotary_emb.omega"].clone()
        i = torch.arange(4)
        omega[:4] = 2 * torch.pi / (1e-4 * (4.0 / 1e-4) ** (i / 4))  # exclusive, as in v0.1.0
        other = Bundle(bundle.manifest, {**bundle.weights, "rotary_emb.omega": omega})
        found = Engine(other).run(poyo_batch(golden)).prediction
        assert np.abs(found - golden["output"]).max() > 0.01


class Float32Times(Perceiver):
    """The planted fault: phases of float32 times."""

    def phase(self, times: torch.Tensor) -> torch.Tensor:
        angle = times.float()[..., None] * self.omega.float()
        return torch.stack((angle.cos(), angle.sin()), 2)


def layers_of(bundle: Path, dtype: torch.dtype = torch.float64) -> tuple[Perceiver, Manifest]:
    loaded = Bundle.load(bundle)
    weights = {name: t.to(dtype) for name, t in loaded.weights.items()}
    return models.load(loaded.manifest.family)(loaded.manifest, weights).layers, loaded.manifest


def plain_attend(captured: dict[str, Any] | None = None) -> Any:
    def attend(
        site: str,
        q: Any,
        k: Any,
        v: Any,
        *,
        keys: Keys,
        queries: Queries,
        rotate_values: bool,
        **_: Any,
    ) -> Any:
        def turn(x: torch.Tensor, phase: Any, sign: int = 1) -> torch.Tensor:
            pairs = phase.shape[3]
            by = torch.complex(phase[:, None, :, 0], sign * phase[:, None, :, 1])
            z = torch.view_as_complex(x[..., : 2 * pairs].unflatten(-1, (-1, 2)).contiguous())
            return torch.cat((torch.view_as_real(z * by).flatten(-2), x[..., 2 * pairs :]), -1)

        q, k = turn(q, queries.phase), turn(k, keys.phase)
        v = turn(v, keys.phase) if rotate_values else v
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if keys.lengths is not None:
            exists = torch.arange(k.shape[2]) < keys.lengths[:, None, None, None]
            scores = scores.masked_fill(~exists, -torch.inf)
        if captured is not None:
            captured[site] = scores.softmax(-1)
        out = scores.softmax(-1) @ v
        return turn(out, queries.phase, -1) if rotate_values else out

    return attend


class TestLayers:
    """Every sub-module against its golden output, chained as torch_brain chains them."""

    def test_latents(self, golden: Golden, golden_plus: Golden, bundles: dict[str, Path]) -> None:
        for family, g, prefix in (
            ("poyo", golden, "in."),
            ("poyo_plus", golden_plus, "plus.in."),
            ("calcium_poyo_plus", golden_plus, "calcium.in."),
        ):
            layers, _ = layers_of(bundles[family])
            exact = g[f"{prefix}latent_timestamps"][0]
            np.testing.assert_array_equal(layers.latent_times[0], exact)
            table = layers.weights["latent_emb.weight"]
            rows = torch.from_numpy(g[f"{prefix}latent_index"][0])
            assert torch.equal(layers.latents()[0], table[rows])

    def test_sub_modules(self, golden: Golden, bundles: dict[str, Path]) -> None:
        layers, _ = layers_of(bundles["poyo"], torch.float32)
        g = {k: torch.from_numpy(x) for k, x in golden.items()}
        attend = plain_attend()

        def agrees(found: torch.Tensor, name: str) -> torch.Tensor:
            assert np.abs(found.numpy() - golden[f"out.{name}"]).max() < OUTPUT, name
            return found

        times = g["in.latent_timestamps"]
        phase = layers.phase(times)
        key_times = g["in.input_timestamps"]
        keys = Keys(key_times, g["in.input_mask"].sum(1), phase=layers.phase(key_times))
        tokens = layers.embed("unit_emb", g["in.input_unit_index"]) + layers.embed(
            "token_type_emb", g["in.input_token_type"]
        )
        x = layers.embed("latent_emb", g["in.latent_index"])
        latents = Keys(times, phase=phase)
        tables = layers.encoder_keys(tokens)
        a = layers.cross_attention(
            "enc_atn", "encoder", x, tables, keys, Queries(times, phase=phase), attend
        )
        x = x + agrees(a, "enc_atn")
        x = x + agrees(layers.feed_forward("enc_ffn", x), "enc_ffn")
        for i in range(3):
            name = f"proc_layers.{i}"
            a = layers.self_attention(f"{name}.0", f"processor.{i}", x, latents, attend)
            x = x + agrees(a, f"{name}.0")
            x = x + agrees(layers.feed_forward(f"{name}.1", x), f"{name}.1")
        asked = layers.embed("session_emb", g["in.session_index"])[:, None].expand(-1, 20, -1)
        query_times = g["in.output_timestamps"]
        queries = Queries(query_times, phase=layers.phase(query_times))
        context = layers.cross_keys("dec_atn", x)
        a = layers.cross_attention("dec_atn", "decoder", asked, context, latents, queries, attend)
        asked = asked + agrees(a, "dec_atn")
        agrees(layers.feed_forward("dec_ffn", asked), "dec_ffn")

    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_lse(self, golden: Golden, bundles: dict[str, Path], executor: str) -> None:
        """The log-sum-exp is that of the scores: weights = exp(score - lse), by hand."""
        layers, _ = layers_of(bundles["poyo"])
        g = {k: torch.from_numpy(x) for k, x in golden.items()}
        x = layers.embed("latent_emb", g["in.latent_index"])
        tokens = layers.embed("unit_emb", g["in.input_unit_index"]) + layers.embed(
            "token_type_emb", g["in.input_token_type"]
        )
        w = layers.weights
        q = layers.norm("enc_atn.norm", x) @ w["enc_atn.to_q.weight"].T
        k = layers.norm("enc_atn.norm_context", tokens) @ w["enc_atn.to_kv.weight"][:32].T
        scores = np.full((3, 2, 64, 312), -np.inf)
        omega = w["rotary_emb.omega"].numpy()
        for h in range(2):  # rotation as complex numbers, another form than the layer's
            part = slice(16 * h, 16 * (h + 1))
            pairs = [t[..., part].reshape(3, -1, 8, 2).numpy() for t in (q, k)]
            times = [golden["in.latent_timestamps"], golden["in.input_timestamps"]]
            zq, zk = (
                (p[..., 0] + 1j * p[..., 1]) * np.exp(1j * t[..., None] * omega)
                for p, t in zip(pairs, times, strict=True)
            )
            scores[:, h] = np.einsum("bqf,bkf->bqk", zq, zk.conj()).real / 4
        scores = np.where(golden["in.input_mask"][:, None, None], scores, -np.inf)
        exact = np.logaddexp.reduce(scores, axis=3)
        engine = Engine(bundles["poyo"], executor=executor, dtype="float64")
        record = engine.run(poyo_batch(golden), Capture({"encoder": "lse"})).attention
        assert record is not None
        assert np.abs(record["encoder", "lse"] - exact).max() < 1e-10

    @pytest.mark.parametrize("site", ["encoder", "processor.1", "decoder"])
    def test_head_outputs_add_up_to_the_layer(
        self, golden: Golden, bundles: dict[str, Path], site: str
    ) -> None:
        name = {"encoder": "enc_atn", "processor.1": "proc_layers.1.0", "decoder": "dec_atn"}[site]
        engine = Engine(bundles["poyo"])
        record = engine.run(poyo_batch(golden), Capture({site: "head_output"})).attention
        assert record is not None
        bias = Bundle.load(bundles["poyo"]).weights[f"{name}.to_out.bias"].numpy()
        total = record[site, "head_output"].sum(1) + bias
        assert np.abs(total - golden[f"out.{name}"]).max() < OUTPUT

    def test_partials_rebuild_the_encoder_for_any_units(
        self, golden: Golden, bundles: dict[str, Path]
    ) -> None:
        """From one pass, what remains when units are removed; the layer's own bias added."""
        capture = Capture({"encoder": ["partials", "head_output"]})
        engine = Engine(bundles["poyo"], dtype="float64")
        one = poyo_batch(golden).part(0, 1)
        whole = engine.run(one, capture).attention
        present = np.ones((1, 24), dtype=bool)
        present[0, golden["ablate_unit_rows"]] = False
        ablated = engine.run(replace(one, window_units=present), capture).attention
        assert whole is not None
        assert ablated is not None
        lse = whole["encoder", "partials.lse"][..., present[0]]
        share = np.exp(lse - np.logaddexp.reduce(lse, axis=3)[..., None])
        parts = whole["encoder", "partials.output"][..., present[0], :]
        merged = (share[..., None] * parts).sum(3)  # [B, H, Q, D]
        weight = engine.model.layers.weights["enc_atn.to_out.weight"].numpy().reshape(32, 2, 16)
        total = np.einsum("bhqd,ohd->bhqo", merged, weight)
        assert np.abs(total - ablated["encoder", "head_output"]).max() < 1e-12

    def test_lag(self, golden: Golden, bundles: dict[str, Path]) -> None:
        record = (
            Engine(bundles["poyo"]).run(poyo_batch(golden), Capture({"*coder": "lag"})).attention
        )
        assert record is not None
        for site, weights, query, key in (
            ("encoder", "enc_atn", "in.latent_timestamps", "in.input_timestamps"),
            ("decoder", "dec_atn", "in.output_timestamps", "in.latent_timestamps"),
        ):
            lag = golden[query][:, None, :, None] - golden[key][:, None, None]
            exact = (golden[f"attn64.{weights}"] * lag).sum(3)
            assert np.abs(record[site, "lag"] - exact).max() < 1e-5


class TestFaultsAreSeen:
    """Each fault that a port of this model invites is planted, and parity is lost."""

    @pytest.fixture
    def broken(self, golden: Golden, bundles: dict[str, Path]) -> Callable[..., float]:
        def error(change: Callable[[Any], None], batch: SpikeBatch | None = None) -> float:
            engine = Engine(bundles["poyo"], executor="reference")
            change(engine.model)
            found = engine.run(poyo_batch(golden) if batch is None else batch).prediction
            return float(np.abs(found - golden["output"]).max())

        return error

    def test_nothing_broken(self, broken: Callable[..., float]) -> None:
        assert broken(lambda model: None) < OUTPUT

    def test_heads_interleaved(self, broken: Callable[..., float]) -> None:
        def shuffle(model: Any) -> None:
            weights = dict(model.layers.weights)
            for name in ("enc_atn.to_q.weight", "dec_atn.to_q.weight"):
                weights[name] = weights[name].view(2, 16, -1).transpose(0, 1).reshape(32, -1)
            model.layers = Perceiver(model.layers.config, weights, model.layers.omega)

        assert broken(shuffle) > 100 * OUTPUT

    def test_start_and_end_dropped(
        self, broken: Callable[..., float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokens = SpikeBatch.tokens

        def spikes_only(batch: SpikeBatch, length: float) -> Tokens:
            t = tokens(batch, length)
            n_markers = 2 * batch.window_units.sum(1)  # type: ignore[union-attr]
            k = np.arange(t.unit.shape[1])
            kept = np.minimum(k + n_markers[:, None], k[-1])
            cut = {n: np.take_along_axis(getattr(t, n), kept, 1) for n in ("unit", "time", "type")}
            return replace(t, lengths=t.lengths - n_markers, **cut)

        monkeypatch.setattr(SpikeBatch, "tokens", spikes_only)
        assert broken(lambda model: None) > 100 * OUTPUT

    def test_values_not_turned_back(
        self, broken: Callable[..., float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Problem, "restored", lambda problem, output: output)
        assert broken(lambda model: None) > 100 * OUTPUT

    def test_pairs_in_halves_instead_of_interleaved(
        self, broken: Callable[..., float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def halves(x: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
            n = phase.shape[-1]
            cos, sin = phase[:, None, :, 0], phase[:, None, :, 1]
            a, b = x[..., :n], x[..., n : 2 * n]
            return torch.cat((a * cos - b * sin, b * cos + a * sin, x[..., 2 * n :]), -1)

        monkeypatch.setattr(_problem, "rotate", halves)
        assert broken(lambda model: None) > 100 * OUTPUT

    def test_rows_by_order_instead_of_vocabulary(
        self, broken: Callable[..., float], golden: Golden
    ) -> None:
        batch = poyo_batch(golden)
        turned = replace(batch, unit_ids=batch.unit_ids[::-1])
        assert broken(lambda model: None, turned) > 100 * OUTPUT


def plus_queries(g: Golden, prefix: str) -> dict[str, Any]:
    tasks = np.array([NO_TASK, "cursor_velocity_2d", "cursor_position_2d", "arm_velocity_2d"])
    sessions = np.array(["NA", "s0", "s1"])
    return {
        "session": sessions[g[f"{prefix}output_session_index"][:, 0]],
        "query_times": g[f"{prefix}output_timestamps"],
        "query_task": tasks[g[f"{prefix}output_decoder_index"]],
    }


def calcium_batch(g: Golden) -> CalciumBatch:
    """The user's form of window 0: ten frames of ten units."""
    prefix = "calcium.in."
    assert g[f"{prefix}input_mask"][0].all()
    unit = g[f"{prefix}input_unit_index"][0].reshape(10, 10) - 1
    assert (unit == unit[0]).all()
    queries = {name: x[:1] for name, x in plus_queries(g, prefix).items()}
    return CalciumBatch(
        values=g[f"{prefix}input_values"][:1].reshape(1, 10, 10),
        times=g[f"{prefix}input_timestamps"][:1, ::10],
        unit_ids=[f"u{i}" for i in unit[0]],
        **queries,
    )


def calcium_inputs(g: Golden) -> _perceiver.PerceiverInputs:
    """Both windows as tensors: the second ends within a frame, which no batch can say."""
    x = {k[len("calcium.in.") :]: torch.from_numpy(v) for k, v in g.items() if "calcium.in." in k}
    tasks = x["output_decoder_index"]
    rows, units = torch.arange(1, 11), (x["input_unit_index"] - 1).clamp(min=0)
    keys = Keys(x["input_timestamps"], x["input_mask"].sum(1), units, torch.zeros_like(units), 10)
    queries = Queries(x["output_timestamps"], tasks > 0)
    values = x["input_values"][..., 0]
    return _perceiver.PerceiverInputs(keys, queries, rows, x["output_session_index"], tasks, values)


@pytest.mark.parametrize("executor", SINGLE)
@pytest.mark.parametrize("family", ["poyo_plus", "calcium_poyo_plus"])
class TestPoyoPlus:
    def test_outputs_and_attention(
        self, golden_plus: Golden, bundles: dict[str, Path], family: str, executor: str
    ) -> None:
        prefix = "plus." if family == "poyo_plus" else "calcium."
        engine = Engine(bundles[family], executor=executor)
        capture = Capture({"*": ["weights", "per_key"]})
        queries = plus_queries(golden_plus, f"{prefix}in.")
        if family == "poyo_plus":
            ids = [f"u{i}" for i in range(10)]
            batch = spike_batch(golden_plus, "plus.in.", ids, **queries)
            result = engine.run(batch, capture)
            assert result.attention is not None
            prediction, captured = result.prediction, dict(result.attention.values)
            for task, index in result.prediction_index.items():
                np.testing.assert_array_equal(index, np.argwhere(batch.query_task == task))
        else:
            inputs, plan = calcium_inputs(golden_plus), capture.plan(engine.sites)
            prediction, captured = engine._executor.run(inputs, plan)
            captured = {key: x.numpy() for key, x in captured.items()}
        tasks = {k.split("output.")[1] for k in golden_plus if k.startswith(f"{prefix}output.")}
        assert set(prediction) == tasks
        for task in tasks:
            exact = golden_plus[f"{prefix}output.{task}"]
            assert prediction[task].shape == exact.shape
            assert np.abs(np.asarray(prediction[task]) - exact).max() < OUTPUT
        asked = queries["query_task"] != NO_TASK
        for site, name in (
            ("encoder", "enc_atn"),
            ("processor.0", "proc_layers.0.0"),
            ("processor.1", "proc_layers.1.0"),
            ("decoder", "dec_atn"),
        ):
            exact = golden_plus[f"{prefix}attn.{name}"]
            if site == "decoder":  # a query that is not there attends to nothing
                exact = exact * asked[:, None, :, None]
            assert np.abs(TestPoyo.cut(captured[site, "weights"], exact)).max() < ATTENTION
            sums = np.abs(TestPoyo.cut(captured[site, "per_key"], exact.sum(2))).max()
            assert sums < exact.shape[2] * ATTENTION

    def test_one_window_of_frames(
        self, golden_plus: Golden, bundles: dict[str, Path], family: str, executor: str
    ) -> None:
        if family != "calcium_poyo_plus":
            pytest.skip("spikes have their own form")
        engine = Engine(bundles[family], executor=executor)
        result = engine.run(
            calcium_batch(golden_plus), Capture({"encoder": ["weights", "per_unit"]})
        )
        for task, values in result.prediction.items():
            exact = golden_plus[f"calcium.output.{task}"][: len(values)]
            assert np.abs(values - exact).max() < OUTPUT
        exact = golden_plus["calcium.attn.enc_atn"][:1]
        assert result.attention is not None
        assert np.abs(result.attention["encoder", "weights"] - exact).max() < ATTENTION
        by_frame = exact.reshape(1, 2, 16, 10, 10)  # queries, frames, units
        found = result.attention["encoder", "per_unit"]
        assert np.abs(found - by_frame.sum((2, 3))).max() < 160 * ATTENTION

    def test_decoded_queries_with_padding(
        self, golden_plus: Golden, bundles: dict[str, Path], family: str, executor: str
    ) -> None:
        """The golden arrays before the read-out, padded queries and all, through the layers."""
        del executor
        prefix = "plus." if family == "poyo_plus" else "calcium."
        layers, _ = layers_of(bundles[family], torch.float32)
        g = {k: torch.from_numpy(x) for k, x in golden_plus.items()}
        at = f"{prefix}in."
        tokens = layers.embed("unit_emb", g[f"{at}input_unit_index"])
        if family == "poyo_plus":
            tokens = tokens + layers.embed("token_type_emb", g[f"{at}input_token_type"])
        else:
            w = layers.weights
            value = torch.nn.functional.linear(
                g[f"{at}input_values"], w["input_value_map.weight"], w["input_value_map.bias"]
            )
            tokens = torch.cat((value, tokens), -1)
        asked = layers.embed("session_emb", g[f"{at}output_session_index"]) + layers.embed(
            "task_emb", g[f"{at}output_decoder_index"]
        )
        keys = Keys(g[f"{at}input_timestamps"], g[f"{at}input_mask"].sum(1))
        captured: dict[str, Any] = {}
        queries = Queries(g[f"{at}output_timestamps"])
        tables = layers.encoder_keys(tokens)
        keys = replace(keys, phase=layers.phase(keys.times))
        decoded = layers(tables, keys, asked, queries, plain_attend(captured))
        assert np.abs(decoded.numpy() - golden_plus[f"{prefix}output_latents"]).max() < OUTPUT
        exact = golden_plus[f"{prefix}attn.dec_atn"]
        assert np.abs(captured["decoder"].numpy() - exact).max() < ATTENTION


class TestFreshModels:
    """Models of other shapes, made here by torch_brain, in float64."""

    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_poyo(self, tmp_path: Path, executor: str) -> None:
        poyo = pytest.importorskip("torch_brain.models", reason="torch_brain").POYO
        new = "dim_out" in inspect.signature(poyo.__init__).parameters  # torch_brain >= 0.2
        torch.manual_seed(5)
        model = poyo(
            sequence_length=0.7,
            latent_step=0.2,  # does not divide: the last step reaches beyond the window
            num_latents_per_step=3,
            dim=48,
            depth=2,
            dim_head=24,
            cross_heads=3,
            self_heads=5,
            **({"dim_out": 5} if new else {"readout_spec": Namespace(dim=5)}),
        ).eval()
        units = [f"brain/other/{i}" for i in (9, 2, 5, 7, 0, 1)]
        perturb(model, units, ["brain/other", "brain/more"])
        folder = attendrite.export(model, tmp_path / "fresh")
        rng = np.random.default_rng(0)
        counts = (0, 40, 13)
        batch = SpikeBatch(
            times=np.concatenate([np.sort(rng.uniform(0, 0.7, n)) for n in counts]),
            units=rng.integers(0, 4, sum(counts)),
            window=np.repeat(np.arange(3), counts),
            unit_ids=[units[i] for i in (3, 0, 5, 1)],
            session=["brain/more", "brain/other", "brain/more"],
            query_times=rng.uniform(0, 0.7, (3, 4)),
        )
        engine = Engine(folder, executor=executor, dtype="float64")
        found = engine.run(batch).prediction
        model.double()
        for b in range(3):
            inputs = brain_inputs(model, batch.part(b, b + 1), engine.manifest)
            if new:
                inputs["session_index"] = inputs.pop("output_session_index")[:, 0]
            with torch.no_grad():
                exact = model(**inputs)
            assert np.abs(found[b] - exact[0].numpy()).max() < 1e-10

    @pytest.mark.parametrize("family", ["poyo_plus", "calcium_poyo_plus"])
    def test_models_with_tasks(self, tmp_path: Path, family: str) -> None:
        brain = pytest.importorskip("torch_brain.models", reason="torch_brain")
        kind = getattr(brain, {"poyo_plus": "POYOPlus"}.get(family, "CalciumPOYOPlus"), None)
        if kind is None:
            pytest.skip("torch_brain >= 0.2 has no models with tasks")
        from torch_brain.registry import MODALITY_REGISTRY

        names = ("cursor_velocity_2d", "drifting_gratings_orientation", "arm_velocity_2d")
        specs = {name: MODALITY_REGISTRY[name] for name in MODALITY_REGISTRY}
        torch.manual_seed(6)
        model = kind(
            sequence_length=0.9,
            latent_step=0.3,
            num_latents_per_step=2,
            readout_specs=specs,
            dim=40,
            depth=1,
            dim_head=20,
            cross_heads=3,
            self_heads=2,
        ).eval()
        perturb(model, ["a", "b", "c"], ["s", "t"])
        folder = attendrite.export(model, tmp_path / "fresh")
        manifest = Bundle.load(folder).manifest
        assert {t.name: t.kind for t in manifest.tasks}["natural_scenes"] == "multinomial"
        rng = np.random.default_rng(1)
        tasks = np.array([[names[0], names[1], names[2]], [names[1], names[1], names[0]]])
        common: dict[str, Any] = {
            "unit_ids": ["c", "a"],
            "session": ["t", "s"],
            "query_times": rng.uniform(0, 0.9, (2, 3)),
            "query_task": tasks,
        }
        batch: Any
        if family == "poyo_plus":
            times = np.concatenate([np.sort(rng.uniform(0, 0.9, 20)) for _ in range(2)])
            batch = SpikeBatch(
                times=times,
                units=rng.integers(0, 2, 40),
                window=np.repeat([0, 1], 20),
                **common,
            )
        else:
            times = np.sort(rng.uniform(0, 0.9, (2, 7)), axis=1)
            batch = CalciumBatch(values=rng.normal(size=(2, 7, 2)), times=times, **common)
        engine = Engine(folder, dtype="float64")
        found = engine.run(batch)
        model.double()
        inputs = brain_inputs(model, batch, manifest)
        with torch.no_grad():
            exact = model(**inputs)
        assert set(exact) == set(found.prediction)
        for task, values in exact.items():
            assert np.abs(found.prediction[task] - values.numpy()).max() < 1e-10


def brain_inputs(model: Any, batch: Any, manifest: Manifest) -> dict[str, torch.Tensor]:
    """Tensors for torch_brain, built by hand and in another token order than ours."""
    n_windows = len(batch.session)
    ids = {task.name: task.id for task in manifest.tasks}
    units = np.array(model.unit_emb.tokenizer(list(batch.unit_ids)))
    rows: dict[str, list[Any]] = {"unit": [], "time": [], "type": [], "value": []}
    for b in range(n_windows):
        if isinstance(batch, SpikeBatch):
            mine = batch.window == b
            n = len(units)
            length = manifest.config["sequence_length"]
            rows["unit"].append(np.r_[units[batch.units[mine]], units, units])
            rows["time"].append(np.r_[batch.times[mine], np.zeros(n), np.full(n, length)])
            rows["type"].append(np.r_[np.zeros(mine.sum()), np.full(n, 1), np.full(n, 2)])
        else:
            t, n = batch.times.shape[1], len(units)
            rows["unit"].append(np.repeat(units, t))
            rows["time"].append(np.tile(batch.times[b], n))
            rows["value"].append(batch.values[b].T.reshape(-1, 1))
    n_queries = batch.query_times.shape[1]
    sessions = [[model.session_emb.tokenizer(str(s))] * n_queries for s in batch.session]
    out = {
        "input_unit_index": torch.tensor(np.array(rows["unit"]), dtype=torch.int64),
        "input_timestamps": torch.tensor(np.array(rows["time"])),
        "output_timestamps": torch.tensor(batch.query_times),
        "output_session_index": torch.tensor(sessions),
    }
    if batch.query_task is not None:
        tasks = [[ids[str(task)] for task in row] for row in batch.query_task]
        out["output_decoder_index"] = torch.tensor(tasks)
    if rows["value"]:
        out["input_values"] = torch.tensor(np.array(rows["value"]))
    else:
        out["input_token_type"] = torch.tensor(np.array(rows["type"]), dtype=torch.int64)
    steps = np.arange(0, model.sequence_length, model.latent_step) + model.latent_step / 2
    n = model.num_latents_per_step
    out["latent_timestamps"] = torch.tensor(np.tile(np.repeat(steps, n), (n_windows, 1)))
    out["latent_index"] = torch.tensor(np.tile(np.arange(n), (n_windows, len(steps))))
    return out


class Namespace:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def perturb(model: Any, units: list[str], sessions: list[str]) -> None:
    """Give the model its vocabularies, and weights under which attention is not uniform."""
    model.unit_emb.initialize_vocab(units)
    model.session_emb.initialize_vocab(sessions)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2).add_(0.1 * torch.randn_like(p))

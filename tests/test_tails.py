"""A model run in parts: what it gives without some tokens, heads or latents, by two ways each.

Removal by merging is held to filtering and running again with the same engine; removal of heads and
latents to a forward pass written here, whose attention leaves them out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import (
    AttendriteError,
    Bundle,
    CalciumBatch,
    Capture,
    Engine,
    SpikeBatch,
    executors,
)
from attendrite.executors import _tails
from attendrite.kernels.merge_partials import Pair, merge_kept, merge_nested
from attendrite.models._site import Keys, Queries
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
TASKS = ("cursor_velocity_2d", "cursor_position_2d", "arm_velocity_2d")
SOURCES = {
    "poyo": "poyo_tiny/poyo_tiny_lightning.ckpt",
    "poyo_plus": "poyo_plus_tiny/plus_tiny_lightning.ckpt",
    "calcium_poyo_plus": "poyo_plus_tiny/calcium_tiny_lightning.ckpt",
}
SPIKING = ("poyo", "poyo_plus")
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
WAYS = [  # executors and dtypes that run parts
    (name, dtype)
    for dtype in TOLERANCE
    for name, reason in executors.refusals(family="poyo", device="cpu", dtype=dtype).items()
    if reason is None and name != "onnx"
]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {n: attendrite.export(FIXTURES / s, folder / n) for n, s in SOURCES.items()}


@pytest.fixture(scope="module")
def golden() -> Mapping[str, NDArray[Any]]:
    with np.load(FIXTURES / "poyo_tiny" / "poyo_tiny_golden.npz") as file:
        return dict(file)


def batch(family: str) -> Any:
    """Three windows; one without spikes, one without some of the units; some queries missing."""
    rng = np.random.default_rng(0)
    n_units = 24 if family == "poyo" else 10
    present = np.ones((3, n_units), np.bool_)
    present[2, 5:] = False
    common: dict[str, Any] = {
        "unit_ids": [
            f"sess_a/unit_{i:04d}" if family == "poyo" else f"u{i}" for i in range(n_units)
        ],
        "session": ["sess_a"] * 3 if family == "poyo" else ["s0", "s1", "s0"],
        "query_times": rng.random((3, 5)),
        "window_units": present,
    }
    if family != "poyo":
        common["query_task"] = rng.choice(["", *TASKS], (3, 5))
        common["query_task"][0, 0] = ""
    if family == "calcium_poyo_plus":
        times = np.sort(rng.random((3, 6)), axis=1)
        return CalciumBatch(values=rng.normal(size=(3, 6, n_units)), times=times, **common)
    counts = (60, 45)
    times = np.concatenate([np.sort(rng.random(n)) for n in counts])
    return SpikeBatch(times=times, units=rng.integers(0, n_units, sum(counts)),
                      window=np.repeat([0, 2], counts), **common)  # fmt: skip


def tokens(given: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Unit and type of each token, ``[B, K]``, and which tokens there are."""
    if isinstance(given, CalciumBatch):
        _, unit, lengths = given.tokens()
        kind = np.zeros_like(unit)
    else:
        table = given.tokens(1.0)  # both fixtures have windows of a second
        unit, kind, lengths = table.unit.astype(np.int64), table.type, table.lengths
    return unit, kind, np.arange(unit.shape[1]) < lengths[:, None]


def agree(found: Any, expected: Any, tolerance: float) -> None:
    """Predictions are arrays, or arrays by task."""
    if not isinstance(expected, dict):
        found, expected = {"": found}, {"": expected}
    assert set(found) == set(expected)
    for task in expected:
        assert found[task].shape == expected[task].shape
        np.testing.assert_allclose(found[task], expected[task], rtol=0, atol=tolerance)


def condition(prediction: Any, i: int) -> Any:
    return (
        {t: x[i] for t, x in prediction.items()} if isinstance(prediction, dict) else prediction[i]
    )


@pytest.mark.parametrize("family", SOURCES)
@pytest.mark.parametrize(("executor", "dtype"), WAYS)
class TestPartials:
    def test_any_segments_merge_to_the_encoder(
        self, bundles: dict[str, Path], family: str, executor: str, dtype: str
    ) -> None:
        engine, given = Engine(bundles[family], executor=executor, dtype=dtype), batch(family)
        unit, _, exists = tokens(given)
        segments = np.random.default_rng(1).integers(0, 9, unit.shape, np.int32)
        segments[segments == 4] = 5  # a segment of nothing
        lse, output = engine.partials(given, segments, 9)
        site = engine.sites[0]
        n_latents = 64 if family == "poyo" else 16
        assert lse.shape == (3, site.heads, n_latents, 9)
        assert output.shape == (*lse.shape, site.width)
        assert lse.dtype == output.dtype == dtype
        for b, g in np.ndindex(3, 9):
            there = bool((segments[b][exists[b]] == g).any())
            assert np.isfinite(lse[b, ..., g]).all() == there
            assert np.isneginf(lse[b, ..., g]).all() != there
            assert there or (output[b, ..., g, :] == 0).all()
        whole, encoded = merge_kept(lse, output, np.ones((1, 9), np.bool_))
        result = engine.run(given, Capture({"encoder": ["lse", "head_output"]}))
        record = result.attention
        assert record is not None
        np.testing.assert_allclose(whole[0], record["encoder", "lse"], atol=TOLERANCE[dtype])
        weight = engine.model.layers.weights["enc_atn.to_out.weight"].numpy()
        by_head = weight.reshape(len(weight), site.heads, site.width)
        found = np.einsum("bhqd,ohd->bhqo", encoded[0], by_head)
        np.testing.assert_allclose(found, record["encoder", "head_output"], atol=TOLERANCE[dtype])
        agree(condition(engine.tails(given, encoded), 0), result.prediction, TOLERANCE[dtype])

    def test_padding_and_what_is_in_none(
        self, bundles: dict[str, Path], family: str, executor: str, dtype: str
    ) -> None:
        engine, given = Engine(bundles[family], executor=executor, dtype=dtype), batch(family)
        unit, _, exists = tokens(given)
        assert not exists.all()
        segments = np.where(exists, np.arange(unit.shape[1]) % 3, -1)
        expected = engine.partials(given, segments, 3)
        other = engine.partials(given, np.where(exists, segments, 1), 3)
        fewer = engine.partials(given, np.where(segments == 1, -1, segments), 3)
        for a, b, c in zip(expected, other, fewer, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a[:, :, :, ::2], c[:, :, :, ::2])
        assert np.isneginf(fewer[0][..., 1]).all()

    def test_removed_units_are_as_if_never_recorded(
        self, bundles: dict[str, Path], family: str, executor: str, dtype: str
    ) -> None:
        """One pass and a nested removal, against filtering and running again at every cut."""
        engine, given = Engine(bundles[family], executor=executor, dtype=dtype), batch(family)
        n_units = len(given.unit_ids)
        order = np.random.default_rng(2).permutation(n_units)  # merged in this order
        order = np.concatenate([[1], order[order != 1]])  # that all windows have
        cuts = np.array([1, 2, n_units // 2, n_units - 1, n_units])
        lse, output = engine.partials(given, tokens(given)[0], n_units)
        _, encoded = merge_nested(lse, output, order[None], cuts)
        found = engine.tails(given, encoded[0])
        clean = engine.run(given).prediction
        for i, cut in enumerate(cuts):
            kept = given.window_units & np.isin(np.arange(n_units), order[:cut])
            expected = engine.run(replace(given, window_units=kept)).prediction
            agree(condition(found, i), expected, TOLERANCE[dtype])
        agree(condition(found, -1), clean, TOLERANCE[dtype])
        first = condition(found, 0)
        moved = [np.abs(first[t] - clean[t]).max() for t in clean] if isinstance(clean, dict) else [
            np.abs(first - clean).max()]  # fmt: skip
        assert min(moved) > 1e-3

    def test_conditions_are_run_for_themselves(
        self, bundles: dict[str, Path], family: str, executor: str, dtype: str
    ) -> None:
        """More of them than are run at once; the tokens of the batch do not matter."""
        engine, given = Engine(bundles[family], executor=executor, dtype=dtype), batch(family)
        unit, _, exists = tokens(given)
        pair = engine.partials(given, np.where(exists, unit, -1), len(given.unit_ids))
        kept = np.random.default_rng(3).random((70, len(given.unit_ids))) < 0.5
        encoded = merge_kept(*pair, kept, allow_empty=True)[1]
        assert len(encoded) * len(given) > 3 * _tails.AT_ONCE
        found = engine.tails(given, encoded)
        for i in range(0, 70, 7):
            one = engine.tails(given, encoded[i : i + 1])
            agree(condition(one, 0), condition(found, i), TOLERANCE[dtype] / 10)
        if isinstance(given, CalciumBatch):
            other: Any = replace(given, values=given.values + 1)
        else:
            other = replace(
                given, **{n: getattr(given, n)[:7] for n in ("times", "units", "window")}
            )
        agree(engine.tails(other, encoded), found, 0)
        for b in range(3):  # windows too
            part = engine.tails(given.part(b, b + 1), encoded[:, b : b + 1])
            if not isinstance(part, dict):
                agree(part, found[:, b : b + 1], TOLERANCE[dtype] / 10)
                continue
            assert given.query_task is not None
            for task, values in part.items():
                mine = np.argwhere(given.query_task == task)[:, 0] == b
                np.testing.assert_allclose(values, found[task][:, mine], atol=TOLERANCE[dtype] / 10)

    def test_nothing(
        self, bundles: dict[str, Path], family: str, executor: str, dtype: str
    ) -> None:
        """No conditions; no windows."""
        engine, given = Engine(bundles[family], executor=executor, dtype=dtype), batch(family)
        site, n_latents = engine.sites[0], 64 if family == "poyo" else 16
        clean = engine.run(given).prediction
        none = engine.tails(given, np.zeros((0, 3, site.heads, n_latents, site.width), dtype))
        agree(engine.masked(given, []), none, 0)
        empty = given.part(0, 0)
        lse, output = engine.partials(empty, np.zeros((0, 0), np.int64), 2)
        assert lse.shape == (0, site.heads, n_latents, 2)
        assert output.shape == (*lse.shape, site.width)
        some = engine.tails(empty, np.zeros((4, 0, site.heads, n_latents, site.width), dtype))
        masks = [{"encoder": np.ones(site.heads, np.bool_)}, {}, {}, {}]
        agree(engine.masked(empty, masks), some, 0)
        if isinstance(clean, dict):
            assert {t: x.shape for t, x in none.items()} == {
                t: (0, *x.shape) for t, x in clean.items()
            }
            assert some == {}
        else:
            assert none.shape == (0, *clean.shape)
            assert some.shape == (4, 0, *clean.shape[1:])


@pytest.mark.parametrize(("executor", "dtype"), WAYS)
class TestSpikes:
    @pytest.mark.parametrize("family", SPIKING)
    def test_silenced_units_keep_start_and_end(
        self, bundles: dict[str, Path], family: str, executor: str, dtype: str
    ) -> None:
        engine, given = Engine(bundles[family], executor=executor, dtype=dtype), batch(family)
        n_units = len(given.unit_ids)
        unit, kind, exists = tokens(given)
        segments = np.where(exists, np.where(kind == 0, unit, n_units), -1)
        pair, base = based(*engine.partials(given, segments, n_units + 1))
        kept = np.random.default_rng(4).random((6, n_units)) < 0.5
        kept[0] = False  # the spikes of all are gone, which is defined
        found = engine.tails(given, merge_kept(*pair, kept, base=base)[1])
        for i in range(len(kept)):
            expected = engine.run(of_spikes(given, kept[i][given.units])).prediction
            agree(condition(found, i), expected, TOLERANCE[dtype])

    @pytest.mark.parametrize("family", SPIKING)
    def test_any_spikes(
        self, bundles: dict[str, Path], family: str, executor: str, dtype: str
    ) -> None:
        """Spikes in random segments, of which conditions keep some."""
        engine, given = Engine(bundles[family], executor=executor, dtype=dtype), batch(family)
        rng = np.random.default_rng(5)
        of_spike = rng.integers(0, 8, len(given.times))
        _, kind, exists = tokens(given)
        segments = np.where(exists, 8, -1)
        present = given.window_units[given.window, given.units]  # others are no tokens
        for b in range(3):
            segments[b, exists[b] & (kind[b] == 0)] = of_spike[present & (given.window == b)]
        pair, base = based(*engine.partials(given, segments, 9))
        kept = rng.random((5, 8)) < 0.5
        found = engine.tails(given, merge_kept(*pair, kept, base=base)[1])
        for i in range(len(kept)):
            expected = engine.run(of_spikes(given, kept[i][of_spike])).prediction
            agree(condition(found, i), expected, TOLERANCE[dtype])

    def test_golden(
        self,
        golden: Mapping[str, NDArray[Any]],
        bundles: dict[str, Path],
        executor: str,
        dtype: str,
    ) -> None:
        """What torch_brain's own model gives with four units removed, and silenced."""
        real, kind = golden["in.input_mask"][0], golden["in.input_token_type"][0]
        unit, gone = golden["in.input_unit_index"][0] - 1, golden["ablate_unit_rows"]
        spikes = real & (kind == 0)
        given = SpikeBatch(
            times=golden["in.input_timestamps"][0, spikes],
            units=unit[spikes],
            window=np.zeros(spikes.sum(), np.int64),
            unit_ids=[f"sess_a/unit_{i:04d}" for i in range(24)],
            session=["sess_a"],
            query_times=golden["in.output_timestamps"][:1],
        )
        engine = Engine(bundles["poyo"], executor=executor, dtype=dtype)
        ours, kind, _ = tokens(given)
        kept = ~np.isin(np.arange(24), gone)[None]
        pair = engine.partials(given, ours, 24)
        removed = engine.tails(given, merge_kept(*pair, kept)[1])[0]
        pair, base = based(*engine.partials(given, np.where(kind == 0, ours, 24), 25))
        silenced = engine.tails(given, merge_kept(*pair, kept, base=base)[1])[0]
        assert np.abs(removed - golden["ablate_units_output"]).max() < 1e-5
        assert np.abs(silenced - golden["ablate_spikes_only_output"]).max() < 1e-5
        assert np.abs(removed - silenced).max() > 1e-3


def based(lse: NDArray[Any], output: NDArray[Any]) -> tuple[Pair, Pair]:
    """Split the last segment off: what is always kept."""
    rest = np.ascontiguousarray(lse[..., :-1]), np.ascontiguousarray(output[..., :-1, :])
    return rest, (lse[..., -1].copy(), output[..., -1, :].copy())


def of_spikes(given: SpikeBatch, kept: NDArray[np.bool_]) -> SpikeBatch:
    return replace(given, times=given.times[kept], units=given.units[kept],
                   window=given.window[kept])  # fmt: skip


def by_hand(engine: Engine, given: Any, mask: Mapping[str, NDArray[np.bool_]]) -> Any:
    """The model's forward with an attention that is written out, and leaves things out."""

    def turned(x: torch.Tensor, phase: Any, sign: int = 1) -> torch.Tensor:
        pairs = phase.shape[3]
        by = torch.complex(phase[:, None, :, 0], sign * phase[:, None, :, 1])
        z = torch.view_as_complex(x[..., : 2 * pairs].unflatten(-1, (-1, 2)).contiguous())
        return torch.cat((torch.view_as_real(z * by).flatten(-2), x[..., 2 * pairs :]), -1)

    def attend(
        site: str, q: Any, k: Any, v: Any, *, keys: Keys, queries: Queries, rotate_values: bool,
        project: Any,
    ) -> Any:  # fmt: skip
        if keys.rows is not None:
            k, v = (x[0][:, keys.rows].transpose(0, 1) for x in (k, v))
        q, k = turned(q, queries.phase), turned(k, keys.phase)
        v = turned(v, keys.phase) if rotate_values else v
        scores = q @ k.mT * q.shape[-1] ** -0.5
        there = torch.ones(len(q), k.shape[2], dtype=torch.bool)
        if keys.lengths is not None:
            there = torch.arange(k.shape[2]) < keys.lengths[:, None]
        elif "latents" in mask:  # the first latents of the steps, then the second ones, ...
            steps = k.shape[2] // len(mask["latents"])
            there = there & torch.from_numpy(np.tile(mask["latents"], steps))
        out = scores.masked_fill(~there[:, None, None], -torch.inf).softmax(-1) @ v
        out = turned(out, queries.phase, -1) if rotate_values else out
        if site in mask:
            out = out * torch.from_numpy(mask[site])[:, None, None]
        return out

    with torch.inference_mode():
        found = engine.model.forward(engine.model.inputs(given), attend)
    return (
        {t: x.numpy() for t, x in found.items()} if isinstance(found, dict) else np.asarray(found)
    )


@pytest.fixture(scope="module")
def exact(bundles: dict[str, Path]) -> dict[str, list[Any]]:
    """What each condition gives, in float64."""
    engines = {
        f: Engine(path, executor="reference", dtype="float64") for f, path in bundles.items()
    }
    return {
        f: [by_hand(engine, batch(f), mask) for mask in conditions(engine)]
        for f, engine in engines.items()
    }


def conditions(engine: Engine) -> list[dict[str, NDArray[np.bool_]]]:
    """Every head, every latent of a step, many at once, and nothing; in no order."""
    rng = np.random.default_rng(6)
    sites = {site.name: site.heads for site in engine.sites}
    n_latents = int(engine.manifest.config["num_latents_per_step"])
    out: list[dict[str, NDArray[np.bool_]]] = [{}, {"decoder": np.ones(2, np.bool_)}]
    out += [{s: np.arange(n) != h} for s, n in sites.items() for h in range(n)]
    out += [{s: np.zeros(n, np.bool_)} for s, n in sites.items()]
    out += [{"latents": np.arange(n_latents) != i} for i in range(n_latents)]
    out += [{"latents": np.arange(n_latents) == 1}]
    for _ in range(30):
        some = {s: rng.random(n) < 0.7 for s, n in sites.items() if rng.random() < 0.4}
        if rng.random() < 0.5:
            some["latents"] = rng.random(n_latents) < 0.6
            some["latents"][0] = True
        out.append(some)
    return [out[i] for i in rng.permutation(len(out))]


class TestMasks:
    @pytest.mark.parametrize("family", SOURCES)
    @pytest.mark.parametrize(("executor", "dtype"), WAYS)
    def test_against_a_forward_by_hand(
        self, bundles: dict[str, Path], exact: Mapping[str, list[Any]], family: str, executor: str,
        dtype: str, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        engine = Engine(bundles[family], executor=executor, dtype=dtype)
        monkeypatch.setattr(_tails, "AT_ONCE", 12)  # four conditions of three windows
        found = engine.masked(batch(family), conditions(engine))
        assert len(exact[family]) > 50
        for i, expected in enumerate(exact[family]):
            agree(condition(found, i), expected, TOLERANCE[dtype])

    @pytest.mark.parametrize("depth", [0, 1])
    def test_few_layers(self, bundles: dict[str, Path], depth: int) -> None:
        bundle = Bundle.load(bundles["poyo"])
        config = {**bundle.manifest.config, "depth": depth}
        kept = [n for n in bundle.weights if not re.match(rf"proc_layers\.[{depth}-9]", n)]
        small = Bundle(
            replace(bundle.manifest, config=config), {n: bundle.weights[n] for n in kept}
        )
        engine, given = Engine(small, dtype="float64"), batch("poyo")
        masks = conditions(engine)
        found = engine.masked(given, masks)
        for i, mask in enumerate(masks):
            agree(found[i], by_hand(engine, given, mask), 1e-10)

    def test_masks_of_nothing_are_the_plain_run(self, bundles: dict[str, Path]) -> None:
        for family in SOURCES:
            engine, given = Engine(bundles[family], dtype="float64"), batch(family)
            whole = {site.name: np.ones(site.heads, np.bool_) for site in engine.sites}
            whole["latents"] = np.ones(engine.manifest.config["num_latents_per_step"], np.bool_)
            found = engine.masked(given, [{}, whole])
            for i in range(2):
                agree(condition(found, i), engine.run(given).prediction, 1e-12)

    def test_only_what_follows_a_difference_is_run(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Count the windows that each layer attends in: at the first difference a clean one."""
        engine, given = Engine(bundles["poyo"], dtype="float64"), batch("poyo")
        seen: Counter[str] = Counter()
        plain = engine._executor._plain

        def counted(site: str, q: torch.Tensor, *rest: Any, **how: Any) -> Any:
            seen[site] += len(q)
            return plain(site, q, *rest, **how)

        monkeypatch.setattr(engine._executor, "_plain", counted)
        off = np.arange(4) > 0
        masks: Sequence[Mapping[str, NDArray[np.bool_]]] = [
            *[{"decoder": np.arange(2) > 0}] * 5,
            *[{"processor.1": off}] * 7,
            *[{"processor.2": off, "decoder": np.zeros(2, np.bool_)}] * 3,
        ]
        engine.masked(given, masks)
        b = len(given)
        assert seen["encoder"] == seen["processor.0"] == b
        assert seen["processor.1"] == b + b
        assert seen["processor.2"] == b + 7 * b + b
        assert seen["decoder"] == 7 * b + 3 * b + b
        assert seen.total() == 24 * b


class TestRefusals:
    @pytest.fixture
    def engine(self, bundles: dict[str, Path]) -> Engine:
        return Engine(bundles["poyo"], executor="torch")

    def test_any_strides_are_taken(self, engine: Engine) -> None:
        """An axis of one item is contiguous whatever its stride, which torch does not take."""
        given = batch("poyo").part(0, 1)
        site, latents = engine.sites[0], len(engine.model.layers.latent_times[0])  # type: ignore[attr-defined]
        rng = np.random.default_rng(0)
        encoded = rng.normal(size=(1, 1, site.heads, latents, site.width)).astype(np.float32)
        turned = encoded[::-1]
        assert turned.strides[0] < 0
        np.testing.assert_array_equal(engine.tails(given, turned), engine.tails(given, encoded))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"n_segments": 0}, "n_segments must be at least 1, got 0"),
            ({"segments": np.zeros((3, 4), np.int64)}, "segments must have shape [3, "),
            ({"dtype": np.float64}, "segments must be an array of integers, got float64"),
            ({"at": 9}, "segments must lie in -1..8, got segments[1, 2] = 9"),
            ({"at": -2}, "segments must lie in -1..8, got segments[1, 2] = -2"),
        ],
    )
    def test_segments(self, engine: Engine, change: dict[str, Any], message: str) -> None:
        segments = np.zeros(tokens(batch("poyo"))[0].shape, change.get("dtype", np.int64))
        segments[1, 2] = change.get("at", 0)
        with pytest.raises(AttendriteError, match=re.escape(message)):
            engine.partials(
                batch("poyo"), change.get("segments", segments), change.get("n_segments", 9)
            )

    def test_encoded(self, engine: Engine) -> None:
        good = np.zeros((2, 3, 2, 64, 16), np.float32)
        with pytest.raises(
            AttendriteError, match=re.escape("have shape [N, 3, 2, 64, 16], got [3")
        ):
            engine.tails(batch("poyo"), good[0])
        with pytest.raises(AttendriteError, match="must be an array of float32, got float64"):
            engine.tails(batch("poyo"), good.astype(np.float64))
        shared = np.broadcast_to(good[:1], good.shape)  # read-only, and not contiguous
        agree(engine.tails(batch("poyo"), shared), engine.tails(batch("poyo"), good), 0)
        good[1, 2, 0, 3, 4] = np.nan
        with pytest.raises(AttendriteError, match=re.escape("got encoded[1, 2, 0, 3, 4] = nan")):
            engine.tails(batch("poyo"), good)

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            ({"processor.9": [True]}, "unknown site of masks[1] 'processor.9'; known: encoder, "),
            ({"decoder": [1, 0]}, "masks[1]['decoder'] must be an array of bool, got int64"),
            ({"decoder": [True]}, "masks[1]['decoder'] must have shape [2], got [1]"),
            ({"latents": [True] * 64}, "masks[1]['latents'] must have shape [8], got [64]"),
            ({"latents": [False] * 8}, "must keep at least one latent of a step, got none"),
        ],
    )
    def test_masks(self, engine: Engine, mask: Any, message: str) -> None:
        with pytest.raises(AttendriteError, match=re.escape(message)):
            engine.masked(batch("poyo"), [{}, mask])

    def test_batches_and_models(
        self, bundles: dict[str, Path], engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoded = np.zeros((1, 3, 2, 64, 16), np.float32)
        with pytest.raises(AttendriteError, match="input of a poyo model must be a SpikeBatch"):
            engine.masked(batch("calcium_poyo_plus"), [{}])
        unknown = replace(batch("poyo"), session=["sess_a", "nowhere", "sess_a"])
        with pytest.raises(AttendriteError, match="every session must be known to the model"):
            engine.tails(unknown, encoded)
        monkeypatch.setattr(engine, "model", SimpleNamespace(batch=SpikeBatch))
        with pytest.raises(AttendriteError, match="the model must have an encoder of tokens"):
            engine.tails(batch("poyo"), encoded)

    def test_a_graph_is_run_whole(self, bundles: dict[str, Path]) -> None:
        pytest.importorskip("onnx", reason="onnx is not installed")
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        engine, given = Engine(bundles["poyo"], executor="onnx"), batch("poyo")
        cannot = "executor 'onnx' cannot run a part of its graph; use executor native or torch"
        with pytest.raises(AttendriteError, match=cannot):
            engine.partials(given, tokens(given)[0], 24)
        with pytest.raises(AttendriteError, match=cannot):
            engine.tails(given, np.zeros((1, 3, 2, 64, 16), np.float32))
        with pytest.raises(AttendriteError, match=cannot):
            engine.masked(given, [{}])


@pytest.mark.gpu
@pytest.mark.parametrize("family", SOURCES)
def test_cuda(bundles: dict[str, Path], family: str) -> None:
    exact, engine = Engine(bundles[family], dtype="float64"), Engine(bundles[family], device="cuda")
    given = batch(family)
    unit, _, _ = tokens(given)
    kept = np.random.default_rng(7).random((5, len(given.unit_ids))) < 0.5
    kept[:, 1] = True
    encoded = [
        merge_kept(*e.partials(given, unit, kept.shape[1]), kept)[1] for e in (exact, engine)
    ]
    agree(engine.tails(given, encoded[1]), exact.tails(given, encoded[0]), 1e-4)
    agree(engine.masked(given, conditions(exact)), exact.masked(given, conditions(exact)), 1e-4)

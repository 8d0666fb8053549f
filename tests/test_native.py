"""The native executor: every result by the accuracy rule, and what must not change a bit.

``err <= 2 err(executor torch, float32) + 1e-6 max(1, max|ref|)``, both against executor reference
in float64. The golden arrays of torch_brain are held in test_models.py.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, Bundle, CalciumBatch, Capture, Engine, SpikeBatch, _core
from attendrite.capture import AXES
from attendrite.executors import native
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
SOURCES = {
    "poyo": "poyo_tiny/poyo_tiny_lightning.ckpt",
    "poyo_plus": "poyo_plus_tiny/plus_tiny_lightning.ckpt",
    "calcium_poyo_plus": "poyo_plus_tiny/calcium_tiny_lightning.ckpt",
}
TASKS = ("cursor_velocity_2d", "cursor_position_2d", "arm_velocity_2d")
EVERYTHING = Capture(
    {
        "*": ["weights", "per_key", "entropy", "lse", "lag", "top_k:3", "head_output"],
        "encoder": ["per_unit:spikes", "per_query_unit", "partials:spikes"],
    }
)
BY_UNIT = Capture({"encoder": ["per_unit", "per_query_unit:spikes", "entropy", "lag"]})


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {n: attendrite.export(FIXTURES / s, folder / n) for n, s in SOURCES.items()}


def batch(family: str, counts: tuple[int, ...] = (40, 0, 300), queries: int = 5) -> Any:
    """Windows of unequal length; one without spikes, the last one without some units."""
    rng = np.random.default_rng(0)
    size, n_units = len(counts), 24 if family == "poyo" else 10
    present = np.ones((size, n_units), np.bool_)
    present[-1:, 4:7] = False
    prefix = "sess_a/unit_{:04d}" if family == "poyo" else "u{}"
    common: dict[str, Any] = {
        "unit_ids": [prefix.format(i) for i in range(n_units)],
        "session": np.array(["sess_a"] if family == "poyo" else ["s0", "s1"])[
            np.arange(size) % (1 if family == "poyo" else 2)
        ],
        "query_times": rng.random((size, queries)),
        "window_units": present,
    }
    if family != "poyo":
        common["query_task"] = rng.choice(["", *TASKS], (size, queries))
    if family == "calcium_poyo_plus":
        return CalciumBatch(
            values=rng.normal(size=(size, 6, n_units)),
            times=np.sort(rng.random((size, 6)), axis=1),
            n_frames=[6, 0, 4][:size],
            **common,
        )
    return SpikeBatch(
        times=np.concatenate([np.zeros(0), *(np.sort(rng.random(n)) for n in counts)]),
        units=rng.integers(0, n_units, sum(counts)),
        window=np.repeat(np.arange(size), counts),
        **common,
    )


def arrays(result: Any) -> dict[str, NDArray[Any]]:
    """Every array of a result by name."""
    found = dict(result.attention.arrays()) if result.attention is not None else {}
    prediction = result.prediction
    found |= prediction if isinstance(prediction, dict) else {"prediction": prediction}
    if result.rollout is not None:
        found["rollout"] = result.rollout
    return found


def assert_accurate(path: Path, given: Any, *asked: Any, **more: Any) -> dict[str, NDArray[Any]]:
    exact, torchs, found = (
        arrays(Engine(path, executor=name, dtype=dtype).run(given, *asked, **more))
        for name, dtype in (("reference", "float64"), ("torch", "float32"), ("native", "float32"))
    )
    assert found.keys() == exact.keys()
    for name, x in exact.items():
        assert found[name].shape == x.shape, name
        if x.dtype.kind != "f":
            np.testing.assert_array_equal(found[name], x, name)
            continue
        finite = np.isfinite(x)
        np.testing.assert_array_equal(np.where(finite, 0, found[name]), np.where(finite, 0, x))
        allowed = 1e-6 * max(1.0, np.abs(x[finite]).max(initial=0))
        allowed += 2 * np.abs(torchs[name][finite] - x[finite]).max(initial=0)
        assert np.abs(found[name][finite] - x[finite]).max(initial=0) <= allowed, name
    return found


@pytest.mark.parametrize("family", SOURCES)
class TestAccuracy:
    def test_predictions(self, bundles: dict[str, Path], family: str) -> None:
        assert_accurate(bundles[family], batch(family))

    def test_everything_at_every_site(self, bundles: dict[str, Path], family: str) -> None:
        found = assert_accurate(bundles[family], batch(family), EVERYTHING)
        assert {name.rpartition("/")[2] for name in found} > {*AXES} - {"per_unit", "lse"}

    def test_sums_of_sorted_tokens(self, bundles: dict[str, Path], family: str) -> None:
        """Without an axis of keys, the encoder takes its tokens in the order of units."""
        assert_accurate(bundles[family], batch(family), BY_UNIT)

    @pytest.mark.parametrize("fuse", ["mean", "max"])
    def test_rollout(self, bundles: dict[str, Path], family: str, fuse: str) -> None:
        found = assert_accurate(bundles[family], batch(family), rollout=fuse)
        assert "rollout" in found

    def test_other_sizes(self, bundles: dict[str, Path], family: str) -> None:
        for counts, queries in (((70,), 1), ((3, 900), 130)):
            assert_accurate(bundles[family], batch(family, counts, queries), EVERYTHING)

    def test_nothing_to_do(self, bundles: dict[str, Path], family: str) -> None:
        assert_accurate(bundles[family], batch(family).part(0, 0), EVERYTHING, rollout="mean")
        assert_accurate(bundles[family], batch(family, queries=0), EVERYTHING)


class TestOtherModels:
    """Sizes that the fixtures lack: all pairs turn, or none; one layer or no processor."""

    @pytest.mark.parametrize("turning", [0, 3, 8])
    def test_any_number_of_turning_pairs(self, bundles: dict[str, Path], turning: int) -> None:
        bundle = Bundle.load(bundles["poyo"])
        n = len(bundle.weights["rotary_emb.omega"])
        omega = torch.linspace(300, 3, n, dtype=torch.float64)
        omega[turning:] = 0
        other = replace(bundle, weights={**bundle.weights, "rotary_emb.omega": omega})
        capture = EVERYTHING if turning else BY_UNIT  # all spikes of a unit are alike: no ranks
        assert_accurate(other, batch("poyo"), capture)  # type: ignore[arg-type]

    @pytest.mark.parametrize("family", SOURCES)
    def test_no_processor(self, bundles: dict[str, Path], family: str) -> None:
        bundle = Bundle.load(bundles[family])
        weights = {n: t for n, t in bundle.weights.items() if not n.startswith("proc_layers")}
        manifest = replace(bundle.manifest, config={**bundle.manifest.config, "depth": 0})
        assert_accurate(Bundle(manifest, weights), batch(family), EVERYTHING)  # type: ignore[arg-type]

    def test_tokens_of_no_spread(self, bundles: dict[str, Path]) -> None:
        """Values and units that cancel leave only eps under the root of the norm."""
        bundle = Bundle.load(bundles["calcium_poyo_plus"])
        weights = dict(bundle.weights)
        for name in ("unit_emb.weight", "input_value_map.weight", "input_value_map.bias"):
            weights[name] = weights[name] * 1e-3 + 100
        given = batch("calcium_poyo_plus")
        assert_accurate(replace(bundle, weights=weights), given, BY_UNIT)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", SOURCES)
class TestNothingChanges:
    def test_bits_of_threads(self, bundles: dict[str, Path], family: str) -> None:
        results = [
            arrays(Engine(bundles[family], executor="native", threads=n).run(batch(family), asked))
            for n in (1, 2, 5)
            for asked in (EVERYTHING, BY_UNIT)
        ]
        for i, other in enumerate(results[2:]):
            for name, x in results[i % 2].items():
                np.testing.assert_array_equal(other[name], x, name)

    def test_capturing(self, bundles: dict[str, Path], family: str) -> None:
        """Sums per unit leave the order of tokens, and so the bits; axes of keys do not."""
        engine = Engine(bundles[family], executor="native")
        plain = arrays(engine.run(batch(family)))
        beside = arrays(engine.run(batch(family), Capture({"encoder": "entropy"})))
        for name, x in plain.items():
            np.testing.assert_array_equal(beside[name], x)
        ordered = arrays(engine.run(batch(family), EVERYTHING))
        for name, x in plain.items():
            np.testing.assert_allclose(ordered[name], x, atol=5e-6)

    @pytest.mark.parametrize("size", [1, 2])
    def test_batch_size(self, bundles: dict[str, Path], family: str, size: int) -> None:
        engine = Engine(bundles[family], executor="native")
        whole = arrays(engine.run(batch(family), BY_UNIT))
        parts = arrays(engine.run(batch(family), BY_UNIT, batch_size=size))
        for name, x in whole.items():
            np.testing.assert_allclose(parts[name], x, atol=5e-6)

    def test_one_engine_in_several_threads(self, bundles: dict[str, Path], family: str) -> None:
        """Calls take turns; each has its own units."""
        engine = Engine(bundles[family], executor="native")
        givens = [batch(family), batch(family, (70,), 3)]
        if family == "poyo":
            givens[1] = replace(givens[1], unit_ids=givens[1].unit_ids[::-1])
        exact = [arrays(engine.run(given, BY_UNIT)) for given in givens]
        wrong: list[int] = []

        def work(i: int) -> None:
            for _ in range(20):
                found = arrays(engine.run(givens[i % 2], BY_UNIT))
                if any((found[name] != x).any() for name, x in exact[i % 2].items()):
                    wrong.append(i)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_inputs(self, bundles: dict[str, Path], family: str) -> None:
        engine = Engine(bundles[family], executor="native")
        with torch.inference_mode():
            inputs = engine.model.inputs(batch(family))
        before = [t.clone() for t in (inputs.keys.times, inputs.keys.units, inputs.unit_rows)]
        with torch.inference_mode():
            engine._executor.run(inputs, EVERYTHING.plan(engine.sites), "mean")
        after = (inputs.keys.times, inputs.keys.units, inputs.unit_rows)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def encoder_output(engine: Engine, given: Any) -> torch.Tensor:
    """What the encoder's attention gives in a run, ``[B, H, L, D]``."""
    executor: Any = engine._executor
    with torch.inference_mode():
        inputs = engine.model.inputs(given)
        call = native._Call(engine.sites, inputs, engine.model.layers.latent_times.shape[1])
        call.copy("encoder", "output")
        _, rooms = executor._prediction(inputs)
        executor._runner.run(call.fields(), call.requests, rooms, 1)
    return call.copied["encoder", "output"]


def tails(engine: Engine, given: Any, encoded: torch.Tensor) -> dict[str, NDArray[Any]]:
    found = engine.tails(given, encoded.numpy())
    return found if isinstance(found, dict) else {"prediction": found}


@pytest.mark.parametrize("family", SOURCES)
class TestTails:
    """What comes after the encoder's attention, in several conditions of the same windows."""

    @pytest.mark.parametrize("threads", [1, 2])
    def test_bits_of_a_run(self, bundles: dict[str, Path], family: str, threads: int) -> None:
        """One, few and many windows: threads share one, or each has its own."""
        engine = Engine(bundles[family], executor="native", threads=threads)
        for given in (batch(family), batch(family).part(0, 1)):
            plain, encoded = arrays(engine.run(given)), encoder_output(engine, given)
            other = torch.randn(encoded.shape, generator=torch.Generator().manual_seed(0))
            found = tails(engine, given, torch.stack([encoded, other, encoded]))
            alone = tails(engine, given, other[None])
            assert found.keys() == plain.keys()
            for name, x in plain.items():
                assert found[name].shape == (3, *x.shape)
                for i, expected in enumerate((x, alone[name][0], x)):
                    np.testing.assert_array_equal(found[name][i], expected)
                assert np.isfinite(found[name]).all()

    def test_accuracy(self, bundles: dict[str, Path], family: str) -> None:
        given = batch(family)
        engine = Engine(bundles[family], executor="native")
        encoded = encoder_output(engine, given)
        some = torch.stack([encoded * by for by in (0.0, 0.5, -3.0)])
        found = tails(engine, given, some)
        exact, torchs = (
            tails(Engine(bundles[family], name, dtype=dtype), given, some.to(getattr(torch, dtype)))
            for name, dtype in (("reference", "float64"), ("torch", "float32"))
        )
        assert found.keys() == exact.keys()
        for name, x in exact.items():
            allowed = 2 * np.abs(torchs[name] - x).max() + 1e-6 * max(1.0, np.abs(x).max())
            assert np.abs(found[name] - x).max() <= allowed, name

    def test_nothing_to_do(self, bundles: dict[str, Path], family: str) -> None:
        engine = Engine(bundles[family], executor="native")
        for given in (batch(family), batch(family).part(0, 0), batch(family, queries=0)):
            encoded, plain = encoder_output(engine, given), arrays(engine.run(given))
            for n in (0, 2):
                found = tails(engine, given, encoded.expand(n, *encoded.shape))
                assert found.keys() == plain.keys()
                for name, x in plain.items():
                    assert found[name].shape == (n, *x.shape)

    def test_parts_of_the_encoder(self, bundles: dict[str, Path], family: str) -> None:
        """All tokens as one segment are what the encoder takes."""
        engine, given = Engine(bundles[family], executor="native"), batch(family)
        n_keys = engine.model.inputs(given).keys.times.shape[1]
        _, output = engine.partials(given, np.zeros((3, n_keys), np.int64), 1)
        np.testing.assert_allclose(output[..., 0, :], encoder_output(engine, given), atol=5e-6)


class TestWhatItRefuses:
    @pytest.mark.parametrize(
        ("request_", "reason"),
        [
            ({"dtype": "float64"}, "computes in float32, got float64; use executor torch"),
            ({"device": "cuda"}, "runs on the CPU, got cuda; use executor torch"),
            (
                {"family": "other"},
                "runs poyo, poyo_plus, calcium_poyo_plus, ensemble, sensorium",
            ),
        ],
    )
    def test_kinds(self, request_: dict[str, str], reason: str) -> None:
        kind = {"family": "poyo", "device": "cpu", "dtype": "float32"}
        assert native.refuses(**kind) is None
        assert str(native.refuses(**(kind | request_))).startswith(reason)

    def test_by_name_it_is_not_replaced(self, bundles: dict[str, Path]) -> None:
        with pytest.raises(AttendriteError, match="executor 'native' computes in float32, got"):
            Engine(bundles["poyo"], executor="native", dtype="float64")

    def test_auto(self, bundles: dict[str, Path]) -> None:
        engine = Engine(bundles["poyo"])
        assert engine.executor == "native"
        choices = engine.run(batch("poyo")).meta["choices"]
        assert (choices["attention"], choices["blocks"]) == ("native", _core.cpu_level())
        assert Engine(bundles["poyo"], dtype="float64").executor == "torch"

    def test_weights_that_are_not_finite(self, bundles: dict[str, Path]) -> None:
        bundle = Bundle.load(bundles["poyo"])
        weights = {**bundle.weights, "enc_ffn.0.bias": bundle.weights["enc_ffn.0.bias"] * torch.nan}
        with pytest.raises(AttendriteError, match=r"weights 'enc_ffn.0.bias' must be finite, got"):
            Engine(replace(bundle, weights=weights), executor="native")

    def test_statistics_that_it_does_not_know(self, bundles: dict[str, Path]) -> None:
        engine = Engine(bundles["poyo"], executor="native")
        runner = engine._executor._runner  # type: ignore[attr-defined]
        fields = dict.fromkeys(
            ("windows", "first", "count", "times", "units", "types", "values", "queries",
             "query_times", "session_rows", "task_rows", "unit_rows", "n_units"), 0
        )  # fmt: skip
        runner.run(fields, [], [0], 1)
        with pytest.raises(ValueError, match="statistic must be known, got mood"):
            runner.run(fields, [(0, "mood", False, 0, 0, 0)], [0], 1)
        with pytest.raises(ValueError, match=r"site of a request must be in 0..4, got 9"):
            runner.run(fields, [(9, "lse", False, 0, 0, 0)], [0], 1)

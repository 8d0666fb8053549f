"""The engine: batches in, predictions out; what it refuses, and what must not change a result."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, Bundle, CalciumBatch, Capture, Engine, SpikeBatch, executors
from attendrite.kernels.attention import native, reference
from attendrite.models import families, load
from attendrite.models._perceiver import PerceiverModel
from attendrite.recordings import Recording, Series, Spikes
from hypothesis import given, settings
from hypothesis import strategies as st

FIXTURES = Path(__file__).parent / "fixtures"
UNITS = [f"sess_a/unit_{i:04d}" for i in range(24)]
# Those that can be held to float64; the others have tests of their own.
EXECUTORS = [
    name
    for name, reason in executors.refusals(family="poyo", device="cpu", dtype="float64").items()
    if reason is None
]
TASKS = ("cursor_velocity_2d", "cursor_position_2d", "arm_velocity_2d")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    sources = {
        "poyo": "poyo_tiny/poyo_tiny_lightning.ckpt",
        "poyo_plus": "poyo_plus_tiny/plus_tiny_lightning.ckpt",
        "calcium_poyo_plus": "poyo_plus_tiny/calcium_tiny_lightning.ckpt",
    }
    return {n: attendrite.export(FIXTURES / s, folder / n) for n, s in sources.items()}


@pytest.fixture(scope="module")
def engine(bundles: dict[str, Path]) -> Engine:
    return Engine(bundles["poyo"], dtype="float64")


def spikes(counts: tuple[int, ...] = (30, 0, 55), n_units: int = 24, seed: int = 0) -> SpikeBatch:
    rng = np.random.default_rng(seed)
    return SpikeBatch(
        times=np.concatenate([np.zeros(0), *(np.sort(rng.random(n)) for n in counts)]),
        units=rng.integers(0, n_units, sum(counts)),
        window=np.repeat(np.arange(len(counts)), counts),
        unit_ids=np.array(UNITS[:n_units]),
        session=np.full(len(counts), "sess_a"),
        query_times=rng.random((len(counts), 4)),
    )


def tasked(kind: str, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    common: dict[str, Any] = {
        "session": ["s0", "s1", "s0"],
        "query_times": rng.random((3, 5)),
        "query_task": rng.choice(["", *TASKS], (3, 5)),
    }
    if kind == "poyo_plus":
        return replace(spikes(n_units=10), unit_ids=[f"u{i}" for i in range(10)], **common)
    return CalciumBatch(
        values=rng.normal(size=(3, 6, 10)),
        times=np.sort(rng.random((3, 6)), axis=1),
        unit_ids=[f"u{i}" for i in range(10)],
        **common,
    )


EVERYTHING = Capture(
    {
        "*": ["weights", "per_key", "entropy", "lse", "lag", "top_k:3", "head_output"],
        "encoder": ["per_unit:spikes", "per_query_unit", "partials"],
    }
)


class TestLoading:
    def test_every_executor_loads_every_family(self, bundles: dict[str, Path]) -> None:
        assert set(bundles) == {f for f in families() if issubclass(load(f), PerceiverModel)}
        for family, path in bundles.items():
            for name in EXECUTORS:
                engine = Engine(path, executor=name)
                assert (engine.family, engine.executor) == (family, name)
                assert engine.sites[0].name == "encoder"
                assert engine.sites[-1].name == "decoder"

    def test_auto_takes_the_highest_priority(self, bundles: dict[str, Path]) -> None:
        assert Engine(bundles["poyo"]).executor == "native"
        assert Engine(bundles["poyo"], dtype="float64").executor == "torch"

    def test_a_bundle_in_memory(self, bundles: dict[str, Path]) -> None:
        a = Engine(Bundle.load(bundles["poyo"])).run(spikes()).prediction
        np.testing.assert_array_equal(a, Engine(str(bundles["poyo"])).run(spikes()).prediction)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"executor": "fast"}, "unknown executor 'fast'; known: auto, "),
            ({"dtype": "float16"}, "unknown dtype 'float16'; known: float32, float64"),
            ({"device": "tpu"}, "device must be cpu, cuda or cuda:N, got 'tpu'"),
            ({"device": "meta"}, "device must be cpu, cuda or cuda:N, got 'meta'"),
            ({"device": "cuda:99"}, "device must be there, got 'cuda:99' with "),
            ({"threads": 0}, "threads must be at least 1, got 0"),
        ],
    )
    def test_what_is_not_to_be_had(
        self, bundles: dict[str, Path], options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(AttendriteError, match=re.escape(message)):
            Engine(bundles["poyo"], **options)

    def test_an_executor_that_refuses_is_not_replaced(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from attendrite.executors import torch as module

        monkeypatch.setattr(module, "refuses", lambda **request: "is on holiday")
        with pytest.raises(AttendriteError, match="executor 'torch' is on holiday"):
            Engine(bundles["poyo"], executor="torch")
        assert Engine(bundles["poyo"], dtype="float64").executor == "reference"

    def test_weights_that_do_not_fit_the_manifest(self, bundles: dict[str, Path]) -> None:
        bundle = Bundle.load(bundles["poyo"])
        config = {**bundle.manifest.config, "depth": 4}
        with pytest.raises(AttendriteError, match=r"must hold 'proc_layers.3.0.norm.weight'"):
            Engine(Bundle(replace(bundle.manifest, config=config), bundle.weights))
        with pytest.raises(AttendriteError, match="unknown model family 'poyo9'; known: "):
            Engine(Bundle(replace(bundle.manifest, family="poyo9"), bundle.weights))
        for name, value in (
            ("dim", "32"), ("depth", -1), ("latent_step", None), ("dim", True), ("depth", 10**9),
            ("sequence_length", 10**400), ("latent_step", 1e300),
        ):  # fmt: skip
            config = {**bundle.manifest.config, name: value}
            with pytest.raises(AttendriteError, match=f"config '{name}' must be a"):
                Engine(Bundle(replace(bundle.manifest, config=config), bundle.weights))

    def test_more_latents_than_anyone_has(self, bundles: dict[str, Path]) -> None:
        bundle = Bundle.load(bundles["poyo"])
        length = bundle.manifest.config["sequence_length"]
        config = {**bundle.manifest.config, "latent_step": length / 60_000}
        with pytest.raises(AttendriteError, match="latents of a window must be at most 65536"):
            Engine(Bundle(replace(bundle.manifest, config=config), bundle.weights))

    def test_weights_that_a_model_cannot_do_without(self, bundles: dict[str, Path]) -> None:
        bundle = Bundle.load(bundles["poyo"])
        for name in bundle.weights:
            rest = {key: t for key, t in bundle.weights.items() if key != name}
            with pytest.raises(AttendriteError, match=f"must hold (rows of )?'{name}', got none"):
                Engine(Bundle(bundle.manifest, rest))
            flat = bundle.weights | {name: bundle.weights[name].flatten()[:1].reshape(())}
            with pytest.raises(AttendriteError, match=f"weights .*'{name}'.*, got \\[\\]"):
                Engine(Bundle(bundle.manifest, flat))

    def test_a_task_beyond_the_table(self, bundles: dict[str, Path]) -> None:
        bundle = Bundle.load(bundles["poyo_plus"])
        tasks = (replace(bundle.manifest.tasks[0], id=10**6), *bundle.manifest.tasks[1:])
        with pytest.raises(AttendriteError, match="id of task 'cursor_velocity_2d' must be below"):
            Engine(Bundle(replace(bundle.manifest, tasks=tasks), bundle.weights))


class TestNothingChanges:
    @pytest.mark.parametrize("size", [1, 2, 3, 1000])
    @pytest.mark.parametrize("family", ["poyo", "poyo_plus", "calcium_poyo_plus"])
    def test_batch_size(self, bundles: dict[str, Path], family: str, size: int) -> None:
        engine = Engine(bundles[family], dtype="float64")
        batch = spikes() if family == "poyo" else tasked(family)
        whole = engine.run(batch, EVERYTHING)
        parts = engine.run(batch, EVERYTHING, batch_size=size)
        assert_same(whole.prediction, parts.prediction)
        assert set(whole.prediction_index) == set(parts.prediction_index)
        assert whole.attention is not None
        assert parts.attention is not None
        assert_same(whole.attention.arrays(), parts.attention.arrays())

    @pytest.mark.parametrize(("size", "parts"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3])])
    def test_batch_size_is_the_most(
        self, engine: Engine, size: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen, inputs = [], engine.model.inputs

        def counted(batch: SpikeBatch) -> Any:
            seen.append(len(batch))
            return inputs(batch)

        monkeypatch.setattr(engine.model, "inputs", counted)
        engine.run(spikes(), batch_size=size)
        assert seen == parts

    def test_executors(self, bundles: dict[str, Path]) -> None:
        for family in bundles:
            batch = spikes() if family == "poyo" else tasked(family)
            results = [
                Engine(bundles[family], executor=name, dtype="float64").run(batch, EVERYTHING)
                for name in EXECUTORS
            ]
            for other in results[1:]:
                assert_same(results[0].prediction, other.prediction)
                assert_same(results[0].attention.arrays(), other.attention.arrays())  # type: ignore[union-attr]

    def test_capturing(self, engine: Engine) -> None:
        plain = engine.run(spikes())
        assert plain.attention is None
        assert_same(plain.prediction, engine.run(spikes(), EVERYTHING).prediction)

    def test_the_order_of_units(self, engine: Engine) -> None:
        batch = spikes()
        order = np.random.default_rng(1).permutation(24)
        moved = replace(batch, unit_ids=batch.unit_ids[order], units=np.argsort(order)[batch.units])
        capture = Capture({"encoder": "per_unit"})
        a, b = engine.run(batch, capture), engine.run(moved, capture)
        assert_same(a.prediction, b.prediction)
        assert a.attention is not None
        assert b.attention is not None
        assert_same(
            a.attention["encoder", "per_unit"][..., order], b.attention["encoder", "per_unit"]
        )

    def test_threads(self, bundles: dict[str, Path]) -> None:
        before = torch.get_num_threads()
        a = Engine(bundles["poyo"], dtype="float64", threads=1).run(spikes())
        b = Engine(bundles["poyo"], dtype="float64", threads=2).run(spikes())
        assert torch.get_num_threads() == before
        assert_same(a.prediction, b.prediction)
        assert (a.meta["threads"], b.meta["threads"]) == (1, 2)

    def test_threads_are_given_back_after_a_failure(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = Engine(bundles["poyo"], threads=torch.get_num_threads() + 1)

        def fail(*args: Any) -> None:
            raise RuntimeError

        before = torch.get_num_threads()
        monkeypatch.setattr(engine.model, "inputs", fail)
        with pytest.raises(RuntimeError):
            engine.run(spikes())
        assert torch.get_num_threads() == before

    def test_spikes_of_other_windows(self, engine: Engine) -> None:
        batch = spikes()
        whole = engine.run(batch).prediction
        for w in range(3):
            assert_same(whole[w : w + 1], engine.run(batch.part(w, w + 1)).prediction)

    @settings(max_examples=10)
    @given(seed=st.integers(0, 1000), counts=st.lists(st.integers(0, 40), max_size=4))
    def test_any_batch_splits(self, engine: Engine, seed: int, counts: list[int]) -> None:
        batch = spikes(tuple(counts), seed=seed)
        capture = Capture({"encoder": ["per_unit:spikes", "per_key"]})
        whole, parts = engine.run(batch, capture), engine.run(batch, capture, batch_size=1)
        assert_same(whole.prediction, parts.prediction)
        assert whole.attention is not None
        assert parts.attention is not None
        assert_same(whole.attention.arrays(), parts.attention.arrays())
        assert len(whole.prediction) == len(counts)


def assert_same(a: Any, b: Any) -> None:
    """Equal up to rounding of float64."""
    if isinstance(a, dict):
        assert set(a) == set(b)
        for name in a:
            assert_same(a[name], b[name])
        return
    assert a.dtype == b.dtype
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


class TestUnits:
    def test_a_silent_unit_is_not_an_absent_one(self, engine: Engine) -> None:
        batch = spikes((30,), n_units=20)
        with_silent = replace(batch, unit_ids=UNITS)
        absent = replace(with_silent, window_units=np.arange(24)[None] < 20)
        assert_same(engine.run(batch).prediction, engine.run(absent).prediction)
        difference = engine.run(with_silent).prediction - engine.run(batch).prediction
        assert np.abs(difference).max() > 1e-3

    def test_per_unit_counts_start_and_end_when_asked(self, engine: Engine) -> None:
        batch = replace(spikes((30,), n_units=20), unit_ids=UNITS)
        sums = {}
        for tokens in ("all", "spikes"):
            capture = Capture({"encoder": [f"per_unit:{tokens}", "per_key"]})
            record = engine.run(batch, capture).attention
            assert record is not None
            sums[tokens] = record["encoder", "per_unit"][0]
            spike = record.tokens["encoder"].type[0] == 0
            per_key = record["encoder", "per_key"][0]
            kept = per_key if tokens == "all" else per_key[:, spike]
            np.testing.assert_allclose(sums[tokens].sum(1), kept.sum(1), atol=1e-10)
        silent = ~np.isin(np.arange(24), batch.units)
        assert silent[20:].all()
        assert (sums["spikes"][:, silent] == 0).all()
        assert (sums["all"][:, silent] > 0).all()
        np.testing.assert_allclose(sums["all"].sum(1), 64, atol=1e-10)  # queries, not 1

    def test_spikes_of_absent_units_are_no_tokens(self, engine: Engine) -> None:
        batch = spikes((40,))
        present = np.ones((1, 24), dtype=bool)
        present[0, 5] = False
        kept = batch.units != 5
        left = replace(
            batch, times=batch.times[kept], units=batch.units[kept], window=batch.window[kept]
        )
        a = engine.run(replace(batch, window_units=present)).prediction
        assert_same(a, engine.run(replace(left, window_units=present)).prediction)

    def test_one_unit_without_spikes(self, engine: Engine) -> None:
        found = engine.run(spikes((0,), n_units=1), EVERYTHING)
        assert np.isfinite(found.prediction).all()
        assert found.attention is not None
        assert found.attention["encoder", "weights"].shape == (1, 2, 64, 2)

    def test_many_spikes(self, engine: Engine) -> None:
        assert np.isfinite(engine.run(spikes((1000, 17))).prediction).all()

    def test_no_windows(self, bundles: dict[str, Path], engine: Engine) -> None:
        found = engine.run(spikes(()), EVERYTHING)
        assert found.prediction.shape == (0, 4, 2)
        assert found.attention is not None
        assert found.attention["encoder", "per_query_unit"].shape == (0, 2, 64, 24)

    def test_no_queries(self, engine: Engine) -> None:
        batch = replace(spikes(), query_times=np.zeros((3, 0)))
        found = engine.run(batch, Capture({"decoder": ["per_key", "weights"]}))
        assert found.prediction.shape == (3, 0, 2)
        assert found.attention is not None
        assert (found.attention["decoder", "per_key"] == 0).all()


class TestQueriesWithTasks:
    @pytest.mark.parametrize("family", ["poyo_plus", "calcium_poyo_plus"])
    def test_a_query_that_is_not_there_counts_for_nothing(
        self, bundles: dict[str, Path], family: str
    ) -> None:
        engine = Engine(bundles[family], dtype="float64")
        batch = tasked(family)
        asked = batch.query_task != ""
        assert 0 < asked.sum() < asked.size
        decoder = Capture({"decoder": ["weights", "per_key", "entropy", "lse", "lag", "top_k:2"]})
        record = engine.run(batch, decoder).attention
        assert record is not None
        np.testing.assert_allclose(
            record["decoder", "per_key"].sum(2), asked.sum(1)[:, None].repeat(2, 1), atol=1e-10
        )
        gone = ~asked[:, None].repeat(2, 1)
        for name in ("weights", "entropy", "lse", "lag", "top_k.weight"):
            assert (record["decoder", name][gone] == 0).all(), name
        assert (record["decoder", "top_k.key"][gone] == -1).all()
        moved = np.where(asked, batch.query_times, 0.123)
        assert_same(
            engine.run(batch).prediction, engine.run(replace(batch, query_times=moved)).prediction
        )

    @pytest.mark.parametrize("family", ["poyo_plus", "calcium_poyo_plus"])
    def test_rows_go_window_by_window(self, bundles: dict[str, Path], family: str) -> None:
        engine = Engine(bundles[family], dtype="float64")
        batch = tasked(family)
        whole = engine.run(batch)
        assert set(whole.prediction) == set(batch.query_task.ravel()) - {""}
        for task, values in whole.prediction.items():
            index = whole.prediction_index[task]
            assert len(index) == len(values)
            for (w, q), value in zip(index, values, strict=True):
                one = replace(
                    batch.part(w, w + 1),
                    query_times=batch.query_times[w : w + 1, q : q + 1],
                    query_task=batch.query_task[w : w + 1, q : q + 1],
                )
                assert_same(engine.run(one).prediction[task][0], value)

    def test_no_task_at_all(self, bundles: dict[str, Path]) -> None:
        engine = Engine(bundles["poyo_plus"])
        batch = replace(tasked("poyo_plus"), query_task=np.full((3, 5), ""))
        found = engine.run(batch)
        assert found.prediction == {}
        assert found.prediction_index == {}


class TestOnlyWhatIsAsked:
    def test_plain_inference_never_writes_weights_out(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("weights written out")

        batch = spikes()
        engines = [Engine(bundles["poyo"], dtype=dtype) for dtype in ("float32", "float64")]
        monkeypatch.setattr(reference, "run", refuse)
        for engine in engines:
            engine.run(batch)
        engines[0].run(batch, Capture({"decoder": "lse", "encoder": "per_unit"}))
        with pytest.raises(AssertionError, match="weights written out"):  # no kernel of our own
            engines[1].run(batch, Capture({"decoder": "lse"}))

    def test_only_the_site_that_is_asked(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[frozenset[str]] = []
        run: Callable[..., Any] = native.run

        def spy(problem: Any) -> Any:
            seen.append(problem.statistics)
            return run(problem)

        monkeypatch.setattr(native, "run", spy)
        Engine(bundles["poyo"], executor="torch").run(spikes(), Capture({"processor.1": "entropy"}))
        nothing: frozenset[str] = frozenset()
        assert seen == [nothing, nothing, {"entropy"}, nothing, nothing]


class TestGradients:
    def test_the_reference_is_differentiable(self, bundles: dict[str, Path]) -> None:
        """A step along the gradient of the unit table changes the output as it says."""
        engine = Engine(bundles["poyo"], executor="reference", dtype="float64")
        weights = dict(engine.model.layers.weights)
        table = weights["unit_emb.weight"].clone().requires_grad_()
        direction = torch.randn(table.shape, generator=torch.Generator().manual_seed(0)).double()
        layers = engine.model.layers
        inputs = engine.model.inputs(spikes())

        def output(unit_table: torch.Tensor) -> torch.Tensor:
            bound = {**weights, "unit_emb.weight": unit_table}
            engine.model.layers = type(layers)(layers.config, bound, layers.omega)
            prediction, captured = engine._executor.run(
                inputs, Capture({"encoder": "per_unit"}).plan(engine.sites)
            )
            assert isinstance(prediction, torch.Tensor)
            return prediction.square().sum() + captured["encoder", "per_unit"].square().sum()

        (gradient,) = torch.autograd.grad(output(table), table)
        step = 1e-6
        with torch.no_grad():
            change = output(table + step * direction) - output(table - step * direction)
        slope = float(change) / (2 * step)
        assert abs(slope - float((gradient * direction).sum())) < 1e-6 * abs(slope)


class TestMeta:
    def test_everything_is_said(self, bundles: dict[str, Path]) -> None:
        import json

        engine = Engine(bundles["poyo"], dtype="float64", threads=1)
        meta = engine.run(spikes(), Capture({"encoder": "per_unit:spikes"})).meta
        assert json.loads(json.dumps(meta)) == meta
        assert (meta["executor"], meta["device"], meta["dtype"]) == ("torch", "cpu", "float64")
        assert meta["threads"] == 1
        assert meta["family"] == "poyo"
        assert meta["versions"]["attendrite"] == attendrite.__version__
        assert meta["versions"]["torch"] == torch.__version__
        assert meta["seconds"] > 0
        assert meta["choices"]["capture"] == ["encoder:per_unit:spikes"]


class TestBatches:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"times": [0.2, 0.1, 0.3]},
                "times must be sorted within a window, got times[1] = 0.1",
            ),
            ({"times": [0.1, np.nan, 0.3]}, "times must be finite, got times[1] = nan"),
            ({"times": [0.1, np.inf, 0.3]}, "times must be finite, got times[1] = inf"),
            (
                {"times": np.float32([0.1, 0.2, 0.3])},
                "times must be an array of float64, got float32",
            ),
            ({"times": [[0.1, 0.2, 0.3]]}, "times must have shape [n], got [1, 3]"),
            ({"units": [0, 1]}, "units must have shape [3], got [2]"),
            ({"units": [0.0, 1.0, 1.0]}, "units must be an array of integer, got float64"),
            (
                {"units": [0, 2, 1]},
                "units must lie in 0..1, the indices of unit_ids, got units[1] = 2",
            ),
            (
                {"units": [0, -1, 1]},
                "units must lie in 0..1, the indices of unit_ids, got units[1]",
            ),
            ({"window": [1, 0, 0]}, "window must be sorted, got window[1] = 0 after 1"),
            (
                {"window": np.array([1, 0, 0], np.uint8)},
                "window must be sorted, got window[1] = 0 after 1",
            ),
            ({"window": [0, 0, 2]}, "window must lie in 0..1, the indices of session"),
            ({"unit_ids": ["a", "a"]}, "unit_ids must be distinct, got 'a' twice"),
            ({"unit_ids": [0, 1]}, "unit_ids must be an array of strings, got int64"),
            (
                {"unit_ids": np.array(["a", 1], object)},
                "unit_ids must be an array of strings, got obj",
            ),
            ({"unit_ids": [["a"], ["b"]]}, "unit_ids must have shape [U], got [2, 1]"),
            ({"session": "sess_a"}, "session must have shape [B], got []"),
            ({"query_times": [[0.1]]}, "query_times must have shape [2, Q], got [1, 1]"),
            (
                {"query_times": [[0.1], [np.nan]]},
                "query_times must be finite, got query_times[1, 0]",
            ),
            ({"query_times": [[1], [2]]}, "query_times must be an array of float64, got int64"),
            ({"query_task": ["a"]}, "query_task must have shape [2, 1], got [1]"),
            (
                {"window_units": [[1, 1], [1, 1]]},
                "window_units must be an array of bool, got int64",
            ),
            ({"window_units": [[True, True]]}, "window_units must have shape [2, 2], got [1, 2]"),
            (
                {"window_units": [[True, True], [False, False]]},
                "window_units must keep at least one unit in every window, got none in 1",
            ),
        ],
    )
    def test_unsound_spikes(self, change: dict[str, Any], message: str) -> None:
        sound: dict[str, Any] = {
            "times": [0.1, 0.2, 0.3],
            "units": [0, 1, 1],
            "window": [0, 0, 0],
            "unit_ids": ["a", "b"],
            "session": ["s", "s"],
            "query_times": [[0.5], [0.6]],
        }
        SpikeBatch(**sound)
        with pytest.raises(AttendriteError, match=re.escape(message)):
            SpikeBatch(**(sound | change))

    def test_no_units(self) -> None:
        with pytest.raises(AttendriteError, match="unit_ids must name at least one unit, got none"):
            SpikeBatch(
                times=np.zeros(0), units=np.zeros(0, int), window=np.zeros(0, int),
                unit_ids=np.zeros(0, str), session=["s"], query_times=[[0.5]],
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"values": np.full((1, 2, 1), np.nan)}, "values must be finite, got values[0, 0, 0]"),
            ({"values": np.zeros((1, 2, 2))}, "values must have shape [1, 2, 1], got [1, 2, 2]"),
            ({"values": np.zeros((1, 2, 1), int)}, "values must be float32 or float64, got int64"),
            ({"values": np.zeros((1, 2, 1), "f2")}, "values must be float32 or float64, got float"),
            ({"values": np.zeros((1, 2, 1), "f16")}, "values must be float32 or float64, got"),
            (
                {"times": [[0.2, 0.1]]},
                "times must be sorted within a window, got times[0, 1] = 0.1",
            ),
            ({"times": [0.1, 0.2]}, "times must have shape [1, T], got [2]"),
            ({"n_frames": [3]}, "n_frames must lie in 0..2"),
            ({"n_frames": [1.0]}, "n_frames must be an array of integer, got float64"),
        ],
    )
    def test_unsound_frames(self, change: dict[str, Any], message: str) -> None:
        sound: dict[str, Any] = {
            "values": np.zeros((1, 2, 1)),
            "times": [[0.1, 0.2]],
            "unit_ids": ["a"],
            "session": ["s"],
            "query_times": [[0.5]],
            "query_task": [["t"]],
        }
        CalciumBatch(**sound)
        with pytest.raises(AttendriteError, match=re.escape(message)):
            CalciumBatch(**(sound | change))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"times": [-1e-9]}, "times must lie in 0 <= t < 1.0 s, the window of the model, got"),
            ({"times": [1.0]}, "times must lie in 0 <= t < 1.0 s, the window of the model, got"),
            (
                {"unit_ids": ["stranger"]},
                "every unit must be known to the model, got 'stranger' (1 of",
            ),
            (
                {"unit_ids": [*UNITS[:22], "y", "x"]},
                "every unit must be known to the model, got 'y', 'x' (2 of 24 unknown)",
            ),
            ({"unit_ids": ["NA"]}, "every unit must be known to the model, got 'NA'"),
            (
                {"session": ["sess_b"]},
                "every session must be known to the model, got 'sess_b' (1 of 1",
            ),
            ({"session": ["NA"]}, "every session must be known to the model, got 'NA'"),
            ({"query_task": [["a"]]}, "query_task must be absent for a model with one read-out"),
        ],
    )
    def test_what_the_model_does_not_know(
        self, engine: Engine, change: dict[str, Any], message: str
    ) -> None:
        sound: dict[str, Any] = {
            "times": [np.nextafter(1.0, 0)],
            "units": [0],
            "window": [0],
            "unit_ids": UNITS[:1],
            "session": ["sess_a"],
            "query_times": [[1.0]],
        }
        engine.run(SpikeBatch(**sound))
        with pytest.raises(AttendriteError, match=re.escape(message)):
            engine.run(SpikeBatch(**(sound | change)))

    def test_tasks_that_the_model_does_not_know(self, bundles: dict[str, Path]) -> None:
        engine = Engine(bundles["poyo_plus"])
        batch = tasked("poyo_plus")
        with pytest.raises(
            AttendriteError, match="unknown task 'whisking'; known: cursor_velocity"
        ):
            engine.run(replace(batch, query_task=np.full((3, 5), "whisking")))
        with pytest.raises(
            AttendriteError, match="query_task must be given for a model with tasks"
        ):
            engine.run(replace(batch, query_task=None))

    def test_another_kind_of_input(self, bundles: dict[str, Path], engine: Engine) -> None:
        with pytest.raises(
            AttendriteError, match="input of a poyo model must be a SpikeBatch, got CalciumBatch"
        ):
            engine.run(tasked("calcium_poyo_plus"))
        with pytest.raises(AttendriteError, match="batch_size must be at least 1, got 0"):
            engine.run(spikes(), batch_size=0)


class TestFromRecordings:
    @pytest.fixture
    def recording(self) -> Recording:
        trains = {
            UNITS[0]: np.array([9.9, 10.0, 10.5, 11.0]),
            UNITS[1]: np.array([10.25, 10.9999997, 11.5]),
        }
        return Recording.from_trains("sess_a", trains, domain=(9.0, 12.0))

    def test_windows_are_cut_on_ticks(self, recording: Recording) -> None:
        starts = np.array([10.0, 9.9000004, 10.5])
        batch = SpikeBatch.from_recording(recording, starts, 1.0, np.array([0.5, 1.0]))
        found = [
            (batch.times[batch.window == w], batch.units[batch.window == w].tolist())
            for w in range(3)
        ]
        np.testing.assert_allclose(found[0][0], [0, 0.25, 0.5], atol=1e-12)
        assert found[0][1] == [0, 1, 0]  # 10.9999997 is on the tick of the end: outside
        np.testing.assert_allclose(found[1][0], [0, 0.0999996, 0.3499996, 0.5999996], atol=1e-9)
        assert found[1][0][0] == 0  # 9.9 is half a tick before: on the start
        np.testing.assert_allclose(found[2][0], [0, 0.4999997, 0.5], atol=1e-12)
        assert batch.query_times.tolist() == [[0.5, 1.0]] * 3
        assert batch.session.tolist() == ["sess_a"] * 3
        assert batch.unit_ids.tolist() == UNITS[:2]

    def test_as_the_engine_takes_them(self, recording: Recording, engine: Engine) -> None:
        starts = np.array([9.9, 10.0, 9.5])
        batch = SpikeBatch.from_recording(recording, starts, 1.0, np.array([[0.1], [0.2], [0.3]]))
        by_hand = [
            SpikeBatch.from_recording(
                recording, starts[w : w + 1], 1.0, batch.query_times[w : w + 1]
            )
            for w in range(3)
        ]
        whole = engine.run(batch).prediction
        for w in range(3):
            assert_same(whole[w : w + 1], engine.run(by_hand[w]).prediction)

    def test_bad_starts(self, recording: Recording) -> None:
        queries = np.array([0.5])
        with pytest.raises(AttendriteError, match="starts must be finite, got starts"):
            SpikeBatch.from_recording(recording, np.array([np.nan]), 1.0, queries)
        with pytest.raises(AttendriteError, match="length must be a whole number of ticks"):
            SpikeBatch.from_recording(recording, np.array([10.0]), 1e-7, queries)
        with pytest.raises(AttendriteError, match="the recording must have fluorescence traces"):
            CalciumBatch.from_recording(recording, np.array([10.0]), 1.0, queries)

    def test_frames(self, bundles: dict[str, Path]) -> None:
        rng = np.random.default_rng(0)
        times = np.arange(40) * 0.1 + 5.03
        traces = Series(times, rng.normal(size=(40, 3)), ("u3", "u1", "u7"))
        recording = Recording(
            session="s1", unit_ids=("u3", "u1", "u7"), load_spikes=Spikes.none,
            domain=(5.0, 9.1), traces=traces,
        )  # fmt: skip
        starts = np.array([5.0, 6.05, 8.5])  # the last window has fewer frames
        task = np.full((3, 2), TASKS[0])
        batch = CalciumBatch.from_recording(
            recording, starts, 1.0, np.array([0.2, 0.9]), query_task=task
        )
        assert batch.n_frames.tolist() == [10, 10, 5]  # type: ignore[union-attr]
        np.testing.assert_allclose(batch.times[0], np.arange(10) * 0.1 + 0.03, atol=1e-12)
        np.testing.assert_array_equal(batch.values[2, :5], traces.values[35:])
        engine = Engine(bundles["calcium_poyo_plus"], dtype="float64")
        capture = Capture({"encoder": ["weights", "per_unit"]})
        whole = engine.run(batch, capture)
        last = CalciumBatch.from_recording(
            recording, starts[2:], 1.0, np.array([0.2, 0.9]), query_task=task[:1]
        )
        assert_same(whole.prediction[TASKS[0]][4:], engine.run(last).prediction[TASKS[0]])
        assert_same(whole.prediction, engine.run(batch, batch_size=2).prediction)
        assert whole.attention is not None
        assert whole.attention.tokens["encoder"].lengths.tolist() == [30, 30, 15]
        assert (whole.attention["encoder", "weights"][2, ..., 15:] == 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("family", ["poyo", "poyo_plus", "calcium_poyo_plus"])
def test_cuda_gives_the_same(bundles: dict[str, Path], family: str, executor: str) -> None:
    batch = spikes() if family == "poyo" else tasked(family)
    here = Engine(bundles[family], dtype="float64").run(batch, EVERYTHING)
    there = Engine(bundles[family], executor, device="cuda", dtype="float64").run(batch, EVERYTHING)
    assert_same(here.prediction, there.prediction)
    assert here.attention is not None
    assert there.attention is not None
    assert_same(here.attention.arrays(), there.attention.arrays())
    assert there.meta["device_name"] != "cpu"

"""Executor `triton`: shapes, staging and what a graph may hold; on the CPU nothing is captured."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, CalciumBatch, Capture, Engine, SpikeBatch, executors
from attendrite.executors import _graphs
from attendrite.executors._graphs import GraphExecutor, Staging, bucket
from attendrite.models._perceiver import PerceiverModel
from attendrite.models._perceiver_layers import KeysValues, Perceiver

HERE = Path(__file__).resolve().parent
SOURCES = {
    "poyo": "poyo_tiny/poyo_tiny_lightning.ckpt",
    "poyo_plus": "poyo_plus_tiny/plus_tiny_lightning.ckpt",
    "calcium_poyo_plus": "poyo_plus_tiny/calcium_tiny_lightning.ckpt",
}
FAMILIES = list(SOURCES)
TASKS = ("cursor_velocity_2d", "cursor_position_2d", "arm_velocity_2d")
EVERYTHING = Capture(
    {
        "*": ["weights", "per_key", "entropy", "lse", "lag", "top_k:3", "head_output"],
        "encoder": ["per_unit:spikes", "per_query_unit", "partials"],
    }
)
SOME = Capture({"encoder": ["per_unit:spikes", "entropy"], "processor.0": "per_key"})
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        name: attendrite.export(HERE / "fixtures" / source, folder / name)
        for name, source in SOURCES.items()
    }


def batch(family: str, seed: int = 0, n: int = 40, first: int = 0, windows: int = 3) -> Any:
    """Make windows of about ``n`` tokens, of ten units from the ``first`` one on."""
    rng = np.random.default_rng(seed)
    ids = [f"u{i}" for i in range(first, first + 10)]
    queries = {"session": ["s0", "s1", "s0"][:windows], "query_times": rng.random((windows, 5))}
    if family != "poyo":
        queries["query_task"] = rng.choice(["", *TASKS], (windows, 5))
    else:
        ids = [f"sess_a/unit_{i:04d}" for i in range(first, first + 10)]
        queries["session"] = ["sess_a"] * windows
    if family == "calcium_poyo_plus":
        frames = max(1, n // 10)
        times = np.sort(rng.random((windows, frames)), axis=1)
        return CalciumBatch(rng.normal(size=(windows, frames, 10)), times, unit_ids=ids, **queries)
    counts = rng.integers(n // 2, n, windows)
    window = np.repeat(np.arange(windows), counts)
    times = np.concatenate([np.sort(rng.random(count)) for count in counts])
    return SpikeBatch(
        times, rng.integers(0, 10, len(times)), window, unit_ids=np.array(ids), **queries
    )


def staged(bundle: Path, dtype: str = "float64") -> Engine:
    """Return an engine whose passes go through the buffers of graphs, on the CPU."""
    engine = Engine(bundle, executor="torch", dtype=dtype)
    assert isinstance(engine.model, PerceiverModel)
    place, kind = torch.device("cpu"), getattr(torch, dtype)
    engine._executor = GraphExecutor(engine.model, place, kind, backend="reference")
    return engine


def assert_same(a: attendrite.Result, b: attendrite.Result) -> None:
    if isinstance(a.prediction, dict):
        assert isinstance(b.prediction, dict)
        assert list(a.prediction) == list(b.prediction)
        for task, x in a.prediction.items():
            np.testing.assert_allclose(x, b.prediction[task], rtol=0, atol=1e-12, err_msg=task)
    else:
        np.testing.assert_allclose(a.prediction, b.prediction, rtol=0, atol=1e-12)
    if a.attention is None or b.attention is None:
        assert a.attention is b.attention
        return
    left, right = a.attention.arrays(), b.attention.arrays()
    assert list(left) == list(right)
    for name, x in left.items():
        assert x.dtype == right[name].dtype
        np.testing.assert_allclose(x, right[name], rtol=0, atol=1e-11, err_msg=name)


def assert_close(a: attendrite.Result, exact: attendrite.Result) -> None:
    """Compare float32 with float64; which of nearly equal weights is larger may differ."""
    tasks = list(exact.prediction) if isinstance(exact.prediction, dict) else [...]
    for task in tasks:
        x, y = (r.prediction[task] for r in (a, exact))  # type: ignore[index]
        np.testing.assert_allclose(x, y, atol=2e-5, err_msg=str(task))
    assert a.attention is not None
    assert exact.attention is not None
    left, right = a.attention.arrays(), exact.attention.arrays()
    assert set(left) == set(right)
    for name in set(left) - {n for n in left if "top_k.key" in n}:
        np.testing.assert_allclose(left[name], right[name], atol=3e-5, rtol=1e-4, err_msg=name)


def test_buckets_are_eight_to_a_power_of_two() -> None:
    sizes = np.array([bucket(n) for n in range(1, 20000)])
    given = np.arange(1, 20000)
    assert (sizes >= given).all()
    assert (sizes - given <= np.maximum(63, given / 8)).all()
    assert all(bucket(size) == size for size in set(sizes.tolist()))
    assert sorted({s for s in sizes.tolist() if 1024 < s <= 2048}) == list(range(1152, 2049, 128))
    assert bucket(0) == 64


def test_staging_lays_tensors_side_by_side_and_keeps_them_apart() -> None:
    shapes: list[Any] = [((3,), torch.bool), ((2, 5), torch.float64), ((0, 4), torch.int64)]
    shapes.append(((), torch.float32))
    staging = Staging(shapes, torch.device("cpu"))
    for rooms in (staging.here, staging.there):
        assert [(tuple(x.shape), x.dtype) for x in rooms] == shapes
        assert all(x.data_ptr() % 8 == 0 for x in rooms)
    for i, x in enumerate(staging.here):
        x.fill_(i + 1)
    staging.push()
    assert [x.unique().tolist() for x in staging.there] == [[True], [2.0], [], [4.0]]
    staging.there[1].zero_()
    staging.pull()
    assert [x.unique().tolist() for x in staging.here] == [[True], [0.0], [], [4.0]]


class TestGivesWhatTorchGives:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_run_after_run(self, bundles: dict[str, Path], family: str) -> None:
        """Buffers hold what an earlier batch left: more tokens, other units, other tasks."""
        truth, engine = Engine(bundles[family], "torch", dtype="float64"), staged(bundles[family])
        many = {"seed": 1, "n": 60}, {"seed": 2, "n": 20}, {"seed": 3, "n": 90}
        for options in (*many, {"seed": 4}, {"seed": 5, "windows": 1}, many[0]):
            given = batch(family, **options)
            assert_same(engine.run(given, EVERYTHING), truth.run(given, EVERYTHING))
            assert_same(engine.run(given), truth.run(given))

    def test_other_units(self, bundles: dict[str, Path]) -> None:
        truth, engine = Engine(bundles["poyo"], "torch", dtype="float64"), staged(bundles["poyo"])
        for first in (0, 7, 0):
            given = batch("poyo", first=first)
            assert_same(engine.run(given, EVERYTHING), truth.run(given, EVERYTHING))
        assert len(graphs(engine)) == 1

    @pytest.mark.parametrize("family", FAMILIES)
    def test_what_runs_without_a_graph(self, bundles: dict[str, Path], family: str) -> None:
        truth, engine = Engine(bundles[family], "torch", dtype="float64"), staged(bundles[family])
        given = batch(family)
        a, b = (e.run(given, rollout="max") for e in (engine, truth))
        np.testing.assert_allclose(a.rollout, b.rollout, atol=1e-12)
        segments = (
            np.tile(np.arange(given.tokens(1.0).unit.shape[1]) % 4, (3, 1))
            if (family != "calcium_poyo_plus")
            else np.tile(np.arange(40) % 4, (3, 1))
        )
        for x, y in zip(engine.partials(given, segments, 4), truth.partials(given, segments, 4),
                        strict=True):  # fmt: skip
            np.testing.assert_allclose(x, y, atol=1e-12)
        site = truth.sites[-1]
        kept = np.arange(site.heads) > 0
        x, y = (e.masked(given, [{site.name: kept}, {}]) for e in (engine, truth))
        for task in y if isinstance(y, dict) else ("",):
            left, right = (z[task] if isinstance(z, dict) else z for z in (x, y))
            np.testing.assert_allclose(left, right, atol=1e-12)
        assert not graphs(engine)

    def test_nothing_to_attend_to_or_to_ask(self, bundles: dict[str, Path]) -> None:
        truth, engine = Engine(bundles["poyo"], "torch", dtype="float64"), staged(bundles["poyo"])
        whole = batch("poyo")
        none = {name: getattr(whole, name)[:0] for name in ("times", "units", "window")}
        silent = replace(whole, **none)
        mute = replace(whole, query_times=whole.query_times[:, :0])
        for given in (silent, mute, whole.part(0, 0)):
            assert_same(engine.run(given, EVERYTHING), truth.run(given, EVERYTHING))

    def test_what_is_too_large_to_be_staged(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_graphs, "STAGED", 4000)
        truth, engine = Engine(bundles["poyo"], "torch", dtype="float64"), staged(bundles["poyo"])
        for _ in range(2):
            assert_same(engine.run(batch("poyo"), EVERYTHING), truth.run(batch("poyo"), EVERYTHING))
            assert [x is None for x in graphs(engine).values()] == [True]
        assert_same(engine.run(batch("poyo")), truth.run(batch("poyo")))
        assert [x is None for x in graphs(engine).values()] == [True, False]

    def test_attention_that_torch_computes(self, bundles: dict[str, Path]) -> None:
        engine = staged(bundles["poyo"])
        model = engine.model
        assert isinstance(model, PerceiverModel)
        place = torch.device("cpu")
        engine._executor = GraphExecutor(model, place, torch.float64, backend="library")
        truth = Engine(bundles["poyo"], "torch", dtype="float64")
        assert_same(engine.run(batch("poyo"), EVERYTHING), truth.run(batch("poyo"), EVERYTHING))
        assert not graphs(engine)


def graphs(engine: Engine) -> dict[Any, Any]:
    executor = engine._executor
    assert isinstance(executor, GraphExecutor)
    return dict(executor._graphs)


class TestShapes:
    def test_one_graph_for_a_bucket(self, bundles: dict[str, Path]) -> None:
        engine = staged(bundles["poyo"])
        for n, expected in ((30, 1), (35, 1), (200, 2), (30, 2)):
            engine.run(batch("poyo", n=n))
            assert len(graphs(engine)) == expected
        engine.run(batch("poyo", n=30), Capture({"encoder": "per_unit"}))
        engine.run(batch("poyo", n=30), Capture({"encoder": "per_unit:spikes"}))
        engine.run(batch("poyo", n=30, windows=2))
        assert len(graphs(engine)) == 5

    def test_the_oldest_graph_goes(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_graphs, "KEPT", 2)
        engine = staged(bundles["poyo"])
        first, second, third = (batch("poyo", windows=n) for n in (1, 2, 3))
        engine.run(first)
        engine.run(second)
        (of_first, of_second) = graphs(engine)
        engine.run(first)
        engine.run(third)
        assert of_first in graphs(engine)
        assert of_second not in graphs(engine)
        assert len(graphs(engine)) == 2

    def test_results_are_not_written_over(self, bundles: dict[str, Path]) -> None:
        engine = staged(bundles["poyo"])
        plan, executor = EVERYTHING.plan(engine.sites), engine._executor
        inputs = [engine.model.inputs(batch("poyo", seed=seed)) for seed in (1, 2)]
        prediction, captured = executor.run(inputs[0], plan)
        before = {"": prediction.clone(), **{key: x.clone() for key, x in captured.items()}}
        executor.run(inputs[1], plan)
        for name, x in {"": prediction, **captured}.items():
            assert torch.equal(before[name], x), name


class TestChoice:
    def test_what_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def reason(**change: str) -> str | None:
            wanted = {"family": "poyo", "device": "cuda", "dtype": "float32", **change}
            return executors.refusals(**wanted)["triton"]

        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
        assert reason() is None
        assert reason(family="v1t") == (
            "captures models with an encoder of tokens, got v1t; use executor torch"
        )
        assert reason(device="cpu") == "runs on cuda, got cpu; use executor native or torch"
        assert reason(dtype="float64") == "computes in float32, got float64"
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert reason() == "needs the package triton; pip install 'attendrite[triton]'"

    @needs_triton
    def test_auto_takes_it_on_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        on_cuda = {"family": "poyo", "device": "cuda"}
        assert executors.choose("auto", **on_cuda, dtype="float32")[0] == "triton"
        assert executors.choose("auto", **on_cuda, dtype="float64")[0] == "torch"

    def test_a_model_that_cannot_be_captured(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(self: Any) -> None:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        monkeypatch.setattr(_graphs._Graph, "_warm", fails)
        message = r"captured as a CUDA graph, got operation not permitted .*; use executor torch$"
        with pytest.raises(AttendriteError, match=message):
            staged(bundles["poyo"]).run(batch("poyo"))


@needs_triton
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("capture", [Capture({}), EVERYTHING], ids=["plain", "everything"])
def test_nothing_that_is_captured_reads_a_number_on_the_host(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, family: str, capture: Capture
) -> None:
    """Run the pass on tensors that have no numbers: whoever reads one fails."""
    launched = []
    kernels = "attendrite.kernels.attention"
    launches = importlib.import_module(f"{kernels}._launch")
    monkeypatch.setattr(
        launches._Call, "_launch", lambda self, kernel, *sizes, **more: launched.append(kernel)
    )
    monkeypatch.setattr(launches, "aligned", lambda x: x)  # asks for addresses
    backend = importlib.import_module(f"{kernels}.triton")
    monkeypatch.setattr(backend, "refuses", lambda **request: None)
    engine = Engine(bundles[family], executor="torch")
    engine.run(batch(family))  # what is kept of the first run
    model, nowhere = engine.model, torch.device("meta")
    assert isinstance(model, PerceiverModel)
    inputs = model.inputs(batch(family))
    tables = None if inputs.keys.rows is None else model.token_keys(inputs)
    layers = model.layers
    weights = {name: x.to(nowhere) for name, x in layers.weights.items()}
    model.layers = Perceiver(layers.config, weights, layers.omega.to(nowhere))
    model.layers.__dict__["latent_times"] = layers.latent_times.to(nowhere)
    executor = GraphExecutor(model, nowhere, torch.float32, backend=None)
    assert executor.choices["attention"] == "triton"
    graph = object.__new__(_graphs._Graph)
    graph._model, graph._through = model, executor._through
    graph._plan = capture.plan(model.sites)
    graph._static = executor._moved(inputs)
    graph._tables = None if tables is None else KeysValues(*(x.to(nowhere) for x in tables))
    with torch.inference_mode():
        found = graph._work()
    assert launched
    assert all(x.is_meta for x in found.values())
    assert {site for site, _ in found} == {"prediction", *graph._plan}


@needs_triton
@pytest.mark.slow
def test_interpreted(bundles: dict[str, Path]) -> None:
    """The kernels in place, in a process of its own: TRITON_INTERPRET is read at import."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from attendrite import Engine
from attendrite.kernels.attention import _configs
import test_graphs as suite
_configs.MULTIPROCESSORS = 4  # fewer splits: each program costs the interpreter 20 ms
for family, path in zip(suite.FAMILIES, sys.argv[2:]):
    engine = Engine(path, executor="triton")
    truth = Engine(path, executor="reference", dtype="float64")
    for seed in (1, 2):
        given = suite.batch(family, seed=seed, n=20, windows=1)
        a, b = (e.run(given, suite.SOME) for e in (engine, truth))
        assert a.meta["choices"] == b.meta["choices"] | {
            "attention": "triton", "graph": "none, on the CPU"
        }
        suite.assert_close(a, b)
print("interpreted", len(suite.FAMILIES))
"""
    variables = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    paths = [str(bundles[family]) for family in FAMILIES]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(HERE), *paths],
        capture_output=True, text=True, timeout=900, env=variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "interpreted 3"


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu(bundles: dict[str, Path], family: str) -> None:
    truth = Engine(bundles[family], executor="reference", dtype="float64")
    engine = Engine(bundles[family], device="cuda")
    assert engine.executor == "triton"
    for options in ({"seed": 1, "n": 60}, {"seed": 2, "n": 20}, {"first": 7}, {"windows": 1}):
        if family != "poyo":
            options.pop("first", None)
        given = batch(family, **options)
        exact = truth.run(given, EVERYTHING)
        first, again = engine.run(given, EVERYTHING), engine.run(given, EVERYTHING)
        assert_same(first, again)
        assert_close(first, exact)
    assert any(graph is not None for graph in graphs(engine).values())
    assert engine.run(batch(family)).meta["choices"]["graph"] == "captured"

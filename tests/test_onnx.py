"""The ONNX graph: the numbers of the executors of torch, in a file that others can read and run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, Bundle, CalciumBatch, Capture, Engine, SpikeBatch, models
from attendrite.__main__ import main
from attendrite.bundle import GRAPH, MANIFEST, Manifest, Task
from attendrite.executors import onnx as executor

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
from attendrite import graph  # noqa: E402  which needs onnx

FIXTURES = Path(__file__).parent / "fixtures"
CHECKPOINTS = {
    "poyo": FIXTURES / "poyo_tiny" / "poyo_tiny_lightning.ckpt",
    "poyo_plus": FIXTURES / "poyo_plus_tiny" / "plus_tiny_lightning.ckpt",
    "calcium_poyo_plus": FIXTURES / "poyo_plus_tiny" / "calcium_tiny_lightning.ckpt",
}
UNITS = {
    "poyo": [f"sess_a/unit_{i:04d}" for i in range(24)],
    "poyo_plus": [f"u{i}" for i in range(10)],
    "calcium_poyo_plus": [f"u{i}" for i in range(10)],
}
SESSIONS = {"poyo": ("sess_a",), "poyo_plus": ("s0", "s1"), "calcium_poyo_plus": ("s0", "s1")}
TASKS = ("cursor_velocity_2d", "cursor_position_2d", "arm_velocity_2d")
ANYWHERE = ["weights", "per_key", "entropy", "lse"]
EVERYTHING = Capture({"*": ANYWHERE, "encoder": ["per_unit:spikes", "per_query_unit"]})
NOT_GIVEN = ("top_k:3", "lag", "head_output", "partials")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {n: attendrite.export(source, folder / n) for n, source in CHECKPOINTS.items()}


def batch_for(
    family: str,
    counts: tuple[int, ...] = (30, 0, 55),
    queries: int = 4,
    units: list[str] | None = None,
    sessions: tuple[str, ...] | None = None,
    tasks: tuple[str, ...] = TASKS,
    length: float = 1.0,
    seed: int = 0,
) -> Any:
    """Return windows of as many spikes, or of as many frames of fluorescence."""
    rng = np.random.default_rng(seed)
    units, sessions = units or UNITS[family], sessions or SESSIONS[family]
    size = len(counts)
    common: dict[str, Any] = {
        "unit_ids": np.array(units),
        "session": rng.choice(sessions, size),
        "query_times": rng.uniform(0, length, (size, queries)),
    }
    if family != "poyo":
        common["query_task"] = rng.choice(["", *tasks], (size, queries))
    if family == "calcium_poyo_plus":
        most = max(counts, default=0)
        return CalciumBatch(
            values=rng.normal(size=(size, most, len(units))),
            times=np.sort(rng.uniform(0, length, (size, most)), axis=1),
            n_frames=np.array(counts, dtype=np.int64),
            **common,
        )
    return SpikeBatch(
        times=np.concatenate([np.zeros(0), *(np.sort(rng.uniform(0, length, n)) for n in counts)]),
        units=rng.integers(0, len(units), sum(counts)),
        window=np.repeat(np.arange(size), counts),
        **common,
    )


def random_bundle(family: str, **sizes: Any) -> Bundle:
    """Return a model of other sizes with random weights, under which attention is not uniform."""
    config = {
        "sequence_length": 0.7, "latent_step": 0.2, "num_latents_per_step": 3, "dim": 48,
        "dim_head": 24, "depth": 2, "cross_heads": 3, "self_heads": 5, **sizes,
    }  # fmt: skip
    tasks = (Task("place", 1, 2), Task("side", 3, 4, "multinomial")) if family != "poyo" else ()
    units = {f"n{i}": row for i, row in enumerate((9, 2, 5, 7, 1, 4))}
    manifest = Manifest(family, "random", config, units, {"one": 2, "two": 1}, tasks)
    dim = config["dim"]
    tables = {
        name: torch.zeros(rows, dim)
        for name, rows in (
            ("unit_emb.weight", 12), ("session_emb.weight", 3), ("task_emb.weight", 4),
            ("latent_emb.weight", config["num_latents_per_step"]), ("readout.weight", 5),
        )
    }  # fmt: skip
    chance = torch.Generator().manual_seed(3)
    weights = {}
    for name, shape in models.load(family).shapes(manifest, tables).items():
        spread = 0.3 if "emb" in name or len(shape) == 1 else 2 * shape[-1] ** -0.5
        weights[name] = torch.randn(shape, generator=chance) * spread
    half = config["dim_head"] // 2
    periods = np.geomspace(1e-4, 2.0, half - half // 2)
    omega = np.concatenate([2 * np.pi / periods, np.zeros(half // 2)])
    weights["rotary_emb.omega"] = torch.from_numpy(omega)
    return Bundle(manifest, weights)


def assert_parity(bundle: Any, batches: list[Any], capture: Capture | None = EVERYTHING) -> None:
    """Hold prediction and statistics to the rule of accuracy, against the reference in float64."""
    exact = Engine(bundle, "reference", dtype="float64")
    rounded, ours = Engine(bundle, "torch"), Engine(bundle, "onnx")
    for batch in batches:
        results = [arrays(engine, batch, capture) for engine in (exact, rounded, ours)]
        truth, theirs, found = results
        assert set(found) == set(truth)
        for name, value in truth.items():
            assert found[name].shape == value.shape, name
            if value.size == 0:
                continue
            finite = np.isfinite(value)
            np.testing.assert_array_equal(found[name][~finite], value[~finite])
            error, allowed = (
                np.abs(x[name][finite] - value[finite]).max(initial=0) for x in (found, theirs)
            )
            assert error <= 2 * allowed + 1e-6 * max(1, np.abs(value[finite]).max(initial=0)), name


def arrays(engine: Engine, batch: Any, capture: Capture | None) -> dict[str, Any]:
    """Run, and name what came back."""
    result = engine.run(batch, capture)
    several = isinstance(result.prediction, dict)
    out: dict[str, Any] = dict(result.prediction) if several else {"": result.prediction}
    return out | ({} if result.attention is None else result.attention.arrays())


class TestNumbers:
    @pytest.mark.parametrize("family", CHECKPOINTS)
    def test_every_size(self, bundles: dict[str, Path], family: str) -> None:
        """One engine, one graph: windows, tokens, queries and units of any number."""
        sizes: list[tuple[tuple[int, ...], int]] = [((30, 0, 55), 4), ((7,), 1), ((0, 1), 3)]
        batches = [batch_for(family, *size) for size in [*sizes, ((90, 3, 5, 8), 13)]]
        batches.append(batch_for(family, units=UNITS[family][3:4]))
        batches.append(batch_for(family, units=UNITS[family][::-2], seed=4))
        assert_parity(bundles[family], batches)

    @pytest.mark.parametrize("family", CHECKPOINTS)
    def test_without_statistics(self, bundles: dict[str, Path], family: str) -> None:
        assert_parity(bundles[family], [batch_for(family), batch_for(family, (17, 2))], None)

    @pytest.mark.parametrize("family", CHECKPOINTS)
    def test_nothing_to_do(self, bundles: dict[str, Path], family: str) -> None:
        """No queries, no windows, and no token at all."""
        batches = [batch_for(family, queries=0), batch_for(family, ()), batch_for(family, (0, 0))]
        assert_parity(bundles[family], batches)

    @pytest.mark.parametrize("family", CHECKPOINTS)
    def test_units_that_a_window_lacks(self, bundles: dict[str, Path], family: str) -> None:
        batch = batch_for(family)
        present = np.random.default_rng(2).random((3, len(batch.unit_ids))) < 0.6
        assert_parity(bundles[family], [replace(batch, window_units=present)])
        absent, present = (
            Engine(bundles[family], "onnx").run(b).prediction
            for b in (replace(batch, window_units=present), batch)
        )
        if family == "poyo":
            assert np.abs(absent - present).max() > 1e-3

    @pytest.mark.parametrize("family", CHECKPOINTS)
    @pytest.mark.parametrize(
        "sizes",
        [
            {},
            {"num_latents_per_step": 33, "dim": 16, "dim_head": 8, "cross_heads": 1, "depth": 0},
            {"num_latents_per_step": 1, "dim_head": 64, "latent_step": 0.7, "self_heads": 1},
        ],
    )
    def test_other_models(self, family: str, sizes: dict[str, Any]) -> None:
        known: dict[str, Any] = {
            "units": ["n3", "n0", "n5", "n1"], "sessions": ("one", "two"),
            "tasks": ("place", "side"), "length": 0.7,
        }  # fmt: skip
        batches = [batch_for(family, **known), batch_for(family, (40, 12), 2, seed=1, **known)]
        assert_parity(random_bundle(family, **sizes), batches)

    def test_a_model_that_does_not_turn(self) -> None:
        bundle = random_bundle("poyo")
        still = torch.zeros_like(bundle.weights["rotary_emb.omega"])
        bundle = replace(bundle, weights={**bundle.weights, "rotary_emb.omega": still})
        batch = batch_for("poyo", units=["n3", "n0"], sessions=("one",), length=0.7)
        assert_parity(bundle, [batch])

    def test_scores_of_any_size(self) -> None:
        """No score of a token is as low as that of padding."""
        bundle = random_bundle("poyo")
        name = "enc_atn.to_q.weight"
        bundle = replace(bundle, weights={**bundle.weights, name: bundle.weights[name] * 1e6})
        batch = batch_for("poyo", (0, 40), units=["n3"], sessions=("one",), length=0.7)
        record = Engine(bundle, "onnx").run(batch, Capture({"encoder": ["weights", "lse"]}))
        assert record.attention is not None
        assert record.attention["encoder", "lse"][0].min() < -1e4
        weights = record.attention["encoder", "weights"][0]
        np.testing.assert_allclose(weights[..., :2].sum(-1), 1, atol=1e-5)
        assert (weights[..., 2:] == 0).all()

    def test_times_are_reduced_in_double(self, bundles: dict[str, Path]) -> None:
        """Times rounded to float32 change the output by far more than the rule of accuracy."""
        batch = batch_for("poyo")
        rounded = replace(batch, times=batch.times.astype(np.float32).astype(np.float64))
        a, b = (Engine(bundles["poyo"], "onnx").run(x).prediction for x in (batch, rounded))
        assert np.abs(a - b).max() > 1e-5

    def test_threads(self, bundles: dict[str, Path]) -> None:
        one, two = (Engine(bundles["poyo"], "onnx", threads=n) for n in (1, 2))
        assert [e._executor.threads for e in (one, two)] == [1, 2]  # type: ignore[attr-defined]
        batch = batch_for("poyo")
        np.testing.assert_allclose(one.run(batch).prediction, two.run(batch).prediction, atol=1e-6)


class TestRefusals:
    @pytest.mark.parametrize("statistic", NOT_GIVEN)
    def test_statistics_that_a_graph_does_not_give(
        self, bundles: dict[str, Path], tmp_path: Path, statistic: str
    ) -> None:
        known = "weights, per_key, per_unit, per_query_unit, entropy, lse"
        message = f"a statistic of an ONNX graph must be one of {known}, got "
        capture = Capture({"encoder": ["lse", statistic]})
        with pytest.raises(AttendriteError, match=message):
            Engine(bundles["poyo"], "onnx").run(batch_for("poyo"), capture)
        with pytest.raises(AttendriteError, match=message):
            attendrite.export(bundles["poyo"], tmp_path / "new", onnx=True, capture=capture)
        assert not (tmp_path / "new").exists()

    def test_rollout(self, bundles: dict[str, Path]) -> None:
        with pytest.raises(AttendriteError, match="rollout must be asked of executor torch"):
            Engine(bundles["poyo"], "onnx").run(batch_for("poyo"), rollout="mean")

    def test_float64_and_devices(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        message = "executor 'onnx' cannot run float64: ONNX Runtime has no Erf in float64"
        with pytest.raises(AttendriteError, match=message):
            Engine(bundles["poyo"], "onnx", dtype="float64")
        here = ["CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: here)
        reason = executor.refuses("poyo", "cuda", "float32")
        assert reason == (
            "cannot run on cuda: onnxruntime has CPUExecutionProvider; "
            "pip install 'attendrite[gpu]'"
        )
        here.append("CUDAExecutionProvider")
        assert executor.refuses("poyo", "cuda", "float32") is None

    def test_no_other_device_is_taken(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the libraries of CUDA are missing, onnxruntime runs on the CPU and says nothing."""
        asked: list[Any] = []
        start = onnxruntime.InferenceSession

        def session(data: bytes, options: Any, providers: list[Any]) -> Any:
            asked.append(providers)
            return start(data, options, providers=providers[-1:])

        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        model: Any = Engine(bundles["poyo"], "reference").model
        with pytest.raises(
            AttendriteError,
            match="providers of onnxruntime must hold CUDAExecutionProvider, got CPUExecution",
        ):
            executor.load(model, torch.device("cuda:1"), torch.float32, None)
        exact = ("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0})
        assert asked == [[exact, "CPUExecutionProvider"]]

    def test_onnxruntime_has_no_erf_in_float64(self) -> None:
        """The reason for refusing float64; once this fails, it need not be refused."""
        node = onnx.helper.make_node("Erf", ["x"], ["y"])
        x, y = (
            onnx.helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, [1]) for n in ("x", "y")
        )
        opset = [onnx.helper.make_opsetid("", 23)]
        model = onnx.helper.make_model(
            onnx.helper.make_graph([node], "erf", [x], [y]), opset_imports=opset, ir_version=11
        )
        with pytest.raises(Exception, match="Could not find an implementation for Erf"):
            onnxruntime.InferenceSession(model.SerializeToString())

    def test_packages_that_are_missing(
        self, bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        find = executor.importlib.util.find_spec
        missing = {"onnxruntime"}
        monkeypatch.setattr(
            executor.importlib.util, "find_spec", lambda n: None if n in missing else find(n)
        )
        extras = "pip install 'attendrite[onnx]', or 'attendrite[gpu]' for CUDA"
        found = executor.refuses("poyo", "cpu", "float32")
        assert found == f"needs the package onnxruntime; {extras}"
        missing.add("onnx")
        found = executor.refuses("poyo", "cpu", "float32")
        assert found == f"needs the package onnx and onnxruntime; {extras}"
        message = "--onnx needs the package onnx; pip install 'attendrite[onnx]'"
        with pytest.raises(AttendriteError, match=re.escape(message)):
            attendrite.export(bundles["poyo"], tmp_path / "new", onnx=True)
        assert not (tmp_path / "new").exists()

    def test_auto_never_takes_it(self, bundles: dict[str, Path]) -> None:
        assert Engine(bundles["poyo"]).executor != "onnx"
        assert executor.PRIORITY < 0  # below that of the reference, which refuses nothing


@pytest.fixture(scope="module")
def exported(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a graph that returns attention too."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    captures = ["--capture", "encoder:per_unit:spikes", "processor.*:per_key"]
    assert main(["export", str(CHECKPOINTS["poyo"]), "-o", str(out), "--onnx", *captures]) == 0
    return out


class TestFile:
    @pytest.mark.parametrize("family", CHECKPOINTS)
    def test_it_is_sound(self, bundles: dict[str, Path], family: str) -> None:
        bundle = Bundle.load(bundles[family])
        plan = EVERYTHING.plan(Engine(bundle).sites)
        data = graph.build(bundle.manifest, bundle.weights, plan)
        onnx.checker.check_model(data, full_check=True)
        model = onnx.load_model_from_string(data)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 23)]
        assert {node.domain for node in model.graph.node} == {""}
        assert not model.functions
        assert data == graph.build(bundle.manifest, bundle.weights, plan)

    def test_what_it_says_of_itself(self, exported: Path) -> None:
        model = onnx.load(exported / GRAPH)
        facts = {entry.key: entry.value for entry in model.metadata_props}
        manifest = Bundle.load(exported).manifest
        assert facts["family"] == "poyo"
        assert float(facts["sequence_length"]) == manifest.config["sequence_length"]
        assert json.loads(facts["units"]) == manifest.units
        assert json.loads(facts["sessions"]) == manifest.sessions
        assert json.loads(facts["tasks"]) == {}
        captures = [f"processor.{i}:per_key" for i in range(3)]
        assert facts["captures"].split() == ["encoder:per_unit:spikes", *captures]

    def test_names_axes_and_dtypes(self, exported: Path) -> None:
        session = onnxruntime.InferenceSession(exported / GRAPH)
        tokens, queries = ["window", "token"], ["window", "query"]
        assert {x.name: (x.type, x.shape) for x in session.get_inputs()} == {
            "unit_rows": ("tensor(int64)", ["unit"]),
            "units": ("tensor(int64)", tokens),
            "types": ("tensor(int64)", tokens),
            "times": ("tensor(double)", tokens),
            "lengths": ("tensor(int64)", ["window"]),
            "session_rows": ("tensor(int64)", ["window"]),
            "query_times": ("tensor(double)", queries),
        }
        assert {x.name: (x.type, x.shape) for x in session.get_outputs()} == {
            "prediction": ("tensor(float)", [*queries, 2]),
            "attention/encoder/per_unit": ("tensor(float)", ["window", 2, "unit"]),
            **{
                f"attention/processor.{i}/per_key": ("tensor(float)", ["window", 4, 64])
                for i in range(3)
            },
        }

    def test_by_hand(self, exported: Path) -> None:
        """What docs/onnx.md tells an embedder to feed, one window after the other."""
        session = onnxruntime.InferenceSession(exported / GRAPH)
        facts = session.get_modelmeta().custom_metadata_map
        units, sessions = json.loads(facts["units"]), json.loads(facts["sessions"])
        batch = batch_for("poyo")
        whole = Engine(exported).run(batch, Capture({"encoder": "per_unit:spikes"}))
        assert whole.attention is not None
        n_units = len(batch.unit_ids)
        for w in range(3):
            mine = batch.window == w
            length = float(facts["sequence_length"])
            ends = np.arange(n_units)
            feed = {
                "unit_rows": [units[str(u)] for u in batch.unit_ids],
                "units": [[*ends, *ends, *batch.units[mine]]],
                "types": [[1] * n_units + [2] * n_units + [0] * int(mine.sum())],
                "times": [[0.0] * n_units + [length] * n_units + [*batch.times[mine]]],
                "lengths": [2 * n_units + int(mine.sum())],
                "session_rows": [sessions[str(batch.session[w])]],
                "query_times": batch.query_times[w : w + 1],
            }
            names = ["prediction", "attention/encoder/per_unit"]
            found = session.run(names, {k: np.array(v) for k, v in feed.items()})
            np.testing.assert_allclose(found[0][0], whole.prediction[w], atol=2e-6)
            attended = whole.attention["encoder", "per_unit"][w]
            np.testing.assert_allclose(found[1][0], attended, atol=2e-5)

    def test_the_file_is_what_runs(self, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With its captures the file is run; others get a graph of their own."""
        built: list[Any] = []
        build = graph.build
        monkeypatch.setattr(graph, "build", lambda *a: built.append(a[2]) or build(*a))
        engine = Engine(exported, "onnx")
        assert engine._executor.choices["graph"] == GRAPH
        batch = batch_for("poyo")
        own = Capture({"encoder": "per_unit:spikes", "processor.*": "per_key"})
        plain = engine.run(batch).prediction
        before = len(built)
        np.testing.assert_allclose(engine.run(batch, own).prediction, plain, atol=1e-6)
        assert len(built) == before
        all_tokens = Capture({"encoder": "per_unit:all", "processor.*": "per_key"})
        for _ in range(2):
            engine.run(batch, all_tokens)
            assert len(built) == before + 1

    def test_from_a_bundle(self, bundles: dict[str, Path], tmp_path: Path) -> None:
        out = tmp_path / "with"
        assert main(["export", str(bundles["poyo_plus"]), "-o", str(out), "--onnx"]) == 0
        before, after = Bundle.load(bundles["poyo_plus"]), Bundle.load(out)
        assert replace(after.manifest, files={}) == replace(before.manifest, files={})
        assert set(after.manifest.files) == {"weights.safetensors", GRAPH}
        for name, tensor in before.weights.items():
            assert torch.equal(after.weights[name], tensor)
        assert Engine(out, "onnx")._executor.choices["graph"] == GRAPH
        assert_parity(out, [batch_for("poyo_plus")], None)

    def test_what_export_refuses(
        self, bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source, out = str(bundles["poyo"]), str(tmp_path / "new")
        for options, message in (
            ([], "a bundle as the source must come with --onnx and nothing that is in it already"),
            (["--onnx", "--name", "x"], "a bundle as the source must come with --onnx and nothing"),
            (["--capture", "encoder:lse"], "capture must come with onnx, got it alone; add --onnx"),
            (["--onnx", "--capture", "brain:lse"], "unknown site 'brain'; known: encoder, "),
            (["--onnx", "--capture", "decoder:per_unit"], "site 'decoder' has latent keys"),
        ):
            assert main(["export", source, "-o", out, *options]) == 2
            assert message in capsys.readouterr().err
            assert not Path(out).exists()


def test_other_weights_do_not_run_through_the_graph_of_the_old_ones(exported: Path) -> None:
    bundle = Bundle.load(exported)
    higher = {**bundle.weights, "readout.bias": bundle.weights["readout.bias"] + 1}
    batch, asked = (
        batch_for("poyo"),
        Capture({"encoder": "per_unit:spikes", "processor.*": "per_key"}),
    )
    before, after = (
        np.asarray(Engine(b, "onnx").run(batch, asked).prediction)
        for b in (bundle, replace(bundle, weights=higher))
    )
    np.testing.assert_allclose(after, before + 1, atol=1e-5)


class TestForeignFiles:
    """Files that did not come from here, in bundles by someone who can count hashes."""

    @staticmethod
    def planted(exported: Path, tmp_path: Path, data: bytes) -> Path:
        bundle = Bundle.load(exported)
        bundle.save(tmp_path / "planted", graph=data)
        return tmp_path / "planted"

    def refused(self, exported: Path, tmp_path: Path, data: bytes, message: str) -> None:
        folder = self.planted(exported, tmp_path, data)
        with pytest.raises(AttendriteError, match=re.escape(message)) as caught:
            Engine(folder, "onnx")
        assert "\n" not in str(caught.value)
        Engine(folder, "torch").run(batch_for("poyo"))  # which does not look at it

    def test_the_planted_file_runs_if_it_is_sound(self, exported: Path, tmp_path: Path) -> None:
        folder = self.planted(exported, tmp_path, (exported / GRAPH).read_bytes())
        assert_parity(folder, [batch_for("poyo")], None)

    @pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph"])
    def test_data_in_other_files(
        self, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        """Whatever the path: the file is refused before onnxruntime sees it."""
        model = onnx.load(exported / GRAPH)
        tensor = onnx.TensorProto(name="elsewhere", data_type=onnx.TensorProto.FLOAT, dims=[1])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/passwd")
        if where == "initializer":
            model.graph.initializer.append(tensor)
        elif where == "attribute":
            node = onnx.helper.make_node("Constant", [], ["elsewhere"], value=tensor)
            model.graph.node.insert(0, node)
        else:
            node = onnx.helper.make_node("Constant", [], ["elsewhere"], value=tensor)
            output = onnx.helper.make_tensor_value_info("elsewhere", onnx.TensorProto.FLOAT, [1])
            inner = onnx.helper.make_graph([node], "inner", [], [output])
            choose = onnx.helper.make_node(
                "If", ["condition"], ["chosen"], then_branch=inner, else_branch=inner
            )
            model.graph.node.insert(0, choose)
        opened = []
        monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: opened.append(a))
        folder = self.planted(exported, tmp_path, model.SerializeToString())
        with pytest.raises(AttendriteError, match=r"graph\.onnx must hold its data itself"):
            Engine(folder, "onnx")
        assert not opened

    def test_operators_that_are_not_standard(self, exported: Path, tmp_path: Path) -> None:
        model = onnx.load(exported / GRAPH)
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
        message = "operators of graph.onnx must be standard ones, got one of 'com.microsoft'"
        self.refused(exported, tmp_path, model.SerializeToString(), message)

    def test_metadata_that_is_no_text(self, exported: Path, tmp_path: Path) -> None:
        model = onnx.load(exported / GRAPH)
        facts = {entry.key: entry for entry in model.metadata_props}
        facts["captures"].value = "encoder:top_k:SIXTEEN"
        data = model.SerializeToString().replace(b"SIXTEEN", b"\xff" * 7)
        message = "metadata 'captures' of graph.onnx must be text, got bytes"
        self.refused(exported, tmp_path, data, message)

    def test_the_graph_of_another_model(
        self, exported: Path, bundles: dict[str, Path], tmp_path: Path
    ) -> None:
        other = Bundle.load(bundles["calcium_poyo_plus"])
        data = graph.build(other.manifest, other.weights, {})
        message = "inputs of graph.onnx must be lengths (INT64), query_times (DOUBLE), "
        self.refused(exported, tmp_path, data, message)
        model = onnx.load(exported / GRAPH)
        del model.graph.output[1:]
        message = "outputs of graph.onnx must be attention/encoder/per_unit, attention/processor"
        self.refused_again(exported, tmp_path, model.SerializeToString(), message)

    def refused_again(self, exported: Path, tmp_path: Path, data: bytes, message: str) -> None:
        (tmp_path / "again").mkdir()
        self.refused(exported, tmp_path / "again", data, message)

    def test_no_graph_at_all(self, exported: Path, tmp_path: Path) -> None:
        self.refused(exported, tmp_path, b"\xff\xffgarbage", "graph.onnx must be an ONNX file, got")

    def test_a_graph_that_does_not_run(self, exported: Path, tmp_path: Path) -> None:
        model = onnx.load(exported / GRAPH)
        model.graph.node[0].op_type = "Nonsense"
        message = "graph.onnx must be a graph that onnxruntime runs, got "
        self.refused(exported, tmp_path, model.SerializeToString(), message)

    def test_hash_and_listing(self, exported: Path, tmp_path: Path) -> None:
        folder = self.planted(exported, tmp_path, (exported / GRAPH).read_bytes())
        path = folder / GRAPH
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(AttendriteError, match=r"sha256 of graph.onnx must be \w+\.\.\. as in"):
            Engine(folder, "onnx")
        path.unlink()
        with pytest.raises(AttendriteError, match=r"bundle .* must hold graph.onnx, got none"):
            Engine(folder, "onnx")
        manifest = json.loads((folder / MANIFEST).read_text())
        del manifest["files"][GRAPH]
        (folder / MANIFEST).write_text(json.dumps(manifest))
        path.write_bytes(data)  # there, but not of the bundle
        assert Engine(folder, "onnx")._executor.choices["graph"] == "made at load"

    def test_files_beyond_the_limit_of_protobuf(
        self, exported: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle = Bundle.load(exported)
        message = r"graph.onnx must have at most 1000 bytes, got"
        with monkeypatch.context() as at_export:
            at_export.setattr(graph, "LONGEST_GRAPH", 1000)
            with pytest.raises(AttendriteError, match=message):
                graph.build(bundle.manifest, bundle.weights, {})
        monkeypatch.setattr(attendrite.bundle, "LONGEST_GRAPH", 1000)
        with pytest.raises(AttendriteError, match=message):
            Engine(exported, "onnx")

"""The ONNX graphs of models of responses to images: the numbers of the reference, in one file."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite import AttendriteError, Bundle, Capture, Engine
from attendrite.__main__ import main
from attendrite.bundle import GRAPH
from attendrite.executors import onnx as executor
from attendrite.images import ImageBatch
from attendrite.verification import Finding, Refusal, verify

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
from attendrite import graph  # noqa: E402  which needs onnx

sys.path.insert(0, str(Path(__file__).parent))  # the same models and the same rule of accuracy

from test_image_models import (  # noqa: E402
    FIXTURES,
    OUTPUT,
    TRANSFORMERS,
    VARIANTS,
    batch,
    golden,
    write_folder,
)
from test_onnx import assert_parity  # noqa: E402

SENSORIUM = ("sensorium_sota_model", "sensorium_p_ln_model")
EVERYTHING = Capture({"*": ["weights", "per_key", "entropy", "lse", "top_k:5", "head_output"]})
Bundles = Callable[[str], Path]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Make the bundle of a fixture when it is first asked for."""
    folder = tmp_path_factory.mktemp("bundles")

    def bundle(name: str) -> Path:
        out = folder / name
        if not out.exists():
            source = FIXTURES / "sensorium_reduced" / f"{name}.pth"
            if name not in SENSORIUM:
                source = write_folder(folder / f"{name}_source", golden(name))
            attendrite.export(source, out)
        return out

    return bundle


def random_batch(bundle: Path, size: int, mouse: str, seed: int = 0) -> ImageBatch:
    rng = np.random.default_rng(seed)
    shape = Bundle.load(bundle).manifest.config["input_shape"]
    behavior, pupil = rng.normal(size=(size, 3)), rng.normal(size=(size, 2))
    return ImageBatch(rng.normal(size=(size, *shape)), mouse, behavior, pupil)


class TestNumbers:
    @pytest.mark.parametrize("name", [*VARIANTS, *SENSORIUM])
    def test_every_fixture(self, bundles: Bundles, name: str) -> None:
        """One engine, one graph: all mice, one image and three, with attention where there is."""
        bundle = bundles(name)
        mice = Bundle.load(bundle).manifest.sessions
        batches = [random_batch(bundle, size, mouse) for size in (1, 3) for mouse in mice]
        assert_parity(bundle, batches, EVERYTHING if name in TRANSFORMERS else None)

    def test_without_statistics(self, bundles: Bundles) -> None:
        bundle = bundles("lsa")
        assert_parity(bundle, [random_batch(bundle, 2, "B")], None)

    @pytest.mark.parametrize("name", ["bm2", "shift3_crop08", "cnn_stacked2d"])
    def test_the_numbers_of_v1t(self, bundles: Bundles, name: str) -> None:
        engine = Engine(bundles(name), "onnx")
        for mouse in "AB":
            found = engine.run(batch(mouse)).prediction
            assert np.abs(found - golden(name)[f"golden.{mouse}.outputs"]).max() < OUTPUT

    def test_no_images(self, bundles: Bundles) -> None:
        bundle = bundles("bm2")
        result = Engine(bundle, "onnx").run(random_batch(bundle, 0, "B"), EVERYTHING)
        assert np.shape(result.prediction) == (0, 16)
        assert result.attention is not None
        assert result.attention["block.1", "weights"].shape == (0, 3, 121, 121)
        assert result.attention["block.1", "top_k.key"].dtype == np.int64

    @pytest.mark.parametrize("name", ["bm2", "lsa"])
    def test_more_keys_than_there_are(self, bundles: Bundles, name: str) -> None:
        """Those beyond have weight 0 and key -1; with ``lsa`` a token is no key of its own."""
        bundle = bundles(name)
        given, capture = random_batch(bundle, 2, "A"), Capture({"block.0": "top_k:130"})
        found, exact = (Engine(bundle, e).run(given, capture).attention for e in ("onnx", "torch"))
        assert found is not None
        assert exact is not None
        for array in ("top_k.weight", "top_k.key"):
            assert found["block.0", array].shape == exact["block.0", array].shape
        n_keys = 121 - (name == "lsa")
        keys = found["block.0", "top_k.key"]
        assert (keys[..., n_keys:] == -1).all()
        assert (keys[..., :n_keys] >= 0).all()
        assert (np.diff(np.sort(keys[..., :n_keys])) > 0).all()
        weights, theirs = (x["block.0", "top_k.weight"] for x in (found, exact))
        np.testing.assert_allclose(weights, theirs, atol=1e-6)

    def test_no_token_is_a_key_of_its_own(self, bundles: Bundles) -> None:
        """With ``lsa``, not even where the weights of others are 0."""
        bundle = Bundle.load(bundles("lsa"))
        name = "core.transformer.blocks.0.mha.scale"
        sharp = replace(bundle, weights={**bundle.weights, name: bundle.weights[name] * 1e3})
        capture = Capture({"block.0": "top_k:121"})
        record = Engine(sharp, "onnx").run(random_batch(bundles("lsa"), 1, "A"), capture).attention
        assert record is not None
        assert (record["block.0", "top_k.weight"][..., :120] == 0).any()
        assert not (record["block.0", "top_k.key"] == np.arange(121)[:, None]).any()

    @pytest.mark.parametrize("name", ["bm2", "bm4", "shift4_crop08"])
    def test_rows_of_any_order(self, bundles: Bundles, name: str) -> None:
        """A mouse is found by its row, wherever its neurons are."""
        bundle = Bundle.load(bundles(name))
        other = replace(bundle.manifest, sessions={"B": 3, "A": 40})
        for mouse in "AB":
            given = random_batch(bundles(name), 2, mouse)
            first, second = (
                Engine(b, "onnx").run(given).prediction
                for b in (bundle, replace(bundle, manifest=other))
            )
            np.testing.assert_allclose(first, second, atol=1e-6)

    def test_verify(self, bundles: Bundles) -> None:
        results = list(verify(Bundle.load(bundles("lsa")), windows=2))
        found = [r for r in results if isinstance(r, Finding) and r.executor == "onnx"]
        assert all(f.passes for f in found), [f for f in found if not f.passes]
        assert {f.what for f in found} >= {"prediction", "block.1/top_k.key", "block.0/head_output"}
        refused = [r for r in results if isinstance(r, Refusal) and r.executor == "onnx"]
        assert [(r.dtype, r.what) for r in refused] == [("float64", ""), ("bfloat16", "")]


@pytest.fixture(scope="module")
def exported(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a graph that returns attention too."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    captures = ["--capture", "block.*:per_key", "block.1:top_k:3"]
    assert main(["export", str(bundles("crop08")), "-o", str(out), "--onnx", *captures]) == 0
    return out


class TestFile:
    @pytest.mark.parametrize("name", ["lsa", "patch_spt", "cct_bm4", "shift4_crop08", *SENSORIUM])
    def test_it_is_sound(self, bundles: Bundles, name: str) -> None:
        bundle = Bundle.load(bundles(name))
        sites = Engine(bundle).sites
        plan = (EVERYTHING if sites else Capture({})).plan(sites)
        data = graph.build(bundle.manifest, bundle.weights, plan)
        onnx.checker.check_model(data, full_check=True)
        model = onnx.load_model_from_string(data)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 23)]
        assert {node.domain for node in model.graph.node} == {""}
        assert not model.functions
        assert data == graph.build(bundle.manifest, bundle.weights, plan)

    def test_what_it_says_of_itself(self, bundles: Bundles) -> None:
        bundle = Bundle.load(bundles("crop08"))
        moments = {"A": {"images": {"mean": 110.0, "std": 60.0}}}
        manifest = replace(bundle.manifest, training={"statistics": moments})
        model = onnx.load_model_from_string(graph.build(manifest, bundle.weights, {}))
        facts = {entry.key: entry.value for entry in model.metadata_props}
        assert facts["family"] == "v1t"
        assert json.loads(facts["input_shape"]) == [1, 144, 256]
        assert json.loads(facts["patches"]) == [10, 12]
        assert json.loads(facts["sessions"]) == {"A": 1, "B": 2}
        assert json.loads(facts["units"]) == manifest.units
        assert json.loads(facts["statistics"]) == moments

    def test_names_axes_and_dtypes(self, exported: Path) -> None:
        session = onnxruntime.InferenceSession(exported / GRAPH)
        assert {x.name: (x.type, x.shape) for x in session.get_inputs()} == {
            "images": ("tensor(float)", ["window", 1, 144, 256]),
            "behavior": ("tensor(float)", ["window", 3]),
            "pupil": ("tensor(float)", ["window", 2]),
            "mouse": ("tensor(int64)", [1]),
        }
        assert {x.name: (x.type, x.shape) for x in session.get_outputs()} == {
            "prediction": ("tensor(float)", ["window", "unit"]),
            "attention/block.0/per_key": ("tensor(float)", ["window", 3, 121]),
            "attention/block.1/per_key": ("tensor(float)", ["window", 3, 121]),
            "attention/block.1/top_k.weight": ("tensor(float)", ["window", 3, 121, 3]),
            "attention/block.1/top_k.key": ("tensor(int64)", ["window", 3, 121, 3]),
        }

    @pytest.mark.parametrize(
        ("name", "inputs"),
        [
            ("bm0_vit", {"images", "pupil", "mouse"}),
            ("shift4_crop08", {"images", "behavior", "pupil", "mouse"}),
            ("sensorium_sota_model", {"images", "mouse"}),
            ("sensorium_p_ln_model", {"images", "behavior", "pupil", "mouse"}),
        ],
    )
    def test_what_is_not_read_is_no_input(
        self, bundles: Bundles, name: str, inputs: set[str]
    ) -> None:
        bundle = Bundle.load(bundles(name))
        model = onnx.load_model_from_string(graph.build(bundle.manifest, bundle.weights, {}))
        assert {value.name for value in model.graph.input} == inputs

    def test_by_hand(self, exported: Path) -> None:
        """What docs/onnx.md tells an embedder to feed."""
        session = onnxruntime.InferenceSession(exported / GRAPH)
        facts = session.get_modelmeta().custom_metadata_map
        given = batch("B")
        feed = {
            "images": given.images,
            "behavior": given.behavior,
            "pupil": given.pupil,
            "mouse": np.array([json.loads(facts["sessions"])["B"]]),
        }
        names = ["prediction", "attention/block.1/per_key"]
        prediction, per_key = session.run(names, feed)
        exact = Engine(exported).run(given, Capture({"block.1": "per_key"}))
        assert exact.attention is not None
        np.testing.assert_allclose(prediction, exact.prediction, atol=1e-5)
        np.testing.assert_allclose(per_key, exact.attention["block.1", "per_key"], atol=1e-4)
        rows, columns = json.loads(facts["patches"])
        assert per_key[:, :, 1:].reshape(2, 3, rows, columns).shape == (2, 3, 10, 12)

    def test_the_file_is_what_runs(self, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        built: list[Any] = []
        build = graph.build
        monkeypatch.setattr(graph, "build", lambda *a: built.append(a[2]) or build(*a))
        engine = Engine(exported, "onnx")
        before, own = len(built), Capture({"block.*": "per_key", "block.1": "top_k:3"})
        engine.run(batch(), own)
        assert len(built) == before
        engine.run(batch(), Capture({"block.1": "top_k:4"}))
        assert len(built) == before + 1

    def test_the_graph_of_another_model(
        self, exported: Path, bundles: Bundles, tmp_path: Path
    ) -> None:
        """Images of another size, and a POYO's would-be inputs, are told before a run."""
        bundle, other = Bundle.load(exported), Bundle.load(bundles("sensorium_p_ln_model"))
        bundle.save(tmp_path / "planted", graph=graph.build(other.manifest, other.weights, {}))
        message = re.escape("images (FLOAT 1 144 256)")
        with pytest.raises(AttendriteError, match=f"inputs of graph.onnx must be .*{message}"):
            Engine(tmp_path / "planted", "onnx")


class TestRefusals:
    def test_what_a_graph_cannot_do(self, bundles: Bundles) -> None:
        engine = Engine(bundles("shift3_crop08"), "onnx")
        with pytest.raises(AttendriteError, match="rollout must be asked of executor torch"):
            engine.run(batch(), rollout="max")
        cropped = replace(batch(), images=np.zeros((2, 1, 36, 64), np.float32), cropped=True)
        for given, message in (
            (cropped, "images must be whole, the graph crops and resizes them, got cropped ones"),
            (replace(batch(), shift=False), "shift must be on, the graph moves the read-out"),
        ):
            with pytest.raises(AttendriteError, match=message) as caught:
                engine.run(given)
            assert str(caught.value).endswith("; take executor native or torch")
            assert "\n" not in str(caught.value)

    def test_what_changes_nothing_is_taken(self, bundles: Bundles) -> None:
        """Nothing is cropped or shifted there anyway."""
        still, whole = bundles("shift0"), bundles("sensorium_sota_model")
        mouse = next(iter(Bundle.load(whole).manifest.sessions))
        for bundle, given, change in (
            (still, batch(), {"shift": False}),
            (whole, random_batch(whole, 2, mouse), {"shift": False, "cropped": True}),
        ):
            engine = Engine(bundle, "onnx")
            first, second = (engine.run(b).prediction for b in (given, replace(given, **change)))
            np.testing.assert_array_equal(first, second)

    def test_raw_images_are_scaled(self, bundles: Bundles) -> None:
        bundle, given = Bundle.load(bundles("bm0_vit")), batch()
        facts = {"images": {"mean": 110.0, "std": 60.0},
                 "pupil_center": {"mean": [3.0, -1.0], "std": [2.0, 5.0]}}  # fmt: skip
        manifest = replace(bundle.manifest, training={"statistics": {"A": facts}})
        assert given.pupil is not None
        pupil = given.pupil * np.array([2, 5]) + np.array([3, -1])
        raw = ImageBatch(given.images * 60 + 110, "A", None, pupil, raw=True)
        found = Engine(replace(bundle, manifest=manifest), "onnx").run(raw).prediction
        assert np.abs(found - golden("bm0_vit")["golden.A.outputs"]).max() < OUTPUT

    def test_float64(self, bundles: Bundles) -> None:
        for family in ("v1t", "sensorium"):
            assert executor.refuses(family, "cpu", "float32") is None
        with pytest.raises(AttendriteError, match="executor 'onnx' cannot run float64"):
            Engine(bundles("bm2"), "onnx", dtype="float64")

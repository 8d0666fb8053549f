"""What is particular to the rarer variants of V1T; all are compared in test_image_models.py too."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, Bundle, Capture, Engine
from attendrite.images import ImageBatch
from attendrite.models import _cct
from attendrite.verification import Finding, verify
from numpy.typing import NDArray

TINY = Path(__file__).parent / "fixtures" / "v1t_tiny"
NAMES = ("bm1_vit", "bm4", "cct", "cct_bm4", "cnn_stacked2d", "franke", "free_positions",
         "no_bias", "no_resize", "shift1_crop08", "shift4_crop08")  # fmt: skip
OUTPUT = 2e-5
EXECUTORS = ("reference", "torch", "native")
Arrays = Mapping[str, NDArray[Any]]
Bundles = dict[str, Bundle]

pytestmark = pytest.mark.usefixtures("one_thread")


def golden(name: str) -> dict[str, NDArray[Any]]:
    with np.load(TINY / f"{name}.npz") as file:
        return dict(file)


def weights_of(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {k[8:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("weights.")}


def exported(folder: Path, arrays: Arrays, **change: Any) -> Bundle:
    """Export an output folder of V1T with these arguments changed; ``None`` leaves one out."""
    folder.mkdir(parents=True)
    torch.save({"model": weights_of(arrays)}, folder / "model_state.pt")
    given = json.loads(str(arrays["args"])) | change
    given = {k: v for k, v in given.items() if v is not None}
    (folder / "args.json").write_text(json.dumps(given))
    return Bundle.load(attendrite.export(folder, folder / "bundle"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    folder = tmp_path_factory.mktemp("variants")
    return {name: exported(folder / name, golden(name)) for name in NAMES}


def batch(name: str, mouse: str = "A", **options: Any) -> ImageBatch:
    given = golden("inputs")
    images = golden(name).get("inputs.images", given["images"])
    return ImageBatch(images, mouse, given["behaviors"], given["pupil_centers"], **options)


def changed(bundle: Bundle, drop: str = "no such name", **config: Any) -> Bundle:
    """Return a bundle with other settings, and without the weights that an expression finds."""
    manifest = replace(bundle.manifest, config={**bundle.manifest.config, **config})
    return Bundle(manifest, {k: v for k, v in bundle.weights.items() if not re.search(drop, k)})


@pytest.mark.parametrize("name", ["bm4", "cct", "no_bias", "free_positions"])
def test_executors_agree(bundles: Bundles, name: str) -> None:
    found = [r for r in verify(bundles[name]) if isinstance(r, Finding)]
    assert {f.executor for f in found} >= {"torch", "native"}
    assert all(f.passes for f in found), [f for f in found if not f.passes]


class TestBehavior:
    @pytest.mark.parametrize("name", ["bm4", "cct_bm4"])
    def test_each_mouse_has_its_network(self, bundles: Bundles, name: str) -> None:
        engine = Engine(bundles[name], executor="reference")
        model: Any = engine.model
        attend: Any = engine._executor
        for mouse in "AB":
            with torch.inference_mode():
                core = model.core(model.inputs(batch(name, mouse)), attend._plain)[:1]
            assert np.abs(core.numpy() - golden(name)[f"golden.{mouse}.core_out"]).max() < OUTPUT

    def test_channels_follow_the_resize(self, bundles: Bundles) -> None:
        seen = golden("bm1_vit")["golden.A.cropped"]
        engine = Engine(bundles["bm1_vit"])
        given = replace(batch("bm1_vit"), images=seen[:, :1], cropped=True)
        expected = golden("bm1_vit")["golden.A.outputs"]
        assert np.abs(engine.run(given).prediction - expected).max() < OUTPUT
        with pytest.raises(AttendriteError, match="behavior must be given"):
            engine.run(replace(given, behavior=None))


class TestShifts:
    def test_behavior_moves_the_image(self, bundles: Bundles) -> None:
        model: Any = Engine(bundles["shift4_crop08"]).model
        given = batch("shift4_crop08")
        with torch.inference_mode():
            grid = model.crop_grid(model.inputs(given))
            still = model.crop_grid(model.inputs(replace(given, behavior=given.behavior * 0)))
        assert (grid - still).abs().amax() > 1e-2

    def test_only_the_image_moves(self, bundles: Bundles) -> None:
        engine, name = Engine(bundles["shift1_crop08"]), "shift1_crop08"
        expected = golden(name)["golden.A.outputs"]
        seen = golden(name)["golden.A.cropped"]
        given = replace(batch(name), images=seen, cropped=True, pupil=None)
        assert np.abs(engine.run(given).prediction - expected).max() < OUTPUT
        with pytest.raises(AttendriteError, match="pupil must be given, the model reads it"):
            engine.run(replace(batch(name), pupil=None))


class TestImages:
    def test_two_channels(self, bundles: Bundles) -> None:
        engine = Engine(bundles["franke"])
        assert engine.manifest.config["resize_image"] is False
        with pytest.raises(AttendriteError, match=re.escape("shape [B, 2, 36, 64]")):
            engine.run(replace(batch("franke"), images=batch("franke").images[:, :1]))

    def test_shifted_patches_are_of_one_channel(self, bundles: Bundles) -> None:
        with pytest.raises(AttendriteError, match="must have one channel, got 2"):
            Engine(changed(bundles["franke"], patch_mode=2))
        with pytest.raises(AttendriteError, match="must have one channel, got 4"):
            Engine(changed(bundles["bm1_vit"], patch_mode=2))

    def test_not_resized(self, bundles: Bundles) -> None:
        model: Any = Engine(bundles["no_resize"]).model
        assert model.core_shape == (1, 57, 102)
        assert model.tokens == (1 + 7 * 12, (7, 12))


class TestReadout:
    def test_free_positions_stay_inside(self, bundles: Bundles) -> None:
        free = golden("free_positions")["weights.readouts.A._mu"]
        assert np.abs(free).max() > 1
        model: Any = Engine(bundles["free_positions"]).model
        assert model.positions("A").abs().max() == 1


class TestBiases:
    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_none_are_zeros(self, bundles: Bundles, executor: str) -> None:
        bundle = bundles["no_bias"]
        shapes = {
            name.replace("weight", "bias"): len(weight)
            for name, weight in bundle.weights.items()
            if re.search(r"(projection\.0|mlp\.model\.[14]|share\.[03])\.weight", name)
            and "blocks" in name
        }
        assert len(shapes) == 2 * 5
        zeros = {name: torch.zeros(n) for name, n in shapes.items()}
        filled = Engine(Bundle(bundle.manifest, {**bundle.weights, **zeros}), executor=executor)
        given = batch("no_bias")
        np.testing.assert_array_equal(
            Engine(bundle, executor=executor).run(given).prediction, filled.run(given).prediction
        )

    def test_some_are_refused(self, bundles: Bundles) -> None:
        for gone in (r"blocks\.0\.mha\.projection\.0\.bias", r"blocks\.1\.mlp\.model\.4\.bias"):
            with pytest.raises(AttendriteError, match=r"must (all be known|hold)"):
                Engine(changed(bundles["bm4"], gone))
        with pytest.raises(AttendriteError, match=r"must hold '.*projection\.0\.bias'"):
            Engine(changed(bundles["cct"], r"projection\.0\.bias"))


class TestCct:
    def test_sizes(self, bundles: Bundles) -> None:
        engine = Engine(bundles["cct"])
        assert [(s.name, s.heads, s.width) for s in engine.sites] == [
            ("block.0", 3, 3), ("block.1", 3, 3),
        ]  # fmt: skip
        model: Any = engine.model
        assert _cct.patches(8, 2, (36, 64)) == (9, 16)
        assert model.tokens == (144, (12, 12))  # laid out as no image is

    @pytest.mark.parametrize("stride", [1, 2, 3, 4, 5, 40])
    def test_tokens_are_what_pooling_leaves(self, stride: int) -> None:
        images, kernel = torch.zeros(1, 1, 36, 64), torch.zeros(2, 1, 8, 8)
        rows, columns = _cct.patches(8, stride, (36, 64))
        tokens = _cct.embedded({_cct.KERNEL: kernel}, images, stride)
        assert tokens.shape == (1, rows * columns, 2)

    @pytest.mark.parametrize(("width", "heads"), [(160, 4), (28, 3), (16, 4), (155, 5), (7, 1)])
    def test_heads_follow_from_widths(self, width: int, heads: int) -> None:
        inner = width // heads
        shapes = {
            _cct.KERNEL: (width, 1, 8, 8),
            "core.transformer.blocks.0.mha.qkv.weight": (3 * inner, width),
            "core.transformer.blocks.0.mlp.1.weight": (5, width),
        }
        found = _cct.sizes({name: torch.zeros(shape) for name, shape in shapes.items()})
        assert (found["emb_dim"], found["num_heads"]) == (width, heads)

    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_no_rollout(self, bundles: Bundles, executor: str) -> None:
        with pytest.raises(AttendriteError, match="rollout must have a class token, got patches"):
            Engine(bundles["cct"], executor=executor).run(batch("cct"), rollout="max")

    @pytest.mark.parametrize("executor", EXECUTORS)
    def test_head_outputs_sum_to_the_layer(self, bundles: Bundles, executor: str) -> None:
        engine = Engine(bundles["cct"], executor=executor)
        record = engine.run(batch("cct"), Capture({"block.0": "head_output"})).attention
        assert record is not None
        model: Any = Engine(bundles["cct"], executor="reference").model
        attend: Any = Engine(bundles["cct"], executor="reference")._executor
        with torch.inference_mode():
            inputs = model.inputs(batch("cct"))
            x = model.embedded(model.seen(inputs))
            x = x + model.state("core.transformer.blocks.0", inputs)[:, None]
            taken = model.blocks.joined(0, x, model.attended(0, x, inputs, attend._plain)) - x
        bias = model.weights["core.transformer.blocks.0.mha.projection.0.bias"]
        summed = record["block.0", "head_output"].sum(1)
        assert np.abs(summed - (taken - bias).numpy()).max() < 1e-5

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"behavior_mode": 1}, "a cct core must not read behaviour as channels"),
            ({"num_heads": 4}, "num_heads of a cct core must evenly share emb_dim // num_heads"),
            ({"num_heads": 0}, "num_heads of a cct core must evenly share"),
            ({"num_heads": 28}, "num_heads of a cct core must evenly share"),
            ({"num_heads": 1}, "mha.qkv.weight' must have shape [84, 28]"),
            ({"patch_stride": 0}, "patches must fit into [36, 64] pixels, 3 around"),
            ({"patch_size": 43}, "patches must fit into"),
            ({"patch_stride": 1}, "pos_embedding' must have shape [1, 576, 28]"),
            ({"patch_size": 7}, "conv2d.weight' must have shape [28, 1, 7, 7]"),
            ({"core": "vit"}, "use_lsa of manifest.json must be true or false"),
        ],
    )
    def test_refused(self, bundles: Bundles, change: dict[str, Any], message: str) -> None:
        with pytest.raises(AttendriteError, match=re.escape(message)):
            Engine(changed(bundles["cct"], **change))


class TestFolders:
    """Arguments are those of the core that was trained; the rest is missing."""

    @pytest.mark.parametrize(
        ("name", "lacking"),
        [
            ("cnn_stacked2d", ("patch_mode", "patch_size", "patch_stride")),
            ("cct", ("linear", "patch_mode", "use_lsa", "disable_bias")),
        ],
    )
    def test_of_a_core(self, tmp_path: Path, name: str, lacking: tuple[str, ...]) -> None:
        bundle = exported(tmp_path / name, golden(name), **dict.fromkeys(lacking))
        expected = golden(name)["golden.B.outputs"]
        assert np.abs(Engine(bundle).run(batch(name, "B")).prediction - expected).max() < OUTPUT

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("bm4", {"patch_stride": None}, "pos_embedding' must have shape [1654, 32]"),
            ("cct", {"num_heads": 4}, "num_heads must be 3, as the weights have it, got 4"),
        ],
    )
    def test_refused(self, tmp_path: Path, name: str, change: dict[str, Any], message: str) -> None:
        with pytest.raises(AttendriteError, match=re.escape(message)):
            exported(tmp_path / "a", golden(name), **change)

    @pytest.mark.parametrize(
        ("gone", "message"),
        [
            ("mha.qkv.weight", "must hold 'core.transformer.blocks.0.mha.qkv.weight'"),
            ("mlp.1.weight", "must hold 'core.transformer.blocks.0.mlp.1.weight'"),
        ],
    )
    def test_a_cct_core_in_part(self, tmp_path: Path, gone: str, message: str) -> None:
        arrays = {k: v for k, v in golden("cct").items() if not k.endswith(gone)}
        with pytest.raises(AttendriteError, match=re.escape(message)):
            exported(tmp_path / "a", arrays)

    def test_an_ensemble_is_several_models(self, tmp_path: Path) -> None:
        arrays = {
            k.replace("weights.", "weights.ensemble.one."): v for k, v in golden("cct").items()
        }
        message = "an ensemble must come with its members, got none; pass --member one=FOLDER"
        with pytest.raises(AttendriteError, match=message):
            exported(tmp_path / "a", arrays)

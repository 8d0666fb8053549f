"""Parity of the image families with V1T's and sensorium's own code, and what they refuse.

Golden arrays and tolerances are those of tests/fixtures/README.md.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, Bundle, Capture, Engine
from attendrite.bundle import Manifest
from attendrite.executors import _rollout, native
from attendrite.images import ImageBatch
from attendrite.kernels.rollout import Layer
from attendrite.models import v1t
from attendrite.runtime import Result
from attendrite.verification import Finding, verify
from numpy.typing import NDArray
from torch.nn import functional as F

FIXTURES = Path(__file__).parent / "fixtures"
VARIANTS = sorted(p.stem for p in (FIXTURES / "v1t_tiny").glob("*.npz") if p.stem != "inputs")
TRANSFORMERS = [name for name in VARIANTS if name != "cnn_stacked2d"]
OUTPUT, ATTENTION, HEAT = 2e-5, 2e-6, 5e-6
Golden = Mapping[str, NDArray[Any]]
Folder = Callable[[str], Path]

pytestmark = pytest.mark.usefixtures("one_thread")


def golden(name: str) -> dict[str, NDArray[Any]]:
    with np.load(FIXTURES / "v1t_tiny" / f"{name}.npz") as file:
        return dict(file)


def write_folder(folder: Path, arrays: Golden, **more: Any) -> Path:
    """An output folder as V1T writes it."""
    (folder / "ckpt").mkdir(parents=True)
    weights = {k[8:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("weights.")}
    torch.save({"epoch": 1, "value": 0.3, "model": weights, **more}, folder / "ckpt/model_state.pt")
    (folder / "args.json").write_text(str(arrays["args"]))
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("v1t")
    out = {}
    for name in VARIANTS:
        write_folder(folder / name, golden(name))
        out[name] = attendrite.export(folder / name, folder / f"{name}_bundle")
    for name in ("sensorium_sota_model", "sensorium_p_ln_model"):
        source = FIXTURES / "sensorium_reduced" / f"{name}.pth"
        out[name] = attendrite.export(source, folder / name)
    return out


def batch(mouse: str = "A", name: str = "bm2", **options: Any) -> ImageBatch:
    given = golden("inputs")
    images = golden(name).get("inputs.images", given["images"])
    return ImageBatch(images, mouse, given["behaviors"], given["pupil_centers"], **options)


class TestV1T:
    @pytest.mark.parametrize("name", VARIANTS)
    @pytest.mark.parametrize(
        ("executor", "dtype"),
        [("reference", "float32"), ("reference", "float64"), ("auto", "float32")],
    )
    def test_outputs(self, bundles: dict[str, Path], name: str, executor: str, dtype: str) -> None:
        engine, exact = Engine(bundles[name], executor=executor, dtype=dtype), golden(name)
        for mouse in "AB":
            found = engine.run(batch(mouse, name)).prediction
            assert isinstance(found, np.ndarray)
            assert found.dtype == dtype
            assert found.shape == exact[f"golden.{mouse}.outputs"].shape
            assert np.abs(found - exact[f"golden.{mouse}.outputs"]).max() < OUTPUT

    @pytest.mark.parametrize("name", TRANSFORMERS)
    @pytest.mark.parametrize("executor", ["reference", "auto"])
    def test_attention_and_rollout(
        self, bundles: dict[str, Path], name: str, executor: str
    ) -> None:
        engine, exact = Engine(bundles[name], executor=executor), golden(name)
        rollout = "max" if "golden.A.rollout" in exact else None  # a cct core has none
        capture = Capture({"*": ["weights", "per_key"]})
        result = engine.run(batch("A", name), capture, rollout=rollout)
        assert result.attention is not None
        for i, site in enumerate(engine.sites):
            weights = result.attention[site.name, "weights"]
            assert np.abs(weights[:1, :, ::10] - exact["golden.A.attn"][:, i]).max() < ATTENTION
            summed = weights.astype(np.float64).sum(2)
            error = np.abs(result.attention[site.name, "per_key"] - summed).max()
            assert error < weights.shape[2] * ATTENTION
        if rollout is None:
            return
        assert result.rollout is not None
        assert result.rollout.shape == (2, *exact["golden.A.core_out"].shape[2:])
        flat = result.rollout.reshape(2, -1)
        low, high = flat.min(1)[:, None, None], flat.max(1)[:, None, None]
        scaled = torch.from_numpy((result.rollout - low) / (high - low))[:, None]
        size = exact["golden.A.rollout"].shape[1:]
        heat = F.interpolate(scaled, size, mode="bilinear", align_corners=False)[:, 0]
        assert np.abs(heat.numpy() - exact["golden.A.rollout"]).max() < HEAT

    @pytest.mark.parametrize("name", VARIANTS)
    def test_parts(self, bundles: dict[str, Path], name: str) -> None:
        engine, exact = Engine(bundles[name], executor="reference"), golden(name)
        model: Any = engine.model
        with torch.inference_mode():
            inputs = model.inputs(batch("A", name))
            cropped = model.seen(inputs).numpy()  # before behaviours become channels
            expected = exact["golden.A.cropped"][:, : cropped.shape[1]]
            assert np.abs(cropped - expected).max() < OUTPUT
            assert (
                np.abs(np.asarray(model.positions("A")[0]) - exact["golden.A.mu"][0, :, 0]).max()
                < OUTPUT
            )
            if "golden.A.crop_grid" in exact:
                grid = model.crop_grid(inputs)[:, ::10, ::10]
                assert np.abs(np.asarray(grid) - exact["golden.A.crop_grid"]).max() < OUTPUT
            if "golden.A.shifts" in exact:
                assert (
                    np.abs(np.asarray(model.shift(inputs)) - exact["golden.A.shifts"]).max()
                    < OUTPUT
                )
            step = 4 if name == "cnn_stacked2d" else 1
            core = model.core(inputs, Engine(bundles[name])._executor._plain)
            core = core[:1, :, ::step, ::step]
            assert np.abs(np.asarray(core) - exact["golden.A.core_out"]).max() < OUTPUT

    def test_grid_is_not_that_of_the_patches(self) -> None:
        """Stride 4 gives 8 x 15 patches, which the original lays out as 10 x 12."""
        config = {"core": "vit", "input_shape": [1, 144, 256]}
        config |= {"resize_image": True, "center_crop": 1.0}
        expected = {1: (29, 57), 2: (15, 29), 3: (10, 19), 4: (10, 12)}
        for stride, grid in expected.items():
            rows, columns = v1t._patches({**config, "patch_size": 8, "patch_stride": stride})
            assert v1t._grid(rows * columns) == grid
        assert v1t._patches({**config, "patch_size": 8, "patch_stride": 4}) == (8, 15)

    @pytest.mark.parametrize(
        ("dtype", "output", "rolled"),
        [("float32", OUTPUT, 1e-7), ("float64", 1e-13, 1e-15)],
    )
    def test_batches_and_parts(
        self, bundles: dict[str, Path], dtype: str, output: float, rolled: float
    ) -> None:
        """How torch's float32 products round depends on the size of a batch, by CPU."""
        engine = Engine(bundles["shift3_crop08"], dtype=dtype)
        whole = engine.run(batch(), Capture({"*": "entropy"}), rollout="mean")
        parts = engine.run(batch(), Capture({"*": "entropy"}), rollout="mean", batch_size=1)
        np.testing.assert_allclose(whole.prediction, parts.prediction, rtol=0, atol=output)
        assert whole.rollout is not None
        assert parts.rollout is not None
        np.testing.assert_allclose(whole.rollout, parts.rollout, rtol=1e-7, atol=rolled)
        assert whole.attention is not None
        assert whole.attention["block.1", "entropy"].shape == (2, 3, 121)

    @pytest.mark.parametrize("fuse", ["mean", "max"])
    @pytest.mark.parametrize("executor", ["torch", "native"])
    def test_the_forward_pass_gives_the_rollout_its_weights(
        self,
        bundles: dict[str, Path],
        executor: str,
        fuse: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Only the last block, of which one row is read, is looked at again."""
        engine = Engine(bundles["bm2"], executor=executor)
        again: list[int] = []

        def statistic(layer: Layer, name: str, **options: Any) -> torch.Tensor:
            again.append(layer.q.shape[2])
            return asked(layer, name, **options)

        asked = Layer.statistic
        monkeypatch.setattr(Layer, "statistic", statistic)
        found = engine.run(batch(), Capture({"block.0": "entropy"}), rollout=fuse)
        assert again == [1]
        assert set(found.attention or ()) == {("block.0", "entropy")}
        monkeypatch.setattr(_rollout, "KEPT", 0)  # too much memory
        more = engine.run(batch(), rollout=fuse)
        assert len(again) == 1 + len(engine.sites)
        assert found.rollout is not None
        assert more.rollout is not None
        np.testing.assert_allclose(found.rollout, more.rollout, rtol=1e-5, atol=1e-8)

    def test_cropped_images_go_to_the_core(self, bundles: dict[str, Path]) -> None:
        engine, exact = Engine(bundles["shift3_crop08"]), golden("shift3_crop08")
        seen = replace(batch(), images=exact["golden.A.cropped"], cropped=True)
        assert np.abs(engine.run(seen).prediction - exact["golden.A.outputs"]).max() < OUTPUT

    def test_no_shift_needs_no_pupil(self, bundles: dict[str, Path]) -> None:
        engine = Engine(bundles["bm2"])
        still = engine.run(replace(batch(), pupil=None, shift=False)).prediction
        assert np.abs(still - engine.run(batch()).prediction).max() > 1e-3
        with pytest.raises(AttendriteError, match="pupil must be given, the model reads it"):
            engine.run(replace(batch(), pupil=None))
        with pytest.raises(AttendriteError, match="behavior must be given"):
            engine.run(replace(batch(), behavior=None))

    def test_raw_images_are_scaled(self, bundles: dict[str, Path], tmp_path: Path) -> None:
        bundle = Bundle.load(bundles["bm2"])
        facts = {
            "images": {"mean": 110.0, "std": 60.0},
            "behavior": {"mean": [1.0, 2.0, 3.0], "std": [0.5, 2.0, 4.0]},
            "pupil_center": {"mean": [3.0, -1.0], "std": [2.0, 5.0]},
        }
        manifest = replace(bundle.manifest, training={"statistics": {"A": facts}})
        engine, given = Engine(Bundle(manifest, bundle.weights)), batch()
        assert given.behavior is not None
        assert given.pupil is not None
        raw = ImageBatch(
            given.images * 60 + 110, "A", given.behavior * np.array([0.5, 2, 4]),
            given.pupil * np.array([2, 5]) + np.array([3, -1]), raw=True,
        )  # fmt: skip
        exact = golden("bm2")["golden.A.outputs"]
        assert np.abs(engine.run(raw).prediction - exact).max() < OUTPUT
        with pytest.raises(AttendriteError, match="statistics of mouse 'B' must give mean and std"):
            engine.run(replace(raw, mouse="B"))


class TestSensorium:
    @pytest.mark.parametrize("executor", ["reference", "auto"])
    @pytest.mark.parametrize("name", ["sensorium_sota", "sensorium_p_ln"])
    def test_outputs(self, bundles: dict[str, Path], name: str, executor: str) -> None:
        with np.load(FIXTURES / "sensorium_reduced" / f"{name}.npz") as file:
            exact = dict(file)
        engine = Engine(bundles[f"{name}_model"], executor=executor)
        mouse = next(iter(engine.manifest.sessions))
        given = ImageBatch(exact["images"], mouse, exact["behaviors"], exact["pupil_centers"])
        assert np.abs(engine.run(given).prediction - exact["outputs"]).max() < OUTPUT
        model: Any = engine.model
        assert model.covariates == (("behavior", "pupil") if "_p_" in name else ())
        assert np.abs(np.asarray(model.positions(mouse)[0]) - exact["mu"][0, :, 0]).max() < OUTPUT
        with torch.inference_mode():
            core = model.core(model.inputs(given), None)[:1, :, ::4, ::4]
        assert np.abs(np.asarray(core) - exact["core_out"]).max() < OUTPUT

    def test_what_the_file_name_tells(self, bundles: dict[str, Path], tmp_path: Path) -> None:
        assert Bundle.load(bundles["sensorium_p_ln_model"]).manifest.config["linear"] is True
        assert Bundle.load(bundles["sensorium_sota_model"]).manifest.config["linear"] is False
        source = FIXTURES / "sensorium_reduced" / "sensorium_sota_model.pth"
        state = torch.load(source, weights_only=True)
        with pytest.raises(AttendriteError, match="--set input_shape=1,36,64"):
            attendrite.export(state, tmp_path / "a")
        settings = {"input_shape": "1,36,64", "linear": "false"}
        attendrite.export(state, tmp_path / "a", settings=settings)
        for setting, wrong in (("linear", "perhaps"), ("input_shape", "36,64")):
            with pytest.raises(AttendriteError, match=f"{setting} must be"):
                attendrite.export(state, tmp_path / "b", settings={**settings, setting: wrong})
        with pytest.raises(AttendriteError, match="must have shape"):
            attendrite.export(
                state, tmp_path / "b", settings={**settings, "input_shape": "2,36,64"}
            )


class TestCaptures:
    def test_patches_have_no_units(self, bundles: dict[str, Path]) -> None:
        engine = Engine(bundles["bm2"])
        for statistic in ("per_unit", "partials", "lag"):
            with pytest.raises(AttendriteError, match="has patches for keys, no units or times"):
                engine.run(batch(), Capture({"block.0": statistic}))

    def test_a_model_without_attention(self, bundles: dict[str, Path]) -> None:
        engine = Engine(bundles["cnn_stacked2d"])
        with pytest.raises(AttendriteError, match="a model with a rollout must have attention"):
            engine.run(batch(), rollout="max")
        with pytest.raises(AttendriteError, match=r"unknown site 'block\.0'; known: none"):
            engine.run(batch(), Capture({"block.0": "entropy"}))

    def test_head_outputs_sum_to_the_layer(self, bundles: dict[str, Path]) -> None:
        for executor in ("reference", "auto"):
            engine = Engine(bundles["bm0_vit"], executor=executor)
            record = engine.run(batch(), Capture({"block.0": ["head_output", "weights"]})).attention
            assert record is not None
            model: Any = engine.model
            with torch.inference_mode():
                inputs = model.inputs(batch())
                x = model.embedded(model.seen(inputs))
                plain = Engine(bundles["bm0_vit"], executor="reference")._executor._plain
                out = model.attended(0, x, inputs, plain)
                taken = model.blocks.joined(0, x, out) - x
            bias = model.weights["core.transformer.blocks.0.mha.projection.0.bias"]
            summed = record["block.0", "head_output"].sum(1)
            assert np.abs(summed - (taken - bias).numpy()).max() < 1e-5


class TestAtOnce:
    """Executor native takes as many images at a time as caches hold the tokens of."""

    EACH = 4 * 121 * 3 * 3 * 32  # bytes of queries, keys and values of an image, in bm2

    @pytest.fixture
    def sizes(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Images of each run of the executor."""
        found, run = [], native.ImageExecutor.run

        def counted(executor: Any, inputs: Any, *given: Any) -> Any:
            found.append(len(inputs.queries.times))
            return run(executor, inputs, *given)

        monkeypatch.setattr(native.ImageExecutor, "run", counted)
        return found

    @staticmethod
    def images(count: int) -> ImageBatch:
        given, rng = batch(), np.random.default_rng(0)
        assert given.behavior is not None
        assert given.pupil is not None
        return ImageBatch(
            rng.normal(size=(count, *given.images.shape[1:])), "A",
            np.resize(given.behavior, (count, 3)), np.resize(given.pupil, (count, 2)),
        )  # fmt: skip

    @staticmethod
    def arrays(found: Result) -> dict[str, NDArray[Any]]:
        assert isinstance(found.prediction, np.ndarray)
        assert found.attention is not None
        assert found.rollout is not None
        own = {"prediction": found.prediction, "rollout": found.rollout}
        return own | found.attention.arrays()

    @staticmethod
    def at_once(bundle: Path | Bundle) -> int | None:
        executor: Any = Engine(bundle, executor="native")._executor
        number: int | None = executor.at_once
        return number

    @pytest.mark.parametrize(
        ("room", "batch_size", "parts"),
        [
            (1, None, [1] * 5),
            (EACH - 1, None, [1] * 5),
            (2 * EACH, None, [2, 2, 1]),
            (2 * EACH, 4, [2, 2, 1]),
            (4 * EACH, 3, [3, 2]),
            (5 * EACH, None, [5]),
        ],
    )
    def test_parts_give_what_one_run_gives(
        self, bundles: dict[str, Path], sizes: list[int], monkeypatch: pytest.MonkeyPatch,
        room: int, batch_size: int | None, parts: list[int],
    ) -> None:  # fmt: skip
        """To rounding: torch's products of few rows sum in another order than those of many."""
        given = self.images(5)
        capture = Capture({"block.0": ["weights", "head_output"], "*": ["entropy", "per_key"]})
        engine = Engine(bundles["bm2"], executor="native")
        whole = self.arrays(engine.run(given, capture, rollout="max"))
        alike = self.arrays(engine.run(given, capture, rollout="max", batch_size=parts[0]))
        assert sizes == [5, *parts]
        monkeypatch.setattr(native, "TOKEN_BYTES", room)
        engine = Engine(bundles["bm2"], executor="native")
        found = self.arrays(engine.run(given, capture, rollout="max", batch_size=batch_size))
        assert sizes[1 + len(parts) :] == parts
        assert list(found) == list(whole)
        for name, values in found.items():
            np.testing.assert_array_equal(values, alike[name])
            np.testing.assert_allclose(values, whole[name], rtol=1e-5, atol=2e-6)

    def test_published_images_come_one_by_one(self) -> None:
        config = {**v1t.NEEDS, **v1t.SIZES, "core": "vit"}
        manifest = Manifest("v1t", "published", config, {}, {"A": 1})
        shapes = v1t.Model.shapes(manifest, {})
        weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
        assert self.at_once(Bundle(manifest, weights)) == 1

    @pytest.mark.parametrize("name", ["cnn_stacked2d", "sensorium_p_ln_model"])
    def test_convolutions_take_any_number(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr(native, "TOKEN_BYTES", 1)
        assert self.at_once(bundles[name]) is None

    def test_an_ensemble_takes_what_its_largest_member_does(
        self, bundles: dict[str, Path], tmp_path: Path, sizes: list[int]
    ) -> None:
        names = ("cct", "bm2", "cnn_stacked2d")
        alone = {name: self.at_once(bundles[name]) for name in names[:2]}
        assert alone["bm2"] == native.TOKEN_BYTES // self.EACH
        assert len(set(alone.values())) == 2
        least = min(number for number in alone.values() if number is not None)
        for order in (names, names[::-1]):
            members: dict[str, str | Path] = {name: bundles[name] for name in order}
            out = attendrite.export(None, tmp_path / order[0], members=members)
            assert self.at_once(out) == least
        Engine(out, executor="native").run(self.images(least + 1))
        assert sizes == [least, 1]


class TestVerify:
    @pytest.mark.parametrize("name", ["lsa", "shift3_crop08", "sensorium_p_ln_model"])
    def test_executors_agree(self, bundles: dict[str, Path], name: str) -> None:
        found = [r for r in verify(Bundle.load(bundles[name])) if isinstance(r, Finding)]
        assert {f.executor for f in found} >= {"torch"}
        assert all(f.passes for f in found), [f for f in found if not f.passes]
        if name == "lsa":
            assert {f.what for f in found} >= {"prediction", "block.1/top_k.weight"}


class TestBatch:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"images": np.zeros((2, 36, 64))}, "images must have shape [B, C, H, W]"),
            ({"images": np.zeros((2, 1, 3, 3), int)}, "images must be an array of floating"),
            ({"images": np.full((2, 1, 3, 3), np.nan)}, "images must be finite"),
            ({"behavior": np.zeros((1, 3))}, "behavior must have shape [2, 3]"),
            ({"pupil": np.zeros((2, 3))}, "pupil must have shape [2, 2]"),
            ({"mouse": np.array(["A", "B"])}, "mouse must be one name"),
            ({"raw": 2}, "raw must be 0 or 1"),
            ({"shift": "no"}, "shift must be 0 or 1"),
        ],
    )
    def test_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(AttendriteError, match=re.escape(message)):
            replace(batch(), **change)

    def test_refused_by_the_model(self, bundles: dict[str, Path]) -> None:
        engine = Engine(bundles["bm2"])
        with pytest.raises(AttendriteError, match="unknown mouse 'C'; known: A, B"):
            engine.run(replace(batch(), mouse="C"))
        with pytest.raises(AttendriteError, match=re.escape("shape [B, 1, 144, 256]")):
            engine.run(replace(batch(), images=batch().images[..., 1:]))
        with pytest.raises(AttendriteError, match=re.escape("shape [B, 1, 36, 64]")):
            engine.run(replace(batch(), cropped=True))
        with pytest.raises(AttendriteError, match="input of a v1t model must be a ImageBatch"):
            engine.run(np.zeros(3))  # type: ignore[arg-type]

    def test_run_command(self, bundles: dict[str, Path], tmp_path: Path) -> None:
        from attendrite.__main__ import main

        given = batch()
        arrays = {"images": given.images, "behavior": given.behavior, "pupil": given.pupil}
        np.savez(tmp_path / "in.npz", mouse=np.array("A"), **arrays)  # type: ignore[arg-type]
        words = ["run", str(bundles["bm2"]), str(tmp_path / "in.npz"), "--rollout", "max"]
        words += ["-o", str(tmp_path / "out.npz"), "--capture", "block.*:per_key"]
        assert main(words) == 0
        with np.load(tmp_path / "out.npz") as found:
            assert np.abs(found["prediction"] - golden("bm2")["golden.A.outputs"]).max() < OUTPUT
            assert found["rollout"].shape == (2, 10, 12)
            assert found["attention/block.1/per_key"].shape == (2, 3, 121)


class TestConfig:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"patch_stride": 0}, "patches must fit into"),
            ({"patch_stride": 2}, "pos_embedding' must have shape"),
            ({"patch_size": "8"}, "patch_size of manifest.json must be an integer"),
            ({"patch_mode": 7}, "unknown patch_mode 7"),
            ({"behavior_mode": 3}, "must have shape [16, 5]"),
            ({"shift_mode": 0}, "must all be known, got 'core_shifter.A"),
            ({"center_crop": 0.5}, "image_cropper.grid' must have shape [1, 72, 128, 2]"),
            ({"center_crop": 0.0}, "center_crop of manifest.json must be a number above 0"),
            ({"input_shape": [1, 10**9, 256]}, "input_shape of manifest.json must be three"),
            ({"resize_image": 1}, "resize_image of manifest.json must be true or false"),
            ({"emb_dim": 31}, "must have shape"),
            ({"core": "mixer"}, "unknown core 'mixer'; known: vit, cct, stacked2d"),
        ],
    )
    def test_refused(self, bundles: dict[str, Path], change: dict[str, Any], message: str) -> None:
        bundle = Bundle.load(bundles["bm2"])
        manifest = replace(bundle.manifest, config={**bundle.manifest.config, **change})
        with pytest.raises(AttendriteError, match=re.escape(message)):
            Engine(Bundle(manifest, bundle.weights))

    def test_missing(self, bundles: dict[str, Path]) -> None:
        bundle = Bundle.load(bundles["bm2"])
        for name in bundle.manifest.config:
            rest = {k: v for k, v in bundle.manifest.config.items() if k != name}
            with pytest.raises(AttendriteError):
                Engine(Bundle(replace(bundle.manifest, config=rest), bundle.weights))

    def test_the_original_settings_are_kept(self, bundles: dict[str, Path]) -> None:
        given = json.loads(str(golden("crop08")["args"]))
        config = Bundle.load(bundles["crop08"]).manifest.config
        for name in ("center_crop", "patch_stride", "behavior_mode", "num_heads", "input_shape"):
            assert config[name] == given[name]
        assert Bundle.load(bundles["crop08"]).manifest.sessions == {"A": 1, "B": 2}

    def test_time_is_not_read(self, bundles: dict[str, Path]) -> None:
        with pytest.raises(AttendriteError, match="the model must read windows of time"):
            _ = Bundle.load(bundles["bm2"]).manifest.sequence_length


class TestMice:
    """What one mouse has, all have."""

    @pytest.fixture
    def sensorium(self, bundles: dict[str, Path]) -> Bundle:
        """A released file has one mouse; this has another beside it."""
        bundle = Bundle.load(bundles["sensorium_p_ln_model"])
        weights = dict(bundle.weights)
        for name, tensor in bundle.weights.items():
            weights[name.replace("27204-5-13", "other")] = tensor
        sessions = {"27204-5-13": 1, "other": 2}
        return Bundle(replace(bundle.manifest, sessions=sessions), weights)

    @staticmethod
    def refused_without(bundle: Bundle, part: str) -> str:
        Engine(bundle)
        weights = {n: tensor for n, tensor in bundle.weights.items() if not n.startswith(part)}
        assert len(weights) < len(bundle.weights)
        with pytest.raises(AttendriteError) as refused:
            Engine(Bundle(bundle.manifest, weights))
        return str(refused.value)

    @pytest.mark.parametrize("mouse", ["27204-5-13", "other"])
    def test_a_shifter_of_sensorium(self, sensorium: Bundle, mouse: str) -> None:
        said = self.refused_without(sensorium, f"shifter.{mouse}.")
        missing = f"'shifter.{mouse}.mlp.0.weight'"
        assert said == f"weights of a sensorium model must hold {missing}, got none of that name"

    @pytest.mark.parametrize("mouse", "AB")
    @pytest.mark.parametrize(
        "weight", ["core_shifter.{}.mlp.4.bias", "readouts.{}.features", "readouts.{}.sigma"]
    )
    def test_a_weight_of_v1t(self, bundles: dict[str, Path], mouse: str, weight: str) -> None:
        part = weight.format(mouse)
        expected = f"weights of a v1t model must hold '{part}', got none of that name"
        assert self.refused_without(Bundle.load(bundles["bm2"]), part) == expected


class TestFolder:
    """V1T's output folder: only tensors are taken from it, and nothing in it is run."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return write_folder(tmp_path / "source", golden("bm2"))

    @staticmethod
    def outputs(source: Path, out: Path) -> NDArray[Any]:
        found = Engine(attendrite.export(source, out)).run(batch()).prediction
        assert isinstance(found, np.ndarray)
        return found

    def test_places_and_forms(self, source: Path, tmp_path: Path) -> None:
        first = self.outputs(source, tmp_path / "a")
        (source / "ckpt" / "model_state.pt").rename(source / "model_state.pt")
        arguments = json.loads((source / "args.json").read_text())
        (source / "args.json").unlink()
        text = "".join(f"{name}: {json.dumps(value)}\n" for name, value in arguments.items())
        text = text.replace("input_shape: [1, 144, 256]",
                            "input_shape: !!python/tuple\n- 1\n- 144\n- 256")  # fmt: skip
        assert "python/tuple" in text
        (source / "args.yaml").write_text(text)
        np.testing.assert_array_equal(self.outputs(source, tmp_path / "b"), first)

    def test_objects_of_the_training_are_left_alone(self, source: Path, tmp_path: Path) -> None:
        first = self.outputs(source, tmp_path / "a")
        scheduler = {"model": torch.nn.Linear(2, 2), "when": re.compile("x"), "path": tmp_path}
        rest = {"scheduler": scheduler, "optimizer": {"state": {0: torch.ones(3)}}}
        write_folder(tmp_path / "more", golden("bm2"), **rest)
        np.testing.assert_array_equal(self.outputs(tmp_path / "more", tmp_path / "b"), first)

    def test_nothing_is_called(self, source: Path, tmp_path: Path) -> None:
        write_folder(tmp_path / "bad", golden("bm2"), scheduler=Touch(tmp_path / "touched"))
        self.outputs(tmp_path / "bad", tmp_path / "b")
        assert not (tmp_path / "touched").exists()
        torch.load(tmp_path / "bad/ckpt/model_state.pt", weights_only=False)
        assert (tmp_path / "touched").exists()  # so the file would have done it

    def test_tensors_of_every_kind(self, tmp_path: Path) -> None:
        from attendrite.exporter._inert import read_tensors

        shared = torch.arange(24.0).view(4, 6)
        kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
                 torch.int16, torch.int8, torch.uint8, torch.bool)  # fmt: skip
        tensors = {str(kind): torch.arange(5).to(kind) for kind in kinds}
        tensors |= {"view": shared[1:3, ::2], "turned": shared.T, "one": torch.tensor(3.5),
                    "none": torch.zeros(0, 3), "parameter": torch.nn.Parameter(shared)}  # fmt: skip
        torch.save({"model": {**tensors, "text": "no tensor"}}, tmp_path / "file.pt")
        found = read_tensors(tmp_path / "file.pt", "model")
        assert set(found) == set(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(found[name], tensor), name
            assert found[name].dtype == tensor.dtype

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda f: (f / "args.json").unlink(), "must hold args.yaml or args.json"),
            (lambda f: (f / "ckpt/model_state.pt").unlink(), "must hold ckpt/model_state.pt or"),
            (lambda f: (f / "args.json").write_text("[1]"), "must hold a table of arguments"),
            (lambda f: (f / "args.json").write_text("{"), "must hold V1T's arguments"),
            (lambda f: (f / "args.json").write_text("{}"), "input_shape must be known"),
            (
                lambda f: (
                    (f / "args.json").rename(f / "args.yaml").write_text("!!python/object:x {}")
                ),
                "must hold V1T's arguments",
            ),
            (lambda f: (f / "ckpt/model_state.pt").write_bytes(b"x"), "must be a checkpoint of"),
            (lambda f: torch.save({"state": 1}, f / "ckpt/model_state.pt"), "a dictionary 'model'"),
            (
                lambda f: torch.save({"model": {"a": torch.ones(2)}}, f / "ckpt/model_state.pt"),
                "must hold one 'unit_emb.weight'",
            ),
        ],
    )
    def test_refused(
        self, source: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
    ) -> None:
        damage(source)
        with pytest.raises(AttendriteError, match=re.escape(message)) as caught:
            attendrite.export(source, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class TestData:
    """Statistics of the training come from its scan."""

    @pytest.fixture
    def scan(self, tmp_path: Path) -> Path:
        archive = next((FIXTURES / "v1t_data").glob("*.zip"))
        shutil.unpack_archive(archive, tmp_path / "scans")
        return next(p for p in (tmp_path / "scans").rglob("meta")).parent

    def test_kept(self, tmp_path: Path, scan: Path) -> None:
        source = write_folder(tmp_path / "source", golden("bm2"))
        attendrite.export(source, tmp_path / "out", data={"A": scan})
        kept = Bundle.load(tmp_path / "out").manifest.training["statistics"]
        std = np.load(scan / "meta/statistics/behavior/all/std.npy")
        assert kept["A"]["behavior"]["std"] == std.tolist()
        given = batch()
        assert given.behavior is not None
        raw = replace(given, behavior=given.behavior * std, pupil=None, raw=True, shift=False)
        mean, spread = (float(kept["A"]["images"][part]) for part in ("mean", "std"))
        raw = replace(raw, images=given.images * spread + mean)
        still = Engine(tmp_path / "out").run(replace(given, pupil=None, shift=False)).prediction
        np.testing.assert_allclose(
            Engine(tmp_path / "out").run(raw).prediction, still, rtol=1e-5, atol=1e-5
        )

    def test_refused(self, tmp_path: Path, scan: Path) -> None:
        from attendrite.__main__ import main

        source = write_folder(tmp_path / "source", golden("bm2"))
        with pytest.raises(AttendriteError, match="unknown mouse 'C'; known: A, B"):
            attendrite.export(source, tmp_path / "out", data={"C": scan})
        assert not (tmp_path / "out").exists()
        assert main(["export", str(source), "-o", str(tmp_path / "out"), "--data", "A"]) == 2
        assert (
            main(["export", str(source), "-o", str(tmp_path / "out"), "--data", f"A={scan}"]) == 0
        )

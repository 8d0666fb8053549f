"""Ensembles: parity with the formulas of V1T's ``ensemble.py``, and what they refuse.

Expected responses are made here, in double, of what the members say alone: the inverse of ELU + 1
of their responses, combined, and ELU + 1 of that.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, Bundle, Capture, Engine
from attendrite.__main__ import main
from attendrite.fields import EngineResponder
from attendrite.images import ImageBatch
from attendrite.scans import read_scan
from attendrite.verification import Finding, verify
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ("lsa", "crop08", "cct", "cnn_stacked2d", "bm2")  # not sorted
ALIKE = ("lsa", "cnn_stacked2d", "bm2")  # whose cores see the whole image
ONNX = pytest.param("onnx", "float32", marks=pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")),
    reason="onnx is not installed"))  # fmt: skip
EXECUTORS = [("reference", "float32"), ("reference", "float64"), ("torch", "float32"),
             ("native", "float32"), ("auto", "float32"), ONNX]  # fmt: skip
OUTPUT = 2e-5
Floats = NDArray[np.float64]

pytestmark = pytest.mark.usefixtures("compiled_fits", "one_thread")


def golden(name: str) -> dict[str, NDArray[Any]]:
    with np.load(FIXTURES / "v1t_tiny" / f"{name}.npz") as file:
        return dict(file)


def folder_of(name: str, folder: Path) -> Path:
    """A member's output folder, as V1T writes it."""
    arrays = golden(name)
    folder.mkdir(parents=True)
    weights = {k[8:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("weights.")}
    torch.save({"model": weights}, folder / "model_state.pt")
    (folder / "args.json").write_text(str(arrays["args"]))
    return folder


def batch(mouse: str = "A", **options: Any) -> ImageBatch:
    given = golden("inputs")
    return ImageBatch(
        given["images"], mouse, given["behaviors"], given["pupil_centers"], **options
    )  # fmt: skip


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The members' folders, and their bundles in ``bundles``."""
    room = tmp_path_factory.mktemp("members")
    (room / "bundles").mkdir()
    for name in (*NAMES, "franke", "no_resize"):
        attendrite.export(folder_of(name, room / name), room / "bundles" / name)
    return room


@pytest.fixture(scope="module")
def mean(room: Path) -> Path:
    return attendrite.export(None, room / "mean", members=bundles(room, NAMES))


def bundles(room: Path, names: Sequence[str]) -> dict[str, str | Path]:
    return {name: room / "bundles" / name for name in names}


def elu1(x: Floats) -> Floats:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0))) + 1


def drives(members: Mapping[str, str | Path | Bundle], given: ImageBatch) -> Floats:
    """What the members' nonlinearities are given, ``[B, U, k]``."""
    found = []
    for member in members.values():
        rate = np.asarray(
            Engine(member, executor="reference", dtype="float64").run(given).prediction
        )
        found.append(np.where(rate > 1, rate - 1, np.log(np.minimum(rate, 1))))
    return np.stack(found, -1)


def combining(mode: int) -> dict[str, torch.Tensor]:
    """The weights of the output module, as ``ensemble.py`` calls them."""
    rng = np.random.default_rng(mode)
    out = {"output_module.activation.one": torch.tensor(1.0)}
    for name in {0: [], 1: ["linear"], 2: ["linear.A", "linear.B"]}[mode]:
        out[f"output_module.{name}.weight"] = torch.from_numpy(rng.normal(0.3, 1, (1, len(NAMES))))
        out[f"output_module.{name}.bias"] = torch.from_numpy(rng.normal(0, 1, 1))
    return out


def write_ensemble(
    folder: Path, mode: int, weights: Mapping[str, torch.Tensor] | None, **args: Any
) -> Path:
    """An output folder of ``ensemble.py``: arguments sorted, no checkpoint where it averages."""
    folder.mkdir(parents=True)
    saved = {name: f"runs/{name}" for name in sorted(NAMES)}
    given = {"ensemble_mode": mode, "saved_models": saved, "input_shape": [1, 144, 256]}
    (folder / "args.yaml").write_text(json.dumps({**given, **args}))
    if weights is not None:
        (folder / "ckpt").mkdir()
        torch.save({"epoch": 3, "model": weights}, folder / "ckpt/model_state.pt")
    return folder


class TestOutputs:
    @pytest.mark.parametrize(("executor", "dtype"), EXECUTORS)
    @pytest.mark.parametrize("mouse", "AB")
    def test_mean(self, room: Path, mean: Path, mouse: str, executor: str, dtype: str) -> None:
        engine, members = Engine(mean, executor=executor, dtype=dtype), bundles(room, NAMES)
        found = engine.run(batch(mouse)).prediction
        given = drives(members, batch(mouse))
        assert isinstance(found, np.ndarray)
        assert found.dtype == dtype
        assert np.abs(found - elu1(given.mean(-1))).max() < OUTPUT
        assert np.abs(elu1(given).mean(-1) - elu1(given.mean(-1))).max() > 0.1  # not the same

    @pytest.mark.parametrize(("executor", "dtype"), EXECUTORS)
    @pytest.mark.parametrize("mode", [1, 2])
    def test_weighted(
        self, room: Path, tmp_path: Path, mode: int, executor: str, dtype: str
    ) -> None:
        weights, members = combining(mode), bundles(room, NAMES)
        source = write_ensemble(tmp_path / "source", mode, weights)
        engine = Engine(
            attendrite.export(source, tmp_path / "out", members=members),
            executor=executor, dtype=dtype,
        )  # fmt: skip
        assert engine.manifest.config["mode"] == mode
        for mouse in "AB":
            name = "linear" if mode == 1 else f"linear.{mouse}"
            by, offset = (weights[f"output_module.{name}.{p}"].numpy() for p in ("weight", "bias"))
            expected = elu1(drives(members, batch(mouse)) @ by[0] + offset)
            assert np.abs(engine.run(batch(mouse)).prediction - expected).max() < OUTPUT

    @pytest.mark.parametrize("executor", ["reference", "native"])
    def test_sensorium(self, tmp_path: Path, executor: str) -> None:
        """Stacked cores, one of them linear: in C++ a map whose own nonlinearity must stay off."""
        source = FIXTURES / "sensorium_reduced" / "sensorium_sota_model.pth"
        first = Bundle.load(attendrite.export(source, tmp_path / "first"))
        config = {**first.manifest.config, "linear": True}
        second = Bundle(replace(first.manifest, config=config), first.weights)
        second.save(tmp_path / "second")
        members = {"first": tmp_path / "first", "second": tmp_path / "second"}
        engine = Engine(
            attendrite.export(None, tmp_path / "out", members=members), executor=executor
        )
        images = np.random.default_rng(0).normal(size=(3, 1, 36, 64))
        given = ImageBatch(images, next(iter(engine.manifest.sessions)))
        expected = elu1(drives(members, given).mean(-1))
        assert np.abs(engine.run(given).prediction - expected).max() < OUTPUT
        assert engine.sites == ()

    def test_one_member_is_that_model(self, room: Path, tmp_path: Path) -> None:
        out = attendrite.export(None, tmp_path / "out", members=bundles(room, ["bm2"]))
        np.testing.assert_allclose(
            Engine(out).run(batch()).prediction, golden("bm2")["golden.A.outputs"], atol=OUTPUT
        )

    def test_executors_agree(self, mean: Path) -> None:
        found = [r for r in verify(Bundle.load(mean)) if isinstance(r, Finding)]
        assert {f.executor for f in found} >= {"torch", "native"}
        assert all(f.passes for f in found), [f for f in found if not f.passes]
        assert {f.what for f in found} >= {"prediction", "lsa.block.1/top_k.weight"}

    def test_parts(self, mean: Path) -> None:
        engine = Engine(mean)
        whole, parts = engine.run(batch()), engine.run(batch(), batch_size=1)
        np.testing.assert_allclose(whole.prediction, parts.prediction, atol=1e-6)


class TestAttention:
    @pytest.mark.parametrize("executor", ["reference", "native"])
    def test_sites_are_those_of_the_members(self, room: Path, mean: Path, executor: str) -> None:
        engine = Engine(mean, executor=executor)
        names = [f"{name}.block.{i}" for name in ("lsa", "crop08", "cct", "bm2") for i in range(2)]
        assert [site.name for site in engine.sites] == names
        record = engine.run(batch(), Capture({"*": "entropy"})).attention
        assert record is not None
        assert [site for site, _ in record] == names
        for name in ("crop08", "cct"):
            member = Engine(room / "bundles" / name, executor=executor)
            alone = member.run(batch(), Capture({"block.*": "entropy"})).attention
            assert alone is not None
            for i in range(2):
                np.testing.assert_allclose(
                    record[f"{name}.block.{i}", "entropy"], alone[f"block.{i}", "entropy"]
                )

    def test_patterns(self, mean: Path) -> None:
        engine = Engine(mean)
        for pattern, count in (("lsa.*", 2), ("*.block.0", 4), ("bm2.block.1", 1)):
            record = engine.run(batch(), Capture({pattern: "lse"})).attention
            assert record is not None
            assert len(list(record)) == count
        with pytest.raises(AttendriteError, match=r"unknown site 'block\.0'; known: lsa\.block\.0"):
            engine.run(batch(), Capture({"block.0": "lse"}))

    @pytest.mark.parametrize("executor", ["reference", "native"])
    def test_no_rollout(self, mean: Path, executor: str) -> None:
        message = "a model with a rollout must be one model, got an ensemble; run a member"
        with pytest.raises(AttendriteError, match=message):
            Engine(mean, executor=executor).run(batch(), rollout="max")


class TestImages:
    def test_cropped(self, room: Path, mean: Path, tmp_path: Path) -> None:
        alike = attendrite.export(None, tmp_path / "alike", members=bundles(room, ALIKE))
        seen = golden("lsa")["golden.A.cropped"][:, :1]
        given = replace(batch(), images=seen, cropped=True)
        expected = elu1(drives(bundles(room, ALIKE), given).mean(-1))
        assert np.abs(Engine(alike).run(given).prediction - expected).max() < OUTPUT
        with pytest.raises(
            AttendriteError,
            match=re.escape(
                "what the core of member 'crop08' sees must be [1, 36, 64] pixels, 1.0 of the "
                "image, as in 'lsa', got [1, 36, 64], 0.8; give whole images, or take one member"
            ),
        ):
            Engine(mean).run(given)

    def test_a_graph_takes_whole_images(self, room: Path, tmp_path: Path) -> None:
        pytest.importorskip("onnx", reason="onnx is not installed")
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        members = bundles(room, ALIKE)
        engine = Engine(
            attendrite.export(None, tmp_path / "out", members=members, onnx=True), executor="onnx"
        )
        assert engine._executor.choices["graph"] == "graph.onnx"
        expected = elu1(drives(members, batch("B")).mean(-1))
        assert np.abs(engine.run(batch("B")).prediction - expected).max() < OUTPUT
        seen = golden("lsa")["golden.A.cropped"][:, :1]
        with pytest.raises(AttendriteError, match="images must be whole, the graph crops"):
            engine.run(replace(batch(), images=seen, cropped=True))
        with pytest.raises(AttendriteError, match="shift must be on, the graph moves the read-out"):
            engine.run(replace(batch(), shift=False))

    def test_other_sizes_of_cores(self, room: Path, tmp_path: Path) -> None:
        """Whole images are resized by each member."""
        members = bundles(room, ["lsa", "no_resize"])
        engine = Engine(attendrite.export(None, tmp_path / "out", members=members))
        expected = elu1(drives(members, batch()).mean(-1))
        assert np.abs(engine.run(batch()).prediction - expected).max() < OUTPUT

    def test_what_members_read_is_asked_for(self, room: Path, tmp_path: Path, mean: Path) -> None:
        model: Any = Engine(mean).model
        assert model.covariates == ("behavior", "pupil")
        with pytest.raises(AttendriteError, match="behavior must be given, the model reads it"):
            Engine(mean).run(replace(batch(), behavior=None))
        with pytest.raises(AttendriteError, match=re.escape("shape [B, 1, 144, 256]")):
            Engine(mean).run(replace(batch(), images=batch().images[..., 1:]))

    def test_raw_images_are_scaled_alike(self, room: Path, tmp_path: Path) -> None:
        members: dict[str, str | Path] = {}
        for i, name in enumerate(("lsa", "bm2", "crop08")):
            bundle = Bundle.load(room / "bundles" / name)
            facts = {"A": {"images": {"mean": 110.0 + (i == 2), "std": 60.0}}}
            training = {"statistics": facts} if i else {}
            Bundle(replace(bundle.manifest, training=training), bundle.weights).save(
                tmp_path / name
            )
            members[name] = tmp_path / name
        with pytest.raises(AttendriteError, match="statistics of member 'crop08' must be those of"):
            attendrite.export(None, tmp_path / "out", members=members)
        del members["crop08"]
        manifest = Bundle.load(attendrite.export(None, tmp_path / "out", members=members)).manifest
        assert manifest.training["statistics"]["A"]["images"]["mean"] == 111.0 - 1
        assert manifest.source["members"]["bm2"]["training"] == manifest.training


class TestFolders:
    def test_the_mean_has_no_checkpoint(self, room: Path, tmp_path: Path, mean: Path) -> None:
        source = write_ensemble(tmp_path / "source", 0, None)
        folders: dict[str, str | Path] = {name: room / name for name in NAMES}
        out = attendrite.export(source, tmp_path / "out", members=folders)
        np.testing.assert_array_equal(
            Engine(out).run(batch()).prediction, Engine(mean).run(batch()).prediction
        )

    def test_members_must_be_given(self, tmp_path: Path) -> None:
        """No path that the folder names is opened."""
        source = write_ensemble(tmp_path / "source", 1, combining(1))
        give = " ".join(f"--member {name}=FOLDER" for name in sorted(NAMES))
        expected = f"pass {give}, in the order of ensemble.py"
        with pytest.raises(AttendriteError, match=re.escape(expected)):
            attendrite.export(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_order_is_that_of_members(self, room: Path, tmp_path: Path) -> None:
        source = write_ensemble(tmp_path / "source", 1, combining(1))
        found = [
            Engine(attendrite.export(source, tmp_path / str(i), members=bundles(room, names)))
            .run(batch())
            .prediction
            for i, names in enumerate((NAMES, sorted(NAMES)))
        ]
        assert np.abs(found[0] - found[1]).max() > 0.1

    def test_weights_of_a_whole_state(self, room: Path, tmp_path: Path) -> None:
        """They win over those of the folders, and so does their order."""
        state = combining(1)
        for name in NAMES:
            for key, value in golden(name).items():
                if key.startswith("weights."):
                    state[f"ensemble.{name}.{key[8:]}"] = torch.from_numpy(value)
        moved = "ensemble.lsa.readouts.A.bias"
        state[moved] = state[moved] + 1
        source = write_ensemble(tmp_path / "source", 1, state)
        with pytest.raises(AttendriteError, match=r"--member lsa=FOLDER.*--member bm2=FOLDER$"):
            attendrite.export(source, tmp_path / "out")
        members = bundles(room, sorted(NAMES))
        found = Engine(attendrite.export(source, tmp_path / "out", members=members))
        given = drives(bundles(room, NAMES), batch())
        given[..., 0] += 1
        by, offset = (state[f"output_module.linear.{p}"].numpy() for p in ("weight", "bias"))
        expected = elu1(given @ by[0] + offset)
        assert np.abs(found.run(batch()).prediction - expected).max() < OUTPUT

    @pytest.mark.parametrize(
        ("mode", "weights", "args", "message"),
        [
            (1, 0, {}, "the ensemble must have the weights of ensemble_mode 1, got those of 0"),
            (1, None, {}, "must hold ckpt/model_state.pt or model_state.pt"),
            (0, 1, {}, "must have the weights of ensemble_mode 0, got those of 1"),
            (0, None, {"saved_models": {"x": "runs/x"}}, "members must be x, got lsa, crop08"),
        ],
    )
    def test_refused(
        self, room: Path, tmp_path: Path, mode: int, weights: int | None, args: dict[str, Any],
        message: str,
    ) -> None:  # fmt: skip
        held = None if weights is None else combining(weights)
        source = write_ensemble(tmp_path / "source", mode, held, **args)
        with pytest.raises(AttendriteError, match=re.escape(message)):
            attendrite.export(source, tmp_path / "out", members=bundles(room, NAMES))


class TestMembers:
    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ("franke", "input_shape of member 'franke' must be [1, 144, 256], the images of all"),
            ("poyo", "member 'poyo' must be one model of images, got a poyo model"),
            ("mean", "member 'mean' must be one model of images, got a ensemble model"),
            ("fewer", "neurons of member 'fewer' must be those of member 'bm2', got 'A/23' in one"),
            ("mouse", "mice of member 'mouse' must be those of member 'bm2', got 'B' in one of"),
            ("a.b", "a member's name must have letters, digits, - and _ alone, got 'a.b'"),
        ],
    )
    def test_refused(
        self, room: Path, mean: Path, tmp_path: Path, other: str, message: str
    ) -> None:
        members: dict[str, str | Path] = {"bm2": room / "bundles/bm2", other: tmp_path / other}
        make: dict[str, Callable[[Path], Any]] = {
            "franke": lambda to: shutil.copytree(room / "bundles/franke", to),
            "poyo": lambda to: attendrite.export(
                FIXTURES / "poyo_tiny/poyo_tiny_lightning.ckpt", to
            ),
            "mean": lambda to: shutil.copytree(mean, to),
            "fewer": lambda to: self.smaller(room).save(to),
            "mouse": lambda to: self.one_mouse(room).save(to),
            "a.b": lambda to: shutil.copytree(room / "bundles/lsa", to),
        }
        make[other](tmp_path / other)
        with pytest.raises(AttendriteError, match=re.escape(message)) as caught:
            attendrite.export(None, tmp_path / "out", members=members)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    @staticmethod
    def smaller(room: Path) -> Bundle:
        """The same without the last neuron of mouse A."""
        bundle = Bundle.load(room / "bundles/lsa")
        cut = {"features": (..., slice(23)), "sigma": (slice(None), slice(23)), "bias": slice(23),
               "source_grid": slice(23)}  # fmt: skip
        weights = dict(bundle.weights)
        for part, at in cut.items():
            name = f"readouts.A.{part}"
            weights[name] = weights[name][at]
        units = {unit: row for unit, row in bundle.manifest.units.items() if unit != "A/23"}
        return Bundle(replace(bundle.manifest, units=units), weights)

    @staticmethod
    def one_mouse(room: Path) -> Bundle:
        bundle = Bundle.load(room / "bundles/lsa")
        weights = {k: v for k, v in bundle.weights.items() if ".B." not in k}
        return Bundle(replace(bundle.manifest, sessions={"A": 1}), weights)

    def test_other_neurons_in_a_bundle(self, room: Path, mean: Path) -> None:
        """Names of neurons do not tell how many the weights have."""
        bundle, fewer = Bundle.load(mean), self.smaller(room)
        weights = dict(bundle.weights)
        weights |= {f"ensemble.lsa.{name}": tensor for name, tensor in fewer.weights.items()}
        message = "neurons of mouse 'A' in member 'crop08' must be 23 as in 'lsa', got 24"
        with pytest.raises(AttendriteError, match=re.escape(message)):
            Engine(Bundle(bundle.manifest, weights))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"members": {}}, "members of manifest.json must be an object of one member or more"),
            ({"members": [1]}, "members of manifest.json must be an object"),
            ({"members": {"a": 3}}, "member 'a' of manifest.json must be an object with a family"),
            ({"members": {"a": {"family": "x"}}}, "unknown model family 'x'"),
            ({"mode": 3}, "unknown mode of an ensemble 3; known: 0, 1, 2"),
            ({"mode": "0"}, "mode of manifest.json must be an integer"),
            ({"mode": 1}, "must hold 'output_module.linear.weight'"),
            ({"mode": 2}, "must hold 'output_module.linear.A.weight'"),
            ({"input_shape": [1, 36, 64]}, "input_shape of member 'lsa' must be [1, 36, 64]"),
        ],
    )
    def test_bundles_that_anybody_wrote(
        self, mean: Path, change: dict[str, Any], message: str
    ) -> None:
        bundle = Bundle.load(mean)
        manifest = replace(bundle.manifest, config={**bundle.manifest.config, **change})
        with pytest.raises(AttendriteError, match=re.escape(message)):
            Engine(Bundle(manifest, bundle.weights))

    def test_weights_are_those_of_the_members(self, mean: Path) -> None:
        bundle = Bundle.load(mean)
        name = "ensemble.cct.readouts.B.bias"
        less = {k: v for k, v in bundle.weights.items() if k != "ensemble.cct.readouts.B.sigma"}
        with pytest.raises(AttendriteError, match=r"must hold 'ensemble\.cct\.readouts\.B\.sigma'"):
            Engine(Bundle(bundle.manifest, less))
        with pytest.raises(AttendriteError, match=r"must all be known, got 'ensemble\.other\.x'"):
            Engine(Bundle(bundle.manifest, {**bundle.weights, "ensemble.other.x": torch.ones(1)}))
        assert torch.equal(
            bundle.weights[name], torch.from_numpy(golden("cct")["weights.readouts.B.bias"])
        )

    def test_what_does_not_go_with_members(self, room: Path, tmp_path: Path) -> None:
        members = bundles(room, NAMES)
        with pytest.raises(AttendriteError, match="members must come without family and settings"):
            attendrite.export(None, tmp_path / "a", members=members, settings={"linear": "true"})
        with pytest.raises(AttendriteError, match="pass --member NAME=FOLDER, in the order of"):
            attendrite.export(room / "lsa", tmp_path / "a", family="ensemble")
        with pytest.raises(AttendriteError, match="a source with members must be an ensemble"):
            attendrite.export(room / "lsa", tmp_path / "a", members=members)
        assert not (tmp_path / "a").exists()


class TestCommands:
    @pytest.fixture
    def scan(self, tmp_path: Path) -> Path:
        archive = next((FIXTURES / "v1t_data").glob("*.zip"))
        shutil.unpack_archive(archive, tmp_path / "scans")
        return next(p for p in (tmp_path / "scans").rglob("meta")).parent

    def test_export_run_and_inspect(
        self, room: Path, mean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = [word for name in NAMES for word in ("--member", f"{name}={room / name}")]
        assert main(["export", *words, "-o", str(tmp_path / "out")]) == 0
        given = batch()
        arrays = {"images": given.images, "behavior": given.behavior, "pupil": given.pupil}
        np.savez(tmp_path / "in.npz", mouse=np.array("A"), **arrays)  # type: ignore[arg-type]
        run = ["run", str(tmp_path / "out"), str(tmp_path / "in.npz"), "-o"]
        assert main([*run, str(tmp_path / "r.npz"), "--capture", "cct.*:entropy"]) == 0
        with np.load(tmp_path / "r.npz") as found:
            np.testing.assert_array_equal(found["prediction"], Engine(mean).run(batch()).prediction)
            assert found["attention/cct.block.1/entropy"].shape == (2, 3, 144)
        capsys.readouterr()
        assert main(["inspect", str(tmp_path / "out")]) == 0
        said = capsys.readouterr().out
        assert "members.crop08.center_crop          0.8\n" in said
        assert "crop08.block.1     3     32  patches" in said
        assert main([*run, str(tmp_path / "s.npz"), "--rollout", "max"]) == 2
        assert "must be one model, got an ensemble" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "the source must be given, got none"),
            (["--member", "a"], "--member must read KEY=VALUE"),
            (["--member", "a=x", "--member", "a=y"], "--member must name each once, got 'a'"),
            (["--member", "a=nowhere"], "nowhere must be a checkpoint file, got nothing there"),
        ],
    )
    def test_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
    ) -> None:
        assert main(["export", *words, "-o", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err

    def test_fields(
        self, room: Path, mean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        alike = attendrite.export(None, tmp_path / "alike", members=bundles(room, ALIKE))
        words = ["--mouse", "A", "--images", "64", "--behavior", "0,0,0", "--quiet", "-o"]
        assert main(["fields", str(alike), *words, str(tmp_path / "fields")]) == 0
        with np.load(tmp_path / "fields/fields.npz") as found:
            assert found["field"].shape == (24, 1, 36, 64)
        assert main(["fields", str(mean), *words, str(tmp_path / "none")]) == 2
        assert "what the core of member 'crop08' sees must be" in capsys.readouterr().err

    def test_scans_beside_members(
        self, room: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A scan settles what members say of its mouse; of the other mouse they are believed."""
        words: list[str] = []
        for i, name in enumerate(ALIKE):
            bundle = Bundle.load(room / "bundles" / name)
            facts = {mouse: {"images": {"mean": 110.0, "std": 60.0 + i * (mouse == "A")}}
                     for mouse in "AB"}  # fmt: skip
            manifest = replace(bundle.manifest, training={"statistics": facts})
            Bundle(manifest, bundle.weights).save(tmp_path / name)
            words += ["--member", f"{name}={tmp_path / name}"]
        export, out = ["export", *words, "-o"], str(tmp_path / "out")
        assert main([*export, out]) == 2
        said = capsys.readouterr().err
        assert "got others of mouse 'A'; pass --data A=SCAN" in said
        assert main([*export, out, "--data", f"A={scan}", "--data", f"C={scan}"]) == 2
        assert "unknown mouse 'C'; known: A, B" in capsys.readouterr().err
        assert not Path(out).exists()
        assert main([*export, out, "--data", f"A={scan}"]) == 0
        kept = Bundle.load(out).manifest.training["statistics"]
        assert kept == {"A": read_scan(scan).statistics, "B": facts["B"]}
        told = EngineResponder.of(Engine(out), "A", None, None).behavior  # of fields
        own = kept["A"]["behavior"]
        np.testing.assert_allclose(told, np.array(own["mean"]) / own["std"])

    def test_statistics_that_are_none(self, room: Path, tmp_path: Path) -> None:
        bundle = Bundle.load(room / "bundles/lsa")
        manifest = replace(bundle.manifest, training={"statistics": 3})
        Bundle(manifest, bundle.weights).save(tmp_path / "lsa")
        members = {"lsa": tmp_path / "lsa", "bm2": room / "bundles/bm2"}
        message = "statistics of member 'lsa' must be an object by mouse, got int"
        with pytest.raises(AttendriteError, match=message):
            attendrite.export(None, tmp_path / "out", members=members)

    def test_attend_and_check(
        self, mean: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["attend", str(mean), str(scan), "-o", str(tmp_path / "out"), "--session", "A"]
        assert main(words) == 2
        assert "the model must be one model, got an ensemble" in capsys.readouterr().err
        spikes = FIXTURES / "v1t_tiny/inputs.npz"
        assert main(["check", str(mean), str(spikes)]) == 2
        assert not (tmp_path / "out").exists()

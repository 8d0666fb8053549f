"""``attendrite attend`` for models of images: the folder, its figures, controls, refusals."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import Bundle, Capture, Engine
from attendrite.__main__ import main
from attendrite.analysis import gaze
from attendrite.analysis.image_control import untrained_core
from attendrite.analysis.looks import head_rows, look
from attendrite.images import ImageBatch
from attendrite.scans import Scan, read_scan

FIXTURES = Path(__file__).parent / "fixtures"
FILES = {"trials.csv", "heads.csv", "maps.npz", "attend.json", "report.html", "maps.png",
         "gaze.png", "heads.png"}  # fmt: skip
IMAGES, REPEATS, NEURONS = 4, 4, 24

pytestmark = pytest.mark.usefixtures("one_thread")


def export(room: Path, name: str) -> Path:
    """Make a bundle of one of V1T's variants."""
    with np.load(FIXTURES / "v1t_tiny" / f"{name}.npz") as arrays:
        found = {k[8:]: torch.from_numpy(arrays[k]) for k in arrays if k.startswith("weights.")}
        args = str(arrays["args"])
    (room / f"{name}_run").mkdir()
    torch.save({"model": found}, room / f"{name}_run" / "model_state.pt")
    (room / f"{name}_run" / "args.json").write_text(args)
    return Path(attendrite.export(room / f"{name}_run", room / name))


def write_scan(root: Path, neurons: int = NEURONS, hashed: bool = False) -> Path:
    """Write a scan: test images repeated, an image of training shown once."""
    rng = np.random.default_rng(0)
    ids = np.r_[np.repeat(np.arange(IMAGES), REPEATS), 99]
    shown = rng.uniform(0, 255, (100, 1, 144, 256)).astype(np.float32)
    trials, silent = len(ids), np.zeros((len(ids), 1))
    silent[-1] = 1
    values = {
        "images": shown[ids],
        "responses": rng.gamma(2, size=(trials, neurons)) * (silent if hashed else 1),
        "behavior": rng.uniform(10, 40, (trials, 3)),
        "pupil_center": rng.normal(200, 15, (trials, 2)),
    }
    files: dict[str, Any] = {
        "meta/neurons/unit_ids": np.arange(neurons),
        "meta/neurons/animal_ids": np.full(neurons, 7),
        "meta/neurons/cell_motor_coordinates": rng.normal(size=(neurons, 3)),
        "meta/trials/tiers": np.array(["test"] * (trials - 1) + ["train"]),
        "meta/trials/trial_idx": np.arange(trials).astype("U" if hashed else int),
        "meta/trials/frame_image_id": ids,
    }
    for name, array in values.items():
        files |= {f"data/{name}/{i}": x for i, x in enumerate(array)}
        axes = None if name == "images" else 0
        files[f"meta/statistics/{name}/all/mean"] = np.asarray(array.mean(axes))
        files[f"meta/statistics/{name}/all/std"] = np.asarray(array.std(axes)) + 0.1
    for name, array in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / f"{name}.npy", array)
    return root


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    for name in ("patch_conv", "bm0_vit", "cnn_stacked2d"):
        export(path, name)
    write_scan(path / "static21067-10-18-GrayImageNet-0")
    return path


@pytest.fixture(scope="module")
def scan(room: Path) -> Scan:
    return read_scan(room / "static21067-10-18-GrayImageNet-0")


def run(room: Path, out: Path, *arguments: str, bundle: str = "patch_conv", data: str = "") -> int:
    scan = room / (data or "static21067-10-18-GrayImageNet-0")
    return main(
        ["attend", str(room / bundle), str(scan), "-o", str(out), "--null", "19", *arguments]
    )


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(room: Path) -> Path:
    assert run(room, room / "out", "--seed", "3") == 0
    return room / "out"


def test_the_folder(folder: Path, room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert run(room, folder, "--force", "--no-control") == 0
    printed = capsys.readouterr().out
    assert "centre against pupil" in printed
    assert re.search(r"from another trial +given x +given y +own x +own y\npupil ", printed)
    assert f"written to {folder}" in printed
    assert run(room, folder, "--force", "--seed", "3", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((folder / "attend.json").read_text())


def test_maps_are_those_of_the_engine(folder: Path, room: Path, scan: Scan) -> None:
    trials = scan.trials("test")
    process, behavior, pupil = scan.preprocessing, scan.behavior(trials), scan.pupil(trials)
    assert behavior is not None
    assert pupil is not None
    batch = ImageBatch(
        process.images(scan.images(trials)), "A", process.behavior(behavior), process.pupil(pupil)
    )
    result = Engine(room / "patch_conv").run(
        batch, Capture({"*": ["weights"]}), rollout="max", batch_size=8
    )
    assert result.rollout is not None
    assert result.attention is not None
    maps = gaze.heat_maps(result.rollout, (36, 64))
    with np.load(folder / "maps.npz") as written:
        np.testing.assert_allclose(written["maps"], maps, atol=1e-5)
        np.testing.assert_array_equal(written["trial"], trials)
        np.testing.assert_array_equal(written["image_id"], scan.image_ids[trials])
    rows = table(folder / "trials.csv")
    centre = gaze.centre_of_mass(maps)
    for i, row in enumerate(rows):
        assert float(row["centre_x"]) == pytest.approx(centre[i, 0], abs=1e-3)
        assert float(row["centre_y"]) == pytest.approx(centre[i, 1], abs=1e-3)
        assert float(row["pupil_x"]) == pytest.approx(pupil[i, 0])
        assert float(row["dilation"]) == pytest.approx(behavior[i, 0])
    heads = table(folder / "heads.csv")
    assert [row["model"] for row in heads[::6]] == [
        "trained",
        *(f"untrained {i}" for i in range(3)),
    ]
    for row in heads[:6]:
        weights = result.attention[row["site"], "weights"][:, int(row["head"])].astype(np.float64)
        entropy = -(weights * np.log(np.maximum(weights, 1e-30))).sum(-1).mean()
        assert float(row["entropy"]) == pytest.approx(entropy, abs=1e-4)
        received = weights.mean((0, 1))
        assert float(row["top_share"]) == pytest.approx(received.max(), rel=1e-4)
        assert float(row["class_share"]) == pytest.approx(received[0], rel=1e-4)
        assert float(row["uniform"]) == pytest.approx(1 / 121)
        top = int(received.argmax())
        place = f"row {(top - 1) // 12} column {(top - 1) % 12}" if top else "class token"
        assert row["top"] == place


def test_figures_of_the_summary(folder: Path, room: Path, scan: Scan) -> None:
    facts = json.loads((folder / "attend.json").read_text())
    assert (facts["mouse"], facts["scan"], facts["tier"]) == ("A", "21067-10-18", "test")
    assert (facts["trials"], facts["images"], facts["repeats"]) == (16, 4, [4, 4])
    assert (facts["grid"], facts["map"], facts["crop"]) == ([10, 12], [36, 64], 1)
    assert facts["warning"].startswith("patches of 8 x 15 are laid out as 10 x 12")
    assert facts["warning"] in (folder / "report.html").read_text().replace("&#39;", "'")
    assert set(facts["correlation"]) == {"single_trial", "to_average"}
    assert facts["reads"] == ["behavior", "pupil"]
    trials = scan.trials("test")
    with np.load(folder / "maps.npz") as written:
        maps = written["maps"].astype(np.float64)
    pupil = scan.pupil(trials)
    assert pupil is not None
    expected = gaze.gaze_correlation(
        maps, pupil, scan.image_ids[trials], rng=np.random.default_rng([3, 0]), rounds=19
    )
    own = facts["models"][0]
    assert [model["name"] for model in facts["models"]][1:] == [f"untrained {i}" for i in range(3)]
    for axis, one in zip("xy", expected, strict=True):
        assert own["centre"][axis]["within"] == pytest.approx(one.within, abs=1e-4)
        assert own["centre"][axis]["p"] == one.p
        assert own["centre"][axis]["verdict"] == "tested"
        assert own["published"][axis]["r"] == pytest.approx(abs(own["centre"][axis]["r"]))
        assert own["published"][axis]["p"] is None
    centres = {m["centre"]["x"]["r"] for m in facts["models"]}
    assert len(centres) == 4  # each draw is another model
    assert set(facts["swaps"]) == {"pupil", "behavior", "both"}


def test_the_strongest_token_is_named_by_its_place() -> None:
    received = np.full((3, 121), 1e-3)
    received[[0, 1, 2], [0, 12, 13]] = 1
    site = SimpleNamespace(name="block.0", heads=3)
    found: Any = SimpleNamespace(
        engine=SimpleNamespace(sites=[site]), received={"block.0": received}, trials=[0, 1],
        entropy={"block.0": np.array([2.0, 4.0, 0.0])}, rollout=np.zeros((2, 10, 12)),
    )  # fmt: skip
    rows = head_rows(found)
    assert [row["top"] for row in rows] == ["class token", "row 0 column 11", "row 1 column 0"]
    assert [row["entropy"] for row in rows] == [1, 2, 0]
    assert [row["tokens"] for row in rows] == pytest.approx(np.exp([1, 2, 0]))
    assert rows[0]["class_share"] == rows[0]["top_share"] == pytest.approx(1 / 1.12)
    assert rows[1]["class_share"] == pytest.approx(1e-3 / 1.12)


def test_swaps_run_the_model_again(room: Path, scan: Scan) -> None:
    found = look(Engine(room / "patch_conv"), scan, mouse="A", rounds=9)
    trials = scan.trials("test")
    pupil, behavior = scan.pupil(trials), scan.behavior(trials)
    assert pupil is not None
    assert behavior is not None
    process = scan.preprocessing

    def rerun(pupil: Any, behavior: Any) -> Any:
        batch = ImageBatch(process.images(scan.images(trials)), "A", process.behavior(behavior),
                           process.pupil(pupil))  # fmt: skip
        return Engine(room / "patch_conv").run(batch, rollout="max").rollout

    expected = gaze.swapped(
        rerun, pupil, behavior, scan.image_ids[trials], (36, 64), np.random.default_rng([0, 2])
    )
    for name, swap in expected.items():
        np.testing.assert_allclose(found.swaps[name].given, swap.given, atol=1e-3)
        np.testing.assert_allclose(found.swaps[name].own, swap.own, atol=1e-3)


def test_a_model_that_reads_neither_cannot_follow(room: Path, scan: Scan) -> None:
    found = look(Engine(room / "bm0_vit"), scan, mouse="A", rounds=9, batch_size=5)
    assert found.trained.centre is not None
    for one in found.trained.centre:
        assert one.verdict == "not testable: nothing varies among repeats"
    assert set(found.swaps) == {"pupil"}  # its read-out moves with the pupil
    (given, own) = found.swaps["pupil"].given, found.swaps["pupil"].own
    assert own == pytest.approx([c.r for c in found.trained.centre], abs=1e-3)
    assert given != pytest.approx(own, abs=1e-3)


def test_statistics_of_a_scan_make_raw_inputs_the_same(room: Path, scan: Scan) -> None:
    bundle = Bundle.load(room / "patch_conv")
    facts = {"statistics": {"A": json.loads(json.dumps(scan.statistics))}}
    engine = Engine(Bundle(replace(bundle.manifest, training=facts, files={}), bundle.weights))
    trials, process = scan.trials("test")[:3], scan.preprocessing
    images, behavior, pupil = scan.images(trials), scan.behavior(trials), scan.pupil(trials)
    assert behavior is not None
    assert pupil is not None
    raw = ImageBatch(images, "A", behavior, pupil, raw=True)
    scaled = ImageBatch(
        process.images(images), "A", process.behavior(behavior), process.pupil(pupil)
    )
    one, other = (engine.run(batch).prediction for batch in (raw, scaled))
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_images_shown_once(room: Path, scan: Scan) -> None:
    found = look(Engine(room / "patch_conv"), scan, mouse="A", tier="train", rounds=9)
    assert found.trained.centre is not None
    assert found.trained.centre[0].verdict == "not testable: no image was repeated"
    assert found.swaps == {}


def test_the_untrained_core(room: Path) -> None:
    bundle = Bundle.load(room / "patch_conv")
    one, same, other = (untrained_core(bundle, seed) for seed in (1, 1, 2))
    assert one.manifest.name == "patch_conv, untrained 1"
    drawn = {
        name for name in bundle.weights if not torch.equal(one.weights[name], other.weights[name])
    }
    assert drawn  # what has a random draw
    for name, old in bundle.weights.items():
        new = one.weights[name]
        assert torch.equal(new, same.weights[name])
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        if name.startswith(("readouts.", "core_shifter.")):
            assert torch.equal(new, old)
    block = "core.transformer.blocks.1"
    assert one.weights[f"{block}.mha.to_qkv.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert (one.weights[f"{block}.mha.projection.0.bias"] == 0).all()
    assert (one.weights[f"{block}.mha.layer_norm.weight"] == 1).all()
    assert (one.weights[f"{block}.mha.layer_norm.bias"] == 0).all()
    patches = one.weights["core.patch_embedding.projection.0.weight"]
    assert patches.ndim == 4
    assert patches.std() == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    assert one.weights["core.patch_embedding.pos_embedding"].std() == pytest.approx(1, rel=0.1)
    assert f"{block}.mlp.model.1.weight" in drawn
    expected = {name for name in bundle.weights if name.startswith("core.patch_embedding.")}
    assert expected <= drawn


def test_withheld_responses_leave_the_rest(room: Path, tmp_path: Path) -> None:
    write_scan(tmp_path / "static27204-5-13-GrayImageNet-0", hashed=True)
    hidden = read_scan(tmp_path / "static27204-5-13-GrayImageNet-0")
    found = look(Engine(room / "patch_conv"), hidden, mouse="A", rounds=9)
    assert found.correlation is None
    assert found.trained.maps.shape == (16, 36, 64)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--session", "Z"), "unknown mouse 'Z'; known: A, B; name one: --session"),
        (("--tier", "final_test"), "unknown tier 'final_test'; known: test, train"),
        (("--trials", "x"), "--trials must come with a model of spikes, got a v1t model"),
        (("--tokens", "all"), "--tokens must come with a model of spikes"),
        (("--start", "1"), "--start must come with a model of spikes"),
        (("--session", "B"), "the scan of mouse 'B' must have 16 neurons, got 24; name another"),
    ],
)
def test_what_does_not_fit_is_refused(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...],
    words: str,
) -> None:  # fmt: skip
    assert run(room, tmp_path / "out", *arguments) == 2
    assert re.search(re.escape(words), capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_models_without_attention_or_images(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(room, tmp_path / "out", bundle="cnn_stacked2d") == 2
    assert "the model must read images and have attention" in capsys.readouterr().err
    attendrite.export(FIXTURES / "poyo_tiny/poyo_tiny_lightning.ckpt", tmp_path / "poyo")
    assert run(tmp_path, tmp_path / "out", "--tier", "test", bundle="poyo") == 2
    assert "--tier must come with a model of images, got a poyo" in capsys.readouterr().err

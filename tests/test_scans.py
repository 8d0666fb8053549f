"""Static scans: V1T's preprocessing of its own data, every layout, and every damage in one line."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attendrite.errors import AttendriteError
from attendrite.scans import Scan, read_scan
from numpy.typing import NDArray

FIXTURE = Path(__file__).parent / "fixtures" / "v1t_data"
NAME = "static21067-10-18-GrayImageNet-94c6ff995dac583098847cfecd43e7b6"
SHAPES = {"images": (1, 4, 6), "responses": (3,), "behavior": (3,), "pupil_center": (2,)}


def arrays(**other: Any) -> dict[str, NDArray[Any]]:
    """The files of a small scan of four trials and three neurons; ``None`` takes one away."""
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {
        "meta/neurons/unit_ids": np.array([30, 10, 20]),
        "meta/neurons/animal_ids": np.array([7, 7, 7]),
        "meta/neurons/cell_motor_coordinates": np.arange(9).reshape(3, 3),
        "meta/trials/tiers": np.array(["train", "validation", "test", "test"]),
        "meta/trials/trial_idx": np.array([8, 2, 5, 1], np.int32),
        "meta/trials/frame_image_id": np.array([100, 200, 300, 300]),
    }
    for name, shape in SHAPES.items():
        values = rng.uniform(1, 9, (4, *shape)).astype(np.float32)
        axes = None if name == "images" else 0
        found |= {f"data/{name}/{trial}": x for trial, x in enumerate(values)}
        found |= {f"meta/statistics/{name}/all/mean": np.asarray(values.mean(axes))}
        found |= {f"meta/statistics/{name}/all/std": np.asarray(values.std(axes))}
    found |= {name.replace("__", "/"): value for name, value in other.items()}
    return {name: value for name, value in found.items() if value is not None}


def write(root: Path, files: dict[str, Any]) -> Path:
    for name, value in files.items():
        path = root / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, bytes):
            path.write_bytes(value)
        else:
            np.save(path, value)
    return root


def folder(root: Path, **other: Any) -> Path:
    return write(root / "scan", arrays(**other))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    room = tmp_path_factory.mktemp("sensorium")
    shutil.copy(FIXTURE / f"{NAME}.zip", room)
    return read_scan(room / NAME)


def test_items_are_those_of_v1ts_loader(original: Scan) -> None:
    golden = np.load(FIXTURE / "golden.npz", allow_pickle=False)
    process = original.preprocessing
    close = {"rtol": 1e-6, "atol": 0}
    np.testing.assert_allclose(process.precision, golden["response_precision"], **close)
    assert process.precision.max() > 50  # one neuron is almost silent
    for tier in ("train", "test"):
        at = original.trials(tier)
        assert len(at) == 2
        behavior, pupil = original.behavior(at), original.pupil(at)
        assert behavior is not None
        assert pupil is not None
        items = {
            "image": process.images(original.images(at)),
            "response": process.responses(original.responses(at)),
            "behavior": process.behavior(behavior),
            "pupil_center": process.pupil(pupil),
            "image_id": original.image_ids[at],
            "trial_id": original.trial_ids[at],
        }
        for name, values in items.items():
            for i in range(2):
                np.testing.assert_allclose(values[i], golden[f"{tier}.{i}.{name}"], **close)
    assert process.images(original.images([0])).dtype == np.float32


def test_facts_of_a_scan(original: Scan) -> None:
    assert repr(original) == "Scan('21067-10-18'; 9 neurons; trials: 2 test, 2 train)"
    assert (original.mouse, original.animal, len(original)) == ("A", "21067", 4)
    assert original.unit_ids.shape == (9,)
    assert original.positions.shape == (9, 3)
    assert original.image_shape == (1, 144, 256)
    assert not original.hashed
    facts = json.loads(json.dumps(original.statistics))
    assert set(facts) == {"images", "behavior", "pupil_center"}
    assert facts["images"]["mean"] == pytest.approx(127.445465)
    assert facts["images"]["std"] == pytest.approx(73.62525)
    assert facts["pupil_center"]["std"] == pytest.approx([14.59399071, 6.42484582])
    assert len(facts["behavior"]["mean"]) == 3


def test_trials_in_any_order(tmp_path: Path) -> None:
    files = arrays()
    scan = read_scan(write(tmp_path, files))
    np.testing.assert_array_equal(
        scan.images([3, 0, 3]), [files[f"data/images/{t}"] for t in (3, 0, 3)]
    )
    assert scan.responses([]).shape == (0, 3)
    with pytest.raises(AttendriteError, match=r"trials must lie in 0\.\.3, got -1"):
        scan.images([-1])
    with pytest.raises(AttendriteError, match="unknown tier 'final_test'; known: test, train"):
        scan.trials("final_test")


def test_trials_are_read_when_asked_for(tmp_path: Path) -> None:
    path = folder(tmp_path)
    scan = read_scan(path)
    np.save(path / "data/images/2.npy", np.full((1, 4, 6), np.nan))
    scan.images([0, 1, 3])
    with pytest.raises(AttendriteError, match=re.escape("data/images/2.npy must be finite")):
        scan.images(scan.trials("test"))


def test_colour_and_rows_of_one(tmp_path: Path) -> None:
    images = {f"data/images/{t}": np.full((2, 3, 4), t, np.uint8) for t in range(4)}
    rows = {f"data/behavior/{t}": np.full((1, 3), t + 1.0) for t in range(4)}
    ids = {"meta/trials/frame_image_id": None,
           "meta/trials/colorframeprojector_image_id": np.array([3, 1, 2, 2])}  # fmt: skip
    scan = read_scan(write(tmp_path, arrays(**images, **rows, **ids)))
    assert scan.image_shape == (2, 3, 4)
    np.testing.assert_array_equal(scan.image_ids, [3, 1, 2, 2])
    np.testing.assert_array_equal(scan.images([2]), np.full((1, 2, 3, 4), 2, np.float32))
    behavior = scan.behavior([0, 3])
    assert behavior is not None
    np.testing.assert_array_equal(behavior, [[1, 1, 1], [4, 4, 4]])


def test_withheld_behaviour_is_none(tmp_path: Path) -> None:
    zeros = {
        f"data/{name}/{t}": np.zeros(SHAPES[name])
        for name in ("behavior", "pupil_center")
        for t in range(4)
    }
    stds = {f"meta/statistics/{name}/all/std": np.zeros(SHAPES[name]) for name in list(SHAPES)[2:]}
    for scan in (
        read_scan(write(tmp_path / "zeros", arrays(**zeros, **stds))),
        read_scan(write(tmp_path / "absent", {
            k: v for k, v in arrays().items() if "behavior" not in k and "pupil" not in k
        })),
    ):  # fmt: skip
        assert scan.behavior([0]) is None
        assert scan.pupil([0]) is None
        assert list(scan.statistics) == ["images"]
        with pytest.raises(AttendriteError, match="unknown data of the scan 'pupil_center'"):
            scan.preprocessing.pupil(np.zeros(2))


def test_withheld_responses_are_refused(tmp_path: Path) -> None:
    hashes = np.array(["5fe3", "0a11", "ff00", "1234"])
    silent = {f"data/responses/{t}": np.zeros(3) for t in (2, 3)}
    scan = read_scan(folder(tmp_path, meta__trials__trial_idx=hashes, **silent))
    assert scan.hashed
    np.testing.assert_array_equal(scan.trial_ids, hashes)
    assert scan.responses([0, 1]).any()
    scan.images([2, 3])
    with pytest.raises(AttendriteError, match=re.escape("responses of trial 2 (test) must be pub")):
        scan.responses([0, 2])
    open_scan = read_scan(folder(tmp_path / "open", **silent))
    assert not open_scan.responses([2]).any()  # nothing is withheld where trials have their order


def damage(array: NDArray[Any], at: Any, value: Any) -> NDArray[Any]:
    array = array.copy()
    array[at] = value
    return array


OBJECTS = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (3,), }"
BAD: list[tuple[str, Any, str]] = [
    ("meta/neurons/unit_ids", None, "the scan scan must hold meta/neurons/unit_ids.npy, got no"),
    ("meta/neurons/unit_ids", np.array([1, 2, 1]), "hold units, each once, got 3 entries"),
    ("meta/neurons/unit_ids", np.zeros(0, int), "hold units, each once, got 0 entries"),
    ("meta/neurons/unit_ids", np.zeros(3), "unit_ids.npy must hold integers, got dtype float64"),
    ("meta/neurons/animal_ids", np.array([7, 8, 7]), "animal_ids.npy must name one animal, got 7"),
    ("meta/neurons/cell_motor_coordinates", np.zeros((3, 4)), "must have shape [3, 2 or 3]"),
    ("meta/neurons/cell_motor_coordinates", np.full((3, 2), np.nan), "must be finite"),
    ("meta/trials/tiers", np.array([1, 2, 3, 4]), "tiers.npy must hold text, got dtype int64"),
    ("meta/trials/tiers", np.zeros(0, "U5"), "tiers.npy must hold a tier for each trial, got none"),
    ("meta/trials/tiers", OBJECTS + b" " * 40, "tiers.npy must hold an array of numbers"),
    ("meta/trials/tiers", np.array(["train"] * 5), "must hold a file for each of 5 trials, got"),
    ("meta/trials/frame_image_id", None, "must hold meta/trials/frame_image_id.npy"),
    ("meta/trials/frame_image_id", np.arange(3), "frame_image_id.npy must have shape [4], got [3]"),
    ("meta/trials/trial_idx", np.arange(4.0), "trial_idx.npy must hold integers or text"),
    ("data/images/1", None, "data/images must hold a file for each of 4 trials, got no 1.npy"),
    ("data/images/0", np.zeros((4, 6)), "data/images/0.npy must have shape [c, h, w], got [4, 6]"),
    ("data/images/0", np.zeros((1, 0, 6)), "data/images/0.npy must hold an image"),
    ("data/images/0", np.zeros((1, 4, 6), bool), "0.npy must hold numbers, got dtype bool"),
    ("data/responses/3", None, "data/responses must hold a file for each of 4 trials"),
    ("data/behavior/0", None, "must hold data/behavior/0.npy, got no such file"),
    ("meta/statistics/images/all/std", np.zeros(()), "the std of images must be above 0, got 0.0"),
    ("meta/statistics/images/all/std", np.zeros(2), "std.npy must have shape [], got [2]"),
    ("meta/statistics/behavior/all/std", np.array([1, 0, 1.0]), "the std of behavior must be"),
    ("meta/statistics/responses/all/std", np.zeros(3), "the std of responses must be above 0"),
    ("meta/statistics/responses/all/std", np.array([-1, 5, 5.0]), "above 0, got -1.0"),
    ("meta/statistics/pupil_center/all/mean", np.array([np.inf, 0]), "must be finite"),
    ("meta/statistics/pupil_center/all/mean", np.array([1e300, 0]), "must be finite"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_damage_is_named_at_once(tmp_path: Path, name: str, value: Any, words: str) -> None:
    path = folder(tmp_path, **{name: value})
    with pytest.raises(AttendriteError, match=re.escape(words)) as caught:
        read_scan(path)
    assert "\n" not in str(caught.value)


TRIAL: list[tuple[str, Any, Callable[[Scan], Any], str]] = [
    ("data/images/1", np.zeros((1, 4, 5)), lambda s: s.images([1]), "must have shape [1, 4, 6]"),
    ("data/responses/1", np.zeros(2), lambda s: s.responses([1]), "must have shape [3], got [2]"),
    ("data/responses/1", np.full(3, 1e39), lambda s: s.responses([1]), "responses/1.npy must be"),
    ("data/behavior/1", np.array(["a"]), lambda s: s.behavior([1]), "must hold numbers"),
    ("data/pupil_center/1", b"PK", lambda s: s.pupil([1]), "1.npy must be in .npy format"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "call", "words"), TRIAL)
def test_a_damaged_trial_is_named(
    tmp_path: Path, name: str, value: Any, call: Callable[[Scan], Any], words: str
) -> None:
    scan = read_scan(folder(tmp_path, **{name: value}))
    with pytest.raises(AttendriteError, match=re.escape(words)):
        call(scan)


def test_what_is_no_scan(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_scan(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        read_scan(tmp_path / "nothing.zip")
    (tmp_path / "file").touch()
    with pytest.raises(AttendriteError, match=re.escape("be the folder of a scan or its .zip")):
        read_scan(tmp_path / "file")


def archive(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as out:
        for name, data in entries.items():
            out.writestr(name, data)
    return path


def packed(root: Path, prefix: str) -> dict[str, bytes]:
    path = folder(root)
    return {
        f"{prefix}{p.relative_to(path).as_posix()}": p.read_bytes() for p in path.rglob("*.npy")
    }


@pytest.mark.parametrize("prefix", ["", "static1-2-3-GrayImageNet-0/"])
def test_an_archive_is_unpacked_once(tmp_path: Path, prefix: str) -> None:
    entries = packed(tmp_path / "from", prefix)
    others = {f"{prefix}config.json": b"{}", "__MACOSX/._x": b"x", f"{prefix}data/notes.txt": b""}
    path = archive(tmp_path / "static9-8-7-GrayImageNet-1.zip", entries | others)
    scan = read_scan(path)
    assert scan.session == "9-8-7"
    assert scan.images([0, 3]).shape == (2, 1, 4, 6)
    unpacked = path.with_suffix("")
    assert len([p for p in unpacked.rglob("*") if p.is_file()]) == len(entries)
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "from", path, unpacked])
    before = (unpacked / "meta" / "trials").stat().st_mtime_ns
    path.write_bytes(b"no longer an archive")
    assert len(read_scan(path)) == len(read_scan(unpacked)) == 4
    assert (unpacked / "meta" / "trials").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "name",
    ["../data/images/0.npy", "/data/images/0.npy", "a/../../data/x.npy", "..\\data\\x.npy",
     "C:/data/x.npy", "data/../../x.npy", "..", "~/data/x.npy"],
)  # fmt: skip
def test_an_entry_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    room = tmp_path / "room"
    room.mkdir()
    path = archive(room / "scan.zip", packed(tmp_path / "from", "") | {name: b"x"})
    with pytest.raises(AttendriteError, match="must stay inside its folder"):
        read_scan(path)
    assert list(room.iterdir()) == [path]
    assert not (tmp_path / "data").exists()


def test_damaged_archives(tmp_path: Path) -> None:
    entries = packed(tmp_path / "from", "")
    whole = archive(tmp_path / "scan.zip", entries, zipfile.ZIP_STORED).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    for data in (whole[: len(whole) // 2], b"PK", bytes(flipped)):
        (tmp_path / "scan.zip").write_bytes(data)
        with pytest.raises(AttendriteError, match=re.escape("scan.zip must be a whole .zip file")):
            read_scan(tmp_path / "scan.zip")
        assert not (tmp_path / "scan").exists()
        assert not list(tmp_path.glob(".*"))
    archive(tmp_path / "scan.zip", {"readme.txt": b"x"})
    with pytest.raises(AttendriteError, match="must hold data/ and meta/ with"):
        read_scan(tmp_path / "scan")
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as out:
        for name in ("data/images/0.npy", "scan/data/images/0.npy"):
            out.writestr(name, b"x")
    with pytest.raises(AttendriteError, match="must hold each array once"):
        read_scan(tmp_path / "scan")
    archive(tmp_path / "scan.zip", entries, zipfile.ZIP_BZIP2)
    with pytest.raises(AttendriteError, match="must be stored or deflated, got zip method 12"):
        read_scan(tmp_path / "scan")


def test_an_entry_without_a_name_is_passed_over(tmp_path: Path) -> None:
    path = archive(tmp_path / "scan.zip", packed(tmp_path / "from", ""))
    with zipfile.ZipFile(path, "a") as out:
        out.writestr(zipfile.ZipInfo(""), b"x")
    assert len(read_scan(path)) == 4


def test_an_archive_that_claims_too_much(tmp_path: Path) -> None:
    path = archive(tmp_path / "scan.zip", packed(tmp_path / "from", ""), zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")  # of the first entry in the directory
    data[at + 24 : at + 28] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    with pytest.raises(AttendriteError, match="must fit the file, got a claim of 2147483648 bytes"):
        read_scan(path)

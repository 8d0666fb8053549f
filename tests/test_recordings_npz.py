"""attendrite's own recording file: exact round trip, and every damage named in one line."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite.errors import AttendriteError
from attendrite.recordings import Intervals, Recording, Series, Spikes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

TIMES = np.array([0.1, 0.2, 0.2, 1.5])


def recording(**rest: Any) -> Recording:
    return Recording.from_trains(
        "set/one", {"a": TIMES[:2], "b": TIMES[2:], "ü/3": np.zeros(0)}, domain=(0.0, 2.0), **rest
    )


def full() -> Recording:
    return recording(
        series={
            "position": Series(TIMES, np.arange(8.0).reshape(4, 2), ("x", "y"), "px"),
            "speed": Series(TIMES, np.array([[1], [np.nan], [3], [4]], np.float32), ("v",)),
            "none": Series(np.zeros(0), np.zeros((0, 0)), ()),
        },
        intervals={
            "trials": Intervals(
                TIMES[:2],
                TIMES[2:],
                {
                    "side": np.array(["left", "ü"]),
                    "n": np.array([1, 2**62]),
                    "ok": np.array([True, False]),
                    "xy": np.asfortranarray(np.arange(4.0).reshape(2, 2)),
                },
            ),
            "epochs": Intervals(np.zeros(0), np.zeros(0)),
        },
        unit_columns={"area": np.array(["M1", "", "S1"]), "position": np.zeros((3, 2))},
        source="somewhere; MIT",
    )


def calcium() -> Recording:
    traces = Series(TIMES, np.ones((4, 2), np.float32), ("a", "b"), "dF/F")
    return Recording("c", ("a", "b"), Spikes.none, (0.0, 2.0), traces=traces)


@pytest.mark.parametrize("make", [recording, full, calcium])
@pytest.mark.parametrize("compress", [False, True])
def test_round_trip_is_exact(tmp_path: Path, make: Callable[[], Recording], compress: bool) -> None:
    path = tmp_path / "one.npz"
    make().save(path, compress=compress)
    back = attendrite.read(path)
    assert back.equals(make())
    assert back.source == make().source
    assert list(tmp_path.iterdir()) == [path]  # nothing is left beside it


names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=5)


@given(
    trains=st.dictionaries(
        names, npst.arrays(np.float64, st.integers(0, 9), elements=st.floats(0, 9))
    ),
    values=npst.arrays(
        np.float64, (3, 2), elements=st.floats(allow_infinity=False, allow_nan=True)
    ),
    name=names,
    area=st.text(st.characters(categories=["L", "Zs"]), max_size=3),
)
def test_any_recording_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    trains: dict[str, Any],
    values: Any,
    name: str,
    area: str,
) -> None:
    made = Recording.from_trains(
        name,
        {unit: np.sort(times) for unit, times in trains.items()},
        domain=(0.0, 9.0),
        series={name: Series(np.arange(3.0), values, ("p", name + "q"))},
        unit_columns={name: np.array([area] * len(trains), "U")} if trains else {},
    )
    path = tmp_path_factory.mktemp("round") / "one.npz"
    made.save(path)
    assert attendrite.read(path).equals(made)


def test_the_same_recording_gives_the_same_bytes(tmp_path: Path) -> None:
    full().save(tmp_path / "one.npz")
    full().save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_numpy_reads_the_file_without_pickle(tmp_path: Path) -> None:
    full().save(tmp_path / "one.npz")
    with np.load(tmp_path / "one.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        assert (meta["format"], meta["version"]) == ("attendrite recording", 1)
        np.testing.assert_array_equal(file["spikes/times"], TIMES)
        np.testing.assert_array_equal(file["unit_ids"], ["a", "b", "ü/3"])


def test_a_file_written_by_hand_is_read(tmp_path: Path) -> None:
    """The smallest file of docs/recordings.md, written with numpy alone."""
    meta = {
        "format": "attendrite recording", "version": 1, "session": "lab/day1", "domain": [0, 2.5],
        "source": "", "series": {}, "intervals": {}, "unit_columns": [], "traces_unit": "",
    }  # fmt: skip
    arrays = {
        "meta": np.array(json.dumps(meta)),
        "unit_ids": np.array(["a", "b"]),
        "spikes/times": np.array([0.5, 1.5]).astype(">f8"),
        "spikes/units": np.array([1, 0], np.int32),
    }
    np.savez(tmp_path / "hand.npz", **arrays)
    back = attendrite.read(tmp_path / "hand.npz")
    np.testing.assert_array_equal(back.spikes.times, [0.5, 1.5])
    assert back.session == "lab/day1"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    recording().save(path)
    before = path.read_bytes()
    bad = Recording(
        "s", ("a",), lambda: Spikes(np.array([2.0, 1.0]), np.zeros(2, np.int32)), (0, 2)
    )
    with pytest.raises(AttendriteError, match="spike times must be sorted"):
        bad.save(path)
    with pytest.raises(AttendriteError, match="must be printable and give each array a name"):
        recording(intervals={"a\0": full().intervals["epochs"]}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_collide_are_refused(tmp_path: Path) -> None:
    one = Intervals(np.zeros(1), np.zeros(1), {"b/start": np.zeros(1)})
    two = Intervals(np.zeros(1), np.zeros(1))
    with pytest.raises(
        AttendriteError, match="a name of its own, got 'intervals/a/columns/b/start'"
    ):
        recording(intervals={"a": one, "a/columns/b": two}).save(tmp_path / "one.npz")


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of a recording file with other contents, its checksums right."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def with_meta(**values: Any) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        meta = json.loads(str(np.load(io.BytesIO(entries["meta.npy"]))))
        entries["meta.npy"] = npy(np.array(json.dumps({**meta, **values})))

    return change


def with_array(name: str, content: bytes | Any) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        entries[f"{name}.npy"] = content if isinstance(content, bytes) else npy(content)

    return change


def header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
OBJECTS = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
CODE = "{'descr': '<f8', 'fortran_order': False, 'shape': (open('x'),), }"
NO_TEXT = "{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }"
ALIAS = "{'descr': '|a4', 'fortran_order': False, 'shape': (1,), }"
TRUTH = "{'descr': '|b1', 'fortran_order': False, 'shape': (2,), }"
DEEP = "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1," * 40 + "), }"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_meta(version=2),
            "the format version of one.npz must be 1..1, got 2; update attendrite",
        ),
        (with_meta(version="1"), "must be 1..1, got 1"),
        (
            with_meta(format="other"),
            "one.npz must be a recording, got an .npz file with the arrays",
        ),
        (with_meta(session=3), "meta.session of one.npz must be text, got 3"),
        (with_meta(domain=[0]), "meta.domain of one.npz must be two numbers, got [0]"),
        (with_meta(domain=[0, "1"]), "meta.domain of one.npz must be two numbers"),
        (with_meta(domain=[2, 1]), "domain must be finite with start <= stop, got 2.0 to 1.0 s"),
        (with_meta(domain=[0, 1]), "must lie in the domain 0.0 to 1.0 s, got times[3] = 1.5"),
        (with_meta(series={"x": {}}), "meta.series.x of one.npz must list its columns"),
        (
            with_meta(series={"x": {"columns": [1]}}),
            "meta.series.x of one.npz must hold names, got 1",
        ),
        (
            with_meta(series={"x": {"columns": ["y"]}}),
            "must hold the array 'series/x/times', got none",
        ),
        (with_meta(unit_columns="area"), "meta.unit_columns of one.npz must be a list of names"),
        (with_meta(unit_columns=["z"]), "one.npz must hold the array 'unit_columns/z', got none"),
        (with_array("meta", np.array("[1]")), "one.npz must be a recording"),
        (with_array("meta", np.array("{")), "meta of one.npz must be JSON text"),
        (with_array("meta", np.array("[" * 100_000)), "meta of one.npz must be JSON text"),
        (with_array("meta", np.zeros(3)), "one.npz must be a recording"),
        (
            with_array("unit_ids", np.arange(3)),
            "array 'unit_ids' of one.npz must be strings [U], got",
        ),
        (with_array("unit_ids", np.array(["a", "a"])), "unit ids must be unique, got 'a' twice"),
        (with_array("unit_ids", np.array(["a"])), "spike units must lie in 0..0, got units[2] = 1"),
        (with_array("spikes/times", TIMES[::-1]), "spike times must be sorted"),
        (with_array("spikes/times", TIMES - 1), "got times[0] = -0.9; mend the times"),
        (with_array("spikes/times", TIMES * np.nan), "spike times must be finite, got"),
        (with_array("spikes/times", TIMES[:2]), "spike units must have shape [2], got [4]"),
        (
            with_array("spikes/times", TIMES.astype(np.float32)),
            "must have dtype float64, got float32",
        ),
        (with_array("spikes/units", np.zeros(4)), "spike units must have dtype int32, got float64"),
        (with_array("spikes/times", b"nothing"), "must be in .npy format, got the first bytes"),
        (with_array("spikes/times", header(HUGE)), "must hold 8000000000000 bytes of data, got 0"),
        (with_array("unit_ids", header(NO_TEXT, b"\0\0\x11\0")), "hold Unicode text, got the code"),
        (with_array("spikes/times", header(OBJECTS, b"x" * 8)), "must hold numbers or strings"),
        (
            with_array("spikes/times", header(ALIAS, b"1234")),
            "must hold numbers or strings, got dt",
        ),
        (with_array("unit_ids", header(TRUTH, b"\1\2")), "must hold booleans, got the byte 0x2"),
        (with_array("spikes/times", header(CODE)), "must hold an array of numbers or strings"),
        (with_array("spikes/times", header(DEEP, b"x" * 8)), "must have at most 32 axes, got 40"),
        (
            with_array("spikes/times", b"\x93NUMPY\x07" + bytes(9)),
            "must be .npy version 1 to 3, got 7",
        ),
    ],
)
def test_wrong_contents_are_named(
    tmp_path: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    path = tmp_path / "one.npz"
    recording().save(path)
    rewritten(path, change)
    with pytest.raises(AttendriteError, match=re.escape(message)) as caught:
        attendrite.read(path).summary()
    assert "\n" not in str(caught.value)


def test_pickle_is_never_read(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    np.savez(tmp_path / "trap.npz", meta=np.array([Trap()], dtype=object))
    with pytest.raises(AttendriteError, match=r"must hold numbers or strings, got dtype '\|O'"):
        attendrite.read(tmp_path / "trap.npz")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_cut_short_is_refused_wherever(tmp_path: Path, compress: bool) -> None:
    full().save(tmp_path / "whole.npz", compress=compress)
    data = (tmp_path / "whole.npz").read_bytes()
    for length in range(0, len(data), 97):
        (tmp_path / "cut.npz").write_bytes(data[:length])
        with pytest.raises(AttendriteError, match=r"cut\.npz must be a whole \.npz file"):
            attendrite.read(tmp_path / "cut.npz")


def test_a_changed_byte_of_data_is_noticed(tmp_path: Path) -> None:
    recording().save(tmp_path / "one.npz")
    data = bytearray((tmp_path / "one.npz").read_bytes())
    data[data.index(TIMES.tobytes())] ^= 1
    (tmp_path / "one.npz").write_bytes(data)
    with pytest.raises(
        AttendriteError, match=r"array 'spikes/times' of one\.npz must be whole, got Bad"
    ):
        _ = attendrite.read(tmp_path / "one.npz").spikes


def test_a_false_size_in_the_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.npy", bytes(5000))
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + place
        data[at : at + 4] = (0x7FFFFFFF).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(AttendriteError, match="must fit the file, got a claim of 2147483647 bytes"):
        attendrite.read(path)


def test_a_foreign_npz_names_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "input.npz", times=TIMES, units=np.zeros(4, int))
    with pytest.raises(
        AttendriteError, match=r"got an \.npz file with the arrays times, units; write"
    ):
        attendrite.read(tmp_path / "input.npz")


def test_names_from_a_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", **{"a\n\x1b[2Jb": np.zeros(1)})
    with pytest.raises(AttendriteError, match=re.escape(r"with the arrays a\n\x1b[2Jb; write")):
        attendrite.read(tmp_path / "odd.npz")

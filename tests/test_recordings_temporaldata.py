"""Files of temporaldata and torch_brain: their layout by hand, and torch_brain's own files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite.errors import AttendriteError

h5py = pytest.importorskip("h5py")

TIMES = np.array([0.1, 0.2, 0.2, 0.7, 2.5])
UNITS = np.array([0, 1, 2, 0, 1])


def group(parent: Any, path: str, kind: str, **attributes: Any) -> Any:
    made = parent.require_group(path)
    made.attrs.update({"object": kind, **attributes})
    return made


def interval(parent: Any, path: str, start: list[float], end: list[float], **columns: Any) -> None:
    made = group(parent, path, "Interval")
    for name, value in {"start": np.array(start), "end": np.array(end), **columns}.items():
        made[name] = value


def base(file: Any) -> None:
    group(file, "/", "Data")
    group(file, "brainset", "Data", id="set")
    group(file, "session", "Data", id="one")
    interval(file, "domain", [0.0], [2.0])
    units = group(file, "units", "ArrayDict")
    units["id"] = np.array([b"u0", b"u1", b"u2"])
    units["depth"] = np.arange(3.0)


def spikes(file: Any) -> None:
    made = group(file, "spikes", "IrregularTimeSeries")
    made["timestamps"], made["unit_index"] = TIMES, UNITS
    made["timestamp_indices_1s"] = np.array([0, 4, 4, 5])
    made["waveforms"] = np.zeros((5, 4))
    interval(made, "domain", [0.1], [2.5])


def calcium(file: Any) -> None:
    made = group(file, "calcium_traces", "RegularTimeSeries", sampling_rate=4.0)
    made["df_over_f"] = np.arange(12, dtype=np.float32).reshape(4, 3)
    interval(made, "domain", [0.5], [1.25])


def written(path: Path, *changes: Callable[[Any], None]) -> Path:
    with h5py.File(path / "one.h5", "w") as file:
        base(file)
        for change in changes:
            change(file)
    return path / "one.h5"


def test_spikes_units_and_session(tmp_path: Path) -> None:
    one = attendrite.read(written(tmp_path, spikes))
    assert one.session == "set/one"
    assert one.unit_ids == ("set/one/u0", "set/one/u1", "set/one/u2")
    np.testing.assert_array_equal(one.spikes.times, TIMES)
    np.testing.assert_array_equal(one.spikes.units, UNITS)
    np.testing.assert_array_equal(one.unit_columns["depth"], [0.0, 1.0, 2.0])
    assert list(one.series) == []
    assert one.traces is None


def test_the_prefix_of_unit_ids(tmp_path: Path) -> None:
    path = written(tmp_path, spikes)
    assert attendrite.read(path, prefix="").unit_ids == ("u0", "u1", "u2")
    assert attendrite.read(path, prefix="one/").unit_ids == ("one/u0", "one/u1", "one/u2")

    def prefixed(file: Any) -> None:
        del file["units/id"]
        file["units/id"] = np.array([b"set/one/u0", b"set/one/u1", b"set/one/u2"])

    assert attendrite.read(written(tmp_path, spikes, prefixed)).unit_ids[0] == "set/one/u0"


def test_the_domain_spans_file_and_spikes(tmp_path: Path) -> None:
    """Published files have spikes outside the domain, which is where behaviour was recorded."""
    one = attendrite.read(written(tmp_path, spikes))
    assert one.domain == (0.0, 2.5)
    np.testing.assert_array_equal(one.intervals["domain"].stop, [2.0])


def test_series_and_intervals_have_dotted_names(tmp_path: Path) -> None:
    def behaviour(file: Any) -> None:
        cursor = group(file, "cursor", "IrregularTimeSeries")
        cursor["timestamps"] = np.arange(3) / 2
        cursor["vel"], cursor["speed"] = np.ones((3, 2), np.float32), np.array([1, 2, 3])
        cursor["names"] = np.array([b"a", b"b", b"c"])
        interval(cursor, "domain", [0.0], [1.0])
        running = group(file, "behavior/running", "RegularTimeSeries", sampling_rate=2.0)
        group(file, "behavior", "Data")
        running["speed"] = np.array([[1.0], [np.nan]])
        interval(running, "domain", [0.25], [1.25])
        interval(file, "trials", [0.0, 1.0], [0.5, 1.5], side=np.array([b"l", b"r"]), n=[1, 2])
        interval(file, "movement_phases/hold", [0.0], [0.5])
        group(file, "movement_phases", "Data")
        interval(file, "train_domain", [0.0], [1.0])

    one = attendrite.read(written(tmp_path, spikes, behaviour))
    assert sorted(one.series) == ["behavior.running.speed", "cursor.speed", "cursor.vel"]
    np.testing.assert_array_equal(one.series["cursor.vel"].values, np.ones((3, 2)))
    assert one.series["cursor.vel"].values.dtype == np.float32
    np.testing.assert_array_equal(one.series["cursor.speed"].values, [[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(one.series["behavior.running.speed"].times, [0.25, 0.75])
    assert sorted(one.intervals) == ["domain", "movement_phases.hold", "train_domain", "trials"]
    np.testing.assert_array_equal(one.intervals["trials"].columns["side"], ["l", "r"])
    np.testing.assert_array_equal(one.intervals["trials"].columns["n"], [1, 2])


@pytest.mark.parametrize("table", ["units", "rois"])
def test_calcium_traces(tmp_path: Path, table: str) -> None:
    def move(file: Any) -> None:
        file.move("units", "there")
        file.move("there", table)

    one = attendrite.read(written(tmp_path, calcium, move))
    assert one.traces is not None
    np.testing.assert_array_equal(one.traces.times, [0.5, 0.75, 1.0, 1.25])
    np.testing.assert_array_equal(one.traces.values, np.arange(12).reshape(4, 3))
    assert one.traces.columns == one.unit_ids
    assert one.traces.values.dtype == np.float32
    assert list(one.series) == []
    assert len(one.spikes.times) == 0


def test_traces_are_chosen_or_asked_for(tmp_path: Path) -> None:
    def second(file: Any) -> None:
        file["calcium_traces/raw"] = np.zeros((4, 3))

    path = written(tmp_path, calcium, second)
    with pytest.raises(
        AttendriteError, match=r"got calcium_traces\.df_over_f, calcium_traces\.raw;"
    ):
        attendrite.read(path)
    one = attendrite.read(path, traces="calcium_traces.raw")
    assert one.traces is not None
    assert not one.traces.values.any()
    assert list(one.series) == ["calcium_traces.df_over_f"]
    with pytest.raises(
        AttendriteError, match=r"unknown traces 'x'; known: calcium_traces\.df_over_f"
    ):
        attendrite.read(path, traces="x")


def test_spikes_are_not_read_before_use(tmp_path: Path) -> None:
    path = written(tmp_path, spikes)
    one = attendrite.read(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        _ = one.spikes


def change(name: str, value: Any) -> Callable[[Any], None]:
    def alter(file: Any) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return alter


def attribute(path: str, name: str, value: Any) -> Callable[[Any], None]:
    return lambda file: file[path].attrs.update({name: value})


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (change("units", None), "one.h5 must have the group units or rois, got neither"),
        (
            change("spikes", None),
            "one.h5 must have spikes or one field of calcium_traces, got neither",
        ),
        (change("units/id", None), "HDF5 /units/id must be a dataset, got NoneType"),
        (
            change("units/id", np.array([b"a", b"a", b"b"])),
            "unit ids must be unique, got 'set/one/a'",
        ),
        (
            change("units/id", np.array([b"\xff", b"a", b"b"])),
            "HDF5 /units/id must be whole HDF5, got",
        ),
        (
            change("spikes/timestamps", None),
            "HDF5 /spikes/timestamps must be a dataset, got NoneType",
        ),
        (
            change("spikes/timestamps", TIMES[:, None]),
            "HDF5 /spikes/timestamps must have 1 axes, got",
        ),
        (change("spikes/timestamps", TIMES[::-1].copy()), "spike times must be sorted, got"),
        (change("spikes/timestamps", TIMES * np.nan), "spike times must be finite, got"),
        (
            change("spikes/timestamps", TIMES - 1),
            "must lie in the domain 0.0 to 2.5 s, got times[0]",
        ),
        (
            change("spikes/timestamps", TIMES + 1),
            "must lie in the domain 0.0 to 2.5 s, got times[4]",
        ),
        (change("spikes/unit_index", UNITS[:3]), "must have one entry for each of 5 spikes, got 3"),
        (change("spikes/unit_index", UNITS + 1), "spike units must lie in 0..2, got units[2] = 3"),
        (
            change("spikes/unit_index", UNITS - 1),
            "spikes/unit_index must lie in 0..2147483647, got -1",
        ),
        (
            change("spikes/unit_index", UNITS * 1.0),
            "spikes/unit_index must hold whole numbers, got",
        ),
        (change("domain/end", np.array([np.inf])), "domain must be finite, got"),
        (
            change("domain/end", np.array([b"x"])),
            "HDF5 /domain/end must hold numbers, got kind 'S'",
        ),
    ],
)
def test_faults_are_named(tmp_path: Path, alter: Callable[[Any], None], message: str) -> None:
    with pytest.raises(AttendriteError, match=re.escape(message)):
        _ = attendrite.read(written(tmp_path, spikes, alter)).spikes


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (
            attribute("calcium_traces", "sampling_rate", 0.0),
            "sampling_rate of calcium_traces must be >",
        ),
        (attribute("calcium_traces", "sampling_rate", "x"), "must be a finite number, got 'x'"),
        (
            change("calcium_traces/domain/start", np.zeros(0)),
            "calcium_traces/domain must have a start",
        ),
        (change("calcium_traces/df_over_f", np.zeros((4, 2))), "must have spikes or one field of"),
    ],
)
def test_faults_of_traces_are_named(
    tmp_path: Path, alter: Callable[[Any], None], message: str
) -> None:
    with pytest.raises(AttendriteError, match=re.escape(message)):
        attendrite.read(written(tmp_path, calcium, alter))


def test_a_file_cut_short_is_refused_wherever(tmp_path: Path) -> None:
    data = written(tmp_path, spikes).read_bytes()
    for length in range(0, len(data) - 1, 331):
        (tmp_path / "cut.h5").write_bytes(data[:length])
        with pytest.raises(AttendriteError):
            _ = attendrite.read(tmp_path / "cut.h5").spikes


def test_a_type_that_crashes_the_hdf5_library_is_refused(tmp_path: Path) -> None:
    """Text of varying length whose type says neither text nor sequence."""
    path = written(tmp_path, spikes)
    text_type = bytes.fromhex("19010100 10000000 10000000")
    assert text_type in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(text_type, b"\x19\x03" + text_type[2:]))
    with pytest.raises(AttendriteError, match=r"one\.h5 must be a recording of a known format"):
        attendrite.read(path)  # the root's own mark cannot be read


def test_a_file_of_torch_brain_is_read(tmp_path: Path) -> None:
    data = pytest.importorskip("torch_brain.data")
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 10, 400))
    units = rng.integers(0, 5, 400)
    whole = data.Interval(0.0, 10.0)
    made = data.Data(
        brainset=data.Data(id="set"),
        session=data.Data(id="day1"),
        spikes=data.IrregularTimeSeries(timestamps=times, unit_index=units, domain=whole),
        units=data.ArrayDict(id=np.array([f"u{i}" for i in range(5)]), area=np.array(["M1"] * 5)),
        hand=data.RegularTimeSeries(
            pos=rng.normal(size=(100, 2)), sampling_rate=10.0, domain_start=0.05
        ),
        trials=data.Interval(
            start=np.array([0.0, 5.0]), end=np.array([5.0, 9.0]), side=np.array(["l", "r"])
        ),
        domain=whole,
    )
    made.train_domain = data.Interval(np.array([0.0, 6.0]), np.array([4.0, 8.0]))
    with h5py.File(tmp_path / "day1.h5", "w") as file:
        made.to_hdf5(file)
    one = attendrite.read(tmp_path / "day1.h5")
    np.testing.assert_array_equal(one.spikes.times, times)
    np.testing.assert_array_equal(one.spikes.units, units)
    assert one.unit_ids == tuple(f"set/day1/u{i}" for i in range(5))
    np.testing.assert_array_equal(one.unit_columns["area"], ["M1"] * 5)
    np.testing.assert_array_equal(one.series["hand.pos"].values, made.hand.pos)
    np.testing.assert_array_equal(one.series["hand.pos"].times, made.hand.timestamps)
    np.testing.assert_array_equal(one.intervals["trials"].columns["side"], ["l", "r"])
    np.testing.assert_array_equal(one.intervals["train_domain"].start, [0.0, 6.0])
    assert one.domain == (0.0, 10.0)

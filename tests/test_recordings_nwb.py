"""NWB files: units, behaviour, trials, fluorescence, laziness, and what is refused."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite.errors import AttendriteError

h5py = pytest.importorskip("h5py")

TIMES = np.array([0.5, 1.5, 1.0, 2.0, 2.5])  # unit 0, then unit 2; unit 1 is silent
INDEX = np.array([2, 2, 5], np.uint8)


def put(file: Any, path: str, value: Any, **attributes: Any) -> None:
    if path in file:
        del file[path]
    file[path] = value
    file[path].attrs.update(attributes)


def units(file: Any) -> None:
    file.attrs["nwb_version"] = "2.7.0"
    put(file, "identifier", "abc")
    put(file, "units/id", np.array([4, 7, 9]))
    put(file, "units/spike_times", TIMES)
    put(file, "units/spike_times_index", INDEX)


def series(file: Any, path: str, kind: str, data: Any, **attributes: Any) -> None:
    put(file, f"{path}/data", data, **attributes)
    file[path].attrs["neurodata_type"] = kind


def written(path: Path, *changes: Callable[[Any], None]) -> Path:
    path = path / "day1.nwb"
    with h5py.File(path, "w") as file:
        units(file)
        for change in changes:
            change(file)
    return path


def test_units_in_time_order(tmp_path: Path) -> None:
    one = attendrite.read(written(tmp_path))
    assert one.session == "abc"
    assert one.unit_ids == ("4", "7", "9")
    np.testing.assert_array_equal(one.spikes.times, np.sort(TIMES))
    np.testing.assert_array_equal(one.spikes.units, [0, 2, 0, 2, 2])
    np.testing.assert_array_equal(one.counts, [2, 0, 3])
    assert one.domain == (0.5, 2.5)


def test_the_session_id_goes_before_the_identifier(tmp_path: Path) -> None:
    one = attendrite.read(written(tmp_path, lambda f: put(f, "general/session_id", "mouse/day1")))
    assert one.session == "mouse/day1"


def test_with_observed_intervals_spikes_are_not_read_before_use(tmp_path: Path) -> None:
    def observed(file: Any) -> None:
        put(file, "units/obs_intervals", np.array([[0.0, 1.0], [2.0, 3.0], [0.0, 3.5]]))
        put(file, "units/obs_intervals_index", np.array([1, 2, 3]))

    path = written(tmp_path, observed)
    one = attendrite.read(path)
    assert one.domain == (0.0, 3.5)
    path.rename(tmp_path / "away.nwb")
    with pytest.raises(FileNotFoundError):
        _ = one.spikes
    (tmp_path / "away.nwb").rename(path)
    assert len(one.spikes.times) == 5


def test_columns_and_areas(tmp_path: Path) -> None:
    def columns(file: Any) -> None:
        put(file, "units/quality", ["good", "mua", "güt"])
        put(file, "units/fixed", np.array([b"a", b"bc", b""]))
        put(file, "units/depth", np.array([1.0, np.nan, 3.0]))
        put(file, "units/xy", np.arange(6).reshape(3, 2))
        put(file, "units/ok", np.array([True, False, True]))
        put(file, "units/waveform_mean", np.zeros((3, 4, 2)))  # neither short nor asked for
        put(file, "units/spikes_of_day", np.arange(9))
        put(file, "units/spikes_of_day_index", np.array([3, 6, 9]))
        put(file, "general/extracellular_ephys/electrodes/location", ["M1", "PMd"])
        put(file, "units/electrodes", np.array([1, 0, 0]))
        put(file, "units/electrodes_index", np.array([1, 1, 3]))

    one = attendrite.read(written(tmp_path, columns))
    assert sorted(one.unit_columns) == ["area", "depth", "fixed", "ok", "quality", "xy"]
    np.testing.assert_array_equal(one.unit_columns["area"], ["PMd", "", "M1"])
    np.testing.assert_array_equal(one.unit_columns["quality"], ["good", "mua", "güt"])
    np.testing.assert_array_equal(one.unit_columns["fixed"], ["a", "bc", ""])
    np.testing.assert_array_equal(one.unit_columns["depth"], [1.0, np.nan, 3.0])
    np.testing.assert_array_equal(one.unit_columns["ok"], [True, False, True])


def test_series_with_timestamps_and_with_a_rate(tmp_path: Path) -> None:
    def behaviour(file: Any) -> None:
        place = "processing/behavior/Position/cursor"
        data = np.arange(6, dtype=np.int16).reshape(3, 2)
        series(file, place, "SpatialSeries", data, conversion=0.01, offset=1.0, unit="m")
        put(file, f"{place}/timestamps", np.array([0.0, 0.5, 0.6]))
        series(file, "acquisition/speed", "TimeSeries", np.arange(3, dtype=np.float32))
        put(file, "acquisition/speed/starting_time", 0.25, rate=4.0)
        series(file, "acquisition/raw", "ElectricalSeries", np.zeros((9, 4)))
        series(file, "acquisition/text", "TimeSeries", ["a", "b"])

    one = attendrite.read(written(tmp_path, behaviour))
    assert sorted(one.series) == ["cursor", "speed"]
    cursor, speed = one.series["cursor"], one.series["speed"]
    np.testing.assert_array_equal(cursor.times, [0.0, 0.5, 0.6])
    np.testing.assert_array_equal(cursor.values, np.arange(6).reshape(3, 2) * 0.01 + 1.0)
    assert (cursor.columns, cursor.unit) == (("x", "y"), "m")
    np.testing.assert_array_equal(speed.times, [0.25, 0.5, 0.75])
    assert speed.values.dtype == np.float32
    assert speed.values.shape == (3, 1)


def test_series_of_one_name_are_told_apart(tmp_path: Path) -> None:
    def behaviour(file: Any) -> None:
        for container in ("Left", "Right"):
            place = f"processing/behavior/{container}/hand"
            series(file, place, "SpatialSeries", np.zeros(3))
            put(file, f"{place}/timestamps", np.arange(3.0))

    assert list(attendrite.read(written(tmp_path, behaviour)).series) == ["Left/hand", "Right/hand"]


def test_a_faulty_series_does_not_hide_the_rest(tmp_path: Path) -> None:
    def behaviour(file: Any) -> None:
        for name, times in (("good", [0.0, 1.0]), ("bad", [1.0, np.nan])):
            series(file, f"processing/behavior/{name}", "TimeSeries", np.zeros(2))
            put(file, f"processing/behavior/{name}/timestamps", np.array(times))

    one = attendrite.read(written(tmp_path, behaviour))
    assert len(one.series["good"].times) == 2
    with pytest.raises(AttendriteError, match="series 'bad': times must be finite, got times"):
        _ = one.series["bad"]


def test_trials_and_epochs(tmp_path: Path) -> None:
    def tables(file: Any) -> None:
        for name in ("trials", "epochs"):
            put(file, f"intervals/{name}/start_time", np.array([0.0, 1.0]))
            put(file, f"intervals/{name}/stop_time", np.array([1.0, 1.5]))
            put(file, f"intervals/{name}/id", np.arange(2))
            put(file, f"intervals/{name}/result", ["R", "F"])
            put(file, f"intervals/{name}/tags", ["x", "y", "z"])
            put(file, f"intervals/{name}/tags_index", np.array([1, 3]))
            file[f"intervals/{name}"].attrs["neurodata_type"] = "TimeIntervals"

    trials = attendrite.read(written(tmp_path, tables)).intervals
    assert sorted(trials) == ["epochs", "trials"]
    np.testing.assert_array_equal(trials["trials"].stop, [1.0, 1.5])
    assert list(trials["trials"].columns) == ["result"]
    np.testing.assert_array_equal(trials["trials"].columns["result"], ["R", "F"])


def fluorescence(name: str) -> Callable[[Any], None]:
    def write(file: Any) -> None:
        if "units" in file:
            del file["units"]
        place = f"processing/ophys/{name}/rr"
        series(file, place, "RoiResponseSeries", np.arange(6, dtype=np.float32).reshape(3, 2))
        put(file, f"{place}/timestamps", np.array([0.0, 0.1, 0.2]))
        put(file, f"{place}/rois", np.array([5, 3]))

    return write


def test_fluorescence_where_there_are_no_units(tmp_path: Path) -> None:
    one = attendrite.read(written(tmp_path, fluorescence("DfOverF")))
    assert one.unit_ids == ("5", "3")
    assert one.traces is not None
    np.testing.assert_array_equal(one.traces.values, [[0, 1], [2, 3], [4, 5]])
    assert one.domain == (0.0, 0.2)
    assert len(one.spikes.times) == 0


def test_fluorescence_is_chosen_or_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, fluorescence("DfOverF"), fluorescence("Fluorescence"))
    with pytest.raises(AttendriteError, match=r"got processing/ophys/DfOverF/rr, .*; choose with"):
        attendrite.read(path)
    assert attendrite.read(path, traces="processing/ophys/Fluorescence/rr").unit_ids == ("5", "3")
    with pytest.raises(AttendriteError, match="unknown traces 'x'; known: processing"):
        attendrite.read(path, traces="x")
    with pytest.raises(AttendriteError, match="traces must be asked for where there is no units"):
        attendrite.read(written(tmp_path), traces="x")


def drop(name: str) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file[name]

    return change


def false_size(file: Any) -> None:
    """A petabyte of which nothing was written."""
    del file["units/spike_times"]
    file.create_dataset("units/spike_times", (1 << 47,), "f8", chunks=(1 << 20,))
    put(file, "units/spike_times_index", np.array([1, 2, 1 << 47]))


def elsewhere(file: Any) -> None:
    del file["units/spike_times"]
    file["units/spike_times"] = h5py.ExternalLink("/etc/hostname", "/x")


def outside(file: Any) -> None:
    del file["units/spike_times"]
    file.create_dataset("units/spike_times", (5,), "f8", external=[("/etc/passwd", 0, 40)])


def change(name: str, value: Any) -> Callable[[Any], None]:
    return lambda file: put(file, f"units/{name}", value)


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (drop("units"), "must have a units table or one fluorescence, got neither"),
        (drop("units/id"), "HDF5 /units/id must be a dataset, got NoneType"),
        (drop("units/spike_times"), "the units table must have the column spike_times, got none"),
        (drop("units/spike_times_index"), "must have the column spike_times_index, got none"),
        (
            change("spike_times_index", [2, 1, 5]),
            "never decrease, got spike_times_index[1] = 1 after",
        ),
        (
            change("spike_times_index", [2, 2, 4]),
            "last value of units/spike_times_index must be the",
        ),
        (
            change("spike_times_index", [2, 2, 6]),
            "last value of units/spike_times_index must be the",
        ),
        (change("spike_times_index", [2, 5]), "units/spike_times_index must hold 3 whole numbers"),
        (change("spike_times_index", [2.0, 2.0, 5.0]), "must hold 3 whole numbers, got float64"),
        (change("spike_times_index", [-1, 2, 5]), "never decrease, got spike_times_index[0] = -1"),
        (
            change("spike_times", ["a"] * 5),
            "HDF5 /units/spike_times must hold numbers, got kind 'T'",
        ),
        (change("spike_times", TIMES[::-1].copy()), "spike times of unit 0 must be sorted, got"),
        (change("spike_times", TIMES * np.nan), "spike times must be finite"),
        (
            change("spike_times", TIMES - 1),
            "must lie in the domain 0.0 to 1.5 s, got times[0] = -0.5",
        ),
        (
            change("spike_times", TIMES[:, None]),
            "HDF5 /units/spike_times must have 1 axes, got [5, 1]",
        ),
        (change("id", np.array([1, 1, 2])), "unit ids must be unique, got '1' twice"),
        (
            change("id", np.array([1.0, 2.0, 3.0])),
            "/units/id must be names or whole numbers [n], got",
        ),
        (
            change("obs_intervals", np.array([[0.0, 2.0]])),
            "must lie in the domain 0.0 to 2.0 s, got",
        ),
        (change("obs_intervals", np.array([[0.0, np.nan]])), "units/obs_intervals must be finite"),
        (change("obs_intervals", np.zeros((1, 3))), "units/obs_intervals must have shape [n, 2]"),
        (false_size, "HDF5 /units/spike_times must hold the 1125899906842624 bytes that it claims"),
        (
            elsewhere,
            "HDF5 /units/spike_times must be stored in the file itself, got a link to another",
        ),
        (
            outside,
            "HDF5 /units/spike_times must be stored in the file itself, got an empty, external",
        ),
    ],
)
def test_faults_are_named(tmp_path: Path, alter: Callable[[Any], None], message: str) -> None:
    with pytest.raises(AttendriteError, match=re.escape(message)) as caught:
        _ = attendrite.read(written(tmp_path, alter)).spikes
    assert "\n" not in str(caught.value)


def test_a_file_cut_short_is_refused_wherever(tmp_path: Path) -> None:
    data = written(tmp_path).read_bytes()
    for length in range(0, len(data) - 1, 331):
        (tmp_path / "cut.nwb").write_bytes(data[:length])
        with pytest.raises(AttendriteError):
            _ = attendrite.read(tmp_path / "cut.nwb").spikes


def test_a_heap_that_hangs_the_hdf5_library_is_refused(tmp_path: Path) -> None:
    """Zeros in a global heap; see github.com/HDFGroup/hdf5/issues/1707."""
    path = written(tmp_path)
    data = bytearray(path.read_bytes())
    place = data.index(b"GCOL") + 16
    data[place : place + 64] = bytes(64)
    path.write_bytes(data)
    with pytest.raises(AttendriteError, match="must be whole HDF5, got"):
        attendrite.read(path)


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, lambda file: put(file, "units/odd_name", np.zeros(3)))
    path.write_bytes(path.read_bytes().replace(b"odd_name", b"odd_\xff\xfe\xfd\xfc"))
    with pytest.raises(AttendriteError, match="must name its members in UTF-8, got b'odd"):
        attendrite.read(path)


def test_a_link_to_nothing_is_as_if_absent(tmp_path: Path) -> None:
    def link(file: Any) -> None:
        file["general/session_id"] = h5py.SoftLink("/nothing")

    assert attendrite.read(written(tmp_path, link)).session == "abc"


def test_timestamps_may_be_linked_within_the_file(tmp_path: Path) -> None:
    def behaviour(file: Any) -> None:
        series(file, "processing/behavior/a", "TimeSeries", np.zeros(2))
        put(file, "processing/behavior/a/timestamps", np.array([0.0, 1.0]))
        series(file, "processing/behavior/b", "TimeSeries", np.zeros(2))
        file["processing/behavior/b/timestamps"] = h5py.SoftLink(
            "/processing/behavior/a/timestamps"
        )

    one = attendrite.read(written(tmp_path, behaviour))
    np.testing.assert_array_equal(one.series["b"].times, [0.0, 1.0])


def test_a_file_of_pynwb_is_read(tmp_path: Path) -> None:
    pynwb = pytest.importorskip("pynwb")
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    nwb = pynwb.NWBFile(
        session_description="a test", identifier="abc", session_start_time=start, session_id="day1"
    )
    nwb.add_unit_column(name="quality", description="label")
    rng = np.random.default_rng(0)
    trains = [np.sort(rng.uniform(0, 10, n)) for n in (300, 0, 17)]
    for train, label in zip(trains, ("good", "mua", "good"), strict=True):
        nwb.add_unit(spike_times=train, quality=label, obs_intervals=np.array([[0.0, 10.0]]))
    position = pynwb.behavior.SpatialSeries(
        name="cursor", data=rng.normal(size=(50, 2)), reference_frame="screen",
        rate=5.0, starting_time=0.1,
    )  # fmt: skip
    module = nwb.create_processing_module(name="behavior", description="behaviour")
    module.add(pynwb.behavior.Position(spatial_series=position))
    nwb.add_trial_column(name="side", description="side")
    nwb.add_trial(start_time=0.0, stop_time=1.0, side="left")
    nwb.add_trial(start_time=1.0, stop_time=2.5, side="right")
    with pynwb.NWBHDF5IO(path=tmp_path / "day1.nwb", mode="w") as io:
        io.write(nwb)
    one = attendrite.read(tmp_path / "day1.nwb")
    times, offsets = one.by_unit()
    for i, train in enumerate(trains):
        np.testing.assert_array_equal(times[offsets[i] : offsets[i + 1]], train)
    assert (one.session, one.domain) == ("day1", (0.0, 10.0))
    np.testing.assert_array_equal(one.unit_columns["quality"], ["good", "mua", "good"])
    np.testing.assert_array_equal(one.series["cursor"].values, position.data)
    np.testing.assert_allclose(one.series["cursor"].times, 0.1 + np.arange(50) / 5, rtol=1e-15)
    assert one.series["cursor"].unit == "meters"
    np.testing.assert_array_equal(one.intervals["trials"].columns["side"], ["left", "right"])

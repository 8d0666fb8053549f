"""Recordings: what they refuse, and what their methods return; finding the reader of a file."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite.errors import AttendriteError
from attendrite.recordings import Intervals, Recording, Series, Spikes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

TIMES = np.array([0.5, 1.0, 1.0, 2.0, 3.0, 4.0])
UNITS = np.array([2, 0, 1, 0, 2, 0], np.int32)


def recording(**changes: Any) -> Recording:
    made = Recording(
        session="set/one",
        unit_ids=("a", "b", "c"),
        load_spikes=lambda: Spikes(TIMES, UNITS),
        domain=(0.0, 4.0),
        series={
            "position": Series(np.arange(5.0), np.arange(10.0).reshape(5, 2), ("x", "y"), "px")
        },
        intervals={"trials": Intervals(np.array([0.0, 2.0]), np.array([1.0, 3.5]))},
        unit_columns={"area": np.array(["M1", "M1", "S1"]), "depth": np.array([3.0, 1.0, 2.0])},
    )
    return replace(made, **changes)


def spikes(times: object, units: object) -> Callable[[], Spikes]:
    return lambda: Spikes(np.array(times, np.float64), np.array(units, np.int32))


def test_unit_rates_and_counts() -> None:
    one = recording()
    assert one.duration == 4.0
    np.testing.assert_array_equal(one.counts, [3, 1, 2])
    np.testing.assert_array_equal(one.rates, [0.75, 0.25, 0.5])


def test_a_recording_of_no_length_has_no_rate() -> None:
    one = recording(domain=(1.0, 1.0), load_spikes=spikes([1.0], [0]))
    assert np.isnan(one.rates).all()


def test_spikes_by_unit() -> None:
    times, offsets = recording().by_unit()
    np.testing.assert_array_equal(times, [1.0, 2.0, 4.0, 1.0, 0.5, 3.0])
    np.testing.assert_array_equal(offsets, [0, 3, 4, 6])


def test_spikes_are_loaded_once_and_only_when_used() -> None:
    calls: list[int] = []

    def load() -> Spikes:
        calls.append(1)
        return Spikes(TIMES, UNITS)

    one = recording(load_spikes=load)
    chosen = one.select(["c", "a"]).slice(1.0, 2.0)
    assert calls == []
    assert len(chosen.spikes.times) == len(chosen.spikes.times) == 1
    assert len(one.spikes.times) == 6
    assert calls == [1]


def test_select_keeps_order_and_metadata() -> None:
    chosen = recording().select(["c", "a"])
    assert chosen.unit_ids == ("c", "a")
    np.testing.assert_array_equal(chosen.spikes.times, [0.5, 1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(chosen.spikes.units, [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(chosen.unit_columns["area"], ["S1", "M1"])
    np.testing.assert_array_equal(chosen.unit_columns["depth"], [2.0, 3.0])
    assert len(recording().select([]).spikes.times) == 0


def test_select_refuses_unknown_and_repeated_units() -> None:
    with pytest.raises(AttendriteError, match="unknown unit 'z'; recording 'set/one' has 3: a, b"):
        recording().select(["a", "z"])
    with pytest.raises(AttendriteError, match="unit ids must be unique, got 'a' twice"):
        recording().select(["a", "a"])


def test_rename_units() -> None:
    assert recording().rename_units({"a": "c", "c": "a"}).unit_ids == ("c", "b", "a")
    with pytest.raises(AttendriteError, match="unknown unit 'z'"):
        recording().rename_units({"z": "a"})
    with pytest.raises(AttendriteError, match="unit ids must be unique, got 'b' twice"):
        recording().rename_units({"a": "b"})


def test_slice_keeps_the_clock() -> None:
    cut = recording().slice(1.0, 3.0)
    assert cut.domain == (1.0, 3.0)
    np.testing.assert_array_equal(cut.spikes.times, [1.0, 1.0, 2.0])  # 3.0 is the next slice's
    np.testing.assert_array_equal(cut.series["position"].times, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(cut.intervals["trials"].stop, [1.0, 3.5])
    np.testing.assert_array_equal(recording().slice(3.0, 4.0).spikes.times, [3.0, 4.0])


@given(st.lists(st.floats(0.0, 4.0), max_size=4))
def test_slices_that_meet_hold_every_spike_once(cuts: list[float]) -> None:
    edges = [0.0, *sorted(cuts), 4.0]
    parts = [recording().slice(a, b) for a, b in itertools.pairwise(edges)]
    kept = [p.spikes.times for p in parts if p.domain[0] < p.domain[1] or p.domain[1] < 4.0]
    np.testing.assert_array_equal(np.concatenate(kept), TIMES)


def test_slice_refuses_what_is_outside() -> None:
    for start, stop in ((-1.0, 2.0), (1.0, 5.0), (3.0, 2.0), (np.nan, 2.0)):
        with pytest.raises(AttendriteError, match=r"a slice must lie in the domain 0.0 to 4.0 s"):
            recording().slice(start, stop)


def test_traces_follow_their_units() -> None:
    traces = Series(np.arange(3.0), np.arange(9.0).reshape(3, 3), ("a", "b", "c"))
    one = recording(load_spikes=Spikes.none, traces=traces)
    chosen = one.select(["c", "a"]).slice(1.0, 2.0).rename_units({"c": "C"}).traces
    assert chosen is not None
    assert chosen.columns == ("C", "a")
    np.testing.assert_array_equal(chosen.values, [[5.0, 3.0], [8.0, 6.0]])
    assert "3 samples of traces" in one.summary()


def test_equality_is_of_contents() -> None:
    assert recording().equals(recording())
    assert recording(source="elsewhere").equals(recording())
    series = Series(np.arange(2.0), np.array([[np.nan], [1.0]]), ("x",))
    assert recording(series={"p": series}).equals(recording(series={"p": replace(series)}))
    different: list[dict[str, Any]] = [
        {"session": "set/two"},
        {"unit_ids": ("a", "b", "d")},
        {"domain": (0.0, 5.0)},
        {"load_spikes": lambda: Spikes(TIMES, UNITS[::-1].copy())},
        {"series": {}},
        {"series": {"position": replace(recording().series["position"], unit="m")}},
        {"intervals": {"trials": Intervals(np.array([0.0, 2.0]), np.array([1.0, 3.0]))}},
        {"unit_columns": {}},
        {"traces": Series(np.zeros(0), np.zeros((0, 3)), ("a", "b", "c"))},
    ]
    for change in different:
        assert not recording(**change).equals(recording()), change
        assert not recording().equals(recording(**change)), change


def test_the_summary_says_what_is_there() -> None:
    assert repr(recording()) == (
        "Recording('set/one'; 3 units; 0 to 4 s; series: position; intervals: trials)"
    )
    assert recording().summary().splitlines() == [
        "recording set/one",
        "  domain     0.000 to 4.000 s (4.0 s)",
        "  units      3, 6 spikes, median 0.50 Hz",
        "  unit data  area, depth",
        "  series     position (x, y) [px], 5 samples",
        "  intervals  trials, 2",
    ]


def test_trains_are_merged_in_time_order() -> None:
    merged = Spikes.from_trains([np.array([0.2, 0.4]), np.zeros(0), np.array([0.1, 0.4])])
    np.testing.assert_array_equal(merged.times, [0.1, 0.2, 0.4, 0.4])
    np.testing.assert_array_equal(merged.units, [2, 0, 0, 2])
    assert merged.units.dtype == np.int32
    assert len(Spikes.from_trains([]).times) == 0


@given(st.lists(st.lists(st.floats(0, 10).map(lambda t: round(t, 1)), max_size=20), max_size=9))
def test_merging_and_splitting_are_inverse(trains: list[list[float]]) -> None:
    sorted_trains = {str(i): np.sort(np.array(t, np.float64)) for i, t in enumerate(trains)}
    times, offsets = Recording.from_trains("s", sorted_trains).by_unit()
    for i, train in enumerate(sorted_trains.values()):
        np.testing.assert_array_equal(times[offsets[i] : offsets[i + 1]], train)


def test_from_trains_takes_the_hull_as_domain() -> None:
    made = Recording.from_trains("s", {"a": np.array([2.0, 3.0]), "b": np.array([1.5])})
    assert made.domain == (1.5, 3.0)
    assert made.unit_ids == ("a", "b")
    assert Recording.from_trains("s", {"a": np.zeros(0)}).domain == (0.0, 0.0)


@pytest.mark.parametrize(
    ("trains", "message"),
    [
        ([[0.1], [0.3, 0.2]], "spike times of unit 1 must be sorted, got times[1] = 0.2 after 0.3"),
        ([[0.1, np.nan]], "spike times must be finite"),
        ([[0.1], [np.inf]], "spike times must be finite"),
        ([[-0.5, 1.0]], "spike times must lie in the domain 0.0 to 1.0 s, got times[0] = -0.5"),
    ],
)
def test_bad_trains_are_refused(trains: list[list[float]], message: str) -> None:
    with pytest.raises(AttendriteError, match=re.escape(message)):
        Recording.from_trains("s", {str(i): np.array(t) for i, t in enumerate(trains)})


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (Spikes(np.array([2.0, 1.0]), np.zeros(2, np.int32)), "spike times must be sorted, got"),
        (Spikes(np.array([1.0, np.nan]), np.zeros(2, np.int32)), "spike times must be finite, got"),
        (Spikes(np.array([1.0, np.inf]), np.zeros(2, np.int32)), "spike times must be finite, got"),
        (Spikes(np.array([-1.0]), np.zeros(1, np.int32)), "got times[0] = -1.0; mend the times"),
        (Spikes(np.array([1.0, 4.5]), np.zeros(2, np.int32)), "got times[1] = 4.5; mend the times"),
        (Spikes(np.array([1.0, 2.0]), np.array([0, 3], np.int32)), "lie in 0..2, got units[1] = 3"),
        (Spikes(np.array([1.0]), np.array([-1], np.int32)), "lie in 0..2, got units[0] = -1"),
        (
            Spikes(np.array([1.0, 2.0]), np.zeros(1, np.int32)),
            "spike units must have shape [2], got",
        ),
        (Spikes(np.zeros((2, 1)), np.zeros(2, np.int32)), "spike times must have shape [n], got"),
        (
            Spikes(np.zeros(1, np.float32), np.zeros(1, np.int32)),
            "spike times must have dtype float64",
        ),
        (
            Spikes(np.zeros(1), np.zeros(1, np.int64)),
            "spike units must have dtype int32, got int64",
        ),
        (Spikes(np.zeros(1).astype(">f8"), np.zeros(1, np.int32)), "spike times must have dtype"),
        (Spikes([1.0], np.zeros(1, np.int32)), "spike times must be a numpy array, got list"),
    ],
)
def test_bad_spikes_are_refused(loaded: Spikes, message: str) -> None:
    with pytest.raises(AttendriteError, match=re.escape(message)):
        _ = recording(load_spikes=lambda: loaded).spikes


def series(times: object, values: object, columns: tuple[str, ...] = ("x",)) -> Series:
    return Series(np.array(times, np.float64), np.array(values), columns)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: series([1, 0], [[1.0], [2.0]]), "times must be sorted, got times[1] = 0.0"),
        (lambda: series([0, np.nan], [[1.0], [2.0]]), "times must be finite, got times[1] = nan"),
        (
            lambda: series([0], [[np.inf]]),
            "or NaN where a sample is missing, got values[0, 0] = inf",
        ),
        (lambda: series([0], [1.0]), "values must have shape [1, 1], got [1]"),
        (lambda: series([0], [[1.0, 2.0]]), "values must have shape [1, 1], got [1, 2]"),
        (lambda: series([0], [[1]]), "values must have dtype float32 or float64, got int64"),
        (lambda: series([[0]], [[1.0]]), "times must have shape [T], got [1, 1]"),
        (
            lambda: Intervals(np.array([1.0]), np.array([0.5])),
            "be at or after start[0] = 1.0, got 0.5",
        ),
        (lambda: Intervals(np.array([np.nan]), np.zeros(1)), "start must be finite, got start[0]"),
        (lambda: Intervals(np.zeros(2), np.zeros(1)), "stop must have shape [2], got [1]"),
        (
            lambda: Intervals(np.zeros(1), np.zeros(1), {"side": np.array(["l", "r"])}),
            "column 'side' must have shape [1], got [2]",
        ),
        (
            lambda: Intervals(np.zeros(1), np.zeros(1), {"side": np.array([None])}),
            "column 'side' must be an array of numbers or strings, got object",
        ),
        (lambda: recording(unit_ids=("a", "b", "a")), "unit ids must be unique, got 'a' twice"),
        (lambda: recording(domain=(4.0, 0.0)), "domain must be finite with start <= stop, got 4.0"),
        (lambda: recording(domain=(0.0, np.inf)), "domain must be finite with start <= stop"),
        (
            lambda: recording(unit_columns={"area": np.array(["M1"])}),
            "unit column 'area' must have shape [3], got [1]",
        ),
        (
            lambda: recording(traces=series([0], [[1.0]])),
            "traces must have shape [T, 3], got [1, 1]; one column per unit",
        ),
        (
            lambda: recording(traces=series([9], [[1.0, 2.0, 3.0]], ("a", "b", "c"))),
            "trace times must lie in the domain 0.0 to 4.0 s, got times[0] = 9.0",
        ),
    ],
)
def test_bad_contents_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(AttendriteError, match=re.escape(message)):
        make()


def test_missing_samples_and_repeated_times_are_admitted() -> None:
    one = series([0.0, 1.0, 1.0], [[np.nan], [1.0], [2.0]])
    np.testing.assert_array_equal(one.slice(1.0, 1.0).values, [[1.0], [2.0]])


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "a file that begins with b''"),
        (b"hello, world", "a file that begins with b'hello, w'"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file that cannot be opened"),
    ],
)
def test_an_unknown_file_lists_the_known_formats(
    tmp_path: Path, contents: bytes, message: str
) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(contents)
    with pytest.raises(AttendriteError, match=re.escape(message)) as caught:
        attendrite.read(path)
    for name in ("NWB", "Kilosort", "MATLAB", "torch_brain", ".npz", "Recording.from_trains"):
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_hdf5_file_of_another_layout_is_described(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "waves.h5", "w") as file:
        file["spikes"], file["sCount"] = np.zeros(3), np.array([3])
    with pytest.raises(AttendriteError, match="another layout, with sCount, spikes at the top"):
        attendrite.read(tmp_path / "waves.h5")


def test_an_unknown_folder_is_described(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(AttendriteError, match=r"got a folder with notes\.txt; known: "):
        attendrite.read(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(AttendriteError, match="got neither a file nor a folder; known: "):
        attendrite.read(tmp_path / "pipe.npz")


def test_an_absent_path_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        attendrite.read(tmp_path / "nothing.npz")


def test_an_unknown_option_lists_the_known_ones(tmp_path: Path) -> None:
    recording().save(tmp_path / "one.npz")
    with pytest.raises(AttendriteError, match="unknown option of the npz reader 'labels'"):
        attendrite.read(tmp_path / "one.npz", labels=("good",))
    (tmp_path / "params.py").touch()
    with pytest.raises(AttendriteError, match="known: labels, sample_rate"):
        attendrite.read(tmp_path, label="good")


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("one.nwb", "one.h5"):
        (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(
            AttendriteError, match=r"needs the package h5py; pip install 'attendrite"
        ):
            attendrite.read(tmp_path / name)


def test_numbers_of_units(tmp_path: Path) -> None:
    for n in (0, 1, 17, 63, 100, 1000):
        trains = {f"u{i}": np.arange(i % 5, dtype=np.float64) for i in range(n)}
        made = Recording.from_trains("s", trains, domain=(0.0, 10.0))
        counts: NDArray[np.int64] = np.arange(n) % 5
        np.testing.assert_array_equal(made.counts, counts)
        made.save(tmp_path / "one.npz")
        assert attendrite.read(tmp_path / "one.npz").equals(made)


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).resolve().parents[1] / "docs" / "recordings.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    first, build, by_hand = (block for block in blocks)
    exec(build, {})
    exec(by_hand, {})
    assert attendrite.read("hand.npz").unit_ids == ("a", "b")
    namespace: dict[str, Any] = {}
    exec(first.replace('"sorting/"', '"day1.npz"').split("recording.intervals")[0], namespace)
    assert namespace["recording"].rates.tolist() == [2 / 60, 1 / 60]

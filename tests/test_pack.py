"""``attendrite pack`` and the tables it joins."""

from __future__ import annotations

import re
from pathlib import Path

import attendrite
import numpy as np
import pytest
from attendrite.__main__ import main
from attendrite.errors import AttendriteError
from attendrite.recordings import Intervals, Recording, Series
from attendrite.recordings._tables import (
    read_intervals,
    read_series,
    read_stimulus,
    read_table,
    read_unit_columns,
)
from hypothesis import given
from hypothesis import strategies as st


def table(tmp_path: Path, text: str, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def source(tmp_path: Path) -> Path:
    trains = {"a": np.array([0.5, 1.5]), "b": np.array([1.0, 3.0])}
    series = {"old": Series(np.zeros(1), np.zeros((1, 1)), ("x",))}
    made = Recording.from_trains("s", trains, domain=(0.0, 4.0), series=series)
    made.save(tmp_path / "source.npz")
    return tmp_path / "source.npz"


def test_a_series_of_numbers(tmp_path: Path) -> None:
    text = "\ufefftime, x [px] ,y [px]\r\n0.0,1,2\r\n\r\n0.5,,nan\r\n0.5,1e3,-4\r\n"
    one = read_series(table(tmp_path, text), offset=10.0)
    np.testing.assert_array_equal(one.times, [10.0, 10.5, 10.5])
    np.testing.assert_array_equal(one.values, [[1, 2], [np.nan, np.nan], [1000, -4]])
    assert (one.columns, one.unit) == (("x", "y"), "px")


def test_columns_of_different_units_keep_their_headings(tmp_path: Path) -> None:
    one = read_series(table(tmp_path, "times\tx [px]\tv [px/s]\n0\t1\t2\n", "a.tsv"))
    assert (one.columns, one.unit) == (("x [px]", "v [px/s]"), "")
    one = read_series(table(tmp_path, "time,x [px],v\n0,1,2\n"))
    assert (one.columns, one.unit) == (("x [px]", "v"), "")


def test_intervals_keep_the_kind_of_their_columns(tmp_path: Path) -> None:
    text = 'start,stop,n,gain,side\n0,1,3,0.5,left\n1,1,4,,"a, b"\n'
    one = read_intervals(table(tmp_path, text), offset=-1.0)
    np.testing.assert_array_equal(one.start, [-1.0, 0.0])
    np.testing.assert_array_equal(one.columns["n"], [3, 4])
    assert one.columns["n"].dtype == np.int64
    np.testing.assert_array_equal(one.columns["gain"], [0.5, np.nan])
    np.testing.assert_array_equal(one.columns["side"], ["left", "a, b"])


def test_a_stimulus_is_a_series_or_intervals(tmp_path: Path) -> None:
    assert isinstance(read_stimulus(table(tmp_path, "time,x\n0,1\n")), Series)
    assert isinstance(read_stimulus(table(tmp_path, "start,stop\n0,1\n")), Intervals)


def test_unit_tables_follow_the_units(tmp_path: Path) -> None:
    path = table(tmp_path, "unit,area,depth\nb,S1,2\nz,V1,9\na,M1,1\n")
    columns = read_unit_columns(path, ["a", "b"])
    np.testing.assert_array_equal(columns["area"], ["M1", "S1"])
    np.testing.assert_array_equal(columns["depth"], [1, 2])


def test_a_table_without_rows(tmp_path: Path) -> None:
    assert len(read_series(table(tmp_path, "time,x\n")).times) == 0
    assert len(read_intervals(table(tmp_path, "start,stop,side\n"))) == 0


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(allow_nan=False, allow_infinity=False))),
)
def test_numbers_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float]]
) -> None:
    rows = sorted(rows)
    text = "time,x\n" + "".join(f"{t!r},{x!r}\n" for t, x in rows)
    one = read_series(table(tmp_path_factory.mktemp("csv"), text))
    np.testing.assert_array_equal(one.times, [t for t, _ in rows])
    np.testing.assert_array_equal(one.values[:, 0], [x for _, x in rows])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line of table.csv must name every column, once, got nothing"),
        ("0.5,1\n", "once, got numbers; put a heading first"),
        ("time,x,x\n", "must name every column, once, got time, x, x"),
        ("time,,x\n", "must name every column, once, got time, , x"),
        (
            "t,x\n0,1\n",
            "the heading of table.csv must have one column time or times, seconds, got t",
        ),
        ("time,times\n0,1\n", "must have one column time or times"),
        ("time\n0\n", "table.csv must have a column of values beside time, got none"),
        ("time,x\n0,1\n1\n", "table.csv line 3 must have 2 cells, got 1"),
        ("time,x\n0,1\n\n1,2,3\n", "table.csv line 4 must have 2 cells, got 3"),
        (
            "time,x\n0,1\n2,1\n1,1\n",
            "table.csv line 4: time must not be before the one above, 2, got 1",
        ),
        ("time,x\n0,1\n,1\n", "table.csv line 3: time must be a finite number, got ''"),
        ("time,x\ninf,1\n", "table.csv line 2: time must be a finite number, got 'inf'"),
        ("time,x\n0,left\n", "table.csv line 2: x must be a number, got 'left'"),
        ("time,x\n0,1_0\n", "table.csv line 2: x must be a number, got '1_0'"),
        ("time,x\n0,inf\n", "or NaN where a sample is missing, got values[0, 0] = inf"),
        ('time,x\n0,"1\n', "table.csv line 2 must be CSV in UTF-8, got unexpected end of data"),
    ],
)
def test_faults_of_series_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AttendriteError, match=re.escape(message)):
        read_series(table(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start,end\n0,1\n", "must have one column stop, seconds, got start, end"),
        ("start,stop\n0,1\n2,1\n", "table.csv line 3: stop must not be before start, 2, got 1"),
        ("start,stop\n0,x\n", "table.csv line 2: stop must be a finite number, got 'x'"),
    ],
)
def test_faults_of_intervals_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AttendriteError, match=re.escape(message)):
        read_intervals(table(tmp_path, text))


def test_faults_of_unit_tables(tmp_path: Path) -> None:
    with pytest.raises(AttendriteError, match="have a row for each of 2 units, got none for 'b'"):
        read_unit_columns(table(tmp_path, "unit,area\na,M1\n"), ["a", "b"])
    with pytest.raises(AttendriteError, match="line 3: unit must occur once, got 'a'"):
        read_unit_columns(table(tmp_path, "unit,area\na,M1\na,S1\n"), ["a"])


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("time,größe\n0,1\n".encode("latin1"))
    with pytest.raises(
        AttendriteError, match=r"latin\.csv line 1 must be CSV in UTF-8, got 'utf-8'"
    ):
        read_table(tmp_path / "latin.csv")


def pack(tmp_path: Path, *arguments: str) -> int:
    return main(["pack", str(source(tmp_path)), "-o", str(tmp_path / "out.npz"), *arguments])


def test_everything_is_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    position = table(tmp_path, "time,x,y\n1,1,2\n2,3,4\n", "position.csv")
    trials = table(tmp_path, "start,stop,side\n1,2,l\n", "trials.csv")
    epochs = table(tmp_path, "start,stop\n0,4\n", "epochs.csv")
    flashes = table(tmp_path, "time,uv\n1,20\n", "flashes.csv")
    units = table(tmp_path, "unit,area\na,M1\nb,S1\n", "units.csv")
    status = pack(
        tmp_path, "--series", f"position={position}", "--trials", str(trials), "--intervals",
        f"epochs={epochs}", "--stimulus", str(flashes), "--unit-table", str(units), "--session",
        "set/day1", "--clock-offset", "-0.5", "--domain", "0", "5", "--compress",
    )  # fmt: skip
    assert status == 0
    one = attendrite.read(tmp_path / "out.npz")
    assert (one.session, one.domain) == ("set/day1", (0.0, 5.0))
    np.testing.assert_array_equal(
        one.spikes.times, [0.5, 1.0, 1.5, 3.0]
    )  # the clock is the spikes'
    assert list(one.series) == ["old", "position", "stimulus"]
    np.testing.assert_array_equal(one.series["position"].times, [0.5, 1.5])
    np.testing.assert_array_equal(one.series["stimulus"].values, [[20.0]])
    assert list(one.intervals) == ["epochs", "trials"]
    np.testing.assert_array_equal(one.intervals["trials"].start, [0.5])
    np.testing.assert_array_equal(one.unit_columns["area"], ["M1", "S1"])
    out = capsys.readouterr().out
    for words in ("2, 4 spikes", "5.0 s", "position (x, y)", "trials (side), 1", "wrote "):
        assert words in out


def test_a_kilosort_folder_with_labels(tmp_path: Path) -> None:
    folder = tmp_path / "sorting"
    folder.mkdir()
    np.save(folder / "spike_times.npy", np.arange(6))
    np.save(folder / "spike_clusters.npy", np.arange(6) % 3)
    (folder / "cluster_KSLabel.tsv").write_text("cluster_id\tKSLabel\n0\tgood\n1\tmua\n2\tnoise\n")
    out = tmp_path / "out.npz"
    arguments = ["--labels", "good", "mua", "--set", "sample_rate=10"]
    assert main(["pack", str(folder), "-o", str(out), *arguments]) == 0
    one = attendrite.read(out)
    assert (one.session, one.unit_ids) == ("sorting", ("0", "1"))
    np.testing.assert_array_equal(one.spikes.times, [0.0, 0.1, 0.3, 0.4])


def test_words_of_reader_options_need_no_quotes(tmp_path: Path) -> None:
    from scipy.io import savemat

    cells = np.empty((1, 1), object)
    cells[0, 0] = np.array([0.5, 1.0])
    savemat(tmp_path / "day.mat", {"first": cells, "second": cells})
    out = tmp_path / "out.npz"
    assert main(["pack", str(tmp_path / "day.mat"), "-o", str(out), "--set", "variable=first"]) == 0
    assert attendrite.read(out).unit_ids == ("1",)


def test_series_of_the_source_can_be_left_out(tmp_path: Path) -> None:
    old = table(tmp_path, "time,v\n1,7\n", "old.csv")
    assert pack(tmp_path, "--drop", "old", "--series", f"old={old}") == 0
    np.testing.assert_array_equal(
        attendrite.read(tmp_path / "out.npz").series["old"].values, [[7.0]]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--series", "position"], "--series must be NAME=VALUE, each name once, got 'position'"),
        (["--series", "p=late.csv", "--series", "p=late.csv"], "each name once, got 'p=late.csv'"),
        (
            ["--series", "old=late.csv"],
            "names of tables must be new, got a second 'old'; rename it",
        ),
        (
            ["--series", "p=late.csv"],
            "times of p must overlap the recording, 0 to 4 s, got 100 to 101",
        ),
        (["--series", "p=nothing.csv"], "No such file or directory"),
        (["--intervals", "trials=t.csv", "--trials", "t.csv"], "got a second 'trials'"),
        (["--drop", "new"], "unknown series or intervals 'new'; known: old"),
        (["--labels", "good"], "unknown option of the npz reader 'labels'; known: none"),
        (["--set", "variable"], "--set must be NAME=VALUE"),
        (["--domain", "0", "2"], "must lie in the domain 0.0 to 2.0 s, got times[3] = 3.0"),
    ],
)
def test_bad_requests_are_one_line_and_write_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    table(tmp_path, "time,x\n100,1\n101,1\n", "late.csv")
    table(tmp_path, "start,stop\n1,2\n", "t.csv")
    monkeypatch.chdir(tmp_path)
    assert pack(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.npz").exists()


def test_an_existing_file_is_replaced_only_by_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.npz").write_bytes(b"precious")
    assert pack(tmp_path) == 2
    assert "must be a new file, got one that exists; --force replaces it" in capsys.readouterr().err
    assert (tmp_path / "out.npz").read_bytes() == b"precious"
    assert pack(tmp_path, "--force") == 0
    assert attendrite.read(tmp_path / "out.npz").unit_ids == ("a", "b")
    assert main(["pack", str(tmp_path / "source.npz"), "-o", str(tmp_path / "out.dat")]) == 2
    assert "RECORDING.npz must end in .npz, got" in capsys.readouterr().err


def test_the_source_can_be_packed_onto_itself(tmp_path: Path) -> None:
    path = source(tmp_path)
    before = attendrite.read(path)
    assert main(["pack", str(path), "-o", str(path), "--force", "--session", "t"]) == 0
    assert attendrite.read(path).session == "t"
    np.testing.assert_array_equal(attendrite.read(path).counts, before.counts)

"""Join spikes with stimulus, behaviour, trial and unit tables into one recording file.

SOURCE is anything that attendrite reads: a Kilosort or phy folder, an NWB, temporaldata or MATLAB
file, or a recording file. Tables are CSV with a heading, times in seconds:

  --series, --stimulus   a column `time`, and columns of numbers; `x [px]` names the unit
  --trials, --intervals  columns `start` and `stop`, and any others (--stimulus takes these too)
  --unit-table           a column `unit`, and any others

example:
  attendrite pack sorting/ -o day1.npz --series position=tracking.csv --trials trials.csv \\
      --labels good mua --clock-offset -0.0417
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..recordings import Intervals, Recording, Series, read
from ..recordings._tables import (
    read_intervals,
    read_series,
    read_stimulus,
    read_unit_columns,
)

HELP = "join spikes with stimulus, behaviour and trial tables into one recording file"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="recording of any known format")
    add("-o", "--output", type=Path, required=True, metavar="RECORDING.npz", help="file to write")
    add("--series", action="append", default=[], metavar="NAME=CSV", help="a sampled signal")
    add("--stimulus", type=Path, metavar="CSV", help="the stimulus: a series or intervals")
    add("--trials", type=Path, metavar="CSV", help="intervals named trials")
    add("--intervals", action="append", default=[], metavar="NAME=CSV", help="other intervals")
    add("--unit-table", type=Path, metavar="CSV", help="area, position and the like of each unit")
    add("--labels", nargs="+", metavar="LABEL", help="clusters to keep (Kilosort; default: good)")
    add("--session", metavar="NAME", help="identifier of the recording, as BRAINSET/SESSION")
    add("--clock-offset", type=float, default=0.0, metavar="S",
        help="seconds added to every time of the tables")  # fmt: skip
    add("--domain", type=float, nargs=2, metavar=("START", "STOP"),
        help="begin and end of the neural recording, s, where SOURCE does not say")  # fmt: skip
    add("--drop", nargs="+", default=[], metavar="NAME",
        help="series or intervals of SOURCE to leave out")  # fmt: skip
    add("--set", nargs="+", default=[], metavar="KEY=VALUE",
        help="options of SOURCE's reader: sample_rate=30000 (Kilosort), variable=spikes (MATLAB)",
        )  # fmt: skip
    add("--compress", action="store_true", help="deflate the arrays: smaller, slower to write")
    add("--force", action="store_true", help="replace RECORDING.npz if it exists")


def run(options: argparse.Namespace) -> int:
    """Write the recording file and print what is in it."""
    _check_output(options.output, options.force)
    recording = read(options.source, **_reader_options(options))
    recording = _without(recording, options.drop)
    if options.session:
        recording = replace(recording, session=options.session)
    if options.domain:
        recording = replace(recording, domain=tuple(options.domain))
    recording = _with_tables(recording, options)
    recording.save(options.output, compress=options.compress)
    print(recording.summary())
    print(f"wrote {options.output}, {options.output.stat().st_size / 1e6:.1f} MB")
    return 0


def _check_output(path: Path, force: bool) -> None:
    if path.suffix != ".npz":
        raise errors.must("RECORDING.npz", "end in .npz", path)
    if path.exists() and not force:
        raise errors.must(str(path), "be a new file", "one that exists", "--force replaces it")


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """``NAME=VALUE`` options by name."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in pairs:
            raise errors.must(option, "be NAME=VALUE, each name once", repr(text))
        pairs[name] = value
    return pairs


def _reader_options(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, text in _pairs(options.set, "--set").items():
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text  # a word needs no quotes
    if options.labels:
        found["labels"] = tuple(options.labels)
    return found


def _without(recording: Recording, names: Sequence[str]) -> Recording:
    for name in names:
        errors.choice("series or intervals", name, [*recording.series, *recording.intervals])
    kept = {n: recording.series[n] for n in recording.series if n not in names}
    intervals = {n: recording.intervals[n] for n in recording.intervals if n not in names}
    return replace(recording, series=kept, intervals=intervals)


def _with_tables(recording: Recording, options: argparse.Namespace) -> Recording:
    offset = options.clock_offset
    series: dict[str, Series] = {}
    intervals: dict[str, Intervals] = {}
    for name, path in _pairs(options.series, "--series").items():
        series[name] = read_series(Path(path), offset)
    for name, path in _pairs(options.intervals, "--intervals").items():
        intervals[name] = read_intervals(Path(path), offset)
    if options.trials:
        _refuse_taken("trials", intervals)
        intervals["trials"] = read_intervals(options.trials, offset)
    if options.stimulus:
        stimulus = read_stimulus(options.stimulus, offset)
        target: dict[str, Any] = series if isinstance(stimulus, Series) else intervals
        _refuse_taken("stimulus", target)
        target["stimulus"] = stimulus
    columns = dict(recording.unit_columns)
    if options.unit_table:
        columns.update(read_unit_columns(options.unit_table, recording.unit_ids))
    for name in [*series, *intervals]:
        _refuse_taken(name, {**recording.series, **recording.intervals})
    for name, signal in series.items():
        _check_overlap(recording, name, signal.times, signal.times)
    for name, some in intervals.items():
        _check_overlap(recording, name, some.start, some.stop)
    return replace(
        recording,
        series={**recording.series, **series},
        intervals={**recording.intervals, **intervals},
        unit_columns=columns,
    )


def _refuse_taken(name: str, taken: dict[str, Any]) -> None:
    if name in taken:
        raise errors.must(
            "names of tables", "be new", f"a second {name!r}", f"rename it or --drop {name}"
        )


def _check_overlap(
    recording: Recording, name: str, starts: NDArray[np.float64], stops: NDArray[np.float64]
) -> None:
    """Refuse a table that lies wholly outside the recording: its clock is another one."""
    start, stop = recording.domain
    if len(starts) and (stops.max() < start or starts.min() > stop):
        raise errors.must(
            f"times of {name}",
            f"overlap the recording, {start:.6g} to {stop:.6g} s",
            f"{starts.min():.6g} to {stops.max():.6g} s",
            "bring the clocks together with --clock-offset",
        )

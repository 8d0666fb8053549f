"""Reads the tables that a recording is joined from: CSV with a heading, or TSV, in UTF-8.

Empty lines are passed over; an empty cell, ``nan`` or ``NA`` is a missing value. Every fault names
its line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ._recording import Intervals, Series

TIME = ("time", "times")
UNIT = ("unit", "unit_id", "id")
MISSING = ("", "nan", "NaN", "NA")
_WITH_UNIT = re.compile(r"^(.+?)\s*\[([^\]]+)\]$")
_INTEGER = re.compile(r"^[+-]?[0-9]{1,18}$")


@dataclass(frozen=True)
class Table:
    """A table of text: cells by column, and the line that each row began on."""

    name: str
    columns: dict[str, list[str]]
    lines: list[int]

    def key(self, names: Sequence[str], meaning: str) -> str:
        """Return the column that goes by one of some names."""
        found = [name for name in names if name in self.columns]
        if len(found) != 1:
            raise errors.must(
                f"the heading of {self.name}",
                f"have one column {' or '.join(names)}, {meaning}",
                ", ".join(self.columns),
            )
        return found[0]

    def numbers(self, column: str, missing: bool) -> NDArray[np.float64]:
        """Return a column as float64; missing values are NaN where they are admitted."""
        values = np.empty(len(self.lines))
        for row, cell in enumerate(self.columns[column]):
            value = _number(cell)
            if value is None or (not missing and not np.isfinite(value)):
                be = "be a number" if missing else "be a finite number"
                raise self.fault(row, column, be, repr(cell))
            values[row] = value
        return values

    def best(self, column: str) -> NDArray[np.generic]:
        """Return a column as int64, float64 or strings: the first that all its cells are."""
        cells = self.columns[column]
        if cells and all(_INTEGER.match(cell) for cell in cells):
            return np.array([int(cell) for cell in cells], np.int64)
        values = [_number(cell) for cell in cells]
        if None not in values:
            return np.array(values, np.float64)
        return np.array(cells, dtype=np.str_)

    def fault(self, row: int, column: str, be: str, got: str) -> errors.AttendriteError:
        """Build the error of one cell."""
        return errors.must(f"{self.name} line {self.lines[row]}: {column}", be, got)


def _number(cell: str) -> float | None:
    if cell in MISSING:
        return float("nan")
    try:
        return None if "_" in cell else float(cell)  # Python would read 1_0 as 10
    except ValueError:
        return None


def read_table(path: Path) -> Table:
    """Read a CSV or TSV file.

    Raises:
        AttendriteError: No heading, names that repeat, a line with another number of cells, or
            text that is not UTF-8.
        OSError: The file cannot be read.
    """
    delimiter = "\t" if path.suffix == ".tsv" else ","
    line = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.reader(stream, delimiter=delimiter, strict=True)
            names = [name.strip() for name in next(rows, [])]
            _check_heading(path, names)
            cells: list[list[str]] = [[] for _ in names]
            lines: list[int] = []
            line = rows.line_num + 1
            for row in rows:
                if row:
                    _check_width(path, line, row, names)
                    lines.append(line)
                    for column, cell in zip(cells, row, strict=True):
                        column.append(cell.strip())
                line = rows.line_num + 1
    except (csv.Error, UnicodeDecodeError) as error:
        raise errors.must(f"{path.name} line {line}", "be CSV in UTF-8", str(error)) from error
    return Table(path.name, dict(zip(names, cells, strict=True)), lines)


def _check_heading(path: Path, names: list[str]) -> None:
    be = "name every column, once"
    if not names or "" in names or len(set(names)) != len(names):
        raise errors.must(f"the first line of {path.name}", be, ", ".join(names) or "nothing")
    if _number(names[0]) is not None:
        raise errors.must(f"the first line of {path.name}", be, "numbers", "put a heading first")


def _check_width(path: Path, line: int, row: list[str], names: list[str]) -> None:
    if len(row) != len(names):
        raise errors.must(f"{path.name} line {line}", f"have {len(names)} cells", len(row))


def read_series(path: Path, offset: float = 0.0) -> Series:
    """Read a series: a column ``time`` or ``times`` [s] and columns of numbers.

    A heading ``x [px]`` gives the column ``x`` and, where all columns agree, the unit ``px``.

    Args:
        path: The file.
        offset: Seconds added to every time.

    Raises:
        AttendriteError: A time absent or before the one above it, a cell that is no number.
    """
    table = read_table(path)
    key = table.key(TIME, "seconds")
    times = table.numbers(key, missing=False) + offset
    falls = np.flatnonzero(np.diff(times) < 0)
    if falls.size:
        row = int(falls[0]) + 1
        before = table.columns[key][row - 1]
        raise table.fault(
            row, key, f"not be before the one above, {before}", table.columns[key][row]
        )
    names = [name for name in table.columns if name != key]
    if not names:
        raise errors.must(path.name, f"have a column of values beside {key}", "none")
    values = np.stack([table.numbers(name, missing=True) for name in names], axis=1)
    found = [_WITH_UNIT.match(name) for name in names]
    units = {match[2] if match else "" for match in found}
    if len(units) == 1 and found[0]:
        names = [match[1] for match in found if match]
        return Series(times, values, tuple(names), units.pop())
    return Series(times, values, tuple(names))


def read_intervals(path: Path, offset: float = 0.0) -> Intervals:
    """Read intervals: columns ``start`` and ``stop`` [s], others of numbers or text.

    Args:
        path: The file.
        offset: Seconds added to every start and stop.

    Raises:
        AttendriteError: A start or stop absent, or a stop before its start.
    """
    table = read_table(path)
    ends = [table.key([name], "seconds") for name in ("start", "stop")]
    start, stop = (table.numbers(name, missing=False) + offset for name in ends)
    bad = np.flatnonzero(stop < start)
    if bad.size:
        row = int(bad[0])
        first, last = (table.columns[name][row] for name in ends)
        raise table.fault(row, "stop", f"not be before start, {first}", last)
    return Intervals(start, stop, {n: table.best(n) for n in table.columns if n not in ends})


def read_stimulus(path: Path, offset: float = 0.0) -> Series | Intervals:
    """Read a stimulus: intervals where the table has ``start`` and ``stop``, else a series."""
    names = read_table(path).columns
    return (
        read_intervals(path, offset)
        if {"start", "stop"} <= set(names)
        else read_series(path, offset)
    )


def read_unit_columns(path: Path, unit_ids: Sequence[str]) -> Mapping[str, NDArray[np.generic]]:
    """Read unit metadata: a column ``unit``, ``unit_id`` or ``id``, others of numbers or text.

    Args:
        path: The file; rows of units that the recording does not have are passed over.
        unit_ids: Units of the recording, each of which must have one row.

    Returns:
        Columns in the order of ``unit_ids``.

    Raises:
        AttendriteError: A unit without a row, or with two.
    """
    table = read_table(path)
    key = table.key(UNIT, "unit ids")
    row_of: dict[str, int] = {}
    for row, unit in enumerate(table.columns[key]):
        if unit in row_of:
            raise table.fault(row, key, "occur once", repr(unit))
        row_of[unit] = row
    absent = [unit for unit in unit_ids if unit not in row_of]
    if absent:
        raise errors.must(
            path.name, f"have a row for each of {len(unit_ids)} units", f"none for {absent[0]!r}"
        )
    rows = np.array([row_of[unit] for unit in unit_ids], np.int64)
    return {name: table.best(name)[rows] for name in table.columns if name != key}

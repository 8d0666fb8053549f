"""The one form in which everything else sees a recording."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..kernels.group_by_unit import group_by_unit, merge_units

V = TypeVar("V")


class Lazy(Mapping[str, V], Generic[V]):
    """A mapping whose values are loaded at first use and kept.

    Args:
        loaders: Returns the value of a name; called once per name.
        kind: What the values are, for messages: ``"series"``, ``"intervals"``.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], V]], kind: str) -> None:
        self._loaders, self._kind, self._loaded = dict(loaders), kind, dict[str, V]()

    def __getitem__(self, name: str) -> V:
        if name not in self._loaded:
            load = self._loaders[name]
            try:
                self._loaded[name] = load()
            except errors.AttendriteError as error:
                raise errors.AttendriteError(f"{self._kind} {name!r}: {error}") from error
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)

    def __repr__(self) -> str:
        return f"{{{', '.join(map(repr, self))}}}"


@dataclass(frozen=True, eq=False)
class Series:
    """A sampled signal: behaviour, stimulus, or fluorescence traces.

    Attributes:
        times: Sample times, ``[T]``, float64, seconds, sorted, finite.
        values: ``[T, D]``, float64 or float32; NaN marks a missing sample, infinity is refused.
        columns: Name of each column, ``D`` of them.
        unit: Physical unit of the values, for example ``"px"``; empty when unknown.

    Raises:
        AttendriteError: Wrong shape or dtype, unsorted or non-finite times, infinite values.
    """

    times: NDArray[np.float64]
    values: NDArray[np.floating]
    columns: tuple[str, ...]
    unit: str = ""

    def __post_init__(self) -> None:
        _dtype("times", self.times, "float64")
        _dtype("values", self.values, "float32", "float64")
        errors.shape("times", self.times, ["T"])
        errors.shape("values", self.values, [len(self.times), len(self.columns)])
        _check_sorted("times", self.times)
        bad = np.argwhere(np.isinf(self.values))
        if bad.size:
            i, j = (int(k) for k in bad[0])
            raise errors.must(
                "values",
                "be finite, or NaN where a sample is missing",
                f"values[{i}, {j}] = {self.values[i, j]}",
                "remove or repair them",
            )

    def slice(self, start: float, stop: float) -> Series:
        """Return the samples with ``start <= time <= stop``; shares memory."""
        cut = slice(np.searchsorted(self.times, start), np.searchsorted(self.times, stop, "right"))
        return replace(self, times=self.times[cut], values=self.values[cut])

    def equals(self, other: object) -> bool:
        """Say whether both hold the same samples (NaN equals NaN), names and unit."""
        return (
            isinstance(other, Series)
            and (self.columns, self.unit) == (other.columns, other.unit)
            and _same(self.times, other.times)
            and _same(self.values, other.values)
        )


@dataclass(frozen=True, eq=False)
class Intervals:
    """Trials or epochs, in any order; they may overlap.

    Attributes:
        start: ``[I]``, float64, seconds, finite.
        stop: ``[I]``, float64, seconds, finite, each at or after its start.
        columns: Further columns by name, ``[I, ...]`` each: numbers or strings.

    Raises:
        AttendriteError: Wrong shape or dtype, non-finite times, or a stop before its start.
    """

    start: NDArray[np.float64]
    stop: NDArray[np.float64]
    columns: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, times in (("start", self.start), ("stop", self.stop)):
            _dtype(name, times, "float64")
            errors.shape(name, times, [len(self.start)] if np.ndim(self.start) else ["I"])
            errors.finite(name, times)
        bad = np.flatnonzero(self.stop < self.start)
        if bad.size:
            i = int(bad[0])
            raise errors.must(
                f"stop[{i}]", f"be at or after start[{i}] = {self.start[i]}", self.stop[i]
            )
        for name, column in self.columns.items():
            _check_column(f"column {name!r}", column, len(self.start))

    def __len__(self) -> int:
        return len(self.start)

    def select(self, chosen: NDArray[Any]) -> Intervals:
        """Return the chosen intervals.

        Args:
            chosen: ``[I]`` bool, or indices.
        """
        columns = {name: column[chosen] for name, column in self.columns.items()}
        return Intervals(self.start[chosen], self.stop[chosen], columns)

    def equals(self, other: object) -> bool:
        """Say whether both hold the same intervals and columns."""
        return (
            isinstance(other, Intervals)
            and _same(self.start, other.start)
            and _same(self.stop, other.stop)
            and _same_columns(self.columns, other.columns)
        )


@dataclass(frozen=True, eq=False)
class Spikes:
    """All spikes of a recording in time order.

    Attributes:
        times: ``[n]``, float64, seconds, sorted, finite.
        units: ``[n]``, int32, index into the recording's ``unit_ids``.
    """

    times: NDArray[np.float64]
    units: NDArray[np.int32]

    @classmethod
    def none(cls) -> Spikes:
        """Return no spikes."""
        return cls(np.zeros(0), np.zeros(0, np.int32))

    @classmethod
    def from_trains(cls, trains: Sequence[NDArray[np.floating]]) -> Spikes:
        """Merge one spike train per unit into time order.

        Args:
            trains: Spike times of each unit, seconds, sorted; ``U`` arrays of one axis.

        Raises:
            AttendriteError: A train is unsorted or not finite; names the unit.
        """
        offsets = np.zeros(len(trains) + 1, np.int64)
        np.cumsum([len(train) for train in trains], out=offsets[1:])
        times = np.concatenate([np.zeros(0), *trains]).astype(np.float64, copy=False)
        return cls.from_units(times, offsets)

    @classmethod
    def from_units(cls, times: NDArray[np.float64], offsets: NDArray[np.int64]) -> Spikes:
        """Merge unit-major spikes into time order; spikes of equal time keep the order of units.

        Args:
            times: ``[n]``, float64, seconds: all spikes of unit 0, then of unit 1, ...; sorted
                within a unit.
            offsets: ``[U + 1]``, int64; unit ``u`` has ``times[offsets[u]:offsets[u + 1]]``.

        Raises:
            AttendriteError: A unit's times are unsorted or not finite; names the unit.
        """
        errors.finite("spike times", times)
        falls = np.flatnonzero(times[1:] < times[:-1]) + 1
        falls = falls[~np.isin(falls, offsets)]  # a fall between two units is no fault
        if falls.size:
            i = int(falls[0])
            unit = int(np.searchsorted(offsets, i, "right")) - 1
            raise errors.AttendriteError(
                f"spike times of unit {unit} must be sorted, got times[{i - offsets[unit]}] = "
                f"{times[i]} after {times[i - 1]}; sort them first"
            )
        return cls(*merge_units(times, offsets))


@dataclass(frozen=True, eq=False)
class Recording:
    """One recording: a population over one stretch of time.

    Spikes, series and intervals are loaded at first use where the file format allows; everything
    else is small. The object is immutable; methods return new ones that share its memory.

    Attributes:
        session: Identifier of the recording, by convention ``brainset/session``.
        unit_ids: Identifier of each unit, ``U`` of them, unique.
        load_spikes: Returns the spikes; called once, by :attr:`spikes`.
        domain: Start and stop of the neural recording, seconds. Spikes and traces outside it are
            refused; behaviour may begin before it and end after it.
        series: Behaviour and stimulus by name, for example ``"position"``.
        intervals: Trials and epochs by name, for example ``"trials"``.
        unit_columns: Unit metadata by name, ``[U, ...]`` each: ``area``, ``label``,
            ``position`` (um).
        traces: Fluorescence of the units, one column per unit; ``None`` for spike recordings.
        source: Where it came from: path, repository, licence.

    Raises:
        AttendriteError: Unit ids not unique, a column of the wrong length, an impossible domain.
    """

    session: str
    unit_ids: tuple[str, ...]
    load_spikes: Callable[[], Spikes] = field(repr=False)
    domain: tuple[float, float]
    series: Mapping[str, Series] = field(default_factory=dict)
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    unit_columns: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    traces: Series | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if len(set(self.unit_ids)) != len(self.unit_ids):
            seen: set[str] = set()
            twice = next(u for u in self.unit_ids if u in seen or seen.add(u))  # type: ignore[func-returns-value]
            raise errors.must("unit ids", "be unique", f"{twice!r} twice")
        start, stop = self.domain
        if not (np.isfinite(start) and np.isfinite(stop) and start <= stop):
            raise errors.must("domain", "be finite with start <= stop", f"{start} to {stop} s")
        for name, column in self.unit_columns.items():
            _check_column(f"unit column {name!r}", column, len(self.unit_ids))
        if self.traces is not None:
            self._check_traces(self.traces)

    @classmethod
    def from_trains(
        cls,
        session: str,
        trains: Mapping[str, NDArray[np.floating]],
        *,
        domain: tuple[float, float] | None = None,
        **rest: Any,
    ) -> Recording:
        """Build a recording from the spike times of each unit.

        Args:
            session: Identifier of the recording.
            trains: Spike times by unit id, seconds, sorted, one axis each.
            domain: Start and stop of the recording; ``None``: from the first to the last spike.
            **rest: Further attributes: ``series``, ``intervals``, ``unit_columns``, ``source``.

        Raises:
            AttendriteError: Unsorted, non-finite or negative times, or times outside the domain.

        Example:
            >>> Recording.from_trains("retina/1", {"a": np.array([0.1, 0.3]), "b": np.array([0.2])})
            Recording('retina/1'; 2 units; 0.1 to 0.3 s)
        """
        spikes = Spikes.from_trains(list(trains.values()))
        if domain is None:
            domain = hull(spikes.times)
        recording = cls(session, tuple(trains), lambda: spikes, domain, **rest)
        assert recording.spikes is spikes  # checks them now, not at first use
        return recording

    def _check_traces(self, traces: Series) -> None:
        errors.shape("traces", traces.values, ["T", len(self.unit_ids)], "one column per unit")
        _check_within("trace times", traces.times, self.domain)

    @cached_property
    def spikes(self) -> Spikes:
        """All spikes in time order, checked: sorted, finite, units known, inside the domain."""
        spikes = self.load_spikes()
        check_spikes(spikes, len(self.unit_ids), self.domain)
        return spikes

    def by_unit(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the spikes in unit-major order.

        Returns:
            Times ``[n]``, float64, seconds, sorted within a unit; and offsets ``[U + 1]``, int64:
            unit ``u`` has ``times[offsets[u]:offsets[u + 1]]``. Newly allocated.
        """
        times, offsets = group_by_unit(self.spikes.times, self.spikes.units, len(self.unit_ids))
        return times, offsets

    @property
    def duration(self) -> float:
        """Length of the domain, seconds."""
        return self.domain[1] - self.domain[0]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of spikes of each unit, ``[U]``, int64."""
        return np.bincount(self.spikes.units, minlength=len(self.unit_ids)).astype(np.int64)

    @property
    def rates(self) -> NDArray[np.float64]:
        """Mean firing rate of each unit over the domain, ``[U]``, Hz; NaN without duration."""
        return self.counts / (self.duration or np.nan)

    def select(self, unit_ids: Sequence[str]) -> Recording:
        """Return the recording of some units, in the order asked for.

        Raises:
            AttendriteError: A unit that the recording does not have.
        """
        row = {unit: i for i, unit in enumerate(self.unit_ids)}
        self._refuse_unknown(unit_ids)
        rows = np.array([row[unit] for unit in unit_ids], np.int64)
        traces = self.traces and replace(
            self.traces, values=self.traces.values[:, rows], columns=tuple(unit_ids)
        )
        return replace(
            self,
            unit_ids=tuple(unit_ids),
            load_spikes=partial(_select, self, rows),
            unit_columns={name: column[rows] for name, column in self.unit_columns.items()},
            traces=traces,
        )

    def slice(self, start: float, stop: float) -> Recording:
        """Return the recording between two times; the clock stays the same.

        Spikes with ``start <= time < stop`` are kept, and one exactly at the end of the recording
        when ``stop`` is that end. Intervals are kept whole where they overlap the slice.

        Raises:
            AttendriteError: The slice is not inside the domain, or stops before it starts.
        """
        if not self.domain[0] <= start <= stop <= self.domain[1]:
            raise errors.must(
                "a slice",
                f"lie in the domain {self.domain[0]} to {self.domain[1]} s",
                f"{start} to {stop} s",
            )
        series = {name: partial(_cut, self.series, name, start, stop) for name in self.series}
        intervals = {
            name: partial(_overlapping, self.intervals, name, start, stop)
            for name in self.intervals
        }
        return replace(
            self,
            domain=(start, stop),
            load_spikes=partial(_between, self, start, stop),
            series=Lazy(series, "series"),
            intervals=Lazy(intervals, "intervals"),
            traces=self.traces and self.traces.slice(start, stop),
        )

    def rename_units(self, names: Mapping[str, str]) -> Recording:
        """Return the recording with other unit ids.

        Args:
            names: New id of a present one; units that are not in it keep theirs.

        Raises:
            AttendriteError: A unit that the recording does not have, or ids no longer unique.
        """
        self._refuse_unknown(names)
        unit_ids = tuple(names.get(unit, unit) for unit in self.unit_ids)
        traces = self.traces and replace(self.traces, columns=unit_ids)
        return replace(self, unit_ids=unit_ids, traces=traces)

    def _refuse_unknown(self, unit_ids: Sequence[str] | Mapping[str, str]) -> None:
        known = set(self.unit_ids)
        for unit in unit_ids:
            if unit not in known:
                some = ", ".join(self.unit_ids[:3]) + (", ..." if len(known) > 3 else "")
                raise errors.AttendriteError(
                    f"unknown unit {unit!r}; recording {self.session!r} has {len(known)}: {some}"
                )

    def save(self, path: str | os.PathLike[str], *, compress: bool = False) -> None:
        """Write the recording as one ``.npz`` file; :func:`attendrite.read` gives it back exactly.

        The file is written beside its name and then renamed: it appears whole or not at all.

        Args:
            path: File to write; an existing one is replaced.
            compress: Deflate the arrays: half the size, ten times slower to write.

        Raises:
            AttendriteError: The recording breaks one of its own rules.
            OSError: The file cannot be written.
        """
        from .npz import write

        write(self, path, compress=compress)

    def equals(self, other: object) -> bool:
        """Say whether both hold the same data; ``source`` is not compared. Loads everything."""
        return (
            isinstance(other, Recording)
            and (self.session, self.unit_ids) == (other.session, other.unit_ids)
            and tuple(self.domain) == tuple(other.domain)
            and _same(self.spikes.times, other.spikes.times)
            and _same(self.spikes.units, other.spikes.units)
            and _same_items(self.series, other.series)
            and _same_items(self.intervals, other.intervals)
            and _same_columns(self.unit_columns, other.unit_columns)
            and (
                self.traces is other.traces
                if self.traces is None
                else self.traces.equals(other.traces)
            )
        )

    def __repr__(self) -> str:
        parts = [repr(self.session), f"{len(self.unit_ids)} units"]
        parts.append(f"{self.domain[0]:.10g} to {self.domain[1]:.10g} s")
        for kind, names in (("series", self.series), ("intervals", self.intervals)):
            parts += [f"{kind}: {', '.join(names)}"] if names else []
        return f"Recording({'; '.join(parts)})"

    def summary(self) -> str:
        """Describe the recording in a few lines; loads everything."""
        start, stop = self.domain
        median = f", median {np.median(self.rates):.2f} Hz" if self.unit_ids else ""
        neural = f"{len(self.spikes.times)} spikes{median}"
        if self.traces is not None:
            neural = f"{len(self.traces.times)} samples of traces"
        rows = [
            ("domain", f"{start:.3f} to {stop:.3f} s ({self.duration:.1f} s)"),
            ("units", f"{len(self.unit_ids)}, {neural}"),
        ]
        if self.unit_columns:
            rows.append(("unit data", ", ".join(self.unit_columns)))
        for name, series in self.series.items():
            unit = f" [{series.unit}]" if series.unit else ""
            columns = ", ".join(series.columns)
            rows.append(("series", f"{name} ({columns}){unit}, {len(series.times)} samples"))
        for name, intervals in self.intervals.items():
            columns = f" ({', '.join(intervals.columns)})" if intervals.columns else ""
            rows.append(("intervals", f"{name}{columns}, {len(intervals)}"))
        lines = [f"recording {self.session}", *(f"  {key:<10} {text}" for key, text in rows)]
        return "\n".join(lines)


def hull(times: NDArray[np.float64]) -> tuple[float, float]:
    """Return the domain of a recording that only its sorted times tell: from 0 at the earliest.

    A time before 0 is then outside it and is refused: clocks of recordings start at 0 or later.
    """
    return (max(0.0, float(times[0])), max(0.0, float(times[-1]))) if len(times) else (0.0, 0.0)


def check_spikes(
    spikes: Spikes, n_units: int, domain: tuple[float, float] = (-np.inf, np.inf)
) -> None:
    """Refuse spikes that are unsorted, not finite, outside the domain, or of unknown units.

    Raises:
        AttendriteError: With the first bad index.
    """
    times, units = spikes.times, spikes.units
    _dtype("spike times", times, "float64")
    _dtype("spike units", units, "int32")
    errors.shape("spike times", times, ["n"])
    errors.shape("spike units", units, [len(times)])
    _check_sorted("spike times", times)
    _check_within("spike times", times, domain)
    if units.size and (units.min() < 0 or units.max() >= n_units):
        i = int(np.flatnonzero((units < 0) | (units >= n_units))[0])
        raise errors.must("spike units", f"lie in 0..{n_units - 1}", f"units[{i}] = {units[i]}")


def _check_sorted(name: str, times: NDArray[np.float64]) -> None:
    # A chain of >= holds no NaN, so one pass settles the usual case.
    ends_finite = not times.size or (np.isfinite(times[0]) and np.isfinite(times[-1]))
    if not (ends_finite and np.all(times[1:] >= times[:-1])):
        errors.finite(name, times)
        errors.monotonic(name, times)


def _check_within(name: str, times: NDArray[np.float64], domain: tuple[float, float]) -> None:
    if not times.size or (times[0] >= domain[0] and times[-1] <= domain[1]):
        return
    i = 0 if times[0] < domain[0] else int(np.searchsorted(times, domain[1], "right"))
    raise errors.must(
        name,
        f"lie in the domain {domain[0]} to {domain[1]} s",
        f"times[{i}] = {times[i]}",
        "mend the times or state the domain",
    )


def _check_column(name: str, column: NDArray[Any], length: int) -> None:
    if not isinstance(column, np.ndarray) or column.dtype.kind not in "biufU":
        kind = column.dtype if isinstance(column, np.ndarray) else type(column).__name__
        raise errors.must(name, "be an array of numbers or strings", kind)
    errors.shape(name, column, [length, *map(str, range(1, column.ndim))])


def _dtype(name: str, array: Any, *allowed: str) -> None:
    if not isinstance(array, np.ndarray):
        raise errors.must(name, "be a numpy array", type(array).__name__)
    if array.dtype.name not in allowed or not array.dtype.isnative:
        raise errors.must(name, f"have dtype {' or '.join(allowed)}", array.dtype)


def _select(recording: Recording, rows: NDArray[np.int64]) -> Spikes:
    new = np.full(len(recording.unit_ids), -1, np.int32)
    new[rows] = np.arange(len(rows), dtype=np.int32)
    units = new[recording.spikes.units]
    return Spikes(recording.spikes.times[units >= 0], units[units >= 0])


def _between(recording: Recording, start: float, stop: float) -> Spikes:
    times = recording.spikes.times
    last = stop == recording.domain[1]
    end = np.searchsorted(times, stop, "right" if last else "left")
    cut = slice(np.searchsorted(times, start), end)
    return Spikes(times[cut], recording.spikes.units[cut])


def _cut(series: Mapping[str, Series], name: str, start: float, stop: float) -> Series:
    return series[name].slice(start, stop)


def _overlapping(all_: Mapping[str, Intervals], name: str, start: float, stop: float) -> Intervals:
    intervals = all_[name]
    return intervals.select((intervals.start <= stop) & (intervals.stop >= start))


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    nan = a.dtype.kind == "f" and b.dtype.kind == "f"
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=nan)


def _same_columns(a: Mapping[str, NDArray[Any]], b: Mapping[str, NDArray[Any]]) -> bool:
    return list(a) == list(b) and all(_same(a[name], b[name]) for name in a)


def _same_items(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return list(a) == list(b) and all(a[name].equals(b[name]) for name in a)

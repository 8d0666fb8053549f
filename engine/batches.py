"""Inputs of a run: windows of spikes or of fluorescence frames, and the times to decode at.

They mirror the arrays of a run's input file. What can be checked without a model is checked when a
batch is made, so a batch that exists is sound; the rest (window length, vocabularies) is checked
against the bundle by :meth:`check`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import errors
from .bundle import Manifest, Task
from .kernels.tokenize_poyo import Tokens, tokenize_poyo, window_ranges
from .recordings import Recording
from .recordings._arrays import ArrayFile

NO_TASK = ""  # no query there


class Batch(Protocol):
    """What every kind of input has."""

    @property
    def unit_ids(self) -> NDArray[np.str_]:
        """Names of the units whose tokens are attended to, ``[U]``."""

    @property
    def query_task(self) -> NDArray[np.str_] | None:
        """Task of each query, ``[B, Q]``; "" = no query there."""

    def __len__(self) -> int:
        """Return the number of windows ``B``."""

    @classmethod
    def from_npz(cls, path: str | Path) -> Self:
        """Read a run's input file."""

    def check(self, manifest: Manifest) -> None:
        """Refuse what does not fit the model."""

    def part(self, start: int, stop: int) -> Self:
        """Return the windows ``start..stop-1``."""


@dataclass(frozen=True)
class SpikeBatch:
    """``B`` windows of spikes.

    Attributes:
        times: Spike times, ``[n]``, float64, seconds from the start of their window, sorted within
            a window.
        units: ``[n]``, integer, index into ``unit_ids``.
        window: ``[n]``, integer, window of each spike, sorted.
        unit_ids: ``[U]``, str, distinct.
        session: ``[B]``, str, session of each window.
        query_times: When to decode, ``[B, Q]``, float64, seconds from the start of the window.
        window_units: Which units exist in a window, ``[B, U]``, bool; ``None``: all. A unit outside
            it has no tokens, its spikes neither; a silent unit inside it has START and END.
        query_task: Task of each query, ``[B, Q]``, str, "" = no query there; ``None`` for models
            with one read-out.

    Raises:
        AttendriteError: Wrong shapes or dtypes, times that are not sorted or not finite, units or
            windows out of range, ids that occur twice.
    """

    times: NDArray[np.float64]
    units: NDArray[np.integer[Any]]
    window: NDArray[np.integer[Any]]
    unit_ids: NDArray[np.str_]
    session: NDArray[np.str_]
    query_times: NDArray[np.float64]
    window_units: NDArray[np.bool_] | None = None
    query_task: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        _to_arrays(self)
        _check_names(self)
        _dtype("times", self.times, "f8", "float64")
        errors.shape("times", self.times, ["n"])
        for name in ("units", "window"):
            _dtype(name, getattr(self, name), "iu", "integer")
            errors.shape(name, getattr(self, name), [len(self.times)])
        _check_common(self)
        errors.finite("times", self.times)
        errors.monotonic("window", self.window.astype(np.int64))
        _in_range("units", self.units, len(self.unit_ids), "unit_ids")
        _in_range("window", self.window, len(self), "session")
        _check_sorted_in_windows(self.times, self.window)

    def __len__(self) -> int:
        return len(self.session)

    @classmethod
    def from_npz(cls, path: str | Path) -> SpikeBatch:
        """Read a run's input file.

        Raises:
            AttendriteError: Not an ``.npz`` file, an array missing, unknown or unsound.
        """
        return cls(**read_arrays(path, cls))

    @classmethod
    def from_recording(
        cls,
        recording: Recording,
        starts: NDArray[np.float64],
        length: float,
        query_times: NDArray[np.float64],
        *,
        session: str | None = None,
        query_task: NDArray[np.str_] | None = None,
    ) -> SpikeBatch:
        """Cut windows out of a recording, on integer ticks.

        A spike within half a tick of a window's edge counts as on it; its time is kept inside.

        Args:
            recording: Where the spikes are; not modified.
            starts: Start of each window, ``[B]``, float64, seconds in the recording's time.
            length: Length of the windows, seconds.
            query_times: ``[B, Q]`` or ``[Q]`` for the same in every window, float64, seconds from
                the start of the window.
            session: Session of the model; ``None``: the recording's own.
            query_task: As in :class:`SpikeBatch`.

        Raises:
            AttendriteError: A start is not finite, or as :class:`SpikeBatch`.
        """
        starts, query_times = _windows(starts, query_times)
        times = recording.spikes.times
        begin, end = _ranges(times, starts, length)
        count = end - begin
        window = np.repeat(np.arange(len(starts)), count)
        taken = np.arange(count.sum()) + np.repeat(begin - (np.cumsum(count) - count), count)
        return cls(
            times=_within(times[taken] - starts[window], length),
            units=recording.spikes.units[taken],
            window=window,
            unit_ids=np.asarray(recording.unit_ids, dtype=np.str_),
            session=np.full(len(starts), recording.session if session is None else session),
            query_times=query_times,
            query_task=query_task,
        )

    def check(self, manifest: Manifest) -> None:
        """Refuse spikes outside the window, and units, sessions or tasks that the model lacks.

        Raises:
            AttendriteError: With the first bad index.
        """
        length = manifest.sequence_length
        bad = np.flatnonzero((self.times < 0) | (self.times >= length))
        if bad.size:
            raise errors.must(
                "times",
                f"lie in 0 <= t < {length} s, the window of the model",
                f"times[{bad[0]}] = {self.times[bad[0]]}",
                "count them from the start of their window",
            )
        _check_vocabularies(self, manifest)

    def part(self, start: int, stop: int) -> SpikeBatch:
        """Return the windows ``start..stop-1``; arrays may share memory with this batch."""
        first, last = np.searchsorted(self.window, [start, stop])
        return replace(
            self,
            times=self.times[first:last],
            units=self.units[first:last],
            window=self.window[first:last] - start,
            **_common(self, start, stop),
        )

    def tokens(self, length: float) -> Tokens:
        """Return the padded tokens of the windows, in the order of the captured key axis."""
        bounds = np.searchsorted(self.window, np.arange(len(self) + 1))
        return tokenize_poyo(
            np.ascontiguousarray(self.times),
            np.ascontiguousarray(self.units, dtype=np.int32),
            begin=bounds[:-1],
            end=bounds[1:],
            origin=np.zeros(len(self)),
            length=length,
            n_units=len(self.unit_ids),
            window_units=self.window_units,
            order="time",
            form="padded",
            pad_multiple=1,
        )


@dataclass(frozen=True)
class CalciumBatch:
    """``B`` windows of fluorescence.

    Attributes:
        values: dF/F, ``[B, T, U]``, float32 or float64, finite.
        times: Time of each frame, ``[B, T]``, float64, seconds from the start of the window,
            sorted.
        unit_ids: ``[U]``, str, distinct.
        session: ``[B]``, str.
        query_times: ``[B, Q]``, float64, seconds from the start of the window.
        query_task: ``[B, Q]``, str, "" = no query there.
        window_units: Which units exist in a window, ``[B, U]``, bool; ``None``: all.
        n_frames: Frames that each window has, ``[B]``, integer; those after are padding, finite but
            not used. ``None``: all ``T``.

    Raises:
        AttendriteError: As for :class:`SpikeBatch`.
    """

    values: NDArray[np.floating[Any]]
    times: NDArray[np.float64]
    unit_ids: NDArray[np.str_]
    session: NDArray[np.str_]
    query_times: NDArray[np.float64]
    query_task: NDArray[np.str_] | None = None
    window_units: NDArray[np.bool_] | None = None
    n_frames: NDArray[np.integer[Any]] | None = None

    def __post_init__(self) -> None:
        _to_arrays(self)
        _check_names(self)
        _dtype("times", self.times, "f8", "float64")
        if self.values.dtype not in (np.float32, np.float64):
            raise errors.must("values", "be float32 or float64", self.values.dtype, "convert them")
        errors.shape("times", self.times, [len(self), "T"])
        errors.shape("values", self.values, [len(self), self.times.shape[1], len(self.unit_ids)])
        _check_common(self)
        errors.finite("times", self.times)
        errors.finite("values", self.values)
        if self.n_frames is not None:
            _dtype("n_frames", self.n_frames, "iu", "integer")
            errors.shape("n_frames", self.n_frames, [len(self)])
            _in_range("n_frames", self.n_frames, self.times.shape[1] + 1, "times, and their number")
        bad = np.argwhere((np.diff(self.times, axis=1) < 0) & self.exists[:, 1:])
        if bad.size:
            b, t = (int(i) for i in bad[0])
            got = f"times[{b}, {t + 1}] = {self.times[b, t + 1]} after {self.times[b, t]}"
            raise errors.must("times", "be sorted within a window", got, "sort them first")

    def __len__(self) -> int:
        return len(self.session)

    @classmethod
    def from_npz(cls, path: str | Path) -> CalciumBatch:
        """Read a run's input file.

        Raises:
            AttendriteError: Not an ``.npz`` file, an array missing, unknown or unsound.
        """
        return cls(**read_arrays(path, cls))

    @classmethod
    def from_recording(
        cls,
        recording: Recording,
        starts: NDArray[np.float64],
        length: float,
        query_times: NDArray[np.float64],
        *,
        session: str | None = None,
        query_task: NDArray[np.str_] | None = None,
    ) -> CalciumBatch:
        """Cut windows of frames out of a recording; as :meth:`SpikeBatch.from_recording`.

        Raises:
            AttendriteError: The recording has no traces, or as :class:`CalciumBatch`.
        """
        if recording.traces is None:
            raise errors.must("the recording", "have fluorescence traces", "none")
        traces = recording.traces
        starts, query_times = _windows(starts, query_times)
        begin, end = _ranges(traces.times, starts, length)
        count = end - begin
        frame = np.arange(int(count.max(initial=0)))
        exists = frame < count[:, None]  # [B, T]
        taken = np.where(exists, begin[:, None] + frame, 0)
        return cls(
            values=np.where(exists[..., None], traces.values[taken], 0),
            times=np.where(exists, _within(traces.times[taken] - starts[:, None], length), 0.0),
            unit_ids=np.asarray(recording.unit_ids, dtype=np.str_),
            session=np.full(len(starts), recording.session if session is None else session),
            query_times=query_times,
            query_task=query_task,
            n_frames=count,
        )

    @property
    def exists(self) -> NDArray[np.bool_]:
        """Which frames each window has, ``[B, T]``."""
        n_windows, n_frames = self.times.shape
        count = np.full(n_windows, n_frames) if self.n_frames is None else self.n_frames
        return np.arange(n_frames) < count[:, None]

    def check(self, manifest: Manifest) -> None:
        """Refuse frames outside the window, and units, sessions or tasks that the model lacks.

        Raises:
            AttendriteError: With the first bad index.
        """
        length = manifest.sequence_length
        bad = np.argwhere(((self.times < 0) | (self.times >= length)) & self.exists)
        if bad.size:
            b, t = (int(i) for i in bad[0])
            raise errors.must(
                "times",
                f"lie in 0 <= t < {length} s, the window of the model",
                f"times[{b}, {t}] = {self.times[b, t]}",
                "count them from the start of their window",
            )
        _check_vocabularies(self, manifest)

    def part(self, start: int, stop: int) -> CalciumBatch:
        """Return the windows ``start..stop-1``; arrays may share memory with this batch."""
        return replace(
            self,
            times=self.times[start:stop],
            values=self.values[start:stop],
            n_frames=None if self.n_frames is None else self.n_frames[start:stop],
            **_common(self, start, stop),
        )

    def tokens(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return frame and unit of each token, ``[B, K]``, and the lengths ``[B]``.

        Tokens go frame by frame over the units that exist, padded with 0 on the right.
        """
        n_windows = len(self)
        units = self.window_units
        if units is None:
            units = np.ones((n_windows, len(self.unit_ids)), dtype=np.bool_)
        frames = self.exists.sum(1, dtype=np.int64)
        lengths = frames * units.sum(1, dtype=np.int64)
        frame = np.zeros((n_windows, int(lengths.max(initial=0))), dtype=np.int64)
        unit = np.zeros_like(frame)
        for b, n in enumerate(lengths):
            present = np.flatnonzero(units[b])
            frame[b, :n] = np.repeat(np.arange(frames[b]), len(present))
            unit[b, :n] = np.tile(present, frames[b])
        return frame, unit, lengths


WindowBatch: TypeAlias = SpikeBatch | CalciumBatch


def read_arrays(path: str | Path, batch: type[Any]) -> dict[str, Any]:
    """Read the arrays of a run's input file; no pickled object is ever read.

    Args:
        path: The file.
        batch: Dataclass whose fields the arrays are; those with a default may be missing.

    Raises:
        AttendriteError: Not an ``.npz`` file, damaged, or an array missing or unknown.
        OSError: The file cannot be read.
    """
    path = Path(path)
    fields = batch.__dataclass_fields__
    required = {name for name, field in fields.items() if field.default is MISSING}
    try:
        file = ArrayFile(path)
        _check_fields(path, set(file.names), required, set(fields))
        return {name: file.read(name) for name in file.names}
    except OSError as error:
        if error.filename is not None:
            raise
        # no file was at fault but an offset in it: the archive sends its reader nowhere
        raise errors.must(path.name, "be a whole .npz file", error, "write it again") from None


def _check_fields(path: Path, names: set[str], required: set[str], known: set[str]) -> None:
    for name in sorted(required - names):
        raise errors.must(str(path), f"hold the array {name!r}", ", ".join(sorted(names)) or "none")
    for name in sorted(names - known):
        errors.choice(f"array of {path}", name, sorted(known), "remove it")


def _to_arrays(batch: WindowBatch) -> None:
    """Take lists too; nothing is converted to another kind of number."""
    for name in batch.__dataclass_fields__:
        if getattr(batch, name) is not None:
            object.__setattr__(batch, name, np.asarray(getattr(batch, name)))


def _check_names(batch: WindowBatch) -> None:
    for name in ("unit_ids", "session", "query_task"):
        values = getattr(batch, name)
        if values is not None:
            _dtype(name, values, "U", "strings", "write it as np.array([...], dtype=str)")
    errors.shape("unit_ids", batch.unit_ids, ["U"])
    errors.shape("session", batch.session, ["B"])
    ids, counts = np.unique(batch.unit_ids, return_counts=True)
    if (counts > 1).any():
        raise errors.must("unit_ids", "be distinct", f"{str(ids[counts > 1][0])!r} twice")


def _check_common(batch: WindowBatch) -> None:
    _dtype("query_times", batch.query_times, "f8", "float64")
    errors.shape("query_times", batch.query_times, [len(batch), "Q"])
    errors.finite("query_times", batch.query_times)
    if batch.query_task is not None:
        errors.shape("query_task", batch.query_task, list(batch.query_times.shape))
    if len(batch) and not len(batch.unit_ids):
        raise errors.must("unit_ids", "name at least one unit", "none")
    if batch.window_units is not None:
        _dtype("window_units", batch.window_units, "b", "bool")
        errors.shape("window_units", batch.window_units, [len(batch), len(batch.unit_ids)])
        empty = np.flatnonzero(~batch.window_units.any(axis=1))
        if empty.size:
            raise errors.must(
                "window_units", "keep at least one unit in every window", f"none in {empty[0]}"
            )


def _dtype(
    name: str, values: NDArray[Any], kind: str, called: str, todo: str = "convert it"
) -> None:
    """Refuse another dtype: ``kind`` lists dtype kinds, or is ``f8``."""
    if not (values.dtype == np.float64 if kind == "f8" else values.dtype.kind in kind):
        raise errors.must(name, f"be an array of {called}", values.dtype, todo)


def _in_range(name: str, values: NDArray[np.integer[Any]], size: int, of: str) -> None:
    bad = np.flatnonzero((values < 0) | (values >= size))
    if bad.size:
        got = f"{name}[{bad[0]}] = {values[bad[0]]}"
        raise errors.must(name, f"lie in 0..{size - 1}, the indices of {of}", got)


def _check_sorted_in_windows(times: NDArray[np.float64], window: NDArray[np.integer[Any]]) -> None:
    bad = np.flatnonzero((np.diff(times) < 0) & (np.diff(window) == 0))
    if bad.size:
        i = int(bad[0]) + 1
        got = f"times[{i}] = {times[i]} after {times[i - 1]} in window {window[i]}"
        raise errors.must("times", "be sorted within a window", got, "sort them first")


def _check_vocabularies(batch: WindowBatch, manifest: Manifest) -> None:
    rows("unit", batch.unit_ids, manifest.units)
    rows("session", batch.session, manifest.sessions)
    if manifest.tasks and batch.query_task is None:
        raise errors.must("query_task", "be given for a model with tasks", "none")
    if not manifest.tasks and batch.query_task is not None:
        raise errors.must("query_task", "be absent for a model with one read-out", "an array")
    if batch.query_task is not None:
        known = [task.name for task in manifest.tasks]
        for name in np.unique(batch.query_task):
            if name != NO_TASK:
                errors.choice("task", str(name), known)


def rows(what: str, ids: NDArray[np.str_], vocabulary: Mapping[str, int]) -> NDArray[np.int64]:
    """Return the table rows of ids.

    Raises:
        AttendriteError: Ids that the vocabulary lacks; says how many and names the first ones.
    """
    names: list[str] = ids.tolist()  # numpy's own strings are slow to look up
    try:
        return np.array([vocabulary[name] for name in names], dtype=np.int64)
    except KeyError:
        missing = list(dict.fromkeys(name for name in names if name not in vocabulary))
    shown = ", ".join(repr(name) for name in missing[:3])
    known = ", ".join(repr(name) for name in list(vocabulary)[:3])
    raise errors.must(
        f"every {what}",
        "be known to the model",
        f"{shown} ({len(missing)} of {len(set(names))} unknown)",
        f"the model knows {len(vocabulary)}: {known}, ...; see attendrite check",
    )


def task_rows(batch: WindowBatch, tasks: Sequence[Task]) -> NDArray[np.int64]:
    """Return the task id of each query, ``[B, Q]``; 0 where there is no query."""
    ids = {task.name: task.id for task in tasks} | {NO_TASK: 0}
    if batch.query_task is None:
        raise errors.must("query_task", "be given for a model with tasks", "none")
    lookup: Callable[[str], int] = ids.__getitem__
    flat = [lookup(str(name)) for name in batch.query_task.ravel()]
    return np.array(flat, dtype=np.int64).reshape(batch.query_task.shape)


def _common(batch: WindowBatch, start: int, stop: int) -> dict[str, Any]:
    """Return the windows ``start..stop-1`` of the arrays that have one row per window."""
    names = ("session", "query_times", "window_units", "query_task")
    arrays = {name: getattr(batch, name) for name in names}
    return {name: None if x is None else x[start:stop] for name, x in arrays.items()}


def _windows(
    starts: NDArray[np.float64], query_times: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return window starts, and the queries of each: ``[Q]`` holds for every window."""
    starts = np.asarray(starts, dtype=np.float64)
    errors.shape("starts", starts, ["B"])
    errors.finite("starts", starts)
    query_times = np.asarray(query_times, dtype=np.float64)
    if query_times.ndim == 1:
        query_times = np.broadcast_to(query_times, (len(starts), len(query_times)))
    return starts, query_times


def _ranges(
    times: NDArray[np.float64], starts: NDArray[np.float64], length: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    try:
        return window_ranges(times, starts, length)
    except ValueError as error:  # a kernel's, in the same words
        raise errors.AttendriteError(str(error)) from None


def _within(times: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Keep times inside ``0 <= t < length``, from which ticks put them half a tick out at most."""
    return np.clip(times, 0.0, np.nextafter(length, 0.0))

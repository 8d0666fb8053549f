"""Who takes part where spikes come live: one call takes one chunk and gives the counts of a bin.

Ours keeps its state, so a chunk may end anywhere. The peers have no state: each chunk is a whole
bin, made beforehand, and most look at the units only.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
from attendrite.kernels.bin_spikes import bin_spikes
from attendrite.kernels.stream_bins import OPERATION, StreamBinner
from binning_peers import Counts, misplaced
from spikes import population
from timing import Contestant

WIDTH = 0.02
BINS_PER_S = 50
CHECKED = 50
"""Chunks compared with the reference: for the slowest peer all of them would take a minute."""


class Stream:
    """Chunks of one bin each.

    Attributes:
        times: Of each chunk, float64, seconds; they grow from chunk to chunk.
        units: Of each chunk, int32.
        truth: Counts of all chunks by the reference, ``[chunks, N]``.
        n_units: Number of units ``N``.
    """

    def __init__(self, n_chunks: int, n_units: int = 1000) -> None:
        spikes = population(n_chunks * WIDTH, n_units)
        self.n_units = n_units
        self.truth = bin_spikes(
            spikes.times, spikes.units, width=WIDTH, n_bins=n_chunks, n_units=n_units,
            backend="reference",
        )  # fmt: skip
        ends = np.cumsum(self.truth.sum(1, dtype=np.int64))[:-1]
        self.times = [np.ascontiguousarray(x) for x in np.split(spikes.times, ends)]
        self.units = [np.ascontiguousarray(x) for x in np.split(spikes.units, ends)]

    def contestant(
        self, name: str, start: Callable[[], Callable[[Any, Any], Any]], **options: Any
    ) -> Contestant:
        """Return a contestant that takes the next chunk in each call.

        Args:
            name: Of the implementation.
            start: Returns what takes times and units of a chunk, ready for the first one.
            **options: Of :class:`Contestant`.
        """
        state: dict[str, Any] = {}

        def prepare() -> None:
            state["take"] = start()
            state["next"] = zip(self.times, self.units, strict=True).__next__

        def call() -> Any:
            return state["take"](*state["next"]())

        def error(_first: Any) -> float:
            take = start()
            chunks = islice(zip(self.times, self.units, strict=True), CHECKED)
            rows = [np.array(take(*chunk), ndmin=2) for chunk in chunks]  # copies: memory is kept
            found = np.concatenate(rows)
            return misplaced(found, self.truth[: len(found)]) if len(found) else np.inf

        return Contestant(name, call, error, prepare=prepare, **options)


def attendrite(task: Stream) -> list[Contestant]:
    """All backends, with fresh and with given output; the last bin of a stream stays open."""
    made = []
    for backend in OPERATION.backends:
        for given in (False, True):
            out = np.zeros((2, task.n_units), np.uint8) if given else None

            def start(backend: str = backend, out: Counts | None = out) -> Callable[..., Counts]:
                push = StreamBinner(task.n_units, width=WIDTH, backend=backend).push
                return push if out is None else lambda times, units: push(times, units, out)

            name = f"attendrite:{backend}{'+out' * given}"
            made.append(task.contestant(name, start, dtype="uint8"))
    return made


def numpy_bincount(task: Stream) -> Contestant:
    n = task.n_units
    return task.contestant(
        "numpy_bincount", lambda: lambda _, units: np.bincount(units, minlength=n), dtype="int64"
    )


def numpy_add_at(task: Stream) -> Contestant:
    def take(_: Any, units: Any) -> Counts:
        out = np.zeros(task.n_units, np.int32)
        np.add.at(out, units, 1)
        return out

    return task.contestant("numpy_add_at", lambda: take, dtype="int32")


def numpy_histogram(task: Stream) -> Contestant:
    n = task.n_units
    take = lambda _, units: np.histogram(units, n, (0, n))[0]  # noqa: E731
    return task.contestant("numpy_histogram", lambda: take, dtype="int64")


def torch_bincount(task: Stream) -> Contestant:
    import torch

    def take(_: Any, units: Any) -> Counts:
        return torch.bincount(torch.from_numpy(units), minlength=task.n_units).numpy()

    return task.contestant("torch_bincount", lambda: take, dtype="int64", packages=("torch",))


def boost_histogram(task: Stream) -> Contestant:
    import boost_histogram as bh

    histogram = bh.Histogram(
        bh.axis.Integer(0, task.n_units, underflow=False, overflow=False),
        storage=bh.storage.Int64(),
    )

    def take(_: Any, units: Any) -> Counts:
        histogram.reset()
        histogram.fill(units)
        view: Counts = histogram.view()
        return view

    return task.contestant(
        "boost_histogram", lambda: take, dtype="int64", packages=("boost-histogram",)
    )


def torch_brain(task: Stream) -> Contestant:
    from torch_brain.data import Interval, IrregularTimeSeries
    from torch_brain.utils.binning import bin_spikes as bin_theirs

    def start() -> Callable[[Any, Any], Counts]:
        chunk = iter(range(len(task.times)))

        def take(times: Any, units: Any) -> Counts:
            first = next(chunk) / BINS_PER_S  # as exact as the times
            series = IrregularTimeSeries(
                timestamps=times, unit_index=units, domain=Interval(first, first + WIDTH)
            )
            counts: Counts = bin_theirs(series, task.n_units, WIDTH, dtype=np.uint8)
            return counts

        return take

    return task.contestant(
        "torch_brain", start, tolerance=0.01, dtype="uint8", packages=("torch_brain",)
    )


def pynapple(task: Stream) -> Contestant:
    """Makes a group of every chunk: there is no other way in."""
    import pynapple as nap

    def start() -> Callable[[Any, Any], Counts]:
        chunk = iter(range(len(task.times)))

        def take(times: Any, units: Any) -> Counts:
            first = next(chunk) / BINS_PER_S  # as exact as the times
            support = nap.IntervalSet(first, first + WIDTH)
            by_unit = {u: nap.Ts(times[units == u]) for u in range(task.n_units)}
            group = nap.TsGroup(by_unit, time_support=support)
            counts: Counts = group.count(WIDTH, dtype=np.uint8).values
            return counts

        return take

    return task.contestant("pynapple", start, tolerance=None, dtype="uint8", packages=("pynapple",))


def numba_chunk(task: Stream) -> Contestant:
    from numba import njit

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def count(units, out):  # type: ignore[no-untyped-def]
        out[:] = 0
        for i in range(units.size):
            out[units[i]] += 1

    out = np.zeros(task.n_units, np.uint16)

    def take(_: Any, units: Any) -> Counts:
        count(units, out)
        return out

    return task.contestant("numba_chunk+out", lambda: take, dtype="uint16", packages=("numba",))


CONTESTANTS = (
    attendrite, numpy_bincount, numpy_add_at, numpy_histogram, torch_bincount, boost_histogram,
    torch_brain, pynapple, numba_chunk,
)  # fmt: skip

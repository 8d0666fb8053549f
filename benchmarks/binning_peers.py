"""Who takes part in the binning suite: libraries, and loops and rules that are written often.

Each function takes a task and returns contestants; it imports the library it is named after.
``[T, N]`` is time-major, bins by units; ``transposed`` says that a peer writes ``[N, T]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from attendrite.kernels.bin_spikes import bin_spikes
from numpy.typing import NDArray
from spikes import Population
from timing import Contestant

Counts = NDArray[Any]
EDGE_SPIKES = 0.01
"""Largest share of spikes that a peer may misplace where its speed is what is measured."""


def misplaced(found: Counts, truth: Counts) -> float:
    """Return the share of spikes that lie elsewhere than in the truth, ``[T, N]`` both."""
    if found.shape != truth.shape:
        return np.inf
    off = 0
    for row in range(0, len(truth), 4096):  # whole arrays of int64 would not fit
        part = slice(row, row + 4096)
        off += int(np.abs(found[part].astype(np.int64) - truth[part]).sum())
    return off / 2 / max(1, int(truth.sum(dtype=np.int64)))


@dataclass
class Task:
    """One binning task.

    Attributes:
        spikes: What is binned.
        width: Bin width, seconds.
        n_bins: Number of bins ``T``, to the end of the recording.
        threads: Threads that implementations may use.
        tolerance: Largest share of spikes that a peer may misplace; ``None``: that is measured.
    """

    spikes: Population
    width: float
    n_bins: int
    threads: tuple[int, ...] = (1,)
    tolerance: float | None = EDGE_SPIKES

    @cached_property
    def truth(self) -> Counts:
        """Counts by the reference, ``[T, N]``, uint8."""
        return bin_spikes(
            self.spikes.times, self.spikes.units, width=self.width, n_bins=self.n_bins,
            n_units=self.spikes.n_units, backend="reference",
        )  # fmt: skip

    def error(self, transposed: bool = False) -> Callable[[Counts], float]:
        """Return the share of misplaced spikes of a result ``[T, N]``, or ``[N, T]``."""

        return lambda found: misplaced(found.T if transposed else found, self.truth)

    def peer(self, name: str, call: Callable[[], Any], dtype: str, **options: Any) -> Contestant:
        """Return a peer that writes ``[T, N]``, or ``[N, T]`` with ``transposed=True``."""
        judge = self.error(options.pop("transposed", False))
        unpack = options.pop("unpack", lambda result: result)
        return Contestant(
            name, call, lambda result: judge(unpack(result)), self.tolerance, dtype, **options
        )


# Libraries that read flat spikes


def numpy_bincount(task: Task) -> Contestant:
    """The usual way: a key for bin and unit, counted."""
    s, rate = task.spikes, 1 / task.width

    def call() -> Counts:
        key = (s.times * rate).astype(np.int64) * s.n_units + s.units
        return np.bincount(key, minlength=task.n_bins * s.n_units).reshape(-1, s.n_units)

    return task.peer("numpy_bincount", call, "int64")


def numpy_bincount_to_units(task: Task) -> Contestant:
    """The same, with the key for unit-major counts."""
    s, rate = task.spikes, 1 / task.width

    def call() -> Counts:
        key = s.units.astype(np.int64) * task.n_bins + (s.times * rate).astype(np.int64)
        return np.bincount(key, minlength=task.n_bins * s.n_units).reshape(-1, task.n_bins)

    return task.peer("numpy_bincount", call, "int64", transposed=True)


def numpy_add_at(task: Task) -> Contestant:
    s, rate = task.spikes, 1 / task.width

    def call() -> Counts:
        out = np.zeros((task.n_bins, s.n_units), np.int32)
        np.add.at(out, ((s.times * rate).astype(np.int64), s.units), 1)
        return out

    return task.peer("numpy_add_at", call, "int32")


def torch_bincount(task: Task) -> Contestant:
    import torch

    s, rate = task.spikes, 1 / task.width
    times, units = torch.from_numpy(s.times), torch.from_numpy(s.units)

    def call() -> Counts:
        key = (times * rate).long() * s.n_units + units
        return torch.bincount(key, minlength=task.n_bins * s.n_units).view(-1, s.n_units).numpy()

    return task.peer("torch_bincount", call, "int64", packages=("torch",))


def fast_histogram(task: Task) -> Contestant:
    from fast_histogram import histogram2d

    s = task.spikes
    bins, extent = (task.n_bins, s.n_units), ((0, s.seconds), (-0.5, s.n_units - 0.5))
    call = partial(histogram2d, s.times, s.units, bins=bins, range=extent)
    return task.peer("fast_histogram", call, "float64", packages=("fast-histogram",))


def boost_histogram(task: Task) -> list[Contestant]:
    import boost_histogram as bh

    s = task.spikes
    closed = {"underflow": False, "overflow": False}

    def call(threads: int) -> Counts:
        axes = (
            bh.axis.Integer(0, s.n_units, **closed),
            bh.axis.Regular(task.n_bins, 0, s.seconds, **closed),
        )
        histogram = bh.Histogram(*axes, storage=bh.storage.Int64())
        histogram.fill(s.units, s.times, threads=threads)
        view: Counts = histogram.view()
        return view

    return [
        task.peer(
            "boost_histogram", partial(call, n), "int64", transposed=True, threads=n,
            packages=("boost-histogram",),
        )
        for n in task.threads
    ]  # fmt: skip


def torch_brain(task: Task) -> Contestant:
    from torch_brain.data import Interval, IrregularTimeSeries
    from torch_brain.utils.binning import bin_spikes

    s = task.spikes
    domain = Interval(0.0, s.seconds)
    series = IrregularTimeSeries(timestamps=s.times, unit_index=s.units, domain=domain)
    call = partial(bin_spikes, series, s.n_units, task.width, dtype=np.uint8)
    return task.peer("torch_brain", call, "uint8", packages=("torch_brain",))


def numba_flat(task: Task) -> list[Contestant]:
    """A compiled loop, into fresh memory and into memory kept."""
    from numba import njit

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def count(times, units, rate, out):  # type: ignore[no-untyped-def]
        for i in range(times.size):
            k = int(times[i] * rate)
            if 0 <= k < out.shape[0]:
                out[k, units[i]] += 1

    s = task.spikes
    return numba_pair(
        task, "numba_flat", (task.n_bins, s.n_units),
        lambda out: count(s.times, s.units, 1 / task.width, out),
    )  # fmt: skip


def numba_flat_to_units(task: Task) -> list[Contestant]:
    """The same into unit-major counts: a spike touches another row than the one before."""
    from numba import njit

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def count(times, units, rate, out):  # type: ignore[no-untyped-def]
        for i in range(times.size):
            k = int(times[i] * rate)
            if 0 <= k < out.shape[1]:
                out[units[i], k] += 1

    s = task.spikes
    return numba_pair(
        task, "numba_flat", (s.n_units, task.n_bins),
        lambda out: count(s.times, s.units, 1 / task.width, out), transposed=True,
    )  # fmt: skip


def numba_pair(
    task: Task, name: str, shape: tuple[int, int], count: Callable[[Counts], None], **options: Any
) -> list[Contestant]:
    """Return a loop that counts into fresh zeros, and one that clears the memory it is given."""
    kept = np.zeros(shape, np.uint8)

    def fresh() -> Counts:
        out = np.zeros(shape, np.uint8)
        count(out)
        return out

    def cleared() -> Counts:
        kept.fill(0)
        count(kept)
        return kept

    return [
        task.peer(name, fresh, "uint8", packages=("numba",), **options),
        task.peer(f"{name}+out", cleared, "uint8", packages=("numba",), **options),
    ]


# Libraries that read times by unit


def numpy_histogram(task: Task) -> Contestant:
    extent = (0, task.spikes.seconds)

    def call() -> Counts:
        rows = [np.histogram(x, task.n_bins, extent)[0] for x in task.spikes.trains]
        return np.stack(rows, dtype=np.uint16, casting="unsafe")

    return task.peer("numpy_histogram", call, "uint16", transposed=True)


def numpy_histogram_to_bins(task: Task) -> Contestant:
    extent = (0, task.spikes.seconds)

    def call() -> Counts:
        columns = [np.histogram(x, task.n_bins, extent)[0] for x in task.spikes.trains]
        return np.stack(columns, axis=1, dtype=np.uint16, casting="unsafe")

    return task.peer("numpy_histogram", call, "uint16")


def numpy_searchsorted(task: Task) -> Contestant:
    edges = np.arange(task.n_bins + 1) * task.width

    def call() -> Counts:
        rows = [np.diff(np.searchsorted(x, edges)) for x in task.spikes.trains]
        return np.stack(rows, dtype=np.uint16, casting="unsafe")

    return task.peer("numpy_searchsorted", call, "uint16", transposed=True)


def elephant(task: Task, **options: Any) -> Contestant:
    """Sparse, as it is stored; the trains are made before."""
    from elephant import utils
    from elephant.conversion import BinnedSpikeTrain
    from neo import SpikeTrain
    from quantities import s

    utils.logger.setLevel("ERROR")  # else every call says how many spikes on edges it moved
    stop = task.spikes.seconds
    trains = [SpikeTrain(x, units="s", t_start=0.0, t_stop=stop) for x in task.spikes.trains]
    name = "elephant" + "".join(f"({key}={value})" for key, value in options.items())

    def call() -> Any:
        return BinnedSpikeTrain(trains, bin_size=task.width * s, **options).sparse_matrix

    unpack = lambda matrix: matrix.toarray()  # noqa: E731
    packages = ("elephant", "neo")
    return task.peer(name, call, "int32", transposed=True, unpack=unpack, packages=packages)


def elephant_exact(task: Task) -> Contestant:
    """Without its tolerance for rounding."""
    return elephant(task, tolerance=None)


def pynapple(task: Task) -> Contestant:
    """The group is made before."""
    import pynapple as nap

    support = nap.IntervalSet(0, task.spikes.seconds)
    units = {u: nap.Ts(x) for u, x in enumerate(task.spikes.trains)}
    group = nap.TsGroup(units, time_support=support)
    call = partial(group.count, task.width, dtype=np.uint8)
    return task.peer("pynapple", call, "uint8", unpack=lambda c: c.values, packages=("pynapple",))


def numba_by_unit(task: Task) -> list[Contestant]:
    from numba import njit

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def count(times, offsets, rate, out):  # type: ignore[no-untyped-def]
        for u in range(offsets.size - 1):
            for i in range(offsets[u], offsets[u + 1]):
                k = int(times[i] * rate)
                if 0 <= k < out.shape[1]:
                    out[u, k] += 1

    times, offsets = task.spikes.by_unit
    return numba_pair(
        task, "numba_by_unit", (task.spikes.n_units, task.n_bins),
        lambda out: count(times, offsets, 1 / task.width, out), transposed=True,
    )  # fmt: skip


def numba_units_to_bins(task: Task) -> list[Contestant]:
    from numba import njit

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def count(times, offsets, rate, out):  # type: ignore[no-untyped-def]
        for u in range(offsets.size - 1):
            for i in range(offsets[u], offsets[u + 1]):
                k = int(times[i] * rate)
                if 0 <= k < out.shape[0]:
                    out[k, u] += 1

    times, offsets = task.spikes.by_unit
    return numba_pair(
        task, "numba_by_unit", (task.n_bins, task.spikes.n_units),
        lambda out: count(times, offsets, 1 / task.width, out),
    )  # fmt: skip


# Spikes on edges: rules that are written often, beside the libraries


def on_edges(width: float, small: bool) -> Task:
    """One unit, one spike on every edge at a sample of 30 kHz, for an hour."""
    n_bins = round((2 if small else 3600) / width)
    times = np.arange(n_bins) * round(30_000 * width) / 30_000
    spikes = Population(times, np.zeros(n_bins, np.int32), 1, n_bins * width)
    return Task(spikes, width, n_bins, tolerance=None)


def rules(task: Task) -> list[Contestant]:
    t, w = task.spikes.times, task.width
    edges = np.arange(task.n_bins + 1) * w
    found = {
        "numpy_floor_divide": lambda: t // w,
        "numpy_floor(t/w)": lambda: np.floor(t / w),
        "numpy_floor(t*(1/w))": lambda: np.floor(t * (1 / w)),
        "numpy_floor(t*(1/w)+1e-6)": lambda: np.floor(t * (1 / w) + 1e-6),
        "numpy_float32": lambda: np.floor(t.astype(np.float32) * np.float32(1 / w)),
        "numpy_searchsorted": lambda: np.searchsorted(edges, t, "right") - 1,
    }

    def counted(index: Callable[[], NDArray[Any]]) -> Counts:
        bins = np.clip(index().astype(np.int64), 0, task.n_bins - 1)
        n_units = task.spikes.n_units
        key = bins * n_units + task.spikes.units
        return np.bincount(key, minlength=task.n_bins * n_units).reshape(-1, n_units)

    return [task.peer(name, partial(counted, rule), "int64") for name, rule in found.items()]


# Sparse


def scipy(task: Task) -> Contestant:
    from scipy.sparse import coo_array

    s, rate = task.spikes, 1 / task.width
    ones, shape = np.ones(s.times.size, np.uint16), (task.n_bins, s.n_units)

    def call() -> Any:
        return coo_array((ones, ((s.times * rate).astype(np.int32), s.units)), shape).tocsr()

    unpack = lambda matrix: matrix.toarray()  # noqa: E731
    return task.peer("scipy", call, "uint16", unpack=unpack, packages=("scipy",))


def numba_csr(task: Task) -> Contestant:
    """Equal neighbours of sorted times counted, unit by unit."""
    from numba import njit
    from scipy.sparse import csr_array

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def count(times, offsets, rate, indptr, indices, counts):  # type: ignore[no-untyped-def]
        n = 0
        for u in range(offsets.size - 1):
            last = -1
            for i in range(offsets[u], offsets[u + 1]):
                k = int(times[i] * rate)
                if k != last:
                    indices[n], counts[n] = k, 0
                    n += 1
                    last = k
                counts[n - 1] += 1
            indptr[u + 1] = n
        return n

    times, offsets = task.spikes.by_unit

    def call() -> tuple[Counts, Counts, Counts]:
        indptr = np.zeros(offsets.size, np.int64)
        indices, counts = np.empty(times.size, np.int32), np.empty(times.size, np.uint8)
        n = count(times, offsets, 1 / task.width, indptr, indices, counts)
        return counts[:n], indices[:n], indptr

    shape = (task.spikes.n_units, task.n_bins)
    unpack = lambda found: csr_array(found, shape).toarray()  # noqa: E731
    return task.peer(
        "numba_csr", call, "uint8", transposed=True, unpack=unpack, packages=("numba",)
    )

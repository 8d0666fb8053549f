"""Binning spikes: dense, sparse, streaming, and spikes that lie on the edges of bins.

Libraries differ in the layout they read and write, so each case fixes the input and every peer
writes what it writes best. Times lie on a grid of 30 kHz, as recorded ones do: rules of
floating-point division misplace some of the spikes on edges, and ``error`` is the share of all
spikes misplaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import binning_peers as by
import binning_stream
import numpy as np
from attendrite.kernels import bin_sparse as sparse
from attendrite.kernels import bin_spikes as dense
from binning_peers import Counts, Task
from peers import join
from spikes import Population, population
from timing import Case, Contestant

if TYPE_CHECKING:
    from run import Options


def cases(options: Options) -> Iterator[Case]:
    """Yield dense, sparse, streaming and edge cases."""
    coarse = population(4.0, 20) if options.quick else population(720.0)
    fine = coarse if options.quick else population(120.0)
    for spikes, width, name in ((coarse, 0.02, "20ms"), (fine, 0.001, "1ms")):
        task = Task(spikes, width, round(spikes.seconds / width), options.thread_counts)
        for variant, builders in DENSE.items():
            yield case(f"binning/dense_{name}{variant}", task, builders)
    for variant, builders in SPARSE.items():  # the finer task
        yield case(f"binning/csr_1ms{variant}", task, builders)
    yield streaming(options.quick)
    for width, name in ((0.001, "1ms"), (0.01, "10ms"), (0.02, "20ms")):
        yield case(f"binning/edges_{name}", on_edges(width, options.quick), EDGES)


def case(name: str, task: Task, builders: tuple[Callable[[Task], Any], ...]) -> Case:
    made = Case(name, task.spikes.times.size / 1e6, "spikes")
    return join(made, [partial(build, task) for build in builders])


def on_edges(width: float, small: bool) -> Task:
    """One spike on every edge, at a sample of 30 kHz, for an hour.

    Four units take turns: a spike in a neighbouring bin is seen although its own bin gets another.
    """
    n_bins = round((2 if small else 3600) / width)
    edges = np.arange(n_bins)
    times = edges * round(30_000 * width) / 30_000
    spikes = Population(times, (edges % 4).astype(np.int32), 4, n_bins * width)
    return Task(spikes, width, n_bins, tolerance=None)


def flat_to_bins(task: Task) -> list[Contestant]:
    return ours(task, from_flat(task), "time")


def flat_to_units(task: Task) -> list[Contestant]:
    return ours(task, from_flat(task), "unit")


def units_to_units(task: Task) -> list[Contestant]:
    times, offsets = task.spikes.by_unit
    count = partial(dense.bin_spikes_by_unit, times, offsets, width=task.width, n_bins=task.n_bins)
    return ours(task, count, "unit")


def units_to_bins(task: Task) -> list[Contestant]:
    times, offsets = task.spikes.by_unit
    count = partial(dense.bin_spikes_by_unit, times, offsets, width=task.width, n_bins=task.n_bins)
    return ours(task, count, "time")


def from_flat(task: Task) -> Callable[..., Counts]:
    s = task.spikes
    return partial(
        dense.bin_spikes, s.times, s.units, width=task.width, n_bins=task.n_bins, n_units=s.n_units
    )


def ours(task: Task, count: Callable[..., Counts], layout: str) -> list[Contestant]:
    """All backends, with fresh and with given output, for all numbers of threads."""
    shape = (task.n_bins, task.spikes.n_units)
    judge = task.error(transposed=layout == "unit")
    made = []
    for backend in dense.OPERATION.backends:
        truth = backend == "reference"  # once, for scale
        for threads in (1,) if truth else task.threads:
            for given in (False,) if truth else (False, True):
                out = np.zeros(shape if layout == "time" else shape[::-1], np.uint8)
                told = {"backend": backend, "threads": threads, "out": out if given else None}
                call = partial(count, layout=layout, **told)
                name = f"attendrite:{backend}{'+out' * given}"
                made.append(Contestant(name, call, judge, dtype="uint8", threads=threads))
    return made


def flat_to_csr(task: Task) -> list[Contestant]:
    s = task.spikes
    count = partial(
        sparse.bin_sparse, s.times, s.units, width=task.width, n_bins=task.n_bins, n_units=s.n_units
    )
    return csr(task, count, "bins")


def units_to_csr(task: Task) -> list[Contestant]:
    times, offsets = task.spikes.by_unit
    count = partial(sparse.bin_sparse_by_unit, times, offsets, width=task.width, n_bins=task.n_bins)
    return csr(task, count, "units")


def csr(task: Task, count: Callable[..., Any], rows: str) -> list[Contestant]:
    """All backends, for all numbers of threads."""
    judge = task.error(transposed=rows == "units")
    made = []
    for backend in sparse.OPERATION.backends:
        for threads in (1,) if backend == "reference" else task.threads:
            call = partial(count, rows=rows, backend=backend, threads=threads)
            name = f"attendrite:{backend}"
            made.append(Contestant(name, call, lambda s: judge(filled(s)), 0.0, "uint8", threads))
    return made


def filled(matrix: sparse.SparseCounts) -> Counts:
    """Return a sparse matrix as a dense one."""
    out = np.zeros(matrix.shape, matrix.counts.dtype)
    out[np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), matrix.indices] = (
        matrix.counts
    )
    return out


def streaming(small: bool) -> Case:
    """One chunk of 20 ms: 400 spikes of 1000 units, through the Python call."""
    task = binning_stream.Stream(n_chunks=20 if small else 500)
    made = Case(
        "binning/stream_20ms",
        task.units[0].size / 1e6,
        "spikes",
        rounds=41,
        block=len(task.times) - 1,
    )
    return join(made, [partial(build, task) for build in binning_stream.CONTESTANTS])


DENSE = {
    "": (
        flat_to_bins, by.numpy_bincount, by.numpy_add_at, by.torch_bincount, by.fast_histogram,
        by.boost_histogram, by.torch_brain, by.numba_flat,
    ),
    "/flat_to_unit_major": (flat_to_units, by.numpy_bincount_to_units, by.numba_flat_to_units),
    "/unit_major": (
        units_to_units, by.numpy_histogram, by.numpy_searchsorted, by.elephant, by.pynapple,
        by.numba_by_unit,
    ),
    "/unit_to_time_major": (
        units_to_bins, by.numpy_histogram_to_bins, by.pynapple, by.numba_units_to_bins,
    ),
}  # fmt: skip
EDGES = (
    flat_to_bins, by.rules, by.numpy_histogram, by.torch_brain, by.fast_histogram,
    by.boost_histogram, by.elephant, by.elephant_exact, by.pynapple,
)  # fmt: skip
SPARSE = {
    "": (flat_to_csr, by.scipy),
    "/unit_major": (units_to_csr, by.elephant, by.numba_csr),
}

"""10 M spikes of 1000 units sorted by unit, and merged back into time order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from attendrite.kernels.group_by_unit import OPERATION, group_by_unit, merge_units
from spikes import population
from timing import Case, Contestant

if TYPE_CHECKING:
    from run import Options

Arrays = tuple[Any, ...]


def cases(options: Options) -> Iterator[Case]:
    """Yield ``group/by_unit`` and ``group/merge``."""
    spikes = population(4.0, 20) if options.quick else population(500.0)
    times, offsets = spikes.by_unit

    def argsort_units() -> Arrays:
        counts = np.bincount(spikes.units, minlength=spikes.n_units)
        order = np.argsort(spikes.units, kind="stable")
        return spikes.times[order], np.concatenate([[0], np.cumsum(counts)])

    def argsort_times() -> Arrays:
        order = np.argsort(times, kind="stable")
        return times[order], np.repeat(np.arange(spikes.n_units), np.diff(offsets))[order]

    group = partial(group_by_unit, spikes.times, spikes.units, spikes.n_units)
    merge = partial(merge_units, times, offsets)
    for name, ours, argsort in (("by_unit", group, argsort_units), ("merge", merge, argsort_times)):
        judge = partial(differing, ours(backend="reference"))
        rows = [Contestant("numpy_argsort", argsort, judge)]
        rows += contestants(ours, judge, options.thread_counts)
        yield Case(f"group/{name}", times.size / 1e6, "spikes", contestants=rows)


def contestants(
    ours: Callable[..., Arrays], judge: Callable[[Arrays], float], threads: tuple[int, ...]
) -> list[Contestant]:
    """All backends but the reference, which is what numpy does."""
    return [
        Contestant(f"attendrite:{name}", partial(ours, backend=name, threads=n), judge, threads=n)
        for name in OPERATION.backends
        if name != "reference"
        for n in threads
    ]


def differing(truth: Arrays, found: Arrays) -> float:
    """Return the share of values that differ."""
    return float(np.mean([np.mean(a != b) for a, b in zip(found, truth, strict=True)]))

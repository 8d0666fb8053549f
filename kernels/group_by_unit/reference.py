"""Grouping by a stable sort on the unit, merging by a stable sort on the time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .. import _arrays

PRIORITY = 0


def refuses(**_request: object) -> str | None:
    """Serve every request."""
    return None


def run(
    times: NDArray[np.float64], units: NDArray[np.int32], n_units: int, *, threads: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sort by unit; arguments as in :func:`group_by_unit`."""
    check(times, units, n_units)
    counts = np.bincount(units, minlength=n_units)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return times[np.argsort(units, kind="stable")], offsets


def merge(
    times: NDArray[np.float64], offsets: NDArray[np.int64], *, threads: int
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Sort by time; arguments as in :func:`merge_units`."""
    check_units(times, offsets)
    units = np.repeat(np.arange(offsets.size - 1, dtype=np.int32), np.diff(offsets))
    order = np.argsort(times, kind="stable")
    return times[order], units[order]


def check(times: NDArray[np.float64], units: NDArray[np.int32], n_units: int) -> None:
    """Refuse flat spikes that are not finite, unsorted or of unknown units."""
    _arrays.finite_sorted("times", times)
    _arrays.units_known(units, n_units)


def check_units(times: NDArray[np.float64], offsets: NDArray[np.int64]) -> None:
    """Refuse times that are not finite or unsorted within a unit."""
    for start, stop in pairwise(offsets.tolist()):
        _arrays.finite_sorted("times", times[start:stop], first=start)

"""C++: a counting sort in two passes; merging by slices of time, each radix-sorted in the cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ... import _core
from . import reference

PRIORITY = 10


def refuses(**_request: object) -> str | None:
    """Serve every request."""
    return None


def run(
    times: NDArray[np.float64], units: NDArray[np.int32], n_units: int, *, threads: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sort by unit; arguments as in :func:`group_by_unit`."""
    by_unit, offsets = np.empty(times.size), np.empty(n_units + 1, np.int64)
    if not _core.group_by_unit(times, units, n_units, by_unit, offsets, threads):
        reference.check(times, units, n_units)
    return by_unit, offsets


def merge(
    times: NDArray[np.float64], offsets: NDArray[np.int64], *, threads: int
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Sort by time; arguments as in :func:`merge_units`."""
    merged, units = np.empty(times.size), np.empty(times.size, np.int32)
    if not _core.merge_units(times, offsets, merged, units, threads):
        reference.check_units(times, offsets)
    return merged, units

"""Split time-ordered spikes by unit, and merge units back into time order.

Two layouts hold the same spikes: *flat*, sorted by time with a unit per spike, and *unit-major*,
the times of unit 0, then those of unit 1, ..., with offsets. Both directions are stable, so they
are inverse to each other up to the order of equal times (merged: by unit).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _arrays
from .._operation import Operation

__all__ = ["OPERATION", "group_by_unit", "merge_units"]

OPERATION = Operation(__name__)


def group_by_unit(
    times: NDArray[np.float64],
    units: NDArray[np.integer[Any]],
    n_units: int,
    *,
    threads: int = 1,
    backend: str | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sort spikes by unit, keeping the time order within each unit.

    Args:
        times: Spike times, ``[n]``, float64, seconds, sorted, finite. Not modified, not kept.
        units: Unit of each spike, ``[n]``, int32 (other integers are converted), in ``0..N-1``.
        n_units: Number of units ``N``.
        threads: Threads to use; the result does not depend on it.
        backend: A backend by name; ``None`` takes the fastest one.

    Returns:
        Times by unit, ``[n]``, float64, and offsets, ``[N+1]``, int64: unit ``u`` has
        ``times[offsets[u]:offsets[u+1]]``. Both newly allocated.

    Raises:
        TypeError: Times are not float64, or units not integers.
        ValueError: Times unsorted or not finite, a unit out of range, or lengths that differ.

    Example:
        >>> times, offsets = group_by_unit(np.array([0.1, 0.2, 0.4]), np.array([1, 0, 1]), 2)
        >>> times, offsets
        (array([0.2, 0.1, 0.4]), array([0, 1, 3]))
    """
    times = _arrays.float64("times", times)
    units = _arrays.int32("units", units, times.shape[0])
    _check_counts(n_units, threads)
    module = OPERATION.choose(backend, n_units=n_units)
    grouped: tuple[NDArray[np.float64], NDArray[np.int64]] = module.run(
        times, units, n_units, threads=threads
    )
    return grouped


def merge_units(
    times: NDArray[np.float64],
    offsets: NDArray[np.integer[Any]],
    *,
    threads: int = 1,
    backend: str | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Merge the sorted spike times of many units into one time order; the inverse of grouping.

    Args:
        times: Times by unit, ``[n]``, float64, seconds, finite, sorted within each unit.
            Not modified, not kept.
        offsets: ``[N+1]``, int64 (other integers are converted), from 0 to ``n``, never
            decreasing: unit ``u`` has ``times[offsets[u]:offsets[u+1]]``.
        threads: Threads to use; the result does not depend on it.
        backend: A backend by name; ``None`` takes the fastest one.

    Returns:
        Times, ``[n]``, float64, sorted, and the unit of each, ``[n]``, int32; equal times are in
        the order of their units. Both newly allocated.

    Raises:
        TypeError: Times are not float64, or offsets not integers.
        ValueError: Times not finite or unsorted within a unit, or offsets that do not span them.

    Example:
        >>> merge_units(np.array([0.2, 0.1, 0.4]), np.array([0, 1, 3]))
        (array([0.1, 0.2, 0.4]), array([1, 0, 1], dtype=int32))
    """
    times = _arrays.float64("times", times)
    offsets = _arrays.int64("offsets", offsets)
    _check_offsets(offsets, times.shape[0])
    _check_counts(offsets.shape[0] - 1, threads)
    module = OPERATION.choose(backend, n_units=offsets.shape[0] - 1)
    merged: tuple[NDArray[np.float64], NDArray[np.int32]] = module.merge(
        times, offsets, threads=threads
    )
    return merged


def _check_counts(n_units: int, threads: int) -> None:
    if not 0 <= n_units <= np.iinfo(np.int32).max:
        raise _arrays.must("n_units", "lie in 0..2147483647", n_units)
    _arrays.positive("threads", threads)


def _check_offsets(offsets: NDArray[np.int64], n: int) -> None:
    if offsets.size == 0 or offsets[0] != 0 or offsets[-1] != n:
        got = f"{offsets[0]}..{offsets[-1]}" if offsets.size else "none"
        raise _arrays.must("offsets", f"run from 0 to the number of times {n}", got)
    bad = np.flatnonzero(np.diff(offsets) < 0)
    if bad.size:
        i = int(bad[0]) + 1
        raise _arrays.must("offsets", "never decrease", f"offsets[{i}] = {offsets[i]}")

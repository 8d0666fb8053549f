"""The words for spikes that cannot be tokenized."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import _arrays


def check_window(
    times: NDArray[np.float64],
    units: NDArray[np.int32],
    *,
    window: int,
    begin: int,
    end: int,
    origin: float,
    length: float,
    n_units: int,
    tick_rate: float,
) -> None:
    """Refuse a window with bad spikes; arguments as in :func:`tokenize_poyo`, for one window.

    Raises:
        ValueError: With the first bad index.
    """
    inside = times[begin:end]
    _arrays.finite_sorted("times", inside, first=begin)
    _arrays.units_known(units[begin:end], n_units, first=begin)
    relative = inside - origin
    bad = np.flatnonzero((relative < -1.0 / tick_rate) | (relative >= length))
    if bad.size:
        i = int(bad[0])
        raise _arrays.must(
            "times",
            f"lie in their window, {origin} <= time < {origin + length}",
            f"times[{begin + i}] = {inside[i]} in window {window}",
            "find the spikes of windows with window_ranges",
        )

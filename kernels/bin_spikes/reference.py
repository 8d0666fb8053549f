"""The truth: bins by the integer-tick rule, counts by one bincount in int64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._bins import LARGEST, Dropped, Grid, Spikes, bins_of, overflow

PRIORITY = 0


def refuses(**_request: object) -> str | None:
    """Serve every request."""
    return None


def run(
    spikes: Spikes, bins: Grid, *, layout: str, drop: bool, out: NDArray[Any], threads: int
) -> Dropped:
    """Count into ``out``; arguments as in :func:`bin_spikes`, one thread whatever is asked for."""
    found, dropped = bins_of(spikes, bins, drop=drop)
    inside = found >= 0
    cells = found[inside] * spikes.n_units + spikes.each_unit()[inside]
    counts = np.bincount(cells, minlength=bins.n_bins * spikes.n_units)
    counts = counts.reshape(bins.n_bins, spikes.n_units)
    too_many = np.argwhere(counts > LARGEST[out.dtype])
    if too_many.size:
        index, unit = map(int, too_many[0])
        raise overflow(out.dtype, counts[index, unit], unit, index)
    out[...] = counts if layout == "time" else counts.T
    return dropped

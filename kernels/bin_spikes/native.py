"""C++: one pass, checks included; walks the edges of sorted spikes instead of dividing."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ... import _core
from .._bins import Dropped, FlatSpikes, Grid, Spikes

PRIORITY = 10


def refuses(**_request: object) -> str | None:
    """Serve every request."""
    return None


def run(
    spikes: Spikes, bins: Grid, *, layout: str, drop: bool, out: NDArray[Any], threads: int
) -> Dropped:
    """Count into ``out``; arguments as in :func:`bin_spikes`."""
    grid = _core.Grid(*bins)
    rest = (layout == "time", drop, threads, out)
    if isinstance(spikes, FlatSpikes):
        found = _core.bin_dense(spikes.times, spikes.units, spikes.n_units, grid, *rest)
    else:
        found = _core.bin_dense_by_unit(spikes.times, spikes.offsets, grid, *rest)
    return Dropped(*found)

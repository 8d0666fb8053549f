"""C++: rows from sorted spikes without a sort; fine bins are counted in a row of bytes first."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _core
from .._bins import Dropped, FlatSpikes, Grid, Spikes

PRIORITY = 10


def refuses(**_request: object) -> str | None:
    """Serve every request."""
    return None


def run(
    spikes: Spikes, bins: Grid, *, dtype: np.dtype[Any], rows: str, drop: bool, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any], Dropped]:
    """Return indptr, indices, counts and what was dropped; arguments as in :func:`bin_sparse`."""
    n = spikes.times.size
    n_rows = bins.n_bins if rows == "bins" else spikes.n_units
    # One entry per spike at most: what stays unused is never touched, and given back below.
    indptr, indices, counts = (
        np.empty(n_rows + 1, np.int64),
        np.empty(n, np.int32),
        np.empty(n, dtype),
    )
    grid = _core.Grid(*bins)
    rest = (rows == "bins", drop, threads, indptr, indices, counts)
    if isinstance(spikes, FlatSpikes):
        found = _core.bin_sparse(spikes.times, spikes.units, spikes.n_units, grid, *rest)
    else:
        found = _core.bin_sparse_by_unit(spikes.times, spikes.offsets, grid, *rest)
    entries = int(indptr[-1])
    indices.resize(entries, refcheck=False)
    counts.resize(entries, refcheck=False)
    return indptr, indices, counts, Dropped(*found)

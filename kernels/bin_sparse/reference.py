"""The truth: bins by the integer-tick rule, entries by one ``np.unique`` of int64 cell numbers."""

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
    spikes: Spikes, bins: Grid, *, dtype: np.dtype[Any], rows: str, drop: bool, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any], Dropped]:
    """Return indptr, indices, counts and what was dropped; arguments as in :func:`bin_sparse`."""
    found, dropped = bins_of(spikes, bins, drop=drop)
    inside = found >= 0
    row, column = found[inside], spikes.each_unit()[inside].astype(np.int64)
    n_rows, n_columns = bins.n_bins, spikes.n_units
    if rows == "units":
        row, column, n_rows, n_columns = column, row, n_columns, n_rows
    cells, counts = np.unique(row * n_columns + column, return_counts=True)
    row, column = np.divmod(cells, max(n_columns, 1))
    too_many = np.flatnonzero(counts > LARGEST[dtype])
    if too_many.size:
        index, unit = (column, row) if rows == "units" else (row, column)
        first = too_many[np.lexsort((unit[too_many], index[too_many]))[0]]
        raise overflow(dtype, counts[first], unit[first], index[first])
    indptr = np.searchsorted(row, np.arange(n_rows + 1)).astype(np.int64)
    return indptr, column.astype(np.int32), counts.astype(dtype), dropped

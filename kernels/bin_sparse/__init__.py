"""Count spikes per bin and unit, into a sparse (CSR) matrix: for bins so fine that most are empty.

Bins and checks are those of :mod:`attendrite.kernels.bin_spikes`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import _bins
from .._arrays import one_of
from .._bins import Dropped
from .._operation import Operation

__all__ = ["OPERATION", "Dropped", "SparseCounts", "bin_sparse", "bin_sparse_by_unit"]

OPERATION = Operation(__name__)

Rows = Literal["bins", "units"]


class SparseCounts(NamedTuple):
    """A CSR matrix: row ``r`` has entries ``indptr[r]:indptr[r+1]``, columns ascending.

    ``scipy.sparse.csr_array((s.counts, s.indices, s.indptr), s.shape)`` makes it SciPy's.
    """

    indptr: NDArray[np.int64]  # [rows + 1]
    indices: NDArray[np.int32]  # [entries], the columns
    counts: NDArray[Any]  # [entries], never 0
    shape: tuple[int, int]  # [T, N] or [N, T]


@overload
def bin_sparse(
    times: NDArray[np.float64], units: NDArray[Any], *, width: float, n_bins: int, n_units: int,
    start: float = ..., tick_rate: float = ..., dtype: DTypeLike = ..., rows: Rows = ...,
    outside: Literal["error"] = ..., threads: int = ..., backend: str | None = ...,
) -> SparseCounts: ...  # fmt: skip
@overload
def bin_sparse(
    times: NDArray[np.float64], units: NDArray[Any], *, width: float, n_bins: int, n_units: int,
    start: float = ..., tick_rate: float = ..., dtype: DTypeLike = ..., rows: Rows = ...,
    outside: Literal["drop"], threads: int = ..., backend: str | None = ...,
) -> tuple[SparseCounts, Dropped]: ...  # fmt: skip
def bin_sparse(
    times: NDArray[np.float64],
    units: NDArray[Any],
    *,
    width: float,
    n_bins: int,
    n_units: int,
    start: float = 0.0,
    tick_rate: float = 1e6,
    dtype: DTypeLike = np.uint8,
    rows: Rows = "bins",
    outside: _bins.Outside = "error",
    threads: int = 1,
    backend: str | None = None,
) -> SparseCounts | tuple[SparseCounts, Dropped]:
    """Bin spikes that are in time order.

    Args:
        times: Spike times, ``[n]``, float64, seconds, finite, sorted, contiguous; ``n < 2**31``.
            Not modified, not kept; nobody else may change it during the call.
        units: Unit of each spike, ``[n]``, int32 or uint16, in ``0..N-1``, contiguous.
        width: Bin width, seconds; a whole number of ticks.
        n_bins: Number of bins ``T``.
        n_units: Number of units ``N``.
        start: Where the first bin starts, seconds; rounded to a tick.
        tick_rate: Ticks per second.
        dtype: Of the counts: uint8, uint16, int32 or float32.
        rows: ``"bins"`` for a matrix ``[T, N]``, ``"units"`` for ``[N, T]``.
        outside: ``"error"`` refuses spikes outside the bins, ``"drop"`` leaves them out and says
            how many.
        threads: Threads to use; the result does not depend on it.
        backend: A backend by name; ``None`` takes the fastest one.

    Returns:
        The matrix, newly allocated. With ``outside="drop"`` a pair of it and the numbers of spikes
        dropped before and after the bins.

    Raises:
        TypeError: A wrong dtype.
        ValueError: As :func:`attendrite.kernels.bin_spikes.bin_spikes`.

    Example:
        >>> times, units = np.array([0.1, 0.2, 0.4]), np.array([1, 0, 1], np.int32)
        >>> s = bin_sparse(times, units, width=0.2, n_bins=3, n_units=2, rows="units")
        >>> s.indptr, s.indices, s.counts
        (array([0, 1, 3]), array([1, 0, 2], dtype=int32), array([1, 1, 1], dtype=uint8))
    """
    spikes = _bins.flat(times, units, n_units)
    bins = _bins.grid(width=width, n_bins=n_bins, start=start, tick_rate=tick_rate)
    return _run(spikes, bins, dtype, rows, outside, threads, backend)


@overload
def bin_sparse_by_unit(
    times: NDArray[np.float64], offsets: NDArray[np.int64], *, width: float, n_bins: int,
    start: float = ..., tick_rate: float = ..., dtype: DTypeLike = ..., rows: Rows = ...,
    outside: Literal["error"] = ..., threads: int = ..., backend: str | None = ...,
) -> SparseCounts: ...  # fmt: skip
@overload
def bin_sparse_by_unit(
    times: NDArray[np.float64], offsets: NDArray[np.int64], *, width: float, n_bins: int,
    start: float = ..., tick_rate: float = ..., dtype: DTypeLike = ..., rows: Rows = ...,
    outside: Literal["drop"], threads: int = ..., backend: str | None = ...,
) -> tuple[SparseCounts, Dropped]: ...  # fmt: skip
def bin_sparse_by_unit(
    times: NDArray[np.float64],
    offsets: NDArray[np.int64],
    *,
    width: float,
    n_bins: int,
    start: float = 0.0,
    tick_rate: float = 1e6,
    dtype: DTypeLike = np.uint8,
    rows: Rows = "bins",
    outside: _bins.Outside = "error",
    threads: int = 1,
    backend: str | None = None,
) -> SparseCounts | tuple[SparseCounts, Dropped]:
    """Bin spikes that are stored unit by unit.

    Args:
        times: Spike times, ``[n]``, float64, seconds, finite, sorted within each unit, contiguous.
        offsets: ``[N+1]``, int64, from 0 to ``n``, never decreasing: unit ``u`` has
            ``times[offsets[u]:offsets[u+1]]``.
        width: As in :func:`bin_sparse`, and so are all that follow.
        n_bins: See there.
        start: See there.
        tick_rate: See there.
        dtype: See there.
        rows: See there.
        outside: See there.
        threads: See there.
        backend: See there.

    Returns:
        As :func:`bin_sparse`.

    Raises:
        TypeError: As :func:`bin_sparse`.
        ValueError: As :func:`bin_sparse`, or offsets that do not cut the times into units.
    """
    spikes = _bins.by_unit(times, offsets)
    bins = _bins.grid(width=width, n_bins=n_bins, start=start, tick_rate=tick_rate)
    return _run(spikes, bins, dtype, rows, outside, threads, backend)


def _run(
    spikes: _bins.Spikes, bins: _bins.Grid, dtype: DTypeLike, rows: str, outside: str,
    threads: int, backend: str | None,
) -> SparseCounts | tuple[SparseCounts, Dropped]:  # fmt: skip
    _bins.options(outside, threads)
    one_of("rows", rows, ("bins", "units"))
    module = OPERATION.choose(backend)
    indptr, indices, counts, dropped = module.run(
        spikes, bins, dtype=_bins.count_dtype(dtype), rows=rows, drop=outside == "drop",
        threads=int(threads),
    )  # fmt: skip
    shape = (bins.n_bins, spikes.n_units) if rows == "bins" else (spikes.n_units, bins.n_bins)
    matrix = SparseCounts(indptr, indices, counts, shape)
    return matrix if outside == "error" else (matrix, dropped)

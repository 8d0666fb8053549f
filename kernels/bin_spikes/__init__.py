"""Count spikes per bin and unit, into a dense array.

Spikes and bin edges meet on integer ticks: with ``tick(t) = rint(t * tick_rate)``, a spike lies in
bin ``floor((tick(t) - tick(start)) / (width * tick_rate))``, and the width must be a whole number
of ticks. So a spike on an edge, as every recorded sample time may be, is in the bin that begins
there, whatever the rounding of its float64 seconds; bins are half-open.

All input is checked on the way. Arrays are used as they are: nothing is copied or converted.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import _bins
from .._arrays import must, one_of
from .._bins import Dropped
from .._operation import Operation

__all__ = ["OPERATION", "Dropped", "bin_spikes", "bin_spikes_by_unit"]

OPERATION = Operation(__name__)

Layout = Literal["time", "unit"]


@overload
def bin_spikes(
    times: NDArray[np.float64], units: NDArray[Any], *, width: float, n_bins: int, n_units: int,
    start: float = ..., tick_rate: float = ..., dtype: DTypeLike = ..., layout: Layout = ...,
    outside: Literal["error"] = ..., out: NDArray[Any] | None = ..., threads: int = ...,
    backend: str | None = ...,
) -> NDArray[Any]: ...  # fmt: skip
@overload
def bin_spikes(
    times: NDArray[np.float64], units: NDArray[Any], *, width: float, n_bins: int, n_units: int,
    start: float = ..., tick_rate: float = ..., dtype: DTypeLike = ..., layout: Layout = ...,
    outside: Literal["drop"], out: NDArray[Any] | None = ..., threads: int = ...,
    backend: str | None = ...,
) -> tuple[NDArray[Any], Dropped]: ...  # fmt: skip
def bin_spikes(
    times: NDArray[np.float64],
    units: NDArray[Any],
    *,
    width: float,
    n_bins: int,
    n_units: int,
    start: float = 0.0,
    tick_rate: float = 1e6,
    dtype: DTypeLike = np.uint8,
    layout: Layout = "time",
    outside: _bins.Outside = "error",
    out: NDArray[Any] | None = None,
    threads: int = 1,
    backend: str | None = None,
) -> NDArray[Any] | tuple[NDArray[Any], Dropped]:
    """Bin spikes that are in time order.

    Args:
        times: Spike times, ``[n]``, float64, seconds, finite, sorted, contiguous; ``n < 2**31``.
            Not modified, not kept; nobody else may change it during the call.
        units: Unit of each spike, ``[n]``, int32 or uint16, in ``0..N-1``, contiguous.
        width: Bin width, seconds; a whole number of ticks.
        n_bins: Number of bins ``T``.
        n_units: Number of units ``N``.
        start: Where the first bin starts, seconds; rounded to a tick.
        tick_rate: Ticks per second; take the sampling rate where samples are not whole
            microseconds apart from bin edges (24414.0625 Hz).
        dtype: Of the counts: uint8, uint16, int32 or float32.
        layout: ``"time"`` for ``[T, N]``, ``"unit"`` for ``[N, T]``.
        outside: ``"error"`` refuses spikes outside the bins, ``"drop"`` leaves them out and says
            how many.
        out: Array to write to, of the result's shape, contiguous; its dtype is used and ``dtype``
            ignored. After an error its contents are undefined. ``None`` allocates.
        threads: Threads to use; the result does not depend on it.
        backend: A backend by name; ``None`` takes the fastest one.

    Returns:
        Counts, ``[T, N]`` or ``[N, T]``: ``out`` where given. With ``outside="drop"`` a pair of
        these and the numbers of spikes dropped before and after the bins.

    Raises:
        TypeError: A wrong dtype.
        ValueError: A wrong shape or an array that is not contiguous; a width that is not a whole
            number of ticks; times unsorted, not finite or outside; an unknown unit; a count that
            the dtype cannot hold (it never wraps). The message names the first bad value.

    Example:
        >>> times, units = np.array([0.1, 0.2, 0.4]), np.array([1, 0, 1], np.int32)
        >>> bin_spikes(times, units, width=0.2, n_bins=3, n_units=2)
        array([[0, 1],
               [1, 0],
               [0, 1]], dtype=uint8)
    """
    spikes = _bins.flat(times, units, n_units)
    bins = _bins.grid(width=width, n_bins=n_bins, start=start, tick_rate=tick_rate)
    return _run(spikes, bins, dtype, layout, outside, out, threads, backend)


@overload
def bin_spikes_by_unit(
    times: NDArray[np.float64], offsets: NDArray[np.int64], *, width: float, n_bins: int,
    start: float = ..., tick_rate: float = ..., dtype: DTypeLike = ..., layout: Layout = ...,
    outside: Literal["error"] = ..., out: NDArray[Any] | None = ..., threads: int = ...,
    backend: str | None = ...,
) -> NDArray[Any]: ...  # fmt: skip
@overload
def bin_spikes_by_unit(
    times: NDArray[np.float64], offsets: NDArray[np.int64], *, width: float, n_bins: int,
    start: float = ..., tick_rate: float = ..., dtype: DTypeLike = ..., layout: Layout = ...,
    outside: Literal["drop"], out: NDArray[Any] | None = ..., threads: int = ...,
    backend: str | None = ...,
) -> tuple[NDArray[Any], Dropped]: ...  # fmt: skip
def bin_spikes_by_unit(
    times: NDArray[np.float64],
    offsets: NDArray[np.int64],
    *,
    width: float,
    n_bins: int,
    start: float = 0.0,
    tick_rate: float = 1e6,
    dtype: DTypeLike = np.uint8,
    layout: Layout = "time",
    outside: _bins.Outside = "error",
    out: NDArray[Any] | None = None,
    threads: int = 1,
    backend: str | None = None,
) -> NDArray[Any] | tuple[NDArray[Any], Dropped]:
    """Bin spikes that are stored unit by unit, as NWB and :func:`group_by_unit` do.

    Args:
        times: Spike times, ``[n]``, float64, seconds, finite, sorted within each unit, contiguous.
        offsets: ``[N+1]``, int64, from 0 to ``n``, never decreasing: unit ``u`` has
            ``times[offsets[u]:offsets[u+1]]``.
        width: As in :func:`bin_spikes`, and so are all that follow.
        n_bins: See there.
        start: See there.
        tick_rate: See there.
        dtype: See there.
        layout: See there.
        outside: See there.
        out: See there.
        threads: See there.
        backend: See there.

    Returns:
        As :func:`bin_spikes`.

    Raises:
        TypeError: As :func:`bin_spikes`.
        ValueError: As :func:`bin_spikes`, or offsets that do not cut the times into units.

    Example:
        >>> times, offsets = np.array([0.2, 0.1, 0.4]), np.array([0, 1, 3])
        >>> bin_spikes_by_unit(times, offsets, width=0.2, n_bins=3, layout="unit")
        array([[0, 1, 0],
               [1, 0, 1]], dtype=uint8)
    """
    spikes = _bins.by_unit(times, offsets)
    bins = _bins.grid(width=width, n_bins=n_bins, start=start, tick_rate=tick_rate)
    return _run(spikes, bins, dtype, layout, outside, out, threads, backend)


def _run(
    spikes: _bins.Spikes, bins: _bins.Grid, dtype: DTypeLike, layout: str, outside: str,
    out: NDArray[Any] | None, threads: int, backend: str | None,
) -> NDArray[Any] | tuple[NDArray[Any], Dropped]:  # fmt: skip
    _bins.options(outside, threads)
    one_of("layout", layout, ("time", "unit"))
    shape = (bins.n_bins, spikes.n_units)
    if layout == "unit":
        shape = shape[::-1]
    if out is None:
        out = np.empty(shape, _bins.count_dtype(dtype))
    else:
        _check_out(out, shape)
    module = OPERATION.choose(backend)
    dropped: Dropped = module.run(
        spikes, bins, layout=layout, drop=outside == "drop", out=out, threads=int(threads)
    )
    return out if outside == "error" else (out, dropped)


def _check_out(out: NDArray[Any], shape: tuple[int, ...]) -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    if out.dtype not in _bins.LARGEST:
        known = ", ".join(str(d) for d in _bins.LARGEST)
        raise TypeError(f"out must have one of the dtypes {known}, got {out.dtype}")
    if out.shape != shape:
        raise must("out", f"have shape {list(shape)}", list(out.shape))
    if not out.flags.carray:
        kind = "read-only" if out.flags.aligned else "unaligned memory"
        kind = kind if out.flags.c_contiguous else f"strides {out.strides}"
        raise must("out", "be contiguous and writeable", kind, "pass a fresh array")

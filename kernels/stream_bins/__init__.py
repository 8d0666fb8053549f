"""Bin a live spike stream: chunks of any size come in, rows of completed bins go out.

Bins and checks are those of :mod:`attendrite.kernels.bin_spikes`: however the stream is cut into
chunks, the rows joined together equal the dense counts of the whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import _bins
from .._arrays import must
from .._operation import Operation

__all__ = ["OPERATION", "StreamBinner"]

OPERATION = Operation(__name__)


class StreamBinner:
    """Counts per bin and unit of a spike stream, kept between chunks.

    A bin is completed by the first spike behind it, or by the clock, with :meth:`advance`. A call
    that raises changes nothing. Not for use from several threads at once.

    Args:
        n_units: Number of units ``N``.
        width: Bin width, seconds; a whole number of ticks.
        start: Where the first bin starts, seconds; rounded to a tick.
        tick_rate: Ticks per second; see :func:`attendrite.kernels.bin_spikes.bin_spikes`.
        dtype: Of the counts: uint8, uint16, int32 or float32.
        backend: A backend by name; ``None`` takes the fastest one.

    Raises:
        TypeError: Another dtype.
        ValueError: A width that is not a whole number of ticks, or another option out of range.

    Example:
        >>> binner = StreamBinner(2, width=0.2)
        >>> binner.push(np.array([0.1, 0.15]), np.array([1, 1], np.int32))
        array([], shape=(0, 2), dtype=uint8)
        >>> binner.push(np.array([0.3]), np.array([0], np.int32))
        array([[0, 2]], dtype=uint8)
        >>> binner.advance(0.4)
        array([[1, 0]], dtype=uint8)
    """

    __slots__ = ("_binner", "_push")

    def __init__(
        self,
        n_units: int,
        *,
        width: float,
        start: float = 0.0,
        tick_rate: float = 1e6,
        dtype: DTypeLike = np.uint8,
        backend: str | None = None,
    ) -> None:
        if not (float(n_units).is_integer() and 0 <= n_units < 2**31):
            raise must("n_units", "be an integer from 0 to 2**31 - 1", n_units)
        bins = _bins.grid(width=width, n_bins=1, start=start, tick_rate=tick_rate)
        module = OPERATION.choose(backend)
        self._binner = module.Binner(int(n_units), bins, _bins.count_dtype(dtype))
        self._push = self._binner.push

    @property
    def closed(self) -> int:
        """Number of bins closed so far: the rows returned by all calls together."""
        return int(self._binner.closed)

    def push(
        self, times: NDArray[np.float64], units: NDArray[Any], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Take a chunk of spikes and return the bins it completes.

        Args:
            times: Spike times, ``[n]``, float64, seconds, finite, contiguous, sorted, also after
                the chunks before; none before the open bin. ``n`` may be 0. Not kept.
            units: Unit of each spike, ``[n]``, int32 or uint16, in ``0..N-1``, contiguous.
            out: Array to write to, ``[>= k, N]``, contiguous, of the counts' dtype; ``None``
                allocates.

        Returns:
            Counts of the ``k`` bins completed, ``[k, N]``, often ``k = 0``: a view of the first
            rows of ``out`` where given, else a new array.

        Raises:
            TypeError: A wrong dtype.
            ValueError: A wrong shape; times unsorted, not finite or too late for their bin; an
                unknown unit; a count that the dtype cannot hold; an ``out`` too small.
        """
        rows: NDArray[Any] = self._push(times, units, out)
        return rows

    def advance(self, time: float, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Close all bins that end at or before a time: no spike before it will come any more.

        Args:
            time: Seconds; a time that was reached before closes nothing.
            out: As in :meth:`push`.

        Returns:
            Counts of the bins closed, as from :meth:`push`.

        Raises:
            ValueError: A time that is not finite, a count that the dtype cannot hold, or an
                ``out`` too small.
        """
        rows: NDArray[Any] = self._binner.advance(time, out)
        return rows

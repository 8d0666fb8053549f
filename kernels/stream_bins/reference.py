"""The truth: keep the spikes of the open bin, and count them when it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _bins
from .._arrays import must
from .._bins import FlatSpikes, Grid
from ..bin_spikes import reference

PRIORITY = 0


def refuses(**_request: object) -> str | None:
    """Serve every request."""
    return None


class Binner:
    """See :class:`attendrite.kernels.stream_bins.StreamBinner`."""

    def __init__(self, n_units: int, bins: Grid, dtype: np.dtype[Any]) -> None:
        self.bins, self.dtype, self.n_units = bins, dtype, n_units
        self.closed = 0
        self.last = -np.inf
        self.times, self.units = np.empty(0), np.empty(0, np.int32)  # since the open bin began

    def push(
        self, times: NDArray[np.float64], units: NDArray[Any], out: NDArray[Any] | None
    ) -> NDArray[Any]:
        """Take a chunk."""
        _bins.check_values(_bins.flat(times, units, self.n_units))
        open_bin = self.closed
        if times.size:
            self._check_follows(float(times[0]))
            open_bin = self._bin_of("times", float(times[-1]))
        all_times = np.concatenate([self.times, times])
        all_units = np.concatenate([self.units, units.astype(np.int32)])
        rows = self._close(open_bin, all_times, all_units, out)
        self.last = float(times[-1]) if times.size else self.last
        return rows

    def advance(self, time: float, out: NDArray[Any] | None) -> NDArray[Any]:
        """Close bins by the clock."""
        if not np.isfinite(time):
            raise must("time", "be finite", float(time))
        return self._close(self._bin_of("time", float(time)), self.times, self.units, out)

    def _check_follows(self, first: float) -> None:
        start = self.bins.start + self.closed * self.bins.width
        if np.rint(first * self.bins.tick_rate) < start:
            opened = f"bin {self.closed} is open" if self.closed else "the first bin starts"
            got = f"times[0] = {first} where {opened} at {start / self.bins.tick_rate} s"
            todo = "the spike came too late to be counted"
            raise must("times", "not lie before the open bin", got, todo)
        if first < self.last:
            got = f"times[0] = {first} after {self.last} in a chunk before"
            raise must("times", "be sorted across chunks", got, "sort them first")

    def _bin_of(self, what: str, time: float) -> int:
        """Bin of a time, at least the open one."""
        tick = np.rint(time * self.bins.tick_rate)
        if tick >= 2**50:
            raise must(what, "lie within 2**50 ticks of 0", f"{time} s", "is it in seconds?")
        return max(self.closed, int((tick - self.bins.start) // self.bins.width))

    def _close(
        self, open_bin: int, times: NDArray[np.float64], units: NDArray[Any], out: Any
    ) -> NDArray[Any]:
        whole = self.bins._replace(n_bins=open_bin)  # from the first bin ever: errors name bins so
        counts = np.empty((open_bin, self.n_units), self.dtype)
        ended = _bins.ticks_of(times, whole.tick_rate) < whole.stop
        spikes = FlatSpikes(times[ended], units[ended], self.n_units)
        reference.run(spikes, whole, layout="time", drop=False, out=counts, threads=1)
        counts = counts[self.closed :]
        if out is not None:
            out[: len(counts)] = counts
            counts = out[: len(counts)]
        self.times, self.units, self.closed = times[~ended], units[~ended], open_bin
        return counts

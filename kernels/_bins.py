"""What the binning operations share: bins on integer ticks, two layouts of spikes, their checks."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ._arrays import must, one_of, positive

Outside = Literal["error", "drop"]

# Largest count that a dtype holds exactly.
LARGEST = {
    np.dtype(np.uint8): 2**8 - 1,
    np.dtype(np.uint16): 2**16 - 1,
    np.dtype(np.int32): 2**31 - 1,
    np.dtype(np.float32): 2**24 - 1,
}


class Grid(NamedTuple):
    """Bins on integer ticks: a spike at ``t`` has tick ``rint(t * tick_rate)``."""

    tick_rate: float
    start: int  # [ticks]
    width: int  # [ticks]
    n_bins: int

    @property
    def stop(self) -> int:
        """First tick behind the last bin."""
        return self.start + self.width * self.n_bins


class FlatSpikes(NamedTuple):
    """Spikes of all units in time order."""

    times: NDArray[np.float64]  # [n]
    units: NDArray[Any]  # [n]
    n_units: int

    def each_unit(self) -> NDArray[Any]:
        """Unit of each spike, ``[n]``."""
        return self.units


class UnitSpikes(NamedTuple):
    """Spikes unit by unit: unit ``u`` has ``times[offsets[u]:offsets[u+1]]``."""

    times: NDArray[np.float64]  # [n]
    offsets: NDArray[np.int64]  # [N+1]

    @property
    def n_units(self) -> int:
        """Number of units ``N``."""
        return self.offsets.size - 1

    def each_unit(self) -> NDArray[Any]:
        """Unit of each spike, ``[n]``."""
        return np.repeat(np.arange(self.n_units), np.diff(self.offsets))


Spikes = FlatSpikes | UnitSpikes


class Dropped(NamedTuple):
    """Spikes outside the bins that were left out of the counts."""

    before: int
    after: int


def grid(*, width: float, n_bins: int, start: float, tick_rate: float) -> Grid:
    """Place bins on integer ticks.

    Raises:
        ValueError: A width that is not a whole number of ticks, or bins that lie more than 2**50
            ticks from 0, beyond which float64 seconds cannot hold a tick.
    """
    positive("width", width, "number")
    positive("tick_rate", tick_rate, "number")
    if not 1e-6 <= tick_rate <= 1e15:
        raise must("tick_rate", "lie in 1e-06..1e15 Hz", tick_rate)
    if not (float(n_bins).is_integer() and 0 <= n_bins < 2**31):
        raise must("n_bins", "be an integer from 0 to 2**31 - 1", n_bins)
    if not np.isfinite(start):
        raise must("start", "be finite", start)
    exact = width * tick_rate
    ticks = round(exact)
    # A width computed from other numbers may be off by some rounding, never by a real fraction.
    if ticks < 1 or abs(exact - ticks) > 1e-12 * ticks:
        raise must(
            "width * tick_rate", "be a whole number of ticks", f"{width} * {tick_rate} = {exact}",
            "choose another width, or the sampling rate as tick_rate",
        )  # fmt: skip
    bins = Grid(float(tick_rate), int(np.rint(start * tick_rate)), ticks, int(n_bins))
    if bins.start < -(2**50) or bins.stop > 2**50:
        got = f"ticks {bins.start}..{bins.stop}"
        raise must("bins", "lie within 2**50 ticks of 0", got, "are the times in seconds?")
    return bins


def flat(times: NDArray[np.float64], units: NDArray[Any], n_units: int) -> FlatSpikes:
    """Check the arrays of spikes in time order; their values are checked by the backends.

    Raises:
        TypeError: Another dtype than float64 times and int32 or uint16 units. Nothing is converted.
        ValueError: Wrong shape, or not contiguous.
    """
    _plain("times", times, (np.float64,))
    _plain("units", units, (np.int32, np.uint16))
    if times.size != units.size:
        raise must("units", f"have the length of times, {times.size}", units.size)
    if not (float(n_units).is_integer() and 0 <= n_units < 2**31):
        raise must("n_units", "be an integer from 0 to 2**31 - 1", n_units)
    _few(times.size)
    return FlatSpikes(times, units, int(n_units))


def by_unit(times: NDArray[np.float64], offsets: NDArray[np.int64]) -> UnitSpikes:
    """Check the arrays of spikes by unit; the times themselves are checked by the backends.

    Raises:
        TypeError: Another dtype than float64 times and int64 offsets. Nothing is converted.
        ValueError: Wrong shape, not contiguous, or offsets that do not cut the times into units.
    """
    _plain("times", times, (np.float64,))
    _plain("offsets", offsets, (np.int64,))
    if offsets.size == 0 or offsets[0] != 0 or offsets[-1] != times.size:
        ends = f"{offsets[0]}..{offsets[-1]}" if offsets.size else "none"
        raise must("offsets", f"run from 0 to the number of times, {times.size}", ends)
    bad = np.flatnonzero(np.diff(offsets) < 0)
    if bad.size:
        i = int(bad[0]) + 1
        raise must("offsets", "never decrease", f"offsets[{i}] = {offsets[i]}")
    _few(times.size)
    return UnitSpikes(times, offsets)


def count_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of counts.

    Raises:
        TypeError: Not one of uint8, uint16, int32 and float32.
    """
    chosen = np.dtype(dtype)
    if chosen not in LARGEST:
        known = ", ".join(str(d) for d in LARGEST)
        raise TypeError(f"dtype must be one of {known}, got {chosen}")
    return chosen


def options(outside: str, threads: int) -> None:
    """Check the options that all binning calls have.

    Raises:
        ValueError: An unknown way to treat spikes outside, or no thread.
    """
    one_of("outside", outside, ("error", "drop"))
    positive("threads", threads)


def check_values(spikes: Spikes) -> None:
    """Refuse spikes that break a rule, whatever the bins.

    Raises:
        ValueError: The first fault, in the order of the checks.
    """
    times = spikes.times
    bad = np.flatnonzero(~np.isfinite(times))
    if bad.size:
        raise must("times", "be finite", _spike(times, bad[0]), "remove or repair them")
    falls = np.flatnonzero(np.diff(times) < 0) + 1
    if isinstance(spikes, UnitSpikes):
        falls = np.setdiff1d(falls, spikes.offsets)  # a unit may begin before the one before ends
    if falls.size:
        got = f"{_spike(times, falls[0])} after {times[falls[0] - 1]}"
        raise must("times", "be sorted", got, "sort them first")
    if isinstance(spikes, FlatSpikes):
        strange = np.flatnonzero((spikes.units < 0) | (spikes.units >= spikes.n_units))
        if strange.size:
            got = f"units[{strange[0]}] = {spikes.units[strange[0]]}"
            raise must("units", f"lie in 0..{spikes.n_units - 1}", got)


def ticks_of(times: NDArray[np.float64], tick_rate: float) -> NDArray[np.float64]:
    """Round times to ticks, whole numbers in float64; infinite for very large finite times."""
    with np.errstate(over="ignore"):
        return np.rint(times * tick_rate)


def bins_of(spikes: Spikes, bins: Grid, *, drop: bool) -> tuple[NDArray[np.int64], Dropped]:
    """Check spikes and find their bins: the integer-tick rule, written to be read.

    Args:
        spikes: Spikes in either layout.
        bins: The bins.
        drop: Whether spikes outside the bins are allowed.

    Returns:
        Bin of each spike, ``[n]``, int64, in ``0..T-1``, or -1 for a spike to be dropped; how many
        were dropped.

    Raises:
        ValueError: As :func:`check_values`, then spikes outside unless they may be dropped.
    """
    check_values(spikes)
    ticks = ticks_of(spikes.times, bins.tick_rate)
    before, after = ticks < bins.start, ticks >= bins.stop
    outside = before | after
    if outside.any() and not drop:
        span = f"{bins.start / bins.tick_rate} s to before {bins.stop / bins.tick_rate} s"
        got = _spike(spikes.times, np.flatnonzero(outside)[0])
        todo = "pass outside='drop' to leave them out"
        raise must("times", f"lie in the bins, from {span}", got, todo)
    ticks[outside] = bins.start
    found = (ticks.astype(np.int64) - bins.start) // bins.width
    found[outside] = -1
    return found, Dropped(int(before.sum()), int(after.sum()))


def overflow(dtype: np.dtype[Any], count: int, unit: int, index: int) -> ValueError:
    """Build the error for a count that a dtype cannot hold."""
    got = f"{count} spikes of unit {unit} in bin {index}"
    return must("counts", f"fit {dtype}", got, "pass a wider dtype")


def _spike(times: NDArray[np.float64], index: np.intp) -> str:
    return f"times[{index}] = {times[index]}"


def _plain(name: str, array: Any, dtypes: tuple[type, ...]) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(array).__name__}")
    if array.dtype not in [np.dtype(d) for d in dtypes]:
        known = " or ".join(np.dtype(d).name for d in dtypes)
        raise TypeError(f"{name} must be {known}, got {array.dtype}; convert them once")
    if array.ndim != 1:
        raise must(name, "have shape [n]", list(array.shape))
    if not array.flags.c_contiguous:
        todo = f"pass np.ascontiguousarray({name})"
        raise must(name, "be contiguous", f"strides {array.strides}", todo)


def _few(n: int) -> None:
    if n >= 2**31:
        raise must("times", "be fewer than 2**31", n, "bin the recording in parts")

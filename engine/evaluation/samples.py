"""At which times a decoder is asked, and the true values there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..recordings import Intervals, Recording
from .splits import Interval


@dataclass(frozen=True)
class Samples:
    """Times to decode at, and the true values.

    Attributes:
        times: ``[S]``, float64, seconds, sorted.
        values: ``[S, D]``, float64, in the unit of the series.
    """

    times: NDArray[np.float64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Samples:
        return Samples(self.times[chosen], self.values[chosen])

    def within(self, intervals: Sequence[Interval], before: float, after: float) -> Samples:
        """Return the samples whose window ``[t - before, t + after]`` lies inside one interval."""
        return self[inside(self.times, intervals, before, after)]


def inside(
    times: NDArray[np.float64],
    intervals: Sequence[Interval],
    before: float = 0.0,
    after: float = 0.0,
) -> NDArray[np.bool_]:
    """Say which windows ``[t - before, t + after]`` lie inside one interval, ``[S]``, bool."""
    out = np.zeros(len(times), np.bool_)
    for start, stop in intervals:
        out |= (times - before >= start) & (times + after <= stop)
    return out


def draw_samples(
    recording: Recording, series: str, within: str | None, *, spacing: float, seed: int
) -> Samples:
    """Draw sample times: every ``spacing`` seconds in each interval, at its own offset.

    The offset is uniform in ``[0, spacing)``, so that samples of intervals which recur with a
    fixed period do not share a phase: a model cannot read the answer off its clock.

    Args:
        recording: With the series and the intervals.
        series: Name of the series to decode; values between its samples are interpolated linearly.
        within: Name of the intervals in which to sample; ``None``: the extent of the series.
        spacing: Seconds between samples of one interval.
        seed: Of the offsets.

    Raises:
        AttendriteError: No such series or intervals, a spacing that is not positive, a series that
            misses values at a sample, or no sample at all.
    """
    errors.choice("series", series, recording.series)
    if spacing <= 0:
        raise errors.must("spacing", "be above 0 s", spacing)
    truth = recording.series[series]
    if within is None:
        where = Intervals(truth.times[:1], truth.times[-1:])
    else:
        errors.choice("intervals", within, recording.intervals)
        where = recording.intervals[within]
    offset = np.random.default_rng(seed).uniform(0, spacing, len(where))
    first = where.start + offset
    runs = [np.arange(a, b, spacing) for a, b in zip(first, where.stop, strict=True)]
    times = np.sort(np.concatenate([np.zeros(0), *runs]))
    if not len(times):
        raise errors.must("samples", "be at least one", 0, f"see the intervals {within!r}")
    return Samples(times, interpolate(truth.times, truth.values, times))


def interpolate(
    at: NDArray[np.float64], values: NDArray[np.floating], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate ``values [T, D]`` at ``at [T]`` at ``times`` of any shape: ``[..., D]``."""
    out = np.stack([np.interp(times, at, column) for column in values.T.astype(np.float64)], -1)
    errors.finite("values at the sample times", out.reshape(-1, out.shape[-1]))
    return out

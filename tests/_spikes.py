"""Spikes for the binning tests: Hypothesis strategies and small helpers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray


class Case(NamedTuple):
    """Spikes in time order within some bins."""

    times: NDArray[np.float64]
    units: NDArray[np.int32]
    n_units: int
    width: float
    n_bins: int
    start: float
    tick_rate: float

    @property
    def bins(self) -> dict[str, Any]:
        return {
            "width": self.width,
            "n_bins": self.n_bins,
            "start": self.start,
            "tick_rate": self.tick_rate,
        }

    def by_unit(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        order = np.argsort(self.units, kind="stable")
        counts = np.bincount(self.units, minlength=self.n_units)
        return self.times[order], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@st.composite
def cases(draw: st.DrawFn, outside: bool = False) -> Case:
    """Random spikes, many of them on or next to the edges of bins, ticks or half ticks."""
    rate = draw(st.sampled_from([1e6, 30000.0, 24414.0625, 1000.0, 7.0, 1e-3]))
    ticks = draw(st.sampled_from([1, 2, 3, 20, 49, 1000, 20000, 999983]))
    n_bins = draw(st.sampled_from([0, 1, 17, 63, 64, 65, 200]))
    n_units = draw(st.sampled_from([0, 1, 3, 17, 64, 100]))
    start_tick = draw(st.sampled_from([0, -1, 1, -500, 12345, 10**9]))
    n = draw(st.sampled_from([0, 1, 17, 63, 600, 1500])) if n_units and (n_bins or outside) else 0
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    low, high = start_tick, start_tick + ticks * n_bins
    margin = 2 * ticks if outside else 0
    if n_bins == 0 and not outside:
        n = 0
    tick = rng.integers(low - margin, max(high + margin, low - margin + 1), n).astype(float)
    on_edge = rng.random(n) < 0.5
    tick[on_edge] = np.clip((tick[on_edge] - low) // ticks * ticks + low, low - margin, None)
    times = tick / rate
    # Next to where the tick changes: half a tick off, and the float64 neighbours of that.
    half = rng.random(n) < 0.3
    times[half] = (tick[half] + rng.choice([-0.5, 0.5], half.sum())) / rate
    times = times + rng.integers(-2, 3, n) * np.spacing(times)
    times = np.sort(times)
    if not outside:
        found = np.rint(times * rate)
        times = times[(found >= low) & (found < high)]
    units = rng.integers(0, max(n_units, 1), times.size).astype(np.int32)
    return Case(times, units, n_units, ticks / rate, n_bins, start_tick / rate, rate)


def poisson(n_units: int, seconds: float, rate_hz: float, seed: int = 0) -> Case:
    """Uniform spikes of equal rate, 20 ms bins."""
    rng = np.random.default_rng(seed)
    n = int(n_units * seconds * rate_hz)
    times = np.sort(rng.random(n) * seconds)
    units = rng.integers(0, n_units, n).astype(np.int32)
    return Case(times, units, n_units, 0.02, round(seconds / 0.02), 0.0, 1e6)

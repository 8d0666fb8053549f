"""Synthetic spikes for benchmarks: seeded, like a large recording."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from attendrite.kernels.group_by_unit import group_by_unit
from numpy.typing import NDArray


@dataclass(frozen=True)
class Population:
    """Spikes of one synthetic recording in both layouts.

    Attributes:
        times: ``[n]``, float64, seconds, sorted.
        units: ``[n]``, int32.
        n_units: Number of units.
        seconds: Duration.
    """

    times: NDArray[np.float64]
    units: NDArray[np.int32]
    n_units: int
    seconds: float

    @cached_property
    def by_unit(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Times by unit and offsets, as ``group_by_unit`` returns them."""
        return group_by_unit(self.times, self.units, self.n_units)

    @cached_property
    def trains(self) -> list[NDArray[np.float64]]:
        """One array of times for each unit, views of :attr:`by_unit`."""
        times, offsets = self.by_unit
        return np.split(times, offsets[1:-1])


def population(seconds: float, n_units: int = 1000, rate: float = 20.0) -> Population:
    """Draw Poisson spikes with gamma-distributed rates (shape 2) of mean ``rate`` Hz.

    Times are on a grid of 30 kHz, as a recording system gives them.
    """
    random = np.random.default_rng(0)
    n = int(n_units * seconds * rate)
    gaps = random.standard_exponential(n + 1)  # spacings of sorted uniform times: no sort needed
    times = np.cumsum(gaps[:-1]) * (seconds / gaps.sum())
    times = np.minimum(np.floor(times * 30_000), np.ceil(seconds * 30_000) - 1) / 30_000
    share = random.gamma(2.0, 1.0, n_units)
    edges = np.cumsum(share / share.sum())[:-1]
    units = np.searchsorted(edges, random.random(n, dtype=np.float32)).astype(np.int32)
    return Population(times, units, n_units, seconds)

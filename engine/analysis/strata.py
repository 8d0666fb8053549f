"""Units of like firing rate: within such a stratum they may be exchanged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALLEST = 3


@dataclass(frozen=True)
class Strata:
    """Units in strata of rate.

    Attributes:
        of: Stratum of each unit, ``[U]``, int64, from the slowest.
        merged: How many strata were too small and joined a neighbour.
    """

    of: NDArray[np.int64]
    merged: int

    @property
    def sizes(self) -> list[int]:
        """Units of each stratum."""
        return [int(n) for n in np.bincount(self.of)]

    def permutation(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw a permutation of the units that keeps strata, ``[U]``."""
        out = np.arange(len(self.of))
        for stratum in range(int(self.of.max()) + 1):
            members = np.flatnonzero(self.of == stratum)
            out[members] = rng.permutation(members)
        return out


def by_rate(tokens: NDArray[np.int64]) -> Strata:
    """Put units into octaves of their number of spikes; silent units are one stratum.

    An octave of fewer than three units joins its neighbour of fewer units, from the slowest up.

    Args:
        tokens: Spikes of each unit, ``[U]``.
    """
    octave = np.where(tokens > 0, np.floor(np.log2(np.maximum(tokens, 1))), -1).astype(np.int64)
    groups = [np.flatnonzero(octave == o) for o in np.unique(octave)]
    before = len(groups)
    while len(groups) > 1 and min(map(len, groups)) < SMALLEST:
        i = next(i for i, group in enumerate(groups) if len(group) < SMALLEST)
        beside = [j for j in (i - 1, i + 1) if 0 <= j < len(groups)]
        j = min(beside, key=lambda j: len(groups[j]))
        groups[min(i, j)] = np.concatenate([groups[min(i, j)], groups[max(i, j)]])
        del groups[max(i, j)]
    of = np.zeros(len(tokens), np.int64)
    for stratum, members in enumerate(groups):
        of[members] = stratum
    return Strata(of, before - len(groups))

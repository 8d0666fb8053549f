"""Units of like firing rate: within such a stratum they may be exchanged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALLEST = 3  # units of a stratum
ALIKE = 1.25  # rates that differ by less need no more strata
SILENT = 0.5  # spikes that a silent unit counts as


@dataclass(frozen=True)
class Strata:
    """Units in strata of rate.

    Attributes:
        of: Stratum of each unit, ``[U]``, int64, from the slowest.
        widest: How many times faster the fastest unit of a stratum is than its slowest, at most.
    """

    of: NDArray[np.int64]
    widest: float = 1.0

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
    """Put units into strata by their number of spikes, as narrow as three units each allow.

    All units in their order are cut in two at the largest gap (of the logarithm) that leaves three
    on either side, and so are the parts, until rates in a part differ by less than a quarter.
    Strata of fixed width would let a null exchange units whose rates still differ: where importance
    follows rate, it then rejects too often (docs/calibration.md).

    Args:
        tokens: Spikes of each unit, ``[U]``.
    """
    order = np.argsort(tokens, kind="stable")
    rates = np.maximum(tokens[order], SILENT)
    gaps = np.diff(np.log(rates))
    of, widest = np.zeros(len(tokens), np.int64), 1.0
    left, count = [(0, len(tokens))], 0
    while left:
        first, stop = left.pop()
        ratio = float(rates[stop - 1] / rates[first])
        if ratio <= ALIKE or stop - first < 2 * SMALLEST:
            of[order[first:stop]] = count
            widest, count = max(widest, ratio), count + 1
            continue
        cut = first + SMALLEST + int(np.argmax(gaps[first + SMALLEST - 1 : stop - SMALLEST]))
        left += [(cut, stop), (first, cut)]  # the slower part comes next
    return Strata(of, widest)

"""Do heads look at different units: divergence between their distributions over units.

Each head has a distribution over units, its shares of attention. Heads differ by the Jensen-Shannon
divergence of these distributions (nats, at most log H). All of them follow firing rate, so the null
permutes the units of each head but the first within strata of rate: heads that share a preference
for rate, but prefer units of like rate without regard to each other. A divergence above the null:
heads avoid each other's units; below it: they prefer the same ones.

What is permuted is the lift; the tokens stay with their unit. Permuted sums would carry the rates
that differ within a stratum to the wrong unit, and heads that only follow rate would seem to agree.
Units without tokens have no lift and are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import shares
from .strata import by_rate

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Specialisation:
    """Divergence between a model's encoder heads.

    Attributes:
        divergence: Nats.
        p_apart: That heads are no further apart than the null; NaN where not tested.
        p_alike: That heads are no more alike than the null; NaN where not tested.
        null: Mean of the null, its 5th and 95th percentile.
        distinct: Distinct permutations.
        strata: Units of each stratum of rate, from the slowest.
        widest: Ratio of the fastest to the slowest unit of a stratum, at most.
        verdict: ``tested``, or why not.
    """

    divergence: float
    p_apart: float
    p_alike: float
    null: tuple[float, float, float]
    distinct: int
    strata: list[int]
    widest: float
    verdict: str


def specialisation(
    sums: Floats,
    tokens: NDArray[np.int64],
    spikes: NDArray[np.int64],
    rounds: int,
    rng: np.random.Generator,
) -> Specialisation:
    """Compare the heads' distributions over units.

    Args:
        sums: Attention of each head to each unit, ``[H, U]``.
        tokens: Those that the attention went to, ``[U]``.
        spikes: Of each unit, ``[U]``: its rate decides the stratum.
        rounds: Size of the null.
        rng: Where its draws come from.
    """
    there = tokens > 0
    sums, tokens, spikes = sums[:, there], tokens[there], spikes[there]
    parts, lifts = shares.share(sums), shares.lift(sums, tokens)
    heads = len(parts)
    strata = by_rate(spikes)
    distinct = shares.permutations(strata.sizes, heads - 1)
    if heads < 2 or np.isnan(parts).any():
        why = "not testable: " + ("one head" if heads < 2 else "a head attends to no unit")
        unknown = (math.nan, math.nan, math.nan)
        return Specialisation(
            math.nan, math.nan, math.nan, unknown, distinct, strata.sizes, strata.widest, why
        )
    value = shares.divergence(parts)
    null = np.zeros(rounds)
    for r in range(rounds):
        moved = [lifts[0], *(own[strata.permutation(rng)] for own in lifts[1:])]
        null[r] = shares.divergence(shares.share(np.stack(moved) * tokens))
    return Specialisation(
        value,
        shares.p_value(value, null),
        shares.p_value(-value, -null),
        (float(null.mean()), float(np.quantile(null, 0.05)), float(np.quantile(null, 0.95))),
        distinct,
        strata.sizes,
        strata.widest,
        shares.verdict(distinct, "too few units"),
    )

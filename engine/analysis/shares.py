"""Shares of attention and of tokens, how broad they are, and how a null judges a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
FEW = 200  # distinct permutations below which a test says nothing
MANY = 10**9  # counted no further
ROUNDING = 1e-12


def ratio(above: Floats, below: Floats) -> Floats:
    """Divide; NaN where there is nothing to divide by."""
    below = np.broadcast_to(below, np.broadcast_shapes(above.shape, below.shape))
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)


def share(values: Floats) -> Floats:
    """Divide by the sum over the last axis; NaN where it is 0."""
    return ratio(values, values.sum(-1, keepdims=True))


def lift(sums: Floats, tokens: NDArray[np.int64]) -> Floats:
    """Share of attention over share of tokens; NaN for a unit without tokens.

    Args:
        sums: Attention of each unit, ``[..., U]``.
        tokens: Its tokens, ``[..., U]``.
    """
    return ratio(share(sums), share(tokens.astype(np.float64)))


def lift_within(sums: Floats, tokens: NDArray[np.int64]) -> Floats:
    """Attention over what it would be if all tokens of a window got the same.

    The plain lift also moves with *when* a unit fires: each window has the same attention to give,
    so a token in a quiet window gets more. This one is exactly 1 for a model that treats all tokens
    alike, whatever the rates do.

    Args:
        sums: Attention, ``[W, ..., U]``.
        tokens: ``[W, U]``.
    """
    shape = (len(tokens), *[1] * (sums.ndim - 2), tokens.shape[1])
    part = np.nan_to_num(share(tokens.astype(np.float64))).reshape(shape)  # a window may be silent
    return ratio(sums.sum(0), (sums.sum(-1, keepdims=True) * part).sum(0))


def effective(parts: Floats) -> Floats:
    """Effective number of units: the exponential of the entropy of shares ``[..., U]``."""
    logs = np.log(np.where(parts > 0, parts, 1))
    number: Floats = np.exp(-(parts * logs).sum(-1))
    return number


def participation(parts: Floats) -> Floats:
    """Participation ratio of shares ``[..., U]``: 1 over the sum of squares."""
    number: Floats = 1 / (parts**2).sum(-1)
    return number


def gini(parts: Floats) -> Floats:
    """Gini coefficient of shares ``[..., U]``: 0 if all units get the same."""
    n = parts.shape[-1]
    rank = np.arange(1, n + 1)
    coefficient: Floats = 2 * (rank * np.sort(parts, -1)).sum(-1) / n - (n + 1) / n
    return coefficient


def divergence(parts: Floats) -> float:
    """Jensen-Shannon divergence of the rows of ``[H, U]``, nats (Lin 1991, 10.1109/18.61115)."""
    entropy = np.log(effective(np.vstack([parts.mean(0), parts])))
    return float(entropy[0] - entropy[1:].mean())


def correlation(a: Floats, b: Floats) -> float:
    """Spearman correlation over the units where both are known; NaN for fewer than three."""
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(stats.spearmanr(a, b).statistic)


def p_value(observed: float, null: Floats) -> float:
    """Return (1 + nulls at least as large) / (1 + number of nulls)."""
    return float((1 + (null >= observed - ROUNDING).sum()) / (1 + len(null)))


def verdict(distinct: int, few: str) -> str:
    """Say whether there are enough distinct permutations to test with."""
    return "tested" if distinct >= FEW else few


def permutations(sizes: Sequence[int], times: int) -> int:
    """Return in how many ways groups can be permuted, ``times`` independently; at most ``MANY``."""
    count = 1
    for factor in (k for _ in range(times) for size in sizes for k in range(2, size + 1)):
        count *= factor
        if count >= MANY:
            return MANY
    return count

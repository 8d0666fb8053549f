"""Do heads move together: correlation between heads of what they attend to over time.

At each latent step a head has a vector over units: its lift, share of attention over share of the
window's tokens. Two heads are as synchronous as these vectors' time courses correlate: deviations
from each unit's own mean, over all steps and units. With trials the course splits into the mean
over trials of a condition (*locked* to the stimulus) and the deviation of each trial from it
(*residual*). The locked part of few trials holds some of the residual.

Nulls. Locked: the course of each head but the first is shifted circularly by a random number of
steps. Residual: the trials of each head but the first are shuffled within their condition. One
side: larger than the null.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from . import shares
from ._windows import Windows
from .observed import Observed

Floats = NDArray[np.float64]
NOT = "not testable: "


@dataclass(frozen=True)
class Correlated:
    """Mean correlation over pairs of heads.

    Attributes:
        value: The correlation; NaN where there is none.
        p: Against the null; NaN where it is not tested.
        null: Mean of the null and its 95th percentile.
        distinct: Distinct members of the null; 0 where there is none.
        verdict: ``tested``, or why not.
    """

    value: float
    p: float = math.nan
    null: tuple[float, float] = (math.nan, math.nan)
    distinct: int = 0
    verdict: str = ""


@dataclass(frozen=True)
class Synchrony:
    """Synchrony of a model's encoder heads: of the whole course and of its two parts."""

    whole: Correlated
    locked: Correlated
    residual: Correlated


def synchrony(observed: Observed, rounds: int, rng: np.random.Generator) -> Synchrony:
    """Correlate the heads' time courses.

    Args:
        observed: What a model attended to.
        rounds: Size of each null.
        rng: Where its draws come from.
    """
    courses = lifts(observed)  # [W, S, H, U]
    heads = courses.shape[2]
    if heads < 2:
        alone = Correlated(math.nan, verdict=NOT + "one head")
        return Synchrony(alone, alone, alone)
    whole = Correlated(
        _mean_correlation(_centred(courses.reshape(-1, *courses.shape[2:]))),
        verdict="described, not tested",
    )
    windows = observed.windows
    if windows.condition is None:
        none = Correlated(math.nan, verdict=NOT + "no trials")
        return Synchrony(whole, none, none)
    trials = courses.reshape(-1, windows.per_trial * courses.shape[1], *courses.shape[2:])
    means = _condition_means(trials, windows.condition)  # [C, T, H, U]
    locked = _centred(means.reshape(-1, *means.shape[2:]))
    return Synchrony(
        whole, _locked(locked, rounds, rng), _residual(trials, means, windows, rounds, rng)
    )


def lifts(observed: Observed) -> Floats:
    """Return lift at each step, ``[W, S, H, U]``; NaN for a unit without tokens in the window."""
    tokens = observed.tokens.counts[observed.which].astype(np.float64)
    part = shares.share(tokens)[:, None, None]  # [W, 1, 1, U]
    return shares.ratio(shares.share(observed.steps.astype(np.float64)), np.nan_to_num(part))


def _condition_means(trials: Floats, condition: NDArray[np.int64]) -> Floats:
    means = []
    for c in np.unique(condition):
        own = trials[condition == c]
        known = np.isfinite(own)
        means.append(shares.ratio(np.where(known, own, 0).sum(0), known.sum(0, dtype=np.float64)))
    # a lift of 0 is a value, so only steps without any trial are unknown
    return np.stack(means)


def _centred(courses: Floats) -> Floats:
    """Subtract each unit's mean over time from ``[T, H, U]``; unknown steps become 0."""
    known = np.isfinite(courses)
    values = np.where(known, courses, 0)
    mean = values.sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known, values - mean, 0)


def _scale(courses: Floats) -> Floats:
    """Bring each head of ``[T, H, U]`` to length 1; a head that does not move becomes NaN."""
    norm = np.sqrt((courses**2).sum((0, 2), keepdims=True))
    return shares.ratio(courses, norm)


def _pairs(heads: int) -> list[tuple[int, int]]:
    return list(combinations(range(heads), 2))


def _mean_correlation(courses: Floats) -> float:
    scaled = _scale(courses)
    return float(np.mean([(scaled[:, a] * scaled[:, b]).sum() for a, b in _pairs(scaled.shape[1])]))


def _locked(course: Floats, rounds: int, rng: np.random.Generator) -> Correlated:
    length, heads, _ = course.shape
    value = _mean_correlation(course)
    if math.isnan(value):
        return Correlated(value, verdict=NOT + "a head does not vary")
    frequencies = np.fft.rfft(_scale(course), axis=0)  # [F, H, U]
    at_shift = {  # the correlation of a pair at every shift of one against the other
        (a, b): np.fft.irfft(
            (frequencies[:, a].conj() * frequencies[:, b]).sum(1), length
        )
        for a, b in _pairs(heads)
    }  # fmt: skip
    shifts = rng.integers(0, length, (rounds, heads))
    null = np.mean(
        [found[(shifts[:, a] - shifts[:, b]) % length] for (a, b), found in at_shift.items()], 0
    )
    return _tested(value, null, min(length ** (heads - 1), shares.MANY), "too few steps to shift")


def _residual(
    trials: Floats, means: Floats, windows: Windows, rounds: int, rng: np.random.Generator
) -> Correlated:
    condition = windows.condition
    assert condition is not None
    _, of, repeats = np.unique(condition, return_inverse=True, return_counts=True)
    kept = repeats[of] > 1  # of a single trial nothing is left beside its mean
    if not kept.any():
        return Correlated(math.nan, verdict=NOT + "no condition was repeated")
    rest = trials[kept] - means[of[kept]]  # [n, T, H, U]
    rest = np.where(np.isfinite(rest), rest, 0)
    n, length, heads, n_units = rest.shape
    scaled = _scale(rest.reshape(n * length, heads, n_units))
    if np.isnan(scaled).any():
        return Correlated(math.nan, verdict=NOT + "a head does not vary between trials")
    flat = scaled.reshape(n, length, heads, n_units).swapaxes(1, 2).reshape(n, heads, -1)
    value, null, pairs = 0.0, np.zeros(rounds), _pairs(heads)
    for c in np.unique(of[kept]):
        own = flat[of[kept] == c]  # [trials of the condition, H, T U]
        orders = _orders(rounds, heads, len(own), rng)
        for a, b in pairs:
            products = own[:, a] @ own[:, b].T
            value += float(np.trace(products)) / len(pairs)
            null += products[orders[:, a], orders[:, b]].sum(1) / len(pairs)
    groups = [int(x) for x in np.bincount(of[kept]) if x]
    return _tested(value, null, shares.permutations(groups, heads - 1), "too few trials")


def _orders(rounds: int, heads: int, count: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Draw orders of trials, ``[R, H, n]``; those of the first head stay."""
    orders = np.broadcast_to(np.arange(count, dtype=np.int32), (rounds, heads, count)).copy()
    orders[:, 1:] = rng.permuted(orders[:, 1:], axis=2)
    return orders


def _tested(value: float, null: Floats, distinct: int, few: str) -> Correlated:
    found = (float(null.mean()), float(np.quantile(null, 0.95)))
    return Correlated(
        value, shares.p_value(value, null), found, distinct, shares.verdict(distinct, few)
    )

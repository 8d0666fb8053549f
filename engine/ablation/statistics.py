"""What removing units says: curves, intervals, and tests against other rankings.

Everything starts from a metric's sums by block (:mod:`.metrics`). Arrays that are given back end in
``E = 1 + M``: first the mean over dimensions, which is the headline, then each dimension. The mean
is over dimensions in which the metric is defined before anything is removed.

* **Test.** One summary, fixed beforehand: the area between a curve and its baseline over the first
  half of the units. ``p = (1 + nulls at least as extreme) / (1 + nulls)`` (Phipson and Smyth 2010,
  doi:10.2202/1544-6115.1585). Areas equal up to rounding count as extreme, undefined ones too.
* **Intervals.** Paired bootstrap of blocks (Davison and Hinkley 1997, Bootstrap Methods and their
  Application, sections 5.3 and 8.2): a resample draws blocks, adds their sums and computes every
  curve anew, so the same resample serves all numbers removed. Percentile intervals of 95 %.
* **Bands** hold at all numbers removed together: the largest deviation over the curve, in units of
  the bootstrap's standard deviation (max-t; Romano and Wolf 2005, doi:10.1198/016214504000000539).
* **Many conditions**: false discovery rate (Benjamini and Hochberg 1995,
  doi:10.1111/j.2517-6161.1995.tb02031.x).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, stats

from .. import errors
from ..analysis.shares import FEW
from .metrics import Metric

Floats = NDArray[np.float64]

ALPHA = 0.05
TAILS = (ALPHA / 2, 1 - ALPHA / 2)
RESAMPLES = 2000
FEWEST_BLOCKS = 5  # four have 35 distinct resamples
MISSING = 0.05  # an interval may lack this share of its resamples
TIE = 1e-6  # of the largest value: the same units removed in another order, in float32
SIDES = ("greater", "less")

SIGNIFICANT, NOT_SIGNIFICANT = "significant", "not significant"
NOT_TESTABLE = "not testable"
TOO_FEW_UNITS, TOO_FEW_RANKINGS = "too few units", "too few rankings"
UNDEFINED = "undefined"


@dataclass(frozen=True, eq=False)
class Removal:
    """Sums of a metric while units are removed by one ranking.

    Attributes:
        metric: The metric.
        removed: Numbers of units removed, ``[C]``, rising, the first 0.
        n_units: Units ``U`` in all.
        ranked: Sums along the ranking, ``[C, B, M, k]`` for ``B`` blocks.
        constant: Sums of the predictor that always says the training mean, ``[B, M, k]``.

    Raises:
        AttendriteError: Shapes that do not fit, or numbers removed that do not rise from 0.
    """

    metric: Metric
    removed: NDArray[np.int64]
    n_units: int
    ranked: Floats
    constant: Floats

    def __post_init__(self) -> None:
        errors.shape("constant", self.constant, ["B", "M", "k"])
        errors.shape("ranked", self.ranked, [len(self.removed), *self.constant.shape])
        if self.removed[0] != 0 or (np.diff(self.removed) <= 0).any():
            raise errors.must("numbers removed", "rise from 0", list(self.removed))
        if self.removed[-1] > self.n_units:
            raise errors.must("numbers removed", f"be at most {self.n_units}", self.removed[-1])


@dataclass(frozen=True, eq=False)
class Band:
    """Where 95 % of resamples lie; NaN without resamples. All ``[C, E]``.

    Attributes:
        low: Of each number removed by itself.
        high: The same, upper end.
        lowest: Of all numbers removed together.
        highest: The same, upper end.
    """

    low: Floats
    high: Floats
    lowest: Floats
    highest: Floats


@dataclass(frozen=True, eq=False)
class Baseline:
    """What is decoded before anything is removed.

    Attributes:
        value: ``[E]``.
        constant: Of the predictor that always says the training mean, ``[E]``.
        gain: How much better the first is than the second, ``[E]``.
        low: Lower end of the gain's interval, ``[E]``.
        high: Its upper end, ``[E]``.
        testable: Whether the interval lies above 0, ``[E]``: else there is nothing to lose.
        note: What keeps intervals from being, or empty.
    """

    value: Floats
    constant: Floats
    gain: Floats
    low: Floats
    high: Floats
    testable: NDArray[np.bool_]
    note: str


@dataclass(frozen=True, eq=False)
class Curve:
    """What one ranking does.

    Attributes:
        baseline: Before anything is removed.
        removed: ``[C]``.
        values: The metric, ``[C, E]``.
        band: Of the values.
        loss: Share that is lost of the baseline's gain over the constant, ``[C, E]``: 1 is all.
            NaN where there is no gain.
        loss_band: Of the loss; NaN where the baseline is not testable.
        half_loss: Number removed from which on half or more is lost, ``[E]``; NaN if none.
        area: By how much the metric gets worse, mean over the first half of the units, ``[E]``;
            NaN for a curve that ends before half of them are gone.
    """

    baseline: Baseline
    removed: NDArray[np.int64]
    values: Floats
    band: Band
    loss: Floats
    loss_band: Band
    half_loss: Floats
    area: Floats


@dataclass(frozen=True, eq=False)
class Comparison:
    """A ranking against a null.

    Attributes:
        side: ``greater``: removal by the ranking should do more harm than the null; or ``less``.
        rankings: Number of null rankings, ``R``.
        distinct: Number of distinct rankings that the null can give.
        p: ``[E]``; given whatever the verdict is, NaN where the ranking has no area.
        verdict: ``[E]`` texts; the first that holds of ``not testable``, ``undefined`` (no area),
            ``too few units`` (below 200 distinct rankings), ``too few rankings`` (p cannot be
            small), ``significant`` at 0.05, ``not significant``.
        area: Of the ranking, ``[E]``.
        null_low: 5 % quantile of the null's areas, ``[E]``.
        null_median: Their median, ``[E]``.
        null_high: Their 95 % quantile, ``[E]``.
        mean: Mean of the null's curves, ``[C, E]``.
        difference: Curve of the ranking minus that mean, ``[C, E]``.
        difference_band: Of the difference, over blocks; the null's rankings are given.
    """

    side: str
    rankings: int
    distinct: int
    p: Floats
    verdict: tuple[str, ...]
    area: Floats
    null_low: Floats
    null_median: Floats
    null_high: Floats
    mean: Floats
    difference: Floats
    difference_band: Band


@dataclass(frozen=True, eq=False)
class Drops:
    """What single conditions cost: one unit, one group.

    Attributes:
        drop: How much worse the metric gets, ``[N, E]``.
        low: Lower end of its interval, ``[N, E]``, paired with the baseline.
        high: Its upper end.
        p: Against nulls of the same size, ``[N, E]``; NaN without nulls.
        q: The same after Benjamini and Hochberg over conditions, ``[N, E]``.
    """

    drop: Floats
    low: Floats
    high: Floats
    p: Floats
    q: Floats


def resamples(n_blocks: int, n: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return how often each resample holds each block, ``[n, B]``.

    Args:
        n_blocks: Number of blocks ``B``; fewer than 5 have no resamples, and no intervals.
        n: Number of resamples.
        seed: At least 0.
    """
    n = n if n_blocks >= FEWEST_BLOCKS else 0
    rng = np.random.default_rng([seed, 0xB007])
    return rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), n).astype(np.float64)


def values(metric: Metric, sums: Floats, intact: Floats) -> Floats:
    """Return the metric of added sums ``[..., M, k]``, ``[..., E]``, the mean first.

    Args:
        metric: The metric.
        sums: Added over blocks.
        intact: Sums by block with nothing removed, ``[B, M, k]``: the mean is over the dimensions
            in which the metric is defined there.
    """
    known = np.isfinite(metric.of(intact.sum(0)))
    each = metric.of(sums)
    mean = each[..., known].sum(-1, keepdims=True) / (known.sum() or np.nan)
    return np.concatenate([mean, each], -1)


def baseline(metric: Metric, intact: Floats, constant: Floats, weights: Floats) -> Baseline:
    """Compare what is decoded with the predictor that always says the training mean.

    Args:
        metric: The metric.
        intact: Sums with nothing removed, ``[B, M, k]``.
        constant: Sums of the constant predictor, ``[B, M, k]``.
        weights: ``[n, B]``, as :func:`resamples`.
    """
    both = np.stack([intact, constant])
    value, chance = values(metric, both.sum(1), intact)
    drawn = _resampled(metric, both, weights, intact)
    low, high = _quantiles(metric.better * (drawn[:, 0] - drawn[:, 1]), TAILS)
    few = f"intervals need {FEWEST_BLOCKS} blocks, got {len(intact)}"
    note = few if len(intact) < FEWEST_BLOCKS else ""
    return Baseline(value, chance, metric.better * (value - chance), low, high, low > 0, note)


def curve(removal: Removal, weights: Floats) -> Curve:
    """Return what one ranking does, with intervals.

    Args:
        removal: Its sums.
        weights: ``[n, B]``, as :func:`resamples`.
    """
    metric, ranked = removal.metric, removal.ranked
    before = baseline(metric, ranked[0], removal.constant, weights)
    found = values(metric, ranked.sum(1), ranked[0])
    drawn = _resampled(metric, ranked, weights, ranked[0])
    chance = _resampled(metric, removal.constant[None], weights, ranked[0])
    loss = _loss(metric.better * found, metric.better * before.constant[None])
    lost = _loss(metric.better * drawn, metric.better * chance)
    return Curve(
        before,
        removal.removed,
        found,
        _band(found, drawn),
        loss,
        _band(np.where(before.testable, loss, np.nan), np.where(before.testable, lost, np.nan)),
        _stays(loss >= 0.5, removal.removed),
        _area(removal, found),
    )


def compare(
    removal: Removal,
    found: Curve,
    null: Floats,
    distinct: int,
    weights: Floats,
    side: str = "greater",
) -> Comparison:
    """Test a ranking against others.

    Args:
        removal: Sums of the ranking.
        found: Its curve.
        null: Sums of ``R`` other rankings, ``[R, C, B, M, k]``.
        distinct: Number of distinct rankings that the null can give.
        weights: ``[n, B]``, as :func:`resamples`; the ones of the curve. ``[0, B]`` gives no band.
        side: ``greater`` or ``less``.

    Raises:
        AttendriteError: No rankings, shapes that do not fit, or an unknown side.
    """
    errors.choice("side", side, SIDES)
    errors.shape("null", null, ["R", *removal.ranked.shape])
    if not len(null):
        raise errors.must("null rankings", "be at least one", 0)
    intact = removal.ranked[0]
    curves = values(removal.metric, null.sum(2), intact)  # [R, C, E]
    areas = _area(removal, curves)
    p = p_value(found.area, areas, side, np.nan_to_num(np.abs(found.values)).max(0))
    verdicts = [
        verdict(*each, distinct, len(null))
        for each in zip(p.tolist(), found.baseline.testable.tolist(), strict=True)
    ]
    low, median, high = _quantiles(areas, (ALPHA, 0.5, 1 - ALPHA))
    mean = curves.mean(0)
    difference = found.values - mean
    drawn = _resampled(removal.metric, removal.ranked, weights, intact)
    if len(weights):
        for one in null:  # all at once would take R times the memory
            drawn -= _resampled(removal.metric, one, weights, intact) / len(null)
    return Comparison(
        side, len(null), distinct, p, tuple(verdicts), found.area, low, median, high, mean,
        difference, _band(difference, drawn),
    )  # fmt: skip


def drops(
    metric: Metric,
    intact: Floats,
    conditions: Floats,
    weights: Floats,
    nulls: Sequence[Floats] | None = None,
    side: str = "greater",
) -> Drops:
    """Return what each of some conditions costs.

    Args:
        metric: The metric.
        intact: Sums with nothing removed, ``[B, M, k]``.
        conditions: Sums of ``N`` conditions, ``[N, B, M, k]``.
        weights: ``[n, B]``, as :func:`resamples`.
        nulls: For each condition sums of others of the same size, ``[R, B, M, k]``; the same array
            may serve many.
        side: ``greater`` or ``less``, of the test.

    Raises:
        AttendriteError: Shapes that do not fit, or an unknown side.
    """
    errors.choice("side", side, SIDES)
    errors.shape("conditions", conditions, ["N", *intact.shape])
    all_of = np.concatenate([intact[None], conditions])
    found = values(metric, all_of.sum(1), intact)
    drop = metric.better * (found[0] - found[1:])
    drawn = _resampled(metric, all_of, weights, intact)
    low, high = _quantiles(metric.better * (drawn[:, :1] - drawn[:, 1:]), TAILS)
    p = np.full_like(drop, np.nan)
    if nulls is not None:
        if len(nulls) != len(conditions):
            raise errors.must("nulls", f"be one for each of {len(conditions)}", len(nulls))
        for i, null in enumerate(nulls):
            errors.shape(f"null of condition {i}", null, ["R", *intact.shape])
            others = metric.better * (found[0] - values(metric, null.sum(1), intact))
            p[i] = p_value(drop[i], others, side, np.nan_to_num(np.abs(found[0])))
    q = np.full_like(p, np.nan)
    for e, column in enumerate(p.T):
        known = np.isfinite(column)
        q[known, e] = stats.false_discovery_control(column[known])
    return Drops(drop, low, high, p, q)


def p_value(value: Floats, null: Floats, side: str, scale: Floats) -> Floats:
    """Return (1 + nulls at least as extreme) / (1 + nulls), ``[E]``; NaN where there is no value.

    Args:
        value: ``[E]``.
        null: ``[R, E]``.
        side: ``greater`` or ``less``.
        scale: Size of the numbers whose differences these are, ``[E]``: of their rounding.
    """
    sign = 1 if side == "greater" else -1
    below = sign * null < sign * value - TIE * scale
    return np.where(np.isnan(value), np.nan, (1 + (~below).sum(0)) / (1 + len(null)))


def verdict(p: float, testable: bool, distinct: int, rankings: int) -> str:
    """Say in words what a p-value means; the first that holds, see :class:`Comparison`.

    Args:
        p: Of one dimension.
        testable: Whether there is anything to lose.
        distinct: Number of distinct rankings, or sets, that the null can give.
        rankings: Number that were drawn.
    """
    if not testable:
        return NOT_TESTABLE
    if np.isnan(p):
        return UNDEFINED
    if distinct < FEW:
        return TOO_FEW_UNITS
    if 1 / (1 + rankings) > ALPHA:
        return TOO_FEW_RANKINGS
    return SIGNIFICANT if p <= ALPHA else NOT_SIGNIFICANT


def _resampled(metric: Metric, sums: Floats, weights: Floats, intact: Floats) -> Floats:
    """Compute values ``[n, C, E]`` of every resample from sums ``[C, B, M, k]``."""
    return values(metric, np.tensordot(weights, sums, (1, 1)), intact)


def _loss(curves: Floats, chance: Floats) -> Floats:
    """Share lost of the gain, ``[..., C, E]``; both better where higher; NaN without a gain."""
    intact = curves[..., :1, :]
    gain = intact - chance
    return np.where(gain > 0, (intact - curves) / np.where(gain > 0, gain, 1), np.nan)


def _stays(over: NDArray[np.bool_], removed: NDArray[np.int64]) -> Floats:
    """Return the first number removed from which on all are over, ``[E]``."""
    stays = np.logical_and.accumulate(over[::-1])[::-1]
    return np.where(stays.any(0), removed[stays.argmax(0)], np.nan)


def _area(removal: Removal, curves: Floats) -> Floats:
    """Mean fall of curves ``[..., C, E]`` below their baseline over the first half of the units.

    The trapezoidal rule is linear in the values: a weight for each number removed.
    """
    half = removal.n_units / 2
    if removal.removed[-1] < half:
        return np.full((*curves.shape[:-2], curves.shape[-1]), np.nan)
    places = np.append(removal.removed[removal.removed < half], half)
    hats = np.stack(
        [np.interp(places, removal.removed, hat) for hat in np.eye(len(removal.removed))]
    )
    weights = integrate.trapezoid(hats, places, axis=1) / half
    used = weights > 0
    fall = removal.metric.better * (curves[..., :1, :] - curves)
    found: Floats = np.einsum("c,...ce->...e", weights[used], fall[..., used, :])
    return found


def _quantiles(draws: Floats, at: Sequence[float]) -> Floats:
    """Return quantiles over the first axis; NaN where too many draws are undefined."""
    if not len(draws):
        return np.full((len(at), *draws.shape[1:]), np.nan)
    missing = np.isnan(draws)
    if not missing.any():
        return np.quantile(draws, at, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where no draw is defined
        found = np.nanquantile(draws, at, axis=0)
    return np.where(missing.mean(0) > MISSING, np.nan, found)


def _band(curve: Floats, draws: Floats) -> Band:
    """Return intervals and simultaneous band of a curve ``[C, E]`` from resamples ``[n, C, E]``."""
    low, high = _quantiles(draws, TAILS)
    if not len(draws):
        return Band(low, high, low.copy(), high.copy())
    there = np.isfinite(draws) & np.isfinite(curve)
    n = np.maximum(there.sum(0), 1)
    mean = np.where(there, draws, 0).sum(0) / n
    off = np.where(there, draws - mean, 0)
    spread = np.sqrt((off**2).sum(0) / n)
    varies = spread > 1e-9 * spread.max(0)  # at 0 removed a difference is 0 in every resample
    moved = np.where(there & varies, np.abs(draws - curve), 0) / np.where(varies, spread, 1)
    reach = np.quantile(moved.max(1), 1 - ALPHA, axis=0) * np.where(varies, spread, 0)
    reach = np.where(np.isnan(low), np.nan, reach)
    return Band(low, high, curve - reach, curve + reach)

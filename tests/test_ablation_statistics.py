"""Metrics as sums, rankings to compare with, and what curves, intervals and tests say of them."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from attendrite import evaluation
from attendrite.ablation import metrics, statistics
from attendrite.ablation.nulls import bottom, distinct, random, ranking, rate
from attendrite.ablation.statistics import Removal
from attendrite.analysis.strata import Strata, by_rate
from attendrite.errors import AttendriteError
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


def by_block(metric: metrics.Metric, true: Any, decoded: Any, blocks: int) -> Floats:
    """Sums of contiguous blocks, ``[..., B, M, k]``."""
    parts = np.array_split(np.arange(len(true)), blocks)
    return np.stack([metric.sums(true[p], decoded[..., p, :]) for p in parts], -3)


# -------------------------------------------------------------------------------------- metrics
@given(st.integers(4, 100), st.integers(1, 4), st.floats(-100, 100))
def test_sums_of_blocks_give_the_metric_of_all_samples(n: int, blocks: int, about: float) -> None:
    rng = np.random.default_rng(n)
    true = rng.normal(3, 2, (n, 2))
    decoded = 0.5 * true + rng.normal(size=(3, n, 2))
    for name, whole in (("r2", evaluation.r2), ("correlation", evaluation.correlation)):
        metric = metrics.chosen(name, about)
        found = metric.of(by_block(metric, true, decoded, blocks).sum(-3))
        expected = [whole(true, each) for each in decoded]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    mse = metrics.chosen("mse")
    found = mse.of(by_block(mse, true, decoded, blocks).sum(-3))
    np.testing.assert_allclose(found, ((true - decoded) ** 2).mean(1))


def test_a_far_mean_costs_no_digits_where_it_is_told() -> None:
    rng = np.random.default_rng(0)
    true = 1e9 + rng.normal(size=(50, 1))
    decoded = true + rng.normal(0, 0.5, (50, 1))
    for name, whole in (("r2", evaluation.r2), ("correlation", evaluation.correlation)):
        metric = metrics.chosen(name, true[:10].mean(0))
        found = metric.of(metric.sums(true, decoded))
        np.testing.assert_allclose(found, whole(true, decoded), rtol=1e-6)


def test_what_does_not_vary() -> None:
    ramp, flat = np.arange(9.0)[:, None], np.full((9, 1), 0.1)
    r2, correlation = metrics.chosen("r2", 0.3), metrics.chosen("correlation", 0.3)
    assert np.isnan(r2.of(r2.sums(flat, ramp)))
    assert np.isnan(correlation.of(correlation.sums(flat, ramp)))
    assert correlation.of(correlation.sums(ramp, flat)) == 0
    assert correlation.of(correlation.sums(ramp, -3 * ramp)) == pytest.approx(-1)


def test_metrics_of_classes() -> None:
    rng = np.random.default_rng(1)
    true, logits = rng.integers(0, 4, (30, 1)), rng.normal(0, 3, (2, 30, 4))
    accuracy, entropy = metrics.chosen("accuracy"), metrics.chosen("cross_entropy")
    found = accuracy.of(by_block(accuracy, true, logits, 4).sum(-3))
    assert found[:, 0].tolist() == [(each.argmax(1) == true[:, 0]).mean() for each in logits]
    found = entropy.of(by_block(entropy, true.astype(float), logits, 4).sum(-3))
    labels = torch.from_numpy(true[:, 0])
    expected = [torch.nn.functional.cross_entropy(torch.from_numpy(x), labels) for x in logits]
    np.testing.assert_allclose(found[:, 0], expected)
    assert entropy.better == metrics.chosen("mse").better == -1
    assert accuracy.better == metrics.chosen("r2").better == 1


def test_the_predictor_that_knows_no_spikes() -> None:
    training = np.array([[1.0, 10.0], [2.0, 30.0]])
    for name in ("r2", "mse", "correlation"):
        assert metrics.chosen(name).constant(training, 2).tolist() == [1.5, 20]
    r2 = metrics.chosen("r2")
    says = np.broadcast_to(r2.constant(training, 2), (2, 2))
    assert r2.of(r2.sums(training, says)).tolist() == [0, 0]
    classes = np.array([[0], [2], [2], [2]])
    logits = metrics.chosen("accuracy").constant(classes, 4)
    np.testing.assert_allclose(np.exp(logits), np.array([1.5, 0.5, 3.5, 0.5]) / 6)
    entropy = metrics.chosen("cross_entropy")  # finite for the class that training never showed
    assert entropy.of(entropy.sums(np.array([[1]]), logits[None])) == pytest.approx(math.log(12))


def test_a_function_is_averaged_over_the_blocks_where_it_is_finite() -> None:
    def largest(true: Floats, decoded: Floats) -> Floats:
        off = np.abs(true - decoded).max(0)
        return np.where(off > 5, np.nan, off)

    metric = metrics.chosen(largest, better=-1)
    assert (metric.name, metric.better) == ("largest", -1)
    true = np.zeros((6, 2))
    decoded = np.array([[[1, 1], [2, 9], [3, 2], [0, 0], [0, 1], [0, 1.0]]]).repeat(2, 0)
    found = metric.of(by_block(metric, true, decoded, 3).sum(-3))
    assert found.tolist() == [[(2 + 3 + 0) / 3, (2 + 1) / 2]] * 2
    one = metrics.chosen(lambda true, decoded: float(decoded.sum()))
    assert one.of(by_block(one, true, decoded[0], 3).sum(-3)).tolist() == [20 / 3]


def test_metrics_refuse_what_cannot_be_compared() -> None:
    r2, accuracy = metrics.chosen("r2"), metrics.chosen("accuracy")
    with pytest.raises(AttendriteError, match="unknown metric 'r3'; known: r2, mse, "):
        metrics.chosen("r3")
    with pytest.raises(AttendriteError, match="unknown better 0"):
        metrics.chosen(lambda true, decoded: 0.0, better=0)
    with pytest.raises(AttendriteError, match=r"decoded values must end in \[3, 2\]"):
        r2.sums(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(AttendriteError, match="decoded values must be finite"):
        r2.sums(np.zeros((1, 1)), np.full((4, 1, 1), np.nan))
    with pytest.raises(AttendriteError, match=r"logits must be of 3 samples"):
        accuracy.sums(np.zeros((3, 1)), np.zeros((2, 4)))
    for bad in (4, -1, 0.5):
        with pytest.raises(AttendriteError, match=rf"classes must be whole, in 0..3, got {bad}"):
            accuracy.sums(np.array([[1], [bad]]), np.zeros((2, 4)))
    with pytest.raises(AttendriteError, match="training samples must be at least one"):
        r2.constant(np.zeros((0, 2)), 2)


# ---------------------------------------------------------------------------------------- nulls
def uniform(draws: list[tuple[int, ...]], kinds: int) -> bool:
    """Whether each of some kinds came equally often; a false alarm has probability 1e-3."""
    counts = Counter(draws)
    p = float(stats.chisquare(list(counts.values())).pvalue)
    return len(counts) == kinds and p > 1e-3


STRATA = Strata(np.array([0, 1, 0, 1, 1, 0, 1]), 0)  # 3 units and 4


def test_random_rankings_are_uniform() -> None:
    order = np.array([2, 0, 3, 1])
    draws = [
        tuple(ranking("random", order, Strata(np.zeros(4, np.int64), 0), 5, r)) for r in range(4800)
    ]
    assert uniform(draws, 24)


def test_rate_keeps_the_stratum_of_each_place_and_is_uniform_within() -> None:
    order = np.array([6, 0, 1, 5, 2, 3, 4])
    draws = [ranking("rate", order, STRATA, 5, r) for r in range(5760)]
    assert all((STRATA.of[draw] == STRATA.of[order]).all() for draw in draws)
    assert uniform([tuple(draw) for draw in draws], 6 * 24)


@given(st.lists(st.integers(0, 3000), min_size=3, max_size=40), st.integers(0, 99))
def test_every_prefix_of_rate_holds_as_many_units_of_each_stratum(n: list[int], r: int) -> None:
    strata = by_rate(np.array(n))
    order = np.random.default_rng(r).permutation(len(n))
    draw = ranking("rate", order, strata, 0, r)
    members = np.eye(strata.of.max() + 1)
    assert (members[strata.of[draw]].cumsum(0) == members[strata.of[order]].cumsum(0)).all()
    assert sorted(draw) == list(range(len(n)))


def test_a_ranking_is_a_function_of_seed_null_and_number() -> None:
    order = np.arange(7)
    same = ranking("random", order, STRATA, 1, 2)
    assert (same == ranking("random", order, STRATA, 1, 2)).all()
    assert (same == random(order, np.random.default_rng([1, 1, 2]))).all()
    within = ranking("rate", order, STRATA, 1, 2)
    assert (within == rate(order, STRATA, np.random.default_rng([1, 2, 2]))).all()
    others = [ranking("random", order, STRATA, *key) for key in ((1, 3), (2, 2), (2, 1))]
    assert len({tuple(x) for x in [same, within, *others]}) == 5


def test_the_bottom_is_the_ranking_reversed() -> None:
    order = np.array([6, 0, 1, 5, 2, 3, 4])
    assert ranking("bottom", order, STRATA, 0, 0).tolist() == [4, 3, 2, 5, 1, 0, 6]
    assert not np.shares_memory(bottom(order), order)


def test_distinct_rankings_are_counted_up_to_a_milliard() -> None:
    assert [distinct(null, STRATA) for null in ("random", "rate", "bottom")] == [5040, 144, 1]
    assert distinct("random", Strata(np.zeros(1000, np.int64), 0)) == 10**9


def test_orders_that_lack_units_are_refused() -> None:
    with pytest.raises(AttendriteError, match="an order must hold each of 7 units once"):
        ranking("random", np.array([0, 1, 2, 3, 4, 5, 5]), STRATA, 0, 0)
    with pytest.raises(AttendriteError, match="unknown null 'count'"):
        ranking("count", np.arange(7), STRATA, 0, 0)


# ----------------------------------------------------------------------------- curves and areas
def error(curves: Any, blocks: int = 6) -> Floats:
    """Sums of a mean squared error that is ``curves`` ``[..., C]`` in each of some blocks."""
    values = np.asarray(curves, np.float64)[..., None, None]
    both = np.stack(np.broadcast_arrays(values, 1.0), -1)
    return np.repeat(both, blocks, -3)


def removal(ranked: Any, removed: Any, n_units: int, chance: float = 1.0) -> Removal:
    """A curve of errors; the constant predictor has ``chance``."""
    constant = error(chance)
    return Removal(metrics.chosen("mse"), np.array(removed), n_units, error(ranked), constant)


def curve_of(given: Removal) -> statistics.Curve:
    return statistics.curve(given, statistics.resamples(given.constant.shape[0], 200))


@pytest.mark.parametrize(
    ("removed", "n_units", "ranked", "area"),
    [
        ([0, 1, 2, 3, 4], 4, [0, 1, 3, 9, 9], (0.5 + 2) / 2),
        ([0, 2, 4], 4, [0, 4, 9], 2.0),
        ([0, 1, 2, 3], 5, [0, 0, 0, 2], (0.5 * 0.5 * 1) / 2.5),  # half lies between two points
        ([0, 4], 4, [1, 5], 1.0),  # no point up to the half but the first: a straight line
        ([0, 1], 1, [0, 1], 0.25),
    ],
)
def test_the_area_is_the_mean_fall_over_the_first_half(
    removed: list[int], n_units: int, ranked: list[float], area: float
) -> None:
    found = curve_of(removal(ranked, removed, n_units))
    np.testing.assert_allclose(found.area, [area, area])


def test_loss_and_the_number_from_which_half_is_lost() -> None:
    found = curve_of(removal([0.2, 0.7, 0.4, 0.6, 1.4], range(5), 5))
    np.testing.assert_allclose(found.loss[:, 0], [0, 0.625, 0.25, 0.5, 1.5])
    assert found.half_loss.tolist() == [3, 3]  # over a half at 1, but not to stay
    assert np.isnan(curve_of(removal([0.2, 0.7, 0.4], range(3), 3)).half_loss).all()
    assert np.isnan(curve_of(removal([1.5, 1.7], range(2), 2)).loss).all(), "nothing to lose"


def test_better_may_be_higher() -> None:
    rng = np.random.default_rng(3)
    true = rng.normal(size=(60, 2))
    decoded = np.array([1.0, 0.6, 0.0])[:, None, None] * true
    r2 = metrics.chosen("r2")
    constant = by_block(r2, true, np.broadcast_to(true.mean(0), true.shape), 6)
    given = Removal(r2, np.array([0, 1, 2]), 2, by_block(r2, true, decoded, 6), constant)
    found = curve_of(given)
    expected = np.array([evaluation.r2(true, each) for each in decoded])
    np.testing.assert_allclose(found.values[:, 1:], expected)
    np.testing.assert_allclose(found.values[:, 0], expected.mean(1))
    np.testing.assert_allclose(found.loss, 1 - found.values)
    np.testing.assert_allclose(found.area, (found.values[0] - found.values[1]) / 2)
    assert found.baseline.testable.all()


def test_a_dimension_that_does_not_vary_is_left_out_of_the_mean() -> None:
    rng = np.random.default_rng(3)
    true = np.stack([rng.normal(size=60), np.ones(60)], 1)
    decoded = np.array([1.0, 0.5])[:, None, None] * true
    r2 = metrics.chosen("r2")
    constant = by_block(r2, true, np.zeros((60, 2)), 6)
    given = Removal(r2, np.array([0, 1]), 1, by_block(r2, true, decoded, 6), constant)
    found = curve_of(given)
    np.testing.assert_array_equal(found.values[:, 0], found.values[:, 1])
    assert np.isnan(found.values[:, 2]).all()
    assert np.isfinite(found.band.low[:, :2]).all()
    assert found.baseline.testable.tolist() == [True, True, False]
    none = Removal(r2, np.array([0, 1]), 1, *(x[..., 1:, :] for x in (given.ranked, constant)))
    assert np.isnan(curve_of(none).values).all()


def test_numbers_removed_must_rise_from_nothing() -> None:
    for removed in ([1, 2], [0, 0], [0, 2, 1]):
        with pytest.raises(AttendriteError, match="numbers removed must rise from 0"):
            removal(np.zeros(len(removed)), removed, 4)
    with pytest.raises(AttendriteError, match="numbers removed must be at most 4"):
        removal([0, 1], [0, 5], 4)
    with pytest.raises(AttendriteError, match="ranked must have shape"):
        removal([0, 1, 2], [0, 1], 4)


# ---------------------------------------------------------------------------------------- tests
def compared(
    ranked: Any, null: Any, *, chance: float = 1.0, distinct: int = 10**9, side: str = "greater"
) -> statistics.Comparison:
    """Compare curves over 0, 1, .. units removed."""
    points = len(ranked)
    given = removal(ranked, range(points), points - 1, chance)
    weights = statistics.resamples(6, 200)
    return statistics.compare(
        given, statistics.curve(given, weights), error(null), distinct, weights, side
    )


NULL = [[0, x, 1] for x in np.linspace(0.1, 0.5, 39)]  # of two units; half is after one


@pytest.mark.parametrize(
    ("value", "side", "p"),
    [
        (0.6, "greater", 1 / 40),
        (0.6, "less", 1.0),
        (0.0, "greater", 1.0),
        (0.0, "less", 1 / 40),
        (NULL[30][1], "greater", (1 + 9) / 40),  # 9 of 39 at least as large, itself among them
        (NULL[30][1] * (1 + 1e-9), "greater", (1 + 9) / 40),  # the same but for rounding
        (NULL[30][1], "less", (1 + 31) / 40),
    ],
)
def test_p_counts_nulls_at_least_as_extreme(value: float, side: str, p: float) -> None:
    found = compared([0, value, 1], NULL, side=side)
    assert found.p.tolist() == [p, p]
    assert found.rankings == 39
    assert found.verdict == (("significant" if p <= 0.05 else "not significant"),) * 2
    areas = [x / 2 for _, x, _ in NULL]
    np.testing.assert_allclose(found.null_median, np.median(areas))
    np.testing.assert_allclose(found.null_low, np.quantile(areas, 0.05))
    np.testing.assert_allclose(found.null_high, np.quantile(areas, 0.95))
    np.testing.assert_allclose(found.area, value / 2)
    np.testing.assert_allclose(found.difference[:, 0], [0, value - 0.3, 0], atol=1e-12)


def test_undefined_nulls_count_as_extreme() -> None:
    null = [*NULL[:-1], [0, np.nan, 1]]
    assert compared([0, 0.6, 1], null).p.tolist() == [2 / 40, 2 / 40]
    assert compared([0, 0.0, 1], null, side="less").p.tolist() == [2 / 40, 2 / 40]


def test_verdicts_in_their_order() -> None:
    clear, few = [0, 0.6, 1], NULL[:18]
    assert compared(clear, NULL, distinct=200).verdict[0] == "significant"
    assert compared(clear, NULL, distinct=199).verdict[0] == "too few units"
    assert compared(clear, few).verdict[0] == "too few rankings"
    assert compared(clear, few, distinct=199).verdict[0] == "too few units"
    worthless = compared([1, 1.6, 2], [[1, 1 + x, 2] for _, x, _ in NULL], distinct=199)
    assert worthless.verdict[0] == "not testable"
    assert worthless.p[0] == 1 / 40, "it is given nevertheless"
    assert compared([0, np.nan, 1], NULL).verdict[0] == "undefined"


def test_a_curve_that_ends_before_half_has_no_test() -> None:
    given = removal([0, 0.6], [0, 1], 4)
    weights = statistics.resamples(6, 100)
    curve = statistics.curve(given, weights)
    found = statistics.compare(given, curve, error([[0, 0.1]] * 39), 10**9, weights)
    assert np.isnan(curve.area).all()
    assert np.isnan(found.p).all()
    assert found.verdict == ("undefined", "undefined")
    np.testing.assert_allclose(found.difference[:, 0], [0, 0.5])


def test_a_null_must_fit() -> None:
    with pytest.raises(AttendriteError, match="null must have shape"):
        compared([0, 0.6, 1], np.zeros((5, 2)))
    with pytest.raises(AttendriteError, match="null rankings must be at least one"):
        compared([0, 0.6, 1], np.zeros((0, 3)))
    with pytest.raises(AttendriteError, match="unknown side 'two'"):
        compared([0, 0.6, 1], NULL, side="two")


# ------------------------------------------------------------------------------------ intervals
def noisy(
    seed: int = 0, blocks: int = 12, per_block: int = 5, rankings: int = 3
) -> tuple[Removal, Floats, Floats, Floats, Floats]:
    """A removal in R2 with nulls, and the samples behind: truth, decoded, decoded of nulls."""
    rng = np.random.default_rng(seed)
    n = blocks * per_block
    true = rng.normal(size=(n, 2)) * [1, 3]
    keeps = np.linspace(1, 0, 5)[:, None, None]
    decoded = keeps * true + rng.normal(0, 0.5, (5, n, 2))
    others = np.sqrt(keeps) * true + rng.normal(0, 0.5, (rankings, 5, n, 2))
    r2 = metrics.chosen("r2")
    constant = by_block(r2, true, np.zeros_like(true), blocks)
    given = Removal(r2, np.arange(5), 4, by_block(r2, true, decoded, blocks), constant)
    return given, by_block(r2, true, others, blocks), true, decoded, others


def with_mean(values: Floats) -> Floats:
    return np.concatenate([values.mean(-1, keepdims=True), values], -1)


def test_resamples_are_of_blocks_and_serve_all_curves() -> None:
    """Against the long way: samples of drawn blocks are put together and scored anew."""
    given, null, true, decoded, others = noisy()
    weights = statistics.resamples(12, 60, seed=4)
    values, losses, gains, differences = [], [], [], []
    for weight in weights:
        drawn = np.repeat(np.arange(12), weight.astype(int))
        at = (drawn[:, None] * 5 + np.arange(5)).reshape(-1)
        scores = with_mean(np.array([evaluation.r2(true[at], x[at]) for x in decoded]))
        chance = with_mean(evaluation.r2(true[at], np.zeros_like(true[at])))
        nulls = [
            with_mean(np.array([evaluation.r2(true[at], x[at]) for x in one])) for one in others
        ]
        values.append(scores)
        losses.append((scores[0] - scores) / (scores[0] - chance))
        gains.append(scores[0] - chance)
        differences.append(scores - np.mean(nulls, 0))
    curve = statistics.curve(given, weights)
    found = statistics.compare(given, curve, null, 10**9, weights)
    for band, draws in (
        (curve.band, values), (curve.loss_band, losses), (found.difference_band, differences)
    ):  # fmt: skip
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        np.testing.assert_allclose(band.low, low, atol=1e-12)
        np.testing.assert_allclose(band.high, high, atol=1e-12)
    low, high = np.quantile(gains, [0.025, 0.975], axis=0)
    np.testing.assert_allclose([curve.baseline.low, curve.baseline.high], [low, high], atol=1e-12)
    # The band: deviations in standard deviations, the largest over the curve.
    spread = np.std(differences, 0)
    moved = np.abs(np.array(differences) - found.difference) / spread
    reach = np.quantile(moved.max(1), 0.95, 0) * spread
    np.testing.assert_allclose(found.difference_band.highest, found.difference + reach)
    np.testing.assert_allclose(found.difference_band.lowest, found.difference - reach)


def test_copies_of_samples_within_a_block_bring_no_certainty() -> None:
    rng = np.random.default_rng(5)
    true = rng.normal(size=(20, 1))
    decoded = true + rng.normal(0, 0.5, (2, 20, 1))
    r2 = metrics.chosen("r2")
    widths = []
    for copies in (1, 10):
        repeated = np.repeat(true, copies, 0), np.repeat(decoded, copies, 1)
        ranked = by_block(r2, *repeated, 20)
        constant = by_block(r2, repeated[0], np.zeros_like(repeated[0]), 20)
        band = curve_of(Removal(r2, np.array([0, 1]), 1, ranked, constant)).band
        widths.append(band.high - band.low)
    np.testing.assert_allclose(widths[0], widths[1])


def test_a_paired_difference_that_is_the_same_in_every_block_is_certain() -> None:
    errors = np.random.default_rng(6).exponential(size=30)
    sums = np.stack([errors, np.ones(30)], -1)[None, :, None].repeat(2, 0)  # [2, B, 1, k]
    sums[1, ..., 0] += 0.25
    weights = statistics.resamples(30, 300)
    mse = metrics.chosen("mse")
    found = statistics.drops(mse, sums[0], sums[1:], weights)
    np.testing.assert_allclose([found.drop, found.low, found.high], 0.25)
    assert np.isnan(found.p).all()
    assert np.isnan(found.q).all()
    curve = statistics.curve(Removal(mse, np.array([0, 1]), 1, sums, sums[1] * 2), weights)
    assert (curve.band.high - curve.band.low > 0.3).all(), "of the values themselves it is not"


def test_what_never_moves_is_left_out_of_the_band() -> None:
    given, null, *_ = noisy()
    null = null.copy()
    null[:, 0] = given.ranked[0]  # nothing removed is the same in every ranking, but for rounding
    null[:, 0, ..., 0] *= 1 + 1e-14 * np.random.default_rng(1).normal(size=(12, 2))
    weights = statistics.resamples(12, 300)
    found = statistics.compare(given, statistics.curve(given, weights), null, 10**9, weights)
    band = found.difference_band
    np.testing.assert_allclose([band.lowest[0], band.highest[0]], 0, atol=1e-12)
    rest = Removal(given.metric, np.arange(4), 3, given.ranked[1:], given.constant)
    alone = statistics.compare(rest, statistics.curve(rest, weights), null[:, 1:], 10**9, weights)
    np.testing.assert_allclose(band.highest[1:], alone.difference_band.highest)
    assert (band.lowest[1:] < band.low[1:]).all(), "a band is wider than intervals"
    assert (band.highest[1:] > band.high[1:]).all()


def covered(runs: int, blocks: int, points: int) -> tuple[float, float, float]:
    """Share of runs where intervals cover the truth: at one point, at all points; and the band."""
    rng = np.random.default_rng(7)
    mse = metrics.chosen("mse")
    weights = statistics.resamples(blocks, 300, seed=1)
    at_one, at_all, together = [], [], []
    for _ in range(runs):
        errors = rng.normal(2, 1, (points, blocks)) + rng.normal(0, 0.5, blocks)
        sums = np.stack([errors, np.ones_like(errors)], -1)[:, :, None]
        constant = np.full_like(sums[0], 9.0)
        band = statistics.curve(
            Removal(mse, np.arange(points), points, sums, constant), weights
        ).band
        inside = (band.low[:, 0] <= 2) & (band.high[:, 0] >= 2)
        at_one.append(inside[0])
        at_all.append(inside.all())
        together.append(((band.lowest[:, 0] <= 2) & (band.highest[:, 0] >= 2)).all())
    return tuple(float(np.mean(x)) for x in (at_one, at_all, together))  # type: ignore[return-value]


def test_intervals_and_bands_cover_as_often_as_they_say() -> None:
    """With 200 runs a coverage of 0.95 has a standard error of 0.015; four of them are allowed."""
    at_one, at_all, together = covered(200, 60, 12)
    assert 0.888 < at_one < 1
    assert 0.888 < together < 1
    assert at_all < 0.8, "intervals of single points do not cover 12 at once"


def test_few_blocks_have_no_intervals() -> None:
    given, null, *_ = noisy(blocks=4)
    weights = statistics.resamples(4)
    curve = statistics.curve(given, weights)
    found = statistics.compare(given, curve, null, 10**9, weights)
    for band in (curve.band, curve.loss_band, found.difference_band):
        assert all(np.isnan(array).all() for array in vars(band).values())
    assert np.isnan([curve.baseline.low, curve.baseline.high]).all()
    assert curve.baseline.note == "intervals need 5 blocks, got 4"
    assert found.verdict == ("not testable",) * 3
    assert np.isfinite(found.p).all()
    assert np.isfinite(curve.values).all()
    assert statistics.resamples(5).shape == (2000, 5)


def test_resamples_hold_as_many_blocks_as_there_are() -> None:
    weights = statistics.resamples(7, 4000, seed=2)
    assert (weights.sum(1) == 7).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.08)  # 5 standard errors
    assert (weights == statistics.resamples(7, 4000, seed=2)).all()
    assert (weights != statistics.resamples(7, 4000, seed=3)).any()


def test_loss_has_no_interval_where_there_is_nothing_to_lose() -> None:
    rng = np.random.default_rng(8)
    true, r2 = rng.normal(size=(60, 1)), metrics.chosen("r2")
    decoded = rng.normal(0, 0.1, (3, 60, 1))
    constant = by_block(r2, true, np.zeros_like(true), 12)
    given = Removal(r2, np.arange(3), 2, by_block(r2, true, decoded, 12), constant)
    found = curve_of(given)
    assert not found.baseline.testable.any()
    assert np.isnan(found.loss_band.low).all()
    assert np.isfinite(found.band.low).all()


# ---------------------------------------------------------------------------- single conditions
def test_drops_with_tests_and_false_discovery_rate() -> None:
    mse = metrics.chosen("mse")
    small, large = error(np.linspace(0, 1, 39)), error(np.linspace(1, 2, 39))
    conditions = error([0.5, 3.0, 0.99, 1.5])
    weights = statistics.resamples(6, 100)
    found = statistics.drops(mse, error(0.2), conditions, weights, [small, large, small, large])
    np.testing.assert_allclose(found.drop[:, 0], [0.3, 2.8, 0.79, 1.3])
    p = [(1 + 20) / 40, 1 / 40, (1 + 1) / 40, (1 + 20) / 40]
    np.testing.assert_allclose(found.p[:, 0], p)
    # Benjamini and Hochberg by hand: p times 4 over its rank, falling from the largest.
    np.testing.assert_allclose(found.q[:, 0], [21 / 40, 0.1, 0.1, 21 / 40])
    less = statistics.drops(mse, error(0.2), conditions[:1], weights, [small], "less")
    np.testing.assert_allclose(less.p[0], (1 + 20) / 40)


def test_nulls_of_drops_are_one_per_condition() -> None:
    mse, weights = metrics.chosen("mse"), statistics.resamples(6, 100)
    with pytest.raises(AttendriteError, match="nulls must be one for each of 2, got 1"):
        statistics.drops(mse, error(0), error([1, 2]), weights, [error([1, 2])])
    with pytest.raises(AttendriteError, match="null of condition 0 must have shape"):
        statistics.drops(mse, error(0), error([1]), weights, [error(1)])

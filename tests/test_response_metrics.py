"""Metrics of predicted responses: the original code's figures, definitions written out, edges."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attendrite.errors import AttendriteError
from attendrite.evaluation import responses as metrics
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
TOLERANCE = 1e-5  # the original computes in float32


@pytest.fixture(scope="module")
def golden() -> Arrays:
    path = Path(__file__).parent / "fixtures" / "v1t_metrics" / "golden.npz"
    return dict(np.load(path, allow_pickle=False))


@pytest.fixture(scope="module")
def ordered(golden: Arrays) -> Arrays:
    trials, units = golden["trial_ids"], golden["neuron_ids"]
    assert (np.diff(trials) < 0).any()  # sorting has something to do
    assert (np.diff(units) < 0).any()
    found = {
        name: metrics.sort_by_ids(golden[name], trials, units)
        for name in ("targets", "predictions")
    }
    return found | {"image_ids": golden["image_ids"][np.argsort(trials)]}


def test_correlations_are_those_of_v1t(golden: Arrays, ordered: Arrays) -> None:
    a, b, images = ordered.values()
    single = metrics.single_trial_correlation(a, b)
    average = metrics.correlation_to_average(a, b, images)
    for value, name in ((single, "single_trial"), (average, "corr_to_average")):
        np.testing.assert_allclose(value, golden[name], rtol=0, atol=TOLERANCE)
        assert value.mean() == pytest.approx(float(golden[f"{name}_mean"]), abs=TOLERANCE)


def test_explained_variance_is_that_of_v1t(golden: Arrays, ordered: Arrays) -> None:
    a, b, images = ordered.values()
    np.testing.assert_allclose(metrics.fev(a, images), golden["fev"], rtol=0, atol=TOLERANCE)
    every = metrics.feve(a, b, images, threshold=-np.inf)
    np.testing.assert_allclose(every, golden["feve_unthresholded"], rtol=TOLERANCE, atol=TOLERANCE)
    value = metrics.feve(a, b, images)
    np.testing.assert_array_equal(np.isnan(value), golden["fev"] < 0.15)
    kept = value[~np.isnan(value)]
    np.testing.assert_allclose(kept, golden["feve"], rtol=0, atol=TOLERANCE)
    assert kept.mean() == pytest.approx(float(golden["feve_mean"]), abs=TOLERANCE)


def test_normalized_correlation_is_that_of_v1t(golden: Arrays, ordered: Arrays) -> None:
    value = metrics.v1t_normalized_correlation(*ordered.values())
    assert value == pytest.approx(float(golden["normalized_correlation"]), abs=TOLERANCE)


def test_orders_of_trials_change_nothing(ordered: Arrays) -> None:
    a, b, images = ordered.values()
    order = np.random.default_rng(0).permutation(len(a))
    for measure in (metrics.correlation_to_average, metrics.feve, metrics.jackknife_oracle):
        one, other = (
            measure(*args) if measure is not metrics.jackknife_oracle else measure(args[0], args[2])
            for args in ((a, b, images), (a[order], b[order], images[order]))
        )
        np.testing.assert_allclose(one, other, rtol=1e-10)


def test_pooled_correlation_pools() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 30, 4)) + np.array([0, 5, 10, 50])
    expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert metrics.pooled_correlation(a, b) == pytest.approx(expected, abs=1e-7)
    assert abs(metrics.single_trial_correlation(a, b).mean()) < 0.3 < expected


def test_both_averages_agree_where_predictions_repeat() -> None:
    rng = np.random.default_rng(2)
    images = np.repeat(np.arange(12), 5)
    a, image_part = rng.normal(size=(60, 3)), rng.normal(size=(12, 3))
    b = image_part[images]
    np.testing.assert_allclose(
        metrics.correlation_to_average(a, b, images),
        metrics.trial_to_average_correlation(a, b, images),
        atol=1e-6,
    )
    moved = b + rng.normal(size=b.shape)  # as behaviour would
    assert (
        metrics.trial_to_average_correlation(a, moved, images)
        != metrics.correlation_to_average(a, moved, images)
    ).all()
    by_hand = [
        np.corrcoef([a[images == images[t], 0].mean() for t in range(60)], moved[:, 0])[0, 1]
    ]
    np.testing.assert_allclose(
        metrics.trial_to_average_correlation(a, moved, images)[:1], by_hand, atol=1e-6
    )


def test_oracles_by_hand() -> None:
    rng = np.random.default_rng(3)
    images = np.array([4, 4, 4, 7, 7, 9, 9, 9, 9])
    a = rng.gamma(2, size=(9, 2))
    others = [
        np.mean([a[s] for s in range(9) if s != t and images[s] == images[t]], axis=0)
        for t in range(9)
    ]
    expected = [np.corrcoef(a[:, n], np.array(others)[:, n])[0, 1] for n in range(2)]
    np.testing.assert_allclose(metrics.jackknife_oracle(a, images), expected, atol=1e-6)
    means = np.array([a[images == i].mean(0) for i in (4, 7, 9)])
    noise = np.mean([a[images == i].var(0) for i in (4, 7, 9)], axis=0)
    signal = means.var(0)
    np.testing.assert_allclose(
        metrics.conservative_oracle(a, images), np.sqrt(signal / (signal + noise)), rtol=1e-12
    )


def test_oracles_enclose_the_truth() -> None:
    rng = np.random.default_rng(4)
    images = np.repeat(np.arange(400), 6)
    rest = rng.normal(size=(2400, 1)) * 1.5
    a = rng.normal(size=(400, 1))[images] + rest
    truth = 1 / np.sqrt(1 + 1.5**2)
    low, high = metrics.jackknife_oracle(a, images)[0], metrics.conservative_oracle(a, images)[0]
    assert low < truth < high
    assert metrics.fev(a, images)[0] == pytest.approx(truth**2, abs=0.04)
    signal = a - rest
    assert metrics.feve(a, signal, images)[0] == pytest.approx(1, abs=0.1)
    assert metrics.feve(a, a, images)[0] == pytest.approx(1 + 1.5**2, abs=0.4)  # knows the noise
    assert metrics.feve(a, signal * 0, images)[0] == pytest.approx(0, abs=0.1)


def test_a_neuron_that_does_not_vary() -> None:
    images = np.repeat(np.arange(5), 3)
    a = np.ones((15, 2))
    a[:, 1] = np.arange(15)
    assert metrics.single_trial_correlation(a, a)[0] == 0
    assert metrics.single_trial_correlation(a, a)[1] == pytest.approx(1, abs=1e-8)
    assert metrics.jackknife_oracle(a, images)[0] == 0
    for value in (metrics.fev(a, images), metrics.feve(a, a, images)):
        assert np.isnan(value[0])
        assert np.isfinite(value[1])
    assert np.isnan(metrics.conservative_oracle(a, images)[0])


def test_v1ts_normalized_correlation_without_a_ceiling_is_nan() -> None:
    rng = np.random.default_rng(5)
    a = rng.normal(size=(4, 50)) * 100  # all noise
    a[1] = -a[0] + 0.01 * rng.normal(size=50)
    a[3] = -a[2] + 0.01 * rng.normal(size=50)
    assert np.isnan(metrics.v1t_normalized_correlation(a, a, np.array([0, 0, 1, 1])))


ONCE = np.array([1, 1, 7])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a: metrics.fev(a, ONCE), "every image must be shown at least twice, got image 7"),
        (lambda a: metrics.feve(a, a, ONCE), "got image 7 once"),
        (lambda a: metrics.jackknife_oracle(a, ONCE), "got image 7 once"),
        (lambda a: metrics.conservative_oracle(a, ONCE), "got image 7 once"),
        (lambda a: metrics.v1t_normalized_correlation(a, a, ONCE), "got image 7 once"),
        (lambda a: metrics.fev(a, ONCE[:2]), "image ids must have shape [3], got [2]"),
        (lambda a: metrics.single_trial_correlation(a, a[:2]), "predictions must have shape [3"),
        (lambda a: metrics.single_trial_correlation(a[0], a[0]), "targets must have shape [T, N]"),
        (lambda a: metrics.single_trial_correlation(a[:0], a[:0]), "trials must be at least one"),
        (lambda a: metrics.single_trial_correlation(a, a * np.nan), "predictions must be finite"),
        (lambda a: metrics.fev(a / 0, ONCE), "targets must be finite, got targets[0, 0] = inf"),
        (lambda a: metrics.v1t_normalized_correlation(a[:, :1], a[:, :1], ONCE), "be at least two"),
        (lambda a: metrics.sort_by_ids(a, ONCE[:2], ONCE[:2]), "trial ids must have shape [3]"),
        (lambda a: metrics.sort_by_ids(a, ONCE, ONCE), "unit ids must have shape [2]"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused(call: Callable[[Any], Any], words: str) -> None:
    with np.errstate(divide="ignore"), pytest.raises(AttendriteError, match=re.escape(words)):
        call(np.ones((3, 2)))


def test_averages_of_images_shown_once_are_their_responses() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(2, 9, 3))
    np.testing.assert_allclose(
        metrics.correlation_to_average(a, b, np.arange(9)), metrics.single_trial_correlation(a, b)
    )

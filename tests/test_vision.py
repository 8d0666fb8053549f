"""Pupil thirds, ablated covariates, crops and retinotopy: planted effects and what is not one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attendrite.analysis import vision
from attendrite.errors import AttendriteError
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def test_a_better_prediction_with_a_large_pupil_is_found() -> None:
    rng = np.random.default_rng(0)
    dilation, signal = rng.uniform(size=300), rng.normal(size=(300, 20))
    noisy = signal + rng.normal(size=signal.shape) * np.where(dilation > 0.6, 0.3, 2)[:, None]
    found = vision.by_pupil(noisy, signal, dilation, rng=rng, rounds=199)
    assert found.large.mean() > 0.9
    assert found.small.mean() < 0.6
    assert found.p == 1 / 200
    order = np.argsort(dilation)[:100]
    by_hand = np.corrcoef(noisy[order, 3], signal[order, 3])[0, 1]
    assert found.small[3] == pytest.approx(by_hand, abs=1e-6)
    even = signal + rng.normal(size=signal.shape)
    nothing = vision.by_pupil(even, signal, dilation, rng=rng, rounds=199)
    assert nothing.p > 0.05
    assert abs((nothing.large - nothing.small).mean()) < nothing.null
    louder = signal * (1 + 3 * dilation)[:, None]
    small, large = vision.by_pupil(louder, signal, dilation, rng=rng, rounds=9).variance
    assert large > 2 * small


def test_ablated_covariates() -> None:
    rng = np.random.default_rng(1)
    image, pupil = rng.normal(size=(400, 5)), rng.normal(size=(400, 2)) + 10
    behavior = rng.normal(size=(400, 3)) + 5

    def predict(pupil: Any, behavior: Any) -> Any:
        return image + behavior[:, :1] * 2  # blind to the pupil

    targets = predict(pupil, behavior) + rng.normal(size=image.shape) * 0.1
    means = (np.full(2, 10.0), np.full(3, 5.0))
    found = {
        name: value.mean()
        for name, value in vision.ablation(predict, targets, pupil, behavior, means, rng).items()
    }
    assert found["intact"] == found["pupil at mean"] == found["pupil of others"] > 0.99
    assert 0.35 < found["behavior at mean"] < 0.55  # what the image says
    assert found["behavior of others"] < found["behavior at mean"]
    assert found["both at mean"] == found["behavior at mean"]
    seen = []
    vision.ablation(
        lambda p, b: seen.append((p, b)) or targets, targets, pupil, behavior, means, rng
    )
    np.testing.assert_array_equal(seen[1][0], np.full((400, 2), 10))
    np.testing.assert_array_equal(seen[3][1], np.full((400, 3), 5))
    assert sorted(map(tuple, seen[6][0])) == sorted(map(tuple, pupil))
    assert (seen[6][0] != pupil).any()


def test_only_the_window_that_is_read_matters() -> None:
    rng = np.random.default_rng(2)
    images = rng.normal(size=(200, 1, 12, 20)).astype(np.float32)
    before = images.copy()
    middle = (slice(None), 0, slice(3, 9), slice(5, 15))  # half of each side

    def predict(images: Any) -> Any:
        return images[middle].reshape(200, -1)[:, :7].astype(np.float64)

    targets = predict(images)
    kept, rest = vision.crops(predict, targets, images, [0, 0.5, 1], gray=0.0)
    np.testing.assert_allclose(kept, np.array([0, 1, 1])[:, None] * np.ones(7), atol=1e-6)
    np.testing.assert_allclose(rest, np.array([1, 0, 0])[:, None] * np.ones(7), atol=1e-6)
    np.testing.assert_array_equal(images, before)
    seen = []
    vision.crops(lambda x: seen.append(x) or targets, targets, images, [0.5], gray=0.25)
    assert (seen[0][0, 0] != 0.25).sum() == 60
    assert (seen[1][0, 0] == 0.25).sum() == 60


@pytest.mark.parametrize(("mirror", "sign"), [(1, 1), (-1, -1)])
def test_retinotopy_is_found_with_its_sign(mirror: int, sign: int) -> None:
    rng = np.random.default_rng(3)
    cortex = rng.uniform(0, 600, size=(200, 3))
    turn = np.deg2rad(30)
    slope = 0.02 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    slope[1] *= mirror
    fields = cortex[:, :2] @ slope.T + rng.normal(size=(200, 2)) + np.array([32, 18])
    found = vision.retinotopy(cortex, fields, rng=rng, rounds=199)
    np.testing.assert_allclose(found.slope, slope, atol=0.002)
    assert (found.sign, found.p) == (sign, 1 / 200)
    assert found.magnification == pytest.approx(0.02, rel=0.05)
    for k in range(2):
        rest = (
            fields[:, k] - fields[:, k].mean() - (cortex - cortex.mean(0))[:, :2] @ found.slope[k]
        )
        assert found.r2[k] == pytest.approx(1 - rest.var() / fields[:, k].var())
        assert found.r2[k] > 0.8
    assert found.null < 0.1
    loose = vision.retinotopy(cortex, rng.normal(size=(200, 2)), rng=rng, rounds=199)
    assert loose.p > 0.01
    assert max(loose.r2) < 0.1


ONES = np.ones((6, 2))
IMAGES = np.ones((6, 1, 4, 4))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: vision.by_pupil(ONES, ONES, ONES[:5, 0], rng=r), "dilation must have"),
        (lambda r: vision.by_pupil(ONES[:5], ONES[:5], ONES[:5, 0], rng=r), "trials must be at"),
        (lambda r: vision.by_pupil(ONES, ONES, ONES[:, 0] * np.nan, rng=r), "dilation must be"),
        (
            lambda r: vision.ablation(lambda p, b: ONES, ONES, ONES, ONES, (ONES[0], ONES[0]), r),
            "behavior must have shape [6, 3], got [6, 2]",
        ),
        (
            lambda r: vision.ablation(
                lambda p, b: ONES, ONES, ONES, np.ones((6, 3)), (ONES[0], ONES[0]), r
            ),
            "mean of behavior must have shape [3], got [2]",
        ),
        (lambda r: vision.crops(lambda x: ONES, ONES, IMAGES, [1.5], 0), "fractions must lie in"),
        (lambda r: vision.crops(lambda x: ONES, ONES, IMAGES, [1], np.nan), "gray must be finite"),
        (lambda r: vision.crops(lambda x: ONES, ONES, ONES, [1], 0), "images must have shape"),
        (lambda r: vision.retinotopy(ONES, ONES, rng=r), "positions must span a plane"),
        (lambda r: vision.retinotopy(ONES[:3], ONES[:3], rng=r), "have shape [4 or more, 2 or 3]"),
        (lambda r: vision.retinotopy(ONES, ONES[:3], rng=r), "fields must have shape [6, 2]"),
        (lambda r: vision.retinotopy(ONES * np.inf, ONES, rng=r), "positions must be finite"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(AttendriteError, match=re.escape(words)):
        call(np.random.default_rng(0))

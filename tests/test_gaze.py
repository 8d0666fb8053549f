"""Heat maps of rollouts and the pupil: V1T's figures, planted effects, and nulls that hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attendrite.analysis import gaze
from attendrite.errors import AttendriteError
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

Floats = NDArray[np.float64]
IMAGES, REPEATS, SIZE = 30, 8, (36, 64)


def rollout_of(attention: NDArray[np.floating]) -> Floats:
    """Rollout of full matrices ``[B, L, H, N, N]``, fused by the maximum: row 0, laid out."""
    fused = attention.astype(np.float64).max(2) + np.eye(attention.shape[-1])
    fused /= fused.sum(-1, keepdims=True)
    product = fused[:, 0]
    for block in range(1, fused.shape[1]):
        product = fused[:, block] @ product
    row = product[:, 0, 1:]
    patches = row.shape[1]
    height = next(k for k in range(int(np.ceil(patches**0.5)), 0, -1) if patches % k == 0)
    return row.reshape(len(row), height, -1)


def bumps(centres: Floats, size: tuple[int, int] = SIZE) -> Floats:
    """Heat maps with one bump each, ``[B, H, W]``, at ``centres`` ``[B, 2]`` from the middle."""
    y, x = np.mgrid[: size[0], : size[1]]
    at = centres + np.array(size[::-1]) / 2
    away = (x - at[:, :1, None]) ** 2 + (y - at[:, 1:, None]) ** 2
    return np.exp(-away / 50)


def trials(seed: int, images: int = IMAGES, repeats: int = REPEATS) -> tuple[Any, ...]:
    """Images repeated, a place for each image, and a pupil that knows the image but no more."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.repeat(np.arange(images), repeats))
    place = rng.normal(size=(images, 2))[ids]
    pupil = place + rng.normal(size=place.shape)
    return rng, ids, place, pupil


def test_heat_maps_are_those_of_v1t() -> None:
    path = Path(__file__).parent / "fixtures" / "v1t_rollout" / "golden.npz"
    golden = np.load(path, allow_pickle=False)
    maps = gaze.heat_maps(rollout_of(golden["attn"]), SIZE)
    assert maps.shape == golden["rollout"].shape
    np.testing.assert_allclose(maps, golden["rollout"], rtol=0, atol=5e-6)


@given(
    old=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    new=st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
def test_resizing_is_torchs(old: tuple[int, int], new: tuple[int, int]) -> None:
    values = np.random.default_rng(0).random((2, *old)) + np.eye(*old)
    unit = values - values.min((1, 2), keepdims=True)
    top = unit.max((1, 2), keepdims=True)
    if (top == 0).any():
        assert np.isnan(gaze.heat_maps(values, new)).all()
        return
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(unit / top)[None], new, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(gaze.heat_maps(values, new), expected[0].numpy(), atol=1e-12)


def test_centre_and_spread_by_hand() -> None:
    maps = np.zeros((3, 4, 6))
    maps[0, 1, 5] = 2
    maps[1, 0, 0] = maps[1, 3, 2] = 1
    np.testing.assert_allclose(gaze.centre_of_mass(maps[:2]), [[5, 1], [1, 1.5]])
    assert np.isnan(gaze.centre_of_mass(maps)[2]).all()
    columns, rows = maps[1].sum(0), maps[1].sum(1)
    np.testing.assert_allclose(gaze.spread(maps)[1], [columns.std(), rows.std()])


def test_the_published_figure() -> None:
    rng, ids, place, pupil = trials(0)
    maps = bumps(-3 * place)
    x, y = gaze.gaze_correlation(maps, 5 * pupil + 100, ids, rng=rng, recipe="v1t")
    centre = gaze.centre_of_mass(maps) - np.array([32, 18])
    for k, one in enumerate((x, y)):
        assert one.r == pytest.approx(abs(np.corrcoef(centre[:, k], pupil[:, k])[0, 1]))
        assert one.r > 0.5
        assert np.isnan(one.p)
    signed = gaze.gaze_correlation(maps, pupil, ids, rng=rng)
    assert signed[0].r == pytest.approx(-x.r)


def test_an_image_that_moves_both_is_no_finding() -> None:
    rng, ids, place, pupil = trials(1)
    maps = bumps(3 * place + rng.normal(size=place.shape))
    for one in gaze.gaze_correlation(maps, pupil, ids, rng=rng):
        assert one.r > 0.5  # what V1T's figure would show
        assert abs(one.within) < 0.2
        assert one.low < 0 < one.high
        assert one.p > 0.01
        assert (one.verdict, one.images) == ("tested", IMAGES)


def test_a_map_that_follows_the_pupil_is_found_with_its_sign() -> None:
    rng, ids, place, pupil = trials(2)
    maps = bumps(3 * place + (pupil - place) * np.array([2, -2]) + rng.normal(size=place.shape))
    x, y = gaze.gaze_correlation(maps, pupil, ids, rng=rng)
    assert x.p == y.p == 1 / 1001
    assert 0.7 < x.low < x.within < x.high
    assert y.low < y.within < y.high < -0.7
    assert 0 < x.null < 0.2
    deviations = [
        np.concatenate([z[ids == i, 0] - z[ids == i, 0].mean() for i in range(IMAGES)])
        for z in (gaze.centre_of_mass(maps), pupil)
    ]
    assert x.within == pytest.approx(np.corrcoef(*deviations)[0, 1])


def test_the_null_holds_its_level() -> None:
    found = []
    for seed in range(200):
        rng, ids, place, pupil = trials(1000 + seed, 12, 5)
        maps = bumps(3 * place + rng.normal(size=place.shape), (9, 16))
        found += [one.p for one in gaze.gaze_correlation(maps, pupil, ids, rng=rng, rounds=199)]
    rejected = np.mean(np.array(found) <= 0.05)
    assert 0.02 < rejected < 0.08  # 400 p values: 0.05 +- 2.7 standard errors
    assert 0.4 < np.mean(found) < 0.6


def test_intervals_hold_the_truth_and_leave_out_images() -> None:
    held, truth = 0, 0.5
    for seed in range(300):
        rng = np.random.default_rng([seed, 1])
        ids, pupil = np.repeat(np.arange(8), 6), rng.normal(size=(48, 2))
        place = truth * pupil + np.sqrt(1 - truth**2) * rng.normal(size=pupil.shape)
        image = 100 * rng.normal(size=(8, 2))[ids]
        x, _ = gaze._follow(place + image, pupil, ids, rng, 1, "within")
        held += x.low <= truth <= x.high
    assert 0.91 < held / 300 < 0.985  # 0.95 +- 2.7 standard errors


def test_spread_against_dilation() -> None:
    rng, ids, _, pupil = trials(3)
    dilation = 1 + np.abs(pupil[:, 0])
    y, x = np.mgrid[:36, :64]
    maps = np.exp(-((x - 32) ** 2 / (50 * dilation[:, None, None]) + (y - 18) ** 2 / 50))
    wide, _ = gaze.spread_correlation(maps, dilation, ids, rng=rng)
    assert wide.within > 0.5
    assert wide.p == 1 / 1001


def test_without_repeats_it_is_not_testable() -> None:
    rng, _, place, pupil = trials(4)
    maps = bumps(place)
    x, _ = gaze.gaze_correlation(maps, pupil, np.arange(len(maps)), rng=rng)
    assert x.verdict == "not testable: no image was repeated"
    assert np.isnan([x.within, x.p, x.low]).all()
    assert x.r > 0.5
    few = np.r_[np.arange(len(maps) - 4), [0, 1, 2, 3]]
    few_found, _ = gaze.gaze_correlation(maps, pupil, few, rng=rng)
    assert np.isnan([few_found.low, few_found.high]).all()  # four images
    assert (few_found.verdict, few_found.distinct) == ("not testable: too few repeats", 16)


def test_a_map_that_only_rounding_moves_is_not_testable() -> None:
    rng, ids, place, pupil = trials(5)
    maps = bumps(place) * (1 + 1e-7 * rng.normal(size=(len(ids), *SIZE)))
    for one in gaze.gaze_correlation(maps, pupil, ids, rng=rng):
        assert one.verdict == "not testable: nothing varies among repeats"
        assert one.r > 0.5


def test_swaps_show_what_the_input_alone_does() -> None:
    rng, ids, place, pupil = trials(6)
    behavior = rng.normal(size=(len(ids), 3)) + pupil[:, :1]
    given: list[Any] = []

    def rerun(pupil: Floats, behavior: Floats | None) -> Floats:
        given.append((pupil, behavior))
        return bumps(place + 4 * pupil, (18, 32))

    found = gaze.swapped(rerun, pupil, behavior, ids, SIZE, rng)
    assert list(found) == ["pupil", "behavior", "both"]
    for name in ("pupil", "both"):
        assert min(found[name].given) > 0.9
        assert max(map(abs, found[name].own)) < 0.35
    assert min(found["behavior"].own) > 0.9
    assert found["behavior"].own == found["behavior"].given
    for got, _ in (given[0], given[2]):
        assert sorted(map(tuple, got)) == sorted(map(tuple, pupil))  # each pupil once
        source = [int(np.flatnonzero((pupil == row).all(1))[0]) for row in got]
        assert (ids[source] != ids).all()  # of another image
    np.testing.assert_array_equal(given[1][0], pupil)
    assert list(gaze.swapped(rerun, pupil, None, ids, SIZE, rng)) == ["pupil"]
    assert gaze.swapped(rerun, pupil[:3], None, np.array([1, 1, 2]), SIZE, rng) == {}


MAPS = bumps(np.zeros((4, 2)))
ZERO, IDS = np.zeros((4, 2)), np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: gaze.heat_maps(np.zeros((2, 3)), SIZE), "rollout must have shape [B, h, w]"),
        (lambda r: gaze.heat_maps(MAPS * np.nan, SIZE), "rollout must be finite"),
        (lambda r: gaze.heat_maps(MAPS, (0, 4)), "maps must have pixels, got [36, 64] to [0, 4]"),
        (lambda r: gaze.heat_maps(MAPS[:, :0], SIZE), "maps must have pixels"),
        (lambda r: gaze.centre_of_mass(ZERO), "heat maps must have shape [B, H, W]"),
        (lambda r: gaze.gaze_correlation(MAPS, ZERO[:3], IDS, rng=r), "pupil must have shape [4"),
        (lambda r: gaze.gaze_correlation(MAPS, ZERO, IDS[:3], rng=r), "image ids must have shape"),
        (lambda r: gaze.gaze_correlation(MAPS, ZERO + np.inf, IDS, rng=r), "pupil must be finite"),
        (lambda r: gaze.gaze_correlation(MAPS * 0, ZERO, IDS, rng=r), "leave out maps that look"),
        (lambda r: gaze.gaze_correlation(MAPS, ZERO, IDS, rng=r, recipe="x"), "unknown recipe 'x'"),
        (lambda r: gaze.spread_correlation(MAPS, ZERO, IDS, rng=r), "dilation must have shape [4]"),
        (
            lambda r: gaze.swapped(lambda p, b: MAPS[:2], ZERO, None, IDS, SIZE, r),
            "centres after the rerun must have shape [4, 2]",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(AttendriteError, match=re.escape(words)):
        call(np.random.default_rng(0))

"""Simulated populations: what comes out shows what was put in, and every claim about it holds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attendrite import AttendriteError, Recording, read, simulate
from attendrite.simulate import CellType, _calcium, _retina, _spiking, stimuli
from attendrite.simulate._cells import PREPARATION_SPREAD, SPREAD, grow
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]

PLAIN = simulate.TYPES[:4]
LAGS = 12  # frames of white noise: 0.4 s
SIGMAS = 5.0  # standard errors; a right simulation fails one test in two million
LEVEL = 1e-4  # of tests against a distribution; seeds are fixed, so they pass or fail for good
TIGHT = dict(rtol=1e-12, atol=1e-12)  # float64 sums of a few thousand terms near 1


def trains(recording: Recording) -> list[Floats]:
    times, offsets = recording.by_unit()
    return np.split(times, offsets[1:-1])


def counts(recording: Recording, edges: Floats) -> Floats:
    return np.stack([np.histogram(train, edges)[0] for train in trains(recording)])


# --- stimuli -----------------------------------------------------------------------------------


def philox(key: int, counter: int) -> list[int]:
    """Philox4x64-10 as in Salmon et al. 2011, written out."""
    mask = 2**64 - 1
    x, k = [counter & mask, 0, 0, 0], [key & mask, key >> 64]
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [(b >> 64) ^ x[1] ^ k[0], b & mask, (a >> 64) ^ x[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return x


def test_white_noise_is_philox_and_any_cut_gives_the_same_frames() -> None:
    shape = (17, 19)  # 323 pixels: two counts a frame
    frames = stimuli.noise_frames(5, shape, 0, 9)
    for n in (0, 8):
        words = philox(5, 1 + 2 * n) + philox(5, 2 + 2 * n)
        bits = [word >> bit & 1 for word in words for bit in range(64)][: 17 * 19]
        np.testing.assert_array_equal(frames[n].ravel(), 2 * np.array(bits) - 1)
    np.testing.assert_array_equal(stimuli.noise_frames(5, shape, 4, 7), frames[4:7])
    assert stimuli.noise_frames(5, shape, 3, 3).shape == (0, 17, 19)


def test_white_noise_notes_down_what_its_frames_need() -> None:
    shown = stimuli.white_noise(10, frame_rate=20.0, seed=3)
    note = shown.intervals["white_noise"].columns
    shape = (int(note["rows"][0]), int(note["columns"][0]))
    again = stimuli.noise_frames(int(note["seed"][0]), shape, 11, 15)
    np.testing.assert_array_equal(shown.render(11, 15), again)
    assert (note["frame_s"][0], shown.n_frames, shown.duration) == (0.05, 200, 10.0)
    pixels = shown.render(0, 200).ravel()
    assert abs(pixels.mean()) < SIGMAS / math.sqrt(pixels.size)


def test_flashes_are_balanced_jittered_and_noted_down() -> None:
    shown = stimuli.flashes(41, contrasts=(-1.0, 0.5), on_s=0.5, gap_s=(0.8, 1.6), seed=2)
    trials = shown.intervals["trials"]
    level = trials.columns["contrast"]
    assert abs((level == -1).sum() - (level == 0.5).sum()) == 1
    assert (np.diff((level == -1).astype(int)) == 0).any()  # not in turns
    np.testing.assert_allclose(trials.stop - trials.start, 0.5, **TIGHT)
    gaps = np.append(trials.start, shown.duration) - np.append(0.0, trials.stop)
    half = 0.5 * shown.frame_s + 1e-9  # gaps are rounded to frames
    assert (gaps >= 0.8 - half).all()
    assert (gaps <= 1.6 + half).all()
    assert gaps.std() > 0.15  # uniform: 0.23
    movie = shown.render(0, shown.n_frames)
    series = shown.series["contrast"]
    np.testing.assert_array_equal(movie[:, 3, 7], series.values[:, 0].astype(np.float32))
    for start, stop, contrast in zip(trials.start, trials.stop, level, strict=True):
        inside = (series.times > start - half) & (series.times < stop - half)
        assert (series.values[inside] == contrast).all()
    assert np.count_nonzero(series.values) == 41 * 30


@pytest.mark.parametrize("path", ["walk", "bounce"])
def test_the_ball_is_where_the_series_says(path: str) -> None:
    radius, speed = 120.0, 500.0
    shown = stimuli.ball(60, path=path, radius=radius, speed=speed, seed=4)
    at = shown.series["position"].values
    room = 600.0 - radius
    assert np.abs(at).max() <= room
    assert np.abs(at).max() > 0.95 * room  # it does get to the border
    movie = shown.render(1000, 1100).astype(np.float64)
    assert movie.min() == -1
    mass = movie.sum((1, 2))
    x = (movie.sum(1) * shown.grid.x).sum(1) / mass
    y = (movie.sum(2) * shown.grid.y).sum(1) / mass
    pixel = shown.grid.pixel
    np.testing.assert_allclose(np.stack([x, y], 1), at[1000:1100], atol=pixel / 10)
    np.testing.assert_allclose(-mass * pixel**2, np.pi * radius**2, rtol=0.1)  # edges are soft
    step = np.linalg.norm(np.diff(at, axis=0), axis=1) / shown.frame_s
    if path == "bounce":
        assert np.median(np.abs(step - speed)) < 1e-6  # all but frames with a reflection
    else:
        independent = 60 / 0.5  # correlation times
        assert abs((step**2).mean() / speed**2 - 1) < SIGMAS / math.sqrt(independent)


def test_bars_sweep_all_directions_equally_often() -> None:
    shown = stimuli.bars(3, speed=700.0, width=200.0, seed=1)
    trials = shown.intervals["trials"]
    direction = trials.columns["direction"].reshape(3, 8)
    np.testing.assert_array_equal(np.sort(direction), np.tile(np.arange(8) * 45.0, (3, 1)))
    assert not (direction[0] == direction[1]).all()
    lengths = trials.stop - trials.start
    np.testing.assert_allclose(lengths, lengths[0], **TIGHT)
    grid = shown.grid
    for start, stop, degrees in zip(trials.start, trials.stop, direction.ravel(), strict=True):
        first, last = round(start / shown.frame_s), round(stop / shown.frame_s)
        assert not shown.render(first - 1, first + 1).any()  # a sweep starts out of sight
        assert not shown.render(last, last + 1).any()
        middle = (first + last) // 2
        movie = shown.render(middle - 5, middle + 6).astype(np.float64)
        heading = np.deg2rad(degrees)
        along = grid.x * np.cos(heading) + grid.y[:, None] * np.sin(heading)
        centre = (movie * along).sum((1, 2)) / movie.sum((1, 2))
        slope = np.polyfit(np.arange(11) * shown.frame_s, centre, 1)[0]
        assert slope == pytest.approx(700.0, rel=0.1)  # cut off at the corners of the grid


# --- spikes ------------------------------------------------------------------------------------


def test_intervals_follow_the_recovery_function() -> None:
    """At a constant free rate intervals have a known distribution: absolute, then relative."""
    rate, absolute, relative = 150.0, 0.003, 0.004
    rng = np.random.default_rng(0)
    times = _spiking.fire(np.array([rate]), np.array([0.0, 400.0]), rng, absolute, relative)
    intervals = np.diff(times)
    assert intervals.min() > absolute

    def cdf(t: Floats) -> Floats:
        since = np.maximum(t - absolute, 0)
        return 1 - np.exp(-rate * (since - relative * (1 - np.exp(-since / relative))))

    assert stats.kstest(intervals, cdf).pvalue > LEVEL


def test_without_refractoriness_spikes_are_poisson() -> None:
    rng = np.random.default_rng(1)
    rates, edges = rng.uniform(0, 40, 5000), np.cumsum(rng.uniform(0.01, 0.1, 5001))
    times = _spiking.fire(rates, edges, rng, 0.0, 0.0)
    expected = np.interp(times, edges, np.append(0, np.cumsum(rates * np.diff(edges))))
    assert stats.kstest(np.diff(expected), "expon").pvalue > LEVEL
    assert ((times >= edges[0]) & (times <= edges[-1])).all()


# --- the retina --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noise() -> tuple[stimuli.Stimulus, Recording, simulate.Cells]:
    shown = stimuli.white_noise(900, grid=stimuli.Grid((12, 12), 100.0), seed=7)
    recording, cells = simulate.retina(shown, types=simulate.TYPES[:5], extent=(500.0, 500.0))
    return shown, recording, cells


@pytest.fixture(scope="module")
def averages(noise: tuple[stimuli.Stimulus, Recording, simulate.Cells]) -> Floats:
    """Spike-triggered averages, ``[U, lag, rows, columns]``: frames before a spike's frame."""
    shown, recording, cells = noise
    n = shown.n_frames
    movie = shown.render(0, n).reshape(n, -1).astype(np.float64)
    per_frame = counts(recording, np.arange(n + 1) * shown.frame_s).astype(np.float64)
    per_frame[:, :LAGS] = 0
    sums = [per_frame[:, LAGS:] @ movie[LAGS - lag : n - lag] for lag in range(LAGS)]
    found = np.stack(sums, 1) / per_frame.sum(1)[:, None, None]
    return found.reshape(len(cells), LAGS, *shown.grid.shape)


def test_spike_triggered_averages_show_polarity_centre_and_time_course(
    noise: tuple[stimuli.Stimulus, Recording, simulate.Cells], averages: Floats
) -> None:
    shown, _, cells = noise
    fine = np.linspace(0, LAGS * shown.frame_s, LAGS * 1000 + 1)
    response = cells.impulse(fine)
    area = np.concatenate(
        [np.zeros((len(cells), 1)), np.cumsum((response[:, 1:] + response[:, :-1]) / 2, 1)], 1
    ) * fine[1]  # fmt: skip
    within = area[:, :-1].reshape(len(cells), LAGS, 1000).mean(2)  # spikes anywhere in a frame
    course = np.diff(within, axis=1, prepend=0.0)
    weights = cells.fields(shown.grid)
    for u in np.flatnonzero(cells.polarity):
        left, values, right = np.linalg.svd(averages[u].reshape(LAGS, -1), full_matrices=False)
        assert (
            values[0] > 2 * values[1]
        )  # one field in space, one course in time; the rest is noise
        sign = np.sign(right[0][np.argmax(np.abs(right[0]))])
        space, time = (sign * right[0]).reshape(shown.grid.shape), sign * left[:, 0]
        assert np.sign(time[np.argmax(np.abs(time))]) == cells.polarity[u]
        assert time @ course[u] * cells.polarity[u] > 0.98 * np.linalg.norm(course[u])
        flat = weights[u].ravel() / np.linalg.norm(weights[u])
        assert space.ravel() @ flat > 0.95
        core = np.where(space > space.max() / 2, space, 0)
        centre = [(core.sum(0) * shown.grid.x).sum(), (core.sum(1) * shown.grid.y).sum()]
        off = np.hypot(*(np.array(centre) / core.sum() - cells.centre[u]))
        assert off < shown.grid.pixel / 2


def test_the_spike_triggered_average_of_a_direction_selective_cell_is_flat(
    averages: Floats, noise: tuple[stimuli.Stimulus, Recording, simulate.Cells]
) -> None:
    _, recording, cells = noise
    selective = np.isfinite(cells.direction)
    per_cell = recording.counts[selective]
    assert per_cell.min() > 20
    largest = np.abs(averages[selective]).max((1, 2, 3)) * np.sqrt(per_cell)
    assert largest.max() < 6  # of 14 000 numbers of unit variance; bursts add a little


def test_surround_and_size_are_those_of_the_truth(
    noise: tuple[stimuli.Stimulus, Recording, simulate.Cells], averages: Floats
) -> None:
    """A spot the size of the centre sees more of the field than the whole screen does."""
    shown, _, cells = noise
    grid = shown.grid
    total = np.zeros((2, 2))
    for u in np.flatnonzero(cells.polarity):
        peak = averages[u].reshape(LAGS, -1)
        lag = np.argmax(np.abs(peak).max(1))
        distance = np.hypot(grid.x - cells.centre[u, 0], grid.y[:, None] - cells.centre[u, 1])
        near = distance < 1.5 * cells.sigma[u]
        ring = (distance > 3 * cells.sigma[u]) & (distance < 5 * cells.sigma[u])
        space = cells.polarity[u] * averages[u, lag]
        truth = cells.fields(grid)[u]
        total += [[space[near].sum(), space[ring].sum()], [truth[near].sum(), truth[ring].sum()]]
    (near, ring), (true_near, true_ring) = total
    assert ring / near == pytest.approx(true_ring / true_near, abs=0.03)
    assert true_ring / true_near < -0.2


def test_fields_weigh_as_stated() -> None:
    """On a screen that holds all of them: centre 1, surround 0.55, second moment sigma squared."""
    grid = stimuli.Grid((200, 200), 25.0)
    cells = grow(0, 0, simulate.TYPES, (600.0, 600.0))
    weights = cells.fields(grid)
    plain = cells.polarity != 0
    np.testing.assert_allclose(weights[plain].sum((1, 2)), 1 - 0.55, atol=1e-6)
    np.testing.assert_allclose(weights[~plain].sum((1, 2)), 1.0, atol=1e-6)
    x = (weights[~plain].sum(1) * (grid.x - cells.centre[~plain, :1]) ** 2).sum(1)
    sheppard = grid.pixel**2 / 12  # what integration over pixels adds to a variance
    np.testing.assert_allclose(x, cells.sigma[~plain] ** 2 + sheppard, rtol=1e-6)


def test_impulse_responses_are_as_stated() -> None:
    cells = grow(0, 0, simulate.TYPES, (500.0, 500.0))
    lags = np.linspace(-0.1, 2, 21_001)
    response = cells.impulse(lags)
    assert not response[:, lags < 0].any()
    np.testing.assert_allclose(response.sum(1) * (lags[1] - lags[0]), 1 - cells.rebound, atol=1e-5)
    for u in (0, len(cells) - 1):
        scale = cells.peak_s[u] / 4
        first = stats.gamma.pdf(lags, 5, scale=scale)
        second = stats.gamma.pdf(lags, 5, scale=2 * scale)
        np.testing.assert_allclose(response[u], first - cells.rebound[u] * second, atol=1e-9)
        assert lags[np.argmax(first)] == pytest.approx(cells.peak_s[u], abs=1e-4)


def test_the_filter_is_exact_for_frames() -> None:
    contrast = np.random.default_rng(0).uniform(-1, 1, 40).astype(np.float32)
    frame_s, steps, peak_s, rebound = 1 / 30, 7, 0.05, 0.7
    found = _retina._filtered(contrast, peak_s, rebound, frame_s, steps)
    at = (np.arange(40 * steps) + 0.5) * frame_s / steps
    expected = np.zeros(len(at))
    for n, value in enumerate(contrast.astype(np.float64)):
        for sign, edge in ((1, n * frame_s), (-1, (n + 1) * frame_s)):
            first = stats.gamma.cdf(at - edge, 5, scale=peak_s / 4)
            second = stats.gamma.cdf(at - edge, 5, scale=peak_s / 2)
            expected += sign * value * (first - rebound * second)
    np.testing.assert_allclose(found, expected, atol=2e-4)  # memory ends where 1e-4 is left


@pytest.fixture(scope="module")
def sweeps() -> tuple[Recording, simulate.Cells, Floats, Floats]:
    """A retina that bars swept over, the directions, and spikes per sweep ``[U, direction]``."""
    recording, cells = simulate.retina(stimuli.bars(8, seed=3), seed=1)
    trials = recording.intervals["trials"]
    direction = trials.columns["direction"]
    per_sweep = np.array(
        [
            np.searchsorted(t, trials.stop + 0.3) - np.searchsorted(t, trials.start)
            for t in trains(recording)
        ]
    )
    shown = np.unique(direction)
    means = np.stack([per_sweep[:, direction == d].mean(1) for d in shown], 1)
    return recording, cells, shown, means


def test_direction_selective_cells_select_and_others_do_not(
    sweeps: tuple[Recording, simulate.Cells, Floats, Floats],
) -> None:
    _, cells, shown, means = sweeps
    selective = np.isfinite(cells.direction)
    assert set(cells.direction[selective]) == {0.0, 90.0, 180.0, 270.0}
    best = np.argmax(means, 1)
    best[selective] = np.searchsorted(shown, cells.direction[selective])
    unit = np.arange(len(cells))
    most, least = means[unit, best], means[unit, (best + 4) % 8]
    index = (most - least) / (most + least)
    assert index[selective].min() > 0.6
    assert np.median(index[selective]) > 0.8
    assert index[~selective].max() < 0.3
    vector = (means * np.exp(1j * np.deg2rad(shown))).sum(1) / means.sum(1)
    off = np.angle(vector[selective] * np.exp(-1j * np.deg2rad(cells.direction[selective])))
    assert np.abs(np.rad2deg(off)).max() < 45 / 2  # nearer to its own direction than to any other
    assert np.abs(vector[~selective]).max() < 0.15


def test_direction_selectivity_holds_over_speeds() -> None:
    for speed in (400.0, 1600.0):
        shown = stimuli.bars(6, n_directions=4, speed=speed, seed=1)
        recording, cells = simulate.retina(shown, types=simulate.TYPES[4:], extent=(500.0, 500.0))
        trials = recording.intervals["trials"]
        angle = trials.columns["direction"] - cells.direction[:, None]
        found = np.array(
            [
                np.searchsorted(t, trials.stop + 0.3) - np.searchsorted(t, trials.start)
                for t in trains(recording)
            ]
        )
        most, least = (found[np.cos(np.deg2rad(angle)) * s > 0.9].sum() for s in (1, -1))
        assert (most - least) / (most + least) > 0.6, speed


def test_flashes_tell_on_from_off_and_sustained_from_transient() -> None:
    recording, cells = simulate.retina(stimuli.flashes(80, seed=5), seed=2)
    trials = recording.intervals["trials"]
    contrast = trials.columns["contrast"]

    def rate(start: float, stop: float, chosen: NDArray[np.bool_]) -> Floats:
        first = trials.start[chosen]
        found = [
            (np.searchsorted(t, first + stop) - np.searchsorted(t, first + start)).mean()
            for t in trains(recording)
        ]
        return np.array(found) / (stop - start)

    for polarity in (1, -1):
        preferred = contrast == polarity
        before, early = rate(-0.3, 0.0, preferred), rate(0.02, 0.15, preferred)
        late = rate(0.35, 0.5, preferred)
        own = cells.polarity == polarity
        assert (early[own] > 2 * before[own]).all()
        assert (early[own] > 5 * rate(0.02, 0.15, ~preferred)[own]).all()
        sustained = np.char.endswith(cells.type, "_sustained")
        assert late[own & sustained].mean() > 1.5 * before[own & sustained].mean()
        transient = own & ~sustained
        after, rest = (r[transient].sum() * preferred.sum() for r in (late, before))  # per s
        error = math.sqrt(after / 0.15 + rest / 0.3)
        assert abs(after - rest) < SIGMAS * error
    both = cells.polarity == 0
    for chosen in (contrast == 1, contrast == -1):
        assert rate(0.02, 0.15, chosen)[both].mean() > 5 * rate(-0.3, 0.0, chosen)[both].mean()


def test_rates_move_within_a_frame() -> None:
    """Frames of 0.2 s: a transient response rises and falls inside the first one of a flash."""
    shown = stimuli.flashes(60, contrasts=(1.0,), on_s=0.4, frame_rate=5.0, seed=1)
    recording, _ = simulate.retina(shown, types=[simulate.TYPES[2]])
    first = recording.intervals["trials"].start
    edges = np.array([0.0, 0.015, 0.03, 0.08, 0.15, 0.2])
    found = np.array([counts(recording, edges + start).sum(0) for start in first]).sum(0)
    density = found / np.diff(edges)
    assert density[2] > 3 * density[0]
    assert density[2] > 3 * density[4]


def test_no_spike_falls_into_the_absolute_refractory_period(
    sweeps: tuple[Recording, simulate.Cells, Floats, Floats],
) -> None:
    shortest = min(np.diff(t).min() for t in trains(sweeps[0]) if len(t) > 1)
    assert 0.002 < shortest < 0.004


def test_rates_are_in_the_ranges_of_the_documentation(
    noise: tuple[stimuli.Stimulus, Recording, simulate.Cells],
    sweeps: tuple[Recording, simulate.Cells, Floats, Floats],
) -> None:
    for recording, cells in (noise[1:], sweeps[:2]):
        plain = cells.polarity != 0
        assert recording.rates[plain].min() > 2
        assert recording.rates[plain].max() < 25
        assert recording.rates[~plain].max() < 5
    grey = grow(0, 0, simulate.TYPES, (500.0, 500.0))
    at_rest = {t: grey.free_rate(np.flatnonzero(grey.type == t)[0], np.zeros(1))[0]
               for t in set(grey.type)}  # fmt: skip
    assert at_rest["on_sustained"] > at_rest["off_sustained"] > 0
    assert at_rest["on_transient"] > at_rest["off_transient"] > 0


def correlations(noise_level: float) -> tuple[Floats, Floats, Floats]:
    """Correlation of counts in 50 ms on grey, distance, and product of polarities of all pairs."""
    grey = stimuli.flashes(100, contrasts=(0.0,), seed=1)
    recording, cells = simulate.retina(grey, types=PLAIN, noise=noise_level)
    r = np.corrcoef(counts(recording, np.arange(0, recording.duration, 0.05)))
    apart = np.linalg.norm(cells.centre[:, None] - cells.centre[None], axis=2)
    upper = np.triu_indices(len(cells), 1)
    return r[upper], apart[upper], np.outer(cells.polarity, cells.polarity)[upper]


def test_noise_correlations_have_the_sign_of_polarity_and_fall_with_distance() -> None:
    r, apart, alike = correlations(_retina.NOISE)
    for sign in (1, -1):
        own = alike == sign
        edges = [0, 100, 200, 300, 500, np.inf]
        binned = [r[own & (apart >= a) & (apart < b)] for a, b in pairwise(edges)]
        means = sign * np.array([b.mean() for b in binned])
        errors = np.array([b.std() / math.sqrt(len(b)) for b in binned])
        assert (means[:2] > SIGMAS * errors[:2]).all()
        assert means[0] > means[1] > means[2] > means[3]
        assert means[0] > 0.05
        assert (
            -0.02 < means[3] < -SIGMAS * errors[3]
        )  # the centre of one in the surround of the other
        assert abs(means[4]) < 0.005


def test_without_noise_there_are_no_noise_correlations() -> None:
    r, apart, alike = correlations(0.0)
    for sign in (1, -1):
        near = r[(alike == sign) & (apart < 200)]
        assert abs(near.mean()) < SIGMAS * near.std() / math.sqrt(len(near))
        assert abs(near.mean()) < 0.01


def test_the_mosaics_are_hexagonal_and_regular() -> None:
    cells = grow(0, 0, simulate.TYPES, (3000.0, 3000.0))
    for kind in simulate.TYPES:
        at = cells.centre[cells.type == kind.name]
        density = len(at) / 3000**2
        assert density == pytest.approx(2 / (math.sqrt(3) * kind.spacing**2), rel=0.1)
        apart = np.linalg.norm(at[:, None] - at[None], axis=2)
        np.fill_diagonal(apart, np.inf)
        inner = np.abs(at).max(1) < 1500 - 2 * kind.spacing
        nearest = np.sort(apart[inner], 1)[:, :7] / kind.spacing
        assert np.abs(nearest[:, :6].mean() - 1) < 0.05  # six neighbours at the spacing
        assert (nearest[:, 6] > 1.3).mean() > 0.8  # the next are at 1.73
        assert nearest[:, 0].mean() / nearest[:, 0].std() > 5  # regularity; random points: 1.9


def test_mosaics_have_a_random_phase_and_rotation() -> None:
    kind = simulate.TYPES[0]
    middle, bonds = [], []
    for preparation in range(40):
        at = grow(0, preparation, [kind], (900.0, 900.0)).centre
        middle.append(at[np.argmin(np.hypot(*at.T))] / kind.spacing)
        apart = at[:, None] - at[None]
        distance = np.linalg.norm(apart, axis=2)
        near = (distance > 0) & (distance < 1.3 * kind.spacing)
        angle = np.arctan2(apart[near][:, 1], apart[near][:, 0])
        bonds.append(np.exp(6j * angle).mean())
    # uniform in a hexagonal cell: sd sqrt(5 / 72) = 0.26; of jitter alone: 0.1
    assert np.std(middle, axis=0).min() > 0.2
    assert np.abs(bonds).min() > 0.3
    assert abs(np.mean(bonds / np.abs(bonds))) < SIGMAS / math.sqrt(40 * 2)


def test_cells_differ_by_the_stated_spread_and_preparations_too() -> None:
    kind = simulate.TYPES[1]
    values: dict[str, list[Floats]] = {name: [] for name in SPREAD}
    for preparation in range(40):
        cells = grow(0, preparation, [kind], (900.0, 900.0))
        assert len(set(cells.gain)) == len(cells)  # no two share their draws
        for name, found in values.items():
            typical = kind.spacing / 2 if name == "sigma" else getattr(kind, name)
            found.append(np.log(getattr(cells, name) / typical))
    for name, logs in values.items():
        within = np.sqrt(np.mean([x.var(ddof=1) for x in logs]))
        n = sum(len(x) - 1 for x in logs)
        assert within == pytest.approx(SPREAD[name], rel=SIGMAS / math.sqrt(2 * n))
        means = np.array([x.mean() for x in logs])
        spread = math.hypot(PREPARATION_SPREAD[name], SPREAD[name] / math.sqrt(len(logs[0])))
        assert means.std(ddof=1) == pytest.approx(spread, rel=SIGMAS / math.sqrt(2 * 39))


def test_a_preparation_is_one_retina_whatever_it_is_shown() -> None:
    ball, again = (stimuli.ball(5, seed=s) for s in (0, 1))
    one, cells = simulate.retina(ball, seed=3, preparation=1, extent=(400.0, 400.0))
    two, same = simulate.retina(again, seed=3, preparation=1, repeat=2, extent=(400.0, 400.0))
    assert one.unit_ids == two.unit_ids == cells.unit_ids
    assert one.session == two.session
    for name in (f.name for f in fields(cells)):
        np.testing.assert_array_equal(getattr(cells, name), getattr(same, name))
    repeat, _ = simulate.retina(ball, seed=3, preparation=1, repeat=1, extent=(400.0, 400.0))
    assert not np.array_equal(one.spikes.times, repeat.spikes.times)
    other, others = simulate.retina(ball, seed=3, preparation=2, extent=(400.0, 400.0))
    assert other.session != one.session
    assert not set(other.unit_ids) & set(one.unit_ids)
    assert not np.isin(others.centre, cells.centre).any()


def test_the_truth_is_in_the_recording_where_it_has_a_column() -> None:
    shown = stimuli.ball(3)
    recording, cells = simulate.retina(shown, extent=(400.0, 400.0))
    columns = recording.unit_columns
    np.testing.assert_array_equal(columns["label"], cells.type)
    np.testing.assert_array_equal(columns["position"], cells.centre)
    np.testing.assert_array_equal(columns["polarity"], cells.polarity)
    np.testing.assert_array_equal(columns["direction"], cells.direction)
    assert set(columns["area"]) == {"retina"}
    assert recording.series["position"] is shown.series["position"]
    assert recording.domain == (0.0, shown.duration)
    assert np.abs(cells.centre).max() <= 200
    _, middle = simulate.retina(shown)
    reach = np.abs(middle.centre).max(0)  # two thirds of 1200 um, unless it is said
    assert ((reach > 370) & (reach <= 400)).all()


# --- calibration populations -------------------------------------------------------------------


def slopes(recording: Recording, truth: simulate.TunedTruth) -> tuple[Floats, Floats]:
    """Gain of each unit, and its score: z of the correlation of its count with the latent.

    For a rate ``r exp(g z - g**2 / 2)`` with normal ``z``, ``E[n z] / E[n] = g``.
    """
    trials = recording.intervals["trials"]
    n = counts(recording, np.append(trials.start, trials.stop[-1]))
    z = truth.latent
    gain = (n @ z) / n.sum(1)
    score = np.array([np.corrcoef(row, z)[0, 1] for row in n]) * math.sqrt(len(z))
    return gain, score


def test_rate_and_gain_are_set_independently() -> None:
    rates, gains = np.array([2.0, 20.0, 2.0, 20.0, 8.0]), np.array([0.3, 0.3, -0.6, -0.6, 0.0])
    k = 4000
    recording, truth = simulate.tuned(5, 5, n_trials=k, trial_s=0.5, rates=rates, gains=gains)
    variance = rates / (0.5 * k) + rates**2 * (np.exp(gains**2) - 1) / k  # Poisson, latent
    assert (np.abs(recording.rates - rates) < SIGMAS * np.sqrt(variance)).all()
    found, _ = slopes(recording, truth)
    np.testing.assert_allclose(found, gains, atol=SIGMAS * 2 / math.sqrt(k))
    np.testing.assert_array_equal(truth.informative, gains != 0)
    np.testing.assert_allclose(truth.information, rates * 0.5 * gains**2)


def test_a_trial_is_poisson_at_its_rate() -> None:
    recording, truth = simulate.tuned(1, 1, n_trials=3000, rates=12.0, gains=0.4, seed=9)
    trials = recording.intervals["trials"]
    n = counts(recording, np.append(trials.start, trials.stop[-1]))[0]
    expected = 12 * np.exp(0.4 * truth.latent - 0.08)
    dispersion = ((n - expected) ** 2 / expected).mean()
    assert abs(dispersion - 1) < SIGMAS * math.sqrt(3 / 3000)
    phase = recording.spikes.times % 1.0
    assert stats.kstest(phase, "uniform").pvalue > LEVEL


def test_informative_units_are_exchangeable() -> None:
    """Calibration (a): which unit looks best is chance alone."""
    best = [
        np.argmax(slopes(*simulate.tuned(8, 8, n_trials=60, seed=s))[1]) for s in range(400)
    ]  # fmt: skip
    assert stats.chisquare(np.bincount(best, minlength=8)).pvalue > LEVEL


def test_information_follows_rate_where_gains_are_equal() -> None:
    """Calibration (b): importance and rate confounded, gain not."""
    rates = np.geomspace(1, 50, 16)
    scores, gains = zip(
        *(slopes(*simulate.tuned(16, 16, rates=rates, seed=s))[::-1] for s in range(30)),
        strict=True,
    )
    assert stats.spearmanr(np.mean(scores, 0), rates).statistic > 0.98
    np.testing.assert_allclose(np.mean(gains, 0), 0.5, atol=0.1)


def test_without_information_scores_are_noise() -> None:
    """Calibration (c)."""
    scores = np.concatenate([slopes(*simulate.tuned(10, 0, seed=s))[1] for s in range(100)])
    assert stats.kstest(scores, "norm").pvalue > LEVEL


def test_planted_units_are_where_the_truth_says() -> None:
    """Calibration (d)."""
    places = np.zeros(12)
    for seed in range(200):
        recording, truth = simulate.tuned(12, 3, n_trials=150, gains=0.8, seed=seed)
        assert truth.informative.sum() == 3
        places += truth.informative
        _, score = slopes(recording, truth)
        assert score[truth.informative].min() > 5
        assert np.abs(score[~truth.informative]).max() < 5
        label = recording.unit_columns["label"]
        np.testing.assert_array_equal(label == "informative", truth.informative)
    assert stats.chisquare(places).pvalue > LEVEL  # any place is as likely


def test_tuned_notes_down_latent_and_trials() -> None:
    recording, truth = simulate.tuned(3, 1, n_trials=7, trial_s=0.3)
    trials, series = recording.intervals["trials"], recording.series["latent"]
    np.testing.assert_array_equal(series.values[:, 0], truth.latent)
    np.testing.assert_array_equal(series.times, trials.stop)
    np.testing.assert_array_equal(trials.columns["latent"], truth.latent)
    np.testing.assert_array_equal(recording.unit_columns["gain"], truth.gain)
    assert recording.domain[1] == trials.stop[-1]


# --- calcium -----------------------------------------------------------------------------------


def responses(recording: Recording) -> tuple[Floats, Floats]:
    """Directions [radians] and mean dF/F in their trials, ``[U, direction]``."""
    assert recording.traces is not None
    trials, traces = recording.intervals["trials"], recording.traces
    direction = trials.columns["direction"]
    frames = np.searchsorted(traces.times, np.stack([trials.start, trials.stop]))
    means = np.stack([traces.values[a:b].mean(0) for a, b in frames.T])
    shown = np.unique(direction)
    return np.deg2rad(shown), np.stack([means[direction == d].mean(0) for d in shown], 1)


@pytest.fixture(scope="module")
def sessions() -> dict[str, list[tuple[Recording, simulate.OrientedTruth]]]:
    return {
        line: [simulate.oriented(line, session=s, n_units=30) for s in range(8)]
        for line in simulate.LINES
    }


Sessions = dict[str, list[tuple[Recording, simulate.OrientedTruth]]]


def test_traces_show_orientation_and_selectivity(sessions: Sessions) -> None:
    preferred, selectivity, true = [], [], []
    for recording, truth in (pair for found in sessions.values() for pair in found):
        angle, response = responses(recording)
        vector = (response * np.exp(2j * angle)).sum(1)
        off = np.angle(vector * np.exp(-2j * np.deg2rad(truth.preferred)), deg=True) / 2
        preferred.append(np.abs(off))
        selectivity.append(np.abs(vector) / response.sum(1))
        true.append(truth.selectivity)
    off, seen, truly = (np.concatenate(x) for x in (preferred, selectivity, true))
    assert np.median(off[truly > 0.3]) < 3
    assert off[truly > 0.3].max() < 45 / 2  # nearer than the next orientation shown
    assert np.corrcoef(seen, truly)[0, 1] > 0.95
    assert np.abs(seen - truly).mean() < 0.1


def test_tuning_curves_are_as_stated() -> None:
    line = simulate.Line(kappa=9.0, base=0.5, peak=9.0, bias=0.25)
    at = np.deg2rad(np.array([30.0, 120.0, 210.0, 300.0]))
    found = _calcium.tuning(at, at[0], 1.5, 8.0, line)
    across = math.exp(-2 * 1.5) / 1.25
    np.testing.assert_allclose(found, 0.5 + 8 * np.array([1, across, 0.75 / 1.25, across]), **TIGHT)
    even = np.arange(360) * np.pi / 180
    curve = _calcium.tuning(even, 1.0, 1.5, 8.0, replace(line, base=1e-12, bias=0.0))
    expected = special.ive(1, 1.5) / special.ive(0, 1.5)  # of a von Mises distribution
    assert _calcium.selectivity(even, curve) == pytest.approx(expected, rel=1e-9)


def test_lines_differ_in_tuning_in_every_session(sessions: Sessions) -> None:
    sharp, broad = (
        [truth.selectivity.mean() for _, truth in sessions[line]]
        for line in ("excitatory", "parvalbumin")
    )
    assert min(sharp) > max(broad) + 0.2
    for line, found in sessions.items():
        assert all(set(recording.unit_columns["label"]) == {line} for recording, _ in found)


def test_sessions_have_gains_and_noise_of_their_own() -> None:
    """Many short sessions: the spread over sessions is the stated one."""
    n, base, noise = 120, [], []
    for s in range(n):
        recording, truth = simulate.oriented("parvalbumin", session=s, n_units=12, repeats=1)
        kind = simulate.LINES["parvalbumin"]
        shown = np.arange(8) * np.pi / 4
        curves = [
            _calcium.tuning(shown, np.deg2rad(p), k, peak, kind)
            for p, k, peak in zip(truth.preferred, truth.kappa, truth.peak, strict=True)
        ]
        gain = truth.rates / np.array(curves)
        np.testing.assert_allclose(gain, gain[0, 0], **TIGHT)
        assert recording.traces is not None
        own = [truth.spikes.times[truth.spikes.units == u] for u in range(12)]
        clean = np.stack([_calcium.fluorescence(t, recording.traces.times) for t in own], 1)
        noise.append(np.log((recording.traces.values - clean).std() / _calcium.NOISE))
        base.append(np.log(gain[0, 0]))
    spread = _calcium.SESSION_SPREAD
    for found in (base, noise):
        assert np.std(found) == pytest.approx(spread, rel=SIGMAS / math.sqrt(2 * n))
        assert abs(np.mean(found)) < SIGMAS * spread / math.sqrt(n)


def test_rates_in_trials_are_those_of_the_truth() -> None:
    recording, truth = simulate.oriented("excitatory", n_units=20, repeats=40)
    trials = recording.intervals["trials"]
    direction = trials.columns["direction"].astype(int) // 45
    assert (np.bincount(direction) == 40).all()
    for u in range(20):
        own = truth.spikes.times[truth.spikes.units == u]
        n = np.searchsorted(own, trials.stop) - np.searchsorted(own, trials.start)
        found = np.bincount(direction, n) / (40 * 2.0)
        mean_gain = math.exp(_calcium.TRIAL_SPREAD**2 / 2)
        expected = truth.rates[u] * mean_gain
        error = np.sqrt(expected / 80 + (0.25 * expected) ** 2 / 40)  # Poisson, trials' gains
        lost = expected**2 * 0.005  # refractory: 2 ms and 3 ms after each spike
        assert (np.abs(found - expected) < SIGMAS * error + lost).all()


def test_fluorescence_is_a_sum_of_transients() -> None:
    rng = np.random.default_rng(0)
    spikes, times = np.sort(rng.uniform(0, 9.9, 60)), np.arange(200) / 20.0
    since = times[:, None] - spikes
    shape = np.where(since >= 0, np.exp(-since / 0.2) - np.exp(-since / 0.02), 0)
    when = np.log(10) * 0.2 * 0.02 / 0.18
    expected = 0.2 * shape.sum(1) / (np.exp(-when / 0.2) - np.exp(-when / 0.02))
    np.testing.assert_allclose(_calcium.fluorescence(spikes, times), expected, **TIGHT)
    fine = np.arange(5000) * 1e-4
    one = _calcium.fluorescence(np.array([0.0]), fine)
    assert one.max() == pytest.approx(0.2, rel=1e-6)
    assert fine[np.argmax(one)] == pytest.approx(0.051, abs=0.001)


def test_a_calcium_recording_holds_traces_and_no_spikes() -> None:
    recording, truth = simulate.oriented("excitatory", n_units=4, repeats=2, frame_rate=10.0)
    assert recording.traces is not None
    assert recording.traces.values.dtype == np.float32
    np.testing.assert_allclose(np.diff(recording.traces.times), 0.1, **TIGHT)
    assert not len(recording.spikes.times)
    assert len(truth.spikes.times) > 0
    assert recording.duration == 2 * 8 * 3 + 1
    np.testing.assert_array_equal(recording.unit_columns["selectivity"], truth.selectivity)


# --- all of them -------------------------------------------------------------------------------

Make = Callable[..., tuple[Recording, Any]]


def small_retina(seed: int = 0, **more: Any) -> tuple[Recording, simulate.Cells]:
    return simulate.retina(
        stimuli.flashes(3, seed=1), seed=seed, **({"extent": (400.0, 400.0)} | more)
    )


def small_tuned(seed: int = 0) -> tuple[Recording, simulate.TunedTruth]:
    return simulate.tuned(5, 2, n_trials=20, seed=seed)


def small_oriented(seed: int = 0) -> tuple[Recording, simulate.OrientedTruth]:
    return simulate.oriented("excitatory", n_units=3, repeats=1, seed=seed)


ALL = pytest.mark.parametrize("make", [small_retina, small_tuned, small_oriented])


@ALL
def test_the_same_seed_gives_the_same_bits(make: Make) -> None:
    (one, truth), (two, same) = make(seed=4), make(seed=4)
    assert one.equals(two)
    for name in (f.name for f in fields(truth)):
        if name != "spikes":
            np.testing.assert_array_equal(getattr(truth, name), getattr(same, name))
    assert not one.equals(make(seed=5)[0])


@ALL
def test_recordings_can_be_written_and_read(make: Make, tmp_path: Path) -> None:
    recording, _ = make()
    recording.save(tmp_path / "simulated.npz")
    assert read(tmp_path / "simulated.npz").equals(recording)


def by_id(recording: Recording) -> dict[str, bytes]:
    return {u: t.tobytes() for u, t in zip(recording.unit_ids, trains(recording), strict=True)}


def test_other_cells_change_nothing_for_a_cell() -> None:
    whole = by_id(small_retina()[0])
    fewer = by_id(small_retina(types=simulate.TYPES[3:6])[0])
    turned = by_id(small_retina(types=simulate.TYPES[::-1])[0])
    larger = by_id(small_retina(extent=(600.0, 500.0))[0])
    assert 0 < len(fewer) < len(whole) < len(larger)
    assert fewer.items() <= whole.items()
    assert turned == whole
    assert whole.items() <= larger.items()


def test_further_units_change_nothing_for_tuned_and_oriented() -> None:
    few, many = (by_id(simulate.tuned(n, n, n_trials=30)[0]) for n in (3, 7))
    assert few.items() <= many.items()
    two, five = (simulate.oriented("excitatory", n_units=n, repeats=1)[0] for n in (2, 5))
    assert two.traces is not None
    assert five.traces is not None
    np.testing.assert_array_equal(two.traces.values, five.traces.values[:, :2])


def test_the_blocks_of_the_documentation_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "simulate.md"
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, page.name, "exec"), {})
    assert read("ball.npz").series["position"].unit == "um"


SHORT = stimuli.white_noise(0.1)
ON = simulate.TYPES[0]
BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: stimuli.white_noise(0), "duration must be finite and above 0, got 0"),
    (lambda: stimuli.white_noise(0.001), "duration must hold a frame"),
    (lambda: stimuli.white_noise(1, seed=-1), "seed must be at least 0, got -1"),
    (lambda: stimuli.Grid((0, 3)), "rows must be at least 1, got 0"),
    (lambda: stimuli.flashes(0), "n must be at least 1, got 0"),
    (lambda: stimuli.flashes(3, contrasts=()), "contrasts must be at least 1"),
    (lambda: stimuli.flashes(3, contrasts=(2.0,)), "contrast must lie from -1 to 1, got 2.0"),
    (lambda: stimuli.flashes(3, gap_s=(2.0, 1.0)), "gap_s must have its longest gap"),
    (lambda: stimuli.ball(1, path="spiral"), "unknown path 'spiral'; known: walk, bounce"),
    (lambda: stimuli.ball(1, radius=600.0), "radius must be below 600.0 um, got 600.0"),
    (lambda: stimuli.bars(1, speed=math.nan), "speed must be finite and above 0, got nan"),
    (lambda: simulate.retina(SHORT, seed=-1), "seed must be at least 0, got -1"),
    (lambda: simulate.retina(SHORT, preparation=-1), "preparation must be at least 0"),
    (lambda: simulate.retina(SHORT, repeat=-1), "repeat must be at least 0"),
    (lambda: simulate.retina(SHORT, noise=-1.0), "noise must be finite and at least 0, got -1"),
    (lambda: simulate.retina(SHORT, types=[ON, ON]), "cell types must have names of their own"),
    (lambda: simulate.retina(SHORT, extent=(1.0, 1.0)), "extent must hold a cell"),
    (lambda: simulate.retina(SHORT, extent=(9.0, math.nan)), "height must be finite and above 0"),
    (lambda: replace(ON, polarity=0), "unknown polarity 0; known: 1, -1"),
    (lambda: CellType("x", 1, 9.0, 0.1, 1.0, 1.0, 0.0, 1.0, 90.0), "unknown polarity 1; known: 0"),
    (lambda: replace(ON, peak_s=0.0), "peak_s must be finite and above 0"),
    (lambda: simulate.tuned(3, 4), "n_informative must lie from 0 to n_units = 3, got 4"),
    (lambda: simulate.tuned(3, 1, rates=[1.0, 2.0]), r"rates must have shape \[3\], got \[2\]"),
    (lambda: simulate.tuned(3, 1, rates=-1.0), "rates must be at least 0, got -1.0"),
    (lambda: simulate.tuned(3, 1, gains=[1, math.inf, 0]), "gains must be finite"),
    (lambda: simulate.oriented("gabaergic"), "unknown line 'gabaergic'; known: excitatory"),
    (lambda: simulate.oriented("excitatory", session=-1), "session must be at least 0"),
    (lambda: simulate.oriented("excitatory", frame_rate=0.0), "frame_rate must be finite"),
    (lambda: simulate.oriented("excitatory", noise=math.nan), "noise must be finite"),
    (lambda: simulate.Line(1.0, 1.0, 1.0, 2.0), "bias must lie from 0 to 1, got 2.0"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(AttendriteError, match=message):
        call()

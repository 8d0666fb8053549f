"""Splits, samples, metrics and baselines, on data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from attendrite.errors import AttendriteError
from attendrite.evaluation import (
    Samples,
    Split,
    Support,
    bayes_place,
    correlation,
    draw_samples,
    inside,
    median_error,
    r2,
    ridge,
    split_blocks,
)
from attendrite.evaluation.baselines import PlaceKernel, window_counts
from attendrite.evaluation.splits import describe
from attendrite.recordings import Intervals, Recording, Series, Spikes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WINDOW = 1.0


def place_recording(seed: int = 0, seconds: float = 160.0, units: int = 16) -> Recording:
    """An animal that runs to and fro on a diagonal; each unit fires around one place."""
    rng = np.random.default_rng(seed)
    times = np.arange(0, seconds, 0.05)
    along = 0.5 + 0.5 * np.sin(2 * np.pi * times / 17 + np.sin(times / 29))
    xy = 100 + np.stack([300 * along, 200 * along], 1)
    centres = np.linspace(0, 1, units)
    rate = 30 * np.exp(-0.5 * ((along[:, None] - centres) / 0.08) ** 2) + 0.2
    counts = rng.poisson(rate * 0.05)
    trains = [
        np.sort(np.repeat(times, counts[:, u]) + rng.uniform(0, 0.05, counts[:, u].sum()))
        for u in range(units)
    ]
    return Recording(
        session="toy/place",
        unit_ids=tuple(f"u{u}" for u in range(units)),
        load_spikes=lambda: Spikes.from_trains(trains),
        domain=(0.0, seconds),
        series={"position": Series(times, xy, ("x", "y"), "px")},
    )


def sides(
    recording: Recording, support: Support, values: Floats | None = None
) -> tuple[list[tuple[Samples, Samples]], Samples, Samples]:
    """Folds and all of the training side, and the test samples; labels replaced if given."""
    drawn = draw_samples(recording, "position", None, spacing=0.5, seed=0)
    if values is not None:
        drawn = Samples(drawn.times, values[: len(drawn)])
    split = split_blocks(drawn.times, recording.domain, blocks=6, test=(1, 4), length=WINDOW)

    def role(name: str, of: Split) -> Samples:
        return drawn.within(of.intervals(name), support.before, support.after)

    folds = [(role("training", s), role("validation", s)) for s in split.folds()]
    return folds, role("training", split), role("test", split)


# ------------------------------------------------------------------------------------ metrics
def test_r2_of_known_values() -> None:
    true = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    decoded = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 4.0]])
    # column 0: 1 - 2 / 8
    assert r2(true, decoded).tolist() == [0.75, 1.0]


def test_r2_of_the_mean_is_zero_and_of_a_worse_guess_negative() -> None:
    true = np.random.default_rng(0).normal(size=(100, 2))
    assert np.allclose(r2(true, np.broadcast_to(true.mean(0), true.shape)), 0)
    assert (r2(true, true[::-1] * 3) < 0).all()


def test_a_constant_column_has_no_r2() -> None:
    assert np.isnan(r2(np.ones((5, 1)), np.ones((5, 1))))
    assert np.isnan(correlation(np.ones((5, 1)), np.arange(5.0)[:, None]))


@given(st.integers(2, 63), st.floats(-5, 5), st.floats(0.1, 9))
def test_r2_ignores_a_common_unit_and_correlation_any(n: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(n)
    true, decoded = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))
    assert np.allclose(r2(true, decoded), r2(true * scale + shift, decoded * scale + shift))
    assert np.allclose(correlation(true, decoded), correlation(true, decoded * scale + shift))


def test_median_error_is_euclidean() -> None:
    assert median_error(np.zeros((3, 2)), np.array([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])) == 5.0


@pytest.mark.parametrize("metric", [r2, correlation, median_error])
def test_metrics_refuse_what_cannot_be_compared(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(AttendriteError, match=r"decoded values must have shape \[3, 2\]"):
        metric(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(AttendriteError, match="samples must be at least one"):
        metric(np.zeros((0, 2)), np.zeros((0, 2)))
    with pytest.raises(AttendriteError, match="decoded values must be finite"):
        metric(np.zeros((1, 1)), np.full((1, 1), np.nan))


# ------------------------------------------------------------------------------------- splits
def example_split(gap: float = 2.0) -> Split:
    roles = ("training", "test", "validation", "training", "training", "test")
    return Split((0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0), roles, gap, 2.0)


def test_the_training_side_gives_the_gap() -> None:
    split = example_split()
    assert split.intervals("test") == [(10, 20), (50, 60)]
    assert split.intervals("validation") == [(22, 30)]
    assert split.intervals("training") == [(0, 8), (32, 48)]
    assert split.refit().intervals("training") == [(0, 8), (22, 48)]
    assert describe(split.intervals("test")) == "10.0-20.0, 50.0-60.0 s"


@given(
    st.lists(st.sampled_from(["training", "validation", "test"]), min_size=2, max_size=12),
    st.floats(0.5, 4),
)
def test_different_uses_lie_at_least_a_gap_apart(roles: list[str], gap: float) -> None:
    roles = ["training", *roles, "test"]
    split = Split(tuple(np.arange(len(roles) + 1) * 9.0), tuple(roles), gap, gap)
    for one in ("training", "validation"):
        for other in {"validation", "test"} - {one}:
            for a, b in split.intervals(one):
                for c, d in split.intervals(other):
                    assert c - b >= gap - 1e-9 or a - d >= gap - 1e-9


def test_a_gap_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(AttendriteError, match=r"gap must be at least one window \(2 s\), got 1 s"):
        example_split(gap=1.0)


def test_a_test_window_that_reaches_into_training_time_is_refused() -> None:
    split = example_split()
    split.check(np.array([10.0, 18.0, 50.0]), np.array([12.0, 20.0, 52.0]))
    with pytest.raises(AttendriteError, match="test windows must stay out of training time"):
        split.check(np.array([10.0, 7.5]), np.array([12.0, 9.5]))
    with pytest.raises(AttendriteError, match="got window 0, 29 to 31 s"):
        split.check(np.array([29.0]), np.array([31.0]))


def test_each_fold_validates_one_block_and_never_the_test() -> None:
    split = example_split()
    folds = split.folds()
    assert len(folds) == 4
    assert [f.intervals("test") for f in folds] == [split.intervals("test")] * 4
    assert [f.intervals("validation")[0][0] // 10 for f in folds] == [0, 2, 3, 4]
    assert all(len(f.intervals("validation")) == 1 for f in folds)
    assert split.fold(0, 3).intervals("validation") == [(0, 8), (30, 40)]
    with pytest.raises(AttendriteError, match="unknown block of the training side 1"):
        split.fold(1)


def test_one_block_cannot_be_cross_validated() -> None:
    with pytest.raises(AttendriteError, match="training side must keep a block to train on"):
        Split((0.0, 1.0, 2.0), ("training", "test"), 0.1, 0.1).folds()


def test_blocks_share_the_samples_out_and_survive_json() -> None:
    times = np.r_[np.linspace(0, 10, 30), np.linspace(50, 90, 30)]
    split = split_blocks(times, (-5, 95), blocks=4, test=(1,), validation=(3,), length=1.0)
    assert split.edges[0] == -5
    assert split.edges[2] == 30  # midway in the pause
    assert split.edges[-1] == 95
    counts = np.histogram(times, split.edges)[0]
    assert counts.tolist() == [15, 15, 15, 15]
    assert Split.from_json(split.to_json()) == split
    with pytest.raises(AttendriteError, match="a split must have edges, roles, gap and length"):
        Split.from_json({"edges": [0, 1]})
    for change in (
        {"edges": ["a"]},
        {"edges": [[0, 1]]},
        {"edges": 3},
        {"gap": "nan"},
        {"gap": []},
    ):
        with pytest.raises(AttendriteError, match="a split must have edges, roles, gap and length"):
            Split.from_json(split.to_json() | change)


def test_unsound_splits_are_refused() -> None:
    times = np.arange(10.0)
    make = split_blocks
    with pytest.raises(AttendriteError, match="blocks must be 2 to 10"):
        make(times, (0, 9), blocks=11, test=(0,), length=1)
    with pytest.raises(AttendriteError, match="unknown test block 4"):
        make(times, (0, 9), blocks=4, test=(4,), length=1)
    with pytest.raises(AttendriteError, match="blocks must have one use"):
        make(times, (0, 9), blocks=4, test=(1,), validation=(1,), length=1)
    with pytest.raises(AttendriteError, match="blocks must hold a test block"):
        make(times, (0, 9), blocks=4, test=(), length=1)
    with pytest.raises(AttendriteError, match="unknown use of a block 'rest'"):
        Split((0.0, 1.0), ("rest",), 1, 1)
    with pytest.raises(AttendriteError, match="edges must be 2, got 3"):
        Split((0.0, 1.0, 2.0), ("test",), 1, 1)


# ------------------------------------------------------------------------------------ samples
def periodic_recording(events: int = 200) -> Recording:
    start = np.arange(events) * 2.0
    series = Series(np.array([0.0, 400.0]), np.array([[0.0], [400.0]]), ("time",))
    return Recording(
        "toy/flashes", ("u0",), Spikes.none, (0.0, 400.0), {"clock": series},
        {"flashes": Intervals(start, start + 0.5)},
    )  # fmt: skip


def test_samples_lie_in_the_intervals_with_their_true_values() -> None:
    samples = draw_samples(periodic_recording(), "clock", "flashes", spacing=0.25, seed=0)
    assert len(samples) == 400  # two per interval of twice the spacing, whatever the offset
    assert ((samples.times % 2) < 0.5).all()
    assert np.allclose(samples.values[:, 0], samples.times)
    assert (np.diff(samples.times) > 0).all()


def test_samples_of_periodic_events_have_no_fixed_phase() -> None:
    samples = draw_samples(periodic_recording(), "clock", "flashes", spacing=0.25, seed=0)
    phase = samples.times % 2
    assert np.histogram(phase, 5, (0, 0.5))[0].min() > 50  # of 80 each


def test_samples_depend_on_the_seed_only() -> None:
    once, again, other = (
        draw_samples(periodic_recording(), "clock", "flashes", spacing=0.25, seed=s).times
        for s in (3, 3, 4)
    )
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_windows_must_lie_whole_in_one_interval() -> None:
    times = np.array([1.0, 2.0, 3.9, 4.0, 5.0, 9.5])
    where = [(0.0, 4.0), (4.5, 10.0)]
    assert inside(times, where).tolist() == [True, True, True, True, True, True]
    assert inside(times, where, 1.5, 0.0).tolist() == [False, True, True, True, False, True]
    assert inside(times, where, 0.0, 1.5).tolist() == [True, True, False, False, True, False]
    assert inside(np.zeros(0), where).shape == (0,)


def test_bad_requests_for_samples_are_refused() -> None:
    recording = periodic_recording()
    with pytest.raises(AttendriteError, match="unknown series 'pupil'"):
        draw_samples(recording, "pupil", None, spacing=1, seed=0)
    with pytest.raises(AttendriteError, match="unknown intervals 'trials'"):
        draw_samples(recording, "clock", "trials", spacing=1, seed=0)
    with pytest.raises(AttendriteError, match="spacing must be above 0 s"):
        draw_samples(recording, "clock", None, spacing=0, seed=0)
    gap = Series(np.arange(3.0), np.array([[0.0], [np.nan], [1.0]]), ("a",))
    holed = Recording("toy", ("u",), Spikes.none, (0, 2), {"a": gap})
    with pytest.raises(AttendriteError, match="values at the sample times must be finite"):
        draw_samples(holed, "a", None, spacing=0.3, seed=0)


# ---------------------------------------------------------------------------------- baselines
def test_window_counts_by_hand() -> None:
    spikes = Spikes.from_trains([np.array([0.9, 1.0, 1.49, 1.5]), np.array([2.0])])
    recording = Recording("toy", ("a", "b"), lambda: spikes, (0, 3))
    counts = window_counts(recording, np.array([1.5]), Support(0.5, 0.5), 2)
    assert counts.tolist() == [[[2, 0], [1, 0]]]  # [1, 1.5) and [1.5, 2)


def test_a_support_covers_some_time() -> None:
    assert Support(2, 1).part(1.5) == Support(1.0, 0.5)
    with pytest.raises(AttendriteError, match="support must cover some time"):
        Support(0, 0)


@pytest.mark.parametrize("fit", [ridge, bayes_place])
@pytest.mark.parametrize("support", [Support(WINDOW, 0), Support(WINDOW / 2, WINDOW / 2)])
def test_baselines_find_the_place(fit: object, support: Support) -> None:
    assert callable(fit)
    recording = place_recording()
    folds, refit, test = sides(recording, support)
    choice = fit(recording, support, folds=folds, refit=refit)
    decoded = choice.predict(test.times)
    assert (r2(test.values, decoded) > 0.9).all()
    assert (choice.validation > 0.9).all()
    assert median_error(test.values, decoded) < 25


@pytest.mark.parametrize("fit", [ridge, bayes_place])
def test_shuffled_labels_leave_nothing(fit: object) -> None:
    assert callable(fit)
    recording, support = place_recording(), Support(WINDOW, 0)
    drawn = draw_samples(recording, "position", None, spacing=0.5, seed=0)
    shuffled = np.random.default_rng(1).permutation(drawn.values)
    folds, refit, test = sides(recording, support, shuffled)
    choice = fit(recording, support, folds=folds, refit=refit)
    assert (r2(test.values, choice.predict(test.times)) < 0.05).all()


def test_a_causal_baseline_looks_at_nothing_later() -> None:
    recording, support = place_recording(), Support(WINDOW, 0)
    folds, refit, _ = sides(recording, support)
    for fit in (ridge, bayes_place):
        choice = fit(recording, support, folds=folds, refit=refit)
        at = np.array([81.0])
        before = choice.predict(at)
        spikes = recording.spikes
        keep = (spikes.times < 81.0) & (spikes.times >= 80.0)
        object.__setattr__(recording, "spikes", Spikes(spikes.times[keep], spikes.units[keep]))
        assert np.array_equal(choice.predict(at), before)
        object.__setattr__(recording, "spikes", spikes)


def test_ridge_is_the_textbook_solution() -> None:
    from attendrite.evaluation.baselines import _ridge_path

    rng = np.random.default_rng(0)
    for samples, features in ((40, 7), (17, 63)):  # both Gram matrices
        x, y = rng.normal(size=(samples, features)), rng.normal(size=(samples, 2))
        z = (x - x.mean(0)) / (x.std(0) + 1e-6)
        query = rng.normal(size=(5, features))
        for penalty, fit in _ridge_path(x, y, (1.0, 100.0)):
            w = np.linalg.solve(z.T @ z + penalty * np.eye(features), z.T @ (y - y.mean(0)))
            expected = (query - x.mean(0)) / (x.std(0) + 1e-6) @ w + y.mean(0)
            assert np.allclose(fit(query), expected, atol=1e-9)


def test_place_maps_recover_a_rate() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 100, (1000, 2))
    rate = 5 + 10 * (values[:, 0] > 50)
    maps = PlaceKernel.fit(values, 0.04).maps(rng.poisson(rate)[:, None].astype(float), 1.0)
    far = np.abs(maps.places[:, 0] - 50) > 15
    expected = np.where(maps.places[far, 0] > 50, 15, 5)
    assert np.abs(maps.rates[far, 0] - expected).mean() < 1.5
    assert np.isclose(maps.occupancy.sum(), 1)


def test_a_place_decoder_wants_two_coordinates() -> None:
    recording, support = place_recording(seconds=50), Support(WINDOW, 0)
    one = Samples(np.arange(5.0), np.zeros((5, 1)))
    with pytest.raises(
        AttendriteError, match=r"values of a place decoder must have shape \[S, 2\]"
    ):
        bayes_place(recording, support, folds=[(one, one)], refit=one)

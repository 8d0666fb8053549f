"""The analysis of attention: stand-ins whose answer is known, and what must not be claimed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, Bundle, Engine
from attendrite.analysis import Analysis, Trials, _windows, attend, shares, strata, units, untrained
from attendrite.analysis.observed import Observed, Tokens, observe
from attendrite.analysis.specialisation import specialisation
from attendrite.analysis.synchrony import synchrony
from attendrite.evaluation import Split
from attendrite.recordings import Intervals, Recording, Series, Spikes
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
N_UNITS, N_WINDOWS, HEADS, DIM, WIDTH = 24, 20, 2, 32, 16
LATENTS, STEPS = 64, 8
PLANTED = 1e-6  # relative; a planted weight is float32
FREE = 8  # first feature of a head that does not turn with time
IDS = tuple(f"sess_a/unit_{i:04d}" for i in range(N_UNITS))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundle") / "poyo"
    return Bundle.load(attendrite.export(FIXTURES / "poyo_tiny/poyo_tiny_lightning.ckpt", out))


def planted(bundle: Bundle, wanted: Mapping[int, float], *more: Mapping[int, float]) -> Engine:
    """A model whose encoder heads weigh a spike of unit u by ``wanted[u]``, all others by 1.

    START and END of a unit weigh the same. One mapping per head; a single one serves all heads.
    """
    heads = [wanted, *more] if more else [wanted] * HEADS
    weights = dict(bundle.weights)
    units = torch.zeros_like(weights["unit_emb.weight"])
    for unit, name in enumerate(IDS):
        units[bundle.manifest.units[name], unit] = 1
    height = (1 - 1 / DIM) / math.sqrt((1 / DIM) * (1 - 1 / DIM) + 1e-5)  # of the layer norm
    floor = (-1 / DIM) / math.sqrt((1 / DIM) * (1 - 1 / DIM) + 1e-5)
    key, query = torch.zeros(2 * HEADS * WIDTH, DIM), torch.zeros(HEADS * WIDTH, DIM)
    key[HEADS * WIDTH :] = weights["enc_atn.to_kv.weight"][HEADS * WIDTH :]
    for head, ratios in enumerate(heads):
        for unit, ratio in ratios.items():
            key[head * WIDTH + FREE, unit] = math.log(ratio) / (height - floor)
        query[head * WIDTH + FREE, 0] = math.sqrt(WIDTH)
    weights |= {
        "unit_emb.weight": units,
        "token_type_emb.weight": torch.zeros_like(weights["token_type_emb.weight"]),
        "enc_atn.norm_context.weight": torch.ones(DIM),
        "enc_atn.norm_context.bias": torch.zeros(DIM),
        "enc_atn.norm.weight": torch.zeros(DIM),
        "enc_atn.norm.bias": torch.eye(DIM)[0],
        "enc_atn.to_kv.weight": key,
        "enc_atn.to_q.weight": query,
    }
    return Engine(Bundle(bundle.manifest, weights), dtype="float64")


def recording(counts: NDArray[np.int64], order: NDArray[np.int64] | None = None) -> Recording:
    """Spikes at random times: ``counts[w, u]`` in second ``w``; the units may be reordered."""
    rng = np.random.default_rng(0)
    window, unit = np.nonzero(counts)
    repeats = counts[window, unit]
    times = np.repeat(window, repeats) + rng.uniform(0.01, 0.99, repeats.sum())
    own = np.repeat(unit, repeats)
    sort = np.argsort(times, kind="stable")
    spikes = Spikes(times[sort], own[sort].astype(np.int32))
    found = Recording("sess_a", IDS, lambda: spikes, (0.0, float(len(counts))))
    return found if order is None else found.select([IDS[u] for u in order])


def steady(silent: int | None = None) -> NDArray[np.int64]:
    """The same number of spikes in every window, from 1 to 24 over units."""
    counts = np.arange(1, N_UNITS + 1)
    if silent is not None:
        counts[silent] = 0
    return np.tile(counts, (N_WINDOWS, 1))


def changing() -> NDArray[np.int64]:
    """Busy and quiet windows, and units that fire in one kind of them only."""
    counts = np.random.default_rng(1).poisson(4, (N_WINDOWS, N_UNITS))
    counts[::2] *= 4
    counts[::2, :6] = 0
    return counts


def analysed(engine: Engine, counts: NDArray[np.int64], **options: Any) -> Analysis:
    return attend(engine, recording(counts), rounds=options.pop("rounds", 20), **options)


class TestUnits:
    def test_a_preferred_unit_has_the_lift_that_was_planted(self, bundle: Bundle) -> None:
        counts, ratio = steady(), 5.0
        found = analysed(planted(bundle, {3: ratio}), counts)
        spikes = counts[0]
        weight = np.where(np.arange(N_UNITS) == 3, ratio, 1.0)
        for which, tokens in (("spikes", spikes), ("all", spikes + 2)):
            share = weight * tokens / (weight * tokens).sum()
            expected = share / (tokens / tokens.sum())
            np.testing.assert_allclose(found.units[f"lift_{which}"], expected, rtol=PLANTED)
            np.testing.assert_allclose(found.units[f"lift_within_{which}"], expected, rtol=PLANTED)
        for head in range(HEADS):
            assert found.units[f"lift_h{head}"].argmax() == 3
        np.testing.assert_allclose(found.units["rollout_lift"], found.units["lift_all"], rtol=1e-9)

    def test_attention_that_follows_rate_alone_has_lift_one(self, bundle: Bundle) -> None:
        found = analysed(planted(bundle, {}), steady())
        for name in ("lift_spikes", "lift_all", "lift_within_spikes", "rollout_lift", "lift_h1"):
            np.testing.assert_allclose(found.units[name], 1, rtol=1e-9, err_msg=name)
        np.testing.assert_array_equal(found.units["rank"], np.arange(N_UNITS, 0, -1))

    def test_lift_within_windows_does_not_depend_on_when_a_unit_fires(self, bundle: Bundle) -> None:
        found = analysed(planted(bundle, {}), changing())
        np.testing.assert_allclose(found.units["lift_within_spikes"], 1, rtol=1e-9)
        np.testing.assert_allclose(found.units["lift_within_all"], 1, rtol=1e-9)
        assert (found.units["lift_spikes"][:6] > 1.2).all()  # they fire where there is little else

    def test_sums_are_sums(self, bundle: Bundle) -> None:
        counts = steady()
        found = analysed(planted(bundle, {}), counts)
        np.testing.assert_allclose(found.units["sum_all"].sum(), N_WINDOWS * HEADS * LATENTS)
        np.testing.assert_allclose(found.units["rollout"].sum(), N_WINDOWS * STEPS)
        part = counts.sum() / (counts + 2).sum()
        np.testing.assert_allclose(
            found.units["sum_spikes"].sum(), N_WINDOWS * HEADS * LATENTS * part
        )
        np.testing.assert_array_equal(found.units["tokens_spikes"], counts.sum(0))
        np.testing.assert_array_equal(found.units["tokens_all"], counts.sum(0) + 2 * N_WINDOWS)
        np.testing.assert_allclose(found.units["rate_hz"], counts[0])

    def test_a_silent_unit(self, bundle: Bundle) -> None:
        found = analysed(planted(bundle, {3: 5.0}), steady(silent=7))
        assert found.units["sum_spikes"][7] == 0
        assert found.units["sum_all"][7] > 0
        for name in ("lift_spikes", "lift_within_spikes", "lift_h0"):
            assert np.isnan(found.units[name][7])
            assert np.isfinite(np.delete(found.units[name], 7)).all()
        assert np.isfinite(found.units["lift_all"]).all()
        assert found.units["rank"][7] == N_UNITS
        assert (
            found.trained.specialisation.strata
            == strata.by_rate(np.delete(steady()[0], 7) * N_WINDOWS).sizes
        )  # the silent unit has no part in it

    def test_units_in_another_order(self, bundle: Bundle) -> None:
        engine, order = planted(bundle, {3: 5.0, 20: 0.2}), np.random.default_rng(3).permutation(24)
        a = attend(engine, recording(changing()), rounds=5)
        b = attend(engine, recording(changing(), order), rounds=5)
        assert list(b.units["unit"]) == [IDS[u] for u in order]
        for name, values in a.units.items():
            if name not in ("unit", "rank"):
                np.testing.assert_allclose(values[order], b.units[name], rtol=1e-9, err_msg=name)
        np.testing.assert_array_equal(a.units["rank"][order], b.units["rank"])

    def test_what_the_recording_says_of_units_comes_along(self, bundle: Bundle) -> None:
        own = replace(
            recording(steady()),
            unit_columns={
                "area": np.array(["CA1"] * 24),
                "position": np.arange(48.0).reshape(24, 2),
                "depth": np.zeros(24),
            },
        )
        found = attend(planted(bundle, {}), own, rounds=2).units
        assert list(found)[:4] == ["unit", "area", "position_0", "position_1"]
        np.testing.assert_array_equal(found["position_1"], np.arange(1.0, 49, 2))

    def test_reliability_of_the_order(self, bundle: Bundle) -> None:
        graded = {u: 1.2**u for u in range(N_UNITS)}
        counts = np.tile(np.full(N_UNITS, 6), (N_WINDOWS, 1))
        found = analysed(planted(bundle, graded), counts).trained.reliability
        for name in ("sum_spikes", "lift_spikes", "rollout", "rollout_lift"):
            assert found[name]["spearman"] == pytest.approx(1)
            assert found[name]["spearman_brown"] == pytest.approx(1)

    def test_halves_are_odd_and_even_blocks(self) -> None:
        rng = np.random.default_rng(0)
        sums = rng.random((20, 1, 8))
        own = hand_made(sums, np.full((20, 8), 5))
        odd = np.array([0, 0, 1, 1] * 5, np.bool_)  # ten blocks of two windows
        found = units.reliability(own)["sum_spikes"]
        halves = [sums[part].sum((0, 1)) for part in (odd, ~odd)]
        r = np.corrcoef(*[np.argsort(np.argsort(half)) for half in halves])[0, 1]
        assert found["spearman"] == pytest.approx(r)
        assert found["spearman_brown"] == pytest.approx(2 * r / (1 + r))


def hand_made(
    sums: NDArray[np.float64],
    spikes: NDArray[np.int64],
    steps: NDArray[np.float64] | None = None,
    per_trial: int = 0,
    condition: NDArray[np.int64] | None = None,
) -> Observed:
    """What was observed, written down instead: ``sums [W, H, U]``, ``spikes [W, U]``."""
    count, heads, n_units = sums.shape
    where = _windows.Windows(np.arange(float(count)), 1.0, per_trial, condition)
    tokens = Tokens({"spikes": spikes, "all": spikes + 2})
    steps = np.ones((count, 1, heads, n_units)) if steps is None else steps
    return Observed(
        where, tokens, "spikes", {"spikes": sums, "all": 2 * sums}, steps.astype(np.float32),
        sums.sum(1), {}, {},
    )  # fmt: skip


class TestHeads:
    def test_breadth_of_known_shares(self) -> None:
        even, one = np.full(8, 1 / 8), np.eye(8)[2]
        for measure, broad, narrow in (
            (shares.effective, 8, 1),
            (shares.participation, 8, 1),
            (shares.gini, 0, 7 / 8),
        ):
            assert measure(even) == pytest.approx(broad)
            assert measure(one) == pytest.approx(narrow)
        assert shares.gini(np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx(0.25)
        assert shares.effective(np.array([0.5, 0.25, 0.25])) == pytest.approx(2**1.5)

    def test_rows(self, bundle: Bundle) -> None:
        counts = steady()
        found = analysed(planted(bundle, {}, {5: 1e6}), counts)
        assert [(r["site"], r["head"]) for r in found.heads] == [
            *(("encoder", h) for h in range(2)),
            *((f"processor.{i}", h) for i in range(3) for h in range(4)),
            *(("decoder", h) for h in range(2)),
        ]
        even, sharp, rest = found.heads[0], found.heads[1], found.heads[2:]
        edges = 2 * N_UNITS / (counts[0].sum() + 2 * N_UNITS)
        assert even["start_end"] == pytest.approx(edges)
        assert even["start_end_uniform"] == pytest.approx(edges)
        assert even["units_sum"] == pytest.approx(even["units_uniform"])
        assert even["units_lift"] == pytest.approx(N_UNITS)
        assert even["units_lift_step"] == pytest.approx(N_UNITS)
        assert even["gini_lift"] == pytest.approx(0)
        assert (sharp["top_unit"], sharp["top_share"]) == (IDS[5], pytest.approx(1, abs=1e-3))
        assert sharp["units_sum"] == pytest.approx(1, abs=1e-2)
        assert sharp["start_end"] == pytest.approx(2 / 8, abs=1e-3)  # of unit 5's own tokens
        for row in rest:
            assert np.isnan(row["units_sum"])
            assert row["top_unit"] == ""
            assert np.isfinite([row["lag"], row["output"]]).all()

    def test_lag_and_output_are_those_of_the_capture(self, bundle: Bundle) -> None:
        engine = Engine(bundle, dtype="float64")
        own = recording(changing())
        found = analysed(engine, changing(), batch_size=7)
        batch = attendrite.SpikeBatch.from_recording(
            own, np.arange(float(N_WINDOWS)), 1.0, (np.arange(8) + 0.5) / 8
        )
        record = engine.run(batch, attendrite.Capture({"*": ["lag", "head_output"]})).attention
        assert record is not None
        for row in found.heads:
            lag = record[row["site"], "lag"][:, row["head"]]
            output = record[row["site"], "head_output"][:, row["head"]]
            assert row["lag"] == pytest.approx(lag.mean())
            assert row["output"] == pytest.approx(np.sqrt((output**2).sum(-1)).mean())

    def test_latents_of_the_same_time_are_a_step(self, bundle: Bundle) -> None:
        engine, own = Engine(bundle, dtype="float64"), recording(changing())
        where = _windows.Windows(np.arange(3.0), 1.0)
        batch = attendrite.SpikeBatch.from_recording(own, where.starts, 1.0, np.array([1.0]))
        record = engine.run(
            batch, attendrite.Capture({"encoder": ["per_query_unit:spikes", "lag"]})
        )
        assert record.attention is not None
        by_latent = record.attention["encoder", "per_query_unit"]  # [B, H, L, U]
        times = engine.model.layers.config.latent_times  # type: ignore[attr-defined]
        expected = np.stack([by_latent[:, :, times == t].mean(2) for t in np.unique(times)], 1)
        np.testing.assert_allclose(observe(engine, own, where).steps, expected, rtol=1e-6)

    def test_tokens_all_changes_what_counts_for_heads(self, bundle: Bundle) -> None:
        engine = planted(bundle, {5: 4.0})
        a, b = (analysed(engine, steady(silent=7), tokens=t) for t in ("spikes", "all"))
        assert np.isnan(a.units["lift_h0"][7])
        assert np.isfinite(b.units["lift_h0"][7])
        for name in ("sum_spikes", "sum_all", "lift_all", "rollout"):
            np.testing.assert_allclose(a.units[name], b.units[name], rtol=1e-9)
        assert a.heads[0]["start_end"] == pytest.approx(b.heads[0]["start_end"])


def courses(
    locked: float, residual: float, rng: np.random.Generator, heads: int = 2, n_trials: int = 30
) -> Observed:
    """Steps whose lifts share a course locked to trials and one of each trial, by these weights."""
    n_steps, n_units = 20, 6
    same, own = rng.normal(size=(1, n_steps, 1, n_units)), rng.normal(
        size=(n_trials, n_steps, 1, n_units)
    )  # fmt: skip
    apart = rng.normal(size=(1, n_steps, heads, n_units)), rng.normal(
        size=(n_trials, n_steps, heads, n_units)
    )  # fmt: skip
    course = locked * same + (1 - locked) * apart[0] + residual * own + (1 - residual) * apart[1]
    steps = np.exp(0.1 * course)
    return hand_made(
        steps.sum(1), np.full((n_trials, n_units), 5), steps, 1, np.zeros(n_trials, np.int64)
    )


class TestSynchrony:
    def test_locked_and_residual_are_told_apart(self) -> None:
        rng = np.random.default_rng(0)
        for locked, residual in ((1, 0), (0, 1)):
            own = courses(locked, residual, rng)
            found = synchrony(own, 200, rng)
            assert (found.locked.value > 0.8) == bool(locked)
            assert (found.residual.value > 0.8) == bool(residual)
            assert (found.residual.p < 0.01) == bool(residual)
            assert found.locked.verdict == "too few steps to shift"  # 20 of one condition

    def test_the_null_of_the_residual_holds_its_level(self) -> None:
        rng = np.random.default_rng(1)
        p = [synchrony(courses(0, 0, rng), 50, rng).residual.p for _ in range(200)]
        assert 0.02 <= np.mean(np.array(p) <= 0.1) <= 0.19  # 20 expected of 200, +-4 sd

    def test_the_null_of_the_locked_part_holds_its_level(self) -> None:
        rng = np.random.default_rng(2)
        p = [synchrony(courses(0, 0, rng, 3), 50, rng).locked.p for _ in range(200)]
        assert 0.02 <= np.mean(np.array(p) <= 0.1) <= 0.19

    def test_power(self) -> None:
        rng = np.random.default_rng(3)
        found = synchrony(courses(0.7, 0.7, rng, 3), 200, rng)
        assert found.locked.p < 0.01
        assert found.locked.verdict == "tested"  # 20 ** 2 shifts of two heads
        assert found.residual.p < 0.01

    def test_the_shifts_are_those_of_the_course(self) -> None:
        """The null by Fourier transform is that of shifting by hand."""
        rng = np.random.default_rng(4)
        own = courses(0.5, 0.5, rng, 3)
        found = synchrony(own, 4000, np.random.default_rng(5)).locked
        lifts = own.steps / own.steps.sum(-1, keepdims=True) * 6
        course = lifts.mean(0)
        course = course - course.mean(0)
        null = []
        for _ in range(4000):
            moved = [np.roll(course[:, h], rng.integers(20), 0).ravel() for h in range(3)]
            null.append(np.corrcoef(moved)[np.triu_indices(3, 1)].mean())
        assert found.null[0] == pytest.approx(np.mean(null), abs=0.01)
        assert found.null[1] == pytest.approx(np.quantile(null, 0.95), abs=0.02)
        flat = [course[:, h].ravel() for h in range(3)]
        expected = np.corrcoef(flat)[np.triu_indices(3, 1)].mean()
        assert found.value == pytest.approx(expected, abs=1e-6)

    def test_conditions_are_averaged_apart(self) -> None:
        rng = np.random.default_rng(6)
        own = courses(0, 0, rng)
        condition = np.arange(30) % 2
        signal = np.where(condition == 0, 1, -1)[:, None, None, None] * rng.normal(
            size=(1, 20, 1, 6)
        )
        steps = own.steps * np.exp(0.3 * signal)  # in both heads; gone in the mean of all trials
        for c, expected in ((condition, True), (np.zeros(30, np.int64), False)):
            windows = replace(own.windows, condition=c)
            found = synchrony(replace(own, steps=steps.astype(np.float32), windows=windows), 9, rng)
            assert (found.locked.value > 0.8) == expected
            assert (found.residual.value > 0.5) != expected  # what is not locked is left over

    @pytest.mark.parametrize(
        ("change", "part", "message"),
        [
            ({"heads": 1}, "whole", "one head"),
            ({"trials": False}, "locked", "no trials"),
            ({"trials": False}, "residual", "no trials"),
            ({"single": True}, "residual", "no condition was repeated"),
            ({"flat": True}, "locked", "a head does not vary"),
        ],
    )
    def test_not_testable(self, change: dict[str, Any], part: str, message: str) -> None:
        rng = np.random.default_rng(7)
        own = courses(0, 0, rng, change.get("heads", 2))
        condition = np.arange(30) if change.get("single") else np.zeros(30, np.int64)
        windows = replace(own.windows, condition=condition if change.get("trials", True) else None)
        steps = own.steps.copy()
        if change.get("flat"):
            steps[:, :, 0] = 1
        found = getattr(synchrony(replace(own, windows=windows, steps=steps), 9, rng), part)
        assert found.verdict == f"not testable: {message}"
        assert math.isnan(found.p)


class TestSpecialisation:
    def lifts(self, rng: np.random.Generator, kind: str) -> NDArray[np.float64]:
        a, b = np.exp(rng.normal(size=(2, 24)))
        return np.stack([a, {"alike": a, "apart": 1 / a, "independent": b}[kind]])

    @pytest.mark.parametrize(("kind", "p"), [("apart", "p_apart"), ("alike", "p_alike")])
    def test_power(self, kind: str, p: str) -> None:
        rng = np.random.default_rng(0)
        spikes = rng.integers(16, 32, 24)
        found = specialisation(self.lifts(rng, kind) * spikes, spikes, spikes, 200, rng)
        assert getattr(found, p) < 0.01
        assert found.verdict == "tested"

    def test_independent_preferences_are_neither(self) -> None:
        rng = np.random.default_rng(1)
        spikes = np.repeat([20, 40, 80], 8)
        found = [
            specialisation(self.lifts(rng, "independent") * spikes, spikes, spikes, 50, rng)
            for _ in range(200)
        ]
        for name in ("p_apart", "p_alike"):
            p = np.array([getattr(f, name) for f in found])
            assert 0.02 <= np.mean(p <= 0.1) <= 0.19

    def test_heads_that_follow_rate_alone_do_not_agree(self) -> None:
        rng = np.random.default_rng(2)
        spikes = rng.integers(1, 400, 24)
        noise = 1 + 1e-3 * rng.normal(size=(2, 24))
        found = specialisation(noise * spikes, spikes, spikes, 200, rng)
        assert found.p_alike > 0.05
        assert found.p_apart > 0.05

    def test_too_few_units(self) -> None:
        spikes = np.array([4, 4, 4, 40, 40, 40])
        rng = np.random.default_rng(3)
        found = specialisation(rng.random((2, 6)), spikes, spikes, 20, rng)
        assert (found.distinct, found.strata, found.verdict) == (36, [3, 3], "too few units")

    def test_divergence_of_known_distributions(self) -> None:
        assert shares.divergence(np.eye(3)) == pytest.approx(math.log(3))
        assert shares.divergence(np.full((2, 5), 0.2)) == pytest.approx(0, abs=1e-15)


class TestNulls:
    def test_p_counts_the_observed_one(self) -> None:
        null = np.array([0.1, 0.2, 0.3])
        assert [shares.p_value(x, null) for x in (0.0, 0.2, 0.25, 0.5)] == [1.0, 0.75, 0.5, 0.25]

    def test_permutations_are_counted_to_a_billion(self) -> None:
        assert shares.permutations([3, 4], 1) == 144
        assert shares.permutations([3, 2], 2) == 144
        assert shares.permutations([], 1) == 1
        assert shares.permutations([5000], 3) == shares.MANY

    def test_strata_are_cut_at_gaps_and_keep_three(self) -> None:
        spikes = np.array([1000, 0, 100, 5, 6, 101, 7, 0, 102, 9, 0, 103])
        found = strata.by_rate(spikes)
        # 0 0 0 | 5 6 7 9 | 100 .. 103 1000: 9 and 1000 have no three of their own
        np.testing.assert_array_equal(found.of, [2, 0, 2, 1, 1, 2, 1, 0, 2, 1, 0, 2])
        assert found.sizes == [3, 4, 5]
        assert found.widest == 10
        assert strata.by_rate(np.array([1, 1000])).sizes == [2]

    def test_like_rates_are_one_stratum_and_others_are_narrow(self) -> None:
        assert strata.by_rate(np.array([100, 120, 110, 124, 101, 119])).sizes == [6]
        assert strata.by_rate(np.array([100, 126, 110, 125, 101, 119])).sizes == [3, 3]
        spread = strata.by_rate(np.geomspace(100, 5000, 31).astype(int))
        assert set(spread.sizes) <= {3, 4, 5}
        assert spread.widest < 1.7

    def test_permutations_keep_strata(self) -> None:
        rng = np.random.default_rng(0)
        found = strata.by_rate(rng.integers(0, 300, 50))
        seen = [found.permutation(rng) for _ in range(20)]
        for order in seen:
            np.testing.assert_array_equal(found.of[order], found.of)
            np.testing.assert_array_equal(np.sort(order), np.arange(50))
        assert not all((order == seen[0]).all() for order in seen)


class TestControl:
    def test_as_freshly_initialised(self, bundle: Bundle) -> None:
        """Every tensor is spread as that of a new model of torch_brain."""
        brain = pytest.importorskip("torch_brain.models")
        config = dict(bundle.manifest.config)
        fresh: dict[str, list[torch.Tensor]] = {}
        for seed in range(6):
            torch.manual_seed(seed)
            model = brain.POYO(**config)
            model.unit_emb.initialize_vocab([f"u{i}" for i in range(40)])
            model.session_emb.initialize_vocab(["s"])
            for name, tensor in model.state_dict().items():
                if isinstance(tensor, torch.Tensor):
                    fresh.setdefault(name, []).append(tensor.flatten().double())
        ours = [untrained(bundle, seed).weights for seed in range(6)]
        assert set(fresh) == set(bundle.weights)
        for name, theirs in fresh.items():
            own = torch.cat([weights[name].flatten().double() for weights in ours])
            other = torch.cat(theirs)
            if name == "rotary_emb.omega":
                assert torch.equal(ours[0][name], bundle.weights[name])
                continue
            sd, n = float(other.std()), min(len(own), len(other))
            assert float(own.std()) == pytest.approx(sd, rel=8 / math.sqrt(n)), name
            assert abs(float(own.mean() - other.mean())) <= 8 * sd / math.sqrt(n), name
            if "emb" not in name and n > 1000:  # bounded: many draws come near the bound
                assert float(own.abs().max()) == pytest.approx(float(other.abs().max()), rel=0.02)

    def test_seeds(self, bundle: Bundle) -> None:
        turned = Bundle(bundle.manifest, dict(reversed(bundle.weights.items())))
        a, b, c = untrained(bundle, 1), untrained(turned, 1), untrained(bundle, 2)
        for name, tensor in a.weights.items():
            assert tensor.dtype == bundle.weights[name].dtype
            assert torch.equal(tensor, b.weights[name]), name
        assert not torch.equal(a.weights["latent_emb.weight"], c.weights["latent_emb.weight"])
        assert not a.weights["unit_emb.weight"][0].any()
        assert a.manifest.name.endswith(", untrained 1")

    def test_an_untrained_model_has_lift_near_one(self, bundle: Bundle) -> None:
        engine = planted(bundle, {3: 6.0})
        controls = [Engine(untrained(bundle, seed), dtype="float64") for seed in (0, 1)]
        found = analysed(engine, steady(), controls=controls)
        assert [f.name for f in found.untrained] == ["untrained 0", "untrained 1"]
        assert {row["model"] for row in found.heads} == {"trained", "untrained 0", "untrained 1"}
        both = np.stack([f.units["lift_spikes"] for f in found.untrained])
        for end, values in (("", both.mean(0)), ("_low", both.min(0)), ("_high", both.max(0))):
            np.testing.assert_array_equal(found.units[f"lift_spikes_untrained{end}"], values)
        assert np.abs(np.log(both)).max() < 0.7 < np.log(found.units["lift_spikes"][3])

    def test_same_seed_same_answer(self, bundle: Bundle) -> None:
        a, b, c = (
            analysed(planted(bundle, {3: 5.0}, {9: 5.0}), changing(), seed=seed, rounds=99)
            for seed in (0, 0, 1)
        )
        assert a.trained.specialisation == b.trained.specialisation
        assert a.trained.specialisation.null != c.trained.specialisation.null


class TestWindows:
    def place(self, *spans: tuple[float, float], trials: str | None = None) -> _windows.Windows:
        name = Intervals(
            np.array([4.0, 0.5, 8.0]), np.array([6.5, 3.0, 9.0]),
            {"kind": np.array(["b", "a", "b"])},
        )  # fmt: skip
        short = Intervals(np.array([0.0, 1.5, 3.0]), np.array([0.2, 1.7, 3.2]))
        near = Intervals(np.array([0.0, 0.5]), np.array([0.2, 0.7]))
        own = Recording("s", IDS, Spikes.none, (0.0, 10.0),
                        intervals={"reach": name, "flash": short, "near": near})  # fmt: skip
        chosen = None if trials is None else Trials.parse(trials)
        return _windows.place(own, 1.0, spans or [(0.0, 10.0)], chosen)

    def test_side_by_side_in_each_stretch(self) -> None:
        np.testing.assert_allclose(self.place((0.5, 3.2), (6.0, 8.0)).starts, [0.5, 1.5, 6, 7])
        np.testing.assert_allclose(self.place((0.0, 1.5), (1.2, 2.0)).starts, [0, 1])  # one stretch
        assert len(self.place((0.0, 0.7 + 0.3)).starts) == 1  # rounding takes no window away

    def test_trials(self) -> None:
        found = self.place(trials="reach:kind")
        np.testing.assert_allclose(found.starts, [0.5, 4, 8])
        assert found.per_trial == 1
        np.testing.assert_array_equal(found.condition, [0, 1, 1])
        found = self.place((0, 7), trials="reach")
        np.testing.assert_allclose(found.starts, [0.5, 4])
        np.testing.assert_array_equal(found.condition, [0, 0])
        np.testing.assert_allclose(self.place(trials="flash").starts, [0, 1.5, 3])

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda t: t.place((0.0, 0.9)), "the time to analyse must hold a window of 1 s, got 1"),
            (lambda t: t.place(trials="run"), "unknown intervals 'run'; known: reach, flash, near"),
            (lambda t: t.place(trials="reach:x"), "unknown column of reach 'x'; known: kind"),
            (lambda t: t.place((0, 0.6), trials="reach"), "trials 'reach' must leave room for"),
            (lambda t: t.place(trials="near"), "trials 'near' must begin at least 1 s after each"),
        ],
    )
    def test_what_cannot_be_placed(self, call: Callable[[TestWindows], Any], message: str) -> None:
        with pytest.raises(AttendriteError, match=message):
            call(self)

    def test_windows_on_held_out_time_are_counted(self, bundle: Bundle) -> None:
        split = Split((0.0, 12.0, 20.0), ("training", "test"), 1.0, 1.0)
        facts = {"session": "sess_a", "split": split.to_json()}
        told = Bundle(replace(bundle.manifest, training=facts), bundle.weights)
        for own, expected in ((told, 8), (bundle, None)):
            found = analysed(Engine(own), steady(), rounds=2)
            assert found.meta["windows"]["held_out"] == expected

    def test_windows_that_overlap_are_refused(self, bundle: Bundle) -> None:
        where = _windows.Windows(np.array([0.0, 0.5]), 1.0)
        with pytest.raises(AttendriteError, match="windows must not overlap"):
            observe(Engine(bundle), recording(steady()), where)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "some"}, "unknown tokens 'some'; known: spikes, all"),
        ({"fuse": "min"}, "unknown rollout 'min'; known: mean, max"),
        ({"rounds": 0}, "the size of a null must be at least 1, got 0"),
        ({"spans": [(0.0, 0.5)]}, "the time to analyse must hold a window of 1 s"),
        ({"counts": 0 * steady()}, "the analysed windows must hold spikes, got none"),
    ],
)
def test_bad_input(bundle: Bundle, options: dict[str, Any], message: str) -> None:
    counts = options.pop("counts", steady())
    with pytest.raises(AttendriteError, match=message):
        analysed(Engine(bundle), counts, **options)


@pytest.mark.parametrize("kind", ["plus", "calcium"])
def test_families_with_tasks(kind: str, tmp_path: Path) -> None:
    source = FIXTURES / f"poyo_plus_tiny/{kind}_tiny_lightning.ckpt"
    engine = Engine(attendrite.export(source, tmp_path / kind), dtype="float64")
    ids = tuple(f"u{i}" for i in range(10))
    rng = np.random.default_rng(0)
    spikes = Spikes(np.sort(rng.uniform(0, 5, 300)), rng.integers(0, 10, 300).astype(np.int32))
    at = np.arange(0, 5, 0.1)
    traces = Series(at, rng.normal(size=(len(at), 10)), ids) if kind == "calcium" else None
    own = Recording("s0", ids, lambda: Spikes.none() if traces else spikes, (0.0, 5.0),
                    traces=traces)  # fmt: skip
    found = attend(engine, own, rounds=5, task="arm_velocity_2d")
    assert len(found.units["unit"]) == 10
    steps = 1 / engine.manifest.config["latent_step"]
    np.testing.assert_allclose(found.units["rollout"].sum(), 5 * steps)
    if traces:
        np.testing.assert_allclose(found.units["sum_all"], found.units["sum_spikes"])
        assert np.isnan(found.units["rate_hz"]).all()
        assert found.heads[0]["start_end"] == pytest.approx(0, abs=1e-12)

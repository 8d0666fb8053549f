"""The tests of ablation on data whose truth is known; docs/calibration.md has the long version.

Seeds are fixed. For other seeds each bound here would raise a false alarm with probability 1e-4 or
less, as long as the tests hold their level.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attendrite import shards, simulate
from numpy.typing import NDArray
from scipy import stats

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SETS = 30
RANKINGS = 59
MOST = int(stats.binom.isf(1e-4, SETS, 0.05))  # of 30 at a level of 0.05: 8


@pytest.fixture
def calibration(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import calibration

    return calibration


def judged(calibration: Any, name: str) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """P-values and verdicts, ``[SETS, 2]``, against the nulls random and rate."""
    scenario = next(s for s in calibration.SCENARIOS if s.name == name)
    found = [calibration.tested(scenario, 10_000 + seed, RANKINGS)[1] for seed in range(SETS)]
    p = [[one.p[0] for one in each] for each in found]
    verdict = [[one.verdict[0] for one in each] for each in found]
    return np.array(p), np.array(verdict)


def test_p_is_uniform_where_units_are_exchangeable(calibration: Any) -> None:
    p, _ = judged(calibration, "a exchangeable")
    count = p * (1 + RANKINGS)
    np.testing.assert_allclose(count, count.round(), atol=1e-9)
    assert count.min() >= 1
    bound = float(stats.kstwo.isf(1e-4, SETS)) + 1 / (1 + RANKINGS)
    for column in p.T:
        assert stats.kstest(column, "uniform").statistic < bound
        assert (column <= 0.05).sum() <= MOST


def test_only_the_null_of_rate_holds_its_level_where_importance_follows_rate(
    calibration: Any,
) -> None:
    p, verdict = judged(calibration, "b rate")
    assert (p[:, 0] <= 0.05).sum() >= SETS - MOST, "random must reject"
    assert (verdict[:, 0] == "significant").sum() >= SETS - MOST
    assert (p[:, 1] <= 0.05).sum() <= MOST, "rate must not"


def test_nothing_to_lose_is_not_testable(calibration: Any) -> None:
    _, verdict = judged(calibration, "c nothing")
    assert (verdict == "not testable").all(1).sum() >= SETS - MOST


def test_planted_units_are_found(calibration: Any) -> None:
    _, verdict = judged(calibration, "d planted 0.25")
    assert ((verdict == "significant").sum(0) >= SETS - MOST).all()


def test_the_decoder_removes_what_the_order_says(calibration: Any) -> None:
    scenario = calibration.SCENARIOS[1]
    counts, latent, decoder = calibration.data_set(scenario, 3)
    fitted = decoder.fit(counts[:100], latent[:100])
    assert len(np.unique(fitted.weights)) == 3, "one weight for each rate"
    orders = np.array([np.random.default_rng(r).permutation(calibration.UNITS) for r in range(2)])
    found = fitted.removing(counts[100:], orders)
    for order, curve in zip(orders, found, strict=True):
        for removed, values in zip(calibration.REMOVED, curve, strict=True):
            kept = order[removed:]
            terms = (counts[100:, kept] - fitted.means[kept]) * fitted.weights[kept]
            np.testing.assert_allclose(values[:, 0], terms.sum(1) + latent[:100].mean())


def test_counts_are_those_of_the_recording(calibration: Any) -> None:
    scenario = calibration.SCENARIOS[0]
    counts, latent, _ = calibration.data_set(scenario, 3)
    recording, truth = simulate.tuned(
        calibration.UNITS, calibration.UNITS, n_trials=len(counts),
        rates=scenario.rates, gains=scenario.gain, seed=3,
    )  # fmt: skip
    assert (latent[:, 0] == truth.latent).all()
    times, offsets = recording.by_unit()
    for u in range(calibration.UNITS):
        own = times[offsets[u] : offsets[u + 1]]
        assert (counts[:, u] == np.histogram(own, np.arange(len(counts) + 1.0))[0]).all()


def test_the_run_goes_on_where_it_stopped_and_makes_whole_rows(
    calibration: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "RANKINGS", 39)
    monkeypatch.setattr(calibration, "PER_SHARD", 2)
    job = calibration.Calibration(3, calibration.SCENARIOS[2:4])
    assert job.shards == 4
    next(shards.run(job, tmp_path, processes=1, progress=False))
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    found = calibration.rows(job, shards.run(job, tmp_path, processes=1, progress=False))
    assert made
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())
    assert [(row["scenario"], row["null"]) for row in found] == [
        (s.name, null) for s in job.scenarios for null in ("random", "rate")
    ]
    for row in found:
        assert row["sets"] == sum(row["histogram"]) == 3
        assert 0 <= row["rejected"][1] <= row["rejected"][0] <= row["rejected"][2] <= 1
    calibration.draw(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert "| c nothing | `rate` |" in calibration.fill(
        "<!-- calibration: tests -->\n<!-- end -->", json.loads(json.dumps(found))
    )


def test_a_row_says_how_far_p_is_from_uniform(calibration: Any) -> None:
    steps = np.arange(1, 202) / 201
    verdict = np.full((201, 1), "significant", "U20")
    verdict[:67] = "not testable"
    found = {"p": steps[:, None], "verdict": verdict, "gain": np.ones(201)}
    row = calibration.row(calibration.SCENARIOS[0], "random", 0, found)
    assert row["ks"] == pytest.approx(0)
    assert row["rejected"][0] == pytest.approx(10 / 201)
    assert row["not_testable"][0] == pytest.approx(1 / 3)
    low, high = row["not_testable"][1:]  # Clopper and Pearson: tails of 2.5 %
    assert stats.binom.sf(66, 201, low) == pytest.approx(0.025)
    assert stats.binom.cdf(67, 201, high) == pytest.approx(0.025)
    found["p"] = np.full((201, 1), 1 / 201)
    row = calibration.row(calibration.SCENARIOS[0], "random", 0, found)
    assert row["ks"] == pytest.approx(200 / 201)


def test_the_page_is_what_the_rows_say(calibration: Any) -> None:
    lines = calibration.load()
    assert {line["sets"] for line in lines} == {1000}
    assert {line["scenario"] for line in lines} == {s.name for s in calibration.SCENARIOS}
    text = calibration.PAGE.read_text()
    assert calibration.fill(text, lines) == text

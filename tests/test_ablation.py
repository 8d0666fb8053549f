"""Conditions against filtering and running again; windows, orders, and whole ablations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, Capture, Engine, SpikeBatch, _core
from attendrite.ablation import (
    Curve,
    Data,
    Order,
    Plan,
    Settings,
    Target,
    ablate,
    plan,
    prepare,
    read_nulls,
    spans,
    sums,
)
from attendrite.ablation.conditions import Conditions, items, sites
from attendrite.ablation.data import MOST_BLOCKS, _blocks, memory, place
from attendrite.ablation.metrics import chosen
from attendrite.ablation.plans import points, ranking
from attendrite.ablation.sweep import Sweep
from attendrite.analysis import attend, by_rate
from attendrite.analysis.shares import MANY
from attendrite.commands import _ablate_report
from attendrite.evaluation import Split
from attendrite.recordings import Intervals, Recording, Series, Spikes
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
UNITS = 24
START, STOP = 10.0, 50.0
TARGET = Target("hand")
QUICK = {"random": 3, "rate": 3, "bottom": 1}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = FIXTURES / "poyo_tiny/poyo_tiny_lightning.ckpt"
    return attendrite.export(source, tmp_path_factory.mktemp("ablation") / "poyo")


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Engine:
    return Engine(bundle, threads=1)


@pytest.fixture(scope="module")
def exact(bundle: Path) -> Engine:
    return Engine(bundle, executor="torch", dtype="float64", threads=1)


def recording(seed: int = 0) -> Recording:
    rng = np.random.default_rng(seed)
    n = 3000
    rates = rng.lognormal(0, 1, UNITS)
    times = np.sort(rng.uniform(START, STOP, n))
    units = rng.choice(UNITS, n, p=rates / rates.sum()).astype(np.int32)
    at = np.arange(START, STOP, 0.05)
    values = np.stack([np.sin(at), np.cos(1.7 * at)], 1)
    values[100:104] = np.nan
    starts = np.arange(START, STOP, 4.0)
    return Recording(
        "sess_a",
        tuple(f"sess_a/unit_{i:04d}" for i in range(UNITS)),
        lambda: Spikes(times, units),
        (START, STOP),
        series={"hand": Series(at, values, ("x", "y"), "cm")},
        intervals={
            "trials": Intervals(starts, starts + 2.5),
            "short": Intervals(starts, starts + 0.3),
        },
        unit_columns={"area": np.array(["CA1", "CA3", "CA3"] * (UNITS // 3))},
    )


def length(engine: Engine) -> float:
    return float(engine.manifest.config["sequence_length"])


def data(engine: Engine, **target: Any) -> Data:
    return place(engine, recording(), replace(TARGET, **target), [(START, START + 6)], 3)


def nested(method: str, draws: int = 2, removed: Any = (0, 1, 5, 12, 23)) -> Plan:
    rng = np.random.default_rng(5)
    names = [f"sess_a/unit_{i:04d}" for i in range(UNITS)]
    first = rng.permutation(UNITS)
    orders = [first if method == "thin" or r == 0 else rng.permutation(UNITS) for r in range(draws)]
    curves = [Curve("ranked", r, method, orders[r], np.array(removed)) for r in range(draws)]
    return plan("units", names, curves)


def all_of(conditions: Conditions, window: int) -> NDArray[Any]:
    return conditions.run(window, window + 1)[0]


def with_spikes(batch: SpikeBatch, kept: NDArray[np.bool_]) -> SpikeBatch:
    return replace(
        batch, times=batch.times[kept], units=batch.units[kept], window=batch.window[kept]
    )


def again(engine: Engine, given: Data, window: int, batch: SpikeBatch) -> NDArray[Any]:
    """Run a batch that was changed by hand."""
    return np.asarray(engine.run(batch).prediction)[0, given.asked[window]]


# ---- conditions ----


@pytest.mark.parametrize("method", ["remove", "silence"])
@pytest.mark.parametrize("points", [(0, 1, 5, 12, 23), (3, 20)])
def test_merging_is_filtering_and_running_again(
    exact: Engine, method: str, points: tuple[int, ...]
) -> None:
    given, conditions = data(exact), nested(method, removed=points)
    found = all_of(Conditions(exact, given, conditions, 0), 1)
    assert found.shape[:2] == (2, len(points))
    whole = given.batch.part(1, 2)
    assert isinstance(whole, SpikeBatch)
    for n in range(len(conditions)):
        kept = conditions.kept(n)
        batch = with_spikes(whole, kept[whole.units])
        if method == "remove":
            batch = replace(batch, window_units=kept[None])
        truth = again(exact, given, 1, batch)
        p, c = divmod(n, len(points))
        np.testing.assert_allclose(found[p, c], truth, rtol=0, atol=1e-10)


def test_in_single_precision_by_the_native_executor(engine: Engine, exact: Engine) -> None:
    conditions = nested("remove")
    found = all_of(Conditions(engine, data(engine), conditions, 0), 0)
    truth = all_of(Conditions(exact, data(exact), conditions, 0), 0)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-5)


@pytest.mark.skipif(_core.cpu_level() != "v4_bf16", reason="needs AVX512_BF16")
def test_an_engine_in_bfloat16_is_given_arrays_of_float32(bundle: Path, engine: Engine) -> None:
    rounded = Engine(bundle, dtype="bfloat16", threads=1)
    conditions = nested("remove")
    found, plain = (Conditions(e, data(e), conditions, 0) for e in (rounded, engine))
    assert found._each == plain._each
    first, other = all_of(found, 0), all_of(plain, 0)
    assert first.shape == other.shape
    assert 0 < np.abs(first - other).max() < 0.1 * np.abs(other).max()


def test_silence_may_remove_all_and_remove_may_not(exact: Engine) -> None:
    given = data(exact)
    found = all_of(Conditions(exact, given, nested("silence", removed=(0, UNITS)), 0), 0)
    blind = Conditions(exact, given, nested("silence"), 0).blind(0)
    assert blind is not None
    np.testing.assert_allclose(found[0, 1], blind, rtol=0, atol=1e-10)
    with pytest.raises(AttendriteError, match="attention over nothing"):
        nested("remove", removed=(0, UNITS))


@pytest.mark.parametrize("method", ["shuffle_time", "mean_rate"])
def test_replaced_spikes_are_run_as_if_they_had_been_there(exact: Engine, method: str) -> None:
    given, conditions = data(exact), nested(method, removed=(0, 2, 12, UNITS))
    runner = Conditions(exact, given, conditions, 7)
    found = all_of(runner, 0)
    whole = given.batch.part(0, 1)
    assert isinstance(whole, SpikeBatch)
    both, segments, n = runner._replaced(0, whole, method)
    assert n == 2 * UNITS + 1
    segment = segments[2 * UNITS :]
    assert (both.units == segment % UNITS).all()
    if method == "shuffle_time":
        counts = np.bincount(segment, minlength=2 * UNITS).reshape(2, UNITS)
        assert (counts[0] == counts[1]).all()
    for i in range(len(conditions)):
        kept = conditions.kept(i)
        batch = with_spikes(both, np.concatenate([kept, ~kept])[segment])
        p, c = divmod(i, 4)
        truth = again(exact, given, 0, batch)
        np.testing.assert_allclose(found[p, c], truth, rtol=0, atol=1e-10)


def test_mean_rate_keeps_the_mean_rate(engine: Engine) -> None:
    given = place(engine, recording(), TARGET, [(START, STOP)], 0)
    runner = Conditions(engine, given, nested("mean_rate"), 0)
    assert isinstance(given.batch, SpikeBatch)
    total = 0
    for window in range(len(given)):
        whole = given.batch.part(window, window + 1)
        assert isinstance(whole, SpikeBatch)
        total += len(runner._replaced(window, whole, "mean_rate")[0].times) - len(whole.times)
    expected = len(given.batch.times)
    assert abs(total - expected) < 5 * np.sqrt(expected)


def test_thinning_removes_as_many_spikes_as_the_ranking(exact: Engine) -> None:
    given, conditions = data(exact), nested("thin", draws=3)
    found = all_of(Conditions(exact, given, conditions, 11), 1)
    whole = given.batch.part(1, 2)
    assert isinstance(whole, SpikeBatch)
    for p in range(3):
        place_ = np.random.default_rng([11, 1, p, 1]).permutation(len(whole.times))
        for c, removed in enumerate(conditions.removed[p]):
            gone = int(np.isin(whole.units, conditions.order[p, :removed]).sum())
            batch = with_spikes(whole, place_ >= gone)
            assert len(batch.times) == len(whole.times) - gone
            truth = again(exact, given, 1, batch)
            np.testing.assert_allclose(found[p, c], truth, rtol=0, atol=1e-10)
    assert np.abs(found[0, 2] - found[1, 2]).max() > 1e-6  # draws differ


@pytest.mark.parametrize("method", ["remove", "silence", "shuffle_time", "thin"])
def test_the_memory_changes_no_bit(engine: Engine, method: str) -> None:
    given, conditions = data(engine), nested(method, draws=5)
    much = Conditions(engine, given, conditions, 0).run(0, 3)
    little = Conditions(engine, given, conditions, 0, memory=1).run(0, 3)
    assert len(much) == 3
    for a, b in zip(much, little, strict=True):
        np.testing.assert_array_equal(a, b)


def test_heads_and_layers_are_masked(engine: Engine) -> None:
    given = data(engine)
    names = items(engine, "heads", given.batch.unit_ids)
    assert names[0] == "encoder.head0"
    assert len(names) == sum(site.heads for site in engine.sites)
    rng = np.random.default_rng(1)
    curves = [Curve("ranked", 0, "remove", rng.permutation(len(names)), np.array([0, 1, 4]))]
    conditions = plan("heads", names, curves)
    found = all_of(Conditions(engine, given, conditions, 0), 0)
    batch = given.batch.part(0, 1)
    masks = [sites(engine, "heads", conditions.kept(c)) for c in range(3)]
    truth = np.asarray(engine.masked(batch, masks))[:, 0][:, given.asked[0]]
    np.testing.assert_allclose(found[0], truth, rtol=0, atol=1e-6)
    assert np.abs(found[0, 1] - found[0, 2]).max() > 1e-5
    layers = items(engine, "layers", given.batch.unit_ids)
    assert layers == tuple(s.name for s in engine.sites if s.residual)
    for i in (0, len(names) - 1, names.index("processor.1.head2")):
        mask = sites(engine, "heads", np.arange(len(names)) != i)
        (site, kept), head = *mask.items(), names[i].rpartition(".head")
        assert site == head[0]
        assert np.flatnonzero(~kept[None]).tolist() == [int(head[2])]
    mask = sites(engine, "layers", np.arange(len(layers)) > 0)
    assert list(mask) == ["processor.0"]
    assert not mask["processor.0"].any()


# ---- plans ----


def test_a_plan_numbers_its_conditions_and_survives_json() -> None:
    made = nested("remove")
    assert len(made) == 10
    assert not made.kept(7)[made.order[1, :5]].any()
    assert made.kept(7).sum() == UNITS - 5
    back = Plan.from_json(made.to_json())
    assert back.sha256 == made.sha256
    assert (back.order == made.order).all()
    assert back.part(1, 2).sha256 != made.sha256
    other = replace(made, order=made.order[:, ::-1].copy())
    assert other.sha256 != made.sha256


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"order": np.zeros((2, UNITS), np.int64)}, "hold every item once"),
        ({"removed": np.array([[0, 2, 1]] * 2)}, "rise along a curve"),
        ({"removed": np.array([[0, 25]] * 2)}, "0..23 of 24 units, got 25"),
        ({"site": "cells"}, "unknown site"),
        ({"methods": ("kill", "kill")}, "unknown method"),
        ({"labels": ("",)}, "one per curve"),
    ],
)
def test_plans_that_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(AttendriteError, match=said):
        replace(nested("remove"), **change)


def test_broken_plans_in_json_are_refused() -> None:
    table = nested("remove").to_json()
    for change in ({"order": None}, {"draws": "x"}, {"removed": [[1]]}):
        with pytest.raises(AttendriteError):
            Plan.from_json(table | change)
    with pytest.raises(AttendriteError, match="hold what Plan"):
        Plan.from_json({})


def test_points_hold_the_half_and_end_as_the_method_allows() -> None:
    assert points(10, "remove").tolist() == list(range(10))
    assert points(10, "silence").tolist() == list(range(11))
    many = points(200, "remove")
    assert many[0] == 0
    assert many[-1] == 199
    assert 100 in many
    assert len(many) < 50


def test_rankings_from_each_end() -> None:
    scores = np.array([1.0, 3.0, np.nan, 3.0])
    assert ranking(scores, "top").tolist() == [1, 3, 0, 2]
    assert ranking(scores, "bottom").tolist() == [2, 0, 3, 1]
    assert ranking(scores, "keep").tolist() == [2, 0, 3, 1]


# ---- windows ----


def test_windows_lie_apart_at_random_inside_what_is_given(engine: Engine) -> None:
    where, size = [(10.0, 20.0), (30.0, 36.0)], length(engine)
    found = [place(engine, recording(), TARGET, where, seed) for seed in (0, 1)]
    for each in found:
        assert (np.diff(each.starts) >= size * (1 - 1e-9)).all()
        inside = [(a <= each.starts) & (each.starts + size <= b) for a, b in where]
        assert np.any(inside, axis=0).all()
        assert len(each) >= 0.8 * 16 / size
    n = min(map(len, found))
    assert np.abs(found[0].starts[:n] - found[1].starts[:n]).max() > 1e-3
    phase = found[0].starts % size
    assert np.ptp(phase) > 0.2 * size  # windows locked to a grid would have one phase


def test_values_are_samples_of_the_series(engine: Engine) -> None:
    given, truth = data(engine), recording().series["hand"]
    assert np.isfinite(given.true).all()
    for w in range(len(given)):
        times = given.starts[w] + given.batch.query_times[w, given.asked[w]]
        at = np.searchsorted(truth.times, times - 1e-6)
        np.testing.assert_allclose(truth.times[at], times, atol=1e-9)
        np.testing.assert_array_equal(truth.values[at], given.true[w, given.asked[w]])


def test_what_is_within_is_scored_alone(engine: Engine) -> None:
    given = data(engine, within="short")
    for w in range(len(given)):
        times = given.starts[w] + given.batch.query_times[w, given.asked[w]]
        assert ((times - START) % 4 <= 0.3 + 1e-9).all()


@pytest.mark.parametrize("name", ["trials", "short"])
def test_trials_are_what_is_resampled(engine: Engine, name: str) -> None:
    given = place(engine, recording(), replace(TARGET, trials=name), [(START, STOP)], 0)
    assert given.blocks >= 8
    assert (np.diff(given.block) >= 0).all()
    for w in range(len(given)):
        times = given.starts[w] + given.batch.query_times[w, given.asked[w]]
        assert len(np.unique((times - START) // 4)) == 1  # one trial
        assert ((times - START) % 4 <= (2.5 if name == "trials" else 0.3) + 1e-9).all()
    if name == "short":
        assert np.ptp((given.starts - START) % 4) > 0.1  # anywhere in their windows


def test_blocks_are_as_long_as_the_series_remembers(engine: Engine) -> None:
    truth = recording().series["hand"]
    remembered = memory(truth)
    assert 0.5 < remembered < 1.5  # cos falls to 1/e at 1.19 rad
    given = place(engine, recording(), TARGET, [(START, STOP)], 0)
    for block in range(given.blocks - 1):
        first = given.starts[given.block == block][0]
        after = given.starts[given.block == block + 1][0]
        assert after - first >= min(remembered, length(engine)) - 1e-9
    slow = replace(truth, values=np.stack([truth.times, truth.times], 1))
    assert memory(slow) > 5 * remembered
    day = replace(recording(), series={"hand": slow})
    few = place(engine, day, TARGET, [(START, STOP)], 0)
    assert 2 <= few.blocks <= np.ceil((STOP - START) / memory(slow))
    edges = few.starts[np.flatnonzero(np.diff(few.block, prepend=-1))]
    assert (np.diff(edges) > memory(slow) - 2).all()  # a window and the gap before it


def test_stretches_of_time_by_name(engine: Engine) -> None:
    day = recording()
    assert spans(engine, day, "10-12,20-21.5") == [(10.0, 12.0), (20.0, 21.5)]
    even, odd = (spans(engine, day, name) for name in ("even", "odd"))
    assert len(even) == len(odd) == 5
    assert even[0] == (10.0, 14.0)
    assert odd[0] == (14.0, 18.0)
    assert len(spans(engine, day, "trials")) == 10
    for text, said in (
        ("test", "say how it was trained"), ("nowhere", "be one of"), ("5-3", "START below STOP"),
    ):  # fmt: skip
        with pytest.raises(AttendriteError, match=said):
            spans(engine, day, text)


# ---- orders ----


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("attention", "sum_spikes"),
        ("attention:lift", "lift_spikes"),
        ("attention:sum:all", "sum_all"),
        ("attention:readout", "rollout"),
        ("attention:lift:readout", "rollout_lift"),
    ],
)
def test_orders_of_attention_are_those_of_the_analysis(
    engine: Engine, text: str, column: str
) -> None:
    day = recording()
    found = prepare(engine, day, Settings(TARGET, order=text, nulls={}))
    where = [(a, a + length(engine)) for a in found.ranked.starts.tolist()]
    truth = attend(engine, day, spans=where, rounds=1).units[column]
    np.testing.assert_allclose(found.scores, truth, rtol=1e-5)
    assert (found.order == np.argsort(-truth, kind="stable")).all()


def test_the_rate_counts_spikes_of_the_time_to_rank_on(engine: Engine) -> None:
    found = prepare(engine, recording(), Settings(TARGET, order="rate", nulls={}))
    assert isinstance(found.ranked.batch, SpikeBatch)
    assert (found.scores == np.bincount(found.ranked.batch.units, minlength=UNITS)).all()


def test_the_effect_is_what_is_lost_without_a_unit(exact: Engine) -> None:
    settings = Settings(TARGET, order="effect", nulls={}, metric="mse", rank_on="12-16")
    found = prepare(exact, recording(), replace(settings, eval_on="20-24"))
    whole = found.ranked.batch
    assert isinstance(whole, SpikeBatch)

    def error(batch: SpikeBatch) -> float:
        decoded = np.asarray(exact.run(batch).prediction)
        squares = (decoded - found.ranked.true)[found.ranked.asked] ** 2
        return float(squares.mean())

    for unit in (0, 7):
        kept = np.arange(UNITS) != unit
        batch = with_spikes(whole, whole.units != unit)
        without = error(replace(batch, window_units=np.tile(kept, (len(whole), 1))))
        assert found.scores[unit] == pytest.approx(without - error(whole), abs=1e-9)


def test_lists_and_given_scores(engine: Engine, tmp_path: Path) -> None:
    day = recording()
    names = list(day.unit_ids)
    wanted = np.random.default_rng(2).permutation(UNITS)
    path = tmp_path / "list.csv"
    path.write_text("unit,score\n" + "".join(f"{names[u]},1\n" for u in wanted), encoding="utf-8")
    base = Settings(TARGET, nulls={})
    given: list[Any] = [
        f"list:{path}",
        {names[u]: -float(i) for i, u in enumerate(wanted)},
        lambda engine, recording, data: -np.argsort(wanted).astype(float),
    ]
    for order in given:
        assert (prepare(engine, day, replace(base, order=order)).order == wanted).all()
    path.write_text(names[0] + "\n", encoding="utf-8")
    for order, said in ((f"list:{path}", "name every item"), ({"a": 1.0}, "on one side only")):
        with pytest.raises(AttendriteError, match=said):
            prepare(engine, day, replace(base, order=order))


@pytest.mark.parametrize("text", ["rates", "attention:mean", "attention:sum:lift", "rate:sum",
                                  "attention:readout:spikes"])  # fmt: skip
def test_orders_that_are_refused(text: str) -> None:
    with pytest.raises(AttendriteError):
        Order.parse(text)


def test_what_is_ranked_on_is_not_evaluated_on(engine: Engine) -> None:
    day = recording()
    same = Settings(TARGET, rank_on="10-30", eval_on="20-40", nulls={})
    with pytest.raises(AttendriteError, match="20 to 30 s in both"):
        prepare(engine, day, same)
    prepare(engine, day, replace(same, overlap=True))
    by_labels: list[Any] = ["effect", lambda *_: np.arange(UNITS)]
    for order in by_labels:
        with pytest.raises(AttendriteError, match="in both"):
            prepare(engine, day, replace(same, overlap=True, order=order))


# ---- whole ablations ----


@pytest.fixture(scope="module")
def found(engine: Engine) -> Any:
    settings = Settings(TARGET, nulls=QUICK | {"count": 2}, resamples=200, points=(1, 4, 12, 20))
    return ablate(engine, recording(), settings)


def test_the_baseline_is_that_of_a_plain_run(engine: Engine, found: Any) -> None:
    given = found.prepared.evaluated
    decoded = np.asarray(engine.run(given.batch).prediction)[given.asked]
    true = given.true[given.asked]
    r2 = 1 - ((decoded - true) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(found.curve.baseline.value[1:], r2, rtol=1e-5)
    table = found.frame()
    first = table[table.removed == 0]
    for dimension, value in zip(("x", "y"), r2, strict=True):
        assert np.allclose(first[first.dimension == dimension].value, value, rtol=1e-5)


def test_the_table_is_tidy(found: Any) -> None:
    table = found.frame()
    assert len(table) == (1 + 3 + 3 + 1 + 2) * 5 * 3
    assert set(table.curve) == {"ranked", "random", "rate", "bottom", "count"}
    assert (table.removed + table.kept == UNITS).all()
    assert set(table[table.curve == "count"].method) == {"count"}
    assert not table.duplicated(["curve", "draw", "removed", "dimension"]).any()
    both = table[table.dimension != "mean"].groupby(["curve", "draw", "removed"]).value.mean()
    mean = table[table.dimension == "mean"].set_index(["curve", "draw", "removed"]).value
    np.testing.assert_allclose(mean.sort_index(), both.sort_index())


def test_the_null_of_rates_keeps_strata(found: Any) -> None:
    made, strata = found.prepared.plan, found.prepared.strata.of
    for p in made.curves("rate"):
        assert (strata[made.order[p]] == strata[made.order[0]]).all()
    assert any((made.order[p] != made.order[0]).any() for p in made.curves("rate"))
    assert (made.order[made.curves("bottom")[0]] == made.order[0, ::-1]).all()


def test_keeping_is_removing_from_the_bottom(engine: Engine) -> None:
    settings = Settings(TARGET, nulls={}, resamples=100, eval_on="30-40", rank_on="10-20")
    kept = ablate(engine, recording(), replace(settings, end="keep", points=(4, 12, 20)))
    bottom = ablate(engine, recording(), replace(settings, end="bottom", points=(4, 12, 20)))
    assert kept.curve is not None
    assert bottom.curve is not None
    assert (kept.curve.removed == bottom.curve.removed).all()
    np.testing.assert_array_equal(kept.curve.values, bottom.curve.values)


def test_the_same_again_and_another_with_another_seed(engine: Engine, found: Any) -> None:
    settings = found.prepared.settings
    same = ablate(engine, recording(), settings)
    other = ablate(engine, recording(), replace(settings, seed=1))
    for name, column in found.tables["curves"].items():
        np.testing.assert_array_equal(same.tables["curves"][name], column)
    assert (other.tables["curves"]["value"] != found.tables["curves"]["value"]).any()


@pytest.mark.parametrize("kind", ["single", "groups:area"])
def test_single_conditions(engine: Engine, kind: str) -> None:
    null = {} if kind == "single" else {"random": 4}
    settings = Settings(TARGET, conditions=kind, nulls=null, resamples=200, metric="correlation")
    got = ablate(engine, recording(), settings)
    tests = got.frame("tests")
    tests = tests[tests.dimension == "mean"]
    assert len(tests) == (UNITS if kind == "single" else 2)
    assert (tests["items"] == (1 if kind == "single" else [8, 16])).all()
    assert (tests.low <= tests.high).all()
    assert tests.p.isna().all() if kind == "single" else tests.p.between(0.2, 1).all()
    curves = got.frame()
    base = curves[(curves.condition == "") & (curves.dimension == "mean")].value.iloc[0]
    own = curves[(curves.curve == "ranked") & (curves.condition != "")]
    own = own[own.dimension == "mean"]
    np.testing.assert_allclose(base - own.value.to_numpy(), tests["drop"], atol=1e-12)


@pytest.mark.parametrize(("site", "order"), [("heads", "output"), ("layers", "output"),
                                             ("latents", "effect")])  # fmt: skip
def test_other_sites(engine: Engine, site: str, order: str) -> None:
    settings = Settings(TARGET, site=site, order=order, nulls={"random": 2}, resamples=100,
                        rank_on="10-16", eval_on="20-32")  # fmt: skip
    got = ablate(engine, recording(), settings)
    assert got.curve is not None
    assert (engine.executor, got.meta["executor"]) == ("native", "torch")  # which has the masks
    assert len(got.prepared.items) == len(items(engine, site, np.array([], np.str_)))
    assert np.ptp(got.curve.values[:, 0]) > 0


def test_any_callable_is_averaged_over_blocks(engine: Engine) -> None:
    def largest(true: NDArray[Any], decoded: NDArray[Any]) -> float:
        return float(np.abs(true - decoded).max())

    settings = Settings(TARGET, metric=largest, nulls={}, resamples=100, points=(12,))
    got = ablate(engine, recording(), settings)
    given = got.prepared.evaluated
    decoded = np.asarray(engine.run(given.batch).prediction)
    by_block = [
        np.abs((decoded - given.true)[given.block == b][given.asked[given.block == b]]).max()
        for b in range(given.blocks)
    ]
    assert got.curve is not None
    assert got.curve.baseline.value[0] == pytest.approx(np.mean(by_block), rel=1e-5)
    assert got.meta["choices"]["metric"] == "largest"


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Settings(TARGET, site="cells"), "unknown site"),
    (lambda: Settings(TARGET, nulls={"odd": 1}), "unknown null"),
    (lambda: Settings(TARGET, nulls={"random": 0}), "at least 1"),
    (lambda: Settings(TARGET, site="heads", nulls={"rate": 1}), "random or bottom"),
    (lambda: Settings(TARGET, conditions="groups"), "name a column"),
    (lambda: Settings(TARGET, conditions="single", nulls={"bottom": 1}), "random or rate"),
    (lambda: Settings(TARGET, resamples=3), "at least 100"),
    (lambda: Settings(TARGET, seed=-1), "at least 0"),
    (lambda: read_nulls("random:2,random"), "be like"),
    (lambda: read_nulls("random:x"), "be like"),
]


@pytest.mark.parametrize(("make", "said"), REFUSED)
def test_settings_that_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(AttendriteError, match=said):
        make()


def test_nulls_are_read() -> None:
    assert read_nulls("none") == {}
    assert read_nulls("random:5,rate,bottom") == {"random": 5, "rate": 200, "bottom": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": Target("foot")}, "unknown series"),
        ({"target": Target("hand", within="x")}, "unknown intervals"),
        ({"target": Target("hand", spacing=-1.0)}, "above 0 s"),
        ({"eval_on": "49.9-50", "rank_on": "10-20"}, "hold a window"),
        (
            {"eval_on": "14.9-16.2", "rank_on": "30-40", "target": Target("hand", within="short")},
            "hold samples",
        ),
        ({"metric": "accuracy"}, "be of values"),
        ({"points": (30,)}, "points must lie in 0..23"),
        ({"conditions": "groups:layer"}, "unknown column"),
        ({"order": "output"}, "unknown order of units"),
    ],
)
def test_ablations_that_are_refused(engine: Engine, change: dict[str, Any], said: str) -> None:
    base = Settings(TARGET, nulls={"random": 1} if "conditions" in change else {}, resamples=100)
    with pytest.raises(AttendriteError, match=said):
        ablate(engine, recording(), replace(base, **change))


# ---- what is ranked, evaluated and compared ----


def trained(engine: Engine) -> Engine:
    """Return the model with facts about its training."""
    split = Split((START, 30.0, STOP), ("training", "test"), 1.0, 1.0)
    facts = {"session": "sess_a", "split": split.to_json()}
    manifest = replace(engine.manifest, training=facts)
    return Engine(replace(engine.bundle, manifest=manifest), threads=1)


def test_times_by_default(engine: Engine) -> None:
    settings = Settings(TARGET, nulls={})
    unknown, known = (prepare(e, recording(), settings) for e in (engine, trained(engine)))
    assert unknown.spans == ("odd", "even")
    assert known.spans == ("training", "test")
    assert known.ranked.starts.max() + 1 <= 30.0 <= known.evaluated.starts.min()
    phase = (unknown.ranked.starts - START) % 8, (unknown.evaluated.starts - START) % 8
    assert (phase[0] >= 4).all()
    assert (phase[1] < 4).all()


def test_the_constant_is_the_mean_of_what_was_scored_in_training(engine: Engine) -> None:
    day = recording()
    truth = day.series["hand"]
    settings = Settings(replace(TARGET, within="short"), rank_on="12-16", eval_on="36-48", nulls={})
    for made, first, stop, said in (
        (engine, 12.0, 16.0, "the time to rank on"),
        (trained(engine), START, 29.0, "training time"),  # a second of it is the gap
    ):
        found = prepare(made, day, settings)
        assert found.constant_from == said
        there = (truth.times >= first) & (truth.times < stop) & np.isfinite(truth.values).all(1)
        there &= (truth.times - START + 1e-9) % 4 < 0.3
        np.testing.assert_allclose(found.constant, truth.values[there].mean(0), rtol=1e-9)


def test_a_function_sees_the_time_to_rank_on(engine: Engine) -> None:
    seen: list[Data] = []

    def order(engine: Engine, day: Recording, given: Data) -> NDArray[Any]:
        seen.append(given)
        return np.arange(UNITS)

    prepare(engine, recording(), Settings(TARGET, order=order, rank_on="11-20", eval_on="30-40"))
    assert seen[0].starts.min() >= 11
    assert seen[0].starts.max() <= 19


@pytest.mark.parametrize("site", ["heads", "layers"])
def test_the_order_of_outputs(engine: Engine, site: str) -> None:
    settings = Settings(TARGET, site=site, order="output", nulls={}, rank_on="10-30")
    found = prepare(engine, recording(), replace(settings, eval_on="31-40"))
    attention = engine.run(found.ranked.batch, Capture({"*": "head_output"})).attention
    assert attention is not None
    expected = []
    for each in engine.sites:
        output = attention[each.name, "head_output"].astype(np.float64)
        if site == "layers" and each.residual:
            expected.append(np.linalg.norm(output.sum(1), axis=2).mean())
        elif site == "heads":
            expected += np.linalg.norm(output, axis=3).mean((0, 2)).tolist()
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)


def test_points_of_keeping_count_what_is_kept(engine: Engine) -> None:
    found = prepare(engine, recording(), Settings(TARGET, end="keep", points=(2, 5), nulls={}))
    assert found.plan.removed.tolist() == [[0, UNITS - 5, UNITS - 2]]
    best = np.argsort(-found.scores, kind="stable")[:2]
    assert np.flatnonzero(found.plan.kept(2)).tolist() == sorted(best.tolist())


@pytest.mark.parametrize("kind", ["nested", "groups:area"])
def test_rankings_of_a_null_differ_and_follow_the_seed(engine: Engine, kind: str) -> None:
    nulls_ = {"random": 3, "rate": 3} | ({"count": 2} if kind == "nested" else {})
    first = {f"sess_a/unit_{i:04d}": float(-i) for i in range(UNITS)}  # whatever the windows
    settings = Settings(TARGET, order=first, conditions=kind, nulls=nulls_)
    one, other = (prepare(engine, recording(), replace(settings, seed=s)).plan for s in (0, 1))
    for name in ("random", "rate"):
        some = one.curves(name)
        assert len(np.unique(one.order[some], axis=0)) == len(some)
        assert (one.order[some] != other.order[other.curves(name)]).any()
    for p in one.curves("count"):
        assert one.methods[p] == "thin"
        assert (one.order[p] == one.order[0]).all()


def test_groups_are_the_units_of_their_name(engine: Engine) -> None:
    day = recording()
    made = prepare(engine, day, Settings(TARGET, conditions="groups:area", nulls={})).plan
    area = day.unit_columns["area"]
    for p, label in enumerate(made.labels):
        assert (made.kept(p) == (area != label)).all()


def test_strata_are_of_all_windows(engine: Engine) -> None:
    found = prepare(engine, recording(), Settings(TARGET, nulls={}))
    spikes = np.concatenate([found.ranked.batch.units, found.evaluated.batch.units])  # type: ignore[union-attr]
    expected = by_rate(np.bincount(spikes, minlength=UNITS))
    assert (found.strata.of == expected.of).all()


def test_the_table_of_items(engine: Engine, found: Any) -> None:
    table = found.frame("items").set_index("item")
    units = found.prepared.ranked.batch.units, found.prepared.evaluated.batch.units
    for name, of in zip(("spikes_ranked", "spikes_evaluated"), units, strict=True):
        assert (table[name] == np.bincount(of, minlength=UNITS)).all()
    assert (table["rank"] == table["removed_as"]).all()
    bottom = ablate(engine, recording(), Settings(TARGET, nulls={}, end="bottom", points=(1,)))
    other = bottom.frame("items").set_index("item")
    assert (other["rank"] == table["rank"]).all()
    assert (other["rank"] + other["removed_as"] == UNITS + 1).all()


def test_loss_is_the_share_of_the_gain(engine: Engine) -> None:
    settings = Settings(TARGET, nulls={"random": 1}, points=(1, 12))
    got = ablate(engine, told(engine, settings), settings)
    assert got.curve is not None
    base, table = got.curve.baseline, got.frame()
    np.testing.assert_allclose(base.value, 1)
    for e, dimension in enumerate(["mean", "x", "y"]):
        rows = table[table.dimension == dimension]
        expected = (base.value[e] - rows.value) / (base.value[e] - base.constant[e])
        np.testing.assert_allclose(rows.loss, expected, rtol=1e-9, atol=1e-12)


def told(engine: Engine, settings: Settings) -> Recording:
    """Let the series be what the model decodes where it is evaluated."""
    day = recording()
    truth = day.series["hand"]
    given = prepare(engine, day, settings).evaluated
    times = (given.starts[:, None] + given.batch.query_times)[given.asked]
    values = truth.values.copy()
    decoded = np.asarray(engine.run(given.batch).prediction)[given.asked]
    values[np.searchsorted(truth.times, times - 1e-6)] = decoded
    return replace(day, series={"hand": replace(truth, values=values)})


def test_the_figure_shows_what_the_curve_differs_by(found: Any) -> None:
    _, _, below = _ablate_report.curves(found).axes
    table = found.frame()
    of = table[table.dimension == "mean"]

    def mean(name: str) -> NDArray[Any]:
        wide = of[of.curve == name].pivot(index="draw", columns="removed", values="value")
        return np.asarray(wide.to_numpy().mean(0))

    _, *lines = below.get_lines()  # the first is zero
    for null, line in zip(("random", "rate", "count"), lines, strict=True):
        np.testing.assert_allclose(line.get_ydata(), mean("ranked") - mean(null), atol=1e-9)
    assert len(below.collections) == len(lines)
    assert len(_ablate_report.curves(replace(found, comparisons={})).axes) == 2


def test_each_null_is_compared_by_its_own_curves(found: Any) -> None:
    table, tests = found.frame(), found.frame("tests")
    for dimension in ("mean", "x", "y"):
        of = table[table.dimension == dimension]

        def areas(name: str, of: Any = of) -> NDArray[Any]:
            wide = of[of.curve == name].pivot(index="draw", columns="removed", values="value")
            fall = wide[[0]].to_numpy() - wide[[0, 1, 4, 12]].to_numpy()
            return np.asarray(np.trapezoid(fall, [0, 1, 4, 12], axis=1) / 12)

        for null in ("random", "rate", "count"):
            row = tests[(tests.null == null) & (tests.dimension == dimension)].iloc[0]
            own, others = areas("ranked")[0], areas(null)
            assert row.area == pytest.approx(own, rel=1e-9)
            assert row.null_median == pytest.approx(np.median(others), rel=1e-9)
            assert row.p == (1 + (others >= own).sum()) / (1 + len(others))
            assert row.side == "greater"
            assert row.rankings == len(others)
            within = math.prod(math.factorial(n) for n in found.prepared.strata.sizes)
            assert within < MANY
            assert row.distinct == {"rate": within}.get(null, MANY)


def test_groups_are_compared_with_sets_of_their_size(engine: Engine) -> None:
    settings = Settings(TARGET, conditions="groups:area", nulls={"random": 9, "rate": 5})
    got = ablate(engine, recording(), settings)
    curves, tests = got.frame(), got.frame("tests")
    curves = curves[curves.dimension == "mean"]
    base = curves[curves.condition == ""].value.iloc[0]
    for row in tests[tests.dimension == "mean"].itertuples():
        others = curves[(curves.condition == row.condition) & (curves.curve == "rate")]
        assert row.p == (1 + (base - others.value >= row.drop).sum()) / 6


# ---- sweeps ----


def swept(engine: Engine, **change: Any) -> Sweep:
    plan_ = change.pop("plan", nested("shuffle_time", draws=1, removed=(0, 5)))
    given = change.pop("data", None) or data(engine)
    metric = chosen(change.pop("metric", "mse"))
    constant = np.asarray(change.pop("constant", [0.1, 0.2]))
    return Sweep.of(engine, given, plan_, metric, constant, change.pop("seed", 0), 1 << 20)


def test_the_sums_of_a_block_are_those_of_its_windows(engine: Engine) -> None:
    given = place(engine, recording(), replace(TARGET, trials="trials"), [(START, STOP)], 0)
    assert given.blocks < len(given)
    job = swept(engine, data=given)
    found = sums(job.run(shard) for shard in range(job.shards))
    assert found.curves.shape == (1, 2, given.blocks, 2, 2)
    decoded = np.asarray(engine.run(given.batch).prediction)
    assert isinstance(given.batch, SpikeBatch)
    none = replace(given.batch, times=np.zeros(0), units=np.zeros(0, np.int32),
                   window=np.zeros(0, np.int64))  # fmt: skip
    blind = np.asarray(engine.run(none).prediction)
    for block in range(given.blocks):
        asked = given.asked & (given.block == block)[:, None]
        true = given.true[asked]
        for got, said in (
            (found.curves[0, 0], decoded[asked]),
            (found.blind, blind[asked]),
            (found.constant, np.array([0.1, 0.2])),
        ):
            expected = ((true - said) ** 2).sum(0)
            np.testing.assert_allclose(got[block, :, 0], expected, rtol=1e-5)
        assert found.samples[block] == asked.sum()


def test_shards_of_any_size_give_the_same_sums(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = place(engine, recording(), TARGET, [(START, STOP)], 0)
    whole = swept(engine, data=given)
    monkeypatch.setattr("attendrite.ablation.sweep.TAILS", 5)
    parts = swept(engine, data=given)
    assert (whole.shards, parts.shards) == (1, -(-given.blocks // parts.per_shard))
    assert 1 < parts.per_shard < given.blocks
    one, many = (sums(job.run(shard) for shard in range(job.shards)) for job in (whole, parts))
    np.testing.assert_array_equal(one.curves, many.curves)
    np.testing.assert_array_equal(one.samples, many.samples)


def test_the_identity_is_of_all_that_decides_the_result(
    bundle: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = swept(engine).identity()
    for _ in range(3):  # weights come from the file in any order
        assert swept(Engine(bundle, threads=1)).identity() == own
    monkeypatch.setattr("attendrite.ablation.sweep.TAILS", 5)
    assert swept(engine).identity() == own
    weights: dict[str, Any] = dict(engine.bundle.weights)
    name = sorted(weights)[0]
    weights[name] = weights[name] + np.float32(1e-3)
    for key, other in {
        "model": swept(Engine(replace(engine.bundle, weights=weights), threads=1)),
        "executor": swept(Engine(bundle, executor="torch", threads=1)),
        "dtype": swept(Engine(bundle, executor="torch", dtype="float64", threads=1)),
        "data": swept(engine, data=data(engine, spacing=0.3)),
        "plan": swept(engine, plan=nested("shuffle_time", draws=1, removed=(0, 6))),
        "metric": swept(engine, metric="r2"),
        "constant": swept(engine, constant=[0.1, 0.3]),
        "seed": swept(engine, seed=1),
    }.items():
        assert other.identity()[key] != own[key]


def test_replaced_spikes_follow_the_seed(engine: Engine) -> None:
    one, same, other = (swept(engine, seed=s).run(0)["curves"] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one[:, 0, 1] != other[:, 0, 1]).any()


def test_replaced_spikes_differ_between_windows_and_seeds(engine: Engine) -> None:
    given = data(engine)
    found = []
    for seed, window in ((0, 0), (0, 1), (1, 0)):
        whole = given.batch.part(window, window + 1)
        assert isinstance(whole, SpikeBatch)
        runner = Conditions(engine, given, nested("shuffle_time"), seed)
        both, segments, _ = runner._replaced(window, whole, "shuffle_time")
        found.append(both.times[segments[2 * UNITS :] >= UNITS])
    for other in found[1:]:
        assert len(np.intersect1d(found[0], other)) == 0


def test_windows_of_a_model_with_tasks_have_their_own_queries(tmp_path: Path) -> None:
    source = FIXTURES / "poyo_plus_tiny/plus_tiny_lightning.ckpt"
    made = Engine(attendrite.export(source, tmp_path / "plus"), threads=1)
    rng = np.random.default_rng(4)
    spikes = Spikes(np.sort(rng.uniform(0, 12, 500)), rng.integers(0, 10, 500).astype(np.int32))
    at = np.arange(0, 12, 0.05)
    values = np.stack([np.sin(at), np.cos(at)], 1)
    values[rng.random(len(at)) < 0.4] = np.nan
    day = Recording("s0", tuple(f"u{i}" for i in range(10)), lambda: spikes, (0.0, 12.0),
                    series={"arm": Series(at, values, ("x", "y"), "cm")})  # fmt: skip
    task = "arm_velocity_2d"
    given = place(made, day, Target("arm", task=task), [(0.0, 12.0)], 0)
    counts = given.asked.sum(1)
    assert len(np.unique(counts[:6])) > 2
    curve = Curve("ranked", 0, "remove", np.arange(10), np.array([0, 3]))
    found = Conditions(made, given, plan("units", list(day.unit_ids), [curve]), 0).run(2, 6)
    decoded = made.run(given.batch).prediction
    assert isinstance(decoded, dict)
    ends = np.cumsum(counts)
    for w, each in zip(range(2, 6), found, strict=True):
        own = decoded[task][ends[w] - counts[w] : ends[w]]
        np.testing.assert_allclose(each[0, 0], own, rtol=0, atol=1e-5)


# ---- more of windows ----


def test_values_lie_anywhere_in_their_windows(engine: Engine) -> None:
    given = place(engine, recording(), replace(TARGET, spacing=0.5), [(START, STOP)], 0)
    first = given.batch.query_times[:, 0]
    low, high = np.quantile(first, (0.1, 0.9))  # where values are missing, the next is first
    assert low < 0.15
    assert high - low > 0.25


def test_blocks_are_as_long_as_what_is_scored_remembers(engine: Engine) -> None:
    day = recording()
    at = day.series["hand"].times
    moving = Intervals(np.array([10.0, 30.0]), np.array([18.0, 38.0]))
    values = np.where((at - START) % 20 < 8, np.sin(12 * at), 100 * np.sign(at - 30))
    day = replace(day, series={"hand": Series(at, values[:, None], ("x",), "cm")},
                  intervals={"moving": moving})  # fmt: skip
    assert memory(day.series["hand"]) > 3
    assert place(engine, day, replace(TARGET, within="moving"), [(START, STOP)], 0).blocks >= 12


def test_blocks_are_about_a_hundred_at_most() -> None:
    at = np.arange(0, 2000, 0.5)
    noise = Series(at, np.random.default_rng(0).normal(size=(len(at), 1)), ("x",), "cm")
    found = _blocks(np.arange(1999.0), noise, 1.0)
    assert (np.diff(found) >= 0).all()
    assert 90 <= found[-1] + 1 <= MOST_BLOCKS
    assert _blocks(np.arange(50.0), noise, 1.0)[-1] == 49


def test_windows_of_trials_lie_in_the_time_that_is_given(engine: Engine) -> None:
    where = [(10.5, 19.0)]
    for name in ("trials", "short"):
        given = place(engine, recording(), replace(TARGET, trials=name), where, 0)
        assert given.starts.min() >= 10.5
        assert given.starts.max() + length(engine) <= 19.0


def test_an_executor_without_parts_is_refused_before_work(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime")
    made = Engine(attendrite.export(bundle, tmp_path / "onnx", onnx=True), executor="onnx")
    with pytest.raises(AttendriteError, match="use executor native or torch"):
        prepare(made, recording(), Settings(TARGET, order="rate", nulls={}))


def test_groups_have_verdicts(engine: Engine) -> None:
    settings = Settings(TARGET, conditions="groups:area", nulls={"rate": 2}, resamples=100)
    tests = ablate(engine, recording(), settings).frame("tests")
    assert set(tests.verdict) <= {"not testable", "too few rankings"}
    single = Settings(TARGET, conditions="single", nulls={}, resamples=100)
    assert set(ablate(engine, recording(), single).frame("tests").verdict) == {""}


# ---- the bundled recording ----


@pytest.fixture(scope="module")
def track() -> tuple[Path, Recording]:
    from attendrite.commands.demo import DATA

    return DATA / "linear_track_0", attendrite.read(DATA / "linear_track.npz")


@pytest.mark.parametrize("method", ["remove", "silence"])
@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-10), ("float32", 1e-5)])
def test_the_demo_is_filtered_and_run_again(
    track: tuple[Path, Recording], method: str, dtype: str, atol: float
) -> None:
    """Outputs are of some hundred px: errors are relative to them."""
    made, given, conditions = on_track(track, method, dtype)
    found = all_of(Conditions(made, given, conditions, 0), 2)
    for c in range(len(conditions)):
        batch = without(given, 2, conditions.kept(c), method)
        truth = again(made, given, 2, batch)
        np.testing.assert_allclose(found[0, c], truth, rtol=0, atol=atol * np.abs(truth).max())


@pytest.mark.parametrize("method", ["remove", "silence"])
def test_the_demo_is_what_torch_brain_decodes_without_the_units(
    track: tuple[Path, Recording], method: str
) -> None:
    brain = pytest.importorskip("torch_brain.models", reason="torch_brain")
    made, given, conditions = on_track(track, method, "float32")
    found = all_of(Conditions(made, given, conditions, 0), 2)
    config = dict(made.manifest.config)
    model = brain.POYO(**config).eval()
    model.unit_emb.initialize_vocab(list(made.manifest.units))
    model.session_emb.initialize_vocab(list(made.manifest.sessions))
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            weight.copy_(made.bundle.weights[name])
    for c in range(len(conditions)):
        batch = without(given, 2, conditions.kept(c), method)
        truth = decoded_by(model, batch, config)[given.asked[2]]
        np.testing.assert_allclose(found[0, c], truth, rtol=0, atol=1e-5 * np.abs(truth).max())


def on_track(track: tuple[Path, Recording], method: str, dtype: str) -> tuple[Engine, Data, Plan]:
    made = Engine(track[0], dtype=dtype, threads=1)
    given = place(made, track[1], Target("position", within="moving"), [(4525.4, 4618.0)], 0)
    size = len(track[1].unit_ids)
    order = np.random.default_rng(9).permutation(size)
    curve = Curve("ranked", 0, method, order, np.array([0, 1, 7, 20, size - 1]))
    return made, given, plan("units", list(track[1].unit_ids), [curve])


def without(given: Data, window: int, kept: NDArray[np.bool_], method: str) -> SpikeBatch:
    whole = given.batch.part(window, window + 1)
    assert isinstance(whole, SpikeBatch)
    batch = with_spikes(whole, kept[whole.units])
    return replace(batch, window_units=kept[None]) if method == "remove" else batch


def decoded_by(model: Any, batch: SpikeBatch, config: dict[str, Any]) -> NDArray[Any]:
    """Run torch_brain's model on one window."""
    tokens = batch.tokens(config["sequence_length"])
    rows = torch.tensor(model.unit_emb.tokenizer(batch.unit_ids.tolist()))
    steps = round(config["sequence_length"] / config["latent_step"])
    latents = config["num_latents_per_step"]
    times = (torch.arange(steps, dtype=torch.float64) + 0.5) * config["latent_step"]
    unit = torch.from_numpy(tokens.unit.astype(np.int64))
    with torch.inference_mode():
        found = model(
            input_unit_index=rows[unit],
            input_timestamps=torch.from_numpy(tokens.time),
            input_token_type=torch.from_numpy(tokens.type.astype(np.int64)),
            input_mask=torch.ones(unit.shape, dtype=torch.bool),
            latent_index=torch.arange(latents).repeat(1, steps),
            latent_timestamps=times.repeat_interleave(latents)[None],
            session_index=torch.tensor(model.session_emb.tokenizer(batch.session.tolist())),
            output_timestamps=torch.from_numpy(batch.query_times),
        )
    return np.asarray(found)[0]

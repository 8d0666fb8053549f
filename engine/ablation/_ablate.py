"""From choices to a plan, from a plan to sums, from sums to tables and tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .. import errors, shards
from ..analysis import Strata, by_rate
from ..analysis.shares import MANY
from ..batches import SpikeBatch
from ..evaluation import inside
from ..recordings import Recording
from ..runtime import Engine
from . import data as placing
from . import metrics, nulls, orders, statistics
from .conditions import Conditions
from .conditions import items as items_of
from .data import Data
from .metrics import Metric
from .orders import Order
from .plans import THIN, Curve, Plan, alone, plan, points, ranking
from .settings import Settings
from .sweep import Sums, Sweep, sums

Floats = NDArray[np.float64]
RANKED = "ranked"
CLASSES = ("accuracy", "cross_entropy")  # their true values are integers


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that is decided before anything is removed.

    Attributes:
        settings: The choices.
        ranked: Windows to rank on.
        evaluated: Windows to evaluate on.
        spans: Names or times of both, as given or chosen.
        items: Names of what may be removed, ``[U]``.
        scores: Of the items, the more, the more important, ``[U]``.
        order: First removed first, ``[U]``.
        strata: Of units, by rate; of other items, one.
        plan: The conditions.
        metric: What is asked.
        constant: What the predictor says that knows no spikes.
        constant_from: Where that is from.
    """

    settings: Settings
    ranked: Data
    evaluated: Data
    spans: tuple[str, str]
    items: tuple[str, ...]
    scores: Floats
    order: NDArray[np.int64]
    strata: Strata
    plan: Plan
    metric: Metric
    constant: Floats
    constant_from: str


def prepare(engine: Engine, recording: Recording, settings: Settings) -> Prepared:
    """Rank, and write down all conditions.

    Raises:
        AttendriteError: An unknown name, no room for a window, time to rank on that is also
            evaluated on, or an order that would use true values there.
    """
    target = settings.target
    texts = _times(engine, recording, settings)
    where = [placing.spans(engine, recording, text) for text in texts]
    order = Order.parse(settings.order) if isinstance(settings.order, str) else settings.order
    may_use_labels = order.uses_labels if isinstance(order, Order) else callable(order)
    if may_use_labels or not settings.overlap:
        placing.check_disjoint(*where)
    if settings.metric_name in CLASSES and target.task is None:
        raise errors.must(f"the metric of one read-out of {engine.family}", "be of values",
                          settings.metric_name)  # fmt: skip
    evaluated = placing.place(engine, recording, target, where[1], settings.seed)
    ranked = placing.place(
        engine, recording, replace(target, trials=None), where[0], settings.seed + 1
    )
    training, constant_from = _training(engine, recording, settings, where[0])
    metric = metrics.chosen(settings.metric, training.mean(0))
    if settings.metric_name in CLASSES:
        evaluated, ranked, training = _classes(evaluated), _classes(ranked), training.astype(int)
    constant = metric.constant(training, _width(engine, target.task))
    names = items_of(engine, settings.site, evaluated.batch.unit_ids)
    if len(names) < 2:
        raise errors.must(f"{settings.site} to remove", "be at least two", list(names))
    strata = _strata(settings.site, len(names), ranked, evaluated)

    def effects() -> Floats:
        each = [Curve(RANKED, i, "remove", *one) for i, one in enumerate(_each(len(names)))]
        whole = Curve(RANKED, 0, "remove", np.arange(len(names)), np.zeros(1, np.int64))
        single = plan(settings.site, names, [whole, *each])
        job = Sweep.of(engine, ranked, single, metric, constant, settings.seed, settings.memory)
        found = sums(job.run(shard) for shard in range(job.shards))
        values = metric.of(found.curves[:, 0].sum(1)).mean(1) * metric.better  # [1 + U]
        return np.asarray(values[0] - values[1:], np.float64)

    if isinstance(order, Order):
        found = orders.scores(
            order, engine, recording, ranked, settings.site, names, effects, session=target.session
        )
    elif callable(order):
        found = np.asarray(order(engine, recording, ranked), np.float64)
        errors.shape("scores of the order", found, [len(names)], "one for each of the items")
    else:
        found = orders.named(order, names)
    first = ranking(found, settings.end)
    conditions = _plan(recording, settings, names, first, strata)
    Conditions(engine, evaluated, conditions, settings.seed)  # refuses methods before work begins
    return Prepared(
        settings, ranked, evaluated, texts, names, found, first, strata, conditions, metric,
        constant, constant_from,
    )  # fmt: skip


def job(engine: Engine, prepared: Prepared) -> Sweep:
    """Make the job that :func:`attendrite.shards.run` takes; :func:`sums` gathers its results."""
    settings = prepared.settings
    return Sweep.of(
        engine, prepared.evaluated, prepared.plan, prepared.metric, prepared.constant,
        settings.seed, settings.memory,
    )  # fmt: skip


def _times(engine: Engine, recording: Recording, settings: Settings) -> tuple[str, str]:
    """Name the time to rank on and to evaluate on."""
    facts = engine.manifest.training
    known = facts.get("session") == recording.session and "split" in facts
    defaults = ("training", "test") if known else ("odd", "even")
    return settings.rank_on or defaults[0], settings.eval_on or defaults[1]


def _training(
    engine: Engine, recording: Recording, settings: Settings, ranked: list[placing.Interval]
) -> tuple[NDArray[Any], str]:
    """Return true values of training time, ``[S, D]``, or of the time to rank on."""
    target = settings.target
    truth = recording.series[target.series]
    used = np.isfinite(truth.values).all(1)
    if target.within is not None:
        used &= inside(truth.times, placing.stretches(recording, target.within))
    where_from = "the time to rank on"
    spans = ranked
    facts = engine.manifest.training
    if facts.get("session") == recording.session and "split" in facts:
        spans, where_from = placing.spans(engine, recording, "training"), "training time"
    used &= inside(truth.times, spans)
    if not used.any():
        raise errors.must(where_from, f"hold samples of {target.series!r}", "none")
    return truth.values[used], where_from


def _classes(data: Data) -> Data:
    whole = data.true.astype(np.int64)
    if (whole != data.true).any():
        raise errors.must("true classes", "be whole numbers", data.true[whole != data.true][0])
    return replace(data, true=whole)


def _width(engine: Engine, task: str | None) -> int:
    if task is None:
        return int(engine.manifest.config["dim_out"])
    return next(t.dim for t in engine.manifest.tasks if t.name == task)


def _strata(site: str, size: int, *data: Data) -> Strata:
    """Put units into strata by all their spikes; other items, and traces, are one stratum."""
    if site != "units" or not isinstance(data[0].batch, SpikeBatch):
        return Strata(np.zeros(size, np.int64))
    return by_rate(np.sum([orders.spikes(one) for one in data], 0).astype(np.int64))


def _each(size: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    single = [np.array([i]) for i in range(size)]
    return [(order, np.array([n])) for order, n in alone(size, single)]


def _plan(
    recording: Recording,
    settings: Settings,
    names: tuple[str, ...],
    first: NDArray[np.int64],
    strata: Strata,
) -> Plan:
    if settings.kind == "nested":
        return plan(settings.site, names, _nested(settings, first, strata))
    size = len(names)
    members = [np.array([i]) for i in range(size)]
    labels: list[str] = list(names)
    if settings.kind == "groups":
        errors.choice("column of units", settings.column, recording.unit_columns)
        values = np.asarray(recording.unit_columns[settings.column])
        errors.shape(f"column {settings.column!r}", values, [size])
        labels = sorted({str(x) for x in values})
        members = [np.flatnonzero(values.astype(str) == label) for label in labels]
    curves = [Curve(RANKED, 0, settings.method, np.arange(size), np.zeros(1, np.int64))]
    for label, some, (order, n) in zip(labels, members, alone(size, members), strict=True):
        del some
        removed = np.array([n])
        curves.append(Curve(RANKED, 0, settings.method, order, removed, label))
        if settings.kind == "single":
            continue
        for null, count in settings.nulls.items():
            curves += [
                Curve(null, r, settings.method,
                      nulls.ranking(null, order, strata, settings.seed, r), removed, label)
                for r in range(count)
            ]  # fmt: skip
    return plan(settings.site, names, curves)


def _nested(settings: Settings, first: NDArray[np.int64], strata: Strata) -> list[Curve]:
    size = len(first)
    most = size - (settings.method == "remove")
    removed = points(size, settings.method)
    if settings.points is not None:
        removed = np.unique(np.array([0, *settings.points], np.int64))
        if settings.end == "keep":
            removed = np.unique(np.concatenate([[0], size - np.array(settings.points)]))
        if removed[0] < 0 or removed[-1] > most:
            raise errors.must("points", f"lie in 0..{most}", list(settings.points))
    curves = [Curve(RANKED, 0, settings.method, first, removed)]
    for null, count in settings.nulls.items():
        for r in range(count):
            if null == "count":
                curves.append(Curve(null, r, THIN, first, removed))
                continue
            order = nulls.ranking(null, first, strata, settings.seed, r)
            curves.append(Curve(null, r, settings.method, order, removed))
    return curves


@dataclass(frozen=True, eq=False)
class Ablation:
    """What removal did.

    Attributes:
        prepared: The choices, the ranking, the conditions.
        curve: Of the ranking; ``None`` for single conditions.
        comparisons: With each null that tests it.
        drops: Of single conditions; ``None`` for a curve.
        blind: The model without any spike, beside the predictor that knows nothing: where its gain
            is above 0 it reads the answer off the clock. ``None`` for fluorescence.
        tables: ``curves``, ``tests`` and ``items``, each by column.
        meta: Choices and facts; JSON can hold it.
    """

    prepared: Prepared
    curve: statistics.Curve | None
    comparisons: dict[str, statistics.Comparison]
    drops: statistics.Drops | None
    blind: statistics.Baseline | None
    tables: dict[str, dict[str, NDArray[Any]]]
    meta: dict[str, Any]

    def frame(self, table: str = "curves") -> Any:
        """Return a table as a pandas ``DataFrame``.

        Raises:
            AttendriteError: No such table, or pandas is not installed.
        """
        errors.choice("table", table, self.tables)
        try:
            import pandas as pd
        except ImportError:
            raise errors.missing_package("a DataFrame", "pandas", "ablation") from None
        return pd.DataFrame(self.tables[table])


def ablate(
    engine: Engine,
    recording: Recording,
    settings: Settings,
    *,
    folder: str | Path | None = None,
    workers: str = "local",
    processes: int | None = None,
    progress: bool = False,
) -> Ablation:
    """Rank units or other parts of a model, remove them step by step, and test what that does.

    Args:
        engine: The model.
        recording: Known to it.
        settings: All choices.
        folder: Where finished parts are kept, so that a run that was stopped goes on; ``None``
            keeps nothing and computes here.
        workers: Where parts are computed, see :func:`attendrite.shards.run`; with a folder only.
        processes: Processes of ``local`` workers.
        progress: Show a progress bar on stderr when it is a terminal.

    Raises:
        AttendriteError: An unknown name, no room for a window, time to rank on that is also
            evaluated on, an order that would use true values there, or a recording that does not
            fit the model.

    Example:
        >>> found = ablate(engine, recording, Settings(Target("position"), nulls={"random": 200}))
        >>> found.comparisons["random"].verdict[0]
        'significant'
    """
    if folder is None and (workers != "local" or processes not in (None, 1)):
        raise errors.must("workers", "have a folder to share", "none", "give a folder")
    prepared = prepare(engine, recording, settings)
    work = job(engine, prepared)
    parts: Iterator[shards.Result]
    if folder is None:
        bar = tqdm(range(work.shards), unit="shard", disable=None if progress else True)
        parts = (work.run(shard) for shard in bar)
    else:
        parts = shards.run(work, folder, workers, processes, progress=progress)
    return gathered(engine, recording, prepared, sums(parts))


def gathered(engine: Engine, recording: Recording, prepared: Prepared, found: Sums) -> Ablation:
    """Make tables and tests of the sums of all blocks."""
    settings, metric, conditions = prepared.settings, prepared.metric, prepared.plan
    weights = statistics.resamples(len(found.samples), settings.resamples, settings.seed)
    side = "greater" if settings.end == "top" else "less"
    dimensions = _dimensions(recording, settings, found.constant.shape[1])
    blind = None
    if np.isfinite(found.blind).all():
        blind = statistics.baseline(metric, found.blind, found.constant, weights)
    curve, drops, comparisons = None, None, {}
    if settings.kind == "nested":
        removal = statistics.Removal(
            metric, conditions.removed[0], len(prepared.items), found.curves[0], found.constant
        )
        curve = statistics.curve(removal, weights)
        for null in settings.nulls:
            if null != "bottom":
                drawn = found.curves[conditions.curves(null)]
                comparisons[null] = statistics.compare(
                    removal, curve, drawn, _distinct(null, prepared), weights, side
                )
        before = curve.baseline
    else:
        intact = found.curves[0, 0]
        before = statistics.baseline(metric, intact, found.constant, weights)
        drops = _drops(prepared, found, weights)
    tables = {
        "curves": _curves_table(prepared, found, curve, before, dimensions),
        "tests": _tests_table(prepared, comparisons, drops, before, dimensions),
        "items": _items_table(recording, prepared),
    }
    meta = _meta(engine, recording, prepared, found, before, blind, dimensions)
    return Ablation(prepared, curve, comparisons, drops, blind, tables, meta)


def _dimensions(recording: Recording, settings: Settings, number: int) -> list[str]:
    """Name the mean and each dimension of a metric, ``E``."""
    columns = list(recording.series[settings.target.series].columns)
    named = columns if len(columns) == number else [f"value{i}" for i in range(number)]
    return ["mean", *(named if number > 1 or settings.metric_name not in CLASSES else ["class"])]


def _distinct(null: str, prepared: Prepared) -> int:
    """Return how many rankings a null can give; sets of spikes are beyond counting."""
    return MANY if null == "count" else nulls.distinct(null, prepared.strata)


def _drops(prepared: Prepared, found: Sums, weights: Floats) -> statistics.Drops:
    conditions = prepared.plan
    labels, names = np.array(conditions.labels), np.array(conditions.names)
    own = np.flatnonzero((names == RANKED) & (labels != ""))
    others, null = None, _null(prepared.settings)
    if null:
        others = [found.curves[(names == null) & (labels == label), 0] for label in labels[own]]
    return statistics.drops(
        prepared.metric, found.curves[0, 0], found.curves[own, 0], weights, others
    )


def _null(settings: Settings) -> str:
    """Name the null that groups are tested against, the stricter one if there are two."""
    return next((null for null in ("rate", "random") if null in settings.nulls), "")


def _sets(null: str, members: NDArray[np.int64], strata: Strata) -> int:
    """Count the sets of units that a null can give for a group."""
    if not null:
        return 0
    of = strata.of if null == "rate" else np.zeros_like(strata.of)
    found = map(math.comb, np.bincount(of).tolist(), np.bincount(of[members]).tolist())
    return min(MANY, math.prod(found))


def _choices(prepared: Prepared) -> dict[str, Any]:
    """Every choice, by column."""
    settings, target = prepared.settings, prepared.settings.target
    order = settings.order
    said = "given" if not isinstance(order, str) else str(Order.parse(order))
    return {
        "site": settings.site,
        "conditions": settings.conditions,
        "order": said,
        "from": settings.end,
        "method": settings.method,
        "metric": settings.metric_name,
        "series": target.series,
        "task": target.task or "",
        "within": target.within or "",
        "trials": target.trials or "",
        "rank_on": prepared.spans[0],
        "eval_on": prepared.spans[1],
        "overlap": placing.overlap(prepared.ranked.spans, prepared.evaluated.spans) is not None,
        "seed": settings.seed,
    }


def _curves_table(
    prepared: Prepared,
    found: Sums,
    curve: statistics.Curve | None,
    before: statistics.Baseline,
    dimensions: list[str],
) -> dict[str, NDArray[Any]]:
    """One row for each curve, number removed and dimension."""
    conditions, metric = prepared.plan, prepared.metric
    removed = conditions.removed  # [P, C]
    values = statistics.values(metric, found.curves.sum(2), found.curves[0, 0])  # [P, C, E]
    gain = np.where(before.gain > 0, before.gain, np.nan)
    loss = metric.better * (before.value - values) / gain
    shape = values.shape
    size = len(prepared.items)

    def rows(array: Any, axes: tuple[int, ...]) -> NDArray[Any]:
        wide = np.expand_dims(np.asarray(array), axes)
        return np.broadcast_to(wide, shape).reshape(-1)

    def ranked(array: Floats | None) -> NDArray[Any]:
        out = np.full(shape, np.nan)
        if array is not None:
            out[0] = array
        return out.reshape(-1)

    band = None if curve is None else curve.band
    lost = None if curve is None else curve.loss_band
    methods = ["count" if m == THIN else m for m in conditions.methods]
    table = {
        "curve": rows(np.array(conditions.names), (1, 2)),
        "draw": rows(conditions.draws, (1, 2)),
        "condition": rows(np.array(conditions.labels), (1, 2)),
        "removed": rows(removed, (2,)),
        "kept": rows(size - removed, (2,)),
        "dimension": rows(np.array(dimensions), (0, 1)),
        "value": values.reshape(-1),
        "loss": loss.reshape(-1),
        "low": ranked(None if band is None else band.low),
        "high": ranked(None if band is None else band.high),
        "lowest": ranked(None if band is None else band.lowest),
        "highest": ranked(None if band is None else band.highest),
        "loss_low": ranked(None if lost is None else lost.low),
        "loss_high": ranked(None if lost is None else lost.high),
    }
    choices = _choices(prepared) | {"method": None}
    for name, value in choices.items():
        column = np.array(methods) if name == "method" else np.array([value] * len(methods))
        table[name] = rows(column, (1, 2))
    return table


def _tests_table(
    prepared: Prepared,
    comparisons: dict[str, statistics.Comparison],
    drops: statistics.Drops | None,
    before: statistics.Baseline,
    dimensions: list[str],
) -> dict[str, NDArray[Any]]:
    """One row for each null and dimension, or for each single condition and dimension."""
    if drops is not None:
        conditions = prepared.plan
        own = [i for i, label in enumerate(conditions.labels) if label]
        labels = list(dict.fromkeys(conditions.labels[i] for i in own))
        count, width = drops.drop.shape
        first = [conditions.labels.index(label) for label in labels]
        members = [conditions.order[i, : conditions.removed[i, 0]] for i in first]
        null = _null(prepared.settings)
        sets = [_sets(null, some, prepared.strata) for some in members]
        drawn = prepared.settings.nulls.get(null, 0)
        verdicts = [
            statistics.verdict(drops.q[i, e], bool(before.testable[e]), sets[i], drawn)
            if null
            else ""
            for i in range(count)
            for e in range(width)
        ]
        return {
            "condition": np.repeat(np.array(labels), width),
            "items": np.repeat([len(some) for some in members], width),
            "dimension": np.tile(np.array(dimensions), count),
            "drop": drops.drop.reshape(-1),
            "low": drops.low.reshape(-1),
            "high": drops.high.reshape(-1),
            "null": np.full(count * width, null),
            "rankings": np.full(count * width, drawn),
            "distinct": np.repeat(np.array(sets, np.float64), width),
            "p": drops.p.reshape(-1),
            "q": drops.q.reshape(-1),
            "verdict": np.array(verdicts, np.str_),
        }
    width, some = len(dimensions), list(comparisons.values())

    def column(name: str) -> NDArray[Any]:
        return np.concatenate([np.zeros(0), *(np.asarray(getattr(c, name)) for c in some)])

    return {
        "null": np.repeat(np.array([*comparisons], np.str_), width),
        "dimension": np.tile(np.array(dimensions), len(some)),
        "side": np.repeat(np.array([c.side for c in some], np.str_), width),
        "rankings": np.repeat(np.array([c.rankings for c in some], np.int64), width),
        "distinct": np.repeat(np.array([c.distinct for c in some], np.float64), width),
        "area": column("area"),
        "null_low": column("null_low"),
        "null_median": column("null_median"),
        "null_high": column("null_high"),
        "p": column("p"),
        "verdict": np.array([text for c in some for text in c.verdict], np.str_),
    }


def _items_table(recording: Recording, prepared: Prepared) -> dict[str, NDArray[Any]]:
    """One row for each item, in the order of the recording or the model."""
    size = len(prepared.items)
    place = np.empty(size, np.int64)
    place[prepared.order] = np.arange(1, size + 1)
    rank = np.empty(size, np.int64)
    rank[ranking(prepared.scores, "top")] = np.arange(1, size + 1)
    table: dict[str, NDArray[Any]] = {
        "item": np.array(prepared.items),
        "score": prepared.scores,
        "rank": rank,
        "removed_as": place,
    }
    if prepared.settings.site == "units" and isinstance(prepared.evaluated.batch, SpikeBatch):
        table["spikes_ranked"] = orders.spikes(prepared.ranked).astype(np.int64)
        table["spikes_evaluated"] = orders.spikes(prepared.evaluated).astype(np.int64)
        table["stratum"] = prepared.strata.of
        for name in ("label", "area"):
            if name in recording.unit_columns:
                table[name] = np.asarray(recording.unit_columns[name])
    return table


def _meta(
    engine: Engine,
    recording: Recording,
    prepared: Prepared,
    found: Sums,
    before: statistics.Baseline,
    blind: statistics.Baseline | None,
    dimensions: list[str],
) -> dict[str, Any]:
    settings, evaluated, ranked = prepared.settings, prepared.evaluated, prepared.ranked
    dropout = engine.manifest.training.get("unit_dropout")
    return {
        "bundle": engine.manifest.name,
        "family": engine.family,
        "executor": engine.executor,
        "device": engine.device,
        "dtype": engine.dtype,
        "recording": recording.session,
        "choices": _choices(prepared)
        | {"nulls": dict(settings.nulls), "resamples": settings.resamples},
        "items": len(prepared.items),
        "conditions": len(prepared.plan),
        "unit_dropout_in_training": dropout,
        "strata": {"sizes": prepared.strata.sizes, "widest": prepared.strata.widest},
        "constant": {"says": prepared.constant.tolist(), "from": prepared.constant_from},
        "ranked_on": _about(ranked),
        "evaluated_on": _about(evaluated) | {"blocks": len(found.samples)},
        "dimensions": dimensions,
        "baseline": _plain(before),
        "without_spikes": None if blind is None else _plain(blind),
        "versions": engine.versions,
    }


def _about(data: Data) -> dict[str, Any]:
    return {
        "windows": len(data),
        "samples": data.samples,
        "from": float(data.starts.min()),
        "to": float(data.starts.max()),
    }


def _plain(found: statistics.Baseline) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(found).items()
    }

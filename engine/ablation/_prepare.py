"""From choices to a ranking, and from a ranking to numbered conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..analysis import Strata, by_rate
from ..batches import SpikeBatch
from ..evaluation import inside
from ..recordings import Recording
from ..runtime import Engine
from . import data as placing
from . import metrics, nulls, orders
from .conditions import Conditions
from .conditions import items as items_of
from .data import Data
from .metrics import Metric
from .orders import Order
from .plans import THIN, Curve, Plan, alone, plan, points, ranking
from .settings import Settings
from .sweep import Sweep, sums

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

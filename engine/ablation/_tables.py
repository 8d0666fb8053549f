"""Tables and facts of an ablation, with every choice as a column."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..analysis import Strata
from ..analysis.shares import MANY
from ..batches import SpikeBatch
from ..recordings import Recording
from ..runtime import Engine
from . import data as placing
from . import orders, statistics
from ._prepare import Prepared
from .data import Data
from .orders import Order
from .plans import THIN, ranking
from .settings import Settings
from .sweep import Sums

Floats = NDArray[np.float64]


def group_null(settings: Settings) -> str:
    """Name the null that groups are tested against, the stricter one if there are two."""
    return next((null for null in ("rate", "random") if null in settings.nulls), "")


def _sets(null: str, members: NDArray[np.int64], strata: Strata) -> int:
    """Count the sets of units that a null can give for a group."""
    if not null:
        return 0
    of = strata.of if null == "rate" else np.zeros_like(strata.of)
    found = map(math.comb, np.bincount(of).tolist(), np.bincount(of[members]).tolist())
    return min(MANY, math.prod(found))


def choices(prepared: Prepared) -> dict[str, Any]:
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


def curves_table(
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
    chosen = choices(prepared) | {"method": None}
    for name, value in chosen.items():
        column = np.array(methods) if name == "method" else np.array([value] * len(methods))
        table[name] = rows(column, (1, 2))
    return table


def tests_table(
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
        null = group_null(prepared.settings)
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


def items_table(recording: Recording, prepared: Prepared) -> dict[str, NDArray[Any]]:
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


def facts(
    engine: Engine,
    recording: Recording,
    prepared: Prepared,
    found: Sums,
    before: statistics.Baseline,
    blind: statistics.Baseline | None,
    dimensions: list[str],
) -> dict[str, Any]:
    """What was chosen and found, as JSON can hold it but for NaN."""
    settings, evaluated, ranked = prepared.settings, prepared.evaluated, prepared.ranked
    dropout = engine.manifest.training.get("unit_dropout")
    return {
        "bundle": engine.manifest.name,
        "family": engine.family,
        "executor": engine.executor if settings.site == "units" else engine.masking,
        "device": engine.device,
        "dtype": engine.dtype,
        "recording": recording.session,
        "choices": choices(prepared)
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

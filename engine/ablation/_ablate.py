"""The whole of it: rank, remove, add up, test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .. import errors, shards
from ..analysis.shares import MANY
from ..recordings import Recording
from ..runtime import Engine
from . import _tables, nulls, statistics
from ._prepare import CLASSES, RANKED, Prepared, job, prepare
from .settings import Settings
from .sweep import Sums, sums

Floats = NDArray[np.float64]


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
        "curves": _tables.curves_table(prepared, found, curve, before, dimensions),
        "tests": _tables.tests_table(prepared, comparisons, drops, before, dimensions),
        "items": _tables.items_table(recording, prepared),
    }
    meta = _tables.facts(engine, recording, prepared, found, before, blind, dimensions)
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
    others, null = None, _tables.group_null(prepared.settings)
    if null:
        others = [found.curves[(names == null) & (labels == label), 0] for label in labels[own]]
    return statistics.drops(
        prepared.metric, found.curves[0, 0], found.curves[own, 0], weights, others
    )

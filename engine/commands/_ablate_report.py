"""The figures and the report of ``attendrite ablate``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import __version__, report
from ..ablation import Ablation
from ..report import INK, SOFT, STYLE, Cell, Picture, Section, Table, TableRow

Floats = NDArray[np.float64]
COLOURS = {
    "ranked": "#c1440e", "random": "#5b6876", "rate": "#1b6ca8", "count": "#6f9a37",
    "bottom": "#8a5aa3",
}  # fmt: skip
SAID = {
    "ranked": "by the ranking",
    "random": "any order",
    "rate": "same rates",
    "count": "as many spikes",
    "bottom": "ranking reversed",
}
MEAN = 0  # the first of the dimensions
SHOWN = 40  # items or conditions that a figure names
DPI = 150


def write(folder: Path, found: Ablation) -> None:
    """Write the figures as PNG and the report, which holds them."""
    with matplotlib.rc_context(STYLE | {"text.parse_math": False}):  # names may hold dollars
        figures = {"curve": curves(found) if found.curve is not None else singles(found)}
        figures["items"] = items(found)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=DPI)
        drawn = {name: report.svg(figure) for name, figure in figures.items()}
    meta = found.meta
    where = meta["evaluated_on"]
    report.write(
        folder / "report.html",
        f"What {meta['bundle']} loses without its {meta['choices']['site']}",
        f"{meta['recording']}: {meta['conditions']} conditions on {where['windows']} windows "
        f"({where['samples']} samples in {where['blocks']} blocks) of time that was "
        f"{'also' if meta['choices']['overlap'] else 'not'} ranked on. "
        "Removal asks what the model does without a part, not whether the brain needs it.",
        _sections(found, drawn),
        f"attendrite {__version__}; model family {meta['family']}, executor {meta['executor']}; "
        f"seed {meta['choices']['seed']}.",
    )


def curves(found: Ablation) -> Figure:
    """Draw the curve between those of the nulls, what it differs by, and the areas tested."""
    assert found.curve is not None
    tested = [name for name in found.comparisons if name in COLOURS]
    figure = Figure(figsize=(9.4, 6.2 if tested else 4.2), layout="constrained")
    grid = figure.add_gridspec(2 if tested else 1, 2, width_ratios=(2.1, 1),
                               height_ratios=(2, 1) if tested else (1,))  # fmt: skip
    left, right = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[:, 1])
    x = _axis(found)
    table, curve = found.tables["curves"], found.curve
    mean = table["dimension"] == found.meta["dimensions"][MEAN]
    for name in [*tested, *(["bottom"] if "bottom" in table["curve"] else [])]:
        rows = mean & (table["curve"] == name)
        values = table["value"][rows].reshape(-1, len(x))
        colour = COLOURS[name]
        if len(values) > 1:
            low, high = np.nanquantile(values, (0.05, 0.95), axis=0)
            left.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        style = "--" if name == "bottom" else "-"
        left.plot(x, np.nanmedian(values, axis=0), style, color=colour, lw=1.3, label=SAID[name])
    band = curve.band
    left.fill_between(x, band.lowest[:, MEAN], band.highest[:, MEAN], color=COLOURS["ranked"],
                      alpha=0.15, lw=0)  # fmt: skip
    left.plot(x, curve.values[:, MEAN], color=COLOURS["ranked"], lw=2, label=SAID["ranked"])
    left.axhline(curve.baseline.constant[MEAN], color=INK, lw=0.8, ls=":",
                 label="knows nothing")  # fmt: skip
    _bound(left, curve.values[:, MEAN], curve.baseline)
    if found.blind is not None and left.get_ylim()[0] < found.blind.value[MEAN]:
        left.axhline(found.blind.value[MEAN], color=SOFT, lw=0.8, ls="-.", label="no spikes")
    choices = found.meta["choices"]
    left.set_ylabel(f"{_metric(choices['metric'])} of {choices['series']}")
    lowest = left
    if tested:
        lowest = figure.add_subplot(grid[1, 0], sharex=left)
        left.tick_params(labelbottom=False)
        _differences(lowest, found, tested, x)
    lowest.set_xlabel(f"{choices['site']} {'kept' if choices['from'] == 'keep' else 'removed'}")
    left.margins(x=0.01)
    named = left.get_legend_handles_labels()
    figure.legend(*named, loc="outside upper left", ncols=7, fontsize=8.5)
    _areas(right, found, tested)
    return figure


def _differences(panel: Axes, found: Ablation, tested: list[str], x: NDArray[np.int64]) -> None:
    """Draw the curve minus the mean of each null, with simultaneous bands over blocks."""
    panel.axhline(0, color=SOFT, lw=0.8)
    for name in tested:
        comparison = found.comparisons[name]
        band = comparison.difference_band
        panel.fill_between(x, band.lowest[:, MEAN], band.highest[:, MEAN], color=COLOURS[name],
                           alpha=0.18, lw=0)  # fmt: skip
        panel.plot(x, comparison.difference[:, MEAN], color=COLOURS[name], lw=1.5)
    panel.set_ylabel("ranking less null")


def _areas(panel: Axes, found: Ablation, tested: list[str]) -> None:
    """Draw the nulls' areas as dots, the ranking's as a line, p beside each null."""
    assert found.curve is not None
    area = found.curve.area[MEAN]
    panel.axvline(area, color=COLOURS["ranked"], lw=2)
    for i, name in enumerate(tested):
        comparison = found.comparisons[name]
        low, median, high = (
            getattr(comparison, f"null_{q}")[MEAN] for q in ("low", "median", "high")
        )
        panel.hlines(i, low, high, color=COLOURS[name], lw=6, alpha=0.35)
        panel.plot([median], [i], "o", color=COLOURS[name], ms=7)
        verdict = comparison.verdict[MEAN]
        p = _number(comparison.p[MEAN])
        said = f"{SAID[name]}: {f'p {p}, ' if p else ''}{verdict}"
        panel.text(0.0, i + 0.22, said, transform=panel.get_yaxis_transform(), fontsize=8.5,
                   color=INK, bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    panel.set_ylim(-0.6, max(len(tested), 1) - 0.2)
    panel.set_xlabel("area lost over the first half\n(bars: 90 % of nulls)")
    if not tested:
        panel.text(0.5, 0.5, "no null was asked for", transform=panel.transAxes, ha="center")


def singles(found: Ablation) -> Figure:
    """Draw what each condition costs, the dearest above."""
    assert found.drops is not None
    tests = found.tables["tests"]
    rows = np.flatnonzero(tests["dimension"] == found.meta["dimensions"][MEAN])
    rows = rows[np.argsort(-tests["drop"][rows], kind="stable")][:SHOWN]
    at = -np.arange(len(rows))
    figure = Figure(figsize=(9.4, 1.2 + 0.2 * len(rows)), layout="constrained")
    panel = figure.subplots()
    panel.axvline(0, color=SOFT, lw=0.8)
    panel.hlines(at, tests["low"][rows], tests["high"][rows], color=COLOURS["rate"], lw=2)
    panel.plot(tests["drop"][rows], at, "o", color=COLOURS["ranked"], ms=5)
    choices = found.meta["choices"]
    site = choices["site"] if choices["conditions"] == "single" else "groups"
    panel.set_yticks(at, _names(site, tests["condition"][rows]))
    panel.set_ylim(-len(rows) + 0.5, 0.5)
    panel.tick_params(axis="y", length=0, labelsize=8)
    panel.set_xlabel(f"loss of {_metric(choices['metric'])} (95 % interval)")
    return figure


def items(found: Ablation) -> Figure:
    """Draw the scores by which items are ranked."""
    table = found.tables["items"]
    order = np.argsort(table["rank"])
    at = 1 + np.arange(len(order))
    figure = Figure(figsize=(9.4, 2.7), layout="constrained")
    panel = figure.subplots()
    panel.bar(at, table["score"][order], 0.8, color=COLOURS["rate"])
    if len(order) <= SHOWN:
        names = _names(found.meta["choices"]["site"], table["item"][order])
        panel.set_xticks(at, names, rotation=90 if len(names) > 8 else 0, fontsize=8)
    panel.tick_params(axis="x", length=0)
    panel.margins(x=0.01)
    choices = found.meta["choices"]
    panel.set_ylabel("score")
    panel.set_xlabel(f"{choices['site']} by {choices['order']}, the most important first")
    return figure


def _names(site: str, names: NDArray[np.str_]) -> list[str]:
    """Name units without what they have in common; other things whole."""
    return [name.rsplit("/", 1)[-1] if site == "units" else name for name in names.tolist()]


def _axis(found: Ablation) -> NDArray[np.int64]:
    """Return the numbers removed, or kept."""
    assert found.curve is not None
    removed = found.curve.removed
    size = found.meta["items"]
    return size - removed if found.meta["choices"]["from"] == "keep" else removed


def _bound(panel: Axes, values: Floats, baseline: Any) -> None:
    """Leave room for what is far worse than knowing nothing, but not for all of it."""
    ends = np.array([baseline.value[MEAN], baseline.constant[MEAN]])
    if not np.isfinite(ends).all():
        return
    span = float(np.ptp(ends)) or 1.0
    low, high = panel.get_ylim()
    seen = np.concatenate([values[np.isfinite(values)], ends])
    panel.set_ylim(
        max(low, min(float(seen.min()), ends.min()) - 0.5 * span),
        min(high, max(float(seen.max()), ends.max()) + 0.5 * span),
    )


def _metric(name: str) -> str:
    return {"r2": "R2", "mse": "MSE", "cross_entropy": "cross-entropy"}.get(name, name)


def _sections(found: Ablation, drawn: dict[str, str]) -> list[Section]:
    meta = found.meta
    return [
        Section(
            "What is lost",
            _texts(found),
            [Picture(_caption(found), drawn["curve"]), _test_table(found)],
        ),
        Section(
            "Ranking",
            (f"{meta['choices']['site'].capitalize()} by {meta['choices']['order']}, ranked on "
             f"{meta['ranked_on']['windows']} windows of "
             f"{'overlapping' if meta['choices']['overlap'] else 'other'} time.",),
            [Picture("Score of each, the most important first.", drawn["items"]),
             _item_table(found)],
        ),
        Section("Choices", (), [_choices(meta)]),
    ]  # fmt: skip


def _caption(found: Ablation) -> str:
    if found.curve is None:
        return "Loss when each is removed alone, the largest first."
    return (
        "Left: decoding while more and more is removed. Bands: of nulls 5 to 95 % of rankings, of "
        "the ranking a simultaneous 95 % band over resampled blocks."
        + (" Below: the ranking less the mean of each null, likewise." if found.comparisons else "")
        + " Right: the areas that the tests compare."
    )


def _texts(found: Ablation) -> list[str]:
    meta = found.meta
    base, blind = meta["baseline"], meta["without_spikes"]
    metric, ends = _metric(meta["choices"]["metric"]), ("low", "high")
    out = [
        f"{metric} with everything there: {_number(base['value'][MEAN])}; of a predictor that "
        f"always says the same ({meta['constant']['from']}): {_number(base['constant'][MEAN])}; "
        f"gain {_number(base['gain'][MEAN])}"
        + ("" if base["note"] else f" [{', '.join(_number(base[x][MEAN]) for x in ends)}]")
        + "."
    ]
    if base["note"]:
        out.append(f"No intervals: {base['note']}.")
    if not base["testable"][MEAN]:
        out.append("The interval includes no gain: removal is not testable.")
    if blind is not None:
        leaks = blind["testable"][MEAN]
        out.append(
            f"Without any spike, from START and END alone: {_number(blind['value'][MEAN])}"
            + (": better than knowing nothing, so the model reads the answer off its clock."
               if leaks else ", no better than knowing nothing.")
        )  # fmt: skip
    if found.curve is not None and not math.isnan(found.curve.half_loss[MEAN]):
        out.append(f"Half of the gain is lost from {found.curve.half_loss[MEAN]:.0f} removed on.")
    dropout = meta["unit_dropout_in_training"]
    if meta["choices"]["site"] == "units":
        out.append(
            "The bundle does not say whether units were dropped in training."
            if dropout is None
            else f"Unit dropout in training: {dropout}."
            + (" The model never met missing units: the curve is also of that surprise."
               if dropout == 0 else "")
        )  # fmt: skip
    if "rate" in found.comparisons:
        strata = meta["strata"]
        out.append(
            f"Strata of rate: {', '.join(map(str, strata['sizes']))} units, whose rates differ by "
            f"up to {strata['widest']:.2g} times."
        )  # fmt: skip
    return out


def _test_table(found: Ablation) -> Table:
    tests = found.tables["tests"]
    names = list(tests)
    rows = [
        TableRow([Cell(_text(tests[name][i])) for name in names])
        for i in range(len(tests[names[0]]))
    ]
    said = "Tests: one summary each, the area lost over the first half."
    if found.curve is None:
        said = "Loss of each condition, 95 % intervals; q after Benjamini and Hochberg."
    return Table(said, names, rows, sortable=found.curve is None)


def _item_table(found: Ablation) -> Table:
    table = found.tables["items"]
    names = list(table)
    rows = [
        TableRow([Cell(_text(table[name][i])) for name in names]) for i in np.argsort(table["rank"])
    ]
    return Table("", names, rows, sortable=True, folded="all of them")


def _choices(meta: dict[str, Any]) -> Table:
    facts = meta["choices"] | {
        "dtype": meta["dtype"], "windows to rank on": meta["ranked_on"]["windows"],
        "windows to evaluate on": meta["evaluated_on"]["windows"],
        "blocks": meta["evaluated_on"]["blocks"],
    }  # fmt: skip
    rows = [TableRow([Cell(str(name)), Cell(_text(value))]) for name, value in facts.items()]
    return Table("", ["choice", "value"], rows)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
    if isinstance(value, float | np.floating):
        return _number(float(value))
    return str(value)


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3g}"

"""The figures and the report of ``attendrite attend``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from .. import __version__, report
from ..analysis import Analysis
from ..recordings import Recording
from ..report import INK, SOFT, STYLE, Cell, Picture, Section, Table, TableRow

Floats = NDArray[np.float64]
BLUE, RED, BAND = "#1b6ca8", "#c1440e", "#c9d1d9"
NAMED = 60  # units whose names fit below an axis
DPI = 150
HEAD_PANELS = {
    "units_sum": "effective units\n(attention)",
    "units_lift": "effective units\n(lift)",
    "start_end": "share on START\nand END",
    "top_share": "share of the\nstrongest unit",
}


def write(folder: Path, found: Analysis, facts: dict[str, Any], recording: Recording) -> None:
    """Write the figures as PNG and the report, which holds them."""
    names = [unit.rsplit("/", 1)[-1] for unit in recording.unit_ids]
    with matplotlib.rc_context(STYLE):
        figures = {
            "units": units(found, names),
            "heads_units": heads_units(found, names),
            "heads": heads(found),
        }
        if found.untrained:
            figures["untrained"] = untrained(found)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=DPI)
        drawn = {name: report.svg(figure) for name, figure in figures.items()}
    where = facts["windows"]
    report.write(
        folder / "report.html",
        f"What {facts['bundle']} attends to",
        f"{recording.session}: {where['count']} windows of {where['seconds_each']:g} s that do not "
        f"overlap, {where['from']:.6g} to {where['to']:.6g} s. Attention shows what a model looks "
        "at, not what it needs.",
        _sections(found, facts, drawn),
        f"attendrite {__version__}; model family {facts['family']}; seed of nulls "
        f"{facts['choices']['seed']}.",
    )


def units(found: Analysis, names: Sequence[str]) -> Figure:
    """Draw sum above and lift below, units in the order of the sum."""
    table = found.units
    order = np.argsort(table["rank"])
    at = 1 + np.arange(len(order))
    size = 5 if len(order) <= NAMED else 3
    figure = Figure(figsize=(9.4, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.bar(at, table["sum_spikes"][order], 0.8, color=BLUE, label="trained")
    below.axhline(1, color=SOFT, lw=0.8)
    below.plot(at, table["lift_spikes"][order], "o", color=BLUE, ms=size, label="trained")
    if found.untrained:
        for panel, name in ((above, "sum_spikes"), (below, "lift_spikes")):
            low, high = (table[f"{name}_untrained_{end}"][order] for end in ("low", "high"))
            panel.vlines(at, low, high, color=INK, lw=1)
            panel.plot(at, table[f"{name}_untrained"][order], "_", color=INK, ms=1.6 * size,
                       label="untrained, mean and range")  # fmt: skip
    above.set_ylabel("attention on spikes\n(sum)")
    below.set_ylabel("lift")
    _log(below, table["lift_spikes"])
    _unit_axis(below, [names[u] for u in order], "units by rank of the sum")
    above.legend(loc="upper right", fontsize=9)
    return figure


def heads_units(found: Analysis, names: Sequence[str]) -> Figure:
    """Draw the lift of each unit in each encoder head, units in the order of the sum."""
    order = np.argsort(found.units["rank"])
    columns = [name for name in found.units if name.startswith("lift_h")]
    lift = np.stack([found.units[name][order] for name in columns])  # [H, U]
    values = np.log2(np.where(lift > 0, lift, np.nan))
    limit = max(1.0, float(np.nanpercentile(np.abs(values), 98)))
    figure = Figure(figsize=(9.4, 0.5 * len(lift) + 1.7), layout="constrained")
    panel = figure.subplots()
    image = panel.pcolormesh(
        np.arange(len(order) + 1) + 0.5,
        np.arange(len(lift) + 1),
        np.ma.masked_invalid(values), cmap="RdBu_r", norm=TwoSlopeNorm(0, -limit, limit),
        ec="white", lw=0.6 if len(names) <= NAMED else 0, rasterized=len(names) > NAMED,
    )  # fmt: skip
    panel.invert_yaxis()
    panel.set_yticks(np.arange(len(lift)) + 0.5, [f"head {h}" for h in range(len(lift))])
    panel.tick_params(length=0)
    _unit_axis(panel, [names[u] for u in order], "units by rank of the sum")
    bar = figure.colorbar(image, ax=panel, label="lift", aspect=8, pad=0.01)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{2.0**x:.3g}"))
    return figure


def heads(found: Analysis) -> Figure:
    """Draw breadth and sinks of each encoder head, trained and untrained."""
    rows = [row for row in found.heads if row["site"] == "encoder"]
    own = [row for row in rows if row["model"] == "trained"]
    rest = [row for row in rows if row["model"] != "trained"]
    uniform = {"units_sum": "units_uniform", "start_end": "start_end_uniform"}
    figure = Figure(figsize=(9.4, 2.9), layout="constrained")
    for panel, (name, title) in zip(
        figure.subplots(1, len(HEAD_PANELS)), HEAD_PANELS.items(), strict=True
    ):
        if name in uniform:
            panel.axhline(own[0][uniform[name]], color=RED, lw=1, ls="--", label="uniform")
        panel.plot([r["head"] for r in rest], [r[name] for r in rest], "_", color=INK, ms=12,
                   label="untrained")  # fmt: skip
        panel.plot([r["head"] for r in own], [r[name] for r in own], "o", color=BLUE, ms=7,
                   label="trained")  # fmt: skip
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("head")
        panel.set_xticks([r["head"] for r in own])
        panel.set_xlim(-0.6, len(own) - 0.4)
        panel.set_ylim(0, 1.1 * max(panel.get_ylim()[1], 1e-9))
    handles, labels = panel.figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, fontsize=9)
    return figure


def untrained(found: Analysis) -> Figure:
    """Draw what trained and untrained models have in common: lifts, synchrony, divergence."""
    table = found.units
    figure = Figure(figsize=(9.4, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.4, 1.1, 1.3))
    x, y = table["lift_spikes_untrained"], table["lift_spikes"]
    left.axhline(1, color=SOFT, lw=0.8)
    left.axvline(1, color=SOFT, lw=0.8)
    ends = [float(np.nanmin([x, y])), float(np.nanmax([x, y]))]
    left.plot(ends, ends, color=SOFT, lw=0.8, ls=":")
    left.plot(x, y, "o", color=BLUE, ms=5, alpha=0.8)
    left.set_xlabel("lift, untrained (mean)")
    left.set_ylabel("lift, trained")
    for axis in "xy":
        _log(left, np.concatenate([x, y]), axis)
    models = [found.trained, *found.untrained]
    kinds = ["whole", "locked", "residual"]
    if np.isnan(found.trained.synchrony.locked.value):
        kinds = kinds[:1]  # no trials
    for i, own in enumerate(models):
        style: dict[str, Any] = {"marker": "_", "ms": 12, "color": INK}
        if i == 0:
            style = {"marker": "o", "ms": 7, "color": BLUE}
        values = [getattr(own.synchrony, kind).value for kind in kinds]
        middle.plot(range(len(kinds)), values, ls="", zorder=3 if i == 0 else 2, **style)
        low, high = own.specialisation.null[1:]
        right.vlines(i, low, high, color=BAND, lw=7)
        right.plot([i], [own.specialisation.divergence], ls="", **style)
    middle.axhline(0, color=SOFT, lw=0.8)
    middle.set_xticks(range(len(kinds)), kinds)
    middle.set_xlim(-0.5, len(kinds) - 0.5)
    middle.set_title("synchrony of heads", fontsize=10)
    right.set_title("divergence of heads (nats)\nbar: 90 % of the null", fontsize=10)
    right.set_xticks(
        range(len(models)), ["trained", *(f"u{i}" for i in range(len(found.untrained)))]
    )
    right.set_xlim(-0.6, len(models) - 0.4)
    right.set_ylim(0, None)
    handles = middle.get_lines()[:2]
    figure.legend(handles, ["trained", "untrained"], loc="outside upper left", ncols=2, fontsize=9)
    return figure


def _log(panel: Axes, values: Floats, axis: str = "y") -> None:
    """Scale an axis by powers of two where all values are above 0; names them plainly."""
    known = values[np.isfinite(values)]
    if not len(known) or known.min() <= 0:
        return
    if axis == "x":
        panel.set_xscale("log", base=2)
    else:
        panel.set_yscale("log", base=2)
    which = panel.xaxis if axis == "x" else panel.yaxis
    which.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))


def _unit_axis(panel: Axes, names: Sequence[str], label: str) -> None:
    if len(names) <= NAMED:
        panel.set_xticks(1 + np.arange(len(names)), names, rotation=90 if len(names) > 8 else 0)
        for each in panel.figure.axes:
            each.tick_params(axis="x", length=0, labelsize=8)
    panel.margins(x=0.01)
    panel.set_xlabel(label)


def _sections(found: Analysis, facts: dict[str, Any], drawn: dict[str, str]) -> list[Section]:
    return [
        Section(
            "Units",
            (
                "The sum of a unit's attention grows with its spikes; the lift, its share of the "
                "attention over its share of the spikes, does not. A lift of 1: attended to as "
                "much as its spikes alone explain.",
                _reliable(found),
            ),
            [
                Picture("Sum and lift of each unit, START and END not counted.", drawn["units"]),
                _unit_table(found),
            ],
        ),
        Section(
            "Heads",
            (
                "Heads of the encoder. Effective units: the exponential of the entropy over units. "
                "Heads are not aligned between models: head 0 of one is not head 0 of another.",
            ),
            [
                Picture("Lift of each unit in each head, on a scale of doublings; white: 1.",
                        drawn["heads_units"]),
                Picture("Breadth and sinks of each head.", drawn["heads"]),
                _head_table(found),
            ],
        ),
        Section(
            "Together or apart",
            (
                "Synchrony: correlation between heads of their lifts over time; with trials, of "
                "the mean over trials (locked) and of what is left (residual). Divergence: "
                "Jensen-Shannon, between the heads' distributions over units, against units "
                "permuted within strata of rate.",
            ),
            [
                *([Picture("The trained model beside untrained ones of the same shape.",
                           drawn["untrained"])] if found.untrained else []),
                _model_table(found),
            ],
        ),
        Section("Choices", (), [_choices(facts)]),
    ]  # fmt: skip


def _reliable(found: Analysis) -> str:
    parts = [
        f"{name.replace('_', ' ')} {_number(r['spearman'])} ({_number(r['spearman_brown'])})"
        for name, r in found.trained.reliability.items()
    ]
    return (
        "Agreement of two halves of the recording on the order of units, Spearman's correlation "
        "(in brackets what Spearman and Brown expect of the whole): " + ", ".join(parts) + "."
    )


def _unit_table(found: Analysis) -> Table:
    names = [n for n in found.units if not n.endswith(("_low", "_high"))]
    rows = [
        TableRow([Cell(_number(x)) for x in row])
        for row in zip(*(found.units[n] for n in names), strict=True)
    ]
    head = [name.replace("_", " ") for name in names]
    caption = "All columns: docs/attend.md. Click one to sort. Untrained: mean over models."
    return Table(caption, head, rows, sortable=True, folded=f"All {len(rows)} units")


def _head_table(found: Analysis) -> Table:
    names = list(found.heads[0])
    rows = [
        TableRow(
            [Cell(_number(row[n])) for n in names], "" if row["model"] == "trained" else "control"
        )
        for row in found.heads
    ]
    caption = (
        "Heads of processor and decoder attend to latents, not to units: lag is query time minus "
        "key time in seconds, output the norm of the head's contribution."
    )
    head = [n.replace("_", " ") for n in names]
    return Table(caption, head, rows, sortable=True, folded=f"All {len(rows)} heads")


def _model_table(found: Analysis) -> Table:
    head = ["model", "synchrony", "locked", "residual", "divergence", "null", "p apart", "p alike",
            "permutations", ""]  # fmt: skip
    rows = []
    for own in (found.trained, *found.untrained):
        both, apart = own.synchrony, own.specialisation
        parts = []
        for part in (both.locked, both.residual):
            p = "" if math.isnan(part.p) else f"p {part.p:.3g}; "
            parts.append(Cell(_number(part.value), p + part.verdict))
        cells = [Cell(own.name), Cell(_number(both.whole.value)), *parts]
        cells += [Cell(_number(apart.divergence)), Cell(_number(apart.null[0]))]
        cells += [Cell(_number(apart.p_apart)), Cell(_number(apart.p_alike))]
        cells += [Cell(f"{apart.distinct:.3g}"), Cell(apart.verdict)]
        rows.append(TableRow(cells, "" if own is found.trained else "control"))
    drawn = found.trained.specialisation
    caption = (
        f"Strata of rate (neighbours in number of spikes, from the slowest): {drawn.strata} "
        f"units; rates of a stratum differ by up to {drawn.widest:.2g} times."
    )
    return Table(caption, head, rows)


def _choices(facts: dict[str, Any]) -> Table:
    groups = {name: facts[name] for name in ("windows", "choices", "versions")}
    rows = [
        TableRow([Cell(f"{group}: {name.replace('_', ' ')}"), Cell(str(value))])
        for group, found in groups.items()
        for name, value in found.items()
    ]
    return Table("Everything is also in attend.json.", ["", ""], rows)


def _number(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{value:.3g}"
    return str(value)

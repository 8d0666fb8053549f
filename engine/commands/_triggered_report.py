"""The figures and the report of ``attendrite triggered``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import __version__, report
from ..analysis import Triggered
from ..report import INK, SOFT, STYLE, Cell, Picture, Section, Table, TableRow

BLUE, BAND = "#1b6ca8", "#eef1f4"
DRAWN = 4  # outputs
CURVES = 4  # units of each output
NAMED = 40  # units whose names fit beside a map
Z_LIMIT = 8.0  # of the colours
ALPHA = 0.05
DPI = 150


def write(folder: Path, found: Triggered, facts: dict[str, Any]) -> None:
    """Write the figures as PNG and the report, which holds them."""
    with matplotlib.rc_context(STYLE):
        figures = {"maps": maps(found), "curves": curves(found)}
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=DPI)
        drawn = {name: report.svg(figure) for name, figure in figures.items()}
    spikes = (
        "recorded spikes: the model and the animal together"
        if facts["input"] == "recorded"
        else "independent Poisson spikes at the recorded mean rates: the model alone"
    )
    report.write(
        folder / "report.html",
        f"Spikes around what {facts['bundle']} decodes",
        f"{facts['recording']}: {facts['seconds']:.0f} s of {spikes}.",
        _sections(found, facts, drawn),
        f"attendrite {__version__}; model family {facts['family']}, executor {facts['executor']}.",
    )


def maps(found: Triggered) -> Figure:
    """Draw the averages of all units, those that pass the test above, by the lag of their peak."""
    count, names = min(DRAWN, len(found.outputs)), _short_names(found)
    height = min(12.0, max(2.6, 0.13 * len(names) + 1.2))
    figure = Figure(figsize=(9.4, height), layout="constrained")
    z = np.isfinite(found.z).any()
    values = found.z if z else found.average
    limit = Z_LIMIT if z else max(1e-12, float(np.abs(values).max()))
    low, high = found.meta["lags_s"]
    edges = np.linspace(low, high, len(found.lags) + 1)
    for d, panel in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        order, passed = _order(found, d)
        image = panel.pcolormesh(
            edges, np.arange(len(names) + 1), np.ma.masked_invalid(values[d, order]),
            cmap="RdBu_r", vmin=-limit, vmax=limit, rasterized=True,
        )  # fmt: skip
        panel.invert_yaxis()
        panel.axvline(0, color=INK, lw=0.8)
        if 0 < passed < len(names):
            panel.axhline(passed, color=INK, lw=1)
        few = len(names) <= NAMED
        panel.set_yticks(np.arange(len(names)) + 0.5 if few else [],
                         [names[u] for u in order] if few else [], fontsize=7)  # fmt: skip
        panel.tick_params(axis="y", length=0)
        panel.set_title(found.outputs[d], fontsize=10)
        panel.set_xlabel("lag of the spikes (s)")
    label = "average / standard error" if z else "Hz per sd of the output"
    figure.colorbar(image, ax=figure.axes, label=label, aspect=20, pad=0.01)
    return figure


def curves(found: Triggered) -> Figure:
    """Draw the averages with the largest z, with a band of two standard errors."""
    count, names = min(DRAWN, len(found.outputs)), _short_names(found)
    columns = min(CURVES, len(names))
    figure = Figure(figsize=(9.4, 2.0 * count + 0.5), layout="constrained")
    for d, row in enumerate(figure.subplots(count, columns, squeeze=False, sharex=True)):
        strongest = np.argsort(-np.abs(_peaks(found, "peak_z", d)), kind="stable")
        for panel, u in zip(row, strongest, strict=False):
            _curve(panel, found, d, u)
            panel.set_title(f"{found.outputs[d]}, {names[u]}", fontsize=9)
        row[0].set_ylabel("Hz per sd")
    for panel in figure.axes[-columns:]:
        panel.set_xlabel("lag of the spikes (s)")
    return figure


def _curve(panel: Axes, found: Triggered, d: int, u: int) -> None:
    average, error = found.average[d, u], found.standard_error[d, u]
    seen, shown = found.meta["model_sees_s"], found.meta["lags_s"]
    for a, b in ((shown[0], seen[0]), (seen[1], shown[1])):
        if a < b:
            panel.axvspan(a, b, color=BAND, lw=0)
    panel.axhline(0, color=SOFT, lw=0.8)
    panel.axvline(0, color=SOFT, lw=0.8)
    if np.isfinite(error).all():
        panel.fill_between(found.lags, average - 2 * error, average + 2 * error, color=BLUE,
                           alpha=0.25, lw=0)  # fmt: skip
    panel.plot(found.lags, average, color=BLUE, lw=1.4)
    panel.margins(x=0)


def _order(found: Triggered, d: int) -> tuple[NDArray[np.int64], int]:
    """Return the units from top to bottom, and how many pass the test."""
    passed = _peaks(found, "p_value", d) <= ALPHA
    order: NDArray[np.int64] = np.lexsort((_peaks(found, "peak_lag", d), ~passed))
    return order, int(passed.sum())


def _peaks(found: Triggered, column: str, d: int) -> NDArray[Any]:
    """Return a column of one output, ``[U]``; what is not known comes last."""
    values = found.units[column].reshape(len(found.outputs), -1)[d]
    known: NDArray[Any] = np.nan_to_num(values, nan=0.0 if column == "peak_z" else np.inf)
    return known


def _short_names(found: Triggered) -> list[str]:
    return [unit.rsplit("/", 1)[-1] for unit in found.unit_ids]


def _sections(found: Triggered, facts: dict[str, Any], drawn: dict[str, str]) -> list[Section]:
    low, high = facts["model_sees_s"]
    definition = (
        "The average is the covariance of the decoded value, in standard deviations, and the rate "
        "of a unit some time before (left) or after it, in Hz. Errors come from contiguous blocks "
        "of time; p compares the largest average over lags with circular shifts of the output."
    )
    recorded = (
        "It says what the unit does when the model says something, not why: units that fire "
        "together, and a behaviour that changes slowly, put weight on units and lags that the "
        f"model does not use. A value rests on spikes from {low:g} to {high:g} s at most; beyond, "
        "everything is of the animal. With --input poisson it is of the model."
    )
    own = (
        "Spikes of different units and bins are independent here, so that what is not 0 is of the "
        "model: its best linear prediction from spikes (weights in triggered.npz, in the output's "
        "unit per spike). Share of the variance that it explains: "
        + ", ".join(f"{name} {share:.2f}" for name, share in (found.meta["linear"] or {}).items())
        + ". Such spikes are unlike any in training."
    )
    few = f"{facts['blocks']} blocks, {facts['shifts']} shifts" + (
        "." if np.isfinite(found.units["p_value"]).any() else ": too few for a test."
    )
    rest = facts["choices"] | {
        name: facts[name]
        for name in ("bin_s", "lags_s", "model_sees_s", "memory_s", "blocks", "block_at_least_s",
                     "shifts", "seconds", "held_out_s", "versions")
    }  # fmt: skip
    rows = [TableRow([Cell(name.replace("_", " ")), Cell(str(x))]) for name, x in rest.items()]
    return [
        Section(
            "Averages",
            [definition, recorded if facts["input"] == "recorded" else own, few],
            [
                Picture(
                    "All units by the lag of their peak; above the line those with p up to "
                    f"{ALPHA:g}. Red: more spikes when the output is high.",
                    drawn["maps"],
                ),
                Picture(
                    "The strongest averages, with two standard errors on either side; grey: lags "
                    "that the model cannot see.",
                    drawn["curves"],
                ),
            ],
        ),
        Section("Units", [], [_unit_table(found)]),
        Section("Choices", [], [Table("Also in triggered.json.", ["", ""], rows)]),
    ]


def _unit_table(found: Triggered) -> Table:
    rows = [
        TableRow([Cell(_text(x)) for x in row])
        for row in zip(*found.units.values(), strict=True)
    ]  # fmt: skip
    head = [name.replace("_", " ") for name in found.units]
    caption = "Columns: docs/triggered.md. Click one to sort."
    return Table(caption, head, rows, sortable=True, folded=f"All {len(rows)} outputs and units")


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.3g}"
    return str(value)

"""Reports: one HTML file that needs nothing else, with figures as inline SVG.

A report is made of sections; a section of texts, tables and figures. What they say is the caller's;
how they look is in ``templates/report.html.j2``, which escapes every text.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .files import written_whole

Floats = NDArray[np.float64]

TEMPLATES = Path(__file__).parent / "templates"
STYLE: Any = {  # matplotlib types the keys one by one
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "attendrite",  # the same figure gives the same file
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b6876",
    "axes.labelcolor": "#1d2733",
    "xtick.color": "#5b6876",
    "ytick.color": "#5b6876",
    "legend.frameon": False,
}
INK, SOFT = "#1d2733", "#9aa5b1"
COLOURS = {"poyo": "#1b6ca8", "ridge": "#d9704a", "bayes": "#6f9a37", "true": INK}


@dataclass(frozen=True)
class Cell:
    """A number or word of a table, and a smaller one below it."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class TableRow:
    """One row; ``kind`` is ``ours``, ``control`` or empty."""

    cells: Sequence[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table; ``folded`` names it while it is closed, a sortable one sorts by a click."""

    caption: str
    head: Sequence[str]
    rows: Sequence[TableRow]
    sortable: bool = False
    folded: str = ""
    svg: str = field(default="", init=False)


@dataclass(frozen=True)
class Picture:
    """A figure as the text of an SVG element."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A headline, some paragraphs, and tables and figures."""

    title: str
    texts: Sequence[str]
    blocks: Sequence[Table | Picture]


def write(
    path: str | Path, title: str, lead: str, sections: Sequence[Section], footer: str
) -> None:
    """Write a report, whole or not at all.

    Args:
        path: The HTML file.
        title: Headline.
        lead: One sentence below it.
        sections: What follows.
        footer: Versions and sources.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    html = environment.get_template("report.html.j2").render(
        title=title, lead=lead, sections=sections, footer=footer
    )
    with written_whole(path) as beside:
        beside.write_text(html, encoding="utf-8")


def traces(
    times: Floats,
    true: Floats,
    decoded: Mapping[str, Floats],
    columns: Sequence[str],
    unit: str,
    shown: NDArray[np.bool_] | None = None,
) -> str:
    """Draw decoded beside true values over time, one panel per column.

    Args:
        times: ``[T]``, seconds.
        true: ``[T, D]``.
        decoded: By name, ``[T, D]``.
        columns: Names of the ``D`` columns.
        unit: Of the values.
        shown: Where to draw the decoded values, ``[T]``; the true ones are paler elsewhere.

    Returns:
        An SVG element.
    """
    shown = np.ones(len(times), np.bool_) if shown is None else shown
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 2.1 * len(columns) + 0.4), layout="constrained")
        panels = figure.subplots(len(columns), 1, sharex=True, squeeze=False)[:, 0]
        for k, (panel, column) in enumerate(zip(panels, columns, strict=True)):
            panel.plot(times, true[:, k], color=SOFT, lw=1)
            panel.plot(times, np.where(shown, true[:, k], np.nan), color=INK, lw=2.2, label="true")
            for name, values in decoded.items():
                at = np.where(shown, values[:, k], np.nan)
                panel.plot(times, at, color=COLOURS.get(name, SOFT), lw=1.4, label=name)
            panel.set_ylabel(f"{column} ({unit})" if unit else column)
        panels[-1].set_xlabel("time (s)")
        panels[-1].margins(x=0)
        _legend_above(panels[0])
        return svg(figure)


def bars(groups: Sequence[str], values: Mapping[str, Floats], label: str, best: float = 1.0) -> str:
    """Draw a bar per method and group, with a dot for each seed.

    Args:
        groups: Names of the ``G`` groups.
        values: By method, ``[R, G]``: one row per seed, or one.
        label: Of the axis.
        best: Top of the axis.

    Returns:
        An SVG element.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 2.9), layout="constrained")
        panel = figure.subplots()
        width = 0.8 / len(values)
        for i, (name, rows) in enumerate(values.items()):
            at = np.arange(len(groups)) + (i - (len(values) - 1) / 2) * width
            colour = COLOURS.get(name, SOFT)
            panel.bar(at, rows.mean(0), width * 0.92, color=colour, label=name)
            for x, top in zip(at, rows.mean(0), strict=True):
                panel.text(x, max(top, 0) + 0.02 * best, f"{top:.2f}", ha="center", fontsize=9)
            if len(rows) > 1:
                panel.plot(
                    np.tile(at, (len(rows), 1)), rows, "o", color="white", mec=INK, ms=3.5, mew=0.8
                )
        panel.set_xticks(range(len(groups)), groups)
        panel.set_ylabel(label)
        panel.set_ylim(0, best)
        panel.tick_params(axis="x", length=0)
        _legend_above(panel)
        return svg(figure)


def scatter(
    true: Floats, decoded: Floats, columns: Sequence[str], unit: str, name: str = "poyo"
) -> str:
    """Draw decoded against true values, one panel per column.

    Args:
        true: ``[S, D]``.
        decoded: ``[S, D]``.
        columns: Names of the ``D`` columns.
        unit: Of the values.
        name: Of the decoder, for colour and label.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 4.2), layout="constrained")
        for k, (panel, column) in enumerate(
            zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True)
        ):
            both = np.concatenate([true[:, k], decoded[:, k]])
            ends = [float(both.min()), float(both.max())]
            panel.plot(ends, ends, color=SOFT, lw=1)
            panel.plot(true[:, k], decoded[:, k], "o", ms=3, alpha=0.35, mew=0, color=COLOURS[name])
            panel.set_title(column, fontsize=10)
            panel.set_xlabel(f"true ({unit})")
            panel.set_ylabel(f"decoded ({unit})")
        return svg(figure)


def curves(x: Floats, lines: Mapping[str, Floats], titles: Sequence[str], labels: str) -> str:
    """Draw lines over ``x``, one panel per title.

    Args:
        x: ``[X]``.
        lines: By name, ``[X, P]``.
        titles: Of the ``P`` panels.
        labels: Of the axes, ``"x|y"``.
    """
    across, up = labels.split("|")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 2.8), layout="constrained")
        panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
        for k, (panel, title) in enumerate(zip(panels, titles, strict=True)):
            for name, values in lines.items():
                colour = COLOURS.get(name.split()[0], SOFT)
                style = "--" if "acausal" in name else "-"
                panel.plot(x, values[:, k], style, color=colour, label=name, marker="o", ms=3)
            panel.axhline(0, color=SOFT, lw=0.8)
            panel.set_title(title, fontsize=10)
            panel.set_xlabel(across)
        panels[0].set_ylabel(up)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=len(names), fontsize=9)
        return svg(figure)


def attention_map(values: Floats, units: Sequence[str], label: str, centre: float = 1.0) -> str:
    """Draw heads by units.

    Args:
        values: ``[H, N]``; NaN is left blank.
        units: Names of the ``N`` units.
        label: Of the colours.
        centre: The value that says nothing, drawn white.
    """
    top = float(np.nanmax(values, initial=2 * centre))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 0.55 * len(values) + 1.3), layout="constrained")
        panel = figure.subplots()
        norm = TwoSlopeNorm(centre, 0, max(top, centre + 1))
        image = panel.pcolormesh(
            np.ma.masked_invalid(values), cmap="RdBu_r", norm=norm, ec="white", lw=1
        )
        panel.invert_yaxis()
        panel.set_yticks(np.arange(len(values)) + 0.5, [f"head {h}" for h in range(len(values))])
        panel.set_xticks(np.arange(len(units)) + 0.5, units, rotation=90 if len(units) > 12 else 0)
        panel.tick_params(length=0, labelsize=8)
        figure.colorbar(image, ax=panel, label=label, aspect=8, pad=0.01)
        return svg(figure)


def svg(figure: Figure) -> str:
    """Return a figure as an SVG element that may stand inside HTML.

    Ids are made distinct: two figures of one page must not share clip paths.
    """
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    mark = f"f{zlib.crc32(text.encode()):08x}-"
    text = re.sub(r'\bid="', f'id="{mark}', text)
    return re.sub(r'(url\(#|href="#)', rf"\1{mark}", text)


def plain_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned table for the terminal; the first column is left-aligned."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _legend_above(panel: Axes) -> None:
    panel.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=6, fontsize=9)

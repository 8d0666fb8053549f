"""The figures and the report of ``attendrite fields``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from .. import __version__, report
from ..fields import Fields
from ..report import INK, SOFT, STYLE, Cell, Picture, Section, Table, TableRow

BLUE, RED = "#1b6ca8", "#c1440e"
GALLERY = 4, 6  # rows and columns
LISTED = 200  # units of the table
DPI = 150
COLUMNS = (
    "unit", "split_half", "linear", "nonlinear", "peak_z", "q_value", "mean", "sd", "x0", "y0",
    "sigma_x", "sigma_y", "theta", "amplitude", "fit",
)  # fmt: skip


def write(folder: Path, found: Fields) -> None:
    """Write the figures as PNG and the report, which holds them."""
    with matplotlib.rc_context(STYLE):
        figures = {"gallery": gallery(found), "distributions": distributions(found)}
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=DPI)
        drawn = {name: report.svg(figure) for name, figure in figures.items()}
    meta = found.meta
    choices = meta["choices"]
    report.write(
        folder / "report.html",
        f"Receptive fields of {meta['bundle']}",
        f"{meta['units']} units of mouse {meta['mouse']}, {meta['images']:,} images of "
        f"{' x '.join(map(str, meta['shape']))} pixels ({choices['stimuli']}), recipe "
        f"{choices['recipe']}. Fields are of the model, not of the animal.",
        _sections(found, drawn),
        f"attendrite {__version__}; model family {meta['family']}, executor {meta['executor']}; "
        f"seed {choices['seed']}.",
    )


def ranked(found: Fields) -> NDArray[np.int64]:
    """Return units by reliability, the best first."""
    known = np.nan_to_num(found.units["split_half"], nan=-2)
    order: NDArray[np.int64] = np.argsort(-known, kind="stable")
    return order


def measured(found: Fields) -> NDArray[np.bool_]:
    """Say which units have a significant field and a Gaussian that fits it, ``[U]``."""
    chosen: NDArray[np.bool_] = found.units["significant"] & (found.units["fit"] == "converged")
    return chosen


def gallery(found: Fields) -> Figure:
    """Draw the most reliable fields with an ellipse of one standard deviation around each."""
    rows, columns = GALLERY
    height, width = found.field.shape[2:]
    figure = Figure(figsize=(9.4, 9.4 / columns * rows * (height / width + 0.18)),
                    layout="constrained")  # fmt: skip
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    order, table = ranked(found), found.units
    for panel in panels:
        panel.set_axis_off()
    for panel, u in zip(panels, order, strict=False):
        shown = found.field[u, table["peak_channel"][u]]
        top = max(float(np.abs(shown).max()), 1e-30)
        panel.imshow(shown, cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
        if math.isfinite(table["x0"][u]):
            panel.add_patch(_ellipse(table, u))
        panel.set_title(f"{table['unit'][u]}: r {table['split_half'][u]:.2f}", fontsize=8, pad=2)
    return figure


def _ellipse(table: dict[str, NDArray[Any]], u: int) -> Ellipse:
    place = float(table["x0"][u]), float(table["y0"][u])
    return Ellipse(
        place, 2 * table["sigma_x"][u], 2 * table["sigma_y"][u],
        angle=math.degrees(table["theta"][u]), fill=False, ec=INK, lw=1,
    )  # fmt: skip


def distributions(found: Fields) -> Figure:
    """Draw reliability, linear share, sizes and centres of all units."""
    table, meta = found.units, found.meta
    figure = Figure(figsize=(9.4, 5.6), layout="constrained")
    (reliable, linear), (sizes, centres) = figure.subplots(2, 2)
    _histogram(reliable, table["split_half"], BLUE, "correlation of halves", "units")
    _histogram(linear, table["linear"], BLUE, "share of the variance that is linear", "units")
    if not meta["white"]:
        linear.text(0.5, 0.5, "needs white noise", ha="center", transform=linear.transAxes)
    fitted = measured(found)
    end, unit = ("_deg", "degrees") if "size_deg" in table else ("", "pixels")
    for name, colour, label in (("sigma_x", BLUE, "longer axis"), ("sigma_y", RED, "shorter")):
        _histogram(sizes, table[name + end][fitted], colour, f"sd of the Gaussian ({unit})",
                   "units", label)  # fmt: skip
    if fitted.any():
        sizes.legend(fontsize=9)
    height, width = meta["shape"][1:]
    edges = [-0.5, width - 0.5], [-0.5, height - 0.5]
    bins = max(1, width // 2), max(1, height // 2)
    density, x, y = np.histogram2d(table["x0"][fitted], table["y0"][fitted], bins=bins, range=edges)
    image = centres.pcolormesh(x, y, density.T, cmap="Blues")
    centres.invert_yaxis()
    centres.set_aspect("equal")
    centres.set_xlabel("centre, column")
    centres.set_ylabel("centre, row")
    figure.colorbar(image, ax=centres, label="units", aspect=12, pad=0.01)
    return figure


def _histogram(
    panel: Axes, values: NDArray[Any], colour: str, across: str, up: str, label: str = ""
) -> None:
    """Draw a histogram; the farthest 1 % at the right are counted in its last bar."""
    known = values[np.isfinite(values)]
    if len(known):
        low, high = float(known.min()), float(np.quantile(known, 0.99))
        if high <= low:
            high = low + max(1e-3, abs(low) * 1e-3)
        panel.hist(np.minimum(known, high), np.linspace(low, high, 41).tolist(), color=colour,
                   alpha=0.6, label=label)  # fmt: skip
        panel.axvline(float(np.median(known)), color=colour, lw=1.2)
    panel.axvline(0, color=SOFT, lw=0.8)
    panel.set_xlabel(across)
    panel.set_ylabel(up)


def _sections(found: Fields, drawn: dict[str, str]) -> list[Section]:
    meta, choices = found.meta, found.meta["choices"]
    significant, fitted = int(found.units["significant"].sum()), int(measured(found).sum())
    texts = [
        "A field is the average of the noise weighted by the response, with the mean removed, in "
        "response per standard deviation of a pixel. It is the best linear prediction of the "
        "response from white noise; what it leaves of a model in evaluation mode is nonlinear.",
        f"{significant} of {meta['units']} units have a significant pixel (5 %, Bonferroni over "
        "pixels). With many images nearly every dependence is significant, however weak: look at "
        "the reliability and the linear share too.",
        f"Median correlation of the fields of two halves: {_number(meta['reliability'])}"
        + (
            f"; of the share of the variance that is linear: {_number(meta['linear'])}."
            if meta["white"]
            else "."
        ),
    ]
    if not meta["white"]:
        texts.append(
            "These images are not known to be white: fields are smeared by the correlations "
            "between pixels, and no share of the variance is given."
        )
    gallery_ = Picture(
        "The most reliable fields, each on its own scale, red above 0; the ellipse is one standard "
        "deviation of a signed Gaussian fit; r is the correlation of the two halves.",
        drawn["gallery"],
    )
    shapes = Picture(
        f"All {meta['units']} units; sizes and centres of the {fitted} with a significant pixel "
        "whose fit converged. Lines are medians.",
        drawn["distributions"],
    )
    facts = choices | {"images": meta["images"], "shards": meta["shards"], "dtype": meta["dtype"],
                       "error of a linear share of 0": meta["linear_error"]}  # fmt: skip
    rows = [TableRow([Cell(str(name)), Cell(_text(value))]) for name, value in facts.items()]
    return [
        Section("Fields", texts, [gallery_]),
        Section("Distributions", [], [shapes]),
        Section("Units", [], [_unit_table(found)]),
        Section("Choices", [], [Table("", ["choice", "value"], rows)]),
    ]


def _unit_table(found: Fields) -> Table:
    order = ranked(found)[:LISTED]
    columns = [*COLUMNS, *(name for name in found.units if name.endswith("_deg"))]
    rows = [TableRow([Cell(_text(found.units[name][u])) for name in columns]) for u in order]
    said = f"The {len(rows)} most reliable units; units.csv holds all."
    return Table(said, columns, rows, sortable=True, folded="the most reliable units")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(x)}" for name, x in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, float | np.floating):
        return _number(float(value))
    return "" if value is None else str(value)


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3g}"

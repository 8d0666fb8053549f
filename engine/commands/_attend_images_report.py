"""The figures and the report of ``attendrite attend`` for models of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import __version__, report
from ..analysis.gaze import AXES, centre_of_mass
from ..analysis.looks import Looks
from ..report import INK, SOFT, STYLE, Cell, Picture, Section, Table, TableRow
from ..scans import Scan
from ._attend_images import HEAD, SWAP_HEAD, cells, swap_cells

Floats = NDArray[np.float64]
BLUE = "#1b6ca8"
SHOWN = 5  # images
DPI = 150
PANELS = {
    "tokens": "tokens a query\nspreads over",
    "keys": "tokens attention\nfalls on",
    "top_share": "share of the\nstrongest token",
    "class_share": "share of the\nclass token",
}


def write(folder: Path, found: Looks, facts: dict[str, Any], scan: Scan) -> None:
    """Write the figures as PNG and the report, which holds them."""
    with matplotlib.rc_context(STYLE):
        figures = {"maps": maps(found, facts, scan), "heads": heads(found)}
        if found.pupil is not None:
            figures["gaze"] = gaze(found)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=DPI)
        drawn = {name: report.svg(figure) for name, figure in figures.items()}
    report.write(
        folder / "report.html",
        f"Where {facts['bundle']} looks",
        f"Scan {facts['scan']}, mouse {facts['mouse']}: {facts['trials']} trials of "
        f"{facts['images']} images (tier {facts['tier']}). Attention shows what a model looks at, "
        "not what it needs, and nothing about where the animal attends.",
        _sections(found, facts, drawn),
        f"attendrite {__version__}; model family {facts['family']}; seed of nulls "
        f"{facts['choices']['seed']}.",
    )


def maps(found: Looks, facts: dict[str, Any], scan: Scan) -> Figure:
    """Draw some images, their heat maps over them, and mean maps."""
    first = np.unique(found.image_ids, return_index=True)[1][:SHOWN]
    figure = Figure(figsize=(9.4, 2.6), layout="constrained")
    panels = figure.subplots(2, len(first) + 1, squeeze=False)
    for column, at in enumerate(first):
        image = scan.images([found.trials[at]])[0].mean(0)
        for row in range(2):
            _image(panels[row, column], image, "gray")
        crop = facts["crop"]
        panels[1, column].imshow(
            found.trained.maps[at], "magma", extent=(-crop, crop, -crop, crop), alpha=0.55,
            aspect="auto", vmin=0, vmax=1, interpolation="nearest",
        )  # fmt: skip
        panels[1, column].set(xlim=(-1, 1), ylim=(-1, 1))
        panels[0, column].set_title(f"image {found.image_ids[at]}", fontsize=9)
    _image(panels[0, -1], found.trained.maps.mean(0), "magma")
    panels[0, -1].set_title("mean map", fontsize=9)
    panels[1, -1].set_axis_off()
    if found.untrained:
        _image(panels[1, -1], np.mean([own.maps.mean(0) for own in found.untrained], 0), "magma")
        panels[1, -1].set_title("untrained", fontsize=9)
    return figure


def gaze(found: Looks) -> Figure:
    """Draw centre of mass against pupil, over all trials and within images."""
    assert found.pupil is not None
    centre, pupil = centre_of_mass(found.trained.maps), found.pupil.astype(np.float64)
    figure = Figure(figsize=(9.4, 2.9), layout="constrained")
    panels = figure.subplots(1, 4)
    for k, axis in enumerate(AXES):
        for panel, (a, b), what in (
            (panels[2 * k], (pupil[:, k], centre[:, k]), "all trials"),
            (
                panels[2 * k + 1],
                _within(found.image_ids, pupil[:, k], centre[:, k]),
                "within image",
            ),
        ):
            panel.plot(a, b, "o", ms=3, mew=0, alpha=0.4, color=BLUE)
            panel.set_title(f"{axis}, {what}", fontsize=10)
            panel.set_xlabel("pupil")
    panels[0].set_ylabel("centre of mass (px)")
    return figure


def heads(found: Looks) -> Figure:
    """Draw how broad each head is, trained and untrained."""
    labels = [f"{row['site'].rpartition('.')[2]}.{row['head']}" for row in found.trained.heads]
    figure = Figure(figsize=(9.4, 2.9), layout="constrained")
    at = range(len(labels))
    for panel, (name, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        count = 1 / found.trained.heads[0]["uniform"]
        panel.axhline(count if name in ("tokens", "keys") else 1 / count, color=SOFT, lw=1, ls="--",
                      label="uniform")  # fmt: skip
        for own in found.untrained:
            panel.plot(at, [row[name] for row in own.heads], "_", color=INK, ms=8,
                       label="untrained" if own is found.untrained[0] else None)  # fmt: skip
        values = [row[name] for row in found.trained.heads]
        panel.plot(at, values, "o", color=BLUE, ms=5, label="trained")
        panel.set_title(title, fontsize=10)
        panel.set_xticks(at, labels, rotation=90 if len(labels) > 6 else 0, fontsize=7)
        panel.set_xlabel("block.head")
        panel.set_ylim(0, 1.08 * max(panel.get_ylim()[1], 1e-9))
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=3, fontsize=9)
    return figure


def _image(panel: Axes, values: NDArray[Any], colours: str) -> None:
    panel.imshow(values, colours, extent=(-1, 1, -1, 1), aspect="auto", interpolation="nearest")
    panel.set_axis_off()
    panel.set_box_aspect(values.shape[0] / values.shape[1])


def _within(ids: NDArray[Any], *columns: Floats) -> tuple[Floats, ...]:
    """Subtract from each value the mean over trials of its image."""
    _, of, counts = np.unique(ids, return_inverse=True, return_counts=True)
    return tuple((x - (np.bincount(of, x) / counts)[of])[counts[of] > 1] for x in columns)


def _sections(found: Looks, facts: dict[str, Any], drawn: dict[str, str]) -> list[Section]:
    grid = " x ".join(map(str, facts["grid"]))
    found_maps = Section(
        "Maps",
        [
            f"Attention rollout of the class token over {grid} patches: "
            f"{facts['choices']['rollout']}; {facts['choices']['heat_map']}.",
            *([f"Note: {facts['warning']}."] if facts["warning"] else []),
        ],
        [Picture("Images, their maps, and the mean map beside that of untrained models. Maps of "
                 "models that move the image with the eye are drawn without that shift.",
                 drawn["maps"])],
    )  # fmt: skip
    broad = Section(
        "Heads",
        ["How many tokens a query spreads over, and how many attention falls on in the end: a head "
         "may be sharp for every query and still fall on all tokens alike."],
        [Picture("Dashed: uniform attention.", drawn["heads"]), _heads(found)],
    )  # fmt: skip
    choices = Section("Choices", [], [_choices(facts)])
    return [found_maps, _gaze(found, drawn), broad, choices]


def _gaze(found: Looks, drawn: dict[str, str]) -> Section:
    title = "Does the map follow the pupil?"
    if found.trained.centre is None:
        return Section(title, ["Not testable: the scan has no pupil."], [])
    texts = [
        "The pupil is an input of the model, and images repeat: over all trials the correlation "
        "mixes what the image does with what the pupil does. Within image only the inputs pupil "
        "and behaviour differ, so that correlation shows what they do to the map, and no more.",
    ]
    tables = [_follows(found)]
    if found.swaps:
        texts.append(
            "With the pupil or behaviour of a trial of another image, a map that follows its input "
            "goes with the pupil that it was given."
        )
        tables.append(_swaps(found))
    picture = Picture("Centre of mass of the map against the centre of the pupil.", drawn["gaze"])
    return Section(title, texts, [picture, *tables])


def _follows(found: Looks) -> Table:
    rows = [
        TableRow(
            [Cell(f"{own.name}: {what} {axis}"), *map(Cell, cells(one)), Cell(f"{first.r:.2f}")],
            "" if own is found.trained else "control",
        )
        for own in (found.trained, *found.untrained)
        for what, pair, published in (
            ("centre", own.centre, own.published), ("spread", own.spread, own.spread_published)
        )
        for axis, one, first in zip(AXES, pair or (), published or (), strict=False)
    ]  # fmt: skip
    caption = (
        "Centre of mass against the pupil's centre, and spread (standard deviation of the map's "
        "sums) against its size. p: pupils permuted within image, two-sided; intervals: jackknife "
        "over images; V1T: absolute value over all trials."
    )
    return Table(caption, ["", *HEAD, "V1T's recipe"], rows)


def _swaps(found: Looks) -> Table:
    rows = [
        TableRow([Cell(name), *map(Cell, swap_cells(swap))]) for name, swap in found.swaps.items()
    ]
    head = ["from another trial", *SWAP_HEAD]
    return Table(
        "Correlation over trials with the pupil given and with the trial's own.", head, rows
    )


def _heads(found: Looks) -> Table:
    names = ["entropy", "tokens", "keys", "gini", "top_share", "class_share", "uniform"]
    rows = [
        TableRow(
            [Cell(f"{own.name}: {row['site']} head {row['head']}"),
             *(Cell(f"{row[name]:.3g}") for name in names), Cell(row["top"])],
            "" if own is found.trained else "control",
        )
        for own in (found.trained, *found.untrained)
        for row in own.heads
    ]  # fmt: skip
    head = ["", *(name.replace("_", " ") for name in names), "top"]
    return Table("Entropy in nats.", head, rows, sortable=True, folded="All heads")


def _choices(facts: dict[str, Any]) -> Table:
    groups = {name: facts[name] for name in ("choices", "versions")}
    rows = [
        TableRow([Cell(f"{group}: {name.replace('_', ' ')}"), Cell(str(value))])
        for group, found in groups.items()
        for name, value in found.items()
    ]
    return Table("Everything is also in attend.json.", ["", ""], rows)

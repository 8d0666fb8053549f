"""``attendrite attend`` for models of images: where a model looks, head by head and map by map.

DIR holds trials.csv (a row per trial), heads.csv (a row per model, site and head), maps.npz (the
heat maps), attend.json, three figures and report.html. docs/images.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import errors
from ..files import folder_written_whole, write_npz
from . import _options
from ._tables import as_json, write_csv

if TYPE_CHECKING:
    from ..analysis.gaze import Follows, Swap
    from ..analysis.looks import Look, Looks
    from ..bundle import Bundle
    from ..runtime import Engine
    from ..scans import Scan

HEAD = ("r", "within image", "95 %", "p", "verdict")
SWAP_HEAD = ("given x", "given y", "own x", "own y")
CONTROLS = 3  # untrained models: one draw alone may be odd
SUMMARY = "attend.json"
TIER = "test"
OF_SPIKES = {"start": None, "stop": None, "within": None, "trials": None, "tokens": "spikes",
             "task": None, "map": None, "unknown": "error"}  # fmt: skip


def takes(bundle: Bundle) -> bool:
    """Say whether a bundle is a model of images."""
    from .. import models
    from ..images import ImageBatch

    return models.load(bundle.manifest.family).batch is ImageBatch


def run(options: argparse.Namespace, bundle: Bundle) -> int:
    """Analyse, write and print; return the exit status."""
    from ..analysis.image_control import untrained_core
    from ..analysis.looks import look
    from ..scans import read_scan

    for name, default in OF_SPIKES.items():
        if getattr(options, name) != default:
            got = f"a {bundle.manifest.family} model"
            raise errors.must(f"--{name}", "come with a model of spikes", got, "leave it out")
    engine, scan = _options.engine(options, bundle), read_scan(options.recording)
    mouse = _mouse(options.session, scan, engine)
    seeds = [] if options.no_control else range(options.seed, options.seed + CONTROLS)
    found = look(
        engine,
        scan,
        mouse=mouse,
        tier=options.tier or TIER,
        controls=[_options.engine(options, untrained_core(bundle, seed)) for seed in seeds],
        fuse=options.rollout or "max",
        rounds=options.null,
        seed=options.seed,
        batch_size=options.batch_size,
        progress=True,
    )
    facts = summary(found, engine, scan, mouse, options.tier or TIER)
    with folder_written_whole(options.out, replace=options.force) as folder:
        _write(folder, found, facts, scan)
    print(json.dumps(facts, indent=1) if options.json else _said(found, facts, options.out))
    return 0


def _mouse(asked: str | None, scan: Scan, engine: Engine) -> str:
    """Return what the bundle calls the scan's mouse."""
    known = engine.manifest.sessions
    name = asked or next((n for n in (scan.mouse, scan.session) if n in known), scan.mouse)
    errors.choice("mouse", name, known, "name one: --session")
    return name


def summary(found: Looks, engine: Engine, scan: Scan, mouse: str, tier: str) -> dict[str, Any]:
    """Return everything but the tables and maps, as JSON holds it; NaN is null."""
    _, repeats = np.unique(found.image_ids, return_counts=True)
    about = {
        "bundle": engine.manifest.name,
        "family": engine.family,
        "executor": engine.executor,
        "device": engine.device,
        "dtype": engine.dtype,
        "scan": scan.session,
        "mouse": mouse,
        "tier": tier,
        "trials": len(found.trials),
        "images": len(repeats),
        "repeats": [int(repeats.min()), int(repeats.max())],
        "neurons": len(scan.unit_ids),
        "correlation": found.correlation,
    }
    models = [
        {
            "name": own.name,
            **{
                name: None if pair is None else dict(zip("xy", map(asdict, pair), strict=True))
                for name, pair in pairs(own).items()
            },
        }
        for own in (found.trained, *found.untrained)
    ]
    swaps = {name: asdict(swap) for name, swap in found.swaps.items()}
    facts: dict[str, Any] = as_json(about | found.meta | {"models": models, "swaps": swaps})
    return facts


def pairs(own: Look) -> dict[str, Any]:
    """Return a model's figures over x and y by name."""
    names = ("centre", "spread", "published", "spread_published")
    return {name: getattr(own, name) for name in names}


def _write(folder: Path, found: Looks, facts: dict[str, Any], scan: Scan) -> None:
    from . import _attend_images_report

    columns = trial_columns(found)
    write_csv(folder / "trials.csv", columns, zip(*columns.values(), strict=True))
    rows = [
        {"model": own.name} | row
        for own in (found.trained, *found.untrained)
        for row in own.heads
    ]  # fmt: skip
    write_csv(folder / "heads.csv", rows[0], (list(row.values()) for row in rows))
    maps = found.trained.maps.astype(np.float32)
    write_npz(
        folder / "maps.npz", {"maps": maps, "trial": found.trials, "image_id": found.image_ids}
    )
    (folder / SUMMARY).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _attend_images_report.write(folder, found, facts, scan)


def trial_columns(found: Looks) -> dict[str, Any]:
    """Return a table with a row per trial."""
    from ..analysis.gaze import centre_of_mass, spread

    centre, wide = centre_of_mass(found.trained.maps), spread(found.trained.maps)
    table: dict[str, Any] = {
        "trial": found.trials, "image_id": [errors.plain(str(x)) for x in found.image_ids],
        "centre_x": centre[:, 0], "centre_y": centre[:, 1],
        "spread_x": wide[:, 0], "spread_y": wide[:, 1],
    }  # fmt: skip
    if found.pupil is not None:
        table |= {"pupil_x": found.pupil[:, 0], "pupil_y": found.pupil[:, 1]}
    if found.behavior is not None:
        names = ("dilation", "dilation_change", "speed")
        table |= dict(zip(names, found.behavior.T, strict=True))
    return table


def _said(found: Looks, facts: dict[str, Any], out: Path) -> str:
    from ..report import plain_table

    lines = [
        f"{facts['trials']} trials of {facts['images']} images, mouse {facts['mouse']}, "
        f"maps of {facts['map'][0]} x {facts['map'][1]} pixels",
    ]
    if found.correlation is not None:
        single, average = found.correlation["single_trial"], found.correlation["to_average"]
        lines.append(f"responses: single-trial correlation {single:.3f}, to average {average:.3f}")
    if found.trained.centre is None:
        lines.append("centre of mass against the pupil: not testable: the scan has no pupil")
    else:
        rows = [
            [f"{own.name} {axis}", *cells(one)]
            for own in (found.trained, *found.untrained)
            for axis, one in zip("xy", own.centre or (), strict=True)
        ]
        lines += ["", plain_table(["centre against pupil", *HEAD], rows), ""]
        if found.swaps:
            rows = [[name, *swap_cells(swap)] for name, swap in found.swaps.items()]
            lines += [plain_table(["from another trial", *SWAP_HEAD], rows), ""]
    if facts["warning"]:
        lines.append(f"note: {facts['warning']}")
    return "\n".join([*lines, f"written to {out}"])


def cells(one: Follows) -> list[str]:
    """Return the cells below ``HEAD``."""
    if np.isnan(one.within):
        return [f"{one.r:.2f}", "", "", "", one.verdict]
    between = "" if np.isnan(one.low) else f"{one.low:.2f} to {one.high:.2f}"
    return [f"{one.r:.2f}", f"{one.within:.2f}", between, f"{one.p:.3g}", one.verdict]


def swap_cells(swap: Swap) -> list[str]:
    """Return the cells below ``SWAP_HEAD``: with the pupil given, and with the trial's own."""
    return [f"{r:.2f}" for r in (*swap.given, *swap.own)]

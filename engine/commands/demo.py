"""Decode held-out time of two real recordings with trained models, beside linear baselines.

Nothing is downloaded and nothing is trained: the recordings and the models (three seeds per task)
are part of the package.

track: position of an animal on a linear track, from 31 tetrode units with place fields.
flash: green and UV contrast of full-field flashes, from 7 retinal ganglion cells.

Every method is scored on the same held-out samples with the same temporal support, baselines with
settings chosen on the training side. "no spikes" decodes the same windows from START and END tokens
alone: were it above 0, the model would read the answer off the clock.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__, errors
from ..recordings import read

if TYPE_CHECKING:
    from ._comparison import Comparison, Row

HELP = "decode held-out time of two real recordings; writes a report"
DATA = Path(__file__).resolve().parent.parent / "_demo"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Task:
    """A recording, the folder name of its bundles, and where else to score."""

    recording: str
    bundle: str
    also: str | None = None


TASKS = {
    "track": Task("linear_track.npz", "linear_track", also="moving"),
    "flash": Task("chromatic_flash.npz", "chromatic_flash"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite demo``."""
    add = parser.add_argument
    add("--task", choices=[*TASKS, "all"], default="all")
    add("-o", "--out", type=Path, default=Path("demo_report"), help="folder of the report")
    add("--seeds", type=int, nargs="+", default=list(SEEDS), metavar="N", help="which of 0 1 2")
    add("--executor", default="auto", help="how to run the models")
    add("--threads", type=int, help="threads on the CPU")
    add("--json", action="store_true", help="print one JSON object per line instead of the table")


def run(options: argparse.Namespace) -> int:
    """Decode, print and write the report; return the exit status."""
    from .. import report
    from . import _comparison, _demo_report

    for seed in options.seeds:
        errors.choice("seed", seed, SEEDS)
    began = time.perf_counter()
    sections, lines = [], []
    for name in TASKS if options.task == "all" else [options.task]:
        comparison = load(name, options.seeds, options.executor, options.threads)
        held = _comparison.compare(comparison)
        if not options.json:
            print(_heading(name, comparison))
            print(report.plain_table(*table(comparison, held.rows)), "\n")
        also = TASKS[name].also
        extra = _comparison.compare(comparison, also, controls=False).rows if also else []
        lines += [as_json(name, comparison, row) for row in held.rows + extra]
        sections.append(_demo_report.section(name, comparison, held, extra))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "index.html"
    _demo_report.write(path, sections)
    if options.json:
        print("\n".join(json.dumps(line) for line in lines))
    else:
        seconds = time.perf_counter() - began
        print(f"report: {path}    ({seconds:.0f} s, nothing downloaded, nothing trained)")
    return 0


def load(
    name: str, seeds: list[int], executor: str = "auto", threads: int | None = None
) -> Comparison:
    """Load the recording and the bundles of a task."""
    from ..runtime import Engine
    from ._comparison import Comparison

    task = TASKS[name]
    bundles = [DATA / f"{task.bundle}_{seed}" for seed in seeds]
    engines = [Engine(bundle, executor=executor, threads=threads) for bundle in bundles]
    return Comparison(read(DATA / task.recording), engines)


def table(comparison: Comparison, rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Return head and lines of the printed table: mean over seeds, and their range in brackets."""
    head = ["held-out R2"]
    supports = list(dict.fromkeys(row.support for row in rows))
    for support in supports:
        head += [f"{support} {column}" for column in comparison.columns]
        head.append(f"median {comparison.unit}")
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        line = [method]
        for row in (r for r in rows if r.method == method):
            line += [spread(values) for values in row.r2.T]
            line.append(spread(row.median_error, 1))
        lines.append(line)
    return head, lines


def spread(values: Any, digits: int = 2) -> str:
    """Write the mean over seeds, and the lowest and highest: ``0.74 [0.73, 0.76]``."""
    values = np.asarray(values)
    mean = f"{values.mean():.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} [{values.min():.{digits}f}, {values.max():.{digits}f}]"


def as_json(name: str, comparison: Comparison, row: Row) -> dict[str, Any]:
    """Return a line of results as JSON holds it."""
    import torch

    return {
        "suite": "demo",
        "task": name,
        "method": row.method,
        "support": row.support,
        "selection": row.selection,
        "samples": row.samples,
        "columns": comparison.columns,
        "unit": comparison.unit,
        "seeds": comparison.seeds if len(row.r2) > 1 else [],
        "r2": np.round(row.r2, 4).tolist(),
        "correlation": [
            [None if np.isnan(r) else round(r, 4) for r in each]
            for each in row.correlation.tolist()
        ],
        "median_error": np.round(row.median_error, 3).tolist(),
        "settings": row.settings,
        "test_s": [[round(a, 3), round(b, 3)] for a, b in comparison.split.intervals("test")],
        "window_s": comparison.length,
        "versions": {"attendrite": __version__, "torch": str(torch.__version__)},
    }


def _heading(name: str, comparison: Comparison) -> str:
    blocks = ", ".join(f"{a:.0f}-{b:.0f}" for a, b in comparison.split.intervals("test"))
    n = len(comparison.samples("test"))
    units = len(comparison.recording.unit_ids)
    return (
        f"{name}: {comparison.series} ({', '.join(comparison.columns)}) from {units} units; "
        f"{n} held-out samples in {blocks} s; windows of {comparison.length:g} s; "
        f"seeds {' '.join(map(str, comparison.seeds))}: mean [lowest, highest]"
    )

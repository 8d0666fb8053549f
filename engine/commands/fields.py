"""Receptive fields of an image model's units, from white noise: any number of images.

Each image of noise is shown to the model once, and responses times images are added up. DIR then
holds fields.npz (field, even, odd [U, c, h, w], standard_error [U]), units.csv (units.parquet too
where pandas can), fields.json, figures and report.html; docs/fields.md says what the columns mean.
DIR also keeps finished parts: the same command goes on where it stopped.

examples:
  attendrite fields BUNDLE --mouse A --images 1000000 -o fields
  attendrite fields BUNDLE --mouse A --images 500000 --recipe v1t -o published
  attendrite fields BUNDLE --mouse A --stimuli images.npy -o natural
  attendrite fields BUNDLE --mouse A --images 1000000 -o fields --cm-per-px 0.883
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .. import errors
from ..files import write_npz, written_whole
from . import _options, _workers
from ._tables import as_json, write_csv

if TYPE_CHECKING:
    from ..fields import Fields, FieldSums, Halves, Screen, Settings

HELP = "receptive fields of an image model's units from white noise; tables, figures, a report"
SUMMARY = "fields.json"
ARRAYS = "fields.npz"
NOISES, RECIPES = ("uniform", "binary", "gaussian"), ("default", "v1t")
LINE_S = 30.0  # between lines of progress
SHOWN = 8  # units that are printed


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite fields``."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE")
    add("-o", "--out", required=True, type=Path, metavar="DIR",
        help="folder of the run, made or continued")  # fmt: skip
    add("--mouse", required=True, metavar="NAME", help="whose neurons respond")
    shown = parser.add_argument_group("what is shown")
    add = shown.add_argument
    add("--images", type=_count, metavar="N", help="how many, 1_000_000 or 1e6 alike; needed for "
        "noise, of a file default all")  # fmt: skip
    add("--noise", choices=NOISES, default="uniform", help="default %(default)s")
    add("--seed", type=int, default=0, help="of the noise; default %(default)s")
    add("--stimuli", metavar="FILE", help="images instead of noise: .npy, [N, c, h, w], floating, "
        "standardised as the model takes them")  # fmt: skip
    add("--recipe", choices=RECIPES, default="default", help="v1t: as published with V1T, "
        "behaviour and pupil 0, no shift of the read-out, raw sums kept")  # fmt: skip
    add("--behavior", metavar="A,B,C", help="pupil dilation, its derivative and running speed, as "
        "the model takes them; default their mean in training")  # fmt: skip
    add("--pupil", metavar="X,Y", help="its centre, likewise")
    add("--cm-per-px", type=float, metavar="CM", help="of the screen, for sizes and centres in "
        "degrees; also of a finished DIR")  # fmt: skip
    add("--distance-cm", type=float, metavar="CM", help="from the eye to the screen; default 15")
    run_ = parser.add_argument_group("how it is run")
    run_.add_argument("--batch-size", type=int, metavar="N",
        help="images that the model takes at a time at most; default 64, on a GPU 512")  # fmt: skip
    run_.add_argument("--json", action="store_true", help=f"print {SUMMARY} instead of a few lines")
    _workers.add_workers(run_)
    _options.add_engine(parser)


def run(options: argparse.Namespace) -> int:
    """Show noise, add up, write and print; return the exit status."""
    from .. import fields

    out = options.out
    if out.exists() and not (out / "run.json").is_file():
        raise errors.must(str(out), "be new, or the folder of such a run", "something else")
    settings, screen = _settings(options), _screen(options)
    engine = _options.engine(options)
    job = fields.job(engine, settings)
    if not options.quiet:
        print(f"{job.stimuli.count:,} images in {job.shards} shards, "
              f"{_bytes(job.shards * job.bytes)} in {out}", file=sys.stderr)  # fmt: skip
    watched = options.shard is None
    quiet = {"quiet": options.quiet or watched}  # progress is told here, with the reliability
    results = _workers.results(argparse.Namespace(**vars(options) | quiet), job, out)
    if results is None:
        return 0
    halves = _added(job, results, out, shown=not options.quiet)
    found = fields.gathered(engine, settings, job, halves, screen)
    facts = write(out, found)
    print(json.dumps(facts, indent=1) if options.json else _said(found, out))
    return 0


def _count(text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number > 0 and number.is_integer()):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(number)


def _settings(options: argparse.Namespace) -> Settings:
    from ..fields import Settings

    return Settings(
        options.mouse,
        options.images,
        noise=options.noise,
        seed=options.seed,
        stimuli=options.stimuli,
        recipe=options.recipe,
        behavior=_numbers("--behavior", options.behavior),
        pupil=_numbers("--pupil", options.pupil),
        batch_size=options.batch_size,
    )


def _screen(options: argparse.Namespace) -> Screen | None:
    from ..fields import Screen

    scale, distance = options.cm_per_px, options.distance_cm
    if scale is None:
        if distance is not None:
            raise errors.must("--distance-cm", "come with --cm-per-px", "it alone")
        return None
    return Screen(scale) if distance is None else Screen(scale, distance)


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise errors.must(name, "be like 1.2,0,0.4", repr(text)) from None


def _added(
    job: FieldSums, results: Iterator[Mapping[str, NDArray[Any]]], folder: Path, *, shown: bool
) -> Halves:
    """Add up shards as they come; say how far it is, how fast, and how reliable fields are.

    The rate is of what is computed now: shards that were there do not count, and the clock starts
    at the first that was not.
    """
    from ..fields import Halves, statistics

    there = {path.name for path in (folder / "shards").glob("*.npz")}
    halves, began, said = Halves.none(job), time.monotonic(), -LINE_S
    read = 0  # images of shards that were there
    terminal = sys.stderr.isatty()
    for shard, result in enumerate(results):
        halves.add(result)
        now = time.monotonic()
        done = halves.even.count + halves.odd.count
        read += int(result["count"]) if f"{shard:06d}.npz" in there else 0
        if read == done:
            began = now
        last = halves.shards == job.shards
        if not shown or halves.shards % 2 or not (last or terminal or now - said >= LINE_S):
            continue
        said = now
        line = tqdm.format_meter(
            done, job.stimuli.count, now - began, unit=" images",
            unit_scale=True, initial=read, ncols=None if terminal else 0,
            postfix=f"reliability {statistics.reliability(halves):.3f}",
        )  # fmt: skip
        end = "\n" if last or not terminal else "\r"
        print(line, file=sys.stderr, flush=True, end=end)
    return halves


def write(folder: Path, found: Fields) -> dict[str, Any]:
    """Write arrays, table, facts, figures and report; return the facts."""
    from . import _fields_report

    write_npz(folder / ARRAYS, found.arrays)
    with written_whole(folder / "units.csv") as beside:
        columns = [column.tolist() for column in found.units.values()]
        write_csv(beside, found.units, zip(*columns, strict=True))
    if all(importlib.util.find_spec(package) for package in ("pandas", "pyarrow")):
        with written_whole(folder / "units.parquet") as beside:
            found.frame().to_parquet(beside, index=False)
    facts: dict[str, Any] = as_json(found.meta)
    with written_whole(folder / SUMMARY) as beside:
        beside.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _fields_report.write(folder, found)
    return facts


def _said(found: Fields, out: Path) -> str:
    """Say in a few lines what came out."""
    from ..report import plain_table

    meta, table = found.meta, found.units
    lines = [
        f"fields of {meta['units']} units from {meta['images']:,} images; "
        f"median split-half correlation {_short(meta['reliability'])}"
        + ("" if meta["linear"] is None else
           f", median share of the variance that is linear {_short(meta['linear'])}")
    ]  # fmt: skip
    lines.append(f"{int(table['significant'].sum())} of {meta['units']} units have a significant "
                 "pixel")  # fmt: skip
    order = np.argsort(-np.nan_to_num(table["split_half"], nan=-2), kind="stable")[:SHOWN]
    columns = ("split_half", "linear", "peak_z", "x0", "y0", "sigma_x", "sigma_y")
    rows = [[str(table["unit"][u]), *(_short(table[name][u]) for name in columns)] for u in order]
    lines += ["", plain_table(["unit", "split half", "linear", "peak z", *columns[3:]], rows)]
    return "\n".join([*lines, "", f"written to {out}"])


def _short(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3g}"


def _bytes(number: int) -> str:
    return f"{number / (1 << 30):.1f} GiB" if number >= 1 << 30 else f"{number / (1 << 20):.1f} MiB"

"""Remove units step by step, those first that the model attends to, and test what that does.

Units are ranked on one part of the recording and removed on another; decoding is scored after each
step, and the curve is held against null rankings. DIR then holds curves.csv, tests.csv, items.csv
(each as .parquet too where pandas can), ablate.json, figures and report.html; docs/ablate.md says
what the columns mean. DIR also keeps finished parts: the same command goes on where it stopped.

examples:
  attendrite ablate BUNDLE day1.npz --series position -o ablation
  attendrite ablate BUNDLE day1.npz --series position --order attention:lift --from top \\
      --null random:200,rate:200,count:200 --method remove --metric r2 -o ablation
  attendrite ablate BUNDLE day1.npz --series position --conditions groups:area -o areas
  attendrite ablate BUNDLE day1.npz --series position --site heads --order output -o heads
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import errors
from ..files import written_whole
from ..recordings import read
from . import _options, _workers
from ._tables import as_json, write_csv

if TYPE_CHECKING:
    from ..ablation import Ablation, Settings

HELP = "remove units or heads step by step; curves of decoding beside honest nulls, and a report"
SUMMARY = "ablate.json"
ENDS, SITES = ("top", "bottom", "keep"), ("units", "heads", "latents", "layers")
METHODS = ("remove", "silence", "shuffle_time", "mean_rate")
METRICS = ("r2", "mse", "correlation", "accuracy", "cross_entropy")
MIB = 1 << 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite ablate``."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE")
    add("recording", metavar="RECORDING")
    add("-o", "--out", required=True, type=Path, metavar="DIR",
        help="folder of the run, made or continued")  # fmt: skip
    what = parser.add_argument_group("what is decoded")
    add = what.add_argument
    add("--series", required=True, metavar="NAME", help="series of the recording that is decoded")
    add("--metric", choices=METRICS, default="r2", help="default %(default)s")
    add("--within", metavar="NAME", help="score inside these intervals of the recording only")
    add("--trials", metavar="NAME", help="intervals that are trials: windows lie in them, and "
        "they are what intervals are bootstrapped over; default blocks of time")  # fmt: skip
    add("--spacing", type=float, metavar="S", help="seconds between decoded values")
    add("--task", metavar="NAME", help="which read-out, for a model with several")
    where = parser.add_argument_group("on which time", "TIME is training, validation or test (as "
        "the bundle was trained), even or odd\n(tenths of the recording), the name of intervals of "
        "the recording, or START-STOP,... in seconds")  # fmt: skip
    add = where.add_argument
    add("--rank-on", metavar="TIME", help="default training time, else odd tenths")
    add("--eval-on", metavar="TIME", help="default test time, else even tenths")
    add("--overlap", action="store_true", help="let the two overlap; the result says so")
    removal = parser.add_argument_group("what is removed, and how")
    add = removal.add_argument
    add("--site", choices=SITES, default="units", help="default %(default)s")
    add("--order", default="attention", metavar="ORDER",
        help="attention[:sum|lift][:spikes|all][:encoder|readout], rate, effect (of each alone), "
        "output (heads, layers), list:FILE; default %(default)s")  # fmt: skip
    add("--from", choices=ENDS, default="top", dest="end",
        help="remove the most important first, the least, or keep only the most important; "
        "default %(default)s")  # fmt: skip
    add("--conditions", default="nested", metavar="KIND",
        help="nested (one after the other), single (each alone) or groups:COLUMN; "
        "default %(default)s")  # fmt: skip
    add("--method", choices=METHODS, default="remove",
        help="remove: START and END too, as if never recorded; silence: the spikes; shuffle_time: "
        "spikes at random times; mean_rate: random spikes at the mean rate; "
        "default %(default)s")  # fmt: skip
    add("--points", metavar="K,K,...", help="numbers removed (with keep: kept); default all up to "
        "50, else about 40")  # fmt: skip
    tests = parser.add_argument_group("nulls and intervals")
    add = tests.add_argument
    add("--null", metavar="NAME:R,...",
        help="random, rate (units exchanged within strata of rate), count (as many spikes, of any "
        "units), bottom, or none; default random:200,rate:200,bottom (units), "
        "random:200,bottom (others), rate:200 (groups), none (single)")  # fmt: skip
    add("--resamples", type=int, default=2000, help="for intervals; default %(default)s")
    add("--seed", type=int, default=0, help="of everything drawn; default %(default)s")
    run_ = parser.add_argument_group("how it is run")
    run_.add_argument("--memory", type=int, default=256, metavar="MIB",
        help="that conditions may take at a time in each process; default %(default)s")  # fmt: skip
    run_.add_argument("--json", action="store_true", help=f"print {SUMMARY} instead of a few lines")
    _workers.add_workers(run_)
    _options.add_fit(parser)
    _options.add_engine(parser)


def run(options: argparse.Namespace) -> int:
    """Rank, remove, test, write and print; return the exit status."""
    from .. import ablation
    from ..fit import fitted

    out = options.out
    if out.exists() and not (out / "run.json").is_file():
        raise errors.must(str(out), "be new, or the folder of such a run", "something else")
    settings = _settings(options)
    engine = _options.engine(options)
    recording = fitted(
        read(options.recording), engine.manifest, options.map, options.session, options.unknown
    )
    _options.check_task(engine, options.task)
    prepared = ablation.prepare(engine, recording, settings)
    results = _workers.results(options, ablation.job(engine, prepared), out)
    if results is None:
        return 0
    found = ablation.gathered(engine, recording, prepared, ablation.sums(results))
    facts = write(out, found)
    print(json.dumps(facts, indent=1) if options.json else _said(found, out))
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    from ..ablation import Settings, Target, read_nulls

    null = options.null
    if null is None:
        units = "random,rate,bottom" if options.site == "units" else "random,bottom"
        kind = options.conditions.partition(":")[0]
        null = {"single": "none", "groups": "rate"}.get(kind, units)
    points = None
    if options.points is not None:
        try:
            points = tuple(int(k) for k in options.points.split(","))
        except ValueError:
            raise errors.must("--points", "be like 1,2,5,10", repr(options.points)) from None
    return Settings(
        Target(
            options.series,
            options.within,
            options.spacing,
            options.task,
            None,
            options.trials,
        ),
        site=options.site,
        order=options.order,
        end=options.end,
        conditions=options.conditions,
        method=options.method,
        metric=options.metric,
        nulls=read_nulls(null),
        rank_on=options.rank_on,
        eval_on=options.eval_on,
        overlap=options.overlap,
        points=points,
        resamples=options.resamples,
        seed=options.seed,
        memory=options.memory * MIB,
    )


def write(folder: Path, found: Ablation) -> dict[str, Any]:
    """Write tables, facts, figures and report; return the facts."""
    from . import _ablate_report

    for name, table in found.tables.items():
        with written_whole(folder / f"{name}.csv") as beside:
            columns = [column.tolist() for column in table.values()]
            write_csv(beside, table, zip(*columns, strict=True))
        if all(importlib.util.find_spec(package) for package in ("pandas", "pyarrow")):
            with written_whole(folder / f"{name}.parquet") as beside:
                found.frame(name).to_parquet(beside, index=False)
    facts: dict[str, Any] = as_json(found.meta)
    with written_whole(folder / SUMMARY) as beside:
        beside.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _ablate_report.write(folder, found)
    return facts


def _said(found: Ablation, out: Path) -> str:
    """Say in a few lines what came out."""
    from ..report import plain_table

    meta, tests = found.meta, found.tables["tests"]
    choices, base = meta["choices"], meta["baseline"]
    name = choices["metric"]
    lines = [
        f"{name} {base['value'][0]:.3f} with all {meta['items']} {choices['site']}; "
        f"knowing nothing {base['constant'][0]:.3f}; gain {base['gain'][0]:.3f}"
        + _between(base["low"][0], base["high"][0])
        + ("" if base["testable"][0] else f": not testable; {base['note']}".rstrip("; "))
    ]
    if choices["overlap"]:
        lines.append("ranked on time that is evaluated on: read it with care")
    if meta["without_spikes"] is not None:
        blind = meta["without_spikes"]
        said = "reads the answer off its clock" if blind["testable"][0] else "at chance"
        lines.append(f"{name} {blind['value'][0]:.3f} without any spike: {said}")
    if found.curve is not None:
        half = found.curve.half_loss[0]
        if base["testable"][0]:
            lines.append(
                "half of the gain is "
                + ("never lost" if math.isnan(half) else f"lost from {half:.0f} removed on")
            )
        rows = [
            [tests["null"][i], f"{tests['rankings'][i]}", _short(tests["area"][i]),
             _short(tests["null_median"][i]), _short(tests["p"][i]), tests["verdict"][i]]
            for i in np.flatnonzero(tests["dimension"] == "mean")
        ]  # fmt: skip
        if rows:
            head = ["null", "rankings", "area", "null's", "p", "verdict"]
            lines += ["", plain_table(head, rows)]
    else:
        some = np.flatnonzero(tests["dimension"] == "mean")
        some = some[np.argsort(-tests["drop"][some], kind="stable")][:8]
        rows = [
            [errors.plain(str(tests["condition"][i])), f"{tests['items'][i]}",
             _short(tests["drop"][i]) + _between(tests["low"][i], tests["high"][i]),
             _short(tests["q"][i])]
            for i in some
        ]  # fmt: skip
        lines += ["", plain_table(["removed", choices["site"], f"loss of {name}", "q"], rows)]
    where = meta["evaluated_on"]
    lines += ["", f"{meta['conditions']} conditions on {where['windows']} windows in "
              f"{where['blocks']} blocks; written to {out}"]  # fmt: skip
    return "\n".join(lines)


def _short(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _between(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]"

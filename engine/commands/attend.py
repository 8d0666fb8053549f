"""Which units a model attends to in a recording, head by head, beside the same model untrained.

Windows lie side by side and never overlap. DIR then holds units.csv, heads.csv, attend.json
(choices made, nulls, versions), four figures and report.html, which needs nothing else;
docs/attend.md says what the columns mean. Attention shows what a model looks at, not what it needs.

examples:
  attendrite attend BUNDLE day1.npz -o attention
  attendrite attend BUNDLE day1.npz -o attention --trials flashes:condition --tokens all

A model of images takes the folder of a static scan for a recording, and DIR holds where the model
looks: docs/images.md.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import errors
from ..files import check_folder, folder_written_whole
from ..recordings import Recording, read
from . import _attend_images, _options
from ._tables import as_json, write_csv

if TYPE_CHECKING:
    from ..analysis import Analysis
    from ..runtime import Engine

HELP = "say which units and heads matter to a model in a recording; writes tables and a report"
CONTROLS = 3  # untrained models: one draw alone may be odd
SUMMARY = "attend.json"
SHOWN = 5


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite attend``."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE")
    add("recording", metavar="RECORDING")
    add("-o", "--out", required=True, type=Path, metavar="DIR", help="folder to make")
    add("--force", action="store_true", help="replace such a folder that is there")
    add("--start", type=float, metavar="S", help="first time; default the recording's start")
    add("--stop", type=float, metavar="S", help="last time; default the recording's stop")
    add("--within", metavar="NAME", help="windows inside these intervals of the recording only")
    add("--trials", metavar="NAME[:COLUMN]",
        help="begin windows at these intervals; COLUMN names their condition")  # fmt: skip
    add("--tokens", choices=("spikes", "all"), default="spikes",
        help="for heads, without or with START and END; default %(default)s")  # fmt: skip
    add("--rollout", choices=("mean", "max"),
        help="how the rollout fuses heads; default mean, of images max as in V1T")  # fmt: skip
    add("--tier", metavar="NAME", help="of images: which trials; default test")
    add("--null", type=int, default=1000, metavar="R", help="size of a null; default %(default)s")
    add("--seed", type=int, default=0, help="of nulls and untrained models; default %(default)s")
    add("--no-control", action="store_true", help="leave the untrained models out")
    add("--task", metavar="NAME", help="which read-out, for a model with several")
    add("--batch-size", type=int, default=16, help="windows at a time; default %(default)s")
    add("--json", action="store_true", help=f"print {SUMMARY} instead of a few lines")
    _options.add_fit(parser)
    _options.add_engine(parser)


def run(options: argparse.Namespace) -> int:
    """Analyse, write and print; return the exit status."""
    from ..analysis import Trials, attend, untrained
    from ..bundle import Bundle
    from ..fit import fitted

    _check_options(options)
    bundle = Bundle.load(options.bundle)
    if _attend_images.takes(bundle):
        return _attend_images.run(options, bundle)
    if options.tier is not None:
        raise errors.must("--tier", "come with a model of images", f"a {bundle.manifest.family}")
    engine = _options.engine(options, bundle)
    recording = fitted(
        read(options.recording), engine.manifest, options.map, options.session, options.unknown
    )
    _options.check_task(engine, options.task)
    seeds = [] if options.no_control else range(options.seed, options.seed + CONTROLS)
    found = attend(
        engine,
        recording,
        controls=[_options.engine(options, untrained(bundle, seed)) for seed in seeds],
        spans=_spans(recording, options),
        trials=None if options.trials is None else Trials.parse(options.trials),
        tokens=options.tokens,
        fuse=options.rollout or "mean",
        rounds=options.null,
        seed=options.seed,
        task=options.task,
        batch_size=options.batch_size,
        progress=True,
    )
    facts = summary(found, engine, recording)
    with folder_written_whole(options.out, replace=options.force) as folder:
        _write(folder, found, facts, recording)
    print(json.dumps(facts, indent=1) if options.json else _said(found, options.out))
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is computed."""
    what = "a folder of attend"
    check_folder(options.out, replace=options.force, mark=SUMMARY, what=what)
    for name in ("null", "batch_size"):
        value = getattr(options, name)
        if value < 1:
            raise errors.must(f"--{name.replace('_', '-')}", "be at least 1", value)
    if options.seed < 0:
        raise errors.must("--seed", "be at least 0", options.seed)


def _spans(recording: Recording, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Return the stretches of the recording that the options name."""
    start, stop = recording.domain
    start = start if options.start is None else max(start, options.start)
    stop = stop if options.stop is None else min(stop, options.stop)
    if not start < stop:
        a, b = recording.domain
        got = f"{options.start} and {options.stop}"
        raise errors.must("--start and --stop", f"hold time of the recording, {a:g}..{b:g} s", got)
    if options.within is None:
        return [(start, stop)]
    errors.choice("intervals", options.within, recording.intervals)
    where = recording.intervals[options.within]
    spans = zip(where.start.tolist(), where.stop.tolist(), strict=True)
    return [(max(a, start), min(b, stop)) for a, b in spans if min(b, stop) > max(a, start)]


def summary(found: Analysis, engine: Engine, recording: Recording) -> dict[str, Any]:
    """Return everything but the two tables, as JSON holds it; NaN is null."""
    models = [
        {
            "name": own.name,
            "reliability": own.reliability,
            "synchrony": asdict(own.synchrony),
            "specialisation": asdict(own.specialisation),
        }
        for own in (found.trained, *found.untrained)
    ]
    about = {
        "bundle": engine.manifest.name,
        "family": engine.family,
        "executor": engine.executor,
        "device": engine.device,
        "dtype": engine.dtype,
        "recording": recording.session,
        "units": len(recording.unit_ids),
    }
    facts: dict[str, Any] = as_json(about | found.meta | {"models": models})
    return facts


def _write(folder: Path, found: Analysis, facts: dict[str, Any], recording: Recording) -> None:
    from . import _attend_report

    names = list(found.units)
    write_csv(folder / "units.csv", names, zip(*found.units.values(), strict=True))
    head = list(found.heads[0])
    write_csv(folder / "heads.csv", head, ([row[name] for name in head] for row in found.heads))
    (folder / SUMMARY).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _attend_report.write(folder, found, facts, recording)


def _said(found: Analysis, out: Path) -> str:
    from ..report import plain_table

    units = found.units
    order = np.argsort(units["rank"])[:SHOWN]
    columns = ["rate_hz", "sum_spikes", "lift_spikes", "rollout_lift"]
    columns += [name for name in ("lift_spikes_untrained",) if name in units]
    rows = [
        [errors.plain(str(units["unit"][u])), *(f"{units[name][u]:.3g}" for name in columns)]
        for u in order
    ]
    own = found.trained
    halves, apart, both = own.reliability["sum_spikes"], own.specialisation, own.synchrony
    where = found.meta["windows"]
    lines = [
        plain_table(["most attended to", *columns], rows),
        "",
        f"{where['count']} windows of {where['seconds_each']:g} s; "
        f"two halves agree on the order: Spearman {halves['spearman']:.2f}",
        f"synchrony of heads {both.whole.value:.2f}; "
        f"locked: {_part(both.locked)}; residual: {_part(both.residual)}",
        f"divergence of heads {apart.divergence:.3f} nats, null {apart.null[0]:.3f}; "
        f"p apart {apart.p_apart:.3g}, p alike {apart.p_alike:.3g} ({apart.verdict}, "
        f"{apart.distinct:.3g} permutations)",
        f"written to {out}",
    ]
    return "\n".join(lines)


def _part(part: Any) -> str:
    if math.isnan(part.value):
        return str(part.verdict)
    return f"{part.value:.2f}, p {part.p:.3g} ({part.verdict})"

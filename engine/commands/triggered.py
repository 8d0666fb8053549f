"""Output-triggered averages of spikes: which units, and when, go along with what is decoded.

The recording, or Poisson spikes of the same rates, is decoded at the start of every bin, and the
spikes around each of these times are averaged with the decoded value as weight. DIR then holds
triggered.npz (average, even, odd, standard_error [output, unit, lag], lags), units.csv,
triggered.json, two figures and report.html; docs/triggered.md says what the columns mean. Of
recorded spikes the average holds the model and the animal, of Poisson spikes the model alone.

examples:
  attendrite triggered BUNDLE day1.npz -o triggered --within running
  attendrite triggered BUNDLE day1.npz -o field --input poisson --seconds 7200
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import errors
from ..files import check_folder, folder_written_whole, write_npz
from ..recordings import read
from . import _options
from ._tables import as_json, write_csv

if TYPE_CHECKING:
    from ..analysis import Triggered

HELP = "average spikes around what a decoder says, by unit and lag; tables, figures, a report"
SUMMARY = "triggered.json"
SHOWN = 8  # rows that are printed


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite triggered``."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE")
    add("recording", metavar="RECORDING")
    add("-o", "--out", required=True, type=Path, metavar="DIR", help="folder to make")
    add("--force", action="store_true", help="replace such a folder that is there")
    add("--input", choices=("recorded", "poisson"), default="recorded",
        help="which spikes the model sees: the recording's, or independent Poisson spikes of the "
        "same mean rates; default %(default)s")  # fmt: skip
    add("--seconds", type=float, metavar="S", help="of Poisson spikes; default the recording's")
    add("--seed", type=int, default=0, help="of Poisson spikes; default %(default)s")
    add("--bin", type=float, default=0.02, metavar="S", help="width of a bin; default %(default)s")
    add("--before", type=float, metavar="S", help="lags before the output; default one window")
    add("--after", type=float, metavar="S",
        help="lags after it; default one window, none with --causal")  # fmt: skip
    add("--causal", action="store_true", help="each value from a window that ends at its time")
    add("--start", type=float, metavar="S", help="first time; default the recording's start")
    add("--stop", type=float, metavar="S", help="last time; default the recording's stop")
    add("--within", metavar="NAME", help="average inside these intervals of the recording only")
    add("--task", metavar="NAME", help="which read-out, for a model with several")
    add("--batch-size", type=int, default=16, help="windows at a time; default %(default)s")
    add("--json", action="store_true", help=f"print {SUMMARY} instead of a few lines")
    add("--quiet", action="store_true", help="show no progress")
    _options.add_fit(parser)
    _options.add_engine(parser)


def run(options: argparse.Namespace) -> int:
    """Average, write and print; return the exit status."""
    from ..analysis import triggered
    from ..analysis._triggered import check_decoder
    from ..fit import fitted

    _check_options(options)
    engine = _options.engine(options)
    check_decoder(engine)
    recording = fitted(
        read(options.recording), engine.manifest, options.map, options.session, options.unknown
    )
    _options.check_task(engine, options.task)
    start, stop = recording.domain
    recording = recording.slice(
        start if options.start is None else options.start,
        stop if options.stop is None else options.stop,
    )
    found = triggered(
        engine,
        recording,
        given=options.input,
        width=options.bin,
        before=options.before,
        after=options.after,
        causal=options.causal,
        within=options.within,
        seconds=options.seconds,
        seed=options.seed,
        task=options.task,
        batch_size=options.batch_size,
        progress=not options.quiet,
    )
    about = {
        "bundle": engine.manifest.name,
        "family": engine.family,
        "executor": engine.executor,
        "device": engine.device,
        "dtype": engine.dtype,
        "recording": recording.session,
        "units": len(found.unit_ids),
        "outputs": list(found.outputs),
    }
    facts: dict[str, Any] = as_json(about | found.meta)
    with folder_written_whole(options.out, replace=options.force) as folder:
        _write(folder, found, facts)
    print(json.dumps(facts, indent=1) if options.json else _said(found, options.out))
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is computed."""
    what = "a folder of triggered"
    check_folder(options.out, replace=options.force, mark=SUMMARY, what=what)
    if options.batch_size < 1:
        raise errors.must("--batch-size", "be at least 1", options.batch_size)
    if options.seed < 0:
        raise errors.must("--seed", "be at least 0", options.seed)


def _write(folder: Path, found: Triggered, facts: dict[str, Any]) -> None:
    from . import _triggered_report

    write_npz(folder / "triggered.npz", found.arrays)
    write_csv(folder / "units.csv", found.units, zip(*found.units.values(), strict=True))
    (folder / SUMMARY).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _triggered_report.write(folder, found, facts)


def _said(found: Triggered, out: Path) -> str:
    """Say in a few lines what came out."""
    from ..report import plain_table

    table, meta = found.units, found.meta
    order = np.argsort(-np.nan_to_num(np.abs(table["peak_z"])), kind="stable")[:SHOWN]
    columns = [name for name in table if name not in ("output", "unit", "peak")]
    rows = [
        [f"{table['output'][i]} {errors.plain(str(table['unit'][i]))}",
         *(_short(table[name][i]) for name in columns)]
        for i in order
    ]  # fmt: skip
    lines = [plain_table(["output and unit", *columns], rows), ""]
    tested = int(np.isfinite(table["p_value"]).sum())
    lines.append(f"{meta['seconds']:.0f} s of {meta['input']} spikes, {meta['blocks']} blocks; "
                 + (f"{int((table['q_value'] <= 0.05).sum())} of {tested} outputs and units at "
                    f"q <= 0.05 ({meta['shifts']} shifts)" if tested
                    else f"not testable: {meta['shifts']} shifts are too few"))  # fmt: skip
    if meta["linear"] is not None:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in meta["linear"].items())
        lines.append(f"share of the variance that is linear in spikes: {shares}")
    return "\n".join([*lines, f"written to {out}"])


def _short(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"

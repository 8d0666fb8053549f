"""Say in seconds how well a recording fits a bundle, and what to do where it does not.

Exit status 0 if it fits, 2 if it does not. Rates are compared with those of the training where the
bundle knows them: more than threefold apart counts as changed, and a recording in which most units
changed does not fit.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..recordings import read

if TYPE_CHECKING:
    from ..fit import Fit

HELP = "say how well a recording fits a bundle"
DOES_NOT_FIT = 2


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite check``."""
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("recording", metavar="RECORDING")
    parser.add_argument("--map", metavar="FILE", help="CSV with columns old,new: renames units")
    parser.add_argument("--session", help="session of the bundle to use; default: the recording's")
    parser.add_argument("--json", action="store_true", help="machine-readable, nothing left out")


def run(options: argparse.Namespace) -> int:
    """Check and print; return the exit status."""
    from .. import models
    from ..bundle import Bundle
    from ..fit import check, read_map

    bundle = Bundle.load(options.bundle)
    models.check_weights(bundle)
    manifest = bundle.manifest
    recording = read(options.recording)
    if options.map is not None:
        recording = recording.rename_units(read_map(options.map))
    fit = check(manifest, recording, options.session)
    facts = {"fits": fit.fits, **asdict(fit)}
    print(json.dumps(facts, indent=1, ensure_ascii=False) if options.json else text(fit))
    return 0 if fit.fits else DOES_NOT_FIT


def text(fit: Fit) -> str:
    """Lay the result out for reading."""
    counts = ", ".join(
        f"{len(fit.units[key])} {said}"
        for key, said in (
            ("in_common", "in common"),
            ("recording", "only in the recording"),
            ("bundle", "only in the bundle"),
        )
    )
    low, high = fit.window["causal_range"]
    lines = [
        f"units     {counts}",
        f"session   {fit.session['name']}{'' if fit.session['known'] else ' (unknown)'}",
        f"window    {fit.window['sequence_length']:g} s of {fit.window['recording']:g} s recorded, "
        f"longest silence {fit.window['longest_silence']:.3g} s",
    ]
    if low <= high:
        lines.append(f"queries   {low:g} to {high:g} s from the past alone")
    if fit.rates:
        lines.append(f"rates     {fit.rates['median_ratio']:.2g} times those in training (median)")
    lines += [f"note      {note}" for note in fit.notes]
    lines += [f"problem   {reason}" for reason in fit.reasons]
    return "\n".join([*lines, "fits" if fit.fits else "does not fit"])

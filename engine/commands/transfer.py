"""Fit a read-out for a new animal on the frozen core of an image model.

The new bundle holds the old one, unchanged, and one more mouse: a place in the image, weights and a
bias for each neuron, fitted to the scan's training trials, and a shifter where the others have one.
Validation trials say when to stop; test trials are only scored. docs/images.md says how it is done.

examples:
  attendrite transfer BUNDLE --data static22846-10-16-GrayImageNet-... --mouse B -o WITH_B
  attendrite transfer BUNDLE --data SCAN --mouse B -o WITH_B --control
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..scans import Scan
    from ..transfer import Transferred

HELP = "fit a read-out for a new animal on the frozen core of an image model"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite transfer``."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE")
    add("--data", required=True, metavar="SCAN", help="folder of the animal's scan, or its .zip")
    add("--mouse", required=True, metavar="NAME", help="what to call the animal")
    add("-o", "--out", required=True, type=Path, metavar="BUNDLE", help="folder to make")
    add("--force", action="store_true", help="replace a bundle that is there")
    add("--control", action="store_true",
        help="also fit to responses shuffled among trials: takes as long again")  # fmt: skip
    add("--seed", type=int, default=0, help="default %(default)s")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--threads", type=int, help="threads on the CPU")


def run(options: argparse.Namespace) -> int:
    """Fit, write and print; return the exit status."""
    from ..scans import read_scan
    from ..transfer import transfer

    scan = read_scan(options.data)
    found = transfer(
        options.bundle,
        scan,
        options.mouse,
        options.out,
        seed=options.seed,
        control=options.control,
        force=options.force,
        device=options.device,
        threads=options.threads,
        progress=True,
    )
    print(_said(found, scan, options))
    return 0


def _said(found: Transferred, scan: Scan, options: argparse.Namespace) -> str:
    from ..report import plain_table

    fits = {"fitted": found.correlation, "responses shuffled": found.shuffled}
    rows = [
        [name, *(f"{np.nanmean(r):.3f}" for r in by_tier.values())]
        for name, by_tier in fits.items()
        if by_tier is not None
    ]
    counts = [f"{len(scan.trials(tier))} {tier}" for tier in ("train", *found.correlation)]
    lines = [
        f"{len(scan.unit_ids)} neurons of mouse {options.mouse}; trials: {', '.join(counts)}",
        plain_table(["single-trial correlation", *found.correlation], rows),
    ]
    constant = {tier: int(np.isnan(r).sum()) for tier, r in found.correlation.items()}
    if any(constant.values()):
        said = ", ".join(f"{count} in {tier}" for tier, count in constant.items() if count)
        lines.append(f"not testable, as their responses do not vary: {said}")
    return "\n".join([*lines, f"written to {options.out}"])

"""Options of commands whose work comes in shards, and what is made of them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from .. import errors, shards


def add_workers(parser: argparse._ActionsContainer) -> None:
    """Add the options that say where shards are computed."""
    add = parser.add_argument
    add(
        "--workers",
        default="local",
        metavar="WHERE",
        help="local (default), dask=ADDRESS or slurm:time=2:00:00,OPTION=VALUE,... as of sbatch",
    )
    add("--processes", type=int, metavar="N",
        help="processes of local (default: one per core), or jobs of slurm at a time")  # fmt: skip
    add("--shard", metavar="I/N",
        help="compute share I of N (from 1) and stop; without it, all are merged")  # fmt: skip
    add("--quiet", action="store_true", help="show no progress")


def results(
    options: argparse.Namespace, job: shards.Job, folder: Path
) -> Iterator[shards.Result] | None:
    """Compute the shards of a job as the options say.

    Args:
        options: With what :func:`add_workers` has added.
        job: The job.
        folder: The folder of the run, made or continued.

    Returns:
        The results of all shards in order; ``None`` when ``--shard`` was given, whose share is then
        computed and of which there is nothing to merge.
    """
    share = None if options.shard is None else parsed(options.shard)
    found = shards.run(
        job, folder, options.workers, options.processes, share, progress=not options.quiet
    )
    if share is None:
        return _said(found, folder)
    n = sum(1 for _ in _said(found, folder))
    print(f"share {options.shard}: {n} of {job.shards} shards are in {folder}; when all shares are "
          "there, the same command without --shard merges them")  # fmt: skip
    return None


def parsed(text: str) -> tuple[int, int]:
    """Parse ``I/N``.

    Raises:
        AttendriteError: Not of this form.
    """
    if not re.fullmatch(r"[0-9]+/[0-9]+", text):
        raise errors.must("--shard", "be I/N", repr(text), "for example 3/8, the third of eight")
    i, n = text.split("/")
    return int(i), int(n)


def _said(found: Iterator[shards.Result], folder: Path) -> Iterator[shards.Result]:
    try:
        yield from found
    except (KeyboardInterrupt, GeneratorExit):
        print(f"stopped; the same command goes on from the shards in {folder}", file=sys.stderr)
        raise

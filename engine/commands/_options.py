"""Options that several commands share, and what is made of them."""

from __future__ import annotations

import argparse

from .. import executors
from ..runtime import DTYPES, Engine


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a bundle is run."""
    known = ", ".join(executors.names())
    parser.add_argument("--executor", default="auto", help=f"auto or one of {known}")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="threads on the CPU")
    parser.add_argument("--dtype", default="float32", help=f"one of {', '.join(DTYPES)}")


def engine(options: argparse.Namespace) -> Engine:
    """Load the bundle that the options name, to be run as they say."""
    return Engine(
        options.bundle,
        executor=options.executor,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
    )


def add_fit(parser: argparse.ArgumentParser) -> None:
    """Add the options that fit a recording to a bundle."""
    parser.add_argument("--map", metavar="FILE", help="CSV with columns old,new: renames units")
    parser.add_argument("--session", help="session of the bundle to use; default: the recording's")
    parser.add_argument(
        "--unknown",
        choices=("error", "drop"),
        default="error",
        help="what to do with units that the bundle does not know; default %(default)s",
    )

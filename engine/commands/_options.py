"""Options that several commands share, and what is made of them."""

from __future__ import annotations

import argparse
import importlib.util
import pkgutil
from typing import TYPE_CHECKING

from .. import errors

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..runtime import Engine


def modules(room: str) -> list[str]:
    """Name the modules of a room without importing it: torch alone takes seconds."""
    spec = importlib.util.find_spec(f"..{room}", __package__)
    assert spec is not None
    found = pkgutil.iter_modules(spec.submodule_search_locations)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a bundle is run."""
    known = ", ".join(modules("executors"))
    parser.add_argument("--executor", default="auto", help=f"auto or one of {known}")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="threads on the CPU")
    parser.add_argument("--dtype", default="float32", help="float32, float64 or bfloat16")


def engine(options: argparse.Namespace, bundle: Bundle | None = None) -> Engine:
    """Load the bundle that the options name, or another one, to be run as they say."""
    from ..runtime import Engine

    return Engine(
        options.bundle if bundle is None else bundle,
        executor=options.executor,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
    )


def check_task(engine: Engine, task: str | None) -> None:
    """Refuse a task that the model does not have, and none where it has several.

    Raises:
        AttendriteError: With the names of those it has.
    """
    known = [t.name for t in engine.manifest.tasks]
    if known and task is None:
        raise errors.must("--task", "name one of " + ", ".join(known), "none")
    if task is not None:
        errors.choice("task", task, known)


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

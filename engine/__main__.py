"""The command line: one module of ``attendrite.commands`` per command.

A command module has ``HELP`` (one line), ``arguments(parser)`` and ``run(options) -> int``. It
imports torch and what needs it inside its functions, so that ``--help`` does not wait for seconds.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

from . import __version__, commands, errors

DESCRIPTION = (
    "Run trained attention models of neural populations, and see what they attend to. "
    "'attendrite COMMAND --help' says more of each command."
)
BAD_INPUT = 2
INTERRUPTED = 130


def names() -> list[str]:
    """Return the names of all commands."""
    found = (module.name for module in pkgutil.iter_modules(commands.__path__))
    return [name for name in found if not name.startswith("_")]


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    top = argparse.ArgumentParser(prog="attendrite", description=DESCRIPTION)
    top.add_argument("--version", action="version", version=f"attendrite {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in names():
        command = importlib.import_module(f"{commands.__name__}.{name}")
        sub = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(sub)
        sub.set_defaults(run=command.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 2 for bad input, 130 for Ctrl-C."""
    options = parser().parse_args(argv)
    # Threads of torch that wait for each other by spinning are many times slower than one thread as
    # soon as another process wants a core. OpenMP reads this once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return int(options.run(options) or 0)
    except (errors.AttendriteError, OSError) as error:
        print(f"attendrite {options.command}: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"attendrite {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

"""The command line: one module of ``attendrite.commands`` per command.

A command module has ``HELP`` (one line), ``arguments(parser)`` and ``run(options) -> int``.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

from . import __version__, commands, errors

BAD_INPUT = 2
INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    top = argparse.ArgumentParser(prog="attendrite", description=__import__(__package__).__doc__)
    top.add_argument("--version", action="version", version=f"attendrite {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in pkgutil.iter_modules(commands.__path__):
        if module.name.startswith("_"):
            continue
        command = importlib.import_module(f"{commands.__name__}.{module.name}")
        sub = subparsers.add_parser(
            module.name,
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

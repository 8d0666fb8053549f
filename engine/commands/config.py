"""Say where libattendrite is, for programs that run models without Python.

The folder printed holds ``include/attendrite.h``, ``lib/libattendrite.so`` and what CMake and
pkg-config need to find them. With ``--cflags`` or ``--libs``, the options of a compiler instead:

    cc decode.c $(attendrite config --cflags --libs) -lm -o decode
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import _core

HELP = "say where the C library and its header are"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite config``."""
    parser.add_argument("--cflags", action="store_true", help="options to compile with")
    parser.add_argument("--libs", action="store_true", help="options to link with")


def run(options: argparse.Namespace) -> int:
    """Print; return the exit status."""
    words = []
    if options.cflags:
        words.append(f"-I{prefix() / 'include'}")
    if options.libs:
        lib = prefix() / "lib"
        words.append(f"-L{lib} -Wl,-rpath,{lib} -lattendrite")
    print(*words or [str(prefix())])
    return 0


def prefix() -> Path:
    """Return the folder of ``include`` and ``lib``: where the core was installed."""
    return Path(_core.__file__).resolve().parent

"""Finds the reader that knows a path.

A reader is a module of this folder whose name has no leading underscore, with

* ``FORMAT: str``, what it reads, in a few words;
* ``claims(path) -> bool``, whether the path looks like its format; cheap, never raises on content;
* ``read(path, *, ...) -> Recording``, whose keyword arguments are the reader's options.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import errors
from ._recording import Recording


def readers() -> list[ModuleType]:
    """Return the reader modules of this folder, sorted by name."""
    package = importlib.import_module(__package__ or "")
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
    return [
        importlib.import_module(f"{package.__name__}.{name}")
        for name in names
        if not name.startswith("_")
    ]


def read(path: str | os.PathLike[str], **options: Any) -> Recording:
    """Read a recording of any known format.

    Args:
        path: A file or a folder.
        **options: Options of the format's reader, for example ``labels=("good", "mua")`` for a
            Kilosort folder; each reader's ``read`` documents its own.

    Returns:
        The recording. Spikes, series and intervals are loaded at first use where the format
        allows, so the files must stay in place until then.

    Raises:
        AttendriteError: Unknown format or option, a damaged file, or contents that break a rule.
        OSError: The path does not exist or cannot be read.

    Example:
        >>> recording = attendrite.read("sorting/", labels=("good", "mua"))
        >>> recording.spikes.times
        array([0.0121, 0.0147, ...])
    """
    path = Path(path)
    path.stat()  # an absent path gets the system's own words
    for reader in readers():
        if reader.claims(path):
            _check_options(reader, options)
            recording: Recording = reader.read(path, **options)
            return recording
    raise _unknown(path)


def _check_options(reader: ModuleType, options: dict[str, Any]) -> None:
    known = [
        name
        for name, parameter in inspect.signature(reader.read).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for name in options:
        errors.choice(f"option of the {reader.__name__.rpartition('.')[2]} reader", name, known)


def _unknown(path: Path) -> errors.AttendriteError:
    from ._hdf5 import describe

    known = "; ".join(reader.FORMAT for reader in readers())
    return errors.AttendriteError(
        f"{path} must be a recording of a known format, got {describe(path)}; known: {known}; "
        "for another format build one with Recording.from_trains and save it"
    )

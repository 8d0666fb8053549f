"""Files appear whole or not at all: write beside, then rename."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from . import errors


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a new name beside ``path`` to write to; on success it takes the place of ``path``.

    Raises:
        AttendriteError: The folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise errors.must(f"the folder of {path}", "exist", "none", "make it first")
    # Two machines that share a folder may have the same process ids.
    beside = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        yield beside
        beside.replace(path)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()


def check_folder(
    path: Path, *, replace: bool, mark: str | None = None, what: str = "a folder"
) -> None:
    """Refuse now what :func:`folder_written_whole` would refuse when the work is done.

    Args:
        path: The folder to make.
        replace: Whether a folder that exists may be replaced.
        mark: A file without which it may not be; ``None``: any folder may.
        what: What a folder with such a file is.

    Raises:
        AttendriteError: It may not be replaced, or its parent does not exist.
    """
    if path.exists() and not replace:
        raise errors.must(str(path), "not exist", "a file or folder", "choose another or --force")
    if path.exists() and mark is not None and not (path / mark).is_file():
        raise errors.must(str(path), f"be {what} to be replaced", "something else")
    if not path.absolute().parent.is_dir():
        raise errors.must(f"the folder of {path}", "exist", "none", "make it first")


@contextmanager
def folder_written_whole(path: str | Path, *, replace: bool) -> Iterator[Path]:
    """Give a new folder beside ``path`` to fill; on success it takes the place of ``path``.

    Args:
        path: The folder to make.
        replace: Whether a folder that exists may be replaced.

    Raises:
        AttendriteError: It exists and may not be replaced, or its parent does not exist.
    """
    path = Path(path)
    check_folder(path, replace=replace)
    beside = path.parent / f".{path.name}.{os.getpid()}.part"
    aside = path.parent / f".{path.name}.{os.getpid()}.old"
    beside.mkdir()
    try:
        yield beside
        if path.exists():
            path.rename(aside)
        beside.rename(path)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if aside.exists() and not path.exists():
            aside.rename(path)


def write_npz(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to one uncompressed ``.npz`` file, whole or not at all."""
    with written_whole(path) as beside, beside.open("wb") as file:
        np.savez(file, **dict(arrays))

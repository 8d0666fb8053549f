"""Unpacks the archive of a scan: arrays only, inside their folder only, whole or not at all."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from .. import errors
from ..files import folder_written_whole
from ..recordings._arrays import DEFLATE_RATIO, ZIP_FAULTS, first_line

ROOMS = ("data", "meta")

_OUTSIDE = re.compile(r"^[/~]|[\\\x00]|^[A-Za-z]:|(^|/)\.\.(/|$)")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack ``archive`` to ``folder``, which must not exist.

    Entries are ``data/...npy`` and ``meta/...npy``, at the top or in one folder; others are passed
    over, except that no entry may lead outside.

    Raises:
        AttendriteError: Not a whole zip file, an entry that leads outside, is there twice, is
            encrypted or claims more than its bytes can hold; or no array at all.
        OSError: The archive cannot be read or the folder not be written.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            entries = _arrays(source.infolist(), archive)
            with folder_written_whole(folder, replace=False) as beside:
                for name, entry in entries.items():
                    target = beside / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with source.open(entry) as packed, target.open("xb") as out:
                        shutil.copyfileobj(packed, out)
    except errors.AttendriteError:
        raise
    except ZIP_FAULTS as error:
        raise errors.must(
            archive.name, "be a whole .zip file", first_line(error), "copy the file again"
        ) from error


def _arrays(entries: list[zipfile.ZipInfo], archive: Path) -> dict[PurePosixPath, zipfile.ZipInfo]:
    found: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for entry in entries:
        what = f"entry {entry.filename!r} of {archive.name}"
        if _OUTSIDE.search(entry.filename):
            raise errors.must(what, "stay inside its folder", "a path that may leave it")
        parts = PurePosixPath(entry.filename).parts
        parts = parts if parts[:1] and parts[0] in ROOMS else parts[1:]
        if not parts or parts[0] not in ROOMS or parts[-1][-4:] != ".npy" or entry.is_dir():
            continue  # a name may be empty, of which is_dir knows nothing
        name = PurePosixPath(*parts)
        if name in found:
            raise errors.must(archive.name, "hold each array once", f"{name} twice")
        _check(entry, what)
        found[name] = entry
    if not found:
        raise errors.must(archive.name, "hold data/ and meta/ with .npy files", "none")
    # Entries that share bytes of the archive are how a small one grows without end.
    if sum(entry.compress_size for entry in found.values()) > archive.stat().st_size:
        raise errors.must(archive.name, "fit its entries", "entries that overlap")
    total, free = (
        sum(entry.file_size for entry in found.values()), shutil.disk_usage(archive.parent).free,
    )  # fmt: skip
    if total > free:
        raise errors.must(f"the disk of {archive.name}", f"have {total} bytes free", free)
    return found


def _check(entry: zipfile.ZipInfo, what: str) -> None:
    if entry.flag_bits & 1:
        raise errors.must(what, "not be encrypted", "an encrypted entry")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise errors.must(what, "be stored or deflated", f"zip method {entry.compress_type}")
    most = entry.compress_size * (DEFLATE_RATIO if entry.compress_type else 1) + 64
    if entry.file_size > most:
        raise errors.must(
            what, "fit the file", f"a claim of {entry.file_size} bytes", "the file is damaged"
        )

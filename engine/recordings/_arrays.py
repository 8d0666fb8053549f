"""Reads ``.npy`` data of unknown origin: nothing is executed, no claimed size is believed.

numpy's own reader allocates what a header claims before it has seen a byte of data, evaluates the
header as Python, and may unpickle. Here the header is matched against the published format
(https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html), only plain numbers,
booleans and fixed-width strings are admitted, and shape times item size must fit what is there.
"""

from __future__ import annotations

import math
import os
import re
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import errors

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 10_000  # bytes; numpy's own limit
MOST_AXES = 32
DEFLATE_RATIO = 1032  # no deflate stream expands further (zlib's technical notes)
CHUNK = 1 << 20

_DESCR = re.compile(rb"'descr'\s*:\s*'([<>|=]?[A-Za-z?][0-9]*)'")
_ORDER = re.compile(rb"'fortran_order'\s*:\s*(True|False)")
_SHAPE = re.compile(rb"'shape'\s*:\s*\(([0-9L,\s]*)\)")


class Header(NamedTuple):
    """What an ``.npy`` header says."""

    dtype: np.dtype[Any]
    fortran: bool
    shape: tuple[int, ...]
    bytes_read: int

    @property
    def nbytes(self) -> int:
        """Size of the data, bytes; a Python integer, so it cannot overflow."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes], what: str) -> Header:
    """Read and check the header of an ``.npy`` stream.

    Raises:
        AttendriteError: Not ``.npy``, damaged, or a dtype that is not plain data.
    """
    start = stream.read(8)
    if len(start) < 8 or start[:6] != MAGIC:
        raise errors.must(what, "be in .npy format", f"the first bytes {start[:6]!r}")
    if start[6] not in (1, 2, 3):
        raise errors.must(what, "be .npy version 1 to 3", start[6], "write it with numpy.save")
    size = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(size), "little")
    if length > LONGEST_HEADER:
        raise errors.must(what, f"have a header of at most {LONGEST_HEADER} bytes", length)
    text = stream.read(length)
    found = [pattern.findall(text) for pattern in (_DESCR, _ORDER, _SHAPE)]
    if len(text) < length or any(len(hits) != 1 for hits in found):
        raise errors.must(
            what,
            "hold an array of numbers or strings",
            f"the header {text[:80].decode('latin1').strip()!r}",
            "write it with numpy.save, without pickled objects",
        )
    descr, fortran, shape = (hits[0].decode() for hits in found)
    axes = tuple(int(n) for n in shape.replace("L", "").split(",") if n.strip())
    if len(axes) > MOST_AXES:
        raise errors.must(what, f"have at most {MOST_AXES} axes", len(axes))
    return Header(_plain_dtype(descr, what), fortran == "True", axes, 8 + size + length)


def _plain_dtype(descr: str, what: str) -> np.dtype[Any]:
    if descr.lstrip("<>|=")[0] not in "biufUS?":
        raise errors.must(what, "hold numbers or strings", f"dtype {descr!r}")
    try:
        return np.dtype(descr)
    except (TypeError, ValueError, OverflowError) as error:
        raise errors.must(what, "have a known dtype", repr(descr)) from error


def map_npy(path: Path) -> NDArray[Any]:
    """Map an ``.npy`` file into memory, read-only; nothing is read yet.

    Raises:
        AttendriteError: Not ``.npy``, not plain data, or shorter than its header claims.
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        header = read_header(stream, path.name)
        size = os.fstat(stream.fileno()).st_size - header.bytes_read
    if header.nbytes > size:
        raise errors.must(
            path.name, f"hold {header.nbytes} bytes of data", size, "the file is cut short"
        )
    if header.nbytes == 0:
        return np.zeros(header.shape, header.dtype)
    mapped: NDArray[Any] = np.memmap(
        path, header.dtype, "r", header.bytes_read, header.shape, "F" if header.fortran else "C"
    )
    return mapped


class ArrayFile:
    """The arrays of an ``.npz`` file, each read and checked when it is asked for.

    Args:
        path: The file.

    Raises:
        AttendriteError: Not a zip file, or damaged.
        OSError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as archive:
            entries = archive.infolist()
        self._entries = {entry.filename.removesuffix(".npy"): entry for entry in entries}
        if len(self._entries) != len(entries):
            raise errors.must(path.name, "name each array once", "a name twice")

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def names(self) -> list[str]:
        """Names of the arrays, in the order of the file."""
        return list(self._entries)

    def read(self, name: str) -> NDArray[Any]:
        """Return one array, newly allocated, in native byte order.

        Raises:
            AttendriteError: No such array, damaged, or larger than its bytes in the file can be.
            OSError: The file cannot be read.
        """
        what = f"array {name!r} of {self.path.name}"
        if name not in self._entries:
            raise errors.AttendriteError(f"{self.path.name} must hold the array {name!r}, got none")
        entry = self._entries[name]
        self._check_entry(entry, what)
        try:
            with self._open() as archive, archive.open(entry) as stream:
                array = _read_stream(stream, entry.file_size, what)
                return array.astype(array.dtype.newbyteorder("="), copy=False)
        except errors.AttendriteError:
            raise
        except ZIP_FAULTS as error:
            raise errors.must(what, "be whole", first_line(error), "copy the file again") from error

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except ZIP_FAULTS as error:
            raise errors.must(
                self.path.name, "be a whole .npz file", first_line(error), "copy the file again"
            ) from error

    def _check_entry(self, entry: zipfile.ZipInfo, what: str) -> None:
        if entry.flag_bits & 1:
            raise errors.must(what, "not be encrypted", "an encrypted entry")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise errors.must(what, "be stored or deflated", f"zip method {entry.compress_type}")
        most = entry.compress_size * (DEFLATE_RATIO if entry.compress_type else 1) + 64
        if entry.compress_size > self.path.stat().st_size or entry.file_size > most:
            raise errors.must(
                what, "fit the file", f"a claim of {entry.file_size} bytes", "the file is damaged"
            )


# What zipfile and zlib raise on damaged files, besides OSError.
ZIP_FAULTS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, NotImplementedError,
    OverflowError, RuntimeError, ValueError,
)  # fmt: skip


def _read_stream(stream: IO[bytes], size: int, what: str) -> NDArray[Any]:
    header = read_header(stream, what)
    if header.bytes_read + header.nbytes != size:
        raise errors.must(
            what, f"hold {header.nbytes} bytes of data", max(size - header.bytes_read, 0)
        )
    array = np.empty(header.shape, header.dtype, "F" if header.fortran else "C")
    # Axis order does not matter for raw bytes: the transpose of a Fortran array is contiguous.
    flat = (array.T if header.fortran else array).reshape(-1).view(np.uint8)
    filled = 0
    while filled < flat.size:
        block = stream.read(min(CHUNK, flat.size - filled))
        if not block:
            raise errors.must(what, f"hold {flat.size} bytes of data", filled, "it is cut short")
        flat[filled : filled + len(block)] = np.frombuffer(block, np.uint8)
        filled += len(block)
    if header.dtype.kind == "U" and array.size:
        highest = int(array.reshape(-1).view(header.dtype.byteorder + "u4").max())
        if highest > sys.maxunicode:  # numpy would stumble over it later
            raise errors.must(what, "hold Unicode text", f"the code point {highest:#x}")
    if header.dtype.kind == "b" and flat.size and int(flat.max()) > 1:  # True, but counted as more
        raise errors.must(what, "hold booleans", f"the byte {int(flat.max()):#x}")
    return array


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

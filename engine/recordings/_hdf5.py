"""Reads HDF5 of unknown origin through h5py: every fault becomes one worded error.

A damaged HDF5 file makes h5py raise nearly anything, and a sound one may claim a petabyte that was
never written, or point into other files. Only this module calls h5py; it reads what is stored in
the file itself, and no more bytes than the file can hold.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ._arrays import DEFLATE_RATIO, first_line

if TYPE_CHECKING:
    import h5py

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SLACK = 1 << 20  # bytes; a small array may compress better than deflate does
MOST_TEXT = 1 << 26  # bytes of fixed-width text built from strings of varying length
MOST_MEMBERS = 100_000  # names listed in one group

# What h5py raises on damaged files. AttributeError and IndexError come from its Python layer.
_FAULTS = (
    OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError,
    AttributeError, IndexError, NotImplementedError, SystemError,
)  # fmt: skip


def is_hdf5(path: Path) -> bool:
    """Say whether a file carries the HDF5 signature, at byte 0 or after a user block."""
    if not path.is_file():
        return False
    size = path.stat().st_size
    with path.open("rb") as stream:
        place = 0
        while place + len(SIGNATURE) <= size and place <= 1 << 24:
            stream.seek(place)
            if stream.read(len(SIGNATURE)) == SIGNATURE:
                return True
            place = place * 2 or 512  # where the format allows it
    return False


def describe(path: Path) -> str:
    """Say in a few words what a path of unknown format is."""
    if path.is_dir():
        names = sorted(p.name for p in path.iterdir())
        return f"a folder with {', '.join(names[:6]) or 'nothing'}" + (", ..." if names[6:] else "")
    if not path.is_file():
        return "neither a file nor a folder"
    if not is_hdf5(path):
        with path.open("rb") as stream:
            return f"a file that begins with {stream.read(8)!r}"
    try:
        with opened(path) as file:
            top = members(file)
    except errors.AttendriteError as error:
        return f"an HDF5 file that cannot be opened ({error})"
    listed = ", ".join(top[:8]) + (", ..." if top[8:] else "")
    return f"an HDF5 file of another layout, with {listed or 'nothing'} at the top"


@contextmanager
def _wording(what: str) -> Iterator[None]:
    try:
        yield
    except errors.AttendriteError:
        raise
    except (FileNotFoundError, PermissionError):
        raise
    except _FAULTS as error:
        raise errors.must(
            what, "be whole HDF5", first_line(error), "copy the file again"
        ) from error


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading and close it again.

    Raises:
        AttendriteError: h5py is not installed, or the file is damaged.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise errors.missing_package(f"reading {path.name}", "h5py", "h5") from error
    with _GuardedFile(path, "rb") as guarded:
        with _wording(path.name):
            file = h5py.File(guarded, "r")
            guarded.length_size = file.id.get_create_plist().get_sizes()[1]
        try:
            yield file
        finally:
            with _wording(path.name):
                file.close()


class _GuardedFile(io.FileIO):
    """A file whose global heaps are checked before the HDF5 library sees them.

    The library follows the objects of a heap by their sizes, and loops for ever at an object 0 of
    size 0, as a block of zeros looks (https://github.com/HDFGroup/hdf5/issues/1707, open).
    """

    length_size = 8  # bytes of a length in this file; the superblock says

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; raise ``OSError`` if it would hang the library."""
        count = super().readinto(buffer) or 0
        if count >= 16 and bytes(buffer[:4]) == b"GCOL" and self._heap_loops(bytes(buffer[:count])):
            raise OSError("a global heap with an object of no size")
        return count

    def _heap_loops(self, heap: bytes) -> bool:
        head = 8 + self.length_size  # of the heap: signature, version, size; of an object likewise
        place = head
        while place + head <= len(heap):
            size = int.from_bytes(heap[place + 8 : place + head], "little")
            free = heap[place : place + 2] == b"\0\0"  # object 0 is the free space: size with head
            if free and not size:
                return True
            place += size if free else head + -(-size // 8) * 8
        return False


def root_attribute(path: Path, name: str) -> Any:
    """Return an attribute of the root; ``None`` without it, without h5py, or in a damaged file."""
    if not is_hdf5(path):
        return None
    try:
        with opened(path) as file:
            return attribute(file, name)
    except errors.AttendriteError:
        return None


def members(group: h5py.Group) -> list[str]:
    """Return the names in a group, in its own order."""
    with _wording(_name(group)):
        names: list[str] = []
        for name in group:
            if not isinstance(name, str):  # h5py gives bytes where it cannot decode
                raise errors.must(_name(group), "name its members in UTF-8", repr(name))
            names.append(name)
            if len(names) > MOST_MEMBERS:
                raise errors.must(_name(group), f"hold at most {MOST_MEMBERS} names", "more")
        return names


def child(parent: h5py.Group, path: str) -> Any:
    """Return the group or dataset at a path below ``parent``, or ``None``.

    Raises:
        AttendriteError: It lies in another file, or is damaged.
    """
    import h5py

    with _wording(_name(parent, path)):
        found: Any = parent
        for part in path.split("/"):
            link = found.get(part, getlink=True) if is_group(found) else None
            if link is None:
                return None
            if isinstance(link, h5py.ExternalLink):
                raise errors.must(
                    _name(found, part), "be stored in the file itself", "a link to another"
                )
            if not h5py.h5o.exists_by_name(found.id, part.encode()):
                return None  # a soft link to nothing
            found = found[part]
        return found


def group(parent: h5py.Group, path: str) -> h5py.Group | None:
    """Return the group at a path below ``parent``, or ``None``."""
    found = child(parent, path)
    return found if is_group(found) else None


def is_group(thing: object) -> bool:
    """Say whether something is an HDF5 group."""
    import h5py

    return isinstance(thing, h5py.Group)


def is_dataset(thing: object) -> bool:
    """Say whether something is an HDF5 dataset."""
    import h5py

    return isinstance(thing, h5py.Dataset)


def is_table(thing: object) -> bool:
    """Say whether something is a numeric dataset of one or two axes."""
    return is_dataset(thing) and kind(thing) in "biuf" and len(shape(thing)) in (1, 2)


def attribute(thing: h5py.Group | h5py.Dataset, name: str) -> Any:
    """Return an attribute: text as ``str``, else as h5py gives it; ``None`` without it."""
    import h5py

    what = f"attribute {name!r} of {_name(thing)}"
    with _wording(what):
        if name not in thing.attrs:
            return None
        low = thing.attrs.get_id(name)
        # The library crashes where a damaged type is neither text nor a sequence.
        plain = (h5py.h5t.TypeStringID, h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID)
        if not isinstance(low.get_type(), plain):
            raise errors.must(what, "be text or a number", type(low.get_type()).__name__)
        if math.prod(low.shape or ()) * low.dtype.itemsize > SLACK:
            raise errors.must(what, f"be at most {SLACK} bytes", low.shape)
        value = thing.attrs[name]
        if isinstance(value, bytes):
            value = value.decode("utf-8")
    return value


def number(thing: h5py.Group | h5py.Dataset, name: str, default: float | None = None) -> float:
    """Return a numeric attribute.

    Raises:
        AttendriteError: It is absent and there is no default, or it is not one finite number.
    """
    value = attribute(thing, name)
    if value is None and default is not None:
        return default
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise errors.must(
            f"attribute {name!r} of {_name(thing)}", "be a finite number", repr(value)
        )
    return float(array.reshape(-1)[0])


def shape(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the shape of a dataset; ``()`` also for an empty one."""
    with _wording(_name(dataset)):
        return tuple(int(n) for n in dataset.shape or ())


def kind(dataset: h5py.Dataset) -> str:
    """Return the numpy kind of a dataset, ``"T"`` for text of varying length, ``"?"`` otherwise."""
    import h5py

    try:
        with _wording(_name(dataset)):
            text = h5py.check_string_dtype(dataset.dtype)
            return "T" if text and text.length is None else str(dataset.dtype.kind)
    except errors.AttendriteError:
        return "?"


def numbers(parent: h5py.Group, path: str, axes: int | None = None) -> NDArray[Any]:
    """Read a numeric dataset.

    Args:
        parent: Group or file.
        path: Its path below ``parent``.
        axes: Number of axes it must have; ``None`` admits any.

    Returns:
        The values in native byte order, newly allocated; booleans as bool.

    Raises:
        AttendriteError: Absent, not numeric, wrong number of axes, damaged, or not stored whole.
    """
    dataset = _dataset(parent, path)
    if kind(dataset) not in "biuf":
        raise errors.must(_name(dataset), "hold numbers", f"kind {kind(dataset)!r}")
    if axes is not None and len(shape(dataset)) != axes:
        raise errors.must(_name(dataset), f"have {axes} axes", list(shape(dataset)))
    _refuse_false_size(dataset)
    with _wording(_name(dataset)):
        values = np.asarray(dataset[()])
        return values.astype(values.dtype.newbyteorder("="), copy=False)


def vector(parent: h5py.Group, path: str) -> NDArray[np.float64]:
    """Read a numeric dataset of one axis as float64."""
    return numbers(parent, path, 1).astype(np.float64, copy=False)


def column(parent: h5py.Group, path: str) -> NDArray[Any]:
    """Read a dataset of numbers or strings; strings become a fixed-width array of ``str``."""
    dataset = _dataset(parent, path)
    which = kind(dataset)
    if which not in "ST":
        return numbers(parent, path)
    _refuse_false_size(dataset)
    with _wording(_name(dataset)):
        texts = np.asarray(dataset.asstr("utf-8")[()], dtype=object)
        flat = [str(t) for t in texts.reshape(-1)]
    longest = max(map(len, flat), default=0)
    if 4 * longest * len(flat) > max(MOST_TEXT, _file_size(dataset)):
        raise errors.must(_name(dataset), "hold short texts", f"one of {longest} characters")
    return np.array(flat, dtype=f"<U{max(longest, 1)}").reshape(texts.shape)


def strings(parent: h5py.Group, path: str) -> tuple[str, ...]:
    """Read a dataset of one axis as text; whole numbers are written out."""
    values = column(parent, path)
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        raise errors.must(
            _name(parent, path),
            "be names or whole numbers [n]",
            f"{values.dtype} {values.shape}",
        )
    return tuple(str(v) for v in values.tolist())


def _dataset(parent: h5py.Group, path: str) -> h5py.Dataset:
    found = child(parent, path)
    if not is_dataset(found):
        raise errors.must(_name(parent, path), "be a dataset", type(found).__name__)
    return found


def _refuse_false_size(dataset: h5py.Dataset) -> None:
    what = _name(dataset)
    with _wording(what):
        if dataset.shape is None or dataset.external or dataset.is_virtual:
            raise errors.must(
                what, "be stored in the file itself", "an empty, external or virtual one"
            )
        item = dataset.dtype.itemsize
        claimed = math.prod(dataset.shape) * item
        stored = int(dataset.id.get_storage_size())
        most = stored
        if dataset.chunks is not None:
            most = stored * DEFLATE_RATIO + SLACK
            claimed = max(claimed, math.prod(dataset.chunks) * item)
    if claimed > most or stored > _file_size(dataset):
        raise errors.must(
            what,
            f"hold the {claimed} bytes that it claims",
            stored,
            "the file is cut short or damaged",
        )


def _file_size(dataset: h5py.Dataset) -> int:
    with _wording(_name(dataset)):
        return int(dataset.file.id.get_filesize())


def _name(thing: Any, below: str = "") -> str:
    """What messages call an object, or the path ``below`` it."""
    try:
        name = str(thing.name or "?")
    except _FAULTS:
        name = "?"
    return f"HDF5 {name.rstrip('/')}/{below}" if below else f"HDF5 {name}"

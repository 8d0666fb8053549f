"""Reads MATLAB v5 files of unknown origin: numbers, cells and structs, every size checked first.

scipy's reader believes the sizes in a file and crashes on damaged ones, so it is not used here.
Layout: The MathWorks, "MAT-File Format" (level 5), chapter 1.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ._arrays import DEFLATE_RATIO, first_line
from ._hdf5 import is_hdf5

HEADER = 128  # bytes before the first element
DEEPEST = 16  # nested cells and structs
MOST_AXES = 32
NAME_BYTES = 4096  # of a deflated variable, enough for its flags, dimensions and name

# Types of elements: numpy's name without the byte order.
NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
MATRIX, COMPRESSED = 14, 15
# Classes of arrays. Numeric ones may be stored as a smaller type than they are.
CELL, STRUCT = 1, 2
NUMERIC = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
OPAQUE = 17
OTHERS = {
    3: "object", 4: "text", 5: "sparse matrix", 16: "function handle", OPAQUE: "opaque object"
}  # fmt: skip
COMPLEX = 0x0800


@dataclass(frozen=True)
class Cell:
    """A cell array: its elements in MATLAB's order (first axis fastest)."""

    values: list[Any]


@dataclass(frozen=True)
class Struct:
    """A struct array: field names, and the values of each element by field."""

    fields: tuple[str, ...]
    elements: list[dict[str, Any]]


@dataclass(frozen=True)
class Other:
    """A value of a kind that holds no spike times."""

    kind: str


class Element(NamedTuple):
    """A tagged stretch of bytes."""

    type: int
    data: memoryview
    next: int  # place of the element after it


class MatFile:
    """The variables of a MATLAB v5 file.

    Args:
        path: The file.

    Raises:
        AttendriteError: Another version, or damaged.
        OSError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        data = memoryview(path.read_bytes())
        text = bytes(data[:HEADER])
        if is_hdf5(path):
            todo = "save it in MATLAB with save(..., '-v7')"
            raise errors.must(path.name, "be a MATLAB v5 file", "v7.3", todo)
        if len(text) < HEADER or text[126:128] not in (b"IM", b"MI"):
            todo = "save it in MATLAB with save(..., '-v7')"
            raise errors.must(path.name, "be a MATLAB v5 file", f"{text[:12]!r}", todo)
        self._order = "<" if text[126:128] == b"IM" else ">"
        self._variables = dict(self._list(data))

    @property
    def names(self) -> list[str]:
        """Names of the variables."""
        return list(self._variables)

    def kind(self, name: str) -> int:
        """Return the class of a variable: ``CELL``, ``STRUCT``, or another number."""
        return self._variables[name][0]

    def read(self, name: str) -> Any:
        """Return a variable as array, ``Cell``, ``Struct`` or ``Other``; arrays newly allocated."""
        element = self._variables[name][1]
        return self._value(self._inflated(element), 0)

    def _list(self, data: memoryview) -> Iterator[tuple[str, tuple[int, Element]]]:
        place = HEADER
        while place < len(data):
            element = self._element(data, place)
            head = self._inflated(element, NAME_BYTES)
            if head.type == MATRIX and len(head.data):
                kind, _, name, _ = self._head(head.data)
                yield name, (kind, element)
            place = element.next

    def _element(self, data: memoryview, place: int) -> Element:
        """The element at a place; refuses one that reaches beyond its surroundings."""
        if place + 8 > len(data):
            raise self._fault("an element without its tag")
        first = self._int(data[place : place + 4])
        if first >> 16:  # up to four bytes, kept in the tag itself
            kind, size, start, after = first & 0xFFFF, first >> 16, place + 4, place + 8
            if size > 4:
                raise self._fault(f"a small element of {size} bytes")
        else:
            kind, size = first, self._int(data[place + 4 : place + 8])
            start = place + 8
            padding = 0 if kind == COMPRESSED else -size % 8
            after = start + size + padding
        if start + size > len(data):
            raise self._fault(f"an element of {size} bytes where {len(data) - start} are left")
        return Element(kind, data[start : start + size], after)

    def _inflated(self, element: Element, most: int | None = None) -> Element:
        """The element inside a deflated one: whole, or at least its first ``most`` bytes."""
        if element.type != COMPRESSED:
            return element
        try:
            stream = zlib.decompressobj()
            tag = memoryview(stream.decompress(element.data, 8))
            if len(tag) < 8:
                raise self._fault("a deflated variable without content")
            kind, size = self._int(tag[:4]), self._int(tag[4:])
            if size > len(element.data) * DEFLATE_RATIO:
                raise self._fault(f"a deflated variable that claims {size} bytes")
            wanted = size if most is None else min(size, most)
            data = stream.decompress(stream.unconsumed_tail, wanted) if wanted else b""
        except zlib.error as error:
            raise self._fault(first_line(error)) from error
        if len(data) < wanted:
            raise self._fault(f"a deflated variable of {len(data)} bytes, not {wanted}")
        return Element(kind, memoryview(data), 0)

    def _head(self, data: memoryview) -> tuple[int, tuple[int, ...], str, int]:
        """Class, dimensions and name of an array, and the place where its values begin."""
        flags = self._element(data, 0)
        if len(flags.data) < 4:
            raise self._fault("an array without flags")
        word = self._int(flags.data[:4])
        kind = word & 0xFF
        if kind == OPAQUE:  # has neither dimensions nor a name in this place
            return kind, (), f"<opaque {len(data)}>", flags.next
        sizes = self._element(data, flags.next)
        if sizes.type != 5 or len(sizes.data) % 4 or len(sizes.data) > 4 * MOST_AXES:
            raise self._fault("an array without dimensions")
        dimensions = tuple(np.frombuffer(sizes.data, self._order + "i4").tolist())
        if min(dimensions, default=0) < 0:
            raise self._fault(f"an array of shape {dimensions}")
        name = self._element(data, sizes.next)
        return kind, dimensions, bytes(name.data).decode("latin1"), name.next

    def _value(self, element: Element, depth: int) -> Any:
        if element.type != MATRIX:
            raise self._fault(f"an element of type {element.type} where an array must be")
        if depth > DEEPEST:
            raise self._fault(f"values nested more than {DEEPEST} deep")
        if not len(element.data):
            return np.zeros((0, 0))
        kind, dimensions, _, place = self._head(element.data)
        if kind == CELL:
            return Cell(list(self._values(element.data, place, math.prod(dimensions), depth)))
        if kind == STRUCT:
            return self._struct(element.data, place, math.prod(dimensions), depth)
        if not math.prod(dimensions):  # MATLAB's [] and '' are alike
            return np.zeros(dimensions)
        if kind in NUMERIC:
            return self._numbers(element.data, place, dimensions, kind)
        return Other(OTHERS.get(kind, f"value of class {kind}"))

    def _values(self, data: memoryview, place: int, count: int, depth: int) -> Iterator[Any]:
        if count * 8 > len(data) - place:  # each has a tag of 8 bytes at least
            raise self._fault(f"{count} values in {len(data) - place} bytes")
        for _ in range(count):
            element = self._element(data, place)
            yield self._value(element, depth + 1)
            place = element.next

    def _struct(self, data: memoryview, place: int, count: int, depth: int) -> Struct:
        width = self._element(data, place)
        names = self._element(data, width.next)
        length = self._int(width.data[:4]) if len(width.data) >= 4 else 0
        if not 0 < length <= 256 or len(names.data) % length:
            raise self._fault("a struct without field names")
        text = bytes(names.data)
        fields = tuple(
            text[i : i + length].partition(b"\0")[0].decode("latin1")
            for i in range(0, len(text), length)
        )
        values = list(self._values(data, names.next, count * len(fields), depth))
        rows = [values[i : i + len(fields)] for i in range(0, len(values), max(len(fields), 1))]
        return Struct(fields, [dict(zip(fields, row, strict=True)) for row in rows])

    def _numbers(
        self, data: memoryview, place: int, shape: tuple[int, ...], kind: int
    ) -> NDArray[Any] | Other:
        if self._int(self._element(data, 0).data[:4]) & COMPLEX:
            return Other("complex array")
        stored = self._element(data, place)
        dtype = np.dtype(self._order + NUMBERS.get(stored.type, "u1"))
        if stored.type not in NUMBERS or math.prod(shape) * dtype.itemsize != len(stored.data):
            raise self._fault(f"{len(stored.data)} bytes for an array of shape {shape}")
        return np.frombuffer(stored.data, dtype).astype(NUMERIC[kind]).reshape(shape, order="F")

    def _int(self, data: memoryview) -> int:
        return int.from_bytes(data, "little" if self._order == "<" else "big")

    def _fault(self, got: str) -> errors.AttendriteError:
        return errors.must(self._path.name, "be a whole MATLAB v5 file", got, "copy the file again")

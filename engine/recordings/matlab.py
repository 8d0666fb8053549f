"""Spike times in MATLAB v5 files: vectors in nested cells, or structs with a field of times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ._mat5 import CELL, STRUCT, Cell, MatFile, Other, Struct
from ._recording import Recording

FORMAT = "MATLAB file with spike times in cells or structs (.mat, version 5)"


def claims(path: Path) -> bool:
    """Say whether the path is a file with a MATLAB header, or is named ``.mat``."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(7) == b"MATLAB " or path.suffix == ".mat"


def read(
    path: Path,
    *,
    variable: str | None = None,
    field: str = "time",
    scale: float = 1.0,
    silent: bool = False,
) -> Recording:
    """Read spike times from a MATLAB file.

    Args:
        path: The file.
        variable: Variable that holds the spikes; ``None`` takes the only cell or struct.
        field: Field of a struct that holds its spike times.
        scale: Seconds per unit of the file's times, for example 0.001 for milliseconds.
        silent: Also take units without spikes; files pad their cells with empty ones, so they are
            left out unless asked for.

    Returns:
        The recording: one unit per vector of times, in MATLAB's order. Its id is its place,
        counted from 1 and joined by ``/`` (``spikes{3}{14}`` is ``"3/14"``); levels of one
        element are left out. The domain is from the first to the last spike.

    Raises:
        AttendriteError: Not MATLAB v5, damaged, no such variable, or values that are not times.
    """
    if not 0 < scale < np.inf:
        raise errors.must("scale", "be a positive number", scale)
    file = MatFile(path)
    found = list(_trains(file.read(_choose(file, variable, path)), field, ()))
    found = [(place, times) for place, times in found if silent or times.size]
    unit_ids = _ids([place for place, _ in found])
    with np.errstate(all="ignore"):  # what is not finite is refused below
        trains = {unit: times * scale for unit, (_, times) in zip(unit_ids, found, strict=True)}
    return Recording.from_trains(path.stem, trains, source=str(path))


def _choose(file: MatFile, variable: str | None, path: Path) -> str:
    if variable is not None:
        errors.choice(f"variable of {path.name}", variable, file.names)
        return variable
    nested = [name for name in file.names if file.kind(name) in (CELL, STRUCT)]
    if len(nested) != 1:
        raise errors.must(
            path.name,
            "have one cell or struct with the spikes",
            ", ".join(nested) or f"only {', '.join(file.names) or 'nothing'}",
            "choose with variable=..." if nested else "put each unit's times into a cell",
        )
    return nested[0]


Place = tuple[tuple[int, int], ...]  # (index from 1, elements at this level) per level


def _trains(value: Any, field: str, place: Place) -> Iterator[tuple[Place, NDArray[np.float64]]]:
    """Vectors of times in nested cells and structs, with their places."""
    if isinstance(value, Cell):
        inner = value.values
    elif isinstance(value, Struct):
        errors.choice("field of the struct", field, value.fields, "choose with field=...")
        inner = [element[field] for element in value.elements]
    else:
        yield place, _vector(value, place)
        return
    for i, one in enumerate(inner):
        yield from _trains(one, field, (*place, (i + 1, len(inner))))


def _vector(value: NDArray[Any] | Other, place: Place) -> NDArray[np.float64]:
    where = f"the times at {_id(place)}"
    if isinstance(value, Other):
        raise errors.must(where, "be real numbers", value.kind)
    if value.size not in (0, max(value.shape, default=1)):
        raise errors.must(where, "be a vector", f"shape {value.shape}")
    return value.ravel().astype(np.float64)


def _id(place: Place) -> str:
    return "/".join(str(i) for i, _ in place) or "1"


def _ids(places: list[Place]) -> tuple[str, ...]:
    """Places without the levels that hold one element everywhere."""
    depth = max(map(len, places), default=0)
    wide = [any(len(p) > d and p[d][1] > 1 for p in places) for d in range(depth)]
    return tuple(_id(tuple(step for d, step in enumerate(p) if wide[d])) for p in places)

"""Checks of array arguments, worded one way: ``<what> must <be>, got <value>; <what to do>``."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


def must(what: str, be: str, got: object, todo: str = "") -> ValueError:
    """Build the error ``<what> must <be>, got <got>[; <todo>]``."""
    return ValueError(f"{what} must {be}, got {got}" + (f"; {todo}" if todo else ""))


def vector(name: str, array: Any, length: int | None = None) -> NDArray[Any]:
    """Return a C-contiguous one-dimensional array; copies only what is not contiguous.

    Raises:
        ValueError: Another number of axes, or another length than ``length``.
    """
    array = np.asarray(array)
    if array.ndim != 1 or (length is not None and array.shape[0] != length):
        raise must(name, f"have shape [{'n' if length is None else length}]", list(array.shape))
    return np.ascontiguousarray(array)


def float64(name: str, array: Any, length: int | None = None) -> NDArray[np.float64]:
    """Return times as a contiguous float64 vector.

    Raises:
        TypeError: Another dtype. Times are never converted: float32 seconds cannot hold them.
        ValueError: Wrong shape.
    """
    out = vector(name, array, length)
    if out.dtype != np.float64:
        raise TypeError(f"{name} must be float64, got {out.dtype}; read them as float64")
    return out


def int32(name: str, array: Any, length: int | None = None) -> NDArray[np.int32]:
    """Return indices as a contiguous int32 vector; other integer dtypes are converted, checked.

    Raises:
        TypeError: Not integers.
        ValueError: Wrong shape, or a value that int32 cannot hold.
    """
    return _integers(name, vector(name, array, length), np.dtype(np.int32))


def int64(name: str, array: Any, length: int | None = None) -> NDArray[np.int64]:
    """Return offsets as a contiguous int64 vector; other integer dtypes are converted, checked.

    Raises:
        TypeError: Not integers.
        ValueError: Wrong shape, or a value that int64 cannot hold.
    """
    return _integers(name, vector(name, array, length), np.dtype(np.int64))


def _integers(name: str, out: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if out.dtype == dtype:
        return out
    if out.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {out.dtype}; convert them to {dtype}")
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if not np.can_cast(out.dtype, dtype):
        bad = np.flatnonzero((out < low) | (out > high))
        if bad.size:
            raise must(name, f"fit {dtype}", f"{name}[{bad[0]}] = {out[bad[0]]}")
    return out.astype(dtype)


def one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Refuse an option outside ``known``.

    Raises:
        ValueError: With the known names.
    """
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def positive(name: str, value: int | float, kind: Literal["integer", "number"] = "integer") -> None:
    """Refuse what is not a finite positive number (or integer).

    Raises:
        ValueError: Zero, negative, not finite, or a fraction where an integer must be.
    """
    whole = kind == "number" or float(value).is_integer()
    if not (math.isfinite(value) and value > 0 and whole):
        raise must(name, f"be a positive {kind}", value)


def finite_sorted(name: str, values: NDArray[np.float64], first: int = 0) -> None:
    """Refuse NaN, infinity and decreasing values.

    Args:
        name: What the user calls the array.
        values: ``[n]``, a part of that array.
        first: Index of ``values[0]`` in the user's array, for the message.

    Raises:
        ValueError: With the first bad index.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        i = int(bad[0])
        got = f"{name}[{first + i}] = {values[i]}"
        raise must(name, "be finite", got, "remove or repair them")
    bad = np.flatnonzero(values[1:] < values[:-1])
    if bad.size:
        i = int(bad[0]) + 1
        got = f"{name}[{first + i}] = {values[i]} after {values[i - 1]}"
        raise must(name, "be sorted", got, "sort them first")


def units_known(units: NDArray[np.int32], n_units: int, first: int = 0) -> None:
    """Refuse units outside ``0..n_units-1``; ``first`` as in :func:`finite_sorted`.

    Raises:
        ValueError: With the first bad index.
    """
    bad = np.flatnonzero((units < 0) | (units >= n_units))
    if bad.size:
        i = int(bad[0])
        raise must("units", f"lie in 0..{n_units - 1}", f"units[{first + i}] = {units[i]}")

"""Errors for bad input, worded one way: ``<what> must <be>, got <value>; <what to do>``.

The command line turns an :class:`AttendriteError` into exit status 2 and one line on stderr.
Kernels know arrays only and raise plain ``ValueError`` or ``TypeError`` in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class AttendriteError(ValueError):
    """Bad input: the message says what must be, what was found and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


def plain(text: str) -> str:
    """Return one printable line: names in foreign files may hold line ends and terminal codes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def must(what: str, be: str, got: object, todo: str = "") -> AttendriteError:
    """Build the one-line error ``<what> must <be>, got <got>[; <todo>]``."""
    return AttendriteError(f"{what} must {be}, got {got}" + (f"; {todo}" if todo else ""))


def shape(name: str, array: Any, expected: Sequence[int | str], todo: str = "") -> None:
    """Refuse an array whose shape differs from ``expected``.

    Args:
        name: What the array is called by the user.
        array: Anything with a ``shape``.
        expected: One entry per axis: a size, or an axis name that admits any size.
        todo: What the user can do about it.

    Raises:
        AttendriteError: Wrong number of axes, or a wrong size.
    """
    found = tuple(array.shape)
    fits = len(found) == len(expected) and all(
        isinstance(want, str) or want == have for want, have in zip(expected, found, strict=True)
    )
    if not fits:
        axes = ", ".join(str(e) for e in expected)
        raise must(name, f"have shape [{axes}]", list(found), todo)


def monotonic(name: str, values: NDArray[Any], todo: str = "sort them first") -> None:
    """Refuse values that decrease anywhere; names the first bad index.

    Args:
        name: What the values are called by the user.
        values: ``[n]``, any real dtype, finite.
        todo: What the user can do about it.

    Raises:
        AttendriteError: A value is smaller than the one before it.
    """
    bad = np.flatnonzero(np.diff(values) < 0)
    if bad.size:
        i = int(bad[0]) + 1
        raise AttendriteError(
            f"{name} must be sorted, got {name}[{i}] = {values[i]} after {values[i - 1]}; {todo}"
        )


def finite(name: str, values: NDArray[Any], todo: str = "remove or repair them") -> None:
    """Refuse NaN and infinity; names the first bad index.

    Args:
        name: What the values are called by the user.
        values: Any shape, real dtype.
        todo: What the user can do about it.

    Raises:
        AttendriteError: A value is not finite.
    """
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        where = ", ".join(str(int(i)) for i in bad[0])
        raise must(name, "be finite", f"{name}[{where}] = {values[tuple(bad[0])]}", todo)


def choice(what: str, value: object, known: Iterable[object], todo: str = "") -> None:
    """Refuse a value outside ``known``; the message lists what is known.

    Args:
        what: What is chosen, for example ``"model family"``.
        value: The value asked for.
        known: The values this install knows.
        todo: What the user can do about it.

    Raises:
        AttendriteError: ``value`` is not among ``known``.
    """
    names = list(known)
    if value not in names:
        listed = ", ".join(str(n) for n in names) or "none"
        raise AttendriteError(
            f"unknown {what} {value!r}; known: {listed}" + (f"; {todo}" if todo else "")
        )


def missing_package(user: str, package: str, extra: str) -> AttendriteError:
    """Build the error for an optional package that is not installed."""
    return AttendriteError(f"{user} needs the package {package}; pip install 'attendrite[{extra}]'")

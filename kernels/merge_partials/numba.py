"""Numba: one running sum for each row, on plain threads that the call starts and ends.

Numba's own threads are not used: they outlive the call, do not survive a fork, their number is one
for the whole process, and one of their layers must not be entered by two threads at once. The loops
let go of the GIL instead. They are compiled at the first call with a dtype, which takes seconds,
and not kept on disk, where an installation may not be writeable.
"""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Pair

PRIORITY = 10
GROWTH = 8  # the running maximum moves when it would grow by more than 2^8, as in attention.hpp
ROWS = 8  # rows that go by together at most: a result's rows are neighbours in memory
CACHED = 1 << 17  # bytes of partials that they have at most; the next rows' come beside them


def refuses(**_request: object) -> str | None:
    """Serve every request where numba is installed."""
    if importlib.util.find_spec("numba") is None:
        return "needs the package numba; pip install 'attendrite[ablation]'"
    return None


def run(
    lse: NDArray[Any],
    output: NDArray[Any],
    base: Pair | None,
    order: NDArray[np.int64],
    cuts: NDArray[np.int64],
    out: Pair,
    *,
    threads: int,
) -> None:
    """Merge; arguments as in the reference."""
    from ._loops import merge_rows  # needs numba

    n, n_units, width = output.shape
    if base is None:
        base = np.full(n, -np.inf, lse.dtype), np.zeros((1, width), lse.dtype)
    size = max(1, min(ROWS, CACHED // max(1, n_units * width * lse.itemsize)))
    edges = np.linspace(0, n, min(threads, max(1, n)) + 1).astype(int)

    def merge(i: int) -> None:
        scratch = (
            np.empty((size, n_units + 1), lse.dtype),
            np.empty((size, n_units + 1)),
            np.empty((size, width), lse.dtype),
            np.empty((2, size)),
        )
        merge_rows(
            lse, output, *base, order, cuts, *out, edges[i], edges[i + 1],
            powers(lse.dtype), GROWTH, *scratch,
        )  # fmt: skip

    if len(edges) == 2:
        merge(0)
        return
    with ThreadPoolExecutor(len(edges) - 1) as pool:
        list(pool.map(merge, range(len(edges) - 1)))


@cache
def powers(dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return 2^GROWTH, 2^(GROWTH - 1), ... to the smallest number of a dtype, then 0."""
    info = np.finfo(dtype)
    exponents = np.arange(GROWTH, info.minexp - info.nmant - 1, -1)
    return np.append(np.ldexp(dtype.type(1), exponents), dtype.type(0))

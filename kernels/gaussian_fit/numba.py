"""Numba: one sweep over the pixels for each step, on plain threads that the call starts and ends.

Why not on numba's own threads is said in ``merge_partials/numba.py``. The loops are compiled at the
first call, which takes seconds, and not kept on disk.
"""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Fits
from ._frame import finished

PRIORITY = 10
CHUNK = 64  # maps of which a copy in float64 is made at a time


def refuses(*, device: str = "cpu", **_request: object) -> str | None:
    """Serve maps in host memory where numba is installed."""
    if importlib.util.find_spec("numba") is None:
        return "needs the package numba; pip install 'attendrite[fields]'"
    return None if device == "cpu" else f"needs maps on the cpu, got {device}; use torch"


def run(
    maps: NDArray[Any],
    noise: NDArray[np.float64] | None,
    *,
    iterations: int,
    tolerance: float,
    threads: int,
) -> Fits:
    """Fit; arguments as in the reference."""
    from ._loops import fit_range  # needs numba

    size, height, width = maps.shape
    weights = None if noise is None or noise.ndim == 1 else np.ascontiguousarray(1 / noise**2)
    frames, linear = np.full((size, 5), np.nan), np.full((size, 2), np.nan)
    normal, residual = np.zeros((size, 7, 7)), np.full(size, np.nan)
    counts = np.zeros((size, 2), np.int64)
    edges = np.linspace(0, size, min(threads, size) + 1).astype(int)

    def fit(i: int) -> None:
        for first in range(edges[i], edges[i + 1], CHUNK):
            part = slice(first, min(first + CHUNK, edges[i + 1]))
            values = np.array(maps[part], np.float64, order="C")  # of one kind: compiled once
            fit_range(
                values, None if weights is None else weights[part], iterations, tolerance,
                frames[part], linear[part], normal[part], residual[part], counts[part],
            )  # fmt: skip

    if len(edges) == 2:
        fit(0)
    else:
        with ThreadPoolExecutor(len(edges) - 1) as pool:
            list(pool.map(fit, range(len(edges) - 1)))
    return Fits(*finished(frames, linear, normal, residual, counts, noise, height * width))

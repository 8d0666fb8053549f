"""Numba: one loop over blocks of pixels, images shared out to plain threads.

Why these threads, and what compiling costs: see ``merge_partials/numba.py``.
"""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from . import KINDS, words

PRIORITY = 20


def refuses(**request: object) -> str | None:
    """Serve the CPU where numba is installed."""
    if request.get("device", "cpu") != "cpu":
        return f"runs on the CPU, got {request['device']}"
    if importlib.util.find_spec("numba") is None:
        return "needs the package numba; pip install 'attendrite[fields]'"
    return None


def run(
    kind: str,
    seed: int,
    first: int,
    count: int,
    size: int,
    *,
    device: torch.device,
    threads: int,
) -> Tensor:
    """Make images; arguments as in the reference."""
    from . import _loops  # needs numba

    out = torch.empty(count, size, device=device)
    pixels, loop = out.numpy(), getattr(_loops, kind)
    key, stream = map(np.uint32, words(seed)), np.uint32(KINDS.index(kind))
    k0, k1 = key
    edges = np.linspace(0, count, min(threads, max(1, count)) + 1).astype(int).tolist()

    def make(begin: int, end: int) -> None:
        loop(pixels[begin:end], np.uint64((first + begin) % (1 << 64)), k0, k1, stream)

    if len(edges) == 2:
        make(0, count)
        return out
    with ThreadPoolExecutor(len(edges) - 1) as pool:
        list(pool.map(make, *zip(*pairwise(edges), strict=True)))
    return out

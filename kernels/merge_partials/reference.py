"""The truth: the units of each condition merged at once, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Pair

PRIORITY = 0


def refuses(**_request: object) -> None:
    """Refuse nothing."""


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
    """Merge, as :func:`attendrite.kernels.merge_partials.merge_nested` says.

    Args:
        lse: ``[N, U]``.
        output: ``[N, U, D]``.
        base: ``[N]`` and ``[N, D]``, or ``None``.
        order: ``[P, U']``.
        cuts: Of each ranking, ``[P, C]``.
        out: ``[P, C, N]`` and ``[P, C, N, D]``.
        threads: Not used here.
    """
    del threads
    for p, c in np.ndindex(cuts.shape):
        kept = order[p, : cuts[p, c]]
        lses, outputs = lse[:, kept], output[:, kept]
        if base is not None:
            lses = np.concatenate([base[0][:, None], lses], axis=1)
            outputs = np.concatenate([base[1][:, None], outputs], axis=1)
        out[0][p, c], out[1][p, c] = merged(lses.astype(float), outputs.astype(float))


def merged(lse: NDArray[np.float64], output: NDArray[np.float64]) -> Pair:
    """Merge all units: ``[N, U]`` and ``[N, U, D]`` to ``[N]`` and ``[N, D]``."""
    top = lse.max(axis=1, keepdims=True, initial=-np.inf)
    shift = np.where(top == -np.inf, 0, top)
    weights = np.exp(lse - shift)
    total = weights.sum(axis=1)
    present = np.where(lse[..., None] == -np.inf, 0, output)
    sums = (weights[..., None] * present).sum(axis=1)
    with np.errstate(divide="ignore"):
        return shift[:, 0] + np.log(total), sums / np.where(total == 0, 1, total)[:, None]

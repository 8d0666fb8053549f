"""The truth: full matrices, multiplied in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import Layer, by_unit

PRIORITY = 0


def refuses(**request: Any) -> None:
    """Refuse nothing."""
    del request


def run(
    layers: Sequence[Layer],
    *,
    fuse: str,
    rows: Tensor | None,
    units: Tensor | None,
    n_units: int,
    threads: int,
) -> Tensor:
    """See :func:`attendrite.kernels.rollout.rollout`."""
    del threads
    out: Tensor | None = None if rows is None else rows.double()
    for layer in reversed(layers):
        step = matrix(layer, fuse)
        out = step if out is None else out @ step
    assert out is not None
    if units is not None:
        out = by_unit(out, units, n_units, layers[0].arguments.get("cu_seqlens"))
    return out.to(layers[-1].q.dtype)


def matrix(layer: Layer, fuse: str) -> Tensor:
    """Return what a layer's queries take from its keys, ``[B, Q, K]``, float64."""
    weights = layer.to(torch.float64).statistic("weights", backend="reference")  # [B, H, Q, K]
    fused = weights.mean(1) if fuse == "mean" else weights.amax(1)
    if layer.residual:
        fused = fused + torch.eye(fused.shape[1], dtype=fused.dtype, device=fused.device)
    total = fused.sum(-1, keepdim=True)
    return fused / total.masked_fill(total == 0, 1)

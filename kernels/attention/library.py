"""PyTorch's scaled-dot-product attention; with statistics, blocks of queries written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import Attention, reference

PRIORITY = 10
BLOCK = 1 << 23  # scores held at a time: 32 MiB in float32


def refuses(**request: Any) -> None:
    """Refuse nothing: torch serves every device and floating dtype."""
    del request


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    statistics: frozenset[str],
    lengths: Tensor | None,
    query_weights: Tensor | None,
    query_times: Tensor | None,
    scale: float,
    **rest: Any,
) -> Attention:
    """See :func:`attendrite.kernels.attention.attention`."""
    if not statistics:
        return Attention(_plain(q, k, v, lengths, scale))
    per_query = max(1, q.shape[0] * q.shape[1] * k.shape[2])
    step = max(1, BLOCK // per_query)
    blocks = [
        reference.run(
            q[:, :, at : at + step],
            k,
            v,
            statistics=statistics,
            lengths=lengths,
            query_weights=None if query_weights is None else query_weights[..., at : at + step],
            query_times=None if query_times is None else query_times[:, at : at + step],
            scale=scale,
            **rest,
        )
        for at in range(0, max(1, q.shape[2]), step)
    ]
    return _join(blocks)


def _plain(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None, scale: float) -> Tensor:
    if lengths is None or bool((lengths == k.shape[2]).all()):
        if k.shape[2] == 0:
            return q.new_zeros(*q.shape[:3], v.shape[3])
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    exists, k, v = reference.without_padding(k, v, lengths)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=exists, scale=scale)
    return out.masked_fill(~exists.any(-1, keepdim=True), 0)  # no keys: not every kernel gives 0


def _join(blocks: list[Attention]) -> Attention:
    """Put blocks of queries together: sums over queries add, everything else lies side by side."""
    if len(blocks) == 1:
        return blocks[0]
    joined: dict[str, Tensor] = {}
    for name in blocks[0].statistics:
        parts = [block.statistics[name] for block in blocks]
        if name in ("per_key", "per_unit"):
            joined[name] = torch.stack(parts).sum(0)
        else:
            joined[name] = torch.cat(parts, 2)
    return Attention(torch.cat([block.output for block in blocks], 2), joined)

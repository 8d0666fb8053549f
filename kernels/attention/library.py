"""PyTorch's scaled-dot-product attention; with statistics, blocks of queries written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import OVER_HEADS, Attention, reference
from ._problem import Problem

PRIORITY = 10
BLOCK = 1 << 23  # scores held at a time: 32 MiB in float32


def refuses(**request: Any) -> None:
    """Refuse nothing: torch serves every device and floating dtype."""
    del request


def run(problem: Problem) -> Attention:
    """See :func:`attendrite.kernels.attention.attention`."""
    p = problem.padded()
    if not p.statistics and p.self_key is None:
        p = p.rotated()
        return Attention(p.restored(_plain(p.q, p.k, p.v, p.lengths, p.scale)))
    step = max(1, BLOCK // max(1, p.q.shape[0] * p.q.shape[1] * p.k.shape[2]))
    return _join([_block(p, at, at + step) for at in range(0, max(1, p.q.shape[2]), step)])


def _block(p: Problem, begin: int, end: int) -> Attention:
    """Attend from some of the queries."""

    def cut(x: Tensor | None, axis: int) -> Tensor | None:
        return None if x is None else x.narrow(axis, begin, min(end, x.shape[axis]) - begin)

    block = replace(
        p,
        q=p.q[:, :, begin:end],
        query_weights=cut(p.query_weights, 2),
        query_times=cut(p.query_times, 1),
        query_phase=cut(p.query_phase, 1),
        self_key=None if p.self_key is None else p.self_key + begin,
    )
    return reference.run(block)


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
            joined[name] = torch.cat(parts, 1 if name in OVER_HEADS else 2)
    return Attention(torch.cat([block.output for block in blocks], 2), joined)

"""The truth: every statistic from the full weights, in the dtype of the inputs, differentiable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import Attention
from ._problem import HALF, Problem

PRIORITY = 0
INF = float("inf")


def refuses(**request: Any) -> None:
    """Refuse nothing."""
    del request


def run(problem: Problem) -> Attention:
    """See :func:`attendrite.kernels.attention.attention`."""
    p, dtype = problem.padded(), problem.q.dtype
    if dtype in HALF:
        p = replace(p, q=p.q.float(), k=p.k.float(), v=p.v.float())
    p = p.rotated()
    statistics, n_units = p.statistics, p.n_units
    exists, k, v = without_padding(p.k, p.v, p.lengths)
    scores = (p.q @ k.transpose(2, 3) * p.scale).masked_fill(~exists, -INF)  # [B, H, Q, K]
    if p.self_key is not None:
        scores.diagonal(p.self_key, 2, 3).fill_(-INF)
    weights, lse = softmax(scores)

    found: dict[str, Tensor] = {"weights": weights, "lse": lse}
    if "weights_mean" in statistics:
        found["weights_mean"] = weights.mean(1)
    if "weights_max" in statistics:
        found["weights_max"] = weights.amax(1)
    if "per_key" in statistics:
        weighted = weights if p.query_weights is None else weights * p.query_weights[..., None]
        found["per_key"] = weighted.sum(2)
    if "entropy" in statistics:
        found["entropy"] = -(weights * torch.where(weights > 0, weights, 1).log()).sum(3)
    if "lag" in statistics and p.query_times is not None and p.key_times is not None:
        lag = p.query_times[:, None, :, None] - p.key_times[:, None, None, :]
        found["lag"] = (weights * lag.masked_fill(~exists, 0).to(weights.dtype)).sum(3)
    if "top_k" in statistics:
        found["top_k.weight"], found["top_k.key"] = largest(weights, exists, p.top_k)
    if p.units is not None and statistics & {"per_unit", "per_query_unit"}:
        slot = p.units.masked_fill(p.units < 0, n_units)[:, None, None].expand(weights.shape)
        sums = weights.new_zeros(*weights.shape[:3], n_units + 1).scatter_add(3, slot, weights)
        found["per_query_unit"] = sums = sums[..., :n_units]
        weighted = sums if p.query_weights is None else sums * p.query_weights[..., None]
        found["per_unit"] = weighted.sum(2)
    if p.units is not None and "partials" in statistics:
        shape = (*weights.shape[:3], n_units)
        found["partials.lse"] = lse.new_full(shape, -INF)
        parts = v.new_zeros(*shape, v.shape[3])
        for u in range(n_units):
            part, part_lse = softmax(scores.masked_fill(p.units[:, None, None] != u, -INF))
            found["partials.lse"][..., u] = part_lse
            parts[..., u, :] = part @ v
        found["partials.output"] = p.restored(parts)
    wanted = {name: x for name, x in found.items() if name.partition(".")[0] in statistics}
    return Attention(p.restored(weights @ v).to(dtype), wanted)


def without_padding(k: Tensor, v: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return which keys exist, ``[B|1, 1, 1, K]``, and keys and values with 0 for padding."""
    index = torch.arange(k.shape[2], device=k.device)
    if lengths is None:
        return (index >= 0)[None, None, None], k, v
    exists = index < lengths[:, None, None, None]
    return exists, k.masked_fill(~exists.mT, 0), v.masked_fill(~exists.mT, 0)  # padding may be NaN


def softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights and log-sum-exp over the last axis; a row that is all -inf has weights 0."""
    top = F.pad(scores, (0, 1), value=-INF).amax(-1, keepdim=True).detach()  # a row may be empty
    top = top.masked_fill(top == -INF, 0)
    exps = (scores - top).exp()
    total = exps.sum(-1, keepdim=True)
    return exps / total.clamp(min=torch.finfo(exps.dtype).tiny), (top + total.log())[..., 0]


def largest(weights: Tensor, exists: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest weights and their keys; equal ones in the order of keys."""
    weight, key = weights.sort(dim=-1, descending=True, stable=True)
    key = key.masked_fill(
        torch.arange(key.shape[-1], device=key.device) >= exists.sum(-1, keepdim=True), -1
    )
    missing = max(0, count - weights.shape[-1])
    return (
        F.pad(weight[..., :count], (0, missing)),
        F.pad(key[..., :count], (0, missing), value=-1),
    )

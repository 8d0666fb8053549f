"""Rows through the layers, never a matrix of all heads.

Mean over heads: rows of ``A`` sum to 1, so one row ``r`` costs one pass of ``per_key`` with query
weights ``r`` (at the last step ``per_unit``), and many rows to units one of ``per_query_unit``.
Otherwise blocks of queries: their weights over heads, normalised (the sum of a row of maxima is
known only when the row is complete), then multiplied. Where the attention itself gave the weights
over heads, nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from . import Layer, by_unit

PRIORITY = 10
BLOCK = 1 << 22  # numbers held at a time: 16 MiB in float32


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
    first, out = layers[0], rows
    for layer in layers[:0:-1]:
        out = _to_keys(layer, out, fuse, threads)
    if units is None:
        return _to_keys(first, out, fuse, threads)
    if fuse == "mean" and not first.residual:
        return _to_units(first, out, units, n_units, threads)
    keys = _to_keys(first, out, fuse, threads)
    return by_unit(keys, units, n_units, first.arguments.get("cu_seqlens"))


def _to_keys(layer: Layer, rows: Tensor | None, fuse: str, threads: int) -> Tensor:
    """Carry rows ``[B, C, Q]`` (``None``: one per query) to keys, ``[B, C, K]``."""
    if rows is None:
        blocks = _blocks(len(layer.q) * layer.n_keys, 0, layer.q.shape[2])
        parts = [_normalised(layer, begin, end, fuse, threads) for begin, end in blocks]
        return torch.cat(parts, 1)
    read = rows.ne(0).flatten(0, 1).any(0).nonzero()  # a class token reads one query alone
    first, last = (int(read.min()), int(read.max()) + 1) if len(read) else (0, 1)
    if rows.shape[1] == 1 and fuse == "mean" and layer.fused is None:
        weights = rows[:, 0, first:last].contiguous()
        sums = layer.part(first, last).statistic("per_key", query_weights=weights, threads=threads)
        return _with_residual(layer, sums.mean(1)[:, None], rows)
    out = rows.new_zeros(*rows.shape[:2], layer.n_keys)
    for begin, end in _blocks(len(layer.q) * layer.n_keys, first, last):
        fused, total = _fused(layer, begin, end, fuse, threads)
        shares = rows[:, :, begin:end] / total[:, None]
        out += shares @ fused
        if layer.residual:
            out[:, :, begin:end] += shares
    return out


def _to_units(
    layer: Layer, rows: Tensor | None, units: Tensor, n_units: int, threads: int
) -> Tensor:
    """Carry rows to units, ``[B, C, U]``; mean over heads, no residual."""
    options: dict[str, Any] = {"units": units, "n_units": n_units, "threads": threads}
    if rows is not None and rows.shape[1] == 1:
        sums = layer.statistic("per_unit", query_weights=rows[:, 0], **options)
        return sums.mean(1)[:, None]
    parts = []
    for begin, end in _blocks(layer.q.shape[:2].numel() * n_units, 0, layer.q.shape[2]):
        step = layer.part(begin, end).statistic("per_query_unit", **options).mean(1)
        parts.append(step if rows is None else rows[:, :, begin:end] @ step)
    return torch.cat(parts, 1) if rows is None else torch.stack(parts).sum(0)


def _blocks(each: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Cut queries ``first..last-1``, with so many numbers each, into blocks, one at least."""
    step = max(1, BLOCK // max(1, each))
    for begin in range(first, max(first + 1, last), step):
        yield begin, min(begin + step, last)


def _fused(layer: Layer, begin: int, end: int, fuse: str, threads: int) -> tuple[Tensor, Tensor]:
    """Return weights over heads of some queries, ``[B, end - begin, K]``, and what divides rows."""
    part = layer.part(begin, end)
    fused = part.fused
    if fused is None:
        fused = part.statistic(f"weights_{fuse}", threads=threads)
    total = fused.sum(-1)
    if layer.residual:
        return fused, total + 1
    return fused, total.masked_fill(total == 0, 1)


def _normalised(layer: Layer, begin: int, end: int, fuse: str, threads: int) -> Tensor:
    """Return some rows of a layer's matrix, ``[B, end - begin, K]``."""
    fused, total = _fused(layer, begin, end, fuse, threads)
    rows = fused / total[..., None]
    if layer.residual:
        rows.diagonal(begin, 1, 2).add_(1 / total)
    return rows


def _with_residual(layer: Layer, sums: Tensor, rows: Tensor) -> Tensor:
    """Add the identity to rows of a mean over heads, whose sums are 1 (0 without keys)."""
    if not layer.residual:
        return sums
    lengths = layer.lengths
    total = 2 if lengths is None else 1 + (lengths > 0).to(sums.dtype)[:, None, None]
    return (sums + rows) / total

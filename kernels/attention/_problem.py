"""What a backend is given: the checked arguments of a call, and plain forms of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Problem:
    """Arguments of :func:`attendrite.kernels.attention.attention`, checked.

    Attributes:
        query_weights: ``[B, H, Q]`` or ``None``.
        scale: Factor of the scores, given.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    statistics: frozenset[str]
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    rows: Tensor | None
    units: Tensor | None
    n_units: int
    query_weights: Tensor | None
    query_phase: Tensor | None
    key_phase: Tensor | None
    rotate_values: bool
    query_times: Tensor | None
    key_times: Tensor | None
    top_k: int
    scale: float
    self_key: int | None
    threads: int

    def longest(self) -> int:
        """Return ``K``: keys of a padded batch, of the longest element of a packed one."""
        if self.cu_seqlens is not None:
            return int(self.cu_seqlens.diff().max()) if len(self.cu_seqlens) > 1 else 0
        return self.k.shape[2] if self.rows is None else self.rows.shape[1]

    def padded(self) -> Problem:
        """Return the same without ``cu_seqlens`` and ``rows``: keys ``[B, H, K, D]`` written out.

        Padding holds copies of some keys.
        """
        p = self
        if p.cu_seqlens is not None:
            starts, lengths = p.cu_seqlens[:-1], p.cu_seqlens.diff()
            index = starts[:, None] + torch.arange(p.longest(), device=p.k.device)  # [B, K]
            total = p.k.shape[2] if p.rows is None else p.rows.shape[1]
            index = index.clamp(max=max(0, total - 1))

            def unpacked(x: Tensor | None) -> Tensor | None:
                return None if x is None else x[0][index]

            rows = index if p.rows is None else p.rows[0][index]
            p = replace(
                p,
                cu_seqlens=None,
                lengths=lengths,
                rows=rows,
                units=unpacked(p.units),
                key_phase=unpacked(p.key_phase),
                key_times=unpacked(p.key_times),
            )
        if p.rows is not None:
            k, v = (x[0][:, p.rows].transpose(0, 1) for x in (p.k, p.v))
            p = replace(p, k=k, v=v, rows=None)
        return p

    def rotated(self) -> Problem:
        """Return the same with queries, keys and values turned, the phase of queries kept."""
        if self.query_phase is None or self.key_phase is None:
            return self
        v = rotate(self.v, self.key_phase) if self.rotate_values else self.v
        q, k = rotate(self.q, self.query_phase), rotate(self.k, self.key_phase)
        return replace(self, q=q, k=k, v=v)

    def restored(self, output: Tensor) -> Tensor:
        """Turn an output ``[B, H, Q, ..., Dv]`` back by the phase of its query."""
        if self.query_phase is None or not self.rotate_values:
            return output
        back = torch.stack((self.query_phase[:, :, 0], -self.query_phase[:, :, 1]), 2)
        return rotate(output, back)


def rotate(x: Tensor, phase: Tensor) -> Tensor:
    """Turn the pairs ``(2i, 2i+1)`` of the first ``2F`` features of ``[B, H, N, ..., D]``."""
    turning = 2 * phase.shape[-1]
    cos, sin = phase.to(x.dtype).unbind(2)  # [B|1, N, F]
    shape = (len(cos), 1, cos.shape[1], *[1] * (x.ndim - 4), cos.shape[2])
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    even, odd = x[..., 0:turning:2], x[..., 1:turning:2]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
    return torch.cat((turned, x[..., turning:]), -1)

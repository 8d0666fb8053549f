"""Keys in the order of their units, for kernels that take a unit as a range of keys.

Softmax does not care about the order of keys. Everything stays on the device and no size depends on
values, so it can be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._problem import Problem


@dataclass(frozen=True)
class Order:
    """Keys sorted by unit within each element of a batch; units are counted from 1, 0 is none.

    Attributes:
        index: Of each sorted key in the arrays of the problem laid flat, ``[N]``, int64.
        position: The same within its element, or among all where keys are packed, ``[N]``, int32.
        offsets: Where the keys of each unit begin, counted from the first key of the element,
            ``[B, U + 2]``, int32; the last is where unit ``U`` ends.
        slot: Number of the run of keys of one unit in one tile, counted through the batch,
            ``[N]``, int32.
        n_slots: As many slots as there can be.
        n_tiles: As many tiles; those of element ``b`` begin at ``begin // tile + b``.
    """

    index: Tensor
    position: Tensor
    offsets: Tensor
    slot: Tensor
    n_slots: int
    n_tiles: int


def begins(p: Problem) -> Tensor:
    """Return where each element's keys begin in arrays ``[B, K]`` laid flat, ``[B]``, int64."""
    if p.cu_seqlens is not None:
        return p.cu_seqlens[:-1]
    return torch.arange(len(p.q), device=p.q.device) * _n_keys(p)


def elements(p: Problem) -> Tensor:
    """Return the element of the batch of each key, ``[N]``, int64."""
    index = torch.arange(_total(p), device=p.q.device)
    if p.cu_seqlens is not None:
        return torch.searchsorted(p.cu_seqlens[1:].contiguous(), index, right=True)
    return index // _n_keys(p)


def by_unit(p: Problem, tile: int) -> Order:
    """Sort the keys; those of one unit stay in their order.

    Args:
        p: With units.
        tile: Keys of a tile; an element's first tile begins at its first key.
    """
    assert p.units is not None
    labels, total = p.n_units + 2, _total(p)
    element, begin = elements(p), begins(p)
    index = torch.arange(total, device=p.q.device)
    label = p.units.reshape(-1) + 1
    if p.lengths is not None:
        label = label.where(index - begin[element] < p.lengths[element], labels - 1)
    narrow = torch.int16 if len(p.q) * labels < 1 << 15 else torch.int32  # fewer passes
    label, order = (label + element * labels).to(narrow).sort(stable=True)
    firsts = torch.arange(len(p.q) * labels, device=p.q.device).view(-1, labels).to(narrow)
    offsets = torch.searchsorted(label, firsts) - begin[:, None]
    starts = (index - begin[element]) % tile == 0
    starts[1:] |= label[1:] != label[:-1]
    return Order(
        index=order,
        position=(order if p.cu_seqlens is not None else order - begin[element]).int(),
        offsets=offsets.int(),
        slot=(starts.cumsum(0) - 1).int(),
        n_slots=min(total, len(p.q) * (labels + 1) + total // tile),
        n_tiles=total // tile + len(p.q) + 1,
    )


def _n_keys(p: Problem) -> int:
    return p.k.shape[2] if p.rows is None else p.rows.shape[1]


def _total(p: Problem) -> int:
    return _n_keys(p) * (1 if p.cu_seqlens is not None else len(p.q))

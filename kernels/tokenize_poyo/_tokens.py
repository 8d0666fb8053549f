"""What tokenization returns, and the memory it is written to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPIKE, START, END = 0, 1, 2
HUGE = 4 << 20
"""Bytes from which NumPy asks the kernel for huge pages, which writing by unit is faster with."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of ``B`` windows, packed (flat arrays) or padded (one row per window).

    Attributes:
        unit: Unit of each token, ``[n]`` or ``[B, K]``, int32; 0 on padding.
        time: Seconds from the window's origin, ``[n]`` or ``[B, K]``, float64; 0.0 on padding.
        type: 0 spike, 1 START, 2 END, ``[n]`` or ``[B, K]``, int8; 0 on padding.
        lengths: Tokens of each window without padding, ``[B]``, int64.
        cu_seqlens: ``[B+1]``, int64, cumulative ``lengths``. Packed, window ``w`` is
            ``cu_seqlens[w]:cu_seqlens[w+1]``.
        mask: False on padding, ``[B, K]``, bool; ``None`` when packed.
        unit_offsets: With ``order="unit"``, ``[B, N+1]``, int64, counted from the window's first
            token: unit ``u`` has the tokens ``unit_offsets[w, u]:unit_offsets[w, u+1]``, none when
            it does not exist in the window. ``None`` in time order.
    """

    unit: NDArray[np.int32]
    time: NDArray[np.float64]
    type: NDArray[np.int8]
    lengths: NDArray[np.int64]
    cu_seqlens: NDArray[np.int64]
    mask: NDArray[np.bool_] | None = None
    unit_offsets: NDArray[np.int64] | None = None


@dataclass
class Workspace:
    """Memory that tokenization writes to and keeps: pass it as ``out=`` to call after call.

    It grows to the largest batch seen and allocates nothing after that. The tokens of a call are
    views into it and hold until the next call.
    """

    _buffers: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    def take(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """Return a C-contiguous array, contents undefined; its memory is kept under ``name``."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            grown = size if buffer is None else size + size // 8
            item = np.dtype(dtype).itemsize
            if grown * item >= HUGE // 4:
                grown = max(grown, HUGE // item)
            buffer = self._buffers[name] = np.empty(grown, dtype)
        view = buffer[:size]
        return view if len(shape) == 1 else view.reshape(shape)


def allocate(
    lengths: NDArray[np.int64],
    n_units: int,
    *,
    order: str,
    form: str,
    pad_multiple: int,
    out: Workspace | None,
) -> Tokens:
    """Return tokens with ``lengths`` and ``cu_seqlens`` set and everything else to be written.

    Args:
        lengths: Tokens of each window, ``[B]``, int64.
        n_units: Number of units ``N``.
        order: ``"time"`` or ``"unit"``.
        form: ``"packed"`` or ``"padded"``.
        pad_multiple: Padded rows are as long as the longest window, rounded up to this.
        out: Memory to write to; ``None`` allocates.
    """
    memory = Workspace() if out is None else out
    n_windows = lengths.size
    cu_seqlens = memory.take("cu_seqlens", (n_windows + 1,), np.int64)
    cu_seqlens[0] = 0
    np.cumsum(lengths, out=cu_seqlens[1:])
    shape: tuple[int, ...] = (int(cu_seqlens[-1]),)
    if form == "padded":
        shape = (n_windows, -(-int(lengths.max(initial=0)) // pad_multiple) * pad_multiple)
    return Tokens(
        unit=memory.take("unit", shape, np.int32),
        time=memory.take("time", shape, np.float64),
        type=memory.take("type", shape, np.int8),
        lengths=lengths,
        cu_seqlens=cu_seqlens,
        mask=memory.take("mask", shape, np.bool_) if form == "padded" else None,
        unit_offsets=memory.take("unit_offsets", (n_windows, n_units + 1), np.int64)
        if order == "unit"
        else None,
    )

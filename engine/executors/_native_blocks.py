"""Blocks of a vision transformer in C++: normalisation, products and what follows them at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .. import _core
from ..models._blocks import BlockNames, block

Weights = Mapping[str, Tensor]


class NativeBlocks:
    """See :class:`attendrite.models._blocks.Blocks`; float32 on the CPU, without gradients.

    The gain and offset of a normalisation are folded into the product that follows it, in float64.

    Args:
        weights: Of the model; copied.
        n_blocks: Number of blocks.
        heads: Number of heads.
        names: Of the layers of a block.
    """

    def __init__(self, weights: Weights, n_blocks: int, heads: int, names: BlockNames) -> None:
        self._qkv, self._joined, self._feed_forward = [], [], []
        for i in range(n_blocks):
            name, after = block(i), f"{block(i)}.{names.feed_forward}"
            qkv = weights[f"{name}.{names.qkv}.weight"]
            norm = f"{name}.mha.layer_norm"
            self._qkv.append(_Rows(*_folded(weights, norm, qkv, None), normed=True))
            joined, bias = _product(weights, f"{name}.mha.projection.0")
            biases = [bias if h == 0 else torch.zeros_like(bias) for h in range(heads)]
            pairs = zip(joined.chunk(heads, 1), biases, strict=True)
            self._joined.append([_Rows(*pair) for pair in pairs])
            first = _folded(weights, f"{after}.0", *_product(weights, f"{after}.1"))
            then = _product(weights, f"{after}.4")
            self._feed_forward.append(_Rows(*first, normed=True, then=then))

    def qkv(self, i: int, x: Tensor) -> Tensor:
        """Return queries, keys and values, ``[B, N, 3 H D]``."""
        return self._qkv[i](x)

    def joined(self, i: int, x: Tensor, out: Tensor) -> Tensor:
        """Return ``x`` plus the projected outputs of the heads, ``[B, H, N, D]``."""
        total = x.clone(memory_format=torch.contiguous_format)  # written row by row
        for b, heads in enumerate(out):
            for head, rows in zip(heads, self._joined[i], strict=True):
                rows(head, residual=total[b], out=total[b])
        return total

    def feed_forward(self, i: int, x: Tensor) -> Tensor:
        """Return ``x`` plus the feed-forward part of it."""
        return self._feed_forward[i](x, residual=x)


class _Rows:
    """Normalisation, then one product or two, of each row."""

    def __init__(
        self, weight: Tensor, bias: Tensor, *, normed: bool = False,
        then: tuple[Tensor, Tensor] | None = None,
    ) -> None:  # fmt: skip
        second = None if then is None else (_array(then[0]), _array(then[1]))
        self._rows = _core.Rows(normed, _array(weight), _array(bias), second)
        self._inputs = weight.shape[1]

    def __call__(
        self, x: Tensor, *, residual: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """Return the rows of ``x [..., inputs]``, plus the residual, in ``out`` if given."""
        x = x.contiguous()
        assert x.dtype == torch.float32
        assert x.shape[-1] == self._inputs
        if out is None:
            out = x.new_empty(*x.shape[:-1], self._rows.outputs)
        width = out.shape[-1]
        added = None if residual is None else residual.contiguous()
        self._rows.run(
            x.data_ptr(), x.numel() // self._inputs, self._inputs,
            0 if added is None else added.data_ptr(), width,
            out.data_ptr(), width, torch.get_num_threads(),
        )  # fmt: skip
        return out


def _product(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias; a bias that the file lacks is 0."""
    weight = weights[f"{name}.weight"]
    bias = weights.get(f"{name}.bias")
    return weight, weight.new_zeros(len(weight)) if bias is None else bias


def _folded(
    weights: Weights, norm: str, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return a product of normalised rows with the gain and offset of the normalisation in it."""
    wide = weight.double()
    offset = wide @ weights[f"{norm}.bias"].double()
    if bias is not None:
        offset = offset + bias.double()
    return (wide * weights[f"{norm}.weight"].double()).float(), offset.float()


def _array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ascontiguousarray(tensor.detach().numpy())

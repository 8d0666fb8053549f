"""Blocks of a vision transformer: what their weights are called, and what they do to each token.

Attention is not here: it is an argument of the model's forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from torch.nn import functional as F

from ._site import Shapes
from ._vision import EPS

Weights = Mapping[str, Tensor]


class BlockNames(NamedTuple):
    """What a core calls the layers of a block.

    Attributes:
        qkv: Queries, keys and values.
        feed_forward: Normalisation, product, GELU, product.
        behavior: What behaviour adds, with one network or one for each mouse.
    """

    qkv: str
    feed_forward: str
    behavior: str


class Blocks(Protocol):
    """What a block does to each token by itself; tokens are ``[B, N, d]``."""

    def qkv(self, i: int, x: Tensor) -> Tensor:
        """Return queries, keys and values of normalised tokens, ``[B, N, 3 H D]``."""

    def joined(self, i: int, x: Tensor, out: Tensor) -> Tensor:
        """Return ``x`` plus the projected outputs of the heads, ``[B, H, N, D]``."""

    def feed_forward(self, i: int, x: Tensor) -> Tensor:
        """Return ``x`` plus the feed-forward part of it."""


class TorchBlocks:
    """The same in torch.

    Args:
        weights: Of the model.
        names: Of the layers.
    """

    def __init__(self, weights: Weights, names: BlockNames) -> None:
        self._weights, self._names = weights, names

    def qkv(self, i: int, x: Tensor) -> Tensor:
        """See :class:`Blocks`."""
        normed = normalised(self._weights, f"{block(i)}.mha.layer_norm", x)
        return linear(self._weights, f"{block(i)}.{self._names.qkv}", normed)

    def joined(self, i: int, x: Tensor, out: Tensor) -> Tensor:
        """See :class:`Blocks`."""
        joined = out.transpose(1, 2).flatten(2)
        return x + linear(self._weights, f"{block(i)}.mha.projection.0", joined)

    def feed_forward(self, i: int, x: Tensor) -> Tensor:
        """See :class:`Blocks`."""
        name = f"{block(i)}.{self._names.feed_forward}"
        normed = normalised(self._weights, f"{name}.0", x)
        return x + linear(
            self._weights, f"{name}.4", F.gelu(linear(self._weights, f"{name}.1", normed))
        )


def block(i: int) -> str:
    """Name a block among the weights."""
    return f"core.transformer.blocks.{i}"


def block_count(weights: Weights) -> int:
    """Number of blocks."""
    first = block(0)[:-1]
    return len({name[len(first) :].partition(".")[0] for name in weights if name.startswith(first)})


def normalised(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Normalise the features of ``x [..., d]``."""
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], EPS)


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Multiply ``x [..., d]`` by a weight; a bias that the file lacks is 0."""
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def block_shapes(
    i: int,
    config: Mapping[str, Any],
    names: BlockNames,
    inner: int,
    behavior: Mapping[str, int],
    *,
    biases: bool,
) -> Shapes:
    """Return the shapes of a block.

    Args:
        i: Its number.
        config: With ``emb_dim`` and ``mlp_dim``.
        names: Of its layers.
        inner: Width of all heads together.
        behavior: Of each network that reads behaviour, how many numbers it reads.
        biases: Whether its products have biases; queries, keys and values never do.
    """
    width, hidden, name = int(config["emb_dim"]), int(config["mlp_dim"]), block(i)
    out: Shapes = {f"{name}.{names.qkv}.weight": (3 * inner, width)}
    for norm in ("mha.layer_norm", f"{names.feed_forward}.0"):
        out |= {f"{name}.{norm}.{part}": (width,) for part in ("weight", "bias")}
    products = {
        "mha.projection.0": (width, inner),
        f"{names.feed_forward}.1": (hidden, width),
        f"{names.feed_forward}.4": (width, hidden),
    }
    for whose, reads in behavior.items():
        network = f"{names.behavior}.models.{whose}"
        products |= {f"{network}.0": (width // 2, reads), f"{network}.3": (width, width // 2)}
    for product, shape in products.items():
        out[f"{name}.{product}.weight"] = shape
        if biases:
            out[f"{name}.{product}.bias"] = shape[:1]
    return out

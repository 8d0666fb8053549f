"""The compact convolutional transformer among V1T's cores: how it cuts images into tokens.

Source: Hassani et al. 2021, "Escaping the Big Data Paradigm with Compact Transformers"
(arXiv:2104.05704), as in V1T's code, whose heads are narrower than there: all together they are
``emb_dim // num_heads`` wide, and scores are scaled by that width. There is no class token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from .. import errors
from ._blocks import BlockNames, block, block_count, block_shapes
from ._site import Shapes

NAMES = BlockNames("mha.qkv", "mlp", "b_mlp")
KERNEL = "core.tokenizer.conv2d.weight"
POSITIONS = "core.tokenizer.pos_embedding"
PADDING = 3  # of the convolution


def embedded(weights: Mapping[str, Tensor], images: Tensor, stride: int) -> Tensor:
    """Return the tokens of images, ``[B, N, d]``."""
    x = F.conv2d(images, weights[KERNEL], stride=stride, padding=PADDING)
    tokens = F.max_pool2d(F.relu(x), 3, stride=2, padding=1).flatten(2).transpose(1, 2)
    return tokens + weights[POSITIONS] if POSITIONS in weights else tokens


def patches(size: int, stride: int, seen: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tokens of an image of ``seen`` pixels.

    Raises:
        AttendriteError: The kernel does not fit.
    """
    rows, columns = ((n + 2 * PADDING - size) // max(1, stride) + 1 for n in seen)
    if min(rows, columns, size, stride) < 1:
        got = f"{size} with a stride of {stride}"
        raise errors.must("patches", f"fit into {list(seen)} pixels, {PADDING} around", got)
    return (rows + 1) // 2, (columns + 1) // 2  # what pooling leaves


def head_width(config: Mapping[str, Any]) -> int:
    """Width of a head.

    Raises:
        AttendriteError: Heads do not share the inner width evenly.
    """
    width, heads = int(config["emb_dim"]), int(config["num_heads"])
    inner = width // max(1, heads)
    if heads < 1 or inner < 1 or inner % heads:
        be = "evenly share emb_dim // num_heads"
        raise errors.must("num_heads of a cct core", be, f"{heads} of emb_dim {width}")
    return inner // heads


def sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the configuration.

    No two numbers of heads make heads that are as wide together: ``emb_dim // num_heads`` is at
    least ``num_heads``, by which it can be divided.

    Raises:
        AttendriteError: A weight is missing.
    """
    needed = [KERNEL, f"{block(0)}.{NAMES.qkv}.weight", f"{block(0)}.{NAMES.feed_forward}.1.weight"]
    for name in needed:
        if name not in weights:
            raise errors.must("weights of a v1t model", f"hold {name!r}", "none of that name")
    width, inner = len(weights[KERNEL]), len(weights[needed[1]]) // 3
    return {
        "core": "cct",
        "emb_dim": width,
        "num_blocks": block_count(weights),
        "num_heads": width // max(1, inner),
        "mlp_dim": len(weights[needed[2]]),
    }


def shapes(
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    channels: int,
    n_tokens: int,
    behavior: Mapping[str, int],
) -> Shapes:
    """Return the shapes of the core; its positions may be missing, they are 0 then."""
    width, size = int(config["emb_dim"]), int(config["patch_size"])
    inner = head_width(config) * int(config["num_heads"])
    out: Shapes = {KERNEL: (width, channels, size, size)}
    if POSITIONS in weights:
        out[POSITIONS] = (1, n_tokens, width)
    for i in range(int(config["num_blocks"])):
        out[f"{block(i)}.mha.scale"] = ()
        out |= block_shapes(i, config, NAMES, inner, behavior, biases=True)
    return out

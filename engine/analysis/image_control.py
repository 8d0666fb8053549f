"""The untrained vision transformer: same shape and read-outs, its core as freshly initialised.

An untrained core takes pupil and behaviour as well, and its map moves with them: what attention
shows is a finding only where these models do not show it too. Read-outs are left as they are, since
attention does not depend on them. Distributions are those of V1T's code (commit 6599bf6):

| tensor | drawn from |
|---|---|
| class token, positions | normal, sd 1 |
| linear layers of the blocks | normal, sd 0.02; bias 0 |
| patches, linear | uniform, +-1 / sqrt(in), bias too |
| patches, convolution | normal, sd sqrt(2 / in); bias uniform, +-1 / sqrt(in) |
| layer norms | weight 1, bias 0 |
| learned scales | 1 / sqrt(width) |
| shifter of images | uniform, +-1 / sqrt(in), bias too |
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..bundle import Bundle

EMBEDDING, BLOCKS = "core.patch_embedding.", "core.transformer.blocks."
SHIFTER = "image_cropper.image_shifter."
BLOCK_SD = 0.02


def untrained_core(bundle: Bundle, seed: int) -> Bundle:
    """Return the bundle with a freshly initialised core; the same seed gives the same one."""
    rng = np.random.default_rng([seed, 0x1717])
    weights = {  # sorted: files give their tensors in any order
        name: _drawn(name, old, bundle, rng) for name, old in sorted(bundle.weights.items())
    }
    manifest = replace(
        bundle.manifest,
        name=f"{bundle.manifest.name}, untrained {seed}",
        source={"untrained": seed},
        files={},
    )
    return Bundle(manifest, weights)


def _drawn(name: str, old: Tensor, bundle: Bundle, rng: np.random.Generator) -> Tensor:
    if not name.startswith((EMBEDDING, BLOCKS, SHIFTER)):
        return old
    if name.endswith(("cls_token", "pos_embedding")):
        values = rng.normal(0, 1, old.shape)
    elif name.endswith("mha.scale"):
        width = bundle.weights[f"{EMBEDDING}cls_token"].shape[-1]
        values = np.full(old.shape, width**-0.5)
    elif name.endswith((".weight", ".bias")):
        layer, _, part = name.rpartition(".")
        matrix = bundle.weights[f"{layer}.weight"]
        fan_in = math.prod(matrix.shape[1:])
        if matrix.ndim == 1:  # of a layer norm
            values = np.full(old.shape, float(part == "weight"))
        elif name.startswith(BLOCKS):
            values = rng.normal(0, BLOCK_SD, old.shape) if part == "weight" else np.zeros(old.shape)
        elif matrix.ndim == 4 and part == "weight":
            values = rng.normal(0, math.sqrt(2 / fan_in), old.shape)
        else:
            values = rng.uniform(-(fan_in**-0.5), fan_in**-0.5, old.shape)
    else:
        return old
    return torch.from_numpy(values).to(old.dtype)

"""The untrained model: the same shape and vocabularies, weights as freshly initialised.

What attention shows of a trained model is a finding only where an untrained one does not show it
too: units that fire more, or at the edges of a window, stand out without any training.

Distributions are those of torch_brain 0.1 and 0.2 (torch's own for linear layers):

| tensor | drawn from |
|---|---|
| embedding tables (``*_emb.weight``) | normal, sd 0.02; row 0 of units and sessions is 0 |
| weights of linear layers, ``[out, in]`` | uniform, +-1 / sqrt(in) |
| their biases | uniform, the same |
| layer norms | weight 1, bias 0 |
| buffers (rotary frequencies) | those of the trained model |
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .. import models
from ..bundle import Bundle

EMBEDDING_SD = 0.02
PADDED = ("unit_emb.weight", "session_emb.weight")


def untrained(bundle: Bundle, seed: int) -> Bundle:
    """Return the bundle with freshly initialised weights; the same seed gives the same ones."""
    rng = np.random.default_rng([seed, 0x1717])
    buffers = models.load(bundle.manifest.family).buffers
    weights = {  # sorted: files give their tensors in any order
        name: old if name in buffers else _drawn(name, old, bundle, rng)
        for name, old in sorted(bundle.weights.items())
    }
    manifest = replace(
        bundle.manifest,
        name=f"{bundle.manifest.name}, untrained {seed}",
        training={},
        source={"untrained": seed},
        files={},
    )
    return Bundle(manifest, weights)


def _drawn(name: str, old: Tensor, bundle: Bundle, rng: np.random.Generator) -> Tensor:
    if name.endswith("_emb.weight"):
        values = rng.normal(0, EMBEDDING_SD, old.shape)
        if name in PADDED:
            values[0] = 0
    else:
        matrix = bundle.weights[name.rpartition(".")[0] + ".weight"]
        if matrix.ndim == 1:  # of a layer norm
            values = np.full(old.shape, float(name.endswith(".weight")))
        else:
            bound = matrix.shape[1] ** -0.5
            values = rng.uniform(-bound, bound, old.shape)
    return torch.from_numpy(values).to(old.dtype)

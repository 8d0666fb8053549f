"""Models of responses to images: released ones, and random ones of the published sizes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from attendrite import Bundle, export
from attendrite.bundle import Manifest
from attendrite.models import load
from attendrite.models.v1t import NEEDS, SIZES

UNITS = {"sensorium": 7776, "v1t": 8372}


def released(path: str) -> Bundle:
    """Read a released file."""
    with tempfile.TemporaryDirectory() as folder:
        return Bundle.load(export(path, Path(folder) / "bundle"))


def sensorium(linear: bool, quick: bool) -> Bundle:
    """Make a baseline of random weights: 3 layers where it is linear, else 4."""
    units, depth, layers = (30, 4, 2) if quick else (UNITS["sensorium"], 64, 3 if linear else 4)
    sizes = {"core.features.layer0.conv.weight": (depth, 1, 9, 9), "readout.A.bias": (units,)}
    sizes |= {f"core.features.layer{i}.norm.weight": (depth,) for i in range(layers)}
    config = {"input_shape": [1, 36, 64], "linear": linear, "layers": layers}
    return drawn("sensorium", config, sizes)


def vit(quick: bool) -> Bundle:
    """Make V1T of random weights."""
    config = {**NEEDS, **SIZES, "core": "vit"}
    if quick:
        config |= {"patch_stride": 4, "emb_dim": 12, "mlp_dim": 16, "num_blocks": 2}
    return drawn("v1t", config, {"readouts.A.bias": (30 if quick else UNITS["v1t"],)})


def drawn(family: str, config: dict[str, Any], sizes: dict[str, tuple[int, ...]]) -> Bundle:
    """Draw the weights of a model with one mouse, under which attention is not uniform."""
    manifest = Manifest(family, f"{family}_random", config, {}, {"A": 1})
    shapes = load(family).shapes(manifest, {n: torch.empty(shape) for n, shape in sizes.items()})
    random, weights = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=random)
        if name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
            weights[name] = 1 + 0.1 * noise.abs()
        elif name.endswith("scale"):
            weights[name] = torch.tensor(config["emb_dim"] ** -0.5)
        else:
            inputs = max(1, noise[0].numel()) if noise.ndim > 1 else 4
            weights[name] = noise * inputs**-0.5
    return Bundle(manifest, weights)

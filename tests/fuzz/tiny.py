"""Tiny bundles of every family, made on the spot: kilobytes, with random weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from attendrite import models
from attendrite.bundle import MANIFEST, WEIGHTS, Bundle, Manifest, Task
from attendrite.errors import AttendriteError
from attendrite.exporter._ensemble import joined
from attendrite.models._perceiver import PerceiverModel

torch.set_num_threads(1)  # the threads' stacks count as memory

UNITS, SESSIONS = ("a", "b", "c"), ("one", "two")
SIZES = {
    "num_latents_per_step": 2, "dim": 8, "dim_head": 4, "depth": 1, "cross_heads": 2,
    "self_heads": 2, "sequence_length": 1.0, "latent_step": 0.5,
}  # fmt: skip
TABLES = {
    "unit_emb.weight": (len(UNITS) + 1, 8), "session_emb.weight": (len(SESSIONS) + 1, 8),
    "task_emb.weight": (4, 8), "latent_emb.weight": (2, 8), "readout.weight": (2, 8),
}  # fmt: skip
IMAGES = {
    "input_shape": [1, 12, 16], "linear": False, "layers": 2, "core": "vit", "center_crop": 1.0,
    "resize_image": False, "behavior_mode": 3, "shift_mode": 3, "patch_mode": 0, "patch_size": 4,
    "patch_stride": 4, "emb_dim": 8, "num_blocks": 1, "num_heads": 2, "mlp_dim": 8,
    "use_lsa": False,
}  # fmt: skip
CONVOLUTIONS = {
    "core.features.layer0.conv.weight": (4, 4, 3, 3), "core.features.layer0.norm.weight": (4,),
    "core.features.layer1.norm.weight": (4,), "shifter.one.mlp.0.weight": (5, 2),
    "core.transformer.blocks.0.mha.projection.0.bias": (8,),
}  # fmt: skip
PERCEIVERS = [f for f in models.families() if issubclass(models.load(f), PerceiverModel)]


def bundle(family: str) -> Bundle:
    """Return a bundle of a family."""
    if family == "ensemble":
        members = {name: _of_images(name) for name in ("sensorium", "v1t")}
        return joined(members, {}, {}, {}, "tiny ensemble", {})
    if family not in PERCEIVERS:
        return _of_images(family)
    tasks = (Task("place", 1, 2), Task("side", 3, 4, "multinomial")) if family != "poyo" else ()
    units, sessions = ({x: i + 1 for i, x in enumerate(ids)} for ids in (UNITS, SESSIONS))
    training = {"rates_hz": dict.fromkeys(units, 2.5), "seeds": [0], "session": "one"}
    blocks = {"edges": [0.0, 4.0, 8.0], "roles": ["training", "test"], "gap": 1.0, "length": 1.0}
    manifest = Manifest(
        family, f"tiny {family}", SIZES, units, sessions, tasks, {**training, "split": blocks}
    )
    tables = {name: torch.zeros(shape) for name, shape in TABLES.items()}
    chance = torch.Generator().manual_seed(0)
    shapes = models.load(family).shapes(manifest, tables)
    weights = {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}
    return Bundle(manifest, weights)


def _of_images(family: str) -> Bundle:
    """Return a model of two mice with three neurons each."""
    facts = {
        name: {"mean": [0.5] * n, "std": [2.0] * n}
        for name, n in (("behavior", 3), ("pupil_center", 2))
    }
    training = {"statistics": {"one": {"images": {"mean": 110.0, "std": 60.0}, **facts}}}
    sessions = {x: i + 1 for i, x in enumerate(SESSIONS)}
    units = {f"{mouse}/{u}": 3 * i + u + 1 for i, mouse in enumerate(SESSIONS) for u in range(3)}
    manifest = Manifest(family, f"tiny {family}", IMAGES, units, sessions, (), training)
    readout = "readouts" if family == "v1t" else "readout"
    told = CONVOLUTIONS | {f"{readout}.{mouse}.bias": (3,) for mouse in SESSIONS}
    shapes = models.load(family).shapes(manifest, {n: torch.zeros(s) for n, s in told.items()})
    chance = torch.Generator().manual_seed(0)
    weights = {name: torch.rand(shape, generator=chance) for name, shape in shapes.items()}
    return Bundle(manifest, weights)


def load(path: Path) -> Bundle:
    """Load a bundle, by right hashes if need be: it may come from someone who can count."""
    try:
        return Bundle.load(path)
    except AttendriteError as error:
        if not str(error).startswith("sha256 of"):
            raise
    table = json.loads((path / MANIFEST).read_text())
    table["files"][WEIGHTS]["sha256"] = hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()
    (path / MANIFEST).write_text(json.dumps(table))
    return Bundle.load(path)

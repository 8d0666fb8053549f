"""Bundles: the folder that an engine loads and ``attendrite inspect`` shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tiny
from attendrite import fit, models
from attendrite.commands import inspect
from attendrite.decoding import held_out
from attendrite.images import ImageBatch
from attendrite.recordings import Recording
from attendrite.runtime import Engine
from mutate import mutate_bundle as mutate

__all__ = ["mutate", "read", "seeds"]

RECORDING = Recording.from_trains("one", {"a": [1.0, 2.0], "z": [3.0]}, domain=(0.0, 8.0))


def seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    for family in models.families():
        tiny.bundle(family).save(folder / family)
    return [folder / family for family in models.families()]


def read(path: Path) -> None:
    loaded = tiny.load(path)
    facts = inspect.inspect(loaded)
    inspect.text(facts).encode()
    json.dumps(facts)
    if models.load(loaded.manifest.family).batch is not ImageBatch:
        fit.check(loaded.manifest, RECORDING)
        held_out(Engine(loaded), RECORDING)
        return
    engine = Engine(loaded)
    batch = ImageBatch(np.zeros((1, *engine.model.core_shape)), "one", cropped=True, raw=True,
                       behavior=np.ones((1, 3)), pupil=np.ones((1, 2)))  # fmt: skip
    one = engine.family != "ensemble"  # whose rollout is refused
    engine.run(batch, rollout="max" if engine.sites and one else None)

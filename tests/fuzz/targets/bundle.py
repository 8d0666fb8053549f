"""Bundles: the folder that an engine loads and ``attendrite inspect`` shows."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
from attendrite import fit, models
from attendrite.commands import inspect
from attendrite.decoding import held_out
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
    fit.check(loaded.manifest, RECORDING)
    held_out(Engine(loaded), RECORDING)

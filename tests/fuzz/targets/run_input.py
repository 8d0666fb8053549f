"""Input files of ``attendrite run``, for every family."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import tiny
from attendrite import models
from attendrite.capture import Capture
from attendrite.commands import run
from attendrite.errors import AttendriteError
from attendrite.runtime import Engine
from mutate import mutate_archive as mutate

__all__ = ["mutate", "read", "seeds"]

ENGINES = [Engine(tiny.bundle(family), threads=1) for family in models.families()]
CAPTURE = Capture({"encoder": ["per_unit", "weights"], "processor.*": "per_key"})
OF_IMAGES = Capture({"block.*": ["per_key", "entropy"]})


def seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    common = {
        "unit_ids": np.array(["c", "a"]),
        "session": np.array(["two", "one", "two"]),
        "query_times": rng.uniform(0, 1, (3, 2)),
    }
    tasks = {"query_task": np.array([["place", ""], ["side", "place"], ["", "side"]])}
    window = np.sort(rng.integers(0, 3, 20))
    spikes = {
        "times": np.sort(rng.uniform(0, 1, 20) + window) - window,
        "units": rng.integers(0, 2, 20),
        "window": window,
        "window_units": np.array([[True, True], [False, True], [True, False]]),
    }
    frames = {
        "times": np.tile(np.arange(4) / 4, (3, 1)),
        "values": rng.normal(size=(3, 4, 2)).astype(np.float32),
        "n_frames": np.array([4, 2, 0]),
    }
    np.savez(folder / "spikes.npz", **common, **spikes)
    np.savez_compressed(folder / "tasks.npz", **common, **spikes, **tasks)
    np.savez(folder / "calcium.npz", **common, **frames, **tasks)
    images = {
        "images": rng.normal(size=(3, 1, 12, 16)).astype(np.float32),
        "behavior": rng.normal(size=(3, 3)),
        "pupil": rng.normal(size=(3, 2)),
        "mouse": np.array("one"),
    }
    np.savez(folder / "images.npz", **images)
    np.savez_compressed(folder / "raw.npz", **images, raw=np.array(True))
    return sorted(folder.glob("*.npz"))


def read(path: Path) -> None:
    """Run it with the engines that take it; refuse it when none does."""
    refusals = []
    for engine in ENGINES:
        try:
            batch = engine.model.batch.from_npz(path)
            names = {site.name for site in engine.sites}
            capture = CAPTURE if "encoder" in names else OF_IMAGES if names else None
            result = engine.run(batch, capture, batch_size=2)
        except AttendriteError as error:
            refusals.append(error)
        else:
            np.savez(io.BytesIO(), **run.arrays(result))
    if len(refusals) == len(ENGINES):
        raise refusals[-1]

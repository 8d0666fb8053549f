"""attendrite's own recording files."""

from __future__ import annotations

from pathlib import Path

import attendrite.recordings
import numpy as np
from attendrite.recordings import Intervals, Recording, Series
from mutate import mutate_archive as mutate

__all__ = ["mutate", "read", "seeds"]


def seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    times = np.sort(np.random.default_rng(0).uniform(0, 2, 60))
    recording = Recording.from_trains(
        "set/one",
        {"a": times[::2], "b": times[1::2]},
        domain=(0.0, 2.0),
        series={"position": Series(times, np.stack([times, -times], 1), ("x", "y"), "px")},
        intervals={"trials": Intervals(times[:3], times[3:6], {"side": np.array(["l", "r", "l"])})},
        unit_columns={"area": np.array(["M1", "S1"])},
    )
    calcium = Recording(
        "set/two", ("a", "b"), load_spikes=lambda: recording.select([]).spikes, domain=(0.0, 2.0),
        traces=Series(times, np.stack([times, times], 1).astype(np.float32), ("a", "b")),
    )  # fmt: skip
    recording.save(folder / "plain.npz")
    recording.save(folder / "deflated.npz", compress=True)
    calcium.save(folder / "calcium.npz")
    return [folder / name for name in ("plain.npz", "deflated.npz", "calcium.npz")]


def read(path: Path) -> None:
    attendrite.recordings.read(path).summary()

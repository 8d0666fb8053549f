"""attendrite's own recording files."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import attendrite.recordings
import numpy as np
from attendrite.recordings import Intervals, Recording, Series


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


def mutate(
    data: bytes, others: Sequence[bytes], chance: random.Random, general: Callable[..., bytes]
) -> bytes:
    """Damage the archive, or one array with the checksum made right again."""
    if chance.random() < 0.4:
        return general(data, others, chance)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    name = chance.choice(list(entries))
    entries[name] = general(entries[name], list(entries.values()), chance)
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    ) as new:
        for entry, content in entries.items():
            new.writestr(entry, content)
    return out.getvalue()

"""MATLAB v5 files."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import attendrite.recordings
import numpy as np
from scipy.io import savemat

HEADER = 128  # bytes of text and version before the first element
COMPRESSED = 15  # miCOMPRESSED


def seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    trains = [np.sort(np.random.default_rng(i).uniform(0, 2, 9 + i)) for i in range(3)]
    cells = np.empty((1, 3), object)
    cells[0] = trains
    units = np.empty((1, 3), object)
    for i, train in enumerate(trains):
        units[0, i] = {"time": train[:, None], "meanrate": 1.5, "name": f"unit {i}"}
    units[0, 1] = np.zeros((1, 0))
    tetrodes = np.empty((1, 2), object)
    tetrodes[0] = [units, np.zeros((1, 0))]
    structs = np.array([(t,) for t in trains], dtype=[("time", object)])
    files = {
        "cells.mat": ({"spikes": cells, "rate": 3.0}, False),
        "nested.mat": ({"spikes": tetrodes}, False),
        "structs.mat": ({"spikes": structs, "info": "a text"}, False),
        "deflated.mat": ({"spikes": tetrodes}, True),
    }
    for name, (contents, compress) in files.items():
        savemat(folder / name, contents, do_compression=compress)
    return [folder / name for name in files]


def read(path: Path) -> None:
    attendrite.recordings.read(path).summary()


def mutate(
    data: bytes, others: Sequence[bytes], chance: random.Random, general: Callable[..., bytes]
) -> bytes:
    """Damage the file, or its contents and then deflate them."""
    if chance.random() < 0.6:
        return general(data, others, chance)
    inner = zlib.compress(general(data[HEADER:], others, chance))
    return (
        data[:HEADER] + COMPRESSED.to_bytes(4, "little") + len(inner).to_bytes(4, "little") + inner
    )

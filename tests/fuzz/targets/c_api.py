"""Bundles as a program without Python reads them: libattendrite.

It takes what the Python engine takes, and runs what it takes.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import tiny
from attendrite.bundle import MANIFEST, WEIGHTS
from attendrite.errors import AttendriteError
from attendrite.runtime import Engine
from c_library import (
    BAD_INPUT,
    Batch,
    ModelInfo,
    RefusedError,
    TaskInfo,
    call,
    engine_of,
    library,
    pointers,
)
from mutate import mutate_bundle as mutate

__all__ = ["mutate", "read", "seeds"]

LIBRARY = library()
C_ALONE_REFUSES = (  # integers of hundreds of digits; a tensor twice, as the format wants it
    f"{MANIFEST} must have finite numbers",
    f"header of {WEIGHTS} must have every key once",
)
MOST_LATENTS = 1000  # a longer run is no fault, but slow


def seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    for family in tiny.PERCEIVERS:
        tiny.bundle(family).save(folder / family)
    return [folder / family for family in tiny.PERCEIVERS]


def read(path: Path) -> None:
    manifest, weights = ((path / name).read_bytes() for name in (MANIFEST, WEIGHTS))
    try:
        engine = engine_of(LIBRARY.parse, manifest, len(manifest), weights, len(weights), 1)
    except RefusedError as error:
        if error.status != BAD_INPUT:
            raise
        if not str(error).startswith(C_ALONE_REFUSES) and python_takes(path):
            raise RuntimeError(f"refused what Python takes: {error}") from None
        raise AttendriteError(str(error)) from None
    try:
        run(engine)
    except RefusedError as error:
        raise RuntimeError(f"cannot run what it took: {error}") from None
    finally:
        LIBRARY.close(engine)


def python_takes(path: Path) -> bool:
    """Whether the engine takes a bundle, whatever its hash."""
    try:
        Engine(tiny.load(path), executor="reference")
    except AttendriteError:
        return False
    return True


def run(engine: ctypes.c_void_p) -> None:
    """Run one window of ten tokens, with a query for every read-out."""
    info, task = ModelInfo(), TaskInfo()
    LIBRARY.model_of(engine, info)
    rows = [LIBRARY.unit_row(engine, unit.encode()) for unit in tiny.UNITS]
    session = LIBRARY.session_row(engine, tiny.SESSIONS[0].encode())
    if info.latents > MOST_LATENTS or min(*rows, session) < 0:
        return
    units = np.array(rows)
    call(LIBRARY.bind_units, engine, units.ctypes.data, len(units))
    ids, widths = [], [info.width]
    for i in range(info.tasks):
        LIBRARY.task(engine, i, task)
        ids.append(task.id)
        widths[i:] = [task.width]
    n, queries, rng = 10, len(widths), np.random.default_rng(0)
    signal = {"values": rng.random(n, dtype=np.float32)} if info.takes_values else {
        "types": np.zeros(n, np.int64)
    }  # fmt: skip
    batch = Batch(
        1,
        queries,
        first=np.zeros(1, np.int64),
        count=np.full(1, n),
        times=rng.random(n),
        units=rng.integers(0, len(units), n),
        query_times=np.ones(queries),
        session_rows=np.full(queries, session),
        **signal,
        **({"task_rows": np.array(ids)} if ids else {}),
    )
    out = [np.zeros(width, np.float32) for width in widths]
    call(LIBRARY.run, engine, batch, None, 0, pointers(out))

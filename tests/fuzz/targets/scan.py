"""Static scans: folders in the Sensorium layout, and their archives."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from attendrite.scans import read_scan
from mutate import mutate_archive

TIERS = np.array(["train", "validation", "test"])


def mutate(
    data: bytes, others: Sequence[bytes], chance: random.Random, general: Callable[..., bytes]
) -> bytes:
    if data.startswith(b"PK"):
        return mutate_archive(data, others, chance, general)
    return general(data, others, chance)


def seeds(folder: Path) -> list[Path]:
    gray, colour = folder / "static1-2-3-GrayImageNet-0", folder / "colour.scan"
    write(gray, (1, 3, 4), "frame_image_id", np.array([5, 2, 9]))
    write(colour, (2, 2, 3), "colorframeprojector_image_id", np.array(["a0", "b1", "c2"]))
    shutil.rmtree(colour / "data" / "behavior")
    archive = shutil.make_archive(str(folder / "archive"), "zip", folder, gray.name)
    return [gray, colour, Path(archive)]


def write(root: Path, shape: tuple[int, ...], ids: str, trial_ids: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "meta/neurons/unit_ids": np.array([4, 1]),
        "meta/neurons/animal_ids": np.array([7, 7]),
        "meta/neurons/cell_motor_coordinates": np.array([[1, 2, 3], [4, 5, 6]]),
        "meta/trials/tiers": TIERS,
        "meta/trials/trial_idx": trial_ids,
        f"meta/trials/{ids}": np.array([0, 1, 1]),
    }
    for name, size in {
        "images": shape, "responses": (2,), "behavior": (3,), "pupil_center": (2,)
    }.items():  # fmt: skip
        values = rng.uniform(1, 9, (3, *size)).astype(np.float32)
        arrays |= {f"data/{name}/{trial}": x for trial, x in enumerate(values)}
        axes = None if name == "images" else 0
        arrays[f"meta/statistics/{name}/all/mean"] = np.asarray(values.mean(axes))
        arrays[f"meta/statistics/{name}/all/std"] = np.asarray(values.std(axes))
    for path, values in arrays.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / f"{path}.npy", values)


def read(path: Path) -> None:
    with tempfile.TemporaryDirectory() as room:
        if path.suffix == ".zip":  # it is unpacked beside itself
            path = Path(shutil.copy(path, room))
        read_all(path)


def read_all(path: Path) -> None:
    scan = read_scan(path)
    repr(scan).encode()
    json.dumps(scan.statistics, allow_nan=False)
    for tier in {str(tier) for tier in scan.tiers}:
        trials = scan.trials(tier)
        scan.preprocessing.images(scan.images(trials))
        scan.preprocessing.responses(scan.responses(trials))
        behavior, pupil = scan.behavior(trials), scan.pupil(trials)
        if behavior is not None:
            scan.preprocessing.behavior(behavior)
        if pupil is not None:
            scan.preprocessing.pupil(pupil)

"""Reads the folder of a scan, or the archive beside it."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..recordings._arrays import map_npy
from ._scan import Doubles, Floats, Moments, Scan
from ._unpack import unpack

SHAPES: dict[str, tuple[int, ...]] = {"behavior": (3,), "pupil_center": (2,)}
IMAGE_IDS = ("frame_image_id", "colorframeprojector_image_id")
MICE = {  # V1T's letters
    "26872-17-20": "S0", "27204-5-13": "S1", "21067-10-18": "A", "22846-10-16": "B",
    "23343-5-17": "C", "23656-14-22": "D", "23964-4-22": "E", "25311-10-26": "F",
    "25340-3-19": "G", "25704-2-12": "H", "25830-10-4": "I", "26085-6-3": "J",
    "26142-2-11": "K", "26426-18-13": "L", "26470-4-5": "M", "26644-6-2": "N",
    "26872-21-6": "O",
}  # fmt: skip

_SESSION = re.compile(r"static(\d+-\d+-\d+)-")


def read_scan(path: str | os.PathLike[str]) -> Scan:
    """Read a static scan.

    Args:
        path: The folder, or its archive ``<folder>.zip``. Where only the archive is there, it is
            unpacked beside itself first, once; the folder appears whole or not at all.

    Returns:
        The scan. Trials are read when they are asked for, so the folder must stay in place.
        Values are rounded to float32, as V1T does. Behaviour and pupil are ``None`` where their
        folders are missing or hold zeros, as in the scan of the competition without behaviour.

    Raises:
        AttendriteError: A file is missing or damaged, or has a wrong shape, dtype or value.
        OSError: Nothing is there, or it cannot be read or unpacked.

    Example:
        >>> scan = read_scan("static21067-10-18-GrayImageNet-94c6ff995dac583098847cfecd43e7b6.zip")
        >>> scan
        Scan('21067-10-18'; 8372 neurons; trials: 998 test, 4473 train, 522 validation)
        >>> images = scan.preprocessing.images(scan.images(scan.trials("test")))
    """
    folder = Path(path)
    if folder.suffix == ".zip":
        folder = folder.with_suffix("")
    archive = folder.with_name(folder.name + ".zip")
    if not folder.is_dir() and archive.is_file():
        unpack(archive, folder)
    if not folder.is_dir():
        Path(path).stat()  # an absent path gets the system's own words
        raise errors.must(str(path), "be the folder of a scan or its .zip", "something else")
    return _Folder(folder).scan()


class _Folder:
    """The files of a scan."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def scan(self) -> Scan:
        """Check everything but the trials."""
        units = self.vector("meta/neurons/unit_ids.npy", "iu").astype(np.int64)
        if len(np.unique(units)) < max(len(units), 1):
            raise errors.must("unit_ids.npy", "hold units, each once", f"{len(units)} entries")
        tiers = self.vector("meta/trials/tiers.npy", "U")
        if not len(tiers):
            raise errors.must("tiers.npy", "hold a tier for each trial", "none")
        found = _SESSION.match(self.root.resolve().name)
        session = found[1] if found else self.root.resolve().name
        data = ["images", "responses", *(name for name in SHAPES if self.has(name))]
        shape = self.image_shape()
        shapes = SHAPES | {"images": shape, "responses": (len(units),)}
        for name in data:
            self.check_trials(name, len(tiers))
        return Scan(
            session=session,
            mouse=MICE.get(session, session),
            animal=self.animal(len(units)),
            unit_ids=units,
            positions=self.positions(len(units)),
            tiers=tiers,
            image_ids=self.vector(self.image_ids(), "iuU", len(tiers)),
            trial_ids=self.trial_ids(len(tiers)),
            image_shape=shape,
            moments={name: self.moments(name, shapes[name]) for name in data},
            load=partial(_trial, self.root, shapes),
        )

    def has(self, name: str) -> bool:
        """Say whether a variable was recorded: a pupil has a size, and zeros stand for nothing."""
        if not (self.root / "data" / name).is_dir():
            return False
        return bool(_trial(self.root, SHAPES, name, 0).any())

    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape of the first image."""
        image = _mapped(self.root, "data/images/0.npy", "iuf")
        errors.shape("data/images/0.npy", image, ["c", "h", "w"])
        if not image.size:
            raise errors.must("data/images/0.npy", "hold an image", list(image.shape))
        c, h, w = image.shape
        return c, h, w

    def check_trials(self, name: str, count: int) -> None:
        """Refuse a folder without a file for each trial."""
        folder = self.root / "data" / name
        there = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        for trial in range(count):
            if f"{trial}.npy" not in there:
                raise errors.must(
                    f"data/{name}", f"hold a file for each of {count} trials", f"no {trial}.npy"
                )

    def animal(self, count: int) -> str:
        """Return the one animal of all neurons."""
        ids = sorted({str(x) for x in self.vector("meta/neurons/animal_ids.npy", "iuU", count)})
        if len(ids) != 1:
            raise errors.must("animal_ids.npy", "name one animal", ", ".join(ids[:5]))
        return ids[0]

    def positions(self, count: int) -> Doubles:
        """Return the neurons' positions."""
        name = "meta/neurons/cell_motor_coordinates.npy"
        values = _mapped(self.root, name, "iuf")
        errors.shape(name, values, [count, "2 or 3"])
        if values.shape[1] not in (2, 3):
            raise errors.must(name, f"have shape [{count}, 2 or 3]", list(values.shape))
        return _doubles(name, values)

    def image_ids(self) -> str:
        """Return where image ids are: scans in colour name the file otherwise."""
        names = [f"meta/trials/{name}.npy" for name in IMAGE_IDS]
        return next((name for name in names if (self.root / name).is_file()), names[0])

    def trial_ids(self, count: int) -> NDArray[Any]:
        """Return the order of trials, or its hashes."""
        values = self.vector("meta/trials/trial_idx.npy", "iuU", count)
        return values.astype(np.int64) if values.dtype.kind in "iu" else values

    def moments(self, name: str, shape: tuple[int, ...]) -> Moments:
        """Return a variable's mean and standard deviation; one number each for images."""
        found = []
        for what in ("mean", "std"):
            path = f"meta/statistics/{name}/all/{what}.npy"
            values = _doubles(path, _mapped(self.root, path, "iuf"))
            expected = () if name == "images" else shape
            if values.size != int(np.prod(expected)):
                raise errors.must(path, f"have shape {list(expected)}", list(values.shape))
            found.append(values.reshape(expected))
        mean, std = found
        low = std.mean() if name == "responses" else std.min()  # a neuron may be silent
        if std.min() < 0 or low < np.finfo(np.float32).tiny:
            raise errors.must(f"the std of {name}", "be above 0", std.min())
        return Moments(mean, std)

    def vector(self, name: str, kinds: str, count: int | None = None) -> NDArray[Any]:
        """Return an array of one axis."""
        values = np.array(_mapped(self.root, name, kinds))
        errors.shape(name, values, ["n" if count is None else count])
        if values.dtype.kind == "U" and values.size:
            values = values.astype(values.dtype.newbyteorder("="), copy=False)
            highest = int(values.view(np.uint32).max()) if values.dtype.itemsize else 0
            if highest > sys.maxunicode:  # numpy would stumble over it later
                raise errors.must(name, "hold Unicode text", f"the code point {highest:#x}")
        return values


def _mapped(root: Path, name: str, kinds: str) -> NDArray[Any]:
    path = root / name
    if not path.is_file():
        raise errors.must(f"the scan {root.name}", f"hold {name}", "no such file")
    values = map_npy(path)
    if values.dtype.kind not in kinds:
        words = {"U": "text", "iu": "integers", "iuf": "numbers", "iuU": "integers or text"}
        raise errors.must(name, f"hold {words[kinds]}", f"dtype {values.dtype}")
    return values


def _doubles(name: str, values: NDArray[Any]) -> Doubles:
    errors.finite(name, _floats(values))  # as models take them
    return np.asarray(values, np.float64)


def _floats(values: NDArray[Any]) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values, np.float32)


def _trial(root: Path, shapes: dict[str, tuple[int, ...]], name: str, trial: int) -> Floats:
    path = f"data/{name}/{trial}.npy"
    values = _mapped(root, path, "iuf")
    if values.ndim == 2 and name != "images" and len(values) == 1:  # some scans store [1, n]
        values = values[0]
    errors.shape(path, values, list(shapes[name]))
    floats = _floats(values)
    errors.finite(path, floats)
    return floats

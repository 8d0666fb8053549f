"""Inputs of the image families: images shown to one mouse, with its behaviour and pupil.

Like :mod:`attendrite.batches` it mirrors a run's input file: a batch that exists is sound, and
:meth:`ImageBatch.check` holds it against a bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import errors
from .batches import read_arrays
from .bundle import Manifest

BEHAVIORS = 3  # pupil dilation, its derivative, running speed
SHAPES: Mapping[str, tuple[int, ...]] = {
    "images": (),
    "behavior": (BEHAVIORS,),
    "pupil_center": (2,),
}
Moment: TypeAlias = NDArray[np.float64]
STATISTICS = "statistics"  # of the training data by mouse, in a manifest's facts about the training


@dataclass(frozen=True)
class ImageBatch:
    """``B`` images shown to one mouse.

    Attributes:
        images: ``[B, C, H, W]``, floating, standardised as in training unless ``raw``.
        mouse: Which mouse's neurons respond: a session of the bundle.
        behavior: Pupil dilation, its derivative and running speed, ``[B, 3]``, floating, scaled
            likewise; ``None`` where the model reads none.
        pupil: Centre of the pupil, x and y, ``[B, 2]``, likewise.
        raw: Images, behaviour and pupil are as recorded; they are scaled by the statistics of the
            training data, which the bundle must hold.
        cropped: Images are what the core sees: they are neither cropped, moved nor resized.
        shift: Whether read-out positions move with the pupil in models where they do.

    Raises:
        AttendriteError: Wrong shapes or dtypes, or values that are not finite.
    """

    images: NDArray[np.floating[Any]]
    mouse: str
    behavior: NDArray[np.floating[Any]] | None = None
    pupil: NDArray[np.floating[Any]] | None = None
    raw: bool = False
    cropped: bool = False
    shift: bool = True

    def __post_init__(self) -> None:
        size = len(np.asarray(self.images)) if np.ndim(self.images) else 0
        shapes: dict[str, list[int | str]] = {
            "images": ["B", "C", "H", "W"],
            "behavior": [size, BEHAVIORS],
            "pupil": [size, 2],
        }
        for name, shape in shapes.items():
            given = getattr(self, name)
            if given is None:
                continue
            array = np.asarray(given)
            if array.dtype.kind != "f":
                raise errors.must(name, "be an array of floating numbers", array.dtype)
            errors.shape(name, array, shape)
            errors.finite(name, array)
            object.__setattr__(self, name, array)
        mouse = np.asarray(self.mouse)
        if mouse.dtype.kind != "U" or mouse.ndim:
            raise errors.must("mouse", "be one name", repr(self.mouse), "one batch for each mouse")
        object.__setattr__(self, "mouse", str(mouse))
        for name in ("raw", "cropped", "shift"):
            flag = np.asarray(getattr(self, name))
            if flag.ndim or flag.dtype.kind not in "biu" or flag not in (0, 1):
                raise errors.must(name, "be 0 or 1", repr(getattr(self, name)))
            object.__setattr__(self, name, bool(flag))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def unit_ids(self) -> NDArray[np.str_]:
        """Names along the axis of units in attention: none, its keys are patches."""
        return np.array([], dtype=np.str_)

    @property
    def query_task(self) -> None:
        """There is one read-out."""

    @classmethod
    def from_npz(cls, path: str | Path) -> ImageBatch:
        """Read a run's input file.

        Raises:
            AttendriteError: Not an ``.npz`` file, an array missing, unknown or unsound.
        """
        return cls(**read_arrays(path, cls))

    def check(self, manifest: Manifest) -> None:
        """Refuse a mouse that the model does not know, and raw images without statistics.

        Raises:
            AttendriteError: With what is known.
        """
        errors.choice("mouse", self.mouse, manifest.sessions)
        for name in self._given if self.raw else ():
            statistics(manifest, self.mouse, name)

    def part(self, start: int, stop: int) -> ImageBatch:
        """Return the images ``start..stop-1``; shares memory."""
        return replace(
            self,
            images=self.images[start:stop],
            behavior=None if self.behavior is None else self.behavior[start:stop],
            pupil=None if self.pupil is None else self.pupil[start:stop],
        )

    def scaled(self, manifest: Manifest) -> ImageBatch:
        """Return the batch as the model was trained: scaled, where it is raw.

        Images and pupil are standardised, behaviour is divided by its standard deviation and not
        centred, as in V1T and sensorium.
        """
        if not self.raw:
            return self
        moments = {name: statistics(manifest, self.mouse, name) for name in self._given}
        mean, std = moments["images"]
        out = replace(self, raw=False, images=(self.images - mean) / std)
        if self.behavior is not None:
            out = replace(out, behavior=self.behavior / moments["behavior"][1])
        if self.pupil is not None:
            mean, std = moments["pupil_center"]
            out = replace(out, pupil=(self.pupil - mean) / std)
        return out

    @property
    def _given(self) -> list[str]:
        """What has to be scaled, by the names of the statistics."""
        given = {"images": self.images, "behavior": self.behavior, "pupil_center": self.pupil}
        return [name for name, x in given.items() if x is not None]


def statistics(manifest: Manifest, mouse: str, name: str) -> tuple[Moment, Moment]:
    """Return mean and standard deviation of a mouse's training data.

    Args:
        manifest: Of the bundle.
        mouse: Whose.
        name: ``images`` (numbers), ``behavior`` ``[3]`` or ``pupil_center`` ``[2]``.

    Raises:
        AttendriteError: The bundle does not hold them.
    """
    table = manifest.training.get(STATISTICS, {})
    try:
        entry = table[mouse][name]
        mean, std = (np.array(entry[part], np.float64) for part in ("mean", "std"))
        shapes = {x.shape for x in (mean, std)}
        sound = shapes == {SHAPES[name]} and np.isfinite(mean).all() and 0 < std.min() < np.inf
    except (TypeError, KeyError, ValueError, OverflowError):
        sound = False
    if not sound:
        todo = f"give the scan of the training to attendrite export: --data {mouse}=SCAN"
        be = f"give mean and std of {name}"
        raise errors.must(f"the bundle's statistics of mouse {mouse!r}", be, "none", todo)
    return mean, std

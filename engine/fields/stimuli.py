"""Numbered images, as the model takes them: noise by counter, or a user's array."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import errors
from ..kernels.noise import KINDS, moments, noise

READ = 4096  # images of a file at a time


class Stimuli(Protocol):
    """Numbered images; picklable."""

    @property
    def count(self) -> int:
        """How many."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image, ``[c, h, w]``."""

    @property
    def mean(self) -> float:
        """Of the values before they were standardised: ``raw = mean + sd * image``."""

    @property
    def sd(self) -> float:
        """Their standard deviation."""

    @property
    def white(self) -> bool:
        """Whether pixels are known to be independent, with mean 0 and variance 1."""

    def images(self, first: int, count: int, threads: int) -> Tensor:
        """Return images ``first..first+count-1``, ``[count, c, h, w]``, float32."""

    def identity(self) -> Mapping[str, Any]:
        """Return what decides the images, as plain JSON."""


@dataclass(frozen=True)
class Noise:
    """White noise, standardised by the known moments of its distribution.

    Attributes:
        kind: ``uniform``, ``binary`` or ``gaussian``; see :mod:`attendrite.kernels.noise`.
        seed: Image ``n`` is a function of it and ``n``.
        count: Images.
        shape: Of an image, ``[c, h, w]``.

    Raises:
        AttendriteError: Unknown kind, or a number out of range.
    """

    kind: str
    seed: int
    count: int
    shape: tuple[int, int, int]
    white = True

    def __post_init__(self) -> None:
        errors.choice("noise", self.kind, KINDS)
        if not 0 <= self.seed < 1 << 64:
            raise errors.must("seed", "lie in 0..2^64-1", self.seed)

    @property
    def mean(self) -> float:
        """Of the noise before it is standardised."""
        return moments(self.kind).mean

    @property
    def sd(self) -> float:
        """Of the noise before it is standardised."""
        return math.sqrt(moments(self.kind).variance)

    def images(self, first: int, count: int, threads: int) -> Tensor:
        """Make images."""
        made = noise(self.kind, self.seed, first, count, self.shape, threads=threads)
        return made if (self.mean, self.sd) == (0, 1) else made.sub_(self.mean).div_(self.sd)

    def identity(self) -> Mapping[str, Any]:
        """Return what decides the images."""
        return {"noise": self.kind, "seed": self.seed}


@dataclass(frozen=True)
class ImageFile:
    """Images of an ``.npy`` file, ``[N, c, h, w]``, floating, read as they are needed.

    Args:
        path: The file.
        standardise: Subtract the mean of all values and divide by their standard deviation, as
            V1T's script does with its noise; otherwise images are taken as they are.
        most: Take the first so many images only; ``None``: all.

    Raises:
        AttendriteError: Not such a file, fewer images, or values that are not finite or, to be
            standardised, all the same.
    """

    path: Path
    standardise: bool = False
    most: int | None = None
    white = False
    count: int = field(init=False)
    shape: tuple[int, int, int] = field(init=False)
    mean: float = field(init=False)
    sd: float = field(init=False)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        try:
            array = self._array
        except (OSError, ValueError) as error:
            raise errors.must(str(self.path), "be an .npy file", str(error)) from None
        name = f"images of {self.path}"
        if array.dtype.kind != "f":
            raise errors.must(name, "be an array of floating numbers", array.dtype)
        errors.shape(name, array, ["N", "c", "h", "w"])
        wanted = len(array) if self.most is None else self.most
        if array.size == 0 or not 1 <= wanted <= len(array):
            raise errors.must(name, f"be {max(1, wanted)} at least", list(array.shape))
        mean, sd, digest = _read_through(array[:wanted], name)
        if self.standardise and not sd > 0:
            raise errors.must(name, "differ, to be standardised", f"the same value {mean:g}")
        scale = (mean, sd) if self.standardise else (0.0, 1.0)
        found = wanted, array.shape[1:], *scale, digest
        for attribute, value in zip(("count", "shape", "mean", "sd", "sha256"), found, strict=True):
            object.__setattr__(self, attribute, value)

    @property
    def _array(self) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return array

    def images(self, first: int, count: int, threads: int) -> Tensor:
        """Read images."""
        del threads
        read = np.array(self._array[first : first + count], np.float32)  # a copy, not the file
        return torch.from_numpy(read).sub_(self.mean).div_(self.sd)

    def identity(self) -> Mapping[str, Any]:
        """Return what decides the images."""
        return {"stimuli": self.sha256, "standardised": self.standardise}


def _read_through(array: NDArray[Any], name: str) -> tuple[float, float, str]:
    """Return mean and standard deviation of all values, and a hash of shape, dtype and values."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    total, squares, shift = 0.0, 0.0, float(array.flat[0])
    for first in range(0, len(array), READ):
        part = np.ascontiguousarray(array[first : first + READ])
        errors.finite(f"{name}, from {first} on,", part)
        digest.update(part.data)
        apart = part.astype(np.float64) - shift  # a large mean costs no digits
        total += float(apart.sum())
        squares += float(np.vdot(apart, apart))
    mean = total / array.size
    sd = math.sqrt(max(0.0, squares / array.size - mean**2))
    return shift + mean, sd, digest.hexdigest()

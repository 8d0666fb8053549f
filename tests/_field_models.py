"""A linear-nonlinear model whose fields are known, in a module of its own: workers import it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass
class LinearNonlinear:
    """Softplus of one Gabor filter for each unit; the last units answer at random.

    A unit at random is a function of the image, as noise in a model in evaluation mode would be,
    but of a hash of its bits: independent of every pixel.
    """

    units: int = 6
    at_random: int = 2  # 4 at most
    shape: tuple[int, int, int] = (1, 8, 12)
    gain: float = 1.5
    device: str = "cpu"
    threads: int | None = 1
    pause_s: float = 0.0

    @property
    def filters(self) -> NDArray[np.float64]:
        """Of each unit, ``[U, c h w]``, of norm 1; 0 for those at random."""
        channels, rows, columns = self.shape
        y, x = np.mgrid[0:rows, 0:columns]
        random = np.random.default_rng(5)
        found = np.zeros((self.units, channels, rows, columns))
        for u in range(self.units - self.at_random):
            x0, y0 = random.uniform(2, columns - 3), random.uniform(2, rows - 3)
            shape = np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 4)
            found[u] = (-1) ** u * shape * np.cos(0.6 * u * (x - x0))
        flat = found.reshape(self.units, -1)
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-300)

    def responses(self, images: Tensor) -> Tensor:
        time.sleep(self.pause_s)
        flat = images.reshape(len(images), -1)
        drive = flat.double() @ torch.from_numpy(self.filters).T * self.gain - 0.5
        out = torch.nn.functional.softplus(drive)
        if self.at_random:
            hashed = [hashlib.sha256(image.tobytes()).digest() for image in flat.numpy()]
            words = np.array([np.frombuffer(h, np.uint64) for h in hashed])[:, : self.at_random]
            out[:, self.units - self.at_random :] = -torch.from_numpy(words * 2.0**-64).log()
        return out.float()

    def identity(self) -> Mapping[str, Any]:
        return {"units": self.units, "shape": list(self.shape), "gain": self.gain}

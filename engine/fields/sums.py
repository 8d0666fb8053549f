"""The job: responses times images, added up; a shard is a range of image numbers.

Sums are large and do not grow with the number of images, so shards are few: as many as a limit on
the disk allows, at most ``MOST``, always an even number of about the same size. Even shards are one
half of the data, odd ones the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import errors
from ..kernels.noise_sum import NAMES, Sums, noise_sum
from .responder import Responder
from .stimuli import Stimuli

FORMAT = 1
BLOCK = 1024  # images of a product: the sums are read and written once for so many
DISK = 4 << 30  # bytes that shards may take together
MOST = 64  # shards


@dataclass
class FieldSums:
    """The job; see :class:`attendrite.shards.Job`.

    Attributes:
        responder: The model.
        stimuli: The images.
        shards: How many; chosen where the job is made.

    Raises:
        AttendriteError: Images of another shape than the model takes, or fewer than two.
    """

    responder: Responder
    stimuli: Stimuli
    shards: int = field(init=False)

    def __post_init__(self) -> None:
        count, shape = self.stimuli.count, tuple(self.stimuli.shape)
        if shape != tuple(self.responder.shape):
            raise errors.must("images", f"be {list(self.responder.shape)}", list(shape))
        if count < 2:
            raise errors.must("images", "be two at least, one for each half", count)
        allowed = min(MOST, DISK // self.bytes, count // BLOCK)
        self.shards = max(2, allowed // 2 * 2)

    @property
    def pixels(self) -> int:
        """Pixels of an image, ``P``."""
        return int(np.prod(self.stimuli.shape))

    @property
    def bytes(self) -> int:
        """Bytes of the sums, which a shard takes on disk."""
        return 8 * self.responder.units * self.pixels

    def bounds(self, shard: int) -> tuple[int, int]:
        """Return the first image of a shard and the one after its last."""
        count = self.stimuli.count
        return shard * count // self.shards, (shard + 1) * count // self.shards

    def identity(self) -> Mapping[str, Any]:
        """Return everything that decides the result."""
        return {
            "what": "attendrite fields",
            "format": FORMAT,
            "images": self.stimuli.count,
            "shape": list(self.stimuli.shape),
            "block": BLOCK,
            **self.stimuli.identity(),
            **self.responder.identity(),
        }

    def run(self, shard: int) -> Mapping[str, NDArray[Any]]:
        """Add up the images of a shard.

        Raises:
            AttendriteError: A response that is not finite.
        """
        start, stop = self.bounds(shard)
        threads = self.responder.threads or torch.get_num_threads()
        sums = Sums.zeros(self.responder.units, self.pixels, self.responder.device)
        for first in range(start, stop, BLOCK):
            images = self.stimuli.images(first, min(BLOCK, stop - first), threads)
            responses = self.responder.responses(images)
            if not responses.sum().isfinite() and not responses.isfinite().all():
                i, unit = (~responses.isfinite()).nonzero()[0].tolist()
                got = f"{responses[i, unit].item()} of unit {unit} to image {first + i}"
                raise errors.must("responses", "be finite", got)
            noise_sum(
                responses.to(self.responder.device),
                images.reshape(len(images), -1).to(self.responder.device),
                sums,
                threads=threads,
            )
        found = {name: getattr(sums, name).cpu().numpy() for name in NAMES}
        return found | {"count": np.array(sums.count)}


@dataclass(eq=False)
class Halves:
    """The sums of even and of odd shards, added up in the order of the shards."""

    even: Sums
    odd: Sums
    shards: int = 0

    @classmethod
    def none(cls, job: FieldSums) -> Halves:
        """Return the sums over no shard."""
        size = job.responder.units, job.pixels
        return cls(Sums.zeros(*size), Sums.zeros(*size))

    def add(self, result: Mapping[str, NDArray[Any]]) -> None:
        """Add the result of the next shard."""
        half = self.odd if self.shards % 2 else self.even
        for name in NAMES:
            getattr(half, name).add_(torch.from_numpy(result[name]))
        half.count += int(result["count"])
        self.shards += 1


def halves(job: FieldSums, results: Iterable[Mapping[str, NDArray[Any]]]) -> Halves:
    """Add up the results of all shards, in their order."""
    found = Halves.none(job)
    for result in results:
        found.add(result)
    return found

"""The truth: Philox as its authors write it, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import KINDS, words

PRIORITY = 0
FACTORS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # added to the key after each round
ROUNDS = 10
LOW = 0xFFFFFFFF

Words = NDArray[Any]  # uint64 that hold 32 bits each


def refuses(**_request: object) -> None:
    """Refuse nothing."""


def philox(counter: Sequence[Any], key: tuple[int, int]) -> list[Words]:
    """Turn counters of four words, arrays that broadcast, and a key into four random words."""
    c: list[Words] = [np.asarray(word, np.uint64) for word in counter]
    for i in range(ROUNDS):
        k = [(word + i * step) & LOW for word, step in zip(key, WEYL, strict=True)]
        p, q = FACTORS[0] * c[0], FACTORS[1] * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & LOW, (p >> 32) ^ c[3] ^ k[1], p & LOW]
    return c


def run(
    kind: str,
    seed: int,
    first: int,
    count: int,
    size: int,
    *,
    device: torch.device,
    threads: int,
) -> Tensor:
    """Make images, as :func:`attendrite.kernels.noise.noise` says; ``[count, size]``."""
    del threads
    per_block = 128 if kind == "binary" else 4
    blocks = np.arange(-(-size // per_block), dtype=np.uint64)
    images = np.array([first + i for i in range(count)], np.uint64)[:, None]
    found = philox((blocks, images & LOW, images >> 32, KINDS.index(kind)), words(seed))
    random = np.stack(np.broadcast_arrays(*found), -1)  # [count, blocks, 4]
    pixels = MAKE[kind](random).reshape(count, len(blocks) * per_block)[:, :size]
    return torch.from_numpy(pixels.astype(np.float32)).to(device)


def _uniform(random: Words) -> NDArray[Any]:
    return (random >> 8) * 2.0**-24


def _binary(random: Words) -> NDArray[Any]:
    return 2.0 * (random[..., None] >> np.arange(32, dtype=np.uint64) & 1) - 1


def _gaussian(random: Words) -> NDArray[Any]:
    radius = np.sqrt(-2 * np.log((random[..., ::2] + 1) * 2.0**-32))
    turn = 2 * np.pi * 2.0**-32 * random[..., 1::2]
    return np.stack((radius * np.cos(turn), radius * np.sin(turn)), -1)


MAKE = {"uniform": _uniform, "binary": _binary, "gaussian": _gaussian}

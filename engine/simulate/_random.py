"""One generator for each thing that is random, named by what the thing is."""

from __future__ import annotations

import zlib

import numpy as np

from .. import errors


def stream(seed: int, *key: int | str) -> np.random.Generator:
    """Return the generator of one thing, a child of ``SeedSequence(seed)``.

    Args:
        seed: Of the whole simulation, at least 0.
        key: Names the thing: words, and integers of either sign. Children of different keys are
            independent, and none depends on how many others are asked for.

    Raises:
        AttendriteError: The seed is negative.
    """
    if seed < 0:
        raise errors.must("seed", "be at least 0", seed)
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else _natural(k) for k in key]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=words))


def _natural(number: int) -> int:
    return 2 * number if number >= 0 else -2 * number - 1

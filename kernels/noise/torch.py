"""PyTorch: words of 32 bits in int64 tensors, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import KINDS, words
from .reference import FACTORS, LOW, ROUNDS, WEYL

PRIORITY = 10


def refuses(**_request: object) -> None:
    """Refuse nothing."""


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Turn counters of four words and a key into four words; int64 tensors that broadcast.

    Products wrap around 2^64, and a shift to the right draws in the sign, which ``LOW`` cuts off.
    """
    c = list(counter)
    for i in range(ROUNDS):
        k = [(word + i * step) & LOW for word, step in zip(key, WEYL, strict=True)]
        p, q = FACTORS[0] * c[0], FACTORS[1] * c[2]
        high = (q >> 32 & LOW) ^ c[1] ^ k[0], (p >> 32 & LOW) ^ c[3] ^ k[1]
        c = [high[0], q & LOW, high[1], p & LOW]
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
    """Make images; arguments as in the reference."""
    del threads
    per_block = 128 if kind == "binary" else 4
    blocks = torch.arange(-(-size // per_block), device=device)
    offset, high = words(first)
    low = torch.arange(count, device=device)[:, None] + offset  # of more than 32 bits, perhaps
    stream = torch.tensor(KINDS.index(kind), device=device)
    counter = blocks, low & LOW, (high + (low >> 32)) & LOW, stream
    random = torch.stack(philox(counter, words(seed)), -1)
    if kind == "uniform":
        pixels = (random >> 8) * 2.0**-24
    elif kind == "binary":
        bits = random[..., None] >> torch.arange(32, device=device) & 1
        pixels = 2.0 * bits - 1
    else:
        radius = (-2 * ((random[..., ::2] + 1).double() * 2.0**-32).log()).sqrt()
        turn = random[..., 1::2].double() * (2 * math.pi * 2.0**-32)
        pixels = torch.stack((radius * turn.cos(), radius * turn.sin()), -1)
    return pixels.reshape(count, len(blocks) * per_block)[:, :size].float().contiguous()

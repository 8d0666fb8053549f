"""PyTorch: its float32 product, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Sums

PRIORITY = 10


def refuses(**_request: object) -> None:
    """Refuse nothing."""


def run(responses: Tensor, images: Tensor, out: Sums, *, threads: int) -> None:
    """Add; arguments as in the reference. Torch has its own number of threads."""
    del threads
    out.products += responses.T @ images
    for sums, squares, values in (
        (out.responses, out.response_squares, responses),
        (out.pixels, out.pixel_squares, images),
    ):
        wide = values.double()
        sums += wide.sum(0)
        squares += torch.linalg.vecdot(wide, wide, dim=0)

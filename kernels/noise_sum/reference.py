"""The truth: float64 throughout."""

from __future__ import annotations

from torch import Tensor

from . import Sums

PRIORITY = 0


def refuses(**_request: object) -> None:
    """Refuse nothing."""


def run(responses: Tensor, images: Tensor, out: Sums, *, threads: int) -> None:
    """Add; arguments as in :func:`attendrite.kernels.noise_sum.noise_sum`."""
    del threads
    r, x = responses.double(), images.double()
    for total, more in zip(
        out.tensors, (r.T @ x, r.sum(0), (r * r).sum(0), x.sum(0), (x * x).sum(0)), strict=True
    ):
        total += more

"""The truth: float64 to the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PRIORITY = 0


def refuses(**request: Any) -> None:
    """Refuse nothing."""
    del request


def run(times: Tensor, omega: Tensor, *, dtype: torch.dtype, threads: int) -> Tensor:
    """See :func:`attendrite.kernels.phases.phases`."""
    del threads
    angle = times[..., None] * omega
    return torch.stack((angle.cos(), angle.sin()), 2).to(dtype)

"""The same forward pass with the best attention kernel for each request."""

from __future__ import annotations

import torch

from ..models import Family
from ._attend import ForwardExecutor

PRIORITY = 10


def refuses(family: str, device: str, dtype: str) -> str | None:
    """Refuse bfloat16."""
    del family, device
    if dtype == "bfloat16":
        return "computes in float32 or float64, got bfloat16; use executor native"
    return None


def load(model: Family, device: torch.device, dtype: torch.dtype) -> ForwardExecutor:
    """Bind the attention kernels."""
    return ForwardExecutor(model, device, dtype, backend=None)

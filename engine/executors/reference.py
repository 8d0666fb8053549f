"""Plain torch: the truth for every other executor; readable and differentiable."""

from __future__ import annotations

import torch

from ..models import Family
from ._attend import ForwardExecutor

PRIORITY = 0


def refuses(family: str, device: str, dtype: str) -> str | None:
    """Refuse nothing."""
    del family, device, dtype
    return None


def load(model: Family, device: torch.device, dtype: torch.dtype) -> ForwardExecutor:
    """Bind the attention that writes every weight out."""
    return ForwardExecutor(model, device, dtype, backend="reference")

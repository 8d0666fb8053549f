"""C++: turns reduced in float64, cosine and sine of less than a turn in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import _core

PRIORITY = 20


def refuses(**request: Any) -> str | None:
    """Serve float32 on the CPU."""
    if request["device"] != "cpu":
        return f"runs on the CPU, got {request['device']}"
    if request["dtype"] != torch.float32:
        return f"returns float32, got {request['dtype']}"
    return None


def run(times: Tensor, omega: Tensor, *, dtype: torch.dtype, threads: int) -> Tensor:
    """See :func:`attendrite.kernels.phases.phases`."""
    times = times.contiguous()
    out = torch.empty(*times.shape, 2, len(omega), dtype=dtype)
    _core.phases(times.numpy(), omega.contiguous().numpy(), out.numpy(), threads)
    return out

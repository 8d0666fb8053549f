"""Cosine and sine of the rotary angles of continuous times (Su et al. 2021, arXiv:2104.09864).

``phase[b, n, 0, f] = cos(times[b, n] omega[f])`` and ``phase[b, n, 1, f]`` its sine. Angles reach
6e4 rad, so they are float64 until they are less than a turn; only the cosines are rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _arrays
from .._operation import Operation

__all__ = ["OPERATION", "phases"]

OPERATION = Operation(__name__)


def phases(
    times: Tensor,
    omega: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    threads: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Return the rotation at each time.

    Args:
        times: ``[B, N]``, float64, seconds.
        omega: Angular velocities, ``[F]``, float64, rad/s, on the device of the times.
        dtype: Of the result, float32 or float64.
        threads: Threads of the backends that have their own.
        backend: A backend by name; ``None`` takes the fastest one that does not refuse.

    Returns:
        ``[B, N, 2, F]``.

    Raises:
        TypeError: Not float64.
        ValueError: Wrong shapes.
    """
    for name, tensor, ndim in (("times", times, 2), ("omega", omega, 1)):
        if tensor.ndim != ndim:
            raise _arrays.must(name, f"have {ndim} axes", list(tensor.shape))
        if tensor.dtype != torch.float64:
            raise TypeError(f"{name} must be torch.float64, got {tensor.dtype}")
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    kind: dict[str, Any] = {"device": times.device.type, "dtype": dtype}
    result: Tensor = OPERATION.choose(backend, **kind).run(
        times, omega, dtype=dtype, threads=threads
    )
    return result

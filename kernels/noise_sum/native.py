"""C++: pixels packed once, units shared out to threads, sums updated in the cache."""

from __future__ import annotations

from torch import Tensor

from ... import _core
from . import Sums

PRIORITY = 20


def refuses(**request: object) -> str | None:
    """Serve the CPU."""
    if request.get("device", "cpu") != "cpu":
        return f"runs on the CPU, got {request['device']}"
    return None


def run(responses: Tensor, images: Tensor, out: Sums, *, threads: int) -> None:
    """Add; arguments as in the reference."""
    a, b, c, d, e = (tensor.numpy() for tensor in out.tensors)
    _core.add_to_fields(responses.detach().numpy(), images.detach().numpy(), a, b, c, d, e, threads)

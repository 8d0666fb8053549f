"""Checks of arguments that the simulations share."""

from __future__ import annotations

import math

from .. import errors


def positive(**values: float) -> None:
    """Refuse an argument that is not finite and above 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise errors.must(name, "be finite and above 0", value)


def count(**values: int) -> None:
    """Refuse an argument below 1."""
    for name, value in values.items():
        if value < 1:
            raise errors.must(name, "be at least 1", value)

"""C++: the counts of the open bin in two buffers; no allocation but the result's."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _core
from .._bins import Grid

PRIORITY = 10


def refuses(**_request: object) -> str | None:
    """Serve every request."""
    return None


def Binner(n_units: int, bins: Grid, dtype: np.dtype[Any]) -> _core.StreamBinner:
    """Make a binner; its ``push`` is called directly, without Python in between."""
    return _core.StreamBinner(n_units, _core.Grid(*bins), dtype)

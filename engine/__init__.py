"""attendrite: run trained attention models of neural populations, and see what they attend to."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .ablation import ablate
    from .batches import CalciumBatch, SpikeBatch
    from .bundle import Bundle
    from .capture import Capture
    from .decoding import decode
    from .errors import AttendriteError
    from .exporter import export
    from .fields import receptive_fields
    from .images import ImageBatch
    from .recordings import Recording, read
    from .runtime import Engine, Result

__all__ = [
    "AttendriteError",
    "Bundle",
    "CalciumBatch",
    "Capture",
    "Engine",
    "ImageBatch",
    "Recording",
    "Result",
    "SpikeBatch",
    "__version__",
    "ablate",
    "decode",
    "export",
    "read",
    "receptive_fields",
]

_ROOMS = {
    "AttendriteError": "errors",
    "Bundle": "bundle",
    "CalciumBatch": "batches",
    "Capture": "capture",
    "Engine": "runtime",
    "ImageBatch": "images",
    "Recording": "recordings",
    "Result": "runtime",
    "SpikeBatch": "batches",
    "ablate": "ablation",
    "decode": "decoding",
    "export": "exporter",
    "read": "recordings",
    "receptive_fields": "fields",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: torch alone takes seconds to import."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

"""attendrite: run trained attention models of neural populations, and see what they attend to."""

from __future__ import annotations

from ._version import __version__

__all__ = ["__version__"]

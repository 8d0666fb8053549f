"""Recordings: spike times and unit ids, behaviour and stimulus series, trials, unit metadata.

One class for every file format. A reader is a module of this folder with ``claims(path)`` and
``read(path)``; :func:`read` asks each in turn, so a new format is one new file.
"""

from __future__ import annotations

from ._read import read
from ._recording import Intervals, Recording, Series, Spikes

__all__ = ["Intervals", "Recording", "Series", "Spikes", "read"]

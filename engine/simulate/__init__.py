"""Simulated populations whose truth is known: for tests of analyses, not for claims about brains.

:func:`retina` answers a stimulus of :mod:`attendrite.simulate.stimuli`, :func:`tuned` gives trials
of a latent variable to calibrate statistics with, :func:`oriented` gives calcium traces of two
genetic lines. Each returns an ordinary :class:`attendrite.Recording` and, beside it, what each cell
truly is.

The same arguments give the same bits on the same machine. Every cell draws from a generator of
its own, named by what the cell is: cells that are added, left out or reordered change nothing for
the others.
"""

from __future__ import annotations

from . import stimuli
from ._calcium import LINES, Line, OrientedTruth, oriented
from ._cells import TYPES, Cells, CellType
from ._retina import retina
from ._tuned import TunedTruth, tuned

__all__ = [
    "LINES",
    "TYPES",
    "CellType",
    "Cells",
    "Line",
    "OrientedTruth",
    "TunedTruth",
    "oriented",
    "retina",
    "stimuli",
    "tuned",
]

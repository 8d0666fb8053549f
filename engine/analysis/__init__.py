"""What a model attends to: units, heads, and what an untrained model would show as well.

:func:`attend` runs a recording through a model, in windows that do not overlap, and gives a table
of units and one of heads (:class:`Analysis`). Figures of attention describe a model on a recording;
they are no proof that a unit matters: for that, remove it.
"""

from __future__ import annotations

from ._attend import Analysis, Figures, attend
from ._windows import Trials
from .control import untrained
from .shares import lift, lift_within

__all__ = ["Analysis", "Figures", "Trials", "attend", "lift", "lift_within", "untrained"]

"""What a model attends to: units, heads, and what an untrained model would show as well.

:func:`attend` runs a recording through a model, in windows that do not overlap, and gives a table
of units and one of heads (:class:`Analysis`). Figures of attention describe a model on a recording;
they are no proof that a unit matters: for that, remove it. :func:`triggered` averages spikes around
what a model decodes, of a recording or of Poisson spikes (:class:`Triggered`).
"""

from __future__ import annotations

from ._attend import Analysis, Figures, attend
from ._triggered import Triggered, triggered
from ._windows import Trials, Windows
from .control import untrained
from .observed import Observed, observe
from .shares import lift, lift_within
from .strata import Strata, by_rate
from .units import attention as attention_of_units

__all__ = [
    "Analysis",
    "Figures",
    "Observed",
    "Strata",
    "Trials",
    "Triggered",
    "Windows",
    "attend",
    "attention_of_units",
    "by_rate",
    "lift",
    "lift_within",
    "observe",
    "triggered",
    "untrained",
]

"""Ablation: remove units, heads, latents or layers step by step, and test what that does.

The way of the data: :class:`Settings` say what is asked; :func:`spans` and the windows of
:class:`Data` where; an :class:`Order` ranks; a :class:`Plan` numbers the conditions; a sweep in
shards turns them into sums of a metric, block by block; statistics make curves, intervals and tests
of these. :func:`ablate` does all of it.

Cost of ``N`` conditions on ``W`` windows: ``W`` encoders (and one more for each ranking of the null
``count``), ``N W`` times what follows the encoder, and merges that are small beside it. Error: a
merged encoding is that of a run without the removed units, up to rounding of the dtype (1e-6 in
float32); tests hold it to filtering and running again.

Removal asks what a model does without a unit, not whether the brain needs it. A model that was
never trained with units dropped meets input that it does not know; results say how it was trained.
"""

from __future__ import annotations

from ._ablate import Ablation, ablate, gathered
from ._prepare import job, prepare
from .data import Data, Target, spans
from .metrics import Metric
from .orders import Order
from .plans import Curve, Plan, plan
from .settings import Settings, read_nulls
from .sweep import sums

__all__ = [
    "Ablation",
    "Curve",
    "Data",
    "Metric",
    "Order",
    "Plan",
    "Settings",
    "Target",
    "ablate",
    "gathered",
    "job",
    "plan",
    "prepare",
    "read_nulls",
    "spans",
    "sums",
]

"""One row per head: how broad, how much of it on START and END, how far back, how strong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..capture import Site
from . import shares
from .observed import Observed
from .synchrony import lifts

Floats = NDArray[np.float64]
Row = dict[str, Any]


def heads(observed: Observed, sites: Sequence[Site], unit_ids: Sequence[str]) -> list[Row]:
    """Return one row per site and head, a mapping from column to value.

    ``units_sum`` is the effective number of units of the attention (exponential of the entropy),
    ``units_uniform`` what uniform attention to all tokens would have; ``units_lift`` that of the
    lift, at most the number of units with tokens, and ``units_lift_step`` its mean over steps.
    ``start_end`` is the share on those tokens, ``start_end_uniform`` their share of all tokens;
    ``top_share`` the share of the unit attended to most. These exist where keys are tokens; latents
    have no unit, there they are NaN. ``lag`` is query time minus key time weighted by attention,
    mean over queries, s; ``output`` the mean norm of the head's contribution to the layer.
    """
    rows = []
    for site in sites:
        for h in range(site.heads):
            row: Row = {"site": site.name, "head": h}
            if site.keys == "tokens":
                row |= _spread(observed, h, unit_ids)
            row |= {"lag": observed.lag[site.name][h], "output": observed.output[site.name][h]}
            rows.append(row)
    blank = dict.fromkeys(rows[0], math.nan) | {"top_unit": ""}
    return [blank | row for row in rows]


def _spread(observed: Observed, head: int, unit_ids: Sequence[str]) -> Row:
    sums = observed.sums[observed.which][:, head].sum(0)  # [U]
    tokens = observed.tokens.counts[observed.which].sum(0)
    part = shares.share(sums)
    lift = np.nan_to_num(shares.lift(sums, tokens))
    by_step = np.nan_to_num(lifts(observed)[:, :, head]).reshape(-1, len(sums))
    by_step = shares.share(by_step[by_step.any(1)])  # a silent window has no steps
    spikes, every = (observed.sums[t][:, head].sum() for t in ("spikes", "all"))
    counts = {t: observed.tokens.counts[t].sum() for t in ("spikes", "all")}
    top = int(np.argmax(part))
    return {
        "units_sum": shares.effective(part),
        "units_uniform": shares.effective(shares.share(tokens.astype(np.float64))),
        "units_lift": shares.effective(shares.share(lift)),
        "units_lift_step": shares.effective(by_step).mean(),
        "participation_sum": shares.participation(part),
        "participation_lift": shares.participation(shares.share(lift)),
        "gini_sum": shares.gini(part),
        "gini_lift": shares.gini(shares.share(lift)),
        "start_end": max(0.0, 1 - spikes / every),  # a share, whatever the rounding
        "start_end_uniform": 1 - counts["spikes"] / counts["all"],
        "top_unit": unit_ids[top],
        "top_share": part[top],
    }

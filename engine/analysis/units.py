"""One row per unit: how much of the attention it gets, and against what."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..recordings import Recording
from . import shares
from .observed import TOKENS, Observed

Floats = NDArray[np.float64]
BLOCKS = 10  # of consecutive windows; odd ones against even ones
DESCRIBED = ("label", "area", "position")  # columns of a recording that go into the table


def attention(observed: Observed) -> dict[str, NDArray[Any]]:
    """Return the columns that depend on the model, ``[U]`` each.

    ``sum_*`` add attention over windows, latents and heads, ``lift_*`` divide shares, see
    :mod:`attendrite.analysis.shares`; ``*_all`` count START and END, ``*_spikes`` do not. ``rank``
    orders by ``sum_spikes``, 1 the most attended to. ``lift_h0`` and so on are of single heads and
    the tokens asked for.
    """
    out: dict[str, NDArray[Any]] = {}
    for which in TOKENS:
        sums, tokens = observed.sums[which], observed.tokens.counts[which]
        out[f"sum_{which}"] = sums.sum((0, 1))
        out[f"lift_{which}"] = shares.lift(sums.sum((0, 1)), tokens.sum(0))
        out[f"lift_within_{which}"] = shares.lift_within(sums.sum(1), tokens)
    out["rank"] = ranks(out["sum_spikes"])
    out["rollout"] = observed.rollout.sum(0)
    out["rollout_lift"] = shares.lift(out["rollout"], observed.tokens.counts["all"].sum(0))
    by_head = shares.lift(
        observed.sums[observed.which].sum(0), observed.tokens.counts[observed.which].sum(0)
    )
    return out | {f"lift_h{h}": row for h, row in enumerate(by_head)}


def described(recording: Recording, observed: Observed) -> dict[str, NDArray[Any]]:
    """Return the columns that do not depend on the model, ``[U]`` each; the rate in Hz.

    The rate is that in the analysed windows; fluorescence has none.
    """
    out: dict[str, NDArray[Any]] = {"unit": np.array(recording.unit_ids)}
    for name in DESCRIBED:
        column = recording.unit_columns.get(name)
        if column is not None and column.ndim == 1:
            out[name] = column
        elif column is not None and column.ndim == 2:
            out |= {f"{name}_{i}": column[:, i] for i in range(column.shape[1])}
    counts = {which: observed.tokens.counts[which].sum(0) for which in TOKENS}
    seconds = len(observed.windows.starts) * observed.windows.length
    rate = counts["spikes"] / seconds
    out["rate_hz"] = rate if recording.traces is None else np.full(len(rate), np.nan)
    return out | {f"tokens_{which}": counts[which] for which in TOKENS}


def ranks(values: Floats) -> NDArray[np.int64]:
    """Rank from 1, the largest; equal values in the order of units."""
    out = np.empty(len(values), np.int64)
    out[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return out


def reliability(observed: Observed) -> dict[str, dict[str, float]]:
    """Return how well two halves of the windows agree on the order of units.

    The windows are cut into up to ten blocks of time, odd ones against even ones: Spearman's
    correlation over units of each half's figures, and what Spearman and Brown 1910 expect of all
    windows, ``2 r / (1 + r)``.
    """
    count = len(observed.windows.starts)
    block = np.arange(count) * min(BLOCKS, count) // count
    halves = [_figures(observed, block % 2 == half) for half in (0, 1)]
    out = {}
    for name in halves[0]:
        r = shares.correlation(halves[0][name], halves[1][name])
        out[name] = {"spearman": r, "spearman_brown": 2 * r / (1 + r) if r > -1 else np.nan}
    return out


def _figures(observed: Observed, windows: NDArray[np.bool_]) -> dict[str, Floats]:
    sums, tokens = observed.sums["spikes"][windows], observed.tokens.counts["spikes"][windows]
    rolled, every = observed.rollout[windows], observed.tokens.counts["all"][windows]
    return {
        "sum_spikes": sums.sum((0, 1)),
        "lift_spikes": shares.lift(sums.sum((0, 1)), tokens.sum(0)),
        "rollout": rolled.sum(0),
        "rollout_lift": shares.lift(rolled.sum(0), every.sum(0)),
    }

"""Tokens of one window after the other, by plain numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._checks import check_window
from ._tokens import END, SPIKE, START, Tokens, Workspace, allocate

PRIORITY = 0


def refuses(**_request: object) -> str | None:
    """Serve every request."""
    return None


def run(
    times: NDArray[np.float64],
    units: NDArray[np.int32],
    *,
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    origin: NDArray[np.float64],
    length: float,
    n_units: int,
    window_units: NDArray[np.bool_] | None,
    order: str,
    form: str,
    pad_multiple: int,
    tick_rate: float,
    out: Workspace | None,
    threads: int,
) -> Tokens:
    """Make tokens; arguments as in :func:`tokenize_poyo`."""
    windows = []
    for w, (a, b) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        check_window(
            times, units, window=w, begin=a, end=b, origin=float(origin[w]), length=length,
            n_units=n_units, tick_rate=tick_rate,
        )  # fmt: skip
        exists = np.ones(n_units, bool) if window_units is None else window_units[w]
        kept = exists[units[a:b]]
        listed = np.flatnonzero(exists)
        unit = np.concatenate([np.repeat(listed, 2), units[a:b][kept]])
        time = np.concatenate([np.tile([0.0, length], listed.size), times[a:b][kept] - origin[w]])
        kind = np.concatenate([np.tile([START, END], listed.size), np.full(kept.sum(), SPIKE)])
        if order == "unit":  # stable: START, END, then spikes in time order within a unit
            by_unit = np.argsort(unit, kind="stable")
            unit, time, kind = unit[by_unit], time[by_unit], kind[by_unit]
        windows.append((unit, time, kind))

    lengths = np.array([len(unit) for unit, _, _ in windows], dtype=np.int64)
    tokens = allocate(lengths, n_units, order=order, form=form, pad_multiple=pad_multiple, out=out)
    for target in (tokens.unit, tokens.time, tokens.type, tokens.mask):
        if target is not None:
            target[...] = 0
    for w, (unit, time, kind) in enumerate(windows):
        where: tuple[int, slice] | slice = slice(tokens.cu_seqlens[w], tokens.cu_seqlens[w + 1])
        if tokens.mask is not None:
            where = (w, slice(0, lengths[w]))
            tokens.mask[where] = True
        tokens.unit[where], tokens.time[where], tokens.type[where] = unit, time, kind
        if tokens.unit_offsets is not None:
            tokens.unit_offsets[w] = np.searchsorted(unit, np.arange(n_units + 1))
    return tokens


def ranges(
    times: NDArray[np.float64], starts: NDArray[np.float64], length_ticks: int, tick_rate: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find windows; arguments as in :func:`window_ranges`."""
    ticks = np.rint(times * tick_rate)
    first = np.rint(starts * tick_rate)
    return np.searchsorted(ticks, first), np.searchsorted(ticks, first + length_ticks)

"""C++: one pass over the spikes of a window in time order, a counting sort by unit; any threads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ._checks import check_window
from ._tokens import Tokens, Workspace, allocate

PRIORITY = 10


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
    bad = -1
    memory = Workspace() if out is None else out
    lengths = memory.take("lengths", begin.shape, np.int64)
    if window_units is None:
        np.subtract(end, begin, out=lengths)
        lengths += 2 * n_units
    else:
        bad = _core.count_tokens(units, begin, end, window_units, n_units, lengths, threads)
    if bad < 0:
        tokens = allocate(
            lengths, n_units, order=order, form=form, pad_multiple=pad_multiple, out=memory
        )
        bad = _core.write_tokens(
            times, units, begin, end, origin, window_units, n_units, length, 1.0 / tick_rate,
            tokens.unit, tokens.time, tokens.type, tokens.cu_seqlens, tokens.mask,
            tokens.unit_offsets, threads,
        )  # fmt: skip
    if bad < 0:
        return tokens
    check_window(
        times, units, window=bad, begin=int(begin[bad]), end=int(end[bad]),
        origin=float(origin[bad]), length=length, n_units=n_units, tick_rate=tick_rate,
    )  # fmt: skip
    raise AssertionError(f"window {bad} was refused without a reason")


def ranges(
    times: NDArray[np.float64], starts: NDArray[np.float64], length_ticks: int, tick_rate: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find windows; arguments as in :func:`window_ranges`."""
    found: tuple[NDArray[np.int64], NDArray[np.int64]] = _core.window_ranges(
        times, starts, float(length_ticks), tick_rate
    )
    return found

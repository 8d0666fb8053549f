"""Decode a recording: windows over time, stitched into one trajectory.

Two supports, never mixed:

* **acausal**: windows overlap (hop = half a window) and cover the recording; a value is the mean
  over the windows that hold its time. Each of them sees spikes before and after that time.
* **causal**: one window per value, ending at its time; nothing later is seen.

Windows stay inside the given intervals. Where a bundle records which blocks of time were kept from
training, the recording is cut at their edges, so that no window on held-out time reaches into
training time.

Cost: one forward per window: ``2 * duration / sequence_length`` of them acausal, one per decoded
value causal. Memory: ``batch_size`` windows and the decoded values, whatever the duration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from . import errors
from .batches import NO_TASK, CalciumBatch, SpikeBatch
from .evaluation import Split
from .recordings import Recording
from .runtime import Engine, Result

Interval = tuple[float, float]


@dataclass(frozen=True)
class Decoded:
    """Decoded values in time order.

    Attributes:
        times: ``[n]``, float64, seconds.
        values: ``[n, d]``, float64; NaN where no window could be placed.
        windows: How many windows were averaged, ``[n]``, int32; 0 where ``values`` is NaN.
        causal: Whether each value saw nothing later than its time.
    """

    times: NDArray[np.float64]
    values: NDArray[np.float64]
    windows: NDArray[np.int32]
    causal: bool


@dataclass(frozen=True)
class _Plan:
    """Windows and the run of queries that each of them answers."""

    starts: NDArray[np.float64]  # [W] s
    first: NDArray[np.int64]  # [W]
    stop: NDArray[np.int64]  # [W]


def decode(
    engine: Engine,
    recording: Recording,
    query_times: NDArray[np.float64],
    *,
    causal: bool = False,
    hop: float | None = None,
    intervals: Sequence[Interval] | None = None,
    session: str | None = None,
    task: str | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> Decoded:
    """Decode a recording at the given times.

    Args:
        engine: The loaded bundle.
        recording: Its units and session must be known to the bundle.
        query_times: ``[n]``, float64, seconds in the recording's time, sorted.
        causal: One window per query, ending there, instead of overlapping windows.
        hop: Seconds between acausal windows, at most the window's length; default half of it.
        intervals: Stretches of time that windows must stay inside; default the bundle's held-out
            blocks and the rest of the recording, each for itself.
        session: The bundle's name for this recording; default the recording's own.
        task: Which read-out of a family with several tasks.
        batch_size: Windows per forward: bounds the memory.
        progress: Show a progress bar on stderr when it is a terminal.

    Returns:
        The decoded values, one row per query.

    Raises:
        AttendriteError: Unknown units, session or task, unsorted times, a bad hop, or intervals
            that are all shorter than a window.
    """
    length = engine.manifest.sequence_length
    query_times = np.asarray(query_times, np.float64)
    errors.finite("query_times", query_times)
    errors.monotonic("query_times", query_times)
    spans = list(intervals) if intervals is not None else cut_at_held_out(engine, recording)
    plan = _causal(query_times, spans, length) if causal else _acausal(
        query_times, spans, length, _checked_hop(hop, length)
    )  # fmt: skip

    total: NDArray[np.float64] | None = None
    windows = np.zeros(len(query_times), np.int32)
    bar = tqdm(total=len(plan.starts), unit="window", disable=None if progress else True)
    with bar:
        for rows in _batches(plan, batch_size):
            for first, stop, values in _answers(
                engine, recording, query_times, plan, rows, session, task
            ):
                if total is None:
                    total = np.zeros((len(query_times), values.shape[1]))
                total[first:stop] += values
                windows[first:stop] += 1
            bar.update(len(rows))
    if total is None:
        raise errors.must(
            "query_times",
            f"lie where a window of {length:g} s fits",
            f"{len(query_times)} times and the intervals {_listed(spans)}",
        )
    total[windows == 0] = np.nan
    values = total / np.maximum(windows, 1)[:, None]
    return Decoded(query_times, values, windows, causal)


def cut_at_held_out(engine: Engine, recording: Recording) -> list[Interval]:
    """Cut the recording's domain at the edges of the blocks that the bundle kept from training."""
    start, stop = recording.domain
    inner = {edge for block in held_out(engine, recording) for edge in block}
    edges = sorted({start, stop} | {edge for edge in inner if start < edge < stop})
    return list(pairwise(edges))


def held_out(engine: Engine, recording: Recording) -> list[Interval]:
    """Blocks of the recording that the bundle's manifest names as kept from training, if any."""
    facts = engine.manifest.training
    if facts.get("session") != recording.session or "split" not in facts:
        return []
    return Split.from_json(facts["split"]).intervals("test")


def _checked_hop(hop: float | None, length: float) -> float:
    if hop is None:
        return length / 2
    if not 0 < hop <= length:
        raise errors.must("hop", f"be above 0 and at most the window's {length:g} s", hop)
    return hop


def _acausal(
    queries: NDArray[np.float64], spans: Sequence[Interval], length: float, hop: float
) -> _Plan:
    starts = [s for start, stop in spans for s in _grid(start, stop, length, hop)]
    at = np.array(starts, np.float64)
    first = np.searchsorted(queries, at, "left")
    last = np.searchsorted(queries, at + length, "left")
    some = last > first
    return _Plan(at[some], first[some], last[some])


def _grid(start: float, stop: float, length: float, hop: float) -> list[float]:
    """Window starts every ``hop``; the last window ends with the interval."""
    room = stop - start - length
    if room < 0:
        return []
    steps = int(np.floor(room / hop * (1 + 1e-12)))
    grid = [start + k * hop for k in range(steps + 1)]
    return grid if room - steps * hop < 1e-9 else [*grid, stop - length]


def _causal(queries: NDArray[np.float64], spans: Sequence[Interval], length: float) -> _Plan:
    rows = [
        np.arange(
            np.searchsorted(queries, start + length, "left"), np.searchsorted(queries, stop, "left")
        )
        for start, stop in spans
    ]
    each = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return _Plan(queries[each] - length, each, each + 1)


def _batches(plan: _Plan, size: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(plan.starts), size):
        yield np.arange(first, min(first + size, len(plan.starts)))


def _answers(
    engine: Engine,
    recording: Recording,
    queries: NDArray[np.float64],
    plan: _Plan,
    rows: NDArray[np.int64],
    session: str | None,
    task: str | None,
) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
    """Run one batch of windows; yield the run of queries and the values of each window."""
    starts, first, stop = plan.starts[rows], plan.first[rows], plan.stop[rows]
    length = engine.manifest.sequence_length
    counts = stop - first
    there = np.arange(counts.max()) < counts[:, None]  # [B, Q]
    which = np.where(there, first[:, None] + np.arange(counts.max()), first[:, None])
    # a query's time in its window is never outside the window for rounding's sake
    relative = np.clip(queries[which] - starts[:, None], 0, length)
    tasks = None if task is None else np.where(there, task, NO_TASK)
    kind = SpikeBatch if recording.traces is None else CalciumBatch
    batch = kind.from_recording(
        recording, starts, length, relative, session=session, query_task=tasks
    )
    for row, values in enumerate(_per_window(engine.run(batch), task)):
        yield int(first[row]), int(stop[row]), values[: counts[row]]


def _per_window(result: Result, task: str | None) -> list[NDArray[np.float64]]:
    prediction = result.prediction
    if not isinstance(prediction, dict):
        return list(np.asarray(prediction, np.float64))
    values, index = prediction[str(task)], result.prediction_index[str(task)]
    cuts = np.flatnonzero(np.diff(index[:, 0])) + 1
    return [np.asarray(v, np.float64) for v in np.split(values, cuts)]


def _listed(spans: Sequence[Interval]) -> str:
    return ", ".join(f"{a:g}..{b:g} s" for a, b in spans[:4]) + (" ..." if len(spans) > 4 else "")

"""Where the analysed windows lie: side by side, never over each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..recordings import Recording

Interval = tuple[float, float]
ROUNDING = 1e-9  # of a window: a stretch of time that holds it but for rounding holds it


@dataclass(frozen=True)
class Trials:
    """Repeats of a stimulus or task, and which of them are alike.

    Attributes:
        name: Of the intervals.
        column: That names the condition of each trial; empty: all are alike.
    """

    name: str
    column: str = ""

    @classmethod
    def parse(cls, text: str) -> Trials:
        """Read ``NAME`` or ``NAME:COLUMN``."""
        name, _, column = text.partition(":")
        return cls(name, column)

    def __str__(self) -> str:
        return self.name + (f":{self.column}" if self.column else "")


@dataclass(frozen=True)
class Windows:
    """Windows of one length that do not overlap, in time order.

    Attributes:
        starts: ``[W]``, float64, seconds.
        length: Seconds.
        per_trial: Windows of each trial, which lie one after the other; 0 without trials.
        condition: Condition of each trial, ``[W / per_trial]``, int64; ``None`` without trials.
    """

    starts: NDArray[np.float64]
    length: float
    per_trial: int = 0
    condition: NDArray[np.int64] | None = None


def place(
    recording: Recording,
    length: float,
    spans: Sequence[Interval],
    trials: Trials | None = None,
) -> Windows:
    """Place windows side by side, from the start of each stretch of time or of each trial.

    Args:
        recording: Whose trials they are.
        length: Of the windows, seconds.
        spans: Where windows may lie; they may overlap.
        trials: With them every trial gets as many windows from its start as the shortest one holds,
            and one if that is shorter than a window.

    Raises:
        AttendriteError: No window fits, unknown trials, or some so close that windows overlap.
    """
    merged = union(spans)
    if trials is not None:
        return _in_trials(recording, length, merged, trials)
    starts = [s for start, stop in merged for s in _tiles(start, _fitting(stop - start, length),
                                                          length)]  # fmt: skip
    if not starts:
        raise errors.must("the time to analyse", f"hold a window of {length:g} s", _said(merged))
    return Windows(np.array(starts), length)


def union(spans: Sequence[Interval]) -> list[Interval]:
    """Return the same stretches of time, sorted and without overlap."""
    out: list[Interval] = []
    for start, stop in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(stop, out[-1][1]))
        else:
            out.append((start, stop))
    return out


def _in_trials(
    recording: Recording, length: float, spans: Sequence[Interval], trials: Trials
) -> Windows:
    errors.choice("intervals", trials.name, recording.intervals)
    found = recording.intervals[trials.name]
    if trials.column:
        errors.choice(f"column of {trials.name}", trials.column, found.columns)
    order = np.argsort(found.start, kind="stable")
    found = found.select(order)
    shortest = float((found.stop - found.start).min(initial=np.inf))
    count = 1 if np.isinf(shortest) else max(1, _fitting(shortest, length))
    ends, slack = found.start + count * length, ROUNDING * length
    inside = [
        any(a <= x and y <= b + slack for a, b in spans)
        for x, y in zip(found.start.tolist(), ends.tolist(), strict=True)
    ]
    found, ends = found.select(np.array(inside, np.bool_)), ends[np.array(inside, np.bool_)]
    if not len(found):
        be = f"leave room for a window of {length:g} s in the time to analyse"
        raise errors.must(f"trials {trials.name!r}", be, "none that does")
    over = np.flatnonzero(found.start[1:] < ends[:-1] - slack)
    if over.size:
        raise errors.must(
            f"trials {trials.name!r}",
            f"begin at least {count * length:g} s after each other",
            f"{found.start[over[0]]:g} s and {found.start[over[0] + 1]:g} s",
            "windows would overlap: name others",
        )
    starts = np.concatenate([_tiles(start, count, length) for start in found.start])
    condition = np.zeros(len(found), np.int64)
    if trials.column:
        values = found.columns[trials.column]
        condition = np.unique(values, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return Windows(starts, length, count, condition)


def _tiles(start: float, count: int, length: float) -> NDArray[np.float64]:
    return start + length * np.arange(count, dtype=np.float64)


def _fitting(room: float, length: float) -> int:
    return int(np.floor(room / length + ROUNDING))


def _said(spans: Sequence[Interval]) -> str:
    longest = max((stop - start for start, stop in spans), default=0.0)
    return f"{len(spans)} stretches of at most {longest:g} s"

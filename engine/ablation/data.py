"""Windows to rank on and to evaluate on, what is decoded in them, and in which blocks they lie.

Windows lie side by side and never overlap: a spike counts once. Each begins a random time after the
one before, so that stimuli which come at fixed times lie anywhere in it: a model cannot read the
answer off its clock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..batches import NO_TASK, CalciumBatch, SpikeBatch
from ..evaluation import Split, inside
from ..evaluation.splits import ROLES, describe
from ..recordings import Recording, Series
from ..runtime import Engine

Interval = tuple[float, float]
Floats = NDArray[np.float64]

HALVES = ("even", "odd")  # of BLOCKS blocks of time of equal length
BLOCKS = 10
SLACK = 0.5  # windows of a stretch that are given up, so that the others may lie at random
MOST_BLOCKS = 100  # to resample
FEWEST_LAGS = 2
PER_WINDOW = 16  # values decoded in a window, if nothing else is said


@dataclass(frozen=True, eq=False)
class Data:
    """``W`` windows, and the true values of what is decoded in them.

    Attributes:
        batch: The windows; where there is no query, one is repeated (or its task is "").
        starts: ``[W]``, float64, seconds.
        asked: Which queries are there, ``[W, Q]``, bool.
        true: True values, ``[W, Q, D]``, float64, of classes int64; 0 where there is no query.
        block: Block of each window, ``[W]``, int64, rising from 0: what is resampled.
        spans: The stretches of time that the windows were placed in.
        task: Which read-out, for a model with several.
    """

    batch: SpikeBatch | CalciumBatch
    starts: Floats
    asked: NDArray[np.bool_]
    true: NDArray[Any]
    block: NDArray[np.int64]
    spans: tuple[Interval, ...]
    task: str | None = None

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return int(self.block[-1]) + 1

    @property
    def samples(self) -> int:
        """Number of values that are decoded."""
        return int(self.asked.sum())


@dataclass(frozen=True)
class Target:
    """What is decoded.

    Attributes:
        series: Name of a series of the recording.
        within: Name of intervals of the recording outside of which nothing is scored.
        spacing: Seconds between values decoded; ``None``: a 16th of a window or the series' own
            step, whichever is longer.
        task: Which read-out, for a model with several.
        session: The bundle's name for the recording; default the recording's own.
        trials: Name of intervals of the recording: windows lie in them, and they are resampled.
    """

    series: str
    within: str | None = None
    spacing: float | None = None
    task: str | None = None
    session: str | None = None
    trials: str | None = None


def spans(engine: Engine, recording: Recording, text: str) -> list[Interval]:
    """Read which stretches of time are meant.

    Args:
        engine: Whose bundle may name its ``training``, ``validation`` and ``test`` time.
        recording: Which may have intervals of a name.
        text: One of those three; ``even`` or ``odd``, of ten blocks of equal length; the name of
            intervals; or ``START-STOP,START-STOP,...`` in seconds.

    Raises:
        AttendriteError: None of these, or not known.
    """
    if text in ROLES:
        facts = engine.manifest.training
        if facts.get("session") != recording.session or "split" not in facts:
            raise errors.must(
                f"the bundle, for {text!r} time",
                f"say how it was trained on {recording.session}",
                "nothing about it",
                "name stretches of time, even or odd",
            )
        return Split.from_json(facts["split"]).intervals(text)
    if text in HALVES:
        edges = np.linspace(*recording.domain, BLOCKS + 1)
        first = HALVES.index(text)
        return [(float(edges[i]), float(edges[i + 1])) for i in range(first, BLOCKS, 2)]
    if text in recording.intervals:
        return stretches(recording, text)
    number = r"[0-9]+(?:\.[0-9]*)?"
    if not re.fullmatch(rf"{number}-{number}(?:,{number}-{number})*", text):
        known = ", ".join([*ROLES, *HALVES, *recording.intervals, "START-STOP,..."])
        raise errors.must("stretches of time", f"be one of {known}", repr(text))
    out = []
    for part in text.split(","):
        start, stop = map(float, part.split("-"))
        if not start < stop:
            raise errors.must("a stretch of time", "have START below STOP", part)
        out.append((start, stop))
    return out


def stretches(recording: Recording, name: str) -> list[Interval]:
    """Return intervals of a recording."""
    where = recording.intervals[name]
    return list(zip(where.start.tolist(), where.stop.tolist(), strict=True))


def overlap(ranked: Sequence[Interval], evaluated: Sequence[Interval]) -> Interval | None:
    """Return the first time that two sets of stretches share."""
    both = ((max(a[0], b[0]), min(a[1], b[1])) for a in ranked for b in evaluated)
    return next((each for each in both if each[0] < each[1]), None)


def check_disjoint(ranked: Sequence[Interval], evaluated: Sequence[Interval]) -> None:
    """Refuse data to rank on that are among those to evaluate on.

    Raises:
        AttendriteError: With the time they share.
    """
    shared = overlap(ranked, evaluated)
    if shared is not None:
        raise errors.must(
            "time to rank on and time to evaluate on",
            "be disjoint",
            f"{shared[0]:g} to {shared[1]:g} s in both",
            "name other stretches, or allow the overlap and read the curve with care",
        )


def place(
    engine: Engine, recording: Recording, target: Target, where: Sequence[Interval], seed: int
) -> Data:
    """Place windows in stretches of time and take the true values there.

    Args:
        engine: Whose windows they are.
        recording: Known to the model.
        target: What is decoded.
        where: Stretches of time; windows lie inside one each.
        seed: Of the windows' offsets.

    Raises:
        AttendriteError: An unknown name, no room for a window, no values in any window.
    """
    errors.choice("series", target.series, recording.series)
    for name in (target.within, target.trials):
        if name is not None:
            errors.choice("intervals", name, recording.intervals)
    truth = recording.series[target.series]
    length = engine.manifest.sequence_length
    rng = np.random.default_rng([seed, 0])
    if target.trials is None:
        starts, trial = scattered(where, length, rng), None
    else:
        starts, trial = in_trials(recording, target.trials, where, length, rng)
    spacing = _spacing(truth, target.spacing, length)
    picked = [_samples(recording, truth, target, s, length, spacing, rng) for s in starts.tolist()]
    used = np.flatnonzero([len(each) > 0 for each in picked])
    if not used.size:
        raise errors.must(
            f"windows of {length:g} s in {describe(list(where)[:4])}",
            f"hold samples of {target.series!r}"
            + (f" within {target.within!r}" if target.within else ""),
            f"none in {len(starts)} windows",
        )
    starts, picked = starts[used], [picked[i] for i in used]
    if trial is None:
        block = _blocks(starts, _scored(recording, truth, target, where), length)
    else:
        block = np.unique(trial[used], return_inverse=True)[1].reshape(-1)
    return _data(recording, truth, target, starts, picked, length, block, where)


def scattered(where: Sequence[Interval], length: float, rng: np.random.Generator) -> Floats:
    """Place windows side by side with random gaps, ``[W]`` starts, seconds.

    A stretch without half a window of room to spare holds one window less than it could.
    """
    starts = []
    for start, stop in where:
        room = stop - start
        count = int(np.floor(room / length * (1 + 1e-9)))
        if count > 1 and room - count * length < SLACK * length:
            count -= 1
        spare = max(0.0, room - count * length)
        gaps = np.sort(rng.uniform(0, spare, count))
        starts.append(start + gaps + length * np.arange(count))
    found = np.sort(np.concatenate([np.zeros(0), *starts]))
    if not len(found):
        longest = max((b - a for a, b in where), default=0.0)
        raise errors.must(
            "the time to analyse",
            f"hold a window of {length:g} s",
            f"{len(where)} stretches of at most {longest:g} s",
        )
    return found


def in_trials(
    recording: Recording,
    name: str,
    where: Sequence[Interval],
    length: float,
    rng: np.random.Generator,
) -> tuple[Floats, NDArray[np.int64]]:
    """Place one window or more in each trial, and say in which, ``[W]`` each.

    Those of a trial that is longer than a window lie side by side in it; a shorter one lies at a
    random place in its window. Trials count whose windows lie inside the time that is given.
    """
    trials = recording.intervals[name]
    starts, which = [], []
    order = np.argsort(trials.start, kind="stable")
    for place, i in enumerate(order.tolist()):
        start, stop = float(trials.start[i]), float(trials.stop[i])
        if stop - start >= length:
            mine = scattered([(start, stop)], length, rng)
        else:
            mine = np.array([start - rng.uniform(0, length - (stop - start))])
        if inside(mine, where, 0.0, length).all():
            starts.append(mine)
            which.append(np.full(len(mine), place))
    if not starts:
        raise errors.must(f"trials {name!r}", f"leave room for a window of {length:g} s", "none")
    return np.concatenate(starts), np.concatenate(which)


def _spacing(truth: Series, given: float | None, length: float) -> float:
    if given is not None:
        if not given > 0:
            raise errors.must("the spacing of values", "be above 0 s", given)
        return given
    step = float(np.median(np.diff(truth.times))) if len(truth.times) > 1 else 0.0
    return max(step, length / PER_WINDOW)


def _samples(
    recording: Recording,
    truth: Series,
    target: Target,
    start: float,
    length: float,
    spacing: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return which samples of the series to decode in a window: no value is interpolated."""
    grid = np.arange(start + rng.uniform(0, spacing), start + length, spacing)
    at = np.unique(np.searchsorted(truth.times, grid, "left"))
    at = at[at < len(truth.times)]
    times = truth.times[at]
    there = (times >= start) & (times < start + length) & np.isfinite(truth.values[at]).all(1)
    for name in (target.within, target.trials):
        if name is not None:
            there &= inside(times, stretches(recording, name))
    picked: NDArray[np.int64] = at[there]
    return picked


def _scored(
    recording: Recording, truth: Series, target: Target, where: Sequence[Interval]
) -> Series:
    """Return the series without what is not scored: it may rest elsewhere for minutes."""
    used = inside(truth.times, where)
    if target.within is not None:
        used &= inside(truth.times, stretches(recording, target.within))
    return replace(truth, values=np.where(used[:, None], truth.values, np.nan))


def _blocks(starts: Floats, truth: Series, length: float) -> NDArray[np.int64]:
    """Group windows into blocks of time at least as long as the series remembers itself."""
    span = max(length, memory(truth), (starts[-1] + length - starts[0]) / MOST_BLOCKS)
    each = np.floor((starts - starts[0]) / span + 1e-9).astype(np.int64)
    return np.unique(each, return_inverse=True)[1].reshape(-1).astype(np.int64)


def memory(truth: Series) -> float:
    """Return the autocorrelation time of a series, seconds: where it falls below 1/e.

    The longest of its columns'; on a grid of its median step, gaps and missing values left out.
    """
    step = float(np.median(np.diff(truth.times))) if len(truth.times) > 1 else 0.0
    if step <= 0:
        return 0.0
    place = np.round((truth.times - truth.times[0]) / step).astype(np.int64)
    longest = 0.0
    for column in truth.values.T.astype(np.float64):
        there = np.isfinite(column)
        size = int(place[-1]) + 1
        values, known = np.zeros(size), np.zeros(size)
        values[place[there]] = column[there] - column[there].mean()
        known[place[there]] = 1
        values *= known
        # Sums over pairs that are known, by the transform of Wiener and Khinchin.
        padded = 2 * size
        pairs = np.fft.irfft(np.abs(np.fft.rfft(known, padded)) ** 2, padded)[:size]
        sums = np.fft.irfft(np.abs(np.fft.rfft(values, padded)) ** 2, padded)[:size]
        enough = pairs > FEWEST_LAGS
        mean = np.where(enough, sums / np.maximum(pairs, 1), 0)
        if mean[0] > 0:
            longest = max(longest, step * float(np.argmax(mean < mean[0] / np.e)))
    return longest


def _data(
    recording: Recording,
    truth: Series,
    target: Target,
    starts: Floats,
    picked: Sequence[NDArray[np.int64]],
    length: float,
    block: NDArray[np.int64],
    where: Sequence[Interval],
) -> Data:
    most = max(map(len, picked))
    counts = np.array([len(each) for each in picked])
    asked = np.arange(most) < counts[:, None]
    which = np.stack([np.pad(each, (0, most - len(each)), mode="edge") for each in picked])
    relative = np.clip(truth.times[which] - starts[:, None], 0, length)
    tasks: Any = None if target.task is None else np.where(asked, target.task, NO_TASK)
    kind = SpikeBatch if recording.traces is None else CalciumBatch
    batch = kind.from_recording(
        recording, starts, length, relative, session=target.session, query_task=tasks
    )
    true = np.where(asked[..., None], truth.values[which].astype(np.float64), 0.0)
    return Data(batch, starts, asked, true, block.astype(np.int64), tuple(where), target.task)

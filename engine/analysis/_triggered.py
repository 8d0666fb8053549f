"""Output-triggered averages of spikes: which unit, and when, goes along with what is decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from .. import errors
from ..batches import SpikeBatch
from ..decoding import decode, held_out
from ..evaluation import inside
from ..kernels.bin_spikes import bin_spikes
from ..recordings import Recording, Spikes
from ..runtime import Engine
from .spike_averages import Averages, averages, memory

Floats = NDArray[np.float64]
INPUTS = ("recorded", "poisson")
TICK_HZ = 1e6
REMEMBERED = 5  # times the memory of the output: what a block holds at least


@dataclass(frozen=True, eq=False)
class Triggered:
    """Averages of the spikes of ``U`` units around ``D`` outputs, at ``L`` lags.

    Attributes:
        average: ``[D, U, L]``, float64, Hz per standard deviation of the output.
        even: Of every second block of time alone; ``odd`` of the others.
        odd: See there.
        standard_error: From blocks of time; NaN with fewer than eight.
        weights: Of Poisson input, change of the output per spike, ``[D, U, L]``, in the output's
            unit: the best linear prediction of the output from spikes; else ``None``.
        lags: Middle of each lag bin, ``[L]``, seconds; negative: spikes before the output.
        outputs: Names of the ``D`` outputs.
        unit_ids: Names of the ``U`` units.
        units: One row per output and unit, by column; see docs/triggered.md.
        meta: Choices and facts; JSON can hold it.
    """

    average: Floats
    even: Floats
    odd: Floats
    standard_error: Floats
    weights: Floats | None
    lags: Floats
    outputs: tuple[str, ...]
    unit_ids: tuple[str, ...]
    units: dict[str, NDArray[Any]]
    meta: dict[str, Any]

    @property
    def z(self) -> Floats:
        """Average over standard error, ``[D, U, L]``; NaN where there is none."""
        return _over(self.average, self.standard_error)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored, by name."""
        names = "average", "even", "odd", "standard_error", "weights", "lags"
        found = {name: x for name in names if (x := getattr(self, name)) is not None}
        return found | {"outputs": np.array(self.outputs), "unit_ids": np.array(self.unit_ids)}


def triggered(
    engine: Engine,
    recording: Recording,
    *,
    given: str = "recorded",
    width: float = 0.02,
    before: float | None = None,
    after: float | None = None,
    causal: bool = False,
    within: str | None = None,
    seconds: float | None = None,
    seed: int = 0,
    task: str | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> Triggered:
    """Average spikes around what a model decodes from them.

    The recording is decoded at the start of every bin (:func:`attendrite.decode`), and the spikes
    around each of these times are averaged with the decoded value as weight; definition, errors and
    test are those of :mod:`attendrite.analysis.spike_averages`.

    Of **recorded** spikes the average holds the model and the animal: units that fire together, or
    a behaviour that changes slowly, put weight on units and lags that the model does not use, even
    on lags that it cannot see. Of **poisson** spikes, independent from unit to unit and bin to bin
    at each unit's mean rate ``r``, what is not 0 is of the model alone, and

        weights = A sd(y) / r = cov(y, c) / var(c)

    is the best linear prediction of the output from white spikes, in its unit per spike.

    Args:
        engine: A decoder of spikes.
        recording: Its units and session must be known to the model.
        given: ``recorded``: its spikes; or ``poisson``.
        width: Of a bin, seconds; a whole number of microseconds.
        before: Lags before the output, seconds, rounded up to bins; default one window.
        after: Lags after it; default one window, none if causal.
        causal: Decode from windows that end at the value's time, instead of overlapping windows.
        within: Average over times inside these intervals of the recording only.
        seconds: Of Poisson spikes; default as long as the recording.
        seed: Of Poisson spikes.
        task: Which read-out of a family with several tasks.
        batch_size: Windows per forward.
        progress: Show a progress bar on stderr when it is a terminal.

    Raises:
        AttendriteError: Not a decoder of spikes, an unknown name, a bad width, no room for windows
            and lags, an output that never changes, or a recording that does not fit the model.

    Example:
        >>> found = triggered(engine, recording, given="poisson", seconds=3600)
        >>> found.average.shape, found.units["p_value"].min()
        ((2, 31, 300), 0.001)
    """
    _check(engine, recording, given, width, within, seconds)
    length = engine.manifest.sequence_length
    before = length if before is None else before
    after = (0.0 if causal else length) if after is None else after
    if not (0 <= before < math.inf and 0 <= after < math.inf and before + after > 0):
        got = f"{before} and {after} s"
        raise errors.must("lags before and after", "be 0 s or more and not both 0", got)
    lags = [math.ceil(span / width - 1e-9) for span in (before, after)]  # bins
    if given == "poisson":
        recording = poisson(recording, recording.duration if seconds is None else seconds, seed)
    start, size = recording.domain[0], int(recording.duration / width + 1e-9)
    times = (round(start * TICK_HZ) + round(width * TICK_HZ) * np.arange(size)) / TICK_HZ
    decoded = decode(
        engine, recording, times,
        causal=causal, task=task, batch_size=batch_size, progress=progress,
        intervals=[recording.domain] if given == "poisson" else None,
    )  # fmt: skip
    used = decoded.windows > 0
    used[: lags[0]] = False
    used[size - max(lags[1], 1) + 1 :] = False
    if within is not None:
        where = recording.intervals[within]
        used &= inside(times, list(zip(where.start.tolist(), where.stop.tolist(), strict=True)))
    counts, _ = bin_spikes(
        recording.spikes.times, recording.spikes.units, width=width, n_bins=size, start=start,
        n_units=len(recording.unit_ids), dtype=np.uint16, outside="drop",
    )  # fmt: skip
    remembered = memory(decoded.values, used) if used.any() else 0
    block = max(sum(lags), math.ceil(2 * length / width), REMEMBERED * remembered)
    found = averages(
        decoded.values, used, counts, before=lags[0], after=lags[1], width=width, block=block
    )
    blocks = held_out(engine, recording) if given == "recorded" else []
    meta = {
        "input": given,
        "seconds": float(used.sum() * width),
        "held_out_s": float(inside(times[used], blocks).sum() * width) if blocks else None,
        "bin_s": width,
        "lags_s": [-lags[0] * width, lags[1] * width],
        "model_sees_s": [-length, 0.0 if causal else length],
        "memory_s": remembered * width,
        "blocks": found.blocks,
        "block_at_least_s": block * width,
        "shifts": found.shifts,
        "choices": {
            "causal": causal,
            "within": within,
            "task": task,
            "seed": seed if given == "poisson" else None,
            "p": "largest average over lags against circular shifts of the output",
        },
        "versions": engine.versions | {"scipy": scipy.__version__},
    }
    rates: Floats = counts[used].mean(0, dtype=np.float64) / width
    middles: Floats = np.arange(-lags[0] + 0.5, lags[1]) * width
    return _described(engine, recording, found, rates, middles, meta)


def check_decoder(engine: Engine) -> None:
    """Refuse a model that does not decode spikes.

    Raises:
        AttendriteError: Says what there is for models of images.
    """
    if engine.model.batch is not SpikeBatch:
        got = f"a {engine.manifest.family} model"
        todo = "for receptive fields of models of images see attendrite fields"
        raise errors.must("the model", "be a decoder of spikes", got, todo)


def poisson(recording: Recording, seconds: float, seed: int) -> Recording:
    """Return independent Poisson spikes of the same units at their mean rates, from 0 s on.

    All spikes together are a Poisson process of the summed rate, and each is a unit's with a chance
    in proportion to its rate; drawn from Philox (Salmon et al. 2011,
    doi:10.1145/2063384.2063405), so that a seed gives the same spikes everywhere.
    """
    rates = recording.rates
    if not rates.sum() > 0:
        raise errors.must("the recording", "hold spikes", "none", "their rates are needed")
    rng = np.random.Generator(np.random.Philox(seed))
    count = rng.poisson(rates.sum() * seconds)
    times = np.sort(rng.uniform(0, seconds, count))
    units = rng.choice(len(rates), count, p=rates / rates.sum()).astype(np.int32)
    spikes = Spikes(times, units)
    return Recording(recording.session, recording.unit_ids, lambda: spikes, (0.0, float(seconds)))


def _check(
    engine: Engine, recording: Recording, given: str, width: float, within: str | None,
    seconds: float | None,
) -> None:  # fmt: skip
    """Refuse what can be refused before anything is computed."""
    errors.choice("input", given, INPUTS)
    check_decoder(engine)
    if recording.traces is not None:
        raise errors.must("the recording", "hold spikes", "fluorescence")
    ticks = width * TICK_HZ
    if not (0 < width < math.inf and abs(ticks - round(ticks)) <= 1e-9 * ticks):
        raise errors.must("the width of a bin", "be a whole number of microseconds", f"{width} s")
    if within is not None:
        errors.choice("intervals", within, recording.intervals)
    if given == "poisson" and within is not None:
        raise errors.must("intervals", "come with recorded spikes", "poisson")
    if given == "recorded" and seconds is not None:
        raise errors.must("seconds", "come with poisson spikes", "recorded")
    if seconds is not None and not 0 < seconds < math.inf:
        raise errors.must("seconds", "be above 0", seconds)


def _described(
    engine: Engine, recording: Recording, found: Averages, rates: Floats, lags: Floats,
    meta: dict[str, Any],
) -> Triggered:  # fmt: skip
    """Make the table, and of Poisson spikes weights and what they explain."""
    outputs = _names(engine, len(found.average))
    table, weights, linear = _table(found, outputs, recording.unit_ids, rates, lags), None, None
    if meta["input"] == "poisson":
        known = np.where(rates > 0, rates, np.nan)
        weights = found.average * found.sd[:, None, None] / known[:, None]
        share = (found.even * found.odd).sum(2) * meta["bin_s"] / known  # [D, U]
        table["linear"] = share.ravel()
        linear = dict(zip(outputs, np.nansum(share, 1).tolist(), strict=True))
    return Triggered(
        found.average, found.even, found.odd, found.standard_error, weights, lags, outputs,
        recording.unit_ids, table, meta | {"linear": linear},
    )  # fmt: skip


def _names(engine: Engine, count: int) -> tuple[str, ...]:
    """Name the outputs as the training did, where it is known."""
    known = engine.manifest.training.get("columns", ())
    return tuple(known) if len(known) == count else tuple(f"value{i}" for i in range(count))


def _over(values: Floats, error: Floats) -> Floats:
    return values / np.where(error > 0, error, np.nan)


def _table(
    found: Averages, outputs: Sequence[str], unit_ids: Sequence[str], rates: Floats, lags: Floats
) -> dict[str, NDArray[Any]]:
    """One row for each output and unit, outputs one after the other."""
    n_outputs, n_units, n_lags = found.average.shape
    average = found.average.reshape(-1, n_lags)
    rows, at = np.arange(len(average)), np.abs(average).argmax(1)
    z = _over(found.average, found.standard_error).reshape(-1, n_lags)[rows, at]
    return {
        "output": np.repeat(outputs, n_units),
        "unit": np.tile(unit_ids, n_outputs),
        "rate_hz": np.tile(rates, n_outputs),
        "peak": average[rows, at],
        "peak_lag": np.where(average.any(1), lags[at], np.nan),
        "peak_z": z,
        "p_value": found.p_value.ravel(),
        "q_value": np.concatenate([_adjusted(p) for p in found.p_value]),
        "split_half": _correlation(found.even, found.odd).ravel(),
    }


def _adjusted(p_value: Floats) -> Floats:
    """Adjust for the number of units (Benjamini and Hochberg 1995); NaN stays."""
    out = np.full(len(p_value), np.nan)
    known = np.isfinite(p_value)
    if known.any():
        out[known] = false_discovery_control(p_value[known])
    return out


def _correlation(a: Floats, b: Floats) -> Floats:
    """Correlate over the last axis; NaN where one is constant."""
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return _over((a * b).sum(-1), norms)

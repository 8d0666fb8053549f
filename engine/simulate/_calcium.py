"""Calcium traces of orientation-tuned cells of two genetic lines, one line per session.

Gratings drift for 2 s with 1 s of grey between, as in the Allen Brain Observatory (de Vries et
al. 2020, doi:10.1038/s41593-019-0550-9). At ``d`` from its preferred direction a cell fires at

    base + peak * exp(kappa * (cos(2 d) - 1)) * (1 + bias * cos(d)) / (1 + bias)

a von Mises curve of orientation, times the gains of the session and, during gratings, of the trial.
dF/F is the sum of a double exponential per spike, plus white noise.

The lines differ in one way that is known: somata of GABAergic cells are little tuned (Chen et al.
2013, PMC3777791), parvalbumin cells more broadly than others on average (Runyan and Sur 2013,
PMC3724550). The kernel peaks 51 ms after a spike, within the 50-75 ms that Chen et al. give as the
rise time of GCaMP6f. All numbers but these and the times of the gratings are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from .. import errors
from ..recordings import Intervals, Recording, Series, Spikes
from ._checks import count, positive
from ._random import stream
from ._spiking import fire

Floats = NDArray[np.float64]

ON_S, OFF_S = 2.0, 1.0
N_DIRECTIONS = 8
RISE_S, DECAY_S = 0.02, 0.2
AMPLITUDE = 0.2  # dF/F at the peak of one spike's transient
NOISE = 0.1  # sd of dF/F in a frame
PEAK_SPREAD = 0.5  # sd of the logarithm of the peak rate over cells
KAPPA_SPREAD = 0.4  # the same of kappa
SESSION_SPREAD = 0.25  # the same of rates and of noise, over sessions
TRIAL_SPREAD = 0.2  # the same of rates over trials, shared by all cells
FINE = 360  # angles at which the selectivity of a curve is measured


@dataclass(frozen=True)
class Line:
    """A genetic line.

    Attributes:
        kappa: Median concentration of the von Mises curve of orientation.
        base: Rate without a grating, Hz.
        peak: Median rate that the best grating adds, Hz.
        bias: Of the best direction against its reverse, 0 to 1.
    """

    kappa: float
    base: float
    peak: float
    bias: float

    def __post_init__(self) -> None:
        positive(kappa=self.kappa, base=self.base, peak=self.peak)
        if not 0 <= self.bias <= 1:
            raise errors.must("bias", "lie from 0 to 1", self.bias)


LINES = {
    "excitatory": Line(kappa=2.5, base=0.2, peak=6.0, bias=0.3),
    "parvalbumin": Line(kappa=0.4, base=2.0, peak=6.0, bias=0.1),
}


@dataclass(frozen=True, eq=False)
class OrientedTruth:
    """What the cells of a session are.

    Attributes:
        preferred: ``[U]``, degrees in 0 to 360: direction of the highest rate.
        kappa: ``[U]``: concentration of the curve of orientation.
        peak: ``[U]``, Hz: see :class:`Line`, without the session's gain.
        rates: ``[U, 8]``, Hz: rate at each direction shown, with the session's gain.
        selectivity: ``[U]``: orientation selectivity ``|sum r exp(2ia)| / sum r`` of the rate ``r``
            over all directions ``a``; 1 minus the circular variance.
        spikes: The spikes behind the traces.
    """

    preferred: Floats
    kappa: Floats
    peak: Floats
    rates: Floats
    selectivity: Floats
    spikes: Spikes


def oriented(
    line: str,
    *,
    session: int = 0,
    n_units: int = 50,
    repeats: int = 15,
    frame_rate: float = 30.0,
    noise: float = NOISE,
    lines: Mapping[str, Line] = LINES,
    seed: int = 0,
) -> tuple[Recording, OrientedTruth]:
    """Simulate one session of one line.

    Sessions have cells of their own, and gains and noise of their own, log-normal: what differs
    between two sessions need not come from their lines.

    Args:
        line: One of ``lines``.
        session: Which session of this line, at least 0.
        n_units: Number of cells ``U``.
        repeats: Trials at each of 8 directions; each repeat holds all, in random order.
        frame_rate: Of the imaging, Hz.
        noise: Median standard deviation of dF/F in a frame.
        lines: What there is to choose from.
        seed: Of the simulation, at least 0.

    Returns:
        The recording: traces (dF/F, float32) and no spikes, the intervals ``trials`` with the
        column ``direction`` (degrees), the unit columns ``label`` (the line), ``area``,
        ``preferred`` and ``selectivity``. And the truth.

    Raises:
        AttendriteError: An unknown line, or numbers out of range.
    """
    errors.choice("line", line, lines)
    count(n_units=n_units, repeats=repeats)
    positive(frame_rate=frame_rate)
    if not (np.isfinite(noise) and noise >= 0):
        raise errors.must("noise", "be finite and at least 0", noise)
    if session < 0:
        raise errors.must("session", "be at least 0", session)
    key = (line, session)
    rng = stream(seed, "session", *key)
    gain, sd = np.exp(SESSION_SPREAD * rng.standard_normal(2)) * [1, noise]
    order = np.concatenate([rng.permutation(N_DIRECTIONS) for _ in range(repeats)])
    trial_gain = np.exp(TRIAL_SPREAD * rng.standard_normal(len(order)))
    edges = np.cumsum([0.0, *np.tile([OFF_S, ON_S], len(order)), OFF_S])
    times = np.arange(int(edges[-1] * frame_rate)) / frame_rate
    own = [stream(seed, "cell", *key, u) for u in range(n_units)]
    truth = _cells(lines[line], gain, own)
    trains, values = [], np.empty((len(times), n_units), np.float32)
    for u in range(n_units):
        course = np.full(len(edges) - 1, gain * lines[line].base)
        course[1::2] = truth.rates[u, order] * trial_gain
        trains.append(fire(course, edges, own[u]))
        values[:, u] = fluorescence(trains[u], times) + sd * own[u].standard_normal(len(times))
    name = f"simulated/{line}_{seed}_{session}"
    unit_ids = tuple(f"{name}/{u}" for u in range(n_units))
    shown = {"direction": order * 360.0 / N_DIRECTIONS}
    recording = Recording(
        name,
        unit_ids,
        Spikes.none,
        (0.0, float(edges[-1])),
        intervals={"trials": Intervals(edges[1:-1:2], edges[2::2], shown)},
        unit_columns={
            "label": np.full(n_units, line),
            "area": np.full(n_units, "V1"),
            "preferred": truth.preferred,
            "selectivity": truth.selectivity,
        },
        traces=Series(times, values, unit_ids, "dF/F"),
        source=f"simulated: oriented, {line=}, {seed=}, {session=}",
    )
    return recording, replace(truth, spikes=Spikes.from_trains(trains))


def _cells(line: Line, gain: float, rngs: Sequence[np.random.Generator]) -> OrientedTruth:
    """Draw what the cells are, each from its own generator; they have no spikes yet."""
    shown, fine = (np.arange(n) * 2 * np.pi / n for n in (N_DIRECTIONS, FINE))
    rows = []
    for rng in rngs:
        best = rng.uniform(0, 2 * np.pi)
        kappa = line.kappa * np.exp(KAPPA_SPREAD * rng.standard_normal())
        peak = line.peak * np.exp(PEAK_SPREAD * rng.standard_normal())
        rates = gain * tuning(shown, best, kappa, peak, line)
        whole = selectivity(fine, tuning(fine, best, kappa, peak, line))
        rows.append((np.rad2deg(best), kappa, peak, rates, whole))
    preferred, kappas, peaks, curves, selective = (np.array(c) for c in zip(*rows, strict=True))
    return OrientedTruth(preferred, kappas, peaks, curves, selective, Spikes.none())


def tuning(angle: Floats, preferred: float, kappa: float, peak: float, line: Line) -> Floats:
    """Return the rate at each direction, Hz; the formula is at the top of the module.

    Args:
        angle: Directions, any shape, radians.
        preferred: Radians.
        kappa: Concentration.
        peak: Hz above the line's base.
        line: Base and bias.
    """
    off = angle - preferred
    bell = np.exp(kappa * (np.cos(2 * off) - 1)) * (1 + line.bias * np.cos(off)) / (1 + line.bias)
    return np.asarray(line.base + peak * bell, np.float64)


def selectivity(angle: Floats, response: Floats) -> float:
    """Return ``|sum r exp(2ia)| / sum r``: 1 for one orientation alone, 0 for all alike.

    Args:
        angle: Evenly spaced directions, ``[A]``, radians.
        response: ``[A]``, at least 0 and not 0 everywhere.
    """
    return float(np.abs((response * np.exp(2j * angle)).sum()) / response.sum())


def fluorescence(spikes: Floats, times: Floats) -> Floats:
    """Return dF/F without noise: a double exponential per spike, sampled at ``times``; exact.

    Args:
        spikes: ``[n]``, s, sorted.
        times: ``[T]``, s, evenly spaced.

    Returns:
        ``[T]``; one spike's transient peaks at :data:`AMPLITUDE`.
    """
    step = times[1] - times[0] if len(times) > 1 else 1.0
    frame = np.searchsorted(times, spikes)  # the first frame that sees the spike
    seen = frame < len(times)
    age = times[frame[seen]] - spikes[seen]
    total = np.zeros(len(times))
    for sign, tau in ((1, DECAY_S), (-1, RISE_S)):
        at_frame = np.bincount(frame[seen], np.exp(-age / tau), len(times))
        total += sign * np.asarray(lfilter([1.0], [1.0, -np.exp(-step / tau)], at_frame))
    when = DECAY_S * RISE_S / (DECAY_S - RISE_S) * np.log(DECAY_S / RISE_S)
    top = np.exp(-when / DECAY_S) - np.exp(-when / RISE_S)
    return np.asarray(AMPLITUDE * total / top, np.float64)

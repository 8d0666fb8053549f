"""Trials of a latent variable, with units that know of it and units that do not.

For calibrating statistics on many small data sets. In trial ``k`` with latent ``z_k``, drawn from
the standard normal distribution, unit ``u`` is a Poisson process of the rate

    rate_u * exp(gain_u * z_k - gain_u**2 / 2)

whose mean over ``z`` is ``rate_u`` for any gain: rate and gain are set independently. The mean
Fisher information about ``z`` in a trial of ``T`` seconds is ``rate_u * T * gain_u**2``.

| calibration | arguments |
|---|---|
| units informative, but exchangeable | defaults with ``n_informative=n_units`` |
| information follows firing rate only | the same with ``rates`` spread |
| no information | ``n_informative=0`` |
| planted units, same rates | ``n_informative`` below ``n_units`` |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import errors
from ..recordings import Intervals, Recording, Series
from ._checks import count, positive
from ._random import stream

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TunedTruth:
    """What the units and trials of :func:`tuned` are.

    Attributes:
        informative: ``[U]``, bool: whether the gain differs from 0.
        rate: ``[U]``, Hz: mean over the latent's distribution.
        gain: ``[U]``: slope of the logarithm of the rate.
        information: ``[U]``: mean Fisher information about the latent in a trial.
        latent: ``[K]``: the latent in each trial.
    """

    informative: NDArray[np.bool_]
    rate: Floats
    gain: Floats
    information: Floats
    latent: Floats


def tuned(
    n_units: int,
    n_informative: int,
    *,
    n_trials: int = 200,
    trial_s: float = 1.0,
    rates: ArrayLike = 10.0,
    gains: ArrayLike = 0.5,
    seed: int = 0,
) -> tuple[Recording, TunedTruth]:
    """Simulate trials, one after the other without pause.

    Args:
        n_units: Number of units ``U``.
        n_informative: How many have their gain; the gain of the others is 0. Which ones is random:
            those whose own draw is smallest.
        n_trials: Number of trials ``K``.
        trial_s: Length of a trial, s.
        rates: Mean rate of each unit, Hz, a number or ``[U]``.
        gains: Gain of each informative unit, of either sign, a number or ``[U]``.
        seed: At least 0.

    Returns:
        The recording: the intervals ``trials`` with the column ``latent``, the series ``latent``
        with one sample at the end of each trial, and the unit columns ``label`` (``informative``
        or ``uninformative``), ``rate`` and ``gain``. And the truth.

    Raises:
        AttendriteError: Numbers out of range, or arrays of the wrong length.
    """
    count(n_units=n_units, n_trials=n_trials)
    positive(trial_s=trial_s)
    if not 0 <= n_informative <= n_units:
        raise errors.must("n_informative", f"lie from 0 to n_units = {n_units}", n_informative)
    rate, gain = _each("rates", rates, n_units), _each("gains", gains, n_units)
    if rate.min() < 0:
        raise errors.must("rates", "be at least 0", rate.min())
    draws = [stream(seed, "unit", u).uniform() for u in range(n_units)]
    chosen = np.zeros(n_units, bool)
    chosen[np.argsort(draws)[:n_informative]] = True
    gain = np.where(chosen, gain, 0.0)
    latent = stream(seed, "latent").standard_normal(n_trials)
    edges = np.linspace(0, n_trials * trial_s, n_trials + 1)
    trains = {
        f"unit{u}": _spikes(rate[u] * np.exp(gain[u] * latent - gain[u] ** 2 / 2), edges, seed, u)
        for u in range(n_units)
    }
    truth = TunedTruth(gain != 0, rate, gain, rate * trial_s * gain**2, latent)
    recording = Recording.from_trains(
        f"simulated/tuned_{seed}",
        trains,
        domain=(0.0, float(edges[-1])),
        series={"latent": Series(edges[1:], latent[:, None], ("latent",))},
        intervals={"trials": Intervals(edges[:-1], edges[1:], {"latent": latent})},
        unit_columns={
            "label": np.where(truth.informative, "informative", "uninformative"),
            "rate": rate,
            "gain": gain,
        },
        source=f"simulated: tuned, seed {seed}",
    )
    return recording, truth


def _each(name: str, values: ArrayLike, n_units: int) -> Floats:
    given = np.asarray(values, np.float64)
    if given.ndim:
        errors.shape(name, given, [n_units], "one per unit, or one number")
    full = np.broadcast_to(given, (n_units,)).copy()
    errors.finite(name, full)
    return full


def _spikes(rates: Floats, edges: Floats, seed: int, unit: int) -> Floats:
    rng = stream(seed, "spikes", unit)
    expected = rates * np.diff(edges)
    counts = rng.poisson(expected)
    start, length = np.repeat(edges[:-1], counts), np.repeat(np.diff(edges), counts)
    return np.sort(start + length * rng.uniform(size=len(start)))

"""Decoders to compare with: ridge regression on binned spikes, and Bayes' rule on place maps.

Both see the same samples and the same temporal support as the decoder beside them. Their settings
are chosen by cross-validation over the blocks of the training side, then all of it is fitted.

* Ridge: square roots of spike counts in bins that tile the support (the "Wiener cascade" input of
  Glaser et al. 2020, eNeuro 7, ENEURO.0506-19.2020), z-scored.
* Bayes: Poisson spiking with Gaussian-smoothed rate maps (Zhang et al. 1998, J. Neurophysiol. 79,
  1017-1044), counts in one window, position as the posterior's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.distance import cdist

from .. import errors
from ..recordings import Recording
from .metrics import r2
from .samples import Samples

Floats = NDArray[np.float64]
Predict = Callable[[Floats], Floats]  # times [S] -> values [S, D]
Fold = tuple[Samples, Samples]  # training, validation

WIDTHS = (0.025, 0.05, 0.1, 0.25, 0.5)  # s, about: the bins tile the window
LONGEST = 30  # bins of a window
SMOOTHING = (0.0, 1.0, 2.0)  # bins
PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
PLACE_WINDOWS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)  # s
BANDWIDTHS = (0.01, 0.02, 0.04, 0.08)  # of the range of the values
PRIORS = ("flat", "occupancy")
GRID = 80  # points along the longer side
NEAR = 1.5  # standard deviations: the animal has been where a sample is this near
FLOOR = 1e-3  # spikes per second: no place is impossible because of one spike


@dataclass(frozen=True)
class Support:
    """Which spikes a value may use: from ``t - before`` to ``t + after``, seconds."""

    before: float
    after: float

    def __post_init__(self) -> None:
        if self.before < 0 or self.after < 0 or self.length <= 0:
            raise errors.must("support", "cover some time", f"-{self.before} to {self.after} s")

    @property
    def length(self) -> float:
        """Seconds covered."""
        return self.before + self.after

    def part(self, length: float) -> Support:
        """Return a shorter support in the same proportion before and after."""
        return Support(*(side * length / self.length for side in (self.before, self.after)))


@dataclass(frozen=True)
class Choice:
    """A fitted baseline.

    Attributes:
        predict: Times ``[S]``, seconds, to values ``[S, D]``.
        settings: What was chosen, by name.
        validation: R2 of each column on the validation samples of all folds, ``[D]``.
    """

    predict: Predict
    settings: Mapping[str, Any]
    validation: Floats


def window_counts(recording: Recording, times: Floats, support: Support, bins: int) -> Floats:
    """Count spikes in equal bins of a window around each time.

    Args:
        recording: Where the spikes are.
        times: ``[S]``, seconds.
        support: The window; bin ``k`` covers ``[t - before + k w, t - before + (k + 1) w)``.
        bins: Number of bins ``T``.

    Returns:
        ``[S, T, N]``, float64, newly allocated.
    """
    edges = times[:, None] + np.linspace(-support.before, support.after, bins + 1)
    spikes, offsets = recording.by_unit()
    out = np.zeros((len(times), bins, len(offsets) - 1))
    for unit, (a, b) in enumerate(pairwise(offsets)):
        out[:, :, unit] = np.diff(np.searchsorted(spikes[a:b], edges), axis=1)
    return out


def ridge(
    recording: Recording, support: Support, *, folds: Sequence[Fold], refit: Samples
) -> Choice:
    """Fit ridge regression; bins, smoothing over bins and penalty are chosen by cross-validation.

    Args:
        recording: Where the spikes are.
        support: Spikes that a value may use. Nothing outside it is looked at, smoothing included.
        folds: Training and validation samples, all of the training side.
        refit: Samples of the last fit, with the settings chosen.
    """
    scored = []
    for width in WIDTHS:
        bins = round(support.length / width)
        if not 1 <= bins <= LONGEST:
            continue
        counts = [[window_counts(recording, s.times, support, bins) for s in f] for f in folds]
        for smoothing in SMOOTHING:
            paths = [
                _path(_features(a, smoothing), _features(b, smoothing), fold[0].values)
                for (a, b), fold in zip(counts, folds, strict=True)
            ]
            for penalty, decoded in zip(PENALTIES, zip(*paths, strict=True), strict=True):
                scored.append(
                    (
                        _score(folds, decoded),
                        {"bins": bins, "smoothing_bins": smoothing, "penalty": penalty},
                    )
                )
    score, chosen = _best(scored)

    def inputs(times: Floats) -> Floats:
        counts = window_counts(recording, times, support, chosen["bins"])
        return _features(counts, chosen["smoothing_bins"])

    ((_, last),) = _ridge_path(inputs(refit.times), refit.values, [chosen["penalty"]])
    return Choice(lambda times: last(inputs(times)), chosen, score)


def _path(x: Floats, q: Floats, y: Floats) -> list[Floats]:
    """Predict at ``q`` after fitting ``y`` from ``x``, with each penalty."""
    return [fit(q) for _, fit in _ridge_path(x, y, PENALTIES)]


def _score(folds: Sequence[Fold], decoded: Sequence[Floats]) -> Floats:
    """R2 of each column over the validation samples of all folds, ``[D]``."""
    return r2(np.concatenate([fold[1].values for fold in folds]), np.concatenate(decoded))


def _best(scored: Sequence[tuple[Floats, dict[str, Any]]]) -> tuple[Floats, dict[str, Any]]:
    return max(scored, key=lambda pair: float(pair[0].mean()))


def _features(counts: Floats, smoothing: float) -> Floats:
    if smoothing:
        counts = gaussian_filter1d(counts, smoothing, axis=1, mode="nearest")
    features: Floats = np.sqrt(counts).reshape(len(counts), -1)
    return features


def _ridge_path(
    x: Floats, y: Floats, penalties: Sequence[float]
) -> Iterator[tuple[float, Predict]]:
    """Fit ``y [S, D]`` from ``x [S, F]`` with each penalty; features are z-scored."""
    mean, scale, level = x.mean(0), x.std(0) + 1e-6, y.mean(0)
    z = (x - mean) / scale
    # One eigendecomposition of the smaller Gram matrix serves all penalties.
    wide = z.shape[1] > z.shape[0]
    power, basis = eigh(z @ z.T if wide else z.T @ z)
    target = basis.T @ (y - level if wide else z.T @ (y - level))
    for penalty in penalties:
        weights = basis @ (target / (np.maximum(power, 0) + penalty)[:, None])
        if wide:
            weights = z.T @ weights

        def predict(q: Floats, weights: Floats = weights) -> Floats:
            return np.asarray((q - mean) / scale @ weights + level, np.float64)

        yield penalty, predict


def bayes_place(
    recording: Recording, support: Support, *, folds: Sequence[Fold], refit: Samples
) -> Choice:
    """Fit a Bayesian place decoder of two coordinates; settings are chosen by cross-validation.

    Args:
        recording: Where the spikes are.
        support: Spikes that a value may use. One window inside it is chosen, in the same proportion
            before and after the decoded time: a longer one blurs the place of a moving animal.
        folds: Training and validation samples with two columns, all of the training side.
        refit: Samples of the last fit.

    Raises:
        AttendriteError: The values have another number of columns than two.
    """
    errors.shape("values of a place decoder", refit.values, ["S", 2])
    windows = [support.part(w) for w in PLACE_WINDOWS if w <= support.length + 1e-9]
    counts = {
        w: [[_counts(recording, w, s.times) for s in fold] for fold in folds] for w in windows
    }
    scored = []
    for bandwidth in BANDWIDTHS:
        kernels = [PlaceKernel.fit(fold[0].values, bandwidth) for fold in folds]
        for window in windows:
            maps = [
                k.maps(c[0], window.length) for k, c in zip(kernels, counts[window], strict=True)
            ]
            for prior in PRIORS:
                pairs = zip(maps, counts[window], strict=True)
                decoded = [m.decode(c[1], prior) for m, c in pairs]
                scored.append(
                    (
                        _score(folds, decoded),
                        {"window_s": window.length, "bandwidth": bandwidth, "prior": prior},
                    )
                )
    score, chosen = _best(scored)
    window = support.part(chosen["window_s"])
    kernel = PlaceKernel.fit(refit.values, chosen["bandwidth"])
    final = kernel.maps(_counts(recording, window, refit.times), window.length)
    return Choice(
        lambda times: final.decode(_counts(recording, window, times), chosen["prior"]),
        chosen,
        score,
    )


def _counts(recording: Recording, window: Support, times: Floats) -> Floats:
    return window_counts(recording, times, window, 1)[:, 0]


@dataclass(frozen=True)
class PlaceKernel:
    """Gaussian smoothing from samples to the points of a grid where the animal has been.

    Attributes:
        places: The points, ``[P, 2]``.
        occupancy: Share of the samples near each, ``[P]``, sums to 1.
        average: Weights of the samples at each point, ``[P, S]``; rows sum to 1.
    """

    places: Floats
    occupancy: Floats
    average: Floats

    @classmethod
    def fit(cls, values: Floats, bandwidth: float) -> PlaceKernel:
        """Lay the grid.

        Args:
            values: Places, ``[S, 2]``.
            bandwidth: Standard deviation of the smoothing, as a share of the range of the values.
        """
        low, high = values.min(0), values.max(0)
        spread = float((high - low).max())
        step = spread / GRID
        axes = [np.arange(a, b + step, step) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
        distance = cdist(grid, values) / (bandwidth * spread)
        been = distance.min(1) < NEAR
        weight = np.exp(-0.5 * distance[been] ** 2)
        mass = weight.sum(1)
        return cls(grid[been], mass / mass.sum(), weight / mass[:, None])

    def maps(self, counts: Floats, length: float) -> PlaceMaps:
        """Return rate maps from the spikes in windows of ``length`` seconds, ``[S, N]``."""
        rates = np.maximum(self.average @ counts / length, FLOOR)
        return PlaceMaps(self.places, self.occupancy, rates, length)


@dataclass(frozen=True)
class PlaceMaps:
    """Rate of each unit over place.

    Attributes:
        places: ``[P, 2]``.
        occupancy: Prior probability of each, ``[P]``.
        rates: ``[P, N]``, spikes per second, above 0.
        length: Window in which spikes are counted, seconds.
    """

    places: Floats
    occupancy: Floats
    rates: Floats
    length: float

    def decode(self, counts: Floats, prior: str = "flat") -> Floats:
        """Return the posterior's mean given spike counts ``[S, N]``: ``[S, 2]``."""
        log = counts @ np.log(self.rates).T - self.length * self.rates.sum(1)
        if prior == "occupancy":
            log = log + np.log(self.occupancy)
        posterior = np.exp(log - log.max(1, keepdims=True))
        mean: Floats = posterior @ self.places / posterior.sum(1, keepdims=True)
        return mean

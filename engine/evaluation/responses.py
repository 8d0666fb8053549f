"""How well predicted responses to images match recorded ones, neuron by neuron.

Arrays are ``[T, N]``: one row per trial, one column per neuron, any real dtype; float64 inside.
``image_ids`` ``[T]`` says which trials showed the same image. Where nothing else is said there is
one figure per neuron, ``[N]``; a mean over neurons is the caller's.

Correlations add ``EPS`` to each standard deviation (ddof 0), as neuralpredictors does (corr of its
np_functions.py, commit a2055cd, MIT) and V1T after it: a neuron that does not vary scores 0, and
all others are too low by about 1e-8 over their standard deviation.

Sources: Willeke et al. 2022 (arXiv 2206.08666) for single-trial correlation, correlation to average
and FEVE; Cadena et al. 2019 (doi:10.1371/journal.pcbi.1006897) for the explainable variance behind
the last; the code of V1T (commit 6599bf6) for what its published figures are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors

Values = NDArray[Any]
Doubles = NDArray[np.float64]

EPS = 1e-8
FEV_THRESHOLD = 0.15  # below it a neuron says too little about images to judge a model by


def sort_by_ids(values: Values, trial_ids: Values, unit_ids: Values) -> Values:
    """Return ``[T, N]`` with trials in the order of their ids and neurons in that of theirs.

    Raises:
        AttendriteError: As many ids as rows and columns are needed.
    """
    errors.shape("values", values, ["T", "N"])
    errors.shape("trial ids", trial_ids, [values.shape[0]], "one per trial")
    errors.shape("unit ids", unit_ids, [values.shape[1]], "one per neuron")
    return values[np.argsort(trial_ids, kind="stable")][:, np.argsort(unit_ids, kind="stable")]


def single_trial_correlation(targets: Values, predictions: Values) -> Doubles:
    """Pearson correlation over trials, ``[N]``; 0 for a neuron that does not vary.

    Raises:
        AttendriteError: Shapes differ, there is no trial, or a value is not finite.
    """
    return _correlation(*_checked(targets, predictions))


def pooled_correlation(targets: Values, predictions: Values) -> float:
    """Pearson correlation over all trials and neurons at once, about the mean of all of them.

    It also rewards knowing which neurons respond much, which a correlation for each neuron does
    not. V1T's paper (its equation 5) writes one sum over all; its code, and so its published
    figures, are the mean of :func:`single_trial_correlation`.

    Raises:
        AttendriteError: As :func:`single_trial_correlation`.
    """
    a, b = _checked(targets, predictions)
    return float(_correlation(a.reshape(-1, 1), b.reshape(-1, 1))[0])


def correlation_to_average(targets: Values, predictions: Values, image_ids: Values) -> Doubles:
    """Pearson correlation over images of responses and predictions averaged over repeats, ``[N]``.

    Both are averaged, as in V1T and in sinzlab's sensorium: a prediction may differ between
    repeats, since behaviour and pupil do.

    Raises:
        AttendriteError: As :func:`single_trial_correlation`, or not one image id per trial.
    """
    a, b = _checked(targets, predictions)
    groups = _groups(image_ids, len(a))
    return _correlation(_means(a, groups), _means(b, groups))


def trial_to_average_correlation(
    targets: Values, predictions: Values, image_ids: Values
) -> Doubles:
    """Pearson correlation over trials of each prediction with its image's mean response, ``[N]``.

    Only the responses are averaged. It equals :func:`correlation_to_average` for a model that
    predicts the same for every repeat, if all images have as many repeats; a model that follows
    behaviour scores lower here, since averages do not move with it.

    Raises:
        AttendriteError: As :func:`correlation_to_average`.
    """
    a, b = _checked(targets, predictions)
    average = np.zeros(a.shape)
    for rows in _groups(image_ids, len(a)):
        average[rows] = a[rows].mean(0)
    return _correlation(average, b)


def fev(targets: Values, image_ids: Values) -> Doubles:
    """Fraction of the response variance that images explain, ``[N]``; NaN without variance.

    ``(total - noise) / total``: total is the variance over all trials, noise the mean over images
    of the variance over repeats, both with ddof 1.

    Raises:
        AttendriteError: As :func:`correlation_to_average`, or an image shown once.
    """
    (values,) = _checked(targets)
    total, noise = _variances(values, _repeats(image_ids, len(values)))
    return _ratio(total - noise, total)


def feve(
    targets: Values, predictions: Values, image_ids: Values, *, threshold: float = FEV_THRESHOLD
) -> Doubles:
    """Fraction of the explainable variance that is explained, ``[N]``.

    ``1 - (mse - noise) / (total - noise)`` with the variances of :func:`fev` and the mean squared
    error over all trials.

    Args:
        targets: Responses.
        predictions: In the same unit.
        image_ids: Image of each trial.
        threshold: A neuron whose :func:`fev` is lower, or NaN, gets NaN. V1T and sensorium leave it
            out; the mean of the others is ``numpy.nanmean``.

    Raises:
        AttendriteError: As :func:`fev`.
    """
    a, b = _checked(targets, predictions)
    total, noise = _variances(a, _repeats(image_ids, len(a)))
    value = 1 - _ratio(((a - b) ** 2).mean(0) - noise, total - noise)
    return np.where(_ratio(total - noise, total) >= threshold, value, np.nan)


def v1t_normalized_correlation(targets: Values, predictions: Values, image_ids: Values) -> float:
    """What V1T's code calls normalized correlation; for comparison with its figures only.

    For each image: the correlation over *neurons* of mean response and mean prediction, divided by
    ``sqrt((n v - s) / ((n - 1) v))`` for ``n`` repeats, ``v`` the variance of the mean response
    over neurons and ``s`` the mean over neurons of the variance over repeats (ddof 1); then the
    mean over images. The definition it cites (Schoppe et al. 2016, doi:10.3389/fncom.2016.00010)
    correlates over stimuli, for each neuron. NaN where for any image the root does not exist or a
    mean does not vary over neurons; values above 1 are possible.

    Raises:
        AttendriteError: As :func:`fev`, or fewer than two neurons.
    """
    a, b = _checked(targets, predictions)
    if a.shape[1] < 2:
        raise errors.must("neurons", "be at least two to correlate over", a.shape[1])
    found = []
    for rows in _repeats(image_ids, len(a)):
        n = len(rows)
        response, prediction = a[rows].mean(0), b[rows].mean(0)
        x, y = response - response.mean(), prediction - prediction.mean()
        scale = np.sqrt((x @ x) * (y @ y))
        variance = response.var(ddof=1)
        signal = n * variance - a[rows].var(0, ddof=1).mean()
        possible = scale > 0 and signal > 0
        ceiling = np.sqrt(signal / ((n - 1) * variance)) if possible else np.nan
        found.append(x @ y / scale / ceiling if possible else np.nan)
    return float(np.mean(found))


def jackknife_oracle(targets: Values, image_ids: Values) -> Doubles:
    """Correlation of each trial with the mean of the *other* repeats of its image, ``[N]``.

    A model that knows nothing but the image cannot be expected to score higher in single trials; a
    low bound of that ceiling, since the mean of few repeats is noisy (neuralpredictors:
    oracle_corr_jackknife). Unequal numbers of repeats bias it.

    Raises:
        AttendriteError: As :func:`fev`.
    """
    (values,) = _checked(targets)
    others = np.zeros(values.shape)
    for rows in _repeats(image_ids, len(values)):
        own = values[rows]
        others[rows] = (own.sum(0) - own) / (len(rows) - 1)
    return _correlation(values, others)


def conservative_oracle(targets: Values, image_ids: Values) -> Doubles:
    """Correlation that the true mean response would have with single trials, ``[N]``, estimated.

    ``sqrt(signal / (signal + noise))``: signal is the variance over images of the mean response,
    noise the mean over images of the variance over repeats, both with ddof 0 (neuralpredictors:
    oracle_corr_conservative). A high bound: noise left in the means counts as signal. NaN for a
    neuron whose mean response is the same to all images.

    Raises:
        AttendriteError: As :func:`fev`.
    """
    (values,) = _checked(targets)
    groups = _repeats(image_ids, len(values))
    signal = _means(values, groups).var(0)
    noise = np.mean([values[rows].var(0) for rows in groups], axis=0)
    return _ratio(signal, np.sqrt(signal * (signal + noise)))


def _correlation(a: Doubles, b: Doubles) -> Doubles:
    """Correlate columns, about their means and with ``EPS`` on each standard deviation."""
    a, b = ((x - x.mean(0)) / (x.std(0) + EPS) for x in (a, b))
    product: Doubles = (a * b).mean(0)
    return product


def _variances(values: Doubles, groups: Sequence[NDArray[np.int64]]) -> tuple[Doubles, Doubles]:
    noise = np.mean([values[rows].var(0, ddof=1) for rows in groups], axis=0)
    return values.var(0, ddof=1), noise


def _means(values: Doubles, groups: Sequence[NDArray[np.int64]]) -> Doubles:
    return np.stack([values[rows].mean(0) for rows in groups])


def _ratio(above: Doubles, below: Doubles) -> Doubles:
    return np.where(below != 0, above / np.where(below != 0, below, 1), np.nan)


def _groups(image_ids: Values, trials: int) -> list[NDArray[np.int64]]:
    """Return the trials of each image, images in the order of their ids."""
    errors.shape("image ids", image_ids, [trials], "one per trial")
    _, of, counts = np.unique(image_ids, return_inverse=True, return_counts=True)
    return np.split(np.argsort(of, kind="stable"), np.cumsum(counts)[:-1])


def _repeats(image_ids: Values, trials: int) -> list[NDArray[np.int64]]:
    """Return the trials of each image, each shown at least twice."""
    groups = _groups(image_ids, trials)
    for rows in groups:
        if len(rows) < 2:
            raise errors.must(
                "every image", "be shown at least twice", f"image {image_ids[rows[0]]} once",
                "leave it out",
            )  # fmt: skip
    return groups


def _checked(targets: Values, predictions: Values | None = None) -> tuple[Doubles, ...]:
    errors.shape("targets", targets, ["T", "N"])
    if predictions is not None:
        errors.shape("predictions", predictions, list(targets.shape), "one row per trial")
    if not len(targets):
        raise errors.must("trials", "be at least one", 0)
    named = {"targets": targets, "predictions": predictions}
    arrays = {name: np.asarray(x, np.float64) for name, x in named.items() if x is not None}
    for name, values in arrays.items():
        errors.finite(name, values)
    return tuple(arrays.values())

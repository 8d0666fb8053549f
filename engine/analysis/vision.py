"""What a model of responses to images needs: pupil and behaviour, the middle of the image, a map.

Each figure comes with the one it has to be held against. Predictions are judged by the single-trial
correlation of :mod:`..evaluation.responses`, one figure per neuron.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..evaluation.responses import single_trial_correlation
from . import shares

Floats = NDArray[np.float64]
Values = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Thirds:
    """How well responses are predicted while the pupil is small and while it is large.

    Attributes:
        small: Correlation over the third of the trials with the smallest pupil, ``[N]``.
        large: Over the third with the largest, ``[N]``.
        p: Of the mean difference, against thirds of permuted trials, two-sided.
        null: 95th percentile of the null's absolute value.
        variance: Mean over neurons of the responses' variance, small and large: a correlation rises
            with it, so a difference here may be all there is.
    """

    small: Floats
    large: Floats
    p: float
    null: float
    variance: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Retinotopy:
    """A linear map from cortex to the image.

    Attributes:
        slope: Image position per cortical position, ``[2, 2]``: rows are image x and y.
        r2: Variance of image x and y that the map explains.
        null: 95th percentile of the mean of both with neurons permuted.
        p: Of that mean, one-sided.
        sign: +1 or -1, of the determinant: whether the map keeps or mirrors handedness (visual
            field sign; Sereno et al. 1994, doi:10.1093/cercor/4.6.601). With image y downwards it
            is the opposite of a field sign with elevation upwards.
        magnification: Square root of the determinant's size: image units per unit of cortex.
    """

    slope: Floats
    r2: tuple[float, float]
    null: float
    p: float
    sign: int
    magnification: float


def by_pupil(
    targets: Values,
    predictions: Values,
    dilation: Values,
    *,
    rng: np.random.Generator,
    rounds: int = 1000,
) -> Thirds:
    """Compare predictions in the thirds of trials with the smallest and the largest pupil.

    As in V1T (prediction_v_dilation.py), with a null.

    Args:
        targets: ``[T, N]``.
        predictions: ``[T, N]``.
        dilation: Size of the pupil, ``[T]``.
        rng: Where permutations come from.
        rounds: How many.

    Raises:
        AttendriteError: Shapes that do not fit, values that are not finite, under six trials.
    """
    errors.shape("dilation", dilation, [len(targets)], "one per trial")
    errors.finite("dilation", dilation)
    third = len(targets) // 3
    if third < 2:
        raise errors.must("trials", "be at least six", len(targets))

    def ends(order: NDArray[np.int64]) -> tuple[Floats, Floats]:
        first, last = order[:third], order[-third:]
        return (
            single_trial_correlation(targets[first], predictions[first]),
            single_trial_correlation(targets[last], predictions[last]),
        )

    order = np.argsort(dilation, kind="stable")
    small, large = ends(order)
    null = np.zeros(rounds)
    for k in range(rounds):
        low, high = ends(rng.permutation(len(targets)))
        null[k] = abs((high - low).mean())
    variance = [float(targets[rows].var(0).mean()) for rows in (order[:third], order[-third:])]
    return Thirds(
        small, large, shares.p_value(abs(float((large - small).mean())), null),
        float(np.quantile(null, 0.95)), (variance[0], variance[1]),
    )  # fmt: skip


def ablation(
    predict: Callable[[Values, Values], Values],
    targets: Values,
    pupil: Values,
    behavior: Values,
    means: tuple[Values, Values],
    rng: np.random.Generator,
) -> Mapping[str, Floats]:
    """Predict again without pupil or behaviour.

    Two ways, since each alone misleads: at its mean a covariate says nothing but may be a value the
    model never saw together with the rest; that of another trial is one that occurs, but is wrong.

    Args:
        predict: Takes pupil ``[T, 2]`` and behaviour ``[T, 3]``, in the unit given here, and
            returns predictions ``[T, N]`` for the same images.
        targets: Responses, ``[T, N]``.
        pupil: ``[T, 2]``.
        behavior: ``[T, 3]``.
        means: Of pupil ``[2]`` and behaviour ``[3]`` in training. V1T does not centre behaviour:
            a standardised 0 is a pupil of size 0, not the mean.
        rng: Chooses the other trials.

    Returns:
        Correlation of each neuron, ``[N]``: ``intact``; ``pupil at mean``, ``pupil of others`` and
        the same of ``behavior`` and ``both``.

    Raises:
        AttendriteError: Shapes that do not fit or values that are not finite.
    """
    errors.shape("pupil", pupil, [len(targets), 2])
    errors.shape("behavior", behavior, [len(targets), 3])
    for name, mean, own in zip(("pupil", "behavior"), means, (pupil, behavior), strict=True):
        errors.shape(f"mean of {name}", mean, [own.shape[1]])
    other = rng.permutation(len(targets))
    flat = [np.broadcast_to(mean, (len(targets), len(mean))) for mean in means]
    inputs = {
        "intact": (pupil, behavior),
        "pupil at mean": (flat[0], behavior),
        "pupil of others": (pupil[other], behavior),
        "behavior at mean": (pupil, flat[1]),
        "behavior of others": (pupil, behavior[other]),
        "both at mean": (flat[0], flat[1]),
        "both of others": (pupil[other], behavior[other]),
    }
    return {
        name: single_trial_correlation(targets, predict(*given)) for name, given in inputs.items()
    }


def crops(
    predict: Callable[[Values], Values],
    targets: Values,
    images: Values,
    fractions: Sequence[float],
    gray: float,
) -> tuple[Floats, Floats]:
    """Predict from images that are gray outside a centred window, and from what is left of them.

    Args:
        predict: Takes images ``[T, c, h, w]`` and returns predictions ``[T, N]``.
        targets: Responses, ``[T, N]``.
        images: ``[T, c, h, w]``; not changed.
        fractions: Sides of the windows over those of the image, in [0, 1], ``F`` of them.
        gray: The value outside: the mean of the images, in their unit.

    Returns:
        Correlations ``[F, N]`` with the window alone, and with all but the window: the control. A
        window whose loss the rest makes good as well was not needed.

    Raises:
        AttendriteError: Shapes that do not fit, or a fraction outside [0, 1].
    """
    errors.shape("images", images, [len(targets), "c", "h", "w"])
    errors.finite("gray", np.array([gray]))
    h, w = images.shape[2:]
    kept, rest = np.zeros((2, len(fractions), targets.shape[1]))
    for k, fraction in enumerate(fractions):
        if not 0 <= fraction <= 1:
            raise errors.must("fractions", "lie in [0, 1]", fraction)
        size = [round(fraction * n) for n in (h, w)]
        (top, left), (high, wide) = [(n - s) // 2 for n, s in zip((h, w), size, strict=True)], size
        window = np.zeros((h, w), np.bool_)
        window[top : top + high, left : left + wide] = True
        for found, shown in ((kept, window), (rest, ~window)):
            masked = np.where(shown, images, np.asarray(gray, images.dtype))
            found[k] = single_trial_correlation(targets, predict(masked))
    return kept, rest


def retinotopy(
    positions: Values, fields: Values, *, rng: np.random.Generator, rounds: int = 1000
) -> Retinotopy:
    """Regress where neurons read the image on where they lie in cortex.

    In V1T and sensorium a readout position *is* a smooth function of the cortical position (a small
    network), trained or not: a high R2 alone shows that network. Hold it against the same model
    untrained, or against positions fitted freely.

    Args:
        positions: In cortex, ``[N, 2 or 3]``; the first two are used.
        fields: In the image, ``[N, 2]`` x and y.
        rng: Where permutations come from.
        rounds: How many.

    Raises:
        AttendriteError: Shapes that do not fit, values that are not finite, fewer than four
            neurons, or neurons on one line.
    """
    errors.shape("fields", fields, [len(positions), 2], "one per neuron")
    for name, values in (("positions", positions), ("fields", fields)):
        errors.finite(name, values)
    if positions.ndim != 2 or positions.shape[1] not in (2, 3) or len(positions) < 4:
        raise errors.must("positions", "have shape [4 or more, 2 or 3]", list(positions.shape))
    x = np.asarray(positions[:, :2], np.float64)
    x, y = x - x.mean(0), np.asarray(fields - fields.mean(0), np.float64)
    if np.linalg.matrix_rank(x) < 2:
        raise errors.must("positions", "span a plane", "neurons on one line")
    basis = np.linalg.qr(x)[0]
    total = (y**2).sum(0)

    def explained(order: NDArray[np.int64]) -> Floats:
        return shares.ratio(((basis.T @ y[order]) ** 2).sum(0), total)

    r2 = explained(np.arange(len(y)))
    null = np.array([explained(rng.permutation(len(y))).mean() for _ in range(rounds)])
    slope = np.linalg.lstsq(x, y)[0].T
    turn = float(np.linalg.det(slope))
    p = math.nan if np.isnan(r2).any() else shares.p_value(float(r2.mean()), null)
    return Retinotopy(
        slope, (float(r2[0]), float(r2[1])), float(np.quantile(null, 0.95)), p,
        1 if turn > 0 else -1, math.sqrt(abs(turn)),
    )  # fmt: skip

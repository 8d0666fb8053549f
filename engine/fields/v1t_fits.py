"""Gaussian fits as published with V1T, to compare with; not how sizes should be measured.

The recipe (Li et al. 2023, arXiv:2302.03023, and its script): a field is z-scored, made absolute,
gets 0.2 N(0, 1) added, and a Gaussian is fitted to it by scipy's ``curve_fit`` without bounds from
one start for all. What that does to sizes:

* absolute values fold noise into an offset and the flanks of a field into the field: on synthetic
  fields with a peak of five times the noise, widths come out 21 % too small;
* the added noise makes results depend on the seed and on the order of the units;
* a third of the fits of small fields end far from them, at the fixed start's own minimum;
* widths may be negative, and the published drop of the largest 5 % takes those for small, counts
  failed fits as the largest, and drops every unit where there are fewer than 20.

:func:`attendrite.kernels.gaussian_fit.gaussian_fit` has none of these. The angle here turns the
other way round: ``theta`` of the recipe is ``-theta`` there.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from .. import errors

START = (3, 32, 18, 10, 10, 0, 10)
"""Amplitude, x0, y0, sigma_x, sigma_y, theta, offset: for maps of 36 x 64 pixels the centre."""

JITTER = 0.2
DROPPED = 0.05

Parameters = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class V1TFits:
    """Fits of ``U`` units, in the order of ``START``.

    Attributes:
        fitted: Before any are dropped, ``[U, 7]``, float32; infinite where the fit failed.
        parameters: After: NaN where dropped.
        reason: Why a row of ``parameters`` is NaN or infinite, ``[U]``: ``failed``, ``dropped``
            (among the largest); empty where it is neither.
    """

    fitted: Parameters
    parameters: Parameters
    reason: NDArray[np.str_]


def fit_v1t(fields: NDArray[Any], seed: int, *, published_drop: bool = False) -> V1TFits:
    """Fit fields by the published recipe.

    Args:
        fields: ``[U, h, w]`` or ``[U, 1, h, w]``, float32 as published, or float64.
        seed: Of the added noise, drawn in the order of the units: the first k units have the same
            results whatever follows.
        published_drop: See :func:`drop_largest`.

    Returns:
        The fits. A constant field is a failed one.

    Raises:
        AttendriteError: A wrong shape, or values that are not finite.
    """
    fields = np.asarray(fields)
    if fields.ndim == 4 and fields.shape[1] == 1:
        fields = fields[:, 0]
    errors.shape("fields", fields, ["U", "h", "w"])
    errors.finite("fields", fields)
    height, width = fields.shape[1:]
    y, x = (axis.ravel() for axis in np.mgrid[0:height, 0:width].astype(np.float64))
    start = (START[0], width // 2, height // 2, *START[3:])
    draws = np.random.RandomState(seed)  # whose draws are those of numpy.random.seed

    fitted = np.full((len(fields), 7), np.inf, np.float32)
    means, spreads = (f(fields, axis=(1, 2), keepdims=True) for f in (np.mean, np.std))
    for row, field, mean, spread in zip(fitted, fields, means, spreads, strict=True):
        noise = JITTER * draws.normal(size=height * width)
        if not spread > 0:
            continue
        values = np.abs((field - mean) / spread).ravel() + noise
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", OptimizeWarning)
            try:
                row[:] = curve_fit(gaussian, (x, y), values, p0=start)[0]
            except (RuntimeError, OptimizeWarning):
                continue
    return V1TFits(fitted, *drop_largest(fitted, published=published_drop))


def gaussian(
    xy: Any, amplitude: float, x0: float, y0: float,
    sigma_x: float, sigma_y: float, theta: float, offset: float,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the recipe's model at points ``xy``, ``(x, y)``; ``theta`` turns against ours.

    In the published form, term by term: some fits end elsewhere if sums are only rounded otherwise.
    """
    dx, dy = xy[0] - x0, xy[1] - y0
    x_half, y_half = 2 * sigma_x**2, 2 * sigma_y**2
    a = np.cos(theta) ** 2 / x_half + np.sin(theta) ** 2 / y_half
    b = -np.sin(2 * theta) / (4 * sigma_x**2) + np.sin(2 * theta) / (4 * sigma_y**2)
    c = np.sin(theta) ** 2 / x_half + np.cos(theta) ** 2 / y_half
    return np.asarray(offset + amplitude * np.exp(-(a * dx**2 + 2 * b * dx * dy + c * dy**2)))


def drop_largest(
    fitted: Parameters, *, published: bool = False
) -> tuple[Parameters, NDArray[np.str_]]:
    """Drop the units with the largest 5 % of ``sigma_x``, and those of ``sigma_y``.

    Args:
        fitted: ``[U, 7]``, infinite where the fit failed.
        published: As the script does it: failed fits are the largest, and infinite still where
            they are more than 5 %; negative widths are the smallest; with fewer than 20 units all
            are dropped. Otherwise widths are taken absolute, 5 % are counted among the fits that
            did not fail, rounded down, and failed ones are NaN.

    Returns:
        Parameters with NaN where dropped, and the reason of each unit, as in :class:`V1TFits`.
    """
    kept = fitted.copy()
    failed = np.asarray(~np.isfinite(fitted).all(1))
    reason = np.where(failed, "failed", "").astype("U7")
    among = np.arange(len(fitted))
    if not published:
        kept[:, 3:5] = np.abs(kept[:, 3:5])
        kept[failed] = np.nan
        among = np.flatnonzero(~failed)
    count = int(DROPPED * len(among))
    first = -count if published else len(among) - count  # [-0:] is all: the script's mistake
    largest = [among[np.argsort(kept[among, column])[first:]] for column in (3, 4)]
    dropped = np.union1d(*largest)
    kept[dropped] = np.nan
    reason[dropped[~failed[dropped]]] = "dropped"
    return kept, reason

"""How far decoded values are from true ones, on all samples at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import errors

Values = NDArray[np.floating]


def r2(true: Values, decoded: Values) -> NDArray[np.float64]:
    """Coefficient of determination of each column.

    ``1 - sum (true - decoded)^2 / sum (true - mean(true))^2`` with the mean of the samples given
    here, so that saying the mean of the test samples scores 0. It is negative for anything worse,
    and NaN for a column that does not vary.

    Args:
        true: ``[S, D]``, any unit.
        decoded: ``[S, D]``, the same unit.

    Returns:
        ``[D]``, float64.

    Raises:
        AttendriteError: Shapes differ, no samples, or values that are not finite.
    """
    true, decoded = _checked(true, decoded)
    rest = ((true - decoded) ** 2).sum(0)
    total = ((true - true.mean(0)) ** 2).sum(0)
    varies = total > 0
    return np.where(varies, 1 - rest / np.where(varies, total, 1), np.nan)


def correlation(true: Values, decoded: Values) -> NDArray[np.float64]:
    """Pearson correlation of each column, ``[D]``, float64; NaN where one side does not vary.

    Args:
        true: ``[S, D]``, any unit.
        decoded: ``[S, D]``, any unit.

    Raises:
        AttendriteError: As :func:`r2`.
    """
    true, decoded = _checked(true, decoded)
    a, b = true - true.mean(0), decoded - decoded.mean(0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.where(scale > 0, (a * b).sum(0) / np.where(scale > 0, scale, 1), np.nan)


def median_error(true: Values, decoded: Values) -> float:
    """Median Euclidean distance between true and decoded values, in their unit.

    Args:
        true: ``[S, D]``.
        decoded: ``[S, D]``, the same unit.

    Raises:
        AttendriteError: As :func:`r2`.
    """
    true, decoded = _checked(true, decoded)
    return float(np.median(np.linalg.norm(true - decoded, axis=1)))


def _checked(true: Values, decoded: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    errors.shape("true values", true, ["S", "D"])
    errors.shape("decoded values", decoded, list(true.shape), "one row per sample")
    if not len(true):
        raise errors.must("samples", "be at least one", 0)
    errors.finite("true values", true)
    errors.finite("decoded values", decoded)
    return np.asarray(true, np.float64), np.asarray(decoded, np.float64)

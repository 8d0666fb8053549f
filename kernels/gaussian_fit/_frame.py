"""Where a fit starts, the coordinates of its steps, and the way back to parameters.

A Gaussian is ``exp(-LOG_2 |v|^2)`` with ``v = V (x - x0, y - y0)`` and ``V`` upper triangular: in
``v`` it is round. A step shifts and stretches: ``v`` becomes ``exp(-S) (v - t)`` with a symmetric
``S``, and the Gaussian changes by ``v . tau + v^T sigma v`` times itself, where ``tau = 2 LOG_2 t``
and ``sigma = 2 LOG_2 S``. So the derivatives are its products with the monomials ``v1``, ``v2``,
``v1^2``, ``v1 v2`` and ``v2^2`` (for ``sigma_12`` counted once, as the sum of both), and the normal
matrix holds nothing but its moments.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

NARROWEST = 0.3
"""Smallest width of a fit, pixels: below it a Gaussian may lie between pixels unseen."""

OBLONG = 1.1

LOG_2 = math.log(2)

Floats = NDArray[np.float64]


def start(maps: NDArray[np.floating]) -> Floats:
    """Return where fits start.

    Means over 3 x 3 pixels (fewer at the edges, where pixels count again) take the place of pixels.
    Offset: their median, over every third row and column. Centre and amplitude: where they are
    furthest from it. Width: that of a round Gaussian of which as many are above half the amplitude;
    a little longer along columns, since with equal axes other solvers find no angle to begin with.

    Args:
        maps: ``[N, H, W]``.

    Returns:
        Parameters, ``[N, 7]``, in the order of ``PARAMETERS``.
    """
    size, height, width = maps.shape
    found = np.zeros((size, 7))
    widest = max(height, width)
    for i in range(0, size, 64):  # as many as a cache holds
        padded = np.pad(maps[i : i + 64].astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
        rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
        smooth = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9
        offset = np.median(smooth[:, ::3, ::3], axis=(1, 2))
        away = smooth.reshape(len(smooth), -1) - offset[:, None]
        peak = np.abs(away).argmax(1)
        amplitude = away[np.arange(len(away)), peak]
        away /= np.where(amplitude == 0, 1, amplitude)[:, None]
        sigma = np.sqrt((away > 0.5).sum(1) / (2 * math.pi * LOG_2))
        sigma = np.clip(sigma, 2 * NARROWEST, max(2 * NARROWEST, widest / 4))
        rows_of, columns = np.divmod(peak, width)
        found[i : i + 64] = np.stack(
            [amplitude, columns, rows_of, sigma * OBLONG, sigma / OBLONG, 0 * sigma, offset], 1
        )
    return found


def finished(
    frames: Floats,
    linear: Floats,
    normal: Floats,
    residual: Floats,
    counts: NDArray[np.int64],
    noise: Floats | None,
    pixels: int,
) -> tuple[Floats, Floats, Floats, NDArray[np.int32], NDArray[np.int8]]:
    """Make fits of what backends find.

    Args:
        frames: Centres and ``V``, ``[N, 5]``: x0, y0, V_11, V_12, V_22.
        linear: Amplitudes and offsets, ``[N, 2]``.
        normal: Normal matrices as in :func:`natural`, ``[N, 7, 7]``.
        residual: Sums of squares, ``[N]``; times weights where noise is given for each pixel.
        counts: Steps and status, ``[N, 2]``.
        noise: As in :func:`attendrite.kernels.gaussian_fit.gaussian_fit`.
        pixels: Of a map.

    Returns:
        The fields of :class:`attendrite.kernels.gaussian_fit.Fits`.
    """
    good = counts[:, 1] == 0
    parameters, covariance = np.full((len(frames), 7), np.nan), np.full_like(normal, np.nan)
    variance = residual / (pixels - 7) if noise is None else np.ones(len(frames))
    if noise is not None and noise.ndim == 1:
        variance, residual = noise**2, residual / noise**2
    parameters[good], covariance[good] = natural(
        frames[good, :2], frames[good, 2:], linear[good], normal[good], variance[good]
    )
    tried, status = counts.T
    return parameters, covariance, residual, tried.astype(np.int32), status.astype(np.int8)


def natural(
    centre: Floats, root: Floats, linear: Floats, normal: Floats, variance: Floats
) -> tuple[Floats, Floats]:
    """Turn fits in the coordinates of steps into parameters and their covariance.

    Args:
        centre: ``[N, 2]``, x and y.
        root: ``V``, ``[N, 3]``: ``V_11``, ``V_12``, ``V_22``.
        linear: Amplitude and offset, ``[N, 2]``.
        normal: Normal matrix of the Gaussian, its products with the five monomials, and 1,
            ``[N, 7, 7]``; regular.
        variance: Of the noise, in which the normal matrix is counted, ``[N]``.

    Returns:
        ``[N, 7]`` and ``[N, 7, 7]``.
    """
    v11, v12, v22 = root.T
    inverse = np.zeros((len(root), 2, 2))
    inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1] = 1 / v11, -v12 / (v11 * v22), 1 / v22
    shape = inverse @ inverse.swapaxes(1, 2) / (2 * LOG_2)  # of the Gaussian: squares of widths
    half, tilt = (shape[:, 0, 0] - shape[:, 1, 1]) / 2, shape[:, 0, 1]
    gap, mean = np.hypot(half, tilt), (shape[:, 0, 0] + shape[:, 1, 1]) / 2
    major = np.sqrt(mean + gap)
    minor = 1 / (2 * LOG_2 * v11 * v22 * major)
    theta = np.arctan2(tilt, half) / 2
    theta = np.where(theta < 0, theta + math.pi, theta)
    theta = np.where(theta >= math.pi, 0, theta)  # a rounded -0
    parameters = np.stack([linear[:, 0], *centre.T, major, minor, theta, linear[:, 1]], 1)

    # How parameters move with amplitude, tau_1, tau_2, sigma_11, sigma_12, sigma_22 and offset.
    cos, sin = np.cos(theta), np.sin(theta)
    axes = np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1) @ inverse
    move = np.zeros((len(root), 7, 7))
    move[:, 0, 0] = move[:, 6, 6] = 1
    move[:, 1:3, 1:3] = inverse / (2 * LOG_2)
    apart = np.maximum(2 * gap, np.finfo(float).eps * major**2)
    for row, (i, j), change in ((3, (0, 0), 2 * major), (4, (1, 1), 2 * minor), (5, (0, 1), apart)):
        a, b = axes[:, i], axes[:, j]
        both = (a[:, 0] * b[:, 1] + a[:, 1] * b[:, 0]) / 2
        quadratic = np.stack([a[:, 0] * b[:, 0], both, a[:, 1] * b[:, 1]], 1)
        move[:, row, 3:6] = quadratic / (2 * LOG_2**2 * change[:, None])
    move[:, :, 1:6] /= linear[:, :1, None]
    covariance = move @ np.linalg.inv(normal) @ move.swapaxes(1, 2)
    return parameters, covariance * variance[:, None, None]

"""The truth: scipy's trust region, in the parameters themselves, from the same start."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from . import NARROWEST, STATUS, Fits, start

PRIORITY = 0
NEAR = 1e-3  # to a bound, which scipy comes close to from inside
TIGHTEST = 1e-15  # scipy's tolerances: what rounding allows, whatever tolerance is asked for

Floats = NDArray[np.float64]


def refuses(**_request: object) -> None:
    """Refuse nothing."""


def run(
    maps: NDArray[Any],
    noise: Floats | None,
    *,
    iterations: int,
    tolerance: float,
    threads: int,
) -> Fits:
    """Fit, as :func:`attendrite.kernels.gaussian_fit.gaussian_fit` says.

    Args:
        maps: ``[N, H, W]``, all finite, of more than seven pixels.
        noise: ``[N]``, ``[N, H, W]`` or ``None``.
        iterations: Steps that a fit may take.
        tolerance: Not used here.
        threads: Not used here.
    """
    del tolerance, threads
    values = np.asarray(maps, np.float64) if isinstance(maps, np.ndarray) else maps.double().cpu()
    values = np.asarray(values)
    sds = np.ones(len(values)) if noise is None else noise
    fits = [one(y, sd, p, iterations) for y, sd, p in zip(values, sds, start(values), strict=True)]
    fields = [np.array(field) for field in zip(*fits, strict=True)]
    if noise is None:
        fields[1] *= (fields[2] / (values[0].size - 7))[:, None, None]
    return Fits(*fields)


def one(y: Floats, sd: Any, guess: Floats, iterations: int) -> tuple[Any, ...]:
    """Fit one map; return the fields of the fits, a covariance for noise of 1."""
    height, width = y.shape
    x, rows = np.meshgrid(np.arange(width), np.arange(height))
    scale = abs(guess[0])
    nothing = np.full(7, np.nan), np.full((7, 7), np.nan), np.nan, 0
    if not scale > 0:
        return *nothing, STATUS.index("singular")

    def model(p: Floats) -> Floats:
        return np.asarray((gaussian(x, rows, p) - y) / sd / scale).ravel()

    def slope(p: Floats) -> Floats:
        slopes = derivatives(x, rows, p) / np.broadcast_to(sd, y.shape)[..., None] / scale
        return np.asarray(slopes).reshape(-1, 7)

    far = max(height, width)
    low = np.array([-np.inf, -0.5, -0.5, NARROWEST, NARROWEST, -np.inf, -np.inf])
    high = np.array([np.inf, width - 0.5, height - 0.5, far, far, np.inf, np.inf])
    found = least_squares(
        model, guess, slope, (low, high), x_scale="jac", max_nfev=3 * iterations,
        ftol=TIGHTEST, xtol=TIGHTEST, gtol=TIGHTEST,
    )  # fmt: skip
    if (found.x - low < NEAR).any() or (high - found.x < NEAR).any():
        return *nothing[:3], found.nfev, STATUS.index("at a bound")
    if found.status <= 0:
        return *nothing[:3], found.nfev, STATUS.index("not converged")
    jacobian = found.jac * scale
    lengths = np.linalg.norm(jacobian, axis=0)
    if not (lengths > 0).all() or np.linalg.cond(jacobian / lengths) > 1e10:
        return *nothing[:3], found.nfev, STATUS.index("singular")
    covariance = np.linalg.inv(jacobian.T @ jacobian)
    p, order = found.x, [0, 1, 2, 3, 4, 5, 6]
    if p[3] < p[4]:
        order[3:5] = 4, 3
        p = p[order]
        p[5] += np.pi / 2
    p[5] %= np.pi
    p[5] = 0 if p[5] >= np.pi else p[5]  # a rounded -0
    residual = 2 * found.cost * scale**2
    return p, covariance[np.ix_(order, order)], residual, found.nfev, 0


def gaussian(x: NDArray[Any], y: NDArray[Any], parameters: Floats) -> Floats:
    """Return the model at points ``x``, ``y``."""
    amplitude, _, _, _, _, _, offset = parameters
    return np.asarray(offset + amplitude * shape(x, y, parameters)[0])


def shape(x: NDArray[Any], y: NDArray[Any], parameters: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the Gaussian without amplitude and offset, and distances along its axes."""
    _, x0, y0, sigma_x, sigma_y, theta, _ = parameters
    u = (x - x0) * np.cos(theta) + (y - y0) * np.sin(theta)
    v = -(x - x0) * np.sin(theta) + (y - y0) * np.cos(theta)
    return np.exp(-((u / sigma_x) ** 2 + (v / sigma_y) ** 2) / 2), u, v


def derivatives(x: NDArray[Any], y: NDArray[Any], parameters: Floats) -> Floats:
    """Return the model's derivatives by the parameters, a last axis of seven."""
    amplitude, _, _, sigma_x, sigma_y, theta, _ = parameters
    e, u, v = shape(x, y, parameters)
    cos, sin, high = np.cos(theta), np.sin(theta), amplitude * e
    along, across = u / sigma_x**2, v / sigma_y**2
    return np.stack(
        [e, high * (cos * along - sin * across), high * (sin * along + cos * across),
         high * u * along / sigma_x, high * v * across / sigma_y,
         high * (across * u - along * v), np.ones_like(e)], -1,
    )  # fmt: skip

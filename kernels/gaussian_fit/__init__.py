"""Fit a two-dimensional Gaussian to each of many maps, such as receptive fields.

With pixel centres at whole numbers, columns ``x`` and rows ``y``, the model of a map is

    offset + amplitude exp(-((u / sigma_x)^2 + (v / sigma_y)^2) / 2),
    u =  (x - x0) cos(theta) + (y - y0) sin(theta),
    v = -(x - x0) sin(theta) + (y - y0) cos(theta),

and the fit is a minimum of the sum of squares of map minus model, each divided by the pixel's noise
where that is given. ``sigma_x`` is the longer axis, ``sigma_x >= sigma_y``, and ``theta`` in
``[0, pi)`` its angle, from the direction of columns towards that of rows (downwards, as images are
drawn). The amplitude is signed: a map is fitted as it is, its sign is not lost.

The start (:func:`start`) is the peak of ``|map - median|``, both smoothed. Widths are bounded, from
``NARROWEST`` to the longer side of the map, and the centre stays on the map, half a pixel around
all pixel centres. Which minimum is found depends on the start alone; what is at a bound is said to
be, not returned.

The covariance of the parameters is ``(J^T J)^-1`` times the residual variance, the residual over
``H W - 7``; with noise given it is ``(J^T W J)^-1`` with ``W = 1 / noise^2``. It says how far
the parameters of a fit to fresh noise would lie, for noise that is independent between pixels, and
it does not say whether there was anything to fit. That of ``theta`` grows without limit as the axes
become equal.

Method of the fast backends: Levenberg-Marquardt (Levenberg 1944, 10.1090/qam/10666; Marquardt 1963,
10.1137/0111030), with amplitude and offset, in which the model is linear, solved for at every step
(Golub and Pereyra 1973, 10.1137/0710036; Kaufman 1975, 10.1007/BF01932995). Steps are taken in the
coordinates in which the Gaussian is round, and multiply its axes: no angle, no sign of a width and
no equal axes get in the way (``_frame.py``).

Floor for N maps and I steps: N I sweeps over the pixels, in each an exponential and 11 sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _arrays
from .._operation import Operation
from ._frame import NARROWEST, start

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NARROWEST", "OPERATION", "PARAMETERS", "STATUS", "Fits", "gaussian_fit", "start"]

OPERATION = Operation(__name__)

PARAMETERS = ("amplitude", "x0", "y0", "sigma_x", "sigma_y", "theta", "offset")

STATUS = ("converged", "not converged", "at a bound", "singular", "not finite")
"""Names of the values of :attr:`Fits.status`."""


@dataclass(frozen=True)
class Fits:
    """Gaussians of N maps. What did not converge is NaN, and its status says why.

    Attributes:
        parameters: ``[N, 7]``, float64, columns ``PARAMETERS``; pixels, radians, units of the map.
        covariance: Of the parameters, ``[N, 7, 7]``, float64.
        residual: Sum of squares of what is left, ``[N]``, float64; of multiples of the noise where
            that was given.
        iterations: Steps tried, ``[N]``, int32.
        status: ``[N]``, int8, an index into ``STATUS``. *not converged*: more steps were needed;
            *at a bound*: the sum of squares falls towards a width or centre that is not allowed;
            *singular*: the map does not determine the parameters, as a constant one, or has no more
            than seven pixels; *not finite*: it holds NaN or infinity.
    """

    parameters: NDArray[np.float64]
    covariance: NDArray[np.float64]
    residual: NDArray[np.float64]
    iterations: NDArray[np.int32]
    status: NDArray[np.int8]

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Whether each fit is one, ``[N]``."""
        return np.asarray(self.status == 0)


def gaussian_fit(
    maps: NDArray[Any] | Tensor,
    *,
    noise: NDArray[Any] | None = None,
    iterations: int = 100,
    tolerance: float = 1e-4,
    threads: int = 1,
    backend: str | None = None,
) -> Fits:
    """Fit a Gaussian to each map.

    Args:
        maps: ``[N, H, W]``, float32 or float64; computed in float64. A tensor on a CUDA device is
            fitted there. Not modified, not kept.
        noise: Standard deviation of each map's noise, ``[N]``, or of each pixel's, ``[N, H, W]``,
            positive. ``None``: the same in all pixels of a map, estimated from what is left.
        iterations: Steps that a fit may take.
        tolerance: A fit has converged when its next step is shorter than this many standard errors.
        threads: Threads to use, among which maps are shared out; the result does not depend on it.
        backend: A backend by name; ``None`` takes the fastest one that does not refuse.

    Returns:
        The fits, newly allocated, in host memory.

    Raises:
        TypeError: A wrong dtype.
        ValueError: A wrong shape, noise that is not positive, or a bad option.

    Example:
        >>> y, x = np.mgrid[0:24, 0:32]
        >>> field = 1 - 2 * np.exp(-((x - 20) ** 2 / 18 + (y - 9) ** 2 / 8))
        >>> gaussian_fit(field[None]).parameters.round(6)
        array([[-2., 20.,  9.,  3.,  2.,  0.,  1.]])
    """
    device = getattr(getattr(maps, "device", None), "type", "cpu")
    if device == "cpu":
        maps = np.asarray(maps)
    if str(maps.dtype).removeprefix("torch.") not in ("float32", "float64"):
        raise TypeError(f"maps must be float32 or float64, got {maps.dtype}")
    if maps.ndim != 3:
        raise _arrays.must("maps", "have shape [N, H, W]", list(maps.shape))
    _arrays.positive("iterations", iterations)
    _arrays.positive("tolerance", tolerance, "number")
    _arrays.positive("threads", threads)
    size, *sides = maps.shape
    sd = _noise(noise, (size, *sides))
    module = OPERATION.choose(backend, device=device)

    found = Fits(
        np.full((size, 7), np.nan), np.full((size, 7, 7), np.nan), np.full(size, np.nan),
        np.zeros(size, np.int32), np.full(size, STATUS.index("singular"), np.int8),
    )  # fmt: skip
    if isinstance(maps, np.ndarray):
        finite = np.asarray(np.isfinite(maps).all((1, 2)))
    else:
        finite = maps.isfinite().flatten(1).all(1).cpu().numpy()
    found.status[~finite] = STATUS.index("not finite")
    if sides[0] * sides[1] <= len(PARAMETERS) or not finite.any():
        return found
    good: Any = slice(None) if finite.all() else finite
    part = module.run(
        maps[good], None if sd is None else sd[good], iterations=int(iterations),
        tolerance=float(tolerance), threads=int(threads),
    )  # fmt: skip
    for name, values in vars(part).items():
        getattr(found, name)[good] = values
    for values in (found.parameters, found.covariance, found.residual):
        values[~found.converged] = np.nan
    return found


def _noise(noise: Any, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    if noise is None:
        return None
    sd = np.asarray(noise, np.float64)
    if sd.shape not in (shape[:1], shape):
        raise _arrays.must("noise", f"have shape [{shape[0]}] or {list(shape)}", list(sd.shape))
    bad = np.argwhere(~(np.isfinite(sd) & (sd > 0)))
    if len(bad):
        at = ", ".join(map(str, bad[0]))
        raise _arrays.must("noise", "be positive", f"noise[{at}] = {sd[tuple(bad[0])]}")
    return sd

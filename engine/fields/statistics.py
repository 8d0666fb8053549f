"""What the sums say of each unit.

Of the halves ``a`` and ``b``, with ``n_a`` and ``n_b`` images, each has its field ``f_a``, ``f_b``
(see the room's docstring), that of all images being made of both's sums. Fields of different images
are independent, so that over white noise

    E[f_a . f_b] = |f|^2,    the variance of the response that the linear field explains,

while ``|f|^2`` of one field counts its noise too: ``P var(r) / N`` too much. The product is an
estimate without bias, and may fall below 0; where nothing is linear its standard deviation is
``var(r) sqrt(P / (n_a n_b))``. A model in evaluation mode with its behaviour held still is a
function of the image: what its linear field does not explain is nonlinear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.noise_sum import Sums
from .stimuli import Stimuli
from .sums import Halves

UNITS = 1024  # at a time: what is made of the sums is as large as they are
ROUNDING = 1e-12  # of the mean square: below it a variance is what rounding leaves of a constant

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measures:
    """What the sums say; see :class:`attendrite.fields.Fields`.

    Attributes:
        field: ``[U, P]``, float32.
        even: Of even shards, likewise.
        odd: Of odd shards, likewise.
        standard_error: ``[U]``.
        mean: Of the response, ``[U]``.
        variance: Of the response, ``[U]``.
        split_half: ``[U]``.
        linear: ``[U]``, NaN where stimuli are not known to be white.
        linear_error: Standard deviation of ``linear`` where nothing is, a number.
    """

    field: NDArray[np.float32]
    even: NDArray[np.float32]
    odd: NDArray[np.float32]
    standard_error: Floats
    mean: Floats
    variance: Floats
    split_half: Floats
    linear: Floats
    linear_error: float


def measures(found: Halves, stimuli: Stimuli) -> Measures:
    """Make fields and what is said of them out of the sums of all images."""
    even, odd = found.even, found.odd
    count = even.count + odd.count
    units, pixels = even.products.shape
    maps = [np.zeros((units, pixels), np.float32) for _ in range(3)]
    mean = (even.responses + odd.responses) / count
    variance = _variance(even.response_squares + odd.response_squares, mean, count)
    split_half, linear = torch.zeros(2, units, dtype=torch.float64)
    scale = _scale(found, stimuli)
    for first in range(0, units, UNITS):
        part = slice(first, first + UNITS)
        # A unit that always answers alike, such as one read out beside the image, has no field.
        scales = (variance[part, None] > 0) * scale
        halves = [_field(half, part) * scales for half in (even, odd)]
        whole = _sum(even, odd, part)
        every = _field(whole, slice(None)) * scales
        for to, values in zip(maps, (every, *halves), strict=True):
            to[part] = values.numpy()
        split_half[part] = correlation(*halves)
        linear[part] = (halves[0] * halves[1]).sum(1) / variance[part]
    if not stimuli.white:
        linear[:] = math.nan
    return Measures(
        maps[0],
        maps[1],
        maps[2],
        (variance / count).sqrt().numpy(),
        mean.numpy(),
        variance.numpy(),
        split_half.numpy(),
        linear.numpy(),
        math.sqrt(pixels / (even.count * odd.count)) if stimuli.white else math.nan,
    )


def raw(found: Halves, stimuli: Stimuli) -> NDArray[np.float32]:
    """Return sums of responses times images as they were before standardising, ``[U, P]``."""
    responses = (found.even.responses + found.odd.responses)[:, None]
    products = (found.even.products + found.odd.products).mul_(stimuli.sd)
    return products.add_(stimuli.mean * responses).float().numpy()


def reliability(found: Halves) -> float:
    """Return the median over units of the correlation of the halves' fields, NaN if there is none.

    White noise or not, the scale of pixels is left alone: a figure to watch while a job runs.
    """
    if not (found.even.count and found.odd.count):
        return math.nan
    units = len(found.even.products)
    parts = [slice(first, first + UNITS) for first in range(0, units, UNITS)]
    every = [correlation(_field(found.even, part), _field(found.odd, part)) for part in parts]
    return float(torch.cat(every).nanmedian())


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Correlate rows of ``[U, P]``; NaN where one is constant."""
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    norms: Tensor = x.norm(dim=1) * y.norm(dim=1)
    return (x * y).sum(1) / norms


def _field(sums: Sums, part: slice) -> Tensor:
    mean = sums.responses[part] / sums.count
    return sums.products[part] / sums.count - mean[:, None] * (sums.pixels / sums.count)


def _sum(even: Sums, odd: Sums, part: slice) -> Sums:
    """Add up the sums of some units."""
    return Sums(
        even.products[part] + odd.products[part],
        even.responses[part] + odd.responses[part],
        even.response_squares[part] + odd.response_squares[part],
        even.pixels + odd.pixels,
        even.pixel_squares + odd.pixel_squares,
        even.count + odd.count,
    )


def _scale(found: Halves, stimuli: Stimuli) -> Tensor:
    """Return 1 over the standard deviation of each pixel, ``[P]``; 0 where it never changes."""
    both = _sum(found.even, found.odd, slice(0, 0))
    if stimuli.white:
        return torch.ones_like(both.pixels)
    variance = _variance(both.pixel_squares, both.pixels / both.count, both.count)
    return torch.where(variance > 0, variance.rsqrt(), 0.0)


def _variance(squares: Tensor, mean: Tensor, count: int) -> Tensor:
    """Return the variance of ``count`` numbers, 0 where rounding alone is left."""
    found = squares / count - mean**2
    return torch.where(found > ROUNDING * squares / count, found, 0.0)

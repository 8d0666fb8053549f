"""Is there a field at all, and how large is it?

The peak test: under the hypothesis that no pixel has anything to do with the response, each pixel's
z is standard normal (white noise, many images), and the largest of ``P`` of them exceeds ``x`` with
a probability of at most ``2 P (1 - Phi(x))`` (Bonferroni; over independent pixels within a few per
cent of the truth). It asks for one strong pixel: a wide weak field may fail it and still repeat
from one half of the images to the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, norm

from .. import errors

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Peaks:
    """The strongest pixel of each unit, and what it says.

    Attributes:
        z: Of that pixel, signed, ``[U]``; NaN for a unit without a field.
        p_value: That the largest of all its pixels is as large by chance, ``[U]``, at most 1: one
            test for a unit, however many pixels it has.
        significant: Whether ``|z|`` reaches the threshold, ``[U]``. Of units without a field, a
            share of at most ``alpha`` does.
        q_value: ``p_value`` adjusted for the number of units, ``[U]``: among the units where it is
            at most ``x``, a share of at most ``x`` is expected to have no field (Benjamini and
            Hochberg 1995, 10.1111/j.2517-6161.1995.tb02031.x).
        threshold: Of ``|z|``.
        alpha: Of the threshold.
    """

    z: Floats
    p_value: Floats
    significant: NDArray[np.bool_]
    q_value: Floats
    threshold: float
    alpha: float


def peak_test(z: NDArray[Any], alpha: float = 0.05) -> Peaks:
    """Test the strongest pixel of each unit.

    Args:
        z: Fields over the standard error of their pixels, ``[U, ...]``: :attr:`Fields.z`. A unit
            with a NaN has no field.
        alpha: Rate of units that are called significant where none is, between 0 and 1.

    Returns:
        The peaks.

    Raises:
        AttendriteError: No pixels, or ``alpha`` out of range.
    """
    if not 0 < alpha < 1:
        raise errors.must("alpha", "lie between 0 and 1", alpha)
    pixels = np.asarray(z).reshape(len(z), -1) if len(z) else np.zeros((0, 1))
    if not pixels.shape[1]:
        raise errors.must("z", "have pixels", list(np.shape(z)))
    missing = np.asarray(np.isnan(pixels).any(1))
    at = np.abs(np.where(missing[:, None], 0, pixels)).argmax(1)
    peak = pixels[np.arange(len(pixels)), at].astype(np.float64)
    peak[missing] = np.nan
    p_value = np.minimum(1, 2 * pixels.shape[1] * norm.sf(np.abs(peak)))
    q_value = np.full(len(peak), np.nan)
    if not missing.all():
        q_value[~missing] = false_discovery_control(p_value[~missing])
    threshold = float(norm.isf(alpha / 2 / pixels.shape[1]))
    return Peaks(peak, p_value, np.abs(peak) >= threshold, q_value, threshold, alpha)


def size_px(parameters: Floats) -> Floats:
    """Return the size of fitted fields: the geometric mean of the two standard deviations.

    An ellipse at one standard deviation has the area ``pi size^2``.

    Args:
        parameters: Of :class:`attendrite.kernels.gaussian_fit.Fits`, ``[U, 7]``.

    Returns:
        Pixels, ``[U]``; NaN where there is no fit.
    """
    return np.sqrt(parameters[:, 3] * parameters[:, 4])


@dataclass(frozen=True)
class Screen:
    """A flat screen across the line of sight, with the middle of the images nearest to the eye.

    Attributes:
        cm_per_px: Of what the model's core sees: in Sensorium 56.5 cm for 64 pixels.
        distance_cm: From the eye to the nearest point; default that of Sensorium.

    Raises:
        AttendriteError: A number that is not positive.
    """

    cm_per_px: float
    distance_cm: float = 15.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (value > 0 and math.isfinite(value)):
                raise errors.must(name, "be a number above 0", value)

    def degrees(self, px: Floats) -> Floats:
        """Return the visual angle between the nearest point and one that is so many pixels away.

        The size of a field that is published with V1T is ``degrees(2 * sigma)``, two standard
        deviations (Li et al. 2023, arXiv:2302.03023, and its notebook plot_aRFs).
        """
        return np.degrees(np.arctan(np.asarray(px, np.float64) * self.cm_per_px / self.distance_cm))

    def columns(self, units: Mapping[str, Floats], shape: Sequence[int]) -> dict[str, Floats]:
        """Return sizes and centres of fitted fields in degrees, NaN where there is no fit.

        Sizes are as if a field lay at the nearest point; elsewhere on a flat screen the eye sees
        them smaller. Azimuth and elevation are angles from there along the row and along the
        column, to the right and up: not spherical coordinates.

        Args:
            units: ``sigma_x``, ``sigma_y``, ``size``, ``x0`` and ``y0``, ``[U]``, pixels.
            shape: Of the images, ``[c, h, w]``.
        """
        _, height, width = shape
        found = {name: units[name] for name in ("sigma_x", "sigma_y", "size")}
        found["azimuth"] = units["x0"] - (width - 1) / 2
        found["elevation"] = (height - 1) / 2 - units["y0"]
        return {f"{name}_deg": self.degrees(px) for name, px in found.items()}

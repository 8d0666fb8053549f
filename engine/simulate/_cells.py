"""What ganglion cells are: types, and the truth about each cell of a simulated retina.

Taken from physiology:

* fields of a type are spaced by two standard deviations of their centre (Borghuis et al. 2008,
  doi:10.1523/JNEUROSCI.5259-07.2008);
* the surround has 0.55 of the integrated weight of the centre (Croner and Kaplan 1995,
  doi:10.1016/0042-6989(94)E0066-T);
* ON fields are 1.2 times as wide as OFF fields, ON cells reach their peak sooner (here in 0.85 of
  the time; 10-20 % measured) and rectify less, so their rate on grey is higher (Chichilnisky and
  Kalmar 2002, J Neurosci 22:2737; parasol cells of primates);
* ON-OFF direction-selective cells prefer four directions, here 0, 90, 180 and 270 degrees (Oyster
  and Barlow 1967, doi:10.1126/science.155.3764.841; rabbit).

Everything else is chosen: absolute sizes, times, rates, gains, and how much cells differ. The types
mix species and are no model of any one retina.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma, gammainc, gammaincinv, ndtr

from .. import errors
from ._checks import positive
from ._random import stream
from .stimuli import Grid

Floats = NDArray[np.float64]

SURROUND_GAIN = 0.55  # of the integrated centre
SURROUND_SIZE = 3.0  # times the centre's standard deviation
ORDER = 5.0  # shape of the gamma functions of the impulse response
REBOUND_DELAY = 2.0  # peak of the second over peak of the first
SETTLED = 1e-4  # share of the second gamma function that is cut off
JITTER = 0.1  # sd of a cell's place, in spacings
SPREAD = {"sigma": 0.1, "peak_s": 0.05, "gain": 0.2}  # sd of the logarithm, over cells
PREPARATION_SPREAD = {"sigma": 0.05, "peak_s": 0.05, "gain": 0.15}  # the same, over preparations


@dataclass(frozen=True)
class CellType:
    """A type of ganglion cell. Defaults of a simulation are :data:`TYPES`.

    Attributes:
        name: Unique among the types of a retina.
        polarity: 1 ON, -1 OFF, 0 ON-OFF (direction-selective).
        spacing: Of the hexagonal mosaic, um; the centre's standard deviation is half of it.
        peak_s: Peak of the first gamma function of the impulse response, s.
        rebound: Area of the second, of opposite sign, over that of the first: 1 for a cell that
            does not answer a steady stimulus (transient), less for a sustained one.
        scale: Hz; the free rate is ``scale * log(1 + exp(offset + gain * drive))``.
        offset: Sets the free rate on grey; lower means more rectified.
        gain: Of the drive, which is 1 for a steady contrast of 1 over the centre alone, if nothing
            rebounds.
        direction: Preferred direction, degrees; ``None``: none.
    """

    name: str
    polarity: int
    spacing: float
    peak_s: float
    rebound: float
    scale: float
    offset: float
    gain: float
    direction: float | None = None

    def __post_init__(self) -> None:
        positive(spacing=self.spacing, peak_s=self.peak_s, scale=self.scale, gain=self.gain)
        errors.choice("polarity", self.polarity, (1, -1) if self.direction is None else (0,))


TYPES = (
    CellType("on_sustained", 1, 180.0, 0.051, 0.6, 12.0, 0.5, 20.0),
    CellType("off_sustained", -1, 150.0, 0.060, 0.6, 12.0, -0.5, 20.0),
    CellType("on_transient", 1, 240.0, 0.034, 1.0, 12.0, -0.5, 25.0),
    CellType("off_transient", -1, 200.0, 0.040, 1.0, 12.0, -1.5, 25.0),
    *(
        CellType(f"direction_{degrees}", 0, 180.0, 0.045, 0.8, 12.0, -1.0, 60.0, float(degrees))
        for degrees in (0, 90, 180, 270)
    ),
)


@dataclass(frozen=True, eq=False)
class Cells:
    """The truth about the cells of a retina, one entry per unit of the recording.

    Attributes:
        unit_ids: ``[U]``, names: preparation, type, and place in the mosaic's lattice.
        type: ``[U]``, str.
        polarity: ``[U]``, int64: 1 ON, -1 OFF, 0 ON-OFF.
        centre: ``[U, 2]``, um: x and y of the receptive field.
        sigma: ``[U]``, um: standard deviation of the field's centre.
        surround: ``[U]``: integrated surround over integrated centre; 0 for
            direction-selective cells.
        peak_s: ``[U]``, s: see :class:`CellType`, as are the next four.
        rebound: ``[U]``.
        scale: ``[U]``, Hz.
        offset: ``[U]``.
        gain: ``[U]``.
        direction: ``[U]``, preferred direction, degrees; NaN: none.
    """

    unit_ids: tuple[str, ...]
    type: NDArray[np.str_]
    polarity: NDArray[np.int64]
    centre: Floats
    sigma: Floats
    surround: Floats
    peak_s: Floats
    rebound: Floats
    scale: Floats
    offset: Floats
    gain: Floats
    direction: Floats

    def __len__(self) -> int:
        return len(self.unit_ids)

    def fields(self, grid: Grid) -> Floats:
        """Return the spatial receptive fields, ``[U, rows, columns]``: weight of each pixel.

        A difference of Gaussians, integrated over pixels: the centre has weight 1 over the whole
        plane, the surround minus :attr:`surround`. What lies beyond the grid sees grey. The sign is
        that of a cell's centre as such; :attr:`polarity` is not in it.
        """
        centre = gaussians(self.centre, self.sigma, grid)
        wide = gaussians(self.centre, SURROUND_SIZE * self.sigma, grid)
        return centre - self.surround[:, None, None] * wide

    def impulse(self, lags: Floats) -> Floats:
        """Return the impulse responses, ``[U, L]``, 1/s: a difference of two gamma densities.

        Args:
            lags: Time since the impulse, ``[L]``, s.
        """
        scale = self.peak_s[:, None] / (ORDER - 1)
        first = _gamma(lags[None] / scale) / scale
        second = _gamma(lags[None] / (REBOUND_DELAY * scale)) / (REBOUND_DELAY * scale)
        return first - self.rebound[:, None] * second

    def free_rate(self, unit: int, drive: Floats) -> Floats:
        """Return the rate that a unit would have without refractoriness, Hz.

        Args:
            unit: Index.
            drive: Any shape; see :class:`CellType`.
        """
        x = self.offset[unit] + self.gain[unit] * drive
        return np.asarray(self.scale[unit] * np.logaddexp(0, x), np.float64)


def gaussians(centre: Floats, sigma: Floats, grid: Grid) -> Floats:
    """Return round Gaussians of weight 1 integrated over pixels, ``[U, rows, columns]``.

    Args:
        centre: ``[U, 2]``, um.
        sigma: ``[U]``, um.
        grid: The pixels.
    """
    x = _shares(grid.x, grid.pixel, centre[:, :1], sigma[:, None])
    y = _shares(grid.y, grid.pixel, centre[:, 1:], sigma[:, None])
    return np.asarray(y[:, :, None] * x[:, None, :], np.float64)


def _shares(at: Floats, width: float, centre: Floats, sigma: Floats) -> Floats:
    edges = np.append(at - width / 2, at[-1] + width / 2)
    return np.diff(ndtr((edges - centre) / sigma), axis=1)


def _gamma(x: Floats) -> Floats:
    """Gamma density of shape :data:`ORDER` and scale 1; 0 before 0."""
    x = np.maximum(x, 0)
    return np.asarray(x ** (ORDER - 1) * np.exp(-x) / gamma(ORDER), np.float64)


def step_response(times: Floats, peak_s: float, rebound: float) -> Floats:
    """Return the integral of the impulse response from 0 to ``times`` s; 0 before the step."""
    after = np.maximum(times, 0)
    scale = peak_s / (ORDER - 1)
    first = gammainc(ORDER, after / scale)
    second = gammainc(ORDER, after / (REBOUND_DELAY * scale))
    return np.asarray(first - rebound * second, np.float64)


def memory(peak_s: float) -> float:
    """Return how far an impulse response reaches back, s."""
    return float(gammaincinv(ORDER, 1 - SETTLED)) * REBOUND_DELAY * peak_s / (ORDER - 1)


def grow(
    seed: int, preparation: int, types: Sequence[CellType], extent: tuple[float, float]
) -> Cells:
    """Lay out the mosaics of a preparation.

    Each type has a hexagonal lattice of random rotation and phase, its cells jittered about its
    points (normal, sd 0.1 of the spacing). Sizes, times to peak and gains differ over preparations
    and over cells, log-normally (``PREPARATION_SPREAD``, ``SPREAD``).

    Args:
        seed: Of the simulation.
        preparation: Which retina, at least 0.
        types: Names unique.
        extent: Width and height of the patch about (0, 0), um: cells whose field is centred in it.

    Raises:
        AttendriteError: Two types of one name, or a patch of no size or without cells.
    """
    if preparation < 0:
        raise errors.must("preparation", "be at least 0", preparation)
    positive(width=extent[0], height=extent[1])
    names = [t.name for t in types]
    if len(set(names)) != len(names):
        raise errors.must("cell types", "have names of their own", names)
    rows = [row for t in types for row in _mosaic(seed, preparation, t, extent)]
    if not rows:
        raise errors.must("extent", "hold a cell", f"{extent} um", "enlarge it")
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    ids = tuple(columns.pop("unit_ids").tolist())
    return Cells(unit_ids=ids, **columns)


def _mosaic(
    seed: int, preparation: int, kind: CellType, extent: tuple[float, float]
) -> Iterator[dict[str, object]]:
    shared = stream(seed, "preparation", preparation)
    factor = _factors(PREPARATION_SPREAD, shared)
    own = stream(seed, "mosaic", preparation, kind.name)
    angle = own.uniform(0, np.pi / 3)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lattice = kind.spacing * np.array([[1.0, 0.5], [0.0, np.sqrt(0.75)]])
    phase = own.uniform(0, 1, 2)
    half = np.array(extent) / 2
    reach = int(np.ceil(2 * np.hypot(*half) / kind.spacing)) + 2
    for i, j in product(range(-reach, reach + 1), repeat=2):
        point = turn @ lattice @ (np.array([i, j]) + phase)
        if (np.abs(point) > half + kind.spacing).any():
            continue
        rng = stream(seed, "cell", preparation, kind.name, i, j)
        centre = point + JITTER * kind.spacing * rng.standard_normal(2)
        own_factor = _factors(SPREAD, rng)
        if (np.abs(centre) <= half).all():
            yield {
                "unit_ids": f"{session(seed, preparation)}/{kind.name}/{i}.{j}",
                "type": kind.name,
                "polarity": kind.polarity,
                "centre": centre,
                "sigma": kind.spacing / 2 * factor["sigma"] * own_factor["sigma"],
                "surround": SURROUND_GAIN if kind.direction is None else 0.0,
                "peak_s": kind.peak_s * factor["peak_s"] * own_factor["peak_s"],
                "rebound": kind.rebound,
                "scale": kind.scale,
                "offset": kind.offset,
                "gain": kind.gain * factor["gain"] * own_factor["gain"],
                "direction": np.nan if kind.direction is None else kind.direction,
            }


def _factors(spread: dict[str, float], rng: np.random.Generator) -> dict[str, float]:
    return {name: float(np.exp(sd * rng.standard_normal())) for name, sd in spread.items()}


def session(seed: int, preparation: int) -> str:
    """Return the session of a preparation."""
    return f"simulated/retina_{seed}_{preparation}"

"""A simulated retina: what its ganglion cells fire while a stimulus is shown.

A cell that is not direction-selective is linear, then rectified: the movie, plus noise, is weighted
by a difference of Gaussians in space and filtered by a difference of two gamma functions in time;
a softplus makes the rate. That linear-nonlinear form is the one Chichilnisky and Kalmar (2002,
J Neurosci 22:2737) measured with white noise; the functions are chosen.

**Noise** is that of photoreceptors: independent in every pixel and frame, added to the contrast
before anything else, and so shared by all cells that look at the same place. By this alone cells
of like polarity correlate positively and those of opposite polarity negatively, the more, the more
their fields overlap, as measured by Greschner et al. (2011, doi:10.1113/jphysiol.2010.193888) and
traced to the cones by Ala-Laurila et al. (2011, doi:10.1038/nn.2927). Its strength is chosen.

**Direction selectivity** follows Barlow and Levick (1965, J Physiol 178:477): inhibition comes from
the side that a stimulus of null direction reaches first, and is delayed, so that it meets the
excitation by such a stimulus and misses that by one of preferred direction. Both are full-wave
rectified, which makes the cell ON-OFF:

    drive = |e| - INHIBITION * lowpass(|i|)

``e`` is the filtered contrast in a Gaussian about the cell's centre, ``i`` that in a Gaussian of
the same size, moved by ``OFFSET`` standard deviations in the preferred direction; the low-pass is
exponential. These numbers are chosen. The spike-triggered average of such a cell is flat.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.signal import lfilter

from .. import errors
from ..recordings import Recording
from ._cells import TYPES, Cells, CellType, gaussians, grow, memory, session, step_response
from ._random import stream
from ._spiking import fire
from .stimuli import Stimulus

Floats = NDArray[np.float64]

STEP_S = 0.005  # longest time for which a rate is constant
BLOCK = 1024  # frames that are rendered at once
RECORDED = 2 / 3  # of the screen's sides, unless it is said
NOISE = 8.0  # contrast um s^(1/2): sd 1.2 in a pixel of 50 um for a frame of 1/60 s
OFFSET = 2.0  # of the inhibition, in standard deviations of the field
INHIBITION = 3.0  # gain of the inhibition over that of the excitation
DELAY_S = 0.3  # time constant of the inhibition


def retina(
    stimulus: Stimulus,
    *,
    seed: int = 0,
    preparation: int = 0,
    repeat: int = 0,
    types: Sequence[CellType] = TYPES,
    extent: tuple[float, float] | None = None,
    noise: float = NOISE,
) -> tuple[Recording, Cells]:
    """Show a stimulus to a retina.

    The same seed and preparation are the same retina, whatever it is shown; ``repeat`` draws its
    noise and spikes anew. Preparations have mosaics, sizes, speeds and gains of their own.

    Args:
        stimulus: From :mod:`attendrite.simulate.stimuli`.
        seed: Of the simulation, at least 0.
        preparation: Which retina, at least 0; each is a session.
        repeat: Which showing of this stimulus, at least 0.
        types: The cell types.
        extent: Width and height of the patch that is recorded, um, about the middle of the screen;
            ``None``: two thirds of the screen's sides, so that fields have room.
        noise: Spectral density of the photoreceptors' noise, contrast um s^(1/2): its standard
            deviation in a pixel of side ``a`` um and a frame of ``f`` s is ``noise / (a sqrt(f))``.
            There is none beyond the screen.

    Returns:
        The recording: spikes, the stimulus' series and intervals, unit columns ``area``,
        ``label`` (type), ``position`` (um), ``polarity`` and ``direction`` (degrees, NaN: none).
        And the truth.

    Raises:
        AttendriteError: Bad seeds or types, a patch without cells, or negative noise.
    """
    if not (np.isfinite(noise) and noise >= 0):
        raise errors.must("noise", "be finite and at least 0", noise)
    if repeat < 0:
        raise errors.must("repeat", "be at least 0", repeat)
    if extent is None:
        width, height = stimulus.grid.extent
        extent = (RECORDED * width, RECORDED * height)
    cells = grow(seed, preparation, types, extent)
    showing: tuple[int | str, ...] = (preparation, stimulus.name, repeat)
    excited, inhibited = _projections(stimulus, cells, noise, stream(seed, "noise", *showing))
    steps = int(np.ceil(stimulus.frame_s / STEP_S))
    edges = np.linspace(0, stimulus.duration, stimulus.n_frames * steps + 1)
    trains = {}
    for u, unit in enumerate(cells.unit_ids):
        drive = _drive(cells, u, excited[u], inhibited.get(u), stimulus.frame_s, steps)
        rng = stream(seed, "spikes", *showing, unit)
        trains[unit] = fire(cells.free_rate(u, drive), edges, rng)
    recording = Recording.from_trains(
        session(seed, preparation),
        trains,
        domain=(0.0, float(edges[-1])),
        series=stimulus.series,
        intervals=stimulus.intervals,
        unit_columns={
            "area": np.full(len(cells), "retina"),
            "label": cells.type,
            "position": cells.centre,
            "polarity": cells.polarity,
            "direction": cells.direction,
        },
        source=f"simulated: {stimulus.name}, {seed=}, {preparation=}, {repeat=}",
    )
    return recording, cells


def _projections(
    stimulus: Stimulus, cells: Cells, noise: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], dict[int, NDArray[np.float32]]]:
    """Weigh each frame by the cells' fields.

    Returns:
        Contrast in each cell's field ``[U, frames]``, and in the inhibitory field of those units
        that have one.
    """
    grid, n = stimulus.grid, stimulus.n_frames
    selective = np.flatnonzero(np.isfinite(cells.direction))
    angle = np.deg2rad(cells.direction[selective])
    away = np.stack([np.cos(angle), np.sin(angle)], 1) * OFFSET * cells.sigma[selective, None]
    inhibitory = gaussians(cells.centre[selective] + away, cells.sigma[selective], grid)
    fields = np.concatenate([cells.fields(grid), inhibitory])
    weights = fields.reshape(len(fields), -1).astype(np.float32)
    sd = np.float32(noise / (grid.pixel * np.sqrt(stimulus.frame_s)))
    seen = np.empty((len(weights), n), np.float32)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        movie = stimulus.render(start, stop).reshape(stop - start, -1)
        movie = movie + sd * rng.standard_normal(movie.shape, np.float32)
        for own, out in zip(weights, seen, strict=True):
            out[start:stop] = movie @ own  # one by one: other cells must not change a bit
    inhibited = dict(zip(selective.tolist(), seen[len(cells) :], strict=True))
    return seen[: len(cells)], inhibited


def _drive(
    cells: Cells,
    unit: int,
    excited: NDArray[np.float32],
    inhibited: NDArray[np.float32] | None,
    frame_s: float,
    steps: int,
) -> Floats:
    """Return the drive in the middle of each step, ``[frames * steps]``."""
    peak_s, rebound = float(cells.peak_s[unit]), float(cells.rebound[unit])
    excitation = _filtered(excited, peak_s, rebound, frame_s, steps)
    if inhibited is None:
        return np.asarray(cells.polarity[unit] * excitation, np.float64)
    inhibition = np.abs(_filtered(inhibited, peak_s, rebound, frame_s, steps))
    kept = np.exp(-frame_s / steps / DELAY_S)
    delayed = np.asarray(lfilter([1 - kept], [1.0, -kept], inhibition), np.float64)
    return np.asarray(np.abs(excitation) - INHIBITION * delayed, np.float64)


def _filtered(
    contrast: NDArray[np.float32], peak_s: float, rebound: float, frame_s: float, steps: int
) -> Floats:
    """Filter a contrast that is constant within frames; exact, in the middle of each step."""
    middle = (np.arange(steps) + 0.5) * frame_s / steps
    since = np.arange(int(memory(peak_s) / frame_s) + 2)[:, None] * frame_s + middle
    weights = step_response(since, peak_s, rebound) - step_response(
        since - frame_s, peak_s, rebound
    )
    padded = np.concatenate([np.zeros(len(since) - 1), contrast])
    windows = sliding_window_view(padded, len(since))
    return np.asarray((windows @ weights[::-1]).ravel(), np.float64)

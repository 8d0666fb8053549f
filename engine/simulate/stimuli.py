"""Stimuli on a small grid of pixels: micrometres on the retina, seconds, contrast from -1 to 1.

A stimulus does not hold its movie; it renders frames when they are asked for. What an experimenter
would note down, contrast, position, direction, is in its ``series`` and ``intervals`` and goes into
the recording.

Directions are degrees, counter-clockwise from +x; ``y`` grows with the row of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from .. import errors
from ..recordings import Intervals, Series
from ._checks import count, positive
from ._random import stream

Floats = NDArray[np.float64]
Frames = NDArray[np.float32]

FRAME_RATE = 60.0  # Hz
WORD = 64  # bits of one number of the generator
COUNTED = 4  # such numbers that Philox makes at each count


@dataclass(frozen=True)
class Grid:
    """The pixels of the screen, centred on (0, 0).

    Attributes:
        shape: Rows (y) and columns (x).
        pixel: Side of a pixel, um on the retina.
    """

    shape: tuple[int, int] = (24, 24)
    pixel: float = 50.0

    def __post_init__(self) -> None:
        count(rows=self.shape[0], columns=self.shape[1])
        positive(pixel=self.pixel)

    @property
    def extent(self) -> tuple[float, float]:
        """Width (x) and height (y), um."""
        return self.shape[1] * self.pixel, self.shape[0] * self.pixel

    @property
    def x(self) -> Floats:
        """Centres of the columns, um."""
        return _centred(self.shape[1], self.pixel)

    @property
    def y(self) -> Floats:
        """Centres of the rows, um."""
        return _centred(self.shape[0], self.pixel)


GRID = Grid()


@dataclass(frozen=True, eq=False)
class Stimulus:
    """A movie, and what is noted down of it.

    Attributes:
        name: What it is, with what tells it from others of its kind.
        grid: Its pixels.
        frame_s: How long a frame stays, s.
        n_frames: How many there are; frame ``n`` starts at ``n * frame_s``.
        render: Frames ``start`` to ``stop`` (exclusive), ``[n, rows, columns]``, float32, contrast.
        series: Goes into the recording.
        intervals: Goes into the recording.
    """

    name: str
    grid: Grid
    frame_s: float
    n_frames: int
    render: Callable[[int, int], Frames] = field(repr=False)
    series: Mapping[str, Series] = field(default_factory=dict)
    intervals: Mapping[str, Intervals] = field(default_factory=dict)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.n_frames * self.frame_s


def white_noise(
    duration: float, *, frame_rate: float = 30.0, grid: Grid = GRID, seed: int = 0
) -> Stimulus:
    """Every pixel of every frame is black (-1) or white (1), each as likely.

    Frame ``n`` is a function of the seed and ``n`` (:func:`noise_frames`). The recording gets the
    interval ``white_noise`` with what is needed to make the frames again.

    Args:
        duration: s; the number of whole frames in it is shown.
        frame_rate: Hz.
        grid: Its pixels.
        seed: Key of the noise, at least 0.

    Raises:
        AttendriteError: A duration or rate that is not above 0, or a negative seed.
    """
    n, frame_s = _frames(duration, frame_rate)
    if seed < 0:
        raise errors.must("seed", "be at least 0", seed)
    shown = Intervals(
        np.array([0.0]),
        np.array([n * frame_s]),
        {
            "seed": np.array([seed]),
            "rows": np.array([grid.shape[0]]),
            "columns": np.array([grid.shape[1]]),
            "pixel_um": np.array([grid.pixel]),
            "frame_s": np.array([frame_s]),
        },
    )
    return Stimulus(
        f"white noise {seed}",
        grid,
        frame_s,
        n,
        partial(noise_frames, seed, grid.shape),
        intervals={"white_noise": shown},
    )


def noise_frames(seed: int, shape: tuple[int, int], start: int, stop: int) -> Frames:
    """Return frames ``start`` to ``stop`` of binary white noise; any cut gives the same frames.

    The bits are those of Philox4x64-10 (Salmon et al., SC11, 2011) with the
    seed as key, low bits first. A frame of ``P`` pixels takes ``ceil(P / 256)`` counts; those of
    frame 0 begin at 1.

    Args:
        seed: Key of the noise.
        shape: Rows and columns.
        start: First frame.
        stop: Behind the last frame.

    Returns:
        ``[stop - start, rows, columns]``, float32, -1 or 1; newly allocated.
    """
    pixels, n = shape[0] * shape[1], stop - start
    counts = -(-pixels // (WORD * COUNTED))
    words = np.random.Philox(key=seed).advance(start * counts).random_raw(n * counts * COUNTED)
    octets = words.astype("<u8").view(np.uint8).reshape(n, counts * COUNTED * WORD // 8)
    bits = np.unpackbits(octets, axis=1, count=pixels, bitorder="little")
    return (2 * bits.astype(np.float32) - 1).reshape(n, *shape)


def flashes(
    n: int,
    *,
    contrasts: Sequence[float] = (-1.0, 1.0),
    on_s: float = 0.5,
    gap_s: tuple[float, float] = (1.0, 2.0),
    frame_rate: float = FRAME_RATE,
    grid: Grid = GRID,
    seed: int = 0,
) -> Stimulus:
    """Full-field flashes on grey, with a random gap before each and one after the last.

    Contrasts come equally often (the counts differ by 1 at most), in random order. Random gaps keep
    a decoder from reading the answer off the clock.

    The recording gets the series ``contrast`` and the intervals ``trials`` with the column
    ``contrast``; a trial is a flash.

    Args:
        n: Number of flashes.
        contrasts: Each from -1 to 1.
        on_s: Length of a flash, s, rounded to frames.
        gap_s: Shortest and longest gap, s, rounded to frames; uniform between.
        frame_rate: Hz.
        grid: Its pixels.
        seed: Of order and gaps.

    Raises:
        AttendriteError: A contrast beyond -1 to 1, or a length that is not above 0.
    """
    count(n=n, contrasts=len(contrasts))
    positive(on_s=on_s, frame_rate=frame_rate, shortest_gap=gap_s[0], longest_gap=gap_s[1])
    _contrast(*contrasts)
    if gap_s[1] < gap_s[0]:
        raise errors.must("gap_s", "have its longest gap at or above its shortest", gap_s)
    rng = stream(seed, "flashes")
    level = rng.permutation(np.resize(np.asarray(contrasts, np.float64), n))
    gaps = np.rint(rng.uniform(*gap_s, n + 1) * frame_rate).astype(np.int64)
    on = max(1, round(on_s * frame_rate))
    first = np.cumsum(gaps[:n]) + on * np.arange(n)
    course = np.zeros(int(first[-1] + on + gaps[n]))
    for start, contrast in zip(first, level, strict=True):
        course[start : start + on] = contrast
    frame_s = 1 / frame_rate
    trials = Intervals(_at(first, frame_s), _at(first + on, frame_s), {"contrast": level})
    return Stimulus(
        f"flashes {seed}",
        grid,
        frame_s,
        len(course),
        partial(_full_field, course.astype(np.float32), grid.shape),
        {"contrast": Series(_at(np.arange(len(course)), frame_s), course[:, None], ("contrast",))},
        {"trials": trials},
    )


def ball(
    duration: float,
    *,
    path: str = "walk",
    radius: float = 150.0,
    speed: float = 600.0,
    turn_s: float = 0.5,
    contrast: float = -1.0,
    frame_rate: float = FRAME_RATE,
    grid: Grid = GRID,
    seed: int = 0,
) -> Stimulus:
    """A disc that moves on grey and is reflected by the borders, so that it is always whole.

    The recording gets the series ``position`` (x, y of the disc's centre, um).

    Args:
        duration: s.
        path: ``bounce``: straight at constant speed, like a billiard ball; ``walk``: the velocity
            is an Ornstein-Uhlenbeck process.
        radius: um.
        speed: um/s: the speed of ``bounce``, the root mean square of that of ``walk``.
        turn_s: Correlation time of the velocity of ``walk``, s.
        contrast: From -1 to 1.
        frame_rate: Hz.
        grid: Its pixels.
        seed: Of the path.

    Raises:
        AttendriteError: An unknown path, a disc as large as the grid, or a size not above 0.
    """
    errors.choice("path", path, ("walk", "bounce"))
    positive(radius=radius, speed=speed, turn_s=turn_s)
    _contrast(contrast)
    n, frame_s = _frames(duration, frame_rate)
    room = np.array(grid.extent) / 2 - radius
    if room.min() <= 0:
        largest = min(grid.extent) / 2
        raise errors.must("radius", f"be below {largest} um", radius, "or enlarge the grid")
    rng = stream(seed, "ball")
    start = rng.uniform(-room, room)
    if path == "bounce":
        heading = rng.uniform(0, 2 * np.pi)
        velocity = np.tile(speed * np.array([np.cos(heading), np.sin(heading)]), (n, 1))
    else:
        velocity = _ornstein_uhlenbeck(n, math.exp(-frame_s / turn_s), rng) * speed / math.sqrt(2)
    straight = start + np.cumsum(velocity * frame_s, 0)  # as if there were no borders
    position = room - np.abs((straight + room) % (4 * room) - 2 * room)
    times = _at(np.arange(n), frame_s)
    return Stimulus(
        f"ball {path} {seed}",
        grid,
        frame_s,
        n,
        partial(_disc, position, radius, contrast, grid),
        {"position": Series(times, position, ("x", "y"), "um")},
    )


def bars(
    repeats: int,
    *,
    n_directions: int = 8,
    speed: float = 800.0,
    width: float = 300.0,
    contrast: float = 1.0,
    gap_s: float = 1.0,
    frame_rate: float = FRAME_RATE,
    grid: Grid = GRID,
    seed: int = 0,
) -> Stimulus:
    """A long bar sweeps across the grid in one direction after another, with grey between.

    Each repeat holds every direction once, in random order. A sweep is as long in every direction.

    The recording gets the intervals ``trials`` with the column ``direction``, degrees.

    Args:
        repeats: Sweeps in each direction.
        n_directions: Evenly spaced, from 0 degrees on.
        speed: um/s.
        width: Of the bar along its way, um.
        contrast: From -1 to 1.
        gap_s: Grey before each sweep and after the last, s, rounded to frames.
        frame_rate: Hz.
        grid: Its pixels.
        seed: Of the order.

    Raises:
        AttendriteError: A size that is not above 0.
    """
    count(repeats=repeats, n_directions=n_directions)
    positive(speed=speed, width=width, gap_s=gap_s, frame_rate=frame_rate)
    _contrast(contrast)
    rng = stream(seed, "bars")
    order = np.concatenate([rng.permutation(n_directions) for _ in range(repeats)])
    direction = order * 360.0 / n_directions
    reach = math.hypot(*grid.extent) / 2 + width / 2  # beyond it the bar is out of sight
    sweep = math.ceil(2 * reach / speed * frame_rate)
    gap = max(1, round(gap_s * frame_rate))
    first = gap + (sweep + gap) * np.arange(len(order))
    n, frame_s = int(first[-1]) + sweep + gap, 1 / frame_rate
    heading, along = np.zeros(n), np.full(n, reach)
    for start, degrees in zip(first, direction, strict=True):
        heading[start : start + sweep] = math.radians(degrees)
        along[start : start + sweep] = np.arange(sweep) * frame_s * speed - reach
    trials = Intervals(_at(first, frame_s), _at(first + sweep, frame_s), {"direction": direction})
    return Stimulus(
        f"bars {seed}",
        grid,
        frame_s,
        n,
        partial(_bar, heading, along, width, contrast, grid),
        intervals={"trials": trials},
    )


def _centred(n: int, pixel: float) -> Floats:
    return np.asarray((np.arange(n) - (n - 1) / 2) * pixel, np.float64)


def _at(frames: NDArray[np.int64], frame_s: float) -> Floats:
    """Return when frames begin, s."""
    return np.asarray(frames * frame_s, np.float64)


def _frames(duration: float, frame_rate: float) -> tuple[int, float]:
    positive(duration=duration, frame_rate=frame_rate)
    n = round(duration * frame_rate)
    if n < 1:
        raise errors.must("duration", "hold a frame", f"{duration} s at {frame_rate} Hz")
    return n, 1 / frame_rate


def _contrast(*values: float) -> None:
    for value in values:
        if not -1 <= value <= 1:
            raise errors.must("contrast", "lie from -1 to 1", value)


def _ornstein_uhlenbeck(n: int, kept: float, rng: np.random.Generator) -> Floats:
    """Two processes of variance 1 that keep the share ``kept`` from frame to frame, ``[n, 2]``."""
    drawn = rng.standard_normal((n, 2))
    drawn[1:] *= math.sqrt(1 - kept**2)
    return np.asarray(lfilter([1.0], [1.0, -kept], drawn, axis=0), np.float64)


def _full_field(course: Frames, shape: tuple[int, int], start: int, stop: int) -> Frames:
    part = course[start:stop]
    return np.broadcast_to(part[:, None, None], (len(part), *shape)).copy()


def _cover(inside: Floats, pixel: float) -> Floats:
    """Share of a pixel inside a straight border that its centre is ``inside`` um away from."""
    return np.clip(inside / pixel + 0.5, 0, 1)


def _disc(
    position: Floats, radius: float, contrast: float, grid: Grid, start: int, stop: int
) -> Frames:
    at = position[start:stop]
    distance = np.hypot(
        grid.x[None, None, :] - at[:, 0, None, None], grid.y[None, :, None] - at[:, 1, None, None]
    )
    return (contrast * _cover(radius - distance, grid.pixel)).astype(np.float32)


def _bar(
    heading: Floats, along: Floats, width: float, contrast: float, grid: Grid, start: int, stop: int
) -> Frames:
    angle = heading[start:stop, None, None]
    ahead = grid.x[None, None, :] * np.cos(angle) + grid.y[None, :, None] * np.sin(angle)
    distance = np.abs(ahead - along[start:stop, None, None])
    return (contrast * _cover(width / 2 - distance, grid.pixel)).astype(np.float32)

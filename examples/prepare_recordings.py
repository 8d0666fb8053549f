"""Make the demo's two recordings from the files that their laboratories published.

    python examples/prepare_recordings.py track SPIKES.mat TRAJECTORY -o linear_track.npz
    python examples/prepare_recordings.py flash FOLDER -o chromatic_flash.npz

``track``: github.com/nelpy/example-data, folder ``linear-track``: ``spikes.mat`` and
``trajectory.videoPositionTracking``.
``flash``: github.com/gollischlab/ChromaticIntegrationAnalysis; FOLDER holds ``cell1`` .. ``cell7``
(the folders "example cell 1" .. "example cell 7") and ``condition_order.csv``, the order of the
conditions as the stimulus generator made it
(columns cycle, flash in the cycle, condition, green and UV contrast in per cent).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from attendrite.recordings import Intervals, Recording, Series, Spikes
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.ndimage import gaussian_filter1d, median_filter

# Linear track
CLOCK = 30_000  # ticks of the position file, Hz
STEP = 0.25  # s, grid of the speed
POSITION_RATE = 20  # Hz
SLOW = 15.0  # px/s: below this the animal does not run
OFF_TRACK = 60.0  # px from the track's axis: the animal is in the hand

# Chromatic flashes
GREEN = np.r_[np.arange(-20, 1, 2), np.arange(0, 21, 2)]  # contrast of condition k, %
UV = np.r_[np.arange(0, 21, 2), np.arange(-20, 1, 2)]
BEFORE, AFTER = 0.75, 1.24  # s around an onset; cell 4 has a flash every 1.9975 s
PERIOD = 2.0  # s, of the common clock
FLASH = 0.5  # s
CELLS = range(1, 8)


def track(spikes: Path, trajectory: Path) -> Recording:
    """Linear track: sorted tetrode units and the animal's position."""
    trains = list(_trains(loadmat(spikes)["spikes"]))
    times, xy = _positions(trajectory.read_bytes())
    first, last = min(t[0] for t in trains), max(t[-1] for t in trains)
    start, stop = max(times[0], first), min(times[-1], last)
    grid = np.arange(start, stop, 1 / POSITION_RATE)
    smooth = _resampled(grid, times, xy, wide=25)
    return Recording(
        session="nelpy/linear-track",
        unit_ids=tuple(f"nelpy/linear-track/unit{i:02d}" for i in range(len(trains))),
        load_spikes=lambda: Spikes.from_trains(trains),
        domain=(float(first), float(last)),
        series={"position": Series(grid, smooth.astype(np.float32), ("x", "y"), "px")},
        intervals=_running(np.arange(start, stop, STEP), times, xy),
        source="github.com/nelpy/example-data 099548c, linear-track; MIT",
    )


def _trains(node: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Walk nested MATLAB cells; yield the spike times of each unit that has any."""
    if node.dtype == object:
        for item in node.ravel():
            yield from _trains(item)
    elif node.dtype.names and "time" in node.dtype.names:
        for item in node.ravel():
            times = np.asarray(item["time"], np.float64).ravel()
            if times.size:
                yield times


def _positions(raw: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read 12-byte records behind a text header: times ``[T]`` s, position ``[T, 2]`` px."""
    header = b"<End settings>\n"
    raw = raw[raw.index(header) + len(header) :]
    row = np.dtype([("t", "<u4"), ("x", "<u2"), ("y", "<u2"), ("x2", "<u2"), ("y2", "<u2")])
    found = np.frombuffer(raw, row, len(raw) // row.itemsize)
    found = found[(found["x"] > 0) | (found["y"] > 0)]  # 0, 0: the animal was not seen
    return found["t"] / CLOCK, np.stack([found["x"], found["y"]], 1).astype(np.float64)


def _resampled(
    grid: NDArray[np.float64], times: NDArray[np.float64], xy: NDArray[np.float64], wide: int
) -> NDArray[np.float64]:
    columns = [median_filter(np.interp(grid, times, xy[:, k]), wide) for k in (0, 1)]
    return np.stack(columns, 1)


def _running(
    grid: NDArray[np.float64], times: NDArray[np.float64], xy: NDArray[np.float64]
) -> dict[str, Intervals]:
    """Find when the animal moves, and when it does so on the track.

    The camera sees the animal also in the hand that sets it down at the start and lifts it off at
    the end: fast movement, far from the straight line of the track.
    """
    at = _resampled(grid + STEP / 2, times, xy, wide=5)
    velocity = np.gradient(gaussian_filter1d(at, 2, axis=0), axis=0) / STEP
    moving = np.linalg.norm(velocity, axis=1) > SLOW
    running = moving & (_off_axis(at, moving) < OFF_TRACK)
    return {"moving": _runs(grid, moving), "running": _runs(grid, running)}


def _off_axis(at: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of places ``[T, 2]`` from the principal axis of those chosen, outliers left out."""
    distance = np.zeros(len(at))
    for _ in range(5):
        on = at[chosen & (distance < OFF_TRACK)]
        across = np.linalg.svd(on - on.mean(0), full_matrices=False)[2][1]
        distance = np.abs((at - on.mean(0)) @ across)
    return distance


def _runs(grid: NDArray[np.float64], chosen: NDArray[np.bool_]) -> Intervals:
    """Join neighbouring grid steps to intervals."""
    edges = np.flatnonzero(np.diff(np.r_[False, chosen, False]))
    stops = np.r_[grid, grid[-1] + STEP]
    return Intervals(grid[edges[::2]], stops[edges[1::2]])


def flash(folder: Path) -> Recording:
    """Full-field flashes: seven ganglion cells, flash by flash on one clock.

    All cells saw the same order of conditions, so flash ``i`` of every cell is put at the same
    time: a pseudo-population. Only cells 2 and 6 were recorded together.
    """
    table = np.loadtxt(folder / "condition_order.csv", delimiter=",", skiprows=1, dtype=int)
    cells = [_cell(folder / f"cell{c}") for c in CELLS]
    flashes = min(len(onsets) for _, onsets in cells) // 22 * 22
    onset = np.arange(flashes) * PERIOD + BEFORE
    condition = table[:flashes, 2]
    green, uv = GREEN[condition], UV[condition]
    assert np.array_equal(np.stack([green, uv], 1), table[:flashes, 3:5])
    return Recording(
        session="gollisch/chromatic-flash",
        unit_ids=tuple(f"gollisch/chromatic-flash/cell{c}" for c in CELLS),
        load_spikes=lambda: Spikes.from_trains([_aligned(s, o[:flashes]) for s, o in cells]),
        domain=(0.0, flashes * PERIOD),
        series={"contrast": _steps(onset, np.stack([green, uv], 1))},
        intervals={
            "flashes": Intervals(
                onset, onset + FLASH, {"condition": condition, "green": green, "uv": uv}
            ),
            "trials": Intervals(onset - BEFORE, onset + AFTER),
        },
        source="github.com/gollischlab/ChromaticIntegrationAnalysis 630788a, re-timed; MIT",
    )


def _cell(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read spike times and flash onsets, seconds. Numbers are separated by CR."""
    spikes, screen = (
        np.array(next(folder.glob(name)).read_text().split(), np.float64)
        for name in ("*_SP_C*.txt", "*frametimings.txt")
    )
    return spikes, screen[1::2]  # every second change of the screen, from the second, is a flash


def _aligned(spikes: NDArray[np.float64], onsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move the spikes around each onset to the common clock; the rest is left out."""
    first = np.searchsorted(spikes, onsets - BEFORE)
    stop = np.searchsorted(spikes, onsets + AFTER)
    assert all(a <= b for a, b in pairwise(np.stack([first, stop], 1).ravel()))  # none twice
    moved = [
        spikes[a:b] - onset + i * PERIOD + BEFORE
        for i, (a, b, onset) in enumerate(zip(first, stop, onsets, strict=True))
    ]
    return np.concatenate(moved)


def _steps(onset: NDArray[np.float64], contrast: NDArray[np.int64]) -> Series:
    """Contrast over time, in samples between which a straight line is right."""
    edge = 1e-4
    times = (onset[:, None] + np.array([-edge, 0.0, FLASH, FLASH + edge])).ravel()
    values = contrast[:, None, :] * np.array([0, 1, 1, 0])[None, :, None]
    return Series(times, values.reshape(-1, 2).astype(np.float32), ("green", "uv"), "%")


def main() -> int:
    """Write one recording."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("track")
    one.add_argument("spikes", type=Path)
    one.add_argument("trajectory", type=Path)
    one.set_defaults(make=lambda o: track(o.spikes, o.trajectory))
    two = commands.add_parser("flash")
    two.add_argument("folder", type=Path)
    two.set_defaults(make=lambda o: flash(o.folder))
    for command in (one, two):
        command.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    recording = options.make(options)
    recording.save(options.output, compress=True)
    print(recording.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())

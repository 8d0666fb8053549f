"""Draw the figures of docs/simulate.md: what went into simulated populations and what comes out.

python examples/simulate_populations.py docs
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from attendrite import Recording, simulate
from attendrite.simulate import stimuli
from matplotlib.axes import Axes
from numpy.typing import NDArray

ON, OFF = "tab:red", "tab:blue"
LAGS = 12  # frames of white noise
BIN = 0.05  # s, of counts that are correlated
AFTER = 0.3  # s after a sweep that still count: responses lag
STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def trains(recording: Recording) -> list[NDArray[np.float64]]:
    """Split the spikes by unit."""
    times, offsets = recording.by_unit()
    return np.split(times, offsets[1:-1])


def mosaics(axes: Axes, cells: simulate.Cells) -> None:
    """Draw one standard deviation of the fields of two types."""
    for kind, color in (("on_sustained", ON), ("off_sustained", OFF)):
        for u in np.flatnonzero(cells.type == kind):
            axes.add_patch(plt.Circle(cells.centre[u], cells.sigma[u], fill=False, color=color))
    axes.set(xlim=(-500, 500), ylim=(-500, 500), aspect="equal", xlabel="µm", ylabel="µm")
    axes.set_title("fields: ON (red), OFF (blue) sustained")


def time_courses(axes: Axes) -> None:
    """Draw spike-triggered averages, weighted by the field, over the true impulse response.

    A frame is a box in time and a spike falls anywhere in one, so the average is the impulse
    response smoothed by a triangle of two frames.
    """
    shown = stimuli.white_noise(900, grid=stimuli.Grid((12, 12), 100.0), seed=7)
    recording, cells = simulate.retina(shown, types=simulate.TYPES[:4], extent=(400.0, 400.0))
    movie = shown.render(0, shown.n_frames).reshape(shown.n_frames, -1)
    fine = np.linspace(-2, LAGS, 400 * (LAGS + 2) + 1) * shown.frame_s
    lags = np.arange(LAGS) * shown.frame_s
    triangle = 1 - np.abs(np.linspace(-1, 1, 801))
    for kind, color, style in (("on_sustained", ON, "-"), ("off_transient", OFF, "--")):
        u = int(np.flatnonzero(cells.type == kind)[0])
        frames = (trains(recording)[u] / shown.frame_s).astype(int)
        frames = frames[frames >= LAGS]
        average = np.array([movie[frames - lag].mean(0) for lag in range(LAGS)])
        weights = cells.fields(shown.grid)[u].ravel()
        found = average @ weights
        truth = cells.polarity[u] * np.convolve(cells.impulse(fine)[u], triangle, "same")
        axes.plot(-fine, truth / np.abs(truth).max(), color=color, ls=style, label=kind)
        axes.plot(-lags, found / np.abs(found).max(), "o", color=color, ms=3)
    axes.set(xlabel="s before a spike", title="impulse response (lines) and average (points)")
    axes.set_xlim(-lags[-1], 0)
    axes.legend(frameon=False)


def noise_correlations(axes: Axes) -> None:
    """Draw the correlation of counts on grey over the distance of pairs."""
    grey = stimuli.flashes(150, contrasts=(0.0,), seed=1)
    recording, cells = simulate.retina(grey, types=simulate.TYPES[:4])
    edges = np.arange(0, recording.duration, BIN)
    r = np.corrcoef([np.histogram(train, edges)[0] for train in trains(recording)])
    pairs = np.triu_indices(len(cells), 1)
    apart = np.linalg.norm(cells.centre[:, None] - cells.centre[None], axis=2)[pairs]
    alike = np.outer(cells.polarity, cells.polarity)[pairs]
    for sign, color, label in ((1, "k", "same polarity"), (-1, "tab:orange", "ON with OFF")):
        own = alike == sign
        axes.plot(apart[own], r[pairs][own], ".", ms=1.5, color=color, label=label)
    axes.axhline(0, color="0.7", lw=0.8)
    axes.set(xlabel="distance, µm", title=f"noise correlation, counts in {1000 * BIN:.0f} ms")
    axes.legend(frameon=False, markerscale=5)


def directions(axes: Axes) -> None:
    """Draw spikes per sweep of a bar, mean over the cells of each direction-selective type."""
    recording, cells = simulate.retina(stimuli.bars(8, seed=3))
    trials = recording.intervals["trials"]
    direction = trials.columns["direction"]
    sweeps = np.array([
        np.searchsorted(train, trials.stop + AFTER) - np.searchsorted(train, trials.start)
        for train in trains(recording)
    ])  # fmt: skip
    shown = np.unique(direction)
    means = np.stack([sweeps[:, direction == d].mean(1) for d in shown], 1)
    closed = np.deg2rad(np.append(shown, 360.0))
    for preferred in np.unique(cells.direction[np.isfinite(cells.direction)]):
        curve = means[cells.direction == preferred].mean(0)
        axes.plot(closed, np.append(curve, curve[0]), label=f"{preferred:.0f}°")
    axes.set_title("spikes per sweep, by preferred direction")


def cortex(axes: NDArray[np.object_]) -> None:
    """Draw traces of both lines, and selectivity seen over true."""
    for line, color, offset in (("excitatory", ON, 0.0), ("parvalbumin", OFF, 4.0)):
        recording, truth = simulate.oriented(line, n_units=60)
        traces = recording.traces
        assert traces is not None
        best = int(np.argmax(truth.selectivity))
        part = traces.slice(0, 60)
        axes[0].plot(part.times, part.values[:, best] + offset, color=color, lw=0.6, label=line)
        trials = recording.intervals["trials"]
        frames = np.searchsorted(traces.times, np.stack([trials.start, trials.stop]))
        response = np.stack([traces.values[a:b].mean(0) for a, b in frames.T])
        turn = np.exp(2j * np.deg2rad(trials.columns["direction"]))[:, None]
        seen = np.abs((response * turn).sum(0)) / response.sum(0)
        axes[1].plot(truth.selectivity, seen, ".", color=color, label=line)
    axes[0].set(xlabel="s", ylabel="dF/F", title="traces of the sharpest cell of each line")
    axes[1].plot([0, 1], [0, 1], color="0.7", lw=0.8)
    axes[1].set(xlabel="true selectivity", ylabel="from traces", title="orientation selectivity")
    axes[1].legend(frameon=False)


def main(folder: Path) -> None:
    """Write both figures."""
    plt.rcParams.update(STYLE)
    figure = plt.figure(figsize=(7.6, 6.2), layout="constrained")
    _, cells = simulate.retina(stimuli.white_noise(1), extent=(1200.0, 1200.0))
    mosaics(figure.add_subplot(2, 2, 1), cells)
    time_courses(figure.add_subplot(2, 2, 2))
    noise_correlations(figure.add_subplot(2, 2, 3))
    directions(figure.add_subplot(2, 2, 4, projection="polar"))
    figure.savefig(folder / "simulated_retina.png", dpi=80)
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.8), layout="constrained", width_ratios=(2, 1))
    cortex(axes)
    figure.savefig(folder / "simulated_cortex.png", dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

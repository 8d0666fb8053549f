"""Decode a recording with a trained model, window by window, and score it where the truth is known.

Without --causal, windows overlap by half and a value is the mean over the windows that hold its
time; with it, every value comes from a window that ends at its time. With --series the values are
decoded at the samples of that series and scored against it: on the blocks of time that the bundle
kept from its training, if it names them for this recording, else on everything (and it says so).

examples:
  attendrite decode BUNDLE day1.npz -o decoded.csv --series position --within running
  attendrite decode BUNDLE day1.npz -o decoded.npz --rate 50 --causal
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..files import write_npz, written_whole
from ..recordings import Recording, Series, read
from . import _options

if TYPE_CHECKING:
    from ..decoding import Decoded
    from ..runtime import Engine

HELP = "decode a recording; score it against a behaviour or stimulus series"
FORMATS = (".npz", ".csv")
PICTURES = (".png", ".svg", ".pdf")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite decode``."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE")
    add("recording", metavar="RECORDING")
    add("-o", "--out", required=True, type=Path, metavar="FILE", help="values, .npz or .csv")
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument("--series", metavar="NAME", help="decode at its samples and score against it")
    when.add_argument("--rate", type=float, metavar="HZ", help="decode at this rate")
    add("--within", metavar="NAME", help="score inside these intervals of the recording only")
    add("--causal", action="store_true", help="each value from a window that ends at its time")
    add("--hop", type=float, metavar="S", help="between overlapping windows; default half of one")
    add("--start", type=float, metavar="S", help="first time; default the recording's start")
    add("--stop", type=float, metavar="S", help="last time; default the recording's stop")
    add("--task", metavar="NAME", help="which read-out, for a model with several")
    add("--batch-size", type=int, default=16, help="windows at a time; default %(default)s")
    add("--figure", type=Path, metavar="FILE", help="decoded and true values, .png, .svg or .pdf")
    add("--json", action="store_true", help="print the scores as JSON")
    _options.add_fit(parser)
    _options.add_engine(parser)


def run(options: argparse.Namespace) -> int:
    """Decode, write and score; return the exit status."""
    from ..decoding import decode
    from ..fit import fitted

    _check_options(options)
    engine = _options.engine(options)
    recording = fitted(
        read(options.recording), engine.manifest, options.map, options.session, options.unknown
    )
    _options.check_task(engine, options.task)
    truth = _series(recording, options.series)
    if options.within is not None:
        errors.choice("intervals", options.within, recording.intervals)
    decoded = decode(
        engine,
        recording,
        _times(recording, truth, options),
        causal=options.causal,
        hop=options.hop,
        task=options.task,
        batch_size=options.batch_size,
        progress=True,
    )
    columns = _columns(truth, decoded.values.shape[1])
    values = None if truth is None else _at(truth, decoded.times)
    _write(options.out, decoded, columns, values, engine)
    score = None if values is None else _score(decoded, values, columns, recording, engine, options)
    if options.figure is not None:
        _figure(options.figure, decoded, values, columns, "" if truth is None else truth.unit)
    _report(options, decoded, score)
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is computed."""
    errors.choice("kind of output", options.out.suffix, FORMATS)
    if options.figure is not None:
        errors.choice("kind of figure", options.figure.suffix, PICTURES)
    for path in (options.out, options.figure):
        if path is not None and not path.absolute().parent.is_dir():
            raise errors.must(f"the folder of {path}", "exist", "none", "make it first")
    if options.rate is not None and not 0 < options.rate < float("inf"):
        raise errors.must("--rate", "be above 0 Hz", options.rate)
    if options.batch_size < 1:
        raise errors.must("--batch-size", "be at least 1", options.batch_size)
    if options.within is not None and options.series is None:
        raise errors.must("--within", "come with --series", "--rate", "it says where to score")


def _series(recording: Recording, name: str | None) -> Series | None:
    if name is None:
        return None
    errors.choice("series", name, recording.series)
    return recording.series[name]


def _times(
    recording: Recording, truth: Series | None, options: argparse.Namespace
) -> NDArray[np.float64]:
    start = recording.domain[0] if options.start is None else options.start
    stop = recording.domain[1] if options.stop is None else options.stop
    if truth is not None:
        times = truth.times[(truth.times >= start) & (truth.times < stop)]
    else:
        times = np.arange(np.ceil(start * options.rate), stop * options.rate) / options.rate
    if not len(times):
        raise errors.must("--start and --stop", "hold a time to decode", f"{start:g} to {stop:g} s")
    return times


def _at(truth: Series, times: NDArray[np.float64]) -> NDArray[np.float64]:
    first = int(np.searchsorted(truth.times, times[0]))
    return np.asarray(truth.values[first : first + len(times)], np.float64)


def _columns(truth: Series | None, width: int) -> tuple[str, ...]:
    if truth is None:
        return tuple(f"value{i}" for i in range(width))
    if len(truth.columns) != width:
        raise errors.must(
            "the series", f"have as many columns as the model decodes, {width}", truth.columns
        )
    return truth.columns


def _write(
    path: Path,
    decoded: Decoded,
    columns: tuple[str, ...],
    truth: NDArray[np.float64] | None,
    engine: Engine,
) -> None:
    if path.suffix == ".npz":
        meta = {"bundle": engine.manifest.name, "causal": decoded.causal}
        arrays: dict[str, Any] = {
            "times": decoded.times,
            "values": decoded.values,
            "windows": decoded.windows,
            "columns": np.array(columns),
            "meta": json.dumps(meta),
        }
        write_npz(path, arrays if truth is None else arrays | {"truth": truth})
        return
    with written_whole(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        known = () if truth is None else tuple(f"true_{name}" for name in columns)
        writer.writerow(("time", *columns, *known, "windows"))
        parts: list[NDArray[Any]] = [
            decoded.times[:, None],
            decoded.values,
            decoded.windows[:, None],
        ]
        if truth is not None:
            parts.insert(2, truth)
        for row in np.hstack(parts).tolist():
            writer.writerow([*(f"{x:.9g}" for x in row[:-1]), int(row[-1])])


@dataclass(frozen=True)
class _Score:
    """Metrics, and on what."""

    columns: tuple[str, ...]
    r2: list[float]
    correlation: list[float]
    median_error: float
    samples: int
    held_out: bool


def _score(
    decoded: Decoded,
    truth: NDArray[np.float64],
    columns: tuple[str, ...],
    recording: Recording,
    engine: Engine,
    options: argparse.Namespace,
) -> _Score | None:
    """Score on held-out time where the bundle names it; ``None``: nothing to score."""
    from .. import evaluation
    from ..decoding import held_out

    used = (decoded.windows > 0) & np.isfinite(truth).all(1)
    blocks = held_out(engine, recording)
    if blocks:
        used &= evaluation.inside(decoded.times, blocks)
    if options.within is not None:
        where = recording.intervals[options.within]
        pairs = list(zip(where.start.tolist(), where.stop.tolist(), strict=True))
        used &= evaluation.inside(decoded.times, pairs)
    if used.sum() < 2:
        return None
    true, value = truth[used], decoded.values[used]
    return _Score(
        columns,
        evaluation.r2(true, value).tolist(),
        evaluation.correlation(true, value).tolist(),
        evaluation.median_error(true, value),
        int(used.sum()),
        bool(blocks),
    )


def _report(options: argparse.Namespace, decoded: Decoded, score: _Score | None) -> None:
    missing = int((decoded.windows == 0).sum())
    if options.json:
        facts = {"times": len(decoded.times), "undecoded": missing, "causal": decoded.causal}
        print(json.dumps(facts | ({} if score is None else {"score": vars(score)}), indent=1))
        return
    print(f"decoded {len(decoded.times) - missing} values to {options.out}")
    if missing:
        print(f"{missing} values lie where no whole window fits: NaN")
    if score is None:
        if options.series is not None:
            print("no samples to score")
        return
    for name, r2, r in zip(score.columns, score.r2, score.correlation, strict=True):
        print(f"{name:12} R2 {r2:7.3f}   r {r:7.3f}")
    print(f"median error {score.median_error:.4g}, {score.samples} samples, ", end="")
    print("held out from training" if score.held_out else "held-out time not known to the bundle")


def _figure(
    path: Path,
    decoded: Decoded,
    truth: NDArray[np.float64] | None,
    columns: tuple[str, ...],
    unit: str,
) -> None:
    from matplotlib.figure import Figure  # slow to import, rarely wanted

    figure = Figure(figsize=(10, 2.2 * len(columns)), layout="constrained")
    axes = figure.subplots(len(columns), sharex=True, squeeze=False)[:, 0]
    for k, (axis, name) in enumerate(zip(axes, columns, strict=True)):
        if truth is not None:
            axis.plot(decoded.times, truth[:, k], color="0.6", lw=1.2, label="true")
        axis.plot(decoded.times, decoded.values[:, k], color="#c1440e", lw=0.8, label="decoded")
        axis.set_ylabel(f"{name} [{unit}]" if unit else name)
    axes[0].legend(frameon=False, ncols=2, loc="upper right")
    axes[-1].set_xlabel("time [s]")
    with written_whole(path) as beside:
        figure.savefig(beside, format=path.suffix[1:])

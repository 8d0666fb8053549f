"""The demo's report: what is said and drawn about each task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__, report
from ..evaluation import Samples, draw_samples, inside, r2
from ..evaluation.samples import interpolate
from ..report import Cell, Picture, Section, Table, TableRow
from ._comparison import Attention, Comparison, Held, Row

Floats = NDArray[np.float64]
STEP = 0.1  # s, of the drawn trajectory
LONGEST = 75.0  # s of it

TITLES = {
    "track": "Linear track: where is the animal?",
    "flash": "Chromatic flashes: what did the retina see?",
}
TEXTS = {
    "track": (
        "31 sorted tetrode units, position in camera pixels, while the animal runs on the track "
        "(speed above 15 px/s, not in the hand that sets it down and lifts it off). Four of ten "
        "blocks of time are held out. Ridge regression and a Bayesian place decoder see the same "
        "samples and the same stretch of spikes.",
        "Not claimed: anything about other animals or days; one session, four blocks.",
    ),
    "flash": (
        "Seven mouse retinal ganglion cells, flashes of half a second from grey, 22 pairs of green "
        "and UV contrast. The last quarter of the flashes is held out. The decoder is asked at "
        "random times during a flash, in windows at random offsets from its onset: neither POYO "
        "nor ridge is told when the flash began.",
        "Only cells 2 and 6 were recorded together. The others come from separate recordings of "
        "the same order of flashes, put on one clock flash by flash: a pseudo-population. Pairs "
        "never cross the split. Not claimed: anything about synchrony, noise correlation or the "
        "simultaneous code of these cells.",
    ),
}
KINDS = {"poyo": "ours", "no spikes": "control", "shifted truth": "control"}
METHODS = {
    "poyo": "POYO",
    "ridge": "ridge",
    "bayes": "Bayes, place maps",
    "no spikes": "POYO, no spikes (clock control)",
    "shifted truth": "POYO, truth shifted (control)",
}


def section(name: str, comparison: Comparison, held: Held, extra: list[Row]) -> Section:
    """Build the section of one task.

    Args:
        name: ``track`` or ``flash``.
        comparison: The task.
        held: What was decoded on the held-out samples.
        extra: Rows on another selection of samples, if any.
    """
    attention = comparison.attention()
    blocks: list[Table | Picture] = [
        _scores(comparison, held.rows, _caption(comparison, held)),
        _bars(comparison, held),
        *(_track(comparison) if name == "track" else _flash(comparison, held)),
        *([_scores(comparison, extra, _other(extra), "All moving samples")] if extra else []),
        _attention(comparison, attention),
        _units(comparison, attention),
    ]
    return Section(TITLES[name], TEXTS[name], blocks)


def write(path: Path, sections: Sequence[Section]) -> None:
    """Write the report."""
    report.write(
        path,
        "attendrite demo",
        "Held-out time of two real recordings, decoded by trained POYO models, beside baselines "
        "with the same samples and the same spikes. Three training seeds each.",
        sections,
        f"attendrite {__version__}. Recordings: nelpy/example-data (E. Ackermann and others), MIT; "
        "gollischlab/ChromaticIntegrationAnalysis (Khani and Gollisch 2021, Nature Communications "
        "12:1900), MIT. Model: POYO (Azabou and others 2023), class of torch_brain 0.2.1.",
    )


def _caption(comparison: Comparison, held: Held) -> str:
    blocks = ", ".join(f"{a:.0f}-{b:.0f}" for a, b in comparison.split.intervals("test"))
    return (
        f"R2 per dimension on {len(held.samples)} held-out samples ({blocks} s): 1 minus squared "
        f"error over squared deviation from the mean of these samples. POYO: mean over seeds "
        f"{', '.join(map(str, comparison.seeds))}, below it the lowest and highest. Causal: spikes "
        f"of the last {comparison.length:g} s only. Acausal: as many seconds "
        f"centred on the decoded time. Median: of the distance between "
        f"decoded and true. Settings of all methods were chosen on the training side."
    )


def _other(rows: Sequence[Row]) -> str:
    return (
        f"As above on all {rows[0].samples} samples faster than 15 px/s, with those in which the "
        "animal is in the hand, far from the track."
    )


def _scores(comparison: Comparison, rows: Sequence[Row], caption: str, folded: str = "") -> Table:
    head = [""]
    for support in ("causal", "acausal"):
        head += [f"{support} {column}" for column in comparison.columns]
        head.append(f"median ({comparison.unit})")
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        cells = [Cell(METHODS[method])]
        for row in (r for r in rows if r.method == method):
            cells += [_spread(values, 2) for values in row.r2.T]
            cells.append(_spread(row.median_error, 1))
        lines.append(TableRow(cells, KINDS.get(method, "")))
    return Table(caption, head, lines, folded=folded)


def _spread(values: Floats, digits: int) -> Cell:
    small = f"{values.min():.{digits}f} to {values.max():.{digits}f}" if len(values) > 1 else ""
    return Cell(f"{values.mean():.{digits}f}", small)


def _bars(comparison: Comparison, held: Held) -> Picture:
    methods = [m for m in ("poyo", "ridge", "bayes") if (m, "causal") in held.decoded]
    supports = ("causal", "acausal")
    values = {
        method: np.concatenate(
            [
                row.r2
                for s in supports
                for row in held.rows
                if (row.method, row.support) == (method, s)
            ],
            axis=1,
        )
        for method in methods
    }
    groups = [f"{s}, {column}" for s in supports for column in comparison.columns]
    return Picture(
        "Held-out R2. Bars: mean over seeds; dots: each seed.",
        report.bars(groups, values, "held-out R2"),
    )


def _track(comparison: Comparison) -> list[Picture]:
    start, stop = comparison.split.intervals("test")[0]
    first = start + comparison.length
    times = np.arange(first, min(stop, first + LONGEST), STEP)
    truth = comparison.recording.series[comparison.series]
    where = comparison.recording.intervals[comparison.within]
    shown = inside(times, list(zip(where.start.tolist(), where.stop.tolist(), strict=True)))
    decoded = {
        "poyo": comparison.decode(comparison.engines[0], times, True),
        "ridge": comparison.baselines(True)["ridge"].predict(times),
    }
    true = interpolate(truth.times, truth.values, times)
    svg = report.traces(times, true, decoded, comparison.columns, comparison.unit, shown)
    text = (
        "A stretch of held-out time, decoded causally (first seed). Decoded values are drawn while "
        "the animal runs; in between the true position is grey."
    )
    return [Picture(text, svg)]


def _flash(comparison: Comparison, held: Held) -> list[Picture]:
    values = held.decoded["poyo", "acausal"][0]
    return [
        Picture(
            "R2 by the time since flash onset at which the decoder was asked (first seed; samples "
            "five times as dense). Causal decoding starts at chance: no spike has come yet.",
            _by_latency(comparison),
        ),
        Picture(
            "Decoded against true contrast, acausal, first seed; one dot per held-out sample.",
            report.scatter(held.samples.values, values, comparison.columns, comparison.unit),
        ),
    ]


def _by_latency(comparison: Comparison) -> str:
    samples = _dense(comparison)
    where = comparison.recording.intervals[comparison.within]
    onset = where.start[np.searchsorted(where.start, samples.times, "right") - 1]
    since = samples.times - onset
    edges = np.linspace(0, float((where.stop - where.start).max()), 11)
    lines = {}
    for support in ("causal", "acausal"):
        fit = comparison.baselines(support == "causal")["ridge"]
        decoded = {
            "poyo": comparison.decode(comparison.engines[0], samples.times, support == "causal"),
            "ridge": fit.predict(samples.times),
        }
        for method, values in decoded.items():
            bins = [(since >= a) & (since < b) for a, b in pairwise(edges)]
            lines[f"{method} {support}"] = np.stack(
                [r2(samples.values[b], values[b]) for b in bins]
            )
    centres = 1000 * (edges[:-1] + edges[1:]) / 2
    return report.curves(centres, lines, comparison.columns, "time since onset (ms)|held-out R2")


def _dense(comparison: Comparison) -> Samples:
    blocks = comparison.split.intervals("test")
    drawn = draw_samples(
        comparison.recording, comparison.series, comparison.within,
        spacing=comparison.spacing / 5, seed=0,
    )  # fmt: skip
    return drawn.within(blocks, comparison.length, comparison.length / 2)


def _short(comparison: Comparison) -> list[str]:
    return [unit.rsplit("/", 1)[-1] for unit in comparison.recording.unit_ids]


def _attention(comparison: Comparison, attention: Attention) -> Picture:
    lift = attention.lift("spikes")[0]
    caption = (
        f"Lift of each unit in each encoder head, first seed: its share of the attention on spikes "
        f"over its share of the spikes, in {attention.windows} held-out windows that do not "
        "overlap. 1 (white): no preference. A description of one model; heads are not aligned "
        "between seeds, and no untrained or label-shuffled model is compared here."
    )
    return Picture(caption, report.attention_map(lift, _short(comparison), "lift"))


def _units(comparison: Comparison, attention: Attention) -> Table:
    lift = attention.lift("spikes")  # [R, H, N]
    heads = lift.shape[1]
    head = ["unit", "rate (Hz)", "spikes", "sum, spikes", "sum, all", "lift, spikes", "lift, all"]
    head += [f"lift, head {h}" for h in range(heads)] + ["lift, lowest seed", "lift, highest seed"]
    whole = {which: _over_heads(attention, which) for which in ("spikes", "all")}  # [R, N]
    rows = []
    for n, unit in enumerate(_short(comparison)):
        numbers = [
            f"{comparison.recording.rates[n]:.2f}",
            str(attention.tokens["spikes"][n]),
            f"{attention.sums['spikes'][0, :, n].sum():.1f}",
            f"{attention.sums['all'][0, :, n].sum():.1f}",
            _number(whole["spikes"][0, n]),
            _number(whole["all"][0, n]),
            *(_number(x) for x in lift[0, :, n]),
            _number(whole["spikes"][:, n].min()),
            _number(whole["spikes"][:, n].max()),
        ]
        rows.append(TableRow([Cell(unit), *map(Cell, numbers)]))
    caption = (
        "Encoder attention per unit, first seed, summed over latents and windows. Sum grows with a "
        "unit's number of tokens; lift does not. 'spikes': spike tokens only; 'all': with START "
        "and END, which a silent unit has too. Click a column to sort."
    )
    return Table(caption, head, rows, sortable=True, folded=f"All {len(rows)} units")


def _over_heads(attention: Attention, which: str) -> Any:
    """Lift with the attention of all heads added, ``[R, N]``."""
    merged = Attention(
        {which: attention.sums[which].sum(1, keepdims=True)}, attention.tokens, attention.windows
    )
    return merged.lift(which)[:, 0]


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}"

"""What a trained model attends to in a recording, beside the same model untrained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from tqdm import tqdm

from .. import errors
from ..capture import Site
from ..decoding import held_out
from ..evaluation import inside
from ..kernels.rollout import FUSE
from ..recordings import Recording
from ..runtime import Engine
from . import _windows, units
from ._windows import Interval, Trials, Windows
from .heads import Row, heads
from .observed import TOKENS, Observed, observe
from .specialisation import Specialisation, specialisation
from .synchrony import Synchrony, synchrony

TRAINED = "trained"
CONTROL = "{} untrained models, torch_brain's initialisation"
FIXED = {  # choices that have no option
    "ranked_by": "sum_spikes",
    "sums": "over queries, heads and windows, not means",
    "lift": "share of attention / share of tokens; lift_within: attention / what equal attention "
    "to all tokens of each window would give",
    "queries": "one at each latent time",
    "reliability": f"odd against even of up to {units.BLOCKS} blocks of time",
    "strata": "neighbours in spike count, cut at the largest gaps, 3 units or more",
    "p": "(1 + nulls at least as large) / (1 + null_size), one side",
}
BESIDE = ("sum_spikes", "lift_spikes", "rollout_lift")  # also given of the untrained models


@dataclass(frozen=True)
class Figures:
    """What one model attends to.

    Attributes:
        name: ``trained`` or ``untrained 0``.
        units: By column, ``[U]``; see :func:`attendrite.analysis.units.attention`.
        heads: A row per head; see :func:`attendrite.analysis.heads.heads`.
        reliability: Of the order of units, by the figure they are ordered by.
        synchrony: Of the encoder's heads.
        specialisation: Of the encoder's heads.
    """

    name: str
    units: dict[str, NDArray[Any]]
    heads: list[Row]
    reliability: dict[str, dict[str, float]]
    synchrony: Synchrony
    specialisation: Specialisation


@dataclass(frozen=True)
class Analysis:
    """The tables of an analysis.

    Attributes:
        units: By column, ``[U]``: what the units are, the trained model, and the untrained ones
            (mean, lowest and highest over draws).
        heads: A row per model, site and head.
        trained: The model's own figures.
        untrained: Those of each untrained model; empty without control.
        meta: Choices made, windows, versions; JSON can hold it.
    """

    units: dict[str, NDArray[Any]]
    heads: list[Row]
    trained: Figures
    untrained: tuple[Figures, ...]
    meta: dict[str, Any]


def attend(
    engine: Engine,
    recording: Recording,
    *,
    controls: Sequence[Engine] = (),
    spans: Sequence[Interval] | None = None,
    trials: Trials | None = None,
    tokens: str = "spikes",
    fuse: str = "mean",
    rounds: int = 1000,
    seed: int = 0,
    session: str | None = None,
    task: str | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> Analysis:
    """Analyse the attention of a model to the units of a recording.

    Args:
        engine: The trained model.
        recording: Its units and session must be known to the model.
        controls: The same model untrained, one or more draws; see
            :func:`attendrite.analysis.control.untrained`.
        spans: Where windows may lie, seconds; default the recording's domain. Windows lie side by
            side and never overlap.
        trials: Intervals at whose starts windows begin: synchrony then has a locked and a residual
            part.
        tokens: Which count for the figures of heads: ``spikes``, or ``all`` with START and END.
        fuse: How the rollout fuses heads, ``mean`` or ``max``.
        rounds: Size of each null.
        seed: Of the nulls' draws.
        session: The bundle's name for this recording; default the recording's own.
        task: Which read-out of a family with several tasks.
        batch_size: Windows per forward.
        progress: Show a progress bar on stderr when it is a terminal.

    Raises:
        AttendriteError: An unknown name, no room for a window, no spikes, or a recording that does
            not fit the model.
    """
    errors.choice("rollout", fuse, FUSE)
    errors.choice("tokens", tokens, TOKENS)
    if rounds < 1:
        raise errors.must("the size of a null", "be at least 1", rounds)
    began = time.perf_counter()
    length = engine.manifest.sequence_length
    spans = [recording.domain] if spans is None else list(spans)
    windows = _windows.place(recording, length, spans, trials)
    total = len(windows.starts) * (1 + len(controls))
    names = [TRAINED, *(f"untrained {i}" for i in range(len(controls)))]
    found = []
    with tqdm(total=total, unit="window", disable=None if progress else True) as bar:
        for name, model in zip(names, [engine, *controls], strict=True):
            observed = observe(
                model, recording, windows,
                which=tokens, fuse=fuse, session=session, task=task, batch_size=batch_size,
                step=bar.update,
            )  # fmt: skip
            found.append(figures(name, observed, recording, engine.sites, rounds, seed))
    trained, *untrained = found
    choices = {
        "tokens_of_heads": tokens,
        "rollout": f"{fuse} over heads; identity added in processor layers only, rows normalised; "
        "START and END count",
        "null_size": rounds,
        "seed": seed,
        "control": CONTROL.format(len(controls)) if controls else "none",
        **FIXED,
    }
    meta = {
        "windows": _about(windows, trials, held_out(engine, recording)),
        "choices": choices,
        "versions": engine.versions | {"scipy": scipy.__version__},
        "seconds": time.perf_counter() - began,
    }
    rows = [{"model": own.name} | row for own in found for row in own.heads]
    table = units.described(recording, observed) | trained.units | _beside(untrained)
    return Analysis(table, rows, trained, tuple(untrained), meta)


def figures(
    name: str, observed: Observed, recording: Recording, sites: Sequence[Site], rounds: int,
    seed: int,
) -> Figures:  # fmt: skip
    """Compute the figures of one model; models get the same draws of the nulls."""
    moving, apart = (np.random.default_rng([seed, i]) for i in range(2))
    sums = observed.sums[observed.which].sum(0)
    tokens = {t: counts.sum(0) for t, counts in observed.tokens.counts.items()}
    return Figures(
        name,
        units.attention(observed),
        heads(observed, sites, recording.unit_ids),
        units.reliability(observed),
        synchrony(observed, rounds, moving),
        specialisation(sums, tokens[observed.which], tokens["spikes"], rounds, apart),
    )


def _about(windows: Windows, trials: Trials | None, blocks: Sequence[Interval]) -> dict[str, Any]:
    middle = windows.starts + windows.length / 2
    return {
        "count": len(windows.starts),
        "seconds_each": windows.length,
        "overlap": "none",
        "from": float(windows.starts[0]),
        "to": float(windows.starts[-1] + windows.length),
        "held_out": int(inside(middle, blocks).sum()) if blocks else None,
        "trials": None if trials is None else str(trials),
        "windows_per_trial": windows.per_trial,
    }


def _beside(untrained: Sequence[Figures]) -> dict[str, NDArray[Any]]:
    out: dict[str, NDArray[Any]] = {}
    for name in BESIDE if untrained else ():
        draws = np.stack([own.units[name] for own in untrained])
        out[f"{name}_untrained"] = draws.mean(0)
        out[f"{name}_untrained_low"] = draws.min(0)
        out[f"{name}_untrained_high"] = draws.max(0)
    return out

"""Held-out comparison of bundles with baselines: what the demo prints and draws.

The bundles of one task differ in their seed only. Their manifest says what is decoded, from which
windows and on which blocks of time; baselines are given the same samples and the same support.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..analysis import lift
from ..batches import SpikeBatch
from ..capture import Capture
from ..evaluation import (
    Choice,
    Samples,
    Split,
    Support,
    bayes_place,
    correlation,
    draw_samples,
    median_error,
    r2,
    ridge,
)
from ..recordings import Recording, Spikes
from ..runtime import Engine

Floats = NDArray[np.float64]
BATCH = 64
PLACES = ("px", "cm", "m")  # units of series that a place decoder may decode


@dataclass(frozen=True)
class Row:
    """One line of the table: a method with a support.

    Attributes:
        method: ``poyo``, ``ridge``, ``bayes``, ``no spikes`` or ``shifted truth``.
        support: ``causal`` or ``acausal``.
        selection: Which samples: the name of the intervals.
        r2: ``[R, D]``: one row per seed, or one.
        correlation: ``[R, D]``.
        median_error: ``[R]``, in the unit of the series.
        samples: Number of samples.
        settings: What was chosen on the training side.
    """

    method: str
    support: str
    selection: str
    r2: Floats
    correlation: Floats
    median_error: Floats
    samples: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class Attention:
    """Attention of the encoder's heads per unit, on non-overlapping test windows.

    Attributes:
        sums: By which tokens count, ``spikes`` or ``all``: ``[R, H, N]``, summed over windows and
            latents; one ``R`` per seed.
        tokens: Tokens of each unit in these windows, likewise: ``[N]``.
        windows: Number of windows.
    """

    sums: dict[str, Floats]
    tokens: dict[str, NDArray[np.int64]]
    windows: int

    def lift(self, which: str) -> Floats:
        """Share of attention over share of tokens, ``[R, H, N]``; NaN for a unit without tokens."""
        return lift(self.sums[which], self.tokens[which])


class Comparison:
    """One task: its recording, its bundles, and what comes out on held-out time.

    Args:
        recording: What the bundles were trained on.
        engines: One per seed, of the same training otherwise.

    Raises:
        AttendriteError: A bundle that does not say how it was trained, or was on something else.
    """

    def __init__(self, recording: Recording, engines: Sequence[Engine]) -> None:
        self.recording, self.engines = recording, list(engines)
        self._fits: dict[bool, dict[str, Choice]] = {}
        facts = [engine.manifest.training for engine in engines]
        for fact in facts:
            if fact.get("session") != recording.session or "split" not in fact:
                raise errors.must(
                    "a bundle to compare",
                    f"say how it was trained on {recording.session}",
                    f"session {fact.get('session')!r}",
                )
        splits = [Split.from_json(fact["split"]).refit() for fact in facts]
        if any(split != splits[0] for split in splits):
            raise errors.must("bundles to compare", "have one split", "several")
        self.facts, self.split = facts[0], splits[0]
        options = self.facts["options"]
        self.series, self.within = options["series"], options["within"]
        self.spacing = float(options["spacing"])
        self.length = self.split.length
        self.columns = list(recording.series[self.series].columns)
        self.unit = recording.series[self.series].unit

    @property
    def seeds(self) -> list[int]:
        """Seed of each bundle."""
        return [int(engine.manifest.training["seeds"][0]) for engine in self.engines]

    def support(self, causal: bool) -> Support:
        """Which spikes a value may use: one window of the model, ending at it or centred on it."""
        return Support(self.length, 0.0) if causal else Support(self.length / 2, self.length / 2)

    def samples(self, role: str, split: Split | None = None, within: str | None = None) -> Samples:
        """Return the samples of one use for which both windows lie in its blocks."""
        drawn = draw_samples(
            self.recording, self.series, within or self.within, spacing=self.spacing, seed=0
        )
        blocks = (split or self.split).intervals(role)
        return drawn.within(blocks, self.length, self.length / 2)

    def decode(
        self, engine: Engine, times: Floats, causal: bool, recording: Recording | None = None
    ) -> Floats:
        """Decode test time with one bundle, one window per value: ``[S, D]``."""
        support = self.support(causal)
        starts = times - support.before
        self.split.check(starts, starts + self.length)
        batch = SpikeBatch.from_recording(
            recording or self.recording, starts, self.length, np.array([support.before])
        )
        prediction = engine.run(batch, batch_size=BATCH).prediction
        assert not isinstance(prediction, dict)
        return prediction[:, 0].astype(np.float64)

    def baselines(self, causal: bool) -> dict[str, Choice]:
        """Fit the baselines on the training side, with the support of the decoder; once."""
        if causal not in self._fits:
            splits = self.split.folds()
            sides: dict[str, Any] = {
                "folds": [
                    (self.samples("training", s), self.samples("validation", s)) for s in splits
                ],
                "refit": self.samples("training"),
            }
            support = self.support(causal)
            self._fits[causal] = {"ridge": ridge(self.recording, support, **sides)}
            if self.unit in PLACES:
                self._fits[causal]["bayes"] = bayes_place(self.recording, support, **sides)
        return self._fits[causal]

    def silent(self) -> Recording:
        """Return the recording without its spikes: what a clock alone can say."""
        return replace(self.recording, load_spikes=Spikes.none)

    def attention(self) -> Attention:
        """Sum the encoder's attention per unit over non-overlapping windows of test time."""
        starts = self._tiles()
        batch = SpikeBatch.from_recording(
            self.recording, starts, self.length, np.array([self.length])
        )
        spikes = np.bincount(batch.units, minlength=len(batch.unit_ids)).astype(np.int64)
        sums = {
            which: np.stack([self._sums(engine, batch, which) for engine in self.engines])
            for which in ("spikes", "all")
        }
        return Attention(sums, {"spikes": spikes, "all": spikes + 2 * len(starts)}, len(starts))

    def _sums(self, engine: Engine, batch: SpikeBatch, which: str) -> Floats:
        result = engine.run(batch, Capture({"encoder": f"per_unit:{which}"}), batch_size=BATCH)
        assert result.attention is not None
        sums: Floats = result.attention["encoder", "per_unit"].astype(np.float64).sum(0)
        return sums

    def _tiles(self) -> Floats:
        """Starts of windows that do not overlap, each with at least one sample in it."""
        samples = self.samples("test").times
        starts: list[float] = []
        phase = np.random.default_rng(1).uniform(self.length / 2, self.length, len(samples))
        for time, early in zip(samples, phase, strict=True):
            if not starts or time - early >= starts[-1] + self.length:
                starts.append(time - early)
        out = np.array(starts)
        self.split.check(out, out + self.length)
        return out


@dataclass(frozen=True)
class Held:
    """What came out for one selection of held-out samples.

    Attributes:
        samples: The samples.
        rows: The table.
        decoded: By method and support, ``[R, S, D]``.
    """

    samples: Samples
    rows: list[Row]
    decoded: dict[tuple[str, str], Floats]


def compare(comparison: Comparison, selection: str | None = None, *, controls: bool = True) -> Held:
    """Decode held-out samples with every method.

    Args:
        comparison: The task.
        selection: Intervals in which to sample; default those of the training.
        controls: Also decode without spikes, and score against shifted truth.
    """
    test = comparison.samples("test", within=selection)
    name = selection or comparison.within
    silent = comparison.silent()
    found: list[Row] = []
    kept: dict[tuple[str, str], Floats] = {}
    for support in ("causal", "acausal"):
        causal = support == "causal"
        fits = comparison.baselines(causal)
        decoded = {"poyo": [comparison.decode(e, test.times, causal) for e in comparison.engines]}
        decoded |= {method: [fit.predict(test.times)] for method, fit in fits.items()}
        if controls:
            decoded["no spikes"] = [
                comparison.decode(e, test.times, causal, silent) for e in comparison.engines
            ]
        for method, values in decoded.items():
            settings = dict(fits[method].settings) if method in fits else {}
            found.append(_row(method, support, name, test.values, values, settings))
            kept[method, support] = np.stack(values)
        if controls:
            moved = np.roll(test.values, len(test) // 2, axis=0)
            found.append(_row("shifted truth", support, name, moved, decoded["poyo"], {}))
    return Held(test, found, kept)


def _row(
    method: str, support: str, selection: str, true: Floats, decoded: Sequence[Floats],
    settings: dict[str, Any],
) -> Row:  # fmt: skip
    return Row(
        method, support, selection,
        np.stack([r2(true, d) for d in decoded]),
        np.stack([correlation(true, d) for d in decoded]),
        np.array([median_error(true, d) for d in decoded]),
        len(true), settings,
    )  # fmt: skip

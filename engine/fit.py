"""How well a recording fits a bundle, and making it fit: units renamed, strangers left out."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import errors
from .bundle import Manifest
from .recordings import Recording

CHANGED = 3.0  # times faster or slower than in training
FASTEST = 1000.0  # Hz; no neuron, so the times are not in seconds
SHOWN = 5
RETRAIN = "train a model on this recording (examples/train_poyo.py)"


@dataclass
class Fit:
    """How well a recording fits a bundle.

    Attributes:
        reasons: Why it does not fit, each with what to do; empty if it does.
        notes: What is worth knowing.
        units: Ids ``in_common``, only in the ``recording``, only in the ``bundle``.
        session: The one to be used, and whether the bundle ``known`` it.
        window: Lengths in seconds: ``sequence_length``, ``recording``, ``longest_silence``; and
            the range ``[from, to]`` that can be decoded from spikes before the value alone.
        rates: Of the units in common, ``median_ratio`` to the training and the ``changed`` ones;
            empty where the bundle does not know them.
    """

    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    units: dict[str, list[str]] = field(default_factory=dict)
    session: dict[str, Any] = field(default_factory=dict)
    window: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, Any] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether the recording can be decoded as it is."""
        return not self.reasons


def check(manifest: Manifest, recording: Recording, session: str | None = None) -> Fit:
    """Compare a recording with a bundle."""
    fit = Fit()
    _check_units(fit, manifest, recording)
    _check_session(fit, manifest, recording.session if session is None else session)
    _check_window(fit, manifest, recording)
    if recording.traces is None and recording.duration > 0:
        _check_rates(fit, manifest, recording)
    return fit


def _check_units(fit: Fit, manifest: Manifest, recording: Recording) -> None:
    mine = set(recording.unit_ids)
    common = [u for u in recording.unit_ids if u in manifest.units]
    unknown = [u for u in recording.unit_ids if u not in manifest.units]
    missing = [u for u in manifest.units if u not in mine]
    fit.units = {"in_common": common, "recording": unknown, "bundle": missing}
    if not common:
        fit.reasons.append(
            f"no unit in common: the recording has {listed(unknown)}, the bundle {listed(missing)};"
            f" rename units with --map FILE, or {RETRAIN}"
        )
    elif unknown:
        fit.reasons.append(
            f"{len(unknown)} units unknown to the bundle: {listed(unknown)};"
            f" rename them with --map FILE, leave them out with --unknown drop, or {RETRAIN}"
        )
    if missing and common:
        fit.notes.append(f"{len(missing)} units of the bundle have no tokens: {listed(missing)}")


def _check_session(fit: Fit, manifest: Manifest, session: str) -> None:
    known = session in manifest.sessions
    fit.session = {"name": session, "known": known}
    if not known:
        fit.reasons.append(
            f"session {session!r} unknown to the bundle, which knows {listed(manifest.sessions)};"
            f" choose one with --session, or {RETRAIN}"
        )


def _check_window(fit: Fit, manifest: Manifest, recording: Recording) -> None:
    length = manifest.sequence_length
    start, stop = recording.domain
    calcium = manifest.family.startswith("calcium")
    if calcium and recording.traces is None:
        fit.reasons.append("the model takes fluorescence, the recording has none")
    if not calcium and recording.traces is not None:
        fit.reasons.append("the model takes spikes, the recording has fluorescence")
    times = recording.spikes.times if recording.traces is None else recording.traces.times
    edges = np.concatenate([[start], times, [stop]])
    gaps = np.diff(edges)
    widest = int(np.argmax(gaps))
    fit.window = {
        "sequence_length": length,
        "recording": stop - start,
        "longest_silence": float(gaps[widest]),
        "causal_range": [start + length, stop],
    }
    if stop - start < length:
        fit.reasons.append(
            f"the recording lasts {stop - start:g} s, one window of the model {length:g} s;"
            " give it a longer one"
        )
    elif gaps[widest] >= length:
        at = edges[widest]
        fit.notes.append(
            f"nothing is recorded from {at:g} to {at + gaps[widest]:g} s, longer than a window:"
            " values decoded there rest on START and END tokens alone"
        )


def _check_rates(fit: Fit, manifest: Manifest, recording: Recording) -> None:
    rates = dict(zip(recording.unit_ids, recording.rates.tolist(), strict=True))
    silent = [unit for unit in fit.units["in_common"] if rates[unit] == 0]
    if silent:
        fit.notes.append(f"{len(silent)} units in common are silent: {listed(silent)}")
    if rates and float(np.median(list(rates.values()))) > FASTEST:
        fit.reasons.append(
            f"half of the units fire above {FASTEST:g} Hz; give spike times in seconds"
        )
    trained = manifest.training.get("rates_hz", {})
    ratio = {u: rates[u] / trained[u] for u in fit.units["in_common"] if trained.get(u, 0) > 0}
    if not ratio:
        fit.notes.append("the bundle does not know the rates in training")
        return
    changed = [unit for unit, r in ratio.items() if not 1 / CHANGED <= r <= CHANGED]
    median = float(np.median(list(ratio.values())))
    fit.rates = {"median_ratio": median, "changed": changed}
    if len(changed) * 2 > len(ratio):
        fit.reasons.append(
            f"{len(changed)} of {len(ratio)} units fire more than {CHANGED:g} times faster or"
            f" slower than in training (median {median:.2g} times); check the units or --map"
        )
    elif changed:
        fit.notes.append(f"{len(changed)} units changed their rate: {listed(changed)}")


def read_map(path: str | Path) -> dict[str, str]:
    """Read a CSV file with the columns ``old,new``: unit ids of the recording and of the bundle.

    Raises:
        AttendriteError: Other columns, or an id twice.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        try:
            rows = list(csv.reader(file))
        except (csv.Error, UnicodeDecodeError) as error:
            raise errors.must(str(path), "be a CSV file", error) from None
    if not rows or [cell.strip() for cell in rows[0]] != ["old", "new"]:
        got = ",".join(rows[0]) if rows else "nothing"
        raise errors.must(str(path), "have the columns old,new", repr(got), "write that first line")
    names: dict[str, str] = {}
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or row[0] in names:
            raise errors.must(f"line {line} of {path}", "hold one old and one new id", row)
        names[row[0]] = row[1]
    return names


def fitted(
    recording: Recording,
    manifest: Manifest,
    names: str | Path | None = None,
    session: str | None = None,
    unknown: str = "error",
) -> Recording:
    """Rename a recording's units and session to those of a bundle.

    Args:
        recording: Not modified.
        manifest: Of the bundle.
        names: CSV file with the columns ``old,new``; ``None``: unit ids stay.
        session: Session of the bundle; ``None``: the recording's own.
        unknown: What to do with units that the bundle does not know: ``"error"`` or ``"drop"``.

    Raises:
        AttendriteError: Units or session unknown to the bundle, or an unsound file of names.
    """
    if names is not None:
        recording = recording.rename_units(read_map(names))
    if session is not None:
        recording = replace(recording, session=session)
    if unknown == "drop":
        known = [unit for unit in recording.unit_ids if unit in manifest.units]
        recording = recording.select(unit_ids=known)
    fit = Fit()
    _check_units(fit, manifest, recording)
    _check_session(fit, manifest, recording.session)
    if fit.reasons:
        raise errors.AttendriteError(fit.reasons[0])
    return recording


def listed(ids: Mapping[str, Any] | list[str]) -> str:
    """Name the first few ids."""
    more = ", ..." if len(ids) > SHOWN else ""
    return ", ".join(list(ids)[:SHOWN]) + more if ids else "none"

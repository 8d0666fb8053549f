"""The one form in which everything else sees a recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .. import errors


@dataclass(frozen=True)
class Series:
    """A sampled signal: behaviour, stimulus, or fluorescence traces.

    Attributes:
        times: Sample times, ``[T]``, float64, seconds, sorted.
        values: ``[T, D]``, float64 or float32; NaN marks a missing sample.
        columns: Name of each column, ``D`` of them.
        unit: Physical unit of the values, for example ``"px"``; empty when unknown.
    """

    times: NDArray[np.float64]
    values: NDArray[np.floating]
    columns: tuple[str, ...]
    unit: str = ""


@dataclass(frozen=True)
class Intervals:
    """Trials or epochs.

    Attributes:
        start: ``[I]``, float64, seconds.
        stop: ``[I]``, float64, seconds, each at or after its start.
        columns: Further columns by name, ``[I]`` each (numbers or strings).
    """

    start: NDArray[np.float64]
    stop: NDArray[np.float64]
    columns: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


@dataclass(frozen=True)
class Spikes:
    """All spikes of a recording in time order.

    Attributes:
        times: ``[n]``, float64, seconds, sorted, finite.
        units: ``[n]``, int32, index into the recording's ``unit_ids``.
    """

    times: NDArray[np.float64]
    units: NDArray[np.int32]


@dataclass(frozen=True)
class Recording:
    """One recording: a population over one stretch of time.

    Spikes are loaded at first use where the file format allows; everything else is small.

    Attributes:
        session: Identifier of the recording, by convention ``brainset/session``.
        unit_ids: Identifier of each unit, ``U`` of them, unique.
        load_spikes: Returns the spikes; called once, by :attr:`spikes`.
        domain: Start and stop of the recording, seconds.
        series: Behaviour and stimulus by name, for example ``"position"``.
        intervals: Trials and epochs by name, for example ``"trials"``.
        unit_columns: Unit metadata by name, ``[U, ...]`` each: ``area``, ``label``, ``position`` (um).
        traces: Fluorescence of the units, one column per unit; ``None`` for spike recordings.
        source: Where it came from: path, repository, licence.
    """

    session: str
    unit_ids: tuple[str, ...]
    load_spikes: Callable[[], Spikes] = field(repr=False)
    domain: tuple[float, float]
    series: Mapping[str, Series] = field(default_factory=dict)
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    unit_columns: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    traces: Series | None = None
    source: str = ""

    @cached_property
    def spikes(self) -> Spikes:
        """All spikes in time order, checked: sorted, finite, units known."""
        spikes = self.load_spikes()
        check_spikes(spikes, len(self.unit_ids))
        return spikes

    @property
    def duration(self) -> float:
        """Length of the domain, seconds."""
        return self.domain[1] - self.domain[0]


def check_spikes(spikes: Spikes, n_units: int) -> None:
    """Refuse spikes that are unsorted, not finite, or of unknown units.

    Raises:
        AttendriteError: With the first bad index.
    """
    errors.finite("spike times", spikes.times)
    errors.monotonic("spike times", spikes.times)
    bad = np.flatnonzero((spikes.units < 0) | (spikes.units >= n_units))
    if bad.size:
        i = int(bad[0])
        raise errors.must("spike units", f"lie in 0..{n_units - 1}", f"units[{i}] = {spikes.units[i]}")

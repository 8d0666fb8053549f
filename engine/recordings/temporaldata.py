"""Files of temporaldata and torch_brain (HDF5) with h5py alone.

Each group carries its class in the attribute ``object``: ``Data`` (nested), ``IrregularTimeSeries``
(``timestamps`` and fields), ``RegularTimeSeries`` (fields, ``sampling_rate``, a domain),
``Interval`` (``start``, ``end``, columns), ``ArrayDict`` (columns). Read from ``to_hdf5`` of
temporaldata 0.1.6 and torch_brain 0.2.1, which write the same layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from . import _hdf5
from ._recording import Intervals, Lazy, Recording, Series, Spikes

if TYPE_CHECKING:
    import h5py

FORMAT = "temporaldata or torch_brain file (.h5)"
DEEPEST = 8  # nested Data groups
TIME_SERIES = ("IrregularTimeSeries", "RegularTimeSeries")
NOT_FIELDS = ("timestamps", "timestamp_indices_1s", "domain")


def claims(path: Path) -> bool:
    """Say whether the path is an HDF5 file whose root is a ``Data`` object."""
    if not _hdf5.is_hdf5(path):
        return False
    return _hdf5.root_attribute(path, "object") == "Data" or not _has_h5py()


def _has_h5py() -> bool:
    from importlib.util import find_spec

    return find_spec("h5py") is not None


def read(path: Path, *, prefix: str | None = None, traces: str | None = None) -> Recording:
    """Read a file of temporaldata or torch_brain; all but unit data is loaded at first use.

    Args:
        path: The file.
        prefix: What to put before the unit ids; ``None`` puts ``brainset/session/``, as
            torch_brain 0.1 does when it builds a model's vocabulary, unless the ids begin with
            it. ``""`` leaves the ids of the file.
        traces: Fluorescence to take, for example ``"calcium_traces.df_over_f"``; ``None`` takes
            the only field of ``calcium_traces`` with one column per unit.

    Returns:
        The recording. The session is ``brainset/session``. Units come from ``units`` or ``rois``.
        Series are named as torch_brain's configurations name them, ``cursor.vel``; intervals
        likewise, ``movement_phases.hold_period``. The domain spans those of the file and of its
        spikes or traces; where the file's has gaps, the interval ``domain`` has its parts.

    Raises:
        AttendriteError: No units, neither spikes nor traces, or a damaged file.
    """
    with _hdf5.opened(path) as file:
        session = _session(file, path)
        table = next((t for t in ("units", "rois") if _hdf5.group(file, t) is not None), None)
        if table is None:
            raise errors.must(path.name, "have the group units or rois", "neither")
        ids = _hdf5.strings(file, f"{table}/id")
        unit_ids = _prefixed(ids, f"{session}/" if prefix is None else prefix)
        has_spikes = _class(_hdf5.child(file, "spikes")) == "IrregularTimeSeries"
        field = _traces_field(file, path.name, traces, len(ids), has_spikes)
        found = list(_walk(file))
        series = {
            name: partial(_load_series, path, place, key)
            for name, place, key in found
            if key and name != field and place != "spikes"
        }
        intervals = {
            name: partial(_load_intervals, path, place) for name, place, key in found if not key
        }
        found_traces = _traces(file, field, unit_ids) if field else None
        neural = ["spikes"] if has_spikes else []
        return Recording(
            session=session,
            unit_ids=unit_ids,
            load_spikes=partial(_spikes, path) if has_spikes else Spikes.none,
            domain=_span(file, ["", *neural], found_traces),
            series=Lazy(series, "series"),
            intervals=Lazy(intervals, "intervals"),
            unit_columns=dict(_columns(file, table, len(ids), ("id",))),
            traces=found_traces,
            source=str(path),
        )


def _session(file: h5py.File, path: Path) -> str:
    names = [_text_attribute(file, part, "id") for part in ("brainset", "session")]
    names[1] = names[1] or _text_attribute(file, "", "session_id") or path.stem
    return "/".join(name for name in names if name)


def _text_attribute(file: h5py.File, place: str, name: str) -> str:
    group = _hdf5.group(file, place) if place else file
    value = _hdf5.attribute(group, name) if group is not None else None
    return value if isinstance(value, str) else ""


def _prefixed(ids: tuple[str, ...], prefix: str) -> tuple[str, ...]:
    return ids if all(i.startswith(prefix) for i in ids) else tuple(prefix + i for i in ids)


def _class(thing: Any) -> Any:
    return _hdf5.attribute(thing, "object") if _hdf5.is_group(thing) else None


def _walk(file: h5py.File, place: str = "", depth: int = DEEPEST) -> Iterator[tuple[str, str, str]]:
    """All series and intervals: dotted name, place, and field (empty for intervals)."""
    here = _hdf5.group(file, place) if place else file
    for member in _hdf5.members(here):
        inner = f"{place}/{member}" if place else member
        name = inner.replace("/", ".")
        what = _class(_hdf5.child(file, inner))
        if what == "Data" and depth:
            yield from _walk(file, inner, depth - 1)
        elif what == "Interval" and (member != "domain" or not place):
            yield name, inner, ""
        elif what in TIME_SERIES:
            for key in _hdf5.members(_hdf5.child(file, inner)):
                if key not in NOT_FIELDS and _hdf5.is_table(_hdf5.child(file, f"{inner}/{key}")):
                    yield f"{name}.{key}", inner, key


def _spikes(path: Path) -> Spikes:
    with _hdf5.opened(path) as file:
        times = _hdf5.vector(file, "spikes/timestamps")
        units = _hdf5.numbers(file, "spikes/unit_index", 1)
    if units.dtype.kind not in "iu":
        raise errors.must("spikes/unit_index", "hold whole numbers", units.dtype)
    if len(units) != len(times):
        raise errors.must(
            "spikes/unit_index", f"have one entry for each of {len(times)} spikes", len(units)
        )
    if units.size and not 0 <= int(units.min()) <= int(units.max()) <= np.iinfo(np.int32).max:
        raise errors.must(
            "spikes/unit_index", "lie in 0..2147483647", f"{units.min()}..{units.max()}"
        )
    return Spikes(times, units.astype(np.int32))


def _load_series(path: Path, place: str, key: str) -> Series:
    with _hdf5.opened(path) as file:
        return _series(file, place, key)


def _series(file: h5py.File, place: str, key: str) -> Series:
    values = _hdf5.numbers(file, f"{place}/{key}")
    if values.dtype.name != "float32":
        values = values.astype(np.float64)
    if values.ndim == 1:
        return Series(_times(file, place, len(values)), values[:, None], (key,))
    columns = tuple(map(str, range(values.shape[1])))
    return Series(_times(file, place, len(values)), values, columns)


def _times(file: h5py.File, place: str, length: int) -> NDArray[np.float64]:
    group = _hdf5.child(file, place)
    if _class(group) == "IrregularTimeSeries":
        return _hdf5.vector(file, f"{place}/timestamps")
    rate = _hdf5.number(group, "sampling_rate")
    if rate <= 0:
        raise errors.must(f"sampling_rate of {place}", "be > 0", rate)
    start = _hdf5.vector(file, f"{place}/domain/start")
    if not len(start):
        raise errors.must(f"{place}/domain", "have a start", "none")
    return float(start[0]) + np.arange(length) / rate


def _load_intervals(path: Path, place: str) -> Intervals:
    with _hdf5.opened(path) as file:
        start, stop = (_hdf5.vector(file, f"{place}/{name}") for name in ("start", "end"))
        return Intervals(start, stop, dict(_columns(file, place, len(start), ("start", "end"))))


def _columns(
    file: h5py.File, place: str, rows: int, reserved: tuple[str, ...]
) -> Iterator[tuple[str, NDArray[Any]]]:
    for name in _hdf5.members(_hdf5.child(file, place)):
        thing = _hdf5.child(file, f"{place}/{name}")
        usable = _hdf5.is_dataset(thing) and _hdf5.kind(thing) in "biufST"
        if name not in reserved and usable and _hdf5.shape(thing)[:1] == (rows,):
            yield name, _hdf5.column(file, f"{place}/{name}")


def _span(file: h5py.File, places: list[str], traces: Series | None) -> tuple[float, float]:
    """Hull of the domains of the file and of its spikes, and of the times of the traces."""
    times = [np.zeros(0) if traces is None else traces.times]
    for place in places:
        domain = f"{place}/domain".lstrip("/")
        if _hdf5.group(file, domain) is not None:
            times += [_hdf5.vector(file, f"{domain}/{name}") for name in ("start", "end")]
    ends = np.concatenate(times)
    errors.finite("domain", ends)
    return (float(ends.min()), float(ends.max())) if ends.size else (0.0, 0.0)


def _traces_field(
    file: h5py.File, name: str, asked: str | None, n_units: int, has_spikes: bool
) -> str:
    """Dotted name of the fluorescence, ``""`` where there is none and spikes are."""
    shapes = {
        dotted: _hdf5.shape(_hdf5.child(file, f"{place}/{key}"))
        for dotted, place, key in _walk(file)
        if key and place != "spikes"
    }
    wide = [n for n, s in shapes.items() if len(s) == 2 and s[1] == n_units]
    if asked is not None:
        errors.choice("traces", asked, wide)
        return asked
    fields = [n for n in wide if n.startswith("calcium_traces.")]
    if len(fields) == 1 or (has_spikes and not fields):
        return fields[0] if fields else ""
    raise errors.must(
        name,
        "have spikes or one field of calcium_traces",
        ", ".join(fields) or "neither",
        f"choose with traces=..., one of {', '.join(wide)}" if wide else "",
    )


def _traces(file: h5py.File, field: str, unit_ids: tuple[str, ...]) -> Series:
    place, _, key = field.rpartition(".")
    found = _series(file, place.replace(".", "/"), key)
    return Series(found.times, found.values, unit_ids, found.unit)

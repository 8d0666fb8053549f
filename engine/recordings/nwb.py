"""NWB 2 files with h5py alone: units, behaviour, trials; fluorescence where there are no units.

Layout: https://nwb-schema.readthedocs.io. ``units/spike_times`` holds the spikes of all units one
after the other, ``units/spike_times_index`` the END of each unit's part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from . import _hdf5
from ._recording import Intervals, Lazy, Recording, Series, Spikes, hull

if TYPE_CHECKING:
    import h5py

FORMAT = "NWB file (.nwb)"
SERIES_TYPES = ("TimeSeries", "SpatialSeries", "AbstractFeatureSeries", "IntervalSeries")
SERIES_PLACES = ("processing", "acquisition", "stimulus/presentation")
DEEPEST = 4  # processing / module / container / series
RESERVED = ("id", "spike_times", "spike_times_index", "electrodes", "electrodes_index")


def claims(path: Path) -> bool:
    """Say whether the path is an HDF5 file with the mark of NWB, or is named ``.nwb``."""
    if not _hdf5.is_hdf5(path):
        return False
    return path.suffix == ".nwb" or _hdf5.root_attribute(path, "nwb_version") is not None


def read(path: Path, *, traces: str | None = None) -> Recording:
    """Read an NWB file; series and intervals are loaded at first use.

    Args:
        path: The file.
        traces: Path of the fluorescence to take where there is no units table, for example
            ``"processing/ophys/DfOverF/RoiResponseSeries"``; ``None`` takes the only one.

    Returns:
        The recording. Unit ids are the table's ``id``. Unit columns are its columns of numbers or
        strings (one value or one short row per unit), and ``area``, the ``location`` of a unit's
        first electrode, where the table has no such column. Series are named after themselves, or
        ``container/name`` where two share a name; ``conversion`` and ``offset`` are applied. The
        domain is that of ``obs_intervals``, else from the first to the last spike.

    Raises:
        AttendriteError: No units and no fluorescence, a damaged file, or a ragged index that does
            not fit its values.
    """
    with _hdf5.opened(path) as file:
        session = _session(file) or path.stem
        units = _hdf5.group(file, "units")
        series, intervals = dict(_series(file, path)), dict(_tables(file, path))
        about = {
            "session": session,
            "series": Lazy(series, "series"),
            "intervals": Lazy(intervals, "intervals"),
            "source": str(path),
        }
        if units is None:
            return _traces(file, traces, about)
        if traces is not None:
            raise errors.must("traces", "be asked for where there is no units table", repr(traces))
        return _units(units, path, about)


def _units(units: h5py.Group, path: Path, about: dict[str, Any]) -> Recording:
    unit_ids = _hdf5.strings(units, "id")
    offsets = _offsets(units, "spike_times", len(unit_ids))
    load: Callable[[], Spikes] = partial(_spikes, path, offsets)
    domain = _observed(units)
    if domain is None:  # only the spikes themselves tell
        spikes = _merge(_hdf5.vector(units, "spike_times"), offsets)
        load = lambda: spikes  # noqa: E731
        domain = hull(spikes.times)
    columns = dict(_columns(units, len(unit_ids), RESERVED))
    area = _areas(units, len(unit_ids))
    if area is not None:
        columns.setdefault("area", area)
    return Recording(
        unit_ids=unit_ids, load_spikes=load, domain=domain, unit_columns=columns, **about
    )


def _spikes(path: Path, offsets: NDArray[np.int64]) -> Spikes:
    with _hdf5.opened(path) as file:
        return _merge(_hdf5.vector(file, "units/spike_times"), offsets)


def _merge(times: NDArray[np.float64], offsets: NDArray[np.int64]) -> Spikes:
    return Spikes.from_units(times, offsets)


def _offsets(table: h5py.Group, name: str, rows: int) -> NDArray[np.int64]:
    """Offsets ``[rows + 1]`` of a ragged column, checked against the length of its values."""
    index = f"{name}_index"
    for part in (name, index):
        if _hdf5.child(table, part) is None:
            raise errors.must("the units table", f"have the column {part}", "none")
    ends = _hdf5.numbers(table, index, 1)
    length = _hdf5.shape(_hdf5.child(table, name))[:1]
    if ends.dtype.kind not in "iu" or len(ends) != rows:
        raise errors.must(
            f"units/{index}", f"hold {rows} whole numbers", f"{ends.dtype} {ends.shape}"
        )
    if len(ends) and int(ends.max()) > np.iinfo(np.int64).max:
        raise errors.must(f"units/{index}", "fit 64 bits", int(ends.max()))
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    bad = np.flatnonzero(np.diff(offsets) < 0)
    if bad.size:
        i = int(bad[0])
        raise errors.must(
            f"units/{index}",
            "never decrease",
            f"{index}[{i}] = {offsets[i + 1]} after {offsets[i]}",
        )
    if length != (offsets[-1],):
        raise errors.must(
            f"the last value of units/{index}", f"be the length {length}", offsets[-1]
        )
    return offsets


def _observed(units: h5py.Group) -> tuple[float, float] | None:
    if _hdf5.child(units, "obs_intervals") is None:
        return None
    observed = _hdf5.numbers(units, "obs_intervals", 2).astype(np.float64)
    errors.shape("units/obs_intervals", observed, ["n", 2])
    errors.finite("units/obs_intervals", observed)
    return (float(observed[:, 0].min()), float(observed[:, 1].max())) if len(observed) else None


def _columns(
    table: h5py.Group, rows: int, reserved: tuple[str, ...]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Columns with one value or one short row per entry; ragged ones, references, waveforms not."""
    names = _hdf5.members(table)
    for name in names:
        if name in reserved or name.endswith("_index") or f"{name}_index" in names:
            continue
        thing = _hdf5.child(table, name)
        if not _hdf5.is_dataset(thing) or _hdf5.kind(thing) not in "biufST":
            continue
        shape = _hdf5.shape(thing)
        if shape[:1] == (rows,) and len(shape) <= 2:
            yield name, _hdf5.column(table, name)


def _areas(units: h5py.Group, rows: int) -> NDArray[Any] | None:
    """``location`` of the first electrode of each unit, ``""`` for a unit without one."""
    table = _hdf5.group(units.parent, "general/extracellular_ephys/electrodes")
    if table is None or _hdf5.child(units, "electrodes") is None:
        return None
    if _hdf5.child(table, "location") is None:
        return None
    location = np.array(_hdf5.strings(table, "location"), dtype="U")
    row_of = _hdf5.numbers(units, "electrodes", 1)
    if _hdf5.child(units, "electrodes_index") is None:
        offsets = np.arange(rows + 1)
        errors.shape("units/electrodes", row_of, [rows])
    else:
        offsets = _offsets(units, "electrodes", rows)
    areas = [""] * rows
    for unit, (first, end) in enumerate(pairwise(offsets.tolist())):
        if end > first:
            row = int(row_of[first])
            if not 0 <= row < len(location):
                raise errors.must("units/electrodes", f"lie in 0..{len(location) - 1}", row)
            areas[unit] = str(location[row])
    return np.array(areas, dtype="U") if rows else np.zeros(0, "U1")


def _session(file: h5py.File) -> str:
    for name in ("general/session_id", "identifier"):
        if _hdf5.is_dataset(_hdf5.child(file, name)):
            return str(_hdf5.column(file, name))
    return ""


def _find(
    parent: h5py.Group, path: str, types: tuple[str, ...], depth: int = DEEPEST
) -> Iterator[str]:
    """Paths of the groups of some types below a group, in the order of the file."""
    here = _hdf5.group(parent, path)
    if here is None or depth < 0:
        return
    if _hdf5.attribute(here, "neurodata_type") in types:
        yield path
        return
    for name in _hdf5.members(here):
        if _hdf5.is_group(_hdf5.child(here, name)):
            yield from _find(parent, f"{path}/{name}", types, depth - 1)


def _series(file: h5py.File, path: Path) -> Iterator[tuple[str, partial[Series]]]:
    places = [p for place in SERIES_PLACES for p in _find(file, place, SERIES_TYPES)]
    places = [p for p in places if _is_numeric(file, p)]
    short = [p.rpartition("/")[2] for p in places]
    for place, name in zip(places, short, strict=True):
        unique = name if short.count(name) == 1 else "/".join(place.split("/")[-2:])
        yield unique, partial(_one_series, path, place)


def _is_numeric(file: h5py.File, place: str) -> bool:
    data = _hdf5.child(file, f"{place}/data")
    return _hdf5.is_table(data)


def _one_series(path: Path, place: str) -> Series:
    with _hdf5.opened(path) as file:
        return _series_at(file, place)


def _series_at(file: h5py.File, place: str) -> Series:
    data = _hdf5.child(file, f"{place}/data")
    values = _hdf5.numbers(file, f"{place}/data")
    scale, offset = _hdf5.number(data, "conversion", 1.0), _hdf5.number(data, "offset", 0.0)
    if values.dtype.name != "float32" or (scale, offset) != (1.0, 0.0):
        values = values.astype(np.float64) * scale + offset
    values = values.reshape(len(values), -1) if values.size else values.reshape(len(values), 1)
    spatial = _hdf5.attribute(_hdf5.child(file, place), "neurodata_type") == "SpatialSeries"
    columns = [*"xyz"] if spatial and values.shape[1] <= 3 else map(str, range(values.shape[1]))
    unit = _hdf5.attribute(data, "unit")
    return Series(
        _times(file, place, len(values)),
        values,
        tuple(columns)[: values.shape[1]],
        unit if isinstance(unit, str) else "",
    )


def _times(file: h5py.File, place: str, length: int) -> NDArray[np.float64]:
    if _hdf5.child(file, f"{place}/timestamps") is not None:
        return _hdf5.vector(file, f"{place}/timestamps")
    start = _hdf5.child(file, f"{place}/starting_time")
    if start is None:
        raise errors.must(place, "have timestamps or starting_time", "neither")
    rate = _hdf5.number(start, "rate")
    if rate <= 0:
        raise errors.must(f"the rate of {place}/starting_time", "be > 0", rate)
    return float(_hdf5.numbers(file, f"{place}/starting_time", 0)) + np.arange(length) / rate


def _tables(file: h5py.File, path: Path) -> Iterator[tuple[str, partial[Intervals]]]:
    for place in _find(file, "intervals", ("TimeIntervals",)):
        yield place.partition("/")[2], partial(_intervals, path, place)


def _intervals(path: Path, place: str) -> Intervals:
    with _hdf5.opened(path) as file:
        table = _hdf5.child(file, place)
        start, stop = (_hdf5.vector(table, name) for name in ("start_time", "stop_time"))
        reserved = ("id", "start_time", "stop_time")
        return Intervals(start, stop, dict(_columns(table, len(start), reserved)))


def _traces(file: h5py.File, asked: str | None, about: dict[str, Any]) -> Recording:
    """Fluorescence of the regions of interest, as a recording without spikes."""
    places = list(_find(file, "processing", ("RoiResponseSeries",)))
    if asked is not None:
        errors.choice("traces", asked, places)
        places = [asked]
    if len(places) != 1:
        todo = "choose with traces=..." if places else ""
        got = ", ".join(places) or "neither"
        raise errors.must(about["source"], "have a units table or one fluorescence", got, todo)
    found = _series_at(file, places[0])
    unit_ids = _roi_ids(file, places[0], found.values.shape[1])
    traces = Series(found.times, found.values, unit_ids, found.unit)
    return Recording(
        unit_ids=unit_ids,
        load_spikes=Spikes.none,
        domain=hull(traces.times),
        traces=traces,
        **about,
    )


def _roi_ids(file: h5py.File, place: str, n: int) -> tuple[str, ...]:
    """Rows of the segmentation table that the columns of a fluorescence belong to."""
    if _hdf5.child(file, f"{place}/rois") is None:
        return tuple(map(str, range(n)))
    rows = _hdf5.strings(file, f"{place}/rois")
    if len(rows) != n:
        raise errors.must(f"{place}/rois", f"name the {n} columns", len(rows))
    return rows

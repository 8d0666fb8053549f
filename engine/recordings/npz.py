"""attendrite's own recording file: ``.npz`` without pickle, described in docs/recordings.md.

Version 1. A reader refuses newer versions; it ignores arrays that it does not know, so arrays can
be added within a version.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..files import written_whole
from ._arrays import ArrayFile
from ._recording import Intervals, Lazy, Recording, Series, Spikes, check_spikes

FORMAT = "attendrite recording (.npz)"
NAME = "attendrite recording"
VERSION = 1
ZIP_START = (b"PK\x03\x04", b"PK\x05\x06")


def claims(path: Path) -> bool:
    """Say whether the path is a zip file or is named ``.npz``."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) in ZIP_START or path.suffix == ".npz"


def read(path: Path) -> Recording:
    """Read a recording file; spikes, series and intervals are loaded at first use.

    Raises:
        AttendriteError: Another kind of ``.npz``, a newer version, or damaged.
        OSError: The file cannot be read.
    """
    file = ArrayFile(path)
    meta = _meta(file)
    series = meta.table("series")
    intervals = meta.table("intervals")
    traces = None
    unit_ids = _strings(file, "unit_ids")
    if "traces/times" in file:
        traces = _series(file, "traces", unit_ids, meta.text("traces_unit"))
    return Recording(
        session=meta.text("session"),
        unit_ids=unit_ids,
        load_spikes=partial(_spikes, file),
        domain=meta.domain(),
        series=Lazy(
            {name: partial(_series_of, file, name, about) for name, about in series.items()},
            "series",
        ),
        intervals=Lazy(
            {name: partial(_intervals, file, name, about) for name, about in intervals.items()},
            "intervals",
        ),
        unit_columns={
            name: file.read(f"unit_columns/{name}") for name in meta.names("unit_columns")
        },
        traces=traces,
        source=meta.text("source"),
    )


def write(recording: Recording, path: str | os.PathLike[str], *, compress: bool = False) -> None:
    """Write a recording; see :meth:`Recording.save`."""
    target = Path(path)
    check_spikes(recording.spikes, len(recording.unit_ids), recording.domain)
    arrays = _named_arrays(recording)  # all is loaded and checked before a file appears
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with (
        written_whole(target) as beside,
        beside.open("wb") as stream,
        zipfile.ZipFile(stream, "w", method) as archive,
    ):
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: same data, same bytes
            entry.compress_type = method
            with archive.open(entry, "w", force_zip64=True) as out:
                np.lib.format.write_array(out, array, allow_pickle=False)


def _named_arrays(recording: Recording) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for name, array in _arrays(recording):
        if not name.isprintable() or name in arrays:
            raise errors.must(
                "names of series, intervals and columns",
                "be printable and give each array a name of its own",
                repr(name),
            )
        arrays[name] = array
    return arrays


def _arrays(recording: Recording) -> Iterator[tuple[str, NDArray[Any]]]:
    series, intervals = dict(recording.series.items()), dict(recording.intervals.items())
    meta = {
        "format": NAME,
        "version": VERSION,
        "session": recording.session,
        "domain": [float(t) for t in recording.domain],
        "source": recording.source,
        "series": {n: {"columns": list(s.columns), "unit": s.unit} for n, s in series.items()},
        "intervals": {n: {"columns": list(i.columns)} for n, i in intervals.items()},
        "unit_columns": list(recording.unit_columns),
        "traces_unit": recording.traces.unit if recording.traces else "",
    }
    yield "meta", np.array(json.dumps(meta))
    yield "unit_ids", _fixed_width(recording.unit_ids)
    yield "spikes/times", recording.spikes.times
    yield "spikes/units", recording.spikes.units
    for name, column in recording.unit_columns.items():
        yield f"unit_columns/{name}", column
    for name, one in series.items():
        yield f"series/{name}/times", one.times
        yield f"series/{name}/values", one.values
    for name, some in intervals.items():
        yield f"intervals/{name}/start", some.start
        yield f"intervals/{name}/stop", some.stop
        for column_name, column in some.columns.items():
            yield f"intervals/{name}/columns/{column_name}", column
    if recording.traces is not None:
        yield "traces/times", recording.traces.times
        yield "traces/values", recording.traces.values


def _fixed_width(names: tuple[str, ...]) -> NDArray[np.str_]:
    array = np.array(names, dtype=np.str_) if names else np.zeros(0, "<U1")
    if tuple(array.tolist()) != names:  # numpy drops NUL characters at the end
        raise errors.must("unit ids", "not end in a NUL character", "one that does")
    return array


class _Meta:
    """The JSON text of a recording file; every value is checked for its type when asked for."""

    def __init__(self, values: dict[str, Any], name: str) -> None:
        self._values, self._name = values, name

    def _get(self, key: str, kind: type, be: str) -> Any:
        value = self._values.get(key)
        if not isinstance(value, kind):
            raise errors.must(f"meta.{key} of {self._name}", f"be {be}", repr(value)[:80])
        return value

    def text(self, key: str) -> str:
        return str(self._get(key, str, "text"))

    def names(self, key: str) -> list[str]:
        names = self._get(key, list, "a list of names")
        return [self._name_of(key, name) for name in names]

    def table(self, key: str) -> dict[str, dict[str, Any]]:
        table = self._get(key, dict, "an object")
        for name, about in table.items():
            if not isinstance(about, dict) or not isinstance(about.get("columns"), list):
                raise errors.must(f"meta.{key}.{name} of {self._name}", "list its columns", about)
            about["columns"] = [self._name_of(f"{key}.{name}", c) for c in about["columns"]]
        return dict(table)

    def domain(self) -> tuple[float, float]:
        domain = self._get("domain", list, "two numbers")
        if len(domain) != 2 or not all(type(t) in (int, float) for t in domain):
            raise errors.must(f"meta.domain of {self._name}", "be two numbers", repr(domain)[:80])
        return float(domain[0]), float(domain[1])

    def _name_of(self, key: str, name: object) -> str:
        if not isinstance(name, str):
            raise errors.must(f"meta.{key} of {self._name}", "hold names", repr(name)[:80])
        return name


def _meta(file: ArrayFile) -> _Meta:
    name = file.path.name
    foreign = errors.must(
        name,
        "be a recording",
        f"an .npz file with the arrays {', '.join(file.names[:6]) or 'none'}",
        "write recordings with Recording.save or `attendrite pack`",
    )
    if "meta" not in file:
        raise foreign
    array = file.read("meta")
    try:
        values = json.loads(str(array)) if array.dtype.kind == "U" and array.ndim == 0 else None
    except (ValueError, RecursionError) as error:
        raise errors.must(f"meta of {name}", "be JSON text", str(error)) from error
    if not isinstance(values, dict) or values.get("format") != NAME:
        raise foreign
    version = values.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise errors.must(
            f"the format version of {name}", f"be 1..{VERSION}", version, "update attendrite"
        )
    return _Meta(values, name)


def _strings(file: ArrayFile, name: str) -> tuple[str, ...]:
    array = file.read(name)
    if array.dtype.kind != "U" or array.ndim != 1:
        raise errors.must(
            f"array {name!r} of {file.path.name}", "be strings [U]", f"{array.dtype} {array.shape}"
        )
    return tuple(array.tolist())


def _spikes(file: ArrayFile) -> Spikes:
    return Spikes(file.read("spikes/times"), file.read("spikes/units"))


def _series_of(file: ArrayFile, name: str, about: dict[str, Any]) -> Series:
    return _series(file, f"series/{name}", tuple(about["columns"]), str(about.get("unit", "")))


def _series(file: ArrayFile, name: str, columns: tuple[str, ...], unit: str) -> Series:
    times, values = file.read(f"{name}/times"), file.read(f"{name}/values")
    return Series(times, values, columns, unit)


def _intervals(file: ArrayFile, name: str, about: dict[str, Any]) -> Intervals:
    columns = {c: file.read(f"intervals/{name}/columns/{c}") for c in about["columns"]}
    start, stop = (file.read(f"intervals/{name}/{end}") for end in ("start", "stop"))
    return Intervals(start, stop, columns)

"""HDF5 files of temporaldata and torch_brain."""

from __future__ import annotations

from pathlib import Path

import attendrite.recordings
import h5py
import numpy as np


def seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / "spikes.h5", folder / "calcium.h5"]
    for path in paths:
        with h5py.File(path, "w") as file:
            file.attrs["object"] = "Data"
            _group(file, "brainset", "Data").attrs["id"] = "set"
            _group(file, "session", "Data").attrs["id"] = "one"
            _interval(file, "domain", [0.0], [2.0])
            _interval(file, "trials", [0.0, 1.0], [0.5, 1.5])["side"] = np.array([b"l", b"r"])
            cursor = _group(file, "cursor", "IrregularTimeSeries")
            cursor["timestamps"], cursor["vel"] = np.arange(5) / 4, np.ones((5, 2), np.float32)
            (_spikes if path.stem == "spikes" else _calcium)(file)
    return paths


def read(path: Path) -> None:
    attendrite.recordings.read(path).summary()


def _group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["object"] = kind
    return group


def _interval(parent: h5py.Group, name: str, start: list[float], end: list[float]) -> h5py.Group:
    group = _group(parent, name, "Interval")
    group["start"], group["end"] = np.array(start), np.array(end)
    return group


def _spikes(file: h5py.File) -> None:
    spikes = _group(file, "spikes", "IrregularTimeSeries")
    spikes["timestamps"] = np.array([0.1, 0.2, 0.2, 0.7, 1.5])
    spikes["unit_index"] = np.array([0, 1, 2, 0, 1])
    _interval(spikes, "domain", [0.0], [2.0])
    units = _group(file, "units", "ArrayDict")
    units["id"], units["depth"] = np.array([b"u0", b"u1", b"u2"]), np.arange(3.0)


def _calcium(file: h5py.File) -> None:
    traces = _group(file, "calcium_traces", "RegularTimeSeries")
    traces.create_dataset("df_over_f", data=np.ones((8, 2)), chunks=(4, 2), compression="gzip")
    traces.attrs["sampling_rate"] = 4.0
    _interval(traces, "domain", [0.0], [1.75])
    units = _group(file, "units", "ArrayDict")
    units["id"] = ["a", "b"]

"""NWB files."""

from __future__ import annotations

from pathlib import Path

import attendrite.recordings
import h5py
import numpy as np


def seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / "units.nwb", folder / "observed.nwb", folder / "ophys.nwb"]
    for path in paths:
        with h5py.File(path, "w") as file:
            file.attrs["nwb_version"] = "2.7.0"
            file["identifier"] = "one"
            _behaviour(file)
            if path.stem == "ophys":
                _fluorescence(file)
            else:
                _units(file, observed=path.stem == "observed")
    return paths


def read(path: Path) -> None:
    attendrite.recordings.read(path).summary()


def _behaviour(file: h5py.File) -> None:
    cursor = file.create_group("processing/behavior/Position/cursor_pos")
    cursor.attrs["neurodata_type"] = "SpatialSeries"
    cursor["data"] = np.arange(20.0).reshape(10, 2)
    cursor["data"].attrs.update({"conversion": 0.01, "unit": "m"})
    cursor["timestamps"] = np.arange(10.0)
    speed = file.create_group("processing/behavior/speed")
    speed.attrs["neurodata_type"] = "TimeSeries"
    speed.create_dataset("data", data=np.arange(10), chunks=(4,), compression="gzip")
    speed["starting_time"] = 0.5
    speed["starting_time"].attrs["rate"] = 2.0
    trials = file.create_group("intervals/trials")
    trials.attrs["neurodata_type"] = "TimeIntervals"
    trials["start_time"], trials["stop_time"] = np.arange(3.0), np.arange(3.0) + 0.5
    trials["result"] = ["R", "F", "R"]


def _units(file: h5py.File, observed: bool) -> None:
    units = file.create_group("units")
    units["id"] = np.arange(3)
    units["spike_times"] = np.array([0.1, 0.5, 0.2, 0.3, 0.9])
    units["spike_times_index"] = np.array([2, 2, 5], np.uint8)
    units["quality"] = ["good", "mua", "good"]
    units["depth"] = np.array([1.0, 2.0, 3.0])
    electrodes = file.create_group("general/extracellular_ephys/electrodes")
    electrodes["location"] = ["M1", "PMd"]
    units["electrodes"] = np.array([0, 1, 1])
    units["electrodes_index"] = np.array([1, 2, 3])
    if observed:
        units["obs_intervals"] = np.array([[0.0, 1.0]] * 3)
        units["obs_intervals_index"] = np.array([1, 2, 3])


def _fluorescence(file: h5py.File) -> None:
    response = file.create_group("processing/ophys/DfOverF/RoiResponseSeries")
    response.attrs["neurodata_type"] = "RoiResponseSeries"
    response["data"] = np.arange(12, dtype=np.float32).reshape(6, 2)
    response["rois"] = np.array([0, 1])
    response["timestamps"] = np.arange(6.0)

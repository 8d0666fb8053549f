"""The C++ core. Not public: call attendrite.kernels. Arrays are C-contiguous and never copied."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

def cpu_level() -> str: ...
def cpu_levels() -> tuple[str, ...]: ...
def force_level(name: str) -> None: ...

# ---- binning: times and sizes checked by the core, dtypes and shapes by the caller ----

class Grid:
    def __init__(self, tick_rate: float, start: int, width: int, n_bins: int) -> None: ...

def bin_dense(
    times: NDArray[np.float64],
    units: NDArray[Any],
    n_units: int,
    grid: Grid,
    time_major: bool,
    drop: bool,
    threads: int,
    out: NDArray[Any],
) -> tuple[int, int]: ...
def bin_dense_by_unit(
    times: NDArray[np.float64],
    offsets: NDArray[np.int64],
    grid: Grid,
    time_major: bool,
    drop: bool,
    threads: int,
    out: NDArray[Any],
) -> tuple[int, int]: ...
def bin_sparse(
    times: NDArray[np.float64],
    units: NDArray[Any],
    n_units: int,
    grid: Grid,
    rows_are_bins: bool,
    drop: bool,
    threads: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    counts: NDArray[Any],
) -> tuple[int, int]: ...
def bin_sparse_by_unit(
    times: NDArray[np.float64],
    offsets: NDArray[np.int64],
    grid: Grid,
    rows_are_bins: bool,
    drop: bool,
    threads: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    counts: NDArray[Any],
) -> tuple[int, int]: ...

class StreamBinner:
    def __init__(self, n_units: int, grid: Grid, dtype: np.dtype[Any]) -> None: ...
    def push(
        self, times: NDArray[np.float64], units: NDArray[Any], out: NDArray[Any] | None
    ) -> NDArray[Any]: ...
    def advance(self, time: float, out: NDArray[Any] | None) -> NDArray[Any]: ...
    @property
    def closed(self) -> int: ...

# ---- grouping and tokens: the callers look for what is wrong ----

def group_by_unit(
    times: NDArray[np.float64],
    units: NDArray[np.int32],
    n_units: int,
    times_by_unit: NDArray[np.float64],
    offsets: NDArray[np.int64],
    threads: int,
) -> bool: ...
def merge_units(
    times_by_unit: NDArray[np.float64],
    offsets: NDArray[np.int64],
    times: NDArray[np.float64],
    units: NDArray[np.int32],
    threads: int,
) -> bool: ...
def window_ranges(
    times: NDArray[np.float64], starts: NDArray[np.float64], length_ticks: float, tick_rate: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def count_tokens(
    units: NDArray[np.int32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    exists: NDArray[np.bool_] | None,
    n_units: int,
    lengths: NDArray[np.int64],
    threads: int,
) -> int: ...
def write_tokens(
    times: NDArray[np.float64],
    units: NDArray[np.int32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    origin: NDArray[np.float64],
    exists: NDArray[np.bool_] | None,
    n_units: int,
    length: float,
    tick: float,
    unit: NDArray[np.int32],
    time: NDArray[np.float64],
    type: NDArray[np.int8],
    cu_seqlens: NDArray[np.int64],
    mask: NDArray[np.bool_] | None,
    unit_offsets: NDArray[np.int64] | None,
    threads: int,
) -> int: ...
def attention(fields: dict[str, object], workspace: int, size: int, threads: int) -> int: ...
def phases(
    times: NDArray[np.float64],
    omega: NDArray[np.float64],
    out: NDArray[np.float32],
    threads: int,
) -> None: ...

class Runner:
    def __init__(self, manifest: str, weights: bytes) -> None: ...
    def run(
        self,
        fields: dict[str, int],
        requests: list[tuple[int, str, bool, int, int, int]],
        predictions: list[int],
        threads: int,
    ) -> None: ...
    def run_encoded(
        self, fields: dict[str, int], encoded: int, predictions: list[int], threads: int
    ) -> None: ...

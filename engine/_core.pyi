"""The C++ core. Not public: call attendrite.kernels. Arrays are C-contiguous and never copied."""

from __future__ import annotations

from typing import Any, TypeAlias

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
def add_to_fields(
    responses: NDArray[np.float32],
    images: NDArray[np.float32],
    products: NDArray[np.float64],
    response_sums: NDArray[np.float64],
    response_squares: NDArray[np.float64],
    pixel_sums: NDArray[np.float64],
    pixel_squares: NDArray[np.float64],
    threads: int,
) -> None: ...

class Rows:
    def __init__(
        self,
        normed: bool,
        weights: NDArray[np.float32],
        bias: NDArray[np.float32],
        then: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    ) -> None: ...
    @property
    def outputs(self) -> int: ...
    def run(
        self,
        x: int,
        rows: int,
        x_stride: int,
        residual: int,
        residual_stride: int,
        y: int,
        y_stride: int,
        threads: int,
    ) -> None: ...

Product: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]

class PointReadout:
    def __init__(
        self,
        features: NDArray[np.float32],
        less: NDArray[np.float32],
        bias: NDArray[np.float32],
        positions: NDArray[np.float32],
        plain: bool = False,
    ) -> None: ...
    @property
    def units(self) -> int: ...

class Affine:
    def __init__(self, weights: NDArray[np.float32], bias: NDArray[np.float32]) -> None: ...
    @property
    def units(self) -> int: ...
    @property
    def operations(self) -> int: ...
    def run(self, images: int, n: int, out: int, threads: int) -> None: ...

class Stacked:
    def __init__(
        self,
        channels: int,
        rows: int,
        columns: int,
        size: int,
        planes: int,
        first: Product,
        layers: list[tuple[Product, Product, Product]],
        linear: bool,
    ) -> None: ...
    def run(
        self,
        images: int,
        n: int,
        planes: int,
        shifts: int,
        readout: PointReadout,
        out: int,
        threads: int,
    ) -> None: ...

class Runner:
    def __init__(self, manifest: str, weights: bytes, bfloat16: bool) -> None: ...
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

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from attendrite import _core
from attendrite.kernels.bin_sparse import OPERATION, SparseCounts, bin_sparse, bin_sparse_by_unit
from attendrite.kernels.bin_spikes import bin_spikes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ._spikes import Case, cases, poisson

BACKENDS = OPERATION.backends
FAST = [name for name in BACKENDS if name != "reference"]
DTYPES = [np.uint8, np.uint16, np.int32, np.float32]


@pytest.fixture(params=_core.cpu_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction-set level that this CPU can run."""
    before = _core.cpu_level()
    _core.force_level(request.param)
    yield request.param
    _core.force_level(before)


def in_both_layouts(case: Case, **options: Any) -> list[SparseCounts]:
    return [
        bin_sparse(case.times, case.units, n_units=case.n_units, **case.bins, **options),
        bin_sparse_by_unit(*case.by_unit(), **case.bins, **options),
    ]


def dense(matrix: SparseCounts) -> NDArray[np.int64]:
    """Expand entries one by one, and check the form of the matrix on the way."""
    out = np.zeros(matrix.shape, np.int64)
    assert matrix.indptr.shape == (matrix.shape[0] + 1,)
    assert matrix.indptr[0] == 0
    assert matrix.indptr[-1] == matrix.indices.size == matrix.counts.size
    assert (matrix.indptr.dtype, matrix.indices.dtype) == (np.int64, np.int32)
    assert (matrix.counts > 0).all()
    for row in range(matrix.shape[0]):
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        columns = matrix.indices[entries]
        assert (np.diff(columns) > 0).all()
        out[row, columns] = matrix.counts[entries]
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=cases(), dtype=st.sampled_from(DTYPES), threads=st.sampled_from([1, 3]))
def test_equals_the_dense_counts(
    level: str, backend: str, case: Case, dtype: Any, threads: int
) -> None:
    expected = bin_spikes(
        case.times, case.units, n_units=case.n_units, **case.bins, dtype=np.int32,
        backend="reference",
    )  # fmt: skip
    if dtype == np.uint8 and expected.max(initial=0) > 255:
        dtype = np.uint16
    for rows in ("bins", "units"):
        options = {"rows": rows, "dtype": dtype, "threads": threads, "backend": backend}
        for matrix in in_both_layouts(case, **options):
            assert matrix.counts.dtype == dtype
            np.testing.assert_array_equal(dense(matrix), expected if rows == "bins" else expected.T)


@pytest.mark.parametrize("backend", FAST)
@given(case=cases(outside=True), threads=st.sampled_from([1, 3]))
def test_drops_what_the_dense_counts_drop(backend: str, case: Case, threads: int) -> None:
    expected, dropped = bin_spikes(
        case.times, case.units, n_units=case.n_units, **case.bins, dtype=np.int32, outside="drop",
        backend="reference",
    )  # fmt: skip
    options: dict[str, Any] = {"dtype": np.int32, "outside": "drop", "threads": threads}
    for rows in ("bins", "units"):
        options |= {"rows": rows, "backend": backend}
        flat = bin_sparse(case.times, case.units, n_units=case.n_units, **case.bins, **options)
        by_unit = bin_sparse_by_unit(*case.by_unit(), **case.bins, **options)
        for matrix, left_out in (flat, by_unit):
            assert left_out == dropped
            np.testing.assert_array_equal(dense(matrix), expected if rows == "bins" else expected.T)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("rows", ["bins", "units"])
@pytest.mark.parametrize("n", [255, 256, 65535, 65536])
def test_counts_beyond_a_byte(level: str, backend: str, rows: str, n: int) -> None:
    times = np.sort(np.concatenate([np.full(n, 0.35), [0.05, 0.95]]))
    units = np.where(times == 0.35, 2, 1).astype(np.int32)
    case = Case(times, units, 70, 0.1, 10, 0.0, 1e6)
    for dtype in (np.uint8, np.uint16, np.int32, np.float32):
        options = {"rows": rows, "dtype": dtype, "backend": backend}
        if dtype in (np.uint8, np.uint16) and n > np.iinfo(dtype).max:  # type: ignore[type-var]
            message = f"counts must fit {np.dtype(dtype)}, got {n} spikes of unit 2 in bin 3"
            for name in BACKENDS:
                for threads in (1, 2):
                    with pytest.raises(ValueError, match=message):
                        bin_sparse(
                            case.times, case.units, n_units=70, **case.bins,
                            **{**options, "backend": name, "threads": threads},
                        )  # fmt: skip
                    with pytest.raises(ValueError, match=message):
                        bin_sparse_by_unit(
                            *case.by_unit(),
                            **case.bins,
                            **{**options, "backend": name, "threads": threads},
                        )
            continue
        for matrix in in_both_layouts(case, **options):
            full = dense(matrix) if rows == "bins" else dense(matrix).T
            assert full[3, 2] == n
            assert full.sum() == n + 2


def test_scipy_takes_it() -> None:
    case = poisson(50, 2.0, 20.0)
    matrix = in_both_layouts(case, rows="units")[0]
    theirs = scipy.sparse.csr_array((matrix.counts, matrix.indices, matrix.indptr), matrix.shape)
    ours = bin_spikes(case.times, case.units, n_units=50, **case.bins, layout="unit")
    np.testing.assert_array_equal(theirs.toarray(), ours)
    assert theirs.has_canonical_format


N = 1200
GOOD = np.linspace(0.0, 0.999, N)
UNITS = np.arange(N, dtype=np.int32) % 7


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", ["bins", "units"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (600, np.nan, r"times must be finite, got times\[600\] = nan"),
        (600, 0.1, r"times must be sorted, got times\[600\] = 0\.1 after"),
        (N - 1, 1.0, r"times must lie in the bins, from 0\.0 s to before 1\.0 s"),
        (0, -1.0, r"times must lie in the bins, from 0\.0 s"),
    ],
)
def test_bad_times(
    backend: str, rows: Any, threads: int, index: int, value: float, message: str
) -> None:
    times = GOOD.copy()
    times[index] = value
    options: dict[str, Any] = {"width": 0.1, "n_bins": 10, "rows": rows, "threads": threads}
    with pytest.raises(ValueError, match=message):
        bin_sparse(times, UNITS, n_units=7, **options, backend=backend)
    with pytest.raises(ValueError, match=message):
        bin_sparse_by_unit(times, np.array([0, 0, N]), **options, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_unknown_units_and_options(backend: str) -> None:
    units = UNITS.copy()
    units[900] = 7
    options: dict[str, Any] = {"width": 0.1, "n_bins": 10, "n_units": 7, "backend": backend}
    for rows in ("bins", "units"):
        with pytest.raises(ValueError, match=r"units must lie in 0\.\.6, got units\[900\] = 7"):
            bin_sparse(GOOD, units, **options, rows=rows)
    with pytest.raises(ValueError, match="rows must be one of bins, units, got 'trials'"):
        bin_sparse(GOOD, UNITS, **options, rows="trials")  # type: ignore[call-overload]

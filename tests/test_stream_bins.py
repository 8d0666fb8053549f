from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
from attendrite import _core
from attendrite.kernels.bin_spikes import bin_spikes
from attendrite.kernels.stream_bins import OPERATION, StreamBinner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ._spikes import Case, cases, poisson

BACKENDS = OPERATION.backends
I32 = np.int32


def binner_for(case: Case, backend: str, dtype: Any = np.int32) -> StreamBinner:
    return StreamBinner(
        case.n_units, width=case.width, start=case.start, tick_rate=case.tick_rate, dtype=dtype,
        backend=backend,
    )  # fmt: skip


@pytest.mark.parametrize("level", _core.cpu_levels())
@pytest.mark.parametrize("backend", BACKENDS)
@given(case=cases(), seed=st.integers(0, 2**32), use_out=st.booleans())
def test_any_chunking_gives_the_dense_counts(
    level: str, backend: str, case: Case, seed: int, use_out: bool
) -> None:
    """Chunks cut anywhere, also empty ones, and the clock advanced at random in between."""
    before = _core.cpu_level()
    _core.force_level(level)
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, case.times.size + 1, rng.integers(0, 30)))
    cuts = np.concatenate([[0], cuts, [case.times.size]])
    binner = binner_for(case, backend)
    out = np.full((case.n_bins + 1, case.n_units), 99, np.int32) if use_out else None
    rows: list[NDArray[Any]] = []
    for begin, end in itertools.pairwise(cuts):
        got = binner.push(case.times[begin:end], case.units[begin:end], out)
        assert out is None or np.shares_memory(got, out) or got.size == 0
        rows.append(got.copy())
        if end < case.times.size and rng.random() < 0.3:
            clock = case.times[end] - rng.random() * case.width
            rows.append(binner.advance(clock, out).copy())
    stop = np.rint(case.start * case.tick_rate) / case.tick_rate + case.n_bins * case.width
    rows.append(binner.advance(stop, out).copy())
    _core.force_level(before)
    expected = bin_spikes(
        case.times, case.units, n_units=case.n_units, **case.bins, dtype=np.int32,
        backend="reference",
    )  # fmt: skip
    assert binner.closed == case.n_bins
    np.testing.assert_array_equal(np.concatenate(rows), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_dtypes_and_uint16_units(backend: str, dtype: Any) -> None:
    case = poisson(63, 2.0, 20.0)
    binner = binner_for(case, backend, dtype)
    rows = [binner.push(case.times, case.units.astype(np.uint16)), binner.advance(2.0)]
    assert rows[0].dtype == dtype
    expected = bin_spikes(case.times, case.units, n_units=63, **case.bins)
    np.testing.assert_array_equal(np.concatenate(rows), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_edge_spike_is_misplaced(backend: str) -> None:
    binner = StreamBinner(1, width=0.02, backend=backend)
    unit = np.zeros(1, I32)
    for k in range(1000):
        row = binner.push(np.array([k * 600 / 30000.0]), unit)
        assert row.tolist() == ([[1]] if k else [])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_clock_closes_bins_and_never_goes_back(backend: str) -> None:
    binner = StreamBinner(2, width=0.1, backend=backend)
    assert binner.push(np.array([0.05]), np.array([1], I32)).shape == (0, 2)
    assert binner.advance(0.0999).shape == (0, 2)
    assert binner.advance(0.1).tolist() == [[0, 1]]
    assert binner.advance(0.05).shape == (0, 2)
    assert binner.advance(0.4).tolist() == [[0, 0], [0, 0], [0, 0]]
    assert binner.closed == 4
    assert binner.push(np.array([0.4]), np.array([0], I32)).shape == (0, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_stay_the_callers(backend: str) -> None:
    binner = StreamBinner(1, width=0.1, backend=backend)
    first = binner.push(np.array([0.05, 0.1]), np.zeros(2, I32))
    binner.push(np.array([0.2, 0.2, 0.3]), np.zeros(3, I32))
    assert first.tolist() == [[1]]


FAULTS: dict[str, tuple[NDArray[np.float64], NDArray[Any], str]] = {
    "unsorted": (
        np.array([0.5, 0.4]), np.zeros(2, I32),
        r"times must be sorted, got times\[1\] = 0\.4 after 0\.5; sort them first",
    ),
    "across": (
        np.array([0.26]), np.zeros(1, I32),
        r"times must be sorted across chunks, got times\[0\] = 0\.26 after 0\.27 in a chunk before",
    ),
    "late": (
        np.array([0.15]), np.zeros(1, I32),
        r"times must not lie before the open bin, got times\[0\] = 0\.15 where bin 2 is open at "
        r"0\.2 s; the spike came too late to be counted",
    ),
    "nan": (np.array([0.3, np.nan]), np.zeros(2, I32), r"must be finite, got times\[1\] = nan"),
    "inf": (np.array([0.3, np.inf]), np.zeros(2, I32), r"must be finite, got times\[1\] = inf"),
    "unit": (np.array([0.3]), np.array([4], I32), r"units must lie in 0\.\.3, got units\[0\] = 4"),
    "unit < 0": (np.array([0.3]), np.array([-1], I32), r"units must lie in 0\.\.3.* = -1"),
    "far": (
        np.array([1e10]), np.zeros(1, I32),
        r"times must lie within 2\*\*50 ticks of 0, got .* s; is it in seconds\?",
    ),
    "overflow": (
        np.concatenate([np.full(255, 0.28), [0.5]]), np.full(256, 3, I32),
        r"counts must fit uint8, got 256 spikes of unit 3 in bin 2; pass a wider dtype",
    ),
}  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("times", "units", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_and_changes_nothing(
    backend: str, times: NDArray[np.float64], units: NDArray[Any], message: str
) -> None:
    binner = StreamBinner(4, width=0.1, backend=backend)
    binner.push(np.array([0.05, 0.27]), np.array([0, 3], I32))
    with pytest.raises(ValueError, match=message):
        binner.push(times, units)
    assert binner.closed == 2
    assert binner.push(np.array([0.27]), np.array([2], I32)).shape == (0, 4)
    assert binner.advance(0.3).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_spike_before_the_start_is_refused(backend: str) -> None:
    binner = StreamBinner(1, width=0.1, start=5.0, backend=backend)
    with pytest.raises(ValueError, match=r"= 4\.9 where the first bin starts at 5\.0 s"):
        binner.push(np.array([4.9]), np.zeros(1, I32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_clock_closes_no_bin_that_overflows(backend: str) -> None:
    binner = StreamBinner(1, width=0.1, backend=backend)
    binner.push(np.full(256, 0.05), np.zeros(256, I32))
    with pytest.raises(
        ValueError, match="counts must fit uint8, got 256 spikes of unit 0 in bin 0"
    ):
        binner.advance(1.0)
    assert binner.closed == 0
    for time_s in (np.nan, np.inf):
        with pytest.raises(ValueError, match="time must be finite, got"):
            binner.advance(time_s)
    with pytest.raises(ValueError, match=r"time must lie within 2\*\*50 ticks"):
        binner.advance(1e10)


def test_wrong_arrays() -> None:
    binner = StreamBinner(4, width=0.1)
    units = np.zeros(4, I32)
    with pytest.raises(TypeError, match="times must be float64 and contiguous, got float32"):
        binner.push(np.zeros(4, np.float32), units)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="times must be float64 and contiguous"):
        binner.push(np.zeros(8)[::2], units)
    with pytest.raises(TypeError, match="units must be int32 or uint16 and contiguous, got int64"):
        binner.push(np.zeros(4), np.zeros(4, np.int64))
    with pytest.raises(ValueError, match=r"must have one shape \[n\], got \(4,\) and \(3,\)"):
        binner.push(np.zeros(4), units[:3])
    spikes = (np.array([0.05, 0.35]), np.zeros(2, I32))
    for out, error, message in (
        (
            np.zeros((2, 4), np.uint8),
            ValueError,
            r"out must have shape \[at least 3, 4\], got \(2, 4\)",
        ),
        (np.zeros((3, 5), np.uint8), ValueError, r"out must have shape \[at least 3, 4\]"),
        (np.zeros((3, 4)), TypeError, "out must be contiguous uint8, got float64"),
        (np.zeros((3, 8), np.uint8)[:, ::2], TypeError, "out must be contiguous uint8"),
        ([[0]], TypeError, "out must be a NumPy array"),
    ):
        with pytest.raises(error, match=message):
            binner.push(*spikes, out)  # type: ignore[arg-type]
    locked = np.zeros((3, 4), np.uint8)
    locked.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writeable"):
        binner.push(*spikes, locked)
    assert binner.push(*spikes).shape == (3, 4)


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="must be a whole number of ticks"):
        StreamBinner(1, width=1 / 60)
    with pytest.raises(ValueError, match="n_units must be an integer from 0"):
        StreamBinner(-1, width=0.1)
    with pytest.raises(TypeError, match="dtype must be one of uint8"):
        StreamBinner(1, width=0.1, dtype=np.int64)


def test_a_chunk_takes_microseconds() -> None:
    """Not a benchmark: only that nothing in the call grows with the stream."""
    rng = np.random.default_rng(0)
    binner, out = StreamBinner(1000, width=0.02), np.zeros((2, 1000), np.uint8)
    units = rng.integers(0, 1000, 400).astype(I32)
    within = np.sort(rng.random(400)) * 0.02
    begin = time.perf_counter()
    for k in range(2000):
        binner.push(within + k * 0.02, units, out)
    assert time.perf_counter() - begin < 2.0

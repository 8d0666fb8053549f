"""Grouping spikes by unit and merging units: backends against the reference and each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from attendrite.kernels.group_by_unit import OPERATION, group_by_unit, merge_units
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

FAST = [name for name in OPERATION.backends if name != "reference"]
Times = NDArray[np.float64]


def spikes(n: int, n_units: int, ties: bool) -> tuple[Times, NDArray[np.int32]]:
    random = np.random.default_rng(n + n_units)
    times = np.sort(random.integers(-50, 50, n) / 7 if ties else random.normal(0, 100, n))
    return times, random.integers(0, n_units, n).astype(np.int32)


def assert_equal(found: tuple[Any, ...], truth: tuple[Any, ...]) -> None:
    for a, b in zip(found, truth, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n_units", [1, 17, 1000])
@pytest.mark.parametrize("n", [0, 1, 17, 63, 100, 1000, 50_001])
def test_backends_agree_with_the_reference(n: int, n_units: int, ties: bool, backend: str) -> None:
    times, units = spikes(n, n_units, ties)
    grouped = group_by_unit(times, units, n_units, backend="reference")
    merged = merge_units(*grouped, backend="reference")
    for threads in (1, 2, 7):
        told = {"threads": threads, "backend": backend}
        assert_equal(group_by_unit(times, units, n_units, **told), grouped)
        assert_equal(merge_units(*grouped, **told), merged)


finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(
    times=arrays.arrays(np.float64, st.integers(0, 60), elements=finite),
    n_units=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_any_finite_times(times: Times, n_units: int, seed: int) -> None:
    times = np.sort(times)
    units = np.random.default_rng(seed).integers(0, n_units, times.size).astype(np.int32)
    grouped = group_by_unit(times, units, n_units, backend="reference")
    for backend in FAST:
        assert_equal(group_by_unit(times, units, n_units, backend=backend), grouped)
        assert_equal(
            merge_units(*grouped, backend=backend), merge_units(*grouped, backend="reference")
        )


@pytest.mark.parametrize("backend", OPERATION.backends)
def test_merging_inverts_grouping(backend: str) -> None:
    times = np.cumsum(np.random.default_rng(0).random(20_000))  # no ties
    units = np.random.default_rng(1).integers(0, 300, times.size).astype(np.int32)
    by_unit = group_by_unit(times, units, 300, backend=backend)
    assert_equal(merge_units(*by_unit, backend=backend), (times, units))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(
    "times",
    [
        np.zeros(40_000),
        np.r_[np.random.default_rng(0).random(40_000), 1e12],  # one spike far away
        np.r_[-1e300, np.random.default_rng(0).random(40_000), 1e300],
        np.r_[np.full(20_000, -0.0), np.zeros(20_000)],
        np.repeat(np.nextafter(1.0, np.arange(100) + 2), 300),
        np.full(20_000, np.finfo(float).max) * np.r_[np.full(10_000, -1), np.ones(10_000)],
    ],
    ids=["equal", "outlier", "huge", "signed zeros", "one ulp", "largest"],
)
def test_skewed_times_merge_right(times: Times, backend: str) -> None:
    units = np.arange(times.size, dtype=np.int32) % 13
    grouped = group_by_unit(np.sort(times), units, 13)
    assert_equal(merge_units(*grouped, backend=backend), merge_units(*grouped, backend="reference"))


@pytest.mark.parametrize("backend", OPERATION.backends)
def test_silent_units_are_empty(backend: str) -> None:
    times, offsets = group_by_unit(np.arange(3.0), np.full(3, 2, np.int32), 5, backend=backend)
    assert offsets.tolist() == [0, 0, 0, 3, 3, 3]
    assert times.tolist() == [0, 1, 2]
    assert merge_units(times, offsets, backend=backend)[1].tolist() == [2, 2, 2]
    assert group_by_unit(np.empty(0), np.empty(0, np.int32), 0, backend=backend)[1].tolist() == [0]


@pytest.mark.parametrize("backend", OPERATION.backends)
def test_equal_times_merge_in_the_order_of_units(backend: str) -> None:
    by_unit, offsets = np.array([0.0, 1.0, 1.0, -0.0, 1.0]), np.array([0, 3, 5])
    times, units = merge_units(by_unit, offsets, backend=backend)
    assert times.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert units.tolist() == [0, 1, 0, 0, 1]


@pytest.mark.parametrize("backend", OPERATION.backends)
def test_inputs_stay_as_they_are_and_may_be_strided(backend: str) -> None:
    times, units = spikes(1000, 5, True)
    truth = group_by_unit(times, units, 5, backend="reference")
    strided = np.repeat(times, 2)[::2], np.repeat(units, 2)[::2]
    for array in (times, units):
        array.flags.writeable = False
    assert_equal(group_by_unit(*strided, 5, backend=backend), truth)
    assert_equal(group_by_unit(times, units.astype(np.uint16), 5, backend=backend), truth)
    merge_units(*truth, backend=backend)


BAD_SPIKES = [
    ([0.0, np.nan, 2.0], [0, 0, 0], r"times must be finite, got times\[1\] = nan"),
    ([0.0, 1.0, np.inf], [0, 0, 0], r"times must be finite, got times\[2\] = inf"),
    ([-np.inf, 1.0, 2.0], [0, 0, 0], r"times must be finite, got times\[0\] = -inf"),
    ([0.0, 2.0, 1.0], [0, 0, 0], r"times must be sorted, got times\[2\] = 1.0 after 2.0"),
    ([0.0, 1.0, 2.0], [0, 3, 0], r"units must lie in 0..2, got units\[1\] = 3"),
    ([0.0, 1.0, 2.0], [0, 0, -1], r"units must lie in 0..2, got units\[2\] = -1"),
    ([0.0, 1.0, 2.0], [0, 2**33, 0], r"units must fit int32, got units\[1\] = 8589934592"),
    ([0.0, 1.0, 2.0], [0, 0], r"units must have shape \[3\], got \[2\]"),
]


@pytest.mark.parametrize("backend", OPERATION.backends)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("before", [0, 20_000])
@pytest.mark.parametrize(("times", "units", "message"), BAD_SPIKES)
def test_bad_spikes_get_one_clear_error(
    times: list[float], units: list[int], message: str, before: int, threads: int, backend: str
) -> None:
    """Also behind many good ones, where another thread finds them."""
    if before and ("shape" in message or "times[0]" in message.replace("\\", "")):
        pytest.skip("needs the spikes alone")
    index = {f"[{i}\\]": f"[{i + before}\\]" for i in range(3)}
    for old, new in index.items():
        message = message.replace(f"times\\{old}", f"times\\{new}")
        message = message.replace(f"units\\{old}", f"units\\{new}")
    good = np.linspace(-2, -1, before)
    with pytest.raises(ValueError, match=message):
        group_by_unit(
            np.r_[good, times], np.r_[np.zeros(before, np.int64), units], 3, threads=threads,
            backend=backend,
        )  # fmt: skip


@pytest.mark.parametrize("backend", OPERATION.backends)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("where", [1, 1023, 1024, 1025, 5999, 6000, 6001, 11_999])
def test_bad_spikes_are_found_anywhere(where: int, threads: int, backend: str) -> None:
    times, units = np.arange(12_000.0), np.zeros(12_000, np.int32)
    back = times.copy()
    back[where] = times[where - 1] - 0.5
    with pytest.raises(ValueError, match=rf"times must be sorted, got times\[{where}\]"):
        group_by_unit(back, units, 1, threads=threads, backend=backend)
    units[where] = 1
    with pytest.raises(ValueError, match=rf"units must lie in 0..0, got units\[{where}\] = 1"):
        group_by_unit(times, units, 1, threads=threads, backend=backend)


@pytest.mark.parametrize("backend", OPERATION.backends)
@pytest.mark.parametrize(
    ("times", "offsets", "message"),
    [
        ([0.0, np.nan, 2.0], [0, 3], r"times must be finite, got times\[1\] = nan"),
        ([0.0, 1.0, np.inf], [0, 2, 3], r"times must be finite, got times\[2\] = inf"),
        ([0.0, 2.0, 1.0], [0, 1, 3], r"times must be sorted, got times\[2\] = 1.0 after 2.0"),
        ([0.0, 1.0], [0, 1], "offsets must run from 0 to the number of times 2, got 0..1"),
        ([0.0, 1.0], [1, 2], "offsets must run from 0 to the number of times 2, got 1..2"),
        ([0.0, 1.0], [], "offsets must run from 0 to the number of times 2, got none"),
        ([0.0, 1.0], [0, 2, 1, 2], r"offsets must never decrease, got offsets\[2\] = 1"),
    ],
)
def test_bad_units_get_one_clear_error(
    times: list[float], offsets: list[int], message: str, backend: str
) -> None:
    with pytest.raises(ValueError, match=message):
        merge_units(np.array(times), np.array(offsets, np.int64), backend=backend)


def test_wrong_types_and_numbers_are_refused() -> None:
    times, units = np.arange(2.0), np.zeros(2, np.int32)
    with pytest.raises(TypeError, match="times must be float64, got float32"):
        group_by_unit(times.astype(np.float32), units, 1)
    with pytest.raises(TypeError, match="units must be integers, got float64"):
        group_by_unit(times, times, 1)
    with pytest.raises(TypeError, match="offsets must be integers, got float64"):
        merge_units(times, np.array([0.0, 2.0]))
    with pytest.raises(ValueError, match=r"n_units must lie in 0..2147483647, got -1"):
        group_by_unit(times, units, -1)
    with pytest.raises(ValueError, match="threads must be a positive integer, got 0"):
        group_by_unit(times, units, 1, threads=0)

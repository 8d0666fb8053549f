from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from attendrite import _core
from attendrite.kernels.bin_spikes import OPERATION, Dropped, bin_spikes, bin_spikes_by_unit
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ._spikes import Case, cases, poisson

BACKENDS = OPERATION.backends
FAST = [name for name in BACKENDS if name != "reference"]
DTYPES = [np.uint8, np.uint16, np.int32, np.float32]
SIMPLE = {"width": 0.1, "n_bins": 10}


@pytest.fixture(params=_core.cpu_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction-set level that this CPU can run."""
    before = _core.cpu_level()
    _core.force_level(request.param)
    yield request.param
    _core.force_level(before)


def in_both_layouts(case: Case, **options: Any) -> list[NDArray[Any]]:
    """Counts ``[T, N]`` from flat spikes and from spikes by unit."""
    flat = bin_spikes(case.times, case.units, n_units=case.n_units, **case.bins, **options)
    by_unit = bin_spikes_by_unit(*case.by_unit(), **case.bins, **options)
    return [flat.T, by_unit.T] if options.get("layout") == "unit" else [flat, by_unit]


@pytest.mark.parametrize("backend", FAST)
@given(case=cases(), dtype=st.sampled_from(DTYPES), threads=st.sampled_from([1, 3]))
def test_equals_the_reference(
    level: str, backend: str, case: Case, dtype: Any, threads: int
) -> None:
    expected = bin_spikes(
        case.times, case.units, n_units=case.n_units, **case.bins, dtype=np.int32,
        backend="reference",
    )  # fmt: skip
    if dtype == np.uint8 and expected.max(initial=0) > 255:
        dtype = np.uint16
    assert expected.sum() == case.times.size
    for layout in ("time", "unit"):
        options = {"layout": layout, "dtype": dtype, "threads": threads, "backend": backend}
        for counts in in_both_layouts(case, **options):
            assert counts.dtype == dtype
            np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("backend", FAST)
@given(case=cases(outside=True), threads=st.sampled_from([1, 3]))
def test_drops_what_lies_outside(backend: str, case: Case, threads: int) -> None:
    ticks = np.rint(case.times * case.tick_rate)
    first = np.rint(case.start * case.tick_rate)
    last = first + round(case.width * case.tick_rate) * case.n_bins
    expected = Dropped(int((ticks < first).sum()), int((ticks >= last).sum()))
    options: dict[str, Any] = {"outside": "drop", "dtype": np.int32}
    truth, dropped = bin_spikes(
        case.times, case.units, n_units=case.n_units, **case.bins, **options, backend="reference"
    )
    assert dropped == expected
    assert truth.sum() + sum(expected) == case.times.size
    for layout in ("time", "unit"):
        options |= {"layout": layout, "backend": backend, "threads": threads}
        flat, dropped = bin_spikes(
            case.times, case.units, n_units=case.n_units, **case.bins, **options
        )
        assert dropped == expected
        np.testing.assert_array_equal(flat if layout == "time" else flat.T, truth)
        by_unit, dropped = bin_spikes_by_unit(*case.by_unit(), **case.bins, **options)
        assert dropped == expected
        np.testing.assert_array_equal(by_unit if layout == "time" else by_unit.T, truth)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_units", [0, 1, 17, 63, 100, 1000])
@pytest.mark.parametrize("n_bins", [0, 1, 17, 63, 100, 1000])
def test_sizes(backend: str, n_units: int, n_bins: int) -> None:
    """Bin k of unit u holds (k + u) % 3 spikes: the counts are known without binning."""
    bins, units = np.mgrid[:n_bins, :n_units]
    expected = ((bins + units) % 3).astype(np.uint8)
    flat_bins = np.repeat(bins.ravel(), expected.ravel())
    flat_units = np.repeat(units.ravel(), expected.ravel()).astype(np.int32)
    case = Case((flat_bins + 0.5) * 0.001, flat_units, n_units, 0.001, n_bins, 0.0, 1e6)
    for layout in ("time", "unit"):
        for counts in in_both_layouts(case, layout=layout, backend=backend):
            np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [0.001, 0.01, 0.02])
@pytest.mark.parametrize("source", ["k*w", "k/rate", "30 kHz samples"])
def test_no_edge_spike_is_misplaced(backend: str, width: float, source: str) -> None:
    """One spike on each edge of an hour: one spike in each bin."""
    n_bins = round(3600 / width)
    k = np.arange(n_bins)
    times = {
        "k*w": k * width,
        "k/rate": k / round(1 / width),
        "30 kHz samples": (k * round(30000 * width)) / 30000.0,
    }[source]
    case = Case(times, np.zeros(n_bins, np.int32), 1, width, n_bins, 0.0, 1e6)
    for counts in in_both_layouts(case, backend=backend):
        assert (counts == 1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_edge_samples_at_a_fractional_rate(backend: str) -> None:
    """At 24414.0625 Hz samples are no whole microseconds apart: the sampling rate is the rule."""
    rate, per_bin, n_bins = 24414.0625, 500, 20000
    times = np.arange(n_bins) * per_bin / rate
    case = Case(times, np.zeros(n_bins, np.int32), 1, per_bin / rate, n_bins, 0.0, rate)
    for counts in in_both_layouts(case, backend=backend):
        assert (counts == 1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_time_within_half_a_tick_of_an_edge_is_on_it(backend: str) -> None:
    times = np.array([-0.5e-6, 0.0999994, 0.0999996, 0.1])
    case = Case(times, np.zeros(4, np.int32), 1, 0.1, 2, 0.0, 1e6)
    for counts in in_both_layouts(case, backend=backend):
        np.testing.assert_array_equal(counts, [[2], [2]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_shifting_times_shifts_bins_and_permuting_units_permutes_columns(backend: str) -> None:
    case = poisson(17, 3.0, 20.0)
    ticks = np.rint(case.times * 1e6)
    case = case._replace(times=ticks / 1e6)
    expected = in_both_layouts(case, backend=backend)[0]
    shifted = case._replace(times=(ticks + 5 * 20000) / 1e6, start=5 * 0.02)
    for counts in in_both_layouts(shifted, backend=backend):
        np.testing.assert_array_equal(counts, expected)
    order = np.random.default_rng(1).permutation(17)
    permuted = case._replace(units=order[case.units].astype(np.int32))
    for counts in in_both_layouts(permuted, backend=backend):
        np.testing.assert_array_equal(counts[:, order], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_uint16_units_are_taken_as_they_are(backend: str) -> None:
    case = poisson(300, 1.0, 20.0)
    wide = case._replace(units=case.units.astype(np.uint16))  # type: ignore[arg-type]
    for layout in ("time", "unit"):
        a, _ = in_both_layouts(case, layout=layout, backend=backend)
        b, _ = in_both_layouts(wide, layout=layout, backend=backend)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_out_is_filled_and_returned(backend: str, dtype: Any) -> None:
    case = poisson(33, 2.0, 20.0)
    for layout, shape in (("time", (100, 33)), ("unit", (33, 100))):
        out = np.full(shape, 77, dtype)
        got = bin_spikes(
            case.times, case.units, n_units=33, **case.bins, layout=layout, out=out,
            backend=backend,
        )  # fmt: skip
        assert got is out
        assert out.sum() == case.times.size
        again = np.full(shape, 78, dtype)
        got = bin_spikes_by_unit(
            *case.by_unit(), **case.bins, layout=layout, out=again, backend=backend
        )
        assert got is again
        np.testing.assert_array_equal(again, out)


@pytest.fixture(scope="module")
def large() -> tuple[Case, NDArray[Any]]:
    """Counts of more than two MiB, which are written past the caches; [T, N], int32."""
    case = poisson(333, 140.02, 2.0)
    counts = in_both_layouts(case, backend="reference", dtype=np.int32)[0]
    assert counts.size > 2**21
    return case, counts


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_outputs_wherever_they_begin(
    level: str, backend: str, dtype: Any, large: tuple[Case, NDArray[Any]]
) -> None:
    case, expected = large
    by_unit = case.by_unit()
    for layout, shape in (("time", expected.shape), ("unit", expected.shape[::-1])):
        for before, threads in ((0, 1), (1, 3), (37, 1), (64, 2)):
            memory = np.full(before + expected.size + 64, 77, dtype)
            out = memory[before:-64].reshape(shape)
            options: dict[str, Any] = {"layout": layout, "threads": threads, "backend": backend}
            options |= {"out": out, **case.bins}
            for entry in ("flat", "by unit"):
                out.fill(78)
                if entry == "flat":
                    bin_spikes(case.times, case.units, n_units=case.n_units, **options)
                else:
                    bin_spikes_by_unit(*by_unit, **options)
                counts = out if layout == "time" else out.T
                np.testing.assert_array_equal(counts, expected)
                assert (memory[:before] == 77).all()
                assert (memory[-64:] == 77).all()


@pytest.mark.parametrize("backend", FAST)
def test_large_outputs_in_fresh_memory(backend: str, large: tuple[Case, NDArray[Any]]) -> None:
    case, expected = large
    for layout, shape in (("time", expected.shape), ("unit", expected.shape[::-1])):
        for entry in ("flat", "by unit"):
            out = np.zeros(shape, np.int32)  # from the system, which zeroes what is touched
            options: dict[str, Any] = {"layout": layout, "backend": backend, "out": out}
            if entry == "flat":
                bin_spikes(case.times, case.units, n_units=case.n_units, **case.bins, **options)
            else:
                bin_spikes_by_unit(*case.by_unit(), **case.bins, **options)
            np.testing.assert_array_equal(out if layout == "time" else out.T, expected)


@pytest.mark.parametrize("backend", FAST)
def test_faults_in_large_outputs(backend: str, large: tuple[Case, NDArray[Any]]) -> None:
    case, _ = large
    last = case.times.size - 1
    options: dict[str, Any] = {**case.bins, "n_units": case.n_units, "backend": backend}
    many = np.full(300, case.times[-1])
    times = np.concatenate([case.times, many])
    units = np.concatenate([case.units, np.full(300, 5, np.int32)])
    full = case._replace(times=times, units=units)
    unsorted = case.times.copy()
    unsorted[last] = 0.0
    for layout in ("time", "unit"):
        with pytest.raises(ValueError, match=r"counts must fit uint8, got 30\d spikes of unit 5"):
            bin_spikes(times, units, layout=layout, **options)
        with pytest.raises(ValueError, match=r"counts must fit uint8, got 30\d spikes of unit 5"):
            bin_spikes_by_unit(*full.by_unit(), **case.bins, layout=layout, backend=backend)
        with pytest.raises(ValueError, match=rf"got times\[{last}\] = 0\.0 after"):
            bin_spikes(unsorted, case.units, layout=layout, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_counts_up_to_the_largest_are_exact_and_one_more_is_refused(
    level: str, backend: str, dtype: Any
) -> None:
    largest = int(np.iinfo(dtype).max)
    for extra in (0, 1):
        n = largest + extra
        # Unit 2 in bin 3; others in the same and in other bins hide nothing.
        times = np.sort(np.concatenate([np.full(n, 0.35), np.full(300, 0.36), [0.05, 0.95]]))
        units = np.zeros(times.size, np.int32)
        units[times == 0.35] = 2
        case = Case(times, units, 4, 0.1, 10, 0.0, 1e6)
        for threads in (1, 2):
            for layout in ("time", "unit"):
                options = {"layout": layout, "backend": backend, "dtype": dtype, "threads": threads}
                if dtype == np.uint8:  # the 300 of unit 0 must not be refused first
                    keep = case.times != 0.36
                    case = case._replace(times=case.times[keep], units=case.units[keep])
                if extra == 0:
                    for counts in in_both_layouts(case, **options):
                        assert counts[3, 2] == largest
                        assert counts.sum() == case.times.size
                    continue
                message = (
                    rf"counts must fit {np.dtype(dtype)}, got {n} spikes of unit 2 in bin 3; "
                    "pass a wider dtype"
                )
                with pytest.raises(ValueError, match=message):
                    bin_spikes(case.times, case.units, n_units=4, **case.bins, **options)  # type: ignore[call-overload]
                with pytest.raises(ValueError, match=message):
                    bin_spikes_by_unit(*case.by_unit(), **case.bins, **options)  # type: ignore[call-overload]


def test_float32_counts_stop_where_they_would_lose_spikes() -> None:
    n = 2**24
    times, units = np.zeros(n), np.zeros(n, np.uint16)
    options: dict[str, Any] = {**SIMPLE, "dtype": np.float32}
    assert bin_spikes(times[1:], units[1:], n_units=1, **options)[0, 0] == n - 1
    with pytest.raises(ValueError, match=f"counts must fit float32, got {n} spikes of unit 0"):
        bin_spikes(times, units, n_units=1, **options)
    with pytest.raises(ValueError, match=f"counts must fit float32, got {n} spikes of unit 0"):
        bin_spikes_by_unit(times, np.array([0, n]), **options)


# ---- bad input: the same words from every backend ----

N = 1200  # more than two blocks of the native scan
GOOD = np.linspace(0.0, 0.999, N)
UNITS = np.arange(N, dtype=np.int32) % 7


def with_times(*changes: tuple[int, float]) -> NDArray[np.float64]:
    times = GOOD.copy()
    for index, value in changes:
        times[index] = value
    return times


BAD_TIMES = {
    "nan": (with_times((700, np.nan)), r"times must be finite, got times\[700\] = nan; remove"),
    "nan first": (with_times((0, np.nan)), r"times must be finite, got times\[0\] = nan"),
    "nan last": (with_times((N - 1, np.nan)), rf"times must be finite, got times\[{N - 1}\] = nan"),
    "inf": (with_times((N - 1, np.inf)), rf"times must be finite, got times\[{N - 1}\] = inf"),
    "-inf": (with_times((0, -np.inf)), r"times must be finite, got times\[0\] = -inf"),
    "unsorted": (
        with_times((512, 0.25)),
        rf"times must be sorted, got times\[512\] = 0\.25 after {GOOD[511]}; sort them first",
    ),
    "finite comes first": (with_times((5, 0.5), (9, np.nan)), r"must be finite, got times\[9\]"),
    "unsorted and outside": (with_times((8, 3.0)), r"must be sorted, got times\[9\] .* after 3\.0"),
    "after": (
        with_times((N - 1, 1.0)),
        rf"times must lie in the bins, from 0\.0 s to before 1\.0 s, got times\[{N - 1}\] = 1\.0; "
        "pass outside='drop' to leave them out",
    ),
    "before": (with_times((0, -0.1)), r"times must lie in the bins, from .* times\[0\] = -0\.1"),
    "very large": (with_times((N - 1, 1e300)), r"times must lie in the bins.* = 1e\+300"),
    "beyond every tick": (with_times((N - 1, 1.7e308)), r"times must lie in the bins.*1\.7e\+308"),
}  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", ["time", "unit"])
@pytest.mark.parametrize(("times", "message"), BAD_TIMES.values(), ids=BAD_TIMES)
def test_bad_times(
    level: str, backend: str, threads: int, layout: Any, times: NDArray[np.float64], message: str
) -> None:
    options: dict[str, Any] = {**SIMPLE, "layout": layout, "threads": threads, "backend": backend}
    with pytest.raises(ValueError, match=message):
        bin_spikes(times, UNITS, n_units=7, **options)
    with pytest.raises(ValueError, match=message):
        bin_spikes_by_unit(times, np.array([0, 0, N, N]), **options)
    if "lie in the bins" not in message:  # what is dropped is checked all the same
        for start in (0.0, 0.2, 5.0, -5.0):
            dropping = {**options, "outside": "drop", "start": start}
            with pytest.raises(ValueError, match=message):
                bin_spikes(times, UNITS, n_units=7, **dropping)
            with pytest.raises(ValueError, match=message):
                bin_spikes_by_unit(times, np.array([0, 0, N, N]), **dropping)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("index", "unit"), [(0, 7), (700, -1), (N - 1, 2**31 - 1)])
def test_unknown_units(level: str, backend: str, threads: int, index: int, unit: int) -> None:
    units = UNITS.copy()
    units[index] = unit
    for start in (0.0, 0.5):
        options: dict[str, Any] = {**SIMPLE, "start": start, "backend": backend, "threads": threads}
        options |= {"outside": "drop"} if start else {}
        with pytest.raises(ValueError, match=rf"units must lie in 0\.\.6, got units\[{index}\] = "):
            bin_spikes(GOOD, units, n_units=7, **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_unit_may_begin_before_the_one_before_ends(backend: str) -> None:
    counts = bin_spikes_by_unit(
        np.array([0.5, 0.9, 0.1]), np.array([0, 2, 3]), **SIMPLE, layout="unit", backend=backend
    )
    assert np.argwhere(counts).tolist() == [[0, 5], [0, 9], [1, 1]]


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_the_core_words_numbers_as_python_does(value: float) -> None:
    messages = []
    for backend in ("native", "reference"):
        times = np.array([value])
        with pytest.raises(ValueError, match=r"got times\[0\] = ") as error:
            bin_spikes(
                times, np.array([3], np.int32), width=1e-6, n_bins=0, n_units=4, backend=backend
            )
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@given(case=cases(outside=True), cut=st.integers(0, 2**32))
def test_backends_word_faults_alike(case: Case, cut: int) -> None:
    """Random faults at random places: every backend raises the same, or none does."""
    rng = np.random.default_rng(cut)
    times, units = case.times.copy(), case.units.copy()
    if times.size:
        for _ in range(rng.integers(0, 3)):
            times[rng.integers(times.size)] = rng.choice([np.nan, np.inf, -np.inf, 0.0, 1e9])
        if rng.random() < 0.3:
            units[rng.integers(units.size)] = rng.choice([-1, case.n_units])
    for entry in ("flat", "by unit"):
        said = set()
        for backend in BACKENDS:
            try:
                if entry == "flat":
                    counts = bin_spikes(
                        times, units, n_units=case.n_units, **case.bins, backend=backend, threads=2
                    )
                else:
                    _, offsets = case.by_unit()
                    counts = bin_spikes_by_unit(times, offsets, **case.bins, backend=backend)
                said.add(counts.tobytes())
            except ValueError as error:
                said.add(str(error).encode())
        assert len(said) == 1


def raises(error: type[Exception], message: str, **changes: Any) -> None:
    arguments: dict[str, Any] = {
        "times": GOOD, "units": UNITS, "n_units": 7, "width": 0.1, "n_bins": 10,
    }  # fmt: skip
    arguments |= changes
    with pytest.raises(error, match=message):
        bin_spikes(**arguments)


def test_wrong_arrays() -> None:
    raises(TypeError, "times must be a NumPy array, got list", times=[0.1])
    raises(TypeError, "times must be float64, got float32; convert", times=GOOD.astype(np.float32))
    raises(TypeError, "times must be float64, got >f8", times=GOOD.astype(">f8"))
    raises(ValueError, r"times must have shape \[n\], got \[30, 40\]", times=GOOD.reshape(30, 40))
    raises(ValueError, r"times must be contiguous, got strides \(16,\)", times=GOOD[::2])
    raises(TypeError, "units must be int32 or uint16, got int64", units=UNITS.astype(np.int64))
    raises(ValueError, "units must be contiguous", units=np.repeat(UNITS, 2)[::2])
    raises(ValueError, f"units must have the length of times, {N}, got {N - 1}", units=UNITS[1:])
    raises(ValueError, "n_units must be an integer from 0", n_units=-1)


def test_wrong_options() -> None:
    raises(ValueError, r"width \* tick_rate must be a whole number of ticks, got ", width=1 / 60)
    raises(ValueError, "must be a whole number of ticks", width=1e-7)
    raises(ValueError, "width must be a positive number, got 0.0", width=0.0)
    raises(ValueError, "width must be a positive number, got nan", width=np.nan)
    raises(ValueError, "tick_rate must be a positive number, got -1", tick_rate=-1.0)
    raises(ValueError, "tick_rate must lie in", tick_rate=1e-7)
    raises(ValueError, "n_bins must be an integer from 0", n_bins=2**31)
    raises(ValueError, "n_bins must be an integer from 0", n_bins=-1)
    raises(ValueError, "start must be finite, got inf", start=np.inf)
    raises(ValueError, r"bins must lie within 2\*\*50 ticks of 0", start=1e10)
    raises(TypeError, "dtype must be one of uint8, uint16, int32, float32, got int8", dtype=np.int8)
    raises(ValueError, "layout must be one of time, unit, got 'flat'", layout="flat")
    raises(ValueError, "outside must be one of error, drop, got 'clip'", outside="clip")
    raises(ValueError, "threads must be a positive integer, got 0", threads=0)
    raises(ValueError, r"unknown backend bin_spikes\[cuda\]", backend="cuda")


def test_wrong_out() -> None:
    good = np.zeros((10, 7), np.uint8)
    raises(TypeError, "out must have one of the dtypes .*, got float64", out=np.zeros((10, 7)))
    raises(TypeError, "out must be a NumPy array, got list", out=[])
    raises(ValueError, r"out must have shape \[10, 7\], got \[7, 10\]", out=good.T)
    raises(ValueError, "out must be contiguous and writeable", out=np.zeros((7, 10), np.uint8).T)
    bytes_ = np.zeros(10 * 7 * 4 + 1, np.uint8)
    odd = bytes_[1:].view(np.int32).reshape(10, 7)
    raises(ValueError, "out must be contiguous and writeable, got unaligned", out=odd)
    good.flags.writeable = False
    raises(ValueError, "out must be contiguous and writeable, got read-only", out=good)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 3, N - 1], rf"offsets must run from 0 to the number of times, {N}, got 0\.\.{N - 1}"),
        ([1, N], r"offsets must run from 0"),
        ([], r"offsets must run from 0 to the number of times, .* got none"),
        ([0, 5, 3, N], r"offsets must never decrease, got offsets\[2\] = 3"),
    ],
)
def test_wrong_offsets(offsets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bin_spikes_by_unit(GOOD, np.array(offsets, np.int64), **SIMPLE)


def test_calls_from_many_threads_at_once() -> None:
    case = poisson(100, 20.0, 20.0)
    expected = in_both_layouts(case, backend="reference")[0]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(5):
            for counts in in_both_layouts(case, threads=1 + i % 3):
                if not np.array_equal(counts, expected):
                    wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong

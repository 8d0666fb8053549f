"""POYO tokens: backends against the reference, the golden tokens and torch_brain's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attendrite.kernels.tokenize_poyo import (
    END,
    OPERATION,
    START,
    Tokens,
    Workspace,
    tokenize_poyo,
    window_ranges,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
FAST = [name for name in OPERATION.backends if name != "reference"]
ORDERS = ("time", "unit")
FORMS = ("packed", "padded")
FIELDS = ("unit", "time", "type", "lengths", "cu_seqlens", "mask", "unit_offsets")


def recording(n: int, n_units: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Sorted times on a 30 kHz grid over 10 s, and a unit for each."""
    random = np.random.default_rng(seed)
    times = np.sort(random.integers(0, 300_000, n)) / 30_000
    return times, random.integers(0, max(n_units, 1), n).astype(np.int32)


def windows(times: NDArray[np.float64], starts: list[float], length: float) -> dict[str, Any]:
    origin = np.array(starts, np.float64)
    begin, end = window_ranges(times, origin, length)
    return {"begin": begin, "end": end, "origin": origin, "length": length}


def assert_same(found: Tokens, truth: Tokens) -> None:
    for name in FIELDS:
        a, b = getattr(found, name), getattr(truth, name)
        assert (a is None) == (b is None), name
        if b is not None:
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n", [0, 1, 17, 63, 100, 1000, 5000])
def test_backends_agree_with_the_reference(n: int, order: str, form: str, backend: str) -> None:
    times, units = recording(n, 17)
    asked = windows(times, [3.0, 0.0, 9.5, 2.5, 3.0], 1.5)  # any order, overlapping, past the end
    mask = np.random.default_rng(1).random((5, 17)) < 0.6
    for window_units in (None, mask, np.zeros_like(mask)):
        for threads in (1, 3):
            told = {"n_units": 17, "order": order, "form": form, "window_units": window_units}
            truth = tokenize_poyo(times, units, **asked, **told, backend="reference")
            found = tokenize_poyo(times, units, **asked, **told, backend=backend, threads=threads)
            assert_same(found, truth)


@given(data=st.data())
def test_any_windows_of_any_spikes(data: st.DataObject) -> None:
    n_units = data.draw(st.integers(0, 20))
    n = data.draw(st.integers(0, 80)) if n_units else 0
    times, units = recording(n, n_units, data.draw(st.integers(0, 99)))
    starts = data.draw(st.lists(st.integers(-20, 110), max_size=5))
    asked = windows(times, [start / 10 for start in starts], data.draw(st.sampled_from([0.1, 1.3])))
    told = {
        "n_units": n_units,
        "order": data.draw(st.sampled_from(ORDERS)),
        "form": data.draw(st.sampled_from(FORMS)),
        "pad_multiple": data.draw(st.sampled_from([1, 8, 32])),
    }
    truth = tokenize_poyo(times, units, **asked, **told, backend="reference")
    for backend in FAST:
        assert_same(tokenize_poyo(times, units, **asked, **told, backend=backend), truth)


@pytest.mark.parametrize("backend", OPERATION.backends)
def test_time_order_is_starts_and_ends_then_spikes(backend: str) -> None:
    times, units = np.array([5.1, 5.2, 5.2, 5.9, 6.0]), np.array([2, 0, 2, 2, 1], np.int32)
    asked = windows(times, [5.0], 1.0)
    tokens = tokenize_poyo(times, units, **asked, n_units=3, backend=backend)
    assert tokens.unit.tolist() == [0, 0, 1, 1, 2, 2, 2, 0, 2, 2]
    assert tokens.type.tolist() == [1, 2, 1, 2, 1, 2, 0, 0, 0, 0]  # 6.0 is outside: half-open
    ends = [0.0, 1.0] * 3
    assert tokens.time.tolist() == [*ends, *(times[:4] - 5.0).tolist()]
    assert tokens.cu_seqlens.tolist() == [0, 10]


@pytest.mark.parametrize("backend", OPERATION.backends)
def test_unit_order_makes_each_unit_one_range(backend: str) -> None:
    times, units = recording(1000, 7)
    asked = windows(times, [0.0, 4.0], 2.0)
    exists = np.ones((2, 7), bool)
    exists[1, [0, 4, 6]] = False
    tokens = tokenize_poyo(
        times, units, **asked, n_units=7, window_units=exists, order="unit", backend=backend
    )
    assert tokens.unit_offsets is not None
    for w in range(2):
        for u in range(7):
            first, stop = tokens.cu_seqlens[w] + tokens.unit_offsets[w, u : u + 2]
            if not exists[w, u]:
                assert first == stop
                continue
            inside = slice(asked["begin"][w], asked["end"][w])
            own = times[inside][units[inside] == u] - asked["origin"][w]
            np.testing.assert_array_equal(tokens.time[first:stop], [0.0, 2.0, *own])
            assert set(tokens.unit[first:stop]) == {u}
            assert tokens.type[first:stop].tolist() == [START, END, *[0] * own.size]


def test_both_orders_hold_the_same_tokens() -> None:
    times, units = recording(3000, 50)
    asked = windows(times, [1.0, 7.5], 1.0)
    a, b = (tokenize_poyo(times, units, **asked, n_units=50, order=order) for order in ORDERS)
    for w in range(2):
        part = slice(a.cu_seqlens[w], a.cu_seqlens[w + 1])
        keys = [np.lexsort((t.time[part], t.type[part], t.unit[part])) for t in (a, b)]
        for name in ("unit", "time", "type"):
            x, y = (getattr(t, name)[part][k] for t, k in zip((a, b), keys, strict=True))
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("backend", OPERATION.backends)
def test_padding_is_zero_masked_and_a_multiple(backend: str) -> None:
    times, units = recording(900, 5)
    asked = windows(times, [0.0, 9.9], 1.0)
    tokens = tokenize_poyo(
        times, units, **asked, n_units=5, form="padded", pad_multiple=32, backend=backend
    )
    assert tokens.mask is not None
    assert tokens.unit.shape[1] % 32 == 0
    assert tokens.unit.shape[1] - tokens.lengths.max() < 32
    np.testing.assert_array_equal(tokens.mask.sum(1), tokens.lengths)
    for field in (tokens.unit, tokens.time, tokens.type):
        assert not field[~tokens.mask].any()


@pytest.mark.parametrize("backend", OPERATION.backends)
@pytest.mark.parametrize("form", FORMS)
def test_a_workspace_is_kept_and_grows(backend: str, form: str) -> None:
    times, units = recording(3000, 9)
    out = Workspace()
    memory = []
    for length in (2.0, 1.0, 5.0, 2.0):  # shorter, then longer than what was there
        asked = windows(times, [0.0, 3.0], length)
        told = {"n_units": 9, "order": "unit", "form": form, "backend": backend}
        found = tokenize_poyo(times, units, **asked, **told, out=out)
        assert_same(found, tokenize_poyo(times, units, **asked, **told))
        memory.append(found.time.__array_interface__["data"][0])
    assert memory[0] == memory[1], "a smaller batch takes no new memory"
    assert memory[2] == memory[3]


@pytest.mark.parametrize("backend", OPERATION.backends)
def test_golden_tokens_of_torch_brain(backend: str) -> None:
    golden = np.load(FIXTURES / "poyo_tiny" / "poyo_tiny_golden.npz")
    unit, time, kind, mask = (
        golden[f"in.input_{name}"] for name in ("unit_index", "timestamps", "token_type", "mask")
    )
    spike = mask & (kind == 0)
    n_units = int(unit.max())
    exists = np.array([np.isin(np.arange(1, n_units + 1), row[row > 0]) for row in unit])
    ends = np.cumsum(spike.sum(1))
    tokens = tokenize_poyo(
        time[spike], (unit[spike] - 1).astype(np.int32), begin=ends - spike.sum(1), end=ends,
        origin=np.zeros(3), length=1.0, n_units=n_units, window_units=exists, form="padded",
        backend=backend,
    )  # fmt: skip
    np.testing.assert_array_equal(tokens.mask, mask)
    np.testing.assert_array_equal(tokens.time, time)
    np.testing.assert_array_equal(tokens.type, kind)
    np.testing.assert_array_equal((tokens.unit + 1) * mask, unit)  # its row 0 is padding


def test_parity_with_the_tokenizer_of_torch_brain() -> None:
    poyo = pytest.importorskip("torch_brain.models.poyo")
    data = pytest.importorskip("torch_brain.data")
    collate = pytest.importorskip("torch_brain.batching").collate
    n_units, length = 30, 1.0
    ids = [f"animal/unit_{u}" for u in range(n_units)]
    model = poyo.POYO(
        sequence_length=length, latent_step=0.25, num_latents_per_step=2, dim=32, depth=1,
        dim_head=32, cross_heads=1, self_heads=1, dim_out=1,
    )  # fmt: skip
    model.unit_emb.initialize_vocab(ids)
    model.session_emb.initialize_vocab(["animal"])
    times, units = recording(8000, n_units)
    domain = data.Interval(0.0, 10.0)
    whole = data.Data(
        spikes=data.IrregularTimeSeries(
            timestamps=times, unit_index=units.astype(np.int64), domain="auto"
        ),
        units=data.ArrayDict(id=np.array(ids)),
        domain=domain,
    )
    whole.session = data.Data(id="animal", domain=domain)
    starts = [8.75, 0.0, 3.015625, 3.5]
    theirs = collate([model.tokenize(whole.slice(a, a + length)) for a in starts])

    asked = windows(times, starts, length)
    ours = tokenize_poyo(times, units, **asked, n_units=n_units, form="padded")
    np.testing.assert_array_equal(ours.mask, theirs["input_mask"])
    np.testing.assert_array_equal(ours.type, theirs["input_token_type"])
    np.testing.assert_array_equal((ours.unit + 1) * ours.mask, theirs["input_unit_index"])
    np.testing.assert_array_equal(ours.time, theirs["input_timestamps"])


# Windows


@pytest.mark.parametrize("backend", OPERATION.backends)
@pytest.mark.parametrize("rate", [30_000.0, 24_414.0625])
def test_spikes_on_edges_belong_to_the_later_window(rate: float, backend: str) -> None:
    samples = np.arange(0, 200_000, 50)
    times = samples / rate
    first = np.arange(0, 180_000, 1000)  # windows that start and end on samples with spikes
    begin, end = window_ranges(times, first / rate, 5000 / rate, rate, backend=backend)
    np.testing.assert_array_equal(begin, first // 50)
    np.testing.assert_array_equal(end, (first + 5000) // 50)


@given(
    ticks=st.lists(st.integers(-300, 300), max_size=50),
    starts=st.lists(st.integers(-400, 400), max_size=8),
    length=st.integers(1, 300),
    jitter=st.floats(-0.49, 0.49),
)
def test_times_count_as_the_nearest_tick(
    ticks: list[int], starts: list[int], length: int, jitter: float
) -> None:
    exact = np.sort(np.array(ticks, np.int64))
    times = (exact + jitter) * 1e-6
    for backend in OPERATION.backends:
        begin, end = window_ranges(times, np.array(starts) * 1e-6, length * 1e-6, backend=backend)
        for w, start in enumerate(starts):
            inside = (exact >= start) & (exact < start + length)
            np.testing.assert_array_equal(
                np.arange(exact.size)[inside], np.arange(begin[w], end[w])
            )
            assert begin[w] <= end[w]


def test_what_window_ranges_finds_can_be_tokenized() -> None:
    random = np.random.default_rng(2)
    times = np.sort(random.random(20_000) * 10)  # anywhere between ticks
    starts = random.random(500) * 9
    asked = windows(times, starts.tolist(), 1.0)
    units = np.zeros(times.size, np.int32)
    for backend in OPERATION.backends:
        tokens = tokenize_poyo(times, units, **asked, n_units=1, backend=backend)
        assert tokens.lengths.sum() == (asked["end"] - asked["begin"] + 2).sum()


# Odd and bad input


@pytest.mark.parametrize("backend", OPERATION.backends)
def test_input_of_another_layout_is_read_right(backend: str) -> None:
    times, units = recording(500, 6)
    asked = windows(times, [2.0, 4.0], 1.0)
    truth = tokenize_poyo(times, units, **asked, n_units=6, backend="reference")
    strided = np.repeat(times, 2)[::2]
    for other in (units.astype(np.uint16), units.astype(np.int64), np.repeat(units, 3)[::3]):
        found = tokenize_poyo(strided, other, **asked, n_units=6, backend=backend)
        assert_same(found, truth)


def bad(change: dict[str, Any], message: str, error: type[Exception] = ValueError) -> Any:
    return pytest.param(change, message, error, id=message)


@pytest.mark.parametrize("backend", OPERATION.backends)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("change", "message", "error"),
    [
        bad({"times": [1.0, 1.2, np.nan, 2.5]}, r"times must be finite, got times\[2\] = nan"),
        bad({"times": [1.0, 1.2, 2.5, np.inf]}, r"times must be finite, got times\[3\] = inf"),
        bad({"times": [-np.inf, 1.2, 2.3, 2.5]}, r"times must be finite, got times\[0\] = -inf"),
        bad({"times": [1.5, 1.2, 2.3, 2.5]}, r"times must be sorted, got times\[1\] = 1.2 after"),
        bad(
            {"times": [0.9, 1.2, 2.3, 2.5]}, r"in their window, .* got times\[0\] = 0.9 in window 0"
        ),
        bad(
            {"times": [1.0, 1.2, 2.3, 3.0]}, r"in their window, .* got times\[3\] = 3.0 in window 1"
        ),
        bad({"units": [0, 1, -1, 2]}, r"units must lie in 0..2, got units\[2\] = -1"),
        bad({"units": [0, 3, 1, 2]}, r"units must lie in 0..2, got units\[1\] = 3"),
        bad({"units": [0, 1, 2**40, 2]}, r"units must fit int32, got units\[2\] = 1099511627776"),
        bad({"units": [0.0, 1, 1, 2]}, "units must be integers, got float64", TypeError),
        bad({"units": [0, 1, 1]}, r"units must have shape \[4\], got \[3\]"),
        bad({"times": np.zeros(4, np.float32)}, "times must be float64, got float32", TypeError),
        bad({"times": np.zeros((2, 2))}, r"times must have shape \[n\], got \[2, 2\]"),
        bad({"begin": [0, 3]}, r"begin and end must be ranges within 0..4, got 3:2|3:4"),
        bad({"begin": [0, -1]}, r"begin and end must be ranges within 0..4, got -1:4 for window 1"),
        bad({"end": [2, 5]}, r"begin and end must be ranges within 0..4, got 2:5 for window 1"),
        bad({"end": [2]}, r"end must have shape \[2\], got \[1\]"),
        bad({"origin": [1.0, np.nan]}, r"origin must be finite, got origin\[1\] = nan"),
        bad({"length": 0.0}, "length must be a positive number, got 0.0"),
        bad({"length": np.nan}, "length must be a positive number, got nan"),
        bad({"tick_rate": -1.0}, "tick_rate must be a positive number, got -1.0"),
        bad({"n_units": -1}, "n_units must lie in 0..2147483647, got -1"),
        bad({"pad_multiple": 0}, "pad_multiple must be a positive integer, got 0"),
        bad({"threads": 0}, "threads must be a positive integer, got 0"),
        bad({"order": "random"}, "order must be one of time, unit, got 'random'"),
        bad({"form": "nested"}, "form must be one of packed, padded, got 'nested'"),
        bad({"window_units": np.ones((2, 4), bool)}, r"window_units must have shape \[2, 3\]"),
        bad({"window_units": np.ones((2, 3))}, "window_units must be bool, got float64", TypeError),
        bad({"backend": "cobol"}, r"unknown backend tokenize_poyo\[cobol\]"),
    ],
)
def test_bad_input_gets_one_clear_error(
    change: dict[str, Any], message: str, error: type[Exception], order: str, backend: str
) -> None:
    if "begin" in change and change["begin"] == [0, 3]:
        change = {**change, "end": [2, 2]}
    asked: dict[str, Any] = {
        "times": [1.0, 1.2, 2.3, 2.5], "units": [0, 1, 1, 2], "begin": [0, 2], "end": [2, 4],
        "origin": [1.0, 2.0], "length": 1.0, "n_units": 3, "order": order, "backend": backend,
    }  # fmt: skip
    asked |= change
    times, units = np.asarray(asked.pop("times")), np.asarray(asked.pop("units"))
    asked |= {name: np.asarray(asked[name]) for name in ("begin", "end", "origin")}
    with pytest.raises(error, match=message):
        tokenize_poyo(times, units, **asked)


@pytest.mark.parametrize("backend", OPERATION.backends)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("where", [1, 511, 512, 513, 1023, 1024, 1199])
def test_bad_spikes_are_found_anywhere(where: int, order: str, backend: str) -> None:
    times, units = np.arange(1200) / 1200, np.zeros(1200, np.int32)
    asked = windows(times, [0.0], 1.0) | {"n_units": 1, "order": order, "backend": backend}
    back = times.copy()
    back[where] = times[where - 1] - 1e-9
    with pytest.raises(ValueError, match=rf"times must be sorted, got times\[{where}\]"):
        tokenize_poyo(back, units, **asked)
    units[where] = 1
    with pytest.raises(ValueError, match=rf"units must lie in 0..0, got units\[{where}\] = 1"):
        tokenize_poyo(times, units, **asked)


@pytest.mark.parametrize("backend", OPERATION.backends)
def test_a_bad_unit_of_a_masked_window_is_refused(backend: str) -> None:
    with pytest.raises(ValueError, match=r"units must lie in 0..1, got units\[1\] = 9"):
        tokenize_poyo(
            np.array([0.1, 0.2]), np.array([0, 9], np.int32), begin=np.array([0]),
            end=np.array([2]), origin=np.zeros(1), length=1.0, n_units=2,
            window_units=np.array([[True, False]]), backend=backend,
        )  # fmt: skip


@pytest.mark.parametrize("backend", OPERATION.backends)
def test_the_first_bad_window_is_named_by_any_number_of_threads(backend: str) -> None:
    times = np.arange(400) / 100
    units = np.zeros(400, np.int32)
    units[[310, 120, 250]] = 5
    asked = windows(times, [0.5 * i for i in range(8)], 0.5)
    for _ in range(20):
        with pytest.raises(ValueError, match=r"got units\[120\] = 5"):
            tokenize_poyo(times, units, **asked, n_units=1, threads=4, backend=backend)


@pytest.mark.parametrize("backend", OPERATION.backends)
@pytest.mark.parametrize(
    ("change", "message", "error"),
    [
        bad({"starts": [0.0, np.inf]}, r"starts must be finite, got starts\[1\] = inf"),
        bad({"starts": np.zeros(1, np.float32)}, "starts must be float64", TypeError),
        bad({"times": np.zeros(1, np.float32)}, "times must be float64", TypeError),
        bad({"length": -1.0}, "length must be a positive number, got -1.0"),
        bad({"length": 1e-7}, r"length must be a whole number of ticks of 1/1e\+06 s, got 1e-07 s"),
        bad({"length": 0.1234567}, "length must be a whole number of ticks"),
        bad({"tick_rate": 0.0}, "tick_rate must be a positive number, got 0.0"),
    ],
)
def test_bad_windows_get_one_clear_error(
    change: dict[str, Any], message: str, error: type[Exception], backend: str
) -> None:
    asked = {"times": np.arange(3.0), "starts": [0.0], "length": 1.0, "tick_rate": 1e6} | change
    asked["starts"] = np.asarray(asked["starts"])
    with pytest.raises(error, match=message):
        window_ranges(**asked, backend=backend)


def test_every_instruction_set_gives_the_same_tokens() -> None:
    core = pytest.importorskip("attendrite._core")
    times, units = recording(4000, 40)
    asked = windows(times, [0.0, 5.0], 3.0)
    truth = tokenize_poyo(times, units, **asked, n_units=40, order="unit", backend="reference")
    in_use = core.cpu_level()
    try:
        for level in core.cpu_levels():
            core.force_level(level)
            assert_same(tokenize_poyo(times, units, **asked, n_units=40, order="unit"), truth)
    finally:
        core.force_level(in_use)

"""Merging partials of units: backends against the reference, plain merges and attention."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from attendrite.kernels.attention import attention
from attendrite.kernels.merge_partials import OPERATION, Pair, merge_kept, merge_nested
from numpy.typing import NDArray

BACKENDS = OPERATION.backends
FAST = [name for name in BACKENDS if name != "reference"]
FLOATS = [np.float32, np.float64]
Array = NDArray[Any]


def partials(n: int, n_units: int, width: int, dtype: Any = np.float32, spread: float = 3) -> Pair:
    """Partials of units, one in five without keys and NaN as its output."""
    random = np.random.default_rng(n + 31 * n_units + width)
    lse = (spread * random.standard_normal((n, n_units))).astype(dtype)
    output = random.standard_normal((n, n_units, width)).astype(dtype)
    gone = random.random(lse.shape) < 0.2
    lse[gone], output[gone] = -np.inf, np.nan
    return lse, output


def rankings(count: int, n_units: int, length: int | None = None) -> NDArray[np.int64]:
    random = np.random.default_rng(count + n_units)
    order = np.tile(np.arange(n_units), (count, 1))
    return random.permuted(order, axis=1)[:, :length]


def cuts_of(length: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(1, length, 7).astype(int))


def base_of(n: int, width: int, dtype: Any) -> Pair:
    random = np.random.default_rng(n)
    lse = random.standard_normal(n).astype(dtype)
    lse[::5] = -np.inf
    return lse, random.standard_normal((n, width)).astype(dtype)


def plain(lse: Array, output: Array, order: Array, cuts: Array, base: Pair | None) -> Pair:
    """Merge one unit after the other with numpy, in the dtype of the partials."""
    n, _, width = output.shape
    lses = np.empty((len(order), len(cuts), n), lse.dtype)
    outputs = np.empty((*lses.shape, width), lse.dtype)
    for p, ranking in enumerate(order):
        top, total = np.full(n, -np.inf, lse.dtype), np.zeros(n, lse.dtype)
        sums = np.zeros((n, width), lse.dtype)
        first = (top, sums) if base is None else base
        for i, (more, values) in enumerate([first, *((lse[:, u], output[:, u]) for u in ranking)]):
            new = np.maximum(top, more)
            shift = np.where(new == -np.inf, 0, new)
            old, weight = np.exp(top - shift), np.exp(more - shift)
            top, total = new, total * old + weight
            values = np.where(weight[:, None] == 0, 0, values)
            sums = sums * old[:, None] + weight[:, None] * values
            with np.errstate(divide="ignore"):
                lses[p, cuts == i] = top + np.log(total)
            outputs[p, cuts == i] = sums / np.where(total == 0, 1, total)[:, None]
    return lses, outputs


def as_float64(pair: Pair | None) -> Any:
    return None if pair is None else tuple(x.astype(np.float64) for x in pair)


def assert_accurate(found: Pair, rounded: Pair, truth: Pair) -> None:
    """The rule of docs/design.md, against a plain merge in the same dtype."""
    for x, plainly, exact in zip(found, rounded, truth, strict=True):
        np.testing.assert_array_equal(np.isfinite(x), np.isfinite(exact))
        finite = np.isfinite(exact)
        if finite.any():
            x, plainly, exact = x[finite], plainly[finite], exact[finite]
            floor = 1e-6 if x.dtype == np.float32 else 1e-15
            allowed = 2 * np.abs(plainly - exact).max() + floor * max(1, np.abs(exact).max())
            assert np.abs(x - exact).max() <= allowed


def check_nested(backend: str, parts: Pair, order: Array, cuts: Array, base: Pair | None) -> None:
    found = merge_nested(*parts, order, cuts, base=base, backend=backend)
    assert {x.dtype for x in found} == {parts[0].dtype}
    truth = merge_nested(
        *as_float64(parts), order, cuts, base=as_float64(base), backend="reference"
    )
    assert_accurate(found, plain(*parts, order, cuts, base), truth)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize(
    ("n", "n_units", "width", "length"),
    [(1, 1, 1, 1), (17, 7, 5, 7), (63, 100, 33, 60), (9, 1000, 64, 1000), (100, 30, 8, 1)],
)
def test_against_the_reference(
    backend: str, dtype: Any, with_base: bool, n: int, n_units: int, width: int, length: int
) -> None:
    base = base_of(n, width, dtype) if with_base else None
    order, cuts = rankings(3, n_units, length), cuts_of(length)
    if with_base:
        cuts = np.r_[0, cuts, length]  # equal cuts are the same condition twice
    check_nested(backend, partials(n, n_units, width, dtype), order, cuts, base)


@pytest.mark.parametrize("backend", BACKENDS)
class TestAccuracy:
    @pytest.mark.parametrize("spread", [0, 30, 3000])
    def test_weights_of_every_size(self, backend: str, spread: float) -> None:
        check_nested(
            backend, partials(20, 60, 12, spread=spread), rankings(4, 60), cuts_of(60), None
        )

    @pytest.mark.parametrize("far", [104, 1e4, 3e38])
    def test_the_removed_hold_all_the_weight(self, backend: str, far: float) -> None:
        lse, output = partials(8, 20, 6)
        lse[:, 10:] -= np.float32(far)
        check_nested(backend, (lse, output), np.arange(10, 20)[None], np.array([1, 5, 10]), None)
        check_nested(backend, (lse, output), np.arange(20)[None, ::-1], np.array([5, 10, 20]), None)

    def test_units_that_agree_stay_as_they_are(self, backend: str) -> None:
        lse = np.linspace(-1, 1, 2000, dtype=np.float32)[None]
        output = np.full((1, 2000, 3), 0.1, np.float32)
        check_nested(backend, (lse, output), rankings(1, 2000), cuts_of(2000), None)

    def test_every_step_up_and_down(self, backend: str) -> None:
        steps = np.arange(-100, 100, dtype=np.float32) * np.float32(np.log(2))
        lse, output = steps[None], np.random.default_rng(0).standard_normal((1, 200, 4))
        order = np.array([np.arange(200), np.arange(200)[::-1]])
        parts = lse, output.astype(np.float32)
        check_nested(backend, parts, order, np.arange(1, 201), None)


@pytest.mark.parametrize("backend", BACKENDS)
class TestInvariants:
    @pytest.mark.parametrize("with_base", [False, True])
    def test_both_forms_agree(self, backend: str, with_base: bool) -> None:
        parts, order = partials(23, 40, 9, np.float64), rankings(3, 40, 31)
        base = base_of(23, 9, np.float64) if with_base else None
        cuts = cuts_of(31)
        nested = merge_nested(*parts, order, cuts, base=base, backend=backend)
        kept = np.array([np.isin(np.arange(40), r[:k]) for r in order for k in cuts])
        alone = merge_kept(*parts, kept, base=base, backend=backend)
        for x, y in zip(nested, alone, strict=True):
            np.testing.assert_allclose(x.reshape(y.shape), y, rtol=1e-13, atol=1e-14)

    def test_a_single_unit_is_itself(self, backend: str) -> None:
        lse, output = partials(50, 4, 7)
        found = merge_kept(lse, output, np.eye(4, dtype=bool), backend=backend)
        present = np.where(lse[..., None] == -np.inf, 0, output)
        eps = np.finfo(np.float32).eps  # of the weight, whose logarithm is the first
        np.testing.assert_allclose(found[0], lse.T, rtol=eps, atol=eps)
        np.testing.assert_allclose(found[1], present.swapaxes(0, 1), rtol=eps)

    def test_what_is_not_listed_is_never_read(self, backend: str) -> None:
        lse, output = partials(12, 9, 5)
        clean = merge_nested(lse, output, rankings(2, 5), np.array([2, 5]), backend=backend)
        lse[:, 5:], output[:, 5:] = np.nan, np.nan
        kept = np.arange(9)[None] < np.array([[2], [5]])
        found = merge_nested(lse, output, rankings(2, 5), np.array([2, 5]), backend=backend)
        for x, y in zip(found, clean, strict=True):
            np.testing.assert_array_equal(x, y)
        assert not any(np.isnan(x).any() for x in merge_kept(lse, output, kept, backend=backend))

    def test_nan_shows_in_its_row_alone(self, backend: str) -> None:
        lse, output = partials(6, 4, 3)
        lse[:], output[:] = 1, 1
        lse[2, 1] = np.nan
        found = merge_nested(lse, output, np.arange(4)[None], np.array([1, 4]), backend=backend)
        for x in found:
            assert np.isnan(x[0, 1, 2]).all()
            assert not np.isnan(np.delete(x[0, 1], 2, axis=0)).any()
            assert not np.isnan(x[0, 0]).any()

    def test_nothing_is_minus_infinity_and_0(self, backend: str) -> None:
        lse, output = partials(7, 3, 4)
        lse[3], output[3] = -np.inf, np.nan  # a row whose units have no keys
        told: dict[str, Any] = {"backend": backend, "allow_empty": True}
        nested = merge_nested(lse, output, rankings(2, 3), np.array([0, 3]), **told)
        assert (nested[0][:, 0] == -np.inf).all()
        assert (nested[1][:, 0] == 0).all()
        assert (nested[0][:, 1, 3] == -np.inf).all()
        assert (nested[1][:, 1, 3] == 0).all()
        kept = merge_kept(lse, output, np.zeros((2, 3), bool), **told)
        assert (kept[0] == -np.inf).all()
        assert (kept[1] == 0).all()

    @pytest.mark.parametrize("shape", [(0, 4, 3), (5, 0, 3), (5, 4, 0), (0, 0, 0)])
    @pytest.mark.parametrize("with_base", [False, True])
    def test_nothing_to_merge(
        self, backend: str, shape: tuple[int, int, int], with_base: bool
    ) -> None:
        n, n_units, width = shape
        base = base_of(n, width, np.float32) if with_base else None
        parts = np.zeros((n, n_units), np.float32), np.zeros(shape, np.float32)
        told: dict[str, Any] = {"backend": backend, "allow_empty": True, "base": base}
        found = merge_nested(*parts, rankings(2, n_units), np.array([0]), **told)
        assert [x.shape for x in found] == [(2, 1, n), (2, 1, n, width)]
        if base is not None:
            np.testing.assert_allclose(found[0][0, 0], base[0], rtol=2e-7)
            expected = np.where(base[0][:, None] == -np.inf, 0, base[1])
            np.testing.assert_allclose(found[1][1, 0], expected, rtol=2e-7)
        none = merge_nested(*parts, rankings(0, n_units), np.array([], int), **told)
        assert [x.shape for x in none] == [(0, 0, n), (0, 0, n, width)]

    def test_any_axes_before_the_units(self, backend: str) -> None:
        lse, output = partials(24, 6, 5)
        base, order, cuts = base_of(24, 5, np.float32), rankings(2, 6), np.array([0, 2, 6])
        flat = merge_nested(lse, output, order, cuts, base=base, backend=backend)
        folded = merge_nested(
            lse.reshape(2, 3, 4, 6), output.reshape(2, 3, 4, 6, 5), order, cuts,
            base=(base[0].reshape(2, 3, 4), base[1].reshape(2, 3, 4, 5)), backend=backend,
        )  # fmt: skip
        assert [x.shape for x in folded] == [(2, 3, 2, 3, 4), (2, 3, 2, 3, 4, 5)]
        for x, y in zip(folded, flat, strict=True):
            np.testing.assert_array_equal(x.reshape(y.shape), y)
        one = merge_nested(lse[0], output[0], order, cuts, allow_empty=True, backend=backend)
        assert [x.shape for x in one] == [(2, 3), (2, 3, 5)]

    def test_out(self, backend: str) -> None:
        parts, order, cuts = partials(11, 6, 5), rankings(2, 6), np.array([2, 6])
        out = np.empty((2, 2, 11), np.float32), np.empty((2, 2, 11, 5), np.float32)
        before = [x.copy() for x in parts]
        found = merge_nested(*parts, order, cuts, out=out, backend=backend)
        assert found[0] is out[0]
        assert found[1] is out[1]
        fresh = merge_nested(*parts, order, cuts, backend=backend)
        for x, y in zip([*found, *parts], [*fresh, *before], strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kept", [[0], [1, 3], [0, 1, 2, 3, 4]])
def test_merged_partials_are_attention_over_the_kept_tokens(backend: str, kept: list[int]) -> None:
    made = torch.Generator().manual_seed(len(kept))
    q, k, v = (torch.randn(2, 3, n, 8, generator=made, dtype=torch.float64) for n in (6, 40, 40))
    units = torch.randint(0, 5, (1, 40), generator=made).expand(2, 40)
    told: dict[str, Any] = {"units": units, "n_units": 5, "backend": "reference"}
    found = attention(q, k, v, statistics=["partials"], **told).statistics
    lse, output = (found[f"partials.{name}"].numpy() for name in ("lse", "output"))
    merged = merge_nested(lse, output, np.array([kept]), np.array([len(kept)]), backend=backend)
    mine = torch.isin(units[0], torch.tensor(kept))
    alone = attention(q, k[:, :, mine], v[:, :, mine], statistics=["lse"], backend="reference")
    np.testing.assert_allclose(merged[0][0, 0], alone.statistics["lse"], atol=1e-14)
    np.testing.assert_allclose(merged[1][0, 0], alone.output, atol=1e-14)


@pytest.mark.parametrize("backend", FAST)
class TestThreads:
    @pytest.mark.parametrize("n", [1, 6, 101])
    @pytest.mark.parametrize("dtype", FLOATS)
    def test_the_same_bits_for_any_number(self, backend: str, n: int, dtype: Any) -> None:
        parts, order, cuts = partials(n, 50, 19, dtype, 30), rankings(3, 50, 45), cuts_of(45)
        one = merge_nested(*parts, order, cuts, backend=backend)
        for threads in (2, 3, 7):
            found = merge_nested(*parts, order, cuts, threads=threads, backend=backend)
            for x, y in zip(found, one, strict=True):
                assert x.tobytes() == y.tobytes()

    def test_none_are_left(self, backend: str) -> None:
        before = threading.active_count()
        merge_nested(*partials(40, 5, 3), rankings(1, 5), np.array([5]), threads=4, backend=backend)
        assert threading.active_count() == before

    def test_calls_at_once(self, backend: str) -> None:
        parts, order, cuts = partials(200, 40, 16), rankings(2, 40), cuts_of(40)
        alone = merge_nested(*parts, order, cuts, backend=backend)

        def call(threads: int) -> Pair:
            return merge_nested(*parts, order, cuts, threads=threads, backend=backend)

        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(call, [1, 2, 3] * 4):
                assert all(x.tobytes() == y.tobytes() for x, y in zip(found, alone, strict=True))

    def test_nothing_is_copied(self, backend: str) -> None:
        parts, order, cuts = partials(500, 50, 40), rankings(1, 50), np.array([50])
        out = np.empty((1, 1, 500), np.float32), np.empty((1, 1, 500, 40), np.float32)
        merge_nested(*parts, order, cuts, out=out, backend=backend)  # compiled now
        tracemalloc.start()
        merge_nested(*parts, order, cuts, out=out, threads=2, backend=backend)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < parts[0].nbytes


NUMBA = """
import os, sys
import numpy as np
from attendrite.kernels.merge_partials import OPERATION, merge_kept
OPERATION.refusals()
assert "numba" not in sys.modules, "imported before it is needed"
lse, output, kept = np.zeros((9, 2)), np.ones((9, 2, 3)), np.ones((1, 2), bool)
merge_kept(lse, output, kept, threads=2, backend="numba")
assert "numba.np.ufunc.parallel" not in sys.modules or not __import__(
    "numba.np.ufunc.parallel", fromlist=["x"])._is_initialized, "numba's own threads were started"
child = os.fork()
if child == 0:
    merge_kept(lse, output, kept, threads=2, backend="numba")
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_numba_comes_late_and_a_fork_may_merge() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", NUMBA], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "numba" else find(name)
    )
    parts, kept = partials(3, 2, 2), np.ones((1, 2), bool)
    message = (
        r"merge_partials\[numba\] needs the package numba; pip install 'attendrite\[ablation\]'"
    )
    with pytest.raises(ValueError, match=message):
        merge_kept(*parts, kept, backend="numba")
    assert OPERATION.choose() is OPERATION.load("reference")


LSE, OUTPUT = np.zeros((5, 4), np.float32), np.zeros((5, 4, 3), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lse": LSE[0, 0]}, "lse must be an array of float32, float64, got float32"),
        ({"lse": LSE[:, ::2]}, "lse must be contiguous, got strides"),
        ({"output": OUTPUT[:4]}, r"output must have shape \[5, 4, D\], got \[4, 4, 3\]"),
        ({"output": OUTPUT[0]}, r"output must have shape \[5, 4, D\], got \[4, 3\]"),
        ({"output": OUTPUT[..., ::2]}, "output must be contiguous, got strides"),
        ({"order": np.arange(4)}, r"order must have shape \[P, U'\], got \[4\]"),
        ({"order": np.array([[0, 1], [2, 4]])}, r"order must lie in 0..3, got order\[1, 1\] = 4"),
        ({"order": np.array([[0, -1]])}, r"order must lie in 0..3, got order\[0, 1\] = -1"),
        ({"order": np.array([[0, 1, 2], [3, 1, 3]])},
         r"rankings must list a unit once, got unit 3 twice in order\[1\]"),
        ({"cuts": np.array([[1]])}, r"cuts must have shape \[C\], got \[1, 1\]"),
        ({"cuts": np.array([1, 5])}, r"cuts must lie in 0..4, got cuts\[1\] = 5"),
        ({"cuts": np.array([-1, 2])}, r"cuts must lie in 0..4, got cuts\[0\] = -1"),
        ({"cuts": np.array([1, 3, 2])}, r"cuts must be ascending, got cuts\[2\] = 2 after 3; sort"),
        ({"cuts": np.array([0, 2])}, r"cuts must be >= 1, got cuts\[0\] = 0; give a base or"),
        ({"base": (LSE[:, 0].copy(), OUTPUT[:2, 0].copy())},
         r"base\[1\] must have shape \[5, 3\], got \[2, 3\]"),
        ({"base": (LSE, OUTPUT)}, r"base\[0\] must have shape \[5\], got \[5, 4\]"),
        ({"out": (np.zeros((1, 2, 5), np.float32), np.zeros((1, 2, 5, 4), np.float32))},
         r"out\[1\] must have shape \[1, 2, 5, 3\], got \[1, 2, 5, 4\]"),
        ({"out": (np.broadcast_to(np.float32(0), (1, 2, 5)), OUTPUT)},
         r"out\[0\] must be contiguous"),
        ({"threads": 0}, "threads must be a positive integer, got 0"),
        ({"backend": "fast"}, r"unknown backend merge_partials\[fast\]"),
    ],
)  # fmt: skip
def test_bad_input(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "lse": LSE, "output": OUTPUT, "order": np.arange(4)[None], "cuts": np.array([1, 4])
    } | change  # fmt: skip
    error = TypeError if isinstance(given["lse"], np.float32) else ValueError
    with pytest.raises(error, match=message):
        merge_nested(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lse": LSE.astype(np.float16)}, "lse must be an array of float32, float64, got float16"),
        ({"lse": LSE.astype(">f4")}, "lse must be an array of float32, float64, got >f4"),
        ({"lse": [[0.0]]}, "lse must be an array of float32, float64, got list"),
        ({"output": OUTPUT.astype(float)}, "output must be an array of float32, got float64"),
        ({"kept": np.ones((1, 4))}, "kept must be a bool array, got float64"),
        (
            {"base": (LSE[:, 0].astype(float), OUTPUT[:, 0])},
            r"base\[0\] must be an array of float32",
        ),
    ],
)
def test_wrong_types(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"lse": LSE, "output": OUTPUT, "kept": np.ones((1, 4), bool)} | change
    with pytest.raises(TypeError, match=message):
        merge_kept(**given)
    with pytest.raises(TypeError, match="order must be integers, got float64"):
        merge_nested(LSE, OUTPUT, np.zeros((1, 1)), np.array([1]))


def test_bad_conditions() -> None:
    with pytest.raises(ValueError, match=r"kept must have shape \[C, 4\], got \[1, 3\]"):
        merge_kept(LSE, OUTPUT, np.ones((1, 3), bool))
    kept = np.array([[True] * 4, [False] * 4])
    with pytest.raises(
        ValueError, match=r"kept must keep a unit in each .*got none in kept\[1\]; give"
    ):
        merge_kept(LSE, OUTPUT, kept)
    out = np.zeros((2, 5), np.float32), np.zeros((2, 5, 3), np.float32)
    out[1].flags.writeable = False
    with pytest.raises(
        ValueError, match=r"out\[1\] must be writeable, got read-only; pass a fresh"
    ):
        merge_kept(LSE, OUTPUT, kept, out=out, allow_empty=True)


def test_read_only_partials_are_enough() -> None:
    lse, output = partials(5, 4, 3)
    expected = merge_kept(lse, output, np.ones((1, 4), bool))
    lse.flags.writeable = output.flags.writeable = False
    found = merge_kept(lse, output, np.ones((1, 4), bool))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, y)

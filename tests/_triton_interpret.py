"""Run by test_attention_triton.py in a process of its own: the Triton kernels, interpreted.

The suite of every backend (test_attention.py) runs there too, in float32. Here is what it does not
reach: sums per unit without ``partials``, half precision, how keys are cut into tiles and splits.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attendrite.kernels.attention import STATISTICS, _configs, _launch
from torch import Tensor

_configs.MULTIPROCESSORS = 4  # fewer splits: each program costs the interpreter 20 ms

NAME = "triton_suite_of_every_backend"
SPEC = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("test_attention.py"))
assert SPEC is not None
assert SPEC.loader is not None
suite = sys.modules[NAME] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(suite)

BEYOND = ("top_k", "weights_mean", "weights_max", "partials")
IN_ONE_PASS = tuple(name for name in STATISTICS if name not in BEYOND)
UNITS = ("per_unit", "per_query_unit", "lse")
SIZES = [  # B, H, Q, K, D, Dv, U
    (2, 2, 17, 63, 16, 16, 5),
    (1, 2, 65, 30, 32, 32, 48),  # more slots in a tile than one product sums
    (1, 1, 64, 300, 64, 64, 17),
    (1, 1, 20, 70, 48, 60, 3),
    (2, 1, 3, 97, 155, 155, 4),
]


def check(inputs: dict[str, Any], statistics: tuple[str, ...], **options: Any) -> dict[str, Any]:
    found = suite.run(inputs, statistics, backend="triton", **options)
    exact, rough = suite.truth(inputs), suite.plain(inputs)
    suite.assert_accurate(found, {n: exact[n] for n in found}, rough, "triton")
    assert {n.partition(".")[0] for n in found} == {"output", *statistics}
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("statistics", [(), UNITS, IN_ONE_PASS], ids=["plain", "units", "all"])
def test_one_pass(sizes: tuple[int, ...], dtype: torch.dtype, statistics: tuple[str, ...]) -> None:
    check(suite.cast(suite.problem(sizes), dtype), statistics)


@pytest.mark.parametrize("sizes", [SIZES[0], SIZES[3], (1, 1, 5, 9, 16, 16, 15)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_partials(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    check(suite.cast(suite.problem(sizes), dtype), STATISTICS)


def test_permuting_keys_changes_nothing() -> None:
    inputs = suite.cast(suite.problem((1, 1, 17, 90, 16, 16, 6), padded=False), torch.float32)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(3))
    moved = inputs | {n: inputs[n][:, :, order] for n in "kv"}
    moved |= {n: inputs[n][:, order] for n in ("units", "key_times")}
    wanted = (*IN_ONE_PASS, "partials")
    a, b = (suite.run(x, wanted, backend="triton") for x in (inputs, moved))
    for name in ("output", "lse", "entropy", "lag", "per_unit", "partials.lse", "partials.output"):
        np.testing.assert_allclose(a[name], b[name], atol=4e-6, err_msg=name)
    np.testing.assert_allclose(a["weights"][..., order], b["weights"], atol=2e-6)


@pytest.mark.parametrize("processors", [1, 132])
def test_splits(monkeypatch: pytest.MonkeyPatch, processors: int) -> None:
    monkeypatch.setattr(_configs, "MULTIPROCESSORS", processors)
    inputs = suite.cast(suite.problem((1, 1, 40, 500, 32, 32, 9)), torch.float32)
    inputs["units"][:, 40:460] = 3  # over tiles and splits
    check(inputs, IN_ONE_PASS)


def test_splits_are_where_they_should_be() -> None:
    assert _configs.splits(1000, 50, 2) == 1
    assert _configs.splits(1, 50, 2) == 8
    assert _configs.splits(1, 3, 2) == 3
    assert _configs.splits(5, 50, 2) == 1, "half a machine is not worth a merge"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_forms_of_keys_agree(dtype: torch.dtype) -> None:
    inputs = suite.cast(suite.problem((3, 2, 17, 150, 32, 32, 5)), dtype)
    inputs["lengths"] = torch.tensor([150, 0, 37])
    inputs["query_weights"] = None
    inputs = suite.turning(inputs, 4)
    tables = {n: inputs[n][:1].nan_to_num() for n in "kv"}
    rows = torch.arange(150).expand(3, -1).clone()
    same_keys = inputs | {n: x.expand(3, -1, -1, -1) for n, x in tables.items()}
    one = suite.run(same_keys, IN_ONE_PASS, backend="triton", rotate_values=True)
    assert not any(np.isnan(x).any() for x in one.values())
    assert (one["output"][1] == 0).all()
    assert (one["lse"][1] == -np.inf).all()
    forms = {
        "packed": suite.packed(same_keys),
        "rows": inputs | tables | {"rows": rows},
        "packed rows": suite.packed(same_keys | {"rows": rows}) | tables,
    }
    for label, form in forms.items():
        other = suite.run(form, IN_ONE_PASS, backend="triton", rotate_values=True)
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, atol=2e-6, err_msg=f"{label} {name}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("pairs", [3, 16, 22])  # in the first part of a head, and beyond
def test_rotation(dtype: torch.dtype, pairs: int) -> None:
    inputs = suite.turning(suite.cast(suite.problem((2, 1, 20, 97, 48, 48, 4)), dtype), pairs)
    exact, rough = (
        suite.turned_back(x, inputs["query_phase"])
        for x in _only_output(suite.turned(inputs, True), dtype)
    )
    found = suite.run(inputs, UNITS, backend="triton", rotate_values=True)
    suite.assert_accurate(found, {n: exact[n] for n in found}, rough, "triton")


def _only_output(still: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    return suite.truth(still), suite.plain(suite.cast(still, dtype))


def test_partials_and_one_pass_agree() -> None:
    inputs = suite.cast(suite.problem((2, 1, 20, 150, 16, 16, 6)), torch.float32)
    one = suite.run(inputs, IN_ONE_PASS, backend="triton")
    other = suite.run(inputs, (*IN_ONE_PASS, "partials"), backend="triton")
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_sums_per_unit_keep_what_half_precision_loses(dtype: torch.dtype) -> None:
    inputs = suite.cast(suite.problem((1, 1, 64, 300, 32, 32, 5), padded=False), dtype)
    inputs |= {"units": inputs["units"].clamp(min=0), "query_weights": None}
    found = suite.run(inputs, UNITS, backend="triton")
    np.testing.assert_allclose(found["per_query_unit"].sum(3), 1, atol=2e-6)
    np.testing.assert_allclose(found["per_unit"].sum(2), 64, atol=1e-4)


@pytest.mark.parametrize("wanted", [IN_ONE_PASS, ("partials", "per_unit")], ids=["one", "partials"])
def test_two_runs_are_bit_identical(wanted: tuple[str, ...]) -> None:
    inputs = suite.cast(suite.problem((1, 1, 40, 100, 32, 32, 9)), torch.float16)
    a, b = (suite.run(inputs, wanted, backend="triton") for _ in range(2))
    for name, value in a.items():
        np.testing.assert_array_equal(b[name], value, err_msg=name)


@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_scales_that_are_not_positive(scale: float) -> None:
    inputs = suite.cast(suite.problem(SIZES[0], padded=False), torch.float32) | {"top_k": 0}
    wanted = ("lse", "entropy", "weights", "per_unit")
    found = suite.run(inputs, wanted, backend="triton", scale=scale)
    ours = suite.run(inputs, wanted, backend="reference", scale=scale)
    for name, value in ours.items():
        np.testing.assert_allclose(found[name], value, atol=3e-6, err_msg=name)


def test_the_lag_of_times_since_long_ago() -> None:
    inputs = suite.cast(suite.problem(SIZES[0]), torch.float32)
    for name in ("query_times", "key_times"):
        inputs[name] = inputs[name] + 1.7e9  # float64 has 2e-7 s there, float32 128 s
    check(inputs, ("lag",))


@pytest.mark.parametrize("sharpness", [1e3, 1e4])
def test_scores_far_from_zero(sharpness: float) -> None:
    # not the second pass: the interpreter's product rounds otherwise in tiles of another shape
    inputs = suite.cast(suite.problem(SIZES[2], sharpness=sharpness), torch.float32)
    check(inputs, (*UNITS, "entropy", "lag"))


def test_only_what_is_not_aligned_is_copied() -> None:
    x = torch.randn(2, 3, 5, 64)
    assert _launch.aligned(x) is x
    view = x.transpose(1, 2)[..., :32]
    assert _launch.aligned(view) is view
    assert _launch.aligned(x[:1].expand(4, -1, -1, -1)).stride(0) == 0
    for odd in (x[..., :33], x[..., 1:33], x[..., ::2], x.half()[..., 4:12]):
        copied = _launch.aligned(odd)
        assert copied.shape[3] % 4 == copied.data_ptr() % 16 == 0
        torch.testing.assert_close(copied[..., : odd.shape[3]], odd, rtol=0, atol=0)
        assert (copied[..., odd.shape[3] :] == 0).all()


def test_widths() -> None:
    wanted = {8: (16, 0), 16: (16, 0), 32: (32, 0), 48: (32, 16), 60: (64, 0), 64: (64, 0)}
    wanted |= {80: (64, 16), 155: (128, 32), 192: (128, 64), 240: (256, 0), 256: (256, 0)}
    assert {width: _configs.parts(width) for width in wanted} == wanted


def fresh(self: Tensor, *shape: Any, **options: Any) -> Tensor:
    out: Tensor = NEW_EMPTY(self, *shape, **options)
    return out.fill_(float("nan")) if out.is_floating_point() else out


NEW_EMPTY = torch.Tensor.new_empty


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what ``new_empty`` returns with NaN, so that an output nobody wrote fails."""
    monkeypatch.setattr(torch.Tensor, "new_empty", fresh)

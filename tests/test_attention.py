"""Attention with statistics: every backend against the definitions, written out as loops."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from attendrite import _core
from attendrite.kernels.attention import (
    OPERATION,
    OVER_HEADS,
    STATISTICS,
    attention,
    library,
    request,
)
from attendrite.kernels.attention._problem import HALF
from attendrite.kernels.phases import phases
from numpy.typing import NDArray
from torch import Tensor

BACKENDS = OPERATION.backends
SIZES = [  # B, H, Q, K, D, Dv, U
    (1, 1, 1, 1, 16, 16, 1),
    (2, 2, 17, 63, 16, 16, 5),
    (1, 2, 65, 30, 32, 32, 48),  # more units than keys
    (1, 1, 63, 1000, 64, 64, 17),
    (2, 1, 3, 97, 155, 48, 4),
    (1, 1, 111, 65, 60, 60, 7),
]
TOP_K = 5


def problem(
    sizes: tuple[int, ...], seed: int = 0, sharpness: float = 2.0, padded: bool = True
) -> dict[str, Any]:
    """Random inputs in float64: unsorted units, some empty, some keys of none; padding is NaN."""
    n_batch, heads, n_queries, n_keys, width, value_width, n_units = sizes
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    lengths = torch.randint(1, n_keys + 1, (n_batch,), generator=g)
    lengths[0] = n_keys
    units = torch.randint(-1, max(1, n_units - 1), (n_batch, n_keys), generator=g)  # last one empty
    k, v = normal(n_batch, heads, n_keys, width), normal(n_batch, heads, n_keys, value_width)
    if padded:
        gone = torch.arange(n_keys) >= lengths[:, None]
        k[gone[:, None].expand(-1, heads, -1)] = float("nan")
        v[gone[:, None].expand(-1, heads, -1)] = float("nan")
    return {
        "q": sharpness * normal(n_batch, heads, n_queries, width),
        "k": k,
        "v": v,
        "lengths": lengths if padded else None,
        "units": units,
        "n_units": n_units,
        "query_weights": torch.rand(n_batch, n_queries, generator=g, dtype=torch.float64),
        "query_times": normal(n_batch, n_queries),
        "key_times": normal(n_batch, n_keys),
        "top_k": TOP_K,
    }


def cast(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    floating = ("q", "k", "v", "query_weights")
    return {k: x.to(dtype) if k in floating and x is not None else x for k, x in inputs.items()}


def run(inputs: dict[str, Any], statistics: Any = STATISTICS, **options: Any) -> dict[str, Any]:
    arrays = {k: x for k, x in inputs.items() if k not in ("q", "k", "v")}
    result = attention(
        inputs["q"], inputs["k"], inputs["v"], statistics=statistics, **{**arrays, **options}
    )
    found = {"output": result.output, **result.statistics}
    return {k: x.detach().double().cpu().numpy() for k, x in found.items()}


def truth(inputs: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    """The definitions of the contract as loops over batch, head, query and unit."""
    x = {k: t.double().numpy() if isinstance(t, Tensor) else t for k, t in inputs.items()}
    n_batch, heads, n_queries, width = x["q"].shape
    n_keys, n_units, value_width = x["k"].shape[2], inputs["n_units"], x["v"].shape[3]
    rows = (n_batch, heads, n_queries)
    out = {
        "output": np.zeros((*rows, value_width)),
        "lse": np.full(rows, -np.inf),
        "weights": np.zeros((*rows, n_keys)),
        "weights_mean": np.zeros((n_batch, n_queries, n_keys)),
        "weights_max": np.zeros((n_batch, n_queries, n_keys)),
        "entropy": np.zeros(rows),
        "lag": np.zeros(rows),
        "per_query_unit": np.zeros((*rows, n_units)),
        "per_key": np.zeros((n_batch, heads, n_keys)),
        "per_unit": np.zeros((n_batch, heads, n_units)),
        "top_k.weight": np.zeros((*rows, TOP_K)),
        "top_k.key": np.full((*rows, TOP_K), -1.0),
        "partials.lse": np.full((*rows, n_units), -np.inf),
        "partials.output": np.zeros((*rows, n_units, value_width)),
    }
    for b, h, q in np.ndindex(rows):
        n = n_keys if inputs["lengths"] is None else int(inputs["lengths"][b])
        if n == 0:
            continue
        v, seg = x["v"][b, h, :n], x["units"][b, :n]
        s = x["k"][b, h, :n] @ x["q"][b, h, q] / math.sqrt(width)
        lse = s.max() + math.log(np.exp(s - s.max()).sum())
        p = np.exp(s - lse)
        weight = 1.0 if inputs["query_weights"] is None else x["query_weights"][b, q]
        out["output"][b, h, q] = p @ v
        out["lse"][b, h, q] = lse
        out["weights"][b, h, q, :n] = p
        out["weights_mean"][b, q, :n] += p / heads
        out["weights_max"][b, q, :n] = np.maximum(out["weights_max"][b, q, :n], p)
        out["entropy"][b, h, q] = lse - p @ s
        out["lag"][b, h, q] = p @ (x["query_times"][b, q] - x["key_times"][b, :n])
        out["per_key"][b, h, :n] += weight * p
        order = np.argsort(-p, kind="stable")[:TOP_K]
        out["top_k.weight"][b, h, q, : len(order)] = p[order]
        out["top_k.key"][b, h, q, : len(order)] = order
        for u in np.unique(seg[seg >= 0]).astype(int):
            mine = np.flatnonzero(seg == u)
            out["per_query_unit"][b, h, q, u] = p[mine].sum()
            out["per_unit"][b, h, u] += weight * p[mine].sum()
            part = s[mine].max() + math.log(np.exp(s[mine] - s[mine].max()).sum())
            out["partials.lse"][b, h, q, u] = part
            out["partials.output"][b, h, q, u] = np.exp(s[mine] - part) @ v[mine]
    return out


def plain(inputs: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    """What a user would write in torch, in the dtype of the inputs: the yardstick of rounding."""
    n_keys, n_units = inputs["k"].shape[2], inputs["n_units"]
    exists = torch.arange(n_keys) < inputs["lengths"][:, None, None, None]
    k, v = (torch.where(exists.mT, inputs[name], 0) for name in ("k", "v"))
    scores = inputs["q"] @ k.mT / math.sqrt(k.shape[3])
    scores = scores.masked_fill(~exists, -torch.inf)
    weights = scores.softmax(-1)
    lse = scores.logsumexp(-1)
    weighted = weights * inputs["query_weights"][:, None, :, None]
    member = torch.nn.functional.one_hot(inputs["units"] + 1, n_units + 1)[..., 1:].to(k.dtype)
    lag = inputs["query_times"][:, :, None] - inputs["key_times"][:, None]
    parts = scores[..., None].masked_fill(member[:, None, None] == 0, -torch.inf)
    part = parts.softmax(3).nan_to_num()
    out = {
        "output": weights @ v,
        "lse": lse,
        "weights": weights,
        "weights_mean": weights.mean(1),
        "weights_max": weights.amax(1),
        "entropy": -torch.special.xlogy(weights, weights).sum(-1),
        "lag": (weights * lag[:, None].to(k.dtype)).sum(-1),
        "per_key": weighted.sum(2),
        "per_query_unit": weights @ member[:, None],
        "per_unit": (weighted @ member[:, None]).sum(2),
        "top_k.weight": weights.topk(min(TOP_K, n_keys), -1).values,
        "partials.lse": parts.logsumexp(3),
        "partials.output": torch.einsum("bhqku,bhkd->bhqud", part, v),
    }
    return {name: t.double().numpy() for name, t in out.items()}


def assert_accurate(
    found: dict[str, Any], exact: dict[str, Any], rough: dict[str, Any], label: str
) -> None:
    """The rule: err <= 2 err(plain torch, same dtype and rounded inputs) + 1e-6 max(1, |ref|)."""
    assert set(found) == set(exact)
    for name, ref in exact.items():
        assert found[name].shape == ref.shape, (label, name)
        assert not np.isnan(found[name]).any(), (label, name)
        finite = np.isfinite(ref)
        np.testing.assert_array_equal(np.isfinite(found[name]), finite, err_msg=name)
        if name == "top_k.key":
            continue  # near ties may swap in low precision; exact in float64, tested apart
        error = np.abs(found[name][finite] - ref[finite]).max(initial=0)
        yardstick = rough[name]
        if name == "top_k.weight":
            yardstick = np.pad(yardstick, [(0, 0)] * 3 + [(0, TOP_K - yardstick.shape[3])])
        theirs = np.abs(yardstick[finite] - ref[finite]).max(initial=0)
        bound = 2 * theirs + 1e-6 * max(1.0, np.abs(ref[finite]).max(initial=0))
        assert error <= bound, (label, name, error, bound)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_statistic_is_accurate(
    backend: str, dtype: torch.dtype, sizes: tuple[int, ...]
) -> None:
    kind = request("cpu", dtype, sizes[4], sizes[5], STATISTICS)
    if reason := OPERATION.refusals(**kind)[backend]:
        pytest.skip(reason)
    inputs = cast(problem(sizes), dtype)
    assert_accurate(run(inputs, backend=backend), truth(inputs), plain(inputs), backend)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_reference_is_the_definition(sizes: tuple[int, ...]) -> None:
    inputs = problem(sizes, seed=1)
    found, exact = run(inputs, backend="reference"), truth(inputs)
    assert set(found) == set(exact)
    for name in exact:
        np.testing.assert_allclose(found[name], exact[name], rtol=1e-12, atol=1e-12, err_msg=name)


def exact_dtype(backend: str) -> torch.dtype:
    """The widest dtype that a backend serves on the CPU."""
    for dtype in (torch.float64, torch.float32):
        if OPERATION.refusals(**request("cpu", dtype, 16, 16, STATISTICS))[backend] is None:
            return dtype
    pytest.skip("serves no CPU")


def made(backend: str, sizes: tuple[int, ...], **options: Any) -> dict[str, Any]:
    return cast(problem(sizes, **options), exact_dtype(backend))


def assert_near(
    found: Any, expected: Any, *, atol: float, err_msg: str = "", backend: str = ""
) -> None:
    """Equal to an absolute error that float64 keeps; in float32 to 2e7 times that."""
    single = backend and exact_dtype(backend) == torch.float32
    atol = max(2e-6, 2e7 * atol) if single else atol
    np.testing.assert_allclose(
        found, expected, rtol=1e-6 if single else 1e-7, atol=atol, err_msg=err_msg
    )


@pytest.mark.parametrize("backend", BACKENDS)
class TestInvariants:
    def test_sums(self, backend: str) -> None:
        inputs = made(backend, SIZES[1], padded=False) | {"query_weights": None}
        inputs["units"] = inputs["units"].clamp(min=0)  # every key counts for a unit
        x = run(inputs, backend=backend)
        n_queries, n_keys = x["weights"].shape[2:]
        assert_near(x["weights"].sum(3), 1, atol=1e-14, backend=backend)
        assert_near(x["per_query_unit"].sum(3), 1, atol=1e-14, backend=backend)
        assert_near(x["per_key"].sum(2), n_queries, atol=1e-12, backend=backend)
        assert_near(x["per_unit"].sum(2), n_queries, atol=1e-12, backend=backend)
        assert (x["entropy"] >= 0).all()
        assert (x["entropy"] <= math.log(n_keys) + 1e-12).all()
        assert (np.diff(x["top_k.weight"], axis=3) <= 0).all()

    def test_queries_may_leave_themselves_out(self, backend: str) -> None:
        """As if each query had all keys but its own, in blocks of queries too."""
        inputs = made(backend, (2, 2, 30, 30, 8, 8, 3), padded=False)
        wanted = ["weights", "lse", "per_key", "per_unit", "entropy"]
        arguments = {n: inputs[n] for n in ("q", "k", "v", "units", "n_units")}
        kind = request("cpu", inputs["q"].dtype, 8, 8, wanted, self_excluded=True)
        if OPERATION.refusals(**kind)[backend] is not None:
            with pytest.raises(ValueError, match="attend to themselves"):
                attention(**arguments, self_key=0, backend=backend)
            return
        whole = attention(**arguments, statistics=wanted, self_key=0, backend=backend)
        assert (whole.statistics["weights"].diagonal(0, 2, 3) == 0).all()
        for i in (0, 11, 29):
            others = torch.arange(30) != i
            part = {n: inputs[n][:, :, others] for n in "kv"}
            part |= {"q": inputs["q"][:, :, i : i + 1], "units": inputs["units"][:, others]}
            alone = attention(
                **part,
                n_units=arguments["n_units"],
                statistics=["lse", "per_unit"],
                backend="reference",
            )
            assert_near(whole.output[:, :, i : i + 1], alone.output, atol=1e-13, backend=backend)
            lse = alone.statistics["lse"][:, :, 0]
            assert_near(whole.statistics["lse"][:, :, i], lse, atol=1e-13, backend=backend)
            block = {n: arguments[n] for n in ("k", "v", "units", "n_units")}
            cut = attention(inputs["q"][:, :, i:], **block, self_key=i, backend=backend)
            assert_near(cut.output, whole.output[:, :, i:], atol=1e-13, backend=backend)
        for wrong in (1, -1):
            with pytest.raises(ValueError, match=r"self_key must lie in 0\.\.0"):
                attention(**arguments, self_key=wrong, backend=backend)

    @pytest.mark.parametrize("kept", [[0], [1, 3], [0, 1, 2, 3]])
    def test_partials_rebuild_attention_over_any_units(self, backend: str, kept: list[int]) -> None:
        inputs = made(backend, SIZES[1], padded=False)
        x = run(inputs, backend=backend)
        lse = np.logaddexp.reduce(x["partials.lse"][..., kept], axis=3)
        share = np.exp(x["partials.lse"][..., kept] - lse[..., None])
        merged = (share[..., None] * x["partials.output"][..., kept, :]).sum(3)
        for b in range(2):
            mine = torch.isin(inputs["units"][b], torch.tensor(kept))
            alone = attention(
                *(inputs[n][b : b + 1, :, :] for n in "q"),
                *(inputs[n][b : b + 1][:, :, mine] for n in "kv"),
                statistics=["lse"],
                backend="reference",
            )
            assert_near(merged[b], alone.output[0], atol=1e-13, backend=backend)
            assert_near(lse[b], alone.statistics["lse"][0], atol=1e-13, backend=backend)

    def test_partials_far_below_the_others_survive(self, backend: str) -> None:
        exact_dtype(backend)
        inputs = cast(problem((1, 1, 2, 6, 16, 16, 2), padded=False), torch.float32)
        inputs["units"] = torch.tensor([[0, 0, 0, 1, 1, 1]])
        inputs["k"][:, :, 3:] = inputs["k"][:, :, 3:] * 0 - 300 * inputs["q"][:, :, :1].sign()
        assert_accurate(run(inputs, backend=backend), truth(inputs), plain_of(inputs), backend)
        x = run(inputs, backend=backend)
        assert (x["partials.lse"][0, 0, 0, 1] < x["lse"][0, 0, 0] - 200).all()

    def test_permuting_keys_changes_nothing(self, backend: str) -> None:
        inputs = made(backend, SIZES[2], padded=False)
        order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
        moved = inputs | {n: inputs[n][:, :, order] for n in "kv"}
        moved |= {n: inputs[n][:, order] for n in ("units", "key_times")}
        a, b = run(inputs, backend=backend), run(moved, backend=backend)
        for name in ("output", "lse", "entropy", "lag", "per_unit", "partials.lse"):
            assert_near(a[name], b[name], atol=1e-12, err_msg=name, backend=backend)
        assert_near(a["weights"][..., order], b["weights"], atol=1e-14, backend=backend)

    def test_relabelling_units_permutes_them(self, backend: str) -> None:
        inputs = made(backend, SIZES[1])
        names = torch.tensor([3, 0, 4, 1, 2, -1])  # the last entry serves unit -1
        a, b = (
            run(inputs, backend=backend),
            run(inputs | {"units": names[inputs["units"]]}, backend=backend),
        )
        for name in ("per_unit", "per_query_unit", "partials.lse"):
            moved = b[name][..., names[:5]]
            if exact_dtype(backend) == torch.float64:
                np.testing.assert_array_equal(a[name], moved, err_msg=name)
            else:  # keys of units in another order: their sums round otherwise
                assert_near(a[name], moved, atol=1e-13, err_msg=name, backend=backend)

    def test_splitting_queries_or_batch_changes_nothing(self, backend: str) -> None:
        inputs = made(backend, SIZES[1])
        whole = run(inputs, backend=backend)
        split = [
            run(
                inputs
                | {
                    "q": inputs["q"][:, :, cut],
                    "query_times": inputs["query_times"][:, cut],
                    "query_weights": inputs["query_weights"][:, cut],
                },
                backend=backend,
            )
            for cut in (slice(0, 5), slice(5, None))
        ]
        for name, value in whole.items():
            sums = name in ("per_key", "per_unit")
            joined = split[0][name] + split[1][name] if sums else None
            if joined is None:
                axis = 1 if name in OVER_HEADS else 2
                joined = np.concatenate([part[name] for part in split], axis=axis)
            assert_near(joined, value, atol=1e-12, err_msg=name, backend=backend)

    def test_two_runs_are_bit_identical(self, backend: str) -> None:
        exact_dtype(backend)
        inputs = cast(problem(SIZES[2]), torch.float32)
        a, b = run(inputs, backend=backend), run(inputs, backend=backend)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)

    def test_no_keys(self, backend: str) -> None:
        for sizes in ((2, 1, 3, 4, 16, 16, 2), (2, 1, 3, 0, 16, 16, 2)):
            inputs = made(backend, (*sizes[:3], max(1, sizes[3]), *sizes[4:]), padded=False)
            for name in "kv":
                inputs[name] = inputs[name][:, :, : sizes[3]] * math.nan
            for name in ("units", "key_times"):
                inputs[name] = inputs[name][:, : sizes[3]]
            inputs["lengths"] = torch.zeros(2, dtype=torch.int64)
            found, exact = run(inputs, backend=backend), truth(inputs)
            for name, value in exact.items():
                np.testing.assert_array_equal(found[name], value, err_msg=name)
            assert (run(inputs, (), backend=backend)["output"] == 0).all()

    def test_no_queries_no_windows_no_units(self, backend: str) -> None:
        for n_batch, n_queries, n_units in ((1, 0, 2), (0, 3, 2), (1, 3, 0)):
            inputs = made(backend, (1, 1, 3, 4, 16, 16, 2), padded=False)
            inputs |= {n: inputs[n][:n_batch, :, :n_queries] for n in "q"}
            inputs |= {n: inputs[n][:n_batch] for n in "kv"}
            inputs |= {n: inputs[n][:n_batch] for n in ("units", "key_times")}
            inputs |= {n: inputs[n][:n_batch, :n_queries] for n in ("query_times", "query_weights")}
            inputs |= {"n_units": n_units}
            if n_units == 0:
                inputs["units"] = inputs["units"] * 0 - 1
            found, exact = run(inputs, backend=backend), truth(inputs)
            for name, value in exact.items():
                assert_near(found[name], value, atol=1e-13, err_msg=name, backend=backend)

    def test_scores_far_from_zero(self, backend: str) -> None:
        inputs = cast(made(backend, SIZES[1], padded=False), torch.float32)
        for shift in (-1e4, 1e4):
            q = inputs["q"].clone()
            q[..., 0] = shift
            k = inputs["k"].clone()
            k[..., 0] = 4.0  # every score moves by shift
            moved = inputs | {"q": q, "k": k, "lengths": torch.full((2,), 63)}
            assert_accurate(run(moved, backend=backend), truth(moved), plain(moved), backend)

    def test_equal_scores_are_uniform_and_ties_go_to_the_lower_key(self, backend: str) -> None:
        inputs = made(backend, (1, 1, 2, 9, 16, 16, 3), padded=False)
        inputs["q"] = inputs["q"] * 0
        x = run(inputs, backend=backend)
        assert_near(x["entropy"], math.log(9), atol=1e-14, backend=backend)
        np.testing.assert_array_equal(x["top_k.key"][0, 0], [[0, 1, 2, 3, 4]] * 2)

    def test_top_k_finds_the_same_keys(self, backend: str) -> None:
        inputs = made(backend, SIZES[1])
        found, exact = run(inputs, backend=backend), truth(inputs)
        np.testing.assert_array_equal(found["top_k.key"], exact["top_k.key"])

    def test_any_strides(self, backend: str) -> None:
        inputs = made(backend, SIZES[1])
        strided = dict(inputs)
        for name in "qkv":
            strided[name] = inputs[name].transpose(1, 2).contiguous().transpose(1, 2)
        strided["q"] = inputs["q"][:1].expand(2, -1, -1, -1)
        a = run(inputs | {"q": inputs["q"][:1].repeat(2, 1, 1, 1)}, backend=backend)
        b = run(strided, backend=backend)
        for name in a:
            assert_near(a[name], b[name], atol=1e-13, err_msg=name, backend=backend)

    def test_only_what_is_asked_comes_back(self, backend: str) -> None:
        inputs = made(backend, SIZES[1])
        assert set(run(inputs, (), backend=backend)) == {"output"}
        assert set(run(inputs, ["per_unit"], backend=backend)) == {"output", "per_unit"}
        names = {"output", "top_k.weight", "top_k.key"}
        assert set(run(inputs, ["top_k"], backend=backend)) == names
        alone = run(inputs, (), backend=backend)["output"]
        assert_near(alone, truth(inputs)["output"], atol=1e-13, backend=backend)

    def test_inputs_are_not_modified(self, backend: str) -> None:
        inputs = made(backend, SIZES[1])
        before = {k: x.clone() for k, x in inputs.items() if isinstance(x, Tensor)}
        run(inputs, backend=backend)
        for name, value in before.items():
            torch.testing.assert_close(inputs[name], value, rtol=0, atol=0, equal_nan=True)


LEVELS = [level for level in _core.cpu_levels() if "native" in BACKENDS]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _core.cpu_level()
    _core.force_level(request.param)
    yield request.param
    _core.force_level(before)


NATIVE_SIZES = [
    *SIZES,
    (1, 2, 130, 300, 64, 64, 9),  # blocks of queries, the last one of two
    (2, 1, 64, 97, 8, 256, 3),
    (1, 1, 5, 111, 48, 33, 200),
    (1, 2, 40, 1001, 155, 155, 12),
    (2, 3, 150, 200, 16, 16, 5),  # batch elements of some heads and some blocks of queries
]


class TestNative:
    @pytest.mark.parametrize("sizes", NATIVE_SIZES, ids=str)
    def test_every_level_is_accurate(self, level: str, sizes: tuple[int, ...]) -> None:
        inputs = cast(problem(sizes, seed=2), torch.float32)
        exact, rough = truth(inputs), plain(inputs)
        assert_accurate(run(inputs, backend="native"), exact, rough, level)
        for dtype in (torch.bfloat16, torch.float16):
            half = cast(problem(sizes, seed=2), dtype)
            assert_accurate(run(half, backend="native"), truth(half), plain(half), level)

    @pytest.mark.parametrize("sharpness", [0.0, 1e3, 1e4])
    def test_scores_far_from_zero(self, level: str, sharpness: float) -> None:
        inputs = cast(problem(SIZES[3], sharpness=sharpness), torch.float32)
        assert_accurate(run(inputs, backend="native"), truth(inputs), plain(inputs), level)

    @pytest.mark.parametrize("name", STATISTICS)
    def test_each_statistic_alone(self, name: str) -> None:
        inputs = cast(problem(NATIVE_SIZES[6]), torch.float32)
        whole = run(inputs, backend="native")
        for found, value in run(inputs, [name], backend="native").items():
            assert_near(value, whole[found], atol=1e-13, err_msg=found, backend="native")

    @pytest.mark.parametrize("each", [95, 96, 97])
    def test_units_that_end_with_a_block_of_keys(self, each: int) -> None:
        inputs = cast(problem((1, 1, 3, 6 * each, 256, 256, 6), padded=False), torch.float32)
        inputs["units"] = torch.arange(6).repeat_interleave(each)[None]
        assert_accurate(run(inputs, backend="native"), truth(inputs), plain_of(inputs), "ends")

    @pytest.mark.parametrize(
        "sizes", [NATIVE_SIZES[6], (1, 1, 3, 20000, 16, 16, 7)], ids=["queries", "keys"]
    )
    def test_threads_change_no_bit(self, level: str, sizes: tuple[int, ...]) -> None:
        inputs = cast(problem(sizes, padded=False), torch.float32)
        one = run(inputs, backend="native", threads=1)
        for threads in (2, 5):
            many = run(inputs, backend="native", threads=threads)
            for name, value in one.items():
                np.testing.assert_array_equal(many[name], value, err_msg=f"{name} {threads}")

    def test_few_queries_split_the_keys(self) -> None:
        inputs = cast(problem((1, 1, 3, 20000, 16, 16, 7)), torch.float32)
        assert_accurate(run(inputs, backend="native"), truth(inputs), plain(inputs), "split")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"units": torch.full((2, 63), 5)}, "units must be in -1..4, got 5"),
            ({"lengths": torch.tensor([63, 64])}, "lengths must be in 0..63, got 64"),
            ({"rows": torch.full((2, 63), 63)}, "rows must be in 0..62, got 63"),
            ({"rows": torch.full((2, 63), -1)}, "rows must be in 0..62, got -1"),
        ],
    )
    def test_indices_that_do_not_exist(self, change: dict[str, Any], message: str) -> None:
        inputs = cast(problem(SIZES[1], padded=False), torch.float32) | change
        if "rows" in change:
            inputs |= {n: inputs[n][:1] for n in "kv"}
        with pytest.raises(ValueError, match=re.escape(message)):
            run(inputs, backend="native")

    def test_ranges_of_keys_that_do_not_exist(self) -> None:
        inputs = packed(cast(problem(SIZES[1]), torch.float32))
        inputs["cu_seqlens"][-1] += 1
        with pytest.raises(ValueError, match=r"cu_seqlens must rise from 0 to \d+, got"):
            run(inputs, backend="native")


# ---- other forms of the same keys ----


def packed(inputs: dict[str, Any]) -> dict[str, Any]:
    """The keys of all elements one after the other."""
    exists = torch.arange(inputs["k"].shape[2]) < inputs["lengths"][:, None]
    out = inputs | {"lengths": None}
    out["cu_seqlens"] = torch.nn.functional.pad(inputs["lengths"].cumsum(0), (1, 0))
    for name in "kv":
        out[name] = inputs[name].transpose(1, 2)[exists].transpose(0, 1)[None]
    for name in ("units", "key_times", "key_phase", "rows"):
        if inputs.get(name) is not None:
            out[name] = inputs[name][exists][None]
    return out


def from_tables(inputs: dict[str, Any], rows: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs whose keys are rows of tables, and the same written out."""
    tables = {n: inputs[n][:1].nan_to_num() for n in "kv"}
    plain_keys = {n: tables[n][0][:, rows].transpose(0, 1).contiguous() for n in "kv"}
    return inputs | tables | {"rows": rows}, inputs | plain_keys


def turning(inputs: dict[str, Any], pairs: int, seed: int = 5) -> dict[str, Any]:
    """Add phases, of padding too."""
    g = torch.Generator().manual_seed(seed)
    dtype = torch.float32 if inputs["q"].dtype in HALF else inputs["q"].dtype
    out = dict(inputs)
    for name, times in (("query_phase", "query_times"), ("key_phase", "key_times")):
        omega = torch.rand(pairs, generator=g, dtype=torch.float64) * 20
        out[name] = phases(inputs[times], omega, dtype=torch.float64).to(dtype)
    return out


def turned(inputs: dict[str, Any], values: bool) -> dict[str, Any]:
    """Rotate by complex numbers, apart from the code under test."""

    def turn(x: Tensor, phase: Tensor) -> Tensor:
        pairs = phase.shape[3]
        complex_phase = torch.complex(phase[:, None, :, 0].double(), phase[:, None, :, 1].double())
        some = x[..., : 2 * pairs].double().contiguous()
        pairs_of = torch.view_as_complex(some.unflatten(-1, (-1, 2)))
        moved = torch.view_as_real(pairs_of * complex_phase).flatten(-2)
        return torch.cat((moved, x[..., 2 * pairs :].double()), -1)

    out = {k: x for k, x in inputs.items() if k not in ("query_phase", "key_phase")}
    out["q"] = turn(inputs["q"], inputs["query_phase"])
    out["k"] = turn(inputs["k"], inputs["key_phase"])
    out["v"] = turn(inputs["v"], inputs["key_phase"]) if values else inputs["v"].double()
    return out


def turned_back(found: dict[str, Any], phase: Tensor) -> dict[str, Any]:
    angle = phase[:, None].double().numpy()  # [B, 1, Q, 2, F]
    pairs = angle.shape[-1]
    out = dict(found)
    for name in ("output", "partials.output"):
        x = found[name].copy()
        back = angle[..., 0, :] - 1j * angle[..., 1, :]
        if name != "output":
            back = back[..., None, :]
        z = (x[..., 0 : 2 * pairs : 2] + 1j * x[..., 1 : 2 * pairs : 2]) * back
        x[..., 0 : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2] = z.real, z.imag
        out[name] = x
    return out


@pytest.mark.parametrize("backend", BACKENDS)
class TestForms:
    def test_packed_keys(self, backend: str) -> None:
        for sizes in (SIZES[1], SIZES[4]):
            inputs = made(backend, sizes)
            a, b = run(inputs, backend=backend), run(packed(inputs), backend=backend)
            for name, value in a.items():
                assert_near(b[name], value, atol=1e-13, err_msg=name, backend=backend)

    def test_rows_of_tables(self, backend: str) -> None:
        inputs = made(backend, SIZES[1])
        rows = torch.randint(0, 63, (2, 63), generator=torch.Generator().manual_seed(1))
        table, plain_keys = from_tables(inputs, rows)
        a = run(plain_keys, backend=backend)
        for form in (table, packed(plain_keys), packed_rows(table)):
            for name, value in run(form, backend=backend).items():
                assert_near(a[name], value, atol=1e-13, err_msg=name, backend=backend)

    @pytest.mark.parametrize("values", [False, True])
    @pytest.mark.parametrize("sizes", [SIZES[1], SIZES[2], (2, 1, 70, 97, 155, 155, 4)], ids=str)
    def test_rotation(self, backend: str, sizes: tuple[int, ...], values: bool) -> None:
        inputs = turning(made(backend, sizes), 4)
        still = turned(inputs, values)
        exact = truth(still)
        rough = plain(cast(still, inputs["q"].dtype))
        if values:
            exact, rough = (turned_back(x, inputs["query_phase"]) for x in (exact, rough))
        found = run(inputs, backend=backend, rotate_values=values)
        assert_accurate(found, exact, rough, backend)
        a = run(packed(inputs), backend=backend, rotate_values=values)
        for name, value in found.items():
            assert_near(a[name], value, atol=1e-13, err_msg=name, backend=backend)

    def test_phases_shared_by_a_batch(self, backend: str) -> None:
        inputs = turning(made(backend, SIZES[1]), 4)
        for name in ("query_phase", "key_phase"):
            inputs[name] = inputs[name][:1]
        shared = run(inputs, backend=backend, rotate_values=True)
        for name in ("query_phase", "key_phase"):
            inputs[name] = inputs[name].repeat(2, 1, 1, 1)
        for name, value in run(inputs, backend=backend, rotate_values=True).items():
            assert_near(shared[name], value, atol=1e-13, err_msg=name, backend=backend)


def packed_rows(table: dict[str, Any]) -> dict[str, Any]:
    out = packed(table | {n: table[n].expand(2, -1, -1, -1) for n in "kv"})
    return out | {n: table[n] for n in "kv"}


def plain_of(inputs: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    return plain(inputs | {"lengths": torch.full((len(inputs["k"]),), inputs["k"].shape[2])})


def test_blocks_of_queries_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = problem(SIZES[1])
    whole = run(inputs, backend="library")
    monkeypatch.setattr(library, "BLOCK", 5 * 2 * 2 * 63)  # five queries at a time
    for name, value in run(inputs, backend="library").items():
        np.testing.assert_allclose(value, whole[name], atol=1e-12, err_msg=name)


@pytest.mark.parametrize("statistics", [(), ("entropy", "per_unit", "lse", "partials", "lag")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients(backend: str, statistics: tuple[str, ...]) -> None:
    kind = request("cpu", torch.float64, 4, 4, statistics, grad=True)
    if reason := OPERATION.refusals(**kind)[backend]:
        pytest.skip(reason)
    g = torch.Generator().manual_seed(0)
    qkv = [torch.randn(1, 2, 4, 4, generator=g, dtype=torch.float64) for _ in range(3)]
    units = torch.tensor([[0, 1, 0, 1]])
    times = torch.arange(4.0, dtype=torch.float64)[None]

    def everything(*qkv: Tensor) -> tuple[Tensor, ...]:
        result = attention(
            *qkv,
            statistics=statistics,
            units=units,
            n_units=2,
            query_times=times,
            key_times=times,
            backend=backend,
        )
        return (result.output, *result.statistics.values())

    assert torch.autograd.gradcheck(everything, [x.requires_grad_() for x in qkv])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_statistic_is_accurate_on_cuda(backend: str, dtype: torch.dtype) -> None:
    kind = request("cuda", dtype, 16, 16, STATISTICS)
    if reason := OPERATION.refusals(**kind)[backend]:
        pytest.skip(reason)
    inputs = cast(problem(SIZES[1]), dtype)
    there = {k: x.cuda() if isinstance(x, Tensor) else x for k, x in inputs.items()}
    assert_accurate(run(there, backend=backend), truth(inputs), plain(inputs), backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"statistics": ["sum"]}, "unknown statistic 'sum'; known: weights, weights_mean"),
        ({"statistics": ["per_unit"], "units": None}, "units must be given"),
        ({"statistics": ["lag"], "key_times": None}, "query_times and key_times must be given"),
        ({"top_k": 0}, "top_k must be >= 1, got 0"),
        ({"n_units": -1}, "n_units must be >= 0, got -1"),
        ({"rotate_values": True}, "query_phase and key_phase must be given both"),
        ({"threads": 0}, "threads must be >= 1, got 0"),
        (
            {"query_phase": torch.ones(2, 17, 2, 9), "key_phase": torch.ones(2, 63, 2, 9)},
            "query_phase must have shape [2 or 1, 17, 2, F <= 8], got [2, 17, 2, 9]",
        ),
        ({"cu_seqlens": torch.zeros(3, dtype=torch.int64)}, "lengths must be None"),
        ({"rows": torch.zeros(2, 4, 4)}, "rows must have shape [2, K], got [2, 4, 4]"),
        ({"lengths": torch.ones(3, dtype=torch.int64)}, "lengths must have shape [2], got [3]"),
        ({"units": torch.zeros(2, 4, dtype=torch.int64)}, "units must have shape [2, 63]"),
        ({"query_weights": torch.ones(2, 3, 4)}, "query_weights must have shape [B, Q] or"),
        ({"backend": "quick"}, "unknown backend attention[quick]; known: "),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    inputs = problem(SIZES[1])
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        run(inputs, **({"statistics": STATISTICS} | change))
    assert message in str(caught.value)


def test_bad_queries_keys_and_values() -> None:
    q, k = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 5, 4)
    with pytest.raises(ValueError, match=r"q must have shape \[B, H, N, D\], got \[3, 4\]"):
        attention(q[0, 0], k, k)
    with pytest.raises(ValueError, match=r"k must have shape \[1, 2, K, 4\], got \[1, 2, 5, 3\]"):
        attention(q, k[..., :3], k)
    with pytest.raises(ValueError, match=r"v must have shape \[1, 2, 5, Dv\], got \[1, 2, 4, 4\]"):
        attention(q, k, k[:, :, :4])
    with pytest.raises(TypeError, match=r"k must be floating and of q's dtype, got torch.float64"):
        attention(q, k.double(), k)

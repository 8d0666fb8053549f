"""Statistics of attention as outputs of a graph, defined in :mod:`attendrite.kernels.attention`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto
from torch import Tensor

from .. import errors
from ..capture import AXES, Request, Site
from ._builder import Builder, floats, ints

PADDING = -1e30  # a score below all others, yet finite: 0 times it must be 0
QUERY_AXIS, KEY_AXIS = 2, 3  # of weights, [B, H, Q, K]


@dataclass(frozen=True)
class Attended:
    """The scores of a site and whom they belong to; values of the graph.

    Attributes:
        scores: ``[B, H, Q, K]``; those of keys that do not exist are lower than any other.
        keys: Which keys exist, ``[B, K]``, bool; ``None``: all.
        queries: Which queries exist, ``[B, Q]``, bool; ``None``: all.
        units: Unit of each key, ``[B, K]``, int64.
        spikes: Which keys are spikes or frames, ``[B, K]``, bool; ``None``: all.
        n_units: Number of units, ``[1]``, int64.
        others: Which keys each query attends to, ``[Q, K]``, bool; ``None``: all.
        n_keys: Number of keys that each query attends to, for ``top_k``.
        output: What each head takes, ``[B, H, Q, D]``, for ``head_output``.
        projection: By which heads' outputs go on, ``[H, D, dim]``, likewise.
    """

    scores: str
    keys: str | None = None
    queries: str | None = None
    units: str | None = None
    spikes: str | None = None
    n_units: str | None = None
    others: str | None = None
    n_keys: int = 0
    output: str | None = None
    projection: Tensor | None = None


def refuse(plan: Mapping[str, Mapping[str, Request]], known: Sequence[str]) -> None:
    """Refuse statistics that a graph does not give.

    Raises:
        AttendriteError: With the first one.
    """
    for site, wanted in plan.items():
        for name in wanted:
            if name not in known:
                raise errors.must(
                    "a statistic of an ONNX graph", f"be one of {', '.join(known) or 'none'}",
                    f"{name!r} at {site!r}", "take executor torch",
                )  # fmt: skip


def add(
    b: Builder, site: Site, wanted: Mapping[str, Request], attended: Attended, size: int
) -> None:
    """Add the outputs ``attention/<site>/<statistic>``.

    Args:
        b: The graph.
        site: Whose.
        wanted: Statistic to request.
        attended: What is known of the site.
        size: Number of latents, or of tokens of an image.
    """
    scope, b.scope = b.scope, f"{site.name}/statistics"
    sizes: dict[str, str | int] = {"head": site.heads}
    if site.keys != "tokens":
        sizes["key"] = size
    if site.name != "decoder":
        sizes["query"] = size
    if attended.others is not None:
        scores = b("Where", attended.others, attended.scores, floats(PADDING))
        attended = replace(attended, scores=scores)
    weights = _existing(b, b("Softmax", attended.scores, axis=-1), attended)
    for name, request in wanted.items():
        if name == "top_k":
            _top(b, site, weights, attended, request.k, sizes)
            continue
        if name == "weights":
            value = weights
        elif name == "per_key":
            value = _over_queries(b, weights)
        elif name == "entropy":
            logarithms = b("LogSoftmax", attended.scores, axis=-1)
            product = b("Mul", weights, logarithms)
            value = b("Neg", b("ReduceSum", product, ints(KEY_AXIS), keepdims=0))
        elif name == "lse":
            value = _lse(b, attended)
        elif name == "head_output":
            assert attended.output is not None  # the plan was checked
            assert attended.projection is not None
            value = b("MatMul", attended.output, floats(attended.projection[None]))
            sizes["feature"] = attended.projection.shape[2]
        else:
            summed = _over_queries(b, weights) if name == "per_unit" else weights
            value = _over_keys_of_units(b, summed, attended, request)
        axes = [sizes.get(axis, axis) for axis in AXES[name]]
        b.output(f"attention/{site.name}/{name}", value, axes)
    b.scope = scope


def _existing(b: Builder, weights: str, attended: Attended) -> str:
    """Clear the weights of queries that do not exist, and of padding where there is no key."""
    for exist, axes in ((attended.keys, (1, 2)), (attended.queries, (1, 3))):
        if exist is not None:
            weights = b("Mul", weights, _as_float(b, b("Unsqueeze", exist, ints(*axes))))
    return weights


def _over_queries(b: Builder, weights: str) -> str:
    return b("ReduceSum", weights, ints(QUERY_AXIS), keepdims=0)


def _lse(b: Builder, attended: Attended) -> str:
    lse = b("ReduceLogSumExp", attended.scores, ints(KEY_AXIS), keepdims=0)
    if attended.keys is not None:
        count = b("ReduceSum", b("Cast", attended.keys, to=TensorProto.INT64), ints(1), keepdims=0)
        some = b("Unsqueeze", b("Greater", count, np.array(0)), ints(1, 2))
        lse = b("Where", some, lse, floats(-np.inf))
    if attended.queries is not None:
        lse = b("Where", b("Unsqueeze", attended.queries, ints(1)), lse, floats(0))
    return lse


def _top(
    b: Builder, site: Site, weights: str, attended: Attended, k: int, sizes: dict[str, str | int]
) -> None:
    """Add the largest weights and their keys; there may be fewer keys than asked."""
    if attended.others is not None:
        weights = b("Where", attended.others, weights, floats(-1))
    found = b.several("TopK", (True, True), weights, ints(min(k, attended.n_keys)))
    missing = ints(*[0] * 7, max(0, k - attended.n_keys))
    sizes["rank"] = k
    for name, value, nothing in zip(
        ("top_k.weight", "top_k.key"), found, (floats(0), np.array(-1)), strict=True
    ):
        axes = [sizes.get(axis, axis) for axis in AXES[name]]
        padded = b("Pad", value, missing, nothing)
        b.output(f"attention/{site.name}/{name}", padded, axes, nothing.dtype.type)


def _over_keys_of_units(b: Builder, weights: str, attended: Attended, request: Request) -> str:
    """Add up weights ``[..., K]`` by unit, ``[..., U]``."""
    assert attended.units is not None  # the plan was checked
    assert attended.n_units is not None
    between = (1,) if request.statistic == "per_unit" else (1, 2)
    if request.tokens == "spikes" and attended.spikes is not None:
        counts = _as_float(b, b("Unsqueeze", attended.spikes, ints(*between)))
        weights = b("Mul", weights, counts)
    shape = b("Shape", weights)
    units = b("Expand", b("Unsqueeze", attended.units, ints(*between)), shape)
    outer = b("Slice", shape, ints(0), ints(-1))
    zeros = b("Expand", floats(0), b("Concat", outer, attended.n_units, axis=0))
    return b("ScatterElements", zeros, units, weights, axis=-1, reduction="add")


def _as_float(b: Builder, exist: str) -> str:
    return b("Cast", exist, to=TensorProto.FLOAT)

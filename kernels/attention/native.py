"""C++: one pass over the keys for all but ``per_key`` and ``weights``; any threads, same bits.

Scores, sums and softmax are float32, whatever the dtype; see ``csrc/attention.hpp``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import _core
from . import OVER_HEADS, Attention
from ._problem import Problem

PRIORITY = 40
ELEMENTS = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
IN_ORDER = frozenset({"top_k", *OVER_HEADS})  # go through keys as they come
WIDEST = 256
HUGE = 1 << 22  # bytes from which NumPy does: a page fault for each 4 KiB takes longer than writing


def refuses(**request: Any) -> str | None:
    """Serve inference on the CPU in single and half precision."""
    if request["device"] != "cpu":
        return f"runs on the CPU, got {request['device']}"
    if request["dtype"] not in ELEMENTS:
        return f"takes float32, float16 and bfloat16, got {request['dtype']}"
    if request["grad"]:
        return "has no gradient"
    if request["self_excluded"]:
        return "lets queries attend to themselves"
    if not 1 <= request["width"] <= WIDEST or not 1 <= request["value_width"] <= WIDEST:
        return f"takes head dims 1..{WIDEST}, got {request['width']} and {request['value_width']}"
    return None


def run(problem: Problem) -> Attention:
    """See :func:`attendrite.kernels.attention.attention`."""
    in_order = problem.statistics & IN_ORDER
    if in_order and "partials" in problem.statistics:  # which go through keys by unit
        first = run(replace(problem, statistics=in_order))
        rest = run(replace(problem, statistics=problem.statistics - in_order))
        return Attention(rest.output, {**rest.statistics, **first.statistics})
    q = -problem.q if problem.scale < 0 else problem.q
    longest = problem.longest()
    found = dict(_results(problem, longest))
    output = _empty((*q.shape[:3], problem.v.shape[3]), q.dtype)
    if q.numel() == 0:
        for name, tensor in found.items():
            tensor.fill_(-1 if name == "top_k.key" else 0)
        return Attention(output, found)
    kept: list[Tensor] = []

    def address(tensor: Tensor | None, dtype: torch.dtype) -> int:
        if tensor is None:
            return 0
        kept.append(tensor.to(dtype).contiguous())
        return kept[-1].data_ptr()

    def rows(x: Tensor, shared: bool) -> tuple[int, int, int, int]:
        x = x if x.stride(3) == 1 or x.shape[3] == 1 else x.contiguous()
        kept.append(x)
        return x.data_ptr(), 0 if shared else x.stride(0), x.stride(1), x.stride(2)

    p = problem
    packed = p.cu_seqlens is not None
    shared = packed or p.rows is not None
    n_keys = p.k.shape[2] if p.rows is None else p.rows.shape[1]
    if p.cu_seqlens is not None:
        begin, count = p.cu_seqlens[:-1], p.cu_seqlens.diff()
    else:
        begin = torch.arange(len(q)) * n_keys
        count = torch.full_like(begin, n_keys) if p.lengths is None else p.lengths
    fields: dict[str, object] = {
        "element": ELEMENTS[q.dtype],
        "batch": q.shape[0],
        "heads": q.shape[1],
        "queries": q.shape[2],
        "width": q.shape[3],
        "value_width": p.v.shape[3],
        "q": rows(q, False),
        "k": rows(p.k, shared),
        "v": rows(p.v, shared),
        "n_keys": n_keys if packed else n_keys * len(q),
        "longest": longest,
        "packed": packed,
        "begin": address(begin, torch.int64),
        "count": address(count, torch.int64),
        "rows": address(p.rows, torch.int64),
        "n_rows": p.k.shape[2],
        "units": address(p.units, torch.int64),
        "n_units": p.n_units,
        "key_times": address(p.key_times, torch.float64),
        "pairs": 0 if p.key_phase is None else p.key_phase.shape[3],
        "query_phase": address(p.query_phase, torch.float32),
        "query_phase_batch": _batch_stride(p.query_phase),
        "key_phase": address(p.key_phase, torch.float32),
        "key_phase_batch": _batch_stride(p.key_phase),
        "rotate_values": p.rotate_values,
        "query_times": address(p.query_times, torch.float64),
        "query_weights": address(p.query_weights, torch.float32),
        "scale": abs(p.scale),
        "top_k": p.top_k if "top_k" in p.statistics else 0,
        "output": output.data_ptr(),
        **{name: 0 if name not in found else found[name].data_ptr() for name in RESULTS},
    }
    memory = _workspace(0)
    needed = _core.attention(fields, memory.data_ptr(), len(memory), p.threads)
    if needed > len(memory):
        memory = _workspace(needed)
        _core.attention(fields, memory.data_ptr(), len(memory), p.threads)
    return Attention(output, found)


RESULTS = (
    "lse",
    "entropy",
    "lag",
    "per_unit",
    "per_query_unit",
    "per_key",
    "weights",
    "weights_mean",
    "weights_max",
    "top_k.weight",
    "top_k.key",
    "partials.lse",
    "partials.output",
)


def _results(p: Problem, longest: int) -> Iterator[tuple[str, Tensor]]:
    """Make room for the statistics asked for."""
    rows, units = tuple(p.q.shape[:3]), p.n_units
    shapes = {
        "lse": rows,
        "entropy": rows,
        "lag": rows,
        "per_unit": (*rows[:2], units),
        "per_query_unit": (*rows, units),
        "per_key": (*rows[:2], longest),
        "weights": (*rows, longest),
        "weights_mean": (rows[0], rows[2], longest),
        "weights_max": (rows[0], rows[2], longest),
        "top_k.weight": (*rows, p.top_k),
        "top_k.key": (*rows, p.top_k),
        "partials.lse": (*rows, units),
        "partials.output": (*rows, units, p.v.shape[3]),
    }
    for name, shape in shapes.items():
        if name.partition(".")[0] in p.statistics:
            dtype = torch.int64 if name == "top_k.key" else torch.float32
            yield name, _empty(shape, dtype)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return memory that nobody wrote; large one from NumPy, which asks for huge pages."""
    if math.prod(shape) * dtype.itemsize < HUGE:
        return torch.empty(shape, dtype=dtype)
    return (
        torch.from_numpy(np.empty(math.prod(shape) * dtype.itemsize, np.uint8))
        .view(dtype)
        .view(shape)
    )


def _batch_stride(phase: Tensor | None) -> int:
    return 0 if phase is None or len(phase) == 1 else phase[0].numel()


_kept = threading.local()


def _workspace(size: int) -> Tensor:
    """Return memory that this thread keeps from call to call, at least that much."""
    memory: Tensor | None = getattr(_kept, "memory", None)
    if memory is None or len(memory) < size:
        memory = _kept.memory = torch.empty(size, dtype=torch.uint8)
    return memory

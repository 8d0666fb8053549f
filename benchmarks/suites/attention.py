"""Attention and its statistics, beside attention without and attention that keeps its weights.

Workloads: A and B are cross-attention as of POYO, C the same of a long recording, D latents, E the
patches of an image; 200 units, keys sorted by unit. Every result is held against float64 for the
last head: output, and each statistic that is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attendrite.kernels.attention import OPERATION, Attention, attention, request
from fma_peak import peak
from peers import join
from timing import Case, Contestant
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from run import Options

SHAPES = {  # B, H, Q, K, D
    "A": (1, 2, 128, 2048, 64),
    "B": (1, 8, 256, 10000, 32),
    "C": (1, 8, 512, 50000, 64),
    "D": (8, 8, 512, 512, 64),
    "E": (4, 4, 1653, 1653, 64),
}
UNITS = 200
OURS: tuple[tuple[str, ...], ...] = (
    (),
    ("lse",),
    ("lse", "per_unit"),
    ("per_query_unit",),
    ("per_key",),
    ("entropy",),
)
TOLERANCE = {"float32": 2e-5, "bfloat16": 3e-2}


def cases(options: Options) -> Iterator[Case]:
    """Yield ``attention/peak`` and one case for each workload."""
    yield peak("attention/peak", options.quick)
    for name, shape in SHAPES.items():
        if options.quick:
            shape = (*shape[:2], 16, 64, shape[4])
        work = Work(shape)
        case = Case(
            f"attention/{name}",
            4e-6 * float(np.prod(shape)),
            "flop",
            batch=shape[0],
            rounds=5 if name == "C" else 15,
            baseline="onnxruntime_mha",
        )
        builders: list[Any] = [partial(ours, work, options.thread_counts)]
        for threads in options.thread_counts:
            builders.append(partial(torch_sdpa, work, threads))
            builders.append(partial(torch_eager, work, threads))
            builders.append(partial(onnxruntime, work, threads))
            builders.append(partial(torch_flex, work, threads, case))
        yield join(case, builders)


class Work:
    """Inputs of a workload, and the truth for its last head."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        size, heads, queries, keys, width = shape
        g = torch.Generator().manual_seed(0)
        self.q, self.k, self.v = (
            torch.randn(size, heads, n, width, generator=g) for n in (queries, keys, keys)
        )
        self.units = torch.randint(0, UNITS, (keys,), generator=g).sort().values
        self.truth = self._truth()

    def _truth(self) -> dict[str, Tensor]:
        q, k, v = (x[-1, -1].double() for x in (self.q, self.k, self.v))
        parts: dict[str, list[Tensor]] = {}
        per_key, per_unit = k.new_zeros(len(k)), k.new_zeros(UNITS)
        for some in q.split(64):
            scores = some @ k.T * q.shape[1] ** -0.5
            weights = scores.softmax(-1)
            sums = weights.new_zeros(len(some), UNITS).index_add_(1, self.units, weights)
            per_key += weights.sum(0)
            per_unit += sums.sum(0)
            for name, value in {
                "output": weights @ v,
                "lse": scores.logsumexp(-1),
                "entropy": torch.special.entr(weights).sum(-1),
                "per_query_unit": sums,
            }.items():
                parts.setdefault(name, []).append(value)
        return {n: torch.cat(x) for n, x in parts.items()} | {
            "per_key": per_key,
            "per_unit": per_unit,
        }

    def error(self, unpack: Callable[[Any], dict[str, Any]]) -> Callable[[Any], float]:
        """Return the largest error, relative to the largest value where that is above 1."""

        def judge(result: Any) -> float:
            worst = 0.0
            for name, value in unpack(result).items():
                exact = self.truth[name]
                off = (torch.as_tensor(value)[-1, -1].double() - exact).abs().max()
                worst = max(worst, float(off) / max(1.0, float(exact.abs().max())))
            return worst

        return judge

    def contestant(
        self,
        name: str,
        call: Callable[[], Any],
        unpack: Callable[[Any], dict[str, Any]],
        threads: int,
        dtype: str = "float32",
        packages: tuple[str, ...] = ("torch",),
    ) -> Contestant:
        """Make a contestant that has torch's threads set before its turn."""
        return Contestant(
            name,
            call,
            self.error(unpack),
            TOLERANCE[dtype],
            dtype,
            threads,
            lambda: torch.set_num_threads(threads),
            packages,
        )


def ours(work: Work, thread_counts: tuple[int, ...]) -> list[Contestant]:
    """Every backend that runs here and is no library call, with several sets of statistics."""
    q, k, v = work.q, work.k, work.v
    units = work.units.expand(len(k), -1)
    made = []
    for backend in OPERATION.backends:
        if backend in ("reference", "library"):
            continue
        for dtype in (torch.float32, torch.bfloat16):
            kind = request("cpu", dtype, q.shape[3], v.shape[3], STATISTICS)
            if OPERATION.refusals(**kind)[backend]:
                continue
            qkv = [x.to(dtype) for x in (q, k, v)]
            for statistics in OURS if dtype == torch.float32 else OURS[2:3]:
                for threads in thread_counts:
                    call = partial(
                        attention, *qkv, statistics=statistics, units=units, n_units=UNITS,
                        backend=backend, threads=threads,
                    )  # fmt: skip
                    name = "+".join((f"attendrite:{backend}", *statistics))
                    text = str(dtype).removeprefix("torch.")
                    made.append(work.contestant(name, call, unpacked, threads, text))
    return made


STATISTICS = frozenset(name for statistics in OURS for name in statistics)


def unpacked(result: Attention) -> dict[str, Any]:
    """Name the arrays of our result."""
    return {"output": result.output, **result.statistics}


def torch_sdpa(work: Work, threads: int) -> list[Contestant]:
    """PyTorch's fused attention, output only."""
    made = []
    for dtype in (torch.float32, torch.bfloat16):
        qkv = [x.to(dtype) for x in (work.q, work.k, work.v)]
        call = partial(F.scaled_dot_product_attention, *qkv)
        text = str(dtype).removeprefix("torch.")
        made.append(work.contestant("torch_sdpa", call, lambda out: {"output": out}, threads, text))
    return made


def torch_eager(work: Work, threads: int) -> list[Contestant]:
    """Attention written out, which keeps its weights, and statistics of them."""
    q, k, v = work.q, work.k, work.v
    onehot = F.one_hot(work.units, UNITS).float()
    scale = q.shape[3] ** -0.5

    def eager(statistic: str) -> dict[str, Tensor]:
        weights = torch.softmax(q * scale @ k.mT, -1)
        out = {"output": weights @ v}
        if statistic == "per_unit":
            out[statistic] = weights.sum(2) @ onehot
        elif statistic == "per_query_unit":
            out[statistic] = weights @ onehot
        elif statistic == "per_key":
            out[statistic] = weights.sum(2)
        elif statistic == "entropy":
            out[statistic] = torch.special.entr(weights).sum(-1)
        return out

    made = [
        work.contestant(f"torch_eager+{name}", partial(eager, name), dict, threads)
        for name in ("weights", "per_unit", "per_query_unit", "per_key", "entropy")
    ]
    size, heads, _, width = q.shape
    flat = [x.transpose(1, 2).reshape(size, -1, heads * width) for x in (q, k, v)]
    module = torch.nn.MultiheadAttention(heads * width, heads, batch_first=True, bias=False).eval()
    for name, options in (
        ("torch_mha", {"need_weights": False}),
        ("torch_mha+weights", {"need_weights": True, "average_attn_weights": False}),
    ):
        # Its four projections are part of it: more work than ours, and no output to compare.
        call = partial(inference, module, *flat, **options)
        made.append(work.contestant(name, call, lambda _: {}, threads))
    return made


def inference(module: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call without a graph of gradients."""
    with torch.inference_mode():
        return module(*args, **options)


def torch_flex(work: Work, threads: int, case: Case) -> list[Contestant]:
    """FlexAttention, compiled, output only; where a compiler is at hand."""
    from torch.nn.attention.flex_attention import flex_attention

    qkv = (work.q, work.k, work.v)
    try:
        torch._dynamo.reset()
        compiled = torch.compile(flex_attention, dynamic=False)
        inference(compiled, *qkv)
    except Exception as error:
        case.skipped["torch_flex"] = f"does not run here ({type(error).__name__})"
        return []
    call = partial(inference, compiled, *qkv)
    return [work.contestant("torch_flex", call, lambda out: {"output": out}, threads)]


def onnxruntime(work: Work, threads: int) -> list[Contestant]:
    """ONNX Runtime: its fused attention, and the standard operator without and with weights."""
    import onnx
    import onnxruntime as ort

    make, floats = onnx.helper, onnx.TensorProto.FLOAT
    size, heads, queries, width = work.q.shape
    split = {name: x.numpy() for name, x in zip("qkv", (work.q, work.k, work.v), strict=True)}
    merged = {
        name: np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(size, -1, heads * width)
        for name, x in split.items()
    }

    def session(node: Any, feed: dict[str, Any], spin: bool) -> Any:
        graph = make.make_graph(
            [node],
            "attention",
            [make.make_tensor_value_info(n, floats, x.shape) for n, x in feed.items()],
            [make.make_tensor_value_info(n, floats, None) for n in node.output if n],
        )
        opsets = [make.make_opsetid("", 23), make.make_opsetid("com.microsoft", 1)]
        model = make.make_model(graph, opset_imports=opsets, ir_version=11)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        return ort.InferenceSession(model.SerializeToString(), options, providers=providers)

    def unpack(result: list[Any]) -> dict[str, Any]:
        out = result[0]
        if out.ndim == 3:
            out = out.reshape(size, queries, heads, width).transpose(0, 2, 1, 3)
        return {"output": np.ascontiguousarray(out)}

    names, fused = list("qkv"), "com.microsoft"
    nodes = {
        "onnxruntime_mha": (
            make.make_node("MultiHeadAttention", names, ["y"], domain=fused, num_heads=heads),
            merged,
        ),
        "onnxruntime_attention23": (make.make_node("Attention", names, ["y"]), split),
        "onnxruntime_attention23+weights": (
            make.make_node("Attention", names, ["y", "", "", "w"], qk_matmul_output_mode=3),
            split,
        ),
    }
    made = []
    for name, (node, feed) in nodes.items():
        for spin in (False, True)[: 1 if threads == 1 else 2]:
            call = partial(session(node, feed, spin).run, None, feed)
            title = name + "+spin" * spin
            made.append(work.contestant(title, call, unpack, threads, packages=("onnxruntime",)))
    return made

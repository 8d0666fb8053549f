"""Triton on CUDA: output and statistics in one pass, sums per key in a second one over the scores.

Products run on the tensor cores and are added in float32; those of float32 numbers as ``bf16x6``,
which is as accurate as float32 arithmetic. Softmax, sums and statistics are float32. ``top_k`` and
weights over heads write out the weights of some queries at a time. Keys are split where that fills
the machine, by sizes alone, and nothing is added atomically: results repeat bit by bit. The method
is FlashAttention-2 (Dao 2023, arXiv:2307.08691), with keys sorted by unit where sums per unit are
wanted; the kernels are in ``_triton``.

With ``TRITON_INTERPRET=1`` the same kernels run on the CPU, slowly, in float32 and float16: that is
how they are tested without a GPU.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch

from . import Attention, reference
from ._configs import widest
from ._problem import Problem

PRIORITY = 30
WIDEST = 256


def refuses(**request: Any) -> str | None:
    """Serve float32 and half precision on CUDA; no gradients."""
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton; pip install 'attendrite[triton]'"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    device = "cpu" if interpreted else "cuda"
    if request["device"] != device:
        return f"runs on {device}, got {request['device']}"
    dtypes = [torch.float32, torch.float16, torch.bfloat16]
    if interpreted:
        dtypes.pop()  # the interpreter multiplies the bits of bfloat16 as integers
    if request["dtype"] not in dtypes:
        return f"takes {', '.join(map(str, dtypes))}, got {request['dtype']}"
    width = max(request["width"], request["value_width"])
    kernel = "partials" if "partials" in request["statistics"] else "rich"
    most = WIDEST if interpreted else widest(kernel, request["dtype"].itemsize)
    if width > most:
        return f"takes heads up to {most} wide here, got {width}"
    if request["grad"]:
        return "has no gradients"
    if request["self_excluded"]:
        return "lets queries attend to themselves"
    return None


def run(problem: Problem) -> Attention:
    """See :func:`attendrite.kernels.attention.attention`."""
    p = problem
    shapes = [x.shape for x in (p.q, p.k, p.v, p.rows) if x is not None]
    if any(0 in shape for shape in shapes):
        return reference.run(p)  # nothing to launch
    from . import _launch  # needs triton

    return _launch.attend(p)

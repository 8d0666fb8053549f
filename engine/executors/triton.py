"""Whole forward passes of POYOs on CUDA: attention in Triton, everything captured as a graph."""

from __future__ import annotations

import importlib.util
import os

import torch

from .. import models
from ..models._perceiver import PerceiverModel
from ._graphs import GraphExecutor

PRIORITY = 15  # before torch, which launches the same work one by one


def refuses(family: str, device: str, dtype: str) -> str | None:
    """Serve the families with an encoder of tokens, on CUDA in single precision.

    With ``TRITON_INTERPRET=1`` it serves the CPU, slowly and without a graph: for tests.
    """
    if not issubclass(models.load(family), PerceiverModel):
        return f"captures models with an encoder of tokens, got {family}; use executor torch"
    serves = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    if device != serves:
        return f"runs on {serves}, got {device}; use executor native or torch"
    if dtype != "float32":
        return f"computes in float32, got {dtype}"
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton; pip install 'attendrite[triton]'"
    return None


def load(model: models.Family, device: torch.device, dtype: torch.dtype) -> GraphExecutor:
    """Bind the attention kernels; graphs are captured by the first runs of their shape."""
    return GraphExecutor(model, device, dtype, "triton" if device.type == "cpu" else None)

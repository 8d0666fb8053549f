"""The forward pass of an ensemble as ONNX operators; see :mod:`attendrite.models.ensemble`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..capture import Request
from ..images import STATISTICS
from ..models import ensemble, v1t
from ._builder import Builder, floats, ints
from ._images import Forward, Given
from ._v1t import V1TForward


class EnsembleForward:
    """Writes the forward passes of the members into one graph, and what combines them.

    Args:
        builder: An empty graph.
        model: On the CPU, with weights in double.
        plan: Site to statistic to request: further outputs.
    """

    statistics = V1TForward.statistics

    def __init__(
        self, builder: Builder, model: ensemble.Model, plan: Mapping[str, Mapping[str, Request]]
    ) -> None:
        self.b, self.model, self.plan = builder, model, plan

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a reader of the file can look up."""
        return {
            "input_shape": self.model.config["input_shape"],
            "patches": {name: member.tokens[1] for name, member in self.model.members.items()},
            STATISTICS: self.model.manifest.training.get(STATISTICS, {}),
        }

    def declare(self) -> None:
        """Write the inputs."""
        self.given = Given.declared(self.b, self.model, self.model.config["input_shape"])

    def write(self) -> None:
        """Write inputs, layers and outputs."""
        self.declare()
        b, drives = self.b, []
        place = self.given.place(b, self.model.manifest.sessions)
        for member in self.model.members.values():
            forward = V1TForward if isinstance(member, v1t.Model) else Forward
            drive = forward(b, member, self.plan).driven(self.given, place)
            drives.append(b("Unsqueeze", drive, ints(2)))
        b.scope = "output_module"
        drive = self._combined(b("Concat", *drives, axis=2), place)
        b.output("prediction", b("Add", b("Elu", drive), floats(1)), ["window", "unit"])

    def _combined(self, drives: str, place: str) -> str:
        """Return one drive, ``[B, U]``, for those of the members, ``[B, U, k]``."""
        b, model, linear = self.b, self.model, ensemble.LINEAR
        if model.config["mode"] == ensemble.MEAN:
            return b("ReduceMean", drives, ints(2), keepdims=0)
        shared = model.config["mode"] == ensemble.WEIGHTED
        names = [linear if shared else f"{linear}.{mouse}" for mouse in model.manifest.sessions]
        weight, bias = (
            b("Gather", floats(torch.cat([model.weights[f"{n}.{part}"] for n in names])), place)
            for part in ("weight", "bias")
        )
        return b("Add", b("MatMul", drives, weight), bias)

"""The forward pass of models of responses to images as ONNX operators.

The mathematics is that of :mod:`attendrite.models._vision` and of its families; what differs is
what is done once, at export, in double: batch normalisation is part of the convolution before it,
and the positions where neurons read are constants.

All mice are in one graph. The layers of a mouse have one shape whoever it is: they are stacked and
one is gathered. Its neurons are a slice of those of all mice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from ..capture import Request
from ..images import STATISTICS
from ..models._vision import COVARIATES, EPS, ImageFamily, ImageModel
from ._builder import Builder, Value, floats, ints

SHIFTER = (0, 2, 4)  # places of the layers of a shifter among its weights


class Given(NamedTuple):
    """What a graph is given, by the names of its values.

    Attributes:
        images: ``[B, C, H, W]``.
        covariates: Behaviour and pupil, those that are read.
        mouse: Row of the mouse, ``[1]``.
    """

    images: str
    covariates: Mapping[str, str]
    mouse: str

    @classmethod
    def declared(cls, b: Builder, model: ImageFamily, shape: Sequence[int]) -> Given:
        """Write the inputs of a graph, images of ``[C, H, W]``."""
        images = b.input("images", np.float32, ["window", *shape])
        covariates = {
            name: b.input(name, np.float32, ["window", COVARIATES[name]])
            for name in model.covariates
        }
        return cls(images, covariates, b.input("mouse", np.int64, [1]))

    def place(self, b: Builder, rows: Mapping[str, int]) -> str:
        """Return which of the mice it is: the row of each is known."""
        b.scope = "inputs"
        found = b("Cast", b("Equal", ints(*rows.values()), self.mouse), to=TensorProto.INT32)
        return b("ArgMax", found, axis=0, keepdims=0)


class Forward:
    """Writes the forward pass of a model into a graph: the stacked core, and what all cores share.

    Args:
        builder: An empty graph.
        model: On the CPU, with weights in double.
        plan: Site to statistic to request: further outputs.
    """

    statistics: tuple[str, ...] = ()

    def __init__(
        self, builder: Builder, model: ImageModel, plan: Mapping[str, Mapping[str, Request]]
    ) -> None:
        self.b, self.model, self.plan = builder, model, plan
        self.config, self.weights = model.config, model.weights
        self.mice = list(model.manifest.sessions)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a reader of the file can look up."""
        _, grid = self.model.tokens
        training = self.model.manifest.training
        return {
            "input_shape": self.config["input_shape"],
            "patches": grid,
            STATISTICS: training.get(STATISTICS, {}),
        }

    def declare(self) -> None:
        """Write the inputs."""
        self.given = Given.declared(self.b, self.model, self.config["input_shape"])

    def write(self) -> None:
        """Write inputs, layers and outputs."""
        self.declare()
        b = self.b
        drive = self.driven(self.given, self.given.place(b, self.model.manifest.sessions))
        b.output("prediction", b("Add", b("Elu", drive), floats(1)), ["window", "unit"])

    def driven(self, given: Given, place: str) -> str:
        """Return what the output's nonlinearity makes the responses of, ``[B, U]``."""
        b = self.b
        self.images, self.place = given.images, place
        self.covariates = [given.covariates[name] for name in self.model.covariates]
        self.size = b("Shape", self.images, end=1)
        images = self._seen()
        if self._channels:
            planes = b("Unsqueeze", self.covariates[0], ints(2, 3))
            planes = b("Expand", planes, ints(1, 1, *self.model.core_shape[1:]))
            images = b("Concat", images, planes, axis=1)
        features = self._core(images)
        b.scope = "readout"
        return self._readout(features)

    @property
    def _channels(self) -> bool:
        """Whether behaviours are channels of the image."""
        wide: int = self.weights["core.features.layer0.conv.weight"].shape[1]
        return wide > self.model.core_shape[0]

    def _seen(self) -> str:
        """Return what the core sees, before covariates, ``[B, C, H, W]``."""
        return self.images

    def _core(self, images: str) -> str:
        """Return the features of the images, ``[B, D, h, w]``."""
        b, i = self.b, 0
        while f"core.features.layer{i}.norm.weight" in self.weights:
            name = b.scope = f"core.features.layer{i}"
            if i:
                images = self._convolved(f"{name}.ds_conv.in_depth_conv", images)
                images = self._convolved(f"{name}.ds_conv.spatial_conv", images, padded=True)
                images = self._convolved(f"{name}.ds_conv.out_depth_conv", images, f"{name}.norm")
            else:
                images = self._convolved(f"{name}.conv", images, f"{name}.norm")
            images = images if self.config["linear"] else b("Elu", images)
            i += 1
        return images

    def _convolved(self, name: str, x: str, norm: str = "", padded: bool = False) -> str:
        """Convolve and, with ``norm``, normalise; padded are those of single channels."""
        weight = self.weights[f"{name}.weight"]
        bias = self.weights.get(f"{name}.bias", weight.new_zeros(len(weight)))
        if norm:
            gain, offset, mean, var = (
                self.weights[f"{norm}.{part}"]
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            gain = gain / (var + EPS).sqrt()
            weight, bias = weight * gain[:, None, None, None], (bias - mean) * gain + offset
        pads = [weight.shape[2] // 2 if padded else 0] * 4
        groups = len(weight) if padded else 1
        return self.b("Conv", x, floats(weight), floats(bias), pads=pads, group=groups)

    def _readout(self, features: str) -> str:
        """Read a mouse's neurons out of features ``[B, D, h, w]``."""
        b, model = self.b, self.model
        ends = np.cumsum([model.n_units(mouse) for mouse in self.mice])[:, None]
        start, stop = (
            b("Gather", x.astype(np.int64), self.place)
            for x in (ends - np.diff(ends, axis=0, prepend=0), ends)
        )

        def own(axis: int, of_mice: Sequence[Tensor]) -> str:
            return b("Slice", floats(torch.cat(list(of_mice), axis)), start, stop, ints(axis))

        where = own(1, [model.positions(mouse) for mouse in self.mice])  # [1, U, 2]
        if model.shifts:
            shift = self._tanh(f"{model.names.shifter}.mlp", SHIFTER, self.covariates[-1])
            where = b("Add", where, b("Unsqueeze", shift, ints(1)))
        else:
            where = b("Expand", where, b("Concat", self.size, ints(1, 1), axis=0))
        grid = b("Unsqueeze", where, ints(2))
        taken = b("GridSample", features, grid, align_corners=1)  # [B, D, U, 1]
        name = model.names.features
        weights = own(2, [model.readout(mouse, name).permute(0, 1, 3, 2) for mouse in self.mice])
        drive = b("ReduceSum", b("Mul", taken, weights), ints(1, 3), keepdims=0)
        return b("Add", drive, own(0, [model.readout(mouse, "bias") for mouse in self.mice]))

    def _tanh(self, name: str, layers: Sequence[int], x: str) -> str:
        """Run layers with tanh; their name has a place for the mouse, where each has its own.

        They are small, and in double: what they give moves every token, or every neuron.
        """
        b = self.b
        x = b("Cast", x, to=TensorProto.DOUBLE)
        for i in layers:
            given = (self._of_mouse(f"{name}.{i}.{part}") for part in ("weight", "bias"))
            x = b("Tanh", b("Gemm", x, *(part for part in given if part is not None), transB=1))
        return b("Cast", x, to=TensorProto.FLOAT)

    def _of_mouse(self, name: str) -> Value | None:
        """Return a weight in double, ``None`` where the file lacks it."""
        names = [name.format(mouse) for mouse in (self.mice if "{}" in name else self.mice[:1])]
        if names[0] not in self.weights:
            return None
        found = [self.weights[whose].numpy() for whose in names]
        return self.b("Gather", np.stack(found), self.place) if "{}" in name else found[0]

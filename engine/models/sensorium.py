"""The baselines of the Sensorium competition: a stacked convolutional core, linear or not.

Source: Willeke et al. 2022 (arXiv:2206.08666), as released with the competition: images of 36 x 64
pixels, behaviour as further channels, a shifter that moves the read-out with the pupil.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from torch import Tensor

from ..bundle import Manifest
from ._site import Attend, Shapes
from ._vision import (
    ImageInputs,
    ImageModel,
    Names,
    checked,
    layers_of,
    mice,
    readout_shapes,
    shifter_shapes,
    stacked_shapes,
    with_channels,
)

NEEDS: Mapping[str, Any] = {"input_shape": [1, 36, 64], "linear": False}
UNUSED = {"core._input_weights_regularizer.laplace.filter": (1, 1, 3, 3)}


class Model(ImageModel):
    """A Sensorium baseline with its weights; see :class:`attendrite.models.Family`."""

    names = Names("readout.{}", "_features", "shifter.{}")
    examples: ClassVar[Mapping[str, Any]] = {**NEEDS, "layers": 4}

    @classmethod
    def claims(cls, names: Collection[str]) -> bool:
        """Say whether weights of these names are a Sensorium baseline."""
        return "core.features.layer0.conv.weight" in names and any(
            name.startswith("readout.") and name.endswith("._features") for name in names
        )

    @classmethod
    def sizes(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Infer the configuration, all but the image and whether the core is linear."""
        return {"layers": layers_of(weights)}

    @classmethod
    def needs(cls) -> Mapping[str, Any]:
        """Name what the weights cannot tell, with examples."""
        return NEEDS

    @classmethod
    def shapes(cls, manifest: Manifest, weights: Mapping[str, Tensor]) -> Shapes:
        """Return the shape that every tensor must have."""
        channels, rows, columns = checked(manifest, cls.examples)["input_shape"]
        first = weights.get("core.features.layer0.conv.weight")
        with_behavior = first is not None and first.ndim == 4 and first.shape[1] == channels + 3
        out = stacked_shapes(weights, channels + 3 * with_behavior, (rows, columns))
        depth = out["core.features.layer0.conv.weight"][0]
        shifts = any(name.startswith("shifter.") for name in weights)
        for mouse in mice(manifest):
            bias = weights.get(f"readout.{mouse}.bias")
            units = 0 if bias is None else bias.numel()
            out |= readout_shapes(cls.names, mouse, weights, depth, units)
            if shifts:
                out |= shifter_shapes(cls.names.shifter.format(mouse), (2, 5, 5, 2))
        return out | {name: shape for name, shape in UNUSED.items() if name in weights}

    @property
    def covariates(self) -> tuple[str, ...]:
        """Name which of behaviour and pupil the model reads."""
        return (("behavior",) if self._channels else ()) + super().covariates

    @property
    def _channels(self) -> bool:
        """Whether behaviours are channels of the image."""
        wide: int = self.weights["core.features.layer0.conv.weight"].shape[1]
        return wide > int(self.config["input_shape"][0])

    def core(self, inputs: ImageInputs, attend: Attend) -> Tensor:
        """Return the features of the images, ``[B, D, h, w]``."""
        del attend
        images = inputs.images
        if self._channels:
            images = with_channels(images, inputs.behavior)
        return self.convolved(images, linear=self.config["linear"])

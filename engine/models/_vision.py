"""Layers that models of responses to images share: convolutions, Gaussian read-out, shifter.

Sources: Willeke et al. 2022 (Sensorium, arXiv:2206.08666), Lurz et al. 2021 (Gaussian read-out,
doi:10.1101/2020.10.05.326256), Li et al. 2023 (V1T, arXiv:2302.03023); as in neuralpredictors 0.3
and the code of V1T. All layers are those of evaluation: no dropout, no sampled positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .. import errors
from ..bundle import MANIFEST, REMAKE, Manifest, Task
from ..capture import Site
from ..images import BEHAVIORS, ImageBatch
from ._site import Attend, Inputs, Keys, Queries, Shapes

EPS = 1e-5  # of batch and layer normalisation
LARGEST = 1 << 14  # of any size in a configuration
HIDDEN = 30  # of the network that predicts positions from cortical positions
COVARIATES = {"behavior": BEHAVIORS, "pupil": 2}


@dataclass(frozen=True)
class ImageInputs(Inputs):
    """Tensors of a batch.

    Attributes:
        images: ``[B, C, H, W]``, dtype of the model.
        mouse: Whose neurons respond.
        behavior: ``[B, 3]``, or ``None``.
        pupil: ``[B, 2]``, or ``None``.
        cropped: Whether images are what the core sees.
        shift: Whether read-out positions move.
    """

    images: Tensor
    mouse: str
    behavior: Tensor | None
    pupil: Tensor | None
    cropped: bool
    shift: bool

    def covariates(self, count: int) -> Tensor:
        """Return the first ``count`` of behaviour and pupil, ``[B, 3]`` or ``[B, 5]``."""
        given = [x for x in (self.behavior, self.pupil) if x is not None]
        return torch.cat(given, 1)[:, :count]


@dataclass(frozen=True)
class Names:
    """What a family calls the weights of a mouse.

    Attributes:
        readout: Of the read-out, with a place for the mouse.
        features: Of the features, inside it.
        shifter: Of the network that moves its positions.
    """

    readout: str
    features: str
    shifter: str


class Stacked(Protocol):
    """Another way to run a model with a stacked core."""

    def responses(self, images: Tensor, inputs: ImageInputs) -> Tensor:
        """Return the responses, ``[B, U]``, to what the core sees, ``[B, C, H, W]``."""

    def drive(self, images: Tensor, inputs: ImageInputs) -> Tensor:
        """Return what the output's nonlinearity makes the responses of, likewise."""


class ImageFamily(ABC):
    """What answers images with responses, be it one model or several; see ``models.Family``."""

    batch = ImageBatch
    tables: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()
    manifest: Manifest
    weights: Mapping[str, Tensor]

    @property
    @abstractmethod
    def covariates(self) -> tuple[str, ...]:
        """Name which of behaviour and pupil the model reads."""

    @property
    @abstractmethod
    def core_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the image that the core sees, before covariates."""

    @classmethod
    def tasks(cls, weights: Mapping[str, Tensor], given: Mapping[str, str]) -> tuple[Task, ...]:
        """There is one read-out for each mouse and no task."""
        del weights, given
        return ()

    @abstractmethod
    def n_units(self, mouse: str) -> int:
        """Number of neurons of a mouse."""


class ImageModel(ImageFamily):
    """A core and the read-outs of mice; see :class:`attendrite.models.Family`.

    A family says what its core sees and what it makes of it.

    Attributes:
        stacked: How core and read-out are run instead; ``None``: in torch.
    """

    names: ClassVar[Names]
    examples: ClassVar[
        Mapping[str, Any]
    ]  # of what is configured: what the weights cannot tell, and the rest

    def __init__(self, manifest: Manifest, weights: Mapping[str, Tensor]) -> None:
        self.manifest, self.weights = manifest, weights
        self.config = checked(manifest, self.examples)
        first = next(iter(manifest.sessions))
        kept = self.readout(first, self.names.features)
        self.device, self.dtype = kept.device, kept.dtype
        self.stacked: Stacked | None = None
        self._positions = {mouse: self.positions(mouse) for mouse in manifest.sessions}

    @property
    def covariates(self) -> tuple[str, ...]:
        """Name which of behaviour and pupil the model reads."""
        return ("pupil",) if self.shifts else ()

    @property
    def shifts(self) -> bool:
        """Whether positions of the read-out move with the pupil."""
        first = next(iter(self.manifest.sessions))
        return f"{self.names.shifter.format(first)}.mlp.0.weight" in self.weights

    @property
    def core_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the image that the core sees, before covariates."""
        channels, rows_, columns = self.config["input_shape"]
        return int(channels), int(rows_), int(columns)

    def n_units(self, mouse: str) -> int:
        """Number of neurons of a mouse."""
        return len(self.readout(mouse, "bias"))

    def inputs(self, batch: ImageBatch) -> ImageInputs:
        """Turn a checked batch into tensors.

        Raises:
            AttendriteError: Images of another size, or behaviour or pupil that the model reads and
                the batch lacks.
        """
        batch = batch.scaled(self.manifest)
        shape = self.core_shape if batch.cropped else tuple(self.config["input_shape"])
        errors.shape("images", batch.images, ["B", *shape], "cut or resize them as in training")
        for name in self.covariates:
            if getattr(batch, name) is None and (name != "pupil" or self._reads_pupil(batch)):
                todo = f"zeros are not the mean where {name} is not centred"
                raise errors.must(name, "be given, the model reads it", "none", todo)
        n_tokens, grid = self.tokens
        size = len(batch)
        at_once = torch.zeros(1, dtype=torch.float64, device=self.device).expand(size, n_tokens)
        readout = None
        if grid is not None and n_tokens > grid[0] * grid[1]:  # a class token, the first
            readout = torch.zeros(size, 1, n_tokens, dtype=self.dtype, device=self.device)
            readout[..., 0] = 1
        return ImageInputs(
            Keys(at_once),
            Queries(at_once),
            self.tensor(batch.images),
            batch.mouse,
            None if batch.behavior is None else self.tensor(batch.behavior),
            None if batch.pupil is None else self.tensor(batch.pupil),
            batch.cropped,
            batch.shift,
            readout=readout,
            grid=grid,
        )

    def _reads_pupil(self, batch: ImageBatch) -> bool:
        """Whether a batch needs the pupil: not for the shift alone, if there is to be none."""
        return batch.shift

    @property
    def tokens(self) -> tuple[int, tuple[int, int] | None]:
        """Number of tokens of an image, and how its patches are laid out; 0 without attention."""
        return 0, None

    def forward(self, inputs: ImageInputs, attend: Attend) -> Tensor:
        """Return the responses, ``[B, U]``: a rate, 0 at least."""
        if self.stacked is not None:
            return self.stacked.responses(self.seen(inputs), inputs)
        return F.elu(self.driven(inputs, attend)) + 1

    def driven(self, inputs: ImageInputs, attend: Attend) -> Tensor:
        """Return what the output's nonlinearity makes the responses of, ``[B, U]``."""
        if self.stacked is not None:
            return self.stacked.drive(self.seen(inputs), inputs)
        return self.drive(inputs, self.core(inputs, attend))

    def seen(self, inputs: ImageInputs) -> Tensor:
        """Return what the core sees, before covariates, ``[B, C, H, W]``."""
        return inputs.images

    @abstractmethod
    def core(self, inputs: ImageInputs, attend: Attend) -> Tensor:
        """Return the features of the images, ``[B, D, h, w]``."""

    def drive(self, inputs: ImageInputs, features: Tensor, where: Tensor | None = None) -> Tensor:
        """Read the neurons out of features ``[B, D, h, w]``, before the output's nonlinearity.

        ``where`` ``[B or 1, U, 2]`` takes the place of the mouse's positions, as in training.
        """
        mouse = inputs.mouse
        where = (self._positions[mouse] if where is None else where).expand(len(features), -1, 2)
        if self.shifts and inputs.shift:
            where = where + self.shift(inputs)[:, None]
        taken = F.grid_sample(features, where[:, :, None], align_corners=True)[..., 0]  # [B, D, U]
        weights = self.readout(mouse, self.names.features).flatten(0, 2)  # [D, U]
        return torch.einsum("bdu,du->bu", taken, weights) + self.readout(mouse, "bias")

    def shift(self, inputs: ImageInputs) -> Tensor:
        """Return by how much the read-out moves, x and y, ``[B, 2]``."""
        assert inputs.pupil is not None  # asked for with the batch
        return self.tanh_layers(self.names.shifter.format(inputs.mouse), inputs.pupil)

    def positions(self, mouse: str) -> Tensor:
        """Return where each neuron reads, x and y in -1..1, ``[1, U, 2]``; the same for all images.

        They are predicted from the neurons' places in the cortex, or free.
        """
        name = f"{self.names.readout.format(mouse)}."
        if f"{name}_mu" in self.weights:
            found = self.weights[f"{name}_mu"].flatten(0, 2)
        else:
            first, second = (
                (self.weights[f"{name}mu_transform.{i}.weight"],
                 self.weights[f"{name}mu_transform.{i}.bias"])
                for i in (0, 2)
            )  # fmt: skip
            hidden = F.elu(F.linear(self.weights[f"{name}source_grid"], *first))
            found = torch.tanh(F.linear(hidden, *second))
        return found.clamp(-1, 1)[None]

    def tanh_layers(self, name: str, x: Tensor) -> Tensor:
        """Run the three layers of a shifter, each with tanh."""
        for i in (0, 2, 4):
            weight, bias = (self.weights[f"{name}.mlp.{i}.{part}"] for part in ("weight", "bias"))
            x = torch.tanh(F.linear(x, weight, bias))
        return x

    def convolved(self, x: Tensor, *, linear: bool) -> Tensor:
        """Run the stacked core on ``[B, C, H, W]``: ``[B, D, H - k + 1, W - k + 1]``.

        A convolution without padding, then depth-separable ones with; each is normalised and, but
        for a linear core, goes through ELU. Biases that the file lacks are 0.
        """
        w, i = self.weights, 0
        while f"core.features.layer{i}.norm.weight" in w:
            name = f"core.features.layer{i}"
            if i == 0:
                x = F.conv2d(x, w[f"{name}.conv.weight"], w.get(f"{name}.conv.bias"))
            else:
                for part in ("in_depth", "spatial", "out_depth"):
                    weight = w[f"{name}.ds_conv.{part}_conv.weight"]
                    bias = w.get(f"{name}.ds_conv.{part}_conv.bias")
                    groups = weight.shape[0] if part == "spatial" else 1
                    x = F.conv2d(x, weight, bias, padding=weight.shape[2] // 2, groups=groups)
            mean, var, weight, bias = (
                w[f"{name}.norm.{p}"] for p in ("running_mean", "running_var", "weight", "bias")
            )
            x = F.batch_norm(x, mean, var, weight, bias, training=False, eps=EPS)
            x = x if linear else F.elu(x)
            i += 1
        return x

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """Copy an array to the model's device and dtype."""
        kept = np.ascontiguousarray(array)
        return torch.from_numpy(kept).to(self.device, self.dtype, copy=kept is array)

    def readout(self, mouse: str, what: str) -> Tensor:
        """Return a weight of a mouse's read-out."""
        return self.weights[f"{self.names.readout.format(mouse)}.{what}"]


def checked(manifest: Manifest, examples: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a manifest, which anybody may have written.

    Args:
        manifest: Of the bundle.
        examples: A value of the right kind for each name that the family reads.

    Raises:
        AttendriteError: A value is missing, of another kind or out of range.
    """
    kinds = {bool: "true or false", int: f"an integer of 0 to {LARGEST}",
             float: "a number above 0, at most 1", str: "a name",
             list: f"three integers of 1 to {LARGEST}"}  # fmt: skip
    for name, example in examples.items():
        value: Any = manifest.config.get(name)
        sound = type(value) is type(example)
        if isinstance(example, float):
            sound = type(value) in (int, float) and 0 < value <= 1
        elif sound and isinstance(value, list):
            fits = [type(n) is int and 1 <= n <= LARGEST for n in value]
            sound = len(value) == len(example) and all(fits)
        elif sound and type(value) is int:
            sound = 0 <= value <= LARGEST
        if not sound:
            be = f"be {kinds[type(example)]}"
            raise errors.must(f"{name} of {MANIFEST}", be, repr(value), REMAKE)
    return dict(manifest.config)


def mice(manifest: Manifest) -> list[str]:
    """Return the mice of a model, at least one.

    Raises:
        AttendriteError: None.
    """
    if not manifest.sessions:
        raise errors.must("sessions of an image model", "name a mouse", "none")
    return list(manifest.sessions)


def readout_shapes(
    names: Names, mouse: str, weights: Mapping[str, Tensor], depth: int, units: int
) -> Shapes:
    """Return the shapes of a mouse's read-out; of what may be missing, if it is there."""
    name = names.readout.format(mouse)
    out: Shapes = {
        f"{name}.{names.features}": (1, depth, 1, units),
        f"{name}.sigma": (1, units, 2, 2),
        f"{name}.bias": (units,),
    }
    if f"{name}._mu" in weights:
        return out | {f"{name}._mu": (1, units, 1, 2)}
    grid = weights.get(f"{name}.source_grid")
    axes = 2 if grid is None or grid.ndim != 2 else grid.shape[1]
    return out | {
        f"{name}.source_grid": (units, axes),
        f"{name}.mu_transform.0.weight": (HIDDEN, axes),
        f"{name}.mu_transform.0.bias": (HIDDEN,),
        f"{name}.mu_transform.2.weight": (2, HIDDEN),
        f"{name}.mu_transform.2.bias": (2,),
    }


def shifter_shapes(name: str, widths: Sequence[int]) -> Shapes:
    """Return the shapes of a shifter's three layers of such widths, the input's first."""
    out: Shapes = {}
    for i, (before, after) in enumerate(pairwise(widths)):
        out[f"{name}.mlp.{2 * i}.weight"] = (after, before)
        out[f"{name}.mlp.{2 * i}.bias"] = (after,)
    return out


def stacked_shapes(weights: Mapping[str, Tensor], channels: int, size: tuple[int, int]) -> Shapes:
    """Return the shapes of a stacked core; kernels and depth are as the weights have them.

    Raises:
        AttendriteError: No such core, or images of ``size`` pixels are smaller than its kernel.
    """
    first = weights.get("core.features.layer0.conv.weight")
    if first is None or first.ndim != 4:
        raise errors.must("weights of a stacked core", "hold core.features.layer0.conv.weight",
                          "none of four axes")  # fmt: skip
    depth, _, *kernel = first.shape
    if kernel[0] > size[0] or kernel[1] > size[1]:
        raise errors.must("images", f"be at least {kernel} pixels, the first kernel", list(size))
    out: Shapes = {"core.features.layer0.conv.weight": (depth, channels, *kernel)}
    i = 0
    while f"core.features.layer{i}.norm.weight" in weights or i == 0:
        name = f"core.features.layer{i}"
        for part in ("weight", "bias", "running_mean", "running_var"):
            out[f"{name}.norm.{part}"] = (depth,)
        if i:
            spatial = weights.get(f"{name}.ds_conv.spatial_conv.weight")
            hidden = [7, 7] if spatial is None or spatial.ndim != 4 else list(spatial.shape[2:])
            kernels = {
                "in_depth": (depth, 1, 1),
                "spatial": (1, *hidden),
                "out_depth": (depth, 1, 1),
            }
            for part, rest in kernels.items():
                out[f"{name}.ds_conv.{part}_conv.weight"] = (depth, *rest)
                if f"{name}.ds_conv.{part}_conv.bias" in weights:
                    out[f"{name}.ds_conv.{part}_conv.bias"] = (depth,)
        i += 1
    return out


def with_channels(images: Tensor, behavior: Tensor | None) -> Tensor:
    """Append behaviours ``[B, 3]`` to images ``[B, C, H, W]`` as constant channels."""
    assert behavior is not None  # asked for with the batch
    planes = behavior[:, :, None, None].expand(-1, -1, *images.shape[2:])
    return torch.cat((images, planes), 1)


def layers_of(weights: Mapping[str, Tensor]) -> int:
    """Number of layers of a stacked core."""
    return sum(name.endswith(".norm.weight") for name in weights if "core.features." in name)

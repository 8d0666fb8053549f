"""V1T: a vision transformer for responses of mouse V1, and the cores it is compared with.

Source: Li, Cornacchia, Rochefort and Onken 2023, "V1T: large-scale mouse V1 response prediction
using a Vision Transformer" (arXiv:2302.03023), as in the authors' code. The head dimension is the
embedding's (Dosovitskiy et al. 2021, arXiv:2010.11929, divide it by the number of heads); patches
may overlap; behaviour is added to all tokens before each block.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import errors
from ..bundle import Manifest
from ..capture import Site
from . import _cct
from ._blocks import (
    BlockNames,
    Blocks,
    TorchBlocks,
    block,
    block_count,
    block_shapes,
    linear,
    normalised,
)
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

RESIZED = (36, 64)  # rows and columns of what the core sees, where images are resized
CROPPER = "image_cropper.image_shifter.{}"
EMBEDDING = "core.patch_embedding"
UNFOLD, CONVOLVE, SHIFTED, NORMED = range(4)  # patch modes
# Where the layers of the patch embedding are among its weights: norm, projection, norm.
PROJECTION: Mapping[int, tuple[int | None, int, int | None]] = {
    UNFOLD: (None, 2, None),
    CONVOLVE: (None, 0, None),
    SHIFTED: (3, 4, None),
    NORMED: (2, 3, 4),
}
CHANNELS, BEHAVIOR, WITH_PUPIL, BY_MOUSE = 1, 2, 3, 4  # behaviour modes
MOVES_IMAGE, MOVES_READOUT = (1, 3, 4), (2, 3, 4)  # shift modes
SHIFT_BY_BEHAVIOR = 4
SHARED = "share"
# Numbers that the files hold and nothing here reads.
SCALARS = ("core.gamma_input", "core.gamma_hidden", "elu1.one")
SCALARS_OF = (".reg_scale", ".max_shift", ".keep_prop")
MODES = {"behavior_mode": 5, "shift_mode": 5, "patch_mode": 4}
CORES = ("vit", "cct", "stacked2d")
NEEDS: Mapping[str, Any] = {
    "input_shape": [1, 144, 256],
    "center_crop": 1.0,
    "resize_image": True,
    "behavior_mode": 3,
    "shift_mode": 2,
    "patch_mode": 0,
    "patch_size": 8,
    "patch_stride": 1,
    "linear": False,
}
SIZES = {"emb_dim": 155, "num_blocks": 4, "num_heads": 4, "mlp_dim": 488, "use_lsa": False}
BLOCKS = {"vit": BlockNames("mha.to_qkv", "mlp.model", "b-mlp"), "cct": _cct.NAMES}


class Model(ImageModel):
    """V1T with its weights; see :class:`attendrite.models.Family`.

    Attributes:
        blocks: How tokens are computed by themselves.
        block_names: What the layers of a transformer's blocks are called; ``None``: it has none.
    """

    names = Names("readouts.{}", "features", "core_shifter.{}")
    examples: ClassVar[Mapping[str, Any]] = {**NEEDS, "core": "vit"}

    def __init__(self, manifest: Manifest, weights: Mapping[str, Tensor]) -> None:
        super().__init__(manifest, weights)
        self.block_names = BLOCKS.get(self.config["core"])
        if self.block_names is not None:
            self.blocks: Blocks = TorchBlocks(weights, self.block_names)
            heads, width = int(self.config["num_heads"]), int(self.config["emb_dim"])
            if self.config["core"] == "cct":
                width = _cct.head_width(self.config)
            self.sites = tuple(
                Site(f"block.{i}", heads, width, "patches", residual=True)
                for i in range(int(self.config["num_blocks"]))
            )

    @classmethod
    def claims(cls, names: Collection[str]) -> bool:
        """Say whether weights of these names are V1T's."""
        return "image_cropper.grid" in names and any(
            name.startswith("readouts.") and name.endswith(".features") for name in names
        )

    @classmethod
    def sizes(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Infer the configuration, as far as the shapes of the weights tell it."""
        if "core.features.layer0.conv.weight" in weights:
            return {"core": "stacked2d", "layers": layers_of(weights)}
        if _cct.KERNEL in weights:
            return _cct.sizes(weights)
        needed = [f"{EMBEDDING}.cls_token", f"{block(0)}.mha.to_qkv.weight",
                  f"{block(0)}.mha.scale", f"{block(0)}.mlp.model.1.weight"]  # fmt: skip
        for name in needed:
            if name not in weights:
                raise errors.must("weights of a v1t model", f"hold {name!r}", "none of that name")
        width = weights[needed[0]].shape[-1]
        return {
            "core": "vit",
            "emb_dim": width,
            "num_blocks": block_count(weights),
            "num_heads": weights[needed[1]].shape[0] // (3 * max(1, width)),
            "mlp_dim": weights[needed[3]].shape[0],
            "use_lsa": weights[needed[2]].ndim == 1,
        }

    @classmethod
    def needs(cls) -> Mapping[str, Any]:
        """Name what the weights cannot tell, with examples."""
        return NEEDS

    @classmethod
    def shapes(cls, manifest: Manifest, weights: Mapping[str, Tensor]) -> Shapes:
        """Return the shape that every tensor must have."""
        config = checked(manifest, cls.examples)
        for name, count in MODES.items():
            errors.choice(name, config[name], range(count))
        errors.choice("core", config["core"], CORES)
        out: Shapes = {"image_cropper.grid": (1, *_cropped(config), 2)}
        if config["core"] == "vit":
            depth = checked(manifest, SIZES)["emb_dim"]
            out |= _vit_shapes(manifest, weights)
        elif config["core"] == "cct":
            if config["behavior_mode"] == CHANNELS:
                raise errors.must("a cct core", "not read behaviour as channels", "behavior_mode 1")
            depth = checked(manifest, {k: v for k, v in SIZES.items() if k != "use_lsa"})["emb_dim"]
            rows, columns = _patches(config)
            networks = _networks(manifest)
            out |= _cct.shapes(config, weights, _channels(config), rows * columns, networks)
        else:
            out |= stacked_shapes(weights, _channels(config), _seen(config))
            depth = out["core.features.layer0.conv.weight"][0]
            out["core._input_weights_regularizer.laplace.filter"] = (1, 1, 3, 3)
        for mouse in mice(manifest):
            bias = weights.get(f"readouts.{mouse}.bias")
            units = 0 if bias is None else bias.numel()
            out |= readout_shapes(cls.names, mouse, weights, depth, units)
            if config["shift_mode"] in MOVES_READOUT:
                out |= shifter_shapes(cls.names.shifter.format(mouse), (2, 5, 5, 2))
            if config["shift_mode"] in MOVES_IMAGE:
                reads = 5 if config["shift_mode"] == SHIFT_BY_BEHAVIOR else 2
                out |= shifter_shapes(CROPPER.format(mouse), (reads, 10, 10, 2))
        unread = (n for n in weights if n in SCALARS or n.endswith(SCALARS_OF))
        return out | dict.fromkeys(unread, ())

    @property
    def covariates(self) -> tuple[str, ...]:
        """Name which of behaviour and pupil the model reads."""
        behavior, shift = self.config["behavior_mode"], self.config["shift_mode"]
        reads_behavior = behavior > 0 or shift == SHIFT_BY_BEHAVIOR
        reads_pupil = behavior in (WITH_PUPIL, BY_MOUSE) or shift > 0
        return (("behavior",) if reads_behavior else ()) + (("pupil",) if reads_pupil else ())

    def _reads_pupil(self, batch: Any) -> bool:
        moves_image = self.config["shift_mode"] in MOVES_IMAGE and not batch.cropped
        moves_readout = self.config["shift_mode"] in MOVES_READOUT and batch.shift
        return (
            moves_image or moves_readout or self.config["behavior_mode"] in (WITH_PUPIL, BY_MOUSE)
        )

    @property
    def core_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the image that the core sees, before covariates."""
        return int(self.config["input_shape"][0]), *_seen(self.config)

    @property
    def tokens(self) -> tuple[int, tuple[int, int] | None]:
        """Number of tokens of an image, a class token among them, and the grid of the others."""
        if self.block_names is None:
            return 0, None
        rows, columns = _patches(self.config)
        classes = 1 if self.config["core"] == "vit" else 0
        return classes + rows * columns, _grid(rows * columns)

    def core(self, inputs: ImageInputs, attend: Attend) -> Tensor:
        """Return the features of the images, ``[B, D, h, w]``."""
        images = self.seen(inputs)
        if self.config["behavior_mode"] == CHANNELS:
            images = with_channels(images, inputs.behavior)
        if self.block_names is None:
            return self.convolved(images, linear=self.config["linear"])
        x = self.embedded(images)
        for i in range(len(self.sites)):
            x = self.block(i, x, inputs, attend)
        assert inputs.grid is not None  # a transformer has one
        patches = x[:, -math.prod(inputs.grid) :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], *inputs.grid)

    def seen(self, inputs: ImageInputs) -> Tensor:
        """Return what the core sees: cropped, moved with the eye, and resized."""
        images = inputs.images
        if inputs.cropped:
            return images
        moves = self.config["shift_mode"] in MOVES_IMAGE
        if moves or self.config["center_crop"] != 1:
            images = F.grid_sample(images, self.crop_grid(inputs), "nearest", align_corners=True)
        if images.shape[2:] == self.core_shape[1:]:
            return images
        return F.interpolate(images, self.core_shape[1:], mode="bilinear", align_corners=False)

    def crop_grid(self, inputs: ImageInputs) -> Tensor:
        """Return where the crop is taken from the image, x and y in -1..1, ``[B, h, w, 2]``."""
        grid = self.weights["image_cropper.grid"].expand(len(inputs.images), -1, -1, -1)
        if self.config["shift_mode"] not in MOVES_IMAGE:
            return grid
        by = inputs.pupil
        if self.config["shift_mode"] == SHIFT_BY_BEHAVIOR:
            by = inputs.covariates(5)
        assert by is not None  # asked for with the batch
        name = CROPPER.format(inputs.mouse)
        shift = self.tanh_layers(name, by) * (1 - float(self.config["center_crop"]))
        return grid + shift[:, None, None]

    def embedded(self, images: Tensor) -> Tensor:
        """Return the tokens of images, a class token first, ``[B, N, d]``."""
        mode, size = self.config["patch_mode"], int(self.config["patch_size"])
        stride = int(self.config["patch_stride"])
        if self.config["core"] == "cct":
            return _cct.embedded(self.weights, images, stride)
        before, at, after = PROJECTION[mode]
        name = f"{EMBEDDING}.projection"
        weight, bias = self.weights[f"{name}.{at}.weight"], self.weights[f"{name}.{at}.bias"]
        if mode in (UNFOLD, CONVOLVE):  # the same products
            kernel = weight.reshape(len(weight), images.shape[1], size, size)
            x = F.conv2d(images, kernel, bias, stride=stride).flatten(2).transpose(1, 2)
        else:
            images = _shifted(images, size // 2) if mode == SHIFTED else images
            x = F.unfold(images, size, stride=stride).transpose(1, 2)
            x = F.linear(normalised(self.weights, f"{name}.{before}", x), weight, bias)
        if after is not None:
            x = normalised(self.weights, f"{name}.{after}", x)
        first = self.weights[f"{EMBEDDING}.cls_token"].expand(len(x), 1, -1)
        return torch.cat((first, x), 1) + self.weights[f"{EMBEDDING}.pos_embedding"]

    def block(self, i: int, x: Tensor, inputs: ImageInputs, attend: Attend) -> Tensor:
        """Run a block on tokens ``[B, N, d]``."""
        if self.config["behavior_mode"] in (BEHAVIOR, WITH_PUPIL, BY_MOUSE):
            x = x + self.state(block(i), inputs)[:, None]
        x = self.blocks.joined(i, x, self.attended(i, x, inputs, attend))
        return self.blocks.feed_forward(i, x)

    def state(self, name: str, inputs: ImageInputs) -> Tensor:
        """Return what behaviour, and the pupil in some modes, adds to every token, ``[B, d]``."""
        assert self.block_names is not None  # it has a block
        mode = self.config["behavior_mode"]
        whose = inputs.mouse if mode == BY_MOUSE else SHARED
        network = f"{name}.{self.block_names.behavior}.models.{whose}"
        x = inputs.covariates(_reads(mode))
        for j in (0, 3):
            x = torch.tanh(linear(self.weights, f"{network}.{j}", x))
        return x

    def attended(self, i: int, x: Tensor, inputs: ImageInputs, attend: Attend) -> Tensor:
        """Return what tokens take from each other by head, ``[B, H, N, D]``."""
        width, name = self.sites[i].width, f"{block(i)}.mha"
        weight = self.weights[f"{name}.projection.0.weight"]
        qkv = self.blocks.qkv(i, x)
        q, k, v = qkv.view(*qkv.shape[:2], 3, -1, width).permute(2, 0, 3, 1, 4)
        own = self.weights[f"{name}.scale"].view(-1, 1, 1)  # of the scores; by head where learned
        if not torch.allclose(own, own.new_tensor(width**-0.5), rtol=1e-6, atol=0):
            q = q * (own * width**0.5)
        keys = inputs.keys
        if self.config.get("use_lsa"):
            keys = replace(keys, self_excluded=True)

        def project(out: Tensor) -> Tensor:
            return torch.einsum("bhqd,ohd->bhqo", out, weight.view(len(weight), -1, width))

        return attend(
            self.sites[i].name, q, k, v,
            keys=keys, queries=inputs.queries, rotate_values=False, project=project,
        )  # fmt: skip


def _cropped(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of the crop."""
    _, height, width = config["input_shape"]
    crop = float(config["center_crop"])
    return int(height * crop), int(width * crop)


def _seen(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of what the core sees."""
    return RESIZED if config["resize_image"] else _cropped(config)


def _channels(config: Mapping[str, Any]) -> int:
    """Channels of what the core sees."""
    return int(config["input_shape"][0]) + (3 if config["behavior_mode"] == CHANNELS else 0)


def _reads(behavior_mode: int) -> int:
    """How many numbers of behaviour and pupil the blocks read."""
    return 3 if behavior_mode == BEHAVIOR else 5


def _patches(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of patches."""
    size, stride = int(config["patch_size"]), int(config["patch_stride"])
    if config["core"] == "cct":
        return _cct.patches(size, stride, _seen(config))
    rows, columns = ((n - size) // max(1, stride) + 1 for n in _seen(config))
    if min(rows, columns, size, stride) < 1:
        got = f"{size} with a stride of {stride}"
        raise errors.must("patches", f"fit into {list(_seen(config))} pixels", got)
    return rows, columns


def _grid(patches: int) -> tuple[int, int]:
    """Return rows and columns in which V1T's code lays patches out.

    Rows are the largest divisor of their number up to its square root, rounded up: for a stride of
    4 that is 10 x 12, where the patches were cut as 8 x 15. The read-outs were trained on it.
    """
    most = math.ceil(math.sqrt(patches))
    rows = next(n for n in range(most, 0, -1) if patches % n == 0)
    return rows, patches // rows


def _shifted(images: Tensor, by: int) -> Tensor:
    """Append the images moved along the four diagonals (Lee et al. 2021, arXiv:2112.13492)."""
    moves = [(x, y) for y in (by, -by) for x in (by, -by)]  # right and down first
    moved = [F.pad(images, (x, -x, y, -y)) for x, y in moves]
    return torch.cat((images, *moved), 1)


def _networks(manifest: Manifest) -> dict[str, int]:
    """Return how many numbers each network reads that adds behaviour to the tokens of a block."""
    mode = manifest.config["behavior_mode"]
    if mode not in (BEHAVIOR, WITH_PUPIL, BY_MOUSE):
        return {}
    return dict.fromkeys(manifest.sessions if mode == BY_MOUSE else (SHARED,), _reads(mode))


def _vit_shapes(manifest: Manifest, weights: Mapping[str, Tensor]) -> Shapes:
    config = manifest.config
    width, heads = int(config["emb_dim"]), int(config["num_heads"])
    rows, columns = _patches(config)
    mode, size, channels = config["patch_mode"], int(config["patch_size"]), _channels(config)
    if mode == SHIFTED and channels != 1:
        raise errors.must("images that patch_mode 2 shifts", "have one channel", channels)
    n_tokens = 1 + rows * columns
    area = size * size * (channels + (4 if mode == SHIFTED else 0))
    before, at, after = PROJECTION[mode]
    name = f"{EMBEDDING}.projection"
    out: Shapes = {
        f"{EMBEDDING}.cls_token": (1, 1, width),
        f"{EMBEDDING}.pos_embedding": (n_tokens, width),
        f"{name}.{at}.weight": (width, channels, size, size) if mode == CONVOLVE else (width, area),
        f"{name}.{at}.bias": (width,),
    }
    for place, features in ((before, area), (after, width)):
        if place is not None:
            out |= {f"{name}.{place}.{part}": (features,) for part in ("weight", "bias")}
    biases = f"{block(0)}.mha.projection.0.bias" in weights  # all of them or none
    for i in range(int(config["num_blocks"])):
        networks = _networks(manifest)
        out |= block_shapes(i, config, BLOCKS["vit"], heads * width, networks, biases=biases)
        out[f"{block(i)}.mha.scale"] = (heads,) if config["use_lsa"] else ()
        if config["use_lsa"]:
            out[f"{block(i)}.mha.max_value"] = ()
    return out

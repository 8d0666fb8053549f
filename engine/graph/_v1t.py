"""The forward pass of V1T as ONNX operators; see :mod:`attendrite.models.v1t`.

Bilinear resizing is a product with constants on either side: ``Resize`` computes its weights in
float32, less exactly. Residual streams are ``[B N, dim]``, so that a linear layer is one ``Gemm``.
The scale of the scores is part of the projection to queries.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from ..models import _cct, v1t
from ..models._blocks import BlockNames, block
from ..models._vision import EPS
from . import _statistics
from ._builder import floats, ints
from ._images import SHIFTER, Forward
from ._statistics import Attended

STATE = (0, 3)  # places of the layers of behaviour among their weights
LAST = np.iinfo(np.int64).max  # end of a slice


class V1TForward(Forward):
    """Writes the forward pass of a V1T into a graph, whatever its core."""

    statistics = ("weights", "per_key", "entropy", "lse", "top_k", "head_output")

    @property
    def names(self) -> BlockNames:
        """What the layers of a block are called."""
        return v1t.BLOCKS[self.config["core"]]

    @property
    def _channels(self) -> bool:
        return bool(self.config["behavior_mode"] == v1t.CHANNELS)

    def _seen(self) -> str:
        """Return what the core sees: cropped, moved with the eye, and resized."""
        b, config = self.b, self.config
        images, shape = self.images, tuple(config["input_shape"][1:])
        moves, crop = config["shift_mode"] in v1t.MOVES_IMAGE, float(config["center_crop"])
        if moves or crop != 1:
            at_rest = self.weights["image_cropper.grid"]  # [1, h, w, 2]
            shape = tuple(at_rest.shape[1:3])
            if moves:
                by_all = config["shift_mode"] == v1t.SHIFT_BY_BEHAVIOR
                by = b("Concat", *self.covariates, axis=1) if by_all else self.covariates[-1]
                shift = self._tanh(f"{v1t.CROPPER}.mlp", SHIFTER, by)
                shift = b("Unsqueeze", b("Mul", shift, floats(1 - crop)), ints(1, 2))
                grid = b("Add", floats(at_rest), shift)
            else:
                size = b("Concat", self.size, ints(1, 1, 1), axis=0)
                grid = b("Expand", floats(at_rest), size)
            images = b("GridSample", images, grid, mode="nearest", align_corners=1)
        if shape == self.model.core_shape[1:]:
            return images
        rows, columns = (
            F.interpolate(torch.eye(n, dtype=torch.float64)[None], to, mode="linear")[0]
            for n, to in zip(shape, self.model.core_shape[1:], strict=True)
        )
        return b("MatMul", floats(rows.T), b("MatMul", images, floats(columns)))

    def _core(self, images: str) -> str:
        """Return the features of the images, ``[B, D, h, w]``."""
        self.n_tokens, grid = self.model.tokens
        if grid is None:
            return super()._core(images)
        b, width = self.b, int(self.config["emb_dim"])
        b.scope = "embedding"
        embedded = self._pooled if self.config["core"] == "cct" else self._embedded
        x = b("Reshape", embedded(images), ints(-1, width))
        for i in range(len(self.model.sites)):
            x = self._block(i, x)
        b.scope = "features"
        first = self.n_tokens - math.prod(grid)
        patches = b("Slice", self._by_token(x, width), ints(first), ints(LAST), ints(1))
        return b("Reshape", b("Transpose", patches, perm=[0, 2, 1]), ints(-1, width, *grid))

    def _embedded(self, images: str) -> str:
        """Return the tokens of images, the class token first, ``[B, N, d]``."""
        b, mode = self.b, self.config["patch_mode"]
        size, stride = int(self.config["patch_size"]), int(self.config["patch_stride"])
        channels, *shape = self.model.core_shape
        channels += 3 * self._channels
        before, at, after = v1t.PROJECTION[mode]
        name = f"{v1t.EMBEDDING}.projection"
        weight, bias = (self.weights[f"{name}.{at}.{part}"] for part in ("weight", "bias"))
        if before is None:
            kernel = floats(weight.reshape(len(weight), channels, size, size))
            x = self._flat(b("Conv", images, kernel, floats(bias), strides=[stride, stride]))
        else:
            if mode == v1t.SHIFTED:
                images, channels = self._shifted(images, size // 2), 5 * channels
            pixels = torch.arange(channels * shape[0] * shape[1], dtype=torch.float64)
            patches = F.unfold(pixels.view(1, channels, *shape), size, stride=stride)[0].T
            flat = b("Reshape", images, ints(0, -1))
            x = b("Gather", flat, patches.long().numpy(), axis=1)
            x = self._norm(f"{name}.{before}", x)
            x = b("Add", b("MatMul", x, floats(weight.T)), floats(bias))
        if after is not None:
            x = self._norm(f"{name}.{after}", x)
        places = self.weights[f"{v1t.EMBEDDING}.pos_embedding"]
        first = self.weights[f"{v1t.EMBEDDING}.cls_token"] + places[:1]
        first_of_all = b("Expand", floats(first), b("Concat", self.size, ints(1, 1), axis=0))
        return b("Concat", first_of_all, b("Add", x, floats(places[1:])), axis=1)

    def _pooled(self, images: str) -> str:
        """Return the tokens of a compact convolutional transformer, ``[B, N, d]``."""
        b, stride = self.b, int(self.config["patch_stride"])
        pads = [_cct.PADDING] * 4
        x = b("Conv", images, floats(self.weights[_cct.KERNEL]), pads=pads, strides=[stride] * 2)
        pooled = b("MaxPool", b("Relu", x), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        tokens = self._flat(pooled)
        places = self.weights.get(_cct.POSITIONS)
        return tokens if places is None else b("Add", tokens, floats(places))

    def _shifted(self, images: str, by: int) -> str:
        """Append the images moved along the four diagonals."""
        moves = [(x, y) for y in (by, -by) for x in (by, -by)]
        moved = [self.b("Pad", images, ints(0, 0, y, x, 0, 0, -y, -x)) for x, y in moves]
        return self.b("Concat", images, *moved, axis=1)

    def _block(self, i: int, x: str) -> str:
        """Run a block on tokens ``[B N, d]``."""
        b, site, names = self.b, self.model.sites[i], self.names
        name, width = block(i), int(self.config["emb_dim"])
        b.scope = site.name
        mode = self.config["behavior_mode"]
        if mode > v1t.CHANNELS:
            whose = "{}" if mode == v1t.BY_MOUSE else v1t.SHARED
            alone = mode == v1t.BEHAVIOR
            read = self.covariates[0] if alone else b("Concat", *self.covariates, axis=1)
            state = self._tanh(f"{name}.{names.behavior}.models.{whose}", STATE, read)
            moved = b("Add", self._by_token(x, width), b("Unsqueeze", state, ints(1)))
            x = b("Reshape", moved, ints(-1, width))
        out = self._attention(i, self._norm(f"{name}.mha.layer_norm", x))
        out = b("Reshape", out, ints(-1, site.heads * site.width))
        x = b("Add", x, self._linear(f"{name}.mha.projection.0", out))
        name = f"{name}.{names.feed_forward}"
        hidden = self._linear(f"{name}.1", self._norm(f"{name}.0", x))
        return b("Add", x, self._linear(f"{name}.4", b("Gelu", hidden)))

    def _attention(self, i: int, x: str) -> str:
        """Return what tokens take from each other, ``[B, N, H d]``."""
        b, site, name = self.b, self.model.sites[i], f"{block(i)}.mha"
        heads, width = site.heads, site.width
        to_q, to_k, to_v = self.weights[f"{block(i)}.{self.names.qkv}.weight"].chunk(3)
        scale = self.weights[f"{name}.scale"].view(-1, 1, 1) * width**0.5
        to_q = (to_q.view(heads, width, -1) * scale).flatten(0, 1)
        q, k, v = (
            self._by_token(b("Gemm", x, floats(to), transB=1), heads * width)
            for to in (to_q, to_k, to_v)
        )
        others = None
        if self.config.get("use_lsa"):
            places = np.arange(self.n_tokens)
            others = b("Not", b("Equal", places[:, None], places))
        wanted = self.plan.get(site.name)
        out, *_, scores = b.several(
            "Attention", (True, False, False, bool(wanted)), q, k, v, *([others] if others else []),
            q_num_heads=heads, kv_num_heads=heads, qk_matmul_output_mode=0,
        )  # fmt: skip
        if wanted:
            by_head = b("Transpose", self._by_token(out, heads, width), perm=[0, 2, 1, 3])
            to_out = self.weights[f"{name}.projection.0.weight"].view(-1, heads, width)
            attended = Attended(
                scores, others=others, output=by_head, projection=to_out.permute(1, 2, 0),
                n_keys=self.n_tokens - bool(others),
            )  # fmt: skip
            _statistics.add(b, site, wanted, attended, self.n_tokens)
        return out

    def _norm(self, name: str, x: str) -> str:
        gain, offset = (floats(self.weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self.b("LayerNormalization", x, gain, offset, axis=-1, epsilon=EPS)

    def _linear(self, name: str, x: str) -> str:
        given = [self.weights.get(f"{name}.{part}") for part in ("weight", "bias")]
        return self.b("Gemm", x, *(floats(part) for part in given if part is not None), transB=1)

    def _flat(self, x: str) -> str:
        """``[B, d, rows, columns]`` to ``[B, N, d]``."""
        return self.b("Transpose", self.b("Reshape", x, ints(0, 0, -1)), perm=[0, 2, 1])

    def _by_token(self, x: str, *widths: int) -> str:
        """``[B N, width]`` to ``[B, N, ...]``."""
        return self.b("Reshape", x, ints(-1, self.n_tokens, *widths))

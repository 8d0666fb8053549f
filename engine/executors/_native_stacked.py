"""Stacked convolutional cores and their read-outs in C++; see ``csrc/stacked.hpp``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _core
from ..models._vision import EPS, ImageInputs, ImageModel

CORE = "core.features"
PIXELS = 256  # of a linear model that are folded together
Product = tuple[NDArray[np.float32], NDArray[np.float32]]
Product64 = tuple[Tensor, Tensor]


class NativeStacked:
    """A stacked core with the read-outs of all mice; float32 on the CPU, without gradients.

    Normalisation is folded into products, and the 1 of ``elu(x) + 1`` taken off again by the bias
    of the product that follows; both in float64. A linear core that reads nothing but images is one
    affine map for each unit, 0 outside what the unit sees: it is found from the responses to single
    pixels, which is exact but for rounding, since biases are left out of them.

    Args:
        model: The model.
    """

    def __init__(self, model: ImageModel) -> None:
        self._model, self._linear = model, bool(model.config["linear"])
        first = model.weights[f"{CORE}.layer0.conv.weight"]
        self._planes = first.shape[1] - model.core_shape[0]
        self._core = self._stacked(biases=True)
        mice = list(model.manifest.sessions)
        self._readouts = {mouse: self._readout(mouse) for mouse in mice}
        self._drives: dict[str, _core.PointReadout] = {}
        self._maps: dict[str, _core.Affine] = {}
        if self._linear and not model.covariates:
            slopes = self._stacked(biases=False)
            self._maps = {mouse: self._affine(mouse, slopes) for mouse in mice}

    def _stacked(self, *, biases: bool) -> _core.Stacked:
        """Bind the core, or what it is without any bias."""
        w = {name: t.double() for name, t in self._model.weights.items()}
        first = w[f"{CORE}.layer0.conv.weight"]
        channels, rows, columns = self._model.core_shape
        taps = [first[:, :channels].flatten(1), first[:, channels:].sum((2, 3))]

        def arrays(weight: Tensor, bias: Tensor) -> Product:
            return _array(weight), _array(bias if biases else torch.zeros_like(bias))

        layers = []
        n_layers = sum(name.startswith(CORE) and name.endswith(".norm.weight") for name in w)
        for i in range(1, n_layers):
            name = f"{CORE}.layer{i}.ds_conv"
            weight, bias = _part(w, f"{name}.in_depth_conv")
            within = weight, bias if self._linear else bias - weight.sum(1)  # the 1 of elu(x) + 1
            kernel, bias = _part(w, f"{name}.spatial_conv")
            by_channel = kernel.view(len(kernel), *w[f"{name}.spatial_conv.weight"].shape[2:])
            outward = _normed(w, i, *_part(w, f"{name}.out_depth_conv"))
            layers.append(
                (arrays(*within), arrays(by_channel.permute(1, 2, 0), bias), arrays(*outward))
            )
        whole = _normed(w, 0, torch.cat(taps, 1), w.get(f"{CORE}.layer0.conv.bias"))
        return _core.Stacked(
            channels, rows, columns, first.shape[2], self._planes, arrays(*whole), layers,
            self._linear,
        )  # fmt: skip

    def responses(self, images: Tensor, inputs: ImageInputs) -> Tensor:
        """Return the responses, ``[B, U]``.

        Args:
            images: What the core sees, ``[B, C, H, W]``, without behaviour.
            inputs: Whose responses, and under what.
        """
        readout = self._readouts[inputs.mouse]
        if inputs.mouse in self._maps:
            images = images.contiguous()
            out = images.new_empty(len(images), readout.units)
            map_, threads = self._maps[inputs.mouse], torch.get_num_threads()
            map_.run(images.data_ptr(), len(images), out.data_ptr(), threads)
            return out
        return self._through(readout, images, inputs)

    def drive(self, images: Tensor, inputs: ImageInputs) -> Tensor:
        """Return what the output's nonlinearity makes the responses of, likewise."""
        if inputs.mouse not in self._drives:  # only ensembles ask
            self._drives[inputs.mouse] = self._readout(inputs.mouse, plain=True)
        return self._through(self._drives[inputs.mouse], images, inputs)

    def _through(self, readout: _core.PointReadout, images: Tensor, inputs: ImageInputs) -> Tensor:
        """Run the core and a read-out."""
        kept = [
            inputs.behavior.contiguous() if self._planes and inputs.behavior is not None else None,
            self._model.shift(inputs).contiguous() if self._model.shifts and inputs.shift else None,
        ]
        planes, shifts = (0 if x is None else x.data_ptr() for x in kept)
        return _run(self._core, images.contiguous(), planes, shifts, readout)

    def _readout(
        self, mouse: str, *, plain: bool = False, biased: bool = True
    ) -> _core.PointReadout:
        """Bind the read-out of a mouse; a plain one has no nonlinearity."""
        model = self._model
        features = model.readout(mouse, model.names.features).flatten(0, 2).T.double()
        less = features.new_zeros(len(features)) if self._linear else features.sum(1)
        bias, positions = model.readout(mouse, "bias"), model.positions(mouse)[0]
        bias = bias if biased else torch.zeros_like(bias)
        return _core.PointReadout(
            _array(features), _array(less), _array(bias), _array(positions), plain
        )

    def _affine(self, mouse: str, slopes: _core.Stacked) -> _core.Affine:
        """Fold core and read-out of a linear model into a map from images."""
        shape, plain = self._model.core_shape, self._readout(mouse, plain=True, biased=False)
        pixels = int(np.prod(shape))
        weights = np.empty((plain.units, pixels), np.float32)
        for at in range(0, pixels, PIXELS):
            points = torch.eye(pixels)[at : at + PIXELS].contiguous()
            weights[:, at : at + len(points)] = _run(slopes, points, 0, 0, plain).numpy().T
        dark = torch.zeros(1, pixels)
        bias = _run(self._core, dark, 0, 0, plain)[0] + self._model.readout(mouse, "bias")
        return _core.Affine(weights.reshape(plain.units, *shape), _array(bias))


def _run(
    core: _core.Stacked, images: Tensor, planes: int, shifts: int, readout: _core.PointReadout
) -> Tensor:
    out = images.new_empty(len(images), readout.units)
    threads = torch.get_num_threads()
    core.run(images.data_ptr(), len(images), planes, shifts, readout, out.data_ptr(), threads)
    return out


def _part(w: Mapping[str, Tensor], name: str) -> Product64:
    """Return weights and bias of a convolution; a bias that the file lacks is 0."""
    weight, bias = w[f"{name}.weight"].flatten(1), w.get(f"{name}.bias")
    return weight, weight.new_zeros(len(weight)) if bias is None else bias


def _normed(w: Mapping[str, Tensor], layer: int, weight: Tensor, bias: Tensor | None) -> Product64:
    """Fold the normalisation that follows into a product."""
    mean, var, gain, offset = (
        w[f"{CORE}.layer{layer}.norm.{part}"]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    factor = gain / torch.sqrt(var + EPS)
    apart = -mean if bias is None else bias - mean
    return weight * factor[:, None], apart * factor + offset


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().float().numpy())

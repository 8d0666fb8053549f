"""Several conditions of the same windows: only what comes after their first difference is run.

Conditions lie in front of the windows, ``[N, B, ...]``, and go through the layers as ``n B``
windows, all windows of a condition together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models import Attend
from ..models._perceiver import PerceiverInputs, PerceiverModel
from ..models._perceiver_layers import repeated, repeated_queries
from ..models._site import Keys, Queries
from . import LATENTS

# Windows at a time: enough that calls into torch cost little beside the work, and 10^4 conditions
# take no more memory than a run of 64 windows.
AT_ONCE = 64

Masks = Mapping[str, NDArray[np.bool_]]
Prediction = Tensor | dict[str, Tensor]


def tails(
    model: PerceiverModel, inputs: PerceiverInputs, encoded: Tensor, attend: Attend
) -> Prediction:
    """Run what comes after the encoder's attention.

    Args:
        model: With its weights.
        inputs: A batch, of which only the queries are read.
        encoded: Output of each head of the encoder, ``[N, B, H, L, D]``.
        attend: The attention.

    Returns:
        The prediction, ``[N, B, Q, d]``, or by task ``[N, n, d]``.
    """
    layers = model.layers
    parts = []
    for part in torch.split(encoded, _at_once(inputs)):
        latents = layers.received(part.flatten(0, 1))
        parts.append(_decoded(model, inputs, latents, 0, len(part), attend))
    return _joined(parts)


def masked(
    model: PerceiverModel, inputs: PerceiverInputs, masks: Sequence[Masks], attend: Attend
) -> Prediction:
    """Run conditions in which heads or latents are removed.

    What enters each layer is computed once and kept, ``[B, L, dim]`` each; a condition is run from
    the first layer that it changes.

    Args:
        model: With its weights.
        inputs: A batch.
        masks: By site the heads kept, ``[H]``, bool, and under ``LATENTS`` the latents kept of each
            step; those that are missing keep all. A removed head gives 0, a removed latent is
            attended to by no later layer.
        attend: The attention.

    Returns:
        The prediction of each condition, as of :func:`tails`.
    """
    layers, sites = model.layers, [site.name for site in model.sites]
    encoded = layers.encode(model.token_keys(inputs), inputs.keys, attend)
    entering = [layers.received(encoded)]  # of each processor layer, and of the decoder
    for i in range(layers.config.depth):
        entering.append(layers.process(i, entering[i], attend))
    first = [_first_changed(mask, sites) for mask in masks]
    parts, order = [], []
    for site, some in _groups(first, _at_once(inputs)) or [(len(sites) - 1, [])]:
        cut = _Cut(attend, [masks[i] for i in some], len(encoded), layers.latent_keys(1))
        latents = entering[site - 1] if site else layers.received(cut.heads(sites[0], encoded))
        parts.append(_decoded(model, inputs, latents, max(0, site - 1), len(some), cut))
        order += some
    return _joined(parts, order)


def _decoded(
    model: PerceiverModel,
    inputs: PerceiverInputs,
    latents: Tensor,
    layer: int,
    n: int,
    attend: Attend,
) -> Prediction:
    """Run ``n`` conditions from the processor layer on that latents ``[n B, L, dim]`` enter."""
    layers = model.layers
    for i in range(layer, layers.config.depth):
        latents = layers.process(i, latents, attend)
    asked = model.embedded_queries(inputs)
    decoded = layers.decode(latents, asked, inputs.queries, attend)
    return model.readout(inputs, decoded.reshape(n, *asked.shape))


class _Cut:
    """Attention in several conditions of the same windows, each with heads or latents removed.

    Args:
        attend: The attention with all of them.
        masks: Of the conditions.
        n_windows: ``B``.
        latents: What the latents of one window are as keys.
    """

    def __init__(
        self, attend: Attend, masks: Sequence[Masks], n_windows: int, latents: Keys
    ) -> None:
        self._attend, self._masks, self._n_windows = attend, masks, n_windows
        self._latents = latents
        self._size = len(masks) * n_windows

    def __call__(
        self, site: str, q: Tensor, k: Tensor, v: Tensor, *, keys: Keys, queries: Queries,
        rotate_values: bool, project: Any,
    ) -> Tensor:  # fmt: skip
        """Attend from latents or queries, to latents; once for all conditions that are alike."""
        kept = self._kept(LATENTS, k.device)
        if kept is not None:
            q, k, v = (repeated(x, self._size) for x in (q, k, v))
            queries = repeated_queries(queries, self._size)
            k, v, keys = _without(kept, k, v, self._latents)
        out = self._attend(
            site, q, k, v, keys=keys, queries=queries, rotate_values=rotate_values, project=project
        )
        return self.heads(site, out)

    def heads(self, site: str, out: Tensor) -> Tensor:
        """Give each condition its outputs, ``[n B, H, Q, D]``, those of removed heads 0."""
        kept, out = self._kept(site, out.device), repeated(out, self._size)
        return out if kept is None else out.masked_fill(~kept[:, :, None, None], 0)

    def _kept(self, name: str, device: torch.device) -> Tensor | None:
        """Return what is kept in each condition and window, ``[n B, N]``; ``None``: all."""
        given = [mask[name] for mask in self._masks if name in mask]
        if not given:
            return None
        whole = np.ones_like(given[0])
        kept = np.stack([mask.get(name, whole) for mask in self._masks])
        return torch.from_numpy(kept.repeat(self._n_windows, 0)).to(device)


def _without(kept: Tensor, k: Tensor, v: Tensor, latents: Keys) -> tuple[Tensor, Tensor, Keys]:
    """Leave latents out: the kept ones come first, and ``lengths`` counts them."""
    kept = kept.repeat(1, k.shape[2] // kept.shape[1])  # [n B, L]; steps are alike
    index = (~kept).sort(dim=1, stable=True).indices
    k, v = (x.take_along_dim(index[:, None, :, None], 2) for x in (k, v))
    assert latents.phase is not None
    times, phase = latents.times[0][index], latents.phase[0][index]
    return k, v, Keys(times, kept.sum(1), phase=phase)


def _first_changed(mask: Masks, sites: Sequence[str]) -> int:
    """Return the first site that a condition changes; the last one if it changes none."""
    changed = [i for i, site in enumerate(sites) if site in mask and not mask[site].all()]
    if LATENTS in mask and not mask[LATENTS].all():
        changed.append(1)  # the first site after the encoder
    return min(changed, default=len(sites) - 1)


def _groups(first: Sequence[int], size: int) -> list[tuple[int, list[int]]]:
    """Group conditions by their first site, at most ``size`` at a time."""
    groups = []
    for site in sorted(set(first)):
        same = [i for i, one in enumerate(first) if one == site]
        groups += [(site, same[at : at + size]) for at in range(0, len(same), size)]
    return groups


def _at_once(inputs: PerceiverInputs) -> int:
    return max(1, AT_ONCE // max(1, len(inputs.queries.times)))


def _joined(parts: Sequence[Prediction], order: Sequence[int] | None = None) -> Prediction:
    """Put conditions together, in the order of ``0..N-1`` if ``order`` says which they are."""

    def join(given: list[Tensor]) -> Tensor:
        whole = torch.cat(given)
        return whole if order is None else whole[np.argsort(order).astype(np.int64)]

    tensors = [part for part in parts if isinstance(part, Tensor)]
    by_task = [part for part in parts if isinstance(part, dict)]
    if tensors:
        return join(tensors)
    return {task: join([part[task] for part in by_task]) for task in by_task[0]}

"""The rollout of a forward pass: the scores of its layers are kept, then walked back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..capture import Site
from ..kernels.rollout import Layer, rollout
from ..models._site import Inputs, Keys, Queries

KEPT = 1 << 29  # bytes of weights over heads that are kept of a forward pass


def along(
    fuse: str | None, site: Site, sites: Sequence[Site], inputs: Inputs, q: Tensor
) -> frozenset[str]:
    """Return what the attention of a site should return for the rollout.

    Of image models the weights over heads, ``[B, N, N]``, which then need not be computed again: in
    the last block, of which one row is read, and where they take too much memory, they are.
    """
    if fuse is None or inputs.grid is None or site is sites[-1]:
        return frozenset()
    tokens = q.shape[2]
    if len(q) * tokens * tokens * q.element_size() * (len(sites) - 1) > KEPT:
        return frozenset()
    return frozenset({f"weights_{fuse}"})


def kept(
    site: Site, q: Tensor, k: Tensor, keys: Keys, queries: Queries, fused: Tensor | None = None
) -> Layer:
    """Return what the rollout needs of a layer; shares memory."""
    arguments = {
        "lengths": keys.lengths,
        "rows": keys.rows,
        "query_phase": queries.phase,
        "key_phase": keys.phase,
        "self_key": 0 if keys.self_excluded else None,
    }
    return Layer(q, k, site.residual, arguments, fused)


def walked(layers: Sequence[Layer], inputs: Inputs, fuse: str, backend: str | None) -> Tensor:
    """Return what each query takes from each unit, ``[B, Q, U]``; 0 where there is no query.

    Of an image: what its class token takes from the patches, ``[B, rows, columns]``.
    """
    keys, exist = inputs.keys, inputs.queries.exist
    found = rollout(
        layers,
        fuse=fuse,
        rows=inputs.readout,
        units=keys.units,
        n_units=keys.n_units,
        threads=torch.get_num_threads(),
        backend=backend,
    )
    if inputs.grid is not None:
        return found[:, 0, 1:].reshape(-1, *inputs.grid)
    return found if exist is None else found.masked_fill(~exist[..., None], 0)

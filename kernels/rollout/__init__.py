"""Attention rollout: what the rows of the last layer take from the keys of the first one.

Layers are given in the order in which they run; layer ``l`` has weights ``P_h`` of its heads,
``[Q, K]``. With

* ``A_l = fuse_h P_h``, the mean or the maximum over heads,
* ``Â_l = A_l + I`` in a *residual* layer, whose queries are its keys (self-attention), and
  ``Â_l = A_l`` otherwise, rows then divided by their sums (a row without keys stays 0),

the rollout is ``R = W Â_L ... Â_1``, ``[C, K_1]``; ``W`` are the read-out rows, the identity unless
given: a one at the class token of an image model, nothing for the queries of a decoder. With units,
the columns of each unit's keys are added. Rows of ``R`` sum to the rows of ``W`` wherever keys
exist, so to 1.

The identity stands for the residual stream, which hands a token on beside what it attends to. In
cross-attention it has no place: queries are not among the keys, so what a latent (or a decoder's
query) brings along is no token and can be given to none. There the rollout follows the attention
alone, and says nothing about how much of the output comes from it.

Sources: Abnar and Zuidema 2020, "Quantifying attention flow in transformers" (arXiv:2005.00928),
section 3; the maximum over heads as in V1T (Li et al. 2023, arXiv:2302.03023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .. import _arrays
from .._operation import Operation
from ..attention import attention

__all__ = ["FUSE", "OPERATION", "Layer", "rollout"]

OPERATION = Operation(__name__)

FUSE = ("mean", "max")
ARGUMENTS = frozenset(
    {"lengths", "cu_seqlens", "rows", "query_phase", "key_phase", "scale", "self_key"}
)


@dataclass(frozen=True)
class Layer:
    """The scores of one attention layer.

    Attributes:
        q: Queries, ``[B, H, Q, D]``, floating.
        k: Keys, ``[B, H, K, D]``, likewise.
        residual: Whether queries are the keys, and are added to what is attended to.
        arguments: Further arguments of :func:`attendrite.kernels.attention.attention` that shape
            the weights: ``lengths``, ``cu_seqlens``, ``rows``, ``query_phase``, ``key_phase``,
            ``scale``, ``self_key``.
        fused: The weights fused over heads as the rollout asks, ``[B, Q, K]``, dtype of ``q``
            (float32 for half precision), where the attention gave them already: its
            ``weights_mean`` or ``weights_max``. ``None``: from queries and keys once more.
    """

    q: Tensor
    k: Tensor
    residual: bool
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fused: Tensor | None = None

    @property
    def n_keys(self) -> int:
        """Number of keys ``K``, of the longest batch element where they are packed."""
        cuts, rows = self.arguments.get("cu_seqlens"), self.arguments.get("rows")
        if cuts is not None:
            return int(cuts.diff().max()) if len(cuts) > 1 else 0
        return int(self.k.shape[2] if rows is None else rows.shape[1])

    @property
    def lengths(self) -> Tensor | None:
        """Keys of each batch element, ``[B]``; ``None``: all exist."""
        cuts: Tensor | None = self.arguments.get("cu_seqlens")
        lengths: Tensor | None = self.arguments.get("lengths")
        return lengths if cuts is None else cuts.diff()

    def part(self, begin: int, end: int) -> Layer:
        """Return the layer of some of its queries; shares memory."""
        arguments = dict(self.arguments)
        if arguments.get("query_phase") is not None:
            arguments["query_phase"] = arguments["query_phase"][:, begin:end]
        if arguments.get("self_key") is not None:
            arguments["self_key"] += begin
        fused = None if self.fused is None else self.fused[:, begin:end]
        return replace(self, q=self.q[:, :, begin:end], arguments=arguments, fused=fused)

    def to(self, dtype: torch.dtype) -> Layer:
        """Return the layer in another floating dtype."""
        arguments = {
            name: x.to(dtype) if name.endswith("phase") and x is not None else x
            for name, x in self.arguments.items()
        }
        fused = None if self.fused is None else self.fused.to(dtype)
        return replace(
            self, q=self.q.to(dtype), k=self.k.to(dtype), arguments=arguments, fused=fused
        )

    def statistic(self, name: str, **options: Any) -> Tensor:
        """Return one statistic of the attention; of values, which do not matter, one column."""
        found = attention(
            self.q, self.k, self.k[..., :1], statistics=[name], **self.arguments, **options
        )
        return found.statistics[name]


def rollout(
    layers: Sequence[Layer],
    *,
    fuse: str,
    rows: Tensor | None = None,
    units: Tensor | None = None,
    n_units: int = 0,
    threads: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Carry the read-out rows back through all layers.

    Args:
        layers: In the order in which they run; the queries of a layer are the keys of the next. No
            argument is modified or kept.
        fuse: ``"mean"`` or ``"max"`` over heads.
        rows: Read-out rows over the queries of the last layer, ``[B, C, Q]``, dtype of ``q``, not
            negative; ``None``: each query is a row.
        units: Unit of each key of the first layer, ``[B, K]``, int64 in ``-1..U-1`` (packed: as
            there); -1 counts for none. ``None``: the result is per key.
        n_units: Number of units ``U``.
        threads: As in :func:`attendrite.kernels.attention.attention`.
        backend: A backend by name; ``None`` takes the fastest one that does not refuse.

    Returns:
        ``[B, C, K]`` or ``[B, C, U]``, dtype of ``q``, float32 for half precision; newly allocated.

    Raises:
        TypeError: Wrong dtypes.
        ValueError: No layers, layers that do not fit each other, wrong shapes, or unknown names.
    """
    _arrays.one_of("fuse", fuse, FUSE)
    if not layers:
        raise _arrays.must("layers", "hold at least one", "none")
    for i, layer in enumerate(layers):
        _check_layer(i, layer)
        if i and layer.n_keys != layers[i - 1].q.shape[2]:
            queries = layers[i - 1].q.shape[2]
            raise _arrays.must(f"keys of layer {i}", f"be layer {i - 1}'s {queries} queries",
                               layer.n_keys)  # fmt: skip
    last = layers[-1].q
    if rows is not None and (rows.ndim != 3 or rows.shape[::2] != last.shape[:3:2]):
        shape = f"[{last.shape[0]}, C, {last.shape[2]}]"
        raise _arrays.must("rows", f"have shape {shape}", list(rows.shape))
    if units is not None and n_units < 1:
        raise _arrays.must("n_units", "be >= 1 with units", n_units)
    module = OPERATION.choose(backend)
    half = last.dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if half else last.dtype
    result: Tensor = module.run(
        [layer.to(dtype) for layer in layers],
        fuse=fuse,
        rows=None if rows is None else rows.to(dtype),
        units=units,
        n_units=n_units,
        threads=threads,
    )
    return result


def _check_layer(i: int, layer: Layer) -> None:
    unknown = sorted(set(layer.arguments) - ARGUMENTS)
    if unknown:
        raise ValueError(f"unknown argument {unknown[0]!r}; known: {', '.join(sorted(ARGUMENTS))}")
    if layer.residual and layer.n_keys != layer.q.shape[2]:
        got = f"{layer.q.shape[2]} queries and {layer.n_keys} keys"
        raise _arrays.must(f"residual layer {i}", "have as many queries as keys", got)
    if layer.fused is not None:
        shape = [len(layer.q), layer.q.shape[2], layer.n_keys]
        if list(layer.fused.shape) != shape:
            raise _arrays.must(
                f"fused of layer {i}", f"have shape {shape}", list(layer.fused.shape)
            )


def by_unit(values: Tensor, units: Tensor, n_units: int, cuts: Tensor | None) -> Tensor:
    """Add the columns of each unit: ``[B, C, K]`` to ``[B, C, U]``."""
    if cuts is not None:
        index = cuts[:-1, None] + torch.arange(values.shape[2], device=values.device)
        units = units[0][index.clamp(max=units.shape[1] - 1)]  # padding has value 0
    slot = units.masked_fill(units < 0, n_units)[:, None].expand(values.shape)
    sums = values.new_zeros(*values.shape[:2], n_units + 1)
    return sums.scatter_add(2, slot, values)[..., :n_units]

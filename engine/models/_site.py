"""What a forward pass tells its attention: the keys and queries of a site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

Shapes: TypeAlias = dict[str, tuple[int, ...]]  # of weights, by name


@dataclass(frozen=True)
class Keys:
    """The keys of a site.

    Attributes:
        times: ``[B, K]``, float64, seconds from the start of the window.
        lengths: Keys of each window, ``[B]``, int64; the rest is padding. ``None``: all exist.
        units: Unit of each key, ``[B, K]``, int64; ``None`` where keys are latents.
        types: 0 spike or frame, 1 START, 2 END, ``[B, K]``, int64; ``None`` likewise.
        n_units: Number of units.
        rows: Row of each key in the tables of keys and values, ``[B, K]``, int64; ``None`` where
            each key has its own.
        phase: By which keys turn, ``[B|1, K, 2, F]``; ``None``: they do not.
    """

    times: Tensor
    lengths: Tensor | None = None
    units: Tensor | None = None
    types: Tensor | None = None
    n_units: int = 0
    rows: Tensor | None = None
    phase: Tensor | None = None


@dataclass(frozen=True)
class Queries:
    """The queries of a site.

    Attributes:
        times: ``[B, Q]``, float64, seconds from the start of the window.
        exist: ``[B, Q]``, bool: where False there is no query, and it counts for nothing; ``None``:
            all exist.
        phase: By which queries turn, ``[B|1, Q, 2, F]``.
    """

    times: Tensor
    exist: Tensor | None = None
    phase: Tensor | None = None


@dataclass(frozen=True)
class Inputs:
    """What every family's input tensors hold.

    Attributes:
        keys: Of the site whose keys are tokens.
        queries: Those that are decoded.
    """

    keys: Keys
    queries: Queries


class Attend(Protocol):
    """Attention as an argument of the forward pass.

    Args:
        site: Name of the layer.
        q: ``[B, H, Q, D]``.
        k: ``[B, H, K, D]``, or tables ``[1, H, T, D]`` whose rows the keys name.
        v: Likewise.
        keys: What the keys are.
        queries: What the queries are.
        rotate_values: Whether values turn with the keys, and outputs back with the queries.
        project: From an output to each head's contribution to the layer, ``[B, H, Q, D]`` to
            ``[B, H, Q, dim]``.

    Returns:
        The output, ``[B, H, Q, D]``.
    """

    def __call__(
        self,
        site: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        keys: Keys,
        queries: Queries,
        rotate_values: bool,
        project: Callable[[Tensor], Tensor],
    ) -> Tensor: ...

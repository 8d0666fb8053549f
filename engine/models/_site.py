"""What a forward pass tells its attention: the keys and queries of a site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from torch import Tensor

Shapes: TypeAlias = dict[str, tuple[int, ...]]  # of weights, by name


@dataclass(frozen=True)
class Keys:
    """The keys of a site.

    Attributes:
        times: ``[B, K]``, float64, seconds from the start of the window; 0 for patches of an image.
        lengths: Keys of each window, ``[B]``, int64; the rest is padding. ``None``: all exist.
        units: Unit of each key, ``[B, K]``, int64; ``None`` where keys are latents.
        types: 0 spike or frame, 1 START, 2 END, ``[B, K]``, int64; ``None`` likewise.
        n_units: Number of units.
        rows: Row of each key in the tables of keys and values, ``[B, K]``, int64; ``None`` where
            each key has its own.
        phase: By which keys turn, ``[B|1, K, 2, F]``; ``None``: they do not.
        self_excluded: Whether queries, which are the keys, do not attend to themselves.
    """

    times: Tensor
    lengths: Tensor | None = None
    units: Tensor | None = None
    types: Tensor | None = None
    n_units: int = 0
    rows: Tensor | None = None
    phase: Tensor | None = None
    self_excluded: bool = False


@dataclass(frozen=True)
class Queries:
    """The queries of a site.

    Attributes:
        times: ``[B, Q]``, float64, seconds from the start of the window; 0 for patches of an image.
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
        keys: Of the site whose keys are tokens, or of all sites where they are patches.
        queries: Those that are decoded, or patches.
        readout: Rows over the last layer's queries that a rollout starts from, ``[B, C, Q]``;
            ``None``: each query is one.
        grid: Rows and columns in which patches are laid out; ``None``: there are none.
    """

    keys: Keys
    queries: Queries
    readout: Tensor | None = field(default=None, kw_only=True)
    grid: tuple[int, int] | None = field(default=None, kw_only=True)


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

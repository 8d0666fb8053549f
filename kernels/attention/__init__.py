"""Softmax attention that also returns what was attended to.

With scores ``s_qk = scale <q, k>`` and weights ``P_qk = exp(s_qk - lse_q)``, over the keys that
exist; ``K_u`` are the keys of unit ``u`` and ``w_q`` the query weights, 1 unless given. Logarithms
are natural.

| statistic | shape | definition |
|---|---|---|
| ``lse`` | B,H,Q | ``log sum_k exp(s_qk)`` |
| ``weights`` | B,H,Q,K | ``P_qk`` |
| ``weights_mean``, ``weights_max`` | B,Q,K | mean and maximum of ``P_qk`` over heads |
| ``per_key`` | B,H,K | ``sum_q w_q P_qk`` |
| ``per_query_unit`` | B,H,Q,U | ``sum_{k in K_u} P_qk`` |
| ``per_unit`` | B,H,U | ``sum_q w_q sum_{k in K_u} P_qk`` |
| ``entropy`` | B,H,Q | ``-sum_k P_qk log P_qk`` |
| ``lag`` | B,H,Q | ``sum_k P_qk (query_time_q - key_time_k)`` |
| ``top_k`` | B,H,Q,k twice | ``top_k.weight``, descending; ``top_k.key``, ties to the lower |
| ``partials`` | B,H,Q,U[,D] | ``partials.lse`` and ``partials.output`` of attention over ``K_u`` |

A query with no keys has output 0, ``lse`` -inf and 0 elsewhere; so has a unit without keys in
``partials``. Ranks of ``top_k`` beyond the number of keys have weight 0 and key -1. For any set of
units, ``LSE = logsumexp_u lse_u`` and ``output = sum_u exp(lse_u - LSE) output_u`` are attention
over their keys alone: what remains after removing the other units (split softmax: Milakov and
Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import _arrays
from .._operation import Operation
from ._problem import HALF, Problem

__all__ = ["OPERATION", "STATISTICS", "Attention", "attention", "request"]

OPERATION = Operation(__name__)

STATISTICS = (
    "weights",
    "weights_mean",
    "weights_max",
    "per_key",
    "per_unit",
    "per_query_unit",
    "entropy",
    "lse",
    "top_k",
    "partials",
    "lag",
)
OVER_HEADS = ("weights_mean", "weights_max")
NEED_UNITS = frozenset({"per_unit", "per_query_unit", "partials"})


@dataclass(frozen=True)
class Attention:
    """Output of :func:`attention`.

    Attributes:
        output: ``[B, H, Q, Dv]``, dtype of the values.
        statistics: Those asked for, by the names of the module's table; floating ones in the dtype
            of the queries, float32 for half precision.
    """

    output: Tensor
    statistics: Mapping[str, Tensor] = field(default_factory=dict)


def request(
    device: str,
    dtype: torch.dtype,
    width: int,
    value_width: int,
    statistics: Collection[str] = (),
    *,
    grad: bool = False,
    self_excluded: bool = False,
) -> dict[str, Any]:
    """Describe a kind of call for a backend's ``refuses``, to choose one before any call.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        dtype: Of queries, keys and values.
        width: ``D``.
        value_width: ``Dv``.
        statistics: Names of the module's table.
        grad: Whether the output must be differentiable.
        self_excluded: Whether queries do not attend to themselves.
    """
    return {
        "device": device,
        "dtype": dtype,
        "width": width,
        "value_width": value_width,
        "statistics": frozenset(statistics),
        "grad": grad,
        "self_excluded": self_excluded,
    }


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    statistics: Collection[str] = (),
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    rows: Tensor | None = None,
    units: Tensor | None = None,
    n_units: int = 0,
    query_weights: Tensor | None = None,
    query_phase: Tensor | None = None,
    key_phase: Tensor | None = None,
    rotate_values: bool = False,
    query_times: Tensor | None = None,
    key_times: Tensor | None = None,
    top_k: int = 0,
    scale: float | None = None,
    self_key: int | None = None,
    threads: int = 1,
    backend: str | None = None,
) -> Attention:
    """Attend, and return the statistics asked for and nothing else.

    Keys of a batch come in one of two forms: *padded*, ``K`` for each element, of which ``lengths``
    exist; or *packed* (``cu_seqlens``), those of all elements one after the other: then what is
    said below to have axes ``[B, K]`` has ``[1, N]``, and ``K`` of the results is the longest.
    With ``rows``, ``k`` and ``v`` are tables and each key names its row.

    Args:
        q: Queries, ``[B, H, Q, D]``, floating, any strides. No argument is modified or kept.
        k: Keys, ``[B, H, K, D]``, dtype and device of ``q``; with ``rows`` ``[1, H, T, D]``.
        v: Values, ``[B, H, K, Dv]``, likewise.
        statistics: Names of the module's table.
        lengths: Keys of each batch element, ``[B]``, int64; keys from there on are padding and may
            hold anything, NaN too. ``None``: all ``K`` exist.
        cu_seqlens: Packed keys: element ``b`` has keys ``cu_seqlens[b]`` to ``cu_seqlens[b+1]``,
            ``[B+1]``, int64, from 0 to ``N``, not decreasing.
        rows: Row of each key in the tables, ``[B, K]``, int64 in ``0..T-1``; padding too.
        units: Unit of each key, ``[B, K]``, int64 in ``-1..U-1``, any order; -1 counts for none.
        n_units: Number of units ``U``.
        query_weights: ``w_q``, ``[B, Q]`` or ``[B, H, Q]``, dtype of ``q``; ``None``: 1.
        query_phase: Cosine and sine by which queries turn, ``[B|1, Q, 2, F]``, dtype of ``q``,
            float32 for half precision: pairs ``(2i, 2i+1)`` of the first ``2F`` features, by
            :func:`attendrite.kernels.phases.phases` (Su et al. 2021, arXiv:2104.09864).
        key_phase: The same of the keys, ``[B, K, 2, F]``; both or neither.
        rotate_values: Values turn with the keys, and outputs back with the queries (``partials``
            too): values are then relative in time, as in POYO (arXiv:2310.16046).
        query_times: ``[B, Q]``, float64, seconds; for ``lag``.
        key_times: ``[B, K]``, float64, seconds; for ``lag``.
        top_k: How many keys ``top_k`` returns.
        scale: Factor of the scores; ``None``: ``D ** -0.5``.
        self_key: Query ``i`` does not attend to key ``self_key + i``, which is itself (locality
            self-attention: Lee et al. 2021, arXiv:2112.13492). ``None``: it attends to all.
        threads: Threads of the backends that have their own; those made of torch operations use
            torch's.
        backend: A backend by name; ``None`` takes the fastest one that does not refuse.

    Raises:
        TypeError: Not floating, or dtypes differ.
        ValueError: Wrong shapes, an unknown statistic, one whose arguments are missing, or the
            named backend refuses.
    """
    _check_qkv(q, k, v)
    _check_statistics(statistics, units, n_units, query_times, key_times, top_k)
    keys = _check_keys(q, k, lengths, cu_seqlens, rows)
    for name, tensor, shape in (
        ("units", units, keys),
        ("query_times", query_times, (q.shape[0], q.shape[2])),
        ("key_times", key_times, keys),
    ):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise _arrays.must(name, f"have shape {list(shape)}", list(tensor.shape))
    _check_phases(q, v, keys, query_phase, key_phase, rotate_values)
    if query_weights is not None:
        query_weights = _per_head(query_weights, q)
    if self_key is not None and (
        cu_seqlens is not None or not 0 <= self_key <= keys[1] - q.shape[2]
    ):
        be = f"lie in 0..{keys[1] - q.shape[2]}, with keys that are not packed"
        raise _arrays.must("self_key", be, self_key)
    if threads < 1:
        raise _arrays.must("threads", "be >= 1", threads)
    grad = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    kind = request(
        q.device.type, q.dtype, q.shape[3], v.shape[3], statistics,
        grad=grad, self_excluded=self_key is not None,
    )  # fmt: skip
    module = OPERATION.choose(backend, **kind)
    problem = Problem(
        q=q,
        k=k,
        v=v,
        statistics=frozenset(statistics),
        lengths=lengths,
        cu_seqlens=cu_seqlens,
        rows=rows,
        units=units,
        n_units=n_units,
        query_weights=query_weights,
        query_phase=query_phase,
        key_phase=key_phase,
        rotate_values=rotate_values,
        query_times=query_times,
        key_times=key_times,
        top_k=top_k,
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        self_key=self_key,
        threads=threads,
    )
    result: Attention = module.run(problem)
    return result


def _check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.ndim != 4:
            raise _arrays.must(name, "have shape [B, H, N, D]", list(tensor.shape))
        if not tensor.is_floating_point() or tensor.dtype != q.dtype:
            raise TypeError(f"{name} must be floating and of q's dtype, got {tensor.dtype}")
    if v.shape[:3] != k.shape[:3]:
        axes = ", ".join(map(str, k.shape[:3]))
        raise _arrays.must("v", f"have shape [{axes}, Dv]", list(v.shape))


def _check_keys(
    q: Tensor,
    k: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    rows: Tensor | None,
) -> tuple[int, int]:
    """Check the form of the keys and return the shape of what each key has."""
    batch, heads, _, width = q.shape
    if lengths is not None and cu_seqlens is not None:
        raise _arrays.must("lengths", "be None with cu_seqlens", list(lengths.shape))
    if lengths is not None and tuple(lengths.shape) != (batch,):
        raise _arrays.must("lengths", f"have shape [{batch}]", list(lengths.shape))
    if cu_seqlens is not None and tuple(cu_seqlens.shape) != (batch + 1,):
        raise _arrays.must("cu_seqlens", f"have shape [{batch + 1}]", list(cu_seqlens.shape))
    size = 1 if cu_seqlens is not None else batch
    n_keys = k.shape[2]
    if rows is not None:
        if rows.ndim != 2 or len(rows) != size:
            raise _arrays.must("rows", f"have shape [{size}, K]", list(rows.shape))
        n_keys = rows.shape[1]
    tables = size if rows is None else 1
    if k.shape[:2] != (tables, heads) or k.shape[3] != width:
        raise _arrays.must("k", f"have shape [{tables}, {heads}, K, {width}]", list(k.shape))
    return size, n_keys


def _check_phases(
    q: Tensor,
    v: Tensor,
    keys: tuple[int, int],
    query_phase: Tensor | None,
    key_phase: Tensor | None,
    rotate_values: bool,
) -> None:
    if query_phase is None or key_phase is None:
        if query_phase is not key_phase or rotate_values:
            raise _arrays.must("query_phase and key_phase", "be given both", "one or none")
        return
    dtype = torch.float32 if q.dtype in HALF else q.dtype
    most = min(q.shape[3], v.shape[3] if rotate_values else q.shape[3]) // 2
    sizes = (("query_phase", query_phase, (q.shape[0], q.shape[2])), ("key_phase", key_phase, keys))
    for name, phase, (size, count) in sizes:
        if (
            phase.ndim != 4
            or len(phase) not in (1, size)
            or tuple(phase.shape[1:3]) != (count, 2)
            or phase.shape[3] > most
            or phase.shape[3] != query_phase.shape[3]
        ):
            shape = f"[{size} or 1, {count}, 2, F <= {most}]"
            raise _arrays.must(name, f"have shape {shape}", list(phase.shape))
        if phase.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}, got {phase.dtype}")


def _check_statistics(
    statistics: Collection[str],
    units: Tensor | None,
    n_units: int,
    query_times: Tensor | None,
    key_times: Tensor | None,
    top_k: int,
) -> None:
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown:
        raise ValueError(f"unknown statistic {unknown[0]!r}; known: {', '.join(STATISTICS)}")
    if units is None and NEED_UNITS & frozenset(statistics):
        raise _arrays.must("units", "be given for statistics per unit", "None")
    if n_units < 0:
        raise _arrays.must("n_units", "be >= 0", n_units)
    if "lag" in statistics and (query_times is None or key_times is None):
        raise _arrays.must("query_times and key_times", "be given for the lag", "None")
    if "top_k" in statistics and top_k < 1:
        raise _arrays.must("top_k", "be >= 1", top_k)


def _per_head(weights: Tensor, q: Tensor) -> Tensor:
    """Bring query weights to ``[B, H, Q]``."""
    if weights.ndim == 2:
        weights = weights[:, None]
    if (
        weights.ndim != 3
        or weights.shape[::2] != q.shape[:3:2]
        or weights.shape[1]
        not in (
            1,
            q.shape[1],
        )
    ):
        raise _arrays.must("query_weights", "have shape [B, Q] or [B, H, Q]", list(weights.shape))
    return weights.expand(q.shape[:3])

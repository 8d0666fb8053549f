"""Merge the partial attention of units: attention over any of them, without attending again.

``partials`` of :func:`attendrite.kernels.attention.attention` are, for each row (a query of a head
of a window), the attention over the keys of each unit alone: ``lse_u`` and ``output_u``. Attention
over the keys of a set of units is

    LSE = log sum_u exp(lse_u),    output = sum_u exp(lse_u - LSE) output_u,

exactly what is left when the others are removed (split softmax: Milakov and Gimelshein 2018,
arXiv:1805.02867). Only what is kept is added up, never all units minus the removed ones: that
difference is noise in float32 once the removed ones hold all but e^-16 of the weight.

Two forms. *Nested*: units are merged in the order of a ranking, one running sum for each row, and
the result is written at every cut. A ranking lists the last removed first: to remove the most
important first, give them from the least important on. *Kept*: conditions that have nothing to do
with each other, each merged from the start. What is always kept (START and END tokens, where only
spikes are removed) is a ``base``.

Floor, for P rankings of U' units, C cuts and N rows: an exponential for each unit and row, whatever
P; 2 P U' N D operations; P C N logarithms. Partials are read once, (D + 1) U N numbers, and results
written once, (D + 1) P C N numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _arrays
from .._operation import Operation

__all__ = ["OPERATION", "Pair", "merge_kept", "merge_nested"]

OPERATION = Operation(__name__)

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))

Pair = tuple[NDArray[Any], NDArray[Any]]
"""Log-sum-exps, natural, and outputs, which have one axis more, ``D``."""


def merge_nested(
    lse: NDArray[Any],
    output: NDArray[Any],
    order: NDArray[np.integer[Any]],
    cuts: NDArray[np.integer[Any]],
    *,
    base: Pair | None = None,
    allow_empty: bool = False,
    out: Pair | None = None,
    threads: int = 1,
    backend: str | None = None,
) -> Pair:
    """Merge units in the order of rankings, and return what is there at every cut.

    Args:
        lse: Log-sum-exp of each unit, ``[..., U]``, float32 or float64, contiguous; any axes before
            the last make the rows. Finite, or -inf for a unit without keys, whose output is not
            read. No argument is modified or kept.
        output: Output of each unit, ``[..., U, D]``, likewise.
        order: Rankings, ``[P, U']``, integers in ``0..U-1``, none twice in a ranking: first merged
            first, so last removed first. Units that a ranking does not list are removed throughout
            and may hold anything, NaN too.
        cuts: Numbers of units merged, ``[C]``, integers in ``0..U'``, ascending. 0 needs a base.
        base: What is always kept: ``[...]`` and ``[..., D]``, of the same kind.
        allow_empty: Accept that nothing is kept: ``lse`` -inf and output 0. So have rows of which
            no kept unit has keys, always.
        out: Arrays to write to, of the results' shapes and dtype, contiguous; ``None`` allocates.
            Beyond the results, each thread takes memory for a few rows of ``U`` and of ``D``.
        threads: Threads to use, among which rows are shared out; the result does not depend on it.
        backend: A backend by name; ``None`` takes the fastest one that does not refuse.

    Returns:
        ``[P, C, ...]`` and ``[P, C, ..., D]``, dtype of ``lse``: ``out`` where given. A NaN among
        what is merged makes its row NaN from there on.

    Raises:
        TypeError: A wrong dtype.
        ValueError: A wrong shape or an array that is not contiguous; a unit out of range or twice
            in a ranking; cuts out of range or not ascending; nothing kept.

    Example:
        >>> lse, output = np.log([[1.0, 1.0, 2.0]]), np.array([[[1.0], [3.0], [8.0]]])
        >>> merge_nested(lse, output, np.array([[0, 1, 2]]), np.array([1, 2, 3]))[1].ravel()
        array([1., 2., 5.])
    """
    _check_partials(lse, output, base)
    order, cuts = _integers("order", order, 2), _integers("cuts", cuts, 1)
    _check_order(order, lse.shape[-1])
    _check_cuts(cuts, order.shape[1], allow_empty or base is not None)
    each = np.ascontiguousarray(np.broadcast_to(cuts, (len(order), len(cuts))))
    return _run(lse, output, base, order, each, each.shape, out, threads, backend)


def merge_kept(
    lse: NDArray[Any],
    output: NDArray[Any],
    kept: NDArray[np.bool_],
    *,
    base: Pair | None = None,
    allow_empty: bool = False,
    out: Pair | None = None,
    threads: int = 1,
    backend: str | None = None,
) -> Pair:
    """Merge the units that each of some conditions keeps.

    Args:
        lse: As in :func:`merge_nested`, and so are all that are not described here.
        output: See there.
        kept: Whether a condition keeps a unit, ``[C, U]``, bool. Units may hold anything where they
            are not kept.
        base: See there.
        allow_empty: See there.
        out: See there.
        threads: See there.
        backend: See there.

    Returns:
        ``[C, ...]`` and ``[C, ..., D]``; as :func:`merge_nested`.

    Raises:
        TypeError: A wrong dtype.
        ValueError: A wrong shape, an array that is not contiguous, or nothing kept.

    Example:
        >>> lse, output = np.log([[1.0, 1.0, 2.0]]), np.array([[[1.0], [3.0], [8.0]]])
        >>> merge_kept(lse, output, np.array([[True, True, False], [False, True, True]]))[1].ravel()
        array([2.        , 6.33333333])
    """
    _check_partials(lse, output, base)
    if not isinstance(kept, np.ndarray) or kept.dtype != np.bool_:
        raise TypeError(f"kept must be a bool array, got {getattr(kept, 'dtype', type(kept))}")
    if kept.ndim != 2 or kept.shape[1] != lse.shape[-1]:
        raise _arrays.must("kept", f"have shape [C, {lse.shape[-1]}]", list(kept.shape))
    counts = kept.sum(1)
    if not (allow_empty or base is not None) and not counts.all():
        got = f"none in kept[{int(np.argmin(counts))}]"
        raise _arrays.must("kept", "keep a unit in each condition", got, _EMPTY)
    order = np.argsort(~kept, axis=1, kind="stable")  # the kept ones first
    return _run(lse, output, base, order, counts[:, None], (len(kept),), out, threads, backend)


_EMPTY = "give a base or set allow_empty"


def _run(
    lse: NDArray[Any], output: NDArray[Any], base: Pair | None, order: NDArray[np.int64],
    cuts: NDArray[np.int64], conditions: tuple[int, ...], out: Pair | None, threads: int,
    backend: str | None,
) -> Pair:  # fmt: skip
    """Merge ranking ``p`` up to each of its own ``cuts[p]``; results have axes ``conditions``."""
    _arrays.positive("threads", threads)
    *axes, n_units, width = output.shape
    shapes = ((*conditions, *axes), (*conditions, *axes, width))
    if out is None:
        out = np.empty(shapes[0], lse.dtype), np.empty(shapes[1], lse.dtype)
    for name, array, shape in zip(("out[0]", "out[1]"), out, shapes, strict=True):
        _check_array(name, array, shape, lse.dtype)
        if not array.flags.writeable:
            raise _arrays.must(name, "be writeable", "read-only", "pass a fresh array")
    n = lse.size // n_units if n_units else int(np.prod(axes))
    OPERATION.choose(backend).run(
        lse.reshape(n, n_units),
        output.reshape(n, n_units, width),
        None if base is None else (base[0].reshape(n), base[1].reshape(n, width)),
        order,
        cuts,
        (out[0].reshape(*cuts.shape, n), out[1].reshape(*cuts.shape, n, width)),
        threads=int(threads),
    )
    return out


def _check_partials(lse: NDArray[Any], output: NDArray[Any], base: Pair | None) -> None:
    if not isinstance(lse, np.ndarray) or lse.dtype not in DTYPES:
        known = ", ".join(map(str, DTYPES))
        raise TypeError(f"lse must be an array of {known}, got {_kind(lse)}")
    if lse.ndim < 1:
        raise _arrays.must("lse", "have shape [..., U]", list(lse.shape))
    _check_array("lse", lse, lse.shape, lse.dtype)
    _check_array("output", output, (*lse.shape, None), lse.dtype)
    if base is not None:
        _check_array("base[0]", base[0], lse.shape[:-1], lse.dtype)
        _check_array("base[1]", base[1], (*lse.shape[:-1], output.shape[-1]), lse.dtype)


def _check_array(
    name: str, array: NDArray[Any], shape: tuple[int | None, ...], dtype: np.dtype[Any]
) -> None:
    """Refuse what is not a contiguous array of a shape, in which ``None`` is the width."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise TypeError(f"{name} must be an array of {dtype}, got {_kind(array)}")
    wrong = (b not in (a, None) for a, b in zip(array.shape, shape, strict=False))
    if array.ndim != len(shape) or any(wrong):
        axes = ", ".join("D" if n is None else str(n) for n in shape)
        raise _arrays.must(name, f"have shape [{axes}]", list(array.shape))
    if not (array.flags.c_contiguous and array.flags.aligned):
        kind = "unaligned memory" if array.flags.c_contiguous else f"strides {array.strides}"
        raise _arrays.must(name, "be contiguous", kind, "use numpy.ascontiguousarray")


def _kind(array: object) -> str:
    return str(array.dtype) if isinstance(array, np.ndarray) else type(array).__name__


def _integers(name: str, array: Any, ndim: int) -> NDArray[np.int64]:
    array = np.asarray(array)
    if array.ndim != ndim:
        shape = "[P, U']" if ndim == 2 else "[C]"
        raise _arrays.must(name, f"have shape {shape}", list(array.shape))
    return _arrays.int64(name, array.ravel()).reshape(array.shape)


def _check_order(order: NDArray[np.int64], n_units: int) -> None:
    bad = np.argwhere((order < 0) | (order >= n_units))
    if len(bad):
        p, i = bad[0]
        raise _arrays.must("order", f"lie in 0..{n_units - 1}", f"order[{p}, {i}] = {order[p, i]}")
    ranked = np.sort(order, axis=1)
    bad = np.argwhere(ranked[:, 1:] == ranked[:, :-1])
    if len(bad):
        p, i = bad[0]
        got = f"unit {ranked[p, i]} twice in order[{p}]"
        raise _arrays.must("rankings", "list a unit once", got)


def _check_cuts(cuts: NDArray[np.int64], most: int, allow_empty: bool) -> None:
    bad = np.flatnonzero((cuts < 0) | (cuts > most))
    if len(bad):
        raise _arrays.must("cuts", f"lie in 0..{most}", f"cuts[{bad[0]}] = {cuts[bad[0]]}")
    bad = np.flatnonzero(cuts[1:] < cuts[:-1]) + 1
    if len(bad):
        got = f"cuts[{bad[0]}] = {cuts[bad[0]]} after {cuts[bad[0] - 1]}"
        raise _arrays.must("cuts", "be ascending", got, "sort them first")
    if not allow_empty and len(cuts) and cuts[0] == 0:
        raise _arrays.must("cuts", "be >= 1", "cuts[0] = 0", _EMPTY)

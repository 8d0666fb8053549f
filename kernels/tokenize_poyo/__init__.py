"""Tokens of POYO: START and END of every unit, and its spikes, for many windows at once.

Source: Azabou et al. 2023, "A unified, scalable framework for neural population decoding"
(arXiv:2310.16046), as torch_brain 0.1 to 0.2 does it. The model's output does not depend on the
order of the tokens, so there are two: ``time``, that of torch_brain (START and END of unit 0, of
unit 1, ..., then the spikes of all units in time order), and ``unit`` (START, END and spikes of
unit 0, then those of unit 1, ...), in which each unit is one contiguous range of keys.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import _arrays
from .._operation import Operation
from ._tokens import END, SPIKE, START, Tokens, Workspace

__all__ = [
    "END",
    "OPERATION",
    "SPIKE",
    "START",
    "Tokens",
    "Workspace",
    "tokenize_poyo",
    "window_ranges",
]

OPERATION = Operation(__name__)


def tokenize_poyo(
    times: NDArray[np.float64],
    units: NDArray[np.integer[Any]],
    *,
    begin: NDArray[np.integer[Any]],
    end: NDArray[np.integer[Any]],
    origin: NDArray[np.float64],
    length: float,
    n_units: int,
    window_units: NDArray[np.bool_] | None = None,
    order: Literal["time", "unit"] = "time",
    form: Literal["packed", "padded"] = "packed",
    pad_multiple: int = 8,
    tick_rate: float = 1e6,
    out: Workspace | None = None,
    threads: int = 1,
    backend: str | None = None,
) -> Tokens:
    """Make the tokens of ``B`` windows.

    Args:
        times: Spike times, ``[n]``, float64, seconds, sorted within each window. Not modified, not
            kept. Spikes in no window are not looked at.
        units: Unit of each spike, ``[n]``, int32 (other integers are converted), in ``0..N-1``.
        begin: Window ``w`` holds the spikes ``begin[w]:end[w]``, ``[B]``, int64; see
            :func:`window_ranges`. Windows may overlap and come in any order.
        end: ``[B]``, int64.
        origin: Time of the start of each window, ``[B]``, float64, seconds; token times count from
            it.
        length: Length of the windows, seconds, the time of their END tokens.
        n_units: Number of units ``N``.
        window_units: Which units exist in each window, ``[B, N]``, bool; ``None``: all. A unit that
            does not exist has no tokens, its spikes neither; a silent one that does has START and
            END.
        order: Order of the tokens of a window: ``"time"`` or ``"unit"``, see the module.
        form: ``"packed"`` gives flat arrays, ``"padded"`` one row per window and a mask.
        pad_multiple: Padded rows are as long as the longest window, rounded up to a multiple of it.
        tick_rate: Resolution of the times, Hz. A spike up to one tick before its window's start is
            accepted: :func:`window_ranges` counts it as on it.
        out: Memory to write to, kept between calls; ``None`` allocates.
        threads: Threads to use; the result does not depend on it.
        backend: A backend by name; ``None`` takes the fastest one.

    Returns:
        The tokens: views into ``out`` where it is given, else newly allocated.

    Raises:
        TypeError: Times are not float64, indices not integers, or ``window_units`` not bool.
        ValueError: Wrong shapes; in a window a time that is not finite, unsorted or outside the
            window, or a unit out of range.

    Example:
        >>> times, units = np.array([10.1, 10.4]), np.array([1, 0])
        >>> begin, end = window_ranges(times, np.array([10.0]), 1.0)
        >>> tokens = tokenize_poyo(
        ...     times, units, begin=begin, end=end, origin=np.array([10.0]), length=1.0, n_units=2
        ... )
        >>> tokens.unit, tokens.type
        (array([0, 0, 1, 1, 1, 0], dtype=int32), array([1, 2, 1, 2, 0, 0], dtype=int8))
    """
    times = _arrays.float64("times", times)
    units = _arrays.int32("units", units, times.shape[0])
    begin = _arrays.int64("begin", begin)
    end = _arrays.int64("end", end, begin.shape[0])
    origin = _arrays.float64("origin", origin, begin.shape[0])
    _check_numbers(length, n_units, pad_multiple, tick_rate, threads)
    _check_windows(begin, end, origin, times.shape[0])
    _arrays.one_of("order", order, ("time", "unit"))
    _arrays.one_of("form", form, ("packed", "padded"))
    if window_units is not None:
        window_units = _check_mask(window_units, (begin.shape[0], n_units))
    module = OPERATION.choose(backend, n_units=n_units)
    tokens: Tokens = module.run(
        times,
        units,
        begin=begin,
        end=end,
        origin=origin,
        length=float(length),
        n_units=n_units,
        window_units=window_units,
        order=order,
        form=form,
        pad_multiple=pad_multiple,
        tick_rate=float(tick_rate),
        out=out,
        threads=threads,
    )
    return tokens


def window_ranges(
    times: NDArray[np.float64],
    starts: NDArray[np.float64],
    length: float,
    tick_rate: float = 1e6,
    *,
    backend: str | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the spikes of each window ``[start, start + length)``, on integer ticks.

    A time counts as the tick ``round(time * tick_rate)``, so one within half a tick of an edge is
    on it: at a window's start inside, at its end outside.

    Args:
        times: Spike times, ``[n]``, float64, seconds, sorted. Not modified, not kept. Their order
            is not checked here, only where spikes are used.
        starts: Start of each window, ``[B]``, float64, seconds, any order.
        length: Length of the windows, seconds, a whole number of ticks.
        tick_rate: Ticks per second; the sampling rate of the recording where that is known.
        backend: A backend by name; ``None`` takes the fastest one.

    Returns:
        ``begin`` and ``end``, ``[B]``, int64: window ``w`` holds the spikes ``begin[w]:end[w]``.

    Raises:
        TypeError: Times or starts are not float64.
        ValueError: A start is not finite, or the length not a whole number of ticks.

    Example:
        >>> window_ranges(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5]), 0.5)
        (array([0, 1]), array([1, 2]))
    """
    times = _arrays.float64("times", times)
    starts = _arrays.float64("starts", starts)
    _arrays.positive("length", length, "number")
    _arrays.positive("tick_rate", tick_rate, "number")
    bad = np.flatnonzero(~np.isfinite(starts))
    if bad.size:
        raise _arrays.must("starts", "be finite", f"starts[{bad[0]}] = {starts[bad[0]]}")
    ticks = round(length * tick_rate)
    if ticks < 1 or abs(length * tick_rate - ticks) > 1e-6 * max(1.0, ticks * 1e-6):
        raise _arrays.must(
            "length",
            f"be a whole number of ticks of 1/{tick_rate:g} s",
            f"{length} s",
            "pass the tick_rate of the recording",
        )
    module = OPERATION.choose(backend)
    found: tuple[NDArray[np.int64], NDArray[np.int64]] = module.ranges(
        times, starts, ticks, float(tick_rate)
    )
    return found


def _check_numbers(
    length: float, n_units: int, pad_multiple: int, tick_rate: float, threads: int
) -> None:
    _arrays.positive("length", length, "number")
    _arrays.positive("tick_rate", tick_rate, "number")
    _arrays.positive("pad_multiple", pad_multiple)
    _arrays.positive("threads", threads)
    if not 0 <= n_units <= np.iinfo(np.int32).max:
        raise _arrays.must("n_units", "lie in 0..2147483647", n_units)


def _check_windows(
    begin: NDArray[np.int64], end: NDArray[np.int64], origin: NDArray[np.float64], n: int
) -> None:
    bad = (begin < 0) | (end < begin) | (end > n)
    if bad.any():
        w = int(bad.argmax())
        raise _arrays.must(
            "begin and end", f"be ranges within 0..{n}", f"{begin[w]}:{end[w]} for window {w}"
        )
    finite = np.isfinite(origin)
    if not finite.all():
        w = int(finite.argmin())
        raise _arrays.must("origin", "be finite", f"origin[{w}] = {origin[w]}")


def _check_mask(mask: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.asarray(mask)
    if mask.dtype != np.bool_:
        raise TypeError(f"window_units must be bool, got {mask.dtype}")
    if mask.shape != shape:
        raise _arrays.must("window_units", f"have shape {list(shape)}", list(mask.shape))
    return np.ascontiguousarray(mask)

"""Tiles of queries, keys and values: where they lie, how they turn, how results leave.

A width that is no power of two is held in two parts, 160 as 128 + 32: ``FIRST`` and ``WIDTH`` name
one of them, ``D`` the features that exist.
"""

from __future__ import annotations

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
LOW = tl.constexpr(2048.0)  # raises what half precision loses above its smallest numbers
CHUNK = tl.constexpr(16)  # slots summed by one product

# Sizes that differ from call to call: a kernel is not compiled again because one is 1, or divides.
VARYING = (
    "heads", "n_keys", "n_splits", "n_units", "n_slots", "n_tiles", "state_n", "final_n",
    "q_phase_b", "k_phase_b", "key_time_b",
)  # fmt: skip


@triton.jit
def turn(x, cos, sin):
    """Turn pairs of columns of ``x [N, 2P]`` by angles ``[N, P]``."""
    rows: tl.constexpr = x.shape[0]
    pairs: tl.constexpr = cos.shape[1]
    even, odd = tl.split(tl.reshape(x, (rows, pairs, 2)))
    turned = tl.join(even * cos - odd * sin, odd * cos + even * sin)
    return tl.reshape(turned, (rows, 2 * pairs))


@triton.jit
def angles(phase, places, exists, FIRST: tl.constexpr, WIDTH: tl.constexpr, F: tl.constexpr):
    """Load cosine and sine ``[N, WIDTH / 2]``; 1 and 0 for pairs that do not turn."""
    pair = FIRST // 2 + tl.arange(0, WIDTH // 2)
    at = phase + places[:, None] * (2 * F) + pair[None, :]
    turns = exists[:, None] & (pair < F)[None, :]
    return tl.load(at, mask=turns, other=1.0), tl.load(at + F, mask=turns, other=0.0)


@triton.jit
def features(
    base, rows, stride, exists, phase, places,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, F: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Load features ``FIRST`` to ``FIRST + WIDTH`` of rows, turned where they turn, else 0."""
    column = FIRST + tl.arange(0, WIDTH)
    at = base + rows.to(tl.int64)[:, None] * stride + column[None, :]
    if MASK:
        x = tl.load(at, mask=exists[:, None] & (column < D)[None, :], other=0.0)
    elif FIRST + WIDTH > D:
        x = tl.load(at, mask=(column < D)[None, :], other=0.0)
    else:
        x = tl.load(at)
    if 2 * F > FIRST:
        cos, sin = angles(phase, places, exists, FIRST, WIDTH, F)
        x = turn(x.to(tl.float32), cos, sin).to(x.dtype)
    return x


@triton.jit
def keys_of(lengths, b, n_keys, KEYS: tl.constexpr):
    """Return where the keys of an element begin in arrays ``[B, K]`` laid flat, and how many."""
    if KEYS == "packed":
        begin = tl.load(lengths + b).to(tl.int32)
        end = tl.load(lengths + b + 1).to(tl.int32)
        count = tl.minimum(end, n_keys) - begin
    elif KEYS == "lengths":
        begin = b * n_keys
        count = tl.minimum(tl.load(lengths + b).to(tl.int32), n_keys)
    else:
        begin = b * n_keys
        count = n_keys
    return begin, count


@triton.jit
def locate(
    begin, offsets, exists, position, row,
    KEYS: tl.constexpr, SORTED: tl.constexpr, TABLE: tl.constexpr,
):  # fmt: skip
    """Return the place of keys among those given, and their rows in ``k`` and ``v``."""
    if SORTED:
        place = tl.load(position + begin + offsets, mask=exists, other=0)
    elif KEYS == "packed":
        place = begin + offsets
    else:
        place = offsets
    rows = place
    if TABLE:
        rows = tl.load(row + begin + offsets, mask=exists, other=0)
    return place, rows


@triton.jit
def key_features(
    k, k_n, begin, offsets, exists, position, row, k_phase,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, F: tl.constexpr,
    KEYS: tl.constexpr, SORTED: tl.constexpr, TABLE: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Load features of keys or values."""
    place, rows = locate(begin, offsets, exists, position, row, KEYS, SORTED, TABLE)
    return features(k, rows, k_n, exists, k_phase, place, FIRST, WIDTH, D, F, MASK)


@triton.jit
def softmax_step(
    s, exists, m, d, t, scale, MASK: tl.constexpr, ENTROPY: tl.constexpr
):  # fmt: skip
    """Take scores ``s [Q, K]`` into the running maximum, sum, and sum of ``p log2 p``.

    Returns ``p``, the factor by which older sums shrink, and the new ``m``, ``d`` and ``t``.
    """
    if MASK:
        s = tl.where(exists[None, :], s, float("-inf"))
    top = tl.maximum(m, tl.max(s, 1) * scale)
    safe = tl.where(top == float("-inf"), 0.0, top)
    x = s * scale - safe[:, None]
    p = tl.math.exp2(x)
    shrink = tl.math.exp2(m - safe)
    if ENTROPY:
        if MASK:
            x = tl.where(exists[None, :], x, 0.0)  # not 0 times infinity
        t = shrink * (t + d * tl.where(m == float("-inf"), 0.0, m - safe)) + tl.sum(p * x, 1)
    d = d * shrink + tl.sum(p, 1)
    return p, shrink, top, d, t


@triton.jit
def store_output(
    out, o_n, acc, inverse, queries, valid, q_phase,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, DV: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Normalise, turn back and store a part of the output."""
    x = acc * inverse[:, None]
    if 2 * F > FIRST:
        cos, sin = angles(q_phase, queries, valid, FIRST, WIDTH, F)
        x = turn(x, cos, -sin)
    column = FIRST + tl.arange(0, WIDTH)
    at = out + queries.to(tl.int64)[:, None] * o_n + column[None, :]
    tl.store(at, x.to(out.dtype.element_ty), mask=valid[:, None] & (column < DV)[None, :])


@triton.jit
def store_rows(
    m, d, t, g, at, valid, lse, entropy, lag, query_time, final, final_n,
    LSE: tl.constexpr, ENTROPY: tl.constexpr, LAG: tl.constexpr, FINAL: tl.constexpr,
    time_at,
):  # fmt: skip
    """Store what there is one of for each query."""
    inverse = tl.where(d > 0, 1.0 / d, 0.0)
    if LSE:
        tl.store(lse + at, (m + tl.math.log2(d)) * LN2, mask=valid)
    if ENTROPY:
        bits = tl.where(d > 0, tl.maximum(tl.math.log2(d) - t * inverse, 0.0), 0.0)
        tl.store(entropy + at, bits * LN2, mask=valid)
    if LAG:
        time = tl.load(query_time + time_at, mask=valid, other=0.0)
        tl.store(lag + at, tl.where(d > 0, time - g * inverse, 0.0), mask=valid)
    if FINAL:
        tl.store(final + at, m, mask=valid)
        tl.store(final + final_n + at, d, mask=valid)


@triton.jit
def store_state(state, state_n, at, m, d, t, g, valid):
    """Store the sums of a part of the keys."""
    tl.store(state + at, m, mask=valid)
    tl.store(state + state_n + at, d, mask=valid)
    tl.store(state + 2 * state_n + at, t, mask=valid)
    tl.store(state + 3 * state_n + at, g, mask=valid)

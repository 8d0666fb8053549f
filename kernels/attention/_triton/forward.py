"""Output and what one pass over the keys can give, for a block of queries and a range of keys.

Online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867; Dao 2023, arXiv:2307.08691). Beside
the sum of ``p`` entropy keeps that of ``p log2 p``, and lag that of ``p time``.

Sums per unit: keys come sorted by unit, so a tile of keys holds a few runs of one unit each, its
*slots*. The tile's weights times a matrix of ones (key, slot) are one small product; it is stored
with the running maximum of the tile, nothing is read back, and ``sums.py`` adds the slots of a unit
when the final maximum is known. What half precision rounds away of a weight gets a product of
its own, so the sums are good to 2^-17.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import (
    CHUNK,
    LOW,
    VARYING,
    features,
    key_features,
    keys_of,
    locate,
    softmax_step,
    store_output,
    store_rows,
    store_state,
)  # fmt: skip


@triton.jit
def _store_chunk(
    sums, n_queries, first, last, mine, high, low, queries, valid, c
):  # fmt: skip
    column = c * CHUNK + tl.arange(0, CHUNK)
    member = (mine[:, None] == column[None, :]).to(high.dtype)
    total = tl.dot(high, member) + tl.dot(low, member) * (1.0 / LOW)
    slots = (first + column).to(tl.int64)
    at = sums + slots[None, :] * n_queries + queries[:, None]
    tl.store(at, total, mask=valid[:, None] & (first + column <= last)[None, :])


@triton.jit
def _step(
    at, end, q1, q2, acc1, acc2, m, d, t, g, queries, valid,
    k, v, k_n, v_n, k_phase, key_time, begin, position, row, slot,
    sums, tile_max, n_queries, scale,
    D: tl.constexpr, DV: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, V1: tl.constexpr,
    V2: tl.constexpr, F: tl.constexpr, FV: tl.constexpr, KEYS: tl.constexpr, SORTED: tl.constexpr,
    TABLE: tl.constexpr, ENTROPY: tl.constexpr, LAG: tl.constexpr, UNITS: tl.constexpr,
    BK: tl.constexpr, PRECISION: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    offsets = at + tl.arange(0, BK)
    exists = offsets < end
    k1 = key_features(
        k, k_n, begin, offsets, exists, position, row, k_phase,
        0, D1, D, F, KEYS, SORTED, TABLE, MASK,
    )  # fmt: skip
    s = tl.dot(q1, tl.trans(k1), input_precision=PRECISION)
    if D2 > 0:
        k2 = key_features(
            k, k_n, begin, offsets, exists, position, row, k_phase,
            D1, D2, D, F, KEYS, SORTED, TABLE, MASK,
        )  # fmt: skip
        s = tl.dot(q2, tl.trans(k2), s, input_precision=PRECISION)
    p, shrink, m, d, t = softmax_step(s, exists, m, d, t, scale, MASK, ENTROPY)
    if LAG:
        place, _rows = locate(begin, offsets, exists, position, row, KEYS, SORTED, TABLE)
        time = tl.load(key_time + place, mask=exists, other=0.0)
        g = g * shrink + tl.sum(p * time[None, :], 1)
    weights = p.to(v.dtype.element_ty)
    if UNITS:
        high = weights if weights.dtype != tl.float32 else p.to(tl.float16)
        low = ((p - high.to(tl.float32)) * LOW).to(high.dtype)
        first = tl.load(slot + begin + at)
        last = tl.load(slot + begin + tl.minimum(at + BK, end) - 1)
        mine = tl.load(slot + begin + offsets, mask=exists, other=-1) - first
        tl.store(tile_max + (at // BK) * n_queries + queries, m, mask=valid)
        _store_chunk(sums, n_queries, first, last, mine, high, low, queries, valid, 0)
        if first + CHUNK <= last:
            for c in range(1, (last - first) // CHUNK + 1):
                _store_chunk(sums, n_queries, first, last, mine, high, low, queries, valid, c)
    v1 = key_features(
        v, v_n, begin, offsets, exists, position, row, k_phase,
        0, V1, DV, FV, KEYS, SORTED, TABLE, MASK,
    )  # fmt: skip
    acc1 = tl.dot(weights, v1, acc1 * shrink[:, None], input_precision=PRECISION)
    if V2 > 0:
        v2 = key_features(
            v, v_n, begin, offsets, exists, position, row, k_phase,
            V1, V2, DV, FV, KEYS, SORTED, TABLE, MASK,
        )  # fmt: skip
        acc2 = tl.dot(weights, v2, acc2 * shrink[:, None], input_precision=PRECISION)
    return acc1, acc2, m, d, t, g


@triton.jit(do_not_specialize=VARYING)
def forward(
    q, k, v, out, q_phase, k_phase, query_time, key_time, lengths, position, row, slot,
    lse, entropy, lag, final, state, parts, sums, tile_max,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n,
    q_phase_b, k_phase_b, key_time_b, final_n, state_n, n_slots, n_tiles,
    heads, n_queries, n_keys, n_splits, scale,
    D: tl.constexpr, DV: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, V1: tl.constexpr,
    V2: tl.constexpr, F: tl.constexpr, FV: tl.constexpr, KEYS: tl.constexpr, SORTED: tl.constexpr,
    TABLE: tl.constexpr, LSE: tl.constexpr, ENTROPY: tl.constexpr, LAG: tl.constexpr,
    UNITS: tl.constexpr, FINAL: tl.constexpr, SPLIT: tl.constexpr, OUT: tl.constexpr,
    BQ: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend from ``BQ`` queries to a split of the keys; grid: query blocks x splits x (B, H)."""
    n_blocks = tl.cdiv(n_queries, BQ)
    pid = tl.program_id(0)
    block = pid % n_blocks
    split = (pid // n_blocks) % n_splits
    bh = pid // n_blocks // n_splits
    b = bh // heads
    h = bh % heads
    begin, count = keys_of(lengths, b, n_keys, KEYS)
    size = tl.cdiv(tl.cdiv(count, BK), n_splits) * BK
    low = split * size
    high = tl.minimum(low + size, count)

    queries = block * BQ + tl.arange(0, BQ)
    valid = queries < n_queries
    q += b.to(tl.int64) * q_b + h.to(tl.int64) * q_h
    k += b.to(tl.int64) * k_b + h.to(tl.int64) * k_h
    v += b.to(tl.int64) * v_b + h.to(tl.int64) * v_h
    q_phase += b.to(tl.int64) * q_phase_b * (2 * F)
    k_phase += b.to(tl.int64) * k_phase_b * (2 * F)
    key_time += b.to(tl.int64) * key_time_b
    sums += h.to(tl.int64) * n_slots * n_queries
    tile_max += (h.to(tl.int64) * n_tiles + begin // BK + b) * n_queries

    q1 = features(q, queries, q_n, valid, q_phase, queries, 0, D1, D, F, True)
    q2 = q1
    acc1 = tl.zeros((BQ, V1), tl.float32)
    acc2 = tl.zeros((1, 1), tl.float32)
    if D2 > 0:
        q2 = features(q, queries, q_n, valid, q_phase, queries, D1, D2, D, F, True)
    if V2 > 0:
        acc2 = tl.zeros((BQ, V2), tl.float32)
    m = tl.full((BQ,), float("-inf"), tl.float32)
    d = tl.zeros((BQ,), tl.float32)
    t = tl.zeros((BQ,), tl.float32)
    g = tl.zeros((BQ,), tl.float32)
    whole = low + tl.maximum(high - low, 0) // BK * BK
    for at in tl.range(low, whole, BK):
        acc1, acc2, m, d, t, g = _step(
            at, high, q1, q2, acc1, acc2, m, d, t, g, queries, valid,
            k, v, k_n, v_n, k_phase, key_time, begin, position, row, slot,
            sums, tile_max, n_queries, scale,
            D, DV, D1, D2, V1, V2, F, FV, KEYS, SORTED, TABLE, ENTROPY, LAG, UNITS, BK, PRECISION,
            False,
        )  # fmt: skip
    for at in tl.range(whole, high, BK, num_stages=1):
        acc1, acc2, m, d, t, g = _step(
            at, high, q1, q2, acc1, acc2, m, d, t, g, queries, valid,
            k, v, k_n, v_n, k_phase, key_time, begin, position, row, slot,
            sums, tile_max, n_queries, scale,
            D, DV, D1, D2, V1, V2, F, FV, KEYS, SORTED, TABLE, ENTROPY, LAG, UNITS, BK, PRECISION,
            True,
        )  # fmt: skip

    if SPLIT:
        at = (bh.to(tl.int64) * n_splits + split) * n_queries
        store_state(state, state_n, at + queries, m, d, t, g, valid)
        one = tl.full((BQ,), 1.0, tl.float32)
        parts += at * (V1 + V2)
        store_output(parts, V1 + V2, acc1, one, queries, valid, q_phase, 0, V1, V1, 0)
        if V2 > 0:
            store_output(parts, V1 + V2, acc2, one, queries, valid, q_phase, V1, V2, V1 + V2, 0)
    else:
        at = bh.to(tl.int64) * n_queries + queries
        store_rows(
            m, d, t, g, at, valid, lse, entropy, lag, query_time, final, final_n,
            LSE, ENTROPY, LAG, FINAL, b * n_queries + queries,
        )  # fmt: skip
        inverse = tl.where(d > 0, 1.0 / d, 0.0)
        out += b.to(tl.int64) * o_b + h.to(tl.int64) * o_h
        store_output(out, o_n, acc1, inverse, queries, valid, q_phase, 0, V1, OUT, FV)
        if V2 > 0:
            store_output(out, o_n, acc2, inverse, queries, valid, q_phase, V1, V2, OUT, FV)


@triton.jit(do_not_specialize=VARYING)
def merge(
    out, q_phase, query_time, lse, entropy, lag, final, state, parts,
    o_b, o_h, o_n, q_phase_b, final_n, state_n, heads, n_queries, n_splits,
    OUT: tl.constexpr, V1: tl.constexpr, V2: tl.constexpr, FV: tl.constexpr,
    LSE: tl.constexpr, ENTROPY: tl.constexpr, LAG: tl.constexpr, FINAL: tl.constexpr,
    BQ: tl.constexpr,
):  # fmt: skip
    """Put the splits together, in their order; grid: query blocks x (B, H)."""
    n_blocks = tl.cdiv(n_queries, BQ)
    pid = tl.program_id(0)
    bh = pid // n_blocks
    b = bh // heads
    h = bh % heads
    queries = pid % n_blocks * BQ + tl.arange(0, BQ)
    valid = queries < n_queries
    start = bh.to(tl.int64) * n_splits * n_queries
    m = tl.full((BQ,), float("-inf"), tl.float32)
    for i in range(n_splits):
        at = start + i * n_queries + queries
        m = tl.maximum(m, tl.load(state + at, mask=valid, other=float("-inf")))
    safe = tl.where(m == float("-inf"), 0.0, m)
    d = tl.zeros((BQ,), tl.float32)
    t = tl.zeros((BQ,), tl.float32)
    g = tl.zeros((BQ,), tl.float32)
    acc1 = tl.zeros((BQ, V1), tl.float32)
    acc2 = tl.zeros((1, 1), tl.float32)
    if V2 > 0:
        acc2 = tl.zeros((BQ, V2), tl.float32)
    for i in range(n_splits):
        at = start + i * n_queries + queries
        mi = tl.load(state + at, mask=valid, other=float("-inf"))
        di = tl.load(state + state_n + at, mask=valid, other=0.0)
        share = tl.math.exp2(mi - safe)
        d += share * di
        if ENTROPY:
            ti = tl.load(state + 2 * state_n + at, mask=valid, other=0.0)
            t += share * (ti + di * tl.where(mi == float("-inf"), 0.0, mi - safe))
        if LAG:
            g += share * tl.load(state + 3 * state_n + at, mask=valid, other=0.0)
        x = features(parts, at, V1 + V2, valid, parts, queries, 0, V1, V1, 0, True)
        acc1 += x * share[:, None]
        if V2 > 0:
            x = features(parts, at, V1 + V2, valid, parts, queries, V1, V2, V1 + V2, 0, True)
            acc2 += x * share[:, None]
    store_rows(
        m, d, t, g, bh.to(tl.int64) * n_queries + queries, valid,
        lse, entropy, lag, query_time, final, final_n,
        LSE, ENTROPY, LAG, FINAL, b * n_queries + queries,
    )  # fmt: skip
    inverse = tl.where(d > 0, 1.0 / d, 0.0)
    q_phase += b.to(tl.int64) * q_phase_b * (2 * FV)
    out += b.to(tl.int64) * o_b + h.to(tl.int64) * o_h
    store_output(out, o_n, acc1, inverse, queries, valid, q_phase, 0, V1, OUT, FV)
    if V2 > 0:
        store_output(out, o_n, acc2, inverse, queries, valid, q_phase, V1, V2, OUT, FV)

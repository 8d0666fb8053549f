"""What needs the final maximum and sum of each query: sums per unit, sums per key, weights."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import VARYING, features, key_features, keys_of


@triton.jit(do_not_specialize=VARYING)
def per_unit(
    sums, tile_max, final, weights, lengths, slot, offsets, unit_sums, query_unit_sums,
    final_n, n_slots, n_tiles, heads, n_queries, n_keys, n_units,
    KEYS: tl.constexpr, WHOLE: tl.constexpr, WEIGHTED: tl.constexpr, UNIT: tl.constexpr,
    QUERY_UNIT: tl.constexpr, BK: tl.constexpr, BU: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """Add the slots of ``BU`` units, for all queries; grid: unit blocks x (B, H).

    ``WHOLE``: a unit has one slot, from ``partials``; else one in each tile of ``BK`` keys.
    """
    n_blocks = tl.cdiv(n_units, BU)
    pid = tl.program_id(0)
    bh = pid // n_blocks
    b = bh // heads
    h = bh % heads
    units = pid % n_blocks * BU + tl.arange(0, BU)
    known = units < n_units
    begin, _count = keys_of(lengths, b, n_keys, KEYS)
    low = tl.load(offsets + b * (n_units + 2) + units + 1, mask=known, other=0)
    high = tl.load(offsets + b * (n_units + 2) + units + 2, mask=known, other=0)
    if WHOLE:
        count = (high > low).to(tl.int32)
        slots = b * (n_units + 1) + units + 1
        tiles = slots
    else:
        count = tl.where(high > low, (high - 1) // BK - low // BK + 1, 0)
        slots = tl.load(slot + begin + low, mask=count > 0, other=0)
        tiles = begin // BK + b + low // BK
    most = tl.max(count, 0)
    sums += h.to(tl.int64) * n_slots * n_queries
    tile_max += h.to(tl.int64) * n_tiles * n_queries
    at_unit = bh.to(tl.int64) * n_units + units
    total = tl.zeros((BU,), tl.float32)
    for at in range(0, n_queries, BQ):
        queries = at + tl.arange(0, BQ)
        valid = queries < n_queries
        row = bh.to(tl.int64) * n_queries + queries
        d = tl.load(final + final_n + row, mask=valid, other=0.0)
        m = tl.where(d > 0, tl.load(final + row, mask=valid, other=0.0), 0.0)
        share = tl.zeros((BU, BQ), tl.float32)
        for j in range(most):
            mask = (j < count)[:, None] & valid[None, :]
            one = (slots + j).to(tl.int64)[:, None] * n_queries + queries[None, :]
            top = (tiles + j).to(tl.int64)[:, None] * n_queries + queries[None, :]
            x = tl.load(sums + one, mask=mask, other=0.0)
            y = tl.load(tile_max + top, mask=mask, other=float("-inf"))
            share += x * tl.math.exp2(y - m[None, :])
        share *= tl.where(d > 0, 1.0 / d, 0.0)[None, :]
        if QUERY_UNIT:
            to = query_unit_sums + at_unit[:, None] * n_queries + queries[None, :]
            tl.store(to, share, mask=known[:, None] & valid[None, :])
        if WEIGHTED:
            w = tl.load(weights + row, mask=valid, other=0.0)
            share *= w[None, :]
        total += tl.sum(share, 1)
    if UNIT:
        tl.store(unit_sums + at_unit, total, mask=known)


@triton.jit(do_not_specialize=VARYING)
def per_key(
    q, k, q_phase, k_phase, lengths, row, final, query_weights, key_sums, weights,
    q_b, q_h, q_n, k_b, k_h, k_n, q_phase_b, k_phase_b, final_n,
    heads, n_queries, n_keys, longest, scale,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, F: tl.constexpr, KEYS: tl.constexpr,
    TABLE: tl.constexpr, WEIGHTED: tl.constexpr, KEY: tl.constexpr, WEIGHTS: tl.constexpr,
    BQ: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Look at the scores again, with the final sums; grid: key blocks x (B, H), queries inside."""
    n_blocks = tl.cdiv(longest, BK)
    pid = tl.program_id(0)
    bh = pid // n_blocks
    b = bh // heads
    h = bh % heads
    begin, count = keys_of(lengths, b, n_keys, KEYS)
    keys = pid % n_blocks * BK + tl.arange(0, BK)
    exists = keys < count
    q += b.to(tl.int64) * q_b + h.to(tl.int64) * q_h
    k += b.to(tl.int64) * k_b + h.to(tl.int64) * k_h
    q_phase += b.to(tl.int64) * q_phase_b * (2 * F)
    k_phase += b.to(tl.int64) * k_phase_b * (2 * F)
    k1 = key_features(
        k, k_n, begin, keys, exists, row, row, k_phase, 0, D1, D, F, KEYS, False, TABLE, True
    )
    k2 = k1
    if D2 > 0:
        k2 = key_features(
            k, k_n, begin, keys, exists, row, row, k_phase, D1, D2, D, F, KEYS, False, TABLE, True
        )
    total = tl.zeros((BQ, BK), tl.float32)
    for at in range(0, n_queries, BQ):
        queries = at + tl.arange(0, BQ)
        valid = queries < n_queries
        # the same product as in the first pass: at scores of 1e4 another rounding is another weight
        q1 = features(q, queries, q_n, valid, q_phase, queries, 0, D1, D, F, True)
        s = tl.dot(q1, tl.trans(k1), input_precision=PRECISION)
        if D2 > 0:
            q2 = features(q, queries, q_n, valid, q_phase, queries, D1, D2, D, F, True)
            s = tl.dot(q2, tl.trans(k2), s, input_precision=PRECISION)
        one = bh.to(tl.int64) * n_queries + queries
        d = tl.load(final + final_n + one, mask=valid, other=0.0)
        m = tl.where(d > 0, tl.load(final + one, mask=valid, other=0.0), 0.0)
        inverse = tl.where(d > 0, 1.0 / d, 0.0)
        p = tl.math.exp2(s * scale - m[:, None]) * inverse[:, None]
        p = tl.where(exists[None, :], p, 0.0)
        if WEIGHTS:
            to = weights + one[:, None] * longest + keys[None, :]
            tl.store(to, p, mask=valid[:, None] & (keys < longest)[None, :])
        if WEIGHTED:
            p *= tl.load(query_weights + one, mask=valid, other=0.0)[:, None]
        total += p
    if KEY:
        to = key_sums + bh.to(tl.int64) * longest + keys
        tl.store(to, tl.sum(total, 0), mask=keys < longest)

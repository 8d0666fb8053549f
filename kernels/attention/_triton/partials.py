"""Attention over the keys of each unit apart, and the output merged from them, in one pass.

A unit is a range of the sorted keys, hence an ordinary split with a maximum of its own: one far
below the others keeps its digits. Programs take some units each; their merged sums are the splits
that :func:`forward.merge` puts together.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import (
    LN2,
    VARYING,
    features,
    key_features,
    keys_of,
    locate,
    softmax_step,
    store_output,
    store_state,
)  # fmt: skip


@triton.jit(do_not_specialize=VARYING)
def partials(
    q, k, v, q_phase, k_phase, key_time, lengths, position, row, offsets,
    unit_lse, unit_out, state, parts, sums, tile_max,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    q_phase_b, k_phase_b, key_time_b, state_n, n_slots,
    heads, n_queries, n_keys, n_units, n_splits, scale,
    D: tl.constexpr, DV: tl.constexpr, OUT: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    V1: tl.constexpr, V2: tl.constexpr, F: tl.constexpr, FV: tl.constexpr, KEYS: tl.constexpr,
    TABLE: tl.constexpr, ENTROPY: tl.constexpr, LAG: tl.constexpr, UNITS: tl.constexpr,
    BQ: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend from ``BQ`` queries to some units; grid: query blocks x splits x (B, H).

    Units are counted from 1 here: 0 are the keys of none, which count for the output only.
    """
    n_blocks = tl.cdiv(n_queries, BQ)
    pid = tl.program_id(0)
    split = (pid // n_blocks) % n_splits
    bh = pid // n_blocks // n_splits
    b = bh // heads
    h = bh % heads
    begin, _count = keys_of(lengths, b, n_keys, KEYS)
    size = tl.cdiv(n_units + 1, n_splits)
    queries = pid % n_blocks * BQ + tl.arange(0, BQ)
    valid = queries < n_queries
    q += b.to(tl.int64) * q_b + h.to(tl.int64) * q_h
    k += b.to(tl.int64) * k_b + h.to(tl.int64) * k_h
    v += b.to(tl.int64) * v_b + h.to(tl.int64) * v_h
    q_phase += b.to(tl.int64) * q_phase_b * (2 * F)
    k_phase += b.to(tl.int64) * k_phase_b * (2 * F)
    key_time += b.to(tl.int64) * key_time_b
    offsets += b * (n_units + 2)
    sums += h.to(tl.int64) * n_slots * n_queries
    tile_max += h.to(tl.int64) * n_slots * n_queries
    unit_lse += bh.to(tl.int64) * n_units * n_queries
    unit_out += bh.to(tl.int64) * n_units * n_queries * OUT

    q1 = features(q, queries, q_n, valid, q_phase, queries, 0, D1, D, F, True)
    q2 = q1
    if D2 > 0:
        q2 = features(q, queries, q_n, valid, q_phase, queries, D1, D2, D, F, True)
    all_acc1 = tl.zeros((BQ, V1), tl.float32)
    all_acc2 = tl.zeros((1, 1), tl.float32)
    if V2 > 0:
        all_acc2 = tl.zeros((BQ, V2), tl.float32)
    all_m = tl.full((BQ,), float("-inf"), tl.float32)
    all_d = tl.zeros((BQ,), tl.float32)
    all_t = tl.zeros((BQ,), tl.float32)
    all_g = tl.zeros((BQ,), tl.float32)
    for u in range(split * size, tl.minimum(split * size + size, n_units + 1)):
        end = tl.load(offsets + u + 1)
        m = tl.full((BQ,), float("-inf"), tl.float32)
        d = tl.zeros((BQ,), tl.float32)
        t = tl.zeros((BQ,), tl.float32)
        g = tl.zeros((BQ,), tl.float32)
        acc1 = tl.zeros((BQ, V1), tl.float32)
        acc2 = tl.zeros((1, 1), tl.float32)
        if V2 > 0:
            acc2 = tl.zeros((BQ, V2), tl.float32)
        for at in range(tl.load(offsets + u), end, BK):
            keys = at + tl.arange(0, BK)
            exists = keys < end
            k1 = key_features(
                k, k_n, begin, keys, exists, position, row, k_phase,
                0, D1, D, F, KEYS, True, TABLE, True,
            )  # fmt: skip
            s = tl.dot(q1, tl.trans(k1), input_precision=PRECISION)
            if D2 > 0:
                k2 = key_features(
                    k, k_n, begin, keys, exists, position, row, k_phase,
                    D1, D2, D, F, KEYS, True, TABLE, True,
                )  # fmt: skip
                s = tl.dot(q2, tl.trans(k2), s, input_precision=PRECISION)
            p, shrink, m, d, t = softmax_step(s, exists, m, d, t, scale, True, ENTROPY)
            if LAG:
                place, _rows = locate(begin, keys, exists, position, row, KEYS, True, TABLE)
                time = tl.load(key_time + place, mask=exists, other=0.0)
                g = g * shrink + tl.sum(p * time[None, :], 1)
            p = p.to(v.dtype.element_ty)
            v1 = key_features(
                v, v_n, begin, keys, exists, position, row, k_phase,
                0, V1, DV, FV, KEYS, True, TABLE, True,
            )  # fmt: skip
            acc1 = tl.dot(p, v1, acc1 * shrink[:, None], input_precision=PRECISION)
            if V2 > 0:
                v2 = key_features(
                    v, v_n, begin, keys, exists, position, row, k_phase,
                    V1, V2, DV, FV, KEYS, True, TABLE, True,
                )  # fmt: skip
                acc2 = tl.dot(p, v2, acc2 * shrink[:, None], input_precision=PRECISION)

        if u > 0:
            at_unit = tl.cast(u - 1, tl.int64) * n_queries
            tl.store(unit_lse + at_unit + queries, (m + tl.math.log2(d)) * LN2, mask=valid)
            inverse = tl.where(d > 0, 1.0 / d, 0.0)
            out = unit_out + at_unit * OUT
            store_output(out, OUT, acc1, inverse, queries, valid, q_phase, 0, V1, OUT, FV)
            if V2 > 0:
                store_output(out, OUT, acc2, inverse, queries, valid, q_phase, V1, V2, OUT, FV)
        if UNITS:
            at_slot = (b * (n_units + 1) + u).to(tl.int64) * n_queries + queries
            tl.store(sums + at_slot, d, mask=valid)
            tl.store(tile_max + at_slot, m, mask=valid)

        top = tl.maximum(all_m, m)
        safe = tl.where(top == float("-inf"), 0.0, top)
        old = tl.math.exp2(all_m - safe)
        new = tl.math.exp2(m - safe)
        if ENTROPY:
            all_t = old * (all_t + all_d * tl.where(all_d > 0, all_m - safe, 0.0))
            all_t += new * (t + d * tl.where(d > 0, m - safe, 0.0))
        all_d = old * all_d + new * d
        all_g = old * all_g + new * g
        all_acc1 = old[:, None] * all_acc1 + new[:, None] * acc1
        if V2 > 0:
            all_acc2 = old[:, None] * all_acc2 + new[:, None] * acc2
        all_m = top

    at = (bh.to(tl.int64) * n_splits + split) * n_queries
    store_state(state, state_n, at + queries, all_m, all_d, all_t, all_g, valid)
    one = tl.full((BQ,), 1.0, tl.float32)
    parts += at * (V1 + V2)
    store_output(parts, V1 + V2, all_acc1, one, queries, valid, q_phase, 0, V1, V1, 0)
    if V2 > 0:
        store_output(parts, V1 + V2, all_acc2, one, queries, valid, q_phase, V1, V2, V1 + V2, 0)

"""The loops that numba compiles."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, uint32, uint64

FACTOR_0, FACTOR_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
HALF = np.uint64(32)
STEP = np.float32(2.0**-24)

compiled = njit(nogil=True, error_model="numpy")


@njit(inline="always")
def philox(c0, c1, c2, c3, k0, k1):
    """Turn a counter of four words and a key of two into four words; all uint32."""
    for _ in range(10):
        p = FACTOR_0 * uint64(c0)
        q = FACTOR_1 * uint64(c2)
        c0 = uint32(uint32(q >> HALF) ^ c1 ^ k0)
        c1 = uint32(q)
        c2 = uint32(uint32(p >> HALF) ^ c3 ^ k1)
        c3 = uint32(p)
        k0 = uint32(k0 + WEYL_0)
        k1 = uint32(k1 + WEYL_1)
    return c0, c1, c2, c3


@compiled
def one(counter, key):
    """Return the words of one block, for tests."""
    return philox(counter[0], counter[1], counter[2], counter[3], key[0], key[1])


@compiled
def uniform(out, first, k0, k1, stream):  # [n, size]
    n, size = out.shape
    for i in range(n):
        number = first + uint64(i)
        low, high = uint32(number), uint32(number >> HALF)
        for j in range(size // 4):
            a, b, c, d = philox(uint32(j), low, high, stream, k0, k1)
            out[i, 4 * j] = np.float32(a >> uint32(8)) * STEP
            out[i, 4 * j + 1] = np.float32(b >> uint32(8)) * STEP
            out[i, 4 * j + 2] = np.float32(c >> uint32(8)) * STEP
            out[i, 4 * j + 3] = np.float32(d >> uint32(8)) * STEP
        j = size // 4
        last = philox(uint32(j), low, high, stream, k0, k1)
        for p in range(4 * j, size):
            out[i, p] = np.float32(last[p - 4 * j] >> uint32(8)) * STEP


@compiled
def binary(out, first, k0, k1, stream):  # [n, size]
    n, size = out.shape
    for i in range(n):
        number = first + uint64(i)
        low, high = uint32(number), uint32(number >> HALF)
        for j in range(-(-size // 128)):
            random = philox(uint32(j), low, high, stream, k0, k1)
            for w in range(4):
                start = 128 * j + 32 * w
                for p in range(min(32, size - start)):
                    bit = np.int32((random[w] >> uint32(p)) & uint32(1))
                    out[i, start + p] = np.float32(2 * bit - 1)


@compiled
def gaussian(out, first, k0, k1, stream):  # [n, size]
    n, size = out.shape
    for i in range(n):
        number = first + uint64(i)
        low, high = uint32(number), uint32(number >> HALF)
        for j in range(-(-size // 4)):
            a, b, c, d = philox(uint32(j), low, high, stream, k0, k1)
            for k in range(2):
                word, turn = (a, b) if k == 0 else (c, d)
                p = 4 * j + 2 * k
                radius = math.sqrt(-2 * math.log((np.float64(word) + 1) * 2.0**-32))
                angle = 2 * math.pi * 2.0**-32 * np.float64(turn)
                if p < size:
                    out[i, p] = radius * math.cos(angle)
                if p + 1 < size:
                    out[i, p + 1] = radius * math.sin(angle)

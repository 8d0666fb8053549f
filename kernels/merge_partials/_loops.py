"""The loops that numba compiles.

``exp(lse)`` of every unit is taken apart once, into ``m 2^e`` with a whole ``e``; all rankings of a
row share it. A running sum is kept over ``2^top``, so that a weight is ``m 2^(e - top)``: a product
with a power of two from a table, which is exact, and so is moving ``top``. What lies too far below
``top`` for the dtype is 0.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LOG2_E = 1 / math.log(2)
# log(2) in two parts, as in fdlibm: products of the first with whole numbers to 2^20 are exact.
LOG_2, LOG_2_REST = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# Taylor series of exp up to log(2) / 2, to the accuracy of float64.
SERIES = tuple(1 / math.factorial(k) for k in range(13, -1, -1))
LINE = 64  # bytes that come from memory together

# Multiply-adds may be fused, sums not reordered: a row's bits depend on nothing but the row.
compiled = njit(nogil=True, error_model="numpy", fastmath={"contract"})


@intrinsic
def fetch(_typing, array, index):
    """Ask for the line of ``array.flat[index]`` to be brought into the cache; never fails."""

    def emit(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte = ir.IntType(8).as_pointer()
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        call = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(call, [place, *(number(x) for x in (0, 2, 1))])  # to read, often, data
        return context.get_dummy_value()

    return types.void(array, types.intp), emit


@compiled
def take_apart(lse, mantissa, exponent):  # [n]
    """Write ``exp(lse)`` as ``mantissa 2^exponent``; a mantissa means nothing at -inf."""
    for i in range(lse.size):
        x = np.float64(lse[i])
        e = np.rint(x * LOG2_E)
        rest = (x - e * LOG_2) - e * LOG_2_REST
        rest = min(max(rest, -0.5), 0.5)  # rounding of numbers beyond 1e15 may exceed log(2) / 2
        y = SERIES[0]
        for factor in SERIES[1:]:
            y = y * rest + factor
        mantissa[i] = y
        exponent[i] = e


@compiled
def scale(powers, exponent, growth):
    """Return ``2^exponent`` for a whole ``exponent`` of at most ``growth``; NaN gives 0."""
    steps = growth - exponent
    last = len(powers) - 1
    return powers[int(steps) if steps < last else last]


@compiled
def merge_rows(
    lse,  # [N, U]
    output,  # [N, U, D]
    base_lse,  # [N], -inf where there is no base
    base_output,  # [N, D]; [1, D] without one
    order,  # [P, U']
    cuts,  # [P, C]
    out_lse,  # [P, C, N]
    out_output,  # [P, C, N, D]
    begin,
    end,
    powers,
    growth,
    mantissa,  # [R, U + 1]; from here on memory to work in, for R rows at a time
    exponent,  # [R, U + 1]
    sums,  # [R, D]
    running,  # [2, R]: exponents and sums of weights
):
    """Merge rows ``begin..end-1``."""
    _, n_units, width = output.shape
    size = len(sums)
    line = LINE // lse.itemsize
    tops, totals = running
    for first in range(begin, end, size):
        rows = min(size, end - first)
        for r in range(rows):
            n = first + r
            take_apart(lse[n], mantissa[r], exponent[r])
            take_apart(base_lse[n : n + 1], mantissa[r, n_units:], exponent[r, n_units:])
        for p in range(len(order)):
            for r in range(rows):
                tops[r] = exponent[r, n_units]
                if tops[r] == -np.inf:
                    totals[r] = 0
                    sums[r] = 0
                else:
                    totals[r] = mantissa[r, n_units]
                    for d in range(width):
                        sums[r, d] = mantissa[r, n_units] * base_output[first + r, d]
            start = 0
            for c in range(cuts.shape[1]):
                stop = cuts[p, c]
                for r in range(rows):
                    n, top, total = first + r, tops[r], totals[r]
                    for i in range(start, stop):
                        u = order[p, i]
                        if p == len(order) - 1:  # the next rows come while these are merged
                            for d in range(0, width, line):
                                fetch(output, ((n + rows) * n_units + u) * width + d)
                        e = exponent[r, u]
                        if e == -np.inf:
                            continue
                        if e > top + growth:
                            less = scale(powers, top - e, growth)
                            total *= less
                            for d in range(width):
                                sums[r, d] *= less
                            top = e
                        weight = mantissa[r, u] * scale(powers, e - top, growth)
                        total += weight
                        for d in range(width):
                            sums[r, d] += weight * output[n, u, d]
                    tops[r], totals[r] = top, total
                    share = lse.dtype.type(1 / total if total != 0 else 0)
                    out_lse[p, c, n] = top * LOG_2 + (top * LOG_2_REST + math.log(total))
                    for d in range(width):
                        out_output[p, c, n, d] = share * sums[r, d]
                start = stop

"""The loops that numba compiles.

Amplitude and offset do not enter the sums over pixels, so one sweep serves the sum of squares at a
trial point and, where that is accepted, the next step too. Along a row only ``v1`` changes: eleven
sums, which then count for the moments times powers of ``v2``. Pixels where the Gaussian is below
``2^-DEPTH`` are passed over: they would change sums by as much as rounding does a centre.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ._frame import LOG_2, NARROWEST, OBLONG

DEPTH = 30.0
LANES = 4  # rows are cut where vectors end
LONGEST = 1.5  # step: a shift by a width and a quarter, widths times three
NEAR = 0.01  # a step that changes the sum of squares by this share: second derivatives hold
DAMPING, LEAST, MOST = 1e-2, 1e-12, 1e8
SINGULAR = 1e-13  # of a pivot, against its diagonal: what rounding leaves

FLOOR = 1e-7  # least share of the variance that is noise, else no step is short where there is none
SLACK = 1e-13  # share of the variance that rounding of sums may make of nothing

# 2^x on [-1/2, 1/2]: Chebyshev interpolation, relative error below 2e-14
POWER = tuple(
    np.polynomial.Chebyshev.interpolate(np.exp2, 9, [-0.5, 0.5])
    .convert(kind=np.polynomial.Polynomial).coef[::-1].tolist()
)  # fmt: skip
WHOLE = 1.5 * 2.0**52  # added to a whole number, it leaves that in the lowest bits

# Sums may be reordered into lanes. A map's bits depend on nothing but the map all the same.
compiled = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


@intrinsic
def times_power(_typing, number, exponent):
    """Return ``number 2^n``; ``exponent`` is ``n + WHOLE``. Not checked for overflow."""

    def emit(_context, builder, _signature, arguments):
        bits, double = ir.IntType(64), ir.DoubleType()
        number, exponent = (builder.bitcast(x, bits) for x in arguments)
        shifted = builder.shl(exponent, ir.Constant(bits, 52))
        return builder.bitcast(builder.add(number, shifted), double)

    return types.float64(types.float64, types.float64), emit


@compiled
def power_of_2(x):
    """Return ``2^x`` for ``-1000 < x <= 0``, in a form that runs in lanes."""
    whole = np.rint(x)
    rest = x - whole
    y = POWER[0]
    for factor in POWER[1:]:
        y = y * rest + factor
    return times_power(y, whole + WHOLE)


@compiled
def sweep(y, weights, columns, frame, sums, row):
    """Add up moments of the Gaussian over the pixels.

    Args:
        y: The map, ``[H, W]``; where there are weights, already times them.
        weights: ``[H, W]`` or ``None``.
        columns: ``0..W-1`` as float64.
        frame: Centre and ``V``: x0, y0, V_11, V_12, V_22.
        sums: Written: of ``e y``, ``e`` and ``e^2`` times ``v1^i v2^j``, ``[3, 5, 5]``, ``i + j``
            up to 4.
        row: Memory to work in, ``[3, 5]``.
    """
    sums[:] = 0
    x0, y0, v11, v12, v22 = frame
    height, width = y.shape
    for r in range(height):
        v2 = v22 * (r - y0)
        depth = DEPTH - v2 * v2
        if depth <= 0:
            continue
        shift = v12 * (r - y0) - v11 * x0
        reach = math.sqrt(depth)
        first = int(max(0.0, (-reach - shift) / v11)) // LANES * LANES
        last = int(min(float(width), max(0.0, (reach - shift) / v11 + LANES))) // LANES * LANES
        if last + LANES > width:
            last = width
        a0 = a1 = a2 = a3 = a4 = b0 = b1 = b2 = b3 = b4 = c0 = c1 = c2 = c3 = c4 = 0.0
        for q in range(first, last):
            v1 = v11 * columns[q] + shift
            e = power_of_2(-(v1 * v1 + v2 * v2))
            t = e if weights is None else e * weights[r, q]
            s = e * y[r, q]
            square = v1 * v1
            a, b, c = s * square, t * square, e * t
            d = c * square
            a0 += s
            a1 += s * v1
            a2 += a
            a3 += a * v1
            a4 += a * square
            b0 += t
            b1 += t * v1
            b2 += b
            b3 += b * v1
            b4 += b * square
            c0 += c
            c1 += c * v1
            c2 += d
            c3 += d * v1
            c4 += d * square
        row[0, 0], row[0, 1], row[0, 2], row[0, 3], row[0, 4] = a0, a1, a2, a3, a4
        row[1, 0], row[1, 1], row[1, 2], row[1, 3], row[1, 4] = b0, b1, b2, b3, b4
        row[2, 0], row[2, 1], row[2, 2], row[2, 3], row[2, 4] = c0, c1, c2, c3, c4
        for k in range(3):
            power = 1.0
            for j in range(5):
                for i in range(5 - j):
                    sums[k, i, j] += row[k, i] * power
                power *= v2


FIRST = (0, 1, 0, 2, 1, 0)  # powers of v1 and v2 in the Gaussian's derivatives
SECOND = (0, 0, 1, 0, 1, 2)


@compiled
def best(sums, totals):
    """Return the least sum of squares, and the amplitude and offset that have it.

    Args:
        sums: Of :func:`sweep`.
        totals: Sums over all pixels of the weights, of ``y`` and of ``y^2``.

    Returns:
        Infinity first if amplitude and offset are not determined.
    """
    count, total, total_square = totals
    with_map, alone, squared = sums[0, 0, 0], sums[1, 0, 0], sums[2, 0, 0]
    determinant = squared * count - alone**2
    if not determinant > SINGULAR * squared * count:
        return np.inf, 0.0, 0.0
    amplitude = (with_map * count - alone * total) / determinant
    offset = (squared * total - alone * with_map) / determinant
    return max(0.0, total_square - amplitude * with_map - offset * total), amplitude, offset


@compiled
def equations(sums, totals, amplitude, offset, matrix, hessian, gradient):
    """Write the equations of a step, of which amplitude and offset follow freely.

    Args:
        sums: Of :func:`sweep`.
        totals: As in :func:`best`.
        amplitude: The best one.
        offset: The best one.
        matrix: Written: ``J^T J``, what amplitude and offset take from it taken off, ``[5, 5]``.
        hessian: Written: the same, less the residuals times second derivatives.
        gradient: Written: ``J^T r``, ``[5]``.
    """
    with_map, alone, squared = sums
    count = totals[0]
    determinant = squared[0, 0] * count - alone[0, 0] ** 2
    for k in range(1, 6):
        i, j = FIRST[k], SECOND[k]
        # what amplitude and offset do for a step along k
        a = (squared[i, j] * count - alone[0, 0] * alone[i, j]) / determinant
        b = (squared[0, 0] * alone[i, j] - alone[0, 0] * squared[i, j]) / determinant
        rest = with_map[i, j] - amplitude * squared[i, j] - offset * alone[i, j]
        gradient[k - 1] = amplitude * rest
        for m in range(1, k + 1):
            n, o = FIRST[m], SECOND[m]
            rest = squared[i + n, j + o] - a * squared[n, o] - b * alone[n, o]
            matrix[k - 1, m - 1] = amplitude * amplitude * rest
            rest = (with_map[i + n, j + o] - amplitude * squared[i + n, j + o]
                    - offset * alone[i + n, j + o])  # fmt: skip
            hessian[k - 1, m - 1] = matrix[k - 1, m - 1] - amplitude * rest


@compiled
def solve(matrix, damping, gradient, factor, step):
    """Solve ``(M + damping diag M) step = gradient`` by Cholesky; say whether M is regular.

    Args:
        matrix: The lower half of ``M``, ``[5, 5]``.
        damping: Not negative.
        gradient: ``[5]``.
        factor: Memory to work in, ``[5, 5]``.
        step: Written, ``[5]``.
    """
    n = len(gradient)
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i, j] * (1 + damping) if i == j else matrix[i, j]
            for k in range(j):
                rest -= factor[i, k] * factor[j, k]
            if i > j:
                factor[i, j] = rest * factor[j, j]
            elif rest > SINGULAR * matrix[i, i]:
                factor[i, i] = 1 / math.sqrt(rest)
            else:
                return False
    for i in range(n):
        rest = gradient[i]
        for k in range(i):
            rest -= factor[i, k] * step[k]
        step[i] = rest * factor[i, i]
    for i in range(n - 1, -1, -1):
        rest = step[i]
        for k in range(i + 1, n):
            rest -= factor[k, i] * step[k]
        step[i] = rest * factor[i, i]
    return True


@compiled
def move(frame, step, height, width, moved):
    """Write a frame after a step, inside the bounds; say whether they changed it.

    Args:
        frame: Before, ``[5]``.
        step: ``tau`` and ``sigma``, ``[5]``; shortened if it is longer than ``LONGEST``.
        height: Of the map.
        width: Of the map.
        moved: Written, ``[5]``.
    """
    x0, y0, v11, v12, v22 = frame
    length = 0.0
    for i in range(5):
        length += step[i] ** 2
    scale = min(1.0, LONGEST / max(math.sqrt(length), 1e-300)) / (2 * LOG_2)
    dy = step[1] * scale / v22
    dx = (step[0] * scale - v12 * dy) / v11
    moved[0] = min(max(x0 + dx, -0.5), width - 0.5)
    moved[1] = min(max(y0 + dy, -0.5), height - 0.5)

    mean, half, off = (step[2] + step[4]) / 2, (step[2] - step[4]) / 2, step[3] / 2
    gap = math.hypot(half, off) * scale
    even = math.exp(-mean * scale)
    odd = -even * (math.sinh(gap) / gap if gap > 1e-8 else 1.0) * scale
    even *= math.cosh(gap)
    e11, e12, e22 = even + odd * half, odd * off, even - odd * half
    a, b, c, d = e11 * v11, e11 * v12 + e12 * v22, e12 * v11, e12 * v12 + e22 * v22
    v11 = math.hypot(a, c)  # turned until triangular
    moved[2], moved[3], moved[4] = v11, (a * b + c * d) / v11, (a * d - b * c) / v11
    bounded = moved[0] != x0 + dx or moved[1] != y0 + dy
    return hold_widths(moved, float(max(height, width))) or bounded


@compiled
def hold_widths(frame, widest):
    """Bring the widths of a frame back into the bounds; say whether they were outside."""
    _, _, v11, v12, v22 = frame
    half, tilt = (v11 * v11 - v12 * v12 - v22 * v22) / 2, v11 * v12
    mean, gap = (v11 * v11 + v12 * v12 + v22 * v22) / 2, math.hypot(half, tilt)
    product = (v11 * v22) ** 2
    large = mean + gap
    small = product / large
    top, bottom = 1 / (2 * LOG_2 * NARROWEST**2), 1 / (2 * LOG_2 * widest**2)
    if large <= top and small >= bottom:
        return False
    held_large, held_small = min(max(large, bottom), top), min(max(small, bottom), top)
    ratio = (held_large - held_small) / (large - small) if large - small > 1e-12 * large else 0.0
    level = (held_large + held_small) / 2
    frame[2] = math.sqrt(level + ratio * half)
    frame[3] = ratio * tilt / frame[2]
    frame[4] = math.sqrt(held_large * held_small) / frame[2]
    return True


@compiled
def fit(y, weights, frame, iterations, tolerance, linear, normal, counts):
    """Fit one map.

    Args:
        y: ``[H, W]``, times the weights if there are any; about 1 high, float64.
        weights: ``[H, W]`` or ``None``.
        frame: Where to start, ``[5]``; written: the end.
        iterations: Steps to try.
        tolerance: Length of a step that is none, in standard errors.
        linear: Written: amplitude and offset.
        normal: Written: the normal matrix at the end, ``[7, 7]``.
        counts: Written: steps tried, and the status.

    Returns:
        The sum of squares.
    """
    height, width = y.shape
    columns = np.arange(width).astype(np.float64)
    totals = np.zeros(3)
    for r in range(height):
        count = total = total_square = 0.0
        for q in range(width):
            w = 1.0 if weights is None else weights[r, q]
            value = y[r, q]
            count += w
            total += value
            total_square += value * value if weights is None else value * value / w
        totals[0] += count
        totals[1] += total
        totals[2] += total_square
    freedom = height * width - 7
    spread = max(0.0, totals[2] - totals[1] ** 2 / totals[0])
    floor, slack = FLOOR * spread, SLACK * spread

    sums, kept, row = np.zeros((3, 5, 5)), np.zeros((3, 5, 5)), np.zeros((3, 5))
    matrix, hessian, gradient = np.zeros((5, 5)), np.zeros((5, 5)), np.zeros(5)
    factor, step, trial = np.zeros((5, 5)), np.zeros(5), np.zeros(5)

    sweep(y, weights, columns, frame, kept, row)
    left, amplitude, offset = best(kept, totals)
    if left < np.inf:
        equations(kept, totals, amplitude, offset, matrix, hessian, gradient)
    damping, status, tried, stuck, near = DAMPING, 1, 0, 0, False
    while tried < iterations:
        if left == np.inf:
            status = 3
            break
        if not (near and solve(hessian, damping, gradient, factor, step)) and not solve(
            matrix, damping, gradient, factor, step
        ):
            status = 3
            break
        tried += 1
        bounded = move(frame, step, height, width, trial)
        length = 0.0  # of the step, in the metric of its standard errors
        for i in range(5):
            for j in range(i + 1):
                length += (1 if i == j else 2) * step[i] * matrix[i, j] * step[j]
        sweep(y, weights, columns, trial, sums, row)
        now, a, b = best(sums, totals)
        short = damping <= 1 and length * freedom <= tolerance**2 * max(left, floor)
        stuck = stuck + 1 if bounded and not now < left * (1 - 1e-9) else 0
        if now <= left + slack:
            frame[:] = trial
            sums, kept = kept, sums
            near = length < NEAR * left
            left, amplitude, offset = now, a, b
            equations(kept, totals, amplitude, offset, matrix, hessian, gradient)
            damping = max(damping / 10, LEAST)
        else:
            damping *= 10
        if short and not bounded:
            status = 0
            break
        if stuck > 3:
            status = 2
            break
        if damping > MOST:
            break

    alone, squared = kept[1], kept[2]
    for k in range(6):
        for m in range(6):
            normal[k, m] = squared[FIRST[k] + FIRST[m], SECOND[k] + SECOND[m]]
        normal[k, 6] = normal[6, k] = alone[FIRST[k], SECOND[k]]
    normal[6, 6] = totals[0]
    if status == 0 and not solve(matrix, 0.0, gradient, factor, step):
        status = 3
    linear[0], linear[1] = amplitude, offset
    counts[0], counts[1] = tried, status
    return left


@compiled
def guess(image, smooth, line, start):
    """Write where a fit starts, ``[7]``: ``_frame.start`` for one map ``[H, W]``.

    ``smooth``, ``[H, W]``, and ``line``, ``[W]``, are memory to work in.
    """
    height, width = image.shape
    last = width - 1
    for r in range(height):
        above, below = max(r - 1, 0), min(r + 1, height - 1)
        for q in range(width):
            line[q] = np.float64(image[above, q]) + image[r, q] + image[below, q]
        for q in range(1, last):
            smooth[r, q] = (line[q - 1] + line[q] + line[q + 1]) / 9
        smooth[r, 0] = (2 * line[0] + line[min(1, last)]) / 9
        smooth[r, last] = (2 * line[last] + line[max(last - 1, 0)]) / 9
        if last == 0:
            smooth[r, 0] = line[0] / 3
    offset = np.median(smooth[::3, ::3].copy())
    highest, y, x = -1.0, 0, 0
    for r in range(height):
        for q in range(width):
            if abs(smooth[r, q] - offset) > highest:
                highest, y, x = abs(smooth[r, q] - offset), r, q
    amplitude = smooth[y, x] - offset
    sign, above = math.copysign(1.0, amplitude), 0.0
    for r in range(height):
        for q in range(width):
            above += 1.0 if (smooth[r, q] - offset) * sign > highest / 2 else 0.0
    widest = max(2 * NARROWEST, max(height, width) / 4)
    sigma = min(max(math.sqrt(above / (2 * math.pi * LOG_2)), 2 * NARROWEST), widest)
    start[0], start[1], start[2], start[6] = amplitude, x, y, offset
    start[3], start[4], start[5] = sigma * OBLONG, sigma / OBLONG, 0.0


@compiled
def fit_range(maps, weights, iterations, tolerance, frames, linear, normal, residual, counts):
    """Fit maps.

    Args:
        maps: ``[N, H, W]``.
        weights: ``[N, H, W]`` or ``None``.
        iterations: As in :func:`fit`.
        tolerance: See there.
        frames: Written, ``[N, 5]``.
        linear: Written, ``[N, 2]``.
        normal: Written, ``[N, 7, 7]``.
        residual: Written, ``[N]``.
        counts: Written, ``[N, 2]``.
    """
    size, height, width = maps.shape
    scratch, line, start = np.zeros((height, width)), np.zeros(width), np.zeros(7)
    for n in range(size):
        guess(maps[n], scratch, line, start)
        offset, scale = start[6], abs(start[0])
        if not (scale > 0 and scale < np.inf):
            counts[n, 0], counts[n, 1] = 0, 3
            continue
        for r in range(height):
            for q in range(width):
                value = (maps[n, r, q] - offset) / scale
                scratch[r, q] = value if weights is None else value * weights[n, r, q]
        frames[n, 0], frames[n, 1], frames[n, 3] = start[1], start[2], 0.0
        frames[n, 2] = math.sqrt(0.5 / LOG_2) / start[3]
        frames[n, 4] = math.sqrt(0.5 / LOG_2) / start[4]
        left = fit(
            scratch, None if weights is None else weights[n], frames[n], iterations, tolerance,
            linear[n], normal[n], counts[n],
        )  # fmt: skip
        residual[n] = left * scale * scale
        linear[n, 0] *= scale
        linear[n, 1] = linear[n, 1] * scale + offset

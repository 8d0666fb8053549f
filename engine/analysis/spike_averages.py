"""Averages of spikes around the output of a decoder: what the numbers say, whatever made them.

Time is a grid of bins of width ``w``. With ``z_d(t)`` the output ``d`` at the start of bin ``t``,
mean 0 and standard deviation 1 over the ``n`` bins that are used, and ``c_u(t)`` the spikes of unit
``u`` in bin ``t``,

    A[d, u, k] = mean_t( z_d(t) (c_u(t + k) - mean_t c_u(t + k)) ) / w,    k = -before .. after - 1,

the covariance of standardised output and rate: Hz per standard deviation of the output. Lag ``k``
holds spikes from ``k w`` to ``(k + 1) w`` after the output's time, so those before it are negative.

**Standard errors.** Outputs of a decoder are alike from one bin to the next, and so are rates: the
formula of white noise, ``sd(c) / (w sqrt(n))``, is several times too small. The used bins are cut
into ``B`` contiguous blocks, and with ``psi_b`` the sum over a block of the influence of each bin,

    psi(t) = z(t) (c(t + k) - mean c) / w - A (1 + z(t)^2) / 2,
    SE^2 = B / (B - 1) sum_b psi_b^2 / n^2

(Liang and Zeger 1986, doi:10.1093/biomet/73.1.13; the last term, because the output's standard
deviation is that of the same bins). Blocks must be long beside what output and rate remember:
:func:`memory`. Over the standard error, deviations of ``A`` follow Student's t of ``B - 1``.

**Test.** The largest ``|A|`` over lags against the same after the output was shifted circularly by
multiples of ``n / S``. Such shifts are a group of ``S``, the identity among them, so that ``p``,
the share of shifts with a largest value at least as large, holds its level whatever output and
spikes remember, as long as time, closed to a circle, is alike everywhere. It does not protect from
slow drifts of both output and rates (Harris 2020, doi:10.1101/2020.11.29.402719).

Cost: ``2 n D L U`` operations in one product per block, and a Fourier transform per unit. Memory:
counts, ``B D L`` sums for ``UNITS`` units at a time, results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .. import errors

Floats = NDArray[np.float64]
Counts = NDArray[np.unsignedinteger[Any]]

BLOCKS = 50  # at most
FEWEST_BLOCKS = 8  # for a standard error
SHIFTS = 1000  # at most
FEWEST_SHIFTS = 20  # for a p of 0.05
UNITS = 32  # at a time
ROWS = 2048  # of a product, at a time
OVERLAP = 0.1  # pairs of bins that an autocorrelation needs, of all


@dataclass(frozen=True, eq=False)
class Averages:
    """Averages of ``U`` units over ``L`` lags, for ``D`` outputs.

    Attributes:
        average: ``[D, U, L]``, float64, Hz per standard deviation of the output.
        even: Of blocks 0, 2, 4, ... alone, scaled alike.
        odd: Of the other blocks.
        standard_error: NaN with fewer than ``FEWEST_BLOCKS`` blocks.
        p_value: Of the largest average over lags, ``[D, U]``; NaN for a silent unit, and with fewer
            than ``FEWEST_SHIFTS`` shifts.
        sd: Of the outputs, ``[D]``.
        blocks: How many.
        shifts: How many, the identity among them.
    """

    average: Floats
    even: Floats
    odd: Floats
    standard_error: Floats
    p_value: Floats
    sd: Floats
    blocks: int
    shifts: int


def averages(
    output: Floats,
    used: NDArray[np.bool_],
    counts: Counts,
    *,
    before: int,
    after: int,
    width: float,
    block: int,
) -> Averages:
    """Average spikes around an output.

    Args:
        output: At the start of each bin, ``[T, D]``; anything where not used.
        used: Which bins to average over, ``[T]``; their lags must lie within ``0..T-1``.
        counts: Spikes in each bin, ``[T, U]``, unsigned.
        before: Lags before the output, bins.
        after: Lags after it, bins.
        width: Of a bin, seconds.
        block: Bins that a block holds at least.

    Raises:
        AttendriteError: No lag, too few bins, lags that leave the grid, or an output that never
            changes.
    """
    where = np.flatnonzero(used)
    if before < 0 or after < 0 or before + after == 0:
        raise errors.must("lags", "be at least one bin", f"{before} before and {after} after")
    if len(where) < 2 * block:
        be = f"hold two blocks of {block * width:.3g} s"
        raise errors.must("the time to average over", be, f"{len(where) * width:.3g} s")
    if where[0] < before or where[-1] + max(after, 1) > len(used):
        raise errors.must("used bins", "have their lags on the grid", "some that do not")
    errors.finite("output", output[used])
    z, sd = _standardised(output, used)
    size = min(BLOCKS, len(where) // block) // 2 * 2  # as many even ones as odd ones
    parts = [_Part.of(rows, z) for rows in np.array_split(where, size)]
    ring, shifts = _ring(where, len(used), before, after)
    found = []
    for first in range(0, counts.shape[1], UNITS):
        some = counts[:, first : first + UNITS].astype(np.float64)
        sums = [part.sums(z, some, before, before + after) for part in parts]
        p_value = _p_values(z[ring], some[ring], before, after, shifts)
        found.append((*_averaged(parts, np.stack(sums), width), p_value))
    joined = [np.concatenate(each, 1) for each in zip(*found, strict=True)]
    average, even, odd, error, p = joined
    if size < FEWEST_BLOCKS:
        error = np.full_like(error, np.nan)
    return Averages(average, even, odd, error, p, sd, size, len(shifts))


def memory(output: Floats, used: NDArray[np.bool_]) -> int:
    """Return for how many bins an output remembers itself: until its autocorrelation is below 1/e.

    The longest of all outputs; sums run over pairs of used bins.

    Args:
        output: As in :func:`averages`, likewise ``used``.
        used: See there.
    """
    z, _ = _standardised(output, used)
    size = fft.next_fast_len(2 * len(used), real=True)

    def lagged(x: Floats) -> Floats:
        spectrum = np.abs(fft.rfft(x, size, axis=0)) ** 2
        found: Floats = fft.irfft(spectrum, size, axis=0)[: len(used)]
        return found

    pairs = lagged(used.astype(np.float64)[:, None])
    enough = pairs[:, 0] > OVERLAP * pairs[0, 0]
    low = (lagged(z)[enough] / pairs[enough] < np.exp(-1)).argmax(0)  # 0: nowhere
    return int(np.where(low > 0, low, enough.sum()).max())


@dataclass(frozen=True, eq=False)
class _Part:
    """A block: its used bins, and sums of what does not depend on units."""

    rows: NDArray[np.int64]
    count: int
    z: Floats  # [D] sum of z
    scale: Floats  # [D] sum of (1 + z^2) / 2

    @classmethod
    def of(cls, rows: NDArray[np.int64], z: Floats) -> _Part:
        return cls(rows, len(rows), z[rows].sum(0), (1 + z[rows] ** 2).sum(0) / 2)

    def sums(self, z: Floats, counts: Floats, before: int, lags: int) -> Floats:
        """Sum ``z(t) c(t + k)``, and ``c(t + k)`` below them, ``[D + 1, U, L]``."""
        first, last = int(self.rows[0]), int(self.rows[-1]) + 1
        signals = np.zeros((last - first, z.shape[1] + 1))
        at = self.rows - first
        signals[at, :-1], signals[at, -1] = z[self.rows], 1
        total = np.zeros((lags * signals.shape[1], counts.shape[1]))
        for start in range(0, len(signals), ROWS):
            some = signals[start : start + ROWS]
            reach = len(some) + lags - 1
            padded = np.pad(some, ((lags - 1, lags - 1), (0, 0)))
            # Row (k, d) holds output d shifted by k bins: one product gives all lags.
            shifted = np.lib.stride_tricks.sliding_window_view(padded, reach, 0)[::-1]
            around = counts[first + start - before :][:reach]
            total += shifted.reshape(len(total), reach) @ around
        return total.reshape(lags, signals.shape[1], -1).transpose(1, 2, 0)


def _standardised(output: Floats, used: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return outputs of mean 0 and standard deviation 1, 0 where not used; and what it was."""
    values = output[used]
    sd = values.std(0)
    still = np.flatnonzero(~(sd > 1e-9 * np.abs(values).max(0)))
    if still.size:
        raise errors.must(f"output {still[0]}", "change over time", "one value")
    z = np.zeros(output.shape)
    z[used] = (values - values.mean(0)) / sd
    return z, sd


def _averaged(
    parts: list[_Part], sums: Floats, width: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the average of all blocks, of even and of odd ones, and the error, ``[D, U, L]``."""
    products, spikes = sums[:, :-1], sums[:, -1]  # [B, D, U, L], [B, U, L]
    count = np.array([part.count for part in parts])
    z = np.stack([part.z for part in parts])[..., None, None]  # [B, D, 1, 1]
    scale = np.stack([part.scale for part in parts])[..., None, None]

    def over(chosen: slice) -> Floats:
        n = count[chosen].sum()
        mean: Floats = spikes[chosen].sum(0) / n
        found: Floats = (products[chosen].sum(0) - z[chosen].sum(0) * mean) / (n * width)
        return found

    whole = over(slice(None))
    centred = (products - z * (spikes.sum(0) / count.sum())) / width
    influence = centred - whole * scale
    error = np.sqrt((influence**2).sum(0) * len(parts) / (len(parts) - 1)) / count.sum()
    return whole, over(slice(0, None, 2)), over(slice(1, None, 2)), error


def _ring(
    where: NDArray[np.int64], size: int, before: int, after: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the bins within reach of a used one, and shifts along them that share no lag."""
    steps = np.zeros(size + 1, np.int64)
    np.add.at(steps, where - before, 1)
    np.add.at(steps, where + max(after, 1), -1)
    ring = np.flatnonzero(np.cumsum(steps)[:size])
    count = min(SHIFTS, len(ring) // (before + after))
    return ring, np.arange(count) * len(ring) // count


def _p_values(
    z: Floats, counts: Floats, before: int, after: int, shifts: NDArray[np.int64]
) -> Floats:
    """Return ``p`` of each output and unit, ``[D, U]``."""
    n = len(z)
    out = np.full((z.shape[1], counts.shape[1]), np.nan)
    if len(shifts) < FEWEST_SHIFTS:
        return out
    at = (shifts[:, None] + np.arange(-before, after)) % n  # [S, L]
    outputs = np.conj(fft.rfft(z, axis=0))
    for u in np.flatnonzero(counts.any(0)):
        circular = fft.irfft(outputs * fft.rfft(counts[:, u])[:, None], n, axis=0)  # [n, D]
        largest = np.abs(circular[at]).max(1)  # [S, D]
        out[:, u] = (largest >= largest[0] * (1 - 1e-9)).mean(0)
    return out

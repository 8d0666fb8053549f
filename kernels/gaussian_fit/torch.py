"""torch: all maps step together, on their device, and those that are done drop out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import STATUS, Fits
from ._frame import LOG_2, NARROWEST, finished, start

PRIORITY = 5
CHUNK = 1 << 22  # pixels that are worked on at a time: a few hundred bytes each
LONGEST = 1.5  # these as in _loops.py, which says why
NEAR = 0.01
DAMPING, LEAST, MOST = 1e-2, 1e-12, 1e8
SINGULAR, FLOOR, SLACK = 1e-13, 1e-7, 1e-13


def refuses(**_request: object) -> None:
    """Serve every request."""


def run(
    maps: NDArray[Any] | Tensor,
    noise: NDArray[np.float64] | None,
    *,
    iterations: int,
    tolerance: float,
    threads: int,
) -> Fits:
    """Fit; arguments as in the reference, and torch's own threads."""
    del threads
    size, height, width = maps.shape
    found: list[tuple[Any, ...]] = []
    per = max(1, CHUNK // (height * width))
    for i in range(0, size, per):
        values = torch.as_tensor(maps[i : i + per]).double()
        weights = None
        if noise is not None and noise.ndim == 3:
            weights = torch.as_tensor(1 / noise[i : i + per] ** 2).to(values)
        fits = Batch(values, weights).fit(iterations, tolerance)
        frames, linear, normal, residual, counts = (x.cpu().numpy() for x in fits)
        sd = None if noise is None else noise[i : i + per]
        found.append(finished(frames, linear, normal, residual, counts, sd, height * width))
    return Fits(*(np.concatenate(field) for field in zip(*found, strict=True)))


class Batch:
    """Maps that are fitted together.

    Args:
        maps: ``[N, H, W]``, float64.
        weights: Of pixels, of that shape, or ``None``.
    """

    def __init__(self, maps: Tensor, weights: Tensor | None) -> None:
        size, self.height, self.width = maps.shape
        self.start = torch.as_tensor(start(maps.cpu().numpy())).to(maps)
        self.scale = self.start[:, 0].abs()
        self.usable = (self.scale > 0) & self.scale.isfinite()
        self.unit = torch.where(self.usable, self.scale, 1)[:, None]
        self.y = (maps.reshape(size, -1) - self.start[:, 6:]) / self.unit
        self.weights = torch.ones_like(self.y) if weights is None else weights.reshape(size, -1)
        rows, columns = torch.meshgrid(
            torch.arange(self.height), torch.arange(self.width), indexing="ij"
        )
        self.grid = torch.stack([columns.reshape(-1), rows.reshape(-1)]).to(maps)  # [2, P]

    def fit(self, iterations: int, tolerance: float) -> tuple[Tensor, ...]:
        """Fit; return the first five arguments of ``finished``."""
        begin, size = self.start, len(self.start)
        root = math.sqrt(0.5 / LOG_2) / begin[:, 3:5]
        zero = torch.zeros_like(self.scale)
        frames = torch.stack([begin[:, 1], begin[:, 2], root[:, 0], zero, root[:, 1]], 1)
        counts = torch.zeros(size, 2, dtype=torch.int64, device=begin.device)
        counts[:, 1] = torch.where(self.usable, 1, 3)
        linear, normal = torch.zeros_like(frames[:, :2]), zero[:, None, None].repeat(1, 7, 7)
        left = zero.clone()
        damping, stuck = torch.full_like(zero, DAMPING), torch.zeros_like(counts[:, 0])
        near = torch.zeros_like(self.usable)
        spread = self._spread()
        floor, slack = FLOOR * spread, SLACK * spread
        freedom = self.height * self.width - 7

        going = self.usable.nonzero()[:, 0]
        state = self._equations(going, frames[going])
        left[going], linear[going], normal[going] = state[:3]
        matrix, hessian, gradient = (zero.new_zeros(size, *x.shape[1:]) for x in state[3:])
        matrix[going], hessian[going], gradient[going] = state[3:]
        for _ in range(iterations):
            a = going
            step, regular = _solve(matrix[a], gradient[a], damping[a])
            newton, convex = _solve(hessian[a], gradient[a], damping[a])
            regular &= left[a].isfinite()
            step = torch.where((near[a] & convex)[:, None], newton, step)
            counts[a[~regular], 1] = STATUS.index("singular")
            a, step = a[regular], step[regular]
            counts[a, 0] += 1
            trial, bounded = self._move(frames[a], step)
            length = (step[:, None] @ matrix[a] @ step[..., None])[:, 0, 0]
            state = self._equations(a, trial)
            now, before = state[0], left[a]
            bar = tolerance**2 * torch.maximum(before, floor[a])
            short = (damping[a] <= 1) & (length * freedom <= bar) & ~bounded
            stuck[a] = torch.where(bounded & ~(now < before * (1 - 1e-9)), stuck[a] + 1, 0)
            better = now <= before + slack[a]
            b = a[better]
            near[b] = (length < NEAR * before)[better]
            frames[b] = trial[better]
            left[b], linear[b], normal[b], matrix[b], hessian[b], gradient[b] = (
                x[better] for x in state
            )
            damping[a] = torch.where(better, (damping[a] / 10).clamp(min=LEAST), damping[a] * 10)
            counts[a[short], 1] = STATUS.index("converged")
            held = ~short & (stuck[a] > 3)
            counts[a[held], 1] = STATUS.index("at a bound")
            going = a[~short & ~held & (damping[a] <= MOST)]
            if not len(going):
                break
        good = counts[:, 1] == 0
        _, regular = _solve(matrix, gradient, torch.zeros_like(zero))
        counts[good & ~regular, 1] = STATUS.index("singular")
        linear = linear * self.unit
        linear[:, 1] += begin[:, 6]
        return frames, linear, normal, left * self.scale**2, counts

    def _spread(self) -> Tensor:
        """Sums of squares about the mean, ``[N]``."""
        mean = (self.weights * self.y).sum(1, keepdim=True) / self.weights.sum(1, keepdim=True)
        return (self.weights * (self.y - mean) ** 2).sum(1)

    def _equations(self, which: Tensor, frames: Tensor) -> tuple[Tensor, ...]:
        """Return sums of squares, amplitudes and offsets, normal matrices; equations of steps."""
        x, y = (self.grid[i] - frames[:, i, None] for i in range(2))
        v1 = frames[:, 2, None] * x + frames[:, 3, None] * y
        v2 = frames[:, 4, None] * y
        e = torch.exp2(-(v1**2 + v2**2))
        monomials = torch.stack([torch.ones_like(v1), v1, v2, v1**2, v1 * v2, v2**2], 1)
        slopes = torch.cat([e[:, None] * monomials, torch.ones_like(e)[:, None]], 1)  # [N, 7, P]
        weights, values = self.weights[which], self.y[which]
        heavy = slopes * weights[:, None]
        normal = heavy @ slopes.mT
        ends = [0, 6]
        two = normal[:, ends][:, :, ends]
        linear, bad = torch.linalg.solve_ex(two, (heavy[:, ends] @ values[..., None]))
        clear = torch.linalg.det(two) > SINGULAR * two[:, 0, 0] * two[:, 1, 1]
        amplitude, offset = linear[:, 0], linear[:, 1]
        rest = values - amplitude * e - offset
        left = torch.where(clear & (bad == 0), (weights * rest**2).sum(1), torch.inf)
        taken = torch.linalg.solve_ex(two, normal[:, ends, 1:6])[0]
        matrix = normal[:, 1:6, 1:6] - normal[:, 1:6][:, :, ends] @ taken
        matrix = matrix * amplitude[..., None] ** 2
        pulled = heavy[:, :1] * (rest * amplitude)[:, None] * monomials  # [N, 6, P]
        hessian = matrix - (pulled @ monomials.mT)[:, 1:, 1:]
        return left, linear[..., 0], normal, matrix, hessian, pulled[:, 1:].sum(2)

    def _move(self, frames: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames after steps, inside the bounds, and whether those changed them."""
        step = step * (LONGEST / step.norm(dim=1).clamp(min=1e-300)).clamp(max=1)[:, None]
        tau, sigma = step[:, :2] / (2 * LOG_2), step[:, 2:] / (2 * LOG_2)
        root = torch.zeros(len(step), 2, 2).to(step)
        root[:, 0, 0], root[:, 0, 1], root[:, 1, 1] = frames[:, 2:].mT
        shift = torch.linalg.solve_triangular(root, tau[..., None], upper=True)[..., 0]
        centre = frames[:, :2] + shift
        edge = torch.tensor([self.width - 0.5, self.height - 0.5]).to(centre)
        held = torch.minimum(centre.clamp(min=-0.5), edge)
        bounded = (held != centre).any(1)

        stretch = torch.stack([sigma[:, 0], sigma[:, 1] / 2, sigma[:, 1] / 2, sigma[:, 2]], 1)
        root = torch.linalg.matrix_exp(-stretch.reshape(-1, 2, 2)) @ root
        values, axes = torch.linalg.eigh(root.mT @ root)
        widest = max(self.height, self.width)
        low, high = (1 / (2 * LOG_2 * s**2) for s in (widest, NARROWEST))
        bounded |= (values < low).any(1) | (values > high).any(1)
        square = axes * values.clamp(low, high)[:, None] @ axes.mT
        root = torch.linalg.cholesky(square)
        return torch.cat([held, root[:, 0, :1], root[:, 1]], 1), bounded


def _solve(matrix: Tensor, gradient: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Solve ``(M + damping diag M) step = gradient``; say where M is positive definite."""
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    damped = matrix + torch.diag_embed(damping[:, None] * diagonal)
    factor, bad = torch.linalg.cholesky_ex(damped)
    pivots = factor.diagonal(dim1=1, dim2=2) ** 2
    regular = (bad == 0) & (pivots > SINGULAR * diagonal).all(1)
    eye = torch.eye(matrix.shape[1]).to(matrix)
    factor = torch.where(regular[:, None, None], factor, eye)
    return torch.cholesky_solve(gradient[..., None], factor)[..., 0], regular

"""Where a read-out begins: at the place whose features predict the neuron best.

At each place of a grid, half of the training trials fit a ridge regression of the responses on the
features there, the other half says how well it does, and the halves change roles; trials of the
halves alternate. The penalty is that of weights which are normal and together explain a fifth of a
response's variance. Found weights are carried over to the drive by the slope of ELU + 1 at the
neuron's mean response.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ._trials import Floats

PLACES = 450  # that are searched, about: one in four of V1T's
EXPLAINED = 0.2
LOWEST = 0.01  # mean response that a silent neuron is taken to have, of its standard deviation
EPS = 1e-12  # of norms and of the penalty, for features that are the same in all trials
HALVES = (slice(0, None, 2), slice(1, None, 2))


class Start(NamedTuple):
    """What was found.

    Attributes:
        mu: Places, x and y in -1..1, ``[N, 2]``.
        features: Weights, ``[D, N]``.
        bias: ``[N]``.
        apart: How far places of the grid lie apart, x and y, ``[2]``.
    """

    mu: Tensor
    features: Tensor
    bias: Tensor
    apart: Tensor


def search(features: Floats, targets: Floats, like: Tensor) -> Start:
    """Return where each neuron reads best, and how.

    Args:
        features: Of the training trials first, ``[T or more, h, w, D]``.
        targets: Responses, ``[T, N]``.
        like: Device and dtype of what is returned.
    """
    rows, columns, depth = features.shape[1:]
    step = max(1, math.ceil(math.sqrt(rows * columns / PLACES)))
    y = torch.from_numpy(targets).to(like)
    trials, count = y.shape
    best = y.new_full((count,), -math.inf)
    mu, weights, bias = y.new_zeros(count, 2), y.new_zeros(depth, count), y.new_zeros(count)
    mean = y.mean(0).clamp(min=LOWEST)
    normed = torch.zeros_like(y)
    for half in HALVES:
        normed[half] = _normed(y[half])
    slope, level = mean.clamp(max=1), torch.where(mean < 1, mean.log(), mean - 1)
    for r in range(0, rows, step):
        row = torch.from_numpy(np.ascontiguousarray(features[:trials, r, ::step])).to(like)
        for c in range(row.shape[1]):
            x = row[:, c]
            fits = [_ridge(x[half], y[half]) for half in HALVES]
            score = torch.zeros_like(best)
            for fit, other in zip(fits, HALVES[::-1], strict=True):
                score += (_normed(x[other] @ fit) * normed[other]).sum(0)
            better = score > best
            best[better] = score[better]
            weights[:, better] = (fits[0] + fits[1])[:, better] / 2 / slope[better]
            bias[better] = level[better] - x.mean(0) @ weights[:, better]
            mu[better] = mu.new_tensor([_at(c * step, columns), _at(r, rows)])
    apart = mu.new_tensor([2 * step / max(1, n - 1) for n in (columns, rows)])
    return Start(mu, weights, bias, apart)


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """Return the weights ``[D, N]`` by which features ``[T, D]`` predict responses ``[T, N]``."""
    centred = x - x.mean(0)
    gram = centred.double().T @ centred.double()
    penalty = gram.trace() / len(x) * (1 - EXPLAINED) / EXPLAINED
    gram.diagonal().add_(penalty + EPS)
    found: Tensor = torch.linalg.solve(gram, (centred.T @ y).double())
    return found.to(x)


def _normed(x: Tensor) -> Tensor:
    """Return columns of mean 0 and norm 1: their products are correlations."""
    return F.normalize(x - x.mean(0), dim=0, eps=EPS)


def _at(index: int, count: int) -> float:
    """Return the coordinate of a row or column, in -1..1."""
    return 2 * index / (count - 1) - 1 if count > 1 else 0.0

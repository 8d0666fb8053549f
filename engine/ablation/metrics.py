"""Metrics made of sums, so that a metric of any resample of blocks comes from adding blocks.

A metric turns the samples of one block into ``k`` sums for each of ``M`` dimensions
(:meth:`Metric.sums`), and added sums into a value (:meth:`Metric.of`). R2 is no mean over
blocks: its sums of squares are added first, about the mean of all samples that are in.

| name | dimensions M | better | value |
|---|---|---|---|
| ``r2`` | D | higher | 1 - squared error / squared deviation from the mean of these samples |
| ``mse`` | D | lower | mean squared error |
| ``correlation`` | D | higher | Pearson; 0 where only the decoded side does not vary |
| ``accuracy`` | 1 | higher | share of samples whose largest logit is that of their class |
| ``cross_entropy`` | 1 | lower | mean of -log softmax at the class, nats |
| any ``f(true, decoded)`` | M | as said | computed in each block, then averaged over blocks |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from .. import errors

Floats = NDArray[np.float64]
Function = Callable[[NDArray[Any], NDArray[Any]], ArrayLike]

ROUNDING = 1e-12  # a variance below this share of its sum of squares is rounding


class Metric(ABC):
    """A metric; ``better`` is 1 where higher is better, else -1."""

    name: str
    better: int

    @abstractmethod
    def sums(self, true: NDArray[Any], decoded: NDArray[Any]) -> Floats:
        """Return the sums of one block, to be added to those of other blocks.

        Args:
            true: ``[S, D]``, finite; of classes ``[S, 1]``, whole numbers from 0.
            decoded: ``[..., S, D']``, finite; leading axes are conditions. ``D'`` is ``D``, or the
                number of classes, whose logits these are.

        Returns:
            ``[..., M, k]``, float64, newly allocated.

        Raises:
            AttendriteError: Shapes that do not fit, values that are not finite, unknown classes.
        """

    @abstractmethod
    def of(self, sums: Floats) -> Floats:
        """Return the values ``[..., M]`` of added sums ``[..., M, k]``; NaN where undefined."""

    def constant(self, training: NDArray[Any], width: int) -> Floats:
        """Return what the predictor says that knows no spikes, ``[width]``.

        Where ``width`` is ``D`` that is the training mean. Else it is the logarithm of the
        frequencies of ``width`` classes, each with half a sample more (Krichevsky and Trofimov
        1981, doi:10.1109/TIT.1981.1056331): a class that training never showed must stay possible.

        Args:
            training: ``[S, D]``, as in :meth:`sums`, of training time.
            width: ``D'`` of the decoded values.

        Raises:
            AttendriteError: No samples, or classes that are none.
        """
        errors.shape("training values", training, ["S", "D"])
        if not len(training):
            raise errors.must("training samples", "be at least one", 0)
        if width == training.shape[1]:
            return np.asarray(training.mean(0), np.float64)
        counts = np.bincount(_classes(training, width), minlength=width) + 0.5
        return np.asarray(np.log(counts / counts.sum()), np.float64)


@dataclass(frozen=True)
class R2(Metric):
    """Coefficient of determination; NaN where the truth does not vary.

    Sums of squares are taken about ``about``, so that a far mean does not cancel digits.
    """

    about: Floats
    name = "r2"
    better = 1

    def sums(self, true: NDArray[Any], decoded: NDArray[Any]) -> Floats:
        """Return squared error, samples, deviation and squared deviation of the truth."""
        true, decoded = _values(true, decoded)
        return _joined(_squares(true - decoded), *_moments(true - self.about))

    def of(self, sums: Floats) -> Floats:
        """Return R2, ``[..., M]``."""
        return 1 - _divided(sums[..., 0], _deviation(sums[..., 1:]))


@dataclass(frozen=True)
class MeanSquaredError(Metric):
    """Mean squared error, in the square of the values' unit."""

    name = "mse"
    better = -1

    def sums(self, true: NDArray[Any], decoded: NDArray[Any]) -> Floats:
        """Return squared error and samples."""
        true, decoded = _values(true, decoded)
        return _joined(_squares(true - decoded), np.asarray(len(true)))

    def of(self, sums: Floats) -> Floats:
        """Return the mean, ``[..., M]``."""
        return _divided(sums[..., 0], sums[..., 1])


@dataclass(frozen=True)
class Correlation(Metric):
    """Pearson correlation: 0 for a decoder that says one value only, NaN for such a truth."""

    about: Floats
    name = "correlation"
    better = 1

    def sums(self, true: NDArray[Any], decoded: NDArray[Any]) -> Floats:
        """Return products, and samples, sum and sum of squares of either side."""
        true, decoded = _values(true, decoded)
        a, b = true - self.about, decoded - self.about
        products = np.einsum("sd,...sd->...d", a, b)
        return _joined(products, *_moments(a), *_moments(b))

    def of(self, sums: Floats) -> Floats:
        """Return the correlation, ``[..., M]``."""
        n, a, b = sums[..., 1], sums[..., 2], sums[..., 5]
        both = sums[..., 0] - a * b / np.where(n > 0, n, 1)
        true, decoded = _deviation(sums[..., 1:4]), _deviation(sums[..., 4:])
        told = np.where(decoded > 0, _divided(both, np.sqrt(true * decoded)), 0.0)
        return np.where(true > 0, np.clip(told, -1, 1), np.nan)


@dataclass(frozen=True)
class Accuracy(Metric):
    """Share of samples decoded as their class; of equal logits the first counts."""

    name = "accuracy"
    better = 1

    def sums(self, true: NDArray[Any], decoded: NDArray[Any]) -> Floats:
        """Return correct samples and samples."""
        classes = _logits(true, decoded)
        correct = (decoded.argmax(-1) == classes).sum(-1)
        return _joined(correct[..., None], np.asarray(len(true)))

    def of(self, sums: Floats) -> Floats:
        """Return the share, ``[..., 1]``."""
        return _divided(sums[..., 0], sums[..., 1])


@dataclass(frozen=True)
class CrossEntropy(Metric):
    """Mean negative logarithm of the probability that the decoder gives to the class, nats."""

    name = "cross_entropy"
    better = -1

    def sums(self, true: NDArray[Any], decoded: NDArray[Any]) -> Floats:
        """Return nats and samples."""
        classes = _logits(true, decoded)
        logits = np.asarray(decoded, np.float64)
        said = logits[..., np.arange(len(classes)), classes]
        nats = (logsumexp(logits, axis=-1) - said).sum(-1)
        return _joined(nats[..., None], np.asarray(len(true)))

    def of(self, sums: Floats) -> Floats:
        """Return the mean, ``[..., 1]``."""
        return _divided(sums[..., 0], sums[..., 1])


@dataclass(frozen=True)
class MeanOverBlocks(Metric):
    """A function of a block's samples, averaged over the blocks in which it is finite."""

    function: Function  # (true [S, D], decoded [S, D']) -> a number or [M]
    name: str
    better: int

    def sums(self, true: NDArray[Any], decoded: NDArray[Any]) -> Floats:
        """Return the block's values and whether they are there."""
        conditions = decoded.reshape(-1, *decoded.shape[-2:])
        found = [np.atleast_1d(self.function(true, one)) for one in conditions]
        values = np.asarray(found, np.float64).reshape(*decoded.shape[:-2], -1)
        there = np.isfinite(values)
        return np.stack([np.where(there, values, 0.0), there], -1)

    def of(self, sums: Floats) -> Floats:
        """Return the mean over blocks, ``[..., M]``."""
        return _divided(sums[..., 0], sums[..., 1])


def chosen(metric: str | Function, about: ArrayLike = 0.0, better: int = 1) -> Metric:
    """Return a metric by its name, or one that averages a function over blocks.

    Args:
        metric: ``r2``, ``mse``, ``correlation``, ``accuracy``, ``cross_entropy``, or a function
            ``(true [S, D], decoded [S, D']) -> number or [M]`` of the samples of one block.
        about: Values near the mean of the truth, a number or ``[D]``, such as the training mean.
            Changes a result by rounding only.
        better: Of a function: 1 where higher is better, -1 where lower is.

    Raises:
        AttendriteError: An unknown name, or another ``better``.
    """
    if callable(metric):
        errors.choice("better", better, (1, -1))
        return MeanOverBlocks(metric, getattr(metric, "__name__", "function"), better)
    centre = np.asarray(about, np.float64)
    known: tuple[Metric, ...] = (
        R2(centre), MeanSquaredError(), Correlation(centre), Accuracy(), CrossEntropy()
    )  # fmt: skip
    by_name = {one.name: one for one in known}
    errors.choice("metric", metric, by_name)
    return by_name[metric]


def _values(true: NDArray[Any], decoded: NDArray[Any]) -> tuple[Floats, Floats]:
    errors.shape("true values", true, ["S", "D"])
    if decoded.shape[-2:] != true.shape:
        raise errors.must("decoded values", f"end in {list(true.shape)}", list(decoded.shape))
    errors.finite("true values", true)
    errors.finite("decoded values", decoded)
    return np.asarray(true, np.float64), np.asarray(decoded, np.float64)


def _logits(true: NDArray[Any], decoded: NDArray[Any]) -> NDArray[np.int64]:
    if decoded.shape[-2:-1] != true.shape[:1]:
        raise errors.must("logits", f"be of {len(true)} samples", list(decoded.shape))
    errors.finite("logits", decoded)
    return _classes(true, decoded.shape[-1])


def _classes(true: NDArray[Any], number: int) -> NDArray[np.int64]:
    errors.shape("true classes", true, ["S", 1], "one class per sample")
    errors.finite("true classes", true)
    classes = true[:, 0].astype(np.int64)
    bad = np.flatnonzero((classes != true[:, 0]) | (classes < 0) | (classes >= number))
    if bad.size:
        raise errors.must("true classes", f"be whole, in 0..{number - 1}", true[bad[0], 0])
    return classes


def _squares(values: Floats) -> Floats:
    found: Floats = np.einsum("...sd,...sd->...d", values, values)
    return found


def _moments(values: Floats) -> tuple[Floats, Floats, Floats]:
    return np.asarray(float(values.shape[-2])), values.sum(-2), _squares(values)


def _deviation(moments: Floats) -> Floats:
    """Squared deviation from the mean, of samples, sum and sum of squares; 0 where rounding."""
    n, total, squares = moments[..., 0], moments[..., 1], moments[..., 2]
    found = squares - total**2 / np.where(n > 0, n, 1)
    return np.where(found > ROUNDING * squares, found, 0.0)


def _joined(*parts: NDArray[Any]) -> Floats:
    return np.stack(np.broadcast_arrays(*parts), -1).astype(np.float64, copy=False)


def _divided(above: Floats, below: Floats) -> Floats:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)

"""All conditions of a plan on all windows, as a job in shards: a shard is some blocks of time.

What is kept of a condition and a block are the sums that its metric is made of: any resample of
blocks is then a sum of these, and no prediction is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..runtime import Engine
from ..shards import merged
from .conditions import Conditions
from .data import Data
from .metrics import Metric
from .plans import Plan

Floats = NDArray[np.float64]
TAILS = 20_000  # conditions times windows of a shard, roughly: seconds of work or more
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Sums:
    """What a metric is made of, by block of time.

    Attributes:
        curves: ``[P, C, N, M, k]`` for ``N`` blocks, ``M`` dimensions and ``k`` sums.
        constant: Of the predictor that always says the training mean, ``[N, M, k]``.
        blind: Of the model without any spike, ``[N, M, k]``; NaN for fluorescence.
        samples: Values decoded in each block, ``[N]``, int64.
    """

    curves: Floats
    constant: Floats
    blind: Floats
    samples: NDArray[np.int64]


@dataclass
class Sweep:
    """The job; see :class:`attendrite.shards.Job`.

    Attributes:
        bundle: The model.
        executor: How it is run; see :class:`attendrite.Engine`.
        device: Where.
        dtype: In which precision.
        threads: With how many threads.
        data: Windows to evaluate on.
        plan: What is removed.
        metric: What is asked of the decoded values.
        constant: What the predictor says that always says the same, ``[D]``.
        seed: Of replaced and thinned spikes.
        memory: Bytes that conditions may take at a time.
        per_shard: Blocks of a shard; counted where the job is made, the same for all workers.
    """

    bundle: Bundle
    executor: str
    device: str
    dtype: str
    threads: int | None
    data: Data
    plan: Plan
    metric: Metric
    constant: Floats
    seed: int
    memory: int
    _engine: Engine | None = field(default=None, repr=False)
    per_shard: int = field(init=False)

    def __post_init__(self) -> None:
        windows = len(self.data) / self.data.blocks
        self.per_shard = max(1, int(TAILS / (len(self.plan) * windows)))

    @classmethod
    def of(
        cls,
        engine: Engine,
        data: Data,
        plan: Plan,
        metric: Metric,
        constant: Floats,
        seed: int,
        memory: int,
    ) -> Sweep:
        """Make the job that a loaded engine runs, here or as a copy elsewhere."""
        return cls(
            engine.bundle, engine.executor, engine.device, engine.dtype, engine.threads, data, plan,
            metric, constant, seed, memory, engine,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_engine": None}

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.data.blocks // self.per_shard)

    def identity(self) -> Mapping[str, Any]:
        """Return everything that decides the result."""
        return {
            "what": "attendrite ablate",
            "format": FORMAT,
            "model": _hash(self.bundle.manifest.to_json().encode(), *_arrays(self.bundle.weights)),
            "executor": self.executor,
            "device": self.device,
            "dtype": self.dtype,
            "data": _hash(*_arrays(vars(self.data.batch)), *_arrays(vars(self.data))),
            "plan": self.plan.sha256,
            "metric": self.metric.name,
            "constant": self.constant.tolist(),
            "seed": self.seed,
        }

    def run(self, shard: int) -> Mapping[str, NDArray[Any]]:
        """Compute the sums of some blocks."""
        if self._engine is None:
            self._engine = Engine(
                self.bundle, self.executor, self.device, self.dtype, self.threads or 1
            )
        conditions = Conditions(self._engine, self.data, self.plan, self.seed, self.memory)
        first = shard * self.per_shard
        blocks = range(first, min(first + self.per_shard, self.data.blocks))
        start, stop = np.searchsorted(self.data.block, [blocks[0], blocks[-1] + 1]).tolist()
        found = conditions.run(start, stop)
        block = self.data.block[start:stop]
        parts = []
        for one in blocks:
            windows = (start + np.flatnonzero(block == one)).tolist()
            decoded = np.concatenate([found[w - start] for w in windows], 2)  # [P, C, S, D]
            parts.append(self._block(conditions, windows, decoded))
        return merged(parts, "concatenate")

    def _block(
        self, conditions: Conditions, windows: list[int], decoded: NDArray[Any]
    ) -> dict[str, NDArray[Any]]:
        true = np.concatenate([self.data.true[w][self.data.asked[w]] for w in windows])
        says = np.broadcast_to(self.constant, (len(true), len(self.constant)))
        constant = self.metric.sums(true, says)
        blind = np.full_like(constant, np.nan)
        unseen = [x for w in windows if (x := conditions.blind(w)) is not None]
        if unseen:
            blind = self.metric.sums(true, np.concatenate(unseen))
        return {
            "curves": self.metric.sums(true, decoded)[None],
            "constant": constant[None],
            "blind": blind[None],
            "samples": np.array([len(true)]),
        }


def sums(results: Iterator[Mapping[str, NDArray[Any]]]) -> Sums:
    """Gather what the shards give, in their order."""
    found = merged(results, "concatenate")
    return Sums(
        np.ascontiguousarray(np.moveaxis(found["curves"], 0, 2)),
        found["constant"],
        found["blind"],
        found["samples"],
    )


def _arrays(named: Mapping[str, Any]) -> Iterator[bytes]:
    """Give names and contents of arrays, for a hash: by name, since safetensors has no order."""
    for name, value in sorted(named.items()):
        if value is None or name == "batch":
            continue
        array = np.ascontiguousarray(value)
        yield f"{name} {array.dtype} {array.shape}".encode()
        yield array.tobytes()


def _hash(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()

"""What a job is, and what a worker does with it."""

from __future__ import annotations

import threading
import traceback
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .. import errors
from ._store import Result, Store


class Job(Protocol):
    """Work in numbered shards. A dataclass of paths and numbers at the top of a module will do."""

    @property
    def shards(self) -> int:
        """Number of shards, at least 1: enough that losing one is cheap, 10 s of work or more."""

    def identity(self) -> Mapping[str, Any]:
        """Return everything that decides the result, as plain JSON.

        That is the sha256 of bundles and recordings, options, seeds, versions of formats; not where
        files lie, nor how many workers there are.
        """

    def run(self, shard: int) -> Result:
        """Compute one shard: plain arrays that depend on the identity and the shard only."""


class Trouble(NamedTuple):
    """Why a shard could not be computed."""

    shard: int
    text: str  # one line where the input is bad, else the traceback
    bad_input: bool


@dataclass(frozen=True)
class Work:
    """Given to workers: computes shards of a job and writes them."""

    job: Job
    store: Store
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __call__(self, portion: Sequence[int]) -> Trouble | None:
        """Compute shards one after the other; those that someone else has finished are left out."""
        with _TURN:
            job = self._kept()
            for shard in portion:
                try:
                    if not self.store.has(shard):
                        self.store.write(shard, job.run(shard))
                except errors.AttendriteError as error:
                    return Trouble(shard, str(error), bad_input=True)
                except (Exception, SystemExit):
                    return Trouble(shard, traceback.format_exc(), bad_input=False)
        return None

    def _kept(self) -> Job:
        """Return the copy of the job that this process received first: it has its heavy parts."""
        if self.token not in _KEPT:
            _KEPT.clear()
            _KEPT[self.token] = self.job
        return _KEPT[self.token]


_KEPT: dict[str, Job] = {}
_TURN = threading.RLock()  # workers of dask have threads; a job need not be ready for them


def forget() -> None:
    """Let go of the job that this process keeps."""
    _KEPT.clear()

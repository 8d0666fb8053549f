"""Where shards are computed: the contract of a pool of workers, and which one an option names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from .. import errors
from ._work import Trouble, Work

CHANCES = 3  # a shard may end so many workers: one death may be chance, three are not
FORMS = "'local', 'dask=ADDRESS' or 'slurm:OPTION=VALUE,...'"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Report(NamedTuple):
    """What became of a portion, or of the shards of one so far."""

    finished: Sequence[int] = ()
    lost: Sequence[int] = ()  # of a worker that died, in the order of the portion
    death: str = ""  # of what
    trouble: Trouble | None = None


class Pool(Protocol):
    """Workers. Portions are lists of shards, each computed in its order by one worker."""

    chances: int

    def portions(self, todo: list[int]) -> list[Sequence[int]]:
        """Cut what is to do into what one worker is given at a time."""

    def free(self) -> bool:
        """Say whether another portion may start: few are in flight, so a stop loses little."""

    def start(self, portion: Sequence[int]) -> None:
        """Give a portion to a worker."""

    def ended(self) -> list[Report]:
        """Wait for news, or for a moment; every shard that was started is reported once."""

    def close(self) -> None:
        """Stop what runs and let the workers go."""


PoolOf = Callable[[Work, int], Pool]


def chosen(workers: str, processes: int | None) -> PoolOf:
    """Return what makes the pool for some work and its number of shards to do.

    Raises:
        AttendriteError: No such workers, a bad option, or a senseless number of processes.
    """
    if processes is not None and processes < 1:
        raise errors.must("processes", "be at least 1", processes)
    if workers == "local":
        from . import _local

        return lambda work, todo: _local.pool(work, min(processes or cores(), todo))
    if workers.startswith("dask="):
        from . import _dask

        if processes is not None:
            raise errors.must("processes", "be left to the dask cluster", processes)
        return lambda work, _: _dask.Dask(work, workers.removeprefix("dask="))
    if workers.partition(":")[0] == "slurm":
        from . import _slurm

        if processes is None:
            raise errors.must("processes", "say how many jobs of slurm there may be", "none")
        options = _slurm.parsed(workers.partition(":")[2])
        return lambda work, todo: _slurm.Slurm(work, min(processes, todo), options)
    raise errors.must("workers", f"be {FORMS}", repr(workers))


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def threads_of_children(threads: int) -> Iterator[None]:
    """Let processes started inside use so many threads each, or fewer where it says so already.

    Numerical libraries read these names when they are loaded; torch reads OpenMP's.
    """
    before = {name: os.environ.get(name) for name in THREADS}
    for name, value in before.items():
        known = value is not None and value.isdigit() and int(value) > 0
        os.environ[name] = str(min(int(value), threads) if known and value else threads)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""Long work in numbered shards: run it anywhere, stop it, go on with it, merge it to the same bits.

A job says how many shards it has and computes one of them; this room decides where and when. A
finished shard is a file of the run's folder::

    folder/run.json             what the run is of: the job's identity
    folder/shards/000012.npz    the arrays of shard 12, and the sha256 of that identity

so that any start continues where the last one ended, and processes that know nothing of each other
can share one folder: files appear whole, and two that compute the same shard write the same bytes.
Results come in the order of the shards, and so do sums: the same bits on any number of workers and
after any number of interruptions, as long as a shard's bits do not depend on where it is computed.
A job whose library adds in another order on more threads fixes its threads, in its identity.

Workers are processes of this machine (``concurrent.futures``), those of a dask cluster, or jobs of
Slurm (submitit); docs/shards.md is the user's page. dask and submitit send Python objects as
pickle to workers of the same user, as they always do; the folder holds none but submitit's own.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ._pools import PoolOf, Report, chosen
from ._progress import Progress
from ._store import Result, Store
from ._work import Job, Trouble, Work

__all__ = ["Job", "Result", "ShardError", "merged", "run"]

WAYS = ("sum", "concatenate")


class ShardError(RuntimeError):
    """A job failed in one of its shards: the message ends with the traceback of the worker."""


def run(
    job: Job,
    folder: str | Path,
    workers: str = "local",
    processes: int | None = None,
    shard: tuple[int, int] | None = None,
    progress: bool = True,
) -> Iterator[Result]:
    """Give the result of every shard in order, computing those that the folder does not hold.

    Args:
        job: The job. It is sent to workers, so it holds paths and numbers; what is heavy it makes
            at its first :meth:`Job.run` and keeps, since a worker runs one copy for all its shards.
        folder: The folder of the run, on a file system that all workers share. Made if missing,
            continued if there.
        workers: ``local``; ``dask=ADDRESS`` of a scheduler; ``slurm:OPTION=VALUE,...`` with options
            of sbatch, ``time`` among them.
        processes: Processes of ``local`` (default: one per core; 1 computes in this process), or
            jobs of ``slurm`` at a time. A dask cluster has its own number.
        shard: ``(i, n)``, ``1 <= i <= n``: only the i-th of n shares, shards ``i-1, i-1+n, ...``.
        progress: Whether to report on stderr: a bar on a terminal, now and then a line elsewhere.

    Returns:
        An iterator over the results, of all shards or of the share, each a ``dict`` of arrays read
        from its file and owned by the caller. Leaving it early stops the workers.

    Raises:
        AttendriteError: The folder belongs to another job (the first key that differs is named), an
            option is bad, a package is missing, a shard ended one worker after the other, or a
            shard found its input bad. Some of these come with the first result.
        ShardError: A shard raised anything else. Finished shards stay in either case.
    """
    if job.shards < 1:
        raise errors.must("the shards of a job", "be at least 1", job.shards)
    wanted = _share(job.shards, shard)
    pool_of = chosen(workers, processes)
    return _results(Work(job, Store.of(job, Path(folder))), wanted, pool_of, progress)


def _share(shards: int, shard: tuple[int, int] | None) -> range:
    i, n = shard or (1, 1)
    if not 1 <= i <= n:
        raise errors.must("a share i/n", "have 1 <= i <= n", f"{i}/{n}", "count from 1")
    return range(i - 1, shards, n)


def _results(work: Work, wanted: range, pool_of: PoolOf, progress: bool) -> Iterator[Result]:
    todo = [shard for shard in wanted if not work.store.has(shard)]
    finished = set(wanted) - set(todo)
    with Progress(len(wanted), len(finished), progress) as bar:
        computed = _computed(work, todo, pool_of, bar)
        try:
            for shard in wanted:
                while shard not in finished:
                    finished.add(next(computed))
                yield work.store.read(shard)
        finally:
            computed.close()


def _computed(work: Work, todo: list[int], pool_of: PoolOf, bar: Progress) -> Generator[int]:
    """Give numbers of shards as they are finished, in any order; stop the workers at the end."""
    if not todo:
        return
    pool = pool_of(work, len(todo))
    try:
        left, waiting = set(todo), deque(pool.portions(todo))
        losses: Counter[int] = Counter()
        while left:
            while waiting and pool.free():
                pool.start(waiting.popleft())
            for report in pool.ended():
                if report.trouble:
                    raise _failed(report.trouble, work.store)
                if report.lost:
                    _count_loss(report, losses, pool.chances, work.store)
                    waiting.appendleft(report.lost)
                for shard in report.finished:
                    work.store.await_file(shard)
                    left.discard(shard)
                    bar.update()
                    yield shard
    finally:
        pool.close()


def _failed(trouble: Trouble, store: Store) -> Exception:
    if trouble.bad_input:
        return errors.AttendriteError(trouble.text)
    what = f"shard {trouble.shard} failed; finished shards stay in {store.folder}"
    return ShardError(f"{what}\n{trouble.text}")


def _count_loss(report: Report, losses: Counter[int], chances: int, store: Store) -> None:
    """Blame the first shard that is missing, since a portion is computed in order."""
    shard = report.lost[0]
    losses[shard] += 1
    if losses[shard] == chances:
        raise errors.must(
            f"the worker of shard {shard}",
            "live until it is done",
            f"{report.death}, at attempt {chances}" if chances > 1 else report.death,
            f"give it more memory or time; finished shards stay in {store.folder}",
        )


def merged(results: Iterable[Result], how: str | Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Merge results in the order in which they come, which :func:`run` makes that of the shards.

    Args:
        results: At least one result; all have the same names. Not modified.
        how: ``"sum"`` (float64 or int64 of equal shapes, added one after the other) or
            ``"concatenate"`` (along the first axis), for all names or for each one. Names that are
            left out of a mapping are not merged.

    Returns:
        Newly allocated arrays.

    Raises:
        AttendriteError: No results, or names, shapes or dtypes that do not fit.
    """
    sums: dict[str, NDArray[Any]] = {}
    parts: dict[str, list[NDArray[Any]]] = {}
    names: set[str] = set()
    for i, result in enumerate(results):
        names = names if i else set(result)
        ways = how if isinstance(how, Mapping) else dict.fromkeys(names, how)
        if set(result) != names or not names.issuperset(ways):
            raise errors.must(f"result {i}", f"hold {sorted(names | set(ways))}", sorted(result))
        for name, way in ways.items():
            errors.choice("way to merge", way, WAYS)
            if way == "sum":
                _add(sums, name, result[name], i)
            else:
                parts.setdefault(name, []).append(np.asarray(result[name]))
    if not names:
        raise errors.must("results", "be at least one", "none")
    return sums | {name: _joined(name, arrays) for name, arrays in parts.items()}


def _add(sums: dict[str, NDArray[Any]], name: str, array: NDArray[Any], i: int) -> None:
    if array.dtype not in (np.float64, np.int64):
        raise errors.must(f"{name} of result {i}", "be float64 or int64 to be summed", array.dtype)
    if name not in sums:
        sums[name] = array.copy()
        return
    errors.shape(f"{name} of result {i}", array, sums[name].shape)
    if array.dtype != sums[name].dtype:
        raise errors.must(f"{name} of result {i}", f"be {sums[name].dtype}", array.dtype)
    sums[name] += array


def _joined(name: str, arrays: list[NDArray[Any]]) -> NDArray[Any]:
    for i, array in enumerate(arrays):
        errors.shape(f"{name} of result {i}", array, ("n", *arrays[0].shape[1:]))
        if array.dtype != arrays[0].dtype:
            raise errors.must(f"{name} of result {i}", f"be {arrays[0].dtype}", array.dtype)
    return np.concatenate(arrays)

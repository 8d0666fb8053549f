"""Workers on this machine: this process, or processes of ``concurrent.futures``.

Processes are spawned, not forked: a fork copies locks that threads of torch and OpenMP hold, and a
fork server has the environment of the moment it was first needed, by whomever, while a spawned
process has the number of threads that it is given here. The two seconds that importing torch takes
are paid once per worker.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler

from .. import errors
from ._pools import CHANCES, Pool, Report, cores, threads_of_children
from ._work import Trouble, Work, forget


def pool(work: Work, processes: int) -> Pool:
    """Return a pool of so many processes; one is this process itself."""
    return Here(work) if processes == 1 else Processes(work, processes)


class Here:
    """This process, without a pool."""

    chances = 1

    def __init__(self, work: Work) -> None:
        self._work = work
        self._portion: Sequence[int] = ()

    def portions(self, todo: list[int]) -> list[Sequence[int]]:
        """Return one shard each."""
        return [[shard] for shard in todo]

    def free(self) -> bool:
        """Say whether nothing is to be computed."""
        return not self._portion

    def start(self, portion: Sequence[int]) -> None:
        """Remember the portion."""
        self._portion = portion

    def ended(self) -> list[Report]:
        """Compute it."""
        portion, self._portion = self._portion, ()
        trouble = self._work(portion)
        return [Report(trouble=trouble) if trouble else Report(finished=portion)]

    def close(self) -> None:
        """Let go of the job."""
        forget()


class Processes:
    """Several pools of one process each: a death costs one shard, and it is known which."""

    chances = CHANCES

    def __init__(self, work: Work, processes: int) -> None:
        try:  # first: a pool learns it in a thread, which may meet one that ends the pool
            ForkingPickler.dumps(work)
        except Exception as error:
            got = f"{type(error).__name__}: {error}"
            raise errors.must("a job", "be picklable", got, "define it in a module") from None
        self._work, self._processes = work, processes
        self._threads = max(1, cores() // processes)
        self._idle: list[_Seat] = []
        self._running: dict[Future[Trouble | None], tuple[_Seat, Sequence[int]]] = {}

    def portions(self, todo: list[int]) -> list[Sequence[int]]:
        """Return one shard each: nobody waits for a slow one."""
        return [[shard] for shard in todo]

    def free(self) -> bool:
        """Say whether a process has nothing to do, or may be started."""
        return len(self._running) < self._processes

    def start(self, portion: Sequence[int]) -> None:
        """Give a portion to an idle process or to a new one."""
        seat = self._idle.pop() if self._idle else _Seat(self._threads)
        try:
            future = seat.submit(self._work, portion)
        except BrokenProcessPool:  # it died while it was idle
            seat.close()
            seat = _Seat(self._threads)
            future = seat.submit(self._work, portion)
        self._running[future] = seat, portion

    def ended(self) -> list[Report]:
        """Wait for at least one process."""
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        return [self._report(future) for future in done]

    def _report(self, future: Future[Trouble | None]) -> Report:
        seat, portion = self._running.pop(future)
        if isinstance(future.exception(), BrokenProcessPool):
            seat.close()
            return Report(lost=portion, death=seat.death())
        self._idle.append(seat)
        trouble = future.result()
        return Report(trouble=trouble) if trouble else Report(finished=portion)

    def close(self) -> None:
        """Kill the processes that are at work, end the others, and wait until they are gone."""
        running = [seat for seat, _ in self._running.values()]
        for seat in running:
            seat.kill()
        for seat in running + self._idle:
            seat.close()


class _Seat:
    """One worker process."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_end_with_parent
        )
        self._process: multiprocessing.process.BaseProcess | None = None

    def submit(self, work: Work, portion: Sequence[int]) -> Future[Trouble | None]:
        with _sigint_blocked(), threads_of_children(self._threads):
            future = self._pool.submit(work, portion)
        if self._process is None:  # a public way comes with Python 3.14: terminate_workers
            self._process = next(iter(self._pool._processes.values()))
        return future

    def kill(self) -> None:
        """End it in the middle of its work: files appear whole, so nothing is harmed."""
        if self._process:
            self._process.kill()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def death(self) -> str:
        """Say how it ended."""
        code = self._process.exitcode if self._process else None
        if code is not None and code < 0:
            return f"an end by {signal.Signals(-code).name}"
        return f"an end with exit status {code}"


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Start processes that never see Ctrl-C, which a terminal sends to all: the parent ends them.

    A blocked signal is inherited, and comes late to this process where one came meanwhile.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this worker when its parent ends, however that happens: it would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""Workers of a dask cluster that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue

from .. import errors
from ._pools import Report
from ._work import Trouble, Work, forget

try:
    import distributed
    from distributed.comm.addressing import parse_address
    from distributed.comm.registry import get_backend
except ImportError:
    raise errors.missing_package("workers 'dask'", "distributed", "dask") from None

UNREACHED = (OSError, TimeoutError, ValueError)


class Dask:
    """A client of the cluster. It is dask that gives the shards of a dead worker to others."""

    chances = 1  # dask's own distributed.scheduler.allowed-failures are used up by then

    def __init__(self, work: Work, address: str) -> None:
        self._work = work
        try:
            # First: a client that could not even begin waits a minute to end.
            get_backend(parse_address(address)[0])
            self._client = distributed.Client(address, set_as_default=False)
        except UNREACHED as error:
            raise errors.must("dask=ADDRESS", "be a scheduler", f"{address}: {error}") from None
        self._running: dict[distributed.Future[Trouble | None], Sequence[int]] = {}
        self._done: SimpleQueue[distributed.Future[Trouble | None]] = SimpleQueue()

    def portions(self, todo: list[int]) -> list[Sequence[int]]:
        """Return one shard each."""
        return [[shard] for shard in todo]

    def free(self) -> bool:
        """Say whether a worker has nothing to do; a death is blamed on all that it was given."""
        return len(self._running) < max(1, len(self._client.nthreads()))

    def start(self, portion: Sequence[int]) -> None:
        """Submit one shard."""
        key = f"attendrite-shard-{portion[0]}-{self._work.token}"
        future = self._client.submit(self._work, portion, key=key, pure=False)
        self._running[future] = portion
        future.add_done_callback(self._done.put)  # also when it fails or is cancelled

    def ended(self) -> list[Report]:
        """Wait for one shard."""
        future = self._done.get()
        portion = self._running.pop(future)
        if self._work.store.has(portion[0]):  # its result may be lost with a worker that dies now
            return [Report(finished=portion)]
        error = future.exception()
        if isinstance(error, distributed.KilledWorker):
            return [Report(lost=portion, death=f"the end of {error.last_worker.address}")]
        if error:
            got = f"{type(error).__name__}: {error}"
            raise errors.must("a job", "be run by the workers of dask", got)
        trouble = future.result()
        return [Report(trouble=trouble) if trouble else Report(finished=portion)]

    def close(self) -> None:
        """Leave: dask drops what waits. A shard that runs is finished, it cannot be stopped."""
        with suppress(*UNREACHED):
            self._client.run(forget, on_error="ignore")
        self._client.close()

"""Jobs of Slurm, sent by submitit: each takes a portion of all shards, interleaved."""

from __future__ import annotations

import logging
import math
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from .. import errors
from ._pools import CHANCES, Report, cores, threads_of_children
from ._work import Trouble, Work

try:
    import submitit
except ImportError:
    raise errors.missing_package("workers 'slurm'", "submitit", "slurm") from None

POLL_S = 1.0
ASK_S = 10.0  # between questions to squeue: a scheduler serves many
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"}
ENDED |= {"OUT_OF_MEMORY", "TIMEOUT"}
CLUSTERS = ("slurm", "local")  # submitit's; the second is this machine, to try it out
EXAMPLE = "for example slurm:partition=short,time=2:00:00,cpus-per-task=4"


def parsed(text: str) -> dict[str, str]:
    """Parse ``OPTION=VALUE,...``: names of sbatch's long options; a comma may be part of a value.

    Raises:
        AttendriteError: Not of this form, without a usable ``time``, or another that is not usable.
    """
    parts = re.split(r",(?=[a-z][a-z-]*=)", text) if text else []
    for part in parts:
        if not re.fullmatch(r"[a-z][a-z-]*=.+", part):
            raise errors.must("an option of slurm", "be OPTION=VALUE", repr(part), EXAMPLE)
    options = dict(part.split("=", 1) for part in parts)
    if "time" not in options:
        raise errors.must("options of slurm", "give each job a time", repr(text), EXAMPLE)
    minutes(options["time"])
    if not options.get("cpus-per-task", "1").isdigit():
        raise errors.must("cpus-per-task of slurm", "be a number", options["cpus-per-task"])
    errors.choice("cluster of slurm", options.get("cluster", CLUSTERS[0]), CLUSTERS)
    return options


def minutes(text: str) -> int:
    """Return a time of sbatch in minutes, rounded up: ``M``, ``M:S``, ``H:M:S``, ``D-H[:M[:S]]``.

    Raises:
        AttendriteError: Not of one of these forms.
    """
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        raise errors.must("time of slurm", "be M, M:S, H:M:S or D-H[:M[:S]]", repr(text))
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not days and len(parts) < 3:
        parts = [0, *parts]  # then the first is minutes
    hours, mins, seconds = (*parts, 0, 0)[:3]
    return math.ceil(((int(days or 0) * 24 + hours) * 60) + mins + seconds / 60)


class Slurm:
    """A few jobs of the cluster. One that dies or meets its time limit is followed by another."""

    chances = CHANCES

    def __init__(self, work: Work, jobs: int, options: Mapping[str, str]) -> None:
        self._work, self._jobs = work, jobs
        own = dict(options)
        self._cluster = own.pop("cluster", CLUSTERS[0])
        if self._cluster == "slurm" and not shutil.which("sbatch"):
            todo = "run this where jobs are submitted, or try it with slurm:cluster=local,time=10"
            raise errors.must("workers 'slurm'", "find sbatch", "none on PATH", todo)
        # Its warnings, of missing accounts for one, go to stdout, where commands print results.
        logging.getLogger("submitit").setLevel(logging.ERROR)
        limit = minutes(own.pop("time"))
        self._threads = int(own.get("cpus-per-task", "1"))
        if self._cluster == "local":
            self._threads = max(1, cores() // jobs)
        self._executor = submitit.AutoExecutor(work.store.folder / "slurm", cluster=self._cluster)
        self._executor.update_parameters(
            name="attendrite",
            timeout_min=limit,
            slurm_use_srun=False,  # since 22.05 srun would take one core of cpus-per-task only
            slurm_additional_parameters=own,
        )
        self._running: dict[submitit.Job[Trouble | None], Sequence[int]] = {}
        self._asked = time.monotonic()

    def portions(self, todo: list[int]) -> list[Sequence[int]]:
        """Return one portion per job: what a job makes once serves all its shards."""
        return [todo[i :: self._jobs] for i in range(self._jobs)]

    def free(self) -> bool:
        """Say whether there may be another job."""
        return len(self._running) < self._jobs

    def start(self, portion: Sequence[int]) -> None:
        """Submit a job.

        Raises:
            AttendriteError: sbatch refuses it.
        """
        with threads_of_children(self._threads):
            try:
                job = self._executor.submit(_compute, self._work, portion)
            except submitit.core.utils.FailedJobError as error:
                got = str(error).strip().splitlines()[-1]
                raise errors.must("a job", "be taken by sbatch", got) from None
        self._running[job] = portion

    def ended(self) -> list[Report]:
        """Look after a moment which shards are there and which jobs have ended."""
        time.sleep(POLL_S)
        gone = self._gone()
        return [self._report(job, job in gone) for job in list(self._running)]

    def _report(self, job: submitit.Job[Trouble | None], gone: bool) -> Report:
        ended = gone or job.done()  # asked before the files are looked at: then all are there
        portion = self._running.pop(job)
        finished = [shard for shard in portion if self._work.store.has(shard)]
        rest = [shard for shard in portion if shard not in set(finished)]
        if not ended:
            self._running[job] = rest
            return Report(finished=finished)
        if not job.paths.result_pickle.exists():
            state = "no longer in the queue" if gone else job.state
            death = f"job {job.job_id} ({state}; {job.paths.stderr})"
            return Report(finished=finished, lost=rest, death=death)
        try:
            trouble = job.result()
        except submitit.core.utils.FailedJobError as error:
            trouble = Trouble(rest[0] if rest else portion[0], str(error), bad_input=False)
        return Report(finished=finished if trouble else portion, trouble=trouble)

    def _gone(self) -> set[submitit.Job[Trouble | None]]:
        """Return jobs that left the queue, where the cluster keeps no accounts.

        There sacct, which submitit asks, never knows them, and a job that was killed would be
        waited for without end.
        """
        if self._cluster != "slurm" or time.monotonic() < self._asked + ASK_S:
            return set()
        self._asked = time.monotonic()
        unknown = {job.job_id: job for job in self._running if job.state == "UNKNOWN"}
        return {unknown[job_id] for job_id in _ended(list(unknown))}

    def close(self) -> None:
        """Cancel the jobs that have shards to compute; the others end by themselves."""
        for job, rest in self._running.items():
            if rest:
                job.cancel(check=False)
        while self._cluster == "local" and not all(job.done() for job in self._running):
            time.sleep(POLL_S / 10)


def _compute(work: Work, portion: Sequence[int]) -> Trouble | None:
    """Run in the job. submitit lets it ignore SIGTERM, so scancel would take half a minute."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return work(portion)


def _ended(job_ids: list[str]) -> set[str]:
    """Ask squeue which jobs have ended; none where it does not answer."""
    if not job_ids:
        return set()
    asked = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--format=%i %T", f"--jobs={','.join(job_ids)}"],
        capture_output=True,
        text=True,
    )
    if asked.returncode and "Invalid job id" not in asked.stderr:  # said of one that is long gone
        return set()
    states = dict(line.split() for line in asked.stdout.splitlines())
    return {job_id for job_id in job_ids if states.get(job_id, "COMPLETED") in ENDED}

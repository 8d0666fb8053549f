"""Shards: the same bits on any workers and after any interruption; nothing lost or left over."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tqdm.std
from attendrite import AttendriteError, files, shards
from attendrite.__main__ import BAD_INPUT, INTERRUPTED
from attendrite.commands import _workers
from attendrite.shards import _local, _pools, _progress, _store
from attendrite.shards._store import Store
from attendrite.shards._work import Work

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))  # workers import the job by this name, from this path

from _shard_jobs import MERGE, Noise, Objects, Threads  # noqa: E402

SUBMITIT = "slurm:cluster=local,time=10"
SLURM = "slurm:time=10,cpus-per-task=1"
WORKERS = [
    "local",
    pytest.param(SUBMITIT, id="submitit"),
    pytest.param(
        SLURM,
        id="real_slurm",
        marks=pytest.mark.skipif(
            "ATTENDRITE_TEST_SLURM" not in os.environ, reason="no Slurm: make test-slurm"
        ),
    ),
]


@pytest.fixture(autouse=True)
def path_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What one process computes without interruption: merged, and the digest of its files."""
    folder = tmp_path_factory.mktemp("truth")
    return merged(Noise(folder), folder / "run"), digest(folder / "run")


@pytest.fixture(scope="module")
def dask_address() -> Iterator[str]:
    dask = pytest.importorskip("dask", reason="no dask")
    distributed = pytest.importorskip("distributed", reason="no dask")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        deaths = dask.config.set({"distributed.scheduler.allowed-failures": 1})
        with (
            deaths,
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
            ) as cluster,
        ):
            yield cluster.scheduler_address


def merged(job: shards.Job, folder: Path, **options: Any) -> dict[str, Any]:
    return shards.merged(shards.run(job, folder, **({"processes": 1} | options)), MERGE)


def needed(workers: str) -> None:
    if workers != "local":
        pytest.importorskip("submitit", reason="no submitit")


def digest(folder: Path) -> str:
    files = sorted((folder / "shards").glob("*.npz"))
    text = b"".join(file.name.encode() + file.read_bytes() for file in files)
    return hashlib.sha256(text).hexdigest()


def same(found: dict[str, Any], folder: Path, truth: tuple[dict[str, Any], str]) -> None:
    """Hold merged arrays and files against the truth, to the bit."""
    assert found.keys() == truth[0].keys()
    for name, array in truth[0].items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes(), name
    assert digest(folder) == truth[1]
    assert not list(folder.rglob("*.part"))


def times_computed(log: Path, shard: int) -> int:
    file = log / f"shard.{shard}"
    return len(file.read_text().split()) if file.exists() else 0


def start(log: Path, *options: str) -> subprocess.Popen[str]:
    """Start the command of _shard_jobs in a process group of its own."""
    return subprocess.Popen(
        [
            sys.executable,
            str(TESTS / "_shard_jobs.py"),
            log,
            log / "run",
            log / "out.npz",
            *options,
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As in a terminal, also where the tests run in the background, which ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def living(group: int) -> list[str]:
    """Return the processes of a group that are not merely waited for.

    One without a command line has given up its memory: it closes its pipes, which ends the wait of
    who reads them, and is a zombie a moment later.
    """
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            ends = stat.with_name("cmdline").read_bytes() == b""
        except OSError:  # it ended meanwhile
            continue
        if int(its_group) == group and state != "Z" and not ends:
            found.append(stat.parent.name)
    return found


def until(what: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def out(log: Path) -> dict[str, Any]:
    with np.load(log / "out.npz") as file:
        return dict(file)


# The same bits


@pytest.mark.parametrize("workers", WORKERS)
def test_two_processes_give_the_bits_of_one(
    workers: str, tmp_path: Path, truth: tuple[dict[str, Any], str]
) -> None:
    needed(workers)
    found = merged(Noise(tmp_path, pause_s=0.05), tmp_path / "run", workers=workers, processes=2)
    same(found, tmp_path / "run", truth)
    made = (tmp_path / "made").read_text().split()
    assert len(made) == len(set(made)) <= 2, "what is heavy is made once per process"
    assert str(os.getpid()) not in made


def test_dask_gives_the_bits_of_one_process(
    dask_address: str, tmp_path: Path, truth: tuple[dict[str, Any], str]
) -> None:
    job = Noise(tmp_path, pause_s=0.05)
    same(merged(job, tmp_path / "run", workers=f"dask={dask_address}", processes=None),
         tmp_path / "run", truth)  # fmt: skip
    made = (tmp_path / "made").read_text().split()
    assert len(made) == len(set(made)) == 2


@pytest.mark.parametrize("workers", WORKERS[-1:])
def test_sbatch_says_no(workers: str, tmp_path: Path) -> None:
    with pytest.raises(AttendriteError, match=r"^a job must be taken by sbatch, got .*partition"):
        merged(Noise(tmp_path), tmp_path / "run", workers=f"{workers},partition=no", processes=1)


def test_these_sums_depend_on_their_order(tmp_path: Path) -> None:
    """Else the tests above would show nothing."""
    results = list(shards.run(Noise(tmp_path), tmp_path / "run", processes=1))
    forwards = shards.merged(results, {"sum": "sum"})["sum"]
    backwards = shards.merged(results[::-1], {"sum": "sum"})["sum"]
    assert forwards.tobytes() != backwards.tobytes()


def test_files_are_the_same_at_any_time(tmp_path: Path) -> None:
    merged(Noise(tmp_path), tmp_path / "run")
    with zipfile.ZipFile(tmp_path / "run/shards/000003.npz") as file:
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


# Going on


def test_a_run_goes_on_where_it_was_left(tmp_path: Path, truth: tuple[dict[str, Any], str]) -> None:
    for n in (1, 4, 7):
        results = shards.run(Noise(tmp_path), tmp_path / "run", processes=1)
        assert [int(r["count"]) for r in itertools.islice(results, n)] == list(range(n))
        results.close()  # type: ignore[attr-defined]
    same(merged(Noise(tmp_path), tmp_path / "run"), tmp_path / "run", truth)
    assert [times_computed(tmp_path, s) for s in range(12)] == [1] * 12


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda b: b[: len(b) // 2],
    "empty": lambda b: b"",
    "text": lambda b: b"not an archive",
    "flipped in an array": lambda b: b.replace(b"NUMPY\x01\x00", b"NUMPY\x01\x01"),
    "another value": lambda b: flipped(b, b.index(b"\n", b.rindex(b"NUMPY")) + 1),
    "flipped at the end": lambda b: flipped(b, len(b) - 20),
}


@pytest.mark.parametrize("damage", list(DAMAGE.values()), ids=list(DAMAGE))
def test_a_damaged_shard_is_computed_anew(
    damage: Callable[[bytes], bytes], tmp_path: Path, truth: tuple[dict[str, Any], str]
) -> None:
    merged(Noise(tmp_path), tmp_path / "run")
    file = tmp_path / "run/shards/000005.npz"
    assert damage(file.read_bytes()) != file.read_bytes()
    file.write_bytes(damage(file.read_bytes()))
    same(merged(Noise(tmp_path), tmp_path / "run"), tmp_path / "run", truth)
    assert [times_computed(tmp_path, s) for s in range(12)] == [1] * 5 + [2] + [1] * 6


def test_a_foreign_shard_is_computed_anew(
    tmp_path: Path, truth: tuple[dict[str, Any], str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    merged(Noise(other, seed=2), other / "run")
    merged(Noise(tmp_path), tmp_path / "run")
    folder = tmp_path / "run/shards"
    (folder / "000005.npz").write_bytes((other / "run/shards/000005.npz").read_bytes())
    (folder / "000006.npz").write_bytes((folder / "000007.npz").read_bytes())
    same(merged(Noise(tmp_path), tmp_path / "run"), tmp_path / "run", truth)
    assert [times_computed(tmp_path, s) for s in (4, 5, 6, 7)] == [1, 2, 2, 1]


def test_a_shard_that_changes_after_it_was_finished(tmp_path: Path) -> None:
    results = shards.run(Noise(tmp_path), tmp_path / "run", processes=1)
    merged(Noise(tmp_path), tmp_path / "run")
    next(results)
    (tmp_path / "run/shards/000001.npz").write_bytes(b"")
    with pytest.raises(AttendriteError, match=r"000001.npz must stay as it was written, got"):
        next(results)


def test_another_identity_is_refused(tmp_path: Path) -> None:
    merged(Noise(tmp_path), tmp_path / "run")
    before = digest(tmp_path / "run")
    with pytest.raises(AttendriteError, match=r"^seed of the run in .*run must be 1, got 2; give "):
        shards.run(Noise(tmp_path, seed=2), tmp_path / "run")
    with pytest.raises(AttendriteError, match=r"^shards of the run in .* must be 12, got 13; "):
        shards.run(Noise(tmp_path, shards=13), tmp_path / "run")

    class Seconds(Noise):
        def identity(self) -> dict[str, Any]:
            return {"seed": 1, "options": {"scale": [1e-3, 1e3], "unit": "s"}}

    with pytest.raises(AttendriteError, match=r"^options.unit of the run in .* must be 'µV', got "):
        shards.run(Seconds(tmp_path), tmp_path / "run")
    assert digest(tmp_path / "run") == before


@pytest.mark.parametrize("text", ["", "{", '{"format": 2}', "[]", "\x00"])
def test_a_folder_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(AttendriteError, match=r"choose another folder$"):
        shards.run(Noise(tmp_path), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


# Shares and processes that share a folder


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_shares_in_any_order(
    order: tuple[int, ...], tmp_path: Path, truth: tuple[dict[str, Any], str]
) -> None:
    for i in order:
        results = shards.run(Noise(tmp_path), tmp_path / "run", processes=1, shard=(i, 3))
        assert [int(r["count"]) for r in results] == list(range(i - 1, 12, 3))
    same(merged(Noise(tmp_path), tmp_path / "run"), tmp_path / "run", truth)
    assert [times_computed(tmp_path, s) for s in range(12)] == [1] * 12


def test_shares_of_a_job_array_and_the_run_that_merges(
    tmp_path: Path, truth: tuple[dict[str, Any], str]
) -> None:
    """All at once, on one folder, and the last one computes what others are at as well."""
    shares = [["--shard", "1/2"], ["--shard=2/2", "--workers=local"], []]
    started = [start(tmp_path, "--processes=1", "--pause=.02", *share) for share in shares]
    said = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert said[0][0].startswith(f"share 1/2: 6 of 12 shards are in {tmp_path / 'run'}; when all")
    assert "12/12" in said[2][1]
    same(out(tmp_path), tmp_path / "run", truth)


def test_a_worker_leaves_out_what_another_has_finished(tmp_path: Path) -> None:
    work = Work(Noise(tmp_path), Store.of(Noise(tmp_path), tmp_path / "run"))
    assert work([0, 1]) is None
    assert work([1, 2]) is None
    assert [times_computed(tmp_path, shard) for shard in range(4)] == [1, 1, 1, 0]


def test_two_machines_may_have_one_process_id(tmp_path: Path) -> None:
    with files.written_whole(tmp_path / "a") as one, files.written_whole(tmp_path / "a") as two:
        one.write_text("one")
        two.write_text("two")
    assert (tmp_path / "a").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# Death, interruption, failure


@pytest.mark.parametrize("workers", WORKERS)
def test_a_killed_worker_costs_nothing(
    workers: str, tmp_path: Path, truth: tuple[dict[str, Any], str]
) -> None:
    needed(workers)
    (tmp_path / "die.3").write_text("1")
    found = merged(Noise(tmp_path), tmp_path / "run", workers=workers, processes=2)
    same(found, tmp_path / "run", truth)
    assert [times_computed(tmp_path, s) for s in range(12)] == [1] * 3 + [2] + [1] * 8


def test_a_killed_worker_of_dask_costs_nothing(
    dask_address: str, tmp_path: Path, truth: tuple[dict[str, Any], str]
) -> None:
    (tmp_path / "die.3").write_text("1")
    found = merged(
        Noise(tmp_path), tmp_path / "run", workers=f"dask={dask_address}", processes=None
    )
    same(found, tmp_path / "run", truth)
    assert times_computed(tmp_path, 3) == 2


def test_a_shard_that_kills_every_worker_is_named(tmp_path: Path) -> None:
    (tmp_path / "die.3").write_text("9")
    with pytest.raises(
        AttendriteError, match=r"^the worker of shard 3 must live .* by SIGKILL, at"
    ):
        merged(Noise(tmp_path), tmp_path / "run", processes=2)
    assert times_computed(tmp_path, 3) == _pools.CHANCES
    assert len(list((tmp_path / "run/shards").glob("*.npz"))) >= 3


def test_a_worker_that_dies_while_idle_is_replaced(tmp_path: Path) -> None:
    job = Noise(tmp_path, shards=2)
    work = Work(job, Store.of(job, tmp_path / "run"))  # type: ignore[attr-defined]
    pool = _local.Processes(work, 2)
    try:
        pool.start([0])
        assert [report.finished for report in pool.ended()] == [[0]]
        process = pool._idle[0]._process
        assert process is not None
        process.kill()
        until(lambda: bool(pool._idle[0]._pool._broken))
        pool.start([1])
        assert [report.finished for report in pool.ended()] == [[1]]
    finally:
        pool.close()


@pytest.mark.parametrize("workers", WORKERS)
def test_ctrl_c_stops_all_and_the_same_command_goes_on(
    workers: str, tmp_path: Path, truth: tuple[dict[str, Any], str]
) -> None:
    needed(workers)
    options = [f"--workers={workers}", "--processes=2"]
    process = start(tmp_path, *options, "--pause=.4")
    until(lambda: len(list(tmp_path.glob("run/shards/*.npz"))) >= 2)
    assert living(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal sends: to every process
    _, said = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    # submitit's own controllers end their tasks without waiting for them, and say so at length.
    until(lambda: living(process.pid) == [], 10 if workers == SUBMITIT else 0)
    assert "Traceback" not in said or workers == SUBMITIT
    if workers == SLURM:
        until(lambda: not subprocess.check_output(["squeue", "--noheader"]))
    told = f"stopped; the same command goes on from the shards in {tmp_path / 'run'}\n"
    assert said.endswith(told + "attendrite noise: interrupted\n")
    assert not (tmp_path / "out.npz").exists()
    finished = {int(path.stem) for path in tmp_path.glob("run/shards/*.npz")}
    assert 2 <= len(finished) < 12
    began = [times_computed(tmp_path, s) for s in range(12)]
    process = start(tmp_path, *options, "--quiet")
    printed, said = process.communicate(timeout=60)
    assert printed == ""
    own = {"Slurm accounting storage is disabled"} if workers == SLURM else set()  # sacct's
    assert set(said.splitlines()) <= own
    assert process.returncode == 0
    same(out(tmp_path), tmp_path / "run", truth)
    again = [times_computed(tmp_path, s) - began[s] for s in range(12)]
    assert again == [0 if s in finished else 1 for s in range(12)]


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    process = start(tmp_path, "--processes=2", "--pause=30")
    until(lambda: len(list(tmp_path.glob("shard.*"))) == 2)
    assert len(living(process.pid)) >= 3
    process.kill()
    process.communicate(timeout=10)
    until(lambda: living(process.pid) == [], 10)


def test_a_result_left_early_stops_the_workers(tmp_path: Path) -> None:
    before = living(os.getpgid(0))
    (tmp_path / "slow.1").touch()
    results = shards.run(Noise(tmp_path), tmp_path / "run", processes=2)
    next(results)
    until(lambda: times_computed(tmp_path, 1) == 1)
    assert len(living(os.getpgid(0))) >= len(before) + 2
    began = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 30
    assert times_computed(tmp_path, 11) == 0


def test_dask_is_left_early(dask_address: str, tmp_path: Path) -> None:
    job = Noise(tmp_path, pause_s=0.2)
    results = shards.run(job, tmp_path / "run", f"dask={dask_address}")
    next(results)
    time.sleep(10 * job.pause_s)
    results.close()  # type: ignore[attr-defined]
    computed = sum(times_computed(tmp_path, shard) for shard in range(12))
    assert computed <= 4, "two that were reported, and one in flight for each of two workers"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_failure_is_told_once_and_finished_shards_stay(processes: int, tmp_path: Path) -> None:
    (tmp_path / "fail.5").touch()
    with pytest.raises(
        shards.ShardError, match=r"^shard 5 failed; finished shards stay in "
    ) as told:
        merged(Noise(tmp_path, pause_s=0.02), tmp_path / "run", processes=processes)
    assert str(told.value).count("Traceback") == 1
    assert str(told.value).endswith("ZeroDivisionError: nothing to divide by\n")
    finished = [int(path.stem) for path in tmp_path.glob("run/shards/*.npz")]
    assert len(finished) >= (5 if processes == 1 else 1)
    (tmp_path / "fail.5").unlink()
    merged(Noise(tmp_path), tmp_path / "run")
    assert [times_computed(tmp_path, s) for s in finished] == [1] * len(finished)


def test_dask_tells_a_failure_and_names_a_shard_that_kills(
    dask_address: str, tmp_path: Path
) -> None:
    """One after the other, since workers take a while to come back."""
    (tmp_path / "fail.5").touch()
    with pytest.raises(shards.ShardError, match=r"^shard 5 failed; .*") as told:
        list(shards.run(Noise(tmp_path), tmp_path / "run", f"dask={dask_address}"))
    assert str(told.value).count("Traceback") == 1
    (tmp_path / "fail.5").unlink()
    (tmp_path / "die.9").write_text("9")
    with pytest.raises(AttendriteError, match=r"^the worker of shard 9 must live .* end of tcp://"):
        list(shards.run(Noise(tmp_path), tmp_path / "run", f"dask={dask_address}"))


def test_bad_input_in_a_worker_is_bad_input_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "bad_input.1").touch()
    process = start(tmp_path, "--processes=2", "--quiet")
    _, said = process.communicate(timeout=60)
    assert process.returncode == BAD_INPUT
    assert said == "attendrite noise: the recording must hold spikes, got none\n"


# What jobs and folders must be


def test_jobs_that_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(AttendriteError, match=r"^the shards of a job must be at least 1, got 0"):
        shards.run(Noise(tmp_path, shards=0), tmp_path / "run")
    with pytest.raises(AttendriteError, match=r"^sum of shard 0 must hold plain data, got object"):
        merged(Objects(tmp_path), tmp_path / "run")
    with pytest.raises(AttendriteError, match=r"^the folder of .* must exist, got none; make it "):
        shards.run(Noise(tmp_path), tmp_path / "none" / "run")

    class Odd(Noise):
        def identity(self) -> dict[str, Any]:
            return {"seed": np.int64(1)}

    with pytest.raises(AttendriteError, match=r"^the identity of a job must be plain JSON, got "):
        shards.run(Odd(tmp_path), tmp_path / "odd")

    class Local(Noise):
        pass

    with pytest.raises(AttendriteError, match=r"^a job must be picklable, got .*Local"):
        merged(Local(tmp_path), tmp_path / "local", processes=2)


def test_a_folder_that_workers_do_not_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_store, "NFS_PATIENCE_S", 0.0)
    monkeypatch.setattr(Store, "write", lambda *_: None)
    with pytest.raises(
        AttendriteError, match=r"000000.npz must be seen here .* all workers share$"
    ):
        merged(Noise(tmp_path), tmp_path / "run")


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": "cloud"}, r"^workers must be 'local', 'dask=ADDRESS' or .*, got 'cloud'"),
        ({"processes": 0}, r"^processes must be at least 1, got 0"),
        ({"shard": (0, 3)}, r"^a share i/n must have 1 <= i <= n, got 0/3; count from 1"),
        ({"shard": (4, 3)}, r"^a share i/n must have 1 <= i <= n, got 4/3"),
        ({"workers": "dask=a:1", "processes": 2}, r"^processes must be left to the dask cluster"),
        ({"workers": "dask=what://a"}, r"^dask=ADDRESS must be a scheduler, got what://a: "),
        ({"workers": "slurm:time=10"}, r"^processes must say how many jobs of slurm there may be"),
        ({"workers": "slurm", "processes": 2}, r"^options of slurm must give each job a time"),
        ({"workers": "slurm:time=1h", "processes": 2}, r"^time of slurm must be M, .* got '1h'"),
        ({"workers": "slurm:time", "processes": 2}, r"^an option of slurm must be OPTION=VALUE"),
        (
            {"workers": "slurm:time=9,cpus-per-task=x", "processes": 2},
            r"^cpus-per-task of slurm mu",
        ),
        ({"workers": "slurm:time=9,cluster=x", "processes": 2}, r"^unknown cluster of slurm 'x'; "),
        ({"workers": "slurm:time=9", "processes": 2}, r"^workers 'slurm' must find sbatch, got no"),
    ],
)
def test_bad_options(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word, package in (("dask", "distributed"), ("slurm", "submitit")):
        if word in options.get("workers", ""):
            pytest.importorskip(package, reason=f"no {package}")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AttendriteError, match=message):
        list(shards.run(Noise(tmp_path), tmp_path / "run", **options))
    assert not list(tmp_path.glob("run/shards/*"))


@pytest.mark.parametrize("text", ["3", "1/2/3", "a/b", "-1/3", ""])
def test_a_share_that_is_none(text: str) -> None:
    with pytest.raises(AttendriteError, match=r"^--shard must be I/N, got .*; for example 3/8"):
        _workers.parsed(text)


@pytest.mark.parametrize(
    ("workers", "package", "extra"),
    [("dask=a", "distributed", "dask"), (SUBMITIT, "submitit", "slurm")],
)
def test_a_missing_package_is_named(
    workers: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"attendrite.shards._{extra}", raising=False)
    monkeypatch.delattr(shards, f"_{extra}", raising=False)
    with pytest.raises(
        AttendriteError, match=rf"needs the package {package}; .*attendrite\[{extra}"
    ):
        shards.run(Noise(tmp_path), tmp_path / "run", workers, 1 if extra == "slurm" else None)


def test_options_of_slurm() -> None:
    pytest.importorskip("submitit", reason="no submitit")
    from attendrite.shards import _slurm

    text = "partition=a,b,time=1-2,gres=gpu:1,mail-type=FAIL,constraint=x&y,comment=a=b"
    assert _slurm.parsed(text) == {
        "partition": "a,b",
        "time": "1-2",
        "gres": "gpu:1",
        "mail-type": "FAIL",
        "constraint": "x&y",
        "comment": "a=b",
    }
    times = {"90": 90, "90:30": 91, "1:30:00": 90, "1-2": 1560, "1-2:03": 1563, "1-2:03:04": 1564}
    assert {text: _slurm.minutes(text) for text in times} == times


def test_workers_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_local, "cores", lambda: 3)
    before = {name: "9" if name == "OMP_NUM_THREADS" else None for name in _pools.THREADS}
    for name, value in before.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    results = shards.run(Threads(tmp_path, shards=2), tmp_path / "run", processes=2)
    assert [r["threads"].tolist() for r in results] == [[1, 1, 1], [1, 1]]
    assert {name: os.environ.get(name) for name in _pools.THREADS} == before


@pytest.mark.parametrize(("said", "threads"), [("2", "2"), ("8", "4"), ("", "4"), ("4,2", "4")])
def test_fewer_threads_may_be_asked_for(
    said: str, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    with _pools.threads_of_children(4):
        assert os.environ["OMP_NUM_THREADS"] == threads
    assert os.environ["OMP_NUM_THREADS"] == said


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_progress_counts_the_rate_of_this_start(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", stream())
    with _progress.Progress(1000, 900, shown=True) as bar:
        for _ in range(40):
            now[0] += 2.0
            bar.update()
        said = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "940/1000 [01:20<02:00,  2.00s/shard]" in said or stream is io.StringIO
    lines = said.splitlines()
    if stream is io.StringIO:
        assert len(lines) == 3  # at 2, 32 and 62 s
        assert lines[-1].strip() == "93% 931/1000 [01:02<02:18,  2.00s/shard]"


def test_progress_can_be_quiet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    merged(Noise(tmp_path), tmp_path / "run", progress=False)
    assert capsys.readouterr() == ("", "")


# Merging


def test_merged() -> None:
    one = {"a": np.array([1.0, 2.0]), "b": np.array([[1]]), "c": np.array([1.0])}
    two = {"a": np.array([0.5, 0.5]), "b": np.array([[2], [3]]), "c": np.array([2.0])}
    found = shards.merged(iter([one, two]), {"a": "sum", "b": "concatenate"})
    assert {name: x.tolist() for name, x in found.items()} == {
        "a": [1.5, 2.5],
        "b": [[1], [2], [3]],
    }
    assert one["a"].tolist() == [1.0, 2.0]
    assert shards.merged([one, one], "sum")["b"].tolist() == [[2]]
    assert shards.merged([one], "concatenate")["c"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("second", "how", "message"),
    [
        ({"a": np.zeros(3)}, "sum", r"^a of result 1 must have shape \[2\], got \[3\]"),
        (
            {"a": np.zeros((2, 1))},
            "concatenate",
            r"^a of result 1 must have shape \[n\], got \[2, 1",
        ),
        ({"a": np.zeros(2, "f4")}, "sum", r"^a of result 1 must be float64 or int64 to be summed"),
        ({"a": np.zeros(2, "i8")}, "sum", r"^a of result 1 must be float64, got int64"),
        ({"a": np.zeros(2, "i8")}, "concatenate", r"^a of result 1 must be float64, got int64"),
        ({"b": np.zeros(2)}, "sum", r"^result 1 must hold \['a'\], got \['b'\]"),
        ({"a": np.zeros(2)}, {"b": "sum"}, r"^result 0 must hold \['a', 'b'\], got \['a'\]"),
        ({"a": np.zeros(2)}, "mean", r"^unknown way to merge 'mean'; known: sum, concatenate"),
    ],
)
def test_results_that_cannot_be_merged(
    second: dict[str, Any], how: str | dict[str, str], message: str
) -> None:
    with pytest.raises(AttendriteError, match=message):
        shards.merged([{"a": np.zeros(2)}, second], how)
    with pytest.raises(AttendriteError, match=r"^results must be at least one, got none"):
        shards.merged([], how)

"""Fuzzes every reader of foreign bytes.

    python tests/fuzz/run.py --seconds 60            all targets, 60 s each
    python tests/fuzz/run.py nwb --count 300         one target, 300 mutations
    python tests/fuzz/run.py nwb --first 812 --count 1 --keep DIR   one mutation again, kept

A target is a module of ``targets/`` with ``seeds(folder) -> list[Path]``, which writes small valid
inputs (files or folders), and ``read(path)``, which reads one completely. For a format with
checksums it may have its own ``mutate(data, others, chance, general)``, which is given the general
mutation of ``mutate.py``. Targets may import the modules of this folder.

The property: whatever the bytes, ``read`` returns, or raises ``AttendriteError`` or ``OSError``;
within ``SLOWEST`` seconds, and with ``MOST_MEMORY`` bytes of address space beyond the seeds' need.
Each target runs in a process of its own, so a crash is a finding too. With the package atheris
installed and ``--seconds`` given, atheris chooses the mutations, guided by coverage; otherwise
mutation ``i`` depends on the number ``i`` alone, so every finding can be repeated.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import inspect
import itertools
import mmap
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType

HERE = Path(__file__).resolve().parent
SLOWEST = 10  # seconds for one input
MOST_MEMORY = 256 << 20  # bytes; the seeds are kilobytes
FOUND = 3  # exit status of a worker with a finding


def main(argv: Sequence[str] | None = None) -> int:
    """Run the targets asked for; return 1 if any has a finding."""
    known = sorted(path.stem for path in (HERE / "targets").glob("[a-z]*.py"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(known)}")
    parser.add_argument("--seconds", type=float, help="time for each target")
    parser.add_argument("--count", type=int, default=300, help="mutations, without --seconds")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--keep", type=Path, help="folder for inputs that gave a finding")
    options = parser.parse_args(argv)
    for name in options.targets:
        if name not in known:
            parser.error(f"unknown target {name!r}; known: {', '.join(known)}")
    if not options.targets:
        import attendrite.runtime  # with torch, once for all targets  # noqa: F401

    return max([supervise(name, options) for name in options.targets or known], default=0)


def supervise(name: str, options: argparse.Namespace) -> int:
    """Run one target in a process of its own; return 1 if it has a finding."""
    number = mmap.mmap(-1, 8)  # of the mutation in hand, seen by both processes
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            worker = Worker(name, options.keep, number)
            status = worker.run(options.first, options.count, options.seconds)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, FOUND):
        last = int.from_bytes(number[:8], "little")
        print(f"{name}: mutation {last}: the process ended with status {status}", flush=True)
    return 1 if status else 0


class Worker:
    """Reads mutated inputs of one target, in this process."""

    def __init__(self, name: str, keep: Path | None, number: mmap.mmap) -> None:
        self.name, self.keep, self.number = name, keep, number
        self.target = load(HERE / "targets" / f"{name}.py")
        self.general = load(HERE / "mutate.py").mutate
        self.folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
        self.seeds = self.target.seeds(self.folder / "seeds")
        self.files = {seed: files_of(seed) for seed in self.seeds}
        self.others = [path.read_bytes() for files in self.files.values() for path in files]

    def run(self, first: int, count: int, seconds: float | None) -> int:
        """Read the seeds, then mutations; return the exit status."""
        try:
            for seed in self.seeds:
                self.target.read(seed)  # a seed that is refused would test nothing
            if seconds and importlib.util.find_spec("atheris"):
                return self.run_atheris(seconds)
            limit_memory(MOST_MEMORY)
            return self.run_numbers(first, count, seconds)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def run_numbers(self, first: int, count: int, seconds: float | None) -> int:
        begin, findings, number = time.monotonic(), 0, first
        numbers: Iterator[int] = (
            itertools.count(first) if seconds else iter(range(first, first + count))
        )
        faulthandler.enable()
        for number in numbers:
            if seconds and time.monotonic() - begin > seconds:
                break
            findings += not self.try_number(number)
            if findings >= 10:
                break
        print(f"{self.name}: {number + 1 - first} mutations, {findings} findings", flush=True)
        return FOUND if findings else 0

    def try_number(self, number: int) -> bool:
        """Read mutation ``number``; return whether it was well received."""
        self.number[:8] = number.to_bytes(8, "little")
        chance = random.Random(number)
        seed = chance.choice(self.seeds)
        victim = chance.choice(self.files[seed])
        data = self.mutated(victim.read_bytes(), chance)
        copy = self.folder / f"input{seed.suffix}"
        replant(seed, copy, victim, data)
        fault = verdict(self.target, copy)
        if fault is not None:
            print(f"{self.name}: mutation {number} of {seed.name}: {fault}", flush=True)
            if self.keep:
                self.keep.mkdir(parents=True, exist_ok=True)
                replant(seed, self.keep / f"{self.name}-{number}{seed.suffix}", victim, data)
        return fault is None

    def mutated(self, data: bytes, chance: random.Random) -> bytes:
        """Return damaged bytes, by the target's own mutation where it has one."""
        own = getattr(self.target, "mutate", None)
        if own is None:
            return bytes(self.general(data, self.others, chance))
        return bytes(own(data, self.others, chance, self.general))

    def run_atheris(self, seconds: float) -> int:
        """Let atheris choose the bytes of one file of the first seed."""
        import atheris

        seed = self.seeds[0]
        copy, corpus = self.folder / f"input{seed.suffix}", self.folder / "corpus"
        corpus.mkdir()
        for i, data in enumerate(self.others):
            (corpus / str(i)).write_bytes(data)

        instrument("attendrite")

        def one(data: bytes) -> None:
            victim = self.files[seed][len(data) % len(self.files[seed])]
            replant(seed, copy, victim, data)
            fault = verdict(self.target, copy)
            if fault is not None:
                raise RuntimeError(fault)

        # libFuzzer's own alarm would take the place of ours; it limits memory itself.
        options = [f"-max_total_time={int(seconds)}", "-timeout=0", "-max_len=100000"]
        options.append(f"-artifact_prefix={self.keep or tempfile.gettempdir()}/")
        atheris.Setup([sys.argv[0], *options, str(corpus)], one)
        atheris.Fuzz()  # ends the process
        return 0


def instrument(package: str) -> None:
    """Let atheris see which lines of the imported modules of a package run."""
    import atheris

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != package:
            continue
        for thing in list(vars(module).values()):
            for member in list(vars(thing).values()) if inspect.isclass(thing) else [thing]:
                if inspect.isfunction(member) and member.__module__ == name:
                    atheris.instrument_func(member)


def verdict(target: ModuleType, path: Path) -> str | None:
    """Read one input; return what was wrong with the way it was received, ``None`` if nothing."""
    from attendrite.errors import AttendriteError

    try:
        with time_limit(SLOWEST), warnings.catch_warnings():
            warnings.simplefilter("error")
            target.read(path)
    except (AttendriteError, OSError) as error:
        if "\n" in str(error) or not str(error):
            return f"an error that is not one line: {error!r}"
    except TooSlowError:
        return f"no answer within {SLOWEST} s"
    except BaseException:
        return traceback.format_exc()
    return None


def limit_memory(beyond: int) -> None:
    """Let this process grow by so many bytes of address space; Python then raises MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + beyond
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


class TooSlowError(BaseException):
    """The time limit of one input; not an ``Exception``, so that no reader catches it."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TooSlowError in the block; end the process if it never returns to Python."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(3 * seconds, exit=True)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def load(path: Path) -> ModuleType:
    """Import a file that belongs to no package."""
    spec = importlib.util.spec_from_file_location(f"fuzz_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files_of(seed: Path) -> list[Path]:
    """The files of an input: itself, or those of a folder."""
    return sorted(p for p in seed.rglob("*") if p.is_file()) if seed.is_dir() else [seed]


def replant(seed: Path, copy: Path, victim: Path, data: bytes) -> None:
    """Copy an input, with other bytes in one of its files."""
    if seed.is_dir():
        shutil.copytree(seed, copy, dirs_exist_ok=True)
        (copy / victim.relative_to(seed)).write_bytes(data)
    else:
        copy.write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())

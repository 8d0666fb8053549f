"""Jobs for test_shards.py, in a module of their own: workers import it by name."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from attendrite import errors
from attendrite.commands import _workers
from attendrite.shards import merged
from numpy.typing import NDArray


@dataclass
class Noise:
    """Sums of noise of every size, so that another order of addition gives other bits."""

    log: Path  # a folder: who computed what, and where a shard may do something odd
    shards: int = 12
    seed: int = 1
    pause_s: float = 0.0

    def identity(self) -> Mapping[str, Any]:
        return {"seed": self.seed, "options": {"scale": [1e-3, 1e3], "unit": "µV"}}

    @cached_property
    def heavy(self) -> str:
        self.note("made", f"{os.getpid()}")
        return "made"

    def run(self, shard: int) -> Mapping[str, NDArray[Any]]:
        assert self.heavy == "made"
        self.note(f"shard.{shard}", f"{os.getpid()}")
        time.sleep(self.pause_s)
        self.odd(shard)
        noise = np.random.default_rng([self.seed, shard])
        scale = 10.0 ** noise.integers(-9, 9, size=(3, 5))
        return {
            "sum": noise.standard_normal((3, 5)) * scale,
            "count": np.array(shard),
            "rows": noise.standard_normal((shard % 3, 2)).astype(np.float32),
        }

    def note(self, name: str, line: str) -> None:
        with (self.log / name).open("a") as file:
            file.write(line + "\n")

    def odd(self, shard: int) -> None:
        """Do what a file of the log asks this shard to do."""
        if (self.log / f"fail.{shard}").exists():
            raise ZeroDivisionError("nothing to divide by")
        if (self.log / f"bad_input.{shard}").exists():
            raise errors.must("the recording", "hold spikes", "none")
        if (self.log / f"slow.{shard}").exists():
            time.sleep(60)
        die = self.log / f"die.{shard}"  # holds how many times
        if die.exists() and (times := int(die.read_text())):
            die.write_text(str(times - 1))
            os.kill(os.getpid(), signal.SIGKILL)


class Objects(Noise):
    """Its results are no plain data."""

    def run(self, shard: int) -> Mapping[str, NDArray[Any]]:
        return {"sum": np.array([{}])}


class Threads(Noise):
    """Says how many threads numerical libraries have."""

    def run(self, shard: int) -> Mapping[str, NDArray[Any]]:
        found = [int(os.environ["OMP_NUM_THREADS"]), int(os.environ["MKL_NUM_THREADS"])]
        if shard == 0:
            import torch

            found += [torch.get_num_threads()]
        return {"threads": np.array(found)}


MERGE = {"sum": "sum", "count": "sum", "rows": "concatenate"}


def main(arguments: list[str]) -> int:
    """Stand in for a command: run ``attendrite``'s own main with it."""
    import attendrite.__main__ as top
    from attendrite import commands

    command = type(sys)("attendrite.commands.noise")
    command.HELP = "sums noise"  # type: ignore[attr-defined]
    command.arguments = noise_arguments  # type: ignore[attr-defined]
    command.run = noise  # type: ignore[attr-defined]
    sys.modules[command.__name__] = command
    commands.noise = command  # type: ignore[attr-defined]
    top.names = lambda: ["noise"]
    return top.main(["noise", *arguments])


def noise_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0)
    _workers.add_workers(parser)


def noise(options: argparse.Namespace) -> int:
    job = Noise(options.log, seed=options.seed, pause_s=options.pause)
    results = _workers.results(options, job, options.folder)
    if results is None:
        return 0
    np.savez(options.out, **merged(results, MERGE))
    return 0


if __name__ == "__main__":
    # The job must be one that workers can import, not that of __main__.
    import _shard_jobs

    sys.exit(_shard_jobs.main(sys.argv[1:]))

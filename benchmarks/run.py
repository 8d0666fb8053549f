"""Measure: ``python benchmarks/run.py SUITE... [--json FILE] [--threads N] [--only NAMES]``.

A suite is a file of ``benchmarks/suites``. Peers that are not installed are named and left out:
``pip install -e ".[peers]"`` brings them. Committed rows come from
``make bench``, those of ``gpu`` from a machine that has one.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

if TYPE_CHECKING:
    from rows import Row
    from timing import Case

SHARE_S = {False: 4.0, True: 0.05}
"""Seconds for each implementation of a case; with ``--quick`` the second."""


@dataclass(frozen=True)
class Options:
    """What a suite is told.

    Attributes:
        threads: Threads that implementations may use; rows with one thread are always made.
        quick: Tiny inputs: shows that everything runs, measures nothing.
        cases: Patterns of the cases that are wanted.
    """

    threads: int = 1
    quick: bool = False
    cases: str = "*"

    def wants(self, case: str) -> bool:
        """Say whether a case is wanted: suites whose cases are dear to build ask first."""
        return fits(case, self.cases)

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """One thread, and the number asked for."""
        return tuple(sorted({1, self.threads}))


def suites() -> list[str]:
    """Return the names of all suites: the files of ``benchmarks/suites``."""
    found = (m.name for m in pkgutil.iter_modules([str(HERE / "suites")]))
    return sorted(name for name in found if not name.startswith("_"))


def cases(suite: str, options: Options) -> Iterator[Case]:
    """Build the cases of a suite one by one, so that the inputs of one are freed for the next."""
    found: Iterator[Case] = importlib.import_module(f"suites.{suite}").cases(options)
    return found


def run(suite: str, options: Options, only: str = "*") -> list[Row]:
    """Measure a suite, printing each case as it is done; ``only`` chooses implementations."""
    import summary
    import timing

    rows: list[Row] = []
    for case in cases(suite, options):
        case.contestants = [one for one in case.contestants if fits(one.name, only)]
        found = []
        if options.wants(case.name) and case.contestants:
            found = timing.measure(case, share_s=SHARE_S[options.quick])
        if found or (options.wants(case.name) and case.skipped):
            print(summary.table(case, found), flush=True)
        rows += found
    return rows


def fits(name: str, patterns: str) -> bool:
    """Say whether a name fits one of the patterns, several with ``|``."""
    return any(fnmatchcase(name, pattern) for pattern in patterns.split("|"))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="+", metavar="SUITE", choices=suites())
    parser.add_argument(
        "--json", type=Path, metavar="FILE",
        help="write the rows, one a line; a folder gets one file for each suite",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument(
        "--only", default="*", metavar="NAMES",
        help="implementations to measure, as a pattern (several with |): 'attendrite:*'",
    )  # fmt: skip
    parser.add_argument("--cases", default="*", metavar="NAMES", help="cases, likewise")
    parser.add_argument("--quick", action="store_true", help="tiny inputs, to see that it runs")
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    for pool in ("OMP", "OPENBLAS", "MKL", "NUMBA"):  # read when the libraries are first imported
        os.environ[f"{pool}_NUM_THREADS"] = str(options.threads)
    import rows
    import torch

    torch.set_num_threads(options.threads)
    told = Options(options.threads, options.quick, options.cases)
    measured = {suite: run(suite, told, options.only) for suite in options.suites}
    if options.json and options.json.is_dir():
        for suite, found in measured.items():
            rows.save(options.json / f"{suite}.jsonl", found)
    elif options.json:
        rows.save(options.json, [row for found in measured.values() for row in found])
    return 0


if __name__ == "__main__":
    sys.exit(main())

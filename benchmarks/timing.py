"""Time implementations beside each other: interleaved, on the same inputs, checked before timed.

Every timed call follows an untimed one of the same implementation, so no one starts from the caches
of its neighbour. A round times each implementation once, in random order; slow ones sit out rounds
so that no one takes longer than its share.
"""

from __future__ import annotations

import gc
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from rows import Row, machine, quantiles, versions

FEWEST = 3
"""Timed calls of an implementation, however slow it is."""


class Meter:
    """Measures calls by the clock on the wall and the memory of the process."""

    def seconds(self, call: Callable[[], Any]) -> float:
        """Return how long a call takes."""
        start = time.perf_counter()
        result = call()
        taken = time.perf_counter() - start
        del result  # freeing is not timed, nor does the next call find the memory taken
        return taken

    def weigh(self, call: Callable[[], Any]) -> tuple[float | None, float]:
        """Return what a call adds to the peak (MiB; ``None`` if not known) and its seconds."""
        before = None
        try:
            Path("/proc/self/clear_refs").write_text("5")  # restarts the kernel's record
            before = _status_mib("VmRSS")
        except OSError:
            pass
        start = time.perf_counter()
        result = call()
        cost = time.perf_counter() - start
        grown = None if before is None else round(max(0.0, _status_mib("VmHWM") - before), 1)
        del result
        return grown, cost


@dataclass
class Contestant:
    """One implementation of a case.

    Attributes:
        name: The row's ``implementation``: ``attendrite:<backend>``, a library, or ``numba_...``
            for a loop written by hand.
        call: The work to time; takes nothing, returns the result.
        error: Its deviation from the reference, from the result of the first call.
        tolerance: Largest deviation allowed; ``None`` where the deviation is what is measured.
        dtype: Of the output.
        threads: Threads it may use.
        prepare: Called untimed before each turn, for implementations that keep state.
        packages: Packages whose versions the row states.
        meter: What measures it.
    """

    name: str
    call: Callable[[], Any]
    error: Callable[[Any], float]
    tolerance: float | None = 0.0
    dtype: str = "float64"
    threads: int = 1
    prepare: Callable[[], object] = lambda: None
    packages: tuple[str, ...] = ()
    meter: Meter = field(default_factory=Meter)


@dataclass
class Case:
    """One task, and who takes part.

    Attributes:
        name: ``<suite>/<case>``.
        work: What one call does, in millions of ``unit``.
        unit: ``"spikes"``, ``"tokens"``, ...; throughput is in millions of them a second.
        batch: Windows or trials of one call.
        rounds: Timed calls of each implementation, fewer for slow ones.
        block: Timed calls of one turn; above 1 for calls of microseconds, whose caches are warm in
            practice.
        contestants: Who takes part.
        baseline: Implementation that the others are compared with; ``None``: the fastest library.
        skipped: Implementation to reason, shown with the result.
        share_s: Seconds that one implementation may take, if not those of the run.
    """

    name: str
    work: float
    unit: str
    batch: int = 1
    rounds: int = 21
    block: int = 1
    baseline: str | None = None
    contestants: list[Contestant] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    share_s: float | None = None


def measure(case: Case, *, share_s: float) -> list[Row]:
    """Check and time all implementations of a case.

    Args:
        case: The case.
        share_s: Seconds that one implementation may take, roughly.

    Returns:
        One row for each, in the order of the contestants.

    Raises:
        RuntimeError: A result is further from the reference than its tolerance: nothing is timed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peers say about themselves; errors are what counts
        return _measure(case, share_s if case.share_s is None else case.share_s)


def _measure(case: Case, share_s: float) -> list[Row]:
    errors = [_check(case, one) for one in case.contestants]
    extra, costs = zip(*(_weigh(one) for one in case.contestants), strict=True)
    seconds: list[list[float]] = [[] for _ in case.contestants]
    order, random = list(range(len(seconds))), Random(0)
    gc.collect()
    gc.disable()
    try:
        for turn in range(case.rounds):
            random.shuffle(order)  # else the same one always finds the inputs out of the cache
            for i in order:
                one, cost, taken = case.contestants[i], costs[i], seconds[i]
                calls, every = _share(case, median(taken or [cost]), share_s)
                if turn % every == 0:
                    taken += _time(one, calls)
    finally:
        gc.enable()
    return [
        _row(case, one, taken, error, mib)
        for one, taken, error, mib in zip(case.contestants, seconds, errors, extra, strict=True)
    ]


def _share(case: Case, cost_s: float, share_s: float) -> tuple[int, int]:
    """Return the timed calls of a turn, and every which turn to take."""
    if share_s == math.inf:
        return case.block, 1
    per_turn = share_s / case.rounds / max(cost_s, 1e-9)
    calls = min(case.block, max(1, int(per_turn) - 1))
    every = round((calls + 1) / max(per_turn, 1e-9))
    return calls, min(max(every, 1), max(1, case.rounds // FEWEST))


def _check(case: Case, one: Contestant) -> float:
    one.prepare()
    error = float(one.error(one.call()))
    if one.tolerance is not None and not error <= one.tolerance:
        raise RuntimeError(
            f"{case.name}: {one.name} must be within {one.tolerance:g} of the reference, "
            f"got {error:g}; nothing was timed"
        )
    return error


def _time(one: Contestant, calls: int) -> list[float]:
    one.prepare()
    one.call()  # untimed: brings the inputs and the code into the caches
    return [one.meter.seconds(one.call) for _ in range(calls)]


def _weigh(one: Contestant) -> tuple[float | None, float]:
    one.prepare()
    return one.meter.weigh(one.call)


def _status_mib(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def _row(
    case: Case, one: Contestant, taken: list[float], error: float, extra_mib: float | None
) -> Row:
    spread = quantiles(taken)
    return {
        "suite": case.name.partition("/")[0],
        "case": case.name,
        "implementation": one.name,
        "dtype": one.dtype,
        "threads": one.threads,
        "batch": case.batch,
        **spread,
        "throughput": case.work / (spread["p50_ms"] / 1e3),
        "throughput_unit": f"M{case.unit}/s",
        "extra_mib": extra_mib,
        "error": error,
        "versions": versions(("attendrite", "numpy", *one.packages)),
        **machine(),
    }

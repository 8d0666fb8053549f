"""How long single windows take when there are many: the tail that a rig feels.

``latency/<model>/<population>``: 20 000 windows one after the other, each of other spikes, from the
spikes to the decoded value, one thread. The shapes of the suite ``decode``; its windows are taken
in turn, so that no call finds its own tokens in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from timing import Case, Contestant

from suites.decode import MODELS, POPULATIONS, TOLERANCE, Work, made

if TYPE_CHECKING:
    from run import Options

NAME, POPULATION = "poyo_small", "100u_10hz"
WINDOWS = 64  # different ones
CALLS = 20_000


def cases(options: Options) -> Iterator[Case]:
    """Yield the one case."""
    name = f"latency/{NAME}/{POPULATION}"
    calls = 50 if options.quick else CALLS
    case = Case(name, 1e-6, "windows", rounds=1, block=calls, share_s=float("inf"))
    try:
        model = made(MODELS[NAME])
    except ImportError:
        case.skipped["everyone"] = "torch_brain is not installed, whose model is decoded"
        yield case
        return
    work = Work(model, *POPULATIONS[POPULATION], WINDOWS)
    case.contestants.append(ours(work))
    yield case


def ours(work: Work) -> Contestant:
    """Run the native executor from spikes, as a program that decodes live does."""
    engine = work.engine(executor="native", threads=1)
    parts = [work.batch.part(i, i + 1) for i in range(WINDOWS)]
    turn = cycle(parts)

    def call() -> Any:
        return engine.run(next(turn)).prediction

    tolerance = TOLERANCE * max(1.0, float(np.abs(work.truth).max()))
    error: Callable[[Any], float] = partial(_error, work)
    return Contestant(
        "attendrite:native+tokens", call, error, tolerance, "float32", packages=("torch",)
    )


def _error(work: Work, found: Any) -> float:
    """Return the error of the first window, which is what the first call decodes."""
    return float(np.abs(np.asarray(found)[0] - work.truth[0]).max())

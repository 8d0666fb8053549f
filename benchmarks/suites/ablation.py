"""Nested ablation: 100 conditions on many trials, by merging and by filtering and running again.

``ablation/poyo_d64``: dim 64, depth 2, 32 latents, 50 trials; ``ablation/poyo_small``: the 1.3 M
shape, 10 trials. A trial costs every implementation the same however many there are: 200 of them
would only take longer. Windows of 1 s, 200 units at 10 Hz, 20 queries; condition ``c`` removes the
first ``2 c`` units of a ranking.
``torch_brain`` leaves the tokens of removed units out, pads again and runs its model, in batches of
the size that was fastest in a trial run. ``+tails`` of ours is what follows the encoder alone, for
as many conditions: no implementation that runs the model for each of them can be faster.

``ablation/demo``: 1000 random rankings, 20 conditions each, on windows of the bundled recording of
the linear track and its model. Predictions are held against filtering and running again with our
reference in float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import attendrite
import numpy as np
import torch
from attendrite import Engine, SpikeBatch
from attendrite.ablation import Curve, Data, plan
from attendrite.ablation.conditions import Conditions
from attendrite.commands.demo import DATA
from fma_peak import peak
from numpy.typing import NDArray
from peers import join
from timing import Case, Contestant

from suites.decode import COMMON, MODELS, TOLERANCE, Work, made

if TYPE_CHECKING:
    from run import Options

SMALL = {"dim": 64, "depth": 2, "dim_head": 16, "cross_heads": 4, "self_heads": 4,
         "num_latents_per_step": 4}  # fmt: skip
SHAPES = {"poyo_d64": (SMALL, 50), "poyo_small": (MODELS["poyo_small"], 10)}
UNITS, RATE, CONDITIONS = 200, 10.0, 100
RANKINGS, POINTS, WINDOWS = 1000, 20, 4
SIZES = (1, 4, 16, 64)  # batches that the peer tries
CHECKED = (0, 1, -1)  # conditions held against the reference


def cases(options: Options) -> Iterator[Case]:
    """Yield the cases."""
    if options.wants("ablation/peak"):
        yield peak("ablation/peak", options.quick)
    for name, (sizes, trials) in SHAPES.items():
        if options.wants(f"ablation/{name}"):
            yield nested(name, sizes, 2 if options.quick else trials, options)
    if options.wants("ablation/demo"):
        yield demo(options)


def nested(name: str, sizes: dict[str, int], trials: int, options: Options) -> Case:
    """Make a case with the peer."""
    units, points = (6, 3) if options.quick else (UNITS, CONDITIONS)
    case = Case(f"ablation/{name}", trials * points / 1e6, "conditions", batch=trials, rounds=3,
                baseline="torch_brain")  # fmt: skip
    try:
        model = made(sizes)
    except ImportError:
        case.skipped["everyone"] = "torch_brain is not installed, whose model is run"
        return case
    work = Work(model, units, RATE, trials)
    order = np.random.default_rng(2).permutation(units)
    removed = np.arange(points) * (units // points)
    conditions = plan("units", list(work.batch.unit_ids),
                      [Curve("ranked", 0, "remove", order, removed)])  # fmt: skip
    sweep = Sweep(work.batch, work.engine, conditions, threads=1)
    builders: list[Any] = [partial(ours, sweep), partial(torch_brain, sweep, work)]
    return join(case, builders)


def demo(options: Options) -> Case:
    """Make the case of many rankings."""
    rankings, windows = (5, 2) if options.quick else (RANKINGS, WINDOWS)
    recording = attendrite.read(DATA / "linear_track.npz")
    engine = partial(Engine, DATA / "linear_track_0")
    length = float(engine(executor="reference").manifest.config["sequence_length"])
    starts = recording.domain[0] + length * np.arange(windows)
    batch = SpikeBatch.from_recording(recording, starts, length, np.linspace(0.1, length - 0.1, 16))
    size = len(recording.unit_ids)
    rng = np.random.default_rng(3)
    removed = np.unique(np.linspace(0, size - 1, POINTS).astype(int))
    curves = [Curve("random", r, "remove", rng.permutation(size), removed) for r in range(rankings)]
    conditions = plan("units", list(recording.unit_ids), curves)
    case = Case("ablation/demo", len(conditions) * windows / 1e6, "conditions", batch=windows,
                rounds=3)  # fmt: skip
    return join(case, [partial(ours, Sweep(batch, engine, conditions, threads=1))])


class Sweep:
    """A plan on windows, and what the reference says of some of its conditions."""

    def __init__(self, batch: SpikeBatch, engine: Any, conditions: Any, threads: int) -> None:
        self.batch, self.plan = batch, conditions
        self.engine = engine(executor="native", threads=threads)
        size, queries = batch.query_times.shape
        self.data = Data(
            batch, np.zeros(size), np.ones((size, queries), bool), np.zeros((size, queries, 2)),
            np.arange(size), ((0.0, 1.0),),
        )  # fmt: skip
        self.reference = reference = engine(executor="reference", dtype="float64")
        first = batch.part(0, 1)
        self.points = conditions.removed.shape[1]
        self.truth = {
            c % self.points: reference.run(filtered(first, conditions.kept(c % self.points)))
            .prediction[0] for c in CHECKED
        }  # fmt: skip

    def run(self) -> NDArray[Any]:
        """Run all conditions on all windows; return those of the first curve, ``[C, W, Q, d]``."""
        conditions = Conditions(self.engine, self.data, self.plan, seed=0)
        return np.stack([found[0] for found in conditions.run(0, len(self.batch))], 1)

    def error(self, found: NDArray[Any]) -> float:
        """Return the largest error of the conditions that are checked, in the first window."""
        return max(float(np.abs(found[c, 0] - true).max()) for c, true in self.truth.items())

    def contestant(self, name: str, call: Callable[[], Any], *packages: str) -> Contestant:
        """Make a contestant that is held against the reference."""
        most = max(1.0, max(float(np.abs(true).max()) for true in self.truth.values()))
        return Contestant(
            name, call, self.error, TOLERANCE * most, "float32", 1,
            lambda: torch.set_num_threads(1), ("torch", *packages),
        )  # fmt: skip


def ours(sweep: Sweep) -> list[Contestant]:
    """The sweep, and its tails alone: as many, from encodings that are there already."""
    site = sweep.engine.sites[0]
    config = sweep.engine.manifest.config
    latents = round(config["sequence_length"] / config["latent_step"])
    latents *= config["num_latents_per_step"]
    n = len(sweep.plan.names) * (sweep.points - 1) + 1  # nothing removed is run once
    rng = np.random.default_rng(4)
    encoded = rng.normal(0, 0.3, (n, 1, site.heads, latents, site.width)).astype(np.float32)

    some = encoded[list(CHECKED)]
    truth = sweep.reference.tails(sweep.batch.part(0, 1), some.astype(np.float64))
    most = max(1.0, float(np.abs(truth).max()))

    def tails() -> Any:
        found = [
            sweep.engine.tails(sweep.batch.part(window, window + 1), encoded)
            for window in range(len(sweep.batch))
        ]
        return found[0][list(CHECKED)]

    def error(found: Any) -> float:
        return float(np.abs(found - truth).max())

    bare = Contestant(
        "attendrite:native+tails", tails, error, TOLERANCE * most, "float32", 1,
        lambda: torch.set_num_threads(1), ("torch",),
    )  # fmt: skip
    return [sweep.contestant("attendrite:native", sweep.run, "numba"), bare]


def torch_brain(sweep: Sweep, work: Work) -> Contestant:
    """Filter, pad again and run again, in batches of the fastest size."""
    import torch_brain as _  # noqa: F401  whose version the row states

    exists = work.inputs["input_mask"].numpy()
    units = work.batch.tokens(COMMON["sequence_length"]).unit
    tokens = {name: work.inputs[f"input_{name}"].numpy()
              for name in ("unit_index", "timestamps", "token_type")}  # fmt: skip

    def condition(c: int, size: int) -> NDArray[Any]:
        there = exists & sweep.plan.kept(c)[units]
        found = []
        for first in range(0, work.size, size):
            rows = there[first : first + size]
            found.append(forward(rows, slice(first, first + size)))
        return np.concatenate(found)

    def forward(there: NDArray[np.bool_], rows: slice) -> NDArray[Any]:
        lengths = there.sum(1)
        longest = -(-int(lengths.max()) // 8) * 8
        mask = np.arange(longest) < lengths[:, None]
        inputs = {"input_mask": torch.from_numpy(mask)}
        for name, values in tokens.items():
            padded = np.zeros(mask.shape, values.dtype)
            padded[mask] = values[rows][there]
            inputs[f"input_{name}"] = torch.from_numpy(padded)
        n = len(there)
        rest = {name: work.inputs[name][:n] for name in ("latent_index", "latent_timestamps")}
        rest |= {"session_index": work.inputs["session_index"][:n],
                 "output_timestamps": work.inputs["output_timestamps"][rows]}  # fmt: skip
        with torch.inference_mode():
            return np.asarray(work.model(**inputs, **rest))

    torch.set_num_threads(1)
    costs = {}
    for size in SIZES:
        condition(sweep.points // 2, size)
        start = time.perf_counter()
        condition(sweep.points // 2, size)
        costs[size] = time.perf_counter() - start
    best = min(costs, key=lambda size: costs[size])

    def call() -> NDArray[Any]:
        return np.stack([condition(c, best) for c in range(sweep.points)])

    return sweep.contestant("torch_brain", call, "torch_brain")


def filtered(batch: SpikeBatch, kept: NDArray[np.bool_]) -> SpikeBatch:
    """Return the windows without some units."""
    there = kept[batch.units]
    place = np.cumsum(kept) - 1
    return SpikeBatch(
        batch.times[there], place[batch.units[there]], batch.window[there], batch.unit_ids[kept],
        batch.session, batch.query_times,
    )  # fmt: skip

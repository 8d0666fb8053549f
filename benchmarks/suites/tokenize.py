"""POYO tokens of windows in random order: 1000 units at 20 Hz, windows of 1 s, batches of 16.

One call makes one batch, from the starts of its windows; the batches follow each other through the
recording in random order, so spikes come from memory, as in training and in sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from attendrite.kernels import tokenize_poyo as operation
from attendrite.kernels.tokenize_poyo import Tokens, Workspace, tokenize_poyo, window_ranges
from numpy.typing import NDArray
from peers import join
from spikes import Population, population
from timing import Case, Contestant

if TYPE_CHECKING:
    from run import Options

LENGTH = 1.0
BATCH = 16
Starts = NDArray[np.float64]
Packed = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Unit, time and type of each token."""


def cases(options: Options) -> Iterator[Case]:
    """Yield ``tokenize/time_order`` and ``tokenize/by_unit``."""
    spikes = population(8.0, n_units=20) if options.quick else population(600.0)
    task = Task(spikes, n_batches=2 if options.quick else 16)
    tokens = BATCH * (spikes.times.size / spikes.seconds * LENGTH + 2 * spikes.n_units)
    for order, name in (("time", "time_order"), ("unit", "by_unit")):
        case = Case(
            f"tokenize/{name}",
            tokens / 1e6,
            "tokens",
            batch=BATCH,
            rounds=401,
            block=4,  # a kept buffer is warm in use; one untimed call does not bring it back
            baseline="torch_brain",
        )
        builders = [partial(ours, task, order, options.thread_counts), partial(torch_brain, task)]
        builders += [partial(build, task) for build in HAND_WRITTEN[order]]
        yield join(case, builders)


class Task:
    """The windows, and the tokens of the first batch by the reference.

    Every contestant makes the first batch in its first call, the one that is checked.
    """

    def __init__(self, spikes: Population, n_batches: int) -> None:
        self.spikes = spikes
        # On a grid of 1/64 s starts and ends are exact in float64, so all peers see the same edges.
        last = int((spikes.seconds - LENGTH) * 64)
        starts = np.random.default_rng(3).integers(0, last, n_batches * BATCH) / 64
        self.batches = np.split(starts, n_batches)
        self.truth = {
            order: attendrite(spikes, self.batches[0], backend="reference", order=order)
            for order in ("time", "unit")
        }

    def over(self, make: Callable[[Starts], Any]) -> Callable[[], Any]:
        """Return a call that makes the next batch each time."""
        turn = cycle(self.batches)
        return lambda: make(next(turn))

    def error(self, order: str, unpack: Callable[[Any], Packed]) -> Callable[[Any], float]:
        """Return the largest error in time of a result; infinite when anything else differs."""
        truth = self.truth[order]

        def judge(result: Any) -> float:
            unit, time, kind = unpack(result)
            same = np.array_equal(unit, truth.unit) and np.array_equal(kind, truth.type)
            return float(np.abs(time - truth.time).max()) if same else np.inf

        return judge


def attendrite(spikes: Population, starts: Starts, **options: Any) -> Tokens:
    """Find the spikes of windows and make their tokens."""
    begin, end = window_ranges(spikes.times, starts, LENGTH)
    return tokenize_poyo(
        spikes.times, spikes.units, begin=begin, end=end, origin=starts, length=LENGTH,
        n_units=spikes.n_units, **options,
    )  # fmt: skip


def ours(task: Task, order: str, thread_counts: tuple[int, ...]) -> list[Contestant]:
    """All backends, packed and padded, with fresh and with kept memory."""
    made = []
    for backend in operation.OPERATION.backends:
        truth = backend == "reference"  # once, for scale
        for threads in (1,) if truth else thread_counts:
            for form in ("packed",) if truth else ("packed", "padded"):
                for out in (None,) if truth else (None, Workspace()):
                    make = partial(
                        attendrite, task.spikes, backend=backend, order=order, form=form, out=out,
                        threads=threads,
                    )  # fmt: skip
                    tags = "+padded" * (form == "padded") + "+out" * (out is not None)
                    judge = task.error(order, unpack)
                    made.append(
                        Contestant(
                            f"attendrite:{backend}{tags}", task.over(make), judge, threads=threads
                        )
                    )
    return made


def unpack(tokens: Tokens) -> Packed:
    """Return packed tokens whatever the form."""
    keep = slice(None) if tokens.mask is None else tokens.mask
    return tokens.unit[keep], tokens.time[keep], tokens.type[keep]


def torch_brain(task: Task) -> Contestant:
    """Slice, tokenize and collate; knows time order only, padded."""
    from torch_brain.batching import collate
    from torch_brain.data import ArrayDict, Data, Interval, IrregularTimeSeries
    from torch_brain.models.poyo import POYO

    spikes = task.spikes
    ids = [f"session/unit_{u:04d}" for u in range(spikes.n_units)]
    model = POYO(
        sequence_length=LENGTH, latent_step=0.125, num_latents_per_step=16, dim=64, depth=2,
        dim_head=32, cross_heads=2, self_heads=2, dim_out=2,
    )  # fmt: skip
    model.unit_emb.initialize_vocab(ids)
    model.session_emb.initialize_vocab(["session"])
    domain = Interval(0.0, spikes.seconds)
    series = IrregularTimeSeries(
        timestamps=spikes.times, unit_index=spikes.units.astype(np.int64), domain="auto"
    )
    data = Data(spikes=series, units=ArrayDict(id=np.array(ids)), domain=domain)
    data.session = Data(id="session", domain=domain)

    def make(starts: Starts) -> dict[str, Any]:
        windows = [data.slice(float(a), float(a) + LENGTH) for a in starts]
        return collate([model.tokenize(window) for window in windows])

    def unpack_batch(batch: dict[str, Any]) -> Packed:
        mask = batch["input_mask"]
        unit = batch["input_unit_index"][mask] - 1  # row 0 of its table is "NA"
        return (
            unit.numpy(),
            batch["input_timestamps"][mask].numpy(),
            batch["input_token_type"][mask].numpy(),
        )

    return Contestant(
        "torch_brain", task.over(make), task.error("time", unpack_batch), 1e-9,
        packages=("torch", "torch_brain"),
    )  # fmt: skip


def numpy_windows(task: Task, starts: Starts) -> list[Packed]:
    """One array of tokens for each window, from templates and one search: the usual numpy."""
    spikes, template = task.spikes, start_end(task.spikes.n_units)
    found = []
    for a in starts:
        i, j = np.searchsorted(spikes.times, [a, a + LENGTH])
        inside = (spikes.units[i:j], spikes.times[i:j] - a, np.zeros(j - i, np.int8))
        found.append(tuple(np.concatenate(pair) for pair in zip(template, inside, strict=True)))
    return found


def numpy_ragged(task: Task) -> Contestant:
    make = partial(numpy_windows, task)
    return Contestant("numpy_ragged", task.over(make), task.error("time", joined))


def numpy_padded(task: Task) -> Contestant:
    """The same, copied to rows of equal length with a mask."""

    def make(starts: Starts) -> tuple[NDArray[Any], ...]:
        windows = numpy_windows(task, starts)
        width = -(-max(unit.size for unit, _, _ in windows) // 8) * 8
        shape = (len(windows), width)
        unit, time = np.zeros(shape, np.int32), np.zeros(shape)
        kind, mask = np.zeros(shape, np.int8), np.zeros(shape, bool)
        for w, (u, t, k) in enumerate(windows):
            unit[w, : u.size], time[w, : u.size], kind[w, : u.size] = u, t, k
            mask[w, : u.size] = True
        return unit, time, kind, mask

    def unpack_rows(rows: tuple[NDArray[Any], ...]) -> Packed:
        unit, time, kind, mask = rows
        return unit[mask], time[mask], kind[mask]

    return Contestant("numpy_padded", task.over(make), task.error("time", unpack_rows))


def numpy_argsort(task: Task) -> Contestant:
    """Sorted by unit with a stable argsort."""

    def make(starts: Starts) -> list[Packed]:
        found = []
        for unit, time, kind in numpy_windows(task, starts):
            order = np.argsort(unit, kind="stable")
            found.append((unit[order], time[order], kind[order]))
        return found

    return Contestant("numpy_argsort", task.over(make), task.error("unit", joined))


def numba_packed(task: Task) -> Contestant:
    """A plain compiled loop into fresh packed arrays."""
    from numba import njit

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def fill(times, units, starts, length, n_units, lo, hi, at, unit, time, kind):  # type: ignore[no-untyped-def]
        for w in range(starts.size):
            o = at[w]
            for u in range(n_units):
                for e in range(2):
                    unit[o], time[o], kind[o] = u, e * length, 1 + e
                    o += 1
            for i in range(lo[w], hi[w]):
                unit[o], time[o], kind[o] = units[i], times[i] - starts[w], 0
                o += 1

    return numba_contestant("numba_packed", task, "time", fill)


def numba_by_unit(task: Task) -> Contestant:
    """A counting sort by unit into fresh packed arrays."""
    from numba import njit

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def fill(times, units, starts, length, n_units, lo, hi, at, unit, time, kind):  # type: ignore[no-untyped-def]
        place = np.empty(n_units + 1, np.int64)
        for w in range(starts.size):
            place[:] = 0
            for i in range(lo[w], hi[w]):
                place[units[i] + 1] += 1
            place[0] = at[w]
            for u in range(n_units):
                place[u + 1] += place[u] + 2
                o = place[u]
                for e in range(2):
                    unit[o + e], time[o + e], kind[o + e] = u, e * length, 1 + e
                place[u] = o + 2
            for i in range(lo[w], hi[w]):
                u = units[i]
                o = place[u]
                unit[o], time[o], kind[o] = u, times[i] - starts[w], 0
                place[u] = o + 1

    return numba_contestant("numba_by_unit", task, "unit", fill)


def numba_contestant(name: str, task: Task, order: str, fill: Callable[..., None]) -> Contestant:
    """Give a compiled loop the ranges of the windows and fresh arrays."""
    spikes = task.spikes

    def make(starts: Starts) -> list[Packed]:
        lo, hi = (
            np.searchsorted(spikes.times, starts),
            np.searchsorted(spikes.times, starts + LENGTH),
        )
        at = np.concatenate([[0], np.cumsum(hi - lo + 2 * spikes.n_units)])
        unit, time = np.empty(at[-1], np.int32), np.empty(at[-1])
        kind = np.empty(at[-1], np.int8)
        fill(
            spikes.times, spikes.units, starts, LENGTH, spikes.n_units, lo, hi, at, unit, time, kind
        )
        return [(unit, time, kind)]

    return Contestant(name, task.over(make), task.error(order, joined), packages=("numba",))


def start_end(n_units: int) -> Packed:
    """START and END of every unit."""
    unit = np.repeat(np.arange(n_units, dtype=np.int32), 2)
    return unit, np.tile([0.0, LENGTH], n_units), np.tile(np.array([1, 2], np.int8), n_units)


def joined(windows: list[Packed]) -> Packed:
    """Return the tokens of all windows, one after the other."""
    unit, time, kind = (np.concatenate(parts) for parts in zip(*windows, strict=True))
    return unit, time, kind


HAND_WRITTEN = {
    "time": (numpy_ragged, numpy_padded, numba_packed),
    "unit": (numpy_argsort, numba_by_unit),
}

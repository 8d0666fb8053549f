"""Whether the executors of this machine give what the reference gives, on random valid inputs.

A result passes the accuracy rule: its largest error against the reference in float64 is at most
twice that of the reference computed in the dtype of the executor, plus 1e-6 of the largest value
(at least of 1). The rule scales itself with dtype and size (after flash-attention's tests: Dao et
al. 2022, arXiv:2205.14135).

The reference computes in bfloat16 as float32 inside :class:`RoundedLayers`. How large its error is
then is chance, drawn by where weights lie between the numbers they are rounded to: the largest of
sixteen draws counts. A key of ``top_k`` may take the place of one whose weight differs from its own
by twice the error of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from . import executors
from .batches import NO_TASK, Batch, CalciumBatch, SpikeBatch
from .bundle import Bundle, Manifest
from .capture import STATISTICS, Capture, Site
from .errors import AttendriteError, must
from .images import ImageBatch
from .runtime import DTYPES, Engine, Result

RATE, FRAMES_HZ = 10.0, 10.0  # spikes of a unit and frames, per second
TOP = 5
FACTOR, FLOOR = 2.0, 1e-6
GRIDS = tuple(2 ** (i / 16) for i in range(16))  # of bfloat16, which is alike at x and 2 x

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Finding:
    """How far a result is from the reference.

    Attributes:
        executor: Which executor.
        dtype: Its dtype.
        what: ``prediction``, ``prediction/<task>`` or ``<site>/<array>``.
        error: Largest absolute error.
        allowed: By the accuracy rule.
    """

    executor: str
    dtype: str
    what: str
    error: float
    allowed: float

    @property
    def passes(self) -> bool:
        """Whether the error is allowed; an error that is no number is not."""
        return self.error <= self.allowed


@dataclass(frozen=True)
class Refusal:
    """What an executor does not do: all of it, or one statistic."""

    executor: str
    dtype: str
    what: str
    reason: str


class RoundedLayers(TorchFunctionMode):
    """Inside, linear layers take weights and inputs rounded to bfloat16 and sum in their dtype.

    Args:
        grid: Numbers are rounded after they are multiplied by this, and divided again: errors of
            the same size, but others.
    """

    def __init__(self, grid: float = 1.0) -> None:
        super().__init__()
        self.grid = grid

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Round what comes into a linear layer."""
        del types
        if func is F.linear:
            x, weight, *bias = args
            near = [((t * self.grid).bfloat16().to(t.dtype) / self.grid) for t in (x, weight)]
            args = (*near, *bias)
        return func(*args, **(kwargs or {}))


def random_batch(
    manifest: Manifest, kind: type[Batch], *, windows: int, units: int, queries: int, seed: int
) -> Batch:
    """Make windows of Poisson spikes, or of frames, or images of noise, that a model takes.

    Windows have different numbers of tokens, one has no spikes, units are absent here and there,
    and queries ask for all tasks and for none.

    Args:
        manifest: Of the model.
        kind: Kind of input that the model takes.
        windows: Number of windows, or of images.
        units: Units, at most; fewer where the model knows fewer.
        queries: Of each window.
        seed: The same seed gives the same batch.

    Raises:
        AttendriteError: A number is below 1, or the model knows no unit or session.
    """
    for name, value in (("windows", windows), ("units", units), ("queries", queries)):
        if value < 1:
            raise must(name, "be at least 1", value)
    for name, known in (("units", manifest.units), ("sessions", manifest.sessions)):
        if not known:
            raise must(f"{name} of the bundle", "be known", "none", "nothing can be run")
    rng = np.random.default_rng(seed)
    if kind is ImageBatch:
        return ImageBatch(
            rng.normal(size=(windows, *manifest.config["input_shape"])),
            str(rng.choice(list(manifest.sessions))),
            behavior=rng.normal(size=(windows, 3)),
            pupil=rng.normal(size=(windows, 2)),
        )
    ids = rng.permutation(list(manifest.units))[:units]
    length = manifest.sequence_length
    common: dict[str, Any] = {
        "unit_ids": ids,
        "session": rng.choice(list(manifest.sessions), windows),
        "query_times": np.sort(rng.uniform(0, length, (windows, queries))),
        "window_units": rng.random((windows, len(ids))) < 0.8,
    }
    if manifest.tasks:
        asked = [*(task.name for task in manifest.tasks), NO_TASK]
        common["query_task"] = rng.choice(asked, (windows, queries))
    if kind is CalciumBatch:
        frames = max(1, round(length * FRAMES_HZ))
        return CalciumBatch(
            values=rng.exponential(0.3, (windows, frames, len(ids))).astype(np.float32),
            times=np.tile((np.arange(frames) + 0.5) / frames * length, (windows, 1)),
            n_frames=rng.integers(1, frames + 1, windows),
            **common,
        )
    counts = rng.poisson(len(ids) * RATE * length, windows)
    counts[-1] = 0 if windows > 1 else counts[-1]
    window = np.repeat(np.arange(windows), counts)
    order = np.lexsort((times := rng.uniform(0, length, counts.sum()), window))
    return SpikeBatch(
        times=times[order], units=rng.integers(0, len(ids), counts.sum()), window=window, **common
    )


def verify(
    bundle: Bundle,
    *,
    device: str = "cpu",
    threads: int | None = None,
    windows: int = 4,
    units: int = 32,
    queries: int = 6,
    seed: int = 0,
) -> Iterator[Finding | Refusal]:
    """Compare every executor that runs here with the reference, as results come.

    Args:
        bundle: The model.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; the reference runs on the CPU.
        threads: On the CPU; ``None``: as torch is set.
        windows: Of the random batch, see :func:`random_batch`; likewise the rest.
        units: Likewise.
        queries: Likewise.
        seed: Likewise.

    Yields:
        What was found for the prediction and every statistic of every site, and what is refused.

    Raises:
        AttendriteError: The device is not there, or as :func:`random_batch`.
    """
    truth = Engine(bundle, executor="reference", dtype="float64", threads=threads)
    batch = random_batch(
        truth.manifest, truth.model.batch, windows=windows, units=units, queries=queries, seed=seed
    )
    wanted = {name: _sites(truth.sites, name) for name in STATISTICS}
    exact = _arrays(truth.run(batch, _capture(wanted)))
    for dtype in DTYPES:
        allowed: dict[str, float] = {}
        for name in executors.names():
            if name == "reference":
                continue
            for result in _results(bundle, name, device, dtype, threads, batch, wanted):
                if isinstance(result, Refusal):
                    yield result
                    continue
                allowed = allowed or _allowed(bundle, dtype, threads, batch, wanted, exact)
                for what in result:
                    error = _error(what, result, exact)
                    yield Finding(name, dtype, what, error, allowed[what])


def _allowed(
    bundle: Bundle,
    dtype: str,
    threads: int | None,
    batch: Batch,
    wanted: Mapping[str, Sequence[str]],
    exact: Arrays,
) -> dict[str, float]:
    """Return the largest error of each array by the accuracy rule."""
    rounded = dtype == "bfloat16"
    kept = "float32" if rounded else dtype
    plain = Engine(bundle, executor="reference", dtype=kept, threads=threads)
    errors = dict.fromkeys(exact, 0.0)
    for mode in map(RoundedLayers, GRIDS) if rounded else [nullcontext()]:
        with mode:
            near = _arrays(plain.run(batch, _capture(wanted)))
        errors = {name: max(errors[name], _error(name, near, exact)) for name in exact}
    for name in exact:
        if rounded and name.endswith("/top_k.key"):
            errors[name] = 2 * errors[name.replace("top_k.key", "weights")]
    return {name: FACTOR * errors[name] + FLOOR * max(1.0, _largest(exact[name])) for name in exact}


def _results(
    bundle: Bundle,
    name: str,
    device: str,
    dtype: str,
    threads: int | None,
    batch: Batch,
    wanted: Mapping[str, Sequence[str]],
) -> Iterator[Arrays | Refusal]:
    """Run all statistics at once; where that is refused, one after the other."""
    try:
        engine = Engine(bundle, executor=name, device=device, dtype=dtype, threads=threads)
    except AttendriteError as error:
        yield Refusal(name, dtype, "", str(error))
        return
    try:
        yield _arrays(engine.run(batch, _capture(wanted)))
        return
    except AttendriteError:
        yield _arrays(engine.run(batch))
    for statistic, sites in wanted.items():
        try:
            found = _arrays(engine.run(batch, _capture({statistic: sites})))
            yield {what: array for what, array in found.items() if "prediction" not in what}
        except AttendriteError as error:
            yield Refusal(name, dtype, statistic, str(error))


def _sites(sites: Sequence[Site], statistic: str) -> list[str]:
    return [site.name for site in sites if statistic in site.statistics]


def _capture(wanted: Mapping[str, Sequence[str]]) -> Capture:
    by_site: dict[str, list[str]] = {}
    for statistic, sites in wanted.items():
        for site in sites:
            text = f"top_k:{TOP}" if statistic == "top_k" else statistic
            by_site.setdefault(site, []).append(text)
    return Capture(by_site)


def _arrays(result: Result) -> dict[str, NDArray[Any]]:
    prediction = result.prediction
    found: dict[str, NDArray[Any]]
    if isinstance(prediction, dict):
        found = {f"prediction/{task}": values for task, values in prediction.items()}
    else:
        found = {"prediction": prediction}
    if result.attention is not None:
        found |= {f"{site}/{name}": x for (site, name), x in result.attention.values.items()}
    return found


def _error(what: str, found: Arrays, exact: Arrays) -> float:
    """Return the largest error; keys of ``top_k`` are as good as the weights they stand for."""
    x, truth = found[what], exact[what]
    if what.endswith("/top_k.key"):
        site = what.partition("/")[0]
        weights = exact[f"{site}/weights"]
        ranked = np.take_along_axis(weights, np.maximum(x, 0), axis=-1)
        x, truth = np.where(x < 0, 0, ranked), exact[f"{site}/top_k.weight"]
    if x.shape != truth.shape or x.size == 0:
        return 0.0 if x.shape == truth.shape else np.inf
    with np.errstate(invalid="ignore"):  # -inf is right where the reference has it
        apart = np.where(x == truth, 0.0, np.abs(x.astype(np.float64) - truth))
    return float(apart.max())


def _largest(x: NDArray[Any]) -> float:
    finite = np.abs(x[np.isfinite(x)])
    return float(finite.max()) if finite.size else 0.0

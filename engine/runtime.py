"""The engine: a loaded bundle on a device, which turns batches into predictions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import errors, executors, models
from ._version import __version__
from .batches import NO_TASK, Batch, WindowBatch
from .bundle import Bundle, Manifest
from .capture import AttentionRecord, Capture, Request, Site, TokenTable, concatenate
from .executors import LATENTS, ROLLOUT, Captured
from .executors import torch as torch_executor
from .kernels.rollout import FUSE
from .models import Inputs
from .models._perceiver import PerceiverModel
from .models.ensemble import Model as Ensemble

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
ROLLED = "{} over heads; identity added where queries are the keys; all tokens"

Prediction = NDArray[np.floating[Any]] | dict[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Result:
    """What a run gives.

    Attributes:
        prediction: ``[B, Q, d]``, ``array_dtype`` of the engine; for models with tasks, by task
            ``[n, d]``, window by window, then in the order of queries; of images the responses of
            the mouse's units, ``[B, U]``.
        attention: What was captured; ``None`` if nothing was asked.
        prediction_index: By task, window and query of each row, ``[n, 2]``, int64; else empty.
        rollout: What each query takes from each unit through all layers, ``[B, Q, U]``, START and
            END counted; rows sum to 1, those of queries that do not exist are 0. Of images what the
            class token takes from the patches, ``[B, rows, columns]``, without what it takes from
            itself. ``None`` if not asked. See :mod:`attendrite.kernels.rollout`.
        meta: Executor, device, dtype, threads, versions, seconds, choices made; JSON can hold it.
    """

    prediction: Prediction
    attention: AttentionRecord | None
    prediction_index: Mapping[str, NDArray[np.int64]]
    rollout: NDArray[np.floating[Any]] | None
    meta: Mapping[str, Any]


class Engine:
    """A loaded bundle on a device.

    Args:
        bundle: A folder, or a bundle in memory.
        executor: Way to run it, ``"auto"`` or a module of ``attendrite.executors``; chosen here,
            once.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        dtype: ``"float32"``, ``"float64"`` or ``"bfloat16"``, in which the products of layers take
            rounded numbers and all else is float32; times and phases are float64 in all.
        threads: Threads of a run on the CPU; ``None``: as many as torch is set to use.

    Attributes:
        array_dtype: Dtype of arrays that go in and come out: ``"float32"`` or ``"float64"``.

    Raises:
        AttendriteError: The bundle is not sound, or the executor, device or dtype not to be had.

    Example:
        >>> engine = Engine("linear_track")
        >>> result = engine.run(batch, capture=Capture({"encoder": "per_unit"}))
        >>> result.attention["encoder", "per_unit"].shape
        (3, 2, 24)
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        executor: str = "auto",
        device: str = "cpu",
        dtype: str = "float32",
        threads: int | None = None,
    ) -> None:
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        errors.choice("dtype", dtype, DTYPES)
        if threads is not None and threads < 1:
            raise errors.must("threads", "be at least 1", threads)
        where = _device(device)
        self.bundle = bundle
        self.manifest: Manifest = bundle.manifest
        self.device, self.dtype, self.threads = device, dtype, threads
        family = models.load(self.family)
        models.check_weights(bundle)
        self.executor, module = executors.choose(
            executor, family=self.family, device=where.type, dtype=dtype
        )
        kept = torch.promote_types(DTYPES[dtype], torch.float32)
        self.array_dtype = str(kept).removeprefix("torch.")
        weights = {
            name: t.to(where, torch.float64 if name in family.buffers else kept)
            for name, t in bundle.weights.items()
        }
        self.model = family(self.manifest, weights)
        files = [bundle.file(name) for name in getattr(module, "FILES", ())]
        with torch_threads(threads):
            self._executor = module.load(self.model, where, DTYPES[dtype], *files)

    @property
    def family(self) -> str:
        """Model family."""
        return self.manifest.family

    @property
    def sites(self) -> tuple[Site, ...]:
        """The attention layers, in the order in which they run."""
        return self.model.sites

    @property
    def versions(self) -> dict[str, str]:
        """Versions that a result depends on."""
        return {
            "attendrite": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        }

    def run(
        self,
        batch: Batch,
        capture: Capture | None = None,
        *,
        batch_size: int | None = None,
        rollout: str | None = None,
    ) -> Result:
        """Run windows through the model.

        Args:
            batch: Windows of the kind that the family takes; not modified.
            capture: What to return of the attention; only that is computed.
            batch_size: Windows at a time, at most, to bound memory; ``None``: as many as are best
                for speed. The prediction does not depend on it beyond rounding.
            rollout: Also return the rollout from queries to units, heads fused by ``"mean"`` or
                ``"max"``.

        Raises:
            AttendriteError: The batch is of another kind or does not fit the model, or the capture
                asks what a site cannot give, or the rollout is of another kind.
        """
        start = time.perf_counter()
        if batch_size is not None and batch_size < 1:
            raise errors.must("batch_size", "be at least 1", batch_size)
        if rollout is not None:
            errors.choice("rollout", rollout, FUSE)
            if not self.sites:
                raise errors.must("a model with a rollout", "have attention", f"this {self.family}")
            if isinstance(self.model, Ensemble):
                do = "run a member: the maps of several models are not one map"
                raise errors.must("a model with a rollout", "be one model", "an ensemble", do)
        plan = (capture or Capture({})).plan(self.sites)
        self._check(batch)
        size = max(1, len(batch)) if batch_size is None else batch_size
        size = min(size, getattr(self._executor, "at_once", None) or size)
        parts = [self._run(part, plan, rollout) for part in _parts(batch, size)]
        return Result(
            _joined([prediction for prediction, _, _ in parts]),
            concatenate([record for _, record, _ in parts]) if plan else None,
            _index(batch, self.manifest),
            None if rollout is None else np.concatenate([rolled for _, _, rolled in parts]),
            self._meta(plan, rollout, time.perf_counter() - start),
        )

    def partials(
        self, batch: Batch, segments: NDArray[np.integer[Any]], n_segments: int
    ) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
        """Return the encoder's attention over the tokens of each segment alone.

        :mod:`attendrite.kernels.merge_partials` merges them into attention over any set of
        segments, as it is when the others are removed; :meth:`tails` goes on from there.

        Args:
            batch: Windows of the kind that the family takes; not modified.
            segments: Segment of each token, ``[B, K]``, integers in ``-1..n_segments-1``, tokens in
                the order of ``batch.tokens``; -1: in none. What it says of padding is not used.
            n_segments: Number of segments ``G``.

        Returns:
            Log-sum-exps, natural, ``[B, H, L, G]``, -inf where a segment has no token, and outputs
            of each head before the output projection, ``[B, H, L, G, D]``, 0 there; of
            ``array_dtype``.

        Raises:
            AttendriteError: As :meth:`run`; segments of another shape, dtype or range; an executor
                that cannot.
        """
        model = self._perceiver(batch)
        if n_segments < 1:
            raise errors.must("n_segments", "be at least 1", n_segments)
        with torch.inference_mode(), torch_threads(self.threads):
            inputs = self.model.inputs(batch)
            segments = np.asarray(segments)
            errors.shape("segments", segments, inputs.keys.times.shape, "take the order of tokens")
            if segments.dtype.kind not in "iu":
                raise errors.must("segments", "be an array of integers", segments.dtype)
            bad = np.argwhere((segments < -1) | (segments >= n_segments))
            if len(bad):
                b, k = bad[0]
                got = f"segments[{b}, {k}] = {segments[b, k]}"
                raise errors.must("segments", f"lie in -1..{n_segments - 1}", got)
            of_tokens = model.tensor(segments.astype(np.int64))
            lse, output = self._executor.partials(inputs, of_tokens, n_segments)
        return lse.cpu().numpy(), output.cpu().numpy()

    def tails(self, batch: Batch, encoded: NDArray[np.floating[Any]]) -> Prediction:
        """Run what comes after the encoder's attention, from its output in ``N`` conditions.

        Args:
            batch: The windows; only their sessions, query times and tasks are read.
            encoded: Output of each head of the encoder before the output projection, as
                :meth:`partials` gives it, ``[N, B, H, L, D]``, of ``array_dtype``.

        Returns:
            The prediction of each condition, ``[N, B, Q, d]``, or by task ``[N, n, d]``.

        Raises:
            AttendriteError: As :meth:`run`; another shape or dtype, or not finite; an executor that
                cannot.
        """
        model = self._perceiver(batch)
        assert isinstance(batch, WindowBatch)  # what a Perceiver takes
        site, n_latents = self.sites[0], len(model.layers.config.latent_times)
        errors.shape("encoded", encoded, ["N", len(batch), site.heads, n_latents, site.width])
        if encoded.dtype != self.array_dtype:
            raise errors.must("encoded", f"be an array of {self.array_dtype}", encoded.dtype)
        if not np.isfinite(encoded).all():
            errors.finite("encoded", encoded)
        with torch.inference_mode(), torch_threads(self.threads):
            given = np.require(encoded, requirements=["C", "W"])
            if min(given.strides) < 0:  # an axis of one item may have any stride
                given = given.copy()
            inputs = model.without_tokens(batch)
            return _arrays(
                self._executor.tails(inputs, torch.from_numpy(given).to(model.layers.device))
            )

    def masked(self, batch: Batch, masks: Sequence[Mapping[str, NDArray[np.bool_]]]) -> Prediction:
        """Run windows without some heads or latents, in ``N`` conditions.

        A removed head gives 0 before the output projection of its layer; to a removed latent no
        later layer attends. A condition is run from the first layer that it changes. The native
        executor has no masks: there, torch runs the same weights.

        Args:
            batch: Windows of the kind that the family takes; not modified.
            masks: For each condition, by site the heads that are kept, ``[H]``, bool, and under
                ``"latents"`` the latents of a step that are kept, ``[num_latents_per_step]``, bool,
                at least one. What is not named is kept.

        Returns:
            The prediction of each condition, ``[N, B, Q, d]``, or by task ``[N, n, d]``.

        Raises:
            AttendriteError: As :meth:`run`; an unknown site, a mask of another shape or dtype or
                without latents; an executor that cannot.
        """
        model = self._perceiver(batch)
        sizes = {site.name: site.heads for site in self.sites}
        sizes[LATENTS] = model.layers.config.num_latents_per_step
        given = [{name: np.asarray(kept) for name, kept in mask.items()} for mask in masks]
        for i, mask in enumerate(given):
            _check_mask(f"masks[{i}]", mask, sizes)
        with torch.inference_mode(), torch_threads(self.threads):
            return _arrays(self._masking.masked(self.model.inputs(batch), given))

    @property
    def masking(self) -> str:
        """Name of the executor that runs :meth:`masked`."""
        return self.executor if hasattr(self._executor, "masked") else "torch"

    @cached_property
    def _masking(self) -> Any:
        """The executor that has masks: the engine's own, or torch's with the same weights."""
        if hasattr(self._executor, "masked"):
            return self._executor
        if self.dtype == "bfloat16":
            raise errors.must("masks", "be run in float32 or float64", self.dtype)
        return torch_executor.load(self.model, _device(self.device), DTYPES[self.dtype])

    def _check(self, batch: Batch) -> None:
        if not isinstance(batch, self.model.batch):
            kind, got = self.model.batch.__name__, type(batch).__name__
            raise errors.must(f"input of a {self.family} model", f"be a {kind}", got)
        batch.check(self.manifest)

    def _perceiver(self, batch: Batch) -> PerceiverModel:
        """Return the model, whose encoder and the rest can be run apart."""
        self._check(batch)
        if not isinstance(self.model, PerceiverModel):
            raise errors.must("the model", "have an encoder of tokens", f"a {self.family} model")
        return self.model

    def _run(
        self, batch: Batch, plan: Mapping[str, Mapping[str, Request]], rollout: str | None
    ) -> tuple[Prediction, AttentionRecord, NDArray[Any]]:
        with torch.inference_mode(), torch_threads(self.threads):
            inputs = self.model.inputs(batch)
            prediction, found = self._executor.run(inputs, plan, rollout)
            captured = dict(found)
            rolled = captured.pop(ROLLOUT, torch.zeros(0)).cpu().numpy()
        return _arrays(prediction), self._record(batch, inputs, captured, plan), rolled

    def _record(
        self,
        batch: Batch,
        inputs: Inputs,
        captured: Captured,
        plan: Mapping[str, Mapping[str, Request]],
    ) -> AttentionRecord:
        tokens = {
            s.name: _table(inputs) for s in self.sites if s.keys == "tokens" and s.name in plan
        }
        values = {key: value.cpu().numpy() for key, value in captured.items()}
        return AttentionRecord(values, tokens, tuple(batch.unit_ids.tolist()), plan)

    def _meta(
        self, plan: Mapping[str, Mapping[str, Request]], rollout: str | None, seconds: float
    ) -> dict[str, Any]:
        where = _device(self.device)
        name = torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"
        return {
            "family": self.family,
            "model": self.manifest.name,
            "executor": self.executor,
            "device": self.device,
            "device_name": name,
            "dtype": self.dtype,
            "threads": self.threads or torch.get_num_threads(),
            "versions": self.versions,
            "seconds": seconds,
            "choices": {
                **self._executor.choices,
                "capture": [f"{site}:{r}" for site, found in plan.items() for r in found.values()],
                "sums": "over queries, not means",
                **({} if rollout is None else {"rollout": ROLLED.format(rollout)}),
                "times": "float64",
            },
        }


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Let torch use this many threads inside, and as many as before afterwards."""
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise errors.must("device", "be cpu, cuda or cuda:N", repr(name))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        n = torch.cuda.device_count()
        raise errors.must("device", "be there", f"{name!r} with {n} CUDA devices", "use cpu")
    return device


def _table(inputs: Inputs) -> TokenTable:
    keys = inputs.keys
    assert keys.units is not None  # of sites whose keys are tokens
    assert keys.types is not None
    assert keys.lengths is not None
    return TokenTable(
        keys.units.cpu().numpy().astype(np.int32),
        keys.types.cpu().numpy().astype(np.int8),
        keys.times.cpu().numpy(),
        keys.lengths.cpu().numpy(),
    )


def _check_mask(name: str, mask: Mapping[str, NDArray[np.bool_]], sizes: Mapping[str, int]) -> None:
    for site, kept in mask.items():
        errors.choice(f"site of {name}", site, sizes)
        of = f"{name}[{site!r}]"
        if kept.dtype != np.bool_:
            raise errors.must(of, "be an array of bool", kept.dtype, "say what is kept")
        errors.shape(of, kept, [sizes[site]])
        if site == LATENTS and not kept.any():
            raise errors.must(of, "keep at least one latent of a step", "none")


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    """Cut a batch into parts of at most ``size`` windows, at least one part."""
    if size >= len(batch):  # as it is: making another would check it again
        yield batch
        return
    for at in range(0, len(batch), size):
        yield batch.part(at, min(at + size, len(batch)))


def _arrays(prediction: Tensor | dict[str, Tensor]) -> Prediction:
    if isinstance(prediction, Tensor):
        array: NDArray[np.floating[Any]] = prediction.cpu().numpy()
        return array
    return {task: values.cpu().numpy() for task, values in prediction.items()}


def _joined(parts: list[Prediction]) -> Prediction:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    by_task = [part for part in parts if isinstance(part, dict)]
    tasks = dict.fromkeys(task for part in by_task for task in part)
    return {task: np.concatenate([p[task] for p in by_task if task in p]) for task in tasks}


def _index(batch: Batch, manifest: Manifest) -> dict[str, NDArray[np.int64]]:
    """Return window and query of each row of a task's prediction."""
    if batch.query_task is None:
        return {}
    asked = set(np.unique(batch.query_task)) - {NO_TASK}
    return {
        task.name: np.argwhere(batch.query_task == task.name).astype(np.int64)
        for task in manifest.tasks
        if task.name in asked
    }

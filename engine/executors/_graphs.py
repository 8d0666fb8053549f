"""A forward pass as one CUDA graph for each shape of a batch.

At batch 1 a POYO is over a hundred pieces of work of microseconds each, and launching them from
Python takes longer than doing them. So the pass is captured once (a CUDA graph) and replayed:

    tensors of a batch, on the CPU
      -> side by side in pinned memory -> one copy -> inputs of the graph
      -> replay -> results, side by side -> one copy -> pinned memory -> tensors, on the CPU

Shapes are static in a graph. Windows, queries and units are taken as they are, tokens are rounded
up to one of eight sizes between powers of two (`bucket`): an eighth of the encoder's work at most
is padding, which the attention leaves out by ``lengths``. Keys and values of (unit, type) are no
part of the graph but inputs that stay on the device until the units change.

Nothing that is captured may read a number on the host: no size depends on values. Queries are read
out for every task therefore, and each task's are picked on the CPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import errors
from ..capture import AXES, Request
from ..models import Family
from ..models._perceiver import PerceiverInputs, PerceiverModel
from ..models._perceiver_layers import KeysValues
from ..models._site import Attend, Queries
from . import _tails
from ._attend import ForwardExecutor, passes

KEPT = 16  # graphs
STAGED = 1 << 28  # bytes of results that are staged; what returns more is run without a graph
FEWEST = 64  # tokens of the smallest bucket
ALIGNED = 256  # bytes; as CUDA allocates

Plan: TypeAlias = Mapping[str, Mapping[str, Request]]
Shape: TypeAlias = tuple[tuple[int, ...], torch.dtype]
Prediction: TypeAlias = Tensor | dict[str, Tensor]
PREDICTION = "prediction"


def bucket(n_tokens: int) -> int:
    """Round a number of tokens up to one of eight sizes between powers of two."""
    step = max(FEWEST, 1 << max(0, (n_tokens - 1).bit_length() - 4))
    return max(FEWEST, -(-n_tokens // step) * step)


class GraphExecutor(ForwardExecutor):
    """A model whose forward passes are captured as CUDA graphs.

    Inputs are made on the CPU and results come back there. Run without a graph: rollouts, what is
    too large to be staged, and where attention is torch's own, which reads lengths on the host. On
    the CPU nothing is captured; the same work is done on the same buffers.

    Args:
        model: A family with its weights.
        device: Device of the weights.
        dtype: Of the weights.
        backend: Backend of the attention, as of :class:`ForwardExecutor`.
    """

    def __init__(
        self, model: Family, device: torch.device, dtype: torch.dtype, backend: str | None
    ) -> None:
        super().__init__(model, device, dtype, backend)
        self._perceiver.inputs_on = torch.device("cpu")
        self._device = device
        self._graphs: OrderedDict[Hashable, _Graph | None] = OrderedDict()
        self._pool: Any = None  # of memory, which graphs that never run together share
        self.choices |= {"graph": "captured" if device.type == "cuda" else "none, on the CPU"}

    @torch.inference_mode()
    def run(
        self, inputs: PerceiverInputs, plan: Plan, rollout: str | None = None
    ) -> tuple[Prediction, dict[tuple[str, str], Tensor]]:
        """Return the prediction and what was asked for; without gradients."""
        graph = None
        some = inputs.keys.times.numel() and inputs.queries.times.numel()
        if rollout is None and some and self._captures(plan):
            graph = self._graph(inputs, plan)
        if graph is None:
            return super().run(self._moved(inputs), plan, rollout)
        found = graph(inputs)
        captured = {key: x for key, x in found.items() if key[0] != PREDICTION}
        return _prediction(self._perceiver, inputs, found), captured

    def partials(
        self, inputs: PerceiverInputs, segments: Tensor, n_segments: int
    ) -> tuple[Tensor, Tensor]:
        """Return the encoder's attention over each segment alone; without a graph."""
        return super().partials(self._moved(inputs), segments.to(self._device), n_segments)

    def tails(self, inputs: PerceiverInputs, encoded: Tensor) -> Prediction:
        """Return the prediction from outputs of the encoder; without a graph."""
        return super().tails(self._moved(inputs), encoded)

    def masked(self, inputs: PerceiverInputs, masks: Sequence[_tails.Masks]) -> Prediction:
        """Return the prediction without some heads or latents; without a graph."""
        return super().masked(self._moved(inputs), masks)

    def _moved(self, inputs: PerceiverInputs) -> PerceiverInputs:
        def moved(some: Tensors) -> Tensors:
            return [x if x is None else x.to(self._device) for x in some]

        by_token, others = taken(inputs)
        return made(inputs, moved(by_token), moved(others))

    def _captures(self, plan: Plan) -> bool:
        """Say whether all attention is of kernels that a graph can hold."""
        return "library" not in {
            self._chosen(site.width, statistics, False)
            for site in self.model.sites
            for _, statistics in passes(plan.get(site.name, {}))
        }

    def _graph(self, inputs: PerceiverInputs, plan: Plan) -> _Graph | None:
        """Return the graph of such inputs, making one if need be; ``None``: too large for one."""
        by_token, others = taken(inputs)
        size = bucket(inputs.keys.times.shape[1])
        shapes = [_shape(x, size) for x in by_token] + [_shape(x) for x in others]
        asked = tuple((site, *some.values()) for site, some in plan.items())
        key = (inputs.keys.n_units, *shapes, *asked)
        if key not in self._graphs:
            with _on(self._device):
                self._graphs[key] = self._made(inputs, shapes, plan)
            if len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _made(
        self, inputs: PerceiverInputs, shapes: Sequence[Shape | None], plan: Plan
    ) -> _Graph | None:
        if self._pool is None and self._device.type == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        try:
            graph = _Graph(
                self._perceiver, self._through, inputs, shapes, plan, self._device, self._pool
            )
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            got = str(error).partition("\n")[0]
            do = "use executor torch"
            raise errors.must("the model", "be captured as a CUDA graph", got, do) from error
        return graph if graph.staged else None


class _Graph:
    """One forward pass, captured; called with inputs it returns what it finds for them.

    Attributes:
        staged: Whether there is room for its results; else it must not be called.
    """

    def __init__(
        self,
        model: PerceiverModel,
        through: Callable[..., tuple[Any, dict[tuple[str, str], Tensor]]],
        inputs: PerceiverInputs,
        shapes: Sequence[Shape | None],
        plan: Plan,
        device: torch.device,
        pool: Any,
    ) -> None:
        self._model, self._through, self._plan, self._device = model, through, plan, device
        self._given = Staging([shape for shape in shapes if shape is not None], device)
        there = iter(self._given.there)
        static = [None if shape is None else next(there) for shape in shapes]
        n = len(taken(inputs)[0])
        self._static = made(inputs, static[:n], static[n:])
        self._tables: KeysValues | None = None
        self._kept: KeysValues | None = None  # whose copy the tables are
        self._by_token = {site.name for site in model.sites if site.keys == "tokens"}
        self._fill(inputs)
        first = self._warm()
        self.staged = sum(x.nbytes for x in first.values()) <= STAGED
        if not self.staged:
            return
        self._found = Staging([(tuple(x.shape), x.dtype) for x in first.values()], device)
        self._names = list(first)
        del first
        self._replay = self._captured(pool)

    def __call__(self, inputs: PerceiverInputs) -> dict[tuple[str, str], Tensor]:
        """Return the read-outs and captures, by site and name, on the CPU."""
        with _on(self._device):
            self._fill(inputs)
            self._replay()
            self._found.pull()
        n_tokens = inputs.keys.times.shape[1]
        found = {}
        for name, x in zip(self._names, self._found.here, strict=True):
            padded = name[0] in self._by_token and AXES[name[1]][-1] == "key"
            found[name] = (x[..., :n_tokens] if padded else x).clone(
                memory_format=torch.contiguous_format
            )
        return found

    def _fill(self, inputs: PerceiverInputs) -> None:
        """Bring inputs to the device; what is behind the tokens stays from an earlier batch."""
        by_token, others = taken(inputs)
        given = [x for x in (*by_token, *others) if x is not None]
        n_tokens, ahead = inputs.keys.times.shape[1], sum(x is not None for x in by_token)
        for i, (x, room) in enumerate(zip(given, self._given.here, strict=True)):
            (room[:, :n_tokens] if i < ahead else room).copy_(x)
        self._given.push()
        if inputs.keys.rows is None:
            return
        tables = self._model.token_keys(inputs)
        if self._tables is None:
            self._tables = KeysValues(*(x.clone() for x in tables))
        elif tables is not self._kept:
            for mine, x in zip(self._tables, tables, strict=True):
                mine.copy_(x)
        self._kept = tables

    def _work(self) -> dict[tuple[str, str], Tensor]:
        """Run the pass on the static inputs."""

        def forward(inputs: PerceiverInputs, attend: Attend) -> dict[str, Tensor]:
            tokens = self._model.token_keys(inputs) if self._tables is None else self._tables
            return self._model.readouts(self._model.decoded(inputs, tokens, attend))

        predictions, captured = self._through(forward, self._static, self._plan)
        return {**{(PREDICTION, name): x for name, x in predictions.items()}, **captured}

    def _warm(self) -> dict[tuple[str, str], Tensor]:
        """Run it as it is: kernels are compiled, and what a model keeps between runs is filled."""
        if self._device.type != "cuda":
            return self._work()
        beside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self._work()
            found = self._work()
        torch.cuda.current_stream().wait_stream(beside)
        return found

    def _captured(self, pool: Any) -> Callable[[], None]:
        """Return what does the work again and leaves the results side by side."""

        def work() -> None:
            found = self._work()
            for name, room in zip(self._names, self._found.there, strict=True):
                room.copy_(found[name])

        if self._device.type != "cuda":
            return work
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
        replay: Callable[[], None] = graph.replay
        return replay


class Staging:
    """Tensors side by side in one buffer of the host, pinned, and one of the device.

    Args:
        shapes: Of the tensors, with their dtypes.
        device: Where the other buffer is.

    Attributes:
        here: The tensors on the host.
        there: The same on the device.
    """

    def __init__(self, shapes: Sequence[Shape], device: torch.device) -> None:
        places, size = [], 0
        for shape, dtype in shapes:
            n_bytes = torch.Size(shape).numel() * dtype.itemsize
            places.append((size, n_bytes))
            size += -(-n_bytes // ALIGNED) * ALIGNED
        pinned = device.type == "cuda"
        self._here = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
        self._there = torch.zeros(size, dtype=torch.uint8, device=device)

        def cut(whole: Tensor) -> list[Tensor]:
            return [
                whole[at : at + n].view(dtype).view(shape)
                for (at, n), (shape, dtype) in zip(places, shapes, strict=True)
            ]

        self.here, self.there = cut(self._here), cut(self._there)

    def push(self) -> None:
        """Copy from the host to the device; the host's may be written again after a `pull`."""
        self._there.copy_(self._here, non_blocking=True)

    def pull(self) -> None:
        """Copy from the device to the host, and wait until everything before it is done."""
        self._here.copy_(self._there, non_blocking=True)
        if self._there.is_cuda:
            torch.cuda.current_stream().synchronize()


Tensors: TypeAlias = Sequence[Tensor | None]


def taken(inputs: PerceiverInputs) -> tuple[Tensors, Tensors]:
    """Take inputs apart: what has an axis of tokens, ``[B, K]``, and the rest."""
    keys, queries = inputs.keys, inputs.queries
    by_token = (keys.times, keys.units, keys.types, keys.rows, inputs.values)
    rows = (inputs.unit_rows, inputs.session_rows, inputs.task_rows)
    return by_token, (keys.lengths, queries.times, queries.exist, *rows)


def made(like: PerceiverInputs, by_token: Tensors, others: Tensors) -> PerceiverInputs:
    """Put inputs together again; the rest is as in ``like``."""
    times, units, types, rows, values = by_token
    lengths, query_times, exist, unit_rows, session_rows, task_rows = others
    assert times is not None
    assert query_times is not None
    assert unit_rows is not None
    assert session_rows is not None
    keys = replace(like.keys, times=times, lengths=lengths, units=units, types=types, rows=rows)
    queries = Queries(query_times, exist)
    return PerceiverInputs(keys, queries, unit_rows, session_rows, task_rows, values)


def _shape(x: Tensor | None, n_tokens: int | None = None) -> Shape | None:
    if x is None:
        return None
    shape = tuple(x.shape)
    return (shape if n_tokens is None else (shape[0], n_tokens)), x.dtype


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _prediction(
    model: PerceiverModel, inputs: PerceiverInputs, found: Mapping[tuple[str, str], Tensor]
) -> Prediction:
    """Pick each task's queries, window by window; of one read-out there is nothing to pick."""
    if inputs.task_rows is None:
        return found[PREDICTION, ""]
    masks = {task.name: inputs.task_rows.eq(task.id) for task in model.manifest.tasks}
    return {n: found[PREDICTION, n][mask] for n, mask in masks.items() if bool(mask.any())}

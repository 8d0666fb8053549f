"""C++: whole forward passes of POYOs, see ``csrc/model.cpp``, and blocks of V1T.

In float32; POYOs also with the products of their layers in bfloat16, see ``csrc/blocks_table.hpp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .. import _core, errors
from ..capture import Request, Site
from ..models import Family
from ..models._perceiver import PerceiverInputs
from ..models._site import Keys, Queries
from ..models._vision import ImageFamily
from ..models.ensemble import Model as Ensemble
from . import ROLLOUT, _partials, _rollout
from ._attend import ForwardExecutor
from ._native_blocks import NativeBlocks
from ._native_stacked import NativeStacked

PRIORITY = 20
FAMILIES = ("poyo", "poyo_plus", "calcium_poyo_plus")
IMAGES = ("ensemble", "sensorium", "v1t")  # whose blocks it has


def refuses(family: str, device: str, dtype: str) -> str | None:
    """Serve the families whose layers it has, on the CPU, in bfloat16 where that has it."""
    if family not in FAMILIES + IMAGES:
        return f"runs {', '.join(FAMILIES + IMAGES)}, got {family}; use executor torch"
    if device != "cpu":
        return f"runs on the CPU, got {device}; use executor torch"
    level = _core.cpu_level()
    if dtype == "bfloat16" and family in IMAGES:
        return f"computes {family} in float32, got bfloat16; use float32"
    if dtype == "bfloat16" and level != "v4_bf16":
        return f"computes in bfloat16 where the CPU has AVX512_BF16, got level {level}; use float32"
    if dtype not in ("float32", "bfloat16"):
        return f"computes in float32, got {dtype}; use executor torch"
    return None


def load(
    model: Family, device: torch.device, dtype: torch.dtype
) -> NativeExecutor | ForwardExecutor:
    """Bind the weights.

    Raises:
        AttendriteError: They do not make a model.
    """
    if isinstance(model, ImageFamily):
        return ImageExecutor(model, device, dtype)
    return NativeExecutor(model, dtype)


TOKEN_BYTES = 8 << 20  # of queries, keys and values of a batch, about what caches hold


class ImageExecutor(ForwardExecutor):
    """A model of responses to images, blocks or convolutions in C++ and torch between them.

    Attributes:
        at_once: Images that are best given together; ``None``: any number. Tokens of more would go
            through memory between all steps of a block.
    """

    at_once: int | None = None

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(model, device, dtype, backend=None)
        members: list[Any] = [model]
        if isinstance(model, Ensemble):
            members = list(model.members.values())
        for one in members:
            if one.sites:
                heads, n_blocks = one.sites[0].heads, len(one.sites)
                one.blocks = NativeBlocks(one.weights, n_blocks, heads, one.block_names)
                each = 4 * one.tokens[0] * 3 * heads * one.sites[0].width
                self.at_once = max(1, min(self.at_once or TOKEN_BYTES, TOKEN_BYTES // each))
            else:
                one.stacked = NativeStacked(one)
        self.choices |= {"blocks": _core.cpu_level()}


class NativeExecutor:
    """A model with a copy of its weights in the core's own form.

    Args:
        model: A family with its weights, float32 on the CPU.
        dtype: float32 or bfloat16, of the products of its layers.

    Raises:
        AttendriteError: They do not make a model.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model = model
        weights = {name: t.detach().clone() for name, t in model.layers.weights.items()}
        try:
            self._runner = _core.Runner(
                model.manifest.to_json(), safetensors.torch.save(weights), dtype == torch.bfloat16
            )
        except ValueError as error:
            raise errors.AttendriteError(str(error)) from None
        self.choices = {"attention": "native", "blocks": _core.cpu_level()}

    def run(
        self,
        inputs: PerceiverInputs,
        plan: Mapping[str, Mapping[str, Request]],
        rollout: str | None = None,
    ) -> tuple[Tensor | dict[str, Tensor], dict[tuple[str, str], Tensor]]:
        """Return the prediction and what was asked for; without gradients."""
        call = _Call(self.model.sites, inputs, len(self.model.layers.latent_times[0]))
        for site, wanted in plan.items():
            for request in wanted.values():
                call.ask(site, request)
        if rollout is not None:
            for site in self.model.sites:
                call.copy(site.name, "queries")
                if site.keys == "latents":
                    call.copy(site.name, "keys")
        prediction, rooms = self._prediction(inputs)
        self._runner.run(call.fields(), call.requests, rooms, torch.get_num_threads())
        captured = call.captured
        for site, wanted in plan.items():
            if "head_output" in wanted:
                captured[site, "head_output"] = self._projected(site, call.copied[site, "output"])
        if rollout is not None:
            captured[ROLLOUT] = self._rollout(inputs, call.copied, rollout)
        return prediction, captured

    def partials(
        self, inputs: PerceiverInputs, segments: Tensor, n_segments: int
    ) -> tuple[Tensor, Tensor]:
        """Return the encoder's attention over each segment alone; see :mod:`._partials`."""
        return _partials.partials(self.model, inputs, segments, n_segments, None)

    def tails(self, inputs: PerceiverInputs, encoded: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the prediction from outputs of the encoder, all conditions in one run.

        Args:
            inputs: A batch, of which only the queries are read.
            encoded: Output of each head of the encoder, ``[N, B, H, L, D]``, float32.

        Returns:
            The prediction, ``[N, B, Q, d]``, or by task ``[N, n, d]``; to the bit that of a run
            whose encoder gives the same.
        """
        n, given = len(encoded), encoded.contiguous()
        prediction, rooms = self._prediction(inputs, n)
        times, sessions = inputs.queries.times.repeat(n, 1), inputs.session_rows.repeat(n, 1)
        tasks = None if inputs.task_rows is None else inputs.task_rows.repeat(n, 1)
        fields = {
            "windows": len(times),
            "queries": times.shape[1],
            "query_times": times.data_ptr(),
            "session_rows": sessions.data_ptr(),
            "task_rows": 0 if tasks is None else tasks.data_ptr(),
        }
        self._runner.run_encoded(fields, given.data_ptr(), rooms, torch.get_num_threads())
        return prediction

    def _prediction(
        self, inputs: PerceiverInputs, *conditions: int
    ) -> tuple[Tensor | dict[str, Tensor], list[int]]:
        """Make room for the prediction: by task, those with queries only."""
        if inputs.task_rows is None:
            width = len(self.model.layers.weights["readout.weight"])
            whole = torch.empty(*conditions, *inputs.session_rows.shape, width)
            return whole, [whole.data_ptr()]
        tasks = self.model.manifest.tasks
        most = max((task.id for task in tasks), default=0)
        counts = torch.bincount(inputs.task_rows.flatten(), minlength=most + 1).tolist()
        by_task = {task.name: torch.empty(*conditions, counts[task.id], task.dim) for task in tasks}
        rooms = [room.data_ptr() for room in by_task.values()]
        return {name: room for name, room in by_task.items() if room.shape[-2]}, rooms

    def _projected(self, site: str, output: Tensor) -> Tensor:
        """Return each head's contribution to its layer, ``[B, H, Q, dim]``."""
        weight = self.model.layers.weights[f"{_layer(site)}.to_out.weight"]
        by_head = weight.view(len(weight), *output.shape[1::2])
        return torch.einsum("bhqd,ohd->bhqo", output, by_head)

    def _rollout(
        self, inputs: PerceiverInputs, copied: Mapping[tuple[str, str], Tensor], fuse: str
    ) -> Tensor:
        """Walk back through the layers; the encoder's keys are those of the model."""
        layers = self.model.layers
        phase, size = layers.latent_phase, len(inputs.keys.times)
        latents = Keys(layers.latent_times.expand(size, -1), phase=phase)
        tokens = self.model.token_keys(inputs).keys
        found = []
        for site in self.model.sites:
            keys, queries = latents, Queries(latents.times, phase=phase)
            if site.keys == "tokens":
                keys = replace(inputs.keys, phase=layers.phase(inputs.keys.times))
            elif not site.residual:
                queries = replace(inputs.queries, phase=layers.phase(inputs.queries.times))
            k = copied[site.name, "keys"] if site.keys == "latents" else tokens
            found.append(_rollout.kept(site, copied[site.name, "queries"], k, keys, queries))
        return _rollout.walked(found, inputs, fuse, None)


class _Call:
    """The requests of a run, and room for what they give.

    Attributes:
        requests: As ``_core.Runner.run`` takes them.
        captured: By site and array name, what the run is to return.
        copied: By site and name, what goes into or comes out of the attention there.
    """

    def __init__(self, sites: tuple[Site, ...], inputs: PerceiverInputs, n_latents: int) -> None:
        self.requests: list[tuple[int, str, bool, int, int, int]] = []
        self.captured: dict[tuple[str, str], Tensor] = {}
        self.copied: dict[tuple[str, str], Tensor] = {}
        self._inputs, self._n_latents = inputs, n_latents
        self._sites = {site.name: (place, site) for place, site in enumerate(sites)}
        self._kept: list[Tensor] = []

    def ask(self, site: str, request: Request) -> None:
        """Make room for a statistic."""
        if request.statistic == "head_output":
            self.copy(site, "output")
            return
        keys = self._inputs.keys
        rows = self._rows(site)
        n_units = keys.n_units
        n_keys = self._n_latents
        if self._sites[site][1].keys == "tokens":
            n_keys = keys.times.shape[1]
        shapes: dict[str, dict[str, tuple[int, ...]]] = {
            "weights": {"weights": (*rows, n_keys)},
            "per_key": {"per_key": (*rows[:2], n_keys)},
            "per_unit": {"per_unit": (*rows[:2], n_units)},
            "per_query_unit": {"per_query_unit": (*rows, n_units)},
            "top_k": {"top_k.weight": (*rows, request.k), "top_k.key": (*rows, request.k)},
            "partials": {
                "partials.lse": (*rows, n_units),
                "partials.output": (*rows, n_units, self._sites[site][1].width),
            },
        }
        rooms = {
            name: torch.empty(shape, dtype=torch.int64 if name == "top_k.key" else torch.float32)
            for name, shape in shapes.get(request.statistic, {request.statistic: rows}).items()
        }
        self.captured |= {(site, name): room for name, room in rooms.items()}
        self._add(site, request.statistic, request, *rooms.values())

    def copy(self, site: str, what: str) -> None:
        """Make room for ``output``, ``queries`` or ``keys`` of latents, ``[B, H, N, D]``."""
        if (site, what) in self.copied:
            return
        rows, width = self._rows(site), self._sites[site][1].width
        n = self._n_latents if what == "keys" else rows[2]
        self.copied[site, what] = torch.empty(*rows[:2], n, width)
        self._add(site, what, Request(what), self.copied[site, what])

    def _rows(self, site: str) -> tuple[int, int, int]:
        """Windows, heads and queries of a site."""
        size, n_queries = self._inputs.queries.times.shape
        decodes = site == next(reversed(self._sites))
        return size, self._sites[site][1].heads, n_queries if decodes else self._n_latents

    def _add(self, site: str, name: str, request: Request, *rooms: Tensor) -> None:
        first, second = (*(room.data_ptr() for room in rooms), 0)[:2]
        spikes = request.tokens == "spikes"
        self.requests.append((self._sites[site][0], name, spikes, request.k, first, second))

    def fields(self) -> dict[str, int]:
        """Return the sizes and addresses of the batch."""
        inputs, keys = self._inputs, self._inputs.keys
        size, n_keys = keys.times.shape
        assert keys.lengths is not None  # made by a family
        assert n_keys == int(keys.lengths.max() if size else 0)  # results have as many keys

        def address(tensor: Tensor | None) -> int:
            if tensor is None:
                return 0
            self._kept.append(tensor.contiguous())
            return self._kept[-1].data_ptr()

        return {
            "windows": size,
            "first": address(torch.arange(size) * n_keys),
            "count": address(keys.lengths),
            "times": address(keys.times),
            "units": address(keys.units),
            "types": address(keys.types) if inputs.values is None else 0,
            "values": address(inputs.values),
            "queries": inputs.queries.times.shape[1],
            "query_times": address(inputs.queries.times),
            "session_rows": address(inputs.session_rows),
            "task_rows": address(inputs.task_rows),
            "unit_rows": address(inputs.unit_rows),
            "n_units": keys.n_units,
        }


def _layer(site: str) -> str:
    """Name the weights of a site's attention."""
    kind, _, i = site.partition(".")
    return {"encoder": "enc_atn", "decoder": "dec_atn"}.get(kind, f"proc_layers.{i}.0")

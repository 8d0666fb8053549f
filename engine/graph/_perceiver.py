"""The forward pass of POYO, POYO+ and Calcium POYO+ as ONNX operators.

The mathematics is that of :mod:`attendrite.models._perceiver_layers`; what differs is what is done
once, at export, in double:

* Keys and values of spikes are tables over (row of the unit table, type), before they turn.
* The encoder's queries are constants, and turned already.
* The features of the encoder's keys that do not turn only serve to be multiplied with the queries,
  of which there are few before they turn: one for each latent of a step. So a key holds those
  products in their place, and a query holds a one for its own. Padding is a key whose products are
  lower than any score: there is no mask.

Residual streams are ``[B N, dim]``, so that a linear layer is one ``Gemm``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

from ..capture import Request
from ..models._perceiver import PerceiverModel
from ..models._perceiver_layers import EPS, SPIKE_TYPES, KeysValues
from ..models._tasks import PREFIX
from . import _statistics
from ._builder import Builder, Value, floats, ints
from ._statistics import PADDING, Attended

TURN = 2 * np.pi
LAST = np.iinfo(np.int64).max  # end of a slice


class Phase(NamedTuple):
    """Cosines and sines by which features turn, ``[B, N, F]`` each."""

    cosine: str
    sine: str


class Keys(NamedTuple):
    """Keys and values of the encoder, for each head ``[B, N, width]``, turned."""

    keys: list[str]
    values: list[str]


class Forward:
    """Writes the forward pass of a model into a graph.

    Args:
        builder: An empty graph.
        model: On the CPU, with weights in double.
        plan: Site to statistic to request: further outputs.
    """

    statistics = ("weights", "per_key", "per_unit", "per_query_unit", "entropy", "lse")

    def __init__(
        self, builder: Builder, model: PerceiverModel, plan: Mapping[str, Mapping[str, Request]]
    ) -> None:
        self.b, self.model, self.plan = builder, model, plan
        self.layers, self.config = model.layers, model.layers.config
        self.sites = {site.name: site for site in model.sites}
        self.tasks = model.manifest.tasks
        self.calcium = "input_value_map.weight" in model.layers.weights
        self.n_latents = self.layers.latent_times.shape[1]

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a reader of the file can look up."""
        return {"sequence_length": self.config.sequence_length}

    def write(self) -> None:
        """Write inputs, layers and outputs."""
        self.declare()
        self._prepare()
        latents = self._processor(self._encoder())
        self._readout(self._decoder(latents))

    def declare(self) -> None:
        """Write the inputs."""
        b = self.b
        token, query = ("window", "token"), ("window", "query")
        self.unit_rows = b.input("unit_rows", np.int64, ["unit"])
        self.units = b.input("units", np.int64, token)
        self.content = (
            b.input("values", np.float32, token)
            if self.calcium
            else b.input("types", np.int64, token)
        )
        self.times = b.input("times", np.float64, token)
        self.lengths = b.input("lengths", np.int64, ["window"])
        self.session_rows = b.input("session_rows", np.int64, ["window"])
        self.query_times = b.input("query_times", np.float64, query)
        self.task_rows = b.input("task_rows", np.int64, query) if self.tasks else None

    def _prepare(self) -> None:
        """Write what several layers need."""
        b = self.b
        b.scope = "inputs"
        self.windows = b("Shape", self.lengths)
        tokens = b("Squeeze", b("Shape", self.times, start=1, end=2))
        places = b("Range", np.array(0), tokens, np.array(1))
        self.exists = b("Less", places, b("Unsqueeze", self.lengths, ints(1)))  # [B, N]
        self.unit_row = b("Gather", self.unit_rows, self.units)
        phase = [floats(self.layers.latent_phase[:, :, i]) for i in (0, 1)]  # [1, L, F]
        shape = b("Concat", self.windows, ints(*phase[0].shape[1:]), axis=0)
        cosine, sine = (b("Expand", part, shape) for part in phase)
        self.latent_phase = Phase(cosine, sine)
        self.latent_phase_back = Phase(cosine, b("Neg", sine))

    # Layers

    def _encoder(self) -> str:
        """Return the latents that have seen the tokens, ``[B L, dim]``."""
        b = self.b
        b.scope = "encoder"
        keys, values = self._frames() if self.calcium else self._spikes()
        scores = [
            b("MatMul", query, b("Transpose", key, perm=[0, 2, 1]))  # [B, L, N]
            for query, key in zip(self._encoder_queries(), keys, strict=True)
        ]
        outputs = [
            b("MatMul", b("Softmax", score, axis=-1), value)
            for score, value in zip(scores, values, strict=True)
        ]
        output = self._turn(b("Concat", *outputs, axis=-1), self.latent_phase_back, len(outputs))
        at_rest = floats(self.layers.latents())  # [1, L, dim]
        shape = b("Concat", self.windows, ints(*at_rest.shape[1:]), axis=0)
        latents = self._rows(b("Expand", at_rest, shape), self.config.dim)
        x = self._attended("enc_atn", output, latents)
        if "encoder" in self.plan:
            stacked = b("Concat", *(b("Unsqueeze", s, ints(1)) for s in scores), axis=1)
            attended = Attended(
                stacked, self.exists, None, self.units,
                None if self.calcium else b("Equal", self.content, np.array(0)),
                b("Shape", self.unit_rows),
            )  # fmt: skip
            self._capture("encoder", attended)
        return self._feed_forward("enc_ffn", x)

    def _processor(self, x: str) -> str:
        heads = self.config.self_heads
        width = heads * self.config.dim_head
        for i in range(self.config.depth):
            site, name = f"processor.{i}", f"proc_layers.{i}"
            self.b.scope = site
            normal = self._norm(f"{name}.0.norm", x)
            q, k, v = (
                self._turn(
                    self._by_latent(self._linear(normal, weight), width), self.latent_phase, heads
                )
                for weight in self._weight(f"{name}.0.to_qkv.weight").chunk(3)
            )
            output, scores = self._attention(site, q, k, v)
            self._capture(site, Attended(scores))
            output = self._turn(output, self.latent_phase_back, heads)
            x = self._attended(f"{name}.0", output, x)
            x = self._feed_forward(f"{name}.1", x)
        return x

    def _decoder(self, latents: str) -> str:
        """Return the decoded queries, ``[B Q, dim]``."""
        b = self.b
        b.scope = "decoder"
        heads = self.config.cross_heads
        width = heads * self.config.dim_head
        asked = self._asked()
        normal = self._norm("dec_atn.norm", asked)
        q = self._linear(normal, self._weight("dec_atn.to_q.weight"))
        shape = b("Concat", b("Shape", self.query_times), ints(width), axis=0)
        q = self._turn(b("Reshape", q, shape, allowzero=1), self._phase(self.query_times), heads)
        context = self._norm("dec_atn.norm_context", latents)
        k, v = (
            self._by_latent(self._linear(context, weight), width)
            for weight in self._weight("dec_atn.to_kv.weight").chunk(2)
        )
        # The operator needs a query, and there may be none: one more goes in and is left out again.
        q = b("Pad", q, ints(0, 1, 0, 0, 0, 0))
        output, scores = self._attention("decoder", q, self._turn(k, self.latent_phase, heads), v)
        output = b("Slice", output, ints(1), ints(LAST), ints(1))
        if scores:
            exist = b("Greater", self.task_rows, np.array(0)) if self.task_rows else None
            scores = b("Slice", scores, ints(1), ints(LAST), ints(2))
            self._capture("decoder", Attended(scores, queries=exist))
        return self._feed_forward("dec_ffn", self._attended("dec_atn", output, asked))

    def _asked(self) -> str:
        """Return the embedded queries, ``[B Q, dim]``: who records, and what is asked."""
        b, dim = self.b, self.config.dim
        session = b("Gather", floats(self._weight("session_emb.weight")), self.session_rows)
        shape = b("Concat", b("Shape", self.query_times), ints(dim), axis=0)
        asked = b("Expand", b("Unsqueeze", session, ints(1)), shape)
        if self.task_rows is not None:
            task = b("Gather", floats(self._weight("task_emb.weight")), self.task_rows)
            asked = b("Add", asked, task)
        return self._rows(asked, dim)

    def _readout(self, decoded: str) -> None:
        b = self.b
        b.scope = "readout"
        if self.task_rows is None:
            weight = self._weight("readout.weight")
            y = self._linear(decoded, weight, self._weight("readout.bias"))
            shape = b("Concat", b("Shape", self.query_times), ints(len(weight)), axis=0)
            y = b("Reshape", y, shape, allowzero=1)
            b.output("prediction", y, ["window", "query", len(weight)])
            return
        rows = b("Reshape", self.task_rows, ints(-1))
        for task in self.tasks:
            found = b("Compress", decoded, b("Equal", rows, np.array(task.id)), axis=0)
            weight, bias = (self._weight(f"{PREFIX}{task.name}.{p}") for p in ("weight", "bias"))
            y = self._linear(found, weight, bias)
            b.output(f"prediction/{task.name}", y, [f"queries of {task.name}", task.dim])

    # The encoder's queries, keys and values

    @cached_property
    def _queries(self) -> Tensor:
        """Queries of the latents of one step before they turn, scaled, ``[H, J, D]``."""
        layers = self.layers
        normal = layers.norm("enc_atn.norm", layers.weights["latent_emb.weight"][None])
        q = layers.heads(F.linear(normal, layers.weights["enc_atn.to_q.weight"]))[0]
        scaled: Tensor = q * self.config.dim_head**-0.5
        return scaled

    def _encoder_queries(self) -> list[Value]:
        """Return the queries of each head as they meet the keys, ``[1, L, 2 F + J]``."""
        count, pairs = self.config.num_latents_per_step, len(self.layers.omega)
        steps = self.n_latents // count
        phase = self.layers.latent_phase  # [1, L, 2, F]
        q = self._queries.repeat(1, steps, 1)[..., : 2 * pairs]
        by_pair = torch.view_as_complex(q.reshape(*q.shape[:2], pairs, 2))
        turned = by_pair * torch.complex(phase[:, :, 0], phase[:, :, 1])
        own = torch.eye(count, dtype=q.dtype).repeat(steps, 1).expand(len(q), -1, -1)
        whole = torch.cat((torch.view_as_real(turned).flatten(-2), own), -1)
        return [floats(head[None]) for head in whole]

    def _meeting(self, keys: Tensor) -> Tensor:
        """Replace the features that do not turn by their products with the queries.

        From ``[H, T, D]`` to ``[H, T, 2 F + J]``; linear, so that a projection may go in for keys.
        """
        turning = 2 * len(self.layers.omega)
        still = keys[..., turning:] @ self._queries[..., turning:].transpose(1, 2)
        return torch.cat((keys[..., :turning], still), -1)

    @property
    def _padding(self) -> Tensor:
        """Return the key of padding, ``[2 F + J]``."""
        turning = torch.zeros(2 * len(self.layers.omega), dtype=torch.float64)
        still = torch.full((self.config.num_latents_per_step,), PADDING, dtype=torch.float64)
        return torch.cat((turning, still))

    def _spikes(self) -> Keys:
        """Look keys and values up; the last row of the tables is padding."""
        b = self.b
        tables = self._tables()
        last = tables.keys.shape[1] - 1
        row = b("Add", b("Mul", self.unit_row, np.array(SPIKE_TYPES)), self.content)
        row = b("Where", self.exists, row, np.array(last))
        phase = self._phase(self.times)
        keys, values = (
            [self._turn(b("Gather", floats(head), row), phase, heads=1) for head in table]
            for table in tables
        )
        return Keys(keys, values)

    def _tables(self) -> KeysValues:
        """Return keys and values of every (row, type), and of padding, ``[H, T, width]``."""
        types = self._weight("token_type_emb.weight")[:SPIKE_TYPES]
        tokens = self._weight("unit_emb.weight")[:, None] + types
        keys, values = (part[0] for part in self.layers.encoder_keys(tokens.flatten(0, 1)[None]))
        padding = self._padding.expand(len(keys), 1, -1)
        return KeysValues(torch.cat((self._meeting(keys), padding), 1), F.pad(values, (0, 0, 0, 1)))

    def _frames(self) -> Keys:
        """Project how much and whose to keys and values, and put padding where no token is."""
        b = self.b
        weight, bias = (self._weight(f"input_value_map.{p}") for p in ("weight", "bias"))
        value = b("Mul", b("Unsqueeze", self.content, ints(2)), floats(weight[:, 0]))
        value = b("Add", value, floats(bias))
        unit = b("Gather", floats(self._weight("unit_emb.weight")), self.unit_row)
        tokens = self._norm("enc_atn.norm_context", b("Concat", value, unit, axis=-1))
        phase = self._phase(self.times)
        exists = b("Unsqueeze", self.exists, ints(2))
        to_key, to_value = (
            self.layers.heads(w.T[None])[0] for w in self._weight("enc_atn.to_kv.weight").chunk(2)
        )  # [H, dim, D]
        keys, values = (
            [
                self._turn(
                    b("Where", exists, b("MatMul", tokens, floats(head)), floats(padding)),
                    phase, heads=1,
                )
                for head in projection
            ]
            for projection, padding in ((self._meeting(to_key), self._padding), (to_value, 0))
        )  # fmt: skip
        return Keys(keys, values)

    # Parts of layers

    def _phase(self, times: str) -> Phase:
        """Return the phase at times ``[B, N]``: whole turns are taken off in double."""
        b = self.b
        per_second = (self.layers.omega / TURN).numpy()
        turns = b("Mul", b("Unsqueeze", times, ints(2)), per_second)
        part = b("Cast", b("Sub", turns, b("Round", turns)), to=TensorProto.FLOAT)
        angle = b("Mul", part, floats(TURN))
        return Phase(b("Cos", angle), b("Sin", angle))

    def _turn(self, x: str, phase: Phase, heads: int) -> str:
        """Turn the first features of each head of ``x [B, N, H D]``."""
        pairs = len(self.layers.omega)
        if not pairs:
            return x
        return self.b(
            "RotaryEmbedding", x, *phase,
            interleaved=1, num_heads=heads, rotary_embedding_dim=2 * pairs,
        )  # fmt: skip

    def _attention(self, site: str, q: str, k: str, v: str) -> tuple[str, str]:
        """Attend; return the output ``[B, Q, H D]``, and the scores ``[B, H, Q, K]`` if wanted."""
        heads = self.sites[site].heads
        output, *_, scores = self.b.several(
            "Attention", (True, False, False, site in self.plan), q, k, v,
            q_num_heads=heads, kv_num_heads=heads, qk_matmul_output_mode=0,
        )  # fmt: skip
        return output, scores

    def _capture(self, site: str, attended: Attended) -> None:
        """Add what the plan wants to see of a site."""
        if wanted := self.plan.get(site):
            _statistics.add(self.b, self.sites[site], wanted, attended, self.n_latents)

    def _attended(self, name: str, output: str, residual: str) -> str:
        """Project what was attended to and add it, ``[B N, dim]``."""
        weight, bias = (self._weight(f"{name}.to_out.{p}") for p in ("weight", "bias"))
        rows = self._rows(output, weight.shape[1])
        return self.b("Add", self._linear(rows, weight, bias), residual)

    def _feed_forward(self, name: str, x: str) -> str:
        normal = self._norm(f"{name}.0", x)
        value, gate = (
            self._linear(normal, weight, bias)
            for weight, bias in zip(
                self._weight(f"{name}.1.net.0.weight").chunk(2),
                self._weight(f"{name}.1.net.0.bias").chunk(2),
                strict=True,
            )
        )
        hidden = self.b("Mul", value, self.b("Gelu", gate))
        weight, bias = (self._weight(f"{name}.1.net.3.{p}") for p in ("weight", "bias"))
        return self.b("Add", self._linear(hidden, weight, bias), x)

    def _norm(self, name: str, x: str) -> str:
        gain, offset = (floats(self._weight(f"{name}.{p}")) for p in ("weight", "bias"))
        return self.b("LayerNormalization", x, gain, offset, axis=-1, epsilon=EPS)

    def _linear(self, x: str, weight: Tensor, bias: Tensor | None = None) -> str:
        offset = [] if bias is None else [floats(bias)]
        return self.b("Gemm", x, floats(weight), *offset, transB=1)

    def _weight(self, name: str) -> Tensor:
        return self.layers.weights[name]

    # Shapes

    def _rows(self, x: str, width: int) -> str:
        """``[B, N, width]`` to ``[B N, width]``."""
        return self.b("Reshape", x, ints(-1, width))

    def _by_latent(self, x: str, width: int) -> str:
        """``[B L, width]`` to ``[B, L, width]``."""
        return self.b("Reshape", x, ints(-1, self.n_latents, width))

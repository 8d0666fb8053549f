"""The layers that POYO, POYO+ and Calcium POYO+ share: a rotary Perceiver.

Tokens are compressed into latents (encoder), latents see each other (processor), queries see
latents (decoder). Sources: Azabou et al. 2023 (arXiv:2310.16046) and 2025 (POYO+), the code of
torch_brain 0.1 and 0.2; Jaegle et al. 2021 (arXiv:2107.14795); rotary embedding: Su et al. 2021
(arXiv:2104.09864). Names of weights are those of torch_brain's state_dict.

Time enters by rotation only. Angles reach 6e4 rad, so they are float64 until after cos and sin:
float32 times change POYO's output by 1e-3.

A token of spikes is whose it is and its type, before it turns: keys and values are looked up in
tables of (unit, type) instead of being projected one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .. import errors
from ..bundle import Manifest
from ..capture import Site
from ..kernels.phases import phases
from ._site import Attend, Keys, Queries, Shapes

EPS = 1e-5
TOKEN_TYPES = 4  # spike, START, END, and one that is never used
SPIKE_TYPES = 3
MOST_STEPS, MOST_LATENTS = 1 << 16, 1 << 16
MOST_LAYERS, WIDEST, LONGEST = 1024, 1 << 16, 1e6  # the last in seconds
NEEDS = {"sequence_length": "1.0", "latent_step": "0.125"}


@dataclass(frozen=True)
class Config:
    """Sizes of a model.

    Attributes:
        sequence_length: Length of a window, seconds.
        latent_step: Time between latents, seconds.
        num_latents_per_step: Latents at each of those times.
        dim: Width of tokens, latents and queries.
        dim_head: Width of a head.
        depth: Processor layers.
        cross_heads: Heads of encoder and decoder.
        self_heads: Heads of the processor.
    """

    sequence_length: float
    latent_step: float
    num_latents_per_step: int
    dim: int
    dim_head: int
    depth: int
    cross_heads: int
    self_heads: int

    @classmethod
    def of(cls, manifest: Manifest) -> Config:
        """Read and check the configuration of a manifest.

        Raises:
            AttendriteError: A size is missing or impossible.
        """
        values: dict[str, Any] = {}
        for name, field in cls.__dataclass_fields__.items():
            value: Any = manifest.config.get(name)
            values[name] = value
            if field.type == "float":
                fits = type(value) in (int, float) and 0 < value <= LONGEST
                be = f"be a number of seconds > 0, at most {LONGEST:g}"
            else:
                low, most = (0, MOST_LAYERS) if name == "depth" else (1, WIDEST)
                fits = type(value) is int and low <= value <= most
                be = f"be an integer, {low}..{most}"
            if not fits:
                raise errors.must(f"config {name!r}", be, repr(value))
        steps = values["sequence_length"] / values["latent_step"]
        if not 1 <= steps <= MOST_STEPS:
            be = f"divide sequence_length into 1..{MOST_STEPS} steps"
            raise errors.must("config 'latent_step'", be, f"{steps:g} steps")
        latents = math.ceil(steps) * values["num_latents_per_step"]
        if latents > MOST_LATENTS:
            raise errors.must("latents of a window", f"be at most {MOST_LATENTS}", latents)
        return cls(**values)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The attention layers, in the order in which they run."""
        return (
            Site("encoder", self.cross_heads, self.dim_head, "tokens"),
            *(
                Site(f"processor.{i}", self.self_heads, self.dim_head, "latents", residual=True)
                for i in range(self.depth)
            ),
            Site("decoder", self.cross_heads, self.dim_head, "latents"),
        )

    @cached_property
    def latent_times(self) -> NDArray[np.float64]:
        """Time of each latent, ``[L]``, time-major: all latents of the first step come first."""
        steps = np.arange(0, self.sequence_length, self.latent_step) + self.latent_step / 2
        return np.repeat(steps, self.num_latents_per_step)


def sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the configuration from the shapes of the weights, all but the two durations.

    Raises:
        AttendriteError: A tensor is missing, or sizes do not divide.
    """
    latents = table_length(weights, "latent_emb.weight")
    dim = weights["latent_emb.weight"].shape[1]
    dim_head = 2 * table_length(weights, "rotary_emb.omega")
    layers = {int(n.split(".")[1]) for n in weights if n.startswith("proc_layers.")}
    if layers != set(range(len(layers))):
        raise errors.must("processor layers", "be numbered from 0", sorted(layers))
    inner = {"cross_heads": table_length(weights, "enc_atn.to_q.weight")}
    qkv = weights.get("proc_layers.0.0.to_qkv.weight")
    inner["self_heads"] = dim_head if qkv is None else len(qkv) // 3
    for name, width in inner.items():
        if width % dim_head or not width:
            raise errors.must(f"inner width of {name}", f"be a multiple of {dim_head}", width)
    return {
        "num_latents_per_step": latents,
        "dim": dim,
        "dim_head": dim_head,
        "depth": len(layers),
        **{name: width // dim_head for name, width in inner.items()},
    }


def table_length(weights: Mapping[str, Tensor], name: str) -> int:
    """Return the number of rows of a tensor.

    Raises:
        AttendriteError: There is no such tensor, or it has no rows.
    """
    if name not in weights or weights[name].ndim == 0 or len(weights[name]) == 0:
        got = list(weights[name].shape) if name in weights else "none of that name"
        raise errors.must("weights", f"hold rows of {name!r}", got)
    return len(weights[name])


def shapes(config: Config) -> Shapes:
    """Return the shapes of the weights that the three families share."""
    dim, cross, own = (
        config.dim,
        *(h * config.dim_head for h in (config.cross_heads, config.self_heads)),
    )
    out: Shapes = {
        "token_type_emb.weight": (TOKEN_TYPES, dim),
        "latent_emb.weight": (config.num_latents_per_step, dim),
        "rotary_emb.omega": (config.dim_head // 2,),
    }
    for name in ("enc_atn", "dec_atn"):
        out |= _norm_shapes(f"{name}.norm", dim) | _norm_shapes(f"{name}.norm_context", dim)
        out |= {f"{name}.to_q.weight": (cross, dim), f"{name}.to_kv.weight": (2 * cross, dim)}
        out |= {f"{name}.to_out.weight": (dim, cross), f"{name}.to_out.bias": (dim,)}
    for name in (f"proc_layers.{i}.0" for i in range(config.depth)):
        out |= _norm_shapes(f"{name}.norm", dim)
        out |= {f"{name}.to_qkv.weight": (3 * own, dim)}
        out |= {f"{name}.to_out.weight": (dim, own), f"{name}.to_out.bias": (dim,)}
    for name in ("enc_ffn", "dec_ffn", *(f"proc_layers.{i}.1" for i in range(config.depth))):
        out |= _norm_shapes(f"{name}.0", dim)
        out |= {f"{name}.1.net.0.weight": (8 * dim, dim), f"{name}.1.net.0.bias": (8 * dim,)}
        out |= {f"{name}.1.net.3.weight": (dim, 4 * dim), f"{name}.1.net.3.bias": (dim,)}
    return out


def _norm_shapes(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


class KeysValues(NamedTuple):
    """Keys and values before they turn, ``[B, H, K, D]``; tables ``[1, H, T, D]`` with rows."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Perceiver:
    """The layers, bound to weights.

    Attributes:
        config: Sizes.
        weights: By name, all on one device and of one floating dtype.
        omega: Angular velocity of each pair of features that turns, ``[F]``, float64, rad/s.
    """

    config: Config
    weights: Mapping[str, Tensor]
    omega: Tensor

    @classmethod
    def bind(cls, manifest: Manifest, weights: Mapping[str, Tensor]) -> Perceiver:
        """Take the weights of a model; see the attributes."""
        omega = weights["rotary_emb.omega"].double()
        turning = omega.nonzero()  # the other half of a head does not turn
        count = int(turning.max()) + 1 if len(turning) else 0
        return cls(Config.of(manifest), weights, omega[:count])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights["latent_emb.weight"].device

    @cached_property
    def latent_times(self) -> Tensor:
        """Time of each latent, ``[1, L]``, float64, seconds."""
        return torch.from_numpy(self.config.latent_times).to(self.device)[None]

    @cached_property
    def latent_phase(self) -> Tensor:
        """Rotation of each latent, ``[1, L, 2, F]``."""
        return self.phase(self.latent_times)

    def phase(self, times: Tensor) -> Tensor:
        """Return the rotation at times ``[B, N]``, float64, seconds: ``[B, N, 2, F]``."""
        dtype = self.weights["latent_emb.weight"].dtype
        return phases(times, self.omega, dtype=dtype, threads=torch.get_num_threads())

    def __call__(
        self, tokens: KeysValues, keys: Keys, asked: Tensor, queries: Queries, attend: Attend
    ) -> Tensor:
        """Run encoder, processor and decoder.

        Args:
            tokens: Keys and values of the embedded inputs, :meth:`encoder_keys` of them.
            keys: What they are.
            asked: Embedded queries, ``[B, Q, dim]``.
            queries: What they are.
            attend: The attention.

        Returns:
            The decoded queries before the read-out, ``[B, Q, dim]``.
        """
        latents = self.received(self.encode(tokens, keys, attend))
        for i in range(self.config.depth):
            latents = self.process(i, latents, attend)
        return self.decode(latents, asked, queries, attend)

    def encode(self, tokens: KeysValues, keys: Keys, attend: Attend) -> Tensor:
        """Return what the latents take from the tokens, by head, ``[B, H, L, D]``."""
        q = self.cross_queries("enc_atn", self.latents())
        keys = replace(keys, phase=self.phase(keys.times))
        queries = Queries(self.latent_times, phase=self.latent_phase)
        return self._attention("enc_atn", "encoder", q, tokens, keys, queries, attend)

    def received(self, encoded: Tensor) -> Tensor:
        """Return the latents that the processor gets, ``[B, L, dim]``.

        Args:
            encoded: What :meth:`encode` returns, or the same over some of the tokens only.
        """
        latents = added(self.latents(), self.joined("enc_atn", encoded))
        return latents + self.feed_forward("enc_ffn", latents)

    def process(self, layer: int, latents: Tensor, attend: Attend) -> Tensor:
        """Run a processor layer, from ``[B, L, dim]`` to the same; see :meth:`_attention`."""
        name, keys = f"proc_layers.{layer}", self.latent_keys(len(latents))
        taken = self.self_attention(f"{name}.0", f"processor.{layer}", latents, keys, attend)
        latents = added(latents, taken)
        return latents + self.feed_forward(f"{name}.1", latents)

    def decode(self, latents: Tensor, asked: Tensor, queries: Queries, attend: Attend) -> Tensor:
        """Return the decoded queries before the read-out, ``[n B, Q, dim]``.

        Args:
            latents: Of ``n`` conditions of each window, ``[n B, L, dim]``: all windows of the first
                condition come first.
            asked: Embedded queries, ``[B, Q, dim]``, the same in every condition.
            queries: What they are.
            attend: The attention.
        """
        queries = replace(queries, phase=self.phase(queries.times))
        context, keys = self.cross_keys("dec_atn", latents), self.latent_keys(len(latents))
        taken = self.cross_attention("dec_atn", "decoder", asked, context, keys, queries, attend)
        asked = added(asked, taken)
        return asked + self.feed_forward("dec_ffn", asked)

    def latent_keys(self, size: int) -> Keys:
        """Return what the latents of ``size`` windows are as keys."""
        return Keys(self.latent_times.expand(size, -1), phase=self.latent_phase)

    def latents(self) -> Tensor:
        """Return the latents at rest, ``[1, L, dim]``."""
        steps = self.latent_times.shape[1] // self.config.num_latents_per_step
        return self.weights["latent_emb.weight"].repeat(steps, 1)[None]

    def cross_keys(self, name: str, context: Tensor) -> KeysValues:
        """Return the keys and values of ``context [B, K, dim]``."""
        x = self.norm(f"{name}.norm_context", context)
        k, v = F.linear(x, self.weights[f"{name}.to_kv.weight"]).chunk(2, -1)
        return KeysValues(self.heads(k), self.heads(v))

    def encoder_keys(self, tokens: Tensor) -> KeysValues:
        """Return the keys and values of embedded inputs ``[B, K, dim]``."""
        return self.cross_keys("enc_atn", tokens)

    def cross_attention(
        self,
        name: str,
        site: str,
        x: Tensor,
        context: KeysValues,
        keys: Keys,
        queries: Queries,
        attend: Attend,
    ) -> Tensor:
        """Return what ``x [B, Q, dim]`` takes from a context, ``[B, Q, dim]``.

        Values turn with their time in the encoder, not in the decoder.
        """
        q = self.cross_queries(name, x)
        out = self._attention(name, site, q, context, keys, queries, attend)
        return self.joined(name, out)

    def cross_queries(self, name: str, x: Tensor) -> Tensor:
        """Return the queries of ``x [B, Q, dim]`` before they turn, ``[B, H, Q, D]``."""
        x = self.norm(f"{name}.norm", x)
        return self.heads(F.linear(x, self.weights[f"{name}.to_q.weight"]))

    def self_attention(self, name: str, site: str, x: Tensor, keys: Keys, attend: Attend) -> Tensor:
        """Return what latents ``[B, L, dim]`` take from each other, ``[B, L, dim]``."""
        qkv = F.linear(self.norm(f"{name}.norm", x), self.weights[f"{name}.to_qkv.weight"])
        q, k, v = (self.heads(part) for part in qkv.chunk(3, -1))
        queries = Queries(keys.times, phase=keys.phase)
        out = self._attention(name, site, q, KeysValues(k, v), keys, queries, attend)
        return self.joined(name, out)

    def heads(self, x: Tensor) -> Tensor:
        """Split ``[B, N, H D]`` into ``[B, H, N, D]``."""
        width = self.config.dim_head
        return x.view(*x.shape[:2], x.shape[2] // width, width).transpose(1, 2)

    def _attention(
        self,
        name: str,
        site: str,
        q: Tensor,
        context: KeysValues,
        keys: Keys,
        queries: Queries,
        attend: Attend,
    ) -> Tensor:
        """Return the output of each head, ``[B, H, Q, D]``.

        Queries that are the same for several windows of keys are given once. ``attend`` may return
        more windows than it gets, several conditions of each.
        """
        weight, size = self.weights[f"{name}.to_out.weight"], len(keys.times)

        def project(out: Tensor) -> Tensor:
            by_head = weight.view(len(weight), -1, self.config.dim_head)
            return torch.einsum("bhqd,ohd->bhqo", out, by_head)

        return attend(
            site,
            repeated(q, size),
            context.keys,
            context.values,
            keys=keys,
            queries=repeated_queries(queries, size),
            rotate_values=site != "decoder",
            project=project,
        )

    def joined(self, name: str, out: Tensor) -> Tensor:
        """Project the heads' outputs ``[B, H, Q, D]`` together, to ``[B, Q, dim]``."""
        weight, bias = (self.weights[f"{name}.to_out.{part}"] for part in ("weight", "bias"))
        return F.linear(out.transpose(1, 2).flatten(2), weight, bias)

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        """Return the gated feed-forward part (GEGLU: Shazeer 2020, arXiv:2002.05202)."""
        w = self.weights
        hidden = F.linear(
            self.norm(f"{name}.0", x), w[f"{name}.1.net.0.weight"], w[f"{name}.1.net.0.bias"]
        )
        value, gate = hidden.chunk(2, -1)
        return F.linear(
            value * F.gelu(gate), w[f"{name}.1.net.3.weight"], w[f"{name}.1.net.3.bias"]
        )

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Normalise the features of ``x [..., dim]``."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, (x.shape[-1],), weight, bias, EPS)

    def embed(self, table: str, rows: Tensor) -> Tensor:
        """Look rows up in an embedding table."""
        return F.embedding(rows, self.weights[f"{table}.weight"])


def repeated(x: Tensor, size: int) -> Tensor:
    """Repeat ``x [B, ...]`` as a whole, to ``[size, ...]``; one window takes no memory."""
    return x.expand(size // max(1, len(x)), *x.shape).flatten(0, 1)


def repeated_queries(queries: Queries, size: int) -> Queries:
    """Repeat queries likewise; a phase that all windows share stays one."""
    exist, phase = queries.exist, queries.phase
    return Queries(
        repeated(queries.times, size),
        None if exist is None else repeated(exist, size),
        phase if phase is None or len(phase) == 1 else repeated(phase, size),
    )


def added(x: Tensor, taken: Tensor) -> Tensor:
    """Add what was taken, ``[n B, N, dim]``, to ``x [B, N, dim]`` of each condition."""
    return repeated(x, len(taken)) + taken

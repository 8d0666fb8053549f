"""The forward pass of a family with ``kernels.attention`` as its attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..capture import AXES, Request
from ..kernels.attention import OPERATION, Attention, attention, request
from ..models import Family
from ..models._perceiver import PerceiverInputs, PerceiverModel
from ..models._site import Keys, Queries
from . import ROLLOUT, _partials, _rollout, _tails

SPIKE = 0
NO_UNIT = -1  # unit of a key that counts for none
NO_KEY = -1


class ForwardExecutor:
    """A model whose forward pass is run by torch.

    Args:
        model: A family with its weights.
        device: Device of the weights.
        dtype: Of the weights.
        backend: Backend of the attention and the rollout; ``None`` takes the best one for each set
            of statistics, chosen once.
    """

    def __init__(
        self, model: Family, device: torch.device, dtype: torch.dtype, backend: str | None
    ) -> None:
        self.model = model
        self._backend = backend

        @cache
        def chosen(
            width: int, statistics: frozenset[str], grad: bool, self_excluded: bool = False
        ) -> str:
            kind = request(
                device.type, dtype, width, width, statistics, grad=grad, self_excluded=self_excluded
            )
            return OPERATION.choose(backend, **kind).__name__.rpartition(".")[2]

        self._chosen = chosen
        plain: frozenset[str] = frozenset()
        width = model.sites[0].width if model.sites else None
        self.choices = {} if width is None else {"attention": chosen(width, plain, False)}

    def run(
        self, inputs: Any, plan: Mapping[str, Mapping[str, Request]], rollout: str | None = None
    ) -> tuple[Tensor | dict[str, Tensor], dict[tuple[str, str], Tensor]]:
        """Return the prediction and what was asked for; differentiable."""
        return self._through(self.model.forward, inputs, plan, rollout)

    def _through(
        self,
        forward: Callable[..., Any],
        inputs: Any,
        plan: Mapping[str, Mapping[str, Request]],
        rollout: str | None = None,
    ) -> tuple[Any, dict[tuple[str, str], Tensor]]:
        """Run a forward pass, and keep what was asked for."""
        if rollout is not None and inputs.grid is not None and inputs.readout is None:
            raise errors.must("a model with a rollout", "have a class token", "patches only")
        captured: dict[tuple[str, str], Tensor] = {}
        sites = {site.name: site for site in self.model.sites}
        layers = []

        def attend(
            site: str,
            q: Tensor,
            k: Tensor,
            v: Tensor,
            *,
            keys: Keys,
            queries: Queries,
            rotate_values: bool,
            project: Callable[[Tensor], Tensor],
        ) -> Tensor:
            wanted = plan.get(site, {})
            found: dict[str, Tensor] = {}
            also = _rollout.along(rollout, sites[site], self.model.sites, inputs, q)
            for tokens, statistics in passes(wanted):
                result = self._attend(
                    q, k, v, keys, queries, rotate_values, tokens, statistics | also, wanted
                )
                out = result.output
                found |= result.statistics
            if rollout is not None:
                fused = found.pop(f"weights_{rollout}", None)
                layers.append(_rollout.kept(sites[site], q, k, keys, queries, fused))
            if "head_output" in wanted:
                found["head_output"] = project(out)
            for name, value in found.items():
                captured[site, name] = _existing(name, value, queries.exist)
            return out

        prediction = forward(inputs, attend)
        if rollout is not None:
            captured[ROLLOUT] = _rollout.walked(layers, inputs, rollout, self._backend)
        return prediction, captured

    def partials(
        self, inputs: PerceiverInputs, segments: Tensor, n_segments: int
    ) -> tuple[Tensor, Tensor]:
        """Return the encoder's attention over each segment alone; see :mod:`._partials`."""
        width, statistics = self.model.sites[0].width, frozenset({"partials"})
        backend = self._chosen(width, statistics, torch.is_grad_enabled())
        return _partials.partials(self._perceiver, inputs, segments, n_segments, backend)

    def tails(self, inputs: PerceiverInputs, encoded: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the prediction from outputs of the encoder; see :mod:`._tails`."""
        return _tails.tails(self._perceiver, inputs, encoded, self._plain)

    def masked(
        self, inputs: PerceiverInputs, masks: Sequence[_tails.Masks]
    ) -> Tensor | dict[str, Tensor]:
        """Return the prediction without some heads or latents; see :mod:`._tails`."""
        return _tails.masked(self._perceiver, inputs, masks, self._plain)

    @property
    def _perceiver(self) -> PerceiverModel:
        assert isinstance(self.model, PerceiverModel)  # the engine refuses others
        return self.model

    def _plain(
        self, site: str, q: Tensor, k: Tensor, v: Tensor, *, keys: Keys, queries: Queries,
        rotate_values: bool, project: Any,
    ) -> Tensor:  # fmt: skip
        """Attend, and capture nothing."""
        del site, project
        return self._attend(q, k, v, keys, queries, rotate_values, "all", frozenset(), {}).output

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        keys: Keys,
        queries: Queries,
        rotate_values: bool,
        tokens: str,
        statistics: frozenset[str],
        wanted: Mapping[str, Request],
    ) -> Attention:
        units = keys.units
        if units is not None and keys.types is not None and tokens == "spikes":
            units = units.masked_fill(keys.types != SPIKE, NO_UNIT)
        grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        return attention(
            q,
            k,
            v,
            statistics=statistics,
            lengths=keys.lengths,
            rows=keys.rows,
            units=units,
            n_units=keys.n_units,
            query_weights=None if queries.exist is None else queries.exist.to(q.dtype),
            query_phase=queries.phase,
            key_phase=keys.phase,
            rotate_values=rotate_values,
            query_times=queries.times,
            key_times=keys.times,
            top_k=wanted["top_k"].k if "top_k" in wanted else 0,
            self_key=0 if keys.self_excluded else None,
            threads=torch.get_num_threads(),
            backend=self._chosen(q.shape[3], statistics, grad, keys.self_excluded),
        )


def passes(wanted: Mapping[str, Request]) -> list[tuple[str, frozenset[str]]]:
    """Group statistics by the tokens that count: one call each, nearly always one in all."""
    groups: dict[str, set[str]] = {}
    for name, one in wanted.items():
        if name != "head_output":
            groups.setdefault(one.tokens, set()).add(name)
    return [(tokens, frozenset(names)) for tokens, names in groups.items()] or [
        ("all", frozenset())
    ]


def _existing(name: str, value: Tensor, exist: Tensor | None) -> Tensor:
    """Clear what belongs to queries that do not exist."""
    if exist is None or "query" not in AXES[name]:
        return value
    missing = ~exist.reshape(len(exist), 1, exist.shape[1], *[1] * (value.ndim - 3))
    return value.masked_fill(missing, NO_KEY if name == "top_k.key" else 0)

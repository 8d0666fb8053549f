"""What the models POYO, POYO+ and Calcium POYO+ share around :mod:`._perceiver_layers`.

A family says what its tokens and queries are, and how it reads them out; this file makes tensors of
a batch and runs the layers on them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import errors
from ..batches import NO_TASK, SpikeBatch, WindowBatch, rows, task_rows
from ..bundle import Manifest
from ._perceiver_layers import (
    NEEDS,
    SPIKE_TYPES,
    Config,
    KeysValues,
    Perceiver,
    shapes,
    sizes,
    table_length,
)
from ._site import Attend, Inputs, Keys, Queries, Shapes


@dataclass(frozen=True)
class PerceiverInputs(Inputs):
    """Tensors of a batch.

    Attributes:
        unit_rows: Row of each unit of the batch in the unit table, ``[U]``, int64.
        session_rows: Row of each query in the session table, ``[B, Q]``, int64; 0: no query.
        task_rows: Row of each query in the task table, likewise; ``None`` for one read-out.
        values: dF/F of each token, ``[B, K]``, dtype of the model; ``None`` for spikes.
    """

    unit_rows: Tensor
    session_rows: Tensor
    task_rows: Tensor | None = None
    values: Tensor | None = None


class PerceiverModel(ABC):
    """What models of this architecture have in common; see :class:`attendrite.models.Family`.

    A family says what its tokens and queries are, and how it reads them out.
    """

    tables = ("unit_emb.weight", "session_emb.weight")
    buffers = ("rotary_emb.omega",)

    def __init__(self, manifest: Manifest, weights: Mapping[str, Tensor]) -> None:
        self.manifest = manifest
        self.layers = Perceiver.bind(manifest, weights)
        self.sites = self.layers.config.sites
        self.inputs_on = self.layers.device  # where `inputs` puts its tensors
        self._spike_keys: tuple[tuple[int, ...], KeysValues] | None = None

    @classmethod
    def sizes(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Infer the configuration, all but the two durations."""
        return sizes(weights)

    @classmethod
    def needs(cls) -> Mapping[str, str]:
        """Name the two durations, with examples."""
        return NEEDS

    @classmethod
    def shapes(cls, manifest: Manifest, weights: Mapping[str, Tensor]) -> Shapes:
        """Return the shape that every tensor must have; tables are as long as they are.

        Raises:
            AttendriteError: No table, or a vocabulary points beyond it.
        """
        config = Config.of(manifest)
        out = shapes(config)
        for what, vocabulary in (("unit", manifest.units), ("session", manifest.sessions)):
            size = table_length(weights, f"{what}_emb.weight")
            out[f"{what}_emb.weight"] = (size, config.dim)
            for name, row in vocabulary.items():
                if row >= size:
                    raise errors.must(f"row of {what} {name!r}", f"be below {size}", row)
        return out

    def forward(self, inputs: PerceiverInputs, attend: Attend) -> Tensor | dict[str, Tensor]:
        """Return the prediction, ``[B, Q, d]``, or by task ``[n, d]``."""
        return self.readout(inputs, self.decoded(inputs, self.token_keys(inputs), attend))

    def decoded(self, inputs: PerceiverInputs, tokens: KeysValues, attend: Attend) -> Tensor:
        """Return the decoded queries before the read-out, ``[B, Q, dim]``."""
        asked = self.embedded_queries(inputs)
        return self.layers(tokens, inputs.keys, asked, inputs.queries, attend)

    def token_keys(self, inputs: PerceiverInputs) -> KeysValues:
        """Return keys and values of the tokens, or tables of them."""
        return self.spike_keys(inputs)

    def embedded_queries(self, inputs: PerceiverInputs) -> Tensor:
        """Embed the queries, ``[B, Q, dim]``: who records."""
        return self.layers.embed("session_emb", inputs.session_rows)

    @abstractmethod
    def readout(self, inputs: PerceiverInputs, decoded: Tensor) -> Tensor | dict[str, Tensor]:
        """Read the decoded queries out, ``[..., B, Q, dim]``; leading axes stay."""

    @abstractmethod
    def readouts(self, decoded: Tensor) -> dict[str, Tensor]:
        """Read all of them out for every task, by name ``[B, Q, d]``; ``""`` if there is one."""

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """Copy an array to where inputs are wanted: on the model's device, or to be staged."""
        return torch.from_numpy(np.array(array, order="C")).to(self.inputs_on)

    def spikes(self, batch: SpikeBatch) -> PerceiverInputs:
        """Turn a checked batch of spikes into tensors, tokens in the order of its ``tokens``."""
        tokens = batch.tokens(self.layers.config.sequence_length)
        units = tokens.unit.astype(np.int64)
        table = rows("unit", batch.unit_ids, self.manifest.units)
        exists = np.arange(units.shape[1]) < tokens.lengths[:, None]
        types = tokens.type.astype(np.int64)
        keys = Keys(
            times=self.tensor(tokens.time),
            lengths=self.tensor(tokens.lengths),
            units=self.tensor(units),
            types=self.tensor(types),
            n_units=len(table),
            rows=self.tensor(np.where(exists, units * SPIKE_TYPES + types, 0)),
        )
        return PerceiverInputs(
            keys, self.queries(batch), self.tensor(table), *self.query_rows(batch)
        )

    def spike_keys(self, inputs: PerceiverInputs) -> KeysValues:
        """Return keys and values of all (unit, type): tables, ``[1, H, U types, D]``.

        Before it turns, all that a token is made of is whose it is and its type. Inference keeps
        the tables of the units it saw last.
        """
        units = tuple(inputs.unit_rows.tolist())
        kept = self._spike_keys
        if torch.is_inference_mode_enabled() and kept is not None and kept[0] == units:
            return kept[1]
        types = torch.arange(SPIKE_TYPES, device=self.layers.device)
        tokens = (
            self.layers.embed("unit_emb", inputs.unit_rows.to(self.layers.device))[:, None]
            + self.layers.embed("token_type_emb", types)[None]
        )
        tables = self.layers.encoder_keys(tokens.flatten(0, 1)[None])
        if torch.is_inference_mode_enabled():
            self._spike_keys = (units, tables)
        return tables

    def without_tokens(self, batch: WindowBatch) -> PerceiverInputs:
        """Turn a checked batch into what matters after the encoder's attention: its queries."""
        none = self.tensor(np.zeros((len(batch), 0), np.int64))
        keys = Keys(none.double(), none.sum(1), units=none, types=none, rows=none)
        return PerceiverInputs(keys, self.queries(batch), none.flatten(), *self.query_rows(batch))

    def queries(self, batch: WindowBatch) -> Queries:
        """Return the queries of a batch; where its task is "" there is none."""
        exist = None if batch.query_task is None else self.tensor(batch.query_task != NO_TASK)
        return Queries(self.tensor(batch.query_times), exist)

    def query_rows(self, batch: WindowBatch) -> tuple[Tensor, Tensor | None]:
        """Return the rows of each query in the session table and, with tasks, in the task table."""
        sessions = rows("session", batch.session, self.manifest.sessions)[:, None]
        if batch.query_task is None:
            return self.tensor(np.broadcast_to(sessions, batch.query_times.shape)), None
        tasks = task_rows(batch, self.manifest.tasks)
        return self.tensor(np.where(tasks > 0, sessions, 0)), self.tensor(tasks)

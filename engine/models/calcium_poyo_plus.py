"""Calcium POYO+: the fluorescence of a population to several tasks.

Every (frame, unit) is a token. Source: Azabou et al. 2025, "Multi-session, multi-task neural
decoding from distinct cell-types and brain regions" (ICLR), as in torch_brain 0.1.2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..batches import CalciumBatch, rows
from ..bundle import Manifest
from . import _tasks
from ._perceiver import PerceiverInputs
from ._perceiver_layers import KeysValues, table_length
from ._site import Keys, Shapes


class Model(_tasks.MultitaskModel):
    """Calcium POYO+ with its weights; see :class:`attendrite.models.Family`."""

    batch = CalciumBatch

    @classmethod
    def claims(cls, names: Collection[str]) -> bool:
        """Say whether weights of these names are a Calcium POYO+."""
        return "input_value_map.weight" in names

    @classmethod
    def shapes(cls, manifest: Manifest, weights: Mapping[str, Tensor]) -> Shapes:
        """Return the shape that every tensor must have; value and unit share the width."""
        out: Shapes = super().shapes(manifest, weights)
        half = out["latent_emb.weight"][1] // 2
        out["unit_emb.weight"] = (table_length(weights, "unit_emb.weight"), half)
        return out | {"input_value_map.weight": (half, 1), "input_value_map.bias": (half,)}

    def inputs(self, batch: CalciumBatch) -> PerceiverInputs:
        """Turn a checked batch into tensors; tokens in the order of ``CalciumBatch.tokens``."""
        frame, unit, lengths = batch.tokens()
        table = rows("unit", batch.unit_ids, self.manifest.units)
        exists = np.arange(unit.shape[1]) < lengths[:, None]
        window = np.arange(len(batch))[:, None]

        def padded(values: np.ndarray) -> Tensor:
            return self.tensor(np.where(exists, values, 0))

        keys = Keys(
            times=padded(np.take_along_axis(batch.times, frame, axis=1)),
            lengths=self.tensor(lengths),
            units=self.tensor(unit),
            types=self.tensor(np.zeros_like(unit)),
            n_units=len(table),
        )
        session_rows, task_rows = self.query_rows(batch)
        values = padded(batch.values[window, frame, unit])
        return PerceiverInputs(
            keys,
            self.queries(batch),
            self.tensor(table),
            session_rows,
            task_rows,
            values.to(self.layers.weights["latent_emb.weight"].dtype),
        )

    def token_keys(self, inputs: PerceiverInputs) -> KeysValues:
        """Return keys and values of the tokens, ``[B, H, K, D]``."""
        return self.layers.encoder_keys(self.embedded_frames(inputs))

    def embedded_frames(self, inputs: PerceiverInputs) -> Tensor:
        """Embed tokens of frames, ``[B, K, dim]``: how much, and whose. Their type is not used."""
        assert inputs.values is not None  # made by this class
        assert inputs.keys.units is not None
        weights = self.layers.weights
        value = F.linear(
            inputs.values[..., None],
            weights["input_value_map.weight"],
            weights["input_value_map.bias"],
        )
        units = self.layers.embed("unit_emb", inputs.unit_rows)[inputs.keys.units]
        return torch.cat((value, units), -1)

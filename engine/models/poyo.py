"""POYO: the spikes of a population to one output per query.

Source: Azabou et al. 2023, "A unified, scalable framework for neural population decoding"
(arXiv:2310.16046), as in torch_brain 0.1 and 0.2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..batches import SpikeBatch
from ..bundle import Manifest, Task
from ._perceiver import PerceiverInputs, PerceiverModel
from ._perceiver_layers import table_length
from ._site import Shapes


class Model(PerceiverModel):
    """POYO with its weights; see :class:`attendrite.models.Family`."""

    batch = SpikeBatch

    @classmethod
    def claims(cls, names: Collection[str]) -> bool:
        """Say whether weights of these names are a POYO."""
        return {"enc_atn.to_q.weight", "readout.weight"} <= set(names)

    @classmethod
    def sizes(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Infer the configuration, all but the two durations."""
        return super().sizes(weights) | {"dim_out": table_length(weights, "readout.weight")}

    @classmethod
    def tasks(cls, weights: Mapping[str, Tensor], given: Mapping[str, str]) -> tuple[Task, ...]:
        """There is one read-out and no task."""
        del weights, given
        return ()

    @classmethod
    def shapes(cls, manifest: Manifest, weights: Mapping[str, Tensor]) -> Shapes:
        """Return the shape that every tensor must have; tables are as long as they are."""
        out = super().shapes(manifest, weights)
        dim, dim_out = out["latent_emb.weight"][1], table_length(weights, "readout.weight")
        return out | {"readout.weight": (dim_out, dim), "readout.bias": (dim_out,)}

    def inputs(self, batch: SpikeBatch) -> PerceiverInputs:
        """Turn a checked batch into tensors."""
        return self.spikes(batch)

    def readout(self, inputs: PerceiverInputs, decoded: Tensor) -> Tensor:
        """Read every query out, ``[..., B, Q, dim_out]``."""
        del inputs
        return self.readouts(decoded)[""]

    def readouts(self, decoded: Tensor) -> dict[str, Tensor]:
        """Read every query out; there is one read-out."""
        weights = self.layers.weights
        return {"": F.linear(decoded, weights["readout.weight"], weights["readout.bias"])}

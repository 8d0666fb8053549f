"""POYO+: the spikes of a population to several tasks.

Source: Azabou et al. 2025, "Multi-session, multi-task neural decoding from distinct cell-types and
brain regions" (ICLR), as in torch_brain 0.1.2.
"""

from __future__ import annotations

from collections.abc import Collection

from ..batches import SpikeBatch
from . import _tasks
from ._perceiver import PerceiverInputs


class Model(_tasks.MultitaskModel):
    """POYO+ with its weights; see :class:`attendrite.models.Family`."""

    batch = SpikeBatch

    @classmethod
    def claims(cls, names: Collection[str]) -> bool:
        """Say whether weights of these names are a POYO+ of spikes."""
        has_tasks = any(name.startswith(_tasks.PREFIX) for name in names)
        return has_tasks and "input_value_map.weight" not in names

    def inputs(self, batch: SpikeBatch) -> PerceiverInputs:
        """Turn a checked batch into tensors."""
        return self.spikes(batch)

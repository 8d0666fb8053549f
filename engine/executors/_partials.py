"""What the encoder takes from some of the tokens alone: the parts that a removal leaves or not.

Keys and values of a token do not depend on other tokens, so attention over any set of them is a
merge of its parts (see :mod:`attendrite.kernels.merge_partials`). Nothing after it is run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..kernels.attention import attention
from ..models._perceiver import PerceiverInputs, PerceiverModel
from ..models._site import Keys, Queries


def partials(
    model: PerceiverModel,
    inputs: PerceiverInputs,
    segments: Tensor,
    n_segments: int,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    """Return the encoder's attention over the tokens of each segment alone.

    Args:
        model: With its weights.
        inputs: A batch.
        segments: Segment of each token, ``[B, K]``, int64 in ``-1..n_segments-1``; -1 is in none,
            nor is padding, whatever it says.
        n_segments: Number of segments ``G``.
        backend: Backend of the attention; ``None`` takes the best one.

    Returns:
        Log-sum-exps, natural, ``[B, H, L, G]``, -inf where a segment has no token; and outputs of
        each head, ``[B, H, L, G, D]``, 0 there. Dtype of the model.
    """
    found: dict[str, Tensor] = {}

    def attend(
        site: str, q: Tensor, k: Tensor, v: Tensor, *, keys: Keys, queries: Queries,
        rotate_values: bool, project: Any,
    ) -> Tensor:  # fmt: skip
        del site, project
        result = attention(
            q,
            k,
            v,
            statistics={"partials"},
            lengths=keys.lengths,
            rows=keys.rows,
            units=segments,
            n_units=n_segments,
            query_phase=queries.phase,
            key_phase=keys.phase,
            rotate_values=rotate_values,
            threads=torch.get_num_threads(),
            backend=backend,
        )
        found.update(result.statistics)
        return result.output

    model.layers.encode(model.token_keys(inputs), inputs.keys, attend)
    return found["partials.lse"], found["partials.output"]

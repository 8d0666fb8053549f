"""State_dicts of torch_brain: vocabularies are among the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import errors, models
from ..bundle import check_vocabulary
from ._vocabularies import Vocabularies

NO_ID = "NA"  # torch_brain's name of row 0, the padding

# Names of the code before torch_brain ("kirby") and theirs now.
PREFIXES = {"perceiver_io.": "", "spike_type_emb.": "token_type_emb."}


def _renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Take the common prefix off and bring earlier names to those of today."""
    ends = [str(n)[: -len("unit_emb.weight")] for n in state if str(n).endswith("unit_emb.weight")]
    if len(ends) != 1:
        raise errors.must(
            "the source", "hold one 'unit_emb.weight'", f"{len(ends)} among {len(state)} names",
            f"known families: {', '.join(models.families())}",
        )  # fmt: skip
    out: dict[str, Any] = {}
    for name, value in state.items():
        if not isinstance(name, str) or not name.startswith(ends[0]):
            raise errors.must("every name of the source", f"begin with {ends[0]!r}", repr(name))
        new = name[len(ends[0]) :]
        for old, now in PREFIXES.items():
            new = now + new[len(old) :] if new.startswith(old) else new
        if new in out:
            raise errors.must("names of the source", "be distinct", f"{new!r} twice")
        out[new] = value
    return out


def split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], Vocabularies]:
    """Return weights, and the vocabularies of units and sessions.

    Raises:
        AttendriteError: Names or vocabularies that torch_brain does not write.
    """
    state = _renamed(state)
    vocabularies = {}
    for what in ("unit", "session"):
        vocabulary = state.get(f"{what}_emb.vocab")
        if not isinstance(vocabulary, Mapping):
            raise errors.must(
                "the source", f"hold the vocabulary {what}_emb.vocab", type(vocabulary).__name__,
                "save model.state_dict() of a torch_brain model with initialised vocabularies",
            )  # fmt: skip
        rows = {name: row for name, row in vocabulary.items() if (name, row) != (NO_ID, 0)}
        check_vocabulary(what, rows)
        vocabularies[what] = rows
    weights = {}
    for name, value in state.items():
        if name in ("unit_emb.vocab", "session_emb.vocab"):
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise errors.must(f"{name!r} of the source", "be a floating tensor", got)
        weights[name] = value
    return weights, Vocabularies(vocabularies["unit"], vocabularies["session"])

"""State_dicts of V1T and of sensorium: a read-out for each mouse, neurons without names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from .. import errors
from ._vocabularies import Vocabularies

READOUT = re.compile(r"readouts?\.(.+?)\.(?:features|_features)")
LINEAR = re.compile(r"(?:^|_)ln(?:_|$)")
NOT_WEIGHTS = ("num_batches_tracked", "mha.mask")  # counters and indices of training


def claims(names: Collection[str]) -> bool:
    """Say whether a state_dict of these names is a model of responses to images."""
    return any(READOUT.fullmatch(str(name)) for name in names)


def split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], Vocabularies]:
    """Return weights, and vocabularies: mice, and their neurons by number, ``MOUSE/0`` first.

    Raises:
        AttendriteError: Something that is no floating tensor.
    """
    weights = {}
    for name, value in state.items():
        if str(name).endswith(NOT_WEIGHTS):
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise errors.must(f"{name!r} of the source", "be a floating tensor", got)
        weights[str(name)] = value
    found = {hit[1]: name for name in weights if (hit := READOUT.fullmatch(name))}
    units = [
        f"{mouse}/{i}" for mouse, name in found.items() for i in range(weights[name].shape[-1])
    ]
    return weights, Vocabularies(_rows(units), _rows(found))


def told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the name of a file tells: sensorium calls its linear models ``_ln_``."""
    stem = str(facts.get("file", "")).partition(".")[0]
    if not stem.startswith("sensorium"):
        return {}
    return {"linear": bool(LINEAR.search(stem)), "input_shape": [1, 36, 64]}


def _rows(names: Collection[str]) -> dict[str, int]:
    return {name: row for row, name in enumerate(names, 1)}

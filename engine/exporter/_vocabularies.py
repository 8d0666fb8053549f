"""What the rows of a model's tables are called."""

from __future__ import annotations

from typing import NamedTuple


class Vocabularies(NamedTuple):
    """Ids to rows, from 1 on."""

    units: dict[str, int]
    sessions: dict[str, int]

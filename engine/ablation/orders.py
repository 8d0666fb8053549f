"""Which items matter: functions that give every item a score, from the time to rank on.

``attention`` looks at what the model attends to; ``rate`` at the spikes alone; ``effect`` removes
each item by itself and so uses the true values; a list is what the user knows. A score is the more,
the more important.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..analysis import Windows, attention_of_units, observe
from ..capture import Capture
from ..recordings import Recording
from ..runtime import Engine
from .data import Data

Floats = NDArray[np.float64]

FIGURES = ("sum", "lift")
TOKENS = ("spikes", "all")
LAYERS = ("encoder", "readout")
NAMES = ("attention", "rate", "effect", "output", "list:FILE")


@dataclass(frozen=True)
class Order:
    """How items are ranked.

    Attributes:
        name: One of :data:`NAMES`, ``list`` without its file.
        figure: Of attention: its ``sum``, or the ``lift``, share of it over share of tokens.
        tokens: Of attention: that on ``spikes``, or on ``all`` tokens.
        layer: Of attention: what the ``encoder`` attends to, every latent counting the same, or
            ``readout`` weighted, the rollout from queries to units (all tokens, always).
        path: Of a list: its file, the most important first.
    """

    name: str
    figure: str = "sum"
    tokens: str = "spikes"
    layer: str = "encoder"
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Order:
        """Read ``NAME``, ``attention[:sum|lift][:spikes|all][:encoder|readout]`` or ``list:FILE``.

        Raises:
            AttendriteError: None of these.
        """
        name, _, rest = text.partition(":")
        if name == "list" and rest:
            return cls(name, path=rest)
        options = rest.split(":") if rest else []
        if name not in NAMES or (options and name != "attention"):
            known = [*NAMES, "attention:lift", "attention:sum:all", "attention:readout"]
            errors.choice("order", text, known)
        out: dict[str, str] = {}
        for option in options:
            kinds = {"figure": FIGURES, "tokens": TOKENS, "layer": LAYERS}
            found = [kind for kind, known in kinds.items() if option in known]
            if not found or found[0] in out:
                errors.choice("option of attention", option, [*FIGURES, *TOKENS, *LAYERS])
                raise errors.must("options of attention", "be one of a kind", repr(rest))
            out[found[0]] = option
        if out.get("layer") == "readout":
            if out.get("tokens") == "spikes":
                raise errors.must("tokens of attention:readout", "be all", "spikes")
            out["tokens"] = "all"
        return cls(name, **out)

    @property
    def uses_labels(self) -> bool:
        """Whether the true values decide."""
        return self.name == "effect"

    def __str__(self) -> str:
        if self.name == "list":
            return "list"
        if self.name != "attention":
            return self.name
        return ":".join([self.name, self.figure, self.tokens, self.layer])


def scores(
    order: Order,
    engine: Engine,
    recording: Recording,
    data: Data,
    site: str,
    names: tuple[str, ...],
    effects: Callable[[], Floats],
    *,
    session: str | None = None,
    batch_size: int = 16,
) -> Floats:
    """Score the items of a site on the windows of ``data``, ``[U]``.

    Args:
        order: How.
        engine: The model.
        recording: Where the windows are from.
        data: Windows to rank on.
        site: What items are.
        names: Of the items.
        effects: Computes what the metric loses when each item alone is removed.
        session: The bundle's name for the recording; default the recording's own.
        batch_size: Windows per forward.

    Raises:
        AttendriteError: An order that this site does not have, or a list that does not fit.
    """
    allowed = {"units": ("attention", "rate"), "heads": ("output",), "layers": ("output",)}
    errors.choice(f"order of {site}", order.name, (*allowed.get(site, ()), "effect", "list"))
    if order.name == "effect":
        return effects()
    if order.name == "list":
        return listed(Path(order.path), names)
    if order.name == "rate":
        return spikes(data)
    if order.name == "output":
        return _outputs(engine, data, site, batch_size)
    return _attention(order, engine, recording, data, session, batch_size)


def spikes(data: Data) -> Floats:
    """Count the spikes of each unit in the windows, ``[U]``; the frames of traces."""
    size = len(data.batch.unit_ids)
    units = getattr(data.batch, "units", None)
    if units is None:
        raise errors.must("the order of fluorescence", "not be rate", "rate", "traces have no rate")
    return np.bincount(units, minlength=size).astype(np.float64)


def listed(path: Path, names: tuple[str, ...]) -> Floats:
    """Score items by their place in a file: a name a line, or the first column of a CSV.

    Raises:
        AttendriteError: A name that is not known, or twice, or one that is missing.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
    if lines and lines[0] in ("unit", "item", "name") and lines[0] not in names:
        lines = lines[1:]
    place = {name: i for i, name in enumerate(names)}
    for i, name in enumerate(lines):
        if name not in place:
            raise errors.must(f"line {i + 1} of {path}", "name an item", repr(name), names[0])
    if len(set(lines)) < len(lines):
        twice = next(name for name in lines if lines.count(name) > 1)
        raise errors.must(f"names in {path}", "occur once", f"{twice!r} twice")
    missing = [name for name in names if name not in set(lines)]
    if missing:
        raise errors.must(f"{path}", "name every item", f"none of {missing[0]!r}")
    out = np.zeros(len(names))
    out[[place[name] for name in lines]] = np.arange(len(lines), 0, -1)
    return out


def named(given: Any, names: tuple[str, ...]) -> Floats:
    """Take scores by name from a mapping or a pandas Series.

    Raises:
        AttendriteError: An item without a score, or a score of no item.
    """
    table = dict(given)
    if set(table) != set(names):
        odd = sorted(set(map(str, table)) ^ set(names))[0]
        raise errors.must("scores", f"be of the {len(names)} items", f"{odd!r} on one side only")
    return np.array([float(table[name]) for name in names])


def _attention(
    order: Order,
    engine: Engine,
    recording: Recording,
    data: Data,
    session: str | None,
    batch_size: int,
) -> Floats:
    windows = Windows(data.starts, engine.manifest.sequence_length)
    observed = observe(
        engine, recording, windows, session=session, task=data.task, batch_size=batch_size
    )
    table = attention_of_units(observed)
    if order.layer == "readout":
        name = "rollout" if order.figure == "sum" else "rollout_lift"
    else:
        name = f"{order.figure}_{order.tokens}"
    return np.asarray(table[name], np.float64)


def _outputs(engine: Engine, data: Data, site: str, batch_size: int) -> Floats:
    """Return the mean norm of what heads, or the heads of a layer, add to their layer."""
    capture = Capture({"*": "head_output"})
    total: dict[str, Any] = {}
    for first in range(0, len(data), batch_size):
        batch = data.batch.part(first, min(first + batch_size, len(data)))
        found = engine.run(batch, capture).attention
        assert found is not None
        for each in engine.sites:
            output = found[each.name, "head_output"].astype(np.float64)  # [B, H, Q, D]
            if site == "layers":
                output = output.sum(1, keepdims=True)
            norm = np.linalg.norm(output, axis=3).mean(2).sum(0)
            total[each.name] = total.get(each.name, 0) + norm / len(data)
    kept = [s.name for s in engine.sites if site == "heads" or s.residual]
    return np.concatenate([total[name] for name in kept])

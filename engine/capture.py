"""What to return of a model's attention, and what came back.

A site is a named attention layer of a family; a statistic is one of :data:`STATISTICS`, defined in
:mod:`attendrite.kernels.attention`. ``Capture({"processor.*": "per_key", "encoder": ["per_unit",
"entropy"]})`` asks; an :class:`AttentionRecord` answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import errors

# Axes of each array that a statistic returns, by the name it is stored under.
STATISTICS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "weights": {"weights": ("window", "head", "query", "key")},
    "per_key": {"per_key": ("window", "head", "key")},
    "per_unit": {"per_unit": ("window", "head", "unit")},
    "per_query_unit": {"per_query_unit": ("window", "head", "query", "unit")},
    "entropy": {"entropy": ("window", "head", "query")},
    "lse": {"lse": ("window", "head", "query")},
    "top_k": {
        "top_k.weight": ("window", "head", "query", "rank"),
        "top_k.key": ("window", "head", "query", "rank"),
    },
    "partials": {
        "partials.lse": ("window", "head", "query", "unit"),
        "partials.output": ("window", "head", "query", "unit", "width"),
    },
    "lag": {"lag": ("window", "head", "query")},
    "head_output": {"head_output": ("window", "head", "query", "feature")},
}
NEED_UNITS = frozenset({"per_unit", "per_query_unit", "partials"})
NEED_TIMES = frozenset({"lag"})
TOKENS = ("all", "spikes")
_LACKING = {
    "latents": "site {} has latent keys, no units; ask per_key",
    "patches": "site {} has patches for keys, no units or times; ask per_key",
}
AXES = {name: axes for arrays in STATISTICS.values() for name, axes in arrays.items()}


@dataclass(frozen=True)
class Site:
    """A named attention layer.

    Attributes:
        name: ``encoder``, ``processor.3``, ``decoder``, ``block.0``.
        heads: Number of heads.
        width: Width of a head.
        keys: What its keys are: ``"tokens"`` of units, ``"latents"``, or ``"patches"`` of an image,
            a class token before them if there is one.
        residual: Whether its queries are its keys, and are added to what is attended to.
    """

    name: str
    heads: int
    width: int
    keys: Literal["tokens", "latents", "patches"]
    residual: bool = False

    @property
    def statistics(self) -> tuple[str, ...]:
        """The statistics that this site admits."""
        lacks = frozenset[str]() if self.keys == "tokens" else NEED_UNITS
        if self.keys == "patches":
            lacks |= NEED_TIMES
        return tuple(s for s in STATISTICS if s not in lacks)


@dataclass(frozen=True)
class Request:
    """One statistic asked for: ``tokens`` counts for statistics per unit, ``k`` for ``top_k``."""

    statistic: str
    tokens: Literal["all", "spikes"] = "all"
    k: int = 0

    @classmethod
    def parse(cls, text: str) -> Request:
        """Read ``STATISTIC`` or ``STATISTIC:OPTION``, for example ``top_k:10``.

        Raises:
            AttendriteError: Unknown statistic, or an option it does not have.
        """
        name, colon, option = text.partition(":")
        errors.choice("statistic", name, STATISTICS)
        if name == "top_k":
            if not option.isascii() or not option.isdigit() or int(option) < 1:
                raise errors.must("top_k", "have a number of keys", repr(text), "write top_k:10")
            return cls(name, k=int(option))
        if not colon:
            return cls(name)
        if name not in NEED_UNITS:
            raise errors.must(f"statistic {name!r}", "have no option", repr(option), f"ask {name}")
        errors.choice(f"option of {name}", option, TOKENS)
        return cls(name, tokens="all" if option == "all" else "spikes")

    def __str__(self) -> str:
        option = f":{self.k}" if self.k else ":spikes" if self.tokens == "spikes" else ""
        return self.statistic + option


class Capture:
    """Which statistics to return at which sites.

    Args:
        wanted: Site to statistic, or to several; a site is exact or holds ``*``.

    Example:
        >>> Capture({"processor.*": "per_key", "encoder": ["per_unit:spikes", "entropy"]})
        Capture('processor.*:per_key', 'encoder:per_unit:spikes', 'encoder:entropy')
    """

    def __init__(self, wanted: Mapping[str, str | Sequence[str]]) -> None:
        self._wanted = [
            (site, Request.parse(text))
            for site, texts in wanted.items()
            for text in ([texts] if isinstance(texts, str) else texts)
        ]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Capture:
        """Read the command line's form, ``SITE:STATISTIC[:OPTION]`` each.

        Raises:
            AttendriteError: Not of that form.
        """
        wanted: dict[str, list[str]] = {}
        for text in texts:
            site, _, rest = text.partition(":")
            if not site or not rest:
                raise errors.must("a capture", "read SITE:STATISTIC[:OPTION]", repr(text))
            wanted.setdefault(site, []).append(rest)
        return cls(wanted)

    def __repr__(self) -> str:
        return f"Capture({', '.join(repr(f'{site}:{r}') for site, r in self._wanted)})"

    def plan(self, sites: Sequence[Site]) -> dict[str, dict[str, Request]]:
        """Resolve the patterns: site name to statistic name to request, in the order of ``sites``.

        Raises:
            AttendriteError: A pattern matches no site, a site does not admit the statistic, or one
                statistic is asked for with two options at one site.
        """
        plan: dict[str, dict[str, Request]] = {}
        for pattern, request in self._wanted:
            expression = re.compile(".*".join(map(re.escape, pattern.split("*"))))
            found = [site for site in sites if expression.fullmatch(site.name)]
            if not found:
                errors.choice("site", pattern, [site.name for site in sites])
            for site in found:
                if request.statistic not in site.statistics:
                    raise errors.AttendriteError(_LACKING[site.keys].format(repr(site.name)))
                known = plan.setdefault(site.name, {}).setdefault(request.statistic, request)
                if known != request:
                    raise errors.must(
                        f"{request.statistic} at {site.name!r}",
                        "be asked for once",
                        f"{known} and {request}",
                        "run twice",
                    )
        return {site.name: plan[site.name] for site in sites if site.name in plan}


@dataclass(frozen=True)
class TokenTable:
    """The tokens behind the key axis of a site, in the order of that axis.

    Attributes:
        unit: Index into ``unit_ids``, ``[B, K]``, int32; 0 on padding, as in ``type`` and ``time``.
        type: 0 spike (or frame), 1 START, 2 END, ``[B, K]``, int8.
        time: Seconds from the start of the window, ``[B, K]``, float64.
        lengths: Tokens of each window, ``[B]``, int64; the rest of a row is padding.
    """

    unit: NDArray[np.int32]
    type: NDArray[np.int8]
    time: NDArray[np.float64]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class AttentionRecord:
    """What a capture brought back.

    ``record["encoder", "per_unit"]`` is an array, ``record.axes("per_unit")`` names its axes. Sums
    run over queries (those that exist), they are not means.

    Attributes:
        values: By site and array name; ``top_k`` gives ``top_k.weight`` and ``top_k.key``,
            ``partials`` gives ``partials.lse`` and ``partials.output``.
        tokens: By site, where keys are tokens.
        unit_ids: Names along the axis ``unit``.
        requests: By site and statistic, what was asked, options included.
    """

    values: Mapping[tuple[str, str], NDArray[Any]]
    tokens: Mapping[str, TokenTable] = field(default_factory=dict)
    unit_ids: tuple[str, ...] = ()
    requests: Mapping[str, Mapping[str, Request]] = field(default_factory=dict)

    def __getitem__(self, key: tuple[str, str]) -> NDArray[Any]:
        errors.choice("captured statistic", key, self.values)
        return self.values[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    @staticmethod
    def axes(name: str) -> tuple[str, ...]:
        """Name the axes of an array, for example ``("window", "head", "unit")``."""
        errors.choice("captured array", name, AXES)
        return AXES[name]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything under the names of a run's output file, ``attention/<site>/<name>``."""
        out = {f"attention/{site}/{name}": x for (site, name), x in self.values.items()}
        for site, table in self.tokens.items():
            for part in ("unit", "type", "time", "lengths"):
                out[f"attention/{site}/tokens.{part}"] = getattr(table, part)
        return out


def concatenate(records: Sequence[AttentionRecord]) -> AttentionRecord:
    """Join records of consecutive windows; the key axis is padded with 0 to the longest."""
    first = records[0]
    values = {
        key: _stack([r.values[key] for r in records], _key_axis(key[1])) for key in first.values
    }
    tokens = {
        site: TokenTable(
            *(
                _stack([getattr(r.tokens[site], part) for r in records], axis)
                for part, axis in (("unit", 1), ("type", 1), ("time", 1), ("lengths", None))
            )
        )
        for site in first.tokens
    }
    return AttentionRecord(values, tokens, first.unit_ids, first.requests)


def _key_axis(name: str) -> int | None:
    return AXES[name].index("key") if "key" in AXES[name] else None


def _stack(parts: Sequence[NDArray[Any]], axis: int | None) -> NDArray[Any]:
    if axis is not None:
        longest = max(part.shape[axis] for part in parts)
        pads = [[(0, 0)] * part.ndim for part in parts]
        for part, pad in zip(parts, pads, strict=True):
            pad[axis] = (0, longest - part.shape[axis])
        parts = [np.pad(part, pad) for part, pad in zip(parts, pads, strict=True)]
    return np.concatenate(parts)

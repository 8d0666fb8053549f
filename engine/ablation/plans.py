"""What is removed: numbered conditions, each a set of items kept and a way to remove the others.

Items are units, or heads, latents of a step, processor layers. A plan is made of curves: a ranking
of the items, first removed first, and how many of them are gone at each point. A curve of one point
is a single condition: one unit, one group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors

SITES = ("units", "heads", "latents", "layers")
METHODS = ("remove", "silence", "shuffle_time", "mean_rate")
THIN = "thin"  # as many spikes as the ranking holds up to there, drawn from all units
ENDS = ("top", "bottom", "keep")
ALL_OF = 50  # items up to which every number removed is a point
POINTS = 40  # of a curve over more items


@dataclass(frozen=True, eq=False)
class Plan:
    """Conditions of one sweep: ``P`` curves of ``C`` points over ``U`` items.

    Condition ``p * C + c`` removes the first ``removed[p, c]`` items of ``order[p]``.

    Attributes:
        site: What items are, one of :data:`SITES`.
        items: Their names, ``[U]``.
        names: Kind of each curve, ``ranked`` or a null, ``[P]``.
        labels: What a single condition is of, a unit or a group; else empty, ``[P]``.
        draws: Number of a curve within its kind, ``[P]``, int64.
        methods: How a curve removes, one of :data:`METHODS` or :data:`THIN`, ``[P]``.
        order: First removed first, ``[P, U]``, int64.
        removed: Number of items removed, ``[P, C]``, int64, not falling along a curve.

    Raises:
        AttendriteError: An unknown site or method, a ranking that does not hold every item once, or
            numbers out of range; all items removed, where attention would be over nothing.
    """

    site: str
    items: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    draws: NDArray[np.int64]
    methods: tuple[str, ...]
    order: NDArray[np.int64]
    removed: NDArray[np.int64]

    def __post_init__(self) -> None:
        errors.choice("site", self.site, SITES)
        known = (*METHODS, THIN) if self.site == "units" else METHODS[:1]
        for method in set(self.methods):
            errors.choice(f"method for {self.site}", method, known)
        size, count = len(self.items), len(self.names)
        errors.shape("order", self.order, [count, size])
        errors.shape("removed", self.removed, [count, "C"])
        errors.shape("draws", self.draws, [count])
        if {len(self.labels), len(self.methods)} != {count}:
            raise errors.must("labels and methods", f"be {count}, one per curve", "others")
        bad = np.flatnonzero((np.sort(self.order, 1) != np.arange(size)).any(1))
        if bad.size:
            raise errors.must(f"ranking {bad[0]}", "hold every item once", self.order[bad[0]])
        if (np.diff(self.removed, axis=1) < 0).any():
            raise errors.must("numbers removed", "rise along a curve", "some that fall")
        most = np.array([size - (method == "remove") for method in self.methods])
        outside = np.argwhere((self.removed < 0) | (self.removed > most[:, None]))
        if outside.size:
            p, c = (int(i) for i in outside[0])
            raise errors.must(
                f"the number removed by {self.methods[p]}",
                f"lie in 0..{most[p]} of {size} {self.site}",
                self.removed[p, c],
                "attention over nothing is not defined" if self.removed[p, c] == size else "",
            )

    def __len__(self) -> int:
        """Return the number of conditions, ``P C``."""
        return self.removed.size

    def kept(self, condition: int) -> NDArray[np.bool_]:
        """Return which items a condition keeps, ``[U]``, bool."""
        p, c = divmod(condition, self.removed.shape[1])
        out = np.ones(len(self.items), np.bool_)
        out[self.order[p, : self.removed[p, c]]] = False
        return out

    def part(self, start: int, stop: int) -> Plan:
        """Return curves ``start..stop-1``."""
        cut = slice(start, stop)
        return Plan(
            self.site, self.items, self.names[cut], self.labels[cut], self.draws[cut],
            self.methods[cut], self.order[cut], self.removed[cut],
        )  # fmt: skip

    def curves(self, name: str) -> NDArray[np.int64]:
        """Return the numbers of the curves of a kind."""
        return np.flatnonzero(np.array(self.names) == name)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        return {
            "site": self.site,
            "items": list(self.items),
            "names": list(self.names),
            "labels": list(self.labels),
            "draws": self.draws.tolist(),
            "methods": list(self.methods),
            "order": self.order.tolist(),
            "removed": self.removed.tolist(),
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Plan:
        """Read what :meth:`to_json` wrote.

        Raises:
            AttendriteError: A part is missing or unsound.
        """
        try:
            size, count = len(table["items"]), len(table["names"])
            return cls(
                str(table["site"]),
                tuple(map(str, table["items"])),
                tuple(map(str, table["names"])),
                tuple(map(str, table["labels"])),
                np.array(table["draws"], np.int64),
                tuple(map(str, table["methods"])),
                np.array(table["order"], np.int64).reshape(count, size),
                np.array(table["removed"], np.int64).reshape(count, -1),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, errors.AttendriteError):
                raise
            raise errors.must("a plan", "hold what Plan.to_json writes", error) from None

    @property
    def sha256(self) -> str:
        """Hash of what the plan says."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve before it is part of a plan; attributes as those of :class:`Plan`."""

    name: str
    draw: int
    method: str
    order: NDArray[np.int64]
    removed: NDArray[np.int64]
    label: str = ""


def plan(site: str, items: Sequence[str], curves: Sequence[Curve]) -> Plan:
    """Number curves in the order in which they are given.

    Raises:
        AttendriteError: None, curves with other numbers of points, or as :class:`Plan`.
    """
    if not curves:
        raise errors.must("curves of a plan", "be at least one", "none")
    points = {len(curve.removed) for curve in curves}
    if len(points) > 1:
        raise errors.must("curves of a plan", "have as many points each", sorted(points))
    return Plan(
        site,
        tuple(items),
        tuple(curve.name for curve in curves),
        tuple(curve.label for curve in curves),
        np.array([curve.draw for curve in curves], np.int64),
        tuple(curve.method for curve in curves),
        np.stack([curve.order for curve in curves]).astype(np.int64),
        np.stack([curve.removed for curve in curves]).astype(np.int64),
    )


def points(n_items: int, method: str) -> NDArray[np.int64]:
    """Return the numbers removed at which a curve is computed: all, or some that hold the half.

    ``remove`` ends one short of all items, the others with all.
    """
    most = n_items - (method == "remove")
    if n_items <= ALL_OF:
        return np.arange(most + 1)
    some = np.linspace(0, most, POINTS).round().astype(np.int64)
    return np.unique(np.concatenate([some, [1, 2, 3, n_items // 2]]))


def ranking(scores: NDArray[np.float64], end: str) -> NDArray[np.int64]:
    """Return items by score, first removed first; equal scores in the order of items.

    Args:
        scores: The more, the more important, ``[U]``; NaN counts as least.
        end: ``top`` removes the most important first, ``bottom`` and ``keep`` the least.
    """
    errors.choice("end to remove from", end, ENDS)
    known = np.where(np.isnan(scores), -np.inf, scores)
    from_top: NDArray[np.int64] = np.argsort(-known, kind="stable")
    return from_top if end == "top" else from_top[::-1].copy()


def alone(
    n_items: int, members: Sequence[NDArray[np.int64]]
) -> list[tuple[NDArray[np.int64], int]]:
    """Return for each set of items a ranking that begins with it, and its size."""
    out = []
    for some in members:
        rest = np.setdiff1d(np.arange(n_items), some)
        out.append((np.concatenate([some, rest]).astype(np.int64), len(some)))
    return out

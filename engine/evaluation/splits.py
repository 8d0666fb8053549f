"""Contiguous blocks of time for training, validation and test, with gaps between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .. import errors

Interval = tuple[float, float]
ROLES = ("training", "validation", "test")  # at a border, the earlier in this list gives the gap


@dataclass(frozen=True)
class Split:
    """Blocks of time and their use.

    Attributes:
        edges: Borders of the blocks, ``n + 1`` of them, seconds, rising.
        roles: Use of each block, one of :data:`ROLES`.
        gap: Time that is left out where the use changes, seconds: at a border with test time the
            other side gives it, at a border of training and validation the training side.
        length: Length of the windows that the split is made for, seconds.

    Raises:
        AttendriteError: A gap shorter than a window, an unknown use, no training or no test block.
    """

    edges: tuple[float, ...]
    roles: tuple[str, ...]
    gap: float
    length: float

    def __post_init__(self) -> None:
        errors.monotonic("edges", np.array(self.edges))
        if len(self.edges) != len(self.roles) + 1:
            raise errors.must("edges", f"be {len(self.roles) + 1}", len(self.edges))
        for role in self.roles:
            errors.choice("use of a block", role, ROLES)
        for role in ("training", "test"):
            if role not in self.roles:
                raise errors.must("blocks", f"hold a {role} block", self.roles)
        if self.gap < self.length:
            raise errors.must(
                "gap",
                f"be at least one window ({self.length:g} s)",
                f"{self.gap:g} s",
                "else a test window reaches into training time",
            )

    def intervals(self, role: str) -> list[Interval]:
        """Return the stretches of time of one use; neighbouring blocks are one stretch."""
        errors.choice("use of a block", role, ROLES)
        out = []
        for name, group in groupby(range(len(self.roles)), key=self.roles.__getitem__):
            blocks = list(group)
            first, last = blocks[0], blocks[-1]
            start = self.edges[first] + (self.gap if self._gives(first, first - 1) else 0)
            stop = self.edges[last + 1] - (self.gap if self._gives(last, last + 1) else 0)
            if name == role and stop > start:
                out.append((start, stop))
        return out

    def _gives(self, block: int, neighbour: int) -> bool:
        """Say whether this block leaves out the gap at its border with a neighbour."""
        if not 0 <= neighbour < len(self.roles):
            return False
        return ROLES.index(self.roles[block]) < ROLES.index(self.roles[neighbour])

    def refit(self) -> Self:
        """Return the split for the last fit, all choices made: validation joins training."""
        roles = tuple("training" if r == "validation" else r for r in self.roles)
        return replace(self, roles=roles)

    def fold(self, *blocks: int) -> Self:
        """Return the split in which these blocks of the training side alone are for validation.

        Raises:
            AttendriteError: A block does not exist or is for the test, or nothing would be left to
                train on.
        """
        sides = [i for i, role in enumerate(self.roles) if role != "test"]
        for block in blocks:
            errors.choice("block of the training side", block, sides)
        if set(blocks) == set(sides):
            raise errors.must("training side", "keep a block to train on", f"{len(sides)} in all")
        roles = ["test" if role == "test" else "training" for role in self.roles]
        for block in blocks:
            roles[block] = "validation"
        return replace(self, roles=tuple(roles))

    def folds(self) -> list[Self]:
        """Return one such split per block of the training side."""
        return [self.fold(i) for i, role in enumerate(self.roles) if role != "test"]

    def check(self, starts: NDArray[np.float64], stops: NDArray[np.float64]) -> None:
        """Refuse windows for testing that reach into training or validation time.

        Args:
            starts: ``[W]``, seconds.
            stops: ``[W]``, seconds.

        Raises:
            AttendriteError: With the first such window.
        """
        for start, stop in self.intervals("training") + self.intervals("validation"):
            bad = np.flatnonzero((starts < stop) & (stops > start))
            if bad.size:
                i = int(bad[0])
                raise errors.must(
                    "test windows",
                    "stay out of training time",
                    f"window {i}, {starts[i]:g} to {stops[i]:g} s, in {start:g} to {stop:g} s",
                )

    def to_json(self) -> dict[str, Any]:
        """Return the split as JSON can hold it, the test intervals beside the blocks."""
        return {
            "edges": list(self.edges),
            "roles": list(self.roles),
            "gap": self.gap,
            "length": self.length,
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            AttendriteError: A part is missing or unsound.
        """
        try:
            edges, roles = np.array(table["edges"], dtype=float), tuple(map(str, table["roles"]))
            gap, length = float(table["gap"]), float(table["length"])
            found = (*edges.tolist(), gap, length)
            errors.finite("times of a split", np.array(found))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise errors.must("a split", "have edges, roles, gap and length", error) from None
        return cls(found[:-2], roles, gap, length)


def split_blocks(
    times: NDArray[np.float64],
    domain: Interval,
    *,
    blocks: int,
    test: Collection[int],
    validation: Collection[int] = (),
    length: float,
    gap: float | None = None,
) -> Split:
    """Cut a recording into contiguous blocks that hold equally many samples.

    Args:
        times: Times at which there is something to decode, ``[S]``, seconds, sorted.
        domain: Start and stop of the recording, seconds; the outer blocks reach to them.
        blocks: Number of blocks; borders lie midway between the samples on either side.
        test: Blocks kept for the test, from 0.
        validation: Blocks of the training side on which choices are made.
        length: Length of a window, seconds.
        gap: Time left out where the use changes, seconds; default one window.

    Raises:
        AttendriteError: Fewer samples than blocks, a block that does not exist or has two uses, or
            as :class:`Split`.
    """
    errors.monotonic("times", times)
    if not 2 <= blocks <= len(times):
        raise errors.must("blocks", f"be 2 to {len(times)}, the number of samples", blocks)
    for name, chosen in (("test", test), ("validation", validation)):
        for block in chosen:
            errors.choice(f"{name} block", block, range(blocks))
    if set(test) & set(validation):
        raise errors.must("blocks", "have one use", f"{sorted(set(test) & set(validation))} twice")
    parts = np.array_split(times, blocks)
    borders = [(a[-1] + b[0]) / 2 for a, b in pairwise(parts)]
    edges = [min(domain[0], times[0]), *borders, max(domain[1], times[-1])]
    return Split(
        tuple(round(float(edge), 6) for edge in edges),
        tuple(_role(i, test, validation) for i in range(blocks)),
        length if gap is None else gap,
        length,
    )


def _role(block: int, test: Collection[int], validation: Collection[int]) -> str:
    return "test" if block in test else "validation" if block in validation else "training"


def describe(intervals: Sequence[Interval]) -> str:
    """Name intervals in one line: ``4525.1-4617.9, 4774.0-4875.2 s``."""
    return ", ".join(f"{start:.1f}-{stop:.1f}" for start, stop in intervals) + " s"

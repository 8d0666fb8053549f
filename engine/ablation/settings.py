"""What an ablation asks, in one value: every choice is a column of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import errors
from .data import Target
from .plans import ENDS, METHODS, SITES

NULLS = ("random", "rate", "count", "bottom")
DRAWS = 200
KINDS = ("nested", "single", "groups")


@dataclass(frozen=True)
class Settings:
    """The choices of an ablation.

    Attributes:
        target: What is decoded, and where.
        site: What is removed: ``units``, ``heads``, ``latents`` of a step, or ``layers`` (all heads
            of a processor layer).
        order: How items are ranked: a text as :meth:`attendrite.ablation.Order.parse` reads it; a
            score of each item by name (a mapping, a pandas Series); or a function of engine,
            recording and the windows to rank on (:class:`attendrite.ablation.Data`) that returns
            the scores, ``[U]``.
        end: ``top`` removes the most important first, ``bottom`` the least; ``keep`` is
            ``bottom`` read from its other end, the ``k`` most important alone.
        conditions: ``nested``: one after the other is removed; ``single``: each alone;
            ``groups:COLUMN``: all that have the same value in a column of the recording's units.
        method: How units are removed. ``remove``: all their tokens, START and END too, as if never
            recorded; ``silence``: their spikes; ``shuffle_time``: their spikes come at random times
            of the window; ``mean_rate``: they fire at random at their mean rate.
        metric: Its name, or a callable ``f(true, decoded)``; see :mod:`.metrics`.
        nulls: Name to number of rankings. ``random``: any order; ``rate``: units exchanged within
            strata of firing rate; ``count``: as many spikes, of any units; ``bottom``: reversed.
            Groups have ``random`` or ``rate``, and single conditions none.
        rank_on: Time to rank on, as :func:`attendrite.ablation.spans` reads it; default the
            bundle's training time, or odd tenths of the recording.
        eval_on: Time to evaluate on; default the bundle's test time, or even tenths.
        overlap: Allow them to overlap; orders that use true values are refused even so.
        points: Numbers removed; default all up to 50 items, else about 40.
        resamples: Of blocks, for intervals.
        seed: Of everything that is drawn.
        memory: Bytes that conditions may take at a time.

    Raises:
        AttendriteError: An unknown name, or a number out of range.
    """

    target: Target
    site: str = "units"
    order: str | Mapping[str, float] | Callable[..., Any] = "attention"
    end: str = "top"
    conditions: str = "nested"
    method: str = "remove"
    metric: str | Callable[..., Any] = "r2"
    nulls: Mapping[str, int] = field(
        default_factory=lambda: {"random": DRAWS, "rate": DRAWS, "bottom": 1}
    )
    rank_on: str | None = None
    eval_on: str | None = None
    overlap: bool = False
    points: tuple[int, ...] | None = None
    resamples: int = 2000
    seed: int = 0
    memory: int = 256 << 20

    def __post_init__(self) -> None:
        errors.choice("site", self.site, SITES)
        errors.choice("end to remove from", self.end, ENDS)
        errors.choice("method", self.method, METHODS)
        errors.choice("kind of conditions", self.kind, KINDS)
        if self.kind == "groups" and (self.site != "units" or not self.column):
            raise errors.must("groups", "be of units and name a column", self.conditions)
        for name, count in self.nulls.items():
            errors.choice("null", name, NULLS)
            if count < 1:
                raise errors.must(f"rankings of the null {name!r}", "be at least 1", count)
            if name in ("rate", "count") and self.site != "units":
                raise errors.must(f"nulls of {self.site}", "be random or bottom", name)
        if self.kind == "groups" and set(self.nulls) - {"random", "rate"}:
            raise errors.must("nulls of groups", "be random or rate", [*self.nulls])
        if self.kind == "single" and self.nulls:
            raise errors.must("nulls of single conditions", "be none", [*self.nulls],
                              "random or rate are of groups")  # fmt: skip
        if self.seed < 0:
            raise errors.must("seed", "be at least 0", self.seed)
        if self.resamples < 100:
            raise errors.must("resamples", "be at least 100", self.resamples)
        if self.memory < 1 << 20:
            raise errors.must("memory", "be at least 1 MiB", f"{self.memory} bytes")

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""
        return self.conditions.partition(":")[0]

    @property
    def column(self) -> str:
        """The column that names groups."""
        return self.conditions.partition(":")[2]

    @property
    def metric_name(self) -> str:
        """Name of the metric."""
        if isinstance(self.metric, str):
            return self.metric
        return getattr(self.metric, "__name__", type(self.metric).__name__)


def read_nulls(text: str) -> dict[str, int]:
    """Read ``NAME:COUNT,NAME,...``, or ``none``.

    Raises:
        AttendriteError: An unknown name, one twice, or a count that is none.
    """
    out: dict[str, int] = {}
    for part in [] if text == "none" else text.split(","):
        name, colon, count = part.partition(":")
        errors.choice("null", name, NULLS)
        if name in out or (colon and not (count.isascii() and count.isdigit())):
            raise errors.must("nulls", "be like random:200,rate:200,bottom", repr(text))
        out[name] = int(count) if colon else 1 if name == "bottom" else DRAWS
    return out

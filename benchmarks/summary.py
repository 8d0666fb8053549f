"""Plain text of measured rows, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rows import Row
from timing import Case

HAND_WRITTEN = ("attendrite", "numba")
"""Implementations that no library gives: ours, and loops written for the comparison."""


def baseline(rows: Sequence[Row], name: str | None = None, threads: int = 1) -> Row | None:
    """Return the row that others of its case are compared with, if it took part.

    Args:
        rows: Rows of one case.
        name: Its implementation; ``None``: the fastest library.
        threads: On how many threads.
    """
    if name is None:
        peers = [r for r in rows if not r["implementation"].startswith(HAND_WRITTEN)]
    else:
        peers = [r for r in rows if r["implementation"] == name]
    same = (row for row in peers if row["threads"] == threads)
    return min(same, key=lambda row: row["p50_ms"], default=None)


def title(row: Row, rows: Sequence[Row]) -> str:
    """Name an implementation, with its dtype where it takes part in several."""
    name: str = row["implementation"]
    several = {r["dtype"] for r in rows if (r["case"], r["implementation"]) == (row["case"], name)}
    return f"{name} {row['dtype']}" if len(several) > 1 else name


def table(case: Case, rows: Sequence[Row]) -> str:
    """Return an aligned table of one case: times, throughput, memory, error, ratio to a peer."""
    base = baseline(rows, case.baseline)
    head = ["implementation", "threads", "n", "p50 ms", "p20", "p80", "p99", f"M{case.unit}/s"]
    head += ["extra MiB", "error", f"x {base['implementation']}" if base else ""]
    lines = [head] + [
        [title(row, rows), *_line(row, base)] for row in sorted(rows, key=lambda r: r["p50_ms"])
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    skipped = [f"skipped: {name} ({reason})" for name, reason in case.skipped.items()]
    return "\n".join(["", case.name, *text, *skipped])


def _line(row: Row, base: Row | None) -> list[str]:
    mib = "-" if row["extra_mib"] is None else f"{row['extra_mib']:.1f}"
    ratio = f"{base['p50_ms'] / row['p50_ms']:.2f}" if base else ""
    times = [f"{row[key]:.4g}" for key in ("p50_ms", "p20_ms", "p80_ms", "p99_ms")]
    rate = f"{row['throughput']:.4g}"
    return [
        str(row["threads"]), str(row["n"]), *times, rate, mib,
        f"{row['error']:.2g}", ratio,
    ]  # fmt: skip

"""Tables of the demo's scores: rows that ``attendrite demo --json`` prints, one per method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OPTIONS = {"task", "selection", "show"}
Line = dict[str, Any]


def load(path: Path) -> list[Line]:
    """Read a file of scores."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def choose(lines: Sequence[Line], asked: Mapping[str, str]) -> list[Line]:
    """Return the lines of one task and one selection of samples, the first where none is named.

    Raises:
        ValueError: There are none.
    """
    chosen = [line for line in lines if line["task"] == asked.get("task")]
    wanted = asked.get("selection", chosen[0]["selection"] if chosen else "")
    if not (chosen := [line for line in chosen if line["selection"] == wanted]):
        tasks = " ".join(dict.fromkeys(f"{x['task']}/{x['selection']}" for x in lines))
        raise ValueError(f"a marker of demo must name task and selection of {tasks}")
    return chosen


def cells(lines: Sequence[Line], show: str | None) -> tuple[list[str], list[list[str]]]:
    """Return head and cells: the scores, or with ``show`` the ``settings`` that were chosen."""
    return _settings(lines) if show == "settings" else _scores(lines)


def source(lines: Sequence[Line]) -> str:
    """Say what the scores are of and what made them."""
    first = lines[0]
    seeds = next(line["seeds"] for line in lines if line["seeds"])
    made = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    return (
        f"{first['samples']} held-out samples ({first['selection']}), windows of "
        f"{first['window_s']:g} s; mean over {len(seeds)} training seeds [lowest, highest]; {made}."
    )


def _scores(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    by = {(line["method"], line["support"]): line for line in lines}
    methods, supports = (list(dict.fromkeys(key[i] for key in by)) for i in (0, 1))
    head = ["held-out R2"]
    for support in supports:
        head += [f"{support} {column}" for column in lines[0]["columns"]]
        head.append(f"{support} median error, {lines[0]['unit']}")
    rows = []
    for method in methods:
        row = [method]
        for support in supports:
            line = by[method, support]
            row += [_spread(values, 2) for values in zip(*line["r2"], strict=True)]
            row.append(_spread(line["median_error"], 1))
        rows.append(row)
    return head, rows


def _settings(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            line["method"],
            line["support"],
            ", ".join(f"{k} {v}" for k, v in line["settings"].items()),
        ]
        for line in lines
        if line["settings"]
    ]
    return ["method", "support", "chosen on training time"], rows


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{sum(values) / len(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} [{min(values):.{digits}f}, {max(values):.{digits}f}]"

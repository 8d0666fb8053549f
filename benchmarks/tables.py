"""Tables of the documents, from committed rows: ``python benchmarks/tables.py [--check]``.

A document marks the place::

    <!-- rows: binning case=binning/dense_20ms* relative=numpy_bincount -->
    <!-- end -->

The first word is the suite; ``case`` and ``implementation`` choose rows by patterns (several with
``|``), ``dtype`` likewise (then peers of other dtypes are no measure), ``threads`` by number,
``relative`` names the peer that the others are compared with
(default: the fastest library of the case), ``show=error`` gives one column of errors for each case
instead of times, ``show=tail`` the slowest calls. The suite ``demo`` has scores instead of times:
``task`` and ``selection`` choose, ``show=settings`` gives the settings of the baselines.

What stands between the markers is replaced; ``--check`` changes nothing and fails where a document
is not what the rows say.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import scores  # noqa: E402
from rows import RESULTS, ROOT, Row, load  # noqa: E402
from summary import baseline, title  # noqa: E402

MARKED = re.compile(r"(<!-- rows: ([^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
OPTIONS = {"case", "implementation", "dtype", "threads", "relative", "show"}


def documents() -> list[Path]:
    """Return the Markdown files of the repository's top and of its ``docs``."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def fill(text: str, results: Path = RESULTS) -> str:
    """Return a document with its marked tables made anew.

    Raises:
        ValueError: A marker names rows that do not exist, or an unknown option.
    """
    return MARKED.sub(lambda m: f"{m[1]}{table(m[2], results)}\n{m[3]}", text)


def table(marker: str, results: Path) -> str:
    """Return the table that a marker asks for, as Markdown.

    Raises:
        ValueError: There are no such rows, or an option is unknown.
    """
    suite, *words = marker.split()
    asked = dict(word.partition("=")[::2] for word in words)
    known = scores.OPTIONS if suite == "demo" else OPTIONS
    if unknown := asked.keys() - known:
        raise ValueError(f"unknown option {min(unknown)!r}; known: {', '.join(sorted(known))}")
    path = results / f"{suite}.jsonl"
    if not path.exists():
        raise ValueError(
            f"rows of {suite!r} must exist; python benchmarks/run.py {suite} --json {path}"
        )
    if suite == "demo":
        lines = scores.choose(scores.load(path), asked)
        return f"{_markdown(*scores.cells(lines, asked.get('show')))}\n\n{scores.source(lines)}"
    every = load(path)
    if "dtype" in asked:
        every = [row for row in every if fnmatchcase(row["dtype"], asked["dtype"])]
    chosen = [row for row in every if _chosen(row, asked)]
    if not chosen:
        raise ValueError(f"a marker must choose rows, got none for {marker!r}")
    make = {"error": _errors, "tail": _tails}.get(asked.get("show", ""), _times)
    return f"{make(chosen, every, asked.get('relative'))}\n\n{_source(chosen)}"


def _chosen(row: Row, asked: dict[str, str]) -> bool:
    def fits(name: str) -> bool:
        return any(fnmatchcase(row[name], p) for p in asked.get(name, "*").split("|"))

    threads = int(asked.get("threads", row["threads"]))
    return fits("case") and fits("implementation") and row["threads"] == threads


def _times(chosen: Sequence[Row], every: Sequence[Row], relative: str | None) -> str:
    lines = []
    for case in dict.fromkeys(row["case"] for row in chosen):
        all_of = [row for row in every if row["case"] == case]
        for row in sorted((r for r in chosen if r["case"] == case), key=lambda r: r["p50_ms"]):
            base = baseline(all_of, relative, row["threads"]) or baseline(all_of, relative)
            lines.append(_time_cells(row, title(row, every), base))
    head = ["case", "implementation", "threads", "median", "p99", "throughput", "times faster"]
    return _markdown(head, lines)


def _time_cells(row: Row, name: str, base: Row | None) -> list[str]:
    ratio = f"{base['p50_ms'] / row['p50_ms']:.3g} x {base['implementation']}" if base else ""
    rate = _rate(row["throughput"], row["throughput_unit"])
    spent = [_duration(row["p50_ms"]), _duration(row["p99_ms"])]
    return [row["case"], f"`{name}`", str(row["threads"]), *spent, rate, ratio]


def _tails(chosen: Sequence[Row], _every: Sequence[Row], _relative: str | None) -> str:
    fields = ("p50_ms", "p80_ms", "p99_ms", "p999_ms", "max_ms")
    lines = [
        [row["case"], f"`{row['implementation']}`", str(row["n"])]
        + ["" if row[field] is None else _duration(row[field]) for field in fields]
        for row in chosen
    ]
    head = ["case", "implementation", "calls", "median", "p80", "p99", "p99.9", "slowest"]
    return _markdown(head, lines)


def _errors(chosen: Sequence[Row], _every: Sequence[Row], _relative: str | None) -> str:
    cases = list(dict.fromkeys(row["case"] for row in chosen))
    found = {(row["implementation"], row["case"]): row["error"] for row in chosen}
    names = sorted(
        {name for name, _ in found},
        key=lambda n: (max(found.get((n, c), 0) for c in cases), n),
    )
    lines = [
        [f"`{name}`", *(_percent(found.get((name, case))) for case in cases)] for name in names
    ]
    return _markdown(["implementation", *cases], lines)


def _source(rows: Sequence[Row]) -> str:
    """Say where the rows were measured; rows of several runs name each."""
    runs = dict.fromkeys((row["cpu"], row["gpu"], row["commit"], row["date"][:10]) for row in rows)
    said = [
        f"{gpu or cpu}, commit {commit or 'unknown'}, {date}" for cpu, gpu, commit, date in runs
    ]
    return f"Measured on {'; '.join(said)}."


def _duration(ms: float) -> str:
    if ms >= 1e3:
        return f"{ms / 1e3:.3g} s"
    return f"{ms * 1e3:.3g} us" if ms < 1 else f"{ms:.3g} ms"


def _rate(millions: float, unit: str) -> str:
    """Write millions of something a second, ``Mspikes/s``, with the prefix that fits."""
    for factor, prefix in ((1e-3, "G"), (1.0, "M"), (1e3, "k")):
        if millions * factor >= 1:
            return f"{millions * factor:.3g} {prefix}{unit.removeprefix('M')}"
    return f"{millions * 1e6:.3g} {unit.removeprefix('M')}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3g} %"


def _markdown(head: list[str], lines: Sequence[list[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def update(
    paths: Sequence[Path],
    write: Callable[[Path, str], object] | None,
    results: Path = RESULTS,
) -> list[Path]:
    """Return the documents whose tables are not what the rows say; ``write`` mends each."""
    stale = []
    for path in paths:
        text = path.read_text()
        filled = fill(text, results)
        if filled != text:
            stale.append(path)
            if write is not None:
                write(path, filled)
    return stale


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail where stale")
    check = parser.parse_args(arguments).check
    try:
        stale = update(documents(), None if check else Path.write_text)
    except ValueError as error:
        print(f"tables: {error}", file=sys.stderr)
        return 2
    for path in stale:
        print(
            f"{path.relative_to(ROOT)}: {'stale; run benchmarks/tables.py' if check else 'updated'}"
        )
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())

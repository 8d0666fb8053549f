"""Removal on the bundled track recording: ``python benchmarks/removal.py [-o FOLDER]``.

``attendrite ablate`` with its three nulls for each of the three models of the linear track, units
by summed attention. Work comes in shards: stop it with Ctrl-C, go on with the same command. Rows,
one for each model, go to ``benchmarks/results/removal.jsonl``; figure and
tables of documents (``<!-- removal -->`` to ``<!-- end -->``) are made from rows, also with
``--rows``, which computes nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import attendrite
import matplotlib
from attendrite import Engine
from attendrite.ablation import Settings, Target, ablate
from attendrite.commands.demo import DATA, SEEDS
from attendrite.report import INK, SOFT, STYLE
from matplotlib.figure import Figure
from rows import RESULTS, ROOT, machine, versions

Row = dict[str, Any]

ROWS = RESULTS / "removal.jsonl"
FIGURE = ROOT / "docs" / "removal.png"
MARKED = re.compile(r"(<!-- removal -->\n).*?(<!-- end -->)", re.DOTALL)
ORDER = "attention"
NULLS = {"random": 200, "rate": 200, "count": 200, "bottom": 1}
TESTED = ("random", "rate", "count")
TARGET = Target("position", within="moving")
COLOURS = {"random": "#5b6876", "rate": "#1b6ca8", "count": "#6f9a37"}
SAID = {"random": "any order", "rate": "units of the same rates", "count": "as many spikes"}
DIGITS = 4


def measure(seed: int, folder: Path) -> Row:
    """Ablate one model."""
    engine = Engine(DATA / f"linear_track_{seed}", threads=1)
    recording = attendrite.read(DATA / "linear_track.npz")
    settings = Settings(TARGET, order=ORDER, nulls=NULLS)
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{seed}_{ORDER}"
    found = ablate(engine, recording, settings, folder=own, progress=True)
    assert found.curve is not None
    assert found.blind is not None
    table = found.tables["curves"]
    mean = table["dimension"] == "mean"
    points = len(found.curve.removed)
    nulls = {}
    for name in TESTED:
        values = table["value"][mean & (table["curve"] == name)].reshape(-1, points)
        nulls[name] = rounded(np.quantile(values, (0.05, 0.5, 0.95), axis=0))
    tests = {
        name: {
            "p": float(test.p[0]),
            "verdict": test.verdict[0],
            "area": rounded([test.null_low[0], test.null_median[0], test.null_high[0]]),
        }
        for name, test in found.comparisons.items()
    }
    base = found.curve.baseline
    return {
        "suite": "removal",
        "seed": seed,
        "choices": found.meta["choices"],
        "items": found.meta["items"],
        "windows": found.meta["evaluated_on"]["windows"],
        "blocks": found.meta["evaluated_on"]["blocks"],
        "samples": found.meta["evaluated_on"]["samples"],
        "conditions": found.meta["conditions"],
        "removed": found.curve.removed.tolist(),
        "ranked": rounded(found.curve.values[:, 0]),
        "lowest": rounded(found.curve.band.lowest[:, 0]),
        "highest": rounded(found.curve.band.highest[:, 0]),
        "area": rounded(found.curve.area[0]),
        "half_loss": rounded(found.curve.half_loss[0]),
        "baseline": rounded([base.value[0], base.gain[0], base.low[0], base.high[0]]),
        "constant": rounded(base.constant[0]),
        "without_spikes": rounded(found.blind.value[0]),
        "nulls": nulls,
        "tests": tests,
        "versions": versions(("attendrite", "torch", "numpy", "numba")),
        **{name: machine()[name] for name in ("cpu", "commit", "dirty", "date")},
    }


def rounded(values: Any) -> Any:
    """Round for a row."""
    return np.round(values, DIGITS).tolist()


def figure(rows: list[Row]) -> Figure:
    """Draw removal, a panel for each model."""
    made = Figure(figsize=(9.4, 3.5), layout="constrained")
    panels = made.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for panel, row in zip(panels, rows, strict=True):
        x = row["removed"]
        for name in TESTED:
            low, median, high = row["nulls"][name]
            panel.fill_between(x, low, high, color=COLOURS[name], alpha=0.2, lw=0)
            panel.plot(x, median, color=COLOURS[name], lw=1.3, label=SAID[name])
        panel.plot(x, row["ranked"], color="#c1440e", lw=2, label="most attended to first")
        panel.axhline(row["constant"], color=INK, lw=0.8, ls=":", label="the training mean")
        panel.axvline(row["items"] / 2, color=SOFT, lw=0.8)
        panel.set_title(f"model {row['seed']}", fontsize=10)
        panel.set_xlabel("units removed")
        panel.margins(x=0.01)
    panels[0].set_ylim(-0.6, 1)
    panels[0].set_ylabel("R2 of position")
    made.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5,
                fontsize=8.5)  # fmt: skip
    return made


def table(rows: list[Row]) -> str:
    """Return the table of documents, as Markdown."""
    head = ["model", "R2 with all", "half lost from", "area lost"]
    head += [f"{SAID[name]}: area, p" for name in TESTED]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        line = [
            str(row["seed"]),
            f"{row['baseline'][0]:.2f}",
            f"{row['half_loss']:.0f}",
            f"{row['area']:.2f}",
        ]
        for name in TESTED:
            test = row["tests"][name]
            line.append(f"{test['area'][1]:.2f} [{test['area'][0]:.2f}, {test['area'][2]:.2f}], "
                        f"{test['p']:.3f}")  # fmt: skip
        lines.append(line)
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    first = rows[0]
    return (
        f"{text}\n\n{first['windows']} windows in {first['blocks']} blocks of held-out time, "
        f"{first['samples']} samples, {first['conditions']} conditions each. Areas of nulls: "
        f"median [5 %, 95 %] of 200 rankings. {first['cpu']}, commit {first['commit']}, "
        f"{first['date'][:10]}."
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, unless told not to, and make figure and tables anew."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("removal"), metavar="FOLDER",
                        help="of the run, made or continued; default %(default)s")  # fmt: skip
    parser.add_argument("--rows", action="store_true", help="compute nothing, use the rows")
    options = parser.parse_args(arguments)
    if not options.rows:
        found = [measure(seed, options.out) for seed in SEEDS]
        ROWS.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    with matplotlib.rc_context(STYLE):
        figure(rows).savefig(FIGURE, dpi=150)
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]):
        text = page.read_text(encoding="utf-8")
        new = MARKED.sub(lambda m: f"{m[1]}{table(rows)}\n{m[2]}", text)
        if new != text:
            page.write_text(new, encoding="utf-8")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

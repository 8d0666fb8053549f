"""A million noise images through a released model: what docs/fields.md shows of it.

    python benchmarks/million.py sensorium_sota_model.pth -o million

exports the checkpoint, runs ``attendrite fields`` on it, and writes row, figure and table. Stopped
at any time, the same command goes on. Memory is that of all processes of the command, what they
share counted once; it and the rate are of the last start. The checkpoint is one of
https://github.com/sinzlab/sensorium (MIT).
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
from rows import RESULTS, ROOT, machine

ROWS = RESULTS / "fields_million.jsonl"
PAGE, FIGURE = ROOT / "docs/fields.md", ROOT / "docs/fields_gallery.png"
MARKED = re.compile(r"(<!-- million -->\n).*?(<!-- end -->)", re.DOTALL)
IMAGES, SEED = 1_000_000, 1
MIB = 1 << 20


def measure(bundle: Path, folder: Path, processes: int) -> dict[str, Any]:
    """Run the command to its end and return what it cost."""
    mouse = next(iter(attendrite.Bundle.load(bundle).manifest.sessions))
    command = [
        sys.executable, "-m", "attendrite", "fields", str(bundle), "--mouse", mouse, "--images",
        str(IMAGES), "--seed", str(SEED), "--processes", str(processes), "--threads", "1", "-o",
        str(folder),
    ]  # fmt: skip
    before = shown(folder)
    began, most = time.monotonic(), 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            most = max(most, memory(process.pid))
            time.sleep(1)
    if process.returncode:
        raise SystemExit(process.returncode)
    seconds = time.monotonic() - began
    return {
        "images_of_this_start": IMAGES - before,
        "seconds_of_this_start": seconds,
        "peak_mib": most / MIB,
        "processes": processes,
    }


def shown(folder: Path) -> int:
    """Images that finished shards of an earlier start have."""
    found = list((folder / "shards").glob("*.npz"))
    if not found:
        return 0
    return round(len(found) * IMAGES / json.loads((folder / "run.json").read_text())["shards"])


def memory(pid: int) -> int:
    """Bytes of a process and of all below it, shared pages divided among those who share them."""
    total = 0
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total = 1024 * int(re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)[0])
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        children = {int(child) for task in tasks for child in task.read_text().split()}
    except (OSError, IndexError):  # it has just ended
        return total
    return total + sum(map(memory, children))


def summary(folder: Path) -> dict[str, Any]:
    """Return what the fields are like."""
    facts = json.loads((folder / "fields.json").read_text())
    with (folder / "units.csv").open(encoding="utf-8", newline="") as file:
        units = list(csv.DictReader(file))
    good = [unit for unit in units if unit["fit"] == "converged" and unit["significant"] == "True"]

    def quartiles(name: str) -> list[float]:
        values = [float(unit[name]) for unit in good]
        return np.percentile(values, [25, 50, 75]).tolist() if values else []

    return {
        "units": facts["units"],
        "images": facts["images"],
        "significant": sum(unit["significant"] == "True" for unit in units),
        "converged": len(good),
        "negative": sum(float(unit["amplitude"]) < 0 for unit in good),
        **{name: quartiles(name) for name in ("split_half", "linear", "sigma_x", "sigma_y")},
    }


def table(row: dict[str, Any]) -> str:
    """Return the table of the page, as Markdown."""

    def of(name: str) -> str:
        low, middle, high = row[name]
        return f"{middle:.3g} [{low:.3g}, {high:.3g}]"

    rate = row["images_of_this_start"] / row["seconds_of_this_start"]
    lines = [
        ("units with a significant pixel", f"{row['significant']} of {row['units']}"),
        ("of them with a fit", f"{row['converged']}, {row['negative']} of them negative (OFF)"),
        ("split-half correlation", of("split_half")),
        ("share of the variance that the linear field explains", of("linear")),
        ("width along the major axis, px", of("sigma_x")),
        ("along the minor axis, px", of("sigma_y")),
        ("images per second", f"{rate:.0f} on {row['processes']} processes of one thread"),
        ("memory of all processes", f"{row['peak_mib'] / 1024:.2f} GiB at most"),
    ]
    text = "\n".join(f"| {name} | {value} |" for name, value in lines)
    return (
        f"| | |\n| --- | --- |\n{text}\n\n{row['images']:,} images, seed {SEED}; medians "
        f"[quartiles] over units with a fit. {row['cpu']}, commit {row['commit']}, "
        f"{row['date'][:10]}."
    )


def main(arguments: list[str] | None = None) -> int:
    """Run, unless told not to, and make row, figure and table anew."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", help="sensorium_sota_model.pth")
    parser.add_argument("-o", "--out", type=Path, default=Path("million"), metavar="FOLDER",
                        help="of the run, made or continued; default %(default)s")  # fmt: skip
    parser.add_argument("--processes", type=int, default=2, help="default %(default)s")
    parser.add_argument("--rows", action="store_true", help="compute nothing, use the row")
    options = parser.parse_args(arguments)
    if not options.rows:
        if options.checkpoint is None:
            parser.error("name the checkpoint")
        bundle = options.out / "bundle"
        if not bundle.exists():
            options.out.mkdir(parents=True, exist_ok=True)
            attendrite.export(options.checkpoint, bundle)
        cost = measure(bundle, options.out / "fields", options.processes)
        row = {
            **summary(options.out / "fields"),
            **cost,
            "checkpoint": options.checkpoint.name,
            **machine(),
        }
        ROWS.write_text(json.dumps(row) + "\n", encoding="utf-8")
        shutil.copyfile(options.out / "fields" / "gallery.png", FIGURE)
    row = json.loads(ROWS.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARKED.sub(lambda m: f"{m[1]}{table(row)}\n{m[2]}", page), encoding="utf-8")
    print(table(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One measurement is one row, a JSON object on a line; tables and documents are made from rows."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Row = dict[str, Any]

FIELDS = (
    "suite", "case", "implementation", "dtype", "threads", "batch", "n",
    "p20_ms", "p50_ms", "p80_ms", "p99_ms", "p999_ms", "max_ms",
    "throughput", "throughput_unit", "extra_mib", "error",
    "cpu", "gpu", "versions", "commit", "dirty", "date",
)  # fmt: skip
FEWEST_FOR_P999 = 20_000


def quantiles(seconds: Sequence[float]) -> Row:
    """Return ``n`` and the quantile fields of timed calls, milliseconds."""
    ms = np.asarray(seconds) * 1e3
    found = {f"p{q}_ms": float(np.quantile(ms, q / 100)) for q in (20, 50, 80, 99)}
    tail = float(np.quantile(ms, 0.999)) if ms.size >= FEWEST_FOR_P999 else None
    return {"n": int(ms.size), **found, "p999_ms": tail, "max_ms": float(ms.max())}


@cache
def machine() -> Row:
    """Return the fields that say where and from what a row was measured."""
    return {
        "cpu": _cpu_name(),
        "gpu": _gpu_name(),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results")),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def load(path: Path) -> list[Row]:
    """Read a file of rows.

    Raises:
        ValueError: A line is not a row; says which.
    """
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        row = json.loads(line)
        if missing := [name for name in FIELDS if name not in row]:
            raise ValueError(f"{path}:{number} must have the fields {', '.join(missing)}")
        rows.append(row)
    return rows


def save(path: Path, rows: Sequence[Row]) -> None:
    """Write a file of rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text("".join(json.dumps({f: row[f] for f in FIELDS}) + "\n" for row in rows))
    beside.replace(path)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""  # an unpacked archive has no history
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({os.cpu_count()} CPUs)"


def _gpu_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None

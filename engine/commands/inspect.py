"""Say what a bundle holds: family, sizes, units, sessions, tasks, sites, training, files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .. import errors
from ..capture import Site

if TYPE_CHECKING:
    from ..bundle import Bundle

HELP = "say what a bundle holds"
SHOWN = 5  # ids listed before "..."


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite inspect``."""
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--json", action="store_true", help="machine-readable, nothing left out")
    parser.add_argument(
        "--explain", action="store_true", help="also which executors run it here, and why not"
    )


def run(options: argparse.Namespace) -> int:
    """Inspect and print; return the exit status."""
    from ..bundle import Bundle

    facts = inspect(Bundle.load(options.bundle))
    if options.explain:
        facts["executors"] = explain(facts["family"])
    print(json.dumps(facts, indent=1, ensure_ascii=False) if options.json else text(facts))
    return 0


def inspect(bundle: Bundle) -> dict[str, Any]:
    """Gather the facts about a bundle; JSON can hold them.

    Raises:
        AttendriteError: The weights are not those of the family.
    """
    from .. import models

    models.check_weights(bundle)
    manifest, weights = bundle.manifest, bundle.weights
    model = models.load(manifest.family)(manifest, weights)
    counts = {name: t.numel() for name, t in weights.items() if name not in model.buffers}
    return {
        "name": manifest.name,
        "family": manifest.family,
        "config": dict(manifest.config),
        "parameters": sum(counts.values()),
        "parameters_without_unit_and_session_tables": sum(
            count for name, count in counts.items() if name not in model.tables
        ),
        "units": list(manifest.units),
        "sessions": list(manifest.sessions),
        "tasks": [vars(task) for task in manifest.tasks],
        "sites": [_site(site) for site in model.sites],
        "training": dict(manifest.training),
        "source": dict(manifest.source),
        "files": dict(manifest.files),
    }


def explain(family: str) -> list[dict[str, Any]]:
    """Say for each device and dtype which executor ``auto`` takes, and why others do not run."""
    import torch

    from .. import executors
    from ..runtime import DTYPES

    rows = []
    for device in ("cpu", "cuda"):
        for dtype in DTYPES:
            wanted = {"family": family, "device": device, "dtype": dtype}
            if device == "cuda" and not torch.cuda.is_available():
                reason: str | None = "needs a CUDA device, none is here"
                found = dict.fromkeys(executors.names(), reason)
                taken = None
            else:
                found = executors.refusals(**wanted)
                runs = None in found.values()
                taken = executors.choose(executors.AUTO, **wanted)[0] if runs else None
            rows.append({"device": device, "dtype": dtype, "auto": taken, "refusals": found})
    return rows


def _site(site: Site) -> dict[str, Any]:
    return {**vars(site), "statistics": list(site.statistics)}


def text(facts: Mapping[str, Any]) -> str:
    """Lay the facts out for reading."""
    total, rest = facts["parameters"], facts["parameters_without_unit_and_session_tables"]
    config = dict(_flat(facts["config"]))
    wide = max([21, *map(len, config)])
    lines = [
        f"{facts['name']}: {facts['family']}, {total:,} parameters "
        f"({rest:,} without unit and session tables)",
        "",
        *(f"  {name:<{wide}} {value}{_unit(name)}" for name, value in config.items()),
        "",
        f"units     {_listed(facts['units'])}",
        f"sessions  {_listed(facts['sessions'])}",
    ]
    for task in facts["tasks"]:
        lines.append(f"task      {task['id']:>3} {task['name']} ({task['dim']}, {task['kind']})")
    wide = max([13, *(len(site["name"]) for site in facts["sites"])])
    lines += ["", f"{'site':<{wide}} heads  width  keys     statistics"]
    for site in facts["sites"]:
        row = f"{site['name']:<{wide}} {site['heads']:>5}  {site['width']:>5}  {site['keys']:<9}"
        lines.append(row + " ".join(site["statistics"]))
    lines.append("")
    for key, value in facts["training"].items():
        shown = f"{len(value)} units" if key == "rates_hz" else json.dumps(value)
        lines.append(f"training  {key}: {shown}")
    if not facts["training"]:
        lines.append("training  nothing known")
    for name, fact in facts["files"].items():
        lines.append(f"file      {name}  {fact['bytes']:,} bytes  sha256 {fact['sha256']}")
    for row in facts.get("executors", ()):
        lines += ["", f"executors on {row['device']}, {row['dtype']}"]
        if row["auto"] is None:
            lines.append("  none: " + next(iter(row["refusals"].values())))
            continue
        for name, reason in row["refusals"].items():
            can = "taken by auto" if name == row["auto"] else "can be asked for"
            lines.append(f"  {name:<12}{can if reason is None else reason}")
    return "\n".join(map(errors.plain, lines))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is configured, with the names of the objects around it."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _unit(name: str) -> str:
    return " s" if name in ("sequence_length", "latent_step") else ""


def _listed(ids: list[str]) -> str:
    more = ", ..." if len(ids) > SHOWN else ""
    return f"{len(ids)}: {', '.join(ids[:SHOWN])}{more}"

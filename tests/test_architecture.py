"""The rooms of the package: imports point one way, and only the exporter reads torch files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the top down. A module may import from its own line and from the lines below it.
LAYERS = [
    {"__init__", "__main__", "commands"},
    {"report"},
    {"ablation", "fields"},
    {"analysis"},
    {"decoding", "transfer", "verification"},
    {"evaluation"},
    {"runtime", "exporter"},
    {"executors"},
    {"graph"},
    {"models"},
    {"images"},
    {"batches"},
    {"fit", "simulate"},
    {"bundle", "capture", "recordings", "scans"},
    {"shards"},
    {"files"},
    {"kernels"},
    {"_core", "_version", "errors", "files"},
]
LEVEL = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path, folder: str, package: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Absolute dotted names that a file imports; names in functions count too."""
    here = (*package, *path.relative_to(ROOT / folder).with_suffix("").parts)
    here = here[:-1]
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            found |= {(*module, alias.name) for alias in node.names}
    return found


def room(name: tuple[str, ...]) -> str | None:
    """First name below ``attendrite`` when it is one of the rooms."""
    if name[0] != "attendrite" or len(name) < 2:
        return None
    return name[1] if name[1] in LEVEL else None


@pytest.mark.parametrize("path", sources("engine"), ids=str)
def test_imports_of_the_engine_point_down(path: Path) -> None:
    own = path.relative_to(ROOT / "engine").with_suffix("").parts[0]
    if own == "__init__":
        return  # the face of the package gathers names from everywhere
    assert own in LEVEL, f"{own} has no room: add it to LAYERS"
    for name in imported(path, "engine", ("attendrite",)):
        target = room(name)
        if target is not None and target not in ("__init__",):
            assert LEVEL[target] >= LEVEL[own], f"{own} must not import {target}"


@pytest.mark.parametrize("path", sources("kernels"), ids=str)
def test_kernels_know_arrays_only(path: Path) -> None:
    for name in imported(path, "kernels", ("attendrite", "kernels")):
        assert name[0] != "attendrite" or name[1] in ("kernels", "_core"), ".".join(name)


@pytest.mark.parametrize("path", sources("engine/models"), ids=str)
def test_families_never_import_each_other(path: Path) -> None:
    for name in imported(path, "engine", ("attendrite",)):
        if name[:2] == ("attendrite", "models") and len(name) > 2:
            assert name[2].startswith("_"), f"{path.name} imports the family {name[2]}"


def test_the_core_knows_no_python() -> None:
    for path in (ROOT / "csrc").rglob("*.[ch]pp"):
        assert "Python.h" not in path.read_text()
        assert "pybind11" not in path.read_text()


@pytest.mark.parametrize("path", sources("engine") + sources("kernels"), ids=str)
def test_only_the_exporter_reads_torch_files(path: Path) -> None:
    names = imported(path, path.relative_to(ROOT).parts[0], ("attendrite",))
    if path != ROOT / "engine" / "exporter" / "_inert.py":  # which calls nothing of a file
        assert not {n[0] for n in names} & {"pickle", "cPickle", "dill", "joblib"}
    calls = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }  # fmt: skip
    if path != ROOT / "engine" / "exporter" / "_files.py":
        assert "torch.load" not in calls

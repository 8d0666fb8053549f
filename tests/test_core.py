"""The core by itself: levels, threads after a fork, and the stub that describes it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from attendrite import _core

STUB = Path(__file__).resolve().parents[1] / "engine" / "_core.pyi"

# The extension module alone: a child that imports the whole package takes seconds.
LOAD_CORE = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_core", {_core.__file__!r})
_core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(_core)
"""


def run_with_core(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD_CORE + script],
        env={**os.environ, **environment},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_threads_work_in_a_forked_child() -> None:
    script = """
import os, numpy as np
times, units = np.linspace(0, 9.99, 5000), np.arange(5000, dtype=np.int32) % 7
def call():
    out = np.empty((1000, 7), np.uint8)
    _core.bin_dense(times, units, 7, _core.Grid(1e6, 0, 10000, 1000), True, False, 3, out)
    return out
expected = call()
child = os.fork()
if child == 0:
    os._exit(0 if (call() == expected).all() else 1)
assert os.waitpid(child, 0)[1] == 0
assert (call() == expected).all()
"""
    assert run_with_core(script).returncode == 0


@pytest.mark.parametrize("name", ["portable", _core.cpu_levels()[-1]])
def test_the_environment_forces_a_level(name: str) -> None:
    assert run_with_core("print(_core.cpu_level())", ATTENDRITE_CPU=name).stdout.strip() == name


def test_an_unknown_level_is_refused() -> None:
    child = run_with_core("_core.cpu_level()", ATTENDRITE_CPU="mmx")
    assert "ATTENDRITE_CPU must be one of portable" in child.stderr
    with pytest.raises(ValueError, match="level must be one of portable"):
        _core.force_level("mmx")


def parameters(signature: str) -> list[str]:
    """Names of the parameters in the first line of a docstring that pybind11 wrote."""
    return re.findall(r"(?<=[(, ])(\w+): ", signature.partition(" -> ")[0])


def test_the_stub_names_what_the_core_has() -> None:
    tree = ast.parse(STUB.read_text())
    named: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            named[node.name] = [a.arg for a in node.args.args]
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                assert isinstance(method, ast.FunctionDef)
                named[f"{node.name}.{method.name}"] = [a.arg for a in method.args.args]
    found: dict[str, list[str]] = {}
    for name, item in vars(_core).items():
        if name.startswith("_"):
            continue
        if isinstance(item, type):
            for method in {"__init__", *vars(item)}:
                if method == "__init__" or not method.startswith("_"):
                    doc = getattr(item, method).__doc__ or ""
                    found[f"{name}.{method}"] = parameters(doc.splitlines()[0]) if doc else ["self"]
        else:
            found[name] = parameters(item.__doc__.splitlines()[0])
    assert named == found

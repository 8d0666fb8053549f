"""The Triton backend without a GPU: interpreted on the CPU, and compiled for Hopper.

Both in processes of their own: TRITON_INTERPRET must be set before triton is imported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from attendrite.kernels.attention import OPERATION, STATISTICS, attention, request

HERE = Path(__file__).resolve().parent
SHARED = 227 * 1024
"""Bytes of shared memory that a program may take of a Hopper multiprocessor."""

try:
    TRITON = tuple(int(part) for part in metadata.version("triton").split(".")[:2])
except metadata.PackageNotFoundError:
    TRITON = (0, 0)
needs_triton = pytest.mark.skipif(TRITON == (0, 0), reason="triton is not installed")


def process(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=900,
        env=variables, cwd=HERE.parent,
    )  # fmt: skip


@needs_triton
@pytest.mark.skipif(TRITON < (3, 9), reason="this interpreter does not know numpy 2.4")
@pytest.mark.slow
def test_interpreted_kernels_are_right() -> None:
    slow = [  # many units; _triton_interpret.py asks the same of fewer
        "test_every_statistic_is_accurate[triton-torch.float32-(1, 2, 65, 30, 32, 32, 48)]",
        "TestInvariants::test_permuting_keys_changes_nothing",
        "TestInvariants::test_two_runs_are_bit_identical",
        "TestForms::test_rotation[(1, 2, 65, 30, 32, 32, 48)",
    ]
    done = process(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "triton",
        "-W", "ignore::RuntimeWarning",  # numpy tells of the infinities that masks throw away
        *(f"--deselect=tests/test_attention.py::{name}" for name in slow),
        HERE / "_triton_interpret.py", HERE / "test_attention.py", TRITON_INTERPRET="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.rpartition(" passed")[0].split()[-1]) > 80, done.stdout


@needs_triton
@pytest.mark.parametrize("which", ["--quick", pytest.param("--all", marks=pytest.mark.slow)])
def test_kernels_compile_for_hopper_and_fit(which: str) -> None:
    done = process(HERE / "_triton_compile.py", which)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) > 5
    for one in found:
        assert one["stack"] == 0, one  # registers spilled into memory
        assert one["registers"] <= 255, one
        assert one["shared"] <= SHARED, one
        if one["variant"].startswith(("merge", "per_unit")):
            continue  # no products
        assert one["wgmma" if one["queries"] >= 64 else "mma"] > 0, one
        assert one["copies"] > 0, one  # keys are fetched while others are worked on


def kind(dtype: torch.dtype = torch.bfloat16, width: int = 64, **change: Any) -> dict[str, Any]:
    statistics = change.pop("statistics", ())
    grad = change.pop("grad", False)
    return request(change.pop("device", "cuda"), dtype, width, width, statistics, grad=grad)


@needs_triton
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": "cpu"}, "runs on cuda, got cpu"),
        ({"dtype": torch.float64}, "takes torch.float32, torch.float16, torch.bfloat16, got torch"),
        ({"width": 257}, "takes heads up to 256 wide here, got 257"),
        ({"width": 65, "dtype": torch.float32}, "takes heads up to 64 wide here, got 65"),
        ({"width": 155, "statistics": ["partials"]}, "takes heads up to 128 wide here, got 155"),
        ({"grad": True}, "has no gradients"),
    ],
)
def test_what_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], reason: str
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert OPERATION.refusals(**kind())["triton"] is None
    assert OPERATION.refusals(**kind(**change))["triton"].startswith(reason)


def test_triton_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    q = torch.zeros(1, 1, 1, 16)
    with pytest.raises(ValueError, match=r"attention\[triton\] needs the package triton; pip inst"):
        attention(q, q, q, backend="triton")
    assert attention(q, q, q).output.shape == q.shape


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("width", [16, 32, 48, 64, 128, 155, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_on_a_gpu(dtype: torch.dtype, width: int) -> None:
    suite = load("test_attention")
    for wanted in ((), ("per_unit", "lse"), ("per_unit", "entropy", "per_key", "lag"), STATISTICS):
        if OPERATION.refusals(**kind(dtype, width, statistics=wanted))["triton"]:
            continue
        inputs = suite.cast(suite.problem((2, 2, 150, 1001, width, width, 30)), dtype)
        there = {n: x.cuda() if isinstance(x, torch.Tensor) else x for n, x in inputs.items()}
        found = suite.run(there, wanted, backend="triton")
        exact, rough = suite.truth(inputs), suite.plain(inputs)
        suite.assert_accurate(found, {n: exact[n] for n in found}, rough, f"{width} {wanted}")


def load(name: str) -> Any:
    """Import a neighbouring file."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""The ceiling of every float32 kernel: products and sums in registers, one thread."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

from timing import Case, Contestant

NAME = "attendrite:fma_peak"


def peak(name: str, quick: bool) -> Case:
    """Return the case that times it; ``fma_peak.cpp`` is compiled for this machine."""
    turns = 1000 if quick else 20_000_000
    case = Case(name, 0.0, "flop", rounds=9)
    compiler = shutil.which("c++")
    if compiler is None:
        case.skipped[NAME] = "there is no C++ compiler"
        return case
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "peak.so"
        source = Path(__file__).resolve().parent / "fma_peak.cpp"
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, str(source), "-o", str(built)], check=True)
        run = ctypes.CDLL(str(built)).run
    run.argtypes, run.restype = [ctypes.c_long], ctypes.c_double
    flop = float(run(1)) * turns
    case.work = flop / 1e6
    judge = lambda done: abs(float(done) - flop)  # noqa: E731
    case.contestants.append(Contestant(NAME, lambda: run(turns), judge, 2.0, "float32"))
    return case

"""The short, repeatable form of the fuzzer: a hundred mutations of every reader's input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"
TARGETS = sorted(path.stem for path in (FUZZ / "targets").glob("[a-z]*.py"))


def fuzz(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "run.py"), *arguments],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_damaged_input_is_refused_in_words() -> None:
    pytest.importorskip("h5py")
    pytest.importorskip("onnx")
    result = fuzz(FUZZ, "--count", "100")
    assert result.returncode == 0, result.stdout + result.stderr
    for target in TARGETS:
        assert f"{target}: 100 mutations, 0 findings" in result.stdout


BAD_TARGET = """
import ctypes, time

def seeds(folder):
    folder.mkdir(parents=True)
    (folder / "one.bin").write_bytes(bytes(64))
    return [folder / "one.bin"]

def read(path):
    if any(path.read_bytes()):
        {fault}
"""

FAULTS = {
    "foreign": ("raise KeyError('x')", "KeyError: 'x'"),
    "greedy": ("held = bytearray(300 << 20)", "MemoryError"),
    "wordy": ("raise OSError('one\\ntwo')", "an error that is not one line"),
    "slow": ("time.sleep(60)", "no answer within 1 s"),
    "crash": ("ctypes.string_at(0)", "the process ended with status -11"),
}


def test_the_fuzzer_finds_planted_faults(tmp_path: Path) -> None:
    (tmp_path / "targets").mkdir()
    for name, (fault, _) in FAULTS.items():
        text = BAD_TARGET.format(fault=fault)
        (tmp_path / "targets" / f"{name}.py").write_text(text)
    for name in ("run.py", "mutate.py"):
        text = (FUZZ / name).read_text().replace("SLOWEST = 10 ", "SLOWEST = 1 ")
        (tmp_path / name).write_text(text)
    result = fuzz(tmp_path, "--count", "3")
    assert result.returncode == 1
    for name, (_, words) in FAULTS.items():
        assert words in result.stdout, name

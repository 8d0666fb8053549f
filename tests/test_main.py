"""The command line as a whole: what it lists, how fast its help is there, how it ends."""

from __future__ import annotations

import subprocess
import sys

import attendrite
import pytest
from attendrite import executors
from attendrite.__main__ import main, names
from attendrite.commands import _options
from attendrite.models import families
from attendrite.runtime import DTYPES

# Prints what was imported by the help of the whole and of every command, one line each.
IMPORTED = """
import contextlib, io, sys
from attendrite.__main__ import main, names

for command in [[], *([name] for name in names())]:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main([*command, "--help"])
    print(*command, {"torch", "scipy", "matplotlib", "jinja2", "h5py"} & sys.modules.keys())
"""


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "--help")
    assert {"check", "decode", "demo", "export", "inspect", "pack", "run"} <= set(names())
    for name in names():
        assert f" {name} " in shown
        assert said(capsys, name, "--help").startswith(f"usage: attendrite {name} [-h]")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == f"attendrite {attendrite.__version__}"


def test_help_imports_nothing_that_takes_seconds() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + len(names())
    for line in lines:
        assert line.endswith("set()"), f"attendrite {line}: import them inside functions"


def test_help_names_what_this_install_knows(capsys: pytest.CaptureFixture[str]) -> None:
    """These lists are made without importing what they name, so they are held against it."""
    assert _options.modules("executors") == sorted(executors.names())
    assert _options.modules("models") == families()
    shown = said(capsys, "run", "--help")
    for known in [*executors.names(), *DTYPES]:
        assert known in shown
    for family in families():
        assert family in said(capsys, "export", "--help")


@pytest.mark.parametrize("arguments", [[], ["knit"], ["run"]])
def test_wrong_usage_is_bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: attendrite" in capsys.readouterr().err

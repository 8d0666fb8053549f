"""``attendrite demo``: what it prints is what was committed, and its controls are at chance."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attendrite.__main__ import main

ROWS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "demo.jsonl"


def rows(text: str) -> list[dict[str, Any]]:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


@pytest.mark.slow
def test_flash_with_one_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--task", "flash", "--seeds", "0", "--threads", "1", "--json", "-o", str(tmp_path)]
    assert main(["demo", *options]) == 0
    found, known = rows(capsys.readouterr().out), rows(ROWS.read_text())
    r2 = {(row["method"], row["support"]): np.array(row["r2"])[0] for row in found}
    for row in known:
        if row["task"] == "flash":
            expected = np.array(row["r2"])[0]
            np.testing.assert_allclose(r2[row["method"], row["support"]], expected, atol=2e-3)
    for support in ("causal", "acausal"):
        assert (r2["poyo", support] > 0.5).all()
        assert (r2["no spikes", support] < 0.05).all()
        assert (r2["shifted truth", support] < 0.05).all()
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?https?:""", page)  # nothing is loaded

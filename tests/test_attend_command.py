"""``attendrite attend``: a folder of tables, figures and a report, whole or not at all."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite import Bundle, Engine
from attendrite.__main__ import main
from attendrite.analysis import attend, untrained
from attendrite.recordings import Intervals, Recording, Spikes

FIXTURES = Path(__file__).parent / "fixtures"
FILES = {
    "units.csv", "heads.csv", "attend.json", "report.html",
    "units.png", "heads_units.png", "heads.png", "untrained.png",
}  # fmt: skip


def recording(n_units: int = 24) -> Recording:
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(10.0, 22.0, 900))
    spikes = Spikes(times, rng.integers(0, n_units, 900).astype(np.int32))
    spikes.units[spikes.units == 5] = 4  # unit 5 is silent
    trials = Intervals(np.arange(10.0, 22, 2), np.arange(10.0, 22, 2) + 1.9,
                       {"kind": np.array([0, 1] * 3)})  # fmt: skip
    reach = Intervals(np.array([12.0, 15.0]), np.array([14.5, 16.0]))
    ids = tuple(f"sess_a/unit_{i:04d}" for i in range(n_units))
    where = {"area": np.array(["CA1", "CA3"] * (n_units // 2) + ["CA1"] * (n_units % 2))}
    return Recording("sess_a", ids, lambda: spikes, (10.0, 22.0), unit_columns=where,
                     intervals={"trials": trials, "reach": reach})  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("attend")
    attendrite.export(FIXTURES / "poyo_tiny/poyo_tiny_lightning.ckpt", root / "poyo")
    attendrite.export(FIXTURES / "poyo_plus_tiny/plus_tiny_lightning.ckpt", root / "plus")
    recording().save(root / "day.npz")
    recording(25).save(root / "stranger.npz")
    return root


def run(
    folder: Path, out: Path, *arguments: str, bundle: str = "poyo", data: str = "day.npz"
) -> int:
    quick = () if "--null" in arguments else ("--null", "19")
    return main(
        ["attend", str(folder / bundle), str(folder / data), "-o", str(out), *quick, *arguments]
    )


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(folder, out, "--trials", "trials:kind") == 0
    assert {path.name for path in out.iterdir()} == FILES
    assert list(tmp_path.iterdir()) == [out]
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "most attended to" in printed
    assert f"written to {out}" in printed


def test_the_tables_are_those_of_the_analysis(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path / "out", "--seed", "3", "--within", "reach") == 0
    bundle = Bundle.load(folder / "poyo")
    own = recording()
    expected = attend(
        Engine(bundle),
        own,
        controls=[Engine(untrained(bundle, seed)) for seed in (3, 4, 5)],
        spans=[(12.0, 14.5), (15.0, 16.0)],
        rounds=19,
        seed=3,
    )
    rows = table(tmp_path / "out" / "units.csv")
    assert list(rows[0]) == list(expected.units)
    for name, values in expected.units.items():
        found = [row[name] for row in rows]
        if values.dtype.kind == "U":
            assert found == values.tolist()
        else:
            numbers = [float(x) if x else np.nan for x in found]
            np.testing.assert_allclose(numbers, values, rtol=1e-5, err_msg=name)
    assert rows[5]["lift_spikes"] == ""
    assert rows[5]["area"] == "CA3"
    heads = table(tmp_path / "out" / "heads.csv")
    assert [(r["model"], r["site"], int(r["head"])) for r in heads] == [
        (r["model"], r["site"], r["head"]) for r in expected.heads
    ]
    assert float(heads[1]["units_lift"]) == pytest.approx(expected.heads[1]["units_lift"], 1e-5)


def test_what_was_chosen_is_said(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(folder, out, "--trials", "trials:kind", "--rollout", "max", "--start", "12.5",
               "--stop", "18.5", "--tokens", "all") == 0  # fmt: skip
    facts = json.loads((out / "attend.json").read_text(encoding="utf-8"))
    where, choices = facts["windows"], facts["choices"]
    assert (where["count"], where["trials"], where["from"]) == (2, "trials:kind", 14.0)
    assert (choices["tokens_of_heads"], choices["null_size"], choices["seed"]) == ("all", 19, 0)
    assert choices["rollout"].startswith("max over heads")
    assert set(facts["versions"]) == {"attendrite", "torch", "numpy", "scipy"}
    assert [m["name"] for m in facts["models"]] == ["trained", *(f"untrained {i}" for i in "012")]
    own = facts["models"][0]
    assert own["synchrony"]["residual"]["p"] is None  # each condition once
    assert own["synchrony"]["residual"]["verdict"].startswith("not testable")
    assert own["specialisation"]["distinct"] > 1
    page = (out / "report.html").read_text(encoding="utf-8")
    for text in ("not testable", "max over heads", "unit_0003", "untrained 2"):
        assert text in page
    for found in re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')> ]+)', page):
        assert found.startswith(("#", "data:image/png;base64,")), found[:60]


def test_stretches_are_cut_at_start_and_stop(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(folder, out, "--no-control", "--within", "reach", "--start", "13",
               "--stop", "15.8") == 0  # fmt: skip
    where = json.loads((out / "attend.json").read_text(encoding="utf-8"))["windows"]
    assert (where["count"], where["from"], where["to"]) == (1, 13.0, 14.0)


def test_without_control(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(folder, out, "--no-control", "--json", "--batch-size", "5") == 0
    assert {path.name for path in out.iterdir()} == FILES - {"untrained.png"}
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads((out / "attend.json").read_text(encoding="utf-8"))
    assert [m["name"] for m in facts["models"]] == ["trained"]
    assert not [name for name in table(out / "units.csv")[0] if "untrained" in name]


def test_two_runs_write_the_same_tables(folder: Path, tmp_path: Path) -> None:
    for name, executor in (("a", "torch"), ("b", "torch")):
        assert run(folder, tmp_path / name, "--executor", executor) == 0
    for name in ("units.csv", "heads.csv"):
        a, b = ((tmp_path / run / name).read_bytes() for run in "ab")
        assert a == b


def test_a_folder_of_attend_may_be_replaced(folder: Path, tmp_path: Path) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    assert run(folder, out, "--no-control") == 0
    (out / "old").touch()
    assert run(folder, out, "--no-control") == 2
    assert (out / "old").exists()
    assert run(folder, out, "--no-control", "--force") == 0
    assert not (out / "old").exists()
    mine.mkdir()
    assert run(folder, mine, "--force") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--null", "0"], "--null must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--within", "run"], "unknown intervals 'run'; known: trials, reach"),
        (["--trials", "run"], "unknown intervals 'run'; known: trials, reach"),
        (["--trials", "trials:colour"], "unknown column of trials 'colour'; known: kind"),
        (["--start", "30"], "--start and --stop must hold time of the recording, 10..22 s"),
        (["--start", "12", "--stop", "12.5"], "the time to analyse must hold a window of 1 s"),
        (["--task", "speed"], "unknown task 'speed'; known: none"),
        (["--executor", "fast"], "unknown executor 'fast'"),
        (["--session", "other"], "session"),
    ],
)
def test_bad_input(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert run(folder, tmp_path / "out", *arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert message in said[0]
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_does_not_fit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path / "out", data="stranger.npz") == 2
    assert "sess_a/unit_0024" in capsys.readouterr().err
    assert run(folder, tmp_path / "out", "--unknown", "drop", "--no-control",
               data="stranger.npz") == 0  # fmt: skip
    assert len(table(tmp_path / "out" / "units.csv")) == 24


def test_a_model_with_tasks_needs_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tuple(f"u{i}" for i in range(10))
    own = recording()
    kept = own.spikes.units < 10
    spikes = Spikes(own.spikes.times[kept], own.spikes.units[kept])
    Recording("s0", ids, lambda: spikes, (10.0, 22.0)).save(tmp_path / "plus.npz")
    data = str(tmp_path / "plus.npz")
    assert run(folder, tmp_path / "out", bundle="plus", data=data) == 2
    assert "--task must name one of" in capsys.readouterr().err
    assert run(folder, tmp_path / "out", "--task", "arm_velocity_2d", "--no-control",
               bundle="plus", data=data) == 0  # fmt: skip


@pytest.mark.parametrize("when", ["computing", "drawing"])
def test_interrupted_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    target: dict[str, Callable[[], Any]] = {
        "computing": lambda: monkeypatch.setattr(Engine, "run", stop),
        "drawing": lambda: monkeypatch.setattr("attendrite.commands._attend_report.heads", stop),
    }
    import attendrite.commands._attend_report  # noqa: F401

    target[when]()
    assert run(folder, tmp_path / "out", "--no-control") == 130
    assert list(tmp_path.iterdir()) == []

"""``attendrite ablate``: tables, figures and a report, the same bytes from any workers."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite import Bundle, Engine
from attendrite.__main__ import main
from attendrite.ablation import Settings, Target, ablate, prepare
from attendrite.commands import _ablate_report
from attendrite.recordings import Intervals, Recording, Series, Spikes
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
FILES = {
    "run.json", "shards", "ablate.json", "report.html", "curve.png", "items.png",
    "curves.csv", "tests.csv", "items.csv", "curves.parquet", "tests.parquet", "items.parquet",
}  # fmt: skip
UNITS = 24
NULLS = "random:3,rate:2,count:2,bottom"
QUICK = ("--points", "1,4,12,20", "--resamples", "200")
PARQUET = all(importlib.util.find_spec(package) for package in ("pandas", "pyarrow"))
TAILS = 100  # small shards, so that there are some
# The command with small shards that take a while, so that it can be stopped between them.
SLOWLY = """
import sys, time
from attendrite.__main__ import main
from attendrite.ablation import sweep

def run(self, shard, run=sweep.Sweep.run):
    time.sleep(float(sys.argv[2]))
    return run(self, shard)

sweep.TAILS, sweep.Sweep.run = int(sys.argv[1]), run
sys.exit(main(sys.argv[3:]))
"""

pytestmark = pytest.mark.usefixtures("one_thread")


def recording(n_units: int = UNITS) -> Recording:
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(10.0, 40.0, 2000))
    units = rng.integers(0, n_units, 2000).astype(np.int32)
    units[units == 5] = 4  # unit 5 is silent
    at = np.arange(10.0, 40.0, 0.05)
    starts = np.arange(10.0, 40.0, 3.0)
    areas = np.array(["CA1", "<i>CA3</i> & $_$ of $^$", "CA1"] * n_units)[:n_units]
    return Recording(
        "sess_a",
        tuple(f"sess_a/unit_{i:04d}" for i in range(n_units)),
        lambda: Spikes(times, units),
        (10.0, 40.0),
        series={
            "hand": Series(at, np.stack([np.sin(1.3 * at), np.cos(1.7 * at)], 1), ("x", "y"), "cm")
        },
        intervals={"reach": Intervals(starts, starts + 2.0)},
        unit_columns={"area": areas},
    )


def with_tasks(traces: bool) -> Recording:
    """Make a recording for the models with tasks, of spikes or of fluorescence."""
    rng = np.random.default_rng(1)
    ids = tuple(f"u{i}" for i in range(10))
    spikes = Spikes(np.sort(rng.uniform(0, 20, 900)), rng.integers(0, 10, 900).astype(np.int32))
    at = np.arange(0, 20, 0.1)
    return Recording(
        "s0",
        ids,
        lambda: Spikes.none() if traces else spikes,
        (0.0, 20.0),
        series={"arm": Series(at, np.stack([np.sin(at), np.cos(at)], 1), ("x", "y"), "cm")},
        traces=Series(at, rng.normal(size=(len(at), 10)), ids) if traces else None,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ablate")
    attendrite.export(FIXTURES / "poyo_tiny/poyo_tiny_lightning.ckpt", root / "poyo")
    for kind in ("plus", "calcium"):
        source = FIXTURES / f"poyo_plus_tiny/{kind}_tiny_lightning.ckpt"
        attendrite.export(source, root / kind)
        with_tasks(kind == "calcium").save(root / f"{kind}.npz")
    recording().save(root / "day.npz")
    recording(25).save(root / "stranger.npz")
    return root


def words(
    folder: Path,
    out: Path,
    *arguments: str,
    bundle: str = "poyo",
    data: str = "day.npz",
    series: str = "hand",
) -> list[str]:
    many = [] if "--null" in arguments else ["--null", NULLS]
    where = [] if "--processes" in arguments else ["--processes", "1"]
    if "--workers" in arguments:
        where = []
    return ["ablate", str(folder / bundle), str(folder / data), "-o", str(out), "--series", series,
            "--threads", "1", *many, *where, *QUICK, *arguments]  # fmt: skip


def run(folder: Path, out: Path, *arguments: str, **where: str) -> int:
    return main(words(folder, out, *arguments, "--quiet", **where))


def results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def facts(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "ablate.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def truth(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("truth") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attendrite.ablation.sweep.TAILS", TAILS)
        assert run(folder, out) == 0
    assert len(list((out / "shards").iterdir())) >= 4
    return out


def same(out: Path, truth: Path) -> None:
    """Hold every result file against those of one process that was never stopped."""
    found, expected = results(out), results(truth)
    assert found.keys() == expected.keys()
    for name, data in expected.items():
        assert found[name] == data, name


# ---- the folder ----


def test_the_folder(truth: Path) -> None:
    names = {path.name for path in truth.iterdir()}
    assert names == {name for name in FILES if PARQUET or not name.endswith(".parquet")}
    for name in ("curve.png", "items.png"):
        assert (truth / name).read_bytes().startswith(b"\x89PNG")


def test_the_tables_are_those_of_the_library(folder: Path, truth: Path) -> None:
    wanted = Settings(
        Target("hand"), nulls={"random": 3, "rate": 2, "count": 2, "bottom": 1},
        points=(1, 4, 12, 20), resamples=200,
    )  # fmt: skip
    expected = ablate(Engine(folder / "poyo", threads=1), recording(), wanted)
    for name, columns in expected.tables.items():
        rows = table(truth / f"{name}.csv")
        assert list(rows[0]) == list(columns)
        assert len(rows) == len(next(iter(columns.values())))
        for column, values in columns.items():
            found = [row[column] for row in rows]
            if values.dtype.kind in "Ub":
                assert found == [str(x) for x in values.tolist()], column
            else:
                numbers = [float(x) if x else np.nan for x in found]
                np.testing.assert_allclose(numbers, values, rtol=1e-8, err_msg=column)
    assert facts(truth) == json.loads(json.dumps(_plain(expected.meta)))


def _plain(value: Any) -> Any:
    """Make JSON of facts, NaN null."""
    if isinstance(value, dict):
        return {name: _plain(x) for name, x in value.items()}
    if isinstance(value, list):
        return [_plain(x) for x in value]
    return None if value != value else value


def test_every_option_is_a_choice_of_the_result(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(folder, out, "--metric", "mse", "--within", "reach", "--spacing", "0.1",
               "--trials", "reach", "--order", "attention:lift", "--from", "bottom",
               "--method", "silence", "--rank-on", "10-30", "--eval-on", "19-40", "--overlap",
               "--null", "random:2", "--seed", "3") == 0  # fmt: skip
    choices = facts(out)["choices"]
    assert choices == {
        "site": "units", "conditions": "nested", "order": "attention:lift:spikes:encoder",
        "from": "bottom", "method": "silence", "metric": "mse", "series": "hand", "task": "",
        "within": "reach", "trials": "reach", "rank_on": "10-30", "eval_on": "19-40",
        "overlap": True, "seed": 3, "nulls": {"random": 2}, "resamples": 200,
    }  # fmt: skip
    row = table(out / "curves.csv")[0]
    for name, value in choices.items():
        if name not in ("nulls", "resamples"):
            assert row[name] == str(value)
    assert {r["side"] for r in table(out / "tests.csv")} == {"less"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "time that was also ranked on" in page


@pytest.mark.skipif(not PARQUET, reason="no pandas or pyarrow")
def test_parquet_is_csv(truth: Path) -> None:
    import pandas as pd

    for name in ("curves", "tests", "items"):
        whole = pd.read_parquet(truth / f"{name}.parquet")
        text = pd.read_csv(truth / f"{name}.csv", keep_default_na=False, na_values={
            column: [""] for column in whole.select_dtypes("number")})  # fmt: skip
        text = text.astype({column: str for column in whole.select_dtypes(["object", "string"])})
        pd.testing.assert_frame_equal(
            text, whole, check_dtype=False, check_exact=False, rtol=1e-8, atol=0
        )


def test_without_pandas_there_is_csv_alone(
    folder: Path, tmp_path: Path, truth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "pyarrow" else there(name, *a)
    )
    assert run(folder, tmp_path / "out") == 0
    found = results(tmp_path / "out")
    assert set(found) == {name for name in FILES - {"shards"} if not name.endswith(".parquet")}
    assert found["curves.csv"] == results(truth)["curves.csv"]


def test_what_is_printed(
    folder: Path, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for way in ("plain", "json"):
        assert run(folder, tmp_path / way, *(["--json"] if way == "json" else [])) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        if way == "json":
            assert json.loads(printed.out) == facts(tmp_path / way) == facts(truth)
        else:
            assert "with all 24 units" in printed.out
            assert printed.out.endswith(f"written to {tmp_path / way}\n")
            assert re.search(r"\nrate +2 .* not testable\n", printed.out)
            assert "nan" not in printed.out
            assert "half of" not in printed.out  # there is no gain to lose


def test_the_report_holds_both_figures_and_escapes_names(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    null = ("--null", "random:2,rate:2")
    assert run(folder, out, "--conditions", "groups:area", *null) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "&lt;i&gt;CA3&lt;/i&gt; &amp; $_$ of $^$" in page
    assert "<i>" not in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    for found in re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')> ]+)', page):
        assert found.startswith(("#", "data:image/png;base64,")), found[:60]
    rows = [row for row in table(out / "tests.csv") if row["dimension"] == "mean"]
    assert [row["condition"] for row in rows] == ["<i>CA3</i> & $_$ of $^$", "CA1"]
    assert [row["items"] for row in rows] == ["8", "16"]
    assert {row["null"] for row in rows} == {"rate"}
    assert {row["rankings"] for row in rows} == {"2"}


def test_groups_count_the_sets_that_a_null_can_give(folder: Path, tmp_path: Path) -> None:
    for null in ("random", "rate"):
        out = tmp_path / null
        assert run(folder, out, "--conditions", "groups:area", "--null", f"{null}:2") == 0
        rows = [row for row in table(out / "tests.csv") if row["dimension"] == "mean"]
        of = np.array([int(row["stratum"]) for row in table(out / "items.csv")])
        area = np.array([row["area"] for row in table(out / "items.csv")])
        for row in rows:
            expected = 1.0
            for stratum in [of == of] if null == "random" else [of == s for s in np.unique(of)]:
                n, k = int(stratum.sum()), int((stratum & (area == row["condition"])).sum())
                expected *= float(np.prod(np.arange(n - k + 1, n + 1) / np.arange(1, k + 1)))
            assert float(row["distinct"]) == pytest.approx(min(expected, 1e9))


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["--points", "1,4"], "area"),  # ends before the half
        (["--eval-on", "20-23.9"], "low"),  # too few blocks for intervals
        (["--conditions", "single", "--null", "none", "--eval-on", "20-23.9"], "low"),
    ],
)
def test_what_does_not_exist_is_empty(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    missing: str,
) -> None:
    out = tmp_path / "out"
    assert run(folder, out, "--rank-on", "37-40", *arguments) == 0
    rows = table(
        out / ("tests.csv" if missing == "area" or "single" in arguments else "curves.csv")
    )
    assert {row[missing] for row in rows} == {""}
    texts = [capsys.readouterr().out, *(path.read_text() for path in out.glob("*.[chj]*"))]
    assert len(texts) == 7  # three tables, two kinds of JSON, the report
    for text in texts:
        assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_a_bundle_that_knows_its_training(folder: Path, tmp_path: Path) -> None:
    split = {"edges": [10, 25, 40], "roles": ["training", "test"], "gap": 1.0, "length": 1.0}
    bundle = Bundle.load(folder / "poyo")
    facts_ = {"session": "sess_a", "split": split, "unit_dropout": "<b>half</b> of them"}
    replace(bundle, manifest=replace(bundle.manifest, training=facts_)).save(tmp_path / "told")
    out = tmp_path / "out"
    assert run(folder, out, "--null", "none", bundle=str(tmp_path / "told")) == 0
    found = facts(out)
    assert (found["choices"]["rank_on"], found["choices"]["eval_on"]) == ("training", "test")
    assert found["evaluated_on"]["from"] >= 25 > found["ranked_on"]["to"]
    assert found["constant"]["from"] == "training time"
    assert found["unit_dropout_in_training"] == "<b>half</b> of them"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Unit dropout in training: &lt;b&gt;half&lt;/b&gt; of them." in page
    assert "time that was not ranked on" in page


@pytest.mark.parametrize("site", ["heads", "layers", "latents"])
def test_other_sites(folder: Path, tmp_path: Path, site: str) -> None:
    out = tmp_path / "out"
    order = "effect" if site == "latents" else "output"
    assert run(folder, out, "--site", site, "--order", order, "--null", "random:2", "--points",
               "1,2", "--rank-on", "30-33", "--eval-on", "12-20") == 0  # fmt: skip
    names = [row["item"] for row in table(out / "items.csv")]
    wanted = {"heads": "encoder.head0", "layers": "processor.0", "latents": "latent0"}
    assert names[0] == wanted[site]
    assert f">{names[0]}<" in (out / "report.html").read_text(encoding="utf-8")


# ---- the same bytes ----


def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attendrite.ablation.sweep.TAILS", TAILS)


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(
    folder: Path, tmp_path: Path, truth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch)
    assert run(folder, tmp_path / "out", "--processes", "2") == 0
    same(tmp_path / "out", truth)


def test_shares_and_the_run_that_merges(
    folder: Path,
    tmp_path: Path,
    truth: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_shards(monkeypatch)
    out = tmp_path / "out"
    for share in ("2/2", "1/2"):
        assert run(folder, out, "--shard", share) == 0
        assert capsys.readouterr().out.startswith(f"share {share}: ")
        assert {path.name for path in out.iterdir()} == {"run.json", "shards"}
    before = {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert len(before) == len(list((truth / "shards").iterdir()))
    assert run(folder, out) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()} == before
    same(out, truth)
    lost = sorted(before)[1]
    lost.unlink()
    assert run(folder, out, "--memory", "1") == 0  # is no part of the result
    assert lost.exists()
    same(out, truth)


def until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


@pytest.mark.slow
def test_ctrl_c_and_the_same_command_goes_on(
    folder: Path, tmp_path: Path, truth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(TAILS), "0.5", *words(folder, out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        # As in a terminal, also where the tests run in the background, which ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        until(lambda: len(list(out.glob("shards/*.npz"))) >= 1 or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)
        printed, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert printed == ""
    assert said.endswith("attendrite ablate: interrupted\n")
    assert "Traceback" not in said
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("shards/*.npz")}
    assert 1 <= len(finished) < len(list((truth / "shards").iterdir()))
    assert {path.name for path in out.iterdir()} == {"run.json", "shards"}
    small_shards(monkeypatch)
    assert run(folder, out) == 0
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("shards/*.npz")}
    assert finished.items() <= after.items()
    same(out, truth)


def test_another_command_line_is_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_shards(monkeypatch)
    out = tmp_path / "out"
    assert run(folder, out, "--shard", "1/4") == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    for option, name in {
        ("--seed", "1"): "data", ("--method", "silence"): "plan", ("--metric", "mse"): "metric",
        ("--executor", "torch"): "executor", ("--order", "rate"): "plan",
        ("--eval-on", "34-37"): "data", ("--dtype", "float64", "--executor", "torch"): "dtype",
    }.items():  # fmt: skip
        assert run(folder, out, *option) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert f"{name} of the run in {out} must be" in said[0]
        assert "choose another folder" in said[0]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--series", "foot"], "unknown series 'foot'; known: hand"),
        (["--within", "rest"], "unknown intervals 'rest'; known: reach"),
        (["--trials", "rest"], "unknown intervals 'rest'; known: reach"),
        (["--spacing", "0"], "the spacing of values must be above 0 s, got 0.0"),
        (["--conditions", "groups:layer", "--null", "none"], "unknown column of units 'layer'"),
        (["--conditions", "groups", "--null", "none"], "groups must be of units and name a column"),
        (["--conditions", "pairs", "--null", "none"], "unknown kind of conditions 'pairs'"),
        (["--conditions", "single", "--null", "random:3"], "must be none, got ['random']"),
        (["--order", "beauty"], "unknown order 'beauty'; known: attention, rate"),
        (["--order", "attention:mean"], "unknown option of attention 'mean'"),
        (["--order", "output"], "unknown order of units 'output'"),
        (["--order", "list:none.csv"], "No such file or directory: 'none.csv'"),
        (["--rank-on", "dawn"], "stretches of time must be one of training"),
        (["--eval-on", "20-15"], "a stretch of time must have START below STOP, got 20-15"),
        (["--eval-on", "50-60"], "must hold samples of 'hand', got none"),
        (["--eval-on", "20-20.5", "--rank-on", "30-40"], "must hold a window of 1 s"),
        (["--eval-on", "test"], "must say how it was trained on sess_a"),
        (["--eval-on", "11-20", "--rank-on", "19-30"], "be disjoint, got 19 to 20 s in both"),
        (["--eval-on", "11-20", "--rank-on", "19-30", "--overlap", "--order", "effect"],
         "be disjoint, got 19 to 20 s in both"),
        (["--points", "1,x"], "--points must be like 1,2,5,10, got '1,x'"),
        (["--points", "24"], "points must lie in 0..23, got [24]"),
        (["--null", "luck:3"], "unknown null 'luck'; known: random, rate, count, bottom"),
        (["--null", "random:0"], "rankings of the null 'random' must be at least 1, got 0"),
        (["--null", "random:-2"], "nulls must be like random:200,rate:200,bottom"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--resamples", "50"], "resamples must be at least 100, got 50"),
        (["--memory", "0"], "memory must be at least 1 MiB, got 0 bytes"),
        (["--metric", "accuracy"], "must be of values, got accuracy"),
        (["--site", "heads"], "nulls of heads must be random or bottom, got rate"),
        (["--task", "speed"], "unknown task 'speed'; known: none"),
        (["--executor", "fast"], "unknown executor 'fast'"),
        (["--session", "other"], "session"),
        (["--shard", "3/2"], "a share i/n must have 1 <= i <= n, got 3/2"),
    ],
)  # fmt: skip
def test_bad_input(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert run(folder, tmp_path / "out", *arguments) == 2
    refused(capsys, message)
    assert list(tmp_path.iterdir()) == []


def refused(capsys: pytest.CaptureFixture[str], message: str) -> None:
    printed = capsys.readouterr()
    assert printed.out == ""
    said = printed.err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("attendrite ablate: ")
    assert message in said[0]


def test_a_recording_that_does_not_fit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path / "out", data="stranger.npz") == 2
    refused(capsys, "sess_a/unit_0024")
    assert list(tmp_path.iterdir()) == []
    assert run(folder, tmp_path / "out", "--unknown", "drop", "--null", "none",
               data="stranger.npz") == 0  # fmt: skip
    assert len(table(tmp_path / "out" / "items.csv")) == UNITS


@pytest.mark.parametrize("kind", ["a file", "empty", "mine", "another run"])
def test_a_folder_that_is_something_else(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    out = tmp_path / "out"
    if kind == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
    if kind == "mine":
        (out / "notes.txt").write_text("mine")
    if kind == "another run":
        (out / "run.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run(folder, out) == 2
    refused(capsys, "another folder" if kind == "another run" else "must be new, or the folder of")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_a_failure_while_drawing_leaves_what_was_computed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_ablate_report, "items", stop)
        assert run(folder, tmp_path / "out") == 130
    assert not list((tmp_path / "out").rglob("*.part"))
    monkeypatch.setattr(Engine, "tails", stop)  # nothing is left to compute
    assert run(folder, tmp_path / "out") == 0


# ---- other families ----


def test_a_model_with_tasks(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    plus = {"bundle": "plus", "data": "plus.npz", "series": "arm"}
    assert run(folder, out, **plus) == 2
    refused(capsys, "--task must name one of")
    assert run(folder, out, "--task", "legs", **plus) == 2
    refused(capsys, "unknown task 'legs'; known: ")
    assert list(tmp_path.iterdir()) == []
    task = "cursor_position_2d"
    assert run(folder, out, "--task", task, "--points", "1,3,5,8", **plus) == 0
    assert facts(out)["choices"]["task"] == task
    engine = Engine(folder / "plus", threads=1)
    settings = Settings(Target("arm", task=task), nulls={}, resamples=100, points=(5,))
    given = ablate(engine, with_tasks(False), settings).prepared.evaluated
    run_ = engine.run(given.batch).prediction
    assert isinstance(run_, dict)
    true, decoded = given.true[given.asked], run_[task]
    wanted = r2(true, decoded)
    rows = [r for r in table(out / "curves.csv") if r["curve"] == "ranked" and r["removed"] == "0"]
    np.testing.assert_allclose([float(r["value"]) for r in rows], wanted, rtol=1e-5)


def test_classes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The two values of a read-out taken as logits."""
    task = ("--task", "cursor_position_2d", "--points", "1,3,5,8", "--metric", "accuracy")
    assert run(folder, tmp_path / "out", *task, bundle="plus", data="plus.npz", series="arm") == 2
    refused(capsys, "true classes must be whole numbers")
    day = with_tasks(False)
    at = day.series["arm"].times
    kind = Series(at, (np.sin(3 * at) > 0.3).astype(float)[:, None], ("kind",), "")
    day = replace(day, series={"kind": kind})
    day.save(tmp_path / "day.npz")
    where = {"bundle": "plus", "data": str(tmp_path / "day.npz"), "series": "kind"}
    for metric in ("accuracy", "cross_entropy"):
        out = tmp_path / metric
        assert run(folder, out, *task[:-1], metric, **where) == 0
        rows = [row for row in table(out / "curves.csv") if row["curve"] == "ranked"]
        assert {row["dimension"] for row in rows} == {"mean", "class"}
        engine = Engine(folder / "plus", threads=1)
        settings = Settings(Target("kind", task=task[1]), metric=metric, nulls={})
        found = prepare(engine, day, settings)
        logits = engine.run(found.evaluated.batch).prediction[task[1]]  # type: ignore[call-overload]
        own = found.evaluated.true[found.evaluated.asked][:, 0].astype(int)
        said = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected = {
            "accuracy": (logits.argmax(1) == own).mean(),
            "cross_entropy": -np.log(said[np.arange(len(own)), own]).mean(),
        }
        assert float(rows[0]["value"]) == pytest.approx(expected[metric], rel=1e-5)
        np.testing.assert_allclose(np.exp(found.constant).sum(), 1)
        assert np.ptp([float(row["value"]) for row in rows]) > 0


def r2(true: NDArray[Any], decoded: NDArray[Any]) -> list[float]:
    """Mean over dimensions, then each."""
    each = 1 - ((true - decoded) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)
    return [each.mean(), *each]


def test_fluorescence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calcium = {"bundle": "calcium", "data": "calcium.npz", "series": "arm"}
    common = ("--task", "arm_velocity_2d", "--points", "1,3,5,8", "--null", "random:2,bottom")
    for arguments, message in (
        (("--method", "silence"), "the method for fluorescence must be remove, got silence"),
        (("--null", "count:2"), "the method for fluorescence must be remove, got thin"),
        (("--order", "rate"), "the order of fluorescence must not be rate"),
    ):
        assert run(folder, tmp_path / "out", *common, *arguments, **calcium) == 2
        refused(capsys, message)
    assert list(tmp_path.iterdir()) == []
    assert run(folder, tmp_path / "out", *common, **calcium) == 0
    found = facts(tmp_path / "out")
    assert found["without_spikes"] is None
    assert "spikes_ranked" not in table(tmp_path / "out" / "items.csv")[0]
    values = {row["value"] for row in table(tmp_path / "out" / "curves.csv")}
    assert len(values) > 10

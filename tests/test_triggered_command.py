"""``attendrite triggered``: arrays, a table, figures and a report, whole or not at all."""

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
from attendrite import Engine, decode, read
from attendrite.__main__ import BAD_INPUT, INTERRUPTED, main
from attendrite.analysis import triggered
from attendrite.recordings import Intervals, Recording, Spikes

FIXTURES = Path(__file__).parent / "fixtures"
DEMO = Path(attendrite.__file__).parent / "_demo"
FILES = {"triggered.npz", "units.csv", "triggered.json", "maps.png", "curves.png", "report.html"}

pytestmark = pytest.mark.usefixtures("one_thread")


def recording(n_units: int = 24) -> Recording:
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(10.0, 70.0, 3000))
    spikes = Spikes(times, rng.integers(0, n_units, 3000).astype(np.int32))
    spikes.units[spikes.units == 5] = 4  # unit 5 is silent
    reach = Intervals(np.array([12.0, 40.0]), np.array([30.0, 62.0]))
    ids = tuple(f"sess_a/unit_{i:04d}" for i in range(n_units))
    return Recording("sess_a", ids, lambda: spikes, (10.0, 70.0), intervals={"reach": reach})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("triggered")
    attendrite.export(FIXTURES / "poyo_tiny/poyo_tiny_lightning.ckpt", root / "poyo")
    source = FIXTURES / "sensorium_reduced" / "sensorium_sota_model.pth"
    attendrite.export(source, root / "images")
    recording().save(root / "day.npz")
    recording(25).save(root / "stranger.npz")
    return root


def run(
    folder: Path, out: Path, *arguments: str, bundle: str = "poyo", data: str = "day.npz"
) -> int:
    return main(["triggered", str(folder / bundle), str(folder / data), "-o", str(out),
                 "--bin", "0.1", "--quiet", *arguments])  # fmt: skip


def facts(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "triggered.json").read_text(encoding="utf-8"))
    return found


def table(out: Path) -> list[dict[str, str]]:
    with (out / "units.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["triggered", str(DEMO / "linear_track_0"), str(DEMO / "linear_track.npz"), "-o",
                 str(out), "--bin", "0.25", "--start", "4400", "--stop", "5400"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert f"written to {out}" in printed
    assert "s of recorded spikes, " in printed
    assert {path.name for path in out.iterdir()} == FILES
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text(encoding="utf-8")
    for found in re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')> ]+)', page):
        assert found.startswith(("#", "data:image/png;base64,")), found[:60]
    with np.load(out / "triggered.npz") as stored:
        assert stored["average"].shape == (2, 31, 24)
        assert stored["outputs"].tolist() == ["x", "y"]
        np.testing.assert_allclose(stored["lags"], np.arange(-2.875, 3, 0.25))
    # The same of one place cell and one lag, by hand and on about the same times.
    recorded = read(DEMO / "linear_track.npz").slice(4400, 5400)
    times = np.arange(4410, 5390, 0.25)
    values = decode(Engine(DEMO / "linear_track_0"), recorded, times).values[:, 0]
    unit = recorded.spikes.units == 27
    counts = np.histogram(recorded.spikes.times[unit], np.append(times, times[-1] + 0.25))[0]
    row = next(r for r in table(out) if r["unit"].endswith("unit27") and r["output"] == "x")
    with np.load(out / "triggered.npz") as stored:
        at = stored["unit_ids"].tolist().index(row["unit"])
        rough = np.cov(values, counts)[0, 1] / values.std() / 0.25
        assert stored["average"][0, at, 12] == pytest.approx(rough, rel=0.1)
    assert float(row["p_value"]) < 0.05


def test_the_files_are_those_of_the_analysis(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(folder, out, "--within", "reach", "--start", "11", "--before", "0.35") == 0
    expected = triggered(Engine(folder / "poyo"), recording().slice(11, 70), within="reach",
                         width=0.1, before=0.35)  # fmt: skip
    with np.load(out / "triggered.npz") as stored:
        assert set(stored) == {"average", "even", "odd", "standard_error", "lags", "outputs",
                               "unit_ids"}  # fmt: skip
        np.testing.assert_array_equal(stored["average"], expected.average)
        assert stored["lags"][0] == pytest.approx(-0.35)  # 0.35 s are four bins
    rows = table(out)
    assert list(rows[0]) == list(expected.units)
    for name, values in expected.units.items():
        found = [row[name] for row in rows]
        if values.dtype.kind == "U":
            assert found == values.tolist()
        else:
            numbers = [float(x) if x else np.nan for x in found]
            np.testing.assert_allclose(numbers, values, rtol=1e-5, err_msg=name)
    assert (rows[5]["rate_hz"], rows[5]["peak_lag"], rows[5]["p_value"]) == ("0", "", "")
    said = facts(out)
    assert (said["input"], said["choices"]["within"], said["bin_s"]) == ("recorded", "reach", 0.1)
    assert said["lags_s"] == [pytest.approx(-0.4), pytest.approx(1.0)]


def test_poisson_spikes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    words = ("--input", "poisson", "--seconds", "90", "--causal", "--json")
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert run(folder, tmp_path / name, *words, "--seed", seed) == 0
    a, b, c = ((tmp_path / name / "triggered.npz").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    said = facts(tmp_path / "c")
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.rindex("\n{\n") :]) == said
    assert said["lags_s"] == [-1, 0]
    assert (said["choices"]["seed"], said["choices"]["causal"]) == (1, True)
    assert said["seconds"] == pytest.approx(89, abs=0.15)  # a window at the start
    with np.load(tmp_path / "a" / "triggered.npz") as stored:
        assert stored["weights"].shape == stored["average"].shape
        assert np.isnan(stored["weights"][:, 5]).all()
    share = [
        float(row["linear"] or 0) for row in table(tmp_path / "c") if row["output"] == "value0"
    ]
    assert sum(share) == pytest.approx(said["linear"]["value0"])
    assert "the model alone" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8")


def test_a_folder_of_triggered_may_be_replaced(folder: Path, tmp_path: Path) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    assert run(folder, out) == 0
    (out / "old").touch()
    assert run(folder, out) == BAD_INPUT
    assert run(folder, out, "--force") == 0
    assert not (out / "old").exists()
    mine.mkdir()
    assert run(folder, mine, "--force") == BAD_INPUT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bin", "0"], "the width of a bin must be a whole number of microseconds, got 0.0 s"),
        (["--before", "nan"], "lags before and after must be 0 s or more and not both 0, got nan"),
        (
            ["--after", "-1"],
            "lags before and after must be 0 s or more and not both 0, got 1.0 and",
        ),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--within", "run"], "unknown intervals 'run'; known: reach"),
        (["--seconds", "5"], "seconds must come with poisson spikes, got recorded"),
        (["--start", "30", "--stop", "20"], "a slice must lie in the domain 10.0 to 70.0 s"),
        (["--start", "69.5"], "query_times must lie where a window of 1 s fits"),
        (["--start", "65"], "the time to average over must hold two blocks"),
        (["--task", "speed"], "unknown task 'speed'; known: none"),
        (["--executor", "fast"], "unknown executor 'fast'"),
    ],
)
def test_bad_input(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert run(folder, tmp_path / "out", *arguments) == BAD_INPUT
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert message in said[0]
    assert list(tmp_path.iterdir()) == []


def test_models_and_recordings_that_do_not_fit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path / "out", bundle="images") == BAD_INPUT
    said = capsys.readouterr().err
    assert "must be a decoder of spikes, got a sensorium model; for receptive fields" in said
    assert run(folder, tmp_path / "out", data="stranger.npz") == BAD_INPUT
    assert "sess_a/unit_0024" in capsys.readouterr().err
    assert run(folder, tmp_path / "out", "--unknown", "drop", data="stranger.npz") == 0


@pytest.mark.parametrize("when", ["computing", "drawing"])
def test_interrupted_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    import attendrite.commands._triggered_report  # noqa: F401

    target: dict[str, Callable[[], Any]] = {
        "computing": lambda: monkeypatch.setattr(Engine, "run", stop),
        "drawing": lambda: monkeypatch.setattr("attendrite.commands._triggered_report.maps", stop),
    }
    target[when]()
    assert run(folder, tmp_path / "out") == INTERRUPTED
    assert list(tmp_path.iterdir()) == []

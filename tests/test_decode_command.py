"""``attendrite decode``: files written, scores printed, bad input refused before any file."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from attendrite import evaluation
from attendrite.__main__ import main
from attendrite.bundle import Bundle
from attendrite.decoding import decode
from attendrite.exporter import export
from attendrite.recordings import Intervals, Recording, Series, Spikes
from attendrite.runtime import Engine

CHECKPOINT = Path(__file__).parent / "fixtures" / "poyo_tiny" / "poyo_tiny_lightning.ckpt"


def recording(n_units: int = 24) -> Recording:
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(10.0, 16.0, 600))
    spikes = Spikes(times, rng.integers(0, n_units, 600).astype(np.int32))
    at = np.arange(10.0, 16.0, 0.05)
    hand = Series(at, np.stack([np.sin(at), np.cos(at)], 1), ("x", "y"), "m")
    reach = Intervals(np.array([12.0]), np.array([13.0]))
    ids = tuple(f"sess_a/unit_{i:04d}" for i in range(n_units))
    return Recording(
        "sess_a", ids, lambda: spikes, (10.0, 16.0), {"hand": hand}, {"reach": reach}
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle that knows its held-out time, and recordings."""
    root = tmp_path_factory.mktemp("decode")
    bundle = Bundle.load(export(CHECKPOINT, root / "plain"))
    split = evaluation.Split((10.0, 12.5, 16.0), ("training", "test"), 1.0, 1.0)
    facts = {"session": "sess_a", "split": split.to_json()}
    replace(bundle, manifest=replace(bundle.manifest, training=facts)).save(root / "told")
    recording().save(root / "day.npz")
    recording(25).save(root / "stranger.npz")
    return root


def run(folder: Path, *arguments: str, bundle: str = "plain", data: str = "day.npz") -> int:
    return main(["decode", str(folder / bundle), str(folder / data), *arguments])


def test_values_go_to_npz_as_decoded(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    assert run(folder, "--series", "hand", "-o", str(out)) == 0
    found = np.load(out)
    rec = recording()
    expected = decode(Engine(folder / "plain"), rec, rec.series["hand"].times)
    np.testing.assert_allclose(found["values"], expected.values, atol=1e-6)
    np.testing.assert_array_equal(found["times"], rec.series["hand"].times)
    np.testing.assert_array_equal(found["truth"], rec.series["hand"].values)
    assert found["columns"].tolist() == ["x", "y"]


def test_csv_holds_the_same_values(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert run(folder, "--rate", "10", "--causal", "-o", str(out)) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    times = np.arange(100, 160) / 10
    expected = decode(Engine(folder / "plain"), recording(), times, causal=True)
    found = np.array([[float(row["value0"]), float(row["value1"])] for row in rows])
    np.testing.assert_allclose(found, expected.values, atol=1e-6, equal_nan=True)
    assert [int(row["windows"]) for row in rows] == expected.windows.tolist()


def test_scores_are_on_held_out_time_inside_the_intervals(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--series", "hand", "--within", "reach", "--json", "-o", str(tmp_path / "o.npz")]
    assert run(folder, *options, bundle="told") == 0
    score = json.loads(capsys.readouterr().out)["score"]
    rec = recording()
    hand = rec.series["hand"]
    kept = (hand.times >= 12.5) & (hand.times <= 13.0)
    decoded = decode(Engine(folder / "told"), rec, hand.times)
    expected = evaluation.r2(hand.values[kept], decoded.values[kept])
    np.testing.assert_allclose(score["r2"], expected, atol=1e-4)
    assert score["samples"] == kept.sum()
    assert score["held_out"] is True
    assert run(folder, *options) == 0
    assert json.loads(capsys.readouterr().out)["score"]["held_out"] is False


def test_the_summary_says_what_was_scored(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--series", "hand", "--causal", "-o", str(tmp_path / "o.csv")) == 0
    out = capsys.readouterr().out
    assert "20 values lie where no whole window fits: NaN" in out
    assert "held-out time not known to the bundle" in out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_figure(folder: Path, tmp_path: Path, suffix: str) -> None:
    figure = tmp_path / f"figure.{suffix}"
    options = ["--series", "hand", "-o", str(tmp_path / "o.csv"), "--figure", str(figure)]
    assert run(folder, *options) == 0
    assert figure.stat().st_size > 5000


def test_strangers_are_refused_or_dropped(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rate", "10", "-o", str(tmp_path / "o.csv")]
    assert run(folder, *options, data="stranger.npz") == 2
    assert "1 units unknown to the bundle: sess_a/unit_0024" in capsys.readouterr().err
    assert not (tmp_path / "o.csv").exists()
    assert run(folder, *options, "--unknown", "drop", data="stranger.npz") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--series", "gaze"], "unknown series 'gaze'; known: hand"),
        (["--series", "hand", "--within", "rest"], "unknown intervals 'rest'; known: reach"),
        (["--rate", "0"], "--rate must be above 0 Hz"),
        (["--rate", "10", "--within", "reach"], "--within must come with --series"),
        (["--rate", "10", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["--rate", "10", "--start", "20"], "--start and --stop must hold a time to decode"),
        (["--rate", "10", "--hop", "2"], "hop must be above 0 and at most the window's 1 s"),
        (["--rate", "10", "--task", "gaze"], "unknown task 'gaze'"),
        (["--rate", "10", "--session", "s"], "session 's' unknown to the bundle"),
        (["--rate", "10", "--executor", "none"], "unknown executor 'none'"),
    ],
)
def test_bad_input(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    message: str,
) -> None:
    out = tmp_path / "out.npz"
    assert run(folder, *arguments, "-o", str(out)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_the_output_must_be_of_a_known_kind(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--rate", "10", "-o", str(tmp_path / "out.mat")) == 2
    assert "unknown kind of output '.mat'; known: .npz, .csv" in capsys.readouterr().err
    picture = ["--figure", str(tmp_path / "figure.bmp")]
    assert run(folder, "--rate", "10", "-o", str(tmp_path / "out.csv"), *picture) == 2
    assert "unknown kind of figure '.bmp'; known: .png, .svg, .pdf" in capsys.readouterr().err

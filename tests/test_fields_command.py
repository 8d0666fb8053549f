"""``attendrite fields``: arrays, tables, figures and a report, the same bytes from any workers."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite import Engine, shards
from attendrite.__main__ import BAD_INPUT, INTERRUPTED, main
from attendrite.commands.fields import _added, _count
from attendrite.fields import Settings, job, receptive_fields

FIXTURES = Path(__file__).parent / "fixtures"
MOUSE = "26872-17-20"
IMAGES, BLOCK = 260, 32  # small blocks, so that there are some shards
FILES = {
    "run.json", "shards", "fields.npz", "units.csv", "units.parquet", "fields.json",
    "gallery.png", "distributions.png", "report.html",
}  # fmt: skip
PARQUET = all(importlib.util.find_spec(package) for package in ("pandas", "pyarrow"))
# The command with small shards that take a while, so that it can be stopped between them.
SLOWLY = """
import sys, time
from attendrite.__main__ import main
from attendrite.fields import sums

def run(self, shard, run=sums.FieldSums.run):
    time.sleep(float(sys.argv[2]))
    return run(self, shard)

sums.BLOCK, sums.FieldSums.run = int(sys.argv[1]), run
sys.exit(main(sys.argv[3:]))
"""

pytestmark = pytest.mark.usefixtures("compiled_fits", "one_thread")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attendrite.fields.sums.BLOCK", BLOCK)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = FIXTURES / "sensorium_reduced" / "sensorium_sota_model.pth"
    return attendrite.export(source, tmp_path_factory.mktemp("fields") / "bundle")


def words(bundle: Path, out: Path, *arguments: str) -> list[str]:
    given = ["--images", str(IMAGES)] if not {"--images", "--stimuli"} & set(arguments) else []
    where = [] if "--processes" in arguments else ["--processes", "1"]
    mouse = [] if "--mouse" in arguments else ["--mouse", MOUSE]
    return ["fields", str(bundle), "-o", str(out), *mouse, *given, "--threads", "1", *where,
            *arguments]  # fmt: skip


def run(bundle: Path, out: Path, *arguments: str) -> int:
    return main(words(bundle, out, *arguments, "--quiet"))


def results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "units.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def facts(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "fields.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def truth(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("truth") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attendrite.fields.sums.BLOCK", BLOCK)
        assert run(bundle, out) == 0
    assert len(list((out / "shards").iterdir())) == 8
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
    for name in ("gallery.png", "distributions.png"):
        assert (truth / name).read_bytes().startswith(b"\x89PNG")


def test_files_are_what_the_library_gives(bundle: Path, truth: Path) -> None:
    expected = receptive_fields(Engine(bundle, threads=1), Settings(MOUSE, IMAGES))
    with np.load(truth / "fields.npz") as file:
        assert set(file.files) == {"field", "even", "odd", "standard_error"}
        for name in file.files:
            assert file[name].tobytes() == getattr(expected, name).tobytes()
    table = rows(truth)
    assert list(table[0]) == list(expected.units)
    for column, values in expected.units.items():
        found = [row[column] for row in table]
        if values.dtype.kind in "Ub":
            assert found == [str(x) for x in values.tolist()]
        else:
            numbers = [float(x) if x else np.nan for x in found]
            np.testing.assert_allclose(numbers, values, rtol=1e-8, err_msg=column)
    assert facts(truth) == json.loads(json.dumps(expected.meta))


@pytest.mark.skipif(not PARQUET, reason="no pandas or pyarrow")
def test_parquet_is_csv(truth: Path) -> None:
    import pandas as pd

    whole = pd.read_parquet(truth / "units.parquet")
    text = pd.read_csv(truth / "units.csv").astype({"fit": str})
    whole = whole.astype({"fit": str})
    pd.testing.assert_frame_equal(text, whole, check_dtype=False, rtol=1e-8, atol=0)


def test_what_is_printed(
    bundle: Path, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for way in ("plain", "json"):
        assert run(bundle, tmp_path / way, *(["--json"] if way == "json" else [])) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        if way == "json":
            assert json.loads(printed.out) == facts(tmp_path / way) == facts(truth)
        else:
            assert f"from {IMAGES} images; median split-half correlation" in printed.out
            assert printed.out.endswith(f"written to {tmp_path / way}\n")
            assert "nan" not in printed.out


def test_progress(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(bundle, tmp_path / "out")) == 0
    told = capsys.readouterr().err
    units = facts(tmp_path / "out")["units"]
    mebibytes = 8 * 8 * units * 36 * 64 / (1 << 20)
    assert told.startswith(f"{IMAGES} images in 8 shards, {mebibytes:.1f} MiB in")
    last = told.splitlines()[-1]
    reliability = facts(tmp_path / "out")["reliability"]
    assert re.search(rf"260/260 \[.*images/s, reliability {reliability:.3f}\]", last)


@pytest.mark.parametrize(
    ("missing", "told"),
    [  # of shards of 32 or 33 images that take a second each
        ([6, 7], [*["00:00<?, ?"] * 3, "00:02<00:00, 32.5"]),
        ([2, 5], ["00:00<?, ?", "00:02<00:08, 16.0", "00:04<00:04, 16.2", "00:06<00:00, 10.8"]),
        ([], ["00:00<?, ?"] * 4),
    ],
)
def test_progress_of_what_is_continued(
    bundle: Path,
    truth: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    missing: list[int],
    told: list[str],
) -> None:
    out = tmp_path / "out"
    shutil.copytree(truth, out)
    for shard in missing:
        (out / f"shards/{shard:06d}.npz").unlink()
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)))
    monkeypatch.setattr("attendrite.commands.fields.time", clock)
    monkeypatch.setattr("attendrite.commands.fields.LINE_S", 0.0)
    work = job(Engine(bundle, threads=1), Settings(MOUSE, IMAGES))
    _added(work, shards.run(work, out, processes=1, progress=False), out, shown=True)
    assert re.findall(r"\[(.*) images/s, reliability", capsys.readouterr().err) == told


def test_the_report(truth: Path) -> None:
    page = (truth / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    for found in re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')> ]+)', page):
        assert found.startswith(("#", "data:image/png;base64,")), found[:60]
    for title in ("Fields", "Distributions", "Units", "Choices"):
        assert f"<h2>{title}</h2>" in page


@pytest.mark.slow
def test_every_option_is_a_choice_of_the_result(tmp_path: Path) -> None:
    source = FIXTURES / "sensorium_reduced" / "sensorium_p_ln_model.pth"
    told = attendrite.export(source, tmp_path / "p")
    arguments = ("--mouse", "27204-5-13", "--images", "64", "--noise", "binary", "--seed", "7",
                 "--behavior", "1,0.5,2", "--pupil=-0.5,1", "--batch-size", "16")  # fmt: skip
    assert run(told, tmp_path / "out", *arguments) == 0
    choices = facts(tmp_path / "out")["choices"]
    assert choices == {
        "stimuli": "binary", "seed": 7, "recipe": "default", "mode": "evaluation",
        "standardised_by": {"mean": 0.0, "sd": 1.0}, "behavior": [1.0, 0.5, 2.0],
        "pupil": [-0.5, 1.0], "readout_shift": True, "batch_size": 16, "screen": None,
    }  # fmt: skip
    assert run(told, tmp_path / "v1t", "--mouse", "27204-5-13", "--images", "1e2", "--recipe",
               "v1t") == 0  # fmt: skip
    found = facts(tmp_path / "v1t")
    assert found["images"] == 100
    assert found["choices"]["behavior"] == [0.0, 0.0, 0.0]
    assert not found["choices"]["readout_shift"]
    with np.load(tmp_path / "v1t/fields.npz") as file:
        assert file["raw"].shape == file["field"].shape
        assert file["popts"].shape == (found["units"], 7)


def test_images_of_a_file(bundle: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((80, 1, 36, 64)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    told = ("--stimuli", str(tmp_path / "images.npy"))
    assert run(bundle, tmp_path / "out", *told) == 0
    found = facts(tmp_path / "out")
    assert found["images"] == 80
    assert found["linear"] is found["linear_error"] is None
    assert not found["white"]
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "not known to be white" in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    assert {row["linear"] for row in rows(tmp_path / "out")} == {""}


def test_a_screen_for_a_finished_folder(
    bundle: Path, truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(truth, out)
    monkeypatch.setattr("attendrite.fields.sums.FieldSums.run", None)  # nothing is computed
    assert run(bundle, out, "--cm-per-px", "0.883", "--distance-cm", "20") == 0
    table, before = rows(out), rows(truth)
    assert [{name: row[name] for name in before[0]} for row in table] == before
    degrees = ("sigma_x_deg", "sigma_y_deg", "size_deg", "azimuth_deg", "elevation_deg")
    assert tuple(table[0])[len(before[0]) :] == degrees
    fitted = [row for row in table if row["fit"] == "converged"]
    assert fitted
    for row in fitted:
        px = [float(row[name]) for name in ("sigma_x", "sigma_y", "size")]
        px += [float(row["x0"]) - 31.5, 17.5 - float(row["y0"])]
        found = [float(row[name]) for name in degrees]
        np.testing.assert_allclose(np.tan(np.radians(found)), np.array(px) * 0.883 / 20, rtol=1e-6)
    assert facts(out)["choices"]["screen"] == {"cm_per_px": 0.883, "distance_cm": 20.0}
    for folder, unit in ((truth, "pixels"), (out, "degrees")):
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert f"sd of the Gaussian ({unit})" in page
        assert ("azimuth_deg" in page) == (unit == "degrees")


# ---- the same bytes ----


@pytest.mark.slow
def test_stopped_and_started_again(bundle: Path, tmp_path: Path, truth: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(BLOCK), "0.5", *words(bundle, out)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ,
        start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 120
    while len(list((out / "shards").glob("[0-9]*.npz"))) < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == INTERRUPTED
    assert "the same command goes on" in told
    assert 3 <= len(list((out / "shards").glob("[0-9]*.npz"))) < 8
    assert not (out / "fields.npz").exists()
    assert run(bundle, out) == 0
    same(out, truth)


@pytest.mark.slow
def test_shares_and_processes(
    bundle: Path, tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for share in ("2/3", "1/3"):
        assert run(bundle, out, "--shard", share) == 0
        assert "shards are in" in capsys.readouterr().out
        assert not (out / "fields.npz").exists()
    script = SLOWLY.replace("sys.exit(main", "if __name__ == '__main__': sys.exit(main")
    (tmp_path / "script.py").write_text(script)  # workers import it
    given = words(bundle, out, "--processes", "2", "--quiet")
    subprocess.run([sys.executable, tmp_path / "script.py", str(BLOCK), "0", *given], check=True)
    same(out, truth)


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mouse", "Z"], "unknown mouse 'Z'"),
        (["--stimuli", "none.npy"], "none.npy must be an .npy file"),
        (["--behavior", "a,b"], "--behavior must be like 1.2,0,0.4, got 'a,b'"),
        (["--recipe", "v1t", "--noise", "binary"], "noise of the recipe v1t must be uniform"),
        (["--images", "1"], "images must be two at least"),
        (["--seed", "-1"], "seed must lie in 0..2^64-1"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--cm-per-px", "0"], "cm_per_px must be a number above 0, got 0.0"),
        (["--cm-per-px", "1", "--distance-cm", "nan"], "distance_cm must be a number above 0"),
        (["--distance-cm", "20"], "--distance-cm must come with --cm-per-px, got it alone"),
        (["--shard", "4/3"], "a share i/n must have 1 <= i <= n"),
    ],
)
def test_bad_input_is_one_line(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    assert run(bundle, tmp_path / "out", *arguments) == BAD_INPUT
    told = capsys.readouterr().err
    assert told.startswith("attendrite fields: ")
    assert told.count("\n") == 1
    assert said in told
    assert not (tmp_path / "out").exists()


def test_without_a_number_of_images(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [word for word in words(bundle, tmp_path / "out") if word not in ("--images", "260")]
    assert main(told) == BAD_INPUT
    assert "images must be a number, for noise" in capsys.readouterr().err


def test_other_options_and_other_folders(
    bundle: Path, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = results(truth)
    assert run(bundle, truth, "--seed", "1") == BAD_INPUT
    assert "seed of the run" in capsys.readouterr().err
    assert results(truth) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    assert run(bundle, tmp_path / "mine") == BAD_INPUT
    assert "must be new, or the folder of such a run" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("text", ["1000", "1_000", "1e3", "1000.0"])
def test_a_number_of_images(text: str) -> None:
    assert _count(text) == 1000


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "many", "nan", "inf"])
def test_no_number_of_images(
    bundle: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(bundle, tmp_path / "out", f"--images={text}")
    assert end.value.code == BAD_INPUT
    assert "must be a whole number above 0" in capsys.readouterr().err

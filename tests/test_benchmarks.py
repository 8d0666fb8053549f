"""Benchmarks: suites run, rows are whole, wrong results are never timed, tables follow rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
SUITES = sorted(p.stem for p in (BENCHMARKS / "suites").glob("[a-z]*.py"))


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script of the folder as a user does, from elsewhere."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300,
        cwd=BENCHMARKS / "results", env={**os.environ, "PYTHONWARNINGS": "default"},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_runs_and_its_rows_are_whole(suite: str, tmp_path: Path) -> None:
    from rows import FIELDS

    if suite in ("decode", "latency"):
        pytest.importorskip("torch_brain", reason="torch_brain")  # whose model is decoded
    done = command(BENCHMARKS / "run.py", suite, "--quick", "--json", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / f"{suite}.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        assert tuple(row) == FIELDS
        assert row["suite"] == suite
        assert row["case"].startswith(f"{suite}/")
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["n"] >= 1
        assert row["throughput"] > 0
        assert (row["p999_ms"] is None) == (row["n"] < 20_000)
        assert row["cpu"]
        assert {"python", "numpy", "attendrite"} <= row["versions"].keys()
    who = ("case", "implementation", "dtype", "threads")
    names = [tuple(row[field] for field in who) for row in rows]
    assert len(set(names)) == len(names), "each implementation has one row in a case"
    for case in {row["case"] for row in rows}:
        ours = [r for r in rows if r["case"] == case and r["implementation"].startswith("attend")]
        assert ours, f"{case} has no row of ours"
        assert case in done.stdout


def contestant(result: float = 1.0, **options: Any) -> Any:
    from timing import Contestant

    return Contestant("attendrite:test", lambda: result, lambda found: abs(found - 1.0), **options)


def test_a_wrong_result_is_never_timed() -> None:
    from timing import Case, measure

    case = Case("suite/case", 1.0, "things", contestants=[contestant(), contestant(1.5)])
    with pytest.raises(
        RuntimeError, match=r"attendrite:test must be within 0 of .*got 0.5; nothing"
    ):
        measure(case, share_s=0.01)
    case = Case("suite/case", 1.0, "things", contestants=[contestant(float("nan"))])
    with pytest.raises(RuntimeError, match="got nan"):
        measure(case, share_s=0.01)


def test_a_deviation_that_is_what_is_measured_gets_its_row() -> None:
    from timing import Case, measure

    case = Case("suite/case", 2.0, "things", contestants=[contestant(1.5, tolerance=None)])
    (row,) = measure(case, share_s=0.01)
    assert row["error"] == 0.5
    assert row["throughput_unit"] == "Mthings/s"
    assert row["throughput"] == pytest.approx(2000.0 / row["p50_ms"])


def test_calls_are_interleaved_and_each_follows_an_untimed_one() -> None:
    from timing import Case, Contestant, measure

    calls: list[str] = []
    two = [Contestant(name, lambda name=name: calls.append(name), lambda _: 0.0) for name in "ab"]
    first, second = measure(Case("s/c", 1.0, "x", rounds=5, contestants=two), share_s=1.0)
    assert first["n"] == second["n"] == 5
    turns = "".join(calls)[-20:]
    assert {turns[i : i + 4] for i in range(0, 20, 4)} == {"aabb", "bbaa"}, "in random order"


def test_slow_implementations_sit_out_rounds() -> None:
    import time

    from timing import Case, Contestant, measure

    slow = Contestant("slow", lambda: time.sleep(0.02), lambda _: 0.0)
    case = Case("s/c", 1.0, "x", rounds=30, contestants=[slow, contestant()])
    taken, fast = measure(case, share_s=0.1)
    assert 3 <= taken["n"] < 30
    assert fast["n"] == 30


def test_the_tail_needs_enough_calls() -> None:
    from rows import quantiles

    assert quantiles([0.001] * 19_999)["p999_ms"] is None
    found = quantiles([0.001] * 19_900 + [1.0] * 100)
    assert found["p999_ms"] == 1000.0
    assert found["p50_ms"] == 1.0
    assert found["max_ms"] == 1000.0


def test_missing_peers_are_skipped_visibly() -> None:
    from peers import join
    from summary import table
    from timing import Case, measure

    def nobody() -> Any:
        import surely_not_installed

        return surely_not_installed

    case = join(Case("suite/case", 1.0, "things"), [nobody, contestant])
    shown = table(case, measure(case, share_s=0.01))
    assert "skipped: nobody (surely_not_installed is not installed)" in shown


def test_unknown_suites_and_threads_are_refused() -> None:
    done = command(BENCHMARKS / "run.py", "knitting")
    assert done.returncode == 2
    assert "invalid choice: 'knitting'" in done.stderr
    done = command(BENCHMARKS / "run.py", "tokenize", "--threads", "0")
    assert done.returncode == 2
    assert "--threads must be at least 1, got 0" in done.stderr


# Tables


def row(case: str, implementation: str, ms: float, **other: Any) -> dict[str, Any]:
    from rows import FIELDS

    made = dict.fromkeys(FIELDS)
    return made | {
        "suite": "spin", "case": case, "implementation": implementation, "threads": 1,
        "p50_ms": ms, "p99_ms": ms, "throughput": 1 / ms, "throughput_unit": "Mspikes/s",
        "error": 0.0, "cpu": "a CPU", "commit": "abc", "date": "2026-11-20T10:00:00Z",
    } | other  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    from rows import save

    rows = [
        row("spin/a", "attendrite:native", 0.5),
        row("spin/a", "numba_loop", 0.25),
        row("spin/a", "slowpy", 8.0, error=0.125),
        row("spin/a", "fastpy", 2.0),
        row("spin/a", "fastpy", 1.0, threads=2),
        row("spin/b", "attendrite:native", 3.0, n=5, p80_ms=3.5, max_ms=4.0),
    ]
    save(tmp_path / "spin.jsonl", rows)
    return tmp_path


def filled(marker: str, results: Path) -> list[str]:
    from tables import fill

    text = fill(f"before\n<!-- rows: {marker} -->\nold\n<!-- end -->\nafter\n", results)
    assert text.startswith(f"before\n<!-- rows: {marker} -->\n| ")
    assert text.endswith("\n\nMeasured on a CPU, commit abc, 2026-11-20.\n<!-- end -->\nafter\n")
    assert fill(text, results) == text, "filling twice changes nothing"
    return [line for line in text.splitlines() if line.startswith("|")][2:]


def test_tables_compare_with_the_fastest_library(results: Path) -> None:
    lines = filled("spin case=spin/a threads=1", results)
    assert lines == [
        "| spin/a | `numba_loop` | 1 | 250 us | 250 us | 4 Mspikes/s | 8 x fastpy |",
        "| spin/a | `attendrite:native` | 1 | 500 us | 500 us | 2 Mspikes/s | 4 x fastpy |",
        "| spin/a | `fastpy` | 1 | 2 ms | 2 ms | 500 kspikes/s | 1 x fastpy |",
        "| spin/a | `slowpy` | 1 | 8 ms | 8 ms | 125 kspikes/s | 0.25 x fastpy |",
    ]


def test_tables_compare_with_the_peer_that_is_named(results: Path) -> None:
    lines = filled("spin case=*/a implementation=attendrite:*|numba* relative=slowpy", results)
    assert [line.rpartition(" | ")[2] for line in lines] == ["32 x slowpy |", "16 x slowpy |"]


def test_tables_of_errors_have_a_column_for_each_case(results: Path) -> None:
    lines = filled("spin show=error implementation=slowpy|attend*", results)
    assert lines == ["| `attendrite:native` | 0 % | 0 % |", "| `slowpy` | 12.5 % |  |"]


def test_tables_of_tails_show_the_slowest_calls(results: Path) -> None:
    lines = filled("spin case=spin/b show=tail", results)
    assert lines == ["| spin/b | `attendrite:native` | 5 | 3 ms | 3.5 ms | 3 ms |  | 4 ms |"]


def score(method: str, support: str, r2: list[list[float]], **other: Any) -> dict[str, Any]:
    return {
        "suite": "demo", "task": "maze", "selection": "running", "method": method,
        "support": support, "columns": ["x", "y"], "unit": "px", "samples": 9, "window_s": 3.0,
        "seeds": [0, 1] if r2[1:] else [], "r2": r2, "median_error": [4.0, 7.0][: len(r2)],
        "settings": {}, "versions": {"attendrite": "1.2"},
    } | other  # fmt: skip


@pytest.fixture
def scored(results: Path) -> Path:
    lines = [
        score("poyo", "causal", [[0.5, 0.25], [0.75, 0.375]]),
        score("ridge", "causal", [[-1.0, 0.5]], settings={"bins": 6, "penalty": 0.5}),
        score("poyo", "acausal", [[1.0, 0.0], [0.0, 0.0]]),
        score("ridge", "acausal", [[0.125, 0.5]], settings={"bins": 7, "penalty": 0.5}),
        score("poyo", "causal", [[0.1, 0.1], [0.2, 0.2]], selection="moving", samples=11),
        score("poyo", "causal", [[0.3], [0.3]], task="song", columns=["hz"]),
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (results / "demo.jsonl").write_text(text)
    return results


def of_demo(marker: str, results: Path) -> list[str]:
    from tables import table

    return table(f"demo {marker}", results).splitlines()


def test_scores_have_a_line_for_each_method(scored: Path) -> None:
    head, _, poyo, ridge, _, said = of_demo("task=maze", scored)
    assert head == (
        "| held-out R2 | causal x | causal y | causal median error, px "
        "| acausal x | acausal y | acausal median error, px |"
    )
    assert poyo == (
        "| poyo | 0.62 [0.50, 0.75] | 0.31 [0.25, 0.38] | 5.5 [4.0, 7.0] "
        "| 0.50 [0.00, 1.00] | 0.00 [0.00, 0.00] | 5.5 [4.0, 7.0] |"
    )
    assert ridge == "| ridge | -1.00 | 0.50 | 4.0 | 0.12 | 0.50 | 4.0 |"
    assert said == (
        "9 held-out samples (running), windows of 3 s; mean over 2 training seeds "
        "[lowest, highest]; attendrite 1.2."
    )


def test_scores_of_another_selection_are_not_mixed_in(scored: Path) -> None:
    _, _, poyo, _, said = of_demo("task=maze selection=moving", scored)
    assert poyo == "| poyo | 0.15 [0.10, 0.20] | 0.15 [0.10, 0.20] | 5.5 [4.0, 7.0] |"
    assert said.startswith("11 held-out samples (moving)")


def test_settings_of_baselines_are_shown(scored: Path) -> None:
    lines = of_demo("task=maze show=settings", scored)[2:4]
    assert lines == [
        "| ridge | causal | bins 6, penalty 0.5 |",
        "| ridge | acausal | bins 7, penalty 0.5 |",
    ]


@pytest.mark.parametrize("asked", ["", "task=knitting", "task=song selection=moving"])
def test_scores_that_do_not_exist_are_refused(asked: str, scored: Path) -> None:
    with pytest.raises(
        ValueError, match="must name task and selection of maze/running maze/moving"
    ):
        of_demo(asked, scored)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("none", "rows of 'none' must exist"),
        ("spin case=spin/z", "a marker must choose rows, got none for 'spin case=spin/z'"),
        ("spin colour=red", "unknown option 'colour'; known: case"),
        ("demo case=track", "unknown option 'case'; known: selection"),
    ],
)
def test_markers_without_rows_are_refused(marker: str, message: str, results: Path) -> None:
    from tables import fill

    with pytest.raises(ValueError, match=message):
        fill(f"<!-- rows: {marker} -->\n<!-- end -->", results)


def test_rows_with_missing_fields_are_refused(tmp_path: Path) -> None:
    from rows import load

    (tmp_path / "spin.jsonl").write_text('{"suite": "spin"}\n')
    with pytest.raises(ValueError, match=r"spin.jsonl:1 must have the fields case, "):
        load(tmp_path / "spin.jsonl")


def test_a_stale_document_is_found_and_mended(tmp_path: Path, results: Path) -> None:
    import tables

    document = tmp_path / "page.md"
    marker = "<!-- rows: spin case=spin/b -->"
    document.write_text(f"{marker}\n| typed by hand |\n<!-- end -->\n")
    assert tables.update([document], None, results) == [document]
    assert "typed by hand" in document.read_text()
    assert tables.update([document], Path.write_text, results) == [document]
    assert tables.update([document], None, results) == []


def test_the_tables_of_all_documents_are_what_the_rows_say() -> None:
    done = command(BENCHMARKS / "tables.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr

"""``attendrite verify`` and ``inspect --explain``: what runs here, and whether it is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite import AttendriteError, Bundle, executors, models
from attendrite.__main__ import main
from attendrite.capture import AXES
from attendrite.executors._attend import ForwardExecutor
from attendrite.runtime import DTYPES
from attendrite.verification import Finding, Refusal, random_batch, verify

FIXTURES = Path(__file__).parent / "fixtures"
SOURCES = {
    "poyo": "poyo_tiny/poyo_tiny_lightning.ckpt",
    "poyo_plus": "poyo_plus_tiny/plus_tiny_lightning.ckpt",
    "calcium_poyo_plus": "poyo_plus_tiny/calcium_tiny_lightning.ckpt",
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {n: attendrite.export(FIXTURES / s, folder / n) for n, s in SOURCES.items()}


@pytest.mark.parametrize("family", SOURCES)
def test_every_executor_is_right(bundles: dict[str, Path], family: str) -> None:
    results = list(verify(Bundle.load(bundles[family])))
    findings = [result for result in results if isinstance(result, Finding)]
    assert all(finding.passes for finding in findings), [f for f in findings if not f.passes]
    torchs = {f.what for f in findings if f.executor == "torch" and f.dtype == "float32"}
    assert {what.rpartition("/")[2] for what in torchs} >= AXES.keys()
    refused = {(r.executor, r.dtype) for r in results if isinstance(r, Refusal)}
    compared = {(f.executor, f.dtype) for f in findings}
    others = {(name, dtype) for name in executors.names() for dtype in DTYPES}
    assert compared | refused == {(name, d) for name, d in others if name != "reference"}


@pytest.mark.parametrize("family", SOURCES)
def test_inputs_are_random_and_valid(bundles: dict[str, Path], family: str) -> None:
    manifest = Bundle.load(bundles[family]).manifest
    kind = models.load(family).batch

    def made(seed: int) -> Any:
        return random_batch(manifest, kind, windows=3, units=7, queries=4, seed=seed)

    first, again, other = made(0), made(0), made(1)
    first.check(manifest)
    assert len(first) == 3
    assert len(first.unit_ids) == 7
    for field in vars(first):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert not np.array_equal(first.query_times, other.query_times)
    assert not first.window_units.all()


def test_one_window_has_spikes(bundles: dict[str, Path]) -> None:
    manifest = Bundle.load(bundles["poyo"]).manifest
    kind = models.load("poyo").batch
    batch: Any = random_batch(manifest, kind, windows=1, units=9, queries=1, seed=0)
    assert len(batch.times) > 0


@pytest.mark.parametrize("what", ["windows", "units", "queries"])
def test_numbers_that_make_no_batch(bundles: dict[str, Path], what: str) -> None:
    sizes = {"windows": 1, "units": 1, "queries": 1, what: 0}
    with pytest.raises(AttendriteError, match=f"{what} must be at least 1, got 0"):
        list(verify(Bundle.load(bundles["poyo"]), **sizes))


class TestCommand:
    def test_all_is_well(
        self, bundles: dict[str, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["verify", str(bundles["poyo"]), "--windows", "2"]) == 0
        text = capsys.readouterr().out
        assert "all as the reference" in text
        assert "WRONG" not in text
        assert "torch     float32  prediction" in text

    def test_a_wrong_executor(
        self,
        bundles: dict[str, Path],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        right = ForwardExecutor.run

        def wrong(self: Any, *arguments: Any) -> Any:
            prediction, found = right(self, *arguments)
            if self._backend is None:  # the executor torch
                found["decoder", "entropy"] = found["decoder", "entropy"] + 1e-3
            return prediction, found

        monkeypatch.setattr(ForwardExecutor, "run", wrong)
        assert main(["verify", str(bundles["poyo"]), "--json"]) == 1
        facts = json.loads(capsys.readouterr().out)
        assert not facts["passes"]
        bad = {(f["executor"], f["what"]) for f in facts["findings"] if not f["passes"]}
        assert bad == {("torch", "decoder/entropy")}
        assert main(["verify", str(bundles["poyo"])]) == 1
        text = capsys.readouterr().out
        assert "WRONG at decoder/entropy" in text
        assert "arrays are wrong" in text

    def test_a_number_that_is_none_is_wrong(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right = ForwardExecutor.run

        def wrong(self: Any, *arguments: Any) -> Any:
            prediction, found = right(self, *arguments)
            return (prediction * float("nan") if self._backend is None else prediction), found

        monkeypatch.setattr(ForwardExecutor, "run", wrong)
        assert main(["verify", str(bundles["poyo"])]) == 1


class TestExplain:
    def test_text(self, bundles: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["inspect", str(bundles["poyo"]), "--explain"]) == 0
        text = capsys.readouterr().out
        assert "executors on cpu, float32" in text
        assert text.count("taken by auto") >= len({*DTYPES} - {"bfloat16"})
        assert "executors on cpu, bfloat16" in text

    def test_what_auto_takes_is_said(
        self, bundles: dict[str, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["inspect", str(bundles["poyo"]), "--explain", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["executors"]
        assert {(row["device"], row["dtype"]) for row in rows} == {
            (device, dtype) for device in ("cpu", "cuda") for dtype in DTYPES
        }
        for row in rows:
            assert set(row["refusals"]) == set(executors.names())
            if row["auto"] is None:
                assert None not in row["refusals"].values()
                assert row["device"] == "cuda" or row["dtype"] == "bfloat16"
            elif row["device"] == "cpu":
                engine = attendrite.Engine(bundles["poyo"], dtype=row["dtype"])
                assert row["auto"] == engine.executor
                assert row["refusals"][row["auto"]] is None

    def test_without_it_nothing_is_loaded(
        self, bundles: dict[str, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["inspect", str(bundles["poyo"])]) == 0
        assert "executors on" not in capsys.readouterr().out

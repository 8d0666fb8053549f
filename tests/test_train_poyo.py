"""The training script on a toy recording: what it may look at, stopping, and what it exports."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from attendrite.decoding import decode
from attendrite.errors import AttendriteError
from attendrite.recordings import Intervals, Recording, Series, Spikes
from attendrite.runtime import Engine

pytest.importorskip("torch_brain")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "train_poyo.py"
SMALL = [
    "--series", "place", "--within", "run", "--blocks", "5", "--test", "2", "--length", "0.5",
    "--latent-step", "0.25", "--latents", "2", "--dim", "8", "--dim-head", "8", "--depth", "1",
    "--steps", "6", "--every", "3", "--batch", "4", "--queries", "4",
]  # fmt: skip


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_poyo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_poyo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    times = np.arange(0, 60, 0.1)
    place = np.stack([300 + 50 * np.sin(times), 100 + 9 * np.cos(times)], 1)
    start = np.arange(0, 60, 4.0)
    out = Recording(
        "toy/place", ("a", "b", "c"),
        lambda: Spikes.from_trains([np.sort(rng.uniform(0, 60, 300)) for _ in range(3)]),
        (0.0, 60.0),
        {"place": Series(times, place, ("x", "y"), "px")},
        {"run": Intervals(start, start + 3)},
    )  # fmt: skip
    out.save(tmp_path / "toy.npz")
    return tmp_path / "toy.npz"


def train(script: ModuleType, recording: Path, out: Path, *more: str) -> dict[str, Any]:
    assert script.main([str(recording), "-o", str(out), *SMALL, *more]) == 0
    facts: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return facts


def options_of(script: ModuleType, recording: Path) -> Any:
    kept: list[Any] = []

    class Stop(Exception):
        pass

    def training(_: Any, options: Any, __: Path) -> None:
        kept.append(options)
        raise Stop

    patch = pytest.MonkeyPatch()
    patch.setattr(script, "Training", training)
    with pytest.raises(Stop):
        script.main([str(recording), "-o", "out", *SMALL])
    patch.undo()
    return kept[0]


def test_windows_of_training_stay_in_training_time(script: ModuleType, recording: Path) -> None:
    loaded = script.read(recording)
    options = options_of(script, recording)
    assert options.validation == ((0,), (1,), (3,), (4,))
    split = script.split_of(loaded, options)
    for one in [split, *split.folds()]:
        feed = script.Feed(loaded, options, one)
        seen: list[np.ndarray] = []
        inner = feed.batch
        feed.batch = lambda starts, *rest, inner=inner, seen=seen: (
            seen.append(starts), inner(starts, *rest),
        )[1]  # fmt: skip
        rng = np.random.default_rng(0)
        for _ in range(50):
            feed.draw(rng)
        starts = np.concatenate(seen)
        here = one.intervals("training")
        assert script.inside(starts, here, 0, options.length).all()
        assert not script.inside(starts, one.intervals("test")).any()
        # random offsets: no two windows begin at the same part of the half second
        assert np.histogram(starts % 0.5, 5)[0].min() > len(starts) / 10


def test_targets_are_the_series_at_the_queries(script: ModuleType, recording: Path) -> None:
    loaded, options = script.read(recording), options_of(script, recording)
    feed = script.Feed(loaded, options, script.split_of(loaded, options))
    kept: dict[str, Any] = {}
    inner = feed.batch
    feed.batch = lambda starts, queries, *rest: (
        kept.update(at=starts[:, None] + queries), inner(starts, queries, *rest),
    )[1]  # fmt: skip
    _, targets, counts = feed.draw(np.random.default_rng(1))
    truth = loaded.series["place"]
    x = np.interp(kept["at"], truth.times, truth.values[:, 0])
    assert np.allclose(targets[..., 0] * feed.scale[0] + feed.mean[0], x, atol=1e-4)
    assert np.array_equal(counts, (kept["at"] % 4 <= 3) & counts.numpy())


def test_the_bundle_speaks_in_the_unit_of_the_series(
    script: ModuleType, recording: Path, tmp_path: Path
) -> None:
    facts = train(script, recording, tmp_path / "bundle")["training"]
    assert facts["unit_dropout"] == 0.2
    assert facts["session"] == "toy/place"
    assert len(facts["validation"]) == 2
    assert facts["steps"] in (3, 6)
    engine, loaded = Engine(tmp_path / "bundle"), script.read(recording)
    blocks = script.Split.from_json(facts["split"]).intervals("test")
    values = decode(engine, loaded, np.array([30.0]), causal=True, intervals=blocks).values
    assert abs(values[0, 0] - facts["target_mean"][0]) < 4 * facts["target_scale"][0]
    assert 200 < values[0, 0] < 400  # px, not standard deviations


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    script: ModuleType, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(script, recording, tmp_path / "whole")
    monkeypatch.chdir(tmp_path)
    inner, left = script.Run.advance, [7]

    def interrupted(self: Any) -> float:
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGINT)
        return float(inner(self))

    monkeypatch.setattr(script.Run, "advance", interrupted)
    for steps in (7, 19):  # in a fold, and in the last training
        left[0] = steps
        with pytest.raises(KeyboardInterrupt):
            train(script, recording, tmp_path / "parts")
        assert (tmp_path / "parts.checkpoint.pt").exists()
        assert not (tmp_path / "parts").exists()
    train(script, recording, tmp_path / "parts")
    assert not (tmp_path / "parts.checkpoint.pt").exists()
    one, two = ((tmp_path / n / "weights.safetensors").read_bytes() for n in ("whole", "parts"))
    assert one == two


def test_a_checkpoint_of_other_options_is_refused(
    script: ModuleType, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Any) -> float:
        signal.raise_signal(signal.SIGINT)
        return 0.0

    with monkeypatch.context() as patch:
        patch.setattr(script.Run, "advance", stop)
        with pytest.raises(KeyboardInterrupt):
            train(script, recording, tmp_path / "a")
    with pytest.raises(AttendriteError, match="be of a run with these options"):
        train(script, recording, tmp_path / "a", "--seed", "1")


DEMO = SCRIPT.parents[1] / "engine" / "_demo"
FOLDS = {"validation", "stop", "patience"}  # other names, and other forms, when the demo was made


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_documented_commands_are_those_of_the_demo(script: ModuleType, seed: int) -> None:
    text = (SCRIPT.parents[1] / "docs" / "demo.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"python examples/train_poyo.py (.*)", text)
    assert len(commands) == 2
    for command in commands:
        words = [*command.split(), *(["--seed", str(seed)] if seed else [])]
        given = vars(script.arguments().parse_args(words))
        task = given["output"].name.removesuffix("_0")
        assert given["recording"] == Path(f"engine/_demo/{task}.npz")
        manifest = json.loads((DEMO / f"{task}_{seed}" / "manifest.json").read_text())
        used = {k: v for k, v in manifest["training"]["options"].items() if k not in FOLDS}
        assert used.keys() == {f.name for f in dataclasses.fields(script.Options)} - FOLDS
        assert {name: given[name] for name in used} == used
        assert f"`--stop {manifest['training']['steps']}`" in text

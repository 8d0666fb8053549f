"""From checkpoints to bundles: what is in the file is kept, what is not is asked for by name."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, Bundle, Engine, SpikeBatch
from attendrite.__main__ import main

FIXTURES = Path(__file__).parent / "fixtures"
LIGHTNING = FIXTURES / "poyo_tiny" / "poyo_tiny_lightning.ckpt"
BARE = FIXTURES / "poyo_tiny" / "poyo_tiny_state_dict.pt"
PLUS = FIXTURES / "poyo_plus_tiny" / "plus_tiny_lightning.ckpt"
CALCIUM = FIXTURES / "poyo_plus_tiny" / "calcium_tiny_lightning.ckpt"
DURATIONS = {"sequence_length": 1.0, "latent_step": 0.125}
CONFIG = {
    "sequence_length": 1.0,
    "latent_step": 0.125,
    "num_latents_per_step": 8,
    "dim": 32,
    "dim_head": 16,
    "depth": 3,
    "cross_heads": 2,
    "self_heads": 4,
    "dim_out": 2,
}


@pytest.fixture
def state() -> dict[str, Any]:
    """The bare state_dict, fresh for every test."""
    loaded: dict[str, Any] = torch.load(BARE, weights_only=True)
    return loaded


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


def saved(tmp_path: Path, value: Any) -> Path:
    torch.save(value, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def refused(message: str, source: Any, out: Path, **options: Any) -> None:
    with pytest.raises(AttendriteError, match=re.escape(message)) as caught:
        attendrite.export(source, out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def assert_same_model(bundle: Bundle, state: dict[str, Any]) -> None:
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    assert set(bundle.weights) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(bundle.weights[name], tensor), name
        assert bundle.weights[name].dtype == tensor.dtype
    for name, vocabulary in (
        ("unit_emb", bundle.manifest.units),
        ("session_emb", bundle.manifest.sessions),
    ):
        expected = {k: v for k, v in state[f"{name}.vocab"].items() if k != "NA"}
        assert list(vocabulary.items()) == list(expected.items())


class TestLayouts:
    def test_lightning(self, out: Path, state: dict[str, Any]) -> None:
        assert attendrite.export(LIGHTNING, out) == out
        bundle = Bundle.load(out)
        assert bundle.manifest.family == "poyo"
        assert bundle.manifest.config == CONFIG
        assert bundle.manifest.name == "bundle"
        assert bundle.manifest.source["layout"] == "lightning"
        assert bundle.manifest.source["file"] == LIGHTNING.name
        assert_same_model(bundle, state)

    def test_bare_state_dict(self, out: Path, state: dict[str, Any]) -> None:
        attendrite.export(BARE, out, settings=DURATIONS, name="tiny")
        bundle = Bundle.load(out)
        assert bundle.manifest.config == CONFIG
        assert bundle.manifest.name == "tiny"
        assert bundle.manifest.source["set"] == {"sequence_length": "1.0", "latent_step": "0.125"}
        assert_same_model(bundle, state)

    @pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod."])
    def test_prefixes(self, out: Path, state: dict[str, Any], prefix: str) -> None:
        renamed = {prefix + name: value for name, value in state.items()}
        attendrite.export({"state_dict": renamed, "hyper_parameters": DURATIONS}, out)
        assert_same_model(Bundle.load(out), state)

    def test_earlier_names(self, out: Path, state: dict[str, Any]) -> None:
        """The code before torch_brain: ``perceiver_io.`` and ``spike_type_emb``."""
        moved = ("rotary_emb", "enc_atn", "enc_ffn", "proc_layers", "dec_atn", "dec_ffn")
        earlier = {}
        for name, value in state.items():
            new = name.replace("token_type_emb", "spike_type_emb")
            earlier["model." + ("perceiver_io." if name.startswith(moved) else "") + new] = value
        hyper = {"model": {"_target_": "kirby.models.POYO", "num_latents": 8, **DURATIONS}}
        attendrite.export({"state_dict": earlier, "hyper_parameters": hyper}, out)
        assert_same_model(Bundle.load(out), state)
        assert Bundle.load(out).manifest.config == CONFIG

    def test_plus_and_calcium(self, tmp_path: Path) -> None:
        for source, family in ((PLUS, "poyo_plus"), (CALCIUM, "calcium_poyo_plus")):
            attendrite.export(source, tmp_path / family)
            manifest = Bundle.load(tmp_path / family).manifest
            assert manifest.family == family
            assert [(t.name, t.id, t.dim, t.kind) for t in manifest.tasks] == [
                ("cursor_velocity_2d", 1, 2, "continuous"),
                ("cursor_position_2d", 2, 2, "continuous"),
                ("arm_velocity_2d", 3, 2, "continuous"),
            ]
            assert list(manifest.sessions.items()) == [("s0", 1), ("s1", 2)]

    def test_a_live_model(self, out: Path) -> None:
        brain = pytest.importorskip("torch_brain.models", reason="torch_brain")
        import inspect

        if "dim_out" not in inspect.signature(brain.POYO.__init__).parameters:
            pytest.skip("torch_brain < 0.2")
        model = brain.POYO(
            sequence_length=0.5, latent_step=0.1, dim=16, dim_head=8, dim_out=1, depth=1,
            num_latents_per_step=2,
        )  # fmt: skip
        model.unit_emb.initialize_vocab(["a", "b"])
        model.session_emb.initialize_vocab(["s"])
        attendrite.export(model, out, training={"seeds": [3]})
        bundle = Bundle.load(out)
        assert bundle.manifest.config["sequence_length"] == 0.5
        assert bundle.manifest.source["layout"] == "POYO"
        assert bundle.manifest.training == {"seeds": [3]}
        assert_same_model(bundle, model.state_dict())
        assert model.unit_emb.vocab == OrderedDict(NA=0, a=1, b=2)

    def test_a_live_model_without_vocabulary(self, out: Path) -> None:
        brain = pytest.importorskip("torch_brain.models", reason="torch_brain")
        import inspect

        if "dim_out" not in inspect.signature(brain.POYO.__init__).parameters:
            pytest.skip("torch_brain < 0.2")
        model = brain.POYO(sequence_length=0.5, latent_step=0.1, dim_out=1, dim=16, dim_head=8)
        refused("the source must hold the vocabulary unit_emb.vocab, got NoneType", model, out)


class TestFaithful:
    def test_omega_and_vocabulary_are_the_files_own(self, out: Path, state: dict[str, Any]) -> None:
        """Neither is computed: odd values and rows in another order survive, and are used."""
        state["rotary_emb.omega"] = torch.tensor([5.0, 3.0, 2.0, 1.0, 0, 0, 0, 0])
        names = list(state["unit_emb.vocab"])[1:]
        rows = dict(zip(names, range(24, 0, -1), strict=True))
        state["unit_emb.vocab"] = OrderedDict([*rows.items(), ("NA", 0)])
        attendrite.export(state, out, settings=DURATIONS)
        bundle = Bundle.load(out)
        assert bundle.weights["rotary_emb.omega"].tolist() == [5.0, 3.0, 2.0, 1.0, 0, 0, 0, 0]
        assert bundle.manifest.units == rows
        batch = SpikeBatch(
            times=[0.1], units=[0], window=[0], unit_ids=names[:1], session=["sess_a"],
            query_times=[[0.5]],
        )  # fmt: skip
        inputs = Engine(bundle).model.inputs(batch)
        assert inputs.unit_rows.tolist() == [24]

    def test_the_source_is_not_modified(self, out: Path, state: dict[str, Any]) -> None:
        before = copy.deepcopy(state)
        checkpoint = {"state_dict": state, "hyper_parameters": {"model": dict(DURATIONS)}}
        attendrite.export(checkpoint, out)
        assert checkpoint["hyper_parameters"] == {"model": DURATIONS}
        assert state.keys() == before.keys()
        assert state["unit_emb.vocab"] == before["unit_emb.vocab"]
        assert torch.equal(state["readout.weight"], before["readout.weight"])

    def test_half_precision_is_kept(self, out: Path, state: dict[str, Any]) -> None:
        half = {k: v.bfloat16() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
        attendrite.export(half, out, settings=DURATIONS)
        assert_same_model(Bundle.load(out), half)

    def test_twice_gives_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            attendrite.export(LIGHTNING, tmp_path / name, name="m")
        for file in ("manifest.json", "weights.safetensors"):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


class TestAsked:
    def test_what_cannot_be_inferred_is_asked_by_name(self, out: Path) -> None:
        refused(
            "sequence_length must be known, and the weights do not tell it, got none; "
            "pass --set sequence_length=1.0",
            BARE,
            out,
        )
        given = {"sequence_length": 1}
        refused("latent_step must be known", BARE, out, settings=given)

    def test_what_is_set_wins_over_the_file(self, out: Path) -> None:
        attendrite.export(LIGHTNING, out, settings={"latent_step": "0.25"})
        manifest = Bundle.load(out).manifest
        assert manifest.config["latent_step"] == 0.25
        assert manifest.source["set"] == {"latent_step": "0.25"}

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (
                {"sequence_length": "long"},
                "sequence_length must be a number of seconds, got 'long'",
            ),
            ({"sequence_length": "0"}, "config 'sequence_length' must be a number of seconds > 0"),
            (
                {"sequence_length": "nan"},
                "config 'sequence_length' must be a number of seconds > 0",
            ),
            ({"latent_step": "inf"}, "config 'latent_step' must be a number of seconds > 0"),
            ({"latent_step": "2"}, "config 'latent_step' must divide sequence_length into 1.."),
            ({"latent_step": "1e-9"}, "config 'latent_step' must divide sequence_length into"),
            ({"depth": "4"}, "depth must be 3, as the weights have it, got 4"),
            ({"width": "4"}, "unknown setting 'width'; known: sequence_length, latent_step"),
            ({"task.speed": "4"}, "the source must"),
        ],
    )
    def test_bad_settings(self, out: Path, given: dict[str, str], message: str) -> None:
        if "task.speed" in given:
            refused("unknown task 'speed'; known: cursor_velocity_2d", PLUS, out, settings=given)
            return
        refused(message, LIGHTNING, out, settings=given)

    def test_the_file_contradicts_itself(self, out: Path, state: dict[str, Any]) -> None:
        hyper = {"model": {**DURATIONS, "dim_head": 64}}
        source = {"state_dict": state, "hyper_parameters": hyper}
        refused("dim_head must be 16, as the weights have it, got 64", source, out)


class TestTasks:
    @pytest.fixture
    def plus(self) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(PLUS, weights_only=True)
        return loaded

    def rename(self, plus: dict[str, Any], new: str) -> dict[str, Any]:
        plus["state_dict"] = {
            name.replace("arm_velocity_2d", new): value
            for name, value in plus["state_dict"].items()
        }
        return plus

    def test_a_task_of_ones_own(self, out: Path, plus: dict[str, Any]) -> None:
        source = self.rename(plus, "whisking")
        refused("task 'whisking' must be one of torch_brain 0.1.2", source, out)
        refused("pass --set task.whisking=ID or ID:KIND", source, out)
        attendrite.export(source, out, settings={"task.whisking": "3:multinomial"})
        assert Bundle.load(out).manifest.tasks[2] == attendrite.bundle.Task(
            "whisking", 3, 2, "multinomial"
        )

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("three", "task.whisking must be an id, or ID:KIND, got 'three'"),
            ("-1", "task.whisking must be an id, or ID:KIND"),
            ("3:vague", "unknown kind of task 'vague'; known: continuous"),
            ("4", "id of task 'whisking' must lie in 1..3, the rows of task_emb, got 4"),
            ("0", "id of task 'whisking' must lie in 1..3"),
            ("1", "ids of tasks must be distinct, got [1, 2, 1]"),
        ],
    )
    def test_bad_ids(self, out: Path, plus: dict[str, Any], value: str, message: str) -> None:
        source = self.rename(plus, "whisking")
        refused(message, source, out, settings={"task.whisking": value})

    def test_an_id_beyond_the_table(self, out: Path, plus: dict[str, Any]) -> None:
        """Tables of before torch_brain issue 174 are one row short; a subset may not fit at all."""
        source = self.rename(plus, "running_speed")
        refused("id of task 'running_speed' must lie in 1..3", source, out)

    def test_kinds_of_the_registry(self) -> None:
        from attendrite.models import _tasks

        assert len(_tasks.REGISTRY) == 19
        assert _tasks.REGISTRY["drifting_gratings_orientation"] == 4
        assert _tasks.REGISTRY["gabor_orientation"] == 14
        assert _tasks.REGISTRY["pupil_size_2d"] == 19

    def test_the_registry_is_torch_brains(self) -> None:
        registry = pytest.importorskip("torch_brain.registry", reason="torch_brain <= 0.1.2")
        from attendrite.models import _tasks

        theirs = registry.MODALITY_REGISTRY
        assert {name: spec.id for name, spec in theirs.items()} == _tasks.REGISTRY
        for spec in theirs.values():
            assert (spec.type.name == "MULTINOMIAL") == (spec.id in _tasks.CLASSES)


class TestRefusals:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_not_finite(self, out: Path, state: dict[str, Any], value: float) -> None:
        state["enc_ffn.1.net.0.bias"][7] = value
        refused(
            f"weights 'enc_ffn.1.net.0.bias' must be finite, got {value} at [7]",
            state,
            out,
            settings=DURATIONS,
        )

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("readout.bias", None, "weights of a poyo model must hold 'readout.bias', got none"),
            ("enc_atn.norm.weight", None, "must hold 'enc_atn.norm.weight', got none"),
            ("rotary_emb.omega", None, "weights must hold rows of 'rotary_emb.omega', got none"),
            ("readout.bias", torch.zeros(3), "weights 'readout.bias' must have shape [2], got [3]"),
            ("enc_atn.to_q.weight", torch.zeros(33, 32), "inner width of cross_heads must be a"),
            (
                "extra.weight",
                torch.zeros(3),
                "weights of a poyo model must all be known, got 'extra",
            ),
            (
                "steps",
                torch.zeros(3, dtype=torch.int64),
                "'steps' of the source must be a floating",
            ),
            ("steps", 3, "'steps' of the source must be a floating tensor, got int"),
            (
                "unit_emb.vocab",
                None,
                "the source must hold the vocabulary unit_emb.vocab, got None",
            ),
            ("unit_emb.vocab", {"a": 0}, "unit vocabulary must map ids to rows >= 1, got 'a': 0"),
            ("unit_emb.vocab", {"a": 25}, "row of unit 'a' must be below 25, got 25"),
            ("unit_emb.vocab", {"a": 1, "b": 1}, "unit vocabulary must have distinct rows"),
            ("session_emb.vocab", {1: 1}, "session vocabulary must map ids to rows >= 1, got 1: 1"),
            ("proc_layers.5.0.norm.weight", torch.ones(32), "processor layers must be numbered"),
        ],
    )
    def test_unsound_weights(
        self, out: Path, state: dict[str, Any], name: str, value: Any, message: str
    ) -> None:
        state.pop(name, None)
        if value is not None:
            state[name] = value
        refused(message, state, out, settings=DURATIONS)

    def test_foreign_models(self, out: Path, tmp_path: Path) -> None:
        refused("the source must hold one 'unit_emb.weight'", {"a": torch.ones(1)}, out)
        refused("known families: calcium_poyo_plus, ensemble, poyo, poyo_plus", {}, out)
        refused("the source must be a checkpoint or a state_dict, got list", [1], out)
        refused("'state_dict' of the source must be a dictionary", {"state_dict": 3}, out)
        refused(
            "must be a checkpoint or a state_dict, got Tensor", saved(tmp_path, torch.ones(2)), out
        )

    def test_family_told_wrong(self, out: Path, state: dict[str, Any]) -> None:
        refused("unknown model family 'lstm'; known: ", LIGHTNING, out, family="lstm")
        refused("weights must hold rows of 'task_emb.weight'", LIGHTNING, out, family="poyo_plus")
        state.pop("readout.weight")
        known = "calcium_poyo_plus, ensemble, poyo, poyo_plus, sensorium, v1t"
        refused(f"the source must be one of {known}, got none", state, out)

    def test_another_prefix_in_one_file(self, out: Path, state: dict[str, Any]) -> None:
        source = {"model." + name: value for name, value in state.items()} | {"loss": torch.ones(1)}
        refused("every name of the source must begin with 'model.', got 'loss'", source, out)

    def test_what_is_there_stays(self, out: Path) -> None:
        attendrite.export(LIGHTNING, out, name="first")
        with pytest.raises(AttendriteError, match="must not exist"):
            attendrite.export(LIGHTNING, out)
        assert Bundle.load(out).manifest.name == "first"
        attendrite.export(LIGHTNING, out, name="second", force=True)
        assert Bundle.load(out).manifest.name == "second"


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["ATTENDRITE_TEST_BOMB"],)


class TestTorchFiles:
    def test_a_file_that_would_run_code(
        self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any]
    ) -> None:
        monkeypatch.setenv("ATTENDRITE_TEST_BOMB", str(tmp_path / "exploded"))
        refused(
            "be a torch file of tensors, dictionaries, strings and numbers, got UnpicklingError",
            saved(tmp_path, {**state, "bomb": Bomb()}),
            out,
        )
        (tmp_path / "raw").write_bytes(pickle.dumps(Bomb(), protocol=2))
        refused("must be a torch file of tensors", tmp_path / "raw", out)
        assert not (tmp_path / "exploded").exists()

    def test_weights_only_always(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[dict[str, Any]] = []
        load: Callable[..., Any] = torch.load

        def spy(*args: Any, **kwargs: Any) -> Any:
            seen.append(kwargs)
            return load(*args, **kwargs)

        monkeypatch.setattr(torch, "load", spy)
        attendrite.export(LIGHTNING, out)
        assert [kwargs["weights_only"] for kwargs in seen] == [True]

    @pytest.mark.parametrize("version", ["2.9.1", "2.5.0+cu121", "1.13.1"])
    def test_old_torch_is_refused(
        self, out: Path, monkeypatch: pytest.MonkeyPatch, version: str
    ) -> None:
        monkeypatch.setattr(torch, "__version__", version)
        monkeypatch.setattr(torch, "load", None)
        refused("torch must be at least 2.10 to read checkpoints safely", LIGHTNING, out)

    @pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0.0a0+git123"])
    def test_newer_torch_is_taken(
        self, out: Path, monkeypatch: pytest.MonkeyPatch, version: str
    ) -> None:
        monkeypatch.setattr(torch, "__version__", version)
        attendrite.export(LIGHTNING, out)

    def test_damaged_and_foreign_files(self, out: Path, tmp_path: Path) -> None:
        data = LIGHTNING.read_bytes()
        for i, damaged in enumerate(
            (b"", b"PK\x03\x04", data[:1000], data[:-100], b"hello", b"\x80\x02")
        ):
            path = tmp_path / str(i)
            path.write_bytes(damaged)
            refused("must be a torch file of tensors", path, out)
        refused("must be a checkpoint file, got nothing there", tmp_path / "none", out)


class TestTraining:
    def test_facts_are_kept(self, out: Path) -> None:
        facts = {
            "unit_dropout": {"min_units": 10},
            "rates_hz": {"sess_a/unit_0000": 4.5},
            "seeds": [1, 2],
            "split": {"held_out": [[3.0, 4.0]]},
        }
        attendrite.export(LIGHTNING, out, training=facts)
        assert Bundle.load(out).manifest.training == facts

    @pytest.mark.parametrize(
        ("facts", "message"),
        [
            ({"x": np.zeros(3)}, "facts about the training must be what JSON can hold"),
            ({"x": float("nan")}, "facts about the training must be what JSON can hold"),
            ({"rates_hz": [1.0]}, "training 'rates_hz' must map unit ids to Hz, got list"),
            ({"rates_hz": {"a": "fast"}}, "training 'rates_hz' must map unit ids to Hz"),
        ],
    )
    def test_bad_facts(self, out: Path, facts: Any, message: str) -> None:
        refused(message, LIGHTNING, out, training=facts)


class TestCommand:
    def test_everything(
        self, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "facts.json").write_text('{"seeds": [7]}')
        command = ["export", str(BARE), "-o", str(out), "--name", "tiny", "--family", "poyo"]
        command += ["--set", "sequence_length=1.0", "--set", "latent_step=0.125"]
        assert main([*command, "--training", str(tmp_path / "facts.json")]) == 0
        assert capsys.readouterr().out == f"{out}\n"
        manifest = Bundle.load(out).manifest
        assert (manifest.name, manifest.training) == ("tiny", {"seeds": [7]})
        assert main(command) == 2
        assert "must not exist" in capsys.readouterr().err
        assert main([*command, "--force"]) == 0
        assert Bundle.load(out).manifest.training == {}

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            ([], "pass --set sequence_length=1.0"),
            (["--set", "sequence_length"], "--set must read KEY=VALUE, got 'sequence_length'"),
            (["--training", "none.json"], "No such file"),
        ],
    )
    def test_one_line_and_status_2(
        self,
        out: Path,
        capsys: pytest.CaptureFixture[str],
        extra: list[str],
        message: str,
    ) -> None:
        assert main(["export", str(BARE), "-o", str(out), *extra]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("attendrite export: ")
        assert said.err.count("\n") == 1
        assert message in said.err
        assert not out.exists()

    def test_inspect(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        attendrite.export(
            LIGHTNING, out, name="tiny", training={"rates_hz": {"sess_a/unit_0000": 1}}
        )
        assert main(["inspect", str(out), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["family"] == "poyo"
        assert facts["config"] == CONFIG
        assert facts["units"] == [f"sess_a/unit_{i:04d}" for i in range(24)]
        assert facts["sessions"] == ["sess_a"]
        state = torch.load(BARE, weights_only=True)
        sizes = {k: v.numel() for k, v in state.items() if isinstance(v, torch.Tensor)}
        total = sum(sizes.values()) - sizes["rotary_emb.omega"]  # a buffer
        assert facts["parameters"] == total
        tables = sizes["unit_emb.weight"] + sizes["session_emb.weight"]
        assert facts["parameters_without_unit_and_session_tables"] == total - tables
        assert [s["name"] for s in facts["sites"]] == [
            "encoder", "processor.0", "processor.1", "processor.2", "decoder",
        ]  # fmt: skip
        assert facts["sites"][0]["heads"] == 2
        assert "per_unit" in facts["sites"][0]["statistics"]
        assert "per_unit" not in facts["sites"][1]["statistics"]
        assert len(facts["files"]["weights.safetensors"]["sha256"]) == 64
        assert main(["inspect", str(out)]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"tiny: poyo, {total:,} parameters")
        for shown in ("sequence_length       1.0 s", "24: sess_a/unit_0000, ", "rates_hz: 1 units"):
            assert shown in text

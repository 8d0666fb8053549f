"""``attendrite run`` and ``check``: the file contract, and every bad input in one line."""

from __future__ import annotations

import csv
import json
import os
import pickle
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite import AttendriteError, Bundle, SpikeBatch
from attendrite.__main__ import main
from attendrite.recordings import Recording, Series, Spikes
from hypothesis import given, settings
from hypothesis import strategies as st

FIXTURES = Path(__file__).parent / "fixtures"
UNITS = [f"sess_a/unit_{i:04d}" for i in range(24)]
OUTPUT, ATTENTION = 5e-6, 2e-6


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(FIXTURES / "poyo_tiny" / "poyo_tiny_golden.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bundles")
    sources = {
        "poyo": "poyo_tiny/poyo_tiny_lightning.ckpt",
        "poyo_plus": "poyo_plus_tiny/plus_tiny_lightning.ckpt",
        "calcium_poyo_plus": "poyo_plus_tiny/calcium_tiny_lightning.ckpt",
    }
    rates = {"rates_hz": {unit: 10.0 for unit in UNITS}}
    return {
        n: str(attendrite.export(FIXTURES / s, folder / n, training=rates))
        for n, s in sources.items()
    }


@pytest.fixture(scope="module")
def arrays(golden: dict[str, Any]) -> dict[str, Any]:
    """The golden windows as INPUT.npz has them; the third has twelve units."""
    kind, real = golden["in.input_token_type"], golden["in.input_mask"]
    unit = golden["in.input_unit_index"] - 1
    window, token = np.nonzero(real & (kind == 0))
    present = np.zeros((3, 24), dtype=bool)
    for b in range(3):
        present[b, unit[b, real[b]]] = True
    return {
        "times": golden["in.input_timestamps"][window, token],
        "units": unit[window, token],
        "window": window,
        "unit_ids": np.array(UNITS),
        "session": np.array(["sess_a"] * 3),
        "window_units": present,
        "query_times": golden["in.output_timestamps"],
    }


@pytest.fixture
def paths(tmp_path: Path, arrays: dict[str, Any]) -> tuple[str, Path]:
    np.savez(tmp_path / "input.npz", **arrays)
    return str(tmp_path / "input.npz"), tmp_path / "output.npz"


def load(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def refused(
    capsys: pytest.CaptureFixture[str], out: Path, command: list[str], message: str
) -> None:
    before = set(out.parent.iterdir())
    assert main(command) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"attendrite {command[0]}: ")
    assert message in said.err
    assert set(out.parent.iterdir()) == before  # no output, no part of one


class TestContract:
    @pytest.mark.parametrize("executor", ["reference", "torch", "native", "auto"])
    def test_spikes(
        self,
        bundles: dict[str, str],
        paths: tuple[str, Path],
        golden: dict[str, Any],
        executor: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        source, out = paths
        command = ["run", bundles["poyo"], source, "-o", str(out), "--executor", executor]
        command += ["--capture", "encoder:weights", "processor.*:per_key", "--threads", "1"]
        command += ["--capture", "encoder:per_unit", "--batch-size", "2"]
        assert main(command) == 0
        assert capsys.readouterr().out == ""
        found = load(out)
        assert set(found) == {
            "prediction",
            "meta",
            "attention/encoder/weights",
            "attention/encoder/per_unit",
            *(f"attention/processor.{i}/per_key" for i in range(3)),
            *(f"attention/encoder/tokens.{p}" for p in ("unit", "type", "time", "lengths")),
        }
        assert found["prediction"].dtype == np.float32
        assert np.abs(found["prediction"] - golden["output"]).max() < OUTPUT
        weights = found["attention/encoder/weights"]
        exact = golden["attn.enc_atn"]
        n = weights.shape[3]
        assert n == golden["in.input_mask"].sum(1).max()
        assert np.abs(weights - exact[..., :n]).max() < ATTENTION
        for b in range(3):  # padded with 0 to the longest window
            length = found["attention/encoder/tokens.lengths"][b]
            assert (weights[b, ..., length:] == 0).all()
            for part in ("unit", "type", "time"):
                assert (found[f"attention/encoder/tokens.{part}"][b, length:] == 0).all()
        for i in range(3):
            exact = golden[f"attn.proc_layers.{i}.0"].sum(2)
            error = np.abs(found[f"attention/processor.{i}/per_key"] - exact).max()
            assert error < 64 * ATTENTION
        meta = json.loads(str(found["meta"]))
        assert meta["executor"] == ("native" if executor == "auto" else executor)
        assert (meta["device"], meta["dtype"], meta["threads"]) == ("cpu", "float32", 1)
        assert meta["seconds"] > 0

    def test_per_unit_counts_all_tokens_unless_told(
        self, bundles: dict[str, str], paths: tuple[str, Path], golden: dict[str, Any]
    ) -> None:
        source, out = paths
        for option, kinds in (("", (0, 1, 2)), (":all", (0, 1, 2)), (":spikes", (0,))):
            command = ["run", bundles["poyo"], source, "-o", str(out)]
            assert main([*command, "--capture", f"encoder:per_unit{option}"]) == 0
            counts = golden["in.input_mask"] & np.isin(golden["in.input_token_type"], kinds)
            member = (golden["in.input_unit_index"][..., None] == np.arange(1, 25)) & counts[
                ..., None
            ]
            per_key = golden["attn64.enc_atn"].sum(2)
            exact = np.einsum("bhk,bku->bhu", per_key, member.astype(float))
            assert np.abs(load(out)["attention/encoder/per_unit"] - exact).max() < 64 * ATTENTION

    def test_two_part_statistics_have_two_arrays(
        self, bundles: dict[str, str], paths: tuple[str, Path]
    ) -> None:
        source, out = paths
        command = ["run", bundles["poyo"], source, "-o", str(out), "--dtype", "float64"]
        assert main([*command, "--capture", "encoder:top_k:4", "encoder:partials"]) == 0
        found = {k: v.shape for k, v in load(out).items() if "tokens" not in k}
        assert found == {
            "prediction": (3, 20, 2),
            "meta": (),
            "attention/encoder/top_k.weight": (3, 2, 64, 4),
            "attention/encoder/top_k.key": (3, 2, 64, 4),
            "attention/encoder/partials.lse": (3, 2, 64, 24),
            "attention/encoder/partials.output": (3, 2, 64, 24, 16),
        }
        assert load(out)["prediction"].dtype == np.float64

    def test_top_k_points_into_the_key_axis(
        self, bundles: dict[str, str], paths: tuple[str, Path]
    ) -> None:
        source, out = paths
        command = ["run", bundles["poyo"], source, "-o", str(out)]
        assert main([*command, "--capture", "encoder:top_k:4", "encoder:weights"]) == 0
        found = load(out)
        weights, keys = found["attention/encoder/weights"], found["attention/encoder/top_k.key"]
        picked = np.take_along_axis(weights, keys, axis=3)
        np.testing.assert_array_equal(picked, found["attention/encoder/top_k.weight"])
        np.testing.assert_allclose(picked, -np.sort(-weights, axis=3)[..., :4])

    def test_window_units_default_to_all(
        self, bundles: dict[str, str], paths: tuple[str, Path], arrays: dict[str, Any]
    ) -> None:
        source, out = paths
        results = []
        for present in (np.ones((3, 24), dtype=bool), None):
            given = {**arrays, "window_units": present}
            np.savez(source, **{k: v for k, v in given.items() if v is not None})
            assert main(["run", bundles["poyo"], source, "-o", str(out)]) == 0
            results.append(load(out)["prediction"])
        np.testing.assert_array_equal(*results)

    @pytest.mark.parametrize("family", ["poyo_plus", "calcium_poyo_plus"])
    def test_tasks(self, bundles: dict[str, str], tmp_path: Path, family: str) -> None:
        rng = np.random.default_rng(0)
        given: dict[str, Any] = {
            "unit_ids": np.array(["u3", "u0"]),
            "session": np.array(["s1", "s0"]),
            "query_times": rng.random((2, 3)),
            "query_task": np.array(
                [["arm_velocity_2d", "", "cursor_velocity_2d"], ["arm_velocity_2d"] * 2 + [""]]
            ),
        }
        if family == "poyo_plus":
            given |= {"times": np.array([0.1, 0.5]), "units": np.array([1, 0], np.uint16)}
            given |= {"window": np.array([0, 1], np.int32)}
        else:
            given |= {
                "values": rng.normal(size=(2, 4, 2)),
                "times": np.tile(np.arange(4) / 4 + 0.125, (2, 1)),
            }
            given |= {"window_units": np.array([[True, True], [False, True]])}
        np.savez(tmp_path / "input.npz", **given)
        out = tmp_path / "out.npz"
        command = ["run", bundles[family], str(tmp_path / "input.npz"), "-o", str(out)]
        assert main([*command, "--capture", "encoder:per_unit", "decoder:per_key"]) == 0
        found = load(out)
        assert found["prediction/arm_velocity_2d"].shape == (3, 2)
        assert found["prediction_index/arm_velocity_2d"].tolist() == [[0, 0], [1, 0], [1, 1]]
        assert found["prediction_index/cursor_velocity_2d"].tolist() == [[0, 2]]
        assert "prediction/cursor_position_2d" not in found
        assert "prediction" not in found
        np.testing.assert_allclose(found["attention/decoder/per_key"].sum(2), 2, atol=1e-5)
        if family == "calcium_poyo_plus":
            assert (found["attention/encoder/per_unit"][1, :, 0] == 0).all()
            lengths = found["attention/encoder/tokens.lengths"]
            assert lengths.tolist() == [8, 4]
            assert (found["attention/encoder/tokens.unit"][1] == [1, 1, 1, 1, 0, 0, 0, 0]).all()
            times = found["attention/encoder/tokens.time"]
            assert times[0].tolist() == np.repeat([0.125, 0.375, 0.625, 0.875], 2).tolist()
            assert times[1].tolist() == [0.125, 0.375, 0.625, 0.875, 0, 0, 0, 0]

    def test_an_output_that_is_there_is_replaced_whole(
        self, bundles: dict[str, str], paths: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source, out = paths
        out.write_text("precious")

        def full(*args: Any, **kwargs: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(np, "savez", full)
            assert main(["run", bundles["poyo"], source, "-o", str(out)]) == 2
        assert out.read_text() == "precious"
        assert sorted(p.name for p in out.parent.iterdir()) == ["input.npz", "output.npz"]
        assert main(["run", bundles["poyo"], source, "-o", str(out)]) == 0
        assert "prediction" in load(out)

    def test_ctrl_c(
        self, bundles: dict[str, str], paths: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

        source, out = paths
        monkeypatch.setattr(attendrite.Engine, "run", interrupt)
        assert main(["run", bundles["poyo"], source, "-o", str(out)]) == 130
        assert not out.exists()


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"times": "unsorted"}, "times must be sorted within a window, got times[1] = "),
            ({"times": "nan"}, "times must be finite, got times[5] = nan; remove or repair them"),
            (
                {"times": "negative"},
                "times must lie in 0 <= t < 1.0 s, the window of the model, got",
            ),
            ({"times": "late"}, "times must lie in 0 <= t < 1.0 s, the window of the model, got"),
            ({"times": "float32"}, "times must be an array of float64, got float32; convert it"),
            ({"times": None}, "must hold the array 'times', got "),
            ({"query_times": None}, "must hold the array 'query_times', got "),
            (
                {"units": "beyond"},
                "units must lie in 0..23, the indices of unit_ids, got units[0] = 24",
            ),
            ({"unit_ids": np.array(["x"] * 24)}, "unit_ids must be distinct, got 'x' twice"),
            (
                {"unit_ids": np.array([f"x{i}" for i in range(24)])},
                "every unit must be known to the model, got 'x0', 'x1', 'x2' (24 of 24 unknown); "
                "the model knows 24: 'sess_a/unit_0000'",
            ),
            (
                {"session": np.array(["sess_b"] * 3)},
                "every session must be known to the model, got 'sess_b' (1 of 1 unknown)",
            ),
            (
                {"session": np.array(["sess_a"] * 2)},
                "query_times must have shape [2, Q], got [3, 20]",
            ),
            ({"window": "back"}, "window must be sorted, got window["),
            (
                {"query_task": np.array([["a"] * 20] * 3)},
                "query_task must be absent for a model",
            ),
            ({"extra": np.zeros(3)}, "unknown array of "),
            ({"unit_ids": np.array(["a", "b"], object)}, "must hold numbers or strings, got dtype"),
        ],
    )
    def test_arrays(
        self,
        bundles: dict[str, str],
        paths: tuple[str, Path],
        arrays: dict[str, Any],
        capsys: pytest.CaptureFixture[str],
        change: dict[str, Any],
        message: str,
    ) -> None:
        source, out = paths
        np.savez(source, **{k: v for k, v in damaged(arrays, change).items() if v is not None})
        refused(capsys, out, ["run", bundles["poyo"], source, "-o", str(out)], message)

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            (["--executor", "quick"], "unknown executor 'quick'; known: auto, native, "),
            (["--device", "tpu"], "device must be cpu, cuda or cuda:N, got 'tpu'"),
            (["--device", "cuda:99"], "device must be there, got 'cuda:99' with "),
            (["--dtype", "float8"], "unknown dtype 'float8'; known: float32, float64"),
            (["--threads", "0"], "threads must be at least 1, got 0"),
            (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
            (
                ["--capture", "encoder"],
                "a capture must read SITE:STATISTIC[:OPTION], got 'encoder'",
            ),
            (["--capture", "encoder:mean"], "unknown statistic 'mean'; known: weights, "),
            (["--capture", "roi:lse"], "unknown site 'roi'; known: encoder, processor.0, "),
            (
                ["--capture", "processor.2:per_unit"],
                "site 'processor.2' has latent keys, no units; ask per_key",
            ),
        ],
    )
    def test_options(
        self,
        bundles: dict[str, str],
        paths: tuple[str, Path],
        capsys: pytest.CaptureFixture[str],
        extra: list[str],
        message: str,
    ) -> None:
        source, out = paths
        refused(capsys, out, ["run", bundles["poyo"], source, "-o", str(out), *extra], message)

    def test_files(
        self,
        bundles: dict[str, str],
        paths: tuple[str, Path],
        arrays: dict[str, Any],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        source, out = paths
        bundle = bundles["poyo"]
        good = Path(source).read_bytes()
        refused(capsys, out, ["run", bundle, "none.npz", "-o", str(out)], "No such file")
        refused(
            capsys, out, ["run", "none", source, "-o", str(out)], "bundle none must be a folder"
        )
        nowhere = str(tmp_path / "no" / "out.npz")
        refused(capsys, out, ["run", bundle, source, "-o", nowhere], "the folder of ")

        class Bomb:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "exploded"),)

        with (
            zipfile.ZipFile(tmp_path / "objects.npz", "w") as file,
            file.open("times.npy", "w") as f,
        ):
            np.lib.format.write_array(f, np.array([Bomb()], object), allow_pickle=True)
        foreign = {
            "truncated": (good[: len(good) // 2], "input.npz must be a whole .npz file, got "),
            "empty": (b"", "input.npz must be a whole .npz file, got "),
            "npy": (b"\x93NUMPY", "input.npz must be a whole .npz file, got "),
            "pickle": (
                pickle.dumps(Bomb(), protocol=4),
                "input.npz must be a whole .npz file, got ",
            ),
            "objects": ((tmp_path / "objects.npz").read_bytes(), "must hold the array "),
            "hdf5": (b"\x89HDF\r\n", "input.npz must be a whole .npz file, got "),
        }
        for data, message in foreign.values():
            Path(source).write_bytes(data)
            refused(capsys, out, ["run", bundle, source, "-o", str(out)], message)
        whole = {**arrays, "times": np.array([Bomb()] * 3, object)}
        np.savez(source, allow_pickle=True, **whole)
        refused(
            capsys, out, ["run", bundle, source, "-o", str(out)], "must hold numbers or strings"
        )
        assert not (tmp_path / "exploded").exists()

    def test_another_familys_input(
        self,
        bundles: dict[str, str],
        paths: tuple[str, Path],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        source, out = paths
        command = ["run", bundles["calcium_poyo_plus"], source, "-o", str(out)]
        refused(capsys, out, command, "must hold the array 'values', got ")
        command = ["run", bundles["poyo_plus"], source, "-o", str(out)]
        refused(capsys, out, command, "every unit must be known to the model")


def damaged(arrays: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Apply a change, some of them named faults of an array."""
    arrays = {name: np.copy(x) for name, x in arrays.items()}
    for name, value in change.items():
        if not isinstance(value, str):
            arrays[name] = value
            continue
        x = arrays[name]
        if value == "unsorted":
            x[[0, 1]] = x[[1, 0]]
        elif value == "nan":
            x[5] = np.nan
        elif value == "negative":
            x[0] = -1e-9
        elif value == "late":
            x[-1] = 1.0
        elif value == "beyond":
            x[0] = 24
        elif value == "back":
            x[-1] = 0
        elif value == "float32":
            arrays[name] = x.astype(np.float32)
    return arrays


@settings(max_examples=200)
@given(data=st.data())
def test_damaged_input_files_are_refused_or_sound(
    data: st.DataObject, arrays: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    small = {**arrays, "times": arrays["times"][:4], "units": arrays["units"][:4]}
    np.savez(path, **{**small, "window": arrays["window"][:4]})
    text = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path.write_bytes(text)
    with suppress(AttendriteError):
        SpikeBatch.from_npz(path)


class TestCheck:
    @pytest.fixture
    def recording(self) -> Recording:
        rng = np.random.default_rng(0)
        trains = {unit: np.sort(rng.uniform(0, 20, 200)) for unit in UNITS}
        return Recording.from_trains("sess_a", trains, domain=(0.0, 20.0))

    def check(
        self,
        bundles: dict[str, str],
        recording: Recording,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        *extra: str,
        family: str = "poyo",
    ) -> tuple[int, dict[str, Any]]:
        path = tmp_path / "recording.npz"
        recording.save(path)
        command = ["check", bundles[family], str(path), *extra]
        assert main(command) in (0, 2)
        text = capsys.readouterr().out
        status = main([*command, "--json"])
        found = json.loads(capsys.readouterr().out)
        assert found["fits"] == (status == 0)
        assert text.rstrip().endswith("\nfits" if status == 0 else "\ndoes not fit")
        for line in found["reasons"] + found["notes"]:
            assert line in text
        return status, found

    def test_it_fits(
        self,
        bundles: dict[str, str],
        recording: Recording,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        status, found = self.check(bundles, recording, tmp_path, capsys)
        assert status == 0
        assert found["units"] == {"in_common": UNITS, "recording": [], "bundle": []}
        assert found["session"] == {"name": "sess_a", "known": True}
        assert found["window"]["sequence_length"] == 1.0
        assert found["window"]["causal_range"] == [1.0, 20.0]
        assert found["rates"] == {"median_ratio": 1.0, "changed": []}

    def test_a_bundle_without_a_window(
        self,
        bundles: dict[str, str],
        recording: Recording,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        recording.save(tmp_path / "recording.npz")
        sound = Bundle.load(bundles["poyo"])
        config = {k: v for k, v in sound.manifest.config.items() if k != "sequence_length"}
        Bundle(replace(sound.manifest, config=config), sound.weights).save(tmp_path / "b")
        assert main(["check", str(tmp_path / "b"), str(tmp_path / "recording.npz")]) == 2
        assert "config 'sequence_length' must be a number of seconds" in capsys.readouterr().err

    def test_units(
        self,
        bundles: dict[str, str],
        recording: Recording,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        some = recording.select(UNITS[:20])
        status, found = self.check(bundles, some, tmp_path, capsys)
        assert status == 0
        assert found["units"]["bundle"] == UNITS[20:]
        assert "4 units of the bundle have no tokens: sess_a/unit_0020" in found["notes"][0]
        strange = recording.rename_units({UNITS[3]: "ch3"})
        status, found = self.check(bundles, strange, tmp_path, capsys)
        assert status == 2
        assert found["units"]["recording"] == ["ch3"]
        assert found["reasons"][0].startswith(
            "1 units unknown to the bundle: ch3; rename them with"
        )
        none = recording.rename_units({unit: f"ch{i}" for i, unit in enumerate(UNITS)})
        status, found = self.check(bundles, none, tmp_path, capsys)
        assert status == 2
        assert "or train a model on this recording" in found["reasons"][0]

    def test_a_map_renames(
        self,
        bundles: dict[str, str],
        recording: Recording,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        named = recording.rename_units({unit: f"ch{i}" for i, unit in enumerate(UNITS)})
        with (tmp_path / "map.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["old", "new"])
            writer.writerows((f"ch{i}", unit) for i, unit in enumerate(UNITS))
        extra = ("--map", str(tmp_path / "map.csv"))
        status, found = self.check(bundles, named, tmp_path, capsys, *extra)
        assert status == 0
        assert found["units"]["in_common"] == UNITS

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("from,to\na,b\n", "must have the columns old,new, got 'from,to'"),
            ("", "must have the columns old,new, got 'nothing'"),
            ("old,new\na\n", "line 2 of "),
            ("old,new\na,b\na,c\n", "line 3 of "),
            ("old,new\nstranger,b\n", "unknown unit 'stranger'; "),
        ],
    )
    def test_bad_maps(
        self,
        bundles: dict[str, str],
        recording: Recording,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        text: str,
        message: str,
    ) -> None:
        recording.save(tmp_path / "recording.npz")
        (tmp_path / "map.csv").write_text(text)
        command = ["check", bundles["poyo"], str(tmp_path / "recording.npz")]
        command += ["--map", str(tmp_path / "map.csv")]
        refused(capsys, tmp_path / "out", command, message)

    def test_session(
        self,
        bundles: dict[str, str],
        recording: Recording,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        from dataclasses import replace

        other = replace(recording, session="tuesday")
        status, found = self.check(bundles, other, tmp_path, capsys)
        assert status == 2
        assert found["session"] == {"name": "tuesday", "known": False}
        assert "choose one with --session" in found["reasons"][0]
        status, _ = self.check(bundles, other, tmp_path, capsys, "--session", "sess_a")
        assert status == 0

    def test_window_and_gaps(
        self,
        bundles: dict[str, str],
        recording: Recording,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        status, found = self.check(bundles, recording.slice(0.0, 0.8), tmp_path, capsys)
        assert status == 2
        assert found["reasons"][0].startswith(
            "the recording lasts 0.8 s, one window of the model 1 s"
        )
        times, units = recording.spikes.times, recording.spikes.units
        kept = (times < 5) | (times > 8)
        trains = {unit: times[kept & (units == i)] for i, unit in enumerate(UNITS)}
        holed = Recording.from_trains("sess_a", trains, domain=(0.0, 20.0))
        status, found = self.check(bundles, holed, tmp_path, capsys)
        assert status == 0
        assert 3 <= found["window"]["longest_silence"] < 3.1
        assert any(note.startswith("nothing is recorded from 4.9") for note in found["notes"])

    def test_rates(
        self,
        bundles: dict[str, str],
        recording: Recording,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        times, units = recording.spikes.times, recording.spikes.units
        trains = {unit: times[units == i] for i, unit in enumerate(UNITS)}
        few = dict(trains)
        for unit in UNITS[:5]:
            few[unit] = few[unit][::5]
        few[UNITS[0]] = np.zeros(0)
        changed = Recording.from_trains("sess_a", few, domain=(0.0, 20.0))
        status, found = self.check(bundles, changed, tmp_path, capsys)
        assert status == 0
        assert found["rates"]["changed"] == UNITS[:5]
        assert any(note.startswith("1 units in common are silent") for note in found["notes"])
        slow = {unit: train[::5] for unit, train in trains.items()}
        status, found = self.check(
            bundles, Recording.from_trains("sess_a", slow, domain=(0.0, 20.0)), tmp_path, capsys
        )
        assert status == 2
        assert "more than 3 times faster or slower than in training" in found["reasons"][0]
        assert found["rates"]["median_ratio"] == pytest.approx(0.2)

    def test_times_that_are_not_seconds(
        self,
        bundles: dict[str, str],
        recording: Recording,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        fast = {
            unit: recording.spikes.times[recording.spikes.units == i] / 1000
            for i, unit in enumerate(UNITS)
        }
        status, found = self.check(bundles, Recording.from_trains("sess_a", fast), tmp_path, capsys)
        assert status == 2
        assert any("give spike times in seconds" in reason for reason in found["reasons"])

    def test_fluorescence_for_spikes_and_back(
        self,
        bundles: dict[str, str],
        recording: Recording,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        ids = tuple(f"u{i}" for i in range(10))
        traces = Series(np.arange(200) / 20, np.zeros((200, 10)), ids)
        bright = Recording("s0", ids, Spikes.none, (0.0, 10.0), traces=traces)
        status, found = self.check(bundles, bright, tmp_path, capsys, family="calcium_poyo_plus")
        assert status == 0
        assert found["rates"] == {}
        status, found = self.check(bundles, bright, tmp_path, capsys, family="poyo_plus")
        assert status == 2
        assert "the model takes spikes, the recording has fluorescence" in found["reasons"]
        status, found = self.check(bundles, recording, tmp_path, capsys, family="calcium_poyo_plus")
        assert "the model takes fluorescence, the recording has none" in found["reasons"]

    def test_no_files(
        self, bundles: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        refused(capsys, tmp_path / "x", ["check", bundles["poyo"], "none.npz"], "none.npz")
        refused(
            capsys, tmp_path / "x", ["check", "none", "none.npz"], "bundle none must be a folder"
        )

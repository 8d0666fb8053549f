"""Bundles: what is written is read back, and everything else is refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attendrite import AttendriteError, Bundle
from attendrite.__main__ import main
from attendrite.bundle import FORMAT, Manifest, Task
from hypothesis import given, settings
from hypothesis import strategies as st

MANIFEST = Manifest(
    family="poyo",
    name="tiny",
    config={"sequence_length": 1.0, "dim": 4},
    units={"é/unit 1": 3, "u2": 1},
    sessions={"s": 1},
    tasks=(Task("velocity", 2, 3), Task("scene", 1, 9, "multinomial")),
    training={"unit_dropout": {"min": 5}, "rates_hz": {"u2": 1.5}, "seeds": [0]},
    source={"layout": "live"},
)
WEIGHTS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor([1e-40, -0.0, 3.0], dtype=torch.float64),
    "c": torch.ones(2, dtype=torch.bfloat16),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Bundle(MANIFEST, WEIGHTS).save(tmp_path / "bundle")
    return tmp_path / "bundle"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    table = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in table.items() if v is not None}))


def put_weights(folder: Path, data: bytes) -> None:
    """Replace the weights, with a hash that fits: what comes after the hash is to be tested."""
    (folder / "weights.safetensors").write_bytes(data)
    fact = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit(folder, files={"weights.safetensors": fact})


def refused(folder: Path, message: str) -> None:
    with pytest.raises(AttendriteError, match=re.escape(message)) as caught:
        Bundle.load(folder)
    assert "\n" not in str(caught.value)


def test_what_is_written_is_read_back(folder: Path) -> None:
    bundle = Bundle.load(folder)
    fact = bundle.manifest.files["weights.safetensors"]
    assert replace(bundle.manifest, files={}) == MANIFEST
    assert list(bundle.manifest.units) == ["é/unit 1", "u2"]
    data = (folder / "weights.safetensors").read_bytes()
    assert fact == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    assert set(bundle.weights) == set(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        torch.testing.assert_close(bundle.weights[name], tensor, rtol=0, atol=0)
        assert bundle.weights[name].dtype == tensor.dtype
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "weights.safetensors"]


def test_the_same_model_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    Bundle(MANIFEST, dict(reversed(WEIGHTS.items()))).save(tmp_path / "again")
    for name in ("manifest.json", "weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_tied_and_strided_weights_are_written(tmp_path: Path) -> None:
    a = torch.arange(6.0).reshape(2, 3)
    Bundle(MANIFEST, {"a": a, "again": a, "turned": a.T}).save(tmp_path / "b")
    assert torch.equal(Bundle.load(tmp_path / "b").weights["turned"], a.T)


class TestSaving:
    def test_what_is_there_stays_unless_forced(self, folder: Path) -> None:
        before = (folder / "manifest.json").read_bytes()
        other = Bundle(replace(MANIFEST, name="other"), WEIGHTS)
        with pytest.raises(AttendriteError, match=r"must not exist, got a file or folder; choose"):
            other.save(folder)
        assert (folder / "manifest.json").read_bytes() == before
        other.save(folder, force=True)
        assert Bundle.load(folder).manifest.name == "other"
        assert [p.name for p in folder.parent.iterdir()] == ["bundle"]  # nothing left beside

    def test_only_a_bundle_is_replaced(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        home.mkdir()
        (home / "thesis.txt").write_text("years of work")
        with pytest.raises(AttendriteError, match="must be a bundle to be replaced"):
            Bundle(MANIFEST, WEIGHTS).save(home, force=True)
        assert (home / "thesis.txt").read_text() == "years of work"

    def test_not_finite(self, tmp_path: Path) -> None:
        for value in (float("nan"), float("inf"), -float("inf")):
            weights = {"a": torch.tensor([[0.0, 1.0], [value, value]])}
            with pytest.raises(
                AttendriteError, match=r"weights 'a' must be finite, got .* \[1, 0\]"
            ):
                Bundle(MANIFEST, weights).save(tmp_path / "b")
        assert list(tmp_path.iterdir()) == []

    def test_a_failure_on_the_way_leaves_nothing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = (folder / "manifest.json").read_bytes()

        def full(self: Path, *args: Any, **kwargs: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            Bundle(MANIFEST, WEIGHTS).save(folder, force=True)
        with pytest.raises(OSError, match="No space left"):
            Bundle(MANIFEST, WEIGHTS).save(folder.parent / "new")
        assert (folder / "manifest.json").read_bytes() == before
        assert [p.name for p in folder.parent.iterdir()] == ["bundle"]

    def test_a_failure_at_the_last_step_brings_the_old_one_back(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rename = Path.rename

        def fails_for_the_new(self: Path, target: Path) -> Path:
            if self.name.endswith(".part"):
                raise OSError(5, "Input/output error")
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", fails_for_the_new)
        with pytest.raises(OSError, match="Input/output error"):
            Bundle(replace(MANIFEST, name="other"), WEIGHTS).save(folder, force=True)
        assert Bundle.load(folder).manifest.name == "tiny"
        assert [p.name for p in folder.parent.iterdir()] == ["bundle"]

    def test_nothing_is_saved_that_could_not_be_loaded(self, tmp_path: Path) -> None:
        for training in ({"rates_hz": {"u": -1.0}}, {"loss": float("nan")}):
            with pytest.raises(AttendriteError):
                Bundle(replace(MANIFEST, training=training), WEIGHTS).save(tmp_path / "b")
        assert not list(tmp_path.iterdir())

    def test_no_folder_to_write_in(self, tmp_path: Path) -> None:
        with pytest.raises(AttendriteError, match=r"the folder of .* must exist, got none"):
            Bundle(MANIFEST, WEIGHTS).save(tmp_path / "no" / "b")


def task(**other: Any) -> dict[str, Any]:
    return {"name": "a", "id": 1, "dim": 2, "kind": "continuous"} | other


class TestRefusals:
    def test_no_bundle(self, tmp_path: Path) -> None:
        refused(tmp_path / "none", "must be a folder, got nothing there; make one: attendrite")
        (tmp_path / "file").write_text("")
        refused(tmp_path / "file", "must be a folder, got a file")
        (tmp_path / "empty").mkdir()
        refused(tmp_path / "empty", "must hold manifest.json, got none")

    def test_a_file_missing(self, folder: Path) -> None:
        (folder / "weights.safetensors").unlink()
        refused(folder, "must hold weights.safetensors, got none")

    def test_wrong_hash(self, folder: Path) -> None:
        path = folder / "weights.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        refused(folder, "sha256 of weights.safetensors must be ")

    def test_truncated_weights(self, folder: Path) -> None:
        path = folder / "weights.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[:-4])
        refused(folder, "sha256 of weights.safetensors must be ")
        for n in (0, 5, 8, 60):
            put_weights(folder, data[:n])
            refused(folder, "weights.safetensors must ")
        put_weights(folder, data[:-4])
        refused(folder, "weights.safetensors must be a safetensors file, got ")

    def test_newer_format(self, folder: Path) -> None:
        edit(folder, format=FORMAT + 1)
        refused(
            folder, f"format of manifest.json must be at most {FORMAT}, got {FORMAT + 1}; upgrade"
        )

    @pytest.mark.parametrize("value", [0, -1, True, "1", 1.0, [1]])
    def test_no_format(self, folder: Path, value: Any) -> None:
        edit(folder, format=value)
        refused(folder, "format of manifest.json must be a positive integer")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "manifest.json must be JSON, got Expecting value"),
            ("{", "manifest.json must be JSON"),
            ('{"format": 1, "format": 1}', "manifest.json must be JSON, got a key occurs twice"),
            ('{"format": NaN}', "manifest.json must be JSON, got NaN is not JSON"),
            ('{"format": 1e999}', "manifest.json must be JSON, got 1e999 is not JSON"),
            ('{"format": "\\ud800"}', "manifest.json must be text, got half a UTF-16 character"),
            ("[" * 100_000, "manifest.json must be JSON"),
            ("[1]", "manifest.json must be an object with 'format', got list"),
            ('{"name": "other tool"}', "manifest.json must be an object with 'format', got dict"),
            ('{"format": 1}', "'family' of manifest.json must be a string, got none"),
        ],
    )
    def test_foreign_manifest(self, folder: Path, text: str, message: str) -> None:
        (folder / "manifest.json").write_text(text)
        refused(folder, message)

    def test_manifest_of_other_bytes(self, folder: Path) -> None:
        (folder / "manifest.json").write_bytes(b'{"format": "\xff"}')
        refused(folder, "manifest.json must be UTF-8 text")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"config": [1]}, "'config' of manifest.json must be an object, got list"),
            ({"units": None}, "'units' of manifest.json must be an object, got none"),
            ({"units": {"a": 0}}, "units vocabulary must map ids to rows >= 1, got 'a': 0"),
            ({"units": {"a": True}}, "units vocabulary must map ids to rows >= 1"),
            ({"units": {"a": 1.5}}, "units vocabulary must map ids to rows >= 1"),
            ({"sessions": {"a": 1, "b": 1}}, "sessions vocabulary must have distinct rows"),
            ({"tasks": [1]}, "a task of manifest.json must have name, id, dim and kind"),
            (
                {"tasks": [{"name": "a", "id": 1, "dim": True, "kind": "continuous"}]},
                "a task of manifest.json must have name, id, dim and kind",
            ),
            (
                {"tasks": [{"name": "a", "id": 1, "dim": 1, "kind": "vague"}]},
                "unknown kind of task 'vague'; known: continuous",
            ),
            ({"files": {}}, "'files' of manifest.json must have the sha256 of weights"),
            (
                {"files": {"weights.safetensors": 3}},
                "file 'weights.safetensors' of manifest.json must have sha256 and bytes, got 3",
            ),
            ({"files": {"notes": {"sha256": "0"}}}, "file 'notes' of manifest.json must have sha2"),
            ({"tasks": [task(id=0)]}, "id and dim of task 'a' must be at least 1, got {"),
            ({"tasks": [task(dim=-2)]}, "id and dim of task 'a' must be at least 1, got {"),
            ({"tasks": [task(name="")]}, "name of a task must be printable text, got ''"),
            ({"tasks": [task(name="a\0")]}, "name of a task must be printable text, got 'a\\x00'"),
            ({"tasks": [task(), task(name="b")]}, "tasks must have distinct ids, got one twice"),
            ({"tasks": [task(), task(id=2)]}, "tasks must have distinct names, got one twice"),
            ({"training": {"rates_hz": [3]}}, "'rates_hz' must map unit ids to rates, got list"),
            (
                {"training": {"rates_hz": {"u": -1}}},
                "rate of unit 'u' must be 0 to 1e+06 Hz, got -1",
            ),
            ({"training": {"rates_hz": {"u": "1"}}}, "rate of unit 'u' must be 0 to 1e+06 Hz, got"),
        ],
    )
    def test_unsound_manifest(self, folder: Path, change: dict[str, Any], message: str) -> None:
        edit(folder, **change)
        refused(folder, message)

    def test_not_finite(self, folder: Path) -> None:
        data = bytearray((folder / "weights.safetensors").read_bytes())
        data[-4:] = b"\x80\x7f\x80\x7f"  # two bfloat16 infinities
        at = bytes(data)
        put_weights(folder, at)
        refused(folder, "must be finite, got inf")

    def test_not_floating(self, folder: Path) -> None:
        import safetensors.torch

        for dtype in (torch.int64, torch.bool, torch.float8_e4m3fn):
            put_weights(folder, safetensors.torch.save({"a": torch.ones(2).to(dtype)}))
            known = "float16, bfloat16, float32, float64"
            refused(folder, f"weights 'a' must be one of {known}, got {dtype}; ")

    def test_header_sizes(self, folder: Path) -> None:
        header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'

        def file(size: int, text: bytes = header, data: bytes = b"\0" * 8) -> bytes:
            return size.to_bytes(8, "little") + text + data

        put_weights(folder, file(len(header)))
        assert torch.equal(Bundle.load(folder).weights["a"], torch.zeros(2))
        for size in (len(header) + 9, 1 << 40, (1 << 64) - 1):
            put_weights(folder, file(size))
            refused(folder, "header of weights.safetensors must have at most ")
        for old, new in (
            (b"[0,8]", b"[0,9]"),  # beyond the file
            (b"[0,8]", b"[4,8]"),  # a hole
            (b"[2]", b"[3]"),  # another size than its bytes
            (b"[2]", b"[-2]"),
            (b'"F32"', b'"F3"'),
            (b"[2]", b"[4611686018427387904,4]"),
        ):
            text = header.replace(old, new)
            put_weights(folder, file(len(text), text))
            refused(folder, "weights.safetensors must be a safetensors file, got ")
        put_weights(folder, file(len(header), b"[" + header[1:]))
        refused(folder, "weights.safetensors must be a safetensors file")


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, (str(Path(os.environ["ATTENDRITE_TEST_BOMB"])),)


class TestPickles:
    @pytest.fixture(params=["protocol 2", "protocol 5", "torch"])
    def bomb(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> bytes:
        monkeypatch.setenv("ATTENDRITE_TEST_BOMB", str(tmp_path / "exploded"))
        if request.param == "torch":
            torch.save({"a": Bomb()}, tmp_path / "bomb")
            data = (tmp_path / "bomb").read_bytes()
            (tmp_path / "bomb").unlink()
            return data
        return pickle.dumps(Bomb(), protocol=int(request.param[-1]))

    def test_refused_by_the_first_bytes(self, folder: Path, bomb: bytes, tmp_path: Path) -> None:
        put_weights(folder, bomb)
        refused(folder, "weights.safetensors must not be a pickle or torch file, got ")
        (folder / "manifest.json").write_bytes(bomb)
        refused(folder, "manifest.json must not be a pickle or torch file")
        assert not (tmp_path / "exploded").exists()


def test_reading_a_bundle_unpickles_nothing() -> None:
    """Neither ``torch.load`` nor an unpickler is called while a bundle is read."""
    code = (
        "import sys, attendrite, torch, pickle, _pickle\n"
        "def no(*a, **k): raise SystemExit('unpickled')\n"
        "torch.load = pickle.load = pickle.loads = pickle.Unpickler = no\n"
        "import tempfile, pathlib\n"
        "from attendrite.bundle import Bundle, Manifest\n"
        "m = Manifest('poyo', 'n', {}, {}, {})\n"
        "f = pathlib.Path(tempfile.mkdtemp()) / 'b'\n"
        "Bundle(m, {'a': torch.ones(2)}).save(f)\n"
        "print(Bundle.load(f).weights['a'].sum().item())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2.0\n"


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_manifests_are_refused_or_sound(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = bytearray(replace(MANIFEST, files={}).to_json().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with suppress(AttendriteError):
        Manifest.from_json(text.decode("utf-8", "replace"))


@settings(max_examples=200)
@given(data=st.data())
def test_damaged_weights_are_refused_or_sound(data: st.DataObject) -> None:
    import safetensors.torch
    from attendrite import bundle

    good = safetensors.torch.save({"a": torch.ones(3), "b": torch.zeros(2, 2)})
    text = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not text:
            return
    with suppress(AttendriteError):
        bundle._check_header(bytes(text))
        bundle._tensors(bytes(text))


def test_the_command_says_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path / "none")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("attendrite inspect: bundle ")
    assert said.err.count("\n") == 1

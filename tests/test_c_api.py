"""libattendrite: the example runs as documented, and a C caller's mistakes come back as words."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite import AttendriteError, Bundle, CalciumBatch, Capture, Engine, SpikeBatch
from attendrite.__main__ import main
from attendrite.commands.config import prefix
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "c" / "decode.c"
PAGE = EXAMPLE.parent / "README.md"
HEADER = ROOT / "csrc" / "include" / "attendrite.h"
DEMO = Path(attendrite.__file__).parent / "_demo"
FIXTURES = Path(__file__).parent / "fixtures"
SOURCES = {
    "poyo": "poyo_tiny/poyo_tiny_lightning.ckpt",
    "poyo_plus": "poyo_plus_tiny/plus_tiny_lightning.ckpt",
    "calcium_poyo_plus": "poyo_plus_tiny/calcium_tiny_lightning.ckpt",
}
TRACK, SESSION = DEMO / "linear_track_0", "nelpy/linear-track"
SPAN = (4600.0, 4606.0)  # s
SEARCH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic"]


def module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded
    spec.loader.exec_module(loaded)
    return loaded


c = module(Path(__file__).parent / "fuzz" / "c_library.py")
LIBRARY = c.library()


def tool(name: str) -> str:
    path = shutil.which(name, path=SEARCH)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def shell(*command: object) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | {"PATH": SEARCH},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {n: attendrite.export(FIXTURES / s, folder / n) for n, s in SOURCES.items()}


def opened(path: Path, threads: int = 1) -> Any:
    return c.engine_of(LIBRARY.open, str(path).encode(), threads)


class TestBuilding:
    """What ``attendrite config`` says, and what CMake and pkg-config find there."""

    def test_config(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["config"]) == 0
        assert capsys.readouterr().out == f"{prefix()}\n"
        assert main(["config", "--cflags", "--libs"]) == 0
        lib = prefix() / "lib"
        expected = f"-I{prefix() / 'include'} -L{lib} -Wl,-rpath,{lib} -lattendrite\n"
        assert capsys.readouterr().out == expected
        assert (prefix() / "include" / "attendrite.h").read_bytes() == HEADER.read_bytes()
        assert not (lib / "libattendrite.so").is_symlink()  # a wheel holds none

    def test_only_the_functions_of_the_header_are_exported(self) -> None:
        listed = shell(tool("nm"), "-D", "--defined-only", prefix() / "lib" / "libattendrite.so")
        exported = {line.split()[-1] for line in listed.splitlines()}
        (abi,) = re.findall(r"define ATTENDRITE_ABI (\d+)", HEADER.read_text())
        declared = re.findall(r"ATTENDRITE_API [^;(]*?(attendrite_\w+)\(", HEADER.read_text())
        version = f"ATTENDRITE_{abi}"
        assert exported == {version, *(f"{name}@@{version}" for name in declared)}
        assert {f"attendrite_{name}" for name in c.SIGNATURES} == set(declared)
        assert LIBRARY.abi() == int(abi)

    @pytest.mark.parametrize("language", ["c -std=c99", "c++ -std=c++11"])
    def test_the_header_stands_alone(self, language: str) -> None:
        options = [*WARNINGS, "-fsyntax-only", "-x", *language.split(), HEADER]
        shell(tool("cc"), *options)

    def test_cmake_and_pkg_config_find_it(self, tmp_path: Path) -> None:
        build, where = tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix()}"
        shell(tool("cmake"), "-S", EXAMPLE.parent, "-B", build, where)
        shell(tool("cmake"), "--build", build)
        refused = subprocess.run(
            [build / "decode"], capture_output=True, text=True, check=False, timeout=60
        )
        assert refused.returncode == c.BAD_INPUT
        assert refused.stderr == "decode: usage: decode BUNDLE SPIKES.csv SESSION HOP_S\n"
        path = prefix() / "lib" / "pkgconfig" / "attendrite.pc"
        flags = shell(tool("pkg-config"), "--cflags", "--libs", path).split()
        assert flags[-1] == "-lattendrite"
        assert [Path(flag[2:]).resolve() for flag in flags[:-1]] == [
            prefix() / "include",
            prefix() / "lib",
        ]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built by the command of its page; warnings are errors."""
    path = tmp_path_factory.mktemp("c") / "decode"
    (line,) = re.findall(r"^    (cc .*) -o decode$", PAGE.read_text(), re.MULTILINE)
    shell("sh", "-c", f"cd {ROOT} && {line} {' '.join(WARNINGS)} -o {path}")
    return path


@pytest.fixture(scope="module")
def spikes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of the demo, written by the lines of the example's page."""
    path = tmp_path_factory.mktemp("spikes") / "spikes.csv"
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    block = block.replace("engine/_demo", str(DEMO)).replace('"spikes.csv"', repr(str(path)))
    exec(compile(block, str(PAGE), "exec"), {})
    return path


class TestExample:
    """examples/c/decode.c on the demo's recording."""

    def test_its_page_shows_what_it_prints(self, program: Path, spikes: Path) -> None:
        printed = shell(program, TRACK, spikes, SESSION, "0.5").splitlines()[0].split(",")
        (line,) = re.findall(r"^    (4603.*), ...$", PAGE.read_text(), re.MULTILINE)
        for shown, found in zip(line.split(","), printed, strict=False):
            if "/" in shown:
                assert shown == found
            else:
                assert float(shown) == pytest.approx(float(found), rel=1e-4)

    def test_it_gives_what_the_engine_gives(self, program: Path, spikes: Path) -> None:
        rows = [line.split(",") for line in shell(
            program, TRACK, spikes, SESSION, "0.5"
        ).splitlines()]  # fmt: skip
        recording = attendrite.read(DEMO / "linear_track.npz")
        inside = [t for t in recording.spikes.times if SPAN[0] <= t < SPAN[1]]
        stops = inside[0] + 3.0 + 0.5 * np.arange(len(rows))
        assert len(rows) == 1 + int((inside[-1] - inside[0] - 3.0) / 0.5)
        np.testing.assert_allclose([float(row[0]) for row in rows], stops, atol=1e-6, rtol=0)

        batch = SpikeBatch.from_recording(recording, stops - 3.0, 3.0, np.array([3.0]))
        capture = Capture({"encoder": "per_unit:spikes"})
        exact, single = (
            Engine(TRACK, executor, dtype=dtype).run(batch, capture)
            for executor, dtype in (("reference", "float64"), ("reference", "float32"))
        )
        positions = np.array([row[1:3] for row in rows], np.float64)
        assert_close(positions, exact.prediction[:, 0], single.prediction[:, 0], digits=6)

        shares, rough = (share_of(result) for result in (exact, single))
        ids = list(recording.unit_ids)
        named = np.array([[ids.index(name) for name in row[3::2]] for row in rows])
        assert named.shape == (len(rows), 5)
        told = np.array([row[4::2] for row in rows], np.float64)
        assert (np.diff(told) <= 0).all()
        at = np.arange(len(rows))[:, None], named
        assert_close(told, shares[at], rough[at], digits=6)
        assert_close(told, -np.sort(-shares)[:, :5], -np.sort(-rough)[:, :5], digits=6)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "the file must hold spikes, got none"),
            ("1.0;a\n", "lines must be 'time,unit id'"),
            ("1.0,a\n", "unit must be known to the model, got 'a'"),
            ("2,nelpy/linear-track/unit01\n1,nelpy/linear-track/unit01\n", "times must be finite"),
            ("nan,nelpy/linear-track/unit01\n", "times must be finite and sorted"),
        ],
    )
    def test_bad_spikes(self, program: Path, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "spikes.csv"
        path.write_text(text)
        done = subprocess.run(
            [program, TRACK, path, SESSION, "0.5"],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == c.BAD_INPUT
        assert done.stdout == ""
        assert done.stderr.startswith(f"decode: {message}")


def share_of(result: Any) -> NDArray[np.float64]:
    sums = result.attention["encoder", "per_unit"]  # [B, H, U]
    heads, latents = sums.shape[1], 48  # 3 s of 4 latents each 0.25 s
    return np.asarray(sums.sum(axis=1, dtype=np.float64) / (heads * latents))


def assert_close(
    found: NDArray[Any], exact: NDArray[Any], single: NDArray[Any], digits: int = 9
) -> None:
    """The rule of accuracy, beside the rounding of what was printed."""
    worst = np.abs(exact).max()
    printed = 0.5 * 10.0 ** (1 - digits) * worst
    allowed = 2 * np.abs(single - exact).max() + 1e-6 * max(1, worst) + printed
    assert np.abs(found - exact).max() <= allowed


@pytest.mark.parametrize("family", SOURCES)
class TestModels:
    """Every family through the functions of the header."""

    def test_facts(self, family: str, bundles: dict[str, Path]) -> None:
        engine, known = opened(bundles[family]), Engine(bundles[family], executor="reference")
        config, manifest = known.manifest.config, known.manifest
        info = c.ModelInfo()
        LIBRARY.model_of(engine, info)
        assert (info.sites, info.tasks) == (len(known.sites), len(manifest.tasks))
        assert info.width == (config["dim_out"] if family == "poyo" else 0)
        assert (info.dim, info.sequence_length) == (config["dim"], config["sequence_length"])
        assert info.latents == len(known.model.layers.config.latent_times)
        assert info.takes_values == (family == "calcium_poyo_plus")

        site, task = c.SiteInfo(), c.TaskInfo()
        for i, expected in enumerate(known.sites):
            assert LIBRARY.site(engine, i, site) == c.OK
            assert (site.name.decode(), site.heads, site.width, bool(site.has_units)) == (
                expected.name, expected.heads, expected.width, expected.keys == "tokens",
            )  # fmt: skip
        for i, fact in enumerate(manifest.tasks):
            assert LIBRARY.task(engine, i, task) == c.OK
            found = (task.name.decode(), task.id, task.width, task.kind.decode())
            assert found == (fact.name, fact.id, fact.dim, fact.kind)
        for i in (-1, len(known.sites)):
            assert LIBRARY.site(engine, i, site) == c.BAD_INPUT
        for i in (-1, len(manifest.tasks)):
            assert LIBRARY.task(engine, i, task) == c.BAD_INPUT
        for row, vocabulary in (
            (LIBRARY.unit_row, manifest.units),
            (LIBRARY.session_row, manifest.sessions),
        ):
            assert all(row(engine, name.encode()) == at for name, at in vocabulary.items())
            assert row(engine, b"nobody") == row(engine, None) == row(None, b"nobody") == -1
        LIBRARY.close(engine)

    def test_predictions(self, family: str, bundles: dict[str, Path]) -> None:
        engine, windows = opened(bundles[family]), Windows(bundles[family])
        exact, single = (
            Engine(bundles[family], "reference", dtype=dtype).run(windows.batch).prediction
            for dtype in ("float64", "float32")
        )
        names = [""] if family == "poyo" else list(windows.tasks)
        for name, found in zip(names, windows.run(engine), strict=True):
            if name and name not in exact:
                assert found.size == 0
                continue
            one, other = (p[name] if name else p for p in (exact, single))
            assert_close(found.reshape(one.shape), one, other)
        LIBRARY.close(engine)

    def test_two_threads_share_a_model(self, family: str, bundles: dict[str, Path]) -> None:
        engine, windows = opened(bundles[family]), Windows(bundles[family])
        expected = windows.run(engine)
        shared = [c.engine_of(LIBRARY.share, engine) for _ in range(2)]
        LIBRARY.close(engine)  # what it shared stays
        with ThreadPoolExecutor(2) as pool:
            for results in pool.map(lambda e: [windows.run(e) for _ in range(50)], shared):
                for found in results:
                    for one, other in zip(found, expected, strict=True):
                        np.testing.assert_array_equal(one, other)
        for other in shared:
            LIBRARY.close(other)


class Windows:
    """Two windows of the same length, for Python and for C."""

    def __init__(self, path: Path) -> None:
        rng = np.random.default_rng(1)
        manifest = Bundle.load(path).manifest
        self.tasks = {task.name: task for task in manifest.tasks}
        units, session = list(manifest.units)[:6], next(iter(manifest.sessions))
        names = ["", *list(self.tasks)[:2]]
        asked = rng.choice(names, (2, 5)) if self.tasks else None
        common: dict[str, Any] = {
            "unit_ids": np.array(units),
            "session": np.full(2, session),
            "query_times": rng.random((2, 5)),
            "query_task": asked,
        }
        self.batch: SpikeBatch | CalciumBatch
        if manifest.family == "calcium_poyo_plus":
            times, values = np.sort(rng.random((2, 4))), rng.normal(size=(2, 4, 6))
            values = values.astype(np.float32)
            self.batch = CalciumBatch(values=values, times=times, **common)
            self.spikes = None
            signal = {"values": values.reshape(-1)}
            count = np.array([24, 24])
            tokens = np.repeat(times.reshape(-1), 6), np.tile(np.arange(6), 8)
        else:
            window = np.repeat([0, 1], [20, 9])
            times = np.concatenate([np.sort(rng.random(20)), np.sort(rng.random(9))])
            which = rng.integers(0, 6, 29)
            self.batch = SpikeBatch(times=times, units=which, window=window, **common)
            self.spikes = times, which
            count = np.array([32, 21])
            tokens, signal = (np.zeros(53), np.zeros(53, np.int64)), {"types": np.zeros(53, int)}
        self.rows = np.array([manifest.units[name] for name in units])
        ids = {"": 0, **{name: task.id for name, task in self.tasks.items()}}
        if asked is not None:
            signal["task_rows"] = np.array([ids[str(name)] for name in asked.reshape(-1)])
        self.arrays = {
            "first": np.array([0, count[0]]),
            "count": count,
            "times": tokens[0],
            "units": tokens[1],
            "query_times": common["query_times"],
            "session_rows": np.full(10, manifest.sessions[session]),
            **signal,
        }
        shapes = [(10, manifest.config.get("dim_out", 0))] if asked is None else [
            (int((asked == name).sum()), task.dim) for name, task in self.tasks.items()
        ]  # fmt: skip
        self.shapes = shapes

    def run(self, engine: Any) -> list[NDArray[np.float32]]:
        c.call(LIBRARY.bind_units, engine, self.rows.ctypes.data, len(self.rows))
        arrays = {name: array.copy() for name, array in self.arrays.items()}
        for spikes, tokens in (
            (slice(0, 20), slice(0, 32)),
            (slice(20, 29), slice(32, 53)),
        ) if self.spikes else ():  # fmt: skip
            times, units = (np.ascontiguousarray(a[spikes]) for a in self.spikes or ())
            parts = [arrays[name][tokens].ctypes.data for name in ("times", "units", "types")]
            n = LIBRARY.tokens(engine, times.ctypes.data, units.ctypes.data, len(times), *parts)
            assert n == tokens.stop - tokens.start
        out = [np.full(shape, np.nan, np.float32) for shape in self.shapes]
        batch = c.Batch(2, 5, **arrays)
        c.call(LIBRARY.run, engine, batch, None, 0, c.pointers(out))
        return out


class TestMistakes:
    """What a C caller gets wrong: a status and one line, never a crash."""

    @pytest.fixture
    def engine(self, bundles: dict[str, Path]) -> Any:
        engine = opened(bundles["poyo"])
        yield engine
        LIBRARY.close(engine)

    @pytest.fixture
    def windows(self, bundles: dict[str, Path]) -> Windows:
        return Windows(bundles["poyo"])

    def refused(self, message: str, function: Any, *arguments: Any) -> None:
        with pytest.raises(c.RefusedError, match=re.escape(message)) as caught:
            c.call(function, *arguments)
        assert caught.value.status == c.BAD_INPUT
        assert "\n" not in str(caught.value)

    def test_opening(self, bundles: dict[str, Path], tmp_path: Path) -> None:
        into = ctypes.c_void_p(7)
        where = ctypes.byref(into)
        good = str(bundles["poyo"]).encode()
        self.refused("folder must not be null", LIBRARY.open, None, 1, where)
        self.refused("engine must not be null", LIBRARY.open, good, 1, None)
        self.refused("threads must be at least 1, got 0", LIBRARY.open, good, 0, where)
        nowhere = str(tmp_path / "nowhere").encode()
        self.refused("must be a folder, got nothing there", LIBRARY.open, nowhere, 1, where)
        self.refused("manifest must not be null", LIBRARY.parse, None, 1, b"", 0, 1, where)
        self.refused("weights must not be null", LIBRARY.parse, b"{}", 2, None, 0, 1, where)
        self.refused("engine must not be null", LIBRARY.share, None, where)
        assert into.value == 7  # nothing is written
        LIBRARY.close(None)

    def test_bad_bytes(self, bundles: dict[str, Path]) -> None:
        manifest = (bundles["poyo"] / "manifest.json").read_bytes()
        weights = (bundles["poyo"] / "weights.safetensors").read_bytes()
        into = ctypes.c_void_p(7)

        def parse(text: bytes, data: bytes) -> tuple[Any, ...]:
            return LIBRARY.parse, text, len(text), data, len(data), 1, ctypes.byref(into)

        for cut in (0, 1, 8, len(weights) // 2, len(weights) - 1):
            self.refused(" must ", *parse(manifest, weights[:cut]))
        for cut in range(0, len(manifest.rstrip()), 97):
            self.refused("manifest.json must be JSON", *parse(manifest[:cut], weights))
        table = json.loads(manifest)
        for part, value, message in (
            ("family", "poy\nx", "model family must be poyo, poyo_plus or"),
            ("units", {"a\n\x1b": 10**6}, "row of unit 'a"),
            ("config", {}, "config 'sequence_length' must be a number of seconds"),
            (
                "config",
                {**table["config"], "latent_step": table["config"]["sequence_length"] / 60_000},
                "latents of a window must be at most 65536, got ",
            ),
            ("tasks", [{"name": "t", "id": 1, "dim": 1, "kind": "binary"}], "tasks of a poyo"),
        ):
            self.refused(message, *parse(json.dumps(table | {part: value}).encode(), weights))
        assert into.value == 7
        assert LIBRARY.parse(*parse(manifest, weights)[1:], None, 0) == c.OK
        LIBRARY.close(into)

    def test_messages_fit_their_room(self) -> None:
        folder = "/ä/" + "ü" * 40
        whole = ctypes.create_string_buffer(256)
        engine = ctypes.c_void_p()
        LIBRARY.open(folder.encode(), 1, engine, whole, 256)
        expected = whole.value.decode()
        assert expected.startswith(f"bundle '{folder}' must be a folder")
        for size in range(1, len(whole.value) + 3):
            room = ctypes.create_string_buffer(b"\xff" * 300, 300)
            status = LIBRARY.open(folder.encode(), 1, engine, room, size)
            assert status == c.BAD_INPUT
            text = room.value.decode()  # a character is never cut
            assert expected.startswith(text)
            assert size - 2 <= len(text.encode()) < size or text == expected
            assert room.raw[size:] == b"\xff" * (300 - size)
        assert LIBRARY.open(folder.encode(), 1, engine, None, 0) == c.BAD_INPUT

    def test_binding(self, engine: Any, windows: Windows) -> None:
        rows = windows.rows.ctypes.data
        self.refused("engine must not be null", LIBRARY.bind_units, None, rows, 6)
        self.refused("rows of units must not be null", LIBRARY.bind_units, engine, None, 6)
        self.refused("number of units must be in 0..", LIBRARY.bind_units, engine, rows, -1)
        for bad in (0, -1, 10**6):
            wrong = np.array([1, bad])
            self.refused("rows of units must be", LIBRARY.bind_units, engine, wrong.ctypes.data, 2)
        for sizes in ((-1, 1, 1, 1), (1, 2**40, 1, 1), (1, 1, -5, 1), (1, 1, 1, -1)):
            self.refused("must be in 0..2147483647", LIBRARY.reserve, engine, *sizes)
        assert LIBRARY.tokens(engine, None, None, 1, rows, rows, rows) == -1
        assert LIBRARY.tokens(engine, rows, rows, -1, rows, rows, rows) == -1
        assert LIBRARY.tokens(None, None, None, 0, rows, rows, rows) == -1
        LIBRARY.set_threads(engine, 0)  # stays as it was
        LIBRARY.set_threads(None, 1)
        LIBRARY.model_of(None, c.ModelInfo())
        LIBRARY.model_of(engine, None)

    def test_running(self, engine: Any, windows: Windows) -> None:
        expected = windows.run(engine)[0]
        out = [np.full((2, 5, expected.shape[-1]), 7, np.float32)]
        into = c.pointers(out)
        arrays = windows.arrays | {
            "times": np.linspace(0, 0.9, 53),
            "units": np.arange(53) % 6,
        }
        batch = c.Batch(2, 5, **arrays)
        c.call(LIBRARY.run, engine, batch, None, 0, into)
        assert np.isfinite(out[0]).all()
        out[0][:] = 7

        def refused(message: str, *, requests: Any = None, n: int = 0, **changed: Any) -> None:
            wrong = c.Batch(2, 5, **arrays)
            for name, value in changed.items():
                setattr(wrong, name, value)
            self.refused(message, LIBRARY.run, engine, wrong, requests, n, into)

        self.refused("engine must not be null", LIBRARY.run, None, batch, None, 0, into)
        self.refused("batch must not be null", LIBRARY.run, engine, None, None, 0, into)
        self.refused("predictions must not be null", LIBRARY.run, engine, batch, None, 0, None)
        nothing = (ctypes.c_void_p * 1)(None)
        self.refused("predictions[0] must not be", LIBRARY.run, engine, batch, None, 0, nothing)
        for name in ("first", "count", "times", "units", "query_times", "session_rows"):
            refused(f"{name} of a batch must not be null", **{name: None})
        refused("types must be given for this model", types=None)
        refused("windows of a batch must be in 0..", windows=-1)
        refused("queries of a batch must be in 0..", queries=2**40)
        for wrong in ([-1, 3], [3, 2**62]):
            bad = np.array(wrong)
            refused("count of a batch must be in 0..2147483647", count=bad.ctypes.data)
        for name, bad in (
            ("first", np.array([0, -1])),
            ("times", np.full(53, np.nan)),
            ("units", np.full(53, 6)),
            ("units", np.full(53, -1)),
            ("types", np.full(53, 3)),
            ("query_times", np.full(10, np.inf)),
            ("session_rows", np.full(10, 10**6)),
            ("session_rows", np.full(10, -1)),
        ):
            refused(" must ", **{name: bad.ctypes.data})
        refused("requests must not be null", n=1)
        refused("number of requests must be", n=-1)
        result = np.zeros(10**5, np.float32).ctypes.data
        for message, fields in (
            ("site of a request must be in 0..", (-1, c.PER_UNIT, 0, 0, result, None)),
            ("site of a request must be in 0..", (99, c.PER_UNIT, 0, 0, result, None)),
            ("statistic of a request must be", (0, 99, 0, 0, result, None)),
            ("must be asked where keys are tokens", (1, c.PER_UNIT, 0, 0, result, None)),
            ("result of a request must point to memory", (0, c.PER_UNIT, 0, 0, None, None)),
        ):
            refused(message, requests=c.Request(*fields), n=1)
        assert (out[0] == 7).all()  # nothing is written


def test_what_python_refuses_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    """The same faults in a folder, seen by both readers."""
    folder = tmp_path / "bundle"
    for name, change in {
        "nan": lambda data: data[:-4] + np.float32(np.nan).tobytes(),
        "more": lambda data: data + b"\0",
        "less": lambda data: data[:-1],
        "pickle": lambda _: b"\x80\x04.",
    }.items():
        shutil.copytree(bundles["poyo"], folder, dirs_exist_ok=True)
        data = change((bundles["poyo"] / "weights.safetensors").read_bytes())
        (folder / "weights.safetensors").write_bytes(data)
        with pytest.raises(AttendriteError):
            Bundle.load(folder)
        with pytest.raises(c.RefusedError) as caught:
            opened(folder)
        assert caught.value.status == c.BAD_INPUT, name

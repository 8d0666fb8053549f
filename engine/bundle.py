"""Bundles: a trained model as a folder of ``manifest.json`` and ``weights.safetensors``.

Only these two formats are read, never pickle. The weights are the original tensors under the names
of the library that trained them; everything else that a run needs is in the manifest. The model as
an ONNX graph, ``graph.onnx``, may lie beside them; only the executor ``onnx`` reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from . import errors
from .files import folder_written_whole

FORMAT = 1
MANIFEST, WEIGHTS, GRAPH = "manifest.json", "weights.safetensors", "graph.onnx"
KINDS = ("continuous", "binary", "multinomial", "multilabel")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of stored weights
FASTEST = 1e6  # Hz
LONGEST_MANIFEST = 1 << 28  # bytes; 116 701 units take 6 MB
LONGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors format
LONGEST_GRAPH = (1 << 31) - 1  # bytes, the limit of one protobuf message
REMAKE = "export the checkpoint again"


@dataclass(frozen=True)
class Task:
    """One read-out of a model with several.

    Attributes:
        name: As in the weights' names.
        id: Row of the task table.
        dim: Width of the output.
        kind: ``continuous``, ``binary``, ``multinomial`` (argmax over the width) or ``multilabel``.
    """

    name: str
    id: int
    dim: int
    kind: str = "continuous"


@dataclass(frozen=True)
class Manifest:
    """Everything about a model but its weights.

    Attributes:
        family: Model family, a module of ``attendrite.models``.
        name: What people call the model.
        config: Sizes, and times in seconds; what a family needs, by name.
        units: Unit id to row of the unit table. Row 0 is padding and has no id.
        sessions: Session id to row of the session table, likewise.
        tasks: The read-outs; empty for a family with one.
        training: Facts about the training, as far as known: ``unit_dropout``, ``data``,
            ``rates_hz`` (unit id to mean rate), ``seeds``, ``split``, anything JSON can hold.
        source: Where the weights came from: ``file``, ``sha256``, ``layout``, ``set``.
        files: File name to its ``sha256`` and size in ``bytes``.
    """

    family: str
    name: str
    config: Mapping[str, Any]
    units: Mapping[str, int]
    sessions: Mapping[str, int]
    tasks: tuple[Task, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def sequence_length(self) -> float:
        """Length of the windows of time that the model reads, seconds.

        Raises:
            AttendriteError: It reads none, but images.
        """
        if "sequence_length" not in self.config:
            raise errors.must("the model", "read windows of time", f"a {self.family} model")
        return float(self.config["sequence_length"])

    def to_json(self) -> str:
        """Return the text of ``manifest.json``; the same manifest gives the same text."""
        table = {key: getattr(self, key) for key in self.__dataclass_fields__}
        table["tasks"] = [vars(task) for task in self.tasks]
        return json.dumps({"format": FORMAT, **table}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read and check the text of ``manifest.json``.

        Raises:
            AttendriteError: Not JSON, a newer format, or a part missing or of the wrong type.
        """
        table = _parse(text)
        if not isinstance(table, dict) or "format" not in table:
            raise errors.must(MANIFEST, "be an object with 'format'", type(table).__name__, REMAKE)
        version = table["format"]
        if type(version) is not int or version < 1:
            raise errors.must(f"format of {MANIFEST}", "be a positive integer", repr(version))
        if version > FORMAT:
            raise errors.must(
                f"format of {MANIFEST}", f"be at most {FORMAT}", version, "upgrade attendrite"
            )
        for name, kind in _PARTS.items():
            if not isinstance(table.get(name), kind):
                got = type(table[name]).__name__ if name in table else "none"
                raise errors.must(f"{name!r} of {MANIFEST}", f"be {_JSON[kind]}", got, REMAKE)
        for name in ("units", "sessions"):
            check_vocabulary(name, table[name])
        tasks = tuple(_task(row) for row in table["tasks"])
        for part in ("name", "id"):
            if len({getattr(task, part) for task in tasks}) != len(tasks):
                raise errors.must("tasks", f"have distinct {part}s", "one twice", REMAKE)
        _check_rates(table["training"].get("rates_hz", {}))
        for name, fact in table["files"].items():
            _check_fact(name, fact)
        return cls(**{name: table[name] for name in _PARTS} | {"tasks": tasks})


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory.

    Attributes:
        manifest: Everything but the weights.
        weights: The original tensors by name, on the CPU. Shared, not to be modified.
        path: The folder it was read from; ``None`` for one made in memory, also by
            ``dataclasses.replace``: the files of the folder are not those of the new one.
    """

    manifest: Manifest
    weights: Mapping[str, Tensor] = field(repr=False)
    path: Path | None = field(default=None, init=False)

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read a bundle, verifying the hashes of its files.

        Raises:
            AttendriteError: A file is missing, foreign, truncated, of a newer format, not the one
                that was exported, or holds NaN or infinity.
        """
        folder = Path(path)
        if not folder.is_dir():
            got = "a file" if folder.exists() else "nothing there"
            raise errors.must(f"bundle {folder}", "be a folder", got, "make one: attendrite export")
        text = _read(folder / MANIFEST, LONGEST_MANIFEST)
        refuse_pickle(MANIFEST, text)
        try:
            manifest = Manifest.from_json(text.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise errors.must(MANIFEST, "be UTF-8 text", error.reason, REMAKE) from None
        data = _read(folder / WEIGHTS)
        refuse_pickle(WEIGHTS, data)
        _check_header(data)
        _check_hash(manifest, WEIGHTS, data)
        bundle = cls(manifest, _tensors(data))
        object.__setattr__(bundle, "path", folder)  # frozen
        return bundle

    def file(self, name: str) -> bytes | None:
        """Return a file that lies beside the weights, its hash verified.

        Args:
            name: For example :data:`GRAPH`.

        Returns:
            Its bytes; ``None`` if the manifest lists no such file, or the bundle is in memory only.

        Raises:
            AttendriteError: The file is missing, too long, or not the one that was exported.
        """
        if self.path is None or name not in self.manifest.files:
            return None
        data = _read(self.path / name, LONGEST_GRAPH)
        _check_hash(self.manifest, name, data)
        return data

    def save(
        self, path: str | Path, *, force: bool = False, graph: bytes | None = None
    ) -> Manifest:
        """Write the bundle as a folder, whole or not at all.

        Args:
            path: The folder to make.
            force: Replace a bundle (or an empty folder) that is there.
            graph: The model as an ONNX file, to lie beside the weights.

        Returns:
            The manifest as written, with the hashes of the files.

        Raises:
            AttendriteError: Something is there already, or the bundle could not be loaded again: a
                tensor holds NaN or infinity, or the manifest is unsound.
        """
        folder = Path(path)
        if force and folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
            raise errors.must(str(folder), "be a bundle to be replaced", "another folder")
        Manifest.from_json(self.manifest.to_json())
        for name, tensor in self.weights.items():
            check_finite(name, tensor)
        weights = {name: t.detach().cpu().contiguous() for name, t in self.weights.items()}
        with folder_written_whole(folder, replace=force) as beside:
            data = safetensors.torch.save({name: t.clone() for name, t in weights.items()})
            files = {WEIGHTS: data} | ({} if graph is None else {GRAPH: graph})
            for name, content in files.items():
                (beside / name).write_bytes(content)
            facts = {name: _fact(content) for name, content in files.items()}
            manifest = Manifest(**{**vars(self.manifest), "files": facts})
            (beside / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return manifest


def check_vocabulary(name: str, vocabulary: Mapping[Any, Any]) -> None:
    """Refuse a vocabulary whose ids are not strings or rows not distinct positive integers.

    Raises:
        AttendriteError: With the first bad id.
    """
    for key, row in vocabulary.items():
        if not isinstance(key, str) or type(row) is not int or row < 1:
            raise errors.must(f"{name} vocabulary", "map ids to rows >= 1", f"{key!r}: {row!r}")
    if len(set(vocabulary.values())) != len(vocabulary):
        raise errors.must(f"{name} vocabulary", "have distinct rows", "a row twice")


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse a tensor of weights that holds NaN or infinity.

    Raises:
        AttendriteError: With the first bad index.
    """
    bad = torch.nonzero(~torch.isfinite(tensor))
    if len(bad):
        index = bad[0].tolist()
        value = tensor[tuple(index)].item()
        raise errors.must(f"weights {name!r}", "be finite", f"{value} at {index}", "train again")


def refuse_pickle(name: str, data: bytes) -> None:
    """Refuse bytes that begin as a pickle or a torch archive does.

    Raises:
        AttendriteError: They do.
    """
    if re.match(rb"PK\x03\x04|\x80[\x02-\x05]", data[:4]):
        raise errors.must(
            name, "not be a pickle or torch file", repr(data[:4]), "attendrite export reads those"
        )


_PARTS: Mapping[str, type] = {
    "family": str,
    "name": str,
    "config": dict,
    "units": dict,
    "sessions": dict,
    "tasks": list,
    "training": dict,
    "source": dict,
    "files": dict,
}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_JSON: Mapping[type, str] = {str: "a string", dict: "an object", list: "a list"}


def _parse(text: str) -> Any:
    def refuse(what: str) -> NoReturn:
        raise ValueError(f"{what} is not JSON")

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a key occurs twice")
        return table

    def finite(number: str) -> float:
        value = float(number)
        return value if math.isfinite(value) else refuse(number)

    try:
        table = json.loads(
            text, parse_constant=refuse, parse_float=finite, object_pairs_hook=distinct
        )
        if _SURROGATE.search(text):  # half a character, which cannot be printed nor written
            json.dumps(table, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise errors.must(MANIFEST, "be text", "half a UTF-16 character", REMAKE) from None
    except (ValueError, RecursionError) as error:
        raise errors.must(MANIFEST, "be JSON", str(error).splitlines()[0], REMAKE) from None
    return table


def _task(row: Any) -> Task:
    fields = {"name": str, "id": int, "dim": int, "kind": str}
    fits = isinstance(row, dict) and set(row) == set(fields)
    if not fits or any(type(row[name]) is not kind for name, kind in fields.items()):
        raise errors.must(f"a task of {MANIFEST}", "have name, id, dim and kind", row, REMAKE)
    errors.choice("kind of task", row["kind"], KINDS)
    if not row["name"] or not row["name"].isprintable():
        raise errors.must("name of a task", "be printable text", repr(row["name"]), REMAKE)
    if row["id"] < 1 or row["dim"] < 1:
        raise errors.must(f"id and dim of task {row['name']!r}", "be at least 1", row, REMAKE)
    return Task(**row)


def _check_rates(rates: Any) -> None:
    if not isinstance(rates, dict):
        raise errors.must("'rates_hz'", "map unit ids to rates", type(rates).__name__, REMAKE)
    for unit, rate in rates.items():
        if type(rate) not in (int, float) or not 0 <= rate <= FASTEST:
            be = f"be 0 to {FASTEST:g} Hz"
            raise errors.must(f"rate of unit {unit!r}", be, repr(rate), REMAKE)


def _check_fact(name: str, fact: Any) -> None:
    kinds = {"sha256": str, "bytes": int}
    if not isinstance(fact, dict) or any(type(fact.get(k)) is not t for k, t in kinds.items()):
        raise errors.must(f"file {name!r} of {MANIFEST}", "have sha256 and bytes", fact, REMAKE)


def _read(path: Path, longest: int | None = None) -> bytes:
    if not path.is_file():
        raise errors.must(f"bundle {path.parent}", f"hold {path.name}", "none", REMAKE)
    size = path.stat().st_size
    if longest is not None and size > longest:
        raise errors.must(path.name, f"have at most {longest} bytes", size)
    return path.read_bytes()


def _check_header(data: bytes) -> None:
    """Check the sizes that a safetensors file declares before anything uses them."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or data[8:9] != b"{":
        raise errors.must(WEIGHTS, "be a safetensors file", repr(data[:9]), REMAKE)
    if size > min(LONGEST_HEADER, len(data) - 8):
        limit = min(LONGEST_HEADER, len(data) - 8)
        raise errors.must(f"header of {WEIGHTS}", f"have at most {limit} bytes", size, REMAKE)


def _check_hash(manifest: Manifest, name: str, data: bytes) -> None:
    fact = manifest.files.get(name)
    if fact is None:
        raise errors.must(f"'files' of {MANIFEST}", f"have the sha256 of {name}", fact, REMAKE)
    got = _fact(data)
    if got["sha256"] != fact["sha256"]:
        raise errors.must(
            f"sha256 of {name}",
            f"be {fact['sha256'][:12]}... as in {MANIFEST}",
            f"{got['sha256'][:12]}... ({len(data)} bytes)",
            "the file is damaged or not the exported one; copy the bundle again",
        )


def _fact(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _tensors(data: bytes) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        got = str(error).splitlines()[0]
        raise errors.must(WEIGHTS, "be a safetensors file", got, REMAKE) from None
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise errors.must(f"weights {name!r}", f"be one of {known}", tensor.dtype, REMAKE)
        check_finite(name, tensor)
    return tensors


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

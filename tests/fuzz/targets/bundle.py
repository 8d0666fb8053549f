"""Bundles: the folder that an engine loads and ``attendrite inspect`` shows."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tiny
from attendrite import fit, models
from attendrite.bundle import MANIFEST, WEIGHTS, Bundle
from attendrite.commands import inspect
from attendrite.decoding import held_out
from attendrite.errors import AttendriteError
from attendrite.recordings import Recording
from attendrite.runtime import Engine

VALUES: list[Any] = [
    None, True, 0, 1, -1, 7, 2**31, 2**63, 10**400, 1e-300, 1e300, 0.5, "", "a", "a\nb", "\ud800",
    "../x", "\x00", [], [1], {}, {"a": 1}, {"": -1}, "F64", "F16", "F8_E4M3", "I64", "C64", "F4",
]  # fmt: skip
RECORDING = Recording.from_trains("one", {"a": [1.0, 2.0], "z": [3.0]}, domain=(0.0, 8.0))


def seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    for family in models.families():
        tiny.bundle(family).save(folder / family)
    return [folder / family for family in models.families()]


def read(path: Path) -> None:
    try:
        loaded = Bundle.load(path)
    except AttendriteError as error:
        if not str(error).startswith("sha256 of"):
            raise
        _right_hash(path)  # a bundle from someone who can count
        loaded = Bundle.load(path)
    facts = inspect.inspect(loaded)
    inspect.text(facts).encode()
    json.dumps(facts)
    fit.check(loaded.manifest, RECORDING)
    held_out(Engine(loaded), RECORDING)


def _right_hash(path: Path) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"][WEIGHTS]["sha256"] = hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()
    (path / MANIFEST).write_text(json.dumps(manifest))


def mutate(
    data: bytes, others: Sequence[bytes], chance: random.Random, general: Callable[..., bytes]
) -> bytes:
    """Damage bytes, or a value of the manifest or of the weights' header that stays JSON."""
    if chance.random() < 0.4:
        return general(data, others, chance)
    if data.startswith(b"{"):
        return _changed(data, chance)
    size = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + size], data[8 + size :]
    header = _changed(header, chance) if chance.random() < 0.7 else general(header, [], chance)
    return len(header).to_bytes(8, "little") + header + rest


def _changed(data: bytes, chance: random.Random) -> bytes:
    """Replace, remove or add one value, anywhere in a JSON text."""
    table = json.loads(data)
    places = list(_places(table))
    where, key = chance.choice(places)
    kind = chance.random()
    if kind < 0.7:
        where[key] = copy.deepcopy(chance.choice(VALUES))
    elif kind < 0.85:
        del where[key]
    else:
        other, name = chance.choice(places)
        where[key] = copy.deepcopy(other[name])
    return json.dumps(table).encode()


def _places(table: Any) -> Any:
    """Yield every container and key of a tree."""
    keys = list(table) if isinstance(table, dict) else range(len(table))
    for key in keys:
        yield table, key
        if isinstance(table[key], dict | list):
            yield from _places(table[key])

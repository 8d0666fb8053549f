"""Seeded mutations of bytes: what damages files, and what an attacker would try first."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

# Edges of the integers that files hold as sizes, counts and offsets.
EDGES = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    2**63 - 1,
    2**64 - 1,
]
# What a value of a manifest or of a header of weights is replaced by.
VALUES: list[Any] = [
    None, True, 0, 1, -1, 7, 2**31, 2**63, 10**400, 1e-300, 1e300, 0.5, "", "a", "a\nb", "\ud800",
    "../x", "\x00", [], [1], {}, {"a": 1}, {"": -1}, "F64", "F16", "F8_E4M3", "I64", "C64", "F4",
]  # fmt: skip
NUMBERS = [b"0", b"-1", b"1", b"4294967296", b"9" * 20, b"1e999", b"nan", b"0.5"]


def mutate(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Return a damaged copy of ``data``: one to four of the mutations below."""
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        data = chance.choice(MUTATIONS)(data, others, chance)
    return data


def mutate_archive(
    data: bytes, others: Sequence[bytes], chance: random.Random, general: Callable[..., bytes]
) -> bytes:
    """Damage a zip archive, or one entry of it with the checksum made right again."""
    if chance.random() < 0.4:
        return general(data, others, chance)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    name = chance.choice(list(entries))
    entries[name] = general(entries[name], list(entries.values()), chance)
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    ) as new:
        for entry, content in entries.items():
            new.writestr(entry, content)
    return out.getvalue()


def mutate_bundle(
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


def _flip_bits(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        if out:
            out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def _set_integer(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    size = chance.choice([1, 2, 4, 8])
    if len(data) < size:
        return data
    place = chance.randrange(len(data) - size + 1)
    value = chance.choice(EDGES) % (1 << 8 * size)
    order = chance.choice(["little", "little", "big"])
    return data[:place] + value.to_bytes(size, order) + data[place + size :]  # type: ignore[arg-type]


def _truncate(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _extend(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    return data + chance.randbytes(chance.choice([1, 8, 300]))


def _delete(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + data[start + chance.choice([1, 4, 16, 256]) :]


def _repeat(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    start = chance.randrange(len(data) + 1)
    stop = start + chance.choice([1, 4, 16, 256])
    return data[:stop] + data[start:]


def _blank(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    start = chance.randrange(len(data) + 1)
    length = min(chance.choice([1, 4, 64]), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def _splice(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    other = chance.choice(others) if others else data
    if not other:
        return data
    take = chance.randrange(len(other))
    length = chance.choice([4, 32, 512])
    place = chance.randrange(len(data) + 1)
    return data[:place] + other[take : take + length] + data[place + length :]


def _change_number(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    """Change a number written as text: in JSON, in .npy headers, in tables."""
    found = list(re.finditer(rb"\d+(\.\d+)?", data))
    if not found:
        return data
    where = chance.choice(found)
    return data[: where.start()] + chance.choice(NUMBERS) + data[where.end() :]


def _swap_text(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    """Exchange two words: names for names, one dtype for another."""
    words = sorted(set(re.findall(rb"[A-Za-z_<>|]{2,12}", data)))
    if len(words) < 2:
        return data
    old, new = chance.sample(words, 2)
    return data.replace(old, new, 1)


MUTATIONS: list[Callable[[bytes, Sequence[bytes], random.Random], bytes]] = [
    _flip_bits, _flip_bits, _set_integer, _set_integer, _truncate, _extend, _delete, _repeat,
    _blank, _splice, _change_number, _swap_text,
]  # fmt: skip

"""Reads tensors out of a torch file that holds other objects too, and calls nothing of it.

A pickle is a program: it names functions and classes and calls them. Here every name but those of
tensors stands for an empty :class:`Nothing`, which takes any call and does nothing; what the file
calls is never looked up. Python's own unpickler is used (not the one in C): its memo is a
dictionary, so a file cannot make it allocate more than it holds.

The format is that of ``torch.save`` since torch 1.6: a zip archive of ``data.pkl`` and one entry of
raw bytes for each storage, nothing compressed: what is read is no larger than the file.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import errors

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LONGEST = 1 << 26  # bytes of the pickle


class Nothing:
    """Stands for whatever else a file names: takes any call, keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Nothing:
        """Take any arguments."""
        del args, kwargs
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def __call__(self, *args: Any, **kwargs: Any) -> Nothing:
        """Take any call."""
        del args, kwargs
        return self

    def __setstate__(self, state: Any) -> None:
        """Keep no state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep no item."""

    def append(self, value: Any) -> None:
        """Keep no item."""

    def extend(self, values: Any) -> None:
        """Keep no items."""

    def add(self, value: Any) -> None:
        """Keep no item."""

    def __hash__(self) -> int:
        return id(self)


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype


class _Lazy(NamedTuple):
    """A tensor that is not yet read."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    """Read the tensors of one dictionary of a torch file.

    Args:
        path: The file.
        name: Of the dictionary, among those of the file.

    Returns:
        The tensors by name, on the CPU; what is no tensor is left out.

    Raises:
        AttendriteError: Not such a file, damaged, or without that dictionary.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
                raise errors.must(str(path), "be stored as torch does", "compressed entries")
            root = _root(path, list(entries))
            if entries[f"{root}data.pkl"].file_size > LONGEST:
                size = entries[f"{root}data.pkl"].file_size
                raise errors.must(str(path), f"have a pickle of at most {LONGEST} bytes", size)
            table = _Inert(io.BytesIO(archive.read(f"{root}data.pkl"))).load()
            state = table.get(name) if isinstance(table, dict) else None
            if not isinstance(state, dict):
                raise errors.must(str(path), f"hold a dictionary {name!r}", type(state).__name__)
            read = _reader(path, archive, entries, root)
            return {str(k): read(v) for k, v in state.items() if isinstance(v, _Lazy)}
    except errors.AttendriteError:
        raise
    except Exception as error:  # whatever a foreign file provokes, it is not a checkpoint
        got = f"{type(error).__name__}: {str(error)[:200]}"
        raise errors.must(str(path), "be a checkpoint of torch 1.6 or newer", got) from None


def _root(path: Path, names: Sequence[str]) -> str:
    roots = [name[: -len("data.pkl")] for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise errors.must(
            str(path), "hold one data.pkl", len(roots), "torch.save writes such files"
        )
    return roots[0]


def _reader(
    path: Path, archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], root: str
) -> Callable[[_Lazy], Tensor]:
    """Return what reads a tensor; a storage that several share is read once."""
    kept: dict[str, Tensor] = {}

    def read(lazy: _Lazy) -> Tensor:
        key, dtype = lazy.storage
        entry = f"{root}data/{key}"
        if entry not in entries:
            raise errors.must(str(path), f"hold the data {entry}", "none")
        if key not in kept:
            raw = bytearray(archive.read(entry))
            kept[key] = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.zeros(0).byte()
        data, item = kept[key], dtype.itemsize
        last = lazy.offset + sum((n - 1) * s for n, s in zip(lazy.size, lazy.stride, strict=True))
        sound = min((lazy.offset, *lazy.size, *lazy.stride)) >= 0 and len(data) % item == 0
        if math.prod(lazy.size) and (not sound or last >= len(data) // item):
            raise errors.must(
                str(path), "hold whole tensors", f"{list(lazy.size)} of {len(data)} B"
            )
        return data.view(dtype).as_strided(lazy.size, lazy.stride, lazy.offset).clone()

    return read


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, *rest: Any, **more: Any
) -> _Lazy | Nothing:
    """Take the arguments of ``torch._utils._rebuild_tensor_v2``."""
    del rest, more
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or any(type(n) is not int for n in numbers):
        return Nothing()
    return _Lazy(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any = None, *rest: Any) -> Any:
    """Take the arguments of ``torch._utils._rebuild_parameter``."""
    del rest
    return data


class _Inert(pickle._Unpickler):
    """Knows tensors, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) in known:
            return known[module, name]
        return DTYPES.get(name, Nothing) if module == "torch" else Nothing

    def persistent_load(self, pid: Any) -> Any:
        """Return what stands for a storage."""
        kind, dtype, key, *_ = pid
        sound = kind == "storage" and isinstance(dtype, torch.dtype) and isinstance(key, str)
        return _Storage(key, dtype) if sound else Nothing()

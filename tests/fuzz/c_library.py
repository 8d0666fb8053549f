"""libattendrite as a program sees it: the declarations of attendrite.h for ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_void_p
from typing import Any

import numpy as np
from attendrite.commands.config import prefix
from numpy.typing import NDArray

OK, FAULT, BAD_INPUT = 0, 1, 2
PER_UNIT = 2


class ModelInfo(ctypes.Structure):
    """attendrite_model_info."""

    _fields_ = [(n, c_int64) for n in ("sites", "tasks", "width", "latents", "dim")] + [
        ("sequence_length", c_double), ("takes_values", c_int32), ("reserved", c_int32)
    ]  # fmt: skip


class SiteInfo(ctypes.Structure):
    """attendrite_site_info."""

    _fields_ = [
        ("name", c_char_p), ("heads", c_int64), ("width", c_int64), ("has_units", c_int32),
        ("reserved", c_int32),
    ]  # fmt: skip


class TaskInfo(ctypes.Structure):
    """attendrite_task_info."""

    _fields_ = [("name", c_char_p), ("id", c_int64), ("width", c_int64), ("kind", c_char_p)]


class Batch(ctypes.Structure):
    """attendrite_batch."""

    _fields_ = [
        ("windows", c_int64), ("first", c_void_p), ("count", c_void_p), ("times", c_void_p),
        ("units", c_void_p), ("types", c_void_p), ("values", c_void_p), ("queries", c_int64),
        ("query_times", c_void_p), ("session_rows", c_void_p), ("task_rows", c_void_p),
    ]  # fmt: skip

    def __init__(self, windows: int, queries: int, **arrays: NDArray[Any]) -> None:
        self.held = arrays  # their memory
        super().__init__(windows=windows, queries=queries, **addresses(arrays))


class Request(ctypes.Structure):
    """attendrite_request."""

    _fields_ = [
        ("site", c_int64), ("statistic", c_int32), ("spikes_only", c_int32), ("k", c_int64),
        ("result", c_void_p), ("second", c_void_p),
    ]  # fmt: skip


ENGINE, INTO, ROOM = c_void_p, POINTER(c_void_p), [c_char_p, c_size_t]
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "abi": (c_int, []),
    "open": (c_int, [c_char_p, c_int, INTO, *ROOM]),
    "parse": (c_int, [c_char_p, c_size_t, c_char_p, c_size_t, c_int, INTO, *ROOM]),
    "share": (c_int, [ENGINE, INTO, *ROOM]),
    "close": (None, [ENGINE]),
    "set_threads": (None, [ENGINE, c_int]),
    "model_of": (None, [ENGINE, POINTER(ModelInfo)]),
    "site": (c_int, [ENGINE, c_int64, POINTER(SiteInfo)]),
    "task": (c_int, [ENGINE, c_int64, POINTER(TaskInfo)]),
    "unit_row": (c_int64, [ENGINE, c_char_p]),
    "session_row": (c_int64, [ENGINE, c_char_p]),
    "bind_units": (c_int, [ENGINE, c_void_p, c_int64, *ROOM]),
    "tokens": (c_int64, [ENGINE, c_void_p, c_void_p, c_int64, c_void_p, c_void_p, c_void_p]),
    "run": (c_int, [ENGINE, POINTER(Batch), POINTER(Request), c_int64, c_void_p, *ROOM]),
    "run_encoded": (
        c_int,
        [ENGINE, POINTER(Batch), c_void_p, POINTER(Request), c_int64, c_void_p, *ROOM],
    ),
    "reserve": (c_int, [ENGINE, *[c_int64] * 4, *ROOM]),
}


def library() -> Any:
    """Return the installed library, its functions without their prefix ``attendrite_``."""
    loaded = ctypes.CDLL(str(prefix() / "lib" / "libattendrite.so"))
    functions = {}
    for name, (result, arguments) in SIGNATURES.items():
        functions[name] = loaded[f"attendrite_{name}"]
        functions[name].restype, functions[name].argtypes = result, arguments
    return type("Library", (), {name: staticmethod(f) for name, f in functions.items()})


def addresses(arrays: dict[str, NDArray[Any]]) -> dict[str, int]:
    """Return where the numbers of arrays are."""
    return {name: array.ctypes.data for name, array in arrays.items()}


class RefusedError(Exception):
    """A call that failed, with its status and its line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def call(function: Any, *arguments: Any) -> None:
    """Call a function that returns a status.

    Raises:
        RefusedError: The status is not OK.
    """
    room = ctypes.create_string_buffer(1 << 16)
    status = function(*arguments, room, len(room))
    if status != OK:
        raise RefusedError(status, room.value.decode())


def engine_of(function: Any, *arguments: Any) -> c_void_p:
    """Call a function that makes an engine; see :func:`call`."""
    engine = c_void_p()
    call(function, *arguments, ctypes.byref(engine))
    return engine


def pointers(arrays: Sequence[NDArray[np.float32]]) -> Any:
    """Return an array of the addresses of arrays."""
    return (c_void_p * max(len(arrays), 1))(*(a.ctypes.data for a in arrays))

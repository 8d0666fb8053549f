"""MATLAB v5 files: the places of units, agreement with scipy's reader, and what is refused."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite.errors import AttendriteError
from attendrite.recordings._mat5 import Cell, MatFile, Other, Struct
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

A, B = np.array([0.5, 1.5]), np.array([1.0, 2.0, 2.5])


def cells(*values: Any) -> Any:
    out = np.empty((1, len(values)), object)
    for i, value in enumerate(values):
        out[0, i] = value
    return out


def saved(path: Path, compress: bool = False, **variables: Any) -> Path:
    savemat(path / "day1.mat", variables, do_compression=compress)
    return path / "day1.mat"


@pytest.mark.parametrize("compress", [False, True])
def test_a_cell_array_of_vectors(tmp_path: Path, compress: bool) -> None:
    path = saved(tmp_path, compress, spikes=cells(A, B[:, None], np.zeros((0, 1))), rate=3.0)
    one = attendrite.read(path)
    assert one.session == "day1"
    assert one.unit_ids == ("1", "2")
    np.testing.assert_array_equal(one.spikes.times, [0.5, 1.0, 1.5, 2.0, 2.5])
    np.testing.assert_array_equal(one.spikes.units, [0, 1, 0, 1, 1])
    assert one.domain == (0.5, 2.5)
    assert attendrite.read(path, silent=True).unit_ids == ("1", "2", "3")


def test_nested_cells_of_structs_with_gaps(tmp_path: Path) -> None:
    """The layout of the linear track: spikes{1}{tetrode}{unit}.time, with empty places."""
    unit = {"time": A[:, None], "meanrate": 0.1}
    nobody = {"time": np.zeros((0, 1)), "meanrate": 0.0}
    empty = np.zeros((1, 0))
    tetrodes = cells(cells(unit, empty, nobody), empty, cells(empty, {"time": B, "meanrate": 2.0}))
    one = attendrite.read(saved(tmp_path, spikes=cells(tetrodes)))
    assert one.unit_ids == ("1/1", "3/2")
    np.testing.assert_array_equal(one.by_unit()[0], [*A, *B])


def test_a_struct_array(tmp_path: Path) -> None:
    units = np.array([(A, "a"), (B, "b")], dtype=[("times", object), ("name", object)])
    path = saved(tmp_path, units=units)
    assert attendrite.read(path, field="times").unit_ids == ("1", "2")
    with pytest.raises(
        AttendriteError, match="unknown field of the struct 'time'; known: times, name"
    ):
        attendrite.read(path)


def test_a_variable_is_chosen_or_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, first=cells(A), second=cells(A, B), rate=1.0)
    assert len(attendrite.read(path, variable="second").unit_ids) == 2
    with pytest.raises(
        AttendriteError, match="one cell or struct with the spikes, got first, second"
    ):
        attendrite.read(path)
    with pytest.raises(
        AttendriteError, match=r"unknown variable of day1\.mat 'third'; known: first"
    ):
        attendrite.read(path, variable="third")
    with pytest.raises(AttendriteError, match="got only rate; put each unit's times into a cell"):
        attendrite.read(saved(tmp_path, rate=1.0))


def test_other_units_of_time(tmp_path: Path) -> None:
    path = saved(tmp_path, spikes=cells(np.array([500, 1500], np.int32)))
    np.testing.assert_array_equal(attendrite.read(path, scale=0.001).spikes.times, A)
    with pytest.raises(AttendriteError, match="scale must be a positive number, got 0"):
        attendrite.read(path, scale=0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (cells(B[::-1]), "spike times of unit 0 must be sorted, got times[1] = 2.0 after 2.5"),
        (cells(A, A * np.nan), "spike times must be finite"),
        (cells(A - 1), "must lie in the domain 0.0 to 0.5 s, got times[0] = -0.5"),
        (cells(np.ones((2, 2))), "the times at 1 must be a vector, got shape (2, 2)"),
        (cells("words"), "the times at 1 must be real numbers, got text"),
        (cells(A, A * 1j), "the times at 2 must be real numbers, got complex array"),
    ],
)
def test_values_that_are_no_times_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(AttendriteError, match=re.escape(message)):
        attendrite.read(saved(tmp_path, spikes=value))


def test_other_versions_say_what_to_do(tmp_path: Path) -> None:
    new = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n"
    for data in (new, b"\x00\x00\x00\x00\x01\x00\x00\x00"):
        (tmp_path / "other.mat").write_bytes(data)
        with pytest.raises(AttendriteError, match=r"be a MATLAB v5 file, got .*; save it .* '-v7'"):
            attendrite.read(tmp_path / "other.mat")


def test_a_file_cut_short_is_refused_wherever(tmp_path: Path) -> None:
    for compress in (False, True):
        data = saved(tmp_path, compress, spikes=cells(A, cells(B))).read_bytes()
        for length in range(130, len(data) - 8, 7):
            (tmp_path / "cut.mat").write_bytes(data[:length])
            with pytest.raises(AttendriteError, match=r"cut\.mat must be a whole MATLAB v5 file"):
                attendrite.read(tmp_path / "cut.mat")


def test_false_sizes_are_refused(tmp_path: Path) -> None:
    head = saved(tmp_path, spikes=cells(A)).read_bytes()[:128]

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(kind: int, dims: tuple[int, ...], rest: bytes = b"") -> bytes:
        flags = element(6, struct.pack("<II", kind, 0))
        sizes = element(5, struct.pack(f"<{len(dims)}i", *dims))
        return element(14, flags + sizes + element(1, b"spikes") + rest)

    bomb = zlib.compress(struct.pack("<II", 14, 1 << 31))
    for content, message in (
        (matrix(1, (1 << 30, 1 << 30)), "got 1152921504606846976 values in 0 bytes"),
        (matrix(1, (-1, 2)), "got an array of shape (-1, 2)"),
        (matrix(6, (1 << 20, 1 << 20), element(9, bytes(8))), "got 8 bytes for an array of shape"),
        (struct.pack("<II", 15, len(bomb)) + bomb, "that claims 2147483648 bytes"),
        (struct.pack("<II", 14, 1 << 31), "got an element of 2147483648 bytes where 0 are left"),
    ):
        (tmp_path / "false.mat").write_bytes(head + content)
        with pytest.raises(AttendriteError, match=re.escape(message)):
            attendrite.read(tmp_path / "false.mat", variable="spikes")


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    value: Any = A
    for _ in range(40):
        value = cells(value)
    with pytest.raises(AttendriteError, match="got values nested more than 16 deep"):
        attendrite.read(saved(tmp_path, spikes=value))


def same(ours: Any, scipys: Any) -> bool:
    """Compare a value with the one that scipy's reader returns."""
    if isinstance(ours, Cell):
        pairs = zip(ours.values, scipys.ravel(order="F"), strict=True)
        return all(same(a, b) for a, b in pairs)
    if isinstance(ours, Struct):
        rows = zip(ours.elements, scipys.ravel(order="F"), strict=True)
        return all(same(row[f], element[f]) for row, element in rows for f in ours.fields)
    if isinstance(ours, Other):
        return ours.kind == "text" and scipys.dtype.kind == "U"
    return bool(np.array_equal(ours, scipys)) if ours.size else scipys.size == 0


numbers = st.sampled_from(["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]).flatmap(
    lambda dtype: st.tuples(st.integers(0, 3), st.integers(0, 3)).map(
        lambda shape: np.arange(shape[0] * shape[1]).astype(dtype).reshape(shape)
    )
)
values = st.recursive(
    numbers | st.text("abc", min_size=1, max_size=9),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda v: cells(*v))
        | st.dictionaries(st.sampled_from(["time", "x", "long_name"]), inner, min_size=1)
    ),
    max_leaves=6,
)


@given(value=values, compress=st.booleans())
def test_our_reader_agrees_with_scipys(
    tmp_path_factory: pytest.TempPathFactory, value: Any, compress: bool
) -> None:
    path = saved(tmp_path_factory.mktemp("mat"), compress, before=1.0, value=value)
    file = MatFile(path)
    assert file.names == ["before", "value"]
    assert same(file.read("value"), loadmat(path)["value"])


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    """One vector in one cell, written out by hand in the other byte order."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(kind: int, dims: tuple[int, int], name: bytes, rest: bytes) -> bytes:
        flags, sizes = struct.pack(">II", kind, 0), struct.pack(">2i", *dims)
        return element(14, element(6, flags) + element(5, sizes) + element(1, name) + rest)

    inner = matrix(6, (1, 2), b"", element(9, struct.pack(">2d", 0.5, 1.5)))
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    (tmp_path / "big.mat").write_bytes(head + matrix(1, (1, 1), b"spikes", inner))
    np.testing.assert_array_equal(attendrite.read(tmp_path / "big.mat").spikes.times, A)
    assert same(
        MatFile(tmp_path / "big.mat").read("spikes"), loadmat(tmp_path / "big.mat")["spikes"]
    )

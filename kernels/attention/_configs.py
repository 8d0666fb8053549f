"""Tile sizes of the Triton kernels, by kernel, bytes of a number and width of a head.

A table, not a search at every start; ``python benchmarks/tune_attention.py`` measures others on a
GPU and prints the best. Made for Hopper (132 multiprocessors, 227 KiB of shared memory each): the
widest tiles whose numbers stay in registers, by the compiler of Triton 3.6 and 3.9.
"""

from __future__ import annotations

from typing import NamedTuple

MULTIPROCESSORS = 132
FEWEST = 16  # rows and columns of the smallest matrix product
FLOAT32 = "bf16x6"
"""Products of float32 on the tensor cores: numbers as sums of three bfloat16, the six products that
matter added in float32. As accurate as float32 arithmetic; ``tf32x3`` costs the same and loses a
bit, ``ieee`` uses no tensor cores and needs more registers than there are."""


class Config(NamedTuple):
    """How a kernel is cut.

    Attributes:
        queries: Of a tile.
        keys: Of a tile.
        warps: Of a program.
        stages: Tiles in flight.
    """

    queries: int
    keys: int
    warps: int
    stages: int


KERNELS = ("forward", "units", "rich", "partials", "keys")
"""``units`` is ``forward`` with rotation or sums per unit, ``rich`` with entropy or lag too."""
WIDTHS = (32, 64, 128, 192, 256)
TABLE: dict[tuple[str, int, int], Config] = {
    ("forward", 2, 32): Config(128, 64, 4, 3),
    ("forward", 2, 64): Config(128, 128, 8, 3),
    ("forward", 2, 128): Config(128, 128, 8, 2),
    ("forward", 2, 192): Config(128, 64, 8, 3),
    ("forward", 2, 256): Config(128, 32, 8, 3),
    ("forward", 4, 32): Config(64, 32, 4, 2),
    ("forward", 4, 64): Config(64, 32, 4, 2),
    ("units", 2, 32): Config(128, 64, 8, 3),
    ("units", 2, 64): Config(128, 32, 8, 3),
    ("units", 2, 128): Config(128, 32, 8, 2),
    ("units", 2, 192): Config(128, 32, 8, 2),
    ("units", 2, 256): Config(32, 32, 8, 2),
    ("units", 4, 32): Config(64, 32, 4, 2),
    ("units", 4, 64): Config(64, 16, 4, 2),
    ("rich", 2, 32): Config(128, 32, 8, 3),
    ("rich", 2, 64): Config(128, 32, 8, 3),
    ("rich", 2, 128): Config(64, 16, 8, 2),
    ("rich", 2, 192): Config(64, 16, 8, 2),
    ("rich", 2, 256): Config(32, 32, 8, 2),
    ("rich", 4, 32): Config(64, 32, 4, 2),
    ("rich", 4, 64): Config(64, 16, 4, 2),
    ("partials", 2, 32): Config(64, 64, 4, 2),
    ("partials", 2, 64): Config(64, 32, 8, 2),
    ("partials", 2, 128): Config(64, 16, 8, 2),
    ("partials", 4, 32): Config(64, 32, 4, 2),
    ("partials", 4, 64): Config(64, 16, 8, 2),
    ("keys", 2, 32): Config(64, 64, 4, 3),
    ("keys", 2, 64): Config(64, 64, 4, 3),
    ("keys", 2, 128): Config(64, 64, 8, 2),
    ("keys", 2, 192): Config(64, 64, 8, 2),
    ("keys", 2, 256): Config(64, 64, 8, 2),
    ("keys", 4, 32): Config(64, 64, 4, 2),
    ("keys", 4, 64): Config(64, 32, 4, 2),
}


def parts(width: int) -> tuple[int, int]:
    """Cover a width by one power of two, or by two where that is smaller; 155 by 128 and 32."""
    whole = max(FEWEST, _power_of_two(width))
    if whole == FEWEST or width == whole:
        return whole, 0
    first = whole // 2
    second = max(FEWEST, _power_of_two(width - first))
    return (first, second) if first + second < whole else (whole, 0)


def config(kernel: str, bytes_each: int, width: int, n_queries: int) -> Config:
    """Choose a configuration; few queries take a smaller tile.

    Args:
        kernel: One of ``KERNELS``.
        bytes_each: Of a query, key or value.
        width: Of the widest of keys and values, both parts.
        n_queries: Queries of a head.
    """
    width = min(width, widest(kernel, bytes_each))  # the interpreter takes any
    found = TABLE[kernel, bytes_each, next(w for w in WIDTHS if width <= w)]
    enough = max(FEWEST, _power_of_two(n_queries))
    if kernel == "keys" or enough >= found.queries:
        return found
    return found._replace(queries=enough, warps=max(4, found.warps * enough // found.queries))


def widest(kernel: str, bytes_each: int) -> int:
    """Return the width of the widest head whose tiles fit into the registers."""
    return max(w for name, size, w in TABLE if (name, size) == (kernel, bytes_each))


def splits(n_programs: int, n_tiles: int, per_processor: int) -> int:
    """Return into how many parts to split the keys so that a few programs fill the machine.

    A function of the sizes alone, so results do not depend on the machine.

    Args:
        n_programs: Programs without a split.
        n_tiles: Tiles, or units, that there are to split.
        per_processor: Programs wanted for each multiprocessor.
    """
    wanted = -(-per_processor * MULTIPROCESSORS // max(1, n_programs))
    return max(1, min(wanted if 2 * n_programs <= per_processor * MULTIPROCESSORS else 1, n_tiles))


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()

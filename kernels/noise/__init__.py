"""White noise by counter: image ``n`` is a function of a seed and ``n`` alone.

Whatever batch, thread, process or machine makes it, an image has the same values, so that a run can
be cut, stopped and repeated anywhere. Random words are Philox4x32-10 (Salmon, Moraes, Dror and Shaw
2011, doi:10.1145/2063384.2063405): the key is the seed, low word first, and the counter is

    (block of pixels, image number, low word, image number, high word, kind)

with kinds in the order of ``KINDS``, so that noise of two kinds is independent. Pixels are numbered
as they lie, the last axis fastest. The four words of a block make

* ``uniform``: four pixels, ``(word >> 8) 2^-24`` in [0, 1);
* ``binary``: 128 pixels, -1 or 1, bit 0 of the first word first, a set bit being 1;
* ``gaussian``: four pixels by Box and Muller (1958, doi:10.1214/aoms/1177706645): words ``a, b``
  give ``r cos t`` and ``r sin t`` with ``r = sqrt(-2 log((a + 1) 2^-32))``, ``t = 2 pi b 2^-32``;
  at most 6.67 in size.

Uniform and binary pixels have the same bits from every backend, gaussian ones are within 1e-6.

Floor: 20 products of 32 bits for each block, and 4 bytes written for each pixel.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch import device as Device

from .. import _arrays
from .._operation import Operation

__all__ = ["KINDS", "OPERATION", "Moments", "moments", "noise"]

OPERATION = Operation(__name__)

KINDS = ("uniform", "binary", "gaussian")


class Moments(NamedTuple):
    """Mean and variance of a pixel."""

    mean: float
    variance: float


_MOMENTS = {
    "uniform": Moments(0.5 - 2.0**-25, (1 - 2.0**-48) / 12),  # 2^24 values, evenly spaced
    "binary": Moments(0.0, 1.0),
    "gaussian": Moments(0.0, 1.0),  # less than 3e-9 below 1, as words are discrete
}


def moments(kind: str) -> Moments:
    """Return mean and variance of a pixel of some kind of noise.

    Raises:
        ValueError: Unknown kind.

    Example:
        >>> moments("binary")
        Moments(mean=0.0, variance=1.0)
    """
    _arrays.one_of("kind", kind, KINDS)
    return _MOMENTS[kind]


def noise(
    kind: str,
    seed: int,
    first: int,
    count: int,
    shape: tuple[int, ...],
    *,
    device: str | Device = "cpu",
    threads: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Make the images ``first .. first + count - 1``.

    Args:
        kind: ``uniform``, ``binary`` or ``gaussian``.
        seed: 0 to 2^64 - 1.
        first: Number of the first image, from 0; the last one's must stay below 2^64.
        count: Images, 0 or more.
        shape: Of an image, for example ``(c, h, w)``.
        device: Where the images are made.
        threads: Threads of the backends that have their own; values do not depend on it.
        backend: A backend by name; ``None`` takes the fastest one that does not refuse.

    Returns:
        ``[count, *shape]``, float32, newly allocated.

    Raises:
        ValueError: Unknown kind, or a number out of range.

    Example:
        >>> noise("uniform", seed=0, first=0, count=1, shape=(1, 1, 2))
        tensor([[[[0.3990, 0.8805]]]])
    """
    _arrays.one_of("kind", kind, KINDS)
    _arrays.positive("threads", threads)
    for axis in shape:
        _arrays.positive("axes of an image", axis)
    if not 0 <= seed < 1 << 64:
        raise _arrays.must("seed", "lie in 0..2^64-1", seed)
    if not 0 <= first <= first + count <= 1 << 64:
        raise _arrays.must("images", "lie in 0..2^64-1", f"{first}..{first + count - 1}")
    where = Device(device)
    size = 1
    for axis in shape:
        size *= axis
    made: Tensor = OPERATION.choose(backend, device=where.type).run(
        kind, seed, first, count, size, device=where, threads=int(threads)
    )
    return made.reshape(count, *shape)


def words(number: int) -> tuple[int, int]:
    """Return the low and the high 32 bits of a number."""
    return number & 0xFFFFFFFF, number >> 32

"""Running sums of responses times images: what receptive fields are made of.

For responses ``r`` of ``U`` units to images ``x`` of ``P`` pixels, block after block,

    sum_rx += r^T x,    sum_r += sum r,    sum_r2 += sum r^2,    sum_x, sum_x2 likewise.

The product of a block is float32, what is added up is float64: at a million images the error is
below 3e-5 of the noise that a field has anyway, and a thousand times smaller than in float32
throughout. So blocks should be large, 512 images or more, but not all there is.

Floor of a block of ``B`` images: 2 U P B operations, and 16 U P bytes to read and write the float64
sums, which is why small blocks are slow: at 100 GFLOP/s and 10 GB/s a block of 80 images would
spend as long on either.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, dtype, float32, float64, zeros
from torch import device as Device

from .. import _arrays
from .._operation import Operation

__all__ = ["NAMES", "OPERATION", "Sums", "noise_sum"]

OPERATION = Operation(__name__)

NAMES = "products", "responses", "response_squares", "pixels", "pixel_squares"


@dataclass(eq=False)
class Sums:
    """Sums over images; contiguous float64 on one device, and a count.

    Attributes:
        products: Of responses times pixels, ``[U, P]``.
        responses: ``[U]``.
        response_squares: ``[U]``.
        pixels: ``[P]``.
        pixel_squares: ``[P]``.
        count: Images.
    """

    products: Tensor
    responses: Tensor
    response_squares: Tensor
    pixels: Tensor
    pixel_squares: Tensor
    count: int

    @classmethod
    def zeros(cls, units: int, pixels: int, device: str | Device = "cpu") -> Sums:
        """Return the sums over no image."""
        a, b, c, d, e = (zeros(s, dtype=float64, device=device) for s in _shapes(units, pixels))
        return cls(a, b, c, d, e, 0)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The five sums, in the order of ``NAMES``."""
        return tuple(getattr(self, name) for name in NAMES)


def noise_sum(
    responses: Tensor,
    images: Tensor,
    out: Sums,
    *,
    threads: int = 1,
    backend: str | None = None,
) -> None:
    """Add a block of images to running sums.

    Args:
        responses: ``[B, U]``, float32, contiguous. Not modified, not kept.
        images: ``[B, P]``, likewise, on the same device. Centred pixels lose fewest digits.
        out: The sums, changed in place.
        threads: Threads of the backends that have their own; the native sums do not depend on it.
        backend: A backend by name; ``None`` takes the fastest one that does not refuse.

    Raises:
        TypeError: A wrong dtype.
        ValueError: A wrong shape or device, or a tensor that is not contiguous.

    Example:
        >>> sums = Sums.zeros(1, 2)
        >>> noise_sum(torch.tensor([[2.0], [3.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]), sums)
        >>> sums.products, sums.count
        (tensor([[5., 3.]], dtype=torch.float64), 2)
    """
    _arrays.positive("threads", threads)
    units, pixels = out.products.shape
    count = len(images)
    _check("responses", responses, float32, (count, units), images.device)
    _check("images", images, float32, (count, pixels), images.device)
    for name, tensor, shape in zip(NAMES, out.tensors, _shapes(units, pixels), strict=True):
        _check(f"out.{name}", tensor, float64, shape, images.device)
    if count and units and pixels:
        module = OPERATION.choose(backend, device=images.device.type)
        module.run(responses, images, out, threads=int(threads))
    out.count += count


def _shapes(units: int, pixels: int) -> list[tuple[int, ...]]:
    """Return the shapes of the sums, in the order of ``NAMES``."""
    return [(units, pixels), (units,), (units,), (pixels,), (pixels,)]


def _check(name: str, tensor: Tensor, kind: dtype, shape: tuple[int, ...], where: Device) -> None:
    if tensor.dtype != kind:
        raise TypeError(f"{name} must be {kind}, got {tensor.dtype}")
    if tuple(tensor.shape) != shape:
        raise _arrays.must(name, f"have shape {list(shape)}", list(tensor.shape))
    if not tensor.is_contiguous():
        raise _arrays.must(name, "be contiguous", f"strides {tensor.stride()}")
    if tensor.device != where:
        raise _arrays.must(name, f"be on {where}", tensor.device)

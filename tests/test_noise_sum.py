"""Sums of responses times images: backends against float64, blocks, threads and levels."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from attendrite import _core
from attendrite.kernels.noise_sum import OPERATION, Sums, noise_sum

BACKENDS = OPERATION.backends
FAST = [name for name in BACKENDS if name != "reference"]
SIZES = [(1, 1, 1), (17, 5, 3), (63, 6, 64), (256, 97, 65), (300, 200, 130), (1000, 13, 257)]


def block(count: int, units: int, pixels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed + 1000 * count + units + pixels)
    responses = torch.nn.functional.elu(2 * torch.randn(count, units, generator=made)) + 1
    return responses, torch.randn(count, pixels, generator=made)


def started(units: int, pixels: int) -> Sums:
    """Sums that hold something already."""
    made = torch.Generator().manual_seed(1)
    sums = Sums.zeros(units, pixels)
    for tensor in sums.tensors:
        tensor += torch.randn(tensor.shape, generator=made, dtype=torch.float64)
    sums.count = 3
    return sums


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("count", "units", "pixels"), SIZES)
def test_against_the_reference(backend: str, count: int, units: int, pixels: int) -> None:
    given = block(count, units, pixels)
    truth, found = started(units, pixels), started(units, pixels)
    noise_sum(*given, truth, backend="reference")
    noise_sum(*given, found, backend=backend)
    assert found.count == truth.count == 3 + count
    # Of a product, the rule of docs/design.md against torch in float32; of the rest, float64.
    plain = (given[0].T @ given[1]).double() - given[0].double().T @ given[1].double()
    allowed = 2 * plain.abs().max() + 1e-6 * max(1, truth.products.abs().max())
    assert (found.products - truth.products).abs().max() <= allowed
    for x, y in zip(found.tensors[1:], truth.tensors[1:], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-14, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
class TestSums:
    def test_whole_numbers_are_exact(self, backend: str) -> None:
        made = torch.Generator().manual_seed(0)
        r, x = (torch.randint(-9, 9, (700, n), generator=made).float() for n in (103, 71))
        sums = Sums.zeros(103, 71)
        noise_sum(r, x, sums, backend=backend)
        wide = r.long(), x.long()
        for found, exact in zip(
            sums.tensors,
            (wide[0].T @ wide[1], wide[0].sum(0), (wide[0] ** 2).sum(0), wide[1].sum(0),
             (wide[1] ** 2).sum(0)), strict=True,
        ):  # fmt: skip
            assert torch.equal(found, exact.double())

    def test_a_small_signal_beside_a_large_sum(self, backend: str) -> None:
        """What is added up is float64: 2^30 + 1 + 1 + ... stays exact."""
        sums = Sums.zeros(1, 1)
        noise_sum(torch.tensor([[2.0**15]]), torch.tensor([[2.0**15]]), sums, backend=backend)
        for _ in range(5):
            noise_sum(torch.ones(1, 1), torch.ones(1, 1), sums, backend=backend)
        assert sums.products.item() == 2**30 + 5

    def test_nothing_to_add(self, backend: str) -> None:
        sums = started(4, 3)
        before = copy.deepcopy(sums)
        noise_sum(torch.zeros(0, 4), torch.zeros(0, 3), sums, backend=backend)
        assert all(torch.equal(x, y) for x, y in zip(sums.tensors, before.tensors, strict=True))
        assert sums.count == before.count
        for units, pixels in ((0, 3), (4, 0)):
            none = Sums.zeros(units, pixels)
            noise_sum(torch.zeros(5, units), torch.zeros(5, pixels), none, backend=backend)
            assert none.count == 5

    def test_nan_stays_in_its_unit(self, backend: str) -> None:
        responses, images = block(40, 20, 70)
        responses[3, 7] = float("nan")
        sums = Sums.zeros(20, 70)
        noise_sum(responses, images, sums, backend=backend)
        assert torch.equal(sums.products.isnan().all(1), torch.arange(20) == 7)
        assert torch.equal(sums.products.isnan().any(1), torch.arange(20) == 7)


def bits(sums: Sums) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in sums.tensors]


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_the_same_bits_for_any_number_of_threads(threads: int) -> None:
    given = block(600, 301, 190)
    one, many = started(301, 190), started(301, 190)
    noise_sum(*given, one, backend="native")
    noise_sum(*given, many, backend="native", threads=threads)
    assert bits(one) == bits(many)


def test_a_unit_does_not_depend_on_the_others() -> None:
    responses, images = block(300, 250, 190)
    whole, part = Sums.zeros(250, 190), Sums.zeros(60, 100)
    noise_sum(responses, images, whole, backend="native")
    some = responses[:, 130:190].contiguous(), images[:, :100].contiguous()
    noise_sum(*some, part, backend="native")
    assert torch.equal(part.products, whole.products[130:190, :100])
    assert torch.equal(part.responses, whole.responses[130:190])


LEVEL = """
import sys, torch
from attendrite import _core
from attendrite.kernels.noise_sum import Sums, noise_sum
made = torch.Generator().manual_seed(0)
r, x = torch.randn(520, 101, generator=made), torch.randn(520, 133, generator=made)
found, truth = Sums.zeros(101, 133), Sums.zeros(101, 133)
noise_sum(r, x, found, backend="native")
noise_sum(r, x, truth, backend="reference")
assert _core.cpu_level() == sys.argv[1]
plain = (r.T @ x).double() - truth.products
allowed = 2 * plain.abs().max() + 1e-6 * truth.products.abs().max()
assert (found.products - truth.products).abs().max() <= allowed
assert (found.response_squares - truth.response_squares).abs().max() < 1e-11
assert (found.pixels - truth.pixels).abs().max() < 1e-11
"""


@pytest.mark.parametrize("level", _core.cpu_levels())
def test_every_level(level: str) -> None:
    told = os.environ | {"ATTENDRITE_CPU": level}
    subprocess.run([sys.executable, "-c", LEVEL, level], env=told, check=True)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    given = block(500, 90, 70)
    truth, found = Sums.zeros(90, 70), Sums.zeros(90, 70, "cuda")
    noise_sum(*given, truth, backend="reference")
    noise_sum(*(t.cuda() for t in given), found)
    for x, y in zip(found.tensors, truth.tensors, strict=True):
        np.testing.assert_allclose(x.cpu(), y, rtol=1e-5, atol=1e-3)


class TestBadInput:
    @pytest.mark.parametrize(
        ("responses", "images", "said"),
        [
            (torch.zeros(3, 2), torch.zeros(3, 4).double(), "images must be torch.float32"),
            (torch.zeros(3, 2).half(), torch.zeros(3, 4), "responses must be torch.float32"),
            (torch.zeros(2, 2), torch.zeros(3, 4), r"responses must have shape \[3, 2\]"),
            (torch.zeros(3, 1), torch.zeros(3, 4), r"responses must have shape \[3, 2\]"),
            (torch.zeros(3, 2), torch.zeros(3, 5), r"images must have shape \[3, 4\]"),
            (torch.zeros(2, 3).T, torch.zeros(3, 4), "responses must be contiguous"),
            (torch.zeros(3, 2), torch.zeros(3, 4, device="meta"), "must be on meta"),
        ],
    )
    def test_is_named(self, responses: Any, images: Any, said: str) -> None:
        sums = started(2, 4)
        before = bits(sums)
        with pytest.raises((ValueError, TypeError), match=said):
            noise_sum(responses, images, sums)
        assert bits(sums) == before
        assert sums.count == 3

    def test_native_stays_on_the_cpu(self) -> None:
        reason = OPERATION.refusals(device="cuda")["native"]
        assert reason is not None
        assert "runs on the CPU" in reason

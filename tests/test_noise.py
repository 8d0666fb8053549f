"""Noise by counter: known answers, the same images from any batch and backend, and its moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from attendrite.kernels.noise import KINDS, OPERATION, moments, noise

BACKENDS = OPERATION.backends
FAST = [name for name in BACKENDS if name != "reference"]
EXACT = ["uniform", "binary"]
MOST = (1 << 64) - 1
# Of Random123, kat_vectors: counter and key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000 00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def read(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def words_of(backend: str, counter: Sequence[int], key: tuple[int, int]) -> list[int]:
    """The words that a backend makes of any counter."""
    if backend == "numba":
        from attendrite.kernels.noise import _loops

        made: Any = _loops.one(np.array(counter, np.uint32), np.array(key, np.uint32))
    elif backend == "torch":
        made = OPERATION.load(backend).philox([torch.tensor(c) for c in counter], key)
    else:
        made = OPERATION.load(backend).philox(counter, key)
    return [int(word) for word in made]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("given", "expected"), KNOWN)
def test_known_answers(backend: str, given: str, expected: str) -> None:
    *counter, low, high = read(given)
    assert words_of(backend, counter, (low, high)) == read(expected)


@pytest.mark.parametrize("backend", BACKENDS)
class TestImages:
    def test_the_first_pixels_are_the_known_words(self, backend: str) -> None:
        random = np.array(read(KNOWN[0][1]))
        found = noise("uniform", 0, 0, 1, (1, 2, 2), backend=backend)
        np.testing.assert_array_equal(found.ravel(), (random >> 8) * 2.0**-24)

    @pytest.mark.parametrize("kind", KINDS)
    def test_counter_and_key(self, backend: str, kind: str) -> None:
        """Seed and number of more than 32 bits reach the words of key and counter in order."""
        seed, number = 0x1234567890ABCDEF, 0xFEDCBA0987654321
        key, image = (seed & 0xFFFFFFFF, seed >> 32), (number & 0xFFFFFFFF, number >> 32)
        words = words_of("reference", (1, *image, KINDS.index(kind)), key)  # second block
        found = noise(kind, seed, number, 1, (300,), backend=backend)[0]
        if kind == "binary":
            bits = [word >> b & 1 for word in words for b in range(32)]
            assert found[128:256].tolist() == [2 * b - 1 for b in bits]
        elif kind == "uniform":
            assert found[4:8].tolist() == [(word >> 8) / (1 << 24) for word in words]
        else:
            radius = np.sqrt(-2 * np.log((np.array(words[::2]) + 1) / 2**32))
            turn = 2 * np.pi * np.array(words[1::2]) / 2**32
            pair = np.stack([radius * np.cos(turn), radius * np.sin(turn)], 1)
            np.testing.assert_allclose(found[4:8], pair.ravel(), atol=1e-6)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("first", [0, 5, (1 << 32) - 3, (1 << 63) - 3, MOST - 10])
    def test_an_image_is_a_function_of_its_number(
        self, backend: str, kind: str, first: int
    ) -> None:
        whole = noise(kind, 7, first, 11, (2, 3, 5), backend=backend)
        for start, count in ((0, 4), (3, 1), (4, 7), (11, 0)):
            part = noise(kind, 7, first + start, count, (2, 3, 5), backend=backend, threads=3)
            assert part.shape == (count, 2, 3, 5)
            assert torch.equal(part, whole[start : start + count])
        assert len(torch.unique(whole.flatten(1), dim=0)) == 11

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_larger_image_begins_alike(self, backend: str, kind: str) -> None:
        large = noise(kind, 1, 0, 3, (257,), backend=backend)
        for size in (1, 2, 3, 4, 5, 31, 128, 129, 256):
            small = noise(kind, 1, 0, 3, (size,), backend=backend)
            assert torch.equal(small, large[:, :size])
            assert small.dtype == torch.float32
            assert small.is_contiguous()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 36, 64), (3, 7, 11)])
def test_against_the_reference(backend: str, kind: str, shape: tuple[int, ...]) -> None:
    truth = noise(kind, 99, 12345, 40, shape, backend="reference")
    found = noise(kind, 99, 12345, 40, shape, backend=backend, threads=2)
    if kind in EXACT:
        assert torch.equal(found, truth)
    else:
        assert (found - truth).abs().max() <= 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu(kind: str) -> None:
    found = noise(kind, 3, (1 << 32) - 2, 8, (1, 9, 7), device="cuda")
    truth = noise(kind, 3, (1 << 32) - 2, 8, (1, 9, 7), backend="reference")
    assert found.device.type == "cuda"
    assert (found.cpu() - truth).abs().max() <= (0 if kind in EXACT else 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_moments(kind: str) -> None:
    """Mean, variance and fourth moment within five standard errors; pixels and images apart."""
    n, size = 4000, 250
    pixels = noise(kind, 5, 0, n, (size,)).double()
    mean, variance = moments(kind)
    apart = pixels - mean
    kurtosis = {"uniform": 1.8, "binary": 1.0, "gaussian": 3.0}[kind] * variance**2
    eighth = {"uniform": 1 / 2304, "binary": 1.0, "gaussian": 105.0}[kind]  # E (x - mean)^8
    many = pixels.numel()
    assert abs(apart.mean()) < 5 * (variance / many) ** 0.5
    assert abs((apart**2).mean() - variance) <= 5 * ((kurtosis - variance**2) / many) ** 0.5
    spread = ((eighth - kurtosis**2) / many) ** 0.5
    assert abs((apart**4).mean() - kurtosis) <= 5 * spread + 1e-12
    for shifted in (apart[:, 1:] * apart[:, :-1], apart[1:] * apart[:-1]):
        assert abs(shifted.mean()) < 5 * variance / shifted.numel() ** 0.5


def test_moments_of_uniform_words_are_exact() -> None:
    steps = np.arange(1 << 24) * 2.0**-24
    mean, variance = moments("uniform")
    assert mean == steps.mean()
    np.testing.assert_allclose(variance, steps.var(), rtol=1e-12)


def test_kinds_and_seeds_are_apart() -> None:
    images = [noise(kind, 0, 0, 50, (400,)).flatten() for kind in KINDS]
    images.append(noise("uniform", 1, 0, 50, (400,)).flatten())
    images.append(noise("uniform", 1 << 32, 0, 50, (400,)).flatten())
    found = np.corrcoef(np.stack(images))
    assert np.abs(found - np.eye(5)).max() < 5 / np.sqrt(20000)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"kind": "pink"}, "kind must be one of uniform, binary, gaussian, got 'pink'"),
            ({"seed": -1}, "seed must lie in"),
            ({"seed": 1 << 64}, "seed must lie in"),
            ({"first": -1}, "images must lie in"),
            ({"first": MOST, "count": 2}, "images must lie in"),
            ({"count": -1}, "images must lie in"),
            ({"shape": (1, 0, 3)}, "axes of an image must be a positive integer, got 0"),
            ({"threads": 0}, "threads must be a positive integer, got 0"),
            ({"backend": "dice"}, "unknown backend noise"),
        ],
    )
    def test_is_named(self, change: dict[str, Any], said: str) -> None:
        good: dict[str, Any] = {"kind": "uniform", "seed": 0, "first": 0, "count": 1}
        with pytest.raises(ValueError, match=said):
            noise(**(good | {"shape": (1, 2, 2)} | change))

    def test_moments_of_nothing_known(self) -> None:
        with pytest.raises(ValueError, match="kind must be one of"):
            moments("pink")

    def test_numba_stays_on_the_cpu(self) -> None:
        reason = OPERATION.refusals(device="cuda")["numba"]
        assert reason is not None
        assert "runs on the CPU" in reason

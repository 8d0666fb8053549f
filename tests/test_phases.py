"""Rotary phases: every backend against float64 cosines, at every instruction-set level."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from attendrite import _core
from attendrite.kernels.phases import OPERATION, phases
from hypothesis import given
from hypothesis import strategies as st

OMEGA = torch.tensor([62831.853, 3000.0, 3.046, 0.0], dtype=torch.float64)  # POYO's range, rad/s
EPS = 1.2e-7  # half a unit in the last place of float32, and the polynomials


@pytest.fixture(params=_core.cpu_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _core.cpu_level()
    _core.force_level(request.param)
    yield request.param
    _core.force_level(before)


def exact(times: torch.Tensor) -> np.ndarray:
    angle = times.numpy()[..., None] * OMEGA.numpy()
    return np.stack((np.cos(angle), np.sin(angle)), 2)


@pytest.mark.parametrize("backend", OPERATION.backends)
def test_long_times(level: str, backend: str) -> None:
    """A recording's hours: float32 angles would be off by more than a turn."""
    del level
    times = (
        torch.rand(2, 3000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 20
    )
    times[1] += 7200
    found = phases(times, OMEGA, backend=backend)
    assert found.shape == (2, 3000, 2, 4)
    assert found.dtype == torch.float32
    # The product time * omega itself rounds: 4.5e8 rad have 6e-8 rad.
    np.testing.assert_allclose(found[0].numpy(), exact(times)[0], rtol=0, atol=EPS)
    np.testing.assert_allclose(found[1].numpy(), exact(times)[1], rtol=0, atol=EPS + 2e-7)


@given(st.lists(st.floats(-1e4, 1e4, allow_nan=False), min_size=1, max_size=40))
def test_any_times(times: list[float]) -> None:
    at = torch.tensor([times], dtype=torch.float64)
    found = phases(at, OMEGA[1:], backend="native").numpy()
    np.testing.assert_allclose(found, exact(at)[..., 1:], rtol=0, atol=EPS + 1e-8)


def test_quarters_of_a_turn() -> None:
    times = torch.arange(-9, 10, dtype=torch.float64)[None] / 8
    found = phases(times, torch.tensor([2 * np.pi], dtype=torch.float64), backend="native")
    angle = 2 * np.pi * times.numpy()
    np.testing.assert_allclose(found[..., 0, 0].numpy(), np.cos(angle), atol=EPS)
    np.testing.assert_allclose(found[..., 1, 0].numpy(), np.sin(angle), atol=EPS)


def test_threads_change_no_bit() -> None:
    times = torch.linspace(0, 100, 5001, dtype=torch.float64)[None]
    one = phases(times, OMEGA, threads=1)
    assert torch.equal(one, phases(times, OMEGA, threads=3))


def test_nothing_to_do() -> None:
    assert phases(torch.zeros(2, 0, dtype=torch.float64), OMEGA).shape == (2, 0, 2, 4)
    assert phases(torch.zeros(2, 3, dtype=torch.float64), OMEGA[:0]).shape == (2, 3, 2, 0)


def test_bad_arguments() -> None:
    times = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"times must be torch.float64, got torch.float32"):
        phases(times.float(), OMEGA)
    with pytest.raises(ValueError, match="times must have 2 axes"):
        phases(times[0], OMEGA)
    with pytest.raises(ValueError, match="omega must have 1 axes"):
        phases(times, OMEGA[None])
    with pytest.raises(TypeError, match=r"dtype must be torch\.float32 or torch\.float64"):
        phases(times, OMEGA, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"phases\[native\] returns float32"):
        phases(times, OMEGA, dtype=torch.float64, backend="native")

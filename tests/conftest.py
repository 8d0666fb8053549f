"""For all tests: fresh memory holds NaN, Hypothesis repeats itself, GPU tests skip visibly."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: tests share their machine

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "attendrite",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("attendrite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Give torch one thread: small models on a busy machine only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def compiled_fits(numba_knows_numpy: None) -> None:
    """Compile the fits before ``numpy.empty`` is replaced, where numba could not."""
    del numba_knows_numpy
    from attendrite.kernels.gaussian_fit import gaussian_fit

    maps = np.zeros((1, 8, 8), np.float32)
    maps[0, 3, 4] = 1.0
    for noise in (None, np.ones((1, 8, 8))):
        gaussian_fit(maps, noise=noise)


@pytest.fixture(scope="session", autouse=True)
def numba_knows_numpy() -> None:
    """Let numba register ``numpy.empty`` before it is replaced: it does so at its first use."""
    if importlib.util.find_spec("numba") is not None:
        from numba import njit

        njit(lambda: np.zeros(1) + np.empty(1))()


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill every ``empty`` array with NaN or a pattern, so that an output nobody wrote fails."""
    np_empty, torch_empty = np.empty, torch.empty

    def empty(*args: Any, **kwargs: Any) -> Any:
        out = np_empty(*args, **kwargs)
        if out.dtype.kind == "f":
            out.fill(np.nan)
        elif out.dtype.kind in "iu":
            out.fill(np.iinfo(out.dtype).max // 2)
        return out

    def empty_tensor(*args: Any, **kwargs: Any) -> torch.Tensor:
        out: torch.Tensor = torch_empty(*args, **kwargs)
        if out.device.type == "cpu" and out.is_floating_point() and not out.requires_grad:
            out.fill_(float("nan"))
        return out

    monkeypatch.setattr(np, "empty", empty)
    monkeypatch.setattr(torch, "empty", empty_tensor)

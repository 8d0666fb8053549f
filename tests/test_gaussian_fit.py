"""Gaussians of maps: every backend against scipy, against the truth, and against fresh noise."""

from __future__ import annotations

import importlib.util
import math
import threading
from typing import Any

import numpy as np
import pytest
import torch
from attendrite.kernels.gaussian_fit import (
    NARROWEST,
    OPERATION,
    PARAMETERS,
    STATUS,
    Fits,
    gaussian_fit,
    start,
)
from attendrite.kernels.gaussian_fit.reference import derivatives, gaussian
from numpy.typing import NDArray

BACKENDS = OPERATION.backends
FAST = [name for name in BACKENDS if name != "reference"]
Floats = NDArray[np.float64]
pytestmark = pytest.mark.usefixtures("compiled_fits", "one_thread")


def model(shape: tuple[int, int], parameters: Any) -> Floats:
    """Maps of Gaussians, written out once more: not the code under test."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(float)
    maps = []
    for amplitude, x0, y0, long, short, theta, offset in np.atleast_2d(parameters):
        turn = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
        precision = np.linalg.inv(turn @ np.diag([long**2, short**2]) @ turn.T)
        d = np.stack([x - x0, y - y0], -1)
        maps.append(offset + amplitude * np.exp(-np.einsum("hwi,ij,hwj->hw", d, precision, d) / 2))
    return np.stack(maps)


def drawn(n: int, shape: tuple[int, int], seed: int, widest: float = 5.0) -> Floats:
    """Parameters of rotated, elongated Gaussians of both signs inside the map."""
    height, width = shape
    random = np.random.default_rng(seed)
    sigma = np.sort(random.uniform(1.5, widest, (n, 2)), axis=1)[:, ::-1]
    return np.column_stack([
        random.choice([-3.0, 3.0], n), random.uniform(0.15, 0.85, n) * width,
        random.uniform(0.15, 0.85, n) * height, sigma, random.uniform(0, np.pi, n),
        random.normal(0, 1, n),
    ])  # fmt: skip


def noisy(truth: Floats, shape: tuple[int, int], snr: float, seed: int = 0) -> Floats:
    noise = np.random.default_rng(seed).standard_normal((len(truth), *shape))
    return model(shape, truth) + np.abs(truth[:, :1, None]) / snr * noise


def apart(found: Floats, true: Floats) -> Floats:
    """Differences of parameters, of angles modulo pi."""
    gap = found - true
    gap[:, 5] = (gap[:, 5] + np.pi / 2) % np.pi - np.pi / 2
    return np.abs(gap)


@pytest.mark.parametrize("backend", BACKENDS)
class TestTruth:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("shape", [(30, 40), (40, 23), (25, 25), (17, 63)])
    def test_without_noise_the_parameters_are_found(
        self, backend: str, dtype: Any, shape: tuple[int, int]
    ) -> None:
        truth = drawn(12, shape, 1)
        fits = gaussian_fit(model(shape, truth).astype(dtype), backend=backend)
        assert fits.converged.all()
        tolerance = 1e-6 if dtype == np.float64 else 1e-4  # the fast ones cut at 2^-30
        assert apart(fits.parameters, truth).max() < tolerance
        assert (fits.residual < 1e-8).all()

    def test_axes_are_ordered_and_angles_are_those_of_the_long_one(self, backend: str) -> None:
        angles = np.array([0, 0.3, np.pi / 4, np.pi / 2, 2.0, 3.0, np.pi - 1e-9])
        truth = np.array([[2, 15, 12, 5, 2, a, 1] for a in angles])
        swapped = truth[:, [0, 1, 2, 4, 3, 5, 6]] + [0, 0, 0, 0, 0, np.pi / 2, 0]
        for given in (truth, swapped):
            fits = gaussian_fit(model((25, 31), given), backend=backend)
            assert (fits.parameters[:, 3] >= fits.parameters[:, 4]).all()
            assert ((fits.parameters[:, 5] >= 0) & (fits.parameters[:, 5] < np.pi)).all()
            assert apart(fits.parameters, truth).max() < 1e-6

    def test_a_centre_at_the_border(self, backend: str) -> None:
        truth = np.array([[3, 0.2, 8, 3, 2, 0.4, 0], [-2, 30.8, 19.9, 4, 2, 2.5, 1.0]])
        fits = gaussian_fit(model((21, 32), truth), backend=backend)
        assert apart(fits.parameters, truth).max() < 1e-5

    def test_a_round_one_of_any_scale(self, backend: str) -> None:
        truth = np.array([[1e-9, 10, 9, 2.5, 2.5, 0, 1e-9], [1e9, 10, 9, 2.5, 2.5, 0, -1e9]])
        fits = gaussian_fit(model((20, 22), truth), backend=backend)
        assert fits.converged.all()
        np.testing.assert_allclose(fits.parameters[:, :5], truth[:, :5], rtol=1e-6)
        np.testing.assert_allclose(fits.parameters[:, 6], truth[:, 6], rtol=1e-6)


@pytest.mark.parametrize("backend", FAST)
class TestAgainstTheReference:
    @pytest.mark.parametrize("snr", [20, 5, 2])
    @pytest.mark.parametrize("shape", [(24, 36), (33, 19)])
    def test_the_same_minimum(self, backend: str, snr: float, shape: tuple[int, int]) -> None:
        maps = noisy(drawn(25, shape, snr, 4.0), shape, snr)
        true, found = (gaussian_fit(maps, backend=name) for name in ("reference", backend))
        both = true.converged & found.converged
        assert both.mean() >= 0.9
        agree(found, true, both)

    def test_noise_of_each_map(self, backend: str) -> None:
        maps, sd = noisy(drawn(8, (22, 26), 3), (22, 26), 10), np.linspace(0.1, 2, 8)
        plain = gaussian_fit(maps, backend=backend)
        found = gaussian_fit(maps, noise=sd, backend=backend)
        true = gaussian_fit(maps, noise=sd, backend="reference")
        np.testing.assert_array_equal(found.parameters, plain.parameters)
        np.testing.assert_allclose(found.residual, plain.residual / sd**2)
        agree(found, true, np.ones(8, bool))

    def test_noise_of_each_pixel(self, backend: str) -> None:
        shape = (22, 26)
        truth = drawn(12, shape, 4)
        sd = np.random.default_rng(1).uniform(0.05, 1.2, (12, *shape))
        maps = model(shape, truth) + sd * np.random.default_rng(2).standard_normal(sd.shape)
        true, found = (gaussian_fit(maps, noise=sd, backend=n) for n in ("reference", backend))
        both = true.converged & found.converged
        assert both.mean() > 0.8
        agree(found, true, both)
        freedom = 22 * 26 - 7
        assert abs(np.median(found.residual[both]) / freedom - 1) < 0.1
        plain = gaussian_fit(maps, backend=backend)
        assert np.nanmedian(apart(found.parameters, truth)[:, 1]) < 0.8 * np.nanmedian(
            apart(plain.parameters, truth)[:, 1]
        )

    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 4), (3, 3), (4, 5)])
    def test_tiny_maps(self, backend: str, shape: tuple[int, int]) -> None:
        maps = np.random.default_rng(0).standard_normal((20, *shape))
        fits = gaussian_fit(maps, backend=backend)
        true = gaussian_fit(maps, backend="reference")
        assert np.isnan(fits.parameters[~fits.converged]).all()
        assert np.isfinite(fits.parameters[fits.converged]).all()
        both = fits.converged & true.converged
        close = np.abs(fits.residual / true.residual - 1)[both] < 1e-6
        assert close.all() or not math.prod(shape) <= 9  # two parameters too many have many minima

    def test_float32_maps_are_fitted_in_float64(self, backend: str) -> None:
        maps = noisy(drawn(5, (20, 24), 6), (20, 24), 5).astype(np.float32)
        one = gaussian_fit(maps, backend=backend)
        two = gaussian_fit(maps.astype(np.float64), backend=backend)
        np.testing.assert_allclose(one.parameters, two.parameters, rtol=1e-9, atol=1e-9)

    def test_starting_where_all_do(self, backend: str) -> None:
        """One step allowed: what has not converged says so, and how many were tried."""
        fits = gaussian_fit(
            noisy(drawn(4, (20, 24), 7), (20, 24), 5), iterations=1, backend=backend
        )
        assert [STATUS[s] for s in fits.status] == ["not converged"] * 4
        assert (fits.iterations == 1).all()
        assert np.isnan(fits.parameters).all()


def agree(found: Fits, true: Fits, where: NDArray[np.bool_]) -> None:
    """Equal to 1e-5 px: far below any error of a fit, far above what the tolerance leaves."""
    assert apart(found.parameters, true.parameters)[where].max() < 1e-5
    np.testing.assert_allclose(found.residual[where], true.residual[where], rtol=1e-8)
    sd = np.sqrt(np.diagonal(true.covariance[where], axis1=1, axis2=2))
    gap = (found.covariance - true.covariance)[where] / (sd[:, :, None] * sd[:, None])
    assert np.abs(gap).max() < 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
class TestFailures:
    def test_each_has_its_reason_and_the_others_are_not_touched(self, backend: str) -> None:
        maps = noisy(drawn(6, (20, 24), 8), (20, 24), 20)
        alone = gaussian_fit(maps, backend=backend)
        assert alone.converged.all()
        bad = maps.copy()
        bad[1] = 7.5
        bad[2, 3, 4] = np.nan
        bad[4, 0, 0] = np.inf
        fits = gaussian_fit(bad, backend=backend)
        names = [STATUS[s] for s in fits.status]
        assert names == ["converged", "singular", "not finite", "converged", "not finite",
                         "converged"]  # fmt: skip
        for field in ("parameters", "covariance", "residual"):
            assert np.isnan(getattr(fits, field)[[1, 2, 4]]).all()
            np.testing.assert_array_equal(
                getattr(fits, field)[[0, 3, 5]], getattr(alone, field)[[0, 3, 5]]
            )

    def test_a_single_pixel_and_a_slope_are_at_a_bound(self, backend: str) -> None:
        maps = np.zeros((2, 20, 24))
        maps[0, 8, 9] = 1
        maps[1] = np.arange(24.0)
        fits = gaussian_fit(maps, backend=backend)
        assert STATUS[fits.status[0]] in ("at a bound", "not converged")[: 2 - (backend in FAST)]
        assert not fits.converged[1]
        assert np.isnan(fits.parameters).all()

    @pytest.mark.parametrize("shape", [(0, 20, 24), (3, 0, 5), (3, 2, 3)])
    def test_nothing_to_fit(self, backend: str, shape: tuple[int, int, int]) -> None:
        fits = gaussian_fit(np.zeros(shape), backend=backend)
        assert fits.parameters.shape == (shape[0], 7)
        assert fits.covariance.shape == (shape[0], 7, 7)
        assert (fits.status == STATUS.index("singular")).all()
        assert np.isnan(fits.parameters).all()


def test_the_derivatives_of_the_reference_are_differences() -> None:
    y, x = np.mgrid[0:12, 0:14].astype(float)
    p = np.array([2.0, 6.3, 5.2, 3.1, 1.9, 0.7, 0.4])
    numeric = np.stack(
        [(gaussian(x, y, p + d) - gaussian(x, y, p - d)) / 2e-6 for d in 1e-6 * np.eye(7)], -1
    )
    np.testing.assert_allclose(derivatives(x, y, p), numeric, atol=1e-8)
    np.testing.assert_allclose(gaussian(x, y, p), model((12, 14), p)[0], atol=1e-14)


def test_the_start_is_at_the_peak_with_its_sign_and_width() -> None:
    shape = (36, 64)
    truth = drawn(200, shape, 9)
    found = start(noisy(truth, shape, 5))
    assert (np.sign(found[:, 0]) == np.sign(truth[:, 0])).all()
    off = np.hypot(found[:, 1] - truth[:, 1], found[:, 2] - truth[:, 2])
    assert np.quantile(off, 0.95) < 3
    ratio = np.sqrt(found[:, 3] * found[:, 4] / (truth[:, 3] * truth[:, 4]))
    assert np.all((ratio > 0.5) & (ratio < 2))


@pytest.mark.skipif("numba" not in FAST, reason="no numba backend")
def test_the_compiled_start_is_the_start() -> None:
    loops = pytest.importorskip("attendrite.kernels.gaussian_fit._loops", reason="numba")
    for shape in ((20, 27), (3, 2), (1, 9), (9, 1), (2, 30)):
        maps = np.random.default_rng(3).standard_normal((9, *shape)).astype(np.float32)
        found = np.full((9, 7), np.nan)
        for image, row in zip(maps, found, strict=True):
            loops.guess(image, np.empty(shape), np.empty(shape[1]), row)
        np.testing.assert_allclose(found, start(maps), rtol=1e-12, atol=1e-14)


SHAPE = (36, 64)


@pytest.fixture(scope="module")
def fits_at_5() -> tuple[Floats, Fits]:
    truth = drawn(600, SHAPE, 11, 6.0)
    return truth, gaussian_fit(noisy(truth, SHAPE, 5, 12), threads=2)


def test_widths_are_not_biased(fits_at_5: tuple[Floats, Fits]) -> None:
    truth, fits = fits_at_5
    assert fits.converged.all()
    ratio = fits.parameters[:, 3:5] / truth[:, 3:5]
    assert abs(np.median(np.sqrt(ratio.prod(1))) - 1) < 0.02
    assert abs(np.sqrt(ratio.prod(1)).mean() - 1) < 0.02


def test_errors_over_standard_errors_are_standard_normal(fits_at_5: tuple[Floats, Fits]) -> None:
    """Of 600 fits; the angle where axes differ, axes where their order is not in doubt."""
    truth, fits = fits_at_5
    apart_enough = truth[:, 3] > 1.4 * truth[:, 4]
    gap = (fits.parameters - truth)[apart_enough]
    gap[:, 5] = (gap[:, 5] + np.pi / 2) % np.pi - np.pi / 2
    z = gap / np.sqrt(np.diagonal(fits.covariance, axis1=1, axis2=2))[apart_enough]
    n = len(z)
    assert n > 300
    assert np.abs(z.mean(0)).max() < 4 / math.sqrt(n)
    assert np.abs(z.std(0) - 1).max() < 4 / math.sqrt(2 * n)


@pytest.mark.parametrize("per", ["map", "pixel", "nothing"])
def test_the_covariance_is_the_spread_of_refits_on_fresh_noise(per: str) -> None:
    shape, n = (24, 30), 1500
    p = np.array([2.0, 14.3, 11.6, 4.2, 2.4, 0.9, 0.5])
    random = np.random.default_rng(13)
    sd = random.uniform(0.1, 0.5, shape) if per == "pixel" else np.full(shape, 0.25)
    maps = model(shape, p) + sd * random.standard_normal((n, *shape))
    noise = {"map": np.full(n, 0.25), "pixel": np.broadcast_to(sd, maps.shape), "nothing": None}[
        per
    ]
    fits = gaussian_fit(maps, noise=noise)
    assert fits.converged.all()
    spread = np.cov(fits.parameters.T)
    said = fits.covariance.mean(0)
    size = np.sqrt(np.diagonal(said))
    gap = (spread - said) / (size[:, None] * size)
    # 4 standard errors of a variance, and as much for what the linear formula leaves out
    assert np.abs(gap).max() < 2 * 4 * math.sqrt(2 / n)
    assert abs(np.corrcoef(fits.parameters[:, 0], fits.parameters[:, 3])[0, 1]) > 0.2, (
        "not diagonal"
    )


@pytest.mark.parametrize("backend", FAST)
class TestThreads:
    @pytest.mark.parametrize("n", [1, 5, 40])
    def test_the_same_bits_for_any_number(self, backend: str, n: int) -> None:
        maps = noisy(drawn(n, (20, 28), n), (20, 28), 4)
        one = gaussian_fit(maps, backend=backend)
        for threads in (2, 3, 7):
            found = gaussian_fit(maps, threads=threads, backend=backend)
            for name, values in vars(one).items():
                assert getattr(found, name).tobytes() == values.tobytes()

    def test_none_are_left(self, backend: str) -> None:
        before = threading.active_count()
        gaussian_fit(noisy(drawn(8, (20, 28), 1), (20, 28), 4), threads=4, backend=backend)
        assert threading.active_count() == before


@pytest.mark.gpu
def test_on_the_gpu() -> None:
    maps = noisy(drawn(200, SHAPE, 3), SHAPE, 5)
    found = gaussian_fit(torch.from_numpy(maps).cuda())
    agree(found, gaussian_fit(maps), np.ones(200, bool))


def test_tensors_and_strides() -> None:
    maps = noisy(drawn(6, (20, 28), 1), (20, 28), 4)
    fits = gaussian_fit(maps)
    for same in (torch.from_numpy(maps), np.asfortranarray(maps), np.repeat(maps, 2, 0)[::2]):
        np.testing.assert_allclose(gaussian_fit(same).parameters, fits.parameters, rtol=1e-9)
    locked = maps.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(gaussian_fit(locked).parameters, fits.parameters)


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "numba" else find(name)
    )
    with pytest.raises(
        ValueError, match=r"gaussian_fit\[numba\] needs the package numba; pip inst"
    ):
        gaussian_fit(np.zeros((1, 5, 5)), backend="numba")
    assert OPERATION.choose(None, device="cpu") is OPERATION.load("torch")


def test_numba_refuses_other_devices() -> None:
    with pytest.raises(ValueError, match=r"gaussian_fit\[numba\] needs maps on the cpu, got cuda"):
        OPERATION.choose("numba", device="cuda")
    assert OPERATION.choose(None, device="cuda") is OPERATION.load("torch")


MAPS = np.zeros((2, 5, 6))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"maps": MAPS.astype(int)}, TypeError, "maps must be float32 or float64, got int64"),
        ({"maps": MAPS.astype(np.float16)}, TypeError, "maps must be float32 or .*got float16"),
        ({"maps": MAPS[0]}, ValueError, r"maps must have shape \[N, H, W\], got \[5, 6\]"),
        ({"noise": np.ones(3)}, ValueError,
         r"noise must have shape \[2\] or \[2, 5, 6\], got \[3\]"),
        ({"noise": np.ones((5, 6))}, ValueError, "noise must have shape"),
        ({"noise": np.array([1, 0])}, ValueError, r"noise must be positive, got noise\[1\] = 0"),
        ({"noise": np.array([np.nan, 1])}, ValueError, r"be positive, got noise\[0\] = nan"),
        ({"iterations": 0}, ValueError, "iterations must be a positive integer, got 0"),
        ({"tolerance": 0}, ValueError, "tolerance must be a positive number, got 0"),
        ({"threads": 0}, ValueError, "threads must be a positive integer, got 0"),
        ({"backend": "fast"}, ValueError, r"unknown backend gaussian_fit\[fast\]"),
    ],
)  # fmt: skip
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gaussian_fit(**({"maps": MAPS} | change))


def test_names() -> None:
    assert len(PARAMETERS) == 7
    assert NARROWEST == 0.3
    assert len(STATUS) == 5

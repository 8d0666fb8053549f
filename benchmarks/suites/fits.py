"""Gaussian fits of receptive fields: 36 x 64 pixels, known truth, peaks 20, 5, 2 times the noise.

``fits/snr20``, ``fits/snr5`` and ``fits/snr2``: centres and widths as receptive fields have them,
8372 maps as one mouse of Sensorium has neurons. A call of ours fits all; the peers' fit the first
``SOME`` or ``FEW``, and their times are scaled to all: each map costs them the same.
``scipy`` is ``curve_fit`` from our start, ``scipy+jac`` the same with our analytic derivatives,
``v1t_recipe`` the published recipe (its own start, absolute values, added noise). The error is the
share of bad fits: centre off by more than 2 pixels, width by more than a quarter, or none at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attendrite.fields.v1t_fits import fit_v1t
from attendrite.kernels.gaussian_fit import OPERATION, gaussian_fit, start
from attendrite.kernels.gaussian_fit.reference import derivatives, gaussian
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from timing import Case, Contestant, Meter

if TYPE_CHECKING:
    from run import Options

HEIGHT, WIDTH = 36, 64
MAPS, SOME, FEW = 8372, 400, 60
MOST_BAD = {20: 0.0, 5: 0.005, 2: 0.1}
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)


def cases(options: Options) -> Iterator[Case]:
    """Yield a case for each ratio of peak to noise."""
    maps, some, few = (40, 10, 4) if options.quick else (MAPS, SOME, FEW)
    for snr in (20, 5, 2):
        if options.wants(f"fits/snr{snr}"):
            truth, fields = made(maps, snr)
            yield case(snr, truth, fields, (some, few), options)


def made(n: int, snr: float) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return parameters and maps."""
    random = np.random.default_rng(0)
    truth = np.column_stack([
        np.full(n, 3.0), random.uniform(10, 54, n), random.uniform(6, 30, n),
        random.uniform(1.5, 6, (n, 2)), random.uniform(0, np.pi, n), np.zeros(n),
    ])  # fmt: skip
    fields = np.empty((n, HEIGHT, WIDTH), np.float32)
    for field, parameters in zip(fields, truth, strict=True):
        noise = 3 / snr * random.standard_normal((HEIGHT, WIDTH))
        field[:] = gaussian(X, Y, parameters) + noise
    return truth, fields


def case(
    snr: float, truth: NDArray[np.float64], fields: NDArray[np.float32], sizes: tuple[int, int],
    options: Options,
) -> Case:  # fmt: skip
    """Make a case."""
    some, few = sizes
    peers: list[tuple[str, Callable[[NDArray[np.float32]], Any], int]] = [
        ("scipy", partial(scipy, jac=None), some),
        ("scipy+jac", partial(scipy, jac=slopes), some),
        ("v1t_recipe", lambda maps: fit_v1t(maps, 0).fitted, few),
    ]
    judge = partial(bad, truth)
    rows = [
        Contestant(f"attendrite:{name}", partial(ours, fields, n, name), judge, MOST_BAD[snr],
                   threads=n, packages=("numba",))
        for name in OPERATION.backends if name not in ("reference", "torch")
        for n in options.thread_counts
    ]  # fmt: skip
    rows += [
        Contestant(name, partial(fit, fields[:n]), judge, None, prepare=one_thread,
                   packages=("scipy",), meter=OfAll(len(fields) / n))
        for name, fit, n in peers
    ]  # fmt: skip
    return Case(f"fits/snr{snr}", len(fields) / 1e6, "fits", batch=len(fields), rounds=9,
                contestants=rows)  # fmt: skip


class OfAll(Meter):
    """Times a call that does one in ``factor`` of the work, and tells what all of it takes."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def seconds(self, call: Callable[[], Any]) -> float:
        """Return how long all the work takes."""
        return self.factor * super().seconds(call)


def one_thread() -> None:
    """Hold torch at one thread; run.py has held the pools of BLAS at the number asked for."""
    torch.set_num_threads(1)


def ours(fields: NDArray[np.float32], threads: int, backend: str) -> NDArray[np.float64]:
    """Fit all."""
    return gaussian_fit(fields, threads=threads, backend=backend).parameters


def scipy(maps: NDArray[np.float32], jac: Any) -> NDArray[np.float64]:
    """Fit with scipy from our start; finding that is timed too."""
    found = np.full((len(maps), 7), np.nan)
    for row, field, guess in zip(found, maps, start(maps), strict=True):
        values = field.ravel().astype(float)
        try:
            row[:] = curve_fit(surface, None, values, p0=guess, jac=jac)[0]
        except RuntimeError:
            continue
    return found


def surface(_: None, *parameters: float) -> NDArray[np.float64]:
    """Return the model, one axis."""
    return gaussian(X, Y, np.array(parameters)).ravel()


def slopes(_: None, *parameters: float) -> NDArray[np.float64]:
    """Return its derivatives, ``[P, 7]``."""
    return derivatives(X, Y, np.array(parameters)).reshape(-1, 7)


def bad(truth: NDArray[np.float64], found: NDArray[Any]) -> float:
    """Return the share of bad fits."""
    true = truth[: len(found)]
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.hypot(found[:, 1] - true[:, 1], found[:, 2] - true[:, 2])
        size = np.sqrt(np.abs(found[:, 3] * found[:, 4]) / (true[:, 3] * true[:, 4]))
    return float(1 - np.mean((off <= 2) & (np.abs(size - 1) <= 0.25)))

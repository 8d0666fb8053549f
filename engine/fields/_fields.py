"""The whole of it: noise through the model, sums, fields."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .. import errors, shards
from ..kernels.gaussian_fit import PARAMETERS, STATUS, gaussian_fit
from ..models._vision import ImageFamily
from ..runtime import Engine
from . import statistics
from .responder import EngineResponder
from .significance import Screen, peak_test, size_px
from .stimuli import ImageFile, Noise, Stimuli
from .sums import FieldSums, Halves, halves
from .v1t_fits import V1TFits, fit_v1t

Floats = NDArray[np.float64]
Maps = NDArray[np.float32]
RECIPES = ("default", "v1t")
ZEROS = {"behavior": (0.0, 0.0, 0.0), "pupil": (0.0, 0.0)}


@dataclass(frozen=True)
class Settings:
    """All choices.

    Attributes:
        mouse: Whose neurons respond: a session of the bundle.
        images: How many, of noise; of ``stimuli`` the first so many, ``None``: all.
        noise: ``uniform``, ``binary`` or ``gaussian``.
        seed: Of the noise.
        stimuli: An ``.npy`` file ``[N, c, h, w]`` of images to use instead of noise, standardised
            as in the model's training.
        recipe: ``default``; or ``v1t``, as published with V1T (Li et al. 2023): behaviour and pupil
            0, no shift of the read-out, ``stimuli`` standardised by the mean and standard deviation
            of all their values, and the sums of raw noise kept (:attr:`Fields.raw`). In evaluation
            mode, where the published script forgot it.
        behavior: Pupil dilation, its derivative and running speed, as the model takes them;
            ``None``: their mean in training.
        pupil: Its centre, likewise.
        batch_size: Images that the model takes at a time, at most; ``None``: 64, or 512 on a GPU.

    Raises:
        AttendriteError: An unknown name, or what the recipe rules out.
    """

    mouse: str
    images: int | None = None
    noise: str = "uniform"
    seed: int = 0
    stimuli: str | Path | None = None
    recipe: str = "default"
    behavior: tuple[float, ...] | None = None
    pupil: tuple[float, ...] | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        errors.choice("recipe", self.recipe, RECIPES)
        if self.images is None and self.stimuli is None:
            raise errors.must("images", "be a number, for noise", "none")
        if self.recipe == "v1t" and (self.behavior is not None or self.pupil is not None):
            raise errors.must("behavior and pupil", "be 0 in the recipe v1t", "others")
        if self.recipe == "v1t" and self.stimuli is None and self.noise != "uniform":
            raise errors.must("noise of the recipe v1t", "be uniform", self.noise)


@dataclass(frozen=True, eq=False)
class Fields:
    """Receptive fields of ``U`` units, ``[c, h, w]`` each.

    Attributes:
        field: Response-weighted average of the noise with the mean removed, ``[U, c, h, w]``,
            float32, in response per standard deviation of a pixel.
        even: The same from even shards alone; ``odd`` from odd ones.
        odd: See there.
        standard_error: Of a pixel that says nothing of the response, ``[U]``.
        raw: With the recipe ``v1t`` the sum of responses times raw noise, its aRF,
            ``[U, c, h, w]``, float32; else ``None``.
        published: Fits of ``raw`` as published, of gray images; else ``None``.
        units: One row for each unit, by column; see docs/fields.md.
        meta: Choices and facts; JSON can hold it.
    """

    field: Maps
    even: Maps
    odd: Maps
    standard_error: Floats
    raw: Maps | None
    published: V1TFits | None
    units: dict[str, NDArray[Any]]
    meta: dict[str, Any]

    @property
    def z(self) -> Maps:
        """Field over standard error, ``[U, c, h, w]``; NaN for a unit that never changes."""
        return _z(self.field, self.standard_error)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored, by name."""
        names = "field", "even", "odd", "standard_error", "raw"
        found = {name: x for name in names if (x := getattr(self, name)) is not None}
        return found if self.published is None else found | {"popts": self.published.parameters}

    def frame(self) -> Any:
        """Return the units as a pandas ``DataFrame``.

        Raises:
            AttendriteError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise errors.missing_package("a DataFrame", "pandas", "fields") from None
        return pd.DataFrame(self.units)


def receptive_fields(
    engine: Engine,
    settings: Settings,
    *,
    screen: Screen | None = None,
    folder: str | Path | None = None,
    workers: str = "local",
    processes: int | None = None,
    progress: bool = False,
) -> Fields:
    """Show noise to a model and add up what it answers.

    Args:
        engine: An image model.
        settings: All choices.
        screen: Where images are shown, for sizes and centres in degrees; no part of what is
            computed, so that a finished folder may be given another.
        folder: Where finished parts are kept, so that a run that was stopped goes on; ``None``
            keeps nothing and computes here.
        workers: Where parts are computed, see :func:`attendrite.shards.run`; with a folder only.
        processes: Processes of ``local`` workers.
        progress: Show a progress bar on stderr when it is a terminal.

    Raises:
        AttendriteError: Not an image model, an unknown name, images of another shape, a mean of
            behaviour that the bundle does not hold, or a response that is not finite.

    Example:
        >>> found = receptive_fields(engine, Settings("A", images=100_000))
        >>> found.field.shape, found.units["split_half"].round(2)
        ((12, 1, 36, 64), array([0.97, 0.93, ...]))
    """
    if folder is None and (workers != "local" or processes not in (None, 1)):
        raise errors.must("workers", "have a folder to share", "none", "give a folder")
    work = job(engine, settings)
    parts: Iterator[shards.Result]
    if folder is None:
        bar = tqdm(range(work.shards), unit="shard", disable=None if progress else True)
        parts = (work.run(shard) for shard in bar)
    else:
        parts = shards.run(work, folder, workers, processes, progress=progress)
    return gathered(engine, settings, work, halves(work, parts), screen)


def job(engine: Engine, settings: Settings) -> FieldSums:
    """Make the job that a loaded engine runs, here or as a copy elsewhere."""
    published = settings.recipe == "v1t"
    covariates: dict[str, Any] = {"behavior": settings.behavior, "pupil": settings.pupil}
    responder = EngineResponder.of(
        engine, settings.mouse, **(ZEROS if published else covariates), shift=not published,
        batch_size=settings.batch_size,
    )  # fmt: skip
    stimuli: Stimuli
    if settings.stimuli is None:
        assert settings.images is not None
        stimuli = Noise(settings.noise, settings.seed, settings.images, responder.shape)
    else:
        stimuli = ImageFile(Path(settings.stimuli).absolute(), published, settings.images)
    return FieldSums(responder, stimuli)


def gathered(
    engine: Engine, settings: Settings, work: FieldSums, found: Halves, screen: Screen | None = None
) -> Fields:
    """Make fields and their table out of the sums of all images."""
    said = statistics.measures(found, work.stimuli)
    shape = (-1, *work.stimuli.shape)
    maps = {name: getattr(said, name).reshape(shape) for name in ("field", "even", "odd")}
    raw, published = None, None
    if settings.recipe == "v1t":
        raw = statistics.raw(found, work.stimuli).reshape(shape)
        if raw.shape[1] == 1:
            published = fit_v1t(raw, settings.seed)
    units = _units(said, maps["field"], work.responder.threads or 1)
    if screen is not None:
        units |= screen.columns(units, work.stimuli.shape)
    return Fields(
        **maps,
        standard_error=said.standard_error,
        raw=raw,
        published=published,
        units=units,
        meta=_facts(engine, settings, work, said, screen),
    )


def _z(field: Maps, standard_error: Floats) -> Maps:
    with np.errstate(invalid="ignore"):
        found: Maps = field / standard_error.astype(np.float32)[:, None, None, None]
    return found


def _units(said: statistics.Measures, field: Maps, threads: int) -> dict[str, NDArray[Any]]:
    """One row for each unit; the peak is the pixel with the largest field of either sign."""
    every = np.arange(len(field))
    peak = np.abs(said.field).argmax(1)
    channel, row, column = np.unravel_index(peak, field.shape[1:])
    tested = peak_test(_z(field, said.standard_error))
    table = {
        "unit": every,
        "mean": said.mean,
        "sd": np.sqrt(said.variance),
        "standard_error": said.standard_error,
        "peak": said.field[every, peak].astype(np.float64),
        "peak_channel": channel,
        "peak_row": row,
        "peak_column": column,
        "peak_z": tested.z,
        "p_value": tested.p_value,
        "q_value": tested.q_value,
        "significant": tested.significant,
        "split_half": said.split_half,
        "linear": said.linear,
        "nonlinear": 1 - said.linear,
    }
    return table | _fitted(field[every, channel], threads)


def _fitted(maps: Maps, threads: int) -> dict[str, NDArray[Any]]:
    """Fit a signed Gaussian to each map, the channel of the peak; NaN where there is none."""
    fits = gaussian_fit(maps, threads=threads)
    with np.errstate(invalid="ignore"):
        errors_ = np.sqrt(np.diagonal(fits.covariance, axis1=1, axis2=2))
    table: dict[str, NDArray[Any]] = {
        name: fits.parameters[:, i] for i, name in enumerate(PARAMETERS)
    }
    for name in ("x0", "y0", "sigma_x", "sigma_y"):
        table[f"{name}_error"] = errors_[:, PARAMETERS.index(name)]
    return table | {"size": size_px(fits.parameters), "fit": np.array(STATUS)[fits.status]}


def _facts(
    engine: Engine,
    settings: Settings,
    work: FieldSums,
    said: statistics.Measures,
    screen: Screen | None,
) -> dict[str, Any]:
    responder, stimuli = work.responder, work.stimuli
    assert isinstance(responder, EngineResponder)
    assert isinstance(engine.model, ImageFamily)
    return {
        "bundle": engine.manifest.name,
        "family": engine.family,
        "executor": engine.executor,
        "device": engine.device,
        "dtype": engine.dtype,
        "mouse": settings.mouse,
        "units": responder.units,
        "images": stimuli.count,
        "shape": list(stimuli.shape),
        "pixels": work.pixels,
        "choices": {
            "stimuli": "file" if settings.stimuli is not None else settings.noise,
            "seed": settings.seed,
            "recipe": settings.recipe,
            "mode": "evaluation",
            "standardised_by": {"mean": stimuli.mean, "sd": stimuli.sd},
            "behavior": responder.behavior,
            "pupil": responder.pupil,
            "readout_shift": responder.shift and "pupil" in engine.model.covariates,
            "batch_size": responder.batch_size,
            "screen": None if screen is None else asdict(screen),
        },
        "shards": work.shards,
        "white": stimuli.white,
        "linear_error": None if math.isnan(said.linear_error) else said.linear_error,
        "reliability": _median(said.split_half),
        "linear": _median(said.linear),
        "versions": engine.versions,
    }


def _median(values: Iterable[float]) -> float | None:
    known = [x for x in values if not math.isnan(x)]
    return float(np.median(known)) if known else None

"""Where a vision transformer looks in the images of a scan, beside the same model untrained."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .. import errors
from ..capture import Capture
from ..evaluation.responses import correlation_to_average, single_trial_correlation
from ..images import ImageBatch
from ..kernels.rollout import FUSE
from ..models._vision import ImageModel
from ..models.ensemble import Model as Ensemble
from ..runtime import Engine
from ..scans import Scan
from . import shares
from .gaze import (
    Floats,
    Follows,
    Swap,
    gaze_correlation,
    heat_maps,
    spread_correlation,
    swapped,
)

TRAINED = "trained"
CONTROL = "{} models with an untrained core, V1T's initialisation"
CLASS_TOKEN = "class token"
MISPLACED = (
    "patches of {} are laid out as {}, as V1T's code lays them out: maps put them in wrong places, "
    "and a centre of mass is no place in the image"
)
Row = dict[str, Any]
Pair = tuple[Follows, Follows]


@dataclass(frozen=True, eq=False)
class Look:
    """Where one model looks.

    Attributes:
        name: ``trained`` or ``untrained 0``.
        maps: Heat maps, ``[B, H, W]``, float64.
        heads: A row per site and head, see :func:`head_rows`.
        centre: Centre of mass against the pupil, x and y; ``None`` without pupil, as below.
        spread: Spread against the size of the pupil, x and y.
        published: The centre by V1T's recipe.
        spread_published: The spread by V1T's recipe.
    """

    name: str
    maps: Floats
    heads: list[Row]
    centre: Pair | None
    spread: Pair | None
    published: Pair | None
    spread_published: Pair | None


@dataclass(frozen=True, eq=False)
class Looks:
    """The figures of an analysis.

    Attributes:
        trained: The model's own.
        untrained: Of each untrained model.
        swaps: See :func:`attendrite.analysis.gaze.swapped`; empty where the model reads neither
            pupil nor behaviour.
        trials: Numbers of the trials in the scan, ``[B]``.
        image_ids: ``[B]``.
        pupil: As recorded, ``[B, 2]``, or ``None``.
        behavior: As recorded, ``[B, 3]``, or ``None``.
        correlation: Mean over neurons of the single-trial correlation and of that to the average;
            ``None`` where responses are withheld.
        meta: Choices made; JSON can hold it.
    """

    trained: Look
    untrained: tuple[Look, ...]
    swaps: dict[str, Swap]
    trials: NDArray[np.int64]
    image_ids: NDArray[Any]
    pupil: NDArray[np.float32] | None
    behavior: NDArray[np.float32] | None
    correlation: dict[str, float] | None
    meta: dict[str, Any]


def look(
    engine: Engine,
    scan: Scan,
    *,
    mouse: str,
    tier: str = "test",
    controls: Sequence[Engine] = (),
    fuse: str = "max",
    rounds: int = 1000,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = False,
) -> Looks:
    """Run the trials of a tier through a model and say where it looks.

    Images, pupil and behaviour are standardised by the scan's own statistics, as V1T does.

    Args:
        engine: The trained model; it must have attention.
        scan: Of a mouse that the model knows.
        mouse: What the bundle calls it.
        tier: Which trials; only repeated images can be tested.
        controls: The same model untrained, see
            :func:`attendrite.analysis.image_control.untrained_core`.
        fuse: How the rollout fuses heads; V1T takes the maximum.
        rounds: Size of the nulls.
        seed: Of permutations and swaps.
        batch_size: Images per forward.
        progress: Show a progress bar on stderr when it is a terminal.

    Raises:
        AttendriteError: An unknown name, a model without attention, a scan of other neurons or
            without the pupil or behaviour that the model reads.
    """
    errors.choice("rollout", fuse, FUSE)
    errors.choice("mouse", mouse, engine.manifest.sessions, "name one: --session")
    if rounds < 1:
        raise errors.must("the size of a null", "be at least 1", rounds)
    model = _model(engine)
    began = time.perf_counter()
    trials = scan.trials(tier)
    pupil, behavior = scan.pupil(trials), scan.behavior(trials)
    reads = list(model.covariates)
    reruns = _swaps(reads, pupil, behavior)
    bar = tqdm(
        total=len(trials) * (1 + len(controls) + reruns), unit="image",
        disable=None if progress else True,
    )  # fmt: skip
    names = [TRAINED, *(f"untrained {i}" for i in range(len(controls)))]
    size, ids = _seen(engine), scan.image_ids[trials]
    with bar:
        passes = [
            _Pass(each, scan, trials, mouse, fuse, batch_size, bar.update)
            for each in (engine, *controls)
        ]
        own, *others = [
            _look(name, each, size, pupil, behavior, ids, rounds, seed)
            for name, each in zip(names, passes, strict=True)
        ]
        swaps: dict[str, Swap] = {}
        if reruns:
            assert pupil is not None
            acts = behavior if "behavior" in reads else None
            chance = np.random.default_rng([seed, 2])
            swaps = swapped(passes[0].rollout_of, pupil, acts, ids, size, chance)
    found = passes[0].prediction
    meta = {
        "grid": list(passes[0].rollout.shape[1:]),
        "map": list(size),
        "crop": float(engine.manifest.config.get("center_crop", 1)),
        "warning": _warning(engine, passes[0].rollout.shape[1:]),
        "reads": reads,
        "choices": {
            "rollout": f"{fuse} over heads, identity added, rows normalised; the class token's row",
            "heat_map": "minimum and maximum of the patches to 0 and 1, then bilinear",
            "control": CONTROL.format(len(controls)) if controls else "none",
            "standardised_by": "the scan's own statistics",
            "null": "pupils permuted within image",
            "null_size": rounds,
            "interval": "95 %, jackknife over images",
            "seed": seed,
        },
        "versions": engine.versions,
        "seconds": time.perf_counter() - began,
    }
    correlation = _correlation(scan, trials, ids, found)
    return Looks(
        own, tuple(others), swaps, trials, ids, pupil, behavior, correlation, meta
    )  # fmt: skip


class _Pass:
    """One model's run over the trials; it can be repeated with other covariates."""

    def __init__(
        self, engine: Engine, scan: Scan, trials: NDArray[np.int64], mouse: str, fuse: str,
        size: int, step: Callable[[int], object],
    ) -> None:  # fmt: skip
        self.engine, self.scan, self.trials = engine, scan, trials
        self.mouse, self.fuse, self.size, self.step = mouse, fuse, size, step
        count = len(scan.unit_ids)
        predictions, rollouts = [], []
        self.entropy = {s.name: np.zeros(s.heads) for s in engine.sites}
        self.received: dict[str, Any] = {s.name: 0 for s in engine.sites}
        for result in self._results(
            scan.pupil(trials), scan.behavior(trials), Capture({"*": ["entropy", "per_key"]})
        ):
            if result.prediction.shape[1] != count:
                raise errors.must(
                    f"the scan of mouse {mouse!r}", f"have {result.prediction.shape[1]} neurons",
                    count, "name another mouse: --session",
                )  # fmt: skip
            predictions.append(result.prediction)
            rollouts.append(result.rollout)
            for site in engine.sites:
                entropy = result.attention[site.name, "entropy"].astype(np.float64)
                self.entropy[site.name] += entropy.mean(2).sum(0)
                received = result.attention[site.name, "per_key"].astype(np.float64)
                self.received[site.name] = self.received[site.name] + received.sum(0)
        self.prediction: NDArray[Any] = np.concatenate(predictions)
        self.rollout: NDArray[Any] = np.concatenate(rollouts)

    def rollout_of(self, pupil: Floats, behavior: Floats | None) -> NDArray[np.floating]:
        """Return the rollout of the same images with other covariates, as recorded."""
        if behavior is None:
            own = self.scan.behavior(self.trials)
            behavior = None if own is None else own.astype(np.float64)
        return np.concatenate([r.rollout for r in self._results(pupil, behavior, None)])

    def _results(self, pupil: Any, behavior: Any, capture: Capture | None) -> Any:
        process = self.scan.preprocessing
        for at in range(0, len(self.trials), self.size):
            part = slice(at, at + self.size)
            images = process.images(self.scan.images(self.trials[part]))
            batch = ImageBatch(
                images, self.mouse,
                None if behavior is None else process.behavior(behavior[part]),
                None if pupil is None else process.pupil(pupil[part]),
            )  # fmt: skip
            yield self.engine.run(batch, capture, rollout=self.fuse)
            self.step(len(images))


def head_rows(found: _Pass) -> list[Row]:
    """Return one row per site and head, a mapping from column to value.

    ``entropy`` is that of a query's attention, nats, mean over queries and images, and ``tokens``
    its exponential: as many tokens as a query spreads over. ``keys`` is the effective number of
    tokens that attention falls on when queries and images are averaged, ``gini`` its inequality;
    ``top`` the token that gets most and ``top_share`` its share; ``class_share`` that of the class
    token. With uniform attention ``tokens`` and ``keys`` are their number, ``gini`` is 0 and shares
    are ``uniform``.
    """
    rows, grid = [], found.rollout.shape[2]
    for site in found.engine.sites:
        for head in range(site.heads):
            part = shares.share(found.received[site.name][head])
            entropy = float(found.entropy[site.name][head]) / len(found.trials)
            top = int(np.argmax(part))
            place = f"row {(top - 1) // grid} column {(top - 1) % grid}"
            rows.append({
                "site": site.name, "head": head, "entropy": entropy,
                "tokens": float(np.exp(entropy)), "keys": float(shares.effective(part)),
                "gini": float(shares.gini(part)), "top": place if top else CLASS_TOKEN,
                "top_share": float(part[top]), "class_share": float(part[0]),
                "uniform": 1 / len(part),
            })  # fmt: skip
    return rows


def _look(
    name: str, found: _Pass, size: tuple[int, int], pupil: Any, behavior: Any,
    ids: NDArray[Any], rounds: int, seed: int,
) -> Look:  # fmt: skip
    maps = heat_maps(found.rollout, size)

    def tested(recipe: str) -> tuple[Pair | None, Pair | None]:
        moving, wide = (np.random.default_rng([seed, i]) for i in range(2))
        more: Any = {"rounds": rounds, "recipe": recipe}
        return (
            None if pupil is None else gaze_correlation(maps, pupil, ids, rng=moving, **more),
            None if behavior is None
            else spread_correlation(maps, behavior[:, 0], ids, rng=wide, **more),
        )  # fmt: skip

    centre, spread = tested("within")
    published, spread_published = tested("v1t")
    return Look(name, maps, head_rows(found), centre, spread, published, spread_published)


def _swaps(reads: Sequence[str], pupil: Any, behavior: Any) -> int:
    """Return how many times the trials are run again."""
    if not reads or pupil is None:
        return 0
    return 3 if "behavior" in reads and behavior is not None else 1


def _seen(engine: Engine) -> tuple[int, int]:
    """Return the size of the image that the core sees."""
    return _model(engine).core_shape[1:]


def _model(engine: Engine) -> ImageModel:
    if isinstance(engine.model, Ensemble):
        raise errors.must("the model", "be one model", "an ensemble", "give one of its members")
    if not isinstance(engine.model, ImageModel) or not engine.sites:
        got = f"a {engine.family} model without"
        raise errors.must("the model", "read images and have attention", got)
    return engine.model


def _warning(engine: Engine, grid: tuple[int, ...]) -> str:
    """Say whether patches are laid out as they were cut."""
    size, stride = (int(engine.manifest.config[f"patch_{n}"]) for n in ("size", "stride"))
    cut = tuple((n - size) // stride + 1 for n in _seen(engine))
    if cut == tuple(grid):
        return ""
    return MISPLACED.format(*(" x ".join(map(str, each)) for each in (cut, grid)))


def _correlation(
    scan: Scan, trials: NDArray[np.int64], ids: NDArray[Any], prediction: NDArray[Any]
) -> dict[str, float] | None:
    try:
        targets = scan.preprocessing.responses(scan.responses(trials))
    except errors.AttendriteError:
        if scan.hashed:  # withheld
            return None
        raise
    return {
        "single_trial": float(single_trial_correlation(targets, prediction).mean()),
        "to_average": float(correlation_to_average(targets, prediction, ids).mean()),
    }

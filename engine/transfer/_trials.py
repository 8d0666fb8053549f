"""What a fit needs of a scan: features of the core, responses and pupils of its trials.

Features take ``4 T D h w`` bytes: 4.6 GB for the 4500 trials of a scan in the published V1T, 1.8 GB
in sensorium's. Up to ``KEPT`` bytes lie in memory, more in a file without a name that the system
takes away with the process; the core runs once for each trial either way.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from .. import errors
from ..executors import torch as torch_executor
from ..images import ImageBatch
from ..models._vision import ImageInputs, ImageModel
from ..runtime import Engine
from ..scans import Scan

TRAIN, VALIDATION, TEST = "train", "validation", "test"
BATCH = 16  # images that the core takes at a time
KEPT = 4 << 30

Floats = NDArray[np.float32]


class Trials:
    """The trials of the tiers that are used, one tier after the other.

    Args:
        engine: A model that knows the mouse.
        scan: Of the mouse.
        mouse: What the model calls it.
        beside: Folder with room for features that are too large for memory.
        progress: Show a bar.

    Attributes:
        rows: Of the trials of each tier; training first.
        targets: Responses by their precision, ``[T, N]``.
        features: ``[T, h, w, D]``.
        inputs: Of some of the trials; they stand for any, but for images, behaviour and pupil.
        pupil: As the model takes it, ``[T, 2]``, float64; ``None`` without any.
    """

    def __init__(
        self, engine: Engine, scan: Scan, mouse: str, beside: Path, progress: bool
    ) -> None:
        self.rows: dict[str, slice] = {}
        by_tier, done = _responses(scan), 0
        for tier, responses in by_tier.items():
            self.rows[tier] = slice(done, done + len(responses))
            done += len(responses)
        self.targets: Floats = np.concatenate([*by_tier.values()])
        trials, process = np.concatenate([scan.trials(t) for t in by_tier]), scan.preprocessing
        pupil = scan.pupil(trials)
        self.pupil = None if pupil is None else process.pupil(pupil)
        self.features, self.inputs = _features(engine, scan, mouse, trials, beside, progress)

    def shuffled(self, seed: int) -> Floats:
        """Return responses that belong to other trials of the same tier, ``[T, N]``."""
        rng, out = np.random.default_rng([seed, 1]), self.targets.copy()
        for rows in self.rows.values():
            out[rows] = rng.permuted(out[rows], axis=0)
        return out


def varying(responses: Floats) -> NDArray[np.bool_]:
    """Say which neurons do not always respond alike, ``[N]``: others have no correlation."""
    found: NDArray[np.bool_] = responses.max(0) > responses.min(0)
    return found


def _responses(scan: Scan) -> dict[str, Floats]:
    """Return the scaled responses of each tier that is used."""
    known, found = {str(tier) for tier in scan.tiers}, {}
    for tier in (TRAIN, VALIDATION, TEST):
        if tier not in known:
            if tier == TEST:
                continue
            raise errors.must("the scan", f"have {tier} trials", f"{', '.join(sorted(known))} only")
        try:
            values = scan.responses(scan.trials(tier))
        except errors.AttendriteError:
            if tier == TEST and scan.hashed:  # withheld
                continue
            raise
        if len(values) < 2:  # a tier that exists has one
            raise errors.must(f"{tier} trials", "be at least two", len(values))
        if values.min() < 0:
            raise errors.must("responses", "be 0 or more, as rates are", values.min())
        if not varying(values).any():
            raise errors.must(f"{tier} responses", "vary in one neuron at least", "constant ones")
        found[tier] = scan.preprocessing.responses(values).astype(np.float32)
    return found


class _Core:
    """A model that stops before its read-outs, for an executor: its prediction is the features."""

    def __init__(self, model: ImageModel) -> None:
        self.sites, self.forward = model.sites, model.core


def _features(
    engine: Engine, scan: Scan, mouse: str, trials: NDArray[np.int64], beside: Path, progress: bool
) -> tuple[Floats, ImageInputs]:
    """Return the features of trials, ``[T, h, w, D]``, and the inputs of the last ones."""
    model: Any = engine.model
    core: Any = _Core(model)
    executor = torch_executor.load(core, model.device, model.dtype)
    process, behavior, pupil = scan.preprocessing, scan.behavior(trials), scan.pupil(trials)
    out: Floats | None = None
    with tqdm(total=len(trials), unit="image", disable=None if progress else True) as bar:
        for at in range(0, len(trials), BATCH):
            part = slice(at, at + BATCH)
            batch = ImageBatch(
                process.images(scan.images(trials[part])),
                mouse,
                None if behavior is None else process.behavior(behavior[part]),
                None if pupil is None else process.pupil(pupil[part]),
            )
            with torch.inference_mode():
                inputs = model.inputs(batch)
                features, _ = executor.run(inputs, {})
                assert isinstance(features, torch.Tensor)  # of an image model
                found = features.permute(0, 2, 3, 1).cpu().numpy()
            if out is None:
                out = _room((len(trials), *found.shape[1:]), beside)
            out[part] = found
            bar.update(len(found))
    assert out is not None  # there are trials
    return out, inputs


def _room(shape: tuple[int, ...], beside: Path) -> Floats:
    """Return an array in memory or in a file."""
    size = math.prod(shape) * 4
    if size <= KEPT:
        return np.zeros(shape, np.float32)
    with tempfile.TemporaryFile(dir=beside) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, later a crash
        return np.memmap(file, np.float32, "r+", shape=shape)

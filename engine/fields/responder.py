"""A model under one condition: images to responses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import errors
from ..bundle import Bundle
from ..images import BEHAVIORS, ImageBatch, statistics
from ..models._vision import ImageFamily
from ..runtime import Engine

BATCH = {"cpu": 64, "cuda": 512}  # images at a time, at most, if nobody says how many


class Responder(Protocol):
    """What turns images into responses; picklable, what is heavy made where it is used.

    Attributes:
        units: How many responses ``U`` to each image.
        shape: Of the images that it takes, ``[c, h, w]``.
        device: Where sums are kept: of responses, ``cpu`` or a CUDA device.
        threads: Of noise and sums, which do not depend on it; ``None``: as many as torch has.
    """

    units: int
    shape: tuple[int, int, int]
    device: str
    threads: int | None

    def responses(self, images: Tensor) -> Tensor:
        """Return the responses to ``[B, c, h, w]``, float32 on the CPU: ``[B, U]``, float32."""

    def identity(self) -> Mapping[str, Any]:
        """Return what decides the responses, as plain JSON."""


@dataclass
class EngineResponder:
    """A loaded image model for one mouse, behaviour and pupil held still, in evaluation mode.

    Images are what the core sees: nothing is cropped, moved or resized.

    Attributes:
        bundle: The model.
        executor: How it is run; see :class:`attendrite.Engine`.
        device: Where.
        dtype: In which precision.
        threads: With how many threads.
        mouse: Whose neurons respond.
        behavior: As the model takes it, 3 numbers, or ``None``.
        pupil: Likewise, 2 numbers.
        shift: Whether the read-out is shifted by the pupil.
        batch_size: Images at a time, at most.
    """

    bundle: Bundle
    executor: str
    device: str
    dtype: str
    threads: int | None
    mouse: str
    behavior: tuple[float, ...] | None
    pupil: tuple[float, ...] | None
    shift: bool
    batch_size: int
    units: int
    shape: tuple[int, int, int]
    _engine: Engine | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        engine: Engine,
        mouse: str,
        behavior: tuple[float, ...] | None,
        pupil: tuple[float, ...] | None,
        *,
        shift: bool = True,
        batch_size: int | None = None,
    ) -> EngineResponder:
        """Hold a loaded engine under a condition; ``None``: the mean of the training.

        The pupil is standardised in training, so that its mean is 0; behaviour is not centred, and
        its mean stands in bundles that were exported with their data.

        Raises:
            AttendriteError: Not an image model, an unknown mouse, a condition of another length, or
                a mean that the bundle does not hold.
        """
        model = engine.model
        if not isinstance(model, ImageFamily):
            todo = "for decoders of spikes see attendrite triggered"
            raise errors.must("the model", "respond to images", f"a {engine.family} model", todo)
        errors.choice("mouse", mouse, engine.manifest.sessions)
        given = {"behavior": behavior, "pupil": pupil}
        for name, length in (("behavior", BEHAVIORS), ("pupil", 2)):
            value = given[name]
            if name not in model.covariates:
                given[name] = None
            elif value is None:
                given[name] = (0.0, 0.0) if name == "pupil" else _mean_behavior(engine, mouse)
            else:
                errors.shape(name, np.asarray(value), [length])
                errors.finite(name, np.asarray(value))
        size = BATCH[torch.device(engine.device).type] if batch_size is None else batch_size
        if size < 1:
            raise errors.must("batch_size", "be at least 1", size)
        return cls(
            engine.bundle, engine.executor, engine.device, engine.dtype, engine.threads, mouse,
            given["behavior"], given["pupil"], shift, size, model.n_units(mouse), model.core_shape,
            engine,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_engine": None}

    def responses(self, images: Tensor) -> Tensor:
        """Run images through the model."""
        if self._engine is None:
            self._engine = Engine(self.bundle, self.executor, self.device, self.dtype, self.threads)
        behavior, pupil = (
            None if value is None else np.tile(np.array(value, np.float32), (len(images), 1))
            for value in (self.behavior, self.pupil)
        )
        batch = ImageBatch(
            images.numpy(), self.mouse, behavior, pupil, cropped=True, shift=self.shift
        )
        found = self._engine.run(batch, batch_size=self.batch_size).prediction
        assert isinstance(found, np.ndarray)
        return torch.from_numpy(np.ascontiguousarray(found, np.float32))

    def identity(self) -> Mapping[str, Any]:
        """Return what decides the responses."""
        digest = hashlib.sha256(self.bundle.manifest.to_json().encode())
        for name, value in sorted(self.bundle.weights.items()):  # safetensors has no order
            array = np.ascontiguousarray(value)
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return {
            "model": digest.hexdigest(),
            "executor": self.executor,
            "device": self.device,
            "dtype": self.dtype,
            "mouse": self.mouse,
            "behavior": self.behavior,
            "pupil": self.pupil,
            "shift": self.shift,
            "batch_size": self.batch_size,
        }


def _mean_behavior(engine: Engine, mouse: str) -> tuple[float, ...]:
    try:
        mean, std = statistics(engine.manifest, mouse, "behavior")
    except errors.AttendriteError:
        todo = "give behaviour, or export the bundle with --data MOUSE=SCAN"
        got = "a bundle without statistics of its training data"
        raise errors.must("the mean behaviour", "be known", got, todo) from None
    return tuple((mean / std).tolist())

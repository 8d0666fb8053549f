"""A scan in memory: what is small is there, trials are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Trials = Sequence[int] | NDArray[np.integer]

SMALLEST_STD = 0.01  # of the mean over neurons: the divisor of a response is never below it


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and standard deviation, float64: of images ``[]``, else one per element."""

    mean: Doubles
    std: Doubles


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """What V1T does to a trial before a model sees it (its data.py, commit 6599bf6).

    Attributes:
        moments: By name of the data: ``images``, ``responses``, and where the scan has them
            ``behavior`` and ``pupil_center``.
    """

    moments: Mapping[str, Moments]

    def images(self, values: NDArray[Any]) -> Floats:
        """Return ``(x - mean) / std``, any shape, float32."""
        own = self.moments["images"]
        with np.errstate(over="ignore"):
            return np.asarray((values - own.mean) / own.std, np.float32)

    def responses(self, values: NDArray[Any]) -> Doubles:
        """Return ``x * precision``, ``[..., N]``."""
        return np.asarray(values * self.precision, np.float64)

    def behavior(self, values: NDArray[Any]) -> Doubles:
        """Return ``x / std``, ``[..., 3]``; the mean stays: 0 means a pupil of size 0."""
        return np.asarray(values / self._known("behavior").std, np.float64)

    def pupil(self, values: NDArray[Any]) -> Doubles:
        """Return ``(x - mean) / std``, ``[..., 2]``."""
        own = self._known("pupil_center")
        return np.asarray((values - own.mean) / own.std, np.float64)

    @cached_property
    def precision(self) -> Doubles:
        """Factor of each neuron's responses, ``[N]``: ``1 / std``, at most 100 / the mean std."""
        std = self.moments["responses"].std
        smallest = SMALLEST_STD * std.mean()
        return 1 / np.where(std > smallest, std, smallest)

    def _known(self, name: str) -> Moments:
        errors.choice("data of the scan", name, self.moments)
        return self.moments[name]


@dataclass(frozen=True, eq=False)
class Scan:
    """One session of images shown to one animal, in trials of one image each.

    Attributes:
        session: Animal, session and scan as the folder says, ``"21067-10-18"``, else its name.
        mouse: The letter V1T gives to a published scan (``"A"``); else the session.
        animal: Identifier of the animal.
        unit_ids: ``[N]``, int64, unique.
        positions: Of the neurons in cortex, ``[N, 2 or 3]``, float64, um.
        tiers: Of each trial, ``[T]``: ``train``, ``validation``, ``test``, ``final_test``.
        image_ids: Of the image shown, ``[T]``; repeats share it.
        trial_ids: Order of the trials in time, ``[T]``, int64; strings where that is withheld.
        image_shape: ``(c, h, w)``.
        moments: Mean and standard deviation by name of the data, over the whole scan.
        load: Returns one trial of one kind of data, float32, checked.
    """

    session: str
    mouse: str
    animal: str
    unit_ids: NDArray[np.int64]
    positions: Doubles
    tiers: NDArray[np.str_]
    image_ids: NDArray[Any]
    trial_ids: NDArray[Any]
    image_shape: tuple[int, int, int]
    moments: Mapping[str, Moments]
    load: Callable[[str, int], Floats] = field(repr=False)

    def __len__(self) -> int:
        """Return the number of trials ``T``."""
        return len(self.tiers)

    def __repr__(self) -> str:
        tiers = ", ".join(f"{(self.tiers == t).sum()} {t}" for t in self._tiers)
        return f"Scan({self.session!r}; {len(self.unit_ids)} neurons; trials: {tiers})"

    @property
    def _tiers(self) -> list[str]:
        return sorted({str(tier) for tier in self.tiers})

    def trials(self, tier: str) -> NDArray[np.int64]:
        """Return the numbers of the trials of a tier.

        Raises:
            AttendriteError: The scan has no such tier.
        """
        errors.choice("tier", tier, self._tiers)
        return np.flatnonzero(self.tiers == tier)

    def images(self, trials: Trials) -> Floats:
        """Return images as stored, ``[B, c, h, w]``, float32, newly allocated."""
        return self._loaded("images", trials, self.image_shape)

    def responses(self, trials: Trials) -> Floats:
        """Return responses as stored, ``[B, N]``, float32.

        Raises:
            AttendriteError: The responses of such a trial are withheld: the competition's scans
                hold zeros in their place.
        """
        values = self._loaded("responses", trials, (len(self.unit_ids),))
        silent = ~values.any(1) if self.hashed else np.zeros(0, np.bool_)
        if silent.any():
            trial = int(np.asarray(trials)[silent.argmax()])
            raise errors.must(
                f"responses of trial {trial} ({self.tiers[trial]})", "be public", "zeros",
                "the competition withholds them; take the tier train or validation",
            )  # fmt: skip
        return values

    def behavior(self, trials: Trials) -> Floats | None:
        """Return behaviour as stored, ``[B, 3]``, float32; ``None`` where the scan has none."""
        known = "behavior" in self.moments
        return self._loaded("behavior", trials, (3,)) if known else None

    def pupil(self, trials: Trials) -> Floats | None:
        """Return centres of the pupil as stored, ``[B, 2]``, float32; ``None`` without any."""
        known = "pupil_center" in self.moments
        return self._loaded("pupil_center", trials, (2,)) if known else None

    @property
    def hashed(self) -> bool:
        """Whether the order of trials is withheld: trial ids are strings."""
        return self.trial_ids.dtype.kind in "US"

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What turns data as stored into what a model sees."""
        return Preprocessing(self.moments)

    @property
    def statistics(self) -> dict[str, dict[str, Any]]:
        """Mean and standard deviation of a model's inputs, as JSON holds them."""
        return {
            name: {"mean": own.mean.tolist(), "std": own.std.tolist()}
            for name, own in self.moments.items()
            if name != "responses"
        }

    def _loaded(self, name: str, trials: Trials, shape: tuple[int, ...]) -> Floats:
        numbers = [int(trial) for trial in trials]
        for trial in numbers:
            if not 0 <= trial < len(self):
                raise errors.must("trials", f"lie in 0..{len(self) - 1}", trial)
        values = np.zeros((len(numbers), *shape), np.float32)
        for row, trial in zip(values, numbers, strict=True):
            row[...] = self.load(name, trial)
        return values

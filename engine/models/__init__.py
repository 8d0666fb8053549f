"""Model families, one file each; they share layers but never import each other.

A family is a module with a class ``Model``, see :class:`Family`. A new one is a new file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from torch import Tensor

from .. import errors
from ..batches import Batch
from ..bundle import Bundle, Manifest, Task
from ..capture import Site
from ._site import Attend, Inputs, Shapes

__all__ = ["Attend", "Family", "Inputs", "check_weights", "families", "load"]


class Family(Protocol):
    """A model of one family, its weights on a device: what ``engine/models/<family>.py`` defines.

    The class methods serve the exporter, the others a run.

    Attributes:
        batch: Kind of input.
        sites: The attention layers, in the order in which they run.
        tables: Weights with a row for each unit or session.
        buffers: Tensors that are no parameters; they stay float64 whatever the engine's dtype.
    """

    batch: type[Batch]
    sites: tuple[Site, ...]
    tables: tuple[str, ...]
    buffers: tuple[str, ...]

    def __init__(self, manifest: Manifest, weights: Mapping[str, Tensor]) -> None: ...

    @classmethod
    def claims(cls, names: Collection[str]) -> bool:
        """Say whether weights of these names are of this family."""

    @classmethod
    def sizes(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Infer the configuration, as far as the shapes of the weights tell it."""

    @classmethod
    def needs(cls) -> Mapping[str, str]:
        """Name what the weights cannot tell, with an example value each."""

    @classmethod
    def tasks(cls, weights: Mapping[str, Tensor], given: Mapping[str, str]) -> tuple[Task, ...]:
        """Infer the read-outs; ``given`` maps a task's name to ``id`` or ``id:kind``."""

    @classmethod
    def shapes(cls, manifest: Manifest, weights: Mapping[str, Tensor]) -> Shapes:
        """Return the shape that every tensor must have."""

    def inputs(self, batch: Any) -> Inputs:
        """Turn a checked batch into tensors on the model's device."""

    def forward(self, inputs: Any, attend: Attend) -> Tensor | dict[str, Tensor]:
        """Return the prediction, ``[B, Q, d]``, or by task ``[n, d]``."""


def families() -> list[str]:
    """Return the names of all families."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(family: str) -> type[Family]:
    """Return the class of a family.

    Raises:
        AttendriteError: This install does not know it.
    """
    errors.choice("model family", family, families(), "upgrade attendrite")
    model: type[Family] = importlib.import_module(f"{__name__}.{family}").Model
    return model


def check_weights(bundle: Bundle) -> None:
    """Refuse weights that are not exactly those of the bundle's family and configuration.

    Raises:
        AttendriteError: A tensor is missing, unknown or of another shape.
    """
    family = bundle.manifest.family
    expected = load(family).shapes(bundle.manifest, bundle.weights)
    for name, shape in expected.items():
        if name not in bundle.weights:
            raise errors.must(f"weights of a {family} model", f"hold {name!r}", "none of that name")
        errors.shape(f"weights {name!r}", bundle.weights[name], shape)
    for name in sorted(set(bundle.weights) - set(expected)):
        raise errors.must(f"weights of a {family} model", "all be known", repr(name))

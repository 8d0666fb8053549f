"""Ways to run a family, one file each: ``reference`` is the truth.

An executor is a module with

* ``PRIORITY: int``, the highest one that does not refuse is chosen by ``auto``;
* ``refuses(family, device, dtype) -> str | None``, why it cannot (``None``: it can);
* ``load(model, device, dtype, *files) -> Executor``, which binds all that can be bound before a
  run;
* where it reads more of a bundle than its weights, ``FILES: tuple[str, ...]``: names of the
  ``files`` that ``load`` gets, each as bytes, ``None`` where the bundle has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor

from .. import errors
from ..capture import Request
from ..kernels._operation import Operation

__all__ = ["AUTO", "LATENTS", "ROLLOUT", "Captured", "Executor", "choose", "names", "refusals"]

AUTO = "auto"
_EXECUTORS = Operation(__name__)

Captured = Mapping[tuple[str, str], Tensor]  # by site and array name
LATENTS = "latents"  # of no site: which latents of each step a condition keeps
ROLLOUT = ("", "rollout")  # of no site: the rollout of the whole model, [B, Q, U]


class Executor(Protocol):
    """A model bound to a way of running it.

    It may also have ``masked(inputs, masks)``, the prediction, ``[N, ...]``, of conditions that
    remove heads or latents (see :mod:`._tails`); where it has none the engine takes that of
    executor torch. One that cannot run a part of a model says so with an error. ``at_once``, if it
    has one, is the number of windows that are best given together.
    """

    def run(
        self, inputs: Any, plan: Mapping[str, Mapping[str, Request]], rollout: str | None = None
    ) -> tuple[Tensor | dict[str, Tensor], Captured]:
        """Return the prediction and what the plan asked for.

        With ``rollout``, ``mean`` or ``max`` over heads, also what each query takes from each unit
        through all layers, under :data:`ROLLOUT`.
        """

    def partials(self, inputs: Any, segments: Tensor, n_segments: int) -> tuple[Tensor, Tensor]:
        """Return the encoder's attention over the tokens of each segment alone.

        ``segments`` has shape ``[B, K]``, int64, -1 in none. Log-sum-exps come as ``[B, H, L, G]``,
        -inf where a segment has no token, outputs of heads as ``[B, H, L, G, D]``.
        """

    def tails(self, inputs: Any, encoded: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the prediction, ``[N, ...]``, from encoder outputs ``[N, B, H, L, D]``.

        Of the inputs only the queries are read; there may be no tokens.
        """

    @property
    def choices(self) -> Mapping[str, str]:
        """What was chosen at load, for a run's ``meta``."""


def names() -> list[str]:
    """Return the names of all executors, whether they can run here or not."""
    return _EXECUTORS.backends


def refusals(*, family: str, device: str, dtype: str) -> dict[str, str | None]:
    """Say for every executor why it cannot run such a model, ``None`` where it can."""
    return _EXECUTORS.refusals(family=family, device=device, dtype=dtype)


def choose(name: str, *, family: str, device: str, dtype: str) -> tuple[str, ModuleType]:
    """Return an executor and its name; ``auto`` takes the one of highest priority that can.

    Raises:
        AttendriteError: Unknown, or it refuses; it is never replaced by another. None can.
    """
    errors.choice("executor", name, [AUTO, *names()])
    wanted = {"family": family, "device": device, "dtype": dtype}
    if name != AUTO:
        module = _EXECUTORS.load(name)
        if reason := module.refuses(**wanted):
            raise errors.AttendriteError(f"executor {name!r} {reason}")
        return name, module
    refused = refusals(**wanted)
    if all(refused.values()):
        reasons = "; ".join(f"{which} {reason}" for which, reason in refused.items())
        raise errors.must(f"an executor of {dtype} on {device}", "be there", "none", reasons)
    module = _EXECUTORS.choose(None, **wanted)
    return module.__name__.rpartition(".")[2], module

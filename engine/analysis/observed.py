"""What a model attended to in the windows of a recording, and what lay in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..batches import CalciumBatch, SpikeBatch
from ..capture import Capture
from ..recordings import Recording
from ..runtime import Engine
from ._windows import Windows

Floats = NDArray[np.float64]
TOKENS = ("spikes", "all")  # which tokens count: without or with START and END
EDGES = 2  # START and END of each unit in each window


@dataclass(frozen=True)
class Tokens:
    """Tokens of each unit in each window.

    Attributes:
        counts: By which tokens count, ``[W, U]``, int64. Fluorescence has frames, no START or END:
            both are the same.
    """

    counts: dict[str, NDArray[np.int64]]

    @classmethod
    def of(cls, batch: SpikeBatch | CalciumBatch) -> Tokens:
        """Count the tokens of a batch in which every unit exists in every window."""
        size, n_units = len(batch), len(batch.unit_ids)
        if isinstance(batch, CalciumBatch):
            frames = np.repeat(batch.exists.sum(1)[:, None], n_units, 1).astype(np.int64)
            return cls(dict.fromkeys(TOKENS, frames))
        flat = batch.window.astype(np.int64) * n_units + batch.units
        spikes = np.bincount(flat, minlength=size * n_units).reshape(size, n_units)
        return cls({"spikes": spikes.astype(np.int64), "all": spikes.astype(np.int64) + EDGES})


@dataclass(frozen=True)
class Observed:
    """Attention of one model over ``W`` windows of ``S`` latent steps.

    Attributes:
        windows: Where they lie.
        tokens: What lay in them.
        which: Which tokens count in ``steps``: ``spikes`` or ``all``.
        sums: By which tokens count, encoder attention summed over latents, ``[W, H, U]``.
        steps: Encoder attention at each latent step, mean over its latents, ``[W, S, H, U]``,
            float32.
        rollout: From the decoder's queries to units, summed over queries, ``[W, U]``; all tokens.
        lag: By site, attention-weighted query time minus key time, mean over queries, ``[H]``, s.
        output: By site, norm of a head's contribution to the layer, mean over queries, ``[H]``.
    """

    windows: Windows
    tokens: Tokens
    which: str
    sums: dict[str, Floats]
    steps: NDArray[np.float32]
    rollout: Floats
    lag: dict[str, Floats]
    output: dict[str, Floats]


def observe(
    engine: Engine,
    recording: Recording,
    windows: Windows,
    *,
    which: str = "spikes",
    fuse: str = "mean",
    session: str | None = None,
    task: str | None = None,
    batch_size: int = 16,
    step: Any = None,
) -> Observed:
    """Run the windows through a model and keep what the analysis needs.

    Queries of the decoder lie at the latent times, one per step: no part of a window counts more.

    Args:
        engine: The model.
        recording: Its units and session must be known to the model.
        windows: They must not overlap: a spike counts once.
        which: Tokens that count in ``steps``: ``spikes``, or ``all`` with START and END.
        fuse: How the rollout fuses heads, ``mean`` or ``max``.
        session: The bundle's name for this recording; default the recording's own.
        task: Which read-out of a family with several tasks.
        batch_size: Windows per forward: bounds the memory of a run. ``steps`` holds
            ``4 W S H U`` bytes.
        step: Called with the number of windows done, for a progress bar.

    Raises:
        AttendriteError: Windows that overlap or hold no tokens, an unknown name, or a recording
            that does not fit the model.
    """
    errors.choice("tokens", which, TOKENS)
    if (np.diff(windows.starts) < windows.length * (1 - 1e-6)).any():
        raise errors.must("windows", "not overlap", "windows that do", "a spike would count twice")
    other = "all" if which == "spikes" else "spikes"
    sites = [site.name for site in engine.sites]
    capture = Capture(
        {"encoder": [f"per_query_unit:{which}", f"per_unit:{other}"], "*": ["lag", "head_output"]}
    )
    parts: list[tuple[dict[str, Any], Tokens]] = []
    for batch in _batches(engine, recording, windows, session, task, batch_size):
        result = engine.run(batch, capture, rollout=fuse)
        found = result.attention
        assert found is not None
        assert result.rollout is not None
        by_latent = found["encoder", "per_query_unit"]  # [B, H, L, U]
        parts.append((
            {
                which: by_latent.sum(2, dtype=np.float64),
                other: found["encoder", "per_unit"].astype(np.float64),
                "steps": _per_step(by_latent, engine),
                "rollout": result.rollout.sum(1, dtype=np.float64),
                **{f"lag {s}": found[s, "lag"].mean(2, dtype=np.float64) for s in sites},
                **{f"output {s}": _norm(found[s, "head_output"]) for s in sites},
            },
            Tokens.of(batch),
        ))  # fmt: skip
        if step is not None:
            step(len(batch))
    whole = {name: np.concatenate([values[name] for values, _ in parts]) for name in parts[0][0]}
    tokens = Tokens({t: np.concatenate([own.counts[t] for _, own in parts]) for t in TOKENS})
    if not tokens.counts["spikes"].any():
        raise errors.must("the analysed windows", "hold spikes", "none in all of them")
    return Observed(
        windows,
        tokens,
        which,
        {t: whole[t] for t in TOKENS},
        whole["steps"],
        whole["rollout"],
        {site: whole[f"lag {site}"].mean(0) for site in sites},
        {site: whole[f"output {site}"].mean(0) for site in sites},
    )


def _batches(
    engine: Engine,
    recording: Recording,
    windows: Windows,
    session: str | None,
    task: str | None,
    size: int,
) -> Iterator[SpikeBatch | CalciumBatch]:
    config = engine.manifest.config
    count = _steps(engine)
    queries = (np.arange(count) + 0.5) * float(config["latent_step"])
    queries = np.minimum(queries, windows.length)
    kind = SpikeBatch if recording.traces is None else CalciumBatch
    for first in range(0, len(windows.starts), size):
        starts = windows.starts[first : first + size]
        tasks = None if task is None else np.full((len(starts), count), task)
        yield kind.from_recording(
            recording, starts, windows.length, queries, session=session, query_task=tasks
        )


def _steps(engine: Engine) -> int:
    config = engine.manifest.config
    return len(np.arange(0, float(config["sequence_length"]), float(config["latent_step"])))


def _per_step(by_latent: NDArray[Any], engine: Engine) -> NDArray[np.float32]:
    """Average the latents of a step: ``[B, H, L, U]`` to ``[B, S, H, U]``."""
    size, heads, _, n_units = by_latent.shape
    own = int(engine.manifest.config["num_latents_per_step"])
    steps: NDArray[np.float32] = (
        by_latent.reshape(size, heads, -1, own, n_units).mean(3).swapaxes(1, 2).astype(np.float32)
    )
    return steps


def _norm(output: NDArray[Any]) -> Floats:
    """Return the mean norm of the heads' contributions, ``[B, H]``."""
    norm: Floats = np.linalg.norm(output.astype(np.float64), axis=3).mean(2)
    return norm

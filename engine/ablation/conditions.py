"""What a model decodes from a window in every condition of a plan.

Units: the encoder attends once to a window, for each *segment* of its tokens alone, and a condition
is a merge of the segments that it keeps (:mod:`attendrite.kernels.merge_partials`): exact, since a
token's key and value do not depend on other tokens. Segments are

* ``remove``: the tokens of each unit, START and END too;
* ``silence``: the spikes of each unit; START and END of all units always stay;
* ``shuffle_time``, ``mean_rate``: the spikes of each unit, and those that take their place; a
  condition keeps the one or the other;
* ``thin``: the spikes of all units in random order, cut where the ranking has removed as many; a
  null ranking costs one more pass of the encoder.

Whatever follows the encoder is run for every condition. Cost of a window with ``U`` units and ``N``
conditions: one encoder, ``N`` tails, and merges of 2 ``H L D`` operations for each unit of each
ranking, a few hundredths of a tail. Memory: partial results, ``4 H L U (D + 1)`` bytes, and as many
conditions at a time as the budget holds.

Heads, latents and layers: see :meth:`attendrite.Engine.masked`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..batches import SpikeBatch
from ..kernels.merge_partials import Pair, merge_kept, merge_nested
from ..runtime import Engine, Prediction
from .data import Data
from .plans import THIN, Plan

NOWHERE = -1
REPLACING = ("shuffle_time", "mean_rate")
Found = Iterator[tuple[int, int, NDArray[Any]]]


class Conditions:
    """Runs the conditions of a plan, window by window.

    Args:
        engine: The model.
        data: The windows.
        plan: What is removed.
        seed: Of replaced and thinned spikes.
        memory: Bytes that conditions may take at a time, beside the model and one window.

    Raises:
        AttendriteError: A method that the windows' kind of data does not have.
    """

    def __init__(
        self, engine: Engine, data: Data, plan: Plan, seed: int, memory: int = 256 << 20
    ) -> None:
        self.engine, self.data = engine, data
        self._begins = plan.removed.shape[1] > 1 and not plan.removed[:, 0].any()
        self._plan = replace(plan, removed=plan.removed[:, 1:]) if self._begins else plan
        self._seed, self._memory = seed, memory
        if not isinstance(data.batch, SpikeBatch) and set(plan.methods) - {"remove"}:
            method = min(set(plan.methods) - {"remove"})
            raise errors.must("the method for fluorescence", "be remove", method)
        encoder = engine.sites[0]
        config = engine.manifest.config
        steps = len(np.arange(0, float(config["sequence_length"]), float(config["latent_step"])))
        rows = encoder.heads * steps * int(config["num_latents_per_step"])
        item = np.dtype(engine.dtype).itemsize
        self._each = item * rows * (encoder.width + 1)  # bytes of a condition

    def run(self, window: int) -> Found:
        """Yield first and last curve (exclusive) and what they decode, ``[p, C, q, d]``.

        Queries that are not there are left out, and curves come in the order of the plan. Where
        every curve begins with nothing removed, that is run once.
        """
        if self._begins:
            clean = self.clean(window)[None, None]
        for first, stop, found in self._found(window):
            if self._begins:
                found = np.concatenate([np.repeat(clean, stop - first, 0), found], 1)
            yield first, stop, found

    def _found(self, window: int) -> Found:
        if self._plan.site != "units":
            yield from self._masked(window)
            return
        first = 0
        methods = (*self._plan.methods, "")
        for p in range(1, len(methods)):
            if methods[p] != methods[p - 1]:
                yield from self._of_method(window, first, p, methods[p - 1])
                first = p

    def clean(self, window: int) -> NDArray[Any]:
        """Return what is decoded with everything there, by a plain run, ``[q, d]``."""
        batch = self.data.batch.part(window, window + 1)
        return self._answers(window, self.engine.run(batch).prediction, 0)

    def blind(self, window: int) -> NDArray[Any] | None:
        """Return what is decoded from START and END alone, ``[q, d]``; no such thing for traces."""
        batch = self.data.batch.part(window, window + 1)
        if not isinstance(batch, SpikeBatch):
            return None
        none = replace(batch, times=batch.times[:0], units=batch.units[:0], window=batch.window[:0])
        return self._answers(window, self.engine.run(none).prediction, 0)

    # ---- units ----

    def _of_method(self, window: int, first: int, stop: int, method: str) -> Found:
        batch = self.data.batch.part(window, window + 1)
        if method == THIN:
            assert isinstance(batch, SpikeBatch)  # __init__
            yield from self._thinned(window, batch, first, stop)
            return
        size = len(self._plan.items)
        if method in REPLACING:
            assert isinstance(batch, SpikeBatch)
            batch, segments, n = self._replaced(window, batch, method)
        else:
            unit, type_ = _tokens(batch, float(self.engine.manifest.config["sequence_length"]))
            segments, n = unit, size
            if method == "silence":
                segments, n = np.where(type_ == 0, unit, size), size + 1
        lse, output = (part[0] for part in self.engine.partials(batch, segments[None], n))
        base = None
        if method != "remove":
            base = _cut(lse, output, n - 1, n)
            base = base[0][..., 0], base[1][..., 0, :]
        lse, output = _cut(lse, output, 0, n if method == "remove" else n - 1)
        step = max(1, self._memory // (2 * self._each * self._plan.removed.shape[1]))
        for p in range(first, stop, step):
            part = self._plan.part(p, min(p + step, stop))
            if method in REPLACING:
                kept = _masks(part)
                pair = merge_kept(lse, output, np.hstack([kept, ~kept]), base=base,
                                  threads=self._threads)  # fmt: skip
            elif (part.removed == part.removed[0]).all():
                pair = merge_nested(
                    lse,
                    output,
                    part.order[:, ::-1],  # the last removed is merged first
                    size - part.removed[0, ::-1],
                    base=base,
                    threads=self._threads,
                )
                pair = pair[0][:, ::-1], pair[1][:, ::-1]
            else:
                pair = merge_kept(lse, output, _masks(part), base=base, threads=self._threads)
            encoded = pair[1].reshape(*part.removed.shape, *output.shape[:2], output.shape[-1])
            yield p, p + len(part.names), self._tails(window, encoded)

    def _thinned(self, window: int, batch: SpikeBatch, first: int, stop: int) -> Found:
        """Remove spikes of random units, as many as the ranked units have in this window."""
        unit, type_ = _tokens(batch, float(self.engine.manifest.config["sequence_length"]))
        counts = np.bincount(batch.units, minlength=len(batch.unit_ids))
        n = self._plan.removed.shape[1] + 1  # segments of spikes: gone at each point, never gone
        each = self._each * (n + 1 + self._plan.removed.shape[1])
        step = max(1, min(64, self._memory // (2 * each)))
        for p in range(first, stop, step):
            part = self._plan.part(p, min(p + step, stop))
            segments = np.full((len(part.names), len(unit)), n)  # START and END: the base
            for row, (order, removed, draw) in enumerate(
                zip(part.order, part.removed, part.draws.tolist(), strict=True)
            ):
                gone = np.concatenate([[0], np.cumsum(counts[order])])[removed]  # spikes, [C]
                rng = np.random.default_rng([self._seed, 1, draw, window])
                place = rng.permutation(len(batch.times))
                segments[row, type_ == 0] = np.searchsorted(gone, place, "right")
            same = _repeated(batch, len(part.names))
            lse, output = self.engine.partials(same, segments, n + 1)
            merged = []
            cuts = np.arange(1, n)  # spikes that are never gone, then those of the last point, ...
            for a, b in zip(lse, output, strict=True):
                pair = merge_nested(
                    *_cut(a, b, 0, n),
                    np.arange(n)[None, ::-1],
                    cuts,
                    base=(a[..., n].copy(), b[..., n, :].copy()),
                    threads=self._threads,
                )
                merged.append(pair[1][0, ::-1])
            yield p, p + len(part.names), self._tails(window, np.stack(merged))

    def _replaced(
        self, window: int, batch: SpikeBatch, method: str
    ) -> tuple[SpikeBatch, NDArray[np.int64], int]:
        """Add the spikes that take the place of removed ones: segment ``U + u``."""
        size = len(batch.unit_ids)
        length = float(self.engine.manifest.config["sequence_length"])
        rng = np.random.default_rng([self._seed, 2, window])
        if method == "shuffle_time":
            units = np.asarray(batch.units, np.int64)
        else:
            whole = self.data.batch
            assert isinstance(whole, SpikeBatch)  # __init__
            rates = np.bincount(whole.units, minlength=size) / len(self.data)
            units = np.repeat(np.arange(size), rng.poisson(rates))
        times = np.clip(rng.uniform(0, length, len(units)), 0, np.nextafter(length, 0))
        times = np.concatenate([batch.times, times])
        order = np.argsort(times, kind="stable")
        segment = np.concatenate([np.asarray(batch.units, np.int64), size + units])[order]
        both = replace(
            batch,
            times=times[order],
            units=segment % size,
            window=np.zeros(len(times), np.int64),
        )
        edges = np.full(2 * size, 2 * size)  # START and END always stay
        return both, np.concatenate([edges, segment]), 2 * size + 1

    def _tails(self, window: int, encoded: NDArray[Any]) -> NDArray[Any]:
        """Decode conditions, ``[p, C, q, d]``, from their encodings, ``[p, C, H, L, D]``."""
        count, points = encoded.shape[:2]
        batch = self.data.batch.part(window, window + 1)
        flat = np.ascontiguousarray(encoded).reshape(count * points, 1, *encoded.shape[2:])
        found = self._answers(window, self.engine.tails(batch, flat), 1)
        return found.reshape(count, points, *found.shape[1:])

    def _answers(self, window: int, prediction: Prediction, axes: int) -> NDArray[Any]:
        """Take the queries that are there from a prediction of one window, ``[..., q, d]``."""
        if isinstance(prediction, dict):  # has those alone
            return prediction[str(self.data.task)]
        asked = self.data.asked[window]
        return prediction[:, 0, asked] if axes else prediction[0, asked]

    @property
    def _threads(self) -> int:
        return self.engine.threads or 1

    # ---- heads, latents, layers ----

    def _masked(self, window: int) -> Found:
        batch = self.data.batch.part(window, window + 1)
        points = self._plan.removed.shape[1]
        step = max(1, self._memory // (4 * self._each * points))
        for p in range(0, len(self._plan.names), step):
            part = self._plan.part(p, min(p + step, len(self._plan.names)))
            masks = [sites(self.engine, part.site, kept) for kept in _masks(part)]
            found = self._answers(window, self.engine.masked(batch, masks), 1)
            yield p, p + len(part.names), found.reshape(-1, points, *found.shape[1:])


def items(engine: Engine, site: str, unit_ids: NDArray[np.str_]) -> tuple[str, ...]:
    """Name what can be removed at a site."""
    if site == "units":
        return tuple(unit_ids.tolist())
    if site == "heads":
        return tuple(f"{s.name}.head{h}" for s in engine.sites for h in range(s.heads))
    if site == "layers":
        return tuple(s.name for s in engine.sites if s.residual)
    return tuple(f"latent{i}" for i in range(int(engine.manifest.config["num_latents_per_step"])))


def sites(engine: Engine, site: str, kept: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Return the masks of one condition, as :meth:`attendrite.Engine.masked` takes them."""
    if site == "latents":
        return {"latents": kept}
    names = items(engine, site, np.array([], np.str_))
    out = {}
    for each in engine.sites:
        if site == "layers" and each.residual:
            out[each.name] = np.full(each.heads, kept[names.index(each.name)])
        elif site == "heads":
            first = names.index(f"{each.name}.head0")
            out[each.name] = kept[first : first + each.heads]
    return {name: mask for name, mask in out.items() if not mask.all()}


def _masks(part: Plan) -> NDArray[np.bool_]:
    """Return which items each condition keeps, ``[p C, U]``."""
    count, size = part.order.shape
    place = np.empty_like(part.order)
    np.put_along_axis(place, part.order, np.arange(size)[None].repeat(count, 0), 1)
    kept: NDArray[np.bool_] = place[:, None, :] >= part.removed[:, :, None]
    return kept.reshape(-1, size)


def _cut(lse: NDArray[Any], output: NDArray[Any], first: int, stop: int) -> Pair:
    """Take segments, contiguous."""
    return (
        np.ascontiguousarray(lse[..., first:stop]),
        np.ascontiguousarray(output[..., first:stop, :]),
    )


def _tokens(batch: Any, length: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return unit and type of each token of one window, ``[K]`` each; frames have type 0."""
    if isinstance(batch, SpikeBatch):
        tokens = batch.tokens(length)
        return tokens.unit[0].astype(np.int64), tokens.type[0].astype(np.int64)
    unit = batch.tokens()[1][0]
    return unit, np.zeros_like(unit)


def _repeated(batch: SpikeBatch, count: int) -> SpikeBatch:
    """Return one window several times."""
    n = len(batch.times)
    several: dict[str, Any] = {
        name: None if value is None else np.repeat(value, count, 0)
        for name in ("session", "query_times", "window_units", "query_task")
        for value in [getattr(batch, name)]
    }
    return replace(
        batch,
        times=np.tile(batch.times, count),
        units=np.tile(batch.units, count),
        window=np.repeat(np.arange(count), n),
        **several,
    )

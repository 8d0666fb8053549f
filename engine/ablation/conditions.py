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

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..batches import Batch, SpikeBatch
from ..kernels.merge_partials import Pair, merge_kept, merge_nested
from ..runtime import Engine, Prediction
from .data import Data
from .plans import THIN, Plan

REPLACING = ("shuffle_time", "mean_rate")
AT_ONCE = 8  # windows: what a call costs by itself is then small beside what it does
THIN_AT_ONCE = 64  # rankings whose windows go through the encoder together


class Conditions:
    """Runs the conditions of a plan, window by window.

    Args:
        engine: The model.
        data: The windows.
        plan: What is removed.
        seed: Of replaced and thinned spikes.
        memory: Bytes that conditions may take at a time, beside the model and one window.

    Raises:
        AttendriteError: A method that the windows' kind of data does not have, or an executor that
            has no partial results.
    """

    def __init__(
        self, engine: Engine, data: Data, plan: Plan, seed: int, memory: int = 256 << 20
    ) -> None:
        self.engine, self.data, self.plan = engine, data, plan
        self._begins = plan.removed.shape[1] > 1 and not plan.removed[:, 0].any()
        self._rest = replace(plan, removed=plan.removed[:, 1:]) if self._begins else plan
        self._seed, self._memory = seed, memory
        if not isinstance(data.batch, SpikeBatch) and set(plan.methods) - {"remove"}:
            method = min(set(plan.methods) - {"remove"})
            raise errors.must("the method for fluorescence", "be remove", method)
        if plan.site == "units":  # an executor that cannot says so before work begins
            first = data.batch.part(0, 1)
            engine.partials(first, self._tokens(first)[0], len(plan.items))
        encoder = engine.sites[0]
        config = engine.manifest.config
        steps = len(np.arange(0, float(config["sequence_length"]), float(config["latent_step"])))
        rows = encoder.heads * steps * int(config["num_latents_per_step"])
        item = np.dtype(engine.array_dtype).itemsize
        self._each = item * rows * (encoder.width + 1)  # bytes of a condition

    def run(self, first: int, stop: int) -> list[NDArray[Any]]:
        """Return what is decoded in windows ``first..stop-1``, ``[P, C, q, d]`` each.

        Queries that are not there are left out. Where every curve begins with nothing removed, that
        is run once.
        """
        step = max(1, min(AT_ONCE, self._memory // (4 * self._each * len(self.plan.items))))
        found = []
        for window in range(first, stop, step):
            found += self._together(window, min(window + step, stop))
        return found

    def _together(self, first: int, stop: int) -> list[NDArray[Any]]:
        """Run some windows at once, where the method can."""
        parts: list[list[NDArray[Any]]] = [[] for _ in range(first, stop)]
        p = 0
        for method, some in groupby(self.plan.methods):
            q = p + len(list(some))
            step = 1 if method in (THIN, *REPLACING) else stop - first
            for window in range(first, stop, step):
                for found in self._of_method(window, window + step, p, q, method):
                    for each, own in zip(parts[window - first :], found, strict=False):
                        each.append(own)
            p = q
        return [self._whole(each) for each in parts]

    def _whole(self, parts: list[NDArray[Any]]) -> NDArray[Any]:
        """Join curves; all but the first lack the beginning that they share."""
        if self._begins:
            clean = parts[0][:, :1]
            rest = [np.concatenate([np.repeat(clean, len(x), 0), x], 1) for x in parts[1:]]
            parts = [parts[0], *rest]
        return np.concatenate(parts)

    def _parts(self, first: int, stop: int, each: int, most: int = sys.maxsize) -> Iterator[Plan]:
        """Cut curves into as many at a time as the memory holds, ``each`` bytes a condition.

        The first of all has the beginning that all others share, and comes alone.
        """
        if self._begins and first == 0:
            yield self.plan.part(0, 1)
            first = 1
        step = max(1, min(most, self._memory // (each * self.plan.removed.shape[1])))
        for p in range(first, stop, step):
            yield self._rest.part(p, min(p + step, stop))

    def blind(self, window: int) -> NDArray[Any] | None:
        """Return what is decoded from START and END alone, ``[q, d]``; no such thing for traces."""
        batch = self.data.batch.part(window, window + 1)
        if not isinstance(batch, SpikeBatch):
            return None
        none = replace(batch, times=batch.times[:0], units=batch.units[:0], window=batch.window[:0])
        found = self.engine.run(none).prediction
        if isinstance(found, dict):  # of the queries that are there alone
            return found[str(self.data.task)]
        answers: NDArray[Any] = found[0, self.data.asked[window]]
        return answers

    # ---- units ----

    def _of_method(
        self, first: int, stop: int, p: int, q: int, method: str
    ) -> Iterator[list[NDArray[Any]]]:
        """Decode windows ``first..stop-1`` under curves ``p..q-1``, some curves at a time."""
        batch, windows = self.data.batch.part(first, stop), stop - first
        if self.plan.site != "units":
            for part in self._parts(p, q, 4 * self._each * windows):
                masks = [sites(self.engine, part.site, kept) for kept in _masks(part)]
                yield self._answers(first, part, self.engine.masked(batch, masks))
        elif method == THIN:
            for part in self._parts(p, q, 4 * self._each, most=THIN_AT_ONCE):
                yield self._decoded(first, batch, part, self._thinned(first, batch, part))
        else:
            pieces = self._pieces(first, batch, method)
            for part in self._parts(p, q, 2 * self._each * windows):
                merged, falling = self._merged(part, method, *pieces)
                found = self._decoded(first, batch, part, merged)
                yield [each[:, ::-1] for each in found] if falling else found

    def _pieces(
        self, window: int, batch: Any, method: str
    ) -> tuple[NDArray[Any], NDArray[Any], Pair | None]:
        """Return what the encoder gives for each segment, and what is always kept."""
        if method in REPLACING:
            batch, segments, n = self._replaced(window, batch, method)
            segments = segments[None]
        else:
            segments, type_ = self._tokens(batch)
            n = len(self.plan.items)
            if method == "silence":
                segments, n = np.where(type_ == 0, segments, n), n + 1
        lse, output = self.engine.partials(batch, segments, n)
        if method == "remove":
            return lse, output, None
        return (*_cut(lse, output, 0, n - 1), _one(lse, output, n - 1))

    def _merged(
        self, part: Plan, method: str, lse: NDArray[Any], output: NDArray[Any], base: Pair | None
    ) -> tuple[NDArray[Any], bool]:
        """Merge the segments that conditions keep, ``[p, C, B, H, L, D]``.

        Nested ones come with the most removed first, and say so: no copy turns them round.
        """
        threads = self.engine.threads or 1
        if method in REPLACING or (part.removed != part.removed[0]).any():
            kept = _masks(part)
            if method in REPLACING:
                kept = np.hstack([kept, ~kept])
            found = merge_kept(lse, output, kept, base=base, threads=threads)[1]
            return found.reshape(*part.removed.shape, *found.shape[1:]), False
        size = len(part.items)
        order, cuts = part.order[:, ::-1], size - part.removed[0, ::-1]  # last removed, first in
        return merge_nested(lse, output, order, cuts, base=base, threads=threads)[1], True

    def _thinned(self, window: int, batch: Any, part: Plan) -> NDArray[Any]:
        """Remove spikes of random units, as many as the ranked ones: ``[p, C, 1, H, L, D]``."""
        type_ = self._tokens(batch)[1][0]
        counts = np.bincount(batch.units, minlength=len(batch.unit_ids))
        points = part.removed.shape[1]
        n = points + 1  # segments of spikes: gone from each point on, never gone; START and END
        segments = np.full((len(part.names), len(type_)), n)
        for row, draw in enumerate(part.draws.tolist()):
            gone = np.concatenate([[0], np.cumsum(counts[part.order[row]])])[part.removed[row]]
            rng = np.random.default_rng([self._seed, 1, draw, window])
            place = rng.permutation(len(batch.times))
            segments[row, type_ == 0] = np.searchsorted(gone, place, "right")
        parts = self.engine.partials(_repeated(batch, len(segments)), segments, n + 1)
        never_first, cuts = np.arange(n)[None, ::-1], np.arange(1, n)
        merged = [
            merge_nested(*_cut(lse, output, 0, n), never_first, cuts, base=_one(lse, output, n),
                         threads=self.engine.threads or 1)[1][0, ::-1]
            for lse, output in zip(*parts, strict=True)
        ]  # fmt: skip
        return np.stack(merged)[:, :, None]

    def _replaced(
        self, window: int, batch: SpikeBatch, method: str
    ) -> tuple[SpikeBatch, NDArray[np.int64], int]:
        """Add the spikes that take the place of removed ones: segment ``U + u``."""
        size = len(batch.unit_ids)
        length = self.engine.manifest.sequence_length
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

    def _decoded(
        self, first: int, batch: Batch, part: Plan, encoded: NDArray[Any]
    ) -> list[NDArray[Any]]:
        """Run what follows the encoder, from its output ``[p, C, B, H, L, D]``."""
        flat = np.ascontiguousarray(encoded).reshape(len(part), *encoded.shape[2:])
        return self._answers(first, part, self.engine.tails(batch, flat))

    def _answers(self, first: int, part: Plan, prediction: Prediction) -> list[NDArray[Any]]:
        """Take the queries that are there: by window ``[p, C, q, d]``."""
        if isinstance(prediction, dict):  # has those alone, one window's after the other's
            found = prediction[str(self.data.task)]
            counts = self.data.asked[first:].sum(1)
            ends = np.cumsum(counts)
            by_window = np.split(found, ends[ends < found.shape[1]], 1)
        else:
            asked = self.data.asked[first : first + prediction.shape[1]]
            by_window = [prediction[:, w, there] for w, there in enumerate(asked)]
        return [x.reshape(*part.removed.shape, *x.shape[1:]) for x in by_window]

    def _tokens(self, batch: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return unit and type of each token, ``[B, K]`` each; frames have type 0."""
        if isinstance(batch, SpikeBatch):
            tokens = batch.tokens(self.engine.manifest.sequence_length)
            return tokens.unit.astype(np.int64), tokens.type.astype(np.int64)
        unit = batch.tokens()[1]
        return unit, np.zeros_like(unit)


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


def _one(lse: NDArray[Any], output: NDArray[Any], segment: int) -> Pair:
    """Take one segment."""
    return lse[..., segment].copy(), output[..., segment, :].copy()


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

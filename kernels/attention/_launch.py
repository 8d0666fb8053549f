"""How the Triton kernels are launched: memory, sizes and grids for a call of attention."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import OVER_HEADS, Attention
from ._configs import FLOAT32, Config, config, parts, splits
from ._order import Order, begins, by_unit, elements
from ._problem import HALF, Problem
from ._triton.forward import forward, merge
from ._triton.partials import partials
from ._triton.sums import per_key, per_unit
from .reference import largest

MERGED = 16  # queries of a program of `merge`
UNITS, QUERIES = 8, 128  # of a tile of `per_unit`
SPLITS_FORWARD, SPLITS_PARTIALS = 2, 4  # programs for each multiprocessor
ALIGNED = 16  # bytes; what one load takes
WRITTEN = 1 << 27  # weights held at a time for `top_k` and over heads: 512 MiB
FROM_WEIGHTS = frozenset({"top_k", *OVER_HEADS})


def attend(p: Problem) -> Attention:
    """Run a problem whose arrays are none of them empty."""
    where = p.q.device
    on: AbstractContextManager[Any]
    on = torch.cuda.device(where) if where.type == "cuda" else nullcontext()
    with on:
        found = _Call(p).run()
        if not p.statistics & FROM_WEIGHTS:
            return found
        return Attention(found.output, {**found.statistics, **_from_weights(p)})


def _from_weights(p: Problem) -> dict[str, Tensor]:
    """Return what needs weights: written out for some queries at a time."""
    lengths = p.lengths if p.cu_seqlens is None else p.cu_seqlens.diff()
    longest = p.longest()
    exists = torch.ones(1, 1, 1, longest, dtype=torch.bool, device=p.q.device)
    if lengths is not None:
        exists = torch.arange(longest, device=p.q.device) < lengths[:, None, None, None]
    step = max(1, WRITTEN // (p.q.shape[0] * p.q.shape[1] * max(1, longest)))
    found: dict[str, list[Tensor]] = {}
    for at in range(0, p.q.shape[2], step):
        phase = p.query_phase if p.query_phase is None else p.query_phase[:, at : at + step]
        some = replace(p, q=p.q[:, :, at : at + step], query_phase=phase, query_weights=None)
        run = _Call(replace(some, statistics=frozenset({"weights"}))).run()
        weights = run.statistics["weights"]
        here = {"weights_mean": weights.mean(1), "weights_max": weights.amax(1)}
        here = {name: x for name, x in here.items() if name in p.statistics}
        if "top_k" in p.statistics:
            here["top_k.weight"], here["top_k.key"] = largest(weights, exists, p.top_k)
        for name, x in here.items():
            found.setdefault(name, []).append(x)
    return {name: torch.cat(x, 1 if name in OVER_HEADS else 2) for name, x in found.items()}


def aligned(x: Tensor) -> Tensor:
    """Return rows that begin at multiples of 16 bytes, copied and padded with 0 if need be."""
    each = ALIGNED // x.element_size()
    # a broadcast axis has stride 0, and the stride of an axis of length 1 says nothing
    strides = [s for s, n in zip(x.stride()[:3], x.shape[:3], strict=True) if n > 1]
    whole = not any(n % each for n in (*strides, x.shape[3]))
    if whole and x.stride(3) == 1 and x.data_ptr() % ALIGNED == 0:
        return x
    return F.pad(x, (0, -x.shape[3] % each)).contiguous()


class _Call:
    """One call; ``arguments`` are those of all kernels by name."""

    def __init__(self, p: Problem) -> None:
        self.p = p
        self.batch, self.heads, self.n_queries = p.q.shape[:3]
        self.n_keys = p.k.shape[2] if p.rows is None else p.rows.shape[1]
        self.units = bool(p.statistics & {"per_unit", "per_query_unit"})
        self.keys = bool(p.statistics & {"per_key", "weights"})
        self.scale = p.scale
        q, k, v = aligned(p.q), aligned(p.k), aligned(p.v)
        if self.scale <= 0:  # the maximum of scores is taken before they are scaled
            q, self.scale = (-q, -self.scale) if self.scale < 0 else (torch.zeros_like(q), 1.0)
        self.bytes_each = q.element_size()
        self.arguments: dict[str, Any] = {}
        self._add_sizes(q, k, v)
        self._add_keys(q)

    def _add_sizes(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        p = self.p
        (d1, d2), (v1, v2) = parts(k.shape[3]), parts(v.shape[3])
        self.width, self.value_width = max(d1 + d2, v1 + v2), v1 + v2
        turning = 0 if p.query_phase is None else p.query_phase.shape[3]
        shared = p.rows is not None or p.cu_seqlens is not None  # one array for all elements
        self.arguments |= {
            "q": q, "q_b": q.stride(0), "q_h": q.stride(1), "q_n": q.stride(2),
            "k": k, "k_b": 0 if shared else k.stride(0), "k_h": k.stride(1), "k_n": k.stride(2),
            "v": v, "v_b": 0 if shared else v.stride(0), "v_h": v.stride(1), "v_n": v.stride(2),
            "heads": self.heads, "n_queries": self.n_queries, "n_keys": self.n_keys,
            "n_units": p.n_units, "scale": self.scale / math.log(2),
            "D": k.shape[3], "D1": d1, "D2": d2, "DV": v.shape[3], "V1": v1, "V2": v2,
            "OUT": p.v.shape[3],
            "F": turning, "FV": turning if p.rotate_values else 0,
            # half precision has one way; the interpreter knows no bf16x6
            "PRECISION": "tf32" if q.dtype in HALF else FLOAT32 if q.is_cuda else "ieee",
        }  # fmt: skip

    def _add_keys(self, q: Tensor) -> None:
        """Add what keys and queries have besides features; ``q`` is for what is not followed."""
        p, packed = self.p, self.p.cu_seqlens is not None
        a = self.arguments
        a |= dict.fromkeys(("lengths", "position", "row", "slot", "offsets", "query_weights"), q)
        a |= dict.fromkeys(("query_time", "key_time", "q_phase", "k_phase"), q)
        a |= {"KEYS": "all", "SORTED": False, "TABLE": p.rows is not None}
        a |= {"key_time_b": 0 if packed else self.n_keys, "q_phase_b": 0, "k_phase_b": 0}
        for name, x in (("lengths", p.lengths), ("packed", p.cu_seqlens)):
            if x is not None:
                a |= {"lengths": x.contiguous(), "KEYS": name}
        if p.rows is not None:
            a["row"] = p.rows.reshape(-1)
        if p.query_phase is not None and p.key_phase is not None:
            for name, x in (("q_phase", p.query_phase), ("k_phase", p.key_phase)):
                each = 0 if len(x) == 1 else x.shape[1]  # rows of an element
                a |= {name: x.contiguous(), f"{name}_b": each}
        if p.query_weights is not None:
            a["query_weights"] = p.query_weights.float().contiguous()
        if "lag" in p.statistics and p.query_times is not None and p.key_times is not None:
            # from the first key on: float32 has no digits for seconds since long ago
            times = p.key_times.reshape(-1)
            zero = times[begins(p).clamp(max=len(times) - 1)]  # [B]
            a["query_time"] = (p.query_times - zero[:, None]).float().contiguous()
            a["key_time"] = (times - zero[elements(p)]).float()

    def run(self) -> Attention:
        """Launch what the statistics need."""
        p, a, wanted = self.p, self.arguments, self.p.statistics
        kind = self._kind()
        cut = config(kind, self.bytes_each, self.width, self.n_queries)
        a |= {"BQ": cut.queries, "BK": cut.keys}
        rows = (self.batch, self.heads, self.n_queries)
        # heads beside each other: the layer's next product reads [B, Q, H Dv] without a copy
        out = p.q.new_empty(self.batch, self.n_queries, self.heads, p.v.shape[3]).transpose(1, 2)
        final = self._empty(2, *rows) if self.units or self.keys else None
        found: dict[str, Tensor] = {
            n: self._empty(*rows) for n in ("lse", "entropy", "lag") if n in wanted
        }
        a |= {"out": out, "o_b": out.stride(0), "o_h": out.stride(1), "o_n": out.stride(2)}
        a |= {n: found.get(n, out) for n in ("lse", "entropy", "lag")}
        a |= {n.upper(): n in wanted for n in ("lse", "entropy", "lag")}
        a |= {"final": out if final is None else final, "final_n": math.prod(rows)}
        a |= {"FINAL": final is not None, "UNITS": self.units, "sums": out, "tile_max": out}
        a |= {"n_slots": 0, "n_tiles": 0, "WEIGHTED": p.query_weights is not None}
        if self.units or kind == "partials":
            self._sort(by_unit(p, cut.keys), whole=kind == "partials")
        if kind == "partials":
            found |= self._partials(cut)
        else:
            self._forward(cut)
        if self.units:
            found |= self._per_unit(whole=kind == "partials")
        if self.keys:
            found |= self._per_key()
        return Attention(out, found)

    def _kind(self) -> str:
        wanted = self.p.statistics
        if "partials" in wanted:
            return "partials"
        if wanted & {"entropy", "lag"}:
            return "rich"
        return "units" if self.units or self.p.query_phase is not None else "forward"

    def _sort(self, order: Order, *, whole: bool) -> None:
        """Take the keys by unit; ``whole``: a unit is not cut into tiles."""
        a = self.arguments
        a |= {"SORTED": True, "position": order.position, "offsets": order.offsets}
        a |= {"slot": order.slot, "n_slots": order.n_slots, "n_tiles": order.n_tiles}
        if self.p.rows is not None:
            a["row"] = self.p.rows.reshape(-1)[order.index]
        if whole:
            a |= dict.fromkeys(("n_slots", "n_tiles"), self.batch * (self.p.n_units + 1))
        if self.units:
            for name, size in (("sums", "n_slots"), ("tile_max", "n_tiles")):
                a[name] = self._empty(self.heads, a[size], self.n_queries)

    def _forward(self, cut: Config) -> None:
        n_programs = self._blocks(cut.queries) * self.batch * self.heads
        packed = self.p.cu_seqlens is not None
        keys = -(-self.n_keys // self.batch) if packed else self.n_keys  # on average
        n_splits = splits(n_programs, -(-keys // cut.keys), SPLITS_FORWARD)
        self._split(n_splits)
        self.arguments["SPLIT"] = n_splits > 1
        self._launch(forward, n_programs * n_splits, cut)
        if n_splits > 1:
            self._merge()

    def _partials(self, cut: Config) -> dict[str, Tensor]:
        p, a = self.p, self.arguments
        units = (self.batch, self.heads, p.n_units, self.n_queries)
        lse, out = self._empty(*units), self._empty(*units, p.v.shape[3])
        n_programs = self._blocks(cut.queries) * self.batch * self.heads
        n_splits = splits(n_programs, p.n_units + 1, SPLITS_PARTIALS)
        self._split(n_splits)
        a |= {"unit_lse": lse, "unit_out": out}
        self._launch(partials, n_programs * n_splits, cut)
        self._merge()
        return {"partials.lse": lse.transpose(2, 3), "partials.output": out.transpose(2, 3)}

    def _split(self, n_splits: int) -> None:
        rows = self.batch * self.heads * n_splits * self.n_queries
        size = rows if n_splits > 1 or "partials" in self.p.statistics else 0
        self.arguments |= {"n_splits": n_splits, "state_n": rows}
        self.arguments |= {"state": self._empty(4, size)}
        self.arguments |= {"parts": self._empty(size, self.value_width)}

    def _merge(self) -> None:
        count = self._blocks(MERGED) * self.batch * self.heads
        self._launch(merge, count, Config(MERGED, 0, 4, 1), BQ=MERGED)

    def _per_unit(self, *, whole: bool) -> dict[str, Tensor]:
        p, a = self.p, self.arguments
        by_query = self._empty(self.batch, self.heads, p.n_units, self.n_queries)
        total = self._empty(self.batch, self.heads, p.n_units)
        a |= {"unit_sums": total, "query_unit_sums": by_query, "WHOLE": whole}
        a |= {"UNIT": "per_unit" in p.statistics, "QUERY_UNIT": "per_query_unit" in p.statistics}
        count = -(-p.n_units // UNITS) * self.batch * self.heads
        if count:
            a["weights"] = a["query_weights"]
            self._launch(per_unit, count, Config(QUERIES, 0, 4, 1), BQ=QUERIES, BU=UNITS)
        found = {"per_unit": total, "per_query_unit": by_query.transpose(2, 3)}
        return {n: x for n, x in found.items() if n in p.statistics}

    def _per_key(self) -> dict[str, Tensor]:
        p, longest = self.p, self.p.longest()
        cut = config("keys", self.bytes_each, self.width, self.n_queries)
        rows = (self.batch, self.heads, self.n_queries)
        weights = self._empty(*rows, longest if "weights" in p.statistics else 0)
        total = self._empty(self.batch, self.heads, longest)
        row = self.arguments["row"] if p.rows is None else p.rows.reshape(-1)
        self._launch(
            per_key, -(-longest // cut.keys) * self.batch * self.heads, cut,
            row=row, longest=longest, key_sums=total, weights=weights,
            KEY="per_key" in p.statistics, WEIGHTS="weights" in p.statistics,
            BQ=cut.queries, BK=cut.keys,
        )  # fmt: skip
        return {n: x for n, x in (("per_key", total), ("weights", weights)) if n in p.statistics}

    def _launch(self, kernel: Any, count: int, cut: Config, **more: Any) -> None:
        arguments = self.arguments | more
        kernel[(count,)](
            **{name: arguments[name] for name in kernel.arg_names},
            num_warps=cut.warps, num_stages=cut.stages, enable_fp_fusion=True,
        )  # fmt: skip

    def _blocks(self, size: int) -> int:
        return -(-self.n_queries // size)

    def _empty(self, *shape: int) -> Tensor:
        return self.p.q.new_empty(shape, dtype=torch.float32)

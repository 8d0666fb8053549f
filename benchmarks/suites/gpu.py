"""Everything that has a CUDA row: attention with statistics beside torch's, and whole windows.

``python benchmarks/run.py gpu --json FILE``, for ten minutes at most on one H200. Work is captured
as a CUDA graph and its replays are timed by events, so what the device does is compared, not how
fast Python launches it. Who cannot run, or is further from float64 than the rule allows, is named
and left out. With ``--quick`` tiny inputs run on the CPU where there is no device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from attendrite.kernels.attention import OPERATION, attention, request
from cuda import Graph, meter
from timing import Case, Contestant
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from run import Options

SIZES = {  # B, H, Q, K, D, U; letters as in suite `attention`, batches of what a GPU is bought for
    "A": (64, 2, 128, 2048, 64, 100),  # cross-attention of POYO: small,
    "B": (64, 8, 256, 10000, 32, 200),  # medium,
    "C": (16, 8, 512, 50000, 64, 1000),  # and large
    "D": (64, 8, 512, 512, 64, 0),  # its latents
    "E": (64, 4, 1654, 1654, 155, 0),  # V1T
}
QUICK = {"A": (2, 2, 17, 63, 64, 5), "D": (2, 2, 17, 17, 64, 0), "E": (1, 1, 9, 9, 155, 0)}
FLOAT32 = ("B", "D")  # timed in float32 too
BY_UNIT = ((), ("lse", "per_unit"), ("lse", "per_query_unit"), ("per_key",), ("entropy", "lse"))
BY_KEY = ((), ("lse",), ("per_key",), ("entropy", "lse"))
JUDGED = 2  # heads of the first element that are compared with the reference


def cases(options: Options) -> Iterator[Case]:
    """Yield ``gpu/attention/{A..E}`` and ``gpu/decode/...``."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.quick:
        print("gpu must run where there is a CUDA device, got none; try --quick", file=sys.stderr)
        raise SystemExit(2)
    from suites._gpu_decode import cases as decode

    for name, sizes in (QUICK if options.quick else SIZES).items():
        yield Task(f"gpu/attention/{name}", sizes, torch.bfloat16, device).case
        if name in FLOAT32:
            yield Task(f"gpu/attention/{name}_float32", sizes, torch.float32, device).case
    yield from decode(options.quick, device)


@dataclass
class Task:
    """One shape and dtype; inputs are made when they are needed.

    Attributes:
        name: Of the case.
        sizes: ``B, H, Q, K, D, U``.
        dtype: Of queries, keys and values.
        device: ``"cuda"``, or ``"cpu"`` to see that everything runs.
    """

    name: str
    sizes: tuple[int, ...]
    dtype: torch.dtype
    device: str

    @property
    def case(self) -> Case:
        """The case with everybody who takes part."""
        batch, heads, n_queries, n_keys, width, n_units = self.sizes
        work = 4 * batch * heads * n_queries * n_keys * width / 1e6
        case = Case(self.name, work, "flop", batch=batch)
        for statistics in BY_UNIT if n_units else BY_KEY:
            self._add(case, *self._ours(statistics))
        for name in ("flash", "cudnn", "efficient"):
            self._add(case, f"torch_sdpa_{name}", partial(self._sdpa, name))
        self._add(case, f"torch_eager+{'per_unit' if n_units else 'per_key'}", self._eager)
        return case

    def _add(self, case: Case, name: str, call: Callable[[], Any]) -> None:
        """Let somebody take part who can, and who is right."""
        most = self._bounds["output"]
        try:
            graph = Graph(call, self.device)
            if not (off := self._error(graph())) <= most:
                raise RuntimeError(f"the error is {off:.2g}, at most {most:.2g} allowed")
        except Exception as error:
            reason = str(error).partition("\n")[0][:120]
            case.skipped[name] = f"{type(error).__name__}: {reason}"
            return
        case.contestants.append(
            Contestant(
                name, graph, self._error, tolerance=most, meter=meter(self.device),
                dtype=str(self.dtype).removeprefix("torch."), packages=("torch", "triton"),
            )
        )  # fmt: skip

    def _ours(self, statistics: tuple[str, ...]) -> tuple[str, Callable[[], Any]]:
        kind = request(self.device, self.dtype, self.sizes[4], self.sizes[4], statistics)
        backend = OPERATION.choose(**kind).__name__.rpartition(".")[2]

        def call() -> dict[str, Tensor]:
            found = attention(
                *self._inputs, statistics=statistics, units=self._units, n_units=self.sizes[5],
                backend=backend,
            )  # fmt: skip
            return {"output": found.output, **found.statistics}

        return "+".join((f"attendrite:{backend}", *statistics)), call

    def _sdpa(self, name: str) -> dict[str, Tensor]:
        """Attend by one of torch's backends; it refuses where it cannot."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        backends = {
            "flash": SDPBackend.FLASH_ATTENTION,
            "cudnn": SDPBackend.CUDNN_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION,
        }
        with sdpa_kernel([backends[name]]):
            return {"output": F.scaled_dot_product_attention(*self._inputs)}

    def _eager(self) -> dict[str, Tensor]:
        """Attend as it is written in papers, and sum the weights."""
        return plain(*self._inputs, self._member)

    @cached_property
    def _inputs(self) -> tuple[Tensor, ...]:
        """``q``, ``k`` and ``v``, laid out as a projection leaves them, ``[B, N, H, D]``."""
        batch, heads, n_queries, n_keys, width, _ = self.sizes
        chance = torch.Generator(self.device).manual_seed(0)
        shapes = [(batch, n, heads, width) for n in (n_queries, n_keys, n_keys)]
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        return tuple(torch.randn(s, generator=chance, **options).transpose(1, 2) for s in shapes)

    @cached_property
    def _units(self) -> Tensor:
        """Unit of each key, in no order, ``[B, K]``."""
        chance = torch.Generator(self.device).manual_seed(1)
        shape, most = (self.sizes[0], self.sizes[3]), max(1, self.sizes[5])
        return torch.randint(0, most, shape, generator=chance, device=self.device)

    @cached_property
    def _member(self) -> Tensor:
        """1 where a key belongs to a unit, ``[B, K, U]``."""
        units = torch.arange(self.sizes[5], device=self.device)
        return (self._units[..., None] == units).to(self.dtype)

    @cached_property
    def _judged(self) -> tuple[Tensor, ...]:
        return tuple(x[:1, :JUDGED] for x in self._inputs)

    @cached_property
    def _truth(self) -> dict[str, Tensor]:
        """What the reference finds in float64 for some heads of the first element."""
        found = attention(
            *(x.double() for x in self._judged),
            statistics=("lse", "per_key", "entropy", "per_query_unit", "per_unit"),
            units=self._units[:1],
            n_units=self.sizes[5],
            backend="reference",
        )
        return {"output": found.output, **found.statistics}

    @cached_property
    def _bounds(self) -> dict[str, float]:
        """Largest errors allowed: twice those of plain torch in the dtype, and 1e-6."""
        rough = plain(*self._judged, self._member[:1])
        return {
            name: 2 * worst(rough[name], exact) + 1e-6 * max(1.0, largest(exact))
            for name, exact in self._truth.items()
        }

    def _error(self, found: dict[str, Tensor]) -> float:
        """Return the largest error of the output; infinite if that of a statistic is too large."""
        off = {name: worst(x[:1, :JUDGED], self._truth[name]) for name, x in found.items()}
        wrong = [
            name for name, x in off.items() if name != "output" and not x <= self._bounds[name]
        ]
        return float("inf") if wrong else off["output"]


def largest(x: Tensor) -> float:
    """Return the largest absolute value; 0 where there is none."""
    return float(x.abs().max()) if x.numel() else 0.0


def worst(found: Tensor, exact: Tensor) -> float:
    """Return the largest absolute difference."""
    return largest(found.double() - exact)


def plain(q: Tensor, k: Tensor, v: Tensor, member: Tensor) -> dict[str, Tensor]:
    """Attend in the dtype of the inputs, with all weights; of one element every statistic."""
    scores = q @ k.mT * q.shape[3] ** -0.5
    weights = scores.softmax(-1)
    found = {"output": weights @ v, "per_key": weights.sum(2)}
    found["per_unit"] = found["per_key"] @ member
    if len(q) == 1:
        found["lse"] = scores.logsumexp(-1)
        found["entropy"] = -torch.special.xlogy(weights, weights).sum(-1)
        found["per_query_unit"] = weights @ member[:, None]
    return found

"""Other tile sizes for the Triton kernels: ``python benchmarks/tune_attention.py [KERNEL ...]``.

Measures each entry of the table in ``kernels/attention/_configs.py`` beside its neighbours on a GPU
and prints the best one as a line of the table. Most of the time is the compiler's, about a minute
for each entry.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from attendrite.kernels.attention import _configs, attention
from attendrite.kernels.attention._configs import Config
from cuda import Graph, meter
from torch import Tensor

ASKED = {
    "forward": (), "units": ("per_unit",), "rich": ("per_unit", "entropy"),
    "partials": ("partials",), "keys": ("per_key",),
}  # fmt: skip


def tune(kernels: Sequence[str]) -> None:
    """Print the best configuration of each entry.

    Args:
        kernels: Names of ``_configs.KERNELS``; empty: all.
    """
    for key, current in list(_configs.TABLE.items()):
        if kernels and key[0] not in kernels:
            continue
        call, times = workload(*key), {}
        for cut in candidates(current):
            _configs.TABLE[key] = cut
            try:
                graph = Graph(call, "cuda")
                times[cut] = min(meter("cuda").seconds(graph) for _ in range(10)) * 1e3
            except Exception as error:  # too large for the machine, or for the compiler
                print(f"# {key} {tuple(cut)}: {type(error).__name__}", flush=True)
        _configs.TABLE[key] = best = min(times, key=lambda cut: times[cut], default=current)
        taken, was = (times.get(cut, float("nan")) for cut in (best, current))
        print(f"    {key}: Config{tuple(best)},  # {taken:.3f} ms, was {was:.3f}", flush=True)


def candidates(current: Config) -> Iterator[Config]:
    """Yield a configuration and its neighbours."""
    yield current
    for queries in (64, 128):
        for keys in (16, 32, 64, 128):
            for warps in (4, 8):
                for stages in (2, 3):
                    cut = Config(queries, keys, warps, stages)
                    if cut != current and queries // warps <= 32 and queries * keys >= 1024:
                        yield cut


def workload(kernel: str, bytes_each: int, width: int) -> Callable[[], Any]:
    """Return a call that spends its time in one kernel."""
    chance = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape, generator=chance, device="cuda", dtype=dtype)

    dtype = {2: torch.bfloat16, 4: torch.float32}[bytes_each]
    q, k, v = (normal(16, 8, n, width, dtype=dtype) for n in (512, 4096, 4096))
    units = torch.randint(0, 100, (16, 4096), generator=chance, device="cuda")
    options: dict[str, Any] = {"units": units, "n_units": 100}
    if kernel in ("units", "rich", "partials"):
        for name, n in (("query_phase", 512), ("key_phase", 4096)):
            options[name] = normal(1, n, 2, width // 4, dtype=torch.float32)
    return partial(attention, q, k, v, statistics=ASKED[kernel], backend="triton", **options)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        print("tuning must run where there is a CUDA device, got none", file=sys.stderr)
        sys.exit(2)
    tune(sys.argv[1:])

"""Run by test_attention_triton.py in a process of its own: compile the Triton kernels for sm_90.

Needs no GPU. Prints a JSON line for each variant: what it takes of a multiprocessor, by the
cuobjdump that triton brings, and how many tensor-core instructions there are.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from attendrite.kernels.attention._configs import FLOAT32, TABLE, Config, config, parts
from attendrite.kernels.attention._triton.forward import forward, merge
from attendrite.kernels.attention._triton.partials import partials
from attendrite.kernels.attention._triton.sums import per_key, per_unit
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
NUMBERS = ("q", "k", "v", "out")
FLOAT32S = (
    "q_phase", "k_phase", "query_time", "key_time", "lse", "entropy", "lag", "final", "state",
    "parts", "sums", "tile_max", "unit_lse", "unit_out", "unit_sums", "query_unit_sums",
    "query_weights", "weights", "key_sums",
)  # fmt: skip
INDICES = {"lengths": "*i64", "row": "*i64", "position": "*i32", "slot": "*i32", "offsets": "*i32"}
STRIDES = [f"{x}_{axis}" for x in "qkvo" for axis in "bhn"]
SIZES = (
    "heads", "n_queries", "n_keys", "n_splits", "n_units", "n_slots", "n_tiles", "final_n",
    "state_n", "longest", "q_b", "q_h", "q_n", "k_b", "k_h", "k_n", "v_b", "v_h", "v_n", "o_b",
    "o_h", "o_n", "q_phase_b", "k_phase_b", "key_time_b",
)  # fmt: skip
KERNELS = {
    "forward": forward, "units": forward, "rich": forward, "partials": partials, "keys": per_key,
    "merge": merge, "per_unit": per_unit,
}  # fmt: skip


def constants(kind: str, width: int, bytes_each: int) -> dict[str, Any]:
    """Return the constants of the variant that needs most: all options that ``kind`` may have."""
    d1, d2 = parts(width)
    several, units = kind not in ("forward", "units"), kind != "forward"
    turning = width // 4 if units else 0
    return {
        "D": width, "DV": width, "OUT": width, "D1": d1, "D2": d2, "V1": d1, "V2": d2,
        "F": turning, "FV": turning, "KEYS": "packed", "SORTED": units, "TABLE": units,
        "LSE": True, "ENTROPY": several, "LAG": several, "UNITS": units, "FINAL": True,
        "SPLIT": False, "WEIGHTED": True, "WHOLE": False, "UNIT": True, "QUERY_UNIT": True,
        "KEY": True, "WEIGHTS": True, "PRECISION": "tf32" if bytes_each == 2 else FLOAT32,
        "BU": 8,
    }  # fmt: skip


def compiled(kind: str, width: int, bytes_each: int, cut: Config, **changed: Any) -> Any:
    """Compile one variant; rows begin at multiples of 16 bytes, as ``aligned`` makes them."""
    kernel = KERNELS[kind]
    types = dict.fromkeys(NUMBERS, {2: "*bf16", 4: "*fp32"}[bytes_each])
    types |= dict.fromkeys(FLOAT32S, "*fp32") | INDICES | dict.fromkeys(SIZES, "i32")
    types["scale"] = "fp32"
    values = constants(kind, width, bytes_each) | {"BQ": cut.queries, "BK": cut.keys} | changed
    names = kernel.arg_names
    wide = [i for i, n in enumerate(names) if types.get(n, "")[:1] == "*" or n in STRIDES]
    source = ASTSource(
        fn=kernel,
        signature={n: types.get(n, "constexpr") for n in names},
        constexprs={(i,): values[n] for i, n in enumerate(names) if n not in types},
        attrs={(i,): [["tt.divisibility", 16]] for i in wide},
    )
    options = {"num_warps": cut.warps, "num_stages": cut.stages, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def resources(binary: Any) -> dict[str, int]:
    """Return registers, stack and shared bytes, and counts of tensor-core instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(n) for name, n in re.findall(r"(REG|STACK):(\d+)", shown)}
    ptx = binary.asm["ptx"]
    return {
        "registers": found["REG"], "stack": found["STACK"], "shared": binary.metadata.shared,
        "wgmma": ptx.count("wgmma.mma_async"), "mma": ptx.count("mma.sync"),
        "copies": ptx.count("cp.async.c"),
    }  # fmt: skip


def variants(quick: bool) -> Iterator[tuple[str, int, int, Config, dict[str, Any]]]:
    """Yield kernel, width, bytes and configuration; ``quick``: heads 64 wide in bfloat16."""
    for (kind, bytes_each, width), cut in TABLE.items():
        if not quick or (bytes_each, width) == (2, 64):
            yield kind, 160 if width == 192 else width, bytes_each, cut, {}
    if not quick:
        yield "rich", 64, 2, TABLE["rich", 2, 64], {"SPLIT": True}
        yield "units", 64, 2, config("units", 2, 64, 16), {}  # few queries
        for width in (64, 256):
            yield "forward", width, 2, TABLE["forward", 2, width], {"TABLE": True}
        yield "units", 64, 4, config("units", 4, 64, 16), {}
    yield "merge", 64, 2, Config(16, 0, 4, 1), {}
    yield "merge", 160, 2, Config(16, 0, 4, 1), {}
    yield "per_unit", 64, 2, Config(128, 64, 4, 1), {}


if __name__ == "__main__":
    for kind, width, bytes_each, cut, changed in variants("--quick" in sys.argv):
        used = resources(compiled(kind, width, bytes_each, cut, **changed))
        label = f"{kind} {width} wide, {bytes_each} bytes, {tuple(cut)} {changed or ''}"
        print(json.dumps({"variant": label, "bytes": bytes_each, "queries": cut.queries, **used}))

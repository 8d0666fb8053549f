"""One POYO window at a time on a GPU: the whole forward pass as one CUDA graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from attendrite import AttendriteError, Capture, Engine, models
from attendrite.batches import SpikeBatch
from attendrite.bundle import Bundle, Manifest
from cuda import meter
from timing import Case, Contestant, Meter

SMALL = {  # the shape of POYO called 1.3M
    "num_latents_per_step": 16, "dim": 64, "dim_head": 64, "depth": 6, "cross_heads": 2,
    "self_heads": 8, "sequence_length": 1.0, "latent_step": 0.125,
}  # fmt: skip
LARGE = SMALL | {"num_latents_per_step": 32, "dim": 128, "depth": 24, "cross_heads": 4}  # 11.8M
TINY = SMALL | {"dim": 16, "dim_head": 16, "depth": 1, "self_heads": 2}
QUERIES = 50
ROUNDING = 1e-3  # of the spread of the prediction: six layers of float32, or 24


def cases(quick: bool, device: str) -> Iterator[Case]:
    """Yield one window of 100 units at 10 Hz, and of 1000 units at 20 Hz, of both models."""
    shapes = {"poyo_small": TINY} if quick else {"poyo_small": SMALL, "poyo_large": LARGE}
    for name, config in shapes.items():
        for n_units, rate_hz in ((100, 10.0),) if quick else ((100, 10.0), (1000, 20.0)):
            yield case(name, n_units, rate_hz, config, device)


def case(name: str, n_units: int, rate_hz: float, config: dict[str, Any], device: str) -> Case:
    """Return the forward pass of one window, captured and not, with and without statistics.

    ``triton`` takes tensors on the CPU and gives such, timed by the clock; ``triton+replay`` is the
    graph alone and ``torch`` the same work launched piece by piece, both timed on the device.
    """
    bundle, batch = model(n_units, config), window(n_units, rate_hz)
    exact = Engine(bundle, executor="reference", dtype="float64").run(batch).prediction
    found = Case(f"gpu/decode/{name}/{n_units}u_{rate_hz:g}hz/b1", 1e-6, "windows")

    def error(prediction: Any) -> float:
        off = np.abs(prediction.double().cpu().numpy() - exact).max()
        return float(off / np.std(exact))

    def add(name: str, call: Callable[[], Any], meter: Meter) -> None:
        found.contestants.append(
            Contestant(
                f"attendrite:{name}", call, error, tolerance=ROUNDING, dtype="float32",
                packages=("torch", "triton"), meter=meter,
            )
        )  # fmt: skip

    for statistics in ([], ["per_unit"]):
        suffix = "".join(f"+{statistic}" for statistic in statistics)
        for executor in ("triton", "torch"):
            try:
                engine = Engine(bundle, executor=executor, device=device)
            except AttendriteError as refusal:
                found.skipped[f"attendrite:{executor}{suffix}"] = str(refusal)
                continue
            plan = Capture({"encoder": statistics} if statistics else {}).plan(engine.sites)
            call = partial(forward, engine, engine.model.inputs(batch), plan)
            if executor == "torch":
                add(f"torch{suffix}", call, meter(device))
                continue
            add(f"triton{suffix}", call, Meter())
            call()
            (graph,) = engine._executor._graphs.values()
            add(f"triton+replay{suffix}", partial(replayed, graph), meter(device))
    return found


def forward(engine: Engine, inputs: Any, plan: Any) -> torch.Tensor:
    """Run tokens that are where the executor wants them."""
    with torch.inference_mode():
        prediction, _ = engine._executor.run(inputs, plan)
    assert isinstance(prediction, torch.Tensor)
    return prediction


def replayed(graph: Any) -> torch.Tensor:
    """Replay a graph on what it was given last; its first result is the prediction."""
    with torch.inference_mode():
        graph._replay()
    prediction: torch.Tensor = graph._found.there[0]
    return prediction


def model(n_units: int, config: dict[str, Any]) -> Bundle:
    """Return a POYO with random weights of the size of trained ones."""
    units = {f"u{i}": i + 1 for i in range(n_units)}
    manifest = Manifest("poyo", "random", config, units, {"s": 1})
    rows = {"unit_emb": n_units + 1, "session_emb": 2, "latent_emb": config["num_latents_per_step"]}
    tables = {f"{name}.weight": torch.zeros(n, config["dim"]) for name, n in rows.items()}
    tables["readout.weight"] = torch.zeros(2, config["dim"])
    chance = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in models.load("poyo").shapes(manifest, tables).items():
        scale = 1.0 if "emb" in name else shape[-1] ** -0.5
        weights[name] = torch.randn(shape, generator=chance) * scale
        if ".norm" in name and name.endswith("weight"):
            weights[name] = torch.ones(shape)
    half = config["dim_head"] // 4  # the other half of a head does not turn
    periods = torch.logspace(-4, math.log10(2.0), half, dtype=torch.float64)
    weights["rotary_emb.omega"] = torch.cat([2 * math.pi / periods, torch.zeros(half)])
    return Bundle(manifest, weights)


def window(n_units: int, rate_hz: float) -> SpikeBatch:
    """Return one second of spikes at random times."""
    chance = np.random.default_rng(0)
    times = np.sort(chance.random(round(n_units * rate_hz)))
    return SpikeBatch(
        times=times,
        units=chance.integers(0, n_units, times.size),
        window=np.zeros(times.size, np.int64),
        unit_ids=np.array([f"u{i}" for i in range(n_units)]),
        session=np.array(["s"]),
        query_times=np.linspace(0.0, 1.0, QUERIES)[None],
    )

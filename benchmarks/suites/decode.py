"""POYO windows, from tokens to the decoded value: ours, torch_brain's code, and ONNX of both.

Shapes of the published models, random weights: ``poyo_small`` (1.3 M parameters) and ``poyo_large``
(11.8 M). Windows of 1 s, queries at 20 times; 100 units at 10 Hz, 500 at 10 Hz, 1000 at 20 Hz. All
start from tensors of tokens; ``+tokens`` of ours starts from the spikes. Every prediction is held
against our reference in float64, whose parity with torch_brain the tests hold. Cases ``processor``
have next to no tokens and one query, so that the layers between latents are what is timed; beside
``decode/peak`` their throughput is a share of what one core can do.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attendrite
import numpy as np
import torch
from attendrite import Capture, Engine, SpikeBatch, executors
from attendrite.verification import FACTOR, FLOOR, GRIDS, RoundedLayers
from fma_peak import peak
from peers import join
from timing import Case, Contestant

if TYPE_CHECKING:
    from run import Options

MODELS = {
    "poyo_small": {"dim": 64, "depth": 6, "cross_heads": 2, "num_latents_per_step": 16},
    "poyo_large": {"dim": 128, "depth": 24, "cross_heads": 4, "num_latents_per_step": 32},
}
COMMON = {"sequence_length": 1.0, "latent_step": 0.125, "dim_head": 64, "self_heads": 8}
POPULATIONS = {"100u_10hz": (100, 10.0), "500u_10hz": (500, 10.0), "1000u_20hz": (1000, 20.0)}
BATCHES = (1, 32)
QUERIES = 20
STATISTICS = {"encoder": "per_unit", "processor.*": ["per_key", "entropy", "lse"],
              "decoder": ["per_key", "entropy", "lse"]}  # fmt: skip
TOLERANCE = 2e-5


def cases(options: Options) -> Iterator[Case]:
    """Yield ``decode/peak``, ``decode/<model>/processor``, ``decode/<model>/<population>/b<n>``."""
    if options.wants("decode/peak"):
        yield peak("decode/peak", options.quick)
    for name, sizes in list(MODELS.items())[: 1 if options.quick else None]:
        if options.quick:
            sizes = {**sizes, "depth": 1}
        try:
            model = made(sizes)
        except ImportError:
            case = Case(f"decode/{name}", 1e-6, "windows", baseline="onnxruntime")
            case.skipped["everyone"] = "torch_brain is not installed, whose model is decoded"
            yield case
            continue
        if options.wants(f"decode/{name}/processor"):
            yield processor(name, model)
        populations = {"5u_10hz": (5, 10.0)} if options.quick else POPULATIONS
        for population, (n_units, rate) in populations.items():
            for size in (2,) if options.quick else BATCHES:
                title = f"decode/{name}/{population}/b{size}"
                if not options.wants(title):
                    continue
                work = Work(model, n_units, rate, size)
                slow = name == "poyo_large" and size > 1
                case = Case(
                    title,
                    size / 1e6,
                    "windows",
                    batch=size,
                    rounds=3 if slow else 11 if size > 1 else 31,
                    baseline="onnxruntime",
                )
                builders: list[Any] = []
                for threads in options.thread_counts:
                    builders.append(partial(ours, work, threads, "native"))
                    builders.append(partial(ours, work, threads, "torch"))
                    builders.append(partial(bfloat16, work, threads, case))
                    builders.append(partial(torch_brain, work, threads, case))
                    builders.append(partial(onnxruntime, work, threads))
                    builders.append(partial(our_graph, work, threads))
                yield join(case, builders)


def made(sizes: dict[str, int]) -> Any:
    """Make torch_brain's model with weights under which attention is not uniform."""
    from torch_brain.models import POYO

    torch.manual_seed(0)
    model = POYO(dim_out=2, **(COMMON | sizes)).eval()
    most = max(n for n, _ in POPULATIONS.values())
    model.unit_emb.initialize_vocab([f"unit_{i:04d}" for i in range(most)])
    model.session_emb.initialize_vocab(["session"])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "emb" in name:
                weight.normal_(0, 0.3)
    return model


def processor(name: str, model: Any) -> Case:
    """One unit without spikes and one query: what is left is the processor."""
    steps = int(COMMON["sequence_length"] / COMMON["latent_step"])
    latents, dim = steps * model.num_latents_per_step, model.dim
    inner = COMMON["self_heads"] * COMMON["dim_head"]
    products = 4 * dim * inner + 2 * latents * inner + 12 * dim * dim  # of a latent, in a layer
    flop = 2.0 * latents * products * len(model.proc_layers)
    case = Case(f"decode/{name}/processor", flop / 1e6, "flop", rounds=31)
    work = Work(model, 1, 0.0, 1, queries=1)
    builders: list[Any] = [partial(ours, work, 1, name) for name in ("native", "torch")]
    return join(case, [*builders, partial(bfloat16, work, 1, case)])


class Work:
    """Windows of a population, as spikes and as torch_brain's tensors."""

    def __init__(
        self, model: Any, n_units: int, rate: float, size: int, queries: int = QUERIES
    ) -> None:
        self.model, self.size = model, size
        self.folder = tempfile.TemporaryDirectory()
        bundle = attendrite.export(model, Path(self.folder.name) / "bundle")
        self.engine = partial(Engine, bundle)
        rng = np.random.default_rng(1)
        counts = rng.poisson(n_units * rate, size)
        self.batch = SpikeBatch(
            times=np.concatenate([np.sort(rng.uniform(0, 1, n)) for n in counts]),
            units=rng.integers(0, n_units, counts.sum()),
            window=np.repeat(np.arange(size), counts),
            unit_ids=[f"unit_{i:04d}" for i in range(n_units)],
            session=["session"] * size,
            query_times=np.tile(np.linspace(0.05, 1, queries), (size, 1)),
        )
        self.inputs = self._tensors()
        reference = self.engine(executor="reference", dtype="float64")
        self.part = self.batch.part(0, min(size, 2))
        self.truth = np.asarray(reference.run(self.part).prediction)

    def _tensors(self) -> dict[str, torch.Tensor]:
        tokens = self.batch.tokens(COMMON["sequence_length"])
        rows = torch.tensor(self.model.unit_emb.tokenizer(list(self.batch.unit_ids)))
        exists = torch.from_numpy(np.arange(tokens.unit.shape[1]) < tokens.lengths[:, None])
        steps = int(COMMON["sequence_length"] / COMMON["latent_step"])
        latents = self.model.num_latents_per_step
        times = (torch.arange(steps, dtype=torch.float64) + 0.5) * COMMON["latent_step"]
        return {
            "input_unit_index": rows[torch.from_numpy(tokens.unit).long()] * exists,
            "input_timestamps": torch.from_numpy(np.where(exists, tokens.time, 0.0)),
            "input_token_type": torch.from_numpy(tokens.type).long() * exists,
            "input_mask": exists,
            "latent_index": torch.arange(latents).repeat(self.size, steps),
            "latent_timestamps": times.repeat_interleave(latents).repeat(self.size, 1),
            "session_index": torch.tensor(
                self.model.session_emb.tokenizer(["session"] * self.size)
            ),
            "output_timestamps": torch.from_numpy(self.batch.query_times),
        }

    def error(self, result: Any) -> float:
        """Return the largest error of the first windows."""
        found = np.asarray(result)[: len(self.truth)]
        return float(np.abs(found - self.truth).max())

    def tolerance(self, dtype: str) -> float:
        """Return the largest error allowed; in bfloat16 by the accuracy rule."""
        largest = max(1.0, float(np.abs(self.truth).max()))
        if dtype == "float32":
            return TOLERANCE * largest
        reference, near = self.engine(executor="reference"), []
        for grid in GRIDS:
            with RoundedLayers(grid):
                near.append(self.error(reference.run(self.part).prediction))
        return FACTOR * max(near) + FLOOR * largest

    def contestant(
        self,
        name: str,
        call: Callable[[], Any],
        threads: int,
        *packages: str,
        dtype: str = "float32",
    ) -> Contestant:
        """Make a contestant that has torch's threads set before its turn."""
        return Contestant(
            name, call, self.error, self.tolerance(dtype), dtype, threads,
            lambda: torch.set_num_threads(threads), ("torch", *packages),
        )  # fmt: skip


def bfloat16(work: Work, threads: int, case: Case) -> list[Contestant]:
    """Our C++ with the products of layers in bfloat16, where the CPU has it."""
    wanted = {"family": "poyo", "device": "cpu", "dtype": "bfloat16"}
    if reason := executors.refusals(**wanted)["native"]:
        case.skipped["attendrite:native in bfloat16"] = reason
        return []
    return ours(work, threads, "native", "bfloat16")


def ours(work: Work, threads: int, executor: str, dtype: str = "float32") -> list[Contestant]:
    """An executor of ours: from tensors, with statistics, and from spikes."""
    engine = work.engine(executor=executor, threads=threads, dtype=dtype)
    with torch.inference_mode():
        inputs = engine.model.inputs(work.batch)
    everything = Capture(STATISTICS)
    plan = everything.plan(engine.sites)

    def forward(plan: Any) -> Any:
        with torch.inference_mode():
            return engine._executor.run(inputs, plan)[0]

    calls = {
        "": partial(forward, {}),
        "+per_unit+per_key+entropy+lse": partial(forward, plan),
        "+tokens": lambda: engine.run(work.batch).prediction,
    }
    return [
        work.contestant(f"attendrite:{executor}{what}", call, threads, dtype=dtype)
        for what, call in calls.items()
    ]


def torch_brain(work: Work, threads: int, case: Case) -> list[Contestant]:
    """torch_brain's forward pass, eager and compiled."""

    def forward(model: Callable[..., Any]) -> Any:
        with torch.inference_mode():
            return model(**work.inputs)

    found = [work.contestant("torch_brain", partial(forward, work.model), threads, "torch_brain")]
    try:
        torch._dynamo.reset()
        compiled = torch.compile(work.model, dynamic=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            forward(compiled)
    except Exception as error:
        case.skipped["torch_compile"] = f"does not run here ({type(error).__name__})"
        return found
    call = partial(forward, compiled)
    return [*found, work.contestant("torch_compile", call, threads, "torch_brain")]


def onnxruntime(work: Work, threads: int) -> list[Contestant]:
    """ONNX Runtime on torch's own export of torch_brain's model."""
    path = Path(work.folder.name) / "model.onnx"
    if not path.exists():
        import onnxscript  # noqa: F401  which torch's exporter needs

        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                work.model, (), str(path), kwargs=work.inputs, dynamo=True, verbose=False,
                input_names=list(work.inputs),
            )  # fmt: skip
    return sessions(work, threads, "onnxruntime", str(path), work.inputs, "torch_brain")


def our_graph(work: Work, threads: int) -> list[Contestant]:
    """ONNX Runtime on the graph that we export."""
    from attendrite import graph
    from attendrite.executors.onnx import feed

    model = work.engine(executor="reference").model
    data = graph.build(model.manifest, model.layers.weights, {})
    return sessions(work, threads, "attendrite:onnx", data, feed(model.inputs(work.batch)))


def sessions(
    work: Work, threads: int, name: str, source: str | bytes, inputs: dict[str, Any], *packages: str
) -> list[Contestant]:
    """ONNX Runtime on a graph, its threads asleep or spinning between operators."""
    import onnxruntime as ort

    made = []
    for spin in (False, True)[: 1 if threads == 1 else 2]:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        options.log_severity_level = 3
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        feed = {x.name: np.asarray(inputs[x.name]) for x in session.get_inputs()}
        run = partial(session.run, None, feed)
        call = partial(first, run)
        made.append(work.contestant(name + "+spin" * spin, call, threads, "onnxruntime", *packages))
    return made


def first(call: Callable[[], Any]) -> Any:
    """Return the first result."""
    return call()[0]

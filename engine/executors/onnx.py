"""A model as one ONNX graph, run by ONNX Runtime: that of the bundle, or one made at load.

The CUDA provider gets the device ``cuda``, with the few operators that it lacks run on the CPU.
TensorRT is never used: it has no double, and times in float32 change POYO's output by 1e-3.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .. import errors, models
from ..bundle import GRAPH, REMAKE
from ..capture import AXES, STATISTICS, Request
from ..models._perceiver import PerceiverInputs, PerceiverModel
from ..models._vision import ImageFamily
from ..models.ensemble import Model as Ensemble

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PRIORITY = -1  # taken only where it is named
FILES = (GRAPH,)
PACKAGES = ("onnx", "onnxruntime")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
OF_QUERIES = ("query_times", "task_rows")  # of which there may be none
WHOLE = "executor 'onnx' cannot run a part of its graph; use executor native or torch"
TORCH = "take executor native or torch"
ERRORS_ONLY = 3  # of the log levels of onnxruntime

Plan = Mapping[str, Mapping[str, Request]]


def refuses(family: str, device: str, dtype: str) -> str | None:
    """Refuse other models, float64, devices without a provider, and to run without the packages."""
    if not issubclass(models.load(family), PerceiverModel | ImageFamily):
        return f"has no graph of a {family} model; take executor torch"
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        extras = "pip install 'attendrite[onnx]', or 'attendrite[gpu]' for CUDA"
        return f"needs the package {' and '.join(missing)}; {extras}"
    if dtype == "bfloat16":
        return "computes in float32, got bfloat16; use executor native"
    if dtype != "float32":
        return f"cannot run {dtype}: ONNX Runtime has no Erf in float64; take executor torch"
    import onnxruntime

    if PROVIDERS.get(device) not in onnxruntime.get_available_providers():
        have = ", ".join(onnxruntime.get_available_providers())
        return f"cannot run on {device}: onnxruntime has {have}; pip install 'attendrite[gpu]'"
    return None


def load(
    model: models.Family, device: torch.device, dtype: torch.dtype, graph: bytes | None
) -> Executor:
    """Bind the graph of the bundle, or make one where it has none."""
    del dtype
    assert isinstance(model, PerceiverModel | ImageFamily)  # others were refused
    return Executor(model, device, graph)


class Executor:
    """A model run by ONNX Runtime, with a graph for each set of statistics asked.

    Args:
        model: A family with its weights.
        device: Whose provider runs the graphs; inputs and outputs pass through the CPU.
        graph: The ONNX file of the bundle; ``None``: it has none.

    Raises:
        AttendriteError: The file is not such a graph, or does not fit the model.
    """

    def __init__(
        self, model: PerceiverModel | ImageFamily, device: torch.device, graph: bytes | None
    ) -> None:
        from .. import graph as graphs

        self._graphs = graphs
        self.model, self._device = model, device
        self.threads = torch.get_num_threads()
        self._sessions: dict[str, InferenceSession] = {}
        if graph is not None:
            captures = graphs.fits(graphs.check(graph), model)  # before onnxruntime sees it
            self._sessions[captures] = self._opened(graph)
        self._session({})
        self.choices = {
            "graph": GRAPH if graph is not None else "made at load",
            "provider": PROVIDERS[device.type],
        }

    def run(
        self, inputs: Any, plan: Plan, rollout: str | None = None
    ) -> tuple[Tensor | dict[str, Tensor], dict[tuple[str, str], Tensor]]:
        """Return the prediction and what was asked for.

        Raises:
            AttendriteError: A rollout, a statistic that a graph does not give, or images that are
                cropped already or read without a shift.
        """
        if rollout is not None:
            raise errors.must("rollout", "be asked of executor torch", "executor onnx")
        session = self._session(plan)
        names = self._graphs.outputs(self.model, plan)
        given = self._images(inputs) if isinstance(self.model, ImageFamily) else feed(inputs)
        arrays = {name: _some(name, x) for name, x in given.items()}
        found = session.run(names, arrays)
        values = {name: torch.from_numpy(array) for name, array in zip(names, found, strict=True)}
        n_windows, n_tokens = inputs.keys.times.shape
        if not n_windows:
            values = {name: x[:0] for name, x in values.items()}
        captured = {}
        for site, wanted in plan.items():
            for name in (name for statistic in wanted for name in STATISTICS[statistic]):
                value = values[f"attention/{site}/{name}"]
                by_token = site == "encoder" and AXES[name][-1] == "key"
                captured[site, name] = value[..., :n_tokens] if by_token else value
        if isinstance(self.model, ImageFamily) or inputs.task_rows is None:
            return values["prediction"], captured
        asked = set(inputs.task_rows.unique().tolist())
        tasks = [task.name for task in self.model.manifest.tasks if task.id in asked]
        return {task: values[f"prediction/{task}"] for task in tasks}, captured

    def partials(self, inputs: Any, segments: Tensor, n_segments: int) -> tuple[Tensor, Tensor]:
        """Refuse.

        Raises:
            AttendriteError: Always.
        """
        raise errors.AttendriteError(WHOLE)

    def tails(self, inputs: Any, encoded: Tensor) -> Tensor | dict[str, Tensor]:
        """Refuse, likewise."""
        raise errors.AttendriteError(WHOLE)

    def masked(self, inputs: Any, masks: Any) -> Tensor | dict[str, Tensor]:
        """Refuse, likewise."""
        raise errors.AttendriteError(WHOLE)

    def _images(self, inputs: Any) -> dict[str, NDArray[Any]]:
        """Name the inputs of a graph of images."""
        assert isinstance(self.model, ImageFamily)  # whose inputs they are
        models: list[Any] = [self.model]
        if isinstance(self.model, Ensemble):
            models = list(self.model.members.values())
            inputs = next(iter(inputs.members.values()))  # all are given the same
        if inputs.cropped and any("center_crop" in model.config for model in models):
            be = "be whole, the graph crops and resizes them"
            raise errors.must("images", be, "cropped ones", TORCH)
        if not inputs.shift and any(model.shifts for model in models):
            raise errors.must("shift", "be on, the graph moves the read-out", "off", TORCH)
        read = {name: getattr(inputs, name) for name in ("images", *self.model.covariates)}
        arrays = {name: x.cpu().numpy() for name, x in read.items()}
        return arrays | {"mouse": np.array([self.model.manifest.sessions[inputs.mouse]])}

    def _session(self, plan: Plan) -> InferenceSession:
        """Return the session that gives what the plan asks; its first call makes it."""
        key = self._graphs.captures(plan)
        if key not in self._sessions:
            model = self.model
            of = model.layers if isinstance(model, PerceiverModel) else model
            data = self._graphs.build(model.manifest, of.weights, plan)
            self._sessions[key] = self._opened(data)
        return self._sessions[key]

    def _opened(self, data: bytes) -> InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = PROVIDERS[self._device.type]
        providers: list[Any] = [PROVIDERS["cpu"]]
        if self._device.type == "cuda":
            exact = {"device_id": self._device.index or 0, "use_tf32": 0}
            providers = [(wanted, exact), *providers]
        try:
            session = onnxruntime.InferenceSession(data, options, providers=providers)
        except Exception as error:  # one of several classes that onnxruntime does not name
            got = str(error).splitlines()[0]
            raise errors.must(GRAPH, "be a graph that onnxruntime runs", got, REMAKE) from None
        have = session.get_providers()  # without those whose libraries it did not find
        if wanted not in have:
            todo = "install the CUDA and cuDNN that this onnxruntime-gpu was made for"
            raise errors.must("providers of onnxruntime", f"hold {wanted}", ", ".join(have), todo)
        return session


def _some(name: str, x: NDArray[Any]) -> NDArray[Any]:
    """Return an input; operators need a window and a token: of none, one of zeros."""
    shape = tuple(np.maximum(x.shape, (1, 0) if name in OF_QUERIES else 1))
    return x if shape == x.shape else np.zeros(shape, x.dtype)


def feed(inputs: PerceiverInputs) -> dict[str, NDArray[Any]]:
    """Name the inputs of a graph."""
    keys = inputs.keys
    tensors = {
        "unit_rows": inputs.unit_rows,
        "units": keys.units,
        "times": keys.times,
        "lengths": keys.lengths,
        # rows of sessions are 0 where there is no query
        "session_rows": functional.pad(inputs.session_rows, (1, 0)).amax(1),
        "query_times": inputs.queries.times,
        "task_rows": inputs.task_rows,
        "values": inputs.values,
        "types": keys.types if inputs.values is None else None,
    }
    return {name: x.cpu().numpy() for name, x in tensors.items() if x is not None}

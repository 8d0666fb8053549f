"""A model as one ONNX graph of standard operators: to be run where there is no Python.

docs/onnx.md describes inputs and outputs. The package ``onnx`` is needed to import this room.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

import onnx
import torch
from google.protobuf.message import DecodeError, Message
from torch import Tensor

from .. import errors, models
from ..bundle import GRAPH, LONGEST_GRAPH, REMAKE, Manifest
from ..capture import STATISTICS, Capture, Request
from ..models import ensemble, v1t
from ..models._perceiver import PerceiverModel
from ..models._vision import ImageFamily, ImageModel
from . import _ensemble, _images, _perceiver, _statistics, _v1t
from ._builder import Builder

__all__ = ["build", "captures", "check", "fits", "outputs"]

CAPTURES = "captures"
DOMAINS = ("", "ai.onnx")

Plan = Mapping[str, Mapping[str, Request]]
Model: TypeAlias = "PerceiverModel | ImageFamily"


class Forward(Protocol):
    """Writes the forward pass of a model into a graph."""

    @property
    def statistics(self) -> tuple[str, ...]:
        """What can be had of its attention."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a reader of the file can look up; JSON can hold it."""

    def declare(self) -> None:
        """Write the inputs."""

    def write(self) -> None:
        """Write inputs, layers and outputs."""


def build(manifest: Manifest, weights: Mapping[str, Tensor], plan: Plan) -> bytes:
    """Return the ONNX file of a model, float32 inside, times in double.

    Args:
        manifest: Of the bundle.
        weights: Of the bundle, checked; any floating dtype, any device.
        plan: Site to statistic to request: further outputs ``attention/<site>/<statistic>``.

    Raises:
        AttendriteError: Another kind of model, a statistic that a graph does not give, or a file
            above 2 GB.
    """
    family = models.load(manifest.family)
    if not issubclass(family, PerceiverModel | ImageFamily):
        raise errors.must("a model with an ONNX graph", "be known to this one", manifest.family)
    model = family(manifest, {name: t.detach().cpu().double() for name, t in weights.items()})
    builder = Builder()
    forward = _forward(builder, model, plan)
    _statistics.refuse(plan, forward.statistics)
    with torch.inference_mode():
        forward.write()
    tables = {
        **forward.facts,
        "units": dict(manifest.units),
        "sessions": dict(manifest.sessions),
        "tasks": {task.name: task.id for task in manifest.tasks},
    }
    facts = {
        "family": manifest.family,
        "name": manifest.name,
        CAPTURES: captures(plan),
        **{name: json.dumps(table, ensure_ascii=False) for name, table in tables.items()},
    }
    graph = builder.model(manifest.family, facts)
    if graph.ByteSize() > LONGEST_GRAPH:
        todo = "it holds tables of all units of the bundle: keep fewer"
        raise errors.must(GRAPH, f"have at most {LONGEST_GRAPH} bytes", graph.ByteSize(), todo)
    data: bytes = graph.SerializeToString()
    return data


def captures(plan: Plan) -> str:
    """Write a plan as one line, the same for the same plan."""
    return " ".join(f"{site}:{r}" for site, found in plan.items() for _, r in sorted(found.items()))


def check(data: bytes) -> onnx.ModelProto:
    """Read a foreign ONNX file and refuse what onnxruntime must not see.

    Raises:
        AttendriteError: Not ONNX, with operators that are not standard, with metadata that is no
            text, or with data in other files, which onnxruntime would read from any path that the
            file names.
    """
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise errors.must(GRAPH, "be an ONNX file", repr(data[:8]), REMAKE) from None
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and (
            message.data_location == onnx.TensorProto.EXTERNAL or message.external_data
        ):
            raise errors.must(GRAPH, "hold its data itself", "data in other files", REMAKE)
        if isinstance(message, onnx.NodeProto | onnx.OperatorSetIdProto) and (
            message.domain not in DOMAINS
        ):
            got = f"one of {message.domain!r}"
            raise errors.must(f"operators of {GRAPH}", "be standard ones", got, REMAKE)
        if isinstance(message, onnx.StringStringEntryProto) and not isinstance(message.value, str):
            # protobuf leaves what is no UTF-8 as bytes
            raise errors.must(f"metadata {message.key!r} of {GRAPH}", "be text", "bytes", REMAKE)
    return model


def fits(graph: onnx.ModelProto, model: Model) -> str:
    """Return which captures a graph gives, in the words of :func:`captures`.

    Raises:
        AttendriteError: Its inputs or outputs are not those of a graph of the model.
    """
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    plan = Capture.parse(facts.get(CAPTURES, "").split()).plan(model.sites)
    builder = Builder()
    _forward(builder, model, plan).declare()
    for what, has, needed in (
        ("inputs", _kinds(graph.graph.input), _kinds(builder.inputs)),
        ("outputs", {value.name for value in graph.graph.output}, set(outputs(model, plan))),
    ):
        if has != needed:
            be, got = (", ".join(sorted(map(str, names))) for names in (needed, has))
            raise errors.must(f"{what} of {GRAPH}", f"be {be}", got or "none", REMAKE)
    return captures(plan)


def outputs(model: Model, plan: Plan) -> list[str]:
    """Name the outputs of a graph."""
    tasks = [f"prediction/{task.name}" for task in model.manifest.tasks]
    attention = [
        f"attention/{site}/{name}"
        for site, found in plan.items()
        for statistic in found
        for name in STATISTICS[statistic]
    ]
    return (tasks or ["prediction"]) + attention


def _forward(builder: Builder, model: Model, plan: Plan) -> Forward:
    if isinstance(model, PerceiverModel):
        return _perceiver.Forward(builder, model, plan)
    if isinstance(model, ensemble.Model):
        return _ensemble.EnsembleForward(builder, model, plan)
    assert isinstance(model, ImageModel)  # there are no others
    of_images = _v1t.V1TForward if isinstance(model, v1t.Model) else _images.Forward
    return of_images(builder, model, plan)


def _kinds(values: Iterable[onnx.ValueInfoProto]) -> set[str]:
    """Name values with their types, and with the sizes of axes that have one."""
    kind = onnx.TensorProto.DataType.Name
    found = set()
    for value in values:
        of = value.type.tensor_type
        sizes = [str(axis.dim_value) for axis in of.shape.dim if axis.HasField("dim_value")]
        found.add(f"{value.name} ({' '.join([kind(of.elem_type), *sizes])})")
    return found


def _messages(message: Message) -> Iterator[Message]:
    """Yield a message and all inside it, however deep: subgraphs, attributes, functions."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                yield from _messages(inner)

"""A graph of ONNX operators, written node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPSET = 23  # RotaryEmbedding and Attention
IR_VERSION = 11  # of the first onnxruntime that knows the opset
Value: TypeAlias = "str | NDArray[Any]"  # a value of the graph by its name, or a constant


class Builder:
    """A graph that grows by a node with each call.

    Attributes:
        scope: What the names of new nodes and values begin with.
        inputs: What was declared so far.
    """

    def __init__(self) -> None:
        self.scope = ""
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: type[np.generic], axes: Sequence[str | int]) -> str:
        """Declare an input; axes are sizes, or names where any size will do."""
        self.inputs.append(_declared(name, dtype, axes))
        return name

    def output(
        self,
        name: str,
        value: str,
        axes: Sequence[str | int],
        dtype: type[np.generic] = np.float32,
    ) -> None:
        """Declare a value to be an output."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"output/{name}"))
        self._outputs.append(_declared(name, dtype, axes))

    def __call__(self, operator: str, *inputs: Value, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        return self.several(operator, (True,), *inputs, **attributes)[0]

    def several(
        self, operator: str, wanted: Sequence[bool], *inputs: Value, **attributes: Any
    ) -> list[str]:
        """Add a node and return the names of its outputs; those not wanted have none."""
        name = f"{self.scope}/{operator}.{len(self._nodes)}"
        outputs = [f"{name}:{i}" if take else "" for i, take in enumerate(wanted)]
        values = [x if isinstance(x, str) else self._constant(x) for x in inputs]
        self._nodes.append(helper.make_node(operator, values, outputs, name=name, **attributes))
        return outputs

    def _constant(self, array: NDArray[Any]) -> str:
        name = f"constant.{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def model(self, name: str, facts: Mapping[str, str]) -> onnx.ModelProto:
        """Return the whole, with facts that any reader of the file can look up."""
        graph = helper.make_graph(self._nodes, name, self.inputs, self._outputs, self._constants)
        model = helper.make_model(
            graph,
            producer_name="attendrite",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        helper.set_model_props(model, dict(facts))
        return model


def ints(*values: int) -> NDArray[np.int64]:
    """Return a shape or axes, as operators want them."""
    return np.array(values, dtype=np.int64)


def floats(array: Any) -> NDArray[np.float32]:
    """Round a tensor or array, made in double, to the precision of the graph."""
    return np.asarray(array, dtype=np.float32)


def _declared(name: str, dtype: type[np.generic], axes: Sequence[str | int]) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(axes))

"""From an ONNX file to a graph: constants, who reads whom, and one handler for each operator.

ONNX tensors are (n, c, h, w), ours (n, h, w, c): channels are named, never positions. What depends
on constants and shapes alone, as exporters write sizes, is computed here.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fcn._errors import reason
from fcn._extras import require
from fcn.building import NOT_FIXED, Array, Builder, choose_outputs
from fcn.graph import INPUT, Model
from fcn.onnx import constants
from fcn.onnx.call import Call
from fcn.onnx.constants import Size
from fcn.onnx.operators import OPERATORS, UNCHANGED

OPSETS = (9, 23)


def load(path: str | os.PathLike[str], output: str | None = None) -> Model:
    """Read an ONNX model; see `fcn.load`."""
    onnx = require("onnx", extra="onnx", purpose="reading ONNX models")
    data = Path(path).read_bytes()
    try:
        proto = onnx.load_model_from_string(data)
        return _Importer(onnx, proto).model(Path(path).name, output)
    except _errors() as error:
        raise ValueError(
            f"{os.fspath(path)} cannot be read as an ONNX model: {reason(error)}"
        ) from error


def _errors() -> tuple[type[Exception], ...]:
    """What a damaged file may raise; protobuf's own errors are among these."""
    message = require("google.protobuf.message", extra="onnx", purpose="reading ONNX models")
    return (
        message.DecodeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError,
        TypeError, ValueError,
    )  # fmt: skip


class _Importer:
    """Walks the nodes, which ONNX lists in order of evaluation."""

    def __init__(self, onnx: Any, proto: Any) -> None:
        self.onnx, self.proto = onnx, proto
        graph = proto.graph
        versions = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
        if not versions or not OPSETS[0] <= versions[0] <= OPSETS[1]:
            raise ValueError(f"its opset is {versions}; {OPSETS[0]} to {OPSETS[1]} are known")
        self.opset = versions[0]
        self.constants: dict[str, Array] = {t.name: self._array(t) for t in graph.initializer}
        inputs = [value for value in graph.input if value.name not in self.constants]
        shapes = {value.name: _image_shape(value) for value in inputs}
        if len({n for n, _, _ in shapes.values()}) != 1:
            raise ValueError(f"the model has the inputs {list(shapes)}; images in equal batches")
        self.batch = next(n for n, _, _ in shapes.values())
        self.builder = Builder({name: shape[1:] for name, shape in shapes.items()})
        self.tensors = dict(zip(shapes, self.builder.inputs, strict=True))
        self.readers = Counter(name for node in graph.node for name in node.input)
        self.readers.update(value.name for value in graph.output)

    def model(self, name: str, output: str | None) -> Model:
        """The graph behind one output, or all."""
        for node in self.proto.graph.node:
            self._node(node)
        names = [value.name for value in self.proto.graph.output]
        ends = {name: self.tensors[name] for name in choose_outputs(names, output)}
        graph, weights, origins = self.builder.graph(self.proto.graph.name or "onnx", ends)
        return Model(graph, weights, {"source": name}, origins)

    def _array(self, tensor: Any) -> Array:
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            raise ValueError(
                f"the numbers of {tensor.name!r} lie in another file, which is not read; save the "
                "model in one file"
            )
        found: Array = self.onnx.numpy_helper.to_array(tensor)
        return found

    def _node(self, node: Any) -> None:
        where = f"node {node.name or node.output[0]!r} ({node.op_type})"
        attrs = {a.name: self._attribute(a) for a in node.attribute}
        if node.domain not in ("", "ai.onnx"):
            raise ValueError(f"{where} is of the domain {node.domain!r}, which is not supported")
        try:
            if self._constant(node, attrs):
                return
            if node.op_type in UNCHANGED:
                made = self.tensors[node.input[0]]
            elif node.op_type in OPERATORS:
                made = OPERATORS[node.op_type](self._call(node, attrs))
                self.builder.computes(made, node.output[0])
            else:
                near = difflib.get_close_matches(node.op_type, OPERATORS, 3, 0.5)
                raise ValueError(f"not supported; use {' or '.join(near or sorted(OPERATORS))}")
        except (ValueError, KeyError) as error:
            text = f"there is no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{where}: {text}") from error
        except TypeError as error:
            if self.builder.fixed:
                raise
            raise ValueError(f"{where}: {NOT_FIXED}") from error
        name = node.output[0]
        self.tensors[name] = replace(made, sole=made.sole and self.readers[name] == 1)

    def _call(self, node: Any, attrs: dict[str, Any]) -> Call:
        inputs = [self.tensors.get(name, self.constants.get(name)) for name in node.input]
        for name, value in zip(node.input, inputs, strict=True):
            if name and value is None:
                raise ValueError(f"it reads {name!r}, which no node before it makes")
        name = (node.name or node.output[0]).strip("/") or node.op_type
        if name == INPUT or name in self.builder.nodes or name in self.builder.channels:
            name = f"{name}:{node.output[0]}"
        return Call(name, inputs, attrs, self.builder, self.opset)

    def _attribute(self, attribute: Any) -> Any:
        value = self.onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            return value.decode()
        return self._array(value) if isinstance(value, self.onnx.TensorProto) else value

    def _constant(self, node: Any, attrs: dict[str, Any]) -> bool:
        """Whether the node needs no pixels; then its value is known now."""
        name = node.output[0]
        if node.op_type == "Shape" and node.input[0] in self.tensors:
            x = self.tensors[node.input[0]]
            sides: tuple[Any, Any] = Size(x.node, 0), Size(x.node, 1)
            if self.builder.fixed:
                sides = self.builder.shape_of(x)[:2]
            shape = np.array([self.batch, x.channels, *(() if x.vector else sides)])
            self.constants[name] = shape[attrs.get("start", 0) : attrs.get("end")]
            return True
        if any(i and i not in self.constants for i in node.input):
            return False
        inputs = [self.constants[i] if i else None for i in node.input]
        found = constants.evaluate(node.op_type, attrs, inputs)
        if found is None:
            return False
        self.constants[name] = found
        return True


def _image_shape(value: Any) -> tuple[int, tuple[int, int] | None, int]:
    """Batch (1 where it is free), height and width where they are fixed, and channels."""
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    if len(dims) != 4 or dims[1] < 1:
        raise ValueError(
            f"its input {value.name!r} has shape {dims}; images are (batch, channels, height, "
            "width), with the number of channels given"
        )
    n, c, h, w = dims
    return max(n, 1), ((h, w) if h > 0 and w > 0 else None), c

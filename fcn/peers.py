"""Other programs that run the same network: what `fcn.parity` compares our results with.

A model that was read from a file is run by the file's own framework, which sees the file and
nothing of our graph. A name links the two: `fcn.graph.Origin` tells which tensor of the file a node
computes, so that layers which were folded into others are met where their result appears.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fcn import tf_reference
from fcn._errors import reason
from fcn._extras import require
from fcn.graph import Model

__all__ = ["KerasFile", "OnnxFile", "Peer", "Rebuilt", "of_file"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class Peer(Protocol):
    """A program that runs the network.

    Attributes
    ----------
    name : str
    """

    name: str

    def results(self, x: Array) -> dict[str, Array]:
        """Node -> its result (n, h, w, c) for `x`, for the nodes that the program can show."""


class Rebuilt:
    """Our graph, built of TensorFlow's operations."""

    name = "TensorFlow"

    def __init__(self, model: Model) -> None:
        self._model = model

    def results(self, x: Array) -> dict[str, Array]:
        """Of every node."""
        graph = self._model.graph
        keras = tf_reference.build(graph, self._model.weights)
        found = tf_reference.every_output(keras, graph)(x)
        return {name: tensor.numpy() for name, tensor in found.items()}

    def exact(self, x: Array) -> Floats:
        """The output in float64."""
        double = tf_reference.build(self._model.graph, self._model.weights, "float64")
        return np.asarray(double(x.astype(np.float64)))


def of_file(path: str | os.PathLike[str], model: Model) -> KerasFile | OnnxFile | None:
    """The framework of the file that `model` was read from; None where that is our own.

    Raises
    ------
    ValueError
        If the framework cannot read the file.
    ImportError
        Without TensorFlow or ONNX Runtime (extra `verify`).
    """
    if not model.origins:
        return None
    return OnnxFile(path, model) if Path(path).suffix == ".onnx" else KerasFile(path, model)


class _File:
    """What is common to files.

    Attributes
    ----------
    shape : (n, h, w, c)
        Of the input; None where the file leaves it open.
    """

    shape: tuple[int | None, ...]

    def __init__(self, path: str | os.PathLike[str], model: Model) -> None:
        self._path = os.fspath(path)
        self._model = model

    def _check(self, x: Array) -> None:
        pairs = zip(self.shape, x.shape, strict=True)
        if any(wanted not in (None, got) for wanted, got in pairs):
            sizes = " x ".join("any" if size is None else str(size) for size in self.shape)
            raise ValueError(f"{self._path} takes inputs of {sizes} numbers, got {x.shape}")

    def _by_node(self, tensors: dict[str, Any], x: Array, first: bool) -> dict[str, Array]:
        """Of the file's tensors those that our nodes compute, in our layout.

        Where channels come first in the file, vectors that were maps are in that order, too.
        """
        found = {}
        for node, (n, h, w, c) in self._model.graph.shapes(x.shape).items():
            if node not in self._model.origins:
                continue
            name = self._model.origins[node].tensor
            value = tensors[name]
            if value.dtype != np.float32:
                raise ValueError(
                    f"{self._path}: {name!r} is computed in {value.dtype}; only float32 can be "
                    "compared"
                )
            if value.size != n * h * w * c:
                raise ValueError(
                    f"{self._path}: {name!r} has shape {value.shape}, but ours is {(n, h, w, c)}"
                )
            found[node] = (
                value.reshape(n, c, h, w).transpose(0, 2, 3, 1) if first
                else value.reshape(n, h, w, c)
            )  # fmt: skip
        return found


class KerasFile(_File):
    """A ``.keras`` or ``.h5`` file, loaded and run by Keras on TensorFlow."""

    name = "Keras"

    def __init__(self, path: str | os.PathLike[str], model: Model) -> None:
        super().__init__(path, model)
        self._keras = tf_reference.tensorflow().keras
        try:
            self._file = self._keras.models.load_model(self._path, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises whatever a strange file leads to
            raise ValueError(f"{self._path}: Keras cannot load it: {reason(error)}") from error
        self.shape = tuple(self._file.inputs[0].shape)

    def results(self, x: Array) -> dict[str, Array]:
        """Of every layer that a node computes."""
        self._check(x)
        return self._by_node(dict(_calls(self._keras, self._file, [x], "")), x, first=False)


def _calls(keras: Any, model: Any, inputs: list[Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The result of each call of each layer, nested ones too, named as `Origin.tensor` is."""
    graph = getattr(model, "_functional", model)  # a Sequential model has one inside
    inside = {id(node) for nodes in graph._nodes_by_depth.values() for node in nodes}
    calls = {}
    for layer in graph.layers:
        own = [node for node in layer._inbound_nodes if id(node) in inside]
        for number, node in enumerate(own):
            calls[f"{prefix}{layer.name}" + (f":{number}" if number else "")] = node
    tensors = [node.outputs[0] for node in calls.values()]
    values = keras.Model(graph.inputs, tensors)(inputs, training=False)
    arrays = [value.numpy() for value in values]
    known = {id(tensor): array for tensor, array in zip(tensors, arrays, strict=True)}
    for (name, node), array in zip(calls.items(), arrays, strict=True):
        yield name, array
        if isinstance(node.operation, keras.Model):
            given = [known[id(tensor)] for tensor in node.input_tensors]
            yield from _calls(keras, node.operation, given, f"{name}/")


class OnnxFile(_File):
    """An ONNX file in ONNX Runtime."""

    name = "ONNX Runtime"

    def __init__(self, path: str | os.PathLike[str], model: Model) -> None:
        super().__init__(path, model)
        self._input = self._runtime.get_inputs()[0]
        n, c, h, w = (
            size if isinstance(size, int) and size > 0 else None for size in self._input.shape
        )
        self.shape = (n, h, w, c)

    @cached_property
    def _runtime(self) -> Any:
        """A session that gives out every tensor which a node computes."""
        onnx = require("onnx", extra="verify", purpose="comparing with ONNX Runtime")
        runtime = require("onnxruntime", extra="verify", purpose="comparing with ONNX Runtime")
        proto = onnx.load_model(self._path, load_external_data=False)
        there = {value.name for value in proto.graph.output}
        names = {origin.tensor for origin in self._model.origins.values()} - there
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions
        try:
            return runtime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's errors have no class in common
            raise ValueError(
                f"{self._path}: ONNX Runtime cannot load it: {reason(error)}"
            ) from error

    def results(self, x: Array) -> dict[str, Array]:
        """Of every tensor that a node computes."""
        self._check(x)
        names = sorted({origin.tensor for origin in self._model.origins.values()})
        image = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        try:
            values = self._runtime.run(names, {self._input.name: image})
        except Exception as error:
            raise ValueError(
                f"{self._path}: ONNX Runtime cannot run it: {reason(error)}"
            ) from error
        return self._by_node(dict(zip(names, values, strict=True)), x, first=True)

"""A layer as an ONNX model, for the engines that read one."""

import importlib
from functools import partial
from typing import Any

import numpy as np

from benchmarks.graphs import Network, Operations
from benchmarks.layers import Array, Filter, Layer, is_argmax, is_global
from fastconv.shapes import Pad
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d

INPUT, OUTPUT = "x", "y"


def nchw(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(n, h, w, c) -> (n, c, h, w); labels (n, h, w) stay."""
    return (shape[0], *shape[3:], *shape[1:3])


def to_nchw(x: Array) -> Array:
    """NHWC -> a new NCHW array."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def to_nhwc(y: Array) -> Array:
    """NCHW -> NHWC; labels (n, h, w) stay."""
    return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y


def model(layer: Layer) -> bytes:
    """The serialised model: NCHW float32 `INPUT` -> `OUTPUT`, float32 or int64 labels."""
    make, types = _onnx().helper, _onnx().TensorProto
    graph = Graph()
    tensor = INPUT
    if layer.whole is not None:
        graph.network(layer.whole)
    for step, arrays in zip(layer.steps, layer.weights(), strict=True):
        if not isinstance(step, Network):
            tensor = graph.step(tensor, step, *arrays)
    graph.nodes[-1].output[0] = OUTPUT
    ends = [
        make.make_tensor_value_info(INPUT, types.FLOAT, nchw(layer.x)),
        make.make_tensor_value_info(
            OUTPUT, types.INT64 if layer.labels else types.FLOAT, nchw(layer.out)
        ),
    ]
    whole = make.make_graph(graph.nodes, layer.name, ends[:1], ends[1:], graph.constants)
    opset = make.make_opsetid("", 17)
    serialised = make.make_model(whole, opset_imports=[opset], ir_version=9).SerializeToString()
    return bytes(serialised)


def source(layer: Layer) -> bytes | str:
    """The model, or the path of its file where there are files."""
    path = layer.file("model.onnx", lambda path: path.write_bytes(model(layer)))
    return model(layer) if path is None else str(path)


class Graph:
    """Nodes and constants, grown step by step."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def step(self, tensor: str, step: Any, *arrays: Array) -> str:
        """Add one step that reads `tensor`; the name of its result."""
        match step:
            case Conv2d() | ConvTranspose2d():
                return self._filter(tensor, step, *arrays)
            case Pool2d() if is_global(step):
                kind = {"max": "GlobalMaxPool", "avg": "GlobalAveragePool"}[step.kind]
                return self._node(kind, tensor)
            case Pool2d():
                kind = {"max": "MaxPool", "avg": "AveragePool"}[step.kind]
                return self._node(kind, tensor, kernel_shape=step.size, strides=step.stride,
                                  pads=_pads(step.pad))  # fmt: skip
            case Resize2d():
                sizes = self._constant(np.array([step.x[0], step.x[3], *step.size], np.int64))
                return self._node("Resize", tensor, "", "", sizes, mode="linear",
                                  coordinate_transformation_mode="half_pixel")  # fmt: skip
            case ChannelOp() if is_argmax(step):
                return self._node("ArgMax", tensor, axis=1, keepdims=0)
            case ChannelOp():
                return self._node("Softmax", tensor, axis=1)
        raise TypeError(f"no ONNX node for {step}")

    def network(self, network: Network) -> None:
        """Add all nodes of a network; the last one makes its result."""

        def crop(tensor: str, offset: tuple[int, int], size: tuple[int, int]) -> str:
            ends = np.add(offset, size)
            bounds = (self._constant(np.array(v, np.int64)) for v in (offset, ends, (2, 3)))
            return self._node("Slice", tensor, *bounds)

        network.function(Operations(
            window=lambda spec, *arrays: lambda tensor: self.step(tensor, spec, *arrays),
            concat=partial(self._node, "Concat", axis=1),
            add=partial(self._node, "Add"),
            relu=partial(self._node, "Relu"),
            crop=crop,
        ))(INPUT)  # fmt: skip

    def _filter(self, tensor: str, step: Filter, w: Array, bias: Array) -> str:
        inputs = tensor, self._constant(w.transpose(3, 2, 0, 1)), self._constant(bias)
        options = {"kernel_shape": step.w[:2], "strides": step.stride, "group": step.groups,
                   "dilations": step.dilation, "pads": _pads(step.pad)}  # fmt: skip
        if isinstance(step, Conv2d):
            tensor = self._node("Conv", *inputs, **options)
        else:
            past = [max(-after, 0) for _, after in step.pad]
            tensor = self._node("ConvTranspose", *inputs, output_padding=past, **options)
        if step.activation == "relu":
            tensor = self._node("Relu", tensor)
        elif step.activation == "relu6":
            low, high = (self._constant(np.float32(v)) for v in (0, 6))
            tensor = self._node("Clip", tensor, low, high)
        if getattr(step, "pool", False):
            tensor = self._node("MaxPool", tensor, kernel_shape=(2, 2), strides=(2, 2))
        return tensor

    def _node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(_onnx().helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(value, order="C")
        self.constants.append(_onnx().numpy_helper.from_array(array, name))
        return name


def _pads(pad: Pad) -> tuple[int, ...]:
    """ONNX's order; what a transposed convolution adds past its end is `output_padding`."""
    (top, bottom), (left, right) = pad
    return top, left, max(bottom, 0), max(right, 0)


def _onnx() -> Any:
    return importlib.import_module("onnx")

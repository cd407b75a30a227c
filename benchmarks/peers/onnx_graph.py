"""A layer as an ONNX model, for the engines that read one."""

import importlib
from typing import Any

import numpy as np

from benchmarks.layers import Array, Layer, Shape
from fastconv.spec import Conv2d

INPUT, OUTPUT = "x", "y"


def nchw(shape: Shape) -> Shape:
    """(n, h, w, c) -> (n, c, h, w)."""
    n, h, w, c = shape
    return n, c, h, w


def to_nchw(x: Array) -> Array:
    """NHWC -> a new NCHW array."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def to_nhwc(y: Array) -> Array:
    """NCHW -> NHWC."""
    return y.transpose(0, 2, 3, 1)


def model(layer: Layer) -> bytes:
    """The serialised model: NCHW float32 `INPUT` -> `OUTPUT`."""
    onnx: Any = importlib.import_module("onnx")
    make, array = onnx.helper, onnx.numpy_helper.from_array
    nodes: list[Any] = []
    constants: list[Any] = []

    def add(op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(nodes)}"
        nodes.append(make.make_node(op, inputs, [name], name=name, **attributes))
        return name

    tensor = INPUT
    for i, (step, (w, bias)) in enumerate(zip(layer.steps, layer.weights(), strict=True)):
        constants += [array(np.ascontiguousarray(w.transpose(3, 2, 0, 1)), f"w{i}")]
        constants += [array(bias, f"b{i}")]
        (top, bottom), (left, right) = step.pad
        tensor = add(
            "Conv" if isinstance(step, Conv2d) else "ConvTranspose", tensor, f"w{i}", f"b{i}",
            kernel_shape=step.w[:2], strides=step.stride, dilations=step.dilation,
            pads=(top, left, bottom, right), group=step.groups,
        )  # fmt: skip
        if step.activation == "relu":
            tensor = add("Relu", tensor)
        if getattr(step, "pool", False):
            tensor = add("MaxPool", tensor, kernel_shape=(2, 2), strides=(2, 2))
    nodes[-1].output[0] = OUTPUT
    ends = [
        make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, nchw(shape))
        for name, shape in ((INPUT, layer.x), (OUTPUT, layer.out))
    ]
    graph = make.make_graph(nodes, layer.name, ends[:1], ends[1:], constants)
    opset = make.make_opsetid("", 17)
    serialised = make.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    return bytes(serialised)

"""A graph as an ONNX model: one writer for each operation.

Tensors become (n, c, h, w); batch, height and width stay open, so sizes that depend on them are
computed in the model. The result of a node has the node's name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from fcn._extras import require
from fcn.building import Array
from fcn.export import write_whole
from fcn.graph import Model, Node
from fcn.layouts import to_channels_first
from fcn.ops import transposed

__all__ = ["save"]

OPSET, IR = 20, 9  # the first opset with Gelu, and the file format that came with it
LARGEST = 2**31 - 2**20  # bytes that a file holds, less some for all but the weights
SPATIAL = [2, 3]  # the axes of height and width
LAST = np.iinfo(np.int64).max


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model as ONNX. The file appears whole or not at all.

    Parameters
    ----------
    model : Model
        Inputs and outputs are called as in its graph. Like `Session.run`, the file's model reads
        normalised numbers; ``meta``, which may hold a mean and a deviation, is not written.
    path : path
        File to make or to replace.

    Raises
    ------
    ValueError
        For an operation that ONNX cannot express for images of any size, or 2 GB of weights.
    ImportError
        Without onnx (extra `onnx`).
    """
    if sum(array.nbytes for array in model.weights.values()) > LARGEST:
        raise ValueError(f"{os.fspath(path)}: an ONNX file holds less than 2 GB of weights")
    write_whole(path, _Writer(model).serialised())


class _Writer:
    """Nodes and constants of an ONNX graph, while they grow."""

    def __init__(self, model: Model) -> None:
        self.onnx: Any = require("onnx", extra="onnx", purpose="writing ONNX models")
        self.graph, self.weights = model.graph, model.weights
        make = self.onnx.helper
        opset = make.make_opsetid("", OPSET)
        self.proto = make.make_model(
            make.make_graph([], self.graph.name, [], []),
            opset_imports=[opset], ir_version=IR, producer_name="fcn",
        )  # fmt: skip
        self.nodes = self.proto.graph.node
        self.channels = dict(self.graph.inputs)
        self.taken = {*self.graph.inputs, *self.graph.outputs, *(n.name for n in self.graph.nodes)}

    def serialised(self) -> bytes:
        """The file."""
        for node in self.graph.nodes:
            read = [self.channels[name] for name in node.inputs]
            self.channels[node.name] = node.rule.channels(node.attrs, read)
            count = len(self.nodes)
            WRITERS[node.op](self, node)
            made = self.nodes[count:]
            main = next(one for one in made if one.input[0] == node.inputs[0])
            for one in made:
                one.name = node.name if one is main else self._unique(f"{node.name}/{one.op_type}")
            self.nodes[-1].output[0] = node.name
        for name, node_name in self.graph.outputs.items():
            if name != node_name:
                if name in self.channels:
                    raise ValueError(f"{self.graph.name}: the output {name!r} is not that node")
                self.node("Identity", node_name)
                self.nodes[-1].output[0] = name
        ends = self.proto.graph
        ends.input.extend(self._value(*pair) for pair in self.graph.inputs.items())
        ends.output.extend(self._value(*pair) for pair in self.graph.outputs.items())
        data = bytes(self.proto.SerializeToString())
        self.onnx.checker.check_model(data)
        return data

    def _value(self, name: str, tensor: str | int) -> Any:
        """An input, with its channels, or an output, with the node that makes it."""
        known = isinstance(tensor, int)
        sides = [f"{name}_height", f"{name}_width"] if known else [None, None]
        shape = ["batch", tensor if isinstance(tensor, int) else self.channels[tensor], *sides]
        return self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape)

    def _unique(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the name of its result, until that is the one of our node."""
        name = self._unique(f"{op}:{len(self.nodes)}")
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, value: Any, name: str = "") -> str:
        """Add an array of weights, or of numbers that are known."""
        constants = self.proto.graph.initializer
        name = self._unique(name or f"constant:{len(constants)}")
        constants.append(self.onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def weight(self, node: Node, kind: str, change: Callable[[Array], Array]) -> list[str]:
        """The name of a weight as a list, which is empty where the node has none of that kind."""
        key = f"{node.name}/{kind}"
        return [self.constant(change(self.weights[key]), key)] if key in self.weights else []


def _filter(w: _Writer, node: Node) -> None:
    """Any of the three convolutions, and the function behind it."""
    attrs = node.attrs
    x, channels = node.inputs[0], w.channels[node.inputs[0]]
    weights = [
        *w.weight(node, "kernel", lambda kernel: to_channels_first(node.op, kernel)),
        *w.weight(node, "bias", np.asarray),
    ]
    options = {
        "kernel_shape": attrs["kernel"],
        "strides": attrs["stride"],
        "dilations": attrs["dilation"],
        "group": attrs.get("groups", channels),  # of a depthwise one as many as channels
    }
    if node.op == "conv2d_transpose":
        w.node("ConvTranspose", x, *weights, **options, **_crop_of_transposed(node))
    else:
        _activated(w, node, w.node("Conv", x, *weights, **options, **_padding(node, "kernel")))


def _padding(node: Node, window: str) -> dict[str, Any]:
    """What is around the image; "same" depends on its size only where there is a stride."""
    attrs = node.attrs
    stride, dilation = attrs["stride"], attrs.get("dilation", [1, 1])
    if attrs["padding"] == "same":
        if stride == [1, 1]:
            totals = [(k - 1) * d for k, d in zip(attrs[window], dilation, strict=True)]
            return {"pads": [t // 2 for t in totals] + [t - t // 2 for t in totals]}
        if dilation == [1, 1]:
            return {"auto_pad": "SAME_UPPER"}
        raise ValueError(
            f"{node.where}: ONNX has no padding 'same' for stride {stride} and dilation {dilation} "
            "at once; pad explicitly"
        )
    (top, bottom), (left, right) = (
        ((0, 0), (0, 0)) if attrs["padding"] == "valid" else attrs["padding"]
    )
    return {"pads": [top, left, bottom, right]}


def _crop_of_transposed(node: Node) -> dict[str, Any]:
    """It is the same for images of any size."""
    (top, bottom), (left, right) = transposed(node.attrs, (1, 1))[0]
    past = [max(-end, 0) for end in (bottom, right)]
    return {"pads": [top, left, max(bottom, 0), max(right, 0)], "output_padding": past}


def _activated(w: _Writer, node: Node, x: str) -> None:
    """The function of a node that has one, of the tensor `x`."""
    name, alpha = node.attrs["activation"], node.attrs.get("alpha")
    if name is None:
        return
    if name == "prelu":
        w.node("PRelu", x, *w.weight(node, "slopes", lambda slopes: slopes[:, None, None]))
    elif name == "relu6":
        w.node("Clip", x, *(w.constant(np.float32(end)) for end in (0, 6)))
    elif name == "silu":
        w.node("Mul", x, w.node("Sigmoid", x))
    else:
        op, options = FUNCTIONS[name]
        given = {} if alpha is None else {"alpha": alpha}
        w.node(op, x, **options | given)


def _activation(w: _Writer, node: Node) -> None:
    _activated(w, node, node.inputs[0])
    if node.attrs["activation"] is None:
        w.node("Identity", node.inputs[0])


def _pool(op: str) -> Callable[[_Writer, Node], None]:
    def write(w: _Writer, node: Node) -> None:
        attrs = node.attrs
        w.node(op, node.inputs[0], kernel_shape=attrs["size"], strides=attrs["stride"],
               ceil_mode=int(attrs["ceil_mode"]), **_padding(node, "size"))  # fmt: skip

    return write


def _plain(op: str, **options: Any) -> Callable[[_Writer, Node], None]:
    def write(w: _Writer, node: Node) -> None:
        w.node(op, *node.inputs, **options)

    return write


def _add(w: _Writer, node: Node) -> None:
    _activated(w, node, w.node("Add" if len(node.inputs) == 2 else "Sum", *node.inputs))


def _multiply(w: _Writer, node: Node) -> None:
    product, *others = node.inputs
    for other in others:
        product = w.node("Mul", product, other)


def _pad(w: _Writer, node: Node) -> None:
    (top, bottom), (left, right) = node.attrs["sides"]
    w.node("Pad", node.inputs[0], w.constant([0, 0, top, left, 0, 0, bottom, right]))


def _trim(w: _Writer, node: Node) -> None:
    (top, bottom), (left, right) = node.attrs["sides"]
    ends = w.constant([-side if side else LAST for side in (bottom, right)])
    w.node("Slice", node.inputs[0], w.constant([top, left]), ends, w.constant(SPATIAL))


def _crop(w: _Writer, node: Node) -> None:
    start = w.constant(node.attrs["offset"])
    end = w.node("Add", start, _size(w, node.inputs[1]))
    w.node("Slice", node.inputs[0], start, end, w.constant(SPATIAL))


def _size(w: _Writer, tensor: str) -> str:
    return w.node("Shape", tensor, start=2, end=4)


def _upsample(w: _Writer, node: Node) -> None:
    scales = w.constant(np.float32(node.attrs["factor"]))
    w.node("Resize", node.inputs[0], "", scales, axes=SPATIAL, **METHODS[node.attrs["method"]])


def _resize(w: _Writer, node: Node) -> None:
    x, attrs = node.inputs[0], node.attrs
    method = attrs.get("method", "bilinear")
    if method == "nearest":
        _pick(w, x, attrs["size"])
    else:
        sizes = w.constant(attrs["size"]) if "size" in attrs else _size(w, node.inputs[1])
        w.node("Resize", x, "", "", sizes, axes=SPATIAL, **METHODS[method])


def _pick(w: _Writer, x: str, size: list[int]) -> None:
    """The pixel in which each centre lies, in integers: Resize rounds, and some lie on borders."""
    for axis, new in zip(SPATIAL, size, strict=True):
        old = w.node("Shape", x, start=axis, end=axis + 1)
        centres = w.node("Mul", old, w.constant(2 * np.arange(new) + 1))
        x = w.node("Gather", x, w.node("Div", centres, w.constant([2 * new])), axis=axis)


# our function -> operator and attributes; `alpha` replaces that of a node that has one
FUNCTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "elu": ("Elu", {"alpha": 1.0}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "hard_swish": ("HardSwish", {}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
}
# with half-pixel centres all of them
METHODS: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "linear"},
    "nearest": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
}
WRITERS: dict[str, Callable[[_Writer, Node], None]] = {
    "conv2d": _filter,
    "depthwise_conv2d": _filter,
    "conv2d_transpose": _filter,
    "max_pool2d": _pool("MaxPool"),
    "avg_pool2d": _pool("AveragePool"),
    "global_max_pool2d": _plain("GlobalMaxPool"),
    "global_avg_pool2d": _plain("GlobalAveragePool"),
    "activation": _activation,
    "softmax": _plain("Softmax", axis=1),
    "add": _add,
    "subtract": _plain("Sub"),
    "multiply": _multiply,
    "average": _plain("Mean"),
    "maximum": _plain("Max"),
    "minimum": _plain("Min"),
    "pad2d": _pad,
    "trim2d": _trim,
    "upsample2d": _upsample,
    "resize2d": _resize,
    "resize2d_to": _resize,
    "concat": _plain("Concat", axis=1),
    "crop": _crop,
}

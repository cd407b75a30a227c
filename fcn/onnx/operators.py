"""What each ONNX operator means in a graph; nothing else is understood."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fcn.building import NOT_FIXED, Array, Tensor
from fcn.layouts import from_channels_first
from fcn.onnx.call import Call
from fcn.onnx.constants import node_of
from fcn.ops import transposed

UNCHANGED = ("Identity", "Dropout")
HALF_PIXEL = ("half_pixel", "pytorch_half_pixel")
ENDLESS = 2**31 - 1  # how exporters say "up to the end": this or more


def _conv(call: Call) -> Tensor:
    x, kernel, groups = call.x, call.weights(1), call.get("group", 1)
    if kernel.ndim != 4:
        raise ValueError(f"its kernel has {kernel.ndim} axes; only 2D convolutions are supported")
    size = list(kernel.shape[2:])
    attrs = {"kernel": size, "dilation": list(call.get("dilations", [1, 1])), **call.window(size)}
    filters, depth = kernel.shape[:2]
    if depth * groups != x.channels:
        raise ValueError(f"its kernel {kernel.shape} does not fit {x.channels} channels")
    if isinstance(attrs["padding"], list):
        x, sides = call.builder.without_padding(x)
        if sides:
            attrs["padding"] = (np.array(attrs["padding"]) + sides).tolist()
    bias = call.constant(2)
    attrs["use_bias"] = bias is not None
    if filters % groups:
        raise ValueError(f"group={groups} does not divide its {filters} filters")
    if groups == x.channels > 1:
        attrs["multiplier"] = filters // groups
        y = call.builder.add(call.name, "depthwise_conv2d", [x], **attrs)
    else:
        y = call.builder.add(call.name, "conv2d", [x], filters=filters, groups=groups, **attrs)
    _keep(call, kernel, bias)
    return y


def _keep(call: Call, kernel: Array, bias: Array | None) -> None:
    """The weights of the node that was just added."""
    node = call.builder.nodes[call.name]
    call.builder.weights[f"{call.name}/kernel"] = from_channels_first(node.op, kernel, node.attrs)
    if bias is not None:
        call.builder.weights[f"{call.name}/bias"] = bias.ravel()


def _conv_transpose(call: Call) -> Tensor:
    call.insist(auto_pad="NOTSET", output_shape=None)
    kernel, bias, groups = call.weights(1), call.constant(2), call.get("group", 1)
    if kernel.ndim != 4:
        raise ValueError(f"its kernel has {kernel.ndim} axes; only 2D convolutions are supported")
    top, left, bottom, right = call.get("pads", [0, 0, 0, 0])
    down, across = more = list(call.get("output_padding", [0, 0]))
    window: dict[str, Any] = {
        "kernel": list(kernel.shape[2:]),
        "stride": list(call.get("strides", [1, 1])),
        "dilation": list(call.get("dilations", [1, 1])),
    }
    crop = (top, bottom - down), (left, right - across)
    sides = [[top, bottom], [left, right]]
    padding: dict[str, Any] = {
        "padding": "valid",
        "output_padding": more,
    }  # and what is left to crop
    for name in ("valid", "same"):
        usual = {"padding": name, "output_padding": None}
        if transposed({**window, **usual}, (1, 1))[0] == crop:
            padding, sides = usual, []
    y = call.builder.add(
        call.name, "conv2d_transpose", [call.x], filters=kernel.shape[1] * groups, groups=groups,
        use_bias=bias is not None, **window, **padding,
    )  # fmt: skip
    _keep(call, kernel, bias)
    if not any(map(any, sides)):
        return y
    return call.builder.add(f"{call.name}/crop", "trim2d", [y], sides=sides)


def _batch_norm(call: Call) -> Tensor:
    scale, shift, mean, variance = (call.weights(i).astype(float) for i in (1, 2, 3, 4))
    total = variance + call.get("epsilon", 1e-5)
    if not np.all(total > 0):
        raise ValueError("a variance is not positive")
    return call.builder.scaled(call.name, call.x, scale / np.sqrt(total), shift, mean)


def _function(name: str, alpha: float | None = None) -> Callable[[Call], Tensor]:
    def make(call: Call) -> Tensor:
        given = None if alpha is None else float(call.get("alpha", alpha))
        return call.builder.activated(call.name, call.x, name, given)

    return make


def _hard_sigmoid(call: Call) -> Tensor:
    slope, centre = call.get("alpha", 0.2), call.get("beta", 0.5)
    if not math.isclose(slope, 1 / 6, rel_tol=1e-6) or centre != 0.5:
        raise ValueError(f"alpha={slope}, beta={centre} is not supported, only 1/6 and 0.5")
    return call.builder.activated(call.name, call.x, "hard_sigmoid")


def _gelu(call: Call) -> Tensor:
    name = "gelu" if call.get("approximate", "none") == "none" else "gelu_tanh"
    return call.builder.activated(call.name, call.x, name)


def _prelu(call: Call) -> Tensor:
    slopes = _per_channel(call.weights(1), call.x)
    return call.builder.prelu(call.name, call.x, np.broadcast_to(slopes, call.x.channels))


def _clip(call: Call) -> Tensor:
    low, high = call.option("min", 1, -math.inf), call.option("max", 2, math.inf)
    if low == 0 and high == 6:
        return call.builder.activated(call.name, call.x, "relu6")
    if low == 0 and high >= float(np.finfo(np.float32).max):
        return call.builder.activated(call.name, call.x, "relu")
    raise ValueError(f"from {low} to {high} is not supported, only from 0 to 6 or without end")


def _softmax(call: Call) -> Tensor:
    rank = 2 if call.x.vector else 4
    axis = call.get("axis", 1 if call.opset < 13 else -1) % rank
    if axis != 1 or (rank == 4 and call.opset < 13):
        raise ValueError("only over the channels, in opset 13 or later")
    return call.builder.activated(call.name, call.x, "softmax")


def _pool(op: str) -> Callable[[Call], Tensor]:
    def make(call: Call) -> Tensor:
        call.insist(dilations=[1, 1], storage_order=0)
        size = list(call.attrs["kernel_shape"])
        attrs, x = call.window(size), call.x
        ceil = bool(call.get("ceil_mode", 0))
        if op == "avg_pool2d" and call.get("count_include_pad", 0) and attrs["padding"] != "valid":
            if ceil or not isinstance(attrs["padding"], list):
                raise ValueError("count_include_pad=1 with ceil_mode or auto_pad")
            if np.any(attrs["padding"]):
                x = call.builder.add(f"{call.name}/pad", "pad2d", [x], sides=attrs["padding"])
            attrs["padding"] = "valid"
        return call.builder.add(call.name, op, [x], size=size, ceil_mode=ceil, **attrs)

    return make


def _global_pool(op: str) -> Callable[[Call], Tensor]:
    return lambda call: call.builder.add(call.name, op, [call.x])


def _reduce_mean(call: Call) -> Tensor:
    axes = call.option("axes", 1)
    if axes is None or sorted(a % 4 for a in axes) != [2, 3] or call.x.vector:
        raise ValueError(f"axes={axes} is not supported; reduce height and width")
    made = call.builder.add(call.name, "global_avg_pool2d", [call.x])
    return replace(made, vector=not call.get("keepdims", 1))


def _merge(op: str) -> Callable[[Call], Tensor]:
    def make(call: Call) -> Tensor:
        inputs = [call.tensor(i) for i in range(len(call.inputs))]
        if len(inputs) == 1:
            return inputs[0]
        made = call.builder.add(call.name, op, inputs)
        return replace(made, vector=all(x.vector for x in inputs))

    return make


def _arithmetic(op: str) -> Callable[[Call], Tensor]:
    """Of two tensors, or of one and numbers, which become weights."""

    def make(call: Call) -> Tensor:
        known = [not isinstance(value, Tensor) for value in call.inputs]
        if not any(known):
            if op == "divide":
                raise ValueError("only by constants; multiply by the inverse")
            return _merge(op)(call)
        x = call.tensor(0 if known[1] else 1)
        numbers = _per_channel(call.weights(1 if known[1] else 0), x).astype(float)
        swapped = known[0]
        if op == "divide" and swapped:
            raise ValueError("only by constants; multiply by the inverse")
        factor, summand = {
            "add": (1.0, numbers),
            "subtract": (-1.0 if swapped else 1.0, numbers if swapped else -numbers),
            "multiply": (numbers, 0.0),
            "divide": (1 / numbers if op == "divide" else 1.0, 0.0),
        }[op]
        return call.builder.scaled(call.name, x, factor, summand)

    return make


def _per_channel(numbers: Array, x: Tensor) -> Array:
    """One number, or one for each channel."""
    axes = 1 if x.vector else 3
    shape = (1,) * (axes + 1 - numbers.ndim) + numbers.shape if numbers.ndim else (1,) * (axes + 1)
    places = [i for i, size in enumerate(shape) if size != 1]
    if places in ([], [1]) and numbers.size in (1, x.channels):
        return numbers.ravel()
    raise ValueError(f"numbers of shape {numbers.shape} are not one for each channel")


def _concat(call: Call) -> Tensor:
    inputs = [call.tensor(i) for i in range(len(call.inputs))]
    vector = all(x.vector for x in inputs)
    if call.attrs["axis"] % (2 if vector else 4) != 1:
        raise ValueError(f"axis={call.attrs['axis']} is not supported; join the channels")
    if len(inputs) == 1:
        return inputs[0]
    return replace(call.builder.add(call.name, "concat", inputs), vector=vector)


def _sides(call: Call, index: int, of_channels: int) -> list[Any] | None:
    """What an input says of height and width; None where it says nothing."""
    found = call.constant(index)
    if found is None or not found.size:
        return None
    axes = (axis % 4 for axis in call.get("axes", range(4)))
    said = dict(zip(axes, found.tolist(), strict=True))
    if not {2, 3} <= said.keys() or said.get(1, of_channels) != of_channels:
        raise ValueError(f"{found.tolist()} is not supported; resize height and width")
    return [said[2], said[3]]


def _resize(call: Call) -> Tensor:
    """To sizes, or by factors; to the size of another tensor where that is what it is."""
    mode = call.get("mode", "nearest")
    method = {"linear": "bilinear", "nearest": "nearest"}.get(mode)
    if method is None:
        raise ValueError(f"mode={mode!r} is not supported; use linear or nearest")
    place = call.get("coordinate_transformation_mode", "half_pixel")
    place = "asymmetric" if len(call.inputs) == 2 else place
    factor = _sides(call, 1 if len(call.inputs) == 2 else 2, 1)
    size = _sides(call, 3, call.x.channels)
    like = node_of(size) if size else None
    if like and method == "bilinear" and place in HALF_PIXEL:
        return call.builder.add(call.name, "resize2d", [call.x, Tensor(like, 0)])
    before = call.builder.shape_of(call.x)[:2] if call.builder.fixed else (0, 0)
    if size is None:
        if factor is None:
            raise ValueError("sizes or scales are wanted")
        size = [math.floor(b * f) for b, f in zip(before, factor, strict=True)]
    elif all(before) and all(s % b == 0 for s, b in zip(size, before, strict=True)):
        factor = [s / b for s, b in zip(size, before, strict=True)]
    whole = factor is not None and all(f == int(f) and f >= 1 for f in factor)
    rounding = call.get("nearest_mode", "round_prefer_floor" if len(call.inputs) > 2 else "floor")
    repeats = method == "nearest" and whole and (place, rounding) in (
        ("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "floor"),
        ("pytorch_half_pixel", "floor"), ("half_pixel", "round_prefer_ceil"),
    )  # fmt: skip
    if not repeats and (method == "nearest" or place not in HALF_PIXEL):
        raise ValueError(f"{mode} with {place} coordinates is not supported; use half_pixel")
    alike = [x for x in call.builder.inputs if call.builder.sizes[x.node] == tuple(size)]
    if method == "bilinear" and alike:
        return call.builder.add(call.name, "resize2d", [call.x, alike[0]])
    if whole and factor is not None:
        whole_factor = [int(f) for f in factor]
        return call.builder.add(
            call.name, "upsample2d", [call.x], factor=whole_factor, method=method
        )
    if not all(type(s) is int and s > 0 for s in size):
        raise ValueError(NOT_FIXED)
    return call.builder.add(call.name, "resize2d_to", [call.x], size=size, method=method)


def _pad(call: Call) -> Tensor:
    call.insist(mode="constant")
    pads = call.option("pads", 1)
    value = call.option("value", 2, 0.0)
    if pads is None or len(pads) != 8 or any(pads[i] for i in (0, 1, 4, 5)) or value != 0:
        raise ValueError(f"pads={pads}, value={value} is not supported; pad the sides with zeros")
    sides = [[pads[2], pads[6]], [pads[3], pads[7]]]
    if min(map(min, sides)) >= 0:
        return call.builder.add(call.name, "pad2d", [call.x], sides=sides)
    if max(map(max, sides)) <= 0:
        less = [[-a for a in side] for side in sides]
        return call.builder.add(call.name, "trim2d", [call.x], sides=less)
    raise ValueError(f"pads={pads} both adds and takes away; do one after the other")


def _slice(call: Call) -> Tensor:
    """Rows and columns that are left out at the sides."""
    starts, ends = (call.option(key, i) for i, key in enumerate(("starts", "ends"), 1))
    axes, steps = call.option("axes", 3, range(len(starts))), call.option("steps", 4, [1] * 4)
    sides = {2: [0, 0], 3: [0, 0]}
    if [a % 4 for a in axes] == [2, 3] and set(steps) == {1} and (like := node_of(ends, starts)):
        return call.builder.add(call.name, "crop", [call.x, Tensor(like, 0)], offset=list(starts))
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=False):
        side = sides.get(axis % 4)
        if side is None or step != 1 or call.x.vector:
            raise ValueError(f"of axis {axis} in steps of {step} is not supported; cut the sides")
        if start < 0 or 0 <= end < ENDLESS:
            size = call.builder.shape_of(call.x)[axis % 4 - 2]
            start, end, _ = slice(start, end).indices(size)
            end -= size
        side[:] = start, 0 if end >= ENDLESS else -end
    return call.builder.add(call.name, "trim2d", [call.x], sides=list(sides.values()))


def _flatten(call: Call) -> Tensor:
    x = call.x
    if call.get("axis", 1) != 1:
        raise ValueError(f"axis={call.attrs['axis']} is not supported, only 1")
    return x if x.vector else replace(x, flat=call.builder.shape_of(x))


def _reshape(call: Call) -> Tensor:
    x, target = call.x, call.weights(1).astype(int).tolist()
    if x.vector and target[1:] in ([x.channels, 1, 1], [-1, 1, 1]):
        return replace(x, vector=False)
    h, w, c = (1, 1, x.channels) if x.vector else call.builder.shape_of(x)
    if len(target) == 2 and target[1] in (-1, h * w * c):
        return x if x.vector else replace(x, flat=(h, w, c))
    raise ValueError(f"to {target} is not supported, only flattening")


def _squeeze(call: Call) -> Tensor:
    axes = call.option("axes", 1)
    x = call.x
    if axes is not None and sorted(a % 4 for a in axes) == [2, 3] and not x.vector:
        return replace(x, vector=True)
    raise ValueError(f"axes={axes} is not supported, only height and width of one pixel")


def _unsqueeze(call: Call) -> Tensor:
    axes = call.option("axes", 1)
    if axes is not None and sorted(a % 4 for a in axes) == [2, 3] and call.x.vector:
        return replace(call.x, vector=False)
    raise ValueError(f"axes={axes} is not supported, only height and width of a vector")


def _dense(call: Call) -> Tensor:
    """Gemm and MatMul: a convolution as large as the map that was flattened."""
    call.insist(alpha=1.0, beta=1.0, transA=0)
    x = call.inputs[0]
    if not isinstance(x, Tensor) or not (x.flat or x.vector):
        raise ValueError("only of vectors with constants")
    matrix = call.weights(1)
    matrix = matrix.T if call.get("transB", 0) else matrix
    h, w, c = x.flat or (1, 1, x.channels)
    units = matrix.shape[1]
    if matrix.shape[0] != h * w * c:
        raise ValueError(f"its matrix {matrix.shape} does not fit {h * w * c} numbers")
    bias = call.constant(2)
    y = call.builder.add(
        call.name, "conv2d", [replace(x, flat=None)], filters=units, kernel=[h, w],
        use_bias=bias is not None,
    )  # fmt: skip
    bias = None if bias is None else np.broadcast_to(bias, units)
    _keep(call, matrix.reshape(c, h, w, units).transpose(3, 0, 1, 2), bias)
    return replace(y, vector=True)


OPERATORS: dict[str, Callable[[Call], Tensor]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "BatchNormalization": _batch_norm,
    "Relu": _function("relu"),
    "LeakyRelu": _function("leaky_relu", 0.01),
    "Elu": _function("elu", 1.0),
    "Sigmoid": _function("sigmoid"),
    "Tanh": _function("tanh"),
    "HardSwish": _function("hard_swish"),
    "HardSigmoid": _hard_sigmoid,
    "Gelu": _gelu,
    "PRelu": _prelu,
    "Clip": _clip,
    "Softmax": _softmax,
    "MaxPool": _pool("max_pool2d"),
    "AveragePool": _pool("avg_pool2d"),
    "GlobalMaxPool": _global_pool("global_max_pool2d"),
    "GlobalAveragePool": _global_pool("global_avg_pool2d"),
    "ReduceMean": _reduce_mean,
    "Add": _arithmetic("add"),
    "Sub": _arithmetic("subtract"),
    "Mul": _arithmetic("multiply"),
    "Div": _arithmetic("divide"),
    "Sum": _merge("add"),
    "Mean": _merge("average"),
    "Max": _merge("maximum"),
    "Min": _merge("minimum"),
    "Concat": _concat,
    "Resize": _resize,
    "Upsample": _resize,
    "Pad": _pad,
    "Slice": _slice,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gemm": _dense,
    "MatMul": _dense,
}

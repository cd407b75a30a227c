"""What each Keras layer means in a graph; nothing else is understood.

Batch normalisation is folded into the convolution before it where nothing else reads that; zero
padding and simple activations become attributes of a convolution. What works on every pixel by
itself, as Rescaling does, is a depthwise convolution of one tap. Vectors are maps of one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fcn.building import Array, Builder, Tensor
from fcn.keras.files import Place, Store
from fcn.ops import ACTIVATIONS, ELEMENTWISE

Config = dict[str, Any]
NAMES = {"swish": "silu", "hard_silu": "hard_swish"}  # Keras's name -> ours
UNCHANGED = (
    "Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout",
    "ActivityRegularization", "Identity", "InputLayer",
)  # fmt: skip
EPSILON = 1e-7  # Keras's, below which Normalization does not divide


@dataclass(frozen=True)
class Layer:
    """One call of a layer: its settings, and where its arrays are."""

    name: str  # of the node
    kind: str
    config: Config
    trail: tuple[Place, ...]
    builder: Builder
    store: Store

    def __getitem__(self, key: str) -> Any:
        return self.config[key]

    def get(self, key: str, default: Any = None) -> Any:
        """A setting that some releases of Keras do not write."""
        return self.config.get(key, default)

    def array(self, index: int, names: Sequence[str], *shape: int) -> Array:
        """A variable."""
        return self.store.read(self.trail, index, names, shape)

    def insist(self, nearest: str, **wanted: Any) -> None:
        """ValueError unless the settings have these values, or are not there."""
        for key, value in wanted.items():
            got = self.config.get(key, value)
            if got != value:
                raise ValueError(f"{key}={got!r} is not supported; {nearest}")


def _conv(layer: Layer, x: Tensor) -> Tensor:
    kh, kw = _pair(layer["kernel_size"])
    filters, groups = layer["filters"], layer.get("groups", 1)
    if x.channels % groups:
        raise ValueError(f"groups={groups} does not divide the {x.channels} channels that it reads")
    kernel = layer.array(0, ("kernel",), kh, kw, x.channels // groups, filters)
    return _convolve(layer, layer.name, "conv2d", x, kernel, 1, filters=filters, groups=groups)


def _depthwise(layer: Layer, x: Tensor) -> Tensor:
    kh, kw = _pair(layer["kernel_size"])
    m = layer["depth_multiplier"]
    kernel = layer.array(0, ("kernel", "depthwise_kernel"), kh, kw, x.channels, m)
    return _convolve(layer, layer.name, "depthwise_conv2d", x, kernel, 1, multiplier=m)


def _separable(layer: Layer, x: Tensor) -> Tensor:
    (kh, kw), m, filters = _pair(layer["kernel_size"]), layer["depth_multiplier"], layer["filters"]
    name = f"{layer.name}/depthwise"
    y = _slide(layer, name, "depthwise_conv2d", x, multiplier=m, use_bias=False)
    layer.builder.weights[f"{name}/kernel"] = layer.array(
        0, ("depthwise_kernel",), kh, kw, x.channels, m
    )
    kernel = layer.array(1, ("pointwise_kernel",), 1, 1, y.channels, filters)
    pointwise = replace(layer, config={**layer.config, "kernel_size": 1, "strides": 1,
                                       "dilation_rate": 1, "padding": "valid"})  # fmt: skip
    return _convolve(pointwise, layer.name, "conv2d", y, kernel, 2, filters=filters)


def _transposed(layer: Layer, x: Tensor) -> Tensor:
    (kh, kw), filters = _pair(layer["kernel_size"]), layer["filters"]
    name, bias, more = layer.name, bool(layer["use_bias"]), layer.get("output_padding")
    y = layer.builder.add(
        name, "conv2d_transpose", [x], filters=filters, kernel=[kh, kw],
        stride=_pair(layer["strides"]), dilation=_pair(layer.get("dilation_rate", 1)),
        padding=layer["padding"], output_padding=more and _pair(more), use_bias=bias,
    )  # fmt: skip
    layer.builder.weights[f"{name}/kernel"] = layer.array(
        0, ("kernel",), kh, kw, filters, x.channels
    )
    if bias:
        layer.builder.weights[f"{name}/bias"] = layer.array(1, ("bias",), filters)
    return _activated(layer, y, *_activation(layer.get("activation")))


def _convolve(
    layer: Layer, name: str, op: str, x: Tensor, kernel: Array, bias_index: int, **attrs: Any
) -> Tensor:
    bias = bool(layer["use_bias"])
    y = _slide(layer, name, op, x, use_bias=bias, **attrs)
    layer.builder.weights[f"{name}/kernel"] = kernel
    if bias:
        layer.builder.weights[f"{name}/bias"] = layer.array(bias_index, ("bias",), y.channels)
    return _activated(layer, y, *_activation(layer.get("activation")))


def _slide(layer: Layer, name: str, op: str, x: Tensor, **attrs: Any) -> Tensor:
    """A convolution's node; zero padding before it that nothing else reads becomes its own."""
    padding: Any = layer["padding"]
    if padding == "valid":
        x, sides = layer.builder.without_padding(x)
        padding = sides or padding
    return layer.builder.add(
        name, op, [x], kernel=_pair(layer["kernel_size"]), stride=_pair(layer["strides"]),
        dilation=_pair(layer.get("dilation_rate", 1)), padding=padding, **attrs,
    )  # fmt: skip


def _dense(layer: Layer, x: Tensor) -> Tensor:
    h, w, c = x.flat or (1, 1, x.channels)
    units = layer["units"]
    kernel = layer.array(0, ("kernel",), h * w * c, units).reshape(h, w, c, units)
    as_conv = replace(layer, config={**layer.config, "kernel_size": [h, w], "strides": 1,
                                     "padding": "valid"})  # fmt: skip
    before = replace(x, flat=None)
    y = _convolve(as_conv, layer.name, "conv2d", before, kernel, 1, filters=units)
    return replace(y, vector=x.vector or x.flat is not None)


def _of_channels(layer: Layer) -> None:
    if layer.get("axis", -1) not in (-1, 3, [3], [-1]):
        raise ValueError(f"axis={layer['axis']!r} is not supported; normalise the channels")


def _batch_norm(layer: Layer, x: Tensor) -> Tensor:
    _of_channels(layer)
    names = [
        name for name, there in (("gamma", layer["scale"]), ("beta", layer["center"])) if there
    ]
    names += ["moving_mean", "moving_variance"]
    found = {n: layer.array(i, (n,), x.channels).astype(float) for i, n in enumerate(names)}
    variance = found["moving_variance"] + layer["epsilon"]
    if not np.all(variance > 0):
        raise ValueError("a variance is not positive")
    factor = found.get("gamma", 1.0) / np.sqrt(variance)
    return layer.builder.scaled(layer.name, x, factor, found.get("beta", 0.0), found["moving_mean"])


def _rescaling(layer: Layer, x: Tensor) -> Tensor:
    return layer.builder.affine(layer.name, x, layer["scale"], layer["offset"])


def _normalization(layer: Layer, x: Tensor) -> Tensor:
    layer.insist("use Rescaling", invert=False)
    _of_channels(layer)
    mean, variance = layer.get("mean"), layer.get("variance")
    if mean is None:
        mean = layer.array(0, ("mean",), x.channels)
        variance = layer.array(1, ("variance",), x.channels)
    deviation = np.maximum(np.sqrt(np.asarray(variance, float).ravel()), EPSILON)
    centre = np.asarray(mean, float).ravel()
    return layer.builder.affine(layer.name, x, 1 / deviation, 0.0, centre)


def _activation_layer(layer: Layer, x: Tensor) -> Tensor:
    return _activated(layer, x, *_activation(layer["activation"]))


def _relu(layer: Layer, x: Tensor) -> Tensor:
    layer.insist("use ReLU(), ReLU(6.0) or LeakyReLU", threshold=0.0)
    most, slope = layer.get("max_value"), layer.get("negative_slope", 0.0)
    if most is None:
        return _activated(layer, x, *(("leaky_relu", slope) if slope else ("relu", None)))
    if most != 6 or slope:
        raise ValueError(f"max_value={most} is not supported; use ReLU() or ReLU(6.0)")
    return _activated(layer, x, "relu6", None)


def _leaky_relu(layer: Layer, x: Tensor) -> Tensor:
    slope = layer.get("negative_slope", layer.get("alpha", 0.3))
    return _activated(layer, x, "leaky_relu", float(slope))


def _prelu(layer: Layer, x: Tensor) -> Tensor:
    shared = layer.get("shared_axes") or []
    if not x.vector and not {1, 2} <= set(shared):
        raise ValueError(f"shared_axes={shared}: slopes of pixels are not supported; use [1, 2]")
    sizes = {1: x.channels} if x.vector else {1: 1, 2: 1, 3: x.channels}
    shape = [1 if axis in shared else size for axis, size in sizes.items()]
    slopes = layer.array(0, ("alpha",), *shape)
    return layer.builder.prelu(layer.name, x, np.broadcast_to(slopes.ravel(), x.channels))


def _elu(layer: Layer, x: Tensor) -> Tensor:
    return _activated(layer, x, "elu", float(layer["alpha"]))


def _softmax(layer: Layer, x: Tensor) -> Tensor:
    layer.insist("use the channels", axis=-1)
    return _activated(layer, x, "softmax", None)


def _activation(setting: Any) -> tuple[str | None, float | None]:
    """Our name of an activation function, and its parameter."""
    name = setting["config"] if isinstance(setting, dict) else setting
    name = NAMES.get(name, name)
    if name in (None, "linear"):
        return None, None
    known = [n for n in ACTIVATIONS if n and n != "prelu"]  # that one is a layer in Keras
    if name not in ("softmax", *known):
        raise ValueError(f"activation {name!r} is not supported; those that are: {known}")
    return name, 0.2 if name == "leaky_relu" else None  # Keras's default slope


def _activated(layer: Layer, x: Tensor, name: str | None, alpha: float | None) -> Tensor:
    """Inside the node before where that can do it and nothing else reads it, or as a node."""
    return layer.builder.activated(layer.name, x, name, alpha)


def _pool(op: str) -> Callable[[Layer, Tensor], Tensor]:
    def make(layer: Layer, x: Tensor) -> Tensor:
        size = _pair(layer["pool_size"])
        stride = _pair(layer["strides"] or size)
        return layer.builder.add(
            layer.name, op, [x], size=size, stride=stride, padding=layer["padding"]
        )

    return make


def _global_pool(op: str) -> Callable[[Layer, Tensor], Tensor]:
    def make(layer: Layer, x: Tensor) -> Tensor:
        made = layer.builder.add(layer.name, op, [x])
        return replace(made, vector=not layer.get("keepdims", False))

    return make


def _merge(op: str) -> Callable[..., Tensor]:
    def make(layer: Layer, *inputs: Tensor) -> Tensor:
        if len(inputs) < 2:
            raise ValueError("it reads one tensor; leave it out")
        made = layer.builder.add(layer.name, op, inputs)
        return replace(made, vector=all(x.vector for x in inputs))

    return make


def _concatenate(layer: Layer, *inputs: Tensor) -> Tensor:
    vector = all(x.vector for x in inputs)
    if layer.get("axis", -1) not in (-1, 1 if vector else 3):
        raise ValueError(f"axis={layer['axis']} is not supported; join the channels")
    return replace(layer.builder.add(layer.name, "concat", inputs), vector=vector)


def _zero_padding(layer: Layer, x: Tensor) -> Tensor:
    return layer.builder.add(layer.name, "pad2d", [x], sides=[list(s) for s in layer["padding"]])


def _cropping(layer: Layer, x: Tensor) -> Tensor:
    return layer.builder.add(layer.name, "trim2d", [x], sides=[list(s) for s in layer["cropping"]])


def _up_sampling(layer: Layer, x: Tensor) -> Tensor:
    method = _method(layer.get("interpolation", "nearest"))
    return layer.builder.add(
        layer.name, "upsample2d", [x], factor=_pair(layer["size"]), method=method
    )


def _resizing(layer: Layer, x: Tensor) -> Tensor:
    layer.insist(
        "resize to the whole size",
        crop_to_aspect_ratio=False, pad_to_aspect_ratio=False, antialias=False,
    )  # fmt: skip
    size = [layer["height"], layer["width"]]
    method = _method(layer.get("interpolation", "bilinear"))
    return layer.builder.add(layer.name, "resize2d_to", [x], size=size, method=method)


def _method(name: str) -> str:
    if name not in ("nearest", "bilinear"):
        raise ValueError(f"interpolation {name!r} is not supported; use 'bilinear' or 'nearest'")
    return name


def _flatten(layer: Layer, x: Tensor) -> Tensor:
    if x.vector or x.flat:
        return x
    return replace(x, flat=layer.builder.shape_of(x))


def _reshape(layer: Layer, x: Tensor) -> Tensor:
    target = list(layer["target_shape"])
    count = math.prod(size for size in target if size != -1)
    if x.vector and target[:-1] in ([], [1, 1]) and target[-1] in (x.channels, -1) and count:
        return replace(x, vector=len(target) == 1)
    raise ValueError(f"target_shape={target} is not supported; only (1, 1, channels) of a vector")


def _pair(value: Any) -> list[int]:
    pair = list(value) if isinstance(value, (list, tuple)) else [value, value]
    return [int(v) for v in pair]


LAYERS: dict[str, Callable[..., Tensor]] = {
    "Conv2D": _conv,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "Conv2DTranspose": _transposed,
    "Dense": _dense,
    "BatchNormalization": _batch_norm,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Activation": _activation_layer,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "PReLU": _prelu,
    "ELU": _elu,
    "Softmax": _softmax,
    "MaxPooling2D": _pool("max_pool2d"),
    "AveragePooling2D": _pool("avg_pool2d"),
    "GlobalMaxPooling2D": _global_pool("global_max_pool2d"),
    "GlobalAveragePooling2D": _global_pool("global_avg_pool2d"),
    **{name.capitalize(): _merge(name) for name in ELEMENTWISE},
    "Concatenate": _concatenate,
    "ZeroPadding2D": _zero_padding,
    "Cropping2D": _cropping,
    "UpSampling2D": _up_sampling,
    "Resizing": _resizing,
    "Flatten": _flatten,
    "Reshape": _reshape,
}

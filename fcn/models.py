"""The networks by name, their initial weights, and the models that are shipped."""

import math
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn import native
from fcn.architectures import fcn8s, fcn16s, fcn32s, two_conv, unet
from fcn.graph import Graph, Model, Node
from fcn.residual import fcn_mobilenet, fcn_resnet50, fcn_resnet101

__all__ = [
    "ARCHITECTURES",
    "PRETRAINED",
    "architecture",
    "bilinear_kernel",
    "fcn8s",
    "fcn16s",
    "fcn32s",
    "fcn_mobilenet",
    "fcn_resnet50",
    "fcn_resnet101",
    "initialise",
    "pretrained",
    "two_conv",
    "unet",
]

ARCHITECTURES: dict[str, Callable[..., Graph]] = {
    "two_conv": two_conv,
    "fcn32s": fcn32s,
    "fcn16s": fcn16s,
    "fcn8s": fcn8s,
    "unet": unet,
    "fcn_resnet50": fcn_resnet50,
    "fcn_resnet101": fcn_resnet101,
    "fcn_mobilenet": fcn_mobilenet,
}
PRETRAINED = ("digits_fcn8s", "digits_two_conv")


def architecture(text: str) -> Graph:
    """The network that a line of text names: ``name:classes[:option[=value]...]``.

    Options are the keyword arguments of the function of that name; one without a value is True.

    >>> architecture("fcn8s:21:width=8:caffe").name
    'fcn8s_caffe'

    Raises
    ------
    ValueError
        For a name that is not one of `ARCHITECTURES`, or classes or options that do not fit.
    """
    name, *rest = text.split(":")
    if name not in ARCHITECTURES or not rest:
        raise ValueError(
            f"architecture {text!r} is not known; write it as fcn8s:21:width=8, with one of the "
            f"names {', '.join(ARCHITECTURES)}"
        )
    options: dict[str, Any] = {}
    try:
        for item in rest[1:]:
            key, _, value = item.partition("=")
            options[key] = int(value) if value else True
        return ARCHITECTURES[name](int(rest[0]), **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model {text!r}: {error}; an example is fcn8s:21:width=8") from error


def initialise(graph: Graph, seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights to start training from.

    Convolutions: normal with variance ``2 / (kh * kw * c)`` (He et al. 2015), or half of it where
    no activation follows; c is 1 for a depthwise one. Transposed convolutions: bilinear
    interpolation of each channel, as the authors of FCN start theirs, or, where the 2x2 kernel of
    a U-Net is too small for that, normal with the variance of a convolution that sums as many
    products. Biases: zero. Slopes of "prelu": 1/4 (He et al. 2015).

    Parameters
    ----------
    graph : Graph
        The architecture.
    seed : int
        The same seed gives the same weights.

    Returns
    -------
    dict of str to float32 array
        One for each of ``graph.parameters()``.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in graph.parameters().items():
        node = graph.node(name.rpartition("/")[0])
        if name.endswith("/bias"):
            value = np.zeros(shape)
        elif name.endswith("/slopes"):
            value = np.full(shape, 0.25)
        elif node.op == "conv2d_transpose" and max(shape[:2]) > 2:
            groups = node.attrs["groups"]
            kernel = bilinear_kernel((shape[0], shape[1]), shape[2], shape[3] // groups)
            value = np.tile(kernel, groups)
        else:
            gain = 2.0 if node.attrs.get("activation") else 1.0
            value = rng.normal(0.0, math.sqrt(gain / _fan_in(node, shape)), shape)
        weights[name] = value.astype(np.float32)
    return weights


def _fan_in(node: Node, kernel: tuple[int, ...]) -> int:
    """How many products a number of the result sums, at most."""
    if node.op == "conv2d_transpose":
        strides: list[int] = node.attrs["stride"]
        channels: int = kernel[3] // node.attrs["groups"]
        return channels * math.prod(-(-k // s) for k, s in zip(kernel, strides, strict=False))
    return math.prod(kernel[: 2 if node.op == "depthwise_conv2d" else 3])


def bilinear_kernel(size: tuple[int, int], filters: int, channels: int) -> NDArray[np.float64]:
    """Kernel (kh, kw, filters, channels) that upsamples channel i to filter i bilinearly.

    The tap at distance d from the centre weighs ``1 - d / f`` with ``f = ceil(size / 2)``: twice
    the stride s when ``size = 2 * s`` (Long, Shelhamer and Darrell 2015, section 3.3).
    """
    taps = [1 - abs(np.arange(k) - (k - 1) / 2) / math.ceil(k / 2) for k in size]
    return np.asarray(np.einsum("p,q,kc->pqkc", *taps, np.eye(filters, channels)))


def pretrained(name: str) -> Model:
    """A trained model that comes with the package, such as ``"digits_fcn8s"``.

    Raises
    ------
    ValueError
        For a name that is not one of `PRETRAINED`.
    """
    if name not in PRETRAINED:
        raise ValueError(f"no model is named {name!r}; those shipped: {', '.join(PRETRAINED)}")
    with resources.as_file(resources.files("fcn") / "data" / f"{name}.npz") as path:
        return native.load(path)

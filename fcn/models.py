"""Architectures as functions that return a `Graph`, their initial weights, the shipped models."""

import math
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from fcn import native
from fcn.graph import INPUT, Graph, Model, Node

PRETRAINED = ("digits_fcn8s", "digits_two_conv")


def two_conv(num_classes: int, channels: int = 3, *, as_printed: bool = False) -> Graph:
    """The founding article's network: two convolutions, two pools, one transposed convolution.

    Parameters
    ----------
    num_classes : int
        Channels of the output.
    channels : int
        Channels of the input.
    as_printed : bool
        The article pools twice but upsamples once, by 2, so its output is (h/2, w/2) although its
        text promises the size of the image. True keeps that; the default upsamples by 4.

    Returns
    -------
    Graph
        Nodes ``conv1 pool1 conv2 pool2 upsample``.
    """
    factor = 2 if as_printed else 4
    last = {"filters": num_classes, "kernel": factor, "stride": factor}
    nodes = (
        _conv("conv1", INPUT, 64, 3),
        Node("pool1", "max_pool2d", ("conv1",), {"size": 2, "stride": 2, "padding": "valid"}),
        _conv("conv2", "pool1", 128, 3),
        Node("pool2", "max_pool2d", ("conv2",), {"size": 2, "stride": 2, "padding": "valid"}),
        Node("upsample", "conv2d_transpose", ("pool2",), last),
    )
    return Graph("two_conv_as_printed" if as_printed else "two_conv", channels, nodes, "upsample")


def fcn8s(
    num_classes: int,
    channels: int = 3,
    *,
    width: int = 64,
    fc: int = 4096,
    fc_kernel: int = 7,
) -> Graph:
    """FCN-8s on VGG16 (Long, Shelhamer and Darrell 2015), with the authors' layer names.

    Where the authors pad the image by 100 pixels and crop what is too much, this graph pads every
    layer as TensorFlow's "same" and every pool covers a remainder, so that any image of at least
    1 x 1 pixels works. Upsampled maps are then up to one pixel larger than the ones they meet and
    are cropped at the bottom and right: cell ``i`` of a map of stride ``s`` stays centred on
    pixels ``s * i ... s * i + s - 1``, so the crops need no offset.

    Parameters
    ----------
    num_classes : int
        Channels of the output.
    channels : int
        Channels of the input.
    width : int
        Filters of the first block; the five blocks have 1, 2, 4, 8 and 8 times as many.
    fc, fc_kernel : int
        Filters of fc6 and fc7, and the side of the kernel of fc6.

    Returns
    -------
    Graph
        Output ``score`` has the height and width of the input.
    """
    nodes: list[Node] = []
    last = INPUT
    for block, (convs, factor) in enumerate(((2, 1), (2, 2), (3, 4), (3, 8), (3, 8)), 1):
        for i in range(1, convs + 1):
            nodes.append(_conv(f"conv{block}_{i}", last, factor * width, 3))
            last = nodes[-1].name
        attrs = {"size": 2, "stride": 2, "padding": "same"}
        nodes.append(Node(f"pool{block}", "max_pool2d", (last,), attrs))
        last = nodes[-1].name
    nodes += [
        _conv("fc6", "pool5", fc, fc_kernel),
        _conv("fc7", "fc6", fc, 1),
        _conv("score_fr", "fc7", num_classes, 1, activation=None),
        _upscore("upscore2", "score_fr", num_classes, 2),
        _conv("score_pool4", "pool4", num_classes, 1, activation=None),
        Node("upscore2c", "crop", ("upscore2", "score_pool4")),
        Node("fuse_pool4", "add", ("upscore2c", "score_pool4")),
        _upscore("upscore_pool4", "fuse_pool4", num_classes, 2),
        _conv("score_pool3", "pool3", num_classes, 1, activation=None),
        Node("upscore_pool4c", "crop", ("upscore_pool4", "score_pool3")),
        Node("fuse_pool3", "add", ("upscore_pool4c", "score_pool3")),
        _upscore("upscore8", "fuse_pool3", num_classes, 8),
        Node("score", "crop", ("upscore8", INPUT)),
    ]
    return Graph("fcn8s", channels, tuple(nodes), "score")


def initialise(graph: Graph, seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights to start training from.

    Convolutions: normal with variance ``2 / (kh * kw * c)`` (He et al. 2015), or half of it where
    no activation follows. Transposed convolutions: bilinear interpolation of each channel, as the
    authors of FCN start theirs. Biases: zero.

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
        elif node.op == "conv2d_transpose":
            value = bilinear_kernel((shape[0], shape[1]), shape[2], shape[3])
        else:
            gain = 2.0 if node.attrs["activation"] else 1.0
            value = rng.normal(0.0, math.sqrt(gain / math.prod(shape[:3])), shape)
        weights[name] = value.astype(np.float32)
    return weights


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


def _conv(name: str, x: str, filters: int, kernel: int, activation: str | None = "relu") -> Node:
    attrs = {"filters": filters, "kernel": kernel, "padding": "same", "activation": activation}
    return Node(name, "conv2d", (x,), attrs)


def _upscore(name: str, x: str, filters: int, stride: int) -> Node:
    attrs = {
        "filters": filters,
        "kernel": 2 * stride,
        "stride": stride,
        "padding": "same",
        "use_bias": False,
    }
    return Node(name, "conv2d_transpose", (x,), attrs)

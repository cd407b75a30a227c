"""Small layers of every kind: odd sizes, batches and channel counts, every option of a step."""

import numpy as np

from benchmarks.graphs import Network
from benchmarks.layers import Layer, conv, depthwise, global_pool, pool, transpose
from fastconv import reference
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d
from fcn import models

ONE_AFTER = ((0, 1), (0, 1))

TINY = (
    Layer("conv", "odd", (conv((1, 9, 10, 5), 7),)),
    Layer("pool", "odd, batch", (conv((2, 9, 7, 16), 32, pool=True),)),
    Layer("linear", "5x5", (conv((1, 6, 7, 8), 3, 5, activation=None),)),
    Layer("groups", "of four", (conv((1, 9, 8, 8), 16, groups=2),)),
    Layer("pointwise", "batch of 3", (conv((3, 6, 5, 4), 16, 1),)),
    Layer("dilated", "rate 2", (conv((1, 14, 13, 16), 16, dilation=2),)),
    Layer("winograd", "large enough for the engines that use it", (conv((1, 40, 40, 32), 32),)),
    Layer(
        "stem",
        "strides, padding that is alike on both sides",
        (
            conv((1, 30, 26, 3), 16, 7, stride=2, pad=3),
            pool((1, 15, 13, 16), "max", 3, 2, pad=1),
            conv((1, 8, 7, 16), 16, stride=2, pad=1),
        ),
    ),
    Layer(
        "uneven",
        "strides, one pixel more of padding after the end",
        (
            conv((1, 12, 13, 16), 16, stride=2),
            Pool2d((1, 6, 7, 16), "max", (3, 2), (2, 2), ONE_AFTER),
        ),
    ),
    Layer(
        "mobile",
        "depthwise, means",
        (
            depthwise((2, 13, 12, 16)),
            depthwise((2, 13, 12, 16), stride=2),
            depthwise((2, 7, 6, 16), 5),
            pool((2, 7, 6, 16), "avg", 3, 1, pad=1),
            pool((2, 7, 6, 16), "avg", 2, 2),
            global_pool((2, 3, 3, 16)),
        ),
    ),
    Layer("dilated depthwise", "rate 2", (conv((1, 9, 8, 8), 8, groups=8, dilation=2),)),
    Layer("depthwise s2", "without another step", (depthwise((1, 8, 10, 16), stride=2),)),
    Layer("patches", "kernel as large as the stride", (transpose((2, 5, 6, 16), 5, 4, 4),)),
    Layer(
        "upsampling",
        "kernels larger and smaller than the stride, cropped evenly, unevenly, not at all",
        (
            transpose((1, 4, 5, 16), 8, 3, 2, "same"),
            transpose((1, 8, 10, 8), 6, 4, 2, "same"),
            transpose((1, 16, 20, 6), 5, 4, 2),
            transpose((1, 34, 42, 5), 5, 1, 2),
        ),
    ),
    Layer("resize", "by 8", (Resize2d((1, 5, 4, 7), (40, 32)),)),
    Layer("global", "maximum", (Pool2d((1, 5, 7, 16), "max", (5, 7), (5, 7)),)),
    Layer("probabilities", "batch", (ChannelOp((2, 5, 6, 21), "softmax"),)),
    Layer("labels", "scores as they come", (ChannelOp((1, 5, 6, 21), "argmax"),)),
    Layer(
        "labels of a batch",
        "after a convolution",
        (conv((2, 7, 6, 8), 21, activation=None), ChannelOp((2, 7, 6, 21), "argmax")),
    ),
    Layer("network", "article's", (Network(models.two_conv(21, as_printed=True), (1, 32, 32, 3)),)),
    Layer(
        "network with crops",
        "sums of maps that are cropped",
        (Network(models.fcn8s(3, width=4, fc=16, fc_kernel=3), (1, 37, 45, 3)),),
    ),
    Layer(
        "network with concat",
        "maps side by side",
        (Network(models.unet(3, width=4, depth=2), (1, 16, 24, 3)),),
    ),
    Layer(
        "network with residuals",
        "strides, rates, sums with an activation, a resize",
        (Network(models.fcn_resnet50(3, width=4), (1, 33, 40, 3)),),
    ),
)
LAYER = {layer.name: layer for layer in TINY}

# What no engine is asked for, but the specs can say.
GENERAL = (
    Conv2d((2, 9, 8, 6), (3, 2, 3, 4), (2, 3), ((1, 0), (2, 1)), (2, 1), groups=2),
    ConvTranspose2d((1, 4, 5, 3), (3, 4, 2, 3), (2, 1), ((1, 0), (0, 2))),
    ConvTranspose2d((1, 3, 3, 2), (2, 2, 2, 2), (2, 2), ((0, -1), (0, -2))),
    Pool2d((2, 7, 8, 3), "max", (2, 3), (2, 1), ((1, 1), (2, 0)), (2, 1)),
    Pool2d((1, 7, 8, 3), "avg", (3, 2), (2, 2), ((1, 1), (1, 0)), count_include_pad=True),
    Pool2d((1, 7, 8, 3), "avg", (3, 2), (2, 2), ((1, 1), (1, 0))),
    Resize2d((2, 5, 7, 3), (3, 10)),
)


def as_reference(layer):
    """What the specification of fastconv says, in naive loops; of labels, the scores."""
    x = layer.input()
    for step, arrays in zip(layer.steps, layer.weights(), strict=True):
        match step:
            case Conv2d():
                x = reference.conv2d(x, *arrays, step)
            case ConvTranspose2d():
                x = reference.conv2d_transpose(x, *arrays, step)
            case Pool2d():
                x = reference.pool2d(x, step)
            case Resize2d():
                x = reference.resize2d(x, step)
            case ChannelOp(kind="softmax"):
                x = reference.channel_op(x, step)
            case Network():
                x = _network(x, step)
    return x


def _network(x, network):
    tensors = {"input": x.astype(np.float64)}
    for node, spec, arrays in network.steps():
        first, *more = (tensors[name] for name in node.inputs)
        if spec is not None:
            kind = {"conv2d": "conv2d", "conv2d_transpose": "conv2d_transpose",
                    "max_pool2d": "pool2d", "resize2d": "resize2d"}[node.op]  # fmt: skip
            y = getattr(reference, kind)(first, *arrays, spec)
        elif node.op == "add":
            y = first + more[0]
            y = np.maximum(y, 0) if node.attrs["activation"] else y
        elif node.op == "concat":
            y = np.concatenate([first, *more], 3)
        else:
            top, left = node.attrs["offset"]
            y = first[:, top:, left:][:, : more[0].shape[1], : more[0].shape[2]]
        tensors[node.name] = y
    return tensors[network.graph.output]

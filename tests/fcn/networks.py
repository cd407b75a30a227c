"""Networks that several tests run, and an oracle for those whose numbers stay whole.

The oracle shares nothing with the packages under test but the graph.
"""

import functools

import numpy as np
import scipy.signal

from fcn import models
from fcn.graph import Graph, Model, Node

# Every architecture with all of its layers, but few channels.
NARROW = {
    "two_conv": models.two_conv(4),
    "as_printed": models.two_conv(4, 1, as_printed=True),
    "fcn32s": models.fcn32s(3, width=2, fc=8, fc_kernel=3),
    "fcn16s": models.fcn16s(3, width=2, fc=8, fc_kernel=5),
    "fcn8s": models.fcn8s(3, width=2, fc=8, fc_kernel=3),
    "fcn32s_caffe": models.fcn32s(3, 1, width=2, fc=8, caffe=True),
    "fcn16s_caffe": models.fcn16s(3, width=2, fc=8, caffe=True),
    "fcn8s_caffe": models.fcn8s(3, width=2, fc=8, caffe=True),
    "unet": models.unet(3, width=2, depth=2),
    "fcn_resnet50": models.fcn_resnet50(3, width=4),
    "fcn_resnet101": models.fcn_resnet101(3, width=2),
    "fcn_mobilenet": models.fcn_mobilenet(3, width=4),
    "fcn_mobilenet_16": models.fcn_mobilenet(3, width=4, output_stride=16),
}


def conv(name, x, filters, **attrs):
    return Node(name, "conv2d", (x,), {"filters": filters, "kernel": 3, **attrs})


def pool(name, x, size=2, stride=2, **attrs):
    return Node(name, "max_pool2d", (x,), {"size": size, "stride": stride, **attrs})


def named_padding():
    """c1 is fusable where sizes are even, c2 is read twice, c4 is pooled by a window of 3x3."""
    up = {"filters": 3, "kernel": [4, 3], "stride": [4, 2], "padding": "same"}
    nodes = (
        conv("c1", "input", 5, padding="same", activation="relu"),
        pool("p1", "c1", padding="same"),
        conv("c2", "p1", 4, padding="same", activation="relu6", dilation=2),
        pool("p2", "c2", padding="same"),
        conv("c3", "p2", 4, padding="same", use_bias=False, stride=[2, 1]),
        conv("c4", "c2", 4, kernel=[1, 3], padding="same"),
        pool("p4", "c4", size=3, padding="same"),
        Node("p4c", "crop", ("p4", "c3"), {"offset": [0, 0]}),
        Node("sum", "add", ("c3", "p4c")),
        Node("up", "conv2d_transpose", ("sum",), up),
    )
    return Graph("named_padding", 3, nodes, "up")


def explicit_padding():
    """Lopsided padding, depthwise layers, channels side by side, windows that are rounded up."""
    wide = {"kernel": [3, 2], "multiplier": 2, "padding": "same", "dilation": [1, 2]}
    even = {"kernel": 3, "multiplier": 2, "padding": [[1, 1], [1, 1]], "use_bias": False}
    strided = {"kernel": 3, "stride": 2, "padding": [[0, 2], [1, 0]], "activation": "relu"}
    nodes = (
        conv("a", "input", 4, padding=[[2, 0], [0, 1]], stride=[2, 1], activation="relu"),
        Node("b", "depthwise_conv2d", ("a",), {**wide, "activation": "relu6"}),
        Node("c", "depthwise_conv2d", ("a",), even),
        Node("sum", "add", ("b", "c"), {"activation": "relu6"}),
        Node("cat", "concat", ("sum", "a", "b")),
        pool("p", "cat", size=[3, 2], stride=[2, 3], padding=[[1, 0], [0, 1]], ceil_mode=True),
        Node("d", "depthwise_conv2d", ("p",), strided),
        Node("up", "conv2d_transpose", ("d",), {"filters": 3, "kernel": 2, "stride": 2}),
        Node("twice", "resize2d", ("d", "up")),
        Node("pair", "concat", ("twice", "up")),
        conv("e", "pair", 4, padding="same", activation="relu"),
        pool("ep", "e", ceil_mode=True),
        conv("score", "ep", 3, kernel=1),
    )
    return Graph("explicit_padding", 3, nodes, "score")


def pixel_by_pixel():
    """What has no weights, and activations with a parameter; all of it exact on integers."""
    nodes = (
        Node("padded", "pad2d", ("input",), {"sides": [[1, 0], [2, 1]]}),
        conv("c", "padded", 3, activation="leaky_relu", alpha=0.5),
        Node("leaky", "activation", ("c",), {"activation": "leaky_relu", "alpha": 0.25}),
        Node("mean", "avg_pool2d", ("leaky",), {"size": 2, "stride": 2, "padding": "same"}),
        Node("near", "upsample2d", ("mean",), {"factor": 2}),
        Node("cut", "crop", ("near", "leaky"), {"offset": [0, 0]}),
        Node("change", "subtract", ("cut", "leaky")),
        Node("largest", "global_max_pool2d", ("leaky",)),
        Node("scaled", "multiply", ("change", "largest")),
        Node("middle", "average", ("scaled", "leaky")),
        Node("high", "maximum", ("middle", "leaky", "largest")),
        Node("low", "minimum", ("high", "cut")),
        Node("three", "add", ("low", "change", "middle"), {"activation": "relu"}),
        Node("smooth", "upsample2d", ("three",), {"factor": 2, "method": "bilinear"}),
        Node("trimmed", "trim2d", ("smooth",), {"sides": [[1, 1], [0, 2]]}),
        Node("fixed", "resize2d_to", ("trimmed",), {"size": [9, 12], "method": "nearest"}),
    )
    return Graph("pixel_by_pixel", 3, nodes, "fixed")


def in_groups():
    """Groups that are no single channels, strided, dilated and transposed; slopes by channel."""
    up = {"kernel": [2, 3], "stride": [2, 1], "groups": 2}
    nodes = (
        conv("a", "input", 6, groups=3, padding="same", activation="prelu"),
        pool("p", "a", padding="same"),
        conv("b", "p", 4, groups=2, stride=[1, 2], padding=[[1, 1], [0, 2]], activation="relu"),
        Node("up", "conv2d_transpose", ("b",), {"filters": 8, "dilation": [1, 2], **up}),
        Node("slopes", "activation", ("up",), {"activation": "prelu"}),
        conv("c", "slopes", 4, groups=4, dilation=[2, 1], padding="same", use_bias=False),
        Node("same", "conv2d_transpose", ("c",), {"filters": 6, "padding": "same", **up}),
        Node("more", "conv2d_transpose", ("same",), {"filters": 3, "kernel": [1, 2],
                                                     "stride": [3, 2], "output_padding": [1, 1]}),
    )  # fmt: skip
    return Graph("in_groups", 3, nodes, "more")


EVERY_OP = {g.name: g for g in (named_padding(), explicit_padding(), pixel_by_pixel(), in_groups())}


def integers(shape, seed, low=-2, high=3):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.float32)


def integer_model(graph, seed=0):
    """Sparse weights in -1 .. 1, so that sums stay exact in float32 through all layers."""
    weights = {}
    for i, (name, shape) in enumerate(graph.parameters().items()):
        keep = np.random.default_rng(seed + i).random(shape) < 0.3
        weights[name] = integers(shape, seed + 100 + i, -1, 2) * keep.astype(np.float32)
    return Model(graph, weights)


# --- the oracle --------------------------------------------------------------------------------


def sides(size, window, stride, padding, axis):
    """Padding before and after an axis."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        total = max((-(-size // stride) - 1) * stride + window - size, 0)
        return total // 2, total - total // 2
    return padding[axis]


def by_group(convolve, x, w, b, a):
    """The groups by themselves, side by side."""
    parts = zip(*(np.split(t, a["groups"], axis=-1) for t in (x, w)), strict=True)
    alone = {**a, "groups": 1, "activation": None}
    maps = np.concatenate([convolve(xs, ws, 0, alone) for xs, ws in parts], axis=-1)
    return activated(maps + b, a.get("activation"), a.get("alpha"))


def oracle_conv2d(x, w, b, a):
    if a.get("groups", 1) > 1:
        return by_group(oracle_conv2d, x, w, b, a)
    (dh, dw), (sh, sw) = a["dilation"], a["stride"]
    kernel = np.zeros(((w.shape[0] - 1) * dh + 1, (w.shape[1] - 1) * dw + 1, *w.shape[2:]))
    kernel[::dh, ::dw] = w
    pads = [sides(x.shape[1 + i], kernel.shape[i], a["stride"][i], a["padding"], i) for i in (0, 1)]
    x = np.pad(x, [(0, 0), *pads, (0, 0)])
    y = np.stack(
        [
            sum(
                scipy.signal.correlate(x[..., c], kernel[None, :, :, c, k], "valid")
                for c in range(w.shape[2])
            )
            for k in range(w.shape[3])
        ],
        axis=-1,
    )[:, ::sh, ::sw]
    # SciPy may use an FFT; the true sums are multiples of 1/16, which `doubled` makes
    return activated(np.rint(16 * y) / 16 + b, a["activation"], a["alpha"])


def oracle_depthwise_conv2d(x, w, b, a):
    maps = [
        oracle_conv2d(x[..., [c]], w[:, :, [c]][..., [m]], 0, {**a, "activation": None})
        for c in range(w.shape[2])
        for m in range(w.shape[3])
    ]
    return activated(np.concatenate(maps, axis=-1) + b, a["activation"])


def oracle_conv2d_transpose(x, w, b, a):
    if a["groups"] > 1:
        return by_group(oracle_conv2d_transpose, x, w, b, a)
    (sh, sw), (dh, dw) = a["stride"], a["dilation"]
    taps = [(p * dh, q * dw, w[p, q]) for p, q in np.ndindex(w.shape[:2])]
    kh, kw = taps[-1][0] + 1, taps[-1][1] + 1
    n, h, v, _ = x.shape
    more = a["output_padding"] or [max(sh - kh, 0), max(sw - kw, 0)]
    full = np.zeros((n, (h - 1) * sh + kh + more[0], (v - 1) * sw + kw + more[1], w.shape[2]))
    for p, q, tap in taps:
        full[:, p : p + (h - 1) * sh + 1 : sh, q : q + (v - 1) * sw + 1 : sw] += x @ tap.T
    if a["padding"] == "same":
        top, left = max(kh - sh, 0) // 2, max(kw - sw, 0) // 2
        full = full[:, top : top + h * sh, left : left + v * sw]
    return full + b


def window_starts(size, window, stride, pads, ceil_mode):
    """Where windows start in the padded axis: those that fit, and one more that rounds up."""
    room, starts = size + sum(pads), [0]
    while True:
        following = starts[-1] + stride
        uncovered = starts[-1] + window < room and following < size + pads[0]
        if following + window > room and not (ceil_mode and uncovered):
            return starts
        starts.append(following)


def oracle_max_pool2d(x, a):
    pads, starts = [], []
    for i in (0, 1):
        size, window, stride = x.shape[1 + i], a["size"][i], a["stride"][i]
        before, after = sides(size, window, stride, a["padding"], i)
        starts.append(window_starts(size, window, stride, (before, after), a["ceil_mode"]))
        pads.append((before, after + window))
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-np.inf)
    (kh, kw), (rows, cols) = a["size"], starts
    return np.stack(
        [
            np.stack([x[:, r : r + kh, c : c + kw].max(axis=(1, 2)) for c in cols], axis=1)
            for r in rows
        ],
        axis=1,
    )


def doubled(x):
    """(n, h, w, c) to (n, 2h, 2w, c): new pixels lie a quarter from the centre of their cell."""
    for axis in (1, 2):
        n = x.shape[axis]
        before = x.take(np.maximum(np.arange(n) - 1, 0), axis)
        after = x.take(np.minimum(np.arange(n) + 1, n - 1), axis)
        pair = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
        shape = [*x.shape]
        shape[axis] *= 2
        x = np.stack(pair, axis + 1).reshape(shape)
    return x


def oracle_avg_pool2d(x, a):
    """Of 2x2 with padding "same": the pixels that there are."""
    assert (a["size"], a["stride"], a["padding"]) == ([2, 2], [2, 2], "same")
    sums, counts = (
        np.add.reduceat(np.add.reduceat(t, range(0, t.shape[1], 2), 1), range(0, t.shape[2], 2), 2)
        for t in (x, np.ones_like(x))
    )
    return sums / counts


def nearest(x, rows, cols):
    """The pixel in whose area the centre of the new one lies."""
    for axis, new in ((1, rows), (2, cols)):
        x = x.take((2 * np.arange(new) + 1) * x.shape[axis] // (2 * new), axis)
    return x


PIXELWISE = {
    "subtract": np.subtract,
    "multiply": np.multiply,
    "average": lambda *xs: sum(xs) / len(xs),
    "maximum": lambda *xs: functools.reduce(np.maximum, xs),
    "minimum": lambda *xs: functools.reduce(np.minimum, xs),
    "global_max_pool2d": lambda x: x.max(axis=(1, 2), keepdims=True),
}


def activated(x, activation, alpha=None):
    if activation in ("leaky_relu", "prelu"):
        return np.where(x < 0, alpha * x, x)
    return x if activation is None else np.clip(x, 0, 6 if activation == "relu6" else None)


FILTERS = {
    "conv2d": oracle_conv2d,
    "depthwise_conv2d": oracle_depthwise_conv2d,
    "conv2d_transpose": oracle_conv2d_transpose,
}


def oracle(model, x=None, **inputs):
    """Every tensor of the graph, in float64."""
    tensors = {name: x.astype(np.float64) for name, x in (inputs or {"input": x}).items()}
    for node in model.graph.nodes:
        a, inputs = node.attrs, [tensors[name] for name in node.inputs]
        x = inputs[0]
        if a.get("activation") == "prelu":
            a = {**a, "alpha": model.weights[f"{node.name}/slopes"]}
        if node.op in FILTERS:
            w = model.weights[f"{node.name}/kernel"].astype(np.float64)
            y = FILTERS[node.op](x, w, model.weights.get(f"{node.name}/bias", 0), a)
        elif node.op == "max_pool2d":
            y = oracle_max_pool2d(x, a)
        elif node.op == "avg_pool2d":
            y = oracle_avg_pool2d(x, a)
        elif node.op == "add":
            y = activated(sum(inputs), a["activation"])
        elif node.op == "activation":
            y = activated(x, a["activation"], a["alpha"])
        elif node.op in PIXELWISE:
            y = PIXELWISE[node.op](*inputs)
        elif node.op == "pad2d":
            y = np.pad(x, [(0, 0), *a["sides"], (0, 0)])
        elif node.op == "trim2d":
            (top, bottom), (left, right) = a["sides"]
            y = x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]
        elif node.op == "upsample2d":
            assert a["factor"] == [2, 2]
            y = doubled(x) if a["method"] == "bilinear" else x.repeat(2, 1).repeat(2, 2)
        elif node.op == "resize2d_to":
            y = nearest(x, *a["size"])
        elif node.op == "concat":
            y = np.concatenate(inputs, axis=-1)
        elif node.op == "resize2d":
            y = doubled(x)
            assert y.shape[:3] == inputs[1].shape[:3]
        else:
            (top, left), (_, h, v, _) = a["offset"], inputs[1].shape
            y = x[:, top : top + h, left : left + v]
        tensors[node.name] = y
    return tensors

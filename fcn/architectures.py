"""Networks without shortcuts in their backbone, as graphs: the article's, FCN on VGG16, U-Net."""

from typing import Any

from fcn.graph import INPUT, Graph, Node

__all__ = ["fcn8s", "fcn16s", "fcn32s", "two_conv", "unet"]


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
        _pool("pool1", "conv1"),
        _conv("conv2", "pool1", 128, 3),
        _pool("pool2", "conv2"),
        Node("upsample", "conv2d_transpose", ("pool2",), last),
    )
    return Graph("two_conv_as_printed" if as_printed else "two_conv", channels, nodes, "upsample")


def fcn8s(
    num_classes: int,
    channels: int = 3,
    *,
    width: int = 64,
    fc: int | None = None,
    fc_kernel: int = 7,
    caffe: bool = False,
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
    fc : int, optional
        Filters of fc6 and fc7; 64 times the width by default, 4096 in the original.
    fc_kernel : int
        Side of the kernel of fc6.
    caffe : bool
        The authors' published form: conv1_1 pads by 100, fc6 does not pad, pools round up, and
        the skips are cropped at their offsets. Any image works here, too. Needs the fc_kernel of
        7 that the offsets are for.

    Returns
    -------
    Graph
        Output ``score`` has the height and width of the input.

    Raises
    ------
    ValueError
        For the Caffe form with another fc_kernel.
    """
    return _fcn_vgg16(2, num_classes, channels, width, fc, fc_kernel, caffe)


def fcn16s(
    num_classes: int,
    channels: int = 3,
    *,
    width: int = 64,
    fc: int | None = None,
    fc_kernel: int = 7,
    caffe: bool = False,
) -> Graph:
    """FCN-16s: as `fcn8s`, with the skip from pool4 only."""
    return _fcn_vgg16(1, num_classes, channels, width, fc, fc_kernel, caffe)


def fcn32s(
    num_classes: int,
    channels: int = 3,
    *,
    width: int = 64,
    fc: int | None = None,
    fc_kernel: int = 7,
    caffe: bool = False,
) -> Graph:
    """FCN-32s: as `fcn8s`, without skips."""
    return _fcn_vgg16(0, num_classes, channels, width, fc, fc_kernel, caffe)


SKIPS = ((4, 5), (3, 9))  # number of the pool, and the offset at which Caffe crops its score
CAFFE_SCORE = (19, 27, 31)  # offset of the last crop with 0, 1 or 2 skips


def _fcn_vgg16(
    skips: int,
    num_classes: int,
    channels: int,
    width: int,
    fc: int | None,
    fc_kernel: int,
    caffe: bool,
) -> Graph:
    stride = 32 >> skips
    if caffe and fc_kernel != 7:
        raise ValueError(f"fcn{stride}s: the Caffe form needs fc_kernel=7, got {fc_kernel}")
    fc = 64 * width if fc is None else fc
    padding = "valid" if caffe else "same"
    nodes: list[Node] = []
    last = INPUT
    for block, (convs, factor) in enumerate(((2, 1), (2, 2), (3, 4), (3, 8), (3, 8)), 1):
        for i in range(1, convs + 1):
            border = {"padding": [[100, 100]] * 2} if caffe and last == INPUT else {}
            nodes.append(_conv(f"conv{block}_{i}", last, factor * width, 3, **border))
            last = nodes[-1].name
        nodes.append(_pool(f"pool{block}", last, padding=padding, ceil_mode=caffe))
        last = nodes[-1].name
    nodes += [
        _conv("fc6", "pool5", fc, fc_kernel, padding=padding),
        _conv("fc7", "fc6", fc, 1),
        _conv("score_fr", "fc7", num_classes, 1, activation=None),
    ]
    last, up = "score_fr", "upscore2"
    for pool, offset in SKIPS[:skips]:
        score, fuse = f"score_pool{pool}", f"fuse_pool{pool}"
        nodes += [
            _upscore(up, last, num_classes, 2, padding),
            _conv(score, f"pool{pool}", num_classes, 1, activation=None),
        ]
        if caffe:  # the scores reach further than what is upsampled; else it is the other way round
            nodes.append(Node(f"{score}c", "crop", (score, up), {"offset": offset}))
            nodes.append(Node(fuse, "add", (up, f"{score}c")))
        else:
            nodes.append(Node(f"{up}c", "crop", (up, score)))
            nodes.append(Node(fuse, "add", (f"{up}c", score)))
        last, up = fuse, f"upscore_pool{pool}"
    up = f"upscore{stride}" if skips else "upscore"
    nodes += [
        _upscore(up, last, num_classes, stride, padding),
        Node("score", "crop", (up, INPUT), {"offset": CAFFE_SCORE[skips] if caffe else 0}),
    ]
    name = f"fcn{stride}s_caffe" if caffe else f"fcn{stride}s"
    return Graph(name, channels, tuple(nodes), "score")


def unet(num_classes: int, channels: int = 3, *, width: int = 64, depth: int = 4) -> Graph:
    """U-Net (Ronneberger, Fischer and Brox 2015) as it is used today: padded, so nothing is cut.

    Parameters
    ----------
    num_classes : int
        Channels of the output.
    channels : int
        Channels of the input.
    width : int
        Filters at full resolution; twice as many after each pool.
    depth : int
        How often the image is halved.

    Returns
    -------
    Graph
        Output ``score`` has the height and width of the input, which must be multiples of
        ``2 ** depth``; `Session.segment` continues a picture of another size to such multiples.

    Raises
    ------
    ValueError
        For a depth below 1.
    """
    if depth < 1:
        raise ValueError(f"unet: depth is an integer >= 1, got {depth}")
    nodes, last = [], INPUT
    for level in range(1, depth + 2):
        filters = width << (level - 1)
        nodes += [
            _conv(f"conv{level}_1", last, filters, 3),
            _conv(f"conv{level}_2", f"conv{level}_1", filters, 3),
        ]
        last = nodes[-1].name
        if level <= depth:
            nodes.append(_pool(f"pool{level}", last))
            last = nodes[-1].name
    for level in range(depth, 0, -1):
        filters = width << (level - 1)
        up = {"filters": filters, "kernel": 2, "stride": 2}
        nodes += [
            Node(f"up{level}", "conv2d_transpose", (last,), up),
            Node(f"concat{level}", "concat", (f"conv{level}_2", f"up{level}")),
            _conv(f"merge{level}_1", f"concat{level}", filters, 3),
            _conv(f"merge{level}_2", f"merge{level}_1", filters, 3),
        ]
        last = nodes[-1].name
    nodes.append(_conv("score", last, num_classes, 1, activation=None))
    return Graph("unet", channels, tuple(nodes), "score")


def _conv(name: str, x: str, filters: int, kernel: int, **attrs: Any) -> Node:
    given = {"filters": filters, "kernel": kernel, "padding": "same", "activation": "relu"}
    return Node(name, "conv2d", (x,), given | attrs)


def _pool(name: str, x: str, **attrs: Any) -> Node:
    return Node(name, "max_pool2d", (x,), {"size": 2, "stride": 2, **attrs})


def _upscore(name: str, x: str, filters: int, stride: int, padding: str) -> Node:
    attrs = {
        "filters": filters,
        "kernel": 2 * stride,
        "stride": stride,
        "padding": padding,
        "use_bias": False,
    }
    return Node(name, "conv2d_transpose", (x,), attrs)

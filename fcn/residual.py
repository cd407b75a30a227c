"""FCN on residual networks, as graphs: ResNet and MobileNetV2, with the names of torchvision.

Batch normalisation is folded: the convolution before it has a bias instead.
"""

from fcn.graph import INPUT, Graph, Node

__all__ = ["fcn_mobilenet", "fcn_resnet50", "fcn_resnet101"]


def fcn_resnet50(num_classes: int, channels: int = 3, *, width: int = 64) -> Graph:
    """FCN on ResNet-50 (He et al. 2016) as in torchvision, whose names the nodes have.

    The last two stages are dilated instead of strided, so the map that is classified has an
    eighth of the image's height and width; bilinear interpolation brings it back. Any image of
    at least 1 x 1 pixels works.

    Parameters
    ----------
    num_classes : int
        Channels of the output.
    channels : int
        Channels of the input.
    width : int
        Filters of the first convolution, 64 in the original; all others are in proportion.

    Returns
    -------
    Graph
        Output ``out`` has the height and width of the input.
    """
    return _fcn_resnet("fcn_resnet50", (3, 4, 6, 3), num_classes, channels, width)


def fcn_resnet101(num_classes: int, channels: int = 3, *, width: int = 64) -> Graph:
    """FCN on ResNet-101: as `fcn_resnet50`, with 23 blocks in the third stage."""
    return _fcn_resnet("fcn_resnet101", (3, 4, 23, 3), num_classes, channels, width)


def _fcn_resnet(
    name: str, blocks: tuple[int, ...], num_classes: int, channels: int, width: int
) -> Graph:
    pool = {"size": 3, "stride": 2, "padding": [[1, 1], [1, 1]]}
    nodes = [
        _conv("backbone.conv1", INPUT, width, 7, stride=2),
        Node("backbone.maxpool", "max_pool2d", ("backbone.conv1",), pool),
    ]
    last = nodes[-1].name
    # of each stage: stride and dilation of its first block, dilation of the others
    stages = ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4))
    for stage, (count, (stride, first, others)) in enumerate(zip(blocks, stages, strict=True)):
        filters = width << stage
        for i in range(count):
            block = f"backbone.layer{stage + 1}.{i}"
            strides, dilation = (stride, first) if i == 0 else (1, others)
            nodes += [
                _conv(f"{block}.conv1", last, filters, 1),
                _conv(f"{block}.conv2", f"{block}.conv1", filters, 3, strides, dilation),
                _conv(f"{block}.conv3", f"{block}.conv2", 4 * filters, 1, activation=None),
            ]
            if i == 0:
                shortcut = f"{block}.downsample.0"
                nodes.append(_conv(shortcut, last, 4 * filters, 1, strides, activation=None))
                last = shortcut
            inputs = (f"{block}.conv3", last)
            nodes.append(Node(block, "add", inputs, {"activation": "relu"}))
            last = block
    nodes += [
        _conv("classifier.0", last, 8 * width, 3),
        _conv("classifier.4", "classifier.0", num_classes, 1, activation=None),
        Node("out", "resize2d", ("classifier.4", INPUT)),
    ]
    return Graph(name, channels, tuple(nodes), "out")


# MobileNetV2: expansion, filters, blocks and stride of each stage (Sandler et al. 2018, table 2)
INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def fcn_mobilenet(
    num_classes: int, channels: int = 3, *, width: int = 32, output_stride: int = 32
) -> Graph:
    """FCN on MobileNetV2 (Sandler et al. 2018): one 1x1 convolution classifies its last map.

    Nodes of the backbone have torchvision's names. Bilinear interpolation brings the scores to the
    size of the image, which may be any of at least 1 x 1 pixels.

    Parameters
    ----------
    num_classes : int
        Channels of the output.
    channels : int
        Channels of the input.
    width : int
        Filters of the first convolution, 32 in the original; all others are in proportion, so it
        is a multiple of 4.
    output_stride : 32 or 16
        Input pixels between neighbours in the last map. With 16 the last stride is replaced by
        dilation, as in DeepLab.

    Returns
    -------
    Graph
        Output ``out`` has the height and width of the input.

    Raises
    ------
    ValueError
        For another width or output_stride.
    """
    if width < 1 or width % 4:
        raise ValueError(f"fcn_mobilenet: width is a positive multiple of 4, got {width}")
    if output_stride not in (16, 32):
        raise ValueError(f"fcn_mobilenet: output_stride is 16 or 32, got {output_stride}")
    nodes = [_conv("features.0.0", INPUT, width, 3, stride=2, activation="relu6")]
    known, reached, dilation, index = width, 2, 1, 1  # filters and stride so far
    for expansion, filters, count, stride in INVERTED_RESIDUALS:
        filters = filters * width // 32
        for step in (stride, *[1] * (count - 1)):
            spread = dilation
            if reached * step > output_stride:  # dilates the blocks behind this one instead
                step, dilation = 1, dilation * step
            name, x = f"features.{index}", nodes[-1].name
            nodes += _inverted_residual(name, x, expansion * known, filters, step, spread)
            if step == 1 and known == filters:
                nodes.append(Node(name, "add", (x, nodes[-1].name)))
            known, reached, index = filters, reached * step, index + 1
    last = f"features.{index}.0"
    nodes += [
        _conv(last, nodes[-1].name, 40 * width, 1, activation="relu6"),
        _conv("score", last, num_classes, 1, activation=None),
        Node("out", "resize2d", ("score", INPUT)),
    ]
    return Graph("fcn_mobilenet", channels, tuple(nodes), "out")


def _inverted_residual(
    name: str, x: str, hidden: int, filters: int, stride: int, dilation: int
) -> list[Node]:
    """Expand, filter each channel, project; the very first block, features.1, expands nothing."""
    expand = (
        [] if name == "features.1" else [_conv(f"{name}.conv.0.0", x, hidden, 1, 1, 1, "relu6")]
    )
    depthwise = f"{name}.conv.{len(expand)}.0"
    attrs = {
        "kernel": 3,
        "stride": stride,
        "padding": _border(3, dilation),
        "dilation": dilation,
        "activation": "relu6",
    }
    return [
        *expand,
        Node(depthwise, "depthwise_conv2d", (expand[0].name if expand else x,), attrs),
        _conv(f"{name}.conv.{len(expand) + 1}", depthwise, filters, 1, activation=None),
    ]


def _conv(
    name: str,
    x: str,
    filters: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    activation: str | None = "relu",
) -> Node:
    attrs = {
        "filters": filters,
        "kernel": kernel,
        "stride": stride,
        "padding": _border(kernel, dilation),
        "dilation": dilation,
        "activation": activation,
    }
    return Node(name, "conv2d", (x,), attrs)


def _border(kernel: int, dilation: int) -> list[list[int]]:
    """As much padding on each side as PyTorch's networks have, also where they stride."""
    return [[dilation * (kernel // 2)] * 2] * 2

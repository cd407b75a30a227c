"""The table of operations: sizes against literals, weights, and errors that name the node."""

import pytest

from fcn.graph import Graph, Node
from fcn.ops import OPS


def chain(*nodes, channels=3):
    return Graph("g", channels, nodes, nodes[-1].name)


def depthwise(x="input", **attrs):
    return Node("d", "depthwise_conv2d", (x,), {"kernel": 3, **attrs})


def pool(size=2, stride=2, **attrs):
    return Node("p", "max_pool2d", ("input",), {"size": size, "stride": stride, **attrs})


def conv(name="c", x="input", filters=4, **attrs):
    return Node(name, "conv2d", (x,), {"filters": filters, "kernel": 3, **attrs})


@pytest.mark.parametrize("op", OPS)
def test_every_operation_survives_json(op):
    sides = {"sides": [[0, 1], [1, 0]], "factor": 2, "activation": "relu"}
    given = sides | {"filters": 2, "kernel": 3, "size": 2, "stride": 2, "padding": ((1, 0), (0, 1))}
    if op == "conv2d_transpose":
        given["padding"] = "same"
    attrs = {key: value for key, value in given.items() if key in OPS[op].attrs}
    graph = Graph("g", 3, (Node("n", op, ("input",) * OPS[op].inputs, attrs),), "n")
    assert Graph.from_json(graph.to_json()) == graph


def test_padding_is_stored_as_lists():
    assert conv(padding=((1, 2), [3, 4])).attrs["padding"] == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "padding",
    [1, None, [1, 1], [[1, 1]], [[1, 1], [1]], [[1, 1], [1, 1], [1, 1]], [[1, 1], [1, -1]],
     [[1, 1], [1, 1.0]], [[1, 1], [1, True]], [[1, 1], "11"], "full"],
    ids=str,
)  # fmt: skip
def test_bad_padding_is_named(padding):
    with pytest.raises(ValueError, match=r"c \(conv2d\): padding is 'valid', 'same' or \[\[top"):
        conv(padding=padding)


def test_transposed_convolutions_take_no_explicit_padding():
    attrs = {"filters": 1, "kernel": 2, "padding": [[0, 0], [0, 0]]}
    with pytest.raises(ValueError, match=r"t \(conv2d_transpose\): padding is 'valid' or 'same', "):
        Node("t", "conv2d_transpose", ("input",), attrs)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (lambda: depthwise(multiplier=0), r"d \(depthwise_conv2d\): multiplier is an integer >= 1"),
        (lambda: depthwise(filters=3), r"has no attribute \['filters'\]"),
        (lambda: pool(ceil_mode=1), r"p \(max_pool2d\): ceil_mode is True or False, got 1"),
        (
            lambda: Node("s", "add", ("input", "input"), {"activation": "elu"}),
            r"s \(add\): activation is one of \(None, 'relu', 'relu6'\), got 'elu'",
        ),
        (lambda: conv(activation=["relu"]), r"c \(conv2d\): activation is one of"),
    ],
)
def test_bad_attributes_are_named(node, message):
    with pytest.raises(ValueError, match=message):
        node()


# Sizes as PyTorch 2 gives them: nn.Conv2d and nn.MaxPool2d, lopsided ones behind nn.ZeroPad2d.
@pytest.mark.parametrize(
    ("node", "hw", "expected"),
    [
        (conv(kernel=7, stride=2, padding=[[3, 3], [3, 3]]), (224, 225), (112, 113)),
        (conv(padding=[[100, 100], [100, 100]]), (1, 500), (199, 698)),
        (conv(padding=[[4, 4], [4, 4]], dilation=4), (5, 6), (5, 6)),
        (conv(padding=[[1, 2], [0, 3]]), (4, 4), (5, 5)),
        (depthwise(stride=2, padding=[[1, 1], [1, 1]]), (7, 8), (4, 4)),
        (depthwise(padding="same", dilation=2), (7, 8), (7, 8)),
        (pool(ceil_mode=True), (349, 88), (175, 44)),
        (pool(ceil_mode=False), (349, 88), (174, 44)),
        (pool(ceil_mode=True), (1, 2), (1, 1)),
        (pool(3, 2, padding=[[1, 1], [1, 1]]), (112, 1), (56, 1)),
        (pool(3, 2, padding=[[1, 1], [1, 1]], ceil_mode=True), (112, 5), (57, 3)),
        (pool(2, 3, ceil_mode=True), (6, 7), (2, 3)),  # a window from row 6 on would be empty
        (pool(2, 3, ceil_mode=True), (5, 3), (2, 1)),
    ],
)
def test_sizes(node, hw, expected):
    assert chain(node).shapes((2, *hw, 3))[node.name][1:3] == expected


def test_windows_of_nothing_but_padding_are_refused():
    with pytest.raises(ValueError, match=r"p \(max_pool2d\): window 0 of the width holds only pad"):
        chain(pool(padding=[[0, 0], [2, 0]])).shapes((1, 4, 4, 3))


def test_a_window_that_does_not_fit_names_its_node():
    with pytest.raises(ValueError, match=r"d \(depthwise_conv2d\): window of 5 pixels .* fit in 4"):
        chain(depthwise(dilation=2)).shapes((1, 8, 4, 3))


def test_depthwise_weights_have_the_layout_of_keras():
    graph = chain(conv(filters=5), depthwise("c", kernel=[3, 2], multiplier=2))
    assert graph.parameters()["d/kernel"] == (3, 2, 5, 2)
    assert graph.parameters()["d/bias"] == (10,)
    assert graph.shapes((1, 9, 9, 3))["d"] == (1, 5, 6, 10)
    assert "d/bias" not in chain(depthwise(use_bias=False)).parameters()


def test_concat_adds_channels_up():
    same = {"padding": "same"}
    parts = (conv("a", filters=4, **same), conv("b", filters=2, **same))
    joined = Node("j", "concat", ("a", "input", "b"))
    graph = chain(*parts, joined, conv("after", "j"))
    assert graph.shapes((2, 5, 7, 3))["j"] == (2, 5, 7, 9)
    assert graph.parameters()["after/kernel"] == (3, 3, 9, 4)


def test_concat_of_different_sizes_names_shapes_and_remedy():
    graph = chain(pool(), Node("j", "concat", ("p", "input")))
    message = r"j \(concat\): .* shapes \(1, 2, 3, 3\), \(1, 4, 6, 3\); .* multiples of the graph's"
    with pytest.raises(ValueError, match=message):
        graph.shapes((1, 4, 6, 3))


def test_add_needs_equal_channels():
    graph = chain(conv(padding="same"), Node("s", "add", ("c", "input")))
    with pytest.raises(ValueError, match=r"s \(add\): shapes \(1, 4, 4, 4\) and \(1, 4, 4, 3\)"):
        graph.shapes((1, 4, 4, 3))


def test_resize_gives_the_size_of_its_second_input():
    graph = chain(conv(stride=2, padding="same"), Node("r", "resize2d", ("c", "input")))
    assert graph.shapes((2, 7, 9, 3))["r"] == (2, 7, 9, 4)
    with pytest.raises(ValueError, match=r"r \(resize2d\): cannot resize 0 x 2 pixels to 0 x 4"):
        graph.shapes((1, 0, 4, 3))


def test_total_stride_follows_resized_and_cropped_tensors():
    """What is done behind a resize to the size of the image strides from one pixel on again."""
    resized = Node("r", "resize2d", ("p", "input"))
    last = Node("last", "max_pool2d", ("r",), {"size": 2, "stride": 2})
    graph = chain(pool(4, 4), resized, last)
    assert graph.total_stride == 4
    cut = Node("r", "crop", ("input", "p"))
    assert chain(pool(4, 4), cut, last).total_stride == 8

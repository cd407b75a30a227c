"""Graphs: validation, shape inference against literals, JSON, and the weights of a model."""

import json

import numpy as np
import pytest

from fcn.graph import Graph, Model, Node


def conv(name="c", x="input", **attrs):
    return Node(name, "conv2d", (x,), {"filters": 4, "kernel": 3, **attrs})


def one(node, *before):
    return Graph("g", 3, (*before, node), node.name)


def test_attributes_are_completed():
    assert conv(stride=(2, 1)).attrs == {
        "filters": 4,
        "kernel": [3, 3],
        "stride": [2, 1],
        "padding": "valid",
        "dilation": [1, 1],
        "groups": 1,
        "activation": None,
        "alpha": None,
        "use_bias": True,
    }
    assert Node("k", "crop", ("a", "b")).attrs == {"offset": [0, 0]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "dense", ("input",)), r"a: unknown op 'dense'; known ops: conv2d, "),
        (("a", "add", ("input",)), r"a \(add\) reads at least 2 inputs, got 1"),
        (("a", "crop", ("b", "c", "d")), r"a \(crop\) reads 2 inputs, got 3"),
        (("a", "concat", ("input",)), r"a \(concat\) reads at least 2 inputs, got 1"),
        (("input", "add", ("a", "b")), "node name 'input'"),
        (("a", "conv2d", ("input",), {"kernel": 3}), r"a \(conv2d\) needs .*'filters'"),
        (("a", "add", ("b", "c"), {"axis": 1}), r"a \(add\) has no attribute \['axis'\]"),
    ],
)
def test_bad_nodes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Node(*arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        {"filters": 0},
        {"filters": 2.0},
        {"kernel": [3, 3, 3]},
        {"kernel": [3, True]},
        {"kernel": "33"},
        {"stride": 0},
        {"stride": None},
        {"dilation": -1},
        {"padding": "full"},
        {"activation": "selu"},
        {"alpha": "0.1"},
        {"alpha": float("nan")},
        {"use_bias": 1},
        {"groups": 0},
    ],
    ids=str,
)
def test_bad_attributes_are_named(wrong):
    (key,) = wrong
    with pytest.raises(ValueError, match=rf"c \(conv2d\): {key} is "):
        conv(**wrong)


@pytest.mark.parametrize(
    ("nodes", "output", "message"),
    [
        ([conv("a"), conv("a")], "a", "two nodes are named 'a'"),
        ([conv("a", "b"), conv("b")], "a", r"a \(conv2d\) reads \['b'\], which no earlier"),
        ([conv("a")], "b", "output 'b' is not a node"),
        ([], "input", "output 'input' is not a node"),
    ],
)
def test_bad_graphs_are_refused(nodes, output, message):
    with pytest.raises(ValueError, match=message):
        Graph("g", 3, nodes, output)


@pytest.mark.parametrize("channels", [0, True, 3.0])
def test_channels_are_a_count(channels):
    with pytest.raises(ValueError, match="channels is an integer"):
        Graph("g", channels, (conv(),), "c")


# Sizes as TensorFlow 2.21 gives them for these layers.
@pytest.mark.parametrize(
    ("node", "hw", "expected"),
    [
        (conv(), (7, 5), (5, 3)),
        (conv(padding="same"), (1, 1), (1, 1)),
        (conv(padding="same", stride=2), (7, 6), (4, 3)),
        (conv(kernel=[5, 2], dilation=[1, 3]), (7, 7), (3, 4)),
        (Node("p", "max_pool2d", ("input",), {"size": 2, "stride": 2}), (7, 6), (3, 3)),
        (
            Node("p", "max_pool2d", ("input",), {"size": 2, "stride": 2, "padding": "same"}),
            (7, 1),
            (4, 1),
        ),
        (
            Node("t", "conv2d_transpose", ("input",), {"filters": 4, "kernel": 3, "stride": 2}),
            (5, 1),
            (11, 3),
        ),
        (
            Node("t", "conv2d_transpose", ("input",), {"filters": 4, "kernel": 2, "stride": 3}),
            (5, 1),
            (15, 3),
        ),
        (
            Node(
                "t",
                "conv2d_transpose",
                ("input",),
                {"filters": 4, "kernel": [4, 16], "stride": [2, 8], "padding": "same"},
            ),
            (5, 3),
            (10, 24),
        ),
    ],
)
def test_sizes(node, hw, expected):
    channels = node.attrs.get("filters", 3)
    assert one(node).shapes((2, *hw, 3))[node.name] == (2, *expected, channels)


def test_add_and_crop():
    pool = Node("pool", "max_pool2d", ("input",), {"size": 2, "stride": 2, "padding": "same"})
    up = {"filters": 3, "kernel": 4, "stride": 2, "padding": "same"}
    nodes = (
        pool,
        Node("up", "conv2d_transpose", ("pool",), up),
        Node("cut", "crop", ("up", "input"), {"offset": [1, 0]}),
        Node("sum", "add", ("cut", "input")),
    )
    graph = Graph("g", 3, nodes, "sum")
    found = graph.shapes((1, 7, 7, 3))
    assert (found["up"], found["cut"], found["sum"]) == ((1, 8, 8, 3), (1, 7, 7, 3), (1, 7, 7, 3))
    with pytest.raises(ValueError, match=r"cut \(crop\): no 8 x 8 pixels at offset \[1, 0\] in 8"):
        graph.shapes((1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"a \(add\): shapes .* differ"):
        one(Node("a", "add", ("input", "pool")), pool).shapes((1, 7, 7, 3))


def test_shapes_need_the_right_input():
    with pytest.raises(ValueError, match=r"reads \(n, h, w, 3\) arrays, got shape \(1, 8, 8, 1\)"):
        one(conv()).shapes((1, 8, 8, 1))
    with pytest.raises(ValueError, match=r"c \(conv2d\): window of 3 pixels .* does not fit in 2"):
        one(conv()).shapes((1, 2, 8, 3))


def test_weights_have_the_layouts_of_keras():
    up = {"filters": 5, "kernel": [2, 6], "stride": 2, "use_bias": False}
    graph = one(Node("t", "conv2d_transpose", ("c",), up), conv("c", kernel=[1, 3]))
    assert graph.parameters() == {
        "c/kernel": (1, 3, 3, 4),
        "c/bias": (4,),
        "t/kernel": (2, 6, 5, 4),
    }
    assert graph.parameter_count == 36 + 4 + 240


def test_groups_share_the_channels():
    up = {"filters": 6, "kernel": 2, "groups": 2, "use_bias": False}
    prelu = Node("p", "activation", ("t",), {"activation": "prelu"})
    first = conv("c", filters=8, groups=3)
    with pytest.raises(ValueError, match=r"c \(conv2d\): groups=3 does not divide the 8 filters"):
        one(first).parameters()
    first = conv("c", filters=6, groups=3, use_bias=False)
    graph = one(prelu, first, Node("t", "conv2d_transpose", ("c",), up))
    assert graph.parameters() == {
        "c/kernel": (3, 3, 1, 6),
        "t/kernel": (2, 2, 3, 6),
        "p/slopes": (6,),
    }


def test_total_stride_is_that_of_the_coarsest_tensor():
    halves = [conv(f"c{i}", "input" if i == 0 else f"c{i - 1}", stride=[2, 1]) for i in range(3)]
    up = Node("up", "conv2d_transpose", ("c2",), {"filters": 1, "kernel": 8, "stride": 8})
    assert Graph("g", 3, (*halves, up), "up").total_stride == 8
    assert one(conv()).total_stride == 1


def test_json_gives_an_equal_graph_back():
    graph = one(conv(activation="relu", stride=(1, 2)))
    assert Graph.from_json(graph.to_json()) == graph
    assert json.loads(graph.to_json()).keys() == {"name", "channels", "output", "nodes"}
    assert json.loads(graph.to_json())["channels"] == 3
    assert json.loads(graph.to_json())["output"] == "c"
    assert Graph.from_json(SEVERAL.to_json()) == SEVERAL


SEVERAL = Graph(
    "several",
    {"image": 3, "mask": 1},
    (conv("c", "image", padding="same"), Node("m", "multiply", ("c", "mask"))),
    {"scores": "m", "features": "c"},
)


def test_several_inputs_and_outputs():
    found = SEVERAL.shapes((2, 5, 7, 3), (2, 5, 7, 1))
    assert (found["image"], found["mask"], found["m"]) == ((2, 5, 7, 3), (2, 5, 7, 1), (2, 5, 7, 4))
    assert SEVERAL.total_stride == 1
    with pytest.raises(
        ValueError, match=r"several reads \['image', 'mask'\], and this needs a net"
    ):
        SEVERAL.channels  # noqa: B018
    with pytest.raises(ValueError, match=r"several gives \['scores', 'features'\], and this needs"):
        SEVERAL.output  # noqa: B018
    for shapes, message in (
        ([(1, 5, 7, 3)], r"reads \['image', 'mask'\], got 1"),
        ([(1, 5, 7, 3), (1, 5, 7, 2)], r"reads \(n, h, w, 1\) arrays, got shape \(1, 5, 7, 2\)"),
        ([(1, 5, 7, 3), (2, 5, 7, 1)], r"reads \(1, h, w, 1\) arrays, got shape \(2, 5, 7, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            SEVERAL.shapes(*shapes)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"image": 3}, "c", r"its only input is called 'input': \['image'\]"),
        ({}, "c", r"its only input is called 'input': \[\]"),
        ({"input": 3, "c": 1}, "c", "two nodes are named 'c'"),
        ({"input": 3, "mask": 0}, "c", "channels is an integer >= 1: 0"),
        (3, {}, "g has no output"),
        (3, {"a": "c", "b": "input"}, "the output 'input' is not a node"),
    ],
)
def test_bad_inputs_and_outputs_are_named(inputs, outputs, message):
    with pytest.raises(ValueError, match=message):
        Graph("g", inputs, (conv(),), outputs)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"name": "g"}', '{"nodes": 3}'])
def test_json_that_is_no_graph_is_refused(text):
    with pytest.raises(ValueError):
        Graph.from_json(text)


def test_json_is_validated():
    data = json.loads(one(conv()).to_json())
    data["nodes"][0]["op"] = "exec"
    with pytest.raises(ValueError, match="unknown op 'exec'"):
        Graph.from_json(json.dumps(data))


def test_node_lookup():
    graph = one(conv())
    assert graph.node("c") is graph.nodes[0]
    with pytest.raises(KeyError, match=r"no node 'd': \['c'\]"):
        graph.node("d")


WEIGHTS = {"c/kernel": np.ones((3, 3, 3, 4), np.float32), "c/bias": np.ones(4, np.float32)}


def test_model_takes_exactly_the_weights_of_its_graph():
    strided = {**WEIGHTS, "c/bias": np.ones(8, np.float32)[::2]}
    model = Model(one(conv()), strided)
    assert list(model.weights) == ["c/kernel", "c/bias"]
    assert model.weights["c/bias"].flags.c_contiguous


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"d/bias": np.ones(4, np.float32)}, ValueError, r"surplus weights \['d/bias'\]"),
        ({"c/bias": np.ones(3, np.float32)}, ValueError, r"c/bias has shape \(3,\)"),
        ({"c/bias": np.ones(4)}, TypeError, "c/bias is float64"),
    ],
)
def test_wrong_weights_are_named(change, error, message):
    with pytest.raises(error, match=message):
        Model(one(conv()), WEIGHTS | change)


def test_missing_weights_are_named():
    with pytest.raises(ValueError, match=r"missing weights \['c/kernel'\]"):
        Model(one(conv()), {"c/bias": WEIGHTS["c/bias"]})

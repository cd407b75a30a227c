"""What is timed, and what the right answer is."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import check, networks, table
from benchmarks.graphs import Network
from benchmarks.layers import (
    Goals,
    Layer,
    LayerClass,
    conv,
    depthwise,
    global_pool,
    image,
    pool,
    step_name,
    transpose,
)  # fmt: skip
from benchmarks.peers import PEERS
from benchmarks.summary import PEER_KINDS
from fastconv import plan_conv2d
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d
from fcn import models
from fcn.graph import Graph, Node
from tests.benchmarks.tiny import GENERAL, LAYER, TINY, as_reference

ALL = (*TINY, *(Layer(str(spec), "", (spec,)) for spec in GENERAL))

# --- the right answer ---------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ALL, ids=lambda layer: layer.name)
def test_answer_is_the_specification(layer):
    expected = as_reference(layer)
    answer = check.answer(layer)
    assert answer.shape == expected.shape == (*layer.out[:3], answer.shape[3])
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-12)


def test_other_resizes_have_no_answer():
    layer = Layer("resize", "", (Resize2d((1, 3, 3, 1), (6, 6), "nearest"),))
    with pytest.raises(ValueError, match="no answer is known for nearest, half_pixel"):
        check.answer(layer)


def test_error_is_relative():
    layer = LAYER["conv"]
    expected = np.array([3.0, 4.0]).reshape(1, 1, 1, 2)
    assert check.error(layer, expected + np.array([0, 0.5]), expected) == 0.1
    assert np.isnan(check.error(layer, expected * [1, np.nan], expected))
    with pytest.raises(ValueError, match=r"shape \(1,\) instead of \(1, 1, 1, 2\)"):
        check.error(layer, np.ones(1), expected)


def test_error_of_labels():
    layer, scale = LAYER["labels"], np.sqrt(5 / 2)
    scores = np.array([[[[1.0, 2.0]]]])
    assert check.error(layer, np.array([[[1]]]), scores) == 0
    assert check.error(layer, np.array([[[0]]]), scores) == pytest.approx(1 / scale)
    tie = np.array([[[[2.0, 2.0 - 1e-6], [1.0, 2.0]]]])
    near = check.error(layer, np.array([[[1, 1]]], np.int32), tie)
    assert near == pytest.approx(1e-6 / np.sqrt(13 / 4))
    assert check.error(layer, np.array([[[1, 0]]], np.int32), tie) > check.WRONG


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.array([[[1.0]]]), "labels must be integers from 0 to 1, got float64 from 1.0"),
        (np.array([[[2]]]), "from 0 to 1, got int64 from 2 to 2"),
        (np.array([[[-1]]]), "from 0 to 1, got int64 from -1 to -1"),
        (np.array([[[[1]]]]), r"shape \(1, 1, 1, 1\) instead of \(1, 1, 1\)"),
    ],
)
def test_what_is_no_label(labels, message):
    with pytest.raises(ValueError, match=message):
        check.error(LAYER["labels"], labels, np.array([[[[1.0, 2.0]]]]))


# --- layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step, name",
    [
        (conv(image(500, 64), 64), "3x3_64_64_500"),
        (conv((8, 12, 9, 4), 5, activation=None), "3x3_4_5_12x9_n8_linear"),
        (conv(image(512, 3), 64, pool=True), "3x3_3_64_512_pool"),
        (conv(image(65, 256), 256, stride=2), "3x3s2_256_256_65"),
        (conv(image(520, 3), 64, 7, stride=2, pad=3), "7x7s2p3_3_64_520"),
        (conv(image(63, 256), 256, dilation=4), "3x3d4_256_256_63"),
        (conv(image(9, 8), 8, groups=2), "g2_3x3_8_8_9"),
        (depthwise(image(28, 120), 5), "dw5x5_120_28_relu6"),
        (Conv2d((1, 9, 9, 2), (3, 1, 2, 4), (2, 1), ((1, 0), (0, 0))),
         "3x1s2x1p1-0-0-0_2_4_9_linear"),
        (transpose(image(63, 21), 21, 16, 8, "same"), "t16x16s8_21_21_63"),
        (transpose(image(34, 21), 21, 4, 2), "t4x4s2p0_21_21_34"),
        (pool(image(260, 64), "max", 3, 2, pad=1), "max3x3s2p1_64_260"),
        (pool(image(128, 8), "avg", 2, 2), "avg2x2s2_8_128"),
        (global_pool(image(17, 2048)), "avg_global_2048_17"),
        (Resize2d(image(63, 21), (504, 500)), "bilinear_21_63_to_504x500"),
        (ChannelOp(image(500, 21, 2), "argmax"), "argmax_21_500_n2"),
    ],
)  # fmt: skip
def test_names_tell_what_is_unusual(step, name):
    assert step_name(step) == name


def test_arithmetic_and_bytes():
    layer = LAYER["network"]
    products = 32 * 32 * 27 * 64 + 16 * 16 * 9 * 64 * 128 + 8 * 8 * 4 * 128 * 21
    weights = 27 * 64 + 9 * 64 * 128 + 4 * 128 * 21 + 64 + 128 + 21
    assert layer.flops == 2 * products
    assert layer.nbytes == 4 * (32 * 32 * 3 + weights + 16 * 16 * 21)
    assert LAYER["labels"].flops == 0
    assert LAYER["labels"].nbytes == 4 * 5 * 6 * 22


def test_activations_keep_their_size():
    y = check.answer(LAYER["network"])
    assert 0.1 < np.sqrt(np.mean(y**2)) < 10


def test_only_activations_are_behind_a_relu():
    assert LAYER["dilated"].input().min() == 0
    assert LAYER["stem"].input().min() < 0  # pixels
    assert LAYER["labels"].input().min() < 0  # scores


# --- the table ----------------------------------------------------------------------------------


def unfused(step):
    """A step as the nodes of a network say it: the pool apart."""
    if isinstance(step, Conv2d) and step.pool:
        return [replace(step, pool=False), Pool2d(step.conv_out, "max", (2, 2), (2, 2))]
    return [step]


@pytest.mark.parametrize("layer", table.LAYERS, ids=lambda layer: layer.name)
def test_rows_are_consistent(layer):
    assert sum(other.name == layer.name for other in table.LAYERS) == 1
    for step, following in zip(layer.steps, layer.steps[1:], strict=False):
        assert step.out == following.x
    if layer.network:
        network = networks.NETWORKS[layer.network]
        there = [network, *networks.specs(network)]
        assert [s for step in layer.steps for s in unfused(step) if s not in there] == []


def test_classes_are_named_once_and_not_like_layers():
    names = [group.name for group in table.CLASSES]
    assert len({*names, *(layer.name for layer in table.LAYERS)}) == len([*names, *table.LAYERS])


def test_kinds_of_engines():
    assert {kind for kinds in PEER_KINDS.values() for kind in kinds} == {*PEERS.values()} - {
        "own",
        "restricted",
    }


def test_goals_of_a_layer_come_first():
    own = replace(LAYER["conv"], goals=Goals(2.0, 1.0))
    group = LayerClass("group", "", (own, LAYER["pool"]), Goals(3.0, 1.5))
    assert [group.goals_of(layer) for layer in group.layers] == [Goals(2.0, 1.0), Goals(3.0, 1.5)]


def names(selection):
    return [(group.name, [layer.name for layer in group.layers]) for group in selection]


def test_layers_are_selected_by_name():
    assert table.select("all") == table.CLASSES
    assert [group.name for group in table.select("acceptance")] == [
        group.name for group in table.CLASSES if group.name != "others"]  # fmt: skip
    deep = ("3x3_deep", ["3x3_512_512_63", "3x3_512_512_32"])
    assert names(table.select("3x3_512_512_32,3x3_deep")) == [deep]
    assert names(table.select("softmax_21_500,1x1_256_256_128,3x3_deep")) == [
        deep, ("1x1", ["1x1_256_256_128"]), ("others", ["softmax_21_500"])]  # fmt: skip
    [(name, layers)] = names(table.select("network:article"))
    assert name == "network:article"
    assert layers == ["3x3_3_64_512", "max2x2s2_64_512", "3x3_64_128_256", "max2x2s2_128_256",
                      "t2x2s2_128_21_128"]  # fmt: skip
    with pytest.raises(ValueError, match="no layer is named 'conv9'; there are all, acceptance, 3"):
        table.select("3x3_deep,conv9")


# --- networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_specs_of_a_network(name):
    network = networks.NETWORKS[name]
    graph, specs = network.graph, networks.specs(network)
    tensors = graph.shapes(network.x)
    seen = {node: spec for spec, nodes in specs.items() for node in nodes}
    others = ("add", "crop", "concat")
    assert sorted(seen) == sorted(n.name for n in graph.nodes if n.op not in others)
    for node, spec in seen.items():
        assert (spec.x, spec.out) == (tensors[graph.node(node).inputs[0]], tensors[node])
        if not isinstance(spec, Pool2d | Resize2d):
            assert spec.w == graph.parameters()[f"{node}/kernel"]
    rows = networks.layer_class(name).layers
    assert len({layer.name for layer in rows}) == len(rows) == len(specs)


def test_specs_say_all_that_the_nodes_say():
    conv = {"filters": 8, "kernel": [3, 1], "dilation": [2, 1], "activation": "relu6"}
    pooling = {"size": 2, "stride": 2, "padding": "same"}
    upsampling = {"filters": 4, "kernel": 3, "stride": 2, "padding": "same"}
    nodes = (
        Node("a", "conv2d", ("input",), {**conv, "stride": 2, "dilation": 1}),
        Node("b", "conv2d", ("a",), {**conv, "padding": "same"}),
        Node("c", "conv2d", ("b",), {**conv, "padding": "same"}),
        Node("d", "max_pool2d", ("c",), pooling),
        Node("e", "conv2d_transpose", ("d",), upsampling),
    )
    graph = Graph("every option", 3, nodes, "e")
    assert networks.specs(Network(graph, (2, 11, 13, 3))) == {
        Conv2d((2, 11, 13, 3), (3, 1, 3, 8), (2, 2), activation="relu6"): ["a"],
        Conv2d((2, 5, 7, 8), (3, 1, 8, 8), pad=((2, 2), (0, 0)), dilation=(2, 1),
               activation="relu6"): ["b", "c"],
        Pool2d((2, 5, 7, 8), "max", (2, 2), (2, 2), ((0, 1), (0, 1))): ["d"],
        ConvTranspose2d((2, 3, 4, 8), (3, 3, 4, 8), (2, 2), ((0, 1), (0, 1)), (6, 8)): ["e"],
    }  # fmt: skip


def test_weights_of_a_network_stay_in_their_process():
    network = Network(models.fcn8s(3, width=4, fc=16, fc_kernel=3), (1, 37, 45, 3))
    before = network.model.weights["fc6/kernel"]
    data = pickle.dumps(network)
    assert len(data) < before.nbytes
    assert pickle.loads(data) == network
    np.testing.assert_array_equal(pickle.loads(data).model.weights["fc6/kernel"], before)


def test_layers_of_a_network_name_their_nodes():
    rows = {layer.name: layer for layer in networks.layer_class("fcn8s").layers}
    assert len(rows) == 22
    assert rows["3x3_512_512_32"].what == "conv5_1, conv5_2, conv5_3"
    assert rows["3x3_512_512_32"].network == "fcn8s"


# --- memory ------------------------------------------------------------------------------------

FILTERS = sorted(
    {s for c in table.CLASSES for layer in c.layers for s in layer.steps if isinstance(s, Conv2d)},
    key=str,
)
HEAVY = 1 << 24  # weights whose packing takes seconds


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, marks=pytest.mark.slow if np.prod(spec.w) > HEAVY else ())
        for spec in FILTERS
    ],
    ids=str,
)
def test_scratch_memory_is_bounded(spec):
    """No layer borrows more than twice its input and output, and as much as its packed weights."""
    plan = plan_conv2d(
        spec.x, np.zeros(spec.w, np.float32), stride=spec.stride, padding=spec.pad,
        dilation=spec.dilation, groups=spec.groups, pool=spec.pool, num_threads=2,
    )  # fmt: skip
    images = 4 * (np.prod(spec.x) + np.prod(spec.out))
    assert plan.scratch_bytes <= 2 * images + plan.packed_bytes

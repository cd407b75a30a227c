"""Our graphs in Keras: equal to stacks written by hand, weights in and out, training folded."""

import sys

import numpy as np
import pytest

from fcn import models, tf_reference
from fcn.graph import Graph, Node
from tests.fcn.networks import EVERY_OP

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def keras():
    return tf_reference.tensorflow().keras


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_weights(graph, seed=0):
    """Weights with biases that are not zero."""
    return {k: noise(s, seed + i) / 4 for i, (k, s) in enumerate(graph.parameters().items())}


SMALL = models.fcn8s(3, width=2, fc=4, fc_kernel=3)


@pytest.mark.parametrize("as_printed", [True, False])
def test_two_conv_is_the_stack_written_by_hand(keras, as_printed):
    graph = models.two_conv(5, as_printed=as_printed)
    weights = random_weights(graph)
    layers, factor = keras.layers, 2 if as_printed else 4
    by_hand = keras.Sequential(
        [
            keras.Input((20, 24, 3)),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPool2D(),
            layers.Conv2D(128, 3, padding="same", activation="relu"),
            layers.MaxPool2D(),
            layers.Conv2DTranspose(5, factor, strides=factor),
        ]
    )
    by_hand.set_weights(list(weights.values()))
    x = noise((2, 20, 24, 3))
    y = tf_reference.build(graph, weights)(x).numpy()
    np.testing.assert_array_equal(y, by_hand(x).numpy())
    assert y.shape == (2, 20 // (1 + as_printed), 24 // (1 + as_printed), 5)


def test_the_articles_subclass_exchanges_weights_both_ways():
    graph = models.two_conv(5, as_printed=True)
    weights, x = random_weights(graph), noise((1, 16, 20, 3))
    article = tf_reference.article_fcn(5)
    own = article(x).numpy()
    theirs = tf_reference.get_weights(article, graph)
    np.testing.assert_array_equal(tf_reference.build(graph, theirs)(x).numpy(), own)
    tf_reference.set_weights(article, graph, weights)
    expected = tf_reference.build(graph, weights)(x).numpy()
    np.testing.assert_array_equal(article(x).numpy(), expected)


def test_skip_connections_are_those_written_by_hand(keras):
    """FCN-8s from its scores on, in plain TensorFlow, on an odd size."""
    tf, weights = tf_reference.tensorflow(), random_weights(SMALL)
    x = noise((1, 37, 53, 3))
    model = tf_reference.build(SMALL, weights)
    got = tf_reference.every_output(model, SMALL)(x)

    def up(y, name, stride, like):
        n, h, w, _ = y.shape
        kernel, shape = weights[f"{name}/kernel"], (n, h * stride, w * stride, 3)
        y = tf.nn.conv2d_transpose(y, kernel, shape, stride, "SAME")
        return y[:, : like.shape[1], : like.shape[2]]

    fused = up(got["score_fr"], "upscore2", 2, got["pool4"]) + got["score_pool4"]
    fused = up(fused, "upscore_pool4", 2, got["pool3"]) + got["score_pool3"]
    np.testing.assert_allclose(up(fused, "upscore8", 8, x), got["score"], rtol=1e-4, atol=1e-4)
    assert got["score"].shape == (1, 37, 53, 3)


@pytest.mark.parametrize("hw", [(1, 1), (37, 53), (64, 33)], ids=str)
def test_every_node_has_the_shape_that_the_graph_infers(hw):
    model = tf_reference.build(SMALL, random_weights(SMALL))
    results = tf_reference.every_output(model, SMALL)(noise((2, *hw, 3)))
    expected = SMALL.shapes((2, *hw, 3))
    assert {k: tuple(y.shape) for k, y in results.items()} | {"input": (2, *hw, 3)} == expected


@pytest.mark.parametrize("graph", EVERY_OP.values(), ids=EVERY_OP)
def test_one_node_at_a_time_gives_the_same(graph):
    weights, x = random_weights(graph), noise((1, 11, 19, 3))
    model = tf_reference.build(graph, weights)
    tensors = {"input": x} | {
        name: y.numpy() for name, y in tf_reference.every_output(model, graph)(x).items()
    }
    shapes = graph.shapes(x.shape)
    for node in graph.nodes:
        inputs = [tensors[name] for name in node.inputs]
        y = tf_reference.layer_call(node, inputs, weights)
        np.testing.assert_array_equal(y, tensors[node.name])
        assert y.shape == shapes[node.name]


@pytest.mark.parametrize("graph", [SMALL, *EVERY_OP.values()], ids=lambda graph: graph.name)
def test_double_precision(graph):
    weights, x = random_weights(graph), noise((1, 40, 37, 3))
    single = tf_reference.build(graph, weights)(x).numpy()
    double = tf_reference.build(graph, weights, "float64")(x.astype(np.float64)).numpy()
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    error = np.linalg.norm(single - double) / np.linalg.norm(double)
    assert 0 < error < 1e-5
    node = graph.nodes[0]
    assert tf_reference.layer_call(node, [x], weights, "float64").dtype == np.float64


@pytest.mark.parametrize("graph", [SMALL, *EVERY_OP.values()], ids=lambda g: g.name)
def test_weights_come_back_bit_for_bit(graph):
    weights = random_weights(graph)
    if graph.name == "in_groups":
        with pytest.raises(ValueError, match=r"a \(conv2d\): its weights do not come back"):
            tf_reference.get_weights(tf_reference.build(graph, weights), graph)
        return
    back = tf_reference.get_weights(tf_reference.build(graph, weights), graph)
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value)


TINY = Graph(
    "tiny",
    3,
    (
        Node("a", "conv2d", ("input",), {"filters": 4, "kernel": 3, "padding": "same",
                                         "activation": "relu"}),
        Node("b", "max_pool2d", ("a",), {"size": 2, "stride": 2}),
        Node("c", "conv2d", ("b",), {"filters": 6, "kernel": 3, "padding": "same",
                                     "activation": "relu"}),
        Node("d", "depthwise_conv2d", ("c",), {"kernel": 3, "padding": [[1, 1], [1, 1]],
                                               "activation": "relu6"}),
        Node("e", "depthwise_conv2d", ("b",), {"kernel": 1, "multiplier": 3,
                                               "activation": "relu"}),
        Node("f", "conv2d", ("e",), {"filters": 6, "kernel": 1}),
        Node("g", "add", ("d", "f"), {"activation": "relu"}),
        Node("h", "concat", ("g", "b")),
        Node("i", "conv2d_transpose", ("h",), {"filters": 3, "kernel": 2, "stride": 2}),
        Node("j", "resize2d", ("i", "input")),
    ),
    "j",
)  # fmt: skip


def test_training_lowers_the_loss_and_folds_exactly():
    """Batch normalisation, folded into the kernels, must not change what the network computes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 48, 3)).astype(np.uint8)
    labels = (images.mean(-1) > 128).astype(np.uint8)
    trainer = tf_reference.Trainer(TINY, models.initialise(TINY, 0), np.ones(3))
    losses = [trainer.step(images, labels, 3e-3) for _ in range(30)]
    assert losses[-1] < losses[0]
    x = images.astype(np.float32) / 255
    normalised = trainer.model(x, training=False).numpy()
    folded = tf_reference.build(TINY, trainer.weights())(x).numpy()
    # two float32 runs of a few layers: rounding alone is below 1e-6 of the norm
    assert np.linalg.norm(folded - normalised) <= 1e-5 * np.linalg.norm(normalised)
    np.testing.assert_array_equal(trainer.predict(images), normalised.argmax(-1))


def test_class_weights_count():
    """A class of weight zero has no part in the loss: its labels may be anything."""
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    labels = np.zeros((2, 16, 16), np.uint8)
    labels[:, 8:] = 1
    results = []
    for other in (1, 2):
        weights = models.initialise(TINY, 0)
        trainer = tf_reference.Trainer(TINY, weights, np.array([1, 0, 0]))
        results.append(trainer.step(images, np.where(labels, other, 0).astype(np.uint8), 1e-3))
    assert results[0] == results[1]


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    tf_reference.tensorflow.cache_clear()
    install = r"needs tensorflow: pip install 'fastconv\[tensorflow\]'"
    with pytest.raises(ImportError, match=install):
        tf_reference.build(SMALL, {})
    tf_reference.tensorflow.cache_clear()

"""Initial weights and shipped models."""

import numpy as np
import pytest

from fcn import models
from fcn.graph import Graph, Model, Node


def test_initial_weights_follow_the_seed():
    graph = models.two_conv(4)
    first, same, other = (models.initialise(graph, seed) for seed in (7, 7, 8))
    assert first.keys() == graph.parameters().keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, same[name])
    assert (first["conv1/kernel"] != other["conv1/kernel"]).all()
    Model(graph, first)


@pytest.mark.parametrize(
    "op, attrs, variance",
    [
        ("conv2d", {"filters": 512, "kernel": 3, "activation": "relu"}, 2 / (9 * 64)),
        ("conv2d", {"filters": 512, "kernel": 3, "activation": "relu6"}, 2 / (9 * 64)),
        ("conv2d", {"filters": 512, "kernel": 3}, 1 / (9 * 64)),
        ("depthwise_conv2d", {"kernel": 5, "multiplier": 99, "activation": "relu6"}, 2 / 25),
        ("conv2d_transpose", {"filters": 512, "kernel": 2, "stride": 2}, 1 / 64),
        ("conv2d_transpose", {"filters": 512, "kernel": 2, "stride": [1, 2]}, 1 / (2 * 64)),
        ("conv2d_transpose", {"filters": 512, "kernel": [1, 2], "stride": 3}, 1 / 64),
    ],
)
def test_initial_variance_is_he_et_al(op, attrs, variance):
    graph = Graph("g", 64, (Node("n", op, ("input",), attrs),), "n")
    weights = models.initialise(graph, seed=0)
    # at least 65,536 samples: the variance is known to 0.6 % (one standard deviation)
    assert weights["n/kernel"].size >= 65_536
    assert weights["n/kernel"].var() == pytest.approx(variance, rel=0.03)
    assert not weights["n/bias"].any()


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
def test_upscores_start_bilinear(name):
    graph = models.ARCHITECTURES[name](3, width=1, fc=2)
    weights = models.initialise(graph, seed=0)
    found = [node.name for node in graph.nodes if node.op == "conv2d_transpose"]
    assert found
    for node in found:
        side, _, filters, channels = weights[f"{node}/kernel"].shape
        expected = models.bilinear_kernel((side, side), filters, channels)
        np.testing.assert_array_equal(weights[f"{node}/kernel"], expected.astype(np.float32))


def test_bilinear_kernel():
    tap = np.array([0.25, 0.75, 0.75, 0.25])
    kernel = models.bilinear_kernel((4, 4), 2, 2)
    np.testing.assert_array_equal(kernel[:, :, 0, 0], np.outer(tap, tap))
    np.testing.assert_array_equal(kernel[:, :, 1, 0], np.zeros((4, 4)))
    # each output pixel of an upsampling by s adds the taps s apart: a constant stays constant
    for stride in (2, 8):
        one = models.bilinear_kernel((2 * stride, 2 * stride), 1, 1)[:, :, 0, 0]
        sums = one.reshape(2, stride, 2, stride).sum((0, 2))
        np.testing.assert_array_equal(sums, np.ones((stride, stride)))


@pytest.mark.parametrize("name", models.PRETRAINED)
def test_shipped_models_say_how_they_were_made(name):
    model = models.pretrained(name)
    assert model.graph.parameters().keys() == model.weights.keys()
    assert all(np.isfinite(value).all() for value in model.weights.values())
    assert len(model.meta["classes"]) == 11
    assert model.meta["command"].startswith("fcn train ")
    assert f"--seed {model.meta['seed']}" in model.meta["command"]
    assert model.meta["validation_iou"][-1] == max(model.meta["validation_iou"])
    assert {"tensorflow", "numpy", "python"} <= model.meta["versions"].keys()


def test_shipped_models_are_small():
    folder = models.resources.files("fcn") / "data"
    assert sum(len((folder / f"{name}.npz").read_bytes()) for name in models.PRETRAINED) < 2e6


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="no model is named 'vgg'; those shipped: digits_fcn8s"):
        models.pretrained("vgg")

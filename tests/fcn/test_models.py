"""The architectures: sizes and parameter counts as literals, initial weights, shipped models."""

import numpy as np
import pytest

from fcn import models
from fcn.graph import Graph, Model, Node


def sizes(graph, hw):
    """Height, width and channels of each node's result."""
    shapes = graph.shapes((1, *hw, graph.channels))
    return {node.name: shapes[node.name][1:] for node in graph.nodes}


def test_two_conv_gives_the_size_of_the_image():
    graph = models.two_conv(21)
    assert sizes(graph, (512, 512)) == {
        "conv1": (512, 512, 64),
        "pool1": (256, 256, 64),
        "conv2": (256, 256, 128),
        "pool2": (128, 128, 128),
        "upsample": (512, 512, 21),
    }
    assert graph.total_stride == 4
    # 3*3*3*64 + 64, 3*3*64*128 + 128, 4*4*21*128 + 21
    assert graph.parameter_count == 1792 + 73856 + 43029


def test_two_conv_as_printed_gives_half_of_it():
    graph = models.two_conv(21, as_printed=True)
    assert sizes(graph, (512, 512))["upsample"] == (256, 256, 21)
    assert graph.node("upsample").attrs["kernel"] == [2, 2]
    assert graph.parameter_count == 1792 + 73856 + 10773


def test_two_conv_drops_remainders_as_keras_does():
    assert sizes(models.two_conv(2, channels=1), (67, 5)) == {
        "conv1": (67, 5, 64),
        "pool1": (33, 2, 64),
        "conv2": (33, 2, 128),
        "pool2": (16, 1, 128),
        "upsample": (64, 4, 2),
    }


def test_fcn8s_has_the_authors_layers():
    names = " ".join(node.name for node in models.fcn8s(21).nodes)
    assert names == (
        "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 conv3_3 pool3 "
        "conv4_1 conv4_2 conv4_3 pool4 conv5_1 conv5_2 conv5_3 pool5 fc6 fc7 score_fr "
        "upscore2 score_pool4 upscore2c fuse_pool4 upscore_pool4 score_pool3 upscore_pool4c "
        "fuse_pool3 upscore8 score"
    )


def test_fcn8s_has_the_authors_number_of_parameters():
    # VGG16's convolutions, fc6, fc7, three scores, three upscores without bias
    expected = 14_714_688 + 102_764_544 + 16_781_312 + 86_037 + 10_773 + 5_397 + 2 * 7_056
    assert models.fcn8s(21).parameter_count == expected + 112_896


def test_fcn8s_at_an_odd_size():
    found = sizes(models.fcn8s(5, width=4, fc=16, fc_kernel=3), (37, 53))
    assert found["pool1"] == (19, 27, 4)
    assert found["pool3"] == (5, 7, 16)
    assert found["pool4"] == (*found["score_pool4"][:2], 32) == (3, 4, 32)
    assert found["pool5"] == (2, 2, 32)
    assert found["fc7"] == (2, 2, 16)
    assert found["upscore2"] == (4, 4, 5)
    assert found["fuse_pool4"] == (3, 4, 5)
    assert found["upscore_pool4"] == (6, 8, 5)
    assert found["fuse_pool3"] == (5, 7, 5)
    assert found["upscore8"] == (40, 56, 5)
    assert found["score"] == (37, 53, 5)


@pytest.mark.parametrize("hw", [(1, 1), (1, 40), (2, 3), (33, 31), (64, 96), (127, 129)], ids=str)
def test_fcn8s_gives_any_image_its_size(hw):
    graph = models.fcn8s(3, width=1, fc=2)
    assert sizes(graph, hw)["score"] == (*hw, 3)
    assert graph.total_stride == 32


def test_initial_weights_follow_the_seed():
    graph = models.two_conv(4)
    first, same, other = (models.initialise(graph, seed) for seed in (7, 7, 8))
    assert first.keys() == graph.parameters().keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, same[name])
    assert (first["conv1/kernel"] != other["conv1/kernel"]).all()
    Model(graph, first)


def test_initial_variance_is_he_et_al():
    node = {"filters": 512, "kernel": 3}
    nodes = (
        Node("relu", "conv2d", ("input",), {**node, "activation": "relu"}),
        Node("linear", "conv2d", ("input",), node),
    )
    weights = models.initialise(Graph("g", 64, nodes, "linear"), seed=0)
    for name, gain in (("relu", 2), ("linear", 1)):
        # 294,912 samples: the variance is known to 0.3 % (one standard deviation)
        assert weights[f"{name}/kernel"].var() == pytest.approx(gain / (9 * 64), rel=0.02)
        assert not weights[f"{name}/bias"].any()


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

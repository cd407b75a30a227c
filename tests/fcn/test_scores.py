"""Labels and how sure they are, beside formulas written out, and whole beside bands."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from fcn import models, scores
from fcn.graph import INPUT, Graph, Model, Node
from fcn.session import Session
from tests.fcn.networks import NARROW, conv

SCORES = np.float32([[[2.0, -1.0, 0.5], [3.0, 3.0, -9.0]], [[0.0, 0.0, 0.0], [-1.0, 80.0, -90.0]]])


def ending(op, filters=3, **attrs):
    """A network of one 1x1 convolution that ends so."""
    nodes = [conv("c", INPUT, filters, kernel=1, use_bias=False)]
    if op:
        nodes.append(Node("end", op, ("c",), attrs))
    return Graph("g", 3, tuple(nodes), nodes[-1].name)


def identity(graph):
    """The convolution copies its input's first channels."""
    shapes = graph.parameters()
    return Session(Model(graph, {name: np.eye(3, shape[3], dtype=np.float32).reshape(shape)
                                 for name, shape in shapes.items()}))  # fmt: skip


def test_formulas():
    found = scores.assess(SCORES, ending(None), scores.PLANES)
    p = scipy.special.softmax(SCORES.astype(np.float64), axis=-1)
    np.testing.assert_allclose(found["margin"], [[1.5, 0], [0, 81]], rtol=1e-6)
    np.testing.assert_allclose(found["probability"], p.max(-1), rtol=1e-6)
    np.testing.assert_allclose(found["entropy"], scipy.stats.entropy(p, axis=-1), atol=1e-7)
    assert {plane.dtype for plane in found.values()} == {np.dtype(np.float32)}


SMALLER = Node("small", "resize2d_to", ("s",), {"size": [2, 2]})


@pytest.mark.parametrize(
    ("graph", "given"),
    [
        (ending("softmax"), True),
        (ending("upsample2d", factor=2), False),
        (Graph("g", 3, (Node("s", "softmax", (INPUT,)), SMALLER), "small"), True),
    ],
    ids=["softmax", "logits", "resized softmax"],
)
def test_probabilities_are_taken_as_they_are(graph, given):
    assert scores.are_probabilities(graph) is given
    p = scipy.special.softmax(SCORES, axis=-1)
    found = scores.assess(p if given else SCORES, graph, ["probability", "entropy"])
    np.testing.assert_allclose(found["probability"], p.max(-1), rtol=1e-5)
    np.testing.assert_allclose(found["entropy"], scipy.stats.entropy(p, axis=-1), atol=1e-5)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_one_channel_is_a_class_and_its_opposite(sigmoid):
    """A sigmoid or none: the class begins where both are equally likely."""
    attrs = {"activation": "sigmoid"} if sigmoid else {}
    graph = Graph("g", 3, (conv("c", INPUT, 1, kernel=1, use_bias=False, **attrs),), "c")
    session = identity(graph)
    session.model.meta["mean"] = 0.5
    image = np.zeros((2, 3, 3), np.float32)
    image[..., 0] = [[0.1, 0.5, 0.9], [0.499, 0.501, 1.0]]
    logits = image[..., 0].astype(np.float64) - 0.5
    expected = (logits > 0).astype(np.uint8)
    for options in ({}, {"band": 1}):
        labels, planes = session.segment(image, planes=scores.PLANES, **options)
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_array_equal(session.segment(image, **options), expected)
        p = scipy.special.expit(logits)
        both = np.stack([p, 1 - p], -1)
        margin = np.abs(2 * p - 1) if sigmoid else np.abs(logits)
        np.testing.assert_allclose(planes["margin"], margin, atol=1e-6)
        np.testing.assert_allclose(planes["probability"], both.max(-1), rtol=1e-6)
        np.testing.assert_allclose(planes["entropy"], scipy.stats.entropy(both, axis=-1), rtol=1e-6)


@pytest.mark.parametrize("name", ["fcn8s", "fcn_resnet50", "as_printed", "unet"])
def test_planes_of_bands_and_of_the_whole_are_equal(name, monkeypatch):
    monkeypatch.setattr(scores, "CHUNK", 1000)
    graph = NARROW[name]
    session = Session(Model(graph, models.initialise(graph, 4)))
    shape = (101, 75, 3)[: 2 + (graph.channels > 1)]
    image = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    labels, planes = session.segment(image, planes=scores.PLANES)
    np.testing.assert_array_equal(labels, session.segment(image))
    assert {plane.shape for plane in planes.values()} == {(101, 75)}
    assert list(planes) == list(scores.PLANES)
    again, other = session.segment(image, planes=["entropy", "margin"], band=16)
    np.testing.assert_array_equal(again, labels)
    for plane in ("entropy", "margin"):
        np.testing.assert_array_equal(other[plane], planes[plane])


def test_nan_scores_are_never_sure():
    broken = np.float32([[[np.nan, 1.0, 0.0]]])
    found = scores.assess(broken, ending(None), scores.PLANES)
    assert all(np.isnan(plane).all() for plane in found.values())


def test_unknown_planes_are_named():
    session = identity(ending(None))
    with pytest.raises(ValueError, match=r"planes are margin, .*, got \['certainty'\]"):
        session.segment(np.zeros((2, 2, 3), np.uint8), planes=["certainty"])
    labels, found = session.segment(np.zeros((2, 2, 3), np.uint8), planes="margin")
    assert (labels.shape, list(found)) == ((2, 2), ["margin"])

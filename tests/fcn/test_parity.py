"""The verdicts of `fcn verify`: by hand on small numbers, then for real against TensorFlow."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest

import fastconv
from fcn import models, parity, tolerances
from fcn.graph import Graph, Model, Node
from fcn.session import Session
from tests.fcn.networks import EVERY_OP, NARROW
from tests.helpers import assert_within

SUM = Node("sum", "add", ("input", "input"))


def step_for(shape):
    graph = Graph("g", shape[3], (SUM,), "sum")
    return Session(Model(graph, {})).step(SUM, graph.shapes(shape))


def judge(ours, reference, bound):
    arrays = [np.array(a, np.float32).reshape(1, 1, -1, 1) for a in (ours, reference)]
    bounds = np.broadcast_to(np.array(bound, np.float64), arrays[0].size)
    return parity.judge_layer(*arrays, bounds.reshape(1, 1, -1, 1), step_for((1, 1, len(ours), 1)))


def test_figures_of_a_layer():
    """Errors 0, 2**-20, 2**-22 on 1, 4, -8; the smaller error has by far the smaller bound."""
    layer = judge([1, 4 + 2**-20, -8 + 2**-20], [1, 4, -8], [1, 2**-10, 2**-19])
    assert layer.abs_error == 2**-20
    assert layer.rel_error == 2**-20 / 8
    assert layer.ulp == 2**-20 / 2**-21  # float32 numbers from 4 to 8 lie 2**-21 apart
    assert layer.ratio == 0.5
    assert layer.worst == (0, 0, 2, 0)
    assert layer.bound == 1
    assert layer.passed
    assert (layer.name, layer.op, layer.algorithm) == ("sum", "add", "")


def test_one_element_beyond_its_bound_fails_the_layer():
    layer = judge([1, 1, 1.5], [1, 1, 1], [9, 9, 0.25])
    assert layer.ratio == 2
    assert not layer.passed


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_and_infinity_never_pass(side, broken):
    values = [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]
    values[side][1] = broken
    assert not judge(*values, 1e30).passed
    assert not judge([broken] * 3, [broken] * 3, 1e30).passed


def compare(ours, reference, exact):
    arrays = [np.array(a, np.float64)[None, None] for a in (ours, reference, exact)]
    return parity.end_to_end(*(a.astype(np.float32) for a in arrays[:2]), arrays[2])


def test_end_to_end_figures():
    """||exact|| = 5; our error (0, 0.5, 0, 0), TensorFlow's (0.25, 0, 0, 0)."""
    exact = [[3.0, 0.0], [0.0, 4.0]]
    whole = compare([[3.0, 0.5], [0.0, 4.0]], [[3.25, 0.0], [0.0, 4.0]], exact)
    assert whole.ours == 0.1
    assert whole.reference == 0.05
    assert whole.ratio == 2
    assert whole.max_error == 0.5
    assert (whole.pixels, whole.agreeing, whole.undecidable, whole.differing) == (2, 2, 0, 0)


def test_labels_within_twice_the_larger_error_are_undecidable():
    """Margins 0.5, 1 and 4; the larger error is 0.5, so margins up to 1 decide nothing."""
    exact = [[0.5, 0.0], [1.0, 0.0], [4.0, 0.0]]
    whole = compare([[0.25, 0.5], [1.0, 0.0], [4.0, 0.0]], exact, exact)
    assert (whole.pixels, whole.undecidable, whole.agreeing, whole.differing) == (3, 2, 2, 0)


def test_one_class_leaves_nothing_to_decide():
    whole = compare([[1.5]], [[1.0]], [[1.0]])
    assert (whole.undecidable, whole.agreeing, whole.differing) == (0, 1, 0)


def test_lost_pixel_differs_where_float64_is_sure():
    """A NaN makes the error NaN; no pixel can then be excused by it."""
    whole = compare([[math.nan, 0.0], [0.0, 5.0]], [[0.0, 1.0], [0.0, 5.0]], [[0, 1], [0, 5]])
    assert not whole.accurate
    assert whole.undecidable == 2  # nothing is sure when the error is not a number
    assert math.isnan(whole.max_error)


GOOD = parity.EndToEnd(1e-7, 1e-7, 1e-6, pixels=9, undecidable=1, agreeing=8, differing=0)


@pytest.mark.parametrize(
    ("ours", "reference", "accurate"),
    [
        (1e-7, 1e-7, True),
        (4e-6, 1e-7, True),  # 40 times TensorFlow's, but below 5e-6
        (9e-6, 3e-6, True),  # beyond 5e-6, but 3 times TensorFlow's
        (9e-6, 2e-6, False),
        (math.nan, 1.0, False),
        (1.0, math.nan, False),
        (0.0, 0.0, True),
    ],
)
def test_end_to_end_rule(ours, reference, accurate):
    assert replace(GOOD, ours=ours, reference=reference).accurate is accurate


def test_report_lists_every_broken_rule():
    fine = judge([1.0, 2.0], [1.0, 2.0], 1e-6)
    broken = replace(judge([1.0, 2.5], [1.0, 2.0], 0.1), name="conv7", worst=(0, 3, 4, 5))
    report = parity.Report("net", (1, 8, 6, 3), (fine, broken), GOOD)
    assert not report.passed
    assert len(report.failures) == 1
    assert "layer conv7 differs by 5 times its rounding bound at (0, 3, 4, 5)" in str(report)
    assert "BROKEN" in str(report)
    worse = replace(report, whole=replace(GOOD, ours=1e-3, differing=2))
    assert len(worse.failures) == 3
    assert "2 decidable pixels have another label" in str(worse)
    passing = replace(report, layers=(fine,))
    assert passing.passed
    assert str(passing).endswith("PASS")
    assert "input 1 x 8 x 6 x 3" in str(passing)


# --- against TensorFlow ------------------------------------------------------------------------

tensorflow = pytest.mark.tensorflow
GRAPHS = NARROW | EVERY_OP


def random_model(graph, seed=0):
    return Model(graph, models.initialise(graph, seed))


def noise(model, h, w):
    return np.random.default_rng(5).random((1, h, w, model.graph.channels), np.float32)


@tensorflow
@pytest.mark.parametrize("size", [(64, 48), (37, 50)], ids=str)
@pytest.mark.parametrize("name", GRAPHS)
def test_verify_passes(name, size):
    pytest.importorskip("tensorflow")
    model = random_model(GRAPHS[name])
    size = (40, 52) if name == "unet" and size == (37, 50) else size
    report = parity.verify(model, noise(model, *size))
    assert report.passed, str(report)
    assert [layer.name for layer in report.layers] == [node.name for node in model.graph.nodes]
    shapes = model.graph.shapes((1, *size, model.graph.channels))
    for layer in report.layers:
        assert layer.shape == shapes[layer.name]
    assert 0 < report.whole.ours < 1e-5
    assert 0 < report.whole.reference < 1e-5  # so the float64 run was not one in float32
    assert report.whole.pixels == np.prod(shapes[model.graph.output][:3])
    text = str(report)
    assert all(f"\n{layer.name} " in text for layer in report.layers)


@tensorflow
def test_winograd_is_judged_by_its_own_bound():
    pytest.importorskip("tensorflow")
    model = random_model(models.fcn8s(4, width=16, fc=32, fc_kernel=3))
    report = parity.verify(model, noise(model, 64, 64))
    assert report.passed, str(report)
    algorithms = {layer.algorithm for layer in report.layers}
    assert algorithms > {"", "direct"} and algorithms & {"winograd_f4", "winograd_f2"}


@tensorflow
@pytest.mark.parametrize("new", [(1, 1), (3, 100), (64, 50), (447, 448), (640, 5)], ids=str)
@pytest.mark.parametrize("old", [(1, 1), (7, 2), (56, 57), (400, 9)], ids=str)
def test_tensorflows_bilinear_error_has_a_bound(old, new):
    """Against matrices in float64, for one smooth and one wild channel."""
    tf = pytest.importorskip("tensorflow")
    x = np.random.default_rng(0).normal(size=(2, *old, 2)).astype(np.float32)
    x[..., 0] = np.add.outer(np.arange(old[0]), np.arange(old[1])) / 8

    def matrix(size, out):
        centre = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
        return np.maximum(1 - np.abs(centre[:, None] - np.arange(size)), 0)

    rows, cols = (matrix(*sizes) for sizes in zip(old, new, strict=True))
    exact = np.einsum("ip,npqc,jq->nijc", rows, x.astype(np.float64), cols, optimize=True)
    bound = tolerances.resize_bound(x, new)
    assert bound.shape == exact.shape
    assert bound.max() < 1e-4 * np.abs(x).max()
    assert_within(tf.image.resize(x, new).numpy(), exact, bound)


@tensorflow
@pytest.mark.parametrize("coordinates", ["asymmetric", "align_corners"])
def test_other_coordinates_break_the_bound_of_a_resize(monkeypatch, coordinates):
    pytest.importorskip("tensorflow")
    model = random_model(GRAPHS["fcn_mobilenet"])
    wrong = functools.partial(fastconv.resize2d, coordinates=coordinates)
    monkeypatch.setattr(fastconv, "resize2d", wrong)
    report = parity.verify(model, noise(model, 45, 70))
    assert [layer.name for layer in report.layers if not layer.passed] == ["out"]


def perturbed(model, node, tensors):
    """The model with one weight of a node slightly off: one that joins two channels in use."""
    kernel = model.weights[f"{node.name}/kernel"].copy()
    used, k = (tensors[t].mean(axis=(0, 1, 2)) for t in (node.inputs[0], node.name))
    groups = node.attrs.get("groups", 1)
    group, k = divmod(int(k.argmax()), len(k) // groups)
    c = int(np.split(used, groups)[group].argmax())
    if node.op == "depthwise_conv2d":
        c, k = divmod(k, kernel.shape[3])
    if node.op == "conv2d_transpose":
        taps = np.split(kernel, groups, axis=3)[group][..., k, c]
    else:
        taps = np.split(kernel, groups, axis=3)[group][..., c, k]
    taps[taps.shape[0] // 2, taps.shape[1] // 2] += 0.05 * np.abs(kernel).max()
    return Model(model.graph, {**model.weights, f"{node.name}/kernel": kernel})


@tensorflow
@pytest.mark.parametrize(
    "name", sorted(GRAPHS.keys() - {"fcn_resnet101", "fcn16s_caffe", "fcn32s_caffe"})
)
def test_perturbed_weight_breaks_its_layer_and_no_other(name):
    """A few layers in turn; only our side has the wrong weight."""
    pytest.importorskip("tensorflow")
    model = random_model(GRAPHS[name])
    x = noise(model, 36 if name == "unet" else 33, 40)
    tensors = {"input": x} | {node.name: y for node, y in Session(model).layers(x)}
    nodes = [node for node in model.graph.nodes if node.rule.kernel]
    for node in nodes[:: max(1, len(nodes) // 4)]:
        report = parity.verify(model, x, Session(perturbed(model, node, tensors)))
        assert [layer.name for layer in report.layers if not layer.passed] == [node.name]
        assert not report.passed
        assert f"FAIL: layer {node.name} differs by " in str(report)


@tensorflow
def test_error_that_only_the_whole_run_shows_fails_too():
    """The layers are right, but the run is not: as if fusing had gone wrong."""
    pytest.importorskip("tensorflow")
    model = random_model(GRAPHS["two_conv"])

    class Crooked(Session):
        def run(self, x):
            return super().run(x) * np.float32(1 + 1e-4)

    report = parity.verify(model, noise(model, 32, 32), Crooked(model))
    assert all(layer.passed for layer in report.layers)
    assert not report.whole.accurate
    assert "end-to-end error" in str(report)


@tensorflow
@pytest.mark.slow
@pytest.mark.parametrize(
    "graph", [models.two_conv(21), models.fcn8s(21, width=8, fc=512)], ids=lambda g: g.name
)
def test_the_articles_size_passes(graph):
    pytest.importorskip("tensorflow")
    model = random_model(graph)
    report = parity.verify(model, noise(model, 512, 512))
    assert report.passed, str(report)
    assert report.whole.pixels == 512 * 512
    assert report.whole.undecidable < 200


@tensorflow
@pytest.mark.parametrize("name", models.PRETRAINED)
def test_shipped_models_pass_on_a_held_out_scene(name):
    pytest.importorskip("tensorflow")
    pytest.importorskip("sklearn")
    from fcn import digits

    model = models.pretrained(name)
    image, _ = digits.scene("test", 0, (97, 130))
    report = parity.verify(model, Session(model).prepare(image))
    assert report.passed, str(report)

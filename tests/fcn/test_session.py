"""Sessions: exact integers against SciPy, buffers, threads, and labels at any image size."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fcn import models, steps
from fcn.fusion import groups
from fcn.graph import Graph, Model, Node
from fcn.program import _assign
from fcn.session import Session
from tests.fcn.networks import (
    EVERY_OP,
    NARROW,
    conv,
    doubled,
    integer_model,
    integers,
    oracle,
    pool,
)

GRAPHS = NARROW | EVERY_OP
# Residual networks are left to `test_parity`: their integers would outgrow float32.
WHOLE = [name for name in GRAPHS if "resnet" not in name and "mobilenet" not in name]
SEEDS = {"fcn32s": 2, "fcn32s_caffe": 1, "unet": 5}  # with 0, these have no signal at their end
SHAPES = [(1, 32, 32), (2, 37, 22), (1, 9, 40)]


def sized(graph, h, w):
    """That size, or the next one that the graph can take: a U-Net halves it without remainder."""
    unit = graph.total_stride if graph.name == "unet" else 1
    return -(-h // unit) * unit, -(-w // unit) * unit


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_whole_run_is_exact(name, shape):
    model = integer_model(GRAPHS[name], SEEDS.get(name, 0))
    session = Session(model, algorithm="direct")
    for seed in (1, 2):  # the second run meets buffers that the first one filled
        shape = (shape[0], *sized(model.graph, *shape[1:]))
        x = integers((*shape, model.graph.channels), seed)
        expected = oracle(model, x)[model.graph.output]
        np.testing.assert_array_equal(session.run(x), expected)
    assert np.abs(expected).max() < 2**24
    assert len(np.unique(expected)) > 10  # the network did not die


@pytest.mark.parametrize("name", WHOLE)
def test_layers_are_exact_one_by_one(name):
    model = integer_model(GRAPHS[name], SEEDS.get(name, 0))
    x = integers((1, *sized(model.graph, 27, 34), model.graph.channels), 3)
    expected = oracle(model, x)
    found = list(Session(model, algorithm="direct").layers(x[0]))
    assert [node for node, _ in found] == list(model.graph.nodes)
    for node, y in found:
        np.testing.assert_array_equal(y, expected[node.name], err_msg=node.name)
        assert name not in EVERY_OP or len(np.unique(y)) > min(3, y.size - 1)


def fused(graph, shape):
    return [(g.node.name, g.then.name) for g in groups(graph, graph.shapes(shape)) if g.then]


def test_what_is_fused():
    graph = GRAPHS["named_padding"]
    even, odd = (1, 32, 32, 3), (1, 31, 32, 3)
    assert fused(graph, even) == [("c1", "p1"), ("c3", "sum")]
    assert fused(graph, odd) == [("c3", "sum")]  # a "same" pool covers the remainder
    graph = models.two_conv(4)  # its pools are "valid"
    assert fused(graph, odd) == [("conv1", "pool1"), ("conv2", "pool2")]
    program = Session(integer_model(graph)).program(odd)
    assert [step.node.name for step in program.steps] == ["pool1", "pool2", "upsample"]
    assert program.steps[0].plan.spec.pool
    assert program.steps[0].shape == (1, 15, 16, 64)


def test_sums_and_crops_are_fused():
    graph = models.fcn8s(3, width=2, fc=8, fc_kernel=3)
    assert [pair for pair in fused(graph, (1, 36, 52, 3)) if "pool" not in pair[1][:4]] == [
        ("upscore2", "upscore2c"), ("upscore_pool4", "upscore_pool4c"), ("upscore8", "score"),
    ]  # fmt: skip
    program = Session(integer_model(graph))._program(((1, 36, 52, 3),), True)
    plans = {step.node.name: step.plan.spec for step in program.steps if step.plan}
    assert plans["score"].out == (1, 36, 52, 3)
    assert program.labels
    assert program.steps[-1].dtype == np.uint8


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_joined_maps_are_shared_by_threads(threads, monkeypatch):
    monkeypatch.setattr(steps, "SHARED", 1)
    nodes = (conv("a", "input", 3, kernel=1), Node("c", "concat", ("input", "a", "input")))
    model, x = integer_model(Graph("g", 2, nodes, "c")), integers((2, 5, 4, 2), 0)
    expected = oracle(model, x)["c"]
    np.testing.assert_array_equal(Session(model, threads).run(x), expected)


def test_what_several_read_is_not_fused():
    """Of a sum one convolution runs first; one that another layer reads, or clamps, stays alone."""
    c = {"kernel": 1, "use_bias": False}
    ends = Node("s", "add", ("a", "b"))
    nodes = [conv("i", "input", 2, **c), conv("a", "input", 2, **c), conv("b", "i", 2, **c), ends]
    assert fused(Graph("g", 2, nodes, "s"), (1, 4, 4, 2)) == [("b", "s")]
    twice = [*nodes, Node("t", "add", ("s", "b"))]
    assert fused(Graph("g", 2, twice, "t"), (1, 4, 4, 2)) == []
    clamped = [*nodes[:2], conv("b", "i", 2, activation="relu", **c), ends]
    assert fused(Graph("g", 2, clamped, "s"), (1, 4, 4, 2)) == []
    skip = [*nodes[:2], conv("b", "a", 2, **c), ends]  # "a" goes on, and "b" would make it wait
    assert fused(Graph("g", 2, skip, "s"), (1, 4, 4, 2)) == []
    dead = [*nodes, conv("unused", "a", 5, **c)]
    graph = Graph("g", 2, dead, "s")
    assert [g.last.name for g in groups(graph, graph.shapes((1, 4, 4, 2)))] == ["i", "a", "s"]
    model, x = integer_model(graph), integers((1, 4, 4, 2), 0)
    program = Session(model)._program(((1, 4, 4, 2),))
    assert program.steps[-1].plan.spec.add
    np.testing.assert_array_equal(Session(model).run(x), oracle(model, x)["s"])


@pytest.mark.parametrize(
    ("attrs", "rows", "joined"),
    [
        ({"ceil_mode": True}, 8, True),
        ({"ceil_mode": True}, 7, False),  # a window reaches past the end
        ({"padding": [[1, 0], [0, 0]]}, 8, False),  # windows start one pixel earlier
    ],
)
def test_pools_that_are_fused_never_leave_the_image(attrs, rows, joined):
    nodes = (conv("c", "input", 2, kernel=1, activation="relu"), pool("p", "c", **attrs))
    graph = Graph("g", 1, nodes, "p")
    assert bool(fused(graph, (1, rows, 8, 1))) is joined
    model = Model(graph, {name: np.ones(s, np.float32) for name, s in graph.parameters().items()})
    x = integers((1, rows, 8, 1), 0)
    np.testing.assert_array_equal(Session(model).run(x), oracle(model, x)["p"])


def test_sum_clamps_and_keeps_nan():
    low, high = np.float32([-2, -1, 3, np.nan]), np.float32([-1, 1, 4, 1])
    x = np.stack([low, high], axis=-1)[None, None]
    weights = {f"{name}/kernel": np.float32(pick).reshape(1, 1, 2, 1)
               for name, pick in (("a", [1, 0]), ("b", [0, 1]))}  # fmt: skip
    halves = [conv(name, "input", 1, kernel=1, use_bias=False) for name in "ab"]
    for activation, expected in (
        (None, [-3, 0, 7, np.nan]), ("relu", [0, 0, 7, np.nan]), ("relu6", [0, 0, 6, np.nan]),
    ):  # fmt: skip
        nodes = (*halves, Node("sum", "add", ("a", "b"), {"activation": activation}))
        y = Session(Model(Graph("g", 2, nodes, "sum"), weights), algorithm="direct").run(x)
        np.testing.assert_array_equal(y.ravel(), np.float32(expected))


def test_output_of_the_graph_is_never_fused_away():
    graph = Graph("g", 1, (conv("c", "input", 2, kernel=1), pool("p", "c")), "c")
    assert fused(graph, (1, 4, 4, 1)) == []
    model = integer_model(graph)
    x = integers((1, 4, 4, 1), 0)
    np.testing.assert_array_equal(Session(model).run(x), oracle(model, x)["c"])


@pytest.mark.parametrize("name", GRAPHS)
def test_no_buffer_is_written_while_it_is_needed(name):
    graph = GRAPHS[name]
    shape = (1, *sized(graph, 40, 24), graph.channels)
    program = Session(integer_model(graph)).program(shape)
    slots, sizes = _assign(program.steps, {graph.output})
    holds = {}
    for step in program.steps:
        for tensor in step.inputs:
            assert tensor == "input" or holds[slots[tensor]] == tensor
        if step.node.name != graph.output:
            assert slots[step.node.name] not in {slots.get(t) for t in step.inputs}
            assert np.prod(step.shape) <= sizes[slots[step.node.name]]
            holds[slots[step.node.name]] = step.node.name
    assert len(sizes) == most_alive(program.steps, graph.output)


def most_alive(steps, output):
    """How many results are in memory at once, the output apart."""
    made = {step.node.name: i for i, step in enumerate(steps) if step.node.name != output}
    read = {name: max(i for i, s in enumerate(steps) if name in s.inputs) for name in made}
    return max(sum(made[name] <= i <= read[name] for name in made) for i in range(len(steps)))


def test_results_are_the_callers_own():
    model = integer_model(GRAPHS["two_conv"])
    session = Session(model)
    x = integers((1, 16, 16, 3), 1)
    first = session.run(x)
    kept = first.copy()
    session.run(x + 1)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", GRAPHS)
def test_rank_three_batches_and_thread_counts_give_the_same_bits(name):
    graph = GRAPHS[name]
    model = Model(graph, models.initialise(graph, 0))
    x = np.random.default_rng(0).random((3, *sized(graph, 45, 38), graph.channels), np.float32)
    whole = Session(model).run(x)
    alone = Session(model, num_threads=1)
    for i in range(3):
        np.testing.assert_array_equal(alone.run(x[i]), whole[i])


@pytest.mark.parametrize("name", GRAPHS)
def test_fused_run_equals_node_by_node_bit_for_bit(name):
    graph = GRAPHS[name]
    model = Model(graph, models.initialise(graph, 0))
    session = Session(model, algorithm="direct")
    x = np.random.default_rng(1).random((1, *sized(graph, 45, 38), graph.channels), np.float32)
    node_by_node = {node.name: y for node, y in session.layers(x)}
    np.testing.assert_array_equal(session.run(x), node_by_node[graph.output])


def test_python_threads_may_share_a_session():
    model = integer_model(GRAPHS["named_padding"])
    session = Session(model, algorithm="direct")
    shapes = [(1, 20 + 4 * (i % 6), 24, 3) for i in range(24)]  # more shapes than plans are kept
    inputs = [integers(shape, i) for i, shape in enumerate(shapes)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(session.run, inputs))
    for x, y in zip(inputs, found, strict=True):
        np.testing.assert_array_equal(y, oracle(model, x)["up"])


def test_nan_reaches_the_logits_and_stays_local():
    graph = models.two_conv(2, 1)
    model = Model(graph, models.initialise(graph, 0))
    x = np.random.default_rng(0).random((1, 64, 64, 1), np.float32)
    x[0, 20, 20] = np.nan
    nan = np.isnan(Session(model, algorithm="direct").run(x))[0].any(axis=-1)
    rows, cols = np.nonzero(nan)
    # pool 1 sees it at 9 .. 10 (3x3 taps), pool 2 at 4 .. 5, each of which paints 4 x 4 pixels
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (16, 23, 16, 23)
    assert nan.sum() == 64


@pytest.mark.parametrize("shape", [(0, 16, 16, 3), (2, 16, 16, 3)])
def test_any_batch_size(shape):
    y = Session(integer_model(GRAPHS["two_conv"])).run(np.zeros(shape, np.float32))
    assert y.shape == (shape[0], 16, 16, 4)
    assert y.dtype == np.float32


def test_strided_input():
    model = integer_model(GRAPHS["two_conv"])
    x = integers((1, 32, 16, 6), 0)[:, ::-2, :, ::2]
    y = Session(model, algorithm="direct").run(x)
    np.testing.assert_array_equal(y, oracle(model, x)["upsample"])


def test_several_inputs_and_outputs():
    """Outputs that others read, one that is another's input, and each buffer used again."""
    nodes = (
        conv("a", "image", 4, padding="same", activation="relu"),
        pool("p", "a"),
        conv("b", "p", 2),
        Node("near", "upsample2d", ("p",), {"factor": 2}),
        Node("m", "multiply", ("near", "mask")),
        conv("c", "m", 2, padding="same"),
    )
    graph = Graph(
        "several", {"image": 3, "mask": 1}, nodes, {"w": "a", "x": "c", "y": "p", "z": "b"}
    )
    session = Session(integer_model(graph), algorithm="direct")
    for seed in (1, 2):
        image, mask = integers((2, 8, 6, 3), seed), integers((2, 8, 6, 1), seed + 5)
        expected = oracle(session.model, image=image, mask=mask)
        found = session.run({"mask": mask, "image": image})
        assert list(found) == ["w", "x", "y", "z"]
        for name, node in graph.outputs.items():
            np.testing.assert_array_equal(found[name], expected[node])
            assert len(np.unique(found[name])) > 2
    alone = session.run({"image": image[0], "mask": mask[0]})
    np.testing.assert_array_equal(alone["x"], found["x"][0])
    for feeds, message in (
        ({"image": image}, r"running several: it reads \['image', 'mask'\], got \['image'\]"),
        ({"image": image, "mask": mask[..., 0]}, r"reads \(2, h, w, 1\) arrays, got shape \(1, "),
        (image, r"several gives \['w', 'x', 'y', 'z'\], and this needs a network"),
    ):
        with pytest.raises(ValueError, match=message):
            session.run(feeds)
    with pytest.raises(
        ValueError, match=r"several reads \['image', 'mask'\], and this needs a netw"
    ):
        session.segment(picture((8, 6)))


def test_one_input_by_name():
    session = Session(integer_model(GRAPHS["two_conv"]))
    x = integers((8, 8, 3), 1)
    np.testing.assert_array_equal(session.run({"input": x})["upsample"], session.run(x))


@pytest.mark.parametrize("options", [{}, {"band": 8}])
def test_pictures_need_one_output(options):
    graph = GRAPHS["two_conv"]
    graph = Graph("both", 3, graph.nodes, {"a": "upsample", "b": "conv1"})
    with pytest.raises(ValueError, match=r"both gives \['a', 'b'\], and this needs a network with"):
        Session(integer_model(graph)).segment(picture((8, 6)), **options)


# --- segment -----------------------------------------------------------------------------------

SIZES = [(1, 1), (1, 7), (3, 2), (5, 9), (33, 70), (32, 64), (31, 33)]


def picture(size, channels=3):
    shape = size if channels is None else (*size, channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def labels_by_hand(model, image):
    """Pad by the edge to multiples of 4, run, upsample by 2 if needed, crop, argmax."""
    h, w = image.shape[:2]
    x = image.astype(np.float32) / np.float32(255)
    rows, cols = (np.minimum(np.arange(-(-size // 4) * 4), size - 1) for size in (h, w))
    logits = Session(model).run(x[rows][:, cols][None])
    if logits.shape[1] != len(rows):
        logits = doubled(logits)
    return logits[0, :h, :w].argmax(-1)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NARROW)
def test_labels_have_the_size_of_the_image(name, size):
    graph = NARROW[name]
    model = Model(graph, models.initialise(graph, 0))
    image = picture(size, graph.channels)
    labels = Session(model).segment(image)
    assert labels.shape == size
    assert labels.dtype == np.uint8
    if name in ("two_conv", "as_printed", "unet"):  # total stride 4; the others take any size
        np.testing.assert_array_equal(labels, labels_by_hand(model, image))


def test_network_of_any_size_sees_the_image_as_it_is():
    """fcn8s answers at the size of its input, so nothing is added to the picture."""
    graph = GRAPHS["fcn8s"]
    session = Session(Model(graph, models.initialise(graph, 0)))
    image = picture((37, 45))
    x = session.prepare(image)
    assert x.shape == (1, 37, 45, 3)
    np.testing.assert_array_equal(session.run(x)[0].argmax(-1), session.segment(image))


def test_gray_is_repeated_and_floats_are_in_unit_range():
    graph = GRAPHS["two_conv"]
    session = Session(Model(graph, models.initialise(graph, 0)))
    gray = picture((10, 13), None)
    expected = session.segment(np.stack([gray] * 3, axis=-1))
    np.testing.assert_array_equal(session.segment(gray), expected)
    np.testing.assert_array_equal(session.segment(gray[..., None]), expected)
    scaled = gray.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(session.segment(scaled), expected)
    np.testing.assert_array_equal(session.segment(scaled.astype(np.float64)), expected)


def test_mean_and_deviation_of_the_model_are_applied():
    graph = GRAPHS["two_conv"]
    meta = {"mean": [0.5, 0.25, 0.0], "std": [0.5, 0.25, 2.0]}
    session = Session(Model(graph, models.initialise(graph, 0), meta))
    x = session.prepare(np.full((4, 4, 3), [255, 0, 255], np.uint8))
    np.testing.assert_array_equal(x, np.full((1, 4, 4, 3), [1.0, -1.0, 0.5]))


def test_float_image_is_not_changed():
    session = Session(Model(GRAPHS["two_conv"], models.initialise(GRAPHS["two_conv"], 0)))
    image = np.full((8, 8, 3), 0.75, np.float32)
    session.segment(image)
    assert (image == 0.75).all()


def test_many_classes_need_wider_labels():
    graph = Graph("wide", 1, (conv("c", "input", 300, kernel=1),), "c")
    weights = {
        "c/kernel": np.zeros((1, 1, 1, 300), np.float32),
        "c/bias": np.arange(300, dtype=np.float32),
    }
    labels = Session(Model(graph, weights)).segment(np.zeros((2, 3), np.uint8))
    np.testing.assert_array_equal(labels, np.full((2, 3), 299, np.int32), strict=True)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ([[1, 2]], TypeError, "segment: the image must be a NumPy array, got list"),
        (np.zeros((4, 4, 3), np.int32), TypeError, "must be uint8, or float.*got dtype int32"),
        (np.zeros((4, 4), object), TypeError, "got dtype object"),
        (np.zeros((4, 4), complex), TypeError, "got dtype complex128"),
        (np.zeros(4, np.uint8), ValueError, r"must be \(h, w\) or \(h, w, c\), got \(4,\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), ValueError, r"got \(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"is empty, its shape is \(0, 4, 3\)"),
        (np.zeros((4, 0), np.uint8), ValueError, "is empty"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, "reads 3 channels but the image has 4"),
        (np.full((4, 4), np.nan, np.float32), ValueError, r"must lie in \[0, 1\], got nan"),
        (np.full((4, 4), np.inf), ValueError, r"must lie in \[0, 1\], got inf"),
        (np.full((4, 4), 255.0), ValueError, r"\[0, 1\], got 255 \.\. 255; divide it"),
    ],
)
def test_bad_images(image, error, message):
    with pytest.raises(error, match=message):
        Session(integer_model(GRAPHS["two_conv"])).segment(image)


def test_colour_for_a_gray_network_names_the_conversion():
    with pytest.raises(ValueError, match=r"reads 1 channels.*fcn\.images\.fit\(image, 1\)"):
        Session(integer_model(GRAPHS["as_printed"])).segment(picture((4, 4)))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((1, 8, 8, 3)), TypeError, "must be a float32 array, got float64"),
        ([[1.0]], TypeError, "must be a float32 array, got list"),
        (np.zeros((8, 8), np.float32), ValueError, r"must be \(h, w, c\) or \(n, h, w, c\)"),
        (np.zeros((8, 8, 4), np.float32), ValueError, r"reads \(n, h, w, 3\) arrays"),
        (np.zeros((1, 1, 3), np.float32), ValueError, "window of 2 pixels"),
    ],
)
def test_bad_inputs(x, error, message):
    with pytest.raises(error, match=message):
        Session(integer_model(GRAPHS["two_conv"])).run(x)

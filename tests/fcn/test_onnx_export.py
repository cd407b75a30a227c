"""Models written as ONNX: what ONNX Runtime makes of them, at sizes that the file leaves open."""

import numpy as np
import pytest

import fcn
from fcn import cli, models
from fcn.graph import Graph, Model, Node
from fcn.onnx import save
from fcn.onnx.export import FUNCTIONS, WRITERS
from fcn.ops import ACTIVATIONS, OPS
from fcn.session import Session
from tests.fcn.networks import EVERY_OP, NARROW, integer_model, integers, oracle

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
DEEP = [name for name in NARROW if "resnet" in name or "mobilenet" in name]
WHOLE = {n: g for n, g in {**NARROW, **EVERY_OP}.items() if n not in DEEP}
SEEDS = {"fcn32s": 2, "fcn32s_caffe": 1, "unet": 5}  # with 0, these have no signal at their end


def run(path, **inputs):
    """Results of ONNX Runtime by name; (n, h, w, c) outside."""
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {name: np.ascontiguousarray(x.transpose(0, 3, 1, 2)) for name, x in inputs.items()}
    names = [value.name for value in session.get_outputs()]
    results = session.run(names, feeds)
    return {n: y.transpose(0, 2, 3, 1) for n, y in zip(names, results, strict=True)}


def normals(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_every_operation_can_be_written():
    assert WRITERS.keys() == OPS.keys()
    assert FUNCTIONS.keys() | {None, "prelu", "relu6", "silu"} == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", WHOLE)
def test_whole_networks_are_exact(name, tmp_path):
    """On integers, against the oracle."""
    model = integer_model(WHOLE[name], SEEDS.get(name, 0))
    save(model, tmp_path / "m.onnx")
    for size in ((32, 32), (36, 24) if name == "unet" else (37, 22)):
        x = integers((2, *size, model.graph.channels), 1)
        (y,) = run(tmp_path / "m.onnx", input=x).values()
        np.testing.assert_array_equal(y, oracle(model, x)[model.graph.output])
        assert len(np.unique(y)) > 10


@pytest.mark.parametrize("name", DEEP)
def test_residual_networks_agree(name, tmp_path):
    graph = NARROW[name]
    model, x = Model(graph, models.initialise(graph, 0)), normals((1, 45, 52, 3))
    save(model, tmp_path / "m.onnx")
    ours, theirs = Session(model).run(x), run(tmp_path / "m.onnx", input=x)[graph.output]
    assert np.linalg.norm(ours - theirs) <= 5e-6 * np.linalg.norm(theirs)


def one(op, count=1, **attrs):
    return Node("n", op, ("input",) * count, attrs)


CASES = [
    *(one("activation", activation=name) for name in ACTIVATIONS),
    one("activation", activation="leaky_relu", alpha=0.3),
    one("activation", activation="elu", alpha=0.7),
    one("conv2d", filters=4, kernel=3, activation="silu"),
    one("conv2d", filters=4, kernel=3, activation="leaky_relu", padding="same", stride=[2, 3]),
    one("conv2d", filters=4, kernel=[2, 4], dilation=[3, 2], padding="same", activation="prelu"),
    one("depthwise_conv2d", kernel=4, multiplier=2, padding="same", stride=2, activation="elu"),
    one("conv2d_transpose", filters=4, kernel=[2, 5], stride=[3, 2]),
    one("conv2d_transpose", filters=4, kernel=[2, 5], stride=[3, 2], padding="same"),
    one("conv2d_transpose", filters=4, kernel=3, stride=[2, 3], padding="same", output_padding=0),
    one("conv2d_transpose", filters=4, kernel=[3, 1], stride=[2, 3], output_padding=[1, 2]),
    one("conv2d_transpose", filters=4, kernel=3, dilation=[2, 1], padding="same", groups=2),
    *(
        one(op, size=3, stride=2, **attrs)
        for op in ("max_pool2d", "avg_pool2d")
        for attrs in (
            {"padding": "same"}, {"padding": [[1, 0], [0, 1]]}, {"ceil_mode": True},
            {"padding": [[1, 1], [1, 1]], "ceil_mode": True},
        )
    ),
    one("global_avg_pool2d"),
    one("softmax"),
    one("average", 3),
    one("multiply", 3),
    one("add", 2, activation="relu6"),
    one("trim2d", sides=[[1, 0], [0, 2]]),
    one("upsample2d", factor=[3, 2], method="nearest"),
    one("upsample2d", factor=[3, 2], method="bilinear"),
    *(one("resize2d_to", size=[7, 29], method=m) for m in ("nearest", "bilinear", "bicubic")),
]  # fmt: skip


@pytest.mark.parametrize("node", CASES, ids=lambda node: f"{node.op}-{node.attrs}")
def test_options_mean_the_same(node, tmp_path):
    graph = Graph("g", 4, (node,), "n")
    weights = {k: normals(s, i + 1) for i, (k, s) in enumerate(graph.parameters().items())}
    model, x = Model(graph, weights), 3 * normals((2, 12, 17, 4))
    save(model, tmp_path / "m.onnx")
    ours, theirs = Session(model).run(x), run(tmp_path / "m.onnx", input=x)["n"]
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) <= 2e-6 * np.linalg.norm(theirs)
    assert np.ptp(theirs) > 0


def test_several_inputs_and_outputs(tmp_path):
    nodes = (
        Node("a", "multiply", ("image", "mask")),
        Node("a/kernel", "maximum", ("a", "image")),
        Node("b", "conv2d", ("a/kernel",), {"filters": 2, "kernel": 1}),
        Node("b/kernel", "activation", ("b",), {"activation": "tanh"}),
    )
    outputs = {"scores": "b/kernel", "same": "b/kernel", "a": "a"}
    graph = Graph("g", {"image": 3, "mask": 1}, nodes, outputs)
    model = Model(graph, models.initialise(graph, 1))
    save(model, tmp_path / "m.onnx")
    feeds = {"image": normals((1, 6, 5, 3)), "mask": normals((1, 6, 5, 1), 1)}
    ours, theirs = Session(model).run(feeds), run(tmp_path / "m.onnx", **feeds)
    assert ours.keys() == theirs.keys()
    for name, y in ours.items():
        np.testing.assert_allclose(y, theirs[name], rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="g: the output 'a' is not that node"):
        save(Model(Graph("g", graph.inputs, nodes, {"a": "b", "c": "a"}), model.weights),
             tmp_path / "m.onnx")  # fmt: skip


def test_what_onnx_cannot_express_is_named(tmp_path):
    node = one("conv2d", filters=1, kernel=3, stride=2, dilation=2, padding="same")
    graph = Graph("g", 1, (node,), "n")
    with pytest.raises(ValueError, match=r"n \(conv2d\): ONNX has no padding 'same' for stride"):
        save(Model(graph, models.initialise(graph, 0)), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NARROW)
def test_there_and_back(name, tmp_path):
    """Sizes that stay open do so in what is read back."""
    graph = NARROW[name]
    model = Model(graph, models.initialise(graph, 0))
    save(model, tmp_path / "m.onnx")
    back = fcn.load(tmp_path / "m.onnx")
    assert [(n.name, n.op, n.inputs) for n in back.graph.nodes] == [
        (n.name, n.op, n.inputs) for n in graph.nodes
    ]
    x = normals((1, 36, 44, graph.channels))
    np.testing.assert_array_equal(Session(back).run(x), Session(model).run(x))


def test_convert(tmp_path, capsys):
    graph = NARROW["two_conv"]
    first, middle = (str(tmp_path / name) for name in ("a.npz", "b.onnx"))
    fcn.save(Model(graph, models.initialise(graph, 0)), first)
    assert cli.main(["convert", first, middle]) == 0
    count = graph.parameter_count
    assert capsys.readouterr().out == f"{middle}: {len(graph.nodes)} layers, {count:,} parameters\n"
    assert fcn.load(middle).graph.outputs == graph.outputs

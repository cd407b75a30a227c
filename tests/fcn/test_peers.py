"""`fcn verify` with the file's own framework: Keras for Keras files, ONNX Runtime for ONNX files.

That framework reads the file by itself, so whatever we misread, fold wrongly or compute wrongly is
a layer that departs from it.
"""

import re
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

import fcn
from fcn import cli, parity, peers
from fcn.graph import Model
from fcn.session import Session

pytest.importorskip("h5py")
pytest.importorskip("onnx")

from tests.fcn.test_keras import deeplab, randomised, unet
from tests.fcn.test_onnx import LANES, numbers, torch_networks, write
from tests.fcn.test_parity import perturbed

pytestmark = pytest.mark.tensorflow
SIZE = (24, 20)


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("h5py")
    return pytest.importorskip("tensorflow").keras


@pytest.fixture(scope="module")
def onnx():
    pytest.importorskip("tensorflow")
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("onnx")


def saved(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of NumPy, and of .h5
        model.save(path)
    return path


def compare(path, shape, session=None):
    model = fcn.load(path)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    session = session and session(model, x)
    return model, parity.verify(model, x, session, peers.of_file(path, model))


def mutated(name, value=None):
    """A session with another value for the weight of a node that contributes most."""

    def session(model, x):
        tensors = {"input": x} | {node.name: y for node, y in Session(model).layers(x)}
        wrong = perturbed(model, model.graph.node(name), tensors)
        if value is not None:
            wrong.weights[f"{name}/kernel"].flat[0] = value
        return Session(wrong)

    return session


# --- Keras --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["keras", "h5"])
@pytest.mark.parametrize(("make", "size", "algorithm"), [
    (unet, (32, 48), "winograd_f4"), (deeplab, (48, 64), "direct"),
])  # fmt: skip
def test_keras_networks_pass_layer_by_layer(keras, make, size, algorithm, file_format, tmp_path):
    path = saved(randomised(make(keras)), tmp_path / f"m.{file_format}")
    model, report = compare(path, (2, *size, 3))
    assert report.passed, str(report)
    hidden = {"conv2d/softmax", "separable_conv2d/depthwise"}
    names = {node.name for node in model.graph.nodes}
    shown = {layer.name for layer in report.layers}
    assert len(names - shown) == 1  # the one result that Keras keeps to itself
    inside = re.sub(r"_\d+", "", next(iter(names - shown)))
    assert inside in {name.replace("/softmax", "") for name in hidden}
    assert all(0 <= layer.ratio <= 1 for layer in report.layers)
    text = str(report)
    assert "ours against Keras float32, input 2 x" in text
    folded = rf"\nconv2d\w* \((re_lu|activation)\w*\) +{algorithm} "
    assert re.search(folded, text)


def test_nested_and_shared_layers_are_found(keras, tmp_path):
    k = keras.layers
    inner = keras.Sequential([k.Conv2D(4, 3, padding="same"), k.BatchNormalization()], name="inner")
    z = keras.Input((None, None, 4))
    tail = keras.Model(z, k.Conv2D(4, 1, name="last")(k.ReLU()(z)), name="tail")
    x = keras.Input((None, None, 3))
    shared = k.Conv2D(3, 3, padding="same", activation="relu", name="shared")
    y = k.Dropout(0.5)(k.Conv2D(3, 1, name="first")(x))
    y = inner(k.Add()([shared(y), shared(shared(x))]))
    path = saved(randomised(keras.Model(x, tail(y))), tmp_path / "m.keras")
    model, report = compare(path, (1, *SIZE, 3))
    assert report.passed, str(report)
    assert len(report.layers) == len(model.graph.nodes)
    tensors = {layer.tensor: layer.name for layer in report.layers}
    assert {"first", "shared", "shared:1", "shared:2", "tail/last"} <= tensors.keys()
    # the activation of one model has become part of a convolution in another
    assert tensors[next(t for t in tensors if t.startswith("tail/re_lu"))].startswith("inner/conv")


@pytest.mark.parametrize("kind", ["separable", "transposed", "elu", "normalised", "head"])
def test_keras_layers_of_several_nodes(keras, kind, tmp_path):
    """What Keras shows only the end of, and what it computes in another way."""
    k = keras.layers
    layers = {
        "separable": [k.SeparableConv2D(6, 3, depth_multiplier=2, activation="softmax")],
        "transposed": [k.Conv2DTranspose(4, 3, strides=2, activation="gelu")],
        "elu": [k.Conv2D(4, 3), k.ELU(0.5), k.ELU()],
        "normalised": [k.Normalization(mean=[50.0, -90.0, 7.0], variance=[4.0, 0.25, 1.0]),
                       k.Rescaling(1 / 255, -1.0), k.Conv2D(4, 1)],
        "head": [k.Conv2D(4, 3, activation="silu"), k.Flatten(), k.Dense(5, activation="softmax")],
    }[kind]  # fmt: skip
    model = randomised(keras.Sequential([keras.Input((*SIZE, 3)), *layers]))
    _, report = compare(saved(model, tmp_path / "m.keras"), (2, *SIZE, 3))
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VGG16", "ResNet50", "MobileNetV2", "EfficientNetB0"])
def test_applications_pass_layer_by_layer(keras, name, tmp_path):
    make = getattr(keras.applications, name)
    model = randomised(make(include_top=False, weights=None, input_shape=(64, 96, 3)))
    network, report = compare(saved(model, tmp_path / "m.keras"), (1, 64, 96, 3))
    assert report.passed, str(report)
    assert len(report.layers) == len(network.graph.nodes)


def folded(keras):
    """A normalisation that takes away what the bias has brought: large numbers, small result."""
    k = keras.layers
    layers = [k.Conv2D(4, 1, name="conv"), k.BatchNormalization(name="bn")]
    model = randomised(keras.Sequential([keras.Input((None, None, 3)), *layers]))
    bias = np.linspace(900, 1100, 4)
    layers[0].set_weights([layers[0].get_weights()[0], bias])
    gamma, _, _, variance = layers[1].get_weights()
    layers[1].set_weights([gamma, np.zeros(4), bias, variance])
    return model


def test_the_bound_knows_what_was_folded(keras, tmp_path):
    path = saved(folded(keras), tmp_path / "m.keras")
    model, report = compare(path, (1, *SIZE, 3))
    (origin,) = model.origins.values()
    assert (origin.tensor, origin.folded) == ("bn", 1)
    assert np.all(origin.summands > 500)
    assert np.all(np.abs(model.weights["conv/bias"]) < 1e-3)
    assert all(layer.passed for layer in report.layers)
    bare = replace(model, origins={"conv": replace(origin, folded=0, summands=None)})
    x = np.random.default_rng(1).normal(size=(1, *SIZE, 3)).astype(np.float32)
    blind = parity.verify(bare, x, None, peers.of_file(path, bare))
    assert not blind.layers[0].passed  # so the bound needs it


def test_the_bound_passes_through_what_keras_does_not_show(keras, tmp_path, monkeypatch):
    """Large logits have large errors, of which a softmax makes more than its own."""
    k = keras.layers
    layers = [k.Rescaling(300.0), k.Conv2D(16, 3), k.Conv2D(4, 3, activation="softmax")]
    model = randomised(keras.Sequential([keras.Input((*SIZE, 3)), *layers]))
    path = saved(model, tmp_path / "m.keras")
    _, report = compare(path, (2, *SIZE, 3))
    assert report.passed, str(report)
    full = parity.tolerance
    monkeypatch.setattr(parity, "tolerance", lambda *given: full(*given[:-1], [None]))
    assert not compare(path, (2, *SIZE, 3))[1].layers[-1].passed


def test_a_mutated_weight_is_named_by_layer_and_tensor(keras, tmp_path):
    path = saved(randomised(unet(keras)), tmp_path / "m.keras")
    nodes = [node for node in fcn.load(path).graph.nodes if node.rule.kernel]
    for node in nodes[1::4]:
        _, report = compare(path, (1, 32, 32, 3), mutated(node.name))
        broken = [layer for layer in report.layers if not layer.passed]
        assert [layer.name for layer in broken] == [node.name]
        name = node.name if broken[0].tensor == node.name else f"{node.name} ({broken[0].tensor})"
        assert report.failures[0].startswith(f"layer {name} differs by ")
        assert "FAIL: layer" in str(report)


def test_a_mutation_inside_a_layer_shows_at_its_end(keras, tmp_path):
    k = keras.layers
    layers = [k.SeparableConv2D(6, 3, name="s"), k.Conv2D(3, 1, name="c")]
    model = randomised(keras.Sequential([keras.Input((*SIZE, 3)), *layers]))
    path = saved(model, tmp_path / "m.keras")
    _, report = compare(path, (1, *SIZE, 3), mutated("s/depthwise"))
    assert [(layer.name, layer.passed) for layer in report.layers] == [("s", False), ("c", True)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_fails(keras, value, tmp_path):
    path = saved(folded(keras), tmp_path / "m.keras")
    _, report = compare(path, (1, *SIZE, 3), mutated("conv", value))
    assert not report.layers[0].passed
    assert not report.whole.accurate


def test_keras_reads_the_file_and_not_our_graph(keras, tmp_path):
    """We load a file, and then it changes."""
    network = randomised(unet(keras))
    path = saved(network, tmp_path / "m.keras")
    model = fcn.load(path)
    layer = network.layers[-1]
    kernel, bias = layer.get_weights()
    bias[0] += 0.01
    layer.set_weights([kernel, bias])
    saved(network, path)
    x = np.random.default_rng(1).normal(size=(1, 32, 32, 3)).astype(np.float32)
    report = parity.verify(model, x, None, peers.of_file(path, model))
    broken = [found.tensor for found in report.layers if not found.passed]
    assert broken == [layer.name]
    assert parity.verify(model, x).passed  # against our own graph all is well


def test_half_precision_files_are_refused(keras, tmp_path):
    layer = keras.layers.Conv2D(2, 1, dtype="mixed_float16", name="c")
    path = saved(keras.Sequential([keras.Input((*SIZE, 3)), layer]), tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"m\.keras: 'c' is computed in float16; only float32 can"):
        compare(path, (1, *SIZE, 3))


def test_keras_says_why_it_cannot_load(keras, tmp_path):
    model = Model(fcn.models.two_conv(2), fcn.models.initialise(fcn.models.two_conv(2), 0))
    (tmp_path / "m.keras").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"m\.keras: Keras cannot load it: "):
        peers.KerasFile(tmp_path / "m.keras", model)


# --- ONNX ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fcn_resnet", "deeplab", "unet"])
def test_exported_networks_pass_layer_by_layer(onnx, name, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = torch_networks(torch)[name]().eval()
    x, path = torch.from_numpy(numbers((1, 3, 64, 48))), tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), path, dynamo=False, opset_version=17)
    model, report = compare(path, (1, 64, 48, 3))
    assert report.passed, str(report)
    assert report.peer == "ONNX Runtime"
    assert [layer.name for layer in report.layers] == [node.name for node in model.graph.nodes]
    first = next(node.name for node in model.graph.nodes if node.rule.kernel)
    _, report = compare(path, (1, 64, 48, 3), mutated(first))
    assert [layer.name for layer in report.layers if not layer.passed] == [first]


CASES = {
    "a transposed convolution that is cut": [
        ("ConvTranspose", "xw", "y", {"strides": [2, 2], "pads": [1, 1, 1, 1]})
    ],
    "a mean that counts zeros": [
        ("AveragePool", "x", "y", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1],
                                   "count_include_pad": 1})
    ],
    "a chain that is folded": [
        ("Conv", "xk", "a", {}), ("Mul", "ac", "b", {}), ("Sub", "bc", "d", {}),
        ("BatchNormalization", ["d", "l", "l", "l", "q"], "e", {}), ("Clip", "ezs", "y", {}),
    ],
    "functions": [("Elu", "x", "a", {}), ("Sigmoid", "a", "b", {}), ("Tanh", "b", "y", {})],
    "a head": [("GlobalAveragePool", "x", "p", {}), ("Flatten", "p", "f", {}),
               ("MatMul", "fm", "y", {})],
    "a map that is flattened": [("Relu", "x", "a", {}), ("Flatten", "a", "f", {}),
                                ("MatMul", "fn", "y", {})],
}  # fmt: skip
CONSTANTS = [
    ("w", numbers((6, 4, 4, 4), 4)), ("k", numbers((6, 6, 3, 3), 1, 0.2)),
    ("c", LANES.reshape(1, 6, 1, 1) + 2), ("l", LANES), ("q", LANES**2 + 1), ("z", np.float32(0)),
    ("s", np.float32(6)), ("m", numbers((6, 5), 2)), ("n", numbers((6 * 12 * 16, 5), 2, 0.1)),
]  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_onnx_operators_pass(onnx, what, tmp_path):
    flat = CASES[what][-1][0] == "MatMul"
    path = write(tmp_path / "m.onnx", CASES[what], CONSTANTS, rank=2 if flat else 4)
    _, report = compare(path, (2, 12, 16, 6))
    assert report.passed, str(report)
    assert report.layers[-1].tensor == "y"
    assert report.layers[-1].abs_error < 1e-4


def test_a_file_fixes_sizes(onnx, tmp_path, capsys):
    path = write(tmp_path / "m.onnx", [("Relu", "x", "y", {})])
    assert cli.main(["verify", str(path)]) == 0  # of the size that the file wants
    out = capsys.readouterr().out
    assert out.count("float32, input 2 x 12 x 16 x 6\n") == 2
    assert out.count("\nPASS") == 2
    assert cli.main(["verify", str(path), "--size", "8x8"]) == 2
    assert "takes inputs of 2 x 12 x 16 x 6 numbers, got (2, 8, 8, 6)" in capsys.readouterr().err


def test_our_own_files_have_no_other_framework(tmp_path):
    graph = fcn.models.two_conv(2)
    assert peers.of_file("m.npz", Model(graph, fcn.models.initialise(graph, 0))) is None


def test_without_the_runtime_the_extra_is_named(onnx, tmp_path):
    """In a process of its own, because it may be loaded in this one."""
    path = write(tmp_path / "m.onnx", [("Relu", "x", "y", {})])
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        f"from fcn import cli; sys.exit(cli.main(['verify', {str(path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'fastconv[verify]'" in done.stderr

"""Files that mean harm: one clear error, nothing that they name is run, and little memory.

What is wrong with single arrays and layers is tested where each format is; here are the files that
ask for much, or for other files.
"""

import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

import fcn
from fcn import cli
from fcn.graph import Graph, Node
from tests.fcn.test_keras import CONV, INPUT, KERNEL, call, layer, written

h5py = pytest.importorskip("h5py")
MEGABYTE = 2**20
ARRAYS = {"layers/conv2d/vars/0": KERNEL}
WEIGHTS = Graph("w", 3, (Node("c", "conv2d", ("input",), {
    "filters": 2, "kernel": 1, "use_bias": False}),), "c")  # fmt: skip


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def hdf5(fill):
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        fill(file)
    return data.getvalue()


def legacy(path, model, fill=lambda file: None):
    """A full-model ``.h5`` file."""

    def write(file):
        file.attrs["model_config"] = json.dumps(model)
        fill(file)

    path.write_bytes(hdf5(write))


def one_conv(path):
    """The members of a sound ``.keras`` file."""
    written(path, [INPUT, CONV], arrays=ARRAYS)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def config_bomb(path):
    zipped(path, {"config.json": b" " * (70 * MEGABYTE)})


def deep_config(path):
    zipped(path, {**one_conv(path), "config.json": "[" * 10**6})


def lying_sizes(path):
    """A member that unpacks to more than its header says."""
    zipped(path, {**one_conv(path), "config.json": b" " * (40 * MEGABYTE)})
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 40 * MEGABYTE), b"\x10\0\0\0"))


def stored_elsewhere(path):
    (path.parent / "secret.bin").write_bytes(KERNEL.tobytes())

    def fill(file):
        where = [(str(path.parent / "secret.bin"), 0, KERNEL.nbytes)]
        file.create_dataset("layers/conv2d/vars/0", KERNEL.shape, "f4", external=where)

    zipped(path, {**one_conv(path), "model.weights.h5": hdf5(fill)})


def virtual(path):
    with h5py.File(path.parent / "other.h5", "w") as file:
        file["secret"] = KERNEL
    layout = h5py.VirtualLayout(KERNEL.shape, "f4")
    layout[...] = h5py.VirtualSource(str(path.parent / "other.h5"), "secret", KERNEL.shape)
    data = hdf5(lambda file: file.create_virtual_dataset("layers/conv2d/vars/0", layout))
    zipped(path, {**one_conv(path), "model.weights.h5": data})


def many_channels(path):
    """Numbers that the configuration asks for, and no array holds."""
    wide = layer("InputLayer", "input", batch_shape=[None, 8, 8, 10**10])
    written(path, [wide, layer("Rescaling", "r", scale=2.0, offset=0.0)])


def many_calls(path):
    """Ten nested models, each of which calls the one inside it thirty times."""
    inner, name = layer("ReLU", "r"), "r"
    for depth in range(10):
        inner["inbound_nodes"] = [
            call("x" if i == 0 else name)[0] if i < 2 else _later(name, i - 1) for i in range(30)
        ]
        model = {"name": f"m{depth}", "input_layers": ["x", 0, 0],
                 "output_layers": [name, 29, 0],
                 "layers": [{**layer("InputLayer", "x"), "inbound_nodes": []}, inner]}  # fmt: skip
        inner, name = (
            {"class_name": "Functional", "name": f"m{depth}", "config": model},
            f"m{depth}",
        )
    model["layers"][0] = {**INPUT, "name": "x", "inbound_nodes": []}
    model["layers"][0]["config"] = {**INPUT["config"], "name": "x"}
    config = json.dumps({"class_name": "Functional", "config": model})
    zipped(path, {**one_conv(path), "config.json": config})


def _later(name, number):
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [name, number, 0]}}
    return {"args": [tensor], "kwargs": {}}


def many_layers(path):
    layers = [{**layer("Dropout", f"d{i}"), "inbound_nodes": call(f"d{i - 1}" if i else "input")}
              for i in range(20_000)]  # fmt: skip
    written(path, [{**INPUT, "inbound_nodes": []}, *layers], "Functional",
            input_layers=["input", 0, 0], output_layers=["d19999", 0, 0])  # fmt: skip


KERAS = [
    (config_bomb, "member config.json would unpack to 73400320 bytes"),
    (deep_config, "recursion"),
    (lying_sizes, "Bad CRC-32|Error -3|Expecting value"),
    (stored_elsewhere, "layers/conv2d/vars/0 lies in another file"),
    (virtual, "layers/conv2d/vars/0 lies in another file"),
    (many_channels, r"layer 'r' \(Rescaling\): 10000000000 channels are more than the file has"),
    (many_calls, "the model has more than 5000 layers"),
    (many_layers, "a model has 20001 layers; up to 5000 are read"),
]


def refused(path, message, **options):
    """That the error names the file, and how little memory it took."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as error:
            fcn.load(path, **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert peak < max(32 * MEGABYTE, 12 * path.stat().st_size)


@pytest.mark.parametrize(("make", "message"), KERAS, ids=lambda v: getattr(v, "__name__", ""))
def test_keras_files(make, message, tmp_path, capsys):
    path = tmp_path / "evil.keras"
    make(path)
    refused(path, message)
    assert cli.main(["info", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


SEQUENTIAL = {"class_name": "Sequential", "config": {"name": "m", "layers": [INPUT, CONV]}}


@pytest.mark.parametrize(
    ("model", "fill", "message"),
    [
        ({**SEQUENTIAL, "class_name": "os.system"}, lambda f: None, "its class is 'os.system'"),
        (SEQUENTIAL, lambda f: None, "the file has no array model_weights/c"),
        (SEQUENTIAL, lambda f: f.__setitem__("model_weights", h5py.ExternalLink("other.h5", "/")),
         "model_weights/c is a link to somewhere else"),
        ({"class_name": "Sequential", "config": {"layers": [INPUT, layer("Lambda", "l")]}},
         lambda f: None, r"layer 'l' \(Lambda\) is not supported; Lambda holds code"),
        ([], lambda f: None, "cannot be read as a Keras model"),
    ],
)  # fmt: skip
def test_legacy_keras_files(model, fill, message, tmp_path):
    path = tmp_path / "evil.h5"
    legacy(path, model, fill)
    refused(path, message)


@pytest.mark.parametrize("kept", [9, 100, 600, 0.5, 0.99])
def test_truncated_hdf5(kept, tmp_path):
    path = tmp_path / "evil.h5"
    for options in ({}, {"architecture": WEIGHTS}):
        legacy(path, SEQUENTIAL, lambda file: file.create_dataset("c/vars/0", data=KERNEL))
        data = path.read_bytes()
        path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
        refused(path, "cannot be read as a Keras model", **options)


def test_weights_of_keras_that_are_not_there(tmp_path):
    path = tmp_path / "evil.weights.h5"

    def fill(file):
        file.create_dataset("c/vars/0", (1, 1, 3, 10**9), "f4", chunks=(1, 1, 3, 1000))

    path.write_bytes(hdf5(fill))
    huge = Graph("w", 3, (Node("c", "conv2d", ("input",), {
        "filters": 10**9, "kernel": 1, "use_bias": False}),), "c")  # fmt: skip
    refused(path, "c/vars/0 would unpack to 12000000000 bytes", architecture=huge)
    refused(
        path, r"c/kernel \(1, 1, 3, 1000000000\) instead of \(1, 1, 3, 2\)", architecture=WEIGHTS
    )


# --- ONNX ---------------------------------------------------------------------------------------


def huge_tensor(onnx, model):
    model.graph.initializer[0].dims[0] = 10**12


def huge_nothing(onnx, model):
    tensor = model.graph.initializer[0]
    tensor.dims[0] = 10**12
    tensor.ClearField("raw_data")


def unknown_type(onnx, model):
    model.graph.initializer[0].data_type = 99


def text(onnx, model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_type, tensor.string_data[:] = onnx.TensorProto.STRING, [b"x"] * 24


def external_attribute(onnx, model):
    tensor = model.graph.initializer.pop()
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    node = onnx.helper.make_node("Constant", [], ["k"], value=tensor)
    model.graph.node.insert(0, node)


def circle(onnx, model):
    model.graph.node[0].input[0] = "y"


def other_domain(onnx, model):
    model.graph.node[0].domain = "evil.code"


def wide_input(onnx, model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 10**10
    node = model.graph.node[0]
    node.op_type, node.input[1] = "Mul", "two"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(2), "two"))


def expanded(onnx, model):
    """A constant that doubles each time."""
    for i in range(60):
        source = "k" if i == 0 else f"k{i}"
        node = onnx.helper.make_node("Concat", [source, source], [f"k{i + 1}"], axis=0)
        model.graph.node.insert(i, node)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (huge_tensor, "cannot be read as an ONNX model"),
        (huge_nothing, "cannot be read as an ONNX model"),
        (unknown_type, "cannot be read as an ONNX model"),
        (text, "cannot be read as an ONNX model"),
        (external_attribute, "the numbers of 'k' lie in another file, which is not read"),
        (circle, "it reads 'y', which no node before it makes"),
        (other_domain, "is of the domain 'evil.code', which is not supported"),
        (wide_input, "10000000000 channels are more than the file has numbers for"),
        (expanded, "it computes with more than 4096 constants"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_onnx_files(change, message, tmp_path):
    onnx = pytest.importorskip("onnx")
    kernel = np.ones((4, 6, 1, 1), np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "k"], ["y"], name="n")], "g",
        [value("x", onnx.TensorProto.FLOAT, (1, 6, 8, 8))],
        [value("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(kernel, "k")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    path = tmp_path / "evil.onnx"
    path.write_bytes(model.SerializeToString())
    assert fcn.load(path).graph.outputs == {"n": "n"}  # it is sound before
    change(onnx, model)
    path.write_bytes(model.SerializeToString())
    refused(path, message)

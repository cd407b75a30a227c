"""ONNX files: every operator against ONNX Runtime, networks that PyTorch exports, bad files."""

import warnings

import numpy as np
import pytest

import fcn
from fcn.onnx.operators import OPERATORS
from fcn.session import Session

onnx = pytest.importorskip("onnx")
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto
SHAPE = (2, 6, 12, 16)  # n, c, h, w
OPSET = 17


def numbers(shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def write(path, nodes, constants=(), shape=SHAPE, outputs=("y",), opset=OPSET, rank=4, more=()):
    """A model file from (operator, inputs, output, attributes) and named arrays."""
    made = [helper.make_node(op, list(i), [o], name=f"n/{o}", **a) for op, i, o, a in nodes]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        made, "g",
        [value(name, TensorProto.FLOAT, size) for name, size in {"x": shape, **dict(more)}.items()],
        [value(name, TensorProto.FLOAT, [None] * rank) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


def run(path, x, name="x"):
    """ONNX Runtime's results as (n, h, w, c)."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {name: x})
    return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y[:, None, None, :]


def agree(path, shape=SHAPE, tolerance=2e-6, output=None):
    x = numbers(shape, 9)
    model = fcn.load(path, output)
    ours = Session(model).run(np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    theirs = run(path, x)
    assert ours.shape == theirs.shape
    error = np.linalg.norm((ours - theirs).astype(float)) / np.linalg.norm(theirs.astype(float))
    assert error <= tolerance
    assert np.ptp(theirs) > 0
    return model


KERNEL = numbers((8, 6, 3, 3), 1, 0.2)
LANES = numbers((6,), 2)
# operator -> [(inputs after x, attributes)]; an array is a constant, "x" the input once more
CASES = {
    "Conv": [
        ([KERNEL], {"pads": [1, 1, 1, 1]}),
        ([KERNEL, numbers(8)], {"strides": [2, 1], "pads": [0, 1, 2, 1], "dilations": [1, 2]}),
        ([KERNEL], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ([numbers((12, 1, 3, 5), 3)], {"group": 6, "pads": [1, 2, 1, 2]}),
        ([numbers((4, 3, 3, 2), 3), numbers(4)],
         {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
        ([numbers((9, 2, 3, 3), 3)], {"group": 3, "dilations": [2, 3]}),
    ],
    "ConvTranspose": [
        ([numbers((6, 4, 2, 2), 4), numbers(4)], {"strides": [2, 2]}),
        ([numbers((6, 4, 4, 4), 4)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ([numbers((6, 4, 3, 3), 4)],
         {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ([numbers((6, 4, 1, 2), 4)], {"strides": [3, 2]}),
        ([numbers((6, 4, 3, 2), 4), numbers(4)], {"strides": [2, 3], "output_padding": [1, 2]}),
        ([numbers((6, 4, 3, 1), 4)],
         {"strides": [3, 2], "output_padding": [2, 1], "pads": [1, 0, 0, 0]}),
        ([numbers((6, 2, 3, 2), 4), numbers(4)],
         {"group": 2, "strides": [2, 1], "dilations": [2, 3], "pads": [1, 2, 1, 0]}),
        ([numbers((6, 1, 3, 3), 4), numbers(6)], {"group": 6, "strides": [3, 3]}),
        ([numbers((6, 2, 1, 2), 4)], {"group": 3, "strides": [4, 4], "dilations": [1, 2]}),
    ],
    "BatchNormalization": [([LANES, LANES[::-1], LANES * 2, LANES**2], {"epsilon": 0.01})],
    "Relu": [([], {})],
    "LeakyRelu": [([], {}), ([], {"alpha": 0.3})],
    "Elu": [([], {})],
    "Sigmoid": [([], {})],
    "Tanh": [([], {})],
    "HardSwish": [([], {})],
    "HardSigmoid": [([], {"alpha": 1 / 6})],
    "Gelu": [([], {}), ([], {"approximate": "tanh"})],
    "PRelu": [
        ([np.full((6, 1, 1), 0.25, "f4")], {}), ([LANES.reshape(6, 1, 1)], {}),
        ([LANES.reshape(1, 6, 1, 1)], {}), ([np.float32([0.5])], {}),
    ],
    "Clip": [([np.float32(0), np.float32(6)], {}), ([np.float32(0)], {})],
    "Softmax": [([], {"axis": 1})],
    "MaxPool": [
        ([], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ([], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    ],
    "AveragePool": [
        ([], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ([], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ([], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ],
    "GlobalMaxPool": [([], {})],
    "GlobalAveragePool": [([], {})],
    "ReduceMean": [([], {"axes": [2, 3]}), ([], {"axes": [-1, -2], "keepdims": 0})],
    "Add": [(["x"], {}), ([LANES.reshape(1, 6, 1, 1)], {}), ([np.float32(2)], {})],
    "Sub": [([LANES.reshape(6, 1, 1)], {})],
    "Mul": [(["x"], {}), ([LANES.reshape(1, 6, 1, 1)], {})],
    "Div": [([LANES.reshape(1, 6, 1, 1)], {})],
    "Sum": [(["x", "x"], {})],
    "Mean": [(["x", "x"], {})],
    "Max": [(["x"], {})],
    "Min": [(["x"], {})],
    "Concat": [(["x"], {"axis": 1})],
    "Resize": [
        (["", np.array([1, 1, 2, 3], "f4")], {"mode": "linear"}),
        (["", "", np.array([2, 6, 17, 9])], {"mode": "linear"}),
        (["", "", np.array([2, 6, 24, 16])],
         {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
          "nearest_mode": "floor"}),
    ],
    "Upsample": [],
    "Pad": [([np.array([0, 0, 1, 2, 0, 0, 0, 3])], {}),
            ([np.array([0, 0, -1, -2, 0, 0, 0, -3])], {})],
    "Slice": [
        ([np.array(v) for v in ([1, 2], [9, 14], [2, 3])], {}),
        ([np.array(v) for v in ([-5, 3], [2**63 - 1, -2], [2, -1], [1, 1])], {}),
        ([np.array(v) for v in ([4], [99], [3])], {}),
    ],
    "Flatten": [], "Reshape": [], "Squeeze": [], "Unsqueeze": [], "Gemm": [], "MatMul": [],
}  # fmt: skip


@pytest.mark.parametrize("op", OPERATORS)
def test_every_operator_means_the_same(op, tmp_path):
    for given, attrs in CASES[op]:
        names, constants = ["x"], []
        for i, value in enumerate(given):
            if not isinstance(value, str):
                constants.append((f"c{i}", value))
            names.append(value if isinstance(value, str) else f"c{i}")
        flat = attrs.get("keepdims") == 0
        opset = 20 if op == "Gelu" else OPSET
        path = write(tmp_path / "m.onnx", [(op, names, "y", attrs)], constants, opset=opset,
                     rank=2 if flat else 4)  # fmt: skip
        agree(path)


@pytest.mark.parametrize("group", [1, 2, 6])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_normalisation_and_slopes_go_into_a_convolution(op, group, tmp_path):
    k = 4 if group < 6 else 12
    lanes = numbers((k,), 5) + 2
    shape = (k, 6 // group, 3, 3) if op == "Conv" else (6, k // group, 3, 3)
    nodes = [
        (op, "xw", "c", {"group": group, "strides": [2, 2]}),
        ("BatchNormalization", ["c", "a", "b", "m", "v"], "n", {}),
        ("PRelu", "np", "y", {}),
    ]
    constants = [
        ("w", numbers(shape, 3)), ("a", lanes), ("b", lanes[::-1]), ("m", lanes - 2), ("v", lanes),
        ("p", (lanes - 2).reshape(k, 1, 1)),
    ]  # fmt: skip
    model = agree(write(tmp_path / "m.onnx", nodes, constants))
    assert len(model.graph.nodes) == (1 if op == "Conv" else 2)


def test_upsampling_of_opset_nine(tmp_path):
    scales = [("s", np.array([1, 1, 2, 2], "f4"))]
    path = write(tmp_path / "m.onnx", [("Upsample", "xs", "y", {"mode": "nearest"})], scales,
                 opset=9)  # fmt: skip
    agree(path)


@pytest.mark.parametrize("way", ["Flatten", "Reshape", "Squeeze"])
def test_heads_of_classifiers(way, tmp_path):
    """Vectors from a whole map, or of one pixel, with matrices both ways round, and back."""
    pooled = [] if way != "Squeeze" else [("GlobalAveragePool", "x", "p", {})]
    x = "p" if pooled else "x"
    size = 6 if pooled else 6 * 12 * 16
    turn = {
        "Flatten": ("Flatten", [x], "f", {}),
        "Reshape": ("Reshape", [x, "shape"], "f", {}),
        "Squeeze": ("Squeeze", [x, "axes"], "f", {}),
    }[way]
    nodes = [
        *pooled, turn,
        ("Gemm", ["f", "w", "b"], "g", {"transB": 1}),
        ("Relu", "g", "r", {}),
        ("MatMul", ["r", "v"], "m", {}),
        ("Unsqueeze", ["m", "axes"], "y", {}),
    ]  # fmt: skip
    constants = [
        ("w", numbers((5, size), 1, 0.1)), ("b", numbers(5)), ("v", numbers((5, 3), 2)),
        ("axes", np.array([2, 3])), ("shape", np.array([2, -1])),
    ]  # fmt: skip
    agree(write(tmp_path / "m.onnx", nodes, constants), tolerance=1e-5)


def test_sizes_that_are_computed_follow_the_input(tmp_path):
    """As exporters write a resize to the size of the image: it stays one for other sizes."""
    nodes = [
        ("MaxPool", "x", "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Shape", "x", "s", {}),
        ("Slice", ["s", "two", "four"], "hw", {}),
        ("Shape", "p", "t", {}),
        ("Slice", ["t", "zero", "two"], "nc", {}),
        ("Concat", ["nc", "hw"], "size", {"axis": 0}),
        ("Resize", ["p", "", "", "size"], "y", {"mode": "linear"}),
    ]
    constants = [(name, np.array([i])) for name, i in (("zero", 0), ("two", 2), ("four", 4))]
    model = agree(write(tmp_path / "m.onnx", nodes, constants))
    assert [node.op for node in model.graph.nodes] == ["max_pool2d", "resize2d"]
    assert Session(model).run(np.ones((1, 20, 30, 6), np.float32)).shape == (1, 20, 30, 6)


def test_several_inputs_and_outputs(tmp_path):
    """A tensor that is both given out and read, one by two names, and one that only is there."""
    nodes = [
        ("Conv", "xk", "c", {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", ["c", "s", "s", "s", "s"], "b", {}),
        ("Mul", "bm", "y", {}),
        ("Identity", "y", "same", {}),
        ("Relu", "b", "r", {}),
        ("MaxPool", "r", "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Resize", ["p", "", "", "size"], "z", {"mode": "linear"}),
    ]
    constants = [("k", KERNEL), ("s", numbers((8,)) ** 2), ("size", np.array([2, 8, 12, 16]))]
    outputs = ("y", "c", "same", "z")
    path = write(tmp_path / "m.onnx", nodes, constants, outputs=outputs, more={"m": (2, 1, 12, 16)})
    feeds = {"x": numbers(SHAPE, 9), "m": numbers((2, 1, 12, 16), 8)}
    model = fcn.load(path)
    assert model.graph.inputs == {"x": 6, "m": 1}
    ours = Session(model).run({k: v.transpose(0, 2, 3, 1).copy() for k, v in feeds.items()})
    runtime = pytest.importorskip("onnxruntime")
    theirs = runtime.InferenceSession(path).run(outputs, feeds)
    assert list(ours) == list(outputs)
    for name, y in zip(outputs, theirs, strict=True):
        np.testing.assert_allclose(ours[name].transpose(0, 3, 1, 2), y, rtol=0, atol=1e-5)
        assert np.ptp(y) > 0
    assert fcn.load(path, "c").graph.inputs == {"x": 6, "m": 1}


# --- networks -----------------------------------------------------------------------------------


def torch_networks(torch):
    nn = torch.nn

    def conv(c, k, size=3, stride=1, dilation=1, groups=1):
        pad = dilation * (size // 2)
        return nn.Sequential(
            nn.Conv2d(c, k, size, stride, pad, dilation, groups, bias=False),
            nn.BatchNorm2d(k), nn.ReLU(),
        )  # fmt: skip

    class Bottleneck(nn.Module):
        def __init__(self, c, k, stride, dilation):
            super().__init__()
            self.body = nn.Sequential(
                conv(c, k, 1), conv(k, k, 3, stride, dilation), nn.Conv2d(k, 4 * k, 1, bias=False),
                nn.BatchNorm2d(4 * k),
            )  # fmt: skip
            self.skip = nn.Sequential(
                nn.Conv2d(c, 4 * k, 1, stride, bias=False), nn.BatchNorm2d(4 * k)
            )

        def forward(self, x):
            return nn.functional.relu(self.body(x) + self.skip(x))

    def backbone():
        return nn.Sequential(
            conv(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1), Bottleneck(8, 4, 1, 1),
            Bottleneck(16, 8, 2, 1), Bottleneck(32, 8, 1, 2),
        )  # fmt: skip

    def enlarged(y, x):
        return nn.functional.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)

    class FcnResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone()
            self.head = nn.Sequential(conv(32, 8), nn.Dropout(0.1), nn.Conv2d(8, 5, 1))

        def forward(self, x):
            return enlarged(self.head(self.backbone(x)), x)

    class DeepLab(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone()
            rates = [conv(32, 8, 1), conv(32, 8, 3, 1, 2), conv(32, 8, 3, 1, 3)]
            self.rates = nn.ModuleList(rates)
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.ReLU())
            self.head = nn.Sequential(conv(32, 8, 1), conv(8, 8, 3, groups=8), nn.Conv2d(8, 5, 1))

        def forward(self, x):
            y = self.backbone(x)
            pyramid = [rate(y) for rate in self.rates] + [enlarged(self.pool(y), y)]
            return enlarged(self.head(torch.cat(pyramid, 1)), x)

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(3, 8), conv(8, 16), conv(16, 32)
            self.up1, self.up2 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
            self.d, self.e = conv(32, 16), conv(16, 8)
            self.score = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            a = self.a(x)
            b = self.b(nn.functional.max_pool2d(a, 2))
            c = self.c(nn.functional.max_pool2d(b, 2))
            d = self.d(torch.cat([b, self.up1(c)], 1))
            return self.score(self.e(torch.cat([a, self.up2(d)], 1)))

    return {"fcn_resnet": FcnResNet, "deeplab": DeepLab, "unet": UNet}


@pytest.mark.parametrize("sizes", ["fixed", "open"])
@pytest.mark.parametrize("name", ["fcn_resnet", "deeplab", "unet"])
def test_exported_networks_agree(name, sizes, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch_networks(torch)[name]().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    x, path = torch.from_numpy(numbers((1, 3, 64, 48))), tmp_path / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        axes = {"x": {2: "h", 3: "w"}} if sizes == "open" else {}
        torch.onnx.export(model, (x,), path, dynamo=False, opset_version=OPSET, dynamic_axes=axes,
                          input_names=["x"], output_names=["y"])  # fmt: skip
    if sizes == "open":
        x = torch.from_numpy(numbers((1, 3, 48, 72), 1))
    loaded = fcn.load(path)
    ours = Session(loaded).run(np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)))
    theirs = run(path, x.numpy())
    with torch.no_grad():
        exact = model.double()(x.double()).numpy().transpose(0, 2, 3, 1)
    error, reference = (np.linalg.norm(y - exact) / np.linalg.norm(exact) for y in (ours, theirs))
    assert error <= max(4 * reference, 5e-6), (error, reference)
    fcn.onnx.save(loaded, path)  # and back
    error = np.linalg.norm(run(path, x.numpy(), "input") - exact) / np.linalg.norm(exact)
    assert error <= max(4 * reference, 5e-6), (error, reference)
    if name == "fcn_resnet" or sizes == "open":  # else the exporter has fixed sizes inside
        assert name == "unet" or loaded.graph.nodes[-1].op == "resize2d"  # so any size may come
        assert Session(loaded).segment(np.zeros((37, 50, 3), np.uint8)).shape == (37, 50)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([("NonMaxSuppression", "x", "y", {})], r"'n/y' \(NonMaxSuppression\): not supported; use"),
        ([("Conv", "xk", "y", {"group": 4})], r"kernel \(4, 3, 1, 1\) does not fit 6 channels"),
        ([("PRelu", "xp", "y", {})], r"numbers of shape \(6, 12, 16\) are not one for each chan"),
        ([("Conv", "xx", "y", {})], "input 1 must be a constant"),
        ([("Conv", "zk", "y", {})], "it reads 'z', which no node before it makes"),
        ([("Relu", "y", "y", {})], "it reads 'y', which no node before it makes"),
        ([("Concat", "xx", "y", {"axis": 2})], "axis=2 is not supported; join the channels"),
        ([("Resize", ["x", "", "s"], "y", {"mode": "cubic"})], "mode='cubic' is not supported"),
        ([("Slice", "xttt", "y", {})], r"of axis 1 in steps of 1 is not supported; cut the sides"),
        ([("Slice", ["x", "t", "t", "o", "o"], "y", {})], r"of axis 2 in steps of 2 is not suppor"),
        ([("Gather", ["k", "many"], "a", {}), ("Add", "xa", "y", {})], "more than 4096 constants"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_understood_is_named(nodes, message, tmp_path):
    constants = [
        ("k", numbers((4, 3, 1, 1))), ("s", np.array([1, 1, 2, 2], "f4")),
        ("many", np.zeros(5000, np.int64)), ("p", np.zeros((6, 12, 16), "f4")),
        ("t", np.array([1])), ("o", np.array([2])),
    ]  # fmt: skip
    path = write(tmp_path / "m.onnx", nodes, constants)
    with pytest.raises(ValueError, match=message):
        fcn.load(path)


@pytest.mark.parametrize(
    "nodes",
    [
        [("Shape", "x", "s", {}), ("Mul", "st", "d", {}), ("Resize", ["x", "", "", "d"], "y", {})],
        [
            ("Shape", "x", "s", {}),
            ("Add", "st", "d", {}),
            ("Resize", ["x", "", "", "d"], "y", {"mode": "linear"}),
        ],
        [("Shape", "x", "s", {"start": 2}), ("Slice", "xtsa", "y", {})],
        [("Shape", "x", "s", {}), ("Reshape", "xs", "y", {})],
        [("Flatten", "x", "y", {})],
    ],
    ids=["product", "sum", "slice", "reshape", "flatten"],
)
def test_sizes_that_are_open_are_only_those_of_tensors(nodes, tmp_path):
    constants = [("t", np.array([1, 1])), ("a", np.array([2, 3]))]
    if nodes[1:] and nodes[1][0] in ("Mul", "Add"):
        constants[0] = ("t", np.array([0, 0, 2, 2]))
    path = write(tmp_path / "m.onnx", nodes, constants, shape=(1, 6, "h", "w"))
    with pytest.raises(
        ValueError, match=r"'n/[yd]' \(\w+\): it needs a model whose input has a fixed"
    ):
        fcn.load(path)


@pytest.mark.parametrize("where", ["../secret", "/etc/passwd", "beside.bin"])
def test_other_files_are_never_read(where, tmp_path):
    path = write(tmp_path / "m.onnx", [("Conv", "xk", "y", {})], [("k", KERNEL)])
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", where
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="the numbers of 'k' lie in another file"):
        fcn.load(path)


@pytest.mark.parametrize("kept", [1, 20, 0.3, 0.9])
def test_truncated_files(kept, tmp_path):
    path = write(tmp_path / "m.onnx", [("Conv", "xk", "y", {})], [("k", KERNEL)])
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(ValueError, match=r"m\.onnx cannot be read as an ONNX model"):
        fcn.load(path)


def test_shapes_opsets_and_outputs(tmp_path):
    relu = [("Relu", "x", "y", {}), ("Tanh", "x", "z", {})]
    path = write(tmp_path / "m.onnx", relu, outputs=("y", "z"))
    assert [n.op for n in fcn.load(path, "z").graph.nodes] == ["activation"]
    assert fcn.load(path).graph.outputs == {"y": "n/y", "z": "n/z"}
    with pytest.raises(ValueError, match=r"has the outputs \['y', 'z'\], not 'w'"):
        fcn.load(path, "w")
    for opset in (8, 24):
        with pytest.raises(ValueError, match=rf"its opset is \[{opset}\]; 9 to 23 are known"):
            fcn.load(write(tmp_path / "m.onnx", relu[:1], opset=opset))
    with pytest.raises(ValueError, match=r"shape \[2, 6\]; images are"):
        fcn.load(write(tmp_path / "m.onnx", relu[:1], shape=(2, 6)))

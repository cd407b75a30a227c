"""Weights alone: of Keras and PyTorch, into an architecture that is given."""

import json
import struct

import numpy as np
import pytest

import fcn
from fcn import cli, models
from fcn.graph import Graph, Node
from fcn.session import Session
from tests.fcn.networks import NARROW

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras of NumPy
RESNET = "fcn_resnet50:3:width=4"


def numbers(shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def assert_accurate(ours, single, double):
    """The rule of `fcn verify` for whole networks."""
    error, reference = (
        np.linalg.norm(y.astype(float) - double) / np.linalg.norm(double) for y in (ours, single)
    )
    assert error <= max(4 * reference, 5e-6), (error, reference)
    assert np.ptp(double) > 0


# --- PyTorch ------------------------------------------------------------------------------------


def torchvision_fcn(torch, blocks, width, classes):
    """Names, order and settings of ``torchvision.models.segmentation.fcn_resnet50``."""
    nn = torch.nn

    class Bottleneck(nn.Module):
        def __init__(self, c, k, stride, dilation, first):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(c, k, 1, bias=False), nn.BatchNorm2d(k)
            self.conv2 = nn.Conv2d(k, k, 3, stride, dilation, dilation, bias=False)
            self.bn2 = nn.BatchNorm2d(k)
            self.conv3, self.bn3 = nn.Conv2d(k, 4 * k, 1, bias=False), nn.BatchNorm2d(4 * k)
            self.downsample = None
            if first:
                self.downsample = nn.Sequential(
                    nn.Conv2d(c, 4 * k, 1, stride, bias=False), nn.BatchNorm2d(4 * k)
                )

        def forward(self, x):
            y = self.bn1(self.conv1(x)).relu()
            y = self.bn2(self.conv2(y)).relu()
            skip = x if self.downsample is None else self.downsample(x)
            return (self.bn3(self.conv3(y)) + skip).relu()

    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
            self.bn1, self.maxpool = nn.BatchNorm2d(width), nn.MaxPool2d(3, 2, 1)
            channels = width
            # stride of the first block, dilation of the first and of the others
            plan = ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4))
            for stage, (stride, first, others) in enumerate(plan):
                k, layer = width << stage, []
                for i in range(blocks[stage]):
                    settings = (stride, first) if i == 0 else (1, others)
                    layer.append(Bottleneck(channels, k, *settings, i == 0))
                    channels = 4 * k
                setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))

        def forward(self, x):
            x = self.maxpool(self.bn1(self.conv1(x)).relu())
            return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def head(c):
        k = c // 4
        return nn.Sequential(
            nn.Conv2d(c, k, 3, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU(),
            nn.Dropout(0.1), nn.Conv2d(k, classes, 1),
        )  # fmt: skip

    class Fcn(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Backbone()
            self.classifier, self.aux_classifier = head(32 * width), head(16 * width)

        def forward(self, x):
            y = self.classifier(self.backbone(x))
            return nn.functional.interpolate(y, x.shape[-2:], mode="bilinear")

    return Fcn()


def pytorch_fcn8s(torch, width, classes):
    """FCN-8s as the usual port has it: padding 100, crops at the authors' offsets, their names."""
    nn = torch.nn

    class Fcn(nn.Module):
        def __init__(self):
            super().__init__()
            c = 3
            for block, (count, factor) in enumerate(((2, 1), (2, 2), (3, 4), (3, 8), (3, 8)), 1):
                for i in range(1, count + 1):
                    pad = 100 if c == 3 else 1
                    setattr(self, f"conv{block}_{i}", nn.Conv2d(c, factor * width, 3, 1, pad))
                    c = factor * width
            self.fc6, self.fc7 = nn.Conv2d(c, 16, 7), nn.Conv2d(16, 16, 1)
            self.score_fr = nn.Conv2d(16, classes, 1)
            self.score_pool3 = nn.Conv2d(4 * width, classes, 1)
            self.score_pool4 = nn.Conv2d(8 * width, classes, 1)
            up = lambda k, s: nn.ConvTranspose2d(classes, classes, k, s, bias=False)  # noqa: E731
            self.upscore2, self.upscore8, self.upscore_pool4 = up(4, 2), up(16, 8), up(4, 2)

        def forward(self, x):
            y, pools = x, {}
            for block, count in enumerate((2, 2, 3, 3, 3), 1):
                for i in range(1, count + 1):
                    y = getattr(self, f"conv{block}_{i}")(y).relu()
                y = pools[block] = nn.functional.max_pool2d(y, 2, 2, ceil_mode=True)
            y = self.upscore2(self.score_fr(self.fc7(self.fc6(y).relu()).relu()))
            skip = self.score_pool4(pools[4])[:, :, 5:, 5:][:, :, : y.shape[2], : y.shape[3]]
            y = self.upscore_pool4(y + skip)
            skip = self.score_pool3(pools[3])[:, :, 9:, 9:][:, :, : y.shape[2], : y.shape[3]]
            y = self.upscore8(y + skip)
            return y[:, :, 31 : 31 + x.shape[2], 31 : 31 + x.shape[3]]

    return Fcn()


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("safetensors")
    return pytest.importorskip("torch")


def networks(torch):
    return {
        RESNET: lambda: torchvision_fcn(torch, (3, 4, 6, 3), 4, 3),
        "fcn_resnet101:2:width=2": lambda: torchvision_fcn(torch, (3, 4, 23, 3), 2, 2),
        "fcn8s:4:width=2:fc=16:caffe": lambda: pytorch_fcn8s(torch, 2, 4),
    }


@pytest.mark.parametrize("text", [RESNET, "fcn_resnet101:2:width=2", "fcn8s:4:width=2:fc=16:caffe"])
def test_networks_of_pytorch_agree(torch, text, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = networks(torch)[text]().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    path, x = tmp_path / "w.safetensors", numbers((1, 3, 45, 52))
    save_file(network.state_dict(), path)
    ours = Session(fcn.load(path, architecture=text)).run(
        np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    )
    with torch.no_grad():
        results = network(torch.from_numpy(x)), network.double()(torch.from_numpy(x).double())
    assert_accurate(ours, *(y.numpy().transpose(0, 2, 3, 1) for y in results))


def mixed_graph():
    nodes = (
        Node("a", "conv2d", ("input",), {"filters": 4, "kernel": [3, 1]}),
        Node("b", "depthwise_conv2d", ("a",), {"kernel": [1, 3], "multiplier": 2}),
        Node("c", "conv2d_transpose", ("b",), {"filters": 3, "kernel": [2, 3], "stride": 2}),
    )
    return Graph("mixed", 2, nodes, "c")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_layouts_and_dtypes(torch, dtype, tmp_path):
    from safetensors.torch import save_file

    layers = torch.nn.ModuleDict({
        "a": torch.nn.Conv2d(2, 4, (3, 1)), "b": torch.nn.Conv2d(4, 8, (1, 3), groups=4),
        "c": torch.nn.ConvTranspose2d(8, 3, (2, 3), 2),
    }).to(getattr(torch, dtype))  # fmt: skip
    save_file(layers.state_dict(), tmp_path / "w.safetensors")
    model = fcn.load(tmp_path / "w.safetensors", architecture=mixed_graph())
    x = torch.from_numpy(numbers((1, 2, 9, 8))).double()
    layers = layers.double()
    with torch.no_grad():
        exact = layers["c"](layers["b"](layers["a"](x))).numpy().transpose(0, 2, 3, 1)
    ours = Session(model).run(x.float().numpy().transpose(0, 2, 3, 1).copy())
    assert np.linalg.norm(ours - exact) <= 5e-6 * np.linalg.norm(exact)


def test_convert_takes_an_architecture(torch, tmp_path, capsys):
    from safetensors.torch import save_file

    path, ours = tmp_path / "w.safetensors", tmp_path / "w.npz"
    save_file(torchvision_fcn(torch, (3, 4, 6, 3), 4, 3).state_dict(), path)
    assert cli.main(["convert", str(path), str(ours), "--architecture", RESNET]) == 0
    assert fcn.load(ours).graph == models.fcn_resnet50(3, width=4)
    assert cli.main(["convert", str(path), str(ours)]) == 2
    assert "holds weights without an architecture; give one" in capsys.readouterr().err
    assert cli.main(["convert", str(path), str(ours), "--architecture", "fcn9s"]) == 2
    assert "architecture 'fcn9s' is not known" in capsys.readouterr().err


# --- files by hand ------------------------------------------------------------------------------

ONE = Graph("one", 1, (Node("a", "conv2d", ("input",), {"filters": 2, "kernel": 1}),), "a")
ARRAYS = {"a.weight": np.float32([[[[2]]], [[[3]]]]), "a.bias": np.float32([5, 7])}


def written(path, arrays=ARRAYS, change=None, tail=b""):
    """A file by the format's description."""
    table, data = {}, b""
    for name, value in arrays.items():
        start, data = len(data), data + value.tobytes()
        kind = {"float32": "F32", "int64": "I64"}[value.dtype.name]
        table[name] = {"dtype": kind, "shape": value.shape, "data_offsets": [start, len(data)]}
    if change:
        change(table)
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data + tail)
    return path


def test_a_file_by_hand(tmp_path):
    def described(table):
        table["__metadata__"] = {"format": "pt"}

    model = fcn.load(written(tmp_path / "w.safetensors", change=described), architecture=ONE)
    y = Session(model).run(np.float32([[[1], [10]]]))
    np.testing.assert_array_equal(y, np.float32([[[7, 10], [25, 37]]]))
    assert model.meta == {"source": "w.safetensors"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("a.bias"), "its arrays end at byte"),
        (lambda t: t["a.bias"].update(data_offsets=[4, 12]), "'a.bias' do not follow those before"),
        (lambda t: t["a.bias"].update(data_offsets=[8, 10**15], shape=[(10**15 - 8) // 4]),
         r"its arrays end at byte 1000000000\d+, the file at"),
        (lambda t: t["a.bias"].update(shape=[10**9]), "'a.bias' needs 1000000000 F32 and has 8"),
        (lambda t: t["a.bias"].update(shape=[-2]), "the entry of 'a.bias' is malformed"),
        (lambda t: t["a.bias"].update(dtype="F4"), "the entry of 'a.bias' is malformed"),
        (lambda t: t["a.bias"].update(dtype="I32"), "I32 numbers are no weights"),
        (lambda t: t.update({"a.bias": 3}), "cannot be read as weights"),
    ],
)  # fmt: skip
def test_malformed_tables(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        fcn.load(written(tmp_path / "w.safetensors", change=change), architecture=ONE)


@pytest.mark.parametrize("data", [b"", b"\x05", struct.pack("<Q", 2**60) + b"{}",
                                  struct.pack("<Q", 6) + b'{"a":{', struct.pack("<Q", 2) + b"[]",
                                  struct.pack("<Q", 10**6) + b"[" * 10**6])  # fmt: skip
def test_no_tables(tmp_path, data):
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"w\.safetensors cannot be read as weights"):
        fcn.load(path, architecture=ONE)


def test_names_come_once(tmp_path):
    path = tmp_path / "w.safetensors"
    table = b'{"a": {}, "a": {}}'
    path.write_bytes(struct.pack("<Q", len(table)) + table)
    with pytest.raises(ValueError, match="its table has a name twice"):
        fcn.load(path, architecture=ONE)


def test_every_array_that_does_not_fit_is_listed(tmp_path):
    arrays = {"a.weight": np.zeros((2, 3, 1, 1), np.float32), "b.weight": np.zeros(1, np.float32),
              "a.num_batches_tracked": np.zeros((), np.int64)}  # fmt: skip
    path = written(tmp_path / "w.safetensors", arrays)
    expected = (
        r"w\.safetensors cannot be read as weights: its arrays are not those of one; missing: "
        r"a\.bias; unexpected: b\.weight; of another shape: a\.weight \(2, 3, 1, 1\) instead of "
        r"\(2, 1, 1, 1\)$"
    )
    with pytest.raises(ValueError, match=expected):
        fcn.load(path, architecture=ONE)
    with pytest.raises(ValueError, match=r"missing: backbone\.conv1\.bias, .* and \d+ more; une"):
        fcn.load(path, architecture=RESNET)


def test_normalisation_by_hand(tmp_path):
    """The convolution gives 2 x and 3 x + 1; means 1 and 2, variances 4 and 1, nearly."""
    norm = {"weight": (1, 2), "bias": (0, 5), "running_mean": (1, 2),
            "running_var": (4 - 1e-5, 1 - 1e-5)}  # fmt: skip
    graph = Graph("g", 1, (Node("conv1", "conv2d", ("input",), {"filters": 2, "kernel": 1}),),
                  "conv1")  # fmt: skip
    arrays = {f"bn1.{key}": np.float32(v) for key, v in norm.items()}
    arrays |= {"conv1.weight": ARRAYS["a.weight"], "conv1.bias": np.float32([0, 1])}
    model = fcn.load(written(tmp_path / "w.safetensors", arrays), architecture=graph)
    y = Session(model).run(np.float32([[[1], [3]]]))
    np.testing.assert_allclose(y, [[[0.5, 9], [2.5, 21]]], rtol=0, atol=1e-5)
    arrays["bn1.running_var"] = np.float32([1, -1])
    with pytest.raises(ValueError, match="a variance in 'bn1' is not positive"):
        fcn.load(written(tmp_path / "w.safetensors", arrays), architecture=graph)


# --- Keras --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("h5py")
    return pytest.importorskip("tensorflow").keras


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["fcn8s", "unet", "fcn_mobilenet"])
def test_weights_of_keras_with_the_names_of_the_nodes(keras, name, tmp_path):
    from fcn import tf_reference

    graph = NARROW[name]
    weights = {n: numbers(s, i, 0.1) for i, (n, s) in enumerate(graph.parameters().items())}
    tf_reference.build(graph, weights).save_weights(tmp_path / "m.weights.h5")
    loaded = fcn.load(tmp_path / "m.weights.h5", architecture=graph)
    for key, value in weights.items():
        np.testing.assert_array_equal(loaded.weights[key], value)


def article(keras, k):
    """As in the founding article: subclassed, its layers known by attributes alone."""

    class FCN(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv1 = k.Conv2D(64, 3, activation="relu", padding="same")
            self.pool1 = k.MaxPooling2D((2, 2))
            self.conv2 = k.Conv2D(128, 3, activation="relu", padding="same")
            self.pool2 = k.MaxPooling2D((2, 2))
            self.drop = k.Dropout(0.5)
            self.upsample = k.Conv2DTranspose(3, 4, strides=4)

        def call(self, x, training=False):
            x = self.pool1(self.conv1(x))
            x = self.drop(self.pool2(self.conv2(x)), training=training)
            return self.upsample(x)

    return FCN()


@pytest.mark.tensorflow
def test_the_articles_network_after_training(keras, tmp_path):
    """The optimizer's state and the seeds of dropout are in the file, too."""
    model, x = article(keras, keras.layers), numbers((1, 16, 20, 3))
    model.compile("adam", "mse")
    model.fit(x, np.zeros((1, 16, 20, 3)), verbose=0)
    model.save_weights(tmp_path / "m.weights.h5")
    loaded = fcn.load(tmp_path / "m.weights.h5", architecture="two_conv:3")
    weights = [v.numpy() for v in model.trainable_variables]
    for key, value in zip(loaded.graph.parameters(), weights, strict=True):
        np.testing.assert_array_equal(loaded.weights[key], value)
    double = Session(loaded, algorithm="direct").run(x)  # the same weights, so the same network
    assert_accurate(double, model(x).numpy(), double.astype(float))


@pytest.mark.tensorflow
def test_names_that_keras_made_up_are_not_trusted(keras, tmp_path):
    """Two layers of equal shapes and no names: which is which cannot be told."""
    k, graph = keras.layers, Graph("two", 3, tuple(
        Node(name, "conv2d", (x,), {"filters": 3, "kernel": 1})
        for name, x in (("conv2d_1", "input"), ("conv2d_7", "conv2d_1"))
    ), "conv2d_7")  # fmt: skip

    def saved(*names):
        layers = [k.Conv2D(3, 1, name=name) for name in names]
        keras.Sequential([keras.Input((8, 8, 3)), *layers]).save_weights(tmp_path / "m.weights.h5")
        return tmp_path / "m.weights.h5"

    loaded = fcn.load(saved("conv2d_7", "conv2d_1"), architecture=graph)  # all of them named
    assert loaded.weights.keys() == graph.parameters().keys()
    with pytest.raises(ValueError, match=(
        r"missing: conv2d_1/bias, conv2d_1/kernel, conv2d_7/bias, conv2d_7/kernel; unexpected: "
        r"layers/conv2d/vars/0, layers/conv2d/vars/1, layers/conv2d_1/vars/0"
    )):  # fmt: skip
        fcn.load(saved("conv2d_2", "conv2d_1"), architecture=graph)


def hdf5(path, groups):
    """Groups {path: (name, arrays)} as Keras writes them."""
    import h5py

    with h5py.File(path, "w") as file:
        for where, (name, arrays) in groups.items():
            group = file.create_group(f"{where}/vars")
            if name:
                group.attrs["name"] = name
            for i, value in enumerate(arrays):
                group[str(i)] = value
    return path


PAIR = (np.float32([[[[2, 3]]]]), np.float32([5, 7]))


@pytest.mark.parametrize(
    "groups",
    [
        {"layers/conv2d": ("a", PAIR)},
        {"layers/conv2d": ("conv2d_4", PAIR)},  # only one has that shape
        {"layers/conv2d": (None, PAIR)},  # before Keras 3.10
        {"a": ("conv2d", PAIR)},
        {"layers/sequential/layers/conv2d": ("a", PAIR)},
        {"body/conv2d": ("a", PAIR), "optimizer": ("adam", PAIR)},
    ],
)
def test_where_keras_writes_a_layer(groups, tmp_path):
    pytest.importorskip("h5py")
    loaded = fcn.load(hdf5(tmp_path / "m.weights.h5", groups), architecture=ONE)
    np.testing.assert_array_equal(loaded.weights["a/kernel"], PAIR[0])
    np.testing.assert_array_equal(loaded.weights["a/bias"], PAIR[1])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({}, "missing: a/bias, a/kernel$"),
        ({"a": ("a", PAIR[:1])}, "missing: a/bias$"),
        ({"a": ("a", (*PAIR, PAIR[1]))}, "unexpected: a/vars/2$"),
        ({"a": ("a", PAIR), "b": ("b", PAIR)}, "unexpected: b/vars/0, b/vars/1$"),
        ({"a": ("a", PAIR), "l/a": ("a", PAIR)}, "unexpected: (l/)?a/vars/0, (l/)?a/vars/1$"),
        ({"a": ("a", PAIR[::-1])}, r"another shape: a/bias \(1, 1, 1, 2\) instead of \(2,\)"),
        ({"a": ("a", (PAIR[0].astype(int), PAIR[1]))}, "a/vars/0 holds int64; save the model with"),
    ],
)
def test_files_of_keras_that_do_not_fit(groups, message, tmp_path):
    pytest.importorskip("h5py")
    with pytest.raises(ValueError, match=message):
        fcn.load(hdf5(tmp_path / "m.weights.h5", groups), architecture=ONE)


def test_links_lead_nowhere(tmp_path):
    h5py = pytest.importorskip("h5py")
    hdf5(tmp_path / "other.h5", {"a": ("a", PAIR)})
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        file["a"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "a")
    with pytest.raises(ValueError, match=r"missing: a/bias, a/kernel$"):
        fcn.load(path, architecture=ONE)
    with h5py.File(path, "w") as file:  # groups that contain themselves, twice
        inner = file.create_group("a")
        inner["b"] = inner["c"] = inner
    with pytest.raises(ValueError, match="it has more than 20000 groups"):
        fcn.load(path, architecture=ONE)


def test_weights_need_an_architecture(tmp_path):
    with pytest.raises(ValueError, match=r"holds weights without an architecture; give one"):
        fcn.load(written(tmp_path / "w.safetensors"))
    with pytest.raises(FileNotFoundError):
        fcn.load(tmp_path / "none.safetensors", architecture=ONE)

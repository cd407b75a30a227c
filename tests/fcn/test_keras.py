"""Keras files: every layer against Keras itself, and files that are damaged or mean harm."""

import io
import json
import warnings
import zipfile

import numpy as np
import pytest

import fcn
from fcn import cli
from fcn.graph import Graph
from fcn.keras.layers import LAYERS
from fcn.session import Session

pytest.importorskip("h5py")
SIZE = (24, 20)
FORMATS = ("keras", "h5")


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("tensorflow").keras


def randomised(model, seed=0):
    """Weights that keep numbers near 1: kernels of He et al., other variances and means."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        if type(layer).__name__ == "Normalization":  # computes with what it has adapted to
            continue
        values = []
        for variable in layer.weights if not hasattr(layer, "layers") else ():
            shape, name = tuple(variable.shape), variable.name
            if "variance" in name or "gamma" in name:
                value = rng.uniform(0.5, 1.5, shape)
            elif "kernel" in name:
                fan = np.prod(shape[:2] if "depthwise" in variable.path else shape[:-1])
                value = rng.normal(0, np.sqrt(2 / fan), shape)
            else:
                value = rng.normal(0, 0.1, shape)
            values.append(value)
        if values:
            layer.set_weights(values)
    return model


def in_double(keras, model):
    """The same model in float64."""
    twin = keras.models.model_from_json(model.to_json().replace('"float32"', '"float64"'))
    twin.set_weights(model.get_weights())
    return twin


def check(keras, model, folder, file_format, size=SIZE, channels=3, output=None, index=0):
    """Save, load without Keras, and compare by the rule of `fcn verify` for whole networks."""
    path = folder / f"model.{file_format}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of NumPy, and of .h5
        model.save(path)
    loaded = fcn.load(path, output)
    x = np.random.default_rng(1).normal(size=(2, *size, channels)).astype(np.float32)
    ours = Session(loaded).run(x)
    single, double = (m(x.astype(t)) for m, t in
                      ((model, "f4"), (in_double(keras, model), "f8")))  # fmt: skip
    if isinstance(single, (list, tuple)):
        single, double = single[index], double[index]
    single, double = (y.numpy().reshape(ours.shape) for y in (single, double))
    size = np.linalg.norm(double)
    error, reference = (np.linalg.norm(y - double) / size for y in (ours, single))
    assert error <= max(4 * reference, 5e-6), (error, reference)
    assert np.ptp(double) > 0
    return loaded


def layers_of(keras):
    """Class -> layers of that class, each between an image of 3 channels and its result."""
    k = keras.layers
    return {
        "Conv2D": [
            k.Conv2D(5, 3, padding="same", activation="silu"),
            k.Conv2D(4, (3, 2), strides=(2, 1), use_bias=False, activation="leaky_relu"),
            k.Conv2D(4, 3, dilation_rate=2, activation="softmax"),
            k.Conv2D(6, 3, groups=3, strides=2, padding="same"),
            k.Conv2D(9, (2, 3), groups=3, dilation_rate=(1, 2)),
        ],
        "DepthwiseConv2D": [
            k.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2),
            k.DepthwiseConv2D(3, dilation_rate=2, activation="relu6", use_bias=False),
        ],
        "SeparableConv2D": [
            k.SeparableConv2D(6, 3, padding="same", depth_multiplier=2, activation="elu"),
            k.SeparableConv2D(6, 3, dilation_rate=2, use_bias=False),
            k.SeparableConv2D(6, 3, strides=2),
        ],
        "Conv2DTranspose": [
            k.Conv2DTranspose(4, 2, strides=2, activation="tanh"),
            k.Conv2DTranspose(4, 4, strides=2, padding="same", use_bias=False),
            k.Conv2DTranspose(4, 3, strides=2, padding="same", output_padding=0),
            k.Conv2DTranspose(4, (2, 3), strides=(3, 2), output_padding=(2, 1)),
        ],
        "Dense": [k.Dense(5, activation="gelu")],
        "BatchNormalization": [
            k.BatchNormalization(),
            k.BatchNormalization(scale=False, epsilon=0.01),
            k.BatchNormalization(center=False),
        ],
        "Rescaling": [k.Rescaling(1 / 255, -1.0), k.Rescaling([1.0, 2.0, 3.0], 0.5)],
        "Normalization": [
            k.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 0.25, 1.0]), adapted(k),
        ],
        "Activation": [k.Activation(f) for f in ("swish", "hard_sigmoid", "hard_swish", "sigmoid")],
        "ReLU": [k.ReLU(), k.ReLU(6.0), k.ReLU(negative_slope=0.3)],
        "LeakyReLU": [k.LeakyReLU()],
        "PReLU": [k.PReLU(shared_axes=[1, 2]), k.PReLU(shared_axes=[1, 2, 3])],
        "ELU": [k.ELU(alpha=0.5)],
        "Softmax": [k.Softmax()],
        "MaxPooling2D": [k.MaxPooling2D(), k.MaxPooling2D(3, 2, padding="same")],
        "AveragePooling2D": [k.AveragePooling2D(2), k.AveragePooling2D(3, 2, padding="same")],
        "GlobalMaxPooling2D": [k.GlobalMaxPooling2D()],
        "GlobalAveragePooling2D": [k.GlobalAveragePooling2D(keepdims=True)],
        "ZeroPadding2D": [k.ZeroPadding2D(((1, 0), (2, 3)))],
        "Cropping2D": [k.Cropping2D(((1, 0), (2, 3)))],
        "UpSampling2D": [k.UpSampling2D((2, 3)), k.UpSampling2D(2, interpolation="bilinear")],
        "Resizing": [k.Resizing(13, 31), k.Resizing(9, 9, interpolation="nearest")],
    }  # fmt: skip


def adapted(layers):
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(6).normal(2, 3, (4, *SIZE, 3)))
    return layer


MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
SHAPING = ("Flatten", "Reshape")


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", sorted(set(LAYERS) - set(MERGES) - set(SHAPING)))
def test_every_layer_means_the_same(keras, kind, tmp_path):
    for layer in layers_of(keras)[kind]:
        model = randomised(keras.Sequential([keras.Input((*SIZE, 3)), layer]))
        for file_format in FORMATS:
            check(keras, model, tmp_path, file_format)


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", MERGES)
def test_every_merge_means_the_same(keras, kind, tmp_path):
    x = keras.Input((None, None, 3))
    a, b = (keras.layers.Conv2D(4, 3, padding="same")(x) for _ in range(2))
    merged = getattr(keras.layers, kind)()([a, b] if kind == "Subtract" else [a, b, a])
    check(keras, randomised(keras.Model(x, merged)), tmp_path, "keras")


@pytest.mark.tensorflow
@pytest.mark.parametrize("file_format", FORMATS)
def test_classifiers_flatten_and_reshape(keras, file_format, tmp_path):
    k, x = keras.layers, keras.Input((*SIZE, 3))
    y = k.Conv2D(6, 3, strides=4, activation="relu")(x)
    excited = k.Reshape((1, 1, 6))(k.Dense(6, activation="sigmoid")(k.GlobalAveragePooling2D()(y)))
    y = k.Flatten()(k.Multiply()([y, excited]))
    y = k.Dropout(0.5)(k.Dense(7, activation="relu")(y))
    model = randomised(keras.Model(x, k.Dense(4, activation="softmax")(k.Flatten()(y))))
    assert check(keras, model, tmp_path, file_format).graph.nodes[-1].op == "softmax"


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras of NumPy
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_transposed_convolutions_dilate(keras, padding, tmp_path):
    """TensorFlow has them in float32 only."""
    layer = keras.layers.Conv2DTranspose(4, (3, 2), dilation_rate=(2, 3), padding=padding)
    model = randomised(keras.Sequential([keras.Input((*SIZE, 3)), layer]))
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(1).normal(size=(2, *SIZE, 3)).astype(np.float32)
    np.testing.assert_allclose(
        Session(fcn.load(tmp_path / "model.keras")).run(x), model(x).numpy(), rtol=0, atol=2e-6
    )


@pytest.mark.tensorflow
def test_groups_and_slopes_by_channel(keras, tmp_path):
    k, x = keras.layers, keras.Input((None, None, 3))
    y = k.Conv2D(8, 3, padding="same")(x)
    y = k.PReLU(shared_axes=[1, 2])(k.BatchNormalization()(k.Conv2D(6, 3, groups=2)(y)))
    y = k.PReLU(shared_axes=[1, 2])(k.Conv2DTranspose(6, 2, strides=2)(y))
    y = k.PReLU()(k.Dense(4)(k.GlobalAveragePooling2D()(y)))
    loaded = check(keras, randomised(keras.Model(x, y)), tmp_path, "keras")
    found = [(node.op, node.attrs.get("activation")) for node in loaded.graph.nodes]
    assert found == [
        ("conv2d", None), ("conv2d", "prelu"), ("conv2d_transpose", None), ("activation", "prelu"),
        ("global_avg_pool2d", None), ("conv2d", "prelu"),
    ]  # fmt: skip


def unet(keras):
    k, x = keras.layers, keras.Input((None, None, 3))

    def block(y, filters):
        for _ in range(2):
            y = k.ReLU()(k.BatchNormalization()(k.Conv2D(filters, 3, padding="same")(y)))
        return y

    a = block(x, 8)
    b = block(k.MaxPooling2D()(a), 16)
    y = block(k.Dropout(0.3)(k.MaxPooling2D()(b)), 32)
    for filters, skip in ((16, b), (8, a)):
        y = k.Conv2DTranspose(filters, 2, strides=2, padding="same")(y)
        y = block(k.Concatenate()([skip, y]), filters)
    return keras.Model(x, k.Conv2D(4, 1, activation="softmax")(y), name="unet")


def deeplab(keras):
    """Separable dilated convolutions, image pooling, low-level features, sizes that are resized."""
    k, x = keras.layers, keras.Input((48, 64, 3))
    low = k.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    low = k.Activation("relu")(k.BatchNormalization()(low))
    y = k.SeparableConv2D(16, 3, strides=2, padding="same", activation="relu")(low)
    rates = [k.Conv2D(8, 1, activation="relu")(y)]
    for rate in (2, 4):
        z = k.DepthwiseConv2D(3, dilation_rate=rate, padding="same", use_bias=False)(y)
        z = k.Conv2D(8, 1, use_bias=False)(k.ReLU()(k.BatchNormalization()(z)))
        rates.append(k.ReLU()(k.BatchNormalization()(z)))
    pooled = k.Conv2D(8, 1, activation="relu")(k.GlobalAveragePooling2D(keepdims=True)(y))
    rates.append(k.UpSampling2D((12, 16), interpolation="bilinear")(pooled))
    y = k.UpSampling2D(2, interpolation="bilinear")(k.Concatenate()(rates))
    y = k.Conv2D(8, 3, padding="same")(k.Concatenate()([y, k.Conv2D(4, 1)(low)]))
    y = k.Conv2D(5, 1)(k.Add()([y, k.LeakyReLU(negative_slope=0.1)(y)]))
    return keras.Model(x, k.Resizing(48, 64)(y), name="deeplab")


@pytest.mark.tensorflow
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(("make", "size"), [(unet, (32, 48)), (deeplab, (48, 64))])
def test_networks_agree(keras, make, size, file_format, tmp_path):
    loaded = check(keras, randomised(make(keras)), tmp_path, file_format, size)
    assert "activation" not in {node.op for node in loaded.graph.nodes} or make is deeplab
    parameters = loaded.graph.parameters()
    assert not any("batch_norm" in name for name in parameters)  # all were folded


@pytest.mark.tensorflow
@pytest.mark.parametrize("file_format", FORMATS)
def test_nested_and_shared_models(keras, file_format, tmp_path):
    k = keras.layers
    inner = keras.Sequential([k.Conv2D(4, 3, padding="same"), k.BatchNormalization()], name="inner")
    x = keras.Input((None, None, 3))
    y = k.Conv2D(3, 1, name="first")(x)
    shared = k.Conv2D(3, 3, padding="same", activation="relu", name="shared")
    y = inner(k.Add()([shared(y), shared(shared(x))]))
    z = keras.Input((None, None, 4))
    tail = keras.Model(z, k.Conv2D(2, 1)(k.ReLU()(z)), name="tail")
    check(keras, randomised(keras.Model(x, tail(y))), tmp_path, file_format)


@pytest.mark.tensorflow
@pytest.mark.parametrize("sequential", [True, False], ids=["sequential", "functional"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_nested_model_that_is_called_twice(keras, file_format, sequential, tmp_path):
    k = keras.layers
    x, y = keras.Input((None, None, 4)), keras.Input((None, None, 4))
    conv = k.Conv2D(4, 3, padding="same", activation="relu", name="conv")
    inner = keras.Sequential([y, conv], name="inner") if sequential else keras.Model(y, conv(y))
    model = keras.Model(x, k.Add()([inner(inner(x)), inner(k.ReLU()(x))]))
    loaded = check(keras, randomised(model), tmp_path, file_format, channels=4)
    convolutions = [node for node in loaded.graph.nodes if node.op == "conv2d"]
    assert len(convolutions) == 3


@pytest.mark.tensorflow
@pytest.mark.parametrize("file_format", FORMATS)
def test_layers_of_one_name_in_several_models(keras, file_format, tmp_path):
    k = keras.layers

    def part(name):
        inside = [keras.Input((None, None, 4)), k.Conv2D(4, 1, name="conv"), k.ReLU()]
        return keras.Sequential(inside, name=name)

    x, y = keras.Input((None, None, 4)), keras.Input((None, None, 4))
    inner = keras.Model(y, part("second")(part("first")(y)), name="inner")
    model = randomised(keras.Model(x, k.Conv2D(2, 1, name="conv")(inner(x))))
    loaded = check(keras, model, tmp_path, file_format, channels=4)
    assert [node.name for node in loaded.graph.nodes] == [
        "inner/first/conv", "inner/second/conv", "conv",
    ]  # fmt: skip


@pytest.mark.tensorflow
def test_batch_normalisation_is_not_folded_where_others_read_on(keras, tmp_path):
    k, x = keras.layers, keras.Input((None, None, 3))
    y = k.Conv2D(4, 3, padding="same")(x)
    z = k.Add()([k.BatchNormalization(name="bn")(k.Dropout(0.1)(y)), y])
    relu = k.ReLU()(k.Conv2D(4, 1)(z))
    model = randomised(keras.Model(x, k.Add()([relu, k.BatchNormalization(name="after")(relu)])))
    loaded = check(keras, model, tmp_path, "keras")
    assert {"bn", "after"} <= {node.name for node in loaded.graph.nodes}


@pytest.mark.tensorflow
def test_one_of_several_outputs(keras, tmp_path):
    k, x = keras.layers, keras.Input((None, None, 3))
    y = k.Conv2D(4, 3, name="body")(x)
    model = randomised(keras.Model(x, [k.Conv2D(2, 1, name="a")(y), k.Conv2D(3, 1, name="b")(y)]))
    loaded = check(keras, model, tmp_path, "keras", output="b", index=1)
    assert [node.name for node in loaded.graph.nodes] == ["body", "b"]
    assert fcn.load(tmp_path / "model.keras").graph.outputs == {"a": "a", "b": "b"}
    with pytest.raises(ValueError, match=r"has the outputs \['a', 'b'\], not 'c'"):
        fcn.load(tmp_path / "model.keras", "c")


def several(keras, named):
    """Two inputs; outputs that are read, or made twice by one layer; a nested model with two."""
    k, a = keras.layers, keras.Input((None, None, 3), name="image")
    b = keras.Input((None, None, 1), name="mask")
    u, v = keras.Input((None, None, 4)), keras.Input((None, None, 1))
    product = k.Multiply()([u, v])
    inner = keras.Model([u, v], [k.Conv2D(4, 1)(product), k.ReLU()(product)], name="inner")
    shared = k.Conv2D(4, 3, padding="same", name="shared")
    y = k.Conv2D(4, 3, padding="same", name="body")(a)
    first, second = inner([k.BatchNormalization()(y), b])
    third, _ = inner([first, b])
    outputs = [shared(first), y, shared(second), k.Subtract(name="shared_1")([third, second])]
    if named:
        return keras.Model({"mask": b, "image": a}, dict(zip("wxyz", outputs, strict=True)))
    return keras.Model([b, a], outputs)


@pytest.mark.tensorflow
@pytest.mark.parametrize("named", [False, True], ids=["lists", "names"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_several_inputs_and_outputs(keras, file_format, named, tmp_path):
    model, path = randomised(several(keras, named)), tmp_path / f"m.{file_format}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    loaded, rng = fcn.load(path), np.random.default_rng(1)
    assert loaded.graph.inputs == {"mask": 1, "image": 3}
    feeds = {name: rng.normal(size=(2, *SIZE, c)).astype(np.float32)
             for name, c in loaded.graph.inputs.items()}  # fmt: skip
    ours = Session(loaded).run(feeds)
    names = ["shared", "body", "shared:1", "shared_1"]
    assert list(ours) == (list("wxyz") if named else names)
    x = {name: feeds[name] for name in ("mask", "image")}
    theirs = model(x if named else list(x.values()))
    for y, expected in zip(ours.values(), theirs.values() if named else theirs, strict=True):
        most = 32 * np.finfo(np.float32).eps * np.abs(y).max()  # both have rounded
        np.testing.assert_allclose(y, expected.numpy(), rtol=0, atol=most)
        assert np.ptp(y) > 1


@pytest.mark.tensorflow
def test_nested_models_take_lists(keras, tmp_path):
    k, x = keras.layers, keras.Input((8, 8, 2), name="x")
    u, v = keras.Input((8, 8, 2), name="u"), keras.Input((8, 8, 2), name="v")
    inner = keras.Model({"u": u, "v": v}, k.Subtract()([u, v]), name="inner")
    keras.Model(x, inner({"v": x, "u": k.ReLU()(x)})).save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="'inner' is nested and takes or gives tensors by name"):
        fcn.load(tmp_path / "m.keras")


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("name", ["VGG16", "ResNet50", "MobileNetV2", "EfficientNetB0"])
def test_applications_agree(keras, name, file_format, tmp_path):
    model = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(64, 96, 3)
    )
    check(keras, randomised(model), tmp_path, file_format, (64, 96))


# --- what is refused ----------------------------------------------------------------------------


def written(path, layers, class_name="Sequential", arrays=None, **more):
    """A ``.keras`` file by hand."""
    import h5py

    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        for name, value in (arrays or {}).items():
            file[name] = value
    config = {"class_name": class_name, "config": {"name": "m", "layers": layers, **more}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", data.getvalue())
    return path


def layer(kind, name=None, **config):
    name = name or kind.lower()
    return {"class_name": kind, "name": name, "config": {"name": name, **config}}


INPUT = layer("InputLayer", "input", batch_shape=[None, 8, 8, 3])
CONV = layer("Conv2D", "c", kernel_size=[1, 1], filters=2, strides=[1, 1], padding="valid",
             dilation_rate=[1, 1], groups=1, use_bias=False, activation="linear")  # fmt: skip
KERNEL = np.arange(6, dtype=np.float32).reshape(1, 1, 3, 2)


def test_a_file_by_hand(tmp_path):
    """Literals, without Keras at all."""
    path = written(tmp_path / "m.keras", [INPUT, CONV], arrays={"layers/conv2d/vars/0": KERNEL})
    model = fcn.load(path)
    x = np.ones((2, 2, 3), np.float32)
    np.testing.assert_array_equal(Session(model).run(x), np.full((2, 2, 2), [6, 9], np.float32))
    assert isinstance(model.graph, Graph)
    assert model.meta["source"] == "m.keras"


def test_convert(tmp_path, capsys):
    path = written(tmp_path / "m.keras", [INPUT, CONV], arrays={"layers/conv2d/vars/0": KERNEL})
    ours = str(tmp_path / "m.npz")
    assert cli.main(["convert", str(path), ours]) == 0
    assert capsys.readouterr().out == f"{ours}: 1 layers, 6 parameters\n"
    assert fcn.load(ours).graph == fcn.load(path).graph
    np.testing.assert_array_equal(fcn.load(ours).weights["c/kernel"], KERNEL)
    assert cli.main(["convert", str(path), str(tmp_path / "m.keras2")]) == 2
    assert "must end in .npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([INPUT, layer("Lambda", "evil", function="x")],
         r"layer 'evil' \(Lambda\) is not supported; Lambda holds code, which is not run"),
        ([INPUT, layer("Conv3D", "c")], r"'c' \(Conv3D\) is not supported; use Conv2D"),
        ([INPUT, layer("os.system", "c")], r"'c' \(os.system\) is not supported"),
        ([INPUT, {**CONV, "config": {**CONV["config"], "groups": 2}}],
         r"layer 'c' \(Conv2D\): groups=2 does not divide the 3 channels that it reads"),
        ([INPUT, layer("PReLU", "p", shared_axes=[2])],
         r"'p' \(PReLU\): shared_axes=\[2\]: slopes of pixels are not supported; use \[1, 2\]"),
        ([INPUT, {**CONV, "config": {**CONV["config"], "activation": "selu"}}],
         r"layer 'c' \(Conv2D\): activation 'selu' is not supported"),
        ([INPUT, {**CONV, "config": {**CONV["config"], "filters": 10**9}}],
         r"layers/conv2d/vars/0 has shape \(1, 1, 3, 2\), the layer needs \(1, 1, 3, 1000000000\)"),
        ([INPUT, CONV, {**CONV, "name": "d"}], "has no array layers/conv2d_1"),
        ([layer("InputLayer", "input", batch_shape=[None, 8]), CONV], r"shape \(None, 8\); images"),
        ([INPUT], "the model does nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_not_understood_is_named(tmp_path, layers, message):
    path = written(tmp_path / "m.keras", layers, arrays={"layers/conv2d/vars/0": KERNEL})
    with pytest.raises(ValueError, match=message):
        fcn.load(path)


def call(*names):
    tensors = [{"class_name": "__keras_tensor__", "config": {"keras_history": [n, 0, 0]}}
               for n in names]  # fmt: skip
    return [{"args": [tensors], "kwargs": {}}]


def test_a_cycle_is_an_error(tmp_path):
    layers = [
        {**INPUT, "inbound_nodes": []},
        {**layer("Add", "a"), "inbound_nodes": call("input", "b")},
        {**layer("Add", "b"), "inbound_nodes": call("a", "input")},
    ]
    ends = {"input_layers": ["input", 0, 0], "output_layers": ["b", 0, 0]}
    path = written(tmp_path / "m.keras", layers, "Functional", **ends)
    with pytest.raises(ValueError, match=r"the layers \['a', 'b'\] wait for each other"):
        fcn.load(path)


def test_results_that_no_layer_gives(tmp_path):
    for tensor in (["a", 0, 1], ["a", 1, 0], ["c", 0, 0]):
        layers = [
            {**INPUT, "inbound_nodes": []},
            {**layer("ReLU", "a"), "inbound_nodes": call("input")},
            {**layer("ReLU", "b"), "inbound_nodes": [[tensor]]},
        ]
        ends = {"input_layers": ["input", 0, 0], "output_layers": ["b", 0, 0]}
        path = written(tmp_path / "m.keras", layers, "Functional", **ends)
        with pytest.raises(
            ValueError, match=rf"layer 'b' reads what \['{tensor[0]}'\] do not give"
        ):
            fcn.load(path)


def test_links_to_other_files_are_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = KERNEL
    for link in (h5py.ExternalLink(str(tmp_path / "other.h5"), "secret"), h5py.SoftLink("/k")):
        path = written(tmp_path / "m.keras", [INPUT, CONV],
                       arrays={"k": KERNEL, "layers/conv2d/vars/0": link})  # fmt: skip
        with pytest.raises(ValueError, match="is a link to somewhere else"):
            fcn.load(path)


def test_small_files_cannot_ask_for_much_memory(tmp_path):
    import h5py

    data = io.BytesIO()
    shape = (1, 1, 3, 10**8)
    with h5py.File(data, "w") as file:
        file.create_dataset("layers/conv2d/vars/0", shape, "f4", chunks=(1, 1, 3, 1000))
    wide = {**CONV, "config": {**CONV["config"], "filters": shape[3]}}
    path = written(tmp_path / "m.keras", [INPUT, wide])
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bomb, "w") as new:
        new.writestr("config.json", old.read("config.json"))
        new.writestr("model.weights.h5", data.getvalue())
    with pytest.raises(ValueError, match="would unpack to 1200000000 bytes"):
        fcn.load(bomb)
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("config.json", json.dumps({}))
        new.writestr("model.weights.h5", bytes(10**7))
    with pytest.raises(ValueError, match=r"model.weights.h5 would unpack to 10000000 bytes"):
        fcn.load(bomb)


@pytest.mark.parametrize("kept", [10, 200, 1000, 0.5, 0.99])
def test_truncated_files(tmp_path, kept):
    path = written(tmp_path / "m.keras", [INPUT, CONV], arrays={"layers/conv2d/vars/0": KERNEL})
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(ValueError, match=r"m\.keras cannot be read as a"):
        fcn.load(path)


def test_weights_alone_are_explained(tmp_path):
    import h5py

    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["layers/conv2d/vars/0"] = KERNEL
    with pytest.raises(ValueError, match=r"weights without an architecture; save the whole model"):
        fcn.load(tmp_path / "w.h5")
    with pytest.raises(FileNotFoundError):
        fcn.load(tmp_path / "none.keras")

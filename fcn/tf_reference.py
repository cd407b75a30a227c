"""The same graphs in Keras: reference for every layer, and the gradients for training.

The only module that imports TensorFlow, and only when one of its functions runs. Weight layouts
are the same on both sides, so weights pass through unchanged.
"""

import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from fcn._extras import require
from fcn.graph import INPUT, Graph, Node

Array = NDArray[Any]
Weights = Mapping[str, NDArray[np.float32]]
EPSILON = 1e-3  # of batch normalisation, added to the variance


@cache
def tensorflow() -> Any:
    """The package `tensorflow`, or ImportError that says how to install it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # or it reports every GPU that is not there
    return require("tensorflow", extra="tensorflow", purpose="comparing with or training in Keras")


def build(graph: Graph, weights: Weights, dtype: str = "float32") -> Any:
    """A functional Keras model that computes what the graph says.

    Parameters
    ----------
    graph : Graph
        The architecture.
    weights : mapping of str to array
        One array for each of ``graph.parameters()``.
    dtype : {"float32", "float64"}
        Precision of weights and arithmetic.

    Returns
    -------
    keras.Model
        From (n, h, w, c) to the graph's output; layers have the names of the nodes. `every_output`
        makes all of their results visible.
    """
    keras = tensorflow().keras
    x = keras.Input((None, None, graph.channels), dtype=dtype, name=INPUT)
    tensors = {INPUT: x}
    for node in graph.nodes:
        inputs = [tensors[name] for name in node.inputs]
        tensors[node.name] = _apply(node, _layer(node, dtype, weights), inputs)
    model = keras.Model(x, tensors[graph.output], name=_name(graph.name))
    set_weights(model, graph, weights)
    return model


def every_output(model: Any, graph: Graph) -> Any:
    """A Keras model that shares the weights of `model` and returns {node name: result}."""
    outputs = {node.name: model.get_layer(_name(node.name)).output for node in graph.nodes}
    return tensorflow().keras.Model(model.input, outputs)


def layer_call(node: Node, inputs: list[Array], weights: Weights, dtype: str = "float32") -> Array:
    """Run one node in TensorFlow.

    Parameters
    ----------
    node : Node
        What to compute.
    inputs : list of (n, h, w, c) arrays
        One for each of ``node.inputs``.
    weights : mapping of str to array
        Those of the model; the node's own are taken by name.
    dtype : {"float32", "float64"}
        Inputs and weights are converted to it before the arithmetic.

    Returns
    -------
    (n, h, w, c) array of that dtype
    """
    tf = tensorflow()
    layer = _layer(node, dtype, weights)
    if node.rule.kernel is not None:
        layer.build(inputs[0].shape)
        layer.set_weights(_of_node(node, weights))
    result: Array = _apply(node, layer, [tf.constant(x, dtype) for x in inputs]).numpy()
    return result


def get_weights(model: Any, graph: Graph) -> dict[str, NDArray[np.float32]]:
    """The weights of a Keras model whose layers have the names of the graph's nodes.

    Raises
    ------
    ValueError
        For "prelu", and transposed convolutions with groups or dilation: Keras has other weights.
    """
    found = {}
    for name in graph.parameters():
        node = graph.node(name.rpartition("/")[0])
        kind = name.rpartition("/")[2]
        spread = node.op == "conv2d_transpose" and _spread_by(node) != (1, [1, 1])
        if spread or kind == "slopes":
            raise ValueError(f"{node.where}: its weights do not come back from Keras")
        value = model.get_layer(_name(node.name)).get_weights()[("kernel", "bias").index(kind)]
        found[name] = np.asarray(value, np.float32)
    return found


def set_weights(model: Any, graph: Graph, weights: Weights) -> None:
    """Put our weights into such a Keras model, in place."""
    for node in graph.nodes:
        if node.rule.kernel is not None:
            model.get_layer(_name(node.name)).set_weights(_of_node(node, weights))


def article_fcn(num_classes: int) -> Any:
    """The founding article's model, subclassed and with its error, as it is printed there.

    Its layers are named as the nodes of ``models.two_conv(num_classes, as_printed=True)``, with
    which `get_weights` and `set_weights` exchange weights once the model has been called.
    """
    keras = tensorflow().keras
    layers = keras.layers

    class FCN(keras.Model):  # type: ignore[misc, name-defined]
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.conv1 = layers.Conv2D(64, 3, activation="relu", padding="same", name="conv1")
            self.pool1 = layers.MaxPooling2D((2, 2), name="pool1")
            self.conv2 = layers.Conv2D(128, 3, activation="relu", padding="same", name="conv2")
            self.pool2 = layers.MaxPooling2D((2, 2), name="pool2")
            self.upsample = layers.Conv2DTranspose(num_classes, 2, strides=2, name="upsample")

        def call(self, inputs: Any) -> Any:
            x = self.pool1(self.conv1(inputs))
            x = self.pool2(self.conv2(x))
            return self.upsample(x)

    return FCN(num_classes)


def _of_node(node: Node, weights: Weights) -> list[Array]:
    kernel = weights[f"{node.name}/kernel"]
    if node.op == "conv2d_transpose":
        kernel = _spread(kernel, *_spread_by(node))
    return [kernel, weights[f"{node.name}/bias"]] if node.attrs["use_bias"] else [kernel]


def _spread_by(node: Node) -> tuple[int, list[int]]:
    return node.attrs["groups"], node.attrs["dilation"]


def _spread(kernel: Array, groups: int, dilation: list[int]) -> Array:
    """Zeros between groups and taps: Keras's transposed layers know none, or not in float64."""
    (kh, kw, part, c), (dh, dw) = kernel.shape, dilation
    span = (kh - 1) * dh + 1, (kw - 1) * dw + 1
    dense = np.zeros((*span, groups, part, groups, c // groups), kernel.dtype)
    for g in range(groups):
        dense[::dh, ::dw, g, :, g] = kernel.reshape(kh, kw, part, groups, -1)[:, :, :, g]
    return dense.reshape(*span, groups * part, c)


def _name(text: str) -> str:
    """A name as Keras allows it: without slashes."""
    return quote(text, safe="")


def _layer(node: Node, dtype: str, weights: Weights, **changes: Any) -> Any:
    """The Keras layer that computes a node; `changes` override arguments of a convolution.

    The slopes of "prelu" are constants in it, so they are not trained.
    """
    layers, attrs = tensorflow().keras.layers, node.attrs
    if attrs.get("activation") == "prelu":
        attrs = {**attrs, "alpha": weights[f"{node.name}/slopes"]}
    common = {"name": _name(node.name), "dtype": dtype}
    if node.rule.kernel is None:
        function, rule = FUNCTIONS[node.op], node.rule
        return layers.Lambda(
            lambda tensors: function(*tensors, **attrs),
            lambda shapes: (None, None, None, rule.channels(attrs, [s[3] for s in shapes])),
            **common,
        )
    arguments = {
        "kernel_size": attrs["kernel"],
        "strides": attrs["stride"],
        "padding": attrs["padding"] if isinstance(attrs["padding"], str) else "valid",
        "use_bias": attrs["use_bias"],
        **common,
    }
    if node.op == "conv2d_transpose":
        taps = zip(attrs["kernel"], attrs["dilation"], strict=True)
        arguments["kernel_size"] = [(k - 1) * d + 1 for k, d in taps]
        more = attrs["output_padding"]
        return layers.Conv2DTranspose(attrs["filters"], output_padding=more, **arguments)
    activation = _function(attrs["activation"], attrs["alpha"])
    arguments |= {"dilation_rate": attrs["dilation"], "activation": activation} | changes
    if node.op == "depthwise_conv2d":
        return layers.DepthwiseConv2D(depth_multiplier=attrs["multiplier"], **arguments)
    return layers.Conv2D(attrs["filters"], groups=attrs["groups"], **arguments)


def _apply(node: Node, layer: Any, inputs: list[Any]) -> Any:
    """The layer's result; zeros that a convolution names explicitly are put around its input."""
    if node.rule.kernel is None:
        return layer(inputs)
    padding = node.attrs["padding"]
    if isinstance(padding, str):
        return layer(inputs[0])
    return layer(tensorflow().keras.ops.pad(inputs[0], ((0, 0), *padding, (0, 0))))


def _function(name: str | None, alpha: Any) -> Any:
    """Keras's activation function of our name; `alpha` is a number or one for each channel."""
    known = tensorflow().keras.activations
    match name:
        case "leaky_relu":
            return lambda y: known.leaky_relu(y, 0.01 if alpha is None else alpha)
        case "prelu":
            return lambda y: tensorflow().where(y < 0, y * tensorflow().cast(alpha, y.dtype), y)
        case "elu":
            return lambda y: known.elu(y, 1.0 if alpha is None else alpha)
        case "gelu" | "gelu_tanh":
            return lambda y: known.gelu(y, approximate=name == "gelu_tanh")
        case "hard_swish":
            return known.hard_silu
    return known.get(name)


def _max_pool(x: Any, *, size: Any, stride: Any, padding: Any, ceil_mode: bool) -> Any:
    tf = tensorflow()
    if padding == "same":  # its windows cover the image, so there is nothing to round up
        return tf.nn.max_pool2d(x, size, stride, "SAME")
    (top, bottom), (left, right) = ((0, 0), (0, 0)) if padding == "valid" else padding
    rows, cols = (stride[0] - 1, stride[1] - 1) if ceil_mode else (0, 0)
    sides = ((0, 0), (top, bottom + rows), (left, right + cols), (0, 0))
    y = tf.nn.max_pool2d(tf.pad(x, sides, constant_values=-np.inf), size, stride, "VALID")
    _, h, w, _ = tf.keras.ops.shape(x)
    # a window that starts behind the image would hold padding only
    return y[:, : -(-(h + top) // stride[0]), : -(-(w + left) // stride[1])]


def _avg_pool(x: Any, *, size: Any, stride: Any, padding: Any, ceil_mode: bool) -> Any:
    """The mean of the pixels that there are, by counting them."""
    if ceil_mode:
        raise ValueError("TensorFlow's average pools do not round sizes up")
    tf = tensorflow()
    if isinstance(padding, str):
        return tf.nn.avg_pool2d(x, size, stride, padding.upper())
    sides = ((0, 0), *padding, (0, 0))
    sums, counts = (
        tf.nn.avg_pool2d(tf.pad(t, sides), size, stride, "VALID")
        for t in (x, tf.ones_like(x[:1, :, :, :1]))
    )
    return sums / counts


def _global(reduce: str) -> Callable[..., Any]:
    return lambda x: getattr(tensorflow(), reduce)(x, (1, 2), keepdims=True)


def _together(merge: str) -> Callable[..., Any]:
    """A merging layer of Keras, with the clamp of an ``add``."""

    def apply(*tensors: Any, activation: str | None = None) -> Any:
        keras = tensorflow().keras
        return _function(activation, None)(getattr(keras.layers, merge)()(list(tensors)))

    return apply


def _activation(x: Any, *, activation: str | None, alpha: Any) -> Any:
    return _function(activation, alpha)(x)


def _softmax(x: Any) -> Any:
    return tensorflow().nn.softmax(x)


def _pad(x: Any, *, sides: Any) -> Any:
    return tensorflow().pad(x, ((0, 0), *sides, (0, 0)))


def _trim(x: Any, *, sides: Any) -> Any:
    (top, bottom), (left, right) = sides
    _, h, w, _ = tensorflow().keras.ops.shape(x)
    return x[:, top : h - bottom, left : w - right, :]


def _enlarge(x: Any, *, factor: list[int], method: str) -> Any:
    _, h, w, _ = tensorflow().keras.ops.shape(x)
    return _interpolate(x, (h * factor[0], w * factor[1]), method)


def _resize_to(x: Any, *, size: list[int], method: str) -> Any:
    return _interpolate(x, size, method)


def _interpolate(x: Any, size: Any, method: str) -> Any:
    if method == "bilinear":
        return _bilinear(x, size)
    return tensorflow().image.resize(x, size, method)


def _concat(*tensors: Any) -> Any:
    return tensorflow().concat(tensors, axis=-1)


def _crop(x: Any, like: Any, *, offset: list[int]) -> Any:
    (top, left), (_, h, w, _) = offset, tensorflow().keras.ops.shape(like)
    return x[:, top : top + h, left : left + w, :]


def _resize(x: Any, like: Any) -> Any:
    return _bilinear(x, tensorflow().keras.ops.shape(like)[1:3])


def _bilinear(x: Any, size: Any) -> Any:
    """With half-pixel centres; in float64, which tf.image does not know, by matrices."""
    tf = tensorflow()
    if x.dtype == "float32":
        return tf.image.resize(x, size)
    weights = []
    for old, new in zip(x.shape[1:3], size, strict=True):
        centre = (tf.range(new, dtype=x.dtype) + 0.5) * old / new - 0.5
        distance = tf.clip_by_value(centre, 0, old - 1)[:, None] - tf.range(old, dtype=x.dtype)
        weights.append(tf.maximum(1 - abs(distance), 0))
    return tf.einsum("ip,npqc,jq->nijc", weights[0], x, weights[1])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "global_max_pool2d": _global("reduce_max"),
    "global_avg_pool2d": _global("reduce_mean"),
    "activation": _activation,
    "softmax": _softmax,
    "add": _together("Add"),
    "subtract": _together("Subtract"),
    "multiply": _together("Multiply"),
    "average": _together("Average"),
    "maximum": _together("Maximum"),
    "minimum": _together("Minimum"),
    "pad2d": _pad,
    "trim2d": _trim,
    "upsample2d": _enlarge,
    "resize2d_to": _resize_to,
    "concat": _concat,
    "crop": _crop,
    "resize2d": _resize,
}


class Trainer:
    """Gradient steps on the weights of a graph.

    While training, batch normalisation (Ioffe and Szegedy 2015) stands between each convolution
    and its activation; `weights` folds it into the convolution exactly, so that the graph needs
    none.

    Parameters
    ----------
    graph : Graph
        The architecture.
    weights : mapping of str to array
        Where to start.
    class_weights : (classes,) array
        Factor of each class in the cross entropy.
    weight_decay : float
        Of AdamW (Loshchilov and Hutter 2019), relative to the learning rate; kernels only.
    """

    def __init__(
        self, graph: Graph, weights: Weights, class_weights: Array, weight_decay: float = 0.01
    ) -> None:
        self.tf, self.graph = tensorflow(), graph
        keras = self.tf.keras
        self.normalised = [
            n.name for n in graph.nodes if n.rule.kernel and n.attrs.get("activation")
        ]
        x = keras.Input((None, None, graph.channels), name=INPUT)
        tensors = {INPUT: x}
        for node in graph.nodes:
            inputs = [tensors[name] for name in node.inputs]
            changes = {"activation": None, "use_bias": False} if self._has_bn(node) else {}
            y = _apply(node, _layer(node, "float32", weights, **changes), inputs)
            if self._has_bn(node):
                y = keras.layers.BatchNormalization(
                    momentum=0.95, epsilon=EPSILON, name=f"{node.name}_bn"
                )(y)
                y = keras.layers.Activation(node.attrs["activation"])(y)
            tensors[node.name] = y
        self.model = keras.Model(x, tensors[graph.output])
        for node in graph.nodes:
            if node.rule.kernel is not None:
                values = _of_node(node, weights)
                self.model.get_layer(node.name).set_weights(
                    values[:1] if self._has_bn(node) else values
                )
        self.optimizer = keras.optimizers.AdamW(weight_decay=weight_decay, clipnorm=5.0)
        self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self.class_weights = self.tf.constant(class_weights, "float32")
        self._step = self.tf.function(self._gradient_step)
        self._predict = self.tf.function(
            lambda x: self.tf.argmax(self.model(self._prepare(x), training=False), -1)
        )

    def _has_bn(self, node: Node) -> bool:
        return node.name in self.normalised

    def _prepare(self, images: Any) -> Any:
        return self.tf.cast(images, "float32") / 255

    def _gradient_step(self, images: Any, labels: Any) -> Any:
        tf = self.tf
        labels = tf.cast(labels, "int32")
        with tf.GradientTape() as tape:
            logits = self.model(self._prepare(images), training=True)
            factor = tf.gather(self.class_weights, labels)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_sum(loss * factor) / tf.reduce_sum(factor)
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def step(self, images: Array, labels: Array, rate: float) -> float:
        """One step of AdamW on uint8 images (n, h, w, c), labels (n, h, w); returns the loss."""
        self.optimizer.learning_rate.assign(rate)
        return float(self._step(images, labels))

    def predict(self, images: Array) -> Array:
        """Labels (n, h, w) of uint8 images (n, h, w, c)."""
        result: Array = self._predict(images).numpy()
        return result

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Weights of the graph, batch normalisation folded in.

        ``kernel' = kernel * g`` and ``bias' = beta - mean * g`` with
        ``g = gamma / sqrt(variance + epsilon)``.
        """
        found: dict[str, NDArray[np.float32]] = {}
        for node in self.graph.nodes:
            if node.rule.kernel is None:
                continue
            values = [v.astype(np.float64) for v in self.model.get_layer(node.name).get_weights()]
            if self._has_bn(node):
                bn = self.model.get_layer(f"{node.name}_bn").get_weights()
                gamma, beta, mean, variance = (v.astype(np.float64) for v in bn)
                g = gamma / np.sqrt(variance + EPSILON)
                last = (-1,) if node.op == "conv2d" else values[0].shape[2:]  # of depthwise: c, m
                values = [values[0] * g.reshape(last), beta - mean * g]
            for kind, value in zip(("kernel", "bias"), values, strict=False):
                found[f"{node.name}/{kind}"] = value.astype(np.float32)
        return found

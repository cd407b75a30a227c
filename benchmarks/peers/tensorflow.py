"""TensorFlow: NHWC is its own layout, and ours."""

import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.graphs import Network, Operations, crop
from benchmarks.layers import Array, Filter, Layer, Step, is_argmax, is_depthwise, is_global
from benchmarks.peers import Program
from fastconv import shapes
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d

PLAIN, PADDED = "graph", "tf.pad"  # variants: padding by the convolution, or before it


class Engine:
    """tf.function on NHWC, weights as constants of the graph, TF_ENABLE_ONEDNN_OPTS=1."""

    def __init__(self, threads: int) -> None:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # off by default on CPUs without AVX-512
        self.tf: Any = importlib.import_module("tensorflow")
        self.tf.config.threading.set_intra_op_parallelism_threads(threads)
        self.tf.config.threading.set_inter_op_parallelism_threads(1)
        self.version: str = self.tf.__version__

    def variants(self, layer: Layer) -> dict[str, Callable[[], Program]]:
        steps = layer.steps
        if layer.whole is not None:
            steps = tuple(spec for _, spec in layer.whole.specs() if spec is not None)
        convolutions = (step for step in steps if isinstance(step, Conv2d))
        explicit = [step for step in convolutions if not isinstance(_padding(step), str)]
        names = [PLAIN, PADDED] if explicit else [PLAIN]
        if any(is_depthwise(step) for step in explicit):  # TensorFlow would abort the process
            names.remove(PLAIN)
        return {name: partial(self._build, layer, name) for name in names}

    def _build(self, layer: Layer, variant: str) -> Program:
        tf = self.tf
        weights = layer.weights()

        def network(x: Any) -> Any:
            # Constants made here are nodes of the graph, so oneDNN reorders them once; tensors
            # made outside would be inputs, reordered in each run.
            for step, arrays in zip(layer.steps, weights, strict=True):
                if isinstance(step, Network):
                    return self._network(step, x, variant)
                x = self._step(step, x, variant, *arrays)
            return x

        x = tf.constant(layer.input())
        graph = tf.function(network, autograph=False)
        function = graph.get_concrete_function(tf.TensorSpec(layer.x, tf.float32))
        return Program(lambda: function(x))

    def _network(self, network: Network, x: Any, variant: str) -> Any:
        tf = self.tf
        operations = Operations(
            window=lambda spec, *arrays: lambda x: self._step(spec, x, variant, *arrays),
            concat=lambda *xs: tf.concat(xs, -1),
            add=tf.add,
            relu=tf.nn.relu,
            crop=crop,
        )
        return network.function(operations)(x)

    def _step(self, step: Step, x: Any, variant: str, *arrays: Array) -> Any:
        tf = self.tf
        match step:
            case Conv2d() | ConvTranspose2d():
                return self._filter(step, x, variant, *arrays)
            case Pool2d() if is_global(step):
                reduce = tf.reduce_max if step.kind == "max" else tf.reduce_mean
                return reduce(x, (1, 2), keepdims=True)
            case Pool2d() if step.kind == "max":
                return tf.nn.max_pool2d(x, step.size, step.stride, _padding(step))
            case Pool2d():
                return tf.nn.avg_pool2d(x, step.size, step.stride, _padding(step))
            case Resize2d():
                return tf.image.resize(x, step.size)
            case ChannelOp() if is_argmax(step):
                return tf.argmax(x, 3, output_type=tf.int32)
            case ChannelOp():
                return tf.nn.softmax(x)
        raise TypeError(f"no operation for {step}")

    def _filter(self, step: Filter, x: Any, variant: str, w: Array, bias: Array) -> Any:
        tf = self.tf
        strides, padding = (1, *step.stride, 1), _padding(step)
        if isinstance(step, ConvTranspose2d):
            x = tf.nn.conv2d_transpose(x, tf.constant(w), step.out, strides, padding)
        else:
            if variant == PADDED and not isinstance(padding, str):
                x, padding = tf.pad(x, padding), "VALID"
            if is_depthwise(step):
                w, convolve = w.reshape(*w.shape[:2], step.groups, -1), tf.nn.depthwise_conv2d
            else:
                convolve = tf.nn.conv2d
            x = convolve(x, tf.constant(w), strides, padding, dilations=step.dilation)
        x = tf.nn.bias_add(x, tf.constant(bias))
        if step.activation is not None:
            x = {"relu": tf.nn.relu, "relu6": tf.nn.relu6}[step.activation](x)
        return tf.nn.max_pool2d(x, 2, 2, "VALID") if getattr(step, "pool", False) else x


def _padding(step: Filter | Pool2d) -> str | list[list[int]]:
    """The name of the padding where it has one: named paddings take the fused kernels."""
    sides = tuple((before, max(after, 0)) for before, after in step.pad)  # past the end is no crop
    if not any(map(any, sides)):
        return "VALID"
    kernel = step.size if isinstance(step, Pool2d) else step.w[:2]
    larger = step.out if isinstance(step, ConvTranspose2d) else step.x
    sizes = zip(larger[1:3], kernel, step.stride, step.dilation, strict=True)
    if sides == tuple(shapes.same_padding(*size) for size in sizes):
        return "SAME"
    return [[0, 0], *map(list, sides), [0, 0]]

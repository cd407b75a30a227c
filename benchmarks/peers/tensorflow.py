"""TensorFlow: NHWC is its own layout, and ours."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.layers import Array, Layer, Step
from benchmarks.peers import Program
from fastconv import shapes
from fastconv.spec import Conv2d


class Engine:
    """tf.function on NHWC, weights as constants of the graph, oneDNN as it comes."""

    def __init__(self, threads: int) -> None:
        self.tf: Any = importlib.import_module("tensorflow")
        self.tf.config.threading.set_intra_op_parallelism_threads(threads)
        self.tf.config.threading.set_inter_op_parallelism_threads(1)
        self.version: str = self.tf.__version__

    def variants(self, layer: Layer) -> dict[str, Callable[[], Program]]:
        return {"graph": partial(self._build, layer)}

    def _build(self, layer: Layer) -> Program:
        tf = self.tf
        weights = layer.weights()

        def network(x: Any) -> Any:
            # Constants made here are nodes of the graph, so oneDNN reorders them once; tensors
            # made outside would be inputs, reordered in each run.
            for step, (w, bias) in zip(layer.steps, weights, strict=True):
                x = self._step(step, x, w, tf.constant(bias))
            return x

        x = tf.constant(layer.input())
        graph = tf.function(network, autograph=False)
        function = graph.get_concrete_function(tf.TensorSpec(layer.x, tf.float32))
        return Program(lambda: function(x))

    def _step(self, step: Step, x: Any, w: Array, bias: Any) -> Any:
        tf = self.tf
        strides = (1, *step.stride, 1)
        if not isinstance(step, Conv2d):
            x = tf.nn.conv2d_transpose(x, tf.constant(w), step.out, strides, _padding(step))
        elif step.groups > 1:
            w = w.reshape(*w.shape[:2], step.groups, -1)
            x = tf.nn.depthwise_conv2d(x, tf.constant(w), strides, _padding(step))
        else:
            x = tf.nn.conv2d(x, tf.constant(w), strides, _padding(step))
        x = tf.nn.bias_add(x, bias)
        x = tf.nn.relu(x) if step.activation == "relu" else x
        return tf.nn.max_pool2d(x, 2, 2, "VALID") if getattr(step, "pool", False) else x


def _padding(step: Step) -> str | list[list[int]]:
    """The name of the padding where it has one: named paddings take the fused kernels."""
    if not any(map(any, step.pad)):
        return "VALID"
    sizes = zip(step.x[1:3], step.w[:2], step.stride, step.dilation, strict=True)
    if isinstance(step, Conv2d) and step.pad == tuple(shapes.same_padding(*s) for s in sizes):
        return "SAME"
    return [[0, 0], *map(list, step.pad), [0, 0]]

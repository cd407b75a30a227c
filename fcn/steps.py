"""What a program is made of: one call for each node, or for a convolution and its max-pool."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import fastconv
from fcn.graph import Node, Shape
from fcn.ops import CLAMPS, ELEMENTWISE

__all__ = ["Step", "compile_node"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """One call of a program: reads the tensors `inputs` and fills the tensor of `node`.

    Attributes
    ----------
    node : Node
        What it computes; for a fused step the pool, whose input is then the convolution's.
    inputs : tuple of str
    shape : (n, h, w, c)
        Shape of the result.
    call : function of (*inputs, out=)
        A `fastconv.Plan` where it is a convolution.
    """

    node: Node
    inputs: tuple[str, ...]
    shape: Shape
    call: Callable[..., object]

    @property
    def plan(self) -> fastconv.Plan | None:
        """The plan behind a convolution; None for what has no weights."""
        return self.call if isinstance(self.call, fastconv.Plan) else None

    def __call__(self, *inputs: Array) -> Array:
        """The result in a new array."""
        out = fastconv.aligned_empty(self.shape, np.float32)
        self.call(*inputs, out=out)
        return out


def compile_node(
    node: Node,
    shapes: Mapping[str, Shape],
    weights: Mapping[str, Array],
    *,
    pool: Node | None = None,
    algorithm: str = "auto",
    num_threads: int | None = None,
) -> Step:
    """Turn one node, or a convolution and the 2x2 max-pool behind it, into a step.

    Parameters
    ----------
    node : Node
    shapes : mapping of tensor name to shape
        As `Graph.shapes` gives it.
    weights : mapping
        As `Model.weights`.
    pool : Node or None
        The pool to fuse behind a convolution; see `fcn.session.fusable`.
    algorithm : {"auto", "direct", "winograd_f4", "winograd_f2", "winograd_f6"}
    num_threads : int or None

    Returns
    -------
    Step
    """
    attrs, shape, last = node.attrs, shapes[node.inputs[0]], pool or node
    if attrs.get("activation") == "prelu":
        attrs = {**attrs, "alpha": weights[f"{node.name}/slopes"]}
    call: Callable[..., object]
    if node.rule.kernel is not None:
        kernel, bias = weights[f"{node.name}/kernel"], weights.get(f"{node.name}/bias")
        keys = ("stride", "padding", "dilation", "groups", "activation", "alpha")
        options = {key: attrs[key] for key in keys if key in attrs} | {"num_threads": num_threads}
        if node.op == "conv2d":
            options |= {"pool": pool is not None, "algorithm": algorithm}
            call = fastconv.plan_conv2d(shape, kernel, bias, **options)
        elif node.op == "depthwise_conv2d":  # as many groups as channels
            kernel = kernel.reshape(*attrs["kernel"], 1, -1)
            options["groups"] = shape[3]
            call = fastconv.plan_conv2d(shape, kernel, bias, **options)
        else:
            call = fastconv.plan_conv2d_transpose(shape, kernel, bias, **options)
    elif node.op == "activation":  # of a depthwise convolution that changes nothing
        ones = np.ones((1, 1, 1, shape[3]), np.float32)
        call = fastconv.plan_conv2d(shape, ones, groups=shape[3], num_threads=num_threads, **attrs)
    elif node.op in ELEMENTWISE:
        call = functools.partial(_together, node.op, **attrs)
    elif node.op in THREADED:
        call = functools.partial(THREADED[node.op], num_threads=num_threads, **attrs)
    else:
        call = functools.partial(COPIES[node.op], **attrs)
    return Step(last, node.inputs, shapes[last.name], call)


def _resize(x: Array, *_: Array, num_threads: int | None, out: Array, **attrs: Any) -> None:
    """To the size of `out`, which follows from the attributes or from another tensor."""
    method = attrs.get("method", "bilinear")
    size = out.shape[1:3]
    fastconv.resize2d(x, size, method=method, num_threads=num_threads, out=out)


def _global(pool: Callable[..., Array], x: Array, *, num_threads: int | None, out: Array) -> None:
    out[:, 0, 0, :] = pool(x, num_threads=num_threads)


def _together(op: str, *inputs: Array, out: Array, activation: str | None = None) -> None:
    """From left to right, as Keras does."""
    ufunc = UFUNCS[op]
    ufunc(inputs[0], inputs[1], out=out)
    for more in inputs[2:]:
        ufunc(out, more, out=out)
    if op == "average":
        np.divide(out, np.float32(len(inputs)), out=out)
    if activation is not None:
        np.clip(out, *CLAMPS[activation], out=out)


def _concat(*inputs: Array, out: Array) -> None:
    np.concatenate(inputs, axis=-1, out=out)


def _crop(x: Array, _: Array, *, offset: Sequence[int], out: Array) -> None:
    (top, left), (_, rows, cols, _) = offset, out.shape
    out[...] = x[:, top : top + rows, left : left + cols]


def _pad(x: Array, *, sides: Sequence[Sequence[int]], out: Array) -> None:
    (top, _), (left, _) = sides
    out[...] = 0
    out[:, top : top + x.shape[1], left : left + x.shape[2]] = x


def _trim(x: Array, *, sides: Sequence[Sequence[int]], out: Array) -> None:
    (top, _), (left, _) = sides
    out[...] = x[:, top : top + out.shape[1], left : left + out.shape[2]]


THREADED: dict[str, Callable[..., object]] = {
    "max_pool2d": fastconv.max_pool2d,
    "avg_pool2d": fastconv.avg_pool2d,
    "global_max_pool2d": functools.partial(_global, fastconv.global_max_pool2d),
    "global_avg_pool2d": functools.partial(_global, fastconv.global_avg_pool2d),
    "softmax": fastconv.softmax,
    "resize2d": _resize,
    "resize2d_to": _resize,
    "upsample2d": _resize,
}
COPIES: dict[str, Callable[..., None]] = {
    "concat": _concat,
    "crop": _crop,
    "pad2d": _pad,
    "trim2d": _trim,
}
UFUNCS = {
    "add": np.add,
    "average": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
}

"""How far the results of one node may lie apart, ours and another program's, both being right.

Each may differ from the exact result by the rounding bound of its own algorithm
(`fastconv.bounds`): ours by that of what was planned, the other one by that of direct sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import bounds, shapes, spec
from fcn.graph import Model, Node, Origin
from fcn.ops import ACTIVATIONS
from fcn.steps import Step

__all__ = ["EXACT", "tolerance"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

EXACT = float(np.finfo(np.float32).tiny)  # TensorFlow flushes smaller numbers to zero
UNIT = bounds.unit_roundoff("float32")
# Roundings of a term where a layer was folded into the weights: ours of factor and product, the
# other side's of variance + epsilon, its root and inverse, gamma, mean, and three sums.
FOLD = 12
NO_ORIGIN = Origin("")


def tolerance(
    model: Model,
    node: Node,
    step: Step,
    inputs: Sequence[Array],
    result: Array,
    errors: Sequence[Floats | None],
) -> Floats:
    """Largest difference of each element that rounding explains.

    Parameters
    ----------
    model : Model
        Weights and origins.
    node : Node
    step : Step
        How we compute it.
    inputs : sequence of (n, h, w, c) arrays
        What both sides compute it from.
    result : (n, h, w, c) array
        Of either side, or of both nearly.
    errors : sequence of arrays or None
        How far each input may lie from what the other side has computed; None: not at all.

    Returns
    -------
    ndarray of the result's shape, float64
        Positive. Pools, crops and joined channels are copies, and a sum of two numbers is rounded
        in one way only, so those must agree but for what is flushed to zero.
    """
    if step.plan is not None:
        return _convolved(model, node, step, inputs[0], result, errors[0])
    x, bound = inputs[0], np.full(step.shape, EXACT)
    if node.op in ("resize2d", "resize2d_to", "upsample2d"):
        size, method = (step.shape[1], step.shape[2]), node.attrs.get("method", "bilinear")
        if method != "nearest":
            bound += bounds.resize2d(x, spec.Resize2d(x.shape, size, method))
            bound += resize_bound(x, size)
    elif node.op == "softmax":
        bound += 2 * bounds.channel_op(x, spec.ChannelOp(x.shape, "softmax"))
    elif node.op == "average":
        n = len(inputs)
        mean = sum(np.abs(x.astype(np.float64)) for x in inputs) / n
        bound += 2 * bounds.gamma(n + 1, UNIT) * mean
    elif node.op in ("avg_pool2d", "global_avg_pool2d"):  # both add in some order
        bound += 2 * bounds.pool2d(x, _pool(node, x))
    if errors[0] is None:
        return bound
    most = errors[0].max(axis=-1, keepdims=True)
    if node.op == "softmax":  # each exponential changes by a factor of at most exp(most)
        return np.asarray(bound + result * np.expm1(2 * most) * (1 + 2**-10))
    # what else reads an inexact input copies it or takes means
    return np.asarray(bound + step(errors[0].astype(np.float32)) * (1 + 2**-10))


def _convolved(
    model: Model, node: Node, step: Step, x: Array, result: Array, error: Floats | None
) -> Floats:
    """Sums of products on both sides, and the function behind them."""
    plan: Any = step.plan
    kernel: Any
    if node.op == "activation":
        kernel, bias = np.ones(plan.spec.w, np.float32), None
    else:
        kernel, bias = (model.weights.get(f"{node.name}/{kind}") for kind in ("kernel", "bias"))
    kernel = kernel.reshape(plan.spec.w)  # depthwise is planned in groups
    origin = model.origins.get(node.name, NO_ORIGIN)
    summands = bias if origin.summands is None else origin.summands
    if node.op == "conv2d_transpose":
        terms = 1  # how many taps meet depends on the pixel
        ours = bounds.conv2d_transpose(x, kernel, bias, plan.spec)
        theirs = bounds.conv2d_transpose(x, kernel, summands, plan.spec)
    else:
        terms = math.prod(plan.spec.w[:3]) + 1
        ours = bounds.conv2d(x, kernel, bias, plan.spec, plan.algorithm)
        theirs = bounds.conv2d(x, kernel, summands, plan.spec, "direct")
    # `theirs` is gamma(terms) times the sum of all magnitudes
    theirs *= 1 + FOLD * origin.folded / terms
    if error is not None:  # of another operation's result that only a convolution reads
        ours += bounds.conv2d(error, kernel, None, plan.spec) / bounds.gamma(terms, UNIT)
    name = node.attrs.get("activation")
    alpha = model.weights.get(f"{node.name}/slopes", node.attrs.get("alpha"))
    alpha = ACTIVATIONS[name].alpha if alpha is None else alpha
    if name == "elu":  # exp(y) - 1 there, with the error of the exponential
        theirs += 2 * UNIT * ACTIVATIONS[name].ulps
    both = sum(bounds.activation(name, result, e, "float32", alpha) for e in (ours, theirs))
    return np.asarray(both + EXACT * kernel.size)  # more products than any sum has


def _pool(node: Node, x: Array) -> spec.Pool2d:
    if node.op == "global_avg_pool2d":
        return spec.Pool2d(x.shape, "avg", x.shape[1:3], (1, 1))
    size, stride = tuple(node.attrs["size"]), tuple(node.attrs["stride"])
    padding = node.attrs["padding"]
    pad = shapes.resolve_padding(padding, x.shape[1:3], size, stride, (1, 1), node.op)
    return spec.Pool2d(x.shape, "avg", size, stride, pad)


def resize_bound(x: Array, size: tuple[int, int]) -> Floats:
    """How far TensorFlow's or ONNX Runtime's bilinear result may lie from the exact one.

    They compute the coordinate ``t - 1/2``, ``t = (i + 1/2) * old / new``, in float32: three
    roundings that move it by up to ``gamma(3) * (t + 1/2)``, and the result by that times the
    largest step between neighbours. TensorFlow interpolates as ``a + (b - a) * l``, whose rounding
    error is at most ``gamma(3) * (|a| + |b - a|)``, three times the largest value; doing so across
    and then down makes it seven times, second-order terms included. ONNX Runtime's sum of four
    weighted pixels has less.
    """
    gamma = bounds.gamma(3, UNIT)
    values = x.astype(np.float64)
    bound = 7 * gamma * np.max(np.abs(values), axis=(1, 2), keepdims=True) + 9 * EXACT
    for axis, new in zip((1, 2), size, strict=True):
        t = (np.arange(new) + 0.5) * x.shape[axis] / new
        step = np.abs(np.diff(values, axis=axis)).max(axis=(1, 2), keepdims=True, initial=0)
        bound = bound + gamma * (t + 0.5).reshape(-1, *[1] * (3 - axis)) * step
    return np.asarray(bound)

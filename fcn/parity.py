"""Compare our run of a model with TensorFlow's, layer by layer and end to end.

Layer by layer, both sides get the reference's own input, so errors do not pile up and each layer is
judged by a theorem: the two results may differ by no more than the rounding bound of our algorithm
plus that of TensorFlow's direct sums (`fastconv.bounds`). End to end such a bound would be
meaninglessly large; there, both sides are compared with TensorFlow in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import bounds, shapes, spec
from fcn.graph import INPUT, Model, Node
from fcn.session import Session
from fcn.steps import Step

__all__ = ["EndToEnd", "Layer", "Report", "end_to_end", "judge_layer", "verify"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

TIMES_REFERENCE = 4.0  # our end-to-end error may be this many times TensorFlow's own ...
ALWAYS_FINE = 5e-6  # ... or this large in relative L2, whichever is larger
WAYS = {
    "max_pool2d": "max",
    "avg_pool2d": "mean",
    "global_max_pool2d": "max",
    "global_avg_pool2d": "mean",
    "add": "sum",
    "subtract": "difference",
    "multiply": "product",
    "average": "mean",
    "maximum": "max",
    "minimum": "min",
    "softmax": "softmax",
    "concat": "copy",
    "crop": "copy",
    "pad2d": "copy",
    "trim2d": "copy",
    "resize2d": "bilinear",
    "resize2d_to": "resize",
    "upsample2d": "resize",
}  # what has no algorithm to choose
EXACT = float(np.finfo(np.float32).tiny)  # TensorFlow flushes smaller numbers to zero


@dataclass(frozen=True)
class Layer:
    """One layer, ours against the reference, on the reference's input.

    Attributes
    ----------
    name, op, algorithm : str
    shape : tuple of int
        Shape of the result.
    abs_error : float
        max |ours - reference|.
    rel_error : float
        `abs_error` / max |reference|.
    ulp : float
        `abs_error` in float32 spacings of the reference's value at that element.
    bound : float
        Largest difference that rounding can explain, over all elements.
    ratio : float
        max(|ours - reference| / bound), each element by its own bound; the layer passes up to 1.
        NaN fails.
    worst : tuple of int
        (n, row, column, channel) where that ratio is reached.
    """

    name: str
    op: str
    algorithm: str
    shape: tuple[int, ...]
    abs_error: float
    rel_error: float
    ulp: float
    bound: float
    ratio: float
    worst: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether every difference is within its bound."""
        return self.ratio <= 1


@dataclass(frozen=True)
class EndToEnd:
    """Whole runs against TensorFlow in float64.

    Attributes
    ----------
    ours, reference : float
        Relative L2 error, ||y - y64|| / ||y64||, of our run and of TensorFlow's in float32.
    max_error : float
        The larger of both runs' max |y - y64|.
    pixels, undecidable, agreeing, differing : int
        Pixels in all; those where float64's best two logits are no more than 2 * `max_error`
        apart, so that rounding may pick either; those whose label is the same in both float32 runs;
        decidable ones where it is not.
    """

    ours: float
    reference: float
    max_error: float
    pixels: int
    undecidable: int
    agreeing: int
    differing: int

    @property
    def ratio(self) -> float:
        """Our error as a multiple of TensorFlow's."""
        if self.reference == 0:
            return 1.0 if self.ours == 0 else math.inf
        return self.ours / self.reference

    @property
    def accurate(self) -> bool:
        """Whether our error is small, in itself or beside TensorFlow's. NaN is not."""
        return self.ours <= ALWAYS_FINE or self.ours <= TIMES_REFERENCE * self.reference


@dataclass(frozen=True)
class Report:
    """What `verify` found; `str` gives the table that `fcn verify` prints."""

    model: str
    shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    whole: EndToEnd

    @property
    def failures(self) -> list[str]:
        """One sentence for each rule that is broken; empty when all hold."""
        found = [
            f"layer {layer.name} differs by {layer.ratio:.3g} times its rounding bound "
            f"at {layer.worst}"
            for layer in self.layers
            if not layer.passed
        ]
        if not self.whole.accurate:
            found.append(
                f"the end-to-end error {self.whole.ours:.2e} exceeds both {ALWAYS_FINE:.0e} and "
                f"{TIMES_REFERENCE:g} times TensorFlow's own {self.whole.reference:.2e}"
            )
        if self.whole.differing:
            found.append(f"{self.whole.differing} decidable pixels have another label")
        return found

    @property
    def passed(self) -> bool:
        """Whether every rule holds."""
        return not self.failures

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def verify(model: Model, x: Array, session: Session | None = None) -> Report:
    """Run a model here and in TensorFlow on the same input, and compare.

    Parameters
    ----------
    model : Model
        What TensorFlow runs.
    x : ndarray, (n, h, w, c), float32
    session : Session or None
        What is judged; None makes one from `model`.

    Returns
    -------
    Report

    Raises
    ------
    ImportError
        Without TensorFlow (extra `tensorflow`).
    """
    from fcn import tf_reference

    graph, session = model.graph, session or Session(model)
    keras = tf_reference.build(graph, model.weights)
    results = tf_reference.every_output(keras, graph)(x)
    tensors = {INPUT: x} | {name: tensor.numpy() for name, tensor in results.items()}
    layers = tuple(_layers(model, session, tensors))
    exact = tf_reference.build(graph, model.weights, "float64")(x.astype(np.float64)).numpy()
    whole = end_to_end(session.run(x), tensors[graph.output], exact)
    return Report(graph.name, x.shape, layers, whole)


def judge_layer(ours: Array, reference: Array, bound: Floats, step: Step) -> Layer:
    """The figures of one layer.

    Parameters
    ----------
    ours, reference : ndarray, same shape, float32
    bound : ndarray of that shape, float64
        Largest difference allowed at each element; positive.
    step : Step
        The step that computed `ours`.
    """
    with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN, and NaN fails
        error = np.abs(ours.astype(np.float64) - reference)
    ratio = error / bound
    # argmax stops at the first NaN, so one broken element cannot hide behind the others
    largest, worst = (_index(values) for values in (error, ratio))
    top = np.max(np.abs(reference))
    return Layer(
        name=step.node.name,
        op=step.node.op,
        algorithm=step.plan.algorithm if step.plan is not None else "",
        shape=ours.shape,
        abs_error=float(error[largest]),
        rel_error=_quotient(float(error[largest]), float(top)),
        ulp=float(error[largest] / np.spacing(np.abs(reference[largest]))),
        bound=float(bound.max()),
        ratio=float(ratio[worst]),
        worst=worst,
    )


def end_to_end(ours: Array, reference: Array, exact: Floats) -> EndToEnd:
    """Compare two float32 runs with one in float64.

    Parameters
    ----------
    ours, reference, exact : ndarray, (n, h, w, classes)
        Logits from here, from TensorFlow in float32 and from TensorFlow in float64.
    """
    errors = [y.astype(np.float64) - exact for y in (ours, reference)]
    size = float(np.linalg.norm(exact))
    l2 = [_quotient(float(np.linalg.norm(error)), size) for error in errors]
    max_error = float(max(np.max(np.abs(error)) for error in errors))
    decidable = _margin(exact) > 2 * max_error
    same = np.argmax(ours, axis=-1) == np.argmax(reference, axis=-1)
    return EndToEnd(
        ours=l2[0],
        reference=l2[1],
        max_error=max_error,
        pixels=same.size,
        undecidable=int((~decidable).sum()),
        agreeing=int(same.sum()),
        differing=int((decidable & ~same).sum()),
    )


def _layers(model: Model, session: Session, tensors: dict[str, Array]) -> Iterator[Layer]:
    shapes = model.graph.shapes(tensors[INPUT].shape)
    for node in model.graph.nodes:
        step = session.step(node, shapes)
        inputs = [tensors[name] for name in node.inputs]
        bound = _bound(model, node, step, inputs)
        yield judge_layer(step(*inputs), tensors[node.name], bound, step)


def _bound(model: Model, node: Node, step: Step, inputs: Sequence[Array]) -> Floats:
    """How far our result and TensorFlow's may lie apart, both being computed from `inputs`.

    Pools, crops and joined channels are copies, and a sum of two numbers is rounded in one way
    only, so those must agree but for what TensorFlow flushes to zero.
    """
    if node.op in ("resize2d", "resize2d_to", "upsample2d"):
        size, method = (step.shape[1], step.shape[2]), node.attrs.get("method", "bilinear")
        if method == "nearest":
            return np.full(step.shape, EXACT)
        ours = bounds.resize2d(inputs[0], spec.Resize2d(inputs[0].shape, size, method))
        return ours + _resize_bound(inputs[0], size)
    if WAYS.get(node.op) in ("mean", "softmax"):
        return _reduced_bound(node, inputs) + EXACT
    plan: Any = step.plan
    if plan is None:
        return np.full(step.shape, EXACT)
    kernel: Any
    if node.op == "activation":
        kernel, bias = np.ones(plan.spec.w, np.float32), None
    else:
        kernel, bias = (model.weights.get(f"{node.name}/{kind}") for kind in ("kernel", "bias"))
    kernel = kernel.reshape(plan.spec.w)  # depthwise is planned in groups
    if node.op == "conv2d_transpose":
        ours = theirs = bounds.conv2d_transpose(inputs[0], kernel, bias, plan.spec)
    else:
        ours = bounds.conv2d(inputs[0], kernel, bias, plan.spec, plan.algorithm)
        theirs = bounds.conv2d(inputs[0], kernel, bias, plan.spec, "direct")
    flushed = EXACT * kernel.size  # more products than any sum has
    return np.asarray(ours + theirs + flushed)


def _reduced_bound(node: Node, inputs: Sequence[Array]) -> Floats:
    """Twice our bound for means and softmax: TensorFlow does the same in another order."""
    x = inputs[0]
    if node.op == "softmax":
        return 2 * bounds.channel_op(x, spec.ChannelOp(x.shape, "softmax"))
    if node.op == "average":
        n = len(inputs)
        mean = sum(np.abs(x.astype(np.float64)) for x in inputs) / n
        return np.asarray(2 * bounds.gamma(n + 1, bounds.unit_roundoff("float32")) * mean)
    if node.op == "global_avg_pool2d":
        pool = spec.Pool2d(x.shape, "avg", x.shape[1:3], (1, 1))
    else:
        attrs = node.attrs
        size, stride = tuple(attrs["size"]), tuple(attrs["stride"])
        pad = shapes.resolve_padding(attrs["padding"], x.shape[1:3], size, stride, (1, 1), "pad")
        pool = spec.Pool2d(x.shape, "avg", size, stride, pad)
    return 2 * bounds.pool2d(x, pool)


def _resize_bound(x: Array, size: tuple[int, int]) -> Floats:
    """How far TensorFlow's bilinear result may lie from the exact one.

    It computes the coordinate ``t - 1/2``, ``t = (i + 1/2) * old / new``, in float32: three
    roundings that move it by up to ``gamma(3) * (t + 1/2)``, and the result by that times the
    largest step between neighbours. It interpolates as ``a + (b - a) * l``, whose rounding error
    is at most ``gamma(3) * (|a| + |b - a|)``, three times the largest value; doing so across and
    then down makes it seven times, second-order terms included.
    """
    gamma = bounds.gamma(3, bounds.unit_roundoff("float32"))
    values = x.astype(np.float64)
    bound = 7 * gamma * np.max(np.abs(values), axis=(1, 2), keepdims=True) + 9 * EXACT
    for axis, new in zip((1, 2), size, strict=True):
        t = (np.arange(new) + 0.5) * x.shape[axis] / new
        step = np.abs(np.diff(values, axis=axis)).max(axis=(1, 2), keepdims=True, initial=0)
        bound = bound + gamma * (t + 0.5).reshape(-1, *[1] * (3 - axis)) * step
    return np.asarray(bound)


def _margin(logits: Floats) -> Floats:
    """Best minus second-best logit of each pixel; infinite where there is one class only."""
    if logits.shape[-1] == 1:
        return np.full(logits.shape[:-1], np.inf)
    best = np.partition(logits, -2, axis=-1)[..., -2:]
    return np.asarray(best[..., 1] - best[..., 0])


def _index(values: Floats) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(np.argmax(values), values.shape))


def _quotient(part: float, whole: float) -> float:
    return part / whole if whole else (0.0 if part == 0 else math.inf)


def _lines(report: Report) -> Iterator[str]:
    n, h, w, c = report.shape
    yield f"{report.model}: ours against TensorFlow float32, input {n} x {h} x {w} x {c}"
    yield "each layer is fed with TensorFlow's own input; error / bound must not exceed 1"
    yield ""
    name = max(len(name) for name in ("layer", *(layer.name for layer in report.layers))) + 2
    yield (
        f"{'layer':<{name}}{'computed as':<13}{'shape':<16}{'max abs':>9}{'relative':>10}{'ulp':>7}"
        f"{'bound':>10}{'err/bound':>11}  worst pixel"
    )
    for layer in report.layers:
        shape = "x".join(map(str, layer.shape[1:]))
        way = layer.algorithm or WAYS[layer.op]
        bound = f"{layer.bound:.2e}" if layer.bound > EXACT else "exact"
        where = ", ".join(map(str, layer.worst)) if layer.ratio != 0 else "none"
        yield (
            f"{layer.name:<{name}}{way:<13}{shape:<16}{layer.abs_error:>9.2e}{layer.rel_error:>10.2e}"
            f"{layer.ulp:>7.3g}{bound:>10}{layer.ratio:>11.3g}  {where}"
            f"{'' if layer.passed else '  BROKEN'}"
        )
    whole = report.whole
    yield ""
    yield (
        f"end to end against TensorFlow float64, relative L2: ours {whole.ours:.2e}, "
        f"TensorFlow float32 {whole.reference:.2e}, ratio {whole.ratio:.2f}"
    )
    yield (
        f"labels: {whole.agreeing} of {whole.pixels} pixels agree with TensorFlow float32, "
        f"{whole.undecidable} are undecidable (top-2 margin up to {2 * whole.max_error:.1e}), "
        f"{whole.differing} decidable ones differ"
    )
    yield "PASS" if report.passed else "FAIL: " + "; ".join(report.failures)

"""Compare our run of a model with another program's, layer by layer and end to end.

Layer by layer, both sides get the other one's own input, so errors do not pile up and each layer is
judged by a theorem: the two results may differ by no more than `fcn.tolerances` derives. End to end
such a bound would be meaninglessly large; there, both sides are compared with TensorFlow's float64
run of our graph, of which the layers have shown whether it is the other program's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from fcn.graph import INPUT, Model
from fcn.peers import Peer, Rebuilt
from fcn.session import Session
from fcn.steps import Step
from fcn.tolerances import EXACT, tolerance

__all__ = [
    "DIFFERENT",
    "SAME",
    "UNDECIDABLE",
    "UNDECIDED",
    "EndToEnd",
    "Layer",
    "Report",
    "end_to_end",
    "judge_layer",
    "verify",
]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

TIMES_REFERENCE = 4.0  # our end-to-end error may be this many times the reference's own ...
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
AROUND = 12  # pixels to each side of the worst one that a layer keeps
# What a pixel's labels are: equal; equal or not where rounding may pick either; not equal.
SAME, UNDECIDABLE, UNDECIDED, DIFFERENT = range(4)


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
    kernel : str
        The micro-kernel that ran; empty where no plan was made.
    tensor : str
        What the file calls the result; empty where there is no file.
    around : (rows, columns) array
        The largest ratio over the channels, of the pixels around the worst one.
    corner : (row, column)
        Where `around` begins.
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
    kernel: str = ""
    tensor: str = ""
    around: Floats = field(default_factory=lambda: np.zeros((0, 0)), compare=False, repr=False)
    corner: tuple[int, int] = (0, 0)

    @property
    def way(self) -> str:
        """What computed it: an algorithm, or the operation in a word."""
        return self.algorithm or WAYS[self.op]

    @property
    def passed(self) -> bool:
        """Whether every difference is within its bound."""
        return self.ratio <= 1


@dataclass(frozen=True)
class EndToEnd:
    """Whole runs against one in float64.

    Attributes
    ----------
    ours, reference : float
        Relative L2 error, ||y - y64|| / ||y64||, of our run and of the reference's in float32.
    max_error : float
        The larger of both runs' max |y - y64|.
    pixels, undecidable, agreeing, differing : int
        Pixels in all; those where float64's best two logits are no more than 2 * `max_error`
        apart, so that rounding may pick either; those whose label is the same in both float32 runs;
        decidable ones where it is not.
    map : (n, h, w) array, uint8
        `SAME`, `UNDECIDABLE` with the same label, `UNDECIDED` with another one, or `DIFFERENT`.
    """

    ours: float
    reference: float
    max_error: float
    pixels: int
    undecidable: int
    agreeing: int
    differing: int
    map: npt.NDArray[np.uint8] = field(
        default_factory=lambda: np.zeros((0, 0, 0), np.uint8), compare=False, repr=False
    )

    @property
    def ratio(self) -> float:
        """Our error as a multiple of the reference's."""
        if self.reference == 0:
            return 1.0 if self.ours == 0 else math.inf
        return self.ours / self.reference

    @property
    def accurate(self) -> bool:
        """Whether our error is small, in itself or beside the reference's. NaN is not."""
        return self.ours <= ALWAYS_FINE or self.ours <= TIMES_REFERENCE * self.reference


@dataclass(frozen=True)
class Report:
    """What `verify` found; `str` gives the table that `fcn verify` prints.

    Attributes
    ----------
    model : str
    shape : tuple of int
        Of the input.
    layers : tuple of Layer
        Those that the other program shows.
    whole : EndToEnd
    peer : str
        The other program.
    """

    model: str
    shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    whole: EndToEnd
    peer: str = Rebuilt.name

    @property
    def failures(self) -> list[str]:
        """One sentence for each rule that is broken; empty when all hold."""
        found = [
            f"layer {_named(layer)} differs by {layer.ratio:.3g} times its rounding bound "
            f"at {layer.worst}"
            for layer in self.layers
            if not layer.passed
        ]
        if not self.whole.accurate:
            found.append(
                f"the end-to-end error {self.whole.ours:.2e} exceeds both {ALWAYS_FINE:.0e} and "
                f"{TIMES_REFERENCE:g} times {self.peer}'s own {self.whole.reference:.2e}"
            )
        if self.whole.differing:
            found.append(f"{self.whole.differing} decidable pixels have another label")
        return found

    @property
    def summary(self) -> tuple[str, str]:
        """A line on the end-to-end errors, and one on the labels."""
        whole = self.whole
        return (
            f"end to end against TensorFlow float64, relative L2: ours {whole.ours:.2e}, "
            f"{self.peer} float32 {whole.reference:.2e}, ratio {whole.ratio:.2f}",
            f"labels: {whole.agreeing} of {whole.pixels} pixels agree with {self.peer} float32, "
            f"{whole.undecidable} are undecidable (top-2 margin up to {2 * whole.max_error:.1e}), "
            f"{whole.differing} decidable ones differ",
        )

    @property
    def passed(self) -> bool:
        """Whether every rule holds."""
        return not self.failures

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def verify(
    model: Model, x: Array, session: Session | None = None, peer: Peer | None = None
) -> Report:
    """Run a model here and in another program on the same input, and compare.

    Parameters
    ----------
    model : Model
        What the other program runs.
    x : ndarray, (n, h, w, c), float32
    session : Session or None
        What is judged; None makes one from `model`.
    peer : Peer or None
        The other program, such as `fcn.peers.of_file` gives; None is TensorFlow, in which our graph
        is built anew.

    Returns
    -------
    Report

    Raises
    ------
    ImportError
        Without TensorFlow (extra `tensorflow`).
    ValueError
        If the other program cannot run that input.
    """
    session = session or Session(model)
    if peer is None:  # of the same weights: what was folded into them is the same on both sides
        model = replace(model, origins={})
        peer = Rebuilt(model)
    results = peer.results(x)
    exact = Rebuilt(model).exact(x)
    layers = tuple(_layers(model, session, {INPUT: x} | results))
    whole = end_to_end(session.run(x), results[model.graph.output], exact)
    return Report(model.graph.name, x.shape, layers, whole, peer.name)


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
    n, *pixel, _ = worst
    corner = (max(pixel[0] - AROUND, 0), max(pixel[1] - AROUND, 0))
    rows, cols = (slice(a, p + AROUND + 1) for a, p in zip(corner, pixel, strict=True))
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
        kernel=step.plan.kernel if step.plan is not None else "",
        around=ratio[n, rows, cols].max(axis=-1),
        corner=corner,
    )


def end_to_end(ours: Array, reference: Array, exact: Floats) -> EndToEnd:
    """Compare two float32 runs with one in float64.

    Parameters
    ----------
    ours, reference, exact : ndarray, (n, h, w, classes)
        Logits from here, from the reference in float32 and from one in float64.
    """
    errors = [y.astype(np.float64) - exact for y in (ours, reference)]
    size = float(np.linalg.norm(exact))
    l2 = [_quotient(float(np.linalg.norm(error)), size) for error in errors]
    max_error = float(max(np.max(np.abs(error)) for error in errors))
    decidable = _margin(exact) > 2 * max_error
    same = np.argmax(ours, axis=-1) == np.argmax(reference, axis=-1)
    sure, unsure = np.where(same, SAME, DIFFERENT), np.where(same, UNDECIDABLE, UNDECIDED)
    return EndToEnd(
        ours=l2[0],
        reference=l2[1],
        max_error=max_error,
        pixels=same.size,
        undecidable=int((~decidable).sum()),
        agreeing=int(same.sum()),
        differing=int((decidable & ~same).sum()),
        map=np.where(decidable, sure, unsure).astype(np.uint8),
    )


def _layers(model: Model, session: Session, tensors: dict[str, Array]) -> Iterator[Layer]:
    """Each node on the reference's inputs.

    Where the reference does not show an input, which is a result inside of one of its layers, ours
    takes its place, and the bound of the next node grows by what that bound makes of it.
    """
    shapes = model.graph.shapes(tensors[INPUT].shape)
    errors: dict[str, Floats] = {}
    for node in model.graph.nodes:
        step = session.step(node, shapes)
        inputs = [tensors[name] for name in node.inputs]
        ours = step(*inputs)
        reference = tensors.setdefault(node.name, ours)
        inexact = [errors.get(name) for name in node.inputs]
        bound = tolerance(model, node, step, inputs, reference, inexact)
        if reference is ours:
            errors[node.name] = bound
            continue
        origin = model.origins.get(node.name)
        layer = judge_layer(ours, reference, bound, step)
        yield replace(layer, tensor=origin.tensor) if origin else layer


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


def _named(layer: Layer) -> str:
    return f"{layer.name} ({layer.tensor})" if layer.tensor not in ("", layer.name) else layer.name


def _lines(report: Report) -> Iterator[str]:
    n, h, w, c = report.shape
    yield f"{report.model}: ours against {report.peer} float32, input {n} x {h} x {w} x {c}"
    yield f"each layer is fed with {report.peer}'s own input; error / bound must not exceed 1"
    yield ""
    name = max(len(name) for name in ("layer", *map(_named, report.layers))) + 2
    yield (
        f"{'layer':<{name}}{'computed as':<13}{'shape':<16}{'max abs':>9}{'relative':>10}{'ulp':>7}"
        f"{'bound':>10}{'err/bound':>11}  worst pixel"
    )
    for layer in report.layers:
        shape = "x".join(map(str, layer.shape[1:]))
        bound = f"{layer.bound:.2e}" if layer.bound > EXACT else "exact"
        where = ", ".join(map(str, layer.worst)) if layer.ratio != 0 else "none"
        yield (
            f"{_named(layer):<{name}}{layer.way:<13}{shape:<16}{layer.abs_error:>9.2e}{layer.rel_error:>10.2e}"
            f"{layer.ulp:>7.3g}{bound:>10}{layer.ratio:>11.3g}  {where}"
            f"{'' if layer.passed else '  BROKEN'}"
        )
    yield ""
    yield from report.summary
    yield "PASS" if report.passed else "FAIL: " + "; ".join(report.failures)

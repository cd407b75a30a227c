"""A network as data: named nodes in order of evaluation, with shape inference and weights.

Tensors are (n, h, w, c) and named after the node that makes them; the input is ``"input"``, or each
of several has a name of its own.
Kernels are (kh, kw, c / groups, filters) for ``conv2d``, (kh, kw, c, multiplier) for
``depthwise_conv2d`` and (kh, kw, filters / groups, c) for ``conv2d_transpose``, as in Keras.
Everything in a node can be written as JSON, so a graph is read back from a file without running
code that the file names.
"""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn.ops import OPS, REQUIRED, Op, Shape, checked

__all__ = ["INPUT", "Graph", "Model", "Node", "Origin", "Shape"]

INPUT = "input"


@dataclass(frozen=True)
class Node:
    """One operation. Attributes are completed with their defaults and pairs become two-lists.

    Parameters
    ----------
    name : str
        Name of the node and of the tensor that it makes.
    op : str
        A key of `fcn.ops.OPS`.
    inputs : tuple of str
        Names of the tensors it reads. ``crop`` and ``resize2d`` (bilinear, half-pixel centres)
        read the tensor to change and the one whose height and width it shall have, as the Crop
        layer of Long, Shelhamer and Darrell (2015); ``concat`` joins the channels of all; ``add``
        and its like work on numbers at one place, and repeat an axis of size 1.
    attrs : dict
        Attributes of the operation, JSON-able.

    Raises
    ------
    ValueError
        For an unknown operation, a missing or unknown attribute, or a value out of range.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str) or self.name == INPUT:
            raise ValueError(f"node name {self.name!r}: use a non-empty string other than 'input'")
        if not isinstance(self.op, str) or self.op not in OPS:
            raise ValueError(f"{self.name}: unknown op {self.op!r}; known ops: {', '.join(OPS)}")
        object.__setattr__(self, "inputs", tuple(self.inputs))
        count, more, defaults = self.rule.inputs, self.rule.more, self.rule.attrs
        if len(self.inputs) != count and not (more and len(self.inputs) > count):
            number = f"at least {count}" if more else count
            raise ValueError(f"{self.where} reads {number} inputs, got {len(self.inputs)}")
        if unknown := sorted(self.attrs.keys() - defaults.keys()):
            raise ValueError(f"{self.where} has no attribute {unknown}; known: {sorted(defaults)}")
        attrs = {**defaults, **self.attrs}
        if missing := [key for key, value in attrs.items() if value is REQUIRED]:
            raise ValueError(f"{self.where} needs the attributes {missing}")
        with self.named_errors():
            attrs = {key: checked(self.op, key, value) for key, value in attrs.items()}
        object.__setattr__(self, "attrs", attrs)

    @property
    def rule(self) -> Op:
        """The row of its operation in `fcn.ops.OPS`."""
        return OPS[self.op]

    @property
    def where(self) -> str:
        """Name and operation, for messages."""
        return f"{self.name} ({self.op})"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the result for inputs of the given shapes; ValueError if they do not fit."""
        with self.named_errors():
            rows, cols = self.rule.size(self.attrs, inputs)
        channels = self.rule.channels(self.attrs, [shape[3] for shape in inputs])
        return inputs[0][0], rows, cols, channels

    def spacing(self, rows: Fraction, cols: Fraction) -> tuple[Fraction, Fraction]:
        """Input pixels from one pixel of the result to the next, given those of what it reads."""
        sh, sw = self.attrs.get("stride", (1, 1))
        if self.op == "conv2d_transpose":
            sh, sw = Fraction(1, sh), Fraction(1, sw)
        up, across = self.attrs.get("factor", (1, 1))
        return rows * sh / up, cols * sw / across

    @contextlib.contextmanager
    def named_errors(self) -> Iterator[None]:
        """Put the node before the message of a ValueError."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from None


@dataclass(frozen=True, init=False)
class Graph:
    """Nodes in order of evaluation, from the inputs to the outputs.

    Parameters
    ----------
    name : str
        Name of the architecture.
    inputs : int or mapping of str to int
        Channels of the input, which is the tensor ``"input"``; or, where there are several, the
        channels of each by its name.
    nodes : iterable of Node
        Every node comes after those it reads.
    outputs : str or mapping of str to str
        Name of the node whose tensor is the result; or, where there are several results, the node
        of each by its name.

    Raises
    ------
    ValueError
        For a duplicate name, an input that no earlier node makes, or an unknown output.
    """

    name: str
    inputs: dict[str, int]
    nodes: tuple[Node, ...]
    outputs: dict[str, str]

    def __init__(
        self,
        name: str,
        inputs: int | Mapping[str, int],
        nodes: Iterable[Node],
        outputs: str | Mapping[str, str],
    ) -> None:
        fields = {
            "name": name,
            "inputs": dict(inputs) if isinstance(inputs, Mapping) else {INPUT: inputs},
            "nodes": tuple(nodes),
            "outputs": dict(outputs) if isinstance(outputs, Mapping) else {outputs: outputs},
        }
        for key, value in fields.items():
            object.__setattr__(self, key, value)
        self._check()

    def _check(self) -> None:
        where = f"graph {self.name}"
        for channels in self.inputs.values():
            if type(channels) is not int or channels < 1:
                raise ValueError(f"{where}: channels is an integer >= 1: {channels!r}")
        if not self.inputs or (len(self.inputs) == 1 and INPUT not in self.inputs):
            raise ValueError(f"{where}: its only input is called {INPUT!r}: {list(self.inputs)}")
        known = set(self.inputs)
        for node in self.nodes:
            if node.name in known:
                raise ValueError(f"{where}: two nodes are named {node.name!r}")
            if missing := [name for name in node.inputs if name not in known]:
                raise ValueError(f"{node.where} reads {missing}, which no earlier node makes")
            known.add(node.name)
        for output in self.outputs.values():
            if output in self.inputs or output not in known:
                raise ValueError(f"{where}: the output {output!r} is not a node")
        if not self.outputs:
            raise ValueError(f"{where} has no output")

    @property
    def channels(self) -> int:
        """Channels of the input; ValueError if there are several inputs."""
        if len(self.inputs) > 1:
            raise ValueError(
                f"graph {self.name} reads {list(self.inputs)}, and this needs a network with one "
                "input; Session.run takes several"
            )
        return self.inputs[INPUT]

    @property
    def output(self) -> str:
        """The node whose tensor is the result; ValueError if there are several results."""
        if len(self.outputs) > 1:
            raise ValueError(
                f"graph {self.name} gives {list(self.outputs)}, and this needs a network with one "
                "output; Session.run gives several, and fcn.load(..., output=...) takes one"
            )
        return next(iter(self.outputs.values()))

    def node(self, name: str) -> Node:
        """The node of that name; KeyError lists the names there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"graph {self.name} has no node {name!r}: {[n.name for n in self.nodes]}")

    def shapes(self, *inputs: Shape) -> dict[str, Shape]:
        """Shape of every tensor, inputs included, for inputs of these shapes, in their order.

        Raises
        ------
        ValueError
            If the channels do not fit or a window is larger than what it slides over.
        """
        if len(inputs) != len(self.inputs):
            raise ValueError(f"graph {self.name} reads {list(self.inputs)}, got {len(inputs)}")
        for x, channels in zip(inputs, self.inputs.values(), strict=True):
            if len(x) != 4 or x[3] != channels or x[0] != inputs[0][0]:
                n = inputs[0][0] if x[:1] != inputs[0][:1] else "n"
                raise ValueError(
                    f"graph {self.name} reads ({n}, h, w, {channels}) arrays, got shape {tuple(x)}"
                )
        known = dict(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            known[node.name] = node.shape([known[name] for name in node.inputs])
        return known

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight: ``"conv1_1/kernel"``, ``"conv1_1/bias"``, in node order."""
        channels = dict(self.inputs)
        found: dict[str, tuple[int, ...]] = {}
        for node in self.nodes:
            read = [channels[name] for name in node.inputs]
            channels[node.name] = node.rule.channels(node.attrs, read)
            if node.rule.kernel is not None:
                with node.named_errors():
                    found[f"{node.name}/kernel"] = node.rule.kernel(node.attrs, read[0])
                if node.attrs["use_bias"]:
                    found[f"{node.name}/bias"] = (channels[node.name],)
            if node.attrs.get("activation") == "prelu":
                found[f"{node.name}/slopes"] = (channels[node.name],)
        return found

    @property
    def parameter_count(self) -> int:
        """How many numbers the weights hold."""
        return sum(math.prod(shape) for shape in self.parameters().values())

    @property
    def total_stride(self) -> int:
        """Input pixels between two neighbours in the coarsest tensor (32 in VGG16).

        An input whose height and width are multiples of it leaves no remainder in any pool.
        """
        scales = dict.fromkeys(self.inputs, (Fraction(1), Fraction(1)))
        for node in self.nodes:
            read = [scales[name] for name in node.inputs]
            followed = read[-1] if node.op in ("crop", "resize2d") else min(read)
            scales[node.name] = node.spacing(*followed)
        return math.ceil(max(max(pair) for pair in scales.values()))

    def to_json(self) -> str:
        """The graph as JSON text; `from_json` gives an equal graph."""
        nodes = [
            {"name": n.name, "op": n.op, "inputs": n.inputs, "attrs": n.attrs} for n in self.nodes
        ]
        (output, *others), plain = self.outputs.items(), len(self.inputs) == 1
        return json.dumps({
            "name": self.name,
            "channels": self.channels if plain else self.inputs,
            "output": self.outputs if others or output[0] != output[1] else output[0],
            "nodes": nodes,
        })  # fmt: skip

    @staticmethod
    def from_json(text: str) -> "Graph":
        """Read a graph from JSON text.

        Raises
        ------
        ValueError
            If the text is not JSON, lacks a field, or describes no valid graph.
        """
        try:
            data = json.loads(text)
            nodes = [
                Node(n["name"], n["op"], tuple(n["inputs"]), dict(n["attrs"]))
                for n in data["nodes"]
            ]
            return Graph(data["name"], data["channels"], nodes, data["output"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this JSON does not describe a graph: {error!r}") from error


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a node's result is found in the file that a model was read from.

    Attributes
    ----------
    tensor : str
        Layer of a Keras file, as ``outer/inner``, ``:1`` and so on behind it for later calls; or
        tensor of an ONNX file.
    folded : int
        How many layers, such as batch normalisations, have become part of the node's weights.
    summands : (filters,) float64 array, optional
        The sum of the absolute values of what has become the bias.
    """

    tensor: str
    folded: int = 0
    summands: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Model:
    """A graph with its weights and what is known about their origin.

    Parameters
    ----------
    graph : Graph
        The architecture.
    weights : mapping of str to float32 array
        One array for each entry of ``graph.parameters()``.
    meta : dict
        JSON-able facts: ``classes`` (names in label order), seed, command, training curve.
    origins : mapping of str to Origin
        For nodes of a model that was read from another program's file.

    Raises
    ------
    ValueError
        For missing, surplus or wrongly shaped weights.
    TypeError
        For weights that are not float32.
    """

    graph: Graph
    weights: Mapping[str, NDArray[np.float32]]
    meta: dict[str, Any] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted, got = self.graph.parameters(), self.weights
        if wanted.keys() != got.keys():
            raise ValueError(
                f"model {self.graph.name}: missing weights "
                f"{sorted(wanted.keys() - got.keys())}, surplus weights "
                f"{sorted(got.keys() - wanted.keys())}"
            )
        for name, shape in wanted.items():
            if got[name].shape != shape:
                raise ValueError(
                    f"model {self.graph.name}: {name} has shape {got[name].shape}, "
                    f"the graph needs {shape}"
                )
            if got[name].dtype != np.float32:
                raise TypeError(
                    f"model {self.graph.name}: {name} is {got[name].dtype}; "
                    f"convert it with .astype(np.float32)"
                )
        object.__setattr__(self, "weights", {k: np.ascontiguousarray(got[k]) for k in wanted})

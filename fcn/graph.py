"""A network as data: named nodes in order of evaluation, with shape inference and weights.

Tensors are (n, h, w, c) and named after the node that makes them; the input is ``"input"``.
Kernels are (kh, kw, c, filters) for ``conv2d`` and (kh, kw, filters, c) for ``conv2d_transpose``.
Everything in a node can be written as JSON, so a graph is read back from a file without running
code that the file names.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv import shapes

Shape = tuple[int, int, int, int]
INPUT = "input"
ACTIVATIONS = (None, "relu", "relu6")
REQUIRED = object()

# op -> number of inputs, attributes with their defaults
OPS: dict[str, tuple[int, dict[str, Any]]] = {
    "conv2d": (
        1,
        {
            "filters": REQUIRED,
            "kernel": REQUIRED,
            "stride": 1,
            "padding": "valid",
            "dilation": 1,
            "activation": None,
            "use_bias": True,
        },
    ),
    "conv2d_transpose": (
        1,
        {
            "filters": REQUIRED,
            "kernel": REQUIRED,
            "stride": 1,
            "padding": "valid",
            "use_bias": True,
        },
    ),
    "max_pool2d": (1, {"size": REQUIRED, "stride": REQUIRED, "padding": "valid"}),
    "add": (2, {}),
    "crop": (2, {"offset": [0, 0]}),
}


@dataclass(frozen=True)
class Node:
    """One operation. Attributes are completed with their defaults and pairs become two-lists.

    Parameters
    ----------
    name : str
        Name of the node and of the tensor that it makes.
    op : str
        A key of `OPS`.
    inputs : tuple of str
        Names of the tensors it reads. ``crop`` reads the tensor to crop and the one whose height
        and width it shall have, as the Crop layer of Long, Shelhamer and Darrell (2015).
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
        count, defaults = OPS[self.op]
        object.__setattr__(self, "inputs", tuple(self.inputs))
        if len(self.inputs) != count:
            raise ValueError(f"{self.where} reads {count} inputs, got {len(self.inputs)}")
        if unknown := sorted(self.attrs.keys() - defaults.keys()):
            raise ValueError(f"{self.where} has no attribute {unknown}; known: {sorted(defaults)}")
        attrs = {**defaults, **self.attrs}
        if missing := [key for key, value in attrs.items() if value is REQUIRED]:
            raise ValueError(f"{self.where} needs the attributes {missing}")
        object.__setattr__(self, "attrs", {k: self._checked(k, v) for k, v in attrs.items()})

    @property
    def where(self) -> str:
        """Name and operation, for messages."""
        return f"{self.name} ({self.op})"

    def _checked(self, key: str, value: Any) -> Any:
        """The attribute in its one stored form."""
        if key in ("kernel", "stride", "dilation", "size", "offset"):
            low = 0 if key == "offset" else 1
            pair = list(value) if isinstance(value, (list, tuple)) else [value, value]
            if len(pair) != 2 or any(type(v) is not int or v < low for v in pair):
                raise ValueError(f"{self.where}: {key} is one or two integers >= {low}: {value!r}")
            return pair
        if key == "filters" and (type(value) is not int or value < 1):
            raise ValueError(f"{self.where}: filters is an integer >= 1, got {value!r}")
        if key == "activation" and value not in ACTIVATIONS:
            raise ValueError(f"{self.where}: activation is one of {ACTIVATIONS}, got {value!r}")
        if key == "use_bias" and not isinstance(value, bool):
            raise ValueError(f"{self.where}: use_bias is True or False, got {value!r}")
        if key == "padding" and value not in ("valid", "same"):
            raise ValueError(f"{self.where}: padding is 'valid' or 'same', got {value!r}")
        return value


@dataclass(frozen=True)
class Graph:
    """Nodes in order of evaluation, from the tensor ``"input"`` to the one named `output`.

    Parameters
    ----------
    name : str
        Name of the architecture.
    channels : int
        Channels of the input.
    nodes : tuple of Node
        Every node comes after those it reads.
    output : str
        Name of the node whose tensor is the result.

    Raises
    ------
    ValueError
        For a duplicate name, an input that no earlier node makes, or an unknown output.
    """

    name: str
    channels: int
    nodes: tuple[Node, ...]
    output: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if type(self.channels) is not int or self.channels < 1:
            raise ValueError(f"graph {self.name}: channels is an integer >= 1: {self.channels!r}")
        known = {INPUT}
        for node in self.nodes:
            if node.name in known:
                raise ValueError(f"graph {self.name}: two nodes are named {node.name!r}")
            if missing := [name for name in node.inputs if name not in known]:
                raise ValueError(f"{node.where} reads {missing}, which no earlier node makes")
            known.add(node.name)
        if self.output == INPUT or self.output not in known:
            raise ValueError(f"graph {self.name}: the output {self.output!r} is not a node")

    def node(self, name: str) -> Node:
        """The node of that name; KeyError lists the names there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"graph {self.name} has no node {name!r}: {[n.name for n in self.nodes]}")

    def shapes(self, x: Shape) -> dict[str, Shape]:
        """Shape of every tensor, ``"input"`` included, for an input of shape `x`.

        Raises
        ------
        ValueError
            If the channels do not fit or a window is larger than what it slides over.
        """
        if len(x) != 4 or x[3] != self.channels:
            raise ValueError(
                f"graph {self.name} reads (n, h, w, {self.channels}) arrays, got shape {tuple(x)}"
            )
        known: dict[str, Shape] = {INPUT: x}
        for node in self.nodes:
            known[node.name] = node_shape(node, [known[name] for name in node.inputs])
        return known

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight: ``"conv1_1/kernel"``, ``"conv1_1/bias"``, in node order."""
        channels, found = {INPUT: self.channels}, {}
        for node in self.nodes:
            c = channels[node.inputs[0]]
            channels[node.name] = k = node.attrs.get("filters", c)
            if "filters" in node.attrs:
                last = (c, k) if node.op == "conv2d" else (k, c)
                found[f"{node.name}/kernel"] = (*node.attrs["kernel"], *last)
                if node.attrs["use_bias"]:
                    found[f"{node.name}/bias"] = (k,)
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
        scales = {INPUT: (Fraction(1), Fraction(1))}
        for node in self.nodes:
            rows, cols = scales[node.inputs[0]]
            sh, sw = node.attrs.get("stride", (1, 1))
            if node.op == "conv2d_transpose":
                sh, sw = Fraction(1, sh), Fraction(1, sw)
            scales[node.name] = (rows * sh, cols * sw)
        return math.ceil(max(max(pair) for pair in scales.values()))

    def to_json(self) -> str:
        """The graph as JSON text; `from_json` gives an equal graph."""
        nodes = [
            {"name": n.name, "op": n.op, "inputs": n.inputs, "attrs": n.attrs} for n in self.nodes
        ]
        return json.dumps(
            {"name": self.name, "channels": self.channels, "output": self.output, "nodes": nodes}
        )

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
            return Graph(data["name"], data["channels"], tuple(nodes), data["output"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this JSON does not describe a graph: {error!r}") from error


def node_shape(node: Node, inputs: list[Shape]) -> Shape:
    """Shape that `node` makes from inputs of the given shapes; ValueError if they do not fit."""
    attrs, (n, h, w, c) = node.attrs, inputs[0]
    if node.op == "add":
        if inputs[0] != inputs[1]:
            raise ValueError(f"{node.where}: shapes {inputs[0]} and {inputs[1]} differ")
        return inputs[0]
    if node.op == "crop":
        (top, left), (_, rows, cols, _) = attrs["offset"], inputs[1]
        if top + rows > h or left + cols > w:
            raise ValueError(
                f"{node.where}: no {rows} x {cols} pixels at offset {[top, left]} in {h} x {w}"
            )
        return n, rows, cols, c
    window = attrs.get("kernel") or attrs["size"]
    dilation, where = tuple(attrs.get("dilation", (1, 1))), f"{node.where} on shape {inputs[0]}"
    sizes = (h, w), tuple(window), tuple(attrs["stride"])
    if node.op == "conv2d_transpose":
        _, (rows, cols) = shapes.resolve_transpose_padding(
            attrs["padding"], *sizes, dilation, where
        )
    else:
        pads = shapes.resolve_padding(attrs["padding"], *sizes, dilation, where)
        rows, cols = map(shapes.conv_out, *sizes, pads, dilation)
    return n, rows, cols, attrs.get("filters", c)


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

"""A graph while it grows, for those who read other people's files.

Later layers may still change the nodes before them: batch normalisation is folded into a
convolution that nothing else reads, and zero padding and activations become attributes of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn.graph import INPUT, Graph, Node, Origin
from fcn.ops import ACTIVATIONS, CLAMPS

__all__ = ["NOT_FIXED", "Array", "Builder", "Parts", "Tensor", "choose_outputs", "scaled_kernel"]

Array = NDArray[Any]
Parts = tuple[Graph, dict[str, NDArray[np.float32]], dict[str, Origin]]  # of a `fcn.graph.Model`
MOST_NODES = 5000  # of nested models that call each other there could be any number
MOST_MADE = 1 << 24  # numbers that layers have by their settings alone, without an array
NOT_FIXED = "it needs a model whose input has a fixed height and width"
FOLDS = ("conv2d", "depthwise_conv2d", "conv2d_transpose")  # batch normalisation goes into these


def choose_outputs(names: Sequence[str], output: str | None) -> list[str]:
    """The outputs that are wanted: all, or the one that is named; ValueError if there is none."""
    if output is not None and output not in names:
        raise ValueError(f"the model has the outputs {list(names)}, not {output!r}")
    return list(names) if output is None else [output]


def scaled_kernel(node: Node, kernel: Array, factor: Array) -> NDArray[np.float32]:
    """The kernel of a convolution whose result is multiplied by one number for each channel."""
    if node.op == "depthwise_conv2d":
        factor = factor.reshape(kernel.shape[2:])
    elif node.op == "conv2d_transpose":  # the filters of a group, for each channel of that group
        by_group = factor.reshape(node.attrs["groups"], -1)
        factor = np.repeat(by_group.T, kernel.shape[3] // len(by_group), axis=1)
    return np.asarray(kernel * factor, np.float32)


@dataclass(frozen=True)
class Tensor:
    """What a layer has made.

    Attributes
    ----------
    node : str
        The tensor of the graph.
    channels : int
    sole : bool
        Whether only one layer reads the node, so that this layer may change it.
    vector : bool
        (n, c) in the file; here a map of one pixel.
    flat : (h, w, c), optional
        Shape of the map that the file flattens.
    """

    node: str
    channels: int
    sole: bool = True
    vector: bool = False
    flat: tuple[int, int, int] | None = None


class Builder:
    """Nodes and weights so far.

    Parameters
    ----------
    inputs : mapping of str to ((h, w) or None, int)
        Name of each input -> its height and width, where they are fixed, and its channels. An only
        one is called ``"input"`` here.
    """

    def __init__(self, inputs: Mapping[str, tuple[tuple[int, int] | None, int]]) -> None:
        named = inputs if len(inputs) > 1 else dict(zip([INPUT], inputs.values(), strict=True))
        self.sizes = {name: size for name, (size, _) in named.items()}
        self.channels = {name: channels for name, (_, channels) in named.items()}
        self.nodes: dict[str, Node] = {}
        self.weights: dict[str, Any] = {}
        self._shapes = {n: (1, *size, self.channels[n]) for n, size in self.sizes.items() if size}
        self._made = 0
        self._tensors: dict[str, str] = {}  # node -> the file's name of its result
        self._folded: dict[str, tuple[int, Any]] = {}  # node -> the rest of its `Origin`

    def add(self, name: str, op: str, inputs: Sequence[Tensor], **attrs: Any) -> Tensor:
        """Append a node; its channels follow from the table of operations."""
        if name in self.nodes:
            raise ValueError(f"two layers are named {name!r}")
        if len(self.nodes) == MOST_NODES:
            raise ValueError(f"the model has more than {MOST_NODES} layers, with all their calls")
        node = Node(name, op, tuple(t.node for t in inputs), attrs)
        self.nodes[name] = node
        if self.fixed:
            self._shapes[name] = node.shape([self._shapes[t.node] for t in inputs])
        return Tensor(name, node.rule.channels(node.attrs, [t.channels for t in inputs]))

    def change(self, name: str, **attrs: Any) -> None:
        """Other attributes for a node."""
        node = self.nodes[name]
        self.nodes[name] = replace(node, attrs={**node.attrs, **attrs})

    def computes(self, x: Tensor, tensor: str) -> None:
        """Note that `x` is what the file calls `tensor`."""
        self._tensors[x.node] = tensor

    def affine(self, name: str, x: Tensor, factor: Any, summand: Any, centre: Any = 0.0) -> Tensor:
        """``(x - centre) * factor + summand``, numbers or one number per channel."""
        self._made += x.channels
        if self._made > MOST_MADE:
            raise ValueError(f"{x.channels} channels are more than the file has numbers for")
        made = self.add(name, "depthwise_conv2d", [x], kernel=1)
        shape = (1, 1, x.channels, 1)
        self.weights[f"{name}/kernel"] = np.broadcast_to(factor, x.channels).reshape(shape)
        self._fold(made, factor, summand, centre)
        return replace(made, vector=x.vector)

    def _fold(self, x: Tensor, factor: Any, summand: Any, centre: Any) -> None:
        """The bias of ``(x - centre) * factor + summand``, and what it was before it was summed."""
        key = f"{x.node}/bias"
        given = self.weights.get(key, 0), factor, summand, centre
        bias, factor, summand, centre = (np.asarray(value, float) for value in given)
        count, summands = self._folded.get(x.node, (0, np.abs(bias)))
        summands = (summands + np.abs(centre)) * np.abs(factor) + np.abs(summand)
        self.weights[key] = np.broadcast_to((bias - centre) * factor + summand, x.channels)
        self._folded[x.node] = count + 1, np.broadcast_to(summands, x.channels)

    @property
    def inputs(self) -> list[Tensor]:
        """What the first layers read."""
        return [Tensor(name, channels, sole=False) for name, channels in self.channels.items()]

    @property
    def fixed(self) -> bool:
        """Whether the sizes of all tensors are known."""
        return None not in self.sizes.values()

    def shape_of(self, x: Tensor) -> tuple[int, int, int]:
        """Height, width and channels of a tensor."""
        if not self.fixed:
            raise ValueError(NOT_FIXED)
        return self._shapes[x.node][1:]

    def scaled(self, name: str, x: Tensor, factor: Any, summand: Any, centre: Any = 0.0) -> Tensor:
        """`affine`, inside the convolution before it where that can be."""
        node = self.nodes.get(x.node)
        if node is None or not x.sole or node.op not in FOLDS or node.attrs.get("activation"):
            return self.affine(name, x, factor, summand, centre)
        factor = np.broadcast_to(factor, x.channels)
        kernel = self.weights[f"{x.node}/kernel"]
        self.weights[f"{x.node}/kernel"] = scaled_kernel(node, kernel, factor)
        self._fold(x, factor, summand, centre)
        self.change(x.node, use_bias=True)
        return x

    def activated(
        self, name: str, x: Tensor, function: str | None, alpha: float | None = None
    ) -> Tensor:
        """An activation, or "softmax"; inside the node before it where that can be."""
        if function is None:
            return x
        node = self.nodes.get(x.node)
        able = CLAMPS if node is not None and node.op == "add" else ACTIVATIONS
        # a node that knows no activation counts as having one already
        free = node is not None and x.sole and node.attrs.get("activation", function) is None
        if free and function in able:
            more = {} if alpha is None else {"alpha": alpha}
            self.change(x.node, activation=function, **more)
            return x
        own = name if name not in self.nodes else f"{name}/{function}"
        if function == "softmax":
            made = self.add(own, "softmax", [x])
        else:
            made = self.add(own, "activation", [x], activation=function, alpha=alpha)
        return replace(made, vector=x.vector)

    def prelu(self, name: str, x: Tensor, slopes: Any) -> Tensor:
        """A slope for negative numbers of each channel, or one for all."""
        if np.ptp(slopes) == 0:
            return self.activated(name, x, "leaky_relu", float(slopes.flat[0]))
        y = self.activated(name, x, "prelu")
        self.weights[f"{y.node}/slopes"] = slopes
        return y

    def without_padding(self, x: Tensor) -> tuple[Tensor, list[list[int]] | None]:
        """What a node pads with zeros that only `x`'s reader wants, and how; the node goes."""
        node = self.nodes.get(x.node)
        if node is None or node.op != "pad2d" or not x.sole:
            return x, None
        del self.nodes[x.node]
        return replace(x, node=node.inputs[0]), node.attrs["sides"]

    def graph(self, name: str, outputs: Mapping[str, Tensor]) -> Parts:
        """What `outputs` depend on: the graph, its weights, and where its nodes come from.

        Raises
        ------
        ValueError
            If that is nothing, or a vector that no layer has reduced to numbers of a pixel.
        """
        ends = {key: x.node for key, x in outputs.items()}
        if self.channels.keys() & ends.values():
            raise ValueError("the model does nothing")
        if any(x.flat for x in outputs.values()):
            raise ValueError("the model ends in flattened numbers; leave that layer out")
        wanted = set(ends.values())
        for node in reversed(self.nodes.values()):
            if node.name in wanted:
                wanted.update(node.inputs)
        nodes = tuple(node for node in self.nodes.values() if node.name in wanted)
        (first, *others) = ends.values()
        graph = Graph(name, self.channels, nodes, ends if others else first)
        weights = {key: self.weights[key].astype(np.float32) for key in graph.parameters()}
        origins = {
            node.name: Origin(self._tensors[node.name], *self._folded.get(node.name, ()))
            for node in nodes
            if node.name in self._tensors
        }
        return graph, weights, origins

"""Whole networks of `fcn` as one step of a benchmark, and their nodes as `fastconv` specs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv import shapes
from fastconv.spec import Conv2d, ConvTranspose2d, Pool2d, Resize2d
from fcn import models
from fcn.fusion import reads
from fcn.graph import INPUT, Graph, Model, Node

Array = NDArray[Any]
Spec = Conv2d | ConvTranspose2d | Pool2d | Resize2d
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Operations:
    """What an engine makes of the nodes of a network, in functions of its own tensors.

    Attributes
    ----------
    window : function of (spec, *arrays)
        Gives the function of one tensor that computes a `Spec`.
    concat : function of several tensors
        Their channels side by side.
    add : function of two tensors
    relu : function of a tensor
    crop : function of (tensor, offset, size)
        `size` rows and columns from row and column `offset` on.
    """

    window: Callable[..., Callable[[Any], Any]]
    concat: Callable[..., Any]
    add: Callable[[Any, Any], Any]
    relu: Callable[[Any], Any]
    crop: Callable[..., Any]

    def of(self, node: Node, spec: Spec | None, arrays: tuple[Array, ...], out: Shape) -> Any:
        """The function of a node; NotImplementedError where there is none."""
        if spec is not None:
            return self.window(spec, *arrays)
        if node.op == "concat":
            return self.concat
        if node.op == "crop":
            return partial(self.crop, offset=node.attrs["offset"], size=out[1:3])
        if node.op == "add" and node.attrs["activation"] is None:
            return self.add
        if node.op == "add" and node.attrs["activation"] == "relu":
            return lambda x, y: self.relu(self.add(x, y))
        raise NotImplementedError(node.where)


@dataclass(frozen=True)
class Network:
    """All nodes of a graph for one input shape, with random weights.

    Attributes
    ----------
    graph : Graph
    x : (n, h, w, c)
    """

    graph: Graph
    x: Shape

    def __reduce__(self) -> tuple[Any, ...]:
        """Weights do not travel to other processes, which make the same ones if they need them."""
        return Network, (self.graph, self.x)

    @property
    def out(self) -> Shape:
        """Shape of the result."""
        return self.graph.shapes(self.x)[self.graph.output]

    @property
    def flops(self) -> int:
        """Of the convolutions by the direct algorithm."""
        filters = (spec for _, spec in self.specs() if isinstance(spec, Conv2d | ConvTranspose2d))
        return sum(spec.flops for spec in filters)

    @cached_property
    def model(self) -> Model:
        """The graph with its weights."""
        return Model(self.graph, models.initialise(self.graph, 1))

    def specs(self) -> Iterator[tuple[Node, Spec | None]]:
        """Every node and what it computes, nothing fused; None for what is no window operation."""
        known = self.graph.shapes(self.x)
        return ((node, _spec(node, known)) for node in self.graph.nodes)

    def steps(self) -> Iterator[tuple[Node, Spec | None, tuple[Array, ...]]]:
        """As `specs`, with the weights and the bias of those that have any."""
        for node, spec in self.specs():
            arrays: tuple[Array, ...] = ()
            if isinstance(spec, Conv2d | ConvTranspose2d):
                kernel = self.model.weights[f"{node.name}/kernel"]
                bias = self.model.weights.get(f"{node.name}/bias")
                zeros = np.zeros(spec.out[3], np.float32)
                arrays = kernel.reshape(spec.w), zeros if bias is None else bias
            yield node, spec, arrays

    def function(self, operations: Operations) -> Callable[[Any], Any]:
        """The network as a function of an engine's tensor."""
        known = self.graph.shapes(self.x)
        steps = [
            (node, operations.of(node, spec, arrays, known[node.name]))
            for node, spec, arrays in self.steps()
        ]

        def run(x: Any) -> Any:
            tensors = {INPUT: x}
            for node, function in steps:
                tensors[node.name] = function(*(tensors[name] for name in reads(node)))
            return tensors[self.graph.output]

        return run


def crop(x: Any, offset: tuple[int, int], size: tuple[int, int]) -> Any:
    """Some rows and columns of an (n, h, w, c) array of any library."""
    (top, left), (rows, cols) = offset, size
    return x[:, top : top + rows, left : left + cols]


def _spec(node: Node, known: dict[str, Shape]) -> Spec | None:
    x, out, attrs = known[node.inputs[0]], known[node.name], node.attrs
    if node.op == "resize2d":
        return Resize2d(x, out[1:3])
    if node.op not in ("conv2d", "depthwise_conv2d", "conv2d_transpose", "max_pool2d"):
        return None
    stride, dilation = (tuple(attrs.get(key, (1, 1))) for key in ("stride", "dilation"))
    window = tuple(attrs["size"] if node.op == "max_pool2d" else attrs["kernel"])
    how = attrs["padding"], x[1:3], window, stride, dilation, node.where
    if node.op == "max_pool2d":
        return Pool2d(x, "max", window, stride, shapes.resolve_padding(*how))
    if node.op == "conv2d_transpose":
        pad, out_hw = shapes.resolve_transpose_padding(*how)
        return ConvTranspose2d(x, (*window, out[3], x[3]), stride, pad, out_hw)
    groups = attrs.get("groups", x[3])
    w = (*window, x[3] // groups, out[3])
    return Conv2d(x, w, stride, shapes.resolve_padding(*how), dilation, groups, attrs["activation"])

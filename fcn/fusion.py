"""Which nodes run as one step, so that what lies between them never reaches memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fcn.graph import Graph, Node, Shape

__all__ = ["Group", "groups"]


@dataclass(frozen=True)
class Group:
    """A node, and the one behind it that its plan does as well.

    Attributes
    ----------
    node : Node
    then : Node or None
        Behind a convolution its 2x2 max-pool or the sum with a residual, behind a transposed one
        the crop of what it upsampled too far.
    """

    node: Node
    then: Node | None = None

    @property
    def last(self) -> Node:
        """The node whose tensor is the result."""
        return self.then or self.node

    @property
    def residual(self) -> str | None:
        """The tensor that is added to the convolution."""
        if self.then is None or self.then.op != "add":
            return None
        return next(name for name in self.then.inputs if name != self.node.name)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors whose numbers are read."""
        read = reads(self.node)
        return read if self.residual is None else (*read, self.residual)


def reads(node: Node) -> tuple[str, ...]:
    """The tensors whose numbers a node reads; of the other ones it wants the size."""
    return node.inputs[:1] if node.op in ("crop", "resize2d") else node.inputs


def groups(graph: Graph, shapes: Mapping[str, Shape]) -> Iterator[Group]:
    """The nodes that the outputs depend on, in groups, each in the place of its last node.

    Parameters
    ----------
    graph : Graph
    shapes : mapping of tensor name to shape
        As `Graph.shapes` gives it.
    """
    wanted = set(graph.outputs.values())
    for node in reversed(graph.nodes):
        if node.name in wanted:
            wanted.update(reads(node))
    nodes = [node for node in graph.nodes if node.name in wanted]
    readers = Counter(name for node in nodes for name in reads(node))
    readers.update(graph.outputs.values())
    known: dict[str, Node] = {}
    heads: dict[str, Node] = {}  # of the group that each node ends
    for node in nodes:
        for name in reversed(reads(node)):  # of a sum the convolution that comes last
            head = known.get(name)
            if head is None or readers[name] > 1 or not _joins(head, node, shapes):
                continue
            # A skip's convolution does not wait for the other summand: its input, which goes on
            # into the network, would have to be kept for it, and is larger than its result.
            if node.op != "add" or readers[head.inputs[0]] == 1:
                heads[node.name] = head
                break
        known[node.name] = node
    inside = {head.name for head in heads.values()}
    for node in nodes:
        if node.name not in inside:
            head = heads.get(node.name)
            yield Group(node) if head is None else Group(head, node)


def _joins(head: Node, node: Node, shapes: Mapping[str, Shape]) -> bool:
    """Whether the plan of `head`, which only `node` reads, does what `node` does as well."""
    (_, h, w, _), (_, rows, cols, _) = shapes[head.name], shapes[node.name]
    if node.op == "max_pool2d" and head.op == "conv2d":
        # 2x2 windows with stride 2 that never leave the image; explicit padding would shift them
        named = isinstance(node.attrs["padding"], str)
        halves = node.attrs["size"] == node.attrs["stride"] == [2, 2]
        return halves and named and 2 * rows <= h and 2 * cols <= w
    if node.op == "add" and head.op == "conv2d":
        pair = len(node.inputs) == 2 and shapes[node.inputs[0]] == shapes[node.inputs[1]]
        return pair and head.attrs["activation"] is None
    return node.op == "crop" and head.op == "conv2d_transpose" and node.inputs[0] == head.name

"""Cut an image into tiles whose results have the bits of the whole.

A tile is a part of the input on which the same network runs. Its outer pixels see zeros where the
image goes on, so only an inner part of its result is kept: that whose receptive field lies inside
the tile. Both begin and end where no rounding can change:

* a tile begins at a multiple of the *alignment*, the least common multiple, over all layers, of
  their stride in input pixels times the side of a Winograd tile, so that strides and Winograd tiles
  fall on the same pixels as in the whole image;
* its length leaves the same remainder as the image's, so that "same" padding is the same, and tiles
  at the far end still begin at such a multiple;
* every convolution runs the algorithm that it would run on the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

import fastconv
from fastconv import shapes
from fcn.graph import INPUT, Graph, Node, Shape

__all__ = ["Cut", "algorithms", "alignment", "cuts", "tile_length"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """One tile along an axis.

    Attributes
    ----------
    start : int
        Its first input pixel.
    low, high : int
        Pixels of the whole result that are taken from it, ``low <= i < high``.
    offset : int
        Where pixel `low` lies in the tile's own result.
    """

    start: int
    low: int
    high: int
    offset: int


def algorithms(graph: Graph, shape: Shape, pools: Mapping[str, Node]) -> dict[str, str]:
    """What "auto" chooses for each convolution on an input of that shape.

    Parameters
    ----------
    graph : Graph
    shape : (n, h, w, c)
    pools : mapping
        As `fcn.session.fusable` gives it.
    """
    known, found = graph.shapes(shape), {}
    for node in graph.nodes:
        if node.op == "conv2d":
            x = known[node.inputs[0]]
            keys = ("stride", "padding", "dilation", "groups", "activation", "alpha")
            options = {key: node.attrs[key] for key in keys}
            assert node.rule.kernel is not None  # as every convolution has
            kernel = node.rule.kernel(node.attrs, x[3])
            found[node.name] = fastconv.choose_algorithm(
                x, kernel, pool=node.name in pools, **options
            )
    return found


def scales(graph: Graph) -> dict[str, tuple[Fraction, Fraction]]:
    """Input pixels from one pixel of a tensor to the next.

    Raises
    ------
    ValueError
        For a layer whose result depends on more than a neighbourhood.
    """
    found = {INPUT: (Fraction(1), Fraction(1))}
    for node in graph.nodes:
        _check(node)
        read = {found[name] for name in (node.inputs[:1] if node.op == "crop" else node.inputs)}
        if len(read) > 1:
            raise ValueError(
                f"{node.where} cannot be cut into tiles exactly: what it reads has several strides"
            )
        found[node.name] = node.spacing(*read.pop())
    return found


def _check(node: Node) -> None:
    if node.op.startswith("global_"):
        reason = "its result depends on every pixel"
    elif node.op in ("resize2d", "resize2d_to"):
        reason = "where its pixels lie depends on the size of the whole"
    elif node.attrs.get("method") == "bilinear" and any(f & (f - 1) for f in node.attrs["factor"]):
        reason = f"its weights are rounded where the factor {node.attrs['factor']} is no power of 2"
    else:
        return
    raise ValueError(f"{node.where} cannot be cut into tiles exactly: {reason}")


def alignment(graph: Graph, chosen: Mapping[str, str]) -> tuple[int, int]:
    """What the rows and columns at which tiles begin are multiples of."""
    units: list[list[Fraction]] = [[Fraction(1)], [Fraction(1)]]
    found = scales(graph)
    for node in graph.nodes:
        for axis in (0, 1):
            scale = found[node.name][axis]
            units[axis] += [scale, scale * _side(node, chosen.get(node.name, "direct"), axis)]
    rows, cols = (math.lcm(*(unit.numerator for unit in along)) for along in units)
    return rows, cols


def _side(node: Node, algorithm: str, axis: int) -> int:
    """Pixels of the result from one Winograd tile to the next; 1 where there are none.

    Of a dilated convolution, the tiles of its interleaved parts begin together.
    """
    if algorithm == "direct":
        return 1
    dilation: int = node.attrs["dilation"][axis]
    return int(algorithm.removeprefix("winograd_f")) * dilation


def tile_length(size: int, wanted: int, unit: int) -> int:
    """The largest length of at most `wanted` (but at least a unit) that tiles may have."""
    if size <= wanted:
        return size
    rest = size % unit
    return min(max((wanted - rest) // unit, 1) * unit + rest, size)


def cuts(
    graph: Graph, whole: Shape, tile: Shape, unit: int, axis: int, chosen: Mapping[str, str]
) -> list[Cut]:
    """Tiles along one axis whose parts make up the whole result.

    Parameters
    ----------
    graph : Graph
    whole, tile : (n, h, w, c)
        Shapes of the input.
    unit : int
        `alignment` of this axis.
    axis : 0 or 1
        Rows or columns.
    chosen : mapping
        Convolution -> algorithm.

    Raises
    ------
    ValueError
        If nothing is left of a tile once its border is cut off.
    """
    size, length = whole[axis + 1], tile[axis + 1]
    results = graph.shapes(whole)[graph.output][axis + 1]
    if size == length:
        return [Cut(0, 0, results, 0)]
    inside = graph.shapes(tile)
    count = inside[graph.output][axis + 1]
    low, high = _reach(graph, inside, np.arange(count), axis, chosen)
    bad = np.flatnonzero(low < 0)
    first = int(bad[-1]) + 1 if len(bad) else 0  # the first that sees nothing before the tile
    bad = np.flatnonzero(high > length)
    last = int(bad[0]) if len(bad) else count  # the first that sees something behind it
    scale = scales(graph)[graph.output][axis]
    found: list[Cut] = []
    done, start = 0, 0
    while True:
        here = int(start / scale)  # the pixel of the whole result that the tile's first one is
        end = results if start + length == size else here + last
        if end <= done or done < here + (first if start else 0):
            raise ValueError(
                f"tiles of {length} pixels are too small for {graph.name}, whose border is {first} "
                f"and {count - last} pixels of the result wide and begins at multiples of {unit}; "
                f"use larger ones, of {math.ceil((first + count - last) * scale) + 2 * unit}"
            )
        found.append(Cut(start, done, end, done - here))
        if end == results:
            return found
        done = end
        reached = int((done - first) * scale) // unit * unit
        start = min(max(reached, start), size - length)


def _reach(
    graph: Graph, known: Mapping[str, Shape], pixels: Ints, axis: int, chosen: Mapping[str, str]
) -> tuple[Ints, Ints]:
    """For each pixel of the result, the first input pixel that it depends on and that behind it.

    What Winograd's algorithm rounds depends on all that a tile reads, not only on the taps.
    """
    reads = {graph.output: (pixels, pixels + 1)}
    for node in reversed(graph.nodes):
        if node.name not in reads:
            continue
        inputs = node.inputs[:1] if node.op == "crop" else node.inputs
        low, high = reads[node.name]
        side = _side(node, chosen.get(node.name, "direct"), axis)
        first, behind = low // side * side, -(-high // side) * side
        for name in inputs:
            low, high = _back(node, known, axis, first, behind)
            if name in reads:
                low, high = np.minimum(low, reads[name][0]), np.maximum(high, reads[name][1])
            reads[name] = low, high
    return reads[INPUT]


def _back(
    node: Node, known: Mapping[str, Shape], axis: int, low: Ints, high: Ints
) -> tuple[Ints, Ints]:
    """Pixels ``low <= i < high`` of a node's result, as those of its input."""
    attrs = node.attrs
    if node.op == "conv2d_transpose":
        stride = attrs["stride"][axis]
        reach = (attrs["kernel"][axis] - 1) * attrs["dilation"][axis]
        pads: Any = shapes.resolve_transpose_padding(
            attrs["padding"], known[node.inputs[0]][1:3], tuple(attrs["kernel"]),
            tuple(attrs["stride"]), tuple(attrs["dilation"]), "padding",
        )[0]  # fmt: skip
        before = pads[axis][0]
        return -((reach - before - low) // stride), (high - 1 + before) // stride + 1
    if "stride" in attrs:
        window = "kernel" if "kernel" in attrs else "size"
        kernel, stride = attrs[window][axis], attrs["stride"][axis]
        dilation = attrs.get("dilation", [1, 1])
        pads = shapes.resolve_padding(
            attrs["padding"], known[node.inputs[0]][1:3], tuple(attrs[window]),
            tuple(attrs["stride"]), tuple(dilation), "padding",
        )  # fmt: skip
        first = low * stride - pads[axis][0]
        last = (high - 1) * stride - pads[axis][0] + (kernel - 1) * dilation[axis]
        return first, last + 1
    if node.op == "upsample2d":
        factor = attrs["factor"][axis]
        border = 1 if attrs["method"] != "nearest" else 0
        return low // factor - border, (high - 1) // factor + 1 + border
    offset = 0
    if node.op == "crop":
        offset = attrs["offset"][axis]
    elif node.op == "trim2d":
        offset = attrs["sides"][axis][0]
    elif node.op == "pad2d":
        offset = -attrs["sides"][axis][0]
    return low + offset, high + offset

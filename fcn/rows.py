"""Which rows of its inputs a step reads for some rows of its result.

With these, a network runs over bands of an image without computing a row twice (`fcn.bands`): a
step is given the rows that it reads, and zeros only where the whole image has zeros, so that the
bits are those of the whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fastconv import shapes
from fcn.fusion import Group
from fcn.graph import Node, Shape
from fcn.ops import transposed

__all__ = ["RESIZES", "Band", "band", "unit", "wants_all", "whole"]

RESIZES = ("resize2d", "resize2d_to", "upsample2d")
SHIFTS = ("crop", "trim2d", "pad2d")
Rows = tuple[int, int]  # the first, and the one behind the last


@dataclass(frozen=True)
class Band:
    """Some rows of the result of a step, and what it needs for them.

    Attributes
    ----------
    rows : (int, int)
        The first row of the result, and the one behind the last.
    reads : tuple of (int, int)
        Rows of each of ``group.inputs``.
    pad : (int, int)
        Rows of zeros above and below them; for a transposed convolution rows to crop from what
        they give.
    """

    rows: Rows
    reads: tuple[Rows, ...]
    pad: Rows = (0, 0)


def band(group: Group, known: Mapping[str, Shape], low: int, high: int) -> Band:
    """The band ``low <= row < high``, which is not empty, of a step's result.

    Parameters
    ----------
    group : Group
    known : mapping of tensor name to shape
        Of the whole image.
    low, high : int
        `low` is a multiple of `unit`, `high` too unless it is the end.
    """
    node, rows, height = group.node, (low, high), known[group.node.inputs[0]][1]
    end = high == known[group.last.name][1]
    if group.then is not None and group.then.op == "max_pool2d":
        low, high = 2 * low, 2 * high
    elif group.then is not None and group.then.op == "crop":
        top = group.then.attrs["offset"][0]
        low, high = low + top, high + top
    if wants_all(node) or not height:
        return Band(rows, tuple((0, known[name][1]) for name in group.inputs))
    if node.op == "conv2d_transpose":
        first, pad = _spread(node, known, low, high)
    elif "stride" in node.attrs:
        first, pad = _slide(node, known, low, high, end)
    elif node.op in RESIZES:
        first, pad = _interpolated(node, height, known[node.name][1], low, high), (0, 0)
    else:
        first, pad = _shifted(node, height, low, high)
    others = (rows if known[name][1] > 1 else (0, 1) for name in group.inputs[1:])
    return Band(rows, (first, *others), pad)


def whole(group: Group, known: Mapping[str, Shape]) -> Band:
    """All rows of a step's result, from all rows of its inputs, those that it needs not, too."""
    found = band(group, known, 0, known[group.last.name][1])
    (first, last), height = found.reads[0], known[group.node.inputs[0]][1]
    more = 1 if group.node.op in SHIFTS else 0  # rows of the result that a row more would make
    if group.node.op == "conv2d_transpose":
        more = -group.node.attrs["stride"][0]
    pad = found.pad[0] - more * first, found.pad[1] - more * (height - last)
    return Band(found.rows, tuple((0, known[name][1]) for name in group.inputs), pad)


def unit(group: Group, algorithm: str) -> int:
    """What the first row of a band is a multiple of: there Winograd tiles and windows begin.

    Of a dilated convolution, the tiles of its interleaved parts begin together.
    """
    node = group.node
    winograd = re.match(r"winograd_f(\d+)", algorithm)
    if winograd is None:
        return 1
    side = int(winograd[1]) * int(node.attrs["dilation"][0])
    pooled = group.then is not None and group.then.op == "max_pool2d"
    return math.lcm(side, 2) // 2 if pooled else side


def wants_all(node: Node) -> bool:
    """Whether every number depends on all rows."""
    return node.op.startswith("global_")


def _slide(
    node: Node, known: Mapping[str, Shape], low: int, high: int, end: bool
) -> tuple[Rows, Rows]:
    attrs, height = node.attrs, known[node.inputs[0]][1]
    window = tuple(attrs["kernel" if "kernel" in attrs else "size"])
    stride, dilation = tuple(attrs["stride"]), tuple(attrs.get("dilation", (1, 1)))
    hw = known[node.inputs[0]][1:3]
    before = shapes.resolve_padding(attrs["padding"], hw, window, stride, dilation, node.op)[0][0]
    first = low * stride[0] - before
    last = (high - 1) * stride[0] - before + (window[0] - 1) * dilation[0] + 1
    # At the end all rows are read, as in the whole image, where a stride may leave some over.
    reads = max(first, 0), height if end else min(last, height)
    return reads, (max(-first, 0), max(last - height, 0))


def _spread(node: Node, known: Mapping[str, Shape], low: int, high: int) -> tuple[Rows, Rows]:
    attrs, hw = node.attrs, known[node.inputs[0]][1:3]
    step, reach = attrs["stride"][0], (attrs["kernel"][0] - 1) * attrs["dilation"][0]
    pads, _ = transposed(attrs, hw)
    low, high = low + pads[0][0], high + pads[0][0]  # of what is not cropped
    first = max(min(-((reach - low) // step), low // step), 0)
    first, last = min(first, hw[0] - 1), min((high - 1) // step + 1, hw[0])
    full = (last - 1 - first) * step + reach + 1
    return (first, last), (low - first * step, first * step + full - high)


def _interpolated(node: Node, height: int, resized: int, low: int, high: int) -> Rows:
    """The pixels around the positions of the first and the last row, as many as bicubic reads."""
    around = (1, 3) if node.attrs.get("method") == "bicubic" else (0, 2)
    first, last = (
        int(above // below)
        for above, below in (
            shapes.resize_source(i, height, resized, "half_pixel") for i in (low, high - 1)
        )
    )
    return min(max(first - around[0], 0), height - 1), max(min(last + around[1], height), 1)


def _shifted(node: Node, height: int, low: int, high: int) -> tuple[Rows, Rows]:
    """Operations on numbers at one place, and those that add or leave out rows."""
    offset = 0
    if node.op == "crop":
        offset = node.attrs["offset"][0]
    elif node.op == "trim2d":
        offset = node.attrs["sides"][0][0]
    elif node.op == "pad2d":
        offset = -node.attrs["sides"][0][0]
    low, high = low + offset, high + offset
    if height == 1 and node.op not in SHIFTS:
        return (0, 1), (0, 0)  # repeated, for a sum with a larger one
    reads = min(max(low, 0), height), min(max(high, 0), height)
    return reads, (max(-low, 0), max(high - height, 0))

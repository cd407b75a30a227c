"""Sums and their like, channels side by side, and images in a frame: programs."""

import math
from collections.abc import Sequence

import numpy as np

from fastconv.cuda import kernels, pointwise
from fastconv.cuda.program import Program, Step, check_sizes, tasks

Shape = tuple[int, ...]
DTYPE = "float32"  # which networks have between their layers


def together(op: str, inputs: Sequence[Shape], shape: Shape, clamp: tuple[float, float]) -> Program:
    """Arrays "x0", "x1" and so on, number by number, from left to right.

    Parameters
    ----------
    op : str
        One of `pointwise.PAIRS`, or "average".
    inputs : sequence of shapes
        Axes of size 1 are repeated.
    shape : tuple of int
        Of the result.
    clamp : (float, float)
        Ends of the interval into which results are brought.
    """
    check_sizes(op, *inputs, shape)
    *_, rows, cols, channels = shape
    last = len(inputs) - 1
    steps = []
    for i in range(1, len(inputs)):
        first = inputs[0] if i == 1 else shape
        whole = all(s[3] == channels for s in (first, inputs[i]))
        unit = 4 if whole and channels % 4 == 0 else 1
        (kernel,) = kernels.find("pair", DTYPE, unit=unit)
        count = math.prod(shape) // unit
        low, high = clamp if i == last else (-math.inf, math.inf)
        constants = {
            "kind": pointwise.PAIRS.index("add" if op == "average" else op),
            "divisor": float(len(inputs)) if op == "average" and i == last else 1.0,
            "low": low, "high": high, "c": channels, "oh": rows, "ow": cols, "count": count,
            **_strides("x", first, shape), **_strides("add", inputs[i], shape),
        }  # fmt: skip
        buffers = {"x": "x0" if i == 1 else "out", "add": f"x{i}", "y": "out"}
        steps.append(Step(kernel, tasks(op, count, kernel), constants, buffers))
    return Program("direct", tuple(steps), {}, np.empty(0))


def _strides(name: str, x: Shape, shape: Shape) -> dict[str, int]:
    """Numbers from one element to the next along each axis; 0 where it is repeated."""
    parts = ("image", "row", "col", "channel")
    return {
        f"{name}_{part}": math.prod(x[axis + 1 :]) if x[axis] == shape[axis] else 0
        for axis, part in enumerate(parts)
    }


def concat(inputs: Sequence[Shape], shape: Shape) -> Program:
    """Channels of "x0", "x1" and so on side by side."""
    ends = np.cumsum([s[3] for s in inputs])
    steps = [
        _place("concat", f"x{i}", x, shape, int(end) - x[3], (0, 0))
        for i, (x, end) in enumerate(zip(inputs, ends, strict=True))
        if math.prod(x)
    ]
    return Program("direct", tuple(steps), {}, np.empty(0))


def place(x: Shape, shape: Shape, corner: tuple[int, int]) -> Program:
    """Images "x0" in a frame of zeros, whose first pixel is at `corner`; outside they are cut."""
    return Program("direct", (_place("place", "x0", x, shape, 0, corner),), {}, np.empty(0))


def _place(op: str, name: str, x: Shape, shape: Shape, at: int, corner: tuple[int, int]) -> Step:
    check_sizes(op, x, shape)
    (n, height, width, c), (_, oh, ow, channels) = x, shape
    unit = 1 if any(count % 4 for count in (c, channels, at)) else 4
    (kernel,) = kernels.find("place", DTYPE, unit=unit)
    count = n * oh * ow * c // unit
    constants = {
        "height": height, "width": width, "c": c, "oh": oh, "ow": ow, "channels": channels,
        "at": at, "top": corner[0], "left": corner[1], "count": count,
    }  # fmt: skip
    return Step(kernel, tasks(op, count, kernel), constants, {"x": name, "y": "out"})

"""What a network does on a GPU between its convolutions, and memory that its arrays stay in.

The functions take float32 arrays of the host, too, as all operations do.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv.arrays import check_array, into
from fastconv.gpu import GpuArray
from fastconv.plan import backend

__all__ = ["arena", "concat", "find", "place", "together"]

FLOAT = np.dtype(np.float32)


def arena(device: str, sizes: Sequence[int]) -> Any:
    """Places of so many bytes for arrays on a GPU; see `fastconv.cuda.arena.Arena`.

    Raises
    ------
    DeviceError
        The device cannot be used.
    MemoryError
        They do not fit.
    """
    return backend(device, "arena").arena(sizes)


def find(x: Any, op: str) -> GpuArray | None:
    """An array on a GPU, (n, h, w, c) float32; None for one of the host."""
    found = GpuArray.find(x, "x", op)
    if found is not None:
        check_array(found, "x", op, dtype=FLOAT.name)
    return found


def together(
    op: str, inputs: Sequence[Any], *, device: str, out: Any = None,
    clamp: tuple[float, float] = (-math.inf, math.inf),
) -> Any:  # fmt: skip
    """Arrays, number by number, from left to right; axes of size 1 are repeated.

    Parameters
    ----------
    op : "add", "subtract", "multiply", "average", "maximum" or "minimum"
        Where a number is NaN, so is what comes out.
    inputs : two or more (n, h, w, c) arrays
    device, out
        As in `conv2d`.
    clamp : (float, float)
        Ends of the interval into which results are brought.
    """
    arrays = [check_array(x, "x", op, dtype=FLOAT.name) for x in inputs]
    shapes = [x.shape for x in arrays]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"{op}: shapes {' and '.join(map(str, shapes))} differ") from None
    executor = backend(device, op).plan_together(op, shapes, shape, clamp)
    return _run(executor, arrays, shape, out, op)


def concat(inputs: Sequence[Any], *, device: str, out: Any = None) -> Any:
    """The channels of (n, h, w, c) arrays side by side.

    Parameters
    ----------
    inputs : arrays of the same n, h and w
    device, out
        As in `conv2d`.
    """
    op = "concat"
    arrays = [check_array(x, "x", op, dtype=FLOAT.name) for x in inputs]
    shapes = [x.shape for x in arrays]
    if len({shape[:3] for shape in shapes}) != 1:
        raise ValueError(f"{op}: shapes {' and '.join(map(str, shapes))} differ")
    shape = (*shapes[0][:3], sum(s[3] for s in shapes))
    return _run(backend(device, op).plan_concat(shapes, shape), arrays, shape, out, op)


def place(
    x: Any, size: tuple[int, int], *, top: int, left: int, device: str, out: Any = None
) -> Any:
    """Images in a frame of zeros, or a part of them.

    Parameters
    ----------
    x : (n, h, w, c) array
    size : (height, width)
        Of the frame.
    top, left : int
        Where the first pixel of `x` lies in it; negative if it lies outside.
    device, out
        As in `conv2d`.
    """
    op = "place"
    array = check_array(x, "x", op, dtype=FLOAT.name)
    shape = (array.shape[0], *size, array.shape[3])
    executor = backend(device, op).plan_place(array.shape, shape, (top, left))
    return _run(executor, [array], shape, out, op)


def _run(executor: Any, arrays: list[Any], shape: tuple[int, ...], out: Any, op: str) -> Any:
    def run(*given: Any) -> None:
        *inputs, target = given
        executor.compute({f"x{i}": x for i, x in enumerate(inputs)}, {"out": target})

    return into(out, shape, FLOAT, arrays, op, run, executor.gpu)

"""Pools, resizes, argmax and softmax: programs of the kernels that make them."""

import math
from typing import Any

import numpy as np

from fastconv.axes import Axis, axes
from fastconv.cuda import channels, kernels, reduction
from fastconv.cuda.kernels import Kernel
from fastconv.cuda.program import (
    Program,
    Stage,
    Step,
    blocks,
    chain,
    check_dtype,
    check_sizes,
    tasks,
)
from fastconv.dtypes import label_dtype
from fastconv.spec import ChannelOp, Pool2d, Resize2d

TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}


def windows(spec: Pool2d | Resize2d) -> list[Stage]:
    """A pool or a resize."""
    if isinstance(spec, Resize2d):
        return [resize(spec)]
    return _global_pool(spec) if _whole(spec) else [pool(spec)]


def pool(spec: Pool2d) -> Stage:
    """A pool of any windows, each by one thread."""
    check_dtype(spec.op, spec.dtype)
    if spec.kind == "max":
        rows = kernels.find("max", spec.dtype, part=2 if spec.size == (2, 2) else 0)
        kernel = _widest(rows, spec.x[3])
        return _stage(spec.op, spec, kernel, _window(spec, kernel))
    kernel = _widest(kernels.find("avg", spec.dtype), spec.x[3])
    constants = _window(spec, kernel)
    for name, axis in zip(("row", "col"), axes(spec, repeat=False), strict=True):
        constants[f"{name}_counts"] = axis.divisors.astype(np.float32)
    return _stage(spec.op, spec, kernel, constants)


def _whole(spec: Pool2d) -> bool:
    """Whether the one window covers the map, which has more pixels than one thread should read."""
    (_, height, width, _), (top, left) = spec.x, (before for before, _ in spec.pad)
    covered = spec.size[0] - top >= height and spec.size[1] - left >= width
    return (
        spec.out[1:3] == spec.dilation == (1, 1) and covered and height * width > reduction.SERIAL
    )


def _global_pool(spec: Pool2d) -> list[Stage]:
    """A pool of the whole map: of slices, if it is large, and of what they give."""
    check_dtype(spec.op, spec.dtype)
    check_sizes(spec.op, spec.x)
    n, height, width, c = spec.x
    down, across = axes(spec, repeat=False)
    divisor = float(down.divisors[0] * across.divisors[0])
    between = "float32" if spec.kind == "avg" else spec.dtype
    kernel = _reduction(spec.kind, spec.dtype, between, c)
    slices = reduction.slices(height * width, c, kernel.unit)
    stages = []
    if slices > 1:
        stages.append(_reduce(kernel, n, height * width, c, slices, 1.0))
    last = _reduction(spec.kind, between if stages else spec.dtype, spec.dtype, c)
    stages.append(_reduce(last, n, slices if stages else height * width, c, 1, divisor))
    return stages


def _reduction(kind: str, dtype: str, result: str, c: int) -> Kernel:
    return _widest(kernels.find(f"global_{kind}", dtype, result=result), c)


def _reduce(kernel: Kernel, n: int, pixels: int, c: int, slices: int, divisor: float) -> Stage:
    """One result of each slice of the pixels."""
    across = reduction.across(c, kernel.unit)
    groups = -(-c // (across * kernel.unit))
    constants = {
        "c": c, "pixels": pixels, "slices": slices, "length": -(-pixels // slices),
        "across": across, "groups": groups, "divisor": divisor,
    }  # fmt: skip
    grid = blocks(kernel.algorithm, n * slices * groups)
    shape = (n, slices, 1, c)
    return Stage(lambda x, y: Step(kernel, grid, constants, {"x": x, "y": y}), shape, kernel.result)


def pool_with_indices(spec: Pool2d) -> Program:
    """A max-pool that also tells where each maximum is."""
    check_dtype(spec.op, spec.dtype)
    check_sizes(spec.op, spec.x, spec.out)
    (kernel,) = kernels.find("max_indices", spec.dtype)
    constants = _window(spec, kernel)
    buffers = {"x": "x", "y": "out", "indices": "indices"}
    step = Step(kernel, tasks(spec.op, constants["count"], kernel), constants, buffers)
    return Program("direct", (step,), {}, np.empty(0))


def resize(spec: Resize2d) -> Stage:
    """A change of height and width."""
    check_dtype("resize2d", spec.dtype)
    taps = TAPS[spec.method]
    kernel = _widest(kernels.find("resize", spec.dtype, part=taps), spec.x[3])
    constants = _sizes(spec, kernel)
    for name, axis in zip(("row", "col"), axes(spec, repeat=False), strict=True):
        constants[f"{name}_taps"], constants[f"{name}_weights"] = _even(axis, taps)
    return _stage("resize2d", spec, kernel, constants)


def channel_op(spec: ChannelOp, label: np.dtype[np.integer] | None = None) -> Stage:
    """An argmax with labels of a type, or a softmax."""
    check_dtype(spec.kind, spec.dtype)
    result = spec.dtype if label is None else label.name
    check_sizes(spec.kind, spec.x)
    c, count = spec.x[3], math.prod(spec.x[:3])
    constants = {"c": c, "count": count}
    unit = 0 if c > channels.WIDEST else 4 if c % 4 == 0 else 1
    (kernel,) = kernels.find(spec.kind, spec.dtype, result=result, unit=unit)
    if unit:
        pixels, share = _shares(c, unit)
        constants |= {"pixels": pixels, "share": share}
    else:
        pixels = channels.THREADS // channels.LANES
    grid = blocks(spec.kind, -(-count // pixels))
    return Stage(lambda x, y: Step(kernel, grid, constants, {"x": x, "y": y}), spec.out, result)


def _shares(c: int, unit: int) -> tuple[int, int]:
    """Pixels of a block, and lanes of a pixel: without bank conflicts, or many, for few pixels."""
    share = channels.LANES if c > 128 else math.gcd(c // unit, channels.LANES // unit)
    together, fit = channels.THREADS // share, channels.TILE // c
    pixels = fit // together * together if fit >= together else fit // 8 * 8
    return min(pixels, channels.PASSES * together), share


def unpool(indices: np.ndarray, shape: tuple[int, ...], dtype: str) -> Stage:
    """Numbers back where they were found, in images of another shape; of several the last one."""
    op, n = "max_unpool2d", shape[0]
    check_dtype(op, dtype)
    check_sizes(op, indices.shape, shape)
    (kernel,) = kernels.find("unpool", dtype)
    count = math.prod(shape)
    entries = np.full(-(-count // 4) * 4, -1, np.int32)  # whole ones, of 4 numbers
    table = entries[:count].reshape(n, count // max(n, 1))
    places = indices.reshape(n, -1)
    numbers = np.arange(places.size, dtype=np.int32).reshape(places.shape)
    for image, where, these in zip(table, places, numbers, strict=True):
        np.maximum.at(image, where, these)
    constants = {"table": entries, "count": count}
    grid = tasks(op, -(-count // 4), kernel)
    return Stage(lambda x, y: Step(kernel, grid, constants, {"x": x, "y": y}), shape, dtype)


def _widest(rows: list[Kernel], channels: int) -> Kernel:
    """The kernel that takes most channels at a time, of those that divide them."""
    return max((k for k in rows if channels % k.unit == 0), key=lambda k: k.unit)


def _stage(op: str, spec: Pool2d | Resize2d, kernel: Kernel, constants: dict[str, Any]) -> Stage:
    check_sizes(op, spec.x, spec.out)
    grid = tasks(op, math.prod(spec.out) // kernel.unit, kernel)
    return Stage(lambda x, y: Step(kernel, grid, constants, {"x": x, "y": y}), spec.out, spec.dtype)


def _sizes(spec: Pool2d | Resize2d, kernel: Kernel) -> dict[str, Any]:
    (_, height, width, c), (_, oh, ow, _) = spec.x, spec.out
    count = math.prod(spec.out) // kernel.unit
    return {"height": height, "width": width, "c": c, "oh": oh, "ow": ow, "count": count}


def _window(spec: Pool2d, kernel: Kernel) -> dict[str, Any]:
    (kh, kw), (down, right), (dh, dw) = spec.size, spec.stride, spec.dilation
    (top, _), (left, _) = spec.pad
    return _sizes(spec, kernel) | {
        "kh": kh, "kw": kw, "down": down, "right": right, "dh": dh, "dw": dw, "top": top,
        "left": left,
    }  # fmt: skip


def _even(axis: Axis, taps: int) -> tuple[np.ndarray, np.ndarray]:
    """Taps and weights, `taps` of each output: where it has fewer, the last one in equal parts."""
    counts = np.diff(axis.starts)[:, None]
    wanted = np.arange(taps)
    index = axis.starts[:-1, None] + np.minimum(wanted, counts - 1)
    parts = np.where(wanted < counts - 1, 1, taps - counts + 1)
    weights = (axis.weights[index] / parts).astype(np.float32)
    return axis.taps[index].astype(np.int32), weights


def one(stage: Stage) -> Program:
    """A program of one step."""
    return chain("direct", [stage])


def labels(shape: tuple[int, int, int, int], dtype: str) -> Stage:
    """The largest channel of each pixel."""
    return channel_op(ChannelOp(shape, "argmax", dtype), label_dtype(shape[3]))

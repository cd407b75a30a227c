"""Pooling and resizing: each output pixel combines a few taps, chosen by row and by column.

Both axes are tables made when the operation is planned: which input rows (columns) an output row
(column) reads, and with which weights. Only taps inside the image are listed, so padding never wins
a maximum, never enters a mean, and a NaN spreads no further than the windows that hold it.
"""

import math
from dataclasses import dataclass

import numpy as np

from fastconv import shapes
from fastconv.cpu.job import Job
from fastconv.cpu.kernels import kernel
from fastconv.cpu.simd import atomic_add, call, load_int
from fastconv.spec import Pool2d, Resize2d


@dataclass(frozen=True)
class Axis:
    """Taps of all outputs along one axis: output i has ``taps[starts[i]:starts[i + 1]]``."""

    starts: np.ndarray  # int64, outputs + 1
    taps: np.ndarray  # int64, input positions
    weights: np.ndarray  # float64, one a tap
    divisors: np.ndarray  # float64, one an output


def _axis(positions: np.ndarray, weights: np.ndarray, size: int, divisors: np.ndarray) -> Axis:
    """From [outputs, taps] tables; taps outside ``0 ... size - 1`` are left out."""
    inside = (positions >= 0) & (positions < size)
    starts = np.concatenate([[0], np.cumsum(inside.sum(axis=1))]).astype(np.int64)
    return Axis(starts, positions[inside].astype(np.int64), weights[inside], divisors)


def pool_axis(
    size: int, out: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int,
    include_pad: bool,
) -> Axis:  # fmt: skip
    """Windows of a pool. `include_pad`: divide by the taps in the padded axis, not in the image."""
    positions = np.arange(out)[:, None] * stride - pad[0] + np.arange(kernel) * dilation
    real = (positions >= 0) & (positions < size)
    padded = positions < size + pad[1]
    divisors = (padded if include_pad else real).sum(axis=1).astype(float)
    return _axis(positions, np.ones(positions.shape), size, divisors)


def resize_axis(size: int, out: int, method: str, coordinates: str) -> Axis:
    """Taps and weights of one resized axis; `fastconv.resize2d` states the formulas."""
    i = np.arange(out)
    ones = np.ones(out)
    if method == "nearest":
        nearest = [shapes.nearest_source(int(k), size, out, coordinates) for k in i]
        return _axis(np.array(nearest)[:, None], ones[:, None], size, ones)
    above, below = shapes.resize_source(i, size, out, coordinates)
    low, t = above // below, (above % below) / below
    if method == "bilinear":
        positions = np.clip(np.stack([low, low + 1], axis=1), 0, size - 1)
        return _axis(positions, np.stack([1 - t, t], axis=1), size, ones)
    half_pixel = coordinates == "half_pixel"
    a = -0.5 if half_pixel else -0.75
    positions = low[:, None] + np.arange(-1, 3)
    weights = _cubic(t[:, None] - np.arange(-1, 3), a)
    if half_pixel:  # taps outside do not count, and the others make up for them
        weights = np.where((positions >= 0) & (positions < size), weights, 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
    else:
        positions = np.clip(positions, 0, size - 1)
    return _axis(positions, weights, size, ones)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys 1981, "Cubic convolution interpolation for digital image processing"."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def windows(thread, counter, x, out, scratch, kernel, images, h, w, channels, oh, ow, row_starts,
            rows, row_weights, row_divisors, column_starts, columns, column_weights,
            column_divisors, item):  # fmt: skip
    """Driver: a task is one output row. `scratch` is where indices go, if the kernel has any."""
    pixel = channels * item
    while True:
        task = atomic_add(counter, 1)
        if task >= images * oh:
            break
        n, i = divmod(task, oh)
        image = x + n * h * w * pixel
        first_row = load_int(row_starts + 8 * i)
        nrows = load_int(row_starts + 8 * i + 8) - first_row
        for j in range(ow):
            first = load_int(column_starts + 8 * j)
            count = load_int(column_starts + 8 * j + 8) - first
            at = (task * ow + j) * channels
            call(kernel, (
                image, rows + 8 * first_row, nrows, columns + 8 * first, count,
                row_weights + first_row * item, column_weights + first * item,
                row_divisors + i * item, column_divisors + j * item, channels,
                out + at * item, scratch + at * 8,
            ))  # fmt: skip


JOB = Job(windows)


class Windows:
    """A pool or a resize, planned."""

    def __init__(self, spec: Pool2d | Resize2d, indices: bool = False) -> None:
        n, h, w, c = spec.x
        _, oh, ow, _ = spec.out
        item = np.dtype(spec.dtype).itemsize
        if isinstance(spec, Pool2d):
            kind = "tap_sum" if spec.kind == "avg" else "tap_argmax" if indices else "tap_max"
            axes = [
                pool_axis(size, out, taps, stride, pad, dilation, spec.count_include_pad)
                for size, out, taps, stride, pad, dilation in zip(
                    (h, w), (oh, ow), spec.size, spec.stride, spec.pad, spec.dilation, strict=True
                )
            ]
        else:
            kind = "tap_sum"
            axes = [
                resize_axis(size, out, spec.method, spec.coordinates)
                for size, out in ((h, oh), (w, ow))
            ]
        self.kernel = kernel(kind, spec.dtype)
        pitches = (w * c * item, c * item)
        tables = [
            (a.starts, a.taps * pitch, a.weights.astype(spec.dtype), a.divisors.astype(spec.dtype))
            for a, pitch in zip(axes, pitches, strict=True)
        ]
        self._tables = tables  # keeps the memory that the template points to
        addresses = [[t.ctypes.data for t in axis] for axis in tables]
        names = ("starts", "s", "weights", "divisors")
        fields = {
            (f"{prefix}_{name}" if name != "s" else f"{prefix}s"): address
            for prefix, axis in zip(("row", "column"), addresses, strict=True)
            for name, address in zip(names, axis, strict=True)
        }
        self._template = JOB.pack(
            kernel=self.kernel.address, images=n, h=h, w=w, channels=c, oh=oh, ow=ow, item=item,
            **fields,
        )  # fmt: skip
        self.work = math.prod(spec.out) * sum(len(a.taps) for a in axes) // max(oh + ow, 1)

    def run(
        self, x: np.ndarray, out: np.ndarray, threads: int, indices: np.ndarray | None = None
    ) -> None:
        """Arrays C-contiguous, of the spec's shapes and dtype; `indices` int64."""
        where = 0 if indices is None else indices.ctypes.data
        JOB.run(self._template, x.ctypes.data, out.ctypes.data, where, threads)

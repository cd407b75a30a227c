"""Pooling and resizing: each output pixel combines a few taps, chosen by row and by column.

Both axes are tables made when the operation is planned: which input rows (columns) an output row
(column) reads, and with which weights. Only taps inside the image are listed, so padding never wins
a maximum, never enters a mean, and a NaN spreads no further than the windows that hold it.

A task is an output row, in strips: its input rows are combined to one, which stays in the L1 cache,
then the columns of that one.
"""

import math

import numpy as np

from fastconv.axes import Axis, axes
from fastconv.cpu.intrinsics import call, load_int, store_int
from fastconv.cpu.job import Job, scratch, take
from fastconv.cpu.kernels import candidates, kernel
from fastconv.cpu.simd import LANES
from fastconv.dtypes import ITEMSIZE, WORKING, label_dtype
from fastconv.memory import address
from fastconv.spec import Pool2d

STRIP_BYTES = 16 << 10  # of L1, for a combined row


def windows(thread, counter, x, out, scratch, add, scratch_bytes, down, across, labels, label_item,
            images, h, w, channels, oh, ow, row_starts, rows, row_weights, row_divisors,
            column_starts, columns, column_weights, column_divisors, strip, strips, most_rows,
            row_bytes, item, out_item, work):  # fmt: skip
    """Driver: a task is one output row.

    Where `labels` is a kernel, it finds the largest channel of each pixel, and that is the output.
    """
    table = scratch + thread * scratch_bytes
    row = table + 8 * most_rows
    pixels = row + row_bytes
    while True:
        task = take(counter, thread, images * oh)
        if task >= images * oh:
            break
        n, i = divmod(task, oh)
        first_row = load_int(row_starts + 8 * i)
        nrows = load_int(row_starts + 8 * i + 8) - first_row
        for j in range(0, ow, strip):
            some = min(strip, ow - j)
            low = load_int(strips + 16 * (j // strip))  # first number of a row that it reads
            count = load_int(strips + 16 * (j // strip) + 8)
            for r in range(nrows):
                y = load_int(rows + 8 * (first_row + r))
                store_int(table + 8 * r, x + ((n * h + y) * w * channels + low) * item)
            call(down, (table, row_weights + first_row * work, nrows, row, count))
            at = (task * ow + j) * channels * out_item + out
            if labels:
                at = pixels
            call(across, (
                row - low * work, column_starts + 8 * j, columns, column_weights,
                column_divisors + j * work, row_divisors + i * work, channels, at, some,
                (ow - j) * channels,
            ))  # fmt: skip
            if labels:
                call(labels, (pixels, some, channels, out + (task * ow + j) * label_item,
                              label_item))  # fmt: skip


def windows_argmax(thread, counter, x, out, scratch, add, kernel, images, h, w, channels, oh, ow,
                   row_starts, rows, column_starts, columns, item):  # fmt: skip
    """Driver: a task is one output row; `scratch` is where the indices go."""
    pixel = channels * item
    while True:
        task = take(counter, thread, images * oh)
        if task >= images * oh:
            break
        n, i = divmod(task, oh)
        first_row = load_int(row_starts + 8 * i)
        nrows = load_int(row_starts + 8 * i + 8) - first_row
        for j in range(ow):
            first = load_int(column_starts + 8 * j)
            count = load_int(column_starts + 8 * j + 8) - first
            at = (task * ow + j) * channels
            call(kernel, (
                x + n * h * w * pixel, rows + 8 * first_row, nrows, columns + 8 * first, count,
                channels, out + at * item, scratch + at * 8,
            ))  # fmt: skip


JOB, ARGMAX_JOB = Job(windows), Job(windows_argmax)


class Windows:
    """A pool or a resize, planned.

    Parameters
    ----------
    kind : "max", "mean" or "sum"
        How taps are combined; a sum is weighted.
    x : (n, h, w, c)
        Shape of the input.
    vertical, horizontal : Axis
        The taps of each output row and column.
    dtype, written : dtypes of the input and of the result
    labels : bool
        The result is the largest channel of each pixel.
    """

    def __init__(
        self, kind: str, x: tuple[int, ...], vertical: Axis, horizontal: Axis, dtype: str,
        written: str, labels: bool = False,
    ) -> None:  # fmt: skip
        n, h, w, c = x
        oh, ow = len(vertical.starts) - 1, len(horizontal.starts) - 1
        work = ITEMSIZE[WORKING[dtype]]
        written = WORKING[dtype] if labels else written
        uniform = horizontal.uniform
        taps = uniform if candidates(f"across_{kind}", written, taps=uniform) else 0
        self.kernel = kernel(f"across_{kind}", written, taps=taps)
        down = kernel("down_max" if kind == "max" else "down_sum", dtype)
        self._tables = [
            a.astype(t)
            for axis, unit in ((vertical, 1), (horizontal, c * work))
            for a, t in (
                (axis.starts, np.int64), (axis.taps * unit, np.int64),
                (axis.weights, WORKING[dtype]), (axis.divisors, WORKING[dtype]),
            )
        ]  # fmt: skip
        names = ("row_starts", "rows", "row_weights", "row_divisors", "column_starts", "columns",
                 "column_weights", "column_divisors")  # fmt: skip
        tables = {n: table.ctypes.data for n, table in zip(names, self._tables, strict=True)}
        strip, spans = strips(horizontal, ow, c * work)
        self._spans = spans * c
        most_rows = int(np.diff(vertical.starts).max(initial=0))
        spare = LANES[dtype] * work  # whole vectors are read and written past the end
        width = int(self._spans[:, 1].max(initial=0))
        row_bytes = -(-(width * work + spare) // 64) * 64
        table = -(-most_rows // 8) * 8
        private = 8 * table + row_bytes + (strip * c * work + spare if labels else 0)
        self._private = -(-private // 4096) * 4096
        self._template = JOB.pack(
            scratch_bytes=self._private, down=down.address, across=self.kernel.address,
            labels=kernel("argmax", written).address if labels else 0,
            label_item=label_dtype(c).itemsize, images=n, h=h, w=w, channels=c, oh=oh, ow=ow,
            strip=strip, strips=self._spans.ctypes.data, most_rows=table, row_bytes=row_bytes,
            item=ITEMSIZE[dtype], out_item=ITEMSIZE[written], work=work, **tables,
        )  # fmt: skip
        self.work = n * oh * ow * c * max(most_rows, 1)

    def run(self, x: np.ndarray, out: np.ndarray, threads: int) -> None:
        """Arrays C-contiguous, of the planned shapes and dtypes."""
        memory = scratch(self._private * threads)
        JOB.run(self._template, address(x), address(out), memory, threads)


def strips(axis: Axis, out: int, pixel: int) -> tuple[int, np.ndarray]:
    """Outputs in a strip, and [first, count] of the inputs that each strip spans.

    These are at most `STRIP_BYTES`, if possible: the length is halved until that holds, which comes
    close enough to the longest.
    """
    if not out:
        return 1, np.zeros((0, 2), np.int64)
    first = np.minimum.reduceat(axis.taps, axis.starts[:-1])
    last = np.maximum.reduceat(axis.taps, axis.starts[:-1])
    length = out
    while True:
        begins = np.arange(0, out, length)
        low = np.minimum.reduceat(first, begins)
        spans = np.stack([low, np.maximum.reduceat(last, begins) - low + 1], axis=1)
        if length == 1 or spans[:, 1].max() * pixel <= STRIP_BYTES:
            return length, spans
        length = -(-length // 2)


class WindowsArgmax:
    """A max-pool that also tells where each maximum is, planned."""

    def __init__(self, spec: Pool2d) -> None:
        n, h, w, c = spec.x
        _, oh, ow, _ = spec.out
        item = ITEMSIZE[spec.dtype]
        self.kernel = kernel("argmax_window", spec.dtype)
        vertical, horizontal = axes(spec, repeat=False)
        self._tables = [
            vertical.starts, vertical.taps * (w * c * item),
            horizontal.starts, horizontal.taps * (c * item),
        ]  # fmt: skip
        names = ("row_starts", "rows", "column_starts", "columns")
        tables = {n: t.ctypes.data for n, t in zip(names, self._tables, strict=True)}
        self._template = ARGMAX_JOB.pack(
            kernel=self.kernel.address, images=n, h=h, w=w, channels=c, oh=oh, ow=ow, item=item,
            **tables,
        )  # fmt: skip
        self.work = math.prod(spec.out) * math.prod(spec.size)

    def run(self, x: np.ndarray, out: np.ndarray, indices: np.ndarray, threads: int) -> None:
        """Arrays C-contiguous, of the spec's shapes and dtype; `indices` int64."""
        ARGMAX_JOB.run(self._template, address(x), address(out), address(indices), threads)

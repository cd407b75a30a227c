"""Pools over whole images: every channel to one number.

A task sums the pixels of one block of channels. Where these are many they are cut into parts, and a
second job joins what the parts give. The cut follows from the shape of one image alone, and so do
the bits.

Tables of rows, as for other pools, took 48 us for 17 x 17 pixels of 2048 channels on one thread,
this takes 25: sums stay in registers, and a task reads a kilobyte in one piece.
"""

import numpy as np

from fastconv.axes import axes, make_axis
from fastconv.cpu.intrinsics import call
from fastconv.cpu.job import Job, between, take
from fastconv.cpu.kernels import kernel
from fastconv.cpu.windows import Windows
from fastconv.dtypes import ITEMSIZE, WORKING
from fastconv.memory import address
from fastconv.spec import Pool2d, Resize2d

BLOCK = 256  # channels: those of the largest tile
TASK = 1 << 16  # numbers, at least, of a part of a block: about 5 us


def whole(thread, counter, x, out, scratch, add, kernel, images, pixels, parts, channels, block,
          divisor, item, out_item):  # fmt: skip
    """Driver: a task is a block of channels of a part of an image."""
    blocks = (channels + block - 1) // block
    some = (pixels + parts - 1) // parts
    while True:
        task = take(counter, thread, images * parts * blocks)
        if task >= images * parts * blocks:
            break
        part, c = task // blocks, task % blocks * block
        first = part % parts * some
        at = ((part // parts * pixels + first) * channels + c) * item
        call(kernel, (x + at, channels * item, min(some, pixels - first), min(block, channels - c),
                      divisor, out + (part * channels + c) * out_item))  # fmt: skip


JOB = Job(whole)


class WholePool:
    """A pool over whole images, planned."""

    def __init__(self, spec: Pool2d) -> None:
        n, h, w, c = spec.x
        pixels = h * w
        some = -(-pixels // max(pixels * min(c, BLOCK) // TASK, 1))
        parts = -(-pixels // some)
        kind = "max" if spec.kind == "max" else "mean" if parts == 1 else "sum"
        partial = WORKING[spec.dtype] if kind == "sum" else spec.dtype
        self.kernel = kernel(f"whole_{kind}", spec.dtype)
        self._divisor = np.array([pixels], WORKING[spec.dtype])
        self._template = JOB.pack(
            kernel=self.kernel.address, images=n, pixels=pixels, parts=parts, channels=c,
            block=BLOCK, divisor=self._divisor.ctypes.data, item=ITEMSIZE[spec.dtype],
            out_item=ITEMSIZE[partial],
        )  # fmt: skip
        self._between = n * parts * c * ITEMSIZE[partial]
        self._join = _join(spec, parts, partial) if parts > 1 else None
        self.work = n * pixels * c

    def run(self, x: np.ndarray, out: np.ndarray, threads: int) -> None:
        """As `Windows.run`."""
        if self._join is None:
            JOB.run(self._template, address(x), address(out), 0, threads)
            return
        rows = between((self._between,), np.dtype(np.uint8))
        JOB.run(self._template, address(x), address(rows), 0, threads)
        self._join.run(rows, out, threads)


def _join(spec: Pool2d, parts: int, partial: str) -> Windows:
    """The largest or the mean of what the parts of an image gave."""
    n, h, w, c = spec.x
    rows = np.arange(parts)[None]
    vertical = make_axis(rows, np.ones(rows.shape), parts, np.array([h * w]))
    one = make_axis(np.zeros((1, 1)), np.ones((1, 1)), 1, np.ones(1))
    kind = "max" if spec.kind == "max" else "mean"
    return Windows(kind, (n, parts, 1, c), vertical, one, partial, spec.dtype)


def plan(spec: Pool2d | Resize2d, labels: bool = False) -> Windows | WholePool:
    """Plan any pool or resize; `labels`: the result is the largest channel of each pixel."""
    if isinstance(spec, Resize2d):
        return Windows("sum", spec.x, *axes(spec, False), spec.dtype, spec.dtype, labels)
    if spec.size == spec.x[1:3] and not any(map(any, spec.pad)):
        return WholePool(spec)
    kind = "max" if spec.kind == "max" else "mean"
    return Windows(kind, spec.x, *axes(spec, kind == "max"), spec.dtype, spec.dtype)

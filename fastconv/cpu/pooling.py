"""Pools in one step: over whole images, and over small windows that lie inside of the image.

Over a whole image, a task sums the pixels of one block of channels. Where these are many they are
cut into parts, and a second job joins what the parts give. The cut follows from the shape of one
image alone, and so do the bits.

Tables of rows, as for other pools, took 48 us for 17 x 17 pixels of 2048 channels on one thread,
this takes 25: sums stay in registers, and a task reads a kilobyte in one piece. In 2 x 2 windows of
many channels a combined row, written and read again, is more than the windows themselves (64
channels on 500 x 500, one thread: 2.2 -> 1.5 ms).
"""

import math

import numpy as np

from fastconv.axes import axes, make_axis
from fastconv.cpu import host
from fastconv.cpu.intrinsics import call
from fastconv.cpu.job import Job, between, take
from fastconv.cpu.kernels import Kernel, candidates, kernel
from fastconv.cpu.simd import LANES
from fastconv.cpu.windows import Windows
from fastconv.dtypes import ITEMSIZE, WORKING
from fastconv.memory import CACHE_LINE, address
from fastconv.spec import Pool2d, Resize2d

BLOCK = 256  # channels: those of the largest tile
TASK = 1 << 16  # numbers, at least, of a part of a block: about 5 us
KINDS = {"max": "max", "avg": "mean"}  # of kernels, by those of a `Pool2d`


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


def inside(thread, counter, x, out, scratch, add, kernel, images, h, w, channels, oh, ow, sh, sw,
           divisor, item):  # fmt: skip
    """Driver: a task is one output row."""
    pixel = channels * item
    while True:
        task = take(counter, thread, images * oh)
        if task >= images * oh:
            break
        n, i = divmod(task, oh)
        call(kernel, (x + (n * h + i * sh) * w * pixel, w * pixel, pixel, sw * pixel, channels,
                      divisor, out + task * ow * pixel, pixel, ow))  # fmt: skip


JOB, INSIDE = Job(whole), Job(inside)


class WholePool:
    """A pool over whole images, planned."""

    def __init__(self, spec: Pool2d) -> None:
        n, h, w, c = spec.x
        pixels = h * w
        some = -(-pixels // max(pixels * min(c, BLOCK) // TASK, 1))
        parts = -(-pixels // some)
        kind = "sum" if spec.kind == "avg" and parts > 1 else KINDS[spec.kind]
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
    return Windows(KINDS[spec.kind], (n, parts, 1, c), vertical, one, partial, spec.dtype)


class InsidePool:
    """A pool over small windows, none of which reaches out of the image, planned."""

    def __init__(self, spec: Pool2d, row: Kernel) -> None:
        n, h, w, c = spec.x
        self.kernel = row
        self._divisor = np.array([math.prod(spec.size)], WORKING[spec.dtype])
        item = ITEMSIZE[spec.dtype]
        self._template = INSIDE.pack(
            kernel=row.address, images=n, h=h, w=w, channels=c, oh=spec.out[1], ow=spec.out[2],
            sh=spec.stride[0], sw=spec.stride[1], divisor=self._divisor.ctypes.data, item=item,
        )  # fmt: skip
        self.work = math.prod(spec.out) * math.prod(spec.size)
        # Past the caches, where whole vectors are aligned: what is read drives out what is written.
        past = candidates(f"{row.kind}_stream", spec.dtype, taps=row.taps)
        large = host.bypasses((math.prod(spec.x) + math.prod(spec.out)) * item)
        self._streaming = self._template
        if past and large and c % LANES[spec.dtype] == 0:
            self._streaming = INSIDE.changed(self._template, kernel=past[0].address)

    def run(self, x: np.ndarray, out: np.ndarray, threads: int) -> None:
        """As `Windows.run`."""
        target = address(out)
        template = self._template if target % CACHE_LINE else self._streaming
        INSIDE.run(template, address(x), target, 0, threads)


def _inside(spec: Pool2d) -> list[Kernel]:
    """Kernels for windows that all lie inside of the image, and vectors of channels."""
    (taps, across), c = spec.size, spec.x[3]
    ends = [
        (count - 1) * stride + taps
        for count, stride in zip(spec.out[1:3], spec.stride, strict=True)
    ]
    if (
        taps != across
        or c < LANES[spec.dtype]
        or spec.dilation != (1, 1)
        or any(map(any, spec.pad))
        or any(end > size for end, size in zip(ends, spec.x[1:3], strict=True))
    ):
        return []
    return candidates(f"window_{KINDS[spec.kind]}", spec.dtype, taps=taps)


def plan(spec: Pool2d | Resize2d, labels: bool = False) -> Windows | WholePool | InsidePool:
    """Plan any pool or resize; `labels`: the result is the largest channel of each pixel."""
    if isinstance(spec, Resize2d):
        return Windows("sum", spec.x, *axes(spec, False), spec.dtype, spec.dtype, labels)
    if spec.size == spec.x[1:3] and not any(map(any, spec.pad)):
        return WholePool(spec)
    if kernels := _inside(spec):
        return InsidePool(spec, kernels[0])
    tables = axes(spec, repeat=spec.kind == "max")
    return Windows(KINDS[spec.kind], spec.x, *tables, spec.dtype, spec.dtype)

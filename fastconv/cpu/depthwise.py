"""Depthwise convolution: every channel has filters of its own.

A task is two output rows, which share what they read, or one; it goes through the channels in
blocks. Its pixels are one run that meets all columns of taps, and a few at both ends that meet
fewer; rows and columns of taps outside of the image are left out, nothing is padded. With several
filters a channel, the input is first copied with each channel repeated.

What did not help: gathering whole windows, two loads for each product (2.2 -> 1.2 ms for 128
channels on 128 x 128); tiles of eight pixels for strides of 2 and 5x5 kernels (25 -> 28 us).
"""

import math

import numpy as np

from fastconv.cpu import cost, finish, pack
from fastconv.cpu.cost import Cost
from fastconv.cpu.intrinsics import call, copy_bytes
from fastconv.cpu.job import Job, OneJob, take
from fastconv.cpu.kernels import candidates, kernel
from fastconv.cpu.simd import LANES
from fastconv.dtypes import ITEMSIZE, WORKING
from fastconv.spec import Conv2d
from fastconv.weights import Weights

BLOCK = 128  # channels: what tiles side by side share stays in the L1 (384 channels: 45 -> 33 us)


def depthwise(thread, counter, x, out, scratch, add, scratch_bytes, shared_bytes, kernel, pair,
              finish, block, images, h, w, channels, oh, ow, kh, kw, sh, sw, dh, dw, top, left,
              weights, bias, clamp, slopes, item, work):  # fmt: skip
    """Driver: tasks are pairs of output rows if there is a kernel for `pair`, else rows."""
    if shared_bytes:
        x = scratch  # the copy with repeated channels
    stage = scratch + shared_bytes + thread * scratch_bytes
    pixel = channels * item
    row, column, step = dh * w * pixel, dw * pixel, sw * pixel
    written, each = (work, channels * work) if finish else (item, pixel)
    # Outputs from `first` up to `last` meet all columns of taps.
    first = min((left + sw - 1) // sw, ow)
    last = max(min((w - 1 + left - (kw - 1) * dw) // sw + 1, ow), first)
    most = 2 if pair else 1
    groups = (oh + most - 1) // most
    while True:
        task = take(counter, thread, images * groups)
        if task >= images * groups:
            break
        n, i = task // groups, task % groups * most
        rows = min(most, oh - i)
        y = i * sh - top
        first_row = max((-y + dh - 1) // dh, 0)
        last_row = max(min((h - 1 - y) // dh + 1, kh + (rows - 1) * sh), first_row)
        to = out + (n * oh + i) * ow * pixel
        target = stage if finish else to
        for c in range(0, channels, block):
            line = x + (n * h + y) * w * pixel + c * item
            j = 0
            while j < ow:
                at = j * sw - left
                count, first_column, last_column = last - j, 0, kw
                if j < first or j >= last:
                    count = 1
                    first_column = max((-at + dw - 1) // dw, 0)
                    last_column = max(min((w - 1 - at) // dw + 1, kw), first_column)
                call(pair if rows == 2 else kernel,
                     (line + at * pixel, row, column, step, first_row, last_row, first_column,
                      last_column, kw, min(block, channels - c), weights + c * kh * kw * work,
                      bias + c * work, clamp, target + j * each + c * written, ow * each, each,
                      count))  # fmt: skip
                j += count
        if finish:
            call(finish, (stage, each, 0, to, add, pixel, 0, rows * ow, 1, channels,
                          clamp + 2 * work, slopes))  # fmt: skip


def repeat(thread, counter, x, out, scratch, add, rows, row, times, item):
    """Driver: a task is one image row, whose numbers are copied `times` times each."""
    while True:
        task = take(counter, thread, rows)
        if task >= rows:
            break
        of, to = x + task * row * item, out + task * row * times * item
        for _ in range(row):
            for _ in range(times):
                copy_bytes(to, of, item)
                to += item
            of += item


JOB, REPEAT = Job(depthwise), Job(repeat)


class Repeated:
    """A copy of an image with each channel `times` times, planned."""

    def __init__(self, spec: Conv2d, times: int) -> None:
        n, h, w, c = spec.x
        item = ITEMSIZE[spec.dtype]
        self.nbytes = n * h * w * c * times * item
        self._template = REPEAT.pack(rows=n * h, row=w * c, times=times, item=item)

    def run(self, x: int, out: int, threads: int) -> None:
        """Copy the images at address `x` to address `out`."""
        REPEAT.run(self._template, x, out, 0, threads)


class Depthwise(OneJob):
    """A depthwise convolution, planned."""

    algorithm = "direct"

    def __init__(
        self, spec: Conv2d, w: Weights, bias: np.ndarray | None, slopes: np.ndarray | None
    ) -> None:
        n, h, width, c = spec.x
        kh, kw, _, k = spec.w
        (sh, sw), (dh, dw) = spec.stride, spec.dilation
        dtype = WORKING[spec.dtype]
        item, work = ITEMSIZE[spec.dtype], ITEMSIZE[dtype]
        finisher = finish.kernel_for(spec)
        kind = "depthwise_sums" if finisher else "depthwise"
        special = candidates(kind, spec.dtype, taps=kw, stride=sw) if dw == 1 else []
        square = (kh, sh, dh) == (kw, sw, dw)
        pairs = [row for row in special if row.rows == 2 and square and spec.out[1] > 1]
        single = [row for row in special if row.rows == 1] or [kernel(kind, spec.dtype, taps=0)]
        self.kernel = (pairs + single)[0]
        vectors = -(-k // LANES[dtype])
        block = -(-vectors // -(-k // BLOCK)) * LANES[dtype]
        self.packed = w.packed(
            dtype, lambda array: _blocks(array.reshape(kh * kw, k), block, dtype)
        )
        self._bias = np.zeros(k, dtype) if bias is None else bias.astype(dtype)
        self._clamp = pack.clamp(spec, finisher is not None, dtype)
        self._slopes = pack.slopes(spec, slopes, dtype)
        rows = self.kernel.rows
        super().__init__(
            JOB, rows * spec.out[2] * k * work if finisher else 0,
            Repeated(spec, k // c) if k > c else None, kernel=single[0].address,
            pair=pairs[0].address if pairs else 0, finish=finisher.address if finisher else 0,
            block=block, images=n, h=h, w=width, channels=k, oh=spec.out[1],
            ow=spec.out[2], kh=kh, kw=kw, sh=sh, sw=sw, dh=dh, dw=dw, top=spec.pad[0][0],
            left=spec.pad[1][0], weights=self.packed.ctypes.data, bias=self._bias.ctypes.data,
            clamp=self._clamp.ctypes.data, slopes=self._slopes.ctypes.data, item=item, work=work,
        )  # fmt: skip


def _blocks(w: np.ndarray, block: int, dtype: str) -> np.ndarray:
    """Taps x channels with each block of channels by itself, in one piece of memory."""
    return np.concatenate(
        [w[:, c : c + block].ravel() for c in range(0, w.shape[1], block)], dtype=dtype
    )


def supports(spec: Conv2d) -> str:
    """Why this algorithm cannot serve `spec`; "" when it can."""
    if spec.groups == 1 or spec.groups != spec.x[3]:
        return "it needs groups of one input channel"
    return "it has no fused pooling" if spec.pool else ""


def expected(spec: Conv2d) -> Cost:
    """Cost for one image."""
    kh, kw = spec.w[:2]
    parts = kernel("depthwise", spec.dtype).split
    vectors = parts * math.prod(spec.out[1:]) / LANES[spec.dtype]
    near, far = cost.traffic(spec, 0)
    ideal = cost.instructions(kh * kw * vectors)
    return Cost(ideal, 1.5 * ideal, near, far)

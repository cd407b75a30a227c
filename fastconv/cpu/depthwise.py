"""Depthwise convolution: every channel has filters of its own.

A task is one output row. Its pixels are one run that meets all columns of taps, and a few at both
ends that meet fewer; rows and columns of taps outside of the image are left out, nothing is padded.
With several filters a channel, the input is first copied with each channel repeated.

What did not help: gathering whole windows, two loads for each product (2.2 -> 1.2 ms for 128
channels on 128 x 128).
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

SEGMENT_BYTES = 16 << 10  # of L1, for the inputs of a run of pixels


def depthwise(thread, counter, x, out, scratch, add, scratch_bytes, shared_bytes, kernel, finish,
              segment, images, h, w, channels, oh, ow, kh, kw, sh, sw, dh, dw, top, left,
              weights, bias, clamp, slopes, item, work):  # fmt: skip
    """Driver: tasks are output rows."""
    if shared_bytes:
        x = scratch  # the copy with repeated channels
    stage = scratch + shared_bytes + thread * scratch_bytes
    pixel = channels * item
    row, column, step = dh * w * pixel, dw * pixel, sw * pixel
    # Outputs from `first` up to `last` meet all columns of taps.
    first = min((left + sw - 1) // sw, ow)
    last = max(min((w - 1 + left - (kw - 1) * dw) // sw + 1, ow), first)
    while True:
        task = take(counter, thread, images * oh)
        if task >= images * oh:
            break
        n, i = divmod(task, oh)
        y = i * sh - top
        first_row = max((-y + dh - 1) // dh, 0)
        last_row = max(min((h - 1 - y) // dh + 1, kh), first_row)
        line = x + (n * h + y) * w * pixel
        to, each = out + task * ow * pixel, pixel
        if finish:
            to, each = stage, channels * work
        j = 0
        while j < ow:
            at = j * sw - left
            count, first_column, last_column = min(segment, last - j), 0, kw
            if j < first or j >= last:
                count = 1
                first_column = max((-at + dw - 1) // dw, 0)
                last_column = max(min((w - 1 - at) // dw + 1, kw), first_column)
            call(kernel, (line + at * pixel, row, column, step, first_row, last_row, first_column,
                          last_column, kw, channels, weights, bias, clamp, to + j * each, each,
                          count))  # fmt: skip
            j += count
        if finish:
            call(finish, (stage, each, 0, out + task * ow * pixel, add, pixel, 0, ow, 1, channels,
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
        self.kernel = special[0] if special else kernel(kind, spec.dtype, taps=0)
        self.packed = w.packed(dtype, lambda array: array.reshape(kh * kw, k).astype(dtype))
        self._bias = np.zeros(k, dtype) if bias is None else bias.astype(dtype)
        self._clamp = pack.clamp(spec, finisher is not None, dtype)
        self._slopes = pack.slopes(spec, slopes, dtype)
        mr = self.kernel.mr
        segment = SEGMENT_BYTES // max(kh * sw * k * item * mr, 1) * mr
        super().__init__(
            JOB, spec.out[2] * k * work if finisher else 0,
            Repeated(spec, k // c) if k > c else None, kernel=self.kernel.address,
            finish=finisher.address if finisher else 0,
            segment=max(segment, mr), images=n, h=h, w=width, channels=k, oh=spec.out[1],
            ow=spec.out[2], kh=kh, kw=kw, sh=sh, sw=sw, dh=dh, dw=dw, top=spec.pad[0][0],
            left=spec.pad[1][0], weights=self.packed.ctypes.data, bias=self._bias.ctypes.data,
            clamp=self._clamp.ctypes.data, slopes=self._slopes.ctypes.data, item=item, work=work,
        )  # fmt: skip


def supports(spec: Conv2d) -> str:
    """Why this algorithm cannot serve `spec`; "" when it can."""
    if spec.groups == 1 or spec.groups != spec.x[3]:
        return "it needs groups of one input channel"
    return "it has no fused pooling" if spec.pool else ""


def expected(spec: Conv2d) -> Cost:
    """Cost for one image."""
    kh, kw = spec.w[:2]
    vectors = math.prod(spec.out[1:]) / LANES[spec.dtype]
    near, far = cost.traffic(spec, 0)
    ideal = cost.instructions(kh * kw * vectors)
    return Cost(ideal, 1.5 * ideal, near, far)

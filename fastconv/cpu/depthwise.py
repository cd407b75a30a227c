"""Depthwise convolution with one filter a channel: vectors run over channels."""

import numpy as np

from fastconv.cpu import finish, pack
from fastconv.cpu.direct import PATCH_BYTES
from fastconv.cpu.job import Job, OneJob
from fastconv.cpu.kernels import kernel
from fastconv.cpu.simd import atomic_add, call, store_int
from fastconv.cpu.tiles import fill_rows
from fastconv.dtypes import ITEMSIZE, WORKING
from fastconv.spec import Conv2d

MAX_TILES = 64


def depthwise(thread, counter, x, out, scratch, add, scratch_bytes, kernel, finish, mr, tiles,
              per_task, pixels, h, w, channels, oh, ow, kh, kw, sh, sw, dh, dw, top, left, weights,
              bias, clamp, slopes, taps, patch_taps, item, work):  # fmt: skip
    """Driver: tasks are runs of `per_task` tiles of `mr` pixels."""
    rows = scratch + thread * scratch_bytes
    targets = rows + per_task * mr * 8
    tables = targets + per_task * mr * 8
    stage = tables + per_task * 8
    patches = stage + (per_task * mr * channels * work if finish else 0)
    pixel = channels * item
    while True:
        first = atomic_add(counter, 1) * per_task
        if first >= tiles:
            break
        count = min(per_task, tiles - first)
        last = min(count * mr, pixels - first * mr)
        for t in range(count):
            for m in range(mr):
                p = min(t * mr + m, last - 1)
                to = stage + p * channels * work if finish else out + (first * mr + p) * pixel
                store_int(targets + (t * mr + m) * 8, to)
            inside = fill_rows(
                rows + t * mr * 8, (first + t) * mr, mr, pixels, 0, x, 0, h, w, pixel, oh, ow, kh,
                kw, sh, sw, dh, dw, top, left, patches + t * mr * kh * kw * pixel,
                pixel)  # fmt: skip
            store_int(tables + t * 8, taps if inside else patch_taps)
        call(kernel, (rows, tables, kh * kw, channels, weights, bias, clamp, targets, count))
        if finish:
            call(finish, (stage, channels * work, 0, out + first * mr * pixel, add, pixel, 0, last,
                          1, channels, clamp + 2 * work, slopes))  # fmt: skip


JOB = Job(depthwise)


class Depthwise(OneJob):
    """A depthwise convolution, planned."""

    algorithm = "direct"

    def __init__(
        self, spec: Conv2d, w: np.ndarray, bias: np.ndarray | None, slopes: np.ndarray | None
    ) -> None:
        n, h, width, c = spec.x
        kh, kw = spec.w[:2]
        dtype = WORKING[spec.dtype]
        item, work = ITEMSIZE[spec.dtype], ITEMSIZE[dtype]
        finisher = finish.kernel_for(spec)
        self.kernel = kernel("depthwise_sums" if finisher else "depthwise", spec.dtype)
        mr = self.kernel.mr
        self.packed = w.reshape(kh * kw, c).astype(dtype)
        self._bias = np.zeros(c, dtype) if bias is None else bias.astype(dtype)
        self._clamp = pack.clamp(spec, finisher is not None, dtype)
        self._slopes = pack.slopes(spec, slopes, dtype)
        self._taps = pack.taps(spec.x, spec, spec.dtype)
        self._patch_taps = np.arange(kh * kw, dtype=np.int64) * (c * item)
        pixels = n * spec.out[1] * spec.out[2]
        tiles = -(-pixels // mr)
        patch = mr * kh * kw * c * item
        per_task = max(1, min(MAX_TILES, PATCH_BYTES // max(patch, 1), tiles // 16))
        private = per_task * (16 * mr + 8 + patch + (mr * c * work if finisher else 0))
        super().__init__(
            JOB, private, kernel=self.kernel.address, finish=finisher.address if finisher else 0,
            mr=mr, tiles=tiles,
            per_task=per_task, pixels=pixels, h=h, w=width, channels=c, oh=spec.out[1],
            ow=spec.out[2], kh=kh, kw=kw, sh=spec.stride[0], sw=spec.stride[1],
            dh=spec.dilation[0], dw=spec.dilation[1], top=spec.pad[0][0], left=spec.pad[1][0],
            weights=self.packed.ctypes.data, bias=self._bias.ctypes.data,
            clamp=self._clamp.ctypes.data, slopes=self._slopes.ctypes.data,
            taps=self._taps.ctypes.data, patch_taps=self._patch_taps.ctypes.data, item=item,
            work=work,
        )  # fmt: skip


def supports(spec: Conv2d) -> str:
    """Why this algorithm cannot serve `spec`; "" when it can."""
    if spec.groups == 1 or spec.groups != spec.x[3] or spec.w[3] != spec.x[3]:
        return "it needs groups of one input and one output channel"
    return "it has no fused pooling" if spec.pool else ""

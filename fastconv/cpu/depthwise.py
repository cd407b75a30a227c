"""Depthwise convolution with one filter a channel: vectors run over channels."""

import numpy as np

from fastconv.cpu import pack
from fastconv.cpu.job import Job, OneJob
from fastconv.cpu.kernels import kernel
from fastconv.cpu.simd import atomic_add, call, store_int
from fastconv.cpu.tiles import fill_rows
from fastconv.spec import Conv2d

TASK_TILES = 64


def depthwise(thread, counter, x, out, scratch, scratch_bytes, kernel, mr, tiles, pixels, h, w,
              channels, oh, ow, kh, kw, sh, sw, dh, dw, top, left, weights, bias, clamp, taps,
              patch_taps, item):  # fmt: skip
    """Driver: tasks are runs of tiles of `mr` pixels."""
    rows = scratch + thread * scratch_bytes
    targets = rows + mr * 8
    patches = targets + mr * 8
    pixel = channels * item
    while True:
        first = atomic_add(counter, 1) * TASK_TILES
        if first >= tiles:
            break
        for t in range(first, min(first + TASK_TILES, tiles)):
            for m in range(mr):
                store_int(targets + 8 * m, out + min(t * mr + m, pixels - 1) * pixel)
            inside = fill_rows(rows, t * mr, mr, pixels, 0, x, 0, h, w, pixel, oh, ow, kh, kw,
                               sh, sw, dh, dw, top, left, patches, pixel)  # fmt: skip
            offsets = taps if inside else patch_taps
            call(kernel, (rows, offsets, kh * kw, channels, weights, bias, clamp, targets))


JOB = Job(depthwise)


class Depthwise(OneJob):
    """A depthwise convolution, planned."""

    algorithm = "direct"

    def __init__(self, spec: Conv2d, w: np.ndarray, bias: np.ndarray | None) -> None:
        n, h, width, c = spec.x
        kh, kw = spec.w[:2]
        item = np.dtype(spec.dtype).itemsize
        self.kernel = kernel("depthwise", spec.dtype)
        mr = self.kernel.mr
        self.packed = w.reshape(kh * kw, c).copy()
        self._bias = np.zeros(c, spec.dtype) if bias is None else bias.copy()
        self._clamp = pack.clamp(spec.activation, spec.dtype)
        self._taps = pack.taps(spec)
        self._patch_taps = np.arange(kh * kw, dtype=np.int64) * (c * item)
        pixels = n * spec.out[1] * spec.out[2]
        private = mr * 16 + mr * kh * kw * c * item
        super().__init__(
            JOB, private, kernel=self.kernel.address, mr=mr,
            tiles=-(-pixels // mr), pixels=pixels, h=h, w=width, channels=c, oh=spec.out[1],
            ow=spec.out[2], kh=kh, kw=kw, sh=spec.stride[0], sw=spec.stride[1],
            dh=spec.dilation[0], dw=spec.dilation[1], top=spec.pad[0][0], left=spec.pad[1][0],
            weights=self.packed.ctypes.data, bias=self._bias.ctypes.data,
            clamp=self._clamp.ctypes.data, taps=self._taps.ctypes.data,
            patch_taps=self._patch_taps.ctypes.data, item=item,
        )  # fmt: skip


def supports(spec: Conv2d) -> str:
    """Why this algorithm cannot serve `spec`; "" when it can."""
    if spec.groups == 1 or spec.groups != spec.x[3] or spec.w[3] != spec.x[3]:
        return "it needs groups of one input and one output channel"
    return "it has no fused pooling" if spec.pool else ""

"""Direct convolution as an implicit matrix product: any kernel, stride, dilation and groups.

A task is a few register tiles of output pixels; its rows are prepared once and used by every panel
of output channels. Each output is summed over (row, column, channel) in that order, so its bits do
not depend on the tile, the task or the thread that it falls to.

What did not help: non-temporal stores; packing A for 1x1 kernels.
"""

import numpy as np

from fastconv.cpu import pack
from fastconv.cpu.job import Job, OneJob
from fastconv.cpu.kernels import Kernel, candidates
from fastconv.cpu.simd import atomic_add, call, store_int
from fastconv.cpu.tiles import fill_rows
from fastconv.spec import Conv2d

PATCH_BYTES = 512 << 10  # of L2, for the gathered rows of a task
MAX_TILES = 64  # of a task; more where they fit help only the first, small layers


def direct(thread, counter, x, out, scratch, scratch_bytes, kernel, mr, nr, tiles, per_task,
           pool, pixels, h, w, channels, oh, ow, cout, kh, kw, sh, sw, dh, dw, top, left, groups,
           panels, panel_bytes, weights, bias, clamp, segments, patch_segments, nseg, length,
           item):  # fmt: skip
    """Driver: tasks are runs of `per_task` tiles."""
    outputs = mr // 4 if pool else mr
    cin, kout = channels // groups, cout // groups
    pixel, run = channels * item, cin * item
    rows = scratch + thread * scratch_bytes
    targets = rows + per_task * mr * 8
    tables = targets + per_task * outputs * 8
    patches = tables + per_task * 8
    tasks = (tiles + per_task - 1) // per_task
    while True:
        task = atomic_add(counter, 1)
        if task >= tasks:
            break
        first = task * per_task
        count = min(per_task, tiles - first)
        for i in range(count * outputs):
            p = min(first * outputs + i, pixels - 1)
            store_int(targets + i * 8, out + p * cout * item)
        for g in range(groups):
            for t in range(count):
                inside = fill_rows(
                    rows + t * mr * 8, (first + t) * outputs, mr, pixels, pool, x, g * run, h, w,
                    pixel, oh, ow, kh, kw, sh, sw, dh, dw, top, left,
                    patches + t * mr * kh * kw * run, run)  # fmt: skip
                store_int(tables + t * 8, segments if inside else patch_segments)
            for panel in range(panels):
                b = weights + (g * panels + panel) * panel_bytes
                start = bias + (g * panels + panel) * nr * item
                shift = (g * kout + panel * nr) * item
                valid = min(nr, kout - panel * nr)
                call(kernel, (rows, tables, nseg, length, b, start, clamp, targets, shift, valid,
                              count))  # fmt: skip


JOB = Job(direct)


def choose_kernel(kind: str, dtype: str, columns: int) -> Kernel:
    """Least padding of the columns, then the widest tile."""
    return min(candidates(kind, dtype), key=lambda k: -(-columns // k.nr) * k.nr)


class Direct(OneJob):
    """A direct convolution, planned: packed weights and everything that depends on shapes."""

    algorithm = "direct"

    def __init__(self, spec: Conv2d, w: np.ndarray, bias: np.ndarray | None) -> None:
        n, h, width, c = spec.x
        kh, kw, cin, k = spec.w
        kout = k // spec.groups
        item = np.dtype(spec.dtype).itemsize
        self.kernel = choose_kernel("gemm_pool" if spec.pool else "gemm", spec.dtype, kout)
        mr, nr = self.kernel.mr, self.kernel.nr
        self.packed = pack.panels(w.reshape(kh * kw * cin, k), spec.groups, nr)
        self._bias = pack.bias(bias, k, spec.groups, nr, spec.dtype)
        self._clamp = pack.clamp(spec.activation, spec.dtype)
        self._segments, self._patch_segments, length = pack.segments(spec)
        pixels = n * spec.out[1] * spec.out[2]
        outputs = mr // 4 if spec.pool else mr
        tiles = -(-pixels // outputs)
        patch = mr * kh * kw * cin * item
        per_task = max(1, min(MAX_TILES, PATCH_BYTES // max(patch, 1), tiles // 16))
        private = per_task * (16 * mr + 8 + patch)
        super().__init__(
            JOB, private, kernel=self.kernel.address, mr=mr, nr=nr, tiles=tiles,
            per_task=per_task, pool=int(spec.pool), pixels=pixels, h=h, w=width, channels=c,
            oh=spec.out[1], ow=spec.out[2], cout=k, kh=kh, kw=kw, sh=spec.stride[0],
            sw=spec.stride[1], dh=spec.dilation[0], dw=spec.dilation[1], top=spec.pad[0][0],
            left=spec.pad[1][0], groups=spec.groups, panels=-(-kout // nr),
            panel_bytes=kh * kw * cin * nr * item, weights=self.packed.ctypes.data,
            bias=self._bias.ctypes.data, clamp=self._clamp.ctypes.data,
            segments=self._segments.ctypes.data,
            patch_segments=self._patch_segments.ctypes.data, nseg=len(self._segments),
            length=length, item=item,
        )  # fmt: skip


def supports(spec: Conv2d) -> str:
    """Why this algorithm cannot serve `spec`; "" when it can."""
    del spec
    return ""

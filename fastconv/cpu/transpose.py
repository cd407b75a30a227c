"""Transposed convolution by row phases: dense matrix products, no zero insertion, no col2im.

With the kernel padded to M * s taps an axis, output row ``q * s + r`` (phase r) depends on input
rows q - M + 1 ... q, and the s * k output numbers of position p on input columns p - M + 1 ... p.
So each row phase is a stride-1 convolution of M x M taps with ``s * k`` output channels, which lie
side by side in memory; all phases share the rows of a tile.
"""

import numpy as np

from fastconv.cpu import cost, finish, pack
from fastconv.cpu.cost import Cost
from fastconv.cpu.direct import (
    AHEAD,
    MAX_TILES,
    PATCH_BYTES,
    SHARES,
    TILE_CYCLES,
    choose_kernel,
)
from fastconv.cpu.intrinsics import Inlined, call, copy_bytes, store_sequence
from fastconv.cpu.job import Job, OneJob, take
from fastconv.cpu.kernels import kernel
from fastconv.cpu.padding import Padded
from fastconv.cpu.tiles import fill_tiles
from fastconv.dtypes import ITEMSIZE, WORKING, label_dtype
from fastconv.shapes import Pair
from fastconv.spec import Conv2d, ConvTranspose2d
from fastconv.weights import Weights


@Inlined
def flush(source, n, oy, x0, width, kout, out, add, oh, ow, cout, offset, finish, labels,
          label_item, clamp, slopes, item, work):  # fmt: skip
    """Write `width` pixels of sums, those that are inside the output's row, from column x0 on."""
    first, last = max(x0, 0), min(x0 + width, ow)
    if first >= last:
        return
    source += (first - x0) * kout * work
    at = (n * oh + oy) * ow + first
    to = out + (at * cout + offset) * item
    if labels:
        call(labels, (source, last - first, kout, out + at * label_item, label_item))
    elif finish:
        call(finish, (source, kout * work, 0, to, add, cout * item, 0, last - first, 1, kout, clamp,
                      slopes))  # fmt: skip
    else:
        copy_bytes(to, source, (last - first) * kout * item)


def transpose(thread, counter, x, out, scratch, add, scratch_bytes, shared_bytes, kernel, finish,
              labels, label_item, mr, nr, tiles, per_task, pixels, h, w, channels, qh, qw, oh, ow,
              cout, mh, mw, sh, sw, before_h, before_w, top, left, groups, panels, panel_bytes,
              weights, bias, clamp, slopes, segments, patch_segments, nseg, length, item,
              work):  # fmt: skip
    """Driver: tasks are runs of tiles of positions (q, p), for all phases and panels.

    A run of positions of one row q makes a run of an output row for each phase. It is written
    straight to the output, or, where it is cropped or more has to be done, to `stage` first.
    """
    if shared_bytes:
        x = scratch  # the padded copy
    cin, kout = channels // groups, cout // groups
    pixel, run = channels * work, cin * work
    columns = sw * kout
    rows = scratch + shared_bytes + thread * scratch_bytes
    targets = rows + per_task * mr * 8
    tables = targets + per_task * mr * 8
    stage = tables + per_task * 8
    patches = stage + per_task * mr * columns * work
    direct = finish == 0 and labels == 0
    tasks = (tiles + per_task - 1) // per_task
    # Positions from `inner` up to `outer` make only columns that exist.
    inner = min((left + sw - 1) // sw, qw)
    outer = max(min((ow + left) // sw, qw), inner)
    while True:
        task = take(counter, thread, tasks)
        if task >= tasks:
            break
        first = task * per_task
        count = min(per_task, tiles - first)
        last = min(count * mr, pixels - first * mr)  # positions of the task
        for g in range(groups):
            fill_tiles(rows, tables, segments, patch_segments, first, count, mr, pixels, 0, x,
                       g * run, h, w, pixel, qh, qw, mh, mw, 1, 1, 1, 1, before_h, before_w,
                       patches, run)  # fmt: skip
            for r in range(sh):
                spare = stage + last * columns * work
                store_sequence(targets + 8 * last, spare, columns * work, count * mr - last)
                for again in range(2):  # before and after the products
                    n, rest = divmod(first * mr, qh * qw)
                    q, p = divmod(rest, qw)
                    i = 0
                    while i < last:
                        end = inner if p < inner else outer if p < outer else qw
                        some = min(last - i, end - p)
                        oy, x0 = q * sh + r - top, p * sw - left
                        exists = 0 <= oy < oh
                        whole = direct and exists and x0 >= 0 and x0 + some * sw <= ow
                        to, step = stage + i * columns * work, columns * work
                        if again == 0:
                            if whole:
                                to = out + ((n * oh + oy) * ow + x0) * cout * item
                            store_sequence(targets + 8 * i, to, step, some)
                        elif exists and not whole:
                            flush(to, n, oy, x0, some * sw, kout, out, add, oh, ow, cout, g * kout,
                                  finish, labels, label_item, clamp + 2 * work,
                                  slopes + g * kout * work, item, work)  # fmt: skip
                        i += some
                        p += some
                        if p == qw:
                            p = 0
                            q += 1
                        if q == qh:
                            q = 0
                            n += 1
                    if again:
                        continue
                    for panel in range(panels):
                        b = weights + ((g * sh + r) * panels + panel) * panel_bytes
                        column = min(panel * nr, max(columns - nr, 0))
                        start = bias + (g * max(columns, nr) + column) * work
                        call(kernel, (rows, tables, 0, nseg, length, b, start, 0, 0, clamp, targets,
                                      column * work, min(nr, columns), count,
                                      AHEAD * mr * pixel, b, 0))  # fmt: skip


JOB = Job(transpose)


class Transpose(OneJob):
    """A transposed convolution, planned; with `labels` the largest channel of each pixel."""

    algorithm = "direct"

    def __init__(
        self, spec: ConvTranspose2d, w: Weights, bias: np.ndarray | None,
        slopes: np.ndarray | None, labels: bool = False,
    ) -> None:  # fmt: skip
        n, h, width, c = spec.x
        _, oh, ow, k = spec.out
        sh, sw = spec.stride
        dtype, groups = WORKING[spec.dtype], spec.groups
        item, work = ITEMSIZE[spec.dtype], ITEMSIZE[dtype]
        kout = k // groups
        mh, mw = phase_taps(spec)
        self.kernel = choose_kernel("gemm", dtype, sw * kout)
        mr, nr = self.kernel.mr, self.kernel.nr
        depth = mh * mw * (c // groups)
        layout = spec.stride, spec.dilation, groups, nr, dtype
        self.packed = w.packed(layout, lambda array: pack_phases(array, *layout))
        values = np.zeros(k, dtype) if bias is None else bias
        tiled = np.tile(values.reshape(groups, 1, kout), (1, sw, 1))
        self._bias = pack.bias(tiled.reshape(-1), groups * sw * kout, groups, nr, dtype)
        # Where channels of a pixel come from several groups, they do not lie side by side.
        finisher = finish.kernel_for(spec)
        if groups > 1 and not finisher:
            finisher = kernel("finish_clamp", spec.dtype)
        self._clamp = pack.clamp(spec, finisher is not None, dtype)
        self._slopes = pack.slopes(spec, slopes, dtype)
        # Every position with an output: some meet no input (output padding), some are cropped.
        qh, qw = -(-(oh + spec.pad[0][0]) // sh), -(-(ow + spec.pad[1][0]) // sw)
        padded, shape, before = None, spec.x, (mh - 1, mw - 1)
        if dtype != spec.dtype:
            around = ((mh - 1, max(qh - h, 0)), (mw - 1, max(qw - width, 0)))
            padded = Padded(spec.x, around, spec.dtype)
            shape, before = padded.shape, (0, 0)
        phase = Conv2d(shape, (mh, mw, c // groups, groups), pad=((mh, mh), (mw, mw)),
                       groups=groups, dtype=dtype)  # fmt: skip
        self._segments, self._patch_segments, length = pack.segments(shape, phase, dtype, depth)
        pixels = n * qh * qw
        tiles = -(-pixels // mr)
        patch = mr * depth * work
        per_task = max(1, min(MAX_TILES, PATCH_BYTES // max(patch, 1), tiles // SHARES))
        private = per_task * (16 * mr + 8 + mr * sw * kout * work + patch)
        super().__init__(
            JOB, private, padded, kernel=self.kernel.address,
            finish=finisher.address if finisher else 0,
            labels=kernel("argmax", dtype).address if labels else 0,
            label_item=label_dtype(k).itemsize, mr=mr, nr=nr, tiles=tiles,
            per_task=per_task, pixels=pixels, h=shape[1], w=shape[2], channels=c, qh=qh, qw=qw,
            oh=oh, ow=ow, cout=k, mh=mh, mw=mw, sh=sh, sw=sw, before_h=before[0],
            before_w=before[1], top=spec.pad[0][0], left=spec.pad[1][0], groups=groups,
            panels=self.packed.shape[1], panel_bytes=depth * nr * work,
            weights=self.packed.ctypes.data, bias=self._bias.ctypes.data,
            clamp=self._clamp.ctypes.data, slopes=self._slopes.ctypes.data,
            segments=self._segments.ctypes.data, patch_segments=self._patch_segments.ctypes.data,
            nseg=len(self._segments), length=length, item=item, work=work,
        )  # fmt: skip


def phase_taps(spec: ConvTranspose2d) -> tuple[int, int]:
    """Rows and columns of taps of each phase."""
    (kh, kw), (sh, sw), (dh, dw) = spec.w[:2], spec.stride, spec.dilation
    return -(-((kh - 1) * dh + 1) // sh), -(-((kw - 1) * dw + 1) // sw)


def pack_phases(
    w: np.ndarray, stride: Pair, dilation: Pair, groups: int, nr: int, dtype: str
) -> np.ndarray:
    """w[kh, kw, kout, c] -> packed[groups * sh, panels of sw * kout, mh * mw * cin, nr].

    Taps are in the order of the inputs that they meet: input row q - mh + 1 + i meets tap
    ``(mh - 1 - i) * sh + r``.
    """
    kh, kw, kout, c = w.shape
    (sh, sw), (dh, dw) = stride, dilation
    mh, mw = -(-((kh - 1) * dh + 1) // sh), -(-((kw - 1) * dw + 1) // sw)
    dense = np.zeros((mh * sh, mw * sw, kout, c), w.dtype)
    dense[: (kh - 1) * dh + 1 : dh, : (kw - 1) * dw + 1 : dw] = w
    taps = dense.reshape(mh, sh, mw, sw, kout, groups, c // groups)[::-1, :, ::-1]
    ordered = taps.transpose(0, 2, 6, 5, 1, 3, 4)  # i, j, c, group, r, rx, k
    columns = groups * sh * sw * kout
    matrix = ordered.reshape(mh * mw * (c // groups), columns)
    return pack.panels(matrix, groups * sh, nr, dtype)


def expected(spec: ConvTranspose2d) -> Cost:
    """Cost for one image."""
    kout, (sh, sw) = spec.w[2], spec.stride
    mh, mw = phase_taps(spec)
    depth = mh * mw * (spec.x[3] // spec.groups)
    tile = choose_kernel("gemm", spec.dtype, sw * kout)
    tiles = -(-(spec.x[1] + mh - 1) * (spec.x[2] + mw - 1) // tile.mr)
    panels = spec.groups * sh * -(-sw * kout // tile.nr)
    products = cost.multiplications(tiles * tile.mr * panels * tile.nr * depth, spec.dtype)
    weights = panels * tile.nr * depth * ITEMSIZE[WORKING[spec.dtype]]
    near, far = cost.traffic(spec, weights)
    ideal = cost.multiplications(spec.flops // 2 // max(spec.x[0], 1), spec.dtype)
    return Cost(ideal, products / cost.PRODUCTS + tiles * panels * TILE_CYCLES, near, far)

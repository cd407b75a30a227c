"""Transposed convolution by row phases: dense matrix products, no zero insertion, no col2im.

With the kernel padded to M * s taps an axis, output row ``q * s + r`` (phase r) depends on input
rows q - M + 1 ... q, and the s * k output numbers of position p on input columns p - M + 1 ... p.
So each row phase is a stride-1 convolution of M x M taps with ``s * k`` output channels, which lie
side by side in memory; all phases share the rows of a tile.
"""

import numpy as np

from fastconv.cpu import pack
from fastconv.cpu.direct import MAX_TILES, PATCH_BYTES, choose_kernel
from fastconv.cpu.job import Job, OneJob
from fastconv.cpu.simd import atomic_add, call, copy_bytes, load_int, store_int
from fastconv.cpu.tiles import fill_rows, inlined
from fastconv.spec import Conv2d, ConvTranspose2d


@inlined
def following(n, q, p, qh, qw):
    """The position after (n, q, p)."""
    p += 1
    if p == qw:
        p = 0
        q += 1
        if q == qh:
            q = 0
            n += 1
    return n, q, p


@inlined
def copy_clipped(source, out_row, first, valid, limit, item):
    """Numbers first ... first + valid of an output row, as far as the row reaches."""
    low, high = max(first, 0), min(first + valid, limit)
    if low < high:
        copy_bytes(out_row + low * item, source + (low - first) * item, (high - low) * item)


@inlined
def scatter_group(source, out_row, p, sw, left, ow, cout, offset, kout, column, valid, item):
    """As `copy_clipped` where a group's channels are only a part of each pixel."""
    for i in range(valid):
        rx, k = divmod(column + i, kout)
        ox = p * sw + rx - left
        if 0 <= ox < ow:
            copy_bytes(out_row + (ox * cout + offset + k) * item, source + i * item, item)


def transpose(thread, counter, x, out, scratch, scratch_bytes, kernel, mr, nr, tiles, per_task,
              pixels, h, w, channels, qh, qw, oh, ow, cout, mh, mw, sh, sw, top, left, groups,
              panels, panel_bytes, weights, bias, clamp, segments, patch_segments, nseg, length,
              item):  # fmt: skip
    """Driver: tasks are runs of tiles of positions (q, p), for all phases and panels.

    What does not go to one whole run of an output row is computed into `spill` and copied.
    """
    cin, kout = channels // groups, cout // groups
    pixel, run = channels * item, cin * item
    columns = sw * kout
    rows = scratch + thread * scratch_bytes
    targets = rows + per_task * mr * 8
    tables = targets + per_task * mr * 8
    spill = tables + per_task * 8
    patches = spill + per_task * mr * nr * item
    tasks = (tiles + per_task - 1) // per_task
    while True:
        task = atomic_add(counter, 1)
        if task >= tasks:
            break
        first = task * per_task
        count = min(per_task, tiles - first)
        for g in range(groups):
            for t in range(count):
                inside = fill_rows(
                    rows + t * mr * 8, (first + t) * mr, mr, pixels, 0, x, g * run, h, w, pixel,
                    qh, qw, mh, mw, 1, 1, 1, 1, mh - 1, mw - 1,
                    patches + t * mr * mh * mw * run, run)  # fmt: skip
                store_int(tables + t * 8, segments if inside else patch_segments)
            for phase_panel in range(sh * panels):
                r, panel = divmod(phase_panel, panels)
                column = panel * nr
                valid = min(nr, columns - column)
                b = weights + ((g * sh + r) * panels + panel) * panel_bytes
                start = bias + (g * panels + panel) * nr * item
                whole = groups == 1
                spilled = False
                n, rest = divmod(first * mr, qh * qw)
                q, p = divmod(rest, qw)
                for i in range(count * mr):
                    oy, at = q * sh + r - top, (p * sw - left) * cout + column
                    if whole and n * qh * qw + q * qw + p < pixels and (
                        0 <= oy < oh and at >= 0 and at + valid <= ow * cout
                    ):  # fmt: skip
                        to = out + ((n * oh + oy) * ow * cout + at) * item
                    else:
                        to = spill + i * nr * item
                        spilled = True
                    store_int(targets + 8 * i, to)
                    n, q, p = following(n, q, p, qh, qw)
                call(kernel, (rows, tables, nseg, length, b, start, clamp, targets, 0, valid,
                              count))  # fmt: skip
                if not spilled:
                    continue
                n, rest = divmod(first * mr, qh * qw)
                q, p = divmod(rest, qw)
                for i in range(min(count * mr, pixels - first * mr)):
                    source = spill + i * nr * item
                    oy = q * sh + r - top
                    if load_int(targets + 8 * i) == source and 0 <= oy < oh:
                        row = out + (n * oh + oy) * ow * cout * item
                        if whole:
                            at = (p * sw - left) * cout + column
                            copy_clipped(source, row, at, valid, ow * cout, item)
                        else:
                            scatter_group(source, row, p, sw, left, ow, cout, g * kout, kout,
                                          column, valid, item)  # fmt: skip
                    n, q, p = following(n, q, p, qh, qw)


JOB = Job(transpose)


class Transpose(OneJob):
    """A transposed convolution, planned."""

    algorithm = "direct"

    def __init__(self, spec: ConvTranspose2d, w: np.ndarray, bias: np.ndarray | None) -> None:
        n, h, width, c = spec.x
        _, oh, ow, k = spec.out
        sh, sw = spec.stride
        dtype, groups = spec.dtype, spec.groups
        item = np.dtype(dtype).itemsize
        kout = k // groups
        phases, (mh, mw) = phase_weights(w, spec)  # [groups][sh][mh * mw * cin][sw * kout]
        self.kernel = choose_kernel("gemm", dtype, sw * kout)
        mr, nr = self.kernel.mr, self.kernel.nr
        depth = phases.shape[2]
        columns = np.moveaxis(phases.reshape(groups * sh, depth, sw * kout), 0, 1)
        self.packed = pack.panels(columns.reshape(depth, groups * sh * sw * kout), groups * sh, nr)
        values = np.zeros(k, dtype) if bias is None else bias
        tiled = np.tile(values.reshape(groups, 1, kout), (1, sw, 1))
        self._bias = pack.bias(tiled.reshape(-1), groups * sw * kout, groups, nr, dtype)
        self._clamp = pack.clamp(spec.activation, dtype)
        phase = Conv2d(spec.x, (mh, mw, c // groups, groups), pad=((mh, mh), (mw, mw)),
                       groups=groups, dtype=dtype)  # fmt: skip
        self._segments, self._patch_segments, length = pack.segments(phase)
        # Every position with an output: some meet no input (output padding), some are cropped.
        qh, qw = -(-(oh + spec.pad[0][0]) // sh), -(-(ow + spec.pad[1][0]) // sw)
        pixels = n * qh * qw
        tiles = -(-pixels // mr)
        patch = mr * depth * item
        per_task = max(1, min(MAX_TILES, PATCH_BYTES // max(patch, 1), tiles // 16))
        private = per_task * (16 * mr + 8 + mr * nr * item + patch)
        super().__init__(
            JOB, private, kernel=self.kernel.address, mr=mr, nr=nr, tiles=tiles,
            per_task=per_task, pixels=pixels, h=h, w=width, channels=c, qh=qh, qw=qw, oh=oh, ow=ow,
            cout=k, mh=mh, mw=mw, sh=sh, sw=sw, top=spec.pad[0][0], left=spec.pad[1][0],
            groups=groups, panels=self.packed.shape[1], panel_bytes=depth * nr * item,
            weights=self.packed.ctypes.data, bias=self._bias.ctypes.data,
            clamp=self._clamp.ctypes.data, segments=self._segments.ctypes.data,
            patch_segments=self._patch_segments.ctypes.data,
            nseg=len(self._segments), length=length, item=item,
        )  # fmt: skip


def phase_weights(w: np.ndarray, spec: ConvTranspose2d) -> tuple[np.ndarray, tuple[int, int]]:
    """w[kh, kw, kout, c] -> [groups][sh][mh * mw * cin][sw * kout], and (mh, mw).

    Taps are in the order of the inputs that they meet: input row q - mh + 1 + i meets tap
    ``(mh - 1 - i) * sh + r``.
    """
    kh, kw, kout, c = w.shape
    (sh, sw), (dh, dw), groups = spec.stride, spec.dilation, spec.groups
    mh, mw = -(-((kh - 1) * dh + 1) // sh), -(-((kw - 1) * dw + 1) // sw)
    dense = np.zeros((mh * sh, mw * sw, kout, c), w.dtype)
    dense[: (kh - 1) * dh + 1 : dh, : (kw - 1) * dw + 1 : dw] = w
    taps = dense.reshape(mh, sh, mw, sw, kout, groups, c // groups)[::-1, :, ::-1]
    ordered = taps.transpose(5, 1, 0, 2, 6, 3, 4)  # group, r, i, j, c, rx, k
    return ordered.reshape(groups, sh, mh * mw * (c // groups), sw * kout), (mh, mw)

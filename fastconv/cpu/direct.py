"""Direct convolution as an implicit matrix product: any kernel, stride, dilation and groups.

A task is a few register tiles of output pixels and some panels of output channels. Each output is
summed over (row, column, channel) in that order, so its bits do not depend on the tile, the task or
the thread that it falls to.

Sums over many taps and channels are made in parts, so that a part's inputs stay in the L2 cache
while all panels of the task use them (7x7 kernels on 512 channels: 790 -> 330 ms), and its weights
of one panel in the L1 cache (1x1 kernels on 4096 channels: 19.0 -> 17.1 ms).

Outputs that no cache holds are written past them (3 to 64 channels on 512 x 512: 3.1 -> 2.2 ms with
AVX-512 on Zen 5; on Zen 4 it makes no difference).

What did not help: packing A for 1x1 kernels; unrolling sums to fit 9 or 21 products.
"""

import math

import numpy as np

from fastconv.cpu import cost, finish, host, pack
from fastconv.cpu.cost import Cost
from fastconv.cpu.intrinsics import call, store_sequence
from fastconv.cpu.job import Job, OneJob, Template, take
from fastconv.cpu.kernels import Kernel, candidates
from fastconv.cpu.padding import Padded
from fastconv.cpu.tiles import fill_tiles
from fastconv.dtypes import ITEMSIZE, WORKING
from fastconv.spec import Conv2d
from fastconv.weights import Weights

PATCH_BYTES = 512 << 10  # of L2, for the gathered rows of a task
MAX_TILES = 64  # of a task; more where they fit help only the first, small layers
DEEP, DEPTH = 1024, 512  # products of a sum that is made in parts, and most of a part
PANEL_BYTES = 48 << 10  # for a part's weights of one panel: about an L1 cache
ROW_CYCLES = 8  # what a row of a tile costs beside its arithmetic: to find and to finish it
TILE_CYCLES = 25  # what a tile costs beside its arithmetic, for each panel
AHEAD = 2  # tiles whose inputs are fetched meanwhile
SHARES = 16  # tasks that are enough for threads of unequal speed


def direct(thread, counter, x, out, scratch, add, scratch_bytes, shared_bytes, kernel, finish, mr,
           nr, tiles, per_task, pool, pixels, h, w, channels, oh, ow, cout, kh, kw, sh, sw, dh, dw,
           top, left, groups, panels, group_panels, panel_bytes, weights, bias, clamp, slopes,
           segments, patch_segments, nseg, part, length, item, work):  # fmt: skip
    """Driver: tasks are runs of `per_task` tiles times runs of `group_panels` panels.

    A tile's outputs are `outputs` pixels, all of them in order, so a task's are one run. The sums
    go straight to the output, or, where a kernel finishes them, to scratch memory first.
    """
    if shared_bytes:
        x = scratch  # the padded copy
    outputs = mr // 4 if pool else mr
    cin, kout = channels // groups, cout // groups
    pixel, run = channels * work, cin * work
    rows = scratch + shared_bytes + thread * scratch_bytes
    targets = rows + per_task * mr * 8
    inner = targets + per_task * outputs * 8
    tables = inner + per_task * mr * 8
    sums = tables + per_task * 8
    partial = nseg > part
    if partial:  # the sums of one panel of each group of panels
        store_sequence(inner, sums, nr * work, per_task * mr)
    row = nr * work  # of a panel
    panel_sums = per_task * mr * row
    stage = sums + (group_panels * panel_sums if partial else 0)
    columns = min(group_panels * nr, kout) if groups == 1 else cout
    patches = stage + (per_task * outputs * columns * work if finish else 0)
    runs = (tiles + per_task - 1) // per_task
    tasks = runs * ((panels + group_panels - 1) // group_panels)
    endless = clamp + 4 * work
    ahead = 0 if partial else AHEAD * outputs * sw * pixel  # a part's inputs are in L2
    while True:
        task = take(counter, thread, tasks)
        if task >= tasks:
            break
        which, at = divmod(task, runs)
        first, start = at * per_task, which * group_panels
        stop = min(start + group_panels, panels)
        count = min(per_task, tiles - first)
        last = min(count * outputs, pixels - first * outputs)  # pixels of the task
        shifted = min(start * nr, max(kout - nr, 0)) if groups == 1 else 0  # its first channel
        to, step = out + (first * outputs * cout + shifted) * item, cout * item
        if finish:
            to, step = stage, columns * work
        store_sequence(targets, to, step, last)
        # Rows of the last tile beyond the last output repeat it.
        store_sequence(targets + last * 8, to + (last - 1) * step, 0, count * outputs - last)
        for g in range(groups):
            fill_tiles(rows, tables, segments, patch_segments, first, count, mr, pixels, pool, x,
                       g * run, h, w, pixel, oh, ow, kh, kw, sh, sw, dh, dw, top, left, patches,
                       run)  # fmt: skip
            for s in range(0, nseg, part):
                some = min(part, nseg - s)
                for panel in range(start, stop):
                    b = weights + (g * panels + panel) * panel_bytes + s * length * nr * work
                    column = min(panel * nr, max(kout - nr, 0))
                    begin = bias + (g * max(kout, nr) + column) * work
                    row_step, tile_step = 0, 0
                    if s > 0:
                        begin = sums + (panel - start) * panel_sums
                        row_step, tile_step = nr * work, mr * nr * work
                    to, limits, valid = targets, clamp, min(nr, kout)
                    shift = (g * kout + column - shifted) * work
                    if s + some < nseg:
                        to, limits, valid = inner, endless, nr
                        shift = (panel - start) * panel_sums
                    following, lines = b, 0
                    if partial:  # these weights come from memory: the next ones meanwhile
                        following = b + panel_bytes
                        if panel + 1 == stop:
                            following = weights + start * panel_bytes + (s + part) * length * row
                        lines = (some * length * row // 64 + count - 1) // count
                    call(kernel, (rows, tables, s * 8, some, length, b, begin, row_step, tile_step,
                                  limits, to, shift, valid, count, ahead, following,
                                  lines))  # fmt: skip
        if finish:
            width = columns
            if groups == 1:
                width = min((stop - 1) * nr, max(kout - nr, 0)) + min(nr, kout) - shifted
            to = out + (first * outputs * cout + shifted) * item
            call(finish, (stage, columns * work, 0, to, add, cout * item, 0, last, 1, width,
                          clamp + 2 * work, slopes + shifted * work))  # fmt: skip


JOB = Job(direct)


def choose_kernel(kind: str, dtype: str, columns: int) -> Kernel:
    """Least padding of the columns, then the widest tile."""
    return min(candidates(kind, WORKING[dtype]), key=lambda k: -(-columns // k.nr) * k.nr)


class Direct(OneJob):
    """A direct convolution, planned: packed weights and everything that depends on shapes."""

    algorithm = "direct"

    def __init__(
        self, spec: Conv2d, w: Weights, bias: np.ndarray | None, slopes: np.ndarray | None
    ) -> None:
        kh, kw, cin, k = spec.w
        kout, depth = k // spec.groups, kh * kw * cin
        dtype = WORKING[spec.dtype]
        work = ITEMSIZE[dtype]
        deep = depth >= DEEP and not spec.pool
        self._padded = None
        padding, shape = spec.pad, spec.x
        if dtype != spec.dtype or (deep and any(map(any, spec.pad))):
            self._padded = Padded(spec.x, spec.pad, spec.dtype)
            padding, shape = ((0, 0), (0, 0)), self._padded.shape
        n, h, width, c = shape
        self.kernel = choose_kernel("gemm_pool" if spec.pool else "gemm", dtype, kout)
        mr, nr = self.kernel.mr, self.kernel.nr
        layout = spec.groups, nr, dtype
        self.packed = w.packed(layout, lambda array: pack.panels(array.reshape(depth, k), *layout))
        self._bias = pack.bias(bias, k, spec.groups, nr, dtype)
        finisher = finish.kernel_for(spec)
        self._clamp = pack.clamp(spec, finisher is not None, dtype)
        self._slopes = pack.slopes(spec, slopes, dtype)
        most_depth = min(DEPTH, PANEL_BYTES // (nr * work)) if deep else depth
        self._segments, self._patch_segments, length = pack.segments(
            (n, h, width, c), spec, dtype, most_depth
        )
        nseg = len(self._segments)
        part = max(1, most_depth // length) if deep else nseg
        pixels = n * spec.out[1] * spec.out[2]
        outputs = mr // 4 if spec.pool else mr
        tiles, panels = -(-pixels // outputs), -(-kout // nr)
        # What a tile keeps in L2: a part's inputs, or the patch of a field that leaves the map.
        patch = mr * depth * work if any(map(any, padding)) else 0
        tile_bytes = max(patch, mr * min(depth, part * length) * work)
        budget = min(PATCH_BYTES, 5 * host.cache_bytes()[0] // 8) if deep else PATCH_BYTES
        most = max(1, min(MAX_TILES, budget // max(tile_bytes, 1)))
        per_task = max(1, min(most, tiles // SHARES))
        group_panels = panels
        if deep and spec.groups == 1 and per_task < most:  # few pixels: share the panels, too
            per_task = max(1, -(-tiles // -(-tiles // most)))
            group_panels = max(1, min(panels, 8, panels * -(-tiles // per_task) // SHARES))
        columns = min(group_panels * nr, kout) if spec.groups == 1 else k
        private = per_task * (16 * mr + 8 * outputs + 8 + patch)
        if nseg > part:
            private += group_panels * per_task * mr * nr * work
        if finisher:
            private += per_task * outputs * columns * work
        stream = candidates("gemm_stream", dtype, mr=mr, vectors=self.kernel.vectors)
        self._streaming: Template | None = None
        super().__init__(
            JOB, private, self._padded, kernel=self.kernel.address,
            finish=finisher.address if finisher else 0, mr=mr, nr=nr, tiles=tiles,
            per_task=per_task, pool=int(spec.pool), pixels=pixels, h=h, w=width, channels=c,
            oh=spec.out[1], ow=spec.out[2], cout=k, kh=kh, kw=kw, sh=spec.stride[0],
            sw=spec.stride[1], dh=spec.dilation[0], dw=spec.dilation[1], top=padding[0][0],
            left=padding[1][0], groups=spec.groups, panels=panels, group_panels=group_panels,
            panel_bytes=depth * nr * work, weights=self.packed.ctypes.data,
            bias=self._bias.ctypes.data, clamp=self._clamp.ctypes.data,
            slopes=self._slopes.ctypes.data, segments=self._segments.ctypes.data,
            patch_segments=self._patch_segments.ctypes.data, nseg=nseg, part=part, length=length,
            item=ITEMSIZE[spec.dtype], work=work,
        )  # fmt: skip
        simple = not (finisher or spec.pool or nseg > part or spec.groups > 1)
        if stream and simple and kout * work % 64 == 0 and host.bypasses(pixels * k * work):
            self._streaming = JOB.changed(self._template, kernel=stream[0].address)

    def _template_for(self, out: int) -> Template:
        return self._streaming if self._streaming and out % 64 == 0 else self._template


def supports(spec: Conv2d) -> str:
    """Why this algorithm cannot serve `spec`; "" when it can."""
    del spec
    return ""


def expected(spec: Conv2d) -> Cost:
    """Cost for one image."""
    kh, kw, cin, k = spec.w
    kout, depth = k // spec.groups, kh * kw * cin
    tile = choose_kernel("gemm_pool" if spec.pool else "gemm", spec.dtype, kout)
    outputs = tile.mr // 4 if spec.pool else tile.mr
    tiles = -(-math.prod(spec.out[1:3]) // outputs)
    panels = spec.groups * -(-kout // tile.nr)
    products = tiles * tile.mr * panels * tile.nr * depth
    cycles = (
        cost.multiplications(products, spec.dtype) / cost.PRODUCTS
        + tiles * (panels * TILE_CYCLES + spec.groups * tile.mr * ROW_CYCLES)
    )  # fmt: skip
    weights = panels * tile.nr * depth * ITEMSIZE[WORKING[spec.dtype]]
    near, far = cost.traffic(spec, weights)
    ideal = cost.multiplications(spec.flops // 2 // max(spec.x[0], 1), spec.dtype)
    return Cost(ideal, cycles, near, far)

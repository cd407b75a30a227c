"""Winograd F(m x m, 3x3) for 3x3 kernels of stride 1: with m = 4 a quarter of the multiplications.

A dilated convolution is dh * dw dense ones on interleaved pixels; their tiles only have other
strides.

Two schedules of the same arithmetic, so of the same bits:

* fused: a task transforms `block` tiles into private scratch that stays in L2, then for each panel
  of output channels does the (m + 2)**2 products and the inverse transform. For many tiles.
* phased: all tiles are transformed first; then a task is a (panel, block) pair, panel-major, so
  that the transformed weights stream through the cache once. For many channels or small maps.

Tiles are anchored to the output's origin. Bias, clamp and a 2x2 max-pool happen in the inverse
transform; border tiles go through a zero-padded patch, and the activation is never copied.

What did not help: unfused transforms for few channels; blocks beyond L2.
"""

import math

import numpy as np
from numba import njit

from fastconv.cpu import host, pack
from fastconv.cpu.job import Job, scratch
from fastconv.cpu.kernels import Kernel, candidates, kernel
from fastconv.cpu.simd import LANES, atomic_add, call, copy_bytes, zero_bytes
from fastconv.cpu.transforms import transform_weights
from fastconv.memory import aligned_empty
from fastconv.spec import Conv2d

STREAM_BYTES = 30_000_000  # outputs from here on bypass the caches
STAGGER = 64  # bytes between products, so that their addresses do not share cache sets

inlined = njit(nogil=True, error_model="numpy")


@inlined
def locate(tile, ty_count, tx_count, dh, dw, size):
    """Image, row and column of a tile's first output, `size` of them a side."""
    n, rest = divmod(tile, dh * dw * ty_count * tx_count)
    phase, rest = divmod(rest, ty_count * tx_count)
    py, px = divmod(phase, dw)
    ty, tx = divmod(rest, tx_count)
    return n, py + ty * size * dh, px + tx * size * dw


@inlined
def input_tile(transform, m, x, h, w, channels, item, lanes, top, left, dh, dw, tile, ty_count,
               tx_count, target, product, group, patch):  # fmt: skip
    """Transform one tile of all channels to `target`; `patch` is scratch."""
    reach = m + 2
    n, y0, x0 = locate(tile, ty_count, tx_count, dh, dw, m)
    y0, x0 = y0 - top, x0 - left
    pixel = channels * item
    vector = lanes * item
    image = x + n * h * w * pixel
    whole = channels // lanes
    last = reach - 1
    if y0 >= 0 and x0 >= 0 and y0 + last * dh < h and x0 + last * dw < w:
        start = image + (y0 * w + x0) * pixel
        call(transform, (start, dw * pixel, dh * w * pixel, whole, target, product, group))
        first = whole
    else:
        first = 0
    groups = (channels + lanes - 1) // lanes
    if first < groups:  # a border tile, or the last channels of an odd number
        size = (groups - first) * vector
        valid = pixel - first * vector
        for i in range(reach):
            for j in range(reach):
                to = patch + (i * reach + j) * size
                row, column = y0 + i * dh, x0 + j * dw
                if 0 <= row < h and 0 <= column < w:
                    of = image + (row * w + column) * pixel + first * vector
                    copy_bytes(to, of, valid)
                    if valid < size:
                        zero_bytes(to + valid, size - valid)
                else:
                    zero_bytes(to, size)
        call(
            transform,
            (patch, size, reach * size, groups - first, target + first * group, product, group),
        )


@inlined
def output_tile(transform, source, product, out, oh, ow, cout, item, lanes, size, channel, valid,
                nr, dh, dw, tile, ty_count, tx_count, bias, clamp, patch):  # fmt: skip
    """Inverse transform of one tile and `nr` channels, of which `valid` exist, into `out`."""
    n, y0, x0 = locate(tile, ty_count, tx_count, dh, dw, size)
    pixel = cout * item
    to = out + ((n * oh + y0) * ow + x0) * pixel + channel * item
    vectors = nr // lanes
    last = size - 1
    if valid == nr and y0 + last * dh < oh and x0 + last * dw < ow:
        call(transform, (source, product, to, dw * pixel, dh * ow * pixel, bias, clamp, vectors))
    else:
        row = nr * item
        call(transform, (source, product, patch, row, size * row, bias, clamp, vectors))
        for i in range(size):
            for j in range(size):
                if y0 + i * dh < oh and x0 + j * dw < ow:
                    at = to + (i * dh * ow + j * dw) * pixel
                    copy_bytes(at, patch + (i * size + j) * row, valid * item)


def fused(thread, counter, x, out, scratch, scratch_bytes, patch_bytes, m_bytes, gemm, forward,
          inverse, tile_size, products, mr, nr, block, product_v, product_m, tiles, ty_count,
          tx_count, h, w, channels, top, left, dh, dw, oh, ow, cout, size, weights, bias, clamp,
          item, lanes):  # fmt: skip
    """Driver: a task is a block of tiles, through all panels."""
    patch = scratch + thread * scratch_bytes
    m = patch + patch_bytes
    v = m + m_bytes
    groups = (channels + lanes - 1) // lanes
    vector = lanes * item
    while True:
        first = atomic_add(counter, 1) * block
        if first >= tiles:
            break
        count = min(block, tiles - first)
        for t in range(count):
            b, r = divmod(t, mr)
            input_tile(forward, tile_size, x, h, w, channels, item, lanes, top, left, dh, dw,
                       first + t, ty_count, tx_count, v + b * mr * groups * vector + r * vector,
                       product_v, mr * vector, patch)  # fmt: skip
        for panel in range((cout + nr - 1) // nr):
            channel = panel * nr
            u = weights + panel * products * groups * vector * nr
            blocks = (count + mr - 1) // mr
            call(gemm, (v, groups, u, m, blocks, products, product_v, product_m))
            for t in range(count):
                output_tile(inverse, m + t * nr * item, product_m, out, oh, ow, cout, item, lanes,
                            size, channel, min(nr, cout - channel), nr, dh, dw, first + t, ty_count,
                            tx_count, bias + channel * item, clamp, patch)  # fmt: skip


def phase_forward(thread, counter, x, out, scratch, scratch_bytes, shared_bytes, forward,
                  tile_size, mr, block, block_bytes, product_v, tiles, ty_count, tx_count, h, w,
                  channels, top, left, dh, dw, item, lanes):  # fmt: skip
    """Driver: transform all tiles into the shared V, which the private scratch follows."""
    patch = scratch + shared_bytes + thread * scratch_bytes
    groups = (channels + lanes - 1) // lanes
    vector = lanes * item
    some = 4
    while True:
        first = atomic_add(counter, 1) * some
        if first >= tiles:
            break
        for tile in range(first, min(first + some, tiles)):
            j, t = divmod(tile, block)
            b, r = divmod(t, mr)
            v = scratch + j * block_bytes + b * mr * groups * vector + r * vector
            input_tile(forward, tile_size, x, h, w, channels, item, lanes, top, left, dh, dw,
                       tile, ty_count, tx_count, v, product_v, mr * vector, patch)  # fmt: skip


def phase_products(thread, counter, x, out, scratch, scratch_bytes, shared_bytes, patch_bytes, gemm,
                   inverse, products, mr, nr, block, block_bytes, product_v, product_m, tiles,
                   ty_count, tx_count, channels, dh, dw, oh, ow, cout, size, weights, bias, clamp,
                   item, lanes):  # fmt: skip
    """Driver: a task is one block of tiles and one panel of output channels."""
    patch = scratch + shared_bytes + thread * scratch_bytes
    m = patch + patch_bytes
    groups = (channels + lanes - 1) // lanes
    vector = lanes * item
    parts = (tiles + block - 1) // block
    tasks = parts * ((cout + nr - 1) // nr)
    while True:
        task = atomic_add(counter, 1)
        if task >= tasks:
            break
        panel, j = divmod(task, parts)
        first = j * block
        count = min(block, tiles - first)
        channel = panel * nr
        v, u = scratch + j * block_bytes, weights + panel * products * groups * vector * nr
        blocks = (count + mr - 1) // mr
        call(gemm, (v, groups, u, m, blocks, products, product_v, product_m))
        for t in range(count):
            output_tile(inverse, m + t * nr * item, product_m, out, oh, ow, cout, item, lanes,
                        size, channel, min(nr, cout - channel), nr, dh, dw, first + t, ty_count,
                        tx_count, bias + channel * item, clamp, patch)  # fmt: skip


FUSED, FORWARD, PRODUCT = Job(fused), Job(phase_forward), Job(phase_products)


def tile_counts(spec: Conv2d, m: int) -> tuple[int, int, int]:
    """Tiles in a column and in a row of one interleaved problem, and of all of them."""
    n, h, w, _ = spec.conv_out
    dh, dw = spec.dilation
    down, across = -(-h // (m * dh)), -(-w // (m * dw))
    return down, across, n * dh * dw * down * across


def choose_schedule(spec: Conv2d, tiles: int, products: int) -> tuple[str, Kernel, int]:
    """Schedule, matrix kernel, and tiles in a block.

    Fused while a block's V and M take at most three quarters of L2 and there are blocks enough to
    share; one block of the 14-row kernel is the least that keeps the FMA units busy.
    """
    rows = candidates("panel_gemm", spec.dtype)
    wide, tall = max(rows, key=lambda k: k.nr), max(rows, key=lambda k: k.mr)
    item = np.dtype(spec.dtype).itemsize
    block = tall.mr * -(-12 // tall.mr)
    working_set = block * products * (spec.x[3] + tall.nr) * item
    if working_set <= 3 * host.cache_bytes()[0] // 4 and tiles >= 8 * block:
        return "fused", tall, block
    whole = -(-max(tiles, 1) // wide.mr) * wide.mr
    return "phased", wide, min(whole, 6 * wide.mr)  # 24 to 66 rows differ by 6 %, 36 are best


class Winograd:
    """A 3x3 convolution by F(m x m, 3x3), planned."""

    def __init__(self, m: int, spec: Conv2d, w: np.ndarray, bias: np.ndarray | None) -> None:
        self.algorithm = f"winograd_f{m}"
        products = (m + 2) ** 2
        _, h, width, c = spec.x
        k = spec.w[3]
        dtype = spec.dtype
        item, lanes = np.dtype(dtype).itemsize, LANES[dtype]
        ty, tx, tiles = tile_counts(spec, m)
        self.schedule, self.kernel, block = choose_schedule(spec, tiles, products)
        mr, nr = self.kernel.mr, self.kernel.nr
        groups, panels = -(-c // lanes), -(-k // nr)
        depth = groups * lanes
        # U[panel][product][depth][nr]; depth is padded like the input's channels
        u = transform_weights(w, m).astype(dtype).reshape(products, c, k)
        self.packed = aligned_empty((panels, products, depth, nr), dtype)
        for t in range(panels):
            valid = min(nr, k - t * nr)
            self.packed[t, :, :c, :valid] = u[:, :, t * nr : t * nr + valid]
            self.packed[t, :, c:] = 0
            self.packed[t, :, :, valid:] = 0
        self._bias = pack.bias(bias, k, 1, nr, dtype)
        self._clamp = pack.clamp(spec.activation, dtype)
        size = m // 2 if spec.pool else m
        product_v = block * depth * item + STAGGER
        product_m = block * nr * item + STAGGER
        patch = _page(max(products * depth, size * size * nr) * item)
        m_bytes = _page(product_m * products)
        block_bytes = _page(product_v * products)
        self._private = patch + m_bytes
        self._shared = 0
        common = {
            "ty_count": ty, "tx_count": tx, "tiles": tiles, "channels": c, "item": item,
            "lanes": lanes, "mr": mr, "block": block, "product_v": product_v,
            "dh": spec.dilation[0], "dw": spec.dilation[1],
        }  # fmt: skip
        source = {
            "h": h, "w": width, "top": spec.pad[0][0], "left": spec.pad[1][0],
            "forward": kernel("winograd_input", dtype, m).address, "tile_size": m,
        }  # fmt: skip
        target = {
            "oh": spec.out[1], "ow": spec.out[2], "cout": k, "size": size, "nr": nr,
            "gemm": self.kernel.address, "product_m": product_m, "patch_bytes": patch,
            "weights": self.packed.ctypes.data, "bias": self._bias.ctypes.data,
            "clamp": self._clamp.ctypes.data, "products": products,
        }  # fmt: skip

        def steps(inverse: Kernel) -> list[tuple[Job, np.ndarray]]:
            last = {**common, **target, "inverse": inverse.address, "scratch_bytes": self._private}
            if self.schedule == "fused":
                return [(FUSED, FUSED.pack(**source, **last, m_bytes=m_bytes))]
            share = {"block_bytes": block_bytes, "shared_bytes": self._shared}
            first = FORWARD.pack(**common, **source, **share, scratch_bytes=self._private)
            return [(FORWARD, first), (PRODUCT, PRODUCT.pack(**last, **share))]

        if self.schedule == "fused":
            self._private += block_bytes
        else:
            self._shared = -(-tiles // block) * block_bytes
        self._steps = steps(kernel("winograd_output" + ("_pool" if spec.pool else ""), dtype, m))
        # Past the caches, where whole vectors are aligned; see `run`.
        nbytes = math.prod(spec.out) * item
        stream = nbytes >= STREAM_BYTES and k % lanes == 0 and not spec.pool
        self._streaming = steps(kernel("winograd_output_stream", dtype, m)) if stream else None

    def scratch_bytes(self, threads: int) -> int:
        """Scratch memory of a run."""
        return self._private * threads + self._shared

    def run(self, x: np.ndarray, out: np.ndarray, threads: int) -> None:
        """Both arrays C-contiguous, of the plan's shapes and dtype."""
        memory = scratch(self.scratch_bytes(threads))
        aligned = out.ctypes.data % 64 == 0
        for job, template in self._streaming if self._streaming and aligned else self._steps:
            job.run(template, x.ctypes.data, out.ctypes.data, memory, threads)


def _page(nbytes: int) -> int:
    return -(-nbytes // 4096) * 4096


def supports(spec: Conv2d) -> str:
    """Why this algorithm cannot serve `spec`; "" when it can."""
    if spec.w[:2] != (3, 3) or spec.stride != (1, 1):
        return "it needs a 3x3 kernel with stride 1"
    if spec.pool and spec.dilation != (1, 1):
        return "it cannot pool dilated outputs, which lie in different tiles"
    if spec.groups != 1:
        return f"it needs groups=1, got {spec.groups}"
    return ""


def profits(spec: Conv2d) -> str:
    """Why the direct algorithm is faster than F(4x4) for `spec`; "" when it is not."""
    n, h, w, k = spec.conv_out
    if spec.x[3] < 16 or k < 8:
        return f"{spec.x[3]} -> {k} channels do not pay for the transforms"
    if 4 * 36 * tile_counts(spec, 4)[2] > 3 * 9 * n * h * w:
        return f"a map of {h} x {w} pixels leaves most of its 4x4 tiles unused"
    return ""

"""Pools and resizes: a thread makes one output pixel of as many channels as 16 bytes hold.

Where those do not divide the channels, it makes one number: pixels then begin anywhere in memory,
and the 4 bytes (or 2) of neighbouring threads lie side by side, so that a warp takes whole lines.
"""

import math

from numba import cuda
from numba.cuda.types import float32, int32

from fastconv.cuda.ptx import (
    fma_outer,
    largest,
    load1,
    load4,
    load8,
    load_int,
    select,
    splat,
    store1,
    store4,
    store8,
    store_int,
    udivmod,
    unroll,
)

THREADS = 256


def accesses(lanes):
    """Functions that read and write 1, 4 or 8 neighbouring channels as a tuple."""

    @cuda.jit(device=True)
    def read_one(x, at, on):
        return (load1(x, at, on),)

    @cuda.jit(device=True)
    def write_one(y, at, values, on):
        store1(y, at, values[0], on)

    return {1: (read_one, write_one), 4: (load4, store4), 8: (load8, store8)}[lanes]


@cuda.jit(device=True)
def task(chunks, oh, ow):
    """Number, image, row, column and chunk of channels of a thread's output."""
    g = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    q, chunk = udivmod(g, chunks)
    q, j = udivmod(q, ow)
    n, i = udivmod(q, oh)
    return g, n, i, j, chunk


@cuda.jit(device=True)
def inside(row, column, height, width):
    """Whether there is such a pixel."""
    return (row >= 0) & (row < height) & (column >= 0) & (column < width)


def make_max(lanes, side):
    """Maximum of windows of `side` x `side`, or where that is 0 of any size."""
    read, write = accesses(lanes)
    taps = side * side

    @cuda.jit(device=True)
    def tap(best, x, n, row, column, at, height, width, c, on):
        on = on & inside(row, column, height, width)
        got = read(x, int32(((n * height + row) * width + column) * c + at), on)
        return largest(best, select(on, got, splat(lanes, float32(-math.inf))))

    @cuda.jit(device=True)
    def known(p, best, x, n, row, column, at, height, width, c, dh, dw, on):
        row, column = int32(row + (p // side) * dh), int32(column + (p % side) * dw)
        return tap(best, x, n, row, column, at, height, width, c, on)

    @cuda.jit(device=True)
    def all_known(x, n, row, column, at, height, width, c, kh, kw, dh, dw, on):
        best = splat(lanes, float32(-math.inf))
        return unroll(taps, known, best, x, n, row, column, at, height, width, c, dh, dw, on)

    @cuda.jit(device=True)
    def any_number(x, n, row, column, at, height, width, c, kh, kw, dh, dw, on):
        best = splat(lanes, float32(-math.inf))
        p = int32(0)
        while p < kh:
            q = int32(0)
            while q < kw:
                best = tap(best, x, n, int32(row + p * dh), int32(column + q * dw), at, height,
                           width, c, on)  # fmt: skip
                q = int32(q + 1)
            p = int32(p + 1)
        return best

    window = all_known if side else any_number

    def max_pool(x, y, height, width, c, oh, ow, kh, kw, down, right, dh, dw, top, left, count):
        g, n, i, j, chunk = task(int32(udivmod(c, int32(lanes))[0]), oh, ow)
        on = g < count
        best = window(x, n, int32(i * down - top), int32(j * right - left), int32(chunk * lanes),
                      height, width, c, kh, kw, dh, dw, on)  # fmt: skip
        write(y, int32(g * lanes), best, on)

    return max_pool


def make_indices():
    """Maximum of each window, and where it is; the first of equals, and the first NaN, counts."""

    def max_pool_indices(x, y, indices, height, width, c, oh, ow, kh, kw, down, right, dh, dw, top,
                         left, count):  # fmt: skip
        g, n, i, j, channel = task(c, oh, ow)
        on = g < count
        best, where = float32(-math.inf), int32(-1)
        p = int32(0)
        while p < kh:
            q = int32(0)
            while q < kw:
                row, column = int32(i * down - top + p * dh), int32(j * right - left + q * dw)
                here = on & inside(row, column, height, width)
                pixel = int32(row * width + column)
                v = load1(x, int32((n * height * width + pixel) * c + channel), here)
                better = (where < 0) | (v > best) | ((v != v) & (best == best))
                best = select(here & better, v, best)
                where = select(here & better, int32(pixel * c + channel), where)
                q = int32(q + 1)
            p = int32(p + 1)
        store1(y, g, best, on)
        store_int(indices, g, where, on)

    return max_pool_indices


def make_mean(lanes):
    """Mean of the pixels of any window; a divisor is one of its row times one of its column."""
    read, write = accesses(lanes)

    @cuda.jit(device=True)
    def divided(i, done, sums, divisor):
        return (*done[1:], sums[i] / divisor)

    def mean_pool(x, y, row_counts, col_counts, height, width, c, oh, ow, kh, kw, down, right, dh,
                  dw, top, left, count):  # fmt: skip
        g, n, i, j, chunk = task(int32(udivmod(c, int32(lanes))[0]), oh, ow)
        on = g < count
        sums = splat(lanes, float32(0))
        p = int32(0)
        while p < kh:
            q = int32(0)
            while q < kw:
                row, column = int32(i * down - top + p * dh), int32(j * right - left + q * dw)
                here = on & inside(row, column, height, width)
                at = int32(((n * height + row) * width + column) * c + chunk * lanes)
                sums = fma_outer(sums, (float32(1),), read(x, at, here))
                q = int32(q + 1)
            p = int32(p + 1)
        divisor = load1(row_counts, i, on) * load1(col_counts, j, on)
        divisor = select(on, divisor, float32(1))
        write(y, int32(g * lanes), unroll(lanes, divided, sums, sums, divisor), on)

    return mean_pool


def make_resize(lanes, taps):
    """Weighted sums of `taps` rows of `taps` columns each, which tables tell."""
    read, write = accesses(lanes)

    @cuda.jit(device=True)
    def across(q, sums, x, row, col_taps, col_weights, j, c, at, on):
        column = load_int(col_taps, int32(j * taps + q))
        weight = load1(col_weights, int32(j * taps + q), on)
        return fma_outer(sums, (weight,), read(x, int32((row + column) * c + at), on))

    @cuda.jit(device=True)
    def down(
        p, sums, x, row_taps, row_weights, col_taps, col_weights, n, i, j, height, width, c, at, on
    ):
        row = int32((n * height + load_int(row_taps, int32(i * taps + p))) * width)
        weight = load1(row_weights, int32(i * taps + p), on)
        part = unroll(
            taps, across, splat(lanes, float32(0)), x, row, col_taps, col_weights, j, c, at, on
        )
        return fma_outer(sums, (weight,), part)

    def resize(x, y, row_taps, row_weights, col_taps, col_weights, height, width, c, oh, ow, count):
        g, n, i, j, chunk = task(int32(udivmod(c, int32(lanes))[0]), oh, ow)
        on = g < count
        sums = unroll(
            taps, down, splat(lanes, float32(0)), x, row_taps, row_weights, col_taps, col_weights,
            n, i, j, height, width, c, int32(chunk * lanes), on,
        )  # fmt: skip
        write(y, int32(g * lanes), sums, on)

    return resize

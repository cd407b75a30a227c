"""Means and maxima of whole maps.

A block takes a slice of an image's pixels and 128 bytes of channels, if there are so many: `across`
threads, 16 bytes each, lie side by side on a pixel, and the others on the pixels below. Each thread
goes down its pixels, and then a tree in shared memory makes one result of the block's. A second
launch does the same to the results of the slices. Which numbers meet in which order depends on the
size of the map alone, so an image has the same bits in every batch.

Where 16 bytes do not divide the channels, threads side by side read 4 bytes (or 2) each, 32 of them
a pixel.
"""

import math

from numba import cuda
from numba.cuda.types import float32, int32

from fastconv.cuda.ptx import (
    fma_outer,
    largest,
    load1,
    load4,
    select,
    splat,
    store1,
    store4,
    udivmod,
    unroll,
)
from fastconv.cuda.windows import accesses

THREADS = 256
AHEAD = 4  # pixels of a thread that wait for memory together
SERIAL = 16  # pixels that a thread may read alone, so that maps of so many need no tree
LEAST = 2 * AHEAD  # pixels of a thread, where there is more than one slice
MOST = 512  # slices: of more, the second launch would take long


def shared_bytes(lanes):
    """Dynamic shared memory: what the threads have."""
    return 4 * THREADS * lanes


def across(channels, lanes):
    """Threads on a pixel, a power of two: they read up to 128 bytes."""
    most = 32 if lanes == 1 else 8
    return min(most, 1 << (-(-channels // lanes) - 1).bit_length())


def slices(pixels, channels, lanes):
    """Parts of the pixels that have a block each."""
    return min(MOST, -(-pixels * across(channels, lanes) // (THREADS * LEAST)))


def results(lanes):
    """Functions that read and write 1, 4 or 8 floats of a thread in shared memory.

    Of 8 the second half is behind the first halves of all threads: so no access meets a bank twice.
    """

    @cuda.jit(device=True)
    def take1(tile, t, on):
        return (load1(tile, t, on),)

    @cuda.jit(device=True)
    def keep1(tile, t, v, on):
        store1(tile, t, v[0], on)

    @cuda.jit(device=True)
    def take4(tile, t, on):
        return load4(tile, int32(t * 4), on)

    @cuda.jit(device=True)
    def keep4(tile, t, v, on):
        store4(tile, int32(t * 4), v, on)

    @cuda.jit(device=True)
    def take8(tile, t, on):
        return load4(tile, int32(t * 4), on) + load4(tile, int32((t + THREADS) * 4), on)

    @cuda.jit(device=True)
    def keep8(tile, t, v, on):
        store4(tile, int32(t * 4), v[:4], on)
        store4(tile, int32((t + THREADS) * 4), v[4:], on)

    return {1: (take1, keep1), 4: (take4, keep4), 8: (take8, keep8)}[lanes]


def make(kind, lanes, result):
    """The kernel for "avg" or "max" that gives numbers of dtype `result`."""
    read, write = accesses(lanes)
    take, keep = results(lanes)
    start = 0.0 if kind == "avg" else -math.inf

    @cuda.jit(device=True)
    def write_pair(y, at, v, on):
        store4(y, at, v[:4], on)
        store4(y, int32(at + 4), v[4:], on)

    if lanes == 8 and result == "float32":
        write = write_pair

    @cuda.jit(device=True)
    def plus(own, values):
        return fma_outer(own, (float32(1),), values)

    @cuda.jit(device=True)
    def divided(i, values, own, divisor):
        return (*values[1:], own[i] / divisor)

    @cuda.jit(device=True)
    def mean(own, divisor):
        return unroll(lanes, divided, own, own, divisor)

    @cuda.jit(device=True)
    def as_it_is(own, divisor):
        return own

    join, finish = (plus, mean) if kind == "avg" else (largest, as_it_is)

    @cuda.jit(device=True)
    def add(i, own, x, base, pixel, count, step, c, on):
        pixel = int32(pixel + i * step)
        here = on & (pixel < count)
        return select(here, join(own, read(x, int32(base + pixel * c), here)), own)

    def reduce(x, y, c, pixels, slices, length, across, groups, divisor):
        tile = cuda.shared.array(0, float32, alignment=16)
        t = int32(cuda.threadIdx.x)
        image, group = udivmod(int32(cuda.blockIdx.x), groups)
        n, piece = udivmod(image, slices)
        row, chunk = udivmod(t, across)
        step = udivmod(int32(THREADS), across)[0]
        channel = int32((group * across + chunk) * lanes)
        on = channel < c

        first = int32(piece * length)
        count = int32(select(int32(pixels - first) < length, int32(pixels - first), length))
        base = int32((n * pixels + first) * c + channel)
        own, done = splat(lanes, float32(start)), int32(0)
        while done < count:
            own = unroll(AHEAD, add, own, x, base, int32(done + row), count, step, c, on)
            done = int32(done + AHEAD * step)

        half = int32(step >> 1)
        while half > 0:  # threads keep what they have for those that are `half` rows above
            keep(tile, t, own, (row >= half) & (row < 2 * half))
            cuda.syncthreads()
            above = row < half
            own = select(above, join(own, take(tile, int32(t + half * across), above)), own)
            half = int32(half >> 1)
        write(y, int32(image * c + channel), finish(own, divisor), on & (row == 0))

    return reduce

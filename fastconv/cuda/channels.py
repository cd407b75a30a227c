"""Argmax and softmax over the channels of each pixel.

The numbers of some neighbouring pixels lie side by side in memory, however many channels they have.
So a block reads those of its pixels 16 bytes at a time into shared memory, as float32, and works
there; softmax writes from there in the same way. `share` lanes of a warp, a power of two, work on a
pixel and then exchange what they find. Each takes 4 neighbouring channels (or one, where 4 do not
divide their number), skips those of the others, and so on. If `share` is the largest power of two
that divides the number of fours, up to 8 (of ones, up to 32), no access meets a bank twice; nor if
all 32 lanes are on one pixel, as they are for many channels.

Pixels of more channels than `WIDEST`, of which shared memory would hold only a few, have kernels
of their own, whose warps read them from memory in each loop: 4 bytes (or 2) a lane, as rows begin
anywhere, but side by side.
"""

import math

from numba import cuda
from numba.cuda.types import float32, int32

from fastconv.cuda.ptx import (
    largest,
    load1,
    load4,
    partner,
    select,
    store1,
    store4,
    store_int,
    udivmod,
    unroll,
)
from fastconv.cuda.windows import accesses

THREADS = 256
LANES = 32  # of a warp
TILE = 8192  # numbers in shared memory
SHARED = 4 * TILE
WIDEST = TILE // 8  # blocks have a multiple of 8 pixels, so that their numbers begin at 16 bytes
PASSES = 4  # of the threads over the pixels of a block, at most: images have many blocks


@cuda.jit(device=True)
def own_pixels(count, pixels):
    """First pixel of a block, and how many it has."""
    first = int32(cuda.blockIdx.x * pixels)
    left = int32(count - first)
    return first, int32(select(left < pixels, left, pixels))


@cuda.jit(device=True)
def wins(v, i, w, j):
    """Whether channel i with v comes before channel j with w; NaN is larger than any number."""
    v_nan, w_nan = v != v, w != w
    equal = (v == w) | (v_nan & w_nan)
    return (v > w) | (v_nan & (w == w)) | (equal & (i < j))


@cuda.jit(device=True)
def first_of(best, where, share):
    """The winner among the lanes of a pixel, in each of them."""
    mask = int32(1)
    while mask < share:
        v, channel = partner(best, mask), partner(where, mask)
        better = wins(v, channel, best, where)
        best, where = select(better, v, best), select(better, channel, where)
        mask = int32(mask * 2)
    return where


@cuda.jit(device=True)
def most_of(most, share):
    """The largest number of the lanes of a pixel, in each of them."""
    mask = int32(1)
    while mask < share:
        most = largest(most, partner(most, mask))
        mask = int32(mask * 2)
    return most


@cuda.jit(device=True)
def sum_of(total, share):
    """The sum of the numbers of the lanes of a pixel, in each of them."""
    mask = int32(1)
    while mask < share:
        total = total + partner(total, mask)
        mask = int32(mask * 2)
    return total


@cuda.jit(device=True)
def advance(i, found, values, channel, on):
    """Best number and its channel, once `values` are seen, too; earlier ones win ties."""
    best, where = found
    v = values[i]
    better = on & ((v > best) | ((v != v) & (best == best)))
    return select(better, v, best), select(better, int32(channel + i), where)


@cuda.jit(device=True)
def larger(i, most, values, on):
    """The larger one of `most` and one of `values`."""
    return select(on, largest(most, values[i]), most)


@cuda.jit(device=True)
def raised(i, values, most):
    """The exponential of one of `values`, which changes places, so that the next one comes."""
    return (*values[1:], math.exp(values[0] - most))


@cuda.jit(device=True)
def added(i, total, values, on):
    """The sum with one of `values`."""
    return select(on, total + values[i], total)


@cuda.jit(device=True)
def divided(i, values, total):
    """One of `values` divided, which changes places, too."""
    return (*values[1:], values[0] / total)


@cuda.jit(device=True)
def keep8(tile, at, v, on):
    """Eight numbers to shared memory.

    Every other 4 lanes begin with the second half: lanes that are 8 numbers apart would meet in a
    bank.
    """
    second = (cuda.threadIdx.x & 4) != 0
    near, far = select(second, int32(at + 4), at), select(second, at, int32(at + 4))
    store4(tile, near, select(second, v[4:], v[:4]), on)
    store4(tile, far, select(second, v[:4], v[4:]), on)


@cuda.jit(device=True)
def take8(tile, at, on):
    """Eight numbers of shared memory, read as `keep8` writes."""
    second = (cuda.threadIdx.x & 4) != 0
    near = load4(tile, select(second, int32(at + 4), at), on)
    far = load4(tile, select(second, at, int32(at + 4)), on)
    return select(second, far, near) + select(second, near, far)


def copies(lanes):
    """Functions that copy `size` numbers from memory to shared memory and back.

    16 bytes are `lanes` numbers; those at the end that do not fill them go one by one.
    """
    read, write = accesses(lanes)
    take, keep = {4: (load4, store4), 8: (take8, keep8)}[lanes]
    apart = THREADS * lanes

    @cuda.jit(device=True)
    def fetch(tile, x, begin, size):
        t = int32(cuda.threadIdx.x)
        at, start = int32(t * lanes), int32(0)
        while start < size:  # two accesses of a thread wait for memory together
            far = int32(at + apart)
            on, far_on = int32(at + lanes) <= size, int32(far + lanes) <= size
            first = read(x, int32(begin + at), on)
            second = read(x, int32(begin + far), far_on)
            keep(tile, at, first, on)
            keep(tile, far, second, far_on)
            at, start = int32(far + apart), int32(start + 2 * apart)
        last = int32(udivmod(size, int32(lanes))[0] * lanes + t)
        store1(tile, last, load1(x, int32(begin + last), last < size), last < size)

    @cuda.jit(device=True)
    def put(y, tile, begin, size):
        t = int32(cuda.threadIdx.x)
        at, start = int32(t * lanes), int32(0)
        while start < size:
            on = int32(at + lanes) <= size
            write(y, int32(begin + at), take(tile, at, on), on)
            at, start = int32(at + apart), int32(start + apart)
        last = int32(udivmod(size, int32(lanes))[0] * lanes + t)
        store1(y, int32(begin + last), load1(tile, last, last < size), last < size)

    return fetch, put


def make_argmax(lanes, unit):
    """The first channel of each pixel with the largest number.

    16 bytes are `lanes` numbers, and `unit` divides the channels.
    """
    fetch, _ = copies(lanes)
    read, _ = accesses(unit)

    def argmax(x, y, c, count, pixels, share):
        tile = cuda.shared.array(0, float32, alignment=16)
        first, here = own_pixels(count, pixels)
        fetch(tile, x, int32(first * c), int32(here * c))
        cuda.syncthreads()
        pixel, lane = udivmod(int32(cuda.threadIdx.x), share)
        done, step = int32(0), udivmod(int32(THREADS), share)[0]
        while done < here:
            on = pixel < here
            channel, start = int32(lane * unit), int32(0)
            found = float32(-math.inf), channel
            while start < c:
                more = on & (channel < c)
                values = read(tile, int32(pixel * c + channel), more)
                found = unroll(unit, advance, found, values, channel, more)
                channel, start = int32(channel + share * unit), int32(start + share * unit)
            where = first_of(found[0], found[1], share)
            store_int(y, int32(first + pixel), where, on & (lane == 0))
            pixel, done = int32(pixel + step), int32(done + step)

    return argmax


def make_softmax(lanes, unit):
    """``exp(x - max) / sum(exp(x - max))`` over the channels of each pixel."""
    fetch, put = copies(lanes)
    read, write = accesses(unit)

    def softmax(x, y, c, count, pixels, share):
        tile = cuda.shared.array(0, float32, alignment=16)
        first, here = own_pixels(count, pixels)
        fetch(tile, x, int32(first * c), int32(here * c))
        cuda.syncthreads()
        pixel, lane = udivmod(int32(cuda.threadIdx.x), share)
        done, step = int32(0), udivmod(int32(THREADS), share)[0]
        while done < here:
            on = pixel < here
            own = int32(pixel * c)
            most = float32(-math.inf)
            channel, start = int32(lane * unit), int32(0)
            while start < c:
                more = on & (channel < c)
                most = unroll(unit, larger, most, read(tile, int32(own + channel), more), more)
                channel, start = int32(channel + share * unit), int32(start + share * unit)
            most = most_of(most, share)

            total = float32(0)
            channel, start = int32(lane * unit), int32(0)
            while start < c:
                more = on & (channel < c)
                values = read(tile, int32(own + channel), more)
                powers = unroll(unit, raised, values, most)
                total = unroll(unit, added, total, powers, more)
                write(tile, int32(own + channel), powers, more)
                channel, start = int32(channel + share * unit), int32(start + share * unit)
            total = sum_of(total, share)

            channel, start = int32(lane * unit), int32(0)
            while start < c:
                more = on & (channel < c)
                powers = read(tile, int32(own + channel), more)
                write(tile, int32(own + channel), unroll(unit, divided, powers, total), more)
                channel, start = int32(channel + share * unit), int32(start + share * unit)
            pixel, done = int32(pixel + step), int32(done + step)
        cuda.syncthreads()
        put(y, tile, int32(first * c), int32(here * c))

    return softmax


@cuda.jit(device=True)
def warp_pixel(count):
    """Pixel and lane of a thread whose warp has a pixel, and whether there is one."""
    m, lane = udivmod(int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x), int32(LANES))
    return m, lane, m < count


def make_wide_argmax():
    """As `make_argmax`, for any number of channels."""

    def wide_argmax(x, y, c, count):
        m, lane, on = warp_pixel(count)
        channel, start = lane, int32(0)
        found = float32(-math.inf), channel
        while start < c:
            more = on & (channel < c)
            v = load1(x, int32(m * c + channel), more)
            found = advance(int32(0), found, (v,), channel, more)
            channel, start = int32(channel + LANES), int32(start + LANES)
        where = first_of(found[0], found[1], int32(LANES))
        store_int(y, m, where, on & (lane == 0))

    return wide_argmax


def make_wide_softmax():
    """As `make_softmax`, for any number of channels."""

    def wide_softmax(x, y, c, count):
        m, lane, on = warp_pixel(count)
        most = float32(-math.inf)
        channel, start = lane, int32(0)
        while start < c:
            more = on & (channel < c)
            most = larger(int32(0), most, (load1(x, int32(m * c + channel), more),), more)
            channel, start = int32(channel + LANES), int32(start + LANES)
        most = most_of(most, int32(LANES))

        total = float32(0)
        channel, start = lane, int32(0)
        while start < c:
            more = on & (channel < c)
            power = math.exp(load1(x, int32(m * c + channel), more) - most)
            total = select(more, total + power, total)
            channel, start = int32(channel + LANES), int32(start + LANES)
        total = sum_of(total, int32(LANES))

        channel, start = lane, int32(0)
        while start < c:
            more = on & (channel < c)
            power = math.exp(load1(x, int32(m * c + channel), more) - most)
            store1(y, int32(m * c + channel), power / total, more)
            channel, start = int32(channel + LANES), int32(start + LANES)

    return wide_softmax

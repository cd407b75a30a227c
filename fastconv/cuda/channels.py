"""Argmax and softmax: some neighbouring lanes of a warp share a pixel, and exchange what they find.

`share` lanes, a power of two, take every `share`-th channel, so that a warp reads whole lines.
"""

import math

from numba import cuda
from numba.cuda.types import float32, int32

from fastconv.cuda.ptx import largest, load1, partner, select, store1, store_int, udivmod

THREADS = 256
NONE = 2**31 - 1  # a channel that no pixel has


@cuda.jit(device=True)
def pixel(share):
    """Number of a lane's pixel, and of its first channel."""
    return udivmod(int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x), share)


@cuda.jit(device=True)
def wins(v, i, w, j):
    """Whether channel i with v comes before channel j with w; NaN is larger than any number."""
    v_nan, w_nan = v != v, w != w
    equal = (v == w) | (v_nan & w_nan)
    return (v > w) | (v_nan & (w == w)) | (equal & (i < j))


def make_argmax():
    """The first channel of each pixel with the largest number."""

    def argmax(x, y, c, count, share):
        m, first = pixel(share)
        on = m < count
        best, where = float32(-math.inf), int32(NONE)
        channel = first
        start = int32(0)
        while start < c:
            here = on & (channel < c)
            v = load1(x, int32(m * c + channel), here)
            better = here & wins(v, channel, best, where)
            best, where = select(better, v, best), select(better, channel, where)
            channel, start = int32(channel + share), int32(start + share)
        mask = int32(1)
        while mask < share:
            v, channel = partner(best, mask), partner(where, mask)
            better = wins(v, channel, best, where)
            best, where = select(better, v, best), select(better, channel, where)
            mask = int32(mask * 2)
        store_int(y, m, where, on & (first == 0))

    return argmax


def make_softmax():
    """``exp(x - max) / sum(exp(x - max))`` over the channels of each pixel."""

    def softmax(x, y, c, count, share):
        m, first = pixel(share)
        on = m < count
        most = float32(-math.inf)
        channel, start = first, int32(0)
        while start < c:
            here = on & (channel < c)
            v = load1(x, int32(m * c + channel), here)
            most = select(here, largest(most, v), most)
            channel, start = int32(channel + share), int32(start + share)
        mask = int32(1)
        while mask < share:
            most = largest(most, partner(most, mask))
            mask = int32(mask * 2)

        total = float32(0)
        channel, start = first, int32(0)
        while start < c:
            here = on & (channel < c)
            power = math.exp(load1(x, int32(m * c + channel), here) - most)
            total = select(here, total + power, total)
            channel, start = int32(channel + share), int32(start + share)
        mask = int32(1)
        while mask < share:
            total = total + partner(total, mask)
            mask = int32(mask * 2)

        channel, start = first, int32(0)
        while start < c:
            here = on & (channel < c)
            power = math.exp(load1(x, int32(m * c + channel), here) - most)
            store1(y, int32(m * c + channel), power / total, here)
            channel, start = int32(channel + share), int32(start + share)

    return softmax

"""Number by number: unpooling, sums and their like, and copies."""

from numba import cuda
from numba.cuda.types import int32

from fastconv.cuda.ptx import (
    largest,
    load1,
    load_entry,
    select,
    smallest,
    store1,
    store4,
    udivmod,
    unroll,
)
from fastconv.cuda.windows import accesses, inside, task

THREADS = 256
PAIRS = ("add", "subtract", "multiply", "maximum", "minimum")


def make_take():
    """The kernel that gives 4 outputs the numbers of the input that a table tells, or 0.

    The numbers may be anywhere, so each is an access of its own.
    """

    def take(x, y, table, count):
        g = int32((cuda.blockIdx.x * THREADS + cuda.threadIdx.x) * 4)
        left = int32(count - g)
        a, b, c, d = load_entry(table, select(left > 0, g, int32(0)))
        values = (
            load1(x, a, (a >= 0) & (left > 0)),
            load1(x, b, (b >= 0) & (left > 0)),
            load1(x, c, (c >= 0) & (left > 0)),
            load1(x, d, (d >= 0) & (left > 0)),
        )
        store4(y, g, values, left >= 4)
        some = (left > 0) & (left < 4)
        store1(y, g, values[0], some)
        store1(y, int32(g + 1), values[1], some & (left > 1))
        store1(y, int32(g + 2), values[2], some & (left > 2))

    return take


def make_pair(lanes):
    """The kernel for two arrays of which one may repeat an axis, that is, has the stride 0 there.

    `kind` is a position in `PAIRS`; what comes out is divided, and clamped.
    """
    read, write = accesses(lanes)

    @cuda.jit(device=True)
    def both(a, b, kind):
        if kind == 0:
            return a + b
        if kind == 1:
            return a - b
        if kind == 2:
            return a * b
        if kind == 3:
            return largest(a, b)
        return smallest(a, b)

    @cuda.jit(device=True)
    def one(i, done, a, b, kind, divisor, low, high):
        v = both(a[i], b[i], kind) / divisor
        return (*done[1:], smallest(largest(v, low), high))

    def pair(x, add, y, kind, divisor, low, high, x_image, x_row, x_col, x_channel, add_image,
             add_row, add_col, add_channel, c, oh, ow, count):  # fmt: skip
        g, n, i, j, chunk = task(int32(udivmod(c, int32(lanes))[0]), oh, ow)
        on = g < count
        at = int32(chunk * lanes)
        a = read(x, int32(n * x_image + i * x_row + j * x_col + at * x_channel), on)
        b = read(add, int32(n * add_image + i * add_row + j * add_col + at * add_channel), on)
        made = unroll(lanes, one, a, a, b, kind, divisor, low, high)
        write(y, int32(g * lanes), made, on)

    return pair


def make_place(lanes):
    """The kernel that puts images somewhere in others, in their channels from `at` on.

    Around the images are zeros; what does not fit is left out.
    """
    read, write = accesses(lanes)

    def place(x, y, height, width, c, oh, ow, channels, at, top, left, count):
        g, n, i, j, chunk = task(int32(udivmod(c, int32(lanes))[0]), oh, ow)
        on = g < count
        row, column = int32(i - top), int32(j - left)
        here = on & inside(row, column, height, width)
        channel = int32(chunk * lanes)
        values = read(x, int32(((n * height + row) * width + column) * c + channel), here)
        write(y, int32(((n * oh + i) * ow + j) * channels + at + channel), values, on)

    return place

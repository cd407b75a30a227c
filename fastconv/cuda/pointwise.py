"""Number by number: unpooling."""

from numba import cuda
from numba.cuda.types import int32

from fastconv.cuda.ptx import load1, load_entry, select, store1, store4

THREADS = 256


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

"""The compiled sum behind `fastconv.signal`, for every dtype that Numba has."""

from collections.abc import Callable
from typing import Any

from numba import njit

STRIP_BYTES = 1024  # columns at once: the strip of y and the rows of x below it stay in L1


def _compiled(function: Callable[..., Any]) -> Any:
    """`function` compiled per dtype when it is first called, and kept on disk where possible.

    "contract" lets a multiply and the add that follows become one FMA; nothing is reordered.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache can be written
        return njit(**options)(function)


@_compiled
def _under(x, tap, width, i, j, count):
    """The elements of `x` that tap number `tap` meets for ``y[i, j : j + count]``."""
    column = j + tap % width
    return x[i + tap // width, column : column + count]


@_compiled
def correlate_valid(x, w, y):
    """``y[i, j] = sum_pq w[p, q] * x[i + p, j + q]``; all three C-contiguous and of one dtype.

    Each element adds its taps in raster order, whatever the shape of `y`, so results do not depend
    on how the caller divides the output. Four taps are added per pass over a strip of `y`: the
    strip is then loaded and stored once for four multiply-adds, and LLVM vectorises over columns.
    """
    rows, columns = y.shape
    width, taps = w.shape[1], w.size
    weights = w.ravel()
    strips = -(-columns * y.itemsize // STRIP_BYTES)
    for s in range(strips):
        first = s * columns // strips
        count = (s + 1) * columns // strips - first
        for i in range(rows):
            strip = y[i, first : first + count]
            strip[:] = 0
            for t in range(0, taps - 3, 4):
                w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
                x0 = _under(x, t, width, i, first, count)
                x1 = _under(x, t + 1, width, i, first, count)
                x2 = _under(x, t + 2, width, i, first, count)
                x3 = _under(x, t + 3, width, i, first, count)
                for j in range(count):
                    strip[j] = strip[j] + w0 * x0[j] + w1 * x1[j] + w2 * x2[j] + w3 * x3[j]
            for t in range(taps - taps % 4, taps):
                w0 = weights[t]
                x0 = _under(x, t, width, i, first, count)
                for j in range(count):
                    strip[j] = strip[j] + w0 * x0[j]

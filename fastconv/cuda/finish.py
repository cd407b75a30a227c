"""What follows a sum: bias, residual, activation, rounding, and where the number goes."""

from numba import cuda
from numba.cuda.types import float32, int32

from fastconv.cuda.ptx import largest, load1, load4, select, smallest, store1, store4, udivmod


@cuda.jit(device=True)
def activate(v, slope, low, high):
    """``min(max(v, low), high)`` of v, or below zero of ``v * slope``; NaN stays NaN."""
    return smallest(largest(select(v < float32(0), v * slope, v), low), high)


@cuda.jit(device=True)
def activate4(v, add, bias, slope, low, high):
    """Four of them, with bias and residual."""
    return (
        activate(v[0] + bias[0] + add[0], slope[0], low, high),
        activate(v[1] + bias[1] + add[1], slope[1], low, high),
        activate(v[2] + bias[2] + add[2], slope[2], low, high),
        activate(v[3] + bias[3] + add[3], slope[3], low, high),
    )


@cuda.jit(device=True)
def pixel(m, phase, positions, rows, cols, oh, ow, out_down, out_right):
    """Number of the output pixel of a position, and whether there is one."""
    if out_down * out_right == 1:
        return m, m < positions
    q, j = udivmod(m, cols)
    n, i = udivmod(q, rows)
    a, b = udivmod(phase, out_right)
    i, j = int32(i * out_down + a), int32(j * out_right + b)
    return int32((n * oh + i) * ow + j), (m < positions) & (i < oh) & (j < ow)


@cuda.jit(device=True)
def load_few(x, at, left, on):
    """Four neighbouring numbers, of which there are `left`."""
    return (
        load1(x, at, on & (left > 0)),
        load1(x, int32(at + 1), on & (left > 1)),
        load1(x, int32(at + 2), on & (left > 2)),
        load1(x, int32(at + 3), on & (left > 3)),
    )


@cuda.jit(device=True)
def store_few(y, at, values, left, on):
    """Write as many of four neighbouring numbers as are `left`."""
    store1(y, at, values[0], on & (left > 0))
    store1(y, int32(at + 1), values[1], on & (left > 1))
    store1(y, int32(at + 2), values[2], on & (left > 2))
    store1(y, int32(at + 3), values[3], on & (left > 3))


@cuda.jit(device=True)
def put4(y, add, at, sums, bias, slopes, left, wide, on, residual, low, high):
    """Finish and write 4 neighbouring channels, of which the group has `left`.

    `wide`: the groups have a multiple of 4 channels, so that 4 numbers are one access.
    """
    if wide:
        on = on & (left > 0)
        more = load4(add, at, on & residual)
        store4(y, at, activate4(sums, more, bias, slopes, low, high), on)
    else:
        more = load_few(add, at, left, on & residual)
        store_few(y, at, activate4(sums, more, bias, slopes, low, high), left, on)


@cuda.jit(device=True)
def finish4(add, at, sums, bias, slopes, left, wide, on, residual, low, high):
    """What `put4` writes."""
    if wide:
        more = load4(add, at, on & residual & (left > 0))
    else:
        more = load_few(add, at, left, on & residual)
    return activate4(sums, more, bias, slopes, low, high)


@cuda.jit(device=True)
def write4(y, at, values, left, wide, on):
    """Write what `finish4` gives."""
    if wide:
        store4(y, at, values, on & (left > 0))
    else:
        store_few(y, at, values, left, on)

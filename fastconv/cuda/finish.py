"""What follows a sum: bias, residual, activation, 2x2 max-pool, rounding, and where it goes.

The positions of a matrix product are numbered row by row of the output. Where a 2x2 max-pool of
stride 2 comes after a convolution (`pool` is 1), they are numbered window by window instead, and
only pixels of whole windows are positions: 4 q to 4 q + 3 are the pixels of window q, which is
pixel q of the result. `rows` and `cols` count the windows then.
"""

from numba import cuda
from numba.cuda.types import int32

from fastconv.cuda.activations import clamp, curves
from fastconv.cuda.ptx import (
    again,
    largest,
    load1,
    load4,
    load_shared4,
    store1,
    store4,
    udivmod,
)


@cuda.jit(device=True)
def clamp4(v, add, bias, slope, low, high):
    """Bias and residual added to 4 sums, and clamped."""
    return (
        clamp(v[0] + bias[0] + add[0], slope[0], low, high),
        clamp(v[1] + bias[1] + add[1], slope[1], low, high),
        clamp(v[2] + bias[2] + add[2], slope[2], low, high),
        clamp(v[3] + bias[3] + add[3], slope[3], low, high),
    )


@cuda.jit(device=True)
def position(m, rows, cols, pool):
    """Image, row and column of a position."""
    q, j = udivmod(int32(m >> (2 * pool)), cols)
    n, i = udivmod(q, rows)
    return n, int32((i << pool) + ((m >> 1) & pool)), int32((j << pool) + (m & pool))


@cuda.jit(device=True)
def pixel(m, phase, positions, rows, cols, oh, ow, out_down, out_right, pool):
    """Number of the output pixel of a position before the pool, and whether there is one."""
    if (out_down * out_right == 1) & (pool == 0):
        return m, m < positions
    n, i, j = position(m, rows, cols, pool)
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
def finish4x4(add, sums, at, on, left, wide, bias, slopes, end):
    """Finish 4 neighbouring channels, of which the group has `left`, of 4 pixels.

    `at` and `on` tell where the first channel of each pixel is, and whether there is one. `wide`:
    the groups have a multiple of 4 channels, so that 4 numbers are one access. `end` is
    ``(residual, low, high, kind, alpha)``.
    """
    _, low, high, kind, alpha = end
    done = curves(
        clamp4(sums[0], _residual(add, at[0], left, wide, on[0], end), bias, slopes, low, high)
        + clamp4(sums[1], _residual(add, at[1], left, wide, on[1], end), bias, slopes, low, high)
        + clamp4(sums[2], _residual(add, at[2], left, wide, on[2], end), bias, slopes, low, high)
        + clamp4(sums[3], _residual(add, at[3], left, wide, on[3], end), bias, slopes, low, high),
        kind,
        alpha,
    )
    return done[:4], done[4:8], done[8:12], done[12:]


@cuda.jit(device=True)
def _residual(add, at, left, wide, on, end):
    on = on & (end[0] != 0)
    return load4(add, at, on & (left > 0)) if wide else load_few(add, at, left, on)


@cuda.jit(device=True)
def most(values):
    """The maximum of the pixels of a window, as `finish4x4` gives them."""
    return largest(largest(values[0], values[1]), largest(values[2], values[3]))


@cuda.jit(device=True)
def write4(y, at, values, left, wide, on):
    """Write 4 channels of a pixel."""
    if wide:
        store4(y, at, values, on & (left > 0))
    else:
        store1(y, at, values[0], on & (left > 0))
        store1(y, int32(at + 1), values[1], on & (left > 1))
        store1(y, int32(at + 2), values[2], on & (left > 2))
        store1(y, int32(at + 3), values[3], on & (left > 3))


@cuda.jit(device=True)
def write4x4(y, values, at, on, left, wide):
    """Write what `finish4x4` gives."""
    write4(y, at[0], values[0], left, wide, on[0])
    write4(y, at[1], values[1], left, wide, on[1])
    write4(y, at[2], values[2], left, wide, on[2])
    write4(y, at[3], values[3], left, wide, on[3])


@cuda.jit(device=True)
def put4x4(y, add, bias, slopes, m, channel, phase, group, sums, to, end):
    """Finish and write 4 neighbouring channels of positions m to m + 3, or their maximum.

    `m` is a multiple of 4, and `sums` holds the 4 channels of each position; `to` is ``(positions,
    rows, cols, oh, ow, out_down, out_right, pool, k, outputs, packed)``.
    """
    positions, rows, cols, oh, ow, out_down, out_right, pool, k, outputs, packed = to
    left, wide = int32(outputs - channel), (outputs & 3) == 0
    at, known = int32(group * packed + channel), channel < packed
    own_bias, own_slopes = load4(bias, at, known), load4(slopes, at, known)
    channel = int32(group * outputs + channel)

    a, on_a = pixel(m, phase, positions, rows, cols, oh, ow, out_down, out_right, pool)
    b, on_b = pixel(int32(m + 1), phase, positions, rows, cols, oh, ow, out_down, out_right, pool)
    c, on_c = pixel(int32(m + 2), phase, positions, rows, cols, oh, ow, out_down, out_right, pool)
    d, on_d = pixel(int32(m + 3), phase, positions, rows, cols, oh, ow, out_down, out_right, pool)
    places, on = (
        (int32(a * k + channel), int32(b * k + channel), int32(c * k + channel),
         int32(d * k + channel)),
        (on_a, on_b, on_c, on_d),
    )  # fmt: skip
    values = finish4x4(add, sums, places, on, left, wide, own_bias, own_slopes, end)
    if pool:
        write4(y, int32((m >> 2) * k + channel), most(values), left, wide, on_a)
    else:
        write4x4(y, values, places, on, left, wide)


def put_block(rows, columns, threads):
    """How a block's threads finish and write its sums, which are in shared memory.

    A line of sums takes ``columns + 8`` words there. Each thread has 4 channels.
    """
    line = columns + 8
    at_once = threads * 4 // columns  # lines, times 4

    @cuda.jit(device=True)
    def put(shared, y, add, bias, slopes, first, column, phase, group, to, end):
        # Without `again` what it gives would take registers of the loop before.
        row, chunk = udivmod(again(int32(cuda.threadIdx.x)), int32(columns // 4))
        channel = int32(column + 4 * chunk)
        for i in range(rows // 4 // at_once):
            r = int32((row + i * at_once) * 4)
            at = int32(r * line + 4 * chunk)
            sums = (
                load_shared4(shared, at), load_shared4(shared, int32(at + line)),
                load_shared4(shared, int32(at + 2 * line)),
                load_shared4(shared, int32(at + 3 * line)),
            )  # fmt: skip
            put4x4(y, add, bias, slopes, int32(first + r), channel, phase, group, sums, to, end)

    return put

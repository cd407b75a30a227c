"""Winograd's F(4x4, 3x3) in three phases: 4 times fewer products, which other kernels make.

Tiles of 4 x 4 outputs read 6 x 6 inputs. `make_input` gives ``V = BT @ x @ B`` of a slice of the
tiles, an array (tiles, 36, channels); a kernel of matrix products multiplies each of the 36 parts
with its own weights, as a 1x1 convolution with 36 groups; and `make_output` gives ``AT @ M @ A`` of
the products M, with all that follows a sum.

A thread transforms 4 channels of a tile. `cook_toom.algorithm` gives the matrices; here is only
that its points are 0, two pairs p and -p, and infinity, and that rows of BT are polynomials with a
leading coefficient of 1. So rows of BT of p and -p, and columns of AT, have the same even powers.
"""

from numba import cuda
from numba.cuda.types import float32, int32

from fastconv.cook_toom import algorithm
from fastconv.cuda.finish import finish4x4, load_few, most, write4, write4x4
from fastconv.cuda.ptx import fma_outer, load4, splat, store4, udivmod, unroll
from fastconv.cuda.windows import inside

THREADS = 128
PARTS = 36  # numbers of a transformed tile
# Public name -> the algorithm of the products.
PRODUCTS = {"winograd_f4": "direct", "winograd_f4_tf32x3": "tf32x3"}

_AT, _, _BT = algorithm(4, 3)
_ZERO, _INFINITY = (tuple(map(float, _BT[i])) for i in (0, 5))
# Of each pair of points: the even coefficient, the ratio of the odd ones, and the cubic one.
_PAIRS = tuple((float(r[2]), float(r[1] / r[3]), float(r[3])) for r in (_BT[1], _BT[3]))
_POWERS = tuple((float(row[1]), float(row[3])) for row in _AT)


@cuda.jit(device=True)
def _plus(a, factor, b):
    """``a + factor * b`` of four channels."""
    return fma_outer(a, (float32(factor),), b)


@cuda.jit(device=True)
def _pair(d, pair):
    """Rows of BT of the points p and -p."""
    even, odd = _plus(d[4], pair[0], d[2]), _plus(d[3], pair[1], d[1])
    return _plus(even, pair[2], odd), _plus(even, -pair[2], odd)


@cuda.jit(device=True)
def _forward(d):
    """``BT @ d`` of six times four channels."""
    return (
        _plus(_plus(d[4], _ZERO[2], d[2]), _ZERO[0], d[0]),
        *_pair(d, _PAIRS[0]),
        *_pair(d, _PAIRS[1]),
        _plus(_plus(d[5], _INFINITY[3], d[3]), _INFINITY[1], d[1]),
    )


@cuda.jit(device=True)
def _inverse(m):
    """``AT @ m`` of six times four channels."""
    even, odd = _plus(m[1], 1.0, m[2]), _plus(m[1], -1.0, m[2])
    more_even, more_odd = _plus(m[3], 1.0, m[4]), _plus(m[3], -1.0, m[4])
    nothing = splat(4, float32(0))
    return (
        _plus(_plus(m[0], 1.0, even), 1.0, more_even),
        _plus(_plus(nothing, _POWERS[1][0], odd), _POWERS[1][1], more_odd),
        _plus(_plus(nothing, _POWERS[2][0], even), _POWERS[2][1], more_even),
        _plus(_plus(m[5], _POWERS[3][0], odd), _POWERS[3][1], more_odd),
    )


@cuda.jit(device=True)
def _row(columns, i):
    """Element i of each of the six columns."""
    return (
        columns[0][i], columns[1][i], columns[2][i], columns[3][i], columns[4][i], columns[5][i],
    )  # fmt: skip


@cuda.jit(device=True)
def _task(channels, first, tile_rows, tile_cols):
    """A thread's tile in the slice and its first channel; image, row and column of the tile."""
    g = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    tile, chunk = udivmod(g, int32(channels >> 2))
    q, j = udivmod(int32(first + tile), tile_cols)
    n, i = udivmod(q, tile_rows)
    return tile, int32(chunk * 4), n, i, j


def make_input(unit):
    """The first phase; of images whose channels are a multiple of 4, or of others."""

    @cuda.jit(device=True)
    def read(x, at, left, on):
        """Four channels, of which there are `left`."""
        return load4(x, at, on & (left > 0)) if unit == 4 else load_few(x, at, left, on)

    @cuda.jit(device=True)
    def column(j, x, at, row, col, height, width, c, left, on):
        """Column j of the inputs, transformed."""
        at, col, line = int32(at + j * c), int32(col + j), int32(width * c)
        return _forward((
            read(x, at, left, on & inside(row, col, height, width)),
            read(x, int32(at + line), left, on & inside(int32(row + 1), col, height, width)),
            read(x, int32(at + 2 * line), left, on & inside(int32(row + 2), col, height, width)),
            read(x, int32(at + 3 * line), left, on & inside(int32(row + 3), col, height, width)),
            read(x, int32(at + 4 * line), left, on & inside(int32(row + 4), col, height, width)),
            read(x, int32(at + 5 * line), left, on & inside(int32(row + 5), col, height, width)),
        ))  # fmt: skip

    @cuda.jit(device=True)
    def write(i, nothing, columns, y, to, channels, on):
        """Row i of the transformed tile."""
        v, to = _forward(_row(columns, i)), int32(to + i * 6 * channels)
        store4(y, to, v[0], on)
        store4(y, int32(to + channels), v[1], on)
        store4(y, int32(to + 2 * channels), v[2], on)
        store4(y, int32(to + 3 * channels), v[3], on)
        store4(y, int32(to + 4 * channels), v[4], on)
        store4(y, int32(to + 5 * channels), v[5], on)
        return nothing

    def winograd_input(x, y, height, width, c, channels, tile_rows, tile_cols, top, left, first,
                       tiles):  # fmt: skip
        tile, channel, n, i, j = _task(channels, first, tile_rows, tile_cols)
        row, col, on = int32(i * 4 - top), int32(j * 4 - left), tile < tiles
        more = int32(c - channel)
        at = int32(((n * height + row) * width + col) * c + channel)
        columns = (
            column(0, x, at, row, col, height, width, c, more, on),
            column(1, x, at, row, col, height, width, c, more, on),
            column(2, x, at, row, col, height, width, c, more, on),
            column(3, x, at, row, col, height, width, c, more, on),
            column(4, x, at, row, col, height, width, c, more, on),
            column(5, x, at, row, col, height, width, c, more, on),
        )
        to = int32(tile * PARTS * channels + channel)
        unroll(6, write, int32(0), columns, y, to, channels, on)

    return winograd_input


def make_output(pool):
    """The last phase; `pool`: with a 2x2 max-pool, whose windows never lie in two tiles."""

    @cuda.jit(device=True)
    def column(j, x, at, channels, on):
        """Column j of the products, transformed."""
        at, line = int32(at + j * channels), int32(6 * channels)
        return _inverse((
            load4(x, at, on), load4(x, int32(at + line), on), load4(x, int32(at + 2 * line), on),
            load4(x, int32(at + 3 * line), on), load4(x, int32(at + 4 * line), on),
            load4(x, int32(at + 5 * line), on),
        ))  # fmt: skip

    @cuda.jit(device=True)
    def put_all(a, nothing, y, to, columns, add, at, row, col, oh, ow, k, left, own, on,
                end):  # fmt: skip
        """Row a of a tile's outputs; `at`: where the first one is."""
        (bias, slopes), wide = own, (k & 3) == 0
        at, on = int32(at + a * ow * k), on & (int32(row + a) < oh)
        places = at, int32(at + k), int32(at + 2 * k), int32(at + 3 * k)
        here = (
            on & (col < ow), on & (int32(col + 1) < ow), on & (int32(col + 2) < ow),
            on & (int32(col + 3) < ow),
        )  # fmt: skip
        sums = _inverse(_row(columns, a))
        values = finish4x4(add, sums, places, here, left, wide, bias, slopes, end)
        write4x4(y, values, places, here, left, wide)
        return nothing

    @cuda.jit(device=True)
    def put_window(y, to, add, at, ow, k, sums, left, own, on, end):
        """The window whose first pixel is at `at`."""
        (bias, slopes), wide, below = own, (k & 3) == 0, int32(at + ow * k)
        places, here = (at, int32(at + k), below, int32(below + k)), (on, on, on, on)
        values = finish4x4(add, sums, places, here, left, wide, bias, slopes, end)
        write4(y, to, most(values), left, wide, on)

    @cuda.jit(device=True)
    def put_most(a, nothing, y, to, columns, add, at, row, col, oh, ow, k, left, own, on,
                 end):  # fmt: skip
        """Row a of a tile's windows; `to`: where the first one is."""
        v, w = _inverse(_row(columns, int32(2 * a))), _inverse(_row(columns, int32(2 * a + 1)))
        at, to = int32(at + 2 * a * ow * k), int32(to + a * (ow >> 1) * k)
        on = on & (int32(row + 2 * a + 1) < oh)
        near, far = on & (int32(col + 1) < ow), on & (int32(col + 3) < ow)
        put_window(y, to, add, at, ow, k, v[:2] + w[:2], left, own, near, end)
        to, at = int32(to + k), int32(at + 2 * k)
        put_window(y, to, add, at, ow, k, v[2:] + w[2:], left, own, far, end)
        return nothing

    put, lines, half = (put_most, 2, 1) if pool else (put_all, 4, 0)

    def winograd_output(x, bias, slopes, add, y, oh, ow, k, channels, tile_rows, tile_cols, first,
                        tiles, residual, low, high, kind, alpha):  # fmt: skip
        tile, channel, n, i, j = _task(channels, first, tile_rows, tile_cols)
        row, col, on = int32(i * 4), int32(j * 4), tile < tiles
        source = int32(tile * PARTS * channels + channel)
        columns = (
            column(0, x, source, channels, on), column(1, x, source, channels, on),
            column(2, x, source, channels, on), column(3, x, source, channels, on),
            column(4, x, source, channels, on), column(5, x, source, channels, on),
        )  # fmt: skip
        own = load4(bias, channel, on), load4(slopes, channel, on)
        at = int32(((n * oh + row) * ow + col) * k + channel)
        to = int32(
            ((n * (oh >> half) + (row >> half)) * (ow >> half) + (col >> half)) * k + channel
        )
        unroll(
            lines, put, int32(0), y, to, columns, add, at, row, col, oh, ow, k,
            int32(k - channel), own, on, (residual, low, high, kind, alpha),
        )  # fmt: skip

    return winograd_output

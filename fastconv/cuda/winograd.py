"""Winograd's F(2x2, 3x3) on the float32 units, in one kernel: 2.25 times fewer products.

A block makes 32 tiles of 2 x 2 outputs times 64 output channels. A step transforms 8 channels of
the tiles' 4 x 4 inputs, which each thread does for one channel of one tile, and copies as many rows
of the transformed weights; then each of the 8 warps multiplies at 2 of the 16 positions of a tile.
In the end the sums go through shared memory to the threads that transform them back.

In shared memory chunk j (4 words) of channel i is at ``j ^ i``, and chunk j of the sums of tile i
at ``j ^ (i >> 2 & 3) * 2``, so that no access meets a bank twice.
"""

from numba import cuda
from numba.cuda.types import float32, int32

from fastconv.cuda.activations import clamp, curves
from fastconv.cuda.ptx import (
    close_group,
    copy16,
    fma_outer,
    largest,
    load1,
    load_shared,
    load_shared4,
    splat,
    store1,
    store_shared,
    store_shared4,
    udivmod,
    unroll,
    wait_groups,
)
from fastconv.cuda.windows import inside

TILES, COLUMNS, PART, THREADS = 32, 64, 8, 256
INPUTS = PART * TILES  # words of a position
WEIGHTS = PART * COLUMNS
STAGE = 16 * (INPUTS + WEIGHTS)
SUMS = TILES * 32  # words of a position, for half of the output channels
SHARED = 4 * max(2 * STAGE, 16 * SUMS)


@cuda.jit(device=True)
def _row(x, at, row, column, height, width, c, on):
    """Four neighbouring inputs of a row."""
    return (
        load1(x, at, on & inside(row, column, height, width)),
        load1(x, int32(at + c), on & inside(row, int32(column + 1), height, width)),
        load1(x, int32(at + 2 * c), on & inside(row, int32(column + 2), height, width)),
        load1(x, int32(at + 3 * c), on & inside(row, int32(column + 3), height, width)),
    )


@cuda.jit(device=True)
def _patch(x, at, row, column, height, width, c, on):
    """The 4 x 4 inputs of a tile, row by row."""
    line = int32(width * c)
    return (
        _row(x, at, row, column, height, width, c, on)
        + _row(x, int32(at + line), int32(row + 1), column, height, width, c, on)
        + _row(x, int32(at + 2 * line), int32(row + 2), column, height, width, c, on)
        + _row(x, int32(at + 3 * line), int32(row + 3), column, height, width, c, on)
    )


@cuda.jit(device=True)
def _forward(a, b, c, d):
    """``BT @ (a, b, c, d)``."""
    return c - a, b + c, c - b, d - b


@cuda.jit(device=True)
def _transformed(d):
    """``BT @ d @ B``, row by row."""
    first = _forward(d[0], d[4], d[8], d[12])
    second = _forward(d[1], d[5], d[9], d[13])
    third = _forward(d[2], d[6], d[10], d[14])
    fourth = _forward(d[3], d[7], d[11], d[15])
    return (
        _forward(first[0], second[0], third[0], fourth[0])
        + _forward(first[1], second[1], third[1], fourth[1])
        + _forward(first[2], second[2], third[2], fourth[2])
        + _forward(first[3], second[3], third[3], fourth[3])
    )


@cuda.jit(device=True)
def _keep_input(i, nothing, shared, at, v):
    store_shared(shared, int32(at + i * INPUTS), v[i])
    return nothing


@cuda.jit(device=True)
def _copy_weights(i, nothing, shared, to, w, source, apart, on):
    copy16(shared, int32(to + i * 2 * WEIGHTS), w, int32(source + i * apart), on)
    return nothing


@cuda.jit(device=True)
def _multiply(d, sums, shared, a, b, chunk):
    """Add the products of channel d: 8 tiles x 8 output channels at each of two positions."""
    near = int32(a + d * TILES + ((chunk ^ d) << 2))
    far = int32(a + d * TILES + (((chunk + 4) ^ d) << 2))
    b = int32(b + d * COLUMNS)
    first = fma_outer(
        sums[:64],
        load_shared4(shared, near) + load_shared4(shared, far),
        load_shared4(shared, b) + load_shared4(shared, int32(b + 32)),
    )
    near, far, b = int32(near + INPUTS), int32(far + INPUTS), int32(b + WEIGHTS)
    return first + fma_outer(
        sums[64:],
        load_shared4(shared, near) + load_shared4(shared, far),
        load_shared4(shared, b) + load_shared4(shared, int32(b + 32)),
    )


@cuda.jit(device=True)
def _keep_sums(i, nothing, sums, shared, at, chunk, half):
    """Four channels of one of a thread's 8 tiles at one of its 2 positions."""
    position, tile = int32(i >> 3), int32((i & 3) + ((i >> 2) & 1) * 16)
    j = int32(i * 8)
    near = (sums[j], sums[j + 1], sums[j + 2], sums[j + 3])
    far = (sums[j + 4], sums[j + 5], sums[j + 6], sums[j + 7])
    at = int32(at + position * SUMS + tile * 32 + (chunk << 2))
    store_shared4(shared, at, near, half == 0)
    store_shared4(shared, at, far, half == 1)
    return nothing


@cuda.jit(device=True)
def _gather(i, m, shared, at):
    return (*m[1:], load_shared(shared, int32(at + i * SUMS)))


@cuda.jit(device=True)
def _clamped(add, at, v, bias, slope, on, residual, low, high):
    more = load1(add, at, on & residual)
    return clamp(v + bias + more, slope, low, high)


def make():
    """The kernel."""

    def winograd(x, w, bias, slopes, add, y, height, width, c, k, packed, depth, tiles, tile_rows,
                 tile_cols, oh, ow, top, left, pool, residual, low, high, kind, alpha):  # fmt: skip
        shared = cuda.shared.array(0, float32, alignment=16)
        t = int32(cuda.threadIdx.x)
        lane, warp = int32(t & 31), int32(t >> 5)
        first = int32(cuda.blockIdx.x * TILES)
        column = int32(cuda.blockIdx.y * COLUMNS)

        own, channel = int32(t >> 3), int32(t & 7)  # the tile and channel to transform
        q, j = udivmod(int32(first + own), tile_cols)
        n, i = udivmod(q, tile_rows)
        row, col = int32(i * 2 - top), int32(j * 2 - left)
        at = int32(((n * height + row) * width + col) * c + channel)
        on = int32(first + own) < tiles
        to_input = int32(channel * TILES + (((own >> 2) ^ channel) << 2) + (own & 3))
        # 16 rows of weights at a time: 8 channels at 2 positions
        source = int32(((t >> 7) * depth + ((t >> 4) & 7)) * packed + column + ((t & 15) << 2))
        to_weights = int32(16 * INPUTS + (t >> 4) * COLUMNS + ((t & 15) << 2))
        apart = int32(2 * depth * packed)

        unroll(8, _copy_weights, int32(0), shared, to_weights, w, source, apart, depth > 0)
        close_group()
        d = _patch(x, at, row, col, height, width, c, on & (channel < c))
        unroll(16, _keep_input, int32(0), shared, to_input, _transformed(d))

        total = splat(128, float32(0))
        a = int32(warp * 2 * INPUTS)
        b = int32(16 * INPUTS + warp * 2 * WEIGHTS + ((lane >> 2) << 2))
        half, start = int32(0), int32(0)
        while start < depth:
            start = int32(start + PART)
            other = int32(STAGE - half)
            wait_groups(0)
            cuda.syncthreads()
            source, at = int32(source + PART * packed), int32(at + PART)
            unroll(
                8, _copy_weights, int32(0), shared, int32(other + to_weights), w, source, apart,
                start < depth,
            )  # fmt: skip
            close_group()
            more = on & (start < depth) & (int32(start + channel) < c)
            d = _patch(x, at, row, col, height, width, c, more)
            total = unroll(
                PART, _multiply, total, shared, int32(half + a), int32(half + b), int32(lane & 3)
            )
            unroll(16, _keep_input, int32(0), shared, int32(other + to_input), _transformed(d))
            half = other
        wait_groups(0)

        to_sums = int32(warp * 2 * SUMS + (lane & 3) * 4 * 32)
        swizzled = int32((lane >> 2) ^ ((lane & 3) << 1))
        part = int32(0)
        while part < 2:
            cuda.syncthreads()
            unroll(16, _keep_sums, int32(0), total, shared, to_sums, swizzled, part)
            cuda.syncthreads()
            out = int32(column + part * 32 + lane)
            known = out < k
            own_bias, own_slope = load1(bias, out, known), load1(slopes, out, known)
            for step in range(TILES // 8):
                tile = int32(warp + step * 8)
                word = int32((((lane >> 2) ^ (((tile >> 2) & 3) << 1)) << 2) + (lane & 3))
                m = unroll(16, _gather, splat(16, float32(0)), shared, int32(tile * 32 + word))
                top_row = (
                    m[0] + m[4] + m[8], m[1] + m[5] + m[9], m[2] + m[6] + m[10],
                    m[3] + m[7] + m[11],
                )  # fmt: skip
                low_row = (
                    m[4] - m[8] + m[12], m[5] - m[9] + m[13], m[6] - m[10] + m[14],
                    m[7] - m[11] + m[15],
                )  # fmt: skip
                q, j = udivmod(int32(first + tile), tile_cols)
                n, i = udivmod(q, tile_rows)
                r, s = int32(i * 2), int32(j * 2)
                place = int32(((n * oh + r) * ow + s) * k + out)
                here = known & (int32(first + tile) < tiles)
                right, below = here & (int32(s + 1) < ow), here & (int32(r + 1) < oh)
                line, residue = int32(ow * k), residual != 0
                v = (
                    _clamped(add, place, top_row[0] + top_row[1] + top_row[2], own_bias, own_slope,
                             here, residue, low, high),
                    _clamped(add, int32(place + k), top_row[1] - top_row[2] + top_row[3], own_bias,
                             own_slope, right, residue, low, high),
                    _clamped(add, int32(place + line), low_row[0] + low_row[1] + low_row[2],
                             own_bias, own_slope, below, residue, low, high),
                    _clamped(add, int32(place + line + k), low_row[1] - low_row[2] + low_row[3],
                             own_bias, own_slope, right & below, residue, low, high),
                )  # fmt: skip
                v = curves(v, kind, alpha)
                if pool:
                    most = largest(largest(v[0], v[1]), largest(v[2], v[3]))
                    store1(y, int32((first + tile) * k + out), most, here)
                else:
                    store1(y, place, v[0], here)
                    store1(y, int32(place + k), v[1], right)
                    store1(y, int32(place + line), v[2], below)
                    store1(y, int32(place + line + k), v[3], right & below)
            part = int32(part + 1)

    return winograd

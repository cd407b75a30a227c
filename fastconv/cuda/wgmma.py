"""Matrix products with gathered rows on Hopper's tensor cores, for 16-bit images.

A block makes 128 positions times 256, 128 or 64 output channels; each of its 2 warpgroups 64
positions. A part of the depth is 128 bytes, 64 numbers, of each position and each channel.

Stages of shared memory are a ring. While the products of a part are made, those of the part before
end, and copies of later parts go to the stage of the one before that. So a stage is written when
the barrier tells that both warpgroups, which had waited before it, have read it.

In shared memory chunk j of position or channel i, 4 words, is at ``j ^ (i & 7)``, as products read
it, so that no access meets a bank twice. Packed weights are in this order already.
"""

from numba import cuda
from numba.cuda.types import float32, int32

from fastconv.cuda.finish import put_block
from fastconv.cuda.ptx import (
    close_group,
    close_products,
    copy16,
    fence_writes,
    finish_products,
    load_entry,
    load_int,
    multiply_rows_bf16,
    multiply_rows_f16,
    open_products,
    rows_at,
    splat,
    store_shared2,
    udivmod,
    unroll,
    wait_groups,
    wait_products,
)
from fastconv.cuda.tensor import place

ROWS, THREADS = 128, 256
PART, UNIT, LINE = 64, 8, 32  # numbers of a row, of a chunk; words of a row
LINES = THREADS // 8  # rows that the threads copy at once
STAGES = {256: 4, 128: 3, 64: 4}
ALIGNED = 1024  # bytes after which a swizzle repeats
MULTIPLY = {"float16": multiply_rows_f16, "bfloat16": multiply_rows_bf16}


def shared_bytes(columns):
    """Dynamic shared memory: the stages, or all sums in the end."""
    stage = (ROWS + columns) * LINE
    return 4 * max(STAGES[columns] * stage, ROWS * (columns + 8))


def product_of_parts(kind):
    """How both warpgroups start to multiply a part."""
    multiply = MULTIPLY[kind]

    @cuda.jit(device=True)
    def advance(total, shared, stage):
        warpgroup = int32(int32(cuda.threadIdx.x) >> 7)
        open_products()
        total = multiply(
            total, rows_at(shared, int32(stage + warpgroup * (64 * LINE))),
            rows_at(shared, int32(stage + ROWS * LINE)),
        )  # fmt: skip
        close_products()
        return total

    return advance


def end_of_block(columns):
    """How the sums of a block end: in shared memory, and then in the result."""
    pairs, sums_line = columns // 4, columns + 8
    put = put_block(ROWS, columns, THREADS)

    @cuda.jit(device=True)
    def keep(i, nothing, sums, shared, at):
        """A pair of a thread's sums to shared memory."""
        at = int32(at + (i & 1) * 8 * sums_line + (i >> 1) * 8)
        store_shared2(shared, at, (sums[2 * i], sums[2 * i + 1]))
        return nothing

    @cuda.jit(device=True)
    def end_all(total, shared, y, add, bias, slopes, phase, group, to, end):
        t = int32(cuda.threadIdx.x)
        total = finish_products(total)
        cuda.syncthreads()
        row = int32((t >> 5) * 16 + ((t & 31) >> 2))
        unroll(pairs, keep, int32(0), total, shared, int32(row * sums_line + ((t & 3) << 1)))
        cuda.syncthreads()
        first, column = int32(cuda.blockIdx.x * ROWS), int32(cuda.blockIdx.y * columns)
        put(shared, y, add, bias, slopes, first, column, phase, group, to, end)

    return end_all


def make(kind, columns):
    """The kernel for blocks of so many output channels."""
    a_size = ROWS * LINE
    stage = a_size + columns * LINE
    sums = columns // 2  # of a thread
    ahead = STAGES[columns] - 2
    last = (STAGES[columns] - 1) * stage
    newest = ahead - 1
    passes_a, passes_b = ROWS // LINES, columns // LINES
    advance, end_all = product_of_parts(kind), end_of_block(columns)

    @cuda.jit(device=True)
    def copy_positions(i, nothing, shared, to, x, places, entry, height, width, on):
        base, row, column = places[i]
        down, across, offset, _ = entry
        r, q = int32(row + down), int32(column + across)
        inside = on & (r >= 0) & (r < height) & (q >= 0) & (q < width)
        copy16(shared, int32(to + i * LINES * LINE), x, int32(base + offset), inside)
        return nothing

    @cuda.jit(device=True)
    def copy_weights(i, nothing, shared, to, w, source, left, on):
        on = on & (i * LINES < left)
        copy16(shared, int32(to + i * LINES * LINE), w, int32(source + i * LINES * PART), on)
        return nothing

    @cuda.jit(device=True)
    def copy(shared, to_a, to_b, x, places, entry, height, width, w, source, left, on):
        """Start the copies of a part: a chunk of some positions, and of some channels."""
        unroll(
            passes_a, copy_positions, int32(0), shared, to_a, x, places, entry, height, width, on
        )
        unroll(passes_b, copy_weights, int32(0), shared, to_b, w, source, left, on)
        close_group()

    @cuda.jit(device=True)
    def following(at):
        """The stage after this one."""
        return int32(0) if at == last else int32(at + stage)

    def wgmma(x, w, bias, slopes, add, y, table, steps, height, width, c, inputs, k, outputs,
              packed, depth, positions, rows, cols, down, right, oh, ow, out_down, out_right,
              pool, groups, residual, low, high, kind, alpha):  # fmt: skip
        shared = cuda.shared.array(0, float32, alignment=ALIGNED)
        t = int32(cuda.threadIdx.x)
        first = int32(cuda.blockIdx.x * ROWS)
        column = int32(cuda.blockIdx.y * columns)
        phase, group = udivmod(int32(cuda.blockIdx.z), groups)
        count = load_int(steps, phase)

        line, chunk = int32(t >> 3), int32(t & 7)
        m, channels = int32(first + line), int32(group * inputs)
        near = positions, rows, cols, pool, down, right, height, width, c, channels
        places = (
            place(m, *near), place(int32(m + 32), *near),
            place(int32(m + 64), *near), place(int32(m + 96), *near),
        )  # fmt: skip
        to_a = int32(line * LINE + ((chunk ^ (line & 7)) << 2))
        to_b = int32(a_size + (t << 2))
        entry = int32(udivmod(int32(phase * depth), int32(UNIT))[0] + chunk)
        left = int32(packed - column - line)
        source = int32((phase * groups + group) * depth * packed)
        source = int32(source + column * PART + t * UNIT)

        for step in range(ahead):
            now = load_entry(table, int32(entry * 4))
            copy(shared, int32(step * stage + to_a), int32(step * stage + to_b), x, places, now,
                 height, width, w, source, left, int32(step) < count)  # fmt: skip
            entry = int32(entry + PART // UNIT)
            source = int32(source + packed * PART)

        total = splat(sums, float32(0))
        reading, writing, step = int32(0), int32(ahead * stage), int32(0)
        while step < count:
            now = load_entry(table, int32(entry * 4))  # it comes while others are waited for
            wait_groups(newest)
            fence_writes()
            cuda.syncthreads()
            total = advance(total, shared, reading)
            copy(shared, int32(writing + to_a), int32(writing + to_b), x, places, now, height,
                 width, w, source, left, int32(step + ahead) < count)  # fmt: skip
            entry = int32(entry + PART // UNIT)
            source = int32(source + packed * PART)
            reading, writing, step = following(reading), following(writing), int32(step + 1)
            wait_products(1)

        wait_groups(0)
        to = positions, rows, cols, oh, ow, out_down, out_right, pool, k, outputs, packed
        end = residual, low, high, kind, alpha
        end_all(total, shared, y, add, bias, slopes, phase, group, to, end)

    return wgmma

"""Matrix products with gathered rows on the float32 units: every shape, every dtype.

A block makes 128 positions times 128 or 32 output channels. Each step multiplies 8 numbers of the
depth, while the next 8 come from memory into registers and go to the other half of shared memory
after that. A thread makes 8 x 8 or 4 x 4 sums, each in the order of the depth.
"""

from numba import cuda
from numba.cuda.types import float32, int32

from fastconv.cuda.finish import position, put4x4
from fastconv.cuda.product import OUTSIDE
from fastconv.cuda.ptx import (
    fma_outer,
    load1,
    load4,
    load_entry,
    load_int,
    load_shared4,
    select,
    splat,
    store_shared,
    store_shared4,
    udivmod,
    unroll,
)

ROWS, PART, THREADS = 128, 8, 256
LINE = ROWS + 4  # of a column of A in shared memory: stores of 4 columns meet no bank twice


def make(columns, unit):
    """The kernel for blocks of 128 or 32 output channels, and table entries of 1 or 4 numbers."""
    across = columns // (8 if columns == 128 else 4)  # threads side by side
    chunks = columns // 4  # of a row of B
    second = 64 if columns == 128 else 0  # where a thread's other 4 rows and columns lie
    a_size = PART * LINE
    stage = a_size + PART * columns
    memory = 2 * stage
    sums, line = (64, 8) if second else (16, 4)  # of a thread, and those of a row

    @cuda.jit(device=True)
    def multiply(d, sums, shared, a, b):
        a = int32(a + d * LINE)
        b = int32(b + d * columns)
        if second:
            return fma_outer(
                sums,
                load_shared4(shared, a) + load_shared4(shared, int32(a + second)),
                load_shared4(shared, b) + load_shared4(shared, int32(b + second)),
            )
        return fma_outer(sums, load_shared4(shared, a), load_shared4(shared, b))

    @cuda.jit(device=True)
    def gather(x, base, row, column, table, entry, height, width, on):
        """Four numbers of the depth for one position."""
        if unit == 4:
            down, across, offset, _ = load_entry(table, int32(entry * 4))
            r, q = int32(row + down), int32(column + across)
            inside = on & (r >= 0) & (r < height) & (q >= 0) & (q < width)
            return load4(x, int32(base + offset), inside)
        return (
            single(x, base, row, column, table, int32(entry * 16), height, width, on),
            single(x, base, row, column, table, int32(entry * 16 + 4), height, width, on),
            single(x, base, row, column, table, int32(entry * 16 + 8), height, width, on),
            single(x, base, row, column, table, int32(entry * 16 + 12), height, width, on),
        )

    @cuda.jit(device=True)
    def single(x, base, row, column, table, entry, height, width, on):
        down, across, offset, _ = load_entry(table, entry)
        r, q = int32(row + down), int32(column + across)
        inside = on & (r >= 0) & (r < height) & (q >= 0) & (q < width)
        return load1(x, int32(base + offset), inside)

    @cuda.jit(device=True)
    def four(sums, j):
        return sums[j], sums[j + 1], sums[j + 2], sums[j + 3]

    @cuda.jit(device=True)
    def write(i, nothing, sums, y, add, bias, slopes, m, channel, phase, group, to, end):
        """Four rows and four columns of a thread's sums."""
        below, beside = int32(i >> 1), int32(i & 1)
        j = int32(below * 32 + beside * 4)
        rows = (
            four(sums, j), four(sums, int32(j + line)), four(sums, int32(j + 2 * line)),
            four(sums, int32(j + 3 * line)),
        )  # fmt: skip
        m, channel = int32(m + below * second), int32(channel + beside * second)
        put4x4(y, add, bias, slopes, m, channel, phase, group, rows, to, end)
        return nothing

    def simt(x, w, bias, slopes, add, y, table, steps, height, width, c, inputs, k, outputs,
             packed, depth, positions, rows, cols, down, right, oh, ow, out_down, out_right, pool,
             groups, residual, low, high, kind, alpha):  # fmt: skip
        shared = cuda.shared.array(memory, float32, alignment=16)
        t = int32(cuda.threadIdx.x)
        first = int32(cuda.blockIdx.x * ROWS)
        column = int32(cuda.blockIdx.y * columns)
        phase, group = udivmod(int32(cuda.blockIdx.z), groups)

        m = int32(first + (t >> 1))  # whose numbers this thread gathers
        n, i, j = position(m, rows, cols, pool)
        row, col = int32(i * down), int32(j * right)
        base = int32(((n * height + row) * width + col) * c + group * inputs)
        row = select(m < positions, row, int32(OUTSIDE))
        quad = int32(t & 1)  # which 4 of the 8
        entry = int32(phase * (depth >> 2) + quad)
        to_a = int32(quad * 4 * LINE + (t >> 1))

        b_row, b_column = udivmod(t, int32(chunks))
        b_column = int32(b_column * 4)
        b_on = (t < PART * chunks) & (int32(column + b_column) < packed)
        from_b = int32(((phase * groups + group) * depth + b_row) * packed + column + b_column)
        to_b = int32(a_size + b_row * columns + b_column)

        ty, tx = udivmod(t, int32(across))
        ty, tx = int32(ty * 4), int32(tx * 4)
        total = splat(sums, float32(0))
        count = load_int(steps, phase)
        half, step = int32(0), int32(-1)
        while step < count:
            more = int32(step + 1) < count
            a = gather(x, base, row, col, table, entry, height, width, more)
            b = load4(w, from_b, b_on & more)
            entry = int32(entry + 2)
            from_b = int32(from_b + PART * packed)
            if step >= 0:
                total = unroll(
                    PART, multiply, total, shared, int32(half + ty), int32(half + a_size + tx)
                )
            half = int32(stage - half)
            store_shared(shared, int32(half + to_a), a[0])
            store_shared(shared, int32(half + to_a + LINE), a[1])
            store_shared(shared, int32(half + to_a + 2 * LINE), a[2])
            store_shared(shared, int32(half + to_a + 3 * LINE), a[3])
            store_shared4(shared, int32(half + to_b), b, t < PART * chunks)
            cuda.syncthreads()
            step = int32(step + 1)

        to = positions, rows, cols, oh, ow, out_down, out_right, pool, k, outputs, packed
        end = residual, low, high, kind, alpha
        unroll(
            4 if second else 1, write, int32(0), total, y, add, bias, slopes, int32(first + ty),
            int32(column + tx), phase, group, to, end,
        )  # fmt: skip

    return simt

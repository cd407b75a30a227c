"""Matrix products with gathered rows on the tensor cores: TF32, three times TF32, and 16 bits.

A block makes 128 positions times 128 or 64 output channels; each of its 8 warps 64 or 32 positions
times 32 channels. Copies to shared memory run up to three parts of the depth ahead. A part is 64
bytes of each position, so 16 float32 numbers or 32 of 16 bits.

"tf32x3" splits each operand into a TF32 number and the rest, and adds three of the four products,
the small ones first. That is almost as exact as float32, at a third of the rate of TF32.

In shared memory a chunk is 4 words. Chunk j of position i is at ``j ^ (i >> 1 & 3)``, and chunk j
of row i of 16-bit weights at ``j ^ (i & 7)``, so that no access meets a bank twice.
"""

from numba import cuda
from numba.cuda.types import float32, int32

from fastconv.cuda.finish import position, put_block
from fastconv.cuda.product import OUTSIDE
from fastconv.cuda.ptx import (
    close_group,
    copy16,
    load_entry,
    load_int,
    load_shared,
    matrices,
    matrices_transposed,
    multiply_bf16,
    multiply_f16,
    multiply_tf32,
    round_tf32,
    select,
    splat,
    split_tf32,
    store_shared2,
    udivmod,
    unroll,
    wait_groups,
)

ROWS, THREADS, STAGES = 128, 256, 4
LINE = 16  # words of a position's part
UNIT = {"tf32": 4, "tf32x3": 4, "float16": 8, "bfloat16": 8}  # numbers of a chunk


def part(kind):
    """Numbers of the depth that a step multiplies."""
    return 4 * UNIT[kind]


def _line(kind, columns):
    """Words of a row of weights."""
    return columns // 2 if UNIT[kind] == 8 else columns + 8


def shared_bytes(kind, columns):
    """Dynamic shared memory: the stages, or all sums in the end."""
    stage = ROWS * LINE + part(kind) * _line(kind, columns)
    return 4 * max(STAGES * stage, ROWS * (columns + 8))


@cuda.jit(device=True)
def place(m, positions, rows, cols, pool, down, right, height, width, c, first):
    """Where a position's numbers are: offset, row and column."""
    n, i, j = position(m, rows, cols, pool)
    row, column = int32(i * down), int32(j * right)
    base = int32(((n * height + row) * width + column) * c + first)
    return base, select(m < positions, row, int32(OUTSIDE)), column


def make(kind, columns):
    """The kernel for blocks of 128 or 64 output channels."""
    unit, depth_of_part, line = UNIT[kind], part(kind), _line(kind, columns)
    a_size = ROWS * LINE
    stage = a_size + depth_of_part * line
    down_a_warp = 4 if columns == 128 else 2  # products of 16 positions
    fold = 2 if columns == 128 else 1  # 2 ** fold warps side by side
    sums = down_a_warp * 16
    pairs = sums // 2
    chunks = columns // unit  # of a row of weights
    lines = THREADS // chunks  # that the threads copy at once
    passes = depth_of_part // lines
    sums_line = columns + 8
    ahead, newest = STAGES - 1, STAGES - 2
    put = put_block(ROWS, columns, THREADS)

    @cuda.jit(device=True)
    def right16(d, shared, b):
        b = int32(b + d * 16 * line)
        return matrices_transposed(shared, b) + matrices_transposed(shared, int32(b ^ 8))

    @cuda.jit(device=True)
    def right32(d, shared, b):
        near = int32(b + d * 8 * line)
        far = int32(near + 4 * line)
        return (
            load_shared(shared, near), load_shared(shared, far),
            load_shared(shared, int32(near + 8)), load_shared(shared, int32(far + 8)),
            load_shared(shared, int32(near + 16)), load_shared(shared, int32(far + 16)),
            load_shared(shared, int32(near + 24)), load_shared(shared, int32(far + 24)),
        )  # fmt: skip

    @cuda.jit(device=True)
    def once(sums, a, b):
        return multiply_tf32(sums, round_tf32(a), b)

    @cuda.jit(device=True)
    def thrice(sums, a, b):
        a_high, a_low = split_tf32(a)
        sums = multiply_tf32(sums, a_low, b[0])
        sums = multiply_tf32(sums, a_high, b[1])
        return multiply_tf32(sums, a_high, b[0])

    @cuda.jit(device=True)
    def as_it_is(b):
        return b

    right = right16 if unit == 8 else right32
    prepare, multiply = {
        "tf32": (round_tf32, once), "tf32x3": (split_tf32, thrice),
        "float16": (as_it_is, multiply_f16), "bfloat16": (as_it_is, multiply_bf16),
    }[kind]  # fmt: skip

    @cuda.jit(device=True)
    def advance(d, sums, shared, a, b):
        """Multiply what one instruction takes of the depth, which is two chunks of a position.

        16 positions after each other: fragments of all of them would take too many registers.
        Stages and lines have a multiple of 16 words, so that ``^`` of 8 words goes two chunks on.
        """
        numbers = prepare(right(d, shared, b))
        at = int32(a ^ (d << 3))
        first = multiply(sums[:16], matrices(shared, at), numbers)
        second = multiply(sums[16:32], matrices(shared, int32(at + 16 * LINE)), numbers)
        if down_a_warp == 2:
            return first + second
        third = multiply(sums[32:48], matrices(shared, int32(at + 32 * LINE)), numbers)
        return (
            first
            + second
            + third
            + multiply(sums[48:], matrices(shared, int32(at + 48 * LINE)), numbers)
        )

    @cuda.jit(device=True)
    def copy_weights(i, nothing, shared, to, w, source, packed, on):
        copy16(shared, int32(to + i * lines * line), w, int32(source + i * lines * packed), on)
        return nothing

    @cuda.jit(device=True)
    def copy(shared, to_a, to_b, x, entry, near, far, w, source, packed, height, width, on_w, on):
        """Start the copies of a part: a chunk of two positions, and some of the weights."""
        down, across, offset, _ = entry
        base, row, column = near
        r, q = int32(row + down), int32(column + across)
        inside = on & (r >= 0) & (r < height) & (q >= 0) & (q < width)
        copy16(shared, to_a, x, int32(base + offset), inside)
        base, row, column = far
        r, q = int32(row + down), int32(column + across)
        inside = on & (r >= 0) & (r < height) & (q >= 0) & (q < width)
        copy16(shared, int32(to_a + 64 * LINE), x, int32(base + offset), inside)
        unroll(passes, copy_weights, int32(0), shared, to_b, w, source, packed, on_w & on)
        close_group()

    @cuda.jit(device=True)
    def keep(i, nothing, sums, shared, at):
        """A pair of a warp's sums to shared memory; 8 pairs are 16 positions."""
        at = int32(at + ((i >> 3) * 16 + (i & 1) * 8) * sums_line + ((i >> 1) & 3) * 8)
        store_shared2(shared, at, (sums[2 * i], sums[2 * i + 1]))
        return nothing

    def tensor(x, w, bias, slopes, add, y, table, steps, height, width, c, inputs, k, outputs,
               packed, depth, positions, rows, cols, down, right, oh, ow, out_down, out_right,
               pool, groups, residual, low, high, kind, alpha):  # fmt: skip
        shared = cuda.shared.array(0, float32, alignment=16)
        t = int32(cuda.threadIdx.x)
        lane, warp = int32(t & 31), int32(t >> 5)
        first = int32(cuda.blockIdx.x * ROWS)
        column = int32(cuda.blockIdx.y * columns)
        phase, group = udivmod(int32(cuda.blockIdx.z), groups)
        count = load_int(steps, phase)

        m, chunk = int32(first + (t >> 2)), int32(t & 3)
        channels = int32(group * inputs)
        near = place(m, positions, rows, cols, pool, down, right, height, width, c, channels)
        far = place(
            int32(m + 64), positions, rows, cols, pool, down, right, height, width, c, channels
        )
        swizzled = int32((t >> 2) * LINE + ((chunk ^ ((t >> 3) & 3)) << 2))
        entry = int32(udivmod(int32(phase * depth), int32(unit))[0] + chunk)

        b_row, b_chunk = udivmod(t, int32(chunks))
        on_w = int32(column + b_chunk * unit) < packed
        source = int32(
            ((phase * groups + group) * depth + b_row) * packed + column + b_chunk * unit
        )
        to_b = int32(a_size + b_row * line + (b_chunk << 2))
        if unit == 8:
            to_b = int32(a_size + b_row * line + ((b_chunk ^ (b_row & 7)) << 2))

        for step in range(ahead):
            now = load_entry(table, int32(entry * 4))
            copy(shared, int32(step * stage + swizzled), int32(step * stage + to_b), x, now, near,
                 far, w, source, packed, height, width, on_w, int32(step) < count)  # fmt: skip
            entry = int32(entry + 4)
            source = int32(source + depth_of_part * packed)

        total = splat(sums, float32(0))
        row = int32((warp >> fold) * (16 * down_a_warp) + (lane & 15))
        across = int32((warp & ((1 << fold) - 1)) * 32)
        from_a = int32(row * LINE + (((lane >> 4) ^ ((row >> 1) & 3)) << 2))
        from_b = int32(a_size + (lane & 3) * line + across + (lane >> 2))
        if unit == 8:
            chunk = int32((across >> 3) + (lane >> 4))
            from_b = int32(a_size + (lane & 15) * line + ((chunk ^ (lane & 7)) << 2))
        reading, left = int32(0), count
        while left > 0:
            now = load_entry(table, int32(entry * 4))  # it comes while others are waited for
            wait_groups(newest)
            cuda.syncthreads()
            writing = int32(select(reading == 0, int32(ahead * stage), int32(reading - stage)))
            copy(shared, int32(writing + swizzled), int32(writing + to_b), x, now, near, far, w,
                 source, packed, height, width, on_w, left > ahead)  # fmt: skip
            entry = int32(entry + 4)
            source = int32(source + depth_of_part * packed)
            total = unroll(
                2, advance, total, shared, int32(reading + from_a), int32(reading + from_b)
            )
            left = int32(left - 1)
            reading = int32(select(reading == ahead * stage, int32(0), int32(reading + stage)))

        wait_groups(0)
        cuda.syncthreads()
        at = int32((row - (lane & 15) + (lane >> 2)) * sums_line + across + ((lane & 3) << 1))
        unroll(pairs, keep, int32(0), total, shared, at)
        cuda.syncthreads()
        to = positions, rows, cols, oh, ow, out_down, out_right, pool, k, outputs, packed
        end = residual, low, high, kind, alpha
        put(shared, y, add, bias, slopes, first, column, phase, group, to, end)

    return tensor

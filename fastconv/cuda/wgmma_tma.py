"""As `wgmma`, with operands copied by the tensor memory accelerator (TMA), for many channels.

The accelerator gathers the 64 channels of a part, of 128 positions, by itself, and fills in zeros
outside of the image: a *tensor map*, made from an `Im2col`, tells what positions are, and offsets
move all of them to a tap. So a group must have a multiple of 64 channels, and positions and taps
must not be too far apart. Positions are row by row, so a max-pool takes a pass of its own.

One thread starts the copies of a part. They end a phase of the stage's barrier, for which all
threads wait.
"""

from numba import cuda
from numba.cuda.types import float32, int32

from fastconv.cuda import wgmma
from fastconv.cuda.ptx import (
    acquire_map,
    barrier_expect,
    barrier_start,
    barrier_wait,
    copy_bytes,
    copy_im2col,
    fence_writes,
    load_entry,
    load_int,
    select,
    splat,
    udivmod,
    wait_products,
)
from fastconv.cuda.wgmma import ALIGNED, LINE, PART, ROWS, STAGES


def shared_bytes(columns):
    """Dynamic shared memory: that of `wgmma`, and a barrier of 8 bytes for each stage."""
    return wgmma.shared_bytes(columns) + 8 * STAGES[columns]


def make(kind, columns):
    """The kernel for blocks of so many output channels."""
    stages = STAGES[columns]
    a_size = ROWS * LINE
    stage = a_size + columns * LINE
    sums = columns // 2  # of a thread
    ahead = stages - 2
    barriers = wgmma.shared_bytes(columns) // 4  # the first word of them
    advance, end_all = wgmma.product_of_parts(kind), wgmma.end_of_block(columns)

    @cuda.jit(device=True)
    def copy(shared, number, tensor_map, start, entry, top, left, channels, w, source, wide, on):
        """Start the copies of a part to the stage of this number."""
        row, column, _, channel = entry
        n, i, j = start
        at, to = int32(barriers + 2 * number), int32(number * stage)
        barrier_expect(shared, at, int32(a_size * 4 + wide * LINE * 4), on)
        copy_im2col(
            shared, to, tensor_map, (int32(channels + channel), j, i, n),
            (int32(column - left), int32(row - top)), at, on,
        )  # fmt: skip
        copy_bytes(shared, int32(to + a_size), w, source, int32(wide * LINE * 4), at, on)

    def wgmma_tma(tensor_map, w, bias, slopes, add, y, table, steps, inputs, k, outputs, packed,
                  depth, positions, rows, cols, down, right, top, left, oh, ow, out_down,
                  out_right, groups, residual, low, high, kind, alpha):  # fmt: skip
        shared = cuda.shared.array(0, float32, alignment=ALIGNED)
        one = int32(cuda.threadIdx.x) == 0
        column = int32(cuda.blockIdx.y * columns)
        phase, group = udivmod(int32(cuda.blockIdx.z), groups)
        count = load_int(steps, phase)

        q, j = udivmod(int32(cuda.blockIdx.x * ROWS), cols)
        n, i = udivmod(q, rows)
        start = n, int32(i * down + top), int32(j * right + left)
        channels = int32(group * inputs)
        entry = udivmod(int32(phase * depth), int32(PART))[0]
        wide = int32(select(packed - column < columns, int32(packed - column), int32(columns)))
        source = int32((phase * groups + group) * depth * packed + column * PART)

        for number in range(stages):
            barrier_start(shared, int32(barriers + 2 * number), int32(1), one)
        fence_writes()
        acquire_map(tensor_map, one)
        cuda.syncthreads()
        for step in range(ahead):
            now = load_entry(table, int32(entry * 4))
            copy(shared, int32(step), tensor_map, start, now, top, left, channels, w, source, wide,
                 one & (int32(step) < count))  # fmt: skip
            entry, source = int32(entry + 1), int32(source + packed * PART)

        total = splat(sums, float32(0))
        reading, parity, writing, step = int32(0), int32(0), int32(ahead), int32(0)
        while step < count:
            now = load_entry(table, int32(entry * 4))  # it comes while others are waited for
            barrier_wait(shared, int32(barriers + 2 * reading), parity)
            cuda.syncthreads()
            total = advance(total, shared, int32(reading * stage))
            copy(shared, writing, tensor_map, start, now, top, left, channels, w, source, wide,
                 one & (int32(step + ahead) < count))  # fmt: skip
            entry, source = int32(entry + 1), int32(source + packed * PART)
            step, reading, writing = int32(step + 1), int32(reading + 1), int32(writing + 1)
            if reading == stages:
                reading, parity = int32(0), int32(1 - parity)
            if writing == stages:
                writing = int32(0)
            wait_products(1)

        to = positions, rows, cols, oh, ow, out_down, out_right, int32(0), k, outputs, packed
        end = residual, low, high, kind, alpha
        end_all(total, shared, y, add, bias, slopes, phase, group, to, end)

    return wgmma_tma

"""Products of warpgroups, 128 threads each, which read shared memory: "wgmma" of sm_90a.

A warpgroup starts products and goes on; their sums are its own again after a wait. They read shared
memory through the *async proxy*, which sees what a thread copied after that thread's fence.

Format: NVIDIA, *Parallel Thread Execution ISA*, "Asynchronous Warpgroup Level Matrix Instructions".
"""

from numba.cuda import types
from numba.cuda.extending import intrinsic

from fastconv.cuda.ptx._build import (
    F32,
    I32,
    I64,
    SHARED_SPACE,
    VOID,
    address,
    asm,
    literal,
    names,
    pack,
    struct,
    unpack,
)

ROW = 128  # bytes of a row: 64 numbers of 16 bits
SLICE = 32  # bytes of a row that one instruction takes
SWIZZLE_128 = 1  # 16-byte chunk j of row i is at j ^ (i & 7)


def _simple(text, together):
    """An instruction without operands."""

    @intrinsic
    def instruction(typing_context):
        def generate(context, builder, signature, operands):
            asm(builder, VOID, text, "~{memory}", [], together=together)
            return context.get_dummy_value()

        return types.void(), generate

    return instruction


# Let the async proxy see what this thread has stored, or copied and waited for.
fence_writes = _simple("fence.proxy.async.shared::cta;", False)
# Before the products of a group: what is in registers, such as their sums, is what they are given.
open_products = _simple("wgmma.fence.sync.aligned;", True)
# Make a group of the products started since the last one.
close_products = _simple("wgmma.commit_group.sync.aligned;", True)


@literal
def wait_products(typing_context, newest):
    """Wait until all groups of products but the `newest` ones have read their operands."""

    def generate(context, builder, signature, operands):
        text = f"wgmma.wait_group.sync.aligned {newest.literal_value};"
        asm(builder, VOID, text, "~{memory}", [], together=True)
        return context.get_dummy_value()

    return types.void(newest), generate


@intrinsic
def finish_products(typing_context, sums):
    """The sums, when all products have ended."""

    def generate(context, builder, signature, operands):
        # The sums go through the instruction, so that no use of them can move before it.
        constraints = ",".join(["=f"] * sums.count + [str(i) for i in range(sums.count)])
        text = "wgmma.wait_group.sync.aligned 0;"
        values = unpack(builder, operands[0], sums.count)
        got = asm(
            builder, struct(F32, sums.count), text, constraints + ",~{memory}", values,
            together=True,
        )  # fmt: skip
        return pack(context, builder, sums, unpack(builder, got, sums.count))

    return sums(sums), generate


@intrinsic
def rows_at(typing_context, shared, index):
    """The descriptor of rows of 128 bytes, swizzled; the first one begins at a multiple of 1024.

    Bits 0 to 13 are the address, 16 to 29 a step that this layout does not have, 32 to 45 the step
    from 8 rows to the next 8, all in units of 16 bytes; 62 and 63 are the kind of swizzle.
    """
    layout = SWIZZLE_128 << 62 | (8 * ROW >> 4) << 32 | 1 << 16

    def generate(context, builder, signature, operands):
        where = address(context, builder, signature.args[0], *operands, SHARED_SPACE)
        where = builder.and_(builder.lshr(where, I32(4)), I32(0x3FFF))
        return builder.or_(builder.zext(where, I64), I64(layout))

    return types.uint64(shared, types.int32), generate


def _multiply_rows(kind):
    @intrinsic
    def multiply_rows(typing_context, sums, a, b):
        across = 2 * sums.count
        form = f"m64n{across}k16.f32.{kind}.{kind}"
        text = (
            f"wgmma.mma_async.sync.aligned.{form} {names(0, sums.count)}, "
            f"${sums.count}, ${sums.count + 1}, 1, 1, 1, 0, 0;"
        )
        tied = [str(i) for i in range(sums.count)]
        constraints = ",".join(["=f"] * sums.count + ["l", "l", *tied])

        def generate(context, builder, signature, operands):
            values = unpack(builder, operands[0], sums.count)
            for at in range(0, ROW, SLICE):
                left, right = (builder.add(d, I64(at >> 4)) for d in operands[1:])
                got = asm(
                    builder, struct(F32, sums.count), text, constraints, [left, right, *values],
                    together=True,
                )  # fmt: skip
                values = unpack(builder, got, sums.count)
            return pack(context, builder, sums, values)

        return sums(sums, a, b), generate

    return multiply_rows


# (sums, a, b): start to add the products of each of the 64 rows at descriptor `a`, of 64 numbers,
# and each of those at `b`, twice as many as a thread has sums. Sum 4 j + 2 h + e of lane 4 g + i of
# warp w is that of row 16 w + 8 h + g of `a` and row 8 j + 2 i + e of `b`.
multiply_rows_f16, multiply_rows_bf16 = _multiply_rows("f16"), _multiply_rows("bf16")

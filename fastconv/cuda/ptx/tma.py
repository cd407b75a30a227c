"""Copies by Hopper's tensor memory accelerator (TMA), and the barriers that tell their end.

One thread starts a copy of a whole tile. It writes shared memory through the async proxy, and ends
a phase of an *mbarrier*, 8 bytes of shared memory, when all bytes that were announced have come.
Here shared memory is an array of words of 4 bytes; `at` is a barrier's first one.

Format: NVIDIA, *Parallel Thread Execution ISA*, "Data Movement and Conversion Instructions: Tensor
copy", "mbarrier".
"""

from numba.cuda import types
from numba.cuda.extending import intrinsic

from fastconv.cuda.ptx._build import (
    GLOBAL_SPACE,
    I32,
    SHARED_SPACE,
    VOID,
    address,
    asm,
)

MAP_BYTES = 128  # of a tensor map


def _by_one(text, constraints):
    """An instruction of the threads whose predicate, the last operand, is on."""
    last = constraints.count(",") + 1
    code = f"{{ .reg .pred p; setp.ne.b32 p, ${last}, 0; @p {text} }}"
    return code, constraints + ",r,~{memory}"


def _barrier(instruction):
    @intrinsic
    def barrier(typing_context, shared, at, number, predicate):
        def generate(context, builder, signature, operands):
            where = address(context, builder, signature.args[0], *operands[:2], SHARED_SPACE)
            text, constraints = _by_one(instruction, "r,r")
            on = builder.zext(operands[3], I32)
            asm(builder, VOID, text, constraints, [where, operands[2], on])
            return context.get_dummy_value()

        return types.void(shared, types.int32, types.int32, types.boolean), generate

    return barrier


# (shared, at, count, predicate): make a barrier whose phases end with so many arrivals, and their
# bytes.
barrier_start = _barrier("mbarrier.init.shared::cta.b64 [$0], $1;")
# (shared, at, size, predicate): arrive, and announce so many bytes.
barrier_expect = _barrier("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;")


@intrinsic
def barrier_wait(typing_context, shared, at, parity):
    """Wait until the last phase of this parity has ended; the first one is even."""

    def generate(context, builder, signature, operands):
        where = address(context, builder, signature.args[0], *operands[:2], SHARED_SPACE)
        text = (
            "{ .reg .pred p; AGAIN_${:uid}: "
            "mbarrier.try_wait.parity.shared::cta.b64 p, [$0], $1; @!p bra AGAIN_${:uid}; }"
        )
        asm(builder, VOID, text, "r,r,~{memory}", [where, operands[2]])
        return context.get_dummy_value()

    return types.void(shared, types.int32, types.int32), generate


@intrinsic
def acquire_map(typing_context, tensor_map, predicate):
    """Let copies of this thread see the tensor map that the host has put in global memory."""

    def generate(context, builder, signature, operands):
        where = address(context, builder, signature.args[0], operands[0], I32(0), GLOBAL_SPACE)
        text, constraints = _by_one(
            f"fence.proxy.tensormap::generic.acquire.sys [$0], {MAP_BYTES};", "l"
        )
        asm(builder, VOID, text, constraints, [where, builder.zext(operands[1], I32)])
        return context.get_dummy_value()

    return types.void(tensor_map, types.boolean), generate


@intrinsic
def copy_im2col(typing_context, shared, to, tensor_map, start, offsets, at, predicate):
    """Start to copy a tile of an image.

    It begins at channel, column, row and image `start`; all its pixels are moved by `offsets`,
    columns and rows, 0 to 255.
    """

    def generate(context, builder, signature, operands):
        types_ = signature.args
        target = address(context, builder, types_[0], *operands[:2], SHARED_SPACE)
        source = address(context, builder, types_[2], operands[2], I32(0), GLOBAL_SPACE)
        barrier = address(context, builder, types_[0], operands[0], operands[5], SHARED_SPACE)
        channel, column, row, image = (builder.extract_value(operands[3], i) for i in range(4))
        right, down = (builder.extract_value(operands[4], i) for i in range(2))
        code, constraints = _by_one(
            "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
            "[$0], [$1, {$3, $4, $5, $6}], [$2], {right, down};",
            "r,l,r,r,r,r,r,r,r",
        )
        code = code.replace(
            "setp", ".reg .b16 right, down; cvt.u16.u32 right, $7; cvt.u16.u32 down, $8; setp", 1
        )
        on = builder.zext(operands[6], I32)
        values = [target, source, barrier, channel, column, row, image, right, down, on]
        asm(builder, VOID, code, constraints, values)
        return context.get_dummy_value()

    four, two = (types.UniTuple(types.int32, n) for n in (4, 2))
    made = types.void(shared, types.int32, tensor_map, four, two, types.int32, types.boolean)
    return made, generate


@intrinsic
def copy_bytes(typing_context, shared, to, array, index, size, at, predicate):
    """Start to copy so many bytes, a multiple of 16, as they are."""

    def generate(context, builder, signature, operands):
        types_ = signature.args
        target = address(context, builder, types_[0], *operands[:2], SHARED_SPACE)
        source = address(context, builder, types_[2], *operands[2:4], GLOBAL_SPACE)
        barrier = address(context, builder, types_[0], operands[0], operands[5], SHARED_SPACE)
        code, constraints = _by_one(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
            "[$0], [$1], $3, [$2];",
            "r,l,r,r",
        )
        on = builder.zext(operands[6], I32)
        asm(builder, VOID, code, constraints, [target, source, barrier, operands[4], on])
        return context.get_dummy_value()

    whole = types.int32
    made = types.void(shared, whole, array, whole, whole, whole, types.boolean)
    return made, generate

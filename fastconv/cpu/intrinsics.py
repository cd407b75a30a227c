"""What drivers need that Numba does not offer: calls and memory by address, and atomic counters."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu.simd import I64, POINTER


@intrinsic
def call(typing_context, function, arguments):
    """Call the C function ``void(int64, ...)`` at address `function` with a tuple of int64."""

    def codegen(context, builder, signature, values):
        unpacked = cgutils.unpack_tuple(builder, values[1])
        kind = ir.FunctionType(ir.VoidType(), [I64] * len(unpacked))
        # a typed pointer: the builder reads the callee's signature from it
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), unpacked)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), codegen


@intrinsic
def load_int(typing_context, address):
    """The int64 at `address`."""

    def codegen(context, builder, signature, values):
        return builder.load(builder.inttoptr(values[0], POINTER), align=8, typ=I64)

    return types.int64(types.int64), codegen


@intrinsic
def store_int(typing_context, address, value):
    """Write the int64 `value` to `address`."""

    def codegen(context, builder, signature, values):
        builder.store(values[1], builder.inttoptr(values[0], POINTER), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def atomic_add(typing_context, address, value):
    """Add `value` to the int64 at `address` and return what was there before."""

    def codegen(context, builder, signature, values):
        return builder.atomic_rmw(
            "add", builder.inttoptr(values[0], I64.as_pointer()), values[1], "seq_cst"
        )

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typing_context, address):
    """The int64 at `address`, read anew and ordered with other threads' writes."""

    def codegen(context, builder, signature, values):
        return builder.load_atomic(builder.inttoptr(values[0], POINTER), "seq_cst", 8, typ=I64)

    return types.int64(types.int64), codegen


@intrinsic
def copy_bytes(typing_context, target, source, count):
    """Copy; the areas must not overlap."""

    def codegen(context, builder, signature, values):
        to, of = (builder.inttoptr(v, cgutils.voidptr_t) for v in values[:2])
        cgutils.raw_memcpy(builder, to, of, values[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def zero_bytes(typing_context, target, count):
    """Set to zero."""

    def codegen(context, builder, signature, values):
        to = builder.inttoptr(values[0], cgutils.voidptr_t)
        cgutils.memset(builder, to, values[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def load_ints(typing_context, address, count):
    """The `count` (a constant) int64 numbers from `address` on, as a tuple."""
    kind = types.UniTuple(types.int64, count.literal_value)

    def codegen(context, builder, signature, values):
        base = builder.inttoptr(values[0], I64.as_pointer())
        loaded = [
            builder.load(builder.gep(base, [ir.Constant(I64, i)]), align=8)
            for i in range(kind.count)
        ]
        return context.make_tuple(builder, kind, loaded)

    return kind(types.int64, count), codegen

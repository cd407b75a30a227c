"""How the instructions are put into LLVM IR."""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import _intrinsic

literal = _intrinsic(target="cuda", prefer_literal=True)

I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
F32 = ir.FloatType()
VOID = ir.VoidType()
SHARED_SPACE, GLOBAL_SPACE = 3, 1

FORMATS = {types.float32: "f32", types.float16: "f16", types.uint16: "bf16"}  # of stored numbers


def asm(builder, result, text, constraints, operands, effects=True, together=False):
    """Inline assembly; without `effects` it may be moved, merged or left out.

    `together`: the threads of a warp do it at once, so it may not go where only some come by.
    """
    kind = ir.FunctionType(result, [o.type for o in operands])
    attributes = ("convergent",) if together else ()
    return builder.call(ir.InlineAsm(kind, text, constraints, effects), operands, attrs=attributes)


def address(context, builder, array_type, array, index, space):
    """Address of an element, as an integer of its address space."""
    item = context.get_data_type(array_type.dtype)
    if isinstance(array_type, types.Array):
        array = context.make_array(array_type)(context, builder, array).data
    element = builder.gep(array, [index])
    element = builder.addrspacecast(element, ir.PointerType(item, space))
    return builder.ptrtoint(element, I32 if space == SHARED_SPACE else I64)


def names(first, count):
    return "{" + ", ".join(f"${first + i}" for i in range(count)) + "}"


def struct(kind, count):
    return ir.LiteralStructType([kind] * count) if count > 1 else kind


def unpack(builder, value, count):
    return [builder.extract_value(value, i) for i in range(count)]


def pack(context, builder, tuple_type, values):
    return context.make_tuple(builder, tuple_type, values)

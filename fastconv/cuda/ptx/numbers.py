"""Arithmetic of numbers and of register tiles."""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from fastconv.cuda.ptx._build import (
    F32,
    I32,
    asm,
    literal,
    pack,
    unpack,
)

# Arithmetic. Numba makes int32 + int32 an int64, so kernels convert; these do not need it.


@intrinsic
def udivmod(typing_context, a, b):
    """Quotient and remainder of 32-bit numbers that are not negative."""
    result = types.UniTuple(types.int32, 2)

    def generate(context, builder, signature, operands):
        quotient = builder.udiv(*operands)
        rest = builder.sub(operands[0], builder.mul(quotient, operands[1]))
        return pack(context, builder, result, [quotient, rest])

    return result(types.int32, types.int32), generate


@intrinsic
def select(typing_context, predicate, yes, no):
    """`yes` or `no`, numbers or tuples of one type."""

    def generate(context, builder, signature, operands):
        on, first, second = operands
        if not isinstance(yes, types.BaseTuple):
            return builder.select(on, first, second)
        both = (unpack(builder, v, yes.count) for v in (first, second))
        chosen = [builder.select(on, a, b) for a, b in zip(*both, strict=True)]
        return pack(context, builder, yes, chosen)

    return yes(types.boolean, yes, yes), generate


@intrinsic
def again(typing_context, value):
    """An int32 as if it were not known: what is made of it is made anew.

    It saves the registers in which the compiler would keep what it made of the number before.
    """

    def generate(context, builder, signature, operands):
        return asm(builder, I32, "mov.b32 $0, $1;", "=r,r", operands)

    return types.int32(types.int32), generate


def _of_two(text):
    @intrinsic
    def operation(typing_context, a, b):
        def one(builder, x, y):
            return asm(builder, F32, f"{text} $0, $1, $2;", "=f,f,f", [x, y], effects=False)

        def generate(context, builder, signature, operands):
            if not isinstance(a, types.BaseTuple):
                return one(builder, *operands)
            both = (unpack(builder, v, a.count) for v in operands)
            return pack(context, builder, a, [one(builder, *p) for p in zip(*both, strict=True)])

        return a(a, a), generate

    return operation


# Of two floats, or of the elements of two tuples: NaN if either is.
largest, smallest = _of_two("max.NaN.f32"), _of_two("min.NaN.f32")


@intrinsic
def partner(typing_context, value, mask):
    """What the lane has whose number differs in the bits of `mask`."""

    def generate(context, builder, signature, operands):
        kind = operands[0].type
        word = builder.bitcast(operands[0], I32)
        text = "shfl.sync.bfly.b32 $0, $1, $2, 0x1f, 0xffffffff;"
        got = asm(builder, I32, text, "=r,r,r", [word, operands[1]], together=True)
        return builder.bitcast(got, kind)

    return value(value, types.int32), generate


# Register tiles.


@literal
def splat(typing_context, count, value):
    """A tuple of `count` times the same float."""
    result = types.UniTuple(types.float32, count.literal_value)

    def generate(context, builder, signature, operands):
        return pack(context, builder, result, [operands[1]] * result.count)

    return result(count, types.float32), generate


@intrinsic
def fma_outer(typing_context, sums, a, b):
    """``sums[i * len(b) + j] += a[i] * b[j]``."""

    def generate(context, builder, signature, operands):
        c, left, right = (
            unpack(builder, v, t.count) for v, t in zip(operands, signature.args, strict=True)
        )
        kind = ir.FunctionType(F32, [F32] * 3)
        fma = builder.module.globals.get("llvm.fma.f32")
        fma = fma or ir.Function(builder.module, kind, "llvm.fma.f32")
        made = [
            builder.call(fma, [x, y, c[i * len(right) + j]])
            for i, x in enumerate(left)
            for j, y in enumerate(right)
        ]
        return pack(context, builder, signature.return_type, made)

    return sums(sums, a, b), generate


@literal
def unroll(typing_context, count, body, state, *arguments):
    """``for i in range(count): state = body(i, state, *arguments)``, with constant i."""
    function = body.dispatcher.py_func
    packed = len(arguments) == 1 and isinstance(arguments[0], types.BaseTuple)
    given = arguments[0] if packed else types.Tuple(arguments)
    passed = tuple(map(types.unliteral, given.types))
    state = types.unliteral(state)
    call = state(types.int32, state, *passed)

    def generate(context, builder, signature, operands):
        now = operands[2]
        rest = [
            context.cast(builder, builder.extract_value(operands[3], i), *both)
            for i, both in enumerate(zip(given.types, passed, strict=True))
        ]
        for i in range(count.literal_value):
            now = context.compile_internal(builder, function, call, [I32(i), now, *rest])
        return now

    return state(count, body, state, given), generate

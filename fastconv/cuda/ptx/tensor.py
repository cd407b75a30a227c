"""Asynchronous copies and tensor cores."""

from numba.cuda import types
from numba.cuda.extending import intrinsic

from fastconv.cuda.ptx._build import (
    F32,
    GLOBAL_SPACE,
    I32,
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

# Asynchronous copies to shared memory, whose elements are words of 4 bytes, whatever is in them.


@intrinsic
def copy16(typing_context, shared, to, array, index, predicate):
    """Start to copy 16 bytes from global memory, or to write 16 zero bytes."""

    def generate(context, builder, signature, operands):
        types_ = signature.args
        target = address(context, builder, types_[0], *operands[:2], SHARED_SPACE)
        source = address(context, builder, types_[2], *operands[2:4], GLOBAL_SPACE)
        count = builder.select(operands[4], I32(16), I32(0))
        text = "cp.async.cg.shared.global [$0], [$1], 16, $2;"
        asm(builder, VOID, text, "r,l,r,~{memory}", [target, source, count])
        return context.get_dummy_value()

    return types.void(shared, types.int32, array, types.int32, types.boolean), generate


@intrinsic
def close_group(typing_context):
    """Make a group of the copies started since the last one."""

    def generate(context, builder, signature, operands):
        asm(builder, VOID, "cp.async.commit_group;", "~{memory}", [])
        return context.get_dummy_value()

    return types.void(), generate


@literal
def wait_groups(typing_context, newest):
    """Wait for all groups but the `newest` ones, of this thread's."""

    def generate(context, builder, signature, operands):
        text = f"cp.async.wait_group {newest.literal_value};"
        asm(builder, VOID, text, "~{memory}", [])
        return context.get_dummy_value()

    return types.void(newest), generate


# Tensor cores. Fragments are words as the threads of a warp hold them.


def _matrices(transposed):
    @intrinsic
    def matrices(typing_context, shared, index):
        result = types.UniTuple(types.uint32, 4)

        def generate(context, builder, signature, operands):
            where = address(context, builder, signature.args[0], *operands, SHARED_SPACE)
            form = "x4.trans" if transposed else "x4"
            text = f"ldmatrix.sync.aligned.m8n8.{form}.shared.b16 {names(0, 4)}, [$4];"
            constraints = "=r,=r,=r,=r,r,~{memory}"
            got = asm(builder, struct(I32, 4), text, constraints, [where], together=True)
            return pack(context, builder, result, unpack(builder, got, 4))

        return result(shared, types.int32), generate

    return matrices


# Four 8x8 matrices of 16-bit numbers, whose rows begin where the lanes say, 8 lanes a matrix.
matrices, matrices_transposed = _matrices(False), _matrices(True)


def _multiply(shape, kind):
    @intrinsic
    def multiply(typing_context, sums, a, b):
        down, across = a.count // 4, b.count // 2
        text = (
            f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 "
            f"{names(0, 4)}, {names(4, 4)}, {names(8, 2)}, {names(10, 4)};"
        )
        constraints = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)

        def generate(context, builder, signature, operands):
            c, left, right = (
                unpack(builder, v, t.count) for v, t in zip(operands, signature.args, strict=True)
            )
            for i in range(down):
                # There and back again: the next product has one operand of the last.
                for j in range(across) if i % 2 == 0 else reversed(range(across)):
                    at = 4 * (i * across + j)
                    words = [*left[4 * i : 4 * i + 4], *right[2 * j : 2 * j + 2], *c[at : at + 4]]
                    got = asm(builder, struct(F32, 4), text, constraints, words, False, True)
                    c[at : at + 4] = unpack(builder, got, 4)
            return pack(context, builder, sums, c)

        return sums(sums, a, b), generate

    return multiply


# (sums, a, b): 4 sums of each pair of 4 words of a and 2 of b are increased by their product, which
# is 16 x 8 numbers, of 8 or 16 of the depth.
multiply_tf32 = _multiply("m16n8k8", "tf32")
multiply_f16 = _multiply("m16n8k16", "f16")
multiply_bf16 = _multiply("m16n8k16", "bf16")

TF32_MASK = 0xFFFFE000  # the 19 bits of a TF32 number


def _rounded(builder, values):
    """Floats, and words of them rounded to TF32, whose other bits may be anything."""
    floats = [builder.bitcast(v, F32) if v.type == I32 else v for v in values]
    text = "cvt.rna.tf32.f32 $0, $1;"
    return [(v, asm(builder, I32, text, "=r,f", [v], effects=False)) for v in floats]


@intrinsic
def round_tf32(typing_context, numbers):
    """Words of numbers that are rounded to TF32, halves away from zero."""
    result = types.UniTuple(types.uint32, numbers.count)

    def generate(context, builder, signature, operands):
        rounded = _rounded(builder, unpack(builder, operands[0], numbers.count))
        return pack(context, builder, result, [word for _, word in rounded])

    return result(numbers), generate


@intrinsic
def split_tf32(typing_context, numbers):
    """Each number as a rounded one and the rest, in words."""
    half = types.UniTuple(types.uint32, numbers.count)
    result = types.Tuple((half, half))

    def generate(context, builder, signature, operands):
        high, low = [], []
        for value, word in _rounded(builder, unpack(builder, operands[0], numbers.count)):
            rounded = builder.and_(word, I32(TF32_MASK))
            rest = builder.fsub(value, builder.bitcast(rounded, F32))
            high.append(rounded)
            low.append(builder.bitcast(rest, I32))
        both = (pack(context, builder, half, words) for words in (high, low))
        return context.make_tuple(builder, result, list(both))

    return result(numbers), generate

"""Global and shared memory."""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from fastconv.cuda.ptx._build import (
    F32,
    FORMATS,
    GLOBAL_SPACE,
    I16,
    I32,
    I64,
    SHARED_SPACE,
    VOID,
    address,
    asm,
    names,
    pack,
    struct,
    unpack,
)

# Memory. Global memory is read through the read-only path: no kernel reads there what it writes.


def _place(context, builder, array_type, array, index):
    """Address of an element, the constraint of its register, and the name of its memory."""
    shared = isinstance(array_type, types.Array)
    space = SHARED_SPACE if shared else GLOBAL_SPACE
    where = address(context, builder, array_type, array, index, space)
    return (where, "r", "shared") if shared else (where, "l", "global")


def _widen(builder, kind, value):
    """Bits of a stored 16-bit number as a float."""
    if kind == "bf16":
        return builder.bitcast(builder.shl(builder.zext(value, I32), I32(16)), F32)
    return asm(builder, F32, "cvt.f32.f16 $0, $1;", "=f,h", [value], effects=False)


def _narrow(builder, kind, value):
    """A float as the bits of a 16-bit number, rounded to nearest even."""
    return asm(builder, I16, f"cvt.rn.{kind}.f32 $0, $1;", "=h,f", [value], effects=False)


def _load(count):
    @intrinsic
    def load(typing_context, array, index, predicate):
        stored = FORMATS[array.dtype]
        kind, bits, code = (F32, "b32", "f") if stored == "f32" else (I16, "b16", "h")
        result = types.UniTuple(types.float32, count)

        def generate(context, builder, signature, operands):
            where, register, memory = _place(context, builder, signature.args[0], *operands[:2])
            written = memory == "shared"  # by the kernel, so that the order of accesses matters
            vector = f".v{count}" if count > 1 else ""
            targets = names(0, count) if count > 1 else "$0"
            zero = "".join(f"mov.{bits} ${i}, 0; " for i in range(count))
            text = (
                f"{{ .reg .pred p; setp.ne.b32 p, ${count + 1}, 0; {zero}"
                f"@p ld.{memory}{'' if written else '.nc'}{vector}.{bits} {targets}, [${count}]; }}"
            )
            clobbers = ["~{memory}"] * written
            constraints = ",".join([f"=&{code}"] * count + [register, "r"] + clobbers)
            on = builder.zext(operands[2], I32)
            got = asm(builder, struct(kind, count), text, constraints, [where, on], written)
            values = unpack(builder, got, count) if count > 1 else [got]
            if stored != "f32":
                values = [_widen(builder, stored, v) for v in values]
            return pack(context, builder, result, values) if count > 1 else values[0]

        returned = result if count > 1 else types.float32
        return returned(array, types.int32, types.boolean), generate

    return load


# (array, index, predicate): floats of global or shared memory, 0 where the predicate is off.
load1, load4 = _load(1), _load(4)


@intrinsic
def load8(typing_context, array, index, predicate):
    """Eight numbers of 16 bits as floats, 0 where the predicate is off; 16-byte aligned."""
    stored = FORMATS[array.dtype]
    result = types.UniTuple(types.float32, 8)

    def generate(context, builder, signature, operands):
        where = address(context, builder, signature.args[0], *operands[:2], GLOBAL_SPACE)
        zero = "".join(f"mov.b32 ${i}, 0; " for i in range(4))
        text = (
            f"{{ .reg .pred p; setp.ne.b32 p, $5, 0; {zero}"
            f"@p ld.global.nc.v4.b32 {names(0, 4)}, [$4]; }}"
        )
        on = builder.zext(operands[2], I32)
        got = asm(builder, struct(I32, 4), text, "=&r,=&r,=&r,=&r,l,r", [where, on], False)
        halves = []
        for word in unpack(builder, got, 4):
            halves += [builder.trunc(word, I16), builder.trunc(builder.lshr(word, I32(16)), I16)]
        return pack(context, builder, result, [_widen(builder, stored, h) for h in halves])

    return result(array, types.int32, types.boolean), generate


@intrinsic
def load_entry(typing_context, table, index):
    """Four int32 numbers of a table, whose index is a multiple of 4."""
    result = types.UniTuple(types.int32, 4)

    def generate(context, builder, signature, operands):
        where = address(context, builder, signature.args[0], *operands, GLOBAL_SPACE)
        text = f"ld.global.nc.v4.b32 {names(0, 4)}, [$4];"
        got = asm(builder, struct(I32, 4), text, "=r,=r,=r,=r,l", [where], False)
        return pack(context, builder, result, unpack(builder, got, 4))

    return result(table, types.int32), generate


@intrinsic
def load_int(typing_context, table, index):
    """One int32 number."""

    def generate(context, builder, signature, operands):
        where = address(context, builder, signature.args[0], *operands, GLOBAL_SPACE)
        return asm(builder, I32, "ld.global.nc.b32 $0, [$1];", "=r,l", [where], False)

    return types.int32(table, types.int32), generate


def _store(count):
    @intrinsic
    def store(typing_context, array, index, values, predicate):
        stored = FORMATS[array.dtype]
        bits, code = ("b32", "f") if stored == "f32" else ("b16", "h")

        def generate(context, builder, signature, operands):
            where, register, memory = _place(context, builder, signature.args[0], *operands[:2])
            floats = unpack(builder, operands[2], count) if count > 1 else [operands[2]]
            if stored != "f32":
                floats = [_narrow(builder, stored, v) for v in floats]
            vector = f".v{count}" if count > 1 else ""
            sources = names(0, count) if count > 1 else "$0"
            text = (
                f"{{ .reg .pred p; setp.ne.b32 p, ${count + 1}, 0; "
                f"@p st.{memory}{vector}.{bits} [${count}], {sources}; }}"
            )
            constraints = ",".join([code] * count + [register, "r", "~{memory}"])
            on = builder.zext(operands[3], I32)
            asm(builder, VOID, text, constraints, [*floats, where, on])
            return context.get_dummy_value()

        return types.void(array, types.int32, values, types.boolean), generate

    return store


store1, store4 = _store(1), _store(4)  # (array, index, floats, predicate): of either memory


@intrinsic
def store8(typing_context, array, index, values, predicate):
    """Eight floats, rounded to numbers of 16 bits; 16-byte aligned."""
    stored = FORMATS[array.dtype]

    def generate(context, builder, signature, operands):
        where = address(context, builder, signature.args[0], *operands[:2], GLOBAL_SPACE)
        halves = [_narrow(builder, stored, v) for v in unpack(builder, operands[2], 8)]
        words = [
            builder.or_(builder.zext(low, I32), builder.shl(builder.zext(high, I32), I32(16)))
            for low, high in zip(halves[::2], halves[1::2], strict=True)
        ]
        text = f"{{ .reg .pred p; setp.ne.b32 p, $5, 0; @p st.global.v4.b32 [$4], {names(0, 4)}; }}"
        on = builder.zext(operands[3], I32)
        asm(builder, VOID, text, "r,r,r,r,l,r,~{memory}", [*words, where, on])
        return context.get_dummy_value()

    return types.void(array, types.int32, values, types.boolean), generate


@intrinsic
def store_int(typing_context, array, index, value, predicate):
    """Store the low bytes of an int32 number as the array's integer type."""
    width = array.dtype.bitwidth

    def generate(context, builder, signature, operands):
        where = address(context, builder, signature.args[0], *operands[:2], GLOBAL_SPACE)
        value = operands[2] if width <= 32 else builder.zext(operands[2], I64)
        code = "l" if width > 32 else "r"
        text = f"{{ .reg .pred p; setp.ne.b32 p, $2, 0; @p st.global.b{width} [$0], $1; }}"
        on = builder.zext(operands[3], I32)
        asm(builder, VOID, text, f"l,{code},r,~{{memory}}", [where, value, on])
        return context.get_dummy_value()

    return types.void(array, types.int32, types.int32, types.boolean), generate


def _in_shared(context, builder, array_type, array, index, kind):
    """Pointer to numbers of shared memory; LLVM finds the address space and folds constants."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(kind))


@intrinsic
def load_shared(typing_context, array, index):
    """One number of shared memory."""

    def generate(context, builder, signature, operands):
        return builder.load(_in_shared(context, builder, signature.args[0], *operands, F32))

    return types.float32(array, types.int32), generate


@intrinsic
def load_shared4(typing_context, array, index):
    """Four floats of shared memory, 16-byte aligned."""
    result = types.UniTuple(types.float32, 4)

    def generate(context, builder, signature, operands):
        kind = ir.VectorType(F32, 4)
        where = _in_shared(context, builder, signature.args[0], *operands, kind)
        vector = builder.load(where, align=16)
        values = [builder.extract_element(vector, I32(i)) for i in range(4)]
        return pack(context, builder, result, values)

    return result(array, types.int32), generate


@intrinsic
def store_shared(typing_context, array, index, value):
    """One float to shared memory."""

    def generate(context, builder, signature, operands):
        where = _in_shared(context, builder, signature.args[0], *operands[:2], F32)
        builder.store(operands[2], where)
        return context.get_dummy_value()

    return types.void(array, types.int32, types.float32), generate


def _store_vector(context, builder, array_type, array, index, values, count):
    kind = ir.VectorType(F32, count)
    where = _in_shared(context, builder, array_type, array, index, kind)
    vector = ir.Constant(kind, ir.Undefined)
    for i, value in enumerate(unpack(builder, values, count)):
        vector = builder.insert_element(vector, value, I32(i))
    builder.store(vector, where, align=4 * count)


@intrinsic
def store_shared2(typing_context, array, index, values):
    """Two floats to shared memory, 8-byte aligned."""

    def generate(context, builder, signature, operands):
        _store_vector(context, builder, signature.args[0], *operands, 2)
        return context.get_dummy_value()

    return types.void(array, types.int32, values), generate


@intrinsic
def store_shared4(typing_context, array, index, values, predicate):
    """Four floats to shared memory, 16-byte aligned."""

    def generate(context, builder, signature, operands):
        with builder.if_then(operands[3]):
            _store_vector(context, builder, signature.args[0], *operands[:3], 4)
        return context.get_dummy_value()

    return types.void(array, types.int32, values, types.boolean), generate

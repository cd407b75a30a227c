"""PTX for kernels: the only module that knows it, or how Numba makes LLVM IR.

Each function here is an instruction, or a few of them, that a kernel calls by its Python name.
Conditions are operands (`predicate`), not branches: the code is better, and a simulator whose
threads are the elements of NumPy vectors can run the kernels.

Addresses are an array and the number of an element, without Numba's test for negative ones. An
array is a pointer (``CPointer``) to global memory, or what `shared` gives. Pointers to uint16 are
to bfloat16 numbers.

Register tiles are tuples, and loops over them are unrolled here: an array that a loop indexes would
be put into local memory.

Formats: NVIDIA, *Parallel Thread Execution ISA*, "Warp level matrix instructions".
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import _intrinsic, intrinsic

literal = _intrinsic(target="cuda", prefer_literal=True)

I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
F32 = ir.FloatType()
VOID = ir.VoidType()
SHARED_SPACE, GLOBAL_SPACE = 3, 1

FORMATS = {types.float32: "f32", types.float16: "f16", types.uint16: "bf16"}  # of stored numbers


def _asm(builder, result, text, constraints, operands, effects=True):
    """Inline assembly; without `effects` it may be moved, merged or left out."""
    kind = ir.FunctionType(result, [o.type for o in operands])
    return builder.call(ir.InlineAsm(kind, text, constraints, effects), operands)


def _address(context, builder, array_type, array, index, space):
    """Address of an element, as an integer of its address space."""
    item = context.get_data_type(array_type.dtype)
    if isinstance(array_type, types.Array):
        array = context.make_array(array_type)(context, builder, array).data
    element = builder.gep(array, [index])
    element = builder.addrspacecast(element, ir.PointerType(item, space))
    return builder.ptrtoint(element, I32 if space == SHARED_SPACE else I64)


def _names(first, count):
    return "{" + ", ".join(f"${first + i}" for i in range(count)) + "}"


def _struct(kind, count):
    return ir.LiteralStructType([kind] * count) if count > 1 else kind


def _unpack(builder, value, count):
    return [builder.extract_value(value, i) for i in range(count)]


def _pack(context, builder, tuple_type, values):
    return context.make_tuple(builder, tuple_type, values)


# Memory. Reading is through the read-only path: no kernel reads what it writes.


def _widen(builder, kind, value):
    """Bits of a stored 16-bit number as a float."""
    if kind == "bf16":
        return builder.bitcast(builder.shl(builder.zext(value, I32), I32(16)), F32)
    return _asm(builder, F32, "cvt.f32.f16 $0, $1;", "=f,h", [value], effects=False)


def _narrow(builder, kind, value):
    """A float as the bits of a 16-bit number, rounded to nearest even."""
    return _asm(builder, I16, f"cvt.rn.{kind}.f32 $0, $1;", "=h,f", [value], effects=False)


def _load(count):
    @intrinsic
    def load(typing_context, array, index, predicate):
        stored = FORMATS[array.dtype]
        kind, bits, code = (F32, "b32", "f") if stored == "f32" else (I16, "b16", "h")
        result = types.UniTuple(types.float32, count)

        def generate(context, builder, signature, operands):
            array_type = signature.args[0]
            where = _address(context, builder, array_type, operands[0], operands[1], GLOBAL_SPACE)
            vector = f".v{count}" if count > 1 else ""
            targets = _names(0, count) if count > 1 else "$0"
            zero = "".join(f"mov.{bits} ${i}, 0; " for i in range(count))
            text = (
                f"{{ .reg .pred p; setp.ne.b32 p, ${count + 1}, 0; {zero}"
                f"@p ld.global.nc{vector}.{bits} {targets}, [${count}]; }}"
            )
            constraints = ",".join([f"=&{code}"] * count + ["l", "r"])
            on = builder.zext(operands[2], I32)
            got = _asm(builder, _struct(kind, count), text, constraints, [where, on], False)
            values = _unpack(builder, got, count) if count > 1 else [got]
            if stored != "f32":
                values = [_widen(builder, stored, v) for v in values]
            return _pack(context, builder, result, values) if count > 1 else values[0]

        returned = result if count > 1 else types.float32
        return returned(array, types.int32, types.boolean), generate

    return load


load1, load4 = _load(1), _load(4)  # (array, index, predicate): floats, 0 where it is off


@intrinsic
def load8(typing_context, array, index, predicate):
    """Eight numbers of 16 bits as floats, 0 where the predicate is off; 16-byte aligned."""
    stored = FORMATS[array.dtype]
    result = types.UniTuple(types.float32, 8)

    def generate(context, builder, signature, operands):
        where = _address(context, builder, signature.args[0], *operands[:2], GLOBAL_SPACE)
        zero = "".join(f"mov.b32 ${i}, 0; " for i in range(4))
        text = (
            f"{{ .reg .pred p; setp.ne.b32 p, $5, 0; {zero}"
            f"@p ld.global.nc.v4.b32 {_names(0, 4)}, [$4]; }}"
        )
        on = builder.zext(operands[2], I32)
        got = _asm(builder, _struct(I32, 4), text, "=&r,=&r,=&r,=&r,l,r", [where, on], False)
        halves = []
        for word in _unpack(builder, got, 4):
            halves += [builder.trunc(word, I16), builder.trunc(builder.lshr(word, I32(16)), I16)]
        return _pack(context, builder, result, [_widen(builder, stored, h) for h in halves])

    return result(array, types.int32, types.boolean), generate


@intrinsic
def load_entry(typing_context, table, index):
    """Four int32 numbers of a table, whose index is a multiple of 4."""
    result = types.UniTuple(types.int32, 4)

    def generate(context, builder, signature, operands):
        where = _address(context, builder, signature.args[0], *operands, GLOBAL_SPACE)
        text = f"ld.global.nc.v4.b32 {_names(0, 4)}, [$4];"
        got = _asm(builder, _struct(I32, 4), text, "=r,=r,=r,=r,l", [where], False)
        return _pack(context, builder, result, _unpack(builder, got, 4))

    return result(table, types.int32), generate


@intrinsic
def load_int(typing_context, table, index):
    """One int32 number."""

    def generate(context, builder, signature, operands):
        where = _address(context, builder, signature.args[0], *operands, GLOBAL_SPACE)
        return _asm(builder, I32, "ld.global.nc.b32 $0, [$1];", "=r,l", [where], False)

    return types.int32(table, types.int32), generate


def _store(count):
    @intrinsic
    def store(typing_context, array, index, values, predicate):
        stored = FORMATS[array.dtype]
        bits, code = ("b32", "f") if stored == "f32" else ("b16", "h")

        def generate(context, builder, signature, operands):
            array_type = signature.args[0]
            where = _address(context, builder, array_type, operands[0], operands[1], GLOBAL_SPACE)
            floats = _unpack(builder, operands[2], count) if count > 1 else [operands[2]]
            if stored != "f32":
                floats = [_narrow(builder, stored, v) for v in floats]
            vector = f".v{count}" if count > 1 else ""
            sources = _names(0, count) if count > 1 else "$0"
            text = (
                f"{{ .reg .pred p; setp.ne.b32 p, ${count + 1}, 0; "
                f"@p st.global{vector}.{bits} [${count}], {sources}; }}"
            )
            constraints = ",".join([code] * count + ["l", "r", "~{memory}"])
            on = builder.zext(operands[3], I32)
            _asm(builder, VOID, text, constraints, [*floats, where, on])
            return context.get_dummy_value()

        return types.void(array, types.int32, values, types.boolean), generate

    return store


store1, store4 = _store(1), _store(4)  # (array, index, floats, predicate)


@intrinsic
def store8(typing_context, array, index, values, predicate):
    """Eight floats, rounded to numbers of 16 bits; 16-byte aligned."""
    stored = FORMATS[array.dtype]

    def generate(context, builder, signature, operands):
        where = _address(context, builder, signature.args[0], *operands[:2], GLOBAL_SPACE)
        halves = [_narrow(builder, stored, v) for v in _unpack(builder, operands[2], 8)]
        words = [
            builder.or_(builder.zext(low, I32), builder.shl(builder.zext(high, I32), I32(16)))
            for low, high in zip(halves[::2], halves[1::2], strict=True)
        ]
        text = (
            f"{{ .reg .pred p; setp.ne.b32 p, $5, 0; @p st.global.v4.b32 [$4], {_names(0, 4)}; }}"
        )
        on = builder.zext(operands[3], I32)
        _asm(builder, VOID, text, "r,r,r,r,l,r,~{memory}", [*words, where, on])
        return context.get_dummy_value()

    return types.void(array, types.int32, values, types.boolean), generate


@intrinsic
def store_int(typing_context, array, index, value, predicate):
    """Store the low bytes of an int32 number as the array's integer type."""
    width = array.dtype.bitwidth

    def generate(context, builder, signature, operands):
        where = _address(context, builder, signature.args[0], *operands[:2], GLOBAL_SPACE)
        value = operands[2] if width <= 32 else builder.zext(operands[2], I64)
        code = "l" if width > 32 else "r"
        text = f"{{ .reg .pred p; setp.ne.b32 p, $2, 0; @p st.global.b{width} [$0], $1; }}"
        on = builder.zext(operands[3], I32)
        _asm(builder, VOID, text, f"l,{code},r,~{{memory}}", [where, value, on])
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
        return _pack(context, builder, result, values)

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
    for i, value in enumerate(_unpack(builder, values, count)):
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


# Arithmetic. Numba makes int32 + int32 an int64, so kernels convert; these do not need it.


@intrinsic
def udivmod(typing_context, a, b):
    """Quotient and remainder of 32-bit numbers that are not negative."""
    result = types.UniTuple(types.int32, 2)

    def generate(context, builder, signature, operands):
        quotient = builder.udiv(*operands)
        rest = builder.sub(operands[0], builder.mul(quotient, operands[1]))
        return _pack(context, builder, result, [quotient, rest])

    return result(types.int32, types.int32), generate


@intrinsic
def select(typing_context, predicate, yes, no):
    """`yes` or `no`, numbers or tuples of one type."""

    def generate(context, builder, signature, operands):
        on, first, second = operands
        if not isinstance(yes, types.BaseTuple):
            return builder.select(on, first, second)
        both = (_unpack(builder, v, yes.count) for v in (first, second))
        chosen = [builder.select(on, a, b) for a, b in zip(*both, strict=True)]
        return _pack(context, builder, yes, chosen)

    return yes(types.boolean, yes, yes), generate


def _of_two(text):
    @intrinsic
    def operation(typing_context, a, b):
        def one(builder, x, y):
            return _asm(builder, F32, f"{text} $0, $1, $2;", "=f,f,f", [x, y], effects=False)

        def generate(context, builder, signature, operands):
            if not isinstance(a, types.BaseTuple):
                return one(builder, *operands)
            both = (_unpack(builder, v, a.count) for v in operands)
            return _pack(context, builder, a, [one(builder, *p) for p in zip(*both, strict=True)])

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
        got = _asm(builder, I32, text, "=r,r,r", [word, operands[1]])
        return builder.bitcast(got, kind)

    return value(value, types.int32), generate


# Register tiles.


@literal
def splat(typing_context, count, value):
    """A tuple of `count` times the same float."""
    result = types.UniTuple(types.float32, count.literal_value)

    def generate(context, builder, signature, operands):
        return _pack(context, builder, result, [operands[1]] * result.count)

    return result(count, types.float32), generate


@intrinsic
def fma_outer(typing_context, sums, a, b):
    """``sums[i * len(b) + j] += a[i] * b[j]``."""

    def generate(context, builder, signature, operands):
        c, left, right = (
            _unpack(builder, v, t.count) for v, t in zip(operands, signature.args, strict=True)
        )
        kind = ir.FunctionType(F32, [F32] * 3)
        fma = builder.module.globals.get("llvm.fma.f32")
        fma = fma or ir.Function(builder.module, kind, "llvm.fma.f32")
        made = [
            builder.call(fma, [x, y, c[i * len(right) + j]])
            for i, x in enumerate(left)
            for j, y in enumerate(right)
        ]
        return _pack(context, builder, signature.return_type, made)

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


# Asynchronous copies to shared memory, whose elements are words of 4 bytes, whatever is in them.


@intrinsic
def copy16(typing_context, shared, to, array, index, predicate):
    """Start to copy 16 bytes from global memory, or to write 16 zero bytes."""

    def generate(context, builder, signature, operands):
        types_ = signature.args
        target = _address(context, builder, types_[0], *operands[:2], SHARED_SPACE)
        source = _address(context, builder, types_[2], *operands[2:4], GLOBAL_SPACE)
        count = builder.select(operands[4], I32(16), I32(0))
        text = "cp.async.cg.shared.global [$0], [$1], 16, $2;"
        _asm(builder, VOID, text, "r,l,r,~{memory}", [target, source, count])
        return context.get_dummy_value()

    return types.void(shared, types.int32, array, types.int32, types.boolean), generate


@intrinsic
def close_group(typing_context):
    """Make a group of the copies started since the last one."""

    def generate(context, builder, signature, operands):
        _asm(builder, VOID, "cp.async.commit_group;", "~{memory}", [])
        return context.get_dummy_value()

    return types.void(), generate


@literal
def wait_groups(typing_context, newest):
    """Wait for all groups but the `newest` ones, of this thread's."""

    def generate(context, builder, signature, operands):
        text = f"cp.async.wait_group {newest.literal_value};"
        _asm(builder, VOID, text, "~{memory}", [])
        return context.get_dummy_value()

    return types.void(newest), generate


# Tensor cores. Fragments are words as the threads of a warp hold them.


def _matrices(transposed):
    @intrinsic
    def matrices(typing_context, shared, index):
        result = types.UniTuple(types.uint32, 4)

        def generate(context, builder, signature, operands):
            where = _address(context, builder, signature.args[0], *operands, SHARED_SPACE)
            form = "x4.trans" if transposed else "x4"
            text = f"ldmatrix.sync.aligned.m8n8.{form}.shared.b16 {_names(0, 4)}, [$4];"
            constraints = "=r,=r,=r,=r,r,~{memory}"
            got = _asm(builder, _struct(I32, 4), text, constraints, [where])
            return _pack(context, builder, result, _unpack(builder, got, 4))

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
            f"{_names(0, 4)}, {_names(4, 4)}, {_names(8, 2)}, {_names(10, 4)};"
        )
        constraints = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)

        def generate(context, builder, signature, operands):
            c, left, right = (
                _unpack(builder, v, t.count) for v, t in zip(operands, signature.args, strict=True)
            )
            for i in range(down):
                # There and back again: the next product has one operand of the last.
                for j in range(across) if i % 2 == 0 else reversed(range(across)):
                    at = 4 * (i * across + j)
                    words = [*left[4 * i : 4 * i + 4], *right[2 * j : 2 * j + 2], *c[at : at + 4]]
                    got = _asm(builder, _struct(F32, 4), text, constraints, words, False)
                    c[at : at + 4] = _unpack(builder, got, 4)
            return _pack(context, builder, sums, c)

        return sums(sums, a, b), generate

    return multiply


# (sums, a, b): 4 sums of each pair of 4 words of a and 2 of b are increased by their product, which
# is 16 x 8 numbers, of 8 or 16 of the depth.
multiply_tf32 = _multiply("m16n8k8", "tf32")
multiply_f16 = _multiply("m16n8k16", "f16")
multiply_bf16 = _multiply("m16n8k16", "bf16")

TF32_HALF, TF32_MASK = 0x1000, 0xFFFFE000  # of its last place; its 19 bits


def _word(builder, value):
    return builder.bitcast(value, I32) if value.type == F32 else value


@intrinsic
def round_tf32(typing_context, numbers):
    """Words of numbers that are rounded to TF32, halves away from zero."""
    result = types.UniTuple(types.uint32, numbers.count)

    def generate(context, builder, signature, operands):
        words = [_word(builder, v) for v in _unpack(builder, operands[0], numbers.count)]
        rounded = [builder.add(w, I32(TF32_HALF)) for w in words]  # the cores drop other bits
        return _pack(context, builder, result, rounded)

    return result(numbers), generate


@intrinsic
def split_tf32(typing_context, numbers):
    """Each number as a rounded one and the rest, in words."""
    half = types.UniTuple(types.uint32, numbers.count)
    result = types.Tuple((half, half))

    def generate(context, builder, signature, operands):
        high, low = [], []
        for value in _unpack(builder, operands[0], numbers.count):
            word = _word(builder, value)
            rounded = builder.and_(builder.add(word, I32(TF32_HALF)), I32(TF32_MASK))
            rest = builder.fsub(builder.bitcast(word, F32), builder.bitcast(rounded, F32))
            high.append(rounded)
            low.append(builder.bitcast(rest, I32))
        both = (_pack(context, builder, half, words) for words in (high, low))
        return context.make_tuple(builder, result, list(both))

    return result(numbers), generate

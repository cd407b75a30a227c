"""LLVM vectors: a thin builder for the code of micro-kernels.

Numba's own vectoriser cannot keep a register tile alive across a loop (plain loops reach a
quarter of the FMA peak here), so the micro-kernels state their vectors themselves. A vector is
written with 16 float32 or 8 float64 lanes, whatever the host: LLVM splits it into two AVX2 or four
NEON registers, and only the number of vectors in a tile changes from one host to the next. Layouts
in memory count in such vectors; code that keeps many numbers at once may use parts of them.

Addresses are plain ``int64`` numbers in bytes: kernels then have one signature style, compile
without array types, and address beyond 2**31 elements. What drivers need beside vectors is in
`intrinsics`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

from llvmlite import ir

from fastconv.dtypes import ITEMSIZE, WORKING

I1, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 16, 32, 64))
POINTER = ir.PointerType()
ELEMENTS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}
LANES = {"float32": 16, "float64": 8, "float16": 16, "bfloat16": 16}  # 64 bytes while working


class Emitter:
    """Emits vector code of one element type at the position of an LLVM builder.

    Images are stored as `stored_dtype`; sums, weights and everything between are of `dtype`, which
    is float32 where the stored numbers have only 16 bits.
    """

    def __init__(self, builder: Any, dtype: str, lanes: int) -> None:
        self.ir = builder
        self.stored_dtype = dtype
        self.dtype = WORKING[dtype]
        self.element = ELEMENTS[self.dtype]
        self.suffix = {"float32": "f32", "float64": "f64"}[self.dtype]
        self.itemsize = ITEMSIZE[self.dtype]
        self.lanes = lanes
        self.bytes = self.itemsize * self.lanes
        self.vector = ir.VectorType(self.element, self.lanes)
        # Integers as wide as an element, and floating-point numbers seen as integers.
        self.integer = ir.IntType(8 * self.itemsize)
        self.integers = ir.VectorType(self.integer, self.lanes)

    # -- integers ---------------------------------------------------------------------------
    def const(self, value: int) -> Any:
        return ir.Constant(I64, value)

    def add(self, a: Any, b: Any) -> Any:
        b = self.const(b) if isinstance(b, int) else b
        return self.ir.add(a, b)

    def mul(self, a: Any, b: Any) -> Any:
        b = self.const(b) if isinstance(b, int) else b
        return self.ir.mul(a, b)

    def grid(self, start: Any, down: Any, across: Any, rows: int, columns: int) -> list[list[Any]]:
        """Addresses ``start + y * down + x * across``.

        A row's first one is hidden from LLVM: it would turn all of them into sums of `start` and a
        register each, and keep those on the stack (an input transform: 150 -> 115 cycles).
        """
        shifts = [self.mul(across, x) for x in range(columns)]
        firsts = [start]
        for _ in range(rows - 1):
            firsts.append(self._hidden(self.add(firsts[-1], down)))
        return [[self.add(first, shift) for shift in shifts] for first in firsts]

    def run(self, start: Any, step: Any, count: int) -> list[Any]:
        """Addresses ``start + i * step``.

        Every third is hidden from LLVM, so that the next two are sums that an instruction makes
        itself: else each has a register or a place on the stack.
        """
        addresses: list[Any] = []
        for i in range(count):
            if i % 3 == 0:
                first = self.add(addresses[-3], self.mul(step, 3)) if addresses else start
                addresses.append(self._hidden(first))
            else:
                addresses.append(self.add(addresses[i - i % 3], self.mul(step, i % 3)))
        return addresses

    def load_int(self, address: Any) -> Any:
        return self.ir.load(self.pointer(address), align=8, typ=I64)

    def store_int(self, value: Any, address: Any, size: int) -> None:
        """An integer of `size` bytes."""
        narrow = self.ir.trunc(value, ir.IntType(8 * size)) if size < 8 else value
        self.ir.store(narrow, self.pointer(address), align=size)

    # -- control ----------------------------------------------------------------------------
    def variable(self, value: Any) -> Any:
        """A stack slot that LLVM promotes to a register, holding `value`."""
        with self.ir.goto_entry_block():  # once, not in each turn of a loop
            slot = self.ir.alloca(value.type)
        self.ir.store(value, slot)
        return slot

    def get(self, slot: Any) -> Any:
        return self.ir.load(slot, typ=slot.allocated_type)

    def set(self, slot: Any, value: Any) -> None:
        self.ir.store(value, slot)

    @contextmanager
    def loop(self, stop: Any, step: int = 1, start: Any = 0) -> Iterator[Any]:
        """``for i in range(start, stop, step)``."""
        stop = self.const(stop) if isinstance(stop, int) else stop
        index = self.variable(self.const(start) if isinstance(start, int) else start)
        head, body, end = (self.ir.append_basic_block(n) for n in ("head", "body", "end"))
        self.ir.branch(head)
        self.ir.position_at_end(head)
        i = self.get(index)
        self.ir.cbranch(self.ir.icmp_signed("<", i, stop), body, end)
        self.ir.position_at_end(body)
        yield i
        self.set(index, self.add(i, step))
        self.ir.branch(head)
        self.ir.position_at_end(end)

    # -- memory -----------------------------------------------------------------------------
    def pointer(self, address: Any) -> Any:
        return self.ir.inttoptr(address, POINTER)

    def load(self, address: Any) -> Any:
        """One vector; any alignment of whole elements."""
        return self.ir.load(self.pointer(address), align=self.itemsize, typ=self.vector)

    def store(self, value: Any, address: Any, streaming: bool = False) -> None:
        """One vector. `streaming` bypasses the caches and needs 64-byte alignment."""
        align = self.bytes if streaming else self.itemsize
        instruction = self.ir.store(value, self.pointer(address), align=align)
        if streaming:
            module = self.ir.module
            instruction.set_metadata("nontemporal", module.add_metadata([ir.Constant(I32, 1)]))

    def load_splat(self, address: Any) -> Any:
        """One element copied to every lane."""
        scalar = self.ir.load(self.pointer(address), align=self.itemsize, typ=self.element)
        return self._broadcast(scalar, self.vector)

    def mask(self, count: Any, first: int = 0) -> Any:
        """Lanes ``first + lane < count``."""
        ints = ir.VectorType(I64, self.lanes)
        lanes = ir.Constant(ints, [ir.Constant(I64, first + i) for i in range(self.lanes)])
        return self.ir.icmp_signed("<", lanes, self._broadcast(count, ints))

    def load_masked(self, address: Any, mask: Any) -> Any:
        """One vector, zero in the lanes that the mask leaves out (their memory is not touched)."""
        kinds = [POINTER, I32, mask.type, self.vector]
        zero = ir.Constant(self.vector, None)
        args = [self.pointer(address), ir.Constant(I32, self.itemsize), mask, zero]
        return self._llvm(f"llvm.masked.load.{self._kind}.p0", self.vector, kinds, args)

    def store_masked(self, value: Any, address: Any, mask: Any) -> None:
        """The lanes that the mask selects, of a vector of elements or of int64."""
        kinds = [value.type, POINTER, I32, mask.type]
        args = [value, self.pointer(address), ir.Constant(I32, self.itemsize), mask]
        kind = f"v{self.lanes}i64" if value.type.element == I64 else self._kind
        self._llvm(f"llvm.masked.store.{kind}.p0", ir.VoidType(), kinds, args)

    # -- images: numbers as they are stored -------------------------------------------------------
    def stored(self, offset: Any) -> Any:
        """Byte offset in an image from one in an array of working precision."""
        narrower = self.itemsize // ITEMSIZE[self.stored_dtype]
        return self.ir.sdiv(offset, self.const(narrower)) if narrower > 1 else offset

    def load_stored(self, address: Any, mask: Any = None) -> Any:
        """One vector of an image in working precision; zero in the lanes that a mask leaves out."""
        if self.stored_dtype == self.dtype:
            return self.load(address) if mask is None else self.load_masked(address, mask)
        kind = ir.VectorType(I16, self.lanes)
        if mask is None:
            bits = self.ir.load(self.pointer(address), align=2, typ=kind)
        else:
            name, kinds = f"llvm.masked.load.v{self.lanes}i16.p0", [POINTER, I32, mask.type, kind]
            zero = ir.Constant(kind, None)
            args = [self.pointer(address), ir.Constant(I32, 2), mask, zero]
            bits = self._llvm(name, kind, kinds, args)
        if self.stored_dtype == "float16":
            half = self.ir.bitcast(bits, ir.VectorType(ir.HalfType(), self.lanes))
            return self.ir.fpext(half, self.vector)
        wide = self.ir.shl(self.ir.zext(bits, self.integers), self._int(16))
        return self.ir.bitcast(wide, self.vector)

    def store_stored(self, value: Any, address: Any, mask: Any = None) -> None:
        """Round one vector to the nearest stored numbers, ties to even; lanes of the mask only."""
        if self.stored_dtype == self.dtype:
            if mask is None:
                self.store(value, address)
            else:
                self.store_masked(value, address, mask)
            return
        kind = ir.VectorType(I16, self.lanes)
        if self.stored_dtype == "float16":
            half = self.ir.fptrunc(value, ir.VectorType(ir.HalfType(), self.lanes))
            bits = self.ir.bitcast(half, kind)
        else:
            word = self.ir.bitcast(value, self.integers)
            odd = self.ir.and_(self.ir.lshr(word, self._int(16)), self._int(1))
            rounded = self.ir.add(word, self.ir.add(odd, self._int(0x7FFF)))
            quiet = self.ir.or_(word, self._int(0x400000))  # rounding might carry out of a NaN
            nan = self.ir.fcmp_unordered("uno", value, value)
            chosen = self.ir.select(nan, quiet, rounded)
            bits = self.ir.trunc(self.ir.lshr(chosen, self._int(16)), kind)
        if mask is None:
            self.ir.store(bits, self.pointer(address), align=2)
        else:
            name, kinds = f"llvm.masked.store.v{self.lanes}i16.p0", [kind, POINTER, I32, mask.type]
            args = [bits, self.pointer(address), ir.Constant(I32, 2), mask]
            self._llvm(name, ir.VoidType(), kinds, args)

    def lane_numbers(self, first: Any) -> Any:
        """int64 vector ``first + lane``."""
        ints = ir.VectorType(I64, self.lanes)
        lanes = ir.Constant(ints, [ir.Constant(I64, i) for i in range(self.lanes)])
        return self.ir.add(self._broadcast(first, ints), lanes)

    def prefetch(self, address: Any, into_l1: bool = True) -> None:
        """Ask for a cache line; it need not exist."""
        locality = 3 if into_l1 else 2
        args = [self.pointer(address), *(ir.Constant(I32, v) for v in (0, locality, 1))]
        self._llvm("llvm.prefetch.p0", ir.VoidType(), [POINTER, I32, I32, I32], args)

    # -- arithmetic -------------------------------------------------------------------------
    def splat(self, value: float) -> Any:
        return ir.Constant(self.vector, [ir.Constant(self.element, float(value))] * self.lanes)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """``a * b + c``: fused where the host can, two roundings where it cannot."""
        return self._llvm(f"llvm.fmuladd.{self._kind}", self.vector, [self.vector] * 3, [a, b, c])

    def at_least(self, x: Any, low: Any) -> Any:
        """``max(x, low)``; a NaN in `x` stays, as an ordered comparison with it is false."""
        return self.ir.select(self.ir.fcmp_ordered(">", low, x), low, x)

    def clamp(self, x: Any, low: Any, high: Any) -> Any:
        """``min(max(x, low), high)``; a NaN in `x` stays."""
        return self.at_most(self.at_least(x, low), high)

    def at_most(self, x: Any, high: Any) -> Any:
        """``min(x, high)``; a NaN in `x` stays."""
        return self.ir.select(self.ir.fcmp_ordered("<", high, x), high, x)

    def negative(self, x: Any) -> Any:
        return self.ir.fsub(self.splat(-0.0), x)

    def absolute(self, x: Any) -> Any:
        return self._llvm(f"llvm.fabs.{self._kind}", self.vector, [self.vector], [x])

    def copysign(self, size: Any, sign: Any) -> Any:
        return self._llvm(
            f"llvm.copysign.{self._kind}", self.vector, [self.vector] * 2, [size, sign]
        )

    def rint(self, x: Any) -> Any:
        """The nearest whole number."""
        return self._llvm(f"llvm.rint.{self._kind}", self.vector, [self.vector], [x])

    def leading_half(self, x: Any) -> Any:
        """`x` without the last half of its digits, so that its square is exact."""
        digits = {"float32": 12, "float64": 27}[self.dtype]
        bits = self.ir.and_(self.ir.bitcast(x, self.integers), self._int(-(1 << digits)))
        return self.ir.bitcast(bits, self.vector)

    def powers_of_two(self, n: Any) -> tuple[Any, Any]:
        """Two normal numbers whose product is 2**n, for whole n down to where that is zero."""
        digits, bias = {"float32": (23, 127), "float64": (52, 1023)}[self.dtype]
        numbers = ir.VectorType(I32, self.lanes)
        known = self.ir.select(self.ir.fcmp_ordered("ord", n, n), n, self.splat(0.0))
        exponent = self.ir.fptosi(known, numbers)
        if self.integer != I32:
            exponent = self.ir.sext(exponent, self.integers)
        first = self.ir.ashr(exponent, self._int(1))
        both = (first, self.ir.sub(exponent, first))
        shifted = [self.ir.shl(self.ir.add(k, self._int(bias)), self._int(digits)) for k in both]
        one, other = (self.ir.bitcast(bits, self.vector) for bits in shifted)
        return one, other

    def is_finite(self, address: Any) -> Any:
        """Whether the element at `address` is below infinity."""
        value = self.ir.load(self.pointer(address), align=self.itemsize, typ=self.element)
        return self.ir.fcmp_ordered("<", value, ir.Constant(self.element, math.inf))

    def maximum(self, *values: Any) -> Any:
        """The largest; NaN if there is one among them (whatever its payload)."""
        largest = values[0]
        for v in values[1:]:
            largest = self.ir.select(self.ir.fcmp_ordered(">", largest, v), largest, v)
        # One comparison finds a NaN in either of two values.
        pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
        nan = [self.ir.fcmp_unordered("uno", p[0], p[-1]) for p in pairs]
        # All bits set are one, too, which no constant has to be read for.
        ones = ir.Constant(self.integers, [ir.Constant(self.integer, -1)] * self.lanes)
        one = self.ir.bitcast(ones, self.vector)
        return self.ir.select(reduce(self.ir.or_, nan), one, largest)

    # -- across lanes -----------------------------------------------------------------------
    def swap(self, x: Any, distance: int) -> Any:
        """Every lane gets the number of the one `distance` away (lane xor distance)."""
        order = [ir.Constant(I32, lane ^ distance) for lane in range(self.lanes)]
        pattern = ir.Constant(ir.VectorType(I32, self.lanes), order)
        return self.ir.shuffle_vector(x, x, pattern)

    def no_lanes(self) -> Any:
        """A mask without a lane."""
        return ir.Constant(ir.VectorType(I1, self.lanes), None)

    def bits(self, mask: Any) -> Any:
        """A mask as an integer, the first lane lowest."""
        return self.ir.zext(self.ir.bitcast(mask, ir.IntType(self.lanes)), I64)

    def first_bit(self, bits: Any) -> Any:
        """Number of the lowest bit that is set; 64 without one."""
        return self._llvm("llvm.cttz.i64", I64, [I64, I1], [bits, ir.Constant(I1, 0)])

    # -- helpers ----------------------------------------------------------------------------
    def _hidden(self, address: Any) -> Any:
        """An address of which LLVM does not know where it comes from."""
        nothing = ir.InlineAsm(ir.FunctionType(I64, [I64]), "", "=r,0")
        return self.ir.call(nothing, [address])

    def _int(self, value: int) -> Any:
        return ir.Constant(self.integers, [ir.Constant(self.integer, value)] * self.lanes)

    @property
    def _kind(self) -> str:
        return f"v{self.lanes}{self.suffix}"

    def _broadcast(self, scalar: Any, kind: Any) -> Any:
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.ir.insert_element(undefined, scalar, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, kind.count), None)
        return self.ir.shuffle_vector(first, undefined, zeros)

    def _llvm(self, name: str, result: Any, kinds: list[Any], args: list[Any]) -> Any:
        module = self.ir.module
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(result, kinds), name)
        return self.ir.call(function, args)

"""What drivers are written with: calls and memory by address, atomic counters, and each other.

Everything here only describes what `compiler` shall hand to Numba. A process that finds its code
in the cache never imports Numba, which takes longer than all else that it does before its first
result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from fastconv.cpu.simd import I64, POINTER


@dataclass(frozen=True, eq=False)
class Intrinsic:
    """Code that `emit(builder, *values)` generates where a driver calls it.

    Its arguments are int64, or tuples of them; its result is an int64, or nothing.
    """

    emit: Callable[..., Any]
    returns: bool = False

    def __call__(self, *arguments: Any) -> Any:
        """For readers and type checkers; a driver only runs compiled."""
        raise TypeError(f"{self.emit} is for compiled code")


@dataclass(frozen=True, eq=False)
class Inlined:
    """A part of drivers, written like one; it may also return int64 numbers."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """For readers and type checkers; a driver only runs compiled."""
        raise TypeError(f"{self.function} is for compiled code")


@dataclass(frozen=True, eq=False)
class External:
    """A function of the C library that takes int64 arguments and returns an int."""

    name: str
    arguments: int

    def __call__(self, *arguments: Any) -> Any:
        """For readers and type checkers; a driver only runs compiled."""
        raise TypeError(f"{self.name} is for compiled code")


def _returning(emit: Callable[..., Any]) -> Intrinsic:
    return Intrinsic(emit, returns=True)


def _unpacked(builder: Any, values: Any) -> list[Any]:
    """The elements of an LLVM tuple."""
    return [builder.extract_value(values, i) for i in range(len(values.type.elements))]


@Intrinsic
def call(builder: Any, function: Any, arguments: Any) -> None:
    """Call the C function ``void(int64, ...)`` at address `function` with a tuple of int64."""
    values = _unpacked(builder, arguments)
    kind = ir.FunctionType(ir.VoidType(), [I64] * len(values))
    # a typed pointer: the builder reads the callee's signature from it
    builder.call(builder.inttoptr(function, kind.as_pointer()), values)


@_returning
def load_int(builder: Any, address: Any) -> Any:
    """The int64 at `address`."""
    return builder.load(builder.inttoptr(address, POINTER), align=8, typ=I64)


@Intrinsic
def store_int(builder: Any, address: Any, value: Any) -> None:
    """Write the int64 `value` to `address`."""
    builder.store(value, builder.inttoptr(address, POINTER), align=8)


@Intrinsic
def store_sequence(builder: Any, address: Any, start: Any, step: Any, count: Any) -> None:
    """Write the int64 ``start + i * step`` to ``address + 8 * i`` for all i below `count`."""
    from numba.core import cgutils

    kind = ir.VectorType(I64, 8)

    def splat(value: Any) -> Any:
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I64, 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8)
        return builder.shuffle_vector(one, one, zeros)

    def store(first: Any, value: Any) -> None:
        place = builder.add(address, builder.shl(first, ir.Constant(I64, 3)))
        builder.store(value, builder.inttoptr(place, POINTER), align=8)

    def number(i: Any) -> Any:
        return builder.add(start, builder.mul(i, step))

    eights = builder.ashr(count, ir.Constant(I64, 3))
    steps = builder.mul(splat(step), ir.Constant(kind, list(range(8))))
    with cgutils.for_range(builder, eights) as loop:
        first = builder.shl(loop.index, ir.Constant(I64, 3))
        store(first, builder.add(splat(number(first)), steps))
    done = builder.shl(eights, ir.Constant(I64, 3))
    with cgutils.for_range(builder, builder.sub(count, done)) as loop:
        i = builder.add(done, loop.index)
        store(i, number(i))


@_returning
def atomic_add(builder: Any, address: Any, value: Any) -> Any:
    """Add `value` to the int64 at `address` and return what was there before."""
    counter = builder.inttoptr(address, I64.as_pointer())
    return builder.atomic_rmw("add", counter, value, "seq_cst")


@_returning
def atomic_load(builder: Any, address: Any) -> Any:
    """The int64 at `address`, read anew and ordered with other threads' writes."""
    return builder.load_atomic(builder.inttoptr(address, POINTER), "seq_cst", 8, typ=I64)


@Intrinsic
def copy_bytes(builder: Any, target: Any, source: Any, count: Any) -> None:
    """Copy; the areas must not overlap."""
    from numba.core import cgutils

    to, of = (builder.inttoptr(v, cgutils.voidptr_t) for v in (target, source))
    cgutils.raw_memcpy(builder, to, of, count, 1)


@Intrinsic
def zero_bytes(builder: Any, target: Any, count: Any) -> None:
    """Set to zero."""
    from numba.core import cgutils

    cgutils.memset(builder, builder.inttoptr(target, cgutils.voidptr_t), count, 0)

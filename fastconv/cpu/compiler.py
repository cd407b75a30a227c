"""From a Python function to object code, by Numba and LLVM.

Numba's decorators would do more: wrappers for the interpreter, which nobody calls, take as long to
compile as a small kernel.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core.compiler import Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from fastconv.cpu.intrinsics import External, Inlined, Intrinsic
from fastconv.cpu.simd import I64

Expand = Callable[[ir.IRBuilder, Sequence[ir.Value]], Sequence[ir.Value]]


def object_code(
    name: str, arguments: int, function: Callable[..., None], expand: Expand | None = None
) -> bytes:
    """Code of ``void name(int64, ...)`` that calls `function`.

    Parameters
    ----------
    name : str
        Symbol in the object.
    arguments : int
        How many there are.
    function : function of int64 arguments that returns nothing and raises nothing
        What Numba compiles.
    expand : function of an LLVM builder and the C function's arguments, optional
        Gives the arguments of `function`; default: they are the same.
    """
    with global_compiler_lock:
        typing, target = cpu_target.typing_context, cpu_target.target_context
        typing.refresh()
        target.refresh()
        taken = (types.int64,) * len(inspect.signature(function).parameters)
        compiled = compile_extra(typing, target, _ready(function), taken, types.void, _flags(), {})
        library = compiled.library
        module = library.create_ir_module(name)
        kind = ir.FunctionType(ir.VoidType(), [I64] * arguments)
        entry = ir.Function(module, kind, name)
        builder = ir.IRBuilder(entry.append_basic_block())
        values = expand(builder, entry.args) if expand else entry.args
        callee = target.declare_function(module, compiled.fndesc)
        target.call_conv.call_function(builder, callee, types.void, taken, values)
        builder.ret_void()
        library.add_ir_module(module)
        library._final_module.get_function(compiled.fndesc.mangled_name).linkage = "internal"
        library.finalize()
        # The machine of Numba's engine, which knows ``NUMBA_CPU_NAME`` and its like.
        code: bytes = target.codegen()._tm.emit_object(library._final_module)
        return code


def _flags() -> Any:
    flags = Flags()
    flags.error_model = "numpy"  # no checks for division by zero
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    return flags


def _ready(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of `function` that calls what Numba knows in place of its descriptions."""
    assert isinstance(function, FunctionType)
    scope = function.__globals__
    scope = {**scope, **{n: _for_numba(scope[n]) for n in function.__code__.co_names if n in scope}}
    return FunctionType(function.__code__, scope, function.__name__)


def _for_numba(value: Any) -> Any:
    """What stands for `value` in a function that Numba compiles."""
    return _described(value) if isinstance(value, Intrinsic | Inlined | External) else value


@cache
def _described(value: Intrinsic | Inlined | External) -> Any:
    match value:
        case External():
            arguments = [types.int64] * value.arguments
            return types.ExternalFunction(value.name, types.int32(*arguments))
        case Inlined():
            return njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(
                _ready(value.function)
            )
    result = types.int64 if value.returns else types.void

    def typed(typing_context, *arguments):
        def codegen(context, builder, signature, values):
            emitted = value.emit(builder, *values)
            return emitted if value.returns else context.get_dummy_value()

        return result(*arguments), codegen

    # Numba reads the number of arguments from it: the builder stands where its context will.
    typed.__signature__ = inspect.signature(value.emit)  # type: ignore[attr-defined]
    return intrinsic(typed)

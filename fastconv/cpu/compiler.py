"""From a driver, a Python function of int64 numbers, to object code, by Numba and LLVM.

The first process of a user waits for this. So Numba only types and lowers, with few of its passes;
each part of drivers is lowered once; and LLVM sees a driver with its parts once, in `machine`.
Wrappers for the interpreter, optimised code for every part and passes for what drivers do not
contain took twice as long as all that is left.

What did not help, or hardly:

* contexts with none but the registries that drivers need, whose overloads load all others;
* Numba's SSA pass, which LLVM does not need (+10 %), and to leave out its legalization (-3 %);
* to switch garbage collection off meanwhile (-4 %);
* LLVM's first level of optimisation, or no vectors, for drivers (-7 %): 1x1 layers of few channels
  run 13 % slower.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.codegen import CPUCodeLibrary
from numba.core.compiler import CompilerBase, Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys
from numba.core.typed_passes import (
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
)
from numba.core.untyped_passes import FixupArgs, IRProcessing, TranslateByteCode
from numba.extending import intrinsic

from fastconv.cpu import machine
from fastconv.cpu.intrinsics import External, Inlined, Intrinsic

_NUMBERS = types.Integer | types.Boolean  # that drivers count with
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
        compiled = _Compiled(function, types.void)
        builder = machine.function(name, arguments)
        given = builder.function.args
        compiled.call(builder, expand(builder, given) if expand else given)
        builder.ret_void()
        return machine.object_code(builder, compiled.modules, control=True)


class _Compiled:
    """A function of int64 arguments as LLVM modules: its own, and those of the parts it calls."""

    def __init__(self, function: Callable[..., Any], result: Any = None) -> None:
        scope, parts = _scope(function)
        ready = FunctionType(function.__code__, scope, function.__name__)
        taken = (types.int64,) * len(inspect.signature(function).parameters)
        target = cpu_target.target_context
        library = _Library(target.codegen(), ready.__name__)
        compiled = compile_extra(
            cpu_target.typing_context, target, ready, taken, result, _flags(), {}, library, _Passes
        )
        self._described = compiled.fndesc
        self.signature = compiled.signature
        below = [module for part in parts for module in part.modules]
        self.modules: list[str] = list(dict.fromkeys([*library.modules, *below]))

    def call(self, builder: ir.IRBuilder, values: Sequence[ir.Value]) -> Any:
        """Call it with these arguments. There are no exceptions to look for afterwards."""
        target, signature = cpu_target.target_context, self.signature
        callee = target.declare_function(builder.module, self._described)
        call = target.call_conv.call_function
        return call(builder, callee, signature.return_type, signature.args, values)[1]


class _Library(CPUCodeLibrary):  # type: ignore[misc]
    """Keeps the modules that Numba writes, and does not optimise them one by one."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.modules: list[str] = []

    def add_ir_module(self, ir_module: ir.Module) -> None:
        self.modules.append(str(ir_module))

    def add_linking_library(self, library: Any) -> None:
        if library is not rtsys.library:  # of memory that Numba counts, which is always there
            raise NotImplementedError(f"{self.name}: drivers cannot call {library.name}")


class _Passes(CompilerBase):  # type: ignore[misc]
    """The passes of Numba that code of int64 numbers needs."""

    def define_pipelines(self) -> list[PassManager]:
        passes = PassManager("drivers")
        for step in (
            TranslateByteCode, FixupArgs, IRProcessing, NopythonTypeInference, IRLegalization,
            NativeLowering, NoPythonBackend,
        ):  # fmt: skip
            passes.add_pass(step, step.__name__)
        passes.finalize()
        return [passes]


def _flags() -> Any:
    flags = Flags()
    flags.error_model = "numpy"  # no checks for division by zero
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    return flags


def _scope(function: Callable[..., Any]) -> tuple[dict[str, Any], list[_Compiled]]:
    """The globals of `function`, with what Numba knows in place of descriptions; the parts used."""
    scope, parts = {**function.__globals__, **_BUILTINS}, []
    for name in function.__code__.co_names:
        match value := scope.get(name):
            case External():
                arguments = [types.int64] * value.arguments
                scope[name] = types.ExternalFunction(value.name, types.int32(*arguments))
            case Intrinsic():
                scope[name] = _intrinsic(value)
            case Inlined():
                part, scope[name] = _part(value)
                parts.append(part)
    return scope, parts


# Numba would compile these as functions of tuples.
_BUILTINS = {
    "min": Intrinsic(lambda builder, a, b: _select(builder, "<", a, b), returns=True),
    "max": Intrinsic(lambda builder, a, b: _select(builder, ">", a, b), returns=True),
}


def _select(builder: ir.IRBuilder, relation: str, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed(relation, a, b), a, b)


@cache
def _intrinsic(value: Intrinsic) -> Any:
    result = types.int64 if value.returns else types.void

    def typed(typing_context, *arguments):
        def codegen(context, builder, signature, values):
            emitted = value.emit(builder, *values)
            return emitted if value.returns else context.get_dummy_value()

        taken = [types.int64 if isinstance(t, _NUMBERS) else t for t in arguments]
        return result(*taken), codegen

    # Numba reads the number of arguments from it: the builder stands where its context will.
    typed.__signature__ = inspect.signature(value.emit)  # type: ignore[attr-defined]
    return intrinsic(typed)


@cache
def _part(value: Inlined) -> tuple[_Compiled, Any]:
    """`value` compiled, once for all drivers, and a function that calls it."""
    compiled = _Compiled(value.function)

    def typed(typing_context, *arguments):
        def codegen(context, builder, signature, values):
            return compiled.call(builder, values)

        # None: Numba refuses the call, where it would make integers of other numbers
        counts = all(isinstance(t, _NUMBERS) for t in arguments)
        return (compiled.signature, codegen) if counts else None

    first = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = inspect.signature(value.function).parameters.values()
    typed.__signature__ = inspect.Signature([first, *given])  # type: ignore[attr-defined]
    return compiled, intrinsic(typed)

"""From LLVM IR to object code for this host, by LLVM alone.

Micro-kernels are written as LLVM IR, so only drivers need Numba, and of it no more than `compiler`
asks for.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from fastconv.cpu import host
from fastconv.cpu.simd import I64


def function(name: str, arguments: int) -> ir.IRBuilder:
    """A builder where the body of ``void name(int64, ...)`` begins, in a module of its own."""
    module = ir.Module(name)
    module.triple = llvm.get_process_triple()
    module.data_layout = str(_target().target_data)
    kind = ir.FunctionType(ir.VoidType(), [I64] * arguments)
    return ir.IRBuilder(ir.Function(module, kind, name).append_basic_block())


def object_code(builder: ir.IRBuilder, parts: Iterable[str] = (), control: bool = False) -> bytes:
    """Code of the function that `builder` is in.

    Parameters
    ----------
    builder : ir.IRBuilder
        As `function` gave it; the body is complete.
    parts : texts of LLVM modules
        Have the functions that it calls.
    control : bool
        It only finds out what to do next: do not unroll its loops, which takes as long as all else
        and doubles the code.
    """
    module = llvm.parse_assembly(str(builder.module))
    for part in parts:
        module.link_in(llvm.parse_assembly(part))
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name != builder.function.name:
            value.linkage = "internal"
    tuning = llvm.create_pipeline_tuning_options(speed_level=2 if control else 3)
    tuning.loop_unrolling = not control
    module.verify()
    passes = llvm.create_pass_builder(_target(), tuning)
    passes.getModulePassManager().run(module, passes)
    code: bytes = _target().emit_object(module)
    return code


@cache
def _target() -> Any:
    """The machine that is compiled for."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    return target.create_target_machine(
        cpu=host.cpu_name(), features=host.feature_flags(), opt=3,
        reloc="static" if target.name.startswith("x86") else "default", jit=True,
    )  # fmt: skip

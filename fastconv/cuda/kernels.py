"""The table of CUDA kernels: one row for each, which dispatch, tests and benchmarks read."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numba.cuda import types

from fastconv.cuda import simt, tensor

# What an array of numbers is to a kernel. Pointers to uint16 are to bfloat16 numbers.
POINTERS = {
    "float32": types.CPointer(types.float32),
    "float16": types.CPointer(types.float16),
    "bfloat16": types.CPointer(types.uint16),
    "int32": types.CPointer(types.int32),
}
IMAGES = {"x", "w", "add", "y"}  # parameters that have the dtype of the kernel
ARRAYS = {"bias": "float32", "slopes": "float32", "table": "int32", "steps": "int32"}
NUMBERS = {"low": types.float32, "high": types.float32}  # of the others, which are int32


@dataclass(frozen=True)
class Kernel:
    """A kernel for one kind of task.

    Attributes
    ----------
    name : str
    algorithm : str
        The public name of what it computes, and how.
    dtype : str
        Of the images.
    make : function of nothing
        Gives the Python function.
    threads, blocks : int
        Of a block; blocks that must fit on a multiprocessor at once.
    registers : int
        Most that a thread may take.
    opcodes : dict
        What the machine code must hold: the start of an instruction's name and how often.
    unit, part, columns : int
        Of a matrix product: numbers of a table's entry, numbers of the depth and output channels
        of a block.
    shared : int
        Bytes of dynamic shared memory.
    """

    name: str
    algorithm: str
    dtype: str
    make: Callable[[], Any]
    threads: int
    blocks: int
    registers: int
    opcodes: dict[str, int] = field(default_factory=dict, compare=False)
    unit: int = 1
    part: int = 1
    columns: int = 1
    shared: int = 0

    @functools.cached_property
    def function(self) -> Any:
        """The kernel in Python."""
        return self.make()

    @property
    def signature(self) -> Any:
        """Types of the parameters, which their names tell."""
        return types.void(*(self._type(name) for name in self.parameters))

    @functools.cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(inspect.signature(self.function).parameters)

    def _type(self, name: str) -> Any:
        if name in IMAGES:
            return POINTERS[self.dtype]
        return POINTERS[ARRAYS[name]] if name in ARRAYS else NUMBERS.get(name, types.int32)


def _simt(dtype: str, columns: int, unit: int) -> Kernel:
    wide = {"float32": "LDG.E.128", "float16": "LDG.E.64", "bfloat16": "LDG.E.64"}[dtype]
    loads = {wide: 3} if unit == 4 else {}
    return Kernel(
        f"simt_{dtype}_{columns}_{unit}", "direct", dtype,
        functools.partial(simt.make, columns, unit), simt.THREADS, 2, 128,
        {"FFMA": simt.PART * (64 if columns == 128 else 16), "LDS.128": simt.PART, **loads},
        unit=unit, part=simt.PART, columns=columns,
    )  # fmt: skip


def _tensor(algorithm: str, dtype: str, columns: int) -> Kernel:
    kind = algorithm if dtype == "float32" else dtype
    opcode = {
        "tf32": "HMMA.1688.F32.TF32", "tf32x3": "HMMA.1688.F32.TF32",
        "float16": "HMMA.16816.F32", "bfloat16": "HMMA.16816.F32.BF16",
    }[kind]  # fmt: skip
    products = (32 if columns == 128 else 16) * (3 if kind == "tf32x3" else 1)
    return Kernel(
        f"{algorithm}_{dtype}_{columns}", algorithm, dtype,
        functools.partial(tensor.make, kind, columns), tensor.THREADS, 2, 128,
        {opcode: products, "LDGSTS.E.BYPASS.128": 8, "LDSM": 4, "STG.E.": 1},
        unit=tensor.UNIT[kind], part=tensor.part(kind), columns=columns,
        shared=tensor.shared_bytes(kind, columns),
    )  # fmt: skip


KERNELS = (
    *(
        _simt(dtype, columns, unit)
        for dtype in ("float32", "float16", "bfloat16")
        for columns in (128, 32)
        for unit in (4, 1)
    ),
    *(
        _tensor(algorithm, dtype, columns)
        for algorithm, dtype in (
            ("tf32x3", "float32"), ("tf32", "float32"), ("tensor", "float16"),
            ("tensor", "bfloat16"),
        )
        for columns in (128, 64)
    ),
)  # fmt: skip

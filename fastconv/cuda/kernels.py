"""The table of CUDA kernels: one row for each, which dispatch, tests and benchmarks read."""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from numba.cuda import types

from fastconv.cuda import (
    channels,
    depthwise,
    pointwise,
    reduction,
    simt,
    tensor,
    wgmma,
    wgmma_tma,
    windows,
    winograd,
    winograd_f4,
)
from fastconv.cuda.device import LEAST

Capability = tuple[Any, ...]  # (9, 0), or (9, 0, "a") for what only this architecture has

# What an array of numbers is to a kernel. Pointers to uint16 are to bfloat16 numbers.
POINTERS = {
    "float32": types.CPointer(types.float32),
    "float16": types.CPointer(types.float16),
    "bfloat16": types.CPointer(types.uint16),
    "uint8": types.CPointer(types.uint8),
    "int32": types.CPointer(types.int32),
    "int64": types.CPointer(types.int64),
}
IMAGES = {"x", "w", "add"}  # parameters that have the dtype of the kernel; "y" has its result's
ARRAYS = {
    "bias": "float32", "slopes": "float32", "table": "int32", "steps": "int32",
    "row_counts": "float32", "col_counts": "float32", "row_taps": "int32", "col_taps": "int32",
    "row_weights": "float32", "col_weights": "float32", "indices": "int64",
    "tensor_map": "uint8",
}  # fmt: skip
FLOATS = {"low", "high", "alpha", "divisor"}  # of the numbers; the others are int32


@dataclass(frozen=True)
class Kernel:
    """A kernel for one kind of task.

    Attributes
    ----------
    name : str
    algorithm : str
        What it computes, and how; of a convolution the public name, or "depthwise".
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
        of a block. Of other kernels: channels of a thread, and the size of a window where it is
        fixed.
    shared : int
        Bytes of dynamic shared memory.
    result : str
        The dtype of the result.
    needs : tuple
        Least capability of a GPU, or the only one, if it ends with "a".
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
    result: str = ""
    needs: Capability = LEAST

    def runs_on(self, capability: Capability) -> bool:
        """Whether a GPU of this capability can run it."""
        only = len(self.needs) > 2
        return capability[:2] == self.needs[:2] if only else capability[:2] >= self.needs

    def target(self, capability: Capability) -> Capability:
        """What to make its machine code for where the GPU has this capability."""
        return self.needs if len(self.needs) > 2 else capability

    @functools.cached_property
    def function(self) -> Any:
        """The kernel in Python."""
        return self.make()

    @functools.cached_property
    def signature(self) -> Any:
        """Types of the parameters, which their names tell."""
        return types.void(*(self._type(name) for name in self.parameters))

    @functools.cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(inspect.signature(self.function).parameters)

    def _type(self, name: str) -> Any:
        dtypes = ARRAYS | dict.fromkeys(IMAGES, self.dtype) | {"y": self.result}
        if name in dtypes:
            return POINTERS[dtypes[name]]
        return types.float32 if name in FLOATS else types.int32


def _simt(dtype: str, columns: int, unit: int) -> Kernel:
    loads = {"LDG.E.128": 3} if unit == 4 else {}
    return Kernel(
        f"simt_{dtype}_{columns}_{unit}", "direct", dtype,
        functools.partial(simt.make, columns, unit), simt.THREADS, 2, 128,
        {"FFMA": simt.PART * (64 if columns == 128 else 16), "LDS.128": simt.PART, **loads},
        unit=unit, part=simt.PART, columns=columns, result=dtype,
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
        shared=tensor.shared_bytes(kind, columns), result=dtype,
    )  # fmt: skip


def _wgmma(algorithm: str, dtype: str, columns: int) -> Kernel:
    make, shared, unit = wgmma.make, wgmma.shared_bytes(columns), wgmma.UNIT
    copies = {"LDGSTS.E.BYPASS.128": 2 * (4 + columns // 32), "FENCE.VIEW.ASYNC": 1}
    if algorithm == "wgmma_tma":
        make, shared, unit = wgmma_tma.make, wgmma_tma.shared_bytes(columns), wgmma.PART
        copies = {"UTMALDG.4D.IM2COL": 2, "UBLKCP": 2, "SYNCS.PHASECHK": 1, "UTMACCTL": 1}
    blocks, registers = (1, 255) if columns == 256 else (2, 128)
    opcode = f"HGMMA.64x{columns}x16.F32" + ".BF16" * (dtype == "bfloat16")
    return Kernel(
        f"{algorithm}_{dtype}_{columns}", algorithm, dtype,
        functools.partial(make, dtype, columns), wgmma.THREADS, blocks, registers,
        {opcode: 4, "WARPGROUP.DEPBAR": 2, "STG.E.": 1, **copies},
        unit=unit, part=wgmma.PART, columns=columns, shared=shared, result=dtype,
        needs=(9, 0, "a"),
    )  # fmt: skip


def _windows(dtype: str) -> Iterator[Kernel]:
    most = 4 if dtype == "float32" else 8  # in 16 bytes
    for lanes in (most, 1):
        wide = {"STG.E.128": 1} if lanes > 1 else {}
        row = functools.partial(
            Kernel, dtype=dtype, threads=windows.THREADS, blocks=1, registers=128, unit=lanes,
            result=dtype, opcodes=wide,
        )  # fmt: skip
        for side in (2, 0):
            name = f"max_pool_{dtype}_{side or 'any'}_{lanes}"
            yield row(name, "max", make=functools.partial(windows.make_max, lanes, side), part=side)
        yield row(
            f"avg_pool_{dtype}_{lanes}", "avg", make=functools.partial(windows.make_mean, lanes)
        )
        for taps in (1, 2, 4):
            make = functools.partial(windows.make_resize, lanes, taps)
            yield row(f"resize_{dtype}_{taps}_{lanes}", "resize", make=make, part=taps)
    yield Kernel(
        f"max_pool_indices_{dtype}", "max_indices", dtype, windows.make_indices, windows.THREADS, 1,
        64, {"STG.E.64": 1}, result=dtype,
    )  # fmt: skip


def _channels(dtype: str) -> Iterator[Kernel]:
    lanes = 4 if dtype == "float32" else 8  # in 16 bytes
    row = functools.partial(
        Kernel, dtype=dtype, threads=channels.THREADS, blocks=1, registers=64
    )  # fmt: skip
    for unit in (4, 1):
        staged = functools.partial(row, unit=unit, shared=channels.SHARED)
        opcodes = {"LDG.E.128": 2, "STS.128": 2, "LDS": 1, "SHFL.BFLY": 2}
        if unit == 4:
            opcodes["LDS.128"] = 1
        make = functools.partial(channels.make_argmax, lanes, unit)
        for label in ("uint8", "int32", "int64"):
            name = f"argmax_{dtype}_{label}_{unit}"
            yield staged(name, "argmax", make=make, opcodes=opcodes, result=label)
        make = functools.partial(channels.make_softmax, lanes, unit)
        opcodes = opcodes | {"MUFU.EX2": unit, "STG.E.128": 1}
        yield staged(f"softmax_{dtype}_{unit}", "softmax", make=make, opcodes=opcodes, result=dtype)
    wide = functools.partial(row, unit=0)  # for more channels than the others can have
    for label in ("int32", "int64"):
        yield wide(
            f"argmax_{dtype}_{label}_wide", "argmax", make=channels.make_wide_argmax,
            opcodes={"SHFL.BFLY": 10}, result=label,
        )  # fmt: skip
    yield wide(
        f"softmax_{dtype}_wide", "softmax", make=channels.make_wide_softmax,
        opcodes={"SHFL.BFLY": 10, "MUFU.EX2": 2}, result=dtype,
    )  # fmt: skip


def _reductions(kind: str, dtype: str, result: str) -> Iterator[Kernel]:
    most = 4 if dtype == "float32" else 8  # in 16 bytes
    for lanes in (most, 1):
        wide = {"LDG.E.128": reduction.AHEAD, "LDS.128": 1, "STS.128": 1} if lanes > 1 else {}
        yield Kernel(
            f"global_{kind}_{dtype}_{result}_{lanes}", f"global_{kind}", dtype,
            functools.partial(reduction.make, kind, lanes, result), reduction.THREADS, 1, 64,
            {"LDG": reduction.AHEAD, "BAR.SYNC": 1, **wide}, unit=lanes,
            shared=reduction.shared_bytes(lanes), result=result,
        )  # fmt: skip


def _winograd_f4() -> Iterator[Kernel]:
    row = functools.partial(
        Kernel, dtype="float32", threads=winograd_f4.THREADS, blocks=2, registers=255,
        result="float32",
    )  # fmt: skip
    parts = winograd_f4.PARTS
    for name in winograd_f4.PRODUCTS:
        for unit in (4, 1):
            loads = {"LDG.E.128": parts} if unit == 4 else {"LDG.E": 4 * parts}
            yield row(
                f"{name}_input_{unit}", name, make=functools.partial(winograd_f4.make_input, unit),
                unit=unit, opcodes=loads | {"STG.E.128": parts},
            )  # fmt: skip
    for side in (1, 2):
        yield row(
            f"winograd_f4_output_{side}", "winograd_f4_output", part=side,
            make=functools.partial(winograd_f4.make_output, side == 2),
            opcodes={"LDG.E.128": parts, "STG.E.128": 16 // side**2},
        )  # fmt: skip


def _depthwise(dtype: str, lanes: int) -> Kernel:
    return Kernel(
        f"depthwise_{dtype}_{lanes}", "depthwise", dtype,
        functools.partial(depthwise.make, lanes), windows.THREADS, 5, 48,
        {"FFMA": lanes}, unit=lanes, result=dtype,
    )  # fmt: skip


HALVES = ("float16", "bfloat16")
IMAGE_TYPES = ("float32", *HALVES)

KERNELS: tuple[Kernel, ...] = (
    *(_simt("float32", columns, unit) for columns in (128, 32) for unit in (4, 1)),
    *(_simt(dtype, 32, 1) for dtype in HALVES),
    *(_tensor(name, "float32", columns) for name in ("tf32x3", "tf32") for columns in (128, 64)),
    *(_tensor("tensor", dtype, columns) for dtype in HALVES for columns in (128, 64)),
    *(
        _wgmma(algorithm, dtype, columns)
        for algorithm in ("wgmma", "wgmma_tma")
        for dtype in HALVES
        for columns in (256, 128, 64)
    ),
    Kernel(
        "winograd_f2_float32", "winograd_f2", "float32", winograd.make, winograd.THREADS, 1, 255,
        {"FFMA": 1024, "LDS.128": 64, "LDGSTS.E.BYPASS.128": 16}, columns=winograd.COLUMNS,
        part=winograd.PART, shared=winograd.SHARED, result="float32",
    ),
    *_winograd_f4(),
    *(_depthwise(dtype, lanes) for dtype in IMAGE_TYPES for lanes in (4, 1)),
    *(row for dtype in IMAGE_TYPES for row in _windows(dtype)),
    *(row for dtype in IMAGE_TYPES for row in _channels(dtype)),
    # A maximum is exact in its dtype; sums of slices are float32, and then rounded once.
    *(row for dtype in IMAGE_TYPES for row in _reductions("max", dtype, dtype)),
    *(row for dtype in IMAGE_TYPES for row in _reductions("avg", dtype, dtype)),
    *(row for dtype in HALVES for row in _reductions("avg", dtype, "float32")),
    *(row for dtype in HALVES for row in _reductions("avg", "float32", dtype)),
    *(
        Kernel(f"take_{dtype}", "unpool", dtype, pointwise.make_take, pointwise.THREADS, 1, 32,
               {"LDG.E.128": 1, "LDG": 5, "STG.E." + ("128" if dtype == "float32" else "64"): 1},
               result=dtype)
        for dtype in IMAGE_TYPES
    ),
    *(
        Kernel(f"{name}_float32_{lanes}", name, "float32", functools.partial(make, lanes),
               pointwise.THREADS, 1, 32, {"STG.E.128": 1} if lanes > 1 else {}, unit=lanes,
               result="float32")
        for name, make in (("pair", pointwise.make_pair), ("place", pointwise.make_place))
        for lanes in (4, 1)
    ),
)  # fmt: skip


def find(algorithm: str, dtype: str, **wanted: Any) -> list[Kernel]:
    """Rows of the table for an algorithm and a dtype whose other attributes are as wanted."""
    return [
        k for k in KERNELS
        if (k.algorithm, k.dtype) == (algorithm, dtype)
        and all(getattr(k, name) == value for name, value in wanted.items())
    ]  # fmt: skip

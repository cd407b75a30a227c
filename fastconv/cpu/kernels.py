"""The table of CPU micro-kernels.

A micro-kernel is a row of `KERNELS`: dispatch, tests, warm-up and benchmarks iterate over it. All
arguments are int64: addresses and byte offsets, or counts. The drivers (`direct`, `winograd`, ...)
are written once and call micro-kernels by address, so a new tile is a new row and nothing else.
Their code is in `micro`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastconv.cook_toom import TILES
from fastconv.cpu.host import has
from fastconv.cpu.micro import depthwise, gemm, windows, winograd
from fastconv.cpu.native import Native, define
from fastconv.cpu.simd import LANES, emitting


@dataclass(frozen=True)
class Kernel:
    """One micro-kernel: what it does, its register tile, and the CPU feature it wants."""

    kind: str  # a key of BUILDERS
    dtype: str
    mr: int = 1  # rows of the tile: pixels, or Winograd tiles; m of a Winograd transform
    vectors: int = 1  # vectors of the tile: channels
    needs: str = ""  # CPU feature as LLVM names it; "" = every host
    split: int = 1  # parts of a vector, for code that needs many of them in registers
    taps: int = 1  # r of a Winograd transform
    stride: int = 1

    @property
    def name(self) -> str:
        shape = f"{self.mr}x{self.vectors}"
        if self.taps > 1:
            shape = f"{self.mr}x{self.taps}" + (f"s{self.stride}" if self.stride > 1 else "")
        return f"{self.kind}_{self.dtype}_{shape}" + (f"_{self.split}" if self.split > 1 else "")

    @property
    def nr(self) -> int:
        """Columns of the tile."""
        return self.vectors * LANES[self.dtype]

    @cached_property
    def native(self) -> Native:
        """The C function; compiled or read from the disk cache on first use."""
        arguments, build = BUILDERS[self.kind]
        names = ", ".join(f"a{i}" for i in range(arguments))
        source = f"def {self.name}({names}):\n    emit(({names}))\n"
        lanes = LANES[self.dtype] // self.split
        emit = emitting(lambda e, *args: build(self, e, *args), self.dtype, lanes)
        return Native(define(self.name, source, __name__, __file__, emit=emit), arguments)

    @property
    def address(self) -> int:
        return self.native.address


# kind -> (number of arguments, builder)
BUILDERS: dict[str, tuple[int, Callable[..., None]]] = {
    "gemm": (11, gemm.implicit),
    "gemm_pool": (11, gemm.implicit),
    "panels": (14, gemm.panels),
    "winograd_input": (7, winograd.forward),
    "winograd_output": (10, winograd.inverse),
    "winograd_stream": (10, winograd.inverse),
    "winograd_pool": (10, winograd.inverse),
    "depthwise": (9, depthwise.depthwise),
    "tap_max": (12, windows.tap_max),
    "tap_argmax": (12, windows.tap_argmax),
    "tap_sum": (12, windows.tap_sum),
}


def _rows(dtype: str) -> list[Kernel]:
    """Rows of one dtype. Wider tiles first: `candidates` keeps this order."""
    rows = [
        Kernel(kind, dtype, mr, vectors, needs)
        for kind, mr, vectors, needs in (
            ("gemm", 6, 4, "avx512f"),
            ("gemm", 8, 3, "avx512f"),
            ("gemm", 12, 2, "avx512f"),
            ("gemm", 12, 1, "avx512f"),
            ("gemm", 6, 1, ""),
            ("gemm_pool", 12, 2, "avx512f"),
            ("gemm_pool", 4, 1, ""),
            ("panels", 14, 2, "avx512f"),
            ("panels", 6, 4, "avx512f"),
            ("panels", 6, 1, ""),
            ("depthwise", 4, 1, ""),
            ("tap_max", 1, 1, ""),
            ("tap_argmax", 1, 1, ""),
            ("tap_sum", 1, 1, ""),
        )
    ]
    # Half vectors leave AVX2's 16 registers for twice as many numbers of a tile (1.1 to 1.3 times as
    # fast), except past the caches, where half a cache line is as slow as eight whole ones.
    rows += [
        Kernel(f"winograd_{kind}", dtype, m, needs=needs, split=split, taps=taps, stride=stride)
        for (taps, stride), sizes in TILES.items()
        for m in sizes
        for kind in ("input", "output", "stream", "pool")
        for needs, split in (("avx512f", 1), ("", 1 if kind == "stream" else 2))
    ]
    return rows


KERNELS: tuple[Kernel, ...] = (*_rows("float32"), *_rows("float64"))


def candidates(kind: str, dtype: str, **fields: int) -> list[Kernel]:
    """Rows of one kind, with these fields, that this host can run, in the order of the table."""
    return [
        k
        for k in KERNELS
        if (k.kind, k.dtype) == (kind, dtype)
        and has(k.needs)
        and all(getattr(k, name) == value for name, value in fields.items())
    ]


def kernel(kind: str, dtype: str, **fields: int) -> Kernel:
    """The first of `candidates`."""
    return candidates(kind, dtype, **fields)[0]

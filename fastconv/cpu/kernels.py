"""The table of CPU micro-kernels.

A micro-kernel is a row of `KERNELS`: dispatch, tests, warm-up and benchmarks iterate over it. All
arguments are int64: addresses and byte offsets, or counts. The drivers (`direct`, `winograd`, ...)
are written once and call micro-kernels by address, so a new tile is a new row and nothing else.
Their code is in `micro`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from fastconv.cook_toom import TILES
from fastconv.cpu import machine
from fastconv.cpu.host import has
from fastconv.cpu.micro import depthwise, finish, functions, gemm, labels, pools, windows, winograd
from fastconv.cpu.micro.winograd import FEW, FEW_TILES
from fastconv.cpu.native import Native
from fastconv.cpu.simd import LANES, Emitter
from fastconv.dtypes import DTYPES, WORKING

INVERSES = ("output", "stream", "pool", "few_output", "few_stream", "few_pool")  # of Winograd


@dataclass(frozen=True)
class Kernel:
    """One micro-kernel: what it does, its register tile, and the CPU feature it wants."""

    kind: str  # a key of BUILDERS
    dtype: str
    mr: int = 1  # rows of the tile: pixels, or Winograd tiles; m of a Winograd transform
    vectors: int = 1  # vectors of the tile: channels
    needs: str = ""  # CPU feature as LLVM names it; "" = every host
    split: int = 1  # parts of a vector, for code that needs many of them in registers
    taps: int = 0  # r of a Winograd transform; of a window, 0 = any number
    stride: int = 1
    depth: int = 0  # input channels, where their number is fixed
    rows: int = 1  # rows of an image that the pixels of the tile lie in

    @property
    def name(self) -> str:
        parts = [self.kind, self.dtype, f"{self.mr}x{self.vectors}"]
        parts += [f"rows{self.rows}"] if self.rows > 1 else []
        parts += [f"taps{self.taps}"] if self.taps else []
        parts += [f"stride{self.stride}"] if self.stride > 1 else []
        parts += [f"split{self.split}"] if self.split > 1 else []
        parts += [f"depth{self.depth}"] if self.depth else []
        return "_".join(parts)

    @property
    def nr(self) -> int:
        """Columns of the tile."""
        return self.vectors * LANES[self.dtype]

    @cached_property
    def native(self) -> Native:
        """The C function; compiled or read from the disk cache on first use."""
        return _Native(self)

    @property
    def address(self) -> int:
        return self.native.address


class _Native(Native):
    """A micro-kernel's code."""

    def __init__(self, row: Kernel) -> None:
        arguments, self._build = BUILDERS[row.kind]
        super().__init__(row.name, arguments)
        self._row = row

    def _object_code(self) -> bytes:
        row, builder = self._row, machine.function(self.name, self._arguments)
        emitter = Emitter(builder, row.dtype, LANES[row.dtype] // row.split)
        self._build(row, emitter, *builder.function.args)
        builder.ret_void()
        return machine.object_code(builder)


# kind -> (number of arguments, builder)
BUILDERS: dict[str, tuple[int, Callable[..., None]]] = {
    "gemm": (17, gemm.implicit),
    "gemm_stream": (17, gemm.implicit),
    "gemm_pool": (17, gemm.implicit),
    "panels": (14, gemm.panels),
    "winograd_input": (7, winograd.forward),
    **{f"winograd_{kind}": (13, winograd.inverse) for kind in INVERSES},
    "depthwise": (17, depthwise.depthwise),
    "depthwise_sums": (17, depthwise.depthwise),
    "widen": (3, finish.widen),
    **{
        f"finish_{name}": (12, finish.finish)
        for name in ("clamp", "slope", "elu", *functions.FUNCTIONS)
    },
    "down_max": (5, windows.down_max),
    "down_sum": (5, windows.down_sum),
    "across_max": (10, windows.across),
    "across_sum": (10, windows.across),
    "across_mean": (10, windows.across),
    "whole_max": (6, pools.whole),
    "whole_sum": (6, pools.whole),
    "whole_mean": (6, pools.whole),
    **{
        f"window_{kind}{end}": (9, pools.window)
        for kind in ("max", "mean")
        for end in ("", "_stream")
    },
    "argmax_window": (8, windows.argmax_window),
    "argmax": (5, labels.argmax),
    "softmax": (5, labels.softmax),
}


def _products(dtype: str) -> list[Kernel]:
    """Matrix products in a working precision. Wider tiles first: `candidates` keeps this order."""
    return [
        Kernel(kind, dtype, mr, vectors, needs)
        for kind, mr, vectors, needs in (
            ("gemm", 6, 4, "avx512f"),
            ("gemm", 8, 3, "avx512f"),
            ("gemm", 12, 2, "avx512f"),
            ("gemm", 12, 1, "avx512f"),
            ("gemm", 6, 1, ""),
            ("gemm_stream", 6, 4, "avx512f"),
            ("gemm_stream", 8, 3, "avx512f"),
            ("gemm_stream", 12, 2, "avx512f"),
            ("gemm_stream", 12, 1, "avx512f"),
            ("gemm_stream", 6, 1, ""),
            ("gemm_pool", 12, 2, "avx512f"),
            ("gemm_pool", 4, 1, ""),
            ("panels", 6, 4, "avx512f"),
            ("panels", 14, 2, "avx512f"),
            ("panels", 8, 3, "avx512f"),
            ("panels", 24, 1, "avx512f"),
            ("panels", 5, 4, "avx512f"),
            ("panels", 4, 4, "avx512f"),
            ("panels", 8, 2, "avx512f"),
            ("panels", 6, 1, ""),
        )
    ] + [row for kind in INVERSES for row in _transforms(kind, dtype)]


def _image_rows(dtype: str) -> list[Kernel]:
    """Kernels that read or write images of one dtype."""
    kinds = ["down_max", "down_sum", "argmax_window", "softmax"]
    kinds += [k for k in BUILDERS if k.startswith("finish_")]
    if WORKING[dtype] != dtype:
        kinds.append("widen")
    rows = [Kernel(kind, dtype) for kind in kinds]
    rows += [Kernel("argmax", dtype, needs="avx512f"), Kernel("argmax", dtype, split=2)]
    rows += [
        Kernel(f"across_{kind}", dtype, taps=taps)
        for kind, unrolled in (("max", (2, 3)), ("sum", (1, 2, 4)), ("mean", (2, 3)))
        for taps in (*unrolled, 0)
    ]
    rows += [
        Kernel(kind, dtype, taps=taps)
        for kind in BUILDERS
        if kind.startswith("window_") and (dtype == WORKING[dtype] or "stream" not in kind)
        for taps in (2, 3)
    ]
    rows += [
        Kernel(f"whole_{kind}", dtype, 1, vectors, needs=needs, split=split)
        for kind in ("max", "sum", "mean")
        for vectors, needs, split in ((16, "avx512f", 1), (8, "", 2))
    ]
    rows += [
        Kernel(kind, dtype, mr if needs else 4, 1, needs, split, taps, stride, rows=lines)
        for kind in ("depthwise", "depthwise_sums")
        for taps, stride, mr in ((3, 1, 8), (3, 2, 4), (5, 1, 4), (5, 2, 4), (0, 1, 4))
        for lines in ((2, 1) if taps else (1,))
        for needs, split in (("avx512f", 1), ("", 2))
    ]
    rows += _transforms("input", dtype)
    return rows


def _transforms(kind: str, dtype: str) -> list[Kernel]:
    """Winograd's transforms, for every tile that is offered.

    Half vectors leave AVX2's 16 registers for twice as many numbers of a tile (1.1 to 1.3 times as
    fast), except past the caches, where half a cache line is as slow as eight whole ones. Quarters
    are for inputs of few channels.
    """
    few = "few" in kind
    wide, half, quarter = ("avx512f", 1), ("", 2), ("avx512f", 4)
    splits = {"input": (wide, half, quarter), "stream": (("", 1),)}.get(
        kind, (wide,) if few else (wide, half)
    )
    return [
        Kernel(f"winograd_{kind}", dtype, m, 1, needs, split, taps, stride, depth)
        for (taps, stride), sizes in (FEW_TILES if few else TILES).items()
        for m in sizes
        if not kind.endswith("pool") or m % 2 == 0
        for needs, split in splits
        for depth in (range(1, FEW + 1) if few else (0,))
    ]


KERNELS: tuple[Kernel, ...] = (
    *(row for dtype in dict.fromkeys(WORKING.values()) for row in _products(dtype)),
    *(row for dtype in DTYPES for row in _image_rows(dtype)),
)


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

"""The table of CPU micro-kernels, and the generators of their code.

A micro-kernel is a row of `KERNELS`: dispatch, tests, warm-up and benchmarks iterate over it. All
arguments are int64: addresses and byte offsets, or counts. The drivers (`direct`, `winograd`, ...)
are written once and call micro-kernels by address, so a new tile is a new row and nothing else.

Register tiles are `mr` rows (pixels) by `vectors` vectors (channels). 6x4, 12x2 and 14x2 reach
99 % of the FMA peak on AVX-512; 7x4 spills. With 16 lanes split over two (AVX2) or four (NEON)
registers, 6x1 fills 15 of 16 or 29 of 32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastconv.cook_toom import TILES
from fastconv.cpu import transforms
from fastconv.cpu.host import has
from fastconv.cpu.native import Native, define
from fastconv.cpu.simd import LANES, Emitter, emitting


@dataclass(frozen=True)
class Kernel:
    """One micro-kernel: what it does, its register tile, and the CPU feature it wants."""

    kind: str  # a key of BUILDERS
    dtype: str
    mr: int = 1  # rows of the tile: pixels, or Winograd tiles; m of a Winograd transform
    vectors: int = 1  # vectors of the tile: channels
    needs: str = ""  # CPU feature as LLVM names it; "" = every host

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.dtype}_{self.mr}x{self.vectors}"

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
        emit = emitting(lambda e, *args: build(self, e, *args), self.dtype)
        return Native(define(self.name, source, __name__, __file__, emit=emit), arguments)

    @property
    def address(self) -> int:
        return self.native.address


# ------------------------------------------------------------------------------ matrix products
def _accumulate(
    e: Emitter, kernel: Kernel, acc: list[list[Any]], a: Callable[[int, int], Any], b: Any,
    start: int, stop: int,
) -> None:  # fmt: skip
    """``acc[m][v] += A[m, k] * B[k, v]`` for k from `start` on; ``a(m, k)`` is an address."""
    for k in range(start, stop):
        row = [e.load(e.add(b, (k * kernel.vectors + v) * e.bytes)) for v in range(kernel.vectors)]
        for m in range(kernel.mr):
            splat = e.load_splat(a(m, k))
            for v in range(kernel.vectors):
                e.set(acc[m][v], e.fma(splat, row[v], e.get(acc[m][v])))


def _implicit_gemm(
    kernel: Kernel, e: Emitter, rows: Any, segments: Any, nseg: Any, length: Any, b: Any, bias: Any,
    acc: list[list[Any]], panel: Any,
) -> None:  # fmt: skip
    """Tile of ``bias + sum over segments, k of A[rows[m] + segments[s] + k] * B[s, k, :]``.

    A convolution is this product with no im2col copy: a segment is a run of inputs that lie side
    by side in memory (a kernel row times all channels), at the same offset from every pixel.
    """
    unroll = 4
    for row in acc:
        for v, slot in enumerate(row):
            e.set(slot, e.load(e.add(bias, v * e.bytes)))
    e.set(panel, b)
    step = kernel.vectors * e.bytes
    main = e.ir.and_(length, e.const(-unroll))
    with e.loop(nseg) as s:
        offset = e.load_int(e.add(segments, e.mul(s, 8)))
        base = [e.add(e.load_int(e.add(rows, 8 * m)), offset) for m in range(kernel.mr)]

        def a(k: Any) -> Callable[[int, int], Any]:
            shift = e.mul(k, e.itemsize)
            return lambda m, u: e.add(e.add(base[m], shift), u * e.itemsize)

        with e.loop(main, unroll) as k:
            _accumulate(e, kernel, acc, a(k), e.get(panel), 0, unroll)
            e.set(panel, e.add(e.get(panel), unroll * step))
        # The rest of a segment, at most three: straight code keeps the row addresses in registers.
        rest = e.ir.sub(length, main)
        tail, at = e.get(panel), a(main)
        for u in range(unroll - 1):
            with e.ir.if_then(e.ir.icmp_signed(">", rest, e.const(u))):
                _accumulate(e, kernel, acc, at, tail, u, u + 1)
        e.set(panel, e.add(tail, e.mul(rest, step)))


def _store_rows(e: Emitter, tile: list[list[Any]], targets: Any, shift: Any, valid: Any) -> None:
    """Write row m of `tile` to ``targets[m] + shift``; only the first `valid` columns."""
    vectors = len(tile[0])
    full = e.ir.icmp_signed(">=", valid, e.const(vectors * e.lanes))
    with e.ir.if_else(full) as (whole, partial):
        with whole:
            for m, row in enumerate(tile):
                target = e.add(e.load_int(e.add(targets, 8 * m)), shift)
                for v, value in enumerate(row):
                    e.store(value, e.add(target, v * e.bytes))
        with partial:
            masks = [e.mask(valid, v * e.lanes) for v in range(vectors)]
            for m, row in enumerate(tile):
                target = e.add(e.load_int(e.add(targets, 8 * m)), shift)
                for v, value in enumerate(row):
                    e.store_masked(value, e.add(target, v * e.bytes), masks[v])


def _gemm(
    kernel: Kernel, e: Emitter, rows: Any, tables: Any, nseg: Any, length: Any, b: Any, bias: Any,
    clamp: Any, targets: Any, shift: Any, valid: Any, tiles: Any,
) -> None:  # fmt: skip
    """Implicit GEMM, bias, clamp and perhaps a 2x2 maximum, for `tiles` register tiles.

    Tile t reads `mr` addresses from `rows` and its segment offsets at address ``tables[t]``, and
    writes to `mr` addresses from `targets` (a quarter of that with a pool, whose windows are four
    rows each), all of them `shift` further. One call does all tiles: a first layer has only 27
    products an output, and calls would cost 5 %.
    """
    pool = kernel.kind == "gemm_pool"
    outputs = kernel.mr // 4 if pool else kernel.mr
    low, high = e.load_splat(clamp), e.load_splat(e.add(clamp, e.itemsize))
    zero = e.splat(0.0)
    acc = [[e.variable(zero) for _ in range(kernel.vectors)] for _ in range(kernel.mr)]
    panel = e.variable(b)
    with e.loop(tiles) as t:
        segments = e.load_int(e.add(tables, e.mul(t, 8)))
        own_rows = e.add(rows, e.mul(t, 8 * kernel.mr))
        _implicit_gemm(kernel, e, own_rows, segments, nseg, length, b, bias, acc, panel)
        sums = [[e.get(slot) for slot in row] for row in acc]
        if pool:
            quads = [sums[m : m + 4] for m in range(0, kernel.mr, 4)]
            sums = [[e.maximum(*v) for v in zip(*quad, strict=True)] for quad in quads]
        tile = [[e.clamp(value, low, high) for value in row] for row in sums]
        _store_rows(e, tile, e.add(targets, e.mul(t, 8 * outputs)), shift, valid)


def _panel_gemm(
    kernel: Kernel, e: Emitter, a: Any, depth: Any, b: Any, c: Any, blocks: Any, products: Any,
    product_a: Any, product_c: Any,
) -> None:  # fmt: skip
    """``C[xi, block] = A[xi, block] @ B[xi]`` for all products xi and row blocks of a panel.

    A is packed ``[depth][mr][lanes]`` with `depth` counting groups of `lanes` channels, so all
    offsets are constant; B is ``[depth * lanes][nr]`` and C ``[mr][nr]``. Row blocks follow each
    other without a gap, products every `product_a` and `product_c` bytes (B: without a gap). One
    call does all of this: for few channels, calls would cost 3 %.
    """
    unroll = 4
    zero = e.splat(0.0)
    acc = [[e.variable(zero) for _ in range(kernel.vectors)] for _ in range(kernel.mr)]
    panel_b, panel_a, tile, ahead = e.variable(b), e.variable(a), e.variable(c), e.variable(b)
    step = e.lanes * kernel.vectors * e.bytes  # of B, for one group of channels
    lines = e.ir.sdiv(e.const(step // 64), blocks)
    with e.loop(products) as xi:
        start_b = e.get(panel_b)
        e.set(ahead, e.add(start_b, e.mul(depth, step)))
        e.set(panel_a, e.add(a, e.mul(xi, product_a)))
        e.set(tile, e.add(c, e.mul(xi, product_c)))
        with e.loop(blocks):
            e.set(panel_b, start_b)  # in the end it is the next product's
            for row in acc:
                for slot in row:
                    e.set(slot, zero)
            with e.loop(depth):
                # The next product's B comes from memory meanwhile, a share with each row block:
                # 5 % on layers of 512 channels.
                with e.loop(lines) as line:
                    e.prefetch(e.add(e.get(ahead), e.mul(line, 64)), into_l1=False)
                e.set(ahead, e.add(e.get(ahead), e.mul(lines, 64)))
                with e.loop(e.bytes, unroll * e.itemsize) as k:
                    column = e.add(e.get(panel_a), k)

                    def at(m: int, u: int, column: Any = column) -> Any:
                        return e.add(column, m * e.bytes + u * e.itemsize)

                    _accumulate(e, kernel, acc, at, e.get(panel_b), 0, unroll)
                    e.set(panel_b, e.add(e.get(panel_b), unroll * kernel.vectors * e.bytes))
                e.set(panel_a, e.add(e.get(panel_a), kernel.mr * e.bytes))
            to = e.get(tile)
            for m in range(kernel.mr):
                for v in range(kernel.vectors):
                    e.store(e.get(acc[m][v]), e.add(to, (m * kernel.vectors + v) * e.bytes))
            e.set(tile, e.add(to, kernel.mr * kernel.vectors * e.bytes))


# ------------------------------------------------------------------------ one channel at a time
def _channels(e: Emitter, count: Any, body: Callable[[Any, Any], None]) -> None:
    """`body(byte offset, mask or None)` for every vector of channels; the last one is masked."""
    whole = e.ir.and_(count, e.const(-e.lanes))
    with e.loop(whole, e.lanes) as c:
        body(e.mul(c, e.itemsize), None)
    rest = e.ir.sub(count, whole)
    with e.ir.if_then(e.ir.icmp_signed(">", rest, e.const(0))):
        body(e.mul(whole, e.itemsize), e.mask(rest))


def _load(e: Emitter, address: Any, mask: Any) -> Any:
    return e.load(address) if mask is None else e.load_masked(address, mask)


def _store(e: Emitter, value: Any, address: Any, mask: Any) -> None:
    if mask is None:
        e.store(value, address)
    else:
        e.store_masked(value, address, mask)


def _depthwise(
    kernel: Kernel, e: Emitter, rows: Any, tables: Any, ntaps: Any, channels: Any, w: Any,
    bias: Any, clamp: Any, targets: Any, tiles: Any,
) -> None:  # fmt: skip
    """``y[m, c] = clamp(bias[c] + sum_t x[rows[m] + taps[t], c] * w[t, c])``, `mr` pixels a tile.

    Tile i has its `mr` rows and targets, and its tap offsets at address ``tables[i]``.
    """
    low, high = e.load_splat(clamp), e.load_splat(e.add(clamp, e.itemsize))
    stride = e.mul(channels, e.itemsize)
    with e.loop(tiles) as i:
        taps = e.load_int(e.add(tables, e.mul(i, 8)))
        first = e.mul(i, 8 * kernel.mr)
        sources = [e.load_int(e.add(e.add(rows, first), 8 * m)) for m in range(kernel.mr)]
        outputs = [e.load_int(e.add(e.add(targets, first), 8 * m)) for m in range(kernel.mr)]

        def body(
            offset: Any, mask: Any, taps: Any = taps, sources: Any = sources, outputs: Any = outputs
        ) -> None:
            start = _load(e, e.add(bias, offset), mask)
            acc = [e.variable(start) for _ in range(kernel.mr)]
            base = [e.add(source, offset) for source in sources]
            weights = e.add(w, offset)
            with e.loop(ntaps) as t:
                tap = e.load_int(e.add(taps, e.mul(t, 8)))
                weight = _load(e, e.add(weights, e.mul(stride, t)), mask)
                for m in range(kernel.mr):
                    x = _load(e, e.add(base[m], tap), mask)
                    e.set(acc[m], e.fma(x, weight, e.get(acc[m])))
            for m in range(kernel.mr):
                value = e.clamp(e.get(acc[m]), low, high)
                _store(e, value, e.add(outputs[m], offset), mask)

        _channels(e, channels, body)


# The window kernels share their arguments: taps ``image + rows[i] + columns[j]`` of one output
# pixel, in bytes; weights and divisors of rows and columns; where values and indices go.
def _tap_max(
    kernel: Kernel, e: Emitter, image: Any, rows: Any, nrows: Any, columns: Any, ncolumns: Any,
    row_weights: Any, column_weights: Any, row_divisor: Any, column_divisor: Any, channels: Any,
    target: Any, indices: Any,
) -> None:  # fmt: skip
    """Largest of the taps; every window has at least one."""

    def body(offset: Any, mask: Any) -> None:
        base = e.add(image, offset)
        best = e.variable(e.splat(float("-inf")))
        with e.loop(nrows) as i:
            row = e.add(base, e.load_int(e.add(rows, e.mul(i, 8))))
            with e.loop(ncolumns) as j:
                x = _load(e, e.add(row, e.load_int(e.add(columns, e.mul(j, 8)))), mask)
                e.set(best, e.maximum(x, e.get(best)))
        _store(e, e.get(best), e.add(target, offset), mask)

    _channels(e, channels, body)


def _tap_argmax(
    kernel: Kernel, e: Emitter, image: Any, rows: Any, nrows: Any, columns: Any, ncolumns: Any,
    row_weights: Any, column_weights: Any, row_divisor: Any, column_divisor: Any, channels: Any,
    target: Any, indices: Any,
) -> None:  # fmt: skip
    """As `_tap_max`, and where it is in the image: the first of equals, the first NaN."""

    def body(offset: Any, mask: Any) -> None:
        # Start from the window's first tap, so that an all -inf window has an index too.
        first = e.add(e.add(e.load_int(rows), e.load_int(columns)), offset)
        best = e.variable(_load(e, e.add(image, first), mask))
        where = e.variable(e.lane_numbers(e.ir.sdiv(first, e.const(e.itemsize))))
        with e.loop(nrows) as i:
            row = e.add(offset, e.load_int(e.add(rows, e.mul(i, 8))))
            with e.loop(ncolumns) as j:
                at = e.add(row, e.load_int(e.add(columns, e.mul(j, 8))))
                x, old = _load(e, e.add(image, at), mask), e.get(best)
                nan = e.ir.and_(
                    e.ir.fcmp_unordered("uno", x, x), e.ir.fcmp_ordered("ord", old, old)
                )
                wins = e.ir.or_(e.ir.fcmp_ordered(">", x, old), nan)
                e.set(best, e.ir.select(wins, x, old))
                here = e.lane_numbers(e.ir.sdiv(at, e.const(e.itemsize)))
                e.set(where, e.ir.select(wins, here, e.get(where)))
        _store(e, e.get(best), e.add(target, offset), mask)
        to = e.add(indices, e.mul(offset, 8 // e.itemsize))
        e.store_masked(e.get(where), to, e.mask(e.const(e.lanes)) if mask is None else mask)

    _channels(e, channels, body)


def _tap_sum(
    kernel: Kernel, e: Emitter, image: Any, rows: Any, nrows: Any, columns: Any, ncolumns: Any,
    row_weights: Any, column_weights: Any, row_divisor: Any, column_divisor: Any, channels: Any,
    target: Any, indices: Any,
) -> None:  # fmt: skip
    """``sum_i rw[i] * (sum_j cw[j] * tap[i, j]) / (row divisor * column divisor)``."""
    zero = e.splat(0.0)
    divisor = e.ir.fmul(e.load_splat(row_divisor), e.load_splat(column_divisor))

    def body(offset: Any, mask: Any) -> None:
        base = e.add(image, offset)
        total, line = e.variable(zero), e.variable(zero)
        with e.loop(nrows) as i:
            row = e.add(base, e.load_int(e.add(rows, e.mul(i, 8))))
            e.set(line, zero)
            with e.loop(ncolumns) as j:
                x = _load(e, e.add(row, e.load_int(e.add(columns, e.mul(j, 8)))), mask)
                weight = e.load_splat(e.add(column_weights, e.mul(j, e.itemsize)))
                e.set(line, e.fma(weight, x, e.get(line)))
            weight = e.load_splat(e.add(row_weights, e.mul(i, e.itemsize)))
            e.set(total, e.fma(weight, e.get(line), e.get(total)))
        _store(e, e.ir.fdiv(e.get(total), divisor), e.add(target, offset), mask)

    _channels(e, channels, body)


# kind -> (number of arguments, builder)
BUILDERS: dict[str, tuple[int, Callable[..., None]]] = {
    "gemm": (11, _gemm),
    "gemm_pool": (11, _gemm),
    "panel_gemm": (8, _panel_gemm),
    "winograd_input": (7, transforms.winograd_input),
    "winograd_output": (8, transforms.winograd_output),
    "winograd_output_stream": (8, transforms.winograd_output_stream),
    "winograd_output_pool": (8, transforms.winograd_output_pool),
    "depthwise": (9, _depthwise),
    "tap_max": (12, _tap_max),
    "tap_argmax": (12, _tap_argmax),
    "tap_sum": (12, _tap_sum),
}

# Wider tiles first: `candidates` keeps this order.
KERNELS: tuple[Kernel, ...] = tuple(
    Kernel(kind, dtype, mr, vectors, needs)
    for dtype in ("float32", "float64")
    for kind, mr, vectors, needs in (
        ("gemm", 6, 4, "avx512f"),
        ("gemm", 8, 3, "avx512f"),
        ("gemm", 12, 2, "avx512f"),
        ("gemm", 12, 1, "avx512f"),
        ("gemm", 6, 1, ""),
        ("gemm_pool", 12, 2, "avx512f"),
        ("gemm_pool", 4, 1, ""),
        ("panel_gemm", 14, 2, "avx512f"),
        ("panel_gemm", 6, 4, "avx512f"),
        ("panel_gemm", 6, 1, ""),
        *(
            (f"winograd_{kind}", m, 1, "")
            for m in TILES[3, 1]
            for kind in ("input", "output", "output_stream", "output_pool")
        ),
        ("depthwise", 4, 1, ""),
        ("tap_max", 1, 1, ""),
        ("tap_argmax", 1, 1, ""),
        ("tap_sum", 1, 1, ""),
    )
)


def candidates(kind: str, dtype: str) -> list[Kernel]:
    """Rows of one kind that this host can run, in the order of the table."""
    return [k for k in KERNELS if (k.kind, k.dtype) == (kind, dtype) and has(k.needs)]


def kernel(kind: str, dtype: str, mr: int | None = None) -> Kernel:
    """The first row of a kind, or the first one with `mr` rows."""
    return next(k for k in candidates(kind, dtype) if mr in (None, k.mr))

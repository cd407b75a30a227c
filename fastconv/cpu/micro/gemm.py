"""Matrix products on register tiles: implicit GEMM for direct convolution, panels for Winograd.

Register tiles are `mr` rows (pixels, or Winograd tiles) by `vectors` vectors (output channels).
With AVX-512, 6x4, 12x2 and 14x2 reach 99 % of the FMA peak; 7x4 spills. With 16 lanes split over
two (AVX2) or four (NEON) registers, 6x1 fills 15 of 16 or 29 of 32 and reaches 99 % as well.
"""

from collections.abc import Callable
from typing import Any

from fastconv.cpu.simd import Emitter

UNROLL = 4  # depths at once


def _accumulate(
    e: Emitter, kernel: Any, acc: list[list[Any]], a: Callable[[int, int], Any], b: Any,
    start: int, stop: int,
) -> None:  # fmt: skip
    """``acc[m][v] += A[m, k] * B[k, v]`` for k from `start` on; ``a(m, k)`` is an address."""
    for k in range(start, stop):
        row = [e.load(e.add(b, (k * kernel.vectors + v) * e.bytes)) for v in range(kernel.vectors)]
        for m in range(kernel.mr):
            splat = e.load_splat(a(m, k))
            for v in range(kernel.vectors):
                e.set(acc[m][v], e.fma(splat, row[v], e.get(acc[m][v])))


def _fetch(e: Emitter, place: Any, count: Any) -> None:
    """Ask for `count` cache lines from the address in a variable, which moves on."""
    with e.loop(count) as line:
        e.prefetch(e.add(e.get(place), e.mul(line, 64)), into_l1=False)
    e.set(place, e.add(e.get(place), e.mul(count, 64)))


def _tile(kernel: Any, e: Emitter) -> list[list[Any]]:
    """The accumulators of a register tile."""
    zero = e.splat(0.0)
    return [[e.variable(zero) for _ in range(kernel.vectors)] for _ in range(kernel.mr)]


def _implicit_gemm(
    kernel: Any, e: Emitter, rows: Any, segments: Any, nseg: Any, length: Any, b: Any, start: Any,
    row_step: Any, ahead: Any, acc: list[list[Any]], panel: Any,
) -> None:  # fmt: skip
    """Tile of ``start + sum over segments, k of A[rows[m] + segments[s] + k] * B[s, k, :]``.

    A convolution is this product with no im2col copy: a segment is a run of inputs that lie side
    by side in memory (a kernel row times all channels), at the same offset from every pixel. What
    lies `ahead` bytes further is fetched meanwhile: the hardware does not see that rows follow each
    other (4.0 -> 3.2 ms for 1x1 kernels from 128 to 64 channels).
    """
    for m, row in enumerate(acc):
        begin = e.add(start, e.mul(row_step, m))
        for v, slot in enumerate(row):
            e.set(slot, e.load(e.add(begin, v * e.bytes)))
    e.set(panel, b)
    step = kernel.vectors * e.bytes
    main = e.ir.and_(length, e.const(-UNROLL))
    with e.loop(nseg) as s:
        offset = e.load_int(e.add(segments, e.mul(s, 8)))
        base = [e.add(e.load_int(e.add(rows, 8 * m)), offset) for m in range(kernel.mr)]

        def a(k: Any) -> Callable[[int, int], Any]:
            shift = e.mul(k, e.itemsize)
            return lambda m, u: e.add(e.add(base[m], shift), u * e.itemsize)

        with e.loop(main, UNROLL) as k:
            here = a(k)
            for m in range(kernel.mr):
                e.prefetch(e.add(here(m, 0), ahead), into_l1=False)
            _accumulate(e, kernel, acc, here, e.get(panel), 0, UNROLL)
            e.set(panel, e.add(e.get(panel), UNROLL * step))
        # The rest of a segment, at most three: straight code keeps the row addresses in registers.
        rest = e.ir.sub(length, main)
        tail, at = e.get(panel), a(main)
        for u in range(UNROLL - 1):
            with e.ir.if_then(e.ir.icmp_signed(">", rest, e.const(u))):
                _accumulate(e, kernel, acc, at, tail, u, u + 1)
        e.set(panel, e.add(tail, e.mul(rest, step)))


def _store_rows(
    e: Emitter, tile: list[list[Any]], targets: Any, shift: Any, valid: Any, streaming: bool
) -> None:
    """Write row m of `tile` to ``targets[m] + shift``; only the first `valid` columns."""
    vectors = len(tile[0])
    full = e.ir.icmp_signed(">=", valid, e.const(vectors * e.lanes))
    with e.ir.if_else(full) as (whole, partial):
        with whole:
            for m, row in enumerate(tile):
                target = e.add(e.load_int(e.add(targets, 8 * m)), shift)
                for v, value in enumerate(row):
                    e.store(value, e.add(target, v * e.bytes), streaming)
        with partial:
            masks = [e.mask(valid, v * e.lanes) for v in range(vectors)]
            for m, row in enumerate(tile):
                target = e.add(e.load_int(e.add(targets, 8 * m)), shift)
                for v, value in enumerate(row):
                    e.store_masked(value, e.add(target, v * e.bytes), masks[v])


def implicit(
    kernel: Any, e: Emitter, rows: Any, tables: Any, skip: Any, nseg: Any, length: Any, b: Any,
    start: Any, row_step: Any, tile_step: Any, clamp: Any, targets: Any, shift: Any, valid: Any,
    tiles: Any, ahead: Any, next_b: Any, lines: Any,
) -> None:  # fmt: skip
    """Implicit GEMM, clamp and perhaps a 2x2 maximum, for `tiles` register tiles.

    Tile t reads `mr` addresses from `rows` and its segment offsets `skip` bytes behind the address
    ``tables[t]``, and writes to `mr` addresses from `targets` (a quarter of that with a pool, whose
    windows are four rows each), all of them `shift` further. Sums begin with the numbers at
    ``start + t * tile_step + m * row_step``: biases, with steps of 0, or sums of earlier parts. One
    call does all tiles: a first layer has only 27 products an output, and calls would cost 5 %.
    Of what B is followed by, at `next_b`, each tile fetches the next `lines` cache lines.
    "gemm_stream" writes past the caches: 13.1 -> 12.0 ms for 3 to 64 channels at 500 x 500.
    """
    pool = kernel.kind == "gemm_pool"
    outputs = kernel.mr // 4 if pool else kernel.mr
    low, upper = e.load_splat(clamp), e.add(clamp, e.itemsize)
    high, limited = e.load_splat(upper), e.is_finite(upper)
    acc = _tile(kernel, e)
    panel, following = e.variable(b), e.variable(next_b)
    with e.loop(tiles) as t:
        _fetch(e, following, lines)
        segments = e.add(e.load_int(e.add(tables, e.mul(t, 8))), skip)
        own_rows, begin = e.add(rows, e.mul(t, 8 * kernel.mr)), e.add(start, e.mul(t, tile_step))
        _implicit_gemm(
            kernel, e, own_rows, segments, nseg, length, b, begin, row_step, ahead, acc, panel
        )
        with e.ir.if_then(limited):  # seldom, and 4 % of a first layer
            for slot in (slot for row in acc for slot in row):
                e.set(slot, e.at_most(e.get(slot), high))
        sums = [[e.get(slot) for slot in row] for row in acc]
        if pool:
            quads = [sums[m : m + 4] for m in range(0, kernel.mr, 4)]
            sums = [[e.maximum(*v) for v in zip(*quad, strict=True)] for quad in quads]
        tile = [[e.at_least(value, low) for value in row] for row in sums]
        own_targets = e.add(targets, e.mul(t, 8 * outputs))
        _store_rows(e, tile, own_targets, shift, valid, kernel.kind == "gemm_stream")


def panels(
    kernel: Any, e: Emitter, a: Any, depth: Any, b: Any, c: Any, blocks: Any, products: Any,
    columns: Any, product_a: Any, product_b: Any, product_c: Any, panel_b: Any, panel_c: Any,
    ahead: Any, lines: Any,
) -> None:  # fmt: skip
    """``C[xi, panel, block] = A[xi, block] @ B[xi, panel]`` for all products, panels and blocks.

    There are `columns` panels of `nr` columns and `blocks` blocks of `mr` rows. A is packed
    ``[depth / lanes][mr][lanes]``, so all its offsets are constant; `depth` is a multiple of the
    unrolling. B is ``[depth][nr]``, C ``[mr][nr]``; row blocks of A and C follow each other.

    Nothing here waits for memory: while one block is multiplied, its share is fetched of what
    comes next, which is the next panel of B, the next product's A, and `lines` cache lines from
    each address that the table `ahead` holds, one a product. That is a third of the whole time
    where the operands come from the last-level cache (512 channels with AVX2: 89 -> 53 ms).
    """
    zero = e.splat(0.0)
    acc = _tile(kernel, e)
    at_a, at_b, at_c = e.variable(a), e.variable(b), e.variable(c)
    next_a, next_b, next_x = e.variable(a), e.variable(b), e.variable(ahead)
    step = kernel.vectors * e.bytes  # of B, for one depth
    whole = e.const(e.lanes)

    def share(total: Any, parts: Any) -> Any:
        return e.ir.sdiv(e.add(total, e.add(parts, -1)), parts)

    # Cache lines to fetch for each group of channels of a block, and for each block.
    lines_b = share(e.const(e.lanes * step // 64), blocks)
    lines_a = share(e.const(kernel.mr * e.bytes // 64), columns)
    lines_x = share(lines, e.mul(blocks, columns))

    with e.loop(products) as xi:
        first_a = e.add(a, e.mul(xi, product_a))
        first_b = e.add(b, e.mul(xi, product_b))
        e.set(next_a, e.add(first_a, product_a))
        e.set(next_x, e.load_int(e.add(ahead, e.mul(xi, 8))))
        with e.loop(columns) as panel:
            this_b = e.add(first_b, e.mul(panel, panel_b))
            is_last = e.ir.icmp_signed("==", e.add(panel, 1), columns)
            following = e.ir.select(is_last, e.add(first_b, product_b), e.add(this_b, panel_b))
            e.set(next_b, following)
            e.set(at_a, first_a)
            e.set(at_c, e.add(e.add(c, e.mul(xi, product_c)), e.mul(panel, panel_c)))
            with e.loop(blocks):
                e.set(at_b, this_b)
                for row in acc:
                    for slot in row:
                        e.set(slot, zero)
                _fetch(e, next_x, lines_x)
                with e.loop(depth, e.lanes) as done:
                    _fetch(e, next_b, lines_b)
                    _fetch(e, next_a, lines_a)
                    rest = e.ir.sub(depth, done)
                    some = e.ir.select(e.ir.icmp_signed("<", rest, whole), rest, whole)
                    with e.loop(e.mul(some, e.itemsize), UNROLL * e.itemsize) as k:
                        column = e.add(e.get(at_a), k)

                        def at(m: int, u: int, column: Any = column) -> Any:
                            return e.add(column, m * e.bytes + u * e.itemsize)

                        _accumulate(e, kernel, acc, at, e.get(at_b), 0, UNROLL)
                        e.set(at_b, e.add(e.get(at_b), UNROLL * step))
                    e.set(at_a, e.add(e.get(at_a), kernel.mr * e.bytes))
                to = e.get(at_c)
                for m in range(kernel.mr):
                    for v in range(kernel.vectors):
                        e.store(e.get(acc[m][v]), e.add(to, (m * kernel.vectors + v) * e.bytes))
                e.set(at_c, e.add(to, kernel.mr * step))

"""Pools and resizes: each output pixel combines a few taps of its window."""

from typing import Any

from fastconv.cpu.micro.channels import each_vector, load, store
from fastconv.cpu.simd import Emitter


# The window kernels share their arguments: taps ``image + rows[i] + columns[j]`` of one output
# pixel, in bytes; weights and divisors of rows and columns; where values and indices go.
def tap_max(
    kernel: Any, e: Emitter, image: Any, rows: Any, nrows: Any, columns: Any, ncolumns: Any,
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
                x = load(e, e.add(row, e.load_int(e.add(columns, e.mul(j, 8)))), mask)
                e.set(best, e.maximum(x, e.get(best)))
        store(e, e.get(best), e.add(target, offset), mask)

    each_vector(e, channels, body)


def tap_argmax(
    kernel: Any, e: Emitter, image: Any, rows: Any, nrows: Any, columns: Any, ncolumns: Any,
    row_weights: Any, column_weights: Any, row_divisor: Any, column_divisor: Any, channels: Any,
    target: Any, indices: Any,
) -> None:  # fmt: skip
    """As `_tap_max`, and where it is in the image: the first of equals, the first NaN."""

    def body(offset: Any, mask: Any) -> None:
        # Start from the window's first tap, so that an all -inf window has an index too.
        first = e.add(e.add(e.load_int(rows), e.load_int(columns)), offset)
        best = e.variable(load(e, e.add(image, first), mask))
        where = e.variable(e.lane_numbers(e.ir.sdiv(first, e.const(e.itemsize))))
        with e.loop(nrows) as i:
            row = e.add(offset, e.load_int(e.add(rows, e.mul(i, 8))))
            with e.loop(ncolumns) as j:
                at = e.add(row, e.load_int(e.add(columns, e.mul(j, 8))))
                x, old = load(e, e.add(image, at), mask), e.get(best)
                nan = e.ir.and_(
                    e.ir.fcmp_unordered("uno", x, x), e.ir.fcmp_ordered("ord", old, old)
                )
                wins = e.ir.or_(e.ir.fcmp_ordered(">", x, old), nan)
                e.set(best, e.ir.select(wins, x, old))
                here = e.lane_numbers(e.ir.sdiv(at, e.const(e.itemsize)))
                e.set(where, e.ir.select(wins, here, e.get(where)))
        store(e, e.get(best), e.add(target, offset), mask)
        to = e.add(indices, e.mul(offset, 8 // e.itemsize))
        e.store_masked(e.get(where), to, e.mask(e.const(e.lanes)) if mask is None else mask)

    each_vector(e, channels, body)


def tap_sum(
    kernel: Any, e: Emitter, image: Any, rows: Any, nrows: Any, columns: Any, ncolumns: Any,
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
                x = load(e, e.add(row, e.load_int(e.add(columns, e.mul(j, 8)))), mask)
                weight = e.load_splat(e.add(column_weights, e.mul(j, e.itemsize)))
                e.set(line, e.fma(weight, x, e.get(line)))
            weight = e.load_splat(e.add(row_weights, e.mul(i, e.itemsize)))
            e.set(total, e.fma(weight, e.get(line), e.get(total)))
        store(e, e.ir.fdiv(e.get(total), divisor), e.add(target, offset), mask)

    each_vector(e, channels, body)

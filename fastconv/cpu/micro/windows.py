"""Pools and resizes in two steps: input rows are combined to one, then its columns to outputs.

The first step runs over contiguous numbers, whatever the channels; its result, a strip of a row in
working precision, stays in the L1 cache. Whole vectors are stored past the end of a pixel where
the next pixel overwrites them anyway: only the last numbers of a row need masks.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

from fastconv.cpu.micro.channels import each_vector, each_vector_once, load, store
from fastconv.cpu.simd import Emitter

ROWS = 4  # that are combined in one pass


# ------------------------------------------------------------------------------------ rows to one
def _down(
    e: Emitter, rows: Any, nrows: Any, target: Any, count: Any,
    prepare: Callable[[Any, int], Callable[[Any, list[Any]], Any]],
) -> None:  # fmt: skip
    """``target[i] = combination over r of rows[r][i]``, `count` numbers; rows is a table.

    ``prepare(first, some)`` gives what adds numbers of rows ``first ... first + some`` to a total,
    or to None. More than `ROWS` rows are passes over contiguous numbers. What is the same for all
    numbers is read in front of their loop, as LLVM thinks that stores might change it.
    """

    def numbers(first: Any, some: int, more: bool) -> Callable[[Any, Any], None]:
        table = e.add(rows, e.mul(first, 8))
        own = [e.load_int(e.add(table, 8 * k)) for k in range(some)]
        join = prepare(first, some)

        def body(offset: Any, mask: Any) -> None:
            values = [e.load_stored(e.add(row, e.stored(offset)), mask) for row in own]
            place = e.add(target, offset)
            total = load(e, place, mask) if more else None
            store(e, join(total, values), place, mask)

        return body

    done = e.ir.append_basic_block("done")
    zero = e.const(0)
    for some in range(1, ROWS):
        with e.ir.if_then(e.ir.icmp_signed("==", nrows, e.const(some))):
            each_vector(e, count, numbers(zero, some, more=False))
            e.ir.branch(done)
    each_vector(e, count, numbers(zero, ROWS, more=False))
    whole = e.ir.and_(nrows, e.const(-ROWS))
    with e.loop(whole, ROWS, start=ROWS) as r:
        each_vector_once(e, count, numbers(r, ROWS, more=True))
    with e.loop(nrows, start=whole) as r:
        each_vector_once(e, count, numbers(r, 1, more=True))
    e.ir.branch(done)
    e.ir.position_at_end(done)


def down_sum(
    kernel: Any, e: Emitter, rows: Any, weights: Any, nrows: Any, target: Any, count: Any
) -> None:
    """``target[i] = sum_r weights[r] * rows[r][i]``."""

    def prepare(first: Any, some: int) -> Callable[[Any, list[Any]], Any]:
        begin = e.add(weights, e.mul(first, e.itemsize))
        factors = [e.load_splat(e.add(begin, k * e.itemsize)) for k in range(some)]

        def join(total: Any, values: list[Any]) -> Any:
            for weight, x in zip(factors, values, strict=True):
                total = e.ir.fmul(weight, x) if total is None else e.fma(weight, x, total)
            return total

        return join

    _down(e, rows, nrows, target, count, prepare)


def down_max(
    kernel: Any, e: Emitter, rows: Any, weights: Any, nrows: Any, target: Any, count: Any
) -> None:
    """``target[i] = max_r rows[r][i]``, NaN if there is one."""

    def join(total: Any, values: list[Any]) -> Any:
        return e.maximum(*values if total is None else [total, *values])

    _down(e, rows, nrows, target, count, lambda first, some: join)


# -------------------------------------------------------------------------------- columns to pixels
def across(
    kernel: Any, e: Emitter, row: Any, starts: Any, taps: Any, weights: Any, divisors: Any,
    row_divisor: Any, channels: Any, target: Any, pixels: Any, room: Any,
) -> None:  # fmt: skip
    """Combine columns of a row for each of `pixels` outputs, side by side at `target`.

    Output j reads ``row + taps[t]`` for t from ``starts[j]`` up to ``starts[j + 1]``, or exactly
    ``kernel.taps`` of them where that is not 0. "across_max" takes the maximum, "across_sum" the
    sum weighted by ``weights[t]``, "across_mean" that divided by ``divisors[j] * row_divisor``.
    `room` counts the numbers from the target to the end of its row.
    """
    whole = e.ir.and_(channels, e.const(-e.lanes))
    rest = e.ir.sub(channels, whole)
    beginning = e.mask(rest)
    begin = e.load_int(starts)

    def pixel(j: Any, keep: Any = None) -> tuple[Callable[[Any], Any], Any]:
        """Of output j: the combination of what lies at an offset from its taps; where it goes.

        `keep` are numbers of the taps that a sum takes instead of reading them: `keep(columns)`
        gives, for a tap and an offset, one of them.
        """
        if kernel.taps:
            first = e.add(begin, e.mul(j, kernel.taps))
        else:
            first = e.load_int(e.add(starts, e.mul(j, 8)))
            count = e.ir.sub(e.load_int(e.add(starts, e.mul(e.add(j, 1), 8))), first)
        table, factors = e.add(taps, e.mul(first, 8)), e.add(weights, e.mul(first, e.itemsize))
        to = e.add(target, e.stored(e.mul(e.mul(j, channels), e.itemsize)))
        splat = None
        if kernel.kind == "across_mean":
            one = e.load_splat(e.add(divisors, e.mul(j, e.itemsize)))
            splat = e.ir.fmul(one, e.load_splat(row_divisor))

        def column(t: Any) -> Any:
            return e.add(row, e.load_int(e.add(table, e.mul(t, 8))))

        def weight(t: Any) -> Any:
            return e.load_splat(e.add(factors, e.mul(t, e.itemsize)))

        numbers = [e.const(t) for t in range(kernel.taps)]  # read once: LLVM would at each vector
        columns = [column(t) for t in numbers]
        factor = [weight(t) for t in numbers] if kernel.kind != "across_max" else []
        read = keep(columns) if keep else lambda t, offset: e.load(e.add(columns[t], offset))

        def maximum(offset: Any) -> Any:
            if kernel.taps:
                return e.maximum(*(e.load(e.add(at, offset)) for at in columns))
            best = e.variable(e.load(e.add(column(e.const(0)), offset)))
            with e.loop(count, start=1) as t:
                e.set(best, e.maximum(e.load(e.add(column(t), offset)), e.get(best)))
            return e.get(best)

        def total(offset: Any) -> Any:
            if kernel.taps:
                value = e.ir.fmul(factor[0], read(0, offset))
                for t in range(1, kernel.taps):
                    value = e.fma(factor[t], read(t, offset), value)
            else:
                zero = e.const(0)
                slot = e.variable(e.ir.fmul(weight(zero), e.load(e.add(column(zero), offset))))
                with e.loop(count, start=1) as t:
                    x = e.load(e.add(column(t), offset))
                    e.set(slot, e.fma(weight(t), x, e.get(slot)))
                value = e.get(slot)
            return value if splat is None else e.ir.fdiv(value, splat)

        return maximum if kernel.kind == "across_max" else total, to

    # One or two vectors a pixel, and room behind it for whole ones: straight code (bilinear, 21
    # channels to 504 x 504: 0.47 -> 0.33 ms; on one thread 0.60 -> 0.42 ms by what is kept).
    done = e.variable(e.const(0))
    for vectors in (1, 2) if kernel.taps else ():
        numbers = vectors * e.lanes
        few = e.ir.icmp_signed("<=", channels, e.const(numbers))
        many = e.ir.icmp_signed(">", channels, e.const(numbers - e.lanes))
        roomy = e.ir.icmp_signed(">=", room, e.const(numbers))
        with e.ir.if_then(e.ir.and_(e.ir.and_(few, many), roomy)):
            safe = e.add(e.ir.sdiv(e.ir.sub(room, e.const(numbers)), channels), 1)
            stop = e.ir.select(e.ir.icmp_signed("<", safe, pixels), safe, pixels)
            offsets = range(0, numbers * e.itemsize, e.bytes)
            keep = _kept(kernel, e, offsets) if kernel.kind == "across_sum" else None
            with e.loop(stop) as j:
                value, to = pixel(j, keep)
                for offset in offsets:
                    e.store_stored(value(offset), e.add(to, e.stored(e.const(offset))))
            e.set(done, stop)

    with e.loop(pixels, start=e.get(done)) as j:
        value, to = pixel(j)
        with e.loop(whole, e.lanes) as c:
            offset = e.mul(c, e.itemsize)
            e.store_stored(value(offset), e.add(to, e.stored(offset)))
        with e.ir.if_then(e.ir.icmp_signed(">", rest, e.const(0))):
            offset = e.mul(whole, e.itemsize)
            last, place = value(offset), e.add(to, e.stored(offset))
            left = e.ir.sub(room, e.add(e.mul(j, channels), whole))
            fits = e.ir.icmp_signed(">=", left, e.const(e.lanes))
            with e.ir.if_else(fits) as (inside, at_the_end):
                with inside:
                    e.store_stored(last, place)
                with at_the_end:
                    e.store_stored(last, place, beginning)


def _kept(kernel: Any, e: Emitter, offsets: range) -> Callable[[list[Any]], Callable[..., Any]]:
    """Numbers of the taps, read only where a pixel's columns are not those of the one before.

    An enlarged image has many neighbours with the same columns.
    """
    columns = [e.variable(e.const(-1)) for _ in range(kernel.taps)]
    numbers = [[e.variable(e.splat(0.0)) for _ in offsets] for _ in range(kernel.taps)]

    def keep(wanted: list[Any]) -> Callable[..., Any]:
        differ = [
            e.ir.icmp_signed("!=", e.get(had), at) for had, at in zip(columns, wanted, strict=True)
        ]
        with e.ir.if_then(reduce(e.ir.or_, differ)):
            for column, own, at in zip(columns, numbers, wanted, strict=True):
                e.set(column, at)
                for slot, offset in zip(own, offsets, strict=True):
                    e.set(slot, e.load(e.add(at, offset)))
        return lambda t, offset: e.get(numbers[t][offset // e.bytes])

    return keep


# ------------------------------------------------------------------------------ where a maximum is
def argmax_window(
    kernel: Any, e: Emitter, image: Any, rows: Any, nrows: Any, columns: Any, ncolumns: Any,
    channels: Any, target: Any, indices: Any,
) -> None:  # fmt: skip
    """Largest tap ``image + rows[i] + columns[j]`` of one pixel, and where it is in the image.

    The first of equals, the first NaN.
    """
    stored = e.stored(e.const(e.itemsize))

    def body(offset: Any, mask: Any) -> None:
        # Start from the window's first tap, so that an all -inf window has an index too.
        first = e.add(e.add(e.load_int(rows), e.load_int(columns)), e.stored(offset))
        best = e.variable(e.load_stored(e.add(image, first), mask))
        where = e.variable(e.lane_numbers(e.ir.sdiv(first, stored)))
        with e.loop(nrows) as i:
            row = e.add(e.stored(offset), e.load_int(e.add(rows, e.mul(i, 8))))
            with e.loop(ncolumns) as j:
                at = e.add(row, e.load_int(e.add(columns, e.mul(j, 8))))
                x, old = e.load_stored(e.add(image, at), mask), e.get(best)
                nan = e.ir.and_(
                    e.ir.fcmp_unordered("uno", x, x), e.ir.fcmp_ordered("ord", old, old)
                )
                wins = e.ir.or_(e.ir.fcmp_ordered(">", x, old), nan)
                e.set(best, e.ir.select(wins, x, old))
                e.set(where, e.ir.select(wins, e.lane_numbers(e.ir.sdiv(at, stored)), e.get(where)))
        e.store_stored(e.get(best), e.add(target, e.stored(offset)), mask)
        to = e.add(indices, e.mul(offset, 8 // e.itemsize))
        e.store_masked(e.get(where), to, e.mask(e.const(e.lanes)) if mask is None else mask)

    each_vector(e, channels, body)

"""Depthwise convolution: vectors run over channels, register tiles over the pixels of a row or two.

Tiles are outermost: a tile's pixels are read channel after channel, in as many streams as the tile
meets pixels. With the channels outermost, maps of 512 channels lay in two sets of the L1.
"""

from typing import Any

from fastconv.cpu.micro.channels import each_vector, load, store
from fastconv.cpu.simd import Emitter


def depthwise(
    kernel: Any, e: Emitter, x: Any, row: Any, column: Any, step: Any, first_row: Any,
    last_row: Any, first_column: Any, last_column: Any, width: Any, channels: Any, w: Any,
    bias: Any, clamp: Any, target: Any, line: Any, pixel: Any, pixels: Any,
) -> None:  # fmt: skip
    """``y[m, c] = clamp(bias[c] + sum_pq x[m * step + p * row + q * column, c] * w[p, q, c])``.

    `pixels` outputs of a row, `pixel` bytes apart, that meet the same rows p and columns q of taps,
    those from the first up to the last one; all steps are in bytes, and `width` is the number of
    columns in w. With `kernel.taps` columns are 0 ... taps, and the pixels are `kernel.stride`
    columns apart: then each input is loaded once for all the outputs of a tile that it meets, and
    only a pixel by itself may lack columns.
    With `kernel.rows` there are as many rows of outputs, `line` bytes apart, which meet inputs
    `kernel.stride` rows apart; w has `kernel.taps` rows, and the first and the last row count from
    the first tap of the first row of outputs to the last tap of the last one.
    "depthwise_sums" writes in working precision, for a finishing kernel.
    """
    low, high = e.load_splat(clamp), e.load_splat(e.add(clamp, e.itemsize))
    plane = e.mul(channels, e.itemsize)
    sums = kernel.kind == "depthwise_sums"

    def tile(at: Any, mr: int, offset: Any, mask: Any) -> None:
        """`mr` outputs of each row, from number `at` on, for the channels at `offset`."""
        begin = load(e, e.add(bias, offset), mask)
        acc = [[e.variable(begin) for _ in range(mr)] for _ in range(kernel.rows)]
        first, weights = e.add(e.add(x, e.stored(offset)), e.mul(at, step)), e.add(w, offset)

        def add_row(y: Any, met: list[tuple[list[Any], Any]]) -> None:
            """Add row `y` of inputs to (outputs, row of taps)."""
            own = [(slots, e.add(weights, e.mul(e.mul(p, width), plane))) for slots, p in met]
            _add_row(
                e, kernel, own, e.add(first, e.mul(y, row)), column, step, plane,
                (first_column, last_column), mask,
            )  # fmt: skip

        if kernel.rows == 1:
            with e.loop(last_row, start=first_row) as p:
                add_row(p, [(acc[0], p)])
        else:
            for y in range(kernel.stride * (kernel.rows - 1) + kernel.taps):
                met = [(slots, y - r * kernel.stride) for r, slots in enumerate(acc)]
                with e.ir.if_then(_within(e, y, first_row, last_row)):
                    add_row(e.const(y), [(s, e.const(p)) for s, p in met if 0 <= p < kernel.taps])

        to = e.add(e.add(target, offset if sums else e.stored(offset)), e.mul(at, pixel))
        for r, slots in enumerate(acc):
            for slot, place in zip(slots, e.run(e.add(to, e.mul(line, r)), pixel, mr), strict=True):
                value = e.clamp(e.get(slot), low, high)
                if sums:
                    store(e, value, place, mask)
                else:
                    e.store_stored(value, place, mask)

    def tiles(at: Any, mr: int) -> None:
        each_vector(e, channels, lambda offset, mask: tile(at, mr, offset, mask))

    with e.loop(e.ir.and_(pixels, e.const(-kernel.mr)), kernel.mr) as at:
        tiles(at, kernel.mr)
    mr = kernel.mr // 2
    while mr:  # the rest, in tiles of half the size each
        with e.ir.if_then(e.ir.icmp_signed("!=", e.ir.and_(pixels, e.const(mr)), e.const(0))):
            tiles(e.ir.and_(pixels, e.const(-2 * mr)), mr)
        mr //= 2


def _within(e: Emitter, i: int, first: Any, last: Any) -> Any:
    """Whether `i` is at least `first` and below `last`."""
    after = e.ir.icmp_signed("<=", first, e.const(i))
    return e.ir.and_(after, e.ir.icmp_signed("<", e.const(i), last))


def _add_row(
    e: Emitter, kernel: Any, met: list[tuple[list[Any], Any]], line: Any, column: Any, step: Any,
    plane: Any, columns: tuple[Any, Any], mask: Any,
) -> None:  # fmt: skip
    """Add the row of inputs at `line` to rows of outputs, each with the address of its weights."""
    mr, taps = len(met[0][0]), kernel.taps
    if not taps:
        ((slots, first),) = met
        with e.loop(columns[1], start=columns[0]) as q:
            weight = load(e, e.add(first, e.mul(q, plane)), mask)
            at_tap = e.add(line, e.mul(q, column))
            for m, slot in enumerate(slots):
                value = e.load_stored(e.add(at_tap, e.mul(step, m)), mask)
                e.set(slot, e.fma(value, weight, e.get(slot)))
        return
    places = [e.run(first, plane, taps) for _, first in met]
    inputs = e.run(line, column, kernel.stride * (mr - 1) + taps)
    if mr == 1:
        for q, at in enumerate(inputs):
            with e.ir.if_then(_within(e, q, *columns)):
                x = e.load_stored(at, mask)
                for ((slot,), _), weights in zip(met, places, strict=True):
                    e.set(slot, e.fma(x, load(e, weights[q], mask), e.get(slot)))
        return
    w = [[load(e, at, mask) for at in weights] for weights in places]
    for i, at in enumerate(inputs):  # every one is loaded once
        x = e.load_stored(at, mask)
        for (slots, _), weights in zip(met, w, strict=True):
            for m, slot in enumerate(slots):
                q = i - m * kernel.stride
                if 0 <= q < taps:
                    e.set(slot, e.fma(x, weights[q], e.get(slot)))

"""Depthwise convolution: vectors run over channels, register tiles over the pixels of a row."""

from typing import Any

from fastconv.cpu.micro.channels import each_vector, load, store
from fastconv.cpu.simd import Emitter


def depthwise(
    kernel: Any, e: Emitter, x: Any, row: Any, column: Any, step: Any, first_row: Any,
    last_row: Any, first_column: Any, last_column: Any, width: Any, channels: Any, w: Any,
    bias: Any, clamp: Any, target: Any, pixel: Any, pixels: Any,
) -> None:  # fmt: skip
    """``y[m, c] = clamp(bias[c] + sum_pq x[m * step + p * row + q * column, c] * w[p, q, c])``.

    `pixels` outputs of a row, `pixel` bytes apart, that meet the same rows p and columns q of taps,
    those from the first up to the last one; all steps are in bytes, and `width` is the number of
    columns in w. With `kernel.taps` columns are 0 ... taps, and the pixels are `kernel.stride`
    columns apart: then each input is loaded once for all the outputs of a tile that it meets, and
    only a pixel by itself may lack columns.
    "depthwise_sums" writes in working precision, for a finishing kernel.
    """
    low, high = e.load_splat(clamp), e.load_splat(e.add(clamp, e.itemsize))
    plane = e.mul(channels, e.itemsize)

    def body(offset: Any, mask: Any) -> None:
        begin = load(e, e.add(bias, offset), mask)
        inputs, weights = e.add(x, e.stored(offset)), e.add(w, offset)

        def tile(at: Any, mr: int) -> None:
            """`mr` outputs from number `at` on."""
            acc = [e.variable(begin) for _ in range(mr)]
            first = e.add(inputs, e.mul(at, step))
            for slot in acc:
                e.set(slot, begin)
            with e.loop(last_row, start=first_row) as p:
                line, taps = e.add(first, e.mul(p, row)), e.mul(p, width)
                if kernel.taps and mr > 1:
                    _shared_inputs(e, kernel, acc, line, column, weights, taps, plane, mask)
                elif kernel.taps:
                    own = e.add(weights, e.mul(taps, plane))
                    met = first_column, last_column
                    _one_output(e, kernel, acc[0], line, column, met, own, plane, mask)
                else:
                    with e.loop(last_column, start=first_column) as q:
                        place = e.add(weights, e.mul(e.add(taps, q), plane))
                        weight, at_tap = load(e, place, mask), e.add(line, e.mul(q, column))
                        for m, slot in enumerate(acc):
                            value = e.load_stored(e.add(at_tap, e.mul(step, m)), mask)
                            e.set(slot, e.fma(value, weight, e.get(slot)))
            sums = kernel.kind == "depthwise_sums"
            to = e.add(e.add(target, offset if sums else e.stored(offset)), e.mul(at, pixel))
            for slot, place in zip(acc, e.run(to, pixel, mr), strict=True):
                value = e.clamp(e.get(slot), low, high)
                if sums:
                    store(e, value, place, mask)
                else:
                    e.store_stored(value, place, mask)

        done = e.ir.and_(pixels, e.const(-kernel.mr))
        with e.loop(done, kernel.mr) as at:
            tile(at, kernel.mr)
        mr = kernel.mr // 2
        while mr:  # the rest, in tiles of half the size each
            with e.ir.if_then(e.ir.icmp_signed("!=", e.ir.and_(pixels, e.const(mr)), e.const(0))):
                tile(e.ir.and_(pixels, e.const(-2 * mr)), mr)
            mr //= 2

    each_vector(e, channels, body)


def _one_output(
    e: Emitter, kernel: Any, slot: Any, line: Any, column: Any, met: tuple[Any, Any], weights: Any,
    plane: Any, mask: Any,
) -> None:  # fmt: skip
    """Add one row of taps to an output that meets columns from ``met[0]`` up to ``met[1]``."""
    places = zip(e.run(line, column, kernel.taps), e.run(weights, plane, kernel.taps), strict=True)
    for q, (at, weight) in enumerate(places):
        after = e.ir.icmp_signed("<=", met[0], e.const(q))
        before = e.ir.icmp_signed("<", e.const(q), met[1])
        with e.ir.if_then(e.ir.and_(after, before)):
            e.set(slot, e.fma(e.load_stored(at, mask), load(e, weight, mask), e.get(slot)))


def _shared_inputs(
    e: Emitter, kernel: Any, acc: list[Any], line: Any, column: Any, weights: Any, taps: Any,
    plane: Any, mask: Any,
) -> None:  # fmt: skip
    """Add one row of taps to all outputs of a tile, every input loaded once."""
    first = e.add(weights, e.mul(taps, plane))
    w = [load(e, at, mask) for at in e.run(first, plane, kernel.taps)]
    inputs = e.run(line, column, kernel.stride * (len(acc) - 1) + kernel.taps)
    for i, at in enumerate(inputs):
        x = e.load_stored(at, mask)
        for m, slot in enumerate(acc):
            q = i - m * kernel.stride
            if 0 <= q < kernel.taps:
                e.set(slot, e.fma(x, w[q], e.get(slot)))

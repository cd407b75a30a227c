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
    columns apart: then each input is loaded once for all the outputs of a tile that it meets.
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
                if kernel.taps:
                    _shared_inputs(e, kernel, acc, line, column, weights, taps, plane, mask)
                else:
                    with e.loop(last_column, start=first_column) as q:
                        place = e.add(weights, e.mul(e.add(taps, q), plane))
                        weight, at_tap = load(e, place, mask), e.add(line, e.mul(q, column))
                        for m, slot in enumerate(acc):
                            value = e.load_stored(e.add(at_tap, e.mul(step, m)), mask)
                            e.set(slot, e.fma(value, weight, e.get(slot)))
            for m, slot in enumerate(acc):
                value, to = e.clamp(e.get(slot), low, high), e.mul(e.add(at, m), pixel)
                if kernel.kind == "depthwise_sums":
                    store(e, value, e.add(e.add(target, to), offset), mask)
                else:
                    e.store_stored(value, e.add(e.add(target, to), e.stored(offset)), mask)

        done = e.ir.and_(pixels, e.const(-kernel.mr))
        with e.loop(done, kernel.mr) as at:
            tile(at, kernel.mr)
        mr = kernel.mr // 2
        while mr:  # the rest, in tiles of half the size each
            with e.ir.if_then(e.ir.icmp_signed("!=", e.ir.and_(pixels, e.const(mr)), e.const(0))):
                tile(e.ir.and_(pixels, e.const(-2 * mr)), mr)
            mr //= 2

    each_vector(e, channels, body)


def _shared_inputs(
    e: Emitter, kernel: Any, acc: list[Any], line: Any, column: Any, weights: Any, taps: Any,
    plane: Any, mask: Any,
) -> None:  # fmt: skip
    """Add one row of taps to all outputs of a tile, every input loaded once."""
    w = [load(e, e.add(weights, e.mul(e.add(taps, q), plane)), mask) for q in range(kernel.taps)]
    for i in range(kernel.stride * (len(acc) - 1) + kernel.taps):
        x = e.load_stored(e.add(line, e.mul(column, i)), mask)
        for m, slot in enumerate(acc):
            q = i - m * kernel.stride
            if 0 <= q < kernel.taps:
                e.set(slot, e.fma(x, w[q], e.get(slot)))

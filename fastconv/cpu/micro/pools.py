"""Pools in one step: vectors run over channels, and their totals stay in registers."""

from functools import reduce
from typing import Any

from fastconv.cpu.micro.channels import each_vector, store
from fastconv.cpu.simd import Emitter

PIXELS = 4  # that are joined before they meet the total: shorter chains, smaller errors


def whole(
    kernel: Any, e: Emitter, x: Any, step: Any, pixels: Any, channels: Any, divisor: Any,
    target: Any,
) -> None:  # fmt: skip
    """``target[c] = join over i of x[i * step + c]`` for `pixels` of them; steps are in bytes.

    "whole_max" takes the largest, NaN if there is one; "whole_mean" the sum over the number at
    `divisor`; "whole_sum" writes the sum in working precision.
    """

    def join(a: Any, b: Any) -> Any:
        return e.maximum(a, b) if kernel.kind == "whole_max" else e.ir.fadd(a, b)

    def tile(start: Any, vectors: int, mask: Any) -> None:
        """`vectors` in a row, from byte `start` of a pixel on."""
        offsets = [e.add(start, v * e.bytes) for v in range(vectors)]

        def read(pixel: Any, offset: Any) -> Any:
            place = e.add(x, e.add(e.mul(pixel, step), e.stored(offset)))
            return e.load_stored(place, mask)

        zero = e.const(0)
        totals = [e.variable(read(zero, offset)) for offset in offsets]
        first = e.add(e.ir.and_(e.add(pixels, -1), e.const(-PIXELS)), 1)
        with e.loop(first, PIXELS, start=1) as i:
            for total, offset in zip(totals, offsets, strict=True):
                a, b, c, d = (read(e.add(i, k), offset) for k in range(PIXELS))
                e.set(total, join(e.get(total), join(join(a, b), join(c, d))))
        with e.loop(pixels, start=first) as i:
            for total, offset in zip(totals, offsets, strict=True):
                e.set(total, join(e.get(total), read(i, offset)))
        for total, offset in zip(totals, offsets, strict=True):
            value = e.get(total)
            if kernel.kind == "whole_sum":
                store(e, value, e.add(target, offset), mask)
                continue
            if kernel.kind == "whole_mean":
                value = e.ir.fdiv(value, e.load_splat(divisor))
            e.store_stored(value, e.add(target, e.stored(offset)), mask)

    done, vectors = e.variable(e.const(0)), kernel.vectors
    while vectors > 1:  # tiles of half the size each for the rest
        numbers = vectors * e.lanes
        with e.loop(e.add(channels, 1 - numbers), numbers, start=e.get(done)) as c:
            tile(e.mul(c, e.itemsize), vectors, None)
            e.set(done, e.add(c, numbers))
        vectors //= 2
    start = e.mul(e.get(done), e.itemsize)
    rest = e.ir.sub(channels, e.get(done))
    each_vector(e, rest, lambda offset, mask: tile(e.add(start, offset), 1, mask))


def window(
    kernel: Any, e: Emitter, x: Any, row: Any, column: Any, step: Any, channels: Any, divisor: Any,
    target: Any, pixel: Any, pixels: Any,
) -> None:  # fmt: skip
    """``target[j] = join over p, q of x[j * step + p * row + q * column]``; steps are in bytes.

    Windows of `kernel.taps` x `kernel.taps`, for `pixels` outputs, `pixel` bytes apart.
    "window_max" takes the largest, "window_mean" the sum over the number at `divisor`. Columns are
    summed first, as in `windows`: the same bits. "stream" kinds write past the caches.
    """
    by = e.load_splat(divisor) if "mean" in kernel.kind else None
    streaming = kernel.kind.endswith("stream")
    taps = range(kernel.taps)
    with e.loop(pixels) as j:
        first, to = e.add(x, e.mul(j, step)), e.add(target, e.mul(j, pixel))

        def body(offset: Any, mask: Any) -> None:
            place = e.add(first, e.stored(offset))
            rows = [e.add(place, e.mul(row, p)) for p in taps]
            columns = [
                [e.load_stored(e.add(at, e.mul(column, q)), mask) for at in rows] for q in taps
            ]
            if by is None:
                value = e.maximum(*(v for values in columns for v in values))
            else:
                value = e.ir.fdiv(reduce(e.ir.fadd, [reduce(e.ir.fadd, v) for v in columns]), by)
            if streaming and mask is None:
                e.store(value, e.add(to, offset), streaming=True)
            else:
                e.store_stored(value, e.add(to, e.stored(offset)), mask)

        each_vector(e, channels, body)

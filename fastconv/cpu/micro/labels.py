"""What the channels of each pixel give: the largest one, or their softmax."""

import math
from collections.abc import Callable
from typing import Any

from fastconv.cpu.micro import functions
from fastconv.cpu.micro.channels import each_vector, each_vector_once
from fastconv.cpu.simd import Emitter


def _reduce(e: Emitter, vector: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """All lanes combined, in every lane."""
    lanes = e.lanes
    while lanes > 1:
        lanes //= 2
        vector = combine(vector, e.swap(vector, lanes))
    return vector


def argmax(
    kernel: Any, e: Emitter, x: Any, pixels: Any, channels: Any, labels: Any, size: Any
) -> None:
    """The channel with the largest number of each pixel, `size` bytes a label (1, 4 or 8).

    The first of equals; the first NaN before all numbers. First the largest number is found, then
    the first place where it is: no index is carried along.
    """
    least = e.splat(-math.inf)
    pixel = e.mul(e.stored(e.const(e.itemsize)), 1)
    nothing = e.const(-1)
    with e.loop(pixels) as p:
        base = e.add(x, e.mul(e.mul(p, channels), pixel))
        best, nan = e.variable(least), e.variable(e.no_lanes())

        def look(
            offset: Any, mask: Any, base: Any = base, best: Any = best, nan: Any = nan
        ) -> None:
            v = e.load_stored(e.add(base, e.stored(offset)), mask)
            v = v if mask is None else e.ir.select(mask, v, least)
            e.set(best, e.at_least(e.get(best), v))
            e.set(nan, e.ir.or_(e.get(nan), e.ir.fcmp_unordered("uno", v, v)))

        each_vector(e, channels, look)
        top = _reduce(e, e.get(best), e.at_least)
        some_nan = e.ir.icmp_signed("!=", e.first_lane(e.get(nan)), nothing)
        found = e.variable(nothing)

        def find(offset: Any, mask: Any, base: Any = base, top: Any = top, found: Any = found,
                 some_nan: Any = some_nan) -> None:  # fmt: skip
            with e.ir.if_then(e.ir.icmp_signed("<", e.get(found), e.const(0))):
                v = e.load_stored(e.add(base, e.stored(offset)), mask)
                is_nan = e.ir.fcmp_unordered("uno", v, v)
                equal = e.ir.fcmp_ordered("==", v, top)
                here = e.ir.select(some_nan, is_nan, equal)
                lane = e.first_lane(here if mask is None else e.ir.and_(here, mask))
                channel = e.add(e.ir.sdiv(offset, e.const(e.itemsize)), lane)
                e.set(found, e.ir.select(e.ir.icmp_signed("<", lane, e.const(0)), nothing, channel))

        each_vector(e, channels, find)
        to = e.add(labels, e.mul(p, size))
        for width in (1, 4, 8):
            with e.ir.if_then(e.ir.icmp_signed("==", size, e.const(width))):
                e.store_int(e.get(found), to, width)


def softmax(
    kernel: Any, e: Emitter, x: Any, pixels: Any, channels: Any, y: Any, scratch: Any
) -> None:
    """``exp(x - max) / sum(exp(x - max))`` over the channels of each pixel.

    `scratch` holds the exponentials of one pixel.
    """
    least, zero = e.splat(-math.inf), e.splat(0.0)
    pixel = e.mul(channels, e.stored(e.const(e.itemsize)))
    with e.loop(pixels) as p:
        of, to = e.add(x, e.mul(p, pixel)), e.add(y, e.mul(p, pixel))
        best, total = e.variable(least), e.variable(zero)

        def look(offset: Any, mask: Any, of: Any = of, best: Any = best) -> None:
            v = e.load_stored(e.add(of, e.stored(offset)), mask)
            v = v if mask is None else e.ir.select(mask, v, least)
            e.set(best, e.at_least(e.get(best), v))

        each_vector(e, channels, look)
        top = _reduce(e, e.get(best), e.at_least)

        def powers(
            offset: Any, mask: Any, of: Any = of, top: Any = top, total: Any = total
        ) -> None:
            v = e.load_stored(e.add(of, e.stored(offset)), mask)
            power = functions.exp(e, e.ir.fsub(v, top))
            power = power if mask is None else e.ir.select(mask, power, zero)
            e.set(total, e.ir.fadd(e.get(total), power))
            e.store(power, e.add(scratch, offset))

        each_vector_once(e, channels, powers)
        whole = _reduce(e, e.get(total), e.ir.fadd)

        def scale(offset: Any, mask: Any, to: Any = to, whole: Any = whole) -> None:
            share = e.ir.fdiv(e.load(e.add(scratch, offset)), whole)
            e.store_stored(share, e.add(to, e.stored(offset)), mask)

        each_vector(e, channels, scale)

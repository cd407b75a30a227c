"""The last step of a layer where it is more than a clamp: residual, activation, rounding to half.

The driver has computed a patch of sums in the working precision; a finishing kernel writes the
result. That costs one pass over numbers that are still in the caches, and keeps every activation a
single row of the table, whatever algorithm the sums come from.
"""

from typing import Any

from fastconv.cpu.micro import functions
from fastconv.cpu.micro.channels import each_vector, load, store
from fastconv.cpu.simd import Emitter


def finish(
    kernel: Any, e: Emitter, source: Any, source_pixel: Any, source_line: Any, target: Any,
    add: Any, pixel: Any, line: Any, columns: Any, lines: Any, channels: Any, clamp: Any,
    slopes: Any,
) -> None:  # fmt: skip
    """``target = act(source + residual)`` for `lines` x `columns` pixels of `channels` channels.

    The residual of a pixel is at the target's address + `add`; there is none where that is 0.
    `clamp` holds two numbers, `slopes` one for each channel: what the activation needs of them.
    """
    low, high = e.load_splat(clamp), e.load_splat(e.add(clamp, e.itemsize))

    def pixels(residual: bool) -> None:
        with e.loop(lines) as i, e.loop(columns) as j:
            of = e.add(source, e.add(e.mul(i, source_line), e.mul(j, source_pixel)))
            to = e.add(target, e.add(e.mul(i, line), e.mul(j, pixel)))

            def body(offset: Any, mask: Any) -> None:
                y = load(e, e.add(of, offset), mask)
                place = e.add(to, e.stored(offset))
                if residual:
                    y = e.ir.fadd(y, e.load_stored(e.add(place, add), mask))
                y = _activation(kernel.kind, e, y, low, high, e.add(slopes, offset), mask)
                e.store_stored(y, place, mask)

            each_vector(e, channels, body)

    with e.ir.if_else(e.ir.icmp_signed("!=", add, e.const(0))) as (some, none):
        with some:
            pixels(residual=True)
        with none:
            pixels(residual=False)


def _activation(kind: str, e: Emitter, y: Any, low: Any, high: Any, slopes: Any, mask: Any) -> Any:
    name = kind.removeprefix("finish_")
    if name == "clamp":
        return e.clamp(y, low, high)
    negative = e.ir.fcmp_ordered("<", y, e.splat(0.0))
    if name == "slope":
        return e.ir.select(negative, e.ir.fmul(y, load(e, slopes, mask)), y)
    if name == "elu":
        below = e.ir.fmul(functions.expm1(e, y), load(e, slopes, mask))
        return e.ir.select(negative, below, y)
    return functions.FUNCTIONS[name](e, y)


def widen(kernel: Any, e: Emitter, target: Any, source: Any, count: Any) -> None:
    """Copy `count` numbers of an image in working precision."""

    def body(offset: Any, mask: Any) -> None:
        value = e.load_stored(e.add(source, e.stored(offset)), mask)
        store(e, value, e.add(target, offset), mask)

    each_vector(e, count, body)

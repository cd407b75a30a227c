"""Loops over the channels of a pixel, for kernels that treat every channel alike."""

from collections.abc import Callable
from typing import Any

from fastconv.cpu.simd import Emitter


def each_vector(e: Emitter, count: Any, body: Callable[[Any, Any], None]) -> None:
    """`body(byte offset, mask or None)` for vectors that cover `count` numbers.

    The last of several vectors ends where the numbers end and so may repeat some of the one before:
    masked stores are slow. Only fewer numbers than a vector holds are masked.
    """
    last = e.add(count, -e.lanes)
    with e.ir.if_else(e.ir.icmp_signed(">=", last, e.const(0))) as (enough, few):
        with enough, e.loop(count, e.lanes) as c:
            start = e.ir.select(e.ir.icmp_signed("<", c, last), c, last)
            body(e.mul(start, e.itemsize), None)
        with few, e.ir.if_then(e.ir.icmp_signed(">", count, e.const(0))):
            body(e.const(0), e.mask(count))


def each_vector_once(e: Emitter, count: Any, body: Callable[[Any, Any], None]) -> None:
    """As `each_vector`, but no number twice: the last vector is masked."""
    whole = e.ir.and_(count, e.const(-e.lanes))
    with e.loop(whole, e.lanes) as c:
        body(e.mul(c, e.itemsize), None)
    rest = e.ir.sub(count, whole)
    with e.ir.if_then(e.ir.icmp_signed(">", rest, e.const(0))):
        body(e.mul(whole, e.itemsize), e.mask(rest))


def load(e: Emitter, address: Any, mask: Any) -> Any:
    """One vector in working precision."""
    return e.load(address) if mask is None else e.load_masked(address, mask)


def store(e: Emitter, value: Any, address: Any, mask: Any) -> None:
    """One vector in working precision."""
    if mask is None:
        e.store(value, address)
    else:
        e.store_masked(value, address, mask)

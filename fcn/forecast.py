"""What a run will take, told before it: time and memory of every step."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fcn import native
from fcn.program import Program
from fcn.session import Session

__all__ = ["describe"]


def describe(session: Session, shape: tuple[int, int, int, int]) -> str:
    """A table of the steps for an input of that shape, and the memory that they need.

    The weights are packed for it, but nothing runs. Times are those of the convolutions, by their
    cost model (`fastconv.Plan.expected_seconds`).

    Parameters
    ----------
    session : Session
    shape : (n, h, w, c)

    Raises
    ------
    ValueError
        If the network cannot take that shape.
    """
    return "\n".join(_lines(session.program(shape), session))


def _lines(program: Program, session: Session) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("step", "computed as", "result", "GFLOP", "expected ms")]
    flops, seconds = 0.0, 0.0
    for step in program.steps:
        cells = [step.node.name, step.way, " x ".join(map(str, step.shape[1:])), "", ""]
        if plan := step.plan:
            expected = plan.expected_seconds
            cells[3] = f"{plan.spec.flops / 1e9:.3f}"
            cells[4] = "" if expected is None else f"{1e3 * expected:.3g}"
            flops += plan.spec.flops
            seconds += expected or 0.0
        rows.append(tuple(cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=False)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        yield "  ".join(left + right).rstrip()
    weights = sum(w.nbytes for w in session.model.weights.values() if not native.mapped(w))
    packed, scratch = program.packed_bytes, program.scratch_bytes
    ends = [step for step in program.steps if step.node.name in program.outputs]
    result = 4 * sum(math.prod(step.shape) for step in ends)
    buffers = 4 * sum(program.sizes)
    total = weights + packed + buffers + scratch + result
    yield ""
    yield f"{flops / 1e9:.1f} GFLOP, {1e3 * seconds:.3g} ms expected of the convolutions"
    yield (
        f"memory {_mb(total)}: weights {_mb(weights)}, packed {_mb(packed)}, tensors between steps "
        f"{_mb(buffers)}, scratch {_mb(scratch)}, result {_mb(result)}"
    )


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"

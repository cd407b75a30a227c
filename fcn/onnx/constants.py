"""What an ONNX model computes from constants and shapes alone, as exporters write sizes.

Where heights and widths are not fixed, arrays hold a `Size` in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fcn.building import Array

MOST = 4096  # numbers that such a computation reads: it is about sizes, not weights


@dataclass(frozen=True)
class Size:
    """Height (axis 0) or width of a node's result, and a number that was added to it."""

    node: str
    axis: int
    more: int = 0

    def __add__(self, other: int) -> Size:
        return replace(self, more=self.more + int(other))

    __radd__ = __add__


def node_of(sizes: Sequence[Any], more: Sequence[int] = (0, 0)) -> str | None:
    """The node whose height and width these two are, when `more` is added to them."""
    node = sizes[0].node if isinstance(sizes[0], Size) else None
    wanted = [Size(node, axis, int(more[axis])) for axis in (0, 1)] if node else None
    return node if list(sizes) == wanted else None


def evaluate(op: str, attrs: dict[str, Any], inputs: list[Array | None]) -> Array | None:
    """The result; None for an operator that is not one of these.

    Raises
    ------
    ValueError
        For more numbers than sizes are.
    TypeError
        For arithmetic with a `Size` beyond adding a number to it.
    """
    if op not in CONSTANT:
        return None
    if op not in ("Constant", "Identity") and any(x is not None and x.size > MOST for x in inputs):
        raise ValueError(f"it computes with more than {MOST} constants; fold them when exporting")
    return np.asarray(CONSTANT[op](attrs, *inputs))


def _slice(_: Any, x: Array, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Array:
    index = [slice(None)] * x.ndim
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[int(axis)] = slice(int(start), int(end), int(step))
    return x[tuple(index)]


def _literal(attrs: dict[str, Any]) -> Any:
    (value,) = attrs.values()
    return value


TYPES: dict[int, Any] = {1: np.float32, 6: np.int32, 7: np.int64, 11: float}
CONSTANT: dict[str, Callable[..., Any]] = {
    "Constant": _literal,
    "Identity": lambda _, x: x,
    "Shape": lambda _, x: np.array(x.shape),
    "Gather": lambda a, x, i: np.take(x, i.astype(int), a.get("axis", 0)),
    "Slice": _slice,
    "Concat": lambda a, *xs: np.concatenate(xs, a["axis"]),
    "Unsqueeze": lambda a, x, axes=None: np.expand_dims(
        x, tuple(a["axes"] if axes is None else axes.tolist())
    ),
    "Squeeze": lambda a, x, axes=None: np.squeeze(
        x, tuple(a["axes"] if axes is None else axes.tolist())
    ),
    "Cast": lambda a, x: x if x.dtype == object else x.astype(TYPES[a["to"]]),
    "Add": lambda _, x, y: x + y,
    "Sub": lambda _, x, y: x - y,
    "Mul": lambda _, x, y: x * y,
    "Div": lambda _, x, y: x // y if x.dtype.kind == "i" else x / y,
    "Floor": lambda _, x: np.floor(x),
    "Ceil": lambda _, x: np.ceil(x),
}

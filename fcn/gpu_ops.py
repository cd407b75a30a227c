"""Operations of a graph on a GPU that are no plan, pool or resize; compare `fcn.steps`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import fastconv
from fastconv import resident
from fcn.graph import Node
from fcn.ops import CLAMPS, ELEMENTWISE

__all__ = ["OPS", "place"]

Array = npt.NDArray[np.float32]


def _together(node: Node, device: str, *inputs: Array, out: Array) -> None:
    clamp = CLAMPS[node.attrs.get("activation")]
    resident.together(node.op, inputs, device=device, out=out, clamp=clamp)


def _concat(_: Node, device: str, *inputs: Array, out: Array) -> None:
    resident.concat(inputs, device=device, out=out)


def _global(node: Node, device: str, x: Array, *, out: Array) -> None:
    pool = fastconv.max_pool2d if node.op == "global_max_pool2d" else fastconv.avg_pool2d
    pool(x, x.shape[1:3], device=device, out=out)


def place(x: Array, *, top: int, left: int, device: str, out: Array) -> None:
    """Pixels of `x` in `out`, further down and right, and zeros around them."""
    height, width = out.shape[1:3]
    resident.place(x, (height, width), top=top, left=left, device=device, out=out)


OPS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(ELEMENTWISE, _together),
    "concat": _concat,
    "global_max_pool2d": _global,
    "global_avg_pool2d": _global,
}

"""Convolution and transposed convolution: which kernel serves a spec, with which tables."""

import math
from typing import Any

import numpy as np

from fastconv.activations import ACTIVATIONS
from fastconv.cuda import kernels, pixels, pointwise, product, winograd
from fastconv.cuda.kernels import Kernel
from fastconv.cuda.program import (
    Program,
    Stage,
    Step,
    blocks,
    chain,
    check_dtype,
    check_sizes,
    tasks,
)
from fastconv.cuda.simt import ROWS
from fastconv.spec import Conv2d, ConvTranspose2d, Pool2d
from fastconv.weights import Weights

FUSED = {name for name, row in ACTIVATIONS.items() if row.clamp} | {"leaky_relu", "prelu"}
Filter = Conv2d | ConvTranspose2d


def able(spec: Filter, algorithm: str) -> list[Kernel]:
    """Kernels of the table that can serve a spec by an algorithm."""
    check_dtype(_op(spec), spec.dtype)
    inputs = spec.x[3] // spec.groups
    result = spec.dtype if spec.activation in FUSED else "float32"
    rows = kernels.find(algorithm, spec.dtype, result=result)
    if algorithm in MAKERS and not isinstance(spec, Conv2d):
        return []
    if algorithm == "depthwise":
        if not inputs == 1 < spec.groups:
            return []
        inputs = 4 if spec.w[3] == spec.x[3] and spec.x[3] % 4 == 0 else 1
    if algorithm == "winograd_f2":
        plain = (3, 3), (1, 1), (1, 1), 1
        if (spec.w[:2], spec.stride, spec.dilation, spec.groups) != plain:
            return []
    return [k for k in rows if inputs % k.unit == 0]


def choose(spec: Filter, algorithm: str) -> Kernel:
    """The kernel whose blocks the channels fill best, then the one with the widest accesses."""
    outputs = spec.out[3] // spec.groups
    wasted = {k: -(-outputs // k.columns) * k.columns for k in able(spec, algorithm)}
    return min(wasted, key=lambda k: (wasted[k], -k.unit, -k.columns))


def plan(
    spec: Filter, w: Weights, bias: Any, slopes: Any, kernel: Kernel, labels: bool = False
) -> Program:
    """The program of a convolution with all that follows it.

    Parameters
    ----------
    w : Weights, shape ``spec.w``
    bias, slopes : (k,) ndarray or None
    kernel : Kernel
        One that `able` gives.
    labels : bool
        The largest channel of each pixel is all that is wanted.
    """
    op = _op(spec)
    shape = spec.conv_out if isinstance(spec, Conv2d) else spec.out
    check_sizes(op, spec.x, shape)
    make = MAKERS.get(kernel.algorithm, _product)
    grid, constants = make(op, spec, w, bias, slopes, kernel, shape)
    low, high = ACTIVATIONS[spec.activation].clamp or (-math.inf, math.inf)
    constants |= {"residual": int(spec.add), "low": low, "high": high}

    def first(x: str, y: str) -> Step:
        return Step(kernel, grid, constants, {"x": x, "add": "add" if spec.add else x, "y": y})

    stages = [Stage(first, shape, kernel.result)]
    if spec.activation not in FUSED:
        stages.append(_activation(op, spec, shape))
    if isinstance(spec, Conv2d) and spec.pool:
        stages.append(pixels.pool(Pool2d(shape, "max", (2, 2), (2, 2), dtype=spec.dtype)))
    if labels:
        stages.append(pixels.labels(spec.out, spec.dtype))
    name = "direct" if kernel.algorithm == "depthwise" else kernel.algorithm
    return chain(name, stages, constants["w"])


def _op(spec: Filter) -> str:
    return "conv2d" if isinstance(spec, Conv2d) else "conv2d_transpose"


def _slope(spec: Filter) -> float:
    """What numbers below zero are multiplied by, the same for all channels."""
    alpha = spec.alpha if spec.activation == "leaky_relu" else None
    return 1.0 if alpha is None else alpha


def _product(
    op: str, spec: Filter, w: Weights, bias: Any, slopes: Any, kernel: Kernel,
    shape: tuple[int, ...],
) -> tuple[tuple[int, int, int], dict[str, Any]]:  # fmt: skip
    """Grid and constants of a matrix product."""
    made = product.product(spec, w, kernel.unit, kernel.part)
    check_sizes(op, made.weights.shape)
    groups, (_, oh, ow, k) = spec.groups, shape
    positions = spec.x[0] * math.prod(made.positions)
    columns = made.weights.shape[3]
    constants = {
        "w": made.weights, "bias": product.columns(bias, 0.0, groups, k, columns),
        "slopes": product.columns(slopes, _slope(spec), groups, k, columns),
        "table": made.table, "steps": made.steps, "height": spec.x[1], "width": spec.x[2],
        "c": spec.x[3], "inputs": spec.x[3] // groups, "k": k, "outputs": k // groups,
        "packed": columns, "depth": made.weights.shape[2], "positions": positions,
        "rows": made.positions[0], "cols": made.positions[1], "down": made.step[0],
        "right": made.step[1], "oh": oh, "ow": ow, "out_down": made.out_step[0],
        "out_right": made.out_step[1], "groups": groups,
    }  # fmt: skip
    across = -(-(k // groups) // kernel.columns)
    return blocks(op, -(-positions // ROWS), across, len(made.steps) * groups), constants


def _depthwise(
    op: str, spec: Conv2d, w: Weights, bias: Any, slopes: Any, kernel: Kernel,
    shape: tuple[int, ...],
) -> tuple[tuple[int, int, int], dict[str, Any]]:  # fmt: skip
    """Grid and constants of a depthwise convolution."""
    (_, height, width, c), (_, oh, ow, k) = spec.x, shape
    (kh, kw), (down, right), (dh, dw) = spec.w[:2], spec.stride, spec.dilation
    count = math.prod(shape) // kernel.unit
    constants = {
        "w": w.array, "bias": product.columns(bias, 0.0, 1, k, k),
        "slopes": product.columns(slopes, _slope(spec), 1, k, k), "height": height,
        "width": width, "c": c, "k": k, "multiplier": k // c, "oh": oh, "ow": ow, "kh": kh,
        "kw": kw, "down": down, "right": right, "dh": dh, "dw": dw, "top": spec.pad[0][0],
        "left": spec.pad[1][0], "count": count,
    }  # fmt: skip
    return tasks(op, count, kernel), constants


def _winograd(
    op: str, spec: Conv2d, w: Weights, bias: Any, slopes: Any, kernel: Kernel,
    shape: tuple[int, ...],
) -> tuple[tuple[int, int, int], dict[str, Any]]:  # fmt: skip
    """Grid and constants of Winograd's algorithm."""
    layout = "cuda winograd", kernel.part, kernel.columns
    weights = w.packed(layout, lambda array: transformed(array, *layout[1:]))
    check_sizes(op, weights.shape)
    (n, height, width, c), (_, oh, ow, k) = spec.x, shape
    depth, packed = weights.shape[1:]
    rows, cols = -(-oh // 2), -(-ow // 2)
    constants = {
        "w": weights, "bias": product.columns(bias, 0.0, 1, k, packed),
        "slopes": product.columns(slopes, _slope(spec), 1, k, packed), "height": height,
        "width": width, "c": c, "k": k, "packed": packed, "depth": depth, "tiles": n * rows * cols,
        "tile_rows": rows, "tile_cols": cols, "oh": oh, "ow": ow, "top": spec.pad[0][0],
        "left": spec.pad[1][0],
    }  # fmt: skip
    return blocks(op, -(-n * rows * cols // winograd.TILES), packed // kernel.columns), constants


def transformed(w: np.ndarray, part: int, columns: int) -> np.ndarray:
    """``G @ w @ G.T`` of each pair of channels, rounded once: (16, c, k), filled up with zeros."""
    g = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    made = np.einsum("ip,pqck,jq->ijck", g, w.astype(np.float64), g)
    c, k = w.shape[2:]
    filled = np.zeros((16, -(-c // part) * part, -(-k // columns) * columns), w.dtype)
    filled[:, :c, :k] = made.reshape(16, c, k)
    return filled


# Of convolutions alone; the others make all products.
MAKERS: dict[str, Any] = {"depthwise": _depthwise, "winograd_f2": _winograd}


def _activation(op: str, spec: Filter, shape: tuple[int, ...]) -> Stage:
    """An activation that the kernels do not fuse, of float32 numbers."""
    (kernel,) = kernels.find("activate", "float32", result=spec.dtype)
    count = math.prod(shape)
    constants = {
        "kind": pointwise.NAMES.index(spec.activation or ""), "alpha": float(spec.alpha or 0.0),
        "count": count,
    }  # fmt: skip
    grid = tasks(op, count, kernel)
    return Stage(lambda x, y: Step(kernel, grid, constants, {"x": x, "y": y}), shape, spec.dtype)

"""Convolution and transposed convolution: which kernel serves a spec, with which tables."""

import math
from typing import Any

import numpy as np

from fastconv.activations import ACTIVATIONS
from fastconv.cook_toom import transform_weights
from fastconv.cuda import im2col, kernels, pixels, product, winograd, winograd_f4
from fastconv.cuda.activations import CURVES
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

SLICE = 1 << 24  # numbers of transformed tiles at a time: 64 MiB, about as much as an L2 cache
Filter = Conv2d | ConvTranspose2d


def able(spec: Filter, algorithm: str) -> list[Kernel]:
    """Kernels of the table that can serve a spec by an algorithm."""
    check_dtype(_op(spec), spec.dtype)
    inputs = spec.x[3] // spec.groups
    rows = kernels.find(algorithm, spec.dtype)
    if algorithm in {*MAKERS, *winograd_f4.PRODUCTS} and not isinstance(spec, Conv2d):
        return []
    if algorithm == "depthwise":
        if not inputs == 1 < spec.groups:
            return []
        inputs = 4 if spec.w[3] == spec.x[3] and spec.x[3] % 4 == 0 else 1
    if algorithm.startswith("winograd"):
        plain = (3, 3), (1, 1), (1, 1), 1
        if (spec.w[:2], spec.stride, spec.dilation, spec.groups) != plain:
            return []
    if algorithm == "wgmma_tma" and not im2col.of(spec).possible:
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
    end = {"residual": int(spec.add), **_activation(spec.activation, spec.alpha)}
    main = 0
    if isinstance(spec, Conv2d) and kernel.algorithm in winograd_f4.PRODUCTS:
        stage, packed = _phases(op, spec, w, bias, slopes, kernel, end)
        main = 1
    else:
        make = MAKERS.get(kernel.algorithm, _product)
        grid, constants = make(op, spec, w, bias, slopes, kernel, shape)
        constants, packed = constants | end, constants["w"]

        def first(x: str, y: str) -> Step:
            buffers = {"x": x, "add": "add" if spec.add else x, "y": y}
            if "tensor_map" in constants:  # which has the address of the image
                del buffers["x"]
            return Step(kernel, grid, constants, buffers)

        stage = Stage(first, spec.out if constants.get("pool") else shape, kernel.result)

    stages = [stage]
    if isinstance(spec, Conv2d) and spec.pool and stage.shape == shape:
        stages.append(pixels.pool(Pool2d(shape, "max", (2, 2), (2, 2), dtype=spec.dtype)))
    if labels:
        stages.append(pixels.labels(spec.out, spec.dtype))
    name = "direct" if kernel.algorithm == "depthwise" else kernel.algorithm
    return chain(name, stages, packed, main)


def _op(spec: Filter) -> str:
    return "conv2d" if isinstance(spec, Conv2d) else "conv2d_transpose"


def _pool(spec: Filter) -> int:
    """1 where a 2x2 max-pool comes last."""
    return int(isinstance(spec, Conv2d) and spec.pool)


def _slope(spec: Filter) -> float:
    """What numbers below zero are multiplied by, the same for all channels."""
    alpha = spec.alpha if spec.activation == "leaky_relu" else None
    return 1.0 if alpha is None else alpha


def _activation(name: str | None, alpha: float | None = None) -> dict[str, Any]:
    """Parameters of an activation, but for the slopes."""
    low, high = ACTIVATIONS[name].clamp or (-math.inf, math.inf)
    kind = CURVES.index(name) if name in CURVES else -1
    return {"low": low, "high": high, "kind": kind, "alpha": float(alpha or 0.0)}


def _product(
    op: str, spec: Filter, w: Weights | np.ndarray, bias: Any, slopes: Any, kernel: Kernel,
    shape: tuple[int, ...],
) -> tuple[tuple[int, int, int], dict[str, Any]]:  # fmt: skip
    """Grid and constants of a matrix product; `w` is as `product.product` wants it."""
    by_parts = kernel.algorithm in ("wgmma", "wgmma_tma")
    made = product.product(spec, w, kernel.unit, kernel.part, by_parts)
    check_sizes(op, made.weights.shape)
    groups, (_, oh, ow, k) = spec.groups, shape
    by_tiles = kernel.algorithm == "wgmma_tma"
    pool = 0 if by_tiles else _pool(spec)
    rows, cols = (size >> pool for size in made.positions)
    positions = spec.x[0] * rows * cols << 2 * pool
    columns = made.weights.shape[3]
    constants = {
        "w": made.weights, "bias": product.columns(bias, 0.0, groups, k, columns),
        "slopes": product.columns(slopes, _slope(spec), groups, k, columns),
        "table": made.table, "steps": made.steps, "height": spec.x[1], "width": spec.x[2],
        "c": spec.x[3], "inputs": spec.x[3] // groups, "k": k, "outputs": k // groups,
        "packed": columns, "depth": made.depth, "positions": positions,
        "rows": rows, "cols": cols, "down": made.step[0], "right": made.step[1], "oh": oh,
        "ow": ow, "out_down": made.out_step[0], "out_right": made.out_step[1], "pool": pool,
        "groups": groups,
    }  # fmt: skip
    if by_tiles:
        seen = im2col.of(spec)
        constants |= {"tensor_map": seen, "top": seen.first[0], "left": seen.first[1]}
        for name in ("height", "width", "c", "pool"):
            del constants[name]
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
    """Grid and constants of Winograd's F(2x2, 3x3)."""
    weights = _transformed(w, 2, kernel.part, kernel.columns)
    check_sizes(op, weights.shape)
    (n, height, width, c), (_, oh, ow, k) = spec.x, shape
    depth, packed = weights.shape[2:]
    pool = _pool(spec)
    rows, cols = spec.out[1:3] if pool else (-(-oh // 2), -(-ow // 2))  # tiles
    constants = {
        "w": weights, "bias": product.columns(bias, 0.0, 1, k, packed),
        "slopes": product.columns(slopes, _slope(spec), 1, k, packed), "height": height,
        "width": width, "c": c, "k": k, "packed": packed, "depth": depth, "tiles": n * rows * cols,
        "tile_rows": rows, "tile_cols": cols, "oh": oh, "ow": ow, "top": spec.pad[0][0],
        "left": spec.pad[1][0], "pool": pool,
    }  # fmt: skip
    return blocks(op, -(-n * rows * cols // winograd.TILES), packed // kernel.columns), constants


def _phases(
    op: str, spec: Conv2d, w: Weights, bias: Any, slopes: Any, kernel: Kernel, end: dict[str, Any]
) -> tuple[Stage, np.ndarray]:
    """Winograd's F(4x4, 3x3), slice by slice of the tiles, with the weights of its products."""
    (n, height, width, c), (_, oh, ow, k), parts = spec.x, spec.conv_out, winograd_f4.PARTS
    shape, pool = spec.out, spec.pool
    inputs, outputs = (max(-(-channels // 4), 1) * 4 for channels in (c, k))
    rows, cols = (-(-size // (2 if pool else 4)) for size in shape[1:3])
    tiles = n * rows * cols
    most = max(SLICE // (parts * (inputs + outputs)) // ROWS, 1) * ROWS
    counts = [most] * (tiles // most) + [tiles % most] * (tiles % most > 0) or [0]
    (last,) = kernels.find("winograd_f4_output", "float32", part=2 if pool else 1)

    def products(count: int) -> Conv2d:
        """Of so many tiles."""
        return Conv2d((1, 1, count, parts * inputs), (1, 1, inputs, parts * outputs), groups=parts)

    largest = products(counts[0])
    check_sizes(op, largest.x, largest.out)
    multiply = choose(largest, winograd_f4.PRODUCTS[kernel.algorithm])
    weights = _transformed(w, 4, multiply.part, product.COLUMNS)
    columns = weights.shape[3]
    made = {}
    for count in set(counts):
        of = products(count)
        grid, constants = _product(op, of, weights, None, None, multiply, of.out)
        constants |= {"residual": 0, **_activation(None)}
        made[count] = grid, constants
    both = {"tile_rows": rows, "tile_cols": cols}
    to_v = both | {
        "height": height, "width": width, "c": c, "channels": inputs, "top": spec.pad[0][0],
        "left": spec.pad[1][0],
    }  # fmt: skip
    from_m = both | end | {
        "bias": product.columns(bias, 0.0, 1, k, columns), "oh": oh, "ow": ow, "k": k,
        "slopes": product.columns(slopes, _slope(spec), 1, k, columns), "channels": outputs,
    }  # fmt: skip

    def steps(x: str, y: str) -> list[Step]:
        found: list[Step] = []
        add = "add" if spec.add else x
        for i, count in enumerate(counts):
            these = {"first": i * most, "tiles": count}
            found += [
                Step(kernel, tasks(op, count * inputs // 4, kernel), to_v | these,
                     {"x": x, "y": "transformed"}),
                Step(multiply, *made[count],
                     {"x": "transformed", "add": "transformed", "y": "products"}),
                Step(last, tasks(op, count * outputs // 4, last), from_m | these,
                     {"x": "products", "add": add, "y": y}),
            ]  # fmt: skip
        return found

    inside: dict[str, tuple[tuple[int, ...], str]] = {
        "transformed": (largest.x, "float32"), "products": (largest.out, "float32")
    }  # fmt: skip
    return Stage(steps, shape, kernel.result, inside), weights


def _transformed(w: Weights, m: int, part: int, columns: int) -> np.ndarray:
    """Weights of F(m x m, 3x3), rounded once: (1, products, c, k), filled up with zeros."""
    c, k = w.shape[2:]
    depth, across = max(-(-c // part), 1) * part, -(-k // columns) * columns

    def transform(array: np.ndarray) -> np.ndarray:
        filled = np.zeros((1, (m + 2) ** 2, depth, across), array.dtype)
        filled[0, :, :c, :k] = transform_weights(array, m)
        return filled

    return w.packed(("cuda winograd", m, part, columns), transform)


# Of convolutions alone; the others make all products.
MAKERS: dict[str, Any] = {"depthwise": _depthwise, "winograd_f2": _winograd}

"""Convolution and transposed convolution: which kernel serves a spec, with which tables."""

import math
from typing import Any

import numpy as np

from fastconv.activations import ACTIVATIONS
from fastconv.cuda import product
from fastconv.cuda.kernels import KERNELS, Kernel
from fastconv.cuda.program import Program, Step, check_sizes, grid
from fastconv.cuda.simt import ROWS
from fastconv.spec import Conv2d, ConvTranspose2d

FUSED = {name for name, row in ACTIVATIONS.items() if row.clamp} | {"leaky_relu", "prelu"}


def choose(spec: Conv2d | ConvTranspose2d, algorithm: str) -> Kernel:
    """The widest kernel of an algorithm whose blocks the channels fill."""
    inputs, outputs = spec.x[3] // spec.groups, spec.out[3] // spec.groups
    able = [
        k for k in KERNELS
        if k.algorithm == algorithm and k.dtype == spec.dtype and inputs % k.unit == 0
    ]  # fmt: skip
    return min(able, key=lambda k: (-(-outputs // k.columns) * k.columns, -k.unit, -k.columns))


def plan(
    spec: Conv2d | ConvTranspose2d, w: np.ndarray, bias: Any, slopes: Any, kernel: Kernel
) -> Program:
    """A convolution as a program of one or more steps, without a fused pool."""
    op = "conv2d" if isinstance(spec, Conv2d) else "conv2d_transpose"
    out = spec.conv_out if isinstance(spec, Conv2d) else spec.out
    check_sizes(op, spec.x, out)
    made = product.product(spec, w, bias, slopes, kernel.unit, kernel.part)
    check_sizes(op, made.weights.shape)
    inputs, outputs = spec.x[3] // spec.groups, out[3] // spec.groups
    positions = product.positions(spec, made)
    low, high = ACTIVATIONS[spec.activation].clamp or (-math.inf, math.inf)
    blocks = grid(
        op, -(-positions // ROWS), -(-outputs // kernel.columns), made.phases * spec.groups
    )
    constants = {
        "w": made.weights, "bias": made.bias, "slopes": made.slopes, "table": made.table,
        "steps": made.steps, "height": spec.x[1], "width": spec.x[2], "c": spec.x[3],
        "inputs": inputs, "k": out[3], "outputs": outputs, "packed": made.weights.shape[3],
        "depth": made.weights.shape[2], "positions": positions, "rows": made.positions[0],
        "cols": made.positions[1], "down": made.step[0], "right": made.step[1], "oh": out[1],
        "ow": out[2], "out_down": made.out_step[0], "out_right": made.out_step[1],
        "groups": spec.groups, "residual": int(spec.add), "low": low, "high": high,
    }  # fmt: skip
    buffers = {"x": "x", "add": "add" if spec.add else "x", "y": "out"}
    return Program(
        op, kernel.algorithm, (Step(kernel, blocks, constants, buffers),), {}, (made.weights,)
    )

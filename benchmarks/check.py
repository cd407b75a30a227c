"""What the right answer is: float64 sums of matrix products, one per tap.

`fastconv.reference` defines the operations but loops in Python; this says the same fast enough for
layers of real size. Neither imports the other, and a test compares them.
"""

from typing import Any

import numpy as np

from benchmarks.layers import Array, Layer
from fastconv.spec import Conv2d, ConvTranspose2d

# Relative L2 errors. Sums in float32 give 1e-7 to 1e-6, Winograd F(4x4) 2e-6, and MNN's own
# choice of larger tiles 3e-4: that is coarse but no wrong answer, so its speed counts.
COARSE = 1e-4  # from here on ours is wrong, and others are timed with a remark
WRONG = 1e-3  # from here on nobody is timed


def answer(layer: Layer) -> Array:
    """The layer's result in float64, (n, h, w, k)."""
    x: Array = layer.input().astype(np.float64)
    for step, (w, bias) in zip(layer.steps, layer.weights(), strict=True):
        x = _conv(x, w, step) if isinstance(step, Conv2d) else _transpose(x, w, step)
        x += bias
        if step.activation == "relu":
            x = np.maximum(x, 0)
        if getattr(step, "pool", False):
            n, h, v, k = step.out
            x = x[:, : 2 * h, : 2 * v].reshape(n, h, 2, v, 2, k).max((2, 4))
    return x


def relative_error(y: Array, expected: Array) -> float:
    """Give ``norm(y - expected) / norm(expected)``; NaN where `y` has one."""
    if y.shape != expected.shape:
        raise ValueError(f"the answer has shape {y.shape} instead of {expected.shape}")
    return float(np.linalg.norm((y - expected).ravel()) / np.linalg.norm(expected.ravel()))


def _conv(x: Array, w: Array, spec: Conv2d) -> Array:
    n, rows, cols, k = spec.conv_out
    (sh, sw), (dh, dw), g = spec.stride, spec.dilation, spec.groups
    x = np.pad(x, ((0, 0), *spec.pad, (0, 0)))
    w = w.astype(np.float64).reshape(*w.shape[:3], g, k // g)
    y: Any = 0.0
    for p, q in np.ndindex(*w.shape[:2]):
        window = x[:, p * dh :: sh, q * dw :: sw][:, :rows, :cols]
        window = window.reshape(n * rows * cols, g, -1).swapaxes(0, 1)  # (g, pixels, c)
        y += window @ w[p, q].swapaxes(0, 1)
    return np.asarray(y.swapaxes(0, 1).reshape(spec.conv_out))


def _transpose(x: Array, w: Array, spec: ConvTranspose2d) -> Array:
    n, h, v, _ = spec.x
    (sh, sw), (dh, dw), (kh, kw) = spec.stride, spec.dilation, spec.w[:2]
    (top, _), (left, _), (rows, cols) = *spec.pad, spec.out[1:3]
    full = (max((h - 1) * sh + (kh - 1) * dh + 1, top + rows),
            max((v - 1) * sw + (kw - 1) * dw + 1, left + cols))  # fmt: skip
    y = np.zeros((n, *full, spec.w[2]))
    for p, q in np.ndindex(kh, kw):
        y[:, p * dh :: sh, q * dw :: sw][:, :h, :v] += x @ w[p, q].astype(np.float64).T
    return y[:, top : top + rows, left : left + cols].copy()

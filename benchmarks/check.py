"""What the right answer is: float64 sums of matrix products, one per tap.

`fastconv.reference` defines the operations but loops in Python; this says the same fast enough for
layers of real size. Neither imports the other, and a test compares them.
"""

from functools import reduce
from typing import Any

import numpy as np

from benchmarks.graphs import Network, Operations, crop
from benchmarks.layers import Array, Layer, Step, is_argmax
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d

# Relative errors. Sums in float32 give 1e-7 to 1e-6, Winograd F(4x4) 2e-6, and MNN's own choice of
# larger tiles 3e-4: that is coarse but no wrong answer, so its speed counts.
COARSE = 1e-4  # from here on ours is wrong, and others are timed with a remark
WRONG = 1e-3  # from here on nobody is timed

CLAMPS: dict[str | None, tuple[float | None, float | None]] = {
    None: (None, None),
    "relu": (0, None),
    "relu6": (0, 6),
}


def answer(layer: Layer) -> Array:
    """The layer's result in float64; of labels, the scores (n, h, w, c) that they are taken from.

    Raises
    ------
    ValueError
        For a resize other than bilinear at half-pixel coordinates.
    """
    x: Array = layer.input().astype(np.float64)
    for step, arrays in zip(layer.steps, layer.weights(), strict=True):
        x = _network(step, x) if isinstance(step, Network) else _step(step, x, *arrays)
    return x


def _network(network: Network, x: Array) -> Array:
    operations = Operations(
        window=lambda spec, *arrays: lambda x: _step(spec, x, *arrays),
        concat=lambda *xs: np.concatenate(xs, axis=3),
        add=np.add,
        relu=lambda x: np.maximum(x, 0),
        crop=crop,
    )
    return np.asarray(network.function(operations)(x))


def error(layer: Layer, y: Array, expected: Array) -> float:
    """How wrong an engine's result `y` is, beside the `answer`; NaN where `y` has one.

    ``norm(y - expected) / norm(expected)``. Of labels: how far the score of a chosen channel lies
    below the best one, at most, over the root mean square of all scores; so a label is wrong
    unless its score is as good as equal to the best.

    Raises
    ------
    ValueError
        Another shape, or labels that are not the numbers of channels.
    """
    shape = expected.shape[:3] if layer.labels else expected.shape
    if y.shape != shape:
        raise ValueError(f"the answer has shape {y.shape} instead of {shape}")
    if not layer.labels:
        return float(np.linalg.norm((y - expected).ravel()) / np.linalg.norm(expected.ravel()))
    channels = expected.shape[3]
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= channels:
        raise ValueError(
            f"labels must be integers from 0 to {channels - 1}, "
            f"got {y.dtype.name} from {y.min()} to {y.max()}"
        )
    chosen = np.take_along_axis(expected, y[..., None].astype(np.int64), axis=3)
    scale = np.sqrt(np.mean(np.square(expected)))
    return float(np.max(expected.max(axis=3, keepdims=True) - chosen) / scale)


def _step(step: Step, x: Array, *arrays: Array) -> Array:
    match step:
        case Conv2d() | ConvTranspose2d():
            w, bias = arrays
            y = _conv(x, w, step) if isinstance(step, Conv2d) else _transpose(x, w, step)
            low, high = CLAMPS[step.activation]
            y = np.clip(y + bias, low, high)
            if getattr(step, "pool", False):
                n, h, v, k = step.out
                y = y[:, : 2 * h, : 2 * v].reshape(n, h, 2, v, 2, k).max((2, 4))
            return np.asarray(y)
        case Pool2d():
            return _pool(x, step)
        case Resize2d():
            return _resize(x, step)
        case ChannelOp() if is_argmax(step):
            return x
        case ChannelOp():
            powers = np.exp(x - x.max(axis=3, keepdims=True))
            return np.asarray(powers / powers.sum(axis=3, keepdims=True))
    raise TypeError(f"no answer is known for {step}")


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
    return y[:, top : top + rows, left : left + cols]


def _pool(x: Array, spec: Pool2d) -> Array:
    (_, rows, cols, _), (sh, sw), (dh, dw) = spec.out, spec.stride, spec.dilation
    sides = ((0, 0), *spec.pad, (0, 0))
    padded = np.pad(x, sides, constant_values=-np.inf if spec.kind == "max" else 0)
    inside = np.pad(np.ones_like(x), sides, constant_values=float(spec.count_include_pad))
    windows = [
        (slice(None), slice(p * dh, p * dh + (rows - 1) * sh + 1, sh),
         slice(q * dw, q * dw + (cols - 1) * sw + 1, sw))
        for p, q in np.ndindex(*spec.size)
    ]  # fmt: skip
    if spec.kind == "max":
        return np.asarray(reduce(np.maximum, (padded[w] for w in windows)))
    return np.asarray(sum(padded[w] for w in windows) / sum(inside[w] for w in windows))


def _resize(x: Array, spec: Resize2d) -> Array:
    if (spec.method, spec.coordinates) != ("bilinear", "half_pixel"):
        raise ValueError(f"no answer is known for {spec.method}, {spec.coordinates}")
    for axis, out in enumerate(spec.size, 1):
        last = x.shape[axis] - 1
        at = np.clip((np.arange(out) + 0.5) * (last + 1) / out - 0.5, 0, last)
        low = np.floor(at).astype(int)
        share = np.expand_dims(at - low, tuple(i for i in range(4) if i != axis))
        after = np.take(x, np.minimum(low + 1, last), axis)
        x = np.take(x, low, axis) * (1 - share) + after * share
    return x

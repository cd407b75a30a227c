"""The specification: every operation as naive float64 loops over its formula.

Nothing here is fast, and nothing is shared with the kernels but `fastconv.shapes`. Arrays are
NHWC, whatever their dtype they are read as float64, and the result is float64. Loops run over
pixels and taps; only the sum over channels is written as a product of a vector and a matrix.

Indices: ``n`` image, ``i j`` output pixel, ``p q`` tap, ``row col`` input pixel, ``c`` input
channel, ``k`` output channel. ``sh sw`` is the stride and ``dh dw`` the dilation.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastconv import shapes
from fastconv.activations import ACTIVATIONS
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d

__all__ = ["channel_op", "conv2d", "conv2d_transpose", "max_pool2d_indices", "pool2d", "resize2d"]

Array = NDArray[np.float64]


def conv2d(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None,
    spec: Conv2d,
    add: ArrayLike | None = None,
    slopes: ArrayLike | None = None,
) -> Array:
    """Cross-correlation, bias, residual, activation and, if the spec says so, a 2x2 max-pool.

    ::

        y[n,i,j,k] = bias[k] + sum_{p,q,c} x[n, i*sh + p*dh - top, j*sw + q*dw - left, g*C + c]
                                           * w[p,q,c,k]

    where ``C = w.shape[2]`` channels belong to the group ``g`` of ``k``, and ``x`` is 0 outside.
    `add` has the shape ``spec.conv_out``; `slopes` are those of "prelu", one for each ``k``.
    """
    x, w = _read(x, spec.x), _read(w, spec.w)
    (top, _), (left, _) = spec.pad
    y = np.zeros(spec.conv_out)
    y += _bias(bias, spec.w[3])
    for n, i, j in np.ndindex(*spec.conv_out[:3]):
        for p, q in np.ndindex(*spec.w[:2]):
            row = i * spec.stride[0] + p * spec.dilation[0] - top
            col = j * spec.stride[1] + q * spec.dilation[1] - left
            if 0 <= row < spec.x[1] and 0 <= col < spec.x[2]:
                for cs, ks in _groups(spec.groups, spec.x[3], spec.w[3]):
                    y[n, i, j, ks] += x[n, row, col, cs] @ w[p, q, :, ks]
    y = _activate(y, spec, add, slopes)
    if spec.pool:
        y = pool2d(y, Pool2d(spec.conv_out, "max", (2, 2), (2, 2)))
    return y


def conv2d_transpose(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None,
    spec: ConvTranspose2d,
    add: ArrayLike | None = None,
    slopes: ArrayLike | None = None,
) -> Array:
    """Adjoint of the convolution with the same weights, then bias, residual and activation.

    ::

        y[n, row*sh + p*dh - top, col*sw + q*dw - left, g*K + k] += x[n,row,col,c] * w[p,q,k,c]

    for every pixel and tap that lands inside ``y``, where ``K = w.shape[2]`` channels belong to
    the group ``g`` of ``c``.
    """
    x, w = _read(x, spec.x), _read(w, spec.w)
    (top, _), (left, _) = spec.pad
    y = np.zeros(spec.out)
    y += _bias(bias, spec.out[3])
    for n, row, col in np.ndindex(*spec.x[:3]):
        for p, q in np.ndindex(*spec.w[:2]):
            i = row * spec.stride[0] + p * spec.dilation[0] - top
            j = col * spec.stride[1] + q * spec.dilation[1] - left
            if 0 <= i < spec.out[1] and 0 <= j < spec.out[2]:
                for cs, ks in _groups(spec.groups, spec.x[3], spec.out[3]):
                    y[n, i, j, ks] += w[p, q, :, cs] @ x[n, row, col, cs]
    return _activate(y, spec, add, slopes)


def pool2d(x: ArrayLike, spec: Pool2d) -> Array:
    """Maximum or mean over the pixels of ``x`` that the window's taps meet.

    ::

        max  y[n,i,j,c] = max_{p,q} x[n, i*sh + p*dh - top, j*sw + q*dw - left, c]
        avg  y[n,i,j,c] = sum_{p,q} of the same / number of taps that count

    Padding never wins a maximum; a NaN always does. The taps that count are those inside ``x``,
    or with ``count_include_pad`` those inside the padded ``x``.
    """
    x = _read(x, spec.x)
    y = np.zeros(spec.out)
    (top, bottom), (left, right) = spec.pad
    for n, i, j in np.ndindex(*spec.out[:3]):
        pixels = [x[n, row, col] for row, col in _window(spec, i, j)]
        if spec.kind == "max":
            y[n, i, j] = np.max(pixels, axis=0)
            continue
        count = len(pixels)
        if spec.count_include_pad:
            count = sum(
                -top <= row < spec.x[1] + bottom and -left <= col < spec.x[2] + right
                for row, col in _taps(spec, i, j)
            )
        y[n, i, j] = np.sum(pixels, axis=0) / count
    return y


def max_pool2d_indices(x: ArrayLike, spec: Pool2d) -> NDArray[np.int64]:
    """Position ``(row * w + col) * channels + c`` inside its image of each window's maximum.

    Of equal pixels the first one counts, row by row; the first NaN wins over every number.
    """
    x = _read(x, spec.x)
    _, _, width, channels = spec.x
    indices = np.zeros(spec.out, np.int64)
    for n, i, j in np.ndindex(*spec.out[:3]):
        window = list(_window(spec, i, j))
        best = np.argmax([x[n, row, col] for row, col in window], axis=0)
        for c in range(channels):
            row, col = window[best[c]]
            indices[n, i, j, c] = (row * width + col) * channels + c
    return indices


def resize2d(x: ArrayLike, spec: Resize2d) -> Array:
    """Interpolation at the positions that `shapes.resize_source` gives.

    ::

        nearest    y[n,i,j,c] = x[n, nearest_source(i), nearest_source(j), c]
        otherwise  y[n,i,j,c] = sum_{row,col} h(i, row) * h(j, col) * x[n,row,col,c]

    With the source position ``s = floor(s) + t``, bilinear has ``h = 1 - t, t`` at ``floor(s)``
    and the next pixel. Bicubic has Keys' kernel at the four nearest pixels: ``a = -0.5`` with
    half_pixel, otherwise ``a = -0.75``. Pixels outside are those at the border, except in bicubic
    half_pixel, where they are left out and the other weights are divided by their sum. So do
    TensorFlow 2 (half_pixel) and 1 (the others).

    Source: R. Keys, *Cubic convolution interpolation for digital image processing* (1981).
    """
    x = _read(x, spec.x)
    y = np.zeros(spec.out)
    rows, cols = (
        [resize_taps(i, size, out, spec.method, spec.coordinates) for i in range(*part)]
        for size, out, part in zip(
            (spec.whole, spec.x[2]), spec.size, (spec.wanted, (0, spec.size[1])), strict=True
        )
    )
    for n, i, j in np.ndindex(*spec.out[:3]):
        for (row, weight_i), (col, weight_j) in itertools.product(rows[i], cols[j]):
            y[n, i, j] += weight_i * weight_j * x[n, row - spec.above, col]
    return y


def channel_op(x: ArrayLike, spec: ChannelOp) -> NDArray[np.int64] | Array:
    """Pixel by pixel over the channels.

    ::

        argmax   y[n,i,j] = first c with x[n,i,j,c] = max; the first NaN counts as the largest
        softmax  y[n,i,j,c] = exp(x[n,i,j,c] - m) / sum_k exp(x[n,i,j,k] - m), m = max_k x[n,i,j,k]
    """
    x = _read(x, spec.x)
    if spec.kind == "argmax":
        return np.asarray(np.argmax(x, axis=3), np.int64)
    with np.errstate(invalid="ignore"):  # a pixel with an infinity or a NaN is all NaN
        powers = np.exp(x - x.max(axis=3, keepdims=True))
        return np.asarray(powers / powers.sum(axis=3, keepdims=True))


def resize_taps(
    i: int, size: int, out: int, method: str, coordinates: str
) -> list[tuple[int, float]]:
    """Pixels along one axis, with their weights, that make up pixel ``i`` of the result."""
    if method == "nearest":
        return [(shapes.nearest_source(i, size, out, coordinates), 1.0)]
    above, below = shapes.resize_source(i, size, out, coordinates)
    first, t = above // below, (above % below) / below
    if method == "bilinear":
        taps = [(first, 1 - t), (first + 1, t)]
    else:
        a = -0.5 if coordinates == "half_pixel" else -0.75
        taps = [(first + p, _keys(p - t, a)) for p in (-1, 0, 1, 2)]
        if coordinates == "half_pixel":
            taps = [(p, h) for p, h in taps if 0 <= p < size]
            total = math.fsum(h for _, h in taps)
            return [(p, h / total) for p, h in taps]
    return [(min(max(p, 0), size - 1), h) for p, h in taps]


def _keys(s: float, a: float) -> float:
    """Cubic kernel of Keys at a distance of ``s`` pixels; it ends at 2."""
    s = abs(s)
    if s <= 1:
        return ((a + 2) * s - (a + 3)) * s * s + 1
    return ((a * s - 5 * a) * s + 8 * a) * s - 4 * a


def _read(array: ArrayLike, shape: tuple[int, ...]) -> Array:
    array = np.asarray(array, np.float64)
    if array.shape != shape:
        raise ValueError(f"reference: the spec is for shape {shape}, got {array.shape}")
    return array


def _activate(
    y: Array, spec: Conv2d | ConvTranspose2d, add: ArrayLike | None, slopes: ArrayLike | None
) -> Array:
    """``act(y + add)``; `slopes` are the parameter of "prelu"."""
    if add is not None:
        y = y + _read(add, y.shape)
    alpha = spec.alpha if slopes is None else _read(slopes, y.shape[3:])
    return ACTIVATIONS[spec.activation].formula(y, 0.0 if alpha is None else alpha)


def _bias(bias: ArrayLike | None, channels: int) -> Array:
    return np.zeros(channels) if bias is None else _read(bias, (channels,))


def _groups(groups: int, inputs: int, outputs: int) -> Iterator[tuple[slice, slice]]:
    """Channels of each group: a slice of the input's and one of the output's."""
    c, k = inputs // groups, outputs // groups
    return ((slice(g * c, (g + 1) * c), slice(g * k, (g + 1) * k)) for g in range(groups))


def _taps(spec: Pool2d, i: int, j: int) -> Iterator[tuple[int, int]]:
    """Row and column of every tap of window ``i, j``, also outside the input."""
    (top, _), (left, _) = spec.pad
    for p, q in np.ndindex(*spec.size):
        yield (
            i * spec.stride[0] + p * spec.dilation[0] - top,
            j * spec.stride[1] + q * spec.dilation[1] - left,
        )


def _window(spec: Pool2d, i: int, j: int) -> Iterator[tuple[int, int]]:
    """Those of `_taps` that are pixels of the input."""
    for row, col in _taps(spec, i, j):
        if 0 <= row < spec.x[1] and 0 <= col < spec.x[2]:
            yield row, col

"""Guaranteed bounds on rounding errors, for every element of a result.

``|computed - reference| <= bound`` holds for any order of summation, with or without fused
multiply-add, as long as the operands are finite and nothing overflows. A bound that is broken
proves a mistake; there is no tolerance to choose. The reference's own rounding, in float64, is
part of the bound.

The tool is Higham's lemma: a term that passes ``t`` roundings changes by a factor ``1 + theta``
with ``|theta| <= gamma(t) = t*u / (1 - t*u)``, where ``u`` is 2**-24 for float32 and 2**-53 for
float64. So the error of a sum of products is at most ``gamma(t)`` times the sum of their absolute
values, their magnitude. A clamp and a maximum round nothing and never enlarge an error.

Source: N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd edition (2002),
sections 2.1 (underflow), 3.1 and 3.4.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastconv import shapes
from fastconv.cook_toom import TILES, algorithm
from fastconv.reference import resize_taps
from fastconv.shapes import Pair
from fastconv.spec import Conv2d, ConvTranspose2d, Pool2d, Resize2d

__all__ = ["conv2d", "conv2d_transpose", "gamma", "pool2d", "resize2d", "unit_roundoff"]

Array = NDArray[np.float64]
U64 = 2.0**-53
SLACK = 1 + 2.0**-20  # covers the rounding of the bound itself
WINOGRAD_TILES = {f"winograd_f{m}": m for m in TILES[3, 1]}
CHUNK = 1 << 20  # numbers in one temporary array: 8 MiB


def unit_roundoff(dtype: str) -> float:
    """Give the largest relative error of one rounding: 2**-24 or 2**-53."""
    return float(np.finfo(dtype).eps) / 2


def gamma(roundings: ArrayLike, u: float) -> Array:
    """``t*u / (1 - t*u)``: by how much ``t`` roundings change a term, relatively."""
    tu = np.asarray(roundings, np.float64) * u
    return tu / (1 - tu)


def conv2d(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None,
    spec: Conv2d,
    algorithm: Literal["direct", "winograd_f2", "winograd_f4", "winograd_f6"] = "direct",
) -> Array:
    """Bound for `fastconv.conv2d`.

    Parameters
    ----------
    x, w, bias
        The operands, NHWC and HWIO, read in the working precision.
    spec : Conv2d
        Its ``dtype`` is the working precision.
    algorithm : "direct", "winograd_f2", "winograd_f4" or "winograd_f6"

    Returns
    -------
    ndarray of float64, shape ``spec.out``

    Raises
    ------
    ValueError
        The algorithm is unknown or cannot compute ``spec``.

    Notes
    -----
    Direct: an output sums ``n = kh*kw*c/groups`` products and the bias, so no term passes more
    than ``n + 1`` roundings: ``gamma(n + 1) * (|x| * |w| + |bias|)``.

    Winograd F(m x m, 3x3): the sum of what its four steps may add, from the transform matrices and
    the transformed operands; the code of `_winograd` is the derivation.
    """
    tile = WINOGRAD_TILES.get(algorithm, 0)
    if not tile and algorithm != "direct":
        raise ValueError(f"bounds.conv2d: unknown algorithm {algorithm!r}")
    images, w, b = _operands(x, w, bias, spec)
    kh, kw, depth, k = spec.w
    blocks = np.abs(w).reshape(kh, kw, depth, spec.groups, k // spec.groups).swapaxes(2, 3)
    products = kh * kw * depth
    step = max(CHUNK // max(spec.conv_out[2] * max(spec.x[3], k), 1), 1)  # rows at a time
    y = np.zeros(spec.conv_out)
    for n, image in enumerate(images):
        magnitude = np.zeros(spec.conv_out[1:]) + np.abs(b)
        taps = list(_taps(np.abs(image), spec.w[:2], spec, spec.conv_out[1:3]))
        for first in range(0, len(magnitude), step):
            rows = slice(first, first + step)
            for tap, pixels in taps:
                magnitude[rows] += _matmul(pixels[rows], blocks[tap])
        if not tile:
            y[n] = _sum_error(products + 1, magnitude, spec.dtype)
        else:
            y[n] = gamma(products + 1, U64) * magnitude + _interleaved(image, w, b, spec, tile)
    if spec.pool:  # |max(a) - max(b)| <= max |a - b|
        _, h, width, _ = spec.out
        pairs = y[:, : 2 * h, : 2 * width].reshape(spec.x[0], h, 2, width, 2, k)
        y = pairs.max(axis=(2, 4), initial=0)
    return y * SLACK


def conv2d_transpose(
    x: ArrayLike, w: ArrayLike, bias: ArrayLike | None, spec: ConvTranspose2d
) -> Array:
    """Bound for `fastconv.conv2d_transpose`, shape ``spec.out``.

    ``gamma(n + 1) * (sum |x*w| + |bias|)`` where ``n`` counts the taps that meet in the pixel,
    times the input channels of a group.
    """
    images, w, b = _operands(x, w, bias, spec)
    (sh, sw), (dh, dw) = spec.stride, spec.dilation
    (_, h, width, c), (kh, kw, depth, _) = spec.x, spec.w
    blocks = np.abs(w).reshape(kh, kw, depth, spec.groups, c // spec.groups)
    blocks = blocks.transpose(0, 1, 3, 4, 2)
    meeting, full = [], []
    for axis in (0, 1):
        size, out, before = spec.x[1 + axis], spec.out[1 + axis], spec.pad[axis][0]
        starts = np.arange(size) * spec.stride[axis]
        meets = np.add.outer(starts, np.arange(spec.w[axis]) * spec.dilation[axis])
        # What is cropped is computed, too: it keeps the slices simple.
        full.append(max(int(meets.max(initial=-1)) + 1, before + out))
        meeting.append(np.bincount(meets.ravel(), minlength=full[-1])[before : before + out])
    terms = np.multiply.outer(*meeting)[:, :, None] * (c // spec.groups)
    (top, _), (left, _) = spec.pad
    y = np.zeros(spec.out)
    for n, image in enumerate(np.abs(images)):
        total = np.zeros((*full, spec.out[3]))
        for p, q in np.ndindex(kh, kw):
            target = total[p * dh :: sh, q * dw :: sw][:h, :width]
            target += _matmul(image, blocks[p, q])
        magnitude = total[top : top + spec.out[1], left : left + spec.out[2]] + np.abs(b)
        y[n] = _sum_error(terms + 1, magnitude, spec.dtype)
    return y * SLACK


def pool2d(x: ArrayLike, spec: Pool2d) -> Array:
    """Bound for `fastconv.avg_pool2d`, shape ``spec.out``; a maximum is exact.

    ``n`` pixels are added and divided by their count, or multiplied by its rounded reciprocal:
    ``gamma(n + 1) * sum |x| / count``.
    """
    y = np.zeros(spec.out)
    if spec.kind == "max":
        return y
    meeting, counted = [], []
    for axis in (0, 1):
        size, (before, after) = spec.x[1 + axis], spec.pad[axis]
        starts = np.arange(spec.out[1 + axis]) * spec.stride[axis] - before
        taps = np.add.outer(starts, np.arange(spec.size[axis]) * spec.dilation[axis])
        meeting.append(np.sum((taps >= 0) & (taps < size), axis=1))
        counted.append(np.sum(taps < size + after, axis=1))
    terms = np.multiply.outer(*meeting)[:, :, None]
    count = np.multiply.outer(*(counted if spec.count_include_pad else meeting))[:, :, None]
    for n, image in enumerate(np.abs(_read(x, spec.x, spec.dtype))):
        magnitude = np.zeros(spec.out[1:])
        for _, pixels in _taps(image, spec.size, spec, spec.out[1:3]):
            magnitude += pixels
        y[n] = _sum_error(terms + 1, magnitude / count, spec.dtype)
    return y * SLACK


def resize2d(x: ArrayLike, spec: Resize2d) -> Array:
    """Bound for `fastconv.resize2d`, shape ``spec.out``; nearest is exact.

    Each axis is a sum of ``t`` pixels, 2 or in bicubic 4, times weights that were rounded once
    from float64: ``gamma(2 * (t + 1)) * sum |weight_i * weight_j * x|``.
    """
    if spec.method == "nearest":
        return np.zeros(spec.out)
    t = 2 if spec.method == "bilinear" else 4
    magnitude = np.abs(_read(x, spec.x, spec.dtype))
    for axis in (1, 2):
        size, out = spec.x[axis], spec.out[axis]
        index, weight = np.zeros((t, out), int), np.zeros((t, out))
        for i in range(out):
            for tap, (pixel, h) in enumerate(
                resize_taps(i, size, out, spec.method, spec.coordinates)
            ):
                index[tap, i], weight[tap, i] = pixel, abs(h)
        weight = weight.reshape(t, out, *[1] * (3 - axis))
        terms = [h * magnitude.take(i, axis) for i, h in zip(index, weight, strict=True)]
        magnitude = np.sum(terms, axis=0)
    return _sum_error(2 * (t + 1), magnitude, spec.dtype) * SLACK


def _interleaved(image: Array, w: Array, bias: Array, spec: Conv2d, m: int) -> Array:
    """`_winograd` of each of the dense problems that a dilated convolution consists of."""
    if spec.w[:2] != (3, 3) or spec.stride != (1, 1) or spec.groups != 1:
        raise ValueError(
            f"bounds.conv2d: winograd_f{m} needs a 3x3 kernel with stride and groups of 1, "
            f"got {spec.w[0]}x{spec.w[1]}, {spec.stride} and {spec.groups}"
        )
    dh, dw = spec.dilation
    padded = np.pad(image, (*spec.pad, (0, 0)))
    y = np.zeros(spec.conv_out[1:])
    for py, px in np.ndindex(min(dh, len(y)), min(dw, y.shape[1])):
        part = padded[py::dh, px::dw]
        dense = Conv2d((1, *part.shape), spec.w, dtype=spec.dtype)
        y[py::dh, px::dw] = _winograd(part, w, bias, dense, m)
    return y


def _winograd(image: Array, w: Array, bias: Array, spec: Conv2d, m: int) -> Array:
    """Bound of ``Y = AT @ sum_c(U * V) @ A + bias``, ``U = G @ w @ G.T``, ``V = BT @ x @ B``.

    ``U`` is computed in float64 and rounded once, all else in the working precision. A term of a
    linear combination of ``z`` numbers passes at most ``z + 2`` roundings: of its coefficient,
    which may be a product of two, of its product, and of ``z - 1`` additions. Scaling rows of the
    matrices by powers of two changes nothing. Tiles start at output pixel (0, 0); `spec` pads
    nothing.
    """
    (_, _, c, k), (_, out_h, out_w, _) = spec.w, spec.conv_out
    reach, products = m + 2, (m + 2) ** 2
    at, g, bt = (np.array(matrix, np.float64) for matrix in algorithm(m, 3))
    u, tiny = unit_roundoff(spec.dtype), float(np.finfo(spec.dtype).smallest_subnormal)
    in_turns, out_turns = (
        2 * (int(np.count_nonzero(matrix, axis=1).max()) + 2) for matrix in (bt, at)
    )

    # Errors of U: float64 in the transform (theirs, and ours in `u_abs`), then one rounding.
    u_abs = np.abs(_transform(g, w)).reshape(products, c, k)
    noise = gamma(3 * (9 + 4), U64) * _transform(np.abs(g), np.abs(w)).reshape(products, c, k)
    u_error = u * u_abs + noise + tiny
    u_most = u_abs + u_error

    down, across = -(-out_h // m), -(-out_w // m)
    padded = np.zeros((m * down + 2, m * across + 2, c))
    padded[: len(image), : image.shape[1]] = image
    y = np.zeros((m * down, m * across, k))
    step = max(CHUNK // (products * max(across * max(c, k), 1)), 1)
    for first in range(0, down, step):
        rows = padded[m * first : m * (first + step) + 2]
        tiles = np.lib.stride_tricks.sliding_window_view(rows, (reach, reach), axis=(0, 1))[
            ::m, ::m
        ]
        lines = len(tiles)
        count = lines * across
        tiles = tiles.transpose(3, 4, 0, 1, 2).reshape(reach, reach, count, c)

        v_abs = np.abs(_transform(bt, tiles)).reshape(products, count, c)
        turns = gamma(in_turns, u) + gamma(in_turns, U64)
        v_error = turns * _transform(np.abs(bt), np.abs(tiles)).reshape(products, count, c) + tiny
        v_most = v_abs + v_error

        # Errors of the sum over channels: of V, of U, of the sum itself, and those that the
        # output transform and the bias add, which are relative to the sum, too.
        sums = gamma(c, u) + gamma(out_turns + 1, u) * (1 + gamma(c, u))
        m_error = (v_error + sums * v_most) @ u_most + v_most @ u_error + c * tiny
        error = _transform(np.abs(at), m_error.reshape(reach, reach, count, k))
        error = error.reshape(m, m, lines, across, k).transpose(2, 0, 3, 1, 4)
        y[m * first : m * (first + step)] = error.reshape(m * lines, m * across, k)
    return y[:out_h, :out_w] + gamma(out_turns + 1, u) * np.abs(bias) + out_turns * tiny


def _transform(matrix: Array, blocks: Array) -> Array:
    """``matrix @ block @ matrix.T`` over the first two axes."""
    rows, side = matrix.shape
    half = (matrix @ blocks.reshape(side, -1)).reshape(rows, side, -1)
    return np.asarray(matrix @ half).reshape(rows, rows, *blocks.shape[2:])


def _sum_error(roundings: int | NDArray[np.int64], magnitude: Array, dtype: str) -> Array:
    """Error of a sum, of its reference, and what underflow of a product may add to both."""
    relative = gamma(roundings, unit_roundoff(dtype)) + gamma(roundings, U64)
    return relative * magnitude + roundings * float(np.finfo(dtype).smallest_subnormal)


def _matmul(pixels: Array, blocks: Array) -> Array:
    """Multiply (h, w, groups * c) by (groups, c, k): (h, w, groups * k)."""
    h, w, _ = pixels.shape
    groups, c, k = blocks.shape
    grouped = pixels.reshape(h * w, groups, c).swapaxes(0, 1) @ blocks
    return grouped.swapaxes(0, 1).reshape(h, w, groups * k)


def _taps(
    image: Array, kernel: Pair, spec: Conv2d | Pool2d, out: tuple[int, ...]
) -> Iterator[tuple[Pair, Array]]:
    """Each tap and the pixels that it meets, one for each window; 0 outside the image."""
    pads = []
    for size, count, taps, stride, dilation, (before, _) in zip(
        image.shape, out, kernel, spec.stride, spec.dilation, spec.pad, strict=False
    ):
        needed = (count - 1) * stride + shapes.extent(taps, dilation)
        pads.append((before, max(needed - before - size, 0)))
    padded = np.pad(image, [*pads, (0, 0)])
    for p, q in np.ndindex(*kernel):
        rows = padded[p * spec.dilation[0] :: spec.stride[0]][: out[0]]
        yield (p, q), rows[:, q * spec.dilation[1] :: spec.stride[1]][:, : out[1]]


def _read(array: ArrayLike, shape: tuple[int, ...], dtype: str) -> Array:
    array = np.asarray(array, dtype)
    if array.shape != shape:
        raise ValueError(f"bounds: the spec is for shape {shape}, got {array.shape}")
    return array.astype(np.float64)


def _operands(
    x: ArrayLike, w: ArrayLike, bias: ArrayLike | None, spec: Conv2d | ConvTranspose2d
) -> tuple[Array, Array, Array]:
    channels = spec.out[3]
    bias = np.zeros(channels) if bias is None else bias
    return (
        _read(x, spec.x, spec.dtype),
        _read(w, spec.w, spec.dtype),
        _read(bias, (channels,), spec.dtype),
    )

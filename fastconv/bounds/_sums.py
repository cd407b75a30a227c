"""Sums of products: convolution by its formula, transposed convolution, and their operands."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastconv import shapes
from fastconv.bounds._rounding import Array, gamma, probable, smallest
from fastconv.dtypes import WORKING
from fastconv.shapes import Pair
from fastconv.spec import Conv2d, ConvTranspose2d, Pool2d

CHUNK = 1 << 20  # numbers in one temporary array: 8 MiB
BLOCK = 8  # channels between two partial sums that are known exactly


class Chain:
    """Sums, one an element of an array, whose terms are added in a known order.

    Guaranteed: no term passes more than ``t`` roundings, so ``gamma(t) * magnitude``, whatever the
    order.

    Probabilistic: the rounding of a partial sum ``s`` contributes ``delta * s``, ``|delta| <= u``;
    by Azuma's inequality all of them stay below ``lambda * u * sqrt(sum of s**2)``. The partial
    sums are known after each block of terms, and inside of it, in any order, they lie within half
    of its magnitude from the middle of the two at its ends. What is computed differs from them by
    ``gamma(t) * magnitude``.

    Parameters
    ----------
    start : ndarray
        First term of each sum.
    lam : float or None
        ``lambda``; None for a guaranteed bound, which needs no partial sums.

    Attributes
    ----------
    value, magnitude : ndarray
        The sums so far, of the terms and of their absolute values.
    squares : ndarray
        Sum of the squares of all numbers that were rounded.
    """

    def __init__(self, start: Array, lam: float | None) -> None:
        self.lam = lam
        self.value = start.copy()
        self.magnitude = np.abs(start)
        self.squares = np.zeros_like(start)

    def add(self, value: Array, magnitude: Array, terms: int = 1, at: Any = ...) -> None:
        """Add ``terms`` terms, of which the sum and the magnitude are given, to elements `at`."""
        self.magnitude[at] += magnitude
        if self.lam is not None:
            most = np.abs(self.value[at] + value / 2) + magnitude / 2
            self.squares[at] += terms * most**2
            self.value[at] += value

    def join(self, other: "Chain", at: Any = ...) -> None:
        """Add sums that were made apart to elements `at`."""
        self.magnitude[at] += other.magnitude
        self.value[at] += other.value
        self.squares[at] += other.squares + self.value[at] ** 2

    def dot(self, x: Array, w: Array, at: Any = ..., block: int = BLOCK) -> None:
        """Add the products of ``x @ w``, whose own roundings count where there is no fma."""
        depth = x.shape[-1]
        if self.lam is None:
            self.magnitude[at] += np.abs(x) @ np.abs(w)
            return
        for first in range(0, depth, block):
            part = slice(first, min(first + block, depth))
            left, right = x[..., part], w[..., part, :]
            magnitude = np.abs(left) @ np.abs(right)
            self.add(left @ right, magnitude, part.stop - first, at)
            self.squares[at] += magnitude**2

    def tap(self, x: Array, w: Array, at: Any = ..., *, apart: bool) -> None:
        """`dot`, or `join` of the products' own sums."""
        if not apart:
            self.dot(x, w, at)
            return
        own = Chain(np.zeros_like(self.value[at]), self.lam)
        own.dot(x, w)
        self.join(own, at)

    def error(
        self, roundings: ArrayLike, units: tuple[float, ...], dtype: str, own: float = 0.0
    ) -> Array:
        """Bound for computations in precisions of unit roundoffs `units` together.

        Each product of each may lose half of the smallest number to underflow. All products have a
        relative error of at most `own` before they are added.
        """
        roundings = np.asarray(roundings)
        relative = sum((gamma(roundings, u) for u in units), start=np.float64(own))
        lost = roundings * smallest(dtype) * (len(units) / 2)
        bound = relative * self.magnitude + lost
        if self.lam is not None:
            scale = self.lam * math.hypot(*units)
            inexact = scale * np.sqrt(roundings) * relative * self.magnitude
            bound = probable(bound, inexact + lost, scale, self.squares)
        return np.asarray(bound)


def direct(
    image: Array, w: Array, bias: Array, add: Array | None, spec: Conv2d, lam: float | None,
    units: tuple[float, ...], apart: bool = False, own: float = 0.0,
) -> Array:  # fmt: skip
    """Bound for one image: the bias, then row by row, column by column, channel by channel.

    Parameters
    ----------
    image, w, bias : ndarray
        ``(h, w, c)``, ``spec.w`` and ``(k,)``.
    add : ndarray of the result's shape, optional
        Added last.
    units : tuple of float
        Unit roundoffs of the computations whose errors add up.
    apart : bool
        Each tap's channels are summed first, as in the reference.
    own : float
        Relative error of each product.

    Returns
    -------
    ndarray, shape ``spec.conv_out[1:]``
    """
    (kh, kw, depth, k), groups = spec.w, spec.groups
    weights = w.reshape(kh, kw, depth, groups, 1, k // groups).transpose(0, 1, 3, 4, 2, 5)
    taps = [(tap, split(x, groups)) for tap, x in windows(image, (kh, kw), spec, spec.conv_out[1:])]
    roundings = kh * kw * depth + 1 + (add is not None)
    y = np.zeros(spec.conv_out[1:])
    step = max(CHUNK // max(spec.conv_out[2] * max(spec.x[3], k), 1), 1)  # rows at a time
    for first in range(0, len(y), step):
        part = y[first : first + step]
        rows = slice(first, first + len(part))
        chain = Chain(split(np.broadcast_to(bias, part.shape), groups), lam)
        for tap, pixels in taps:
            chain.tap(pixels[:, rows], weights[tap], apart=apart)
        if add is not None:
            last = split(add[rows], groups)
            chain.add(last, np.abs(last))
        part[...] = join(chain.error(roundings, units, spec.dtype, own))
    return y


def transposed(
    image: Array, w: Array, bias: Array, add: Array | None, spec: ConvTranspose2d,
    lam: float | None, units: tuple[float, ...], apart: bool = False, own: float = 0.0,
) -> Array:  # fmt: skip
    """As `direct`, shape ``spec.out[1:]``: the bias, then inputs in their order.

    ``n`` counts the taps that meet in the pixel, times the input channels of a group.
    """
    (sh, sw), (dh, dw), groups = spec.stride, spec.dilation, spec.groups
    (_, h, width, c), (kh, kw, depth, _) = spec.x, spec.w
    weights = w.reshape(kh, kw, 1, depth, groups, c // groups).transpose(0, 1, 4, 2, 5, 3)
    meeting = []
    for axis in (0, 1):
        starts = np.arange(spec.x[1 + axis]) * spec.stride[axis]
        meets = np.add.outer(starts, np.arange(spec.w[axis]) * spec.dilation[axis])
        # What is cropped is computed, too: it keeps the slices simple.
        meeting.append(np.bincount(meets.ravel(), minlength=spec.pad[axis][0] + spec.out[1 + axis]))
    full = (*map(len, meeting), spec.out[3])
    chain = Chain(split(np.broadcast_to(bias, full), groups), lam)
    pixels = split(image, groups)
    for p, q in reversed(list(np.ndindex(kh, kw))):  # the last tap meets the first input
        rows = slice(p * dh, p * dh + (h - 1) * sh + 1, sh)
        columns = slice(q * dw, q * dw + (width - 1) * sw + 1, sw)
        if h and width:
            chain.tap(pixels, weights[p, q], (slice(None), rows, columns), apart=apart)
    terms = np.multiply.outer(*meeting)[:, :, None] * (c // groups)
    (top, _), (left, _) = spec.pad
    cropped = (slice(None), slice(top, top + spec.out[1]), slice(left, left + spec.out[2]))
    if add is not None:
        last = split(add, groups)
        chain.add(last, np.abs(last), at=cropped)
    error = chain.error(terms + 1 + (add is not None), units, spec.dtype, own)
    return join(error[cropped])


def split(image: Array, groups: int) -> Array:
    """(h, w, groups * c) as a view (groups, h, w, c)."""
    h, w, c = image.shape
    return np.moveaxis(image.reshape(h, w, groups, c // groups), 2, 0)


def join(parts: Array) -> Array:
    """(groups, h, w, c) as (h, w, groups * c)."""
    groups, h, w, c = parts.shape
    return np.moveaxis(parts, 0, 2).reshape(h, w, groups * c)


def windows(
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


def read(array: ArrayLike, shape: tuple[int, ...], dtype: str) -> Array:
    """Read in the working precision, give as float64; ValueError for another shape."""
    if WORKING[dtype] != dtype:
        raise ValueError(
            f"bounds: {dtype} is a type of storage; take dataclasses.replace(spec, dtype="
            f"{WORKING[dtype]!r}), in which sums are made, and `rounded_to` for the result"
        )
    array = np.asarray(array, dtype)
    if array.shape != shape:
        raise ValueError(f"bounds: the spec is for shape {shape}, got {array.shape}")
    return array.astype(np.float64)


def operands(
    x: ArrayLike, w: ArrayLike, bias: ArrayLike | None, spec: Conv2d | ConvTranspose2d
) -> tuple[Array, Array, Array]:
    """Input, weights and bias, of which there is always one."""
    channels = spec.out[3]
    bias = np.zeros(channels) if bias is None else bias
    return (
        read(x, spec.x, spec.dtype),
        read(w, spec.w, spec.dtype),
        read(bias, (channels,), spec.dtype),
    )

"""Averages and interpolation."""

import numpy as np

from fastconv.bounds._rounding import U64, Array, gamma, probable, smallest, unit_roundoff
from fastconv.bounds._sums import windows
from fastconv.reference import resize_taps
from fastconv.spec import Pool2d, Resize2d


def average(image: Array, spec: Pool2d, lam: float | None) -> Array:
    """Bound for one image, shape ``spec.out[1:]``: ``n`` pixels are added and divided.

    In no order is a partial sum larger than the larger one of the sums of the positive and of the
    negative pixels.
    """
    meeting, counted = [], []
    for axis in (0, 1):
        size, (before, after) = spec.x[1 + axis], spec.pad[axis]
        starts = np.arange(spec.out[1 + axis]) * spec.stride[axis] - before
        taps = np.add.outer(starts, np.arange(spec.size[axis]) * spec.dilation[axis])
        meeting.append(np.sum((taps >= 0) & (taps < size), axis=1))
        counted.append(np.sum(taps < size + after, axis=1))
    terms = np.multiply.outer(*meeting)[:, :, None]
    count = np.multiply.outer(*(counted if spec.count_include_pad else meeting))[:, :, None]

    value, magnitude = np.zeros(spec.out[1:]), np.zeros(spec.out[1:])
    for _, pixels in windows(image, spec.size, spec, spec.out[1:3]):
        value += pixels
        magnitude += np.abs(pixels)
    value, magnitude = np.abs(value) / count, magnitude / count

    u = unit_roundoff(spec.dtype)
    relative = gamma(terms + 1, u) + gamma(terms + 1, U64)
    lost = (terms + 1) * smallest(spec.dtype)
    guaranteed = relative * magnitude + lost
    if lam is None:
        return np.asarray(guaranteed)
    scale = lam * np.hypot(u, U64)
    squares = terms * ((magnitude + value) / 2) ** 2 + value**2
    # A rounded reciprocal of the count is no random number.
    fixed = u * value + scale * np.sqrt(terms) * relative * magnitude + lost
    return probable(guaranteed, fixed, scale, squares)


def interpolation(image: Array, spec: Resize2d) -> Array:
    """Bound for one image, shape ``spec.out[1:]``."""
    t = 2 if spec.method == "bilinear" else 4
    magnitude = np.abs(image)
    parts = (spec.whole, spec.wanted, spec.above), (spec.x[2], (0, spec.size[1]), 0)
    for axis, (size, (first, end), above) in enumerate(parts):
        out = end - first
        index, weight = np.zeros((t, out), int), np.zeros((t, out))
        for i in range(out):
            for tap, (pixel, h) in enumerate(
                resize_taps(first + i, size, spec.size[axis], spec.method, spec.coordinates)
            ):
                index[tap, i], weight[tap, i] = pixel - above, abs(h)
        weight = weight.reshape(t, out, *[1] * (2 - axis))
        terms = [h * magnitude.take(i, axis) for i, h in zip(index, weight, strict=True)]
        magnitude = np.sum(terms, axis=0)
    roundings = 2 * (t + 1)
    relative = gamma(roundings, unit_roundoff(spec.dtype)) + gamma(roundings, U64)
    return np.asarray(relative * magnitude + roundings * smallest(spec.dtype))

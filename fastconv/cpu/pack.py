"""Layouts that the kernels read: weights in panels, padded biases, segment offsets. Pure functions.

All results start on a cache line and are zero where they are padded, so kernels have no tail in
the output channels until they store.
"""

import numpy as np

from fastconv.memory import aligned_empty
from fastconv.spec import ACTIVATIONS, Conv2d


def panels(matrix: np.ndarray, groups: int, nr: int) -> np.ndarray:
    """matrix[depth, groups * k] -> packed[groups, ceil(k / nr), depth, nr].

    ::

        k:  0 1 2 3 | 4 5 . .      nr = 4; '.' are zeros
    """
    depth, columns = matrix.shape
    k = columns // groups
    count = -(-k // nr)
    packed = aligned_empty((groups, count, depth, nr), matrix.dtype)
    by_group = matrix.reshape(depth, groups, k)
    for t in range(count):
        valid = min(nr, k - t * nr)
        packed[:, t, :, :valid] = by_group[:, :, t * nr : t * nr + valid].transpose(1, 0, 2)
        packed[:, t, :, valid:] = 0
    return packed


def bias(values: np.ndarray | None, columns: int, groups: int, nr: int, dtype: str) -> np.ndarray:
    """values[groups * k] -> packed[groups, ceil(k / nr), nr]; zeros without a bias."""
    row = np.zeros(columns, dtype) if values is None else values
    return panels(row.reshape(1, columns), groups, nr)


def clamp(activation: str | None, dtype: str) -> np.ndarray:
    """[low, high] of an activation."""
    return np.array(ACTIVATIONS[activation], dtype)


def taps(spec: Conv2d) -> np.ndarray:
    """Byte offsets of the kh * kw inputs that a pixel reads, from its first one."""
    _, _, w, c = spec.x
    pixel = c * np.dtype(spec.dtype).itemsize
    rows = np.arange(spec.w[0], dtype=np.int64) * (spec.dilation[0] * w * pixel)
    columns = np.arange(spec.w[1], dtype=np.int64) * (spec.dilation[1] * pixel)
    return (rows[:, None] + columns).reshape(-1)


def segments(spec: Conv2d) -> tuple[np.ndarray, np.ndarray, int]:
    """Byte offsets of the runs that a pixel reads, from its first input, and their length.

    A kernel row is one run of kw * c numbers where its taps touch; else each tap is a run. The
    second table is for a patch, which holds nothing but the pixel's inputs: runs without gaps.
    """
    kw, cin = spec.w[1:3]
    offsets, length = taps(spec), cin
    if spec.groups == 1 and (spec.dilation[1] == 1 or kw == 1):
        offsets, length = offsets[::kw].copy(), kw * cin
    dense = np.arange(len(offsets), dtype=np.int64) * (length * np.dtype(spec.dtype).itemsize)
    return offsets, dense, length

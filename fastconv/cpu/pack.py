"""Layouts that the kernels read: weights in panels, biases, segment offsets. Pure functions.

All results start on a cache line. The last panel of an odd number of columns ends where they end,
and so repeats some of the one before: that costs what zeros would, and kernels store whole vectors.
Only fewer columns than a panel holds are padded with zeros.
"""

import numpy as np

from fastconv.activations import ACTIVATIONS
from fastconv.dtypes import ITEMSIZE
from fastconv.memory import aligned_empty
from fastconv.spec import Conv2d, ConvTranspose2d


def panels(matrix: np.ndarray, groups: int, nr: int, dtype: str) -> np.ndarray:
    """matrix[depth, groups * k] -> packed[groups, ceil(k / nr), depth, nr], of `dtype`.

    ::

        k:  0 1 2 3 | 2 3 4 5      nr = 4, k = 6
        k:  0 1 . .                nr = 4, k = 2; '.' are zeros
    """
    depth, columns = matrix.shape
    k = columns // groups
    packed = aligned_empty((groups, -(-k // nr), depth, nr), dtype)
    by_group = matrix.reshape(depth, groups, k)
    packed[:, :, :, k:] = 0
    for t in range(packed.shape[1]):
        first = first_column(t, k, nr)
        packed[:, t, :, :k] = by_group[:, :, first : first + nr].transpose(1, 0, 2)
    return packed


def first_column(panel: int, columns: int, nr: int) -> int:
    """Where a panel begins."""
    return min(panel * nr, max(columns - nr, 0))


def bias(values: np.ndarray | None, columns: int, groups: int, nr: int, dtype: str) -> np.ndarray:
    """values[groups * k] -> packed[groups, max(k, nr)]; zeros without a bias."""
    k = columns // groups
    packed = aligned_empty((groups, max(k, nr)), dtype)
    packed[...] = 0
    if values is not None:
        packed[:, :k] = values.reshape(groups, k)
    return packed


def clamp(spec: Conv2d | ConvTranspose2d, finished: bool, dtype: str) -> np.ndarray:
    """[low, high] of the sums, of the result, and of parts of sums, which have no limits.

    The ends are those of the activation, if it is a clamp. Where a layer is `finished` by a kernel
    of its own, its sums are not clamped.
    """
    endless = (-np.inf, np.inf)
    ends = ACTIVATIONS[spec.activation].clamp or endless
    return np.array([*(endless if finished else ends), *ends, *endless], dtype)


def slopes(spec: Conv2d | ConvTranspose2d, values: np.ndarray | None, dtype: str) -> np.ndarray:
    """Parameter of the activation for each output channel; zeros where it has none."""
    channels = spec.out[3]
    if values is not None:
        return np.ascontiguousarray(values, dtype)
    return np.full(channels, spec.alpha or 0.0, dtype)


def taps(x: tuple[int, ...], spec: Conv2d, dtype: str) -> np.ndarray:
    """Byte offsets of the kh * kw inputs that a pixel reads, from its first one.

    `x` and `dtype` are those of the image that is read, the input or a padded copy.
    """
    _, _, w, c = x
    pixel = c * ITEMSIZE[dtype]
    rows = np.arange(spec.w[0], dtype=np.int64) * (spec.dilation[0] * w * pixel)
    columns = np.arange(spec.w[1], dtype=np.int64) * (spec.dilation[1] * pixel)
    return (rows[:, None] + columns).reshape(-1)


def segments(
    x: tuple[int, ...], spec: Conv2d, dtype: str, longest: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Byte offsets of the runs that a pixel reads, from its first input, and their length.

    A kernel row is one run of kw * c numbers where its taps touch; else each tap is a run. Runs
    above `longest` are cut in equal parts where they can be. The second table is for a patch, which
    holds nothing but the pixel's inputs: runs without gaps.
    """
    kw, cin = spec.w[1:3]
    item = ITEMSIZE[dtype]
    offsets, length = taps(x, spec, dtype), cin
    if spec.groups == 1 and (spec.dilation[1] == 1 or kw == 1):
        offsets, length = offsets[::kw], kw * cin
    cuts = -(-length // max(longest, 1))
    cuts = next((n for n in range(cuts, 2 * cuts) if n and length % n == 0), 1)
    inside = np.arange(cuts, dtype=np.int64) * (length // cuts * item)
    offsets = (offsets[:, None] + inside).reshape(-1)
    dense = np.arange(len(offsets), dtype=np.int64) * (length // cuts * item)
    return offsets, dense, length // cuts

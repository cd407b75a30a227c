"""Convolutions as matrix products with gathered rows: the tables and weights that kernels read.

A row of the left matrix is a *position*: an output pixel, or, of a transposed convolution, one of
a phase. A column is an input number that it needs, in the order (tap row, tap column, channel); a
table tells for each where it lies, relative to the position. So one kernel serves every kernel
size, stride, dilation, padding and number of groups, and the phases of transposed convolutions.

Phase ``(a, b)`` of a transposed convolution are the output pixels ``(i * sh + a, j * sw + b)``.
The taps p that meet in its rows are those for which ``a + top - p * dh`` is a multiple of sh, and
it is input row ``i + (a + top - p * dh) / sh`` that they meet.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.shapes import Pair
from fastconv.spec import Conv2d, ConvTranspose2d

OUTSIDE = -(1 << 29)  # a row that no image has, nor two of them together
COLUMNS = 8  # packed weights have a multiple of so many columns: 16 bytes or more
AHEAD = 4  # parts that kernels read ahead of what they need of a table


@dataclass(frozen=True, eq=False)
class Product:
    """What a matrix product kernel is given.

    Attributes
    ----------
    table : (entries, 4) int32
        Of each phase in turn: row and column relative to a position's, offset of the number,
        nothing.
    steps : (phases,) int32
        Number of parts of the depth that hold taps.
    weights : (phases, groups, depth, columns), dtype of the spec
    step, out_step : (int, int)
        Input pixels from a position to the next, and output pixels.
    positions : (int, int)
        Of a phase and an image: rows and columns.
    """

    table: np.ndarray
    steps: np.ndarray
    weights: np.ndarray
    step: Pair
    out_step: Pair
    positions: Pair


def product(spec: Conv2d | ConvTranspose2d, w: np.ndarray, unit: int, part: int) -> Product:
    """Tables and packed weights.

    Parameters
    ----------
    w : ndarray, shape ``spec.w``
    unit : int
        Numbers that a table's entry stands for: 1, or a divisor of a group's channels.
    part : int
        The depth of each phase is filled up with zeros to a multiple of this.
    """
    c, k, groups = spec.x[3], spec.out[3], spec.groups
    inputs, outputs = c // groups, k // groups
    step, out_step = spec.stride, (1, 1)
    if isinstance(spec, ConvTranspose2d):  # (kh, kw, k / groups, c) as (kh, kw, c / groups, k)
        w = w.reshape(*w.shape[:2], outputs, groups, inputs)
        w = w.transpose(0, 1, 4, 3, 2).reshape(*w.shape[:2], inputs, k)
        step, out_step = (1, 1), spec.stride
    taps = [_taps(spec, origin) for origin in np.ndindex(*out_step)]
    most = max(len(t) for t in taps) * inputs
    depth, packed = -(-most // part) * part, -(-outputs // COLUMNS) * COLUMNS

    table = np.zeros(((len(taps) * depth + AHEAD * part) // unit, 4), np.int32)
    table[:, 0] = OUTSIDE
    weights = np.zeros((len(taps), groups, depth, packed), w.dtype)
    first = np.arange(0, inputs, unit)
    for phase, meeting in enumerate(taps):
        for i, (tap, row, column) in enumerate(meeting):
            at = phase * depth // unit + i * len(first)
            entries = table[at : at + len(first)]
            entries[:, 0], entries[:, 1] = row, column
            entries[:, 2] = (row * spec.x[2] + column) * c + first
            filled = weights[phase, :, i * inputs : (i + 1) * inputs, :outputs]
            filled[...] = w[tap].reshape(inputs, groups, outputs).transpose(1, 0, 2)
    steps = [-(-len(meeting) * inputs // part) for meeting in taps]
    hw = (spec.conv_out if isinstance(spec, Conv2d) else spec.out)[1:3]
    rows, cols = (-(-size // apart) for size, apart in zip(hw, out_step, strict=True))
    return Product(table, np.array(steps, np.int32), weights, step, out_step, (rows, cols))


def _taps(spec: Conv2d | ConvTranspose2d, origin: tuple[int, ...]) -> list[Any]:
    """Taps of the phase with this origin, and the input pixels they meet at its first position."""
    axes: list[list[tuple[int, int]]] = [[], []]
    for axis in (0, 1):
        before, dilation = spec.pad[axis][0], spec.dilation[axis]
        for p in range(spec.w[axis]):
            if isinstance(spec, Conv2d):
                axes[axis].append((p, p * dilation - before))
            else:
                pixel, rest = divmod(origin[axis] + before - p * dilation, spec.stride[axis])
                if rest == 0:
                    axes[axis].append((p, pixel))
    return [((p, q), row, column) for p, row in axes[0] for q, column in axes[1]]


def columns(values: Any, default: float, groups: int, k: int, packed: int) -> np.ndarray:
    """A number for each output channel, (groups, packed) as the weights have them."""
    filled = np.full((groups, packed), default, np.float32)
    if values is not None:
        filled[:, : k // groups] = np.asarray(values, np.float32).reshape(groups, k // groups)
    return filled

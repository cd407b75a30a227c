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
from fastconv.weights import Weights

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
        its channel in the group.
    steps : (phases,) int32
        Number of parts of the depth that hold taps.
    depth : int
        Of a phase, filled up.
    weights : (phases, groups, depth, columns), dtype of the spec
        Or (phases, groups, parts, columns, part).
    step, out_step : (int, int)
        Input pixels from a position to the next, and output pixels.
    positions : (int, int)
        Of a phase and an image: rows and columns.
    """

    table: np.ndarray
    steps: np.ndarray
    depth: int
    weights: np.ndarray
    step: Pair
    out_step: Pair
    positions: Pair


def product(
    spec: Conv2d | ConvTranspose2d,
    w: Weights | np.ndarray,
    unit: int,
    part: int,
    by_parts: bool = False,
) -> Product:
    """Tables and packed weights.

    Parameters
    ----------
    w : Weights, shape ``spec.w``, or ndarray
        An array is what `pack` would make.
    unit : int
        Numbers that a table's entry stands for: 1, or a divisor of a group's channels.
    part : int
        The depth of each phase is filled up with zeros to a multiple of this.
    by_parts : bool
        In the packed weights a part of one column is contiguous, and so is a part of all columns,
        as products of warpgroups read them.
    """
    c, inputs = spec.x[3], spec.x[3] // spec.groups
    step, out_step, positions, met = phases(spec)
    taps_of = tuple(tuple(tap for tap, _, _ in taps) for taps in met)
    layout = taps_of, spec.groups, isinstance(spec, ConvTranspose2d), part, by_parts
    if isinstance(w, Weights):
        weights = w.packed(("cuda", *layout), lambda array: pack(array, *layout))
    else:
        weights = w

    depth = weights.shape[2] * (part if by_parts else 1)
    first = np.arange(0, inputs, unit)
    table = np.zeros(((len(met) * depth + AHEAD * part) // unit, 4), np.int32)
    table[:, 0] = OUTSIDE
    for phase, taps in enumerate(met):
        for i, (_, row, column) in enumerate(taps):
            at = phase * depth // unit + i * len(first)
            entries = table[at : at + len(first)]
            entries[:, 0], entries[:, 1] = row, column
            entries[:, 2] = (row * spec.x[2] + column) * c + first
            entries[:, 3] = first
    steps = np.array([-(-len(taps) * inputs // part) for taps in met], np.int32)
    return Product(table, steps, depth, weights, step, out_step, positions)


def phases(spec: Conv2d | ConvTranspose2d) -> tuple[Pair, Pair, Pair, list[Any]]:
    """Input and output pixels from a position to the next, how many positions, and `_taps`."""
    transposed = isinstance(spec, ConvTranspose2d)
    step, out_step = ((1, 1), spec.stride) if transposed else (spec.stride, (1, 1))
    hw = (spec.conv_out if isinstance(spec, Conv2d) else spec.out)[1:3]
    rows, cols = (-(-size // apart) for size, apart in zip(hw, out_step, strict=True))
    met = [_taps(spec, origin) for origin in np.ndindex(*out_step)]
    return step, out_step, (rows, cols), met


def pack(
    w: np.ndarray, phases: tuple[tuple[Pair, ...], ...], groups: int, transposed: bool, part: int,
    by_parts: bool,
) -> np.ndarray:  # fmt: skip
    """Weights of each phase and group, [depth, output channels], where a phase has these taps.

    `by_parts`: [parts of the depth, output channels, part], where chunk j of channel i, an eighth
    of the part, is at ``j ^ (i & 7)``.

    Of a convolution `w` is (kh, kw, c / groups, k), of a transposed one (kh, kw, k / groups, c).
    """
    if transposed:
        kh, kw, outputs, c = w.shape
        inputs = c // groups
        apart = w.reshape(kh, kw, outputs, groups, inputs).transpose(0, 1, 3, 4, 2)
    else:
        kh, kw, inputs, k = w.shape
        outputs = k // groups
        apart = w.reshape(kh, kw, inputs, groups, outputs).transpose(0, 1, 3, 2, 4)
    depth = -(-max(map(len, phases)) * inputs // part) * part
    packed = np.zeros((len(phases), groups, depth, -(-outputs // COLUMNS) * COLUMNS), w.dtype)
    for phase, taps in enumerate(phases):
        for i, tap in enumerate(taps):
            packed[phase, :, i * inputs : (i + 1) * inputs, :outputs] = apart[tap]
    if by_parts:
        parts = packed.reshape(*packed.shape[:2], depth // part, part, packed.shape[3])
        shape = packed.shape[3] // 8, 8, 8, part // 8
        chunks = parts.swapaxes(3, 4).reshape(*parts.shape[:3], *shape)
        eight = np.arange(8)
        swizzled = chunks[..., eight[:, None], eight ^ eight[:, None], :]
        return swizzled.reshape(*parts.shape[:3], packed.shape[3], part)
    return packed


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

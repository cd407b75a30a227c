"""Which input rows (columns) each output row (column) of a pool or a resize combines, and how.

Only taps inside the image are listed, so padding never wins a maximum, never enters a mean, and a
NaN spreads no further than the windows that hold it.
"""

from dataclasses import dataclass

import numpy as np

from fastconv import shapes
from fastconv.spec import Pool2d, Resize2d


@dataclass(frozen=True)
class Axis:
    """Taps of all outputs along one axis: output i has ``taps[starts[i]:starts[i + 1]]``."""

    starts: np.ndarray  # int64, outputs + 1
    taps: np.ndarray  # int64, input positions
    weights: np.ndarray  # float64, one a tap
    divisors: np.ndarray  # float64, one an output

    @property
    def uniform(self) -> int:
        """Number of taps of every output; 0 if they differ."""
        counts = np.unique(np.diff(self.starts))
        return int(counts[0]) if len(counts) == 1 else 0

    def part(self, low: int, high: int, above: int, size: int) -> "Axis":
        """Outputs ``low <= i < high``, of `size` inputs from number `above` on."""
        begin, end = self.starts[low], self.starts[high]
        taps = self.taps[begin:end] - above
        if len(taps) and not 0 <= taps.min() <= taps.max() < size:
            first, last = taps.min() + above, taps.max() + above
            raise ValueError(
                f"resize2d: rows {low} to {high - 1} of the result read rows {first} to {last}, "
                f"but x holds rows {above} to {above + size - 1}"
            )
        starts = self.starts[low : high + 1] - begin
        return Axis(starts, taps, self.weights[begin:end], self.divisors[low:high])


def make_axis(positions: np.ndarray, weights: np.ndarray, size: int, divisors: np.ndarray) -> Axis:
    """From [outputs, taps] tables; taps outside ``0 ... size - 1`` are left out."""
    inside = (positions >= 0) & (positions < size)
    starts = np.concatenate([[0], np.cumsum(inside.sum(axis=1))]).astype(np.int64)
    return Axis(starts, positions[inside].astype(np.int64), weights[inside], divisors)


def pool_axis(
    size: int, out: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int,
    include_pad: bool, repeat: bool,
) -> Axis:  # fmt: skip
    """Windows of a pool. `include_pad`: divide by the taps in the padded axis, not in the image.

    `repeat`: a tap outside is replaced by the nearest one inside, which leaves a maximum as it is,
    so that all windows have as many taps.
    """
    positions = np.arange(out)[:, None] * stride - pad[0] + np.arange(kernel) * dilation
    real = (positions >= 0) & (positions < size)
    padded = positions < size + pad[1]
    divisors = (padded if include_pad else real).sum(axis=1).astype(float)
    if repeat:
        first, last = real.argmax(axis=1), kernel - 1 - real[:, ::-1].argmax(axis=1)
        nearest = np.clip(np.arange(kernel), first[:, None], last[:, None])
        positions = np.take_along_axis(positions, nearest, axis=1)
    return make_axis(positions, np.ones(positions.shape), size, divisors)


def resize_axis(size: int, out: int, method: str, coordinates: str) -> Axis:
    """Taps and weights of one resized axis; `fastconv.resize2d` states the formulas."""
    i = np.arange(out)
    ones = np.ones(out)
    if method == "nearest":
        nearest = [shapes.nearest_source(int(k), size, out, coordinates) for k in i]
        return make_axis(np.array(nearest)[:, None], ones[:, None], size, ones)
    above, below = shapes.resize_source(i, size, out, coordinates)
    low, t = above // below, (above % below) / below
    if method == "bilinear":
        positions = np.clip(np.stack([low, low + 1], axis=1), 0, size - 1)
        return make_axis(positions, np.stack([1 - t, t], axis=1), size, ones)
    half_pixel = coordinates == "half_pixel"
    a = -0.5 if half_pixel else -0.75
    positions = low[:, None] + np.arange(-1, 3)
    weights = _cubic(t[:, None] - np.arange(-1, 3), a)
    if half_pixel:  # taps outside do not count, and the others make up for them
        weights = np.where((positions >= 0) & (positions < size), weights, 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
    else:
        positions = np.clip(positions, 0, size - 1)
    return make_axis(positions, weights, size, ones)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys 1981, "Cubic convolution interpolation for digital image processing"."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def axes(spec: Pool2d | Resize2d, repeat: bool) -> tuple[Axis, Axis]:
    """Vertical and horizontal taps."""
    sizes = list(zip(spec.x[1:3], spec.out[1:3], strict=True))
    if isinstance(spec, Resize2d):
        how = spec.method, spec.coordinates
        whole = resize_axis(spec.whole, spec.size[0], *how)
        down = whole.part(*spec.wanted, spec.above, spec.x[1])
        across = resize_axis(*sizes[1], *how)
    else:
        down, across = (
            pool_axis(size, out, kernel, stride, pad, dilation, spec.count_include_pad, repeat)
            for (size, out), kernel, stride, pad, dilation in zip(
                sizes, spec.size, spec.stride, spec.pad, spec.dilation, strict=True
            )
        )
    return down, across

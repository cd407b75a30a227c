"""How the tensor memory accelerator sees the image of a convolution: its "im2col mode".

A *bounding box* of pixels holds those that the first tap meets; the positions of a block are pixels
of it one after another, a stride apart, row by row and image by image. Offsets move them to another
tap. What is outside of the image is zero.

Format: NVIDIA, *Parallel Thread Execution ISA*, "im2col mode"; *CUDA Driver API*,
cuTensorMapEncodeIm2col.
"""

from dataclasses import dataclass

from fastconv.cuda import product
from fastconv.shapes import Pair
from fastconv.spec import Conv2d, ConvTranspose2d

CORNERS = range(-128, 128)  # of the box, by the rows and columns of images
FARTHEST = 255  # rows and columns that an offset can move by
STRIDES = 8


@dataclass(frozen=True)
class Im2col:
    """The pixels that positions meet, and the tile that one copy takes.

    Attributes
    ----------
    shape : (int, int, int, int)
        Of the program's array "x", NHWC.
    dtype : str
    first, last : (int, int)
        Row and column of the box's corners.
    step : (int, int)
        From a position to the next.
    farthest : (int, int)
        The largest offsets of a tap.
    """

    shape: tuple[int, int, int, int]
    dtype: str
    first: Pair
    last: Pair
    step: Pair
    farthest: Pair

    channels = 64
    pixels = 128

    @property
    def beyond(self) -> Pair:
        """The last corner, by the image's own."""
        return self.last[0] - self.shape[1] + 1, self.last[1] - self.shape[2] + 1

    @property
    def possible(self) -> bool:
        """Whether a tensor map can say it."""
        return (
            min(self.shape) > 0
            and all(corner in CORNERS for corner in (*self.first, *self.beyond))
            and all(first <= last for first, last in zip(self.first, self.last, strict=True))
            and max(self.farthest) <= FARTHEST
            and max(self.step) <= STRIDES
        )


def of(spec: Conv2d | ConvTranspose2d) -> Im2col:
    """The view of a convolution, or of a transposed one, whose phases all have the same."""
    step, _, positions, met = product.phases(spec)
    pixels = [(row, column) for taps in met for _, row, column in taps] or [(0, 0)]
    low, high = (tuple(map(choose, zip(*pixels, strict=True))) for choose in (min, max))
    first, farthest = (low[0], low[1]), (high[0] - low[0], high[1] - low[1])
    last = first[0] + (positions[0] - 1) * step[0], first[1] + (positions[1] - 1) * step[1]
    return Im2col(spec.x, spec.dtype, first, last, step, farthest)

"""The layers that are timed: one table for `compare` and for the pytest suite.

A layer is a chain of `fastconv` specs, so that shapes, padding and flops have one definition.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv import shapes
from fastconv.memory import aligned_empty
from fastconv.spec import Conv2d, ConvTranspose2d
from fcn import models
from fcn.graph import Graph

Array = NDArray[Any]
Shape = tuple[int, int, int, int]
Step = Conv2d | ConvTranspose2d


@dataclass(frozen=True)
class Goal:
    """The fastest of `peers` shall take at least `ratio` times as long as fastconv."""

    peers: tuple[str, ...]
    ratio: float


@dataclass(frozen=True)
class Layer:
    """What every engine computes: `steps` one after the other.

    Attributes
    ----------
    name : str
        For the command line and the files.
    what : str
        Where such a layer occurs.
    steps : tuple of Conv2d or ConvTranspose2d
    graph : Graph, optional
        The same as a network of `fcn`; fastconv then runs it by a `fcn.session.Session`.
    goals : tuple of Goal
        What the project promises; a layer with a goal belongs to the acceptance subset.
    """

    name: str
    what: str
    steps: tuple[Step, ...]
    graph: Graph | None = None
    goals: tuple[Goal, ...] = ()

    @property
    def x(self) -> Shape:
        """Shape of the input, (n, h, w, c)."""
        return self.steps[0].x

    @property
    def out(self) -> Shape:
        """Shape of the result, (n, h, w, k)."""
        return self.steps[-1].out

    @property
    def flops(self) -> int:
        """Multiplications and additions of the direct algorithm."""
        return sum(step.flops for step in self.steps)

    def input(self) -> Array:
        """The input: normal numbers, behind a ReLU unless they stand for the pixels of an image."""
        x = np.random.default_rng(0).standard_normal(self.x, dtype=np.float32)
        aligned = aligned_empty(self.x, np.float32)  # what every engine allocates for itself
        aligned[...] = np.maximum(x, 0) if self.x[3] > 4 else x
        return aligned

    def weights(self) -> list[tuple[Array, Array]]:
        """(weights, bias) of each step, scaled so that activations keep their size."""
        rng = np.random.default_rng(1)
        found = []
        for step in self.steps:
            fan_in = math.prod(step.w[:3])
            if isinstance(step, ConvTranspose2d):
                fan_in = step.w[3] * math.prod(step.w[:2]) // math.prod(step.stride)
            scale = np.float32(math.sqrt((2 if step.activation else 1) / max(fan_in, 1)))
            w = rng.standard_normal(step.w, dtype=np.float32) * scale
            bias = rng.standard_normal(step.out[3], dtype=np.float32) * np.float32(0.1)
            found.append((w, bias))
        return found


def conv(
    x: Shape,
    filters: int,
    kernel: int = 3,
    *,
    activation: str | None = "relu",
    pool: bool = False,
    groups: int = 1,
) -> Conv2d:
    """A convolution as networks have it: "same" padding, bias, ReLU."""
    h, w = (shapes.same_padding(size, kernel, 1) for size in x[1:3])
    return Conv2d(
        x,
        (kernel, kernel, x[3] // groups, filters),
        pad=(h, w),
        groups=groups,
        activation=activation,
        pool=pool,
    )


def transpose(x: Shape, filters: int, factor: int) -> ConvTranspose2d:
    """Upsampling by a transposed convolution whose kernel is as large as its stride."""
    return ConvTranspose2d(x, (factor, factor, filters, x[3]), stride=(factor, factor))


FASTER_3X3 = (Goal(("tensorflow", "torch"), 3.0), Goal(("mnn", "ncnn"), 1.0))

LAYERS = (
    Layer("3x3_64_64_500", "VGG16 conv1_2", (conv((1, 500, 500, 64), 64),), goals=FASTER_3X3),
    Layer("3x3_128_128_250", "VGG16 conv2_2", (conv((1, 250, 250, 128), 128),)),
    Layer("3x3_256_256_125", "VGG16 conv3_2", (conv((1, 125, 125, 256), 256),)),
    Layer("3x3_512_512_63", "VGG16 conv4_2", (conv((1, 63, 63, 512), 512),)),
    Layer("3x3_512_512_32", "VGG16 conv5_1", (conv((1, 32, 32, 512), 512),), goals=FASTER_3X3),
    Layer("3x3_64_128_256", "article's conv2", (conv((1, 256, 256, 64), 128),)),
    Layer("3x3_64_128_256_pool", "conv2 and pool2", (conv((1, 256, 256, 64), 128, pool=True),)),
    Layer("3x3_64_128_128_n8", "a batch of 8", (conv((8, 128, 128, 64), 128),)),
    Layer("3x3_3_64_512", "article's conv1", (conv((1, 512, 512, 3), 64),)),
    Layer("3x3_3_64_512_pool", "conv1 and pool1", (conv((1, 512, 512, 3), 64, pool=True),)),
    Layer("t2x2s2_128_21_128", "article's upsampling", (transpose((1, 128, 128, 128), 21, 2),)),
    Layer("t4x4s4_128_21_128", "to full resolution", (transpose((1, 128, 128, 128), 21, 4),)),
    Layer("dw3x3_128_128", "depthwise", (conv((1, 128, 128, 128), 128, groups=128),)),
    Layer("1x1_256_256_128", "pointwise", (conv((1, 128, 128, 256), 256, 1),)),
    Layer(
        "article_512",
        "article's network",
        (
            conv((1, 512, 512, 3), 64, pool=True),
            conv((1, 256, 256, 64), 128, pool=True),
            transpose((1, 128, 128, 128), 21, 2),
        ),
        graph=models.two_conv(21, as_printed=True),
        goals=(Goal(("tensorflow",), 2.5), Goal(("mnn",), 1.8)),
    ),
)


def select(names: str) -> tuple[Layer, ...]:
    """Layers by a comma-separated list of names, "acceptance" or "all".

    Raises
    ------
    ValueError
        For a name that is not in the table.
    """
    groups = {"all": LAYERS, "acceptance": tuple(layer for layer in LAYERS if layer.goals)}
    if names in groups:
        return groups[names]
    known = {layer.name: layer for layer in LAYERS}
    if unknown := [name for name in names.split(",") if name not in known]:
        raise ValueError(
            f"no layer is named {', '.join(map(repr, unknown))}; "
            f"there are all, acceptance, {', '.join(known)}"
        )
    return tuple(known[name] for name in names.split(","))

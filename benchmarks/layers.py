"""What is timed: layers as chains of `fastconv` specs, in classes that carry the project's goals.

Shapes, padding and arithmetic so have one definition, and every engine is told the same thing.
The rows are in `table`.
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.graphs import Network
from fastconv import shapes
from fastconv.dtypes import ITEMSIZE
from fastconv.memory import aligned_empty
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d

Array = NDArray[Any]
Shape = tuple[int, int, int, int]
Filter = Conv2d | ConvTranspose2d
Step = Filter | Pool2d | Resize2d | ChannelOp | Network


@dataclass(frozen=True)
class Goals:
    """How many times as long as fastconv the fastest peer shall take, at least.

    Attributes
    ----------
    direct : float
        The fastest of the peers that multiply out every product.
    all : float
        The fastest of all peers.
    """

    direct: float
    all: float


@dataclass(frozen=True)
class Layer:
    """What every engine computes: `steps` one after the other.

    Attributes
    ----------
    name : str
        For the command line and the files.
    what : str
        Where such a layer occurs.
    steps : tuple of specs
        Labels, that is an argmax, only at the end; a whole network only alone.
    network : str
        Key of `networks.NETWORKS` where all steps occur; "" if the layer comes from elsewhere.
    goals : Goals, optional
        Of this layer, instead of those of its class.
    files : str
        Folder in which engines find their model files, or else write them; "" for none, so that
        models are made in memory.
    dtype : str
        Of images and weights.
    """

    name: str
    what: str
    steps: tuple[Step, ...]
    network: str = ""
    goals: Goals | None = None
    files: str = ""
    dtype: str = "float32"

    @property
    def x(self) -> Shape:
        """Shape of the input, (n, h, w, c)."""
        return self.steps[0].x

    @property
    def out(self) -> tuple[int, ...]:
        """Shape of the result, (n, h, w, k), or (n, h, w) of labels."""
        return self.steps[-1].out

    @property
    def whole(self) -> Network | None:
        """The network that it is, if any."""
        return self.steps[0] if isinstance(self.steps[0], Network) else None

    def file(self, name: str, make: Callable[[Path], Any]) -> Path | None:
        """The file of that name in `files`, which `make` writes if it is not there yet."""
        if not self.files:
            return None
        path = Path(self.files) / name
        if not path.exists():
            make(path)
        return path

    @property
    def labels(self) -> bool:
        """Whether the result is the number of a channel for each pixel."""
        return is_argmax(self.steps[-1])

    @property
    def flops(self) -> int:
        """Multiplications and additions of its convolutions by the direct algorithm."""
        return sum(step.flops for step in self.steps if isinstance(step, Filter | Network))

    @property
    def nbytes(self) -> int:
        """Bytes that must move: input, weights and result, once; labels as wide as numbers."""
        weights = [step.w for step in self.steps if isinstance(step, Filter)]
        if self.whole is not None:
            weights = list(self.whole.graph.parameters().values())
        return ITEMSIZE[self.dtype] * sum(map(math.prod, (self.x, *weights, self.out)))

    def input(self) -> Array:
        """The input: normal numbers, behind a ReLU unless they are pixels or class scores."""
        x = np.random.default_rng(0).standard_normal(self.x, dtype=np.float32)
        if self.x[3] > 4 and not isinstance(self.steps[0], ChannelOp):
            np.maximum(x, 0, out=x)
        aligned = aligned_empty(self.x, np.float32)  # what every engine allocates for itself
        aligned[...] = as_dtype(x, self.dtype)  # numbers of that type, in float32
        return aligned

    def weights(self) -> list[tuple[Array, ...]]:
        """(weights, bias) of each step that has any, scaled so that activations keep their size.

        Those of a network are in its `model`.
        """
        rng = np.random.default_rng(1)
        found: list[tuple[Array, ...]] = []
        for step in self.steps:
            if not isinstance(step, Filter):
                found.append(())
                continue
            fan_in = math.prod(step.w[:3])
            if isinstance(step, ConvTranspose2d):
                fan_in = step.w[3] * math.prod(step.w[:2]) // math.prod(step.stride)
            scale = np.float32(math.sqrt((2 if step.activation else 1) / max(fan_in, 1)))
            w = rng.standard_normal(step.w, dtype=np.float32) * scale
            bias = rng.standard_normal(step.out[3], dtype=np.float32) * np.float32(0.1)
            found.append(tuple(as_dtype(a, self.dtype).astype(np.float32) for a in (w, bias)))
        return found


@dataclass(frozen=True)
class LayerClass:
    """Layers of one kind, of which the project promises the same.

    Attributes
    ----------
    name, what : str
    layers : tuple of Layer
    goals : Goals, optional
        Of every layer that has none of its own. None: timed, nothing promised.
    mean_direct : float, optional
        Goal of the geometric mean over the layers, beside the fastest direct peer.
    """

    name: str
    what: str
    layers: tuple[Layer, ...]
    goals: Goals | None = None
    mean_direct: float | None = None

    def goals_of(self, layer: Layer) -> Goals | None:
        """What is promised of one of its layers."""
        return layer.goals or self.goals


def batch(layer: Layer, n: int) -> Layer:
    """The layer for `n` images, without goals; its name tells."""
    steps = tuple(replace(step, x=(n, *step.x[1:])) for step in layer.steps)
    name = f"{layer.name}_n{n}" if n > 1 else layer.name
    if len(steps) == 1 and layer.whole is None:
        name = step_name(steps[0])
    return replace(layer, name=name, steps=steps, goals=None)


def as_dtype(array: Array, dtype: str) -> Array:
    """The array as one of that dtype, rounded; bfloat16 needs the package ml_dtypes."""
    if dtype == "bfloat16":
        importlib.import_module("ml_dtypes")  # which makes NumPy know it
    return array.astype(dtype, copy=False)


def is_argmax(step: Step) -> bool:
    """Whether a step makes labels."""
    return isinstance(step, ChannelOp) and step.kind == "argmax"


def is_depthwise(step: Conv2d) -> bool:
    """Whether every channel has kernels of its own."""
    return 1 < step.groups == step.x[3]


def is_global(step: Pool2d) -> bool:
    """Whether a pool has one window, and that is the whole image."""
    return step.size == step.x[1:3] and step.out[1:3] == (1, 1)


def image(size: int, channels: int, n: int = 1) -> Shape:
    """Shape of square images."""
    return n, size, size, channels


def conv(
    x: Shape,
    filters: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
    pad: int | None = None,
    groups: int = 1,
    activation: str | None = "relu",
    pool: bool = False,
) -> Conv2d:
    """A convolution as networks have it: with bias and ReLU; padding "same", or `pad` all round."""
    taps, steps, rate = (kernel, kernel), (stride, stride), (dilation, dilation)
    padding = "same" if pad is None else pad
    return Conv2d(
        x,
        (*taps, x[3] // groups, filters),
        stride=steps,
        pad=shapes.resolve_padding(padding, x[1:3], taps, steps, rate, "conv"),
        dilation=rate,
        groups=groups,
        activation=activation,
        pool=pool,
    )


def depthwise(x: Shape, kernel: int = 3, stride: int = 1) -> Conv2d:
    """A depthwise convolution as in MobileNets: ReLU6, the same padding on all sides."""
    same = kernel // 2
    return conv(x, x[3], kernel, stride=stride, pad=same, groups=x[3], activation="relu6")


def transpose(
    x: Shape, filters: int, kernel: int, stride: int, padding: str | int = "valid"
) -> ConvTranspose2d:
    """Upsampling by a transposed convolution, without activation."""
    taps, steps = (kernel, kernel), (stride, stride)
    pad, out = shapes.resolve_transpose_padding(padding, x[1:3], taps, steps, (1, 1), "transpose")
    return ConvTranspose2d(x, (*taps, filters, x[3]), stride=steps, pad=pad, out_hw=out)


def pool(x: Shape, kind: Any, size: int, stride: int, pad: int = 0) -> Pool2d:
    """A "max" or "avg" pool."""
    return Pool2d(x, kind, (size, size), (stride, stride), ((pad, pad), (pad, pad)))


def global_pool(x: Shape) -> Pool2d:
    """The mean of every channel."""
    return Pool2d(x, "avg", x[1:3], x[1:3])


def step_name(step: Step) -> str:
    """A name that tells the steps of the table and of a network apart, such as 3x3_64_64_500.

    Kernel, stride and dilation unless 1, padding unless "same"; channels in and out; size of the
    input, and the batch unless 1; what is unusual.
    """
    n, h, w, c = step.x
    end = _pair((h, w)) + (f"_n{n}" if n > 1 else "")
    match step:
        case Conv2d():
            kind = "dw" if is_depthwise(step) else f"g{step.groups}_" if step.groups > 1 else ""
            channels = c if is_depthwise(step) else f"{c}_{step.out[3]}"
            end += "_pool" if step.pool else ""
            end += "" if step.activation == "relu" else f"_{step.activation or 'linear'}"
            return f"{kind}{_window(step, step.w[:2], step.x[1:3])}_{channels}_{end}"
        case ConvTranspose2d():
            return f"t{_window(step, step.w[:2], step.out[1:3])}_{c}_{step.out[3]}_{end}"
        case Pool2d():
            window = "_global" if is_global(step) else _window(step, step.size, step.x[1:3])
            return f"{step.kind}{window}_{c}_{end}"
        case Resize2d():
            return f"{step.method}_{c}_{end}_to_{_pair(step.size)}"
        case ChannelOp():
            return f"{step.kind}_{c}_{end}"
        case Network():
            return f"{step.graph.name}_{end}"


def _window(step: Filter | Pool2d, kernel: shapes.Pair, hw: tuple[int, ...]) -> str:
    """Kernel, stride, dilation and padding; `hw` is the larger of the two images."""
    text = "x".join(map(str, kernel))
    for letter, pair in (("s", step.stride), ("d", step.dilation)):
        text += letter + _pair(pair) if pair != (1, 1) else ""
    if step.pad != tuple(map(shapes.same_padding, hw, kernel, step.stride, step.dilation)):
        sides = [end for side in step.pad for end in side]
        text += "p" + "-".join(map(str, sides if len(set(sides)) > 1 else sides[:1]))
    return text


def _pair(sizes: shapes.Pair) -> str:
    """One number where both are equal."""
    return str(sizes[0]) if sizes[0] == sizes[1] else f"{sizes[0]}x{sizes[1]}"

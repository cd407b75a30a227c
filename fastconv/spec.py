"""What one operation computes: frozen, hashable descriptions that reject nonsense when made.

Everything is explicit here. Padding strings, ints that stand for pairs, depthwise weights and
``ceil_mode`` are resolved before (`fastconv.shapes`), so that the reference and the kernels read
plain numbers and check nothing. A spec says nothing about *how*: that is a plan.

Axes: ``n`` image, ``h w`` rows and columns, ``c`` input channel, ``k`` output channel,
``kh kw`` taps.
"""

import math
import operator
from dataclasses import dataclass, fields
from typing import Any, Literal

from fastconv import shapes
from fastconv.activations import ACTIVATIONS
from fastconv.dtypes import DTYPES
from fastconv.shapes import Pad, Pair

__all__ = [
    "ChannelOp",
    "Conv2d",
    "ConvTranspose2d",
    "Pool2d",
    "Resize2d",
    "check_dtype",
]

Shape = tuple[int, int, int, int]

POOLS = ("max", "avg")
METHODS = ("nearest", "bilinear", "bicubic")
CHANNEL_OPS = ("argmax", "softmax")
COORDINATES = ("half_pixel", "asymmetric", "align_corners")
NO_PAD: Pad = ((0, 0), (0, 0))


@dataclass(frozen=True)
class Conv2d:
    """One convolution (cross-correlation) with its bias, activation and fused pool.

    Attributes
    ----------
    x : (n, h, w, c)
        Shape of the input.
    w : (kh, kw, c / groups, k)
        Shape of the weights.
    stride, dilation : (vertical, horizontal)
    pad : ((top, bottom), (left, right))
        Zeros around the input.
    groups : int
        Output channel ``k`` reads the ``c / groups`` input channels of its group.
    activation : None or a name in `activations.ACTIVATIONS`
    alpha : float, optional
        Parameter of the activation; None for a function without one and for "prelu", whose slopes
        are an array.
    add : bool
        A residual of the output's shape is added before the activation.
    pool : bool
        A 2x2 max-pool of stride 2 without padding follows the activation.
    dtype : a name in `dtypes.DTYPES`
        Of the input, the weights and the output.
    """

    x: Shape
    w: Shape
    stride: Pair = (1, 1)
    pad: Pad = NO_PAD
    dilation: Pair = (1, 1)
    groups: int = 1
    activation: str | None = None
    alpha: float | None = None
    add: bool = False
    pool: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _check_filter(self, "conv2d")
        channels = self.x[3] // self.groups
        if self.w[2] != channels:
            grouped = f", {channels} in each of {self.groups} groups," if self.groups > 1 else ""
            raise ValueError(
                f"conv2d: input has {self.x[3]} channels (axis 3 of {self.x}){grouped} but the "
                f"weights expect {self.w[2]} (axis 2 of {self.w})"
            )
        _check_groups("conv2d", self.groups, self.w[3], f"output channels (axis 3 of {self.w})")
        _check_sides("conv2d", self.pad)
        _named("conv2d", lambda: self.out)

    @property
    def conv_out(self) -> Shape:
        """Shape of the result before the fused pool."""
        h, w = map(shapes.conv_out, self.x[1:3], self.w[:2], self.stride, self.pad, self.dilation)
        return self.x[0], h, w, self.w[3]

    @property
    def out(self) -> Shape:
        """Shape of the result."""
        n, h, w, k = self.conv_out
        if self.pool:
            h, w = (shapes.conv_out(size, 2, 2, (0, 0)) for size in (h, w))
        return n, h, w, k

    @property
    def flops(self) -> int:
        """Multiplications and additions of the direct algorithm, padding included."""
        return 2 * math.prod(self.conv_out) * math.prod(self.w[:3])


@dataclass(frozen=True)
class ConvTranspose2d:
    """One transposed convolution: the adjoint of a convolution, not its inverse.

    Attributes
    ----------
    x : (n, h, w, c)
        Shape of the input.
    w : (kh, kw, k / groups, c)
        Shape of the weights: those of the convolution whose adjoint this is.
    stride, dilation : (vertical, horizontal)
    pad : ((top, bottom), (left, right))
        Crop of the full result: ``y[i, j] = full[i + top, j + left]``. The bottom and the right
        are negative where ``y`` reaches past the full result; only the bias is there.
    out_hw : (int, int), optional
        Height and width of the result; by default what the crop leaves.
    groups : int
        Input channel ``c`` adds to the ``k / groups`` output channels of its group.
    activation, alpha, add, dtype
        As in `Conv2d`.
    """

    x: Shape
    w: Shape
    stride: Pair = (1, 1)
    pad: Pad = NO_PAD
    out_hw: Pair | None = None
    dilation: Pair = (1, 1)
    groups: int = 1
    activation: str | None = None
    alpha: float | None = None
    add: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        op = "conv2d_transpose"
        _check_filter(self, op)
        if self.w[3] != self.x[3]:
            raise ValueError(
                f"{op}: input has {self.x[3]} channels (axis 3 of {self.x}) but the weights "
                f"expect {self.w[3]} (axis 3 of {self.w})"
            )
        left = tuple(
            map(
                shapes.conv_transpose_out,
                self.x[1:3], self.w[:2], self.stride, self.pad, self.dilation,
            )
        )  # fmt: skip
        if self.out_hw is None:
            object.__setattr__(self, "out_hw", left)
        elif self.out_hw != left:
            raise ValueError(
                f"{op}: pad {self.pad} leaves {left[0]} x {left[1]} pixels of the full result "
                f"but out_hw is {self.out_hw}"
            )
        if min(self.out) < 0 or min(side[0] for side in self.pad) < 0:
            raise ValueError(
                f"{op}: pad {self.pad} must not be negative at the top and the left, nor crop "
                f"more than there is (output {self.out})"
            )

    @property
    def out(self) -> Shape:
        """Shape of the result."""
        assert self.out_hw is not None  # __post_init__ filled it
        return self.x[0], *self.out_hw, self.w[2] * self.groups

    @property
    def flops(self) -> int:
        """Multiplications and additions before cropping."""
        return 2 * math.prod(self.x) * math.prod(self.w[:3])


@dataclass(frozen=True)
class Pool2d:
    """One pool over windows of ``size``.

    Attributes
    ----------
    x : (n, h, w, c)
        Shape of the input.
    kind : "max" or "avg"
    size, stride, dilation : (vertical, horizontal)
    pad : ((top, bottom), (left, right))
        Padding never wins a maximum.
    out_hw : (int, int), optional
        Number of windows; by default those that fit into the padded input. ``ceil_mode`` adds
        one that reaches past it.
    count_include_pad : bool
        An average divides by the taps inside the *padded* input instead of by those inside the
        input. Taps past the padding never count.
    dtype : a name in `dtypes.DTYPES`
    """

    x: Shape
    kind: Literal["max", "avg"]
    size: Pair
    stride: Pair
    pad: Pad = NO_PAD
    dilation: Pair = (1, 1)
    out_hw: Pair | None = None
    count_include_pad: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        op = self.op
        if self.kind not in POOLS:
            raise ValueError(f"pool2d: unknown kind {self.kind!r}; use {_choices(POOLS)}")
        _freeze(self, op)
        _check_x(op, self.x)
        for name in ("size", "stride", "dilation"):
            _check_pair(op, name, getattr(self, name))
        _check_sides(op, self.pad)
        check_dtype(op, self.dtype)
        if self.out_hw is None:
            args = (self.x[1:3], self.size, self.stride, self.pad, self.dilation)
            out_hw = _named(op, lambda: tuple(map(shapes.conv_out, *args)))
            object.__setattr__(self, "out_hw", out_hw)
        _check_pair(op, "out_hw", self.out_hw, least=0)
        for a, axis in enumerate(shapes.AXES):
            window = shapes.empty_window(
                self.x[1 + a], self.out[1 + a], self.size[a], self.stride[a],
                self.pad[a][0], self.dilation[a],
            )  # fmt: skip
            if window is not None:
                raise ValueError(
                    f"{op}: window {window} of the {axis} holds only padding (input {axis} "
                    f"{self.x[1 + a]}, size {self.size[a]}, stride {self.stride[a]}, padding "
                    f"{self.pad[a]}, dilation {self.dilation[a]}); pad less"
                )

    @property
    def op(self) -> str:
        """Public name of the operation."""
        return f"{self.kind}_pool2d"

    @property
    def out(self) -> Shape:
        """Shape of the result."""
        assert self.out_hw is not None  # __post_init__ filled it
        return self.x[0], *self.out_hw, self.x[3]


@dataclass(frozen=True)
class Resize2d:
    """One change of height and width by interpolation.

    Attributes
    ----------
    x : (n, h, w, c)
        Shape of the input.
    size : (int, int)
        Height and width of the result.
    method : "nearest", "bilinear" or "bicubic"
    coordinates : "half_pixel", "asymmetric" or "align_corners"
        Where a pixel of the result lies in the input.
    dtype : a name in `dtypes.DTYPES`
    rows : (int, int), optional
        The first row of the result, and the one behind the last; default all.
    above, height : int
        `x` holds the rows from `above` on of an image of `height` rows; default all.
    """

    x: Shape
    size: Pair
    method: str = "bilinear"
    coordinates: str = "half_pixel"
    dtype: str = "float32"
    rows: Pair | None = None
    above: int = 0
    height: int | None = None

    def __post_init__(self) -> None:
        op = "resize2d"
        _freeze(self, op)
        _check_x(op, self.x)
        _check_pair(op, "size", self.size)
        check_dtype(op, self.dtype)
        for name, known in (("method", METHODS), ("coordinates", COORDINATES)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{op}: unknown {name} {value!r}; use {_choices(known)}")
        if 0 in self.x[1:3]:
            raise ValueError(f"{op}: no pixels to resize, the input has shape {self.x}")
        object.__setattr__(self, "rows", self.rows or (0, self.size[0]))
        object.__setattr__(self, "height", self.height or self.above + self.x[1])
        _check_pair(op, "rows", self.wanted, least=0)
        low, high = self.wanted
        if not 0 <= low <= high <= self.size[0]:
            raise ValueError(f"{op}: rows {self.rows} are not in a result of {self.size[0]} rows")
        if not 0 <= self.above <= self.whole - self.x[1]:
            raise ValueError(
                f"{op}: an image of {self.whole} rows has no {self.x[1]} from {self.above} on"
            )

    @property
    def wanted(self) -> Pair:
        """The rows of the result."""
        assert self.rows is not None  # __post_init__ filled it
        return self.rows

    @property
    def whole(self) -> int:
        """The rows of the image of which `x` is a part."""
        assert self.height is not None  # __post_init__ filled it
        return self.height

    @property
    def out(self) -> Shape:
        """Shape of the result."""
        return self.x[0], self.wanted[1] - self.wanted[0], self.size[1], self.x[3]


@dataclass(frozen=True)
class ChannelOp:
    """What each pixel's channels give.

    Attributes
    ----------
    x : (n, h, w, c)
        Shape of the input.
    kind : "argmax" or "softmax"
        The channel with the largest value (the first of equals, the first NaN), or
        ``exp(x) / sum(exp(x))`` over the channels.
    dtype : a name in `dtypes.DTYPES`
    """

    x: Shape
    kind: Literal["argmax", "softmax"]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.kind not in CHANNEL_OPS:
            raise ValueError(f"unknown kind {self.kind!r}; use {_choices(CHANNEL_OPS)}")
        _freeze(self, self.kind)
        _check_x(self.kind, self.x)
        check_dtype(self.kind, self.dtype)
        if self.x[3] == 0:
            raise ValueError(f"{self.kind}: no channels, the input has shape {self.x}")

    @property
    def out(self) -> tuple[int, ...]:
        """Shape of the result: (n, h, w) of an argmax, that of the input otherwise."""
        return self.x[:3] if self.kind == "argmax" else self.x


def check_dtype(op: str, dtype: str) -> None:
    """Raise TypeError unless ``dtype`` is the name of a supported one."""
    if dtype not in DTYPES:
        raise TypeError(f"{op}: dtype {dtype} is not supported; convert with x.astype(np.float32)")


def _choices(names: tuple[str | None, ...]) -> str:
    return ", ".join(map(repr, names))


def _named(op: str, compute: Any) -> Any:
    """Run ``compute`` and put the operation's name before the message of its ValueError."""
    try:
        return compute()
    except ValueError as error:
        raise ValueError(f"{op}: {error}") from None


def _freeze(spec: Any, op: str) -> None:
    """Turn lists and NumPy integers into tuples of ints, so that equal specs hash alike."""
    for field in fields(spec):
        value = getattr(spec, field.name)
        if isinstance(value, list | tuple):
            object.__setattr__(spec, field.name, _tuple(op, field.name, value))


def _tuple(op: str, name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_tuple(op, name, item) for item in value)
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must hold integers, got {value!r}") from None


def _check_x(op: str, x: Shape) -> None:
    if len(x) != 4:
        raise ValueError(f"{op}: x must have 4 axes (n, h, w, c), got {len(x)}: {x}")
    if min(x) < 0:
        raise ValueError(f"{op}: the shape of x must not be negative, got {x}")


def _check_pair(op: str, name: str, value: Any, least: int = 1) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"{op}: {name} must be a pair of ints, got {value!r}")
    if min(value) < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {value}")


def _check_pad(op: str, pad: Pad) -> None:
    if not all(isinstance(side, tuple) and len(side) == 2 for side in (pad, *pad)):
        raise TypeError(f"{op}: pad must be ((top, bottom), (left, right)), got {pad!r}")


def _check_sides(op: str, pad: Pad) -> None:
    _check_pad(op, pad)
    if min(*pad[0], *pad[1]) < 0:
        raise ValueError(f"{op}: padding must not be negative, got {pad}")


def _check_groups(op: str, groups: int, channels: int, where: str) -> None:
    if channels % groups:
        raise ValueError(f"{op}: groups={groups} does not divide the {channels} {where}")


def _check_filter(spec: Conv2d | ConvTranspose2d, op: str) -> None:
    """Check what convolution and transposed convolution have in common."""
    _freeze(spec, op)
    _check_x(op, spec.x)
    if len(spec.w) != 4:
        raise ValueError(f"{op}: w must have 4 axes, got {len(spec.w)}: {spec.w}")
    if min(spec.w) < 0 or min(spec.w[:2]) < 1:
        raise ValueError(f"{op}: a kernel needs at least one tap, got weights of shape {spec.w}")
    for name in ("stride", "dilation"):
        _check_pair(op, name, getattr(spec, name))
    _check_pad(op, spec.pad)
    if spec.groups < 1:
        raise ValueError(f"{op}: groups must be at least 1, got {spec.groups}")
    _check_groups(op, spec.groups, spec.x[3], f"input channels (axis 3 of {spec.x})")
    _check_activation(op, spec)
    check_dtype(op, spec.dtype)


def _check_activation(op: str, spec: Conv2d | ConvTranspose2d) -> None:
    """Check the name of an activation and its parameter, and fill in the parameter's default."""
    name, alpha = spec.activation, spec.alpha
    if name not in ACTIVATIONS:
        raise ValueError(f"{op}: unknown activation {name!r}; use {_choices(tuple(ACTIVATIONS))}")
    default = ACTIVATIONS[name].alpha
    if default is None or math.isnan(default):
        if alpha is not None:
            raise ValueError(f"{op}: activation {name!r} has no parameter alpha, got {alpha!r}")
        return
    alpha = default if alpha is None else alpha
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"{op}: alpha of {name!r} must be a finite number, got {alpha!r}")
    object.__setattr__(spec, "alpha", float(alpha))

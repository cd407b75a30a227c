"""The operations of a graph: one row for each, with its attributes and its rules for shapes.

An operation is added in several places: here, in `fcn.steps` (how it runs), `fcn.rows` (which rows
it reads), `fcn.tf_reference` and `fcn.onnx.export` (what others call it), and in `fcn.tolerances`
(how far two of its results may lie apart).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastconv import activations, shapes, spec

__all__ = [
    "ACTIVATIONS",
    "CLAMPS",
    "ELEMENTWISE",
    "OPS",
    "REQUIRED",
    "Op",
    "Shape",
    "checked",
    "transposed",
]

Shape = tuple[int, int, int, int]
Attrs = Mapping[str, Any]
Pair = shapes.Pair
REQUIRED = object()

# the least value of each of a pair
LEAST = {
    "kernel": 1, "stride": 1, "dilation": 1, "size": 1, "factor": 1, "offset": 0,
    "output_padding": 0,
}  # fmt: skip
COUNTS = ("filters", "multiplier", "groups")
FLAGS = ("use_bias", "ceil_mode")
PADDINGS = ("valid", "same")
# name -> what a convolution's plan does with it; the slopes of "prelu" are weights
ACTIVATIONS = activations.ACTIVATIONS
# name -> the ends of the interval to which it clamps, for sums
CLAMPS = {k: v.clamp for k, v in ACTIVATIONS.items() if v.clamp is not None}
# of numbers at one place in several tensors
ELEMENTWISE = ("add", "subtract", "multiply", "average", "maximum", "minimum")


@dataclass(frozen=True)
class Op:
    """What a graph knows of one operation.

    Attributes
    ----------
    attrs : dict
        Attributes with their defaults; `REQUIRED` where there is none.
    size : function of (attrs, shapes of the inputs)
        Height and width of the result; ValueError if the shapes do not fit.
    channels : function of (attrs, channels of the inputs)
        Channels of the result; by default those of the first input.
    kernel : function of (attrs, channels of the first input), optional
        Shape of the weights of an operation that has any.
    inputs : int
        How many tensors it reads.
    more : bool
        Whether it reads any number of tensors from `inputs` on.
    """

    attrs: dict[str, Any]
    size: Callable[[Attrs, Sequence[Shape]], Pair]
    channels: Callable[[Attrs, Sequence[int]], int] = lambda _, c: c[0]
    kernel: Callable[[Attrs, int], Shape] | None = None
    inputs: int = 1
    more: bool = False


def checked(op: str, key: str, value: Any) -> Any:
    """An attribute in its one stored form, which is that of JSON: lists instead of tuples.

    Raises
    ------
    ValueError
        For a value out of range; the message begins with the attribute.
    """
    if key == "output_padding" and value is None:
        return None  # what fits the padding
    if key in LEAST:
        pair = list(value) if isinstance(value, (list, tuple)) else [value, value]
        if len(pair) != 2 or not _integers(pair, LEAST[key]):
            raise ValueError(f"{key} is one or two integers >= {LEAST[key]}: {value!r}")
        return pair
    if key in COUNTS and not _integers([value], 1):
        raise ValueError(f"{key} is an integer >= 1, got {value!r}")
    if key in FLAGS and not isinstance(value, bool):
        raise ValueError(f"{key} is True or False, got {value!r}")
    if key == "activation":
        known = tuple(CLAMPS if op == "add" else ACTIVATIONS)
        if value not in known:
            raise ValueError(f"activation is one of {known}, got {value!r}")
    if key == "alpha" and value is not None:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"alpha is None or a finite number, got {value!r}")
        return float(value)
    if key == "method" and value not in spec.METHODS:
        raise ValueError(f"method is one of {spec.METHODS}, got {value!r}")
    if key == "sides":
        return _sides(value)
    if key == "padding" and value not in PADDINGS:
        if op == "conv2d_transpose":
            raise ValueError(f"padding is 'valid' or 'same', got {value!r}")
        return _sides(value)
    return value


def _integers(values: Iterable[Any], least: int) -> bool:
    return all(type(value) is int and value >= least for value in values)


def _sides(value: Any) -> list[list[int]]:
    rows = value if isinstance(value, (list, tuple)) else ()
    sides = [list(side) if isinstance(side, (list, tuple)) else [] for side in rows]
    if [len(side) for side in sides] != [2, 2] or not _integers(sides[0] + sides[1], 0):
        raise ValueError(
            f"padding is 'valid', 'same' or [[top, bottom], [left, right]] of integers >= 0, "
            f"got {value!r}"
        )
    return sides


def _axes(attrs: Attrs, window: str, x: Shape) -> list[tuple[int, int, int, Pair, int]]:
    """Size, taps, stride, padding and dilation of the height and of the width."""
    dilation = tuple(attrs.get("dilation", (1, 1)))
    sizes = x[1:3], tuple(attrs[window]), tuple(attrs["stride"])
    pads = shapes.resolve_padding(attrs["padding"], *sizes, dilation, "padding")
    return list(zip(*sizes, pads, dilation, strict=True))


def _slide(attrs: Attrs, inputs: Sequence[Shape]) -> Pair:
    rows, cols = (shapes.conv_out(*axis) for axis in _axes(attrs, "kernel", inputs[0]))
    return rows, cols


def _pool(attrs: Attrs, inputs: Sequence[Shape]) -> Pair:
    found = []
    for name, axis in zip(shapes.AXES, _axes(attrs, "size", inputs[0]), strict=True):
        size, taps, stride, pad, _ = axis
        found.append(shapes.conv_out(*axis, attrs["ceil_mode"]))
        window = shapes.empty_window(size, found[-1], taps, stride, pad[0])
        if window is not None:
            raise ValueError(
                f"window {window} of the {name} holds only padding (size {size}, window {taps}, "
                f"stride {stride}, padding {pad}); pad less"
            )
    return found[0], found[1]


def transposed(attrs: Attrs, hw: Sequence[int]) -> tuple[shapes.Pad, Pair]:
    """Crop and size of a transposed convolution, as `fastconv.shapes` resolves them."""
    return shapes.resolve_transpose_padding(
        attrs["padding"], hw, tuple(attrs["kernel"]), tuple(attrs["stride"]),
        tuple(attrs["dilation"]), "padding", attrs["output_padding"],
    )  # fmt: skip


def _share(attrs: Attrs, **channels: int) -> int:
    """Channels of a group, of the first count that is given; ValueError where one is not even."""
    for name, count in channels.items():
        if count % attrs["groups"]:
            raise ValueError(f"groups={attrs['groups']} does not divide the {count} {name}")
    return next(iter(channels.values())) // int(attrs["groups"])


def _together(_: Attrs, inputs: Sequence[Shape]) -> Pair:
    """Axes of size 1 are repeated, as NumPy does."""
    for sizes in zip(*inputs, strict=True):
        if len(set(sizes) - {1}) > 1:
            raise ValueError(f"shapes {' and '.join(map(str, inputs))} differ")
    return max(s[1] for s in inputs), max(s[2] for s in inputs)


def _same(_: Attrs, inputs: Sequence[Shape]) -> Pair:
    return inputs[0][1:3]


def _whole(_: Attrs, inputs: Sequence[Shape]) -> Pair:
    if 0 in inputs[0][1:3]:
        raise ValueError(f"no pixels to pool in {inputs[0]}")
    return 1, 1


def _padded(attrs: Attrs, inputs: Sequence[Shape]) -> Pair:
    (top, bottom), (left, right) = attrs["sides"]
    return inputs[0][1] + top + bottom, inputs[0][2] + left + right


def _trimmed(attrs: Attrs, inputs: Sequence[Shape]) -> Pair:
    (top, bottom), (left, right) = attrs["sides"]
    h, w = inputs[0][1] - top - bottom, inputs[0][2] - left - right
    if h < 1 or w < 1:
        raise ValueError(f"nothing is left of {inputs[0][1]} x {inputs[0][2]} pixels")
    return h, w


def _enlarged(attrs: Attrs, inputs: Sequence[Shape]) -> Pair:
    return inputs[0][1] * int(attrs["factor"][0]), inputs[0][2] * int(attrs["factor"][1])


def _side_by_side(_: Attrs, inputs: Sequence[Shape]) -> Pair:
    if len({shape[1:3] for shape in inputs}) > 1:
        raise ValueError(
            f"heights and widths differ in the shapes {', '.join(map(str, inputs))}; use an input "
            "whose height and width are multiples of the graph's total_stride"
        )
    return inputs[0][1:3]


def _cut(attrs: Attrs, inputs: Sequence[Shape]) -> Pair:
    (top, left), (_, h, w, _), (_, rows, cols, _) = attrs["offset"], *inputs
    if top + rows > h or left + cols > w:
        raise ValueError(f"no {rows} x {cols} pixels at offset {[top, left]} in {h} x {w}")
    return rows, cols


def _like(_: Attrs, inputs: Sequence[Shape]) -> Pair:
    (h, w), (rows, cols) = inputs[0][1:3], inputs[1][1:3]
    if not (h and w and rows and cols):
        raise ValueError(f"cannot resize {h} x {w} pixels to {rows} x {cols}")
    return rows, cols


CONVOLUTION = {
    "kernel": REQUIRED,
    "stride": 1,
    "padding": "valid",
    "dilation": 1,
    "activation": None,
    "alpha": None,
    "use_bias": True,
}
POOL = {"size": REQUIRED, "stride": REQUIRED, "padding": "valid", "ceil_mode": False}
OPS: dict[str, Op] = {
    "conv2d": Op(
        {"filters": REQUIRED, **CONVOLUTION, "groups": 1},
        _slide,
        channels=lambda a, _: int(a["filters"]),
        kernel=lambda a, c: (
            *a["kernel"],
            _share(a, channels=c, filters=a["filters"]),
            a["filters"],
        ),
    ),
    "depthwise_conv2d": Op(
        {"multiplier": 1, **CONVOLUTION},
        _slide,
        channels=lambda a, c: c[0] * int(a["multiplier"]),
        kernel=lambda a, c: (*a["kernel"], c, a["multiplier"]),
    ),
    "conv2d_transpose": Op(
        {
            "filters": REQUIRED,
            "kernel": REQUIRED,
            "stride": 1,
            "padding": "valid",
            "output_padding": None,
            "dilation": 1,
            "groups": 1,
            "use_bias": True,
        },
        lambda a, s: transposed(a, s[0][1:3])[1],
        channels=lambda a, _: int(a["filters"]),
        kernel=lambda a, c: (*a["kernel"], _share(a, filters=a["filters"], channels=c), c),
    ),
    "max_pool2d": Op(POOL, _pool),
    "avg_pool2d": Op(POOL, _pool),
    "global_max_pool2d": Op({}, _whole),
    "global_avg_pool2d": Op({}, _whole),
    "activation": Op({"activation": REQUIRED, "alpha": None}, _same),
    "softmax": Op({}, _same),
    **{
        name: Op(
            {"activation": None} if name == "add" else {},
            _together,
            channels=lambda _, c: max(c),
            inputs=2,
            more=name != "subtract",
        )
        for name in ELEMENTWISE
    },
    "pad2d": Op({"sides": REQUIRED}, _padded),
    "trim2d": Op({"sides": REQUIRED}, _trimmed),
    "upsample2d": Op({"factor": REQUIRED, "method": "nearest"}, _enlarged),
    "resize2d_to": Op(
        {"size": REQUIRED, "method": "bilinear"}, lambda a, _: (a["size"][0], a["size"][1])
    ),
    "concat": Op({}, _side_by_side, channels=lambda _, c: sum(c), inputs=2, more=True),
    "crop": Op({"offset": [0, 0]}, _cut, inputs=2),
    "resize2d": Op({}, _like, inputs=2),
}

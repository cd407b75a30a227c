"""Every rule for padding and output sizes, on plain integers.

The reference and the fast kernels share this module, so no comparison between them can see a
mistake made here: the tests pin it by literals taken from TensorFlow, PyTorch and ONNX.

Along one axis a window of ``kernel`` taps, ``dilation`` pixels apart, covers
``extent = (kernel - 1) * dilation + 1`` pixels; windows start ``stride`` pixels apart.
"""

import itertools
import operator
from collections.abc import Sequence
from typing import Any

__all__ = [
    "Pad",
    "Pair",
    "conv_out",
    "conv_transpose_out",
    "empty_window",
    "extent",
    "nearest_source",
    "pair",
    "resize_source",
    "resolve_padding",
    "resolve_transpose_padding",
    "same_padding",
]

Pair = tuple[int, int]
Pad = tuple[Pair, Pair]

NAMED_PADDINGS = ("valid", "same", "same_lower")
PADDING_HELP = '"valid", "same", "same_lower", p, (ph, pw) or ((top, bottom), (left, right))'
AXES = ("height", "width")


def extent(kernel: int, dilation: int = 1) -> int:
    """Pixels from the first to the last tap: ``(kernel - 1) * dilation + 1``."""
    return (kernel - 1) * dilation + 1


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> Pair:
    """Zeros ``(before, after)`` for ``out == ceil(size / stride)``; the odd one goes after.

    This is TensorFlow's "SAME" and ONNX's SAME_UPPER. SAME_LOWER is the same pair reversed.
    """
    out = -(-size // stride)
    total = max((out - 1) * stride + extent(kernel, dilation) - size, 0)
    return total // 2, total - total // 2


def conv_out(
    size: int, kernel: int, stride: int, pad: Pair, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Number of windows along one axis: ``floor((size + sum(pad) - extent) / stride) + 1``.

    Parameters
    ----------
    size, kernel, stride, dilation : int
        In pixels, except ``kernel``, which counts taps.
    pad : (int, int)
        Pixels added before and after the axis.
    ceil_mode : bool
        Round up instead of down, as PyTorch and ONNX do: the last window may reach past the
        padding, but it starts inside the input or the padding before it.

    Returns
    -------
    int
        An empty axis has no windows, unless its padding alone holds one.

    Raises
    ------
    ValueError
        The window does not fit into a non-empty axis.
    """
    span, room = extent(kernel, dilation), size + sum(pad)
    out = (room - span) // stride + 1
    if ceil_mode:
        out = -((span - room) // stride) + 1
        out -= (out - 1) * stride >= size + pad[0]
    if out >= 1:
        return out
    if size == 0:
        return 0
    raise ValueError(
        f"window of {span} pixels (kernel {kernel}, dilation {dilation}) does not fit in "
        f"{room} (size {size}, padding {pad}); use a larger input or padding='same'"
    )


def conv_transpose_out(
    size: int, kernel: int, stride: int, pad: Pair, dilation: int = 1, output_padding: int = 0
) -> int:
    """``(size - 1) * stride + extent - sum(pad) + output_padding``; an empty axis stays empty.

    ``pad`` is what is cropped from the ends of the full result.
    """
    if size == 0:
        return 0
    return (size - 1) * stride + extent(kernel, dilation) - sum(pad) + output_padding


def empty_window(
    size: int, out: int, kernel: int, stride: int, before: int, dilation: int = 1
) -> int | None:
    """Index of a window all of whose taps lie in the padding, or None when there is none.

    A pool has no value for such a window. Only the windows that start outside the axis are
    looked at: the others hold the pixel that they start on.
    """
    first, past = -(-before // stride), -(-(size + before) // stride)
    for i in itertools.chain(range(min(out, first)), range(past, out)):
        start = i * stride - before
        if not any(0 <= start + p * dilation < size for p in range(kernel)):
            return i
    return None


def resize_source(i: Any, size: int, out: int, coordinates: str) -> tuple[Any, int]:
    """Where pixel ``i`` of ``out`` lies among ``size`` pixels: an exact fraction (above, below).

    ``i`` is an int or an array of them.

    ===============  ===================================
    half_pixel       ``(i + 1/2) * size / out - 1/2``
    asymmetric       ``i * size / out``
    align_corners    ``i * (size - 1) / (out - 1)``, 0 when ``out`` is 1
    ===============  ===================================

    Fractions, because a coordinate that is rounded first may fall on the wrong side of a pixel.
    """
    if coordinates == "half_pixel":
        return (2 * i + 1) * size - out, 2 * out
    if coordinates == "asymmetric":
        return i * size, out
    return i * (size - 1), max(out - 1, 1)


def nearest_source(i: Any, size: int, out: int, coordinates: str) -> Any:
    """Give the pixel that nearest-neighbour interpolation copies to ``i``, as TensorFlow does.

    half_pixel ``floor((i + 1/2) * size / out)``, asymmetric ``floor(i * size / out)``,
    align_corners rounds ``i * (size - 1) / (out - 1)``, halves up.
    """
    above, below = resize_source(i, size, out, coordinates)
    if coordinates == "asymmetric":
        return above // below
    return (2 * above + below) // (2 * below)


def pair(value: Any, name: str, op: str, least: int = 1) -> Pair:
    """Give ``(vertical, horizontal)`` from an int, which serves both axes, or from two ints.

    Raises
    ------
    TypeError
        Not one or two integers. A bool or a float is not one.
    ValueError
        An integer below ``least``.
    """
    values = _integers(value)
    if values is None or len(values) not in (1, 2):
        raise TypeError(f"{op}: {name} must be an int or a pair of ints, got {value!r}")
    if min(values) < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {value!r}")
    return values[0], values[-1]


def resolve_padding(
    padding: Any, hw: Sequence[int], kernel: Pair, stride: Pair, dilation: Pair, op: str
) -> Pad:
    """Turn every accepted spelling of padding into ``((top, bottom), (left, right))``.

    Parameters
    ----------
    padding : str, int, (int, int) or ((int, int), (int, int))
        "valid" (none), "same" (TensorFlow's rule, the odd pixel goes after), "same_lower" (ONNX:
        the odd pixel goes before), the same number on all four sides, (vertical, horizontal), or
        all four.
    hw : (int, int)
        Height and width of the input.
    kernel, stride, dilation : (int, int)
        Vertical and horizontal.
    op : str
        Name of the operation, for the message.

    Raises
    ------
    TypeError, ValueError
        ``padding`` is none of these, or negative.
    """
    if not isinstance(padding, str):
        return _explicit_padding(padding, op)
    if padding not in NAMED_PADDINGS:
        raise ValueError(f"{op}: unknown padding {padding!r}; use {PADDING_HELP}")
    if padding == "valid":
        return (0, 0), (0, 0)
    vertical, horizontal = map(same_padding, hw, kernel, stride, dilation)
    if padding == "same_lower":
        return vertical[::-1], horizontal[::-1]
    return vertical, horizontal


def resolve_transpose_padding(
    padding: Any,
    hw: Sequence[int],
    kernel: Pair,
    stride: Pair,
    dilation: Pair,
    op: str,
    output_padding: Any = None,
    output_shape: Any = None,
) -> tuple[Pad, Pair]:
    """Crop and size of a transposed convolution, by the rules of Keras and TensorFlow.

    The full result has ``full = (size - 1) * stride + extent`` pixels along an axis. Its size
    after cropping is

    ========================  ===================================  =============================
    padding                   by default                           with ``output_padding``
    ========================  ===================================  =============================
    "valid"                   ``full + max(stride - extent, 0)``   ``full + output_padding``
    "same", "same_lower"      ``size * stride``                    ``full - extent + extent % 2
                                                                   + output_padding``
    explicit                  ``full - crop``                      ``full - crop + output_padding``
    ========================  ===================================  =============================

    or what ``output_shape`` says. In all cases it is a size that the forward convolution with
    the same padding maps back to ``size``; "same" crops the padding of that convolution.

    Parameters
    ----------
    padding, hw, kernel, stride, dilation, op
        As in `resolve_padding`. Explicit numbers are cropped from the full result.
    output_padding : int or (int, int), optional
        Extra rows and columns at the bottom and the right.
    output_shape : (int, int), optional
        Height and width of the result; excludes ``output_padding``.

    Returns
    -------
    pad : ((int, int), (int, int))
        ``y[i, j] = full[i + top, j + left]``. The bottom and the right are negative where the
        result reaches past the full one; zeros, and the bias, are there.
    out_hw : (int, int)
        Height and width of the result.

    Raises
    ------
    TypeError, ValueError
        A malformed argument, both sizes given, or a size that the forward convolution does not
        map back to the input; the message gives the valid range.
    """
    if output_padding is not None and output_shape is not None:
        raise ValueError(
            f"{op}: give output_padding or output_shape, not both "
            f"(got {output_padding!r} and {output_shape!r})"
        )
    extra = None if output_padding is None else pair(output_padding, "output_padding", op, 0)
    wanted = None if output_shape is None else _output_shape(output_shape, op)
    # Rejects bad spellings, and says what to crop when the padding is explicit.
    explicit = resolve_padding(padding, hw, kernel, stride, dilation, op)

    pads, sizes = [], []
    for a, name in enumerate(AXES):
        full = conv_transpose_out(hw[a], kernel[a], stride[a], (0, 0), dilation[a])
        base, default, valid = _transpose_sizes(
            padding, full, hw[a], extent(kernel[a], dilation[a]), stride[a], explicit[a]
        )
        given = f"an input {name} of {hw[a]} with kernel {kernel[a]}, stride {stride[a]}, "
        given += f"dilation {dilation[a]} and padding {padding!r}"
        if not valid:
            raise ValueError(f"{op}: {given} leaves nothing of the {full} pixels; crop less")
        size = default if extra is None or hw[a] == 0 else base + extra[a]
        size = size if wanted is None else wanted[a]
        if size not in valid:
            raise ValueError(
                f"{op}: an output {name} of {size} is impossible: {given} gives "
                f"{valid[0]} to {valid[-1]}"
            )
        before = explicit[a][0]
        if padding in ("same", "same_lower"):
            crop = max(full - size, 0)
            before = crop // 2 if padding == "same" else crop - crop // 2
        pads.append((before, full - size - before))
        sizes.append(size)
    return (pads[0], pads[1]), (sizes[0], sizes[1])


def _transpose_sizes(
    padding: Any, full: int, size: int, span: int, stride: int, crop: Pair
) -> tuple[int, int, range]:
    """Output size with ``output_padding=0``, the default one, and all that are possible.

    The forward convolution has ``floor((out - rest) / stride) + 1`` windows, so ``stride``
    neighbouring sizes belong to one input size.
    """
    if size == 0:
        return 0, 0, range(1)
    if padding in ("same", "same_lower"):
        return (
            full - span + span % 2,
            size * stride,
            range((size - 1) * stride + 1, size * stride + 1),
        )
    base = full - sum(crop)
    default = base + max(stride - span, 0) if padding == "valid" else base
    return base, default, range(max(base, 1), base + stride)


def _integers(value: Any) -> tuple[int, ...] | None:
    """Give the integers in ``value``, one or a sequence; None when something else is there."""
    items = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(item, bool) for item in items):
        return None
    try:
        return tuple(operator.index(item) for item in items)
    except TypeError:
        return None


def _output_shape(value: Any, op: str) -> Pair:
    values = _integers(value)
    if values is None or len(values) != 2:
        raise TypeError(f"{op}: output_shape must be (height, width), got {value!r}")
    return values[0], values[1]


def _explicit_padding(padding: Any, op: str) -> Pad:
    sides = padding if isinstance(padding, list | tuple) else (padding, padding)
    ends = [end for side in sides if (end := _side(side))]
    if len(sides) != 2 or len(ends) != 2:
        raise TypeError(f"{op}: padding must be {PADDING_HELP}, got {padding!r}")
    if min(*ends[0], *ends[1]) < 0:
        raise ValueError(f"{op}: padding must not be negative, got {padding!r}; crop x instead")
    return ends[0], ends[1]


def _side(value: Any) -> Pair | None:
    """Give ``(before, after)`` from an int, which serves both, or from two ints."""
    values = _integers(value)
    if values is None or len(values) != (2 if isinstance(value, list | tuple) else 1):
        return None
    return values[0], values[-1]

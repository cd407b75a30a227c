"""Every rule is pinned by literals, because the reference shares this module with the kernels.

The literals were printed by TensorFlow 2.21, Keras 3.15 and PyTorch 2.13; TensorFlow's are also
compared live in `test_reference.py`.
"""

import re

import numpy as np
import pytest

from fastconv import shapes
from fastconv.shapes import (
    conv_out,
    conv_transpose_out,
    empty_window,
    nearest_source,
    pair,
    resize_source,
    resolve_padding,
    resolve_transpose_padding,
    same_padding,
)


@pytest.mark.parametrize(
    "size, kernel, stride, dilation, expected",
    [
        (5, 3, 1, 1, (1, 1)),
        (5, 2, 1, 1, (0, 1)),  # the odd pixel goes after
        (5, 3, 2, 1, (1, 1)),
        (6, 3, 2, 1, (0, 1)),
        (7, 2, 2, 1, (0, 1)),
        (8, 2, 2, 1, (0, 0)),
        (5, 3, 1, 2, (2, 2)),
        (6, 4, 2, 2, (2, 3)),
        (5, 1, 3, 1, (0, 0)),  # a stride past the kernel pads nothing
        (1, 7, 4, 1, (3, 3)),
    ],
)
def test_same_padding(size, kernel, stride, dilation, expected):
    assert same_padding(size, kernel, stride, dilation) == expected


def test_same_gives_one_window_for_each_stride():
    for size, kernel, stride, dilation in np.ndindex(12, 5, 5, 3):
        kernel, stride, dilation = kernel + 1, stride + 1, dilation + 1
        pad = same_padding(size, kernel, stride, dilation)
        assert conv_out(size, kernel, stride, pad, dilation) == -(-size // stride)


@pytest.mark.parametrize(
    "size, kernel, stride, pad, dilation, down, up",
    [
        (5, 2, 2, (0, 0), 1, 2, 3),
        (4, 2, 2, (0, 0), 1, 2, 2),
        (5, 4, 2, (0, 0), 1, 1, 2),
        (3, 2, 2, (1, 1), 1, 2, 2),  # rounded up, the last window would start in the padding
        (2, 1, 4, (0, 0), 1, 1, 1),  # and here past the input
        (10, 2, 2, (1, 1), 2, 5, 6),
        (11, 4, 4, (0, 0), 1, 2, 3),
        (8, 4, 3, (0, 0), 2, 1, 2),
        (1, 2, 2, (2, 0), 1, 1, 2),  # it may start in the padding before
        (1, 1, 1, (0, 0), 1, 1, 1),
    ],
)
def test_conv_out(size, kernel, stride, pad, dilation, down, up):
    assert conv_out(size, kernel, stride, pad, dilation) == down
    assert conv_out(size, kernel, stride, pad, dilation, ceil_mode=True) == up


def test_windows_counted_one_by_one():
    for size, kernel, stride, before, after, dilation in np.ndindex(6, 3, 3, 3, 3, 2):
        kernel, stride, dilation = kernel + 1, stride + 1, dilation + 1
        last = size + before + after - (kernel - 1) * dilation
        fits = len(range(0, last, stride))
        if fits or size == 0:
            assert conv_out(size, kernel, stride, (before, after), dilation) == fits


def test_ceil_mode_keeps_a_window_that_starts_inside_but_does_not_fit():
    assert conv_out(1, 2, 2, (0, 0), ceil_mode=True) == 1
    with pytest.raises(ValueError, match="window of 2 pixels"):
        conv_out(1, 2, 2, (0, 0))
    with pytest.raises(ValueError, match="window of 4 pixels"):
        conv_out(1, 4, 1, (0, 0), ceil_mode=True)


def test_window_that_does_not_fit():
    message = "window of 5 pixels (kernel 3, dilation 2) does not fit in 4 (size 3, padding (1, 0))"
    with pytest.raises(ValueError, match=re.escape(message)):
        conv_out(3, 3, 1, (1, 0), 2)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_an_empty_axis_has_no_windows(ceil_mode):
    assert conv_out(0, 3, 1, (0, 0), ceil_mode=ceil_mode) == 0
    assert conv_out(0, 1, 1, (0, 0), ceil_mode=ceil_mode) == 0
    assert conv_out(0, 3, 2, same_padding(0, 3, 2), ceil_mode=ceil_mode) == 0
    assert conv_out(0, 2, 1, (1, 1), ceil_mode=ceil_mode) == 1  # padding alone holds one


@pytest.mark.parametrize(
    "size, out, kernel, stride, before, dilation, expected",
    [
        (4, 4, 3, 1, 1, 1, None),
        (4, 6, 3, 1, 2, 1, None),
        (4, 8, 3, 1, 3, 1, 0),
        (4, 5, 1, 1, 0, 1, 4),
        (1, 1, 2, 1, 1, 2, 0),  # the taps lie on both sides of the only pixel
        (2, 2, 2, 2, 3, 3, 1),  # window 0 has its second tap on a pixel, window 1 has none
        (0, 1, 2, 1, 1, 1, 0),
        (0, 0, 2, 1, 0, 1, None),
        (9, 3, 2, 4, 0, 1, None),
    ],
)
def test_empty_window(size, out, kernel, stride, before, dilation, expected):
    assert empty_window(size, out, kernel, stride, before, dilation) == expected


# size, kernel, stride, dilation, padding, output_padding -> top, bottom, out
KERAS = [
    (3, 1, 3, 1, "valid", None, (0, -2, 9)),  # out = (size - 1) * stride + max(kernel, stride)
    (3, 2, 3, 1, "valid", None, (0, -1, 9)),
    (3, 3, 2, 1, "valid", None, (0, 0, 7)),
    (3, 3, 2, 1, "valid", 0, (0, 0, 7)),
    (3, 3, 2, 1, "valid", 1, (0, -1, 8)),
    (3, 2, 4, 1, "valid", 0, (0, 0, 10)),
    (3, 2, 4, 1, "valid", 1, (0, -1, 11)),
    (3, 3, 1, 2, "valid", None, (0, 0, 7)),
    (3, 2, 3, 1, "same", None, (0, -1, 9)),  # out = size * stride
    (3, 4, 2, 1, "same", None, (1, 1, 6)),
    (3, 3, 2, 1, "same", None, (0, 1, 6)),
    (3, 5, 2, 1, "same", None, (1, 2, 6)),
    (3, 3, 1, 2, "same", None, (2, 2, 3)),
    (3, 3, 2, 1, "same", 0, (1, 1, 5)),  # out = (size - 1) * stride + kernel % 2 + extra
    (3, 3, 2, 1, "same", 1, (0, 1, 6)),
    (3, 4, 2, 1, "same", 1, (1, 2, 5)),
    (3, 2, 4, 1, "same", 1, (0, 1, 9)),
    (0, 3, 2, 1, "same", None, (0, 0, 0)),
]


@pytest.mark.parametrize("size, kernel, stride, dilation, padding, extra, expected", KERAS)
def test_transposed_sizes_of_keras(size, kernel, stride, dilation, padding, extra, expected):
    extra = None if extra is None else (extra, 0)
    pad, out = resolve_transpose_padding(
        padding, (size, 1), (kernel, 1), (stride, 1), (dilation, 1), "op", extra
    )
    assert (*pad[0], out[0]) == expected
    assert conv_transpose_out(size, kernel, stride, pad[0], dilation) == out[0]
    assert (pad[1], out[1]) == ((0, 0), 1)


@pytest.mark.parametrize(
    "size, kernel, stride, padding, possible",
    [
        (3, 3, 2, "same", [5, 6]),
        (3, 4, 2, "same", [5, 6]),
        (3, 2, 3, "same", [7, 8, 9]),
        (3, 3, 2, "valid", [7, 8]),
        (3, 1, 3, "valid", [7, 8, 9]),
        (3, 3, 2, (1, 0), [5, 6]),
        (3, 3, 2, ((2, 1), (0, 0)), [4, 5]),
    ],
)
def test_output_shape_is_one_that_the_convolution_maps_back(
    size, kernel, stride, padding, possible
):
    accepted = []
    for wanted in range(-1, 15):
        try:
            pad, out = resolve_transpose_padding(
                padding, (size, 1), (kernel, 1), (stride, 1), (1, 1), "op", None, (wanted, 1)
            )
        except ValueError:
            continue
        accepted.append(wanted)
        assert out == (wanted, 1)
        forward = resolve_padding(padding, out, (kernel, 1), (stride, 1), (1, 1), "op")
        assert conv_out(wanted, kernel, stride, forward[0]) == size
        assert pad[0][0] == forward[0][0]
    assert accepted == possible


def test_impossible_output_shape_names_the_range():
    message = (
        "conv2d_transpose: an output width of 9 is impossible: an input width of 4 with kernel 3, "
        "stride 2, dilation 1 and padding 'same' gives 7 to 8"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve_transpose_padding(
            "same", (4, 4), (3, 3), (2, 2), (1, 1), "conv2d_transpose", None, (8, 9)
        )


def test_same_lower_crops_the_odd_pixel_first():
    args = (3, 3), (3, 3), (2, 2), (1, 1), "op"
    assert resolve_transpose_padding("same_lower", *args) == (((1, 0), (1, 0)), (6, 6))
    assert resolve_transpose_padding("same", *args) == (((0, 1), (0, 1)), (6, 6))


@pytest.mark.parametrize(
    "extra, wanted, error, match",
    [
        (1, (6, 6), ValueError, "op: give output_padding or output_shape, not both"),
        (2, None, ValueError, "op: an output height of 7 is impossible"),
        (-1, None, ValueError, "op: output_padding must be at least 0, got -1"),
        (0.5, None, TypeError, "op: output_padding must be an int or a pair"),
        (None, 6, TypeError, r"op: output_shape must be \(height, width\), got 6"),
        (None, (1, 6, 6, 2), TypeError, "op: output_shape must be"),
    ],
)
def test_bad_transposed_sizes(extra, wanted, error, match):
    with pytest.raises(error, match=match):
        resolve_transpose_padding(1, (3, 3), (3, 3), (2, 2), (1, 1), "op", extra, wanted)


def test_a_crop_that_leaves_nothing():
    with pytest.raises(ValueError, match=r"op: an input height of 1 .* leaves nothing of the 3 p"):
        resolve_transpose_padding(2, (1, 1), (3, 3), (1, 1), (1, 1), "op")


@pytest.mark.parametrize(
    "padding, expected",
    [
        ("valid", ((0, 0), (0, 0))),
        ("same", ((1, 1), (0, 1))),
        ("same_lower", ((1, 1), (1, 0))),
        (2, ((2, 2), (2, 2))),
        (np.int64(2), ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        ([1, 2], ((1, 1), (2, 2))),
        (((1, 2), (3, 4)), ((1, 2), (3, 4))),
        ([[1, 2], [3, 4]], ((1, 2), (3, 4))),
    ],
)
def test_spellings_of_padding(padding, expected):
    assert resolve_padding(padding, (5, 6), (3, 2), (1, 1), (1, 1), "op") == expected


@pytest.mark.parametrize(
    "padding, error",
    [
        ("SAME", ValueError),
        ("full", ValueError),
        (-1, ValueError),
        (((0, 0), (0, -1)), ValueError),
        (1.0, TypeError),
        (True, TypeError),
        (None, TypeError),
        ((1, 2, 3), TypeError),
        ((1,), TypeError),
        (((1, 2), (3, 4, 5)), TypeError),
        (((1, 2), (3, 4), (0, 0)), TypeError),
        (((0, 0), (1, 1), (1, 1), (0, 0)), TypeError),
    ],
)
def test_bad_padding_names_the_operation_and_the_value(padding, error):
    with pytest.raises(error, match="^conv2d: .*" + re.escape(repr(padding))):
        resolve_padding(padding, (5, 5), (3, 3), (1, 1), (1, 1), "conv2d")


def test_pair():
    assert pair(3, "stride", "op") == (3, 3)
    assert pair((1, 2), "stride", "op") == (1, 2)
    assert pair([np.int32(1), 2], "stride", "op") == (1, 2)
    assert pair(0, "output_padding", "op", least=0) == (0, 0)


@pytest.mark.parametrize(
    "value, error",
    [(0, ValueError), (-1, ValueError), ((1, -1), ValueError)]
    + [(bad, TypeError) for bad in (1.0, True, "1", None, (), (1, 2, 3), (1, 2.0))],
)
def test_bad_pair_names_the_operation_and_the_value(value, error):
    with pytest.raises(error, match=r"^conv2d: stride must be .*got " + re.escape(repr(value))):
        pair(value, "stride", "conv2d")


def test_resize_sources():
    """Two pixels become four, and four two."""
    half = [resize_source(i, 2, 4, "half_pixel") for i in range(4)]
    assert [a / b for a, b in half] == [-0.25, 0.25, 0.75, 1.25]
    assert [a / b for a, b in (resize_source(i, 2, 4, "asymmetric") for i in range(4))] == [
        0, 0.5, 1, 1.5,
    ]  # fmt: skip
    assert [a / b for a, b in (resize_source(i, 4, 2, "align_corners") for i in range(2))] == [0, 3]
    assert resize_source(0, 4, 1, "align_corners")[0] == 0
    above, below = resize_source(np.arange(4), 2, 4, "half_pixel")
    assert (above / below).tolist() == [-0.25, 0.25, 0.75, 1.25]


@pytest.mark.parametrize(
    "size, out, coordinates, expected",
    [
        (3, 5, "half_pixel", [0, 0, 1, 2, 2]),
        (3, 5, "asymmetric", [0, 0, 1, 1, 2]),
        (3, 5, "align_corners", [0, 1, 1, 2, 2]),  # 0.5 and 1.5 round up
        (5, 2, "half_pixel", [1, 3]),
        (5, 2, "asymmetric", [0, 2]),
        (5, 2, "align_corners", [0, 4]),
        (10, 3, "asymmetric", [0, 3, 6]),
        (4, 1, "align_corners", [0]),
    ],
)
def test_nearest_source(size, out, coordinates, expected):
    assert [nearest_source(i, size, out, coordinates) for i in range(out)] == expected


def test_only_integers_come_out():
    """A float size would reach a kernel as garbage."""
    pad, out = resolve_transpose_padding("same", (3, 3), (3, 3), (2, 2), (1, 1), "op")
    assert all(type(v) is int for v in (*pad[0], *pad[1], *out))
    pad = resolve_padding((np.int64(1), np.int64(2)), (3, 3), (3, 3), (1, 1), (1, 1), "op")
    assert all(type(v) is int for v in (*pad[0], *pad[1]))
    assert type(conv_out(5, 2, 2, (0, 0), ceil_mode=True)) is int
    assert shapes.extent(3, 2) == 5

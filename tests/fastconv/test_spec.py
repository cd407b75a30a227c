"""Specs hold what an operation is, agree with themselves, and name what is wrong."""

import dataclasses
import re

import numpy as np
import pytest

from fastconv import shapes
from fastconv.spec import Conv2d, ConvTranspose2d, Pool2d, Resize2d

ONE_PAD = ((1, 1), (1, 1))


def test_conv2d_shapes_and_work():
    spec = Conv2d((2, 7, 9, 6), (3, 2, 3, 8), (2, 1), ((1, 0), (0, 2)), (1, 3), groups=2)
    assert spec.conv_out == spec.out == (2, 3, 8, 8)
    assert spec.flops == 2 * (2 * 3 * 8 * 8) * (3 * 2 * 3)


def test_the_fused_pool_halves_the_output_not_the_work():
    spec = Conv2d((1, 7, 9, 3), (3, 3, 3, 8), pad=ONE_PAD, activation="relu", pool=True)
    assert spec.conv_out == (1, 7, 9, 8)
    assert spec.out == (1, 3, 4, 8)
    assert spec.flops == 2 * (7 * 9 * 8) * 27


def test_conv2d_transpose_shapes_and_work():
    spec = ConvTranspose2d((2, 3, 4, 6), (4, 3, 5, 6), (2, 3), ((1, 1), (0, 0)), groups=3)
    assert spec.out == (2, 6, 12, 15)
    assert spec.out_hw == (6, 12)
    assert spec.flops == 2 * (2 * 3 * 4 * 6) * (4 * 3 * 5)


def test_conv2d_transpose_takes_what_shapes_resolves():
    for padding, extra in (("valid", None), ("same", None), ("same_lower", None), ((1, 0), (1, 2))):
        pad, out_hw = shapes.resolve_transpose_padding(
            padding, (3, 4), (3, 1), (2, 3), (1, 1), "op", extra
        )
        spec = ConvTranspose2d((1, 3, 4, 2), (3, 1, 5, 2), (2, 3), pad, out_hw)
        assert spec.out == (1, *out_hw, 5)
        assert spec == ConvTranspose2d((1, 3, 4, 2), (3, 1, 5, 2), (2, 3), pad)


def test_pool2d_shapes():
    assert Pool2d((2, 7, 8, 3), "max", (2, 3), (2, 1)).out == (2, 3, 6, 3)
    assert Pool2d((2, 7, 8, 3), "avg", (2, 2), (2, 2), out_hw=(4, 4)).out == (2, 4, 4, 3)
    assert Pool2d((2, 7, 8, 3), "avg", (2, 2), (2, 2)).op == "avg_pool2d"


def test_resize2d_shape():
    assert Resize2d((2, 7, 8, 3), (5, 1)).out == (2, 5, 1, 3)


@pytest.mark.parametrize("n, c, k", [(0, 3, 4), (1, 0, 4), (1, 3, 0)])
def test_empty_batches_and_channels(n, c, k):
    assert Conv2d((n, 5, 5, c), (3, 3, c, k), pad=ONE_PAD, pool=True).out == (n, 2, 2, k)
    assert ConvTranspose2d((n, 5, 5, c), (3, 3, k, c)).out == (n, 7, 7, k)
    assert Pool2d((n, 5, 5, c), "max", (2, 2), (2, 2)).out == (n, 2, 2, c)
    assert Resize2d((n, 5, 5, c), (3, 3)).out == (n, 3, 3, c)


def test_empty_rows():
    same = (shapes.same_padding(0, 3, 1), shapes.same_padding(5, 3, 1))
    assert Conv2d((1, 0, 5, 2), (3, 3, 2, 4), pad=same, pool=True).out == (1, 0, 2, 4)
    assert ConvTranspose2d((1, 0, 5, 2), (3, 3, 4, 2)).out == (1, 0, 7, 4)
    assert Pool2d((1, 0, 5, 2), "avg", (2, 2), (1, 1)).out == (1, 0, 4, 2)


def test_a_spec_is_a_key():
    """Lists and NumPy integers become what hashes and compares alike; nothing can be changed."""
    spec = Conv2d((1, 5, 5, 3), (3, 3, 3, 8), (2, 2), ONE_PAD)
    same = Conv2d([1, 5, 5, 3], tuple(np.array([3, 3, 3, 8])), [2, 2], [[1, 1], [1, 1]])
    assert spec == same
    assert hash(spec) == hash(same)
    assert spec != dataclasses.replace(spec, dtype="float64")
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.groups = 2


def test_the_parameter_of_an_activation_has_a_default():
    x, w = (1, 5, 5, 4), (3, 3, 4, 8)
    assert Conv2d(x, w, activation="elu").alpha == 1.0
    assert Conv2d(x, w, activation="leaky_relu").alpha == 0.01
    assert Conv2d(x, w, activation="leaky_relu", alpha=2).alpha == 2.0
    assert Conv2d(x, w, activation="relu").alpha is None


CONV = (Conv2d, {"x": (1, 5, 5, 4), "w": (3, 3, 4, 8)})
TRANSPOSE = (ConvTranspose2d, {"x": (1, 5, 5, 4), "w": (3, 3, 8, 4)})
POOL = (Pool2d, {"x": (1, 5, 5, 4), "kind": "max", "size": (2, 2), "stride": (2, 2)})
RESIZE = (Resize2d, {"x": (1, 5, 5, 4), "size": (3, 3)})

WRONG_VALUES = [
    (CONV, {"x": (5, 5, 4)}, "conv2d: x must have 4 axes (n, h, w, c), got 3: (5, 5, 4)"),
    (CONV, {"w": (3, 3, 4)}, "conv2d: w must have 4 axes, got 3: (3, 3, 4)"),
    (
        CONV,
        {"w": (3, 3, 5, 8)},
        "conv2d: input has 4 channels (axis 3 of (1, 5, 5, 4)) but the weights expect 5 "
        "(axis 2 of (3, 3, 5, 8))",
    ),
    (CONV, {"w": (3, 3, 3, 8)}, "conv2d: input has 4 channels (axis 3 of (1, 5, 5, 4)) but the"),
    (
        CONV,
        {"groups": 2},
        "conv2d: input has 4 channels (axis 3 of (1, 5, 5, 4)), 2 in each of 2 groups, but the "
        "weights expect 4 (axis 2 of (3, 3, 4, 8))",
    ),
    (CONV, {"groups": 3}, "conv2d: groups=3 does not divide the 4 input channels (axis 3 of"),
    (
        CONV,
        {"groups": 4, "w": (3, 3, 1, 6)},
        "conv2d: groups=4 does not divide the 6 output channels (axis 3 of (3, 3, 1, 6))",
    ),
    (CONV, {"groups": 0}, "conv2d: groups must be at least 1, got 0"),
    (CONV, {"stride": (0, 1)}, "conv2d: stride must be at least 1, got (0, 1)"),
    (CONV, {"stride": (-1, 1)}, "conv2d: stride must be at least 1, got (-1, 1)"),
    (CONV, {"dilation": (0, 1)}, "conv2d: dilation must be at least 1, got (0, 1)"),
    (CONV, {"pad": ((0, -1), (0, 0))}, "conv2d: padding must not be negative, got"),
    (CONV, {"w": (0, 3, 4, 8)}, "conv2d: a kernel needs at least one tap, got weights of shape"),
    (CONV, {"x": (-1, 5, 5, 4)}, "conv2d: the shape of x must not be negative, got"),
    (CONV, {"x": (1, 5, 2, 4)}, "conv2d: window of 3 pixels (kernel 3, dilation 1) does not fit"),
    (CONV, {"x": (1, 3, 5, 4), "pool": True}, "conv2d: window of 2 pixels"),
    (CONV, {"activation": "swish"}, "conv2d: unknown activation 'swish'; use None, "),
    (
        TRANSPOSE,
        {"w": (3, 3, 8, 5)},
        "conv2d_transpose: input has 4 channels (axis 3 of (1, 5, 5, 4)) but the weights expect 5 "
        "(axis 3 of (3, 3, 8, 5))",
    ),
    (TRANSPOSE, {"groups": 3}, "conv2d_transpose: groups=3 does not divide the 4 input channels"),
    (
        TRANSPOSE,
        {"out_hw": (8, 7)},
        "conv2d_transpose: pad ((0, 0), (0, 0)) leaves 7 x 7 pixels of the full result but out_hw "
        "is (8, 7)",
    ),
    (TRANSPOSE, {"pad": ((-1, 0), (0, 0))}, "conv2d_transpose: pad ((-1, 0), (0, 0)) must not"),
    (TRANSPOSE, {"pad": ((9, 0), (0, 0))}, "conv2d_transpose: pad ((9, 0), (0, 0)) must not"),
    (POOL, {"kind": "min"}, "pool2d: unknown kind 'min'; use 'max', 'avg'"),
    (POOL, {"x": (5, 5)}, "max_pool2d: x must have 4 axes (n, h, w, c), got 2: (5, 5)"),
    (POOL, {"size": (0, 2)}, "max_pool2d: size must be at least 1, got (0, 2)"),
    (POOL, {"size": (6, 2), "kind": "avg"}, "avg_pool2d: window of 6 pixels"),
    (
        POOL,
        {"pad": ((2, 0), (0, 0))},
        "max_pool2d: window 0 of the height holds only padding (input height 5, size 2, stride 2, "
        "padding (2, 0), dilation 1)",
    ),
    (POOL, {"out_hw": (2, 4)}, "max_pool2d: window 3 of the width holds only padding"),
    (POOL, {"out_hw": (2, -1)}, "max_pool2d: out_hw must be at least 0, got (2, -1)"),
    (RESIZE, {"size": (0, 3)}, "resize2d: size must be at least 1, got (0, 3)"),
    (RESIZE, {"x": (1, 0, 5, 4)}, "resize2d: no pixels to resize, the input has shape"),
    (RESIZE, {"method": "area"}, "resize2d: unknown method 'area'; use 'nearest', 'bilinear', 'b"),
    (RESIZE, {"coordinates": "top"}, "resize2d: unknown coordinates 'top'; use 'half_pixel', 'as"),
]
WRONG_TYPES = [
    (CONV, {"stride": 2}, "conv2d: stride must be a pair of ints, got 2"),
    (CONV, {"stride": (1.0, 1)}, "conv2d: stride must hold integers, got 1.0"),
    (CONV, {"pad": (1, 1)}, "conv2d: pad must be ((top, bottom), (left, right)), got (1, 1)"),
    (
        CONV,
        {"dtype": "int32"},
        "conv2d: dtype int32 is not supported; convert with x.astype(np.float32)",
    ),
    (TRANSPOSE, {"dtype": "int8"}, "conv2d_transpose: dtype int8 is not supported; convert"),
    (POOL, {"dtype": "bool"}, "max_pool2d: dtype bool is not supported; convert"),
    (RESIZE, {"dtype": "uint8"}, "resize2d: dtype uint8 is not supported; convert"),
]


def rejects(error, good, change, message):
    make, arguments = good
    make(**arguments)
    with pytest.raises(error, match="^" + re.escape(message)):
        make(**arguments | change)


@pytest.mark.parametrize("good, change, message", WRONG_VALUES)
def test_wrong_values_are_named(good, change, message):
    rejects(ValueError, good, change, message)


@pytest.mark.parametrize("good, change, message", WRONG_TYPES)
def test_wrong_types_are_named(good, change, message):
    rejects(TypeError, good, change, message)

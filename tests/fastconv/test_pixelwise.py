"""Argmax and softmax over channels."""

import numpy as np
import pytest
from scipy import special

import fastconv
from fastconv import reference
from fastconv.spec import ChannelOp
from tests.helpers import assert_within, integers, normals

CHANNELS = [1, 2, 7, 8, 16, 21, 37, 300]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", CHANNELS)
def test_argmax_is_exact(channels, dtype):
    x = integers((2, 9, 11, channels), seed=1, dtype=dtype)  # small integers: many ties
    y = fastconv.argmax(x)
    assert y.dtype == (np.uint8 if channels <= 256 else np.int32)
    np.testing.assert_array_equal(y, np.argmax(x, axis=3))
    np.testing.assert_array_equal(y, reference.channel_op(x, ChannelOp(x.shape, "argmax", dtype)))


@pytest.mark.parametrize("channels", [3, 8, 21, 40])
def test_special_values_in_an_argmax(channels):
    rng = np.random.default_rng(0)
    values = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1], np.float32)
    x = rng.choice(values, (1, 40, 41, channels), p=[0.05, 0.1, 0.4, 0.15, 0.15, 0.15])
    x[0, 0] = -np.inf
    np.testing.assert_array_equal(fastconv.argmax(x), np.argmax(x, axis=3))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_labels_go_where_they_are_wanted(dtype):
    x = integers((1, 6, 5, 9), seed=1)
    out = np.full((1, 6, 5), 99, dtype)
    assert fastconv.argmax(x, out=out) is out
    np.testing.assert_array_equal(out, np.argmax(x, axis=3))


def test_channels_first():
    x = normals((2, 5, 6, 7), seed=1)
    np.testing.assert_array_equal(fastconv.argmax(x, data_format="NCHW"), np.argmax(x, axis=1))
    y = fastconv.softmax(x, data_format="NCHW")
    np.testing.assert_array_equal(
        y, fastconv.softmax(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", CHANNELS)
def test_softmax_agrees_with_scipy(channels, dtype):
    x = normals((2, 5, 7, channels), seed=1, dtype=dtype) * np.asarray(9, dtype)
    x[0, 0, 0] += np.asarray(300, dtype)
    expected = special.softmax(x.astype(np.longdouble), axis=3).astype(float)
    # the difference to the maximum rounds once, and exp makes of that a relative error
    spread = x.max(axis=3, keepdims=True) - x.astype(float)
    relative = (spread + channels + 8) * np.finfo(dtype).eps
    tiny = float(np.finfo(dtype).tiny)
    assert_within(fastconv.softmax(x), expected, relative * expected + tiny)


def test_special_values_in_a_softmax():
    x = np.zeros((1, 1, 4, 3), np.float32)
    x[0, 0, 0, 1], x[0, 0, 1, 1], x[0, 0, 2] = np.nan, np.inf, (-np.inf, 5, 5)
    y = fastconv.softmax(x)[0, 0]
    assert np.isnan(y[:2]).all()
    np.testing.assert_array_equal(y[2], [0, 0.5, 0.5])


@pytest.mark.parametrize("op", [fastconv.argmax, fastconv.softmax])
def test_no_pixels(op):
    assert op(np.zeros((0, 4, 4, 3), np.float32)).shape[:3] == (0, 4, 4)

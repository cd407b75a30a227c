"""Sixteen-bit storage: numbers are read exactly, summed in float32 and rounded once."""

import ml_dtypes
import numpy as np
import pytest

import fastconv
from fastconv import plan_conv2d, plan_conv2d_transpose, reference
from fastconv.spec import Pool2d, Resize2d
from tests.helpers import integers

HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
IDS = ["float16", "bfloat16"]

LAYERS = {
    "direct": ((2, 9, 10, 5), (3, 3, 5, 7), {"algorithm": "direct", "padding": "same"}),
    "strided": ((1, 9, 10, 35), (5, 3, 35, 20), {"algorithm": "direct", "stride": (3, 2)}),
    "deep": ((1, 6, 7, 130), (3, 3, 130, 37), {"algorithm": "direct", "padding": "same"}),
    "pointwise": ((1, 7, 9, 33), (1, 1, 33, 18), {}),
    "winograd": ((1, 13, 14, 18), (3, 3, 18, 35), {"algorithm": "winograd_f4", "padding": "same"}),
    "depthwise": ((1, 9, 10, 21), (3, 3, 1, 21), {"groups": 21, "padding": "same"}),
    "grouped": ((1, 9, 10, 12), (3, 3, 4, 9), {"groups": 3, "padding": 2}),
}


def _rounded(expected, dtype, slack=2.0**-20):
    """Bounds of a result: rounded once from a number that is off by `slack`, relatively."""
    low, high = expected - slack * (1 + np.abs(expected)), expected + slack * (1 + np.abs(expected))
    return low.astype(np.float32).astype(dtype), high.astype(np.float32).astype(dtype)


def _assert_rounded(y, expected, dtype, slack=2.0**-20):
    assert y.dtype == dtype
    low, high = _rounded(expected, dtype, slack)
    low, high, y = (a.astype(np.float64) for a in (low, high, y))
    wrong = ~((low <= y) & (y <= high))
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size}: {y[wrong][0]}, {expected[wrong][0]}"


@pytest.mark.parametrize("dtype", HALVES, ids=IDS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"activation": "silu"}], ids=str)
def test_convolutions_round_once(layer, options, dtype):
    x_shape, w_shape, more = LAYERS[layer]
    x, w = integers(x_shape, 1).astype(dtype), integers(w_shape, 2).astype(dtype)
    b = integers(w_shape[3:], 3).astype(dtype)
    plan = plan_conv2d(x_shape, w, b, add=True, **options, **more)
    add = integers(plan.spec.out, 4).astype(dtype)
    y = plan(x, add)
    slack = 2.0**-12 if layer == "winograd" else 2.0**-20  # cancelling sums of small integers
    _assert_rounded(y, reference.conv2d(x, w, b, plan.spec, add), dtype, slack)


@pytest.mark.parametrize("dtype", HALVES, ids=IDS)
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_round_once(dtype, groups):
    x, w = integers((2, 5, 6, 4), 1).astype(dtype), integers((4, 3, 6 // groups, 4), 2)
    w, b = w.astype(dtype), integers((6,), 3).astype(dtype)
    for padding, extra in (("valid", None), ("same", 1), (((1, 2), (0, 1)), 1)):
        plan = plan_conv2d_transpose(
            x.shape, w, b, stride=(2, 3), padding=padding, output_padding=extra, groups=groups,
            activation="relu",
        )  # fmt: skip
        _assert_rounded(plan(x), reference.conv2d_transpose(x, w, b, plan.spec), dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=IDS)
@pytest.mark.parametrize("channels", [1, 16, 21])
def test_pools_and_resizes(dtype, channels):
    x = np.random.default_rng(0).standard_normal((2, 9, 70, channels)).astype(dtype)
    for kind, pool in (("max", fastconv.max_pool2d), ("avg", fastconv.avg_pool2d)):
        y = pool(x, 3, stride=2, padding=1)
        spec = Pool2d(x.shape, kind, (3, 3), (2, 2), ((1, 1), (1, 1)), dtype=dtype.name)
        _assert_rounded(y, reference.pool2d(x, spec), dtype)
    for method in ("bilinear", "nearest", "bicubic"):
        spec = Resize2d(x.shape, (17, 99), method, dtype=dtype.name)
        y = fastconv.resize2d(x, (17, 99), method=method)
        _assert_rounded(y, reference.resize2d(x, spec), dtype)
    y, where = fastconv.max_pool2d(x, 2, return_indices=True)
    wide, expected = fastconv.max_pool2d(x.astype(np.float32), 2, return_indices=True)
    np.testing.assert_array_equal(where, expected)
    np.testing.assert_array_equal(y.astype(np.float32), wide)


@pytest.mark.parametrize("dtype", HALVES, ids=IDS)
def test_whole_pools_keep_float32_between_their_steps(dtype):
    x = np.random.default_rng(0).standard_normal((1, 61, 67, 21)).astype(dtype)
    y = fastconv.global_avg_pool2d(x)
    _assert_rounded(y, x.astype(np.float64).mean(axis=(1, 2)), dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=IDS)
def test_labels_and_softmax(dtype):
    x = integers((2, 9, 11, 21), seed=1).astype(dtype)
    np.testing.assert_array_equal(fastconv.argmax(x), np.argmax(x.astype(np.float32), axis=3))
    wide = fastconv.softmax(x.astype(np.float64))
    _assert_rounded(fastconv.softmax(x), wide, dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=IDS)
def test_every_number_goes_in_and_out_unchanged(dtype):
    bits = np.arange(1 << 16, dtype=np.uint16)
    x = bits.view(dtype).reshape(1, 1, -1, 16)
    y = fastconv.max_pool2d(x, 1).reshape(-1)
    numbers = ~np.isnan(x.reshape(-1).astype(np.float32))
    np.testing.assert_array_equal(y.view(np.uint16)[numbers], bits[numbers])
    assert np.isnan(y[~numbers].astype(np.float32)).all()


@pytest.mark.parametrize("dtype", HALVES, ids=IDS)
def test_rounding_is_to_the_nearest_and_ties_to_even(dtype):
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(4096) * 10.0 ** rng.integers(-10, 6, 4096)).astype(np.float32)
    halfway = np.array([1 + 2.0**-9, 1 + 3 * 2.0**-9, 1 + 2.0**-11, 1 + 3 * 2.0**-11], np.float32)
    values = np.concatenate([values, halfway, halfway, halfway, halfway])
    # One channel has the number, split in two halves that are exact: their sum is rounded.
    with np.errstate(over="ignore"):
        high = values.astype(dtype)
    kept = np.isfinite(high.astype(np.float32))
    values, high = values[kept], high[kept]
    low = (values - high.astype(np.float32)).astype(dtype)
    exact = high.astype(np.float32) + low.astype(np.float32)
    x = np.stack([high, low], axis=1).reshape(1, 1, -1, 2)
    y = fastconv.conv2d(x, np.ones((1, 1, 2, 1), dtype)).reshape(-1)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(y.astype(float), exact.astype(dtype).astype(float))

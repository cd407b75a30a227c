"""What the public functions accept, and what they say when they do not."""

import doctest

import numpy as np
import pytest

import fastconv
from fastconv import conv2d, convolution, max_pool2d, plan_conv2d, resize2d
from tests.helpers import integers

X = integers((2, 9, 8, 6), seed=1)
W = integers((3, 3, 6, 4), seed=2)
B = integers((4,), seed=3)
Y = conv2d(X, W, B, padding="same")


def _strided(array):
    """The same numbers, no axis contiguous."""
    wide = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


@pytest.mark.parametrize(
    "transform",
    [_strided, np.asfortranarray, lambda a: a[::-1].copy()[::-1], lambda a: a.astype(">f4")],
    ids=["strided", "fortran", "reversed", "big-endian"],
)
def test_any_memory_layout_gives_the_same_answer(transform):
    x, w, b = transform(X), transform(W), transform(B)
    np.testing.assert_array_equal(conv2d(x, w, b, padding="same"), Y)
    np.testing.assert_array_equal(max_pool2d(x, 2), max_pool2d(X, 2))


def test_inputs_are_left_alone_and_may_be_read_only():
    x = X.copy()
    x.flags.writeable = False
    np.testing.assert_array_equal(conv2d(x, W, B, padding="same"), Y)
    np.testing.assert_array_equal(x, X)


def test_a_plan_keeps_its_own_weights():
    w, b = W.copy(), B.copy()
    plan = plan_conv2d(X.shape, w, b, padding="same")
    w[...], b[...] = 99, 99
    np.testing.assert_array_equal(plan(X), Y)


def test_out():
    out = np.full(Y.shape, np.nan, np.float32)
    assert conv2d(X, W, B, padding="same", out=out) is out
    np.testing.assert_array_equal(out, Y)
    out = _strided(np.full(Y.shape, np.nan, np.float32))
    assert conv2d(X, W, B, padding="same", out=out) is out
    np.testing.assert_array_equal(out, Y)


def test_nchw():
    x = np.ascontiguousarray(X.transpose(0, 3, 1, 2))
    y = conv2d(x, W, B, padding="same", data_format="NCHW")
    assert y.flags.c_contiguous
    np.testing.assert_array_equal(y, Y.transpose(0, 3, 1, 2))
    out = np.empty_like(y)
    assert conv2d(x, W, B, padding="same", data_format="NCHW", out=out) is out
    np.testing.assert_array_equal(out, y)
    np.testing.assert_array_equal(
        resize2d(x, (4, 5), data_format="NCHW"), resize2d(X, (4, 5)).transpose(0, 3, 1, 2)
    )
    pooled, indices = max_pool2d(x, 2, return_indices=True, data_format="NCHW")
    expected, where = max_pool2d(X, 2, return_indices=True)
    np.testing.assert_array_equal(pooled, expected.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(indices, where.transpose(0, 3, 1, 2))


def test_print_plan_explains_itself():
    text = str(plan_conv2d((1, 64, 64, 32), np.zeros((3, 3, 32, 48), np.float32), padding="same"))
    for part in ("(1, 64, 64, 48)", "winograd_f4", "panels", "GFLOP", "MB", "expected", "error"):
        assert part in text
    text = str(plan_conv2d((1, 64, 64, 32), np.zeros((3, 3, 32, 48), np.float32), stride=3))
    assert "direct (none other can serve)" in text


F = np.float32
BAD = {
    "rank": (lambda: conv2d(X[0], W), ValueError, r"conv2d: x must have 4 axes.*x\[None\]"),
    "weights' rank": (lambda: conv2d(X, W[0]), ValueError, "conv2d: w must have 4 axes"),
    "dtype": (lambda: conv2d(X.astype(int), W), TypeError, r"int64.*astype\(np.float32\)"),
    "mixed": (lambda: conv2d(X, W.astype(float)), TypeError, "w is float64 but float32"),
    "bias dtype": (lambda: conv2d(X, W, B.astype(float)), TypeError, "bias is float64"),
    "bias length": (lambda: conv2d(X, W, B[:3]), ValueError, "bias has 3 numbers.*4 output"),
    "channels": (lambda: conv2d(X[..., :5], W), ValueError, "5 channels.*expect 6"),
    "stride": (lambda: conv2d(X, W, stride=-1), ValueError, "conv2d: stride.*-1"),
    "float stride": (lambda: conv2d(X, W, stride=1.5), TypeError, "conv2d: stride.*1.5"),
    "padding": (lambda: conv2d(X, W, padding="full"), ValueError, "unknown padding 'full'"),
    "negative padding": (lambda: conv2d(X, W, padding=-1), ValueError, "must not be negative"),
    "too small": (lambda: conv2d(X[:, :2], W), ValueError, "conv2d: window of 3.*does not fit"),
    "groups": (lambda: conv2d(X, W, groups=4), ValueError, "groups=4 does not divide"),
    "no groups": (lambda: conv2d(X, W, groups=0), ValueError, "groups must be.*got 0"),
    "activation": (lambda: conv2d(X, W, activation="tanhh"), ValueError, "'tanhh'.*'relu'"),
    "no parameter": (
        lambda: conv2d(X, W, activation="relu", alpha=0.1), ValueError, "'relu' has no parameter",
    ),
    "bad parameter": (
        lambda: conv2d(X, W, activation="elu", alpha=np.nan), ValueError, "alpha of 'elu'.*nan",
    ),
    "no slopes": (lambda: conv2d(X, W, activation="prelu"), ValueError, "'prelu' needs alpha"),
    "slopes": (
        lambda: conv2d(X, W, activation="prelu", alpha=B[:2]), ValueError, "alpha has 2 numbers.*4",
    ),
    "residual's shape": (
        lambda: conv2d(X, W, add=Y), ValueError, r"add of shape \(2, 7, 6, 4\), got \(2, 9, 8, 4\)",
    ),
    "no residual": (
        lambda: plan_conv2d(X.shape, W, add=True)(X), ValueError, "adds a residual: one; give it",
    ),
    "a residual": (lambda: plan_conv2d(X.shape, W)(X, Y), ValueError, "none; plan with add=True"),
    "no channels": (lambda: fastconv.argmax(X[..., :0]), ValueError, "argmax: no channels"),
    "labels' dtype": (
        lambda: fastconv.argmax(X, out=np.zeros((2, 9, 8), F)), ValueError, "must be uint8",
    ),
    "algorithm": (lambda: conv2d(X, W, algorithm="fft"), ValueError, "'fft'.*'winograd_f4'"),
    "cannot serve": (
        lambda: conv2d(X, W, stride=3, algorithm="winograd_f4"),
        ValueError, r"'winograd_f4' cannot serve.*stride \(3, 3\).*auto",
    ),
    "cannot pool": (
        lambda: plan_conv2d(X.shape, W, stride=2, pool=True, algorithm="winograd_f3"),
        ValueError, "'winograd_f3' cannot serve.*two tiles of 3 x 3",
    ),
    "device": (lambda: conv2d(X, W, device="tpu"), ValueError, "unknown device 'tpu'.*'cpu'"),
    "threads": (lambda: conv2d(X, W, num_threads=0), ValueError, "conv2d: the number of threads"),
    "format": (lambda: conv2d(X, W, data_format="HWC"), ValueError, "'HWC'.*'NHWC'"),
    "out shape": (lambda: conv2d(X, W, out=np.zeros((1,), F)), ValueError, r"out must be.*\(1,\)"),
    "out dtype": (lambda: conv2d(X, W, out=np.zeros((2, 7, 6, 4))), ValueError, "got float64"),
    "out type": (lambda: conv2d(X, W, out=[1]), TypeError, "out must be a NumPy array, got list"),
    "out is x": (
        lambda: conv2d(X, np.ones((1, 1, 6, 6), F), out=X),
        ValueError, "must not share memory",
    ),
    "plan's shape": (lambda: plan_conv2d(X.shape, W)(X[:1]), ValueError, "plan is for x of shape"),
    "pool size": (lambda: max_pool2d(X, 0), ValueError, "max_pool2d: size.*0"),
    "pool too large": (lambda: max_pool2d(X, 20), ValueError, "max_pool2d: window of 20"),
    "pool of padding": (lambda: max_pool2d(X, 2, padding=3), ValueError, "only padding"),
    "resize": (lambda: resize2d(X, (0, 4)), ValueError, "resize2d: size"),
    "method": (lambda: resize2d(X, (4, 4), method="lanczos"), ValueError, "'lanczos'.*'bicubic'"),
    "depthwise": (
        lambda: fastconv.depthwise_conv2d(X, W[:, :, :5]), ValueError, "depthwise_conv2d: input.*6",
    ),
    "output shape": (
        lambda: fastconv.conv2d_transpose(X, W.transpose(0, 1, 3, 2), stride=2, padding="same",
                                          output_shape=(40, 16)),
        ValueError, "conv2d_transpose: an output height of 40.*17 to 18",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_is_wrong(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()


def test_examples_in_the_docstrings():
    failures, tried = doctest.testmod(convolution)
    assert tried > 0
    assert failures == 0

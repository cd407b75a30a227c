"""Activations and residuals behind every kind of convolution."""

import math

import numpy as np
import pytest
from scipy import special

import fastconv
from fastconv import bounds, plan_conv2d, plan_conv2d_transpose, reference
from fastconv.activations import ACTIVATIONS
from tests.helpers import assert_within, integers, normals

NAMES = [name for name in ACTIVATIONS if name]
EXACT = ("relu", "relu6", "leaky_relu", "prelu")  # on small integers and binary slopes
SLOPE = 0.25

# Independent formulas, in float64.
FORMULAS = {
    "relu": lambda y: np.maximum(y, 0),
    "relu6": lambda y: np.clip(y, 0, 6),
    "leaky_relu": lambda y: np.where(y < 0, SLOPE * y, y),
    "elu": lambda y: np.where(y < 0, SLOPE * np.expm1(y), y),
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "hard_sigmoid": lambda y: np.clip(y / 6 + 0.5, 0, 1),
    "hard_swish": lambda y: y * np.clip(y / 6 + 0.5, 0, 1),
    "silu": lambda y: y * special.expit(y),
    "gelu": lambda y: y * special.ndtr(y),
    "gelu_tanh": lambda y: y * special.expit(math.sqrt(8 / math.pi) * (y + 0.044715 * y**3)),
}


def _options(name, outputs, dtype="float32"):
    if name == "prelu":
        return {"activation": name, "alpha": (np.arange(outputs) % 7 / 4 - 0.5).astype(dtype)}
    if ACTIVATIONS[name].alpha is not None:
        return {"activation": name, "alpha": SLOPE}
    return {"activation": name}


def _apply(values, name, dtype):
    """The activation of each of `values`, by a convolution that copies them, each by itself."""
    x = np.zeros(-(-len(values) // 16) * 16, dtype)
    x[: len(values)] = values
    x = x.reshape(1, 1, -1, 16)
    one = np.ones((1, 1, 16, 1), dtype)
    y = fastconv.depthwise_conv2d(x, one, **_options(name, 16, dtype))
    return y.reshape(-1)[: len(values)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FORMULAS)
def test_functions_are_accurate(name, dtype):
    rng = np.random.default_rng(0)
    y = np.concatenate([np.linspace(-30, 30, 60001), rng.standard_normal(40000) * 1e-3]).astype(
        dtype
    )
    expected = FORMULAS[name](y.astype(np.float64))
    eps = float(np.finfo(dtype).eps)
    # Four units in the last place, and of what the reference itself cancels in its tails.
    assert_within(_apply(y, name, dtype), expected, eps * (4 * np.abs(expected) + 0.5))
    near = np.abs(y) < 2
    assert_within(_apply(y, name, dtype)[near], expected[near], 8 * eps * np.abs(expected[near]))


@pytest.mark.parametrize("name", FORMULAS)
def test_tails_and_special_values(name):
    y = np.array([np.nan, -np.inf, np.inf, -3e38, 3e38, -120, 120, -0.0], np.float32)
    result = _apply(y, name, "float32")
    assert np.isnan(result[0])
    with np.errstate(all="ignore"):
        limits = FORMULAS[name](np.array([-1e300, 1e300, -3e38, 3e38, -120.0, 120.0, 0.0]))
    limits[:2] = np.where(np.abs(limits[:2]) > 1e200, np.copysign(np.inf, limits[:2]), limits[:2])
    limits = np.nan_to_num(limits, nan=0.0, posinf=np.inf, neginf=-np.inf)
    np.testing.assert_allclose(result[1:], limits.astype(np.float32), rtol=1e-6, atol=1e-37)


LAYERS = {
    "direct": ((2, 9, 10, 5), (3, 3, 5, 7), {"algorithm": "direct", "padding": "same"}),
    "deep": ((1, 6, 7, 130), (3, 3, 130, 37), {"algorithm": "direct", "padding": "same"}),
    "winograd": ((1, 13, 14, 18), (3, 3, 18, 35), {"algorithm": "winograd_f4", "padding": "same"}),
    "depthwise": ((1, 9, 10, 21), (3, 3, 1, 21), {"groups": 21, "stride": 2}),
    "grouped": ((1, 9, 10, 12), (3, 3, 4, 9), {"groups": 3}),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", [None, *EXACT, "silu", "sigmoid"])
def test_every_convolution_finishes_alike(layer, name, residual, pool):
    x_shape, w_shape, options = LAYERS[layer]
    if pool and "groups" in options:
        options = {**options, "groups": 1, "algorithm": "direct"}
        w_shape = (*w_shape[:2], x_shape[3], w_shape[3])
    x, w, b = integers(x_shape, 1), integers(w_shape, 2), integers(w_shape[3:], 3)
    extra = _options(name, w_shape[3]) if name else {}
    plan = plan_conv2d(x_shape, w, b, pool=pool, add=residual, **options, **extra)
    add = integers(plan.spec.conv_out, 4) if residual else None
    y = plan(x, add)
    slopes = extra.get("alpha") if name == "prelu" else None
    expected = reference.conv2d(x, w, b, plan.spec, add, slopes)
    if layer != "winograd" and name not in ("silu", "sigmoid"):
        np.testing.assert_array_equal(y, expected)
    else:
        slack = bounds.conv2d(x, w, b, plan.spec, plan.algorithm)
        scale = np.abs(reference.conv2d(np.abs(x), np.abs(w), np.abs(b), plan.spec)) + 10
        assert_within(y, expected, 2 * slack + 2.0**-20 * scale)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", [None, *EXACT])
def test_transposed_convolutions_finish_alike(name, residual, groups):
    x, w, b = integers((2, 5, 6, 4), 1), integers((4, 3, 6 // groups, 4), 2), integers((6,), 3)
    extra = _options(name, 6) if name else {}
    for padding in ("valid", "same", ((1, 2), (0, 1))):
        plan = plan_conv2d_transpose(
            x.shape, w, b, stride=(2, 3), padding=padding, groups=groups, add=residual, **extra
        )
        add = integers(plan.spec.out, 4) if residual else None
        slopes = extra.get("alpha") if name == "prelu" else None
        expected = reference.conv2d_transpose(x, w, b, plan.spec, add, slopes)
        np.testing.assert_array_equal(plan(x, add), expected)


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("groups", [1, 3])
def test_labels_of_a_transposed_convolution(groups, activation):
    x, w = normals((2, 6, 5, 6), 1), normals((4, 4, 21 // groups, 6), 2)
    options = {"stride": 2, "padding": "same", "groups": groups, "activation": activation}
    plan = plan_conv2d_transpose(x.shape, w, argmax=True, **options)
    assert plan.shape == (2, 12, 10)
    numbers = fastconv.conv2d_transpose(x, w, **options)
    np.testing.assert_array_equal(plan(x), np.argmax(numbers, axis=3))
    assert "argmax" in str(plan)


def test_a_residual_in_nchw_and_strided():
    x, w = integers((1, 5, 6, 3), 1), integers((3, 3, 3, 4), 2)
    add = integers((1, 5, 12, 4), 3)[:, :, ::2]
    y = fastconv.conv2d(x, w, padding="same", add=add)
    np.testing.assert_array_equal(y, fastconv.conv2d(x, w, padding="same") + add)
    first = fastconv.conv2d(
        x.transpose(0, 3, 1, 2), w, padding="same", add=add.transpose(0, 3, 1, 2),
        data_format="NCHW",
    )  # fmt: skip
    np.testing.assert_array_equal(first, y.transpose(0, 3, 1, 2))


def test_out_may_not_be_the_residual():
    x, w = integers((1, 5, 6, 3), 1), integers((1, 1, 3, 4), 2)
    add = integers((1, 5, 6, 4), 3)
    with pytest.raises(ValueError, match="must not share memory"):
        fastconv.conv2d(x, w, add=add, out=add)

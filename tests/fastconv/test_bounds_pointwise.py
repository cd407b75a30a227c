"""Bounds of what follows a sum: activations, softmax, and rounding to a type of storage."""

import numpy as np
import pytest
from scipy import special

from fastconv import bounds, reference
from fastconv.activations import ACTIVATIONS
from fastconv.spec import ChannelOp
from tests.helpers import assert_within, normals

ALPHA = {"leaky_relu": 0.3125, "prelu": -1.75, "elu": 1.625}  # exact in float32
FUNCTIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x < 0, ALPHA["leaky_relu"] * x, x),
    "prelu": lambda x: np.where(x < 0, ALPHA["prelu"] * x, x),
    "elu": lambda x: np.where(x < 0, ALPHA["elu"] * np.expm1(np.minimum(x, 0)), x),
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "silu": lambda x: x * special.expit(x),
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: x * special.expit(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard_swish": lambda x: x * (np.clip(x + 3, 0, 6) / 6),
}


def after(name, y, bound, dtype="float32"):
    return bounds.activation(name, y, bound, dtype, ALPHA.get(name))


def test_every_activation_has_a_test():
    assert FUNCTIONS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_lipschitz_constant_is_the_steepest_slope(name):
    x = np.linspace(-12, 12, 240_001)
    steepest = np.abs(np.diff(FUNCTIONS[name](x)) / np.diff(x)).max()
    passed = after(name, 0.0, 1.0, "float64")
    assert steepest * (1 - 1e-9) <= passed <= steepest * 1.002


@pytest.mark.parametrize("alpha, slope", [(0.2, 1), (1.0, 1), (-3.0, 3), ([0.5, 2.5], [1, 2.5])])
def test_parameters_below_one_leave_the_positive_side(alpha, slope):
    for name in ALPHA:
        passed = bounds.activation(name, np.zeros(2), 1.0, "float64", alpha)
        np.testing.assert_allclose(passed, np.broadcast_to(slope, 2), rtol=2e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_stay_within_their_bound(name):
    """An argument that is off by as much as allowed, and NumPy's float32."""
    x = np.concatenate([normals(2000, 1), 40 * normals(2000, 2)]).astype("float32")
    wrong = x + 2.0**-12 * np.abs(x) * np.where(normals(4000, 3) < 0, -1, 1).astype("float32")
    error = np.abs(wrong.astype(float) - x)
    expected = FUNCTIONS[name](x.astype(float))
    assert_within(FUNCTIONS[name](wrong), expected, after(name, expected, error))


def test_own_errors_are_counted_in_units_in_the_last_place():
    y, u = np.array([-3.0, 5.0]), 2.0**-24
    smallest = 2.0**-126
    for name, ulps in [("relu", 0), ("relu6", 0), ("leaky_relu", 0.5), ("prelu", 0.5), ("tanh", 4)]:
        np.testing.assert_allclose(after(name, y, 0), 2 * ulps * u * np.abs(y), rtol=2e-6)
        assert after(name, 0.0, 0.0) == pytest.approx(smallest if ulps else 0, rel=2e-6, abs=0)


def test_own_errors_are_relative_to_what_is_computed():
    """That may be larger than the result by what was passed on."""
    bound = bounds.activation("sigmoid", 0.5, 2.0, "float16")
    assert bound == pytest.approx(0.5 + 8 * 2.0**-11 * (0.5 + 0.5) + 2.0**-14, rel=2e-6)


def test_activations_that_do_not_fit():
    with pytest.raises(ValueError, match=r"unknown activation 'swish'; use None, 'relu'"):
        bounds.activation("swish", 0.0, 0.0, "float32")
    with pytest.raises(ValueError, match=r"bounds\.activation: elu needs alpha"):
        bounds.activation("elu", 0.0, 0.0, "float32")


def bfloat16(x):
    """The nearest number whose last 16 bits are zero, of two the even one."""
    bits = np.asarray(x, "float32").view(np.uint32).astype(np.uint64)
    bits += 0x7FFF + (bits >> 16 & 1)
    return (bits >> 16 << 16).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("scale", [1.0, 2.0**-14, 2.0**-24, 2.0**-126, 2.0**-132])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_storage_in_half_precision(dtype, scale):
    """Numbers of full, of gradually lost, and of no precision."""
    y = normals(5000, 1).astype(float) * scale
    error = 2.0**-13 * np.abs(normals(5000, 2)) * scale
    stored = (y + error).astype("float32")
    stored = stored.astype("float16") if dtype == "float16" else bfloat16(stored)
    error += 2.0**-24 * np.abs(y + error) + 2.0**-149
    bound = bounds.rounded_to(dtype, np.abs(y), error)
    assert_within(stored, y, bound)
    if scale == 1:
        assert (np.abs(stored - y) / bound).max() > 0.9


def test_argmax_is_exact():
    spec = ChannelOp((2, 3, 4, 5), "argmax")
    bound = bounds.channel_op(normals(spec.x, 1), spec)
    assert bound.shape == (2, 3, 4)
    assert not bound.any()


def softmax(x):
    """In the dtype of `x`, one operation after the other."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    total = powers[..., 0]
    for c in range(1, x.shape[-1]):
        total = total + powers[..., c]
    return powers / total[..., None]


@pytest.mark.parametrize("kind", ["guaranteed", "probabilistic"])
@pytest.mark.parametrize("channels", [1, 2, 21, 1000])
@pytest.mark.parametrize("scale", [1, 30, 1e4])
def test_softmax_stays_within_its_bound(scale, channels, kind):
    """Up to differences whose exponentials vanish."""
    spec = ChannelOp((1, 9, 8, channels), "softmax")
    x = normals(spec.x, 1) * np.float32(scale)
    bound = bounds.channel_op(x, spec, kind=kind)
    error = np.abs(softmax(x) - reference.channel_op(x, spec))
    assert_within(error, np.zeros(spec.out), bound)


def test_softmax_is_the_formula():
    """Two channels: exponentials of 0 and z, their sum, and the quotient."""
    spec = ChannelOp((1, 1, 1, 2), "softmax", "float64")
    z, u = -1.5, 2.0**-53
    p = 1 / (1 + np.exp(z))
    y = np.array([p, 1 - p])
    powers = np.array([8, 8 - z]) * u
    expected = 2 * y * (powers + u + (y @ powers) + 2 * u)  # once for the reference
    bound = bounds.channel_op(np.array([4.0, 2.5]).reshape(spec.x), spec)
    np.testing.assert_allclose(bound.ravel(), expected, rtol=1e-5)


def test_the_likely_softmax_is_the_formula():
    """Equal channels: exponentials of 0, their sum, and the quotient."""
    c, u = 4096, 2.0**-24
    spec = ChannelOp((1, 1, 1, c), "softmax")
    lam = np.sqrt(2 * np.log(2 * c / 0.01))
    whole = 8 * u + lam * np.sqrt(c) * u
    bound = bounds.channel_op(np.ones(spec.x), spec, kind="probabilistic", confidence=0.99)
    np.testing.assert_allclose(bound, (8 * u + u + whole) / c, rtol=1e-3)


def test_many_positive_terms_rarely_all_err_alike():
    spec = ChannelOp((1, 2, 2, 4096), "softmax")
    x = normals(spec.x, 1)
    likely = bounds.channel_op(x, spec, kind="probabilistic")
    assert (5 * likely < bounds.channel_op(x, spec)).all()
    error = np.abs(softmax(x) - reference.channel_op(x, spec))
    assert_within(error, np.zeros(spec.out), likely)
    assert likely.max() <= 60 * error.max()

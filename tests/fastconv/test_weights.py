"""Plans of one `Weights` share what is packed of it; plans of an array do not."""

import numpy as np
import pytest

import fastconv
from fastconv import Weights
from tests.helpers import integers


@pytest.mark.parametrize("algorithm", ["direct", "winograd_f4"])
def test_plans_share_what_is_packed(algorithm):
    w = integers((3, 3, 8, 20), seed=1)
    shared = Weights(w)
    for size in (40, 48, 40):
        x = integers((1, size, 30, 8), seed=size)
        plan = fastconv.plan_conv2d(x.shape, shared, padding="same", algorithm=algorithm)
        assert shared.packed_bytes == plan.packed_bytes > 0
        expected = fastconv.conv2d(x, w, padding="same", algorithm=algorithm)
        np.testing.assert_array_equal(plan(x), expected)


def test_each_layout_is_packed_once():
    shared = Weights(integers((3, 3, 8, 20), seed=1))
    plans = [
        fastconv.plan_conv2d((1, 40, 40, 8), shared, algorithm=name)
        for name in ("direct", "winograd_f4", "winograd_f2", "direct")
    ]
    assert shared.packed_bytes == sum(plan.packed_bytes for plan in plans[:3])


def test_transposed_and_depthwise_layers():
    kernel, x = Weights(integers((4, 4, 6, 8), seed=1)), integers((1, 9, 7, 8), seed=2)
    for stride in (2, 3, 2):  # the taps of each phase depend on it
        plan = fastconv.plan_conv2d_transpose(x.shape, kernel, stride=stride)
        expected = fastconv.conv2d_transpose(x, kernel.array, stride=stride)
        np.testing.assert_array_equal(plan(x), expected)
    each = Weights(integers((3, 3, 1, 8), seed=3))
    for size in (9, 12):
        plan = fastconv.plan_conv2d((1, size, size, 8), each, groups=8)
        assert plan.packed_bytes == each.packed_bytes == each.array.nbytes


def test_a_plan_of_an_array_has_its_own_copy():
    w, x = integers((3, 3, 8, 20), seed=1), integers((1, 9, 9, 8), seed=2)
    expected = fastconv.conv2d(x, w)
    plan = fastconv.plan_conv2d(x.shape, w)
    w[...] = np.nan
    np.testing.assert_array_equal(plan(x), expected)


def test_bad_weights_are_named():
    with pytest.raises(ValueError, match=r"weights: w must have 4 axes, got \(3, 3\)"):
        Weights(np.zeros((3, 3), np.float32))
    with pytest.raises(TypeError, match="int64"):
        Weights(np.zeros((3, 3, 1, 1), np.int64))

"""Transposed convolution on the CPU."""

import itertools

import numpy as np
import pytest

from fastconv import bounds, conv2d_transpose, plan_conv2d_transpose, reference
from tests.helpers import assert_within, integers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [(1, 1, 1), (3, 5, 1), (18, 21, 1), (4, 6, 2)], ids=str)
def test_indices_are_exact(channels, dtype):
    c, k, groups = channels
    ran = 0
    for kernel, stride, dilation, padding, extra in itertools.product(
        [(1, 1), (2, 2), (4, 4), (5, 3)], [(1, 1), (2, 2), (3, 4)], [(1, 1), (2, 1)],
        ["valid", "same", "same_lower", ((1, 0), (0, 1))], [None, 1],
    ):  # fmt: skip
        x = integers((2, 4, 5, c), seed=1, dtype=dtype)
        w = integers((*kernel, k // groups, c), seed=2, dtype=dtype)
        b = integers((k,), seed=3, dtype=dtype)
        try:
            plan = plan_conv2d_transpose(
                x.shape, w, b, stride=stride, dilation=dilation, padding=padding, groups=groups,
                output_padding=extra, activation="relu",
            )  # fmt: skip
        except ValueError as error:  # a size that these arguments cannot give
            assert "conv2d_transpose" in str(error)
            continue
        assert plan.kernel.startswith(f"gemm_{dtype}")
        np.testing.assert_array_equal(plan(x), reference.conv2d_transpose(x, w, b, plan.spec))
        ran += 1
    assert ran > 80


def test_rounding_stays_within_the_bound():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 9, 8, 37), np.float32)
    w = rng.standard_normal((16, 16, 5, 37), np.float32)
    plan = plan_conv2d_transpose(x.shape, w, stride=8, padding="same")
    expected = reference.conv2d_transpose(x, w, None, plan.spec)
    assert_within(plan(x), expected, bounds.conv2d_transpose(x, w, None, plan.spec))


def test_output_shape_chooses_among_the_possible_sizes():
    x, w = integers((1, 4, 4, 2), seed=1), integers((3, 3, 3, 2), seed=2)
    for size in (7, 8):
        y = conv2d_transpose(x, w, stride=2, padding="same", output_shape=(size, size))
        assert y.shape == (1, size, size, 3)
    with pytest.raises(ValueError, match=r"conv2d_transpose: an output height of 9.*7 to 8"):
        conv2d_transpose(x, w, stride=2, padding="same", output_shape=(9, 8))


@pytest.mark.parametrize("shape", [(0, 4, 4, 2), (1, 0, 4, 2), (1, 4, 4, 0)], ids=str)
def test_empty_inputs_give_shaped_results(shape):
    w, b = integers((2, 2, 3, shape[3]), seed=1), integers((3,), seed=2)
    y = conv2d_transpose(np.zeros(shape, np.float32), w, b, stride=2)
    assert y.shape == (shape[0], 2 * shape[1], 2 * shape[2], 3)
    np.testing.assert_array_equal(y, np.broadcast_to(b, y.shape))

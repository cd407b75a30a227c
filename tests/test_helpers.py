"""The comparisons fail when they should: a test that cannot fail proves nothing."""

import numpy as np
import pytest

from tests.helpers import assert_equal, assert_within, integers

ONE = np.ones((2, 3))


def test_equal_accepts_the_same_numbers():
    assert_equal(ONE, ONE.astype("float32"))


@pytest.mark.parametrize("other", [ONE * 2, ONE[:1], ONE[:, :, None]])
def test_equal_rejects(other):
    with pytest.raises(AssertionError):
        assert_equal(ONE, other)


def test_equal_rejects_nan_beside_nan():
    with pytest.raises(AssertionError, match="1 of 2 are wrong, the first at \\(1,\\)"):
        assert_equal([1.0, np.nan], [1.0, np.nan])


def test_within_accepts_the_bound_itself():
    assert_within([1.0, 2.0], [1.5, 2.0], [0.5, 0.0])


@pytest.mark.parametrize(
    "actual, expected, bound",
    [
        ([1.0], [2.0], 0.99),
        ([np.nan], [2.0], 9.0),
        ([2.0], [np.nan], 9.0),
        ([2.0], [2.0], np.nan),
        ([2.0, 2.0], [2.0], 9.0),
    ],
)
def test_within_rejects(actual, expected, bound):
    with pytest.raises(AssertionError):
        assert_within(actual, expected, bound)


def test_integers_are_small_whole_and_repeatable():
    x = integers((50, 50), 3)
    assert x.dtype == np.float32
    assert set(np.unique(x)) == set(range(-4, 5))
    assert_equal(x, integers((50, 50), 3))
    assert (x != integers((50, 50), 4)).any()

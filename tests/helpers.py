"""Operands and comparisons that several tests share."""

import numpy as np
from numpy.typing import NDArray

LARGEST = 4


def integers(shape, seed, dtype="float32") -> NDArray:
    """Random whole numbers from -4 to 4.

    Sums of their products stay far below 2**24, so that every order of summation gives the same
    bits in float32: what differs from the reference is an index, not rounding.
    """
    return np.random.default_rng(seed).integers(-LARGEST, LARGEST + 1, shape).astype(dtype)


def normals(shape, seed, dtype="float32") -> NDArray:
    """Random numbers of the standard normal distribution, which round in every operation."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_equal(actual, expected) -> None:
    """Fail unless both have one shape and the same numbers; NaN equals nothing."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    wrong = ~(actual == expected)
    assert not wrong.any(), _describe(wrong, actual, expected)


def assert_within(actual, expected, bound) -> None:
    """Fail unless ``|actual - expected| <= bound`` everywhere, which no NaN satisfies."""
    actual, expected = np.asarray(actual), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    bound = np.broadcast_to(bound, expected.shape)
    error = np.abs(actual.astype(np.float64) - expected)
    wrong = ~(error <= bound)
    assert not wrong.any(), f"{_describe(wrong, actual, expected)}, bound {bound[wrong][0]:.3g}"


def _describe(wrong, actual, expected) -> str:
    where = tuple(map(int, np.argwhere(wrong)[0]))
    return (
        f"{wrong.sum()} of {wrong.size} are wrong, the first at {where}: "
        f"{actual[where]!r}, expected {expected[where]!r}"
    )

"""What follows a sum, element by element or over the channels of a pixel: activations, softmax."""

import numpy as np
from numpy.typing import ArrayLike

from fastconv.activations import ACTIVATIONS
from fastconv.bounds._rounding import SLACK, U64, Array, gamma, smallest_normal, unit_roundoff

EXP_ULPS = 4.0  # error of the exponential function, of the reference, too


def activation(
    name: str | None, y: ArrayLike, bound: ArrayLike, dtype: str, alpha: ArrayLike | None = None
) -> Array:
    """Bound after an activation function.

    ::

        L * bound + 2 * u * (ulps * (|y| + L * bound) + tail) + smallest normal number

    with the function's Lipschitz constant ``L`` and its own error in units in the last place of the
    result, of which none is larger than ``2 * u`` relatively, and of 1. Results below the smallest
    normal number may be flushed to zero. A clamp has no error of its own.

    Parameters
    ----------
    name : None or str
        A key of `fastconv.activations.ACTIVATIONS`.
    y : array_like
        The reference's result, after the activation.
    bound : array_like
        Bound for the number to which the activation is applied.
    dtype : str
        Working precision.
    alpha : array_like, optional
        Slope for negative numbers of leaky_relu and prelu, or the scale of elu.

    Raises
    ------
    ValueError
        The activation is unknown, or its parameter is missing.
    """
    if name not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"bounds.activation: unknown activation {name!r}; use {known}")
    row = ACTIVATIONS[name]
    slope: float | Array = row.lipschitz
    if row.alpha is not None:
        if alpha is None:
            raise ValueError(f"bounds.activation: {name} needs alpha")
        slope = np.maximum(np.abs(np.asarray(alpha, np.float64)), slope)
    passed = slope * np.asarray(bound, np.float64)
    own = 2 * unit_roundoff(dtype) * (row.ulps * (np.abs(y) + passed) + row.tail)
    return np.asarray((passed + own + (smallest_normal(dtype) if row.ulps else 0.0)) * SLACK)


def softmax(x: Array, dtype: str, lam: float | None) -> Array:
    """Bound of ``exp(x - max) / sum(exp(x - max))`` over the last axis, for finite `x`.

    The rounded difference ``z`` changes its exponential by a factor of ``exp(u * |z|)``, the
    exponential itself has a stated error, the sum of positive numbers one of `gamma`, or of
    ``lambda * sqrt(c) * u``, and the quotient is rounded. All of that happens in the reference,
    too. Exponentials may be flushed to zero below the smallest normal number.
    """
    z = x - x.max(axis=-1, keepdims=True)
    y = np.exp(z)
    y /= y.sum(axis=-1, keepdims=True)
    terms = x.shape[-1]
    total = np.zeros_like(y)
    for u in (unit_roundoff(dtype), U64):
        power = np.expm1(u * np.abs(z)) * (1 + 2 * EXP_ULPS * u) + 2 * EXP_ULPS * u
        added = gamma(terms, u)
        if lam is not None:
            added = np.minimum(added, lam * np.sqrt(terms) * u * (1 + added))
        whole = (y * power).sum(axis=-1, keepdims=True)
        whole = whole + added * (1 + whole)
        total += y * (power + u + power * u + whole) / (1 - whole)  # (1+p)(1+u) / (1-w) - 1
    return np.asarray(total + 2 * (terms + 1) * smallest_normal(dtype))

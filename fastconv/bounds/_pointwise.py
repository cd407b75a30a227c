"""What follows a sum, element by element or over the channels of a pixel: activations, softmax."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from fastconv.bounds._rounding import SLACK, U64, Array, gamma, smallest_normal, unit_roundoff


def _slope(alpha: Array) -> Array:
    return np.maximum(np.abs(alpha), 1)


# name -> by how much it may enlarge a difference, from the parameter alpha; and its own error, in
# units in the last place of its result. Half a unit is one rounding.
#
# silu(x) = x s(x) with the sigmoid s has its steepest slope where its second derivative
# s (1 - s) (2 + x (1 - 2 s)) is 0: at x = 2.3994, 1.0998. gelu(x) = x Phi(x), with the normal
# distribution Phi and density phi, has the second derivative phi (2 - x**2): at x = sqrt(2),
# Phi + x phi = 1.1290, and its approximation by tanh is as steep. hard_swish(x) = x clip(x + 3, 0,
# 6) / 6: at x = 3, (2 x + 3) / 6 = 1.5.
ACTIVATIONS: dict[str | None, tuple[float | Callable[[Array], Array], float]] = {
    None: (1.0, 0.0),
    "relu": (1.0, 0.0),
    "relu6": (1.0, 0.0),
    "leaky_relu": (_slope, 0.5),
    "prelu": (_slope, 0.5),
    "elu": (_slope, 4.0),
    "sigmoid": (0.25, 4.0),
    "tanh": (1.0, 4.0),
    "silu": (1.1, 4.0),
    "gelu": (1.13, 4.0),
    "gelu_tanh": (1.13, 4.0),
    "hard_sigmoid": (1 / 6, 4.0),
    "hard_swish": (1.5, 4.0),
}
EXP_ULPS = 4.0  # error of the exponential function, of the reference, too


def activation(
    name: str | None, y: ArrayLike, bound: ArrayLike, dtype: str, alpha: ArrayLike | None = None
) -> Array:
    """Bound after an activation function.

    ::

        L * bound + 2 * ulps * u * (|y| + L * bound) + smallest normal number

    with the function's Lipschitz constant ``L`` and its own error in units in the last place, of
    which none is larger than ``2 * u`` relatively. Results below the smallest normal number may be
    flushed to zero. A clamp has no error of its own.

    Parameters
    ----------
    name : None or str
        A key of the table `ACTIVATIONS`.
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
    lipschitz, ulps = ACTIVATIONS[name]
    if callable(lipschitz) and alpha is None:
        raise ValueError(f"bounds.activation: {name} needs alpha")
    slope = lipschitz(np.asarray(alpha, np.float64)) if callable(lipschitz) else lipschitz
    passed = slope * np.asarray(bound, np.float64)
    own = 2 * ulps * unit_roundoff(dtype) * (np.abs(y) + passed)
    return np.asarray((passed + own + (smallest_normal(dtype) if ulps else 0.0)) * SLACK)


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

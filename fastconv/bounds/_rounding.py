"""What one rounding does, and how far many of them may add up."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

KINDS = ("guaranteed", "probabilistic")
CONFIDENCE = 1 - 1e-6
U64 = 2.0**-53  # of the reference
SLACK = 1 + 2.0**-20  # covers the rounding of the bound itself

# dtype -> largest relative error of one rounding, smallest positive number, smallest normal one.
FORMATS = {
    "float16": (2.0**-11, 2.0**-24, 2.0**-14),
    "bfloat16": (2.0**-8, 2.0**-133, 2.0**-126),
    "float32": (2.0**-24, 2.0**-149, 2.0**-126),
    "float64": (2.0**-53, 2.0**-1074, 2.0**-1022),
}


def unit_roundoff(dtype: str) -> float:
    """Give the largest relative error of one rounding: 2**-24 for float32."""
    return FORMATS[dtype][0]


def smallest(dtype: str) -> float:
    """Give the smallest positive number: what a result near zero may lose."""
    return FORMATS[dtype][1]


def smallest_normal(dtype: str) -> float:
    """Give the smallest positive number of full precision."""
    return FORMATS[dtype][2]


def gamma(roundings: ArrayLike, u: float) -> Array:
    """``t*u / (1 - t*u)``: by how much ``t`` roundings change a term, relatively."""
    tu = np.asarray(roundings, np.float64) * u
    return np.asarray(tu / (1 - tu))


def rounded_to(dtype: str, y_abs: ArrayLike, bound: ArrayLike) -> Array:
    """Bound after one more rounding, to the type in which the result is stored.

    Sixteen-bit operands are float32 numbers: what is summed in float32 has the bound for that, and
    this one when it is written.

    Parameters
    ----------
    dtype : "float16", "bfloat16", "float32" or "float64"
    y_abs : array_like
        Absolute values of the exact result.
    bound : array_like
        Bound for the number that is rounded.

    Returns
    -------
    ndarray of float64
        ``bound + u * (y_abs + bound)`` and the smallest number of the type.
    """
    bound = np.asarray(bound, np.float64)
    y_abs = np.asarray(y_abs, np.float64)
    own = unit_roundoff(dtype) * (y_abs + bound) + smallest(dtype)
    return np.asarray((bound + own) * SLACK)


def deviations(kind: str, confidence: float, elements: int) -> float | None:
    """``lambda`` of Azuma's inequality for an array; None for a guaranteed bound.

    ``2 * exp(-lambda**2 / 2)`` is what each element may contribute to ``1 - confidence``.
    """
    if kind not in KINDS:
        raise ValueError(f"bounds: unknown kind {kind!r}; use {' or '.join(map(repr, KINDS))}")
    if not 0 < confidence < 1:
        raise ValueError(f"bounds: confidence must be between 0 and 1, got {confidence}")
    if kind == "guaranteed":
        return None
    return math.sqrt(2 * math.log(2 * max(elements, 1) / (1 - confidence)))


def probable(guaranteed: Array, fixed: Array, scale: float, squares: Array) -> Array:
    """``fixed + scale * sqrt(squares)``, where that is less than the guaranteed bound.

    Not where the squares underflow or overflow: float64 operands far below 2**-200 or above
    2**200.
    """
    usable = (squares > 2.0**-900) & (squares < np.inf)
    bound = np.fmin(guaranteed, fixed + scale * np.sqrt(np.where(usable, squares, 0)))
    return np.where(usable, bound, guaranteed)

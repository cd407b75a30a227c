"""Vector versions of exp, erf and the activation functions built on them.

Errors are those of a few roundings; `fastconv.bounds` states them and the tests check them against
SciPy. Arguments of exponentials are never positive here, so nothing overflows, and NaN stays NaN.

Sources: W. J. Cody and W. Waite, *Software Manual for the Elementary Functions* (1980), for the
reduction of arguments; S. J. Johnson's ``erfcx`` (MIT Faddeeva package) for the idea of a
polynomial in 1 / (1 + x / c), whose coefficients were computed anew with 50 digits.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv.cpu.simd import Emitter

# Terms of Taylor's series of (exp(r) - 1) / r for |r| <= ln(2) / 2: the next is below a rounding.
EXP_TERMS = {"float32": 8, "float64": 14}
# ln(2) = HIGH + LOW; HIGH has so few digits that its product with a whole number is exact.
LN2_HIGH = {"float32": 0.693359375, "float64": 0.6931471803691238}
LN2_LOW = {"float32": -2.1219444005469057e-4, "float64": 1.9082149292705877e-10}
LEAST = {"float32": -104.0, "float64": -746.0}  # exp is zero from here on

# Chebyshev coefficients of erfcx(z) / t in 2 * t - 1, where t = 1 / (1 + z / 3), z >= 0, and
# erfcx(z) = exp(z * z) * erfc(z); the float32 functions use the first ERFC_TERMS of them.
ERFCX = (
    0.4711460746602906, 0.37715894969156577, 0.11803603344749546, 0.028362346699695153,
    0.004871757757605546, 0.00045985238787654427, -2.143022238105315e-05,
    -1.301447369924135e-05, -8.809283582853514e-07, 2.7464800479702846e-07,
    4.415991899223785e-08, -6.398408385575483e-09, -1.6768357212484645e-09,
    1.9473354700890025e-10, 6.247441303469389e-11, -8.124557552244496e-12,
    -2.330314613222566e-12, 4.191038539225333e-13, 8.19333526881303e-14,
    -2.3352472107929263e-14, -2.2442585649165363e-15, 1.2811435298050507e-15,
    1.1054582965396302e-18, -6.44579513564904e-17, 6.525175975538486e-18,
)  # fmt: skip
ERFC_TERMS = {"float32": 12, "float64": 25}


def _polynomial(e: Emitter, coefficients: list[float], x: Any) -> Any:
    """Horner's scheme, constant term first."""
    total = e.splat(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = e.fma(total, x, e.splat(c))
    return total


def _reduced(e: Emitter, x: Any, low: Any = None) -> tuple[Any, Any]:
    """n, and exp(r) - 1 where x + low = n * ln(2) + r, for x <= 0 and a tiny `low`."""
    x = e.at_least(x, e.splat(LEAST[e.dtype]))
    n = e.rint(e.ir.fmul(x, e.splat(1 / math.log(2))))
    r = e.fma(n, e.splat(-LN2_HIGH[e.dtype]), x)
    r = e.fma(n, e.splat(-LN2_LOW[e.dtype]), r)
    if low is not None:
        r = e.ir.fadd(r, low)
    series = [1 / math.factorial(k + 1) for k in range(EXP_TERMS[e.dtype])]
    return n, e.ir.fmul(r, _polynomial(e, series, r))


def exp(e: Emitter, x: Any, low: Any = None) -> Any:
    """``exp(x + low)`` for x <= 0 and a tiny `low`, down to the denormal numbers."""
    n, p = _reduced(e, x, low)
    first, second = e.powers_of_two(n)
    return e.ir.fmul(e.ir.fmul(e.ir.fadd(p, e.splat(1.0)), first), second)


def expm1(e: Emitter, x: Any) -> Any:
    """``exp(x) - 1`` for x <= 0, with all digits near zero."""
    n, p = _reduced(e, x)
    first, second = e.powers_of_two(n)
    power = e.ir.fmul(first, second)
    return e.fma(power, p, e.ir.fsub(power, e.splat(1.0)))


def sigmoid(e: Emitter, x: Any) -> Any:
    """``1 / (1 + exp(-x))``, from exp(-|x|) so that nothing overflows or cancels."""
    power = exp(e, e.negative(e.absolute(x)))
    above = e.ir.select(e.ir.fcmp_ordered("<", x, e.splat(0.0)), power, e.splat(1.0))
    return e.ir.fdiv(above, e.ir.fadd(power, e.splat(1.0)))


def tanh(e: Emitter, x: Any) -> Any:
    """``-sign(x) * m / (2 + m)`` with m = exp(-2 |x|) - 1."""
    m = expm1(e, e.ir.fmul(e.absolute(x), e.splat(-2.0)))
    return e.copysign(e.ir.fdiv(m, e.ir.fadd(m, e.splat(2.0))), x)


def gelu(e: Emitter, x: Any) -> Any:
    """``x * (1 + erf(x / sqrt(2))) / 2``, from erfc(|x| / sqrt(2)), whose small values are exact.

    The square in exp(-x * x / 2) is split into an exact one and a small rest.
    """
    size = e.absolute(x)
    t = e.ir.fdiv(e.splat(1.0), e.fma(size, e.splat(1 / (3 * math.sqrt(2))), e.splat(1.0)))
    s = e.fma(t, e.splat(2.0), e.splat(-1.0))
    terms = np.polynomial.chebyshev.cheb2poly(ERFCX[: ERFC_TERMS[e.dtype]]).tolist()
    scaled = e.ir.fmul(t, _polynomial(e, terms, s))  # erfcx
    # At most a few hundred: beyond, the exponential is zero and squares might overflow.
    near = e.at_most(size, e.splat(64.0))
    high = e.leading_half(near)
    rest = e.ir.fmul(e.ir.fsub(near, high), e.ir.fadd(near, high))
    square = e.ir.fmul(high, high)
    power = exp(e, e.ir.fmul(square, e.splat(-0.5)), e.ir.fmul(rest, e.splat(-0.5)))
    tail = e.ir.fmul(e.ir.fmul(power, scaled), e.splat(0.5))  # of the normal distribution
    share = e.ir.select(e.ir.fcmp_ordered("<", x, e.splat(0.0)), tail,
                        e.ir.fsub(e.splat(1.0), tail))  # fmt: skip
    return _times_share(e, x, share)


def _times_share(e: Emitter, x: Any, share: Any) -> Any:
    """``x * share``; -infinity times 0 is 0, the limit."""
    product = e.ir.fmul(x, share)
    zero = e.ir.fcmp_ordered("==", share, e.splat(0.0))
    return e.ir.select(zero, e.splat(0.0), product)


def gelu_tanh(e: Emitter, x: Any) -> Any:
    """``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2``, which is x * sigmoid(2 u)."""
    scale = 2 * math.sqrt(2 / math.pi)
    square = e.ir.fmul(x, x)
    u = e.ir.fmul(x, e.fma(square, e.splat(scale * 0.044715), e.splat(scale)))
    return _times_share(e, x, sigmoid(e, u))


def silu(e: Emitter, x: Any) -> Any:
    """``x * sigmoid(x)``."""
    return _times_share(e, x, sigmoid(e, x))


def hard_sigmoid(e: Emitter, x: Any) -> Any:
    """``min(max(x + 3, 0), 6) / 6``."""
    shifted = e.clamp(e.ir.fadd(x, e.splat(3.0)), e.splat(0.0), e.splat(6.0))
    return e.ir.fdiv(shifted, e.splat(6.0))


def hard_swish(e: Emitter, x: Any) -> Any:
    """``x * hard_sigmoid(x)``."""
    return _times_share(e, x, hard_sigmoid(e, x))


# Those without a parameter, by the name that `spec.ACTIVATIONS` gives them.
FUNCTIONS: dict[str, Callable[[Emitter, Any], Any]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": hard_swish,
    "sigmoid": sigmoid,
    "silu": silu,
    "tanh": tanh,
}

"""Activation functions: one table for the specification, the kernels and the error bounds."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ACTIVATIONS", "Activation"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Activation:
    """One function of a number and perhaps a parameter alpha.

    Attributes
    ----------
    formula : function of (y, alpha)
        In float64; `alpha` is a number or one for each channel.
    alpha : float, optional
        Default of the parameter; None where there is none. NaN: it must be given.
    clamp : (low, high), optional
        The function is ``min(max(y, low), high)``: the kernels do that in registers.
    increasing : bool
        Nowhere falling, so that the maximum of results is the result of the maximum. With a
        parameter this holds for one >= 0.
    lipschitz : float
        Largest slope; with a parameter it is ``max(lipschitz, |alpha|)``.
    ulps, tail : float
        Error of the kernels, in units in the last place of the result and of 1.

    Notes
    -----
    silu(y) = y s(y) with the sigmoid s has its steepest slope where its second derivative
    s (1 - s) (2 + y (1 - 2 s)) is 0: at y = 2.3994, 1.0998. gelu(y) = y Phi(y), with the normal
    distribution Phi and density phi, has the second derivative phi (2 - y**2): at y = sqrt(2),
    Phi + y phi = 1.1290, and its approximation by tanh is as steep. hard_swish(y) = y clip(y + 3,
    0, 6) / 6: at y = 3, (2 y + 3) / 6 = 1.5. The argument of tanh in gelu_tanh is rounded, which
    makes an error in its tail that is large beside the tail, but not beside 1.
    """

    formula: Callable[[Array, Array | float], Array]
    alpha: float | None = None
    clamp: tuple[float, float] | None = None
    increasing: bool = True
    lipschitz: float = 1.0
    ulps: float = 4.0
    tail: float = 0.0


def _sigmoid(y: Array) -> Array:
    power = np.exp(-np.abs(y))
    return np.asarray(np.where(y < 0, power, 1.0) / (1.0 + power))


def _share(y: Array, share: Array) -> Array:
    """``y * share``; minus infinity times 0 is 0, the limit."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(share == 0, 0.0, y * share))


_erfc = np.vectorize(math.erfc, otypes=[np.float64])
_CUBE = 0.044715

ACTIVATIONS: dict[str | None, Activation] = {
    None: Activation(lambda y, _: y, clamp=(-math.inf, math.inf), ulps=0),
    "relu": Activation(lambda y, _: np.maximum(y, 0), clamp=(0.0, math.inf), ulps=0),
    "relu6": Activation(lambda y, _: np.clip(y, 0, 6), clamp=(0.0, 6.0), ulps=0),
    "leaky_relu": Activation(lambda y, a: np.where(y < 0, a * y, y), 0.01, ulps=0.5),
    "prelu": Activation(lambda y, a: np.where(y < 0, a * y, y), math.nan, ulps=0.5),
    "elu": Activation(lambda y, a: np.where(y < 0, a * np.expm1(np.minimum(y, 0)), y), 1.0),
    "sigmoid": Activation(lambda y, _: _sigmoid(y), lipschitz=0.25),
    "tanh": Activation(lambda y, _: np.tanh(y)),
    "hard_sigmoid": Activation(lambda y, _: np.clip(y + 3, 0, 6) / 6, lipschitz=1 / 6),
    "hard_swish": Activation(
        lambda y, _: _share(y, np.clip(y + 3, 0, 6) / 6), increasing=False, lipschitz=1.5
    ),
    "silu": Activation(lambda y, _: _share(y, _sigmoid(y)), increasing=False, lipschitz=1.1),
    "gelu": Activation(
        lambda y, _: _share(y, _erfc(-y / math.sqrt(2)) / 2), increasing=False, lipschitz=1.13
    ),
    "gelu_tanh": Activation(
        lambda y, _: _share(y, _sigmoid(2 * math.sqrt(2 / math.pi) * (y + _CUBE * y**3))),
        increasing=False, lipschitz=1.13, tail=0.0625,
    ),
}  # fmt: skip

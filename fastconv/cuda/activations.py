"""Activation functions."""

import math

from numba import cuda
from numba.cuda.types import float32, float64, int32

from fastconv.cuda.ptx import largest, select, smallest

CURVES = (
    "elu", "sigmoid", "tanh", "hard_sigmoid", "hard_swish", "silu", "gelu", "gelu_tanh",
)  # fmt: skip
_SLOPE = 2 * math.sqrt(2 / math.pi)


@cuda.jit(device=True)
def clamp(v, slope, low, high):
    """``min(max(v, low), high)`` of v, or below zero of ``v * slope``; NaN stays NaN."""
    return smallest(largest(select(v < float32(0), v * slope, v), low), high)


@cuda.jit(device=True)
def _sigmoid(v):
    power = math.exp(-abs(v))
    return select(v < float32(0), power, float32(1)) / (float32(1) + power)


@cuda.jit(device=True)
def _sixth(v):
    return smallest(largest(v + float32(3), float32(0)), float32(6)) / float32(6)


@cuda.jit(device=True)
def _share(v, share):
    """``v * share``; minus infinity times 0 is 0, the limit."""
    return select(share == float32(0), float32(0), v * share)


@cuda.jit(device=True)
def _curve(v, kind, alpha):
    if kind == 0:
        done = select(v < float32(0), alpha * math.expm1(smallest(v, float32(0))), v)
    elif kind == 1:
        done = _sigmoid(v)
    elif kind == 2:
        done = math.tanh(v)
    elif kind == 3:
        done = _sixth(v)
    elif kind == 4:
        done = _share(v, _sixth(v))
    elif kind == 5:
        done = _share(v, _sigmoid(v))
    elif kind == 6:  # far out erfc multiplies a rounding of its argument: in float64
        wide = float64(v)
        done = _share(v, float32(math.erfc(-wide / math.sqrt(2.0)) / 2.0))
    else:
        done = _share(v, _sigmoid(float32(_SLOPE) * (v + float32(0.044715) * v * v * v)))
    return done


@cuda.jit(device=True)
def _turn(values, kind, alpha):
    return (*values[1:], _curve(values[0], kind, alpha))


@cuda.jit(device=True)
def curves(values, kind, alpha):
    """The function number `kind` of `CURVES` of each number of a tuple, or if it is -1 the numbers.

    The loop turns the tuple, so that the code of the functions is there once.
    """
    if kind >= 0:
        i = int32(0)
        while i < len(values):
            values = _turn(values, kind, alpha)
            i = int32(i + 1)
    return values

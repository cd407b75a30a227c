"""Number by number: activation functions that convolutions do not fuse, and unpooling."""

import math

from numba import cuda
from numba.cuda.types import float32, float64, int32

from fastconv.cuda.ptx import largest, load1, load_entry, select, smallest, store1, store4

THREADS = 256
NAMES = (
    "elu", "sigmoid", "tanh", "hard_sigmoid", "hard_swish", "silu", "gelu", "gelu_tanh",
)  # fmt: skip
_SLOPE = 2 * math.sqrt(2 / math.pi)


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


def make():
    """The kernel: `kind` is a position in `NAMES`."""

    def activate(x, y, kind, alpha, count):
        g = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        on = g < count
        v = load1(x, g, on)
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
        store1(y, g, done, on)

    return activate


def make_take():
    """The kernel that gives 4 outputs the numbers of the input that a table tells, or 0.

    The numbers may be anywhere, so each is an access of its own.
    """

    def take(x, y, table, count):
        g = int32((cuda.blockIdx.x * THREADS + cuda.threadIdx.x) * 4)
        left = int32(count - g)
        a, b, c, d = load_entry(table, select(left > 0, g, int32(0)))
        values = (
            load1(x, a, (a >= 0) & (left > 0)),
            load1(x, b, (b >= 0) & (left > 0)),
            load1(x, c, (c >= 0) & (left > 0)),
            load1(x, d, (d >= 0) & (left > 0)),
        )
        store4(y, g, values, left >= 4)
        some = (left > 0) & (left < 4)
        store1(y, g, values[0], some)
        store1(y, int32(g + 1), values[1], some & (left > 1))
        store1(y, int32(g + 2), values[2], some & (left > 2))

    return take

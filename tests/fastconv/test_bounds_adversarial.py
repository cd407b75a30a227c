"""No operands break a guaranteed bound, however they are chosen, by any algorithm."""

import numpy as np
import pytest

from fastconv import bounds
from fastconv.cook_toom import TILES, algorithm
from fastconv.spec import Conv2d
from tests.arithmetic import Rounding, direct, exact, kernel, winograd
from tests.helpers import assert_within, normals

# taps, stride, size of a tile; 0 is the direct algorithm.
WINOGRADS = [(r, stride, m) for (r, stride), sizes in TILES.items() for m in sizes]
DIRECTS = [(3, 1, 0), (5, 2, 0)]
CHANNELS, OUTPUTS = 19, 3


def layer(r, stride, dtype):
    pad = ((r // 2, r // 2), (r // 2, r // 2 + 1))
    return Conv2d((1, 11, 10, CHANNELS), (r, r, CHANNELS, OUTPUTS), (stride,) * 2, pad, dtype=dtype)


def name(m):
    return f"winograd_f{m}" if m else "direct"


def cancelling(spec, rng, m):
    """Huge numbers of alternating signs, beside small ones: what is left is nearly all error."""
    channel = np.arange(spec.x[3])
    size = np.where(channel % 3, 1, 2.0**30) * np.where(channel % 2, 1, -1)
    return (1 + rng.random(spec.x) * 2.0**-20) * size, 1 + rng.random(spec.w) * 2.0**-20


def wide(spec, rng, m):
    """Magnitudes from 2**-40 to 2**40."""
    shapes = spec.x, spec.w
    return [rng.standard_normal(s) * 2.0 ** rng.integers(-40, 41, s) for s in shapes]


def large(spec, rng, m):
    """As large as they may be: the transforms enlarge products up to 2**30 times."""
    half = np.finfo(spec.dtype).maxexp // 2
    x, w = rng.standard_normal(spec.x), rng.standard_normal(spec.w)
    return x * 2.0 ** (half - 12), w * 2.0 ** (half - 25)


def underflowing(spec, rng, m):
    """Products around the smallest number."""
    half = np.log2(np.finfo(spec.dtype).smallest_subnormal) / 2
    return [np.abs(rng.standard_normal(s)) * 2.0**half for s in (spec.x, spec.w)]


def denormal(spec, rng, m):
    """Inputs of a few smallest numbers: each product in a transform loses a part of one."""
    smallest = np.finfo(spec.dtype).smallest_subnormal
    return rng.integers(-9, 10, spec.x) * smallest, rng.standard_normal(spec.w) * 2.0**40


def aligned(spec, rng, m):
    """Signs as those in the transforms' largest rows, and all channels alike."""
    x, w = 1 + rng.random(spec.x), 1 + rng.random(spec.w)
    if m:
        _, g, bt = (np.array(matrix, float) for matrix in algorithm(m, spec.w[0], spec.stride[0]))
        p, q = np.abs(bt).sum(axis=1).argsort()[-2:]
        rows, columns = (
            np.resize(bt[i][: spec.stride[0] * m], size)
            for i, size in ((p, spec.x[1]), (q, spec.x[2]))
        )
        x *= np.where(np.multiply.outer(rows, columns) < 0, -1, 1)[:, :, None]
        w *= np.sign(np.multiply.outer(g[p], g[q]))[:, :, None, None]
    return x, w


OPERANDS = [cancelling, wide, large, underflowing, denormal, aligned]


def results(x, w, b, spec, m):
    """What is computed: step by step in NumPy, and by the kernel where there is one."""
    rounding = Rounding(spec.dtype)
    if m:
        yield winograd(x, w, b, spec, m, rounding)
        yield winograd(x, w, b, spec, m, rounding, order=-1)
    else:
        yield direct(x, w, b, spec, rounding)
    y = kernel(x, w, b, spec, name(m))
    assert y is not None or (m and (spec.w[0], spec.stride) != (3, (1, 1)))
    if y is not None:
        yield y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("operands", OPERANDS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("r, stride, m", WINOGRADS + DIRECTS)
def test_the_guaranteed_bound_is_never_exceeded(r, stride, m, operands, dtype):
    spec = layer(r, stride, dtype)
    x, w = (v.astype(dtype) for v in operands(spec, np.random.default_rng(1), m))
    b = normals(OUTPUTS, 2, dtype) * x.dtype.type(np.abs(x).max()) * np.abs(w).max()
    bound = bounds.conv2d(x, w, b, spec, name(m))
    likely = bounds.conv2d(x, w, b, spec, name(m), kind="probabilistic")
    assert (likely <= bound * (1 + 1e-12) + 1e-323).all()
    expected = exact(x, w, b, spec)
    for y in results(x, w, b, spec, m):
        assert np.isfinite(y).all()
        assert_within(y, expected, bound)

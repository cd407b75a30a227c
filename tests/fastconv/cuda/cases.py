"""What kernels are judged by, simulated or on a GPU: specs, operands, the reference, its bounds.

`run(program, shape, dtype, **arrays)` is a way to run a program: `simulation.simulate`, or a GPU.
"""

import dataclasses

import numpy as np
import pytest

from fastconv import bounds, reference
from fastconv.cuda import NAMES, convolution, pixels, winograd_f4
from fastconv.cuda.activations import CURVES
from fastconv.cuda.kernels import IMAGE_TYPES, KERNELS
from fastconv.cuda.program import chain
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d
from fastconv.weights import Weights
from tests.fastconv.cuda.simulation import DTYPES
from tests.helpers import assert_within, normals

WINOGRADS = {"winograd_f2", "winograd_f4", "winograd_f4_tf32x3"}
ALGORITHMS = {"depthwise", *NAMES[1:]}
FILTERS = [k for k in KERNELS if k.algorithm in ALGORITHMS]
PAD, UNEVEN = ((1, 1), (1, 1)), ((1, 0), (1, 1))
CASES = {
    "3x3": Conv2d((1, 9, 13, 8), (3, 3, 8, 20), pad=PAD),
    "first layer": Conv2d((1, 12, 11, 3), (3, 3, 3, 33), (2, 2), PAD, activation="relu"),
    "1x1": Conv2d((2, 7, 5, 12), (1, 1, 12, 140), add=True, activation="relu6"),
    "dilated": Conv2d((1, 11, 12, 4), (3, 2, 4, 6), (1, 2), ((2, 1), (0, 3)), (3, 2)),
    "deep": Conv2d((2, 7, 12, 40), (2, 3, 40, 136), (2, 1), PAD, activation="relu", add=True),
    "two groups": Conv2d((1, 13, 11, 48), (3, 1, 24, 36), (1, 2), PAD, groups=2),
    "pooled": Conv2d((1, 7, 8, 8), (3, 3, 8, 12), pad=PAD, activation="relu", pool=True),
    "pooled, odd": Conv2d((2, 7, 7, 3), (3, 3, 3, 5), pad=UNEVEN, add=True, pool=True),
    "one pixel": Conv2d((1, 1, 1, 4), (3, 3, 4, 40), pad=PAD, activation="relu6"),
    "pooled sum": Conv2d((2, 7, 11, 16), (3, 3, 16, 21), pad=PAD, activation="leaky_relu",
                         add=True, pool=True),
    "pooled blocks": Conv2d((2, 13, 14, 8), (2, 3, 8, 136), activation="relu6", pool=True),
    "pooled groups": Conv2d((1, 10, 17, 24), (1, 3, 8, 36), (1, 2), ((0, 0), (1, 2)), groups=3,
                            add=True, pool=True),
    "plain": Conv2d((2, 9, 12, 11), (3, 3, 11, 70), pad=((1, 2), (0, 1)), activation="relu6"),
    "residual": Conv2d((1, 8, 7, 16), (3, 3, 16, 64), pad=PAD, add=True, activation="relu"),
    "depthwise": Conv2d((1, 9, 7, 12), (3, 3, 1, 12), (2, 1), PAD, groups=12, activation="relu6"),
    "multiplied": Conv2d((2, 5, 6, 3), (3, 2, 1, 6), groups=3, dilation=(1, 2), add=True),
    "grouped": Conv2d((1, 6, 7, 12), (3, 3, 4, 15), pad=PAD, groups=3, activation="leaky_relu"),
    "odd groups": Conv2d((1, 6, 7, 9), (2, 3, 3, 6), groups=3, add=True),
    "one of all": Conv2d((1, 5, 6, 1), (4, 1, 1, 1), pad=((0, 3), (0, 0))),
    "no channels": Conv2d((1, 4, 5, 0), (3, 3, 0, 5), pad=PAD),
    "transposed": ConvTranspose2d((1, 6, 5, 8), (4, 4, 21, 8), (2, 2), PAD, add=True),
    "wide steps": ConvTranspose2d((1, 3, 3, 16), (7, 5, 70, 16), (4, 3), ((1, 2), (0, 1))),
    "3x3 by 1": ConvTranspose2d((1, 5, 6, 32), (3, 3, 32, 32), pad=PAD, activation="relu"),
    "3x3 by 2": ConvTranspose2d((2, 4, 5, 5), (3, 3, 4, 5), (2, 2), ((0, 1), (1, 0))),
    "apart": ConvTranspose2d((1, 4, 3, 4), (2, 1, 8, 4), (3, 2), ((0, -1), (0, -1))),
    "t. dilated": ConvTranspose2d((1, 4, 5, 6), (3, 2, 2, 6), (2, 3), dilation=(3, 2), groups=3),
}  # fmt: skip
# For kernels that take 64 channels at once; the others would only be slow to simulate.
MANY_CHANNELS = {
    "128": Conv2d((2, 9, 8, 128), (2, 3, 128, 12), (2, 1), PAD, activation="relu", add=True),
    "two groups": Conv2d((1, 8, 15, 128), (3, 2, 64, 18), (1, 3), PAD, (2, 3), groups=2),
    "wide": Conv2d((1, 7, 8, 64), (1, 1, 64, 140), pad=((2, 0), (0, 1)), pool=True),
    "t. 64": ConvTranspose2d((1, 6, 5, 64), (4, 4, 21, 64), (2, 2), PAD, add=True),
    "t. dilated": ConvTranspose2d((1, 3, 4, 64), (3, 2, 8, 64), (2, 3), dilation=(3, 2)),
}


POOLS = [
    Pool2d((1, 6, 8, 8), "max", (2, 2), (2, 2)),
    Pool2d((2, 7, 5, 3), "max", (2, 2), (2, 1), UNEVEN),
    Pool2d((1, 9, 7, 16), "max", (3, 2), (2, 2), UNEVEN, (2, 1)),
    Pool2d((1, 5, 6, 5), "max", (3, 3), (2, 2), ((1, 1), (1, 1)), out_hw=(3, 4)),
    Pool2d((1, 6, 8, 8), "avg", (3, 2), (1, 2), UNEVEN),
    Pool2d((2, 7, 5, 3), "avg", (2, 3), (2, 2), UNEVEN, (2, 1), count_include_pad=True),
    Pool2d((3, 4, 5, 4), "avg", (4, 5), (4, 5)),
    Pool2d((2, 4, 4, 8), "avg", (4, 4), (1, 1)),
    *(
        Pool2d((n, *size, c), kind, size, (1, 1))
        for n, *size, c in ((2, 7, 7, 80), (2, 25, 33, 21), (1, 41, 29, 40), (2, 23, 19, 1))
        for kind in ("max", "avg")
    ),
    Pool2d((1, 19, 21, 48), "max", (21, 22), (3, 3), PAD),
    Pool2d((1, 9, 8, 12), "max", (9, 8), (9, 8), ((1, 0), (0, 1))),  # but for one row
    Pool2d((1, 19, 21, 12), "avg", (20, 23), (3, 3), PAD, count_include_pad=True),
]
RESIZES = [
    Resize2d((1, 5, 6, channels), size, method, coordinates)
    for channels, size in ((8, (9, 11)), (3, (3, 4)))
    for method in ("nearest", "bilinear", "bicubic")
    for coordinates in ("half_pixel", "asymmetric", "align_corners")
]


def random(shape, seed, dtype):
    return normals(shape, seed).astype(DTYPES.get(dtype, dtype))


def any_filter(seed, inputs=(1, 2, 3, 4, 8, 12)):
    """A small convolution, or a transposed one, with whatever attributes.

    `inputs`: how many channels of a group it may have.
    """
    rng = np.random.default_rng(seed)

    def pair(low, high):
        return tuple(map(int, rng.integers(low, high + 1, 2)))

    groups = int(rng.choice([1, 1, 2, 3, 8]))
    c, k = (groups * int(rng.choice(some)) for some in (inputs, (1, 2, 3, 4, 8, 12)))
    k *= int(rng.choice([1, 1, 5]))
    kernel, stride, dilation = pair(1, 4), pair(1, 3), pair(1, 2)
    x = int(rng.integers(1, 3)), *pair(5, 9), c
    how = {
        "stride": stride, "dilation": dilation, "groups": groups, "add": bool(rng.integers(2)),
        "activation": str(rng.choice(["relu", "leaky_relu", "gelu"])),
        "dtype": str(rng.choice(IMAGE_TYPES)),
    }  # fmt: skip
    if rng.integers(2):
        reach = [(size - 1) * d for size, d in zip(kernel, dilation, strict=True)]
        how |= {"pad": tuple((r, r // 2) for r in reach), "pool": bool(rng.integers(2))}
        return Conv2d(x, (*kernel, c // groups, k), **how)
    return ConvTranspose2d(x, (*kernel, k // groups, c), pad=((0, -1), (1, 0)), **how)


def curved(kernel, name):
    """A small convolution for a kernel, with an activation that is more than a clamp."""
    groups, k = (8, 8) if kernel.algorithm == "depthwise" else (1, 21)
    c = max(kernel.unit, 8)
    w, pool = (3, 3, c // groups, k), CURVES.index(name) % 2 == 0
    return Conv2d((2, 5, 7, c), w, pad=PAD, groups=groups, activation=name, add=True, pool=pool)


def cases_of(kernel):
    """Cases that a kernel may be able to serve."""
    cases = MANY_CHANNELS if kernel.unit == 64 else CASES
    return cases | {name: curved(kernel, name) for name in CURVES}


def served():
    """Kernels and the cases that each of them can serve."""
    for kernel in FILTERS:
        for name, case in cases_of(kernel).items():
            spec = dataclasses.replace(case, dtype=kernel.dtype)
            if kernel in convolution.able(spec, kernel.algorithm):
                yield pytest.param(kernel, spec, id=f"{kernel.name}-{name}")


def check_filter(spec, kernel, run):
    """The result of a convolution is within the bound."""
    sums = spec.conv_out if isinstance(spec, Conv2d) else spec.out
    x, w, add = (random(s, i, spec.dtype) for i, s in enumerate((spec.x, spec.w, sums)))
    bias = random(spec.out[3], 4, spec.dtype)
    inputs = {"x": x, "add": add} if spec.add else {"x": x}
    program = convolution.plan(spec, Weights(w), bias, None, kernel)
    algorithms = [step.kernel.algorithm for step in program.steps]
    if kernel.algorithm in winograd_f4.PRODUCTS:
        assert algorithms[-1] == "winograd_f4_output"
    else:
        separate = kernel.algorithm in ("depthwise", "wgmma_tma") and getattr(spec, "pool", False)
        assert algorithms == [kernel.algorithm] + ["max"] * separate
    y = run(program, spec.out, spec.dtype, **inputs)

    working = dataclasses.replace(spec, dtype="float32")
    op = "conv2d" if isinstance(spec, Conv2d) else "conv2d_transpose"
    operands = [a.astype(np.float32) for a in (x, w, bias)]
    add = add.astype(np.float32) if spec.add else None
    expected = getattr(reference, op)(*operands, working, add)
    algorithm = "direct" if kernel.algorithm == "depthwise" else kernel.algorithm
    bound = getattr(bounds, op)(*operands, working, algorithm, add=add)
    bound = bounds.activation(spec.activation, expected, bound, "float32", spec.alpha)
    if spec.dtype != "float32":
        bound = bounds.rounded_to(spec.dtype, np.abs(expected), bound)
    assert_within(y, expected, bound)


def odd(shape, dtype):
    """Operands with a NaN and an infinity."""
    x = random(shape, 1, dtype)
    x[0, 1, 2, 0] = np.nan
    x[0, -1, 0, -1] = -np.inf
    return x


def _judge(y, expected, bound, dtype):
    """Within the bound, and not finite where the reference is not."""
    odd = ~np.isfinite(expected)
    np.testing.assert_array_equal(y[odd].astype(float), expected[odd])
    if dtype != "float32":
        with np.errstate(invalid="ignore"):
            bound = bounds.rounded_to(dtype, np.abs(expected), bound)
    assert_within(y[~odd], expected[~odd], bound[~odd])


def check_windows(spec, run):
    """A pool or a resize is within the bound."""
    pool = isinstance(spec, Pool2d)
    program = chain("direct", pixels.windows(spec))
    x = odd(spec.x, spec.dtype)
    y = run(program, spec.out, spec.dtype, x=x)
    op, wide = "pool2d" if pool else "resize2d", x.astype(np.float32)
    working = dataclasses.replace(spec, dtype="float32")
    with np.errstate(invalid="ignore"):
        expected = getattr(reference, op)(wide, working)
    finite = np.nan_to_num(wide, neginf=0)
    _judge(y, expected, getattr(bounds, op)(finite, working), spec.dtype)


def check_indices(spec, run):
    """A max-pool and the indices of its maxima are exact."""
    x = odd(spec.x, spec.dtype)
    x[:, 3:] = np.round(x[:, 3:])  # equal ones, too
    indices = np.full(spec.out, -1, np.int64)
    y = run(pixels.pool_with_indices(spec), spec.out, spec.dtype, x=x, indices=indices)
    np.testing.assert_array_equal(indices, reference.max_pool2d_indices(x, spec))
    np.testing.assert_array_equal(y.astype(float), reference.pool2d(x, spec))


def check_argmax(spec, label, run):
    """Labels are exact."""
    x = odd(spec.x, spec.dtype)
    x[0, 2:] = np.round(x[0, 2:])  # equal ones
    x[1, 0] = -np.inf
    x[1, 1, 1, spec.x[3] // 2 :] = np.nan
    program = pixels.one(pixels.channel_op(spec, np.dtype(label)))
    np.testing.assert_array_equal(run(program, spec.out, label, x=x), reference.channel_op(x, spec))


def check_softmax(spec, run):
    """A softmax is within the bound."""
    x = odd(spec.x, spec.dtype)
    x[0, 1, 1, 0] = np.inf
    y = run(pixels.one(pixels.channel_op(spec)), spec.out, spec.dtype, x=x)
    wide = x.astype(np.float32)
    working = dataclasses.replace(spec, dtype="float32")
    expected = reference.channel_op(wide, working)
    finite = np.where(np.isfinite(expected).all(axis=3, keepdims=True), wide, 0)
    low = np.where(np.isneginf(finite), np.float32(-1e4), finite)
    _judge(y, expected, bounds.channel_op(low, working), spec.dtype)


# Pixels of one block, of several with a part of one, and of blocks that are full.
PIXELS = {
    1: (2, 27, 41), 2: (2, 31, 17), 3: (2, 23, 25), 4: (2, 32, 16), 7: (2, 15, 19), 21: (2, 9, 31),
    64: (2, 7, 11), 150: (2, 5, 7), 303: (2, 5, 3), 1000: (2, 3, 5), 1029: (2, 3, 5),
}  # fmt: skip
ARGMAXES = [
    (ChannelOp((*size, channels), "argmax", dtype), label)
    for channels, size in PIXELS.items()
    for dtype in IMAGE_TYPES
    for label in ("uint8", "int32", "int64")
    if label != "uint8" or channels <= 256
]
SOFTMAXES = [
    ChannelOp((*size, channels), "softmax", dtype)
    for channels, size in PIXELS.items()
    for dtype in IMAGE_TYPES
]
WINDOWS = [
    dataclasses.replace(spec, dtype=dtype) for spec in (*POOLS, *RESIZES) for dtype in IMAGE_TYPES
]

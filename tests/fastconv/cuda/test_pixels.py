"""Pools, resizes, argmax and softmax, simulated thread by thread against the reference."""

import dataclasses

import numpy as np
import pytest

from fastconv import bounds, reference
from fastconv.cuda import pixels
from fastconv.cuda.kernels import IMAGE_TYPES, KERNELS
from fastconv.spec import ChannelOp, Pool2d, Resize2d
from tests.fastconv.cuda.simulation import DTYPES, simulate
from tests.helpers import assert_within, normals

PAD = ((1, 0), (1, 1))
POOLS = [
    Pool2d((1, 6, 8, 8), "max", (2, 2), (2, 2)),
    Pool2d((2, 7, 5, 3), "max", (2, 2), (2, 1), PAD),
    Pool2d((1, 9, 7, 16), "max", (3, 2), (2, 2), PAD, (2, 1)),
    Pool2d((1, 5, 6, 5), "max", (3, 3), (2, 2), ((1, 1), (1, 1)), out_hw=(3, 4)),
    Pool2d((1, 6, 8, 8), "avg", (3, 2), (1, 2), PAD),
    Pool2d((2, 7, 5, 3), "avg", (2, 3), (2, 2), PAD, (2, 1), count_include_pad=True),
    Pool2d((3, 4, 5, 4), "avg", (4, 5), (4, 5)),
]
RESIZES = [
    Resize2d((1, 5, 6, channels), size, method, coordinates)
    for channels, size in ((8, (9, 11)), (3, (3, 4)))
    for method in ("nearest", "bilinear", "bicubic")
    for coordinates in ("half_pixel", "asymmetric", "align_corners")
]


def random(shape, dtype):
    x = normals(shape, 1).astype(DTYPES.get(dtype, dtype))
    x[0, 1, 2, 0] = np.nan
    x[0, -1, 0, -1] = -np.inf
    return x


def judged(y, expected, bound, dtype):
    """Within the bound, and not finite where the reference is not."""
    odd = ~np.isfinite(expected)
    np.testing.assert_array_equal(y[odd].astype(float), expected[odd])
    if dtype != "float32":
        with np.errstate(invalid="ignore"):
            bound = bounds.rounded_to(dtype, np.abs(expected), bound)
    assert_within(y[~odd], expected[~odd], bound[~odd])


@pytest.mark.parametrize("dtype", IMAGE_TYPES)
@pytest.mark.parametrize("spec", [*POOLS, *RESIZES], ids=str)
def test_windows(spec, dtype):
    made = dataclasses.replace(spec, dtype=dtype)
    pool = isinstance(spec, Pool2d)
    program = pixels.one(pixels.pool(made) if pool else pixels.resize(made))
    x = random(spec.x, dtype)
    y = simulate(program, spec.out, dtype, x=x)
    of = "pool2d" if pool else "resize2d"
    wide = x.astype(np.float32)
    with np.errstate(invalid="ignore"):
        expected = getattr(reference, of)(wide, spec)
    judged(y, expected, getattr(bounds, of)(np.nan_to_num(wide, neginf=0), spec), dtype)


@pytest.mark.parametrize("dtype", IMAGE_TYPES)
@pytest.mark.parametrize("spec", [s for s in POOLS if s.kind == "max"], ids=str)
def test_indices(spec, dtype):
    made = dataclasses.replace(spec, dtype=dtype)
    x = random(spec.x, dtype)
    x[:, 3:] = np.round(x[:, 3:])  # equal ones, too
    indices = np.full(spec.out, -1, np.int64)
    y = simulate(pixels.pool_with_indices(made), spec.out, dtype, x=x, indices=indices)
    np.testing.assert_array_equal(indices, reference.max_pool2d_indices(x, spec))
    np.testing.assert_array_equal(y.astype(float), reference.pool2d(x, spec))


@pytest.mark.parametrize("label", ["uint8", "int32", "int64"])
@pytest.mark.parametrize("dtype", IMAGE_TYPES)
@pytest.mark.parametrize("channels", [1, 2, 5, 21, 150])
def test_argmax(channels, dtype, label):
    spec = ChannelOp((2, 5, 7, channels), "argmax", dtype)
    x = random(spec.x, dtype)
    x[0, 2:] = np.round(x[0, 2:])  # equal ones
    x[1, 0] = -np.inf
    x[1, 1, 1, channels // 2 :] = np.nan
    y = simulate(pixels.one(pixels.channel_op(spec, np.dtype(label))), spec.out, label, x=x)
    np.testing.assert_array_equal(y, reference.channel_op(x, spec))


@pytest.mark.parametrize("dtype", IMAGE_TYPES)
@pytest.mark.parametrize("channels", [1, 3, 21, 150])
def test_softmax(channels, dtype):
    spec = ChannelOp((1, 5, 7, channels), "softmax", dtype)
    x = random(spec.x, dtype)
    x[0, 1, 1, 0] = np.inf
    y = simulate(pixels.one(pixels.channel_op(spec)), spec.out, dtype, x=x)
    wide = x.astype(np.float32)
    working = dataclasses.replace(spec, dtype="float32")
    expected = reference.channel_op(wide, working)
    finite = np.where(np.isfinite(expected).all(axis=3, keepdims=True), wide, 0)
    low = np.where(np.isneginf(finite), np.float32(-1e4), finite)
    judged(y, expected, bounds.channel_op(low, working), dtype)


def test_every_kernel_of_pixels_is_simulated():
    names = {"max", "avg", "resize", "max_indices", "argmax", "softmax"}
    made = [
        pixels.one(pixels.pool(dataclasses.replace(s, dtype=d))) for s in POOLS for d in IMAGE_TYPES
    ]
    made += [
        pixels.one(pixels.resize(dataclasses.replace(s, dtype=d)))
        for s in RESIZES
        for d in IMAGE_TYPES
    ]
    used = {program.kernel for program in made}
    others = {"max_indices", "argmax", "softmax"}
    assert used == {k for k in KERNELS if k.algorithm in names - others}

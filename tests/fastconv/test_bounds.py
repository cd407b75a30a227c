"""The bounds hold, are nearly reached where that can be arranged, and catch small mistakes."""

import dataclasses

import numpy as np
import pytest

from fastconv import bounds, reference
from fastconv.cook_toom import POINTS, cook_toom
from fastconv.spec import Conv2d, ConvTranspose2d, Pool2d, Resize2d
from tests.helpers import assert_within, normals

U = {"float32": 2.0**-24, "float64": 2.0**-53}
DTYPES = list(U)
ONE = ((1, 1), (1, 1))


def relative(terms, dtype):
    """Higham's gamma, for the result and for its float64 reference."""
    terms = np.asarray(terms)
    return sum(terms * u / (1 - terms * u) for u in (U[dtype], U["float64"]))


CONVS = [
    Conv2d((2, 5, 6, 3), (3, 3, 3, 4)),
    Conv2d((1, 7, 8, 2), (3, 2, 2, 3), (2, 3), ((2, 0), (0, 3))),
    Conv2d((1, 9, 8, 2), (3, 2, 2, 3), (1, 2), ((1, 1), (2, 0)), (2, 3)),
    Conv2d((1, 5, 5, 6), (3, 3, 3, 4), groups=2, activation="relu6"),
    Conv2d((1, 5, 5, 3), (3, 3, 1, 6), (2, 1), ONE, groups=3),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", CONVS, ids=str)
def test_direct_is_the_formula(spec, dtype):
    """``gamma(n + 1) * (|x| * |w| + |bias|)``, with the sum taken by the reference."""
    spec = dataclasses.replace(spec, dtype=dtype)
    x, w, b = normals(spec.x, 1, dtype), normals(spec.w, 2, dtype), normals(spec.w[3], 3, dtype)
    plain = dataclasses.replace(spec, activation=None)
    magnitude = reference.conv2d(np.abs(x), np.abs(w), np.abs(b), plain)
    expected = relative(np.prod(spec.w[:3]) + 1, dtype) * magnitude
    np.testing.assert_allclose(bounds.conv2d(x, w, b, spec), expected, rtol=2e-6)


def test_direct_is_nearly_reached():
    """1 + 2**-24 + 2**-24 + ... stays 1 when it is summed from the left."""
    terms = 400
    x = np.full((1, 1, 1, terms), 2.0**-24, "float32")
    x[..., 0] = 1
    spec = Conv2d(x.shape, (1, 1, terms, 1))
    w = np.ones(spec.w, "float32")
    assert np.add.accumulate(x.ravel())[-1] == 1
    error = reference.conv2d(x, w, None, spec).item() - 1
    bound = bounds.conv2d(x, w, None, spec).item()
    assert 0.99 * bound < error <= bound


@pytest.mark.parametrize("algorithm", ["direct", "winograd_f4"])
def test_a_fused_pool_has_the_largest_bound_of_its_window(algorithm):
    spec = Conv2d((2, 6, 7, 5), (3, 3, 5, 4), pad=ONE)
    x, w, b = normals(spec.x, 1), normals(spec.w, 2), normals(spec.w[3], 3)
    plain = bounds.conv2d(x, w, b, spec, algorithm)
    fused = bounds.conv2d(x, w, b, dataclasses.replace(spec, pool=True), algorithm)
    np.testing.assert_array_equal(fused, plain[:, :, :6].reshape(2, 3, 2, 3, 2, 4).max(axis=(2, 4)))


def winograd(x, w, bias, spec, order=1):
    """F(4x4, 3x3) with every operation rounded to the working precision, by plain NumPy."""
    dtype = np.dtype(spec.dtype)
    exact = [np.array(matrix, np.float64) for matrix in cook_toom(4, 3, POINTS[4, 3])]
    at, _, bt = (matrix.astype(dtype) for matrix in exact)
    _, h, width, k = spec.conv_out
    down, across = -(-h // 4), -(-width // 4)
    tiles = np.zeros((spec.x[0], 4 * down + 2, 4 * across + 2, spec.x[3]), dtype)
    (top, _), (left, _) = spec.pad
    part = tiles[:, top : top + spec.x[1], left : left + spec.x[2]]
    part[...] = x[:, : part.shape[1], : part.shape[2]]
    tiles = np.lib.stride_tricks.sliding_window_view(tiles, (6, 6), (1, 2))[:, ::4, ::4]

    def both_sides(matrix, blocks):
        """``matrix @ block @ matrix.T`` over the last two axes, one rounded step at a time."""
        for _ in range(2):
            terms = matrix[:, :] * blocks[..., None, :]
            total = terms[..., 0]
            for i in range(1, terms.shape[-1]):
                total = total + terms[..., i]
            blocks = total.swapaxes(-1, -2)
        return blocks

    u = both_sides(exact[1], w.transpose(2, 3, 0, 1).astype(np.float64)).astype(dtype)
    v = both_sides(bt, tiles)
    total = np.zeros((*v.shape[:3], k, 6, 6), dtype)
    for c in range(spec.x[3])[::order]:
        total += v[:, :, :, c, None] * u[c]
    y = both_sides(at, total) + bias[:, None, None]
    assert y.dtype == dtype
    return y.transpose(0, 1, 4, 2, 5, 3).reshape(spec.x[0], 4 * down, -1, k)[:, :h, :width]


WINOGRADS = [
    Conv2d((1, 8, 8, 1), (3, 3, 1, 2)),
    Conv2d((2, 7, 10, 5), (3, 3, 5, 3), pad=ONE),
    Conv2d((1, 9, 6, 64), (3, 3, 64, 4), pad=((0, 2), (1, 0))),
    Conv2d((1, 1, 1, 3), (3, 3, 3, 2), pad=((5, 5), (2, 1))),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("spec", WINOGRADS, ids=str)
def test_winograd_stays_within_its_bound(spec, order, dtype):
    spec = dataclasses.replace(spec, dtype=dtype)
    w, b = normals(spec.w, 2, dtype), normals(spec.w[3], 3, dtype)
    for x in (normals(spec.x, 1, dtype), np.abs(normals(spec.x, 1, dtype)) + 10):
        expected = reference.conv2d(x, w, b, spec)
        bound = bounds.conv2d(x, w, b, spec, "winograd_f4")
        error = np.abs(winograd(x, w, b, spec, order) - expected)
        assert_within(error, np.zeros(spec.out), bound)
        assert error.max() > bound.max() / 3000  # so the bound says something


def test_winograd_has_the_matrices_right():
    """One pixel and one tap: all other errors vanish, and the formula can be written out."""
    spec = Conv2d((1, 4, 4, 1), (3, 3, 1, 1), pad=ONE)
    at, g, bt = (np.abs(np.array(m, float)) for m in cook_toom(4, 3, POINTS[4, 3]))
    x, w = np.zeros(spec.x), np.zeros(spec.w)
    x[0, 1, 2, 0], w[0, 1, 0, 0] = 3, 5
    u = 5 * np.outer(g[:, 0], g[:, 1])
    v = 3 * np.outer(bt[:, 2], bt[:, 3])
    # U once; V twice 4 + 2; the sum once; Y twice 5 + 2, and the bias.
    expected = at @ (u * v) @ at.T * (1 + 12 + 1 + 15) * 2.0**-24
    bound = bounds.conv2d(x, w, None, spec, "winograd_f4")[0, :, :, 0]
    np.testing.assert_allclose(bound, expected, rtol=1e-4)


@pytest.mark.parametrize("algorithm", ["direct", "winograd_f4"])
def test_a_small_mistake_breaks_the_bound(algorithm):
    """One of 288 weights is off by two percent."""
    spec = Conv2d((1, 12, 12, 32), (3, 3, 32, 1), pad=ONE)
    x, w, b = normals(spec.x, 1), normals(spec.w, 2), normals(1, 3)
    wrong = w.copy()
    wrong[1, 1, 7, 0] *= 1.02
    error = np.abs(reference.conv2d(x, wrong, b, spec) - reference.conv2d(x, w, b, spec))
    assert (error > bounds.conv2d(x, w, b, spec, algorithm)).any()


def test_winograd_in_pieces_is_the_same(monkeypatch):
    spec = Conv2d((1, 13, 9, 3), (3, 3, 3, 2), pad=ONE)
    x, w, b = normals(spec.x, 1), normals(spec.w, 2), normals(2, 3)
    whole = bounds.conv2d(x, w, b, spec, "winograd_f4")
    monkeypatch.setattr(bounds, "CHUNK", 1)
    np.testing.assert_allclose(bounds.conv2d(x, w, b, spec, "winograd_f4"), whole, rtol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": (2, 1)},
        {"w": (3, 2, 4, 4)},
        {"w": (3, 3, 2, 4), "groups": 2},
    ],
)
def test_winograd_is_refused_where_it_cannot_be(change):
    spec = dataclasses.replace(Conv2d((1, 9, 9, 4), (3, 3, 4, 4)), **change)
    with pytest.raises(ValueError, match="winograd_f4 needs a 3x3 kernel with stride and groups"):
        bounds.conv2d(np.zeros(spec.x), np.zeros(spec.w), None, spec, "winograd_f4")


def test_unknown_algorithm_and_wrong_shapes():
    spec = CONVS[0]
    with pytest.raises(ValueError, match=r"bounds\.conv2d: unknown algorithm 'fft'"):
        bounds.conv2d(np.zeros(spec.x), np.zeros(spec.w), None, spec, "fft")
    with pytest.raises(ValueError, match="bounds: the spec is for shape"):
        bounds.conv2d(np.zeros((1, 5, 6, 3)), np.zeros(spec.w), None, spec)


TRANSPOSES = [
    ConvTranspose2d((2, 3, 4, 5), (3, 3, 2, 5)),
    ConvTranspose2d((1, 3, 4, 5), (4, 3, 2, 5), (2, 3), ((1, 1), (0, -2))),
    ConvTranspose2d((1, 3, 4, 6), (3, 2, 2, 6), (2, 1), ((2, 0), (1, 1)), None, (2, 3), 3),
    ConvTranspose2d((1, 3, 4, 2), (1, 1, 3, 2), (3, 2), ((0, -2), (0, -1))),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", TRANSPOSES, ids=str)
def test_conv2d_transpose_is_the_formula(spec, dtype):
    """The reference counts the products that meet in a pixel when all operands are 1."""
    spec = dataclasses.replace(spec, dtype=dtype)
    x, w = normals(spec.x, 1, dtype), normals(spec.w, 2, dtype)
    b = normals(spec.out[3], 3, dtype)
    terms = reference.conv2d_transpose(np.ones(spec.x), np.ones(spec.w), None, spec) + 1
    magnitude = reference.conv2d_transpose(np.abs(x), np.abs(w), np.abs(b), spec)
    expected = relative(terms, dtype) * magnitude
    np.testing.assert_allclose(bounds.conv2d_transpose(x, w, b, spec), expected, rtol=2e-6)


AVERAGES = [
    Pool2d((2, 6, 7, 3), "avg", (2, 2), (2, 2)),
    Pool2d((1, 6, 7, 3), "avg", (3, 2), (1, 3), ((2, 1), (0, 1))),
    Pool2d((1, 7, 7, 2), "avg", (2, 3), (2, 1), ((1, 0), (1, 2)), (3, 2), None, True),
    Pool2d((1, 5, 7, 2), "avg", (2, 3), (2, 3), ((0, 0), (1, 0)), (1, 1), (3, 3), True),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", AVERAGES, ids=str)
def test_average_is_the_formula(spec, dtype):
    spec = dataclasses.replace(spec, dtype=dtype)
    x = normals(spec.x, 1, dtype)
    # The average of ones that counts only real taps against one that counts all of them.
    window = dataclasses.replace(spec, count_include_pad=False)
    ones = Conv2d((1, *spec.x[1:3], 1), (*spec.size, 1, 1), spec.stride, reach(spec), spec.dilation)
    real = reference.conv2d(np.ones(ones.x), np.ones(ones.w), None, ones)
    assert window.out[1:3] == real.shape[1:3]
    expected = relative(real + 1, dtype) * reference.pool2d(np.abs(x), spec)
    np.testing.assert_allclose(bounds.pool2d(x, spec), expected, rtol=2e-6)


def reach(spec):
    """Padding so large that a convolution has exactly the windows of the pool."""
    sides = []
    for a in (0, 1):
        end = (spec.out[1 + a] - 1) * spec.stride[a] + (spec.size[a] - 1) * spec.dilation[a] + 1
        sides.append((spec.pad[a][0], max(end - spec.pad[a][0] - spec.x[1 + a], 0)))
    return tuple(sides)


def test_maximum_and_nearest_are_exact():
    x = normals((2, 4, 4, 3), 1)
    assert not bounds.pool2d(x, Pool2d(x.shape, "max", (2, 2), (2, 2))).any()
    assert bounds.pool2d(x, Pool2d(x.shape, "max", (2, 2), (2, 2))).shape == (2, 2, 2, 3)
    assert not bounds.resize2d(x, Resize2d(x.shape, (5, 3), "nearest")).any()
    assert bounds.resize2d(x, Resize2d(x.shape, (5, 3), "nearest")).shape == (2, 5, 3, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
def test_bilinear_is_the_formula(coordinates, dtype):
    """Its weights are not negative, so the reference of ``|x|`` is the magnitude."""
    x = normals((2, 4, 5, 3), 1, dtype)
    spec = Resize2d(x.shape, (7, 3), "bilinear", coordinates, dtype)
    expected = relative(6, dtype) * reference.resize2d(np.abs(x), spec)
    np.testing.assert_allclose(bounds.resize2d(x, spec), expected, rtol=2e-6)


@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
def test_bicubic_in_float32_stays_within_its_bound(coordinates):
    x = normals((1, 6, 5, 2), 1)
    spec = Resize2d(x.shape, (9, 11), "bicubic", coordinates)
    matrices = []
    for size, out in ((6, 9), (5, 11)):
        matrix = np.zeros((out, size))
        for i in range(out):
            for pixel, weight in reference.resize_taps(i, size, out, "bicubic", coordinates):
                matrix[i, pixel] += weight
        matrices.append(matrix)
    by_rows = np.einsum("ir,nrcx->nicx", matrices[0].astype("float32"), x)
    y = np.einsum("jc,nicx->nijx", matrices[1].astype("float32"), by_rows)
    assert y.dtype == np.float32
    bound = bounds.resize2d(x, spec)
    assert_within(y, reference.resize2d(x, spec), bound)
    # Weights of both signs: the magnitude is that of their absolute values.
    absolute = np.einsum("ir,jc,nrcx->nijx", *map(np.abs, matrices), np.abs(x))
    assert (bound >= 10 * U["float32"] * absolute * (1 - 1e-6)).all()
    assert (bound <= 13 * U["float32"] * absolute.max()).all()


def test_underflow_is_part_of_the_bound():
    """Products of numbers near 2**-75 are smaller than half of what float32 can hold."""
    spec = Conv2d((1, 8, 8, 64), (3, 3, 64, 2), pad=ONE)
    x, w = np.abs(normals(spec.x, 1)) * 2.0**-76, np.abs(normals(spec.w, 2)) * 2.0**-76
    x, w, b = x.astype("float32"), w.astype("float32"), np.zeros(2, "float32")
    expected = reference.conv2d(x, w, b, spec)
    zeros = np.float32(2.0**-76) * np.float32(2.0**-76)
    assert zeros == 0
    assert_within(np.full(spec.out, zeros), expected, bounds.conv2d(x, w, b, spec))
    fast = winograd(x, w, b, spec)
    assert_within(fast, expected, bounds.conv2d(x, w, b, spec, "winograd_f4"))


@pytest.mark.parametrize("algorithm", ["direct", "winograd_f4"])
@pytest.mark.parametrize("n, c, k", [(0, 3, 4), (1, 0, 4), (1, 3, 0)])
def test_empty_operands(n, c, k, algorithm):
    spec = Conv2d((n, 5, 5, c), (3, 3, c, k), pad=ONE)
    bound = bounds.conv2d(np.zeros(spec.x), np.zeros(spec.w), None, spec, algorithm)
    assert bound.shape == spec.out
    assert np.isfinite(bound).all()
    back = ConvTranspose2d((n, 5, 5, c), (3, 3, k, c))
    assert bounds.conv2d_transpose(np.zeros(back.x), np.zeros(back.w), None, back).shape == back.out
    pool = Pool2d((n, 5, 5, c), "avg", (2, 2), (2, 2))
    assert bounds.pool2d(np.zeros(pool.x), pool).shape == pool.out
    resize = Resize2d((n, 5, 5, c), (3, 3))
    assert bounds.resize2d(np.zeros(resize.x), resize).shape == resize.out


@pytest.mark.parametrize("algorithm", ["direct", "winograd_f4"])
def test_empty_rows(algorithm):
    spec = Conv2d((1, 0, 5, 2), (3, 3, 2, 4), pad=((0, 0), (1, 1)))
    bound = bounds.conv2d(np.zeros(spec.x), np.zeros(spec.w), None, spec, algorithm)
    assert bound.shape == spec.out == (1, 0, 5, 4)

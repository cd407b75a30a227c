"""The bounds hold, are nearly reached where that can be arranged, and catch small mistakes."""

import dataclasses
import re

import numpy as np
import pytest

from fastconv import bounds, reference
from fastconv.bounds import _sums
from fastconv.bounds import _winograd as steps
from fastconv.cook_toom import TILES, algorithm
from fastconv.spec import Conv2d, ConvTranspose2d, Pool2d, Resize2d
from tests.arithmetic import Rounding, winograd
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
        error = np.abs(winograd(x, w, b, spec, 4, Rounding(dtype), order) - expected)
        assert_within(error, np.zeros(spec.out), bound)
        assert error.max() > bound.max() / 3000  # so the bound says something


@pytest.mark.parametrize("r, stride, m", [(*key, m) for key, sizes in TILES.items() for m in sizes])
def test_winograd_has_the_matrices_right(r, stride, m):
    """One pixel and one tap: all other errors vanish, and the formula can be written out."""
    a = stride * (m - 1) + r
    spec = Conv2d((1, a, a, 1), (r, r, 1, 1), (stride, stride))
    at, g, bt = (np.abs(np.array(matrix, float)) for matrix in algorithm(m, r, stride))
    x, w = np.zeros(spec.x), np.zeros(spec.w)
    x[0, 2, 3, 0], w[0, 1, 0, 0] = 3, 5
    u = 5 * np.outer(g[:, 0], g[:, 1])
    v = 3 * np.outer(bt[:, 2], bt[:, 3])
    # U once; each pass over V and over Y its terms + 2; the sum once; the bias.
    passes = sum(np.count_nonzero(matrix, axis=1).max() + 2 for matrix in (bt, at))
    expected = at @ (u * v) @ at.T * (1 + 2 * passes + 1 + 1) * 2.0**-24
    bound = bounds.conv2d(x, w, None, spec, f"winograd_f{m}")[0, :, :, 0]
    np.testing.assert_allclose(bound, expected, rtol=1e-4, atol=1e-40)


@pytest.mark.parametrize("algorithm", ["direct", "winograd_f4"])
def test_a_small_mistake_breaks_the_bound(algorithm):
    """One of 288 weights is off by two percent."""
    spec = Conv2d((1, 12, 12, 32), (3, 3, 32, 1), pad=ONE)
    x, w, b = normals(spec.x, 1), normals(spec.w, 2), normals(1, 3)
    wrong = w.copy()
    wrong[1, 1, 7, 0] *= 1.02
    error = np.abs(reference.conv2d(x, wrong, b, spec) - reference.conv2d(x, w, b, spec))
    assert (error > bounds.conv2d(x, w, b, spec, algorithm)).any()


KINDS = ["guaranteed", "probabilistic"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["direct", "winograd_f4"])
def test_in_pieces_it_is_the_same(name, kind, monkeypatch):
    spec = Conv2d((1, 13, 9, 3), (3, 3, 3, 5), pad=ONE)
    x, w, b = normals(spec.x, 1), normals(spec.w, 2), normals(5, 3)
    add = normals(spec.conv_out, 4)
    whole = bounds.conv2d(x, w, b, spec, name, add=add, kind=kind)
    monkeypatch.setattr(_sums, "CHUNK", 1)
    monkeypatch.setattr(steps, "PANEL", 2)
    pieces = bounds.conv2d(x, w, b, spec, name, add=add, kind=kind)
    np.testing.assert_allclose(pieces, whole, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_groups_are_convolutions_of_their_own(dtype, kind):
    spec = Conv2d((1, 7, 8, 20), (3, 2, 10, 6), (2, 1), ONE, groups=2, dtype=dtype)
    x, w, b = normals(spec.x, 1, dtype), normals(spec.w, 2, dtype), normals(6, 3, dtype)
    add = normals(spec.out, 4, dtype)
    whole = bounds.conv2d(x, w, b, spec, add=add, kind=kind, confidence=1 - 2e-6)
    for group in (0, 1):
        c, k = slice(10 * group, 10 * group + 10), slice(3 * group, 3 * group + 3)
        one = dataclasses.replace(spec, x=(1, 7, 8, 10), w=(3, 2, 10, 3), groups=1)
        bound = bounds.conv2d(x[..., c], w[..., k], b[k], one, add=add[..., k], kind=kind,
                              confidence=1 - 1e-6)  # fmt: skip
        np.testing.assert_allclose(whole[..., k], bound, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("r, m", [(3, 4), (5, 2)])
def test_a_dilated_convolution_is_several_dense_ones(r, m, kind):
    spec = Conv2d((1, 19, 17, 3), (r, r, 3, 2), (1, 1), ((2, 1), (0, 3)), (2, 3))
    x, w, b = normals(spec.x, 1), normals(spec.w, 2), normals(2, 3)
    name = f"winograd_f{m}"
    # Each part has its share of the doubt, so that lambda is the same.
    whole = bounds.conv2d(x, w, b, spec, name, kind=kind, confidence=1 - 1e-6)
    padded = np.pad(x, ((0, 0), *spec.pad, (0, 0)))
    for py, px in np.ndindex(2, 3):
        part = padded[:, py::2, px::3]
        dense = Conv2d(part.shape, spec.w)
        share = np.prod(dense.out) / np.prod(spec.out)
        bound = bounds.conv2d(part, w, b, dense, name, kind=kind, confidence=1 - 1e-6 * share)
        np.testing.assert_allclose(whole[:, py::2, px::3], bound, rtol=1e-9)


@pytest.mark.parametrize(
    "name, change, reason",
    [
        ("winograd_f4", {"stride": (2, 1)}, "got 3x3 with stride (2, 1)"),
        ("winograd_f4", {"w": (3, 2, 4, 4)}, "got 3x2 with stride (1, 1)"),
        (
            "winograd_f6",
            {"w": (5, 5, 4, 4)},
            "a 3x3 kernel with stride 1, got 5x5 with stride (1, 1)",
        ),
        ("winograd_f2", {"w": (5, 5, 4, 4), "stride": (2, 2)}, "got 5x5 with stride (2, 2)"),
        ("winograd_f4", {"w": (3, 3, 2, 4), "groups": 2}, "groups=1, got 2"),
        ("winograd_f4", {"stride": (2, 2), "dilation": (1, 2)}, "stride 2 and dilation (1, 2)"),
    ],
)
def test_winograd_is_refused_where_it_cannot_be(name, change, reason):
    spec = dataclasses.replace(Conv2d((1, 9, 9, 4), (3, 3, 4, 4)), **change)
    assert bounds.supports(spec, name).endswith(reason)
    with pytest.raises(
        ValueError, match=f"{name} cannot compute this layer: it needs .*{re.escape(reason)}"
    ):
        bounds.conv2d(np.zeros(spec.x), np.zeros(spec.w), None, spec, name)


def test_what_each_algorithm_supports():
    """The table of tiles, and the direct algorithm everywhere."""
    names = ["direct", "winograd_f2", "winograd_f3", "winograd_f4", "winograd_f6"]
    for taps, stride in [(3, 1), (5, 1), (7, 1), (3, 2), (1, 1), (5, 2), (3, 3)]:
        spec = Conv2d((1, 9, 9, 4), (taps, taps, 4, 4), (stride, stride))
        served = [name for name in names if not bounds.supports(spec, name)]
        sizes = sorted(TILES.get((taps, stride), ()))
        assert served == ["direct", *(f"winograd_f{m}" for m in sizes)]


@pytest.mark.parametrize(
    "name, roundings, last",
    [("direct", 18 + 2, 1), ("winograd_f2", 2 * (3 + 2) + 2, 2)],
)
def test_an_added_operand_is_rounded_once_more(name, roundings, last):
    """Beside it the sum is nothing. Winograd's algorithm adds it after the bias."""
    spec = Conv2d((1, 6, 6, 2), (3, 3, 2, 3), pad=ONE)
    x, w, b = normals(spec.x, 1), normals(spec.w, 2), normals(3, 3)
    add = 2**30 * (1 + np.abs(normals(spec.out, 4)))
    bound = bounds.conv2d(x, w, b, spec, name, add=add)
    np.testing.assert_allclose(bound, roundings * U["float32"] * add, rtol=1e-5)
    likely = bounds.conv2d(x, w, b, spec, name, add=add, kind="probabilistic")
    lam = np.sqrt(2 * np.log(2 * add.size / 1e-6))
    np.testing.assert_allclose(likely, lam * U["float32"] * np.sqrt(last) * add, rtol=1e-3)
    exact = reference.conv2d(x, w, b, spec)
    assert_within(exact.astype("float32") + add, exact + add.astype(float), likely)
    with pytest.raises(ValueError, match="bounds: the spec is for shape"):
        bounds.conv2d(x, w, b, spec, name, add=add[..., :2])


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
    add = normals(spec.out, 4, dtype)
    expected = relative(terms + 1, dtype) * (magnitude + np.abs(add))
    np.testing.assert_allclose(bounds.conv2d_transpose(x, w, b, spec, add=add), expected, rtol=2e-6)
    with pytest.raises(ValueError, match="bounds: the spec is for shape"):
        bounds.conv2d_transpose(x, w, b, spec, add=add[:, 1:])


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


def test_products_on_tensor_cores_change_the_sums_in_winograds_bound():
    """Of one pixel and one tap: a product of operands with 2**-21 lost, and three cut additions."""
    spec = Conv2d((1, 6, 6, 1), (3, 3, 1, 1))
    at, g, bt = (np.abs(np.array(matrix, float)) for matrix in algorithm(4, 3))
    x, w = np.zeros(spec.x), np.zeros(spec.w)
    x[0, 2, 3, 0], w[0, 1, 0, 0] = 3, 5
    most = at @ (15 * np.outer(g[:, 0], g[:, 1]) * np.outer(bt[:, 2], bt[:, 3])) @ at.T
    ours, plain = (
        bounds.conv2d(x, w, None, spec, name)[0, :, :, 0]
        for name in ("winograd_f4_tf32x3", "winograd_f4")
    )
    more = 2 * 2.0**-21 + 2.0**-22 + 3.03 * 2.0**-23 - 2.0**-24
    np.testing.assert_allclose(ours - plain, more * most, rtol=1e-3)
    likely = bounds.conv2d(x, w, None, spec, "winograd_f4_tf32x3", kind="probabilistic")
    np.testing.assert_array_equal(likely[0, :, :, 0], ours)


def test_underflow_is_part_of_the_bound():
    """Products of numbers near 2**-75 are smaller than half of what float32 can hold."""
    spec = Conv2d((1, 8, 8, 64), (3, 3, 64, 2), pad=ONE)
    x, w = np.abs(normals(spec.x, 1)) * 2.0**-76, np.abs(normals(spec.w, 2)) * 2.0**-76
    x, w, b = x.astype("float32"), w.astype("float32"), np.zeros(2, "float32")
    expected = reference.conv2d(x, w, b, spec)
    zeros = np.float32(2.0**-76) * np.float32(2.0**-76)
    assert zeros == 0
    assert_within(np.full(spec.out, zeros), expected, bounds.conv2d(x, w, b, spec))
    fast = winograd(x, w, b, spec, 4, Rounding("float32"))
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


@pytest.mark.parametrize(
    "name, x, computed, share",
    [
        ("tf32", 1 + 2.0**-11, (1 + 2.0**-10) ** 2, 0.99),  # both operands are rounded up
        # The rest of 12 bits is cut to 11, and its square left out.
        ("tf32x3", 1 + 2.0**-11 - 2.0**-23, 1 + 2 * (2.0**-11 - 2.0**-22), 0.2),
    ],
)
def test_tensor_cores_reach_a_part_of_their_bound(name, x, computed, share):
    operand = np.full((1, 1, 1, 1), x, np.float32)
    assert operand == x
    spec, transposed = (of((1, 1, 1, 1), (1, 1, 1, 1)) for of in (Conv2d, ConvTranspose2d))
    bound = bounds.conv2d(operand, operand, None, spec, name).item()
    assert share * bound < abs(computed - x * x) <= bound
    assert bounds.conv2d_transpose(operand, operand, None, transposed, name).item() == bound

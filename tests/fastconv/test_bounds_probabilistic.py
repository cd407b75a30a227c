"""Probabilistic bounds: near the errors of random data, and what their model promises."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from fastconv import avg_pool2d, bounds, conv2d_transpose, reference
from fastconv.cook_toom import TILES, algorithm
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d
from tests.arithmetic import Model, Rounding, direct, exact, kernel, multiply, winograd
from tests.helpers import assert_within, normals

U = 2.0**-24
ONE = ((1, 1), (1, 1))
LIKELY = {"kind": "probabilistic"}
# Taps, stride and size of a tile; 0 is the direct algorithm.
ALGORITHMS = [(r, stride, m) for (r, stride), sizes in TILES.items() for m in (0, *sizes)]


def name(m):
    return f"winograd_f{m}" if m else "direct"


def layer(r, stride, channels, outputs, size, dtype="float32"):
    pad = ((r // 2, r // 2),) * 2
    shape = (1, size, size, channels)
    return Conv2d(shape, (r, r, channels, outputs), (stride, stride), pad, dtype=dtype)


def operands(spec, seed=1):
    shapes = spec.x, spec.w, spec.w[3]
    return [normals(shape, seed + i, spec.dtype) for i, shape in enumerate(shapes)]


def compute(x, w, b, spec, m):
    """By the kernel where there is one, otherwise step by step."""
    y = kernel(x, w, b, spec, name(m))
    return winograd(x, w, b, spec, m, Rounding(spec.dtype)) if y is None else y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels, size, gain", [(16, 24, 3), (64, 16, 10), (512, 11, 50)])
@pytest.mark.parametrize("r, stride, m", ALGORITHMS)
def test_within_30_times_the_worst_error_of_random_data(r, stride, m, channels, size, gain, dtype):
    spec = layer(r, stride, channels, 8, size, dtype)
    x, w, b = operands(spec)
    bound = bounds.conv2d(x, w, b, spec, name(m), **LIKELY)
    error = np.abs(compute(x, w, b, spec, m) - exact(x, w, b, spec)).astype(np.float64)
    assert_within(error, np.zeros(spec.out), bound)
    assert bound.max() <= 30 * error.max()
    assert (gain * bound < bounds.conv2d(x, w, b, spec, name(m))).all()


@pytest.mark.parametrize("channels", [2, 24])
@pytest.mark.parametrize("r, stride, m", ALGORITHMS)
def test_the_model_keeps_its_promise(r, stride, m, channels):
    """Roundings of u, up or down by chance: their sum has the standard deviation of the theorem.

    The bound is ``lambda`` times that, and at most one array in ten may break one of 0.9.
    """
    spec = layer(r, stride, channels, 2, 6)
    x, w, b = operands(spec)
    bound = bounds.conv2d(x, w, b, spec, name(m), confidence=0.9, **LIKELY)
    expected = exact(x, w, b, spec)
    errors = []
    for seed in range(40):
        model = Model(seed)
        y = winograd(x, w, b, spec, m, model) if m else direct(x, w, b, spec, model)
        errors.append(y - expected)
    assert np.mean([(np.abs(error) > bound).any() for error in errors]) <= 0.1
    lam = math.sqrt(2 * math.log(2 * bound.size / 0.1))
    deviation = np.sqrt(np.mean(np.square(errors)))
    assert 1 < np.sqrt(np.mean(bound**2)) / (lam * deviation) < (5 if m else 1.4)


def scaled(c):
    """Whether products with it are rounded: it is no power of two."""
    return bool(c) and np.log2(abs(float(c))) % 1 != 0


def rounded(matrix):
    """1 where a coefficient has an error: in rows with a fraction like 2/3, but powers of two."""
    inexact = [any(Fraction(float(np.float32(c))) != c for c in row) for row in matrix]
    return np.array(
        [[i and scaled(c) for c in row] for i, row in zip(inexact, matrix, strict=True)], float
    )


class Constants(Rounding):
    """Nothing is rounded but coefficients."""

    def rounded(self, values):
        return values

    scaled = rounded


@pytest.mark.parametrize("r, stride, m", [case for case in ALGORITHMS if case[2]])
def test_a_coefficient_is_off_by_at_most_one_rounding(r, stride, m):
    """Also where rows share a part that is multiplied by a factor later."""
    at, _, bt = algorithm(m, r, stride)
    for matrix in (at, bt):
        effective = multiply(matrix, np.eye(len(matrix[0])), Constants("float32"))
        true = np.array(matrix, float)
        assert_within(effective, true, U * np.abs(true) * rounded(matrix))


def noise(row, values, shared):
    """Squares of what a sum of ``row * values`` rounds, some of which `shared` sums have."""
    terms = row * values
    count, factors = np.count_nonzero(row), sum(map(scaled, row))
    most = (np.abs(terms).sum() + abs(terms.sum())) / 2
    inner = (max(count - 2, 0) + factors / 2) * most**2 + (terms**2).sum() * bool(factors)
    return terms.sum() ** 2 * (count + factors > 1) + shared * inner


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("r, stride, m", [case for case in ALGORITHMS if case[2]])
def test_winograd_has_the_squares_right(r, stride, m, dtype):
    """One pixel and one tap: what each step adds can be written out."""
    matrices = algorithm(m, r, stride)
    at, g, bt = (np.array(matrix, float) for matrix in matrices)
    a, u, u64 = len(bt), float(np.finfo(dtype).eps) / 2, 2.0**-53
    spec = Conv2d((1, a, a, 1), (r, r, 1, 1), (stride, stride), dtype=dtype)
    x, w = np.zeros(spec.x), np.zeros(spec.w)
    x[0, 2, 3, 0], w[0, 1, 0, 0] = 3, 5
    v = 3 * np.outer(bt[:, 2], bt[:, 3])
    total = v * 5 * np.outer(g[:, 0], g[:, 1])

    # Multiples of the squared products. The first pass adds `down`, the last one `along`. U is
    # rounded once, and in float64 from the second tap on; the sum, and its only product, once.
    down, along = (
        np.array([noise(row, np.eye(a)[i], 2) / (row[i] ** 2 or 1) for row in bt]) for i in (2, 3)
    )
    once = along + 1 + r * r * (u64 / u) ** 2 + 2
    shift = [
        [float(Fraction(float(p[0]) * float(q[1])) - p[0] * q[1]) for q in matrices[1]]
        for p in matrices[1]
    ]
    inexact_at, inexact_bt = (rounded(matrices[i]) for i in (0, 2))
    both = inexact_bt[:, [2]] + inexact_bt[:, 3]

    squares, fixed = np.zeros((m, m)), np.zeros((m, m))
    for i, j in np.ndindex(m, m):
        gain, half = np.outer(at[i], at[j]), at[i] @ total
        squares[i, j] = ((gain * total) ** 2 * once).sum()
        squares[i, j] += at[i] ** 2 * down @ (np.abs(total) @ np.abs(at[j])) ** 2
        squares[i, j] += sum(c**2 * noise(at[i], t, 1) for c, t in zip(at[j], total.T, strict=True))
        squares[i, j] += noise(at[j], half, 1) + (half @ at[j]) ** 2
        fixed[i, j] = abs((gain * v * 5 * shift).sum()) + u * (np.abs(gain * total) * both).sum()
        fixed[i, j] += u * inexact_at[i] @ np.abs(at[i] * (total @ at[j]))
        fixed[i, j] += u * inexact_at[j] @ np.abs(at[j] * half)

    lam = math.sqrt(2 * math.log(2 * m * m / 0.5))
    expected = fixed + lam * u * np.sqrt(squares)
    if dtype == "float64":  # the reference's product, and its sums from that tap on
        expected += lam * u64 * np.abs(exact(x, w, None, spec)[0, :, :, 0]) * math.sqrt(1 + r * r)
    bound = bounds.conv2d(x, w, None, spec, name(m), confidence=0.5, **LIKELY)[0, :, :, 0]
    guaranteed = bounds.conv2d(x, w, None, spec, name(m))[0, :, :, 0]
    assert np.mean(expected < guaranteed) > 0.5
    accuracy = 1e-4 if dtype == "float32" else 1e-6  # of what is left out: products of two errors
    np.testing.assert_allclose(bound, np.minimum(expected, guaranteed), accuracy, 1e-40)


def test_the_formula_of_one_sum():
    """With one channel every partial sum is known: that before a term, and that after it."""
    spec = Conv2d((1, 3, 3, 1), (3, 3, 1, 1))
    x, w, b = operands(spec)
    terms = x.ravel().astype(float) * w.ravel()
    sums = np.cumsum([b[0], *terms])
    squares = np.maximum(np.abs(sums[1:]), np.abs(sums[:-1])) ** 2 + terms**2
    lam = math.sqrt(2 * math.log(2 / 0.05))
    bound = bounds.conv2d(x, w, b, spec, confidence=0.95, **LIKELY).item()
    assert bound == pytest.approx(lam * U * math.sqrt(squares.sum()), rel=1e-5)


def test_the_order_inside_a_block_is_free():
    """A block's largest partial sum is that of its positive or that of its negative terms."""
    spec = Conv2d((1, 1, 1, 8), (1, 1, 8, 1))
    x = np.array([3, -1, 4, -1, 5, -9, 2, -6], "float32").reshape(spec.x)
    bound = bounds.conv2d(x, np.ones(spec.w), None, spec, confidence=0.95, **LIKELY).item()
    lam = math.sqrt(2 * math.log(2 / 0.05))
    assert bound == pytest.approx(lam * U * math.sqrt(8 * 17**2 + 31**2), rel=1e-4)


@pytest.mark.parametrize("positive", [False, True])
def test_below_the_theorem_of_higham_and_mary(positive):
    """Theorem 3.1 at the same probability, 1 - 2 n exp(-lambda^2 (1 - u)^2 / 2)."""
    n = 2000
    spec = Conv2d((1, 1, 1, n), (1, 1, n, 1))
    x, w, _ = operands(spec)
    x, w = (np.abs(x), np.abs(w)) if positive else (x, w)
    lam = math.sqrt(2 * math.log(2 * n / 1e-6)) / (1 - U)
    theirs = math.expm1(lam * math.sqrt(n) * U + n * U**2 / (1 - U))
    theirs *= np.abs(x.astype(float).ravel() * w.ravel()).sum()
    bound = bounds.conv2d(x, w, None, spec, **LIKELY).item()
    assert bound < theirs / (1 if positive else 15)
    assert bound > theirs / (3 if positive else 100)


def test_it_is_no_guarantee():
    """1 + 2**-24 + 2**-24 + ... stays 1: all roundings go one way."""
    x = np.full((1, 1, 1, 400), 2.0**-24, "float32")
    x[..., 0] = 1
    spec = Conv2d(x.shape, (1, 1, 400, 1))
    w = np.ones(spec.w, "float32")
    assert bounds.conv2d(x, w, None, spec, **LIKELY).item() < 399 * 2.0**-24


@pytest.mark.parametrize("m", [0, 4])
def test_confidence_is_for_the_whole_array(m):
    """Twice as many elements, or half the doubt, cost the same."""
    one, two = layer(3, 1, 40, 4, 9), dataclasses.replace(layer(3, 1, 40, 4, 9), x=(2, 9, 9, 40))
    x, w, b = operands(one)
    doubt = 2.0**-7
    single = bounds.conv2d(x, w, b, one, name(m), confidence=1 - doubt, **LIKELY)
    double = bounds.conv2d(np.tile(x, (2, 1, 1, 1)), w, b, two, name(m), confidence=1 - doubt,
                           **LIKELY)  # fmt: skip
    surer = bounds.conv2d(x, w, b, one, name(m), confidence=1 - doubt / 2, **LIKELY)
    np.testing.assert_array_equal(double, np.concatenate([surer, surer]))
    assert (surer > single).all()


@pytest.mark.parametrize("m", [0, 2])
@pytest.mark.parametrize("exponent", [-170, 120])
def test_squares_that_leave_the_range_are_not_trusted(exponent, m):
    """Numbers of 10**-170 have no square in float64; the guaranteed bound remains."""
    spec = layer(3, 1, 64, 2, 6, "float64")
    x, w, b = operands(spec)
    x, b = x * 10.0**exponent, b * 10.0**exponent
    w = w * 10.0 ** (0 if exponent < 0 else 60)
    guaranteed = bounds.conv2d(x, w, b, spec, name(m))
    assert np.isfinite(guaranteed).all()
    likely = bounds.conv2d(x, w, b, spec, name(m), **LIKELY)
    np.testing.assert_allclose(likely, guaranteed, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution(groups, dtype):
    spec = ConvTranspose2d((1, 6, 5, 256), (4, 4, 3, 256), (2, 2), ONE, groups=groups, dtype=dtype)
    x, w, b = (normals(s, i, dtype) for i, s in enumerate((spec.x, spec.w, spec.out[3])))
    y = conv2d_transpose(x, w, b, stride=2, padding=1, groups=groups)
    bound = bounds.conv2d_transpose(x, w, b, spec, **LIKELY)
    error = np.abs(y - reference.conv2d_transpose(x, w, b, spec))
    assert_within(error, np.zeros(spec.out), bound)
    assert bound.max() <= 30 * error.max()
    assert (5 * bound < bounds.conv2d_transpose(x, w, b, spec)).all()


@pytest.mark.parametrize("first", [True, False])
def test_a_transposed_convolution_adds_its_inputs_in_their_order(first):
    """After a large term all partial sums are large."""
    spec = ConvTranspose2d((1, 1, 30, 1), (1, 30, 1, 1), pad=((0, 0), (29, 29)))
    x = np.ones(spec.x)
    x[0, 0, 0 if first else -1] = 2.0**20
    lam = math.sqrt(2 * math.log(2 / 0.05))
    bound = bounds.conv2d_transpose(x, np.ones(spec.w), None, spec, confidence=0.95, **LIKELY)
    squares = (30 if first else 1) + 1  # partial sums, and the product
    assert bound.item() == pytest.approx(lam * U * 2.0**20 * math.sqrt(squares), rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_large_average(dtype):
    spec = Pool2d((1, 60, 60, 64), "avg", (60, 60), (60, 60), dtype=dtype)
    for x in (normals(spec.x, 1, dtype), np.abs(normals(spec.x, 1, dtype))):
        bound = bounds.pool2d(x, spec, **LIKELY)
        error = np.abs(avg_pool2d(x, 60) - reference.pool2d(x, spec))
        assert_within(error, np.zeros(spec.out), bound)
        assert (5 * bound < bounds.pool2d(x, spec)).all()


def test_the_formula_of_an_average():
    """Sums that are no larger than that of the positive pixels, the division, a reciprocal."""
    spec = Pool2d((1, 7, 9, 1), "avg", (7, 9), (7, 9))
    x = normals(spec.x, 1) + np.float32(0.2)
    positive, total = x[x > 0].sum(dtype=float), x.sum(dtype=float)
    assert total > 0
    lam = math.sqrt(2 * math.log(2 / 0.1))
    expected = U * total + lam * U * math.sqrt(63 * positive**2 + total**2)
    bound = bounds.pool2d(x, spec, confidence=0.9, **LIKELY).item()
    assert bound == pytest.approx(expected / 63, rel=1e-4)


def test_few_roundings_are_bounded_alike():
    x = normals((2, 6, 5, 3), 1)
    pool, resize = Pool2d(x.shape, "avg", (2, 2), (2, 2)), Resize2d(x.shape, (4, 9), "bicubic")
    np.testing.assert_array_equal(bounds.resize2d(x, resize, **LIKELY), bounds.resize2d(x, resize))
    assert (bounds.pool2d(x, pool, **LIKELY) <= bounds.pool2d(x, pool)).all()


@pytest.mark.parametrize(
    "bound",
    [
        lambda **kind: bounds.conv2d(np.ones((1, 1, 1, 1)), np.ones((1, 1, 1, 1)), None,
                                     Conv2d((1, 1, 1, 1), (1, 1, 1, 1)), **kind),
        lambda **kind: bounds.conv2d_transpose(np.ones((1, 1, 1, 1)), np.ones((1, 1, 1, 1)), None,
                                               ConvTranspose2d((1, 1, 1, 1), (1, 1, 1, 1)), **kind),
        lambda **kind: bounds.pool2d(np.ones((1, 1, 1, 1)),
                                     Pool2d((1, 1, 1, 1), "max", (1, 1), (1, 1)), **kind),
        lambda **kind: bounds.resize2d(np.ones((1, 1, 1, 1)),
                                       Resize2d((1, 1, 1, 1), (1, 1), "nearest"), **kind),
        lambda **kind: bounds.channel_op(np.ones((1, 1, 1, 1)),
                                         ChannelOp((1, 1, 1, 1), "argmax"), **kind),
    ],
)  # fmt: skip
def test_unknown_kinds_and_impossible_confidences(bound):
    with pytest.raises(ValueError, match="unknown kind 'likely'; use 'guaranteed' or 'prob"):
        bound(kind="likely")
    for confidence in (0, 1, -0.5, 1.5, math.nan):
        with pytest.raises(ValueError, match="confidence must be between 0 and 1, got"):
            bound(kind="probabilistic", confidence=confidence)

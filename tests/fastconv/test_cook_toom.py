"""In exact fractions the matrices compute a correlation exactly, whatever the points."""

import random
from fractions import Fraction

import pytest

from fastconv.cook_toom import POINTS, TILES, algorithm, cook_toom

HALF = Fraction(1, 2)
CASES = [
    (2, 3, (0, 1, -1)),
    (4, 3, POINTS[4, 3]),
    (4, 3, (0, 1, -1, 2, -2)),
    (6, 3, (0, 1, -1, 2, -2, HALF, -HALF)),
    (2, 5, (0, 1, -1, 2, -2)),
    (2, 7, (0, 1, -1, 2, -2, HALF, -HALF)),
    (3, 1, (5, 7)),
    (1, 3, (5, 7)),
    (1, 1, ()),
]


def fractions(rng, count):
    return [Fraction(rng.randint(-99, 99), rng.randint(1, 99)) for _ in range(count)]


def product(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def transpose(matrix):
    return [list(row) for row in zip(*matrix, strict=True)]


def both_sides(matrix, block):
    """``matrix @ block @ matrix.T``."""
    half = transpose([product(matrix, column) for column in transpose(block)])
    return [product(matrix, row) for row in half]


@pytest.mark.parametrize("m, r, points", CASES)
def test_one_dimension_is_exact(m, r, points):
    at, g, bt = cook_toom(m, r, points)
    rng = random.Random(1)
    d, taps = fractions(rng, m + r - 1), fractions(rng, r)
    fast = product(at, [a * b for a, b in zip(product(g, taps), product(bt, d), strict=True)])
    assert fast == [sum(d[i + j] * taps[j] for j in range(r)) for i in range(m)]


@pytest.mark.parametrize("m, r, points", CASES[:3])
def test_two_dimensions_are_exact(m, r, points):
    at, g, bt = cook_toom(m, r, points)
    rng = random.Random(2)
    d = [fractions(rng, m + r - 1) for _ in range(m + r - 1)]
    w = [fractions(rng, r) for _ in range(r)]
    u, v = both_sides(g, w), both_sides(bt, d)
    fast = both_sides(
        at, [[a * b for a, b in zip(*rows, strict=True)] for rows in zip(u, v, strict=True)]
    )
    taps = [(p, q) for p in range(r) for q in range(r)]
    direct = [[sum(d[i + p][j + q] * w[p][q] for p, q in taps) for j in range(m)] for i in range(m)]
    assert fast == direct


def test_shapes_and_number_of_multiplications():
    at, g, bt = cook_toom(4, 3, POINTS[4, 3])
    assert [len(at), len(at[0])] == [4, 6]
    assert [len(g), len(g[0])] == [6, 3]
    assert [len(bt), len(bt[0])] == [6, 6]


def test_f2_is_the_one_of_lavin_and_gray():
    """Up to the scale of each row, which moves freely between G and BT."""
    at, _, bt = cook_toom(2, 3, (0, 1, -1))
    assert at == [[1, 1, 1, 0], [0, 1, -1, 1]]
    assert bt == [[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]


@pytest.mark.parametrize("points", [(0, 1), (0, 1, -1, 2), (0, 1, 1), (0, HALF, Fraction(2, 4))])
def test_wrong_points(points):
    with pytest.raises(ValueError, match=r"F\(2, 3\) needs 3 distinct points"):
        cook_toom(2, 3, points)


@pytest.mark.parametrize("m, r, stride", [(m, *key) for key, sizes in TILES.items() for m in sizes])
def test_offered_algorithms_are_exact(m, r, stride):
    at, g, bt = algorithm(m, r, stride)
    a = stride * (m - 1) + r
    assert (len(at), len(at[0]), len(g), len(g[0]), len(bt), len(bt[0])) == (m, a, a, r, a, a)
    rng = random.Random(3)
    d, taps = fractions(rng, a), fractions(rng, r)
    fast = product(at, [x * y for x, y in zip(product(g, taps), product(bt, d), strict=True)])
    assert fast == [sum(d[stride * i + j] * taps[j] for j in range(r)) for i in range(m)]

"""Matrices of minimal filtering (Cook-Toom, Winograd) in exact fractions.

``F(m, r)`` computes ``m`` neighbouring outputs of a correlation with ``r`` taps from
``a = m + r - 1`` inputs by ``a`` multiplications instead of ``m * r``::

    y = AT @ ((G @ g) * (BT @ d))        y[i] = sum_j d[i + j] * g[j]

In two dimensions, ``Y = AT @ ((G @ g @ G.T) * (BT @ d @ BT.T)) @ AT.T``.

A correlation of stride 2 is the sum of two of stride 1, of the even and of the odd taps with the
even and the odd inputs. Side by side their matrices are again an algorithm of this form, with
``a = 2 * (m - 1) + r`` products: 81 instead of 144 for 4 x 4 outputs of a 3 x 3 kernel.

Sources: S. Winograd, *Arithmetic Complexity of Computations* (1980); A. Lavin and S. Gray, *Fast
Algorithms for Convolutional Neural Networks* (2016), arXiv:1509.09308; B. Barabasz et al., *Error
Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks* (2020),
arXiv:1803.10986, for the choice of points.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

__all__ = ["POINTS", "TILES", "Matrix", "algorithm", "cook_toom", "transform_weights"]

Matrix = list[list[Fraction]]


def _points(*pairs: str, more: str = "") -> tuple[Fraction, ...]:
    """Zero, then +p and -p for each of `pairs`, then `more` without its negative."""
    signed = [sign * Fraction(p) for p in pairs for sign in (1, -1)]
    return (Fraction(0), *signed, *([Fraction(more)] if more else []))


# Points of F(m, r), by (m, r), found by search for the least error on random data: reciprocal pairs
# keep the powers in G and AT near one. 0, +-1, +-2 for F(4, 3) costs the same and errs twice as
# much.
POINTS = {
    (2, 2): _points(more="1"),
    (3, 2): _points("1"),
    (4, 2): _points("4/3", more="1/2"),
    (2, 3): _points("1"),
    (4, 3): _points("2/3", "3/2"),
    (6, 3): _points("1", "2", "1/2"),
    (4, 4): _points("1", "2", more="1/2"),
    (2, 5): _points("2/3", "3/2"),
    (4, 5): _points("1", "2", "1/2"),
    (2, 7): _points("1", "2", "1/2"),
}

# (taps, stride) -> sizes m of a tile of outputs that are offered, the one for general use first.
TILES = {(3, 1): (4, 2, 6), (5, 1): (2, 4), (7, 1): (2,), (3, 2): (4, 3, 2), (7, 2): (4,)}


def algorithm(m: int, r: int, stride: int = 1) -> tuple[Matrix, Matrix, Matrix]:
    """``AT`` (m, a), ``G`` (a, r) and ``BT`` (a, a) of ``y[i] = sum_j d[stride * i + j] * g[j]``.

    Parameters
    ----------
    m, r : int
        Outputs and taps; there are `POINTS` for them, or with a stride for each phase of the taps.
    stride : int
        ``a = stride * (m - 1) + r``.
    """
    a = stride * (m - 1) + r
    at: Matrix = [[] for _ in range(m)]
    g: Matrix = []
    bt: Matrix = []
    for phase in range(stride):
        taps = range(phase, r, stride)
        # One tap a phase: m products of an input and the tap; the general form would add points.
        one = [[Fraction(i == j) for j in range(m)] for i in range(m)]
        part = (one, [[Fraction(1)]] * m, one) if len(taps) == 1 else cook_toom(
            m, len(taps), POINTS[m, len(taps)]
        )  # fmt: skip
        for row, more in zip(at, part[0], strict=True):
            row += more
        g += [_spread(row, taps, r) for row in part[1]]
        bt += [_spread(row, range(phase, a, stride), a) for row in part[2]]
    return at, g, bt


def transform_weights(w: np.ndarray, m: int, stride: int = 1) -> np.ndarray:
    """``U[a * a, c, k] = G w GT`` of w[r, r, c, k], in float64."""
    r = w.shape[0]
    g = np.array(algorithm(m, r, stride)[1], dtype=float)
    u: np.ndarray = np.kron(g, g) @ w.reshape(r * r, -1).astype(np.float64)
    return u.reshape(len(g) ** 2, *w.shape[2:])


def _spread(row: Sequence[Fraction], places: range, size: int) -> list[Fraction]:
    """`row` at `places` of a row of `size` numbers, zeros elsewhere."""
    found = dict(zip(places, row, strict=True))
    return [found.get(i, Fraction(0)) for i in range(size)]


def cook_toom(m: int, r: int, points: Sequence[Fraction | int]) -> tuple[Matrix, Matrix, Matrix]:
    """Derive ``AT`` (m, a), ``G`` (a, r) and ``BT`` (a, a) from interpolation points.

    Correlation with ``g`` is the transpose of the product of two polynomials, of degree
    ``m - 1`` and ``r - 1``. That product is found by evaluating both at ``a`` points
    (transposed: ``AT`` and ``G``) and interpolating (transposed: ``BT``).

    Parameters
    ----------
    m, r : int
        Outputs and taps.
    points : sequence of ``m + r - 2`` distinct rational numbers
        Infinity is always the last point and is not listed.

    Raises
    ------
    ValueError
        The points repeat or their number is wrong.
    """
    nodes = [Fraction(p) for p in points]
    if len(nodes) != m + r - 2 or len(set(nodes)) != len(nodes):
        raise ValueError(f"F({m}, {r}) needs {m + r - 2} distinct points, got {list(points)}")
    others = [[q for q in nodes if q != p] for p in nodes]

    # Evaluating a polynomial at infinity gives its leading coefficient.
    at = [[p**i for p in nodes] + [Fraction(i == m - 1)] for i in range(m)]
    # Lagrange's denominators go to the weights, which are transformed once and in advance.
    scale = [math.prod((p - q for q in rest), start=Fraction(1))
             for p, rest in zip(nodes, others, strict=True)]  # fmt: skip
    g = [[p**j / s for j in range(r)] for p, s in zip(nodes, scale, strict=True)]
    g.append([Fraction(j == r - 1) for j in range(r)])
    bt = [[*_monic(rest), Fraction(0)] for rest in others] + [_monic(nodes)]
    return at, g, bt


def _monic(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, constant term first, of the product of all ``(x - root)``."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [s - root * c for s, c in zip(shifted, scaled, strict=True)]
    return coefficients

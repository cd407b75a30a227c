"""Matrices of minimal filtering (Cook-Toom, Winograd) in exact fractions.

``F(m, r)`` computes ``m`` neighbouring outputs of a correlation with ``r`` taps from
``a = m + r - 1`` inputs by ``a`` multiplications instead of ``m * r``::

    y = AT @ ((G @ g) * (BT @ d))        y[i] = sum_j d[i + j] * g[j]

In two dimensions, ``Y = AT @ ((G @ g @ G.T) * (BT @ d @ BT.T)) @ AT.T``.

Sources: S. Winograd, *Arithmetic Complexity of Computations* (1980); A. Lavin and S. Gray, *Fast
Algorithms for Convolutional Neural Networks* (2016), arXiv:1509.09308; B. Barabasz et al., *Error
Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks* (2020),
arXiv:1803.10986, for the choice of points.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

__all__ = ["POINTS", "Matrix", "cook_toom"]

Matrix = list[list[Fraction]]

# Points of F(m, 3), by m. For m = 4 reciprocal pairs keep the powers in G and AT near one: half the
# error of 0, +-1, +-2 at the same cost.
POINTS = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), *(Fraction(*p) for p in ((2, 3), (-2, 3), (3, 2), (-3, 2)))),
    6: (Fraction(0), *(Fraction(*p) for p in ((1, 1), (-1, 1), (2, 1), (-2, 1), (1, 2), (-1, 2)))),
}


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

"""Winograd's algorithm: ``Y = AT @ sum_c(U * V) @ A``, ``U = G @ w @ G.T``, ``V = BT @ x @ B``.

``U`` is computed in float64 and rounded once, all else in the working precision.

Guaranteed: a term of a linear combination of ``z`` numbers passes at most ``z + 2`` roundings: of
its coefficient, which may be a product of two, of its product, and of ``z - 1`` additions. Scaling
rows of the matrices by powers of two changes nothing. Where tensor cores make the products, the sum
over channels has their roundings (`_tensor`), and there is this bound alone.

Probabilistic: with exact ``U`` and ``V`` the output is linear in what each step rounds, so the
error is the sum of all roundings ``delta * s``, times the gain with which each reaches the output.
Azuma's inequality needs the sum of the squares of ``gain * s``, `variance` below, in units of
``u**2``:

* A rounding in the sum over channels reaches the output by ``A`` alone (`_sums.Chain`).
* So does one of the last pass of the input transform, times ``U``, and one of ``U``, times ``V``.
* One of the first pass reaches a row of products by several columns: their gains add up.
* The output transform and the bias are rounded per output.

What is not random counts as it is: coefficients like 2/3 have a fixed error of at most ``u``, the
same for all channels. What two roundings do to each other is below ``lambda * gamma`` times the
guaranteed bound.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from fastconv.bounds import _sums
from fastconv.bounds._rounding import U64, Array, gamma, probable, smallest, unit_roundoff
from fastconv.bounds._tensor import TENSOR, Tensor
from fastconv.cook_toom import TILES, Matrix, algorithm
from fastconv.spec import Conv2d

# Public name -> size of a tile, and the tensor cores that make the products, if any.
NAMES: dict[str, tuple[int, Tensor | None]] = {
    **{f"winograd_f{m}": (m, None) for m in sorted({m for row in TILES.values() for m in row})},
    "winograd_f4_tf32x3": (4, TENSOR["tf32x3"]),
}
PANEL = 64  # output channels at a time


def supports(spec: Conv2d, algorithm: str) -> str:
    """Why `algorithm` cannot compute `spec`; "" when it can.

    Raises
    ------
    ValueError
        There is no such algorithm.
    """
    if algorithm == "direct" or algorithm in TENSOR:
        return ""
    if algorithm not in NAMES:
        raise ValueError(f"bounds.conv2d: unknown algorithm {algorithm!r}")
    served = [case for case, sizes in TILES.items() if NAMES[algorithm][0] in sizes]
    (kh, kw), (sh, sw) = spec.w[:2], spec.stride
    if kh != kw or sh != sw or (kh, sh) not in served:
        cases = " or ".join(f"{taps}x{taps} kernel with stride {stride}" for taps, stride in served)
        return f"it needs a {cases}, got {kh}x{kw} with stride {spec.stride}"
    if spec.groups != 1:
        return f"it needs groups=1, got {spec.groups}"
    if sh > 1 and spec.dilation != (1, 1):
        return f"it needs stride 1 for a dilation, got stride {sh} and dilation {spec.dilation}"
    return ""


def winograd(
    image: Array, w: Array, bias: Array, add: Array | None, spec: Conv2d, algorithm: str,
    lam: float | None,
) -> Array:  # fmt: skip
    """Bound for one image, shape ``spec.conv_out[1:]``, without the reference's error.

    A dilated convolution consists of dense ones on interleaved pixels.
    """
    m, tensor = NAMES[algorithm]
    dh, dw = spec.dilation
    padded = np.pad(image, (*spec.pad, (0, 0)))
    y = np.zeros(spec.conv_out[1:])
    after = np.abs(bias) + (np.abs(add) if add is not None else np.zeros(y.shape))
    additions = 1 if add is None else 2
    for first in range(0, spec.w[3], PANEL):
        panel = slice(first, first + PANEL)
        tiles = Tiles(m, spec, w[..., panel], lam, tensor)
        for py, px in np.ndindex(min(dh, len(y)), min(dw, y.shape[1])):
            at = np.s_[py::dh, px::dw]
            y[at][..., panel] = tiles.error(padded[at], after[at][..., panel], additions)
    return y


class Tiles:
    """Bounds for the tiles of a dense convolution of one set of weights.

    Arrays of products have the shape (a, a, tiles, channels), weights (a, a, c, k).
    """

    def __init__(
        self, m: int, spec: Conv2d, w: Array, lam: float | None, tensor: Tensor | None = None
    ) -> None:
        r, _, c, k = w.shape
        self.m, self.stride, self.lam = m, spec.stride[0], lam
        self.u, self.tiny = unit_roundoff(spec.dtype), smallest(spec.dtype)
        # Relative to their magnitude, the sums over channels err by this.
        self.sums = tensor.operands + gamma(c, tensor.unit) if tensor else gamma(c, self.u)
        self.forms = forms(m, r, self.stride)
        a = self.forms.bt.side
        self.value = _both(self.forms.g, w)
        # Errors of U: float64 in the transform (theirs, and ours in `value`), then one rounding.
        noise = gamma(3 * (r * r + 4), U64) * _both(np.abs(self.forms.g), np.abs(w))
        self.error_most = self.u * np.abs(self.value) + noise + r * r * self.tiny
        self.most = np.abs(self.value) + self.error_most
        if lam is not None:
            flat = w.reshape(r * r, c * k)
            chain = _sums.Chain(np.zeros((a * a, c * k)), lam)
            chain.dot(self.forms.kron, flat, block=1)
            rounded = (U64 / self.u) ** 2 * chain.squares.reshape(self.value.shape)
            self.variance = self.value**2 + rounded
            self.shift = (self.forms.kron_error @ flat).reshape(self.value.shape)

    def error(self, image: Array, after: Array, additions: int) -> Array:
        """Bound for the outputs of one padded image.

        Parameters
        ----------
        image : ndarray, (h, w, c)
        after : ndarray, (oh, ow, k)
            Magnitude of what is added to the transformed sums.
        additions : int
            Of how many numbers.
        """
        m, step, a = self.m, self.stride * self.m, self.forms.bt.side
        (out_h, out_w, k), c = after.shape, image.shape[2]
        down, across = -(-out_h // m), -(-out_w // m)
        padded = np.zeros((step * (down - 1) + a, step * (across - 1) + a, c))
        image = image[: len(padded), : padded.shape[1]]
        padded[: len(image), : image.shape[1]] = image
        more = np.zeros((m * down, m * across, k))
        more[:out_h, :out_w] = after
        y = np.zeros_like(more)
        lines = max(_sums.CHUNK // (a * a * max(across * max(c, k), 1)), 1)
        for first in range(0, down, lines):
            count = min(lines, down - first)
            rows = padded[step * first : step * (first + count - 1) + a]
            view = np.lib.stride_tricks.sliding_window_view(rows, (a, a), axis=(0, 1))
            tiles = view[::step, ::step].transpose(3, 4, 0, 1, 2).reshape(a, a, count * across, c)
            part = slice(m * first, m * (first + count))
            added = more[part].reshape(count, m, across, m, k).transpose(1, 3, 0, 2, 4)
            error = self._tile_error(tiles, added.reshape(m, m, count * across, k), additions)
            error = error.reshape(m, m, count, across, k).transpose(2, 0, 3, 1, 4)
            y[part] = error.reshape(m * count, m * across, k)
        return y[:out_h, :out_w]

    def _tile_error(self, tiles: Array, after: Array, additions: int) -> Array:
        """(m, m, tiles, k) from (a, a, tiles, c)."""
        at, bt, u, c = self.forms.at, self.forms.bt, self.u, tiles.shape[3]
        in_turns, out_turns = 2 * (bt.terms.max() + 2), 2 * (at.terms.max() + 2) + additions
        lost = self.tiny * bt.products, self.tiny * at.products

        v = _both(bt.matrix, tiles)
        turns = gamma(in_turns, u) + gamma(in_turns, U64)
        v_error = turns * _both(np.abs(bt.matrix), np.abs(tiles)) + lost[0]
        v_most = np.abs(v) + v_error

        # Errors of the sum over channels: of V, of U, of the sum itself, and those that the
        # output transform and the bias add, which are relative to the sum, too.
        relative = self.sums + gamma(out_turns, u) * (1 + self.sums)
        m_error = (v_error + relative * v_most) @ self.most + v_most @ self.error_most
        m_error += c * self.tiny
        guaranteed = _both(np.abs(at.matrix), m_error) + gamma(out_turns, u) * after + lost[1]
        if self.lam is None:
            return guaranteed

        chain = _sums.Chain(np.zeros(m_error.shape), self.lam)
        chain.dot(v, self.value)
        first, last = bt.roundings(tiles, shared=2)
        spread = np.sqrt(first @ self.most**2)
        spread = _left(at.matrix**2, _right(np.abs(at.matrix), spread) ** 2)
        direct = chain.squares + last @ self.most**2 + v**2 @ self.variance
        variance = _both(at.matrix**2, direct) + spread + sum(at.roundings(chain.value, shared=1))
        variance += additions * (np.abs(_both(at.matrix, chain.value)) + after) ** 2

        fixed = np.abs(_both(at.matrix, v @ self.shift))
        fixed += u * self._coefficients(tiles, chain.value)
        lost_m = lost[0] * self.most.sum(2, keepdims=True) + c * self.tiny
        lost_m = lost_m + self.tiny * v_most.sum(3, keepdims=True)
        fixed += _both(np.abs(at.matrix), lost_m) + lost[1]
        second = self.lam * gamma(c + in_turns + out_turns, u) * guaranteed
        return probable(guaranteed, fixed + second, self.lam * u, variance)

    def _coefficients(self, tiles: Array, total: Array) -> Array:
        """What rounded coefficients of BT and AT change, in units of ``u``.

        Each of them scales its terms of all channels alike: these sums are known.
        """
        at, bt = self.forms.at, self.forms.bt
        error = np.zeros(total.shape)
        rows, columns = _left(bt.matrix, tiles), _right(bt.matrix, tiles)
        for p, i in zip(*np.nonzero(bt.rounded), strict=True):
            error[p] += bt.rounded[p, i] * np.abs(columns[i] @ self.value[p])
            error[:, p] += bt.rounded[p, i] * np.abs(rows[:, i] @ self.value[:, p])
        rows, columns = _left(at.matrix, total), _right(at.matrix, total)
        return (
            _both(np.abs(at.matrix), error)
            + _left(at.rounded, np.abs(columns))
            + _right(at.rounded, np.abs(rows))
        )


class Form:
    """A matrix of linear combinations, and what evaluating them rounds.

    Attributes
    ----------
    matrix : ndarray
    terms : ndarray
        Coefficients that are not 0, by row.
    rounded : ndarray
        Absolute values of the coefficients that no binary number holds exactly. In rows with a
        fraction like 2/3 those are all but powers of two, since a factor may be pulled out.
    products : float
        Products that may underflow in two passes, weighted with their gain.
    """

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = np.array(matrix, np.float64)
        self.side = len(matrix[0])
        self.terms = np.count_nonzero(self.matrix, axis=1)
        scaled = np.frexp(np.abs(self.matrix))[0] > 0.5  # no power of two: products are rounded
        self.scaled = scaled.sum(axis=1)
        inexact = [any(c.denominator & (c.denominator - 1) for c in row) for row in matrix]
        self.rounded = np.abs(self.matrix) * scaled * np.array(inexact)[:, None]
        self.products = float(self.terms.max() * (1 + np.abs(self.matrix).sum(axis=1).max()))

    def roundings(self, block: Array, shared: int) -> tuple[Array, Array]:
        """Sums of the squares of what is rounded in ``matrix @ block @ matrix.T``, by its elements.

        Those of the first pass, down the columns, with the gain of the second, and those of the
        second pass.

        Parameters
        ----------
        block : ndarray
            What is transformed, exactly.
        shared : int
            How many elements of the result share a partial sum.
        """
        half = _left(self.matrix, block)
        first = self._pass(block, half, shared)
        last = self._pass(half.swapaxes(0, 1), _left(self.matrix, half.swapaxes(0, 1)), shared)
        return _right(self.matrix**2, first), last.swapaxes(0, 1)

    def _pass(self, block: Array, result: Array, shared: int) -> Array:
        """One pass: the result, partial sums, products of terms and of partial sums.

        A sum of ``z`` terms has ``z - 2`` partial sums; a factor of two terms or more may be
        applied to their sum. None of these is larger than the larger one of the sums of the
        positive and of the negative terms. By Cauchy's inequality a rounding that `shared` results
        have in common counts that often for each.
        """
        shape = (-1, *[1] * (block.ndim - 1))
        partial = np.maximum(self.terms - 2, 0) + self.scaled / 2
        most = (_left(np.abs(self.matrix), np.abs(block)) + np.abs(result)) / 2
        common = partial.reshape(shape) * most**2
        common += (self.scaled > 0).reshape(shape) * _left(self.matrix**2, block**2)
        own = (self.terms + self.scaled > 1).reshape(shape) * result**2
        return np.asarray(own + shared * common)


@dataclass(frozen=True)
class Forms:
    """``AT``, ``BT`` and ``G`` of one algorithm.

    ``kron`` (a * a, r * r) is the matrix of ``U`` in float64, ``kron_error`` its own error.
    """

    at: Form
    bt: Form
    g: Array
    kron: Array
    kron_error: Array


@cache
def forms(m: int, r: int, stride: int) -> Forms:
    """What depends on neither operand."""
    at, g, bt = algorithm(m, r, stride)
    rounded = np.array(g, np.float64)
    kron = np.asarray(np.kron(rounded, rounded), np.float64)
    exact = [[x * y for x in row for y in other] for row in g for other in g]
    error = [
        [float(Fraction(float(k)) - e) for k, e in zip(*rows, strict=True)]
        for rows in zip(kron, exact, strict=True)
    ]
    return Forms(Form(at), Form(bt), rounded, kron, np.array(error))


def _left(matrix: Array, block: Array) -> Array:
    """``matrix @ block`` over the first axis."""
    side, *rest = block.shape
    product = matrix @ block.reshape(side, math.prod(rest))
    return np.asarray(product.reshape(len(matrix), *rest))


def _right(matrix: Array, block: Array) -> Array:
    """``block @ matrix.T`` over the second axis."""
    return _left(matrix, block.swapaxes(0, 1)).swapaxes(0, 1)


def _both(matrix: Array, block: Array) -> Array:
    """``matrix @ block @ matrix.T`` over the first two axes."""
    return _right(matrix, _left(matrix, block))

"""Convolution in plain NumPy: nearly exact, and with every single operation rounded.

All numbers are float64, whatever they stand for: products and sums of float32 numbers that are
rounded twice, to float64 and then to float32, are those of float32.
"""

import numpy as np

from fastconv import cpu, plan_conv2d, shapes
from fastconv.cook_toom import algorithm


class Rounding:
    """The arithmetic of `dtype`, without fused multiply-add."""

    def __init__(self, dtype):
        self.dtype = dtype

    def rounded(self, values):
        """Result of an operation."""
        return np.asarray(values, self.dtype).astype(np.float64)

    scaled = rounded  # product with a power of two, exact unless it underflows

    def constant(self, fraction):
        return float(np.asarray(float(fraction), self.dtype))


class Model(Rounding):
    """Each rounding errs by exactly ``u``, up or down by chance: the model's worst case."""

    def __init__(self, seed):
        super().__init__("float32")
        self.rng = np.random.default_rng(seed)

    def rounded(self, values):
        return values * (1 + 2.0**-24 * self.rng.choice([-1, 1], values.shape))

    def scaled(self, values):
        return values


def kernel(x, w, bias, spec, name):
    """What the kernel of an algorithm computes; None where there is none for such a layer."""
    if all(row.name != name or row.supports(spec) for row in cpu.ALGORITHMS):
        return None
    plan = plan_conv2d(
        spec.x, w, bias, stride=spec.stride, padding=spec.pad, dilation=spec.dilation,
        algorithm=name,
    )  # fmt: skip
    return plan(x)


def windows(x, spec):
    """(n, oh, ow, kh, kw, c): the pixels that each output reads, in the dtype of `x`."""
    extents = [shapes.extent(taps, d) for taps, d in zip(spec.w[:2], spec.dilation, strict=True)]
    padded = np.pad(x, ((0, 0), *spec.pad, (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(padded, extents, (1, 2))
    view = view[
        :, :: spec.stride[0], :: spec.stride[1], :, :: spec.dilation[0], :: spec.dilation[1]
    ]
    return view.transpose(0, 1, 2, 4, 5, 3)


def exact(x, w, bias, spec):
    """Convolution of one group in a precision above that of the spec, if there is one."""
    kind = np.float64 if spec.dtype == "float32" else np.longdouble
    pixels = windows(np.asarray(x, kind), spec).reshape(-1, np.prod(spec.w[:3]))
    y = pixels @ np.asarray(w, kind).reshape(-1, spec.w[3])
    return y.reshape(spec.conv_out) + (0 if bias is None else bias)


def direct(x, w, bias, spec, arithmetic):
    """The bias, then all products in the order of rows, columns and channels."""
    pixels = windows(x.astype(np.float64), spec).reshape(-1, np.prod(spec.w[:3]))
    total = np.zeros((len(pixels), spec.w[3])) + bias
    for column, row in zip(pixels.T, w.reshape(-1, spec.w[3]).astype(np.float64), strict=True):
        total = arithmetic.rounded(total + arithmetic.rounded(np.multiply.outer(column, row)))
    return total.reshape(spec.conv_out)


def winograd(x, w, bias, spec, m, arithmetic, order=1):
    """F(m x m, r x r) of dense images, the channels in their order or backwards."""
    r, stride = spec.w[0], spec.stride[0]
    at, g, bt = algorithm(m, r, stride)
    a, step = len(bt), stride * m
    n, h, width, k = spec.conv_out
    c = spec.x[3]
    down, across = -(-h // m), -(-width // m)
    padded = np.zeros((n, step * (down - 1) + a, step * (across - 1) + a, c))
    (top, _), (left, _) = spec.pad
    part = padded[:, top : top + spec.x[1], left : left + spec.x[2]]
    part[...] = x[:, : part.shape[1], : part.shape[2]]
    tiles = np.lib.stride_tricks.sliding_window_view(padded, (a, a), (1, 2))[:, ::step, ::step]
    tiles = tiles.transpose(4, 5, 0, 1, 2, 3)

    g = np.array(g, np.float64)
    u = np.kron(g, g) @ w.reshape(r * r, c * k).astype(np.float64)
    u = arithmetic.rounded(u).reshape(a, a, 1, 1, 1, c, k)
    v = _both_sides(bt, tiles, arithmetic)
    total = np.zeros((*v.shape[:-1], k))
    for channel in range(c)[::order]:
        products = v[..., channel, None] * u[..., channel, :]
        total = arithmetic.rounded(total + arithmetic.rounded(products))
    y = arithmetic.rounded(_both_sides(at, total, arithmetic) + bias)
    return y.transpose(2, 3, 0, 4, 1, 5).reshape(n, m * down, m * across, k)[:, :h, :width]


def _both_sides(matrix, blocks, arithmetic):
    """``matrix @ block @ matrix.T`` over the first two axes, columns first."""
    half = multiply(matrix, blocks, arithmetic)
    return multiply(matrix, half.swapaxes(0, 1), arithmetic).swapaxes(0, 1)


def multiply(matrix, v, arithmetic):
    """``matrix @ v``. Rows that are equal in some columns, opposite in the others, share both."""
    out = {}
    for i, row in enumerate(matrix):
        if i in out:
            continue
        same = opposite = []
        for twin in range(i + 1, len(matrix)):
            pairs = list(zip(row, matrix[twin], strict=True))
            same = [j for j, (p, q) in enumerate(pairs) if p and p == q]
            opposite = [j for j, (p, q) in enumerate(pairs) if p and p == -q]
            if (
                same
                and opposite
                and len(same) + len(opposite) == sum(bool(p or q) for p, q in pairs)
            ):
                break
        else:
            out[i] = _combine([(p, v[j]) for j, p in enumerate(row)], arithmetic)
            continue
        lead = row[opposite[-1]]
        even = _combine([(row[j], v[j]) for j in same], arithmetic)
        odd = _combine([(row[j] / lead, v[j]) for j in opposite], arithmetic)
        odd = _product(lead, odd, arithmetic)
        out[i], out[twin] = arithmetic.rounded(even + odd), arithmetic.rounded(even - odd)
    return np.stack([out[i] for i in range(len(matrix))])


def _combine(terms, arithmetic):
    products = [_product(c, values, arithmetic) for c, values in terms if c]
    total = products[0]
    for product in products[1:]:
        total = arithmetic.rounded(total + product)
    return total


def _product(fraction, values, arithmetic):
    product = arithmetic.constant(fraction) * values
    exact = np.frexp(abs(float(fraction)))[0] == 0.5
    return arithmetic.scaled(product) if exact else arithmetic.rounded(product)

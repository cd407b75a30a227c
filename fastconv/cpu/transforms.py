"""Winograd's input and output transforms as vector code, and its weights.

F(m x m, r x r) computes an m x m tile of outputs from a = m + r - 1 by a inputs in a * a products
a channel pair instead of (m * r)**2: 36 instead of 144 for F(4x4, 3x3) (Lavin and Gray 2016,
"Fast algorithms for convolutional neural networks"). With one tile d, weights g::

    Y = AT [ (G g GT) * (BT d B) ] A

One vector holds 16 channels, so the transforms work on whole vectors, a tile's position at a time.
Larger tiles save more products and cost more accuracy: the error of F(2x2) is below that of direct
summation, F(4x4) has about twice and F(6x6) about eight times as much.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from fastconv.cook_toom import algorithm
from fastconv.cpu.simd import Emitter

Row = list[Fraction]


@cache
def matrices(m: int) -> tuple[list[Row], list[Row], list[Row]]:
    """AT (m x a), G (a x 3), BT (a x a) of F(m, 3), exact."""
    return algorithm(m, 3)


def transform_weights(w: np.ndarray, m: int) -> np.ndarray:
    """``U[a * a, c, k] = G w GT`` of w[3, 3, c, k], in float64."""
    g = np.array(matrices(m)[1], dtype=float)
    return np.kron(g, g) @ w.reshape(9, -1).astype(np.float64)


# ------------------------------------------------------------------- products with small matrices
def _combine(e: Emitter, terms: list[tuple[Fraction, Any]]) -> Any:
    """``sum(c * v)``; unit coefficients first, since they need no multiplication."""
    terms = sorted((t for t in terms if t[0]), key=lambda t: t[0] != 1)
    (first, total), rest = terms[0], terms[1:]
    if first != 1:
        total = e.ir.fmul(e.splat(float(first)), total)
    for c, v in rest:
        total = e.ir.fadd(total, v) if c == 1 else e.fma(e.splat(float(c)), v, total)
    return total


def _mirrored(a: Row, b: Row) -> bool:
    """Rows of points p and -p: equal in even columns, opposite in odd ones."""
    return all(x == y * (-1) ** n for n, (x, y) in enumerate(zip(a, b, strict=True)))


def _multiply_rows(e: Emitter, matrix: list[Row], v: list[Any]) -> list[Any]:
    """``matrix @ v``. Rows of +-p share their even and odd parts: E + p O and E - p O."""
    out: list[Any] = [None] * len(matrix)
    for i, row in enumerate(matrix):
        if out[i] is not None:
            continue
        twin = next((j for j in range(i + 1, len(matrix)) if _mirrored(row, matrix[j])), None)
        odd = [n for n in range(1, len(v), 2) if row[n]]
        if twin is None or not odd:
            out[i] = _combine(e, [(row[n], v[n]) for n in range(len(v))])
            continue
        even = _combine(e, [(row[n], v[n]) for n in range(0, len(v), 2)])
        lead = row[odd[-1]]
        rest = _combine(e, [(row[n] / lead, v[n]) for n in odd])
        out[i] = e.fma(e.splat(float(lead)), rest, even)
        out[twin] = e.fma(e.splat(float(-lead)), rest, even)
    return out


def _multiply_columns(e: Emitter, matrix: list[Row], v: list[Any]) -> list[Any]:
    """``matrix @ v`` where columns come in pairs of points +-p: sums and differences first."""
    columns = [list(c) for c in zip(*matrix, strict=True)]
    terms: list[tuple[Row, Any]] = []
    done: set[int] = set()
    for i, column in enumerate(columns):
        if i in done:
            continue
        twin = next((j for j in range(i + 1, len(columns)) if _mirrored(column, columns[j])), None)
        if twin is None or not any(column[1::2]):
            terms.append((column, v[i]))
            continue
        done.add(twin)
        zero = Fraction(0)
        even = [c if n % 2 == 0 else zero for n, c in enumerate(column)]
        odd = [c if n % 2 else zero for n, c in enumerate(column)]
        terms += [(even, e.ir.fadd(v[i], v[twin])), (odd, e.ir.fsub(v[i], v[twin]))]
    return [_combine(e, [(c[r], value) for c, value in terms]) for r in range(len(matrix))]


# ------------------------------------------------------------------------------------- kernels
def winograd_input(
    kernel: Any, e: Emitter, source: Any, pixel: Any, line: Any, groups: Any, target: Any,
    product: Any, group: Any,
) -> None:  # fmt: skip
    """BT d B of one tile: a x a pixels at `source`, strides `pixel` and `line`, to `target`.

    Works on `groups` vectors of channels; product xi of vector i goes to
    ``target + xi * product + i * group``. Prefetches two tiles ahead (11 -> 6 ms on 64 channels
    at 500 x 500).
    """
    m = kernel.mr
    reach, bt = m + 2, matrices(m)[2]
    with e.loop(groups) as i:
        start = e.add(source, e.mul(i, e.bytes))
        ahead = e.add(start, e.mul(pixel, 2 + 2 * m))
        for x in range(m):
            column = e.add(ahead, e.mul(pixel, x))
            for y in range(reach):
                e.prefetch(e.add(column, e.mul(line, y)))
        columns = []
        for x in range(reach):
            at = e.add(start, e.mul(pixel, x))
            d = [e.load(e.add(at, e.mul(line, y))) for y in range(reach)]
            columns.append(_multiply_rows(e, bt, d))
        to = e.add(target, e.mul(i, group))
        for y in range(reach):
            for x, value in enumerate(_multiply_rows(e, bt, [c[y] for c in columns])):
                e.store(value, e.add(to, e.mul(product, y * reach + x)))


def _output_tile(e: Emitter, m: int, source: Any, product: Any) -> list[list[Any]]:
    """AT M A of one tile and one vector of channels."""
    reach, at = m + 2, matrices(m)[0]
    columns = []
    for x in range(reach):
        column = [e.load(e.add(source, e.mul(product, y * reach + x))) for y in range(reach)]
        columns.append(_multiply_columns(e, at, column))
    return [_multiply_columns(e, at, [c[y] for c in columns]) for y in range(m)]


def _output(
    e: Emitter, m: int, source: Any, product: Any, target: Any, pixel: Any, line: Any, bias: Any,
    clamp: Any, vectors: Any, *, pool: bool = False, streaming: bool = False,
) -> None:  # fmt: skip
    low, upper = e.load_splat(clamp), e.add(clamp, e.itemsize)

    def transform(limit: Callable[[Any], Any]) -> None:
        with e.loop(e.mul(vectors, e.bytes), e.bytes) as offset:
            tile = _output_tile(e, m, e.add(source, offset), product)
            b = e.load(e.add(bias, offset))
            if pool:
                tile = [
                    [
                        e.maximum(*(tile[y + i][x + j] for i in (0, 1) for j in (0, 1)))
                        for x in range(0, m, 2)
                    ]
                    for y in range(0, m, 2)
                ]
            for y, row in enumerate(tile):
                to = e.add(e.add(target, offset), e.mul(line, y))
                for x, value in enumerate(row):
                    limited = limit(e.ir.fadd(value, b))
                    e.store(limited, e.add(to, e.mul(pixel, x)), streaming)

    with e.ir.if_else(e.is_finite(upper)) as (both_ends, lower_end):
        with both_ends:
            high = e.load_splat(upper)
            transform(lambda x: e.clamp(x, low, high))
        with lower_end:  # nearly always, and 2 % of the whole layer for few channels
            transform(lambda x: e.at_least(x, low))


def winograd_output(kernel: Any, e: Emitter, *args: Any) -> None:
    """AT M A + bias, clamped: m x m pixels to `target`, strides `pixel` and `line`.

    Arguments: source, product, target, pixel, line, bias, clamp, vectors (of channels).
    """
    _output(e, kernel.mr, *args)


def winograd_output_stream(kernel: Any, e: Emitter, *args: Any) -> None:
    """As `winograd_output`, past the caches: for outputs that do not fit there (31 -> 26 ms)."""
    _output(e, kernel.mr, *args, streaming=True)


def winograd_output_pool(kernel: Any, e: Emitter, *args: Any) -> None:
    """As `winograd_output` with a 2x2 maximum: m/2 x m/2 pixels."""
    _output(e, kernel.mr, *args, pool=True)

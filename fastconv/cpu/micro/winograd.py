"""Winograd's input and output transforms as vector code.

F(m x m, r x r) with stride s computes an m x m tile of outputs from a = s * (m - 1) + r by a inputs
in a * a products a channel pair instead of (m * r)**2: 36 instead of 144 for F(4x4, 3x3) (Lavin and
Gray 2016, "Fast algorithms for convolutional neural networks"). With one tile d, weights g::

    Y = AT [ (G g GT) * (BT d B) ] A

Vectors hold channels, so the transforms work on whole vectors, a tile's position at a time. Larger
tiles save more products and cost more accuracy: the error of F(2x2, 3x3) is below that of direct
summation, F(4x4, 3x3) has about twice and F(6x6, 3x3) about eight times as much.

What did not help: columns for two rows of BT at a time, which spills half as much and reads twice
(AVX-512: nothing; AVX2: 3 % slower). V and M lie in the L2, and that is what transforms wait for.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from fastconv.cook_toom import algorithm
from fastconv.cpu.simd import Emitter

Row = list[Fraction]
FEW = 4  # input channels whose products stay in registers
FEW_TILES = {(3, 1): (4,), (7, 2): (4,)}  # (taps, stride) -> sizes m of their tiles


# ------------------------------------------------------------------- products with small matrices
def _combine(e: Emitter, terms: list[tuple[Fraction, Any]], total: Any = None) -> Any:
    """``total + sum(c * v)``; unit coefficients first, since they need no multiplication."""
    terms = sorted((t for t in terms if t[0]), key=lambda t: t[0] != 1)
    if total is None:
        (first, total), *terms = terms
        if first != 1:
            total = e.ir.fmul(e.splat(float(first)), total)
    for c, v in terms:
        total = e.ir.fadd(total, v) if c == 1 else e.fma(e.splat(float(c)), v, total)
    return total


def _parts(a: Row, b: Row) -> tuple[list[int], list[int]] | None:
    """Columns where two rows are equal, and where they are opposite; None if anything else."""
    same = [n for n, (x, y) in enumerate(zip(a, b, strict=True)) if x and x == y]
    opposite = [n for n, (x, y) in enumerate(zip(a, b, strict=True)) if x and x == -y]
    complete = len(same) + len(opposite) == sum(bool(x or y) for x, y in zip(a, b, strict=True))
    return (same, opposite) if same and opposite and complete else None


def _multiply_rows(e: Emitter, matrix: list[Row], v: list[Any]) -> list[Any]:
    """``matrix @ v``. Rows of points +-p share two parts: E + p O and E - p O."""
    out: list[Any] = [None] * len(matrix)
    for i, row in enumerate(matrix):
        if out[i] is not None:
            continue
        twin, parts = next(
            ((j, p) for j in range(i + 1, len(matrix)) if (p := _parts(row, matrix[j]))), (i, None)
        )
        if parts is None:
            out[i] = _combine(e, [(row[n], v[n]) for n in range(len(v))])
            continue
        same, opposite = parts
        even = _combine(e, [(row[n], v[n]) for n in same])
        lead = row[opposite[-1]]
        rest = _combine(e, [(row[n] / lead, v[n]) for n in opposite])
        out[i] = e.fma(e.splat(float(lead)), rest, even)
        out[twin] = e.fma(e.splat(float(-lead)), rest, even)
    return out


def _groups(matrix: list[Row]) -> list[tuple[list[int], list[Row]]]:
    """Columns in groups: a pair of points +-p with its two parts, or one column.

    The parts belong to the sum and to the difference of what the pair is multiplied with.
    """
    columns = [list(c) for c in zip(*matrix, strict=True)]
    found: list[tuple[list[int], list[Row]]] = []
    done: set[int] = set()
    for i, column in enumerate(columns):
        if i in done:
            continue
        twin, parts = next(
            ((j, p) for j in range(i + 1, len(columns)) if (p := _parts(column, columns[j]))),
            (i, None),
        )
        if parts is None:
            found.append(([i], [column]))
            continue
        done.add(twin)
        halves = [[c if n in rows else Fraction(0) for n, c in enumerate(column)] for rows in parts]
        found.append(([i, twin], halves))
    return found


def _grouped(e: Emitter, values: list[Any]) -> list[Any]:
    """What the columns of a group are multiplied with."""
    if len(values) == 1:
        return values
    return [e.ir.fadd(*values), e.ir.fsub(*values)]


def _multiply_columns(e: Emitter, matrix: list[Row], v: list[Any]) -> list[Any]:
    """``matrix @ v`` where columns come in pairs of points +-p: sums and differences first."""
    terms: list[tuple[Row, Any]] = []
    for indices, columns in _groups(matrix):
        terms += zip(columns, _grouped(e, [v[i] for i in indices]), strict=True)
    return [_combine(e, [(c[r], value) for c, value in terms]) for r in range(len(matrix))]


# ------------------------------------------------------------------------------------- kernels
def forward(
    kernel: Any, e: Emitter, source: Any, pixel: Any, line: Any, channels: Any, target: Any,
    product: Any, group: Any,
) -> None:  # fmt: skip
    """BT d B of one tile: a x a pixels at `source`, strides `pixel` and `line`, to `target`.

    Product xi of channel c goes to ``target + xi * product + c // whole * group``, lane c % whole,
    where a whole vector of `whole` channels is transformed in `kernel.split` parts; the rest of the
    last part that holds a channel is zero. Prefetches two tiles ahead (11 -> 6 ms on 64 channels at
    500 x 500).
    """
    m, stride = kernel.mr, kernel.stride
    bt = algorithm(m, kernel.taps, stride)[2]
    reach, whole = len(bt), kernel.split * e.lanes

    def part(first: Any, to: Any, mask: Any) -> None:
        columns = []
        for pixels in e.grid(first, pixel, line, reach, reach):
            d = [e.load_stored(at, mask) for at in pixels]
            columns.append(_multiply_rows(e, bt, d))
        for y, row in enumerate(e.grid(to, e.mul(product, reach), product, reach, reach)):
            for at, value in zip(row, _multiply_rows(e, bt, [c[y] for c in columns]), strict=True):
                e.store(value, at)

    with e.loop(e.ir.sdiv(channels, e.const(whole))) as i:
        first = e.add(source, e.stored(e.mul(i, whole * e.itemsize)))
        ahead = e.add(first, e.mul(pixel, reach + stride * m))
        for x in range(stride * m):
            column = e.add(ahead, e.mul(pixel, x))
            for y in range(reach):
                e.prefetch(e.add(column, e.mul(line, y)))
        with e.loop(whole * e.itemsize, e.bytes) as offset:
            to = e.add(e.add(target, e.mul(i, group)), offset)
            part(e.add(first, e.stored(offset)), to, None)
    done = e.ir.and_(channels, e.const(-whole))
    last = e.add(target, e.mul(e.ir.sdiv(channels, e.const(whole)), group))
    with e.loop(e.ir.sub(channels, done), e.lanes) as lane:
        first = e.add(source, e.stored(e.mul(e.add(done, lane), e.itemsize)))
        left = e.ir.sub(e.ir.sub(channels, done), lane)
        part(first, e.add(last, e.mul(lane, e.itemsize)), e.mask(left))


def _output_tile(e: Emitter, at: list[Row], source: Any, product: Any) -> list[list[Any]]:
    """AT M A of one tile and one vector of channels."""
    m, reach = len(at), len(at[0])
    products = e.grid(source, e.mul(product, reach), product, reach, reach)
    columns = [_multiply_columns(e, at, [e.load(row[x]) for row in products]) for x in range(reach)]
    return [_multiply_columns(e, at, [c[y] for c in columns]) for y in range(m)]


def _few_tile(e: Emitter, at: list[Row], u: Any, v: Any, channels: int) -> list[list[Any]]:
    """AT (U * V) A of one tile with few input channels, whose products stay in registers.

    U[x][channel][y] are vectors from `u` on, V[y][x][FEW channels] numbers from `v` on. Products
    are transformed, and added to the outputs, as soon as they are made: all would not fit. A loop
    over the channels costs 20 % more.
    """
    m, reach = len(at), len(at[0])
    groups = _groups(at)

    def product(x: int, y: int) -> Any:
        total = None
        for c in range(channels):
            weights = e.load(e.add(u, ((x * channels + c) * reach + y) * e.bytes))
            number = e.load_splat(e.add(v, ((y * reach + x) * FEW + c) * e.itemsize))
            total = e.fma(weights, number, total) if c else e.ir.fmul(weights, number)
        return total

    def add(values: list[Any], columns: list[Row], to: list[Any]) -> None:
        """Add what a group of columns is multiplied with to the sums of the rows."""
        for factors, value in zip(columns, _grouped(e, values), strict=True):
            for i, factor in enumerate(factors):
                if factor:
                    to[i] = _combine(e, [(factor, value)], to[i])

    def transformed(x: int) -> list[Any]:
        column: list[Any] = [None] * m
        for indices, columns in groups:
            add([product(x, y) for y in indices], columns, column)
        return column

    tile: list[list[Any]] = [[None] * m for _ in range(m)]
    for indices, columns in groups:
        made = [transformed(x) for x in indices]
        for y, row in enumerate(tile):
            add([p[y] for p in made], columns, row)
    return tile


def inverse(
    kernel: Any, e: Emitter, source: Any, product: Any, panel: Any, panels: Any, columns: Any,
    target: Any, pixel: Any, line: Any, bias: Any, clamp: Any, tiles: Any, source_step: Any,
    target_step: Any,
) -> None:  # fmt: skip
    """AT M A + bias, clamped: m x m pixels to `target`, strides `pixel` and `line`.

    The channels are `panels` panels of `columns` bytes, one vector at least. Those of product xi in
    panel p are at ``source + xi * product + p * panel``; side by side in the target and the bias.
    `tiles` tiles follow each other at these steps: a call for each takes 5 % of narrow layers. Kind
    "pool" takes the 2x2 maximum, m/2 x m/2 pixels; "stream" writes past the caches, for outputs
    that do not fit there (31 -> 26 ms). Kinds "few" make the products, too: of the weights of panel
    p at ``source + p * panel``, one vector wide, and of V at `product`, which moves on by the step
    of the source.
    """
    m = kernel.mr
    at = algorithm(m, kernel.taps, kernel.stride)[0]
    low, upper = e.load_splat(clamp), e.add(clamp, e.itemsize)
    last = e.add(columns, -e.bytes)
    few, streaming = "few" in kernel.kind, kernel.kind.endswith("stream")

    def transform(limit: Callable[[Any], Any]) -> None:
        with e.loop(tiles) as t, e.loop(panels) as p, e.loop(columns, e.bytes) as next_column:
            column = e.ir.select(e.ir.icmp_signed("<", next_column, last), next_column, last)
            offset, ahead = e.add(e.mul(p, columns), column), e.mul(t, source_step)
            first = e.add(e.add(source, e.mul(p, panel)), column)
            if few:
                tile = _few_tile(e, at, first, e.add(product, ahead), kernel.depth)
            else:
                tile = _output_tile(e, at, e.add(first, ahead), product)
            b = e.load(e.add(bias, offset))
            if kernel.kind.endswith("pool"):
                tile = [
                    [
                        e.maximum(*(tile[y + i][x + j] for i in (0, 1) for j in (0, 1)))
                        for x in range(0, m, 2)
                    ]
                    for y in range(0, m, 2)
                ]
            for y, row in enumerate(tile):
                to = e.add(e.add(e.add(target, e.mul(t, target_step)), offset), e.mul(line, y))
                for x, value in enumerate(row):
                    limited = limit(e.ir.fadd(value, b))
                    e.store(limited, e.add(to, e.mul(pixel, x)), streaming)

    with e.ir.if_else(e.is_finite(upper)) as (both_ends, lower_end):
        with both_ends:
            high = e.load_splat(upper)
            transform(lambda x: e.clamp(x, low, high))
        with lower_end:  # nearly always, and 2 % of the whole layer for few channels
            transform(lambda x: e.at_least(x, low))

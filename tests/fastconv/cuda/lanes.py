"""Runs CUDA kernels without a GPU: each variable is a vector of what the threads of a block hold.

The Python function of a kernel is run once for each block, with `Block` in place of `numba.cuda`
and its methods in place of the functions of `fastconv.cuda.ptx`, which they model as the PTX manual
describes them. So a kernel may branch only where all threads of a block go the same way.

What a GPU would not tell is an error here: an access outside of an array or at a misaligned
address, an output that is written twice, and shared memory that one warp reads and another writes
without a barrier between them. So are accesses of shared memory that meet in a bank, which is slow.
"""

import functools
import math
import types

import numba.cuda
import numpy as np

from fastconv.cuda import ptx
from tests.fastconv.cuda import hopper, tma
from tests.fastconv.cuda.hopper import F32, NOBODY, SEVERAL, FaultError

ALIGNED = 16  # bytes: of arrays, as an allocator gives them


class Block(tma.Copies):
    """One block of threads: what `numba.cuda` and `ptx` offer to a kernel."""

    def __init__(self, index, threads, written, dynamic=0, late=True):
        super().__init__()
        lanes = np.arange(threads, dtype=np.int32)
        self.threads, self.late = threads, late
        self.warps = lanes // 32
        self.threadIdx = types.SimpleNamespace(x=lanes)
        self.blockIdx = types.SimpleNamespace(**dict(zip("xyz", map(np.int32, index), strict=True)))
        self.shared = types.SimpleNamespace(array=self._shared)
        self._dynamic = dynamic
        self._written = written
        self._tiles = {}  # shared arrays: bytes' last writers and readers since the last barrier
        self._open, self._groups = [], []  # asynchronous copies

    def _shared(self, shape, dtype, alignment):
        kind = np.dtype(str(dtype))
        tile = np.full(shape or self._dynamic // kind.itemsize, np.nan).astype(kind)
        self._tiles[id(tile)] = [np.full(tile.size, NOBODY, np.int16) for _ in range(2)], tile
        self._watch(tile, alignment)
        return tile

    def syncthreads(self):
        for owners, _ in self._tiles.values():
            for owner in owners:
                owner[:] = NOBODY
        self._meet()

    # Accesses.

    def _lanes(self, value, dtype=None):
        return np.broadcast_to(np.asarray(value, dtype), (self.threads,))

    def _where(self, array, index, count, on=True):
        """Elements that the active lanes access, (lanes, count), and those lanes."""
        on = np.flatnonzero(self._lanes(on))
        first = self._lanes(index)[on].astype(np.int64)
        if len(first) and (first.min() < 0 or first.max() + count > array.size):
            raise FaultError(f"elements {first.min()} to {first.max() + count - 1} of {array.size}")
        size = count * array.itemsize
        if (first * array.itemsize % min(size, ALIGNED)).any():
            raise FaultError(f"access of {size} bytes at a misaligned address")
        return first[:, None] + np.arange(count), on

    def _read(self, array, index, count, on=True):
        where, lanes = self._where(array, index, count, on)
        if id(array) in self._tiles:
            self._race(array, where, lanes, writes=False)
        values = np.zeros((self.threads, count), array.dtype)
        values[lanes] = array[where]
        return values

    def _write(self, array, index, values, on=True):
        where, lanes = self._where(array, index, values.shape[1], on)
        if id(array) in self._tiles:
            self._race(array, where, lanes, writes=True)
        else:
            taken = self._written.setdefault(id(array), np.zeros(array.size, bool))
            if taken[where].any() or len(np.unique(where)) < where.size:
                raise FaultError("an output is written twice")
            taken[where] = True
        array[where] = values[lanes]

    def _race(self, array, where, lanes, writes):
        if meeting(where[:, 0].tobytes(), where.shape[1]) > 1:
            raise FaultError("accesses of shared memory meet in a bank")
        (writer, reader), _ = self._tiles[id(array)]
        warp = np.broadcast_to(self.warps[lanes][:, None], where.shape)
        others = [writer, reader] if writes else [writer]
        if any(((o[where] != NOBODY) & (o[where] != warp)).any() for o in others):
            raise FaultError("race: two warps use the same shared memory without a barrier")
        if writes:
            writer[where] = warp
            self._wrote(array, where, hopper.ARRIVED)
        else:
            before = reader[where]
            reader[where] = np.where((before == NOBODY) | (before == warp), warp, SEVERAL)

    # Memory.

    def load1(self, array, index, predicate):
        return _to_float(self._read(array, index, 1, predicate))[:, 0]

    def load4(self, array, index, predicate):
        return tuple(_to_float(self._read(array, index, 4, predicate)).T)

    def load8(self, array, index, predicate):
        return tuple(_to_float(self._read(array, index, 8, predicate)).T)

    def load_entry(self, table, index):
        return tuple(self._read(table, index, 4).T)

    def load_int(self, table, index):
        values = self._read(table, index, 1)[:, 0]
        return values[0] if np.ndim(index) == 0 else values

    def store1(self, array, index, value, predicate):
        self._write(array, index, _from_float(self._lanes(value)[:, None], array), predicate)

    def store4(self, array, index, values, predicate):
        self._write(array, index, _from_float(self._stack(values), array), predicate)

    def store8(self, array, index, values, predicate):
        self._write(array, index, _from_float(self._stack(values), array), predicate)

    def store_int(self, array, index, value, predicate):
        self._write(array, index, self._lanes(value)[:, None].astype(array.dtype), predicate)

    def load_shared(self, array, index):
        return self._read(array, index, 1)[:, 0]

    def load_shared4(self, array, index):
        return tuple(self._read(array, index, 4).T)

    def store_shared(self, array, index, value):
        self._write(array, index, self._lanes(value)[:, None])

    def store_shared2(self, array, index, values):
        self._write(array, index, self._stack(values))

    def store_shared4(self, array, index, values, predicate):
        self._write(array, index, self._stack(values), predicate)

    def _stack(self, values):
        return np.stack([self._lanes(v) for v in values], axis=1)

    # Asynchronous copies and tensor cores. Words are what shared memory holds, whatever they mean.

    def copy16(self, shared, to, array, index, predicate):
        count = 16 // array.itemsize
        where, lanes = self._where(shared, to, 4)
        self._race(shared, where, lanes, writes=True)
        self._wrote(shared, where, hopper.COPYING)
        values = self._read(array, index, count, predicate)
        copy = shared, where, np.ascontiguousarray(values).view(F32)
        self._open.append(copy)
        if not self.late:
            shared[where] = copy[2]

    def close_group(self):
        self._groups.append(self._open)
        self._open = []

    def wait_groups(self, newest):
        while len(self._groups) > newest:
            for shared, where, values in self._groups.pop(0):
                self._wrote(shared, where, hopper.ARRIVED)
                if self.late:
                    shared[where] = values

    def matrices(self, shared, index):
        return self._matrices(shared, index, (0, 1, 2, 3))

    def matrices_transposed(self, shared, index):
        return self._matrices(shared, index, (0, 1, 3, 2))

    def _matrices(self, shared, index, axes):
        rows = np.ascontiguousarray(self._read(shared, index, 4)).view(np.uint16)
        matrices = rows.reshape(-1, 4, 8, 8).transpose(axes)  # of each warp, 4 of 8 rows
        words = np.ascontiguousarray(matrices).view(np.uint32)  # lane 4 * row + word
        return tuple(words.reshape(-1, 4, 32).transpose(1, 0, 2).reshape(4, -1))

    def multiply_tf32(self, sums, a, b):
        return self._multiply(
            sums, a, b, lambda w: (w & np.uint32(0xFFFFE000)).view(F32)[..., None]
        )

    def multiply_f16(self, sums, a, b):
        return self._multiply(sums, a, b, lambda w: _halves(w).view(np.float16).astype(F32))

    def multiply_bf16(self, sums, a, b):
        return self._multiply(sums, a, b, lambda w: _to_float(_halves(w)))

    def _multiply(self, sums, a, b, numbers):
        """Fragments of 16 x d, d x 8 and 16 x 8 numbers, where lane 4 g + t holds, of

        a: rows g and g + 8 of words t, then both of words t + 4; b: words t and t + 4 of column g;
        c: row g of columns 2 t and 2 t + 1, then row g + 8.
        """
        left = numbers(self._fragments(a, 4)).reshape(
            len(a) // 4, 2, 2, -1, 8, 4, numbers(a[0]).shape[-1]
        )
        # tile, half of depth, half of rows, warp, g, t, number -> tile, warp, row, depth
        left = left.transpose(0, 3, 2, 4, 1, 5, 6).reshape(len(a) // 4, left.shape[3], 16, -1)
        right = numbers(self._fragments(b, 2)).reshape(
            len(b) // 2, 2, -1, 8, 4, numbers(b[0]).shape[-1]
        )
        right = right.transpose(0, 2, 1, 4, 5, 3).reshape(len(b) // 2, right.shape[2], -1, 8)
        made = left[:, None].astype(np.float64) @ right[None]  # down, across, warp, 16, 8
        made = made.reshape(*made.shape[:3], 2, 8, 4, 2).transpose(0, 1, 3, 6, 2, 4, 5)
        return tuple((np.stack(sums) + made.reshape(len(sums), -1)).astype(F32))

    def _fragments(self, words, count):
        return (
            np.stack([self._lanes(w) for w in words])
            .view(np.uint32)
            .reshape(-1, count, self.threads)
        )

    def round_tf32(self, numbers):
        """Halves away from zero; the bits that a TF32 number lacks may be anything."""
        words = [_words(v) for v in numbers]
        return tuple(np.where(np.isfinite(w.view(F32)), w + np.uint32(0x1000), w) for w in words)

    def split_tf32(self, numbers):
        high = tuple(w & np.uint32(0xFFFFE000) for w in self.round_tf32(numbers))
        low = tuple(
            (_words(v).view(F32) - h.view(F32)).view(np.uint32)
            for v, h in zip(numbers, high, strict=True)
        )
        return high, low

    # Arithmetic.

    def udivmod(self, a, b):
        return np.int32(a // b), np.int32(a % b)

    def select(self, predicate, yes, no):
        if isinstance(yes, tuple):
            return tuple(np.where(predicate, a, b) for a, b in zip(yes, no, strict=True))
        return np.where(predicate, yes, no)

    def largest(self, a, b):
        return tuple(map(np.maximum, a, b)) if isinstance(a, tuple) else np.maximum(a, b)

    def smallest(self, a, b):
        return tuple(map(np.minimum, a, b)) if isinstance(a, tuple) else np.minimum(a, b)

    def again(self, value):
        return value

    def partner(self, value, mask):
        lanes = np.arange(self.threads)
        return self._lanes(value)[lanes ^ mask]

    # Register tiles.

    def splat(self, count, value):
        return tuple(np.full((count, self.threads), value, F32))

    def fma_outer(self, sums, a, b):
        products = np.stack(a)[:, None] * np.stack(b)[None]
        return tuple(np.stack(sums) + products.reshape(-1, self.threads))

    def unroll(self, count, body, state, *arguments):
        for i in range(count):
            state = body(i, state, *arguments)
        return state


@functools.cache
def meeting(words, count):
    """Most accesses in a bank: the lanes, each of `count` words, that take 32 words together."""
    words, together, most = np.frombuffer(words, np.int64), 32 // count, 1
    for first in range(0, len(words), together):
        different = np.unique(words[first : first + together]) // count
        most = max(most, np.bincount(different % together).max())
    return most


def _words(values):
    return np.ascontiguousarray(values).view(np.uint32)


def _halves(words):
    """The two 16-bit numbers of each word, the low one first, on a new last axis."""
    return np.ascontiguousarray(words)[..., None].view(np.uint16)


def _to_float(values):
    """Stored numbers as floats; uint16 holds bfloat16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(F32)
    return values.astype(F32)


def _from_float(values, array):
    values = np.ascontiguousarray(values, F32)
    if array.dtype == np.uint16:
        return bfloat16_bits(values)
    with np.errstate(over="ignore"):
        return values.astype(array.dtype)


def bfloat16_bits(values):
    """Round to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, F32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)


FUNCTIONS = {
    id(f): name for name, f in vars(ptx).items() if isinstance(f, numba.cuda.extending._Intrinsic)
}


def _of_lanes(function):
    """A function of `math` for vectors, rounded once to their type."""
    vector = np.vectorize(function, otypes=[np.float64])
    return lambda values: vector(values).astype(values.dtype)


def _exp(value):
    return math.inf if value > 709 else math.exp(value)


MATH = types.SimpleNamespace(
    inf=math.inf, sqrt=math.sqrt, exp=_of_lanes(_exp), expm1=_of_lanes(math.expm1),
    tanh=_of_lanes(math.tanh), erfc=_of_lanes(math.erfc),
)  # fmt: skip


def _bind(value, block, bound):
    """A global or closed-over object of a kernel as the block's."""
    if value is numba.cuda:
        return block
    if value is math:
        return MATH
    if id(value) in FUNCTIONS:
        return getattr(block, FUNCTIONS[id(value)])
    function = getattr(value, "py_func", None)
    return value if function is None else _copy(function, block, bound)


def _copy(function, block, bound):
    """A function with the same code whose globals are the block's."""
    if function not in bound:
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        names = {}
        bound[function] = types.FunctionType(
            function.__code__, names, function.__name__, function.__defaults__, cells
        )
        used = set(function.__code__.co_names)
        for name, value in function.__globals__.items():
            if name in used:
                names[name] = _bind(value, block, bound)
        names["__builtins__"] = __builtins__
        for cell, original in zip(cells, function.__closure__ or (), strict=True):
            cell.cell_contents = _bind(original.cell_contents, block, bound)
    return bound[function]


def launch(function, grid, threads, arguments, dynamic=0, late=True, block=Block):
    """Run a kernel on flat arrays and numbers.

    `late` says when asynchronous copies arrive: when they are waited for, or at once.
    """
    written = {}
    flat = [a.reshape(-1) if isinstance(a, np.ndarray) else a for a in arguments]
    with np.errstate(over="ignore", invalid="ignore"):
        for z, y, x in np.ndindex(*grid[::-1]):
            one = block((x, y, z), threads, written, dynamic, late)
            _copy(function, one, {})(*flat)

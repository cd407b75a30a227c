"""Products of warpgroups, as the PTX manual describes them, for simulated threads.

They read shared memory through a proxy of their own, and while they are in flight nobody may write
what they read, nor read their sums. The simulator keeps for each word how far what was written is
on its way to that proxy: copied or stored by a thread, fenced by it, and behind a barrier.
"""

import functools

import numpy as np

F32 = np.float32
NOBODY, SEVERAL = -1, -2  # warps that used a word
VISIBLE, FENCED, ARRIVED, COPYING = range(4)  # to products; after a fence; to threads; on its way
WARPGROUP = 128


class FaultError(AssertionError):
    """What a kernel must not do."""


class InFlight:
    """Sums that products still add to."""

    def __init__(self, sums):
        self.sums = sums

    def __getitem__(self, i):
        raise FaultError("sums are read while products add to them")


class Warpgroups:
    """What a block does for products of warpgroups; it has `threads`, `late` and `_tiles`."""

    def __init__(self):
        self._states, self._base, self._dynamic_tile = {}, 0, None
        self._may_begin = False
        self._begun, self._product_groups = [], []  # products: what they do, and what they read

    # Where writes are on their way.

    def _watch(self, tile, alignment):
        """A shared array; the first one is at the least address that its alignment allows."""
        self._states[id(tile)] = np.full(tile.size, VISIBLE, np.int8)
        if self._dynamic_tile is None:
            self._dynamic_tile, self._base = tile, alignment

    def _wrote(self, tile, where, state):
        self._states[id(tile)][where] = state

    def fence_writes(self):
        for states in self._states.values():
            states[states == ARRIVED] = FENCED

    def _meet(self):
        """At a barrier."""
        for states in self._states.values():
            states[states == FENCED] = VISIBLE
        for _, words in sum(self._product_groups, self._begun):
            self._busy(words)

    def _busy(self, words):
        """Products are reading: nobody may write."""
        (_, reader), _ = self._tiles[id(self._dynamic_tile)]
        reader[words] = SEVERAL

    # Products.

    def rows_at(self, shared, index):
        address = np.asarray(index, np.int64) * shared.itemsize + self._base
        return (address >> 4 & 0x3FFF) | 1 << 16 | 1024 >> 4 << 32 | 1 << 62

    def open_products(self):
        self._may_begin = True

    def close_products(self):
        self._product_groups.append(self._begun)
        self._begun, self._may_begin = [], False

    def wait_products(self, newest):
        while len(self._product_groups) > newest:
            for act, _ in self._product_groups.pop(0):
                act()

    def finish_products(self, sums):
        self.wait_products(0)
        return tuple(sums.sums) if isinstance(sums, InFlight) else sums

    def multiply_rows_f16(self, sums, a, b):
        return self._multiply_rows(sums, a, b, lambda w: w.view(np.float16).astype(F32))

    def multiply_rows_bf16(self, sums, a, b):
        return self._multiply_rows(
            sums, a, b, lambda w: (w.view(np.uint16).astype(np.uint32) << 16).view(F32)
        )

    def _multiply_rows(self, sums, a, b, numbers):
        if not self._may_begin:
            raise FaultError("products begin without a fence of the registers")
        made = sums.sums if isinstance(sums, InFlight) else np.stack(sums)
        for first in range(0, self.threads, WARPGROUP):
            lanes = slice(first, first + WARPGROUP)
            left = self._operand(a, lanes, 64)
            right = self._operand(b, lanes, 2 * len(made))
            act = functools.partial(self._add, made, lanes, left, right, numbers)
            words = np.concatenate([left, right])
            self._begun.append((act, words))
            self._busy(words)
            if not self.late:
                act()
                self._begun[-1] = (lambda: None), words
        return InFlight(made)

    def _operand(self, descriptors, lanes, rows):
        """Words of an operand, (rows, 32)."""
        given = np.unique(np.broadcast_to(descriptors, (self.threads,))[lanes])
        if len(given) != 1:
            raise FaultError("threads of a warpgroup give different descriptors")
        words = decode(int(given[0]), rows) - self._base // 4
        if words.min() < 0 or words.max() >= self._dynamic_tile.size:
            raise FaultError(f"words {words.min()} to {words.max()} of {self._dynamic_tile.size}")
        if (self._states[id(self._dynamic_tile)][words] != VISIBLE).any():
            raise FaultError("products read what was not waited for, fenced and behind a barrier")
        return words

    def _add(self, sums, lanes, left, right, numbers):
        """Sum 4 j + 2 h + e of lane 4 g + i of warp w: row 16 w + 8 h + g, column 8 j + 2 i + e."""
        a, b = (numbers(self._dynamic_tile[w]).astype(np.float64) for w in (left, right))
        for first in range(0, 64, 16):  # of the depth: one instruction
            part = slice(first, first + 16)
            made = (a[:, part] @ b[:, part].T).reshape(4, 2, 8, -1, 4, 2)  # w, h, g, j, i, e
            made = made.transpose(3, 1, 5, 0, 2, 4).reshape(len(sums), WARPGROUP)
            sums[:, lanes] = (sums[:, lanes] + made).astype(F32)


@functools.cache
def decode(descriptor, rows):
    """Words, by their addresses, of an operand."""
    start, apart = ((descriptor >> bit & 0x3FFF) << 4 for bit in (0, 32))
    if descriptor >> 62 != 1 or descriptor >> 49 & 7:
        raise FaultError("this swizzle is not modelled")
    return swizzled(start, rows, apart)


def swizzled(start, rows, apart):
    """Words, by their addresses, of rows of 128 bytes, whose chunks of 16 bytes are swizzled.

    The address of a chunk is swizzled as a whole: bits 4 to 6 are changed by bits 7 to 9.
    """
    row, chunk = np.mgrid[:rows, :8]
    at = start + row // 8 * apart + row % 8 * 128 + chunk * 16
    at ^= (at >> 7 & 7) << 4
    return (at[..., None] // 4 + np.arange(4)).reshape(rows, 32)

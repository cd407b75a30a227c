"""Copies by the tensor memory accelerator and the barriers that tell their end, for simulated
threads, as the manuals of PTX and of the driver describe them.
"""

import numpy as np

from tests.fastconv.cuda import hopper
from tests.fastconv.cuda.hopper import F32, NOBODY, SEVERAL, FaultError


class View:
    """What a tensor map tells, and the image that it is of."""

    def __init__(self, seen, image):
        self.seen, self.image = seen, np.reshape(image, seen.shape)

    def pixels(self, column, row, image):
        """Image, row and column of a tile's pixels before they are moved, (pixels, 3)."""
        seen, found = self.seen, []
        (top, left), (bottom, right) = seen.first, seen.last
        if not (top <= row <= bottom and left <= column <= right):
            raise FaultError(f"a copy begins at {row, column}, outside of the bounding box")
        for _ in range(seen.pixels):
            found.append((image, row, column))
            column += seen.step[1]
            if column > right:
                row, column = row + seen.step[0], left
            if row > bottom:
                image, row = image + 1, top
        return np.array(found)

    def tile(self, start, offsets):
        """Numbers of a tile, (pixels, channels), zero outside of the image."""
        channel, column, row, image = map(int, start)
        if not all(0 <= offset <= 255 for offset in offsets):
            raise FaultError(f"offsets of {offsets}")
        at = np.add(self.pixels(column, row, image), (0, offsets[1], offsets[0]))
        inside = ((at >= 0) & (at < self.image.shape[:3])).all(axis=1)
        tile = np.zeros((len(at), self.seen.channels), self.image.dtype)
        numbers = self.image[tuple(at[inside].T)][:, channel : channel + self.seen.channels]
        tile[inside, : numbers.shape[1]] = numbers
        return tile


class Barrier:
    """Phases that end when all have arrived and all announced bytes have come."""

    def __init__(self, count):
        self.count = self.missing = count
        self.bytes, self.ended, self.copies = 0, 0, []

    def end_if_complete(self):
        if self.missing < 0 or self.bytes < 0:
            raise FaultError("more came to a barrier than it expects")
        if self.missing == 0 and self.bytes == 0:
            self.ended, self.missing = self.ended + 1, self.count


class Copies(hopper.Warpgroups):
    """What a block does for copies of tiles."""

    def __init__(self):
        super().__init__()
        self._barriers, self._acquired = {}, set()

    def acquire_map(self, tensor_map, predicate):
        if (lane := self._one(predicate)) is not None:
            self._acquired.add((lane, id(tensor_map)))

    def _one(self, predicate):
        """The lane that acts, or None."""
        (on,) = np.nonzero(self._lanes(predicate))
        if len(on) > 1:
            raise FaultError("several threads do what one should")
        return on[0] if len(on) else None

    def _at(self, lane, value):
        return int(self._lanes(value)[lane])

    def barrier_start(self, shared, at, count, predicate):
        if (lane := self._one(predicate)) is not None:
            at = self._at(lane, at)
            if at % 2:
                raise FaultError("a misaligned barrier")
            self._wrote(shared, np.array([at, at + 1]), hopper.ARRIVED)
            self._barriers[at] = Barrier(int(count))

    def _barrier(self, shared, at):
        if (self._states[id(shared)][at : at + 2] != hopper.VISIBLE).any():
            raise FaultError("a barrier is used before a fence and a barrier of all threads")
        return self._barriers[at]

    def barrier_expect(self, shared, at, size, predicate):
        if (lane := self._one(predicate)) is not None:
            barrier = self._barrier(shared, self._at(lane, at))
            barrier.bytes += self._at(lane, size)
            barrier.missing -= 1

    def barrier_wait(self, shared, at, parity):
        barrier = self._barrier(shared, int(at))
        if barrier.ended & 1 == parity:
            for tile, where, values in barrier.copies:
                tile[where] = values
                self._wrote(tile, where, hopper.VISIBLE)
                barrier.bytes -= values.nbytes
            barrier.copies.clear()
            barrier.end_if_complete()
        if barrier.ended & 1 == parity:
            raise FaultError("a wait for a barrier never ends")

    def _start(self, shared, where, values, at):
        """Start a copy of words."""
        owners, _ = self._tiles[id(shared)]
        if where.min() < 0 or where.max() >= shared.size:
            raise FaultError(f"words {where.min()} to {where.max()} of {shared.size}")
        if any((owner[where] != NOBODY).any() for owner in owners):
            raise FaultError("race: a copy writes what a warp uses, without a barrier")
        owners[0][where] = SEVERAL
        self._wrote(shared, where, hopper.COPYING)
        self._barrier(shared, at).copies.append((shared, where, values))
        if not self.late:
            shared[where] = values

    def copy_im2col(self, shared, to, tensor_map, start, offsets, at, predicate):
        if (lane := self._one(predicate)) is None:
            return
        if (lane, id(tensor_map)) not in self._acquired:
            raise FaultError("a tensor map is used before it is acquired")
        start, offsets = ([self._at(lane, v) for v in several] for several in (start, offsets))
        words = np.ascontiguousarray(tensor_map.tile(start, offsets)).view(F32)
        address = self._at(lane, to) * 4 + self._base
        where = hopper.swizzled(address, len(words), 1024) - self._base // 4
        self._start(shared, where, words, self._at(lane, at))

    def copy_bytes(self, shared, to, array, index, size, at, predicate):
        if (lane := self._one(predicate)) is None:
            return
        size, index = self._at(lane, size), self._at(lane, index)
        where = self._at(lane, to) + np.arange(size // 4)
        if size % 16 or where[0] % 4 or index * array.itemsize % 16:
            raise FaultError("a misaligned copy")
        if index < 0 or index + size // array.itemsize > array.size:
            raise FaultError(f"{size} bytes from element {index} of {array.size}")
        values = array[index : index + size // array.itemsize].view(F32)
        self._start(shared, where, values, self._at(lane, at))

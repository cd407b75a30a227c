"""How fast this core multiplies, measured once: it turns the cycles of `cost` into seconds."""

import time
from functools import cache

import numpy as np

from fastconv.cpu import cost
from fastconv.cpu.kernels import kernel
from fastconv.memory import aligned_empty

DEPTH, REPEATS = 256, 400  # of products on operands that stay in the L1 cache: about 1 ms


@cache
def cycles_per_second() -> float:
    """Cycles a second, as far as multiplications go: the fastest of a few short runs."""
    tile = kernel("panels", "float32")
    sizes = (tile.mr * DEPTH, DEPTH * tile.nr, tile.mr * tile.nr)
    a, b, c = (aligned_empty((size,), "float32") for size in sizes)
    a[...], b[...], nowhere = 1, 1, np.zeros(REPEATS, np.int64)
    operands = (a.ctypes.data, DEPTH, b.ctypes.data, c.ctypes.data)
    work = cost.multiplications(REPEATS * tile.mr * tile.nr * DEPTH, "float32")
    fastest = 0.0
    for _ in range(5):
        start = time.perf_counter()
        # one block, REPEATS products and one panel, all of them at the same addresses
        tile.native.entry(*operands, 1, REPEATS, 1, 0, 0, 0, 0, 0, nowhere.ctypes.data, 0)
        fastest = max(fastest, work / (time.perf_counter() - start))
    return fastest

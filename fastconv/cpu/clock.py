"""How fast this core multiplies, measured once: it turns the cycles of `cost` into seconds."""

import time
from functools import cache

import numpy as np

from fastconv.cpu import cost
from fastconv.cpu.kernels import kernel
from fastconv.memory import address, aligned_empty

# Products on operands that stay in the L1 cache, and so many of them that what a kernel does beside
# them, such as to fetch what comes next, does not show: about 1 ms.
DEPTH, BLOCKS, COLUMNS, REPEATS = 128, 6, 16, 8


@cache
def cycles_per_second() -> float:
    """Cycles a second, as far as multiplications go: the fastest of a few short runs."""
    tile = kernel("panels", "float32")
    sizes = (BLOCKS * tile.mr * DEPTH, DEPTH * tile.nr, BLOCKS * tile.mr * tile.nr)
    a, b, c = (aligned_empty((size,), "float32") for size in sizes)
    a[...], b[...], nowhere = 1, 1, np.zeros(REPEATS, np.int64)
    operands = (address(a), DEPTH, address(b), address(c))
    count = REPEATS * COLUMNS * BLOCKS * tile.mr * tile.nr * DEPTH
    work = cost.multiplications(count, "float32")
    fastest = 0.0
    for _ in range(5):
        start = time.perf_counter()
        # all panels and products at the same addresses
        tile.native.entry(*operands, BLOCKS, REPEATS, COLUMNS, 0, 0, 0, 0, 0, address(nowhere), 0)
        fastest = max(fastest, work / (time.perf_counter() - start))
    return fastest

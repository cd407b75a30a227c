"""What an algorithm is expected to cost on this host: arithmetic and traffic, in cycles.

A model, not a measurement: `auto` compares its results, and ``print(plan)`` shows them. It knows
the registers and caches that `host` reads, and a few constants that were fitted to the layers of
the benchmark suite; they state how far real kernels stay behind a ceiling.

It looks at one image and assumes two threads, whatever the batch and the threads of a call: another
choice would change bits.
"""

import math
from dataclasses import dataclass

from fastconv.cpu import host
from fastconv.cpu.simd import LANES
from fastconv.dtypes import ITEMSIZE, WORKING
from fastconv.spec import Conv2d, ConvTranspose2d

THREADS = 2
# Bytes a cycle: from the last-level cache, for each core; from memory, for all of them.
NEAR, FAR = 12.0, 12.0
LAUNCH = 15_000.0  # cycles of a call and of waking threads
OVERLAP = 0.75  # share of the shorter one of arithmetic and traffic that hides behind the longer
PRODUCTS = 0.95  # share of the FMA peak that register tiles reach


@dataclass(frozen=True)
class Cost:
    """Work for one image.

    Attributes
    ----------
    products : float
        Cycles of the multiplications at the FMA peak of one core.
    cycles : float
        Cycles of all arithmetic, on one core.
    near, far : float
        Bytes from the last-level cache, and from memory.
    """

    products: float
    cycles: float
    near: float
    far: float

    def traffic(self, threads: int) -> float:
        """Cycles in which all bytes can move."""
        return self.near / (NEAR * threads) + self.far / FAR

    def time(self, threads: int = THREADS, images: int = 1) -> float:
        """Cycles from call to return."""
        busy, moving = self.cycles / threads, self.traffic(threads)
        overlapped = max(busy, moving) + (1 - OVERLAP) * min(busy, moving)
        return LAUNCH * (threads > 1) + images * overlapped

    def roofline(self, threads: int = THREADS, images: int = 1) -> float:
        """Cycles of the multiplications alone, or of the bytes from memory if those take longer."""
        return images * max(self.products / threads, self.far / FAR)


def multiplications(count: float, dtype: str) -> float:
    """Cycles of so many fused multiply-adds at the peak of one core."""
    return count / (host.fma_vectors() * LANES[WORKING[dtype]])


def instructions(count: float) -> float:
    """Cycles of so many vector instructions; a core starts two in a cycle."""
    return count / 2


def traffic(
    spec: Conv2d | ConvTranspose2d, weights: float, passes: float = 1
) -> tuple[float, float]:
    """Bytes from the last-level cache and from memory.

    `weights` bytes are read `passes` times, input and output once. Between two calls, half the
    last-level cache is assumed to keep its part of the weights, and images that are larger to have
    left it.
    """
    item = ITEMSIZE[spec.dtype]
    images = item * (math.prod(spec.x[1:]) + math.prod(spec.out[1:]))
    half = host.cache_bytes()[1] / 2
    far = (images if images > half else 0.0) + max(weights - half, 0.0)
    return images + weights * passes - far, far

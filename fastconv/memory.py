"""Memory that starts on a cache line."""

import math
from typing import Any

import numpy as np

CACHE_LINE = 64


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Uninitialised array whose first byte is on a cache line.

    The kernels read and write whole cache lines: results that go to such an array need no split
    accesses, and large ones bypass the caches.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype or its name

    Returns
    -------
    ndarray, C-contiguous
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(nbytes + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    array: np.ndarray = memory[start : start + nbytes].view(dtype).reshape(shape)
    return array

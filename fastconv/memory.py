"""Memory that starts on a cache line, and where an array is."""

import ctypes
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
    start = -address(memory) % CACHE_LINE
    array: np.ndarray = memory[start : start + nbytes].view(dtype).reshape(shape)
    return array


def address(array: Any) -> int:
    """Address of the first element, as ``array.ctypes.data`` but in 0.5 instead of 1.4 us."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError, BufferError):  # read-only, empty, or a dtype without a buffer
        return int(array.ctypes.data)

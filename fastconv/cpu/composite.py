"""Layers that are two steps: what the first gives stays in memory that the thread keeps."""

import math
from typing import Any

import numpy as np

from fastconv.activations import ACTIVATIONS
from fastconv.cpu import pooling
from fastconv.cpu.channelwise import Channelwise
from fastconv.cpu.job import between
from fastconv.dtypes import label_dtype
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d


class Then:
    """One executor, then another that reads its result."""

    def __init__(self, first: Any, second: Any, shape: tuple[int, ...], dtype: np.dtype[Any]):
        self.algorithm, self.kernel, self.packed = first.algorithm, first.kernel, first.packed
        self._first, self._second = first, second
        self._shape, self._dtype = shape, dtype

    def scratch_bytes(self, threads: int) -> int:
        """Scratch memory of a run, with what the first step gives."""
        kept = math.prod(self._shape) * self._dtype.itemsize
        return int(self._first.scratch_bytes(threads)) + kept

    def run(
        self, x: np.ndarray, out: np.ndarray, threads: int, add: np.ndarray | None = None
    ) -> None:
        """All arrays C-contiguous, of the plan's shapes and dtype."""
        kept = between(self._shape, self._dtype)
        self._first.run(x, kept, threads, add)
        self._second.run(kept, out, threads)


def then_pool(first: Any, spec: Conv2d, dtype: np.dtype[Any]) -> Then:
    """A convolution without its pool, then that."""
    pool = Pool2d(spec.conv_out, "max", (2, 2), (2, 2), dtype=spec.dtype)
    return Then(first, pooling.plan(pool), spec.conv_out, dtype)


def then_argmax(first: Any, spec: ConvTranspose2d, dtype: np.dtype[Any]) -> Then:
    """A transposed convolution, then the largest channel of each pixel."""
    size = label_dtype(spec.out[3]).itemsize
    labels = Channelwise(ChannelOp(spec.out, "argmax", spec.dtype), size)
    return Then(first, labels, spec.out, dtype)


def pool_comes_after(spec: Conv2d, slopes: np.ndarray | None) -> bool:
    """Whether a fused pool would be wrong.

    The kernels take the maximum of sums. A residual comes after that, and an activation that falls
    somewhere does not give the maximum of its results. Depthwise kernels do not pool at all.
    """
    if not spec.pool:
        return False
    if spec.groups == spec.x[3] > 1:
        return True
    least = float(slopes.min(initial=math.inf)) if slopes is not None else spec.alpha or 0.0
    return spec.add or not ACTIVATIONS[spec.activation].increasing or least < 0

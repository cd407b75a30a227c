"""Memory of a GPU, and page-locked memory of the host through which arrays travel."""

from __future__ import annotations

import contextlib
import ctypes
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.gpu import DeviceError

if TYPE_CHECKING:
    from fastconv.cuda.device import Gpu

CHUNK = 8 << 20  # bytes that travel while the next ones are copied on the host
IDLE = 2  # pairs of chunks that are kept for the next transfers


class Memory:
    """Memory of a GPU, which is free again when nothing refers to it.

    Parameters
    ----------
    gpu : Gpu
    nbytes : int
    stream : int or None
        On which it is used: it is free when the work before has ended. It has to exist that long.
        None for memory that any stream may use: it is free when all work has ended.
    """

    def __init__(self, gpu: Gpu, nbytes: int, stream: int | None) -> None:
        self.gpu, self.stream = gpu, stream
        self.pointer = gpu.allocate(nbytes, stream)

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            self.gpu.free(self.pointer, self.stream)


class Chunks:
    """Two chunks of page-locked memory, with events after which they may be used again."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._pointer = int(gpu.call("cuMemHostAlloc", 2 * CHUNK, 0))
        unmeasured = gpu.driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        self._events = [gpu.call("cuEventCreate", unmeasured) for _ in range(2)]
        self._next = 0

    def __del__(self) -> None:
        if len(getattr(self, "_events", ())) == 2:
            with contextlib.suppress(DeviceError):  # the driver may have gone before
                for event in self._events:
                    self._gpu.call("cuEventSynchronize", event)
                    self._gpu.call("cuEventDestroy", event)
        if hasattr(self, "_pointer"):
            with contextlib.suppress(DeviceError):
                self._gpu.call("cuMemFreeHost", self._pointer)

    def send(self, array: np.ndarray, target: int, stream: int) -> None:
        """Copy to the GPU; when this returns, `array` may change."""
        for low, count in _parts(array.nbytes):
            chunk = self._take()
            ctypes.memmove(chunk, array.ctypes.data + low, count)
            self._gpu.call("cuMemcpyHtoDAsync", target + low, chunk, count, stream)
            self._mark(stream)

    def fetch(self, source: int, array: np.ndarray, stream: int) -> None:
        """Copy from the GPU, after the work before on `stream`."""
        waiting: deque[tuple[Any, int, int, int]] = deque()

        def arrived() -> None:
            event, chunk, low, count = waiting.popleft()
            self._gpu.call("cuEventSynchronize", event)
            ctypes.memmove(array.ctypes.data + low, chunk, count)

        for low, count in _parts(array.nbytes):
            if len(waiting) == 2:
                arrived()
            chunk = self._take()
            self._gpu.call("cuMemcpyDtoHAsync", chunk, source + low, count, stream)
            waiting.append((self._mark(stream), chunk, low, count))
        while waiting:
            arrived()

    def _take(self) -> int:
        """Address of the chunk that was used longest ago, once its copy has ended."""
        self._gpu.call("cuEventSynchronize", self._events[self._next])
        return self._pointer + self._next * CHUNK

    def _mark(self, stream: int) -> Any:
        """The event after the copy that was started last."""
        event = self._events[self._next]
        self._gpu.call("cuEventRecord", event, stream)
        self._next = 1 - self._next
        return event


class Transfers:
    """Copies between host and GPU. Threads may share it: each transfer has its own chunks."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._idle: deque[Chunks] = deque()

    def send(self, array: np.ndarray, target: int, stream: int) -> None:
        """Copy a C-contiguous array to the GPU; when this returns, it may change."""
        with self._chunks() as chunks:
            if chunks is not None:
                chunks.send(array, target, stream)
                return
        self._gpu.call("cuMemcpyHtoDAsync", target, array.ctypes.data, array.nbytes, stream)
        self._gpu.call("cuStreamSynchronize", stream)

    def fetch(self, source: int, array: np.ndarray, stream: int) -> None:
        """Copy to a C-contiguous array, after the work before on `stream`."""
        with self._chunks() as chunks:
            if chunks is not None:
                chunks.fetch(source, array, stream)
                return
        self._gpu.call("cuMemcpyDtoHAsync", array.ctypes.data, source, array.nbytes, stream)
        self._gpu.call("cuStreamSynchronize", stream)

    @contextlib.contextmanager
    def _chunks(self) -> Iterator[Chunks | None]:
        """Chunks for one transfer; None where the host has no memory to lock."""
        chunks: Chunks | None
        try:
            chunks = self._idle.pop()
        except IndexError:  # there are none, or another thread took the last
            try:
                chunks = Chunks(self._gpu)
            except (DeviceError, MemoryError):
                chunks = None
        yield chunks
        if chunks is not None and len(self._idle) < IDLE:
            self._idle.append(chunks)


def _parts(nbytes: int) -> Iterator[tuple[int, int]]:
    """Where parts begin, and their bytes."""
    return ((low, min(CHUNK, nbytes - low)) for low in range(0, nbytes, CHUNK))

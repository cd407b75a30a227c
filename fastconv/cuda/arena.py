"""Memory that holds all arrays of a network from run to run, with a stream of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastconv.gpu import DEFAULT, GpuArray, new

ALIGNMENT = 256  # bytes: whole lines of all caches


class Arena:
    """Places for arrays on a GPU, which stay where they are, and the work on them.

    Operations on arrays of an arena go to its stream, one after the other. The memory that they
    need meanwhile is kept for the next ones.

    Parameters
    ----------
    gpu : Gpu
    sizes : sequence of int
        Bytes of each place.

    Attributes
    ----------
    gpu : Gpu
    nbytes : int
        Memory of the places, and of what operations needed.

    Raises
    ------
    MemoryError
        They do not fit.
    """

    def __init__(self, gpu: Any, sizes: Sequence[int]) -> None:
        self.gpu = gpu
        rounded = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
        self._starts = np.cumsum([0, *rounded]).tolist()
        self._memory = gpu.array((self._starts[-1],), np.dtype(np.uint8))
        self._stream = gpu.new_stream()
        self._scratch: GpuArray | None = None
        self._kept: list[Any] = []

    @property
    def nbytes(self) -> int:
        """Memory on the GPU."""
        return self._memory.nbytes + (0 if self._scratch is None else self._scratch.nbytes)

    def array(self, place: int, shape: tuple[int, ...], dtype: Any) -> GpuArray:
        """An array at one of the places; several may share it, one after the other."""
        pointer = self._memory.pointer + self._starts[place]
        return GpuArray(
            pointer, shape, np.dtype(dtype), self, self._stream.number, self.gpu.index, True
        )

    def scratch(self, nbytes: int) -> int:
        """Address of memory for the time of one operation, which the next one may overwrite."""
        if self._scratch is None or self._scratch.nbytes < nbytes:
            self._scratch = self.gpu.array((nbytes,), np.dtype(np.uint8))
        return self._scratch.pointer

    def keep(self, what: Any) -> None:
        """Something that the work on the arrays needs as long as there is the arena."""
        if what not in self._kept:
            self._kept.append(what)

    def send(self, array: Any, target: GpuArray) -> None:
        """Copy a C-contiguous array of the host, which may then change, or one on the GPU."""
        stream = self._stream.number
        if isinstance(array, GpuArray):
            self.gpu.receive(array, stream)
            self.gpu.copy(array, target, stream)
            self.gpu.hold([array], stream)
        else:
            self.gpu.send(array, target, stream)

    def give(self, source: GpuArray, like: list[GpuArray]) -> Any:
        """A copy in a new array of the library of `like`, for work on its stream."""
        stream = self._stream.number
        made = new(like, source.shape, source.dtype, self.gpu)
        target = GpuArray.find(made, "out", "copy")
        assert target is not None
        theirs = target.stream or DEFAULT
        self.gpu.order(theirs, stream)  # where the memory was used before
        self.gpu.copy(source, target, stream)
        self.gpu.order(stream, theirs)
        return made

    def fetch(self, source: GpuArray, array: np.ndarray) -> None:
        """Copy to a C-contiguous array of the host, when the work before has ended."""
        self.gpu.download(source, array, self._stream.number)

    def graph(self, run: Callable[[], None]) -> Any:
        """What `run` starts on the arrays, as one CUDA graph with a method `launch`.

        All of it has been run before, so that no memory is missing.

        Raises
        ------
        DeviceError
            The driver cannot make one.
        """
        return self.gpu.graph(self._stream, run)

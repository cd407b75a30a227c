"""Programs on a GPU, from arrays on the host or there."""

import math
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from fastconv.cuda import pixels
from fastconv.cuda.im2col import Im2col
from fastconv.cuda.program import Program
from fastconv.dtypes import ITEMSIZE
from fastconv.gpu import GpuArray

# What programs for several image sizes share, above all weights: GPU and array -> the copy there.
_COPIES: WeakValueDictionary[tuple[int, int], GpuArray] = WeakValueDictionary()


class Executor:
    """A program on a GPU. What is constant is copied there in the first run.

    Attributes
    ----------
    algorithm, kernel, packed
        Of the program.
    gpu : Gpu
    work : int
        As for the CPU: here threads do not matter.
    """

    work = 0

    def __init__(self, program: Program, gpu: Any) -> None:
        self.algorithm, self.kernel, self.packed = (
            program.algorithm, program.kernel, program.packed
        )  # fmt: skip
        self.gpu = gpu
        self._program = program
        self._constants: dict[int, GpuArray] = {}  # by the id of the array that they copy
        self._maps: dict[tuple[Im2col, int], GpuArray] = {}

    def scratch_bytes(self, threads: int) -> int:
        """Memory on the GPU for what one step hands to the next."""
        sizes = self._program.between.values()
        return sum(math.prod(shape) * _itemsize(dtype) for shape, dtype in sizes)

    def run(self, x: Any, out: Any, threads: int, add: Any = None) -> None:
        """All arrays C-contiguous, of the planned shapes and dtypes, on the host or on the GPU."""
        self.compute({"x": x} if add is None else {"x": x, "add": add}, {"out": out})

    def compute(self, inputs: dict[str, Any], results: dict[str, Any]) -> None:
        """Run the program on arrays with the names that it gives them."""
        places = {name: self._input(array) for name, array in inputs.items()}
        places |= {
            name: self._input(r) if isinstance(r, GpuArray) else self.gpu.array(r.shape, r.dtype)
            for name, r in results.items()
        }
        for name, (shape, dtype) in self._program.between.items():
            flat = math.prod(shape) * _itemsize(dtype)
            places[name] = self.gpu.array((flat,), np.dtype(np.uint8))

        def find(what: Any) -> int:
            if isinstance(what, Im2col):
                return self._tensor_map(what, places["x"].pointer).pointer
            if isinstance(what, np.ndarray):
                return self._constant(what).pointer
            pointer: int = places[what].pointer
            return pointer

        for step in self._program.steps:
            self.gpu.launch(step.kernel, step.grid, step.arguments(find))
        for name, result in results.items():
            if not isinstance(result, GpuArray):
                self.gpu.download(places[name], result)

    def _input(self, array: Any) -> GpuArray:
        if isinstance(array, GpuArray):
            self.gpu.receive(array)
            return array
        copy: GpuArray = self.gpu.upload(array)
        return copy

    def _tensor_map(self, seen: Im2col, pointer: int) -> GpuArray:
        """The tensor map of an array at this address. Addresses recur, so it is kept."""
        if (seen, pointer) not in self._maps:
            self._maps[seen, pointer] = self.gpu.upload(self.gpu.tensor_map(seen, pointer))
        return self._maps[seen, pointer]

    def _constant(self, array: np.ndarray) -> GpuArray:
        """The copy of an array that the program keeps, so that no other has its id."""
        if id(array) not in self._constants:
            key = id(self.gpu), id(array)
            copy = _COPIES.get(key) or self.gpu.upload(np.ascontiguousarray(array))
            _COPIES[key] = self._constants[id(array)] = copy
        return self._constants[id(array)]


class WithIndices(Executor):
    """A max-pool that also tells where each maximum is."""

    def run(self, x: Any, out: Any, indices: Any, threads: int) -> None:  # type: ignore[override]
        """As `Executor.run`; `indices` int64."""
        self.compute({"x": x}, {"out": out, "indices": indices})


class Unpool:
    """Unpooling at `indices`, whose program needs the shape of the result."""

    work = 0

    def __init__(self, indices: np.ndarray, gpu: Any) -> None:
        self.gpu = gpu
        self._indices = indices

    def run(self, x: Any, out: Any, threads: int) -> None:
        """As `Executor.run`."""
        stage = pixels.unpool(self._indices, out.shape, out.dtype.name)
        Executor(pixels.one(stage), self.gpu).run(x, out, threads)


def _itemsize(dtype: str) -> int:
    return ITEMSIZE[dtype] if dtype in ITEMSIZE else np.dtype(dtype).itemsize

"""Programs on a GPU, from arrays on the host or there."""

import itertools
import math
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from fastconv.cuda import pixels
from fastconv.cuda.arena import ALIGNMENT
from fastconv.cuda.im2col import Im2col
from fastconv.cuda.program import Program
from fastconv.dtypes import ITEMSIZE
from fastconv.gpu import DEFAULT, GpuArray, leader, scratch

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
        return sum(self._between().values())

    def _between(self) -> dict[str, int]:
        """Bytes of each array that one step hands to the next; rounded up, so all are aligned."""
        return {
            name: -(-math.prod(shape) * _itemsize(dtype) // ALIGNMENT) * ALIGNMENT
            for name, (shape, dtype) in self._program.between.items()
        }

    def run(self, x: Any, out: Any, threads: int, add: Any = None) -> None:
        """All arrays C-contiguous, of the planned shapes and dtypes, on the host or on the GPU."""
        self.compute({"x": x} if add is None else {"x": x, "add": add}, {"out": out})

    def compute(self, inputs: dict[str, Any], results: dict[str, Any]) -> None:
        """Run the program on arrays with the names that it gives them.

        Work goes to the stream of the arrays on the GPU, or to the default one.
        """
        gpu = self.gpu
        there = [a for a in (*inputs.values(), *results.values()) if isinstance(a, GpuArray)]
        lead = leader(there)
        stream = (lead and lead.stream) or DEFAULT
        for array in there:
            gpu.receive(array, stream)
        places = {
            name: a if isinstance(a, GpuArray) else gpu.upload(a, stream)
            for name, a in inputs.items()
        }
        places |= {
            name: r if isinstance(r, GpuArray) else gpu.array(r.shape, r.dtype, stream)
            for name, r in results.items()
        }
        pointers = {name: array.pointer for name, array in places.items()}
        sizes = self._between()
        if sizes:
            start, _keeper = self._scratch(sum(sizes.values()), lead, stream)
            starts = itertools.accumulate(sizes.values(), initial=start)
            pointers |= zip(sizes, starts, strict=False)

        def find(what: Any) -> int:
            if isinstance(what, Im2col):
                return self._tensor_map(what, pointers["x"])
            return self._constant(what) if isinstance(what, np.ndarray) else pointers[what]

        for step in self._program.steps:
            gpu.launch(step.kernel, step.grid, step.arguments(find), stream)
        gpu.hold(there, stream)
        if (self._constants or self._maps) and lead is not None and hasattr(lead.owner, "keep"):
            lead.owner.keep(self)
        for name, result in results.items():
            if not isinstance(result, GpuArray):
                gpu.download(places[name], result, stream)

    def _scratch(self, nbytes: int, lead: GpuArray | None, stream: int) -> tuple[int, Any]:
        """Memory of the caller's pool, if it has one: its address, and what keeps it."""
        found = None if lead is None else scratch(lead.owner, nbytes)
        if found is None:
            made = self.gpu.array((nbytes,), np.dtype(np.uint8), stream)
            found = made.pointer, made
        return found

    def _tensor_map(self, seen: Im2col, pointer: int) -> int:
        """Where the tensor map is of an array at this address. Addresses recur, so it is kept."""
        if (seen, pointer) not in self._maps:
            self._maps[seen, pointer] = self.gpu.constant(self.gpu.tensor_map(seen, pointer))
        return self._maps[seen, pointer].pointer

    def _constant(self, array: np.ndarray) -> int:
        """Where the copy is of an array that the program keeps, so that no other has its id."""
        if id(array) not in self._constants:
            key = id(self.gpu), id(array)
            copy = _COPIES.get(key) or self.gpu.constant(np.ascontiguousarray(array))
            _COPIES[key] = self._constants[id(array)] = copy
        return self._constants[id(array)].pointer


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

"""Runs programs on simulated threads, from arrays to arrays."""

import math
from types import SimpleNamespace
from weakref import WeakValueDictionary

import ml_dtypes
import numpy as np

from fastconv.cuda.im2col import Im2col
from fastconv.gpu import DEFAULT, GpuArray
from fastconv.memory import aligned_empty
from tests.fastconv.cuda import lanes, tma

DTYPES = {"bfloat16": ml_dtypes.bfloat16}


def simulate(program, shape, dtype, block=lanes.Block, late=True, **arrays):
    """What a program makes of "x" and "add"; it fills "indices", if there are any."""
    arrays = {name: bits(np.ascontiguousarray(a)) for name, a in arrays.items()}
    for name, (size, kind) in {**program.between, "out": (shape, dtype)}.items():
        arrays[name] = poison(size, DTYPES.get(kind, kind))

    def find(what):
        if isinstance(what, Im2col):
            return tma.View(what, arrays["x"])
        return bits(what) if isinstance(what, np.ndarray) else arrays[what]

    for step in program.steps:
        arguments = [as_device(a) for a in step.arguments(find)]
        kernel = step.kernel
        lanes.launch(
            kernel.function, step.grid, kernel.threads, arguments, kernel.shared, late, block
        )
    return arrays["out"].view(DTYPES.get(dtype, dtype))


def poison(shape, dtype):
    """An array in which each number is one that no result has: NaN, or a large integer."""
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        return np.full(shape, np.iinfo(kind).max, kind)
    return bits(np.full(shape, np.nan, kind))


def bits(array):
    """Bfloat16 as the kernels have it."""
    return array.view(np.uint16) if array.dtype == DTYPES["bfloat16"] else array


def as_device(value):
    """Numbers of the width that kernels have."""
    if isinstance(value, (np.ndarray, tma.View)):
        return value
    return np.float32(value) if isinstance(value, float) else np.int32(value)


class Simulated:
    """What `device.Gpu` offers, without one. Work is done at once, so streams are but numbers."""

    index, capability = 0, (9, 0)

    def __init__(self):
        self.memory = WeakValueDictionary()  # address -> bytes
        self.copies = []  # kinds of copies between host and GPU
        self.waits = []  # streams, and those that work on them was ordered before
        self.launches, self.replays = 0, 0
        self.recorded = None  # launches, while a graph is made
        self.views = []  # what tensor maps, which hold their number, tell

    def array(self, shape, dtype, stream=None):
        dtype = np.dtype(dtype)
        memory = Bytes(self, max(int(np.prod(shape)) * dtype.itemsize, 1))
        self.memory[memory.pointer] = memory
        return GpuArray(memory.pointer, tuple(shape), dtype, memory, stream, 0, True)

    def constant(self, array):
        return self.upload(array, None)

    def upload(self, array, stream=DEFAULT):
        copy = self.array(array.shape, array.dtype, stream)
        self.send(array, copy, stream)
        return copy

    def send(self, array, target, stream):
        self.copies.append("upload")
        flat = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        self.find(target.pointer)[: flat.size] = flat

    def download(self, source, array, stream=DEFAULT):
        self.copies.append("download")
        kept = self.find(source.pointer)[: array.nbytes]
        array[...] = kept.view(array.dtype).reshape(array.shape)

    def copy(self, source, target, stream):
        self.find(target.pointer)[: source.nbytes] = self.find(source.pointer)[: source.nbytes]

    def tensor_map(self, seen, pointer):
        size = math.prod(seen.shape)
        self.views.append(tma.View(seen, self.find(pointer).view(np.uint16)[:size]))
        return np.full(16, len(self.views) - 1, np.uint64)

    def order(self, before, after):
        if before != after:
            self.waits.append((before, after))

    def receive(self, array, stream):
        if array.stream is not None:
            self.order(array.stream, stream)

    def hold(self, arrays, stream):
        pass

    def wait(self, stream):
        pass

    def new_stream(self):
        return SimpleNamespace(number=64)

    def graph(self, stream, run):
        """Launches are kept, not made."""
        self.recorded = []
        try:
            run()
            return Replay(self, self.recorded)
        finally:
            self.recorded = None

    def find(self, pointer):
        """The bytes from an address on, to the end of the memory that was allocated together."""
        for start, memory in self.memory.items():
            if start <= pointer < start + memory.bytes.size:
                return memory.bytes[pointer - start :]
        raise AssertionError("no such memory")

    def launch(self, kernel, grid, arguments, stream):
        self.launches += 1
        if self.recorded is not None:
            self.recorded.append((kernel, grid, arguments, stream))
            return

        def given(name, kind, value):
            if name == "tensor_map":
                return self.views[self._typed(value, np.uint64)[15]]
            return self._typed(value, str(kind.dtype)) if hasattr(kind, "dtype") else value

        together = zip(kernel.parameters, kernel.signature.args, arguments, strict=True)
        values = [as_device(given(*one)) for one in together]
        lanes.launch(kernel.function, grid, kernel.threads, values, kernel.shared)

    def _typed(self, pointer, dtype):
        found, dtype = self.find(pointer), np.dtype(dtype)
        return found[: found.size - found.size % dtype.itemsize].view(dtype)


class Replay:
    """Launches as a graph."""

    def __init__(self, gpu, launches):
        self._gpu, self._launches = gpu, launches

    def launch(self):
        self._gpu.replays += 1
        for each in self._launches:
            self._gpu.launch(*each)


class Bytes:
    """Memory that is free when nothing refers to it."""

    def __init__(self, gpu, nbytes):
        self.gpu, self.bytes = gpu, aligned_empty((nbytes,), np.uint8)
        self.bytes.fill(0xFF)
        self.pointer = self.bytes.ctypes.data

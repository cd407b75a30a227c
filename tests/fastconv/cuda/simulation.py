"""Runs programs on simulated threads, from arrays to arrays."""

import ml_dtypes
import numpy as np

from fastconv.cuda.im2col import Im2col
from fastconv.gpu import GpuArray
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
    """What `device.Gpu` offers, without one."""

    index, capability = 0, (9, 0)

    def __init__(self):
        self.memory = {}  # address -> bytes
        self.copies = []  # kinds of copies between host and GPU
        self.views = []  # what tensor maps, which hold their number, tell

    def array(self, shape, dtype):
        dtype = np.dtype(dtype)
        memory = aligned_empty((int(np.prod(shape)) * dtype.itemsize,), np.uint8)
        memory.fill(0xFF)
        self.memory[memory.ctypes.data] = memory
        return GpuArray(memory.ctypes.data, tuple(shape), dtype, memory)

    def upload(self, array):
        self.copies.append("upload")
        copy = self.array(array.shape, array.dtype)
        self.memory[copy.pointer][...] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        return copy

    def download(self, source, array):
        self.copies.append("download")
        array[...] = self.memory[source.pointer].view(array.dtype).reshape(array.shape)

    def receive(self, array):
        assert array.stream in (None, 1)

    def tensor_map(self, seen, pointer):
        self.views.append(tma.View(seen, self.memory[pointer].view(np.uint16)))
        return np.full(16, len(self.views) - 1, np.uint64)

    def launch(self, kernel, grid, arguments):
        def given(name, kind, value):
            if name == "tensor_map":
                return self.views[self.memory[value].view(np.uint64)[15]]
            return self.memory[value].view(str(kind.dtype)) if hasattr(kind, "dtype") else value

        together = zip(kernel.parameters, kernel.signature.args, arguments, strict=True)
        values = [as_device(given(*one)) for one in together]
        lanes.launch(kernel.function, grid, kernel.threads, values, kernel.shared)

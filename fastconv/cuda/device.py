"""GPUs: which can be used, their memory, and launches, through NVIDIA's driver interface."""

import ctypes
import functools
import importlib
import importlib.util
import math
import os
import threading
from types import TracebackType
from typing import Any

import numpy as np

from fastconv.gpu import DeviceError, GpuArray

INSTALL = "pip install 'fastconv[cuda]'"
LEAST = (8, 0)  # capability with asynchronous copies, bfloat16, and maxima that keep NaN
DRIVER = 13_000  # CUDA 13.0, whose assembler the `cuda` extra has
STREAM = 0  # the default stream, on which other libraries' work is ordered, too
STATIC_SHARED = 48 << 10  # bytes of shared memory that a kernel has without being asked


def unavailable() -> str:
    """Why CUDA cannot be used, in one sentence; "" if it can."""
    return _incomplete() or _undriven()


@functools.cache
def _incomplete() -> str:
    """What is missing of the packages."""
    if any(importlib.util.find_spec(name) is None for name in ("numba_cuda", "cuda")):
        return (
            f"numba-cuda is not installed, and the numba.cuda inside numba is deprecated; {INSTALL}"
        )
    if getattr(importlib.import_module("numba.cuda"), "implementation", "") != "NVIDIA":
        return f"numba.cuda is the deprecated one inside numba, not numba-cuda's; {INSTALL}"
    try:
        importlib.import_module("fastconv.cuda.compiler").tool("ptxas")
    except FileNotFoundError as error:
        return str(error)
    return ""


@functools.cache
def _undriven() -> str:
    """What the driver lacks."""
    driver = _driver()
    try:
        error, *_ = driver.cuInit(0)
    except RuntimeError:  # of the package that looks for it
        return "no NVIDIA driver (libcuda) was found"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    note = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
    if error == driver.CUresult.CUDA_ERROR_NO_DEVICE:
        return f"the NVIDIA driver finds no GPU{note}"
    if error != driver.CUresult.CUDA_SUCCESS:
        return f"the NVIDIA driver does not start: {error.name}"
    version = _ask(driver.cuDriverGetVersion())
    if version < DRIVER:
        had, needed = (f"{v // 1000}.{v % 1000 // 10}" for v in (version, DRIVER))
        return f"the NVIDIA driver is for CUDA {had}, and {needed} is needed"
    return _too_old(0)


def _too_old(index: int) -> str:
    """What a GPU lacks."""
    had, needed = (".".join(map(str, c)) for c in (_capability(index), LEAST))
    if _capability(index) >= LEAST:
        return ""
    return f"GPU {index} has compute capability {had}, and {needed} is needed"


def describe() -> str:
    """The first GPU in a few words."""
    driver = _driver()
    name = _ask(driver.cuDeviceGetName(128, _ask(driver.cuDeviceGet(0))))
    major, minor = _capability(0)
    return f"{name.split(bytes(1))[0].decode()}, compute capability {major}.{minor}"


@functools.cache
def gpu(index: int) -> "Gpu":
    """A GPU by its number.

    Raises
    ------
    DeviceError
        It cannot be used.
    """
    reason = unavailable()
    if not reason:
        count = _ask(_driver().cuDeviceGetCount())
        if index >= count:
            reason = f"there is no GPU number {index}, only {count} from 0 on"
        elif not (reason := _too_old(index)):
            return Gpu(index)
    raise DeviceError(f"device 'cuda' cannot be used: {reason}")


def _driver() -> Any:
    return importlib.import_module("cuda.bindings.driver")


def _ask(answer: tuple[Any, ...]) -> Any:
    """What a function of the driver gives, without its error code."""
    error, *rest = answer
    if error.value:
        raise DeviceError(f"the NVIDIA driver reports {error.name}")
    return rest[0] if rest else None


def _capability(index: int) -> tuple[int, int]:
    driver = _driver()
    device = _ask(driver.cuDeviceGet(index))
    names = driver.CUdevice_attribute
    major, minor = (
        _ask(driver.cuDeviceGetAttribute(name, device))
        for name in (
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return major, minor


class Memory:
    """Memory of a GPU, which is free again when nothing refers to it."""

    def __init__(self, owner: "Gpu", nbytes: int) -> None:
        self.pointer = owner.allocate(nbytes)
        self._owner = owner

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            self._owner.free(self.pointer)


class Gpu:
    """One GPU. Use it as a context: it is the current one inside.

    Attributes
    ----------
    index : int
    capability : (int, int)
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.capability = _capability(index)
        self._driver = _driver()
        self._context = _ask(
            self._driver.cuDevicePrimaryCtxRetain(_ask(self._driver.cuDeviceGet(index)))
        )
        self._functions: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Gpu":
        _ask(self._driver.cuCtxPushCurrent(self._context))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        _ask(self._driver.cuCtxPopCurrent())

    def allocate(self, nbytes: int) -> int:
        """Address of new memory.

        Raises
        ------
        MemoryError
            There is not so much.
        """
        with self:
            error, pointer = self._driver.cuMemAllocAsync(max(nbytes, 1), STREAM)
            if error == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                _, free, total = self._driver.cuMemGetInfo()
                raise MemoryError(
                    f"an array of {nbytes} bytes does not fit on GPU {self.index}: {free} of its "
                    f"{total} bytes are free; use smaller images or batches"
                )
            return int(_ask((error, pointer)))

    def free(self, pointer: int) -> None:
        """Give memory back, once the work before has ended."""
        with self:
            self._driver.cuMemFreeAsync(pointer, STREAM)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> GpuArray:
        """A new array."""
        memory = Memory(self, math.prod(shape) * dtype.itemsize)
        return GpuArray(memory.pointer, shape, dtype, memory)

    def upload(self, array: np.ndarray) -> GpuArray:
        """A copy of a C-contiguous array."""
        copy = self.array(array.shape, array.dtype)
        if not array.size:
            return copy
        with self:
            _ask(
                self._driver.cuMemcpyHtoDAsync(
                    copy.pointer, array.ctypes.data, array.nbytes, STREAM
                )
            )
        return copy

    def download(self, source: GpuArray, array: np.ndarray) -> None:
        """Copy to a C-contiguous array, after the work before."""
        with self:
            _ask(
                self._driver.cuMemcpyDtoHAsync(
                    array.ctypes.data, source.pointer, array.nbytes, STREAM
                )
            )
            _ask(self._driver.cuStreamSynchronize(STREAM))

    def receive(self, array: GpuArray) -> None:
        """Wait for the work on another stream that wrote an input.

        Raises
        ------
        ValueError
            The array is on another GPU.
        """
        if not array.size:
            return
        with self:
            attribute = self._driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
            index = _ask(self._driver.cuPointerGetAttribute(attribute, array.pointer))
            if index != self.index:
                raise ValueError(f"an input is on GPU {index}; use device='cuda:{index}'")
            if array.stream is not None and array.stream > 1:  # 1 is the default stream
                _ask(self._driver.cuStreamSynchronize(array.stream))

    def tensor_map(self, seen: Any, pointer: int) -> np.ndarray:
        """An `im2col.Im2col` of the image at this address, as copies on a GPU read it."""
        driver = self._driver
        n, h, w, c = seen.shape
        kinds, size = driver.CUtensorMapDataType, 2
        kind = {
            "float16": kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            "bfloat16": kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        }[seen.dtype]
        sizes = [driver.cuuint64_t(s) for s in (c, w, h, n)]
        strides = [driver.cuuint64_t(size * s) for s in (c, w * c, h * w * c)]
        steps = [driver.cuuint32_t(s) for s in (1, *seen.step[::-1], 1)]
        corners = list(seen.first[::-1]), list(seen.beyond[::-1])  # the column first
        made = _ask(
            driver.cuTensorMapEncodeIm2col(
                kind, len(sizes), pointer, sizes, strides, *corners, seen.channels, seen.pixels,
                steps,
                driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
                driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
                driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        )  # fmt: skip
        return np.array([int(word) for word in made.opaque], np.uint64)

    def launch(self, kernel: Any, grid: tuple[int, int, int], arguments: list[Any]) -> None:
        """Start a kernel; arrays are their addresses."""
        with self:
            function, kinds = self._function(kernel)
            parameters = tuple(arguments), kinds
            _ask(
                self._driver.cuLaunchKernel(
                    function, *grid, kernel.threads, 1, 1, kernel.shared, STREAM, parameters, 0
                )
            )

    def _function(self, kernel: Any) -> tuple[Any, tuple[Any, ...]]:
        """The machine code of a kernel, loaded, and the C types of its parameters."""
        with self._lock:
            if kernel not in self._functions:
                compiler = importlib.import_module("fastconv.cuda.compiler")
                name, code = compiler.cubin(kernel, self.capability)
                module = _ask(self._driver.cuModuleLoadData(code))
                function = _ask(self._driver.cuModuleGetFunction(module, name.encode()))
                if kernel.shared > STATIC_SHARED:
                    attribute = self._driver.CUfunction_attribute
                    wanted = attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                    _ask(self._driver.cuFuncSetAttribute(function, wanted, kernel.shared))
                numbers = {"int32": ctypes.c_int32, "float32": ctypes.c_float}
                kinds = (numbers.get(str(k), ctypes.c_void_p) for k in kernel.signature.args)
                self._functions[kernel] = function, tuple(kinds)
            return self._functions[kernel]

"""GPUs: which can be used, their memory, and launches, through NVIDIA's driver interface."""

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import numpy as np

from fastconv.cuda.memory import Memory, Transfers
from fastconv.cuda.streams import Graph, Stream
from fastconv.gpu import DEFAULT, DeviceError, GpuArray

INSTALL = "pip install 'fastconv[cuda]'"
LEAST = (8, 0)  # capability with asynchronous copies, bfloat16, and maxima that keep NaN
DRIVER = 13_000  # CUDA 13.0, whose assembler the `cuda` extra has
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


class Gpu:
    """One GPU. Use it as a context: it is the current one inside.

    Attributes
    ----------
    index : int
    capability : (int, int)
    driver
        NVIDIA's interface.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.capability = _capability(index)
        self.driver = _driver()
        self._context = _ask(
            self.driver.cuDevicePrimaryCtxRetain(_ask(self.driver.cuDeviceGet(index)))
        )
        self._functions: dict[Any, Any] = {}
        self._lock = threading.Lock()
        self._transfers = Transfers(self)
        self._held: deque[tuple[Any, list[Any]]] = deque()

    def __enter__(self) -> "Gpu":
        _ask(self.driver.cuCtxPushCurrent(self._context))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        _ask(self.driver.cuCtxPopCurrent())

    def call(self, name: str, *arguments: Any) -> Any:
        """What a function of the driver gives for this GPU.

        Raises
        ------
        DeviceError
            It reports an error.
        """
        with self:
            return _ask(getattr(self.driver, name)(*arguments))

    def allocate(self, nbytes: int, stream: int | None) -> int:
        """Address of new memory for work on `stream`, or on any if that is None.

        Raises
        ------
        MemoryError
            There is not so much.
        """
        with self:
            if stream is None:
                error, pointer = self.driver.cuMemAlloc(max(nbytes, 1))
            else:
                error, pointer = self.driver.cuMemAllocAsync(max(nbytes, 1), stream)
            if error == self.driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                _, free, total = self.driver.cuMemGetInfo()
                raise MemoryError(
                    f"an array of {nbytes} bytes does not fit on GPU {self.index}: {free} of its "
                    f"{total} bytes are free; use smaller images or batches"
                )
            return int(_ask((error, pointer)))

    def free(self, pointer: int, stream: int | None) -> None:
        """Give memory back, once the work before has ended, on `stream` or on all."""
        with contextlib.suppress(DeviceError):  # the driver may have gone before
            if stream is None:
                self.call("cuMemFree", pointer)  # waits
            else:
                self.call("cuMemFreeAsync", pointer, stream)

    def array(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int | None = None
    ) -> GpuArray:
        """A new array, for work on `stream`, or on any if that is None."""
        memory = Memory(self, math.prod(shape) * dtype.itemsize, stream)
        return GpuArray(
            memory.pointer, shape, dtype, memory, stream, device=self.index, ordered=True
        )

    def constant(self, array: np.ndarray) -> GpuArray:
        """A copy of a C-contiguous array which any stream may read."""
        copy = self.array(array.shape, array.dtype)
        if array.size:
            self.send(array, copy, DEFAULT)
            self.wait(DEFAULT)
        return copy

    def upload(self, array: np.ndarray, stream: int = DEFAULT) -> GpuArray:
        """A copy of a C-contiguous array for work on `stream`; then `array` may change."""
        copy = self.array(array.shape, array.dtype, stream)
        if array.size:
            self.send(array, copy, stream)
        return copy

    def send(self, array: np.ndarray, target: GpuArray, stream: int) -> None:
        """Copy a C-contiguous array; when this returns, it may change."""
        self._transfers.send(array, target.pointer, stream)

    def download(self, source: GpuArray, array: np.ndarray, stream: int = DEFAULT) -> None:
        """Copy to a C-contiguous array, after the work before on `stream`."""
        self._transfers.fetch(source.pointer, array, stream)

    def copy(self, source: GpuArray, target: GpuArray, stream: int) -> None:
        """Copy from array to array."""
        if source.nbytes:
            self.call("cuMemcpyDtoDAsync", target.pointer, source.pointer, source.nbytes, stream)

    def wait(self, stream: int) -> None:
        """Wait for the work on a stream."""
        self.call("cuStreamSynchronize", stream)

    def wait_for_all(self) -> None:
        """Wait for the work on all streams."""
        with contextlib.suppress(DeviceError):  # the driver may have gone before
            self.call("cuCtxSynchronize")

    def order(self, before: int, after: int) -> None:
        """Let later work on a stream wait for what has been started on another one."""
        if before != after:
            event = self._mark(before)
            self.call("cuStreamWaitEvent", after, event, 0)
            self.call("cuEventDestroy", event)  # when it is over

    def _mark(self, stream: int) -> Any:
        """An event after the work on a stream."""
        event = self.call("cuEventCreate", self.driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        self.call("cuEventRecord", event, stream)
        return event

    def receive(self, array: GpuArray, stream: int) -> None:
        """Let later work on `stream` wait for the work that makes an array.

        Raises
        ------
        ValueError
            The array is on another GPU.
        """
        if not array.size:
            return
        index = array.device
        if index is None:
            attribute = self.driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
            index = self.call("cuPointerGetAttribute", attribute, array.pointer)
        if index != self.index:
            raise ValueError(f"an input is on GPU {index}; use device='cuda:{index}'")
        if array.stream is not None:
            self.order(array.stream, stream)

    def tensor_map(self, seen: Any, pointer: int) -> np.ndarray:
        """An `im2col.Im2col` of the image at this address, as copies on a GPU read it."""
        driver = self.driver
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

    def hold(self, arrays: Iterable[GpuArray], stream: int) -> None:
        """Keep arrays until the work on `stream` has ended, if nothing else orders their end.

        PyTorch, CuPy and this package use memory again in the order of a stream; other libraries
        may do so as soon as nobody refers to it.
        """
        kept = [a.owner for a in arrays if not a.ordered or a.stream not in (None, stream)]
        with self._lock:
            while self._held and self._ended(self._held[0][0]):
                self.call("cuEventDestroy", self._held.popleft()[0])
            if kept:
                self._held.append((self._mark(stream), kept))

    def _ended(self, event: Any) -> bool:
        with self:
            error, *_ = self.driver.cuEventQuery(event)
        return bool(error != self.driver.CUresult.CUDA_ERROR_NOT_READY)

    def launch(
        self, kernel: Any, grid: tuple[int, int, int], arguments: list[Any], stream: int
    ) -> None:
        """Start a kernel; arrays are their addresses."""
        function, kinds = self._function(kernel)
        parameters = tuple(arguments), kinds
        self.call(
            "cuLaunchKernel", function, *grid, kernel.threads, 1, 1, kernel.shared, stream,
            parameters, 0,
        )  # fmt: skip

    def new_stream(self) -> Stream:
        """A stream of one's own."""
        return Stream(self)

    def graph(self, stream: Stream, run: Callable[[], None]) -> Graph:
        """What `run` launches on a stream, to be launched again at once."""
        return Graph(self, stream, run)

    def _function(self, kernel: Any) -> tuple[Any, tuple[Any, ...]]:
        """The machine code of a kernel, loaded, and the C types of its parameters."""
        with self, self._lock:
            if kernel not in self._functions:
                compiler = importlib.import_module("fastconv.cuda.compiler")
                name, code = compiler.cubin(kernel, self.capability)
                module = _ask(self.driver.cuModuleLoadData(code))
                function = _ask(self.driver.cuModuleGetFunction(module, name.encode()))
                if kernel.shared > STATIC_SHARED:
                    attribute = self.driver.CUfunction_attribute
                    wanted = attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                    _ask(self.driver.cuFuncSetAttribute(function, wanted, kernel.shared))
                numbers = {"int32": ctypes.c_int32, "float32": ctypes.c_float}
                kinds = (numbers.get(str(k), ctypes.c_void_p) for k in kernel.signature.args)
                self._functions[kernel] = function, tuple(kinds)
            return self._functions[kernel]

"""What the package knows of GPUs without CUDA: arrays on them, and that they cannot be used."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastconv import dlpack

__all__ = ["DEFAULT", "DeviceError", "GpuArray", "into", "leader", "new", "scratch"]

ALIGNMENT = 16  # bytes: what the kernels read at a time
DEFAULT = 1  # the default stream, on which other libraries' work is ordered, too


class DeviceError(RuntimeError):
    """A device cannot be used; the message says why in a sentence."""


@dataclass(frozen=True, eq=False)
class GpuArray:
    """A C-contiguous array on a GPU.

    Other libraries can read it without a copy, by ``__cuda_array_interface__`` or DLPack, and their
    arrays are found by the same means.

    Attributes
    ----------
    pointer : int
        Address of the first element.
    shape, dtype
        As NumPy's.
    owner : object
        Whose memory it is.
    stream : int or None
        On which work may still write to it, as a number of the driver; of an array of PyTorch or
        CuPy the current one of that library. New results for it are made there, too.
    device : int or None
        Number of the GPU, where that is known.
    ordered : bool
        Whether the memory is used again in the order of `stream` once the owner has gone.
    writable : bool
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any
    stream: int | None = None
    device: int | None = None
    ordered: bool = False
    writable: bool = True

    @classmethod
    def find(cls, x: Any, name: str, op: str) -> "GpuArray | None":
        """`x` as such an array; None for what is not on a GPU.

        Raises
        ------
        ValueError
            The array has gaps, another order of its axes, or starts at an odd address.
        """
        if isinstance(x, cls):
            return x
        interface = getattr(x, "__cuda_array_interface__", None)
        found, strides = _described(x, interface) if interface else _shared(x)
        if found is None:
            return None
        shape = found.shape
        dense = tuple(math.prod(shape[i + 1 :]) * found.dtype.itemsize for i in range(len(shape)))
        if strides is not None and 0 not in shape and tuple(strides) != dense:
            raise ValueError(f"{op}: {name} must be C-contiguous on the GPU; copy it first")
        if found.pointer % ALIGNMENT:
            raise ValueError(
                f"{op}: {name} must start at a multiple of {ALIGNMENT} bytes on the GPU; copy it"
            )
        return found

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.size * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.pointer, False),
            "strides": None, "version": 3, "stream": self.stream or DEFAULT,
        }  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device or 0

    def __dlpack__(
        self, *, stream: int | None = None, max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None, copy: bool | None = None,
    ) -> Any:  # fmt: skip
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("arrays on a GPU are exported where they are, without a copy")
        mine, theirs = self.stream or DEFAULT, stream or DEFAULT
        if theirs != -1:  # the other side waits by itself
            self.owner.gpu.order(mine, theirs)
        kept = self if theirs == mine else _Lent(self)
        device = self.__dlpack_device__()
        return dlpack.export(kept, self.pointer, self.shape, self.dtype, device, max_version)

    def reshape(self, *shape: int) -> "GpuArray":
        """The same memory in another shape of the same size."""
        assert math.prod(shape) == self.size
        return replace(self, shape=shape)

    def wait(self) -> None:
        """Wait for the work on it."""
        self.owner.gpu.wait(self.stream or DEFAULT)


class _Lent:
    """An array that another library has for work on a stream which the array's own knows not."""

    def __init__(self, array: GpuArray) -> None:
        self._array = array

    def __del__(self) -> None:
        self._array.owner.gpu.wait_for_all()  # before its memory is used again


def _described(x: Any, interface: dict[str, Any]) -> tuple[GpuArray, Any]:
    """An array of a library that has CUDA's array interface, and its strides in bytes."""
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    if str(getattr(x, "dtype", "")) in ("torch.bfloat16", "bfloat16"):  # they say "<V2"
        dtype = np.dtype("bfloat16")  # known where ml_dtypes has made the weights
    pointer, read_only = interface["data"]
    current = _current_stream(x)
    stream = interface.get("stream") if current is None else current
    found = GpuArray(
        pointer or 0, shape, dtype, x, stream, ordered=current is not None, writable=not read_only
    )
    return found, interface.get("strides")


def _shared(x: Any) -> tuple[GpuArray | None, Any]:
    """An array of a library that has DLPack, if it is on a GPU, and its strides in bytes."""
    where = getattr(x, "__dlpack_device__", None)
    if where is None or where()[0] != dlpack.CUDA:
        return None, None
    taken = dlpack.take(x, DEFAULT)
    dtype = np.dtype(taken.dtype)  # bfloat16 is known where ml_dtypes has made the weights
    strides = None if taken.strides is None else [s * dtype.itemsize for s in taken.strides]
    found = GpuArray(
        taken.pointer, taken.shape, dtype, taken, DEFAULT, taken.device[1], writable=taken.writable
    )
    return found, strides


def _library(owner: Any) -> tuple[str, Any]:
    """Name and module of PyTorch or CuPy, whose array or tensor `owner` is."""
    name = type(owner).__module__.partition(".")[0]
    return name, sys.modules.get(name) if name in ("torch", "cupy") else None


def _current_stream(owner: Any) -> int | None:
    """The stream that the owner's library works on; None for those that have no such thing."""
    name, library = _library(owner)
    if library is None:
        return None
    if name == "torch":
        number = library.cuda.current_stream(owner.device).cuda_stream
    else:
        with owner.device:
            number = library.cuda.get_current_stream().ptr
    return int(number) or DEFAULT


def leader(arrays: Sequence[GpuArray]) -> GpuArray | None:
    """The array whose stream the work on all of them goes to: the first that names one."""
    named = (array for array in arrays if array.stream is not None)
    return next(named, arrays[0] if arrays else None)


def into(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: list[Any], op: str,
    run: Callable[..., None], gpu: Any,
) -> Any:  # fmt: skip
    """As `arrays.into`, for arrays on `gpu`: the result is an array of the caller's library.

    CuPy and PyTorch allocate it themselves; for other libraries it is a `GpuArray`, which they can
    read without a copy. Work goes to the caller's stream, and nobody waits for it.
    """
    if gpu is None:
        raise TypeError(f"{op}: the input is on a GPU; use device='cuda', or copy it to the host")
    if not all(isinstance(x, GpuArray) for x in inputs):
        raise TypeError(f"{op}: some inputs are on the GPU and some are not; copy one of them")
    if out is None:
        out = new(inputs, shape, dtype, gpu)
    target = GpuArray.find(out, "out", op)
    if target is None:
        raise TypeError(f"{op}: out must be on the GPU, as the input is; got {type(out).__name__}")
    if target.shape != shape or target.dtype != dtype:
        raise ValueError(
            f"{op}: out must be {dtype.name} of shape {shape}, got {target.dtype.name} of "
            f"shape {target.shape}"
        )
    if not target.writable:
        raise ValueError(f"{op}: out is read-only")
    for x in inputs:
        if x.pointer < target.pointer + target.nbytes and target.pointer < x.pointer + x.nbytes:
            raise ValueError(f"{op}: out must not share memory with inputs")
    if target.size:
        run(*inputs, target)
    return out


def new(inputs: list[GpuArray], shape: tuple[int, ...], dtype: np.dtype[Any], gpu: Any) -> Any:
    """An array of the library of the first input, and on its device."""
    owner = inputs[0].owner
    name, library = _library(owner)
    if library is None:
        lead = leader(inputs)
        return gpu.array(shape, dtype, (lead and lead.stream) or DEFAULT)
    if name == "torch":
        return library.empty(shape, dtype=getattr(library, dtype.name), device=owner.device)
    with owner.device:
        return library.empty(shape, dtype)


def scratch(owner: Any, nbytes: int) -> tuple[int, Any] | None:
    """Memory for the time of an operation: its address, and what keeps it.

    It is of the pool of the owner's library, which uses it again in the order of its stream; None
    where the library has none.
    """
    name, library = _library(owner)
    if library is None:
        pool = getattr(owner, "scratch", None)
        return None if pool is None else (pool(nbytes), owner)
    if name == "torch":
        tensor = library.empty((nbytes,), dtype=library.uint8, device=owner.device)
        return tensor.data_ptr(), tensor
    with owner.device:
        memory = library.cuda.alloc(nbytes)
    return memory.ptr, memory

"""What the package knows of GPUs without CUDA: arrays on them, and that they cannot be used."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["DeviceError", "GpuArray", "into"]

ALIGNMENT = 16  # bytes: what the kernels read at a time


class DeviceError(RuntimeError):
    """A device cannot be used; the message says why in a sentence."""


@dataclass(frozen=True, eq=False)
class GpuArray:
    """A C-contiguous array on a GPU, of any library that has ``__cuda_array_interface__``.

    Attributes
    ----------
    pointer : int
        Address of the first element.
    shape, dtype
        As NumPy's.
    owner : object
        Whose memory it is.
    stream : int or None
        Of the work that may still write to it.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any
    stream: int | None = None

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
        if interface is None:
            return None
        shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
        if str(getattr(x, "dtype", "")) in ("torch.bfloat16", "bfloat16"):  # they say "<V2"
            dtype = np.dtype("bfloat16")  # known where ml_dtypes has made the weights
        pointer, strides = interface["data"][0] or 0, interface.get("strides")
        dense = tuple(math.prod(shape[i + 1 :]) * dtype.itemsize for i in range(len(shape)))
        if strides is not None and 0 not in shape and tuple(strides) != dense:
            raise ValueError(f"{op}: {name} must be C-contiguous on the GPU; copy it first")
        if pointer % ALIGNMENT:
            raise ValueError(
                f"{op}: {name} must start at a multiple of {ALIGNMENT} bytes on the GPU; copy it"
            )
        return cls(pointer, shape, dtype, x, interface.get("stream"))

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
            "strides": None, "version": 3, "stream": 1,
        }  # fmt: skip


def into(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: list[Any], op: str,
    run: Callable[..., None], gpu: Any,
) -> Any:  # fmt: skip
    """As `arrays.into`, for arrays on `gpu`: the result is an array of the caller's library.

    CuPy and PyTorch allocate it themselves; for other libraries it is a `GpuArray`, which they can
    read without a copy.
    """
    if gpu is None:
        raise TypeError(f"{op}: the input is on a GPU; use device='cuda', or copy it to the host")
    if not all(isinstance(x, GpuArray) for x in inputs):
        raise TypeError(f"{op}: some inputs are on the GPU and some are not; copy one of them")
    if out is None:
        out = _new(inputs[0].owner, shape, dtype, gpu)
    target = GpuArray.find(out, "out", op)
    if target is None:
        raise TypeError(f"{op}: out must be on the GPU, as the input is; got {type(out).__name__}")
    if target.shape != shape or target.dtype != dtype:
        raise ValueError(
            f"{op}: out must be {dtype.name} of shape {shape}, got {target.dtype.name} of "
            f"shape {target.shape}"
        )
    for x in inputs:
        if x.pointer < target.pointer + target.nbytes and target.pointer < x.pointer + x.nbytes:
            raise ValueError(f"{op}: out must not share memory with inputs")
    if target.size:
        run(*inputs, target)
    return out


def _new(owner: Any, shape: tuple[int, ...], dtype: np.dtype[Any], gpu: Any) -> Any:
    """An array of the owner's library and on its device."""
    name = type(owner).__module__.partition(".")[0]
    library = sys.modules.get(name)
    if name == "torch" and library is not None:
        return library.empty(shape, dtype=getattr(library, dtype.name), device=owner.device)
    if name == "cupy" and library is not None:
        with owner.device:
            return library.empty(shape, dtype)
    return gpu.array(shape, dtype)

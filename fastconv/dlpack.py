"""DLPack: how arrays on a device are handed to other libraries, and taken from them.

Structures: https://dmlc.github.io/dlpack/latest/c_api.html
"""

import ctypes
import math
from typing import Any

import numpy as np

__all__ = ["CPU", "CUDA", "Shared", "export", "take"]

CPU, CUDA = 1, 2
KINDS = {"i": 0, "u": 1, "f": 2}
BFLOAT = 4
READ_ONLY = 1
VERSION = (1, 0)


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", DELETER))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
        ("deleter", DELETER), ("flags", ctypes.c_uint64), ("tensor", _Tensor),
    )  # fmt: skip


# Name of a capsule -> what it points to, and its name once it has been used. Capsules do not copy
# their names.
FORMATS = {b"dltensor": _Managed, b"dltensor_versioned": _Versioned}
USED = {name: b"used_" + name for name in FORMATS}


def _api(name: str, result: Any, *arguments: Any) -> Any:
    prototype = ctypes.PYFUNCTYPE(result, *arguments)
    return prototype((name, ctypes.pythonapi))


_new = _api("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_name = _api("PyCapsule_GetName", ctypes.c_char_p, ctypes.py_object)
_pointer = _api("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_rename = _api("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
# Of a capsule that is about to go, whose references must not be counted any more.
_dying_name = _api("PyCapsule_GetName", ctypes.c_char_p, ctypes.c_void_p)
_dying_pointer = _api("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)


class Shared:
    """An array of another library, which is kept alive.

    Attributes
    ----------
    pointer : int
        Address of the first element.
    shape : tuple of int
    strides : tuple of int or None
        In elements; None for a C-contiguous array.
    dtype : str
        Name of the dtype.
    device : (int, int)
        Kind of the device, and its number.
    writable : bool
    """

    def __init__(self, capsule: Any) -> None:
        name = _name(capsule)
        if name not in FORMATS:
            raise BufferError(f"no DLPack capsule that can be used: {capsule!r}")
        found = FORMATS[name].from_address(_pointer(capsule, name))
        tensor = found.tensor
        axes = range(tensor.ndim)
        self.pointer = (tensor.data or 0) + tensor.byte_offset
        self.shape = tuple(tensor.shape[i] for i in axes)
        self.strides = tuple(tensor.strides[i] for i in axes) if tensor.strides else None
        self.dtype = _dtype(tensor)
        self.device = tensor.device_type, tensor.device_id
        self.writable = not getattr(found, "flags", 0) & READ_ONLY
        _rename(capsule, USED[name])  # from here on it is this object's to delete
        self._managed = found

    def __del__(self) -> None:
        managed = getattr(self, "_managed", None)
        if managed is not None and managed.deleter:
            managed.deleter(ctypes.addressof(managed))


def take(x: Any, stream: int | None) -> Shared:
    """An array of another library.

    Parameters
    ----------
    x : object with ``__dlpack__``
    stream : int or None
        On which it has to be ready, on a GPU.
    """
    try:
        return Shared(x.__dlpack__(stream=stream, max_version=VERSION))
    except TypeError:  # a library from before there were versions
        return Shared(x.__dlpack__(stream=stream))


def _dtype(tensor: _Tensor) -> str:
    code, bits = tensor.code, tensor.bits
    kinds = {0: "int", 1: "uint", 2: "float", BFLOAT: "bfloat"}
    if tensor.lanes != 1 or code not in kinds:
        raise BufferError(f"an array of DLPack's type {code} with {bits} bits cannot be used")
    return f"{kinds[code]}{bits}"


# What has been handed out: address of the structure -> the structure, and what it refers to.
_EXPORTED: dict[int, tuple[Any, ...]] = {}


def _delete(address: int) -> None:
    _EXPORTED.pop(address, None)


def _dropped(capsule: int) -> None:
    """A capsule goes; if nobody took its array, that goes, too."""
    name = _dying_name(capsule)
    if name in FORMATS:
        _delete(_dying_pointer(capsule, name))


# What C calls: the first from anywhere, the second from Python.
_DELETE = DELETER(_delete)
_DROPPED = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_dropped)


def export(
    owner: Any, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int],
    version: tuple[int, int] | None = None,
) -> Any:  # fmt: skip
    """A capsule with a C-contiguous array, which keeps `owner`.

    Parameters
    ----------
    version : (int, int), optional
        The newest that the other side knows; None from before there were versions.
    """
    plain, versioned = FORMATS  # the very texts that stay in memory
    name = plain if version is None or tuple(version) < VERSION else versioned
    managed = FORMATS[name]()
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    steps = (ctypes.c_int64 * len(shape))(*(math.prod(shape[i + 1 :]) for i in range(len(shape))))
    managed.tensor = _Tensor(
        pointer, *device, len(shape), BFLOAT if dtype.name == "bfloat16" else KINDS[dtype.kind],
        8 * dtype.itemsize, 1, sizes, steps, 0,
    )  # fmt: skip
    managed.deleter = _DELETE
    if name is versioned:
        managed.major, managed.minor = VERSION
    address = ctypes.addressof(managed)
    _EXPORTED[address] = managed, sizes, steps, owner
    return _new(address, name, ctypes.cast(_DROPPED, ctypes.c_void_p))

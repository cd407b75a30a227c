"""Our own model file: one .npz (a zip) with the graph and the facts as JSON, and the arrays.

::

    model.json                   {"format": "fcn", "version": 1, "graph": {...}, "meta": {...}}
    conv1_1/kernel.npy ...       float32, C order, shapes as the graph says

It holds no pickle, `numpy.load` reads it too, and equal models give equal bytes. The zip's CRC of
each member finds corruption. Nothing is compressed: trained weights hardly shrink, a small file
cannot ask for much memory, and arrays can be mapped: they are read where they lie in the file, at
multiples of 64 bytes, and need no memory of their own once a session has packed them.
"""

import io
import json
import math
import mmap
import os
import struct
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fcn._errors import reason
from fcn.export import write_whole
from fcn.graph import Graph, Model

FORMAT, VERSION, HEAD = "fcn", 1, "model.json"
LONGEST_HEAD = 1 << 24  # bytes; a head is a few kilobytes, and one of 16 MiB is an attack
LONGEST_NPY_HEAD = 4096  # bytes
ALIGNMENT, PADDING_FIELD = 64, 0xD935  # of arrays in the file, and the zip field that makes it so
LOCAL_HEAD = 30  # bytes of a zip's local header, before name and extra field


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model file. It appears whole or not at all, also when the disk is full.

    Parameters
    ----------
    model : Model
        What to write.
    path : path
        File to make or to replace.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written.
    """
    head = {
        "format": FORMAT,
        "version": VERSION,
        "graph": json.loads(model.graph.to_json()),
        "meta": model.meta,
    }
    text = json.dumps(head, indent=1)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        _write(archive, HEAD, text.encode())
        for name, value in model.weights.items():
            array = io.BytesIO()
            npy.write_array(array, value, version=(1, 0), allow_pickle=False)
            start = data.tell() + LOCAL_HEAD + len(f"{name}.npy".encode()) + 4
            filler = bytes(-start % ALIGNMENT)
            extra = struct.pack("<HH", PADDING_FIELD, len(filler)) + filler
            _write(archive, f"{name}.npy", array.getvalue(), extra)
    write_whole(path, data.getvalue())


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model file.

    Every size is compared with what the graph needs before anything of that size is read, and
    nothing in the file is executed.

    Parameters
    ----------
    path : path
        File written by `save`. Its arrays are mapped: replace the file by another (as `save` does),
        but do not change or shorten it while the model is in use.

    Returns
    -------
    Model
        The same graph, facts and bits.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is truncated, damaged, holds a pickle, or is no model file.
    """
    damage = zipfile.BadZipFile, EOFError, KeyError, ValueError, TypeError, RuntimeError, OSError
    with open(path, "rb") as file:
        try:
            return _load(file)
        except damage as error:
            raise ValueError(
                f"{os.fspath(path)} cannot be read as a model: {reason(error)}; the file is "
                f"damaged or of another kind"
            ) from error


def _load(file: BinaryIO) -> Model:
    with zipfile.ZipFile(file) as archive:
        graph, meta = _read_head(archive)
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        weights = {n: _map(archive, data, n, s) for n, s in graph.parameters().items()}
        if surplus := set(archive.namelist()) - {HEAD} - {f"{n}.npy" for n in weights}:
            raise ValueError(f"members {sorted(surplus)} belong to no node")
    return Model(graph, weights, meta)


def mapped(array: NDArray[Any]) -> bool:
    """Whether an array lies in a mapped file."""
    return _mapping(array) is not None


def release(array: NDArray[Any]) -> None:
    """Give back the memory of an array that lies in a mapped file; who reads it gets it again."""
    data = _mapping(array)
    if data is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = array.ctypes.data - np.frombuffer(data, np.uint8).ctypes.data
    page = first // mmap.PAGESIZE * mmap.PAGESIZE
    data.madvise(mmap.MADV_DONTNEED, page, first + array.nbytes - page)


def _mapping(array: NDArray[Any]) -> mmap.mmap | None:
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner if isinstance(owner, mmap.mmap) else None


def _write(archive: zipfile.ZipFile, name: str, data: bytes, extra: bytes = b"") -> None:
    member = zipfile.ZipInfo(name)  # made by hand it has a fixed date: equal models, equal bytes
    member.extra = extra
    archive.writestr(member, data)


def _member(archive: zipfile.ZipFile, name: str, most: int) -> zipfile.ZipInfo:
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"member {name} is compressed")
    if member.file_size > most:
        raise ValueError(f"member {name} holds {member.file_size} bytes, not at most {most}")
    return member


def _read_head(archive: zipfile.ZipFile) -> tuple[Graph, dict[str, Any]]:
    member = _member(archive, HEAD, LONGEST_HEAD)
    head = json.loads(archive.read(member))  # zipfile compares the CRC
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError(f"{HEAD} does not say that this is a model")
    if head.get("version") != VERSION:
        raise ValueError(
            f"its format version is {head.get('version')!r}, this release reads {VERSION}"
        )
    if not isinstance(head.get("meta"), dict):
        raise ValueError(f"{HEAD} has no table named 'meta'")
    return Graph.from_json(json.dumps(head.get("graph"))), head["meta"]


def _map(
    archive: zipfile.ZipFile, data: mmap.mmap, name: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """An array where it lies in the file, once its CRC has been compared."""
    nbytes = 4 * math.prod(shape)
    member = _member(archive, f"{name}.npy", LONGEST_NPY_HEAD + nbytes)
    with archive.open(member) as stream:  # checks the local header
        if npy.read_magic(stream) != (1, 0):
            raise ValueError(f"member {name}.npy is no version 1.0 array")
        got, fortran, dtype = npy.read_array_header_1_0(stream)
        head = stream.tell()
    if (got, fortran, dtype) != (shape, False, np.dtype("<f4")):
        raise ValueError(f"member {name}.npy holds {dtype} of shape {got}, not float32 of {shape}")
    local = data[member.header_offset : member.header_offset + LOCAL_HEAD]
    start = member.header_offset + LOCAL_HEAD + sum(struct.unpack("<HH", local[-4:]))
    whole = np.frombuffer(data, np.uint8)[start : start + member.file_size]
    if len(whole) != head + nbytes or zlib.crc32(whole.data) != member.CRC:
        raise ValueError(f"member {name}.npy is cut short or its CRC is wrong")
    array = np.ndarray(shape, "<f4", data, start + head)
    release(array)
    return np.require(
        array, np.float32, ["A", "C"]
    )  # a copy in files of others, which do not align

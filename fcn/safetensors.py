"""Arrays in a ``.safetensors`` file, read by its public description and nothing else.

::

    8 bytes    length of the table, little-endian
    table      {"conv1.weight": {"dtype": "F32", "shape": [8, 3, 3, 3], "data_offsets": [0, 864]}}
    numbers    C order, little-endian, without gaps
"""

import json
import math
import os
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["Entry", "read", "table"]

LONGEST_TABLE = 1 << 24  # bytes
FLOATS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}  # NumPy has no bfloat16
BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}
BYTES |= {name: np.dtype(code).itemsize for name, code in FLOATS.items()}


@dataclass(frozen=True)
class Entry:
    """Where the numbers of an array are: bytes `start` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def table(file: BinaryIO) -> dict[str, Entry]:
    """What the file holds.

    Raises
    ------
    ValueError
        Unless the arrays are just what follows the table: none overlaps another, or reaches past
        the end.
    """
    total = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if total < 8 or length > min(LONGEST_TABLE, total - 8):
        raise ValueError(f"its table would be {length} bytes long, the file is {total}")
    listed = json.loads(file.read(length), object_pairs_hook=_without_repeats)
    listed.pop("__metadata__", None)
    found = {name: _entry(name, value, 8 + length) for name, value in listed.items()}
    end = 8 + length
    for name, entry in sorted(found.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            raise ValueError(f"the numbers of {name!r} do not follow those before them")
        end = entry.end
    if end != total:
        raise ValueError(f"its arrays end at byte {end}, the file at {total}")
    return found


def read(file: BinaryIO, entry: Entry) -> NDArray[np.float32]:
    """One array."""
    if entry.dtype not in FLOATS:
        raise ValueError(f"{entry.dtype} numbers are no weights; save them as float32")
    file.seek(entry.start)
    flat = np.frombuffer(file.read(entry.end - entry.start), FLOATS[entry.dtype])
    if entry.dtype == "BF16":  # the upper half of a float32
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return flat.astype(np.float32).reshape(entry.shape)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("its table has a name twice")
    return dict(pairs)


def _entry(name: str, value: Any, base: int) -> Entry:
    dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
    if dtype not in BYTES or not all(_natural(n) for n in (*shape, start, end)):
        raise ValueError(f"the entry of {name!r} is malformed: {value}")
    if math.prod(shape) * BYTES[dtype] != end - start:
        raise ValueError(f"{name!r} needs {math.prod(shape)} {dtype} and has {end - start} bytes")
    return Entry(dtype, tuple(shape), base + start, base + end)


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0

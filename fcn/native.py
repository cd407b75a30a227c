"""Our own model file: one .npz (a zip) with the graph and the facts as JSON, and the arrays.

::

    model.json                   {"format": "fcn", "version": 1, "graph": {...}, "meta": {...}}
    conv1_1/kernel.npy ...       float32, C order, shapes as the graph says

It holds no pickle, `numpy.load` reads it too, and equal models give equal bytes. The zip's CRC of
each member finds corruption. Nothing is compressed: trained weights hardly shrink, and so a small
file cannot ask for much memory.
"""

import io
import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fcn._errors import reason
from fcn.export import write_whole
from fcn.graph import Graph, Model

FORMAT, VERSION, HEAD = "fcn", 1, "model.json"
LONGEST_HEAD = 1 << 24  # bytes; a head is a few kilobytes, and one of 16 MiB is an attack
LONGEST_NPY_HEAD = 4096  # bytes


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
            _write(archive, f"{name}.npy", array.getvalue())
    write_whole(path, data.getvalue())


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model file.

    Every size is compared with what the graph needs before anything of that size is read, and
    nothing in the file is executed.

    Parameters
    ----------
    path : path
        File written by `save`.

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
    data = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            graph, meta = _read_head(archive)
            weights = {n: _read_array(archive, n, s) for n, s in graph.parameters().items()}
            if surplus := set(archive.namelist()) - {HEAD} - {f"{n}.npy" for n in weights}:
                raise ValueError(f"members {sorted(surplus)} belong to no node")
        return Model(graph, weights, meta)
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{os.fspath(path)} cannot be read as a model: {reason(error)}; the file is "
            f"damaged or of another kind"
        ) from error


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # a ZipInfo made by hand has a fixed date, so equal models give equal bytes
    archive.writestr(zipfile.ZipInfo(name), data)


def _read(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The whole member, which makes zipfile compare its CRC."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"member {name} is compressed")
    if member.file_size > most:
        raise ValueError(f"member {name} holds {member.file_size} bytes, not at most {most}")
    return archive.read(name)


def _read_head(archive: zipfile.ZipFile) -> tuple[Graph, dict[str, Any]]:
    head = json.loads(_read(archive, HEAD, LONGEST_HEAD))
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError(f"{HEAD} does not say that this is a model")
    if head.get("version") != VERSION:
        raise ValueError(
            f"its format version is {head.get('version')!r}, this release reads {VERSION}"
        )
    if not isinstance(head.get("meta"), dict):
        raise ValueError(f"{HEAD} has no table named 'meta'")
    return Graph.from_json(json.dumps(head.get("graph"))), head["meta"]


def _read_array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    data = io.BytesIO(_read(archive, f"{name}.npy", LONGEST_NPY_HEAD + 8 * math.prod(shape)))
    if npy.read_magic(data) != (1, 0):
        raise ValueError(f"member {name}.npy is no version 1.0 array")
    got, fortran, dtype = npy.read_array_header_1_0(data)
    if (got, fortran, dtype) != (shape, False, np.dtype("<f4")):
        raise ValueError(f"member {name}.npy holds {dtype} of shape {got}, not float32 of {shape}")
    return np.frombuffer(data.read(), "<f4").reshape(shape).astype(np.float32)

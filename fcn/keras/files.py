"""Keras model files without Keras: ``.keras`` (version 3) and full-model ``.h5``.

Nothing that a file names is imported or executed. Every array is compared with the shape that the
configuration asks for before it is read, and links to other files are refused.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fcn._errors import reason
from fcn._extras import require
from fcn.graph import Model

LONGEST_CONFIG = 1 << 26  # bytes of JSON
MOST_LAYERS = 5000  # side by side
SHRUNK = 100  # more than this, and something small asks for much memory: weights hardly shrink
CONTAINERS = ("Functional", "Model", "Sequential")  # "Model" is what Keras 2 wrote


@dataclass(frozen=True)
class Place:
    """A layer in its model: its name, and what its class is called among its neighbours."""

    name: str
    key: str


class Store(Protocol):
    """Where the arrays of a layer are."""

    def read(
        self, trail: Sequence[Place], index: int, names: Sequence[str], shape: tuple[int, ...], /
    ) -> NDArray[np.float32]:
        """One variable.

        Parameters
        ----------
        trail : sequence of Place
            The layer, behind the models that it is nested in.
        index : int
            Number of the variable within the layer.
        names : sequence of str
            What releases of Keras call the variable.
        shape : tuple of int
            What it must have.
        """


def places(layers: Sequence[dict[str, Any]]) -> list[Place]:
    """Of the layers of one model: ``.keras`` files count the layers of each class."""
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"a model has {len(layers)} layers; up to {MOST_LAYERS} are read")
    seen: Counter[str] = Counter()
    found = []
    for layer in layers:
        kind = "Functional" if layer["class_name"] == "Model" else layer["class_name"]
        snake = _snake_case(kind)
        number = seen[snake]
        seen[snake] += 1
        name = str(layer.get("name") or layer["config"]["name"])
        found.append(Place(name, f"{snake}_{number}" if number else snake))
    return found


def _snake_case(name: str) -> str:
    """As Keras writes class names: Conv2D -> conv2d, BatchNormalization -> batch_normalization."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def load(path: str | os.PathLike[str], output: str | None = None) -> Model:
    """Read a Keras model; see `fcn.load`."""
    from fcn.keras import graph

    with explained(path), _opened(Path(path)) as (config, store):
        network, weights, origins = graph.translate(config, store, output)
        return Model(network, weights, {"source": Path(path).name}, origins)


@contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Tell what reading a damaged file raises as one ValueError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except _errors() as error:
        missing = "there is no " if isinstance(error, KeyError) else ""
        raise ValueError(
            f"{os.fspath(path)} cannot be read as a Keras model: {missing}{reason(error)}"
        ) from error


def _errors() -> tuple[type[Exception], ...]:
    """What reading a damaged file may raise."""
    return (
        zipfile.BadZipFile, EOFError, KeyError, IndexError, AttributeError, OSError, RuntimeError,
        TypeError, ValueError, RecursionError, NotImplementedError,
    )  # fmt: skip


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, Any], Store]]:
    """Configuration and arrays."""
    h5py = require("h5py", extra="keras", purpose="reading Keras models")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            config = json.loads(_member(archive, "config.json", LONGEST_CONFIG))
            weights = _member(archive, "model.weights.h5", None)
        with h5py.File(io.BytesIO(weights), "r") as file:
            yield config, _Numbered(h5py, file)
        return
    with path.open("rb"):  # FileNotFoundError and its like in Python's words
        pass
    with h5py.File(path, "r") as file:
        text = file.attrs.get("model_config")
        if text is None:
            raise ValueError(
                "it holds weights without an architecture; save the whole model with "
                "model.save('name.keras'), or give architecture="
            )
        if len(text) > LONGEST_CONFIG:
            raise ValueError(f"its configuration is {len(text)} bytes long")
        if str(file.attrs.get("keras_version", "")).startswith("2.") and "hard_sigmoid" in str(
            text
        ):
            raise ValueError("Keras 3 has changed hard_sigmoid; save the model with Keras 3")
        yield json.loads(text), _Named(h5py, file)


def _member(archive: zipfile.ZipFile, name: str, most: int | None) -> bytes:
    member = archive.getinfo(name)
    limit = SHRUNK * member.compress_size if most is None else most
    if member.file_size > limit:
        raise ValueError(f"member {name} would unpack to {member.file_size} bytes")
    with archive.open(member) as file:  # no more than the size that it claims
        return file.read(member.file_size)


class Arrays:
    """Arrays of an HDF5 file, compared with what they must be before they are read."""

    def __init__(self, h5py: Any, file: Any) -> None:
        self._h5py = h5py
        self._file = file

    def find(self, path: str) -> Any:
        """The group or dataset, over hard links only: others may lead to other files."""
        here = self._file
        for part in path.split("/"):
            link = here.get(part, getlink=True) if isinstance(here, self._h5py.Group) else None
            if link is None:
                raise ValueError(f"the file has no array {path}")
            if not isinstance(link, self._h5py.HardLink):
                raise ValueError(f"{path} is a link to somewhere else")
            here = here[part]
        return here

    def array(self, path: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """One of them; ValueError unless it is of that shape, in this file, and as large."""
        found = self.find(path)
        if not isinstance(found, self._h5py.Dataset):
            raise ValueError(f"{path} is no array")
        if found.shape != shape:
            raise ValueError(f"{path} has shape {found.shape}, the layer needs {shape}")
        if found.dtype.kind != "f" or found.dtype.itemsize > 8:
            raise ValueError(f"{path} holds {found.dtype}; save the model with float32 weights")
        if found.external or found.is_virtual:
            raise ValueError(f"{path} lies in another file")
        nbytes = math.prod(shape) * found.dtype.itemsize
        if nbytes > SHRUNK * found.id.get_storage_size():
            raise ValueError(f"{path} would unpack to {nbytes} bytes")
        return np.ascontiguousarray(found[()], np.float32).reshape(shape)


class _Numbered(Arrays):
    """``layers/<class>[_n]/vars/<i>``, as in ``.keras`` files."""

    def read(
        self, trail: Sequence[Place], index: int, _: Sequence[str], shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        group = "/".join(f"layers/{place.key}" for place in trail) + "/vars"
        name = self.find(group).attrs.get("name", trail[-1].name)
        if name != trail[-1].name:
            raise ValueError(f"{group} belongs to layer {name!r}, not to {trail[-1].name!r}")
        return self.array(f"{group}/{index}", shape)


class _Named(Arrays):
    """``model_weights/<layer>/.../<layer>/<variable>``, as in full-model ``.h5`` files."""

    def read(
        self, trail: Sequence[Place], _: int, names: Sequence[str], shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        group = f"model_weights/{trail[0].name}"
        listed = [
            n.decode() if isinstance(n, bytes) else str(n)
            for n in self.find(group).attrs["weight_names"]
        ]
        endings = [f"/{trail[-1].name}/{name}{tail}" for name in names for tail in ("", ":0")]
        found = [n for n in listed if f"/{n}".endswith(tuple(endings))]
        for place in reversed(trail[:-1]):  # a name may hold those of the models around the layer
            if len(found) > 1:
                endings = [f"/{place.name}{ending}" for ending in endings]
                found = [n for n in found if f"/{n}".endswith(tuple(endings))]
        if len(found) != 1:
            raise ValueError(
                f"layer {trail[-1].name!r} has {len(found)} arrays named {' or '.join(names)} in "
                f"{group}; save the model as .keras"
            )
        return self.array(f"{group}/{found[0]}", shape)

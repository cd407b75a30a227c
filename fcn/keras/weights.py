"""Keras's ``.weights.h5``: arrays without an architecture, for a graph that is given.

The arrays of a layer lie in a group ``vars``: below the attribute that holds the layer, where its
model is a class of its own, or below ``layers/<class>[_n]``, where the layer's name is but an
attribute in the file (since Keras 3.10), and often one that Keras made up, such as ``conv2d_3``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn._extras import require
from fcn.fitting import insist
from fcn.graph import Graph
from fcn.keras.files import Arrays, explained

MOST = 20_000  # groups that are looked at: no network has more, and links may run in circles
MADE_UP = re.compile(r"(conv2d|conv2d_transpose|depthwise_conv2d|p_re_lu)(_\d+)?")  # by Keras
APART = ("optimizer", "seed_generator")  # they have arrays, too, but are no layers


@dataclass(frozen=True)
class Layer:
    """One group of arrays, and how it may be called."""

    path: str
    name: str | None  # what the file says
    shapes: tuple[tuple[int, ...], ...]

    @property
    def chosen(self) -> list[str]:
        """What a person has called it: the attribute that holds it, its own name, or neither."""
        names = (self.path.split("/")[-2:][0], self.name)
        return [name for name in names if name and not MADE_UP.fullmatch(name)]


def load(path: str | os.PathLike[str], graph: Graph) -> dict[str, NDArray[np.float32]]:
    """One array for each of ``graph.parameters()``; see `fcn.load`."""
    h5py = require("h5py", extra="keras", purpose="reading Keras models")
    with explained(path), h5py.File(path, "r") as file:
        layers = list(_layers(h5py, file))
        wanted = _by_node(graph)
        owners = {layer.path: node for node, layer in _matched(wanted, layers).items()}
        where = {}  # name of an array -> its path and shape
        for layer in layers:
            kinds = list(wanted.get(owners.get(layer.path, ""), ()))
            for i, shape in enumerate(layer.shapes):
                array = f"{layer.path}/{i}"
                name = f"{owners[layer.path]}/{kinds[i]}" if i < len(kinds) else array
                where[name] = array, shape
        insist(graph, graph.parameters(), {name: shape for name, (_, shape) in where.items()})
        arrays = Arrays(h5py, file)
        return {name: arrays.array(*where[name]) for name in graph.parameters()}


def _layers(h5py: Any, file: Any) -> Iterator[Layer]:
    """What has arrays, over hard links only."""
    waiting, seen = [("", file)], 0
    while waiting:
        path, group = waiting.pop()
        seen += 1
        if seen > MOST:
            raise ValueError(f"it has more than {MOST} groups")
        if path.endswith("/vars"):
            sizes = [group[str(i)].shape for i in range(len(group)) if _is_hard(h5py, group, i)]
            if sizes:
                name = group.attrs.get("name")
                yield Layer(path.lstrip("/"), None if name is None else str(name), tuple(sizes))
            continue
        for key in group:
            if key in APART or not _is_hard(h5py, group, key):
                continue
            if isinstance(group[key], h5py.Group):
                waiting.append((f"{path}/{key}", group[key]))


def _is_hard(h5py: Any, group: Any, key: object) -> bool:
    return isinstance(group.get(str(key), getlink=True), h5py.HardLink)


def _by_node(graph: Graph) -> dict[str, dict[str, tuple[int, ...]]]:
    """Node -> kind of array -> its shape, in the order in which Keras numbers them."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in graph.parameters().items():
        node, _, kind = key.rpartition("/")
        found.setdefault(node, {})[kind] = shape
    return found


def _matched(wanted: Mapping[str, Mapping[str, Any]], layers: list[Layer]) -> dict[str, Layer]:
    """Node -> layer: by name, and where names tell nothing by shapes that occur but once."""
    named = {layer.name: layer for layer in layers}
    if named.keys() == wanted.keys() and len(named) == len(layers):
        return {node: named[node] for node in wanted}
    found: dict[str, Layer] = {}
    for layer in layers:
        for node in wanted.keys() & layer.chosen:
            found.setdefault(node, layer)
    shapes = {n: tuple(kinds.values()) for n, kinds in wanted.items() if n not in found}
    rest = [layer for layer in layers if layer not in found.values()]
    for node, own in shapes.items():
        fitting = [layer for layer in rest if layer.shapes == own]
        if len(fitting) == 1 and list(shapes.values()).count(own) == 1:
            found[node] = fitting[0]
    return found

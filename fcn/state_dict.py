"""Weights that PyTorch has, from a ``.safetensors`` file, for a graph that is given.

Modules are called as the nodes: ``conv1_1.weight`` in the usual ports of FCN on VGG16,
``backbone.conv1.weight`` in torchvision's networks. The batch normalisation of a convolution is the
module that follows it, ``bn1`` after ``conv1`` and ``4.1`` after ``4.0``, and is folded into it.
"""

import os
import re
from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn import safetensors
from fcn._errors import reason
from fcn.building import scaled_kernel
from fcn.fitting import insist
from fcn.graph import Graph
from fcn.layouts import from_channels_first, to_channels_first

__all__ = ["load"]

Weights = dict[str, NDArray[np.float32]]

EPSILON = 1e-5  # of PyTorch's batch normalisation; a state_dict does not tell it
NORM = ("weight", "bias", "running_mean", "running_var")
# what has no part in the network's result
UNUSED = re.compile(r"aux_classifier\..*|(.*\.)?num_batches_tracked")


def load(path: str | os.PathLike[str], graph: Graph) -> Weights:
    """One array for each of ``graph.parameters()``; see `fcn.load`."""
    with Path(path).open("rb") as file:
        try:
            table = safetensors.table(file)
            table = {name: e for name, e in table.items() if not UNUSED.fullmatch(name)}
            insist(graph, _wanted(graph, table), {name: e.shape for name, e in table.items()})
            return _weights(graph, {n: safetensors.read(file, e) for n, e in table.items()})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{os.fspath(path)} cannot be read as weights: {reason(error)}"
            ) from error


def _wanted(graph: Graph, there: Container[str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what the graph needs, where the file has it normalised or not."""
    wanted = {}
    for key, shape in graph.parameters().items():
        name, _, kind = key.rpartition("/")
        norm = _norm(name, there)
        if kind == "kernel":
            kernel = np.broadcast_to(np.float32(0), shape)
            wanted[f"{name}.weight"] = to_channels_first(graph.node(name).op, kernel).shape
        elif kind != "bias" or norm is None or f"{name}.bias" in there:
            wanted[f"{name}.{kind}"] = shape
        if kind == "bias" and norm is not None:
            wanted |= dict.fromkeys((f"{norm}.{part}" for part in NORM), shape)
    return wanted


def _weights(graph: Graph, arrays: Mapping[str, NDArray[np.float32]]) -> Weights:
    found = {}
    for node in graph.nodes:
        if node.rule.kernel is None:
            continue
        kernel = from_channels_first(node.op, arrays[f"{node.name}.weight"], node.attrs)
        bias = arrays.get(f"{node.name}.bias")
        if norm := _norm(node.name, arrays):
            scale, shift, mean, variance = (arrays[f"{norm}.{p}"].astype(float) for p in NORM)
            if not np.all(variance + EPSILON > 0):
                raise ValueError(f"a variance in {norm!r} is not positive")
            factor = scale / np.sqrt(variance + EPSILON)
            kernel = scaled_kernel(node, kernel, factor)
            bias = ((0.0 if bias is None else bias) - mean) * factor + shift
        found[f"{node.name}/kernel"] = kernel.astype(np.float32)
        if bias is not None:
            found[f"{node.name}/bias"] = bias.astype(np.float32)
    return found


def _norm(name: str, there: Container[str]) -> str | None:
    """The module that normalises what the convolution of that name makes, if there is one."""
    head, dot, last = name.rpartition(".")
    after = str(int(last) + 1) if last.isdecimal() else last.replace("conv", "bn", 1)
    norm = f"{head}{dot}{after}"
    return norm if norm != name and f"{norm}.running_mean" in there else None

"""What the scores of a network say of each pixel: its class, and how sure that is."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt

import fastconv
from fcn.graph import INPUT, Graph, Node
from fcn.rows import RESIZES

__all__ = ["PLANES", "are_probabilities", "assess", "check_planes", "labels"]

Array = npt.NDArray[np.float32]

PLANES = ("margin", "probability", "entropy")
CHUNK = 1 << 20  # numbers that are assessed at once
MOVED = ("crop", "trim2d", *RESIZES)  # what leaves probabilities what they are


def are_probabilities(graph: Graph) -> bool:
    """Whether the network ends in a softmax or a sigmoid, so that its scores are probabilities."""
    node = graph.node(graph.output)
    while node.op in MOVED and node.inputs[0] != INPUT:
        node = graph.node(node.inputs[0])
    return node.op == "softmax" or _activation(node) == "sigmoid"


def _activation(node: Node) -> str | None:
    found: str | None = node.attrs.get("activation")
    return found


def labels(scores: Array, graph: Graph, num_threads: int | None) -> npt.NDArray[np.integer]:
    """The class of each pixel; see `Session.segment`.

    Parameters
    ----------
    scores : ndarray, (n, h, w, classes)

    Returns
    -------
    ndarray, (n, h, w)
    """
    if scores.shape[3] > 1:
        return fastconv.argmax(scores, num_threads=num_threads)
    return (scores[..., 0] > _even(graph)).astype(np.uint8)


def _even(graph: Graph) -> float:
    """The score of one channel where both classes are equally likely."""
    return 0.5 if are_probabilities(graph) else 0.0


def check_planes(planes: Collection[str]) -> tuple[str, ...]:
    """The names of planes; ValueError for one that there is not."""
    names = (planes,) if isinstance(planes, str) else tuple(planes)
    if unknown := [name for name in names if name not in PLANES]:
        raise ValueError(f"segment: planes are {', '.join(PLANES)}, got {unknown}")
    return names


def assess(scores: Array, graph: Graph, planes: Collection[str]) -> dict[str, Array]:
    """How sure the class of each pixel is; the formulas are those of `Session.segment`.

    Parameters
    ----------
    scores : ndarray, (h, w, classes)
    graph : Graph
        Of the network that gave them.
    planes : names in `PLANES`

    Returns
    -------
    dict of str to ndarray, (h, w), float32
    """
    h, w, classes = scores.shape
    found = {name: np.empty((h, w), np.float32) for name in planes}
    given = are_probabilities(graph)
    height = max(CHUNK // max(w * classes, 1), 1)
    for low in range(0, h, height):
        part = slice(low, low + height)
        for name, values in _planes(scores[part].astype(np.float64), given, planes):
            found[name][part] = values
    return found


def _planes(
    scores: npt.NDArray[np.float64], given: bool, planes: Collection[str]
) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    if scores.shape[-1] == 1:  # the other class has the logit 0, or what is left of 1
        scores = np.concatenate([1 - scores if given else np.zeros_like(scores), scores], axis=-1)
    if "margin" in planes:
        second, first = np.moveaxis(np.partition(scores, -2, axis=-1)[..., -2:], -1, 0)
        yield "margin", first - second
    if given:
        p = scores
    else:
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p = powers / powers.sum(axis=-1, keepdims=True)
    if "probability" in planes:
        yield "probability", p.max(axis=-1)
    if "entropy" in planes:
        logs = np.log(p, out=np.zeros_like(p), where=p > 0)
        yield "entropy", -(p * logs).sum(axis=-1)

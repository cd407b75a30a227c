"""Whether an answer is right, on a batch that repeats two pictures."""

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import check, peers
from benchmarks.graphs import Network
from benchmarks.layers import Array, Layer, batch
from benchmarks.summary import Json
from fastconv import bounds
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d

PICTURES = 2  # that differ in a batch
PEERS = 10  # how many times as wrong as ours others may be


class Judge:
    """The right answer of a layer, and how far others may be from it.

    Parameters
    ----------
    layer : Layer
    limit : float
        Relative error from which on an answer of ours is wrong.
    bounded : bool
        Whether ours must keep the bounds, too, which takes the host a while.

    Attributes
    ----------
    x : ndarray
        The input, float32.
    """

    def __init__(self, layer: Layer, limit: float, bounded: bool) -> None:
        n = layer.x[0]
        few = batch(layer, min(n, PICTURES))
        which = np.arange(n) % few.x[0]
        pictures = few.input()
        self.layer, self.limit, self.bounded = layer, limit, bounded
        self.x = pictures[which]
        self.expected = check.answer(few)[which]
        self._bounds: dict[str, Array | None] = {}

    def outcome(self, engine: str, y: Array, algorithm: str = "") -> Json:
        """What is noted of an answer: with "rounds" where it may be timed."""
        error = check.error(self.layer, y, self.expected)
        if np.isnan(error):  # JSON has no NaN
            return {"failed": "there are NaN in its answer"}
        found: Json = {"error": error}
        limit = self.limit if engine == peers.OURS else PEERS * self.limit
        if engine == peers.OURS and self.bounded and (bound := self.bound(algorithm)) is not None:
            inside = np.abs(y[:1] - self.expected[:1]) <= bound
            found["outside"] = int(np.sum(~inside))
        return {**found, "rounds": []} if error < limit and not found.get("outside") else found

    def bound(self, algorithm: str) -> Array | None:
        """Bounds of the first image; None for labels, networks and several steps."""
        if algorithm not in self._bounds:
            self._bounds[algorithm] = self._bound(algorithm)
        return self._bounds[algorithm]

    def _bound(self, algorithm: str) -> Array | None:
        layer = self.layer
        if layer.labels or len(layer.steps) > 1 or isinstance(layer.steps[0], Network):
            return None
        step: Any = replace(layer.steps[0], x=(1, *layer.x[1:]))
        x, [arrays] = self.x[:1], layer.weights()
        match step:
            case Conv2d():
                w, bias = arrays
                bound = bounds.conv2d(x, w, bias, step, algorithm)
            case ConvTranspose2d():
                w, bias = arrays
                bound = bounds.conv2d_transpose(x, w, bias, step, algorithm)
            case Pool2d():
                bound = bounds.pool2d(x, step)
            case Resize2d():
                bound = bounds.resize2d(x, step)
            case ChannelOp():
                bound = bounds.channel_op(x, step)
        if layer.dtype == "float32":
            return bound
        return bounds.rounded_to(layer.dtype, np.abs(self.expected[:1]), bound)

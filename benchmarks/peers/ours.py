"""fastconv: what the others are compared with."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastconv
from benchmarks.layers import Array, Layer, Step
from benchmarks.peers import Program
from fastconv.spec import Conv2d
from fcn.graph import Model
from fcn.session import Session


class Engine:
    """Plans with `out=`; a whole network by fcn.session.Session."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.version = fastconv.__version__

    def variants(self, layer: Layer) -> dict[str, Callable[[], Program]]:
        return {"auto": partial(self._build, layer)}

    def _build(self, layer: Layer) -> Program:
        x = layer.input()
        if layer.graph is not None:
            session = Session(network(layer), self.threads)
            return Program(lambda: session.run(x))
        plans = plan(layer, self.threads)
        outs = [p(np.zeros(p.spec.x, np.float32)) for p in plans]  # where the engine puts results

        def run() -> Array:
            y = x
            for p, out in zip(plans, outs, strict=True):
                y = p(y, out=out)
            return y

        return Program(run)


def plan(layer: Layer, threads: int) -> list[fastconv.Plan]:
    """The plan of each step."""
    return [
        _plan(step, w, bias, threads)
        for step, (w, bias) in zip(layer.steps, layer.weights(), strict=True)
    ]


def _plan(step: Step, w: Array, bias: Array, threads: int) -> fastconv.Plan:
    options: dict[str, Any] = {
        "stride": step.stride,
        "padding": step.pad,
        "dilation": step.dilation,
        "groups": step.groups,
        "activation": step.activation,
        "num_threads": threads,
    }
    if isinstance(step, Conv2d):
        return fastconv.plan_conv2d(step.x, w, bias, pool=step.pool, **options)
    return fastconv.plan_conv2d_transpose(step.x, w, bias, **options)


def network(layer: Layer) -> Model:
    """The layer's graph with the layer's weights."""
    assert layer.graph is not None
    arrays = [array for pair in layer.weights() for array in pair]
    return Model(layer.graph, dict(zip(layer.graph.parameters(), arrays, strict=True)))

"""fastconv: what the others are compared with."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import fastconv
from benchmarks.layers import Array, Layer, Step, as_dtype, is_global
from benchmarks.peers import AUTO, Program
from fastconv import cpu
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d
from fcn import native
from fcn.session import Session


class Engine:
    """Plans and functions with `out=`; a whole network by fcn.session.Session."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.version = fastconv.__version__

    def variants(self, layer: Layer) -> dict[str, Callable[[], Program]]:
        return {name: partial(self._build, layer, name) for name in algorithms(layer)}

    def _build(self, layer: Layer, algorithm: str) -> Program:
        x = layer.input()
        if layer.whole is not None:
            whole = layer.whole
            path = layer.file("model.npz", lambda path: native.save(whole.model, path))
            session = Session(native.load(path) if path else whole.model, self.threads)
            return Program(lambda: session.run(x))
        steps = calls(layer, self.threads, algorithm)
        outs, y = [], x
        for call in steps:
            y = call(y)
            outs.append(y)  # where the engine puts results from now on

        def run() -> Array:
            y = x
            for call, out in zip(steps, outs, strict=True):
                y = call(y, out=out)
            return y

        return Program(run, lambda y: y.reshape(layer.out))


def algorithms(layer: Layer) -> list[str]:
    """Names by which a layer can run: "auto", and for one convolution all that can serve it."""
    step = layer.steps[0]
    if len(layer.steps) > 1 or not isinstance(step, Conv2d):
        return [AUTO]
    able = {row.name for row in cpu.ALGORITHMS if not row.supports(step)}
    return [name for name in cpu.NAMES if name == AUTO or name in able]


def calls(
    layer: Layer, threads: int | None, algorithm: str = AUTO, device: str = "cpu"
) -> list[Callable[..., Array]]:
    """Each step as a function of ``(x, out=None)``; a `fastconv.Plan` where weights are packed."""
    return [
        call(step, [as_dtype(a, layer.dtype) for a in arrays], algorithm, threads, device)
        for step, arrays in zip(layer.steps, layer.weights(), strict=True)
    ]


def call(
    step: Step, arrays: Sequence[Array], algorithm: str, threads: int | None, device: str
) -> Callable[..., Array]:
    """As `calls`, of one step; its weights and bias have the dtype of the images."""
    where: Any = {"num_threads": threads, "device": device}
    match step:
        case Conv2d():
            return fastconv.plan_conv2d(
                step.x, *arrays, stride=step.stride, padding=step.pad, dilation=step.dilation,
                groups=step.groups, activation=step.activation, pool=step.pool,
                algorithm=algorithm, **where,
            )  # fmt: skip
        case ConvTranspose2d():
            crop = [(before, max(after, 0)) for before, after in step.pad]
            return fastconv.plan_conv2d_transpose(
                step.x, *arrays, stride=step.stride, padding=crop, output_shape=step.out_hw,
                dilation=step.dilation, groups=step.groups, activation=step.activation, **where,
            )  # fmt: skip
        case Pool2d() if is_global(step):
            whole: Any = getattr(fastconv, f"global_{step.op}")
            return lambda x, out=None: whole(x, **where)  # noqa: ARG005
        case Pool2d():
            return partial(
                getattr(fastconv, step.op), size=step.size, stride=step.stride, padding=step.pad,
                **where,
            )  # fmt: skip
        case Resize2d():
            return partial(fastconv.resize2d, size=step.size, **where)
        case ChannelOp():
            return partial(getattr(fastconv, step.kind), **where)
    raise TypeError(f"no function for {step}")

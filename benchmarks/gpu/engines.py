"""Who is compared on a GPU: fastconv, and PyTorch with cuDNN."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import fastconv
from benchmarks import peers
from benchmarks.graphs import Operations
from benchmarks.layers import Layer, as_dtype
from benchmarks.peers import AUTO, ours
from benchmarks.peers import torch as cpu_torch
from benchmarks.peers.onnx_graph import to_nhwc
from fastconv import cuda
from fastconv.spec import Conv2d
from fcn.session import Session


@dataclass(frozen=True)
class Precision:
    """How wide numbers are, and their products.

    Attributes
    ----------
    name : str
    dtype : str
        Of images and weights.
    tf32 : bool
        Whether products of float32 numbers may be of TF32.
    limit : float
        Relative error from which on an answer of ours is wrong.
    column : int
        Of `device.SHEETS`.
    units : str
        What that column is of.
    """

    name: str
    dtype: str
    tf32: bool
    limit: float
    column: int
    units: str


# Limits are 16 units roundoff, but in float32, whose fast algorithms lose some digits, as on the
# CPU.
PRECISIONS = {
    row.name: row
    for row in (
        Precision("float32", "float32", False, 1e-4, 0, "the float32 units"),
        Precision("tf32", "float32", True, 2.0**-7, 1, "the TF32 tensor cores"),
        Precision("bfloat16", "bfloat16", False, 2.0**-4, 2, "the 16-bit tensor cores"),
        Precision("float16", "float16", False, 2.0**-7, 2, "the 16-bit tensor cores"),
    )
}


@dataclass(frozen=True)
class Program(peers.Program):
    """A layer, ready to run; each call takes the next buffers.

    Attributes
    ----------
    kernels : tuple of str
        Which of our kernels multiply.
    algorithm : str
        Of a single convolution.
    """

    kernels: tuple[str, ...] = ()
    algorithm: str = ""


class UnableError(ValueError):
    """An algorithm cannot serve a layer."""


class Engine(Protocol):
    """Attributes are as in `peers`: `name`, a key of `PEERS`, and the `version`."""

    name: str
    version: str

    def variants(self, layer: Layer, precision: Precision) -> list[str]:
        """Ways to run a layer; of ours the first one counts that can."""

    def build(self, layer: Layer, variant: str, xs: Sequence[Any]) -> Program:
        """A program that reads `xs` in turn; UnableError where the variant has none."""


class Ours:
    """Plans, and functions with out=; float32 networks by `fcn.Session`, which makes CUDA graphs.

    At other precisions networks run node by node.
    """

    name = peers.OURS
    version = fastconv.__version__

    def __init__(self, device: Any) -> None:
        self.device = device

    def variants(self, layer: Layer, precision: Precision) -> list[str]:
        own = [name for name in cuda.NAMES if name not in (AUTO, "tf32")]
        names = ["tf32", AUTO] if precision.tf32 else [AUTO, *own]
        if layer.whole is not None:
            return names[:1]
        alone = len(layer.steps) == 1 and isinstance(layer.steps[0], Conv2d)
        return names if alone else [AUTO]

    def build(self, layer: Layer, variant: str, xs: Sequence[Any]) -> Program:
        plans: list[Any] = []
        if layer.whole is not None and (variant, layer.dtype) == (AUTO, "float32"):
            call = self._session(layer, plans)
        elif layer.whole is not None:
            call = self._network(layer, variant, plans)
        else:
            with _asking():
                plans = ours.calls(layer, None, variant, "cuda")
            call = partial(_chain, plans)
        made = [plan for plan in plans if isinstance(plan, fastconv.Plan)]
        kind = fastconv.label_dtype(layer.steps[-1].x[3]).name if layer.labels else layer.dtype
        outs = [None if layer.whole else self.device.poisoned(layer.out, kind) for _ in xs]
        turns = itertools.cycle(zip(xs, outs, strict=True))
        return Program(
            lambda: call(*next(turns)),
            lambda y: self.device.download(y).reshape(layer.out),
            kernels=tuple(plan.kernel for plan in made),
            algorithm=made[0].algorithm if len(made) == len(layer.steps) == 1 else "",
        )

    def _session(self, layer: Layer, plans: list[Any]) -> Callable[..., Any]:
        assert layer.whole is not None
        session = Session(layer.whole.model, device="cuda")
        plans += [step.plan for step in session.program(layer.x).steps]
        return lambda x, out: session.run(x)  # noqa: ARG005 - results are new arrays

    def _network(self, layer: Layer, variant: str, plans: list[Any]) -> Callable[..., Any]:
        """Node by node; where the variant cannot serve, by what is chosen."""
        device = self.device

        def window(spec: Any, *arrays: Any) -> Any:
            arrays = tuple(as_dtype(a, layer.dtype) for a in arrays)
            try:
                with _asking():
                    plans.append(ours.call(spec, arrays, variant, None, "cuda"))
            except UnableError:
                plans.append(ours.call(spec, arrays, AUTO, None, "cuda"))
            return plans[-1]

        assert layer.whole is not None
        function = layer.whole.function(
            Operations(window, device.concat, device.add, device.relu, device.crop)
        )
        return lambda x, out: function(x)  # noqa: ARG005 - results are new arrays


def _chain(calls: Sequence[Callable[..., Any]], x: Any, out: Any) -> Any:
    for call in calls[:-1]:
        x = call(x)
    return calls[-1](x, out=out)


@contextmanager
def _asking() -> Iterator[None]:
    """Tell that an algorithm cannot serve a layer from other errors."""
    try:
        yield
    except ValueError as error:
        if "cannot serve this layer" in str(error):
            raise UnableError from error
        raise


class Torch:
    """inference_mode, channels_last, cudnn.benchmark; TorchScript's optimize_for_inference."""

    name = "torch"

    def __init__(self, device: Any) -> None:
        self.device = device
        self._modules = cpu_torch.Engine(fastconv.get_num_threads())
        self.version = self._modules.version

    def variants(self, layer: Layer, precision: Precision) -> list[str]:  # noqa: ARG002
        return ["channels_last", "optimized"]

    def build(self, layer: Layer, variant: str, xs: Sequence[Any]) -> Program:
        torch = self.device.torch
        network = self._modules.network(layer).to(self.device.place, getattr(torch, layer.dtype))
        network = network.to(memory_format=torch.channels_last)
        views = [x.permute(0, 3, 1, 2) for x in xs]  # the same memory
        if variant == "optimized":
            with torch.no_grad():
                traced = torch.jit.freeze(torch.jit.trace(network, views[0]))
                network = torch.jit.optimize_for_inference(traced)
        kept: list[Any] = [None] * len(xs)  # so that a result does not get the last one's memory
        turns = itertools.cycle(range(len(xs)))

        def run() -> Any:
            i = next(turns)
            with torch.inference_mode():
                kept[i] = network(views[i])
            return kept[i]

        return Program(run, lambda y: to_nhwc(self.device.download(y)))

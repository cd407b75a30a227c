"""PyTorch: three ways to run a network on its CPU kernels (oneDNN)."""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.graphs import Network, Operations
from benchmarks.layers import Array, Filter, Layer, Step, is_argmax, is_global
from benchmarks.peers import Program
from benchmarks.peers.onnx_graph import to_nhwc
from fastconv.shapes import Pad
from fastconv.spec import ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d


class Engine:
    """inference_mode; NCHW, channels_last, and TorchScript's optimize_for_inference."""

    def __init__(self, threads: int) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        self.version: str = self.torch.__version__

    def variants(self, layer: Layer) -> dict[str, Callable[[], Program]]:
        names = ("contiguous", "channels_last", "optimized")
        return {name: partial(self._build, layer, name) for name in names}

    def _build(self, layer: Layer, variant: str) -> Program:
        torch, network = self.torch, self.network(layer)
        layout = torch.channels_last if variant == "channels_last" else torch.contiguous_format
        x = torch.from_numpy(layer.input()).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        network = network.to(memory_format=layout)
        if variant == "optimized":
            with torch.no_grad():
                traced = torch.jit.freeze(torch.jit.trace(network, x))
                network = torch.jit.optimize_for_inference(traced)

        def run() -> Any:
            with torch.inference_mode():
                return network(x)

        return Program(run, lambda y: to_nhwc(np.asarray(y.to_dense())))

    def network(self, layer: Layer) -> Any:
        """The layer as a module; a file has its traced form."""
        traced = layer.file("model.pt", lambda path: self._trace(layer, path))
        if traced is not None:
            return self.torch.jit.load(str(traced)).eval()
        if layer.whole is not None:
            return self._network(layer.whole).eval()
        steps = zip(layer.steps, layer.weights(), strict=True)
        modules = [m for step, arrays in steps for m in self._modules(step, *arrays)]
        return self.torch.nn.Sequential(*modules).eval()

    def _trace(self, layer: Layer, path: Path) -> None:
        assert layer.whole is not None
        x = self.torch.from_numpy(layer.input()).permute(0, 3, 1, 2).contiguous()
        self.torch.jit.trace(self._network(layer.whole).eval(), x).save(str(path))

    def _network(self, whole: Network) -> Any:
        torch, parts = self.torch, self.torch.nn.ModuleList()

        def window(spec: Any, *arrays: Array) -> Any:
            parts.append(torch.nn.Sequential(*self._modules(spec, *arrays)))
            return parts[-1]

        def crop(x: Any, offset: tuple[int, int], size: tuple[int, int]) -> Any:
            (top, left), (rows, cols) = offset, size
            return x[:, :, top : top + rows, left : left + cols]

        operations = Operations(
            window, lambda *xs: torch.cat(xs, 1), torch.add, torch.nn.functional.relu, crop
        )
        network = self._module(whole.function(operations))
        network.parts = parts  # what moves to another layout with it
        return network

    def _modules(self, step: Step, *arrays: Array) -> Iterator[Any]:
        nn = self.torch.nn
        match step:
            case Conv2d() | ConvTranspose2d():
                yield from self._filter(step, *arrays)
            case Pool2d() if is_global(step):
                yield nn.AdaptiveMaxPool2d(1) if step.kind == "max" else nn.AdaptiveAvgPool2d(1)
            case Pool2d():
                # A last window that reaches past the image is how PyTorch says "pad the end".
                before, uneven = _before(step.pad), any(a != b for a, b in step.pad)
                window = step.size, step.stride, before
                if step.kind == "max":
                    yield nn.MaxPool2d(*window, ceil_mode=uneven)
                else:
                    yield nn.AvgPool2d(*window, ceil_mode=uneven, count_include_pad=False)
            case Resize2d():
                yield nn.Upsample(size=step.size, mode="bilinear")
            case ChannelOp() if is_argmax(step):
                yield self._module(lambda x: x.argmax(1))
            case ChannelOp():
                yield nn.Softmax(1)

    def _filter(self, step: Filter, w: Array, bias: Array) -> Iterator[Any]:
        nn, torch = self.torch.nn, self.torch
        before, uneven = _before(step.pad), any(a != b for a, b in step.pad)
        _, rows, cols, filters = step.out
        if isinstance(step, Conv2d):
            if uneven:  # its convolutions pad both ends alike
                (top, bottom), (left, right) = step.pad
                yield nn.ZeroPad2d((left, right, top, bottom))
                before = 0, 0
            module = nn.Conv2d(step.x[3], filters, step.w[:2], step.stride, before,
                               step.dilation, step.groups)  # fmt: skip
        else:
            past = [max(a - b, 0) for a, b in step.pad]
            module = nn.ConvTranspose2d(step.x[3], filters, step.w[:2], step.stride, before, past,
                                        step.groups, dilation=step.dilation)  # fmt: skip
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(w.transpose(3, 2, 0, 1)))
            module.bias.copy_(torch.from_numpy(bias))
        yield module
        if isinstance(step, ConvTranspose2d) and any(a < b for a, b in step.pad):
            yield self._module(lambda x: x[:, :, :rows, :cols])  # a view
        if step.activation is not None:
            yield {"relu": nn.ReLU, "relu6": nn.ReLU6}[step.activation]()
        if getattr(step, "pool", False):
            yield nn.MaxPool2d(2)

    def _module(self, function: Callable[[Any], Any]) -> Any:
        class Function(self.torch.nn.Module):  # type: ignore[misc, name-defined]
            def forward(self, x: Any) -> Any:
                return function(x)

        return Function()


def _before(pad: Pad) -> tuple[int, int]:
    return pad[0][0], pad[1][0]

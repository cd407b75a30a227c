"""PyTorch: three ways to run a network on its CPU kernels (oneDNN)."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.layers import Array, Layer, Step
from benchmarks.peers import Program
from fastconv.spec import Conv2d


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
        torch = self.torch
        steps = zip(layer.steps, layer.weights(), strict=True)
        modules = [m for step, (w, bias) in steps for m in self._step(step, w, bias)]
        network = torch.nn.Sequential(*modules).eval()
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

        return Program(run, lambda y: np.asarray(y.to_dense().permute(0, 2, 3, 1)))

    def _step(self, step: Step, w: Array, bias: Array) -> list[Any]:
        nn, torch = self.torch.nn, self.torch
        (top, bottom), (left, right) = step.pad
        assert (top, left) == (bottom, right), f"PyTorch pads both sides alike, not {step.pad}"
        sizes = step.w[:2], step.stride, (top, left)
        if isinstance(step, Conv2d):
            module = nn.Conv2d(step.x[3], step.w[3], *sizes, step.dilation, step.groups)
        else:
            module = nn.ConvTranspose2d(step.x[3], step.w[2], *sizes)
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(w.transpose(3, 2, 0, 1)))
            module.bias.copy_(torch.from_numpy(bias))
        activation = [nn.ReLU()] if step.activation == "relu" else []
        return [module, *activation, *([nn.MaxPool2d(2)] if getattr(step, "pool", False) else [])]

"""ncnn: Winograd for 3x3 convolutions."""

import importlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.layers import Array, Layer, Step
from benchmarks.peers import Program
from benchmarks.peers.onnx_graph import to_nchw, to_nhwc
from fastconv.spec import Conv2d

MAGIC = 7767517  # first line of the text format of networks
FLOAT32 = np.float32(0).tobytes()  # precedes weights that are stored as they are


class Engine:
    """All float16, bfloat16 and int8 options off, Winograd on, input packed as it likes it."""

    def __init__(self, threads: int) -> None:
        self.ncnn: Any = importlib.import_module("ncnn")
        self.threads = threads
        self.version: str = self.ncnn.__version__
        self.lanes = self._lanes()

    def variants(self, layer: Layer) -> dict[str, Callable[[], Program]]:
        names = ("image by image", "whole batch") if layer.x[0] > 1 else ("image by image",)
        return {name: partial(self._build, layer, whole=name == "whole batch") for name in names}

    def _build(self, layer: Layer, *, whole: bool) -> Program:
        net = self._net(*network(layer))
        x, batch = to_nchw(layer.input()), layer.x[0]
        inputs = [self._packed(part) for part in ([x] if whole else x)]

        def run() -> Any:
            return [self._run(net, mat) for mat in inputs]

        def read(mats: list[Any]) -> Array:
            arrays = []
            for mat in mats:
                plain = self.ncnn.convert_packing(mat, 1, net.opt)
                arrays.append(np.array(plain.numpy("f", 0) if whole else plain))
            return to_nhwc(np.concatenate(arrays).reshape(batch, -1, *layer.out[1:3]))

        return Program(run, read)

    def _net(self, text: str, weights: bytes) -> Any:
        net = self.ncnn.Net()
        for option in dir(net.opt):
            if option.startswith("use_") and any(t in option for t in ("fp16", "bf16", "int8")):
                setattr(net.opt, option, False)
        net.opt.num_threads = self.threads
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.bin"
            path.write_bytes(weights)
            if net.load_param_mem(text) or net.load_model(str(path)):
                raise RuntimeError(f"ncnn cannot load this network:\n{text}")
        return net

    def _run(self, net: Any, mat: Any) -> Any:
        extractor = net.create_extractor()
        extractor.input("x", mat)
        code, y = extractor.extract("y", 1)  # 1: leave the result in ncnn's own layout
        if code:
            raise RuntimeError(f"ncnn failed with code {code}")
        return y

    def _lanes(self) -> int:
        """Channels that ncnn interleaves here: 16 with AVX-512, fewer without."""
        net = self._net(f"{MAGIC}\n2 2\nInput x 0 1 x\nReLU y 1 1 x y\n", b"")
        return int(self._run(net, self._own(np.ones((16, 2, 2), np.float32))).elempack)

    def _packed(self, x: Array) -> Any:
        """The array with its channels interleaved as ncnn's layers want them."""
        mat = self._own(x)
        pack = next(p for p in (16, 8, 4, 1) if p <= self.lanes and mat.c % p == 0)
        return self.ncnn.convert_packing(mat, pack)

    def _own(self, x: Array) -> Any:
        """Array (n, c, h, w) or (c, h, w) -> Mat in memory that ncnn allocates: some layers
        crash on memory of others.
        """
        mat = self.ncnn.Mat(x, 0) if x.ndim == 4 else self.ncnn.Mat(x)  # 0: the axis of the batch
        return mat.clone()


def network(layer: Layer) -> tuple[str, bytes]:
    """The layer in ncnn's formats: text of the network, bytes of its weights."""
    lines, weights, blob = ["Input x 0 1 x"], b"", "x"
    for i, (step, (w, bias)) in enumerate(zip(layer.steps, layer.weights(), strict=True)):
        name, pooled = f"conv{i}", getattr(step, "pool", False)
        last = i == len(layer.steps) - 1
        top = "y" if last and not pooled else name
        lines.append(f"{_operator(step)} {name} 1 1 {blob} {top} {_parameters(step)}")
        outputs_first = (3, 2, 0, 1) if isinstance(step, Conv2d) else (2, 3, 0, 1)
        weights += FLOAT32 + w.transpose(outputs_first).tobytes() + bias.tobytes()
        blob = top
        if pooled:
            top = "y" if last else f"pool{i}"
            lines.append(f"Pooling pool{i} 1 1 {blob} {top} 0=0 1=2 2=2 5=1")  # maximum, valid
            blob = top
    text = "\n".join([str(MAGIC), f"{len(lines)} {len(lines)}", *lines, ""])
    return text, weights


def _operator(step: Step) -> str:
    if not isinstance(step, Conv2d):
        return "Deconvolution"
    return "ConvolutionDepthWise" if step.groups > 1 else "Convolution"


def _parameters(step: Step) -> str:
    (top, bottom), (left, right) = step.pad
    values = {
        0: step.out[3], 1: step.w[1], 11: step.w[0], 2: step.dilation[1], 12: step.dilation[0],
        3: step.stride[1], 13: step.stride[0], 4: left, 15: right, 14: top, 16: bottom,
        5: 1, 6: int(np.prod(step.w)), 7: step.groups, 9: int(step.activation == "relu"),
    }  # fmt: skip
    return " ".join(f"{key}={value}" for key, value in values.items())

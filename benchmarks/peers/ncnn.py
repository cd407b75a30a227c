"""ncnn: Winograd for 3x3 convolutions."""

import importlib
import math
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.graphs import Operations
from benchmarks.layers import Array, Filter, Layer, Step, is_global
from benchmarks.peers import Program
from benchmarks.peers.onnx_graph import to_nchw, to_nhwc
from fastconv.shapes import Pad, Pair
from fastconv.spec import NO_PAD, ChannelOp, Conv2d, ConvTranspose2d, Pool2d, Resize2d

MAGIC = 7767517  # first line of the text format of networks
REST = -233  # for a size: all that is left
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
        net = self._net(*self._files(layer))
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

    def _files(self, layer: Layer) -> tuple[str, bytes | Path]:
        """Text and weights of a network, from files where there are some."""

        def write(path: Path) -> None:
            text, weights = network(layer)
            path.with_suffix(".bin").write_bytes(weights)
            path.write_text(text)

        path = layer.file("model.param", write)
        return (path.read_text(), path.with_suffix(".bin")) if path else network(layer)

    def _net(self, text: str, weights: bytes | Path) -> Any:
        net = self.ncnn.Net()
        for option in dir(net.opt):
            if option.startswith("use_") and any(t in option for t in ("fp16", "bf16", "int8")):
                setattr(net.opt, option, False)
        net.opt.num_threads = self.threads
        with tempfile.TemporaryDirectory() as folder:
            path = weights if isinstance(weights, Path) else Path(folder) / "layer.bin"
            if isinstance(weights, bytes):
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
    """The layer in ncnn's formats: text of the network, bytes of its weights.

    Raises
    ------
    NotImplementedError
        Where ncnn has no such operation.
    """
    net, blob = _Net(), "x"
    if layer.whole is not None:
        return net.finished(layer.whole.function(net.operations())(blob))
    for step, arrays in zip(layer.steps, layer.weights(), strict=True):
        blob = net.step(blob, step, *arrays)
    return net.finished(blob)


class _Net:
    """A network in ncnn's formats, grown layer by layer."""

    def __init__(self) -> None:
        self._layers: list[tuple[str, list[str], str, dict[int, Any]]] = [("Input", [], "x", {})]
        self._weights: list[bytes] = []

    def step(self, blob: str, step: Step, *arrays: Array) -> str:
        """Add one step that reads `blob`; the name of its result."""
        for kind, parameters in _operators(step):
            blob = self.add(kind, [blob], parameters)
        if isinstance(step, Conv2d | ConvTranspose2d):
            w, bias = arrays
            outputs_first = (3, 2, 0, 1) if isinstance(step, Conv2d) else (2, 3, 0, 1)
            self._weights += [FLOAT32, w.transpose(outputs_first).tobytes(), bias.tobytes()]
        return blob

    def operations(self) -> Operations:
        """What adds the nodes of a network."""

        def crop(blob: str, offset: tuple[int, int], size: tuple[int, int]) -> str:
            (top, left), (rows, cols) = offset, size
            return self.add("Crop", [blob], {0: left, 1: top, 3: cols, 4: rows, 5: REST})

        return Operations(
            window=lambda spec, *arrays: lambda blob: self.step(blob, spec, *arrays),
            concat=lambda *blobs: self.add("Concat", list(blobs), {0: 0}),
            add=lambda a, b: self.add("BinaryOp", [a, b], {0: 0}),
            relu=lambda blob: self.add("ReLU", [blob], {}),
            crop=crop,
        )

    def add(self, kind: str, blobs: list[str], parameters: dict[int, Any]) -> str:
        """Add a layer; the name of its result."""
        name = f"t{len(self._layers)}"
        self._layers.append((kind, blobs, name, parameters))
        return name

    def finished(self, blob: str) -> tuple[str, bytes]:
        """Text and weights; the result `blob` is named "y".

        A blob has one reader: where there are more, a layer "Split" gives it so many names.
        """
        layers = [*self._layers, ("Noop", [blob], "y", {})]
        readers = Counter(name for _, blobs, _, _ in layers for name in blobs)
        names: dict[str, list[str]] = {}
        lines, count = [], 0
        for i, (kind, blobs, name, parameters) in enumerate(layers):
            read = [names[each].pop() for each in blobs]
            values = [f"{key}={value}" for key, value in parameters.items()]
            lines.append(" ".join([kind, f"layer{i}", str(len(read)), "1", *read, name, *values]))
            names[name] = [name]
            count += 1
            if (copies := readers[name]) > 1:
                names[name] = [f"{name}_{j}" for j in range(copies)]
                lines.append(f"Split split{i} 1 {copies} {name} {' '.join(names[name])}")
                count += copies
        text = "\n".join([str(MAGIC), f"{len(lines)} {count}", *lines, ""])
        return text, b"".join(self._weights)


def _operators(step: Step) -> list[tuple[str, dict[int, Any]]]:
    """Name and numbered parameters of the ncnn layers that make up a step."""
    match step:
        case Conv2d() | ConvTranspose2d():
            kind = "Convolution" if isinstance(step, Conv2d) else "Deconvolution"
            kind += "DepthWise" if step.groups > 1 else ""
            pool = [("Pooling", _window(0, (2, 2), (2, 2), NO_PAD))]
            return [(kind, _filter(step)), *(pool if getattr(step, "pool", False) else [])]
        case Pool2d() if is_global(step):
            return [("Pooling", {0: int(step.kind == "avg"), 4: 1})]
        case Pool2d():
            mean = int(step.kind == "avg")
            return [("Pooling", _window(mean, step.size, step.stride, step.pad))]
        case Resize2d():
            return [("Interp", {0: 2, 3: step.size[0], 4: step.size[1]})]  # 2: bilinear
        case ChannelOp() if step.kind == "softmax":
            return [("Softmax", {0: 0, 1: 1})]
        case ChannelOp():
            raise NotImplementedError("its ArgMax looks at all pixels together")
    raise TypeError(f"no layer for {step}")


def _window(mean: int, size: Pair, stride: Pair, pad: Pad) -> dict[int, Any]:
    """Parameters of a pool, 0: maximum or 1: mean; 5=1: no other padding than this."""
    (top, bottom), (left, right) = pad
    return {0: mean, 1: size[1], 11: size[0], 2: stride[1], 12: stride[0],
            3: left, 14: right, 13: top, 15: bottom, 5: 1}  # fmt: skip


def _filter(step: Filter) -> dict[int, Any]:
    (top, bottom), (left, right) = step.pad
    values: dict[int, Any] = {
        0: step.out[3], 1: step.w[1], 11: step.w[0], 2: step.dilation[1], 12: step.dilation[0],
        3: step.stride[1], 13: step.stride[0], 4: left, 14: top,
        15: max(right, 0), 16: max(bottom, 0), 5: 1, 6: math.prod(step.w), 7: step.groups,
    }  # fmt: skip
    if isinstance(step, ConvTranspose2d):
        values |= {18: max(-right, 0), 19: max(-bottom, 0)}  # past the end of the full result
    if step.activation == "relu":
        values[9] = 1
    elif step.activation == "relu6":
        values |= {9: 3, -23310: "2,0.0,6.0"}  # a clip, and the array of its two limits
    return values

"""MNN, CPU backend: Winograd for 3x3 convolutions."""

import importlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.layers import Layer
from benchmarks.peers import Program
from benchmarks.peers.onnx_graph import INPUT, OUTPUT, model, to_nchw, to_nhwc


class Engine:
    """Module API, precision "high" (float32), power and memory "high", its own layout."""

    def __init__(self, threads: int) -> None:
        mnn = importlib.import_module("MNN")
        self.nn, self.expr = mnn.nn, mnn.expr
        # The extension, not the command mnnconvert, which installs a package and reports its use.
        self.tools: Any = importlib.import_module("_tools")
        self.version: str = mnn.version()
        self.config = {
            "backend": "CPU",
            "precision": "high",
            "memory": "high",
            "power": "high",
            "numThread": threads,
        }

    def variants(self, layer: Layer) -> dict[str, Callable[[], Program]]:
        # Rearranging packs weights when the model is loaded, and may then choose other kernels.
        return {
            "module": partial(self._build, layer, rearrange=False),
            "rearranged": partial(self._build, layer, rearrange=True),
        }

    def _build(self, layer: Layer, *, rearrange: bool) -> Program:
        # A Module, not an Interpreter session: that one reuses the memory of its input, so every
        # run but the first would read something else.
        manager = self.nn.create_runtime_manager((self.config,))
        manager = manager[0] if isinstance(manager, tuple) else manager
        with tempfile.TemporaryDirectory() as folder:
            path = layer.file("model.mnn", lambda path: self._convert(layer, path))
            if path is None:
                path = Path(folder) / "layer.mnn"
                self._convert(layer, path)
            module = self.nn.load_module_from_file(
                str(path), [INPUT], [OUTPUT], runtime_manager=manager, shape_mutable=False,
                rearrange=rearrange,
            )  # fmt: skip
            layout = self.expr.load_as_dict(str(path))[INPUT].data_format  # NC4HW4, as a rule
        x = to_nchw(layer.input())
        tensor = self.expr.const(x, list(x.shape), self.expr.NCHW)
        if layout != self.expr.NCHW:
            tensor = self.expr.convert(tensor, layout)
            tensor.read()  # converts now: expressions are lazy

        def read(y: Any) -> Any:
            return to_nhwc(np.array(self.expr.convert(y, self.expr.NCHW).read()))

        return Program(lambda: module.forward(tensor), read, alive=(manager, x))

    def _convert(self, layer: Layer, target: Path) -> None:
        """ONNX file -> MNN file, whose input and output keep MNN's own layout."""
        source = target.with_suffix(".converted")
        source.write_bytes(model(layer))
        self.tools.mnnconvert(
            ["mnnconvert", "-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(target),
             "--bizCode", "benchmarks", "--keepInputFormat=0"]
        )  # fmt: skip
        if not target.exists():
            raise RuntimeError(f"MNN did not convert {layer.name}")

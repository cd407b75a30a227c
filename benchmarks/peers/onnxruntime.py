"""ONNX Runtime, CPU execution provider."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.layers import Layer
from benchmarks.peers import Program
from benchmarks.peers.onnx_graph import INPUT, OUTPUT, nchw, source, to_nchw, to_nhwc


class Engine:
    """All graph optimisations, NCHW, input and output bound to fixed memory."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.ort: Any = importlib.import_module("onnxruntime")
        self.version: str = self.ort.__version__

    def variants(self, layer: Layer) -> dict[str, Callable[[], Program]]:
        return {"io-binding": partial(self._build, layer)}

    def _build(self, layer: Layer) -> Program:
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        session = self.ort.InferenceSession(
            source(layer), options, providers=["CPUExecutionProvider"]
        )
        number = np.int64 if layer.labels else np.float32
        x, y = to_nchw(layer.input()), np.empty(nchw(layer.out), number)
        binding = session.io_binding()
        binding.bind_input(INPUT, "cpu", 0, np.float32, x.shape, x.ctypes.data)
        binding.bind_output(OUTPUT, "cpu", 0, number, y.shape, y.ctypes.data)

        return Program(
            lambda: session.run_with_iobinding(binding),
            lambda _: to_nhwc(y),
            alive=(x, y),  # the binding knows their addresses only
        )

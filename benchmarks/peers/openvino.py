"""OpenVINO, CPU plugin."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.layers import Layer
from benchmarks.peers import Program
from benchmarks.peers.onnx_graph import source, to_nchw, to_nhwc


class Engine:
    """Latency hint, float32 precision hint, one stream; NCHW and NHWC tensors, preallocated."""

    def __init__(self, threads: int) -> None:
        self.ov: Any = importlib.import_module("openvino")
        self.core = self.ov.Core()
        self.version: str = self.ov.__version__.partition("-")[0]
        self.config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # without it, CPUs that can would use bfloat16
            "ENABLE_CPU_PINNING": False,  # threads move away from a core that is taken
        }

    def variants(self, layer: Layer) -> dict[str, Callable[[], Program]]:
        return {name: partial(self._build, layer, name) for name in ("nchw", "nhwc")}

    def _build(self, layer: Layer, variant: str) -> Program:
        network, x = self.core.read_model(source(layer)), layer.input()
        if variant == "nhwc":
            preprocess = self.ov.preprocess.PrePostProcessor(network)
            ends = (preprocess.input(), *([] if layer.labels else [preprocess.output()]))
            for end in ends:
                end.tensor().set_layout(self.ov.Layout("NHWC"))
                end.model().set_layout(self.ov.Layout("NCHW"))
            network = preprocess.build()
        else:
            x = to_nchw(x)
        compiled = self.core.compile_model(network, "CPU", self.config)
        result = compiled.output()
        y = np.empty(tuple(result.shape), result.element_type.to_dtype())
        request = compiled.create_infer_request()
        request.set_input_tensor(self.ov.Tensor(x, shared_memory=True))
        request.set_output_tensor(self.ov.Tensor(y, shared_memory=True))

        return Program(
            request.infer,
            lambda _: y if variant == "nhwc" else to_nhwc(y),
            alive=(x, y),  # the tensors only refer to them
        )

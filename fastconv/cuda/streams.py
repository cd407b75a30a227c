"""Streams of our own, and launches that are captured as one CUDA graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastconv.gpu import DeviceError

if TYPE_CHECKING:
    from fastconv.cuda.device import Gpu


class Stream:
    """A stream that does not wait for the default one, nor that for it.

    Attributes
    ----------
    number : int
        The driver's handle.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        apart = gpu.driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        self.number = int(gpu.call("cuStreamCreate", apart))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            with contextlib.suppress(DeviceError):  # the driver may have gone before
                self._gpu.call("cuStreamDestroy", self.number)


class Graph:
    """What `run` launches on a stream, to be launched again at once.

    Parameters
    ----------
    gpu : Gpu
    stream : Stream
    run : function of nothing
        Launches kernels on the stream, and does nothing else there. The memory that they use has to
        live as long as the graph.

    Raises
    ------
    DeviceError
        The driver cannot make a graph of it.
    """

    def __init__(self, gpu: Gpu, stream: Stream, run: Callable[[], None]) -> None:
        self._gpu, self._stream = gpu, stream
        # Relaxed: memory that Python happens to free meanwhile does not spoil the capture.
        relaxed = gpu.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        gpu.call("cuStreamBeginCapture", stream.number, relaxed)
        try:
            run()
        except BaseException:
            with contextlib.suppress(DeviceError):  # what `run` raised says more
                self._end(None)
            raise
        self._end(self._instantiate)

    def _end(self, use: Callable[[Any], None] | None) -> None:
        graph = self._gpu.call("cuStreamEndCapture", self._stream.number)
        try:
            if use is not None:
                use(graph)
        finally:
            self._gpu.call("cuGraphDestroy", graph)

    def _instantiate(self, graph: Any) -> None:
        self._ready = self._gpu.call("cuGraphInstantiate", graph, 0)

    def launch(self) -> None:
        """Start it."""
        self._gpu.call("cuGraphLaunch", self._ready, self._stream.number)

    def __del__(self) -> None:
        if hasattr(self, "_ready"):
            with contextlib.suppress(DeviceError):
                self._gpu.call("cuGraphExecDestroy", self._ready)

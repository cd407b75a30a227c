"""How networks run on a GPU: what lies between layers stays there, and all launches are one graph.

The first run for a shape starts the kernels one by one, which compiles them and copies the weights;
the second one is captured as a CUDA graph, which is launched from then on. A run copies the inputs
to the GPU and the results back, and nothing else. Inputs that are on the GPU are copied there, and
so are the results, to new arrays of the caller's library; then the host waits for nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import fastconv
from fastconv import resident
from fcn.graph import Model, Shape
from fcn.program import Program
from fcn.steps import Packed, Step

__all__ = ["GpuProgram", "Residence"]

FLOAT: np.dtype[Any] = np.dtype(np.float32)
LABELS = ""  # what no node is called


class GpuProgram(Program):
    """As `Program`, on a GPU.

    Attributes
    ----------
    device : str
    inputs : dict of str to shape
    argmax : shape and dtype, or None
        Of labels that a step of their own makes, where the last one cannot.
    """

    def __init__(
        self,
        model: Model,
        inputs: Sequence[Shape],
        packed: Packed,
        *,
        algorithm: str = "auto",
        num_threads: int | None = None,
        device: str = "cuda",
        labels: bool = False,
    ) -> None:
        super().__init__(
            model, inputs, packed, algorithm=algorithm, num_threads=num_threads, device=device,
            labels=labels,
        )  # fmt: skip
        self.device = device
        self.inputs = dict(zip(model.graph.inputs, inputs, strict=True))
        self._captures = True
        self.argmax: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        *size, channels = self.steps[-1].shape
        if labels and not self.labels and channels > 1:
            self.argmax, self.labels = (tuple(size), fastconv.label_dtype(channels)), True

    def buffers(self) -> Any:
        """Memory for one run at a time."""
        return Residence(self)

    def with_steps(self, steps: Sequence[Step]) -> GpuProgram:
        """As `Program.with_steps`; they are started one by one."""
        changed = copy.copy(self)
        changed.steps, changed._captures = [*steps], False
        return changed

    def run_all(self, inputs: Mapping[str, Any], buffers: Any) -> dict[str, npt.NDArray[Any]]:
        """The tensors of all outputs, in new arrays, where the inputs are."""
        there: Residence = buffers
        hosts = [isinstance(x, np.ndarray) for x in inputs.values()]
        if any(hosts) != all(hosts):
            raise TypeError("some inputs are on the GPU and some are not; copy one of them")
        for name, x in inputs.items():
            there.arena.send(np.ascontiguousarray(x) if hosts[0] else x, there.tensors[name])
        if self._captures:
            there.start(self)
        else:
            self.launch(there)
        if not hosts[0]:
            like = list(inputs.values())
            return {name: there.arena.give(made, like) for name, made in there.results.items()}
        results = {}
        for name, made in there.results.items():
            results[name] = fastconv.aligned_empty(made.shape, made.dtype)
            there.arena.fetch(made, results[name])
        return results

    def launch(self, there: Residence) -> None:
        """Start all kernels."""
        for step in self.steps:
            inputs = [there.tensors[name] for name in step.inputs]
            step.run(inputs, there.tensors[step.node.name])
        if self.argmax is not None:
            scores = there.tensors[self.steps[-1].node.name]
            fastconv.argmax(scores, device=self.device, out=there.tensors[LABELS])


class Residence:
    """Where the arrays of a program lie on a GPU, for one run at a time.

    Attributes
    ----------
    arena : fastconv.cuda.arena.Arena
    tensors : dict
        Name -> array, of the inputs and of what the steps give.
    results : dict
        Name -> array, of what a run gives.
    graph : CUDA graph or None
    reason : str
        Why there is no graph.
    """

    def __init__(self, program: GpuProgram) -> None:
        ends = [s for s in program.steps if s.node.name in program.outputs]
        alone: list[tuple[str, tuple[int, ...], np.dtype[Any]]]
        alone = [(name, shape, FLOAT) for name, shape in program.inputs.items()]
        alone += [(step.node.name, step.shape, step.dtype) for step in ends]
        if program.argmax is not None:
            alone.append((LABELS, *program.argmax))
        sizes = [4 * size for size in program.sizes]
        first = len(sizes)
        sizes += [math.prod(shape) * dtype.itemsize for _, shape, dtype in alone]
        self.arena = resident.arena(program.device, sizes)
        self.tensors = {
            step.node.name: self.arena.array(program.slots[step.node.name], step.shape, step.dtype)
            for step in program.steps
            if step.node.name in program.slots
        }
        self.tensors |= {
            name: self.arena.array(place, shape, dtype)
            for place, (name, shape, dtype) in enumerate(alone, first)
        }
        self.results = {
            step.node.name: self.tensors[step.node.name if program.argmax is None else LABELS]
            for step in ends
        }
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in program.inputs.values())
        self._what = f"{shapes}, {len(program.steps)} steps"
        self.graph: Any = None
        self.reason = "no run came before"
        self._runs = 0

    def start(self, program: GpuProgram) -> None:
        """Start all kernels, from the second time on at once."""
        self._runs += 1
        if self._runs == 2:
            try:
                self.graph = self.arena.graph(lambda: program.launch(self))
            except (fastconv.DeviceError, MemoryError) as error:
                self.reason = str(error)
        if self.graph is None:
            program.launch(self)
        else:
            self.graph.launch()

    def __str__(self) -> str:
        how = "one CUDA graph" if self.graph else f"kernels one by one ({self.reason})"
        return f"{self._what}: {self.arena.nbytes / 1e6:.1f} MB between layers, {how}"

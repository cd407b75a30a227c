"""The plans of a network for inputs of some shapes, and buffers that are used again."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import fastconv
from fcn.fusion import groups
from fcn.graph import INPUT, Model, Shape
from fcn.steps import Packed, Step, compile_step, gives_labels, kernel_bytes

__all__ = ["Program"]

Array = npt.NDArray[np.float32]


class Program:
    """The steps of a graph for inputs of some shapes, and which buffer each result goes to."""

    def __init__(
        self,
        model: Model,
        inputs: Sequence[Shape],
        packed: Packed,
        *,
        algorithm: str = "auto",
        num_threads: int | None = None,
        device: str = "cpu",
        labels: bool = False,
    ) -> None:
        graph, shapes = model.graph, model.graph.shapes(*inputs)
        self.outputs = set(graph.outputs.values())
        found = list(groups(graph, shapes))
        self.labels = labels and gives_labels(found[-1], shapes)
        steps = {
            group.last.name: compile_step(
                group,
                shapes,
                model.weights,
                packed,
                algorithm=algorithm,
                num_threads=num_threads,
                device=device,
                labels=self.labels and group is found[-1],
            )
            for group in sorted(found, key=lambda g: kernel_bytes(g, model.weights), reverse=True)
        }
        self.steps = [steps[group.last.name] for group in found]
        self.slots, self.sizes = _assign(self.steps, self.outputs)

    @property
    def packed_bytes(self) -> int:
        """Memory of the packed weights."""
        return sum(step.plan.packed_bytes for step in self.steps if step.plan is not None)

    @property
    def scratch_bytes(self) -> int:
        """Memory that a step may borrow; each borrows the same."""
        return max((s.plan.scratch_bytes for s in self.steps if s.plan is not None), default=0)

    def with_steps(self, steps: Sequence[Step]) -> Program:
        """The same with steps in place of these that do more, such as to measure themselves."""
        changed = copy.copy(self)
        changed.steps = [*steps]
        return changed

    def buffers(self) -> dict[str, Array]:
        """A new set of arrays for all results but the outputs, which the caller keeps."""
        flat = [fastconv.aligned_empty((size,), np.float32) for size in self.sizes]
        shapes = {s.node.name: s.shape for s in self.steps if s.node.name in self.slots}
        return {
            name: flat[self.slots[name]][: math.prod(shape)].reshape(shape)
            for name, shape in shapes.items()
        }

    def run(self, x: Array, buffers: dict[str, Array]) -> npt.NDArray[Any]:
        """The one output, or labels, for `x` in a new array; `buffers` are overwritten."""
        (result,) = self.run_all({INPUT: x}, buffers).values()
        return result

    def run_all(
        self, inputs: Mapping[str, Array], buffers: dict[str, Array]
    ) -> dict[str, npt.NDArray[Any]]:
        """The tensors of all outputs, in new arrays."""
        results = {
            step.node.name: fastconv.aligned_empty(step.shape, step.dtype)
            for step in self.steps
            if step.node.name in self.outputs
        }
        tensors = {**inputs, **buffers, **results}
        for step in self.steps:
            step.run([tensors[name] for name in step.inputs], tensors[step.node.name])
        return results


def _assign(steps: Sequence[Step], outputs: Collection[str]) -> tuple[dict[str, int], list[int]]:
    """Tensor name -> buffer number, and the size of each buffer in numbers.

    A buffer is free again after the last step that reads its tensor; a result takes the largest
    free one, so that buffers grow as little as possible.
    """
    last_read = {name: i for i, step in enumerate(steps) for name in step.inputs}
    slots: dict[str, int] = {}
    sizes: list[int] = []
    free: list[int] = []
    for i, step in enumerate(steps):
        name = step.node.name
        if name not in outputs:
            if not free:
                free.append(len(sizes))
                sizes.append(0)
            slot = max(free, key=sizes.__getitem__)
            free.remove(slot)
            slots[name] = slot
            sizes[slot] = max(sizes[slot], math.prod(step.shape))
        free += [slots[n] for n in set(step.inputs) if n in slots and last_read[n] == i]
    return slots, sizes

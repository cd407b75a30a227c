"""Run a model: plans per input shape, fused layers, buffers that are used again.

A convolution whose only reader is a 2x2 max-pool runs as one fused plan, so the largest tensors of
a network never reach memory. `Session.layers` runs every node by itself instead, for comparisons.
"""

from __future__ import annotations

import functools
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import fastconv
from fcn import images
from fcn.graph import INPUT, Graph, Model, Node, Shape
from fcn.ops import ACTIVATIONS

__all__ = ["Session", "Step", "compile_node"]

Array = npt.NDArray[np.float32]

PROGRAMS = 4  # input shapes whose plans a session keeps; each holds its own packed weights


@dataclass(frozen=True)
class Step:
    """One call of a program: reads the tensors `inputs` and fills the tensor of `node`.

    Attributes
    ----------
    node : Node
        What it computes; for a fused step the pool, whose input is then the convolution's.
    inputs : tuple of str
    shape : (n, h, w, c)
        Shape of the result.
    call : function of (*inputs, out=)
        A `fastconv.Plan` where it is a convolution.
    """

    node: Node
    inputs: tuple[str, ...]
    shape: Shape
    call: Callable[..., object]

    @property
    def plan(self) -> fastconv.Plan | None:
        """The plan behind a convolution; None for what has no weights."""
        return self.call if isinstance(self.call, fastconv.Plan) else None

    def __call__(self, *inputs: Array) -> Array:
        """The result in a new array."""
        out = fastconv.aligned_empty(self.shape, np.float32)
        self.call(*inputs, out=out)
        return out


def compile_node(
    node: Node,
    shapes: Mapping[str, Shape],
    weights: Mapping[str, Array],
    *,
    pool: Node | None = None,
    algorithm: str = "auto",
    num_threads: int | None = None,
) -> Step:
    """Turn one node, or a convolution and the 2x2 max-pool behind it, into a step.

    Parameters
    ----------
    node : Node
    shapes : mapping of tensor name to shape
        As `Graph.shapes` gives it.
    weights : mapping
        As `Model.weights`.
    pool : Node or None
        The pool to fuse behind a convolution; see `fusable`.
    algorithm : {"auto", "direct", "winograd_f4", "winograd_f2", "winograd_f6"}
    num_threads : int or None

    Returns
    -------
    Step
    """
    attrs, shape, last = node.attrs, shapes[node.inputs[0]], pool or node
    call: Callable[..., object]
    if node.rule.kernel is not None:
        kernel, bias = weights[f"{node.name}/kernel"], weights.get(f"{node.name}/bias")
        keys = ("stride", "padding", "dilation", "activation")
        options = {key: attrs[key] for key in keys if key in attrs} | {"num_threads": num_threads}
        if node.op == "conv2d":
            options |= {"pool": pool is not None, "algorithm": algorithm}
            call = fastconv.plan_conv2d(shape, kernel, bias, **options)
        elif node.op == "depthwise_conv2d":  # as many groups as channels
            kernel = kernel.reshape(*attrs["kernel"], 1, -1)
            call = fastconv.plan_conv2d(shape, kernel, bias, groups=shape[3], **options)
        else:
            call = fastconv.plan_conv2d_transpose(shape, kernel, bias, **options)
    elif node.op == "max_pool2d":
        call = functools.partial(fastconv.max_pool2d, num_threads=num_threads, **attrs)
    elif node.op == "resize2d":
        call = functools.partial(_resize, num_threads=num_threads)
    elif node.op == "add":
        call = functools.partial(_add, **attrs)
    elif node.op == "concat":
        call = _concat
    else:  # the graph admits no other op than crop
        call = functools.partial(_crop, **attrs)
    return Step(last, node.inputs, shapes[last.name], call)


def _resize(x: Array, _: Array, *, num_threads: int | None, out: Array) -> None:
    fastconv.resize2d(x, out.shape[1:3], num_threads=num_threads, out=out)


def _add(x: Array, y: Array, *, activation: str | None, out: Array) -> None:
    np.add(x, y, out=out)
    if activation is not None:
        np.clip(out, *ACTIVATIONS[activation], out=out)


def _concat(*inputs: Array, out: Array) -> None:
    np.concatenate(inputs, axis=-1, out=out)


def _crop(x: Array, _: Array, *, offset: Sequence[int], out: Array) -> None:
    (top, left), (_, rows, cols, _) = offset, out.shape
    out[...] = x[:, top : top + rows, left : left + cols]


def fusable(graph: Graph, shapes: Mapping[str, Shape]) -> dict[str, Node]:
    """Convolution name -> the max-pool that can run inside its plan.

    That needs a 2x2 window with stride 2 that never leaves the image ("valid"; "same" or
    ``ceil_mode`` on even sizes), behind a convolution that nothing else reads.
    """
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    readers[graph.output] += 1
    convolutions = {node.name for node in graph.nodes if node.op == "conv2d"}
    found = {}
    for node in graph.nodes:
        if node.op != "max_pool2d" or node.inputs[0] not in convolutions:
            continue
        (_, h, w, _), (_, rows, cols, _) = shapes[node.inputs[0]], shapes[node.name]
        named = isinstance(node.attrs["padding"], str)  # explicit padding shifts the windows
        inside = named and 2 * rows <= h and 2 * cols <= w
        halves = node.attrs["size"] == node.attrs["stride"] == [2, 2]
        if halves and inside and readers[node.inputs[0]] == 1:
            found[node.inputs[0]] = node
    return found


class Program:
    """The steps of a graph for one input shape, and which buffer each result goes to."""

    def __init__(
        self, model: Model, shape: Shape, *, algorithm: str, num_threads: int | None
    ) -> None:
        graph, shapes = model.graph, model.graph.shapes(shape)
        self.output = graph.output
        pools = fusable(graph, shapes)
        fused = {pool.name for pool in pools.values()}
        self.steps = [
            compile_node(
                node,
                shapes,
                model.weights,
                pool=pools.get(node.name),
                algorithm=algorithm,
                num_threads=num_threads,
            )
            for node in graph.nodes
            if node.name not in fused
        ]
        self.shapes = {step.node.name: step.shape for step in self.steps}
        self.slots, self.sizes = _assign(self.steps, graph.output)

    def buffers(self) -> dict[str, Array]:
        """A new set of arrays for all results but the last, which the caller keeps."""
        flat = [fastconv.aligned_empty((size,), np.float32) for size in self.sizes]
        shapes = {name: self.shapes[name] for name in self.slots}
        return {
            name: flat[self.slots[name]][: math.prod(shape)].reshape(shape)
            for name, shape in shapes.items()
        }

    def run(self, x: Array, buffers: dict[str, Array]) -> Array:
        """The output for `x` in a new array; `buffers` are overwritten."""
        result = fastconv.aligned_empty(self.shapes[self.output], np.float32)
        tensors = {INPUT: x, **buffers, self.output: result}
        for step in self.steps:
            inputs = [tensors[name] for name in step.inputs]
            step.call(*inputs, out=tensors[step.node.name])
        return result


def _assign(steps: Sequence[Step], output: str) -> tuple[dict[str, int], list[int]]:
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
        if name != output:
            if not free:
                free.append(len(sizes))
                sizes.append(0)
            slot = max(free, key=sizes.__getitem__)
            free.remove(slot)
            slots[name] = slot
            sizes[slot] = max(sizes[slot], math.prod(step.shape))
        free += [slots[n] for n in set(step.inputs) if n in slots and last_read[n] == i]
    return slots, sizes


class Session:
    """A model ready to run.

    Threads may share a session: runs do not touch each other's buffers.

    Parameters
    ----------
    model : Model
    num_threads : int or None
        Threads per run; None is what `fastconv.get_num_threads` says. Results do not depend on it.
    algorithm : {"auto", "direct", "winograd_f4", "winograd_f2", "winograd_f6"}
        For the convolutions, as in `fastconv.conv2d`.

    Examples
    --------
    >>> from fcn import models
    >>> session = Session(models.pretrained("digits_fcn8s"))
    >>> session.segment(np.zeros((33, 70), np.uint8)).shape
    (33, 70)
    """

    def __init__(
        self, model: Model, num_threads: int | None = None, algorithm: str = "auto"
    ) -> None:
        self.model = model
        self.num_threads = num_threads
        self.algorithm = algorithm
        # lru_cache is safe between threads: at worst two of them plan the same shape
        self._program = functools.lru_cache(PROGRAMS)(self._compile)
        self._idle: deque[tuple[Program, dict[str, Array]]] = deque()

    def run(self, x: Array) -> Array:
        """Logits of one image or a batch.

        Parameters
        ----------
        x : ndarray, (n, h, w, c) or (h, w, c), float32
            Normalised as the model expects it; see `prepare` for pictures.

        Returns
        -------
        ndarray, (n, h', w', classes) or (h', w', classes), float32
            A new array.

        Raises
        ------
        ValueError, TypeError
            For a wrong rank, dtype or number of channels, or an image too small for the network.
        """
        batch = self._checked(x)
        program = self._program(batch.shape)
        buffers = self._borrow(program)
        logits = program.run(batch, buffers)
        self._idle.append((program, buffers))
        return logits if x.ndim == 4 else logits[0]

    def layers(self, x: Array) -> Iterator[tuple[Node, Array]]:
        """Run node by node, nothing fused, and yield each with its result in a new array.

        Parameters
        ----------
        x : ndarray, (n, h, w, c) or (h, w, c), float32
        """
        batch = self._checked(x)
        shapes = self.model.graph.shapes(batch.shape)
        tensors = {INPUT: batch}
        for node in self.model.graph.nodes:
            step = self.step(node, shapes)
            tensors[node.name] = step(*(tensors[name] for name in node.inputs))
            yield node, tensors[node.name]

    def step(self, node: Node, shapes: Mapping[str, Shape]) -> Step:
        """One node by itself, with the settings of this session."""
        return compile_node(
            node,
            shapes,
            self.model.weights,
            algorithm=self.algorithm,
            num_threads=self.num_threads,
        )

    def segment(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The class of every pixel of one picture, at the picture's own size, whatever that is.

        Parameters
        ----------
        image : ndarray, (h, w) gray or (h, w, c), uint8 or float in [0, 1]
            Gray is repeated for a network that reads several channels.

        Returns
        -------
        ndarray, (h, w), uint8 (int32 beyond 256 classes)
            The class with the largest logit; the first one where several are equal.

        Raises
        ------
        ValueError, TypeError
            For an empty picture, a wrong rank, dtype or number of channels, or values that are not
            finite or lie outside [0, 1].

        Notes
        -----
        Where the network's result is not of the picture's size, the picture is continued at the
        bottom and right with its edge pixels up to multiples of the network's total stride. If the
        result is still of another size (the article's network as printed gives half of it), the
        logits, not the labels, are resized bilinearly. What was added is cut off.
        """
        x = self.prepare(image)
        h, w = image.shape[:2]
        logits = self.run(x)
        if logits.shape[1:3] != x.shape[1:3]:
            logits = fastconv.resize2d(logits, x.shape[1:3], num_threads=self.num_threads)
        labels: npt.NDArray[Any] = np.argmax(logits[0, :h, :w], axis=-1)
        return labels.astype(np.uint8 if logits.shape[3] <= 256 else np.int32, copy=False)

    def prepare(self, image: npt.NDArray[Any]) -> Array:
        """A picture as the network's input: checked, normalised and continued as `segment` says.

        uint8 is divided by 255; then ``meta["mean"]`` is subtracted and the difference divided by
        ``meta["std"]``, where the model has them (numbers, or one number per channel).

        Returns
        -------
        ndarray, (1, h', w', c), float32
        """
        graph, meta = self.model.graph, self.model.meta
        x = images.to_unit(image, graph.channels)
        x -= np.asarray(meta.get("mean", 0), np.float32)
        x /= np.asarray(meta.get("std", 1), np.float32)
        x = x[None]
        if not self._fits(x.shape):
            stride = graph.total_stride
            extra = [(0, -size % stride) for size in x.shape[1:3]]
            x = np.pad(x, ((0, 0), *extra, (0, 0)), mode="edge")
        return np.ascontiguousarray(x)

    def _fits(self, shape: Shape) -> bool:
        """Whether the network gives back an input of this shape at its own height and width."""
        try:
            out = self.model.graph.shapes(shape)[self.model.graph.output]
        except ValueError:  # smaller than a window
            return False
        return out[1:3] == shape[1:3]

    def _compile(self, shape: Shape) -> Program:
        return Program(self.model, shape, algorithm=self.algorithm, num_threads=self.num_threads)

    def _borrow(self, program: Program) -> dict[str, Array]:
        """Idle buffers of this program, or new ones; those of another shape are let go."""
        while self._idle:
            try:
                owner, buffers = self._idle.pop()
            except IndexError:  # another thread took the last
                break
            if owner is program:
                return buffers
        return program.buffers()

    def _checked(self, x: Array) -> Array:
        name = self.model.graph.name
        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise TypeError(
                f"running {name}: the input must be a float32 array, got {got}; "
                "convert it with .astype(np.float32), or give pictures to Session.segment"
            )
        if x.ndim not in (3, 4):
            raise ValueError(
                f"running {name}: the input must be (h, w, c) or (n, h, w, c), got {x.shape}"
            )
        return x if x.ndim == 4 else x[None]

"""Run a model: logits, labels, and how sure they are.

A convolution runs with the pool or the sum behind it (`fcn.fusion`), and what only the argmax reads
is never kept, so the largest tensors of a network never reach memory. `Session.layers` runs every
node by itself instead, for comparisons.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import numpy.typing as npt

from fastconv import resident
from fcn import images, on_gpu, scores
from fcn.fusion import Group
from fcn.graph import INPUT, Graph, Model, Node, Shape
from fcn.program import Program
from fcn.steps import Packed, Step, compile_step

if TYPE_CHECKING:
    from fcn.bands import Bands, Schedule
    from fcn.profiling import Profile

__all__ = ["Session"]

Array = npt.NDArray[np.float32]

PROGRAMS = 8  # input shapes whose plans a session keeps; they share packed weights


class Session:
    """A model ready to run.

    Threads may share a session: runs do not touch each other's buffers.

    Parameters
    ----------
    model : Model
    num_threads : int or None
        Threads per run; None is what `fastconv.get_num_threads` says. Results do not depend on it.
    algorithm : {"auto", "direct", "winograd_f4", "winograd_f3", "winograd_f2", "winograd_f6"}
        For the convolutions, as in `fastconv.conv2d`.
    device : str
        Where layers run, as in `fastconv.conv2d`. On a GPU, what lies between layers stays there
        (see `fcn.on_gpu`); of bands it is on the host.

    Examples
    --------
    >>> from fcn import models
    >>> session = Session(models.pretrained("digits_fcn8s"))
    >>> session.segment(np.zeros((33, 70), np.uint8)).shape
    (33, 70)
    """

    def __init__(
        self, model: Model, num_threads: int | None = None, algorithm: str = "auto",
        device: str = "cpu",
    ) -> None:  # fmt: skip
        self.model = model
        self.num_threads = num_threads
        self.algorithm = algorithm
        self.device = device
        # lru_cache is safe between threads: at worst two of them plan the same shape
        self._program = functools.lru_cache(PROGRAMS)(self._compile)
        self._banded = functools.lru_cache(PROGRAMS)(self._schedule)
        self.packed: Packed = {}
        self._idle: deque[tuple[Program | Schedule, dict[str, Array]]] = deque()

    @overload
    def run(self, x: Array) -> Array: ...
    @overload
    def run(self, x: Mapping[str, Array]) -> dict[str, Array]: ...
    def run(self, x: Array | Mapping[str, Array]) -> Array | dict[str, Array]:
        """Logits of one image or a batch; of a network with several inputs or outputs, by name.

        Parameters
        ----------
        x : ndarray, (n, h, w, c) or (h, w, c), float32; or mapping of str to such arrays
            Normalised as the model expects it; see `prepare` for pictures. A mapping has one array
            for each of ``model.graph.inputs``; an only input is called ``"input"``. On a GPU, also
            arrays there, (n, h, w, c), of any library; what the result is, `fastconv.conv2d` tells.

        Returns
        -------
        ndarray, (n, h', w', classes) or (h', w', classes), float32
            A new array; for a mapping a dict with one for each of ``model.graph.outputs``.

        Raises
        ------
        ValueError, TypeError
            For a wrong rank, dtype or number of channels, inputs that are missing or unknown, or
            an image too small for the network.

        Examples
        --------
        >>> import fcn
        >>> nodes = [fcn.Node("sum", "add", ("a", "b")), fcn.Node("top", "maximum", ("a", "b"))]
        >>> graph = fcn.Graph("two", {"a": 1, "b": 1}, nodes, {"sum": "sum", "top": "top"})
        >>> x = np.ones((1, 1, 1), np.float32)
        >>> results = Session(fcn.Model(graph, {})).run({"a": x, "b": 2 * x})
        >>> {name: y.item() for name, y in results.items()}
        {'sum': 3.0, 'top': 2.0}
        """
        graph = self.model.graph
        if not isinstance(x, Mapping):
            batch = self._checked(x)
            only, _ = graph.output, graph.channels  # errors where there are several of them
            result = self._run(self._program((batch.shape,)), {INPUT: batch})[only]
            return result[0] if isinstance(x, np.ndarray) and x.ndim == 3 else result
        if x.keys() != graph.inputs.keys():
            raise ValueError(f"running {graph.name}: it reads {list(graph.inputs)}, got {list(x)}")
        batches = {name: self._checked(x[name]) for name in graph.inputs}
        shapes = tuple(batch.shape for batch in batches.values())
        results = self._run(self._program(shapes), batches)
        alone = all(isinstance(array, np.ndarray) and array.ndim == 3 for array in x.values())
        return {
            name: results[node][0] if alone else results[node]
            for name, node in graph.outputs.items()
        }

    def __str__(self) -> str:
        found = [
            buffers for _, buffers in self._idle.copy() if isinstance(buffers, on_gpu.Residence)
        ]
        return "\n  ".join([f"{self.model.graph.name} on {self.device}", *map(str, found)])

    def _run(self, program: Program, inputs: Mapping[str, Array]) -> dict[str, npt.NDArray[Any]]:
        try:
            return self._run_once(program, inputs)
        except MemoryError:
            if self.device == "cpu" or not self._idle:
                raise
            self._idle.clear()  # what other shapes keep on the GPU
        return self._run_once(program, inputs)

    def _run_once(self, program: Program, inputs: Mapping[str, Array]) -> dict[str, Any]:
        buffers = self.borrow(program)
        results = program.run_all(inputs, buffers)
        self.give_back(program, buffers)
        return results

    def program(self, *inputs: Shape) -> Program:
        """The steps for inputs of these shapes; see `fcn.forecast.describe`."""
        return self._program(inputs)

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
        return compile_step(
            Group(node),
            shapes,
            self.model.weights,
            self.packed,
            algorithm=self.algorithm,
            num_threads=self.num_threads,
            device=self.device,
        )

    @overload
    def segment(
        self, image: npt.NDArray[Any], *, memory: int | str | None = None,
        band: int | None = None,
    ) -> npt.NDArray[Any]: ...  # fmt: skip

    @overload
    def segment(
        self, image: npt.NDArray[Any], *, memory: int | str | None = None,
        band: int | None = None, planes: Collection[str],
    ) -> tuple[npt.NDArray[Any], dict[str, Array]]: ...  # fmt: skip

    def segment(
        self, image: npt.NDArray[Any], *, memory: int | str | None = None,
        band: int | None = None, planes: Collection[str] | None = None,
    ) -> npt.NDArray[Any] | tuple[npt.NDArray[Any], dict[str, Array]]:  # fmt: skip
        """The class of every pixel of one picture, at the picture's own size, whatever that is.

        Parameters
        ----------
        image : ndarray, (h, w) gray or (h, w, c), uint8 or float in [0, 1]
            Gray is repeated for a network that reads several channels.
        memory : int or str, optional
            Bytes, such as ``"2GB"``, that the network may take, with the picture and the labels.
            It then runs over bands of rows that are as tall as fits, with the same result.
        band : int, optional
            Rows of a band, where you know better; rounded up to the network's total stride.
        planes : names, optional
            What to tell beside the labels: ``"margin"``, by which the largest score leads the
            second; ``"probability"`` of the class, ``max(p)`` with ``p = softmax(scores)``; and
            ``"entropy"``, ``-sum(p * log(p))`` in nats.

        Returns
        -------
        labels : ndarray, (h, w), uint8 (int32 beyond 256 classes)
            The class with the largest score; the first one where several are equal. Of a network
            with one channel 1 where the score is positive, or above 0.5 if a sigmoid makes it.
        planes : dict of str to ndarray, (h, w), float32
            Only if they are asked for. Of a network that ends in a softmax or a sigmoid, the scores
            are the probabilities.

        Raises
        ------
        ValueError, TypeError
            For an empty picture, a wrong rank, dtype or number of channels, values that are not
            finite or lie outside [0, 1], an unknown plane, or too little memory.

        Notes
        -----
        Where the network's result is not of the picture's size, the picture is continued at the
        bottom and right with its edge pixels up to multiples of the network's total stride. If the
        result is still of another size (the article's network as printed gives half of it), the
        scores, not the labels, are resized bilinearly. What was added is cut off.

        With bands, each layer keeps the rows that the next one still needs, so nothing is computed
        twice, and every bit is that of the whole picture; see `fcn.bands`.
        """
        names = None if planes is None else scores.check_planes(planes)
        if memory is not None or band is not None:
            from fcn import bands

            labels, found = bands.segment(self, image, memory, band, names)
        else:
            x = self.prepare(image)
            h, w = image.shape[:2]
            program = self.labelling(x.shape, bool(names))
            (made,) = self._run(program, {INPUT: x}).values()
            all_labels = made if program.labels else self.labels_of(made)
            labels = np.ascontiguousarray(all_labels[0, :h, :w])
            found = scores.assess(made[0, :h, :w], self.model.graph, names) if names else {}
        return labels if names is None else (labels, found)

    def profile(self, image: npt.NDArray[Any], runs: int = 5) -> Profile:
        """Measure each step of `segment` on a picture, whole.

        Parameters
        ----------
        image : ndarray, (h, w) or (h, w, c), uint8 or float in [0, 1]
        runs : int
            How often; the figures are medians. One more run comes first.

        Returns
        -------
        Profile
            ``print`` it for a table; see `fcn.profiling`.
        """
        from fcn import profiling

        return profiling.profile(self, image, runs)

    def labelling(self, shape: Shape, keep_scores: bool = False) -> Program:
        """What `segment` runs for inputs of that shape.

        It gives labels where that is possible, unless scores are wanted; else `labels_of` has to
        follow.
        """
        return self.sized(shape)._program((shape,), not keep_scores)

    def sized(self, shape: Shape) -> Session:
        """A session whose result has the size of the input: this one, or one that resizes it."""
        return self if self._fits(shape) else self._resized

    def banded(
        self, whole: Shape, labels: bool, band: int | None, limit: int | None, kept: int
    ) -> tuple[Bands, Schedule]:
        """What `segment` runs over bands of so many rows, or in so many bytes less `kept` ones."""
        return self._banded(whole, labels, band, limit, kept)

    def _schedule(
        self, whole: Shape, labels: bool, band: int | None, limit: int | None, kept: int
    ) -> tuple[Bands, Schedule]:
        from fcn.bands import Bands

        bands = Bands(self.sized(whole), whole, labels)
        if band is not None:
            return bands, bands.schedule(band)
        return bands, bands.schedule_within(limit or 0, kept)

    def labels_of(self, made: Array) -> npt.NDArray[Any]:
        """The class of each pixel, of scores."""
        return scores.labels(made, self.model.graph, self.num_threads)

    @functools.cached_property
    def _resized(self) -> Session:
        """The model with a resize to the input's size at its end."""
        graph = self.model.graph
        name = max((node.name for node in graph.nodes), key=len) + " resized"
        last = Node(name, "resize2d", (graph.output, INPUT))
        longer = Graph(graph.name, graph.channels, (*graph.nodes, last), name)
        session = Session(
            replace(self.model, graph=longer), self.num_threads, self.algorithm, self.device
        )
        session.packed = self.packed
        return session

    def prepare(self, image: npt.NDArray[Any]) -> Array:
        """A picture as the network's input: checked, normalised and continued as `segment` says.

        uint8 is divided by 255; then ``meta["mean"]`` is subtracted and the difference divided by
        ``meta["std"]``, where the model has them (numbers, or one number per channel).

        Returns
        -------
        ndarray, (1, h', w', c), float32
        """
        x = self.normalise(image)
        _, h, w, _ = self.prepared_shape(*x.shape[:2])
        extra = ((0, h - x.shape[0]), (0, w - x.shape[1]), (0, 0))
        return np.ascontiguousarray(np.pad(x, extra, mode="edge")[None])

    def normalise(self, image: npt.NDArray[Any]) -> Array:
        """A picture, or a part of one, as (h, w, c) numbers that the network expects."""
        meta = self.model.meta
        x = images.to_unit(image, self.model.graph.channels)
        x -= np.asarray(meta.get("mean", 0), np.float32)
        x /= np.asarray(meta.get("std", 1), np.float32)
        return x

    def prepared_shape(self, h: int, w: int) -> Shape:
        """Shape of what `prepare` gives for a picture of that size."""
        graph = self.model.graph
        shape = (1, h, w, graph.channels)
        if self._fits(shape):
            return shape
        stride = graph.total_stride
        return (1, h + -h % stride, w + -w % stride, graph.channels)

    def _fits(self, shape: Shape) -> bool:
        """Whether the network gives back an input of this shape at its own height and width."""
        try:
            out = self.model.graph.shapes(shape)[self.model.graph.output]
        except ValueError:  # smaller than a window
            return False
        return out[1:3] == shape[1:3]

    def _compile(self, inputs: tuple[Shape, ...], labels: bool = False) -> Program:
        make = Program if self.device == "cpu" else on_gpu.GpuProgram
        return make(
            self.model, inputs, self.packed, algorithm=self.algorithm,
            num_threads=self.num_threads, device=self.device, labels=labels,
        )  # fmt: skip

    def borrow(self, program: Program | Schedule) -> dict[str, Array]:
        """Idle buffers of this program or schedule, or new ones.

        Those of others are let go on the host; on a GPU a CUDA graph belongs to each.
        """
        others, found = [], None
        while found is None and self._idle:
            try:
                owner, buffers = self._idle.pop()
            except IndexError:  # another thread took the last
                break
            if owner is program:
                found = buffers
            elif self.device != "cpu":
                others.append((owner, buffers))
        self._idle.extendleft(others)
        return program.buffers() if found is None else found

    def give_back(self, program: Program | Schedule, buffers: dict[str, Array]) -> None:
        """Keep buffers for the next run: new memory costs a sixth of the time of all layers."""
        self._idle.append((program, buffers))
        if self.device != "cpu" and len(self._idle) > PROGRAMS:
            self._idle.popleft()

    def _checked(self, x: Array) -> Array:
        name = self.model.graph.name
        if self.device != "cpu" and (there := resident.find(x, f"running {name}")):
            return cast(Array, there)
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

"""Segment pictures of any size in bounded memory, tile by tile (`fcn.tiling`)."""

from __future__ import annotations

import bisect
import math
from typing import Any

import numpy as np
import numpy.typing as npt

import fastconv
from fcn import tiling
from fcn.graph import Shape
from fcn.session import Program, Session, arena, fusable

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20,
         "GIB": 2**30}  # fmt: skip


def segment(
    session: Session, image: npt.NDArray[Any], memory: int | str | None, tile: int | None
) -> npt.NDArray[Any]:
    """See `Session.segment`."""
    many = isinstance(image, np.ndarray) and image.ndim > 1
    session.normalise(image[:1, :1] if many else image)  # is it a picture at all?
    inner = session.before_resize or session
    whole = session.prepared_shape(*image.shape[:2])
    cutter = Cutter(inner, whole)
    if tile is not None:
        program = cutter.program(cutter.shape(tile))
    else:
        program = cutter.program_within(nbytes(memory or 0))
    results = inner.model.graph.shapes(whole)[inner.model.graph.output]
    at_size = results[1:3] == whole[1:3]
    shape = image.shape[:2] if at_size else results[1:]
    found: npt.NDArray[Any] | None = None
    buffers = program.buffers()
    rows, cols = (cutter.cuts(program.shape, axis) for axis in (0, 1))
    for r in rows:
        for c in cols:
            x = _part(session, image, (r.start, c.start), program.shape)
            scores = program.run(x, buffers)
            values = fastconv.argmax(scores, num_threads=session.num_threads) if at_size else scores
            part = values[0, r.offset : r.offset + r.high - r.low,
                          c.offset : c.offset + c.high - c.low]  # fmt: skip
            if found is None:
                found = np.empty(shape, part.dtype)
            here = found[r.low : r.high, c.low : c.high]
            here[...] = part[: here.shape[0], : here.shape[1]]
    assert found is not None
    if at_size:
        return found
    labels = session.labels_of(found[None], (whole[1], whole[2]))[0]
    return np.ascontiguousarray(labels[: image.shape[0], : image.shape[1]])


def nbytes(memory: int | str) -> int:
    """Bytes of ``"2GB"`` and its like."""
    text = str(memory).strip().upper()
    number = text.rstrip("KMGIB ")
    try:
        count = float(number) * UNITS[text[len(number) :].strip()]
    except (ValueError, KeyError):
        count = math.nan
    if not 0 < count < math.inf:
        raise ValueError(f"memory is a number of bytes, or a text such as '2GB': {memory!r}")
    return int(count)


def _part(
    session: Session, image: npt.NDArray[Any], start: tuple[int, int], shape: Shape
) -> npt.NDArray[np.float32]:
    """What `Session.prepare` would have there: behind the picture its edge goes on."""
    rows, cols = (
        np.minimum(np.arange(first, first + count), size - 1)
        for first, count, size in zip(start, shape[1:3], image.shape[:2], strict=True)
    )
    return np.ascontiguousarray(session.normalise(image[rows][:, cols])[None])


class Cutter:
    """Tiles of one input shape."""

    def __init__(self, session: Session, whole: Shape) -> None:
        self.session, self.whole = session, whole
        graph = session.model.graph
        if session.algorithm == "auto":
            pools = fusable(graph, graph.shapes(whole))
            self.algorithms = tiling.algorithms(graph, whole, pools)
        else:
            self.algorithms = {n.name: session.algorithm for n in graph.nodes if n.op == "conv2d"}
        self.unit = tiling.alignment(graph, self.algorithms)

    def shape(self, wanted: int) -> Shape:
        """Of tiles of at most that height and width."""
        n, h, w, c = self.whole
        rows, cols = (
            tiling.tile_length(size, wanted, unit)
            for size, unit in zip((h, w), self.unit, strict=True)
        )
        return n, rows, cols, c

    def program(self, shape: Shape) -> Program:
        """What tiles of that shape run."""
        return Program(
            self.session.model,
            shape,
            algorithms=self.algorithms,
            num_threads=self.session.num_threads,
        )

    def cuts(self, shape: Shape, axis: int) -> list[tiling.Cut]:
        """The tiles along an axis; ValueError if they are too small."""
        graph = self.session.model.graph
        return tiling.cuts(graph, self.whole, shape, self.unit[axis], axis, self.algorithms)

    def program_within(self, limit: int) -> Program:
        """The program of the largest tiles that take no more than `limit` bytes.

        What the weights take packed, and how scratch memory grows with the tensors, is learnt from
        programs of smaller tiles: to pack is the only way to know.
        """
        weights = 4 * self.session.model.graph.parameter_count
        lengths = list(range(min(self.unit), max(self.whole[1:3]) + min(self.unit), min(self.unit)))
        fit = bisect.bisect_left(lengths, True, key=lambda wanted: self._covers(self.shape(wanted)))
        lengths = lengths[min(fit, len(lengths) - 1) :]
        shape = self.shape(lengths[0])
        while True:
            program = self.program(shape)
            fixed, tensors, scratch = weights + program.packed_bytes, *self._moving(program)
            need = fixed + tensors + scratch
            if need > limit and shape == self.shape(lengths[0]):
                raise ValueError(
                    f"segment: the smallest tiles of {self.session.model.graph.name} take about "
                    f"{need / 1e6:.0f} MB, got memory={limit / 1e6:.0f} MB; allow more"
                )
            room = (limit - fixed) / (1 + scratch / tensors)
            more = bisect.bisect_right(lengths, room, key=lambda w: self._tensors(self.shape(w)))
            larger = self.shape(lengths[max(more - 1, 0)])
            if need <= limit and math.prod(larger) <= math.prod(shape):
                return program
            shape = larger
            if need > limit:
                lengths = lengths[: max(more, 1)]
            del program  # before the next one is packed

    def _covers(self, shape: Shape) -> bool:
        try:
            return bool(self.cuts(shape, 0) and self.cuts(shape, 1))
        except ValueError:
            return False

    def _tensors(self, shape: Shape) -> int:
        """Bytes of the input, of what lies between steps, and of the result."""
        sizes, result = arena(self.session.model.graph, shape)
        return 4 * (sum(sizes) + math.prod(result) + math.prod(shape))

    def _moving(self, program: Program) -> tuple[int, int]:
        return self._tensors(program.shape), program.scratch_bytes
